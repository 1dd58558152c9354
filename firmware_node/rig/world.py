"""A HAN in virtual time: one hub, its devices, a seeded air between them.

Everything that happens is an entry of one heap, ordered by time and then by number, so a seed
gives the same run every time. The air answers ZDO as a radio does. Records are committed after
each step, before its effects leave, as the daemon does.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from firmware_node.boundary import (
    CarryMessage,
    Effect,
    Frame,
    FrameReceived,
    Input,
    Machine,
    MessageArrived,
    MessageUp,
    NetworkUp,
    Notify,
    PeerAnnounced,
    Reboot,
    SendConfirmed,
    SendFrame,
    Started,
    Storage,
)
from firmware_node.terms import COORDINATOR, EntityId, ShortAddress
from firmware_node.wire import ota, tunneling, zcl, zdo

CHANNEL = 15
RESTART_MS = 500
DEVICE_CLUSTERS = (zcl.BASIC_CLUSTER, tunneling.CLUSTER)
HUB_CLUSTERS = (zcl.TIME_CLUSTER, ota.CLUSTER)


class SeededEntropy:
    """``boundary.Entropy`` from a seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - repeatable on purpose

    def below(self, bound: int) -> int:
        """See ``boundary.Entropy``."""
        return self._random.randrange(bound)

    def octets(self, size: int) -> bytes:
        """See ``boundary.Entropy``."""
        return self._random.randbytes(size)


@dataclass(frozen=True, slots=True)
class Air:
    """What the air does to frames; probabilities in percent."""

    latency_ms: int = 5
    jitter_ms: int = 0
    loss: int = 0
    duplication: int = 0
    corruption: int = 0


@dataclass(slots=True)
class Home:
    """A device of the world: how it is made again after a restart, and what it keeps."""

    entity_id: EntityId
    address: ShortAddress
    make: Callable[[], tuple[Machine, Storage]]
    machine: Machine
    storage: Storage
    starts: int = 1
    life: int = 0  # frames and timers of an earlier life are dropped


