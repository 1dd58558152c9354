"""Coordinator and agent without a broker: what they say when the other side has another memory."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from test_hosts import SITE, tree

from firmware_node.adapters.fleet.agent import Agent, AgentSettings
from firmware_node.adapters.fleet.hosts import Hosts
from firmware_node.adapters.fleet.link import Broker, Incoming, Link
from firmware_node.fleet import bus
from firmware_node.fleet.bus import Ack, Batch, Desired, Reported, Unit
from firmware_node.fleet.campaign import Campaign, Turn
from firmware_node.fleet.plan import read_plan
from firmware_node.fleet.terms import Event, Order

BROKER = Broker("mqtt://127.0.0.1:1")
LIMIT_S = 10.0


class StillLink(Link):
    """Always up; what is published is kept, and what comes is said by the test."""

    on_message: Callable[[Incoming], None]

    def __init__(
        self,
        broker: Broker,
        identifier: str,
        topics: Sequence[str],
        *,
        on_message: Callable[[Incoming], None],
        on_up: Callable[[], Awaitable[None]],
        **_: Any,
    ) -> None:
        super().__init__(broker, identifier, topics, on_message=on_message, on_up=on_up)
        self.on_message, self.on_up = on_message, on_up
        self.published: list[tuple[str, bytes]] = []

    @property
    def is_up(self) -> bool:
        return True

    async def run(self) -> None:
        await self.on_up()
        self.say("availability", bus.ONLINE)
        self.say("reported", bus.encode(Reported(0, "1", ("homes",), 1, 0)))
        await asyncio.Event().wait()

    async def publish(self, topic: str, payload: bytes, **_: Any) -> bool:
        self.published.append((topic, payload))
        return True

    def say(self, leaf: str, payload: bytes) -> None:
        self.on_message(Incoming(bus.host_topic(SITE, "pi-1", leaf), payload, None, None))

    def orders(self) -> list[Batch]:
        topic = bus.host_topic(SITE, "pi-1", "orders")
        return [bus.decode_orders(octets) for name, octets in self.published if name == topic]

    def ordered(self) -> Batch:
        """The last orders, once there are some."""
        end_s = time.monotonic() + LIMIT_S
        while not self.orders():
            assert time.monotonic() < end_s
            time.sleep(0.01)
        last = self.orders()[-1]
        self.published.clear()
        return last


def test_a_host_that_lost_all_is_ordered_anew_and_another_coordinator_goes_on_from_there() -> None:
    document = tree(homes=2)
    plan = read_plan(document)
    links: list[StillLink] = []

    def link(*args: Any, **options: Any) -> StillLink:
        links.append(StillLink(*args, **options))
        return links[-1]

    options: dict[str, Any] = {"broker": BROKER, "site": SITE, "fleet": "trial", "link": link}
    options |= {"speed": 100.0, "journaled": True}
    campaign = Campaign(plan)
    history: list[Order] = []

    def turn(hosts: Hosts, orders: list[Order], *actions: str) -> list[Order]:
        history.extend(orders)
        end_ms = hosts.next_ms
        assert end_ms is not None
        events = hosts.turn(end_ms, orders)
        following = campaign.turn(Turn(end_ms, events, actions))
        return hosts.again(campaign, end_ms, following)

    def joined(source: str) -> bytes:
        return bus.encode(Batch("trial", source, 1, (Event(10, 0, "joined", {}),)))

    with Hosts(plan, document, names=["pi-1"], **options) as hosts:
        (bus_link,) = links
        first = turn(hosts, [], "start")
        assert len(first) == 4
        bus_link.say("events", joined("aa"))
        assert turn(hosts, first) == []
        assert bus_link.ordered() == Batch("trial", "1", 1, tuple(first))
        bus_link.say("acks", bus.encode(Ack("trial", "1", 4)))
        bus_link.say("events", joined("bb"))  # its disk was replaced
        again = turn(hosts, [])
        assert again == campaign.reoffer(0)
        assert turn(hosts, again) == []
        assert bus_link.ordered() == Batch("trial", "2", 1, tuple(again))
        bus_link.say("events", joined("aa"))  # late
        bus_link.say("acks", bus.encode(Ack("trial", "2", 1)))
        assert turn(hosts, []) == []
        state = json.loads(json.dumps(hosts.state()))
    assert len(history) == 8
    with Hosts(plan, document, state=state, history=history, **options) as hosts:
        assert links[1].ordered() == Batch("trial", "2", 1, tuple(again))  # not the first four
        links[1].say("acks", bus.encode(Ack("trial", "2", 4)))
        assert hosts.state() == state


def test_an_agent_does_not_go_by_what_a_broker_remembers_of_long_ago(tmp_path: Path) -> None:
    async def story() -> None:
        links: list[StillLink] = []

        def link(*args: Any, **options: Any) -> StillLink:
            links.append(StillLink(*args, **options))
            return links[-1]

        settings = AgentSettings(SITE, "pi-1", BROKER, tmp_path, ("homes",))
        agent = Agent(settings, link=link)
        running = asyncio.create_task(agent.run())
        kept = tmp_path / "desired.json"
        new, old = Desired(5, (), (Unit("new"),)), Desired(4, (), (Unit("old"),))
        newer = Desired(6, (), (Unit("newer"),))
        for said, holds in ((new, new), (old, new), (newer, newer)):
            links[0].say("desired", bus.encode(said))
            async with asyncio.timeout(LIMIT_S):
                while not kept.exists() or bus.decode_desired(kept.read_bytes()) != holds:
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            assert bus.decode_desired(kept.read_bytes()) == holds
        agent.stop()
        await running

    asyncio.run(story())
