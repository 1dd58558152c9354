"""Captures of the air, dissected by tshark with the keys that lie beside them."""

from __future__ import annotations

import asyncio
from pathlib import Path

from room import END_DEVICE, IN_SMART_ENERGY, ROUTER, SECOND, STEERING, Room
from tshark import FAULTS, assert_well_formed, dissect, needs_tshark
from zigpy_peer import MANUFACTURER, MODEL, Device, coordinator, eui64, stick, until

from firmware_node.adapters.virtual_stick import VirtualOptions
from firmware_node.adapters.virtual_stick.capture import Capture, fcs
from firmware_node.wire import mt
from firmware_node.wire.mt import Cmd, Option

CODE = bytes.fromhex("83fed3407a939723a5c639b26916d505c3b5")
KEY = bytes(range(0x40, 0x50))


def test_the_fcs_is_the_one_of_the_standard() -> None:
    assert fcs(b"123456789") == (0x2189).to_bytes(2, "little")  # the check value of CRC-16/KERMIT


def tell_everything(tmp_path: Path) -> Path:
    """A network in which everything happens that sticks say to each other; its capture."""
    room = Room()
    first = room.coordinator()
    first.ask(Cmd.ZDO_MSG_CB_REGISTER, 0xFFFF)
    router = room.joined(first, ROUTER)
    first.ask(Cmd.ZDO_MGMT_PERMIT_JOIN_REQ, mt.AddressMode.SHORT, 0x0000, 0, 1)
    first.ask(Cmd.ZDO_MGMT_PERMIT_JOIN_REQ, mt.AddressMode.SHORT, router.short, 60, 1)
    through = room.stick(END_DEVICE)
    through.commission(STEERING)
    room.run(SECOND)
    through.register(*IN_SMART_ENERGY)
    first.ask(Cmd.ZDO_MGMT_PERMIT_JOIN_REQ, mt.AddressMode.SHORT, 0x0000, 60, 1)
    device = room.stick(END_DEVICE)
    first.ask(Cmd.APP_CNF_BDB_ADD_INSTALL_CODE, 1, device.ieee, CODE)
    device.ask(Cmd.APP_CNF_BDB_SET_ACTIVE_CENTRALIZED_KEY, 1, CODE)
    device.commission(STEERING)
    room.run(SECOND)
    device.register(*IN_SMART_ENERGY)
    first.ask(Cmd.ZDO_SET_LINK_KEY, router.short, router.ieee, KEY)
    router.ask(Cmd.ZDO_SET_LINK_KEY, 0x0000, first.ieee, KEY)
    for secured in (0, Option.APS_SECURITY):
        for size in (20, 220):
            payload = b"\x01\x01\x05" + bytes(size)
            for sender in (device, router):
                sender.data(0x0000, payload, options=secured | Option.APS_ACK)
                first.data(sender.short, payload, options=secured | Option.APS_ACK)
                room.run(SECOND)
    through.data(0x0000, b"\x01\x01\x05ab", options=Option.APS_ACK)
    device.data(0xFFFD, b"\x01\x01\x05ab", mode=mt.AddressMode.BROADCAST)
    first.data(0x0B84, b"\x01\x01\x05ab", mode=mt.AddressMode.GROUP)
    for command in (Cmd.ZDO_NODE_DESC_REQ, Cmd.ZDO_ACTIVE_EP_REQ):
        first.ask(command, device.short, device.short)
    first.ask(Cmd.ZDO_MGMT_LQI_REQ, router.short, 0)
    first.ask(Cmd.ZDO_MGMT_LEAVE_REQ, device.short, bytes(8), 0x80)  # it comes back
    room.run(10 * SECOND)
    through.ask(Cmd.ZDO_MGMT_LEAVE_REQ, through.short, bytes(8), 0)
    room.run(SECOND)
    capture = Capture(tmp_path / "air.pcap")
    capture.open()
    for host in room.hosts:
        capture.note_keys(host.stick.keys())
    for at_us, octets in room.flights:
        capture.write(at_us, octets)
    capture.close()
    return tmp_path / "air.pcap"


