"""Link keys of a device with its trust centre: their exchange, their counters, what is refused."""

from __future__ import annotations

import pytest
import zigpy_znp.types as t
from room import END_DEVICE, IN_SMART_ENERGY, ROUTER, SECOND, STEERING, Host, Room
from zigpy_znp.znp import security

from firmware_node.crypto import CcmStar, install_code_key
from firmware_node.virtual import secure
from firmware_node.virtual.air import AirSettings
from firmware_node.virtual.nv import DEFAULT_LINK_KEY, Item
from firmware_node.virtual.stick import StickSettings
from firmware_node.wire import aps, mt, nwk
from firmware_node.wire.mt import Cmd, DeviceState, Option, Status

CODE = bytes.fromhex("83fed3407a939723a5c639b26916d505c3b5")
SECURED = Option.APS_ACK | Option.APS_SECURITY
OLD = StickSettings(stack_revision=20)
ROLES = pytest.mark.parametrize("role", [END_DEVICE, ROUTER])


def permit(host: Host, short: int = 0x0000) -> None:
    host.ask(Cmd.ZDO_MGMT_PERMIT_JOIN_REQ, mt.AddressMode.SHORT, short, 60, 1)


def key_between(first: Host, second: Host) -> bytes:
    """The one link key of two sticks."""
    key = first.nv.link_key(second.ieee)
    assert key is not None
    assert key == second.nv.link_key(first.ieee)
    return key


def tell_secrets(room: Room, first: Host, second: Host) -> None:
    """Secured messages both ways arrive."""
    for sender, receiver in ((first, second), (second, first)):
        seen = len(receiver.messages)
        assert sender.data(receiver.short, b"secret", options=SECURED) == 0
        room.run(SECOND)
        assert sender.confirms[-1][0] == 0
        assert [(one.payload, one.secured) for one in receiver.messages[seen:]] == [
            (b"secret", True)
        ]


def commands_flown(room: Room, host: Host) -> list[int]:
    """The APS commands that flew in the clear or under the network key alone."""
    found = []
    for frame in room.flown:
        octets = opened(frame, host)
        if octets is not None and octets[0] & 3 == aps.COMMAND and not octets[0] & aps.SECURED:
            found.append(octets[2])
    return found


def opened(frame: bytes, host: Host) -> bytes | None:
    """What the network key of a stick's network sealed, of a data frame."""
    if frame[:2] != b"\x61\x88":
        return None
    header, at = nwk.decode_header(frame[9:])
    if not header.secured or header.kind != nwk.DATA:
        return None
    sequence, key = host.nv.network_key()
    return secure.open_network(CcmStar(key), frame[9:], at, sequence).clear


@ROLES
@pytest.mark.parametrize("products", [(1, 1), (1, 2), (2, 1)])
def test_every_device_has_a_link_key_of_its_own_after_it_joined(
    products: tuple[int, int], role: int
) -> None:
    room = Room()
    coordinator = room.coordinator(product=products[0])
    devices = [room.joined(coordinator, role, product=products[1]) for _ in range(3)]
    keys = {key_between(coordinator, device) for device in devices}
    assert len(keys) == 3 and DEFAULT_LINK_KEY not in keys
    for device in devices:
        tell_secrets(room, coordinator, device)
        assert coordinator.ask(Cmd.ZDO_GET_LINK_KEY, device.ieee)[0] == 0
    assert not any(key in frame for key in keys for frame in room.flown)


def test_the_trust_centre_keeps_its_keys_as_zigpy_znp_reads_them() -> None:
    room = Room()
    coordinator = room.coordinator()
    device = room.joined(coordinator)
    row = coordinator.nv.values()[4, 0]
    entry, _ = t.TCLKDevEntry.deserialize(row, align=True)
    assert entry.extAddr.serialize() == device.ieee
    assert entry.keyAttributes == t.KeyAttributes.VERIFIED_KEY
    seed = t.KeyData(coordinator.nv.item(Item.TCLK_SEED) or b"")
    key = security.compute_key(entry.extAddr, seed, entry.SeedShift_IcIndex)
    assert key.serialize() == key_between(coordinator, device)
    assert device.nv.item(Item.TCLK_JOIN_DEV) == key.serialize()


@pytest.mark.parametrize("through_a_router", [False, True])
def test_a_joiner_with_an_install_code_exchanges_its_key_for_another(
    through_a_router: bool,
) -> None:
    room = Room()
    coordinator = room.coordinator()
    if through_a_router:
        router = room.joined(coordinator, ROUTER)
        coordinator.ask(Cmd.ZDO_MGMT_PERMIT_JOIN_REQ, mt.AddressMode.SHORT, 0x0000, 0, 1)
        permit(coordinator, router.short)
    else:
        permit(coordinator)
    coordinator.ask(Cmd.APP_CNF_BDB_SET_JOIN_USES_INSTALL_CODE, 1)
    device = room.stick(END_DEVICE)
    coordinator.ask(Cmd.APP_CNF_BDB_ADD_INSTALL_CODE, 1, device.ieee, CODE)
    device.ask(Cmd.APP_CNF_BDB_SET_ACTIVE_CENTRALIZED_KEY, 1, CODE)
    device.commission(STEERING)
    room.run(SECOND)
    assert device.notes == [(0, 2, 0)]
    assert key_between(coordinator, device) != install_code_key(CODE)
    device.register(*IN_SMART_ENERGY)
    tell_secrets(room, coordinator, device)


