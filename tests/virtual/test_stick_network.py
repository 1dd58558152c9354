"""Forming, joining, going on after a restart, losing the parent, leaving: told by several hosts."""

from __future__ import annotations

import struct

import pytest
from room import (
    COORDINATOR,
    END_DEVICE,
    FORMATION,
    IN_SMART_ENERGY,
    ROUTER,
    SECOND,
    STEERING,
    Host,
    Room,
)

from firmware_node.crypto import install_code_key
from firmware_node.virtual.air import AirSettings
from firmware_node.virtual.nv import Item
from firmware_node.wire import mac, mt
from firmware_node.wire.mt import Cmd, DeviceState

# An install code with its CRC; that its key is what the specification says is test_crypto's matter.
CODE = bytes.fromhex("83fed3407a939723a5c639b26916d505c3b5")
OTHER_KEY = bytes(range(16))
OTHER_IEEE = bytes.fromhex("a490785634120db0")
ROLES = pytest.mark.parametrize(
    ("role", "state"), [(END_DEVICE, DeviceState.END_DEVICE), (ROUTER, DeviceState.ROUTER)]
)


def permit(host: Host, seconds: int) -> None:
    host.ask(Cmd.ZDO_MGMT_PERMIT_JOIN_REQ, mt.AddressMode.SHORT, 0x0000, seconds, 1)


def joins_of(host: Host) -> list[tuple[int, bytes, int]]:
    return [(one[0], one[1], one[2]) for one in host.heard(Cmd.ZDO_TC_DEV_IND)]


def test_forming_tells_the_host_what_real_sticks_tell_and_in_their_order() -> None:
    host = Room().stick()
    host.set_item(Item.PANID, b"\x34\x12")
    host.set_item(Item.APS_USE_EXT_PANID, b"\xdd" * 8)
    host.set_item(Item.PRECFGKEY, OTHER_KEY)
    host.ask(Cmd.APP_CNF_BDB_SET_CHANNEL, 1, 1 << 20)
    host.told.clear()
    host.commission(FORMATION)
    assert [(command, data.hex()) for command, data in host.told] == [
        (Cmd.APP_CNF_BDB_NOTIFICATION, "010204"),
        (Cmd.ZDO_STATE_CHANGE_IND, "01"),
        (Cmd.ZDO_STATE_CHANGE_IND, "08"),
        (Cmd.ZDO_STATE_CHANGE_IND, "09"),
        (Cmd.APP_CNF_BDB_NOTIFICATION, "000200"),
    ]
    nib = host.nv.nib
    assert nib is not None
    assert (nib.pan, nib.channel, nib.extended_pan) == (0x1234, 20, b"\xdd" * 8)
    assert host.nv.network_key().key == OTHER_KEY
    assert host.nv.network_key(Item.NWK_ALTERN_KEY_INFO).key == OTHER_KEY
    assert host.nv.octet(Item.BDBNODEISONANETWORK) == 1


def test_a_formed_stick_goes_on_after_a_reset_when_it_is_told_to_form() -> None:
    host = Room().coordinator()
    nib = host.nv.nib
    host.reset()
    host.told.clear()
    host.commission(FORMATION)
    assert [(command, data.hex()) for command, data in host.told] == [
        (Cmd.ZDO_STATE_CHANGE_IND, "09"),
        (Cmd.APP_CNF_BDB_NOTIFICATION, "0d0004"),
        (Cmd.APP_CNF_BDB_NOTIFICATION, "000400"),
    ]
    assert host.nv.nib == nib


def test_startup_from_app_forms_and_goes_on_as_commissioning_does() -> None:
    host = Room().stick()
    assert host.ask(Cmd.ZDO_STARTUP_FROM_APP, 100) == 0
    assert host.state() is DeviceState.COORDINATOR
    host.reset()
    assert host.ask(Cmd.ZDO_STARTUP_FROM_APP, 100) == 0
    assert host.state() is DeviceState.COORDINATOR


