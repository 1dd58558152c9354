"""A moment to wait for that a restart does not move.

Monotonic time ends with the process, so the record holds the moment in UTC when that is known, and
always what was left when it was set. After a restart the latter counts until UTC is learned: the
wait may then be longer than wanted, and is never shorter.
"""

from __future__ import annotations

from firmware_node.boundary import Records
from firmware_node.errors import RecordLostError
from firmware_node.node.records import decode, encode


class KeptDeadline:
    """One deadline under one record key."""

    def __init__(self, records: Records, key: str) -> None:
        self._records = records
        self._key = key
        self._utc_ms: int | None = None  # UTC at monotonic zero; None: not known yet
        self._until: int | None = None  # UTC in seconds
        self._restored = False
        self.at_ms: int | None = None  # monotonic; None: nothing to wait for

    def set(self, wait_ms: int, now_ms: int) -> None:
        """Wait that long from now."""
        self.at_ms = now_ms + wait_ms
        self._until = None if self._utc_ms is None else self._in_utc(self._utc_ms, self.at_ms)
        self._restored = False
        self._put(wait_ms)

    def restore(self, now_ms: int) -> bool:
        """Go on after a restart; False when nothing was kept, or it is lost."""
        try:
            value = self._records.get(self._key)
        except RecordLostError:
            value = None
        if value is None:
            return False
        fields = decode(value)
        self.at_ms = now_ms + fields["left_ms"]
        self._until = fields["until"]
        self._restored = True
        return True

    def learn_utc(self, utc: int, now_ms: int) -> None:
        """The time is known: a restored deadline becomes exact, a fresh one gets its UTC."""
        self._utc_ms = utc * 1000 - now_ms
        if self.at_ms is None:
            return
        if self._until is None:
            self._until = self._in_utc(self._utc_ms, self.at_ms)
            self._put(max(self.at_ms - now_ms, 0))
        elif self._restored:
            # Only ever earlier: a clock that went back must not stretch the wait.
            self.at_ms = min(self.at_ms, now_ms + max(self._until - utc, 0) * 1000)
            self._restored = False

    def clear(self) -> None:
        """Nothing is waited for any more."""
        self.at_ms = None
        self._records.delete(self._key)

    @staticmethod
    def _in_utc(utc_ms: int, at_ms: int) -> int:
        return -(-(utc_ms + at_ms) // 1000)  # rounded up: never earlier

    def _put(self, left_ms: int) -> None:
        self._records.put(self._key, encode({"until": self._until, "left_ms": left_ms}))
