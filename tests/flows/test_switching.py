"""An ESME's load control and an HCALCS's switch, told as stories over the air of a world.

The two machines here wire the stages as a device and a hub do: time, switch, nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence

from firmware_node.boundary import (
    Effect,
    FrameReceived,
    Input,
    Machine,
    NetworkDown,
    NetworkUp,
    Notify,
    PeerAnnounced,
    Reboot,
    RebootRequested,
    SetRelay,
    Started,
    Storage,
)
from firmware_node.crypto import Keyring
from firmware_node.node.attributes import TimeClient, UtcLearned
from firmware_node.node.load_switch import LoadSwitch
from firmware_node.rig.comms_hub import CommsHub, HubSettings
from firmware_node.rig.hub_terms import Peer
from firmware_node.rig.load_control import LoadControl
from firmware_node.rig.memory_storage import Medium, MemoryStorage
from firmware_node.rig.world import Air, SeededEntropy, World
from firmware_node.terms import ActivationSettings, EntityId, LoadSwitchSettings
from firmware_node.tools.keys import build_keys
from firmware_node.wire import drlc, zcl
from firmware_node.wire.drlc import EventStatus, LoadControlEvent

HUB = EntityId.parse("00-DB-12-34-56-78-90-A2")
HCALCS = EntityId.parse("00-DB-12-34-56-78-90-A5")
ACB = EntityId.parse("90-B3-D5-1F-30-00-00-02")
KEYS = Keyring(build_keys(b"flows"))
UTC = 800_000_000
MINUTE_MS = 60_000


class Switch:
    """A device that is a switch and nothing else."""

    def __init__(self, storage: Storage, works: bool, settings: LoadSwitchSettings) -> None:
        self._time = TimeClient(ActivationSettings())
        self.switch = LoadSwitch(settings, storage.records, SeededEntropy(5))
        self.switch.set_running(works)

    @property
    def wake_at(self) -> int | None:
        times = (self._time.wake_at, self.switch.wake_at)
        return min((at for at in times if at is not None), default=None)

    def step(self, item: Input | None, now_ms: int) -> Sequence[Effect]:
        match item:
            case RebootRequested():
                return (Reboot("operator"),)
            case FrameReceived(frame=frame) if self._time.claims(frame):
                return self._on_time(item, now_ms)
            case FrameReceived(frame=frame) if not self.switch.claims(frame):
                return ()
            case NetworkUp() | NetworkDown():
                return (*self._on_time(item, now_ms), *self.switch.step(item, now_ms))
            case FrameReceived() | Started():
                return self.switch.step(item, now_ms)
            case None:
                effects: list[Effect] = []
                if self._time.wake_at is not None and self._time.wake_at <= now_ms:
                    effects += self._on_time(None, now_ms)
                if self.switch.wake_at is not None and self.switch.wake_at <= now_ms:
                    effects += self.switch.step(None, now_ms)
                return effects
        raise AssertionError(item)

    def _on_time(
        self, item: FrameReceived | NetworkUp | NetworkDown | None, now_ms: int
    ) -> Sequence[Effect]:
        effects: list[Effect] = []
        for output in self._time.step(item, now_ms):
            if isinstance(output, UtcLearned):
                effects += self.switch.learn_utc(output.utc, now_ms)
            else:
                effects.append(output)
        return effects


class EsmeHub:
    """A Comms Hub that plays an ESME too."""

    def __init__(self) -> None:
        self._hub = CommsHub(HubSettings(HUB, ACB, utc=UTC), KEYS)
        self.control = LoadControl(self._hub.utc)
        self.peer: Peer | None = None

    @property
    def wake_at(self) -> int | None:
        return self._hub.wake_at

    def step(self, item: Input | None, now_ms: int) -> Sequence[Effect]:
        match item:
            case PeerAnnounced():
                self.peer = Peer(item.entity_id, item.short_address)
            case FrameReceived(frame=frame) if frame.cluster == drlc.CLUSTER and self.peer:
                header, body = zcl.decode_header(frame.payload)
                if header.cluster_specific:
                    return self.control.step(self.peer, frame, header, body, now_ms)
                return ()
        return self._hub.step(item, now_ms)


class Story:
    """One hub, one switch, and its pin seen from outside."""

    def __init__(self, air: Air | None = None, seed: int = 0) -> None:
        self.world = World(seed, air or Air())
        self.hub = EsmeHub()
        self.world.set_hub(self.hub, HUB)
        self.medium = Medium(16 * 4096)
        self.works = True
        self.settings = LoadSwitchSettings(relays=("main",))
        self.edges: list[tuple[int, bool]] = []
        self.home = self.world.add(HCALCS, self._make)

    def _make(self) -> tuple[Machine, Storage]:
        storage = MemoryStorage(self.medium)
        return Watched(Switch(storage, self.works, self.settings), self.edges), storage

    def send(self, event: LoadControlEvent) -> int:
        assert self.hub.peer is not None
        self.world.perform(self.hub.control.send(self.hub.peer, event, self.world.now_ms))
        return event.issuer_event_id

    def closed(self) -> bool:
        return self.edges[-1][1]

    def settle(self) -> None:
        self.world.run_for(10_000)

    def status(self, event_id: int) -> EventStatus:
        return EventStatus(self.hub.control.reports()[HCALCS, event_id])

    def until_closed(self, closed: bool) -> None:
        assert self.world.run_until(lambda: self.closed() is closed)


class Watched:
    """A switch whose pin is written down."""

    def __init__(self, machine: Switch, edges: list[tuple[int, bool]]) -> None:
        self._machine = machine
        self._edges = edges

    @property
    def wake_at(self) -> int | None:
        return self._machine.wake_at

    def step(self, item: Input | None, now_ms: int) -> Sequence[Effect]:
        effects = self._machine.step(item, now_ms)
        for effect in effects:
            if isinstance(effect, SetRelay):
                self._edges.append((now_ms, effect.on))
        return effects


def test_an_esme_closes_and_opens_a_switch_and_hears_of_it() -> None:
    story = Story()
    story.settle()
    event_id = story.send(story.hub.control.new_event(True, 15))
    story.settle()
    assert (story.closed(), story.status(event_id)) == (True, EventStatus.STARTED)
    story.until_closed(False)
    story.settle()
    assert story.status(event_id) == EventStatus.COMPLETED
    (_, (closed_at, _), (opened_at, _)) = story.edges
    assert abs(opened_at - closed_at - 15 * MINUTE_MS) <= 1_000


def test_a_restart_in_an_event_leads_back_to_it_by_get_scheduled_events() -> None:
    story = Story()
    story.settle()
    event_id = story.send(story.hub.control.new_event(True, 60))
    story.settle()
    story.world.restart(story.home)
    assert story.closed() is False
    story.settle()  # far less than the time after which the former state is restored
    assert (story.closed(), story.status(event_id)) == (True, EventStatus.RECEIVED)
    story.until_closed(False)
    story.settle()
    assert story.status(event_id) == EventStatus.COMPLETED


def test_an_event_that_was_cancelled_meanwhile_does_not_come_back() -> None:
    story = Story()
    story.settle()
    event_id = story.send(story.hub.control.new_event(True, 60))
    story.settle()
    assert story.hub.peer is not None
    story.world.power_off(story.home)
    story.world.perform(story.hub.control.cancel(story.hub.peer, event_id, story.world.now_ms))
    story.settle()
    story.world.restart(story.home)
    story.settle()
    # The switch knows the event still and the ESME has none: it is told, and so opens at its end.
    story.world.perform(story.hub.control.cancel_all(story.hub.peer))
    story.settle()
    assert (story.closed(), story.status(event_id)) == (False, EventStatus.CANCELLED)


def test_a_broken_firmware_leaves_the_pin_and_the_next_one_moves_it() -> None:
    story = Story()
    story.settle()
    story.works = False
    story.world.tell(story.home, RebootRequested())
    story.settle()
    before = len(story.edges)
    event_id = story.send(story.hub.control.new_event(True, 60))
    story.settle()
    assert (len(story.edges), story.status(event_id)) == (before, EventStatus.STARTED)
    assert "switch_failed" in story.world.names(HCALCS)
    story.works = True
    story.world.tell(story.home, RebootRequested())
    story.settle()
    assert story.closed() is True


def test_a_lossy_air_costs_reports_and_no_event() -> None:
    for seed in range(5):
        story = Story(Air(loss=30, duplication=10, jitter_ms=20, reordering=20), seed)
        story.settle()
        event_id = story.send(story.hub.control.new_event(True, 30))
        story.world.run_for(MINUTE_MS)
        if not story.closed():  # the event itself was lost: the ESME sends it again
            story.world.restart(story.home)
            assert story.world.run_until(story.closed, 30 * MINUTE_MS), f"seed {seed}"
        story.until_closed(False)
        assert story.status(event_id) in tuple(EventStatus), f"seed {seed}"


def test_two_switches_of_one_seed_do_the_same() -> None:
    def run() -> tuple[list[tuple[int, bool]], list[Notify]]:
        story = Story(Air(loss=20, jitter_ms=30), 7)
        story.settle()
        control = story.hub.control
        start = UTC + story.world.now_ms // 1000 + 60
        story.send(control.new_event(True, 20, start_utc=start, event_control=3))
        story.world.run_for(120 * MINUTE_MS)
        return story.edges, [note for _, _, note in story.world.notes]

    assert run() == run()