def test_two_sticks_form_networks_of_their_own_with_keys_of_their_own() -> None:
    room = Room()
    first, second = room.coordinator(), room.coordinator()
    assert first.nv.nib is not None and second.nv.nib is not None
    assert first.nv.nib.pan != second.nv.nib.pan
    assert first.nv.nib.extended_pan != second.nv.nib.extended_pan
    assert first.nv.network_key() != second.nv.network_key()


@ROLES
def test_a_joiner_passes_the_states_in_order_and_both_hosts_learn_of_it(
    role: int, state: DeviceState
) -> None:
    room = Room()
    coordinator = room.coordinator()
    coordinator.ask(Cmd.ZDO_MSG_CB_REGISTER, 0xFFFF)
    permit(coordinator, 60)
    device = room.stick(role)
    device.commission(STEERING)
    room.run(SECOND)
    assert device.states == [
        DeviceState.DISCOVERING,
        DeviceState.JOINING,
        DeviceState.UNAUTHENTICATED,
        state,
    ]
    assert device.notes == [(0, 2, 0)]
    short = device.short
    assert 0 < short < 0xFFF8
    assert joins_of(coordinator) == [(short, device.ieee, 0x0000)]
    commands = [command for command, _ in coordinator.told]
    announce = commands.index(Cmd.ZDO_END_DEVICE_ANNCE_IND)
    assert commands.index(Cmd.ZDO_TC_DEV_IND) < announce
    capability = 0x8C if role == END_DEVICE else 0x8E
    (told,) = coordinator.heard(Cmd.ZDO_END_DEVICE_ANNCE_IND)
    assert told == (short, short, device.ieee, capability)
    mirrored = [one for one in coordinator.heard(Cmd.ZDO_MSG_CB_INCOMING) if one[2] == 0x0013]
    assert mirrored[0][6] == struct.pack("<H8sB", short, device.ieee, capability)
    mine, its = device.nv.nib, coordinator.nv.nib
    assert mine is not None and its is not None
    assert (mine.pan, mine.channel, mine.extended_pan) == (its.pan, its.channel, its.extended_pan)
    assert (mine.parent, mine.parent_ieee) == (0x0000, coordinator.ieee)
    assert device.nv.network_key() == coordinator.nv.network_key()
    assert device.nv.item(Item.TRUSTCENTER_ADDR) == coordinator.ieee
    assert coordinator.ask(Cmd.UTIL_GET_DEVICE_INFO)[5] == (short,)


def test_nobody_joins_while_joining_is_not_permitted() -> None:
    room = Room()
    coordinator = room.coordinator()
    device = room.stick(END_DEVICE)
    device.commission(STEERING)
    room.run(SECOND)
    assert device.state() is DeviceState.NOT_CONNECTED
    assert device.notes == [(2, 2, 0)]
    assert device.nv.nib is None
    assert joins_of(coordinator) == []


def test_the_permit_window_closes_by_itself_and_the_host_is_told() -> None:
    room = Room()
    coordinator = room.coordinator()
    permit(coordinator, 5)
    assert coordinator.heard(Cmd.ZDO_PERMIT_JOIN_IND) == [(5,)]
    assert coordinator.heard_bodies(mt.zdo_callback(0x8036)) == [b"\x00\x00\x00"]
    room.run(6 * SECOND)
    assert coordinator.heard(Cmd.ZDO_PERMIT_JOIN_IND) == [(5,), (0,)]
    device = room.stick(END_DEVICE)
    device.commission(STEERING)
    room.run(SECOND)
    assert device.notes == [(2, 2, 0)]
    permit(coordinator, 255)
    room.run(600 * SECOND)
    device.commission(STEERING)
    room.run(SECOND)
    assert device.notes[-1] == (0, 2, 0)