def test_a_trust_centre_of_an_older_stack_is_asked_for_no_key() -> None:
    room = Room()
    coordinator = room.coordinator(settings=OLD)
    device = room.joined(coordinator)
    assert device.notes == [(0, 2, 0)]
    assert device.nv.link_key(coordinator.ieee) is None
    assert aps.VERIFY_KEY not in commands_flown(room, coordinator)
    device.data(0x0000, b"x", options=SECURED)
    assert device.confirms == [(Status.SEC_NO_KEY, 1, 7)]


def test_with_an_older_stack_the_install_code_s_key_goes_on_securing() -> None:
    room = Room()
    coordinator = room.coordinator(settings=OLD)
    permit(coordinator)
    device = room.stick(END_DEVICE)
    coordinator.ask(Cmd.APP_CNF_BDB_ADD_INSTALL_CODE, 1, device.ieee, CODE)
    device.ask(Cmd.APP_CNF_BDB_SET_ACTIVE_CENTRALIZED_KEY, 1, CODE)
    device.commission(STEERING)
    room.run(SECOND)
    device.register(*IN_SMART_ENERGY)
    assert key_between(coordinator, device) == install_code_key(CODE)
    tell_secrets(room, coordinator, device)


@pytest.mark.parametrize("required", [0, 1])
@pytest.mark.parametrize("settings", [StickSettings(), OLD])
def test_a_device_without_a_key_of_its_own_is_sent_away_where_one_is_required(
    settings: StickSettings, required: int
) -> None:
    room = Room()
    coordinator = room.coordinator(settings=settings)
    assert coordinator.ask(Cmd.APP_CNF_BDB_SET_REQUIRE_KEY_EXCHANGE, 2) == 2
    assert coordinator.ask(Cmd.APP_CNF_BDB_SET_REQUIRE_KEY_EXCHANGE, required) == 0
    device = room.joined(coordinator)
    short = device.short
    room.run(20 * SECOND)
    if required and settings is OLD:
        assert device.state() is DeviceState.NOT_CONNECTED
        assert device.heard(Cmd.ZDO_LEAVE_IND) == [(short, device.ieee, 1, 0, 0)]
        assert coordinator.heard(Cmd.ZDO_LEAVE_IND) == [(short, device.ieee, 0, 0, 0)]
        assert coordinator.counters["joiners_without_key"] == 1
        assert device.nv.nib is None
    else:
        assert device.state() is DeviceState.END_DEVICE
        assert coordinator.heard(Cmd.ZDO_LEAVE_IND) == []


@pytest.mark.parametrize("after", ["the network key", "the request"])
def test_a_joiner_that_gets_no_key_tells_so_and_leaves(after: str) -> None:
    room = Room(AirSettings(latency_us=50_000))
    coordinator = room.coordinator()
    permit(coordinator)
    device = room.stick(END_DEVICE)
    device.commission(STEERING)
    while DeviceState.END_DEVICE not in device.states:
        room.run(1000)
    if after == "the request":
        room.run(120_000)
    room.unplug(coordinator)
    room.run(8 * SECOND)
    assert device.notes == [(7, 2, 0)]
    assert device.states[-2:] == [DeviceState.END_DEVICE, DeviceState.NOT_CONNECTED]
    assert device.nv.nib is None
    assert device.nv.item(Item.TCLK_JOIN_DEV) is None


def test_an_exchange_gets_through_an_air_that_loses_frames() -> None:
    for seed in range(10):
        room = Room()
        coordinator = room.coordinator()
        coordinator.ask(Cmd.ZDO_MGMT_PERMIT_JOIN_REQ, mt.AddressMode.SHORT, 0x0000, 255, 1)
        device = room.stick(END_DEVICE)
        room.medium._settings = AirSettings(loss=0.1, ack_loss=0.1)
        room.medium._chance.seed(seed)
        for _ in range(12):  # a host tries again
            device.commission(STEERING)
            room.run(30 * SECOND)
            if device.notes[-1][0] == 0:
                break
        room.medium._settings = AirSettings()
        room.run(60 * SECOND)
        assert device.state() is DeviceState.END_DEVICE
        device.register(*IN_SMART_ENERGY)
        tell_secrets(room, coordinator, device)


def test_a_wrong_or_unasked_proof_changes_nothing() -> None:
    room = Room()
    coordinator = room.coordinator()
    device = room.joined(coordinator)
    key = key_between(coordinator, device)
    for proof in (bytes(16), secure.proof_of_key(DEFAULT_LINK_KEY)):
        command = aps.encode_verify_key(aps.VerifyKey(device.ieee, proof))
        device.stick._link.unicast(0x0000, device.stick._aps.command_frame(command), None)
        command = aps.encode_verify_key(aps.VerifyKey(coordinator.ieee, proof))
        device.stick._link.unicast(0x0000, device.stick._aps.command_frame(command), None)
    room.settle()
    assert key_between(coordinator, device) == key
    tell_secrets(room, coordinator, device)


