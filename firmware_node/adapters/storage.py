"""The state directory: lock, records in SQLite, two bank files, the ratchet, the ballast.

Promises of ``boundary.Storage`` on real files. Ordering rules (dual-bank.md 2, 3, 6):

1. The lock is held before anything else is touched.
2. Files get their full size, an fsync and a directory fsync before the first record is committed;
   bank files are never renamed, truncated, unlinked or grown afterwards.
3. ``commit``: one transaction with one fsync; then the ratchet values queued for after it.
4. A failed write or fsync is never retried: the process ends and the next start reads the truth.
5. A database that cannot be read is salvaged into a new file which replaces it whole; the old
   write-ahead log goes first, or it would be replayed into the new database.

The connection is private to this process (EXCLUSIVE), all rows live in memory, and every row has a
CRC32 over its key and value: a row that fails it is lost, never data.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import sqlite3
import stat
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from firmware_node.boundary import PAGE_SIZE, BankArea, RatchetValues
from firmware_node.errors import (
    EnvironmentFailure,
    RecordLostError,
    StorageError,
    StorageFullError,
)
from firmware_node.terms import BankId

ROOM = 2 * PAGE_SIZE  # bytes besides the manufacturer image: OTA header, signature tail, tags
BALLAST_SIZE = 1024 * 1024
LOST_KEY = "lost"  # rows are missing after a salvage; Banks rebuilds them and removes it
_DATABASE = "node.db"
_RATCHET = struct.Struct("<4sQQQI")  # magic, sequence, counter ceiling, rollback floor, CRC32
_RATCHET_MAGIC = b"RTC1"
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS record "
    "(key TEXT PRIMARY KEY, value BLOB NOT NULL, crc INTEGER NOT NULL) WITHOUT ROWID"
)
_SETTINGS = (  # name, value to set, value read back
    ("locking_mode", "EXCLUSIVE", "exclusive"),
    ("journal_mode", "WAL", "wal"),
    ("synchronous", "FULL", 2),
    ("mmap_size", 0, 0),
    ("wal_autocheckpoint", 256, 256),
    ("journal_size_limit", 1024 * 1024, 1024 * 1024),
    ("foreign_keys", 1, 1),
    ("trusted_schema", 0, 0),
    ("cell_size_check", 1, 1),
)


@contextlib.contextmanager
def _failures(what: str) -> Iterator[None]:
    """Turn operating-system and SQLite errors into ours."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFullError(f"{what}: {error.strerror}") from error
        raise StorageError(f"{what}: {error.strerror or error}") from error
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            raise StorageFullError(f"{what}: {error}") from error
        raise StorageError(f"{what}: {error}") from error


class SqliteRecords:
    """All rows in memory; what changed is written by ``FileStorage.commit``."""

    def __init__(self) -> None:
        self._rows: dict[str, bytes] = {}
        self._lost: set[str] = set()
        self.dirty: set[str] = set()

    def load(self, rows: Sequence[tuple[str, bytes, int]]) -> None:
        """Take the rows of the database; those with a wrong checksum are lost."""
        for key, value, crc in rows:
            if isinstance(key, str) and isinstance(value, bytes) and crc == checksum(key, value):
                self._rows[key] = value
            else:
                self._lost.add(str(key))

    def get(self, key: str) -> bytes | None:
        """See ``boundary.Records``."""
        if key in self._lost:
            raise RecordLostError(f"record {key}: its checksum is wrong")
        return self._rows.get(key)

    def put(self, key: str, value: bytes) -> None:
        """See ``boundary.Records``."""
        if self._rows.get(key) == value and key not in self._lost:
            return
        self._rows[key] = value
        self._lost.discard(key)
        self.dirty.add(key)

    def delete(self, key: str) -> None:
        """See ``boundary.Records``."""
        if key in self._rows or key in self._lost:
            self._rows.pop(key, None)
            self._lost.discard(key)
            self.dirty.add(key)

    def keys(self, prefix: str) -> Sequence[str]:
        """See ``boundary.Records``."""
        return sorted(key for key in self._rows.keys() | self._lost if key.startswith(prefix))

    def changes(self) -> tuple[list[tuple[str, bytes, int]], list[tuple[str]]]:
        """Rows to write and keys to delete since the last commit."""
        writes = [
            (key, self._rows[key], checksum(key, self._rows[key]))
            for key in sorted(self.dirty)
            if key in self._rows
        ]
        return writes, [(key,) for key in sorted(self.dirty) if key not in self._rows]


