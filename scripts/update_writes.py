"""What a whole update writes: the syncs and octets of the device daemon, as strace sees them.

Run as a program it prints both for a 1 MiB image.
"""

from __future__ import annotations

import re
import shutil
import time
from pathlib import Path

from bench_figures import home
from bench_figures.figures import MIB, NotMeasurableError
from firmware_node.boundary import PAGE_SIZE

LOG_LIMIT_S = 30
_CALLS = "fsync,fdatasync,sync_file_range,syncfs,msync,write,writev,pwrite64,pwritev,pwritev2"
_SYNC = re.compile(r"sync\w*\(\d+<([^>]*)>.* = 0$")
_WRITE = re.compile(r"write\w*\(\d+<([^>]*)>(?:.*, (\d+))?\) = (\d+)$")


def measure(directory: Path) -> tuple[int, int]:
    """Update a PPMID to a 1 MiB image, with activation, restart, confirmation and its message.

    Hub and device are the real daemons; ``directory`` is an empty folder with a short name. What
    provisioning writes is not counted.

    Returns:
        syncs, and octets of the pages that were written in files of the state directory, the
        write-ahead log's included: what the medium takes when nothing is written twice in between.

    Raises:
        NotMeasurableError: strace is not installed.
    """
    strace = shutil.which("strace")
    if strace is None:
        raise NotMeasurableError("strace is not installed: apt-get install strace")
    log = directory / "calls"
    # -D: the tracer is a child of the daemon, so that signals reach the daemon.
    under = (strace, "-D", "-f", "-y", "-s", "0", "--seccomp-bpf")
    options = ("-e", f"trace={_CALLS}", "-e", "signal=none", "-o", str(log))
    with home.Home(directory) as place:
        place.start("hub")
        place.start("run")
        place.wait_joined()
        place.end_last()
        place.start("run", [*under, *options])
        place.wait_joined()
        place.offer(home.image(place.keyring, 2, MIB), wait=True)
    return _count(_finished(log), f"{directory}/state/")


def _finished(log: Path) -> list[str]:
    """The tracer ends a little after what it traced."""
    limit = time.monotonic() + LOG_LIMIT_S
    while True:
        lines = log.read_text().splitlines()
        if lines and "+++ exited" in lines[-1]:
            return lines
        assert time.monotonic() < limit, "strace does not end"
        time.sleep(0.01)


def _count(lines: list[str], where: str) -> tuple[int, int]:
    syncs = octets = 0
    for line in lines:
        if (sync := _SYNC.search(line)) and sync[1].startswith(where):
            syncs += 1
        elif (write := _WRITE.search(line)) and write[1].startswith(where):
            offset, size = int(write[2] or 0), int(write[3])
            pages = -(-(offset % PAGE_SIZE + size) // PAGE_SIZE)
            octets += pages * PAGE_SIZE
    return syncs, octets


if __name__ == "__main__":
    with home.folder() as root:
        print("{} syncs, {} octets".format(*measure(root)))
