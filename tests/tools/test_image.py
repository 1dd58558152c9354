"""Images: built to the byte, told truthfully, and spoilt in ways that are noticed."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vectors import VECTORS, needs_vectors, reference_keys

from firmware_node.crypto import Keyring, signs_deterministically
from firmware_node.errors import ConfigError
from firmware_node.terms import EntityId, ImageFormat, ImageKey
from firmware_node.tools import duis
from firmware_node.tools.image import MUTATIONS, build_image, inspect, mutate, sign, verify
from firmware_node.tools.keys import build_keys
from firmware_node.wire.manufacturer_image import Manifest, decode_manufacturer_image
from firmware_node.wire.ota_file import OtaHeader, build_gb_plain, decode_ota_file

KEYS = build_keys(b"image")
KEYRING = Keyring(KEYS)
SUPPLIER = EntityId.parse("90b3d51f30010000")
PPMID = EntityId.parse("00db1234567890a4")
MANUFACTURER_KEY = KEYRING.manufacturer_signing_key(0x121D)
SUPPLIER_KEY = KEYRING.signing_key(SUPPLIER)
MANIFEST = Manifest(ImageKey(0x121D, 0x0084, 2), 0x1111, 0x1211, version_string="2.0")
KINDS = tuple(ImageFormat)


def built(kind: ImageFormat = ImageFormat.GB_PLAIN, size: int = 1000, seed: int = 0) -> bytes:
    return build_image(
        MANIFEST,
        size=size,
        kind=kind,
        header_string="test",
        seed=seed,
        manufacturer_key=MANUFACTURER_KEY,
        supplier_key=SUPPLIER_KEY if kind is ImageFormat.GB_SUPPLIER_SIGNED else None,
    )


def shape_of(data: bytes, kind: ImageFormat | None = None) -> Any:
    return inspect(data, KEYRING, kind)


# --- building -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [500, 65_536, 100_001])
def test_manufacturer_image_has_exactly_the_size_asked_for(kind: ImageFormat, size: int) -> None:
    shape = shape_of(built(kind, size))
    assert shape["manufacturer_image"]["size"] == size
    assert (shape["kind"], shape["problems"]) == (kind.value, [])


def test_plain_file_is_header_and_manufacturer_image() -> None:
    assert len(built(size=65_536)) == 65_596


def test_size_below_the_least_is_refused_and_none_gives_the_least() -> None:
    least = shape_of(build_image(MANIFEST))["manufacturer_image"]["size"]
    with pytest.raises(ConfigError, match=f"expected {least} to"):
        build_image(MANIFEST, size=least - 1)
    with pytest.raises(ConfigError, match="image size"):
        build_image(MANIFEST, size=2**32)


@pytest.mark.skipif(
    not signs_deterministically(), reason="this OpenSSL signs with fresh randomness"
)
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"version_string": "a\nb"}, r"version_string is 'a\\nb'"),
        ({"version_string": "x" * 5000}, "manifest: found 5"),
        ({"startup_ms": -1}, "startup_ms is -1"),
        ({"crash_after_ms": 2**32}, "crash_after_ms is 4294967296"),
        ({"hardware_version_min": 5, "hardware_version_max": 3}, "found 0005 to 0003"),
    ],
)
def test_no_image_is_built_that_a_device_could_not_read(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        build_image(replace(MANIFEST, **changes))


@pytest.mark.parametrize("text", ["x" * 33, "\x1b[31m", "caf\u00e9", "\u20ac"])
def test_a_header_string_is_printable_and_fits(text: str) -> None:
    with pytest.raises(ConfigError, match="header string: found"):
        build_image(MANIFEST, header_string=text)


def test_image_follows_from_its_seed() -> None:
    assert built() == built()
    assert built(seed=1) != built()


@pytest.mark.parametrize("kind", [ImageFormat.GB_PLAIN, ImageFormat.ZIGBEE])
def test_supplier_key_and_kind_must_go_together(kind: ImageFormat) -> None:
    with pytest.raises(ConfigError, match="has no place for"):
        build_image(MANIFEST, kind=kind, supplier_key=SUPPLIER_KEY)
    with pytest.raises(ConfigError, match="needs a supplier"):
        build_image(MANIFEST, kind=ImageFormat.GB_SUPPLIER_SIGNED)


# --- signing ------------------------------------------------------------------------------------


def test_signing_a_plain_unsigned_image_makes_it_supplier_signed() -> None:
    plain = build_image(MANIFEST, size=700)
    signed = sign(plain, manufacturer_key=MANUFACTURER_KEY, supplier_key=SUPPLIER_KEY)
    shape = shape_of(signed)
    assert (shape["supplier_signature"], shape["manufacturer_signature"]) == ("valid", "valid")
    assert shape["manifest"] == shape_of(plain)["manifest"]
    assert shape["manufacturer_image"]["size"] == 700 + 64


def test_signing_mends_what_a_flipped_bit_broke() -> None:
    at = 400
    broken = bytearray(built(ImageFormat.GB_SUPPLIER_SIGNED))
    broken[at] ^= 1
    assert verify(bytes(broken), KEYRING)
    mended = sign(bytes(broken), manufacturer_key=MANUFACTURER_KEY, supplier_key=SUPPLIER_KEY)
    assert verify(mended, KEYRING) == ()
    assert mended[at] == broken[at]


@pytest.mark.parametrize("kind", KINDS)
def test_manufacturer_signature_alone_is_renewed_where_nothing_covers_it(kind: ImageFormat) -> None:
    data = built(kind)
    if kind is ImageFormat.GB_SUPPLIER_SIGNED:
        with pytest.raises(ConfigError, match="its key is needed"):
            sign(data, manufacturer_key=MANUFACTURER_KEY)
    else:
        assert verify(sign(data, manufacturer_key=MANUFACTURER_KEY), KEYRING) == ()


def test_what_cannot_be_signed_is_refused() -> None:
    vendor = build_gb_plain(OtaHeader(MANIFEST.image), b"vendor image")
    with pytest.raises(ConfigError, match="vendor"):
        sign(vendor, manufacturer_key=MANUFACTURER_KEY)
    with pytest.raises(ConfigError, match="zigbee"):
        sign(built(ImageFormat.ZIGBEE), supplier_key=SUPPLIER_KEY)
    with pytest.raises(ConfigError, match="OTA header"):
        sign(b"no image", supplier_key=SUPPLIER_KEY)


# --- inspecting ---------------------------------------------------------------------------------


@needs_vectors
def test_published_meter_image_is_told_as_the_contract_shows_it() -> None:
    request = (VECTORS / "duis" / "11.1_UPDATE_FIRMWARE_REQUEST_DUIS.XML").read_bytes()
    shape: Any = inspect(request, Keyring(reference_keys()))
    digest = shape["manufacturer_image"].pop("sha256")
    contract = {
        "kind": "gb-supplier-signed",
        "manufacturer_code": 4637,
        "image_type": 0,
        "file_version": "acdcacdc",
        "hardware_version_min": 4369,
        "hardware_version_max": 4625,
        "header_string": "I am a GFI ESME[] firmware image",
        "total_image_size": 361,
        "manufacturer_image": {"offset": 60, "size": 235},
        "supplier_signature": "valid",
        "sub_elements": [],
        "problems": [],
    }
    assert {name: shape[name] for name in contract} == contract
    image = duis.parse_request(request).image
    assert image is not None
    assert digest == hashlib.sha256(image[60:295]).hexdigest()


@needs_vectors
def test_published_ppmid_image_is_plain() -> None:
    request = (VECTORS / "duis" / "11.4_UPDATE_PPMID_FIRMWARE_REQUEST_DUIS.XML").read_bytes()
    shape: Any = inspect(request)
    assert (shape["kind"], shape["image_type"], shape["problems"]) == ("gb-plain", 0x0084, [])
    assert shape["manufacturer_image"]["size"] == 235
    assert shape["supplier_signature"] == "absent"


@needs_vectors
def test_request_without_an_image_is_a_usage_error() -> None:
    request = (VECTORS / "duis" / "CS08_11.2_SUCCESS_REQUEST_DUIS.XML").read_bytes()
    with pytest.raises(ConfigError, match="carries no firmware image"):
        inspect(request)


@pytest.mark.parametrize("data", [b"", b"MZ", b"\x1e\xf1\xee\x0b", b"<html/>", bytes(100)])
def test_other_files_are_a_usage_error(data: bytes) -> None:
    with pytest.raises(ConfigError):
        inspect(data)


def test_supplier_signature_verdicts_follow_the_keys_at_hand() -> None:
    data = built(ImageFormat.GB_SUPPLIER_SIGNED)
    bare = Keyring({f"{SUPPLIER.hex}-ds.pem": SUPPLIER_KEY.public.pem()})
    ppmid_only = Keyring({name: KEYS[name] for name in KEYS if name.startswith(PPMID.hex)})
    for keyring, verdict in (
        (KEYRING, "valid"),
        (bare, "valid"),
        (ppmid_only, "no-key"),
        (None, "no-key"),
        (Keyring(build_keys(b"another HAN")), "invalid"),
    ):
        assert inspect(data, keyring)["supplier_signature"] == verdict


def test_kind_overrides_the_octet_that_looks_like_a_signature_length() -> None:
    looks_signed = build_gb_plain(OtaHeader(MANIFEST.image), b"\0" * 35 + b"\x40" + b"\1" * 64)
    assert shape_of(looks_signed)["kind"] == "gb-supplier-signed"
    plain = shape_of(looks_signed, ImageFormat.GB_PLAIN)
    assert (plain["kind"], plain["manufacturer_image"]["size"]) == ("gb-plain", 100)
    assert plain["problems"] == []


def test_service_reference_says_what_an_image_that_looks_signed_is() -> None:
    looks_signed = build_gb_plain(OtaHeader(MANIFEST.image), b"\0" * 35 + b"\x40" + b"\1" * 64)
    for reference, kind in (("11.4", "gb-plain"), ("11.1", "gb-supplier-signed")):
        request = duis.build_update_request(
            reference,
            SUPPLIER,
            EntityId.parse("90b3d51f30000002"),
            1,
            KEYRING,
            image=looks_signed,
            firmware_version="00000002",
            devices=(PPMID,),
        )
        assert inspect(request)["kind"] == kind


def test_manifest_of_another_version_than_the_header_is_a_problem() -> None:
    data = mutate(built(), "downgrade")
    shape = shape_of(data)
    assert shape["file_version"] == "00000000"
    assert shape["manifest"]["file_version"] == "00000002"
    assert shape["problems"] == ["manifest and OTA header name different images"]


def test_verify_wants_a_key_for_each_signature_that_is_there() -> None:
    data = built(ImageFormat.GB_SUPPLIER_SIGNED)
    assert verify(data, KEYRING) == ()
    assert verify(data, Keyring({})) == (
        "no key for the supplier signature",
        "no key for the manufacturer signature",
    )


@settings(max_examples=300, deadline=None)
@given(data=st.data(), kind=st.sampled_from(KINDS))
def test_no_octets_make_inspect_fail_otherwise_than_by_a_usage_error(
    data: st.DataObject, kind: ImageFormat
) -> None:
    good = built(kind, 500)
    octets = bytearray(good[: data.draw(st.integers(0, len(good)))])
    for _ in range(data.draw(st.integers(0, 3))):
        if octets:
            octets[data.draw(st.integers(0, len(octets) - 1))] = data.draw(st.integers(0, 255))
    try:
        shape = inspect(bytes(octets), KEYRING)
    except ConfigError:
        return
    if len(octets) != len(good):
        assert shape["problems"]


# --- spoiling -----------------------------------------------------------------------------------

# An opaque number: the device checks it against its own, the file alone cannot be called wrong.
AGREES_WITH_ITSELF = {"hardware-out-of-range"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MUTATIONS)
def test_each_mutation_changes_the_file_and_is_noticed(name: str, kind: ImageFormat) -> None:
    good = built(kind)
    bad = mutate(good, name)
    assert bad != good
    try:
        reasons = verify(bad, KEYRING)
    except ConfigError:
        reasons = ("no OTA file any more",)
    if name in AGREES_WITH_ITSELF and kind is not ImageFormat.ZIGBEE:
        assert reasons == ()
    else:
        assert reasons
    assert built(kind) == good or not signs_deterministically()


def test_mutations_break_what_they_say() -> None:
    good = built(ImageFormat.GB_SUPPLIER_SIGNED)
    shapes = {
        name: shape_of(mutate(good, name))
        for name in MUTATIONS
        if name not in ("length-overflow", "zero-length")
    }
    before = shape_of(good)
    assert shapes["wrong-hash"]["manufacturer_image"] != before["manufacturer_image"]
    assert shapes["wrong-hash"]["manufacturer_signature"] == "invalid"
    assert shapes["wrong-manufacturer"]["manufacturer_code"] == 0x121E
    assert shapes["wrong-type"]["image_type"] == 0x0085
    assert shapes["hardware-out-of-range"]["hardware_version_min"] == 0x1212
    assert shapes["downgrade"]["file_version"] == "00000000"
    assert shapes["endless-file"]["total_image_size"] == 0xFFFFFFFF
    assert shapes["trailing-bytes"]["supplier_signature"] == "valid"
    bad_signature = shapes["bad-signature"]
    assert bad_signature["supplier_signature"] == "invalid"
    assert bad_signature["manufacturer_signature"] == "valid"
    assert bad_signature["manufacturer_image"] == before["manufacturer_image"]
    assert len(mutate(good, "truncated")) == len(good) - len(good) // 4
    assert len(mutate(good, "zero-length")) == 60


def test_flipped_bit_is_one_bit_and_the_seed_chooses_it() -> None:
    good = built()

    def difference(seed: int) -> int:
        bad = mutate(good, "flipped-bit", seed=seed)
        return int.from_bytes(good, "big") ^ int.from_bytes(bad, "big")

    differences = [difference(seed) for seed in range(8)]
    assert {value.bit_count() for value in differences} == {1}
    assert len(set(differences)) > 1
    assert difference(0) == differences[0]


def test_length_overflow_reaches_past_the_end() -> None:
    plain = mutate(built(), "length-overflow")
    with pytest.raises(Exception, match="sizes give 4294"):
        decode_manufacturer_image(plain[60:])
    with pytest.raises(Exception, match="passes the file's end"):
        decode_ota_file(mutate(built(ImageFormat.ZIGBEE), "length-overflow"))
    vendor = build_gb_plain(OtaHeader(MANIFEST.image), b"vendor image")
    with pytest.raises(Exception, match="header length 65535"):
        decode_ota_file(mutate(vendor, "length-overflow"))


def test_what_cannot_be_spoilt_is_refused() -> None:
    vendor = build_gb_plain(OtaHeader(MANIFEST.image), b"vendor image")
    with pytest.raises(ConfigError, match="no signature"):
        mutate(vendor, "bad-signature")
    anywhere = build_image(replace(MANIFEST, hardware_version_min=0, hardware_version_max=0xFFFF))
    assert shape_of(mutate(anywhere, "hardware-out-of-range"))["hardware_version_min"] == 0xFFFF
    with pytest.raises(ConfigError, match="no hardware versions"):
        mutate(vendor, "hardware-out-of-range")
    with pytest.raises(ConfigError, match="expected one of wrong-hash"):
        mutate(vendor, "no-such-mutation")
    with pytest.raises(ConfigError, match="in order"):
        mutate(b"no image", "truncated")
