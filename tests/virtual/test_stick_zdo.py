"""ZDO that the stick answers by itself, asked in all three ways; held to zigpy's reading of it."""

from __future__ import annotations

from typing import Any

import pytest
import zigpy.types as zt
import zigpy.zdo.types as zdo_t
import zigpy_znp.commands as c
import zigpy_znp.frames as f
from room import END_DEVICE, IN_SMART_ENERGY, ROUTER, SECOND, Host, Room

from firmware_node.virtual.nv import Item
from firmware_node.wire import mt
from firmware_node.wire.mt import Cmd

PEER: dict[int, Any] = {
    kind.header.cmd0 << 8 | kind.header.id: kind
    for definition in c.ZDO
    for kind in (getattr(definition, "Callback", None),)
    if kind is not None
}
ALL = mt.AddressMode.BROADCAST


def network() -> tuple[Room, Host, Host]:
    room = Room()
    coordinator = room.coordinator()
    coordinator.ask(Cmd.ZDO_MSG_CB_REGISTER, 0xFFFF)
    return room, coordinator, room.joined(coordinator)


def by_af(room: Room, host: Host, destination: int, cluster: int, body: bytes) -> list[bytes]:
    """Ask as zigpy does: AF data to endpoint 0; the bodies of the mirrored responses."""
    host.told.clear()
    status = host.ask(
        Cmd.AF_DATA_REQUEST_EXT,
        ALL if destination >= 0xFFF8 else 2,
        destination.to_bytes(8, "little"),
        *(0, 0, 0, cluster, 0x55, 0, 30),
        b"\x55" + body,
    )
    assert status == 0
    room.run(SECOND)
    assert host.confirms == []
    told = host.heard(Cmd.ZDO_MSG_CB_INCOMING)
    return [one[6] for one in told if one[2] == cluster | 0x8000 and one[4] == 0x55]


def by_command(room: Room, host: Host, command: int, *values: Any) -> list[bytes]:
    """Ask as herdsman does: the command; the data of the callbacks."""
    host.told.clear()
    assert host.ask(command, *values) == 0
    room.run(SECOND)
    return host.heard_bodies(mt.zdo_callback(command & 0x7F | 0x8000))


def read(cluster: int, body: bytes) -> list[Any]:
    """What zigpy makes of a response."""
    command = zdo_t.ZDOCmd(cluster | 0x8000)  # type: ignore[no-untyped-call]  # zigpy's
    names, types = zdo_t.CLUSTERS[command]
    values, rest = zt.deserialize(body, types)  # type: ignore[no-untyped-call]  # zigpy's
    assert rest == b"", names
    return list(values)


@pytest.mark.parametrize("asked", ["coordinator", "device"])
def test_descriptors_mean_to_zigpy_what_was_registered(asked: str) -> None:
    room, coordinator, device = network()
    host = coordinator if asked == "coordinator" else device
    short = host.short.to_bytes(2, "little")
    (body,) = by_af(room, coordinator, host.short, 0x0002, short)
    status, nwk, node = read(0x0002, body)
    assert (status, nwk) == (0, host.short)
    assert node.logical_type == (0 if host is coordinator else END_DEVICE)
    assert node.is_receiver_on_when_idle and node.is_mains_powered
    assert node.manufacturer_code == 0x0007
    assert node.is_full_function_device == (host is coordinator)
    (body,) = by_af(room, coordinator, host.short, 0x0003, short)
    assert read(0x0003, body)[2].current_power_source == 1
    (body,) = by_af(room, coordinator, host.short, 0x0005, short)
    assert read(0x0005, body)[2] == [1]
    (body,) = by_af(room, coordinator, host.short, 0x0004, short + b"\x01")
    descriptor = read(0x0004, body)[2]
    assert (descriptor.profile, descriptor.device_type) == (0x0109, 0x0502)
    assert (descriptor.input_clusters, descriptor.output_clusters) == (
        list(IN_SMART_ENERGY[5]),
        list(IN_SMART_ENERGY[6]),
    )
    (body,) = by_af(room, coordinator, host.short, 0x0004, short + b"\x09")
    assert body == b"\x82" + short + b"\x00"


def test_an_address_of_interest_that_is_another_s_is_not_found() -> None:
    room, coordinator, device = network()
    for cluster, tail in ((0x0002, b""), (0x0004, b"\x01"), (0x0005, b""), (0x0006, bytes(4))):
        (body,) = by_af(room, coordinator, device.short, cluster, b"\x34\x12" + tail)
        assert body[:3] == b"\x81\x34\x12"


