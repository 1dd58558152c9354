"""The benchmark suite: each figure beside a floor or peer measured in the same run.

A figure is a row of ``FIGURES``: its name and the function that measures it. A floor is what the
machine itself can do (a bare hash, a bare socket); a peer is another way to the same end. Only
their ratio means something on another machine.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import platform
import select
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from firmware_node.adapters.control_client import call
from firmware_node.adapters.storage import FileStorage
from firmware_node.boundary import (
    Frame,
    FrameReceived,
    Input,
    NetworkUp,
    OfferImage,
    PeerAnnounced,
    SendFrame,
    Started,
)
from firmware_node.crypto import Keyring
from firmware_node.errors import FirmwareNodeError
from firmware_node.node.device import Device
from firmware_node.node.verification import verify_image
from firmware_node.rig.comms_hub import CommsHub, HubSettings
from firmware_node.rig.world import SeededEntropy
from firmware_node.terms import (
    COORDINATOR,
    DeviceSettings,
    DeviceType,
    EntityId,
    ImageKey,
    ShortAddress,
)
from firmware_node.tools.image import build_image
from firmware_node.tools.keys import build_keys
from firmware_node.wire import mt, ota
from firmware_node.wire.manufacturer_image import Manifest

MIB = 1024 * 1024
REPEATS = 5  # the best of them counts: noise only ever adds time


@dataclass(frozen=True, slots=True)
class Baseline:
    """What a figure is held against; its unit is the figure's."""

    name: str
    value: float
    kind: str = "floor"  # or "peer"


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value and its baseline."""

    name: str
    value: float
    unit: str
    higher_is_better: bool
    baseline: Baseline

    def shape(self) -> dict[str, Any]:
        """The contract's ``bench --json`` entry; ``ratio`` is value by baseline."""
        return {
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "higher_is_better": self.higher_is_better,
            self.baseline.kind: {"name": self.baseline.name, "value": self.baseline.value},
            "ratio": self.value / self.baseline.value,
        }


def verify_1mib() -> Figure:
    """Verification of a signed 1 MiB image against the one pass of SHA-256 it cannot do without."""
    keyring = Keyring(build_keys(b"bench"))
    manifest = Manifest(ImageKey(0x121D, 0x0084, 2), 0x0000, 0xFFFF)
    data = build_image(
        manifest, size=MIB, manufacturer_key=keyring.manufacturer_signing_key(0x121D)
    )
    settings = DeviceSettings(
        type=DeviceType.PPMID,
        entity_id=EntityId.parse("00db1234567890a4"),
        manufacturer_code=0x121D,
        image_type=0x0084,
        hardware_version=0x1111,
        manufacturer_signature_required=True,
    )
    return Figure(
        "verify.1mib.seconds",
        best_seconds(lambda: verify_image(data, settings, keyring)),
        "s",
        False,
        Baseline("sha256 of the file", best_seconds(lambda: hashlib.sha256(data).digest())),
    )


def _pump(directory: Path) -> tuple[int, float]:
    """Blocks and seconds of one 1 MiB download, device and hub in this process, real bank files."""
    keyring = Keyring(build_keys(b"bench"))
    ppmid, hub_id = EntityId.parse("00db1234567890a4"), EntityId.parse("00db1234567890a2")
    key = keyring.manufacturer_signing_key(0x121D)

    def file(version: int, size: int) -> bytes:
        manifest = Manifest(ImageKey(0x121D, 0x0084, version), 0x0000, 0xFFFF)
        return build_image(manifest, size=size, manufacturer_key=key)

    settings = DeviceSettings(DeviceType.PPMID, ppmid, 0x121D, 0x0084, 0x1111, True)
    storage = FileStorage(directory, MIB)
    device = Device(settings, storage, keyring, SeededEntropy(1), factory_image=file(1, 4096))
    hub = CommsHub(HubSettings(hub_id, EntityId.parse("90b3d51f30000002")), keyring)
    device_address, image = ShortAddress(1), file(2, MIB)
    to_hub: deque[Frame] = deque()
    to_device: deque[Frame] = deque()
    blocks = 0

    def give_device(item: Input) -> None:
        effects = device.step(item, 0)
        storage.commit()
        to_hub.extend(e.frame for e in effects if isinstance(e, SendFrame))

    def give_hub(item: Input) -> None:
        to_device.extend(e.frame for e in hub.step(item, 0) if isinstance(e, SendFrame))

    give_device(Started())
    give_hub(Started())
    give_device(NetworkUp(device_address, 15))
    give_hub(PeerAnnounced(device_address, ppmid))
    give_hub(OfferImage("bench", image, (ppmid,)))
    began = time.perf_counter()
    while to_hub or to_device:
        while to_hub:
            frame = to_hub.popleft()
            blocks += frame.payload[2:3] == b"\x03"
            if frame.profile:
                give_hub(FrameReceived(frame._replace(peer=device_address)))
        while to_device:
            give_device(FrameReceived(to_device.popleft()._replace(peer=COORDINATOR)))
    seconds = time.perf_counter() - began
    held = device.banks_report()["B"]
    storage.close()
    if held["state"] != "verified":
        raise RuntimeError(f"the download ended with {held}")
    return blocks, seconds


