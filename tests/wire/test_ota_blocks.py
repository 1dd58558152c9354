"""The fast coder of blocks: the octets of the slow one, and nothing that the slow one refuses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from malformed import flipped

from firmware_node.errors import DecodeError
from firmware_node.terms import ImageKey
from firmware_node.wire import ota, zcl
from firmware_node.wire.ota_blocks import BlockCoder

U8, U16, U32 = st.integers(0, 0xFF), st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF)
IMAGES = st.builds(ImageKey, U16, U16, U32)
IMAGE = ImageKey(0x121D, 0x0084, 0xACDCACDC)
OFFSET = 0x0001_0032
DATA = bytes(range(50))


def block(
    image: ImageKey, offset: int, data: bytes, *, quiet: bool = True, sequence: int = 7
) -> bytes:
    """A whole Image Block Response frame."""
    header = zcl.ZclHeader(True, True, quiet, None, sequence, ota.IMAGE_BLOCK_RESPONSE)
    body = ota.encode_image_block_response(ota.BlockData(image, offset, data))
    return zcl.encode(header, body)


def slow(payload: bytes) -> bytes | None:
    """The data of the awaited block, by the decoders that name what is wrong."""
    try:
        header, body = zcl.decode_header(payload)
        answer = ota.decode_image_block_response(body)
    except DecodeError:
        return None
    is_answer = (
        header.cluster_specific
        and header.to_client
        and header.manufacturer_code is None
        and header.command == ota.IMAGE_BLOCK_RESPONSE
    )
    if not is_answer or not isinstance(answer, ota.BlockData):
        return None
    return answer.data if (answer.image, answer.file_offset) == (IMAGE, OFFSET) else None


@given(IMAGES, st.none() | U16, U8, U32, U8)
def test_a_request_has_the_octets_of_the_slow_coder(
    image: ImageKey, period: int | None, sequence: int, offset: int, size: int
) -> None:
    header = zcl.ZclHeader(True, False, False, None, sequence, ota.IMAGE_BLOCK_REQUEST)
    request = ota.ImageBlockRequest(image, offset, size, block_period=period)
    whole = zcl.encode(header, ota.encode_image_block_request(request))
    assert BlockCoder(image, period).request(sequence, offset, size) == whole


@given(IMAGES, U32, st.binary(min_size=1, max_size=255), U8)
def test_the_awaited_block_gives_its_data(
    image: ImageKey, offset: int, data: bytes, sequence: int
) -> None:
    coder = BlockCoder(image, None)
    assert coder.data(block(image, offset, data, sequence=sequence), offset) == data


@pytest.mark.parametrize(
    "payload",
    [
        block(IMAGE, OFFSET + 1, DATA),
        block(IMAGE._replace(file_version=1), OFFSET, DATA),
        block(IMAGE, OFFSET, DATA, quiet=False),  # wants a default response: the slow way's work
        block(IMAGE, OFFSET, DATA) + b"x",
        block(IMAGE, OFFSET, b""),
        b"",
    ],
)
def test_anything_else_is_left_to_the_slow_way(payload: bytes) -> None:
    assert BlockCoder(IMAGE, None).data(payload, OFFSET) is None


def test_a_block_that_is_cut_is_none_at_every_length() -> None:
    whole, coder = block(IMAGE, OFFSET, DATA), BlockCoder(IMAGE, None)
    taken = [size for size in range(len(whole)) if coder.data(whole[:size], OFFSET) is not None]
    assert taken == []


def test_a_flipped_block_is_what_the_slow_way_reads_or_left_to_it() -> None:
    coder, taken = BlockCoder(IMAGE, None), 0
    for spoilt in flipped(block(IMAGE, OFFSET, DATA)):
        data = coder.data(spoilt, OFFSET)
        if data is not None:
            assert data == slow(spoilt)
            taken += 1
    assert taken == (1 + len(DATA)) * 9  # the sequence number, and the data themselves


@given(st.binary(max_size=80), st.integers(0, 17))
def test_any_octets_are_what_the_slow_way_reads_or_left_to_it(tail: bytes, keep: int) -> None:
    payload = block(IMAGE, OFFSET, DATA)[:keep] + tail
    data = BlockCoder(IMAGE, None).data(payload, OFFSET)
    assert data is None or data == slow(payload)
