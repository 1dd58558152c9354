"""The hub's end of the tunnels: opens them, carries messages down, hands up what comes.

A device can speak only while a tunnel is open, and only the hub opens one, so an unanswered or
refused request is repeated for ever, whether or not a message waits. Source: gbcs.md 5.

A message leaves the queue when the radio says that it was delivered, and is kept a little longer:
a device that lost its tunnel acknowledges the frame and then answers TransferDataError.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from firmware_node.boundary import (
    Delivered,
    Effect,
    Frame,
    MessageUp,
    Notify,
    SendConfirmed,
    SendFrame,
)
from firmware_node.rig.hub_terms import HubSettings, Peer, command, default_response
from firmware_node.terms import EntityId
from firmware_node.wire import tunneling as t
from firmware_node.wire import zcl
from firmware_node.wire.zcl import Status

REPLY_MS = 10_000  # until a RequestTunnel is repeated, doubling
BUSY_MS = 180_000  # gbcs.md 5: again after three minutes; also the longest of the repeats
RENEW_MS = 0xFFFF * 1000  # gbcs.md 5: since the last RequestTunnelResponse
CONFIRM_MS = 15_000  # a radio that never confirms counts as not delivered
RETRY_FIRST_MS = 5_000  # after an undelivered message, doubling
RETRY_LAST_MS = 60_000
MESSAGE_LIFE_MS = 24 * 3_600_000  # gbcs.md 5: queued messages live 24 hours
MESSAGES_MAX = 64  # waiting for one device
IDS_GUESSED = 8  # closed when a device has no more ids and we know of none: servers count from 0


@dataclass(slots=True)
class _Tunnel:
    """What the hub knows of one device's tunnels and messages."""

    peer: Peer
    tunnel_id: int | None = None
    known_ids: set[int] = field(default_factory=set)  # granted and not closed
    size_max: int = t.TRANSFER_SIZE_MAX
    request_at: int | None = None  # when to ask for a tunnel
    asked: bool = False  # a request is unanswered
    closed_all: bool = False  # the ids were closed since the last success
    request_ms: int = REPLY_MS
    queue: deque[tuple[int, bytes]] = field(default_factory=deque)  # since when, message
    sending: int = 0  # tag of the TransferData under way
    sent: tuple[int, bytes] | None = None  # the last one that was delivered
    send_at: int = 0  # not before
    retry_ms: int = RETRY_FIRST_MS


