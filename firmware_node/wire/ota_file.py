"""The OTA file: header with all optional fields, then one of three shapes of body.

Which shape a file has is told by ``decode_ota_file``; the rule stands there.
Source: ZCL 11.4 (file format); gbcs.md 2.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from firmware_node.errors import DecodeError
from firmware_node.terms import EntityId, ImageFormat, ImageKey, Span
from firmware_node.wire.zcl import decode_eui64, encode_eui64

FILE_IDENTIFIER = 0x0BEEF11E
HEADER_VERSION = 0x0100
HEADER_SIZE_MIN = 56
HEADER_SIZE_MAX = 256  # the optional fields end at 69; later versions may append, within reason
TOTAL_SIZE_OFFSET = 52
TAG_UPGRADE_IMAGE = 0x0000
TAG_INTEGRITY_CODE = 0x0003
INTEGRITY_CODE_SIZE = 16
SUB_ELEMENTS_MAX = 32  # a file with more tags than are defined is no firmware
SUPPLIER_TAIL_SIZE = 66  # forceReplace, 0x40, signature (gbcs.md 2.3)
SIGNATURE_SIZE = 64

_STACK_ADDRESSES = range(0x2000_0000, 0x4000_0000)  # internal RAM of a Cortex-M
_SECURITY_CREDENTIAL = 0x0001
_DESTINATION = 0x0002
_HARDWARE_VERSIONS = 0x0004

# File identifier, header version, header length, field control, manufacturer code, image type,
# file version, stack version, header string, total image size; then the optional fields in the
# order of their flags.
_HEADER = struct.Struct("<IHHHHHIH32sI")
_OPTIONAL = (
    (_SECURITY_CREDENTIAL, struct.Struct("<B")),
    (_DESTINATION, struct.Struct("<8s")),
    (_HARDWARE_VERSIONS, struct.Struct("<HH")),
)
_KNOWN_FIELDS = _SECURITY_CREDENTIAL | _DESTINATION | _HARDWARE_VERSIONS


@dataclass(frozen=True, slots=True)
class OtaHeader:
    """The OTA header (gbcs.md 2.2); optional fields are None when absent."""

    image: ImageKey
    total_image_size: int = 0
    header_string: str = ""
    stack_version: int = 0x0002
    security_credential_version: int | None = None
    destination: EntityId | None = None
    hardware_version_min: int | None = None
    hardware_version_max: int | None = None
    header_length: int = 0  # 0: as long as its fields


@dataclass(frozen=True, slots=True)
class SubElement:
    """One tagged part of an ordinary ZigBee file; ``span`` is its data."""

    tag: int
    span: Span


@dataclass(frozen=True, slots=True)
class OtaFile:
    """A decoded OTA file; spans count from its first octet."""

    header: OtaHeader
    format: ImageFormat
    manufacturer_image: Span
    supplier_signature: bytes | None = None
    force_replace: int | None = None
    sub_elements: tuple[SubElement, ...] = ()
    integrity_code: bytes | None = None
    integrity_covered: Span | None = None


def header_size(start: bytes) -> int:
    """The header's length from a file's first 8 octets.

    Raises:
        DecodeError: short, no OTA file, or a length out of range.
    """
    if len(start) < 8:
        raise DecodeError("OTA header", len(start), "expected at least 8 octets")
    identifier, version, size = (
        int.from_bytes(start[0:4], "little"),
        int.from_bytes(start[4:6], "little"),
        int.from_bytes(start[6:8], "little"),
    )
    if identifier != FILE_IDENTIFIER:
        raise DecodeError("OTA header", 0, f"file identifier {identifier:08x}, expected 0beef11e")
    if version != HEADER_VERSION:
        raise DecodeError("OTA header", 4, f"header version {version:04x}, expected 0100")
    if not HEADER_SIZE_MIN <= size <= HEADER_SIZE_MAX:
        raise DecodeError("OTA header", 6, f"header length {size}")
    return size


def decode_ota_header(data: bytes) -> OtaHeader:
    """Read the header at the start of ``data``; what follows it is not looked at.

    Raises:
        DecodeError: truncated, or its length and its field control do not agree.
    """
    size = header_size(data)
    if len(data) < size:
        raise DecodeError("OTA header", len(data), f"header length {size}")
    _, _, _, control, manufacturer_code, image_type, version, stack_version, text, total = (
        _HEADER.unpack_from(data)
    )
    if control & ~_KNOWN_FIELDS:
        raise DecodeError("OTA header", 8, f"field control {control:04x}")
    if _fields_size(control) != size:
        raise DecodeError("OTA header", 6, f"length {size} and field control do not agree")
    at = HEADER_SIZE_MIN
    found: dict[int, tuple[Any, ...]] = {}
    for flag, layout in _OPTIONAL:
        if control & flag:
            found[flag] = layout.unpack_from(data, at)
            at += layout.size
    (credential,) = found.get(_SECURITY_CREDENTIAL, (None,))
    (destination,) = found.get(_DESTINATION, (None,))
    low, high = found.get(_HARDWARE_VERSIONS, (None, None))
    if low is not None and low > high:
        raise DecodeError("OTA header", size - 4, f"hardware range {low:04x} to {high:04x}")
    return OtaHeader(
        image=ImageKey(manufacturer_code, image_type, version),
        total_image_size=total,
        header_string=_header_text(text),
        stack_version=stack_version,
        security_credential_version=credential,
        destination=None if destination is None else decode_eui64(destination),
        hardware_version_min=low,
        hardware_version_max=high,
        header_length=size,
    )


def encode_ota_header(header: OtaHeader) -> bytes:
    """The header's octets; its length is that of its fields."""
    control, optional = 0, b""
    for (flag, layout), values in zip(
        _OPTIONAL,
        (
            (header.security_credential_version,),
            (None if header.destination is None else encode_eui64(header.destination),),
            (header.hardware_version_min, header.hardware_version_max),
        ),
        strict=True,
    ):
        if values[0] is not None:
            control |= flag
            optional += layout.pack(*values)
    fixed = _HEADER.pack(
        FILE_IDENTIFIER,
        HEADER_VERSION,
        HEADER_SIZE_MIN + len(optional),
        control,
        *header.image,
        header.stack_version,
        header.header_string.encode("latin-1")[:32],
        header.total_image_size,
    )
    return fixed + optional


