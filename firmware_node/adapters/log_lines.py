"""How log lines leave: four forms, all on standard error but the last.

``text`` for people; the same with ``<0>`` to ``<7>`` before each line when standard error is the
journal; ``json``, a document a record; ``journal``, which speaks to journald itself, so that a
notification keeps its fields.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import time
from typing import Any

from firmware_node.boundary import Notify
from firmware_node.errors import EnvironmentFailure

JOURNAL_SOCKET = "/run/systemd/journal/socket"
_TEXT = "%(levelname)s %(name)s: %(message)s"
_PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG = 7


def configure_logging(level: int, log_format: str | None, journal: str = JOURNAL_SOCKET) -> None:
    """One handler on the root logger; ``log_format`` None: text, prefixed for the journal.

    Raises:
        EnvironmentFailure: ``journal`` is wanted and no journald listens.
    """
    handler: logging.Handler = logging.StreamHandler()
    if log_format == "journal":
        handler = JournalHandler(journal)
    elif log_format == "json":
        handler.setFormatter(JsonFormatter())
    elif log_format is None and stderr_is_the_journal():
        handler.setFormatter(PrefixFormatter(_TEXT))
    else:
        handler.setFormatter(logging.Formatter(_TEXT))
    logging.basicConfig(level=level, handlers=[handler])


def stderr_is_the_journal() -> bool:
    """Whether JOURNAL_STREAM names what standard error is connected to (systemd.exec)."""
    try:
        found = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def priority(level: int) -> int:
    """A logging level as a syslog priority, 0 to 7."""
    return next((number for least, number in _PRIORITIES if level >= least), _DEBUG)


class PrefixFormatter(logging.Formatter):
    """``<4>`` before each line: what journald reads from a stream (sd-daemon)."""

    def format(self, record: logging.LogRecord) -> str:
        """See ``logging.Formatter``."""
        prefix = f"<{priority(record.levelno)}>"
        return "\n".join(prefix + line for line in super().format(record).splitlines())


class JsonFormatter(logging.Formatter):
    """One JSON document a record; a notification with its fields."""

    def format(self, record: logging.LogRecord) -> str:
        """See ``logging.Formatter``."""
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        document: dict[str, Any] = {
            "at": f"{at}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": super().format(record),
        }
        note = _notification(record)
        if note is not None:
            document |= {"event": note.name, "fields": dict(note.fields)}
        return json.dumps(document)


class JournalHandler(logging.Handler):
    """journald's native protocol: a datagram a record, a notification with its fields.

    A notification's name is FIRMWARE_NODE_EVENT, its fields are FIRMWARE_NODE_<NAME>. What
    journald does not take (too long, not there any more) goes to standard error.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(message)s"))  # the rest is in fields
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            raise EnvironmentFailure(f"{path}: no journal: {error.strerror}") from error

    def emit(self, record: logging.LogRecord) -> None:
        """See ``logging.Handler``."""
        fields: dict[str, object] = {
            "MESSAGE": self.format(record),
            "PRIORITY": priority(record.levelno),
            "SYSLOG_IDENTIFIER": "firmware-node",
            "LOGGER": record.name,
        }
        note = _notification(record)
        if note is not None:
            fields["FIRMWARE_NODE_EVENT"] = note.name
            known = {k: v for k, v in note.fields.items() if v is not None}
            fields |= {f"FIRMWARE_NODE_{k.upper()}": v for k, v in known.items()}
        try:
            self._socket.send(b"".join(_journal_field(k, str(v)) for k, v in fields.items()))
        except OSError:
            print(f"<{fields['PRIORITY']}>{fields['MESSAGE']}", file=sys.stderr)

    def close(self) -> None:
        """See ``logging.Handler``."""
        self._socket.close()
        super().close()


def _journal_field(name: str, value: str) -> bytes:
    octets = value.encode(errors="replace")
    if b"\n" not in octets:
        return name.encode() + b"=" + octets + b"\n"
    return name.encode() + b"\n" + len(octets).to_bytes(8, "little") + octets + b"\n"


def _notification(record: logging.LogRecord) -> Notify | None:
    """What ``driver.Events`` hung on the record."""
    note = getattr(record, "notification", None)
    return note if isinstance(note, Notify) else None
