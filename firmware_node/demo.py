"""The main job on one machine: hub and devices as processes of their own, no hardware.

Both options of SECMP0007 run side by side: a PPMID by SR 11.4, an HCALCS by SR 11.1 and 11.3, from
their built-in image to the good one of the image library. Then a load control event closes the
HCALCS's relay, which drives no pin here.

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
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

from firmware_node.adapters.control_client import call
from firmware_node.errors import ConfigError, EnvironmentFailure, FirmwareNodeError
from firmware_node.tools import render

BLOCK_SIZE = 50
SOCKET_FOLDER_MAX = 80  # octets of the temporary directory's path
START_LIMIT_S = 15
SEND_LIMIT_S = 600  # of a request, from its sending to the last answer
RUN_LIMIT_S = SEND_LIMIT_S + 30
END_LIMIT_S = 10
LOOK_S = 0.1  # between two looks at a command that runs


@dataclass(frozen=True, slots=True)
class _Option:
    """How SECMP0007 updates a type of device: its requests, and who says so in the end."""

    kind: str
    entity_id: str
    distribute: str  # service request
    activate: str | None  # None: distribution brings it
    told: tuple[str, ...]  # message codes, in any order
    relay: str | None = None


_OPTIONS = (
    _Option(
        "ppmid",
        "00-DB-12-34-56-78-90-A4",
        "11.4",
        None,
        ("0128", "012B", "0129"),
    ),
    _Option(
        "hcalcs",
        "00-DB-12-34-56-78-90-A5",
        "11.1",
        "11.3",
        ("0128", "00CF", "0012", "0129"),
        "main",
    ),
)

_DEVICE = """\
[device]
type = "{kind}"
entity_id = "{entity_id}"
manufacturer_code = 0x121D
image_type = 0x0084
hardware_version = 0x1111
manufacturer_signature = "require"
[storage]
directory = "{root}/{kind}"
bank_size = {bank_size}
[keys]
directory = "{root}/keys"
[radio]
type = "virtual"
air = "{run}/air.sock"
[control]
socket = "{run}/{kind}.sock"
[ota]
block_size = {block_size}
activate_delay_ms = 500
[activation]
confirm_after_s = 1
"""
_RELAY = """\
[gpio]
backend = "memory"
[gpio.relays.{relay}]
line = 17
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
        options = [option for option in _OPTIONS if device in ("all", option.kind)]
        return _Demo(options, root, run, size, seed, as_json).run(stack)


def _kept(keep: str) -> Path:
    root = Path(keep).resolve()
    try:
        root.mkdir(parents=True, exist_ok=True)
        if any(root.iterdir()):
            raise ConfigError(f"--keep {keep}: expected an empty folder")
    except OSError as error:
        raise ConfigError(f"--keep {keep}: {error.strerror}") from error
    return root


