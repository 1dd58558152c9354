"""``fleet run --broker``: the same campaign over hosts, whatever dies on the way."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from brokers import Mosquitto, needs_mosquitto
from test_hosts import SITE, Agents

from firmware_node.adapters.fleet.journal import Journal
from firmware_node.cli import main
from firmware_node.errors import ConfigError, StorageError
from firmware_node.fleet.plan import read_plan
from firmware_node.fleet.stock import Stock
from firmware_node.fleet.terms import Event

HOMES, LIMIT_S = 12, 150
PLAN = f"""
name = "A street"
start = "2026-01-12T20:00:00Z"
[fleet]
homes = {HOMES}
devices = {{ ppmid = 1, hcalcs = 1 }}
factory_size = 4096
start_jitter = "3s"
[[images]]
name = "ppmid-2"
type = "ppmid"
version = 2
DISPLAY
[[images]]
name = "ppmid-3-bad"
type = "ppmid"
version = 3
size = 4096
behaviour = "bad-self-test"
[[images]]
name = "hcalcs-2"
type = "hcalcs"
version = 2
size = 4096
[[waves]]
name = "displays"
image = "ppmid-2"
concurrency = 4
timeout = "15m"
[[waves]]
name = "switches"
image = "hcalcs-2"
with_previous = true
concurrency = 4
timeout = "15m"
[[waves]]
name = "bad"
image = "ppmid-3-bad"
select = {{ percent = 25 }}
timeout = "15m"
"""


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    broker = Mosquitto(tmp_path)
    yield broker
    broker.kill()


@pytest.fixture
def agents(mosquitto: Mosquitto, tmp_path: Path) -> Iterator[Agents]:
    running = Agents(mosquitto, tmp_path)
    yield running
    running.end()


class FleetCommand:
    """``fleet run``, as a process that may be killed; its state folder is ``here``."""

    def __init__(self, folder: Path, *more: str) -> None:
        self._here = folder / "here"
        # One image comes from a file, which goes over the bus.
        built = PLAN.replace("DISPLAY", "size = 8192")
        ware = Stock(read_plan(tomllib.loads(built))).wares["ppmid-2"]
        (folder / "displays.ota").write_bytes(ware.ota_file)
        (folder / "plan.toml").write_text(PLAN.replace("DISPLAY", 'file = "displays.ota"'))
        self._command = [
            *(sys.executable, "-m", "firmware_node", "fleet", "run", str(folder / "plan.toml")),
            *("--state", str(self._here), "--no-web", "--json", *more),
        ]
        self._process: subprocess.Popen[bytes] | None = None
        self._said = folder / "said"

    def start(self, *more: str) -> None:
        with self._said.open("ab") as said, (self._here.parent / "results").open("wb") as results:
            self._process = subprocess.Popen([*self._command, *more], stdout=results, stderr=said)

    def kill(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def wait(self) -> dict[str, Any]:
        assert self._process is not None
        code = self._process.wait(LIMIT_S)
        assert code == 1, self._said.read_text()  # for devices have failed, as they were to
        found: dict[str, Any] = json.loads((self._here.parent / "results").read_bytes())
        return found

    def events(self) -> list[Event]:
        """What is written down so far."""
        try:
            journal = Journal.open(self._here / "journal.sqlite")
            found = journal.events(range(2 * HOMES))
            journal.close()
        except (ConfigError, StorageError, sqlite3.Error):  # it is not there yet
            return []
        return found

    def until(self, count: int, name: str) -> None:
        end_s = time.monotonic() + LIMIT_S
        while sum(event.name == name for event in self.events()) < count:
            assert self._process is not None and self._process.poll() is None, (
                self._said.read_text()
            )
            assert time.monotonic() < end_s, self._said.read_text()
            time.sleep(0.2)


def outcomes(results: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Of each device, what does not depend on the hour."""
    names = ("index", "entity_id", "result", "version", "failed_in", "cause")
    return [tuple(device[name] for name in names) for device in results["devices"]]


@needs_mosquitto
def test_a_campaign_ends_the_same_on_hosts_whatever_is_killed(
    mosquitto: Mosquitto, agents: Agents, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    agents.start("mortal", ["pi-1"])
    agents.start("other", ["server-1:2"])
    bus = ("--broker", mosquitto.broker.url, "--site", SITE, "--hosts", "pi-1,server-1")
    run = FleetCommand(tmp_path, *bus, "--speed", "20")
    run.start()
    run.until(3, "image_confirmed")
    run.kill()
    run.start("--resume")
    run.until(6, "image_confirmed")
    mosquitto.kill()
    time.sleep(1)
    mosquitto.start()
    run.until(9, "image_confirmed")
    agents.kill("mortal")
    time.sleep(1)
    agents.start("mortal", ["pi-1"])
    results = run.wait()
    agents.stop()
    # The same plan on this machine alone.
    (tmp_path / "alone").mkdir()
    alone = FleetCommand(tmp_path / "alone")
    alone.start()
    assert outcomes(results) == outcomes(alone.wait())
    assert results["totals"]["failed"] == 3
    # No device did anything twice, and every event is written down once.
    events = run.events()
    for counted, ours in ((run, events), (alone, alone.events())):
        counts = Counter((event.member, event.name) for event in ours)
        for member in range(2 * HOMES):
            commanded = counts[member, "command_accepted"]
            assert commanded == member % 2, (counted, member)
            activated = counts[member, "image_activated"]
            assert activated == 1 + (results["devices"][member]["result"] == "failed")
    assert any(event.fields.get("reason") == "host_restarted" for event in events)
    # What is not kept cannot be played again, and is told so.
    seed = str(results["seed"])
    here = str(tmp_path / "here")
    assert main(["rig", "replay", seed, "--device", "0", "--state", here]) == 2
    assert "ran on hosts" in capsys.readouterr().err


@needs_mosquitto
def test_a_run_that_is_thrown_away_is_forgotten_by_its_hosts(
    mosquitto: Mosquitto, agents: Agents, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    agents.start("only", ["pi-1"])
    run = FleetCommand(tmp_path, "--broker", mosquitto.broker.url, "--site", SITE, "--speed", "20")
    run.start()
    run.until(1, "image_confirmed")
    run.kill()
    (store,) = (tmp_path / "pi-1").glob("fleet-a-street-*.db")
    plan, here = str(tmp_path / "plan.toml"), str(tmp_path / "here")
    assert main(["fleet", "run", plan, "--state", here]) == 2
    assert "--resume" in capsys.readouterr().err
    assert main(["fleet", "run", plan, "--state", here, "--resume"]) == 2
    assert "name their --broker" in capsys.readouterr().err
    assert main(["fleet", "run", plan, "--state", here, "--fresh"]) == 2
    assert "name their --broker" in capsys.readouterr().err
    run.start("--fresh")
    run.wait()
    assert not store.exists()
    end_s = time.monotonic() + LIMIT_S
    host = tmp_path / "pi-1"
    while [*host.glob("fleet-*.db"), *host.glob("image-*")]:  # it is over, and forgotten too
        assert time.monotonic() < end_s
        time.sleep(0.1)
    agents.stop()
