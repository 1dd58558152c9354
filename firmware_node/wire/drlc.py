"""The Demand Response and Load Control cluster 0x0701: every command, both directions.

Bodies after the ZCL header, little-endian. The ESME is the server, an HCALCS the client (gbcs.md
7.2). Source: ZigBee Smart Energy, Demand Response and Load Control; the layout is held against
Wireshark's reading of it, the lengths also agree with two public stacks. Of Report Event Status
that leaves one doubt: whether an absent signature is left out, as here, or padded. Both are read.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from enum import IntEnum

from firmware_node.errors import DecodeError

CLUSTER = 0x0701

TO_CLIENT_LOAD_CONTROL_EVENT = 0x00
TO_CLIENT_CANCEL_EVENT = 0x01
TO_CLIENT_CANCEL_ALL_EVENTS = 0x02
TO_SERVER_REPORT_EVENT_STATUS = 0x00
TO_SERVER_GET_SCHEDULED_EVENTS = 0x01

ATTRIBUTE_ENROLLMENT_GROUP = 0x0000
ATTRIBUTE_START_RANDOMISATION_MIN = 0x0001
ATTRIBUTE_DURATION_RANDOMISATION_MIN = 0x0002
ATTRIBUTE_DEVICE_CLASS = 0x0003

NOW = 0  # a start or effective time
DURATION_MIN_MAX = 1440  # minutes; one day
EVERY_GROUP = 0
RANDOMISE_START, RANDOMISE_END = 0x01, 0x02  # bits of the event control
CANCEL_AS_RANDOMISED = 0x01  # bit of the cancel control; 0: at once
UNUSED_OFFSET, UNUSED_SET_POINT, UNUSED_LOAD, UNUSED_DUTY = 0xFF, -0x8000, -0x80, 0xFF
SIGNATURE_SIZE = 42  # octets; ECDSA over sect163k1

_EVENT = struct.Struct("<IHBIHBBBhhbBB")
_CANCEL = struct.Struct("<IHBBI")
_REPORT = struct.Struct("<IBIBhhbBBB")


class EventStatus(IntEnum):
    """What a client reports of an event."""

    RECEIVED = 0x01
    STARTED = 0x02
    COMPLETED = 0x03
    OPTED_OUT = 0x04
    OPTED_IN = 0x05
    CANCELLED = 0x06
    SUPERSEDED = 0x07
    PARTLY_OPTED_OUT = 0x08
    PARTLY_OPTED_IN = 0x09
    COMPLETED_WITHOUT_USER = 0x0A
    REJECTED_INVALID_CANCEL = 0xF8
    REJECTED_CANCEL_TIME = 0xF9
    REJECTED_EXPIRED = 0xFB
    REJECTED_UNDEFINED = 0xFD
    REJECTED = 0xFE


@dataclass(frozen=True, slots=True)
class LoadControlEvent:
    """Load Control Event, server to client; values that are not used have their mark."""

    issuer_event_id: int
    device_class: int  # a bit for each class that is meant
    enrollment_group: int  # EVERY_GROUP: whatever group a device is in
    start_utc: int  # seconds since 2000-01-01T00:00:00Z, or NOW
    duration_min: int
    criticality: int = 1
    cooling_offset: int = UNUSED_OFFSET  # 0.1 K
    heating_offset: int = UNUSED_OFFSET
    cooling_set_point: int = UNUSED_SET_POINT  # 0.01 degrees Celsius
    heating_set_point: int = UNUSED_SET_POINT
    load_adjustment: int = UNUSED_LOAD  # percent, -100 to 100
    duty_cycle: int = UNUSED_DUTY  # percent of the time that a load may be on
    event_control: int = 0


@dataclass(frozen=True, slots=True)
class CancelEvent:
    """Cancel Load Control Event, server to client."""

    issuer_event_id: int
    device_class: int
    enrollment_group: int
    cancel_control: int = 0
    effective_utc: int = NOW


@dataclass(frozen=True, slots=True)
class ReportEventStatus:
    """Report Event Status, client to server; ``signature`` None: type 0, no signature."""

    issuer_event_id: int
    status: int
    at_utc: int
    criticality: int = 1
    cooling_set_point: int = UNUSED_SET_POINT
    heating_set_point: int = UNUSED_SET_POINT
    load_adjustment: int = UNUSED_LOAD
    duty_cycle: int = UNUSED_DUTY
    event_control: int = 0
    signature: bytes | None = None


@dataclass(frozen=True, slots=True)
class GetScheduledEvents:
    """Get Scheduled Events, client to server."""

    start_utc: int  # events that end after it; NOW: from now on
    count: int = 0  # at most so many; 0: all
    issuer_event_id: int | None = None  # those from this one on (ZSE 1.2); None: not sent


def decode_load_control_event(body: bytes) -> LoadControlEvent:
    """Event id u32, device class u16, group u8, start u32, duration u16, criticality u8, two
    offsets u8, two set points s16, load adjustment s8, duty cycle u8, event control u8: 23 octets.

    Raises:
        DecodeError: another length.
    """
    return LoadControlEvent(*_unpack("Load Control Event", _EVENT, body))


def encode_load_control_event(value: LoadControlEvent) -> bytes:
    """The body of a Load Control Event."""
    return _EVENT.pack(
        value.issuer_event_id,
        value.device_class,
        value.enrollment_group,
        value.start_utc,
        value.duration_min,
        value.criticality,
        value.cooling_offset,
        value.heating_offset,
        value.cooling_set_point,
        value.heating_set_point,
        value.load_adjustment,
        value.duty_cycle,
        value.event_control,
    )


def decode_cancel_event(body: bytes) -> CancelEvent:
    """Event id u32, device class u16, group u8, cancel control u8, effective time u32: 12 octets.

    Raises:
        DecodeError: another length.
    """
    return CancelEvent(*_unpack("Cancel Load Control Event", _CANCEL, body))


def encode_cancel_event(value: CancelEvent) -> bytes:
    """The body of a Cancel Load Control Event."""
    return _CANCEL.pack(
        value.issuer_event_id,
        value.device_class,
        value.enrollment_group,
        value.cancel_control,
        value.effective_utc,
    )


def decode_cancel_all(body: bytes) -> int:
    """Cancel All Load Control Events: the cancel control u8."""
    if len(body) != 1:
        raise DecodeError("Cancel All Load Control Events", len(body), "expected 1 octet")
    return body[0]


def encode_cancel_all(cancel_control: int) -> bytes:
    """The body of a Cancel All Load Control Events."""
    return bytes((cancel_control,))


def decode_report_event_status(body: bytes) -> ReportEventStatus:
    """Event id u32, status u8, time u32, criticality u8, two set points s16, load adjustment s8,
    duty cycle u8, event control u8, signature type u8, signature: 18 octets and 0 or 42.

    Type 0 is no signature, whether 42 octets of padding follow or nothing; type 1 is one.

    Raises:
        DecodeError: another length, or another signature type.
    """
    what = "Report Event Status"
    size = _REPORT.size
    if len(body) not in (size, size + SIGNATURE_SIZE):
        raise DecodeError(what, len(body), f"expected {size} or {size + SIGNATURE_SIZE} octets")
    *values, signature_type = _REPORT.unpack_from(body)
    signature = body[size:]
    if signature_type > 1 or (signature_type == 1 and not signature):
        raise DecodeError(what, size - 1, f"signature type {signature_type}")
    return replace(ReportEventStatus(*values), signature=signature if signature_type else None)


def encode_report_event_status(value: ReportEventStatus) -> bytes:
    """The body of a Report Event Status."""
    return _REPORT.pack(
        value.issuer_event_id,
        value.status,
        value.at_utc,
        value.criticality,
        value.cooling_set_point,
        value.heating_set_point,
        value.load_adjustment,
        value.duty_cycle,
        value.event_control,
        value.signature is not None,
    ) + (value.signature or b"")


def decode_get_scheduled_events(body: bytes) -> GetScheduledEvents:
    """Start u32, number of events u8, and in ZSE 1.2 an issuer event id u32: 5 or 9 octets.

    Raises:
        DecodeError: another length.
    """
    if len(body) == 5:
        return GetScheduledEvents(*struct.unpack("<IB", body))
    if len(body) == 9:
        return GetScheduledEvents(*struct.unpack("<IBI", body))
    raise DecodeError("Get Scheduled Events", len(body), "expected 5 or 9 octets")


def encode_get_scheduled_events(value: GetScheduledEvents) -> bytes:
    """The body of a Get Scheduled Events."""
    start = struct.pack("<IB", value.start_utc, value.count)
    if value.issuer_event_id is None:
        return start
    return start + value.issuer_event_id.to_bytes(4, "little")


def _unpack(what: str, form: struct.Struct, body: bytes) -> tuple[int, ...]:
    if len(body) != form.size:
        raise DecodeError(what, len(body), f"expected {form.size} octets, found {len(body)}")
    return form.unpack(body)
