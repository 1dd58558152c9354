"""What people read: narrow enough for a terminal, plain elsewhere, and never a terminal's codes."""

from __future__ import annotations

import io
from typing import Any

import pytest

from firmware_node.tools import render

Output = pytest.CaptureFixture[str]
COLUMNS = 80
HASH = "49fd1a13159719933223449a939c6b17159494ea2b58cc8a394d2c18faf47d97"
STATUS: dict[str, Any] = {
    "type": "ppmid",
    "entity_id": "00-DB-12-34-56-78-90-A4",
    "state": "downloading",
    "network": {"joined": True, "short_address": 0x1A2B, "channel": 15},
    "upgrade": {
        "status": "download_in_progress",
        "file_offset": 5_000_000,
        "total_size": 10_000_000,
        "blocks_per_second": 40.0,
        "eta_seconds": 2500.0,
    },
    "banks": {
        "A": {"state": "confirmed", "version": "00000001", "sha256": HASH, "size": 1388},
        "B": {"state": "receiving", "version": "acdcacdc", "sha256": None, "size": 10_000_000},
    },
    "running_bank": "A",
    "counters": {"own_ceiling": 1001, "access_control_broker": 1795591224383, "root": 0},
    "outbox": 1,
    "last_failure": {"phase": "trial", "cause": "crash_loop", "at": "2026-11-25T07:21:06Z"},
    "waits_for": {"what": "server_data", "text": "the server's time", "seconds": 45.0},
}
EMPTY = {"state": "empty", "version": None, "sha256": None, "size": 0}
CCS08: dict[str, Any] = {
    "use_case": "CCS08",
    "message_code": "0128",
    "kind": "alert",
    "alert_code": "8F8A",
    "originator": "00-DB-12-34-56-78-90-A2",
    "signature": "valid",
    "mac": "absent",
    "fields": {
        "entity_id": "00-DB-12-34-56-78-90-A4",
        "at": "2026-11-25T07:14:13Z",
        "firmware_version": "00000002",
        "response_code": 0,
    },
}


class Terminal(io.StringIO):
    """A stream that says it is a terminal, and what it would show."""

    def isatty(self) -> bool:
        return True

    def shown(self) -> list[str]:
        """The lines, with returns of the carriage carried out."""
        return [line.rpartition("\r")[2].rstrip() for line in self.getvalue().split("\n")]


def progress(offset: int) -> dict[str, Any]:
    done = {"file_offset": offset, "total_size": 1000}
    return done | {"blocks_per_second": 7257.4, "eta_seconds": 2.04}


def lines(capsys: Output) -> list[str]:
    found = capsys.readouterr().out.splitlines()
    assert max(map(len, found)) < COLUMNS, found
    return found


def test_a_status_is_aligned_and_says_what_is_waited_for_and_what_failed(capsys: Output) -> None:
    render.status(STATUS)
    found = lines(capsys)
    assert "network      joined, address 1A2B, channel 15" in found
    assert "             [############............]  50%     40 blocks/s    41:40 left" in found
    assert "waits for    the server's time, 45 s left" in found
    assert "counters     own_ceiling 1001, access_control_broker 1795591224383" in found
    assert "last failure trial: crash_loop at 2026-11-25T07:21:06Z" in found
    assert found[-3:] == [
        "bank A       confirmed  00000001  1388 bytes  running",
        f"             {HASH}",
        "bank B       receiving  acdcacdc  10000000 bytes",
    ]


def test_a_switch_its_lines_and_a_sink_that_fails_are_told(capsys: Output) -> None:
    event = {"id": 7, "start": "A", "end": "B", "state": "closed", "in_force": True}
    switch = {"commanded": "closed", "switch": "open", "esme": 0x2002, "events": [event]}
    lines_of = {"main": {"line": 17, "on": False}, "load": {"line": 5, "on": True}}
    document = STATUS | {
        "switch": switch,
        "gpio": {"backend": "gpiod", "lines": lines_of},
        "notify": {
            "hook": {"type": "webhook", "waiting": 3, "failure": "x: HTTP 503"},
            "file": {"type": "file", "waiting": 0, "failure": None},
        },
    }
    render.status(document)
    found = lines(capsys)
    assert "switch       closed, and the firmware leaves it open; ESME 2002" in found
    assert "             event 7 in force: closed, A to B" in found
    assert "lines        main off, load on (gpiod)" in found
    assert "notify       hook: 3 wait: x: HTTP 503" in found
    assert not [line for line in found if "file" in line]
    document["switch"] = switch | {"commanded": "open", "esme": None, "events": []}
    render.status(document)
    assert "switch       open; no ESME found" in lines(capsys)