def decode_ota_file(
    data: bytes, image_format: ImageFormat | None = None, *, may_have_tail: bool = True
) -> OtaFile:
    """Read a whole OTA file.

    With no ``image_format`` the shape is told from the octets: a body that begins with tag 0x0000
    and is not blank is a ZigBee file, and then the whole chain of sub-elements must add up; else,
    where a supplier's tail may be, 0x40 at octet -65 makes it supplier-signed; else it is plain.
    Our own choice: GBCS knows the shape from the service request, a device does not.
    A stack address such as 0x20010000, with which the images of many controllers begin, looks like
    tag 0x0000 as well; it is one where the size behind the tag does not fit the file.

    Raises:
        DecodeError: any size, length or tag does not agree with the rest.
    """
    header = decode_ota_header(data)
    if header.total_image_size != len(data):
        raise DecodeError(
            "OTA file",
            TOTAL_SIZE_OFFSET,
            f"total image size {header.total_image_size}, found {len(data)} octets",
        )
    start = header.header_length
    if len(data) == start:
        raise DecodeError("OTA file", start, "no image follows the header")
    match image_format or _tell_format(data, start, may_have_tail):
        case ImageFormat.ZIGBEE:
            return _decode_zigbee(data, header)
        case ImageFormat.GB_SUPPLIER_SIGNED:
            return _decode_supplier_signed(data, header)
        case ImageFormat.GB_PLAIN:
            return OtaFile(header, ImageFormat.GB_PLAIN, Span(start, len(data) - start))


def build_gb_plain(header: OtaHeader, manufacturer_image: bytes) -> bytes:
    """The file of SR 11.4: header and manufacturer image."""
    return _with_total_size(header, manufacturer_image)


def build_gb_supplier_signed(
    header: OtaHeader, manufacturer_image: bytes, signature: bytes, force_replace: int = 0
) -> bytes:
    """The file of SR 11.1: with the supplier's tail (gbcs.md 2.3)."""
    tail = bytes((force_replace, SIGNATURE_SIZE)) + signature
    return _with_total_size(header, manufacturer_image + tail)


def build_zigbee(header: OtaHeader, elements: Sequence[tuple[int, bytes]]) -> bytes:
    """An ordinary file of tagged sub-elements."""
    body = b"".join(
        tag.to_bytes(2, "little") + len(value).to_bytes(4, "little") + value
        for tag, value in elements
    )
    return _with_total_size(header, body)