def test_a_match_is_found_by_unicast_and_by_broadcast() -> None:
    room, coordinator, device = network()
    wanted = b"\x09\x01" + b"\x01\x04\x07" + b"\x00"
    (body,) = by_af(
        room, coordinator, device.short, 0x0006, device.short.to_bytes(2, "little") + wanted
    )
    assert body == b"\x00" + device.short.to_bytes(2, "little") + b"\x01\x01"
    (body,) = by_af(room, coordinator, 0xFFFD, 0x0006, b"\xfd\xff" + wanted)
    assert body == b"\x00" + device.short.to_bytes(2, "little") + b"\x01\x01"
    other = b"\x04\x01" + b"\x01\x04\x07" + b"\x00"
    assert by_af(room, coordinator, 0xFFFD, 0x0006, b"\xfd\xff" + other) == []
    (body,) = by_af(
        room, coordinator, device.short, 0x0006, device.short.to_bytes(2, "little") + other
    )
    assert body == b"\x00" + device.short.to_bytes(2, "little") + b"\x00"


def test_addresses_are_found_by_either_and_the_parent_answers_for_its_child() -> None:
    room, coordinator, device = network()
    short = device.short.to_bytes(2, "little")
    (body,) = by_af(room, coordinator, device.short, 0x0001, short + b"\x00\x00")
    assert body == b"\x00" + device.ieee + short
    answers = by_af(room, coordinator, 0xFFFD, 0x0000, device.ieee + b"\x00\x00")
    assert b"\x00" + device.ieee + short in answers
    (body,) = by_af(room, coordinator, 0x0000, 0x0001, b"\x00\x00\x01\x00")
    status, ieee, nwk, count, start, children = read(0x0001, body)
    assert (status, ieee.serialize(), nwk, count, start) == (0, coordinator.ieee, 0, 1, 0)
    assert children == [device.short]
    (body,) = by_af(room, coordinator, 0x0000, 0x0001, short + b"\x00\x00")
    assert body == b"\x00" + device.ieee + short


def test_bindings_are_made_shown_and_removed() -> None:
    room, coordinator, device = network()
    entry = device.ieee + b"\x01" + b"\x19\x00" + b"\x03" + coordinator.ieee + b"\x01"
    assert by_af(room, coordinator, device.short, 0x0021, entry) == [b"\x00"]
    assert by_af(room, coordinator, device.short, 0x0021, entry) == [b"\x00"]
    assert by_af(room, coordinator, device.short, 0x0033, b"\x00") == [b"\x00\x01\x00\x01" + entry]
    assert by_af(room, coordinator, device.short, 0x0022, entry) == [b"\x00"]
    assert by_af(room, coordinator, device.short, 0x0022, entry) == [b"\x88"]
    (data,) = by_command(
        room,
        coordinator,
        Cmd.ZDO_BIND_REQ,
        device.short,
        device.ieee,
        1,
        0x19,
        1,
        b"\x84\x0b" + bytes(6),
        0,
    )
    assert data[2:] == b"\x00"
    (body,) = by_af(room, coordinator, device.short, 0x0033, b"\x00")
    group = device.ieee + b"\x01" + b"\x19\x00" + b"\x01" + b"\x84\x0b"
    assert body == b"\x00\x01\x00\x01" + group


def test_neighbours_routes_and_energy_read_well_in_zigpy() -> None:
    room, coordinator, device = network()
    router = room.joined(coordinator, ROUTER)
    (body,) = by_af(room, coordinator, 0x0000, 0x0031, b"\x00")
    _, neighbours = read(0x0031, body)
    assert neighbours.Entries == 2
    found = {one.ieee.serialize(): one for one in neighbours.NeighborTableList}
    assert set(found) == {device.ieee, router.ieee}
    assert found[device.ieee].nwk == device.short
    assert found[device.ieee].relationship == 1
    (body,) = by_af(room, coordinator, device.short, 0x0032, b"\x00")
    assert read(0x0032, body)[1].Entries == 0
    (body,) = by_af(room, coordinator, 0x0000, 0x0038, b"\x00\xf8\xff\x07" + b"\x02\x01")
    status, mask, _, _, energies = read(0x0038, body)
    assert (status, mask, len(energies)) == (0, 0x07FFF800, 16)
    answers = by_af(room, coordinator, 0xFFFC, 0x0038, b"\x00\x08\x00\x00" + b"\x02\x01")
    assert len(answers) == 2  # the router, and ourselves


