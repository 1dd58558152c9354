"""Two processes on one socket that do nothing with the octets: the floor and a peer of a download.

The floor makes blocking calls; the peer is what asyncio makes of the same, a protocol at each end.
Run as a program this is the far end, which answers until the socket closes.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass

READ_SIZE = 64 * 1024
PARTS = 4  # of one turn; the fastest counts


@dataclass(frozen=True, slots=True)
class Exchange:
    """Octets of a request, and of all that answers it."""

    asked: int
    answered: int


def blocking(exchange: Exchange, round_trips: int) -> float:
    """Seconds per round trip, of the fastest part."""
    near, process = _far_end("blocking", exchange)
    moments = []
    with near, process:
        for _ in range(round_trips + 1):
            _ask(near, exchange)
            moments.append(time.perf_counter())
        near.shutdown(socket.SHUT_RDWR)
    return _fastest_part(moments)


def by_asyncio(exchange: Exchange, round_trips: int) -> float:
    """Seconds per round trip, of the fastest part."""
    near, process = _far_end("asyncio", exchange)
    with process:
        return _fastest_part(asyncio.run(_ask_all(near, exchange, round_trips + 1)))


def _fastest_part(moments: Sequence[float]) -> float:
    """From the moments of the answers; before the first one the far end was not up."""
    size = (len(moments) - 1) // PARTS
    ends = range(size, len(moments), size)
    return min(moments[end] - moments[end - size] for end in ends) / size


def _far_end(how: str, exchange: Exchange) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    near, far = socket.socketpair()
    command = [sys.executable, __file__, how, *map(str, (far.fileno(), *astuple(exchange)))]
    with far:
        return near, subprocess.Popen(command, pass_fds=[far.fileno()])


def _ask(near: socket.socket, exchange: Exchange) -> None:
    near.sendall(bytes(exchange.asked))
    size = exchange.answered
    while size > 0:
        data = near.recv(READ_SIZE)
        if not data:
            raise ConnectionError("the far end of the bare socket is gone")
        size -= len(data)


def _answer(far: socket.socket, exchange: Exchange) -> None:
    answer, waiting = bytes(exchange.answered), 0
    while data := far.recv(READ_SIZE):
        waiting += len(data)
        while waiting >= exchange.asked:
            waiting -= exchange.asked
            far.sendall(answer)


class _End(asyncio.Protocol):
    """Says ``size`` octets for every ``expected`` that it hears; the near end counts ``times``."""

    def __init__(self, expected: int, size: int, times: int | None) -> None:
        self._expected, self._octets, self._times = expected, bytes(size), times
        self._waiting = 0
        self.heard: list[float] = []  # when, of an end that counts
        self.over = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if self._times is not None:
            transport.write(self._octets)

    def data_received(self, data: bytes) -> None:
        self._waiting += len(data)
        while self._waiting >= self._expected:
            self._waiting -= self._expected
            if self._times is not None:
                self.heard.append(time.perf_counter())
                if len(self.heard) == self._times:
                    self._transport.close()
                    return
            self._transport.write(self._octets)

    def connection_lost(self, exc: Exception | None) -> None:
        self.over.set_result(None)


async def _ask_all(near: socket.socket, exchange: Exchange, round_trips: int) -> list[float]:
    _, end = await asyncio.get_running_loop().create_connection(
        lambda: _End(exchange.answered, exchange.asked, round_trips), sock=near
    )
    await end.over
    return end.heard


async def _answer_all(far: socket.socket, exchange: Exchange) -> None:
    _, end = await asyncio.get_running_loop().create_connection(
        lambda: _End(exchange.asked, exchange.answered, None), sock=far
    )
    await end.over


if __name__ == "__main__":
    descriptor, *sizes = map(int, sys.argv[2:])
    with socket.socket(fileno=descriptor) as far_end:
        if sys.argv[1] == "blocking":
            _answer(far_end, Exchange(*sizes))
        else:
            asyncio.run(_answer_all(far_end, Exchange(*sizes)))