def test_a_broadcast_permit_opens_every_router() -> None:
    room = Room()
    coordinator = room.coordinator()
    router = room.joined(coordinator, ROUTER)
    coordinator.ask(Cmd.ZDO_MGMT_PERMIT_JOIN_REQ, mt.AddressMode.BROADCAST, 0xFFFC, 60, 1)
    room.run(SECOND)
    assert router.heard(Cmd.ZDO_PERMIT_JOIN_IND)[-1] == (60,)
    assert coordinator.heard(Cmd.ZDO_PERMIT_JOIN_IND)[-1] == (60,)


@pytest.mark.parametrize("by", ["pan", "extended pan", "channel"])
def test_a_joiner_takes_only_the_network_it_was_pinned_to(by: str) -> None:
    room = Room()
    coordinators = [room.coordinator(), room.stick(COORDINATOR)]
    coordinators[1].ask(Cmd.APP_CNF_BDB_SET_CHANNEL, 1, 1 << 25)
    coordinators[1].commission(FORMATION)
    for coordinator in coordinators:
        permit(coordinator, 60)
    for wanted in coordinators:
        nib = wanted.nv.nib
        assert nib is not None
        device = room.stick(END_DEVICE)
        if by == "pan":
            device.set_item(Item.PANID, nib.pan.to_bytes(2, "little"))
        elif by == "extended pan":
            device.set_item(Item.APS_USE_EXT_PANID, nib.extended_pan)
        else:
            device.ask(Cmd.APP_CNF_BDB_SET_CHANNEL, 1, 1 << nib.channel)
        device.commission(STEERING)
        room.run(SECOND)
        assert device.nv.nib is not None
        assert device.nv.nib.extended_pan == nib.extended_pan


def test_a_joiner_may_come_in_through_a_router_when_only_that_is_open() -> None:
    room = Room()
    coordinator = room.coordinator()
    router = room.joined(coordinator, ROUTER)
    permit(coordinator, 0)
    coordinator.ask(Cmd.ZDO_MGMT_PERMIT_JOIN_REQ, mt.AddressMode.SHORT, router.short, 60, 1)
    device = room.stick(END_DEVICE)
    device.commission(STEERING)
    room.run(SECOND)
    assert device.notes[-1] == (0, 2, 0)
    assert joins_of(coordinator)[-1] == (device.short, device.ieee, router.short)
    assert device.nv.nib is not None
    assert device.nv.nib.parent == router.short
    # What it says reaches the coordinator through the router.
    device.register(*IN_SMART_ENERGY)
    assert device.data(0x0000, b"through the router", options=mt.Option.APS_ACK) == 0
    room.run(SECOND)
    assert device.confirms == [(0, 1, 7)]
    assert [one.payload for one in coordinator.messages] == [b"through the router"]
    assert router.counters["frames_forwarded"] >= 1


# --- another EUI-64 -------------------------------------------------------------------------------


@pytest.mark.parametrize("deleted_first", [False, True])
@ROLES
def test_a_stick_has_the_eui64_that_its_host_wrote_after_the_next_reset(
    role: int, state: DeviceState, deleted_first: bool
) -> None:
    room = Room()
    coordinator = room.coordinator()
    permit(coordinator, 60)
    device = room.stick(role)
    factory = device.ieee
    if deleted_first:
        assert device.ask(Cmd.SYS_OSAL_NV_DELETE, Item.EXTADDR, 8) == 0
        assert device.ask(Cmd.SYS_OSAL_NV_ITEM_INIT, Item.EXTADDR, 8, b"") == 0x09
    device.set_item(Item.EXTADDR, OTHER_IEEE)
    assert device.ask(Cmd.SYS_GET_EXT_ADDR) == factory  # until the reset
    device.reset()
    assert device.ask(Cmd.SYS_GET_EXT_ADDR) == OTHER_IEEE
    assert device.ask(Cmd.UTIL_GET_DEVICE_INFO)[1] == OTHER_IEEE
    device.commission(STEERING)
    room.run(SECOND)
    assert device.state() is state
    assert joins_of(coordinator) == [(device.short, OTHER_IEEE, 0x0000)]
    ((_, _, announced, _),) = coordinator.heard(Cmd.ZDO_END_DEVICE_ANNCE_IND)
    assert announced == OTHER_IEEE
    assert not any(factory in frame for frame in room.flown)
    # Over the next power cycle too, and back to the factory's once the item is deleted.
    memory = room.unplug(device)
    device = room.stick(memory=memory)
    assert device.ask(Cmd.SYS_GET_EXT_ADDR) == OTHER_IEEE
    assert device.ask(Cmd.SYS_OSAL_NV_DELETE, Item.EXTADDR, 8) == 0
    assert device.ask(Cmd.SYS_GET_EXT_ADDR) == OTHER_IEEE
    device.reset()
    assert device.ask(Cmd.SYS_GET_EXT_ADDR) == factory
    assert device.nv.item(Item.EXTADDR) == factory


