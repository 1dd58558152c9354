"""The virtual radio: an air on a Unix socket, the hub's end of it and the devices' ends.

The hub listens and gives each entity id its short address; a device that finds no hub is not
joined and tries again. Both ends answer ZDO themselves, as radios do. A message is a u16 length, a
kind, and a body; frames are written together when several leave at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path

from firmware_node.boundary import (
    Frame,
    FrameReceived,
    Input,
    NetworkDown,
    NetworkUp,
    PeerAnnounced,
    SendConfirmed,
    SendFrame,
)
from firmware_node.errors import DecodeError, EnvironmentFailure
from firmware_node.terms import COORDINATOR, EntityId, ShortAddress
from firmware_node.wire import ota, tunneling, zcl, zdo

CHANNEL = 15
RETRY_FIRST_S = 0.1
RETRY_LAST_S = 5.0
PAYLOAD_MAX = 4096  # bytes; a fragmented TransferData has 1,500
_HEAD = struct.Struct("<HB")  # length of what follows the length, kind
_FRAME = struct.Struct(
    "<HBBHHBI"
)  # peer, its endpoint, our endpoint, profile, cluster, broadcast, tag
_JOIN, _WELCOME, _SEND, _CONFIRM = 1, 2, 3, 4
_log = logging.getLogger(__name__)

HUB_ENDPOINT = zdo.Endpoint(
    1,
    zcl.SMART_ENERGY_PROFILE,
    0x0500,
    (zcl.TIME_CLUSTER, ota.CLUSTER),
    (zcl.BASIC_CLUSTER, tunneling.CLUSTER),
)
DEVICE_ENDPOINT = zdo.Endpoint(
    1,
    zcl.SMART_ENERGY_PROFILE,
    0x0502,
    (zcl.BASIC_CLUSTER, tunneling.CLUSTER),
    (zcl.TIME_CLUSTER, ota.CLUSTER),
)


class _Link(asyncio.Protocol):
    """One connection: cuts the stream into messages."""

    def __init__(
        self,
        on_message: Callable[[_Link, int, memoryview], None],
        on_lost: Callable[[_Link], None],
    ) -> None:
        self._on_message = on_message
        self._on_lost = on_lost
        self._rest = b""
        self.transport: asyncio.Transport | None = None
        self.address: ShortAddress | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        at, end, view = 0, len(data), memoryview(data)
        while end - at >= 3:
            size = data[at] | data[at + 1] << 8
            if size < 1 or size > PAYLOAD_MAX + _FRAME.size + 1:
                _log.warning("virtual radio: a message of %d octets, connection closed", size)
                assert self.transport is not None
                self.transport.abort()
                return
            if end - at < 2 + size:
                break
            self._on_message(self, data[at + 2], view[at + 3 : at + 2 + size])
            at += 2 + size
        self._rest = data[at:]

    def connection_lost(self, exc: Exception | None) -> None:
        self._on_lost(self)

    def send(self, kind: int, body: bytes) -> None:
        assert self.transport is not None
        self.transport.write(_HEAD.pack(len(body) + 1, kind) + body)

    def send_frame(self, frame: Frame, tag: int) -> None:
        peer, peer_endpoint, endpoint, profile, cluster, payload, broadcast = frame
        self.send(
            _SEND,
            _FRAME.pack(peer, peer_endpoint, endpoint, profile, cluster, broadcast, tag) + payload,
        )


def _read_frame(body: memoryview) -> tuple[Frame, int]:
    if len(body) < _FRAME.size:
        raise DecodeError("virtual radio frame", len(body), "truncated")
    peer, peer_endpoint, endpoint, profile, cluster, broadcast, tag = _FRAME.unpack_from(body)
    payload = bytes(body[_FRAME.size :])
    frame = Frame(peer, peer_endpoint, endpoint, profile, cluster, payload, bool(broadcast))
    return frame, tag


class AirServer:
    """The hub's radio; the coordinator of the air."""

    def __init__(self, path: Path, entity_id: EntityId, deliver: Callable[[Input], None]) -> None:
        self._path = path
        self._own = zdo.LocalNode(COORDINATOR, entity_id, (HUB_ENDPOINT,))
        self._deliver = deliver
        self._links: dict[ShortAddress, _Link] = {}
        self._addresses: dict[EntityId, ShortAddress] = {}
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Listen; a socket file that nobody answers is replaced.

        Raises:
            EnvironmentFailure: another hub listens there, or the path cannot be used.
        """
        listener = listen(self._path)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(
            lambda: _Link(self._on_message, self._on_lost), sock=listener
        )

    def close(self) -> None:
        """Stop listening and drop every device."""
        if self._server is not None:
            self._server.close()
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()
        for link in list(self._links.values()):
            if link.transport is not None:
                link.transport.close()

    def send(self, effect: SendFrame) -> None:
        """To one device, or to all; a tagged frame is confirmed by the far end's link."""
        frame, tag = effect
        if frame.broadcast:
            for link in self._links.values():
                link.send_frame(frame._replace(peer=COORDINATOR), 0)
            return
        target = self._links.get(frame.peer)
        if target is None:
            if tag:
                self._deliver(SendConfirmed(tag, delivered=False))
            return
        target.send_frame(frame._replace(peer=COORDINATOR), tag)

    def _on_message(self, link: _Link, kind: int, body: memoryview) -> None:
        if kind == _SEND and link.address is not None:
            frame, tag = _read_frame(body)
            frame = frame._replace(
                peer=link.address, peer_endpoint=frame.endpoint, endpoint=frame.peer_endpoint
            )
            if tag:
                link.send(_CONFIRM, tag.to_bytes(4, "little") + b"\1")
            if frame.profile == zdo.PROFILE:
                self._on_zdo(link, frame)
            else:
                self._deliver(FrameReceived(frame))
        elif kind == _CONFIRM and len(body) == 5:
            tag = int.from_bytes(body[:4], "little")
            self._deliver(SendConfirmed(tag, delivered=bool(body[4])))
        elif kind == _JOIN and len(body) == 8:
            self._on_join(link, EntityId(bytes(body)))

    def _on_join(self, link: _Link, entity_id: EntityId) -> None:
        address = self._addresses.setdefault(entity_id, ShortAddress(0x0001 + len(self._addresses)))
        old = self._links.get(address)
        if old is not None and old.transport is not None:
            old.address = None
            old.transport.close()
        link.address = address
        self._links[address] = link
        link.send(_WELCOME, struct.pack("<HB", address, CHANNEL))
        self._deliver(PeerAnnounced(address, entity_id))

    def _on_zdo(self, link: _Link, frame: Frame) -> None:
        try:
            answer = zdo.answer(frame.cluster, frame.payload, self._own)
        except DecodeError:
            return
        if answer is not None:
            reply = Frame(COORDINATOR, 0, 0, zdo.PROFILE, frame.cluster | zdo.RESPONSE, answer)
            link.send_frame(reply, 0)

    def _on_lost(self, link: _Link) -> None:
        if link.address is not None and self._links.get(link.address) is link:
            del self._links[link.address]


