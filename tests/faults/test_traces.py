"""What one update does to the state directory, seen from outside: with which calls, how many."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from processes import FILES, FILES_OF_OURS, Household, household, needs_strace, strace

import update_writes

pytestmark = needs_strace
CALLS = ("openat", "mmap", "pread64", "pwrite64", "fadvise64", "flock")
READ_AT_START = ("node.db", "node.db-wal", "bank_a.img", "bank_b.img", "ratchet.bin")


@pytest.fixture(scope="module")
def home() -> Iterator[Household]:
    with household() as found:
        yield found


@pytest.fixture(scope="module")
def lines(home: Household) -> list[str]:
    """Calls of a whole update, from an empty directory, over two restarts."""
    home.offer(FILES["reverting"])
    log = home.root / "trace"
    code, errors = home.carry_through(*strace(log, calls=CALLS))
    assert code == 0, errors
    return log.read_text().splitlines()


def test_a_whole_update_of_1_mib_stays_within_its_write_budget_on_real_files() -> None:
    update = update_writes.measure()
    assert update.fsyncs <= 40, update.calls
    assert update.bytes_written <= 1.5 * 1024 * 1024, update.calls
    # It counted what there is to count: every page of the image, and each file that records use.
    assert update.bytes_written > 1024 * 1024
    assert {file for _, file in update.calls} >= {"bank_b.img", "node.db-wal", "ratchet.bin"}


def test_nothing_of_the_state_directory_is_mapped_for_writing(
    home: Household, lines: list[str]
) -> None:
    maps = [line for line in lines if "mmap(" in line]
    assert maps
    assert not [line for line in maps if str(home.state) in line and "MAP_SHARED" in line]


def test_no_other_file_is_made_than_those_that_are_documented(
    home: Household, lines: list[str]
) -> None:
    inside = re.compile(re.escape(str(home.state)) + r'(?:>, |/)"?([\w.-]+)".*O_CREAT.*\) = \d')
    made = {found[1] for line in lines if (found := inside.search(line))}
    assert "bank_a.img" in made and "node.db-wal" in made
    assert made <= set(FILES_OF_OURS)
    assert {path.name for path in home.state.iterdir()} <= set(FILES_OF_OURS[:-2])


def test_a_start_reads_from_the_medium_and_not_what_a_failed_sync_left_in_memory(
    home: Household, lines: list[str]
) -> None:
    starts = [at for at, line in enumerate(lines) if "flock(" in line and "= 0" in line]
    assert len(starts) == 3
    reads = 0
    for begin, end in zip(starts[1:], [*starts[2:], len(lines)], strict=True):
        life = lines[begin:end]
        for name in READ_AT_START:
            path = re.escape(f"<{home.state}/{name}>")
            forgotten = _first(life, rf"fadvise64\(\d+{path}.*POSIX_FADV_DONTNEED")
            read = _first(life, rf"pread64\(\d+{path}")
            assert forgotten is not None, name
            assert read is None or forgotten < read, name
            reads += read is not None
    assert reads >= 2 * len(READ_AT_START) - 1  # a rejected image is not looked at again


def test_an_image_is_read_back_from_the_medium_before_it_is_called_verified(
    home: Household, lines: list[str]
) -> None:
    path = re.escape(f"<{home.state}/bank_b.img>")
    end = _first(lines, rf"pread64\(\d+{path}.*, 70060, 0\)")
    assert end is not None
    before = [line for line in lines[:end] if "bank_b.img" in line]
    assert "POSIX_FADV_DONTNEED" in before[-1]


def _first(lines: list[str], pattern: str) -> int | None:
    return next((at for at, line in enumerate(lines) if re.search(pattern, line)), None)
