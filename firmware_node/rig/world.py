"""A HAN in virtual time: one hub, its devices, a seeded air between them.

Everything that happens is an entry of one heap, ordered by time and then by number, so a seed
gives the same run every time. The air answers ZDO as a radio does. Records are committed after
each step, before its effects leave, as the daemon does.

A storage may raise in the middle of a step to say that the supply went; it passes through
``run_until`` to whoever planned the cut, who then calls ``restart``.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from firmware_node.boundary import (
    CarryMessage,
    Effect,
    Entropy,
    EraseAndReboot,
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
from firmware_node.errors import DecodeError
from firmware_node.terms import COORDINATOR, EntityId, ShortAddress
from firmware_node.wire import drlc, ota, tunneling, zcl, zdo

CHANNEL = 15
RESTART_MS = 500
DEVICE_CLUSTERS = (zcl.BASIC_CLUSTER, tunneling.CLUSTER)
HUB_CLUSTERS = (zcl.TIME_CLUSTER, ota.CLUSTER, drlc.CLUSTER)


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
    """What the air does to frames; probabilities in percent.

    A frame with a tag is APS-acknowledged, and its acknowledgement may be lost like a frame: it
    arrived, and its sender hears that it did not.
    """

    latency_ms: int = 5
    jitter_ms: int = 0
    loss: int = 0
    duplication: int = 0
    corruption: int = 0
    reordering: int = 0  # a frame is held until later ones have passed
    reordering_ms: int = 50  # at most
    delay: int = 0  # a frame comes when nobody waits for it any more
    delay_ms: int = 5_000


@dataclass(slots=True)
class Home:
    """A device of the world: how it is made again after a restart, and what it keeps."""

    entity_id: EntityId
    address: ShortAddress
    make: Callable[[], tuple[Machine, Storage]]
    machine: Machine
    storage: Storage
    erase: Callable[[], None] | None = None  # for a factory reset
    starts: int = 1
    life: int = 0  # frames and timers of an earlier life are dropped
    up: bool = True  # False between a restart and its end: nothing arrives
    armed_ms: int | None = None  # the wake-up that is on its way


@dataclass
class World:
    """See the module.

    ``after_event`` is called after everything that happened by itself; ``on_message`` with every
    GBCS message that comes up from the hub; ``on_note`` and ``on_effect`` with what else is told,
    which is collected unless somebody takes it.
    """

    seed: int = 0
    air: Air = field(default_factory=Air)
    now_ms: int = 0
    notes: list[tuple[int, EntityId | None, Notify]] = field(default_factory=list)
    head_end_effects: list[Effect] = field(default_factory=list)
    frames: int = 0  # that were sent
    frames_lost: int = 0
    entropy: Entropy | None = None  # None: from the seed
    hub_reachable: bool = True  # False: whatever goes to or comes from the hub is lost

    def __post_init__(self) -> None:
        self._entropy = self.entropy or SeededEntropy(self.seed)
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._number = 0
        self._hub: Machine | None = None
        self._hub_armed_ms: int | None = None
        self._head_end: Machine | None = None
        self._hub_id = EntityId(bytes(8))
        self.homes: dict[EntityId, Home] = {}
        self.after_event: Callable[[], None] = lambda: None
        self.on_message: Callable[[bytes], None] = lambda _: None
        self.on_note: Callable[[EntityId | None, Notify], None] = self._collect
        self.on_effect: Callable[[Effect], None] = self.head_end_effects.append

    def set_hub(self, hub: Machine, entity_id: EntityId, head_end: Machine | None = None) -> None:
        """The coordinator, and who receives what it sends up."""
        self._hub, self._hub_id, self._head_end = hub, entity_id, head_end
        self._hub_armed_ms = None
        self._run_hub(Started())

    def add(
        self,
        entity_id: EntityId,
        make: Callable[[], tuple[Machine, Storage]],
        erase: Callable[[], None] | None = None,
    ) -> Home:
        """A device joins. ``make`` is called for each of its lives, on what was made durable."""
        address = ShortAddress(0x1000 + len(self.homes))
        machine, storage = make()
        home = Home(entity_id, address, make, machine, storage, erase)
        self.homes[entity_id] = home
        self._start(home)
        return home

    def restart(self, home: Home) -> None:
        """Power off and on: what was not committed is gone with the machine."""
        self.power_off(home)
        home.starts += 1
        home.machine, home.storage = home.make()
        home.up = True
        self._start(home)

    def power_off(self, home: Home) -> None:
        """The device is silent until ``restart``."""
        home.life += 1
        home.up = False
        home.armed_ms = None

    def tell_hub(self, item: Input) -> None:
        """An input for the hub, now."""
        self._run_hub(item)

    def perform(self, effects: Sequence[Effect]) -> None:
        """What the hub did outside of a step."""
        self._take_hub(effects)

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

    @property
    def next_ms(self) -> int | None:
        """When the next thing happens by itself; None: never."""
        return self._heap[0][0] if self._heap else None

    def run_to(self, end_ms: int) -> None:
        """Let everything happen that is due by then, and be there."""
        heap = self._heap
        while heap and heap[0][0] <= end_ms:
            at, _, happen = heapq.heappop(heap)
            self.now_ms = max(self.now_ms, at)
            happen()
            self.after_event()
        self.now_ms = max(self.now_ms, end_ms)

    def after(self, delay_ms: int, happen: Callable[[], None]) -> None:
        """Let something happen then."""
        self._number += 1
        heapq.heappush(self._heap, (self.now_ms + delay_ms, self._number, happen))

    def _collect(self, who: EntityId | None, note: Notify) -> None:
        self.notes.append((self.now_ms, who, note))

    # --- machines ---------------------------------------------------------------------------------

    def _start(self, home: Home) -> None:
        life = home.life
        self._run(home, Started())
        if home.life != life:
            return  # its start ended in a restart
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
                    self.on_note(home.entity_id, effect)
                case Reboot():
                    self._reboot(home)
                case EraseAndReboot():
                    if home.erase is not None:
                        home.erase()
                    self._reboot(home)
                case _:
                    pass  # an answer for whoever told
        if home.up:
            self._arm(home)
        return effects

    def _reboot(self, home: Home) -> None:
        self.power_off(home)
        life = home.life

        def again() -> None:
            if home.life == life:
                self.restart(home)

        self.after(RESTART_MS, again)

    def _arm(self, home: Home) -> None:
        """One wake-up is on its way; one that comes early looks again."""
        wake_at, life = home.machine.wake_at, home.life
        if wake_at is None or (home.armed_ms is not None and home.armed_ms <= wake_at):
            return

        def wake() -> None:
            if home.life != life or home.armed_ms != wake_at:
                return
            home.armed_ms = None
            due = home.machine.wake_at
            if due is not None and due <= self.now_ms:
                self._run(home, None)
            else:
                self._arm(home)

        home.armed_ms = wake_at
        self.after(max(wake_at - self.now_ms, 0), wake)

    def _run_hub(self, item: Input | None) -> None:
        assert self._hub is not None
        self._take_hub(self._hub.step(item, self.now_ms))
        self._arm_hub(self._hub)

    def _arm_hub(self, hub: Machine) -> None:
        wake_at = hub.wake_at
        if wake_at is None or (self._hub_armed_ms is not None and self._hub_armed_ms <= wake_at):
            return

        def wake() -> None:
            if self._hub is not hub or self._hub_armed_ms != wake_at:
                return
            self._hub_armed_ms = None
            due = hub.wake_at
            if due is not None and due <= self.now_ms:
                self._run_hub(None)
            else:
                self._arm_hub(hub)

        self._hub_armed_ms = wake_at
        self.after(max(wake_at - self.now_ms, 0), wake)

    def _take_hub(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case SendFrame():
                    self._send(effect, COORDINATOR)
                case MessageUp(message=message):
                    self.on_message(message)
                    self._run_head_end(MessageArrived(message))
                case Notify():
                    self.on_note(None, effect)
                case _:
                    self.on_effect(effect)

    def _run_head_end(self, item: Input) -> None:
        if self._head_end is None:
            return
        for effect in self._head_end.step(item, self.now_ms):
            if isinstance(effect, CarryMessage):
                self._run_hub(effect)
            else:
                self.on_effect(effect)

    # --- air --------------------------------------------------------------------------------------

    def _chance(self, percent: int) -> bool:
        return percent > 0 and self._entropy.below(100) < percent

    def _send(self, effect: SendFrame, source: ShortAddress) -> None:
        frame, tag = effect
        self.frames += 1
        received = Frame(
            source,
            frame.endpoint,
            frame.peer_endpoint,
            frame.profile,
            frame.cluster,
            frame.payload,
            frame.broadcast,
        )
        life = self._life(source)
        unheard = not self.hub_reachable and COORDINATOR in (source, frame.peer)
        if unheard or self._chance(self.air.loss):
            self.frames_lost += 1
            if tag:
                self._confirm(source, life, SendConfirmed(tag, delivered=False), 0)
            return
        if not tag:  # what is APS-acknowledged has an integrity code and is not corrupted
            received = self._corrupt(received)
        delay_ms = self._delay()
        self.after(delay_ms, lambda: self._arrive(frame.peer, received, tag, life))
        if self._chance(self.air.duplication):
            again_ms = self._delay()
            self.after(again_ms, lambda: self._arrive(frame.peer, received, 0, life))

    def _corrupt(self, frame: Frame) -> Frame:
        if not frame.payload or not self._chance(self.air.corruption):
            return frame
        octets = bytearray(frame.payload)
        octets[self._entropy.below(len(octets))] ^= 1 << self._entropy.below(8)
        return frame._replace(payload=bytes(octets))

    def _delay(self) -> int:
        delay_ms = self.air.latency_ms
        if self.air.jitter_ms:
            delay_ms += self._entropy.below(self.air.jitter_ms + 1)
        if self._chance(self.air.reordering):
            delay_ms += 1 + self._entropy.below(self.air.reordering_ms)
        if self._chance(self.air.delay):
            delay_ms += self.air.delay_ms
        return delay_ms

    def _life(self, address: ShortAddress) -> int:
        home = self._home_at(address)
        return 0 if home is None else home.life

    def _home_at(self, address: ShortAddress) -> Home | None:
        index = address - 0x1000
        homes = list(self.homes.values())
        return homes[index] if 0 <= index < len(homes) else None

    def _arrive(self, target: ShortAddress, frame: Frame, tag: int, life: int) -> None:
        is_there = self._deliver(target, frame)
        if tag:
            heard = is_there and not self._chance(self.air.loss)
            self._confirm(frame.peer, life, SendConfirmed(tag, heard), self.air.latency_ms)

    def _confirm(
        self, source: ShortAddress, life: int, confirm: SendConfirmed, delay_ms: int
    ) -> None:
        def happen() -> None:
            if source == COORDINATOR:
                self._run_hub(confirm)
                return
            home = self._home_at(source)
            if home is not None and home.up and home.life == life:
                self._run(home, confirm)

        self.after(delay_ms, happen)

    def _deliver(self, target: ShortAddress, frame: Frame) -> bool:
        """Whether somebody is there to take it."""
        if frame.profile == zdo.PROFILE and not frame.cluster & zdo.RESPONSE:
            self._answer_zdo(target, frame)
            return True
        if frame.broadcast:
            for home in list(self.homes.values()):
                if home.up and home.address != frame.peer:
                    self._run(home, FrameReceived(frame))
            if frame.peer != COORDINATOR:
                self._run_hub(FrameReceived(frame))
            return True
        if target == COORDINATOR:
            self._run_hub(FrameReceived(frame))
            return True
        target_home = self._home_at(target)
        if target_home is None or not target_home.up:
            return False
        self._run(target_home, FrameReceived(frame))
        return True

    def _answer_zdo(self, target: ShortAddress, frame: Frame) -> None:
        """The radios answer, not the machines."""
        hub = zdo.Endpoint(1, zcl.SMART_ENERGY_PROFILE, 0x0500, HUB_CLUSTERS, DEVICE_CLUSTERS)
        nodes = [zdo.LocalNode(COORDINATOR, self._hub_id, (hub,))]
        device = zdo.Endpoint(1, zcl.SMART_ENERGY_PROFILE, 0x0502, DEVICE_CLUSTERS, HUB_CLUSTERS)
        nodes += [
            zdo.LocalNode(home.address, home.entity_id, (device,))
            for home in self.homes.values()
            if home.up
        ]
        for node in nodes:
            if node.short_address == frame.peer:
                continue
            if node.short_address != target and not frame.broadcast:
                continue
            try:
                answer = zdo.answer(frame.cluster, frame.payload, node)
            except DecodeError:
                continue  # the radio drops what it cannot read
            if answer is not None:
                cluster = frame.cluster | zdo.RESPONSE
                reply = Frame(frame.peer, 0, 0, zdo.PROFILE, cluster, answer)
                self._send(SendFrame(reply), node.short_address)
