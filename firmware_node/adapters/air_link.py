"""The connections of the virtual radio: messages on a Unix stream socket, served in bursts.

A message is a u16 length of what follows it, a kind u8 and a body. A frame names the other party
by its short address (to the hub: where it goes; from the hub: where it came from), then the
endpoint it goes to and the one it came from. What one step or one reading of the socket gives is
written together, when ``flush`` is called.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import select
import socket
import struct
import time
from collections.abc import Callable

from firmware_node.boundary import Frame
from firmware_node.errors import DecodeError
from firmware_node.terms import ShortAddress

PAYLOAD_MAX = 4096  # bytes; a fragmented TransferData has 1,500
UNSENT_MAX = 1024 * 1024  # bytes; sixteen pages of the largest size: who leaves them is gone
READ_SIZE = 64 * 1024
LINGER_S = 0.001  # the shortest sleep that epoll knows
LOOK_S = 0.0001  # some five times what the other end of a download takes to answer
MISSES_MAX = 4
PAUSE = 2000  # waits; a tenth of a second of a download, of which looking may waste little
BURST_S = 0.005  # what timers and the control socket may be late by
JOIN, WELCOME, SEND, CONFIRM = 1, 2, 3, 4

_HEAD = struct.Struct("<HB")  # length, kind
# length, kind, short address, endpoint it goes to and came from, profile, cluster, broadcast, tag
_FRAME = struct.Struct("<HBHBBHH?I")
_FRAME_SIZE, _pack, _unpack = _FRAME.size, _FRAME.pack, _FRAME.unpack_from  # for the hot path
_LENGTH_SIZE = 2
_SIZE_MAX = _FRAME_SIZE - _LENGTH_SIZE + PAYLOAD_MAX
_log = logging.getLogger(__name__)


class Bursts:
    """Serves the links of one end, one burst at a time.

    Block for block a download is one frame there and one frame back, and a turn of the event loop
    costs more than both. So the next frame is waited for here, for ``LINGER_S``; whatever else the
    loop has to do waits no longer than that and ``BURST_S``.

    To sleep and be woken costs as much again where the other end has a processor of its own, so
    it is looked for first, for ``LOOK_S``. Where that finds nothing ``MISSES_MAX`` times in a row
    (the other end needs this processor, or is slow), the next ``PAUSE`` waits only sleep.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._links: dict[int, Link] = {}
        self._misses = 0  # in a row; past MISSES_MAX it counts the pause
        asyncio.get_running_loop().add_reader(self._epoll.fileno(), self._serve)

    def add(self, fd: int, link: Link) -> None:
        """Serve this link from now on."""
        self._links[fd] = link
        self._epoll.register(fd, select.EPOLLIN)

    def watch(self, fd: int, *, for_room: bool) -> None:
        """Whether its link also waits for room to write."""
        self._epoll.modify(fd, select.EPOLLIN | (select.EPOLLOUT if for_room else 0))

    def remove(self, fd: int) -> None:
        """Its socket is about to be closed."""
        del self._links[fd]
        self._epoll.unregister(fd)

    def close(self) -> None:
        """Close every link and serve none any more."""
        for link in list(self._links.values()):
            link.close()
        if not self._epoll.closed:
            asyncio.get_running_loop().remove_reader(self._epoll.fileno())
            self._epoll.close()

    def _serve(self) -> None:
        links, now = self._links, time.monotonic
        until = now() + BURST_S
        while events := self._next():
            for fd, what in events:
                link = links.get(fd)  # one of these may have closed another
                if link is not None:
                    link.ready(what)
            if self._epoll.closed or now() >= until:
                return

    def _next(self) -> list[tuple[int, int]]:
        """What is there or comes within ``LINGER_S``; nothing ends the burst."""
        poll = self._epoll.poll
        if self._misses < MISSES_MAX:
            until = time.monotonic() + LOOK_S
            while time.monotonic() < until:
                if events := poll(0):
                    self._misses = 0
                    return events
        self._misses += 1
        if self._misses == MISSES_MAX + PAUSE:
            self._misses = 0
        return poll(LINGER_S)


