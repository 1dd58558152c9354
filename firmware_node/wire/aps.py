"""The ZigBee application support sub-layer: data, acknowledgements, fragments, keys.

Source: ZigBee specification 2.2.5, 4.4.10.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

from firmware_node.errors import DecodeError

DATA, COMMAND, ACK = 0, 1, 2
UNICAST, BROADCAST, GROUP = 0, 2, 3
SECURED, ACK_REQUEST, EXTENDED = 0x20, 0x40, 0x80
FIRST_FRAGMENT, LATER_FRAGMENT = 1, 2

TRANSPORT_KEY, UPDATE_DEVICE, REMOVE_DEVICE, REQUEST_KEY = 0x05, 0x06, 0x07, 0x08
TUNNEL, VERIFY_KEY, CONFIRM_KEY = 0x0E, 0x0F, 0x10
NETWORK_KEY, TRUST_CENTRE_KEY = 0x01, 0x04  # key types: standard network key, TC link key
SECURITY_FAILURE = 0xAD  # status of a Confirm Key

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


class TransportLinkKey(NamedTuple):
    """Transport Key of a trust centre link key (ZigBee specification 4.4.10.1)."""

    key: bytes
    destination: bytes
    source: bytes


_TRANSPORT_LINK = struct.Struct("<BB16s8s8s")


def encode_transport_link_key(command: TransportLinkKey) -> bytes:
    """Command id, key type, key, destination and source EUI-64."""
    return _TRANSPORT_LINK.pack(TRANSPORT_KEY, TRUST_CENTRE_KEY, *command)


def decode_transport_link_key(payload: bytes) -> TransportLinkKey:
    """See ``encode_transport_link_key``.

    Raises:
        DecodeError: another size, or another type of key.
    """
    return TransportLinkKey(*_unpack("transport key", _TRANSPORT_LINK, payload, 1)[2:])


def encode_request_key() -> bytes:
    """Request Key for a trust centre link key: command id, key type."""
    return bytes((REQUEST_KEY, TRUST_CENTRE_KEY))


class VerifyKey(NamedTuple):
    """Verify Key: the proof that a joiner has the trust centre link key it was sent."""

    source: bytes
    proof: bytes


_VERIFY = struct.Struct("<BB8s16s")


def encode_verify_key(command: VerifyKey) -> bytes:
    """Command id, key type, EUI-64 of the joiner, 16 octets of proof."""
    return _VERIFY.pack(VERIFY_KEY, TRUST_CENTRE_KEY, *command)


def decode_verify_key(payload: bytes) -> VerifyKey:
    """See ``encode_verify_key``.

    Raises:
        DecodeError: another size, or another type of key.
    """
    return VerifyKey(*_unpack("verify key", _VERIFY, payload, 1)[2:])


class ConfirmKey(NamedTuple):
    """Confirm Key: the trust centre's verdict on the proof."""

    status: int
    destination: bytes


_CONFIRM = struct.Struct("<BBB8s")


def encode_confirm_key(command: ConfirmKey) -> bytes:
    """Command id, status u8, key type, EUI-64 of the joiner."""
    return _CONFIRM.pack(CONFIRM_KEY, command.status, TRUST_CENTRE_KEY, command.destination)


def decode_confirm_key(payload: bytes) -> ConfirmKey:
    """See ``encode_confirm_key``.

    Raises:
        DecodeError: another size, or another type of key.
    """
    _, status, _, destination = _unpack("confirm key", _CONFIRM, payload, 2)
    return ConfirmKey(status, destination)


def _unpack(what: str, layout: struct.Struct, payload: bytes, kind_at: int) -> tuple[Any, ...]:
    """The fields of a command of its own size that is about a trust centre link key."""
    if len(payload) != layout.size:
        raise DecodeError(what, len(payload), f"expected {layout.size} octets")
    fields = layout.unpack(payload)
    if fields[kind_at] != TRUST_CENTRE_KEY:
        raise DecodeError(what, kind_at, f"key type {fields[kind_at]} is not read")
    return fields


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
