"""The supply goes on a real ext4, at the level of its blocks.

While a device goes through an update on an ext4 file system, the blocks of that disk are copied
again and again as they are, with whatever the file system has not yet written missing. Each copy is
mounted, which replays its journal, and the device must go on from what is there then.
"""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest
from processes import FILES, household, looks
from small_disks import IMAGE, MIB, small_disk
from survivors import quick_folder
from test_file_cuts import Disk, State, check

SIZE = 8 * MIB
ROUNDS, LONG_ROUNDS = 1, 8
EVERY = 3  # without --long, of the copies


def blocks_of(image: Path) -> bytes:
    """All of them at one moment: nothing was written between two equal readings."""
    before = image.read_bytes()
    while (after := image.read_bytes()) != before:
        before = after
    return after


def cuts_of(kind: str, folder: Path) -> list[tuple[bytes, frozenset[str]]]:
    """The disk at some moments of one update, and what was told before each."""
    cuts: list[tuple[bytes, frozenset[str]]] = []
    with small_disk("ext4", SIZE, folder) as disk, household() as home:
        home.configure(disk.inside / "state")
        home.offer(FILES[kind])
        device, stopped = home.run(*disk.prefix), False
        for _ in looks(device):
            status = home.status()
            told = {"provisioned"} if status and status["network"]["joined"] else set()
            told |= {"told"} if home.alerts() else set()
            device.send_signal(signal.SIGSTOP)
            cuts.append((blocks_of(folder / IMAGE), frozenset(told)))
            device.send_signal(signal.SIGCONT)
            is_over = status and status["state"] in ("confirmed", "reverted")
            if status and is_over and not status["outbox"] and not stopped:
                os.kill(status["pid"], signal.SIGTERM)
                stopped = True
        assert device.returncode == 0
    # A slow machine looks seldom; before, between and after the start and the end it does.
    assert len({blocks for blocks, _ in cuts}) > 2
    assert {"told"} <= cuts[-1][1]
    return cuts


@pytest.mark.parametrize("kind", ["good", pytest.param("reverting", marks=pytest.mark.long)])
def test_every_moment_of_a_real_file_system_can_be_started_from(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    every = 1 if request.config.getoption("--long") else EVERY
    for number in range(LONG_ROUNDS if every == 1 else ROUNDS):
        folder = tmp_path / str(number)
        folder.mkdir()
        cuts = cuts_of(kind, folder)
        with quick_folder(tmp_path) as quick:
            for blocks, told in cuts[::every]:
                with small_disk("ext4", SIZE, folder, blocks) as disk:
                    state = disk.outside / "state"
                    held = Disk.read_from(state) if state.exists() else Disk()
                check(State("ext4", held, told), quick / "cut", kind)
        shutil.rmtree(folder)
