"""IEEE 802.15.4 frames as ZigBee uses them, without their FCS: data, beacons, commands.

An address is a u16 (short), eight octets (an EUI-64 as it travels) or None (absent). Source:
IEEE 802.15.4-2006 7.2, 7.3; the beacon's payload: ZigBee specification 3.6.7.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from firmware_node.errors import DecodeError

Address = int | bytes | None

BEACON, DATA, ACK, COMMAND = 0, 1, 2, 3
BROADCAST_PAN: Final = 0xFFFF
BROADCAST: Final = 0xFFFF
SIZE_MAX = 125  # octets before the FCS: a PHY packet has 127

ASSOCIATION_REQUEST, ASSOCIATION_RESPONSE, DATA_REQUEST, BEACON_REQUEST = 0x01, 0x02, 0x04, 0x07
_ACK_REQUEST = 0x0020
_PAN_COMPRESSED = 0x0040
_DATA = struct.Struct("<HBHHH")
_DATA_CONTROL = 0x8841  # data, PAN compressed, both addresses short


class MacFrame(NamedTuple):
    """One frame; ``pan`` is the destination's, a beacon's the source's."""

    kind: int
    ack: bool
    sequence: int
    pan: int
    destination: Address
    source: Address
    payload: bytes


def encode_data(
    sequence: int, pan: int, destination: int, source: int, payload: bytes, *, ack: bool
) -> bytes:
    """A data frame between short addresses."""
    control = _DATA_CONTROL | _ACK_REQUEST if ack else _DATA_CONTROL
    return _DATA.pack(control, sequence, pan, destination, source) + payload


def encode(frame: MacFrame) -> bytes:
    """Any frame; both ends are in ``pan``, but an association request comes from no PAN."""
    kind, ack, sequence, pan, destination, source, payload = frame
    control = kind | _ACK_REQUEST if ack else kind
    control |= _mode(destination) << 10 | _mode(source) << 14
    head = b""
    if destination is not None:
        head += struct.pack("<H", pan) + _address(destination)
    if source is not None:
        outside = kind == COMMAND and payload[:1] == bytes((ASSOCIATION_REQUEST,))
        if destination is None:
            head += struct.pack("<H", pan)
        elif outside:
            head += struct.pack("<H", BROADCAST_PAN)
        else:
            control |= _PAN_COMPRESSED
        head += _address(source)
    return struct.pack("<HB", control, sequence) + head + payload


def decode(octets: bytes) -> MacFrame:
    """Read a frame.

    Raises:
        DecodeError: short, a reserved address mode, or MAC security, which ZigBee does not use.
    """
    if octets[1:2] == b"\x88" and len(octets) >= _DATA.size:  # the ordinary data frame
        control, sequence, pan, to, from_ = _DATA.unpack_from(octets)
        if control & ~_ACK_REQUEST == _DATA_CONTROL:
            return MacFrame(DATA, control & 0x20 != 0, sequence, pan, to, from_, octets[9:])
    if len(octets) < 3:
        raise DecodeError("802.15.4 frame", len(octets), "expected at least 3 octets")
    control = octets[0] | octets[1] << 8
    if control & 0x08:
        raise DecodeError("802.15.4 frame", 0, "secured")
    at, pan = 3, BROADCAST_PAN
    destination, source = None, None
    if control >> 10 & 3:
        pan, at = _u16(octets, at), at + 2
        destination, at = _read_address(octets, at, control >> 10 & 3)
    if control >> 14:
        if not control & _PAN_COMPRESSED:
            pan, at = _u16(octets, at) if destination is None else pan, at + 2
        source, at = _read_address(octets, at, control >> 14)
    return MacFrame(
        control & 7, control & _ACK_REQUEST != 0, octets[2], pan, destination, source, octets[at:]
    )


def encode_ack(sequence: int) -> bytes:
    """An acknowledgement."""
    return bytes((ACK, 0, sequence))


class Beacon(NamedTuple):
    """What a beacon says of its sender."""

    permits: bool
    coordinator: bool
    depth: int
    extended_pan: bytes
    update_id: int


_BEACON = struct.Struct("<HBB BBB 8s3sB")


def encode_beacon(beacon: Beacon) -> bytes:
    """The payload of a beacon frame: superframe, and ZigBee's own part."""
    superframe = 0x0FFF | beacon.coordinator << 14 | beacon.permits << 15
    capacity = 0x84 | beacon.depth << 3  # room for routers and end devices
    return _BEACON.pack(
        superframe,
        0,
        0,
        0,
        0x22,  # ZigBee PRO, protocol version 2
        capacity,
        beacon.extended_pan,
        b"\xff\xff\xff",
        beacon.update_id,
    )


def decode_beacon(payload: bytes) -> Beacon:
    """See ``encode_beacon``.

    Raises:
        DecodeError: another size, or not ZigBee PRO's.
    """
    if len(payload) != _BEACON.size:
        raise DecodeError("beacon", len(payload), f"expected {_BEACON.size} octets")
    superframe, _, _, protocol, profile, capacity, extended_pan, _, update_id = _BEACON.unpack(
        payload
    )
    if (protocol, profile) != (0, 0x22):
        raise DecodeError("beacon", 4, f"protocol {protocol}, stack profile {profile:02x}")
    return Beacon(
        superframe & 0x8000 != 0,
        superframe & 0x4000 != 0,
        capacity >> 3 & 0x0F,
        extended_pan,
        update_id,
    )


def _mode(address: Address) -> int:
    return 0 if address is None else 2 if isinstance(address, int) else 3


def _address(address: int | bytes) -> bytes:
    return struct.pack("<H", address) if isinstance(address, int) else address


def _read_address(octets: bytes, at: int, mode: int) -> tuple[int | bytes, int]:
    if mode == 2:
        return _u16(octets, at), at + 2
    if mode != 3:
        raise DecodeError("802.15.4 frame", 1, "reserved address mode")
    if at + 8 > len(octets):
        raise DecodeError("802.15.4 frame", len(octets), "truncated address")
    return octets[at : at + 8], at + 8


def _u16(octets: bytes, at: int) -> int:
    if at + 2 > len(octets):
        raise DecodeError("802.15.4 frame", len(octets), "truncated address")
    return octets[at] | octets[at + 1] << 8
