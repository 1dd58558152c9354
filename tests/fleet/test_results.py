"""The document that reports are made from: its shape, its sums, and what it says of failures."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from stories import WAVE, Story, cs09, later, plan_of, receipt, told
from synthetic import Document, synthetic

from firmware_node.fleet.results import durations, results
from firmware_node.fleet.terms import Selection
from firmware_node.terms import DeviceType


@pytest.mark.parametrize("state", ["done", "running"])
def test_a_made_up_document_adds_up_and_is_json(state: str) -> None:
    document = synthetic(homes=200, state=state)
    assert json.loads(json.dumps(document)) == document
    totals = dict(document["totals"])
    assert totals.pop("devices") == len(document["devices"]) == 400
    totals.pop("off"), totals.pop("offers")
    assert sum(totals.values()) == 400
    assert sum(wave["size"] for wave in document["waves"]) == 400
    assert synthetic(homes=200, state=state) == document


def real() -> Document:
    """Of ten: one that failed and was mended, six done, one skipped, one hung, one left out."""
    ways = ((DeviceType.PPMID, 1, 2), (DeviceType.PPMID, 1, 3))
    one = replace(WAVE, name="one", select=Selection(members=(0, 9)))
    rest = replace(WAVE, name="rest", image="ppmid-3", select=Selection(homes=((0, 8),)))
    story = Story(plan_of(one, rest, pathways=ways))
    story.turn(
        70_000,
        told(60_000, 0, "delivered", status="discarded", request_id="ppmid-2"),
        cs09(61_000, 9),
        told(62_000, 1, "fault", what="power_cut", for_ms=5),
        told(62_000, 2, "image_running", version="00000002", trial=False),
    )
    story.turn(200_000, *(cs09(190_000, who, version=3) for who in (0, 3, 4, 5, 6, 7, 8)))
    return dict(results(story.plan, story.campaign))


def keys_of(value: object, place: str = "") -> set[str]:
    """Every key with where it stands; what is keyed by names of the plan counts as one."""
    if isinstance(value, list):
        return set().union(*(keys_of(entry, f"{place}[]") for entry in value))
    if not isinstance(value, dict):
        return set()
    names = {key: "*" if place in (".types", ".faults") else key for key in value}
    found = {f"{place}.{name}" for name in names.values()}
    return found.union(*(keys_of(value[key], f"{place}.{name}") for key, name in names.items()))


def test_the_document_has_the_shape_of_the_made_up_one() -> None:
    assert keys_of(real()) == keys_of(synthetic(homes=200))
    assert json.loads(json.dumps(real())) == real()


def test_who_failed_and_was_mended_counts_as_done_and_its_failure_is_still_told() -> None:
    document = real()
    assert document["totals"] == {
        "devices": 10,
        "done": 8,
        "failed": 0,
        "skipped": 1,
        "in_flight": 1,
        "waiting": 0,
        "not_selected": 0,
        "off": 0,
        "offers": 10,
    }
    (failure,) = document["failures"]
    assert (failure["phase"], failure["cause"]) == ("offered", "image_discarded")
    assert [who["index"] for who in failure["attempts"]] == [0]
    assert [who["index"] for who in document["skips"][0]["attempts"]] == [2]
    device = document["devices"][0]
    assert (device["result"], device["wave"], device["to_version"]) == ("done", "rest", "00000003")
    assert [attempt["result"] for attempt in device["attempts"]] == ["failed", "done"]
    assert document["faults"] == {"power_cut": 1}


def test_outcomes_are_counted_by_the_minute_they_came_in() -> None:
    one, rest = real()["waves"]
    assert one["timeline"] == [{"minute": 1, "done": 1, "failed": 1, "holding": 0}]
    assert rest["timeline"] == [{"minute": 3, "done": 7, "failed": 0, "holding": 0}]
    assert (one["state"], rest["state"], rest["in_flight"]) == ("done", "running", 1)


def test_what_a_switch_holds_until_a_moment_for_all_is_no_part_of_its_duration() -> None:
    hour_ms = 3_600_000
    wave = replace(WAVE, name="night", image="hcalcs-2", activate="at", activate_at_ms=10 * hour_ms)
    story = Story(plan_of(wave, homes=2, kind=DeviceType.HCALCS))
    begun_ms = story.campaign.attempts[0][0].begun_ms
    assert begun_ms is not None
    story.turn(130_000, receipt(125_000, 0), receipt(61_000, 1))
    held: Document = dict(results(story.plan, story.campaign))
    assert held["waves"][0]["timeline"] == [
        {"minute": 1, "done": 0, "failed": 0, "holding": 1},
        {"minute": 2, "done": 0, "failed": 0, "holding": 1},
    ]
    story.turn(10 * hour_ms + 9_000, *(later(10 * hour_ms + 4_000, who) for who in (0, 1)))
    document: Document = dict(results(story.plan, story.campaign))
    assert document["waves"][0]["timeline"][-1] == {
        "minute": 600,
        "done": 2,
        "failed": 0,
        "holding": -2,
    }
    found = [device["duration_ms"] for device in document["devices"]]
    assert found == [125_000 - begun_ms + 4_000, 61_000 - begun_ms + 4_000]
    assert document["durations"]["max_ms"] == found[0]


def test_percentiles_are_values_that_there_were() -> None:
    assert durations([]) == dict.fromkeys(durations([1]), None) | {"count": 0}
    found = durations(range(1, 201))
    assert [found[f"p{percent}_ms"] for percent in (50, 90, 99)] == [100, 180, 198]
    assert (found["min_ms"], found["max_ms"], found["mean_ms"]) == (1, 200, 100)
