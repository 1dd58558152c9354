"""GBZ payloads: ZCL frames of several clusters in one GBCS message, and GBZ alerts.

A command or response has components of cluster, length and ZCL frame; the content of some is
encrypted for the User. General commands and the event logs are shown by field, of other commands
the octets behind the ZCL header. The envelope is big-endian, ZCL inside it little-endian. Sources:
gbcs.md 3.3, 4.7, 4.11; ZCL 2.4 to 2.6; the SE clusters by their public command ids.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from firmware_node.errors import DecodeError
from firmware_node.tools.code_names import ALERT_NAMES
from firmware_node.tools.payload_fields import Context, Fields, Value, code, named, zcl_time
from firmware_node.wire import zcl
from firmware_node.wire.cursor import Cursor

PROFILE = b"\x01\x09"
_LAST, _ENCRYPTED, _FROM_DATE_TIME = 0x01, 0x02, 0x10
_WHAT = "GBZ payload"

CLUSTERS: Mapping[int, str] = {
    0x0000: "Basic",
    0x000A: "Time",
    0x0019: "OTA Upgrade",
    0x0700: "Price",
    0x0701: "Demand Response and Load Control",
    0x0702: "Metering",
    0x0703: "Messaging",
    0x0704: "Tunneling",
    0x0705: "Prepayment",
    0x0707: "Calendar",
    0x0708: "Device Management",
    0x0709: "Events",
    0x0800: "Key Establishment",
}
_GENERAL = {
    0x00: "read attributes",
    0x01: "read attributes response",
    0x02: "write attributes",
    0x04: "write attributes response",
    0x0B: "default response",
}
# By cluster, direction (True: from the server) and command id.
_COMMANDS = {
    (0x0700, True): {
        0x00: "publish price",
        0x01: "publish block period",
        0x02: "publish conversion factor",
        0x03: "publish calorific value",
        0x04: "publish tariff information",
        0x05: "publish price matrix",
        0x06: "publish block thresholds",
        0x08: "publish tier labels",
        0x09: "publish billing period",
    },
    (0x0702, False): {
        0x06: "get snapshot",
        0x07: "start sampling",
        0x08: "get sampled data",
        0x0B: "change supply",
        0x0C: "local change supply",
        0x0D: "set supply status",
        0x0E: "set uncontrolled flow threshold",
    },
    (0x0702, True): {
        0x06: "publish snapshot",
        0x07: "get sampled data response",
        0x0C: "supply status response",
    },
    (0x0705, False): {
        0x00: "select available emergency credit",
        0x02: "change debt",
        0x03: "emergency credit setup",
        0x04: "consumer top up",
        0x05: "credit adjustment",
        0x06: "change payment mode",
        0x07: "get prepay snapshot",
        0x08: "get top up log",
        0x09: "set low credit warning level",
        0x0A: "get debt repayment log",
        0x0B: "set maximum credit limit",
        0x0C: "set overall debt cap",
    },
    (0x0705, True): {
        0x01: "publish prepay snapshot",
        0x02: "change payment mode response",
        0x03: "consumer top up response",
        0x05: "publish top up log",
        0x06: "publish debt log",
    },
    (0x0707, True): {
        0x00: "publish calendar",
        0x01: "publish day profile",
        0x02: "publish week profile",
        0x03: "publish seasons",
        0x04: "publish special days",
    },
    (0x0709, False): {0x00: "get event log", 0x01: "clear event log request"},
    (0x0709, True): {
        0x00: "publish event",
        0x01: "publish event log",
        0x02: "clear event log response",
    },
}
_LOGS = {
    0: "all logs",
    1: "tamper log",
    2: "fault log",
    3: "general event log",
    4: "security event log",
    5: "network event log",
}
# ZCL data types of a fixed size: octets, and whether there is a sign.
_TYPES = (
    {
        kind: (kind - base + 1, False)
        for base in (0x08, 0x18, 0x20)
        for kind in range(base, base + 8)
    }
    | {kind: (kind - 0x28 + 1, True) for kind in range(0x28, 0x30)}
    | {0x00: (0, False), 0x10: (1, False), 0x30: (1, False), 0x31: (2, False)}
    | {0xE0: (4, False), 0xE1: (4, False), 0xE2: (4, False), 0xE8: (2, False), 0xE9: (2, False)}
)
_STRINGS = {0x41: 1, 0x42: 1, 0x43: 2, 0x44: 2}  # type to octets of its length
_CHARACTERS = (0x42, 0x44)
_UTC_TIME, _EUI64 = 0xE2, 0xF0


def is_gbz(payload: bytes) -> bool:
    """Whether the payload begins with the SE profile."""
    return payload.startswith(PROFILE)


def read_gbz(payload: bytes, context: Context) -> Fields:
    """The components of a command or response.

    Raises:
        DecodeError: a length is off, or octets are left.
    """
    cursor = Cursor(payload, _WHAT)
    cursor.literal(PROFILE, "profile")
    count = cursor.unsigned(1, "number of components")
    components: list[Value] = [_component(cursor, context, n == count) for n in range(1, count + 1)]
    cursor.finish()
    return {"components": components}


def read_gbz_alert(payload: bytes, context: Context) -> Fields:
    """An alert's code, time, and what it is about."""
    cursor = Cursor(payload, _WHAT)
    cursor.literal(PROFILE, "profile")
    count = cursor.unsigned(1, "number of components")
    fields: Fields = {
        "alert_code": code(cursor.unsigned(2, "alert code")),
        "time": zcl_time(cursor.unsigned(4, "time")),
    }
    if count:
        fields["about"] = _about(cursor, context)
    cursor.finish()
    return fields


