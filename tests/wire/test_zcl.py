"""The ZCL header and the general commands, held against zigpy."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from malformed import assert_cuts_are_refused, assert_flips_raise_nothing_else, refused
from zigpy import types as zigpy_types
from zigpy.zcl import foundation

from firmware_node.errors import DecodeError
from firmware_node.terms import EntityId
from firmware_node.wire import zcl
from firmware_node.wire.zcl import AttributeValue, Status, ZclHeader

PPMID = EntityId.parse("00-DB-12-34-56-78-90-A4")
ZIGPY: Any = foundation  # its own annotations are stricter than what its types convert
U8, U16 = st.integers(0, 0xFF), st.integers(0, 0xFFFF)
HEADERS = st.builds(ZclHeader, st.booleans(), st.booleans(), st.booleans(), st.none() | U16, U8, U8)

# Data types that the project reads, with the size of those that are plain numbers.
NUMBERS = {
    zcl.BOOLEAN: 1,
    zcl.BITMAP8: 1,
    zcl.UINT8: 1,
    zcl.UINT16: 2,
    0x22: 3,
    zcl.UINT32: 4,
    0x25: 6,
    0x27: 8,
    zcl.ENUM8: 1,
    0x31: 2,
    zcl.UTC_TIME: 4,
}
RECORDS = st.one_of(
    st.sampled_from(sorted(NUMBERS.items())).flatmap(
        lambda row: st.builds(
            AttributeValue,
            U16,
            st.just(0),
            st.just(row[0]),
            st.integers(0, 1 if row[0] == zcl.BOOLEAN else 256 ** row[1] - 1),
        )
    ),
    st.builds(
        AttributeValue,
        U16,
        st.just(0),
        st.just(zcl.OCTET_STRING),
        st.binary(max_size=32),
    ),
    st.builds(
        AttributeValue,
        U16,
        st.just(0),
        st.just(zcl.CHARACTER_STRING),
        # zigpy ends a string at its first zero and reads UTF-8; we hand over octets.
        st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=32).map(str.encode),
    ),
    st.builds(
        AttributeValue,
        U16,
        st.just(0),
        st.just(zcl.EUI64),
        st.binary(min_size=8, max_size=8).map(EntityId),
    ),
    st.builds(AttributeValue, U16, st.sampled_from([0x01, Status.UNSUPPORTED_ATTRIBUTE])),
)


def zigpy_header(header: ZclHeader) -> Any:
    control = ZIGPY.FrameControl(
        frame_type=ZIGPY.FrameType(header.cluster_specific),
        is_manufacturer_specific=header.manufacturer_code is not None,
        direction=ZIGPY.Direction(header.to_client),
        disable_default_response=header.disable_default_response,
        reserved=0,
    )
    return ZIGPY.ZCLHeader(
        frame_control=control,
        manufacturer=header.manufacturer_code,
        tsn=header.sequence,
        command_id=header.command,
    )


@given(HEADERS, st.binary(max_size=80))
def test_header_and_body_come_back(header: ZclHeader, body: bytes) -> None:
    assert zcl.decode_header(zcl.encode(header, body)) == (header, body)


@given(HEADERS, st.binary(max_size=8))
def test_header_is_the_one_zigpy_writes_and_reads(header: ZclHeader, body: bytes) -> None:
    expected = zigpy_header(header)
    assert zcl.encode(header, body) == expected.serialize() + body
    assert ZIGPY.ZCLHeader.deserialize(zcl.encode(header, body)) == (expected, body)


def test_header_of_a_block_request_is_three_octets() -> None:
    assert zcl.encode(ZclHeader(True, False, False, None, 0x2A, 0x03)).hex() == "012a03"
    assert zcl.encode(ZclHeader(True, True, True, 0x121D, 0x2A, 0x03)).hex() == "1d1d122a03"


@pytest.mark.parametrize("manufacturer_code", [None, 0x121D])
def test_cut_header_is_refused_at_every_length(manufacturer_code: int | None) -> None:
    octets = zcl.encode(ZclHeader(True, False, False, manufacturer_code, 1, 3))
    assert_cuts_are_refused(zcl.decode_header, octets)
    assert_flips_raise_nothing_else(zcl.decode_header, octets)


@pytest.mark.parametrize("frame_type", [2, 3])
def test_reserved_frame_type_is_refused(frame_type: int) -> None:
    with pytest.raises(DecodeError, match="reserved"):
        zcl.decode_header(bytes((frame_type, 1, 3)))


def test_reserved_bits_of_the_frame_control_are_ignored() -> None:
    header = ZclHeader(True, False, False, None, 1, 3)
    assert zcl.decode_header(bytes((0xE1, 1, 3))) == (header, b"")


@given(st.binary(max_size=12))
def test_any_octets_are_a_frame_or_a_decode_error(octets: bytes) -> None:
    assert refused(zcl.decode_header, octets) or len(octets) >= 3


def test_entity_id_travels_reversed() -> None:
    octets = zcl.encode_eui64(PPMID)
    assert octets.hex() == "a49078563412db00"
    assert octets == zigpy_types.EUI64.convert("00:db:12:34:56:78:90:a4").serialize()
    assert zcl.decode_eui64(octets) == PPMID


@pytest.mark.parametrize("size", [0, 7, 9])
def test_entity_id_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(DecodeError):
        zcl.decode_eui64(bytes(size))


# --- general commands ---------------------------------------------------------------------------


@given(st.lists(U16, max_size=zcl.ATTRIBUTES_MAX))
def test_read_attributes_is_the_one_zigpy_writes(attributes: list[int]) -> None:
    schema = ZIGPY.GENERAL_COMMANDS[ZIGPY.GeneralCommand.Read_Attributes].schema
    octets = zcl.encode_read_attributes(tuple(attributes))
    assert octets == schema(attribute_ids=attributes).serialize()
    assert zcl.decode_read_attributes(octets) == tuple(attributes)


def test_read_attributes_with_half_an_id_or_too_many_is_refused() -> None:
    assert_cuts_are_refused(zcl.decode_read_attributes, bytes(7), whole_at={0, 2, 4, 6})
    assert_flips_raise_nothing_else(zcl.decode_read_attributes, bytes(6))
    with pytest.raises(DecodeError):
        zcl.decode_read_attributes(bytes(2 * zcl.ATTRIBUTES_MAX + 2))


@given(st.lists(RECORDS, max_size=8))
def test_read_attributes_response_comes_back(records: list[AttributeValue]) -> None:
    octets = zcl.encode_read_attributes_response(tuple(records))
    assert zcl.decode_read_attributes_response(octets) == tuple(records)


@given(st.lists(RECORDS, min_size=1, max_size=8))
def test_read_attributes_response_is_read_by_zigpy(records: list[AttributeValue]) -> None:
    octets = zcl.encode_read_attributes_response(tuple(records))
    schema = ZIGPY.GENERAL_COMMANDS[ZIGPY.GeneralCommand.Read_Attributes_rsp].schema
    read, rest = schema.deserialize(octets)
    assert rest == b""
    assert read.serialize() == octets
    for record, theirs in zip(records, read.status_records, strict=True):
        assert (theirs.attrid, theirs.status) == (record.attribute, record.status)
        if record.type is None:
            assert theirs.value is None
            continue
        assert theirs.value.type == record.type
        if isinstance(record.value, int):
            assert int(theirs.value.value) == record.value
        elif isinstance(record.value, EntityId):
            assert theirs.value.value.serialize() == zcl.encode_eui64(record.value)
        elif record.type == zcl.CHARACTER_STRING:
            assert theirs.value.value.encode() == record.value
        else:
            assert bytes(theirs.value.value) == record.value


EVERY_RECORD = (
    *(AttributeValue(at, Status.SUCCESS, kind, 1) for at, kind in enumerate(sorted(NUMBERS))),
    AttributeValue(0x4000, Status.SUCCESS, zcl.CHARACTER_STRING, b"acdcacdc"),
    AttributeValue(0x4001, Status.SUCCESS, zcl.OCTET_STRING, b"\x00\xff"),
    AttributeValue(0x0000, Status.SUCCESS, zcl.EUI64, PPMID),
    AttributeValue(0x0009, Status.UNSUPPORTED_ATTRIBUTE),
)


def test_cut_read_attributes_response_is_refused_but_between_records() -> None:
    octets = zcl.encode_read_attributes_response(EVERY_RECORD)
    between = {
        len(zcl.encode_read_attributes_response(EVERY_RECORD[:count]))
        for count in range(len(EVERY_RECORD))
    }
    assert_cuts_are_refused(zcl.decode_read_attributes_response, octets, whole_at=between)


def test_flipped_read_attributes_response_raises_nothing_else() -> None:
    octets = zcl.encode_read_attributes_response(EVERY_RECORD)
    assert_flips_raise_nothing_else(zcl.decode_read_attributes_response, octets)


def test_string_marked_invalid_reads_as_empty() -> None:
    records = zcl.decode_read_attributes_response(bytes.fromhex("0400" + "00" + "42" + "ff"))
    assert records == (AttributeValue(4, 0, zcl.CHARACTER_STRING, b""),)


def test_data_type_that_is_not_read_is_refused() -> None:
    with pytest.raises(DecodeError, match="data type 48"):
        zcl.decode_read_attributes_response(bytes.fromhex("0400" + "00" + "48" + "20" + "0000"))


@given(st.binary(max_size=60))
def test_any_octets_are_records_or_a_decode_error(octets: bytes) -> None:
    if not refused(zcl.decode_read_attributes_response, octets):
        records = zcl.decode_read_attributes_response(octets)
        assert len(zcl.encode_read_attributes_response(records)) <= len(octets)


@given(U8, st.sampled_from(list(Status)))
def test_default_response_is_the_one_zigpy_writes(command: int, status: Status) -> None:
    schema = ZIGPY.GENERAL_COMMANDS[ZIGPY.GeneralCommand.Default_Response].schema
    octets = zcl.encode_default_response(command, status)
    assert octets == schema(command_id=command, status=ZIGPY.Status(status)).serialize()
    assert zcl.decode_default_response(octets) == zcl.DefaultResponse(command, status)


def test_default_response_of_another_size_is_refused() -> None:
    assert_cuts_are_refused(zcl.decode_default_response, b"\x03\x80")
    assert_flips_raise_nothing_else(zcl.decode_default_response, b"\x03\x80")
    with pytest.raises(DecodeError):
        zcl.decode_default_response(bytes(3))


def test_statuses_are_numbered_as_in_zigpy() -> None:
    theirs = {int(status) for status in ZIGPY.Status}
    assert {int(status) for status in Status} <= theirs
    for name in ("NOT_AUTHORIZED", "WAIT_FOR_DATA", "ABORT", "INVALID_IMAGE", "INVALID_FIELD"):
        assert int(Status[name]) == int(ZIGPY.Status[name])


@pytest.mark.parametrize(
    ("utc", "text"),
    [(0, "2000-01-01T00:00:00Z"), (473_385_600, "2015-01-01T00:00:00Z")],
)
def test_time_is_told_from_2000_on(utc: int, text: str) -> None:
    assert zcl.utc_text(utc) == text


@given(st.integers(0, 0xFFFFFFFF))
def test_every_time_of_the_air_can_be_told(utc: int) -> None:
    assert len(zcl.utc_text(utc)) == 20
