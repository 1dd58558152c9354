"""The main job on one machine: hub and device as processes of their own, one update, no hardware.

Everything goes through the same commands that a user has; the demo only starts them and looks.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

from firmware_node.adapters.control_client import call
from firmware_node.errors import ConfigError, EnvironmentFailure, FirmwareNodeError
from firmware_node.tools import render

PPMID = "00-DB-12-34-56-78-90-A4"
BLOCK_SIZE = 50
START_LIMIT_S = 15
RUN_LIMIT_S = 600
END_LIMIT_S = 10

_DEVICE = """\
[device]
type = "ppmid"
entity_id = "{entity_id}"
manufacturer_code = 0x121D
image_type = 0x0084
hardware_version = 0x1111
factory_image = "{root}/version-1.ota"
manufacturer_signature = "require"
[storage]
directory = "{root}/ppmid"
bank_size = {bank_size}
[keys]
directory = "{root}/keys"
[radio]
type = "virtual"
air = "{run}/air.sock"
[control]
socket = "{run}/ppmid.sock"
[ota]
block_size = {block_size}
activate_delay_ms = 500
[activation]
confirm_after_s = 1
"""
_HUB = """\
[hub]
entity_id = "00-DB-12-34-56-78-90-A2"
[dcc]
socket = "{run}/hub.sock"
request_signature = "require"
[keys]
directory = "{root}/keys"
[radio]
type = "virtual"
air = "{run}/air.sock"
"""


def run_demo(device: str, size: int, keep: str | None, seed: int, as_json: bool) -> int:
    """The ``demo`` of the contract; the exit code."""
    if device != "ppmid":
        raise ConfigError(f"--device {device}: not yet available, expected ppmid")
    if not 1024 <= size <= 10_000_000:
        raise ConfigError(f"--size: found {size}, expected 1024 to 10000000")
    with contextlib.ExitStack() as stack:
        # A socket's path is limited to about 100 octets, so sockets get a short folder.
        run = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fn-")))
        if keep is None:
            root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fn-demo-")))
        else:
            root = Path(keep).resolve()
            root.mkdir(parents=True, exist_ok=True)
            if any(root.iterdir()):
                raise ConfigError(f"--keep {keep}: expected an empty folder")
        signal.signal(signal.SIGTERM, _stop)
        return _Demo(root, run, size, seed, as_json).run(stack)


class _Demo:
    def __init__(self, root: Path, run: Path, size: int, seed: int, as_json: bool) -> None:
        self._root = root
        self._run = run
        self._size = size
        self._seed = seed
        self._json = as_json
        self._transfer: list[float] = []
        self._over = threading.Event()
        self._processes: list[subprocess.Popen[Any]] = []

    def run(self, stack: contextlib.ExitStack) -> int:
        began = time.monotonic()
        stack.callback(self._end)
        self._say("keys, two signed images and two configurations")
        self._prepare()
        self._say("starting the Comms Hub and the PPMID, each a process of its own")
        self._spawn(stack, "hub", "hub.toml", self._run / "hub.sock")
        self._spawn(stack, "run", "ppmid.toml", self._run / "ppmid.sock")
        before = self._status()
        self._wait_joined()
        stack.callback(self._over.set)
        threading.Thread(target=self._watch, daemon=True).start()
        self._say(f"SR 11.4: update PPMID {PPMID} from {self._running(before)}")
        messages = self._send("update.xml", "request", "11.4", "--image", "version-2.ota")
        self._say("SR 11.2: read the version back")
        messages += self._send("read.xml", "request", "11.2")
        after = self._status()
        report = self._report(began, before, after, messages)
        if self._json:
            print(json.dumps(report))
        else:
            found = report["devices"][0]
            print(
                f"{report['result']}: {found['from_version']} to {found['to_version']}, bank "
                f"{found['running_bank']} {found['state']}, {report['seconds']} s in all, "
                f"{found['blocks']} blocks in {found['transfer_seconds']} s"
            )
        return 0 if report["result"] == "ok" else 1

    def _prepare(self) -> None:
        values = {
            "root": self._root,
            "run": self._run,
            "entity_id": PPMID,
            "block_size": BLOCK_SIZE,
            "bank_size": max(1024 * 1024, self._size),
        }
        self._command("keys", "create", "keys", "--seed", str(self._seed))
        for version in ("1", "2"):
            self._command(
                *("image", "build", "--keys", "keys", "-o", f"version-{version}.ota"),
                *("--file-version", version, "--size", str(self._size)),
                *("--hardware-min", "0x1111", "--hardware-max", "0x1211"),
                *("--seed", version),
            )
        (self._root / "ppmid.toml").write_text(_DEVICE.format(**values))
        (self._root / "hub.toml").write_text(_HUB.format(**values))

    def _spawn(self, stack: contextlib.ExitStack, verb: str, config: str, socket: Path) -> None:
        log = stack.enter_context((self._root / f"{verb}.log").open("wb"))
        process = self._start(["-v", verb, config], log, log)
        limit = time.monotonic() + START_LIMIT_S
        while True:
            with contextlib.suppress(EnvironmentFailure, FirmwareNodeError):
                next(iter(call(socket, "GET", "/v1/status")))
                return
            if process.poll() is not None or time.monotonic() > limit:
                text = (self._root / f"{verb}.log").read_text(errors="replace").strip()
                raise EnvironmentFailure(f"{verb} did not start: {text[-300:]}")
            time.sleep(0.02)

    def _status(self) -> dict[str, Any]:
        """The device restarts in the course of things, so a silent socket is asked again."""
        limit = time.monotonic() + START_LIMIT_S
        while True:
            try:
                return next(iter(call(self._run / "ppmid.sock", "GET", "/v1/status")))
            except (EnvironmentFailure, StopIteration):
                if time.monotonic() > limit:
                    raise
                time.sleep(0.05)

    def _wait_joined(self) -> None:
        limit = time.monotonic() + START_LIMIT_S
        while not self._status()["network"]["joined"]:
            if time.monotonic() > limit:
                raise EnvironmentFailure("the PPMID does not find the hub's air")
            time.sleep(0.05)

    def _watch(self) -> None:
        """Progress for a person, and the moments of the transfer for the report."""
        for event in self._events():
            name = event["name"]
            if name == "download_started":
                self._transfer = [time.monotonic()]
            elif name == "image_verified" and len(self._transfer) == 1:
                self._transfer.append(time.monotonic())
            if self._json:
                continue
            if name == "download_progress" and self._transfer:
                seconds = max(time.monotonic() - self._transfer[0], 1e-6)
                offset, total = event["file_offset"], event["total_size"]
                render.progress(offset, total, offset / BLOCK_SIZE / seconds)
            elif name in _SHOWN:
                render.event(event)

    def _events(self) -> Iterator[dict[str, Any]]:
        """Every notification once, across the restart of the device."""
        while not self._over.is_set():
            try:
                yield from call(
                    self._run / "ppmid.sock", "GET", "/v1/events?follow=1", timeout_s=None
                )
            except FirmwareNodeError:
                pass
            time.sleep(0.02)

    def _send(self, file: str, *request: str) -> list[dict[str, Any]]:
        self._command("dcc", *request, "--devices", PPMID, "--keys", "keys", "-o", file)
        done = self._command(
            "dcc", "send", file, "--hub", str(self._run / "hub.sock"), "--wait", "--json"
        )
        result = json.loads(done)
        messages: list[dict[str, Any]] = result["messages"]
        if not self._json:
            for message in messages:
                print(f"  {render.message(message)}", flush=True)
        return messages

    def _command(self, *arguments: str) -> str:
        process = self._start(arguments, subprocess.PIPE, subprocess.PIPE)
        try:
            out, err = process.communicate(timeout=RUN_LIMIT_S)
        except subprocess.TimeoutExpired as error:
            raise FirmwareNodeError(
                f"{' '.join(arguments[:2])}: not done after {RUN_LIMIT_S} s"
            ) from error
        if process.returncode:
            reason = err.decode().strip() or out.decode().strip()
            raise FirmwareNodeError(f"{' '.join(arguments[:2])}: {reason}")
        self._processes.remove(process)
        return str(out.decode())

    def _start(
        self, arguments: Sequence[str], out: int | IO[bytes], err: int | IO[bytes]
    ) -> subprocess.Popen[bytes]:
        """One of our commands; until we know the process, nothing may take us away from it."""
        with _uninterrupted():
            process = subprocess.Popen(
                [sys.executable, "-m", "firmware_node", *arguments],
                cwd=self._root,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )
            self._processes.append(process)
        return process

    def _end(self) -> None:
        """Stop whatever still runs, the last first."""
        for process in reversed(self._processes):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in reversed(self._processes):
            try:
                process.wait(END_LIMIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    @staticmethod
    def _running(status: dict[str, Any]) -> str:
        return str(status["banks"][status["running_bank"]]["version"])

    def _report(
        self,
        began: float,
        before: dict[str, Any],
        after: dict[str, Any],
        messages: list[dict[str, Any]],
    ) -> dict[str, Any]:
        file_bytes = (self._root / "version-2.ota").stat().st_size
        transfer = self._transfer[1] - self._transfer[0] if len(self._transfer) > 1 else 0.0
        names = ("use_case", "message_code", "kind", "alert_code", "signature", "mac")
        told = [{name: m[name] for name in names if name in m} for m in messages]
        good = (
            [message["use_case"] for message in told] == ["CCS08", "CS09", "CS08"]
            and all("valid" in (message["signature"], message["mac"]) for message in told)
            and (after["state"], self._running(after)) == ("confirmed", "00000002")
        )
        device = {
            "type": "ppmid",
            "entity_id": PPMID,
            "state": after["state"],
            "from_version": self._running(before),
            "to_version": self._running(after),
            "running_bank": after["running_bank"],
            "image_bytes": self._size,
            "file_bytes": file_bytes,
            "blocks": -(-file_bytes // BLOCK_SIZE),
            "transfer_seconds": round(transfer, 2),
            "messages": told,
        }
        return {
            "result": "ok" if good else "failed",
            "seconds": round(time.monotonic() - began, 1),
            "devices": [device],
        }

    def _say(self, text: str) -> None:
        if not self._json:
            print(f"- {text}", flush=True)


_SHOWN = (
    "download_started",
    "image_verified",
    "activation_scheduled",
    "image_activated",
    "restarting",
    "image_running",
    "self_test",
    "image_confirmed",
    "image_reverted",
    "upgrade_failed",
    "alert_queued",
)


def _stop(number: int, _frame: object) -> NoReturn:
    """Ended from outside, the demo ends its processes too."""
    sys.exit(128 + number)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """SIGINT and SIGTERM wait until the end of the block."""
    caught: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda found, _: caught.append(found)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
        if caught:
            signal.raise_signal(caught[0])


assert os.name == "posix"  # Unix sockets and re-execution in place