def _about(cursor: Cursor, context: Context) -> Value:
    """An instruction of an earlier command, a component, or octets of another meaning."""
    if cursor.left == 15 and cursor.data[cursor.at] == 14:
        cursor.take(1, "length")
        instruction: Fields = {
            "message_code": code(cursor.unsigned(2, "message code")),
            "originator_counter": cursor.unsigned(8, "originator counter"),
        }
        cluster, control = cursor.unsigned(2, "cluster"), cursor.unsigned(1, "frame control")
        command = cursor.unsigned(1, "command")
        return instruction | _names(cluster, control, command)
    if cursor.left > 5 and cursor.data[cursor.at] & _LAST:
        return _component(cursor, context, last=True)
    return cursor.rest().hex()


def _component(cursor: Cursor, context: Context, last: bool) -> Fields:
    control = cursor.unsigned(1, "control")
    if control & ~(_LAST | _ENCRYPTED | _FROM_DATE_TIME) or bool(control & _LAST) != last:
        raise cursor.error(f"control {control:02x}")
    cluster = cursor.unsigned(2, "cluster")
    part = cursor.part(cursor.unsigned(2, "length"), "component")
    fields: Fields = {}
    if control & _FROM_DATE_TIME:
        fields["from"] = zcl_time(part.unsigned(4, "from date-time"))
    if control & _ENCRYPTED:
        part.take(1, "additional header control")
        fields["frame_counter"] = part.unsigned(1, "additional frame counter")
    header, body = zcl.decode_header(part.rest())
    server = header.to_client
    fields |= _names(cluster, header.cluster_specific | server << 3, header.command)
    fields["sequence"] = header.sequence
    if header.manufacturer_code is not None:
        fields["manufacturer_code"] = code(header.manufacturer_code)
    read = _body_reader(cluster, header)
    if control & _ENCRYPTED:
        sealed = Cursor(body, _WHAT)
        content = sealed.take(sealed.unsigned(2, "length"), "encrypted content")
        sealed.finish()
        return fields | context.opened(content, read)
    return fields | read(body)


def _names(cluster: int, control: int, command: int) -> Fields:
    names = _COMMANDS.get((cluster, control & 0x08 != 0), {}) if control & 0x01 else _GENERAL
    return {
        "cluster": CLUSTERS.get(cluster) or code(cluster),
        "command": names.get(command) or f"{command:02X}",
    }


def _body_reader(cluster: int, header: zcl.ZclHeader) -> Callable[[bytes], Fields]:
    key = (cluster if header.cluster_specific else None, header.to_client, header.command)
    return _READERS.get(key) or _GENERAL_READERS.get(key[0::2]) or _unread


def _unread(body: bytes) -> Fields:
    return {"body": body.hex()} if body else {}


def _read_attributes(body: bytes) -> Fields:
    return {"attributes": [code(attribute) for attribute in zcl.decode_read_attributes(body)]}


def _attribute_values(body: bytes) -> Fields:
    """Records { id u16, status u8, and with SUCCESS type u8 and value }."""
    records: list[Value] = []
    cursor = Cursor(body, "attributes")
    while cursor.left:
        attribute, status = _little(cursor, 2, "attribute"), _little(cursor, 1, "status")
        record: Fields = {"attribute": code(attribute)}
        if status == zcl.Status.SUCCESS:
            record["value"] = _value(cursor)
        else:
            record["status"] = _status(status)
        records.append(record)
    return {"attributes": records}


def _attributes_to_write(body: bytes) -> Fields:
    records: list[Value] = []
    cursor = Cursor(body, "attributes")
    while cursor.left:
        attribute = _little(cursor, 2, "attribute")
        records.append({"attribute": code(attribute), "value": _value(cursor)})
    return {"attributes": records}


