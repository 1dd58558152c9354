"""A hub and a device as real processes, the device under strace where a test wants.

Everything is done from outside: configuration, signals, sockets and the octets on the disk.
``TRACED`` names the calls that change files and those that send; ``read_trace`` reads them back.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from home import ACB, BANK_SIZE, HUB, KEYS, PPMID, SETTINGS, image

from firmware_node.adapters.control_client import call
from firmware_node.adapters.storage import FileStorage
from firmware_node.errors import FirmwareNodeError
from firmware_node.node.records import get_twice
from firmware_node.node.verification import verify_image
from firmware_node.rig.invariants import Invariants
from firmware_node.terms import EntityId
from firmware_node.tools.duis import build_update_request
from firmware_node.tools.keys import build_keys

STRACE = shutil.which("strace")
needs_strace = pytest.mark.skipif(
    STRACE is None and not os.environ.get("CI"),
    reason="strace is not installed: apt-get install strace",
)
CHANGING = (
    *("pwrite64", "write", "fsync", "fdatasync", "fallocate", "ftruncate"),
    *("mkdir", "unlink", "unlinkat", "rename", "renameat", "renameat2"),
)
SENDING = ("sendto", "sendmsg")
FILES_OF_OURS = (
    *("LOCK", "node.db", "node.db-wal", "bank_a.img", "bank_b.img", "ratchet.bin", "ballast"),
    *("node.db.part", "node.db.new"),  # while a database is made or salvaged
)
LIMIT_S = 60
HUB_MESSAGES_MAX = 500  # a hub keeps a thousand
LOOK_S = 0.02
SUPPLIER = EntityId.parse("90-B3-D5-1F-30-00-00-01")
SIZE = 70_000  # bytes of the manufacturer image: more than one checkpoint interval
FILES = {
    "good": image(2, size=SIZE),
    "reverting": image(2, size=SIZE, change=lambda manifest: replace(manifest, self_test=False)),
}
_KEYS = """\
[keys]
directory = "{root}/keys"
[radio]
air = "{root}/air"
"""
_HUB = f"""\
[hub]
entity_id = "{HUB}"
{{hub}}
[dcc]
socket = "{{root}}/hub"
{_KEYS}"""
_DEVICE = f"""\
[device]
type = "ppmid"
entity_id = "{PPMID}"
manufacturer_code = 0x121D
image_type = 0x0084
hardware_version = 0x1111
[storage]
directory = "{{state}}"
bank_size = {BANK_SIZE}
[control]
socket = "{{root}}/device"
[ota]
block_size = 255
activate_delay_ms = 0
query_interval_s = 1
bad_time_block_s = 1
retry_first_ms = 100
[activation]
confirm_after_s = 0
{_KEYS}"""


@dataclass(frozen=True, slots=True)
class Traced:
    """One call of a trace, in the order of the calls."""

    name: str
    number: int  # the how many-th of its name, counted from 1
    path: str  # in the state directory, "." for itself; empty: elsewhere; see ``read_trace``
    offset: int  # of a write; else the last argument, if it is a number
    injected: bool
    stopping: bool  # after the signal to stop


def strace(log: Path, *options: str, calls: Sequence[str] = (*CHANGING, *SENDING)) -> list[str]:
    """What goes before a command that shall be traced."""
    assert STRACE is not None
    fixed = ("-f", "--seccomp-bpf", "-qq", "-y", "-s", "0", "-e", "signal=SIGTERM")
    return [STRACE, *fixed, "-e", f"trace={','.join(calls)}", "-o", str(log), *options]


def read_trace(log: Path, state: Path) -> list[Traced]:
    """The calls of a trace. Our own opening of the directory has the path ``directory``."""
    found, counts, stopping = [], dict[str, int](), False
    inside = re.compile(re.escape(str(state)) + r"(?:/([\w.-]*))?[\">]")
    for line in log.read_text().splitlines():
        text = line.partition(" ")[2].strip()
        stopping |= text.startswith("--- SIGTERM")
        name = text.partition("(")[0]
        if not name.isidentifier():
            continue
        counts[name] = counts.get(name, 0) + 1
        path = inside.search(text)
        where = "" if path is None else path[1] or "."
        if name == "openat" and where:
            opened = text.split('"')[1].removeprefix(f"{state}/")
            where = "." if opened == str(state) else opened
            if "O_DIRECTORY" in text:
                where = "directory"
        number = re.search(r", (\d+)\) += ", text)
        found.append(
            Traced(
                name,
                counts[name],
                where,
                int(number[1]) if number else 0,
                "(INJECTED)" in text,
                stopping,
            )
        )
    return found


class Household:
    """A hub that runs, and a device that is started as often as a test likes."""

    def __init__(self, root: Path, hub: str) -> None:
        self.root = root
        self.state = root / "state"
        (root / "keys").mkdir(mode=0o700)
        for name, data in build_keys(b"flows").items():
            (root / "keys" / name).write_bytes(data)
        (root / "hub.toml").write_text(_HUB.format(root=root, hub=hub))
        self.configure(self.state)
        self._heard = 0  # messages of earlier stories
        self._requests = 0
        self._processes: list[subprocess.Popen[str]] = []
        self.start_hub()

    def configure(self, state: Path) -> None:
        """Where the device keeps its state from its next start on."""
        self.state = state
        (self.root / "device.toml").write_text(_DEVICE.format(root=self.root, state=state))

    def stop_hub(self) -> None:
        """Kill it."""
        self.hub.kill()
        self.hub.wait(LIMIT_S)

    def start_hub(self) -> None:
        """A hub that has forgotten everything."""
        self._heard = 0
        self.hub = self._start([], "hub", "hub")
        while not self._answers("hub"):
            assert self.hub.poll() is None

    def fresh(self, *, keep_state: bool = False) -> None:
        """Another story: no state directory, and what the hub has heard does not count."""
        if not keep_state:
            shutil.rmtree(self.state, ignore_errors=True)
        self._heard = len(self._messages())
        if self._heard > HUB_MESSAGES_MAX:
            self.stop_hub()
            self.start_hub()

    def offer(self, file: bytes) -> None:
        """SR 11.4 for our device."""
        self._requests += 1
        request = build_update_request(
            *("11.4", SUPPLIER, ACB, self._requests, KEYS),
            image=file,
            firmware_version="00000000",
            devices=[PPMID],
        )
        list(call(self.root / "hub", "POST", "/v1/requests", request))

    def alerts(self) -> list[dict[str, Any]]:
        """The CS09 alerts of this story, repeats included."""
        return [
            document
            for document in self._messages()[self._heard :]
            if document["use_case"] == "CS09"
        ]

    def run(self, *prefix: str) -> subprocess.Popen[str]:
        """Start the device daemon, under a tracer where a prefix says so."""
        return self._start(prefix, "run", "device")

    def status(self) -> dict[str, Any] | None:
        """The device's word; None while it is not there."""
        return self._answers("device")

    def carry_through(self, *prefix: str) -> tuple[int, str]:
        """Run the device until its alert is delivered, then stop it; or until it ends by itself.

        Returns:
            the exit code and what was said on standard error.
        """
        device, stopped = self.run(*prefix), False
        for _ in looks(device):
            status = None if stopped else self.status()
            if status and status["state"] in ("confirmed", "reverted") and not status["outbox"]:
                os.kill(status["pid"], signal.SIGTERM)
                stopped = True
        assert device.stderr is not None
        return device.returncode, device.stderr.read()

    def check_end(self, kind: str) -> None:
        """The update ended as it should: what is kept, and what the head end was told."""
        version = 2 if kind == "good" else 1
        alerts = self.alerts()
        assert {alert["fields"]["result"] for alert in alerts} == {0 if kind == "good" else 1}
        assert {alert["signature"] for alert in alerts} == {"valid"}
        assert len({alert["hex"] for alert in alerts}) == 1  # repeats are byte-identical
        storage = FileStorage(self.state, BANK_SIZE)
        try:
            assert not storage.records.keys("outbox/")
            assert int(get_twice(storage.records, "floor")) == version
            assert storage.ratchet.read().rollback_floor == version
            invariants = Invariants(
                PPMID, SETTINGS, lambda data: verify_image(data, SETTINGS, KEYS)
            )
            invariants.check(storage)
            invariants.heard(bytes.fromhex(alerts[0]["hex"]))  # its counter was reserved
        finally:
            storage.close()

    def close(self) -> None:
        """End whatever still runs."""
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(LIMIT_S)
            assert process.stderr is not None
            process.stderr.close()

    def _start(self, prefix: Sequence[str], verb: str, name: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "firmware_node", verb, f"{self.root}/{name}.toml"],
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._processes.append(process)
        return process

    def _messages(self) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = next(call(self.root / "hub", "GET", "/v1/messages"))[
            "messages"
        ]
        return messages

    def _answers(self, socket: str) -> dict[str, Any] | None:
        with contextlib.suppress(FirmwareNodeError, StopIteration):
            return next(call(self.root / socket, "GET", "/v1/status"))
        return None


def looks(process: subprocess.Popen[str]) -> Iterator[int]:
    """Count on while the process runs, a look every ``LOOK_S``."""
    for count in range(int(LIMIT_S / LOOK_S)):
        try:
            process.wait(LOOK_S)
        except subprocess.TimeoutExpired:
            yield count
        else:
            return
    raise AssertionError(f"not done after {LIMIT_S} s")


@contextlib.contextmanager
def household(hub: str = "") -> Iterator[Household]:
    """A household in a short-named folder: a socket's path is limited. ``hub``: its settings."""
    with tempfile.TemporaryDirectory(prefix="fn-") as name:
        home = Household(Path(name), hub)
        try:
            yield home
        finally:
            home.close()
