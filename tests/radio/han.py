"""A home on sticks: virtual ZNP sticks, the hub and its devices, each a process of its own.

Nothing is shared with them but ports, sockets and files: what they are told and what they leave.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from home import ACB, HUB, KEYS, PPMID, SUPPLIER

from firmware_node.adapters.control_client import call
from firmware_node.errors import FirmwareNodeError
from firmware_node.terms import EntityId
from firmware_node.tools.duis import build_activate_request, build_update_request
from firmware_node.tools.keys import build_keys

HCALCS = EntityId.parse("00-DB-12-34-56-78-90-A5")
IMAGE_TYPES = {"ppmid": 0x0084, "hcalcs": 0x0085}
ENTITIES = {"ppmid": PPMID, "hcalcs": HCALCS}
LIMIT_S = 120  # for anything here; a hundred times what it takes on a quiet machine
LOOK_S = 0.1
NODE = [sys.executable, "-m", "firmware_node"]
_HUB = """\
[hub]
entity_id = "{hub}"
[dcc]
socket = "{root}/hub"
[keys]
directory = "{root}/keys"
[radio]
type = "znp"
path = "{port}"
{radio}
"""
_DEVICE = """\
[device]
type = "{kind}"
entity_id = "{entity_id}"
manufacturer_code = 0x121D
image_type = {image_type}
hardware_version = 0x1111
[storage]
directory = "{root}/{kind}.state"
bank_size = 131072
[control]
socket = "{root}/{kind}"
[keys]
directory = "{root}/keys"
[ota]
activate_delay_ms = 0
retry_first_ms = 300
query_interval_s = 2
[activation]
confirm_after_s = 0
[radio]
type = "znp"
path = "{port}"
{radio}
"""


class Han:
    """Processes by name: ``hub.stick``, ``hub``, ``ppmid.stick``, ``ppmid`` and so on."""

    def __init__(self, root: Path, *, tcp: bool = False) -> None:
        self.root = root
        self._tcp = tcp  # every stick; else a pty
        self._ports: dict[str, int] = {}
        self.processes: dict[str, subprocess.Popen[str]] = {}
        self._requests = 0
        (root / "keys").mkdir(mode=0o700)
        for name, data in build_keys(b"flows").items():
            (root / "keys" / name).write_bytes(data)

    def stick(self, owner: str, *options: str) -> None:
        """A stick with a memory, on the one air; the first carries that."""
        files = [f"--nv={self.root}/{owner}.nv", f"--counters={self.root}/{owner}.counters"]
        files.append(f"--air={self.root}/air")
        if self._tcp:
            self._ports.setdefault(owner, _free_port())
            files.append(f"--tcp=127.0.0.1:{self._ports[owner]}")
        else:
            files.append(f"--pty={self.root}/{owner}.tty")
        process = self._start(f"{owner}.stick", ["radio", "virtual", *files, *options])
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"

    def port(self, owner: str, scheme: str = "socket") -> str:
        """Where a stick is, as its hosts say it."""
        if self._tcp:
            return f"{scheme}://127.0.0.1:{self._ports[owner]}"
        return f"{self.root}/{owner}.tty"

    def hub(self, radio: str = "") -> None:
        """The hub's daemon, ready."""
        text = _HUB.format(hub=HUB, root=self.root, port=self.port("hub"), radio=radio)
        self._daemon("hub", "hub", text)

    def device(self, kind: str, radio: str = "", *, ready: bool = True) -> None:
        """A device's daemon."""
        text = _DEVICE.format(
            kind=kind,
            entity_id=ENTITIES[kind],
            image_type=IMAGE_TYPES[kind],
            root=self.root,
            port=self.port(kind),
            radio=radio,
        )
        self._daemon(kind, "run", text, ready=ready)

    def _daemon(self, name: str, verb: str, text: str, *, ready: bool = True) -> None:
        (self.root / f"{name}.toml").write_text(text)
        self._start(name, [verb, f"{self.root}/{name}.toml"])
        if ready:
            until(lambda: self.status(name) is not None or self.ended(name), f"{name} ready")
            assert not self.ended(name), self.errors(name)

    def _start(self, name: str, arguments: Sequence[str]) -> subprocess.Popen[str]:
        with (self.root / f"{name}.log").open("a") as log:
            process = subprocess.Popen(
                [*NODE, *arguments],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        self.processes[name] = process
        return process

    def ended(self, name: str) -> bool:
        """Whether the process has."""
        return self.processes[name].poll() is not None

    def errors(self, name: str) -> str:
        """What it said on standard error, in all its lives."""
        return (self.root / f"{name}.log").read_text()

    def stop(self, name: str, how: signal.Signals = signal.SIGTERM) -> int:
        """End a process; its exit code."""
        process = self.processes.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        code = process.wait(LIMIT_S)
        assert process.stdout is not None
        process.stdout.close()
        return code

    def status(self, name: str) -> dict[str, Any] | None:
        """The daemon's word; None while it is not there."""
        with contextlib.suppress(FirmwareNodeError, StopIteration):
            return next(call(self.root / name, "GET", "/v1/status"))
        return None

    def joined(self, kind: str) -> int | None:
        """The short address, once on a network."""
        status = self.status(kind)
        return status["network"]["short_address"] if status else None

    def offer(self, file: bytes, *kinds: str, reference: str = "11.4") -> None:
        """SR 11.4 or 11.1 for these devices."""
        self._request(
            build_update_request(
                *(reference, SUPPLIER, ACB, self._next(), KEYS),
                image=file,
                firmware_version="00000000" if reference == "11.4" else "00000002",
                devices=[ENTITIES[kind] for kind in kinds],
            )
        )

    def activate(self, kind: str, manufacturer_image_hash: bytes) -> None:
        """SR 11.3, at once."""
        self._request(
            build_activate_request(
                *(SUPPLIER, ENTITIES[kind], self._next(), KEYS),
                manufacturer_image_hash=manufacturer_image_hash,
            )
        )

    def _next(self) -> int:
        self._requests += 1
        return self._requests

    def _request(self, document: bytes) -> None:
        list(call(self.root / "hub", "POST", "/v1/requests", document))

    def messages(self) -> list[dict[str, Any]]:
        """What came up from the home to the DCC."""
        found: list[dict[str, Any]] = next(call(self.root / "hub", "GET", "/v1/messages"))[
            "messages"
        ]
        return found

    def events(self, name: str) -> list[dict[str, Any]]:
        """What a daemon noticed in this life of its process."""
        return list(call(self.root / name, "GET", "/v1/events"))

    def bank(self, kind: str, letter: str) -> dict[str, Any]:
        """One bank as the device tells it."""
        status = self.status(kind)
        assert status is not None
        bank: dict[str, Any] = status["banks"][letter]
        return bank

    def counters(self, owner: str) -> dict[str, int]:
        """Of a stick, when it last wrote them."""
        path = self.root / f"{owner}.counters"
        counters: dict[str, int] = json.loads(path.read_text()) if path.exists() else {}
        return counters

    def close(self) -> None:
        """End everything; no stick met a command that it does not know."""
        for name in list(self.processes):
            self.stop(name)
        for path in self.root.glob("*.counters"):
            assert not json.loads(path.read_text()).get("unknown_commands"), path.read_text()


@contextlib.contextmanager
def han(*, tcp: bool = False) -> Iterator[Han]:
    """In a short-named folder: a socket's path is limited."""
    with tempfile.TemporaryDirectory(prefix="fn-") as name:
        home = Han(Path(name), tcp=tcp)
        try:
            yield home
        except BaseException as failure:
            for path in sorted(home.root.glob("*.log")):
                failure.add_note(f"--- {path.name}\n{path.read_text()[-2000:]}")
            raise
        finally:
            home.close()


def confirmed(home: Han, kind: str, version: str = "00000002") -> bool:
    """Whether the device runs it for good and has told so."""
    status = home.status(kind)
    return bool(
        status
        and status["state"] == "confirmed"
        and status["banks"][status["running_bank"]]["version"] == version
        and not status["outbox"]
    )


def until(holds: Callable[[], object], what: str) -> None:
    """Look until it holds."""
    for _ in range(int(LIMIT_S / LOOK_S)):
        if holds():
            return
        time.sleep(LOOK_S)
    raise AssertionError(f"not within {LIMIT_S} s: {what}")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port
