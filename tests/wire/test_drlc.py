"""The DRLC cluster: hand-made vectors from its layout, every length, and Wireshark's reading."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_node.errors import DecodeError
from firmware_node.wire import drlc
from firmware_node.wire.drlc import (
    CancelEvent,
    GetScheduledEvents,
    LoadControlEvent,
    ReportEventStatus,
)

# Fields set apart by spaces, in the order of the layout.
EVENT = (
    LoadControlEvent(
        0x12345678, 0x0080, 0x05, 0x2FAF0800, 90, 3, 0x0A, 0x14, 2150, -450, -10, 50, 3
    ),
    "78563412 8000 05 0008af2f 5a00 03 0a 14 6608 3efe f6 32 03",
)
PLAIN_EVENT = (
    LoadControlEvent(1, 0x0FFF, drlc.EVERY_GROUP, drlc.NOW, 1440),
    "01000000 ff0f 00 00000000 a005 01 ff ff 0080 0080 80 ff 00",
)
CANCEL = (CancelEvent(0xFFFFFFFF, 0x0001, 0xFE, 1, 0x2FAF0801), "ffffffff 0100 fe 01 0108af2f")
REPORT = (
    ReportEventStatus(0x12345678, 2, 0x2FAF0800, duty_cycle=100, event_control=1),
    "78563412 02 0008af2f 01 0080 0080 80 64 01 00",
)
SIGNED_REPORT = (
    ReportEventStatus(2, 0xFE, 5, 9, 2150, -450, -100, 0, 0, bytes(range(42))),
    "02000000 fe 05000000 09 6608 3efe 9c 00 00 01" + bytes(range(42)).hex(),
)
GET = (GetScheduledEvents(0x2FAF0800, 4), "0008af2f 04")
GET_FROM = (GetScheduledEvents(0, 0, 0xDEADBEEF), "00000000 00 efbeadde")

Codec = tuple[Callable[[bytes], Any], Callable[[Any], bytes]]
CODECS: dict[type, Codec] = {
    LoadControlEvent: (drlc.decode_load_control_event, drlc.encode_load_control_event),
    CancelEvent: (drlc.decode_cancel_event, drlc.encode_cancel_event),
    ReportEventStatus: (drlc.decode_report_event_status, drlc.encode_report_event_status),
    GetScheduledEvents: (drlc.decode_get_scheduled_events, drlc.encode_get_scheduled_events),
}
VECTORS = [EVENT, PLAIN_EVENT, CANCEL, REPORT, SIGNED_REPORT, GET, GET_FROM]

needs_tshark = pytest.mark.skipif(
    shutil.which("tshark") is None and not os.environ.get("CI"),
    reason="tshark is not here (Debian package tshark)",
)


@pytest.mark.parametrize(("value", "octets"), VECTORS)
def test_each_command_has_its_octets_and_back(value: Any, octets: str) -> None:
    decode, encode = CODECS[type(value)]
    assert encode(value).hex() == octets.replace(" ", "")
    assert decode(bytes.fromhex(octets)) == value


@pytest.mark.parametrize(("value", "octets"), VECTORS)
def test_every_other_length_is_refused(value: Any, octets: str) -> None:
    decode, encode = CODECS[type(value)]
    whole = encode(value)
    lengths = {len(encode(other)) for other, _ in VECTORS if type(other) is type(value)}
    for size in set(range(len(whole) + 50)) - lengths:
        with pytest.raises(DecodeError):
            decode((whole + bytes(50))[:size])


def test_cancel_all_is_one_octet() -> None:
    assert drlc.decode_cancel_all(drlc.encode_cancel_all(1)) == 1
    for body in (b"", b"\0\0"):
        with pytest.raises(DecodeError):
            drlc.decode_cancel_all(body)


def test_a_padded_report_without_a_signature_is_read_as_one_without() -> None:
    value, octets = REPORT
    assert drlc.decode_report_event_status(bytes.fromhex(octets) + b"\xff" * 42) == value


@pytest.mark.parametrize("signature_type", [1, 2, 255])
def test_a_signature_type_without_its_signature_is_refused(signature_type: int) -> None:
    body = bytes.fromhex(REPORT[1])[:-1] + bytes((signature_type,))
    with pytest.raises(DecodeError, match="signature type"):
        drlc.decode_report_event_status(body)


@given(st.binary(min_size=23, max_size=23))
def test_every_event_of_the_right_length_goes_there_and_back(body: bytes) -> None:
    assert drlc.encode_load_control_event(drlc.decode_load_control_event(body)) == body


@given(st.binary(max_size=70), st.sampled_from(sorted(CODECS, key=str)))
def test_any_octets_are_a_value_or_a_decode_error(body: bytes, kind: type) -> None:
    try:
        value = CODECS[kind][0](body)
    except DecodeError:
        return
    assert CODECS[kind][0](CODECS[kind][1](value)) == value


# --- Wireshark ------------------------------------------------------------------------------------


def frame_of(command: int, to_client: bool, body: bytes) -> bytes:
    """A ZCL frame in APS, NWK and IEEE 802.15.4 headers, none of them secured."""
    mac = struct.pack("<HBHHH", 0x8841, 1, 0x1AAD, 0x0001, 0x0000)
    network = struct.pack("<HHHBB", 0x0008, 0x0001, 0x0000, 30, 1)
    aps = struct.pack("<BBHHBB", 0x00, 1, drlc.CLUSTER, 0x0109, 1, 1)
    control = 0x01 | to_client << 3 | 0x10
    return mac + network + aps + bytes((control, 1, command)) + body


def dissected(tmp_path: Path, command: int, to_client: bool, body: bytes) -> dict[str, str]:
    """The octets of each field, as Wireshark cuts the body, by the field's short name."""
    frame = frame_of(command, to_client, body)
    capture = tmp_path / "drlc.pcap"
    head = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 230)  # 230: without checksum
    capture.write_bytes(head + struct.pack("<IIII", 0, 0, len(frame), len(frame)) + frame)
    done = subprocess.run(
        ["tshark", "-r", str(capture), "-T", "jsonraw"], capture_output=True, timeout=60, check=True
    )
    (packet,) = json.loads(done.stdout)
    found: dict[str, str] = {}

    def collect(tree: dict[str, Any]) -> None:
        for name, value in tree.items():
            if isinstance(value, dict):
                collect(value)
            elif name.startswith("zbee_zcl_se.drlc.") and isinstance(value[0], str):
                found[name.removeprefix("zbee_zcl_se.drlc.").removesuffix("_raw")] = value[0]

    collect(packet["_source"]["layers"])
    return found


