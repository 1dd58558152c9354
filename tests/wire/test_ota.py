"""The OTA Upgrade cluster: every command, both ways, held against zigpy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from malformed import assert_cuts_are_refused, assert_flips_raise_nothing_else, refused
from zigpy import types as zigpy_types
from zigpy.zcl.clusters.general import Ota as ZigpyOta

from firmware_node.errors import DecodeError
from firmware_node.terms import EntityId, ImageKey
from firmware_node.wire import ota
from firmware_node.wire.zcl import Status, encode_eui64

U8, U16, U32 = st.integers(0, 0xFF), st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF)
KEYS = st.builds(ImageKey, U16, U16, U32)
NODES = st.binary(min_size=8, max_size=8).map(EntityId)
FAILURES = st.sampled_from([status for status in Status if status is not Status.SUCCESS])
WITHOUT_DATA = FAILURES.filter(lambda status: status is not Status.WAIT_FOR_DATA)

KEY = ImageKey(0x121D, 0x0084, 0xACDCACDC)
NODE = EntityId.parse("00-DB-12-34-56-78-90-A4")

FROM_CLIENT, FROM_SERVER = ZigpyOta.ServerCommandDefs, ZigpyOta.ClientCommandDefs
Fields = dict[str, Any]


def key_fields(image: ImageKey, version: str = "file_version") -> Fields:
    return {
        "manufacturer_code": image.manufacturer_code,
        "image_type": image.image_type,
        version: image.file_version,
    }


def node_field(node: EntityId | None) -> Fields:
    if node is None:
        return {}
    address, rest = zigpy_types.EUI64.deserialize(encode_eui64(node))
    assert rest == b""
    return {"request_node_addr": address}


def notify_fields(value: ota.ImageNotify) -> Fields:
    names = ("manufacturer_code", "image_type", "new_file_version")
    fields = dict(zip(names, value[2 : 2 + value.payload_type], strict=False))
    return {"payload_type": value.payload_type, "query_jitter": value.query_jitter, **fields}


def query_fields(value: ota.QueryNextImageRequest) -> Fields:
    fields = {"field_control": 0, **key_fields(value.image, "current_file_version")}
    if value.hardware_version is not None:
        fields |= {"field_control": 1, "hardware_version": value.hardware_version}
    return fields


def offer_fields(value: ota.QueryNextImageResponse) -> Fields:
    if value.image is None:
        return {"status": value.status}
    return {"status": value.status, **key_fields(value.image), "image_size": value.size}


def block_request_fields(value: ota.ImageBlockRequest) -> Fields:
    control = (value.node is not None) | (value.block_period is not None) << 1
    fields = {
        "field_control": control,
        **key_fields(value.image),
        "file_offset": value.file_offset,
        "maximum_data_size": value.size_max,
        **node_field(value.node),
    }
    if value.block_period is not None:
        fields["minimum_block_period"] = value.block_period
    return fields


def page_request_fields(value: ota.ImagePageRequest) -> Fields:
    return {
        "field_control": int(value.node is not None),
        **key_fields(value.image),
        "file_offset": value.file_offset,
        "maximum_data_size": value.size_max,
        "page_size": value.page_size,
        "response_spacing": value.response_spacing,
        **node_field(value.node),
    }


def block_response_fields(value: ota.BlockData | ota.WaitForData | ota.BlockStatus) -> Fields:
    if isinstance(value, ota.BlockStatus):
        return {"status": value.status}
    if isinstance(value, ota.WaitForData):
        return {
            "status": Status.WAIT_FOR_DATA,
            "current_time": value.current_time,
            "request_time": value.request_time,
            "minimum_block_period": value.block_period,
        }
    return {
        "status": Status.SUCCESS,
        **key_fields(value.image),
        "file_offset": value.file_offset,
        "image_data": value.data,
    }


def end_request_fields(value: ota.UpgradeEndRequest) -> Fields:
    assert value.image is not None
    return {"status": value.status, **key_fields(value.image)}


def end_response_fields(value: ota.UpgradeEndResponse) -> Fields:
    times = {"current_time": value.current_time, "upgrade_time": value.upgrade_time}
    return {**key_fields(value.image), **times}


def specific_request_fields(value: ota.SpecificFileRequest) -> Fields:
    stack = {"current_zigbee_stack_version": value.stack_version}
    return {**node_field(value.node), **key_fields(value.image), **stack}


NOTIFIES = st.integers(0, 3).flatmap(
    lambda kind: st.builds(
        ota.ImageNotify,
        st.just(kind),
        st.integers(1, 100),
        U16 if kind >= 1 else st.none(),
        U16 if kind >= 2 else st.none(),
        U32 if kind >= 3 else st.none(),
    )
)
OFFERS = st.builds(ota.QueryNextImageResponse, st.just(0), KEYS, U32) | st.builds(
    ota.QueryNextImageResponse, FAILURES, st.none(), st.none()
)


@dataclass(frozen=True)
class Command:
    """One command: how to make values, our codec, zigpy's definition and its fields."""

    id: int
    values: st.SearchStrategy[Any]
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], object]
    theirs: Any
    fields: Callable[[Any], Fields]


