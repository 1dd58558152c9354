"""Decides whether the bytes in a bank are an image this device may run.

``verify_image`` is the one door: only it makes a ``VerifiedImage``, and ``Banks`` marks and
activates nothing else. It is called on a full read-back at the end of a download, again right
before an activation and at every start, always on the bytes of the bank.

Order of the checks (cheap ones first, signatures last; a later one may rely on every earlier one):

1. the OTA file's form, sizes and sub-elements (gbcs.md 2.2, 2.3; ZCL OTA file format)
2. manufacturer code, image type, hardware range against the device (gbcs.md 2.5)
3. the AES-MMO integrity code, for files that carry one
4. the behaviour manifest: form, and agreement with the OTA header
5. the manufacturer's signature: a wrong one is always refused, an absent one by configuration
6. the supplier's signature, for files that carry its tail (gbcs.md 2.3)

Roll-back floor and reject list belong to ``Banks``: they concern activation, not the image.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

from firmware_node.crypto import AesMmo, Keyring
from firmware_node.errors import DecodeError, KeyMissingError, RefusedError
from firmware_node.terms import DeviceSettings, EntityId, ImageFormat, ImageKey, Role, Span
from firmware_node.wire.manufacturer_image import Manifest, decode_manufacturer_image
from firmware_node.wire.ota_file import OtaFile, OtaHeader, decode_ota_file
from firmware_node.wire.zcl import Status


@dataclass(frozen=True, slots=True)
class VerifiedImage:
    """An OTA file that passed every check; made by ``verify_image`` alone."""

    image: ImageKey
    format: ImageFormat
    file_size: int  # bytes of the whole OTA file
    fingerprint: bytes  # over header, hash of the manufacturer image, and what follows it
    manufacturer_image: Span
    manufacturer_sha256: bytes  # the Manufacturer Image Hash of GBCS (gbcs.md 2.1)
    manifest: Manifest | None  # None: a vendor's own image, which runs with defaults
    supplier: EntityId | None  # whose signature the tail carries
    hardware_version_min: int | None
    hardware_version_max: int | None


def verify_image(data: bytes, settings: DeviceSettings, keyring: Keyring) -> VerifiedImage:
    """Check a whole OTA file; the numbers are those of the module's list.

    Raises:
        RefusedError: with the ZCL status for the Upgrade End Request and a cause word.
    """
    # 1
    try:
        ota_file = _decode(data, settings)
    except DecodeError as error:
        raise _refused("image_malformed", str(error)) from error
    header = ota_file.header
    # 2
    check_header(header, settings)
    span = ota_file.manufacturer_image
    view = memoryview(data)
    manufacturer_image = view[span.offset : span.end]
    # 3
    _check_integrity_code(ota_file, view)
    # 4
    manifest, signed_size, signature = _read_manifest(bytes(manufacturer_image), header)
    # One pass serves two digests: what the manufacturer signed is the image without its tail.
    digest = hashlib.sha256(manufacturer_image[:signed_size])
    signed_digest = digest.digest()
    digest.update(manufacturer_image[signed_size:])
    # 5
    _check_manufacturer_signature(signed_digest, signature, settings, keyring)
    # 6
    supplier = _check_supplier_signature(digest.digest(), ota_file, settings, keyring)
    return VerifiedImage(
        image=header.image,
        format=ota_file.format,
        file_size=len(data),
        fingerprint=_fingerprint(view, span, digest.digest()),
        manufacturer_image=span,
        manufacturer_sha256=digest.digest(),
        manifest=manifest,
        supplier=supplier,
        hardware_version_min=header.hardware_version_min,
        hardware_version_max=header.hardware_version_max,
    )


def manufacturer_sha256(data: bytes, settings: DeviceSettings) -> bytes:
    """The Manufacturer Image Hash of a file that need not be good, for the receipt alert.

    Of a file that cannot be taken apart it is the hash of everything.
    """
    try:
        span = _decode(data, settings).manufacturer_image
    except DecodeError:
        return hashlib.sha256(data).digest()
    return hashlib.sha256(data[span.offset : span.end]).digest()


def _decode(data: bytes, settings: DeviceSettings) -> OtaFile:
    """A PPMID's image never has a supplier's tail, whatever its octet -65 is (gbcs.md 1.3)."""
    return decode_ota_file(data, settings.image_format, may_have_tail=settings.type.has_supplier)


def _fingerprint(view: memoryview, span: Span, manufacturer_sha256: bytes) -> bytes:
    """Names the whole file without hashing its bulk a second time."""
    digest = hashlib.sha256(view[: span.offset])
    digest.update(manufacturer_sha256)
    digest.update(view[span.end :])
    return digest.digest()


def check_header(header: OtaHeader, settings: DeviceSettings) -> None:
    """Refuse an image made for another manufacturer, type, hardware or device (gbcs.md 2.5).

    Raises:
        RefusedError: INVALID_IMAGE and the cause.
    """
    if header.image.manufacturer_code != settings.manufacturer_code:
        raise _refused(
            "wrong_manufacturer",
            f"manufacturer code {header.image.manufacturer_code:04x}, "
            f"this device is {settings.manufacturer_code:04x}",
        )
    if header.image.image_type != settings.image_type:
        raise _refused(
            "wrong_image_type",
            f"image type {header.image.image_type:04x}, this device takes "
            f"{settings.image_type:04x}",
        )
    low, high = header.hardware_version_min, header.hardware_version_max
    if low is not None and high is not None and not low <= settings.hardware_version <= high:
        raise _refused(
            "hardware_out_of_range",
            f"made for hardware {low:04x} to {high:04x}, this device is "
            f"{settings.hardware_version:04x}",
        )
    if header.destination is not None and header.destination != settings.entity_id:
        raise _refused("other_destination", f"made for device {header.destination} alone")


def _check_integrity_code(ota_file: OtaFile, view: memoryview) -> None:
    code, covered = ota_file.integrity_code, ota_file.integrity_covered
    if code is None or covered is None:
        return
    mmo = AesMmo()
    mmo.update(bytes(view[covered.offset : covered.end]))
    if not hmac.compare_digest(mmo.digest(), code):
        raise _refused("integrity_code_wrong", "the AES-MMO integrity code does not match")


def _read_manifest(
    manufacturer_image: bytes, header: OtaHeader
) -> tuple[Manifest | None, int, bytes | None]:
    """The manifest, the size of what the manufacturer signed, and the signature."""
    try:
        own = decode_manufacturer_image(manufacturer_image)
    except DecodeError as error:
        raise _refused("manifest_malformed", str(error)) from error
    if own is None:
        return None, len(manufacturer_image), None
    if own.manifest.image != header.image:
        raise _refused("manifest_mismatch", "manifest and OTA header name different images")
    return own.manifest, own.signed_octets.size, own.signature


def _check_manufacturer_signature(
    digest: bytes, signature: bytes | None, settings: DeviceSettings, keyring: Keyring
) -> None:
    if signature is None:
        if settings.manufacturer_signature_required:
            raise _refused("manufacturer_signature_absent", "an unsigned manufacturer image")
        return
    try:
        key = keyring.manufacturer_verify_key(settings.manufacturer_code)
    except KeyMissingError as error:
        raise _refused("manufacturer_key_missing", str(error)) from error
    if not key.is_valid_digest(signature, digest):
        raise _refused("manufacturer_signature_wrong", "the manufacturer's signature is wrong")


def _check_supplier_signature(
    digest: bytes, ota_file: OtaFile, settings: DeviceSettings, keyring: Keyring
) -> EntityId | None:
    """The supplier whose key verifies the tail; the signature names no signer, so each is tried."""
    has_key = False
    if ota_file.supplier_signature is None:
        return None
    known = (settings.supplier,) if settings.supplier else keyring.find(Role.SUPPLIER)
    for supplier in known:
        try:
            key = keyring.verify_key(supplier)
        except KeyMissingError:
            continue
        has_key = True
        if key.is_valid_digest(ota_file.supplier_signature, digest):
            return supplier
    if not has_key:
        raise _refused("supplier_key_missing", "no supplier's certificate in the key folder")
    raise _refused("supplier_signature_wrong", "no known supplier signed this image")


def _refused(cause: str, reason: str) -> RefusedError:
    return RefusedError(Status.INVALID_IMAGE, cause, reason)
