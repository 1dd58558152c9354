"""General block transfer: blocks come back, a series is judged, nothing contradictory is kept.

The reference set has no blocks; the form is that of the fact sheet.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from malformed import assert_cuts_are_refused, assert_flips_raise_nothing_else, refused
from vectors import needs_vectors, reference_messages

from firmware_node.errors import DecodeError
from firmware_node.terms import EntityId
from firmware_node.wire.gbcs import MESSAGE_SIZE_MAX, Cra, decode_message
from firmware_node.wire.gbt import (
    BLOCK_SIZE,
    Block,
    Reassembly,
    Series,
    acknowledgement,
    decode_block,
    decode_first_block,
    encode_block,
    is_block,
    reassemble,
    split,
)

SUPPLIER = EntityId.parse("90-B3-D5-1F-30-01-00-00")
HCALCS = EntityId.parse("00-DB-12-34-56-78-90-A5")
SERIES = Series(Cra.COMMAND, 0x03E8, SUPPLIER, HCALCS, 0x0102)
MESSAGE = bytes(range(100))
BLOCKS = split(MESSAGE, SERIES, 40)
FIRST, SECOND, THIRD = BLOCKS


def test_block_is_that_of_the_fact_sheet() -> None:
    # gbcs.md 4.10, field by field
    expected = (
        "DD 09 01 00000000000003E8 08 90B3D51F30010000 08 00DB1234567890A5 00 02 0102 00"
        "0F 01 00000000 E0 81 0002 0001 03 616263"
    )
    block = Block(SERIES, 2, b"abc", last=True, acknowledged=1)
    assert encode_block(block) == bytes.fromhex(expected)
    assert decode_block(bytes.fromhex(expected)) == block
    assert is_block(bytes.fromhex(expected))


def test_message_is_cut_into_numbered_blocks_of_which_one_is_the_last() -> None:
    assert [(block.number, len(block.data), block.last) for block in BLOCKS] == [
        (1, 40, False),
        (2, 40, False),
        (3, 20, True),
    ]
    assert all(decode_block(encode_block(block)) == block for block in BLOCKS)
    assert split(MESSAGE, SERIES) == (Block(SERIES, 1, MESSAGE, last=True),)


@needs_vectors
def test_large_reference_messages_travel_in_blocks_that_fit_the_tunnel() -> None:
    large = {name: o for name, o in reference_messages().items() if len(o) > BLOCK_SIZE}
    assert large
    for name, octets in large.items():
        assert not is_block(octets), name
        blocks = split(octets, Series.of(decode_message(octets).header))
        sent = [encode_block(block) for block in blocks]
        assert len(sent) > 1 and max(map(len, sent)) <= 1500, name
        assert reassemble(map(decode_block, sent)) == octets, name


@given(st.permutations(BLOCKS), st.lists(st.sampled_from(BLOCKS)))
def test_order_and_repetition_of_blocks_do_not_matter(
    blocks: list[Block], repeated: list[Block]
) -> None:
    reassembly = Reassembly(SERIES)
    found = [reassembly.add(block) for block in (*blocks, *repeated)]
    assert found.count(MESSAGE) == 1
    assert found.index(MESSAGE) == 2
    assert reassembly.missing() == ()


def test_missing_block_leaves_the_series_without_a_message_and_is_named() -> None:
    reassembly = Reassembly(SERIES)
    assert reassembly.missing() == (1,)
    assert reassembly.add(FIRST) is None
    assert reassembly.missing() == (2,)
    assert reassembly.add(THIRD) is None
    assert reassembly.missing() == (2,)
    with pytest.raises(DecodeError, match="lacks block 2"):
        reassemble((FIRST, THIRD))
    with pytest.raises(DecodeError, match="no block with data"):
        reassemble((acknowledgement(SERIES, 1),))
    assert reassembly.add(SECOND) == MESSAGE


@pytest.mark.parametrize(
    "block",
    [
        replace(FIRST, data=b"other"),
        replace(FIRST, last=True),
        replace(THIRD, last=False),
        replace(THIRD, number=4),
        replace(SECOND, last=True),
        replace(SECOND, security_control=0x11),
        replace(SECOND, series=replace(SERIES, originator_counter=0x03E9)),
        replace(SECOND, series=replace(SERIES, originator=HCALCS)),
        replace(SECOND, series=replace(SERIES, message_code=0x0012)),
        replace(SECOND, data=bytes(MESSAGE_SIZE_MAX)),
    ],
    ids=[
        "other data",
        "first as last",
        "last as not last",
        "behind the last",
        "second last",
        "other security control",
        "other counter",
        "other originator",
        "other code",
        "too large",
    ],
)
def test_block_that_contradicts_the_series_is_refused_and_changes_nothing(block: Block) -> None:
    reassembly = Reassembly(SERIES)
    reassembly.add(FIRST)
    reassembly.add(THIRD)
    with pytest.raises(DecodeError):
        reassembly.add(block)
    assert reassembly.missing() == (2,)
    assert reassembly.add(SECOND) == MESSAGE


def test_last_block_below_one_that_came_before_is_refused() -> None:
    reassembly = Reassembly(SERIES)
    reassembly.add(SECOND)
    with pytest.raises(DecodeError, match="called the last"):
        reassembly.add(replace(FIRST, last=True))


def test_number_that_a_message_can_never_reach_is_refused() -> None:
    # Every block before it has at least one octet.
    reassembly = Reassembly(SERIES)
    with pytest.raises(DecodeError, match=str(MESSAGE_SIZE_MAX)):
        reassembly.add(replace(FIRST, number=MESSAGE_SIZE_MAX, data=b"ab"))
    assert reassembly.missing() == (1,)


def test_acknowledgement_carries_no_part_and_travels_the_other_way() -> None:
    block = acknowledgement(SERIES, 2)
    assert decode_block(encode_block(block)) == block
    assert block.series.recipient == SUPPLIER
    assert block.acknowledged == 2
    empty = replace(block, series=SERIES)
    reassembly = Reassembly(SERIES)
    assert reassembly.add(empty) is None
    assert reassembly.missing() == (1,)


def test_series_of_octets_is_read_block_by_block() -> None:
    octets = b"".join(map(encode_block, BLOCKS))
    found = []
    while octets:
        block, octets = decode_first_block(octets)
        found.append(block)
    assert tuple(found) == BLOCKS


def test_malformed_blocks_are_refused() -> None:
    octets = encode_block(SECOND)
    assert_cuts_are_refused(decode_block, octets)
    assert_flips_raise_nothing_else(decode_block, octets)
    for changed in (
        octets + b"\0",
        octets.replace(b"\x00\x02\x01\x02\x00", b"\x00\x02\x01\x02\x01"),  # key info
        octets.replace(b"\xe0\x01\x00\x02", b"\xe1\x01\x00\x02"),  # tag
        octets.replace(b"\xe0\x01\x00\x02", b"\xe0\x01\x00\x00"),  # data in block 0
        b"\xdd\x09\x04" + octets[3:],  # CRA flag
    ):
        assert changed != octets
        with pytest.raises(DecodeError):
            decode_block(changed)


@given(
    st.builds(
        Block,
        st.builds(
            Series,
            st.sampled_from(Cra),
            st.integers(0, 2**64 - 1),
            st.binary(min_size=8, max_size=8).map(EntityId),
            st.binary(min_size=8, max_size=8).map(EntityId),
            st.integers(0, 0xFFFF),
        ),
        st.integers(1, 0xFFFF),
        st.binary(max_size=300),
        st.booleans(),
        st.integers(0, 0xFFFF),
        st.booleans(),
        st.integers(0, 0x3F),
        st.integers(0, 0xFF),
        st.integers(0, 0xFFFFFFFF),
    )
)
def test_every_block_comes_back(block: Block) -> None:
    assert decode_block(encode_block(block)) == block


@given(st.binary(min_size=1, max_size=MESSAGE_SIZE_MAX), st.integers(1, BLOCK_SIZE))
def test_every_message_comes_back_from_its_blocks(message: bytes, block_size: int) -> None:
    assert reassemble(reversed(split(message, SERIES, block_size))) == message


@given(st.binary(max_size=80))
def test_any_octets_give_a_block_or_a_decode_error(data: bytes) -> None:
    for start in (b"", b"\xdd\x09", encode_block(FIRST)[:40]):
        octets = start + data
        if not refused(decode_block, octets):
            assert encode_block(decode_block(octets)) == octets
