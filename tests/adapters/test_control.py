"""The control socket: its server on a loop, its client in a thread, as a command would be."""

from __future__ import annotations

import asyncio
import json
import socket
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from firmware_node.adapters.control import (
    BODY_MAX,
    ControlServer,
    Document,
    Refusal,
    Request,
    stream,
)
from firmware_node.adapters.control_client import call
from firmware_node.errors import DecodeError, EnvironmentFailure, FirmwareNodeError

LIMIT_S = 20


class Daemon:
    """A handler with one path for each way to answer."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.ended = asyncio.Event()

    async def handle(self, request: Request) -> Document | AsyncIterator[Document]:
        self.requests.append(request)
        match request.path:
            case "/v1/echo":
                return {"size": len(request.body), **request.query}
            case "/v1/stream":
                return stream([{"n": number} for number in range(3)])
            case "/v1/endless":
                return self._endless()
            case "/v1/half":
                return self._half()
            case "/v1/malformed":
                raise DecodeError("OTA header", 4, "bad magic")
        raise Refusal(404, f"{request.path} is not known")

    async def _endless(self) -> AsyncIterator[Document]:
        try:
            yield {"n": 0}
            await asyncio.Event().wait()
        finally:
            self.ended.set()

    async def _half(self) -> AsyncIterator[Document]:
        yield {"n": 0}
        raise Refusal(400, "no more")


@pytest.fixture
def path() -> Iterator[Path]:
    """A socket path short enough for ``sun_path``."""
    with tempfile.TemporaryDirectory(prefix="fn-") as folder:
        yield Path(folder) / "control.sock"


def serving(path: Path, story: Callable[[Daemon], Awaitable[None]]) -> None:
    async def run() -> None:
        daemon = Daemon()
        server = ControlServer(path, daemon.handle)
        await server.open()
        try:
            async with asyncio.timeout(LIMIT_S):
                await story(daemon)
        finally:
            server.close()

    asyncio.run(run())


async def asked(
    path: Path, method: str, target: str, body: bytes | None = None
) -> list[dict[str, Any]]:
    return await asyncio.to_thread(lambda: list(call(path, method, target, body)))


async def raw(path: Path, octets: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(octets)
    answer = await reader.read()
    writer.close()
    return answer


def test_a_document_comes_back_and_the_body_and_query_arrive(path: Path) -> None:
    async def story(daemon: Daemon) -> None:
        body = bytes(300_000)
        assert await asked(path, "POST", "/v1/echo?activate=1", body) == [
            {"size": 300_000, "activate": "1"}
        ]
        assert path.stat().st_mode & 0o777 == 0o660
        assert daemon.requests[0].body == body

    serving(path, story)
    assert not path.exists()


def test_a_stream_comes_as_json_lines(path: Path) -> None:
    async def story(_: Daemon) -> None:
        assert await asked(path, "GET", "/v1/stream") == [{"n": 0}, {"n": 1}, {"n": 2}]
        answer = await raw(path, b"GET /v1/stream HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b'{"n": 0}\n' in answer

    serving(path, story)


def test_a_refusal_is_the_clients_error_with_its_one_line(path: Path) -> None:
    async def story(daemon: Daemon) -> None:
        with pytest.raises(FirmwareNodeError, match="/v1/none is not known"):
            await asked(path, "GET", "/v1/none")
        with pytest.raises(FirmwareNodeError, match="OTA header at octet 4: bad magic"):
            await asked(path, "GET", "/v1/malformed")
        assert len(daemon.requests) == 2

    serving(path, story)


def test_a_stream_ends_when_its_reader_goes_away(path: Path) -> None:
    async def story(daemon: Daemon) -> None:
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(b"GET /v1/endless HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b'{"n": 0}\n')
        assert not daemon.ended.is_set()
        writer.close()
        await daemon.ended.wait()

    serving(path, story)


def test_a_stream_that_breaks_off_is_no_complete_answer(path: Path) -> None:
    async def story(_: Daemon) -> None:
        with pytest.raises(EnvironmentFailure):
            await asked(path, "GET", "/v1/half")

    serving(path, story)


@pytest.mark.parametrize(
    "octets",
    [
        b"\x16\x03\x01 not HTTP\r\n\r\n",
        b"GET /v1/echo HTTP/1.1\r\n\r\n",  # no Host
        b"POST /v1/echo HTTP/1.1\r\nHost: x\r\nContent-Length: many\r\n\r\n",
    ],
)
def test_what_is_no_request_gets_an_http_error_and_never_reaches_the_handler(
    path: Path, octets: bytes
) -> None:
    async def story(daemon: Daemon) -> None:
        answer = await raw(path, octets)
        assert answer.startswith(b"HTTP/1.1 4")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
        assert daemon.requests == []
        assert await asked(path, "GET", "/v1/echo") == [{"size": 0}]

    serving(path, story)


def test_a_body_over_the_limit_is_refused_before_it_is_all_read(path: Path) -> None:
    async def story(daemon: Daemon) -> None:
        head = f"POST /v1/echo HTTP/1.1\r\nHost: x\r\nContent-Length: {2 * BODY_MAX}\r\n\r\n"
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(head.encode() + bytes(BODY_MAX + 1))
        assert b" 413 " in await reader.readline()
        writer.close()
        assert daemon.requests == []

    serving(path, story)


def test_nobody_at_the_socket_is_an_error_of_the_environment(path: Path) -> None:
    with pytest.raises(EnvironmentFailure, match="no daemon answers"):
        list(call(path, "GET", "/v1/status"))
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with pytest.raises(EnvironmentFailure, match="no daemon answers"):
        list(call(path, "GET", "/v1/status"))
    assert path.is_socket()


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\nno JSON\n", "no daemon of this program"),
        (b"HTTP/1.1 200 OK\r\n\r\n[1, 2]\n", "no daemon of this program"),
        (b"HTTP/1.1 500 Oops\r\n\r\nno JSON", "HTTP 500"),
        (b"no HTTP", "no daemon answers"),
        (b"", "no daemon answers"),
    ],
)
def test_a_stranger_at_the_socket_is_an_error_of_the_environment(answer: bytes, says: str) -> None:
    with tempfile.TemporaryDirectory(prefix="fn-") as name, socket.socket(socket.AF_UNIX) as server:
        path = Path(name) / "sock"
        server.bind(str(path))
        server.listen()

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        stranger = threading.Thread(target=serve)
        stranger.start()
        with pytest.raises(EnvironmentFailure, match=says):
            list(call(path, "GET", "/v1/status"))
        stranger.join(LIMIT_S)