def test_a_network_formed_under_another_eui64_is_that_trust_centre_s() -> None:
    room = Room()
    host = room.stick()
    host.set_item(Item.EXTADDR, OTHER_IEEE)
    host.reset()
    host.commission(FORMATION)
    assert host.nv.item(Item.TRUSTCENTER_ADDR) == OTHER_IEEE
    assert host.nv.nib is not None and host.nv.nib.extended_pan == OTHER_IEEE
    device = room.joined(host)
    assert device.nv.nib is not None and device.nv.nib.parent_ieee == OTHER_IEEE


def test_a_blank_eui64_is_none() -> None:
    host = Room().stick()
    factory = host.ieee
    host.set_item(Item.EXTADDR, b"\xff" * 8)
    host.reset()
    assert host.ask(Cmd.SYS_GET_EXT_ADDR) == factory


# --- install codes --------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [1, 2, 3, 4])
@pytest.mark.parametrize("form", [1, 2])
@ROLES
def test_a_joiner_with_the_install_code_that_the_trust_centre_knows_comes_in(
    role: int, state: DeviceState, form: int, mode: int
) -> None:
    room = Room()
    coordinator = room.coordinator()
    coordinator.ask(Cmd.APP_CNF_BDB_SET_JOIN_USES_INSTALL_CODE, 1)
    permit(coordinator, 60)
    device = room.stick(role)
    key = install_code_key(CODE)  # serves as the code does, at either end
    its, own = CODE if form == 1 else key, CODE if mode <= 2 else key
    assert coordinator.ask(Cmd.APP_CNF_BDB_ADD_INSTALL_CODE, form, device.ieee, its) == 0
    assert device.ask(Cmd.APP_CNF_BDB_SET_ACTIVE_CENTRALIZED_KEY, mode, own) == 0
    device.commission(STEERING)
    room.run(SECOND)
    assert device.notes == [(0, 2, 0)]
    assert device.state() is state
    assert joins_of(coordinator) == [(device.short, device.ieee, 0x0000)]


def test_an_install_code_serves_through_a_router_too() -> None:
    room = Room()
    coordinator = room.coordinator()
    router = room.joined(coordinator, ROUTER)
    permit(coordinator, 0)
    coordinator.ask(Cmd.APP_CNF_BDB_SET_JOIN_USES_INSTALL_CODE, 1)
    coordinator.ask(Cmd.ZDO_MGMT_PERMIT_JOIN_REQ, mt.AddressMode.SHORT, router.short, 60, 1)
    device = room.stick(END_DEVICE)
    coordinator.ask(Cmd.APP_CNF_BDB_ADD_INSTALL_CODE, 1, device.ieee, CODE)
    device.ask(Cmd.APP_CNF_BDB_SET_ACTIVE_CENTRALIZED_KEY, 1, CODE)
    device.commission(STEERING)
    room.run(SECOND)
    assert device.notes == [(0, 2, 0)]
    assert joins_of(coordinator)[-1] == (device.short, device.ieee, router.short)


