"""Hosts on one bus, with a real broker: it dies, an agent is killed, every message comes twice."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import aiomqtt
import pytest
from brokers import Mosquitto, TwiceLink, needs_mosquitto

from firmware_node.adapters.fleet.hosts import Hosts
from firmware_node.errors import ConfigError, EnvironmentFailure
from firmware_node.fleet.campaign import Campaign, Turn
from firmware_node.fleet.plan import read_plan
from firmware_node.fleet.rows import is_open
from firmware_node.fleet.terms import Event, Order, Plan

AGENTS = Path(__file__).with_name("agents.py")
SITE = "lab"
LIMIT_S = 150.0
SPEED = 4.0  # a command that came before the hub knew its device is repeated after a minute
AVAILABLE_S = 90.0  # within which every host is there again after the broker


def tree(homes: int, concurrency: int = 0) -> dict[str, Any]:
    """A PPMID and an HCALCS in each home, and an update of all."""
    wave = {"concurrency": concurrency, "timeout": "10m"}
    return {
        "name": "many hosts",
        "fleet": {
            "homes": homes,
            "devices": {"ppmid": 1, "hcalcs": 1},
            "factory_size": 4096,
            "start_jitter": "3s",
            "block_size": 63,
        },
        "images": [
            {"name": "ppmid-2", "type": "ppmid", "version": 2, "size": 4096},
            {"name": "hcalcs-2", "type": "hcalcs", "version": 2, "size": 4096},
        ],
        "waves": [
            {"name": "ppmids", "image": "ppmid-2", **wave},
            {"name": "hcalcses", "image": "hcalcs-2", "with_previous": True, **wave},
        ],
    }


class Agents:
    """Processes of agents, by a name of the test's."""

    def __init__(self, mosquitto: Mosquitto, folder: Path) -> None:
        self._url = mosquitto.broker.url
        self._folder = folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, hosts: Sequence[str]) -> None:
        command = [sys.executable, str(AGENTS), self._url, SITE, str(self._folder), *hosts]
        with (self._folder / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(command, stdout=log, stderr=log)

    def kill(self, name: str) -> None:
        process = self._running.pop(name)
        process.kill()
        process.wait()

    def stop(self) -> None:
        for process in self._running.values():
            process.terminate()
        codes = [process.wait(30) for process in self._running.values()]
        self._running.clear()
        assert not any(codes), [path.read_text() for path in self._folder.glob("*.log")]

    def end(self) -> None:
        for name in list(self._running):
            self.kill(name)


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


def retained(mosquitto: Mosquitto, leaf: str) -> dict[str, bytes]:
    """What newcomers hear, by host."""

    async def listen() -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        async with aiomqtt.Client(
            "127.0.0.1", mosquitto.port, protocol=aiomqtt.ProtocolVersion.V5
        ) as client:
            await client.subscribe(f"fn/v1/{SITE}/+/{leaf}")
            try:
                async with asyncio.timeout(0.5):
                    async for message in client.messages:
                        assert isinstance(message.payload, bytes)
                        found[str(message.topic).split("/")[3]] = message.payload
            except TimeoutError:
                return found
        return found

    return asyncio.run(listen())


class Run:
    """A campaign over hosts, turn by turn, and what is counted of it."""

    def __init__(
        self, plan: Plan, fleet: Hosts, turns: Sequence[Turn] = (), now_ms: int = 0
    ) -> None:
        self.plan = plan
        self.fleet = fleet
        self.turns = list(turns)
        self.now_ms = now_ms
        self.campaign = Campaign(plan)
        self.orders: list[Order] = []
        for turn in turns:
            self.orders = self.campaign.turn(turn)
        self.given: list[Order] = []
        self.counts: Counter[tuple[int, str]] = Counter()
        self.events: list[Event] = []
        self._actions: tuple[str, ...] = () if turns else ("start",)

    @property
    def done(self) -> int:
        return sum(wave.done for wave in self.campaign.waves)

    def turn(self) -> list[Event]:
        next_ms = self.fleet.next_ms
        assert next_ms is not None
        end_ms = -(-next_ms // self.plan.turn_ms) * self.plan.turn_ms
        self.given += self.orders
        events = self.fleet.turn(end_ms, self.orders)
        assert all(self.now_ms < event.at_ms <= end_ms for event in events)
        self.now_ms = end_ms
        self.turns.append(Turn(end_ms, events, self._actions))
        self.orders = self.campaign.turn(self.turns[-1])
        self._actions = ()
        self.orders = self.fleet.again(self.campaign, end_ms, self.orders)
        self.counts.update((event.member, event.name) for event in events)
        self.events += events
        return events

    def until(self, holds: Any, limit_s: float = LIMIT_S) -> None:
        end_s = time.monotonic() + limit_s
        while not holds():
            assert time.monotonic() < end_s, [
                (wave.done, wave.failed, wave.in_flight) for wave in self.campaign.waves
            ]
            self.turn()


@needs_mosquitto
def test_a_campaign_over_many_hosts_outlives_its_broker_and_an_agent_and_does_nothing_twice(
    mosquitto: Mosquitto, agents: Agents, tmp_path: Path
) -> None:
    names = [f"host-{number:02}" for number in range(20)]
    agents.start("first", names[:10])
    agents.start("second", names[10:19])
    agents.start("mortal", names[19:])
    document = tree(homes=500, concurrency=150)
    plan = read_plan(document)
    size = plan.shape.size
    assert size == 20 * 50
    with Hosts(
        plan,
        document,
        broker=mosquitto.broker,
        site=SITE,
        fleet="trial",
        names=names,
        speed=SPEED,
        link=TwiceLink,
    ) as fleet:
        fleet.ready()
        run = Run(plan, fleet)
        run.until(lambda: run.done > size // 10)

        mosquitto.kill()
        killed_s = time.monotonic()
        run.until(lambda: time.monotonic() > killed_s + 2)
        mosquitto.start()
        online = dict.fromkeys(names, b"online")
        run.until(lambda: retained(mosquitto, "availability") == online, AVAILABLE_S)

        last = range(size - 50, size)
        run.until(lambda: any(is_open(run.campaign.rows[member]) for member in last))
        agents.kill("mortal")
        run.until(lambda: fleet.lost() == ["host-19"], 30)
        assert retained(mosquitto, "availability")["host-19"] == b"offline"
        assert {run.campaign.rows[member].phase for member in last} == {"off"}
        agents.start("mortal", names[19:])
        run.until(lambda: not fleet.lost(), 30)

        run.until(lambda: run.campaign.is_over)
        assert retained(mosquitto, "availability") == online
        # Every device has the new version, by its own account and that of the head end.
        assert [(wave.done, wave.failed) for wave in run.campaign.waves] == [(500, 0), (500, 0)]
        assert {row.version for row in run.campaign.rows} == {2}
        for member in (0, 499, size - 1):
            shown = fleet.show(member)
            assert shown["banks"][shown["running_bank"]]["version"] == "00000002"
        # No device took a command twice, and none activated twice; nor did a message count twice.
        for member in range(size):
            is_hcalcs = plan.shape.member(member).type.value == "hcalcs"
            assert run.counts[member, "command_accepted"] == is_hcalcs, member
            assert run.counts[member, "image_activated"] == 1, member
            assert run.counts[member, "image_confirmed"] == 1, member
            if member not in last:
                assert run.counts[member, "image_offered"] == 1, member
        fleet.end()
        deadline_s = time.monotonic() + 30
        while list(tmp_path.glob("host-*/fleet-trial.db")):
            assert time.monotonic() < deadline_s
            time.sleep(0.1)
    agents.stop()
    assert set(retained(mosquitto, "availability").values()) == {b"offline"}


@needs_mosquitto
def test_a_site_without_the_hosts_that_are_asked_for_is_told_of(mosquitto: Mosquitto) -> None:
    document = tree(homes=2)
    plan = read_plan(document)
    with pytest.raises(ConfigError, match="no host is there"):
        Hosts(plan, document, broker=mosquitto.broker, site=SITE, fleet="trial")
    mosquitto.kill()
    with pytest.raises(EnvironmentFailure, match="does not answer"):
        Hosts(plan, document, broker=mosquitto.broker, site=SITE, fleet="trial")
