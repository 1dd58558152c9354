"""Runs of a fleet: over processes, through kills, by people's orders, and each device once more."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from firmware_node import cli
from firmware_node.adapters.fleet.journal import Journal
from firmware_node.adapters.fleet.run import FleetRun
from firmware_node.adapters.fleet.workers import Workers
from firmware_node.crypto import Keyring
from firmware_node.errors import ConfigError, EnvironmentFailure
from firmware_node.fleet.again import run_again
from firmware_node.fleet.campaign import Campaign, Turn
from firmware_node.fleet.home import FleetHome, Kept
from firmware_node.fleet.live import Snapshot
from firmware_node.fleet.plan import read_plan
from firmware_node.fleet.stock import Stock
from firmware_node.fleet.terms import (
    AirPlan,
    Event,
    FaultRule,
    ImageSpec,
    Order,
    Plan,
    Selection,
    Shape,
    Wave,
)
from firmware_node.terms import BankId, DeviceType
from firmware_node.tools.keys import build_keys

PPMID, HCALCS = DeviceType.PPMID, DeviceType.HCALCS
PLAN = Plan(
    "street",
    Shape(5, ((PPMID, 1), (HCALCS, 1)), seed=5, start_jitter_ms=3_000),
    images=(ImageSpec("p2", PPMID, 2, size=8_192), ImageSpec("h2", HCALCS, 2, size=8_192)),
    waves=(Wave("displays", "p2"), Wave("switches", "h2", with_previous=True)),
    faults=(
        FaultRule("power_cut", Selection(percent=40), at_ms=20_000, for_ms=30_000, jitter_ms=9_000),
        FaultRule("cut_at_call", Selection(percent=40), at_ms=5_000, amount=7),
        FaultRule("clock_drift", Selection(percent=50), amount=300),
        FaultRule("silence", Selection(every=2), amount=2),
        FaultRule("hub_away", Selection(homes=((3, 3),)), at_ms=10_000, for_ms=60_000),
        FaultRule("loss", Selection(homes=((4, 4),)), at_ms=10_000, for_ms=60_000, amount=30),
    ),
    air=AirPlan(loss=2, jitter_ms=10, duplication=2, reordering=2),
    factory_size=4_096,
)
TOML = """
name = "street"
[fleet]
homes = 6
devices = { ppmid = 1, hcalcs = 1 }
seed = 11
factory_size = 4096
[air]
loss = 2
[[images]]
name = "p2"
type = "ppmid"
version = 2
size = 8192
[[images]]
name = "h2"
type = "hcalcs"
version = 2
size = 8192
[[waves]]
name = "displays"
image = "p2"
concurrency = 3
[[waves]]
name = "switches"
image = "h2"
concurrency = 3
[[faults]]
what = "power_cut"
select = { percent = 50 }
at = "20s"
jitter = "2m"
for = "30s"
"""
LIMIT_S = 120
OPTIONS = ("homes", "devices", "first_index", "seed", "start_jitter", "max_concurrent")


def through(workers: Workers, plan: Plan) -> tuple[Campaign, list[Event]]:
    """The campaign to its end, with everything that happened."""
    campaign = Campaign(plan)
    orders: list[Order] = []
    told: list[Event] = []
    now_ms = 0
    actions: tuple[str, ...] = ("start",)
    while not campaign.is_over:
        now_ms += plan.turn_ms
        assert now_ms < plan.limit_ms
        events = workers.turn(now_ms, orders)
        told += events
        orders = campaign.turn(Turn(now_ms, events, actions))
        actions = ()
    return campaign, told


def test_what_happens_does_not_depend_on_how_many_processes_there_are() -> None:
    runs = []
    for count in (1, 2, 3):
        with Workers(PLAN, count) as workers:
            campaign, told = through(workers, PLAN)
            kept = workers.keep_changed()
        runs.append((told, [(row.phase, row.version) for row in campaign.rows], kept))
    assert runs[0] == runs[1] == runs[2]
    happened = {event.fields.get("what") for event in runs[0][0] if event.name == "fault"}
    assert happened == {"power_cut", "cut_at_call", "hub_away", "loss"}
    assert runs[0][1] == [("done", 2)] * 10


def test_a_worker_that_dies_ends_the_run_in_words_and_leaves_no_other() -> None:
    with Workers(PLAN, 2) as workers:
        workers.ready()
        processes = workers._processes
        processes[1].kill()
        with pytest.raises(Exception, match="worker 1 ended, exit code -9"):
            workers.show(2)
    assert [process.returncode for process in processes] == [0, -9]


def test_a_worker_that_cannot_begin_is_told_of_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")  # as one that has no memory left
    with pytest.raises(EnvironmentFailure, match="worker 0 ended, exit code 1"):
        Workers(PLAN, 2, files={"more than a pipe holds": bytes(1024 * 1024)})


def test_devices_of_a_seed_have_the_keys_that_a_key_folder_of_that_seed_has() -> None:
    stock = Stock(PLAN)
    member = PLAN.shape.member(3)
    folder = Keyring(build_keys(b"fleet 5", devices=(member.entity_id,)))
    data = b"a message"
    signature = stock.keyring.signing_key(member.entity_id).sign(data)
    assert folder.verify_key(member.entity_id).is_valid(signature, data)
    assert stock.keyring.shared_secret(member.entity_id, stock.acb) == folder.shared_secret(
        stock.acb, member.entity_id
    )


def test_equal_pages_of_all_devices_are_one_object_also_after_an_update() -> None:
    plan = Plan(
        "pages",
        Shape(3, ((PPMID, 1),)),
        images=(ImageSpec("p2", PPMID, 2, size=20_000),),
    )
    stock = Stock(plan)
    homes = [FleetHome(plan, stock, number) for number in range(3)]
    for number, home in enumerate(homes):
        home.run_to(10_000)
        home.obey(Order("offer", number, "p2"))
        home.run_to(200_000)
    banks = [home.keep(number).banks[1] for number, home in enumerate(homes)]
    whole = len(stock.wares["p2"].ota_file) // 4096
    assert whole == 4
    for page in range(whole + 1):
        assert banks[0][page] is banks[1][page] is banks[2][page]


def test_a_device_that_is_put_back_to_what_it_kept_goes_on_with_its_download() -> None:
    plan = Plan("kept", Shape(1, ((PPMID, 1),)), images=(ImageSpec("p2", PPMID, 2, size=300_000),))
    stock = Stock(plan)
    home = FleetHome(plan, stock, 0)
    home.run_to(10_000)
    home.obey(Order("offer", 0, "p2"))
    home.run_to(30_000)
    kept = home.keep(0)
    again = FleetHome(plan, stock, 0, begin_ms=30_000, kept={0: kept})
    told = again.run_to(31_000)
    again.obey(Order("offer", 0, "p2"))
    told += again.run_to(200_000)
    (first,) = [event.fields for event in told if event.name == "download_kept"]
    assert int(str(first["file_offset"])) >= 65_536
    assert again.show(0)["banks"][BankId.B.value]["state"] == "confirmed"


def test_a_life_that_ended_before_its_first_turn_is_left_out_when_it_is_played_again() -> None:
    plan = replace(PLAN, shape=replace(PLAN.shape, start_jitter_ms=0))
    stock = Stock(plan)
    once: list[Event] = []
    again: list[Event] = []
    run_again(plan, stock, 0, (), [0, 20_000], 30_000, once.append)
    run_again(plan, stock, 0, (), [0, 20_000, 20_000, 30_000], 30_000, again.append)
    assert [event.at_ms for event in once if event.name == "image_running"] == [
        0,
        0,
        20_000,
        20_000,
    ]
    assert again == once


class Nothing:
    """A terminal that nobody looks at."""

    def show(self, snapshot: Snapshot, wall_s: float) -> None:
        """See ``run.View``."""

    def end(self, snapshot: Snapshot) -> None:
        """See ``run.View``."""


class Deaf:
    """Homes in which nothing happens."""

    next_ms: int | None = None

    def turn(self, end_ms: int, orders: Sequence[Order]) -> list[Event]:
        """See ``run.Homes``."""
        return []

    def show(self, member: int) -> dict[str, Any]:
        """See ``run.Homes``."""
        return {}

    def keep_changed(self) -> dict[int, Kept]:
        """See ``run.Homes``."""
        return {}


def test_a_campaign_that_is_being_stopped_takes_nothing_more_and_the_run_goes_to_its_end(
    tmp_path: Path,
) -> None:
    async def steered() -> str:
        run = FleetRun(PLAN, Deaf(), Campaign(PLAN), journal, Nothing())
        await run.campaign_action("start")
        await run.campaign_action("stop")
        with pytest.raises(ConfigError, match="is being stopped"):
            await run.campaign_action("start")
        return await run.run()

    with contextlib.closing(Journal.create(tmp_path / "journal.sqlite", {})) as journal:
        assert asyncio.run(steered()) == "stopped"
        (turn,) = journal.turns()
        assert turn.actions == ("start", "start", "stop")


# --- as people run it -----------------------------------------------------------------------------


class Place:
    """A folder with a plan in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plan = folder / "street.toml"
        self.plan.write_text(TOML)
        self.state = folder / "fleet-street"
        self.environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """A command that goes on."""
        return subprocess.Popen(
            [sys.executable, "-m", "firmware_node", *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def node(self, *arguments: str, code: int = 0) -> str:
        """A command to its end; what it printed."""
        with self.start(*arguments) as process:
            out, err = process.communicate(timeout=LIMIT_S)
        assert process.returncode == code, (arguments, out, err)
        return out or err

    def results(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.state / "results.json").read_text())
        return document

    def until_under_way(self, *where: str) -> None:
        """Until a run that was just started answers."""
        end = time.monotonic() + LIMIT_S
        while time.monotonic() < end:
            with contextlib.suppress(AssertionError):
                if json.loads(self.node("fleet", "list", "--json", *where))["now_ms"] > 5_000:
                    return
            time.sleep(0.1)
        raise AssertionError("the run does not answer")

    def all_replay(self, devices: Sequence[int]) -> None:
        for device in devices:
            last = self.node("rig", "replay", "11", "--device", str(device)).splitlines()[-1]
            assert last.endswith("as they were recorded")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    # A Unix socket's name is short.
    return Place(tmp_path if len(str(tmp_path)) < 60 else Path(os.path.relpath(tmp_path)))


def test_a_plan_is_run_and_reported_and_each_device_can_be_played_again(place: Place) -> None:
    said = place.node("fleet", "run", "street.toml")
    assert "the campaign is over\n12 devices, 12 done, 0 failed" in said
    first = (place.state / "results.json").read_bytes()
    assert place.results()["totals"]["done"] == 12
    place.all_replay(range(0, 12, 3))
    for name in ("junit.xml", "report.html"):
        (place.state / name).unlink()
    assert place.node("fleet", "report").count("\n") == 3
    assert (place.state / "report.html").exists()
    # Again, over other processes: the same to the octet.
    told = json.loads(place.node("fleet", "run", "street.toml", "--shards", "1", "--json"))
    assert told == place.results()
    assert (place.state / "results.json").read_bytes() == first
    assert not (place.state / "control.sock").exists()


def test_failures_and_wrong_plans_have_their_exit_codes(place: Place) -> None:
    bad = TOML.replace('image = "h2"', 'image = "h3"')
    place.plan.write_text(bad)
    said = place.node("fleet", "run", "street.toml", code=2)
    assert "street.toml: waves[1].image: " in said and said.count("\n") == 1
    place.plan.write_text(
        TOML.replace(
            "version = 2\nsize = 8192\n[[waves]]",
            'version = 2\nsize = 8192\nbehaviour = "bad-self-test"\n[[waves]]',
        )
    )
    place.node("fleet", "run", "street.toml", "--homes", "2", code=1)
    totals = place.results()["totals"]
    assert (totals["done"], totals["failed"]) == (2, 2)
    failure = place.results()["failures"][0]
    assert (failure["phase"], failure["cause"], failure["count"]) == ("trial", "self_test", 2)
    assert "no fleet run was begun" in place.node(
        "fleet", "run", "street.toml", "--resume", "--state", "elsewhere", code=2
    )


@pytest.mark.parametrize("seed", range(2))
def test_a_run_that_is_killed_goes_on_and_uses_no_counter_for_two_messages(
    place: Place, seed: int
) -> None:
    draw = random.Random(seed)
    arguments = ["fleet", "run", "street.toml", "--no-web", "--speed", "20"]
    for _ in range(2):
        process = place.start(*arguments)
        place.until_under_way()
        time.sleep(draw.uniform(0.5, 2.5))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -9, "it was over before"
        arguments = ["fleet", "run", "street.toml", "--no-web", "--speed", "20", "--resume"]
    refused = place.node("fleet", "run", "street.toml", code=2)
    assert "a run was cut off there; --resume goes on with it" in refused
    place.node("fleet", "run", "street.toml", "--resume")
    assert place.results()["totals"]["done"] == 12
    with contextlib.closing(Journal.open(place.state / "journal.sqlite")) as journal:
        assert len(journal.lives()) == 3
        said: dict[tuple[object, ...], object] = {}
        for event in journal.events(range(12)):
            if event.name == "message" and "entity_id" not in event.fields:  # not the hub's
                # One that was sent and not yet struck off comes again, and is the same.
                used = (event.member, event.fields["message_code"], event.fields["counter"])
                assert said.setdefault(used, event.fields) == event.fields
    place.all_replay(range(1, 12, 4))


def test_people_cut_pause_remove_and_look_while_it_runs(place: Place) -> None:
    process = place.start("fleet", "run", "street.toml", "--no-web", "--speed", "30")
    try:
        place.until_under_way()
        busy = place.node("fleet", "run", "street.toml", code=3)
        assert "a run goes on there" in busy
        listed = json.loads(place.node("fleet", "list", "--json"))["devices"]
        assert [device["index"] for device in listed] == list(range(12))
        name = listed[1]["entity_id"]
        assert place.node("fleet", "cut", name, "--for", "10s") == f"cut {name} in the next turn\n"
        place.node("fleet", "pause", "3")
        place.node("fleet", "remove", "5")
        place.node("fleet", "campaign", "pause")
        shown: dict[str, Any] = {"status": {}}
        while "banks" not in shown["status"]:  # until its supply is back
            shown = json.loads(place.node("fleet", "show", name, "--json"))
        assert "power_off" in [event["name"] for event in shown["events"]]
        assert shown["status"]["banks"]["A"]["version"] == "00000001"
        assert json.loads(place.node("fleet", "show", "3", "--json"))["phase"] == "off"
        place.node("fleet", "resume", "3")
        place.node("fleet", "campaign", "start")
        assert "expected 0 to" in place.node("fleet", "cut", "2", "--for", "2d", code=1)
        assert "not in this fleet" in place.node("fleet", "show", "00-DB-12-50-00-00-00-63", code=2)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=LIMIT_S)
        assert (process.returncode, "go on with" in out) == (130, True)
    finally:
        process.kill()
        process.communicate()
    place.node("fleet", "run", "street.toml", "--resume")  # who was taken out is no failure
    devices = place.results()["devices"]
    assert [device["index"] for device in devices if device["phase"] != "done"] == [5]
    place.all_replay((1, 3, 5))


