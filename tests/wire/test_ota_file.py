"""OTA files of all three shapes: the two reference images, zigpy's reading, and spoilt ones."""

from __future__ import annotations

import base64
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from malformed import assert_cuts_are_refused, assert_flips_raise_nothing_else, refused
from vectors import VECTORS, needs_vectors, reference_keys
from zigpy.ota.image import OTAImage, OTAImageHeader

from firmware_node.crypto import Keyring
from firmware_node.errors import DecodeError
from firmware_node.terms import EntityId, ImageFormat, ImageKey, Span
from firmware_node.wire import ota_file
from firmware_node.wire.ota_file import (
    OtaFile,
    OtaHeader,
    SubElement,
    build_gb_plain,
    build_gb_supplier_signed,
    build_zigbee,
    decode_ota_file,
    decode_ota_header,
    encode_ota_header,
    header_size,
)
from firmware_node.wire.zcl import encode_eui64

SUPPLIER = EntityId.parse("90-B3-D5-1F-30-01-00-00")
PPMID = EntityId.parse("00-DB-12-34-56-78-90-A4")
KEY = ImageKey(0x121D, 0x0084, 0x00000002)
HEADER = OtaHeader(
    KEY, header_string="test", hardware_version_min=0x1111, hardware_version_max=0x1211
)
FULL_HEADER = replace(HEADER, security_credential_version=2, destination=PPMID)
IMAGE = bytes(range(1, 41))
SIGNATURE = bytes(range(100, 164))
CODE = bytes(range(200, 216))

PLAIN = build_gb_plain(HEADER, IMAGE)
SUPPLIER_SIGNED = build_gb_supplier_signed(HEADER, IMAGE, SIGNATURE)
ZIGBEE = build_zigbee(HEADER, [(0x0000, IMAGE), (0xF000, b"own"), (0x0003, CODE)])
FILES = {
    ImageFormat.GB_PLAIN: PLAIN,
    ImageFormat.GB_SUPPLIER_SIGNED: SUPPLIER_SIGNED,
    ImageFormat.ZIGBEE: ZIGBEE,
}

U8, U16, U32 = st.integers(0, 0xFF), st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF)


@st.composite
def headers(draw: st.DrawFn) -> OtaHeader:
    low, high = sorted((draw(U16), draw(U16))) if draw(st.booleans()) else (None, None)
    return OtaHeader(
        ImageKey(draw(U16), draw(U16), draw(U32)),
        total_image_size=draw(U32),
        header_string=draw(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E)))[:32],
        stack_version=draw(U16),
        security_credential_version=draw(st.none() | U8),
        destination=draw(st.none() | st.binary(min_size=8, max_size=8).map(EntityId)),
        hardware_version_min=low,
        hardware_version_max=high,
    )


def sample_image(name: str) -> bytes:
    """The image that a DUIS request carries."""
    text = (VECTORS / "duis" / name).read_text(encoding="utf-8")
    found = re.search(r"<(?:\w+:)?FirmwareImage>([^<]+)<", text)
    assert found is not None
    return base64.b64decode(found[1])


def with_total_size(data: bytes) -> bytes:
    """The octets with the header's total image size put right."""
    at = ota_file.TOTAL_SIZE_OFFSET
    return data[:at] + len(data).to_bytes(4, "little") + data[at + 4 :]


# --- the reference images -----------------------------------------------------------------------


@needs_vectors
def test_sample_of_sr_11_1_is_signed_by_the_supplier() -> None:
    data = sample_image("11.1_UPDATE_FIRMWARE_REQUEST_DUIS.XML")
    file = decode_ota_file(data)
    assert file == OtaFile(
        OtaHeader(
            ImageKey(4637, 0, 0xACDCACDC),
            total_image_size=361,
            header_string="I am a GFI ESME[] firmware image",
            stack_version=2,
            hardware_version_min=4369,
            hardware_version_max=4625,
            header_length=60,
        ),
        ImageFormat.GB_SUPPLIER_SIGNED,
        Span(60, 235),
        supplier_signature=data[-64:],
        force_replace=0,
    )
    manufacturer_image = data[60:295]
    key = Keyring(reference_keys()).verify_key(SUPPLIER)
    assert file.supplier_signature is not None
    assert key.is_valid(file.supplier_signature, manufacturer_image)
    assert not key.is_valid(file.supplier_signature, data[60:296])


