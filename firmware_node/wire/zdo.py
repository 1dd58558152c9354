"""ZigBee Device Objects (profile 0, endpoint 0): what service discovery needs.

The payload is a sequence number and a body. A real radio answers these requests itself, so
``answer`` is shared by whatever plays a radio. Source: ZigBee specification 2.4; zigbee-znp.md 3.3.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from firmware_node.errors import DecodeError
from firmware_node.terms import EntityId, ShortAddress
from firmware_node.wire.zcl import decode_eui64, encode_eui64

PROFILE = 0x0000
RESPONSE = 0x8000
NWK_ADDR_REQ = 0x0000
IEEE_ADDR_REQ = 0x0001
SIMPLE_DESC_REQ = 0x0004
ACTIVE_EP_REQ = 0x0005
MATCH_DESC_REQ = 0x0006
DEVICE_ANNCE = 0x0013

SUCCESS = 0x00
DEVICE_NOT_FOUND = 0x81
INVALID_EP = 0x82
CLUSTERS_MAX = 32  # of one Match_Desc_req list


class Endpoint(NamedTuple):
    """A simple descriptor."""

    number: int
    profile: int
    device: int
    in_clusters: tuple[int, ...]
    out_clusters: tuple[int, ...]


class LocalNode(NamedTuple):
    """What a radio knows of itself."""

    short_address: ShortAddress
    entity_id: EntityId
    endpoints: tuple[Endpoint, ...]


class MatchRequest(NamedTuple):
    """Match_Desc_req."""

    sequence: int
    address: ShortAddress
    profile: int
    in_clusters: tuple[int, ...]
    out_clusters: tuple[int, ...]


class MatchResponse(NamedTuple):
    """Match_Desc_rsp."""

    sequence: int
    status: int
    address: ShortAddress
    endpoints: tuple[int, ...]


class AddressResponse(NamedTuple):
    """IEEE_addr_rsp and NWK_addr_rsp, single device form."""

    sequence: int
    status: int
    entity_id: EntityId
    address: ShortAddress


class Announce(NamedTuple):
    """Device_annce."""

    sequence: int
    address: ShortAddress
    entity_id: EntityId
    capability: int


def encode_match_request(value: MatchRequest) -> bytes:
    """Sequence u8, address u16, profile u16, input list, output list."""
    return (
        struct.pack("<BHH", value.sequence, value.address, value.profile)
        + _clusters(value.in_clusters)
        + _clusters(value.out_clusters)
    )


def decode_match_request(payload: bytes) -> MatchRequest:
    """See ``encode_match_request``."""
    if len(payload) < 7:
        raise DecodeError("Match_Desc_req", len(payload), "expected at least 7 octets")
    sequence, address, profile = struct.unpack_from("<BHH", payload)
    in_clusters, at = _read_clusters(payload, 5)
    out_clusters, at = _read_clusters(payload, at)
    if at != len(payload):
        raise DecodeError("Match_Desc_req", at, "trailing octets")
    return MatchRequest(sequence, ShortAddress(address), profile, in_clusters, out_clusters)


def encode_match_response(value: MatchResponse) -> bytes:
    """Sequence u8, status u8, address u16, count u8, endpoints."""
    start = struct.pack("<BBHB", value.sequence, value.status, value.address, len(value.endpoints))
    return start + bytes(value.endpoints)


def decode_match_response(payload: bytes) -> MatchResponse:
    """See ``encode_match_response``."""
    if len(payload) < 5 or len(payload) != 5 + payload[4]:
        raise DecodeError("Match_Desc_rsp", len(payload), "count and size do not agree")
    sequence, status, address = struct.unpack_from("<BBH", payload)
    return MatchResponse(sequence, status, ShortAddress(address), tuple(payload[5:]))


def encode_ieee_request(sequence: int, address: ShortAddress) -> bytes:
    """Sequence u8, address u16, request type u8 (single), start index u8."""
    return struct.pack("<BHBB", sequence, address, 0, 0)


def encode_address_response(value: AddressResponse) -> bytes:
    """Sequence u8, status u8, EUI-64, address u16."""
    return (
        bytes((value.sequence, value.status))
        + encode_eui64(value.entity_id)
        + value.address.to_bytes(2, "little")
    )


def decode_address_response(payload: bytes) -> AddressResponse:
    """See ``encode_address_response``; a list of associated devices may follow and is ignored."""
    if len(payload) < 12:
        raise DecodeError("IEEE_addr_rsp", len(payload), "expected at least 12 octets")
    return AddressResponse(
        payload[0],
        payload[1],
        decode_eui64(payload[2:10]),
        ShortAddress(int.from_bytes(payload[10:12], "little")),
    )


def encode_announce(value: Announce) -> bytes:
    """Sequence u8, address u16, EUI-64, capability u8."""
    return (
        struct.pack("<BH", value.sequence, value.address)
        + encode_eui64(value.entity_id)
        + bytes((value.capability,))
    )


def decode_announce(payload: bytes) -> Announce:
    """See ``encode_announce``."""
    if len(payload) != 12:
        raise DecodeError("Device_annce", len(payload), "expected 12 octets")
    return Announce(
        payload[0],
        ShortAddress(payload[1] | payload[2] << 8),
        decode_eui64(payload[3:11]),
        payload[11],
    )


def answer(cluster: int, payload: bytes, own: LocalNode) -> bytes | None:
    """What the radio ``own`` answers to a ZDO request; None: nothing.

    A Match_Desc_req that matches nothing stays unanswered, as for a broadcast one.

    Raises:
        DecodeError: a request it would answer is malformed.
    """
    if cluster == MATCH_DESC_REQ:
        return _answer_match(decode_match_request(payload), own)
    if cluster == IEEE_ADDR_REQ:
        if len(payload) != 5:
            raise DecodeError("IEEE_addr_req", len(payload), "expected 5 octets")
        if int.from_bytes(payload[1:3], "little") != own.short_address:
            return None
    elif cluster == NWK_ADDR_REQ:
        if len(payload) != 11:
            raise DecodeError("NWK_addr_req", len(payload), "expected 11 octets")
        if decode_eui64(payload[1:9]) != own.entity_id:
            return None
    elif cluster == ACTIVE_EP_REQ:
        if len(payload) != 3:
            raise DecodeError("Active_EP_req", len(payload), "expected 3 octets")
        return encode_match_response(
            MatchResponse(
                payload[0],
                SUCCESS,
                own.short_address,
                tuple(endpoint.number for endpoint in own.endpoints),
            )
        )
    elif cluster == SIMPLE_DESC_REQ:
        return _answer_simple(payload, own)
    else:
        return None
    return encode_address_response(
        AddressResponse(payload[0], SUCCESS, own.entity_id, own.short_address)
    )


def _answer_match(request: MatchRequest, own: LocalNode) -> bytes | None:
    matching = tuple(
        endpoint.number
        for endpoint in own.endpoints
        if endpoint.profile == request.profile
        and (
            any(cluster in endpoint.in_clusters for cluster in request.in_clusters)
            or any(cluster in endpoint.out_clusters for cluster in request.out_clusters)
        )
    )
    if not matching:
        return None
    return encode_match_response(
        MatchResponse(request.sequence, SUCCESS, own.short_address, matching)
    )


def _answer_simple(payload: bytes, own: LocalNode) -> bytes:
    if len(payload) != 4:
        raise DecodeError("Simple_Desc_req", len(payload), "expected 4 octets")
    start = struct.pack("<B", payload[0])
    address = own.short_address.to_bytes(2, "little")
    for endpoint in own.endpoints:
        if endpoint.number == payload[3]:
            body = (
                struct.pack("<BHHB", endpoint.number, endpoint.profile, endpoint.device, 0)
                + _clusters(endpoint.in_clusters)
                + _clusters(endpoint.out_clusters)
            )
            return start + bytes((SUCCESS,)) + address + bytes((len(body),)) + body
    return start + bytes((INVALID_EP,)) + address + b"\x00"


def _clusters(clusters: tuple[int, ...]) -> bytes:
    return bytes((len(clusters),)) + struct.pack(f"<{len(clusters)}H", *clusters)


def _read_clusters(payload: bytes, at: int) -> tuple[tuple[int, ...], int]:
    if at >= len(payload):
        raise DecodeError("cluster list", at, "no count")
    count, end = payload[at], at + 1 + 2 * payload[at]
    if count > CLUSTERS_MAX or end > len(payload):
        raise DecodeError("cluster list", at, f"count {count} does not fit")
    return struct.unpack(f"<{count}H", payload[at + 1 : end]), end
