"""A bank that does not keep what is written to it: strace takes the writes, and nothing arrives."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import (
    CHANGING,
    FILES,
    Household,
    household,
    looks,
    needs_strace,
    read_trace,
    strace,
)

from firmware_node.adapters.control_client import call

pytestmark = needs_strace
WRITES = 20  # of one download: 17 pages, what is left, a trailer at 64 KiB and one at the end


@pytest.fixture
def home() -> Iterator[Household]:
    with household() as found:
        yield found


def losing(home: Household, log: Path, when: str) -> list[str]:
    """A device whose writes of these numbers, one page each, never reach bank B."""
    bank = str(home.state / "bank_b.img")
    inject = f"inject=pwrite64:retval=4096:when={when}"
    return strace(log, "-P", bank, "-e", inject, calls=CHANGING)


def test_a_write_lost_once_costs_a_second_download(home: Household, tmp_path: Path) -> None:
    home.offer(FILES["good"])
    code, errors = home.carry_through(*losing(home, tmp_path / "trace", "2"))
    assert code == 0, errors
    assert "cause=readback_differs" in errors
    writes = [c for c in read_trace(tmp_path / "trace", home.state) if c.name == "pwrite64"]
    assert [write.injected for write in writes] == [False, True, *[False] * (2 * WRITES - 2)]
    home.check_end("good")


def test_a_page_lost_in_three_downloads_ends_them_with_a_clear_cause(
    home: Household, tmp_path: Path
) -> None:
    home.offer(FILES["good"])
    device = home.run(*losing(home, tmp_path / "trace", f"2+{WRITES}"))
    failure = None
    for _ in looks(device):
        status = home.status()
        failure = status and status["last_failure"]
        if failure and failure["cause"] == "bank_worn":
            break
    assert failure is not None and failure["phase"] == "verification"

    home.offer(FILES["good"])  # whoever asks again is told so, and the bank is let alone
    refused = None
    for event in call(home.root / "device", "GET", "/v1/events?follow=1"):
        if event["name"] == "offer_refused":
            refused = event
            break
    assert refused is not None and refused["cause"] == "bank_worn"
    status = home.status()
    assert status is not None
    assert (status["running_bank"], status["banks"]["A"]["version"]) == ("A", "00000001")
    assert (status["banks"]["B"]["state"], status["last_failure"]["cause"]) == (
        "empty",
        "bank_worn",
    )
    os.kill(status["pid"], signal.SIGTERM)
    assert device.wait() == 0
    writes = [c for c in read_trace(tmp_path / "trace", home.state) if c.name == "pwrite64"]
    assert len(writes) == 3 * WRITES
    assert sum(write.injected for write in writes) == 3
    assert home.alerts() == []
