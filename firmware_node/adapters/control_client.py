"""The client of the control sockets: what every command uses to speak with a daemon.

Apart from the server, so that a daemon does not carry the standard library's HTTP client.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from firmware_node.errors import EnvironmentFailure, FirmwareNodeError

Document = dict[str, Any]


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float | None) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(os.fspath(self._path))


def call(
    path: Path, method: str, target: str, body: bytes | None = None, timeout_s: float | None = 30
) -> Iterator[Document]:
    """The documents a daemon answers; the iterator follows a stream.

    Raises:
        EnvironmentFailure: nobody answers at ``path``, or not to the end.
        FirmwareNodeError: the daemon refuses; its one line.
    """
    connection = _UnixConnection(path, timeout_s)
    try:
        connection.request(method, target, body=body)
        response = connection.getresponse()
        if response.status != 200:
            try:
                text = str(json.loads(response.read())["error"])
            except (ValueError, KeyError):
                text = f"HTTP {response.status}"
            raise FirmwareNodeError(text)
        rest = b""
        # Iterating over the response would take a stream that broke off for one that ended.
        while data := response.read1(65536):
            *lines, rest = (rest + data).split(b"\n")
            yield from map(json.loads, filter(None, lines))
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or error
        raise EnvironmentFailure(f"{path}: no daemon answers ({reason})") from error
    finally:
        connection.close()
