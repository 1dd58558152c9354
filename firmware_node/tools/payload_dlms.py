"""DLMS payloads: access requests, access responses and notifications, with A-XDR data inside.

As far as GBCS uses them: every request is an access request, every answer its response, every
alert a data notification with the alert code, a time, and what the alert is about. Structures are
shown as lists, octet strings as hexadecimal digits; a date-time of 12 octets as a time. Sources:
gbcs.md 3.3, 4.7, 4.11, 8; the DLMS data types by their numbers.
"""

from __future__ import annotations

import struct

from firmware_node.errors import DecodeError
from firmware_node.tools.payload_fields import (
    KEY_NOT_SHOWN,
    Context,
    Fields,
    Value,
    code,
    is_sealed,
    named,
)
from firmware_node.wire.cursor import Cursor
from firmware_node.wire.firmware_messages import decode_dlms_date_time
from firmware_node.wire.zcl import utc_text

ACCESS_REQUEST, ACCESS_RESPONSE, DATA_NOTIFICATION = 0xD9, 0xDA, 0x0F
DEPTH_MAX = 16  # of structures in structures; the reference set has 5
VALUES_MAX = 20_000  # of one payload, more than a message has octets; bounds null arrays

# Device logs hold the key of each device, 16 octets: CCS01, CCS03, CS14, CCS07.
LOGS_WITH_KEYS = (0x0001, 0x0003, 0x0018, 0x00FE)
KEY_SIZE = 16

_ACTIONS = {1: "get", 2: "set", 3: "action", 4: "get", 5: "set"}
_WITH_SELECTION = (4, 5)
_RESULTS = {
    0: "success",
    1: "hardware fault",
    2: "temporary failure",
    3: "read-write denied",
    4: "object undefined",
    9: "object class inconsistent",
    11: "object unavailable",
    12: "type unmatched",
    13: "scope of access violated",
    14: "data block unavailable",
    250: "other reason",
}
# Alerts about a command, and the octets that name it: future-dated instructions name a target too.
_INSTRUCTIONS = {0x00CC: 19, 0x0120: 10}
_NULL, _ARRAY, _STRUCTURE, _BOOLEAN, _BIT_STRING = 0x00, 0x01, 0x02, 0x03, 0x04
_OCTET_STRING, _VISIBLE_STRING, _UTF8_STRING, _COMPACT_ARRAY = 0x09, 0x0A, 0x0C, 0x13
_DONT_CARE = 0xFF
# Type number to size in octets and whether it has a sign.
_INTEGERS = {
    0x05: (4, True),
    0x06: (4, False),
    0x0D: (1, False),
    0x0F: (1, True),
    0x10: (2, True),
    0x11: (1, False),
    0x12: (2, False),
    0x14: (8, True),
    0x15: (8, False),
    0x16: (1, False),
}
_FLOATS = {0x17: (4, ">f"), 0x18: (8, ">d")}
_OCTETS = {0x19: 12, 0x1A: 5, 0x1B: 4}  # date-time, date, time


def is_dlms(payload: bytes) -> bool:
    """Whether the payload begins as one of the three does."""
    return payload[:1] in (b"\xd9", b"\xda", b"\x0f")


def read_dlms(payload: bytes, context: Context) -> Fields:
    """The payload by field.

    Raises:
        DecodeError: truncated, an unknown data type, too deep, or octets are left.
    """
    reader = _DataReader(Cursor(payload, "DLMS payload"), context)
    cursor = reader.cursor
    tag = cursor.unsigned(1, "tag")
    fields: Fields = {"invoke_id": cursor.unsigned(4, "long invoke id") & 0xFFFFFF}
    date_time = cursor.take(cursor.length("date-time"), "date-time")
    if date_time:
        fields["date_time"] = _octets(date_time)
    if tag == ACCESS_REQUEST:
        fields["accesses"] = _requests(reader)
    elif tag == ACCESS_RESPONSE:
        cursor.literal(b"\0", "access specification")
        fields["accesses"] = _responses(reader)
    else:
        fields |= _notification(reader)
    cursor.finish()
    return fields


