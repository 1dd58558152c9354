"""Bank files and the ratchet on real files: what is read back, torn, rotten, full or failing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from malformed import flipped

from firmware_node.adapters.bank_files import RATCHET_SIZE, BankFile, RatchetFile
from firmware_node.boundary import PAGE_SIZE, RatchetValues
from firmware_node.errors import RecordLostError, StorageError, StorageFullError

AREA = 4 * PAGE_SIZE
RECORD_SIZE = 40  # octets of a ratchet area that say something


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file"


@pytest.fixture
def fd(path: Path) -> Iterator[int]:
    path.write_bytes(bytes(AREA + 2 * PAGE_SIZE))
    fd = os.open(path, os.O_RDWR)
    yield fd
    os.close(fd)


# --- banks --------------------------------------------------------------------------------------


def test_what_is_written_is_read_and_nothing_else_changes(fd: int, path: Path) -> None:
    bank = BankFile(fd, AREA, "bank A")
    assert bank.size == AREA
    bank.write(PAGE_SIZE, b"a" * PAGE_SIZE)
    bank.write(3 * PAGE_SIZE, b"last page, short")
    bank.write_trailer(0, b"first")
    bank.write_trailer(1, b"second")
    bank.sync()
    assert bank.read(PAGE_SIZE - 1, PAGE_SIZE + 2) == b"\0" + b"a" * PAGE_SIZE + b"\0"
    assert bank.read_trailer(0) == b"first".ljust(PAGE_SIZE, b"\0")
    assert path.read_bytes() == (
        bytes(PAGE_SIZE)
        + b"a" * PAGE_SIZE
        + bytes(PAGE_SIZE)
        + b"last page, short".ljust(PAGE_SIZE, b"\0")
        + b"first".ljust(PAGE_SIZE, b"\0")
        + b"second".ljust(PAGE_SIZE, b"\0")
    )


@pytest.mark.parametrize(
    ("offset", "size"), [(1, 10), (AREA, 1), (AREA - PAGE_SIZE, PAGE_SIZE + 1)]
)
def test_beside_a_page_or_beyond_the_area_nothing_is_written(
    fd: int, path: Path, offset: int, size: int
) -> None:
    bank = BankFile(fd, AREA, "bank A")
    with pytest.raises(AssertionError):
        bank.write(offset, bytes([1]) * size)
    with pytest.raises(AssertionError):
        bank.read(AREA - 1, 2)
    with pytest.raises(AssertionError):
        bank.write_trailer(2, b"x")
    with pytest.raises(AssertionError):
        bank.write_trailer(0, b"x" * (PAGE_SIZE + 1))
    assert not any(path.read_bytes())


def test_the_whole_area_can_be_written_at_once(fd: int) -> None:
    bank = BankFile(fd, AREA, "bank A")
    bank.write(0, b"w" * AREA)
    assert bank.read(0, AREA) == b"w" * AREA
    assert not any(bank.read_trailer(0) + bank.read_trailer(1))


def test_a_full_disk_is_told_from_a_medium_that_failed(path: Path, fd: int) -> None:
    full = os.open("/dev/full", os.O_RDWR)
    try:
        bank = BankFile(full, AREA, "bank A")
        with pytest.raises(StorageFullError, match="bank A"):
            bank.write(0, b"x")
        with pytest.raises(StorageFullError, match="bank A"):
            bank.write_trailer(1, b"x")
        with pytest.raises(StorageError) as failed:
            bank.sync()  # a device that cannot be synced
        assert not isinstance(failed.value, StorageFullError)
    finally:
        os.close(full)
    read_only = os.open(path, os.O_RDONLY)
    try:
        with pytest.raises(StorageError) as refused:
            BankFile(read_only, AREA, "bank B").write(0, b"x")
        assert not isinstance(refused.value, StorageFullError)
        assert "bank B" in str(refused.value)
    finally:
        os.close(read_only)
    assert not any(path.read_bytes())


_SHORT_WRITES = """
import os, resource, signal, sys
from firmware_node.adapters.bank_files import BankFile
from firmware_node.errors import StorageError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
fd = os.open(sys.argv[1], os.O_RDWR)
resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))
try:
    BankFile(fd, 8192, "bank A").write(0, b"x" * 8192)
except StorageError as error:
    print(error)