def test_the_log_names_the_device_of_every_event_and_follows_a_run(place: Place) -> None:
    process = place.start("fleet", "run", "street.toml", "--no-web")
    while process.poll() is None and not (place.state / "control.sock").exists():
        time.sleep(0.05)
    followed = place.node("fleet", "log", "--follow").splitlines()  # to the end of the run
    process.communicate()
    assert followed == place.node("fleet", "log").splitlines()
    documents = [json.loads(line) for line in place.node("fleet", "log", "--json").splitlines()]
    told = [f"{one['at']} {one['entity_id']} {one['name']}" for one in documents]
    assert [" ".join(line.split()[:3]) for line in followed] == told
    name = documents[-1]["entity_id"]
    alone = [line for line in followed if line.split()[1] == name]
    assert place.node("fleet", "log", name).splitlines() == alone
    assert 0 < len(alone) < len(followed)


def test_times_that_ran_out_at_the_end_are_in_a_report_that_is_written_again(place: Place) -> None:
    plan = TOML.replace('image = "h2"', 'image = "h2"\ntimeout = "10m"')
    away = '[[faults]]\nwhat = "hub_away"\nselect = { homes = [2] }\nat = "1m"\nfor = "1d"\n'
    place.plan.write_text(plan.replace("[[faults]]", f"{away}[[faults]]", 1))
    place.node("fleet", "run", "street.toml", "--no-web", code=1)
    first = (place.state / "results.json").read_bytes()
    assert place.results()["totals"]["failed"] > 0
    place.node("fleet", "report")
    assert (place.state / "results.json").read_bytes() == first


