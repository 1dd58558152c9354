"""Radios of ZNP sticks: a stick itself, a download over two of them, and what limits it.

With the line paced the ceiling is counted: a byte has ten bits, and a block takes the octets that
pass one after the other. Block for block these are the frames of request and answer, both into a
stick and out of it; in a page the answers follow each other, and the longest frame counts.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench_figures import home, zigpy_sticks
from bench_figures.daemon import rss_of, rss_running
from bench_figures.figures import Baseline, Effort, Figure, in_turns
from bench_figures.two_process import BLOCK_SIZE, Downloads
from firmware_node.terms import ImageKey
from firmware_node.wire import mt
from firmware_node.wire.ota_file import OtaHeader, build_zigbee

BAUD = 115_200
PAGE_SIZE = 4000  # octets: 80 blocks
PACED_SIZE = 15_000  # octets of an image on a paced line: some seconds
FREE_SIZE = 60_000  # and on one that is not
PEER_SIZE = 20_000  # what zigpy gets: the same seconds
# Octets of MT frames: 5 around, 10 or 20 of fields (zigbee-znp.md 3.3), ZCL header 3, OTA fields.
_ASKED, _HEARD = 5 + 10 + 3, 5 + 20 + 3
_REQUEST, _ANSWER, _PAGE_REQUEST = 14, 14 + BLOCK_SIZE, 18
BY_BLOCKS = 2 * _ASKED + 2 * _HEARD + 2 * _REQUEST + 2 * _ANSWER  # octets a block
BY_PAGES = (
    _HEARD
    + _ANSWER
    + (
        # the way of a page's request, and of its first block into the hub's stick
        _ASKED + _HEARD + 2 * _PAGE_REQUEST + _ASKED + _ANSWER
    )
    / (PAGE_SIZE / BLOCK_SIZE)
)
_ROUND_TRIPS = 3000
_ECHO = """
import os, sys, tty
master, slave = os.openpty()
tty.setraw(slave)
os.symlink(os.ttyname(slave), sys.argv[1])
print("ready", flush=True)
while True:
    os.write(master, os.read(master, 100))