def ota_in_process() -> Figure:
    """Device and hub in one process, every frame encoded and decoded by both, banks on disk.

    The floor is what the same frames cost to encode and decode once each and to hash.
    """
    with tempfile.TemporaryDirectory() as name:
        runs = [_pump(Path(name) / str(run)) for run in range(3)]
    image, data = ImageKey(0x121D, 0x0084, 2), bytes(50)

    def codec_only() -> None:
        for offset in range(0, 1000 * 50, 50):
            asked = ota.encode_image_block_request(ota.ImageBlockRequest(image, offset, 50))
            ota.decode_image_block_request(asked)
            block = ota.encode_image_block_response(ota.BlockData(image, offset, data))
            ota.decode_image_block_response(block)

    return Figure(
        "ota.in_process.blocks_per_second",
        max(blocks / seconds for blocks, seconds in runs),
        "blocks/s",
        True,
        Baseline("coding the same commands alone", 1000 / best_seconds(codec_only)),
    )


def start_to_ready() -> Figure:
    """A daemon from its start to the answer of its control socket, against a bare interpreter."""
    with _daemon() as (seconds, _):
        value = seconds
    bare = best_seconds(lambda: subprocess.run([sys.executable, "-c", ""], check=True), 3)
    return Figure(
        "daemon.start_to_ready.seconds", value, "s", False, Baseline("python -c ''", bare)
    )


def daemon_rss() -> Figure:
    """Resident memory of an idle daemon, against an interpreter with the libraries it needs."""
    with _daemon() as (_, process):
        value = _rss(process.pid)
    code = "import asyncio, sqlite3, construct, sys\n"
    code += "from cryptography.hazmat.primitives.asymmetric import ec\n"
    code += "from cryptography import x509\nprint(flush=True)\nsys.stdin.read()"
    bare = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert bare.stdout is not None
    bare.stdout.readline()
    floor = _rss(bare.pid)
    bare.communicate()
    return Figure("daemon.rss.bytes", value, "bytes", False, Baseline("its libraries alone", floor))


@contextlib.contextmanager
def _daemon() -> Iterator[tuple[float, subprocess.Popen[bytes]]]:
    """A provisioned daemon, started again; the seconds to its first answer."""
    with tempfile.TemporaryDirectory(prefix="fn-") as name:
        root = Path(name)
        (root / "keys").mkdir()
        for file, data in build_keys(b"bench").items():
            (root / "keys" / file).write_bytes(data)
        (root / "c.toml").write_text(
            '[device]\ntype = "ppmid"\nentity_id = "00-DB-12-34-56-78-90-A4"\n'
            "manufacturer_code = 0x121D\nimage_type = 0x0084\nhardware_version = 0x1111\n"
            f'[storage]\ndirectory = "{root}/state"\n[keys]\ndirectory = "{root}/keys"\n'
            f'[radio]\nair = "{root}/air"\n[control]\nsocket = "{root}/s"\n'
        )
        for last in (False, True):
            began = time.perf_counter()
            process = subprocess.Popen(
                [sys.executable, "-m", "firmware_node", "run", f"{root}/c.toml"],
                stderr=subprocess.DEVNULL,
            )
            try:
                while True:
                    with contextlib.suppress(FirmwareNodeError):
                        list(call(root / "s", "GET", "/v1/status"))
                        break
                    time.sleep(0.002)
                if last:
                    yield time.perf_counter() - began, process
            finally:
                process.terminate()
                process.wait()