def _written(body: bytes) -> Fields:
    """SUCCESS for all, or records { status u8, id u16 } of those that failed."""
    cursor = Cursor(body, "attributes")
    records: list[Value] = []
    while cursor.left:
        record: Fields = {"status": _status(_little(cursor, 1, "status"))}
        if cursor.left:
            record["attribute"] = code(_little(cursor, 2, "attribute"))
        records.append(record)
    return {"attributes": records}


def _default_response(body: bytes) -> Fields:
    response = zcl.decode_default_response(body)
    return {"to_command": f"{response.command:02X}", "status": _status(response.status)}


def _get_event_log(body: bytes) -> Fields:
    """Control and log u8, event u16, from u32, to u32, number u8, offset u16."""
    cursor = Cursor(body, "get event log")
    control = _little(cursor, 1, "control")
    event = _little(cursor, 2, "event")
    fields: Fields = {
        "log": named(control & 0x0F, _LOGS),
        "all_fields": control & 0x10 != 0,
        "event": _event(event) if event else "all",
        "from": zcl_time(_little(cursor, 4, "start")),
        "to": zcl_time(_little(cursor, 4, "end")),
        "events_max": _little(cursor, 1, "number of events"),
        "offset": _little(cursor, 2, "offset"),
    }
    cursor.finish()
    return fields


def _event_log(body: bytes) -> Fields:
    """Total u16, index u8, commands u8, control u8; log u8, event u16, time u32, octets each."""
    cursor = Cursor(body, "event log")
    fields: Fields = {"total": _little(cursor, 2, "total number of events")}
    fields["part"] = _little(cursor, 1, "command index") + 1
    fields["parts"] = _little(cursor, 1, "total commands")
    cursor.take(1, "control")
    events: list[Value] = []
    while cursor.left:
        log, event = _little(cursor, 1, "log"), _little(cursor, 2, "event")
        entry: Fields = {"log": named(log & 0x0F, _LOGS), "event": _event(event)}
        entry["time"] = zcl_time(_little(cursor, 4, "time"))
        other = cursor.take(_little(cursor, 1, "length"), "event data")
        if other:
            entry["data"] = other.hex()
        events.append(entry)
    return fields | {"events": events}


def _clear_event_log(body: bytes) -> Fields:
    cursor = Cursor(body, "clear event log")
    control = _little(cursor, 1, "control")
    cursor.finish()
    return {"log": named(control & 0x0F, _LOGS)}


def _cleared_event_logs(body: bytes) -> Fields:
    """A bit for each log that was cleared."""
    cursor = Cursor(body, "clear event log response")
    logs = _little(cursor, 1, "logs")
    cursor.finish()
    return {"cleared": [_LOGS.get(log, str(log)) for log in range(8) if logs & 1 << log]}


_GENERAL_READERS: Mapping[tuple[int | None, int], Callable[[bytes], Fields]] = {
    (None, 0x00): _read_attributes,
    (None, 0x01): _attribute_values,
    (None, 0x02): _attributes_to_write,
    (None, 0x04): _written,
    (None, 0x0B): _default_response,
}
_READERS: Mapping[tuple[int | None, bool, int], Callable[[bytes], Fields]] = {
    (0x0709, False, 0x00): _get_event_log,
    (0x0709, False, 0x01): _clear_event_log,
    (0x0709, True, 0x01): _event_log,
    (0x0709, True, 0x02): _cleared_event_logs,
}


def _value(cursor: Cursor) -> Value:
    kind = _little(cursor, 1, "data type")
    if kind in _TYPES:
        size, signed = _TYPES[kind]
        number = int.from_bytes(cursor.take(size, "value"), "little", signed=signed)
        if kind == 0x00:
            return None
        if kind == 0x10:
            return number != 0
        return zcl_time(number) if kind == _UTC_TIME else number
    if kind in _STRINGS:
        width = _STRINGS[kind]
        size = _little(cursor, width, "length")
        if size == (1 << 8 * width) - 1:
            return None  # an invalid string has no octets
        octets = cursor.take(size, "string")
        return octets.decode("utf-8", "replace") if kind in _CHARACTERS else octets.hex()
    if kind == _EUI64:
        return str(zcl.decode_eui64(cursor.take(8, "EUI-64")))
    raise DecodeError(cursor.what, cursor.at - 1, f"data type {kind:02x} is not read here")


def _little(cursor: Cursor, size: int, name: str) -> int:
    return int.from_bytes(cursor.take(size, name), "little")


def _status(status: int) -> str:
    try:
        return zcl.Status(status).name.lower()
    except ValueError:
        return f"{status:02X}"


def _event(event: int) -> str:
    name = ALERT_NAMES.get(event)
    return code(event) + (f" {name}" if name else "")