"""


def test_a_write_that_was_short_goes_on_and_ends_in_an_error(tmp_path: Path) -> None:
    file = tmp_path / "limited"
    file.touch()
    command = [sys.executable, "-c", _SHORT_WRITES, str(file)]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    assert told.stdout == "bank A: File too large\n"
    assert file.read_bytes() == b"x" * 6000


# --- ratchet ------------------------------------------------------------------------------------


class Ratchet:
    """A ratchet file that is opened anew as often as the test wants."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_bytes(bytes(RATCHET_SIZE))
        self.fd = os.open(path, os.O_RDWR)
        self.open(is_new=True)

    def open(self, *, is_new: bool = False) -> Ratchet:
        self.file = RatchetFile(self.fd)
        self.file.load(is_new=is_new)
        return self

    def octets(self) -> bytes:
        return self.path.read_bytes()

    def area(self, number: int) -> bytes:
        return self.octets()[number * PAGE_SIZE : (number + 1) * PAGE_SIZE]

    def spoil(self, area: int, octets: bytes = b"\xff" * 40) -> Ratchet:
        os.pwrite(self.fd, octets, area * PAGE_SIZE)
        return self

    def values(self) -> tuple[int, int, int] | None:
        """Ceiling, floor and commit; None: not known."""
        try:
            return (*self.file.read(), self.file.commit)
        except RecordLostError:
            return None

    def newest(self) -> int:
        """The area that was written last."""
        return max((0, 1), key=lambda area: int.from_bytes(self.area(area)[4:12], "little"))


@pytest.fixture
def ratchet(path: Path) -> Iterator[Ratchet]:
    ratchet = Ratchet(path)
    yield ratchet
    os.close(ratchet.fd)


def test_a_new_ratchet_holds_zeros_and_one_that_is_not_new_holds_nothing(ratchet: Ratchet) -> None:
    assert ratchet.values() == (0, 0, 0)
    assert ratchet.open().values() is None
    assert not any(ratchet.octets())


def test_values_only_rise_and_are_there_again(ratchet: Ratchet) -> None:
    ratchet.file.raise_now(RatchetValues(1_001, 2))
    assert ratchet.open().values() == (1_001, 2, 0)
    ratchet.file.raise_now(RatchetValues(rollback_floor=5))
    assert ratchet.open().values() == (1_001, 5, 0)
    ratchet.file.raise_now(RatchetValues(500, 1))
    ratchet.file.raise_now(RatchetValues(2_001, 1))
    assert ratchet.open().values() == (2_001, 5, 0)


def test_the_largest_values_come_back(ratchet: Ratchet) -> None:
    ratchet.file.raise_now(RatchetValues(2**63 - 1, 2**32 - 1))
    ratchet.file.committed(2**40)
    assert ratchet.open().values() == (2**63 - 1, 2**32 - 1, 2**40)


def test_each_raise_spares_the_area_that_holds_the_values_in_force(ratchet: Ratchet) -> None:
    for number in range(1, 6):
        areas = ratchet.area(0), ratchet.area(1)
        before = ratchet.newest() if number > 1 else 1
        ratchet.file.raise_now(RatchetValues(number, number))
        assert ratchet.area(before) == areas[before]
        assert ratchet.newest() == 1 - before


def test_what_holds_already_is_not_written_again(ratchet: Ratchet) -> None:
    ratchet.file.raise_now(RatchetValues(7, 7))
    ratchet.file.raise_now(RatchetValues(8, 7))
    octets = ratchet.octets()
    ratchet.file.raise_now(RatchetValues(8, 7))
    ratchet.file.raise_now(RatchetValues())
    assert ratchet.octets() == octets


def test_an_area_torn_at_any_octet_leaves_the_values_before_or_the_new_ones(
    ratchet: Ratchet,
) -> None:
    ratchet.file.raise_now(RatchetValues(1_001, 2))
    ratchet.file.raise_now(RatchetValues(2_001, 2))
    older = ratchet.octets()
    ratchet.file.raise_now(RatchetValues(3_001, 3))
    newer, newest = ratchet.octets(), ratchet.newest()
    for size in range(RECORD_SIZE + 1):
        at = newest * PAGE_SIZE
        torn = newer[at : at + size] + older[at + size : at + PAGE_SIZE]
        values = ratchet.spoil(newest, torn).open().values()
        assert values == ((2_001, 2, 0) if torn != newer[at : at + PAGE_SIZE] else (3_001, 3, 0))
        ratchet.spoil(newest, newer[at : at + PAGE_SIZE])
    assert ratchet.open().values() == (3_001, 3, 0)


