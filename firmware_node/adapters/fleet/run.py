"""A fleet's run: turns, the campaign between them, the journal, and whoever looks on.

    the homes run a turn            ``Workers.turn``, in their processes
    the campaign hears of it        ``Campaign.turn``: events in, orders for the next turn out
    it is written down              ``Journal``; committed a few times a second, with what the
                                    devices keep, so that a kill costs seconds
    it is shown                     ``Live``, which terminal, browser and metrics read

Virtual time goes as fast as the processors let it, or ``speed`` times as fast as the wall clock.
Turns in which nothing can happen are left out. People's orders wait for the next turn; they are
part of the run, so they are written down as well.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from firmware_node.adapters.fleet.journal import Journal
from firmware_node.errors import ConfigError
from firmware_node.fleet.campaign import Campaign, Turn
from firmware_node.fleet.home import Kept
from firmware_node.fleet.live import Live, Snapshot, campaign_state
from firmware_node.fleet.live_json import row_document
from firmware_node.fleet.results import results
from firmware_node.fleet.terms import Event, Order, Plan

COMMIT_S: Final = 1.0  # wall time between commits
UPDATE_S: Final = 0.25  # wall time between updates of the views
# Virtual seconds in a second while the operator has the campaign paused: what is under way goes
# on, and the clock does not run off.
PAUSED_SPEED: Final = 60.0
EVENTS_SHOWN: Final = 200  # of one device, to whoever asks
HOSTS: Final = "hosts"  # in the journal: their state, and the orders for the turn that comes


class Homes(Protocol):
    """Whoever runs the homes: ``Workers`` here, ``Hosts`` over the bus."""

    @property
    def next_ms(self) -> int | None:
        """When something happens by itself in any home."""

    def turn(self, end_ms: int, orders: Sequence[Order]) -> list[Event]:
        """All homes to the end of the turn; their events by time and then by member."""

    def show(self, member: int) -> dict[str, Any]:
        """A device's account of itself."""

    def keep_changed(self) -> dict[int, Kept]:
        """What every device made durable that wrote something since this was last asked."""


class Far(Protocol):
    """What homes on hosts need besides: ``Hosts``."""

    def again(self, campaign: Campaign, now_ms: int, orders: Sequence[Order]) -> list[Order]:
        """These orders, and those that members need whose hubs and devices began anew."""

    def state(self) -> dict[str, Any]:
        """What the journal keeps of the hosts, as of the end of the last turn."""

    def settle(self) -> None:
        """That, the orders and the events so far are durable."""


class View(Protocol):
    """A terminal."""

    def show(self, snapshot: Snapshot, wall_s: float) -> None:
        """If it is time for it."""

    def end(self, snapshot: Snapshot) -> None:
        """The last picture."""


