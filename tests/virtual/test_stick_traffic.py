"""AF data between sticks: matching, confirms, acknowledgements, link keys, fragments, faults."""

from __future__ import annotations

import random

import pytest
from room import IN_SMART_ENERGY, ROUTER, SECOND, Host, Room

from firmware_node.virtual.air import AirSettings, Tuning
from firmware_node.virtual.nv import Item
from firmware_node.virtual.stick import StickSettings
from firmware_node.wire import mt
from firmware_node.wire.mt import Cmd, Option, Status

LENIENT = StickSettings(strict=False)
WITHOUT_EXCHANGE = StickSettings(stack_revision=20)  # no link key but those that hosts set
KEY = bytes(range(0x40, 0x50))
ACKED_SECURED = Option.APS_ACK | Option.APS_SECURITY


def pair(settings: StickSettings | None = None) -> tuple[Room, Host, Host]:
    """A coordinator and an end device that has joined it."""
    room = Room()
    coordinator = room.coordinator(settings=settings)
    return room, coordinator, room.joined(coordinator, settings=settings)


def set_link_keys(first: Host, second: Host, key: bytes = KEY) -> None:
    for one, other in ((first, second), (second, first)):
        assert one.ask(Cmd.ZDO_SET_LINK_KEY, other.short, other.ieee, key) == 0


def test_a_message_arrives_once_with_everything_it_was_sent_with() -> None:
    room, coordinator, device = pair()
    assert device.data(0x0000, b"block", cluster=0x0019, transaction=42) == 0
    room.run(SECOND)
    assert device.confirms == [(0, 1, 42)]
    (message,) = coordinator.messages
    assert message.payload == b"block"
    assert (message.source, message.source_endpoint) == (device.short, 1)
    assert (message.destination_endpoint, message.cluster, message.group) == (1, 0x0019, 0)
    assert not message.broadcast and not message.secured


def test_the_short_form_of_a_request_does_the_same() -> None:
    room, coordinator, device = pair()
    assert coordinator.ask(Cmd.AF_DATA_REQUEST, device.short, 1, 1, 0x0019, 9, 0, 30, b"x") == 0
    route = (device.short, 1, 1, 0x0019, 10, 0, 30, (0x1111,), b"y")
    assert coordinator.ask(Cmd.AF_DATA_REQUEST_SRC_RTG, *route) == 0
    room.run(SECOND)
    assert coordinator.confirms == [(0, 1, 9), (0, 1, 10)]
    assert [message.payload for message in device.messages] == [b"x", b"y"]


def test_the_confirm_comes_before_the_answer_to_what_it_confirms() -> None:
    room, coordinator, device = pair()
    for number in range(20):
        device.data(0x0000, bytes((number,)), transaction=number)
        coordinator.data(device.short, bytes((number,)))
        room.run(1000)
    order = [command for command, _ in device.told if command in (0x4480, 0x4481)]
    assert order == [0x4480, 0x4481] * 20


def test_a_strict_stick_takes_only_its_own_profile_and_a_lenient_one_any() -> None:
    room, coordinator, device = pair()
    coordinator.register(2, 0x0104, 5, 0, 0, (), (0x0019,))
    assert coordinator.data(device.short, b"0104", endpoints=(2, 1)) == 0
    assert coordinator.data(device.short, b"0109", endpoints=(1, 1)) == 0
    room.run(SECOND)
    assert [message.payload for message in device.messages] == [b"0109"]
    assert device.counters["frames_unmatched"] == 1
    room, coordinator, device = pair(LENIENT)
    coordinator.register(2, 0x0104, 5, 0, 0, (), (0x0019,))
    assert coordinator.data(device.short, b"0104", endpoints=(2, 1)) == 0
    room.run(SECOND)
    assert [message.payload for message in device.messages] == [b"0104"]


def test_an_endpoint_that_is_not_there_takes_nothing_and_acknowledges_nothing() -> None:
    room, coordinator, device = pair()
    coordinator.data(device.short, b"x", endpoints=(1, 9), options=Option.APS_ACK)
    room.run(30 * SECOND)
    assert coordinator.confirms == [(Status.APS_NO_ACK, 1, 7)]
    assert device.messages == []


