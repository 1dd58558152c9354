"""Hosts that run the homes of a fleet, over the bus: the coordinator's side.

It is driven as ``Workers`` is. But hosts run by themselves, in the time of the wall, so a turn
waits until the wall is there, and gives what has come by then. Times of events are put within the
turn in which they came; the events of one member stay in order.

    orders           go out numbered, host by host, again until the agent says that they are
                     carried out; it carries out each once
    events           come numbered, and are acknowledged when whoever asked for them has them
                     safely: with the next turn, or by ``settle`` where a journal is kept
    a host is lost   by its last will, or by silence: its members are told of as ``power_off``
    it is back       ``power_on``; where hubs and devices began anew with it, ``again`` adds what
                     they need to know again to the orders of the next turn

With a journal nothing is said that is not written: the orders of a turn stand there before it is
taken, and events are acknowledged by ``settle``, after a commit that holds them and ``state``.
Given back, with all the orders so far, it lets another process go on where this one was killed,
and no order is carried out twice.

The bus has a thread with a loop of its own, for whoever takes turns may wait in any thread.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import random
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from firmware_node.adapters.fleet.link import Broker, Incoming, Link
from firmware_node.errors import ConfigError, DecodeError, EnvironmentFailure
from firmware_node.fleet import bus
from firmware_node.fleet.bus import Ack, Desired, Reported, Share
from firmware_node.fleet.campaign import Campaign
from firmware_node.fleet.home import Kept
from firmware_node.fleet.streams import Inbox, Outbox
from firmware_node.fleet.terms import Event, Order, Plan

LOST_S: Final = 20.0  # of silence; an agent speaks every 5 s
TURN_S: Final = 0.25  # wall time of a turn in which nobody orders anything
RESEND_S: Final = 5.0
SEARCH_S: Final = 3.0  # that hosts have to say that they are there
READY_S: Final = 300.0  # for all shares to run
ASK_S: Final = 15.0
CATCH_UP_S: Final = 6.0  # in which agents have told a new coordinator what the old one missed
WINDOW: Final = 8  # batches of orders under way
UPGRADE_VERBS: Final = ("offer", "activate")
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Host:
    """One host, as far as the fleet goes."""

    name: str
    homes: tuple[int, int] = (0, -1)
    members: range = range(0)
    outbox: Outbox = field(default_factory=lambda: Outbox("", ""))
    ordered_before: int = 0  # orders that went to what it was before it lost all it had
    inbox: Inbox = field(default_factory=lambda: Inbox(""))
    released: int = 0  # of the orders: the newest that may go out
    sent: int = 0  # the newest under way
    newest: dict[int, int] = field(default_factory=dict)  # of members: their last upgrade order
    progress_s: float = 0.0
    told: list[Event] = field(default_factory=list)  # came, and was in no turn yet
    given: Ack | None = None  # what was in turns
    past: tuple[str, ...] = ()  # sources of events that were left by then
    safe: Ack | None = None  # of that, what is durable
    says_safe: bool = False  # the host is to be told
    desired: Desired | None = None
    reported: Reported | None = None
    is_online: bool = False
    heard_s: float = 0.0
    is_lost: bool = False

    def put(self, order: Order) -> None:
        """One more order."""
        self.outbox.put((order,))
        if order.verb in UPGRADE_VERBS:
            self.newest[order.member] = self.outbox.last

    @property
    def is_new(self) -> bool:
        """Whether it lost all it had, and no turn heard of that yet."""
        given = self.given
        return given is not None and given.source not in ("", self.inbox.source)

    @property
    def runs(self) -> bool:
        """Whether its share is running, as far as it said."""
        fleet = self.outbox.fleet
        shares = () if self.reported is None else self.reported.shares
        return any(share.fleet == fleet and share.state == "running" for share in shares)

    @property
    def error(self) -> str:
        """What keeps its share from running."""
        if self.reported is None:
            return "it said nothing"
        errors = [s.error for s in self.reported.shares if s.fleet == self.outbox.fleet]
        return "; ".join(filter(None, [*errors, self.reported.error])) or "its share is starting"


class Hosts:
    """See the module; a context manager that lets go of the bus. The agents run on: see ``end``.

    ``fleet`` names the run on the bus. ``tree`` and ``options`` are what ``plan`` was made of.
    ``names``: which hosts; empty: all that are there. ``journaled``: see above.
    ``state`` and ``history`` (every order so far) are those of a run that goes on.

    Raises:
        ConfigError: no host is there, or the plan holds what must not go over the bus.
        EnvironmentFailure: the broker does not answer.
    """

    def __init__(
        self,
        plan: Plan,
        tree: Mapping[str, Any],
        *,
        broker: Broker,
        site: str,
        fleet: str,
        names: Sequence[str] = (),
        options: Mapping[str, Any] | None = None,
        files: Mapping[str, bytes] | None = None,
        speed: float = 1.0,
        journaled: bool = False,
        state: Mapping[str, Any] | None = None,
        history: Sequence[Order] = (),
        link: Callable[..., Link] = Link,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._plan = plan
        self._site = bus.bus_name("site", site)
        self._fleet = bus.bus_name("fleet", fleet)
        self._files = dict(files or {})
        self._journaled = journaled
        self._changed = threading.Condition()
        self._hosts: dict[str, _Host] = {}
        self._begun = dict(state or {})
        self._now_ms = int(self._begun.get("now_ms", 0))
        self._catches_up = bool(state)
        self._restarted: set[int] = set()
        self._dealt = False  # before that, any host may turn out to be one of ours
        self._answers: dict[bytes, Mapping[str, Any] | None] = {}
        self._up_s: float | None = None
        self._failure: BaseException | None = None
        self._share = Share(
            self._fleet,
            json.loads(json.dumps(tree, default=_plain)),
            (0, 0),
            int(self._begun.get("origin_ms", time.time() * 1000 - self._now_ms / speed)),
            float(self._begun.get("speed", speed)),
            {name: value for name, value in (options or {}).items() if value is not None},
            {name: hashlib.sha256(octets).hexdigest() for name, octets in self._files.items()},
        )
        bus.encode(Desired(1, (self._share,)))  # refuses keys before anything is begun
        # In this order: of a host that is known to be there all else is known by then.
        leaves = ("desired", "reported", "availability", "acks", "events", "answer")
        self._loop = asyncio.new_event_loop()
        self._wake = asyncio.Event()
        self._link = link(
            broker,
            f"fn-{site}-{fleet}-{secrets.token_hex(4)}",
            [bus.host_topic(site, "+", leaf) for leaf in leaves],
            on_message=self._on_message,
            on_up=self._on_up,
            draw=draw,
        )
        self._thread = threading.Thread(target=self._serve, name="fleet bus", daemon=True)
        self._thread.start()
        try:
            self._deal(self._find(names), history)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Hosts:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- as ``Workers`` ---------------------------------------------------------------------------

    @property
    def count(self) -> int:
        """Hosts."""
        return len(self._hosts)

    @property
    def next_ms(self) -> int | None:
        """The end of the next turn that is worth one: hosts may tell of something at any time."""
        turn_ms = self._now_ms + max(1, int(TURN_S * 1000 * self._share.speed))
        return max(turn_ms, self._share.now_ms(time.time() * 1000))

    def ready(self) -> None:
        """Return when every share runs.

        Raises:
            EnvironmentFailure: one does not, for five minutes.
        """
        end_s = time.monotonic() + READY_S
        with self._changed:
            while waiting := [host for host in self._hosts.values() if not host.runs]:
                self._check()
                if time.monotonic() > end_s:
                    why = "; ".join(f"{host.name}: {host.error}" for host in waiting[:5])
                    raise EnvironmentFailure(f"fleet {self._fleet}: not ready: {why}")
                self._changed.wait(1.0)

    def turn(self, end_ms: int, orders: Sequence[Order]) -> list[Event]:
        """Wait until it is over; what came by then, by time and member, and the lost and found."""
        with self._changed:
            for order in orders:
                host = self._host_of(order.member)
                if host.outbox.is_full:
                    raise EnvironmentFailure(f"{host.name}: takes no orders")
                host.put(order)
            self._release()
            if not self._journaled:
                self._settle()
            self._catch_up()
            while True:
                self._check()
                left_s = (end_ms - self._share.now_ms(time.time() * 1000)) / 1000
                left_s /= self._share.speed
                if left_s <= 0:
                    break
                self._changed.wait(min(left_s, 1.0))
            begin_ms, self._now_ms = self._now_ms, end_ms
            events: list[Event] = []
            for host in self._hosts.values():
                events += self._presence(host)
                self._mind_restart(host)
                events += host.told
                host.told = []
                host.given, host.past = host.inbox.ack(), tuple(host.inbox.past)
        events = [
            event._replace(at_ms=min(max(event.at_ms, begin_ms + 1), end_ms)) for event in events
        ]
        events.sort(key=lambda event: (event.at_ms, event.member))
        return events

    def show(self, member: int) -> dict[str, Any]:
        """See ``FleetHome.show``; next to nothing where the host is away, or slow to answer."""
        host = self._host_of(member)
        away = {"host": host.name, "on": False}
        if host.is_lost or not host.is_online:
            return away
        correlation = secrets.token_bytes(8)
        question = json.dumps({"fleet": self._fleet, "member": member}).encode()
        answer_topic = bus.host_topic(self._site, host.name, "answer")
        with self._changed:
            self._answers[correlation] = None
        asyncio.run_coroutine_threadsafe(
            self._link.publish(
                bus.host_topic(self._site, host.name, "ask"),
                question,
                response_topic=answer_topic,
                correlation=correlation,
            ),
            self._loop,
        )
        end_s = time.monotonic() + ASK_S
        with self._changed:
            while self._answers[correlation] is None and time.monotonic() < end_s:
                self._changed.wait(0.5)
            answer = self._answers.pop(correlation) or {}
        shown = answer.get("shown")
        return dict(shown) if isinstance(shown, Mapping) else away

    def keep_changed(self) -> dict[int, Kept]:
        """Nothing: what devices keep is kept by their hosts, and does not go over the bus."""
        return {}

    def close(self) -> None:
        """Let go of the bus; shares run on, and another coordinator may take over."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop)
            self._thread.join()

    # --- what only hosts have ---------------------------------------------------------------------

    def settle(self) -> None:
        """All that turns have given is durable: say so to the hosts."""
        with self._changed:
            self._settle()
            self._loop.call_soon_threadsafe(self._wake.set)

    def state(self) -> dict[str, Any]:
        """What a journal keeps, of the end of the last turn; plain, for JSON."""
        with self._changed:
            return {
                "now_ms": self._now_ms,
                "origin_ms": self._share.origin_ms,
                "speed": self._share.speed,
                "hosts": {
                    host.name: {
                        "homes": list(host.homes),
                        "orders": [host.outbox.source, host.ordered_before],
                        "events": list(host.given[1:]) if host.given else ["", 0],
                        "past": list(host.past),
                    }
                    for host in self._hosts.values()
                },
            }

    def again(self, campaign: Campaign, now_ms: int, orders: Sequence[Order]) -> list[Order]:
        """The orders for the next turn, and those that members need whose hubs and devices began
        anew. What was not carried out before that is still under way, and is not ordered twice.
        """
        with self._changed:
            anew, self._restarted = self._restarted, set()
        if not anew:
            return list(orders)
        anew -= {order.member for order in orders if order.verb in UPGRADE_VERBS}
        return [*orders, *(o for o in campaign.reoffer(now_ms) if o.member in anew)]

    def lost(self) -> list[str]:
        """Hosts of which nothing is heard."""
        with self._changed:
            return [host.name for host in self._hosts.values() if host.is_lost]

    def end(self) -> None:
        """The run is over: the hosts forget it. Waits until the broker has that."""
        self._desire(None)
        hosts = list(self._hosts.values())
        desired = [host.desired for host in hosts if host.desired is not None]
        wanted = {sha256 for d in desired for s in d.shares for sha256 in s.images.values()}
        for sha256 in sorted(set(self._share.images.values()) - wanted):
            self._publish(bus.image_topic(self._site, sha256), b"", retain=True)

    # --- who runs what ----------------------------------------------------------------------------

    def _find(self, names: Sequence[str]) -> list[str]:
        """The hosts, by name."""
        known = list(self._begun.get("hosts", ()))
        end_s = time.monotonic() + SEARCH_S * (5 if names or known else 1)
        wanted = [bus.bus_name("hosts", name) for name in known or names]
        with self._changed:
            while time.monotonic() < end_s:
                self._check()
                there = sorted(host.name for host in self._hosts.values() if host.is_online)
                if wanted and set(wanted) <= set(there):
                    break
                self._changed.wait(0.1)
            if self._up_s is None:
                raise EnvironmentFailure(f"broker {self._link.url}: does not answer")
            if known:
                return known  # one that is away now may come back
            missing = sorted(set(wanted) - set(there))
            if missing:
                raise ConfigError(f"site {self._site}: host {missing[0]} is not there")
            found = wanted or [
                name
                for name in there
                if (report := self._hosts[name].reported) is not None and "homes" in report.kinds
            ]
        if not found:
            raise ConfigError(f"site {self._site}: no host is there that runs simulated homes")
        return sorted(found)[: self._plan.shape.homes]

    def _deal(self, names: Sequence[str], history: Sequence[Order]) -> None:
        """Consecutive homes for each host, the same number or one more."""
        shape = self._plan.shape
        with self._changed:
            hosts = {name: self._hosts.get(name) or _Host(name) for name in names}
            begin = shape.first_index
            for place, host in enumerate(hosts.values()):
                count = shape.homes // len(hosts) + (place < shape.homes % len(hosts))
                host.homes = (begin, begin + count - 1)
                begin += count
                was = self._begun.get("hosts", {}).get(host.name)
                if was is not None:
                    host.homes = (was["homes"][0], was["homes"][1])
                first = (host.homes[0] - shape.first_index) * shape.per_home
                last = (host.homes[1] + 1 - shape.first_index) * shape.per_home
                host.members = range(first, last)
                source, host.ordered_before = was["orders"] if was else ("1", 0)
                host.outbox = Outbox(self._fleet, source)
                ordered = [order for order in history if order.member in host.members]
                for order in ordered[host.ordered_before :]:
                    host.put(order)
                host.inbox = Inbox(self._fleet, *(was["events"] if was else ()))
                host.inbox.past.extend(was["past"] if was else ())
                host.past = tuple(host.inbox.past)
                host.given = host.safe = host.inbox.ack() if was else None
                host.released = host.outbox.last  # what is in the history was written down
                host.heard_s = time.monotonic()
            self._hosts = hosts
            self._dealt = True
        for name, octets in self._files.items():
            topic = bus.image_topic(self._site, self._share.images[name])
            self._publish(topic, octets, retain=True)
        self._desire(self._share)

    def _desire(self, share: Share | None) -> None:
        """Our share into what each host shall run, beside whatever else it shall."""
        for host in list(self._hosts.values()):
            with self._changed:
                desired = host.desired or Desired()
                others = tuple(s for s in desired.shares if s.fleet != self._fleet)
                mine = () if share is None else (replace(share, homes=host.homes),)
                generation = max(
                    desired.generation, 0 if host.reported is None else host.reported.generation
                )
                new = replace(desired, generation=generation + 1, shares=others + mine)
                if replace(desired, generation=generation + 1) == new:
                    continue
                host.desired = new
            self._publish(self._topic(host, "desired"), bus.encode(new), retain=True)

    def _publish(self, topic: str, octets: bytes, *, retain: bool) -> None:
        """Until the broker has it; from the caller's thread."""
        end_s = time.monotonic() + READY_S
        while time.monotonic() < end_s:
            self._check()
            sent = asyncio.run_coroutine_threadsafe(
                self._link.publish(topic, octets, retain=retain), self._loop
            )
            if sent.result():
                return
            time.sleep(0.2)
        raise EnvironmentFailure(f"{topic}: the broker does not take it")

    def _host_of(self, member: int) -> _Host:
        return next(host for host in self._hosts.values() if member in host.members)

    def _topic(self, host: _Host, leaf: str) -> str:
        return bus.host_topic(self._site, host.name, leaf)

    # --- presence ---------------------------------------------------------------------------------

    def _presence(self, host: _Host) -> list[Event]:
        """What a host's absence or return means for its members. While we are cut off ourselves,
        nobody knows, and nothing is said.
        """
        if self._up_s is None:
            return []
        now_s = time.monotonic()
        silent_s = now_s - max(host.heard_s, self._up_s)
        is_lost = silent_s > LOST_S or (not host.is_online and now_s - self._up_s > LOST_S)
        is_lost = is_lost or (not host.is_online and host.heard_s > self._up_s)
        if is_lost == host.is_lost:
            return []
        host.is_lost = is_lost
        _log.warning("host %s is %s", host.name, "lost" if is_lost else "back")
        name, reason = ("power_off", bus.HOST_LOST) if is_lost else ("power_on", bus.HOST_BACK)
        return [Event(self._now_ms, member, name, {"reason": reason}) for member in host.members]

    # --- the thread of the bus --------------------------------------------------------------------

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._main = self._loop.create_task(self._run())
        try:
            self._loop.run_until_complete(self._main)
        except asyncio.CancelledError:
            _log.debug("bus closed")
        except BaseException as error:  # told to whoever takes the next turn
            with self._changed:
                self._failure = error
                self._changed.notify_all()
            raise
        finally:
            self._loop.close()

    def _stop(self) -> None:
        self._main.cancel()

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._link.run())
            tasks.create_task(self._keep_sending())

    def _check(self) -> None:
        if self._failure is not None or not self._thread.is_alive():
            raise EnvironmentFailure(f"fleet bus: ended ({self._failure})") from self._failure

    async def _on_up(self) -> None:
        with self._changed:
            self._up_s = time.monotonic()
            for host in self._hosts.values():
                host.sent = host.outbox.acknowledged
            known = [(host, host.desired) for host in self._hosts.values() if host.desired]
            images = dict(self._share.images)
        # A broker that was killed may have forgotten what it was to keep.
        for name, digest in images.items():
            topic = bus.image_topic(self._site, digest)
            await self._link.publish(topic, self._files[name], retain=True)
        for host, desired in known:
            await self._link.publish(self._topic(host, "desired"), bus.encode(desired), retain=True)
        self._wake.set()

    async def _keep_sending(self) -> None:
        while True:
            messages = []
            with self._changed:
                if not self._link.is_up:
                    self._up_s = None
                for host in self._hosts.values():
                    messages += self._due(host)
            for topic, octets in messages:
                await self._link.publish(topic, octets)
            try:
                async with asyncio.timeout(1.0):
                    await self._wake.wait()
            except TimeoutError:
                pass  # time to see whether something is to be said again
            self._wake.clear()

    def _catch_up(self) -> None:
        """Before a process that goes on for another one finds that times are over: what was told
        meanwhile is on its way.
        """
        end_s = time.monotonic() + CATCH_UP_S * self._catches_up
        self._catches_up = False
        while (left_s := end_s - time.monotonic()) > 0:
            self._check()
            self._changed.wait(min(left_s, 1.0))

    def _mind_restart(self, host: _Host) -> None:
        """What came for this turn may say that hubs and devices began anew."""
        if host.is_new:  # so are its devices, and it knows of no order
            host.ordered_before += host.outbox.last
            host.outbox = Outbox(self._fleet, f"{int(host.outbox.source) + 1}")
            host.sent = host.released = 0
            host.newest.clear()
            self._restarted.update(host.members)
        for event in host.told:
            if event.name == "power_on" and event.fields.get("reason") == bus.HOST_RESTARTED:
                carried = event.fields.get("orders")
                if isinstance(carried, int) and host.newest.get(event.member, 0) <= carried:
                    self._restarted.add(event.member)

    def _due(self, host: _Host) -> list[tuple[str, bytes]]:
        """Orders and acknowledgements to be sent now."""
        messages = []
        if host.says_safe and host.safe is not None and host.safe.source:
            messages.append((self._topic(host, "seen"), bus.encode(host.safe)))
            host.says_safe = False
        if host.is_new:
            return messages
        if time.monotonic() - host.progress_s > RESEND_S:
            host.sent = host.outbox.acknowledged
        for batch in host.outbox.batches(host.sent, WINDOW):
            if batch.first > host.released:
                break
            items = batch.items[: host.released + 1 - batch.first]
            batch = batch._replace(items=items)
            if not host.sent > host.outbox.acknowledged:
                host.progress_s = time.monotonic()
            messages.append((self._topic(host, "orders"), bus.encode(batch)))
            host.sent = batch.first + len(items) - 1
        return messages

    def _release(self) -> None:
        for host in self._hosts.values():
            host.released = host.outbox.last
        self._loop.call_soon_threadsafe(self._wake.set)

    def _settle(self) -> None:
        for host in self._hosts.values():
            host.says_safe = host.says_safe or host.safe != host.given
            host.safe = host.given

    def _on_message(self, message: Incoming) -> None:
        try:
            name, leaf = bus.split_topic(message.topic)
            with self._changed:
                host = self._hosts.get(name)
                if host is None:
                    if self._dealt:
                        return
                    host = self._hosts[bus.bus_name("host", name)] = _Host(name)
                self._take(host, leaf, message)
                self._changed.notify_all()
        except (DecodeError, ConfigError) as error:
            _log.warning("%s: %s", message.topic, error)

    def _take(self, host: _Host, leaf: str, message: Incoming) -> None:
        if leaf != "desired":  # that is ours, or another coordinator's
            host.heard_s = time.monotonic()
        match leaf:
            case "availability":
                host.is_online = message.payload == bus.ONLINE
            case "reported":
                host.reported = bus.decode_reported(message.payload)
            case "desired":
                if message.payload:
                    host.desired = bus.decode_desired(message.payload)
            case "acks":
                if host.outbox.acknowledge(bus.decode_ack(message.payload)):
                    host.progress_s = time.monotonic()
                    self._wake.set()
            case "events":
                self._take_events(host, bus.decode_events(message.payload))
            case "answer":
                if message.correlation in self._answers:
                    self._answers[message.correlation] = bus.decode_answer(message.payload)

    def _take_events(self, host: _Host, batch: bus.Batch) -> None:
        events = [e for e in host.inbox.take(batch) if e.member in host.members]
        host.told += events
        if batch.items and not events:
            host.says_safe = True  # perhaps it did not hear of it
            self._wake.set()


def _plain(value: Any) -> str:
    """Times of TOML, as a plan takes them as well."""
    return str(value.isoformat())
