"""The originator counter of a party of the rig; it goes on after a restart if it has records.

Source: gbcs.md 4.3; a value that was used once is never used again.
"""

from __future__ import annotations

from firmware_node.boundary import Records


class OwnCounter:
    """Values from ``first`` on; with ``records`` never one below what an earlier life used.

    Without records the caller gives a ``first`` that rises from life to life, such as the time.
    """

    def __init__(self, first: int, records: Records | None, key: str) -> None:
        self._next = first
        self._records = records
        self._key = key

    def take(self) -> int:
        """The next value; its successor is put into the records within the same step."""
        if self._records is not None:
            self._next = max(self._next, int(self._records.get(self._key) or 0))
        value, self._next = self._next, self._next + 1
        if self._records is not None:
            self._records.put(self._key, b"%d" % self._next)
        return value
