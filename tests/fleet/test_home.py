"""What goes wrong in a home: rules that meet, and rules that a run was cut off in."""

from __future__ import annotations

import pytest

from firmware_node.fleet.home import FleetHome
from firmware_node.fleet.stock import Stock
from firmware_node.fleet.terms import AirPlan, Event, FaultRule, Order, Plan, Shape
from firmware_node.terms import DeviceType

PPMID, HCALCS = DeviceType.PPMID, DeviceType.HCALCS


def home_of(*faults: FaultRule, begin_ms: int = 0, jitter_ms: int = 0) -> FleetHome:
    shape = Shape(1, ((PPMID, 1), (HCALCS, 1)), seed=3, start_jitter_ms=jitter_ms)
    plan = Plan("faults", shape, faults=faults, air=AirPlan(loss=1), factory_size=4_096)
    return FleetHome(plan, Stock(plan), 0, begin_ms=begin_ms)


def names(told: list[Event], name: str) -> list[tuple[int, int]]:
    return [(event.at_ms, event.member) for event in told if event.name == name]


def test_a_hub_that_two_rules_take_away_is_back_when_both_are_over() -> None:
    home = home_of(
        FaultRule("hub_away", at_ms=10_000, for_ms=100_000),
        FaultRule("hub_away", at_ms=20_000, for_ms=10_000),
    )
    for end_ms, reachable in ((9_999, True), (15_000, False), (60_000, False), (110_000, True)):
        home.run_to(end_ms)
        assert home._world.hub_reachable is reachable, end_ms


def test_of_two_losses_the_later_one_holds_until_it_is_over() -> None:
    home = home_of(
        FaultRule("loss", at_ms=10_000, for_ms=100_000, amount=50),
        FaultRule("loss", at_ms=20_000, for_ms=10_000, amount=90),
    )
    seen = []
    for end_ms in (5_000, 15_000, 25_000, 60_000, 110_000):
        home.run_to(end_ms)
        seen.append(home._world.air.loss)
    assert seen == [1, 50, 90, 50, 1]


def test_a_supply_that_is_cut_twice_is_back_with_the_last_of_them() -> None:
    home = home_of(FaultRule("power_cut", at_ms=20_000, for_ms=300_000))
    home.run_to(30_000)
    home.obey(Order("cut", 0, amount=5_000))
    told = home.run_to(400_000)
    assert names(told, "power_on") == [(320_000, 0), (320_000, 1)]


def test_a_cut_does_not_switch_on_who_was_not_switched_on_yet() -> None:
    alone = home_of(jitter_ms=600_000).run_to(600_000)
    struck = home_of(FaultRule("power_cut", at_ms=10, for_ms=100), jitter_ms=600_000)
    assert names(struck.run_to(600_000), "image_running") == names(alone, "image_running")


def test_a_rule_makes_the_hub_misbehave_once_however_many_devices_it_has() -> None:
    (script,) = home_of(FaultRule("silence", amount=5))._script()
    assert script.times == 5


@pytest.mark.parametrize("begin_ms", [20_000, 50_000])
def test_what_a_run_was_cut_off_in_goes_on_and_is_told_once(begin_ms: int) -> None:
    home = home_of(
        FaultRule("hub_away", at_ms=20_000, for_ms=100_000),
        FaultRule("loss", at_ms=20_000, for_ms=100_000, amount=40),
        FaultRule("power_cut", at_ms=20_000, for_ms=100_000),
        begin_ms=begin_ms,
    )
    told = home.run_to(119_999)
    assert (home._world.hub_reachable, home._world.air.loss) == (False, 40)
    assert told == []
    told = home.run_to(121_000)
    assert (home._world.hub_reachable, home._world.air.loss) == (True, 1)
    assert names(told, "fault") == []
    assert {at_ms for at_ms, _ in names(told, "image_running")} == {120_000}


def test_what_was_over_when_a_run_was_cut_off_does_not_come_again() -> None:
    home = home_of(
        FaultRule("hub_away", at_ms=20_000, for_ms=10_000),
        FaultRule("power_cut", at_ms=20_000, for_ms=10_000),
        begin_ms=30_000,
    )
    assert len(names(home.run_to(31_000), "image_running")) == 2
    assert home._world.hub_reachable


def test_a_loss_without_an_end_is_there_also_when_a_run_goes_on() -> None:
    home = home_of(FaultRule("loss", at_ms=20_000, amount=40), begin_ms=50_000)
    assert home._world.air.loss == 40


def test_a_device_whose_supply_went_is_kept_with_what_the_cut_left() -> None:
    home = home_of()
    home.run_to(10_000)
    home.keep_changed()
    place = home._places[0]
    place.medium.pending.append((next(iter(place.medium.banks)), 0, b"torn" * 8))
    home.obey(Order("pause", 0))
    assert home.keep_changed() == {0: home.keep(0)}