def test_an_endpoint_sends_only_when_it_is_registered_and_the_stick_in_a_network() -> None:
    room = Room()
    host = room.stick()
    host.register(*IN_SMART_ENERGY)
    assert host.data(0x1234, b"x") == Status.NWK_INVALID_REQUEST
    host = room.coordinator()
    assert host.data(0x1234, b"x", endpoints=(9, 1)) == Status.INVALID_PARAMETER
    assert host.ask(Cmd.AF_REGISTER, *IN_SMART_ENERGY) == Status.APS_DUPLICATE_ENTRY
    assert host.ask(Cmd.AF_DELETE, 1) == 0
    assert host.data(0x1234, b"x") == Status.INVALID_PARAMETER
    assert host.confirms == []


def test_an_address_that_nobody_has_is_confirmed_as_no_route() -> None:
    room, coordinator, _ = pair()
    assert coordinator.data(0x4321, b"x") == 0
    assert coordinator.data(0x4321, b"y", options=Option.APS_ACK, transaction=8) == 0
    room.run(30 * SECOND)
    assert coordinator.confirms == [(Status.NWK_NO_ROUTE, 1, 7), (Status.NWK_NO_ROUTE, 1, 8)]


def test_a_lost_frame_is_confirmed_as_not_acknowledged_by_the_mac() -> None:
    room, coordinator, device = pair()
    room.medium._settings = AirSettings(loss=1.0)
    coordinator.data(device.short, b"x")
    room.run(SECOND)
    assert coordinator.confirms == [(Status.MAC_NO_ACK, 1, 7)]
    assert device.messages == []


def test_with_acknowledgement_every_message_gets_through_a_bad_air_exactly_once() -> None:
    air = AirSettings(seed=3, loss=0.2, ack_loss=0.2)
    room = Room(AirSettings())
    coordinator = room.coordinator()
    device = room.joined(coordinator)
    room.medium._settings = air
    sent = [bytes((number,)) for number in range(100)]
    for number, payload in enumerate(sent):
        device.data(0x0000, payload, options=Option.APS_ACK, transaction=number)
        room.run(5 * SECOND)
    confirmed = {transaction for status, _, transaction in device.confirms if status == 0}
    arrived = [message.payload for message in coordinator.messages]
    assert len(arrived) == len(set(arrived))
    assert confirmed <= {payload[0] for payload in arrived}
    assert len(confirmed) > 95
    assert coordinator.counters["frames_repeated"] > 0
    assert device.counters["aps_retries"] > 0


def test_a_message_to_ourselves_is_delivered_here() -> None:
    room, coordinator, _ = pair()
    coordinator.data(0x0000, b"to me")
    room.run(SECOND)
    assert coordinator.confirms == [(0, 1, 7)]
    assert coordinator.messages[0].payload == b"to me"


def test_an_eui64_destination_is_resolved_and_an_unknown_one_refused() -> None:
    room, coordinator, device = pair()
    ieee = int.from_bytes(device.ieee, "little")
    assert coordinator.data(ieee, b"x", mode=mt.AddressMode.IEEE) == 0
    room.run(SECOND)
    assert device.messages[0].payload == b"x"
    assert coordinator.data(1, b"x", mode=mt.AddressMode.IEEE) == Status.INVALID_PARAMETER


def test_a_broadcast_reaches_everybody_once_and_is_marked() -> None:
    room, coordinator, device = pair()
    router = room.joined(coordinator, ROUTER)
    device.data(0xFFFD, b"all", endpoints=(1, 0xFF), mode=mt.AddressMode.BROADCAST)
    room.run(SECOND)
    assert device.confirms == [(0, 1, 7)]
    for host in (coordinator, router):
        assert [(one.payload, one.broadcast) for one in host.messages] == [(b"all", True)]
    assert device.messages == []
    coordinator.data(0xFFFC, b"routers", mode=mt.AddressMode.BROADCAST)
    room.run(SECOND)
    assert router.messages[-1].payload == b"routers"
    assert device.messages == []