def _with_total_size(header: OtaHeader, body: bytes) -> bytes:
    octets = bytearray(encode_ota_header(header) + body)
    octets[TOTAL_SIZE_OFFSET : TOTAL_SIZE_OFFSET + 4] = len(octets).to_bytes(4, "little")
    return bytes(octets)


def _tell_format(data: bytes, start: int, may_have_tail: bool) -> ImageFormat:
    if data[start : start + 2] == b"\0\0" and any(data[start + 2 : start + 22]):
        size = int.from_bytes(data[start + 2 : start + 6], "little")
        address = int.from_bytes(data[start : start + 4], "little")
        if size <= len(data) - start - 6 or address not in _STACK_ADDRESSES:
            return ImageFormat.ZIGBEE
    has_tail = len(data) > start + SUPPLIER_TAIL_SIZE and data[-65] == SIGNATURE_SIZE
    return ImageFormat.GB_SUPPLIER_SIGNED if may_have_tail and has_tail else ImageFormat.GB_PLAIN


def _decode_supplier_signed(data: bytes, header: OtaHeader) -> OtaFile:
    start = header.header_length
    size = len(data) - start - SUPPLIER_TAIL_SIZE
    if size <= 0:
        raise DecodeError("OTA file", start, "no room for a supplier signature")
    if data[-65] != SIGNATURE_SIZE:
        raise DecodeError("OTA file", len(data) - 65, "the supplier signature's length is not 40")
    return OtaFile(
        header,
        ImageFormat.GB_SUPPLIER_SIGNED,
        Span(start, size),
        supplier_signature=data[-SIGNATURE_SIZE:],
        force_replace=data[-SUPPLIER_TAIL_SIZE],
    )


def _decode_zigbee(data: bytes, header: OtaHeader) -> OtaFile:
    elements: list[SubElement] = []
    at = header.header_length
    while at < len(data):
        if at + 6 > len(data):
            raise DecodeError("sub-element", at, "trailing octets")
        tag = int.from_bytes(data[at : at + 2], "little")
        span = Span(at + 6, int.from_bytes(data[at + 2 : at + 6], "little"))
        if span.size == 0:
            raise DecodeError("sub-element", at + 2, f"tag {tag:04x} is empty")
        if span.end > len(data):
            raise DecodeError("sub-element", at + 2, f"length {span.size} passes the file's end")
        if len(elements) == SUB_ELEMENTS_MAX:
            raise DecodeError("sub-element", at, f"more than {SUB_ELEMENTS_MAX}")
        elements.append(SubElement(tag, span))
        at = span.end
    images = [element for element in elements if element.tag == TAG_UPGRADE_IMAGE]
    if len(images) != 1:
        raise DecodeError("OTA file", header.header_length, f"{len(images)} upgrade images")
    code, covered = _integrity(data, elements)
    return OtaFile(
        header,
        ImageFormat.ZIGBEE,
        images[0].span,
        sub_elements=tuple(elements),
        integrity_code=code,
        integrity_covered=covered,
    )


def _integrity(data: bytes, elements: Sequence[SubElement]) -> tuple[bytes | None, Span | None]:
    """The integrity code and what it covers: the file up to the code's value.

    The code's own tag and length are covered too; a certified stack (Exegin) hashes the header,
    every tag, length and value, and leaves out this value alone.
    It must be the last sub-element, or octets behind it would be covered by nothing.
    """
    codes = [element for element in elements if element.tag == TAG_INTEGRITY_CODE]
    if not codes:
        return None, None
    span = codes[0].span
    if len(codes) > 1 or codes[0] is not elements[-1] or span.size != INTEGRITY_CODE_SIZE:
        raise DecodeError("integrity code", span.offset - 6, "expected 16 octets, once, at the end")
    return data[span.offset : span.end], Span(0, span.offset)


def _fields_size(control: int) -> int:
    return HEADER_SIZE_MIN + sum(layout.size for flag, layout in _OPTIONAL if control & flag)


def _header_text(octets: bytes) -> str:
    """Up to 32 octets; what is not printable is left out."""
    text = octets.split(b"\0")[0].decode("latin-1")
    return "".join(character for character in text if character.isprintable())
