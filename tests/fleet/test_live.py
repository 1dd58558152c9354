"""What views read of a running fleet: sums, what changed since, rates, and estimates."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from pretended import PretendedFleet

from firmware_node.fleet.campaign import Campaign
from firmware_node.fleet.live import (
    HISTORY_MAX,
    PHASES,
    TURN_BUCKETS_S,
    CampaignState,
    Cell,
    Live,
    WaveState,
    campaign_state,
)
from firmware_node.fleet.live_json import fleet_document, row_document, snapshot_document
from firmware_node.fleet.terms import Event, ImageSpec, Plan, Row, Shape, Wave
from firmware_node.terms import DeviceType

TWO = Shape(2, ((DeviceType.PPMID, 1),))
PLAN = Plan(
    "plan",
    TWO,
    images=(ImageSpec("new", DeviceType.PPMID, 2),),
    waves=(Wave("one", "new"), Wave("two", "new")),
)
WAVES = (WaveState("one", "new", 2, "running"), WaveState("two", "new", 2))
RUNNING = CampaignState("running", "", WAVES)


def row(index: int, phase: str, **changes: object) -> Row:
    return replace(Row(TWO.member(index), phase), **changes)  # type: ignore[arg-type]  # by name


def test_totals_are_those_of_the_rows_and_no_member_is_counted_twice() -> None:
    fleet = PretendedFleet(homes=100)
    for _ in range(60):
        fleet.turn()
        phases = [row.phase for row in fleet.rows]
        assert fleet.snapshot().totals == {phase: phases.count(phase) for phase in PHASES}
    seen = fleet.snapshot()
    assert sum(seen.failed_by.values()) == seen.totals["failed"] > 0
    assert sum(wave.failed for wave in seen.waves) == seen.totals["failed"]
    assert sum(wave.done for wave in seen.waves) == seen.totals["done"] > 0
    assert seen.downloaded == sum(row.offset for row in fleet.rows)


def test_a_snapshot_has_each_row_that_changed_since_once_and_no_other() -> None:
    fleet = PretendedFleet(homes=50)
    fleet.turn(20)
    kept = dict(fleet.snapshot(0).rows)
    revision = fleet.snapshot().revision
    for _ in range(20):
        fleet.turn()
        seen = fleet.snapshot(revision)
        assert len({index for index, _ in seen.rows}) == len(seen.rows)
        kept |= dict(seen.rows)
        revision = seen.revision
    assert kept == dict(fleet.snapshot(0).rows)
    assert fleet.snapshot(revision).rows == ()
    assert fleet.snapshot().rows == ()


def test_a_row_that_is_told_again_as_it_was_is_no_change() -> None:
    live = Live(PLAN)
    live.update(0, [row(0, "idle")], RUNNING, 0)
    live.update(1, [row(0, "idle")], RUNNING, 1)
    assert live.snapshot().revision == 1
    assert live.snapshot(0).rows == ((0, Cell(PHASES.index("idle"))),)


def test_a_member_that_goes_on_to_another_wave_stays_done_in_the_first() -> None:
    live = Live(PLAN)
    live.update(0, [row(0, "trial", wave="one")], RUNNING, 0)
    live.update(1, [row(0, "offered", wave="two")], RUNNING, 1)
    first, second = live.snapshot().waves
    assert (first.done, first.under_way) == (1, 0)
    assert (second.done, second.under_way) == (0, 1)


def test_what_the_campaign_counts_is_more_than_what_rows_show() -> None:
    live = Live(PLAN)
    told = CampaignState("running", "", (WAVES[0]._replace(done=1, failed=1), WAVES[1]))
    live.update(0, [row(0, "off", wave="one", phase_before="done")], told, 0)
    wave = live.snapshot().waves[0]
    assert (wave.done, wave.failed) == (1, 1)
    assert wave.share == 0.5  # of one of the two it has heard


def test_estimates_follow_the_progress_and_there_is_none_while_it_rests() -> None:
    live = Live(PLAN)
    one = CampaignState("running", "", WAVES[:1])
    for second in range(3):
        told = [row(at, "downloading", wave="one", offset=second * 10, total=100) for at in (0, 1)]
        live.update(second * 10_000, told, one, second)
    seen = live.snapshot()
    assert seen.rates.speed == pytest.approx(10)
    assert seen.rates.bytes_per_second == pytest.approx(2)
    # 9 of 100 hundredths in each ten seconds, of which 82 are left.
    assert seen.eta_ms == pytest.approx(91_111, abs=1)
    assert seen.eta_s == pytest.approx(9.1, abs=0.1)
    for second in range(3, 40):
        live.update(second * 10_000, [], one, second)
    assert live.snapshot().eta_ms is None
    ended = [row(at, "done", wave="one", offset=100, total=100) for at in (0, 1)]
    live.update(400_000, ended, one, 40)
    assert live.snapshot().eta_ms == 0


def test_the_last_failures_say_where_and_why_newest_first() -> None:
    live = Live(PLAN)
    for index, cause in ((0, "self_test"), (1, "no_answer")):
        told = row(index, "failed", wave="one", failed_in="trial", cause=cause, ended_ms=index)
        live.update(index, [told], RUNNING, index)
    seen = live.snapshot()
    assert [(one.member, one.phase, one.cause) for one in seen.failures] == [
        (1, "trial", "no_answer"),
        (0, "trial", "self_test"),
    ]
    assert seen.failed_by == {"trial: no_answer": 1, "trial: self_test": 1}
    live.update(2, [row(0, "offered", wave="two")], RUNNING, 2)
    assert live.snapshot().failed_by == {"trial: no_answer": 1, "trial: self_test": 0}


def test_messages_are_counted_by_use_case_and_turns_by_how_long_they_took() -> None:
    live = Live(PLAN)
    message = Event(0, 0, "message", {"use_case": "CCS08"})
    live.happened([message, message, Event(0, 0, "joined", {})])
    live.turn_took(0.02)
    live.turn_took(50)
    seen = live.snapshot()
    assert seen.events == {"joined": 1, "message": 2}
    assert seen.messages == {"CCS08": 2}
    assert seen.turns.buckets[-1] == 2 and seen.turns.buckets[len(TURN_BUCKETS_S) - 1] == 1
    assert seen.turns.buckets[0] == 0 and seen.turns.total_s == 50.02


def test_the_curve_keeps_its_length_however_long_a_run_is() -> None:
    live = Live(PLAN)
    for turn in range(20 * HISTORY_MAX):
        live.update(turn * 1000, [], RUNNING, turn)
    points = [point[0] for point in live.snapshot().history]
    assert points == sorted(points) and points[0] == 0
    assert HISTORY_MAX // 4 < len(points) <= HISTORY_MAX + 1
    assert points[-1] == (20 * HISTORY_MAX - 1) * 1000


def test_the_state_of_a_campaign_is_its_own() -> None:
    campaign = Campaign(PLAN)
    assert campaign_state(campaign) == CampaignState(
        "ready",
        "",
        (
            WaveState("one", "new", 0, done=0, failed=0),
            WaveState("two", "new", 0, done=0, failed=0),
        ),
    )
    campaign.stop(0, "enough")
    assert campaign_state(campaign)[:2] == ("stopped", "enough")


def test_documents_are_json_and_ids_follow_from_the_places() -> None:
    fleet = PretendedFleet(homes=300)
    fleet.turn(60)
    document = json.loads(json.dumps(snapshot_document(fleet.snapshot(0))))
    assert document["totals"]["done"] == fleet.snapshot().totals["done"]
    assert all(len(entry) == 1 + len(Cell._fields) for entry in document["rows"])
    shape = Shape(70_000, ((DeviceType.PPMID, 2), (DeviceType.HCALCS, 1)), first_index=5)
    facts = fleet_document(replace(PLAN, shape=shape))
    for index in (0, 1, 2, 200_000):
        member = shape.member(index)
        place = facts["places"][index % 3]
        home = f"{index // 3 + facts['first_index']:08X}"
        pairs = "-".join(home[at : at + 2] for at in range(0, 8, 2))
        assert place["prefix"] + pairs == str(member.entity_id)
        assert place["type"] == member.type.value
    shown = row_document(row(1, "failed", failed_in="trial", cause="self_test"))
    assert shown["words"] == "the new image failed its self-test"


def test_a_delta_grows_with_what_changed_and_not_with_the_fleet() -> None:
    fleet = PretendedFleet(homes=5000)
    fleet.turn(30)
    whole = len(json.dumps(snapshot_document(fleet.snapshot(0)), separators=(",", ":")))
    assert whole < 40 * fleet.shape.size  # bytes: some numbers of each member
    revision = fleet.snapshot().revision
    changed = fleet.rows[:100]
    for one in changed:
        one.retries += 1
    fleet.live.update(fleet.now_ms + 1, changed, fleet.campaign_state(), 1000)
    seen = fleet.snapshot(revision)
    assert len(seen.rows) == 100
    assert len(json.dumps(snapshot_document(seen), separators=(",", ":"))) < whole / 20


def test_failures_that_are_told_together_are_in_the_order_of_their_time() -> None:
    shape = Shape(3, TWO.devices)
    live = Live(replace(PLAN, shape=shape))
    rows = [
        Row(shape.member(index), "failed", failed_in="trial", cause="self_test", ended_ms=ended_ms)
        for index, ended_ms in enumerate((3000, 1000, 2000))
    ]
    live.update(3000, rows, CampaignState("running"), 0)
    assert [one.member for one in live.snapshot().failures] == [0, 2, 1]


def test_an_estimate_is_not_before_the_time_at_which_a_wave_activates() -> None:
    waves = (Wave("one", "new", activate="at", activate_at_ms=3_600_000),)
    live = Live(replace(PLAN, waves=waves))
    state = WaveState("one", "new", 2, "running")
    for second in (1, 2):
        rows = [row(0, "downloading", wave="one", offset=400 * second, total=1000)]
        live.update(1000 * second, rows, CampaignState("running", "", (state,)), second)
    assert live.snapshot().eta_ms == 3_598_000
    live.update(2000, [], CampaignState("running", "", (state._replace(state="done"),)), 2)
    eta_ms = live.snapshot().eta_ms
    assert eta_ms is not None and eta_ms < 10_000


def test_a_wave_whose_members_all_have_an_outcome_is_wholly_behind() -> None:
    shape = Shape(24, TWO.devices)
    live = Live(replace(PLAN, shape=shape))
    waves = (WaveState("one", "new", shape.size, "running"),)
    for phase, offset in (("downloading", 1), ("downloading", 7), ("activating", 7), ("done", 7)):
        rows = [
            Row(shape.member(index), phase, wave="one", offset=offset, total=10 + index)
            for index in range(shape.size)
        ]
        live.update(offset, rows, CampaignState("running", "", waves), offset)
    assert live.snapshot().waves[0].share == 1.0
