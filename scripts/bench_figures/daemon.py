"""What a device daemon costs: the time until it is ready, and its memory when it has joined."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from bench_figures import home
from bench_figures.figures import Baseline, Effort, Figure, in_turns, timed

# The libraries that a device daemon cannot do without, used as little as it can.
_LIBRARIES = """
import asyncio, json, logging, sqlite3, tomllib
import h11
from cryptography import x509
from cryptography.hazmat.primitives import ciphers, hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
key = ec.derive_private_key(1, ec.SECP256R1())
key.sign(b"", ec.ECDSA(hashes.SHA256()))
"""
_AND_WAIT = _LIBRARIES + "import sys\nprint(flush=True)\nsys.stdin.read()\n"


def start(effort: Effort) -> Iterator[Figure]:
    """``daemon.start_to_ready.seconds``: to READY=1, on a state directory that exists."""
    with home.folder() as root, home.Home(root) as place:

        def seconds() -> float:
            _, took = place.start("run")
            place.stop()
            return took

        seconds()  # provisions
        bare = [sys.executable, "-c", _LIBRARIES]
        ours, floor = in_turns(
            effort.turns, seconds, timed(lambda: subprocess.run(bare, check=True))
        )
    yield Figure(
        "daemon.start_to_ready.seconds",
        ours,
        "s",
        False,
        Baseline("an interpreter that imports its libraries", floor),
    )


def memory(effort: Effort) -> Iterator[Figure]:
    """``daemon.rss.*``: joined and idle; and again after an update, restarted and confirmed."""
    with home.folder() as root, home.Home(root) as place:
        process = place.start_both()
        idle = rss_of(process.pid)
        place.offer(home.image(place.keyring, 2, effort.image_size), wait=True)
        updated = rss_of(process.pid)
    floor = Baseline("an interpreter with its libraries", rss_running(_AND_WAIT))
    yield Figure("daemon.rss.bytes", idle, "bytes", False, floor)
    yield Figure("daemon.rss_after_update.bytes", updated, "bytes", False, floor)


def rss_running(code: str) -> int:
    """Of an interpreter that runs this, writes a line and waits for the end of its input."""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = rss_of(process.pid)
        process.communicate()
    return found


def rss_of(pid: int) -> int:
    """Bytes that a process has in memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