@dataclass
class World:
    """See the module."""

    seed: int = 0
    air: Air = field(default_factory=Air)
    now_ms: int = 0
    notes: list[tuple[int, EntityId | None, Notify]] = field(default_factory=list)
    head_end_effects: list[Effect] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)  # noqa: S311
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._number = 0
        self._hub: Machine | None = None
        self._head_end: Machine | None = None
        self._hub_id = EntityId(bytes(8))
        self.homes: dict[EntityId, Home] = {}
        self.after_event: Callable[[], None] = lambda: None

    def set_hub(self, hub: Machine, entity_id: EntityId, head_end: Machine | None = None) -> None:
        """The coordinator, and who receives what it sends up."""
        self._hub, self._hub_id, self._head_end = hub, entity_id, head_end
        self._run_hub(Started())

    def add(self, entity_id: EntityId, make: Callable[[], tuple[Machine, Storage]]) -> Home:
        """A device joins."""
        address = ShortAddress(0x1000 + len(self.homes))
        machine, storage = make()
        home = Home(entity_id, address, make, machine, storage)
        self.homes[entity_id] = home
        self._start(home)
        return home

    def restart(self, home: Home) -> None:
        """Power off and on: what was not committed is gone with the machine."""
        home.life += 1
        home.starts += 1
        home.machine, home.storage = home.make()
        self._start(home)

    def tell_hub(self, item: Input) -> None:
        """An input for the hub, now."""
        self._run_hub(item)

    def tell_head_end(self, item: Input) -> None:
        """An input for the head end, now."""
        self._run_head_end(item)

    def tell(self, home: Home, item: Input) -> Sequence[Effect]:
        """An input for a device, now."""
        return self._run(home, item)

    def run_until(self, done: Callable[[], bool], limit_ms: int = 3_600_000) -> bool:
        """Let things happen until ``done`` or the limit; whether it is done."""
        end = self.now_ms + limit_ms
        while not done():
            if not self._heap or self._heap[0][0] > end:
                self.now_ms = end
                return done()
            at, _, happen = heapq.heappop(self._heap)
            self.now_ms = max(self.now_ms, at)
            happen()
            self.after_event()
        return True

    def run_for(self, milliseconds: int) -> None:
        """Let that much time pass."""
        self.run_until(lambda: False, milliseconds)

    def names(self, entity_id: EntityId | None = None) -> list[str]:
        """The names of the notifications of a device, in order; None: the hub's."""
        return [note.name for _, who, note in self.notes if who == entity_id]

    # --- machines ---------------------------------------------------------------------------------

    def _start(self, home: Home) -> None:
        self._run(home, Started())
        self._run(home, NetworkUp(home.address, CHANNEL))
        self._run_hub(PeerAnnounced(home.address, home.entity_id))

    def _run(self, home: Home, item: Input | None) -> Sequence[Effect]:
        effects = home.machine.step(item, self.now_ms)
        home.storage.commit()
        for effect in effects:
            match effect:
                case SendFrame():
                    self._send(effect, home.address)
                case Notify():
                    self.notes.append((self.now_ms, home.entity_id, effect))
                case Reboot():
                    home.life += 1
                    self._at(RESTART_MS, lambda: self.restart(home))
                case _:
                    pass
        self._arm(home)
        return effects

    def _arm(self, home: Home) -> None:
        wake_at, life = home.machine.wake_at, home.life

        def wake() -> None:
            if home.life == life and home.machine.wake_at == wake_at:
                self._run(home, None)

        if wake_at is not None:
            self._at(max(wake_at - self.now_ms, 0), wake)

    def _run_hub(self, item: Input | None) -> None:
        assert self._hub is not None
        self._take_hub(self._hub.step(item, self.now_ms))
        wake_at = self._hub.wake_at

        def wake() -> None:
            assert self._hub is not None
            if self._hub.wake_at == wake_at:
                self._run_hub(None)

        if wake_at is not None:
            self._at(max(wake_at - self.now_ms, 0), wake)

    def _take_hub(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case SendFrame():
                    self._send(effect, COORDINATOR)
                case MessageUp(message=message):
                    self._run_head_end(MessageArrived(message))
                case Notify():
                    self.notes.append((self.now_ms, None, effect))
                case _:
                    self.head_end_effects.append(effect)

    def _run_head_end(self, item: Input) -> None:
        if self._head_end is None:
            return
        for effect in self._head_end.step(item, self.now_ms):
            if isinstance(effect, CarryMessage):
                self._run_hub(effect)
            else:
                self.head_end_effects.append(effect)

    # --- air --------------------------------------------------------------------------------------

    def _at(self, delay_ms: int, happen: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._heap, (self.now_ms + delay_ms, self._number, happen))

    def _send(self, effect: SendFrame, source: ShortAddress) -> None:
        frame = effect.frame
        arrived = self._fly(frame, source, guarded=bool(effect.tag))
        if effect.tag:
            confirm = SendConfirmed(effect.tag, arrived)
            self._at(2 * self.air.latency_ms, lambda: self._confirm(source, confirm))

    def _confirm(self, source: ShortAddress, confirm: SendConfirmed) -> None:
        if source == COORDINATOR:
            self._run_hub(confirm)
            return
        for home in self.homes.values():
            if home.address == source:
                self._run(home, confirm)

    def _fly(self, frame: Frame, source: ShortAddress, *, guarded: bool) -> bool:
        """Whether it arrives; what is APS-acknowledged has an integrity code and is not corrupted."""
        if self._random.randrange(100) < self.air.loss:
            return False
        corrupted = self._random.randrange(100) < self.air.corruption
        if corrupted and frame.payload and not guarded:
            at = self._random.randrange(len(frame.payload))
            octets = bytearray(frame.payload)
            octets[at] ^= 1 << self._random.randrange(8)
            frame = frame._replace(payload=bytes(octets))
        copies = 2 if self._random.randrange(100) < self.air.duplication else 1
        received = Frame(
            source,
            frame.endpoint,
            frame.peer_endpoint,
            frame.profile,
            frame.cluster,
            frame.payload,
            frame.broadcast,
        )
        for _ in range(copies):
            delay = self.air.latency_ms + self._random.randrange(self.air.jitter_ms + 1)
            self._at(delay, lambda: self._arrive(frame.peer, received))
        return True

    def _arrive(self, target: ShortAddress, frame: Frame) -> None:
        if frame.profile == zdo.PROFILE and not frame.cluster & zdo.RESPONSE:
            self._answer_zdo(target, frame)
            return
        if target == COORDINATOR:
            self._run_hub(FrameReceived(frame))
            return
        for home in list(self.homes.values()):
            if home.address == target or frame.broadcast:
                self._run(home, FrameReceived(frame))

    def _answer_zdo(self, target: ShortAddress, frame: Frame) -> None:
        """The radios answer; only the hub has something that devices look for."""
        hub = zdo.LocalNode(
            COORDINATOR,
            self._hub_id,
            (zdo.Endpoint(1, zcl.SMART_ENERGY_PROFILE, 0x0500, HUB_CLUSTERS, DEVICE_CLUSTERS),),
        )
        if target != COORDINATOR and not frame.broadcast:
            return
        answer = zdo.answer(frame.cluster, frame.payload, hub)
        if answer is not None:
            reply = Frame(frame.peer, 0, 0, zdo.PROFILE, frame.cluster | zdo.RESPONSE, answer)
            self._send(SendFrame(reply), COORDINATOR)