def test_a_run_in_a_folder_of_its_own_goes_on_from_that_folder_alone(place: Place) -> None:
    arguments = ["fleet", "run", "street.toml", "--no-web", "--state", "other", "--homes", "5"]
    process = place.start(*arguments, "--speed", "10")
    place.until_under_way("--state", "other")
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate()
    assert "go on with: firmware-node fleet run other --resume" in out
    other = place.node("fleet", "run", "other", "--resume", "--homes", "3", code=2)
    assert "--homes: found 3, but the run was begun with 5" in other
    assert "10 devices, 10 done" in place.node("fleet", "run", "other", "--resume")
    assert not place.state.exists()


def test_what_two_devices_do_at_the_end_of_one_turn_replays_whoever_was_ordered_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = TOML.split("[[faults]]")[0]
    text += '[[faults]]\nwhat = "power_cut"\nselect = { types = ["hcalcs"] }\nat = 5\nfor = 1\n'
    plan = read_plan(tomllib.loads(text))
    about = {"plan": text, "options": json.dumps(dict.fromkeys(OPTIONS)), "where": "street.toml"}
    with (
        contextlib.closing(Journal.create(tmp_path / "journal.sqlite", about)) as journal,
        Workers(plan, 1) as workers,
    ):
        for now_ms in range(1_000, 10_000, 1_000):
            orders = [Order("cut", 0, amount=3_000)] if now_ms == 6_000 else []
            journal.put_orders(now_ms - 1_000, orders)
            journal.put_turn(Turn(now_ms, workers.turn(now_ms, orders)))
        journal.commit(9_000)
    assert cli.main(["rig", "replay", "11", "--device", "0", "--state", str(tmp_path)]) == 0
    assert capsys.readouterr().out.endswith("as they were recorded\n")