@ROLES
def test_answers_and_callbacks_of_joining_come_in_the_order_that_hosts_wait_for(
    role: int, state: DeviceState
) -> None:
    room = Room()
    coordinator = room.coordinator()
    permit(coordinator, 60)
    device = room.stick(role)
    device.order.clear()
    device.commission(STEERING)
    room.run(SECOND)
    state_change, note = Cmd.ZDO_STATE_CHANGE_IND, Cmd.APP_CNF_BDB_NOTIFICATION
    answer = Cmd.APP_CNF_BDB_START_COMMISSIONING | mt.RESPONSE
    # Between them the answer to what the stick itself asked for the key exchange.
    order = [command for command in device.order if command != mt.zdo_callback(0x8002)]
    assert order == [answer, *4 * [state_change], note]
    assert device.states[-1] is state


@pytest.mark.parametrize("mode", [1, 2, 3, 4])
@ROLES
def test_a_joiner_with_another_key_is_told_that_the_exchange_failed_after_state_5(
    role: int, state: DeviceState, mode: int
) -> None:
    room = Room()
    coordinator = room.coordinator()
    permit(coordinator, 60)
    device = room.stick(role)
    coordinator.ask(Cmd.APP_CNF_BDB_ADD_INSTALL_CODE, 2, device.ieee, OTHER_KEY)
    own = CODE if mode <= 2 else install_code_key(CODE)
    assert device.ask(Cmd.APP_CNF_BDB_SET_ACTIVE_CENTRALIZED_KEY, mode, own) == 0
    device.commission(STEERING)
    room.run(10 * SECOND)
    assert state not in device.states
    assert device.states[-2:] == [DeviceState.UNAUTHENTICATED, DeviceState.NOT_CONNECTED]
    assert device.notes == [(7, 2, 0)]
    assert device.nv.nib is None


def test_a_joiner_without_a_code_stays_out_where_codes_are_the_policy() -> None:
    room = Room()
    coordinator = room.coordinator()
    coordinator.ask(Cmd.APP_CNF_BDB_SET_JOIN_USES_INSTALL_CODE, 1)
    permit(coordinator, 60)
    device = room.stick(END_DEVICE)
    device.commission(STEERING)
    room.run(10 * SECOND)
    assert device.notes == [(7, 2, 0)]
    assert joins_of(coordinator) == []
    assert coordinator.counters["joiners_refused"] == 1
    assert list(coordinator.nv.addresses()) == []
    coordinator.ask(Cmd.APP_CNF_BDB_SET_JOIN_USES_INSTALL_CODE, 0)
    device.commission(STEERING)
    room.run(SECOND)
    assert device.notes[-1] == (0, 2, 0)


def test_fallback_to_the_well_known_key_happens_only_in_the_modes_that_say_so() -> None:
    room = Room()
    coordinator = room.coordinator()
    for mode, status in ((1, 7), (2, 0), (3, 7), (4, 0)):
        permit(coordinator, 60)
        device = room.stick(END_DEVICE)
        own = CODE if mode <= 2 else install_code_key(CODE)
        device.ask(Cmd.APP_CNF_BDB_SET_ACTIVE_CENTRALIZED_KEY, mode, own)
        device.commission(STEERING)
        room.run(10 * SECOND)
        assert device.notes == [(status, 2, 0)], mode


def test_codes_with_a_wrong_crc_or_size_are_refused() -> None:
    host = Room().coordinator()
    wrong = CODE[:-1] + b"\x00"
    for code in (wrong, CODE[:-2], b""):
        assert host.ask(Cmd.APP_CNF_BDB_ADD_INSTALL_CODE, 1, bytes(8), code) == 2
        assert host.ask(Cmd.APP_CNF_BDB_SET_ACTIVE_CENTRALIZED_KEY, 1, code) == 2
    assert host.ask(Cmd.APP_CNF_BDB_ADD_INSTALL_CODE, 2, bytes(8), CODE) == 2
    assert host.nv.install_code_key(bytes(8)) is None


# --- going on, losing the parent ------------------------------------------------------------------