def test_a_flipped_bit_anywhere_never_gives_another_value(ratchet: Ratchet) -> None:
    ratchet.file.raise_now(RatchetValues(1_001, 2))
    ratchet.file.raise_now(RatchetValues(2_001, 3))
    newest = ratchet.newest()
    whole = ratchet.area(newest)
    for spoilt in flipped(whole[:RECORD_SIZE]):
        assert ratchet.spoil(newest, spoilt).open().values() == (1_001, 2, 0)
    ratchet.spoil(newest, whole)
    assert ratchet.open().values() == (2_001, 3, 0)


def test_an_area_that_rotted_is_written_again_by_whatever_is_raised_next(ratchet: Ratchet) -> None:
    ratchet.file.raise_now(RatchetValues(1_001, 2))
    ratchet.file.raise_now(RatchetValues(2_001, 3))
    for area in (0, 1):
        ratchet.spoil(area).open()
        held = ratchet.values()
        assert held is not None
        ratchet.file.raise_now(RatchetValues(*held[:2]))
        assert ratchet.spoil(1 - area).open().values() == held
        ratchet.file.raise_now(RatchetValues(*held[:2]))


def test_with_both_areas_rotten_a_value_is_unknown_until_somebody_raises_it(
    ratchet: Ratchet,
) -> None:
    ratchet.file.raise_now(RatchetValues(1_001, 2))
    ratchet.file.raise_now(RatchetValues(2_001, 3))
    ratchet.spoil(0).spoil(1).open()
    assert ratchet.values() is None
    assert ratchet.file.commit == 0
    ratchet.file.raise_now(RatchetValues(rollback_floor=3))
    assert ratchet.values() is None
    assert ratchet.open().values() is None  # the ceiling is not taken for zero
    ratchet.file.raise_now(RatchetValues(counter_ceiling=3_001))
    assert ratchet.open().values() == (3_001, 3, 0)


def test_the_first_write_of_all_may_be_torn_and_only_that_one(ratchet: Ratchet) -> None:
    ratchet.spoil(0, b"RTC2 torn").open(is_new=True)
    assert ratchet.values() == (0, 0, 0)
    ratchet.spoil(1, b"x").open(is_new=True)
    assert ratchet.values() is None


def test_what_waits_for_the_commit_is_written_with_it_and_not_before(ratchet: Ratchet) -> None:
    ratchet.file.raise_now(RatchetValues(1_001, 1))
    octets = ratchet.octets()
    ratchet.file.raise_after_commit(RatchetValues(rollback_floor=2))
    ratchet.file.raise_after_commit(RatchetValues(2_001, 0))
    assert ratchet.octets() == octets
    ratchet.file.committed(7)
    assert ratchet.open().values() == (2_001, 2, 7)
    ratchet.file.raise_after_commit(RatchetValues(rollback_floor=4))
    ratchet.file.flush()
    ratchet.file.flush()
    assert ratchet.open().values() == (2_001, 4, 7)


def test_a_note_of_the_commit_may_be_lost_and_the_values_stay(ratchet: Ratchet) -> None:
    ratchet.file.raise_now(RatchetValues(1_001, 2))
    ratchet.file.committed(5)
    noted = ratchet.newest()
    assert ratchet.open().values() == (1_001, 2, 5)
    assert ratchet.spoil(noted).open().values() == (1_001, 2, 0)


def test_notes_of_commits_never_touch_the_area_that_was_synced(ratchet: Ratchet) -> None:
    ratchet.file.raise_now(RatchetValues(1_001, 2))
    synced = ratchet.newest()
    octets = ratchet.area(synced)
    for commit in range(1, 10):
        ratchet.file.committed(commit)
        assert ratchet.area(synced) == octets
    assert ratchet.open().values() == (1_001, 2, 9)


def test_a_medium_that_fails_is_told(path: Path) -> None:
    path.write_bytes(bytes(RATCHET_SIZE))
    fd = os.open(path, os.O_RDONLY)
    try:
        ratchet = RatchetFile(fd)
        ratchet.load(is_new=True)
        with pytest.raises(StorageError, match="ratchet"):
            ratchet.raise_now(RatchetValues(1, 1))
    finally:
        os.close(fd)
    assert not any(path.read_bytes())
