"""A disk that is really full: a download waits, an activation is refused, a revert succeeds."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from home import image
from processes import FILES, LIMIT_S, SIZE, Household, household, looks
from small_disks import MIB, SmallDisk, small_disk

from firmware_node.adapters.control_client import call
from firmware_node.errors import EnvironmentFailure

KINDS = ("tmpfs", pytest.param("ext4", marks=pytest.mark.long))
WAIT_S = 2  # the hub keeps the device waiting this long in a download: time to fill the disk
SLOW_TO_FAIL = image(
    2,
    size=SIZE,
    change=lambda manifest: replace(manifest, self_test=False, startup_ms=1500),
)


class Flat:
    """A device whose state directory is on a small disk, provisioned and joined."""

    def __init__(self, home: Household, disk: SmallDisk) -> None:
        self.home, self.disk = home, disk
        home.configure(disk.inside / "state")
        self.state = disk.outside / "state"
        self.device = home.run(*disk.prefix)
        self.until(lambda status: status["network"]["joined"])

    def until(self, is_so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Its status as soon as it is like that."""
        for _ in looks(self.device):
            status = self.home.status()
            if status is not None and is_so(status):
                return status
        raise AssertionError(self.device.returncode)

    def wait_for(self, name: str) -> dict[str, Any]:
        """The next notification of this name, over restarts."""
        for _ in looks(self.device):
            with contextlib.suppress(EnvironmentFailure):
                for event in call(
                    self.home.root / "device", "GET", "/v1/events?follow=1", timeout_s=LIMIT_S
                ):
                    if event["name"] == name:
                        return event
        raise AssertionError(self.device.returncode)

    def kill(self) -> None:
        self.device.kill()
        self.device.wait()

    def end(self, kind: str) -> None:
        """Stop it and look at what it keeps."""
        status = self.until(lambda status: not status["outbox"] and status["state"] != "trial")
        os.kill(status["pid"], signal.SIGTERM)
        assert self.device.wait() == 0
        copy = self.home.root / "copy"
        shutil.copytree(self.state, copy)
        self.home.state = copy
        if kind:
            self.home.check_end(kind)


@contextlib.contextmanager
def flat(kind: str, tmp_path: Path, wait_at: int) -> Iterator[Flat]:
    """``wait_at``: the octet of a download at which the hub has the device wait."""
    with (
        small_disk(kind, 12 * MIB, tmp_path) as disk,
        household(f'wait_s = {WAIT_S}\nscript = ["wait:1:{wait_at}"]\n') as home,
    ):
        yield Flat(home, disk)


@pytest.mark.parametrize("kind", KINDS)
def test_a_download_waits_for_space_and_goes_on(kind: str, tmp_path: Path) -> None:
    with flat(kind, tmp_path, 20_000) as it:
        it.kill()
        # A copy that left out the zeros; the log had been longer, the ballast was needed before.
        os.truncate(it.state / "bank_b.img", 0)
        os.truncate(it.state / "bank_b.img", 81_920)
        with (it.state / "node.db-wal").open("r+b") as log:
            os.posix_fallocate(log.fileno(), 0, 256 * 1024)
        (it.state / "ballast").unlink()
        it.disk.fill(leave=512 * 1024)
        it.device = it.home.run(*it.disk.prefix)
        it.home.offer(FILES["good"])
        it.wait_for("download_waiting")
        it.disk.fill()
        paused = it.wait_for("download_paused")
        assert paused["cause"] == "storage_full"
        status = it.until(lambda status: status["state"] == "downloading")
        assert 20_000 <= status["upgrade"]["file_offset"] < 70_060
        assert it.home.alerts() == []
        it.disk.free()
        it.until(lambda status: status["state"] == "confirmed")
        it.end("good")


@pytest.mark.parametrize("kind", KINDS)
def test_an_activation_without_room_is_refused_and_the_next_offer_succeeds(
    kind: str, tmp_path: Path
) -> None:
    with flat(kind, tmp_path, 60_000) as it:
        it.home.offer(FILES["good"])
        it.wait_for("download_waiting")
        it.disk.fill(leave=200 * 1024)
        status = it.until(lambda status: status["last_failure"] is not None)
        failure = status["last_failure"]
        assert (failure["phase"], failure["cause"]) == ("activation", "storage_full")
        assert (status["running_bank"], status["banks"]["B"]["state"]) == ("A", "verified")
        assert [alert["fields"]["result"] for alert in it.home.alerts()] == [1]
        it.disk.free()
        it.home.fresh(keep_state=True)
        it.home.offer(FILES["good"])
        it.until(lambda status: status["state"] == "confirmed")
        it.end("good")


@pytest.mark.parametrize("kind", KINDS)
def test_a_revert_on_a_full_disk_has_the_ballast_to_commit_and_to_tell(
    kind: str, tmp_path: Path
) -> None:
    with flat(kind, tmp_path, 1_000_000) as it:
        assert (it.state / "ballast").exists()
        it.home.offer(SLOW_TO_FAIL)
        it.until(lambda status: status["state"] == "trial")
        it.disk.fill()
        it.until(lambda status: status["state"] == "reverted")
        assert not (it.state / "ballast").exists()
        it.end("reverting")
