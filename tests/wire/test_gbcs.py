"""The GBCS envelope, held against every reference message."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from malformed import assert_cuts_are_refused, flipped, refused
from vectors import needs_vectors, reference_messages

from firmware_node.errors import DecodeError
from firmware_node.terms import EntityId
from firmware_node.wire.gbcs import (
    MAC_SIZE,
    MESSAGE_SIZE_MAX,
    SIGNATURE_SIZE,
    Cra,
    GroupingHeader,
    decode_message,
    encode_message,
    encode_signed_octets,
    mac_covered,
    maced_message,
    pre_command,
    signed_message,
)
from firmware_node.wire.message_codes import USE_CASES, use_case_name

BROKER = EntityId.parse("90-B3-D5-1F-30-00-00-02")
SUPPLIER = EntityId.parse("90-B3-D5-1F-30-01-00-00")
PPMID = EntityId.parse("00-DB-12-34-56-78-90-A4")
HEADER = GroupingHeader(
    cra=Cra.COMMAND,
    originator_counter=0x0514,
    originator=BROKER,
    recipient=PPMID,
    message_code=0x0129,
    supplementary_party=SUPPLIER,
    supplementary_counter=1000,
)
PRE_COMMAND = pre_command(encode_signed_octets(HEADER, b"\5\0"))
SIGNED = signed_message(encode_signed_octets(HEADER, b"\5\0"), bytes(range(64)))
MACED = maced_message(signed_message(encode_signed_octets(HEADER, b"\5\0"), b""), bytes(12))
SIGNED_AND_MACED = maced_message(SIGNED, bytes(12))
FORMS = {
    "Pre-Command": PRE_COMMAND,
    "signed": SIGNED,
    "MACed": MACED,
    "signed and MACed": SIGNED_AND_MACED,
}


@needs_vectors
def test_every_reference_message_decodes_and_encodes_to_the_same_octets() -> None:
    messages = reference_messages()
    assert len(messages) == 841
    different = [
        name
        for name, octets in messages.items()
        if encode_message(decode_message(octets)) != octets
    ]
    assert different == []


@needs_vectors
def test_ranges_of_every_reference_message_are_slices_of_what_arrived() -> None:
    for name, octets in reference_messages().items():
        message = decode_message(octets)
        assert message.signed_octets in octets, name
        assert message.signed_octets == encode_signed_octets(message.header, message.payload), name
        if message.mac:
            inner = octets[octets.index(b"\xdf") : -MAC_SIZE]
            assert message.mac_covered == mac_covered(inner), name
        else:
            assert message.mac_covered == b"", name


@needs_vectors
def test_kind_and_protection_of_every_reference_message_are_what_its_name_says() -> None:
    kinds = {"COMMAND": Cra.COMMAND, "RESPONSE": Cra.RESPONSE, "ALERT": Cra.ALERT}
    for name, octets in reference_messages().items():
        message = decode_message(octets)
        if "PRECOMMAND" in name:
            assert message.header.cra is Cra.COMMAND, name
            assert not message.signature, name
            assert not message.mac, name
            continue
        named = next(kind for word, kind in kinds.items() if f"_{word}" in name)
        assert message.header.cra is named, name
        assert message.signature or message.mac, name


@needs_vectors
def test_every_reference_message_code_has_a_name() -> None:
    codes = {decode_message(octets).header.message_code for octets in reference_messages().values()}
    assert codes <= USE_CASES.keys()


@needs_vectors
@pytest.mark.parametrize(
    "name",
    [
        "CS06_11.3_IMMEDIATE_SUCCESS_COMMAND",
        "CS06_11.3_IMMEDIATE_SUCCESS_RESPONSE",
        "CS08_11.2_SUCCESS_COMMAND",
        "CS09_NA_8F8B_ALERT",
        "CCS08_NA_NA_ALERT",
    ],
)
def test_truncated_reference_message_is_refused_at_every_length(name: str) -> None:
    octets = reference_messages()[name]
    whole = decode_message(octets)
    for size in range(len(octets)):
        try:
            part = decode_message(octets[:size])
        except DecodeError:
            continue
        # A DF form that ends with its payload is a Pre-Command, and so it reads as one.
        assert not part.signature
        assert not part.mac
        assert part.signed_octets == whole.signed_octets


@needs_vectors
def test_reference_message_with_a_flipped_octet_decodes_or_is_refused_as_malformed() -> None:
    for name in ("CS06_11.3_IMMEDIATE_SUCCESS_COMMAND", "CS08_11.2_SUCCESS_RESPONSE"):
        octets = reference_messages()[name]
        for at in range(len(octets)):
            for mask in (0x01, 0x80, 0xFF):
                flipped = bytearray(octets)
                flipped[at] ^= mask
                try:
                    message = decode_message(bytes(flipped))
                except DecodeError:
                    continue
                assert encode_message(message) == bytes(flipped), f"{name} at {at}"


def test_cs08_command_header_is_that_of_the_fact_sheet() -> None:
    # gbcs.md 4.9, CS08 pair: up to the MAC.
    expected = (
        "DD00000000000046 1100000000 DF 090100000000000005 14 0890B3D51F30000002 0800DB1234567890A4"
        "00 12012990B3D51F3001000000000000000003E8 02 0500 00"
    )
    assert MACED[:-MAC_SIZE] == bytes.fromhex(expected)
    assert decode_message(MACED).header == HEADER


@pytest.mark.parametrize("form", FORMS)
def test_form_comes_back(form: str) -> None:
    message = decode_message(FORMS[form])
    assert message.header == HEADER
    assert message.payload == b"\5\0"
    assert len(message.signature) == (SIGNATURE_SIZE if form.startswith("signed") else 0)
    assert len(message.mac) == (MAC_SIZE if "MACed" in form else 0)
    assert encode_message(message) == FORMS[form]


CERTIFIED = replace(
    HEADER,
    cra=Cra.ALERT,
    date_time=bytes(12),
    supplementary_originator_counter=7,
    certificate=b"certificate" * 20,
)
SPOILT = FORMS | {
    "every optional field": signed_message(encode_signed_octets(CERTIFIED, b"\5\0"), bytes(64))
}


@pytest.mark.parametrize("form", SPOILT)
def test_form_is_refused_at_every_length_but_where_a_pre_command_ends(form: str) -> None:
    octets = SPOILT[form]
    # A command in DF form that ends with its payload is a Pre-Command.
    is_command = octets[:3] == bytes((0xDF, 9, Cra.COMMAND))
    end = len(octets) - SIGNATURE_SIZE - 1 if is_command else 0
    whole_at = {end} if octets is not PRE_COMMAND and end else set()
    assert_cuts_are_refused(decode_message, octets, whole_at)


@pytest.mark.parametrize("form", SPOILT)
def test_form_with_a_flipped_octet_is_what_it_says_or_refused(form: str) -> None:
    for spoilt in flipped(SPOILT[form]):
        if not refused(decode_message, spoilt):
            message = decode_message(spoilt)
            empty_signature = not message.signature and not message.mac and spoilt[-1] == 0
            assert encode_message(message) == spoilt or (
                empty_signature and encode_message(message) == spoilt[:-1]
            )


@pytest.mark.parametrize("form", FORMS)
def test_trailing_octets_are_refused(form: str) -> None:
    for trailing in (b"\0\0", b"\xff", bytes(80)):
        with pytest.raises(DecodeError):
            decode_message(FORMS[form] + trailing)


def test_pre_command_of_older_tools_with_an_empty_signature_field_is_accepted() -> None:
    message = decode_message(PRE_COMMAND + b"\0")
    assert message.is_pre_command
    assert message == decode_message(PRE_COMMAND)
    assert message.signature == b""
    assert message.signed_octets == PRE_COMMAND[1:]


@pytest.mark.parametrize("cra", [Cra.RESPONSE, Cra.ALERT])
def test_response_or_alert_without_signature_and_mac_is_refused(cra: Cra) -> None:
    signed_octets = encode_signed_octets(replace(HEADER, cra=cra), b"\5\0")
    for octets in (pre_command(signed_octets), signed_message(signed_octets, b"")):
        with pytest.raises(DecodeError, match="without protection"):
            decode_message(octets)
    assert not decode_message(signed_message(signed_octets, bytes(64))).is_pre_command


def test_message_over_the_limit_is_refused() -> None:
    octets = b"\xdf" + encode_signed_octets(HEADER, bytes(MESSAGE_SIZE_MAX))
    with pytest.raises(DecodeError):
        decode_message(octets)


@pytest.mark.parametrize("payload_size", [0, 127, 128, 255, 256, 4000])
def test_every_length_form_comes_back(payload_size: int) -> None:
    octets = b"\xdf" + encode_signed_octets(HEADER, bytes(payload_size))
    assert decode_message(octets).payload == bytes(payload_size)


@pytest.mark.parametrize(
    ("at", "octet", "what"),
    [
        (0, 0xDE, "outer tag"),
        (1, 0x08, "size of the transaction id"),
        (2, 0x00, "CRA flag"),
        (2, 0x04, "CRA flag"),
        (11, 0x07, "size of the originator"),
        (20, 0x09, "size of the recipient"),
        (29, 0x0B, "size of the date-time"),
        (30, 0x11, "size of the other information"),
    ],
)
def test_wrong_octet_in_the_header_is_refused(at: int, octet: int, what: str) -> None:
    octets = bytearray(PRE_COMMAND)
    assert octets[at] != octet, what
    octets[at] = octet
    with pytest.raises(DecodeError):
        decode_message(bytes(octets))


def test_length_that_is_not_minimal_is_refused() -> None:
    # The payload length 02 of the Pre-Command as 81 02.
    octets = PRE_COMMAND[:-3] + b"\x81\x02\x05\x00"
    with pytest.raises(DecodeError, match="not minimal"):
        decode_message(octets)


entity_ids = st.binary(min_size=8, max_size=8).map(EntityId)
counters = st.integers(0, 2**64 - 1)


@st.composite
def headers(draw: st.DrawFn) -> GroupingHeader:
    header = GroupingHeader(
        cra=draw(st.sampled_from(Cra)),
        originator_counter=draw(counters),
        originator=draw(entity_ids),
        recipient=draw(entity_ids),
        message_code=draw(st.integers(0, 0xFFFF)),
        date_time=draw(st.sampled_from([b"", bytes(12)])),
    )
    depth = draw(st.integers(0, 4))
    if depth >= 1:
        header = replace(header, supplementary_party=draw(entity_ids))
    if depth >= 2:
        header = replace(header, supplementary_counter=draw(counters))
    if depth >= 3:
        header = replace(header, supplementary_originator_counter=draw(counters))
    if depth >= 4:
        header = replace(header, certificate=draw(st.binary(min_size=1, max_size=600)))
    return header


@given(headers(), st.binary(max_size=300))
def test_every_header_comes_back(header: GroupingHeader, payload: bytes) -> None:
    message = decode_message(signed_message(encode_signed_octets(header, payload), bytes(64)))
    assert message.header == header
    assert message.payload == payload


@given(st.binary(max_size=200), st.sampled_from([b"", b"\xdf", b"\xdd", SIGNED[:40], MACED[:60]]))
def test_any_octets_give_a_message_or_a_decode_error(tail: bytes, start: bytes) -> None:
    found: DecodeError | None = None
    try:
        decode_message(start + tail)
    except DecodeError as error:
        found = error
    assert found is None or 0 <= found.offset <= len(start + tail)


def test_use_case_names() -> None:
    assert use_case_name(0x0012) == "CS06"
    assert use_case_name(0x012B) == "CS09"
    assert use_case_name(0xFFFF) == "unknown"
    assert len(USE_CASES) == 240