COMMANDS = {
    "image notify": Command(
        ota.IMAGE_NOTIFY,
        NOTIFIES,
        ota.encode_image_notify,
        ota.decode_image_notify,
        FROM_SERVER.image_notify,
        notify_fields,
    ),
    "query next image request": Command(
        ota.QUERY_NEXT_IMAGE_REQUEST,
        st.builds(ota.QueryNextImageRequest, KEYS, st.none() | U16),
        ota.encode_query_next_image_request,
        ota.decode_query_next_image_request,
        FROM_CLIENT.query_next_image,
        query_fields,
    ),
    "query next image response": Command(
        ota.QUERY_NEXT_IMAGE_RESPONSE,
        OFFERS,
        ota.encode_query_next_image_response,
        ota.decode_query_next_image_response,
        FROM_SERVER.query_next_image_response,
        offer_fields,
    ),
    "image block request": Command(
        ota.IMAGE_BLOCK_REQUEST,
        st.builds(ota.ImageBlockRequest, KEYS, U32, U8, st.none() | NODES, st.none() | U16),
        ota.encode_image_block_request,
        ota.decode_image_block_request,
        FROM_CLIENT.image_block,
        block_request_fields,
    ),
    "image page request": Command(
        ota.IMAGE_PAGE_REQUEST,
        st.builds(ota.ImagePageRequest, KEYS, U32, U8, U16, U16, st.none() | NODES),
        ota.encode_image_page_request,
        ota.decode_image_page_request,
        FROM_CLIENT.image_page,
        page_request_fields,
    ),
    "image block response": Command(
        ota.IMAGE_BLOCK_RESPONSE,
        st.builds(ota.BlockData, KEYS, U32, st.binary(min_size=1, max_size=255))
        | st.builds(ota.WaitForData, U32, U32, U16)
        | st.builds(ota.BlockStatus, WITHOUT_DATA),
        ota.encode_image_block_response,
        ota.decode_image_block_response,
        FROM_SERVER.image_block_response,
        block_response_fields,
    ),
    "upgrade end request": Command(
        ota.UPGRADE_END_REQUEST,
        st.builds(ota.UpgradeEndRequest, st.sampled_from(list(Status)), KEYS),
        ota.encode_upgrade_end_request,
        ota.decode_upgrade_end_request,
        FROM_CLIENT.upgrade_end,
        end_request_fields,
    ),
    "upgrade end response": Command(
        ota.UPGRADE_END_RESPONSE,
        st.builds(ota.UpgradeEndResponse, KEYS, U32, U32),
        ota.encode_upgrade_end_response,
        ota.decode_upgrade_end_response,
        FROM_SERVER.upgrade_end_response,
        end_response_fields,
    ),
    "specific file request": Command(
        ota.SPECIFIC_FILE_REQUEST,
        st.builds(ota.SpecificFileRequest, NODES, KEYS, U16),
        ota.encode_specific_file_request,
        ota.decode_specific_file_request,
        FROM_CLIENT.query_specific_file,
        specific_request_fields,
    ),
    "specific file response": Command(
        ota.SPECIFIC_FILE_RESPONSE,
        OFFERS,
        ota.encode_specific_file_response,
        ota.decode_specific_file_response,
        FROM_SERVER.query_specific_file_response,
        offer_fields,
    ),
}

