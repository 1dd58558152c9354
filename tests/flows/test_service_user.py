"""A service user updates a switch and a meter: hub and daemon as processes, real requests."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from vectors import VECTORS, needs_vectors, reference_keys, reference_messages

from firmware_node.tools.keys import build_keys

HCALCS = "00-DB-12-34-56-78-90-A5"
ESME = "00-DB-12-34-56-78-90-A0"
SUPPLIER = "90-B3-D5-1F-30-01-00-00"
LIMIT_S = 60
NODE = [sys.executable, "-m", "firmware_node"]


def node(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*NODE, *arguments], capture_output=True, text=True, timeout=LIMIT_S, check=False
    )


class Rig:
    """A hub and one device in a short-named folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def file(self, name: str) -> str:
        return str(self.root / name)

    def request(self, *arguments: str) -> str:
        made = ("dcc", "request", *arguments, "--keys", self.file("keys"))
        done = node(*made, "-o", self.file("request.xml"))
        assert done.returncode == 0, done.stderr
        return self.file("request.xml")

    def send(self, file: str, *options: str, code: int = 0) -> dict[str, Any]:
        done = node("dcc", "send", file, "--hub", self.file("hub.sock"), "--json", *options)
        assert done.returncode == code, done.stderr + done.stdout
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def image(self, version: int) -> str:
        path = self.file(f"{version}.ota")
        built = ("image", "build", "--file-version", str(version), "--size", "4000", "-o", path)
        kind = ("--kind", "gb-supplier-signed", "--supplier", SUPPLIER)
        done = node(*built, *kind, "--keys", self.file("keys"))
        assert done.returncode == 0, done.stderr
        return path

    def status(self) -> dict[str, Any]:
        done = node("status", "--json", "--socket", self.file("control.sock"))
        assert done.returncode == 0, done.stderr
        status: dict[str, Any] = json.loads(done.stdout)
        return status


@pytest.fixture
def make_rig() -> Iterator[Callable[..., Rig]]:
    with tempfile.TemporaryDirectory(prefix="fn-") as name:
        root = Path(name)
        processes: list[subprocess.Popen[str]] = []

        def start(verb: str, config: str) -> None:
            (root / f"{verb}.toml").write_text(config)
            process = subprocess.Popen(
                [*NODE, verb, f"{root}/{verb}.toml"], stderr=subprocess.PIPE, text=True
            )
            processes.append(process)
            assert process.stderr is not None
            assert "ready" in process.stderr.readline()

        def make(kind: str, entity_id: str, image_type: int, files: dict[str, bytes]) -> Rig:
            (root / "keys").mkdir()
            for file, data in files.items():
                (root / "keys" / file).write_bytes(data)
            common = f'[keys]\ndirectory = "{root}/keys"\n[radio]\nair = "{root}/air.sock"\n'
            start(
                "hub",
                '[hub]\nentity_id = "00-DB-12-34-56-78-90-A2"\n'
                f'[dcc]\nsocket = "{root}/hub.sock"\n{common}',
            )
            start(
                "run",
                f'[device]\ntype = "{kind}"\nentity_id = "{entity_id}"\n'
                f"manufacturer_code = 0x121D\nimage_type = {image_type}\n"
                f'hardware_version = 0x1111\n[storage]\ndirectory = "{root}/state"\n{common}'
                f'[control]\nsocket = "{root}/control.sock"\n'
                "[ota]\nactivate_delay_ms = 100\n"
                "[activation]\nconfirm_after_s = 0\ntime_poll_pending_s = 1\n",
            )
            return Rig(root)

        yield make
        for process in processes:
            process.terminate()
        assert [process.wait(LIMIT_S) for process in processes] == [0] * len(processes)
        for process in processes:
            assert process.stderr is not None
            assert "Traceback" not in process.stderr.read()
            process.stderr.close()


def codes(answer: dict[str, Any]) -> set[tuple[str, str | None]]:
    assert all("invalid" not in (m["signature"], m["mac"]) for m in answer["messages"])
    return {(m["message_code"], m.get("alert_code")) for m in answer["messages"]}


