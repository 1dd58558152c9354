"""The emulator's own Manufacturer Image: a signed behaviour manifest and a body.

GBCS leaves a manufacturer's image and its protection open (gbcs.md 2.5), so this form is our
choice. A vendor's image has no such magic and runs with defaults.

Layout: ``FWN1`` | flags u8 (1: signed) | manifest size u32 | body size u32 | manifest | body |
signature (64, r||s, over everything before it; only when flagged). Integers little-endian; the
manifest is canonical JSON (sorted keys, no spaces, UTF-8).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, fields

from firmware_node.errors import DecodeError
from firmware_node.terms import ImageKey, Span

MAGIC = b"FWN1"
SIGNED = 0x01
SIGNATURE_SIZE = 64
MANIFEST_SIZE_MAX = 4096  # bytes; a manifest is a dozen short fields
TEXT_SIZE_MAX = 64  # characters; the Basic cluster's strings hold 16
_HEAD = struct.Struct("<4sBII")


@dataclass(frozen=True, slots=True)
class Manifest:
    """How a device that runs this image behaves."""

    image: ImageKey
    hardware_version_min: int
    hardware_version_max: int
    version_string: str = ""
    date_code: str = ""
    self_test: bool = True  # its outcome
    startup_ms: int = 0  # until the image is up
    crash_after_ms: int | None = None  # after it is up
    confirms: bool = True  # False: it runs and never says that it is well
    switch_works: bool = True  # the faulty feature that a next version mends
    from_versions: tuple[int, ...] = ()  # versions that may go to this one; empty: all


@dataclass(frozen=True, slots=True)
class ManufacturerImage:
    """A decoded image; spans count from its first octet."""

    manifest: Manifest
    signed_octets: Span
    signature: bytes | None


def decode_manufacturer_image(data: bytes) -> ManufacturerImage | None:
    """Read our own form; None when the magic is absent.

    Raises:
        DecodeError: the magic is there and sizes or manifest are wrong.
    """
    what = "manufacturer image"
    if not data.startswith(MAGIC):
        return None
    if len(data) < _HEAD.size:
        raise DecodeError(what, len(data), f"expected at least {_HEAD.size} octets")
    _, flags, manifest_size, body_size = _HEAD.unpack_from(data)
    if flags & ~SIGNED:
        raise DecodeError(what, 4, f"flags {flags:02x}")
    if manifest_size > MANIFEST_SIZE_MAX:
        raise DecodeError(what, 5, f"manifest of {manifest_size} octets")
    signed_size = _HEAD.size + manifest_size + body_size
    expected = signed_size + (SIGNATURE_SIZE if flags & SIGNED else 0)
    if len(data) != expected:
        raise DecodeError(what, 9, f"sizes give {expected} octets, found {len(data)}")
    manifest = _decode_manifest(data[_HEAD.size : _HEAD.size + manifest_size])
    signature = data[signed_size:] if flags & SIGNED else None
    return ManufacturerImage(manifest, Span(0, signed_size), signature)


def build(manifest: Manifest, body: bytes, sign: Callable[[bytes], bytes] | None) -> bytes:
    """A whole manufacturer image; ``sign`` gives 64 octets r||s, None leaves it unsigned."""
    text = encode_manifest(manifest)
    flags = 0 if sign is None else SIGNED
    signed = _HEAD.pack(MAGIC, flags, len(text), len(body)) + text + body
    return signed if sign is None else signed + sign(signed)


def overhead(manifest: Manifest, signed: bool) -> int:
    """Octets that an image has besides its body."""
    return _HEAD.size + len(encode_manifest(manifest)) + (SIGNATURE_SIZE if signed else 0)


def encode_manifest(manifest: Manifest) -> bytes:
    """Canonical JSON."""
    values = {field.name: getattr(manifest, field.name) for field in fields(manifest)}
    values["image"] = list(manifest.image)
    return json.dumps(values, sort_keys=True, separators=(",", ":")).encode()


def _decode_manifest(text: bytes) -> Manifest:
    what = "manifest"
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DecodeError(what, 0, f"no JSON: {error}") from error
    names = {field.name for field in fields(Manifest)}
    if not isinstance(values, dict) or set(values) - names:
        raise DecodeError(what, 0, "unknown or missing fields")
    for name, value in values.items():
        if not _has_type(name, value):
            raise DecodeError(what, 0, f"{name} is {value!r}")
    try:
        image = ImageKey(*values.pop("image"))
        from_versions = tuple(values.pop("from_versions", ()))
        return Manifest(image=image, from_versions=from_versions, **values)
    except (KeyError, TypeError) as error:
        raise DecodeError(what, 0, f"missing field: {error}") from error


def _has_type(name: str, value: object) -> bool:
    if name in ("image", "from_versions"):
        return isinstance(value, list) and all(_is_u32(item) for item in value)
    if name in ("version_string", "date_code"):
        # JSON can spell half a surrogate pair, which no attribute or log could encode.
        return isinstance(value, str) and len(value) <= TEXT_SIZE_MAX and value.isprintable()
    if name in ("self_test", "confirms", "switch_works"):
        return isinstance(value, bool)
    return _is_u32(value) or (name == "crash_after_ms" and value is None)


def _is_u32(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**32
