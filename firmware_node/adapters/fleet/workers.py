"""Processes that run the homes of a fleet, each a shard, in step with one another.

Each worker makes its own stock from the plan, which gives the same octets everywhere, so only
orders and events travel. Homes are dealt out like cards: neighbours, which a wave often names
together, land in different processes. The events of a turn are put in order of time and member,
so their order does not tell how many workers there are.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

from firmware_node.errors import EnvironmentFailure
from firmware_node.fleet.home import Kept
from firmware_node.fleet.shard import Shard
from firmware_node.fleet.stock import Stock
from firmware_node.fleet.terms import Event, Order, Plan

STOP_S = 10  # that a worker has to end once it was told to


class Workers:
    """``count`` processes; a context manager that leaves none behind.

    Raises:
        EnvironmentFailure: a worker ended that was not told to; then none goes on.
    """

    def __init__(
        self,
        plan: Plan,
        count: int,
        *,
        files: Mapping[str, bytes] | None = None,
        begin_ms: int = 0,
        kept: Mapping[int, Kept] | None = None,
        absent: frozenset[int] = frozenset(),
        homes: range | None = None,  # consecutive ones; default: all of the plan's
    ) -> None:
        self._plan = plan
        self._shape = plan.shape
        first = plan.shape.first_index
        all_homes = range(first, first + plan.shape.homes) if homes is None else homes
        self._first_home = all_homes.start - first
        self._count = max(1, min(count, len(all_homes)))
        self._next_ms: list[int | None] = [begin_ms] * self._count
        self._pipes: list[Connection] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self._threads = ThreadPoolExecutor(self._count, thread_name_prefix="shard")
        for number in range(self._count):
            mine = {
                member: state
                for member, state in (kept or {}).items()
                if self._owner(member) == number
            }
            process, pipe = _started()
            self._processes.append(process)
            self._pipes.append(pipe)
            share = all_homes[number :: self._count]
            try:
                pipe.send((plan, dict(files or {}), share, begin_ms, mine, absent))
            except OSError as error:  # else a pipe that broke would be taken for our output's
                failure = self._ended(number)
                self.close()
                raise failure from error

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def count(self) -> int:
        """Processes."""
        return self._count

    @property
    def next_ms(self) -> int | None:
        """When something happens by itself in any home."""
        return min((at for at in self._next_ms if at is not None), default=None)

    def turn(self, end_ms: int, orders: Sequence[Order]) -> list[Event]:
        """All shards to the end of the turn, at once; their events by time and then by member."""
        shares: list[list[Order]] = [[] for _ in self._pipes]
        for order in orders:
            shares[self._owner(order.member)].append(order)

        def run(number: int) -> list[Event]:
            next_ms = self._next_ms[number]
            if not shares[number] and (next_ms is None or next_ms > end_ms):
                return []
            events, self._next_ms[number] = self._ask(number, "turn", end_ms, shares[number])
            return [Event(*event) for event in events]

        events = [e for share in self._threads.map(run, range(self._count)) for e in share]
        events.sort(key=_order_of)
        return events

    def ready(self) -> None:
        """Return when every device of every shard has been made."""
        for number in range(self._count):
            self._ask(number, "ready")

    def show(self, member: int) -> dict[str, Any]:
        """See ``FleetHome.show``."""
        shown: dict[str, Any] = self._ask(self._owner(member), "show", member)
        return shown

    def keep_changed(self) -> dict[int, Kept]:
        """What every device made durable that wrote something since this was last asked."""
        kept: dict[int, Kept] = {}
        for number in range(self._count):
            kept |= self._ask(number, "keep_changed")
        return kept

    def sizes(self) -> list[int]:
        """Resident memory of each worker, bytes."""
        return [self._ask(number, "size") for number in range(self._count)]

    def close(self) -> None:
        """End all workers."""
        for pipe in self._pipes:
            with contextlib.suppress(OSError):
                pipe.send(("end", ()))
            pipe.close()
        for process in self._processes:
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._threads.shutdown()

    def _owner(self, member: int) -> int:
        return (member // self._shape.per_home - self._first_home) % self._count

    def _ask(self, number: int, what: str, *args: object) -> Any:
        pipe = self._pipes[number]
        try:
            pipe.send((what, args))
            return pipe.recv()
        except (EOFError, OSError) as error:
            raise self._ended(number) from error

    def _ended(self, number: int) -> EnvironmentFailure:
        code = self._processes[number].wait(STOP_S)
        return EnvironmentFailure(f"fleet: worker {number} ended, exit code {code}")


def _order_of(event: Event) -> tuple[int, int]:
    return event.at_ms, event.member


def _started() -> tuple[subprocess.Popen[bytes], Connection]:
    """A worker and the pipe to it.

    A fresh interpreter: a fork would take over the run's sockets and threads, and what the standard
    library spawns first imports whatever the run was started with.
    """
    near, far = socket.socketpair()
    with far:
        process = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import work; work({far.fileno()})"],
            pass_fds=(far.fileno(),),
            stdin=subprocess.DEVNULL,
        )
    return process, Connection(near.detach())


def work(descriptor: int) -> None:
    """A worker: a shard that does what its pipe says, until that ends or nobody is there.

    What a shard raises is a mistake of ours: it ends the worker, and with it the run.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # the run decides what they mean
        signal.signal(number, signal.SIG_IGN)
    # A run that was killed may have left an answer unread.
    with Connection(descriptor) as pipe, contextlib.suppress(EOFError, ConnectionError):
        plan, files, homes, begin_ms, kept, absent = pipe.recv()
        stock = Stock(plan, files)
        shard = Shard(plan, stock, homes, begin_ms=begin_ms, kept=kept, absent=absent)
        verbs = _verbs(shard)
        while True:
            what, args = pipe.recv()
            if what == "end":
                return
            pipe.send(verbs[what](*args))


def _verbs(shard: Shard) -> dict[str, Callable[..., object]]:
    def turn(end_ms: int, orders: Sequence[Order]) -> object:
        # Plain tuples, for a named one costs its class's name each time.
        events = [tuple(event) for event in shard.turn(end_ms, orders)]
        return events, shard.next_ms

    return {
        "turn": turn,
        "ready": lambda: None,
        "show": shard.show,
        "keep_changed": shard.keep_changed,
        "size": _resident,
    }


def _resident() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096
