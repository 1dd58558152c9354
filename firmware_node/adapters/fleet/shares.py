"""A host's share of a fleet: simulated homes in the time of the wall, and what is kept of them.

    orders come              ``take_orders``: each once, in order; they wait for the next step
    a step                   ``advance``, in a thread: the waiting orders, then turns up to now
    it is written down       one commit: devices' states, orders carried out, events
    it is told               ``to_send``: events that nobody has yet; the orders' acknowledgement

A share that was killed goes on from its last commit, as after a power cut of the whole street;
what its devices did since then never happened, and the orders that led there come again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from firmware_node.adapters.fleet.shard_store import ShardStore
from firmware_node.adapters.fleet.workers import Workers
from firmware_node.errors import ConfigError
from firmware_node.fleet.bus import BATCH_MAX, HOST_RESTARTED, Ack, Batch, Share
from firmware_node.fleet.home import Kept
from firmware_node.fleet.plan import overridden, read_plan
from firmware_node.fleet.shard import Shard
from firmware_node.fleet.stock import Stock
from firmware_node.fleet.streams import Inbox, Outbox
from firmware_node.fleet.terms import Event, Field, Order, Plan

STEP_S: Final = 0.5  # wall time between commits
WINDOW: Final = 8  # batches under way at once
RESEND_S: Final = 5.0  # without an acknowledgement, then they are sent again
WAITING_MAX: Final = 100_000  # orders between two steps; a coordinator sends no more unacknowledged
_OFF_VERBS: Final = ("pause", "remove")
_log = logging.getLogger(__name__)


class Homes(Protocol):
    """What runs homes: ``Workers``, or ``Here``. See ``Workers``."""

    def turn(self, end_ms: int, orders: Sequence[Order]) -> list[Event]: ...  # noqa: D102
    def show(self, member: int) -> dict[str, Any]: ...  # noqa: D102
    def keep_changed(self) -> dict[int, Kept]: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102


class Here:
    """Homes in this very process: for a host with few of them."""

    def __init__(self, shard: Shard) -> None:
        self._shard = shard

    def turn(self, end_ms: int, orders: Sequence[Order]) -> list[Event]:
        """See ``Workers.turn``."""
        events = self._shard.turn(end_ms, orders)
        return sorted(events, key=lambda event: (event.at_ms, event.member))

    def show(self, member: int) -> dict[str, Any]:
        """See ``FleetHome.show``."""
        return self._shard.show(member)

    def keep_changed(self) -> dict[int, Kept]:
        """See ``Workers.keep_changed``."""
        return self._shard.keep_changed()

    def close(self) -> None:
        """Nothing is left behind."""


def plan_of(share: Share) -> Plan:
    """The plan of a share.

    Raises:
        ConfigError: it is none, or the share is not in it.
    """
    plan = overridden(read_plan(share.plan), **share.options)
    first, last = share.homes
    shape = plan.shape
    if first < shape.first_index or last >= shape.first_index + shape.homes:
        raise ConfigError(f"{share.fleet}: homes {first} to {last} are not in the plan")
    return plan


class RunningShare:
    """See the module. Made in a thread, for it takes its time.

    Raises:
        ConfigError: the plan is wrong.
        StorageError: the store cannot be had.
        EnvironmentFailure: a worker ended.
    """

    def __init__(
        self,
        share: Share,
        path: Path,
        *,
        files: Mapping[str, bytes],
        workers: int,
        utc_ms: Callable[[], float],
    ) -> None:
        self.share = share
        self._utc_ms = utc_ms
        self._plan = plan_of(share)
        self._store = store = ShardStore(path)
        shape = self._plan.shape
        first, last = share.homes
        self._members = range(
            (first - shape.first_index) * shape.per_home,
            (last + 1 - shape.first_index) * shape.per_home,
        )
        self._held = store.held()
        self._inbox = store.inbox(share.fleet)
        self._carried = self._inbox.ack()
        self._waiting: list[Order] = []
        self._free = asyncio.Lock()  # homes do one thing at a time
        self._outbox = Outbox(
            share.fleet, store.source, store.events(), acknowledged=store.acknowledged
        )
        self._sent = self._outbox.acknowledged
        self._progress_s = time.monotonic()
        before_ms = store.now_ms
        self.now_ms = 0 if before_ms is None else max(before_ms, self._target_ms())
        homes = range(first, last + 1)
        options: dict[str, Any] = {
            "begin_ms": self.now_ms,
            "kept": store.kept(),
            "absent": frozenset(self._held),
        }
        self._homes: Homes
        if workers:
            self._homes = Workers(self._plan, workers, files=files, homes=homes, **options)
        else:
            self._homes = Here(Shard(self._plan, Stock(self._plan, files), homes, **options))
        if before_ms is not None:
            self._tell_of_restart(before_ms)

    # --- orders and acknowledgements, as they come ------------------------------------------------

    def take_orders(self, batch: Batch) -> bool:
        """Whether some were new, and wait for the next step now."""
        if len(self._waiting) >= WAITING_MAX:
            return False
        orders = self._inbox.take(batch)
        # One that names a member of another host is nothing to us, and counts as carried out.
        self._waiting += [order for order in orders if order.member in self._members]
        return bool(orders)

    def take_ack(self, ack: Ack) -> bool:
        """Whether it made room for more events."""
        count = self._outbox.acknowledge(ack)
        if count:
            self._progress_s = time.monotonic()
            self._sent = max(self._sent, self._outbox.acknowledged)
        return bool(count)

    def to_send(self) -> list[Batch]:
        """Events that are not under way, as far as the window goes."""
        if time.monotonic() - self._progress_s >= RESEND_S:
            self.send_again()
        room = WINDOW - -(-(self._sent - self._outbox.acknowledged) // BATCH_MAX)
        batches = self._outbox.batches(self._sent, room) if room > 0 else []
        if batches:
            self._sent = batches[-1].first + len(batches[-1].items) - 1
        return batches

    def send_again(self) -> None:
        """The broker was away, or whoever takes the events: all that is not acknowledged."""
        self._sent = self._outbox.acknowledged
        self._progress_s = time.monotonic()

    @property
    def carried(self) -> Ack:
        """Orders that were carried out, durably."""
        return self._carried

    # --- steps ------------------------------------------------------------------------------------

    async def advance(self) -> None:
        """A step up to now, or for as long as one may take; then it is durable."""
        if self._outbox.is_full:
            _log.warning("%s: nobody takes its events; its time stands still", self.share.fleet)
            return
        orders, self._waiting = self._waiting, []
        seen = self._inbox
        taken = Inbox(seen.fleet, seen.source, seen.taken, seen.past)  # more may come meanwhile
        told = (self._outbox.last + 1, self._outbox.acknowledged)
        async with self._free:
            events = await asyncio.to_thread(self._step, orders, taken, told)
        self._outbox.put(events)
        self._carried = taken.ack()

    def _step(self, orders: list[Order], taken: Inbox, told: tuple[int, int]) -> list[Event]:
        turn_ms = self._plan.turn_ms
        end_s = time.monotonic() + STEP_S
        events: list[Event] = []
        if orders:
            self.now_ms += turn_ms
            events += self._homes.turn(self.now_ms, orders)
            self._hold(orders)
        target_ms = self._target_ms()
        most_ms = max(turn_ms, int(STEP_S * 1000 * self.share.speed) // turn_ms * turn_ms)
        while self.now_ms < target_ms:
            self.now_ms = min(self.now_ms + most_ms, target_ms)
            events += self._homes.turn(self.now_ms, ())
            if time.monotonic() >= end_s:
                break
        self._commit(taken, told, events)
        return events

    async def show(self, member: int) -> dict[str, Any]:
        """A device's account of itself, between two steps."""
        if member not in self._members:
            return {}
        async with self._free:
            return await asyncio.to_thread(self._homes.show, member)

    def close(self) -> None:
        """End it; the store stays."""
        self._homes.close()
        self._store.close()

    def _target_ms(self) -> int:
        """The last end of a turn that is over."""
        turn_ms = self._plan.turn_ms
        return max(self.share.now_ms(self._utc_ms()), 0) // turn_ms * turn_ms

    def _hold(self, orders: Sequence[Order]) -> None:
        for order in orders:
            if order.verb in _OFF_VERBS:
                self._held.add(order.member)
            elif order.verb in ("resume", "add"):
                self._held.discard(order.member)

    def _commit(self, taken: Inbox, told: tuple[int, int], events: Sequence[Event]) -> None:
        self._store.commit(
            self.now_ms,
            kept=self._homes.keep_changed(),
            held=self._held,
            orders=taken,
            first=told[0],
            events=events,
            acknowledged=told[1],
        )

    def _tell_of_restart(self, before_ms: int) -> None:
        """Every device lost its supply with the host, and has it again."""
        on = [member for member in self._members if member not in self._held]
        # Later orders than these find the devices as they are now.
        fields: Mapping[str, Field] = {"reason": HOST_RESTARTED, "orders": self._inbox.taken}
        events = [Event(before_ms, member, "power_off", fields) for member in on]
        events += [Event(self.now_ms, member, "power_on", fields) for member in on]
        self._commit(self._inbox, (self._outbox.last + 1, self._outbox.acknowledged), events)
        self._outbox.put(events)
