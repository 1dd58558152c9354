"""One-way numbers of GBCS: our own originator counter, and the last received one of each role.

Own values are reserved a thousand at a time, ratchet first, then record, then use, so that no
value leaves twice whatever is cut (I5). A received value moves only inside the step that accepts
its command (I6). When the stores of a value are lost it is never guessed: nothing that carries a
counter is sent or accepted until a factory reset (dual-bank.md 6).
"""

from __future__ import annotations

from firmware_node.boundary import Ratchet, RatchetValues, Records
from firmware_node.errors import RecordLostError, RefusedError
from firmware_node.node.records import get_twice, put_twice
from firmware_node.terms import Role

RESERVE = 1_000  # own values a reservation; one fsync serves a thousand messages
OUT_OF_ORDER = 0x8F60
_OWN = "counter/own"


class Counters:
    """Reads lazily and keeps what it read; ``start`` is called once after the ratchet is merged."""

    def __init__(self, records: Records, ratchet: Ratchet) -> None:
        self._records = records
        self._ratchet = ratchet
        self._next = 0
        self._ceiling = 0

    @staticmethod
    def first_rows() -> dict[str, bytes]:
        """The rows that provisioning writes: every counter exists from the first day on."""
        return {_OWN: b"0"} | {_received(role): b"0" for role in Role}

    def start(self) -> None:
        """Go on at the ceiling: what was reserved before may have been used.

        Raises:
            RecordLostError: neither record nor ratchet gives the ceiling.
        """
        try:
            stored = int(get_twice(self._records, _OWN))
        except RecordLostError:
            stored = None
        try:
            ratchet = self._ratchet.read().counter_ceiling
        except RecordLostError:
            ratchet = None
        if stored is None and ratchet is None:
            raise RecordLostError("own originator counter: record and ratchet are both unreadable")
        self._reserve(max(stored or 0, ratchet or 0))  # mends the lower one
        self._next = max(self._ceiling, 1)

    def take(self) -> int:
        """The next own originator counter; its reservation is durable before its use."""
        if self._next >= self._ceiling:
            self._reserve(self._next + RESERVE)
        value, self._next = self._next, self._next + 1
        return value

    def _reserve(self, ceiling: int) -> None:
        self._ratchet.raise_now(RatchetValues(counter_ceiling=ceiling))
        put_twice(self._records, _OWN, b"%d" % ceiling)
        self._ceiling = ceiling  # last: a step that could not reserve must not leave values behind

    def check_received(self, role: Role, counter: int) -> None:
        """Refuse a replay; nothing changes.

        Raises:
            RefusedError: not above the stored value.
            RecordLostError: the stored value is lost.
        """
        held = int(get_twice(self._records, _received(role)))
        if counter <= held:
            raise RefusedError(
                OUT_OF_ORDER, "replay", f"counter {counter}, {held} was accepted from {role.name}"
            )

    def accept_received(self, role: Role, counter: int) -> None:
        """Store an authenticated command's counter, in the step that carries it out."""
        put_twice(self._records, _received(role), b"%d" % counter)

    def report(self) -> dict[str, int | None]:
        """The stored values, for ``status``; None: lost."""
        values: dict[str, int | None] = {"own_ceiling": self._ceiling}
        for role in Role:
            try:
                values[role.name.lower()] = int(get_twice(self._records, _received(role)))
            except RecordLostError:
                values[role.name.lower()] = None
        return values


def _received(role: Role) -> str:
    return f"counter/received/{role.value:03d}"
