"""ZigBee Cluster Library: the frame header and the general commands; octets and frozen values.

Integers are little-endian. An EUI-64 travels least significant octet first and is reversed here
and nowhere else. Source: ZCL chapter 2.
"""

from __future__ import annotations

import datetime
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from firmware_node.errors import DecodeError
from firmware_node.terms import EntityId

READ_ATTRIBUTES = 0x00
READ_ATTRIBUTES_RESPONSE = 0x01
DEFAULT_RESPONSE = 0x0B

BASIC_CLUSTER = 0x0000
TIME_CLUSTER = 0x000A
SMART_ENERGY_PROFILE = 0x0109

ATTRIBUTES_MAX = 64  # of one Read Attributes; more does not fit one frame


class Status(IntEnum):
    """ZCL status values (ZCL 2.6.3)."""

    SUCCESS = 0x00
    FAILURE = 0x01
    NOT_AUTHORIZED = 0x7E
    MALFORMED_COMMAND = 0x80
    UNSUP_CLUSTER_COMMAND = 0x81
    UNSUP_GENERAL_COMMAND = 0x82
    INVALID_FIELD = 0x85
    UNSUPPORTED_ATTRIBUTE = 0x86
    INVALID_VALUE = 0x87
    READ_ONLY = 0x88
    INSUFFICIENT_SPACE = 0x89
    NOT_FOUND = 0x8B
    ABORT = 0x95
    INVALID_IMAGE = 0x96
    WAIT_FOR_DATA = 0x97
    NO_IMAGE_AVAILABLE = 0x98
    REQUIRE_MORE_IMAGE = 0x99
    UNSUPPORTED_CLUSTER = 0xC3


class ZclHeader(NamedTuple):
    """Frame control, manufacturer code, sequence number and command id."""

    cluster_specific: bool
    to_client: bool  # the direction bit: server to client
    disable_default_response: bool
    manufacturer_code: int | None
    sequence: int
    command: int


def decode_header(payload: bytes) -> tuple[ZclHeader, bytes]:
    """Split a ZCL frame into header and body. Source: ZCL 2.4.1.

    Raises:
        DecodeError: short, or a frame type other than general and cluster-specific.
    """
    if len(payload) < 3:
        raise DecodeError("ZCL header", len(payload), "expected at least 3 octets")
    control = payload[0]
    if control & 0x03 > 1:
        raise DecodeError("ZCL header", 0, f"frame type {control & 0x03} is reserved")
    specific, to_client, quiet = control & 0x01 == 1, control & 0x08 != 0, control & 0x10 != 0
    if not control & 0x04:
        header = ZclHeader(specific, to_client, quiet, None, payload[1], payload[2])
        return header, payload[3:]
    if len(payload) < 5:
        raise DecodeError("ZCL header", len(payload), "expected a manufacturer code")
    manufacturer = payload[1] | payload[2] << 8
    header = ZclHeader(specific, to_client, quiet, manufacturer, payload[3], payload[4])
    return header, payload[5:]


def encode(header: ZclHeader, body: bytes = b"") -> bytes:
    """A whole ZCL frame."""
    specific, to_client, quiet, manufacturer, sequence, command = header
    control = specific | to_client << 3 | quiet << 4
    if manufacturer is None:
        return bytes((control, sequence, command)) + body
    return struct.pack("<BHBB", control | 0x04, manufacturer, sequence, command) + body


def decode_eui64(octets: bytes) -> EntityId:
    """Eight octets of the air as an entity id."""
    if len(octets) != 8:
        raise DecodeError("EUI-64", len(octets), "expected 8 octets")
    return EntityId(octets[::-1])


def encode_eui64(entity_id: EntityId) -> bytes:
    """An entity id as it travels."""
    return entity_id.octets[::-1]


@dataclass(frozen=True, slots=True)
class DefaultResponse:
    """Default Response (ZCL 2.5.12)."""

    command: int
    status: int


def decode_default_response(body: bytes) -> DefaultResponse:
    """Command id u8, status u8."""
    if len(body) != 2:
        raise DecodeError("Default Response", len(body), "expected 2 octets")
    return DefaultResponse(body[0], body[1])