def _requests(reader: _DataReader) -> list[Value]:
    cursor = reader.cursor
    accesses: list[Fields] = []
    for _ in range(cursor.length("number of accesses")):
        kind = cursor.unsigned(1, "access")
        if kind not in _ACTIONS:
            raise cursor.error(f"access {kind} is unknown")
        access: Fields = {"access": _ACTIONS[kind], **_target(cursor)}
        if kind in _WITH_SELECTION:
            access["selector"] = cursor.unsigned(1, "selector")
            access["selection"] = reader.value()
        accesses.append(access)
    if cursor.length("number of data") != len(accesses):
        raise cursor.error("as many data as accesses are due")
    for access in accesses:
        value = reader.value()
        if value is not None:
            access["data"] = value
    return list(accesses)


def _target(cursor: Cursor) -> Fields:
    return {
        "class": cursor.unsigned(2, "class"),
        "instance": ".".join(map(str, cursor.take(6, "instance"))),
        "member": cursor.unsigned(1, "attribute or method"),
    }


def _responses(reader: _DataReader) -> list[Value]:
    cursor = reader.cursor
    data = [reader.value() for _ in range(cursor.length("number of data"))]
    if cursor.length("number of results") != len(data):
        raise cursor.error("as many results as data are due")
    accesses: list[Value] = []
    for value in data:
        kind, result = cursor.unsigned(1, "access"), cursor.unsigned(1, "result")
        access: Fields = {"access": named(kind, _ACTIONS), "result": named(result, _RESULTS)}
        if value is not None:
            access["data"] = value
        accesses.append(access)
    return accesses


def _notification(reader: _DataReader) -> Fields:
    """Structure { alert code u16, date-time, and what the alert is about }."""
    cursor = reader.cursor
    cursor.literal(bytes((_STRUCTURE,)), "structure")
    members = cursor.length("members")
    if members < 2:
        raise cursor.error("an alert has a code and a time")
    cursor.literal(b"\x12", "alert code")
    fields: Fields = {"alert_code": code(cursor.unsigned(2, "alert code"))}
    fields["time"] = reader.value()
    size = _INSTRUCTIONS.get(reader.message_code)
    about = [_instruction(cursor, size) or reader.value() for _ in range(members - 2)]
    if about:
        fields["about"] = about[0] if len(about) == 1 else about
    return fields


def _instruction(cursor: Cursor, size: int | None) -> Fields | None:
    """Which part of which command an alert is about; None: something else comes next."""
    if size is None or cursor.data[cursor.at : cursor.at + 2] != bytes((_OCTET_STRING, size)):
        return None
    cursor.take(2, "tag and length")
    part = cursor.part(size, "instruction")
    fields: Fields = {
        "message_code": code(part.unsigned(2, "message code")),
        "originator_counter": part.unsigned(8, "originator counter"),
    }
    return fields | (_target(part) if part.left else {})


