"""Makes, signs, examines and spoils firmware images, all over bytes.

Three layers lie in one file: the manufacturer image (ours has a behaviour manifest and may be
signed by the manufacturer), the body around it, and the OTA header. ``inspect`` tells what is
there and what is wrong and judges no device's rules; whether a device would take an image is
decided by the device. Files and arguments are left to the command line.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from firmware_node.crypto import Keyring, SigningKey, aes_mmo
from firmware_node.errors import ConfigError, DecodeError, KeyMissingError
from firmware_node.terms import EntityId, ImageFormat, Role, Span
from firmware_node.tools import duis
from firmware_node.wire import manufacturer_image, ota_file
from firmware_node.wire.manufacturer_image import Manifest, decode_manufacturer_image
from firmware_node.wire.ota_file import OtaFile, OtaHeader, decode_ota_file, decode_ota_header

HEADER_STRING_SIZE = 32  # octets (gbcs.md 2.2)
MANUFACTURER_IMAGE_SIZE_MAX = 16 * 1024 * 1024  # bytes; beyond what SR 11.1 and 11.4 can carry

Shape = dict[str, object]


def build_image(
    manifest: Manifest,
    *,
    size: int | None = None,
    kind: ImageFormat = ImageFormat.GB_PLAIN,
    header_string: str = "",
    seed: int = 0,
    manufacturer_key: SigningKey | None = None,
    supplier_key: SigningKey | None = None,
) -> bytes:
    """A whole OTA file around our own manufacturer image of exactly ``size`` bytes.

    ``size`` None gives the smallest one. The body is filler that follows from ``seed``. A
    ``zigbee`` file gets an integrity code.

    Raises:
        ConfigError: a value out of range, or key and kind do not go together.
    """
    _check_manifest(manifest)
    _check_header_string(header_string)
    least = manufacturer_image.overhead(manifest, manufacturer_key is not None)
    size = least if size is None else size
    if not least <= size <= MANUFACTURER_IMAGE_SIZE_MAX:
        raise ConfigError(
            f"image size: expected {least} to {MANUFACTURER_IMAGE_SIZE_MAX} bytes, found {size}"
        )
    body = hashlib.shake_256(f"filler {seed}".encode()).digest(size - least)
    sign = None if manufacturer_key is None else manufacturer_key.sign
    header = OtaHeader(
        image=manifest.image,
        header_string=header_string,
        hardware_version_min=manifest.hardware_version_min,
        hardware_version_max=manifest.hardware_version_max,
    )
    return _wrap(header, kind, manufacturer_image.build(manifest, body, sign), supplier_key)


def _check_manifest(manifest: Manifest) -> None:
    """What a device could not read is not built."""
    low, high = manifest.hardware_version_min, manifest.hardware_version_max
    if low > high:
        raise ConfigError(f"hardware versions: found {low:04x} to {high:04x}, expected a range")
    size = len(manufacturer_image.encode_manifest(manifest))
    if size > manufacturer_image.MANIFEST_SIZE_MAX:
        expected = f"at most {manufacturer_image.MANIFEST_SIZE_MAX}"
        raise ConfigError(f"manifest: found {size} octets, expected {expected}")
    try:
        decode_manufacturer_image(manufacturer_image.build(manifest, b"", None))
    except DecodeError as error:
        raise ConfigError(f"manifest: {error.reason}, expected what a device can read") from error


def _check_header_string(text: str) -> None:
    if len(text) > HEADER_STRING_SIZE or not text.isascii() or not text.isprintable():
        raise ConfigError(
            f"header string: found {text[:40]!r}, expected at most {HEADER_STRING_SIZE} "
            "printable ASCII characters"
        )


def sign(
    data: bytes,
    *,
    manufacturer_key: SigningKey | None = None,
    supplier_key: SigningKey | None = None,
    kind: ImageFormat | None = None,
) -> bytes:
    """The OTA file with new signatures; the manufacturer's first, since the supplier's covers it.

    A supplier's signature makes a ``gb-plain`` file ``gb-supplier-signed``.

    Raises:
        ConfigError: no good OTA file; a manufacturer's key and a vendor's own image; a supplier's
            key and a ``zigbee`` file; or a new manufacturer's signature without a supplier's
            where that one would no longer hold.
    """
    try:
        file = decode_ota_file(data, kind)
        own = decode_manufacturer_image(_cut(data, file.manufacturer_image))
    except DecodeError as error:
        raise ConfigError(str(error)) from error
    inner = _cut(data, file.manufacturer_image)
    if manufacturer_key is not None:
        if own is None:
            raise ConfigError("manufacturer signature: a vendor's own image has no place for it")
        at = manufacturer_image.overhead(own.manifest, signed=False)
        body = inner[at : own.signed_octets.end]
        inner = manufacturer_image.build(own.manifest, body, manufacturer_key.sign)
    target = file.format
    if supplier_key is not None:
        if target is ImageFormat.ZIGBEE:
            raise ConfigError("supplier signature: expected a GB file, found zigbee")
        target = ImageFormat.GB_SUPPLIER_SIGNED
    elif target is ImageFormat.GB_SUPPLIER_SIGNED:
        raise ConfigError("supplier signature: its key is needed to sign this file again")
    return _wrap(file.header, target, inner, supplier_key)


def inspect(data: bytes, keyring: Keyring | None = None, kind: ImageFormat | None = None) -> Shape:
    """What an OTA file, or a DUIS request that carries one, holds: the contract's shape.

    ``kind`` overrides what octets and service reference say. ``problems`` lists everything that
    does not agree; it is empty for a file in order. Without the key a signature is ``no-key``.

    Raises:
        ConfigError: not an OTA file and no request with one.
    """
    request = duis.parse_request(data) if duis.is_request(data) else None
    if request is not None:
        if request.image is None:
            raise ConfigError(f"SR {request.service_reference} carries no firmware image")
        data = request.image
        if kind is None and request.service_reference == duis.UPDATE_PPMID_FIRMWARE:
            kind = ImageFormat.GB_PLAIN
    reading = _read(data, kind)
    header, problems = reading.file.header, list(reading.problems)
    inner = _cut(data, reading.file.manufacturer_image)
    supplier_signature = _supplier_verdict(inner, reading.file, keyring)
    if supplier_signature == "invalid":
        problems.append("the supplier signature is wrong, or of a supplier not in the key folder")
    if request is not None and request.service_reference == duis.UPDATE_FIRMWARE:
        if supplier_signature == "absent":
            problems.append("SR 11.1 carries a file without a supplier signature")
    _check_integrity_code(data, reading.file, problems)
    own = _own_image(inner, header, problems)
    manufacturer_signature = _manufacturer_verdict(inner, own, keyring)
    if manufacturer_signature == "invalid":
        problems.append("the manufacturer signature is wrong")
    shape: Shape = {
        "kind": reading.file.format.value,
        "manufacturer_code": header.image.manufacturer_code,
        "image_type": header.image.image_type,
        "file_version": header.image.version_hex,
        "hardware_version_min": header.hardware_version_min,
        "hardware_version_max": header.hardware_version_max,
        "header_string": header.header_string,
        "total_image_size": header.total_image_size,
        "manufacturer_image": {
            "offset": reading.file.manufacturer_image.offset,
            "size": reading.file.manufacturer_image.size,
            "sha256": hashlib.sha256(inner).hexdigest(),
        },
        "supplier_signature": supplier_signature,
        "sub_elements": [
            {"tag": f"{element.tag:04X}", "offset": element.span.offset, "size": element.span.size}
            for element in reading.file.sub_elements
        ],
        "problems": problems,
        "stack_version": header.stack_version,
        "destination": None if header.destination is None else str(header.destination),
        "manufacturer_signature": manufacturer_signature,
        "manifest": None if own is None else _manifest_fields(own.manifest),
    }
    if request is not None:
        shape["request"] = {
            "request_id": request.request_id,
            "service_reference": request.service_reference,
            "firmware_version": request.firmware_version,
            "devices": [str(device) for device in request.devices],
        }
    return shape


def verify(data: bytes, keyring: Keyring, kind: ImageFormat | None = None) -> tuple[str, ...]:
    """Why the image cannot be trusted, empty when it can.

    Everything ``inspect`` finds, and each signature that is there but has no key to check it. An
    absent signature is no reason: a ``gb-plain`` file of a vendor's image has none.

    Raises:
        ConfigError: as ``inspect``.
    """
    shape = inspect(data, keyring, kind)
    reasons = shape["problems"]
    assert isinstance(reasons, list)
    for name in ("supplier_signature", "manufacturer_signature"):
        if shape[name] == "no-key":
            reasons.append(f"no key for the {name.replace('_', ' ')}")
    return tuple(reasons)


def mutate(data: bytes, name: str, *, seed: int = 0, kind: ImageFormat | None = None) -> bytes:
    """A copy of an OTA file that is bad in one named way; ``MUTATIONS`` says how.

    Raises:
        ConfigError: unknown name, no OTA file in order, or nothing in it that can be spoilt so.
    """
    if name not in _MUTATORS:
        raise ConfigError(f"mutation {name!r}: expected one of {' '.join(_MUTATORS)}")
    try:
        file = decode_ota_file(data, kind)
    except DecodeError as error:
        raise ConfigError(f"only an image in order can be spoilt: {error}") from error
    return _MUTATORS[name].make(bytearray(data), file, seed)


# --- wrapping -----------------------------------------------------------------------------------


def _wrap(
    header: OtaHeader, kind: ImageFormat, inner: bytes, supplier_key: SigningKey | None
) -> bytes:
    if (supplier_key is not None) != (kind is ImageFormat.GB_SUPPLIER_SIGNED):
        needs = "needs" if supplier_key is None else "has no place for"
        raise ConfigError(f"a {kind.value} file {needs} a supplier's signature")
    if supplier_key is not None:
        return ota_file.build_gb_supplier_signed(header, inner, supplier_key.sign(inner))
    if kind is ImageFormat.GB_PLAIN:
        return ota_file.build_gb_plain(header, inner)
    blank = bytes(ota_file.INTEGRITY_CODE_SIZE)
    elements = ((ota_file.TAG_UPGRADE_IMAGE, inner), (ota_file.TAG_INTEGRITY_CODE, blank))
    data = ota_file.build_zigbee(header, elements)
    covered = decode_ota_file(data, kind).integrity_covered
    assert covered is not None
    return data[: -len(blank)] + aes_mmo(data[: covered.end])


# --- inspecting ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Reading:
    """A file taken apart as far as it goes, and what stopped it."""

    file: OtaFile
    problems: tuple[str, ...]


def _read(data: bytes, kind: ImageFormat | None) -> _Reading:
    """Read past what does not agree, so that the rest can be shown.

    Raises:
        ConfigError: there is no OTA header to begin with.
    """
    try:
        header = decode_ota_header(data)
    except DecodeError as error:
        raise ConfigError(f"neither an OTA file nor a DUIS request: {error}") from error
    problems: list[str] = []
    total = header.total_image_size
    if total != len(data):
        problems.append(f"total image size is {total}, the file has {len(data)} octets")
        # Octets behind the stated end are no part of the image; octets that miss cannot be shown.
        data = data[:total] if header.header_length < total < len(data) else data
        data = _with_total_size(data, len(data))
    try:
        file = decode_ota_file(data, kind)
    except DecodeError as error:
        problems.append(str(error))
        rest = Span(header.header_length, len(data) - header.header_length)
        # With the kind left open only a tagged body can fail, or one that is not there.
        fallback = ImageFormat.ZIGBEE if rest.size else ImageFormat.GB_PLAIN
        file = OtaFile(header, kind or fallback, rest)
    return _Reading(replace(file, header=header), tuple(problems))


def _supplier_verdict(inner: bytes, file: OtaFile, keyring: Keyring | None) -> str:
    """``valid``, ``invalid``, ``absent`` or ``no-key``; the tail names no signer, so try each."""
    if file.supplier_signature is None:
        return "absent"
    digest = hashlib.sha256(inner).digest()
    verdict = "no-key"
    for holder in () if keyring is None else keyring.entities():
        assert keyring is not None
        try:
            if not _may_supply(holder, keyring):
                continue
            if keyring.verify_key(holder).is_valid_digest(file.supplier_signature, digest):
                return "valid"
        except KeyMissingError:
            continue
        verdict = "invalid"
    return verdict


def _may_supply(holder: EntityId, keyring: Keyring) -> bool:
    """A supplier by certificate; or nobody knows who, because there is only a bare key."""
    role = keyring.role(holder)
    return role is Role.SUPPLIER or (role is None and not keyring.is_device(holder))


def _check_integrity_code(data: bytes, file: OtaFile, problems: list[str]) -> None:
    if file.integrity_code is None or file.integrity_covered is None:
        return
    if not hmac.compare_digest(aes_mmo(_cut(data, file.integrity_covered)), file.integrity_code):
        problems.append("the integrity code does not match")


def _own_image(
    inner: bytes, header: OtaHeader, problems: list[str]
) -> manufacturer_image.ManufacturerImage | None:
    try:
        own = decode_manufacturer_image(inner)
    except DecodeError as error:
        problems.append(str(error))
        return None
    if own is not None and own.manifest.image != header.image:
        problems.append("manifest and OTA header name different images")
    return own


def _manufacturer_verdict(
    inner: bytes, own: manufacturer_image.ManufacturerImage | None, keyring: Keyring | None
) -> str:
    if own is None or own.signature is None:
        return "absent"
    try:
        if keyring is None:
            return "no-key"
        key = keyring.manufacturer_verify_key(own.manifest.image.manufacturer_code)
    except KeyMissingError:
        return "no-key"
    return "valid" if key.is_valid(own.signature, _cut(inner, own.signed_octets)) else "invalid"


def _manifest_fields(manifest: Manifest) -> Shape:
    return {
        "file_version": manifest.image.version_hex,
        "version_string": manifest.version_string,
        "date_code": manifest.date_code,
        "self_test": manifest.self_test,
        "startup_ms": manifest.startup_ms,
        "crash_after_ms": manifest.crash_after_ms,
        "confirms": manifest.confirms,
        "switch_works": manifest.switch_works,
        "from_versions": [f"{version:08x}" for version in manifest.from_versions],
    }


def _cut(data: bytes, span: Span) -> bytes:
    return data[span.offset : span.end]


# --- spoiling -----------------------------------------------------------------------------------

_MANUFACTURER_CODE_OFFSET = 10  # of the OTA header's fields (gbcs.md 2.2)
_IMAGE_TYPE_OFFSET = 12
_FILE_VERSION_OFFSET = 14
_BODY_SIZE_OFFSET = 9  # in our own manufacturer image
_TRAILING = b"trailing octets."


@dataclass(frozen=True, slots=True)
class _Mutator:
    """What one mutation breaks, and how it is made."""

    breaks: str
    make: Callable[[bytearray, OtaFile, int], bytes]


def _wrong_hash(data: bytearray, file: OtaFile, _seed: int) -> bytes:
    data[file.manufacturer_image.end - 1 - _signature_size(data, file)] ^= 0xFF
    return bytes(data)


def _truncated(data: bytearray, file: OtaFile, _seed: int) -> bytes:
    keep = max(file.header.header_length, len(data) - max(1, len(data) // 4))
    return bytes(data[:keep])


def _trailing_bytes(data: bytearray, _file: OtaFile, _seed: int) -> bytes:
    return bytes(data) + _TRAILING


def _length_overflow(data: bytearray, file: OtaFile, _seed: int) -> bytes:
    span = file.manufacturer_image
    if file.format is ImageFormat.ZIGBEE:
        data[span.offset - 4 : span.offset] = b"\xff" * 4
    elif data[span.offset : span.offset + 4] == manufacturer_image.MAGIC:
        at = span.offset + _BODY_SIZE_OFFSET
        data[at : at + 4] = b"\xff" * 4
    else:
        data[6:8] = b"\xff\xff"
    return bytes(data)


def _zero_length(data: bytearray, file: OtaFile, _seed: int) -> bytes:
    size = file.header.header_length
    return _with_total_size(bytes(data[:size]), size)


def _wrong_manufacturer(data: bytearray, file: OtaFile, _seed: int) -> bytes:
    code = _other_u16(file.header.image.manufacturer_code)
    return _with_field(data, _MANUFACTURER_CODE_OFFSET, code, 2)


def _wrong_type(data: bytearray, file: OtaFile, _seed: int) -> bytes:
    return _with_field(data, _IMAGE_TYPE_OFFSET, _other_u16(file.header.image.image_type), 2)


def _hardware_out_of_range(data: bytearray, file: OtaFile, _seed: int) -> bytes:
    high = file.header.hardware_version_max
    if high is None:
        raise ConfigError("hardware-out-of-range: the OTA header has no hardware versions")
    # The file's own range was right for the device; the one right behind or before it is not.
    # Of a file for all hardware only the last version is left, which no device is likely to have.
    other = high + 1 if high < 0xFFFF else ((file.header.hardware_version_min or 0) - 1) % 0x10000
    at = file.header.header_length - 4
    data[at : at + 4] = other.to_bytes(2, "little") * 2
    return bytes(data)


def _downgrade(data: bytearray, _file: OtaFile, _seed: int) -> bytes:
    return _with_field(data, _FILE_VERSION_OFFSET, 0, 4)


def _flipped_bit(data: bytearray, file: OtaFile, seed: int) -> bytes:
    span = file.manufacturer_image
    draw = int.from_bytes(hashlib.sha256(f"flipped bit {seed}".encode()).digest(), "big")
    data[span.offset + draw // 8 % span.size] ^= 1 << draw % 8
    return bytes(data)


def _bad_signature(data: bytearray, file: OtaFile, _seed: int) -> bytes:
    if file.supplier_signature is not None:
        data[-1] ^= 0x01
    elif _signature_size(data, file):
        data[file.manufacturer_image.end - 1] ^= 0x01
    else:
        raise ConfigError("bad-signature: the image has no signature")
    return bytes(data)


def _endless_file(data: bytearray, _file: OtaFile, _seed: int) -> bytes:
    return _with_total_size(bytes(data), 0xFFFFFFFF)


_MUTATORS: Mapping[str, _Mutator] = MappingProxyType(
    {
        "wrong-hash": _Mutator(
            "the last octet of what the manufacturer signed is inverted: the SHA-256 is neither "
            "the one that was signed nor the one an activation names",
            _wrong_hash,
        ),
        "truncated": _Mutator(
            "the last quarter is missing; the OTA header still promises it", _truncated
        ),
        "trailing-bytes": _Mutator(
            "16 octets follow the end that the OTA header states", _trailing_bytes
        ),
        "length-overflow": _Mutator(
            "an inner length is all ones: the upgrade image's (zigbee), the body's (our own "
            "manufacturer image), else the OTA header's",
            _length_overflow,
        ),
        "zero-length": _Mutator(
            "an OTA header that says it is the whole file: no image at all", _zero_length
        ),
        "wrong-manufacturer": _Mutator(
            "the OTA header names another manufacturer code", _wrong_manufacturer
        ),
        "wrong-type": _Mutator("the OTA header names another image type", _wrong_type),
        "hardware-out-of-range": _Mutator(
            "the OTA header's hardware versions are one beside the range they were, ffff if that "
            "was all of them",
            _hardware_out_of_range,
        ),
        "downgrade": _Mutator(
            "the OTA header's file version is 00000000, older than any", _downgrade
        ),
        "flipped-bit": _Mutator(
            "one bit of the manufacturer image, chosen by the seed, is flipped; only a signature "
            "or an integrity code notices",
            _flipped_bit,
        ),
        "bad-signature": _Mutator(
            "one bit of the supplier's signature, or where there is none of the manufacturer's, "
            "is flipped",
            _bad_signature,
        ),
        "endless-file": _Mutator(
            "the OTA header's total image size is ffffffff, the most it can say", _endless_file
        ),
    }
)
MUTATIONS: Mapping[str, str] = MappingProxyType(
    {name: mutator.breaks for name, mutator in _MUTATORS.items()}
)


def _signature_size(data: bytearray, file: OtaFile) -> int:
    """Octets of the manufacturer's signature at the end of the manufacturer image."""
    try:
        own = decode_manufacturer_image(_cut(bytes(data), file.manufacturer_image))
    except DecodeError as error:
        raise ConfigError(f"only an image in order can be spoilt: {error}") from error
    return 0 if own is None or own.signature is None else len(own.signature)


def _other_u16(value: int) -> int:
    """A neighbour, never the wild card ffff."""
    return (value + 1) % 0xFFFF


def _with_field(data: bytearray, offset: int, value: int, size: int) -> bytes:
    data[offset : offset + size] = value.to_bytes(size, "little")
    return bytes(data)


def _with_total_size(data: bytes, size: int) -> bytes:
    return _with_field(bytearray(data), ota_file.TOTAL_SIZE_OFFSET, size, 4)
