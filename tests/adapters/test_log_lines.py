"""How log lines leave, in each form, from the command line's logger to what is on the wire."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from firmware_node.adapters.log_lines import (
    JournalHandler,
    JsonFormatter,
    PrefixFormatter,
    priority,
)
from firmware_node.boundary import Notify
from firmware_node.errors import EnvironmentFailure

NOTE = Notify("image_refused", {"cause": "hash", "size": 8000, "bank": None})


def record(
    text: str, level: int = logging.WARNING, note: Notify | None = None
) -> logging.LogRecord:
    made = logging.LogRecord("fn.driver", level, __file__, 1, text, (), None)
    if note is not None:
        made.notification = note
    return made


def read_journal(data: bytes) -> dict[str, str]:
    """journald's native protocol, from its description, not from our writer."""
    fields: dict[str, str] = {}
    while data:
        line, _, data = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            size = int.from_bytes(data[:8], "little")
            value, data = data[8 : 8 + size], data[8 + size + 1 :]
        fields[name.decode()] = value.decode()
    return fields


@pytest.mark.parametrize(
    ("level", "number"),
    [
        (logging.CRITICAL, 2),
        (logging.ERROR, 3),
        (logging.WARNING, 4),
        (logging.INFO, 6),
        (logging.DEBUG, 7),
        (1, 7),
    ],
)
def test_levels_have_the_priorities_of_syslog(level: int, number: int) -> None:
    assert priority(level) == number


def test_each_line_of_a_record_has_its_prefix() -> None:
    formatter = PrefixFormatter("%(message)s")
    assert formatter.format(record("one\ntwo", logging.ERROR)) == "<3>one\n<3>two"


def test_a_json_line_has_the_fields_of_its_notification() -> None:
    text = JsonFormatter().format(record("refused\nreally", note=NOTE))
    assert "\n" not in text
    document = json.loads(text)
    assert document["event"] == "image_refused"
    assert document["fields"] == {"cause": "hash", "size": 8000, "bank": None}
    assert (document["level"], document["message"]) == ("warning", "refused\nreally")


def test_the_journal_gets_a_notification_field_by_field(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journald:
        journald.bind(str(tmp_path / "journal"))
        handler = JournalHandler(str(tmp_path / "journal"))
        handler.emit(record("two\nlines", note=NOTE))
        fields = read_journal(journald.recv(10_000))
        handler.close()
    assert fields == {
        "MESSAGE": "two\nlines",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "firmware-node",
        "LOGGER": "fn.driver",
        "FIRMWARE_NODE_EVENT": "image_refused",
        "FIRMWARE_NODE_CAUSE": "hash",
        "FIRMWARE_NODE_SIZE": "8000",
    }


def test_what_the_journal_does_not_take_goes_to_standard_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journald:
        journald.bind(str(tmp_path / "journal"))
        handler = JournalHandler(str(tmp_path / "journal"))
    handler.emit(record("nobody listens any more"))
    handler.close()
    assert capsys.readouterr().err == "<4>nobody listens any more\n"


def test_a_machine_without_a_journal_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFailure, match="no journal"):
        JournalHandler(str(tmp_path / "absent"))


@pytest.mark.parametrize("is_journal", [True, False])
def test_lines_have_a_prefix_only_where_standard_error_is_the_journal(
    tmp_path: Path, is_journal: bool
) -> None:
    with (tmp_path / "stderr").open("wb+") as stderr:
        found = os.fstat(stderr.fileno())
        stream = f"{found.st_dev}:{found.st_ino + (0 if is_journal else 1)}"
        done = subprocess.run(
            [sys.executable, "-m", "firmware_node", "run", "/nonexistent.toml"],
            stderr=stderr,
            env=os.environ | {"JOURNAL_STREAM": stream},
            check=False,
            timeout=30,
        )
    text = (tmp_path / "stderr").read_text()
    assert done.returncode == 2
    assert text.startswith("<3>firmware-node: " if is_journal else "firmware-node: ")
    assert text.count("\n") == 1


def test_a_daemon_writes_json_lines_when_asked(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "firmware_node", "run", "/nonexistent.toml", "--log-format", "yaml"],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 2
    assert "invalid choice: 'yaml'" in done.stderr