def test_commands_are_answered_by_callbacks_that_zigpy_znp_reads() -> None:
    room, coordinator, device = network()
    short, ieee = device.short, device.ieee
    asked: list[tuple[int, tuple[Any, ...]]] = [
        (Cmd.ZDO_NODE_DESC_REQ, (short, short)),
        (Cmd.ZDO_POWER_DESC_REQ, (short, short)),
        (Cmd.ZDO_SIMPLE_DESC_REQ, (short, short, 1)),
        (Cmd.ZDO_ACTIVE_EP_REQ, (short, short)),
        (Cmd.ZDO_MATCH_DESC_REQ, (short, short, 0x0109, (0x0704,), ())),
        (Cmd.ZDO_IEEE_ADDR_REQ, (short, 0, 0)),
        (Cmd.ZDO_MGMT_LQI_REQ, (0, 0)),
        (Cmd.ZDO_MGMT_BIND_REQ, (short, 0)),
        (Cmd.ZDO_MGMT_PERMIT_JOIN_REQ, (2, 0, 10, 1)),
        (Cmd.ZDO_BIND_REQ, (short, ieee, 1, 0x19, 3, coordinator.ieee, 1)),
    ]
    for command, values in asked:
        (data,) = by_command(room, coordinator, command, *values)
        callback = mt.zdo_callback(command & 0x7F | 0x8000)
        frame, _ = f.TransportFrame.deserialize(mt.frame(callback, data))
        theirs = PEER[callback].from_frame(frame.payload)
        assert theirs.Status == 0, theirs
    (data,) = by_command(room, coordinator, Cmd.ZDO_NWK_ADDR_REQ, coordinator.ieee, 1, 0)
    fields = mt.decode(Cmd.ZDO_NWK_ADDR_RSP, data)
    assert fields == (0, coordinator.ieee, 0, 0, 1, short.to_bytes(2, "little"))


def test_callbacks_come_only_when_asked_for_and_both_ways_at_once() -> None:
    room, coordinator, device = network()
    values = (device.short, device.short)
    coordinator.ask(Cmd.ZDO_MSG_CB_REMOVE, 0xFFFF)
    assert len(by_command(room, coordinator, Cmd.ZDO_ACTIVE_EP_REQ, *values)) == 1
    assert coordinator.heard(Cmd.ZDO_MSG_CB_INCOMING) == []
    coordinator.ask(Cmd.ZDO_MSG_CB_REGISTER, 0x8005)
    assert len(by_command(room, coordinator, Cmd.ZDO_ACTIVE_EP_REQ, *values)) == 1
    assert [one[2] for one in coordinator.heard(Cmd.ZDO_MSG_CB_INCOMING)] == [0x8005]
    coordinator.set_item(Item.ZDO_DIRECT_CB, b"\x00")
    assert by_command(room, coordinator, Cmd.ZDO_ACTIVE_EP_REQ, *values) == []
    assert len(coordinator.heard(Cmd.ZDO_MSG_CB_INCOMING)) == 1


def test_an_announcement_by_command_is_heard_by_everybody() -> None:
    room, coordinator, device = network()
    coordinator.told.clear()
    assert device.ask(Cmd.ZDO_END_DEVICE_ANNCE, device.short, device.ieee, 0x88) == 0
    room.run(SECOND)
    told = coordinator.heard(Cmd.ZDO_END_DEVICE_ANNCE_IND)
    assert told == [(device.short, device.short, device.ieee, 0x88)]


def test_what_is_not_known_is_refused_by_unicast_and_ignored_as_broadcast() -> None:
    room, coordinator, device = network()
    assert by_af(room, coordinator, device.short, 0x0010, b"\x00\x00") == [b"\x84"]
    assert by_af(room, coordinator, 0xFFFD, 0x0010, b"\x00\x00") == []
    assert by_af(room, coordinator, device.short, 0x0004, b"\x00") == []
    assert device.counters["zdo_malformed"] == 1


def test_a_stick_without_a_network_answers_that_it_cannot_ask() -> None:
    host = Room().stick()
    assert host.ask(Cmd.ZDO_ACTIVE_EP_REQ, 0, 0) == mt.Status.NWK_INVALID_REQUEST
