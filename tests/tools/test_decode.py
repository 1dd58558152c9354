"""``gbcs decode``: one line a message, whatever the file holds."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vectors import needs_vectors, reference_keys, reference_messages

from firmware_node.crypto import Keyring
from firmware_node.sealing import seal_maced, seal_signed
from firmware_node.terms import EntityId
from firmware_node.tools.decode import Line, decode_file
from firmware_node.tools.keys import build_keys
from firmware_node.wire.gbcs import Cra, GroupingHeader

IMAGE_HASH = "aa758690730934ff0685aa758690730934ff0685657788990011223344556677"
KEYRING = Keyring(build_keys(b"test_decode"))
BROKER = EntityId.parse("90b3d51f30000002")
PPMID = EntityId.parse("00db1234567890a4")
READ_VERSION = GroupingHeader(Cra.COMMAND, 1300, BROKER, PPMID, 0x0129)


def only(lines: list[Line]) -> dict[str, Any]:
    """The line of a file with one message."""
    assert len(lines) == 1
    return dict(lines[0])


def decode_reference(name: str) -> dict[str, Any]:
    return only(decode_file(name, reference_messages()[name], Keyring(reference_keys())))


@needs_vectors
def test_line_of_the_immediate_cs06_command_is_that_of_the_contract() -> None:
    assert decode_reference("CS06_11.3_IMMEDIATE_SUCCESS_COMMAND") == {
        "file": "CS06_11.3_IMMEDIATE_SUCCESS_COMMAND",
        "use_case": "CS06",
        "message_code": "0012",
        "kind": "command",
        "originator": "90-B3-D5-1F-30-01-00-00",
        "recipient": "00-DB-12-34-56-78-90-A0",
        "counter": 1000,
        "signature": "valid",
        "mac": "valid",
        "payload": {"manufacturer_image_hash": IMAGE_HASH, "originator_counter": 1000},
    }


@needs_vectors
@pytest.mark.parametrize(
    ("name", "payload"),
    [
        (
            "CS06_11.3_FUTURE_DATED_SUCCESS_COMMAND",
            {
                "manufacturer_image_hash": IMAGE_HASH,
                "originator_counter": 1001,
                "execution_time": "2030-01-15T09:00:00Z",
            },
        ),
        (
            "CS06_11.3_CANCELLATION_SUCCESS_PRECOMMAND",
            {"manufacturer_image_hash": IMAGE_HASH, "originator_counter": 1002, "cancels": True},
        ),
        (
            "CS06_11.3_IMMEDIATE_SUCCESS_RESPONSE",
            {"response_code": 0, "firmware_version": "0123abce"},
        ),
        ("CS06_11.3_CANCELLATION_SUCCESS_RESPONSE", {"accepted": True}),
        ("CS08_11.2_SUCCESS_COMMAND", {}),
        ("CS08_11.2_SUCCESS_RESPONSE", {"firmware_version": "0123abcd", "response_code": 0}),
        (
            "CS09_NA_8F8B_ALERT",
            {
                "alert_code": "8F8B",
                "execution_time": "2015-01-01T00:00:00Z",
                "firmware_version": "1234abcd",
                "result": 0,
            },
        ),
        (
            "CCS08_NA_NA_ALERT",
            {
                "alert_code": "8F8A",
                "time": "2015-01-01T00:00:00Z",
                "entity_id": "00-DB-12-34-56-78-90-A4",
                "firmware_version": "0123abcd",
                "response_code": 0,
            },
        ),
    ],
)
def test_payload_of_a_firmware_use_case_is_shown_by_field(
    name: str, payload: dict[str, Any]
) -> None:
    assert decode_reference(name)["payload"] == payload


@needs_vectors
def test_supplementary_party_is_shown_where_there_is_one() -> None:
    line = decode_reference("CS08_11.2_SUCCESS_COMMAND")
    assert line["supplementary_party"] == "90-B3-D5-1F-30-01-00-00"
    assert line["supplementary_counter"] == 1000


@needs_vectors
def test_every_reference_message_gives_a_json_line_without_error() -> None:
    keyring = Keyring(reference_keys())
    for name, octets in reference_messages().items():
        line = only(decode_file(name, octets, keyring))
        assert "error" not in line, name
        assert "error" not in line["payload"], name
        assert line["use_case"] != "unknown", name
        assert json.loads(json.dumps(line)) == line


def test_hexadecimal_and_binary_files_give_the_same_line() -> None:
    octets = seal_maced(READ_VERSION, b"\5\0", KEYRING, BROKER, PPMID)
    expected = only(decode_file("m", octets, KEYRING))
    assert expected["mac"] == "valid"
    digits = octets.hex()
    assert only(decode_file("m", digits.encode(), KEYRING)) == expected
    assert only(decode_file("m", digits.upper().encode() + b"\r\n", KEYRING)) == expected
    split = "\n".join(digits[at : at + 32] for at in range(0, len(digits), 32))
    assert only(decode_file("m", split.encode(), KEYRING)) == expected


def test_payload_of_another_use_case_is_raw() -> None:
    header = GroupingHeader(Cra.ALERT, 1, PPMID, BROKER, 0xFFFF)
    line = only(decode_file("m", seal_signed(header, b"abc", KEYRING.signing_key(PPMID)), KEYRING))
    assert line["use_case"] == "unknown"
    assert line["message_code"] == "FFFF"
    assert line["signature"] == "valid"
    assert line["payload"] == {"raw": "616263"}


def test_broken_payload_of_a_known_use_case_is_raw_and_says_why() -> None:
    octets = seal_maced(READ_VERSION, b"\6\0", KEYRING, BROKER, PPMID)
    payload = only(decode_file("m", octets, KEYRING))["payload"]
    assert payload["raw"] == "0600"
    assert "expected tag 05" in str(payload["error"])


def test_verdict_without_keys_is_no_key() -> None:
    octets = seal_maced(READ_VERSION, b"\5\0", KEYRING, BROKER, PPMID)
    line = only(decode_file("m", octets, Keyring({})))
    assert line["mac"] == "no-key"
    assert line["signature"] == "absent"


@pytest.mark.parametrize("data", [b"", b"\n", b"hello", b"DF0", b"DD00", b"\xdd", b"\xdf", b"\0\1"])
def test_file_that_is_no_message_gives_an_error_line(data: bytes) -> None:
    line = only(decode_file("name", data, KEYRING))
    assert line.keys() == {"file", "error"}
    assert line["file"] == "name"


@given(st.binary(max_size=120))
def test_any_file_gives_a_line(data: bytes) -> None:
    for content in (data, data.hex().encode(), b"\xdf" + data):
        assert all(line["file"] == "name" for line in decode_file("name", content, KEYRING))


def test_date_time_that_is_none_is_shown_as_octets() -> None:
    header = GroupingHeader(Cra.RESPONSE, 1, PPMID, BROKER, 0x0012, b"\xff" * 12)
    signed = seal_signed(header, b"\5\0", KEYRING.signing_key(PPMID))
    assert only(decode_file("m", signed, KEYRING))["date_time"] == "ff" * 12


def test_mac_of_a_broker_whom_nothing_certifies_is_valid() -> None:
    # As in published vectors: bare keys, and an originator that is not the broker.
    other = EntityId.parse("abababababababab")
    files = build_keys(b"test_decode")
    bare = files | {f"{other.hex}-ka.key": files[f"{BROKER.hex}-ka.key"]}
    for name in (f"{BROKER.hex}-ka.pem", f"{BROKER.hex}-ka.key", f"{BROKER.hex}-ds.pem"):
        del bare[name]
    octets = seal_maced(READ_VERSION, b"\5\0", KEYRING, BROKER, PPMID)
    assert only(decode_file("m", octets, Keyring(bare)))["mac"] == "valid"
    spoilt = octets[:-1] + bytes((octets[-1] ^ 1,))
    assert only(decode_file("m", spoilt, Keyring(bare)))["mac"] == "no-key"
