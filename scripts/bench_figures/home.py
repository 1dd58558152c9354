"""What the figures measure on: keys, images, and hub and device as processes of their own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from firmware_node.adapters.control_client import call
from firmware_node.crypto import Keyring
from firmware_node.terms import DeviceSettings, DeviceType, EntityId, ImageKey
from firmware_node.tools.image import build_image
from firmware_node.tools.keys import build_keys
from firmware_node.wire.manufacturer_image import Manifest

PPMID = EntityId.parse("00-DB-12-34-56-78-90-A4")
HUB = EntityId.parse("00-DB-12-34-56-78-90-A2")
ACB = EntityId.parse("90-B3-D5-1F-30-00-00-02")
SETTINGS = DeviceSettings(DeviceType.PPMID, PPMID, 0x121D, 0x0084, 0x1111, True)
START_LIMIT_S = 30

_DEVICE = """\
[device]
type = "ppmid"
entity_id = "{device}"
manufacturer_code = 0x121D
image_type = 0x0084
hardware_version = 0x1111
manufacturer_signature = "require"
[storage]
directory = "{root}/state"
[keys]
directory = "{root}/keys"
[radio]
{device_radio}
[control]
socket = "{root}/device.sock"
[ota]
activate_delay_ms = 0
{ota}
[activation]
confirm_after_s = 0
"""
_HUB = """\
[hub]
entity_id = "{hub}"
activation = "{activation}"
[dcc]
socket = "{root}/hub.sock"
[keys]
directory = "{root}/keys"
[radio]
{hub_radio}
"""


def image(keyring: Keyring, version: int, size: int) -> bytes:
    """A signed OTA file for the PPMID around a manufacturer image of ``size`` bytes."""
    manifest = Manifest(ImageKey(0x121D, 0x0084, version), 0x0000, 0xFFFF)
    return build_image(
        manifest, size=size, manufacturer_key=keyring.manufacturer_signing_key(0x121D)
    )


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A folder that goes away; its name is short, because sockets have to fit."""
    with tempfile.TemporaryDirectory(prefix="fn-") as name:
        yield Path(name)


def start_stick(
    root: Path, name: str, options: Sequence[str], processes: list[subprocess.Popen[bytes]]
) -> subprocess.Popen[bytes]:
    """A virtual ZNP stick on ``root``'s air at ``NAME.tty``; adds its process to ``processes``."""
    port = (f"--pty={root}/{name}.tty", f"--air={root}/sticks")
    process = subprocess.Popen(
        [sys.executable, "-m", "firmware_node", "radio", "virtual", *port, *options],
        stdout=subprocess.PIPE,
    )
    processes.append(process)
    with process.stdout or contextlib.nullcontext() as told:
        assert told is not None
        told.readline()  # ready
    return process


class Home:
    """Keys and configurations of a hub and a PPMID in one folder, and their processes."""

    def __init__(
        self,
        root: Path,
        *,
        ota: str = "",
        activation: str = "now",
        sticks: Sequence[str] | None = None,
    ) -> None:
        """``sticks``: both on virtual ZNP sticks that are started so; None: the virtual radio."""
        files = build_keys(b"bench")
        self.root = root
        self.keyring = Keyring(files)
        self._processes: list[subprocess.Popen[bytes]] = []
        (root / "keys").mkdir()
        for name, data in files.items():
            (root / "keys" / name).write_bytes(data)
        values = {"root": root, "device": PPMID, "hub": HUB, "ota": ota, "activation": activation}
        for who in ("hub", "device"):
            stick = f'type = "znp"\npath = "{root}/{who}.tty"'
            values[f"{who}_radio"] = f'air = "{root}/air"' if sticks is None else stick
        self._sticks = sticks
        self.hub_pid = 0
        (root / "run.toml").write_text(_DEVICE.format(**values))
        (root / "hub.toml").write_text(_HUB.format(**values))

    def __enter__(self) -> Home:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(
        self, name: str, under: Sequence[str] = (), environment: Mapping[str, str] | None = None
    ) -> tuple[subprocess.Popen[bytes], float]:
        """Start the hub or, by the name of its file, a device: ``run`` is the first.

        Its process, and the seconds until it said READY.
        """
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            path = self.root / "ready"
            path.unlink(missing_ok=True)
            manager.bind(os.fspath(path))
            manager.settimeout(START_LIMIT_S)
            verb = "hub" if name == "hub" else "run"
            command = [sys.executable, "-m", "firmware_node", verb, f"{self.root}/{name}.toml"]
            began = time.perf_counter()
            process = subprocess.Popen(
                [*under, *command],
                env=os.environ | {"NOTIFY_SOCKET": os.fspath(path)} | dict(environment or {}),
                stderr=subprocess.DEVNULL,
            )
            self._processes.append(process)
            while b"READY=1" not in manager.recv(1000):
                pass
            return process, time.perf_counter() - began

    def start_sticks(self) -> list[subprocess.Popen[bytes]]:
        """The hub's and the device's; their processes."""
        return [
            start_stick(self.root, who, self._sticks or (), self._processes)
            for who in ("hub", "device")
        ]

    def start_both(self) -> subprocess.Popen[bytes]:
        """Hub and device, joined; the device's process."""
        if self._sticks is not None:
            self.start_sticks()
        hub, _ = self.start("hub")
        self.hub_pid = hub.pid
        process, _ = self.start("run")
        self.wait_joined()
        return process

    def wait_joined(self) -> None:
        """Until the device is in the hub's network."""
        limit = time.monotonic() + START_LIMIT_S
        while not self.ask("device", "/v1/status")["network"]["joined"]:
            assert time.monotonic() < limit, "the device does not join"
            time.sleep(0.01)

    def end_last(self) -> None:
        """End the process that was started last."""
        process = self._processes.pop()
        process.send_signal(signal.SIGTERM)
        process.wait()

    def stop(self) -> None:
        """End every process that runs."""
        while self._processes:
            self.end_last()

    def ask(self, who: str, target: str) -> dict[str, Any]:
        """One document of ``device`` or ``hub``."""
        return next(iter(call(self.root / f"{who}.sock", "GET", target)))

    def events(self) -> Iterator[dict[str, Any]]:
        """What the device told, and then everything new."""
        return call(self.root / "device.sock", "GET", "/v1/events?follow=1", timeout_s=None)

    def offer(self, ota_file: bytes, *, wait: bool) -> None:
        """SR 11.4 with this file, by the commands that a service user has."""
        (self.root / "image.ota").write_bytes(ota_file)
        options = ("--devices", str(PPMID), "--keys", "keys", "-o", "request.xml")
        self._command("dcc", "request", "11.4", "--image", "image.ota", *options)
        patience = ("--wait",) if wait else ()
        self._command("dcc", "send", "request.xml", "--hub", "hub.sock", *patience)

    def _command(self, *arguments: str) -> None:
        subprocess.run(
            [sys.executable, "-m", "firmware_node", *arguments],
            cwd=self.root,
            stdout=subprocess.DEVNULL,
            check=True,
        )