# A value of every form, and the shorter sizes at which it is a whole form of its own.
FORMS: list[tuple[str, Any, set[int]]] = [
    ("image notify", ota.ImageNotify(0, 100), set()),
    ("image notify", ota.ImageNotify(1, 50, 0x121D), set()),
    ("image notify", ota.ImageNotify(2, 1, 0x121D, 0x0084), set()),
    ("image notify", ota.ImageNotify(3, 1, *KEY), set()),
    ("query next image request", ota.QueryNextImageRequest(KEY), set()),
    ("query next image request", ota.QueryNextImageRequest(KEY, 0x1111), set()),
    ("query next image response", ota.QueryNextImageResponse(0, KEY, 295), set()),
    ("query next image response", ota.QueryNextImageResponse(0x98), set()),
    ("image block request", ota.ImageBlockRequest(KEY, 60, 50), set()),
    ("image block request", ota.ImageBlockRequest(KEY, 60, 50, NODE), set()),
    ("image block request", ota.ImageBlockRequest(KEY, 60, 50, None, 200), set()),
    ("image block request", ota.ImageBlockRequest(KEY, 60, 50, NODE, 200), set()),
    ("image page request", ota.ImagePageRequest(KEY, 60, 50, 1024, 50), set()),
    ("image page request", ota.ImagePageRequest(KEY, 60, 50, 1024, 50, NODE), set()),
    ("image block response", ota.BlockData(KEY, 60, bytes(range(50))), set()),
    # Older servers leave the block period out (gbcs.md 6.1).
    ("image block response", ota.WaitForData(100, 160, 1), {9}),
    ("image block response", ota.WaitForData(0, 60), set()),
    ("image block response", ota.BlockStatus(Status.ABORT), set()),
    ("upgrade end request", ota.UpgradeEndRequest(0, KEY), set()),
    # Some clients send a failure without naming the image.
    ("upgrade end request", ota.UpgradeEndRequest(Status.INVALID_IMAGE, KEY), {1}),
    ("upgrade end request", ota.UpgradeEndRequest(Status.ABORT, None), set()),
    ("upgrade end response", ota.UpgradeEndResponse(KEY, 0, ota.HOLD), set()),
    ("specific file request", ota.SpecificFileRequest(NODE, KEY, 2), set()),
    ("specific file response", ota.QueryNextImageResponse(0, KEY, 295), set()),
    ("specific file response", ota.QueryNextImageResponse(0x7E), set()),
]


@pytest.mark.parametrize("name", COMMANDS)
def test_command_is_the_one_zigpy_writes_and_reads(name: str) -> None:
    command = COMMANDS[name]
    assert command.theirs.id == command.id

    @given(command.values)
    def agree(value: Any) -> None:
        theirs = command.theirs.schema(**command.fields(value))
        octets = command.encode(value)
        assert octets == theirs.serialize()
        assert command.theirs.schema.deserialize(octets) == (theirs, b"")
        assert command.decode(octets) == value

    agree()


