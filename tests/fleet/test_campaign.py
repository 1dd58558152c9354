"""Campaigns told as stories: who is offered what and when, when it stops, and how it goes on."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stories import WAVE, Story, cs06, cs09, later, plan_of, receipt, told, waves

from firmware_node.errors import ConfigError
from firmware_node.fleet.campaign import Campaign, Turn
from firmware_node.fleet.results import results
from firmware_node.fleet.terms import Event, Order, Selection, Wave
from firmware_node.terms import DeviceType
from firmware_node.wire import firmware_messages as fm

HOUR_MS = 3_600_000
SWITCHES = Wave("switches", "hcalcs-2", timeout_ms=600_000)


def test_nothing_is_ordered_before_it_is_started() -> None:
    story = Story(plan_of(WAVE), start=False)
    assert story.turn(1_000) == []
    assert story.campaign.state == "ready"
    assert len(story.turn(2_000, actions=("start",))) == 10


def test_a_wave_begins_when_the_one_before_is_through_and_without_who_has_it() -> None:
    pilot = replace(WAVE, name="pilot", select=Selection(percent=25))
    story = Story(plan_of(pilot, replace(WAVE, name="rest")))
    first = story.offered(story.orders)
    assert len(first) == 3  # a quarter of ten, rounded up
    assert story.turn(2_000, cs09(1_500, first[0]), cs09(1_600, first[1])) == []
    rest = story.offered(story.turn(3_000, cs09(2_500, first[2], version=1, result=1)))
    assert rest == []  # it was about an earlier image: the third is still under way
    rest = story.offered(story.turn(4_000, cs09(3_500, first[2])))
    assert sorted(first + rest) == list(range(10))
    story.turn(9_000, *(cs09(8_000, member) for member in rest))
    assert story.campaign.state == "done" and story.campaign.is_over
    assert story.campaign.wake_at is None
    assert [wave.done for wave in story.campaign.waves] == [3, 7]


def test_the_draw_follows_the_seed_and_the_wave() -> None:
    def drawn(name: str, seed: int) -> list[int]:
        plan = plan_of(replace(WAVE, name=name, select=Selection(percent=10)), homes=100)
        story = Story(replace(plan, shape=replace(plan.shape, seed=seed)))
        return story.offered(story.orders)

    assert drawn("a", 1) == drawn("a", 1)
    assert len({tuple(drawn(name, seed)) for name in "ab" for seed in (1, 2)}) == 4
    assert len(set(drawn("a", 1))) == 10


def test_a_selection_is_all_of_its_parts() -> None:
    select = Selection(homes=((0, 5), (8, 9)), every=2, members=(0, 1, 4, 8))
    story = Story(plan_of(replace(WAVE, select=select)))
    assert sorted(story.offered(story.orders)) == [0, 4, 8]


def test_never_more_than_its_concurrency_are_under_way() -> None:
    story = Story(plan_of(replace(WAVE, concurrency=3)))
    assert len(story.orders) == 3
    under_way = story.offered(story.orders)
    for turn in range(1, 8):
        member = under_way.pop(0)
        under_way += story.offered(story.turn(turn * 1_000, cs09(turn * 1_000 - 1, member)))
        assert len(under_way) == story.campaign.in_flight == 3
    assert story.campaign.waves[0].at_once == 3


def test_devices_are_begun_inside_the_window_of_the_day_alone() -> None:
    # The fleet starts at midnight UTC.
    story = Story(plan_of(replace(WAVE, window=(22 * 60, 30), concurrency=4)))
    assert len(story.orders) == 4  # until half past midnight
    under_way = story.offered(story.orders)
    at_ms = HOUR_MS // 2
    assert story.turn(at_ms, *(cs09(at_ms - 1, member) for member in under_way)) == []
    assert story.campaign.wake_at == 22 * HOUR_MS
    assert len(story.turn(22 * HOUR_MS)) == 4


def test_a_wave_does_not_begin_before_its_start() -> None:
    story = Story(plan_of(replace(WAVE, start_ms=5_000)))
    assert story.orders == [] and story.campaign.wake_at == 5_000
    assert len(story.turn(5_000)) == 10


def test_who_has_no_way_to_the_version_is_skipped_and_the_others_go() -> None:
    ways = ((DeviceType.PPMID, 1, 2), (DeviceType.PPMID, 2, 3))
    story = Story(
        plan_of(
            replace(WAVE, name="first", select=Selection(members=(0, 1))),
            replace(WAVE, name="second", image="ppmid-3"),
            pathways=ways,
        )
    )
    orders = story.turn(2_000, cs09(1_000, 0), cs09(1_000, 1))
    assert sorted(story.offered(orders)) == [0, 1]
    wave = story.campaign.waves[1]
    assert (wave.size, wave.begun, wave.skipped) == (10, 2, 8)
    assert story.campaign.rows[5].cause == "no_pathway"


def test_who_was_removed_is_skipped_and_counts_as_failed_if_it_was_under_way() -> None:
    story = Story(plan_of(replace(WAVE, concurrency=1)))
    (first,) = story.offered(story.orders)
    second = story.campaign.waves[0].queue[0]
    orders = story.turn(2_000, told(1_000, second, "left"), told(1_000, first, "left"))
    assert second not in story.offered(orders)
    wave = story.campaign.waves[0]
    assert (wave.failed, wave.skipped) == (1, 1)
    assert story.campaign.rows[first].cause == story.campaign.rows[second].cause == "removed"


def test_too_many_failures_stop_it_and_what_is_under_way_is_still_counted() -> None:
    wave = replace(WAVE, concurrency=4, stop_at_failures=0.5, stop_after=3)
    story = Story(plan_of(wave))
    a, b, c, d = story.offered(story.orders)
    ends = [
        told(1_000, who, "delivered", status="transfer_failed", request_id="ppmid-2")
        for who in (a, b)
    ]
    assert len(story.turn(2_000, *ends)) == 2  # two outcomes do not mean anything yet
    assert story.turn(3_000, cs09(2_500, c)) == []
    assert (story.campaign.state, story.campaign.is_over) == ("stopped", False)
    assert story.campaign.reason == "wave all: 2 of 3 failed, more than 50 %"
    e, f = story.offered(story.orders)[4:6]
    story.turn(9_000, *(cs09(8_000, who) for who in (d, e, f)))
    assert story.campaign.is_over
    assert (story.campaign.waves[0].state, story.campaign.waves[0].done) == ("stopped", 4)
    with pytest.raises(ConfigError, match="is stopped, and cannot be started"):
        story.turn(10_000, actions=("start",))


def test_a_wave_smaller_than_stop_after_has_its_say_when_it_is_through() -> None:
    pilot = replace(WAVE, select=Selection(members=(1,)), stop_at_failures=0.5)
    story = Story(plan_of(pilot, replace(WAVE, name="rest")))
    story.turn(2_000, told(1_000, 1, "order_refused", verb="offer", reason="no such image"))
    assert story.campaign.state == "stopped"


def test_who_is_skipped_is_not_waited_for_before_too_many_failures_stop_it() -> None:
    ways = ((DeviceType.PPMID, 1, 2), (DeviceType.PPMID, 2, 3))
    first = replace(WAVE, name="first", select=Selection(members=(0,)))
    second = replace(WAVE, name="second", image="ppmid-3", stop_at_failures=0.5, concurrency=1)
    rest = replace(WAVE, name="rest", image="ppmid-3")
    story = Story(plan_of(first, second, rest, pathways=ways))
    story.turn(2_000, cs09(1_000, 0))
    assert story.turn(900_000) == []  # its time ran out; the others have no way
    assert story.campaign.reason == "wave second: 1 of 1 failed, more than 50 %"
    assert [wave.state for wave in story.campaign.waves] == ["done", "done", "waiting"]
    assert story.campaign.is_over


@pytest.mark.parametrize("percent", range(1, 100))
def test_as_many_failures_as_are_allowed_do_not_stop_it(percent: int) -> None:
    wave = replace(WAVE, stop_at_failures=percent / 100, stop_after=100)
    story = Story(plan_of(wave, homes=100))
    ends = [
        told(1_000, who, "delivered", status="transfer_failed", request_id="ppmid-2")
        for who in range(percent)
    ]
    story.turn(2_000, *(cs09(900, who) for who in range(percent, 100)), *ends)
    assert (story.campaign.state, story.campaign.waves[0].failed) == ("done", percent)


def test_no_answer_in_time_is_a_failure_in_the_phase_it_hung_in() -> None:
    story = Story(plan_of(WAVE, homes=2))
    assert story.campaign.wake_at == 600_000
    story.turn(5_000, told(4_000, 0, "download_started"), told(4_000, 1, "power_off"))
    story.turn(600_000)
    first, second = story.campaign.rows[0], story.campaign.rows[1]
    assert (first.failed_in, first.cause) == ("downloading", "no_answer_in_time")
    assert (second.failed_in, second.cause) == ("offered", "switched_off")
    assert story.campaign.is_over


def test_an_hcalcs_is_activated_when_it_has_verified_its_image() -> None:
    story = Story(plan_of(SWITCHES, homes=2, kind=DeviceType.HCALCS))
    assert story.turn(2_000, receipt(1_500, 1)) == [Order("activate", 1, "hcalcs-2", 0)]
    assert story.turn(3_000, receipt(2_500, 1)) == []  # told twice
    story.turn(4_000, cs06(3_500, 1), receipt(3_600, 0, fm.IMAGE_NOT_VERIFIED))
    assert story.campaign.is_over
    assert [row.phase for row in story.campaign.rows] == ["failed", "done"]


def test_all_hcalcs_activate_at_one_time_and_have_time_until_then() -> None:
    at = replace(SWITCHES, activate="at", activate_at_ms=10 * HOUR_MS)
    story = Story(plan_of(at, homes=2, kind=DeviceType.HCALCS))
    utc = story.plan.start_utc + 10 * 3_600
    orders = story.turn(2_000, receipt(1_500, 0)) + story.turn(9_000, receipt(8_500, 1))
    assert orders == [Order("activate", who, "hcalcs-2", utc) for who in (0, 1)]
    assert story.campaign.wake_at == 10 * HOUR_MS + SWITCHES.timeout_ms
    story.turn(10 * HOUR_MS + 5_000, later(10 * HOUR_MS, 0), later(10 * HOUR_MS, 1))
    assert story.campaign.waves[0].done == 2


def test_who_holds_its_image_until_then_counts_as_good_so_far() -> None:
    at = replace(SWITCHES, activate="at", activate_at_ms=10 * HOUR_MS)
    at = replace(at, stop_at_failures=0.4, stop_after=3)
    story = Story(plan_of(at, homes=6, kind=DeviceType.HCALCS))
    story.turn(2_000, *(receipt(1_500, who) for who in (0, 1, 2)))
    story.turn(3_000, *(receipt(2_500, who, fm.IMAGE_NOT_VERIFIED) for who in (3, 4)))
    assert story.campaign.state == "running"
    story.turn(4_000, later(3_500, 0, 1, 3))
    assert story.campaign.reason == "wave switches: 3 of 5 failed, more than 40 %"


def test_one_that_verifies_after_that_time_activates_at_once() -> None:
    at = replace(SWITCHES, activate="at", activate_at_ms=5_000)
    story = Story(plan_of(at, homes=1, kind=DeviceType.HCALCS))
    assert story.turn(9_000, receipt(8_500, 0)) == [Order("activate", 0, "hcalcs-2", 0)]


def test_images_that_are_never_activated_are_distributed_alone() -> None:
    never = replace(SWITCHES, activate="never")
    story = Story(plan_of(never, homes=1, kind=DeviceType.HCALCS))
    assert story.turn(2_000, receipt(1_500, 0)) == []
    assert story.campaign.is_over and story.campaign.waves[0].done == 1


def test_a_command_that_the_hub_could_not_carry_is_given_again() -> None:
    story = Story(plan_of(SWITCHES, homes=1, kind=DeviceType.HCALCS))
    story.turn(2_000, receipt(1_500, 0))
    story.turn(3_000, told(2_500, 0, "delivered", status="unknown_device", request_id=""))
    assert story.campaign.wake_at == 62_500
    assert story.turn(63_000) == [Order("activate", 0, "hcalcs-2", 0)]
    story.turn(64_000, told(63_500, 0, "delivered", status="no_route", request_id=""))
    story.turn(65_000, told(64_500, 0, "command_accepted", message_code="0012"))
    assert story.turn(125_000) == []


def test_a_pause_gives_no_orders_and_costs_no_time_of_who_waits_for_its_activation() -> None:
    wave = replace(SWITCHES, concurrency=2)
    story = Story(plan_of(wave, homes=3, kind=DeviceType.HCALCS))
    a, b = story.offered(story.orders)
    story.turn(2_000, actions=("pause",))
    assert story.turn(3_000, receipt(2_500, a)) == []
    assert story.turn(600_000) == []
    assert story.campaign.rows[b].cause == "no_answer_in_time"
    assert story.campaign.rows[a].ended_ms is None
    orders = story.turn(900_000, actions=("start",))
    assert orders[0] == Order("activate", a, "hcalcs-2", 0) and len(orders) == 2
    story.turn(901_000, cs06(900_500, a))
    assert story.campaign.waves[0].done == 1


def test_stopped_by_the_operator_who_waits_for_its_activation_has_failed() -> None:
    story = Story(plan_of(SWITCHES, homes=2, kind=DeviceType.HCALCS))
    assert story.turn(2_000, receipt(1_500, 0), actions=("stop",)) == []
    assert story.campaign.rows[0].cause == "campaign_stopped"
    assert story.campaign.reason == "by the operator"
    story.turn(3_000, receipt(2_500, 1))
    assert story.campaign.is_over


def test_waves_of_two_types_go_side_by_side() -> None:
    plan = plan_of(WAVE, replace(SWITCHES, with_previous=True), homes=2)
    devices = ((DeviceType.PPMID, 1), (DeviceType.HCALCS, 1))
    story = Story(replace(plan, shape=replace(plan.shape, devices=devices)))
    assert sorted(story.offered(story.orders)) == [0, 1, 2, 3]
    assert {wave.state for wave in story.campaign.waves} == {"running"}


def test_who_failed_may_be_mended_by_a_later_wave() -> None:
    story = Story(plan_of(WAVE, replace(WAVE, name="mend", image="ppmid-3"), homes=1))
    failed = told(1_000, 0, "delivered", status="discarded", request_id="ppmid-2")
    assert story.turn(2_000, failed) == [Order("offer", 0, "ppmid-3")]
    story.turn(3_000, cs09(2_500, 0, version=3))
    attempts = story.campaign.attempts[0]
    assert [attempt.result for attempt in attempts] == ["failed", "done"]
    assert story.campaign.rows[0].cause is None


def test_a_campaign_without_waves_is_done_at_once() -> None:
    assert Story(plan_of()).campaign.state == "done"


def test_an_unknown_action_is_refused() -> None:
    with pytest.raises(ConfigError, match="found 'begin', expected start, pause or stop"):
        Story(plan_of(WAVE)).turn(1_000, actions=("begin",))


def test_after_all_began_anew_each_in_flight_gets_what_it_needs() -> None:
    story = Story(plan_of(SWITCHES, homes=5, kind=DeviceType.HCALCS))
    story.turn(
        2_000,
        told(1_000, 1, "download_started"),
        *(receipt(1_500, who) for who in (2, 3, 4)),
        told(1_600, 3, "command_accepted", message_code="0012"),
        cs06(1_700, 4),
    )
    assert story.campaign.reoffer(3_000) == [
        Order("offer", 0, "hcalcs-2"),
        Order("offer", 1, "hcalcs-2"),
        Order("activate", 2, "hcalcs-2", 0),
    ]


# --- the same history gives the same state --------------------------------------------------------

PLAN = plan_of(
    replace(WAVE, name="pilot", select=Selection(percent=30), timeout_ms=20_000),
    replace(WAVE, name="mend", image="ppmid-3", concurrency=2, start_ms=30_000, timeout_ms=40_000),
    *waves("rest", image="ppmid-3", stop_at_failures=0.6, stop_after=4, timeout_ms=15_000),
    homes=6,
)


def events_at(now_ms: int) -> st.SearchStrategy[Event]:
    def one(name: str, member: int) -> Event:
        match name:
            case "cs09_2" | "cs09_3":
                return cs09(now_ms - 1, member, version=int(name[-1]))
            case "transfer_failed":
                return told(now_ms - 1, member, "delivered", status=name)
            case _:
                return told(now_ms - 1, member, name)

    names = ("cs09_2", "cs09_3", "transfer_failed", "power_off", "power_on", "left", "joined")
    return st.builds(one, st.sampled_from(names), st.integers(0, 5))


@st.composite
def histories(draw: st.DrawFn) -> list[Turn]:
    turns = [Turn(0, (), ("start",))]
    for _ in range(draw(st.integers(0, 15))):
        now_ms = turns[-1].now_ms + 1_000 * draw(st.integers(1, 20))
        events = tuple(draw(st.lists(events_at(now_ms), max_size=5)))
        actions = draw(st.sampled_from(((), (), (), ("pause",), ("stop",))))
        turns.append(Turn(now_ms, events, actions))
    return turns


@settings(max_examples=150, deadline=None)
@given(histories())
def test_turns_without_events_may_be_left_out(turns: list[Turn]) -> None:
    """Run second by second, run by its alarm alone, and gone through again: all the same."""
    given_turns = {turn.now_ms: turn for turn in turns}
    every = Campaign(PLAN)
    ordered: list[tuple[int, Order]] = []
    for now_ms in range(0, turns[-1].now_ms + 1, 1_000):
        orders = every.turn(given_turns.get(now_ms, Turn(now_ms)))
        ordered += [(now_ms, order) for order in orders]
        for wave in every.waves:
            assert not wave.wave.concurrency or wave.in_flight <= wave.wave.concurrency
            assert wave.begun == wave.in_flight + wave.done + wave.failed
    resumed = Campaign.resume(PLAN, turns)
    assert results(PLAN, resumed) == results(PLAN, every)
    assert resumed.wake_at == every.wake_at
    assert resumed.reoffer(turns[-1].now_ms) == every.reoffer(turns[-1].now_ms)
    assert len({(order.member, order.image) for _, order in ordered}) <= 12
