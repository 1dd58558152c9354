"""The client of the control sockets: what every command uses to speak with a daemon.

Apart from the server, so that a daemon does not carry the standard library's HTTP client.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from firmware_node.errors import EnvironmentFailure, FirmwareNodeError

Document = dict[str, Any]


_REFUSALS = (400, 413)  # what was asked for is at fault, not who was asked


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float | None) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(os.fspath(self._path))


def call(
    path: Path,
    method: str,
    target: str,
    body: bytes | None = None,
    timeout_s: float | None = 30,
) -> Iterator[Document]:
    """The documents a daemon answers; the iterator follows a stream.

    Raises:
        EnvironmentFailure: nobody answers at ``path``, or not to the end, or somebody else.
        FirmwareNodeError: the daemon refuses; its one line.
    """
    with _answer(path, method, target, body, timeout_s, "application/octet-stream") as response:
        rest = b""
        # Iterating over the response would take a stream that broke off for one that ended.
        while data := response.read1(65536):
            *lines, rest = (rest + data).split(b"\n")
            for line in filter(None, lines):
                yield _document(path, line)


def ask(
    path: Path, method: str, target: str, body: Document | None = None, timeout_s: float = 60
) -> Document:
    """The one document that a fleet's run answers; raises like ``call``."""
    octets = None if body is None else json.dumps(body).encode()
    with _answer(path, method, target, octets, timeout_s, "application/json") as response:
        return _document(path, response.read())


@contextlib.contextmanager
def _answer(
    path: Path,
    method: str,
    target: str,
    body: bytes | None,
    timeout_s: float | None,
    content_type: str,
) -> Iterator[http.client.HTTPResponse]:
    connection = _UnixConnection(path, timeout_s)
    try:
        headers = {} if body is None else {"Content-Type": content_type}
        connection.request(method, target, body=body, headers=headers)
        response = connection.getresponse()
        if response.status != 200:
            try:
                text = str(json.loads(response.read())["error"])
            except (ValueError, KeyError, TypeError):
                text = f"HTTP {response.status}"
            if response.status in _REFUSALS:
                raise FirmwareNodeError(text)
            other = "; is it another daemon's socket?" if response.status == 404 else ""
            raise EnvironmentFailure(f"{path}: {text}{other}")
        yield response
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or error
        raise EnvironmentFailure(f"{path}: no daemon answers ({reason})") from error
    finally:
        connection.close()


def _document(path: Path, line: bytes) -> Document:
    try:
        document = json.loads(line)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise EnvironmentFailure(f"{path}: what answers is no daemon of this program")
    return document
