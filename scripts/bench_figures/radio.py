"""What a virtual ZNP stick does in a second, beside a process that only echoes."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench_figures.figures import Baseline, Effort, Figure, in_turns
from firmware_node.wire import mt

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
