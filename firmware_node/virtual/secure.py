"""Securing and opening network and APS frames: headers, IVs, key ids. Keys come as parameters.

The security level in a frame's security control travels as 0 and counts as 5. Source: ZigBee
specification 4.3.1, 4.4.1, 4.5.1.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from firmware_node.crypto import CcmStar, keyed_hash
from firmware_node.errors import DecodeError

LEVEL = 0x05
LINK, NETWORK, KEY_TRANSPORT, KEY_LOAD = 0, 1, 2, 3  # key ids
EXTENDED = 0x20  # the security header names its sender
_NETWORK_HEAD = struct.Struct("<BI8sB")
_NETWORK_CONTROL = NETWORK << 3 | EXTENDED
_NETWORK_TAIL = struct.Struct("<I8sB")
_CONTROL, _COVERED = bytes((_NETWORK_CONTROL,)), bytes((_NETWORK_CONTROL | LEVEL,))
_IV = struct.Struct("<8sIB")
MIC = 4


def key_transport_key(link_key: bytes) -> bytes:
    """What a transport key command is sealed with (specification 4.5.3)."""
    return keyed_hash(link_key, b"\x00")


def key_load_key(link_key: bytes) -> bytes:
    """What a transport key command with a link key in it is sealed with."""
    return keyed_hash(link_key, b"\x02")


def proof_of_key(link_key: bytes) -> bytes:
    """What a verify key command proves with that its sender has the key."""
    return keyed_hash(link_key, b"\x03")


def key_of_id(link_key: bytes, key_id: int) -> bytes:
    """What an APS frame is sealed with by the key id in its security header."""
    if key_id == KEY_TRANSPORT:
        return key_transport_key(link_key)
    return key_load_key(link_key) if key_id == KEY_LOAD else link_key


def seal_network(
    cipher: CcmStar, header: bytes, clear: bytes, source: bytes, counter: int, sequence: int
) -> bytes:
    """The network header, security header, sealed payload and MIC."""
    tail = _NETWORK_TAIL.pack(counter, source, sequence)
    sealed = cipher.seal(
        _IV.pack(source, counter, _NETWORK_CONTROL | LEVEL), header + _COVERED + tail, clear
    )
    return header + _CONTROL + tail + sealed


class Opened(NamedTuple):
    """What a secured frame gave."""

    clear: bytes
    source: bytes  # the EUI-64 that sealed it
    counter: int


def open_network(cipher: CcmStar, frame: bytes, at: int, sequence: int) -> Opened:
    """Open a network frame whose header ends at ``at``, sealed with key ``sequence``.

    Raises:
        DecodeError: short, another key id or key, or a wrong MIC.
    """
    behind = at + _NETWORK_HEAD.size
    if len(frame) < behind + MIC:
        raise DecodeError("network security", len(frame), "truncated")
    control, counter, source, used = _NETWORK_HEAD.unpack_from(frame, at)
    if control & 0xF8 != _NETWORK_CONTROL:
        raise DecodeError("network security", at, f"security control {control:02x}")
    if used != sequence:
        raise DecodeError("network security", at, "another network key")
    control |= LEVEL
    covered = b"%b%c%b" % (frame[:at], control, frame[at + 1 : behind])
    clear = cipher.unseal(_IV.pack(source, counter, control), covered, frame[behind:])
    return Opened(clear, source, counter)


def seal_aps(
    cipher: CcmStar,
    header: bytes,
    clear: bytes,
    source: bytes,
    counter: int,
    key_id: int,
    *,
    extended: bool,
) -> bytes:
    """The same for an APS frame; ``extended`` names the sender in the frame."""
    control = key_id << 3 | (EXTENDED if extended else 0)
    tail = struct.pack("<I", counter) + (source if extended else b"")
    covered = header + bytes((control | LEVEL,)) + tail
    sealed = cipher.seal(_IV.pack(source, counter, control | LEVEL), covered, clear)
    return bytes((control,)) + tail + sealed


class ApsSecurity(NamedTuple):
    """The security header of an APS frame, before a key is chosen."""

    key_id: int
    counter: int
    source: bytes | None  # None: who it is must be known from the network header
    end: int


def decode_aps_security(frame: bytes, at: int) -> ApsSecurity:
    """Read the security header at ``at``.

    Raises:
        DecodeError: short.
    """
    if len(frame) < at + 5 + MIC:
        raise DecodeError("APS security", len(frame), "truncated")
    control = frame[at]
    (counter,) = struct.unpack_from("<I", frame, at + 1)
    if not control & EXTENDED:
        return ApsSecurity(control >> 3 & 3, counter, None, at + 5)
    if len(frame) < at + 13 + MIC:
        raise DecodeError("APS security", len(frame), "truncated EUI-64")
    return ApsSecurity(control >> 3 & 3, counter, frame[at + 5 : at + 13], at + 13)


def open_aps(cipher: CcmStar, frame: bytes, at: int, security: ApsSecurity, source: bytes) -> bytes:
    """The clear payload of an APS frame whose security header stands at ``at``.

    Raises:
        DecodeError: a wrong MIC.
    """
    control = frame[at] | LEVEL
    covered = frame[:at] + bytes((control,)) + frame[at + 1 : security.end]
    iv = _IV.pack(source, security.counter, control)
    return cipher.unseal(iv, covered, frame[security.end :])