def test_a_group_message_reaches_only_its_members() -> None:
    room, coordinator, device = pair()
    router = room.joined(coordinator, ROUTER)
    for host in (device, router):
        host.send(Cmd.ZDO_EXT_FIND_GROUP, 1, 0x0B84)
        assert host.answers() == [(0x654A, b"\x01\x84\x0b\x00")]
    assert device.ask(Cmd.ZDO_EXT_ADD_GROUP, 1, 0x0B84, b"meters") == 0
    assert device.ask(Cmd.ZDO_EXT_FIND_GROUP, 1, 0x0B84) == b"\x00\x84\x0b\x00"
    coordinator.data(0x0B84, b"group", mode=mt.AddressMode.GROUP)
    room.run(SECOND)
    assert [(one.payload, one.group) for one in device.messages] == [(b"group", 0x0B84)]
    assert router.messages == []
    assert device.ask(Cmd.ZDO_EXT_REMOVE_GROUP, 1, 0x0B84) == 0
    assert device.ask(Cmd.ZDO_EXT_ADD_GROUP, 1, 0x0001, b"") == 0
    assert device.ask(Cmd.ZDO_EXT_REMOVE_ALL_GROUP, 1) == 0
    coordinator.data(0x0B84, b"again", mode=mt.AddressMode.GROUP)
    coordinator.data(0x0001, b"again", mode=mt.AddressMode.GROUP)
    room.run(SECOND)
    assert len(device.messages) == 1


def test_two_devices_talk_to_each_other_through_their_parent() -> None:
    room, coordinator, first = pair()
    second = room.joined(coordinator)
    first.data(second.short, b"neighbour", options=Option.APS_ACK)
    room.run(SECOND)
    assert first.confirms == [(0, 1, 7)]
    assert second.messages[0].source == first.short
    assert coordinator.messages == []
    assert coordinator.counters["frames_forwarded"] == 2


# --- link keys ------------------------------------------------------------------------------------