@needs_vectors
def test_sample_of_sr_11_4_is_plain() -> None:
    data = sample_image("11.4_UPDATE_PPMID_FIRMWARE_REQUEST_DUIS.XML")
    file = decode_ota_file(data)
    assert file.format is ImageFormat.GB_PLAIN
    assert file.header.image == ImageKey(0x121D, 0x0084, 0xACDCACDC)
    assert (file.header.total_image_size, file.manufacturer_image) == (295, Span(60, 235))
    assert (file.supplier_signature, file.sub_elements) == (None, ())


@needs_vectors
@pytest.mark.parametrize(
    "name",
    [
        "11.1_UPDATE_FIRMWARE_REQUEST_DUIS.XML",
        "11.4_UPDATE_PPMID_FIRMWARE_REQUEST_DUIS.XML",
    ],
)
def test_header_of_a_sample_is_written_to_the_same_octets(name: str) -> None:
    data = sample_image(name)
    assert encode_ota_header(decode_ota_header(data)) == data[:60]
    assert_cuts_are_refused(decode_ota_file, data)
    assert_flips_raise_nothing_else(decode_ota_file, data)


# --- the header ---------------------------------------------------------------------------------


@given(headers(), st.binary(max_size=4))
def test_header_comes_back_and_is_the_one_zigpy_reads(header: OtaHeader, behind: bytes) -> None:
    octets = encode_ota_header(header)
    assert decode_ota_header(octets + behind) == replace(header, header_length=len(octets))
    assert header_size(octets[:8]) == len(octets)

    theirs, rest = OTAImageHeader.deserialize(octets)
    assert (theirs.serialize(), rest) == (octets, b"")
    assert theirs.header_length == len(octets)
    assert (theirs.manufacturer_id, theirs.image_type, theirs.file_version) == header.image
    assert theirs.stack_version == header.stack_version
    assert theirs.image_size == header.total_image_size
    assert bytes(theirs.header_string).rstrip(b"\0").decode() == header.header_string
    assert theirs.security_credential_version == header.security_credential_version
    assert theirs.minimum_hardware_version == header.hardware_version_min
    assert theirs.maximum_hardware_version == header.hardware_version_max
    if header.destination is not None:
        assert theirs.upgrade_file_destination.serialize() == encode_eui64(header.destination)


@pytest.mark.parametrize("header", [OtaHeader(KEY), HEADER, FULL_HEADER])
def test_cut_header_is_refused_and_a_flipped_one_raises_nothing_else(header: OtaHeader) -> None:
    octets = encode_ota_header(header)
    assert_cuts_are_refused(decode_ota_header, octets)
    assert_flips_raise_nothing_else(decode_ota_header, octets)


def test_header_size_needs_eight_octets_and_no_more() -> None:
    assert header_size(PLAIN[:8]) == 60
    assert_cuts_are_refused(header_size, PLAIN[:8])
    assert_flips_raise_nothing_else(header_size, PLAIN[:8])