@dataclass
class FleetRun:
    """See the module; a ``FleetBackend``.

    ``campaign`` may have a history; then the run goes on from the journal's last turn.
    ``speed`` 0: as fast as it goes. ``stop_at_ms``: the run ends there, whatever is under way.
    ``far``: the homes, where hosts run them. They act upon what they are told, and nobody can take
    it back: so orders are committed before the turn in which they go out.
    """

    plan: Plan
    homes: Homes
    campaign: Campaign
    journal: Journal
    view: View
    speed: float = 0.0
    stop_at_ms: int | None = None
    now_ms: int = 0
    far: Far | None = None
    stopping: bool = False  # leave as it stands, after this turn
    _live: Live = field(init=False)
    _actions: list[str] = field(init=False, default_factory=list)
    _orders: list[Order] = field(init=False, default_factory=list)  # of people
    _look: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _homes_free: asyncio.Lock = field(init=False, default_factory=asyncio.Lock)
    _committed_s: float = field(init=False, default=0.0)
    _updated_s: float = field(init=False, default=0.0)
    _unseen: set[int] = field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        self._live = Live(self.plan)
        self._unseen.update(range(self.plan.shape.size))

    async def run(self, first_orders: Sequence[Order] = ()) -> str:
        """To the end: ``done``, ``stopped`` (by threshold or operator), ``limit`` or ``left``."""
        limit_ms = min(self.plan.limit_ms, self.stop_at_ms or self.plan.limit_ms)
        orders = list(first_orders)
        if self.campaign.state == "ready":
            self._actions.insert(0, "start")  # whoever looked on may have wanted something already
        begin_s, begin_ms = time.monotonic(), self.now_ms
        self._committed_s = begin_s
        ended = "left"
        while not self.stopping:
            if self.campaign.is_over:
                ended = self.campaign.state
                break
            if self.now_ms >= limit_ms:
                ended = "limit"
                break
            asked = self._take_orders()
            orders += asked
            end_ms = self._next_turn(orders, limit_ms)
            if end_ms is None:
                ended = "limit"  # nothing will ever happen by itself
                break
            end_ms = await self._until(end_ms, begin_ms, begin_s)
            if self._orders and not orders:
                continue  # somebody wanted something while we waited
            if orders:
                self.journal.put_orders(end_ms - self.plan.turn_ms, orders)
                if self.far is not None:
                    self._commit("running", ())
            began_s = time.monotonic()
            async with self._homes_free:
                events = await asyncio.to_thread(self.homes.turn, end_ms, orders)
            self._live.turn_took(time.monotonic() - began_s)
            self.now_ms = end_ms
            wanted = bool(asked or self._actions)
            orders = self._after_turn(events)
            await self._write_down(orders, at_once=wanted)
        await self._write_down(orders, ended)
        self._update(last=True)
        self.view.end(self._live.snapshot())
        return ended

    def stop(self) -> None:
        """Leave after this turn; the run can be gone on with."""
        self.stopping = True
        self._look.set()

    # --- FleetBackend -----------------------------------------------------------------------------

    def snapshot(self, since: int | None = None) -> Snapshot:
        """See ``FleetBackend``."""
        return self._live.snapshot(since)

    async def member(self, index: int) -> Mapping[str, Any]:
        """See ``FleetBackend``."""
        async with self._homes_free:
            status = await asyncio.to_thread(self.homes.show, index)
        told = self.journal.events((index,), EVENTS_SHOWN)
        return row_document(self.campaign.rows[index]) | {
            "status": status,
            "events": [
                {"at_ms": event.at_ms, "name": event.name, "fields": dict(event.fields)}
                for event in told
            ],
        }

    async def order(self, order: Order) -> str:
        """See ``FleetBackend``."""
        self._orders.append(order)
        self._look.set()
        who = self.plan.shape.member(order.member).entity_id
        return f"{order.verb} {who} in the next turn"

    async def campaign_action(self, action: str) -> str:
        """See ``FleetBackend.campaign``."""
        action = "start" if action == "resume" else action
        if self.campaign.state in ("stopped", "done"):
            raise ConfigError(f"the campaign is {self.campaign.state}")
        if "stop" in self._actions:
            raise ConfigError("the campaign is being stopped")
        self._actions.append(action)
        self._look.set()
        return f"{action} after this turn"

    async def results(self) -> Mapping[str, Any]:
        """See ``FleetBackend``."""
        return results(self.plan, self.campaign, self.now_ms)

    # --- turns ------------------------------------------------------------------------------------

    def _take_orders(self) -> list[Order]:
        taken, self._orders = self._orders, []
        return taken

    def _next_turn(self, orders: Sequence[Order], limit_ms: int) -> int | None:
        """The end of the next turn in which something can happen."""
        turn_ms = self.plan.turn_ms
        if orders or self._actions:
            return self.now_ms + turn_ms
        times = [at for at in (self.homes.next_ms, self.campaign.wake_at) if at is not None]
        if not times:
            return None
        next_ms = max(-(-min(times) // turn_ms) * turn_ms, self.now_ms + turn_ms)
        return min(next_ms, -(-limit_ms // turn_ms) * turn_ms)

    async def _until(self, end_ms: int, begin_ms: int, begin_s: float) -> int:
        """Wait as long as the speed asks for; whoever wants something ends the wait."""
        races = self.campaign.state == "paused" and self.far is None
        speed = self.speed or (PAUSED_SPEED if races else 0.0)
        if not speed:
            await asyncio.sleep(0)
            return end_ms
        self._look.clear()
        if self.speed:
            due_s = begin_s + (end_ms - begin_ms) / 1000 / speed
        else:
            due_s = time.monotonic() + (end_ms - self.now_ms) / 1000 / speed
        while (wait_s := due_s - time.monotonic()) > 0 and not self._look.is_set():
            try:
                async with asyncio.timeout(min(wait_s, UPDATE_S)):
                    await self._look.wait()
            except TimeoutError:
                self._update()
        if wait_s <= 0:
            return end_ms
        gone_ms = int((time.monotonic() - begin_s) * 1000 * self.speed) if self.speed else 0
        turn_ms = self.plan.turn_ms
        soon_ms = max((begin_ms + gone_ms) // turn_ms * turn_ms, self.now_ms) + turn_ms
        return min(end_ms, soon_ms)

    def _after_turn(self, events: list[Event]) -> list[Order]:
        actions, self._actions = tuple(self._actions), []
        turn = Turn(self.now_ms, events, actions)
        following = self.campaign.turn(turn)
        if self.far is not None:
            following = self.far.again(self.campaign, self.now_ms, following)
        if events or actions:
            self.journal.put_turn(turn)
        self._live.happened(events)
        self._unseen |= self.campaign.rows.take_changed()
        if time.monotonic() - self._updated_s >= UPDATE_S:
            self._update()
        return following

    async def _write_down(
        self, orders: Sequence[Order], ended: str | None = None, *, at_once: bool = False
    ) -> None:
        due = at_once or time.monotonic() - self._committed_s >= COMMIT_S
        if ended is None and not due:
            return
        if ended not in ("done", "stopped", "limit"):
            async with self._homes_free:
                self.journal.put_kept(await asyncio.to_thread(self.homes.keep_changed))
        self._commit("running" if ended in (None, "left") else str(ended), orders)

    def _commit(self, state: str, orders: Sequence[Order]) -> None:
        """``orders``: those of the turn that comes, which are not in the journal yet."""
        if self.far is not None:
            self.journal.put_about(HOSTS, json.dumps({**self.far.state(), "next": orders}))
        self.journal.commit(self.now_ms, state)
        if self.far is not None:
            self.far.settle()
        self._committed_s = time.monotonic()

    def _update(self, last: bool = False) -> None:
        self._updated_s = time.monotonic()
        if last:
            self._unseen.update(range(self.plan.shape.size))
        rows = [self.campaign.rows[index] for index in sorted(self._unseen)]
        self._unseen.clear()
        self._live.update(self.now_ms, rows, campaign_state(self.campaign), self._updated_s)
        if not last:
            self.view.show(self._live.snapshot(), self._updated_s)


class Backend:
    """``FleetRun`` in the shape of ``FleetBackend``, whose ``campaign`` is a method."""

    def __init__(self, run: FleetRun) -> None:
        self._run = run
        self.snapshot = run.snapshot
        self.member = run.member
        self.order = run.order
        self.campaign = run.campaign_action
        self.results = run.results