class _DataReader:
    """Reads A-XDR values, with a limit on their number and depth."""

    def __init__(self, cursor: Cursor, context: Context, left: int = VALUES_MAX) -> None:
        self.cursor = cursor
        self.message_code = context.header.message_code
        self._context = context
        self._left = left

    def value(self, depth: int = 0) -> Value:
        """One value, type first."""
        return self._content(self.cursor.unsigned(1, "data type"), depth)

    def _content(self, kind: int, depth: int) -> Value:
        self._spend(depth)
        cursor = self.cursor
        if kind in (_ARRAY, _STRUCTURE):
            count = cursor.length("number of elements")
            return [self.value(depth + 1) for _ in range(count)]
        if kind == _COMPACT_ARRAY:
            return self._compact_array(depth)
        if kind in (_OCTET_STRING, _VISIBLE_STRING, _UTF8_STRING):
            octets = cursor.take(cursor.length("length"), "string")
            return self._string(kind, octets, depth)
        if kind == _BIT_STRING:
            count = cursor.length("number of bits")
            bits = int.from_bytes(cursor.take((count + 7) // 8, "bits"), "big")
            return f"{bits >> -count % 8:0{count}b}" if count else ""
        return self._scalar(kind)

    def _spend(self, depth: int) -> None:
        self._left -= 1
        if depth > DEPTH_MAX or self._left < 0:
            raise self.cursor.error(f"more than {DEPTH_MAX} levels or {VALUES_MAX} values")

    def _scalar(self, kind: int) -> Value:
        cursor = self.cursor
        if kind == _NULL:
            return None
        if kind == _DONT_CARE:
            return "any"
        if kind == _BOOLEAN:
            return cursor.unsigned(1, "boolean") != 0
        if kind in _INTEGERS:
            size, signed = _INTEGERS[kind]
            return int.from_bytes(cursor.take(size, "integer"), "big", signed=signed)
        if kind in _FLOATS:
            size, form = _FLOATS[kind]
            number: float = struct.unpack(form, cursor.take(size, "float"))[0]
            # JSON has no word for infinity and for what is no number.
            return number if abs(number) < float("inf") else str(number)
        if kind in _OCTETS:
            return _octets(cursor.take(_OCTETS[kind], "date and time"))
        raise cursor.error(f"data type {kind:02x} is unknown")

    def _string(self, kind: int, octets: bytes, depth: int) -> Value:
        if kind != _OCTET_STRING:
            return octets.decode("utf-8", "replace")
        if is_sealed(octets):
            return self._context.opened(octets, lambda plain: self._opened(plain, depth))
        if len(octets) == KEY_SIZE and self.message_code in LOGS_WITH_KEYS:
            return KEY_NOT_SHOWN
        return _octets(octets)

    def _opened(self, plain: bytes, depth: int) -> Value:
        reader = _DataReader(Cursor(plain, "DLMS content"), self._context, self._left)
        value = reader.value(depth + 1)
        reader.cursor.finish()
        return value

    def _compact_array(self, depth: int) -> Value:
        """A type once, then the contents of all elements without it."""
        shape = self._shape(depth + 1)
        cursor = self.cursor
        outer, self.cursor = cursor, cursor.part(cursor.length("contents"), "contents")
        values: list[Value] = []
        while self.cursor.left:
            at = self.cursor.at
            values.append(self._shaped(shape, depth + 1))
            if self.cursor.at == at:
                raise self.cursor.error("elements without octets")
        self.cursor = outer
        return values

    def _shape(self, depth: int) -> _Shape:
        cursor = self.cursor
        kind = cursor.unsigned(1, "element type")
        if depth > DEPTH_MAX:
            raise cursor.error(f"more than {DEPTH_MAX} levels")
        if kind == _STRUCTURE:
            count = cursor.length("members")
            return _Shape(kind, tuple(self._shape(depth + 1) for _ in range(count)))
        if kind == _ARRAY:
            count = cursor.unsigned(2, "elements")
            shape = self._shape(depth + 1)
            return _Shape(kind, (shape,) * count)
        return _Shape(kind, ())

    def _shaped(self, shape: _Shape, depth: int) -> Value:
        self._spend(depth)
        if shape.kind in (_ARRAY, _STRUCTURE):
            return [self._shaped(member, depth + 1) for member in shape.members]
        return self._content(shape.kind, depth)


class _Shape:
    """The type of a compact array's element."""

    def __init__(self, kind: int, members: tuple[_Shape, ...]) -> None:
        self.kind = kind
        self.members = members


def _octets(octets: bytes) -> str:
    try:
        return utc_text(decode_dlms_date_time(octets))
    except DecodeError:
        return octets.hex()
