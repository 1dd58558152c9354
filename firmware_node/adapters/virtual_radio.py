"""The virtual radio: an air on a Unix socket, the hub's end of it and the devices' ends.

The hub listens and gives each entity id its short address; a device that finds no hub is not
joined and tries again. Both ends answer ZDO themselves, as radios do. Device to device the hub's
end passes frames on, broadcasts to everybody. How messages look and travel: ``air_link``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import struct
from collections.abc import Callable
from pathlib import Path

from firmware_node.adapters.air_link import CONFIRM, JOIN, WELCOME, Bursts, Link
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
from firmware_node.wire import drlc, ota, tunneling, zcl, zdo

CHANNEL = 15
RETRY_FIRST_S = 0.1
RETRY_LAST_S = 5.0
_WELCOME = struct.Struct("<HB")  # short address, channel
_CONFIRM = struct.Struct("<I?")  # tag, whether it was delivered

# Device ids of ZigBee Smart Energy 1.4, 6.3.1, 6.3.3 and 6.3.5 (as public code quotes it). That a
# PPMID is the second and an HCALCS the third is inferred: [radio] device_id takes another.
ENERGY_SERVICE_INTERFACE, IN_HOME_DISPLAY, LOAD_CONTROL_DEVICE = 0x0500, 0x0502, 0x0504
HUB_ENDPOINT = zdo.Endpoint(
    1,
    zcl.SMART_ENERGY_PROFILE,
    ENERGY_SERVICE_INTERFACE,
    (zcl.TIME_CLUSTER, ota.CLUSTER, drlc.CLUSTER),
    (zcl.BASIC_CLUSTER, tunneling.CLUSTER),
)
DEVICE_ENDPOINT = zdo.Endpoint(
    1,
    zcl.SMART_ENERGY_PROFILE,
    IN_HOME_DISPLAY,
    (zcl.BASIC_CLUSTER, tunneling.CLUSTER),
    (zcl.TIME_CLUSTER, ota.CLUSTER),
)

HCALCS_ENDPOINT = DEVICE_ENDPOINT._replace(
    device=LOAD_CONTROL_DEVICE,
    out_clusters=(*DEVICE_ENDPOINT.out_clusters, drlc.CLUSTER),
)


class AirServer:
    """The hub's radio; the coordinator of the air."""

    def __init__(self, path: Path, entity_id: EntityId, deliver: Callable[[Input], None]) -> None:
        self._path = path
        self._own = zdo.LocalNode(COORDINATOR, entity_id, (HUB_ENDPOINT,))
        self._deliver = deliver
        self._links: dict[ShortAddress, Link] = {}
        self._addresses: dict[EntityId, ShortAddress] = {}
        self._touched: list[Link] = []
        self._listener: socket.socket | None = None
        self._bursts: Bursts | None = None

    async def open(self) -> None:
        """Listen; a socket file that nobody answers is replaced.

        Raises:
            EnvironmentFailure: another hub listens there, or the path cannot be used.
        """
        self._listener = listen(self._path)
        self._bursts = Bursts()
        asyncio.get_running_loop().add_reader(self._listener.fileno(), self._accept)

    async def run(self) -> None:
        """Nothing has to be looked after."""

    async def forget(self) -> None:
        """This network is nowhere kept."""

    def report(self) -> dict[str, object]:
        """See ``radios.Radio``."""
        return {"type": "virtual", "path": str(self._path), "fault": None}

    def close(self) -> None:
        """Stop listening and drop every device."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener.fileno())
            self._listener.close()
            with contextlib.suppress(OSError):
                self._path.unlink()
        if self._bursts is not None:
            self._bursts.close()

    def send(self, effect: SendFrame) -> None:
        """To one device, or to all, with ``flush``; a lost link confirms as not delivered."""
        frame, tag = effect
        if frame.broadcast:
            self._broadcast(COORDINATOR, frame, None)
            return
        link = self._links.get(frame.peer)
        if link is None:
            if tag:
                self._deliver(SendConfirmed(tag, delivered=False))
            return
        if tag:
            link.unconfirmed[tag] = None
        link.send_frame(COORDINATOR, frame, tag)
        self._touched.append(link)

    def flush(self) -> None:
        """Write what was sent."""
        touched = self._touched
        for link in touched:
            link.flush()
        touched.clear()

    def _accept(self) -> None:
        assert self._listener is not None and self._bursts is not None
        with contextlib.suppress(OSError):  # who came has gone again
            connection, _ = self._listener.accept()
            Link(connection, self._bursts, self._on_frame, self._on_message, self._on_lost)

    def _broadcast(self, source: ShortAddress, frame: Frame, but: Link | None) -> None:
        for link in self._links.values():
            if link is not but:
                link.send_frame(source, frame, 0)
                self._touched.append(link)

    def _on_frame(self, link: Link, target: ShortAddress, frame: Frame, tag: int) -> None:
        if link.address is None:
            return
        if frame.broadcast:
            self._broadcast(link.address, _turned(frame), link)
            self.flush()
        elif target != COORDINATOR:
            self._pass_on(link, target, frame, tag)
            return
        if tag:
            link.send(CONFIRM, _CONFIRM.pack(tag, True))
        if frame.profile == zdo.PROFILE and not frame.cluster & zdo.RESPONSE:
            _answer_zdo(link, COORDINATOR, frame, self._own)
        else:
            self._deliver(FrameReceived(frame))

    def _pass_on(self, link: Link, target: ShortAddress, frame: Frame, tag: int) -> None:
        other = self._links.get(target)
        if tag:
            link.send(CONFIRM, _CONFIRM.pack(tag, other is not None))
        if other is not None:
            other.send_frame(frame.peer, _turned(frame), 0)
            other.flush()

    def _on_message(self, link: Link, kind: int, body: bytes) -> None:
        if kind == CONFIRM:
            _on_confirm(link, body, self._deliver)
        elif kind == JOIN:
            if len(body) != 8:
                raise DecodeError("virtual radio join", len(body), "expected 8 octets")
            self._on_join(link, EntityId(body))

    def _on_join(self, link: Link, entity_id: EntityId) -> None:
        address = self._addresses.setdefault(entity_id, ShortAddress(0x0001 + len(self._addresses)))
        old = self._links.get(address)
        if old is not None and old is not link:
            old.address = None
            old.close()
        link.address = address
        self._links[address] = link
        link.send(WELCOME, _WELCOME.pack(address, CHANNEL))
        self._deliver(PeerAnnounced(address, entity_id))

    def _on_lost(self, link: Link) -> None:
        if link.address is not None and self._links.get(link.address) is link:
            del self._links[link.address]
        for tag in link.unconfirmed:
            self._deliver(SendConfirmed(tag, delivered=False))


class AirClient:
    """A device's radio; joins whenever the hub is there."""

    def __init__(
        self,
        path: Path,
        entity_id: EntityId,
        deliver: Callable[[Input], None],
        endpoint: zdo.Endpoint = DEVICE_ENDPOINT,
    ) -> None:
        self._path = path
        self._entity_id = entity_id
        self._endpoint = endpoint
        self._deliver = deliver
        self._link: Link | None = None
        self._lost = asyncio.Event()
        self._own: zdo.LocalNode | None = None

    async def open(self) -> None:
        """Nothing is opened before ``run``: the hub may come later."""

    async def forget(self) -> None:
        """This network is nowhere kept."""

    async def run(self) -> None:
        """Connect, join, and again after every loss, with back-off; ends when cancelled."""
        delay = RETRY_FIRST_S
        bursts = Bursts()
        try:
            while True:
                self._lost.clear()
                try:
                    link = await self._connect(bursts)
                except OSError:
                    await asyncio.sleep(delay)
                    delay = min(2 * delay, RETRY_LAST_S)
                    continue
                delay = RETRY_FIRST_S
                self._link = link
                link.send(JOIN, self._entity_id.octets)
                link.flush()
                await self._lost.wait()
                await asyncio.sleep(delay)
        finally:
            bursts.close()

    async def _connect(self, bursts: Bursts) -> Link:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(connection, str(self._path))
        except BaseException:
            connection.close()
            raise
        return Link(connection, bursts, self._on_frame, self._on_message, self._on_lost)

    def report(self) -> dict[str, object]:
        """See ``radios.Radio``."""
        return {"type": "virtual", "path": str(self._path), "fault": None}

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
        self._link.send_frame(frame.peer, frame, tag)

    def flush(self) -> None:
        """Write what was sent."""
        if self._link is not None:
            self._link.flush()

    def _on_frame(self, link: Link, _: ShortAddress, frame: Frame, tag: int) -> None:
        if self._own is None:
            return
        if tag:
            link.send(CONFIRM, _CONFIRM.pack(tag, True))
        if frame.profile == zdo.PROFILE and not frame.cluster & zdo.RESPONSE:
            _answer_zdo(link, frame.peer, frame, self._own)
        else:
            self._deliver(FrameReceived(frame))

    def _on_message(self, link: Link, kind: int, body: bytes) -> None:
        if kind == CONFIRM:
            _on_confirm(link, body, self._deliver)
        elif kind == WELCOME:
            if len(body) != _WELCOME.size:
                raise DecodeError("virtual radio welcome", len(body), "expected 3 octets")
            address, channel = _WELCOME.unpack(body)
            self._own = zdo.LocalNode(ShortAddress(address), self._entity_id, (self._endpoint,))
            self._deliver(NetworkUp(ShortAddress(address), channel))

    def _on_lost(self, link: Link) -> None:
        joined, self._own, self._link = self._own is not None, None, None
        for tag in link.unconfirmed:
            self._deliver(SendConfirmed(tag, delivered=False))
        if joined:
            self._deliver(NetworkDown())
        self._lost.set()


def _turned(frame: Frame) -> Frame:
    """As ``send_frame`` takes it from a device's frame: each side names its own endpoint last."""
    return frame._replace(peer_endpoint=frame.endpoint, endpoint=frame.peer_endpoint)


def _on_confirm(link: Link, body: bytes, deliver: Callable[[Input], None]) -> None:
    if len(body) != _CONFIRM.size:
        raise DecodeError("virtual radio confirm", len(body), "expected 5 octets")
    tag, delivered = _CONFIRM.unpack(body)
    if tag in link.unconfirmed:
        del link.unconfirmed[tag]
        deliver(SendConfirmed(tag, delivered))


def _answer_zdo(link: Link, named: ShortAddress, frame: Frame, own: zdo.LocalNode) -> None:
    """A radio answers service discovery by itself; a malformed request gets silence."""
    try:
        answer = zdo.answer(frame.cluster, frame.payload, own)
    except DecodeError:
        return
    if answer is not None:
        cluster = frame.cluster | zdo.RESPONSE
        link.send_frame(named, Frame(frame.peer, 0, 0, zdo.PROFILE, cluster, answer), 0)


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