class TunnelClient:
    """See the module; one for all devices of a hub."""

    def __init__(self, settings: HubSettings) -> None:
        self._settings = settings
        self._tunnels: dict[EntityId, _Tunnel] = {}
        self._sequence = 0
        self._tag = 0
        self.wake_at: int | None = None

    def report(self) -> Mapping[EntityId, tuple[bool, int]]:
        """By device: whether a tunnel is open, and how many messages wait."""
        return {
            who: (tunnel.tunnel_id is not None, len(tunnel.queue))
            for who, tunnel in self._tunnels.items()
        }

    def announced(self, peer: Peer, now_ms: int) -> Sequence[Effect]:
        """A device (re)joined, so its tunnels are gone: ask for one at once."""
        tunnel = self._tunnels.setdefault(peer.entity_id, _Tunnel(peer))
        tunnel.tunnel_id, tunnel.sending, tunnel.sent = None, 0, None
        tunnel.known_ids.clear()
        tunnel.send_at, tunnel.retry_ms = now_ms, RETRY_FIRST_MS
        tunnel.request_ms, tunnel.closed_all = REPLY_MS, False
        return self._request(tunnel, now_ms)

    def carry(self, recipient: EntityId, message: bytes, now_ms: int) -> Sequence[Effect]:
        """Take a message to a device, now or when it can be reached."""
        tunnel = self._tunnels.get(recipient)
        if tunnel is None:
            return (Delivered("", recipient, "unknown_device"),)
        if len(tunnel.queue) >= MESSAGES_MAX or len(message) > tunnel.size_max:
            return (Delivered("", recipient, "no_route"),)
        tunnel.queue.append((now_ms, message))
        self._wake(now_ms + MESSAGE_LIFE_MS)
        return self._pump(tunnel, now_ms)

    def step(
        self, peer: Peer, frame: Frame, header: zcl.ZclHeader, body: bytes, now_ms: int
    ) -> Sequence[Effect]:
        """Take one cluster-specific frame of a device.

        Raises:
            DecodeError: its body is malformed.
        """
        tunnel = self._tunnels[peer.entity_id]
        match header.command:
            case t.TO_CLIENT_REQUEST_TUNNEL_RESPONSE:
                response = t.decode_request_tunnel_response(body)
                return self._on_response(tunnel, response, now_ms)
            case t.TO_CLIENT_TRANSFER_DATA:
                # Whatever its tunnel id: a message vouches for itself, and one that we refused
                # would be lost, because the device has our radio's acknowledgement.
                effects: list[Effect] = [MessageUp(t.decode_transfer_data(body).data)]
                if self._settings.default_responses and not header.disable_default_response:
                    effects.append(default_response(frame, header, Status.SUCCESS))
                return effects
            case t.TO_CLIENT_TRANSFER_DATA_ERROR:
                return self._on_error(tunnel, t.decode_transfer_data_error(body), now_ms)
            case t.TO_CLIENT_TUNNEL_CLOSURE:
                return self._lost(tunnel, t.decode_tunnel_id(body), now_ms)
            case t.TO_CLIENT_ACK_TRANSFER_DATA | t.TO_CLIENT_READY_DATA:
                t.decode_flow_control(body)
                return ()  # flow control was not agreed
            case t.TO_CLIENT_SUPPORTED_PROTOCOLS:
                t.decode_supported_protocols(body)
                return ()
        return (default_response(frame, header, Status.UNSUP_CLUSTER_COMMAND),)

    def confirmed(self, item: SendConfirmed, now_ms: int) -> Sequence[Effect]:
        """The radio's word on a TransferData; a word on an older one is ignored."""
        for tunnel in self._tunnels.values():
            if tunnel.sending == item.tag:
                tunnel.sending = 0
                if not item.delivered:
                    self._try_later(tunnel, now_ms)
                    return ()
                tunnel.sent = tunnel.queue.popleft()
                tunnel.send_at, tunnel.retry_ms = now_ms, RETRY_FIRST_MS
                delivered = Delivered("", tunnel.peer.entity_id, "delivered")
                return (delivered, *self._pump(tunnel, now_ms))
        return ()

    def timer(self, now_ms: int) -> Sequence[Effect]:
        """Requests and messages that are due or too old; sets the next timer."""
        effects: list[Effect] = []
        for tunnel in self._tunnels.values():
            if tunnel.request_at is not None and tunnel.request_at <= now_ms:
                if tunnel.asked:  # not answered
                    tunnel.request_ms = min(2 * tunnel.request_ms, BUSY_MS)
                effects += self._request(tunnel, now_ms)
            if tunnel.sending and tunnel.send_at <= now_ms:
                tunnel.sending = 0
                self._try_later(tunnel, now_ms)
            while tunnel.queue and tunnel.queue[0][0] + MESSAGE_LIFE_MS <= now_ms:
                tunnel.queue.popleft()
                tunnel.sending = 0
                effects.append(Delivered("", tunnel.peer.entity_id, "no_route"))
            effects += self._pump(tunnel, now_ms)
        times = []
        for tunnel in self._tunnels.values():
            if tunnel.request_at is not None:
                times.append(tunnel.request_at)
            if tunnel.queue:
                times.append(tunnel.queue[0][0] + MESSAGE_LIFE_MS)
                if tunnel.sending or tunnel.tunnel_id is not None:
                    times.append(tunnel.send_at)
        self.wake_at = min(times, default=None)
        return effects

    # --- the tunnel -------------------------------------------------------------------------------

    def _request(self, tunnel: _Tunnel, now_ms: int) -> Sequence[SendFrame]:
        tunnel.asked = True
        self._request_again(tunnel, now_ms + tunnel.request_ms)
        request = t.RequestTunnel(
            t.PROTOCOL_GB_HGRP, t.MANUFACTURER_CODE, False, t.TRANSFER_SIZE_MAX
        )
        body = t.encode_request_tunnel(request)
        return (self._command(tunnel, t.TO_SERVER_REQUEST_TUNNEL, body),)

    def _on_response(
        self, tunnel: _Tunnel, response: t.RequestTunnelResponse, now_ms: int
    ) -> Sequence[Effect]:
        if not tunnel.asked:
            return ()  # late or repeated
        tunnel.asked = False
        tunnel.request_ms = REPLY_MS
        if response.status == t.STATUS_SUCCESS:
            return self._opened(tunnel, response, now_ms)
        note = Notify(
            "tunnel_refused",
            {"entity_id": str(tunnel.peer.entity_id), "status": response.status},
        )
        if response.status == t.STATUS_NO_MORE_TUNNEL_IDS and not tunnel.closed_all:
            tunnel.closed_all = True
            ids = sorted(tunnel.known_ids) or range(IDS_GUESSED)
            closes = [self._close(tunnel, tunnel_id) for tunnel_id in ids]
            tunnel.known_ids.clear()
            tunnel.tunnel_id = None
            return (note, *closes, *self._request(tunnel, now_ms))
        self._request_again(tunnel, now_ms + BUSY_MS)
        return (note,)

    def _opened(
        self, tunnel: _Tunnel, response: t.RequestTunnelResponse, now_ms: int
    ) -> Sequence[Effect]:
        old, new = tunnel.tunnel_id, response.tunnel_id
        effects: list[Effect] = []
        if old is not None and old != new:
            effects.append(self._close(tunnel, old))
            tunnel.known_ids.discard(old)
        tunnel.tunnel_id = new
        tunnel.known_ids.add(new)
        tunnel.closed_all = False
        tunnel.size_max = min(response.transfer_size_max, t.TRANSFER_SIZE_MAX)
        self._request_again(tunnel, now_ms + RENEW_MS)
        return (*effects, *self._pump(tunnel, now_ms))

    def _on_error(
        self, tunnel: _Tunnel, error: t.TransferDataError, now_ms: int
    ) -> Sequence[Effect]:
        """The device did not take the message that was sent last, confirmed or not."""
        if error.tunnel_id != tunnel.tunnel_id:
            return ()
        if error.status == t.ERROR_DATA_OVERFLOW:  # it would be refused every time
            if tunnel.sending:
                tunnel.queue.popleft()
            tunnel.sending, tunnel.sent = 0, None
            tunnel.send_at = now_ms
            return (Delivered("", tunnel.peer.entity_id, "no_route"), *self._pump(tunnel, now_ms))
        if tunnel.sent is not None and not tunnel.sending:
            tunnel.queue.appendleft(tunnel.sent)
        self._try_later(tunnel, now_ms)
        return self._lost(tunnel, error.tunnel_id, now_ms)

    def _lost(self, tunnel: _Tunnel, tunnel_id: int, now_ms: int) -> Sequence[Effect]:
        tunnel.known_ids.discard(tunnel_id)
        if tunnel_id != tunnel.tunnel_id:
            return ()
        tunnel.tunnel_id, tunnel.sending, tunnel.sent = None, 0, None
        return self._request(tunnel, now_ms)

    def _close(self, tunnel: _Tunnel, tunnel_id: int) -> SendFrame:
        body = t.encode_tunnel_id(tunnel_id)
        return self._command(tunnel, t.TO_SERVER_CLOSE_TUNNEL, body)

    def _request_again(self, tunnel: _Tunnel, at_ms: int) -> None:
        tunnel.request_at = at_ms
        self._wake(at_ms)

    # --- messages ---------------------------------------------------------------------------------

    def _pump(self, tunnel: _Tunnel, now_ms: int) -> Sequence[SendFrame]:
        """Send the head when nothing is under way; without a tunnel one is on its way already."""
        if not tunnel.queue or tunnel.sending or tunnel.tunnel_id is None:
            return ()
        if now_ms < tunnel.send_at:
            self._wake(tunnel.send_at)
            return ()
        self._tag += 1
        tunnel.sending = self._tag
        tunnel.send_at = now_ms + CONFIRM_MS
        self._wake(tunnel.send_at)
        body = t.encode_transfer_data(t.TransferData(tunnel.tunnel_id, tunnel.queue[0][1]))
        return (self._command(tunnel, t.TO_SERVER_TRANSFER_DATA, body, self._tag),)

    def _try_later(self, tunnel: _Tunnel, now_ms: int) -> None:
        tunnel.send_at = now_ms + tunnel.retry_ms
        tunnel.retry_ms = min(2 * tunnel.retry_ms, RETRY_LAST_MS)
        self._wake(tunnel.send_at)

    def _wake(self, at_ms: int) -> None:
        """A timer may fire early and look again, so it is only ever moved forward here."""
        if self.wake_at is None or at_ms < self.wake_at:
            self.wake_at = at_ms

    def _command(self, tunnel: _Tunnel, number: int, body: bytes, tag: int = 0) -> SendFrame:
        self._sequence = (self._sequence + 1) & 0xFF
        header = zcl.ZclHeader(True, False, False, None, self._sequence, number)
        return command(tunnel.peer, t.CLUSTER, header, body, tag)
