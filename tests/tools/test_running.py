"""What the doctor makes of a running daemon's status, and of one that does not answer."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from test_doctor import Site

from firmware_node.cli import main
from firmware_node.tools.finding import OK, PROBLEM, WARNING, Finding
from firmware_node.tools.running import findings

NOW = datetime(2026, 6, 1, tzinfo=UTC)
DEVICE: dict[str, Any] = {
    "entity_id": "00-DB-12-34-56-78-90-A4",
    "state": "idle",
    "network": {"joined": True},
    "banks": {"A": {"version": "00000001"}, "B": {"version": None}},
    "running_bank": "A",
    "outbox": 0,
    "utc": "2026-06-01T00:00:01Z",
    "last_failure": None,
    "radio": {"type": "znp", "path": "/dev/zigbee/one", "fault": None},
    "gpio": {"backend": "gpiod", "lines": {}},
    "notify": {"lab": {"type": "webhook", "waiting": 1, "failure": None}},
}
HUB: dict[str, Any] = {
    "entity_id": "00-DB-12-34-56-78-90-A2",
    "utc": "2026-06-01T00:00:01Z",
    "devices": [{}],
    "offers": [],
    "radio": {"type": "znp", "path": "/dev/zigbee/two", "fault": None},
}
AWAY = {"type": "znp", "path": "/dev/zigbee/one", "fault": "there is no such port"}
FAILURE = {"phase": "verification", "cause": "bad_hash", "at": "2026-05-31T10:00:00Z"}


def bad(status: Mapping[str, Any]) -> list[Finding]:
    return [each for each in findings(status, NOW, on_a_pi=True) if each.level != OK]


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (DEVICE, f"{DEVICE['entity_id']} runs: idle, version 00000001 in bank A"),
        (HUB, f"{HUB['entity_id']} runs: a hub, devices: 1, offers: 0"),
    ],
)
def test_a_daemon_in_order_is_one_line(status: dict[str, Any], words: str) -> None:
    assert list(findings(status, NOW, on_a_pi=True)) == [Finding("daemon", OK, words)]


@pytest.mark.parametrize(
    ("changes", "level", "found", "remedy"),
    [
        (
            {"radio": AWAY, "network": {"joined": False}, "utc": None},
            PROBLEM,
            "runs without its radio: /dev/zigbee/one: there is no such port",
            "firmware-node radio probe /dev/zigbee/one",
        ),
        ({"network": {"joined": False}, "utc": None}, WARNING, "on no network", "admit this"),
        ({"utc": None}, WARNING, "no time from the hub yet", "Time cluster"),
        (
            {"utc": "2025-06-01T00:00:00Z"},
            WARNING,
            "its clock says 2025-06-01T00:00:00Z, this machine's 2026-06-01T00:00:00Z",
            "hub clock set",
        ),
        ({"outbox": 3}, WARNING, "3 of its messages wait", "once the hub is there"),
        (
            {"notify": {"lab": {"type": "webhook", "waiting": 7, "failure": "HTTP 503"}}},
            WARNING,
            "[notify.lab]: 7 notifications undelivered: HTTP 503",
            "drop-in 20-network",
        ),
        ({"gpio": {"backend": "memory", "lines": {}}}, WARNING, "drives no pin", "[gpio] backend"),
        (
            {"state": "failed", "last_failure": FAILURE},
            WARNING,
            "its update failed: verification: bad_hash, at 2026-05-31T10:00:00Z",
            "image verify",
        ),
        (
            {"state": "reverted", "last_failure": FAILURE | {"phase": "trial", "at": None}},
            WARNING,
            "at an unknown time",
            "offer a mended one",
        ),
    ],
)
def test_each_trouble_is_one_finding_with_its_remedy(
    changes: dict[str, Any], level: str, found: str, remedy: str
) -> None:
    (finding,) = bad(DEVICE | changes)
    assert finding.level == level
    assert found in finding.found
    assert remedy in (finding.remedy or "")


def test_a_hub_without_its_stick_is_a_problem() -> None:
    (finding,) = bad(HUB | {"radio": AWAY})
    assert (finding.level, finding.check) == (PROBLEM, "daemon")


def test_a_failure_that_was_followed_by_a_success_is_past() -> None:
    status = DEVICE | {"state": "confirmed", "last_failure": FAILURE}
    assert bad(status) == []
    last = list(findings(status, NOW, on_a_pi=False))[-1]
    assert "its last failure is past: verification: bad_hash" in last.found


def test_a_socket_is_asked_closed_silent_or_without_a_listener(tmp_path: Path) -> None:
    site = Site(tmp_path)
    asked: list[Path] = []

    def answer(path: Path) -> dict[str, Any]:
        asked.append(path)
        return DEVICE | {"outbox": 1}

    def raise_(error: OSError) -> None:
        raise error

    site.machine = replace(site.machine, ask=answer)
    assert [each.found for each in site.bad()] == ["1 of its messages wait to be sent to the hub"]
    assert asked == [Path("/run/s")]
    site.machine = replace(site.machine, ask=lambda path: raise_(PermissionError()))
    assert [(each.level, each.found) for each in site.bad()] == [
        (WARNING, "/run/s is closed to lab")
    ]
    site.machine = replace(site.machine, ask=lambda path: raise_(TimeoutError()))
    assert [each.level for each in site.bad()] == [PROBLEM]
    site.machine = replace(site.machine, ask=lambda path: None)
    assert site.findings()[-1].found == "nobody runs it (systemctl start firmware-node@hcalcs)"


def test_the_command_asks_a_socket_of_the_machine(capsys: pytest.CaptureFixture[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="fn-") as name, socket.socket(socket.AF_UNIX) as alone:
        site = Site(Path(name))
        path = Path(name) / "s"
        site.change('"/run/s"', f'"{path}"')
        main(["doctor", str(site.config)])
        assert "nobody runs it" in capsys.readouterr().out
        alone.bind(str(path))  # bound, and nobody listens
        main(["doctor", str(site.config)])
        assert "nobody runs it" in capsys.readouterr().out