@pytest.mark.parametrize(
    ("at", "octets", "reason"),
    [
        (0, "00", "file identifier"),
        (4, "0101", "header version"),
        (6, "3700", "header length"),
        (6, "0101", "header length"),
        (6, "3800", "do not agree"),
        (6, "3d00", "do not agree"),
        (8, "0000", "do not agree"),
        (8, "0c00", "field control"),
        (56, "1212", "hardware range"),
    ],
)
def test_header_that_contradicts_itself_is_refused(at: int, octets: str, reason: str) -> None:
    data = bytearray(PLAIN)
    data[at : at + len(octets) // 2] = bytes.fromhex(octets)
    with pytest.raises(DecodeError, match=reason):
        decode_ota_header(bytes(data))


def test_header_string_may_fill_all_its_octets_and_hides_what_does_not_print() -> None:
    octets = bytearray(encode_ota_header(replace(HEADER, header_string="x" * 40)))
    assert decode_ota_header(bytes(octets)).header_string == "x" * 32
    octets[20:26] = b"a\x1b\xffb\0c"
    assert decode_ota_header(bytes(octets)).header_string == "aÿb"


# --- three shapes -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("told", [True, False])
def test_each_shape_is_recognised_with_its_manufacturer_image(
    kind: ImageFormat, told: bool
) -> None:
    data = FILES[kind]
    file = decode_ota_file(data, kind if told else None)
    span = file.manufacturer_image
    assert file.format is kind
    assert data[span.offset : span.end] == IMAGE
    assert file.header == replace(HEADER, total_image_size=len(data), header_length=60)


def test_supplier_signed_file_gives_tail_and_signature() -> None:
    data = build_gb_supplier_signed(FULL_HEADER, IMAGE, SIGNATURE, force_replace=1)
    file = decode_ota_file(data)
    assert (file.supplier_signature, file.force_replace) == (SIGNATURE, 1)
    assert data == encode_ota_header(file.header) + IMAGE + b"\x01\x40" + SIGNATURE


def test_zigbee_file_gives_its_sub_elements_and_what_the_integrity_code_covers() -> None:
    file = decode_ota_file(ZIGBEE)
    assert file.sub_elements == (
        SubElement(0x0000, Span(66, 40)),
        SubElement(0xF000, Span(112, 3)),
        SubElement(0x0003, Span(121, 16)),
    )
    assert file.integrity_code == CODE
    # The code's own tag and length are covered, its value alone is not.
    assert file.integrity_covered == Span(0, len(ZIGBEE) - 16)
    assert ZIGBEE[: file.integrity_covered.end].endswith(bytes.fromhex("0300 10000000"))


def test_zigbee_file_without_integrity_code_says_so() -> None:
    file = decode_ota_file(build_zigbee(HEADER, [(0x0000, IMAGE)]))
    assert (file.integrity_code, file.integrity_covered) == (None, None)


@given(
    st.binary(min_size=1, max_size=60),
    st.lists(st.tuples(st.integers(4, 0xFFFF), st.binary(min_size=1, max_size=20)), max_size=5),
)
def test_zigbee_file_is_the_one_zigpy_reads(image: bytes, others: list[tuple[int, bytes]]) -> None:
    elements = [(0x0000, image), *others]
    data = build_zigbee(HEADER, elements)
    theirs, rest = OTAImage.deserialize(data)
    assert (theirs.serialize(), rest) == (data, b"")
    assert [(int(part.tag_id), bytes(part.data)) for part in theirs.subelements] == elements
    ours = decode_ota_file(data, ImageFormat.ZIGBEE)
    assert [
        (part.tag, data[part.span.offset : part.span.end]) for part in ours.sub_elements
    ] == elements


@pytest.mark.parametrize("kind", FILES)
def test_cut_file_is_refused_at_every_length(kind: ImageFormat) -> None:
    assert_cuts_are_refused(decode_ota_file, FILES[kind])
    assert_cuts_are_refused(lambda data: decode_ota_file(data, kind), FILES[kind])


@pytest.mark.parametrize("kind", FILES)
def test_octet_more_is_refused(kind: ImageFormat) -> None:
    assert refused(decode_ota_file, FILES[kind] + b"\0")


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("told", FILES)
def test_flipped_file_raises_nothing_else_whatever_it_is_taken_for(
    kind: ImageFormat, told: ImageFormat
) -> None:
    assert_flips_raise_nothing_else(decode_ota_file, FILES[kind])
    assert_flips_raise_nothing_else(lambda data: decode_ota_file(data, told), FILES[kind])


def test_zigbee_file_cut_inside_its_chain_is_refused_though_its_total_size_agrees() -> None:
    # A chain is whole behind its upgrade image (106) and behind the tag after it (115).
    taken = [
        size
        for size in range(60, len(ZIGBEE))
        if not refused(
            lambda data: decode_ota_file(data, ImageFormat.ZIGBEE), with_total_size(ZIGBEE[:size])
        )
    ]
    assert taken == [106, 115]


@given(st.binary(max_size=120), st.none() | st.sampled_from(ImageFormat))
def test_any_body_is_an_image_or_a_decode_error(body: bytes, told: ImageFormat | None) -> None:
    data = build_gb_plain(HEADER, body)
    if refused(lambda octets: decode_ota_file(octets, told), data):
        return
    file = decode_ota_file(data, told)
    assert 60 <= file.manufacturer_image.offset < file.manufacturer_image.end <= len(data)


@given(st.binary(max_size=80))
def test_any_octets_are_a_header_or_a_decode_error(data: bytes) -> None:
    for octets in (data, PLAIN[:8] + data):
        assert refused(decode_ota_file, octets) or decode_ota_file(octets).header


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ([(0x0000, b"a"), (0x0000, b"b")], "2 upgrade images"),
        ([(0x0005, b"a")], "0 upgrade images"),
        ([(0x0000, b"a"), (0x0004, b"")], "is empty"),
        ([(0x0003, CODE), (0x0000, b"a")], "at the end"),
        ([(0x0000, b"a"), (0x0003, CODE[:15])], "at the end"),
        ([(0x0000, b"a"), (0x0003, CODE), (0x0003, CODE)], "at the end"),
        ([(0x0000, b"a")] + [(0xF000, b"b")] * 32, "more than 32"),
    ],
)
def test_zigbee_file_with_wrong_sub_elements_is_refused(
    elements: list[tuple[int, bytes]], reason: str
) -> None:
    data = build_zigbee(HEADER, elements)
    with pytest.raises(DecodeError, match=reason):
        decode_ota_file(data, ImageFormat.ZIGBEE)


