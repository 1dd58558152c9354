"""Some homes of a fleet, run turn by turn in one process.

A shard looks only at homes for which there is something to do, so a street that waits for its
window costs nothing.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from firmware_node.fleet.home import FleetHome, Kept
from firmware_node.fleet.stock import Stock
from firmware_node.fleet.terms import Event, Order, Plan


class Shard:
    """The homes of ``homes``, by their indices."""

    def __init__(
        self,
        plan: Plan,
        stock: Stock,
        homes: Iterable[int],
        *,
        begin_ms: int = 0,
        kept: Mapping[int, Kept] | None = None,
        absent: frozenset[int] = frozenset(),
    ) -> None:
        self._plan = plan
        self._homes = {
            index: FleetHome(plan, stock, index, begin_ms=begin_ms, kept=kept, absent=absent)
            for index in homes
        }
        self._due: list[tuple[int, int]] = []
        self._due_of: dict[int, int] = {}
        self._touched: set[int] = set()
        for index in self._homes:
            self._look(index)

    @property
    def next_ms(self) -> int | None:
        """When something happens by itself in any of the homes."""
        while self._due and self._due_of.get(self._due[0][1]) != self._due[0][0]:
            heapq.heappop(self._due)
        return self._due[0][0] if self._due else None

    def turn(self, end_ms: int, orders: Sequence[Order]) -> list[Event]:
        """Obey, run to the end of the turn; the events by time and then by member."""
        due = set()
        early: dict[int, list[Event]] = {}
        for order in orders:
            index = self.home_of(order.member)
            early.setdefault(index, []).extend(
                self._homes[index].run_to(end_ms - self._plan.turn_ms)
            )
            self._homes[index].obey(order)
            due.add(index)
        while (next_ms := self.next_ms) is not None and next_ms <= end_ms:
            index = heapq.heappop(self._due)[1]
            del self._due_of[index]
            due.add(index)
        events: list[Event] = []
        for index in sorted(due):
            events += early.get(index, ())
            events += self._homes[index].run_to(end_ms)
            self._look(index)
        return events

    def home_of(self, member: int) -> int:
        """The index of a member's home."""
        shape = self._plan.shape
        return shape.first_index + member // shape.per_home

    def show(self, member: int) -> dict[str, Any]:
        """See ``FleetHome.show``."""
        return self._homes[self.home_of(member)].show(member)

    def keep_changed(self) -> dict[int, Kept]:
        """See ``FleetHome.keep_changed``."""
        changed: dict[int, Kept] = {}
        for home in self._homes.values():
            changed |= home.keep_changed()
        return changed

    def _look(self, index: int) -> None:
        """When the home is to be looked at again."""
        next_ms = self._homes[index].next_ms
        if next_ms is not None and self._due_of.get(index) != next_ms:
            self._due_of[index] = next_ms
            heapq.heappush(self._due, (next_ms, index))
