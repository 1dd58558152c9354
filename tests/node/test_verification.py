"""The one door: what an image must pass, in which order, and what then is known of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from itertools import combinations

import pytest
from home import KEYS, PPMID, SETTINGS

from firmware_node.crypto import Keyring, aes_mmo
from firmware_node.errors import RefusedError
from firmware_node.node.verification import VerifiedImage, verify_image
from firmware_node.terms import DeviceSettings, DeviceType, EntityId, ImageFormat, ImageKey, Role
from firmware_node.tools.keys import PARTIES, build_keys
from firmware_node.wire import manufacturer_image
from firmware_node.wire.manufacturer_image import Manifest
from firmware_node.wire.ota_file import (
    OtaHeader,
    build_gb_plain,
    build_gb_supplier_signed,
    build_zigbee,
    decode_ota_file,
)
from firmware_node.wire.zcl import Status

KEY = ImageKey(0x121D, 0x0084, 2)
BODY = b"octets of firmware. " * 10
HCALCS = replace(SETTINGS, type=DeviceType.HCALCS)
SUPPLIER = KEYS.find(Role.SUPPLIER)[0]
PLAIN, SIGNED, TAGGED = (
    ImageFormat.GB_PLAIN,
    ImageFormat.GB_SUPPLIER_SIGNED,
    ImageFormat.ZIGBEE,
)

# What each step refuses, in the order of the module's list. A tagged file has an integrity code, a
# supplier-signed one a tail; none has both.
CAUSES = {
    "form": "image_malformed",
    "header": "wrong_manufacturer",
    "integrity": "integrity_code_wrong",
    "manifest": "manifest_mismatch",
    "manufacturer": "manufacturer_signature_wrong",
    "supplier": "supplier_signature_wrong",
}
STEPS = {
    PLAIN: ("form", "header", "manifest", "manufacturer"),
    SIGNED: ("form", "header", "manifest", "manufacturer", "supplier"),
    TAGGED: ("form", "header", "integrity", "manifest", "manufacturer"),
}


def build(
    kind: ImageFormat = PLAIN,
    faults: Iterable[str] = (),
    *,
    signed: bool = True,
    header: OtaHeader | None = None,
    inner: bytes | None = None,
) -> bytes:
    """A file that fails at the named steps; its signatures and codes are otherwise right."""
    key = KEYS.manufacturer_signing_key(0x121D)
    header = header or OtaHeader(KEY, hardware_version_min=0x1111, hardware_version_max=0x1211)
    if inner is None:
        image = KEY._replace(file_version=3) if "manifest" in faults else header.image
        manifest = Manifest(image, 0x1111, 0x1211, version_string="v2")
        inner = manufacturer_image.build(manifest, BODY, key.sign if signed else None)
    if "manufacturer" in faults:
        inner = _spoilt(inner)
    if "header" in faults:
        header = replace(header, image=KEY._replace(manufacturer_code=0x121E))
    if kind is PLAIN:
        data = build_gb_plain(header, inner)
    elif kind is SIGNED:
        signature = KEYS.signing_key(SUPPLIER).sign(inner)
        data = build_gb_supplier_signed(
            header, inner, _spoilt(signature) if "supplier" in faults else signature
        )
    else:
        data = build_zigbee(header, ((0x0000, inner), (0x0003, bytes(16))))
        code = aes_mmo(data[:-16])
        data = data[:-16] + (_spoilt(code) if "integrity" in faults else code)
    return data + b"x" if "form" in faults else data


def _spoilt(octets: bytes) -> bytes:
    return octets[:-1] + bytes((octets[-1] ^ 1,))


def settings_for(kind: ImageFormat) -> DeviceSettings:
    return HCALCS if kind is SIGNED else SETTINGS


def cause(data: bytes, settings: DeviceSettings = SETTINGS, keyring: Keyring = KEYS) -> str:
    with pytest.raises(RefusedError) as refused:
        verify_image(data, settings, keyring)
    assert refused.value.code == Status.INVALID_IMAGE
    return refused.value.cause


# --- what passes --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", STEPS)
def test_an_image_in_order_passes_and_is_described(kind: ImageFormat) -> None:
    data = build(kind)
    span = decode_ota_file(data, kind).manufacturer_image
    inner = data[span.offset : span.end]
    fingerprint = hashlib.sha256(data[: span.offset])
    fingerprint.update(hashlib.sha256(inner).digest() + data[span.end :])
    assert verify_image(data, settings_for(kind), KEYS) == VerifiedImage(
        image=KEY,
        format=kind,
        file_size=len(data),
        fingerprint=fingerprint.digest(),
        manufacturer_image=span,
        manufacturer_sha256=hashlib.sha256(inner).digest(),
        manifest=Manifest(KEY, 0x1111, 0x1211, version_string="v2"),
        supplier=SUPPLIER if kind is SIGNED else None,
        hardware_version_min=0x1111,
        hardware_version_max=0x1211,
    )


@pytest.mark.parametrize("kind", STEPS)
def test_every_octet_of_a_file_is_covered_by_its_fingerprint_or_refused(kind: ImageFormat) -> None:
    data, settings = build(kind, signed=False), settings_for(kind)
    seen = {verify_image(data, settings, KEYS).fingerprint}
    for at in range(len(data)):
        spoilt = bytearray(data)
        spoilt[at] ^= 0x10
        try:
            seen.add(verify_image(bytes(spoilt), settings, KEYS).fingerprint)
        except RefusedError:
            seen.add(at.to_bytes(4, "big"))
    assert len(seen) == 1 + len(data)


def test_a_vendors_own_image_passes_with_defaults() -> None:
    verified = verify_image(build(inner=b"octets of a vendor" * 9), SETTINGS, KEYS)
    assert (verified.manifest, verified.image) == (None, KEY)


def test_the_shape_is_what_the_settings_say() -> None:
    tagged = build_zigbee(OtaHeader(KEY), ((0x0000, b"octets" * 20),))
    assert verify_image(tagged, SETTINGS, KEYS).format is TAGGED
    plain = verify_image(tagged, replace(SETTINGS, image_format=PLAIN), KEYS)
    assert (plain.format, plain.manufacturer_image.size) == (PLAIN, len(tagged) - 56)


# --- what does not, and in which order ------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "fault"), [(kind, fault) for kind in STEPS for fault in STEPS[kind]]
)
def test_each_step_refuses_what_it_is_there_for(kind: ImageFormat, fault: str) -> None:
    assert cause(build(kind, {fault}), settings_for(kind)) == CAUSES[fault]


@pytest.mark.parametrize("kind", STEPS)
def test_the_earlier_of_any_two_faults_is_the_one_that_is_told(kind: ImageFormat) -> None:
    for first, second in combinations(STEPS[kind], 2):
        told = cause(build(kind, {first, second}), settings_for(kind))
        assert told == CAUSES[first], (first, second)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"image": KEY._replace(manufacturer_code=0x121C)}, "wrong_manufacturer"),
        ({"image": KEY._replace(manufacturer_code=0xFFFF)}, "wrong_manufacturer"),
        ({"image": KEY._replace(image_type=0x0085)}, "wrong_image_type"),
        (
            {"hardware_version_min": 0x1112, "hardware_version_max": 0x1211},
            "hardware_out_of_range",
        ),
        (
            {"hardware_version_min": 0x1000, "hardware_version_max": 0x1110},
            "hardware_out_of_range",
        ),
        ({"destination": EntityId(PPMID.octets[:-1] + b"\xa5")}, "other_destination"),
    ],
)
def test_an_image_for_another_device_is_refused(change: dict[str, object], expected: str) -> None:
    header = replace(OtaHeader(KEY), **change)  # type: ignore[arg-type]  # names are the test's
    assert cause(build(header=header)) == expected


@pytest.mark.parametrize(
    "change",
    [
        {},  # no hardware range at all
        {"hardware_version_min": 0x1111, "hardware_version_max": 0x1111},
        {"hardware_version_min": 0x0000, "hardware_version_max": 0x1111},
        {"hardware_version_min": 0x1111, "hardware_version_max": 0xFFFF},
        {"destination": PPMID},
    ],
)
def test_an_image_for_this_device_passes(change: dict[str, object]) -> None:
    header = replace(OtaHeader(KEY), **change)  # type: ignore[arg-type]  # names are the test's
    verified = verify_image(build(header=header), SETTINGS, KEYS)
    assert verified.hardware_version_max == change.get("hardware_version_max")


def test_a_tagged_file_without_an_integrity_code_needs_none() -> None:
    tagged = build_zigbee(OtaHeader(KEY), ((0x0000, b"octets" * 20), (0x0001, b"certificate")))
    assert verify_image(tagged, SETTINGS, KEYS).format is TAGGED


def test_a_manifest_that_is_cut_is_malformed() -> None:
    whole = manufacturer_image.build(Manifest(KEY, 0, 1), BODY, None)
    assert cause(build(inner=whole[:-1])) == "manifest_malformed"


# --- the manufacturer's signature -----------------------------------------------------------------

REQUIRED = replace(SETTINGS, manufacturer_signature_required=True)
NO_MANUFACTURER = Keyring(build_keys(b"flows", manufacturers=()))


@pytest.mark.parametrize("inner", [None, b"octets of a vendor" * 9])
def test_where_the_manufacturers_signature_is_required_an_unsigned_image_is_refused(
    inner: bytes | None,
) -> None:
    data = build(signed=False, inner=inner)
    assert cause(data, REQUIRED) == "manufacturer_signature_absent"
    assert verify_image(data, SETTINGS, KEYS).image == KEY
    assert verify_image(build(), REQUIRED, KEYS).image == KEY


@pytest.mark.parametrize("settings", [SETTINGS, REQUIRED])
def test_a_signature_that_cannot_be_checked_is_refused(settings: DeviceSettings) -> None:
    assert cause(build(), settings, NO_MANUFACTURER) == "manufacturer_key_missing"
    assert verify_image(build(signed=False), SETTINGS, NO_MANUFACTURER).image == KEY


@pytest.mark.parametrize("at", [0, 100, 190, 300])
def test_the_manufacturer_signed_every_octet_before_the_signature(at: int) -> None:
    inner = bytearray(manufacturer_image.build(Manifest(KEY, 0, 1), BODY, _sign))
    inner[len(inner) - 65 - at] ^= 1
    assert cause(build(inner=bytes(inner))) in (
        "manufacturer_signature_wrong",
        "manifest_malformed",
        "manifest_mismatch",
    )


def _sign(octets: bytes) -> bytes:
    return KEYS.manufacturer_signing_key(0x121D).sign(octets)


# --- the supplier's signature ---------------------------------------------------------------------


def test_the_supplier_signed_the_manufacturer_image_whole() -> None:
    data = bytearray(build(SIGNED, inner=b"octets of a vendor" * 9))
    for at in (60, 100, len(data) - 67):
        spoilt = bytearray(data)
        spoilt[at] ^= 1
        assert cause(bytes(spoilt), HCALCS) == "supplier_signature_wrong"
    assert verify_image(bytes(data), HCALCS, KEYS).supplier == SUPPLIER


def test_any_supplier_in_the_key_folder_may_have_signed() -> None:
    others = [
        replace(PARTIES[4], entity_id=EntityId.parse(f"90b3d51f300{number}0000"))
        for number in (0, 2)
    ]
    files = build_keys(b"flows", parties=[others[0], PARTIES[4], others[1]])
    assert verify_image(build(SIGNED), HCALCS, Keyring(files)).supplier == SUPPLIER
    strangers = Keyring(build_keys(b"flows", parties=others))
    assert cause(build(SIGNED), HCALCS, strangers) == "supplier_signature_wrong"


def test_a_supplier_without_a_signing_certificate_is_passed_over() -> None:
    files = build_keys(b"flows")
    name = f"{SUPPLIER.hex}-ds.pem"
    assert f"{SUPPLIER.hex}-ka.pem" in files
    del files[name], files[f"{SUPPLIER.hex}-ds.key"]
    keyring = Keyring(files)
    assert keyring.find(Role.SUPPLIER) == (SUPPLIER,)
    assert cause(build(SIGNED), HCALCS, keyring) == "supplier_key_missing"