def test_a_status_without_network_failure_and_second_image_is_as_plain(capsys: Output) -> None:
    document = STATUS | {"last_failure": None, "network": {"joined": False}, "counters": {"a": 0}}
    document["upgrade"] = STATUS["upgrade"] | {"status": "normal"}
    document["banks"] = STATUS["banks"] | {"B": EMPTY}
    render.status(document)
    found = lines(capsys)
    assert {"network      not joined", "counters     none used", "last failure none"} <= set(found)
    assert found[-1] == "bank B       empty"
    render.status(document | {"radio": {"fault": "there is no such port"}})
    assert "network      the radio is away: there is no such port" in lines(capsys)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (59.4, "59 s"), (185, "3:05"), (3753, "1:02:33")],
)
def test_durations_are_told_as_people_do(seconds: float, text: str) -> None:
    assert render.duration(seconds) == text


def test_a_message_says_what_it_means_and_whether_it_can_be_trusted() -> None:
    first, *rest = render.message(CCS08).splitlines()
    assert first == "  CCS08 alert 8F8A: the file was transferred; signature valid, MAC absent"
    assert " ".join(line.strip() for line in rest) == (
        "from 00-DB-12-34-56-78-90-A2, entity_id 00-DB-12-34-56-78-90-A4, at "
        "2026-11-25T07:14:13Z, firmware_version 00000002, response_code 0"
    )


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"fields": {"response_code": 2}}, "the image is not for this hardware version"),
        ({"fields": {"response_code": 9, "firmware_version": "2"}}, "firmware version 2"),
        ({"use_case": "CS09", "fields": {"result": 1}}, "the new version is not activated"),
        (
            {
                "use_case": "CS08",
                "kind": "response",
                "fields": {"firmware_version": "3", "response_code": 0},
            },
            "firmware version 3",
        ),
        ({"use_case": "ECS01a", "fields": {"raw": "00" * 300}}, "see its fields"),
        ({"use_case": "CS06", "fields": {"accepted": True}}, "accepted"),
        ({"use_case": "CS06", "fields": {"response_code": 1}}, "no image is held"),
        ({"alert_code": "8F72", "fields": {}}, "the image was verified"),
        ({"alert_code": "8F1C", "fields": {}}, "the image was not verified"),
        ({"alert_code": "8F30", "fields": {}}, "the originator may not do that"),
        (
            {
                "use_case": "future dated firmware activation alert",
                "alert_code": "8F67",
                "fields": {"response_code": 2},
            },
            "future dated firmware activation alert 8F67: the image held has another hash",
        ),
    ],
)
def test_each_outcome_has_its_words(change: dict[str, Any], text: str) -> None:
    shown = render.message(CCS08 | change)
    assert text in shown
    assert "signature valid, MAC absent" in shown


def test_a_terminal_sees_one_bar_that_moves_and_goes() -> None:
    terminal = Terminal()
    display = render.Display(terminal)
    display.stage("distribute", "begun")
    for offset in (100, 550, 900):
        display.progress("", progress(offset))
    last = terminal.shown()
    assert (
        last[-1] == "               [#####################...]  90%   7257 blocks/s    2.0 s left"
    )
    assert max(map(len, last)) < COLUMNS
    display.stage("activate", "bank B")
    assert terminal.shown() == ["  distribute   begun", "  activate     bank B", ""]


def test_elsewhere_progress_is_a_line_for_each_tenth() -> None:
    plain = io.StringIO()
    display = render.Display(plain)
    for offset in range(0, 1001, 25):
        display.progress("", progress(offset))
    display.end()
    found = plain.getvalue().splitlines()
    assert "\r" not in plain.getvalue()
    assert [line.split("]")[1].split()[0] for line in found] == [
        f"{share}%" for share in range(10, 101, 10)
    ]


def test_a_notification_is_a_line_and_progress_has_its_speed(capsys: Output) -> None:
    head = {"n": 7, "at": "2026-11-25T07:14:13Z"}
    render.event(head | {"name": "self_test", "passed": True, "text": "a\nb\x1b[31m"})
    render.event(head | {"name": "download_progress"} | progress(500))
    assert lines(capsys) == [
        r"2026-11-25T07:14:13Z  self_test               passed=yes text=a\nb\x1b[31m",
        "2026-11-25T07:14:13Z  download_progress       50%   7257 blocks/s    2.0 s left",
    ]


def test_answers_of_the_dcc_are_told_with_their_code_and_others_stay_silent(
    capsys: Output,
) -> None:
    render.request_progress({"response": {"code": "I99", "text": "acknowledged"}})
    render.request_progress({"response": {"code": "I0", "text": None}})
    render.request_progress({"result": "ok"})
    assert lines(capsys) == ["  I99  acknowledged"]