"""


def virtual_znp(effort: Effort) -> Iterator[Figure]:
    """``radio.virtual_znp.round_trips_per_second``: PINGs over a pty, one at a time."""
    with tempfile.TemporaryDirectory(prefix="fn-") as name:
        link = Path(name) / "tty"
        stick = [sys.executable, "-m", "firmware_node", "radio", "virtual", "--pty", str(link)]
        echo = [sys.executable, "-c", _ECHO, str(link)]
        ours, floor = in_turns(
            effort.turns,
            lambda: _seconds(stick, link, mt.frame(mt.Cmd.SYS_PING), 7),
            lambda: _seconds(echo, link, bytes(7), 7),
        )
    yield Figure(
        "radio.virtual_znp.round_trips_per_second",
        _ROUND_TRIPS / ours,
        "1/s",
        True,
        Baseline("a process that echoes on a pty", _ROUND_TRIPS / floor),
    )


def paced_blocks(effort: Effort) -> Iterator[Figure]:
    """``radio.uart_115200.block.efficiency``: block for block, both lines paced."""
    yield _paced(effort, "block", "", BY_BLOCKS)


def paced_pages(effort: Effort) -> Iterator[Figure]:
    """``radio.uart_115200.page.efficiency``: by pages of 80 blocks, both lines paced."""
    ota = f"page_size = {PAGE_SIZE}\npage_spacing_ms = 0"
    yield _paced(effort, "page", ota, BY_PAGES)


def _paced(effort: Effort, way: str, ota: str, octets: float) -> Figure:
    ceiling = BAUD / 10 / octets
    settings = f"block_size = {BLOCK_SIZE}\n{ota}"
    with home.folder() as root:
        place = home.Home(root, ota=settings, activation="hold", sticks=[f"--baud={BAUD}"])
        with place:
            place.start_both()
            downloads = Downloads(place, min(PACED_SIZE, effort.image_size))
            value = 1 / min(downloads.seconds_per_block() for _ in range(min(effort.turns, 2)))
    return Figure(
        f"radio.uart_115200.{way}.efficiency",
        value / ceiling,
        "ratio",
        True,
        Baseline(f"the line alone, {ceiling:.1f} blocks a second", 1.0),
    )


def two_sticks(effort: Effort) -> Iterator[Figure]:
    """``radio.two_sticks.*``: hub and device on virtual sticks, against zigpy at both ends.

    Processor time is that of hub and device, or of zigpy's two, without the sticks.
    """
    ours, theirs = [], []
    for _ in range(min(effort.turns, 3)):
        ours.append(_ours(min(FREE_SIZE, effort.image_size)))
        theirs.append(_theirs(min(PEER_SIZE, effort.image_size)))
    peer = "zigpy with zigpy-znp at both ends"
    yield Figure(
        "radio.two_sticks.blocks_per_second",
        max(rate for rate, _ in ours),
        "blocks/s",
        True,
        Baseline(peer, max(rate for rate, _ in theirs), "peer"),
    )
    yield Figure(
        "radio.two_sticks.cpu_per_block.seconds",
        min(cpu for _, cpu in ours),
        "s",
        False,
        Baseline(peer, min(cpu for _, cpu in theirs), "peer"),
    )


def _ours(size: int) -> tuple[float, float]:
    """Blocks a second, and processor seconds of hub and device a block."""
    settings = f"block_size = {BLOCK_SIZE}"
    with (
        home.folder() as root,
        home.Home(root, ota=settings, activation="hold", sticks=[]) as place,
    ):
        device = place.start_both()
        pids = (device.pid, place.hub_pid)
        downloads = Downloads(place, size)
        before = sum(map(_cpu_s, pids))
        rate = 1 / downloads.seconds_per_block()
        blocks = downloads.file_size / BLOCK_SIZE
        return rate, (sum(map(_cpu_s, pids)) - before) / blocks


def _theirs(size: int) -> tuple[float, float]:
    """The same of zigpy's two; the rate is that of the whole download, which has no checkpoints."""
    processes: list[subprocess.Popen[bytes]] = []
    with home.folder() as root:
        file = root / "image.ota"
        image = ImageKey(zigpy_sticks.MANUFACTURER, zigpy_sticks.IMAGE_TYPE, 2)
        file.write_bytes(build_zigbee(OtaHeader(image), [(0, bytes(size))]))
        try:
            for name in ("hub", "device"):
                home.start_stick(root, name, (), processes)
            hub = _zigpy(processes, "coordinator", f"{root}/hub.tty", str(file))
            assert hub.stdout is not None
            hub.stdout.readline()  # ready
            whole = str(file.stat().st_size)
            device = _zigpy(processes, "device", f"{root}/device.tty", whole)
            ends = [_told(each) for each in (device, hub)]
        finally:
            for process in processes:
                process.kill()
                process.wait()
                if process.stdout is not None:
                    process.stdout.close()
    blocks: int = ends[0]["blocks"]
    return blocks / ends[0]["seconds"], sum(end["cpu"] for end in ends) / blocks


def _zigpy(processes: list[subprocess.Popen[bytes]], *arguments: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-m", "bench_figures.zigpy_sticks", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    processes.append(process)
    return process


def _told(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    assert process.stdout is not None
    found: dict[str, Any] = json.loads(process.stdout.readline())
    return found


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def daemon_on_a_stick(effort: Effort) -> Iterator[Figure]:
    """``radio.start_to_ready.seconds`` and ``radio.rss.bytes``: with zigpy-znp loaded."""
    with home.folder() as root, home.Home(root, sticks=[]) as place:
        place.start_sticks()
        place.start("hub")
        seconds = []
        for _ in range(effort.turns):
            process, took = place.start("run")
            seconds.append(took)
            place.wait_joined()
            rss = rss_of(process.pid)
            place.end_last()
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", _LIBRARY], check=True)
    bare = time.perf_counter() - began
    floor = "an interpreter that imports zigpy-znp"
    yield Figure("radio.start_to_ready.seconds", min(seconds), "s", False, Baseline(floor, bare))
    waiting = f"{_LIBRARY}\nimport sys\nprint(flush=True)\nsys.stdin.read()"
    yield Figure("radio.rss.bytes", rss, "bytes", False, Baseline(floor, rss_running(waiting)))


_LIBRARY = "import zigpy_znp.api, zigpy_znp.commands"


def _seconds(command: Sequence[str], link: Path, request: bytes, size: int) -> float:
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            fd = os.open(link, os.O_RDWR | os.O_NOCTTY)
            try:
                os.write(fd, request)
                while select.select([fd], [], [], 0.2)[0]:
                    os.read(fd, 256)  # what a stick tells at its start, and the first answer

                began = time.perf_counter()
                for _ in range(_ROUND_TRIPS):
                    os.write(fd, request)
                    held = 0
                    while held < size:
                        held += len(os.read(fd, 256))
                return time.perf_counter() - began
            finally:
                os.close(fd)
        finally:
            process.terminate()
            link.unlink(missing_ok=True)
