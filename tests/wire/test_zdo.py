"""Service discovery: requests and answers held against zigpy's ZDO definitions."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from malformed import assert_cuts_are_refused, assert_flips_raise_nothing_else, refused
from zigpy import types as zigpy_types
from zigpy.zdo.types import CLUSTERS, ZDOCmd

from firmware_node.errors import DecodeError
from firmware_node.terms import EntityId, ShortAddress
from firmware_node.wire import zdo
from firmware_node.wire.zcl import encode_eui64

ZIGPY: Any = CLUSTERS  # names and types of each command's fields; annotated as they are written
U8, U16 = st.integers(0, 0xFF), st.integers(0, 0xFFFF)
NODES = st.binary(min_size=8, max_size=8).map(EntityId)
ADDRESSES = U16.map(ShortAddress)
CLUSTER_LISTS = st.lists(U16, max_size=zdo.CLUSTERS_MAX).map(tuple)
MATCH_REQUESTS = st.builds(zdo.MatchRequest, U8, ADDRESSES, U16, CLUSTER_LISTS, CLUSTER_LISTS)

PPMID = EntityId.parse("00-DB-12-34-56-78-90-A4")
OWN = zdo.LocalNode(
    ShortAddress(0x1234),
    PPMID,
    (
        zdo.Endpoint(1, 0x0109, 0x0502, (0x0000, 0x0704), (0x0019, 0x000A)),
        zdo.Endpoint(2, 0x0104, 0x0502, (0x0000,), (0x0019,)),
    ),
)
EVERY_REQUEST = {
    "match": (zdo.MATCH_DESC_REQ, "2a 3412 0901 01 0407 01 1900"),
    "ieee address": (zdo.IEEE_ADDR_REQ, "2a 3412 00 00"),
    "short address": (zdo.NWK_ADDR_REQ, "2a a49078563412db00 00 00"),
    "active endpoints": (zdo.ACTIVE_EP_REQ, "2a 3412"),
    "simple descriptor": (zdo.SIMPLE_DESC_REQ, "2a 3412 01"),
}


def theirs(command: ZDOCmd, *values: Any) -> bytes:
    """Sequence 0x2A and the command's fields as zigpy writes them."""
    _, kinds = ZIGPY[command]
    fields = zip(kinds, values, strict=True)
    return b"\x2a" + b"".join(kind(value).serialize() for kind, value in fields)


def read_by_zigpy(command: ZDOCmd, payload: bytes) -> list[Any]:
    values, rest = [], payload[1:]
    _, kinds = ZIGPY[command]
    for kind in kinds:
        value, rest = kind.deserialize(rest)
        values.append(value)
    assert rest == b""
    return values


def zigpy_eui64(entity_id: EntityId) -> Any:
    return zigpy_types.EUI64.deserialize(encode_eui64(entity_id))[0]


@given(MATCH_REQUESTS)
def test_match_request_is_the_one_zigpy_writes(request: zdo.MatchRequest) -> None:
    request = request._replace(sequence=0x2A)
    octets = zdo.encode_match_request(request)
    lists = (list(request.in_clusters), list(request.out_clusters))
    assert octets == theirs(ZDOCmd.Match_Desc_req, request.address, request.profile, *lists)
    assert zdo.decode_match_request(octets) == request


@given(U8, ADDRESSES, st.lists(U8, max_size=20))
def test_match_response_is_the_one_zigpy_writes(
    status: int, address: ShortAddress, endpoints: list[int]
) -> None:
    response = zdo.MatchResponse(0x2A, status, address, tuple(endpoints))
    octets = zdo.encode_match_response(response)
    assert octets == theirs(ZDOCmd.Match_Desc_rsp, status, address, endpoints)
    assert octets == theirs(ZDOCmd.Active_EP_rsp, status, address, endpoints)
    assert zdo.decode_match_response(octets) == response


@given(ADDRESSES)
def test_ieee_request_is_the_one_zigpy_writes(address: ShortAddress) -> None:
    octets = zdo.encode_ieee_request(0x2A, address)
    assert octets == theirs(ZDOCmd.IEEE_addr_req, address, 0, 0)


@given(NODES, ADDRESSES)
def test_address_response_comes_back_and_is_read_by_zigpy(
    entity_id: EntityId, address: ShortAddress
) -> None:
    response = zdo.AddressResponse(0x2A, zdo.SUCCESS, entity_id, address)
    octets = zdo.encode_address_response(response)
    _, kinds = ZIGPY[ZDOCmd.IEEE_addr_rsp]
    start = kinds[:3]
    values = (zdo.SUCCESS, zigpy_eui64(entity_id), address)
    written = (kind(value).serialize() for kind, value in zip(start, values, strict=True))
    assert octets == b"\x2a" + b"".join(written)
    assert zdo.decode_address_response(octets) == response


@given(NODES, ADDRESSES, U8)
def test_announce_is_the_one_zigpy_writes(
    entity_id: EntityId, address: ShortAddress, capability: int
) -> None:
    announce = zdo.Announce(0x2A, address, entity_id, capability)
    octets = zdo.encode_announce(announce)
    assert octets == theirs(ZDOCmd.Device_annce, address, zigpy_eui64(entity_id), capability)
    assert zdo.decode_announce(octets) == announce