def restart(room: Room, host: Host, by: str) -> Host:
    """Reset a stick, or plug it in again."""
    if by == "reset":
        host.reset()
        host.told.clear()
        return host
    memory = room.unplug(host)
    room.run(SECOND)
    return room.stick(memory=memory)


def go_on(host: Host, how: str) -> None:
    """Have a stick take up its network again."""
    if how == "startup from app":
        assert host.ask(Cmd.ZDO_STARTUP_FROM_APP, 0) == 0
    else:
        host.commission(0 if how == "mode 0" else STEERING)


HOW = pytest.mark.parametrize("how", ["mode 0", "steering", "startup from app"])
BY = pytest.mark.parametrize("by", ["reset", "restart"])


@HOW
@BY
@ROLES
def test_a_joined_stick_goes_on_after_a_reset_or_restart_without_a_permit(
    role: int, state: DeviceState, by: str, how: str
) -> None:
    room = Room()
    coordinator = room.coordinator()
    device = room.joined(coordinator, role)
    short = device.short
    permit(coordinator, 0)
    device = restart(room, device, by)
    go_on(device, how)
    room.run(SECOND)
    assert device.state() is state
    assert device.notes == [(0x0D, 0, 0)]
    assert device.short == short
    device.register(*IN_SMART_ENERGY)
    device.data(0x0000, b"again", options=mt.Option.APS_ACK)
    room.run(SECOND)
    assert device.confirms == [(0, 1, 7)]
    assert coordinator.messages[-1].payload == b"again"
    assert coordinator.counters["frames_replayed"] == 0
    assert list(coordinator.nv.addresses()) != []


