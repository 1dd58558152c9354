"""Payloads of the firmware use cases: CS06, CS08, CS09, CCS08. All DER. Source: gbcs.md 3."""

from __future__ import annotations

from dataclasses import dataclass

from firmware_node.errors import DecodeError
from firmware_node.terms import EntityId
from firmware_node.wire import der

CS06_ACTIVATE_FIRMWARE = 0x0012
CCS08_FIRMWARE_TRANSFER = 0x0128
CS08_READ_VERSION = 0x0129
CS09_ACTIVATION_ALERT = 0x012B

TRANSFER_SUCCESS = 0x8F8A
TRANSFER_FAILURE = 0x8F89
PPMID_ACTIVATION = 0x8F8B

# CCS08 response codes
FILE_TRANSFER_SUCCESS = 0
FIRMWARE_IMAGE_DISCARDED = 1
HARDWARE_VERSION_MISMATCH = 2
FILE_TRANSFER_FAILURE = 3


COUNTER_MAX = 2**63 - 1  # of the counter that a payload repeats (gbcs.md 3.1)


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


def _version(reader: der.Reader) -> int:
    return int.from_bytes(reader.octet_string(4), "big")


def _encode_version(version: int) -> bytes:
    return der.octet_string(version.to_bytes(4, "big"))


def _time(reader: der.Reader, what: str) -> int:
    moment = reader.time()
    if moment is None:
        raise DecodeError(what, 0, "the cancelling time has no place here")
    return moment
