"""Payloads by field: the families of the fact sheets, and that spoilt ones never raise else."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from malformed import flipped
from vectors import needs_vectors, reference_keys, reference_messages

from firmware_node.crypto import Keyring
from firmware_node.sealing import seal_content
from firmware_node.terms import EntityId
from firmware_node.tools.keys import build_keys
from firmware_node.tools.payload_fields import KEY_NOT_SHOWN, Context
from firmware_node.tools.payloads import payload_fields
from firmware_node.wire import der
from firmware_node.wire import firmware_messages as fm
from firmware_node.wire.gbcs import Cra, GroupingHeader, Message, decode_message
from firmware_node.wire.message_codes import USE_CASES

SUPPLIER = EntityId.parse("90b3d51f30010000")
GSME = EntityId.parse("00db1234567890a1")
KEYRING = Keyring(build_keys(b"test_payloads"))


def fields_of(message_code: int, cra: Cra, payload: str | bytes) -> dict[str, Any]:
    octets = bytes.fromhex(payload) if isinstance(payload, str) else payload
    parties = (SUPPLIER, GSME) if cra is Cra.COMMAND else (GSME, SUPPLIER)
    header = GroupingHeader(cra, 1000, *parties, message_code)
    message = Message(header, octets, b"", b"", b"", b"")
    return dict(payload_fields(message, Context(header, KEYRING)))


def reference_fields(name: str) -> dict[str, Any]:
    message = decode_message(reference_messages()[name])
    context = Context(message.header, Keyring(reference_keys()))
    return dict(payload_fields(message, context))


CELL = {"role": "supplier", "key_usage": "digitalSignature"}


@needs_vectors
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "CS06_11.3_8F66_FUTURE_DATED_SUCCESS_ALERT",
            {
                "alert_code": "8F66",
                "execution_time": "2030-01-15T09:00:00Z",
                "originator_counter": 1001,
                "response_code": 0,
                "firmware_version": "0123abcf",
            },
        ),
        (
            "FDRA-ZigBee_NA_8F72_ALERT",
            {
                "alert_code": "8F72",
                "time": "2015-01-01T00:00:00Z",
                "manufacturer_image_hash": "a1" * 32,
            },
        ),
        (
            "GCA-DLMS_NA_8F30_ALERT",
            {"invoke_id": 2000, "alert_code": "8F30", "time": "2015-01-01T00:00:00Z"},
        ),
        ("GNCA-ZigBee_NA_810E_ALERT", {"alert_code": "810E", "time": "2015-01-01T00:00:00Z"}),
        (
            "CS02aSignature_NA_ERROR_COMMAND",
            {
                "authorised_by": {"role": "transitional_cos", "key_usage": "digitalSignature"},
                "roles": ["network_operator", "wan_provider"],
            },
        ),
        (
            "CS02aSignature_NA_ERROR_RESPONSE",
            {
                "roles": [
                    {
                        "role": "network_operator",
                        "status": "success",
                        "counter": 0,
                        "cells": [
                            {
                                "key_usage": "digitalSignature",
                                "entity_id": "90-B3-D5-1F-30-02-00-00",
                                "key_id": "48cf97fa9f827fb5",
                            },
                            {
                                "key_usage": "keyAgreement",
                                "entity_id": "90-B3-D5-1F-30-02-00-00",
                                "key_id": "4bc9d38d1cb49f2a",
                            },
                        ],
                    },
                    {"role": "wan_provider", "status": "trust anchor not found"},
                ]
            },
        ),
        ("CS02bSupplierBySupplier_6.15.1_CANCELLATION_SUCCESS_RESPONSE", {"accepted": True}),
        (
            "CS02bTransCoSByTransCoS_NA_SUCCESS_RESPONSE",
            {
                "originator_counter": 6000,
                "mode": "transitional CoS by itself",
                "floors": [],
                "cells": [
                    {
                        "cell": {"role": "transitional_cos", "key_usage": "digitalSignature"},
                        "status": "success",
                        "existing_entity_id": "90-B3-D5-1F-30-00-00-04",
                        "existing_key_id": "4b38eb47561d93e8",
                        "new_entity_id": "90-B3-D5-1F-30-00-00-04",
                        "new_key_id": "4f3f10855696fef2",
                    }
                ],
            },
        ),
        ("CS02c_6.17_ERROR_COMMAND", {"key_usage": "keyAgreement"}),
        ("CS02c_6.17_ERROR_RESPONSE", {"response_code": 3}),
        ("CS02d_6.15.2_ERROR_RESPONSE", {"response_code": 3}),
        (
            "CS02e_6.24.2_SUCCESS_RESPONSE",
            {
                "certificate": {
                    "entity_id": "00-DB-12-34-56-78-90-A0",
                    "usage": "digitalSignature",
                    "serial": "30398236744d9da0e57f8d74ae041fcd",
                    "not_before": "2016-04-06T00:00:00Z",
                    "not_after": "9999-12-31T23:59:59Z",
                }
            },
        ),
        (
            "CS03A2Critical_8.7.1_SUCCESS_COMMAND",
            {
                "method": "A, responder",
                "entity_id": "00-DB-12-34-56-78-90-93",
                "device_type": "ESME",
            },
        ),
        ("CS03A2Critical_8.7.1_SUCCESS_RESPONSE", {"response_code": 0}),
        ("CS04ACCritical_8.8.1_SUCCESS_COMMAND", {"entity_id": "00-DB-12-34-56-78-90-99"}),
        ("CS07_8.9_SUCCESS_COMMAND", {}),
        (
            "CS07_8.9_SUCCESS_RESPONSE",
            {
                "response_code": 0,
                "devices": [
                    {"entity_id": "01-02-03-04-05-06-07-08", "device_type": "GPF"},
                    {"entity_id": "00-DB-12-34-56-78-90-99", "device_type": "GPF"},
                    {"entity_id": "00-DB-12-34-56-78-90-97", "device_type": "PPMID"},
                ],
            },
        ),
        (
            "CS10a_6.13_SUCCESS_COMMAND",
            {
                "components": [
                    {
                        "cluster": "Events",
                        "command": "get event log",
                        "sequence": 0,
                        "log": "general event log",
                        "all_fields": True,
                        "event": "all",
                        "from": "2014-12-31T00:00:00Z",
                        "to": "2030-01-01T00:00:00Z",
                        "events_max": 0,
                        "offset": 0,
                    }
                ]
            },
        ),
        (
            "CS11_3.3_SUCCESS_RESPONSE",
            {
                "components": [
                    {
                        "cluster": "Events",
                        "command": "clear event log response",
                        "sequence": 0,
                        "cleared": ["general event log"],
                    }
                ]
            },
        ),
        (
            "GCS38_11.2_SUCCESS_COMMAND",
            {
                "components": [
                    {
                        "cluster": "Metering",
                        "command": "read attributes",
                        "sequence": 0,
                        "attributes": ["0206"],
                    }
                ]
            },
        ),
        (
            "GCS38_11.2_SUCCESS_RESPONSE",
            {
                "components": [
                    {
                        "cluster": "Metering",
                        "command": "read attributes response",
                        "sequence": 0,
                        "attributes": [{"attribute": "0206", "value": "0123abcd"}],
                    }
                ]
            },
        ),
        (
            "PCS01_NA_SUCCESS_COMMAND",
            {
                "components": [
                    {
                        "cluster": "Prepayment",
                        "command": "consumer top up",
                        "sequence": 0,
                        "body": "02143733393431363536383830393530383034343835",
                    }
                ]
            },
        ),
        (
            "GCS02_1.6_8F66_FUTURE_DATED_SUCCESS_ALERT_CHANGE_PAYMENT_MODE",
            {
                "alert_code": "8F66",
                "time": "2030-01-15T09:00:00Z",
                "about": {
                    "message_code": "006C",
                    "originator_counter": 1001,
                    "cluster": "Prepayment",
                    "command": "change payment mode",
                },
            },
        ),
        (
            "ECS02_1.6_8F66_FUTURE_DATED_TWIN_SUCCESS_ALERT_PAYMENT_MODE",
            {
                "invoke_id": 2002,
                "alert_code": "8F66",
                "time": "2030-01-15T09:00:00Z",
                "about": {
                    "message_code": "001A",
                    "originator_counter": 1005,
                    "class": 111,
                    "instance": "0.1.19.0.0.255",
                    "member": 13,
                },
            },
        ),
        (
            "ECS100_NA_8F85_SUPPLEMENTARY_REMOTE_PARTY_ALERT",
            {
                "invoke_id": 2001,
                "alert_code": "8F85",
                "time": "2015-01-01T00:00:00Z",
                "about": {"message_code": "0012", "originator_counter": 100000},
            },
        ),
        (
            "MIIWA-ZigBee_NA_81A0_ALERT",
            {"alert_code": "81A0", "time": "2015-01-01T00:00:00Z", "about": "0005"},
        ),
        (
            "CCS02_8.11_ERROR_RESPONSE",
            {"invoke_id": 1303, "accesses": [{"access": "action", "result": "hardware fault"}]},
        ),
        (
            "ECS16_3.4_SUCCESS_RESPONSE",
            {"invoke_id": 1001, "accesses": [{"access": "set", "result": "success"}] * 2},
        ),
        (
            "GCS28_6.11_ERROR_RESPONSE",
            {"time": "2015-01-01T00:00:00Z", "status": "unreliable"},
        ),
    ],
)
def test_reference_payload_is_shown_by_field(name: str, expected: dict[str, Any]) -> None:
    assert reference_fields(name) == expected


@needs_vectors
def test_reference_credential_change_names_cells_floors_path_and_time() -> None:
    fields = reference_fields("CS02bSupplierBySupplier_6.15.1_FUTURE_DATED_ERROR_COMMAND")
    assert fields["mode"] == "supplier by supplier"
    assert fields["authorised_by"] == CELL
    assert fields["originator_counter"] == 1004
    assert fields["special_floors"] == [{"for": "prepayment top-up", "counter_floor": 0}]
    assert [entry["cell"] for entry in fields["replacements"]] == [
        CELL,
        CELL | {"key_usage": "keyAgreement"},
        CELL | {"key_usage": "keyAgreement", "cell_usage": "prepayment top-up"},
    ]
    assert fields["replacements"][0]["certificate"]["not_after"] == "2026-01-09T23:59:59Z"
    assert [certificate["role"] for certificate in fields["path"]] == ["issuing_authority"]
    assert fields["execution_time"] == "2030-01-15T00:00:00Z"


@needs_vectors
def test_reference_event_log_has_every_event_by_name() -> None:
    (component,) = reference_fields("CS10a_6.13_SUCCESS_RESPONSE")["components"]
    assert component["total"] == 32
    assert len(component["events"]) == 32
    assert component["events"][2] == {
        "log": "general event log",
        "event": "8154 immediate HAN command done",
        "time": "2014-12-31T01:11:45Z",
        "data": "009b",
    }


@needs_vectors
@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "GCS13a_4.1.1_SUCCESS_UNRELIABLE_RESPONSE",
            {
                "attributes": [
                    {"attribute": "0302", "value": 1000},
                    {"attribute": "0301", "value": 1},
                    {"attribute": "0300", "value": 1},
                    {"attribute": "0000", "value": 12345},
                ]
            },
        ),
        (
            "GCS16b_4.14_URP_SUCCESS_RESPONSE",
            {
                "body": "000000001026351c1f0001010000000082000000"
                "79000000df000000ca0000003200000042000000"
            },
        ),
    ],
)
def test_encrypted_reference_content_is_shown_with_the_users_key_and_not_without(
    name: str, content: dict[str, Any]
) -> None:
    component = reference_fields(name)["components"][0]
    assert component["content"] == content
    message = decode_message(reference_messages()[name])
    closed = payload_fields(message, Context(message.header, Keyring({})))
    assert '"content": "no-key"' in json.dumps(closed)


@needs_vectors
def test_encrypted_reference_content_of_a_dlms_device_is_shown_with_the_users_key() -> None:
    fields = reference_fields("ECS19_4.3_SUCCESS_RESPONSE")
    registers = [250000, 95000, 187000, 203000, 243000, 46000]
    assert str(registers)[1:-1] in json.dumps(fields)


def test_encrypted_content_with_a_wrong_tag_says_so() -> None:
    header = GroupingHeader(Cra.RESPONSE, 1000, GSME, SUPPLIER, 0x0074)
    sealed = seal_content(bytes.fromhex("0000 00 20 2a"), header, KEYRING)
    component = b"\0\0\x18\0\1" + len(sealed).to_bytes(2, "big") + sealed
    start = b"\1\x09\1\3\7\2" + len(component).to_bytes(2, "big")
    good = fields_of(0x0074, Cra.RESPONSE, start + component)
    assert good["components"][0]["content"] == {"attributes": [{"attribute": "0000", "value": 42}]}
    spoilt = component[:-1] + bytes((component[-1] ^ 1,))
    (bad,) = fields_of(0x0074, Cra.RESPONSE, start + spoilt)["components"]
    assert bad["content"] == "invalid"
    assert "tag is wrong" in bad["error"]


def test_key_that_a_command_hands_over_is_not_shown_even_when_its_payload_is_broken() -> None:
    key = "a1" * 16
    payload = f"d920000001 00 01 03 0068 00001e0300ff 01 01 0202 0908{'11' * 8} 0910{key}"
    fields = fields_of(0x0001, Cra.COMMAND, payload)
    assert fields["accesses"][0]["data"] == ["11" * 8, KEY_NOT_SHOWN]
    broken = fields_of(0x0001, Cra.COMMAND, payload + "00")
    assert broken == {"raw": KEY_NOT_SHOWN, "error": broken["error"]}
    assert key in str(fields_of(0x0014, Cra.COMMAND, payload))


def test_symmetric_key_of_a_contingency_change_is_not_shown() -> None:
    key = b"\xa1" * 16
    cell = der.integer(1) + der.value(der.BIT_STRING, b"\x07\x80")
    control = der.sequence(der.integer(9), der.value(0x80, key), der.value(0xA2, cell))
    payload = der.sequence(control, der.sequence(), der.sequence())
    fields = fields_of(0x0109, Cra.COMMAND, payload)
    assert fields["mode"] == "any by contingency"
    assert fields["symmetric_key"] == KEY_NOT_SHOWN
    for spoilt in (payload[:-1], payload + b"\0"):
        shown = fields_of(0x0109, Cra.COMMAND, spoilt)
        assert shown.keys() == {"raw", "error"}
        assert key.hex() not in str(shown)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("00", None),
        ("0301", True),
        ("ff", "any"),
        ("04 0b a5e0", "10100101111"),
        ("05 fffffffe", -2),
        ("06 fffffffe", 2**32 - 2),
        ("0f 80", -128),
        ("10 8000", -32768),
        ("11 ff", 255),
        ("12 ffff", 65535),
        ("14 ffffffffffffffff", -1),
        ("15 ffffffffffffffff", 2**64 - 1),
        ("16 02", 2),
        ("0a 03 616263", "abc"),
        ("0c 03 e282ac", "€"),
        ("09 03 616263", "616263"),
        ("09 0c 07df0101ff000000008000ff", "2015-01-01T00:00:00Z"),
        ("19 07df0101ff000000008000ff", "2015-01-01T00:00:00Z"),
        ("1a 07df0101ff", "07df0101ff"),
        ("17 3fc00000", 1.5),
        ("18 3ff8000000000000", 1.5),
        ("17 7fc00000", "nan"),
        ("01 02 1101 1102", [1, 2]),
        ("02 02 1101 0102 1102 1103", [1, [2, 3]]),
        ("13 11 03 010203", [1, 2, 3]),
        ("13 02 02 11 12 06 01 0002 03 0004", [[1, 2], [3, 4]]),
        ("13 01 0002 11 04 01020304", [[1, 2], [3, 4]]),
    ],
)
def test_dlms_data_of_every_type_is_read(data: str, expected: object) -> None:
    response = f"da200003e8 00 00 01 {data} 01 0100"
    access: dict[str, Any] = {"access": "get", "result": "success"}
    if expected is not None:
        access["data"] = expected
    assert fields_of(0x0048, Cra.RESPONSE, response)["accesses"] == [access]


@pytest.mark.parametrize(
    "data",
    [
        "07",  # no such type
        "0102 1101",  # an element lacks
        "09 81 10 00",  # length not minimal, and cut
        "01 01" * 40 + "00",  # too deep
        "13 00 02 0000",  # elements without octets
        "13 01 ffff 01 ffff 02 00 01 00",  # four thousand million elements
        "02 01 13" * 20 + "00",
    ],
)
def test_dlms_data_that_is_cut_unknown_or_endless_is_broken(data: str) -> None:
    fields = fields_of(0x0048, Cra.RESPONSE, f"da200003e8 00 00 01 {data} 01 0100")
    assert fields.keys() == {"raw", "error"}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("10 01", True),
        ("20 ff", 255),
        ("28 ff", -1),
        ("22 010000", 1),
        ("2b ffffffff", -1),
        ("30 02", 2),
        ("42 03 616263", "abc"),
        ("41 03 616263", "616263"),
        ("41 ff", None),
        ("43 0300 616263", "616263"),
        ("e2 804a371c", "2015-01-01T00:00:00Z"),
        ("e2 00000000", "now"),
        ("e2 ffffffff", "never"),
        ("f0 a190785634 12db00", "00-DB-12-34-56-78-90-A1"),
    ],
)
def test_zcl_value_of_every_type_is_read(value: str, expected: object) -> None:
    frame = bytes.fromhex(f"080001 0600 00 {value}")
    payload = b"\1\x09\1\1\7\2" + len(frame).to_bytes(2, "big") + frame
    (component,) = fields_of(0x0074, Cra.RESPONSE, payload)["components"]
    assert component["attributes"] == [{"attribute": "0006", "value": expected}]


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        ("000002 0000 20 2a", {"attributes": [{"attribute": "0000", "value": 42}]}),
        ("080004 00", {"attributes": [{"status": "success"}]}),
        (
            "080004 86 0100",
            {"attributes": [{"status": "unsupported_attribute", "attribute": "0001"}]},
        ),
        ("08000b 07 c1", {"to_command": "07", "status": "C1"}),
        ("0c1d12 00 0b 07 8b", {"manufacturer_code": "121D", "to_command": "07"}),
        ("090055", {}),
        ("090055 aabb", {"body": "aabb"}),
    ],
)
def test_zcl_frame_of_every_general_command_is_read(frame: str, expected: dict[str, Any]) -> None:
    octets = bytes.fromhex(frame)
    payload = b"\1\x09\1\1\7\2" + len(octets).to_bytes(2, "big") + octets
    (component,) = fields_of(0x0074, Cra.RESPONSE, payload)["components"]
    assert component.items() >= {"cluster": "Metering", **expected}.items()


def test_receipt_alert_of_a_dlms_device_is_shown_like_that_of_a_zigbee_one() -> None:
    alert = fm.ReceiptAlert(fm.IMAGE_NOT_VERIFIED, 0, bytes(32))
    expected = {
        "alert_code": "8F1C",
        "time": "2000-01-01T00:00:00Z",
        "manufacturer_image_hash": "00" * 32,
    }
    assert fields_of(0x00CE, Cra.ALERT, fm.encode_receipt_alert_dlms(alert, 1000)) == expected
    assert fields_of(0x00CF, Cra.ALERT, fm.encode_receipt_alert_gbz(alert)) == expected


@pytest.mark.parametrize(
    "payload",
    [
        "0109 01",  # no component
        "0109 01 00 0702 0003 080001",  # the last is not marked so
        "0109 02 01 0702 0003 080001 01 0702 0003 080001",  # one before it is
        "0109 01 41 0702 0003 080001",  # unknown control
        "0109 01 01 0702 0004 080001",  # cut
        "0109 01 01 0702 0003 080001 00",  # trailing
        "0109 01 01 0702 0002 0800",  # no ZCL header
        "0109 01 01 0702 0007 080001 0000 00 48",  # unknown ZCL type
        "0109 01 03 0702 0007 0000 180001 0005",  # content cut
    ],
)
def test_gbz_payload_with_a_wrong_length_or_mark_is_broken(payload: str) -> None:
    fields = fields_of(0x0074, Cra.RESPONSE, payload)
    assert fields.keys() == {"raw", "error"}


@needs_vectors
def test_spoilt_reference_payloads_give_fields_or_say_what_is_broken() -> None:
    keyring = Keyring(reference_keys())
    families = {
        message.payload[:2] + bytes((message.header.message_code >> 4 & 0xFF,)): message
        for message in map(decode_message, reference_messages().values())
        if len(message.payload) < 150
    }
    assert len(families) > 40
    for message in families.values():
        context = Context(message.header, keyring)
        for size in range(len(message.payload)):
            cut = replace(message, payload=message.payload[:size])
            json.dumps(payload_fields(cut, context), allow_nan=False)
    for message in list(families.values())[::4]:
        context = Context(message.header, keyring)
        for spoilt in flipped(message.payload):
            json.dumps(payload_fields(replace(message, payload=spoilt), context), allow_nan=False)


@given(
    st.sampled_from(sorted(USE_CASES)),
    st.sampled_from(Cra),
    st.sampled_from(
        [b"", b"\x01\x09", b"\xd9\x20\0\0\1\0", b"\xda\x20\0\0\1\0\0", b"\x0f", b"\x30"]
    ),
    st.binary(max_size=100),
)
def test_any_payload_of_any_use_case_gives_fields(
    message_code: int, cra: Cra, start: bytes, data: bytes
) -> None:
    json.dumps(fields_of(message_code, cra, start + data), allow_nan=False)
