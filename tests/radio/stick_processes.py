"""Virtual sticks and a device on one of them, all as processes, as an operator starts them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from home import BANK_SIZE, KEYS, PPMID, image

from firmware_node.adapters.control_client import call
from firmware_node.errors import FirmwareNodeError
from firmware_node.terms import ImageFormat
from firmware_node.tools.keys import build_keys
from firmware_node.wire.ota_file import decode_ota_file

LIMIT_S = 60
SIZE = 50_000  # bytes of the manufacturer image
FILE = image(2, size=SIZE, kind=ImageFormat.ZIGBEE)  # one that stock coordinators read
_IMAGE = decode_ota_file(FILE).manufacturer_image
SHA256 = hashlib.sha256(FILE[_IMAGE.offset : _IMAGE.end]).hexdigest()
IEEE = f"0x{PPMID.octets.hex()}"  # as coordinators write the device's entity id
_CONFIG = f"""\
[device]
type = "ppmid"
entity_id = "{PPMID}"
manufacturer_code = 0x121D
image_type = 0x0084
hardware_version = 0x1111
[storage]
directory = "{{root}}/state"
bank_size = {BANK_SIZE}
[keys]
directory = "{{root}}/keys"
[radio]
type = "znp"
path = "{{path}}"
{{radio}}
[control]
socket = "{{root}}/control"
"""


class Bench:
    """One air; the device's stick carries it, so that the coordinator's can be pulled out."""

    def __init__(self, root: Path, *, tcp: bool) -> None:
        self.root = root
        self.image = root / "images" / "version-2.ota"
        self.image.parent.mkdir()
        self.image.write_bytes(FILE)
        (root / "keys").mkdir(mode=0o700)
        for name, data in build_keys(b"flows").items():
            (root / "keys" / name).write_bytes(data)
        self._tcp = tcp
        self._ports: dict[str, int] = {}
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._counters: dict[str, int] = {}
        self.plug_in("device")
        self.plug_in("coordinator")

    def plug_in(self, name: str) -> None:
        """Start a stick; hosts may connect when this returns. Its memory is kept."""
        port = ["--pty", f"{self.root}/{name}.tty"]
        if self._tcp:
            self._ports.setdefault(name, _free_port())
            port = ["--tcp", f"127.0.0.1:{self._ports[name]}"]
        files = ["--nv", f"{self.root}/{name}.nv", "--counters", f"{self.root}/{name}.counters"]
        verb = ["radio", "virtual", "--air", f"{self.root}/air"]
        stick = self._start(name, *verb, *port, *files)
        assert stick.stdout is not None
        assert stick.stdout.readline() == "ready\n"

    def pull_out(self, name: str) -> None:
        """Stop a stick, and count what it did not know."""
        stick = self._processes.pop(name)
        stick.terminate()
        stick.wait(LIMIT_S)
        counters = json.loads(Path(f"{self.root}/{name}.counters").read_text())
        self._counters[name] = self._counters.get(name, 0) + counters["unknown_commands"]

    def unknown_commands(self) -> dict[str, int]:
        """Pull all sticks out; the commands that each did not know."""
        for name in ("device", "coordinator"):
            if name in self._processes:
                self.pull_out(name)
        return self._counters

    def path(self, name: str, scheme: str = "socket") -> str:
        """A stick's port, as hosts name it."""
        return f"{scheme}://127.0.0.1:{self._ports[name]}" if self._tcp else f"{self.root}/{name}.tty"

    def run(self, radio: str = "") -> None:
        """Start the device daemon, with these further keys of ``[radio]``."""
        config = self.root / "device.toml"
        config.write_text(_CONFIG.format(root=self.root, path=self.path("device"), radio=radio))
        self._start("daemon", "run", str(config))

    def stop(self) -> int:
        """Ask the daemon to end; its exit code."""
        daemon = self._processes.pop("daemon")
        daemon.terminate()
        return daemon.wait(LIMIT_S)

    def status(self) -> dict[str, Any]:
        """The device's word; empty while it is not there, as in a restart."""
        with contextlib.suppress(FirmwareNodeError, StopIteration):
            return next(call(self.root / "control", "GET", "/v1/status"))
        assert self._processes["daemon"].poll() is None, "the daemon ended"
        return {}

    def names(self) -> list[str]:
        """The notifications of the device's present life."""
        return [event["name"] for event in call(self.root / "control", "GET", "/v1/events")]

    def is_confirmed(self) -> bool:
        """Whether the device has the new image confirmed."""
        return self.status().get("state") == "confirmed"

    def check_updated(self) -> None:
        """The file is in bank B octet for octet, and runs."""
        status = self.status()
        assert status["running_bank"] == "B"
        bank = status["banks"]["B"]
        assert (bank["state"], bank["version"]) == ("confirmed", "00000002")
        assert bank["sha256"] == SHA256
        assert status["last_failure"] is None

    def close(self) -> None:
        """End whatever still runs."""
        for process in self._processes.values():
            process.kill()
            process.wait(LIMIT_S)

    def _start(self, name: str, *arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "firmware_node", *arguments],
            stdout=subprocess.PIPE if arguments[0] == "radio" else None,
            text=True,
        )
        self._processes[name] = process
        return process


@contextlib.contextmanager
def bench(*, tcp: bool = False) -> Iterator[Bench]:
    """A bench in a short-named folder: a socket's path is limited."""
    with tempfile.TemporaryDirectory(prefix="fn-") as name:
        made = Bench(Path(name), tcp=tcp)
        try:
            yield made
        finally:
            made.close()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port