def checksum(key: str, value: bytes) -> int:
    """CRC32 over key, a zero octet and value."""
    return zlib.crc32(value, zlib.crc32(key.encode() + b"\0"))


class BankFile:
    """One bank file: image area, then two trailer pages."""

    def __init__(self, fd: int, size: int, name: str) -> None:
        self._fd = fd
        self._size = size
        self._name = name

    @property
    def size(self) -> int:
        """See ``boundary.BankArea``."""
        return self._size

    def write(self, offset: int, data: bytes) -> None:
        """See ``boundary.BankArea``."""
        assert offset % PAGE_SIZE == 0 and offset + len(data) <= self._size
        self._pwrite(offset, data)

    def read(self, offset: int, size: int) -> bytes:
        """See ``boundary.BankArea``."""
        assert offset + size <= self._size
        return self._pread(offset, size)

    def write_trailer(self, area: int, record: bytes) -> None:
        """See ``boundary.BankArea``."""
        assert area in (0, 1) and len(record) <= PAGE_SIZE
        self._pwrite(self._size + area * PAGE_SIZE, record)

    def read_trailer(self, area: int) -> bytes:
        """See ``boundary.BankArea``."""
        return self._pread(self._size + area * PAGE_SIZE, PAGE_SIZE)

    def sync(self) -> None:
        """See ``boundary.BankArea``."""
        with _failures(self._name):
            os.fdatasync(self._fd)

    def _pwrite(self, offset: int, data: bytes) -> None:
        rest = memoryview(data)
        with _failures(self._name):
            while rest:
                written = os.pwrite(self._fd, rest, offset)
                if written <= 0:
                    raise OSError(errno.EIO, "nothing was written")
                rest, offset = rest[written:], offset + written

    def _pread(self, offset: int, size: int) -> bytes:
        parts = []
        with _failures(self._name):
            while size:
                part = os.pread(self._fd, size, offset)
                if not part:
                    raise OSError(errno.EIO, "the file is shorter than it was made")
                parts.append(part)
                offset, size = offset + len(part), size - len(part)
        return b"".join(parts)


