"""The state directory: who may open it, what a commit leaves, and what damage costs."""

from __future__ import annotations

import os
import re
import resource
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from firmware_node.adapters.storage import BALLAST_SIZE, ROOM, FileStorage, checksum
from firmware_node.boundary import PAGE_SIZE, RatchetValues
from firmware_node.errors import (
    EnvironmentFailure,
    RecordLostError,
    StorageError,
    StorageFullError,
)
from firmware_node.terms import BankId

BANK_SIZE = 64 * 1024
FILE_SIZE = BANK_SIZE + ROOM + 2 * PAGE_SIZE
FILES = ("LOCK", "ballast", "bank_a.img", "bank_b.img", "node.db", "ratchet.bin")
STRACE = shutil.which("strace")
needs_strace = pytest.mark.skipif(
    STRACE is None and not os.environ.get("CI"),
    reason="strace is not installed: apt-get install strace",
)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away or mount")


class Directory:
    """A state directory that is opened and closed as often as the test wants."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.open_now: FileStorage | None = None

    def open(self, bank_size: int = BANK_SIZE) -> FileStorage:
        self.close()
        self.open_now = FileStorage(self.path, bank_size)
        return self.open_now

    def close(self) -> Directory:
        if self.open_now is not None:
            self.open_now.close()
            self.open_now = None
        return self

    def made(self, **rows: str) -> Directory:
        """Opened, these rows committed, closed."""
        return self.commit(**rows).close()

    def commit(self, **rows: str) -> Directory:
        """Rows committed in the life under way, or in a new one."""
        storage = self.open_now or self.open()
        for key, value in rows.items():
            storage.records.put(key, value.encode())
        storage.commit()
        return self

    def rows(self) -> dict[str, str | None]:
        """The records of a new life; None: lost."""
        records = self.open().records
        found: dict[str, str | None] = {}
        for key in records.keys(""):
            try:
                value = records.get(key)
            except RecordLostError:
                found[key] = None
            else:
                assert value is not None
                found[key] = value.decode()
        return found

    def sql(self, statement: str, *values: object) -> Directory:
        """What somebody else does to the database."""
        connection = sqlite3.connect(self.path / "node.db")
        try:
            with connection:
                connection.execute(statement, values)
        finally:
            connection.close()
        return self

    def octets(self) -> dict[str, bytes]:
        """Every file as it is."""
        return {path.name: path.read_bytes() for path in self.path.iterdir() if path.is_file()}

    def copy_to(self, target: Path) -> Directory:
        """As a power cut leaves it: the directory while it is open."""
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(self.path, target)
        for file in target.iterdir():
            file.chmod(0o600)
        return Directory(target)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Directory]:
    directory = Directory(tmp_path / "deep" / "state")
    yield directory
    directory.close()


# --- what is made -------------------------------------------------------------------------------


def test_a_new_directory_has_every_file_at_its_full_size_for_nobody_else(state: Directory) -> None:
    storage = state.open()
    assert stat.S_IMODE(state.path.stat().st_mode) == 0o700
    found = {path.name: path.stat() for path in state.path.iterdir()}
    assert set(FILES) <= found.keys()
    assert not any(name.endswith(("-shm", "-journal", ".new", ".part")) for name in found)
    assert {stat.S_IMODE(info.st_mode) for info in found.values()} == {0o600}
    sizes = {name: info.st_size for name, info in found.items()}
    assert (sizes["bank_a.img"], sizes["bank_b.img"]) == (FILE_SIZE, FILE_SIZE)
    assert (sizes["ratchet.bin"], sizes["ballast"]) == (2 * PAGE_SIZE, BALLAST_SIZE)
    assert found["bank_a.img"].st_blocks * 512 >= FILE_SIZE  # no hole that a full disk cannot fill
    assert storage.bank(BankId.A).size == BANK_SIZE + ROOM
    assert storage.records.keys("") == []
    assert storage.ratchet.read() == RatchetValues(0, 0)


def test_a_bank_size_is_rounded_up_to_whole_pages(state: Directory) -> None:
    assert state.open(BANK_SIZE - PAGE_SIZE + 1).bank(BankId.B).size == BANK_SIZE + ROOM


def test_what_a_bank_is_given_is_there_in_the_next_life(state: Directory) -> None:
    bank = state.open().bank(BankId.B)
    bank.write(PAGE_SIZE, b"b" * 100)
    bank.sync()
    assert state.open().bank(BankId.B).read(PAGE_SIZE, 100) == b"b" * 100
    assert not any(state.open().bank(BankId.A).read(0, BANK_SIZE))


def test_free_space_is_that_of_the_disk(state: Directory) -> None:
    disk = os.statvfs(state.path.parent.parent)
    free = state.open().free_bytes()
    assert abs(free - disk.f_bavail * disk.f_frsize) < 256 * 1024 * 1024
    assert free > 0


# --- settings of the database -------------------------------------------------------------------


def test_the_settings_of_dual_bank_md_are_in_force(state: Directory) -> None:
    connection = state.open()._connection
    assert connection is not None
    assert connection.isolation_level is None
    found = {
        name: (connection.execute(f"PRAGMA {name}").fetchone() or (0,))[0]
        for name in (
            "journal_mode",
            "synchronous",
            "locking_mode",
            "mmap_size",
            "wal_autocheckpoint",
            "journal_size_limit",
            "foreign_keys",
            "trusted_schema",
            "cell_size_check",
        )
    }
    assert found == {
        "journal_mode": "wal",
        "synchronous": 2,
        "locking_mode": "exclusive",
        "mmap_size": 0,
        "wal_autocheckpoint": 256,
        "journal_size_limit": 1024 * 1024,
        "foreign_keys": 1,
        "trusted_schema": 0,
        "cell_size_check": 1,
    }


def test_nobody_else_can_use_the_database_meanwhile(state: Directory) -> None:
    state.commit(a="1")
    other = sqlite3.connect(state.path / "node.db", timeout=0)
    try:
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("SELECT * FROM record").fetchall()
    finally:
        other.close()
    assert not (state.path / "node.db-shm").exists()
    maps = Path("/proc/self/maps").read_text(encoding="utf-8")
    assert str(state.path) not in maps  # nothing of it is mapped


def test_many_commits_leave_a_bounded_write_ahead_log(state: Directory) -> None:
    storage = state.open()
    largest = 0
    for number in range(300):
        storage.records.put(f"key/{number % 7}", b"%d " % number * 700)
        storage.commit()
        largest = max(largest, (state.path / "node.db-wal").stat().st_size)
    assert 256 * PAGE_SIZE < largest < 2 * 1024 * 1024
    assert sorted(state.rows()) == [f"key/{number}" for number in range(7)]


# --- records ------------------------------------------------------------------------------------


def test_what_was_committed_is_there_and_what_was_not_is_not(state: Directory) -> None:
    storage = state.commit(a="1", b="2", c="3").open_now
    assert storage is not None
    storage.records.put("a", b"never")
    storage.records.put("d", b"never")
    storage.records.delete("b")
    assert storage.records.get("b") is None
    assert state.rows() == {"a": "1", "b": "2", "c": "3"}
    storage = state.open_now
    assert storage is not None
    storage.records.delete("b")
    storage.records.put("a", b"9")
    storage.commit()
    assert state.rows() == {"a": "9", "c": "3"}


def test_keys_are_sorted_and_those_of_the_storage_itself_are_hidden(state: Directory) -> None:
    storage = state.commit(**{"x/2": "b", "x/10": "a", "y": "c"}).open()
    assert storage.records.keys("") == ["x/10", "x/2", "y"]
    assert storage.records.keys("x/") == ["x/10", "x/2"]
    assert storage.records.keys("~") == []


def test_odd_keys_and_values_come_back(state: Directory) -> None:
    storage = state.open()
    storage.records.put("ü/€", bytes(range(256)))
    storage.records.put("empty", b"")
    storage.commit()
    storage = state.open()
    assert storage.records.get("ü/€") == bytes(range(256))
    assert storage.records.get("empty") == b""


def test_a_commit_without_changes_writes_nothing(state: Directory) -> None:
    storage = state.commit(a="1").open_now
    assert storage is not None
    before = state.octets()
    storage.records.put("a", b"1")
    storage.records.delete("absent")
    storage.commit()
    assert state.octets() == before


def test_a_commit_carries_the_ratchet_values_that_waited_for_it(state: Directory) -> None:
    storage = state.commit(a="1").open_now
    assert storage is not None
    storage.ratchet.raise_after_commit(RatchetValues(1_001, 2))
    assert state.open().ratchet.read() == RatchetValues(0, 0)
    storage = state.open()
    storage.ratchet.raise_after_commit(RatchetValues(1_001, 2))
    storage.commit()  # though there are no records to write
    storage.records.put("a", b"2")
    storage.ratchet.raise_after_commit(RatchetValues(rollback_floor=3))
    storage.commit()
    assert state.open().ratchet.read() == RatchetValues(1_001, 3)


@pytest.mark.parametrize(
    "spoil",
    [
        "UPDATE record SET value = x'39' WHERE key = 'a'",
        "UPDATE record SET crc = crc + 1 WHERE key = 'a'",
        "UPDATE record SET crc = 0 WHERE key = 'a'",
        "UPDATE record SET value = x'' WHERE key = 'a'",
    ],
)
def test_a_row_whose_checksum_is_wrong_is_lost_and_never_data(state: Directory, spoil: str) -> None:
    state.made(a="1", b="2").sql(spoil)
    assert state.rows() == {"a": None, "b": "2"}
    storage = state.open()
    with pytest.raises(RecordLostError, match="record a"):
        storage.records.get("a")
    assert storage.records.keys("") == ["a", "b"]
    storage.records.put("a", b"1")  # the same value as before is written all the same
    storage.commit()
    assert state.rows() == {"a": "1", "b": "2"}


def test_a_lost_row_can_be_deleted(state: Directory) -> None:
    state.made(a="1").sql("UPDATE record SET crc = 0 WHERE key = 'a'")
    storage = state.open()
    storage.records.delete("a")
    storage.commit()
    assert state.rows() == {}


def test_a_row_under_another_key_does_not_pass(state: Directory) -> None:
    state.made(a="1", b="2").sql("UPDATE record SET key = 'c' WHERE key = 'a'")
    assert state.rows() == {"b": "2", "c": None}
    assert checksum("a", b"b") != checksum("ab", b"")


def test_erasing_leaves_nothing_but_the_ratchet(state: Directory) -> None:
    storage = state.commit(a="1", b="2").open_now
    assert storage is not None
    storage.ratchet.raise_now(RatchetValues(1_001, 5))
    storage.erase()
    assert state.rows() == {}
    assert state.open().ratchet.read() == RatchetValues(1_001, 5)


# --- who may open it ----------------------------------------------------------------------------


def test_a_second_process_is_refused_and_touches_nothing(state: Directory) -> None:
    state.commit(a="1")
    before = state.octets()
    with pytest.raises(EnvironmentFailure, match="in use by another process"):
        FileStorage(state.path, BANK_SIZE)
    assert state.octets() == before
    assert state.commit(a="2").rows() == {"a": "2"}


def test_closing_lets_go_and_may_be_repeated(state: Directory) -> None:
    storage = state.commit(a="1").open_now
    assert storage is not None
    storage.close()
    storage.close()
    assert state.rows() == {"a": "1"}


def test_a_refused_opening_leaves_nothing_open(state: Directory) -> None:
    state.made(a="1")
    before = len(os.listdir("/proc/self/fd"))
    (state.path / "ratchet.bin").chmod(0o640)
    for _ in range(3):
        with pytest.raises(EnvironmentFailure):
            state.open()
    assert len(os.listdir("/proc/self/fd")) == before
    (state.path / "ratchet.bin").chmod(0o600)
    assert state.rows() == {"a": "1"}


def test_a_directory_that_is_none_is_the_environments_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("octets")
    for path in (tmp_path / "file", tmp_path / "file" / "state"):
        with pytest.raises(EnvironmentFailure, match="state directory"):
            FileStorage(path, BANK_SIZE)
    assert (tmp_path / "file").read_text() == "octets"


def _symbolic_link(path: Path) -> None:
    path.rename(path.with_suffix(".real"))
    path.symlink_to(path.with_suffix(".real"))


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def _directory(path: Path) -> None:
    path.unlink()
    path.mkdir(0o600)


WRONG: dict[str, Callable[[Path], None]] = {
    "a symbolic link": _symbolic_link,
    "a second link": lambda path: os.link(path, path.with_suffix(".other")),
    "a mode for others": lambda path: path.chmod(0o640),
    "a fifo": _fifo,
    "a directory": _directory,
}


@pytest.mark.parametrize("name", [*FILES, "node.db-wal", "node.db.new"])
@pytest.mark.parametrize("wrong", WRONG)
def test_a_file_that_is_not_ours_alone_is_refused_and_nothing_is_touched(
    state: Directory, name: str, wrong: str
) -> None:
    state.made(a="1")
    path = state.path / name
    if not path.exists():
        path.touch(0o600)
    WRONG[wrong](path)
    before = state.octets()
    with pytest.raises(EnvironmentFailure, match=re.escape(name)):
        state.open()
    assert state.octets() == before


@needs_root
@pytest.mark.parametrize("name", [*FILES])
def test_a_file_of_somebody_else_is_refused(state: Directory, name: str) -> None:
    state.made(a="1")
    os.chown(state.path / name, 12_345, 12_345)
    with pytest.raises(EnvironmentFailure, match=name):
        state.open()
    os.chown(state.path / name, 0, 0)
    assert state.rows() == {"a": "1"}


# --- sizes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("bank_size", [BANK_SIZE - PAGE_SIZE, BANK_SIZE + PAGE_SIZE])
def test_another_bank_size_than_it_was_made_with_is_refused(
    state: Directory, bank_size: int
) -> None:
    state.made(a="1")
    before = state.octets()
    with pytest.raises(EnvironmentFailure, match="bank_size"):
        state.open(bank_size)
    assert state.octets() == before
    assert state.rows() == {"a": "1"}


def test_what_provisioning_left_short_is_made_whole(state: Directory) -> None:
    state.open()
    state.close()
    for name in ("bank_a.img", "ratchet.bin"):
        os.truncate(state.path / name, PAGE_SIZE)
    state.open()
    assert (state.path / "bank_a.img").stat().st_size == FILE_SIZE
    assert (state.path / "ratchet.bin").stat().st_size == 2 * PAGE_SIZE


def test_a_bank_that_the_disk_lost_comes_back_blank_and_the_records_stay(state: Directory) -> None:
    state.made(a="1")
    (state.path / "bank_b.img").unlink()
    os.truncate(state.path / "bank_a.img", FILE_SIZE // 2)
    assert state.rows() == {"a": "1"}
    assert (state.path / "bank_a.img").stat().st_size == FILE_SIZE
    assert state.open().bank(BankId.B).read(0, PAGE_SIZE) == bytes(PAGE_SIZE)


def test_a_ratchet_that_the_disk_lost_is_unknown_and_not_zero(state: Directory) -> None:
    state.made(a="1")
    (state.path / "ratchet.bin").unlink()
    storage = state.open()
    with pytest.raises(RecordLostError):
        storage.ratchet.read()
    assert state.rows() == {"a": "1"}


# --- cuts ---------------------------------------------------------------------------------------


def test_a_commit_is_all_or_nothing_wherever_its_log_is_cut(
    state: Directory, tmp_path: Path
) -> None:
    state.commit(a="1", b="1", c="1")
    before = (state.path / "node.db-wal").stat().st_size
    state.commit(a="2", b="2", d="2")
    log = (state.path / "node.db-wal").read_bytes()
    assert len(log) > before
    old, new = {"a": "1", "b": "1", "c": "1"}, {"a": "2", "b": "2", "c": "1", "d": "2"}
    found = []
    for size in range(before, len(log) + 1, 211):
        cut = state.copy_to(tmp_path / "cut")
        (cut.path / "node.db-wal").write_bytes(log[:size])
        # The ratchet's note of the second commit is not synced, so a cut may lose it.
        (cut.path / "ratchet.bin").write_bytes(bytes(2 * PAGE_SIZE))
        rows = cut.rows()
        cut.close()
        assert rows in (old, new)
        found.append(rows)
    assert found[0] == old
    whole = state.copy_to(tmp_path / "cut")
    assert whole.rows() == new
    whole.close()


def test_a_log_whose_header_rotted_takes_back_all_but_the_messages(state: Directory) -> None:
    state.made(**{"boot": "A", "counter/own": "0", "outbox/1": "first"})
    state.commit(**{"boot": "B", "counter/own": "1001", "outbox/2": "second"})
    rotten = state.copy_to(state.path.parent / "rotten")
    log = bytearray((rotten.path / "node.db-wal").read_bytes())
    log[17] ^= 0xFF
    (rotten.path / "node.db-wal").write_bytes(log)
    # Older than what the ratchet saw: to repeat a message is harmless, an old counter is not.
    assert rotten.rows() == {"lost": "stale", "outbox/1": "first"}
    assert rotten.commit(boot="A").rows() == {"boot": "A", "lost": "stale", "outbox/1": "first"}
    rotten.close()


def test_an_older_copy_of_the_database_is_noticed(state: Directory) -> None:
    old = (state.made(a="1").path / "node.db").read_bytes()
    state.made(a="2")
    (state.path / "node.db").write_bytes(old)
    assert state.rows() == {"lost": "stale"}


def test_an_emptied_database_beside_a_ratchet_that_knows_better_is_a_loss(
    state: Directory,
) -> None:
    state.made(a="1")
    (state.path / "node.db").unlink()
    assert state.rows() == {"lost": "stale"}


@pytest.mark.parametrize("leftover", ["-wal", "-journal"])
def test_a_new_database_takes_the_place_of_the_old_one_and_of_its_log(
    state: Directory, tmp_path: Path, leftover: str
) -> None:
    state.made(a="1").commit(a="2", b="2")
    old_log = (state.path / "node.db-wal").read_bytes()
    state.close()
    other = Directory(tmp_path / "other").made(a="3", c="3")
    shutil.copy(other.path / "node.db", state.path / "node.db.new")
    (state.path / f"node.db{leftover}").write_bytes(old_log)
    (state.path / f"node.db{leftover}").chmod(0o600)
    shutil.copy(other.path / "ratchet.bin", state.path / "ratchet.bin")
    assert state.rows() == {"a": "3", "c": "3"}
    assert not (state.path / "node.db.new").exists()


# --- damage -------------------------------------------------------------------------------------

ROWS = {f"key/{number:03d}": f"value {number} " * 20 for number in range(200)}


@pytest.fixture
def large(state: Directory) -> Directory:
    """A database of many pages, closed."""
    return state.made(**ROWS)


def damage(state: Directory, change: Callable[[bytearray], None]) -> Directory:
    octets = bytearray((state.path / "node.db").read_bytes())
    change(octets)
    (state.path / "node.db").write_bytes(octets)
    return state


def test_of_a_damaged_database_everything_that_can_be_read_is_kept(large: Directory) -> None:
    size = len((large.path / "node.db").read_bytes())
    assert size > 12 * PAGE_SIZE

    def rot_a_page(octets: bytearray) -> None:
        at = size // 2 // PAGE_SIZE * PAGE_SIZE
        octets[at : at + PAGE_SIZE] = b"\xa5" * PAGE_SIZE

    rows = damage(large, rot_a_page).rows()
    assert rows.pop("lost") == "damaged"
    assert len(ROWS) - 30 < len(rows) < len(ROWS)  # a page holds some twenty
    assert rows.items() <= ROWS.items()
    again = large.commit(more="1").rows()
    assert again == {**rows, "lost": "damaged", "more": "1"}


@pytest.mark.parametrize("share", [0, 1, 3, 6, 9])
def test_a_database_that_was_cut_off_loses_rows_and_never_changes_one(
    large: Directory, share: int
) -> None:
    path = large.path / "node.db"
    os.truncate(path, path.stat().st_size * share // 10 + 100 * (share > 0))
    rows = large.rows()
    assert rows.pop("lost") in ("damaged", "stale")
    assert rows.items() <= ROWS.items()
    large.commit(key="new")
    assert large.rows()["key"] == "new"


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE other (x)",
        "CREATE INDEX i ON record (crc)",
        "CREATE TRIGGER t AFTER INSERT ON record BEGIN DELETE FROM record; END",
        "ALTER TABLE record ADD COLUMN more",
    ],
)
def test_another_schema_is_damage_and_only_the_rows_are_taken_over(
    state: Directory, statement: str
) -> None:
    state.made(a="1", b="2").sql(statement)
    assert state.rows() == {"a": "1", "b": "2", "lost": "damaged"}
    state.close().sql("SELECT 1")
    connection = sqlite3.connect(state.path / "node.db")
    try:
        names = connection.execute("SELECT type, name FROM sqlite_master").fetchall()
    finally:
        connection.close()
    assert names == [("table", "record")]


def test_a_file_that_is_no_database_leaves_the_note_of_the_loss_alone(state: Directory) -> None:
    state.made(a="1")
    (state.path / "node.db").write_bytes(b"no database at all, for sure. " * 1_000)
    assert state.rows() == {"lost": "damaged"}
    assert state.open().ratchet.read() == RatchetValues(0, 0)


def test_flipped_bits_lose_rows_and_never_change_one(large: Directory, tmp_path: Path) -> None:
    octets = (large.path / "node.db").read_bytes()
    ratchet = (large.path / "ratchet.bin").read_bytes()
    spoilt = Directory(large.path)
    fates = set()
    for at in range(5, len(octets), len(octets) // 150):
        changed = bytearray(octets)
        changed[at] ^= 1 << at % 8
        (spoilt.path / "node.db").write_bytes(changed)
        (spoilt.path / "ratchet.bin").write_bytes(ratchet)
        rows = spoilt.rows()
        spoilt.close()
        told = rows.pop("lost", None)
        assert told in (None, "damaged", "stale")
        lost = [key for key, value in rows.items() if value is None]
        kept = {key: value for key, value in rows.items() if value is not None}
        assert kept.items() <= ROWS.items(), at
        assert told or len(rows) == len(ROWS), at  # what lacks without a word would be wrong data
        fates.add("lost" if lost else told)
    assert {"damaged", "lost", None} <= fates


def test_without_descriptors_nothing_is_thrown_away(state: Directory) -> None:
    state.made(a="1")
    before = state.octets()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    refused = 0
    try:
        for limit in range(3, highest + 20):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            try:
                FileStorage(state.path, BANK_SIZE).close()
            except (EnvironmentFailure, StorageError):
                refused += 1
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert refused > 5  # somewhere on the way, the database's own among them
    assert state.octets() == before
    assert state.rows() == {"a": "1"}


def test_a_name_that_is_no_text_is_damage(state: Directory) -> None:
    state.made(a="1", b="2").sql("UPDATE record SET key = CAST(x'ff61' AS TEXT) WHERE key = 'a'")
    rows = state.rows()
    assert rows.pop("b") == "2"
    assert set(rows.values()) <= {None, "damaged"}


# --- a full disk --------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m,mode=700", "tmpfs", str(path)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", str(path)], check=True)


def fill(disk: Path) -> Path:
    """Take all the space there is."""
    filler = disk / "filler"
    with filler.open("ab", buffering=0) as file:
        size = 64 * 1024
        while size:
            try:
                file.write(bytes(size))
            except OSError:
                size //= 2
    return filler


@needs_root
def test_on_a_full_disk_the_ballast_pays_for_what_must_be_committed(small_disk: Path) -> None:
    state = Directory(small_disk / "state").commit(a="1")
    ballast = state.path / "ballast"
    assert ballast.exists()
    storage = state.open_now
    assert storage is not None
    filler = fill(small_disk)
    assert storage.free_bytes() < 4096
    storage.records.put("a", b"2" * 100_000)
    storage.commit()
    assert not ballast.exists()
    fill(small_disk)
    storage.records.put("a", b"3" * 900_000)
    storage.records.put("b", b"3")
    with pytest.raises(StorageFullError):
        storage.commit()
    copy = {path.name: path.read_bytes() for path in state.path.iterdir()}
    filler.unlink()
    storage.commit()  # the same process may go on when there is space again
    state.close()
    assert state.rows() == {"a": "3" * 900_000, "b": "3"}
    state.close()
    (state.path / "ballast").unlink()
    for name, octets in copy.items():
        (state.path / name).touch(0o600)
        (state.path / name).write_bytes(octets)
    assert state.rows() == {"a": "2" * 100_000}  # of the commit that failed nothing was kept
    state.close()


@needs_root
def test_where_there_is_no_room_for_banks_nothing_is_begun_and_later_it_is(
    small_disk: Path,
) -> None:
    state = Directory(small_disk / "state")
    filler = fill(small_disk)
    with pytest.raises(StorageError):
        state.open()
    filler.unlink()
    assert state.commit(a="1").rows() == {"a": "1"}
    assert (state.path / "bank_b.img").stat().st_size == FILE_SIZE
    state.close()


@needs_root
def test_where_space_is_short_there_is_no_ballast(small_disk: Path) -> None:
    with (small_disk / "filler").open("wb") as file:
        file.write(bytes(2 * 1024 * 1024))
    state = Directory(small_disk / "state").commit(a="1")
    assert not (state.path / "ballast").exists()
    (small_disk / "filler").unlink()
    assert state.rows() == {"a": "1"}
    assert (state.path / "ballast").stat().st_size == BALLAST_SIZE
    state.close()


def test_a_ballast_that_is_gone_is_made_again(state: Directory) -> None:
    state.made(a="1")
    (state.path / "ballast").unlink()
    state.open()
    assert (state.path / "ballast").stat().st_size == BALLAST_SIZE


# --- the order of writes and syncs ----------------------------------------------------------------

_OPEN = """
import sys
from pathlib import Path
from firmware_node.adapters.storage import FileStorage
storage = FileStorage(Path(sys.argv[1]), int(sys.argv[2]))
"""
_COMMIT = """
import os
for number in range(3):
    storage.records.put("a", b"%d" % number)
    os.write(2, b"MARK\\n")
    storage.commit()
