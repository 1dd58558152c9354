"""Homes that really run, a campaign, and the views: they tell the same story."""

from __future__ import annotations

import json

from lxml import etree

from firmware_node.adapters.fleet.lines import line
from firmware_node.fleet.campaign import Campaign, Turn
from firmware_node.fleet.live import Live, campaign_state
from firmware_node.fleet.live_json import snapshot_document
from firmware_node.fleet.results import results
from firmware_node.fleet.shard import Shard
from firmware_node.fleet.stock import Stock
from firmware_node.fleet.terms import ImageSpec, Order, Plan, Selection, Shape, Wave
from firmware_node.terms import DeviceType
from firmware_node.tools import fleet_html, fleet_report

HOMES = 6
PLAN = Plan(
    "views",
    Shape(HOMES, ((DeviceType.PPMID, 1),), seed=7),
    images=(
        ImageSpec("good", DeviceType.PPMID, 2, size=2048),
        ImageSpec("bad", DeviceType.PPMID, 3, size=2048, behaviour="bad-self-test"),
    ),
    waves=(
        Wave("first", "good", Selection(homes=((0, 3),))),
        Wave("second", "bad", Selection(homes=((3, 4),))),
    ),
    factory_size=2048,
)


def test_views_and_reports_agree_with_what_happened() -> None:
    campaign, live = Campaign(PLAN), Live(PLAN)
    shard = Shard(PLAN, Stock(PLAN), range(HOMES))
    orders: list[Order] = []
    now_ms = 0
    actions: tuple[str, ...] = ("start",)
    while not campaign.is_over:
        now_ms += PLAN.turn_ms
        assert now_ms < PLAN.limit_ms
        events = shard.turn(now_ms, orders)
        orders = campaign.turn(Turn(now_ms, events, actions))
        actions = ()
        live.happened(events)
        changed = {event.member for event in events} | {order.member for order in orders}
        rows = [campaign.rows[index] for index in changed]
        live.update(now_ms, rows, campaign_state(campaign), now_ms / 10_000)
    seen = live.snapshot(0)
    document = json.loads(fleet_report.results_json(results(PLAN, campaign)))
    phases = [row.phase for row in campaign.rows]
    assert {phase: count for phase, count in seen.totals.items() if count} == {
        phase: phases.count(phase) for phase in set(phases)
    }
    assert [(wave.done, wave.failed) for wave in seen.waves] == [(4, 0), (0, 2)]
    assert seen.totals["failed"] == document["totals"]["failed"] == 2
    assert [one.cause for one in seen.failures] == [
        device["cause"] for device in document["devices"] if device["result"] == "failed"
    ]
    assert sum(seen.messages.values()) == sum(one["count"] for one in document["messages"])
    assert seen.downloaded > 0 and seen.eta_ms == 0
    assert "done, 3 done, 2 failed" in line(seen)
    assert snapshot_document(seen)["waves"][0]["done"] == 4

    root = etree.fromstring(fleet_report.junit(document))
    assert (root.get("tests"), root.get("failures")) == ("7", "2")  # one was in both waves
    page = fleet_html.html(document)
    assert 'id="total-failed">2<' in page and "the new image failed its self-test" in page
