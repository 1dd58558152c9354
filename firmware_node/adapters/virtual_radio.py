"""The virtual radio: an air on a Unix socket, the hub's end of it and the devices' ends.

The hub listens and gives each entity id its short address; a device that finds no hub is not
joined and tries again. Both ends answer ZDO themselves, as radios do. Device to device the hub's
end passes frames on, broadcasts to everybody.

A message is a u16 length of what follows it, a kind u8 and a body. A frame names the other party
by its short address (to the hub: where it goes; from the hub: where it came from), then the
endpoint it goes to and the one it came from. What one step or one reading of the socket gives is
written together, when ``flush`` is called.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import stat
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
_HEAD = struct.Struct("<HB")  # length, kind
# length, kind, short address, endpoint it goes to and came from, profile, cluster, broadcast, tag
_FRAME = struct.Struct("<HBHBBHHBI")
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
    """One connection: cuts the stream into messages, gathers what leaves."""

    def __init__(
        self,
        on_message: Callable[[_Link, int, bytes], None],
        on_lost: Callable[[_Link], None],
    ) -> None:
        self._on_message = on_message
        self._on_lost = on_lost
        self._rest = b""
        self._out: list[bytes] = []
        self.transport: asyncio.Transport | None = None
        self.address: ShortAddress | None = None
        self.unconfirmed: dict[int, None] = {}  # tags under way, in order

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data, self._rest = self._rest + data, b""
        at, end = 0, len(data)
        try:
            while end - at >= 3:
                behind = at + 2 + (data[at] | data[at + 1] << 8)
                if not at + 2 < behind <= at + _FRAME.size + PAYLOAD_MAX:
                    raise DecodeError("virtual radio message", at, f"{behind - at - 2} octets")
                if behind > end:
                    break
                self._on_message(self, data[at + 2], data[at:behind])
                at = behind
        except DecodeError as error:
            _log.warning("%s, connection closed", error)
            self.close(abort=True)
            return
        if at < end:
            self._rest = data[at:]
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._on_lost(self)

    def send(self, kind: int, body: bytes) -> None:
        self._out.append(_HEAD.pack(len(body) + 1, kind) + body)

    def send_frame(self, frame: Frame, tag: int) -> None:
        peer, peer_endpoint, endpoint, profile, cluster, payload, broadcast = frame
        size = _FRAME.size - 2 + len(payload)
        self._out.append(
            _FRAME.pack(
                size, _SEND, peer, peer_endpoint, endpoint, profile, cluster, broadcast, tag
            )
            + payload
        )

    def flush(self) -> None:
        """Write what was gathered."""
        if self._out:
            out = self._out
            assert self.transport is not None
            if not self.transport.is_closing():
                self.transport.write(out[0] if len(out) == 1 else b"".join(out))
            out.clear()

    def close(self, *, abort: bool = False) -> None:
        """What was not flushed is dropped: it acknowledges what nobody took."""
        if self.transport is not None:
            if abort:
                self.transport.abort()
            else:
                self.transport.close()


def _read_frame(message: bytes) -> tuple[Frame, int]:
    """The frame as its receiver sees it, and its tag."""
    if len(message) < _FRAME.size:
        raise DecodeError("virtual radio frame", len(message), f"expected {_FRAME.size} octets")
    (_, _, peer, endpoint, peer_endpoint, profile, cluster, broadcast, tag) = _FRAME.unpack_from(
        message
    )
    payload = message[_FRAME.size :]
    return Frame(peer, peer_endpoint, endpoint, profile, cluster, payload, bool(broadcast)), tag


def _read_confirm(message: bytes) -> SendConfirmed:
    if len(message) != _HEAD.size + 5:
        raise DecodeError("virtual radio confirm", len(message), "expected 8 octets")
    return SendConfirmed(int.from_bytes(message[3:7], "little"), delivered=bool(message[7]))


def _confirm(tag: int, delivered: bool) -> bytes:
    return tag.to_bytes(4, "little") + bytes((delivered,))


class AirServer:
    """The hub's radio; the coordinator of the air."""

    def __init__(self, path: Path, entity_id: EntityId, deliver: Callable[[Input], None]) -> None:
        self._path = path
        self._own = zdo.LocalNode(COORDINATOR, entity_id, (HUB_ENDPOINT,))
        self._deliver = deliver
        self._links: dict[ShortAddress, _Link] = {}
        self._addresses: dict[EntityId, ShortAddress] = {}
        self._touched: list[_Link] = []
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
            with contextlib.suppress(OSError):
                self._path.unlink()
        for link in list(self._links.values()):
            link.close()

    def send(self, effect: SendFrame) -> None:
        """To one device, or to all, with ``flush``; a lost link confirms as not delivered."""
        frame, tag = effect
        if frame.broadcast:
            self._broadcast(frame._replace(peer=COORDINATOR), None)
            return
        link = self._links.get(frame.peer)
        if link is None:
            if tag:
                self._deliver(SendConfirmed(tag, delivered=False))
            return
        if tag:
            link.unconfirmed[tag] = None
        link.send_frame(frame._replace(peer=COORDINATOR), tag)
        self._touched.append(link)

    def flush(self) -> None:
        """Write what was sent."""
        for link in self._touched:
            link.flush()
        self._touched.clear()

    def _broadcast(self, frame: Frame, source: _Link | None) -> None:
        for link in self._links.values():
            if link is not source:
                link.send_frame(frame, 0)
                self._touched.append(link)

    def _on_message(self, link: _Link, kind: int, message: bytes) -> None:
        if kind == _SEND and link.address is not None:
            self._on_frame(link, link.address, *_read_frame(message))
        elif kind == _CONFIRM:
            confirm = _read_confirm(message)
            if confirm.tag in link.unconfirmed:
                del link.unconfirmed[confirm.tag]
                self._deliver(confirm)
        elif kind == _JOIN:
            if len(message) != _HEAD.size + 8:
                raise DecodeError("virtual radio join", len(message), "expected 11 octets")
            self._on_join(link, EntityId(message[3:]))

    def _on_frame(self, link: _Link, source: ShortAddress, frame: Frame, tag: int) -> None:
        target, peer_endpoint, endpoint, profile, cluster, payload, broadcast = frame
        if broadcast or target != COORDINATOR:
            # As a device sends it: the endpoint it goes to first.
            onward = Frame(source, endpoint, peer_endpoint, profile, cluster, payload, broadcast)
            if not broadcast:
                other = self._links.get(target)
                if tag:
                    link.send(_CONFIRM, _confirm(tag, other is not None))
                if other is not None:
                    other.send_frame(onward, 0)
                    other.flush()
                return
            self._broadcast(onward, link)
            self.flush()
        if tag:
            link.send(_CONFIRM, _confirm(tag, True))
        frame = Frame(source, peer_endpoint, endpoint, profile, cluster, payload, broadcast)
        if profile == zdo.PROFILE and not cluster & zdo.RESPONSE:
            _answer_zdo(link, frame, self._own)
        else:
            self._deliver(FrameReceived(frame))

    def _on_join(self, link: _Link, entity_id: EntityId) -> None:
        address = self._addresses.setdefault(entity_id, ShortAddress(0x0001 + len(self._addresses)))
        old = self._links.get(address)
        if old is not None and old is not link:
            old.address = None
            old.close()
        link.address = address
        self._links[address] = link
        link.send(_WELCOME, struct.pack("<HB", address, CHANNEL))
        self._deliver(PeerAnnounced(address, entity_id))

    def _on_lost(self, link: _Link) -> None:
        if link.address is not None and self._links.get(link.address) is link:
            del self._links[link.address]
        for tag in link.unconfirmed:
            self._deliver(SendConfirmed(tag, delivered=False))


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
            link.flush()
            await self._lost.wait()
            await asyncio.sleep(delay)

    def close(self) -> None:
        """Leave the air."""
        if self._link is not None:
            self._link.close()

    def send(self, effect: SendFrame) -> None:
        """To the air; leaves with ``flush``. Without a hub a tag is confirmed as not delivered."""
        frame, tag = effect
        if self._own is None or self._link is None:
            if tag:
                self._deliver(SendConfirmed(tag, delivered=False))
            return
        if tag:
            self._link.unconfirmed[tag] = None
        self._link.send_frame(frame, tag)

    def flush(self) -> None:
        """Write what was sent."""
        if self._link is not None:
            self._link.flush()

    def _on_message(self, link: _Link, kind: int, message: bytes) -> None:
        if kind == _SEND and self._own is not None:
            frame, tag = _read_frame(message)
            if tag:
                link.send(_CONFIRM, _confirm(tag, True))
            if frame.profile == zdo.PROFILE and not frame.cluster & zdo.RESPONSE:
                _answer_zdo(link, frame, self._own)
            else:
                self._deliver(FrameReceived(frame))
        elif kind == _CONFIRM:
            confirm = _read_confirm(message)
            if confirm.tag in link.unconfirmed:
                del link.unconfirmed[confirm.tag]
                self._deliver(confirm)
        elif kind == _WELCOME:
            if len(message) != _HEAD.size + 3:
                raise DecodeError("virtual radio welcome", len(message), "expected 6 octets")
            address, channel = struct.unpack_from("<HB", message, _HEAD.size)
            self._own = zdo.LocalNode(ShortAddress(address), self._entity_id, (DEVICE_ENDPOINT,))
            self._deliver(NetworkUp(ShortAddress(address), channel))

    def _on_lost(self, link: _Link) -> None:
        joined, self._own, self._link = self._own is not None, None, None
        for tag in link.unconfirmed:
            self._deliver(SendConfirmed(tag, delivered=False))
        if joined:
            self._deliver(NetworkDown())
        self._lost.set()


def _answer_zdo(link: _Link, frame: Frame, own: zdo.LocalNode) -> None:
    """A radio answers service discovery by itself; a malformed request gets silence."""
    try:
        answer = zdo.answer(frame.cluster, frame.payload, own)
    except DecodeError:
        return
    if answer is not None:
        # From the hub's end the address is where it came from, from a device's where it goes.
        peer = COORDINATOR if own.short_address == COORDINATOR else frame.peer
        cluster = frame.cluster | zdo.RESPONSE
        link.send_frame(Frame(peer, 0, 0, zdo.PROFILE, cluster, answer), 0)


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
                # Nobody answers at an ordinary file either, and that one is not ours to remove.
                if path.exists() and not stat.S_ISSOCK(path.lstat().st_mode):
                    raise EnvironmentFailure(f"{path}: there is a file that is no socket") from None
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