def virtual_znp_round_trips() -> Figure:
    """MT round trips with a virtual stick over a pty, against a process that only echoes."""
    with tempfile.TemporaryDirectory(prefix="fn-") as name:
        link = Path(name) / "tty"
        stick = [sys.executable, "-m", "firmware_node", "radio", "virtual", "--pty", str(link)]
        value = _round_trips(stick, link, mt.frame(mt.Cmd.SYS_PING), 7)
        code = "import os, sys, tty\nmaster, slave = os.openpty()\ntty.setraw(slave)\n"
        code += "os.symlink(os.ttyname(slave), sys.argv[1])\nprint('ready', flush=True)\n"
        code += "while True:\n os.write(master, os.read(master, 100))"
        floor = _round_trips([sys.executable, "-c", code, str(link)], link, bytes(7), 7)
    return Figure(
        "radio.virtual_znp.round_trips_per_second",
        value,
        "1/s",
        True,
        Baseline("a process that echoes on a pty", floor),
    )


def _round_trips(command: Sequence[str], link: Path, request: bytes, size: int) -> float:
    """Requests answered a second, one at a time; the best of several runs."""
    count = 3000
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            fd = os.open(link, os.O_RDWR | os.O_NOCTTY)

            def ask() -> None:
                for _ in range(count):
                    os.write(fd, request)
                    while len(os.read(fd, 256)) < size:
                        pass

            os.write(fd, request)
            while select.select([fd], [], [], 0.2)[0]:
                os.read(fd, 256)  # what a stick tells at its start, and the first answer
            seconds = best_seconds(ask)
            os.close(fd)
        finally:
            process.terminate()
            link.unlink(missing_ok=True)
    return count / seconds


def _rss(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


FIGURES: Mapping[str, Callable[[], Figure]] = {
    "ota.in_process.blocks_per_second": ota_in_process,
    "daemon.start_to_ready.seconds": start_to_ready,
    "daemon.rss.bytes": daemon_rss,
    "verify.1mib.seconds": verify_1mib,
    "radio.virtual_znp.round_trips_per_second": virtual_znp_round_trips,
}


def best_seconds(work: Callable[[], object], repeats: int = REPEATS) -> float:
    """Wall time of the fastest of ``repeats`` runs."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def machine() -> dict[str, Any]:
    """What a reader must know of the machine."""
    return {
        "system": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "cpu": _cpu_model(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the named figures, or all."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("names", nargs="*", metavar="NAME", help="a figure, or how its name begins")
    args = parser.parse_args(arguments)
    chosen = [name for name in FIGURES if _is_chosen(name, args.names)]
    for name in args.names:
        if not any(_is_chosen(figure, [name]) for figure in FIGURES):
            print(f"bench: no figure {name}; there are {' '.join(FIGURES)}", file=sys.stderr)
            return 2
    figures = []
    for name in chosen:
        print(f"measuring {name}", file=sys.stderr)
        figures.append(FIGURES[name]())
    if args.json:
        print(json.dumps({"machine": machine(), "figures": [one.shape() for one in figures]}))
        return 0
    for figure in figures:
        base = figure.baseline
        print(
            f"{figure.name}  {figure.value:.6g} {figure.unit}  "
            f"({base.kind} {base.name}: {base.value:.6g}, ratio {figure.value / base.value:.3g})"
        )
    return 0


def _is_chosen(name: str, wanted: Sequence[str]) -> bool:
    return not wanted or any(name == one or name.startswith(f"{one}.") for one in wanted)


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            models = [line.partition(":")[2].strip() for line in file if "model name" in line]
    except OSError:
        models = []
    return models[0] if models else platform.processor() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
