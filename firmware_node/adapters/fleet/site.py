"""A short look at a site from outside: its hosts, and a change of what one of them shall run."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Final

from firmware_node.adapters.fleet.link import Broker, Incoming, Link
from firmware_node.errors import DecodeError, EnvironmentFailure
from firmware_node.fleet import bus
from firmware_node.fleet.bus import Desired, Reported

CONNECT_S: Final = 10.0
RETAINED_S: Final = 1.0  # within which a broker has told what it holds


@dataclass(slots=True)
class SeenHost:
    """What is retained of a host."""

    name: str
    is_online: bool = False
    reported: Reported = field(default_factory=lambda: Reported(0, "?", (), 0, 0))
    desired: Desired = field(default_factory=Desired)


def look(broker: Broker, site: str) -> list[SeenHost]:
    """Every host of which the broker knows, by name.

    Raises:
        EnvironmentFailure: the broker does not answer.
    """
    return asyncio.run(_look(broker, site))


async def _look(broker: Broker, site: str) -> list[SeenHost]:
    seen: dict[str, SeenHost] = {}
    async with _connected(broker, site, "+", seen):
        await asyncio.sleep(RETAINED_S)
    return [seen[name] for name in sorted(seen)]


def change(
    broker: Broker, site: str, host: str, change_it: Callable[[Desired], Desired]
) -> Desired:
    """What the host shall run from now on.

    Raises:
        ConfigError: it holds a key.
        EnvironmentFailure: the broker does not answer.
    """
    return asyncio.run(_change(broker, site, host, change_it))


async def _change(
    broker: Broker, site: str, host: str, change_it: Callable[[Desired], Desired]
) -> Desired:
    seen: dict[str, SeenHost] = {}
    async with _connected(broker, site, host, seen) as link:
        await asyncio.sleep(RETAINED_S)
        had = seen.get(host, SeenHost(host))
        generation = 1 + max(had.desired.generation, had.reported.generation)
        desired = replace(change_it(had.desired), generation=generation)
        octets = bus.encode(desired)
        if not await link.publish(bus.host_topic(site, host, "desired"), octets, retain=True):
            raise EnvironmentFailure(f"broker {broker.url}: did not take it")
    return desired


def forget(broker: Broker, site: str, fleet: str) -> None:
    """No host shall run homes of that fleet any more.

    Raises:
        EnvironmentFailure: the broker does not answer.
    """

    def without(desired: Desired) -> Desired:
        return replace(desired, shares=tuple(s for s in desired.shares if s.fleet != fleet))

    for host in look(broker, site):
        if any(share.fleet == fleet for share in host.desired.shares):
            change(broker, site, host.name, without)


@contextlib.asynccontextmanager
async def _connected(
    broker: Broker, site: str, host: str, seen: dict[str, SeenHost]
) -> AsyncIterator[Link]:
    up = asyncio.Event()

    def on_message(message: Incoming) -> None:
        with contextlib.suppress(DecodeError):  # somebody else's, or of another version
            name, leaf = bus.split_topic(message.topic)
            entry = seen.setdefault(name, SeenHost(name))
            match leaf:
                case "availability":
                    entry.is_online = message.payload == bus.ONLINE
                case "reported":
                    entry.reported = bus.decode_reported(message.payload)
                case "desired" if message.payload:
                    entry.desired = bus.decode_desired(message.payload)

    async def on_up() -> None:
        up.set()

    leaves = ("availability", "reported", "desired")
    link = Link(
        broker,
        f"fn-{site}-look-{secrets.token_hex(4)}",
        [bus.host_topic(site, host, leaf) for leaf in leaves],
        on_message=on_message,
        on_up=on_up,
    )
    running = asyncio.create_task(link.run())
    try:
        async with asyncio.timeout(CONNECT_S):
            await up.wait()
        yield link
    except TimeoutError as error:
        raise EnvironmentFailure(f"broker {broker.url}: does not answer") from error
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