def test_what_cannot_be_is_told_before_a_run_is_begun(place: Place) -> None:
    place.plan.write_text(TOML.replace("size = 8192", 'file = "p.ota"', 1))
    assert "image p2: " in place.node("fleet", "run", "street.toml", code=2)
    place.node("image", "build", "-o", "p.ota", "--file-version", "00000005")
    said = place.node("fleet", "run", "street.toml", code=2)
    assert "expected file version 00000002, found 00000005" in said and said.count("\n") == 1
    with (place.folder / "p.ota").open("r+b") as file:
        file.truncate(100 * 1024 * 1024)
    assert "expected at most" in place.node("fleet", "run", "street.toml", code=2)
    place.plan.write_text(TOML)
    for wrong in (
        ("--metrics", "65536"),
        ("--metrics", "-1"),
        ("--web", "127.0.0.1:" + "9" * 5_000),
        ("--shards", "0"),
        ("--speed", "nan"),
    ):
        said = place.node("fleet", "run", "street.toml", "=".join(wrong), code=2)
        assert said.startswith(f"firmware-node: {wrong[0]}: expected"), said
    assert not (place.state / "journal.sqlite").exists()
    # Nothing was done before this is found out, so nothing is in the way of the next one.
    place.node("fleet", "run", "street.toml", "--web", "0.0.0.0:0", code=2)
    place.node("fleet", "run", "street.toml", "--no-web")


