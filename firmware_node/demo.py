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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

from firmware_node.adapters.control_client import call
from firmware_node.errors import ConfigError, EnvironmentFailure, FirmwareNodeError
from firmware_node.tools import render

PPMID = "00-DB-12-34-56-78-90-A4"
BLOCK_SIZE = 50
SOCKET_FOLDER_MAX = 80  # octets of the temporary directory's path
START_LIMIT_S = 15
SEND_LIMIT_S = 600  # of a request, from its sending to the last answer
RUN_LIMIT_S = SEND_LIMIT_S + 30
END_LIMIT_S = 10
LOOK_S = 0.1  # between two looks at a command that runs

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
        short = None if len(tempfile.gettempdir()) <= SOCKET_FOLDER_MAX else "/tmp"  # noqa: S108
        run = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fn-", dir=short)))
        if keep is None:
            root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fn-demo-")))
        else:
            root = _kept(keep)
        for number in _SIGNALS:
            signal.signal(number, _stop)
        return _Demo(root, run, size, seed, as_json).run(stack)


def _kept(keep: str) -> Path:
    root = Path(keep).resolve()
    try:
        root.mkdir(parents=True, exist_ok=True)
        if any(root.iterdir()):
            raise ConfigError(f"--keep {keep}: expected an empty folder")
    except OSError as error:
        raise ConfigError(f"--keep {keep}: {error.strerror}") from error
    return root


class _Demo:
    def __init__(self, root: Path, run: Path, size: int, seed: int, as_json: bool) -> None:
        self._root = root
        self._run = run
        self._size = size
        self._seed = seed
        self._json = as_json
        self._display = render.Display(sys.stdout)
        self._transfer: list[float] = []
        self._over = threading.Event()
        self._processes: list[subprocess.Popen[Any]] = []

    def run(self, stack: contextlib.ExitStack) -> int:
        began = time.monotonic()
        stack.callback(self._end)
        self._say("prepare", "keys, two signed images, two configurations")
        self._prepare()
        self._say("start", "a Comms Hub and a PPMID, each a process of its own")
        self._spawn(stack, "hub", "hub.toml", self._run / "hub.sock")
        self._spawn(stack, "run", "ppmid.toml", self._run / "ppmid.sock")
        before = self._status()
        self._wait_joined()
        stack.callback(self._over.set)
        threading.Thread(target=self._watch, daemon=True).start()
        self._say("", f"PPMID {PPMID} joined, version {self._running(before)} runs")
        self._say("distribute", "SR 11.4 asks for version 00000002")
        messages = self._send("update.xml", "request", "11.4", "--image", "version-2.ota")
        self._tell("alerts", messages)
        read = self._send("read.xml", "request", "11.2")
        self._tell("read back", read)
        messages += read
        after = self._status()
        report = self._report(began, before, after, messages)
        if self._json:
            print(json.dumps(report))
        else:
            found = report["devices"][0]
            self._display.line(
                f"{report['result']}: PPMID went from {found['from_version']} to "
                f"{found['to_version']}, bank {found['running_bank']} {found['state']}, "
                f"{report['seconds']} s in all"
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
        """A line a stage for a person, and the moments of the transfer for the report."""
        for event in self._events():
            if event["name"] == "download_started":
                self._transfer = [time.monotonic()]
            elif event["name"] == "image_verified" and len(self._transfer) == 1:
                self._transfer.append(time.monotonic())
            self._tell_of(event)

    def _tell_of(self, event: dict[str, Any]) -> None:
        match event["name"]:
            case "image_verified":
                size, seconds = event["size"], self._transfer[-1] - self._transfer[0]
                blocks = -(-size // BLOCK_SIZE)
                whole = {"file_offset": size, "total_size": size}
                self._say("", render.bar(whole | {"blocks_per_second": blocks / (seconds or 1)}))
                self._say("", f"{size} bytes, {blocks} blocks, {render.duration(seconds)}")
                self._say("verify", f"SHA-256 {event['manufacturer_sha256'][:32]}...")
            case "image_activated":
                self._say("activate", f"bank {event['bank']}, version {event['version']}")
            case "image_running" if event["trial"]:
                self._say("restart", f"version {event['version']} runs on trial")
            case "self_test":
                self._say("confirm", f"self-test {'passed' if event['passed'] else 'failed'}")
            case "image_confirmed":
                self._say("", f"version {event['version']} confirmed")
            case "image_reverted":
                self._say("revert", f"to version {event['version']}: {event['cause']}")
            case "upgrade_failed":
                self._say("failed", f"{event['phase']}: {event['cause']}")

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
        hub = str(self._run / "hub.sock")
        done = self._command(
            *(
                "dcc",
                "send",
                file,
                "--hub",
                hub,
                "--json",
                "--wait",
                "--timeout",
                str(SEND_LIMIT_S),
            ),
            meanwhile=self._show_progress,
            answers=(0, 1),  # a no is the demo's own result
        )
        messages: list[dict[str, Any]] = json.loads(done)["messages"]
        return messages

    def _show_progress(self) -> None:
        with contextlib.suppress(EnvironmentFailure, StopIteration):  # it may be restarting
            status = next(iter(call(self._run / "ppmid.sock", "GET", "/v1/status")))
            if status["upgrade"]["status"] == "download_in_progress" and not self._json:
                self._display.progress("", status["upgrade"])

    def _tell(self, stage: str, messages: Sequence[dict[str, Any]]) -> None:
        for message in messages:
            verdict = "MAC" if message["signature"] == "absent" else "signature"
            code = message.get("alert_code", message["kind"])
            self._say(stage, f"{message['use_case']:<5} {code}: {render.meaning(message)}")
            self._say("", f"{verdict} {message[verdict.lower()]}, from {message['originator']}")
            stage = ""

    def _command(
        self,
        *arguments: str,
        meanwhile: Callable[[], None] = lambda: None,
        answers: Sequence[int] = (0,),
    ) -> str:
        process = self._start(arguments, subprocess.PIPE, subprocess.PIPE)
        limit = time.monotonic() + RUN_LIMIT_S
        while True:
            try:
                out, err = process.communicate(timeout=LOOK_S)
                break
            except subprocess.TimeoutExpired:
                meanwhile()
                if time.monotonic() > limit:
                    raise FirmwareNodeError(
                        f"{' '.join(arguments[:2])}: not done after {RUN_LIMIT_S} s"
                    ) from None
        if process.returncode not in answers:
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
        _ignore_signals()
        self._display.end()
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

    def _say(self, stage: str, text: str) -> None:
        if not self._json:
            self._display.stage(stage, text)


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _stop(number: int, _frame: object) -> NoReturn:
    """Ended from outside, the demo ends its processes too; a second signal does not hinder it."""
    _ignore_signals()
    sys.exit(128 + number)


def _ignore_signals() -> None:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Signals wait until the end of the block."""
    caught: list[int] = []
    before = [signal.signal(number, lambda found, _: caught.append(found)) for number in _SIGNALS]
    try:
        yield
    finally:
        for number, handler in zip(_SIGNALS, before, strict=True):
            signal.signal(number, handler)
        if caught:
            signal.raise_signal(caught[0])


assert os.name == "posix"  # Unix sockets and re-execution in place
