"""Security log and event log: the last hundred entries of each, kept across restarts.

An entry is a row of its own, so that adding one writes one row and forgets one. The security log
cannot be cleared. Whoever forges messages could wear the medium out with entries, so more than
``ENTRIES_PER_MINUTE`` are counted and not stored; the operator is told of every one all the same.
Source: gbcs-supplement 7 (100 entries each, oldest overwritten, UTC stamps; an ESME's, taken for
all device types).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from firmware_node.boundary import Notify, Records
from firmware_node.errors import RecordLostError
from firmware_node.node.records import decode, encode
from firmware_node.wire import zcl

ENTRIES_MAX = 100
ENTRIES_PER_MINUTE = 20


class Log(Enum):
    """Which log; the value is the word in records and commands."""

    SECURITY = "security"
    EVENT = "event"


class Logs:
    """Both logs."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._next: dict[Log, int] = {}
        self._minute: dict[Log, tuple[int, int]] = {}

    def add(self, log: Log, code: int, text: str, at: int, now_ms: int) -> Notify:
        """Store an entry and give the line for our operator. ``at``: seconds since 2000-01-01."""
        if self._is_allowed(log, now_ms):
            number = self._number(log)
            entry = encode({"at": at, "code": code, "text": text})
            self._records.put(_key(log, number), entry)
            self._records.delete(_key(log, number - ENTRIES_MAX))
            self._next[log] = number + 1
        return Notify("log_entry", {"log": log.value, "code": f"{code:04X}", "text": text})

    def entries(self, log: Log) -> Sequence[dict[str, object]]:
        """What is kept, oldest first; a rotten entry says so."""
        entries: list[dict[str, object]] = []
        for key in self._records.keys(f"log/{log.value}/"):
            number = int(key.rpartition("/")[2], 16)
            try:
                value = self._records.get(key)
            except RecordLostError as lost:
                entries.append({"n": number, "at": None, "code": "", "text": str(lost)})
                continue
            assert value is not None
            fields = decode(value)
            entries.append(
                {
                    "n": number,
                    "at": zcl.utc_text(fields["at"]),
                    "code": f"{fields['code']:04X}",
                    "text": fields["text"],
                }
            )
        return entries

    def _number(self, log: Log) -> int:
        if log not in self._next:
            keys = self._records.keys(f"log/{log.value}/")
            self._next[log] = int(keys[-1].rpartition("/")[2], 16) + 1 if keys else 1
        return self._next[log]

    def _is_allowed(self, log: Log, now_ms: int) -> bool:
        since, count = self._minute.get(log, (now_ms, 0))
        if now_ms - since >= 60_000:
            since, count = now_ms, 0
        self._minute[log] = (since, count + 1)
        return count < ENTRIES_PER_MINUTE


def _key(log: Log, number: int) -> str:
    return f"log/{log.value}/{max(number, 0):08x}"
