"""One home of a fleet run once more: the same plan, the same orders, so the same run.

What a campaign ordered depended on all homes, so it is taken from the run's journal; all else
follows from plan and seed. Where the run was killed and went on, the home goes through that too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from firmware_node.fleet.home import FleetHome, Kept
from firmware_node.fleet.stock import Stock
from firmware_node.fleet.terms import Event, Order, Plan


def run_again(
    plan: Plan,
    stock: Stock,
    home: int,
    orders: Sequence[tuple[int, Order]],
    lives: Sequence[int],
    end_ms: int,
    told: Callable[[Event], None] = lambda _: None,
    tells_all: bool = False,
) -> FleetHome:
    """The home as it is at ``end_ms``; ``told`` hears every event.

    ``orders`` come with the end of the turn before; ``lives`` are the moments at which the run
    began or went on. ``tells_all``: also what a campaign has no use for.
    """
    members = tuple(member.index for member in plan.shape.members_of(home))
    kept: dict[int, Kept] = {}
    held: set[int] = set()
    street: FleetHome | None = None
    left = list(orders)
    for number, begin_ms in enumerate(lives):
        last_ms = lives[number + 1] if number + 1 < len(lives) else end_ms
        if last_ms <= begin_ms and street is not None:
            continue  # it was ended before its first turn, so nothing happened
        street = FleetHome(
            plan,
            stock,
            home,
            begin_ms=begin_ms,
            kept=kept,
            absent=frozenset(held),
            tells_all=tells_all,
        )
        while left and left[0][0] < last_ms:
            at_ms, order = left.pop(0)
            for event in street.run_to(at_ms):
                told(event)
            street.obey(order)
            if order.verb in ("pause", "remove"):
                held.add(order.member)
            elif order.verb in ("resume", "add"):
                held.discard(order.member)
        for event in street.run_to(last_ms):
            told(event)
        kept = {member: street.keep(member) for member in members}
    assert street is not None
    return street