class _Device:
    """One device of the demo, from outside: its socket, its events, what was said of it."""

    def __init__(self, option: _Option, run: Path) -> None:
        self.option = option
        self.name = option.kind.upper()
        self.socket = run / f"{option.kind}.sock"
        self.before: dict[str, Any] = {}
        self.messages: list[dict[str, Any]] = []
        self.transfer: list[float] = []  # when it began and was verified

    def status(self) -> dict[str, Any]:
        """The device restarts in the course of things, so a silent socket is asked again."""
        limit = time.monotonic() + START_LIMIT_S
        while True:
            try:
                return next(iter(call(self.socket, "GET", "/v1/status")))
            except (EnvironmentFailure, StopIteration):
                if time.monotonic() > limit:
                    raise
                time.sleep(0.05)

    def wait_joined(self) -> None:
        """The hub's air is found."""
        limit = time.monotonic() + START_LIMIT_S
        while not self.status()["network"]["joined"]:
            if time.monotonic() > limit:
                raise EnvironmentFailure(f"the {self.name} does not find the hub's air")
            time.sleep(0.05)
        self.before = self.status()

    def events(self, over: threading.Event) -> Iterator[dict[str, Any]]:
        """Every notification once, across the restart of the device."""
        while not over.is_set():
            with contextlib.suppress(FirmwareNodeError):
                yield from call(self.socket, "GET", "/v1/events?follow=1", timeout_s=None)
            time.sleep(0.02)

    def report(self, image_bytes: int, file_bytes: int) -> tuple[bool, dict[str, Any]]:
        """The contract's entry, and whether everything came out as it should."""
        after = self.status()
        seconds = self.transfer[1] - self.transfer[0] if len(self.transfer) > 1 else 0.0
        names = ("use_case", "message_code", "kind", "alert_code", "signature", "mac")
        told = [{name: m[name] for name in names if name in m} for m in self.messages]
        good = (
            sorted(m["message_code"] for m in told) == sorted(self.option.told)
            and all("valid" in (m["signature"], m["mac"]) for m in told)
            and (after["state"], _running(after)) == ("confirmed", "00000002")
        )
        return good, {
            "type": self.option.kind,
            "entity_id": self.option.entity_id,
            "state": after["state"],
            "from_version": _running(self.before),
            "to_version": _running(after),
            "running_bank": after["running_bank"],
            "image_bytes": image_bytes,
            "file_bytes": file_bytes,
            "blocks": -(-file_bytes // BLOCK_SIZE),
            "transfer_seconds": round(seconds, 2),
            "messages": told,
        }


class _Demo:
    def __init__(
        self,
        options: Sequence[_Option],
        root: Path,
        run: Path,
        size: int,
        seed: int,
        as_json: bool,
    ) -> None:
        self._devices = [_Device(option, run) for option in options]
        self._root = root
        self._run = run
        self._size = size
        self._seed = seed
        self._json = as_json
        self._display = render.Display(sys.stdout)
        self._over = threading.Event()
        self._processes: list[subprocess.Popen[Any]] = []

    def run(self, stack: contextlib.ExitStack) -> int:
        began, devices = time.monotonic(), self._devices
        names = ", ".join(device.name for device in devices)
        stack.callback(self._end)
        self._say("prepare", "keys, signed images, a configuration each")
        self._prepare()
        self._say("start", f"Comms Hub, {names}: each a process of its own")
        self._spawn(stack, "hub", ["hub", "hub.toml"], self._run / "hub.sock")
        for device in devices:
            kind = device.option.kind
            self._spawn(stack, kind, ["run", f"{kind}.toml"], device.socket)
        stack.callback(self._over.set)
        for device in devices:
            device.wait_joined()
            threading.Thread(target=self._watch, args=(device,), daemon=True).start()
            text = f"{device.option.entity_id} joined, version {_running(device.before)} runs"
            self._tell_about(device, "", text)
        self._send("distribute", devices, lambda option: option.distribute)
        activated = [device for device in devices if device.option.activate]
        self._send("activate", activated, lambda option: option.activate or "")
        self._send("read back", devices, lambda option: "11.2")
        for device in devices:
            self._close_relay(device)
        return self._conclude(began)

    def _conclude(self, began: float) -> int:
        reports = [
            device.report(self._size, (self._root / _image(device.option)).stat().st_size)
            for device in self._devices
        ]
        result = "ok" if all(good for good, _ in reports) else "failed"
        seconds = round(time.monotonic() - began, 1)
        found = [entry for _, entry in reports]
        if self._json:
            print(json.dumps({"result": result, "seconds": seconds, "devices": found}))
        else:
            for entry in found:
                self._display.line(
                    f"{result}: {entry['type'].upper()} went from {entry['from_version']} to "
                    f"{entry['to_version']}, bank {entry['running_bank']} {entry['state']}, "
                    f"{seconds} s in all"
                )
        return 0 if result == "ok" else 1

    def _prepare(self) -> None:
        self._command("keys", "create", "keys", "--seed", str(self._seed))
        size = ("--size", str(self._size))
        self._command("image", "library", "images", "--only", "good", "--keys", "keys", *size)
        bank_size = max(1024 * 1024, self._size)
        for device in self._devices:
            text = _DEVICE.format(
                root=self._root,
                run=self._run,
                kind=device.option.kind,
                entity_id=device.option.entity_id,
                block_size=BLOCK_SIZE,
                bank_size=bank_size,
            )
            if device.option.relay is not None:
                text += _RELAY.format(relay=device.option.relay)
            (self._root / f"{device.option.kind}.toml").write_text(text)
        (self._root / "hub.toml").write_text(_HUB.format(root=self._root, run=self._run))

    def _spawn(
        self, stack: contextlib.ExitStack, name: str, arguments: Sequence[str], socket: Path
    ) -> None:
        log = stack.enter_context((self._root / f"{name}.log").open("wb"))
        process = self._start(["-v", *arguments], log, log)
        limit = time.monotonic() + START_LIMIT_S
        while True:
            with contextlib.suppress(EnvironmentFailure, FirmwareNodeError):
                next(iter(call(socket, "GET", "/v1/status")))
                return
            if process.poll() is not None or time.monotonic() > limit:
                text = (self._root / f"{name}.log").read_text(errors="replace").strip()
                raise EnvironmentFailure(f"{name} did not start: {text[-300:]}")
            time.sleep(0.02)

    def _watch(self, device: _Device) -> None:
        """A line a stage for a person, and the moments of the transfer for the report."""
        for event in device.events(self._over):
            if event["name"] == "download_started":
                device.transfer = [time.monotonic()]
            elif event["name"] == "image_verified" and len(device.transfer) == 1:
                device.transfer.append(time.monotonic())
            self._tell_of(device, event)

    def _tell_of(self, device: _Device, event: dict[str, Any]) -> None:
        match event["name"]:
            case "image_verified":
                size, seconds = event["size"], device.transfer[-1] - device.transfer[0]
                blocks = -(-size // BLOCK_SIZE)
                whole = {"file_offset": size, "total_size": size}
                bar = render.bar(whole | {"blocks_per_second": blocks / (seconds or 1)})
                self._tell_about(device, "", bar)
                text = f"{size} bytes, {blocks} blocks, {render.duration(seconds)}"
                self._tell_about(device, "", text)
                text = f"SHA-256 {event['manufacturer_sha256'][:32]}..."
                self._tell_about(device, "verify", text)
            case "image_activated":
                text = f"bank {event['bank']}, version {event['version']}"
                self._tell_about(device, "activate", text)
            case "image_running" if event["trial"]:
                self._tell_about(device, "restart", f"version {event['version']} runs on trial")
            case "self_test":
                text = f"self-test {'passed' if event['passed'] else 'failed'}"
                self._tell_about(device, "confirm", text)
            case "image_confirmed":
                self._tell_about(device, "", f"version {event['version']} confirmed")
            case "image_reverted":
                text = f"to version {event['version']}: {event['cause']}"
                self._tell_about(device, "revert", text)
            case "upgrade_failed":
                self._tell_about(device, "failed", f"{event['phase']}: {event['cause']}")

    def _send(
        self, stage: str, devices: Sequence[_Device], service: Callable[[_Option], str]
    ) -> None:
        """The service user's requests to several devices at once, and their answers."""
        hub = str(self._run / "hub.sock")
        commands = []
        for device in devices:
            option, reference = device.option, service(device.option)
            file, image = f"{option.kind}-{reference}.xml", _image(option)
            given = {"11.1": ("--image", image), "11.3": ("--from", image)}
            given["11.4"] = given["11.1"]
            self._tell_about(device, stage, f"SR {reference}: {_ASKS[reference]}")
            self._command(
                *("dcc", "request", reference, *given.get(reference, ())),
                *("--devices", option.entity_id, "--keys", "keys", "-o", file),
            )
            limit = ("--timeout", str(SEND_LIMIT_S))
            commands.append(("dcc", "send", file, "--hub", hub, "--json", "--wait", *limit))
        for device, done in zip(
            devices, self._commands(commands, answers=(0, 1)), strict=True
        ):  # a no is the demo's own result
            messages = json.loads(done)["messages"]
            device.messages += messages
            for message in messages:
                verdict = "MAC" if message["signature"] == "absent" else "signature"
                code = message.get("alert_code", message["kind"])
                name = _NAMES.get(message["message_code"], message["use_case"])
                self._tell_about(device, "told", f"{name} {code}: {render.meaning(message)}")
                text = f"{verdict} {message[verdict.lower()]}, from {message['originator']}"
                self._tell_about(device, "", text)

    def _close_relay(self, device: _Device) -> None:
        """The hub plays the ESME; the device asks it for its events, also after a restart."""
        relay = device.option.relay
        if relay is None:
            return
        self._tell_about(device, "switch", "load control: supply for a minute")
        hub = str(self._run / "hub.sock")
        self._command("hub", "load", device.option.entity_id, "closed", "1", "--hub", hub)
        limit = time.monotonic() + START_LIMIT_S
        while not (line := device.status()["gpio"]["lines"][relay])["on"]:
            if time.monotonic() > limit:
                raise EnvironmentFailure(f"the {device.name} does not close its relay")
            time.sleep(LOOK_S)
        self._tell_about(device, "", f"relay {relay} closed: line {line['line']}, no real pin")

    def _show_progress(self) -> None:
        """One bar: of the first device that downloads."""
        for device in self._devices:
            with contextlib.suppress(EnvironmentFailure, StopIteration):  # it may be restarting
                upgrade = next(iter(call(device.socket, "GET", "/v1/status")))["upgrade"]
                if upgrade["status"] == "download_in_progress" and not self._json:
                    self._display.progress(device.name, upgrade)
                    return

    def _command(self, *arguments: str) -> str:
        return self._commands([arguments])[0]

    def _commands(
        self, commands: Sequence[Sequence[str]], answers: Sequence[int] = (0,)
    ) -> list[str]:
        """Run them side by side; their standard outputs."""
        processes = [self._start(command, subprocess.PIPE, subprocess.PIPE) for command in commands]
        limit = time.monotonic() + RUN_LIMIT_S
        outputs: dict[int, str] = {}
        while len(outputs) < len(processes):
            for number, (process, arguments) in enumerate(zip(processes, commands, strict=True)):
                if number in outputs:
                    continue
                try:
                    out, err = process.communicate(timeout=LOOK_S)
                except subprocess.TimeoutExpired:
                    self._show_progress()
                    if time.monotonic() > limit:
                        raise FirmwareNodeError(
                            f"{' '.join(arguments[:2])}: not done after {RUN_LIMIT_S} s"
                        ) from None
                    continue
                if process.returncode not in answers:
                    reason = err.decode().strip() or out.decode().strip()
                    raise FirmwareNodeError(f"{' '.join(arguments[:2])}: {reason}")
                self._processes.remove(process)
                outputs[number] = out.decode()
        return [outputs[number] for number in range(len(processes))]

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

    def _say(self, stage: str, text: str) -> None:
        if not self._json:
            self._display.stage(stage, text)

    def _tell_about(self, device: _Device, stage: str, text: str) -> None:
        several = len(self._devices) > 1
        self._say(stage, f"{device.name:<7}{text}" if several else text)


_ASKS = {
    "11.1": "distribute version 00000002",
    "11.2": "which version runs?",
    "11.3": "activate it",
    "11.4": "update to version 00000002",
}
_NAMES = {"00CF": "receipt"}  # where the name of the message is too long for a line


def _image(option: _Option) -> str:
    return f"images/{option.kind}/good.ota"


def _running(status: dict[str, Any]) -> str:
    return str(status["banks"][status["running_bank"]]["version"])


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
