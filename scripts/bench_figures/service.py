"""What a service on a small machine costs: a command's start, ten idle instances, late watchdogs.

The daemon feeds its watchdog from the loop that does all its work, at a quarter of ``WatchdogSec``.
Here it feeds far more often, so that whatever holds the loop up shows as a gap between two feeds;
what the gap is longer than it should be is what would make a real feed late, and a real one may be
late by the other three quarters of ``WatchdogSec``.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from bench_figures import home
from bench_figures.figures import Baseline, Effort, Figure, in_turns, timed
from firmware_node.adapters.driver import FEEDS
from firmware_node.terms import EntityId
from firmware_node.tools.keys import build_keys

FEED_S = 0.01  # between two feeds here
ROOM_S = 22.5  # that systemd/firmware-node@.service leaves a feed: of WatchdogSec=30
BUSY_PER_CPU = 2
INSTANCES = 10
IDLE_S = 20.0
ONE_CORE = Baseline("one core", 1.0, "peer")


def command(effort: Effort) -> Iterator[Figure]:
    """``cli.help.seconds``: the least that every command takes."""
    ours = [sys.executable, "-m", "firmware_node", "--help"]
    bare = [sys.executable, "-c", "pass"]
    value, floor = in_turns(
        effort.turns,
        timed(lambda: subprocess.run(ours, check=True, stdout=subprocess.DEVNULL), 5),
        timed(lambda: subprocess.run(bare, check=True), 5),
    )
    base = Baseline("an interpreter that does nothing", floor)
    yield Figure("cli.help.seconds", value, "s", False, base)


def watchdog(effort: Effort) -> Iterator[Figure]:
    """``daemon.watchdog.*``: while an image comes in and is verified; the same among busy ones."""
    room = Baseline("what three quarters of WatchdogSec=30 leave", ROOM_S, "peer")
    crowd = BUSY_PER_CPU * (os.cpu_count() or 1) if effort.turns > 1 else 1
    for name, busy in (("update", 0), ("starved", crowd)):
        stall_s = _longest_stall_s(effort, busy)
        yield Figure(f"daemon.watchdog.{name}.seconds", stall_s, "s", False, room)


def idle(effort: Effort) -> Iterator[Figure]:
    """``daemon.idle_cpu.ten_instances.cores``: joined, with nothing to do."""
    count, pause_s = (INSTANCES, IDLE_S) if effort.turns > 1 else (2, IDLE_S / 20)
    with home.folder() as root, home.Home(root) as place:
        place.start("hub")
        pids = [place.start(name)[0].pid for name in _instances(root, count)]
        _wait_joined(place, count)
        before, began = _cpu_s(pids), time.monotonic()
        time.sleep(pause_s)
        cores = (_cpu_s(pids) - before) / (time.monotonic() - began)
    yield Figure("daemon.idle_cpu.ten_instances.cores", cores, "cores", False, ONE_CORE)


def _longest_stall_s(effort: Effort, busy: int) -> float:
    """The longest gap between feeds, less what is meant to be between them."""
    with home.folder() as root, home.Home(root, activation="hold") as place, _busy(busy):
        place.start("hub")
        place.start("run", environment={"WATCHDOG_USEC": f"{FEEDS * FEED_S * 1e6:.0f}"})
        place.wait_joined()
        with _Feeds(root / "ready") as feeds:
            place.offer(home.image(place.keyring, 2, effort.image_size), wait=False)
            while place.ask("device", "/v1/status")["banks"]["B"]["state"] != "verified":
                time.sleep(0.1)
    return feeds.longest_s - FEED_S


class _Feeds:
    """Listens in the service manager's place; ``longest_s`` between two feeds."""

    def __init__(self, path: Path) -> None:
        path.unlink()
        self._manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._manager.bind(os.fspath(path))
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._listen)
        self.longest_s = 0.0

    def __enter__(self) -> _Feeds:
        self._manager.settimeout(0.1)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._manager.close()

    def _listen(self) -> None:
        last = None
        while not self._over.is_set():
            try:
                text = self._manager.recv(1000)
            except TimeoutError:
                continue
            if b"WATCHDOG=1" in text:
                now = time.monotonic()
                if last is not None:
                    self.longest_s = max(self.longest_s, now - last)
                last = now


@contextlib.contextmanager
def _busy(count: int) -> Iterator[None]:
    """So many processes that want a core each, at our own priority."""
    spin = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(spin) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _instances(root: Path, count: int) -> Iterator[str]:
    """Configurations beside the first one: other entity ids, folders and sockets."""
    first = (root / "run.toml").read_text()
    own = [EntityId.parse(f"00DB1234567891{number:02X}") for number in range(count)]
    for file, data in build_keys(b"bench", devices=own).items():
        (root / "keys" / file).write_bytes(data)
    for number, entity_id in enumerate(own):
        text = first.replace(str(home.PPMID), str(entity_id))
        text = text.replace("/state", f"/state{number}").replace("/device.", f"/device{number}.")
        (root / f"run{number}.toml").write_text(text)
        yield f"run{number}"


def _wait_joined(place: home.Home, count: int) -> None:
    limit = time.monotonic() + home.START_LIMIT_S
    while len(place.ask("hub", "/v1/status")["devices"]) < count:
        if time.monotonic() > limit:
            raise RuntimeError("the devices do not join")
        time.sleep(0.1)


def _cpu_s(pids: list[int]) -> float:
    """What the processes have had of a core (proc(5), schedstat)."""
    return sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for pid in pids) / 1e9