@pytest.mark.parametrize("killed", [True, False])
def test_whatever_ends_a_run_its_workers_end_without_a_word(place: Place, killed: bool) -> None:
    process = place.start("fleet", "run", "street.toml", "--no-web", "--speed", "10")
    place.until_under_way()
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert children
    if killed:
        process.kill()
    else:  # as a service manager does it: everybody at once
        for pid in (*map(int, children), process.pid):
            os.kill(pid, signal.SIGTERM)
    _, err = process.communicate(timeout=LIMIT_S)  # the workers have its stderr too
    assert (process.returncode, err) == (-9 if killed else 130, "")


def test_a_journal_holds_equal_pages_once(place: Place) -> None:
    process = place.start("fleet", "run", "street.toml", "--speed", "60")
    place.until_under_way()
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 130
    with contextlib.closing(sqlite3.connect(place.state / "journal.sqlite")) as database:
        (kept,) = database.execute("SELECT count(*) FROM kept").fetchone()
        (pages,) = database.execute("SELECT count(*) FROM page").fetchone()
    assert kept == 12
    # Two factory images of two pages, two new ones of three, the trailers of each device.
    assert pages <= 1 + 2 * 2 + 2 * 3 + 4 * 12


def test_what_is_no_journal_is_told_of(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no fleet run was begun there"):
        Journal.open(tmp_path / "journal.sqlite")
    (tmp_path / "journal.sqlite").write_bytes(b"no database at all" * 100)
    with pytest.raises(ConfigError, match="no journal of a fleet run"):
        Journal.open(tmp_path / "journal.sqlite")
