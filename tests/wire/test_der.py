"""The DER subset: one encoding for each value, everything else refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from malformed import assert_cuts_are_refused, flipped, refused

from firmware_node.errors import DecodeError
from firmware_node.wire import der


@pytest.mark.parametrize(
    ("number", "encoded"),
    [
        (0, "020100"),
        (1, "020101"),
        (127, "02017f"),
        (128, "02020080"),
        (-1, "0201ff"),
        (-128, "020180"),
        (-129, "0202ff7f"),
        (0x8F72, "0203008f72"),
        (2**63 - 1, "02087fffffffffffffff"),
    ],
)
def test_integer_is_minimal_twos_complement(number: int, encoded: str) -> None:
    assert der.integer(number).hex() == encoded
    assert der.Reader(bytes.fromhex(encoded), "test").integer() == number


@given(st.integers(-(2**71), 2**71 - 1))
def test_every_integer_of_nine_octets_comes_back(number: int) -> None:
    reader = der.Reader(der.integer(number), "test")
    assert reader.integer() == number
    reader.end()


@pytest.mark.parametrize("size", [0, 1, 127, 128, 255, 256, 4000])
def test_length_forms_come_back_and_are_minimal(size: int) -> None:
    content = bytes(size)
    encoded = der.octet_string(content)
    reader = der.Reader(encoded, "test")
    assert reader.octet_string(size) == content
    reader.end()
    assert len(encoded) == size + 2 + (size >= 0x80) + (size >= 0x100)


@pytest.mark.parametrize(
    "encoded",
    [
        "",
        "02",
        "0200",  # no octets
        "02020001",  # not minimal
        "0202ff80",  # not minimal
        "028101",  # length passes the end
        "02810101",  # length not minimal
        "0282000101",  # length not minimal
        "0280010000",  # indefinite length
        "028400000001ff",  # four length octets
        "020a00000000000000000000",  # too many octets
        "0401ff",  # another tag
        "0202ff",  # short
    ],
)
def test_integer_in_another_form_is_refused(encoded: str) -> None:
    with pytest.raises(DecodeError):
        der.Reader(bytes.fromhex(encoded), "test").integer()


@pytest.mark.parametrize("number", [-1, 4, 2**70])
def test_unsigned_outside_its_range_is_refused(number: int) -> None:
    with pytest.raises(DecodeError):
        der.Reader(der.integer(number), "test").unsigned(3)


def test_octets_after_the_last_value_are_refused() -> None:
    reader = der.Reader(der.null() + b"\0", "test")
    reader.null()
    with pytest.raises(DecodeError, match="1 trailing"):
        reader.end()


def test_null_with_content_is_refused() -> None:
    with pytest.raises(DecodeError):
        der.Reader(b"\x05\x01\x00", "test").null()


def test_octet_string_of_another_size_is_refused() -> None:
    with pytest.raises(DecodeError):
        der.Reader(der.octet_string(bytes(3)), "test").octet_string(4)


@pytest.mark.parametrize(
    ("utc", "text"),
    [
        (0, b"20000101000000Z"),
        (473_385_600, b"20150101000000Z"),
        (None, b"99991231235959Z"),
    ],
)
def test_time_counts_from_2000(utc: int | None, text: bytes) -> None:
    encoded = der.time(utc)
    assert encoded == b"\x18\x0f" + text
    assert der.Reader(encoded, "test").time() == utc


@given(st.integers(-(1000 * 365 * 86_400), 7900 * 365 * 86_400))
def test_every_second_of_the_calendar_comes_back(utc: int) -> None:
    assert der.Reader(der.time(utc), "test").time() == utc


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"20150101000000",
        b"20150101000000z",
        b"201501010000Z",
        b"20151301000000Z",
        b"20150230000000Z",
        b"20150101240000Z",
        b"20150101000060Z",
        b"20150101000061Z",
        b"00000101000000Z",
        b"2015 101000000Z",
        b"20150101000000.0Z",
        b"\xb2\xb20150101000000Z",
    ],
)
def test_time_that_is_no_calendar_second_is_refused(text: bytes) -> None:
    with pytest.raises(DecodeError):
        der.Reader(der.value(der.GENERALIZED_TIME, text), "test").time()


def test_length_that_is_not_minimal_is_read_only_where_it_is_asked_for() -> None:
    encoded = bytes.fromhex("308200 06 308103 020107".replace(" ", ""))
    reader = der.Reader(encoded, "test", any_lengths=True)
    inner = reader.sequence().sequence()
    assert inner.integer() == 7
    inner.end()
    reader.end()
    with pytest.raises(DecodeError, match="not minimal"):
        der.Reader(encoded, "test").sequence()


def test_value_with_another_tag_is_read_by_it_and_whole_where_wanted() -> None:
    encoded = bytes.fromhex("830203e8 a203020104 0a0119".replace(" ", ""))
    reader = der.Reader(encoded, "test")
    assert reader.unsigned(1000, 0x83) == 1000
    inner = reader.sequence(0xA2)
    assert inner.element(der.INTEGER) == b"\2\1\4"
    inner.end()
    assert reader.unsigned(127, der.ENUMERATED) == 25
    reader.end()


WHOLE = der.sequence(
    der.integer(1000),
    der.octet_string(b"octets"),
    der.null(),
    der.time(800_000_000),
    der.sequence(der.integer(-1), der.octet_string(bytes(200))),
)


def read_whole(octets: bytes) -> bytes:
    """Read ``WHOLE`` or what became of it; the octets that the values make again."""
    outer = der.Reader(octets, "test")
    reader = outer.sequence()
    number, text = reader.integer(), reader.take(der.OCTET_STRING)
    reader.null()
    utc = reader.time()
    inner = reader.sequence()
    again = der.sequence(
        der.integer(number),
        der.octet_string(text),
        der.null(),
        der.time(utc),
        der.sequence(der.integer(inner.integer()), der.octet_string(inner.octet_string(200))),
    )
    for part in (inner, reader, outer):
        part.end()
    return again


def test_value_that_is_cut_is_refused_at_every_length() -> None:
    assert read_whole(WHOLE) == WHOLE
    assert_cuts_are_refused(read_whole, WHOLE)


def test_value_with_a_flipped_octet_is_what_it_says_or_refused() -> None:
    for spoilt in flipped(WHOLE):
        assert refused(read_whole, spoilt) or read_whole(spoilt) == spoilt


@given(st.binary(max_size=40))
def test_any_octets_give_a_value_or_a_decode_error(data: bytes) -> None:
    for read in ("integer", "null", "time", "sequence"):
        found: DecodeError | None = None
        try:
            getattr(der.Reader(data, "test"), read)()
        except DecodeError as error:
            found = error
        assert found is None or 0 <= found.offset <= len(data)
