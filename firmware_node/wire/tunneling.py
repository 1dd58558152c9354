"""The Tunneling cluster 0x0704: every command, both directions, as bodies after the ZCL header.

Source: gbcs.md 5. The hub is the client, a PPMID or HCALCS the server.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from firmware_node.errors import DecodeError

CLUSTER = 0x0704
PROTOCOL_GB_HGRP = 6
MANUFACTURER_CODE = 0xFFFF
TRANSFER_SIZE_MAX = 1500  # octets of one TransferData
CLOSE_TUNNEL_TIMEOUT_S = 0xFFFF

TO_SERVER_REQUEST_TUNNEL = 0x00
TO_SERVER_CLOSE_TUNNEL = 0x01
TO_SERVER_TRANSFER_DATA = 0x02
TO_SERVER_TRANSFER_DATA_ERROR = 0x03
TO_SERVER_ACK_TRANSFER_DATA = 0x04
TO_SERVER_READY_DATA = 0x05
TO_SERVER_GET_SUPPORTED_PROTOCOLS = 0x06
TO_CLIENT_REQUEST_TUNNEL_RESPONSE = 0x00
TO_CLIENT_TRANSFER_DATA = 0x01
TO_CLIENT_TRANSFER_DATA_ERROR = 0x02
TO_CLIENT_ACK_TRANSFER_DATA = 0x03
TO_CLIENT_READY_DATA = 0x04
TO_CLIENT_SUPPORTED_PROTOCOLS = 0x05
TO_CLIENT_TUNNEL_CLOSURE = 0x06

STATUS_SUCCESS = 0
STATUS_BUSY = 1
STATUS_NO_MORE_TUNNEL_IDS = 2
STATUS_PROTOCOL_NOT_SUPPORTED = 3
STATUS_FLOW_CONTROL_NOT_SUPPORTED = 4
ERROR_NO_SUCH_TUNNEL = 0
ERROR_WRONG_DEVICE = 1
ERROR_DATA_OVERFLOW = 2


class RequestTunnel(NamedTuple):
    """RequestTunnel, client to server."""

    protocol: int
    manufacturer_code: int
    flow_control: bool
    transfer_size_max: int


class RequestTunnelResponse(NamedTuple):
    """RequestTunnelResponse, server to client."""

    tunnel_id: int
    status: int
    transfer_size_max: int


class TransferData(NamedTuple):
    """TransferData, both directions."""

    tunnel_id: int
    data: bytes


class TransferDataError(NamedTuple):
    """TransferDataError, both directions."""

    tunnel_id: int
    status: int


class FlowControl(NamedTuple):
    """AckTransferData and ReadyData, both directions: octets left, or octets that may follow."""

    tunnel_id: int
    octets: int


class SupportedProtocols(NamedTuple):
    """SupportedTunnelProtocolsResponse: pairs of manufacturer code and protocol."""

    complete: bool
    protocols: tuple[tuple[int, int], ...]


def decode_request_tunnel(body: bytes) -> RequestTunnel:
    """Protocol u8, manufacturer u16, flow control bool, transfer size u16."""
    protocol, manufacturer, flow, size = _unpack("RequestTunnel", "<BHBH", body)
    if flow > 1:
        raise DecodeError("RequestTunnel", 3, f"flow control {flow} is no boolean")
    return RequestTunnel(protocol, manufacturer, bool(flow), size)


def encode_request_tunnel(value: RequestTunnel) -> bytes:
    """The body of a RequestTunnel."""
    return struct.pack("<BHBH", *value)


def decode_request_tunnel_response(body: bytes) -> RequestTunnelResponse:
    """Tunnel id u16, status u8, transfer size u16."""
    return RequestTunnelResponse(*_unpack("RequestTunnelResponse", "<HBH", body))


def encode_request_tunnel_response(value: RequestTunnelResponse) -> bytes:
    """The body of a RequestTunnelResponse."""
    return struct.pack("<HBH", *value)


def decode_tunnel_id(body: bytes) -> int:
    """CloseTunnel and TunnelClosureNotification: tunnel id u16."""
    return _unpack("CloseTunnel", "<H", body)[0]


def encode_tunnel_id(tunnel_id: int) -> bytes:
    """The body of a CloseTunnel or TunnelClosureNotification."""
    return tunnel_id.to_bytes(2, "little")


def decode_transfer_data(body: bytes) -> TransferData:
    """Tunnel id u16, data."""
    if len(body) < 2:
        raise DecodeError("TransferData", len(body), "expected a tunnel id")
    return TransferData(body[0] | body[1] << 8, body[2:])


def encode_transfer_data(value: TransferData) -> bytes:
    """The body of a TransferData."""
    return encode_tunnel_id(value.tunnel_id) + value.data


def decode_transfer_data_error(body: bytes) -> TransferDataError:
    """Tunnel id u16, status u8."""
    return TransferDataError(*_unpack("TransferDataError", "<HB", body))


def encode_transfer_data_error(value: TransferDataError) -> bytes:
    """The body of a TransferDataError."""
    return struct.pack("<HB", *value)


def decode_flow_control(body: bytes) -> FlowControl:
    """Tunnel id u16, octets u16."""
    return FlowControl(*_unpack("AckTransferData", "<HH", body))


def encode_flow_control(value: FlowControl) -> bytes:
    """The body of an AckTransferData or ReadyData."""
    return struct.pack("<HH", *value)


def decode_supported_protocols(body: bytes) -> SupportedProtocols:
    """List complete bool, count u8, then manufacturer u16 and protocol u8 each."""
    what = "SupportedTunnelProtocolsResponse"
    if len(body) < 2 or body[0] > 1 or len(body) != 2 + 3 * body[1]:
        raise DecodeError(what, len(body), "count and size do not agree")
    pairs = tuple(struct.iter_unpack("<HB", body[2:]))
    return SupportedProtocols(bool(body[0]), pairs)


def encode_supported_protocols(value: SupportedProtocols) -> bytes:
    """The body of a SupportedTunnelProtocolsResponse."""
    start = bytes((value.complete, len(value.protocols)))
    return start + b"".join(struct.pack("<HB", *pair) for pair in value.protocols)


def _unpack(what: str, form: str, body: bytes) -> tuple[int, ...]:
    if len(body) != struct.calcsize(form):
        raise DecodeError(
            what, len(body), f"expected {struct.calcsize(form)} octets, found {len(body)}"
        )
    return struct.unpack(form, body)
