"""The ZigBee application support sub-layer: data, acknowledgements, fragments, key transport.

Source: ZigBee specification 2.2.5, 4.4.10.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from firmware_node.errors import DecodeError

DATA, COMMAND, ACK = 0, 1, 2
UNICAST, BROADCAST, GROUP = 0, 2, 3
SECURED, ACK_REQUEST, EXTENDED = 0x20, 0x40, 0x80
FIRST_FRAGMENT, LATER_FRAGMENT = 1, 2

TRANSPORT_KEY, UPDATE_DEVICE, REMOVE_DEVICE, TUNNEL = 0x05, 0x06, 0x07, 0x0E
NETWORK_KEY = 0x01  # key type of a transport key: the standard network key

_DATA = struct.Struct("<BBHHBB")
_GROUP = struct.Struct("<BHHHBB")


class Header(NamedTuple):
    """A data or acknowledgement header.

    ``endpoint`` is the destination's, or the group's number. A fragment has its kind and its
    block number, the first one's being the number of all; an acknowledgement's bitfield tells
    which blocks of the window came.
    """

    kind: int
    delivery: int
    flags: int  # SECURED, ACK_REQUEST
    endpoint: int
    cluster: int
    profile: int
    source_endpoint: int
    counter: int
    fragment: int = 0
    block: int = 0
    bitfield: int = 0


def encode_header(header: Header) -> bytes:
    """The header's octets."""
    kind, delivery, flags, endpoint, cluster, profile, source, counter = header[:8]
    layout = _GROUP if delivery == GROUP else _DATA
    control = kind | delivery << 2 | flags
    if not header.fragment:
        return layout.pack(control, endpoint, cluster, profile, source, counter)
    octets = layout.pack(control | EXTENDED, endpoint, cluster, profile, source, counter)
    octets += bytes((header.fragment, header.block))
    return octets + bytes((header.bitfield,)) if kind == ACK else octets


def decode_header(octets: bytes) -> tuple[Header, int]:
    """Read a data or acknowledgement header; and where it ends.

    Raises:
        DecodeError: short, or a form that is not read.
    """
    if len(octets) < _DATA.size:
        raise DecodeError("APS header", len(octets), "expected at least 8 octets")
    control = octets[0]
    kind, delivery = control & 3, control >> 2 & 3
    if kind not in (DATA, ACK) or control & 0x10 or delivery == 1:
        raise DecodeError("APS header", 0, f"frame control {control:02x} is not read")
    layout = _GROUP if delivery == GROUP else _DATA
    at = layout.size
    if len(octets) < at:
        raise DecodeError("APS header", len(octets), f"expected {at} octets")
    _, endpoint, cluster, profile, source, counter = layout.unpack_from(octets)
    fragment = block = bitfield = 0
    if control & EXTENDED:
        behind = at + (3 if kind == ACK else 2)
        if len(octets) < behind or octets[at] not in (FIRST_FRAGMENT, LATER_FRAGMENT):
            raise DecodeError("APS header", at, "no readable extended header")
        fragment, block = octets[at], octets[at + 1]
        bitfield = octets[at + 2] if kind == ACK else 0
        at = behind
    flags = control & (SECURED | ACK_REQUEST)
    return (
        Header(
            kind,
            delivery,
            flags,
            endpoint,
            cluster,
            profile,
            source,
            counter,
            fragment,
            block,
            bitfield,
        ),
        at,
    )


def encode_command_header(counter: int, *, secured: bool) -> bytes:
    """The header of an APS command."""
    return bytes((COMMAND | (SECURED if secured else 0), counter))


class TransportKey(NamedTuple):
    """Transport Key of the standard network key (ZigBee specification 4.4.10.1)."""

    key: bytes
    sequence: int
    destination: bytes
    source: bytes


_TRANSPORT = struct.Struct("<BB16sB8s8s")


def encode_transport_key(command: TransportKey) -> bytes:
    """Command id, key type, key, sequence number, destination and source EUI-64."""
    return _TRANSPORT.pack(TRANSPORT_KEY, NETWORK_KEY, *command)


def decode_transport_key(payload: bytes) -> TransportKey:
    """See ``encode_transport_key``.

    Raises:
        DecodeError: another size, or another type of key.
    """
    if len(payload) != _TRANSPORT.size:
        raise DecodeError("transport key", len(payload), f"expected {_TRANSPORT.size} octets")
    command, kind, key, sequence, destination, source = _TRANSPORT.unpack(payload)
    if (command, kind) != (TRANSPORT_KEY, NETWORK_KEY):
        raise DecodeError("transport key", 1, f"key type {kind} is not read")
    return TransportKey(key, sequence, destination, source)


class UpdateDevice(NamedTuple):
    """Update Device: a router tells the trust centre who came or went."""

    device: bytes
    short: int
    status: int  # 0 secured rejoin, 1 unsecured join, 2 left


_UPDATE = struct.Struct("<B8sHB")


def encode_update_device(command: UpdateDevice) -> bytes:
    """Command id, EUI-64, short address u16, status u8."""
    return _UPDATE.pack(UPDATE_DEVICE, *command)


def decode_update_device(payload: bytes) -> UpdateDevice:
    """See ``encode_update_device``."""
    if len(payload) != _UPDATE.size:
        raise DecodeError("update device", len(payload), f"expected {_UPDATE.size} octets")
    _, device, short, status = _UPDATE.unpack(payload)
    return UpdateDevice(device, short, status)


def encode_tunnel(destination: bytes, frame: bytes) -> bytes:
    """Command id, EUI-64 of the joiner, the secured APS command it shall get."""
    return bytes((TUNNEL,)) + destination + frame


def decode_tunnel(payload: bytes) -> tuple[bytes, bytes]:
    """Destination and frame."""
    if len(payload) < 10:
        raise DecodeError("tunnel command", len(payload), "expected at least 10 octets")
    return payload[1:9], payload[9:]