FORMS = {
    "match request": (
        zdo.encode_match_request(zdo.MatchRequest(1, ShortAddress(0), 0x0109, (4, 5), (6,))),
        zdo.decode_match_request,
    ),
    "match response": (
        zdo.encode_match_response(zdo.MatchResponse(1, 0, ShortAddress(0x1234), (1, 2))),
        zdo.decode_match_response,
    ),
    "address response": (
        zdo.encode_address_response(zdo.AddressResponse(1, 0, PPMID, ShortAddress(0x1234))),
        zdo.decode_address_response,
    ),
    "announce": (
        zdo.encode_announce(zdo.Announce(1, ShortAddress(0x1234), PPMID, 0x88)),
        zdo.decode_announce,
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_cut_form_is_refused_and_a_flipped_one_raises_nothing_else(name: str) -> None:
    octets, decode = FORMS[name]
    assert_cuts_are_refused(decode, octets)
    assert_flips_raise_nothing_else(decode, octets)


@pytest.mark.parametrize("name", ["match request", "match response", "announce"])
def test_octet_more_is_refused(name: str) -> None:
    octets, decode = FORMS[name]
    assert refused(decode, octets + b"\0")


def test_associated_devices_behind_an_address_response_are_ignored() -> None:
    octets, decode = FORMS["address response"]
    assert decode(octets + bytes.fromhex("01 00 7856")) == decode(octets)


def test_match_request_with_too_many_clusters_is_refused() -> None:
    many = tuple(range(zdo.CLUSTERS_MAX + 1))
    octets = zdo.encode_match_request(zdo.MatchRequest(1, ShortAddress(0), 0x0109, many, ()))
    with pytest.raises(DecodeError, match="count 33"):
        zdo.decode_match_request(octets)


# --- what a radio answers -----------------------------------------------------------------------


def answer_to(name: str, own: zdo.LocalNode = OWN) -> bytes | None:
    cluster, octets = EVERY_REQUEST[name]
    return zdo.answer(cluster, bytes.fromhex(octets), own)


def test_match_names_the_endpoints_of_that_profile() -> None:
    answered = answer_to("match")
    assert answered is not None
    assert zdo.decode_match_response(answered) == zdo.MatchResponse(
        0x2A, zdo.SUCCESS, OWN.short_address, (1,)
    )


@pytest.mark.parametrize(
    ("profile", "in_clusters", "out_clusters"),
    [
        (0x0109, (), ()),
        (0x0109, (0x0019,), (0x0704,)),  # asked for on the other side
        (0xC05E, (0x0704,), ()),
    ],
)
def test_match_of_nothing_stays_unanswered(
    profile: int, in_clusters: tuple[int, ...], out_clusters: tuple[int, ...]
) -> None:
    request = zdo.MatchRequest(1, ShortAddress(0xFFFD), profile, in_clusters, out_clusters)
    assert zdo.answer(zdo.MATCH_DESC_REQ, zdo.encode_match_request(request), OWN) is None


@pytest.mark.parametrize("name", ["ieee address", "short address"])
def test_own_address_is_told(name: str) -> None:
    answered = answer_to(name)
    assert answered is not None
    assert zdo.decode_address_response(answered) == zdo.AddressResponse(
        0x2A, zdo.SUCCESS, PPMID, OWN.short_address
    )


@pytest.mark.parametrize("name", ["ieee address", "short address"])
def test_address_of_another_node_is_not_told(name: str) -> None:
    other = OWN._replace(short_address=ShortAddress(1), entity_id=EntityId(bytes(8)))
    assert answer_to(name, other) is None


def test_active_endpoints_are_listed_as_zigpy_reads_them() -> None:
    answered = answer_to("active endpoints")
    assert answered is not None
    assert answered[0] == 0x2A
    assert read_by_zigpy(ZDOCmd.Active_EP_rsp, answered) == [0, 0x1234, [1, 2]]


def test_simple_descriptor_is_read_by_zigpy() -> None:
    answered = answer_to("simple descriptor")
    assert answered is not None
    status, address, descriptor = read_by_zigpy(ZDOCmd.Simple_Desc_rsp, answered)
    assert (answered[0], status, address) == (0x2A, 0, 0x1234)
    assert (descriptor.endpoint, descriptor.profile, descriptor.device_type) == (1, 0x0109, 0x0502)
    assert list(descriptor.input_clusters) == [0x0000, 0x0704]
    assert list(descriptor.output_clusters) == [0x0019, 0x000A]


def test_simple_descriptor_of_an_absent_endpoint_is_an_invalid_one() -> None:
    answered = zdo.answer(zdo.SIMPLE_DESC_REQ, bytes.fromhex("2a 3412 07"), OWN)
    assert answered is not None
    status, address, descriptor = read_by_zigpy(ZDOCmd.Simple_Desc_rsp, answered)
    assert (status, address, descriptor) == (zdo.INVALID_EP, 0x1234, None)


@pytest.mark.parametrize("name", EVERY_REQUEST)
def test_malformed_request_is_refused_at_every_length(name: str) -> None:
    cluster, text = EVERY_REQUEST[name]
    octets = bytes.fromhex(text)

    def ask(payload: bytes) -> object:
        return zdo.answer(cluster, payload, OWN)

    assert_cuts_are_refused(ask, octets)
    assert refused(ask, octets + b"\0")
    assert_flips_raise_nothing_else(ask, octets)


@given(U16, st.binary(max_size=30))
def test_any_request_is_answered_ignored_or_refused(cluster: int, payload: bytes) -> None:
    known = {row[0] for row in EVERY_REQUEST.values()}
    if not refused(lambda octets: zdo.answer(cluster, octets, OWN), payload):
        assert cluster in known or zdo.answer(cluster, payload, OWN) is None
