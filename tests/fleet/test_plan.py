"""A plan as TOML has it: what each key becomes, and one line for every mistake."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from firmware_node.errors import ConfigError
from firmware_node.fleet.plan import overridden, read_plan
from firmware_node.fleet.terms import Plan, Shape
from firmware_node.terms import DeviceType

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "rollout.toml"
HEAD = 'name = "x"\n[fleet]\nhomes = 10\ndevices = { ppmid = 1, hcalcs = 2 }\n'
IMAGES = (
    '[[images]]\nname = "p"\ntype = "ppmid"\nversion = "00000002"\n'
    '[[images]]\nname = "h"\ntype = "hcalcs"\nversion = 3\n'
)
GOOD = HEAD + IMAGES


def plan_of(text: str) -> Plan:
    return read_plan(tomllib.loads(text))


def wave(lines: str, image: str = "p") -> str:
    return f'{GOOD}[[waves]]\nname = "a"\nimage = "{image}"\n{lines}\n'


def test_what_is_left_out_has_its_default() -> None:
    plan = plan_of(HEAD)
    devices = ((DeviceType.PPMID, 1), (DeviceType.HCALCS, 2))
    assert plan == Plan("x", Shape(10, devices))


def test_every_key_has_its_place() -> None:
    plan = plan_of(
        'name = "x"\nstart = 2026-06-01T20:00:00Z\nturn = "500ms"\nlimit = "2d"\n'
        "[fleet]\nhomes = 10\ndevices = { hcalcs = 1 }\nfirst_index = 100\nseed = 7\n"
        'start_jitter = 90\nfactory_version = "00000010"\nfactory_size = 4096\n'
        "block_size = 48\npage_size = 512\n"
        '[air]\nlatency = "7ms"\njitter = "2ms"\nloss = 2\nduplication = 3\nreordering = 4\n'
        '[[images]]\nname = "h"\ntype = "hcalcs"\nversion = "00000011"\nfile = "h.ota"\n'
        '[[pathways]]\ntype = "hcalcs"\nfrom = "00000010"\nto = "00000011"\n'
        '[[waves]]\nname = "w"\nimage = "h"\nstart = "1h"\nwindow = "22:30-06:00"\n'
        'select = { types = ["hcalcs"], homes = [101, "103-105"], percent = "20%", every = 2, '
        "members = [4] }\n"
        'concurrency = 5\nactivate = "at"\nactivate_at = "2026-06-02T04:00:00+01:00"\n'
        'timeout = "30m"\nstop_at_failures = "12.5%"\nstop_after = 3\n'
        '[[faults]]\nwhat = "hub_away"\nat = "2026-06-01T20:01:00Z"\nfor = "2m"\njitter = "10s"\n'
    )
    assert (plan.turn_ms, plan.limit_ms, plan.start_utc) == (500, 172_800_000, 833_659_200)
    assert plan.shape == Shape(10, ((DeviceType.HCALCS, 1),), 100, 7, 90_000)
    assert (plan.factory_version, plan.factory_size) == (16, 4096)
    assert (plan.block_size, plan.page_size) == (48, 512)
    assert (plan.air.latency_ms, plan.air.jitter_ms, plan.air.reordering) == (7, 2, 4)
    assert (plan.images[0].file, plan.images[0].version) == ("h.ota", 17)
    assert plan.pathways == ((DeviceType.HCALCS, 16, 17),)
    (first,) = plan.waves
    assert (first.start_ms, first.window, first.timeout_ms) == (3_600_000, (1350, 360), 1_800_000)
    assert first.activate_at_ms == 7 * 3_600_000
    assert (first.stop_at_failures, first.stop_after) == (0.125, 3)
    assert first.select.homes == ((101, 101), (103, 105))
    assert (first.select.percent, first.select.every, first.select.members) == (20, 2, (4,))
    assert (plan.faults[0].at_ms, plan.faults[0].for_ms) == (60_000, 120_000)


MISTAKES = {
    HEAD.replace('"x"', "5"): "name: found 5, expected a string with something in it",
    HEAD.replace("x", "a/b"): "name: found 'a/b', expected a name without slashes",
    'name = "x"\n[fleet]\nhomes = 1': "fleet.devices: missing key",
    "[fleet]\nhomes = 1": "name: missing key",
    HEAD + "seeed = 1": "fleet.seeed: unknown key; the nearest known key is fleet.seed",
    HEAD.replace("10", "0"): "fleet.homes: found 0, expected 1 to 1000000",
    HEAD.replace("10", '"ten"'): "fleet.homes: found 'ten', expected a whole number",
    HEAD.replace("10", "true"): "fleet.homes: found true, expected a whole number",
    HEAD.replace("ppmid", "ppmit"): (
        "fleet.devices.ppmit: unknown key; the nearest known key is fleet.devices.ppmid"
    ),
    HEAD.replace("ppmid = 1", "ppmid = 9"): "fleet.devices.ppmid: found 9, expected 0 to 8",
    HEAD.replace("{ ppmid = 1, hcalcs = 2 }", "{ ppmid = 0 }"): (
        "fleet.devices: found no device, expected at least one of ppmid or hcalcs"
    ),
    HEAD + "first_index = 999995": (
        "fleet.first_index: found 999995, and 10 homes, expected indices below 1000000"
    ),
    'name = "x"\nfleet = 3': "fleet: found 3, expected a table",
    'start = "2026-02-30T00:00:00Z"\n' + HEAD: (
        "start: found '2026-02-30T00:00:00Z', expected a time such as 2026-01-01T00:00:00Z"
    ),
    "start = 2026-02-03T00:00:00\n" + HEAD: (
        "start: found 2026-02-03 00:00:00, expected a time such as 2026-01-01T00:00:00Z"
    ),
    'turn = "1h"\n' + HEAD: "turn: found '1h', expected 100ms to 1m",
    'turn = "soon"\n' + HEAD: (
        'turn: found \'soon\', expected seconds, or a duration such as "90s" or "2h"'
    ),
    "images = [1]\n" + HEAD: "images: found a list, expected tables: [[images]]",
    HEAD + '[[images]]\nname = "p"\ntype = "esme"\nversion = 2': (
        "images[0].type: found 'esme', expected one of ppmid, hcalcs"
    ),
    HEAD + '[[images]]\nname = "p"\ntype = "ppmid"\nversion = "2"': (
        "images[0].version: found '2', expected eight hexadecimal digits"
    ),
    HEAD + '[[images]]\nname = "p"\ntype = "ppmid"\nversion = 1': (
        "images[0].version: found 00000001, expected above 00000001, which is fleet.factory_version"
    ),
    GOOD + IMAGES: "images[2].name: found 'p' again, expected another name",
    HEAD.replace(", hcalcs = 2", "") + IMAGES: (
        "images[1].type: found 'hcalcs', of which the fleet has none, expected ppmid"
        " (fleet.devices)"
    ),
    GOOD + 'behaviour = "crashloop"': (
        "images[1].behaviour: found 'crashloop', expected one of good, faulty-switch,"
        " bad-self-test, crash-loop, never-confirms, wrong-signer, newer"
    ),
    GOOD + 'file = "x.ota"\nbehaviour = "crash-loop"': (
        "images[1].behaviour: found it, expected none for an image from a file"
    ),
    GOOD + "size = 100": "images[1].size: found 100, expected 4096 to 16777216",
    GOOD + '[[pathways]]\ntype = "ppmid"\nfrom = 3\nto = 2': (
        "pathways[0].to: found 00000002, expected a version above 00000003"
    ),
    wave("") + '[[pathways]]\ntype = "ppmid"\nfrom = 3\nto = 4': (
        "waves[0].image: found 'p', version 00000002, expected a version that a pathway of a ppmid"
        " ends at"
    ),
    wave("", "q"): "waves[0].image: found 'q', expected one of p, h",
    wave("imgae = 1"): "waves[0].imgae: unknown key; the nearest known key is waves[0].image",
    wave("zzz = 1").replace("zzz", "q9"): "waves[0].q9: unknown key; known keys are name, image,"
    " select, start, window, concurrency, activate, activate_at, timeout, stop_at_failures,"
    " stop_after, with_previous",
    wave('select = { types = ["hcalcs"] }'): (
        "waves[0].select.types[0]: found 'hcalcs', expected 'ppmid', as image p is for"
    ),
    wave("select = { percent = 101 }"): ("waves[0].select.percent: found 101, expected 1 to 100"),
    wave('select = { homes = ["9-3"] }'): (
        "waves[0].select.homes[0]: found '9-3', expected a first index that is not above the last"
    ),
    wave("select = { homes = [10] }"): (
        "waves[0].select.homes[0]: found 10 to 10, expected homes of the fleet, 0 to 9"
    ),
    wave("select = { members = [30] }"): ("waves[0].select.members[0]: found 30, expected 0 to 29"),
    wave('window = "24:00-01:00"'): (
        "waves[0].window: found '24:00-01:00', expected a window of the day such as \"22:00-06:00\""
    ),
    wave('window = "01:00-01:00"'): (
        "waves[0].window: found '01:00-01:00', expected an end that differs from its beginning"
    ),
    wave('activate = "never"'): (
        "waves[0].activate: found 'never', expected \"now\": it is the hub that lets a PPMID"
        " activate"
    ),
    wave('activate = "at"', "h"): 'waves[0].activate_at: missing key; activate is "at"',
    wave('activate_at = "1h"', "h"): (
        'waves[0].activate_at: found a moment, expected none, or activate = "at"'
    ),
    wave('activate = "at"\nactivate_at = "1h"\nstart = "2h"', "h"): (
        "waves[0].activate_at: found a moment before the wave's start, expected a later one"
    ),
    wave('stop_at_failures = "120%"'): (
        'waves[0].stop_at_failures: found \'120%\', expected "0%" to "100%", or 0 to 1'
    ),
    wave("with_previous = true"): (
        "waves[0].with_previous: found the first wave, expected a wave before it"
    ),
    wave("") + '[[waves]]\nname = "a"\nimage = "h"': (
        "waves[1].name: found 'a' again, expected another name"
    ),
    wave("") + '[[waves]]\nname = "b"\nimage = "p"\nwith_previous = true': (
        "waves[1].with_previous: found a wave for a ppmid beside another one, expected waves of"
        " different types"
    ),
    wave('start = "7d"'): "waves[0].start: found '7d', expected".replace("'", "")
    + " before the limit, 7d",
    GOOD + '[[faults]]\nwhat = "power_cut"': ("faults[0].for: missing key; power_cut needs it"),
    GOOD + '[[faults]]\nwhat = "power_cat"\nfor = 1': (
        "faults[0].what: found 'power_cat', expected the name of one, such as power_cut"
    ),
    GOOD + '[[faults]]\nwhat = "silence"\nat = 3': "faults[0].at: found it, expected none for"
    " silence",
    GOOD + '[[faults]]\nwhat = "loss"\namount = 101': "faults[0].amount: found 101, expected 1 to"
    " 100",
}


@pytest.mark.parametrize("text", MISTAKES, ids=lambda text: MISTAKES[text][:50])
def test_a_mistake_is_one_line_that_says_where(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan_of(text)
    assert str(caught.value) == MISTAKES[text]


def test_a_command_line_says_it_instead() -> None:
    plan = plan_of(wave("concurrency = 20") + '[[waves]]\nname = "b"\nimage = "p"')
    other = overridden(
        plan,
        homes=3,
        devices="hcalcs=2,ppmid=1",
        first_index=40,
        seed=9,
        start_jitter="2m",
        max_concurrent=15,
    )
    devices = ((DeviceType.HCALCS, 2), (DeviceType.PPMID, 1))
    assert other.shape == Shape(3, devices, 40, 9, 120_000)
    assert [wave.concurrency for wave in other.waves] == [15, 15]
    assert overridden(plan) == plan
    assert overridden(plan, start_jitter="30").shape.start_jitter_ms == 30_000


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"homes": 0}, "--homes: found 0, expected 1 to 1000000"),
        ({"devices": "ppmid"}, "--devices: found 'ppmid', expected ppmid=1,hcalcs=1"),
        ({"devices": "esme=1"}, "--devices.esme: unknown key; known keys are ppmid, hcalcs"),
        ({"first_index": 999_999}, "--first-index: found 999999, and 10 homes, expected indices"),
        ({"seed": -1}, "--seed: found -1, expected 0 to"),
        ({"start_jitter": "x"}, "--start-jitter: found 'x', expected seconds, or a duration"),
        ({"max_concurrent": 0}, "--max-concurrent: found 0, expected 1 to"),
    ],
)
def test_an_option_that_cannot_be_is_named(option: dict[str, int | str], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        overridden(plan_of(HEAD), **option)  # type: ignore[arg-type]  # the point of the test
    assert str(caught.value).startswith(words)


def test_the_example_is_a_thousand_devices_in_waves() -> None:
    plan = plan_of(EXAMPLE.read_text(encoding="utf-8"))
    assert plan.shape.size == 1_000
    assert plan.air.loss == 2
    assert [wave.select.percent for wave in plan.waves] == [2, 2, 3, 20, 20, None, None]
    assert {rule.what for rule in plan.faults} >= {"hub_away", "power_cut", "clock_drift"}


def test_a_plan_whose_name_would_lead_a_run_out_of_its_folder_is_refused() -> None:
    tree = {"name": "../../elsewhere", "fleet": {"homes": 1}}
    with pytest.raises(ConfigError, match="without slashes"):
        read_plan(tree)