os.write(2, b"MARK\\n")
"""
_TRACED = "pwrite64,write,fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat"
_CALL = re.compile(r"^\d+ +(\w+)\((.*)\) += 0|^\d+ +(p?write\w*)\((.*)\) += \d+")


def traced(directory: Path, program: str) -> list[tuple[str, ...]]:
    """The calls on the state directory: name and base names; ``MARK`` where the program says so."""
    directory.mkdir(0o700, parents=True, exist_ok=True)
    log = directory.parent / "trace"
    assert STRACE is not None
    strace = [STRACE, "-f", "-y", "-s", "64", "-e", f"trace={_TRACED}", "-o", str(log)]
    command = [sys.executable, "-c", program, str(directory), str(BANK_SIZE)]
    subprocess.run([*strace, *command], check=True, capture_output=True)
    calls: list[tuple[str, ...]] = []
    for line in log.read_text().splitlines():
        found = _CALL.match(line)
        if found is None:
            continue
        name, arguments = found[1] or found[3], found[2] or found[4]
        if name == "write" and "MARK" in arguments:
            calls.append(("MARK",))
        elif str(directory) in arguments:
            names = re.findall(r'[<"]([^<>"]*)[>"]', arguments)
            bases = [Path(path).name for path in names if "MARK" not in path]
            calls.append((name, *bases))
    return calls


@needs_strace
def test_a_commit_is_one_sync_of_the_log_and_one_write_of_the_ratchet(state: Directory) -> None:
    state.made(a="1")
    calls = traced(state.path, _OPEN + _COMMIT)
    marks = [index for index, call in enumerate(calls) if call == ("MARK",)]
    assert len(marks) == 4
    for begin, end in pairwise(marks[1:]):
        commit = calls[begin + 1 : end]
        syncs = [call for call in commit if call[0] in ("fsync", "fdatasync")]
        assert syncs == [("fdatasync", "node.db-wal")]
        writes = [call[1] for call in commit if call[0] == "pwrite64"]
        assert writes[-1] == "ratchet.bin"
        assert set(writes[:-1]) == {"node.db-wal"}


@needs_strace
@pytest.mark.parametrize("begun", [False, True])
def test_nothing_is_renamed_that_was_not_synced_and_its_directory_is_synced_after(
    state: Directory, begun: bool
) -> None:
    state.made(a="1")
    if begun:  # a former start was cut right before the old log went
        shutil.copy(state.path / "node.db", state.path / "node.db.new")
    else:
        (state.path / "node.db").write_bytes(b"no database at all. " * 500)
    (state.path / "node.db-wal").touch(0o600)
    calls = traced(state.path, _OPEN)
    directory = ("fsync", state.path.name)
    renames = [index for index, call in enumerate(calls) if call[0].startswith("rename")]
    assert len(renames) == 2 - begun
    assert [calls[index + 1] for index in renames] == [directory] * len(renames)
    if not begun:
        source = calls[renames[0]][2]
        touched = [call for call in calls[: renames[0]] if source in call[1:]]
        assert touched[-1] == ("fsync", source)
    # The old log goes, durably, before the new database takes the old one's name.
    before = calls[: renames[-1]]
    removed = [index for index, call in enumerate(before) if call[0].startswith("unlink")]
    assert removed and directory in before[removed[-1] :], calls
    assert "node.db" not in {name for index in removed for name in before[index][1:]}
    assert state.rows() == ({"a": "1"} if begun else {"lost": "damaged"})


@needs_strace
def test_new_files_and_their_names_are_durable_before_the_first_commit(state: Directory) -> None:
    calls = traced(state.path, _OPEN + _COMMIT)
    opening = calls[: calls.index(("MARK",))]
    synced = [call[1] for call in opening if call[0] in ("fsync", "fdatasync")]
    assert {"bank_a.img", "bank_b.img", "ratchet.bin", state.path.name} <= set(synced)
    last_file = max(synced.index(name) for name in ("bank_a.img", "bank_b.img", "ratchet.bin"))
    assert state.path.name in synced[last_file:]
    assert state.rows() == {"a": "2"}
