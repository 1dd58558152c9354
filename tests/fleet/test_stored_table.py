"""What lost frames cost by the size of blocks: a stored table, so that a change of it is looked at.

Eight homes with a PPMID each, 8 KiB, in virtual time: seconds from the offer to the outcome (the
median and the longest) and blocks that were asked for again, over all. Made by running this file.
"""

from __future__ import annotations

import statistics

import pytest

from firmware_node.fleet.campaign import Campaign, Turn
from firmware_node.fleet.shard import Shard
from firmware_node.fleet.stock import Stock
from firmware_node.fleet.terms import AirPlan, ImageSpec, Order, Plan, Shape, Wave
from firmware_node.terms import DeviceType

LOSSES = (0, 2, 5, 10)  # percent
BLOCKS = (32, 50, 63)  # bytes
Cost = tuple[float, float, int]
TABLE: dict[tuple[int, int], Cost] = {  # loss, block: median s, longest s, repeats
    (0, 32): (9.1, 9.1, 0),
    (2, 32): (65.1, 700.1, 87),
    (5, 32): (168.6, 736.1, 220),
    (10, 32): (354.1, 442.1, 498),
    (0, 50): (8.2, 8.2, 0),
    (2, 50): (46.7, 65.2, 62),
    (5, 50): (107.7, 159.2, 153),
    (10, 50): (246.2, 290.2, 318),
    (0, 63): (7.8, 7.8, 0),
    (2, 63): (38.8, 47.8, 47),
    (5, 63): (95.3, 725.8, 126),
    (10, 63): (203.3, 804.9, 256),
}


def cost(loss: int, block: int) -> Cost:
    plan = Plan(
        "table",
        Shape(8, ((DeviceType.PPMID, 1),), seed=11),
        images=(ImageSpec("p2", DeviceType.PPMID, 2, size=8_192),),
        waves=(Wave("all", "p2"),),
        air=AirPlan(loss=loss),
        factory_size=4_096,
        block_size=block,
    )
    shard = Shard(plan, Stock(plan), range(8))
    campaign = Campaign(plan)
    orders: list[Order] = []
    now_ms = 0
    actions: tuple[str, ...] = ("start",)
    while not campaign.is_over:
        now_ms += plan.turn_ms
        events = sorted(shard.turn(now_ms, orders), key=lambda event: (event.at_ms, event.member))
        orders = campaign.turn(Turn(now_ms, events, actions))
        actions = ()
    seconds = []
    for row in campaign.rows:
        (attempt,) = campaign.attempts[row.member.index]
        assert attempt.result == "done" and attempt.begun_ms is not None
        assert attempt.ended_ms is not None
        seconds.append((attempt.ended_ms - attempt.begun_ms) / 1000)
    retries = sum(row.retries for row in campaign.rows)
    return round(statistics.median(seconds), 1), round(max(seconds), 1), retries


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("block", BLOCKS)
def test_loss_costs_what_it_cost(loss: int, block: int) -> None:
    assert cost(loss, block) == TABLE[loss, block]


def test_more_loss_costs_more_and_none_costs_no_repeats() -> None:
    for block in BLOCKS:
        retries = [TABLE[loss, block][2] for loss in LOSSES]
        assert retries[0] == 0 and retries == sorted(retries)


if __name__ == "__main__":
    for block in BLOCKS:
        for loss in LOSSES:
            print(f"    ({loss}, {block}): {cost(loss, block)},")