def test_leaving_forgets_the_key_on_both_sides_and_a_new_one_is_made_at_the_next_join() -> None:
    room = Room()
    coordinator = room.coordinator()
    device = room.joined(coordinator)
    old = key_between(coordinator, device)
    device.ask(Cmd.ZDO_MGMT_LEAVE_REQ, device.short, bytes(8), 0)
    room.run(SECOND)
    assert device.nv.link_key(coordinator.ieee) is None
    assert coordinator.nv.link_key(device.ieee) is None
    assert device.nv.item(Item.TCLK_JOIN_DEV) is None
    keys = set()
    for _ in range(4):
        device.set_item(Item.STARTUP_OPTION, b"\x03")  # gone without a word
        device.reset()
        permit(coordinator)
        device.commission(STEERING)
        room.run(SECOND)
        device.register(*IN_SMART_ENERGY)
        keys.add(key_between(coordinator, device))
        tell_secrets(room, coordinator, device)
    assert len(keys - {old}) >= 2


# --- counters -------------------------------------------------------------------------------------


def secured_frames(room: Room, sender: Host) -> list[bytes]:
    """APS data frames that a stick secured, as the network layer carried them."""
    frames = []
    for frame in room.flown:
        octets = opened(frame, sender) if frame[7:9] == sender.short.to_bytes(2, "little") else None
        if octets is not None and octets[0] & 3 == aps.DATA and octets[0] & aps.SECURED:
            frames.append(octets)
    return frames


def test_a_secured_frame_that_is_sent_again_is_dropped_by_its_counter() -> None:
    room = Room()
    coordinator = room.coordinator()
    device = room.joined(coordinator)
    for payload in (b"first", b"second"):
        device.data(0x0000, payload, options=Option.APS_SECURITY)
    room.run(SECOND)
    for octets in secured_frames(room, device):
        # Under the network key of now: only its own counter tells.
        device.stick._link.unicast(0x0000, octets, None)
    room.run(SECOND)
    assert [one.payload for one in coordinator.messages] == [b"first", b"second"]
    assert coordinator.counters["frames_replayed_aps"] == 2
    device.data(0x0000, b"third", options=Option.APS_SECURITY)
    room.run(SECOND)
    assert coordinator.messages[-1].payload == b"third"


def test_counters_of_a_link_key_go_on_over_restarts_and_never_repeat() -> None:
    room = Room()
    coordinator = room.coordinator()
    device = room.joined(coordinator)
    key = bytes(range(0x40, 0x50))
    for host, other in ((coordinator, device), (device, coordinator)):
        assert host.ask(Cmd.ZDO_SET_LINK_KEY, other.short, other.ieee, key) == 0
    for number in range(4):
        for _ in range(400):
            device.data(0x0000, b"x", options=Option.APS_SECURITY)
        room.run(SECOND)
        # The host sets the same key again, which must not begin anew.
        assert device.ask(Cmd.ZDO_SET_LINK_KEY, 0x0000, coordinator.ieee, key) == 0
        if number % 2:
            memory = room.unplug(device)
            device = room.stick(memory=memory)
        else:
            memory = room.unplug(coordinator)
            coordinator = room.stick(memory=memory)
            coordinator.commission(4)
            coordinator.register(*IN_SMART_ENERGY)
            device.reset()
        device.commission(0)
        room.run(SECOND)
        device.register(*IN_SMART_ENERGY)
    tell_secrets(room, coordinator, device)
    counters = [int.from_bytes(octets[9:13], "little") for octets in secured_frames(room, device)]
    assert len(counters) == 1601
    assert counters == sorted(set(counters))
    assert coordinator.counters["frames_replayed_aps"] == 0
    status, told, sent, heard = coordinator.ask(Cmd.UTIL_APSME_LINK_KEY_DATA_GET, device.ieee)
    assert (status, told) == (0, key)
    assert sent >= 1 and heard >= 1024


def test_a_late_secured_frame_is_dropped_and_a_copy_passes() -> None:
    room = Room()
    coordinator = room.coordinator()
    device = room.joined(coordinator)
    room.medium._settings = AirSettings(duplication=1.0)
    device.data(0x0000, b"twice", options=Option.APS_SECURITY)
    room.run(SECOND)
    assert [one.payload for one in coordinator.messages] == [b"twice", b"twice"]
    room.medium._settings = AirSettings(reordering=0.5, seed=1)
    for number in range(50):
        device.data(0x0000, bytes((number,)), options=Option.APS_SECURITY)
        room.run(3000)
    room.run(SECOND)
    arrived = [one.payload[0] for one in coordinator.messages[2:]]
    assert arrived == sorted(arrived)
    assert len(arrived) + coordinator.counters["frames_replayed_aps"] == 50
