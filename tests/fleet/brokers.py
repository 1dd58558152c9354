"""A real broker for tests, and links that say everything twice."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from firmware_node.adapters.fleet.link import Broker, Link

MOSQUITTO = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
needs_mosquitto = pytest.mark.skipif(
    MOSQUITTO is None and not os.environ.get("CI"),
    reason="mosquitto is not here (Debian package mosquitto)",
)
LIMIT_S = 10.0


class Mosquitto:
    """On a free port of this machine; ``kill`` loses whatever it had not written down."""

    def __init__(self, folder: Path, *lines: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self._log = folder / "mosquitto.log"
        self._file = folder / "mosquitto.conf"
        self._file.write_text(
            f"listener {self.port} localhost\nmax_queued_messages 0\npersistence false\n"
            + "".join(f"{line}\n" for line in lines or ("allow_anonymous true",))
        )
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def broker(self) -> Broker:
        return Broker(f"mqtt://127.0.0.1:{self.port}")

    def start(self) -> None:
        assert MOSQUITTO is not None
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [MOSQUITTO, "-c", str(self._file)], stdout=log, stderr=log
            )
        end_s = time.monotonic() + LIMIT_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                assert time.monotonic() < end_s, self._log.read_text()
                time.sleep(0.05)
            else:
                return

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class TwiceLink(Link):
    """Publishes every message twice."""

    async def publish(self, topic: str, payload: bytes, **options: Any) -> bool:
        first = await super().publish(topic, payload, **options)
        second = await super().publish(topic, payload, **options)
        return first and second
