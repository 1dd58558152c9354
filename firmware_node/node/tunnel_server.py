"""The Tunneling server: GBCS messages to and from the hub, which is the client.

Accepts only protocol 6 with manufacturer code 0xFFFF; a TransferData carries one plain remote
party message without a header. Source: gbcs.md 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from firmware_node.boundary import Effect, Entropy, Frame, FrameReceived, Notify, SendFrame
from firmware_node.errors import DecodeError
from firmware_node.wire import tunneling as t
from firmware_node.wire import zcl
from firmware_node.wire.zcl import Status

TUNNELS_MAX = 4  # the hub needs one; a hub that restarts may leave some open


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """A whole GBCS message came through a tunnel."""

    message: bytes


@dataclass(frozen=True, slots=True)
class _Tunnel:
    peer: Frame  # the frame that asked for it: its addresses lead back
    transfer_size_max: int


Outputs = Sequence[Effect | MessageReceived]


class TunnelServer:
    """Open tunnels by id; the newest is the one we send through."""

    def __init__(self, entropy: Entropy) -> None:
        self._entropy = entropy
        self._tunnels: dict[int, _Tunnel] = {}
        self._last_id = 0
        self._sequence = 0

    def step(self, item: FrameReceived) -> Outputs:
        """Take one frame of the cluster."""
        frame = item.frame
        try:
            header, body = zcl.decode_header(frame.payload)
            if not header.cluster_specific or header.to_client:
                return ()
            return self._on_command(frame, header, body)
        except DecodeError as error:
            return self._refuse(frame, Status.MALFORMED_COMMAND, str(error))

    def send(self, message: bytes, tag: int) -> SendFrame | None:
        """The message in a TransferData; None while no tunnel is open."""
        if not self._tunnels:
            return None
        tunnel_id, tunnel = next(reversed(self._tunnels.items()))
        if len(message) > tunnel.transfer_size_max:
            return None
        body = t.encode_transfer_data(t.TransferData(tunnel_id, message))
        return self._command(tunnel.peer, t.TO_CLIENT_TRANSFER_DATA, body, tag)

    def network_down(self) -> None:
        """The tunnels went with the network; the hub opens new ones."""
        self._tunnels.clear()

    def _on_command(self, frame: Frame, header: zcl.ZclHeader, body: bytes) -> Outputs:
        match header.command:
            case t.TO_SERVER_REQUEST_TUNNEL:
                return self._open(frame, header, t.decode_request_tunnel(body))
            case t.TO_SERVER_CLOSE_TUNNEL:
                return self._close(frame, t.decode_tunnel_id(body))
            case t.TO_SERVER_TRANSFER_DATA:
                return self._receive(frame, t.decode_transfer_data(body))
            case t.TO_SERVER_TRANSFER_DATA_ERROR:
                self._tunnels.pop(t.decode_transfer_data_error(body).tunnel_id, None)
                return (Notify("tunnel_lost"),)
            case t.TO_SERVER_ACK_TRANSFER_DATA | t.TO_SERVER_READY_DATA:
                t.decode_flow_control(body)
                return ()  # flow control was not agreed
            case t.TO_SERVER_GET_SUPPORTED_PROTOCOLS:
                protocols = t.SupportedProtocols(True, ((t.MANUFACTURER_CODE, t.PROTOCOL_GB_HGRP),))
                answer = t.encode_supported_protocols(protocols)
                return (self._command(frame, t.TO_CLIENT_SUPPORTED_PROTOCOLS, answer),)
        return self._refuse(frame, Status.UNSUP_CLUSTER_COMMAND, f"command {header.command:02x}")

    def _open(self, frame: Frame, header: zcl.ZclHeader, request: t.RequestTunnel) -> Outputs:
        tunnel_id, status = 0xFFFF, t.STATUS_SUCCESS
        if (request.protocol, request.manufacturer_code) != (
            t.PROTOCOL_GB_HGRP,
            t.MANUFACTURER_CODE,
        ):
            status = t.STATUS_PROTOCOL_NOT_SUPPORTED
        elif request.flow_control:
            status = t.STATUS_FLOW_CONTROL_NOT_SUPPORTED
        else:
            # A hub that asks again forgot its old tunnel; the oldest makes room.
            while len(self._tunnels) >= TUNNELS_MAX:
                del self._tunnels[next(iter(self._tunnels))]
            tunnel_id = self._last_id = (self._last_id + 1) % 0xFFFF
            size = min(request.transfer_size_max, t.TRANSFER_SIZE_MAX)
            self._tunnels[tunnel_id] = _Tunnel(frame, size)
        response = t.RequestTunnelResponse(tunnel_id, status, t.TRANSFER_SIZE_MAX)
        body = t.encode_request_tunnel_response(response)
        payload = zcl.encode(
            zcl.ZclHeader(
                True, True, True, None, header.sequence, t.TO_CLIENT_REQUEST_TUNNEL_RESPONSE
            ),
            body,
        )
        return (
            SendFrame(frame._replace(payload=payload, broadcast=False)),
            Notify("tunnel_opened" if status == t.STATUS_SUCCESS else "tunnel_refused"),
        )

    def _close(self, frame: Frame, tunnel_id: int) -> Outputs:
        tunnel = self._tunnels.get(tunnel_id)
        if tunnel is None or tunnel.peer.peer != frame.peer:
            return self._refuse(frame, Status.NOT_FOUND, f"tunnel {tunnel_id}")
        del self._tunnels[tunnel_id]
        return (Notify("tunnel_closed"),)

    def _receive(self, frame: Frame, transfer: t.TransferData) -> Outputs:
        tunnel = self._tunnels.get(transfer.tunnel_id)
        if tunnel is None:
            return (self._error(frame, transfer.tunnel_id, t.ERROR_NO_SUCH_TUNNEL),)
        if tunnel.peer.peer != frame.peer:
            return (self._error(frame, transfer.tunnel_id, t.ERROR_WRONG_DEVICE),)
        if len(transfer.data) > t.TRANSFER_SIZE_MAX:
            return (self._error(frame, transfer.tunnel_id, t.ERROR_DATA_OVERFLOW),)
        return (MessageReceived(transfer.data),)

    def _error(self, frame: Frame, tunnel_id: int, status: int) -> SendFrame:
        body = t.encode_transfer_data_error(t.TransferDataError(tunnel_id, status))
        return self._command(frame, t.TO_CLIENT_TRANSFER_DATA_ERROR, body)

    def _command(self, to: Frame, command: int, body: bytes, tag: int = 0) -> SendFrame:
        self._sequence = (self._sequence + 1) & 0xFF
        header = zcl.ZclHeader(True, True, True, None, self._sequence, command)
        return SendFrame(to._replace(payload=zcl.encode(header, body), broadcast=False), tag)

    def _refuse(self, frame: Frame, status: Status, reason: str) -> Outputs:
        note = Notify("frame_refused", {"status": status.name, "reason": reason})
        payload = frame.payload
        if frame.broadcast or len(payload) < 3 or payload[0] & 0x14:
            return (note,)
        header = zcl.ZclHeader(False, True, True, None, payload[1], zcl.DEFAULT_RESPONSE)
        body = zcl.encode_default_response(payload[2], status)
        return (note, SendFrame(frame._replace(payload=zcl.encode(header, body))))
