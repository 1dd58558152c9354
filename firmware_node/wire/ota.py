"""The OTA Upgrade cluster 0x0019: every command, both directions, as bodies after the ZCL header.

Hand-written ``struct`` and named tuples: a block request and its answer are coded some twenty
thousand times for 1 MiB. Source: ZCL chapter 11 (OTA Upgrade); gbcs.md 6.1.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from firmware_node.errors import DecodeError
from firmware_node.terms import EntityId, ImageKey
from firmware_node.wire.zcl import Status, decode_eui64, encode_eui64

CLUSTER = 0x0019

IMAGE_NOTIFY = 0x00
QUERY_NEXT_IMAGE_REQUEST = 0x01
QUERY_NEXT_IMAGE_RESPONSE = 0x02
IMAGE_BLOCK_REQUEST = 0x03
IMAGE_PAGE_REQUEST = 0x04
IMAGE_BLOCK_RESPONSE = 0x05
UPGRADE_END_REQUEST = 0x06
UPGRADE_END_RESPONSE = 0x07
SPECIFIC_FILE_REQUEST = 0x08
SPECIFIC_FILE_RESPONSE = 0x09

ATTR_UPGRADE_SERVER_ID = 0x0000
ATTR_FILE_OFFSET = 0x0001
ATTR_CURRENT_FILE_VERSION = 0x0002
ATTR_CURRENT_STACK_VERSION = 0x0003
ATTR_DOWNLOADED_FILE_VERSION = 0x0004
ATTR_DOWNLOADED_STACK_VERSION = 0x0005
ATTR_IMAGE_UPGRADE_STATUS = 0x0006
ATTR_MANUFACTURER_ID = 0x0007
ATTR_IMAGE_TYPE_ID = 0x0008
ATTR_MINIMUM_BLOCK_PERIOD = 0x0009
ATTR_IMAGE_STAMP = 0x000A
ATTR_UPGRADE_ACTIVATION_POLICY = 0x000B
ATTR_UPGRADE_TIMEOUT_POLICY = 0x000C

BLOCK_SIZE_MAX = 63  # bytes; the largest block an SE client asks for (supplement 10.2)
HOLD = 0xFFFFFFFF  # upgrade time: wait for a further command
MANUFACTURER_WILDCARD = 0xFFFF
IMAGE_TYPE_WILDCARD = 0xFFFF
VERSION_WILDCARD = 0xFFFFFFFF
JITTER_MAX = 100

_KEY = struct.Struct("<HHI")
_BLOCK_REQUEST = struct.Struct("<BHHIIB")
_BLOCK_DATA = struct.Struct("<BHHIIB")
_PAGE_REQUEST = struct.Struct("<BHHIIBHH")
_NODE_PRESENT = 0x01
_PERIOD_PRESENT = 0x02


class ImageNotify(NamedTuple):
    """Image Notify; the payload type says how many of the last three are present."""

    payload_type: int
    query_jitter: int  # 1 to 100
    manufacturer_code: int | None = None
    image_type: int | None = None
    file_version: int | None = None


class QueryNextImageRequest(NamedTuple):
    """Query Next Image Request; ``image`` carries the running version."""

    image: ImageKey
    hardware_version: int | None = None


class QueryNextImageResponse(NamedTuple):
    """Query Next Image Response; image and size only with SUCCESS."""

    status: int
    image: ImageKey | None = None
    size: int | None = None  # bytes of the OTA file


class ImageBlockRequest(NamedTuple):
    """Image Block Request."""

    image: ImageKey
    file_offset: int
    size_max: int
    node: EntityId | None = None
    block_period: int | None = None


class ImagePageRequest(NamedTuple):
    """Image Page Request."""

    image: ImageKey
    file_offset: int
    size_max: int
    page_size: int
    response_spacing: int  # milliseconds
    node: EntityId | None = None


class BlockData(NamedTuple):
    """Image Block Response, SUCCESS."""

    image: ImageKey
    file_offset: int
    data: bytes


class WaitForData(NamedTuple):
    """Image Block Response, WAIT_FOR_DATA; times are UTC or, with ``current_time`` 0, relative."""

    current_time: int
    request_time: int
    block_period: int | None = None  # older servers leave it out (gbcs.md 6.1)


class BlockStatus(NamedTuple):
    """Image Block Response, ABORT or another status without data."""

    status: int


class UpgradeEndRequest(NamedTuple):
    """Upgrade End Request; some clients send a failure without naming the image."""

    status: int
    image: ImageKey | None


class UpgradeEndResponse(NamedTuple):
    """Upgrade End Response."""

    image: ImageKey
    current_time: int
    upgrade_time: int


class SpecificFileRequest(NamedTuple):
    """Query Device Specific File Request."""

    node: EntityId
    image: ImageKey
    stack_version: int


def decode_image_notify(body: bytes) -> ImageNotify:
    """Payload type u8, jitter u8, then up to manufacturer u16, type u16, version u32."""
    if len(body) < 2:
        raise DecodeError("Image Notify", len(body), "expected at least 2 octets")
    kind, jitter = body[0], body[1]
    if kind > 3:
        raise DecodeError("Image Notify", 0, f"payload type {kind}")
    if not 1 <= jitter <= JITTER_MAX:
        raise DecodeError("Image Notify", 1, f"query jitter {jitter}")
    expected = (2, 4, 6, 10)[kind]
    if len(body) != expected:
        raise DecodeError("Image Notify", len(body), f"type {kind} has {expected} octets")
    fields = struct.unpack(("<", "<H", "<HH", "<HHI")[kind], body[2:])
    return ImageNotify(kind, jitter, *fields)


def encode_image_notify(value: ImageNotify) -> bytes:
    """The body of an Image Notify."""
    fields = value[2 : 2 + value.payload_type]
    return bytes(value[:2]) + struct.pack(("<", "<H", "<HH", "<HHI")[value.payload_type], *fields)


def decode_query_next_image_request(body: bytes) -> QueryNextImageRequest:
    """Field control u8, image key, hardware version u16 when bit 0 is set."""
    what = "Query Next Image Request"
    if len(body) < 9:
        raise DecodeError(what, len(body), "expected at least 9 octets")
    image = ImageKey(*_KEY.unpack_from(body, 1))
    if not body[0] & 0x01:
        _exact(what, body, 9)
        return QueryNextImageRequest(image)
    _exact(what, body, 11)
    return QueryNextImageRequest(image, int.from_bytes(body[9:], "little"))


def encode_query_next_image_request(value: QueryNextImageRequest) -> bytes:
    """The body of a Query Next Image Request."""
    if value.hardware_version is None:
        return b"\x00" + _KEY.pack(*value.image)
    return b"\x01" + _KEY.pack(*value.image) + value.hardware_version.to_bytes(2, "little")


def _decode_offer(what: str, body: bytes) -> tuple[int, ImageKey | None, int | None]:
    if not body:
        raise DecodeError(what, 0, "empty")
    if body[0] != Status.SUCCESS:
        _exact(what, body, 1)
        return body[0], None, None
    _exact(what, body, 13)
    return 0, ImageKey(*_KEY.unpack_from(body, 1)), int.from_bytes(body[9:], "little")


def _encode_offer(status: int, image: ImageKey | None, size: int | None) -> bytes:
    if image is None or size is None:
        return bytes((status,))
    return bytes((status,)) + _KEY.pack(*image) + size.to_bytes(4, "little")


def decode_query_next_image_response(body: bytes) -> QueryNextImageResponse:
    """Status u8; with SUCCESS image key and file size u32."""
    return QueryNextImageResponse(*_decode_offer("Query Next Image Response", body))


def encode_query_next_image_response(value: QueryNextImageResponse) -> bytes:
    """The body of a Query Next Image Response."""
    return _encode_offer(*value)


def decode_specific_file_response(body: bytes) -> QueryNextImageResponse:
    """Same form as Query Next Image Response."""
    return QueryNextImageResponse(*_decode_offer("Query Specific File Response", body))


def encode_specific_file_response(value: QueryNextImageResponse) -> bytes:
    """The body of a Query Device Specific File Response."""
    return _encode_offer(*value)


def decode_image_block_request(body: bytes) -> ImageBlockRequest:
    """Field control u8, image key, offset u32, size u8, then node and block period if flagged."""
    size = len(body)
    if size < 14:
        raise DecodeError("Image Block Request", size, "expected at least 14 octets")
    control, manufacturer, kind, version, offset, size_max = _BLOCK_REQUEST.unpack_from(body)
    image = ImageKey(manufacturer, kind, version)
    if not control and size == 14:
        return ImageBlockRequest(image, offset, size_max)
    at, node, period = 14, None, None
    if control & _NODE_PRESENT:
        node, at = decode_eui64(body[at : at + 8]), at + 8
    if control & _PERIOD_PRESENT:
        period, at = int.from_bytes(body[at : at + 2], "little"), at + 2
    _exact("Image Block Request", body, at)
    return ImageBlockRequest(image, offset, size_max, node, period)


def encode_image_block_request(value: ImageBlockRequest) -> bytes:
    """The body of an Image Block Request."""
    image, offset, size_max, node, period = value
    if node is None and period is None:
        return _BLOCK_REQUEST.pack(0, *image, offset, size_max)
    control = (node is not None) * _NODE_PRESENT | (period is not None) * _PERIOD_PRESENT
    body = _BLOCK_REQUEST.pack(control, *image, offset, size_max)
    if node is not None:
        body += encode_eui64(node)
    if period is not None:
        body += period.to_bytes(2, "little")
    return body


def decode_image_page_request(body: bytes) -> ImagePageRequest:
    """As a block request, then page size u16 and spacing u16 before the node."""
    what = "Image Page Request"
    if len(body) < 18:
        raise DecodeError(what, len(body), "expected at least 18 octets")
    fields = _PAGE_REQUEST.unpack_from(body)
    control, manufacturer, kind, version, offset, size_max, page_size, spacing = fields
    present = bool(control & _NODE_PRESENT)
    _exact(what, body, 26 if present else 18)
    node = decode_eui64(body[18:]) if present else None
    image = ImageKey(manufacturer, kind, version)
    return ImagePageRequest(image, offset, size_max, page_size, spacing, node)


def encode_image_page_request(value: ImagePageRequest) -> bytes:
    """The body of an Image Page Request."""
    image, *rest, node = value
    body = _PAGE_REQUEST.pack(node is not None, *image, *rest)
    return body if node is None else body + encode_eui64(node)


def decode_image_block_response(body: bytes) -> BlockData | WaitForData | BlockStatus:
    """Status u8 and what it asks for.

    SUCCESS: image key, offset u32, size u8, data of exactly that size, at least 1.
    WAIT_FOR_DATA: current time u32, request time u32, block period u16 or nothing.
    """
    what = "Image Block Response"
    if not body:
        raise DecodeError(what, 0, "empty")
    status = body[0]
    if status == 0:
        if len(body) < 15:
            raise DecodeError(what, len(body), "expected at least 15 octets")
        _, manufacturer, kind, version, offset, size = _BLOCK_DATA.unpack_from(body)
        if len(body) != 14 + size:
            raise DecodeError(what, 13, f"data size {size}, found {len(body) - 14}")
        return BlockData(ImageKey(manufacturer, kind, version), offset, body[14:])
    if status == Status.WAIT_FOR_DATA:
        if len(body) == 9:
            return WaitForData(*struct.unpack("<II", body[1:]))
        _exact(what, body, 11)
        return WaitForData(*struct.unpack("<IIH", body[1:]))
    _exact(what, body, 1)
    return BlockStatus(status)


def encode_image_block_response(value: BlockData | WaitForData | BlockStatus) -> bytes:
    """The body of an Image Block Response."""
    if isinstance(value, BlockData):
        image, offset, data = value
        return _BLOCK_DATA.pack(0, *image, offset, len(data)) + data
    if isinstance(value, BlockStatus):
        return bytes((value.status,))
    body = struct.pack("<BII", Status.WAIT_FOR_DATA, value.current_time, value.request_time)
    return body if value.block_period is None else body + value.block_period.to_bytes(2, "little")


def decode_upgrade_end_request(body: bytes) -> UpgradeEndRequest:
    """Status u8 and image key; a failure may come without the key."""
    what = "Upgrade End Request"
    if len(body) == 1 and body[0] != Status.SUCCESS:
        return UpgradeEndRequest(body[0], None)
    _exact(what, body, 9)
    return UpgradeEndRequest(body[0], ImageKey(*_KEY.unpack_from(body, 1)))


def encode_upgrade_end_request(value: UpgradeEndRequest) -> bytes:
    """The body of an Upgrade End Request."""
    key = b"" if value.image is None else _KEY.pack(*value.image)
    return bytes((value.status,)) + key


def decode_upgrade_end_response(body: bytes) -> UpgradeEndResponse:
    """Image key, current time u32, upgrade time u32."""
    _exact("Upgrade End Response", body, 16)
    return UpgradeEndResponse(
        ImageKey(*_KEY.unpack_from(body)), *struct.unpack_from("<II", body, 8)
    )


def encode_upgrade_end_response(value: UpgradeEndResponse) -> bytes:
    """The body of an Upgrade End Response."""
    return _KEY.pack(*value.image) + struct.pack("<II", value.current_time, value.upgrade_time)


def decode_specific_file_request(body: bytes) -> SpecificFileRequest:
    """Node EUI-64, image key, stack version u16."""
    _exact("Query Specific File Request", body, 18)
    return SpecificFileRequest(
        decode_eui64(body[:8]),
        ImageKey(*_KEY.unpack_from(body, 8)),
        int.from_bytes(body[16:], "little"),
    )


def encode_specific_file_request(value: SpecificFileRequest) -> bytes:
    """The body of a Query Device Specific File Request."""
    return (
        encode_eui64(value.node)
        + _KEY.pack(*value.image)
        + value.stack_version.to_bytes(2, "little")
    )


def _exact(what: str, body: bytes, size: int) -> None:
    if len(body) != size:
        raise DecodeError(what, min(len(body), size), f"expected {size} octets, found {len(body)}")