EVENT_FIELDS = (
    *("issuer_id", "device_class", "utility_enrollment_group", "start_time"),
    *("duration_in_minutes", "criticality_level", "cooling_temperature_offset"),
    *("heating_temperature_offset", "cooling_temperature_set_point"),
    *("heating_temperature_set_point", "average_load_adjustment_percentage", "duty_cycle"),
    "event_control",
)
# Wireshark 4.0 shows an effective time under a bit mask of one bit, so that one is not compared.
CANCEL_FIELDS = ("issuer_id", "device_class", "utility_enrollment_group", "cancel_control")
REPORT_FIELDS = tuple(
    f"report_event.{name}"
    for name in (
        *("issuer_id", "event_status", "event_status_time", "criticality_level_applied"),
        *("cooling_temperature_set_point_applied", "heating_temperature_set_point_applied"),
        *("average_load_adjustment_percentage_applied", "duty_cycle_applied", "event_control"),
        *("signature_type", "signature"),
    )
)


@needs_tshark
@pytest.mark.parametrize(
    ("vector", "command", "to_client", "fields"),
    [
        (EVENT, drlc.TO_CLIENT_LOAD_CONTROL_EVENT, True, EVENT_FIELDS),
        (CANCEL, drlc.TO_CLIENT_CANCEL_EVENT, True, CANCEL_FIELDS),
        (SIGNED_REPORT, drlc.TO_SERVER_REPORT_EVENT_STATUS, False, REPORT_FIELDS),
    ],
    ids=["event", "cancel", "report"],
)
def test_wireshark_cuts_a_command_at_the_same_places(
    tmp_path: Path,
    vector: tuple[Any, str],
    command: int,
    to_client: bool,
    fields: tuple[str, ...],
) -> None:
    octets = vector[1]
    found = dissected(tmp_path, command, to_client, bytes.fromhex(octets))
    ours = octets.split()
    if command == drlc.TO_SERVER_REPORT_EVENT_STATUS and not to_client:
        ours[-1:] = [ours[-1][:2], ours[-1][2:]]  # type and signature
    assert {name: found[name] for name in fields} == dict(zip(fields, ours, strict=False))


@needs_tshark
def test_wireshark_reads_the_same_question(tmp_path: Path) -> None:
    body = bytes.fromhex(GET_FROM[1])
    found = dissected(tmp_path, drlc.TO_SERVER_GET_SCHEDULED_EVENTS, False, body)
    assert found["get_scheduled_events.start_time"] == "00000000"
    assert found["get_scheduled_events.numbers_of_events"] == "00"
    assert found["get_scheduled_events.issuer_event_id"] == "efbeadde"
