"""DER payloads on which no part of the emulator acts: credentials, joining, device logs, clock.

They are read straight into fields. Real devices encode lengths in them that are not minimal, and
they are taken. Certificates are summed up by holder, role, usage and dates. Source: gbcs.md 8;
supplement 4.2, 4.3, 5, 9.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from firmware_node.crypto import certificate_info
from firmware_node.terms import EntityId, Role
from firmware_node.tools.payload_fields import KEY_NOT_SHOWN, Fields, Value, code, named
from firmware_node.wire import der
from firmware_node.wire.gbcs import Cra
from firmware_node.wire.zcl import utc_text

ENTRIES_MAX = 64  # of one list; the longest of the reference set has 9

_ROLES = {role.value: role.name.lower() for role in Role}
_KEY_USAGES = {b"\x07\x80": "digitalSignature", b"\x03\x08": "keyAgreement"}
_KEY_USAGES |= {b"\x02\x04": "keyCertSign", b"\x01\x02": "cRLSign"}
_CELL_USAGES = {0: "management", 1: "prepayment top-up"}
_CREDENTIAL_STATUS = {
    0: "success",
    5: "bad certificate",
    10: "no trust anchor",
    17: "insufficient memory",
    25: "trust anchor not found",
    30: "resources busy",
    127: "other",
}
_REPLACEMENT_MODES = {
    2: "supplier by supplier",
    3: "network operator by network operator",
    4: "access control broker by itself",
    5: "WAN provider by WAN provider",
    6: "transitional CoS by itself",
    7: "supplier by transitional CoS",
    8: "any by recovery",
    9: "any by contingency",
    10: "load controller by load controller",
    11: "load controller by supplier",
}
_DEVICE_TYPES = {
    0: "GSME",
    1: "ESME",
    2: "CHF",
    3: "GPF",
    4: "HCALCS",
    5: "PPMID",
    6: "Type 2",
}
_TIME_STATUS = {0: "reliable", 1: "invalid", 2: "unreliable"}
_JOIN_METHODS = {0: "A, initiator", 1: "A, responder", 2: "B", 3: "C"}

Reading = Callable[[der.Reader], Fields]


def read_der(message_code: int, kind: Cra, payload: bytes) -> Fields | None:
    """The payload by field; None where no reader knows it.

    Raises:
        DecodeError: it is not what the use case has.
    """
    reading = _READINGS.get((message_code, kind))
    if reading is None:
        return None
    reader = der.Reader(payload, "payload", any_lengths=True)
    fields = reading(reader)
    reader.end()
    return fields


# --- credentials ----------------------------------------------------------------------------------


def _read_credentials(reader: der.Reader) -> Fields:
    """SEQUENCE { authorising cell, SEQUENCE OF role }."""
    inner = reader.sequence()
    fields: Fields = {"authorised_by": _cell(inner.sequence())}
    roles = inner.sequence()
    fields["roles"] = _list(roles, _role)
    inner.end()
    return fields


def _credentials(reader: der.Reader) -> Fields:
    """SEQUENCE OF { role, status, counter and cells where the status is success }."""

    def role(entries: der.Reader) -> Fields:
        inner = entries.sequence()
        fields: Fields = {"role": _role(inner), "status": _status(inner)}
        if inner.peek() == der.INTEGER:
            fields["counter"] = inner.unsigned(2**64 - 1)
        if inner.peek() is not None:
            fields["cells"] = _list(inner.sequence(), held)
        inner.end()
        return fields

    def held(entries: der.Reader) -> Fields:
        inner = entries.sequence()
        fields: Fields = {"key_usage": _key_usage(inner), **_cell_usage(inner)}
        fields |= _holder(inner, "entity_id", "key_id")
        inner.end()
        return fields

    return {"roles": _list(reader.sequence(), role)}


def _update_credentials(reader: der.Reader) -> Fields:
    """SEQUENCE { control, SEQUENCE OF { certificate, cell }, path certificates, time OPTIONAL }."""

    def replacement(entries: der.Reader) -> Fields:
        inner = entries.sequence()
        certificate = _certificate(inner)
        fields: Fields = {"cell": _cell(inner.sequence()), "certificate": certificate}
        inner.end()
        return fields

    inner = reader.sequence()
    fields = _control(inner.sequence())
    fields["replacements"] = _list(inner.sequence(), replacement)
    fields["path"] = _list(inner.sequence(), _certificate)
    if inner.peek() == der.GENERALIZED_TIME:
        moment = inner.time()
        fields |= {"cancels": True} if moment is None else {"execution_time": utc_text(moment)}
    inner.end()
    return fields


def _control(control: der.Reader) -> Fields:
    """Who authorises the change by which cell, and the counters it sets (supplement 1.1)."""
    fields: Fields = {"mode": named(control.unsigned(0xFF), _REPLACEMENT_MODES)}
    if control.peek() == 0x80:
        control.take(0x80)
        fields["symmetric_key"] = KEY_NOT_SHOWN
    if control.peek() == 0x81:
        fields["checks_dates"] = control.unsigned(1, 0x81) == 0
    if control.peek() == 0xA2:
        fields["authorised_by"] = _cell(control.sequence(0xA2))
    if control.peek() == 0x83:
        fields["originator_counter"] = control.unsigned(2**64 - 1, 0x83)
    if control.peek() == 0x84:
        fields["counter_floor"] = control.unsigned(2**64 - 1, 0x84)
    if control.peek() == 0xA5:
        fields["special_floors"] = _list(control.sequence(0xA5), _special_floor)
    if control.peek() == 0xA6:
        fields["other_floors"] = _list(control.sequence(0xA6), _floor)
    control.end()
    return fields


def _updated_credentials(reader: der.Reader) -> Fields:
    """SEQUENCE { NULL, and once it was carried out the outcome }."""
    inner = reader.sequence()
    inner.null()
    fields: Fields = {"accepted": True}
    if inner.peek() is not None:
        fields = _credentials_outcome(inner)
    inner.end()
    return fields


def _credentials_alert(reader: der.Reader) -> Fields:
    """SEQUENCE { alertCode, executionDateTime, the outcome }."""
    inner = reader.sequence()
    fields: Fields = {"alert_code": code(inner.unsigned(0xFFFF)), "execution_time": _time(inner)}
    fields |= _credentials_outcome(inner)
    inner.end()
    return fields


def _credentials_outcome(reader: der.Reader) -> Fields:
    def cell(entries: der.Reader) -> Fields:
        inner = entries.sequence()
        fields: Fields = {"cell": _cell(inner.sequence()), "status": _status(inner)}
        fields |= _holder(inner, "existing_entity_id", "existing_key_id")
        fields |= _holder(inner, "new_entity_id", "new_key_id")
        inner.end()
        return fields

    inner = reader.sequence()
    fields: Fields = {"originator_counter": inner.unsigned(2**64 - 1)}
    fields["mode"] = named(inner.unsigned(0xFF), _REPLACEMENT_MODES)
    fields["floors"] = _list(inner.sequence(), _floor)
    fields["cells"] = _list(inner.sequence(), cell)
    inner.end()
    return fields


def _floor(entries: der.Reader) -> Fields:
    inner = entries.sequence()
    fields: Fields = {"role": _role(inner), "counter_floor": inner.unsigned(2**64 - 1)}
    if inner.peek() is not None:
        fields["special_floors"] = _list(inner.sequence(), _special_floor)
    inner.end()
    return fields


def _special_floor(entries: der.Reader) -> Fields:
    inner = entries.sequence()
    usage = "prepayment top-up" if (number := inner.unsigned(0xFF)) == 0 else number
    fields: Fields = {"for": usage, "counter_floor": inner.unsigned(2**64 - 1)}
    inner.end()
    return fields


def _key_usage_only(reader: der.Reader) -> Fields:
    """SEQUENCE { keyUsage }: which of its own keys a device is asked for."""
    inner = reader.sequence()
    fields: Fields = {"key_usage": _key_usage(inner)}
    inner.end()
    return fields


def _request_or_code(reader: der.Reader) -> Fields:
    """CHOICE { response code, certification request }."""
    if reader.peek() == der.INTEGER:
        return _response_code(reader)
    return {"certification_request": reader.element(der.SEQUENCE).hex()}


def _certificate_or_code(reader: der.Reader) -> Fields:
    """CHOICE { response code, certificate }."""
    if reader.peek() == der.INTEGER:
        return _response_code(reader)
    return _certificate_only(reader)


def _certificate_only(reader: der.Reader) -> Fields:
    return {"certificate": _certificate(reader)}


# --- joining and logs -----------------------------------------------------------------------------


def _join(reader: der.Reader) -> Fields:
    """SEQUENCE { joinMethodAndRole, entityId, deviceType, certificate OPTIONAL }."""
    inner = reader.sequence()
    fields: Fields = {
        "method": named(inner.unsigned(0xFF), _JOIN_METHODS),
        "entity_id": _entity_id(inner),
        "device_type": named(inner.unsigned(0xFF), _DEVICE_TYPES),
    }
    if inner.peek() is not None:
        fields["certificate"] = _certificate(inner)
    inner.end()
    return fields


def _unjoin(reader: der.Reader) -> Fields:
    return {"entity_id": _entity_id(reader)}


def _response_code(reader: der.Reader) -> Fields:
    return {"response_code": reader.unsigned(0xFF)}


def _nothing(reader: der.Reader) -> Fields:
    reader.null()
    return {}


def _join_details(reader: der.Reader) -> Fields:
    """SEQUENCE { response code, SEQUENCE OF device }."""
    inner = reader.sequence()
    fields = _response_code(inner)
    if inner.peek() is not None:
        fields["devices"] = _list(inner.sequence(), _device)
    inner.end()
    return fields


def _device_log(reader: der.Reader) -> Fields:
    """SEQUENCE { SEQUENCE OF device }."""
    inner = reader.sequence()
    fields: Fields = {"devices": _list(inner.sequence(), _device)}
    inner.end()
    return fields


def _restored_devices(reader: der.Reader) -> Fields:
    """SEQUENCE { SEQUENCE OF { device, response code } }."""

    def restored(entries: der.Reader) -> Fields:
        inner = entries.sequence()
        fields = _device(inner) | _response_code(inner)
        inner.end()
        return fields

    outer = reader.sequence()
    devices: Fields = {"devices": _list(outer.sequence(), restored)}
    outer.end()
    return devices


def _devices_alert(reader: der.Reader) -> Fields:
    """SEQUENCE { alertCode, time, SEQUENCE OF device }."""
    inner = reader.sequence()
    fields: Fields = {"alert_code": code(inner.unsigned(0xFFFF)), "time": _time(inner)}
    fields["devices"] = _list(inner.sequence(), _device)
    inner.end()
    return fields


def _set_clock(reader: der.Reader) -> Fields:
    """SEQUENCE { start, end of the interval in which the hub's time must lie }."""
    inner = reader.sequence()
    fields: Fields = {"from": _time(inner), "to": _time(inner)}
    inner.end()
    return fields


def _clock(reader: der.Reader) -> Fields:
    """SEQUENCE { device time, status }."""
    inner = reader.sequence()
    fields: Fields = {"time": _time(inner), "status": named(inner.unsigned(0xFF), _TIME_STATUS)}
    inner.end()
    return fields


def _device(entries: der.Reader) -> Fields:
    inner = entries.sequence()
    fields: Fields = {
        "entity_id": _entity_id(inner),
        "device_type": named(inner.unsigned(0xFF), _DEVICE_TYPES),
    }
    inner.end()
    return fields


# --- parts ----------------------------------------------------------------------------------------


def _list(entries: der.Reader, read: Callable[[der.Reader], Value]) -> list[Value]:
    values: list[Value] = []
    while entries.peek() is not None:
        if len(values) == ENTRIES_MAX:
            raise entries.error(f"more than {ENTRIES_MAX} entries")
        values.append(read(entries))
    return values


def _cell(cell: der.Reader) -> Fields:
    fields: Fields = {"role": _role(cell), "key_usage": _key_usage(cell), **_cell_usage(cell)}
    cell.end()
    return fields


def _cell_usage(reader: der.Reader) -> Fields:
    """INTEGER DEFAULT management."""
    if reader.peek() != der.INTEGER:
        return {}
    return {"cell_usage": named(reader.unsigned(0xFF), _CELL_USAGES)}


def _role(reader: der.Reader) -> str | int:
    return named(reader.unsigned(0xFF), _ROLES)


def _key_usage(reader: der.Reader) -> str:
    octets = reader.take(der.BIT_STRING)
    return _KEY_USAGES.get(octets) or octets.hex()


def _status(reader: der.Reader) -> str | int:
    return named(reader.unsigned(0xFF, der.ENUMERATED), _CREDENTIAL_STATUS)


def _holder(reader: der.Reader, entity: str, key: str) -> Fields:
    return {entity: _entity_id(reader), key: reader.octet_string(8).hex()}


def _entity_id(reader: der.Reader) -> str:
    return str(EntityId(reader.octet_string(8)))


def _time(reader: der.Reader) -> str:
    moment = reader.time()
    return "never" if moment is None else utc_text(moment)


def _certificate(reader: der.Reader) -> Value:
    octets = reader.element(der.SEQUENCE)
    info = certificate_info(octets)
    if info is None:
        return octets.hex()
    fields: Fields = {} if info.entity_id is None else {"entity_id": str(info.entity_id)}
    if info.role is not None:
        fields["role"] = info.role.name.lower()
    return fields | {
        "usage": ", ".join(info.usages),
        "serial": f"{info.serial:x}",
        "not_before": info.not_before,
        "not_after": info.not_after,
    }


_USES: tuple[tuple[tuple[int, ...], Cra, Reading], ...] = (
    ((0x0008, 0x011B), Cra.COMMAND, _read_credentials),  # CS02a, CS02f
    ((0x0008, 0x011B), Cra.RESPONSE, _credentials),
    ((*range(0x0100, 0x010A), 0x0125, 0x0126), Cra.COMMAND, _update_credentials),  # CS02b, CS02g
    ((*range(0x0100, 0x010A), 0x0125, 0x0126), Cra.RESPONSE, _updated_credentials),
    ((0x00CB, 0x0124), Cra.ALERT, _credentials_alert),
    ((0x000A, 0x000C), Cra.COMMAND, _key_usage_only),  # CS02c, CS02e
    ((0x000A,), Cra.RESPONSE, _request_or_code),
    ((0x000C,), Cra.RESPONSE, _certificate_or_code),
    ((0x000B,), Cra.COMMAND, _certificate_only),  # CS02d
    ((0x000D, 0x000E, 0x00AB, 0x00AF), Cra.COMMAND, _join),  # CS03
    ((0x000F, 0x0010), Cra.COMMAND, _unjoin),  # CS04
    ((0x000B, 0x000D, 0x000E, 0x00AB, 0x00AF, 0x000F, 0x0010), Cra.RESPONSE, _response_code),
    ((0x0013,), Cra.COMMAND, _nothing),  # CS07
    ((0x0013,), Cra.RESPONSE, _join_details),
    ((0x008C,), Cra.COMMAND, _device_log),  # GCS59
    ((0x008C,), Cra.RESPONSE, _restored_devices),
    ((0x00B2,), Cra.ALERT, _devices_alert),  # GCS62
    ((0x007F,), Cra.COMMAND, _set_clock),  # GCS28
    ((0x007F,), Cra.RESPONSE, _clock),
)
_READINGS: Mapping[tuple[int, Cra], Reading] = {
    (number, kind): reading for numbers, kind, reading in _USES for number in numbers
}
