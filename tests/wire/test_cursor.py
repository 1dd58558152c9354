"""The cursor: every field is checked against the end, and errors say where."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_node.errors import DecodeError
from firmware_node.wire.cursor import Cursor, encode_length


def test_fields_come_off_the_front_in_order() -> None:
    cursor = Cursor(bytes.fromhex("09 0102 00db1234567890a4 02 aabb cc"), "test")
    cursor.literal(b"\x09", "tag")
    assert cursor.unsigned(2, "number") == 0x0102
    assert str(cursor.entity_id("who")) == "00-DB-12-34-56-78-90-A4"
    part = cursor.part(cursor.length("length"), "part")
    assert part.rest() == b"\xaa\xbb"
    part.finish()
    assert cursor.left == 1
    assert cursor.take(1, "last") == b"\xcc"
    cursor.finish()


def test_part_does_not_reach_behind_its_end_and_counts_from_the_start() -> None:
    cursor = Cursor(b"\1\2\3\4", "test")
    cursor.take(1, "first")
    part = cursor.part(2, "part")
    with pytest.raises(DecodeError, match="wide: expected 3 octets, found 2") as caught:
        part.take(3, "wide")
    assert caught.value.offset == 1
    assert cursor.take(1, "last") == b"\4"


def test_trailing_octets_and_other_literals_are_refused_where_they_stand() -> None:
    cursor = Cursor(b"\1\2", "test")
    cursor.take(1, "first")
    with pytest.raises(DecodeError, match="1 trailing octets") as caught:
        cursor.finish()
    assert caught.value.offset == 1
    with pytest.raises(DecodeError, match="tag: expected 03, found 02") as caught:
        cursor.literal(b"\3", "tag")
    assert caught.value.offset == 1


@pytest.mark.parametrize("octets", ["", "80", "83000000", "81", "817f", "8200ff", "82ff", "ff"])
def test_length_that_is_cut_wide_or_of_another_form_is_refused(octets: str) -> None:
    with pytest.raises(DecodeError):
        Cursor(bytes.fromhex(octets), "test").length("length")


@given(st.integers(0, 0xFFFF))
def test_every_length_comes_back_in_its_shortest_form(size: int) -> None:
    encoded = encode_length(size)
    cursor = Cursor(encoded, "test")
    assert cursor.length("length") == size
    cursor.finish()
    assert len(encoded) == 1 + (size >= 0x80) + (size >= 0x100)
