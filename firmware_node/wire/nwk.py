"""The ZigBee network layer: frame headers and the commands of joining and leaving.

Addresses are u16 or, where given, eight octets as they travel. Multicast and source routes are
not read. Source: ZigBee specification 3.3, 3.4.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from firmware_node.errors import DecodeError

DATA, COMMAND = 0, 1
LEAVE, REJOIN_REQUEST, REJOIN_RESPONSE = 0x04, 0x06, 0x07
RADIUS_DEFAULT = 30  # hops; twice the depth of a PRO network

BROADCAST_FIRST: Final = 0xFFF8  # this and above are broadcasts
ALL, RX_ON, ROUTERS = 0xFFFF, 0xFFFD, 0xFFFC
NO_ADDRESS: Final = 0xFFFE

_VERSION = 0x0008  # protocol version 2
_SECURED = 0x0200
_TO_IEEE = 0x0800
_FROM_IEEE = 0x1000
_UNREAD = 0x0500  # multicast, source route
_HEAD = struct.Struct("<HHHBB")


class Header(NamedTuple):
    """A network header; the security header behind it is not part of it."""

    kind: int
    destination: int
    source: int
    radius: int
    sequence: int
    secured: bool
    destination_ieee: bytes | None = None
    source_ieee: bytes | None = None


def encode_header(header: Header) -> bytes:
    """The header's octets."""
    kind, destination, source, radius, sequence, secured, to_ieee, from_ieee = header
    control = kind | _VERSION | (_SECURED if secured else 0)
    if to_ieee is None and from_ieee is None:
        return _HEAD.pack(control, destination, source, radius, sequence)
    control |= (_TO_IEEE if to_ieee else 0) | (_FROM_IEEE if from_ieee else 0)
    return (
        _HEAD.pack(control, destination, source, radius, sequence)
        + (to_ieee or b"")
        + (from_ieee or b"")
    )


def encode_data_header(destination: int, source: int, radius: int, sequence: int) -> bytes:
    """The header of secured data between short addresses: nearly all there is."""
    return _HEAD.pack(DATA | _VERSION | _SECURED, destination, source, radius, sequence)


def decode_header(octets: bytes) -> tuple[Header, int]:
    """Read a header; and where it ends.

    Raises:
        DecodeError: short, another protocol version, or a form that is not read.
    """
    if len(octets) < _HEAD.size:
        raise DecodeError("network header", len(octets), "expected at least 8 octets")
    control, destination, source, radius, sequence = _HEAD.unpack_from(octets)
    if control & 0x003C != _VERSION or control & _UNREAD or control & 3 > 1:
        raise DecodeError("network header", 0, f"frame control {control:04x} is not read")
    at, to_ieee, from_ieee = _HEAD.size, None, None
    if control & _TO_IEEE:
        to_ieee, at = octets[at : at + 8], at + 8
    if control & _FROM_IEEE:
        from_ieee, at = octets[at : at + 8], at + 8
    if at > len(octets):
        raise DecodeError("network header", len(octets), "truncated EUI-64")
    secured = control & _SECURED != 0
    header = Header(control & 3, destination, source, radius, sequence, secured, to_ieee, from_ieee)
    return header, at


class Leave(NamedTuple):
    """Leave command: a request to leave, or the news of it."""

    request: bool
    rejoin: bool
    remove_children: bool


def encode_leave(leave: Leave) -> bytes:
    """Command id and options."""
    options = leave.rejoin << 5 | leave.request << 6 | leave.remove_children << 7
    return bytes((LEAVE, options))


def decode_leave(payload: bytes) -> Leave:
    """See ``encode_leave``."""
    if len(payload) != 2:
        raise DecodeError("leave command", len(payload), "expected 2 octets")
    options = payload[1]
    return Leave(options & 0x40 != 0, options & 0x20 != 0, options & 0x80 != 0)


def encode_rejoin_request(capability: int) -> bytes:
    """Command id, capability u8."""
    return bytes((REJOIN_REQUEST, capability))


def encode_rejoin_response(short: int, status: int) -> bytes:
    """Command id, short address u16, status u8."""
    return struct.pack("<BHB", REJOIN_RESPONSE, short, status)


def decode_rejoin_response(payload: bytes) -> tuple[int, int]:
    """Short address and status."""
    if len(payload) != 4:
        raise DecodeError("rejoin response", len(payload), "expected 4 octets")
    _, short, status = struct.unpack("<BHB", payload)
    return short, status
