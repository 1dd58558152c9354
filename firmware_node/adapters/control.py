"""HTTP/1.1 over a Unix socket: how every command speaks with a daemon.

The server parses with h11 and answers one request a connection. A handler gives one JSON document,
or an asynchronous stream of them, which goes out as JSON Lines. The client is the standard
library's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import h11

from firmware_node.adapters.virtual_radio import listen
from firmware_node.errors import FirmwareNodeError

BODY_MAX = 20 * 1024 * 1024  # bytes; an image of the schema's limit in base64, with its XML
REQUEST_TIMEOUT_S = 30
_log = logging.getLogger(__name__)


class Request:
    """One request, read whole."""

    def __init__(self, method: str, target: str, body: bytes) -> None:
        parts = urlsplit(target)
        self.method = method
        self.path = parts.path
        self.query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        self.body = body


class Refusal(Exception):
    """The handler says no: an HTTP status and one line."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


Document = dict[str, Any]
Handler = Callable[[Request], Awaitable["Document | AsyncIterator[Document]"]]


class ControlServer:
    """Listens on a socket of mode 0660."""

    def __init__(self, path: Path, handler: Handler) -> None:
        self._path = path
        self._handler = handler
        self._listener: socket.socket | None = None
        self._server: asyncio.Server | None = None

    def bind(self) -> None:
        """Take the socket; who connects waits until ``open``.

        Raises:
            EnvironmentFailure: as ``virtual_radio.listen``.
        """
        self._listener = listen(self._path)

    async def open(self) -> None:
        """Answer. Binds unless that is done; raises like it."""
        if self._listener is None:
            self.bind()
        self._server = await asyncio.start_unix_server(self._serve, sock=self._listener)

    def close(self) -> None:
        """Stop listening and take the socket file away."""
        if self._listener is not None:
            if self._server is not None:
                self._server.close()
            self._listener.close()
            self._path.unlink(missing_ok=True)
            self._listener = self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = h11.Connection(h11.SERVER)
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                request = await _read_request(connection, reader)
            await self._answer(connection, request, reader, writer)
        except Refusal as refusal:
            if connection.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                _write(writer, connection, refusal.status, {"error": refusal.text})
            else:  # in the middle of a stream, which just ends early
                _log.warning("control: %s", refusal.text)
        except h11.RemoteProtocolError as error:
            if connection.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                _write(writer, connection, error.error_status_hint, {"error": str(error)})
        except (h11.LocalProtocolError, TimeoutError, OSError, EOFError) as error:
            _log.debug("control: %s", error)
        finally:
            writer.close()

    async def _answer(
        self,
        connection: h11.Connection,
        request: Request,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        try:
            result = await self._handler(request)
        except FirmwareNodeError as error:
            raise Refusal(400, str(error)) from error
        if isinstance(result, dict):
            _write(writer, connection, 200, result)
            await writer.drain()
            return
        headers = [("content-type", "application/jsonl"), ("connection", "close")]
        _send(writer, connection, h11.Response(status_code=200, headers=headers))
        async for document in _while_read(result, reader):
            _send(writer, connection, h11.Data(data=json.dumps(document).encode() + b"\n"))
            await writer.drain()
        _send(writer, connection, h11.EndOfMessage())
        await writer.drain()


def is_closed(request: Request) -> bool:
    """The state of a switch that a request names, ``closed`` or ``open``; refuses any other."""
    state = request.query.get("state")
    if state not in ("open", "closed"):
        raise Refusal(400, f"state: found {state!r}, expected open or closed")
    return state == "closed"


async def stream(documents: Sequence[Document]) -> AsyncIterator[Document]:
    """Documents that are all there, as a handler gives a stream."""
    for document in documents:
        yield document


async def _while_read(
    documents: AsyncIterator[Document], reader: asyncio.StreamReader
) -> AsyncIterator[Document]:
    """The documents until their end, or until who asked for them has gone."""
    gone = asyncio.ensure_future(reader.read(1))
    following: asyncio.Future[Document] | None = None
    try:
        while True:
            following = asyncio.ensure_future(anext(documents))
            await asyncio.wait({following, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not following.done():
                return
            try:
                yield following.result()
            except StopAsyncIteration:
                return
    finally:
        gone.cancel()
        if following is not None and not following.done():
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await following
        if isinstance(documents, AsyncGenerator):
            await documents.aclose()


async def _read_request(connection: h11.Connection, reader: asyncio.StreamReader) -> Request:
    method = target = ""
    body = bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(65536))
        elif isinstance(event, h11.Request):
            method, target = event.method.decode(), event.target.decode()
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > BODY_MAX:
                raise Refusal(413, f"more than {BODY_MAX} bytes")
        elif isinstance(event, h11.EndOfMessage):
            return Request(method, target, bytes(body))
        else:
            raise EOFError("closed")


def _write(
    writer: asyncio.StreamWriter, connection: h11.Connection, status: int, document: Document
) -> None:
    body = json.dumps(document).encode() + b"\n"
    headers = [
        ("content-type", "application/json"),
        ("content-length", str(len(body))),
        ("connection", "close"),
    ]
    _send(writer, connection, h11.Response(status_code=status, headers=headers))
    _send(writer, connection, h11.Data(data=body))
    _send(writer, connection, h11.EndOfMessage())


def _send(writer: asyncio.StreamWriter, connection: h11.Connection, event: Any) -> None:
    data = connection.send(event)
    if data:
        writer.write(data)
