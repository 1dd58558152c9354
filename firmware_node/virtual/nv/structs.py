"""The structs that Z-Stack keeps in NV and hosts read there, in both forms of the compiler.

Index 1 is product 1 (CC2652), aligned; index 2 product 2 (CC2531), packed. Source: zigbee-znp.md 2.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, NamedTuple

NO_IEEE: Final = bytes(8)
EMPTY_IEEE: Final = b"\xff" * 8
ASSOCIATED, SECURED = 0x01, 0x02  # users of an address row
KEY_ROWS = 16  # link keys with partners; a HAN has fewer devices


class NetworkKey(NamedTuple):
    """A network key and its sequence number."""

    sequence: int
    key: bytes


class AddressRow(NamedTuple):
    """Who has which short address; ``users``: ASSOCIATED, SECURED."""

    users: int
    short: int
    ieee: bytes


@dataclass(frozen=True, slots=True)
class Nib:
    """The network information base, as far as hosts and the stick use it."""

    address: int = 0xFFFE
    channel: int = 0
    parent: int = 0xFFFE
    parent_ieee: bytes = NO_IEEE
    pan: int = 0xFFFE
    state: int = 0  # 8: router or coordinator, 4: end device
    channels: int = 0
    depth: int = 0
    extended_pan: bytes = NO_IEEE
    key_loaded: bool = False
    update_id: int = 0
    manager: int = 0


NIB = {
    1: struct.Struct("<12s3sx H3sx HBxH8sHHI 4s8s B8sB 34s8s Bx HHBx"),
    2: struct.Struct("<12s3s H3s HBH8sHBI 4s8s B8sB 34s8s B HHB"),
}
ADDRESS = {1: struct.Struct("<BBH8s"), 2: struct.Struct("<BH8s")}
TCLK = {1: struct.Struct("<II8sBBBx"), 2: struct.Struct("<II8sBBB")}
PROVISIONAL, VERIFIED = 0x00, 0x02  # attributes of a TCLK row: install code's key; exchanged
LINK_ROW = {1: struct.Struct("<HHBx"), 2: struct.Struct("<HHB")}
LINK_HEAD = struct.Struct("<H")
AUTHENTICATED = 0x01  # state of a link row that hosts take for a key
KEY_DATA = struct.Struct("<16sII")
MATERIAL = struct.Struct("<I8s")
KEY_DESC = struct.Struct("<B16s")
NWKKEY = {1: struct.Struct("<B16s3xI"), 2: struct.Struct("<B16sI")}
ASSOCIATED_DEVICE = {1: 36, 2: 28}  # octets in memory: how hosts tell the products apart


def decode_nib(octets: bytes, product: int) -> Nib:
    """Read an NIB of the right size."""
    fields = NIB[product].unpack(octets)
    (_, _, _, _, address, channel, parent, parent_ieee, pan, state, channels) = fields[:11]
    (_, _, depth, extended_pan, loaded, _, _, _, manager, _, update_id) = fields[11:]
    return Nib(
        address,
        channel,
        parent,
        parent_ieee,
        pan,
        state & 0xFF,
        channels,
        depth,
        extended_pan,
        loaded != 0,
        update_id,
        manager,
    )


def encode_nib(nib: Nib, product: int) -> bytes:
    """Write it whole; what the stick does not use gets values that real ones show."""
    return NIB[product].pack(
        bytes((0x60, 5, 2, 0x33, 0x0F, 0x33, 0, 0x1E, 0, 0, 0, 1)),
        b"\x05\x01\x8f",  # security level 5, sym link, capability
        7,
        b"\x02\x05\x1e",  # protocol version, route discovery and expiry times
        nib.address,
        nib.channel,
        nib.parent,
        nib.parent_ieee,
        nib.pan,
        nib.state,
        nib.channels,
        b"\x0f\x0f\x04\x00",
        b"\x01\x00\x00\x00\x01\x00\x00\x00",
        nib.depth,
        nib.extended_pan,
        nib.key_loaded,
        bytes(34),
        bytes((0, 0, 0x0F, 5, 0, 1, 0x78, 0x0A)),
        1,
        nib.manager,
        0,
        nib.update_id,
    )