class RatchetFile:
    """Two areas, the older one is written; see ``boundary.Ratchet``."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._queued: RatchetValues | None = None

    def read(self) -> RatchetValues:
        """See ``boundary.Ratchet``."""
        areas = [area for area in self._areas() if area is not None]
        if not areas:
            raise RecordLostError("ratchet.bin: neither area is readable")
        return RatchetValues(max(a[1] for a in areas), max(a[2] for a in areas))

    def raise_now(self, values: RatchetValues) -> None:
        """See ``boundary.Ratchet``."""
        areas = self._areas()
        known = [area for area in areas if area is not None]
        old = RatchetValues(
            max((a[1] for a in known), default=0), max((a[2] for a in known), default=0)
        )
        new = RatchetValues(*map(max, old, values))
        if new == old and len(known) == 2:
            return
        index = min((0, 1), key=lambda i: (areas[i] or (-1,))[0])
        sequence = max((area[0] for area in known), default=0) + 1
        body = _RATCHET.pack(_RATCHET_MAGIC, sequence, *new, 0)[:-4]
        with _failures("ratchet.bin"):
            record = body + zlib.crc32(body).to_bytes(4, "little")
            if os.pwrite(self._fd, record, index * PAGE_SIZE) != len(record):
                raise OSError(errno.EIO, "short write")
            os.fdatasync(self._fd)

    def raise_after_commit(self, values: RatchetValues) -> None:
        """See ``boundary.Ratchet``."""
        self._queued = RatchetValues(*map(max, self._queued or values, values))

    def flush(self) -> None:
        """Write what was queued; the commit it waited for is done."""
        if self._queued is not None:
            values, self._queued = self._queued, None
            self.raise_now(values)

    def _areas(self) -> list[tuple[int, int, int] | None]:
        found: list[tuple[int, int, int] | None] = []
        for index in (0, 1):
            with _failures("ratchet.bin"):
                data = os.pread(self._fd, _RATCHET.size, index * PAGE_SIZE)
            if len(data) == _RATCHET.size:
                magic, sequence, ceiling, floor, crc = _RATCHET.unpack(data)
                if magic == _RATCHET_MAGIC and crc == zlib.crc32(data[:-4]):
                    found.append((sequence, ceiling, floor))
                    continue
            found.append(None)
        return found


class FileStorage:
    """``boundary.Storage`` on a directory. Opening locks it; ``close`` lets it go.

    Raises:
        EnvironmentFailure: another process holds it, or it cannot be used.
        StorageError: files or settings are not what they must be.
    """

    def __init__(self, directory: Path, bank_size: int) -> None:
        self._path = directory
        self._connection: sqlite3.Connection | None = None
        self._fds: list[int] = []
        self._records = SqliteRecords()
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._dir = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise EnvironmentFailure(f"state directory {directory}: {error.strerror}") from error
        self._fds.append(self._dir)
        try:
            self._lock()
            with _failures(f"state directory {directory}"):
                self._open_files(bank_size)
            self._open_database()
        except BaseException:
            self.close()
            raise

    @property
    def records(self) -> SqliteRecords:
        """See ``boundary.Storage``."""
        return self._records

    @property
    def ratchet(self) -> RatchetFile:
        """See ``boundary.Storage``."""
        return self._ratchet

    def bank(self, bank: BankId) -> BankArea:
        """See ``boundary.Storage``."""
        return self._banks[bank]

    def free_bytes(self) -> int:
        """See ``boundary.Storage``."""
        with _failures("statvfs"):
            disk = os.fstatvfs(self._dir)
        return disk.f_bavail * disk.f_frsize

    def commit(self) -> None:
        """See ``boundary.Storage``; a full disk costs the ballast, once."""
        if self._records.dirty:
            try:
                self._write_rows()
            except StorageFullError:
                if not self._drop_ballast():
                    raise
                self._write_rows()
            self._records.dirty.clear()
        self._ratchet.flush()

    def erase(self) -> None:
        """Factory reset: without the rows the next start provisions again, from wherever."""
        for key in self._records.keys(""):
            self._records.delete(key)
        self.commit()

    def close(self) -> None:
        """Let go of everything; nothing is left half-done."""
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None
        while self._fds:
            os.close(self._fds.pop())

    def _lock(self) -> None:
        fd = self._open("LOCK", create=True)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise EnvironmentFailure(f"{self._path} is in use by another process") from error

    def _open(self, name: str, create: bool) -> int:
        """Open a file of ours and check that it is one (dual-bank.md 2)."""
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        try:
            fd = os.open(name, flags, 0o600, dir_fd=self._dir)
        except OSError as error:
            raise EnvironmentFailure(f"{self._path / name}: {error.strerror}") from error
        self._fds.append(fd)
        self._check_file(name, os.fstat(fd))
        return fd

    def _check_file(self, name: str, info: os.stat_result) -> None:
        if (
            not stat.S_ISREG(info.st_mode)
            or info.st_uid != os.geteuid()
            or stat.S_IMODE(info.st_mode) != 0o600
            or info.st_nlink != 1
        ):
            raise EnvironmentFailure(
                f"{self._path / name}: expected a regular file of ours, mode 0600, one link"
            )

    def _open_files(self, bank_size: int) -> None:
        area = -(-bank_size // PAGE_SIZE) * PAGE_SIZE + ROOM
        self._banks = {
            bank: BankFile(
                self._sized(f"bank_{bank.value.lower()}.img", area + 2 * PAGE_SIZE),
                area,
                f"bank {bank.value}",
            )
            for bank in BankId
        }
        self._ratchet = RatchetFile(self._sized("ratchet.bin", 2 * PAGE_SIZE))
        if self.free_bytes() > 4 * BALLAST_SIZE:
            self._sized("ballast", BALLAST_SIZE)
        os.fsync(self._dir)

    def _sized(self, name: str, size: int) -> int:
        """Open a file and give it its full size if it is new or was cut while being made."""
        fd = self._open(name, create=True)
        found = os.fstat(fd).st_size
        if found > size:
            raise EnvironmentFailure(
                f"{self._path / name}: {found} bytes, expected {size}; "
                "storage.bank_size cannot change on an existing state directory"
            )
        if found < size:
            os.posix_fallocate(fd, 0, size)
            os.fsync(fd)
        return fd

    def _open_database(self) -> None:
        database = self._path / _DATABASE
        for name in (_DATABASE, f"{_DATABASE}-wal"):
            with contextlib.suppress(FileNotFoundError):
                self._check_file(name, os.lstat(self._path / name))
        try:
            rows = self._connect(database)
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", None) in (
                sqlite3.SQLITE_FULL,
                sqlite3.SQLITE_IOERR,
                sqlite3.SQLITE_CANTOPEN,
                sqlite3.SQLITE_BUSY,
            ):
                raise StorageError(f"{_DATABASE}: {error}") from error
            rows = self._rebuild(database)
        self._records.load(rows)

    def _connect(self, database: Path) -> list[tuple[str, bytes, int]]:
        if self._connection is not None:
            self._connection.close()
        old_mask = os.umask(0o077)
        try:
            self._connection = connection = sqlite3.connect(database, isolation_level=None)
            for name, value, expected in _SETTINGS:
                connection.execute(f"PRAGMA {name}={value}")
                found = connection.execute(f"PRAGMA {name}").fetchone()[0]
                if found != expected:
                    raise StorageError(f"{_DATABASE}: {name} is {found}, expected {expected}")
            connection.execute(_SCHEMA)
            if connection.execute("PRAGMA quick_check").fetchone()[0] != "ok":
                raise sqlite3.DatabaseError("quick_check failed")
            return connection.execute("SELECT key, value, crc FROM record").fetchall()
        finally:
            os.umask(old_mask)

    def _rebuild(self, database: Path) -> list[tuple[str, bytes, int]]:
        """Salvage what can be read into a new database, marked with ``LOST_KEY``."""
        salvaged: dict[str, tuple[str, bytes, int]] = {}
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                for row in self._connection.execute("SELECT key, value, crc FROM record"):
                    if isinstance(row[0], str) and isinstance(row[1], bytes):
                        salvaged[row[0]] = row
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None
        salvaged[LOST_KEY] = (LOST_KEY, b"1", checksum(LOST_KEY, b"1"))
        new = self._path / f"{_DATABASE}.new"
        with _failures(_DATABASE):
            for name in (new, Path(f"{new}-journal")):
                name.unlink(missing_ok=True)
            old_mask = os.umask(0o077)
            try:
                with contextlib.closing(sqlite3.connect(new, isolation_level=None)) as connection:
                    connection.execute("PRAGMA synchronous=FULL")
                    connection.execute("BEGIN")
                    connection.execute(_SCHEMA)
                    connection.executemany(
                        "INSERT OR REPLACE INTO record VALUES (?, ?, ?)", salvaged.values()
                    )
                    connection.execute("COMMIT")
            finally:
                os.umask(old_mask)
            with new.open("rb+") as file:
                os.fsync(file.fileno())
            for suffix in ("-wal", "-shm", "-journal"):
                Path(f"{database}{suffix}").unlink(missing_ok=True)
            os.fsync(self._dir)
            new.replace(database)
            os.fsync(self._dir)
            return self._connect(database)

    def _write_rows(self) -> None:
        assert self._connection is not None
        writes, deletes = self._records.changes()
        with _failures("commit"):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._connection.executemany(
                    "INSERT OR REPLACE INTO record VALUES (?, ?, ?)", writes
                )
                self._connection.executemany("DELETE FROM record WHERE key = ?", deletes)
                self._connection.execute("COMMIT")
            except sqlite3.Error:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def _drop_ballast(self) -> bool:
        with _failures("ballast"):
            try:
                os.unlink("ballast", dir_fd=self._dir)
            except FileNotFoundError:
                return False
        return True
