"""The emulator's own manufacturer image: it comes back, and spoilt ones are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from malformed import assert_cuts_are_refused, assert_flips_raise_nothing_else, refused

from firmware_node.errors import DecodeError
from firmware_node.terms import ImageKey, Span
from firmware_node.wire.manufacturer_image import (
    MAGIC,
    MANIFEST_SIZE_MAX,
    Manifest,
    ManufacturerImage,
    build,
    decode_manufacturer_image,
    encode_manifest,
    overhead,
)

MANIFEST = Manifest(
    ImageKey(0x121D, 0x0084, 2),
    0x1111,
    0x1211,
    version_string="2.0",
    date_code="20261124",
    crash_after_ms=1000,
    from_versions=(1, 0xFFFFFFFF),
)
VALUES: dict[str, Any] = json.loads(encode_manifest(MANIFEST))
SIGNATURE = bytes(range(64))

U16, U32 = st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF)
TEXTS = st.text(max_size=64).filter(str.isprintable)
MANIFESTS = st.builds(
    Manifest,
    st.builds(ImageKey, U16, U16, U32),
    U16,
    U16,
    version_string=TEXTS,
    date_code=TEXTS,
    self_test=st.booleans(),
    startup_ms=U32,
    crash_after_ms=st.none() | U32,
    confirms=st.booleans(),
    switch_works=st.booleans(),
    from_versions=st.lists(U32, max_size=20).map(tuple),
)


def sign(octets: bytes) -> bytes:
    """A stand-in of the right size; whether a signature is good is not asked here."""
    assert octets.startswith(MAGIC)
    return SIGNATURE


def image_with(manifest: bytes, body: bytes = b"body") -> bytes:
    """An unsigned image around any manifest octets."""
    sizes = len(manifest).to_bytes(4, "little") + len(body).to_bytes(4, "little")
    return MAGIC + b"\0" + sizes + manifest + body


@given(MANIFESTS, st.binary(max_size=100), st.booleans())
def test_image_comes_back_with_the_octets_that_were_signed(
    manifest: Manifest, body: bytes, signed: bool
) -> None:
    covered: list[bytes] = []

    def sign_and_keep(octets: bytes) -> bytes:
        covered.append(octets)
        return SIGNATURE

    data = build(manifest, body, sign_and_keep if signed else None)
    image = decode_manufacturer_image(data)
    assert image is not None
    assert image.manifest == manifest
    assert image.signature == (SIGNATURE if signed else None)
    assert len(data) == overhead(manifest, signed) + len(body)
    span = image.signed_octets
    assert covered == ([data[span.offset : span.end]] if signed else [])
    assert data[span.offset : span.end].endswith(body)


def test_layout_is_magic_flags_sizes_manifest_body_signature() -> None:
    text = encode_manifest(MANIFEST)
    size = len(text).to_bytes(4, "little")
    head = b"FWN1\x01" + size + (3).to_bytes(4, "little")
    data = build(MANIFEST, b"abc", sign)
    assert data == head + text + b"abc" + SIGNATURE
    assert decode_manufacturer_image(data) == ManufacturerImage(
        MANIFEST, Span(0, len(head) + len(text) + 3), SIGNATURE
    )


def test_manifest_is_canonical() -> None:
    text = encode_manifest(MANIFEST)
    assert text == json.dumps(VALUES, sort_keys=True, separators=(",", ":")).encode()
    assert text.startswith(b'{"confirms":true,"crash_after_ms":1000,')


def test_fields_left_out_have_their_defaults() -> None:
    least = {name: VALUES[name] for name in ("image", "hardware_version_min")}
    least["hardware_version_max"] = 0xFFFF
    image = decode_manufacturer_image(image_with(json.dumps(least).encode()))
    assert image is not None
    assert image.manifest == Manifest(MANIFEST.image, 0x1111, 0xFFFF)


@given(st.binary(max_size=80))
def test_image_of_another_maker_is_none_of_ours(data: bytes) -> None:
    assert data.startswith(MAGIC) or decode_manufacturer_image(data) is None


@pytest.mark.parametrize("signed", [True, False])
def test_cut_image_is_refused_at_every_length(signed: bool) -> None:
    data = build(MANIFEST, b"body", sign if signed else None)
    # Before the magic is whole it could be anyone's.
    assert_cuts_are_refused(decode_manufacturer_image, data, whole_at=range(len(MAGIC)))
    assert [decode_manufacturer_image(data[:size]) for size in range(len(MAGIC))] == [None] * 4
    assert refused(decode_manufacturer_image, data + b"\0")


@pytest.mark.parametrize("signed", [True, False])
def test_flipped_image_raises_nothing_else(signed: bool) -> None:
    data = build(MANIFEST, b"body", sign if signed else None)
    assert_flips_raise_nothing_else(decode_manufacturer_image, data)


@given(st.binary(max_size=60))
def test_any_octets_as_manifest_are_read_or_refused(text: bytes) -> None:
    data = image_with(text)
    assert refused(decode_manufacturer_image, data) or decode_manufacturer_image(data) is not None


@pytest.mark.parametrize("flags", [0x02, 0x03, 0x80])
def test_unknown_flag_is_refused(flags: int) -> None:
    data = bytearray(image_with(encode_manifest(MANIFEST)))
    data[4] = flags
    with pytest.raises(DecodeError, match="flags"):
        decode_manufacturer_image(bytes(data))


def test_manifest_over_its_limit_is_refused_and_one_at_it_is_not() -> None:
    text = encode_manifest(MANIFEST).ljust(MANIFEST_SIZE_MAX)
    assert decode_manufacturer_image(image_with(text)) is not None
    with pytest.raises(DecodeError, match="4097"):
        decode_manufacturer_image(image_with(text + b" "))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff\xfe\xfd",
        b"{",
        b"null",
        b"[]",
        b"7",
        b"[" * MANIFEST_SIZE_MAX,
        b"9" * MANIFEST_SIZE_MAX,
    ],
)
def test_manifest_that_is_no_json_object_is_refused(text: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_manufacturer_image(image_with(text))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("image", None),
        ("image", [1, 2]),
        ("image", [1, 2, 3, 4]),
        ("image", [1, 2, 2**32]),
        ("image", [1, 2, True]),
        ("image", "123"),
        ("hardware_version_min", -1),
        ("hardware_version_min", None),
        ("hardware_version_max", 1.5),
        ("hardware_version_max", float("nan")),
        ("version_string", 2),
        ("version_string", "x" * 65),
        ("version_string", "\ud800"),  # half a surrogate pair: JSON can spell it, UTF-8 cannot
        ("date_code", "2026\n"),
        ("self_test", 1),
        ("confirms", None),
        ("switch_works", "true"),
        ("startup_ms", True),
        ("crash_after_ms", -1),
        ("from_versions", 1),
        ("from_versions", [-1]),
        ("from_versions", [[1]]),
        ("else", 0),
    ],
)
def test_manifest_with_a_wrong_value_is_refused(name: str, value: object) -> None:
    text = json.dumps({**VALUES, name: value}).encode()
    with pytest.raises(DecodeError, match="manifest"):
        decode_manufacturer_image(image_with(text))


@pytest.mark.parametrize("name", ["image", "hardware_version_min", "hardware_version_max"])
def test_manifest_without_a_field_it_must_have_is_refused(name: str) -> None:
    values = {key: value for key, value in VALUES.items() if key != name}
    with pytest.raises(DecodeError, match=name):
        decode_manufacturer_image(image_with(json.dumps(values).encode()))


def test_every_text_of_a_decoded_manifest_can_be_sent() -> None:
    data = build(replace(MANIFEST, version_string="Zähler ☃"), b"", None)
    image = decode_manufacturer_image(data)
    assert image is not None
    assert image.manifest.version_string.encode().decode() == "Zähler ☃"