@pytest.mark.parametrize("kind", [None, *ImageFormat])
def test_file_without_an_image_is_refused(kind: ImageFormat | None) -> None:
    with pytest.raises(DecodeError, match="no image"):
        decode_ota_file(build_gb_plain(HEADER, b""), kind)


def test_supplier_signature_without_image_or_of_another_length_is_refused() -> None:
    tail = b"\0\x40" + SIGNATURE
    kind = ImageFormat.GB_SUPPLIER_SIGNED
    with pytest.raises(DecodeError, match="no room"):
        decode_ota_file(build_gb_plain(HEADER, tail), kind)
    with pytest.raises(DecodeError, match="is not 40"):
        decode_ota_file(build_gb_plain(HEADER, IMAGE + b"\0\x41" + SIGNATURE), kind)


# --- telling the shape from the octets ----------------------------------------------------------


def test_octet_0x40_before_the_last_64_counts_only_when_nobody_says_plain() -> None:
    assert decode_ota_file(SUPPLIER_SIGNED).format is ImageFormat.GB_SUPPLIER_SIGNED
    plain = decode_ota_file(SUPPLIER_SIGNED, ImageFormat.GB_PLAIN)
    assert plain.manufacturer_image == Span(60, len(SUPPLIER_SIGNED) - 60)


def test_tail_that_leaves_no_image_is_plain() -> None:
    file = decode_ota_file(build_gb_plain(HEADER, b"\0\x40" + SIGNATURE))
    assert (file.format, file.manufacturer_image) == (ImageFormat.GB_PLAIN, Span(60, 66))


def test_body_of_zeros_is_plain() -> None:
    assert decode_ota_file(build_gb_plain(HEADER, bytes(100))).format is ImageFormat.GB_PLAIN


def test_broken_chain_behind_tag_0_is_refused_and_not_taken_for_plain() -> None:
    data = build_gb_plain(HEADER, bytes.fromhex("0000 ff000000") + IMAGE)
    with pytest.raises(DecodeError, match="passes the file's end"):
        decode_ota_file(data)
    assert decode_ota_file(data, ImageFormat.GB_PLAIN).manufacturer_image == Span(60, 46)


def test_building_puts_the_total_size_in_place_of_what_was_given() -> None:
    data = build_gb_plain(replace(HEADER, total_image_size=7, header_length=99), IMAGE)
    assert data == PLAIN


def test_an_image_that_begins_with_a_stack_address_is_no_chain_of_sub_elements() -> None:
    image = bytes.fromhex("00000120c1010008") + bytes(range(64))
    file = build_gb_plain(OtaHeader(ImageKey(0x121D, 0x0084, 2)), image)
    assert decode_ota_file(file).format is ImageFormat.GB_PLAIN


def test_a_plain_image_with_the_tail_s_octet_by_chance_is_plain_where_no_tail_may_be() -> None:
    image = bytes(range(100, 200)) + b"\x40" + bytes(64)
    file = build_gb_plain(OtaHeader(ImageKey(0x121D, 0x0084, 2)), image)
    assert decode_ota_file(file).format is ImageFormat.GB_SUPPLIER_SIGNED
    decoded = decode_ota_file(file, may_have_tail=False)
    assert (decoded.format, decoded.manufacturer_image.size) == (ImageFormat.GB_PLAIN, len(image))