def test_without_a_link_key_a_secured_request_is_confirmed_as_no_key_and_nothing_flies() -> None:
    room, coordinator, device = pair(WITHOUT_EXCHANGE)
    flown = len(room.flown)
    assert coordinator.data(device.short, b"x", options=Option.APS_SECURITY) == 0
    room.run(SECOND // 10)
    assert coordinator.confirms == [(Status.SEC_NO_KEY, 1, 7)]
    assert len(room.flown) == flown


def test_with_the_same_link_key_a_secured_message_arrives_as_secured() -> None:
    room, coordinator, device = pair()
    set_link_keys(coordinator, device)
    assert device.ask(Cmd.ZDO_GET_LINK_KEY, coordinator.ieee) == (0, coordinator.ieee, KEY)
    for sender, receiver in ((coordinator, device), (device, coordinator)):
        sender.data(receiver.short, b"secret", options=ACKED_SECURED)
        sender.data(receiver.short, b"plain", options=Option.APS_ACK, transaction=8)
        room.run(SECOND)
        assert sender.confirms == [(0, 1, 7), (0, 1, 8)]
        assert [(one.payload, one.secured) for one in receiver.messages] == [
            (b"secret", True),
            (b"plain", False),
        ]
    assert not any(b"secret" in frame for frame in room.flown)


def test_with_another_link_key_a_secured_message_is_dropped_and_not_acknowledged() -> None:
    room, coordinator, device = pair()
    set_link_keys(coordinator, device)
    assert device.ask(Cmd.ZDO_SEC_ADD_LINK_KEY, 0x0000, coordinator.ieee, KEY[::-1]) == 0
    coordinator.data(device.short, b"secret", options=ACKED_SECURED)
    room.run(30 * SECOND)
    assert coordinator.confirms == [(Status.APS_NO_ACK, 1, 7)]
    assert device.messages == []
    assert device.counters["frames_wrong_link_key"] == 4


def test_a_removed_link_key_is_no_key() -> None:
    room, coordinator, device = pair(WITHOUT_EXCHANGE)
    set_link_keys(coordinator, device)
    assert coordinator.ask(Cmd.ZDO_REMOVE_LINK_KEY, device.ieee) == 0
    assert coordinator.ask(Cmd.ZDO_REMOVE_LINK_KEY, device.ieee) == 1
    assert coordinator.ask(Cmd.ZDO_GET_LINK_KEY, device.ieee)[0] == 1
    coordinator.data(device.short, b"x", options=Option.APS_SECURITY)
    device.data(0x0000, b"y", options=ACKED_SECURED, transaction=8)
    room.run(30 * SECOND)
    assert coordinator.confirms == [(Status.SEC_NO_KEY, 1, 7)]
    assert device.confirms == [(Status.APS_NO_ACK, 1, 8)]
    assert coordinator.counters["frames_no_link_key"] > 0


def test_link_keys_survive_a_restart() -> None:
    room, coordinator, device = pair()
    set_link_keys(coordinator, device)
    memory = room.unplug(device)
    device = room.stick(memory=memory)
    device.commission(0)
    room.run(SECOND)
    device.register(*IN_SMART_ENERGY)
    device.data(0x0000, b"secret", options=ACKED_SECURED)
    room.run(SECOND)
    assert coordinator.messages[-1].secured


# --- sizes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "most"), [(0, 82), (Option.APS_SECURITY, 73)])
def test_what_fits_one_frame_flies_as_one_and_no_frame_is_longer_than_the_air_carries(
    options: int, most: int
) -> None:
    room, coordinator, device = pair(StickSettings(fragmentation=False))
    set_link_keys(coordinator, device)
    flown = len(room.flown)
    assert device.data(0x0000, bytes(most), options=options) == 0
    assert device.data(0x0000, bytes(most + 1), options=options) == Status.INVALID_PARAMETER
    room.run(SECOND // 10)
    assert [len(one.payload) for one in coordinator.messages] == [most]
    frames = [frame for frame in room.flown[flown:] if len(frame) > 20]
    assert len(frames) == 1
    assert max(len(frame) for frame in room.flown) <= 125


@pytest.mark.parametrize("size", [83, 160, mt.INLINE_MAX])
@pytest.mark.parametrize("options", [0, Option.APS_SECURITY])
def test_a_larger_payload_goes_in_fragments_and_arrives_whole(size: int, options: int) -> None:
    room, coordinator, device = pair()
    set_link_keys(coordinator, device)
    payload = random.Random(size).randbytes(size)
    assert device.data(0x0000, payload, options=options) == 0
    room.run(SECOND)
    assert device.confirms == [(0, 1, 7)]
    assert [one.payload for one in coordinator.messages] == [payload]
    assert coordinator.messages[0].secured == bool(options)


@pytest.mark.parametrize("size", [mt.INLINE_MAX + 1, mt.REQUEST_INLINE_MAX])
def test_what_still_goes_down_in_one_frame_may_have_to_be_fetched_at_the_other_end(
    size: int,
) -> None:
    room, coordinator, device = pair()
    payload = random.Random(size).randbytes(size)
    assert device.data(0x0000, payload) == 0
    room.run(SECOND)
    assert device.confirms == [(0, 1, 7)]
    assert coordinator.messages == []
    assert coordinator.fetch() == payload


@pytest.mark.parametrize("window", [1, 3, 8])
@pytest.mark.parametrize("size", [mt.REQUEST_INLINE_MAX + 1, 1500])
def test_a_large_payload_is_announced_stored_sent_and_fetched(size: int, window: int) -> None:
    room, coordinator, device = pair()
    for host in (coordinator, device):
        assert host.ask(Cmd.AF_APSF_CONFIG_SET, 1, 5, window) == 0
    payload = random.Random(window).randbytes(size)
    flown = len(room.flown)
    assert device.data(0x0000, payload) == 0
    assert device.data(0x0000, b"between", options=Option.APS_ACK, transaction=8) == 0
    room.run(SECOND)
    assert device.confirms == [(0, 1, 8)]  # the other waits for its octets
    assert len(room.flown) - flown < 8
    assert device.store(payload) == 0
    room.run(5 * SECOND)
    assert device.confirms == [(0, 1, 8), (0, 1, 7)]
    assert coordinator.fetch() == payload


def test_the_parts_of_a_large_payload_may_come_in_any_order() -> None:
    room, coordinator, device = pair()
    payload = random.Random(1).randbytes(500)
    assert device.data(0x0000, payload) == 0
    for at in (250, 0, 450, 200, 400):
        assert device.ask(Cmd.AF_DATA_STORE, at, payload[at : at + 200]) == 0
    assert device.ask(Cmd.AF_DATA_STORE, 0, b"") == 0
    room.run(5 * SECOND)
    assert coordinator.fetch() == payload


def test_one_large_message_is_announced_at_a_time_and_one_too_large_never() -> None:
    room, coordinator, device = pair()
    assert device.data(0x0000, bytes(4097)) == Status.MEM_ERROR
    assert device.data(0x0000, bytes(300), endpoints=(9, 1)) == Status.INVALID_PARAMETER
    assert device.ask(Cmd.AF_DATA_STORE, 0, b"x") == Status.MEM_ERROR  # nothing is announced
    assert device.ask(Cmd.AF_DATA_STORE, 0, b"") == Status.MEM_ERROR
    assert device.data(0x0000, bytes(300)) == 0
    assert device.data(0x0000, bytes(300), transaction=8) == Status.INVALID_PARAMETER
    assert device.ask(Cmd.AF_DATA_STORE, 299, b"xy") == Status.INVALID_PARAMETER
    assert device.store(bytes(300)) == 0
    assert device.data(0x0000, bytes(300), transaction=9) == 0
    room.run(SECOND)
    assert device.confirms == [(0, 1, 7)]
    assert coordinator.fetch() == bytes(300)


def test_the_last_store_tells_why_a_large_message_is_not_sent() -> None:
    room, coordinator, device = pair(StickSettings(fragmentation=False))
    assert device.data(0x0000, bytes(300)) == 0
    assert device.store(bytes(300)) == Status.INVALID_PARAMETER
    assert device.ask(Cmd.AF_DATA_STORE, 0, b"") == Status.MEM_ERROR  # it is dropped
    room.run(SECOND)
    assert device.confirms == []
    assert coordinator.heard(Cmd.AF_INCOMING_MSG_EXT) == []


def test_a_large_message_that_is_not_brought_or_not_fetched_is_dropped_after_a_while() -> None:
    room, coordinator, device = pair()
    assert device.data(0x0000, bytes(300)) == 0
    room.run(14 * SECOND)
    assert device.ask(Cmd.AF_DATA_STORE, 0, b"x") == 0
    room.run(2 * SECOND)
    assert device.ask(Cmd.AF_DATA_STORE, 0, b"x") == Status.MEM_ERROR
    assert device.counters["messages_not_sent"] == 1
    assert device.data(0x0000, bytes(300)) == 0
    assert device.store(bytes(300)) == 0
    room.run(SECOND)
    (told,) = coordinator.heard(Cmd.AF_INCOMING_MSG_EXT)
    room.run(15 * SECOND)
    assert coordinator.ask(Cmd.AF_DATA_RETRIEVE, told[10], 0, 10)[0] == Status.FAILURE
    assert coordinator.counters["messages_not_fetched"] == 1


def test_a_reset_drops_the_large_message_that_was_announced_and_those_not_fetched() -> None:
    room, coordinator, device = pair()
    assert device.data(0x0000, bytes(300)) == 0
    assert device.store(bytes(300)) == 0
    assert device.data(0x0000, bytes(300)) == 0
    room.run(SECOND)
    (told,) = coordinator.heard(Cmd.AF_INCOMING_MSG_EXT)
    for host in (coordinator, device):
        host.reset()
    assert device.ask(Cmd.AF_DATA_STORE, 0, b"") == Status.MEM_ERROR
    assert coordinator.ask(Cmd.AF_DATA_RETRIEVE, told[10], 0, 10)[0] == Status.FAILURE
    room.run(20 * SECOND)
    assert device.counters["messages_not_sent"] == 0


def test_fragments_get_through_a_bad_air_or_the_sender_is_told() -> None:
    outcomes = set()
    for seed in range(30):
        room = Room(AirSettings())
        coordinator = room.coordinator()
        device = room.joined(coordinator)
        for host in (coordinator, device):
            host.ask(Cmd.AF_APSF_CONFIG_SET, 1, 0, 4)
        room.medium._settings = AirSettings(loss=0.15, ack_loss=0.15, duplication=0.1)
        room.medium._chance.seed(seed)
        payload = random.Random(seed).randbytes(mt.INLINE_MAX)
        device.data(0x0000, payload)
        room.run(60 * SECOND)
        ((status, _, _),) = device.confirms
        arrived = [one.payload for one in coordinator.messages]
        assert arrived in ([payload], []) or (status != 0 and arrived == [payload])
        assert status != 0 or arrived == [payload]
        outcomes.add(status)
    assert 0 in outcomes


def test_wrong_windows_and_endpoints_are_refused() -> None:
    host = Room().coordinator()
    for endpoint, window in ((9, 1), (1, 0), (1, 9)):
        assert host.ask(Cmd.AF_APSF_CONFIG_SET, endpoint, 0, window) == Status.INVALID_PARAMETER


# --- what the air does ----------------------------------------------------------------------------


def test_a_frame_heard_twice_by_the_radio_is_given_up_once() -> None:
    room, coordinator, device = pair()
    device.data(0x0000, b"once")
    room.run(SECOND)
    replayed = next(frame for frame in reversed(room.flown) if len(frame) > 40)
    coordinator.stick.heard(replayed, False, room.now_us)
    room.settle()
    assert [one.payload for one in coordinator.messages] == [b"once"]
    assert coordinator.counters["frames_replayed"] == 1


def test_duplicates_and_late_frames_reach_the_host_as_they_would_through_a_mesh() -> None:
    room, coordinator, device = pair()
    room.medium._settings = AirSettings(duplication=0.3, reordering=0.3)
    for number in range(100):
        device.data(0x0000, bytes((number,)))
        room.run(5000)
    room.run(SECOND)
    arrived = [one.payload[0] for one in coordinator.messages]
    assert set(arrived) == set(range(100))
    assert 110 < len(arrived) < 150
    firsts = list(dict.fromkeys(arrived))
    assert firsts != sorted(firsts)


def test_a_stick_without_the_network_key_reads_nothing() -> None:
    room, coordinator, device = pair()
    other = room.stick()
    other.commission(4)
    nib, mine = other.nv.nib, coordinator.nv.nib
    assert nib is not None and mine is not None
    room.medium.tune(other.number, Tuning(mine.channel, mine.pan, 0x0000, other.ieee))
    device.data(0x0000, b"secret")
    room.run(SECOND)
    assert coordinator.messages[0].payload == b"secret"
    assert other.told.count((Cmd.AF_INCOMING_MSG, b"")) == 0 and other.messages == []
    assert other.counters["frames_unreadable"] >= 1


def test_any_octets_from_the_air_are_read_or_dropped() -> None:
    room, coordinator, device = pair()
    device.data(0x0000, b"payload", options=Option.APS_ACK)
    room.run(SECOND)
    rng = random.Random(5)
    for frame in list(room.flown):
        for _ in range(50):
            spoilt = bytearray(frame)
            spoilt[rng.randrange(len(spoilt))] ^= 1 << rng.randrange(8)
            coordinator.stick.heard(bytes(spoilt), False, room.now_us)
            coordinator.stick.heard(frame[: rng.randrange(len(frame))], False, room.now_us)
            room.settle()
    assert coordinator.counters["frames_unreadable"] > 100
    assert [one.payload for one in coordinator.messages] == [b"payload"]
    assert coordinator.nv.octet(Item.BDBNODEISONANETWORK) == 1