def test_a_switch_takes_an_image_runs_it_when_told_and_says_which_version_it_runs(
    make_rig: Callable[..., Rig],
) -> None:
    rig = make_rig("hcalcs", HCALCS, 0x84, build_keys(b"service user"))
    image = rig.image(2)
    distributed = rig.send(rig.request("11.1", "--image", image, "--devices", HCALCS), "--wait")
    assert distributed["result"] == "ok"
    assert codes(distributed) == {("0128", "8F8A"), ("00CF", "8F72")}
    held = rig.status()
    assert (held["running_bank"], held["banks"]["B"]["state"]) == ("A", "verified")
    activated = rig.send(rig.request("11.3", "--from", image, "--devices", HCALCS), "--wait")
    assert activated["result"] == "ok"
    assert codes(activated) == {("0012", None)}
    assert activated["messages"][0]["fields"]["firmware_version"] == "00000002"
    version = rig.send(rig.request("11.2", "--devices", HCALCS), "--wait")
    assert version["messages"][0]["fields"]["firmware_version"] == "00000002"
    running = rig.status()
    assert (running["running_bank"], running["banks"]["B"]["state"]) == ("B", "confirmed")


def test_an_activation_at_a_time_happens_when_the_hubs_clock_gets_there(
    make_rig: Callable[..., Rig],
) -> None:
    rig = make_rig("hcalcs", HCALCS, 0x84, build_keys(b"service user"))
    image = rig.image(2)
    rig.send(rig.request("11.1", "--image", image, "--devices", HCALCS), "--wait")
    wanted = ("11.3", "--from", image, "--devices", HCALCS, "--at", "2099-01-01T00:00:00Z")
    request = rig.request(*wanted)
    with subprocess.Popen(
        [*NODE, "dcc", "send", request, "--hub", rig.file("hub.sock"), "--wait"],
        stdout=subprocess.PIPE,
        text=True,
    ) as send:
        assert send.stdout is not None
        while "accepted" not in send.stdout.readline():
            assert send.poll() is None
        assert rig.status()["running_bank"] == "A"
        set_to = ("hub", "clock", "set", "2099-01-01T00:00:01Z")
        assert node(*set_to, "--hub", rig.file("hub.sock")).returncode == 0
        rest = send.stdout.read()
        assert send.wait(LIMIT_S) == 0, rest
    assert "8F66: the image is activated" in rest
    assert "invalid" not in rest
    assert rig.status()["running_bank"] == "B"


def test_an_activation_of_another_image_is_a_no_and_changes_nothing(
    make_rig: Callable[..., Rig],
) -> None:
    rig = make_rig("hcalcs", HCALCS, 0x84, build_keys(b"service user"))
    rig.send(rig.request("11.1", "--image", rig.image(2), "--devices", HCALCS), "--wait")
    request = rig.request("11.3", "--hash", "ab" * 32, "--devices", HCALCS)
    answer = rig.send(request, "--wait", code=1)
    assert answer["result"] == "failed"
    assert answer["messages"][0]["fields"]["response_code"] == 2
    banks = rig.status()["banks"]
    assert (banks["A"]["state"], banks["B"]["state"]) == ("confirmed", "verified")


@needs_vectors
def test_the_published_requests_and_the_reference_commands_go_to_a_meter(
    make_rig: Callable[..., Rig],
) -> None:
    # Everything of the reference set but what only its owners have: the hub's and the meter's
    # own signing keys are made for the test.
    own = build_keys(b"service user")
    kept = {n: d for n, d in own.items() if n.startswith(("00db1234567890a0", "00db1234567890a2"))}
    files = reference_keys() | {n: d for n, d in kept.items() if "-ds." in n or "a2-ka" in n}
    rig = make_rig("esme", ESME, 0, files)
    published = VECTORS / "duis" / "11.1_UPDATE_FIRMWARE_REQUEST_DUIS.XML"
    answer = rig.send(str(published), "--wait")
    assert (answer["result"], answer["request_signature"]) == ("ok", "placeholder")
    assert codes(answer) == {("0128", "8F8A"), ("00CE", "8F72")}
    message = reference_messages()["CS06_11.3_IMMEDIATE_SUCCESS_COMMAND"]
    (rig.root / "command.hex").write_text(message.hex())
    carried = rig.send(rig.file("command.hex"), "--wait", code=1)
    # It means an image that nobody has.
    assert carried["messages"][0]["fields"]["response_code"] == 2
    replayed = rig.send(rig.file("command.hex"), "--wait", "--timeout", "1", code=1)
    assert replayed["messages"] == []
    later = VECTORS / "duis" / "CS06_11.3_FUTURE_DATED_SUCCESS_REQUEST_DUIS.XML"
    accepted = rig.send(str(later))
    assert accepted["result"] == "accepted"
    assert (
        bytes.fromhex(accepted["pre_command"])
        == (reference_messages()["CS06_11.3_FUTURE_DATED_SUCCESS_PRECOMMAND"])
    )
    cancelled = VECTORS / "duis" / "CS06_11.3_CANCELLATION_SUCCESS_REQUEST_DUIS.XML"
    assert rig.send(str(cancelled), "--wait")["result"] == "ok"
    assert rig.status()["pending_activation"] is None