def test_cluster_attributes_are_numbered_as_in_zigpy() -> None:
    theirs = ZigpyOta.AttributeDefs
    assert ZigpyOta.cluster_id == ota.CLUSTER
    assert {
        ota.ATTR_UPGRADE_SERVER_ID: theirs.upgrade_server_id.id,
        ota.ATTR_FILE_OFFSET: theirs.file_offset.id,
        ota.ATTR_CURRENT_FILE_VERSION: theirs.current_file_version.id,
        ota.ATTR_CURRENT_STACK_VERSION: theirs.current_zigbee_stack_version.id,
        ota.ATTR_DOWNLOADED_FILE_VERSION: theirs.downloaded_file_version.id,
        ota.ATTR_DOWNLOADED_STACK_VERSION: theirs.downloaded_zigbee_stack_version.id,
        ota.ATTR_IMAGE_UPGRADE_STATUS: theirs.image_upgrade_status.id,
        ota.ATTR_MANUFACTURER_ID: theirs.manufacturer_id.id,
        ota.ATTR_IMAGE_TYPE_ID: theirs.image_type_id.id,
        ota.ATTR_MINIMUM_BLOCK_PERIOD: theirs.minimum_block_req_delay.id,
        ota.ATTR_IMAGE_STAMP: theirs.image_stamp.id,
        ota.ATTR_UPGRADE_ACTIVATION_POLICY: theirs.upgrade_activation_policy.id,
        ota.ATTR_UPGRADE_TIMEOUT_POLICY: theirs.upgrade_timeout_policy.id,
    } == {number: number for number in range(13)}


@pytest.mark.parametrize(("name", "value", "whole_at"), FORMS)
def test_form_comes_back_and_each_cut_and_each_octet_more_is_refused(
    name: str, value: Any, whole_at: set[int]
) -> None:
    command = COMMANDS[name]
    octets = command.encode(value)
    assert command.decode(octets) == value
    assert_cuts_are_refused(command.decode, octets, whole_at)
    # A status alone is the only form that another form continues, and never by one octet.
    assert refused(command.decode, octets + b"\x00")


@pytest.mark.parametrize(("name", "value", "whole_at"), FORMS)
def test_flipped_form_raises_nothing_else(name: str, value: Any, whole_at: set[int]) -> None:
    command = COMMANDS[name]
    assert_flips_raise_nothing_else(command.decode, command.encode(value))


@pytest.mark.parametrize("name", COMMANDS)
def test_any_octets_are_a_command_or_a_decode_error(name: str) -> None:
    @given(st.binary(max_size=70))
    def read(octets: bytes) -> None:
        if not refused(COMMANDS[name].decode, octets):
            value = COMMANDS[name].decode(octets)
            assert len(COMMANDS[name].encode(value)) <= len(octets)

    read()


def test_block_of_the_air_is_read_as_it_stands() -> None:
    octets = bytes.fromhex("00" + "1d12" + "8400" + "dcacdcac" + "3c000000" + "03" + "aabbcc")
    block = ota.decode_image_block_response(octets)
    assert block == ota.BlockData(KEY, 60, b"\xaa\xbb\xcc")
    assert ota.encode_image_block_response(block) == octets


@pytest.mark.parametrize("said", [0, 2, 4, 255])
def test_block_whose_size_is_not_that_of_its_data_is_refused(said: int) -> None:
    octets = bytearray(ota.encode_image_block_response(ota.BlockData(KEY, 60, b"abc")))
    octets[13] = said
    with pytest.raises(DecodeError, match=f"data size {said}, found 3"):
        ota.decode_image_block_response(bytes(octets))


def test_block_without_data_is_refused() -> None:
    octets = ota.encode_image_block_response(ota.BlockData(KEY, 60, b""))
    with pytest.raises(DecodeError):
        ota.decode_image_block_response(octets)


def test_success_without_an_image_is_refused() -> None:
    for decode in (
        ota.decode_query_next_image_response,
        ota.decode_specific_file_response,
        ota.decode_image_block_response,
        ota.decode_upgrade_end_request,
    ):
        assert refused(decode, b"\x00")


@pytest.mark.parametrize("octets", ["0400", "0000", "0065", "03ff1d128400dcacdcac"])
def test_notify_of_unknown_type_or_jitter_out_of_range_is_refused(octets: str) -> None:
    with pytest.raises(DecodeError):
        ota.decode_image_notify(bytes.fromhex(octets))