def encode_default_response(command: int, status: int) -> bytes:
    """The body of a Default Response."""
    return bytes((command, status))


def decode_read_attributes(body: bytes) -> tuple[int, ...]:
    """Attribute ids, u16 each (ZCL 2.5.1)."""
    if len(body) % 2 or len(body) > 2 * ATTRIBUTES_MAX:
        raise DecodeError("Read Attributes", len(body), "expected up to 64 u16")
    return struct.unpack(f"<{len(body) // 2}H", body)


def encode_read_attributes(attributes: tuple[int, ...]) -> bytes:
    """The body of a Read Attributes."""
    return struct.pack(f"<{len(attributes)}H", *attributes)


BOOLEAN, BITMAP8, UINT8, UINT16, UINT32 = 0x10, 0x18, 0x20, 0x21, 0x23
ENUM8, OCTET_STRING, CHARACTER_STRING, UTC_TIME, EUI64 = 0x30, 0x41, 0x42, 0xE2, 0xF0

_FIXED_SIZES = (
    {0x10: 1, UTC_TIME: 4, 0xE0: 4, 0xE1: 4, 0xE8: 2, 0xE9: 2, 0xEA: 4, EUI64: 8}
    | {base + n: n + 1 for base in (0x08, 0x18, 0x20) for n in range(8)}
    | {ENUM8: 1, 0x31: 2}
)


@dataclass(frozen=True, slots=True)
class AttributeValue:
    """One record of a Read Attributes Response; type and value are None unless SUCCESS."""

    attribute: int
    status: int
    type: int | None = None
    value: int | bytes | EntityId | None = None


def encode_read_attributes_response(values: tuple[AttributeValue, ...]) -> bytes:
    """The body of a Read Attributes Response (ZCL 2.5.2)."""
    return b"".join(_encode_value(value) for value in values)


def _encode_value(record: AttributeValue) -> bytes:
    start = struct.pack("<HB", record.attribute, record.status)
    kind, value = record.type, record.value
    if record.status != Status.SUCCESS or kind is None:
        return start
    start += bytes((kind,))
    if isinstance(value, EntityId):
        return start + encode_eui64(value)
    if isinstance(value, bytes):
        return start + bytes((len(value),)) + value
    assert value is not None
    return start + value.to_bytes(_FIXED_SIZES[kind], "little")


def decode_read_attributes_response(body: bytes) -> tuple[AttributeValue, ...]:
    """All records of a Read Attributes Response.

    Raises:
        DecodeError: truncated, or a data type this project does not read.
    """
    values, at = [], 0
    while at < len(body):
        record, at = _decode_value(body, at)
        values.append(record)
    return tuple(values)


def _decode_value(body: bytes, at: int) -> tuple[AttributeValue, int]:
    what = "Read Attributes Response"
    if at + 3 > len(body):
        raise DecodeError(what, at, "truncated record")
    attribute, status = struct.unpack_from("<HB", body, at)
    at += 3
    if status != Status.SUCCESS:
        return AttributeValue(attribute, status), at
    if at >= len(body):
        raise DecodeError(what, at, "no data type")
    kind = body[at]
    at += 1
    if kind in (OCTET_STRING, CHARACTER_STRING):
        if at >= len(body):
            raise DecodeError(what, at, "no string length")
        size = 0 if body[at] == 0xFF else body[at]  # 0xFF: an invalid string
        at += 1
    elif kind in _FIXED_SIZES:
        size = _FIXED_SIZES[kind]
    else:
        raise DecodeError(what, at - 1, f"data type {kind:02x} is not read here")
    octets = body[at : at + size]
    if len(octets) != size:
        raise DecodeError(what, at, "truncated value")
    value: int | bytes | EntityId
    if kind in (OCTET_STRING, CHARACTER_STRING):
        value = octets
    elif kind == EUI64:
        value = decode_eui64(octets)
    else:
        value = int.from_bytes(octets, "little")
    return AttributeValue(attribute, status, kind, value), at + size


_EPOCH = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)


def utc_text(utc: int) -> str:
    """Seconds since 2000-01-01T00:00:00Z as RFC 3339."""
    return (_EPOCH + datetime.timedelta(seconds=utc)).strftime("%Y-%m-%dT%H:%M:%SZ")
