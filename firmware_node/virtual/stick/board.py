"""What the parts of a stick share: memory, time, timers, the two ways out, counters.

Nothing here knows a protocol. Times are microseconds and come from outside.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from firmware_node.errors import ConfigError
from firmware_node.virtual.air import Fate, Tuning
from firmware_node.virtual.nv import NvMemory
from firmware_node.wire import mt

SECOND = 1_000_000
FAULTS = ("no-srsp", "buffer-full", "reset-at", "vanish-at")


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong at the host's ``count``-th AF data request.

    ``no-srsp``: it is not answered. ``buffer-full``: it is refused. ``reset-at``: the stick resets
    instead. ``vanish-at``: the port is gone, as when the stick is pulled, for ``away_ms``.
    """

    kind: str
    count: int
    away_ms: int = 3000

    @classmethod
    def parse(cls, text: str) -> Fault:
        """Read ``KIND:COUNT`` or ``vanish-at:COUNT:AWAY_MS``.

        Raises:
            ConfigError: another kind or shape.
        """
        kind, *numbers = text.split(":")
        most = 2 if kind == "vanish-at" else 1
        if (
            kind not in FAULTS
            or not 1 <= len(numbers) <= most
            or not all(map(str.isdigit, numbers))
        ):
            raise ConfigError(
                f"fault {text!r}: expected one of {', '.join(FAULTS)} and :COUNT, "
                "for vanish-at also :MILLISECONDS"
            )
        return cls(kind, *map(int, numbers))


@dataclass(frozen=True, slots=True)
class StickSettings:
    """How a stick is built and configured."""

    strict: bool = True  # a frame reaches an endpoint of its own profile only
    fragmentation: bool = True  # without it a payload over one frame is refused
    revision: int = 20230507  # of the firmware, a date; hosts choose their ways by it
    # Of the stack, in the node descriptor: a trust centre before 21 exchanges no link keys.
    stack_revision: int = 22
    scan_us: int = 100_000  # time on a channel for beacons; a real scan takes 15 ms to 4 s
    seed: int = 0
    faults: tuple[Fault, ...] = ()


class Timer:
    """One call in the future; ``cancel`` takes it back."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[[], None]) -> None:
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        """Not any more."""
        self.call = None


class Board:
    """Shared by all parts of one stick.

    Attributes:
        host: frames for the host, in order, until the driver takes them.
        air: tunings and transmissions for the air, the same.
        counters: what tests and ``--counters`` look at; ``unknown_commands`` must stay 0.
    """

    def __init__(self, memory: NvMemory, settings: StickSettings) -> None:
        self.nv = memory
        self.settings = settings
        self.now_us = 0
        self.host: list[bytes] = []
        self.air: list[Tuning | tuple[int, bytes]] = []
        self.counters: Counter[str] = Counter()
        # Repeatable on purpose, and different in every stick of one air.
        self.random = random.Random(f"{settings.seed} {memory.hardware_ieee.hex()}")  # noqa: S311
        self._timers: list[tuple[int, int, Timer]] = []
        self._order = 0
        self._handle = 0
        self._fates: dict[int, Callable[[Fate], None] | None] = {}

    # --- the host ---------------------------------------------------------------------------------

    def tell(self, command: int, data: bytes) -> None:
        """A callback or an answer to the host."""
        self.host.append(mt.frame(command, data))

    def respond(self, command: int, data: bytes = b"\x00") -> None:
        """The answer to synchronous request ``command``; by default: success."""
        self.host.append(mt.frame(command | mt.RESPONSE, data))

    # --- the air ----------------------------------------------------------------------------------

    def transmit(self, octets: bytes, on_fate: Callable[[Fate], None] | None = None) -> None:
        """Send a MAC frame; ``on_fate`` is called when its fate is known."""
        self._handle = handle = self._handle + 1
        self._fates[handle] = on_fate
        self.air.append((handle, octets))

    def sent(self, handle: int, fate: Fate) -> None:
        """The air tells a fate; one of before a reset is nobody's any more."""
        if fate is Fate.NO_ACK:
            self.counters["frames_not_acknowledged"] += 1
        on_fate = self._fates.pop(handle, None)
        if on_fate is not None:
            on_fate(fate)

    def lose_all(self) -> None:
        """The air is gone, and with it every transmission under way."""
        for handle in list(self._fates):
            self.sent(handle, Fate.NO_ACK)

    # --- time -------------------------------------------------------------------------------------

    @property
    def wake_at(self) -> int | None:
        """When the next timer is due."""
        timers = self._timers
        while timers and timers[0][2].call is None:
            heapq.heappop(timers)
        return timers[0][0] if timers else None

    def after(self, delay_us: int, call: Callable[[], None]) -> Timer:
        """Call once, ``delay_us`` from now."""
        timer = Timer(call)
        self._order += 1
        heapq.heappush(self._timers, (self.now_us + delay_us, self._order, timer))
        return timer

    def run_timers(self) -> None:
        """Call what is due."""
        timers = self._timers
        while timers and timers[0][0] <= self.now_us:
            timer = heapq.heappop(timers)[2]
            if timer.call is not None:
                timer.call()

    def reset(self) -> None:
        """No timer and no transmission survives a reset."""
        self._timers.clear()
        self._fates.clear()
