"""Payloads of the firmware use cases, held against the reference messages."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vectors import needs_vectors, reference_messages

from firmware_node.errors import DecodeError
from firmware_node.terms import EntityId
from firmware_node.wire import firmware_messages as fm
from firmware_node.wire.gbcs import decode_message

IMAGE_HASH = bytes.fromhex("aa758690730934ff0685aa758690730934ff0685657788990011223344556677")
NEW_YEAR_2015 = 473_385_600  # seconds since 2000-01-01
SAMPLES: dict[str, tuple[Callable[[bytes], Any], Callable[[Any], bytes], Any]] = {
    "CS06_11.3_IMMEDIATE_SUCCESS_COMMAND": (
        fm.decode_cs06_command,
        fm.encode_cs06_command,
        fm.ActivateFirmware(IMAGE_HASH, 1000),
    ),
    "CS06_11.3_FUTURE_DATED_SUCCESS_PRECOMMAND": (
        fm.decode_cs06_command,
        fm.encode_cs06_command,
        fm.ActivateFirmware(IMAGE_HASH, 1001, executes_at=948_013_200),
    ),
    "CS06_11.3_CANCELLATION_SUCCESS_COMMAND": (
        fm.decode_cs06_command,
        fm.encode_cs06_command,
        fm.ActivateFirmware(IMAGE_HASH, 1002, cancels=True),
    ),
    "CS06_11.3_IMMEDIATE_SUCCESS_RESPONSE": (
        fm.decode_cs06_response,
        fm.encode_cs06_response,
        fm.ActivationOutcome(0, 0x0123ABCE),
    ),
    "CS06_11.3_CANCELLATION_SUCCESS_RESPONSE": (
        fm.decode_cs06_response,
        fm.encode_cs06_response,
        None,
    ),
    "CS08_11.2_SUCCESS_RESPONSE": (
        fm.decode_cs08_response,
        fm.encode_cs08_response,
        fm.ReadVersionResponse(0x0123ABCD, 0),
    ),
    "CS09_NA_8F8B_ALERT": (
        fm.decode_cs09_alert,
        fm.encode_cs09_alert,
        fm.ActivationAlert(fm.PPMID_ACTIVATION, NEW_YEAR_2015, 0x1234ABCD, 0),
    ),
    "CCS08_NA_NA_ALERT": (
        fm.decode_ccs08_alert,
        fm.encode_ccs08_alert,
        fm.FirmwareTransferAlert(
            fm.TRANSFER_SUCCESS,
            NEW_YEAR_2015,
            EntityId.parse("00-DB-12-34-56-78-90-A4"),
            0x0123ABCD,
            fm.FILE_TRANSFER_SUCCESS,
        ),
    ),
    "CS06_11.3_8F66_FUTURE_DATED_SUCCESS_ALERT": (
        fm.decode_cs06_alert,
        fm.encode_cs06_alert,
        fm.ActivationOutcomeAlert(
            fm.FUTURE_DATED_DONE, 948_013_200, 1001, fm.ActivationOutcome(0, 0x0123ABCF)
        ),
    ),
    "FDRA-ZigBee_NA_8F72_ALERT": (
        fm.decode_receipt_alert_gbz,
        fm.encode_receipt_alert_gbz,
        fm.ReceiptAlert(fm.IMAGE_VERIFIED, NEW_YEAR_2015, b"\xa1" * 32),
    ),
    "GCA-DLMS_NA_8F30_ALERT": (
        partial(fm.decode_generic_alert_dlms, originator_counter=2000),
        partial(fm.encode_generic_alert_dlms, originator_counter=2000),
        fm.GenericAlert(fm.LACKS_AUTHORITY, NEW_YEAR_2015),
    ),
    "GNCA-ZigBee_NA_810E_ALERT": (
        fm.decode_generic_alert_gbz,
        fm.encode_generic_alert_gbz,
        fm.GenericAlert(0x810E, NEW_YEAR_2015),
    ),
}
# Forms that the reference set does not hold.
OTHERS: dict[str, tuple[Callable[[bytes], Any], Callable[[Any], bytes], Any]] = {
    "receipt alert of a DLMS device": (
        partial(fm.decode_receipt_alert_dlms, originator_counter=0x1_02_03_04_05),
        partial(fm.encode_receipt_alert_dlms, originator_counter=0x1_02_03_04_05),
        fm.ReceiptAlert(fm.IMAGE_NOT_VERIFIED, NEW_YEAR_2015, IMAGE_HASH, clock_status=0),
    ),
}
FORMS = SAMPLES | OTHERS


@needs_vectors
@pytest.mark.parametrize("name", SAMPLES)
def test_reference_payload_decodes_and_encodes_to_the_same_octets(name: str) -> None:
    decode, encode, expected = SAMPLES[name]
    payload = decode_message(reference_messages()[name]).payload
    assert decode(payload) == expected
    assert encode(expected) == payload


@needs_vectors
def test_reference_cs08_command_is_a_null() -> None:
    payload = decode_message(reference_messages()["CS08_11.2_SUCCESS_COMMAND"]).payload
    fm.decode_cs08_command(payload)
    assert fm.encode_cs08_command() == payload


@pytest.mark.parametrize("name", FORMS)
def test_truncated_payload_is_refused_at_every_length(name: str) -> None:
    decode, encode, value = FORMS[name]
    payload = encode(value)
    for size in range(len(payload)):
        with pytest.raises(DecodeError):
            decode(payload[:size])
    with pytest.raises(DecodeError):
        decode(payload + b"\0")


@pytest.mark.parametrize("name", FORMS)
def test_payload_with_a_flipped_octet_decodes_to_what_it_says_or_is_refused(name: str) -> None:
    decode, encode, value = FORMS[name]
    payload = encode(value)
    for at in range(len(payload)):
        for mask in range(1, 256):
            flipped = payload[:at] + bytes((payload[at] ^ mask,)) + payload[at + 1 :]
            try:
                found = decode(flipped)
            except DecodeError:
                continue
            assert encode(found) == flipped


def test_receipt_alert_of_a_dlms_device_is_that_of_the_fact_sheet() -> None:
    # gbcs.md 3.3 by field, with the date-time of 4.9 and the counter 0x1234 in the invoke id.
    alert = fm.ReceiptAlert(fm.IMAGE_VERIFIED, NEW_YEAR_2015, b"\xa1" * 32)
    expected = "0f 20001234 00 0203 128f72 090c07df0101ff000000008000ff 0920" + "a1" * 32
    assert fm.encode_receipt_alert_dlms(alert, 0x1234) == bytes.fromhex(expected)
    assert fm.decode_receipt_alert_dlms(bytes.fromhex(expected), 0x1234) == alert


def test_dlms_alert_with_the_invoke_id_of_another_counter_is_refused() -> None:
    payload = fm.encode_generic_alert_dlms(fm.GenericAlert(fm.LACKS_AUTHORITY, 0), 2000)
    with pytest.raises(DecodeError, match="200007d1"):
        fm.decode_generic_alert_dlms(payload, 2001)


@needs_vectors
def test_date_time_of_the_cs06_responses_is_made_and_read() -> None:
    for case in ("IMMEDIATE", "CANCELLATION", "FUTURE_DATED"):
        octets = reference_messages()[f"CS06_11.3_{case}_SUCCESS_RESPONSE"]
        header = decode_message(octets).header
        assert fm.dlms_date_time(NEW_YEAR_2015) == header.date_time
        assert fm.decode_dlms_date_time(header.date_time) == NEW_YEAR_2015


@given(st.integers(0, 2**32 - 1), st.integers(0, 255))
def test_every_date_time_comes_back(utc: int, status: int) -> None:
    octets = fm.dlms_date_time(utc, status)
    assert fm.decode_dlms_date_time(octets) == utc
    assert fm.dlms_date_time(utc) == octets[:11] + b"\xff"


@pytest.mark.parametrize(
    "octets",
    [
        "",
        "07df0101ff000000008000",
        "07df0101ff000000008000ffff",
        "07df0001ff000000008000ff",  # month
        "07df021dff000000008000ff",  # 29 February 2015
        "07df0101ff180000008000ff",  # hour
        "000001010000000000000000",  # year, and the rest
        "07df0101040000000080 00ff",  # weekday
        "07df0101ff000000ff8000ff",  # hundredths
        "07df0101ff00000000003cff",  # deviation
        "ffffffffffffffffff8000ff",  # nothing specified
    ],
)
def test_octets_that_are_no_date_time_are_refused(octets: str) -> None:
    with pytest.raises(DecodeError):
        fm.decode_dlms_date_time(bytes.fromhex(octets))


@pytest.mark.parametrize("payload", [b"", b"\5", b"\5\1\0", b"\5\0\0", b"\x30\0"])
def test_cs08_command_that_is_no_null_is_refused(payload: bytes) -> None:
    with pytest.raises(DecodeError):
        fm.decode_cs08_command(payload)


def test_alert_with_the_cancelling_time_is_refused() -> None:
    alert = fm.encode_cs09_alert(fm.ActivationAlert(fm.PPMID_ACTIVATION, 0, 1, 0))
    with pytest.raises(DecodeError, match="cancelling"):
        fm.decode_cs09_alert(alert.replace(b"20000101000000Z", b"99991231235959Z"))


@given(
    st.binary(min_size=32, max_size=32),
    st.integers(0, fm.COUNTER_MAX),
    st.one_of(st.none(), st.integers(0, 2**32)),
    st.booleans(),
)
def test_every_activation_command_comes_back(
    image_hash: bytes, counter: int, executes_at: int | None, cancels: bool
) -> None:
    command = fm.ActivateFirmware(
        image_hash, counter, None if cancels else executes_at, cancels=cancels
    )
    assert fm.decode_cs06_command(fm.encode_cs06_command(command)) == command


@given(st.binary(max_size=60))
def test_any_octets_give_a_payload_or_a_decode_error(data: bytes) -> None:
    for decode, encode, _ in FORMS.values():
        try:
            value = decode(data)
        except DecodeError:
            continue
        assert encode(value) == data