@needs_tshark
def test_everything_that_sticks_say_is_well_formed_and_opens_with_the_keys(
    tmp_path: Path,
) -> None:
    capture = tell_everything(tmp_path)
    assert_well_formed(capture)
    names = (
        "wpan.cmd",
        "zbee_beacon.protocol",
        "zbee_nwk.cmd.id",
        "zbee_aps.cmd.id",
        "zbee_aps.type",
        "zbee_aps.delivery",
        "zbee_aps.security",
        "zbee_aps.fragmentation",
        "zbee_aps.zdp_cluster",
    )
    frames = dissect(capture, "wpan", *names)
    assert len(frames) > 150

    def count(name: str, *values: int) -> int:
        column = [frame[names.index(name)] for frame in frames]
        return sum(1 for text in column if text and int(text.split(",")[0], 0) in values)

    assert count("wpan.cmd", 0x07) >= 3  # beacon requests
    assert count("zbee_beacon.protocol", 0) >= 3
    assert count("wpan.cmd", 0x01) == count("wpan.cmd", 0x02) == 3  # associations
    assert count("zbee_aps.cmd.id", 0x05) == 6  # network key and link key, for each joiner
    # How each of them gets its link key; one through the router on its way there.
    assert count("zbee_aps.cmd.id", 0x08) == count("zbee_aps.cmd.id", 0x0F) == 4
    assert count("zbee_aps.cmd.id", 0x10) == 3
    assert count("zbee_aps.cmd.id", 0x0E) == 1  # and once in a tunnel to the router
    assert count("zbee_aps.cmd.id", 0x06) >= 1
    assert count("zbee_nwk.cmd.id", 0x06) == count("zbee_nwk.cmd.id", 0x07) == 1  # the rejoin
    assert count("zbee_nwk.cmd.id", 0x04) == 2  # leaving
    assert count("zbee_aps.type", 2) > 16  # acknowledgements
    assert count("zbee_aps.security", 1) > 8
    assert count("zbee_aps.fragmentation", 1) >= 8  # first fragments
    assert count("zbee_aps.fragmentation", 2) > 8  # and later ones
    assert count("zbee_aps.delivery", 3) == 1  # to a group
    assert count("zbee_aps.zdp_cluster", 0x0013) >= 3
    assert count("zbee_aps.zdp_cluster", 0x8002) == 4  # three joiners asked the trust centre
    assert count("zbee_aps.zdp_cluster", 0x8031) == 1


@needs_tshark
def test_without_the_keys_tshark_opens_nothing(tmp_path: Path) -> None:
    capture = tell_everything(tmp_path)
    assert dissect(capture, "zbee_zcl", "frame.number", keys=False) == []
    closed = dissect(capture, "zbee_sec.encrypted_payload", "frame.number", keys=False)
    assert len(closed) > 50


@needs_tshark
def test_a_spoilt_frame_is_noticed(tmp_path: Path) -> None:
    capture = tell_everything(tmp_path)
    whole = capture.read_bytes()
    spoilt = bytearray(whole)
    spoilt[-3] ^= 1
    capture.write_bytes(bytes(spoilt))
    assert dissect(capture, " or ".join(FAULTS), "frame.number") != []


@needs_tshark
def test_zigpy_s_interview_of_a_joining_device_is_readable_in_the_capture_of_the_process(
    tmp_path: Path,
) -> None:
    first = VirtualOptions(
        pty=tmp_path / "first.tty", air=tmp_path / "air", pcap=tmp_path / "air.pcap"
    )
    second = VirtualOptions(pty=tmp_path / "second.tty", air=tmp_path / "air")

    async def story() -> str:
        async with stick(first), stick(second), coordinator(str(first.pty)) as app:
            await app.permit(60)
            device = Device(tmp_path / "second.tty")
            info = await device.join()
            await until(lambda: eui64(info) in app.devices)
            await until(lambda: app.devices[eui64(info)].model is not None)
            await device.close()
            return str(eui64(info))

    ieee = asyncio.run(story())
    capture = tmp_path / "air.pcap"
    assert_well_formed(capture)
    fields = ("zbee_aps.cmd.id", "zbee_aps.cmd.key_type", "zbee_aps.cmd.dst")
    keys = dissect(capture, "zbee_aps.cmd.id in {5, 8, 15, 16}", *fields)
    assert keys == [
        ["0x05", "0x01", ieee],
        ["0x08", "0x04", ""],
        ["0x05", "0x04", ieee],
        ["0x0f", "0x04", ""],
        ["0x10", "0x04", ieee],
    ]
    announced = dissect(capture, "zbee_aps.zdp_cluster == 0x0013", "zbee_zdp.ext_addr")
    assert announced == [[ieee]]
    read = dissect(
        capture, "zbee_zcl.cmd.id == 0x01", "zbee_zcl_general.basic.attr_id", "zbee_zcl.attr.str"
    )
    assert any(MODEL in "".join(line) and MANUFACTURER in "".join(line) for line in read), read