@pytest.mark.parametrize("recovery", ["by itself", "when told"])
@HOW
@BY
def test_an_end_device_that_finds_no_coordinator_at_its_start_recovers_when_that_is_back(
    by: str, how: str, recovery: str
) -> None:
    room = Room()
    coordinator = room.coordinator()
    device = room.joined(coordinator)
    short = device.short
    memory = room.unplug(coordinator)
    device = restart(room, device, by)
    go_on(device, how)
    room.run(40 * SECOND)
    assert device.states == [DeviceState.REJOINING, DeviceState.ORPHAN]
    assert device.notes == []
    assert device.data(0x0000, b"x", endpoints=(0, 0)) == 0  # it still has its network
    coordinator = room.stick(memory=memory)
    coordinator.commission(FORMATION)
    if recovery == "when told":
        assert device.ask(Cmd.APP_CNF_BDB_ZED_RECOVER_NWK) == 0
        room.run(SECOND // 10)
    else:
        room.run(31 * SECOND)
    assert device.state() is DeviceState.END_DEVICE
    assert device.notes == [(0x0D, 0, 0)]
    assert device.short == short


def test_a_router_that_finds_no_coordinator_at_its_start_is_there_all_the_same() -> None:
    room = Room()
    coordinator = room.coordinator()
    router = room.joined(coordinator, ROUTER)
    memory = room.unplug(coordinator)
    router.reset()
    router.commission(0)
    room.run(10 * SECOND)
    assert router.state() is DeviceState.ROUTER
    router.register(*IN_SMART_ENERGY)
    router.data(0x0000, b"anybody", options=mt.Option.APS_ACK)
    room.run(30 * SECOND)
    assert router.confirms == [(mt.Status.NWK_NO_ROUTE, 1, 7)]
    coordinator = room.stick(memory=memory)
    coordinator.commission(FORMATION)
    coordinator.register(*IN_SMART_ENERGY)
    router.data(0x0000, b"you", options=mt.Option.APS_ACK, transaction=8)
    room.run(SECOND)
    assert router.confirms[-1] == (0, 1, 8)
    assert router.ask(Cmd.APP_CNF_BDB_ZED_RECOVER_NWK) == 1  # it has no parent to find


def test_frame_counters_go_on_above_all_that_were_used_before_a_restart() -> None:
    room = Room()
    coordinator = room.coordinator()
    device = room.joined(coordinator)
    for _ in range(3):
        for _ in range(700):
            device.data(0x0000, b"x")
        room.run(SECOND)
        memory = room.unplug(device)
        device = room.stick(memory=memory)
        device.commission(0)
        room.run(SECOND)
        device.register(*IN_SMART_ENERGY)
    counters = [
        int.from_bytes(frame[18:22], "little")
        for frame in room.flown
        if frame[:2] == b"\x61\x88" and frame[18 + 4 : 18 + 12] == device.ieee
    ]
    assert len(counters) >= 2100
    assert counters == sorted(set(counters))
    assert coordinator.counters["frames_replayed"] == 0


def test_an_end_device_whose_parent_is_gone_is_an_orphan_and_comes_back_by_itself() -> None:
    room = Room()
    coordinator = room.coordinator()
    device = room.joined(coordinator)
    short = device.short
    memory = room.unplug(coordinator)
    room.run(30 * SECOND)
    assert device.state() is DeviceState.ORPHAN
    coordinator = room.stick(memory=memory)
    coordinator.commission(FORMATION)
    room.run(60 * SECOND)
    assert device.state() is DeviceState.END_DEVICE
    assert device.short == short
    assert joins_of(coordinator) == [(short, device.ieee, 0x0000)]


def test_an_orphan_told_to_recover_tries_at_once() -> None:
    room = Room()
    coordinator = room.coordinator()
    device = room.joined(coordinator)
    memory = room.unplug(coordinator)
    room.run(200 * SECOND)  # long enough that its own attempts are half a minute apart
    coordinator = room.stick(memory=memory)
    coordinator.commission(FORMATION)
    assert device.ask(Cmd.APP_CNF_BDB_ZED_RECOVER_NWK) == 0
    room.run(SECOND // 10)
    assert device.state() is DeviceState.END_DEVICE


def test_a_parent_that_answers_polls_keeps_its_child_for_hours() -> None:
    room = Room()
    device = room.joined(room.coordinator())
    room.run(3600 * SECOND)
    assert device.state() is DeviceState.END_DEVICE
    assert room.flown[-1] == mac.encode_ack(room.flown[-2][2])


def test_a_device_of_another_network_key_stays_an_orphan() -> None:
    room = Room()
    coordinator = room.coordinator()
    device = room.joined(coordinator)
    coordinator.set_item(Item.NWK_ACTIVE_KEY_INFO, b"\x00" + OTHER_KEY)
    coordinator.reset()
    coordinator.commission(FORMATION)
    device.reset()
    device.commission(0)
    room.run(60 * SECOND)
    assert device.state() is DeviceState.ORPHAN
    assert coordinator.counters["frames_unreadable"] > 0


# --- leaving --------------------------------------------------------------------------------------


@ROLES
def test_a_device_told_by_its_own_host_leaves_and_forgets(role: int, state: DeviceState) -> None:
    room = Room()
    coordinator = room.coordinator()
    device = room.joined(coordinator, role)
    assert device.state() is state
    short = device.short
    device.ask(Cmd.ZDO_MGMT_LEAVE_REQ, short, bytes(8), 0)
    room.run(SECOND)
    assert device.heard(Cmd.ZDO_LEAVE_IND) == [(short, device.ieee, 1, 0, 0)]
    assert device.state() is DeviceState.NOT_CONNECTED
    assert device.nv.nib is None
    assert coordinator.heard(Cmd.ZDO_LEAVE_IND) == [(short, device.ieee, 0, 0, 0)]
    assert coordinator.ask(Cmd.UTIL_GET_DEVICE_INFO)[5] == ()
    assert list(coordinator.nv.addresses()) == []


@ROLES
def test_a_device_told_over_the_air_answers_leaves_and_forgets(
    role: int, state: DeviceState
) -> None:
    room = Room()
    coordinator = room.coordinator()
    device = room.joined(coordinator, role)
    assert device.state() is state
    short = device.short
    coordinator.ask(Cmd.ZDO_MGMT_LEAVE_REQ, short, bytes(8), 0)
    room.run(SECOND)
    assert coordinator.heard_bodies(mt.zdo_callback(0x8034)) == [
        short.to_bytes(2, "little") + b"\x00"
    ]
    assert coordinator.heard(Cmd.ZDO_LEAVE_IND) == [(short, device.ieee, 0, 0, 0)]
    assert device.heard(Cmd.ZDO_LEAVE_IND) == [(short, device.ieee, 1, 0, 0)]
    assert device.nv.nib is None
    assert list(coordinator.nv.addresses()) == []
    device.reset()
    device.commission(0)
    assert device.notes[-1] == (2, 2, 0)


@pytest.mark.parametrize("by", ["coordinator", "own host"])
@ROLES
def test_a_device_told_to_leave_and_rejoin_is_back_with_the_same_address(
    role: int, state: DeviceState, by: str
) -> None:
    room = Room()
    coordinator = room.coordinator()
    device = room.joined(coordinator, role)
    permit(coordinator, 0)
    short = device.short
    told = coordinator if by == "coordinator" else device
    told.ask(Cmd.ZDO_MGMT_LEAVE_REQ, short, bytes(8), 0x80)
    room.run(5 * SECOND)
    assert coordinator.heard(Cmd.ZDO_LEAVE_IND) == [(short, device.ieee, 0, 0, 1)]
    assert device.heard(Cmd.ZDO_LEAVE_IND) == [(short, device.ieee, 1, 0, 1)]
    assert device.states[-2:] == [DeviceState.REJOINING, state]
    assert device.short == short
    assert joins_of(coordinator)[-1] == (short, device.ieee, 0x0000)


def test_the_coordinator_refuses_to_leave_its_network() -> None:
    host = Room().coordinator()
    host.ask(Cmd.ZDO_MGMT_LEAVE_REQ, 0x0000, bytes(8), 0)
    assert host.heard_bodies(mt.zdo_callback(0x8034)) == [b"\x00\x00\x80"]
    assert host.nv.nib is not None


def test_a_factory_reset_makes_a_joined_stick_blank() -> None:
    room = Room()
    device = room.joined(room.coordinator())
    device.set_item(Item.STARTUP_OPTION, b"\x03")
    device.reset()
    device.commission(0)
    assert device.notes[-1] == (2, 2, 0)
    assert device.nv.octet(Item.LOGICAL_TYPE) == END_DEVICE


def test_the_network_moves_to_another_channel_together() -> None:
    room = Room()
    coordinator = room.coordinator()
    device = room.joined(coordinator)
    coordinator.ask(Cmd.ZDO_MGMT_NWK_UPDATE_REQ, 0x0000, 2, 1 << 20, 0xFE, 0, 0)
    room.run(SECOND)
    for host in (coordinator, device):
        assert host.nv.nib is not None
        assert host.nv.nib.channel == 20
    device.data(0x0000, b"there", options=mt.Option.APS_ACK)
    room.run(SECOND)
    assert device.confirms == [(0, 1, 7)]


@pytest.mark.parametrize("product", [1, 2])
def test_joining_works_for_both_products(product: int) -> None:
    room = Room()
    coordinator = room.coordinator(product=product)
    device = room.joined(coordinator, product=3 - product)
    device.data(0x0000, b"hello", options=mt.Option.APS_ACK)
    room.run(SECOND)
    assert coordinator.messages[-1].payload == b"hello"


def test_joining_gets_through_an_air_that_loses_frames() -> None:
    joined = 0
    for seed in range(20):
        room = Room(AirSettings(seed=seed, loss=0.05, ack_loss=0.05))
        coordinator = room.coordinator()
        permit(coordinator, 255)
        device = room.stick(END_DEVICE)
        for _ in range(5):  # a host tries again
            device.commission(STEERING)
            room.run(10 * SECOND)
            if device.notes[-1][0] == 0:
                joined += 1
                break
    assert joined == 20