class AirClient:
    """A device's radio; joins whenever the hub is there."""

    def __init__(self, path: Path, entity_id: EntityId, deliver: Callable[[Input], None]) -> None:
        self._path = path
        self._entity_id = entity_id
        self._deliver = deliver
        self._link: _Link | None = None
        self._lost = asyncio.Event()
        self._own: zdo.LocalNode | None = None

    async def run(self) -> None:
        """Connect, join, and again after every loss, with back-off; ends when cancelled."""
        delay = RETRY_FIRST_S
        loop = asyncio.get_running_loop()
        while True:
            self._lost.clear()
            try:
                _, link = await loop.create_unix_connection(
                    lambda: _Link(self._on_message, self._on_lost), str(self._path)
                )
            except OSError:
                await asyncio.sleep(delay)
                delay = min(2 * delay, RETRY_LAST_S)
                continue
            delay = RETRY_FIRST_S
            self._link = link
            link.send(_JOIN, self._entity_id.octets)
            await self._lost.wait()
            await asyncio.sleep(delay)

    def close(self) -> None:
        """Leave the air."""
        if self._link is not None and self._link.transport is not None:
            self._link.transport.close()

    def send(self, effect: SendFrame) -> None:
        """To the hub; without it a tagged frame is confirmed as not delivered."""
        frame, tag = effect
        if self._own is None or self._link is None:
            if tag:
                self._deliver(SendConfirmed(tag, delivered=False))
            return
        self._link.send_frame(frame, tag)

    def _on_message(self, link: _Link, kind: int, body: memoryview) -> None:
        if kind == _SEND:
            frame, tag = _read_frame(body)
            # The hub's view of the two endpoints is the mirror of ours.
            frame = frame._replace(peer_endpoint=frame.endpoint, endpoint=frame.peer_endpoint)
            if tag:
                link.send(_CONFIRM, tag.to_bytes(4, "little") + b"\1")
            if frame.profile == zdo.PROFILE and not frame.cluster & zdo.RESPONSE:
                self._on_zdo(link, frame)
            else:
                self._deliver(FrameReceived(frame))
        elif kind == _CONFIRM and len(body) == 5:
            tag = int.from_bytes(body[:4], "little")
            self._deliver(SendConfirmed(tag, delivered=bool(body[4])))
        elif kind == _WELCOME and len(body) == 3:
            address, channel = struct.unpack("<HB", body)
            self._own = zdo.LocalNode(ShortAddress(address), self._entity_id, (DEVICE_ENDPOINT,))
            self._deliver(NetworkUp(ShortAddress(address), channel))

    def _on_zdo(self, link: _Link, frame: Frame) -> None:
        assert self._own is not None
        try:
            answer = zdo.answer(frame.cluster, frame.payload, self._own)
        except DecodeError:
            return
        if answer is not None:
            reply = Frame(frame.peer, 0, 0, zdo.PROFILE, frame.cluster | zdo.RESPONSE, answer)
            link.send_frame(reply, 0)

    def _on_lost(self, link: _Link) -> None:
        del link
        joined, self._own, self._link = self._own is not None, None, None
        if joined:
            self._deliver(NetworkDown())
        self._lost.set()


def listen(path: Path, mode: int = 0o660) -> socket.socket:
    """A listening Unix socket at ``path``; one that nobody answers is replaced.

    Raises:
        EnvironmentFailure: somebody answers there, or the path cannot be used.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(str(path))
            except (FileNotFoundError, ConnectionRefusedError):
                path.unlink(missing_ok=True)
            else:
                raise EnvironmentFailure(f"{path}: another process listens there")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        old_mask = os.umask(0o777 ^ mode)
        try:
            listener.bind(str(path))
        finally:
            os.umask(old_mask)
        listener.listen(128)
        listener.setblocking(False)
    except OSError as error:
        raise EnvironmentFailure(f"{path}: {error.strerror or error}") from error
    return listener
