"""The world itself: its time, its air, its power, told with machines that only listen and send."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from firmware_node.boundary import (
    Effect,
    EraseAndReboot,
    Frame,
    FrameReceived,
    Input,
    Machine,
    MessageUp,
    NetworkUp,
    Notify,
    PeerAnnounced,
    Reboot,
    RebootRequested,
    SendConfirmed,
    SendFrame,
    SetClock,
    Started,
    Storage,
)
from firmware_node.rig.memory_storage import Medium, MemoryStorage, PowerCut
from firmware_node.rig.world import RESTART_MS, Air, SeededEntropy, World
from firmware_node.terms import BROADCAST_RX_ON, COORDINATOR, EntityId, ShortAddress
from firmware_node.wire import zdo

HUB, ONE, TWO = (EntityId(bytes(7) + bytes((n,))) for n in range(3))
PAYLOAD = bytes(range(20))


@dataclass
class Listener:
    """A machine that remembers what it was given and answers as it was told."""

    answers: dict[type, Sequence[Effect]] = field(default_factory=dict)
    heard: list[Input | None] = field(default_factory=list)
    at: list[int] = field(default_factory=list)
    wake_at: int | None = None

    def step(self, item: Input | None, now_ms: int) -> Sequence[Effect]:
        self.heard.append(item)
        self.at.append(now_ms)
        if item is None:
            self.wake_at = None
        return self.answers.get(type(item), ())

    def frames(self) -> list[Frame]:
        return [item.frame for item in self.heard if isinstance(item, FrameReceived)]

    def confirms(self) -> list[bool]:
        return [item.delivered for item in self.heard if isinstance(item, SendConfirmed)]


class Pair:
    """A hub and two devices that only listen."""

    def __init__(self, air: Air | None = None, seed: int = 0) -> None:
        self.world = World(seed, air or Air())
        self.hub = Listener()
        self.world.set_hub(self.hub, HUB)
        self.medium = Medium(4096)
        self.lives: list[Listener] = []
        self.one = self.world.add(ONE, self._make)
        self.two = self.world.add(TWO, lambda: (Listener(), MemoryStorage(Medium(4096))))
        self.world.run_for(0)
        self.hub.heard.clear()

    def _make(self) -> tuple[Machine, Storage]:
        self.lives.append(Listener())
        return self.lives[-1], MemoryStorage(self.medium)

    def send_down(self, *, tag: int = 0, count: int = 1, payload: bytes = PAYLOAD) -> None:
        frame = Frame(self.one.address, 2, 1, 0x0109, 0x0019, payload)
        self.world.perform([SendFrame(frame, tag)] * count)


def test_a_device_that_joins_starts_and_the_hub_hears_of_it() -> None:
    pair = Pair()
    assert pair.lives[0].heard == [Started(), NetworkUp(pair.one.address, 15)]
    world = World()
    hub = Listener()
    world.set_hub(hub, HUB)
    home = world.add(ONE, pair._make)
    assert hub.heard == [Started(), PeerAnnounced(home.address, ONE)]


def test_a_frame_arrives_after_its_latency_as_the_other_side_sees_it() -> None:
    pair = Pair(Air(latency_ms=7))
    pair.send_down()
    pair.world.run_for(6)
    assert pair.lives[0].frames() == []
    pair.world.run_for(1)
    assert pair.lives[0].frames() == [Frame(COORDINATOR, 1, 2, 0x0109, 0x0019, PAYLOAD)]
    assert pair.hub.confirms() == []


def test_a_tagged_frame_is_confirmed_after_there_and_back() -> None:
    pair = Pair(Air(latency_ms=7))
    pair.send_down(tag=9)
    pair.world.run_for(13)
    assert pair.hub.confirms() == []
    pair.world.run_for(1)
    assert pair.hub.heard == [SendConfirmed(9, delivered=True)]


def test_a_lost_frame_is_confirmed_as_lost() -> None:
    pair = Pair(Air(loss=100))
    pair.send_down(tag=9)
    pair.world.run_for(100)
    assert pair.lives[0].frames() == []
    assert pair.hub.confirms() == [False]
    assert (pair.world.frames, pair.world.frames_lost) == (1, 1)


def test_an_acknowledgement_is_lost_as_often_as_a_frame() -> None:
    pair = Pair(Air(loss=30))
    pair.send_down(tag=9, count=400)
    pair.world.run_for(100)
    arrived, confirmed = len(pair.lives[0].frames()), sum(pair.hub.confirms())
    assert 240 < arrived < 320
    assert 0.6 * arrived < confirmed < 0.8 * arrived


def test_a_duplicated_frame_comes_twice_and_is_confirmed_once() -> None:
    pair = Pair(Air(duplication=100))
    pair.send_down(tag=9)
    pair.world.run_for(100)
    assert [frame.payload for frame in pair.lives[0].frames()] == [PAYLOAD, PAYLOAD]
    assert pair.hub.confirms() == [True]


def test_a_corrupted_frame_differs_in_one_bit_unless_it_is_acknowledged() -> None:
    pair = Pair(Air(corruption=100))
    pair.send_down()
    pair.world.run_for(100)
    (frame,) = pair.lives[0].frames()
    wrong = [a ^ b for a, b in zip(frame.payload, PAYLOAD, strict=True)]
    assert sum(octet.bit_count() for octet in wrong) == 1
    pair.send_down(tag=9)
    pair.send_down(payload=b"")
    pair.world.run_for(100)
    assert [frame.payload for frame in pair.lives[0].frames()[1:]] == [PAYLOAD, b""]


@pytest.mark.parametrize("air", [Air(jitter_ms=40), Air(reordering=30)])
def test_frames_overtake_each_other_where_the_air_lets_them(air: Air) -> None:
    pair = Pair(air)
    for number in range(50):
        pair.send_down(payload=bytes((number,)))
    pair.world.run_for(200)
    order = [frame.payload[0] for frame in pair.lives[0].frames()]
    assert order != sorted(order)
    assert sorted(order) == list(range(50))


def test_a_delayed_frame_comes_when_nobody_waits_for_it() -> None:
    pair = Pair(Air(latency_ms=5, delay=100, delay_ms=5_000))
    pair.send_down()
    pair.world.run_for(5_004)
    assert pair.lives[0].frames() == []
    pair.world.run_for(1)
    assert len(pair.lives[0].frames()) == 1


def test_a_broadcast_reaches_everybody_but_its_sender() -> None:
    pair = Pair()
    frame = Frame(BROADCAST_RX_ON, 1, 1, 0x0109, 0x0019, PAYLOAD, broadcast=True)
    pair.lives[0].answers = {SetClock: (SendFrame(frame),)}
    pair.world.tell(pair.one, SetClock(0))
    pair.world.run_for(100)
    assert pair.lives[0].frames() == []
    assert isinstance(pair.two.machine, Listener)
    assert len(pair.two.machine.frames()) == len(pair.hub.frames()) == 1


def test_the_radio_of_the_hub_answers_a_search_for_an_ota_server() -> None:
    pair = Pair()
    request = zdo.encode_match_request(zdo.MatchRequest(5, BROADCAST_RX_ON, 0x0109, (0x0019,), ()))
    frame = Frame(BROADCAST_RX_ON, 0, 0, 0x0000, 0x0006, request, broadcast=True)
    pair.lives[0].answers = {SetClock: (SendFrame(frame),)}
    pair.world.tell(pair.one, SetClock(0))
    pair.world.run_for(100)
    (reply,) = pair.lives[0].frames()
    assert (reply.peer, reply.cluster) == (COORDINATOR, 0x8006)
    assert zdo.decode_match_response(reply.payload) == zdo.MatchResponse(5, 0, COORDINATOR, (1,))
    assert pair.hub.heard == []


def test_the_radio_of_a_device_answers_for_its_tunnel() -> None:
    pair = Pair()
    request = zdo.encode_match_request(zdo.MatchRequest(6, pair.one.address, 0x0109, (0x0704,), ()))
    frame = Frame(pair.one.address, 0, 0, 0x0000, 0x0006, request)
    pair.world.perform([SendFrame(frame)])
    pair.world.perform([SendFrame(frame._replace(payload=b"\x06"))])  # malformed: silence
    pair.world.run_for(100)
    (reply,) = pair.hub.frames()
    assert reply.peer == pair.one.address
    assert zdo.decode_match_response(reply.payload).endpoints == (1,)
    assert pair.lives[0].frames() == []


# --- time and power -------------------------------------------------------------------------------


def test_a_machine_is_woken_when_it_asked_for_it_and_not_before() -> None:
    pair = Pair()
    machine = pair.lives[0]
    machine.wake_at = 5_000
    pair.world.tell(pair.one, SetClock(0))
    machine.wake_at = 9_000  # it changed its mind; the wake-up that is on its way looks again
    pair.world.run_for(20_000)
    assert machine.heard[-1] is None
    assert machine.at[-1] == 9_000
    assert machine.heard.count(None) == 1


def test_a_wake_up_that_moves_forward_comes_early() -> None:
    pair = Pair()
    pair.hub.wake_at = 9_000
    pair.world.tell_hub(SetClock(0))
    pair.hub.wake_at = 4_000
    pair.world.tell_hub(SetClock(0))
    pair.world.run_for(20_000)
    assert pair.hub.heard.count(None) == 1
    assert pair.hub.at[-1] == 4_000


def test_time_passes_though_nothing_happens() -> None:
    world = World()
    assert not world.run_until(lambda: False, 1_234)
    assert world.now_ms == 1_234
    assert world.run_until(lambda: True)
    assert world.now_ms == 1_234


def test_a_reboot_takes_its_time_and_begins_a_new_life() -> None:
    pair = Pair()
    pair.lives[0].answers = {RebootRequested: (Reboot("operator"),)}
    pair.lives[0].wake_at = 10
    pair.world.tell(pair.one, RebootRequested())
    pair.send_down(tag=3)
    pair.world.run_for(RESTART_MS - 1)
    assert len(pair.lives) == 1
    assert pair.lives[0].frames() == []
    assert pair.hub.confirms() == [False]
    assert None not in pair.lives[0].heard
    pair.world.run_for(1)
    assert len(pair.lives) == 2
    assert pair.lives[1].heard[0] == Started()
    assert pair.hub.heard[-1] == PeerAnnounced(pair.one.address, ONE)
    assert pair.one.starts == 2


def test_a_restart_by_hand_during_a_reboot_is_the_only_one() -> None:
    pair = Pair()
    pair.lives[0].answers = {RebootRequested: (Reboot("operator"),)}
    pair.world.tell(pair.one, RebootRequested())
    pair.world.restart(pair.one)
    pair.world.run_for(10 * RESTART_MS)
    assert len(pair.lives) == 2


def test_a_factory_reset_erases_and_begins_a_new_life() -> None:
    pair = Pair()
    erased = []
    pair.one.erase = lambda: erased.append(pair.world.now_ms)
    pair.lives[0].answers = {RebootRequested: (EraseAndReboot(),)}
    pair.world.tell(pair.one, RebootRequested())
    pair.world.run_for(RESTART_MS)
    assert erased == [0]
    assert len(pair.lives) == 2


def test_a_device_without_power_hears_nothing_and_no_late_confirm() -> None:
    pair = Pair()
    up = Frame(COORDINATOR, 1, 1, 0x0109, 0x0019, PAYLOAD)
    pair.lives[0].answers = {SetClock: (SendFrame(up, 4),)}
    pair.world.tell(pair.one, SetClock(0))
    pair.world.power_off(pair.one)
    pair.send_down(tag=3)
    pair.world.run_for(1_000)
    assert pair.hub.confirms() == [False]
    assert len(pair.hub.frames()) == 1  # it had left
    pair.world.restart(pair.one)
    pair.world.run_for(1_000)
    assert pair.lives[1].confirms() == []


def test_records_are_durable_before_an_effect_leaves() -> None:
    pair = Pair()
    kept: list[dict[str, bytes]] = []
    storage = pair.one.storage
    storage.records.put("key", b"value")

    class Watching(Listener):
        def step(self, item: Input | None, now_ms: int) -> Sequence[Effect]:
            kept.append(dict(pair.medium.records))
            return super().step(item, now_ms)

    pair.world._hub = Watching()
    up = Frame(COORDINATOR, 1, 1, 0x0109, 0x0019, PAYLOAD)
    pair.lives[0].answers = {SetClock: (SendFrame(up),)}
    pair.world.tell(pair.one, SetClock(0))
    pair.world.run_for(100)
    assert kept == [{"key": b"value"}]


def test_a_cut_in_the_middle_of_a_step_passes_through_and_nothing_leaves() -> None:
    pair = Pair()
    up = Frame(COORDINATOR, 1, 1, 0x0109, 0x0019, PAYLOAD)
    pair.lives[0].answers = {FrameReceived: (SendFrame(up),)}
    pair.one.storage.records.put("key", b"value")
    pair.medium.cut_at = pair.medium.calls + 1
    pair.send_down()
    with pytest.raises(PowerCut):
        pair.world.run_for(100)
    pair.medium.power_cycle()
    pair.world.restart(pair.one)
    pair.world.run_for(100)
    assert pair.hub.frames() == []
    assert pair.medium.records == {}
    assert len(pair.lives) == 2


def test_what_happens_is_noted_and_handed_on() -> None:
    pair = Pair()
    events: list[int] = []
    messages: list[bytes] = []
    pair.world.after_event = lambda: events.append(pair.world.now_ms)
    pair.world.on_message = messages.append
    pair.lives[0].answers = {FrameReceived: (Notify("heard"),)}
    pair.world.perform([MessageUp(b"up"), Notify("from_the_hub")])
    pair.send_down()
    pair.world.run_for(100)
    assert events == [5]
    assert messages == [b"up"]
    assert (pair.world.names(ONE), pair.world.names()) == (["heard"], ["from_the_hub"])


def test_a_seed_gives_the_same_air_and_another_one_gives_another() -> None:
    runs = []
    for seed in (1, 1, 2):
        air = Air(jitter_ms=20, loss=20, duplication=20, corruption=20, reordering=20, delay=5)
        pair = Pair(air, seed)
        for _ in range(100):
            pair.send_down()
        pair.world.run_for(10_000)
        machine = pair.lives[0]
        runs.append((machine.heard, machine.at))
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_seeded_entropy_repeats_itself() -> None:
    one, same, other = SeededEntropy(1), SeededEntropy(1), SeededEntropy(2)
    draws = [(e.octets(16), [e.below(10) for _ in range(20)]) for e in (one, same, other)]
    assert draws[0] == draws[1]
    assert draws[0] != draws[2]
    assert all(0 <= number < 10 for number in draws[0][1])


def test_an_address_that_nobody_has_gets_nothing() -> None:
    pair = Pair()
    frame = Frame(ShortAddress(0x2000), 1, 1, 0x0109, 0x0019, PAYLOAD)
    pair.world.perform([SendFrame(frame, 5)])
    pair.world.run_for(100)
    assert pair.hub.confirms() == [False]