class Link:
    """One connection: cuts the stream into messages, gathers what leaves."""

    def __init__(
        self,
        connection: socket.socket,
        bursts: Bursts,
        on_frame: Callable[[Link, ShortAddress, Frame, int], None],
        on_message: Callable[[Link, int, bytes], None],
        on_lost: Callable[[Link], None],
    ) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._receive = connection.recv
        self._send = connection.send
        self._fd = connection.fileno()
        self._bursts = bursts
        self._on_frame = on_frame
        self._on_message = on_message
        self._on_lost = on_lost
        self._rest = b""
        self._out: list[bytes] = []
        self._unsent = b""
        self._closed = False
        self.address: ShortAddress | None = None  # of the device at the other end, once joined
        self.unconfirmed: dict[int, None] = {}  # tags under way, in order
        bursts.add(self._fd, self)

    def ready(self, what: int) -> None:
        """epoll says that there is something to read, room to write, or nobody any more."""
        if what & select.EPOLLOUT:
            self.flush()
            if what == select.EPOLLOUT or self._closed:
                return
        try:
            data = self._receive(READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        if self._rest:
            data, self._rest = self._rest + data, b""
        try:
            taken = self._take(data)
        except DecodeError as error:
            _log.warning("%s, connection closed", error)
            self.close()
            return
        if taken < len(data):
            self._rest = data[taken:]
        if self._out:
            self.flush()

    def _take(self, data: bytes) -> int:
        """Hand over every whole message; the octets that they were.

        Raises:
            DecodeError: what came is no message.
        """
        at, end = 0, len(data)
        while end - at >= _HEAD.size:
            size = data[at] | data[at + 1] << 8
            if not 0 < size <= _SIZE_MAX:
                raise DecodeError("virtual radio message", at, f"{size} octets")
            behind = at + _LENGTH_SIZE + size
            if behind > end:
                break
            if data[at + 2] == SEND:
                if behind - at < _FRAME_SIZE:
                    raise DecodeError("virtual radio frame", at, f"{behind - at} octets")
                _, _, named, endpoint, peer_endpoint, profile, cluster, broadcast, tag = _unpack(
                    data, at
                )
                payload = data[at + _FRAME_SIZE : behind]
                peer = self.address if self.address is not None else named
                frame = Frame(peer, peer_endpoint, endpoint, profile, cluster, payload, broadcast)
                self._on_frame(self, named, frame, tag)
            else:
                self._on_message(self, data[at + 2], data[at + _HEAD.size : behind])
            at = behind
        return at

    def send(self, kind: int, body: bytes) -> None:
        """A message other than a frame; leaves with ``flush``."""
        self._out.append(_HEAD.pack(len(body) + 1, kind) + body)

    def send_frame(self, named: ShortAddress, frame: Frame, tag: int) -> None:
        """A frame, to or from the party ``named``; leaves with ``flush``."""
        _, peer_endpoint, endpoint, profile, cluster, payload, broadcast = frame
        self._out.append(
            _pack(
                _FRAME_SIZE - _LENGTH_SIZE + len(payload),
                SEND,
                named,
                peer_endpoint,
                endpoint,
                profile,
                cluster,
                broadcast,
                tag,
            )
            + payload
        )

    def flush(self) -> None:
        """Write what was gathered, as far as there is room."""
        out = self._out
        if self._closed or not (out or self._unsent):
            return
        data = out[0] if len(out) == 1 and not self._unsent else self._unsent + b"".join(out)
        out.clear()
        try:
            sent = self._send(data)
        except BlockingIOError:
            sent = 0
        except OSError:  # the reading side hears of the end as well, and in its turn
            sent = len(data)
        if sent < len(data) or self._unsent:
            self._keep(data[sent:])

    def _keep(self, unsent: bytes) -> None:
        if bool(unsent) != bool(self._unsent):
            self._bursts.watch(self._fd, for_room=bool(unsent))
        self._unsent = unsent
        if len(unsent) > UNSENT_MAX:
            _log.warning("virtual radio: the other end does not read, connection closed")
            self.close()

    def close(self) -> None:
        """End; ``on_lost`` comes later, never from in here.

        What was flushed is written as far as there is room; the rest would acknowledge what nobody
        took.
        """
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(OSError):
            self._send(self._unsent)
        self._bursts.remove(self._fd)
        self._socket.close()
        asyncio.get_running_loop().call_soon(self._on_lost, self)
