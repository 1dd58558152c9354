"""Payloads of the firmware use cases and the codes of their alerts. Source: gbcs.md 3, 4.11.

CS06, CS08, CS09 and CCS08 are DER. Receipt alerts and generic alerts come in two shapes, one for
ZigBee devices (GBZ) and one for DLMS ones, which repeats the low octets of the alert's counter.
Whoever decodes a payload and encodes it again has the same octets, or it was refused.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass

from firmware_node.errors import DecodeError
from firmware_node.terms import EntityId
from firmware_node.wire import der
from firmware_node.wire.cursor import Cursor

CS06_ACTIVATE_FIRMWARE = 0x0012
CCS08_FIRMWARE_TRANSFER = 0x0128
CS08_READ_VERSION = 0x0129
CS09_ACTIVATION_ALERT = 0x012B
CS06_ALERT = 0x00CA  # outcome of a future-dated activation
RECEIPT_ALERT_DLMS = 0x00CE
RECEIPT_ALERT_GBZ = 0x00CF
GENERIC_CRITICAL_ALERT = 0x1000
GENERIC_ALERT = 0x1001  # not critical

# Alert codes that these messages carry (gbcs.md 3.7).
FUTURE_DATED_DONE = 0x8F66
FUTURE_DATED_FAILED = 0x8F67
IMAGE_VERIFIED = 0x8F72
IMAGE_NOT_VERIFIED = 0x8F1C
TRANSFER_SUCCESS = 0x8F8A
TRANSFER_FAILURE = 0x8F89
PPMID_ACTIVATION = 0x8F8B

# Codes that a device writes into its security or event log (gbcs.md 3.7, supplement 1.2 and 7).
VERIFICATION_FAILED_AT_POWER_ON = 0x8F1B
FIRMWARE_CHANGED = 0x8F43
INTEGRITY_CHECK_FAILED = 0x8F1E  # or format
LACKS_AUTHORITY = 0x8F30
TRUSTED_SOURCE_FAILURE = 0x8F3D
UNAUTHORISED_ACCESS = 0x8F3E
AUTHENTICATION_FAILURE = 0x8F53
OUT_OF_ORDER = 0x8F60  # or malformed, in unusual numbers
CLOCK_NOT_ADJUSTED = 0x8F0C
EVENT_LOG_CLEARED = 0x8F52
DEVICE_LOG_CHANGED = 0x8F12
HAN_COMMAND_DONE = 0x8154  # immediate
HAN_COMMAND_FAILED = 0x8155

# CCS08 response codes
FILE_TRANSFER_SUCCESS = 0
FIRMWARE_IMAGE_DISCARDED = 1
HARDWARE_VERSION_MISMATCH = 2
FILE_TRANSFER_FAILURE = 3


COUNTER_MAX = 2**63 - 1  # of the counter that a payload repeats (gbcs.md 3.1)
CLOCK_STATUS_UNSPECIFIED = 0xFF

_EPOCH = datetime.datetime(2000, 1, 1)
_GBZ_PROFILE = b"\x01\x09"
_HASH = b"\x09\x20"  # octet string of 32
_DATE_TIME = b"\x09\x0c"  # octet string of 12
_WHAT_DATE_TIME = "DLMS date-time"


@dataclass(frozen=True, slots=True)
class ActivateFirmware:
    """CS06 command: run the image with this hash, at once, at a time, or no longer."""

    manufacturer_image_hash: bytes  # SHA-256, 32 octets
    originator_counter: int  # that of the grouping header again
    executes_at: int | None = None  # seconds since 2000-01-01T00:00:00Z; None: now, or cancelled
    cancels: bool = False  # a pending activation is given up


@dataclass(frozen=True, slots=True)
class ActivationOutcome:
    """CS06 response to an immediate command: 0 success, 1 no image, 2 other hash, 3 failure."""

    response_code: int
    firmware_version: int  # in force after the attempt


@dataclass(frozen=True, slots=True)
class ReadVersionResponse:
    """CS08 response; on failure (1) the version is zero."""

    firmware_version: int
    response_code: int


@dataclass(frozen=True, slots=True)
class ActivationAlert:
    """CS09: the version now in force and the result, 0 success or 1 failure."""

    alert_code: int
    executed_at: int  # seconds since 2000-01-01T00:00:00Z
    firmware_version: int
    result: int


@dataclass(frozen=True, slots=True)
class FirmwareTransferAlert:
    """CCS08: what became of the transfer to one device."""

    alert_code: int
    at: int  # seconds since 2000-01-01T00:00:00Z
    entity_id: EntityId
    firmware_version: int
    response_code: int


@dataclass(frozen=True, slots=True)
class ActivationOutcomeAlert:
    """0x00CA: what became of a future-dated CS06, with the counter of that command."""

    alert_code: int  # FUTURE_DATED_DONE or FUTURE_DATED_FAILED
    executed_at: int  # seconds since 2000-01-01T00:00:00Z
    originator_counter: int
    outcome: ActivationOutcome


@dataclass(frozen=True, slots=True)
class ReceiptAlert:
    """0x00CE, 0x00CF: whether the image that arrived verifies, with the hash as calculated."""

    alert_code: int  # IMAGE_VERIFIED or IMAGE_NOT_VERIFIED
    at: int  # seconds since 2000-01-01T00:00:00Z
    manufacturer_image_hash: bytes  # SHA-256, 32 octets
    clock_status: int = CLOCK_STATUS_UNSPECIFIED  # last octet of the DLMS date-time; not in GBZ


@dataclass(frozen=True, slots=True)
class GenericAlert:
    """0x1000, 0x1001: a code and a time, nothing else."""

    alert_code: int
    at: int  # seconds since 2000-01-01T00:00:00Z
    clock_status: int = CLOCK_STATUS_UNSPECIFIED  # last octet of the DLMS date-time; not in GBZ


def decode_cs06_command(payload: bytes) -> ActivateFirmware:
    """SEQUENCE { hash (32), originatorCounter, executionDateTime OPTIONAL }."""
    outer = der.Reader(payload, "CS06 command")
    reader = outer.sequence()
    outer.end()
    image_hash = reader.octet_string(32)
    counter = reader.unsigned(COUNTER_MAX)
    if reader.peek() is None:
        return ActivateFirmware(image_hash, counter)
    executes_at = reader.time()
    reader.end()
    return ActivateFirmware(image_hash, counter, executes_at, cancels=executes_at is None)


def encode_cs06_command(value: ActivateFirmware) -> bytes:
    """See ``decode_cs06_command``."""
    parts = [der.octet_string(value.manufacturer_image_hash), der.integer(value.originator_counter)]
    if value.cancels or value.executes_at is not None:
        parts.append(der.time(None if value.cancels else value.executes_at))
    return der.sequence(*parts)


def decode_cs06_response(payload: bytes) -> ActivationOutcome | None:
    """CHOICE { commandAccepted NULL, SEQUENCE { responseCode, firmwareVersion (4) } }.

    None: accepted for later, or cancelled.
    """
    outer = der.Reader(payload, "CS06 response")
    if outer.peek() == der.NULL:
        outer.null()
        outer.end()
        return None
    reader = outer.sequence()
    outer.end()
    outcome = ActivationOutcome(reader.unsigned(3), _version(reader))
    reader.end()
    return outcome


def encode_cs06_response(value: ActivationOutcome | None) -> bytes:
    """See ``decode_cs06_response``."""
    if value is None:
        return der.null()
    return der.sequence(der.integer(value.response_code), _encode_version(value.firmware_version))


def decode_cs06_alert(payload: bytes) -> ActivationOutcomeAlert:
    """SEQUENCE { alertCode, executionDateTime, originatorCounter, SEQUENCE as the response }."""
    outer = der.Reader(payload, "CS06 alert")
    reader = outer.sequence()
    outer.end()
    alert_code = reader.unsigned(0xFFFF)
    executed_at = _time(reader, "CS06 alert")
    counter = reader.unsigned(COUNTER_MAX)
    inner = reader.sequence()
    reader.end()
    outcome = ActivationOutcome(inner.unsigned(3), _version(inner))
    inner.end()
    return ActivationOutcomeAlert(alert_code, executed_at, counter, outcome)


def encode_cs06_alert(value: ActivationOutcomeAlert) -> bytes:
    """See ``decode_cs06_alert``."""
    return der.sequence(
        der.integer(value.alert_code),
        der.time(value.executed_at),
        der.integer(value.originator_counter),
        encode_cs06_response(value.outcome),
    )


def decode_cs08_command(payload: bytes) -> None:
    """CS08 command: NULL."""
    reader = der.Reader(payload, "CS08 command")
    reader.null()
    reader.end()


def encode_cs08_command() -> bytes:
    """CS08 command: NULL."""
    return der.null()


def decode_cs08_response(payload: bytes) -> ReadVersionResponse:
    """SEQUENCE { firmwareVersion OCTET STRING (4), responseCode INTEGER }."""
    outer = der.Reader(payload, "CS08 response")
    reader = outer.sequence()
    outer.end()
    response = ReadVersionResponse(_version(reader), reader.unsigned(1))
    reader.end()
    return response


def encode_cs08_response(value: ReadVersionResponse) -> bytes:
    """See ``decode_cs08_response``."""
    return der.sequence(_encode_version(value.firmware_version), der.integer(value.response_code))


def decode_cs09_alert(payload: bytes) -> ActivationAlert:
    """SEQUENCE { alertCode, executionDateTime, firmwareVersion (4), activateImageResult }."""
    outer = der.Reader(payload, "CS09 alert")
    reader = outer.sequence()
    outer.end()
    alert = ActivationAlert(
        reader.unsigned(0xFFFF), _time(reader, "CS09 alert"), _version(reader), reader.unsigned(1)
    )
    reader.end()
    return alert


def encode_cs09_alert(value: ActivationAlert) -> bytes:
    """See ``decode_cs09_alert``."""
    return der.sequence(
        der.integer(value.alert_code),
        der.time(value.executed_at),
        _encode_version(value.firmware_version),
        der.integer(value.result),
    )


def decode_ccs08_alert(payload: bytes) -> FirmwareTransferAlert:
    """SEQUENCE { alertCode, dateTime, entityId (8), firmwareVersion (4), responseCode }."""
    outer = der.Reader(payload, "CCS08 alert")
    reader = outer.sequence()
    outer.end()
    alert = FirmwareTransferAlert(
        reader.unsigned(0xFFFF),
        _time(reader, "CCS08 alert"),
        EntityId(reader.octet_string(8)),
        _version(reader),
        reader.unsigned(3),
    )
    reader.end()
    return alert


def encode_ccs08_alert(value: FirmwareTransferAlert) -> bytes:
    """See ``decode_ccs08_alert``."""
    return der.sequence(
        der.integer(value.alert_code),
        der.time(value.at),
        der.octet_string(value.entity_id.octets),
        _encode_version(value.firmware_version),
        der.integer(value.response_code),
    )


def decode_receipt_alert_gbz(payload: bytes) -> ReceiptAlert:
    """Profile 0109, one component, alert code u16, UTC u32, 09 20, hash. Source: gbcs.md 3.3."""
    cursor = Cursor(payload, "receipt alert")
    alert_code, at = _read_gbz(cursor, components=1)
    cursor.literal(_HASH, "hash")
    alert = ReceiptAlert(alert_code, at, cursor.take(32, "hash"))
    cursor.finish()
    return alert


def encode_receipt_alert_gbz(value: ReceiptAlert) -> bytes:
    """See ``decode_receipt_alert_gbz``."""
    return _gbz(value.alert_code, value.at, 1) + _HASH + value.manufacturer_image_hash


def decode_receipt_alert_dlms(payload: bytes, originator_counter: int) -> ReceiptAlert:
    """0F, long-invoke-id, 00, structure { alert code, date-time, hash }. Source: gbcs.md 3.3.

    The invoke id must be that of the alert's ``originator_counter``: 20 and its low 3 octets.
    """
    cursor = Cursor(payload, "receipt alert")
    alert_code, at, status = _read_dlms(cursor, originator_counter, members=3)
    cursor.literal(_HASH, "hash")
    alert = ReceiptAlert(alert_code, at, cursor.take(32, "hash"), status)
    cursor.finish()
    return alert


def encode_receipt_alert_dlms(value: ReceiptAlert, originator_counter: int) -> bytes:
    """See ``decode_receipt_alert_dlms``."""
    return (
        _dlms(value.alert_code, value.at, value.clock_status, originator_counter, 3)
        + _HASH
        + value.manufacturer_image_hash
    )


def decode_generic_alert_gbz(payload: bytes) -> GenericAlert:
    """Profile 0109, no components, alert code u16, UTC u32. Source: gbcs.md 4.11."""
    cursor = Cursor(payload, "generic alert")
    alert = GenericAlert(*_read_gbz(cursor, components=0))
    cursor.finish()
    return alert


def encode_generic_alert_gbz(value: GenericAlert) -> bytes:
    """See ``decode_generic_alert_gbz``."""
    return _gbz(value.alert_code, value.at, 0)


def decode_generic_alert_dlms(payload: bytes, originator_counter: int) -> GenericAlert:
    """0F, long-invoke-id, 00, structure { alert code, date-time }. Source: gbcs.md 4.11."""
    cursor = Cursor(payload, "generic alert")
    alert = GenericAlert(*_read_dlms(cursor, originator_counter, members=2))
    cursor.finish()
    return alert


def encode_generic_alert_dlms(value: GenericAlert, originator_counter: int) -> bytes:
    """See ``decode_generic_alert_dlms``."""
    return _dlms(value.alert_code, value.at, value.clock_status, originator_counter, 2)


def dlms_date_time(utc: int, clock_status: int = CLOCK_STATUS_UNSPECIFIED) -> bytes:
    """12 octets, as in the header of a CS06 response; ``utc`` in seconds since 2000-01-01.

    Year u16, month, day, weekday FF, hour, minute, second, hundredths 00, deviation 8000, status.
    Source: gbcs.md 4.3, 4.9.
    """
    moment = _EPOCH + datetime.timedelta(seconds=utc)
    return (
        moment.year.to_bytes(2, "big")
        + bytes((moment.month, moment.day, 0xFF, moment.hour, moment.minute, moment.second))
        + bytes((0, 0x80, 0, clock_status))
    )


def decode_dlms_date_time(octets: bytes) -> int:
    """Seconds since 2000-01-01 of the form that ``dlms_date_time`` makes, with any status.

    Raises:
        DecodeError: not 12 octets, no such moment, or a weekday, hundredths or a deviation.
    """
    if len(octets) != 12:
        raise DecodeError(_WHAT_DATE_TIME, 0, f"expected 12 octets, found {len(octets)}")
    if octets[4] != 0xFF or octets[8:11] != b"\x00\x80\x00":
        raise DecodeError(_WHAT_DATE_TIME, 4, "expected weekday FF, hundredths 00, deviation 8000")
    try:
        moment = datetime.datetime(
            int.from_bytes(octets[:2], "big"), octets[2], octets[3], octets[5], octets[6], octets[7]
        )
    except ValueError as error:
        raise DecodeError(_WHAT_DATE_TIME, 0, str(error)) from error
    return int((moment - _EPOCH).total_seconds())


def _read_gbz(cursor: Cursor, components: int) -> tuple[int, int]:
    """Profile and number of components; the alert code and the time behind them."""
    cursor.literal(_GBZ_PROFILE + bytes((components,)), "GBZ start")
    return cursor.unsigned(2, "alert code"), cursor.unsigned(4, "time")


def _read_dlms(cursor: Cursor, originator_counter: int, members: int) -> tuple[int, int, int]:
    """Up to the date-time; alert code, seconds since 2000-01-01, clock status."""
    cursor.literal(_dlms_start(originator_counter, members), "DLMS start")
    alert_code = cursor.unsigned(2, "alert code")
    cursor.literal(_DATE_TIME, "date-time")
    date_time = cursor.take(12, "date-time")
    return alert_code, decode_dlms_date_time(date_time), date_time[11]


def _gbz(alert_code: int, at: int, components: int) -> bytes:
    start = _GBZ_PROFILE + bytes((components,))
    return start + alert_code.to_bytes(2, "big") + at.to_bytes(4, "big")


def _dlms(alert_code: int, at: int, status: int, originator_counter: int, members: int) -> bytes:
    return b"".join(
        (
            _dlms_start(originator_counter, members),
            alert_code.to_bytes(2, "big"),
            _DATE_TIME,
            dlms_date_time(at, status),
        )
    )


def _dlms_start(originator_counter: int, members: int) -> bytes:
    """Data notification, long-invoke-id, no date-time, structure, and the tag of a u16."""
    invoke_id = b"\x20" + (originator_counter & 0xFFFFFF).to_bytes(3, "big")
    return b"\x0f" + invoke_id + b"\x00\x02" + bytes((members, 0x12))


def _version(reader: der.Reader) -> int:
    return int.from_bytes(reader.octet_string(4), "big")


def _encode_version(version: int) -> bytes:
    return der.octet_string(version.to_bytes(4, "big"))


def _time(reader: der.Reader, what: str) -> int:
    moment = reader.time()
    if moment is None:
        raise DecodeError(what, 0, "the cancelling time has no place here")
    return moment
