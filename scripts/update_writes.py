"""What one whole update costs the disk: syncs and bytes, counted from outside on real files.

A hub and a device run as processes, the device under strace. Counted is every call on its state
directory from the moment the service request reaches the hub until the alert about the confirmed
image is acknowledged: download, verification, activation, the restart, confirmation, and all that
SQLite writes. What provisioning wrote before is not part of it.
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
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firmware_node.adapters.control_client import call
from firmware_node.crypto import Keyring
from firmware_node.errors import EnvironmentFailure, FirmwareNodeError
from firmware_node.terms import EntityId, ImageKey
from firmware_node.tools.duis import build_update_request
from firmware_node.tools.image import build_image
from firmware_node.tools.keys import build_keys
from firmware_node.wire.manufacturer_image import Manifest

MIB = 1024 * 1024
LIMIT_S = 120
LOOK_S = 0.02
SYNCS = ("fsync", "fdatasync", "sync_file_range", "msync")
WRITES = ("write", "writev", "pwrite64", "pwritev", "pwritev2")
_PPMID = EntityId.parse("00-DB-12-34-56-78-90-A4")
_SUPPLIER = EntityId.parse("90-B3-D5-1F-30-00-00-01")
_ACB = EntityId.parse("90-B3-D5-1F-30-00-00-02")
_CALL = re.compile(r"^\d+ +(\d+\.\d+) (\w+)\(\d+<([^>]*)>.* = (\d+)$")
_COMMON = """
[keys]
directory = "{root}/keys"
[radio]
air = "{root}/air"
"""
_HUB = f"""
[hub]
entity_id = "00-DB-12-34-56-78-90-A2"
[dcc]
socket = "{{root}}/hub"
{_COMMON}"""
_DEVICE = f"""
[device]
type = "ppmid"
entity_id = "{_PPMID}"
manufacturer_code = 0x121D
image_type = 0x0084
hardware_version = 0x1111
[storage]
directory = "{{root}}/state"
bank_size = {{size}}
[control]
socket = "{{root}}/device"
[ota]
activate_delay_ms = 100
[activation]
confirm_after_s = 1
{_COMMON}"""


@dataclass(frozen=True, slots=True)
class UpdateWrites:
    """The calls of one update that reach the disk."""

    fsyncs: int
    bytes_written: int
    calls: Counter[tuple[str, str]]  # by name of the call and of the file


def measure(size: int = MIB) -> UpdateWrites:
    """Carry out one update with a manufacturer image of ``size`` bytes and count.

    Raises:
        EnvironmentFailure: strace is not there, or may not trace.
        FirmwareNodeError: the update did not come to its end.
    """
    strace = shutil.which("strace")
    if strace is None:
        raise EnvironmentFailure("strace is not installed: apt-get install strace")
    with tempfile.TemporaryDirectory(prefix="fn-") as name:
        root = Path(name)
        request = _prepare(root, size)
        options = ["-f", "--seccomp-bpf", "-qq", "-y", "-ttt", "-s", "0", "-o", f"{root}/trace"]
        wanted = f"trace={','.join((*SYNCS, *WRITES))}"
        with (
            _running(root, "hub", "hub", []),
            _running(root, "run", "device", [strace, *options, "-e", wanted]),
        ):
            _until("joined", lambda: _status(root)["network"]["joined"])
            began = time.time()
            list(call(root / "hub", "POST", "/v1/requests?wait=1", request, LIMIT_S))
            _until("confirmed", lambda: _is_over(_status(root)))
            ended = time.time()
            os.kill(_status(root)["pid"], signal.SIGTERM)
        return _count(root / "trace", f"{root}/state", began, ended)


def _prepare(root: Path, size: int) -> bytes:
    """Keys, configurations, and the request."""
    files = build_keys(b"bench")
    keyring = Keyring(files)
    (root / "keys").mkdir(mode=0o700)
    for name, data in files.items():
        (root / "keys" / name).write_bytes(data)
    (root / "hub.toml").write_text(_HUB.format(root=root))
    (root / "device.toml").write_text(_DEVICE.format(root=root, size=size))
    manifest = Manifest(ImageKey(0x121D, 0x0084, 2), 0x0000, 0xFFFF)
    key = keyring.manufacturer_signing_key(0x121D)
    return build_update_request(
        *("11.4", _SUPPLIER, _ACB, 1, keyring),
        image=build_image(manifest, size=size, manufacturer_key=key),
        firmware_version="00000002",
        devices=[_PPMID],
    )


@contextlib.contextmanager
def _running(root: Path, verb: str, name: str, prefix: list[str]) -> Iterator[None]:
    """A daemon that answers on its socket; ended at the end."""
    process = subprocess.Popen(
        [*prefix, sys.executable, "-m", "firmware_node", "-q", verb, f"{root}/{name}.toml"],
        start_new_session=True,
    )
    try:
        _until(f"{verb} up", lambda: _answers(root / name) or process.poll() is not None)
        if process.poll() is not None:
            raise EnvironmentFailure(f"{verb} did not start, exit code {process.returncode}")
        yield
        if prefix:
            process.wait(LIMIT_S)  # it was told to stop, and its trace must be whole
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _until(what: str, is_so: Callable[[], bool]) -> None:
    limit = time.monotonic() + LIMIT_S
    while True:
        with contextlib.suppress(EnvironmentFailure, StopIteration):  # it restarts on the way
            if is_so():
                return
        if time.monotonic() > limit:
            raise FirmwareNodeError(f"not {what} after {LIMIT_S} s")
        time.sleep(LOOK_S)


def _answers(socket: Path) -> bool:
    next(call(socket, "GET", "/v1/status"))
    return True


def _status(root: Path) -> dict[str, Any]:
    return next(call(root / "device", "GET", "/v1/status"))


def _is_over(status: dict[str, Any]) -> bool:
    return bool(status["state"] == "confirmed" and status["outbox"] == 0)


def _count(trace: Path, state: str, began: float, ended: float) -> UpdateWrites:
    fsyncs, written, calls = 0, 0, Counter[tuple[str, str]]()
    for line in trace.read_text().splitlines():
        found = _CALL.match(line)
        if found is None or not found[3].startswith(state) or not began <= float(found[1]) <= ended:
            continue
        calls[found[2], found[3].removeprefix(state).lstrip("/") or "."] += 1
        if found[2] in SYNCS:
            fsyncs += 1
        else:
            written += int(found[4])
    return UpdateWrites(fsyncs, written, calls)


if __name__ == "__main__":
    result = measure()
    print(f"{result.fsyncs} syncs, {result.bytes_written / MIB:.3f} MiB")
    for (name, file), count in sorted(result.calls.items()):
        print(f"{count:5} {name} {file}")
