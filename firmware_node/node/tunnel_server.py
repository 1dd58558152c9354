"""The Tunneling server: GBCS messages to and from the hub, which is the client.

Accepts only protocol 6 with manufacturer code 0xFFFF, from the coordinator. A TransferData carries
one plain remote party message without a header. A tunnel that is idle for ``CloseTunnelTimeout``
is closed and the hub is told, so that it opens a new one. Source: gbcs.md 5; ZSE, Tunneling.

Notifications: ``tunnel_opened tunnel_refused tunnel_closed tunnel_lost tunnel_expired
frame_refused``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from firmware_node.boundary import Effect, Entropy, Frame, FrameReceived, Notify, SendFrame
from firmware_node.errors import DecodeError, RefusedError
from firmware_node.node.replies import default_response
from firmware_node.terms import COORDINATOR, ShortAddress
from firmware_node.wire import tunneling as t
from firmware_node.wire import zcl
from firmware_node.wire.zcl import Status

TUNNELS_MAX = 4  # the hub needs one; a hub that restarts may leave some open
_NO_TUNNEL = 0xFFFF  # tunnel id of a refusal
_IDLE_MS = t.CLOSE_TUNNEL_TIMEOUT_S * 1000


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """A whole GBCS message came through a tunnel."""

    message: bytes
    peer: ShortAddress
    tunnel_id: int


@dataclass(slots=True)
class _Tunnel:
    request: Frame  # the frame that asked for it: its addresses lead back
    transfer_size_max: int  # bytes the hub takes
    closes_ms: int


Outputs = Sequence[Effect | MessageReceived]


class TunnelServer:
    """Open tunnels by id; the newest is the one we send through."""

    def __init__(self, entropy: Entropy) -> None:
        self._entropy = entropy
        self._tunnels: dict[int, _Tunnel] = {}
        self._last_id: int | None = None
        self._sequence = 0

    @property
    def wake_at(self) -> int | None:
        """When the next idle tunnel is to be closed."""
        return min((tunnel.closes_ms for tunnel in self._tunnels.values()), default=None)

    def step(self, item: FrameReceived | None, now_ms: int) -> Outputs:
        """Take one frame of the cluster, or close what was idle for too long."""
        if item is None:
            return self._close_idle(now_ms)
        frame = item.frame
        try:
            header, body = zcl.decode_header(frame.payload)
            if not header.cluster_specific:
                return ()
            outputs = self._on_command(frame, header, body, now_ms)
        except DecodeError as error:
            return self._refuse(frame, Status.MALFORMED_COMMAND, str(error))
        except RefusedError as refused:
            return self._refuse(frame, refused.code, refused.reason)
        if any(type(output) is SendFrame for output in outputs):
            return outputs  # a response that the command specifies
        return (*default_response(frame, Status.SUCCESS), *outputs)

    def send(self, message: bytes, tag: int) -> SendFrame | None:
        """The message in a TransferData; None while no tunnel is open that takes its size.

        Raises:
            RefusedError: larger than any TransferData may be.
        """
        if len(message) > t.TRANSFER_SIZE_MAX:
            raise RefusedError(
                Status.INVALID_VALUE, "message_too_long", f"{len(message)} bytes for a tunnel"
            )
        for tunnel_id, tunnel in reversed(self._tunnels.items()):
            if len(message) <= tunnel.transfer_size_max:
                body = t.encode_transfer_data(t.TransferData(tunnel_id, message))
                return self._command(tunnel.request, t.TO_CLIENT_TRANSFER_DATA, body, tag)
        return None

    def network_down(self) -> None:
        """The tunnels went with the network; the hub opens new ones."""
        self._tunnels.clear()

    def _on_command(self, frame: Frame, header: zcl.ZclHeader, body: bytes, now_ms: int) -> Outputs:
        if header.to_client or header.manufacturer_code is not None:
            raise RefusedError(Status.UNSUP_CLUSTER_COMMAND, "command", "not for a tunnel server")
        match header.command:
            case t.TO_SERVER_REQUEST_TUNNEL:
                return self._open(frame, header, t.decode_request_tunnel(body), now_ms)
            case t.TO_SERVER_CLOSE_TUNNEL:
                return self._close(frame, t.decode_tunnel_id(body))
            case t.TO_SERVER_TRANSFER_DATA:
                return self._receive(frame, t.decode_transfer_data(body), now_ms)
            case t.TO_SERVER_TRANSFER_DATA_ERROR:
                return self._lose(frame, t.decode_transfer_data_error(body))
            case t.TO_SERVER_ACK_TRANSFER_DATA | t.TO_SERVER_READY_DATA:
                t.decode_flow_control(body)
                return ()  # flow control was not agreed
            case t.TO_SERVER_GET_SUPPORTED_PROTOCOLS:
                protocols = t.SupportedProtocols(True, ((t.MANUFACTURER_CODE, t.PROTOCOL_GB_HGRP),))
                answer = t.encode_supported_protocols(protocols)
                return (self._answer(frame, header, t.TO_CLIENT_SUPPORTED_PROTOCOLS, answer),)
        raise RefusedError(Status.UNSUP_CLUSTER_COMMAND, "command", f"command {header.command:02x}")

    def _open(
        self, frame: Frame, header: zcl.ZclHeader, request: t.RequestTunnel, now_ms: int
    ) -> Outputs:
        if frame.peer != COORDINATOR:
            raise RefusedError(Status.NOT_AUTHORIZED, "not_the_hub", "only the hub has tunnels")
        tunnel_id, status = _NO_TUNNEL, t.STATUS_SUCCESS
        if (request.protocol, request.manufacturer_code) != (
            t.PROTOCOL_GB_HGRP,
            t.MANUFACTURER_CODE,
        ):
            status = t.STATUS_PROTOCOL_NOT_SUPPORTED
        elif request.flow_control:
            status = t.STATUS_FLOW_CONTROL_NOT_SUPPORTED
        elif len(self._tunnels) >= TUNNELS_MAX:
            status = t.STATUS_NO_MORE_TUNNEL_IDS  # the hub closes its old ones and asks again
        else:
            tunnel_id = self._next_id()
            size = min(request.transfer_size_max, t.TRANSFER_SIZE_MAX)
            self._tunnels[tunnel_id] = _Tunnel(frame, size, now_ms + _IDLE_MS)
        response = t.RequestTunnelResponse(tunnel_id, status, t.TRANSFER_SIZE_MAX)
        body = t.encode_request_tunnel_response(response)
        name = "tunnel_opened" if status == t.STATUS_SUCCESS else "tunnel_refused"
        return (
            self._answer(frame, header, t.TO_CLIENT_REQUEST_TUNNEL_RESPONSE, body),
            Notify(name, {"tunnel_id": tunnel_id, "status": status}),
        )

    def _close(self, frame: Frame, tunnel_id: int) -> Outputs:
        tunnel = self._tunnels.get(tunnel_id)
        if tunnel is None or tunnel.request.peer != frame.peer:
            raise RefusedError(Status.NOT_FOUND, "no_such_tunnel", f"tunnel {tunnel_id}")
        del self._tunnels[tunnel_id]
        return (Notify("tunnel_closed", {"tunnel_id": tunnel_id}),)

    def _receive(self, frame: Frame, transfer: t.TransferData, now_ms: int) -> Outputs:
        tunnel = self._tunnels.get(transfer.tunnel_id)
        if tunnel is None:
            return (self._error(frame, transfer.tunnel_id, t.ERROR_NO_SUCH_TUNNEL),)
        if tunnel.request.peer != frame.peer:
            return (self._error(frame, transfer.tunnel_id, t.ERROR_WRONG_DEVICE),)
        if len(transfer.data) > t.TRANSFER_SIZE_MAX:
            return (self._error(frame, transfer.tunnel_id, t.ERROR_DATA_OVERFLOW),)
        tunnel.closes_ms = now_ms + _IDLE_MS
        return (MessageReceived(transfer.data, frame.peer, transfer.tunnel_id),)

    def _lose(self, frame: Frame, error: t.TransferDataError) -> Outputs:
        """The hub does not know the tunnel, or could not take what we sent."""
        tunnel = self._tunnels.get(error.tunnel_id)
        if tunnel is None or tunnel.request.peer != frame.peer:
            return ()
        if error.status != t.ERROR_DATA_OVERFLOW:
            del self._tunnels[error.tunnel_id]
        fields = {"tunnel_id": error.tunnel_id, "status": error.status}
        return (Notify("tunnel_lost", fields),)

    def _close_idle(self, now_ms: int) -> Outputs:
        outputs: list[Effect] = []
        for tunnel_id, tunnel in list(self._tunnels.items()):
            if tunnel.closes_ms <= now_ms:
                del self._tunnels[tunnel_id]
                body = t.encode_tunnel_id(tunnel_id)
                outputs.append(self._command(tunnel.request, t.TO_CLIENT_TUNNEL_CLOSURE, body))
                outputs.append(Notify("tunnel_expired", {"tunnel_id": tunnel_id}))
        return outputs

    def _next_id(self) -> int:
        """An id that is free; the first is drawn, so that an id of a former life is not known."""
        last = self._entropy.below(_NO_TUNNEL) if self._last_id is None else self._last_id
        while (last := (last + 1) % _NO_TUNNEL) in self._tunnels:
            pass
        self._last_id = last
        return last

    def _error(self, frame: Frame, tunnel_id: int, status: int) -> SendFrame:
        body = t.encode_transfer_data_error(t.TransferDataError(tunnel_id, status))
        return self._command(frame, t.TO_CLIENT_TRANSFER_DATA_ERROR, body)

    def _answer(self, to: Frame, header: zcl.ZclHeader, command: int, body: bytes) -> SendFrame:
        reply = zcl.ZclHeader(True, True, True, None, header.sequence, command)
        return SendFrame(to._replace(payload=zcl.encode(reply, body), broadcast=False))

    def _command(self, to: Frame, command: int, body: bytes, tag: int = 0) -> SendFrame:
        self._sequence = (self._sequence + 1) & 0xFF
        header = zcl.ZclHeader(True, True, True, None, self._sequence, command)
        return SendFrame(to._replace(payload=zcl.encode(header, body), broadcast=False), tag)

    @staticmethod
    def _refuse(frame: Frame, status: int, reason: str) -> Outputs:
        note = Notify("frame_refused", {"status": f"{status:02X}", "reason": reason})
        return (note, *default_response(frame, status))
