"""Where octets move: descriptors that never wait, the host's pty or TCP port, a serial line's pace.

Everything runs on the loop that it is given.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
import tty
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from firmware_node.adapters.virtual_stick.loop import Handle, Loop
from firmware_node.errors import EnvironmentFailure

READ_SIZE = 65536
FRAME_START, FRAME_OVERHEAD = 0xFE, 5  # of MT: start, size, two of the command, checksum
BACKLOG_MAX = 2 * READ_SIZE  # octets for a reader that does not read; more is lost, as on a wire


def now_us() -> int:
    """The one clock: monotonic, and the same for all processes of the machine."""
    return time.monotonic_ns() // 1000


class Line:
    """A file descriptor that octets come from and go to, without waiting."""

    def __init__(
        self,
        loop: Loop,
        fd: int,
        on_octets: Callable[[bytes], None],
        on_end: Callable[[], None],
    ) -> None:
        self._fd = fd
        self._on_octets = on_octets
        self._on_end = on_end
        self._backlog = bytearray()
        self._loop = loop
        self.lost = 0  # octets that nobody read in time
        os.set_blocking(fd, False)
        self._loop.add_reader(fd, self._read)

    def _read(self) -> None:
        try:
            octets = os.read(self._fd, READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            octets = b""
        if octets:
            self._on_octets(octets)
        else:
            self.close()
            self._on_end()

    def write(self, octets: bytes) -> None:
        """Write now, or as soon as the other end reads."""
        if self._fd < 0:
            return
        if not self._backlog:
            try:
                written = os.write(self._fd, octets)
            except BlockingIOError:
                written = 0
            except OSError:
                return  # the reader learns of it
            if written == len(octets):
                return
            octets = octets[written:]
            self._loop.add_writer(self._fd, self._drain)
        if len(self._backlog) + len(octets) > BACKLOG_MAX:
            self.lost += len(octets)
            return
        self._backlog += octets

    def _drain(self) -> None:
        try:
            written = os.write(self._fd, self._backlog)
        except BlockingIOError:
            return
        except OSError:
            written = len(self._backlog)
        del self._backlog[:written]
        if not self._backlog:
            self._loop.remove_writer(self._fd)

    def pause(self) -> None:
        """Read no more until ``resume``: who writes will have to wait."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)

    def resume(self) -> None:
        """Read again."""
        if self._fd >= 0:
            self._loop.add_reader(self._fd, self._read)

    def close(self) -> None:
        """Let go of the descriptor."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            self._loop.remove_writer(self._fd)
            os.close(self._fd)
            self._fd = -1


class Port(Protocol):
    """Where hosts connect."""

    def open(self) -> None:
        """Be there.

        Raises:
            EnvironmentFailure: the place is taken, or cannot be used.
        """
        ...

    def write(self, octets: bytes) -> None:
        """To the host; without one it is lost."""
        ...

    def hold(self, held: bool) -> None:
        """Whether the host has to wait with what it writes."""
        ...

    def close(self) -> None:
        """Be gone."""
        ...


class PtyPort:
    """A pseudo-terminal behind a link. Its far end stays open here: a host may close and open."""

    def __init__(self, loop: Loop, link: Path, on_octets: Callable[[bytes], None]) -> None:
        self._loop = loop
        self._link = link
        self._on_octets = on_octets
        self._line: Line | None = None
        self._slave = -1

    def open(self) -> None:
        """See ``Port``."""
        master, self._slave = os.openpty()
        tty.setraw(self._slave)
        try:
            if self._link.is_symlink():
                self._link.unlink()
            self._link.symlink_to(os.ttyname(self._slave))
        except OSError as error:
            os.close(master)
            os.close(self._slave)
            raise EnvironmentFailure(f"{self._link}: {error.strerror or error}") from error
        self._line = Line(self._loop, master, self._on_octets, lambda: None)

    def write(self, octets: bytes) -> None:
        """See ``Port``."""
        if self._line is not None:
            self._line.write(octets)

    def hold(self, held: bool) -> None:
        """See ``Port``."""
        if self._line is not None:
            (self._line.pause if held else self._line.resume)()

    def close(self) -> None:
        """See ``Port``."""
        if self._line is not None:
            self._line.close()
            self._line = None
            os.close(self._slave)
            with contextlib.suppress(OSError):
                self._link.unlink()


class TcpPort:
    """A TCP port for one host at a time; a new one takes over."""

    def __init__(
        self, loop: Loop, address: tuple[str, int], on_octets: Callable[[bytes], None]
    ) -> None:
        self._loop = loop
        self._address = address
        self._on_octets = on_octets
        self._listener: socket.socket | None = None
        self._line: Line | None = None

    def open(self) -> None:
        """See ``Port``."""
        host, port = self._address
        try:
            listener = socket.create_server((host, port))
        except OSError as error:
            raise EnvironmentFailure(f"{host}:{port}: {error.strerror or error}") from error
        listener.setblocking(False)
        # Where port 0 was asked for: the same one again after the stick has vanished.
        self._address = (host, listener.getsockname()[1])
        self._listener = listener
        self._loop.add_reader(listener.fileno(), self._accept)

    @property
    def port(self) -> int:
        """The number in use."""
        return self._address[1]

    def _accept(self) -> None:
        assert self._listener is not None
        with contextlib.suppress(OSError):
            connection, _ = self._listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._line is not None:
                self._line.close()
            self._line = Line(self._loop, connection.detach(), self._on_octets, self._ended)

    def _ended(self) -> None:
        self._line = None

    def write(self, octets: bytes) -> None:
        """See ``Port``."""
        if self._line is not None:
            self._line.write(octets)

    def hold(self, held: bool) -> None:
        """See ``Port``."""
        if self._line is not None:
            (self._line.pause if held else self._line.resume)()

    def close(self) -> None:
        """See ``Port``."""
        if self._listener is not None:
            self._loop.remove_reader(self._listener.fileno())
            self._listener.close()
            self._listener = None
        if self._line is not None:
            self._line.close()
            self._line = None


class Pacing:
    """A serial line's speed, one direction: pieces arrive when their last octet would.

    A piece enters when the one before it has, so that a late wake-up delays what it wakes for and
    nothing behind it.

    Attributes:
        queued: octets on their way.
        lost: octets that came while the line had more than anybody keeps for it.
    """

    def __init__(self, loop: Loop, baud: int | None, deliver: Callable[[bytes], None]) -> None:
        self._loop = loop
        self._octet_us = 10_000_000 / baud if baud else 0.0  # a start and a stop bit besides
        self._deliver = deliver
        self._free_us = 0.0
        self._queue: deque[tuple[float, bytes]] = deque()
        self._timer: Handle | None = None
        self.queued = 0
        self.lost = 0

    def put(self, octets: bytes) -> None:
        """Octets enter the line."""
        if not self._octet_us:
            self._deliver(octets)
            return
        if self.queued + len(octets) > BACKLOG_MAX:
            self.lost += len(octets)
            return
        self._free_us = max(self._free_us, now_us()) + len(octets) * self._octet_us
        self._queue.append((self._free_us, octets))
        self.queued += len(octets)
        if self._timer is None:
            self._wait()

    def _wait(self) -> None:
        self._timer = self._loop.call_at(self._queue[0][0] / 1_000_000, self._arrive)

    def _arrive(self) -> None:
        while self._queue and self._queue[0][0] <= now_us() + 1:
            octets = self._queue.popleft()[1]
            self.queued -= len(octets)
            self._deliver(octets)
        self._timer = None
        if self._queue:
            self._wait()

    def clear(self) -> None:
        """The line was cut."""
        self._queue.clear()
        self.queued = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Cutter:
    """Cuts a stream where MT frames end, so that pacing gives each frame its own time.

    A frame that comes in parts stays in parts; what is none goes up to the next start octet.
    """

    def __init__(self) -> None:
        self._left = 0  # octets to come of the frame that has begun
        self._begun = False  # its start octet was the last one; its size is the next

    def cut(self, octets: bytes) -> list[bytes]:
        """The pieces; together they are the octets."""
        pieces, at, end = [], 0, len(octets)
        while at < end:
            behind = at
            if self._begun:
                self._begun, self._left = False, octets[at] + FRAME_OVERHEAD - 1
            elif not self._left and octets[at] == FRAME_START:
                behind = at + 1
                self._begun = behind == end
                if not self._begun:
                    self._left = octets[behind] + FRAME_OVERHEAD - 1
            elif not self._left:
                start = octets.find(FRAME_START, at)
                behind = end if start < 0 else start
            taken = min(self._left, end - behind)
            self._left -= taken
            pieces.append(octets[at : behind + taken])
            at = behind + taken
        return pieces
