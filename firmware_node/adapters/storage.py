"""The state directory: lock, records in SQLite, two bank files, the ratchet, the ballast.

Promises of ``boundary.Storage`` on real files. Ordering rules (dual-bank.md 2, 3, 6):

1. The lock is held before anything else is touched.
2. Files get their full size, an fsync and a directory fsync before the first record is committed;
   bank files are never renamed, truncated, unlinked or grown afterwards.
3. ``commit``: one transaction with one fsync; then the ratchet values queued for after it, or a
   note of the commit's number there.
4. A failed write or fsync is never retried: the process ends and the next start reads the truth.
   For that it first drops what the page cache holds: after a failed fsync Linux keeps octets there
   that never reached the medium. What a killed process had not synced is synced first.
5. A database is made whole in ``node.db.part``, also the first one. From the moment that file has
   the name ``node.db.new`` it counts, and every start finishes the replacement: the old write-ahead
   log goes first, or it would be replayed into the new database. What can be read of a damaged
   database goes into the new one.
6. Records whose commit is older than the one that the ratchet saw went back in time. They are
   dropped, but for the messages that wait: to repeat one is harmless, an old counter is not.

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
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from firmware_node.adapters.bank_files import (
    RATCHET_SIZE,
    BankFile,
    RatchetFile,
    file_failures,
    forget_cached,
)
from firmware_node.boundary import PAGE_SIZE, BankArea
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
KEPT_WHEN_STALE = "outbox/"  # rule 6
_DATABASE = "node.db"
_NEW = "node.db.new"
_PART = "node.db.part"
_COMMIT_KEY = "~commit"  # rows of ours that ``Records`` does not show: number of the last commit,
_AREA_KEY = "~area"  # and bytes of an image area
_COLUMNS = "key TEXT PRIMARY KEY, value BLOB NOT NULL, crc INTEGER NOT NULL"
_SCHEMA = f"CREATE TABLE record ({_COLUMNS}) WITHOUT ROWID"
_SELECTS = (  # forwards and backwards; a rotten column type must not become an error of its own
    "SELECT CAST(key AS TEXT), CAST(value AS BLOB), CAST(crc AS INTEGER) FROM record ORDER BY key",
    "SELECT CAST(key AS TEXT), CAST(value AS BLOB), CAST(crc AS INTEGER) FROM record "
    "ORDER BY key DESC",
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
# The machine's fault, not the file's: nothing may be thrown away because of these.
_NOT_DAMAGE = (
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL,
)
_Row = tuple[str, bytes, int]


@contextlib.contextmanager
def _failures(what: str) -> Iterator[None]:
    """Turn operating-system and SQLite errors into ours."""
    try:
        with file_failures(what, full=StorageFullError):
            yield
    except sqlite3.Error as error:
        if _code(error) == sqlite3.SQLITE_FULL:
            raise StorageFullError(f"{what}: {error}") from error
        raise StorageError(f"{what}: {error}") from error


def _code(error: sqlite3.Error) -> int:
    """The primary result code; SQLite tells an extended one, such as SQLITE_IOERR_READ."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF


class SqliteRecords:
    """All rows in memory; what changed is written by ``FileStorage.commit``."""

    def __init__(self) -> None:
        self._rows: dict[str, bytes] = {}
        self._lost: set[str] = set()
        self.dirty: set[str] = set()

    def load(self, rows: Sequence[_Row]) -> None:
        """Take the rows of the database; those with a wrong checksum are lost."""
        for key, value, crc in rows:
            if crc == checksum(key, value):
                self._rows[key] = value
            else:
                self._lost.add(key)

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
        """See ``boundary.Records``; ours are hidden."""
        return sorted(
            key
            for key in self._rows.keys() | self._lost
            if key.startswith(prefix) and key not in (_COMMIT_KEY, _AREA_KEY)
        )

    def number(self, key: str) -> int | None:
        """A row of ours; None: absent or lost."""
        value = self._rows.get(key)
        return None if value is None else int(value)

    def changes(self) -> tuple[list[_Row], list[tuple[str]]]:
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
        self._area = -(-bank_size // PAGE_SIZE) * PAGE_SIZE + ROOM
        self._dir = self._open_directory()
        try:
            self._lock()
            banks = {bank: self._open(f"bank_{bank.value.lower()}.img") for bank in BankId}
            ratchet = self._open("ratchet.bin")
            self._records.load(self._open_database())
            is_new = not self._records.keys("")
            self._size_files([*banks.values()], ratchet, is_new)
            for fd in banks.values():
                forget_cached(fd)
            self._make_ballast()
            self._banks = {
                bank: BankFile(fd, self._area, f"bank {bank.value}") for bank, fd in banks.items()
            }
            self._ratchet = RatchetFile(ratchet)
            self._ratchet.load(is_new=is_new)
            self._commit = self._check_age()
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
        if not self._records.dirty:
            self._ratchet.flush()
            return
        self._records.put(_COMMIT_KEY, b"%d" % (self._commit + 1))
        self._records.put(_AREA_KEY, b"%d" % self._area)
        try:
            self._write_rows()
        except StorageFullError:
            if not self._drop_ballast():
                raise
            self._write_rows()
        self._records.dirty.clear()
        self._commit += 1
        self._ratchet.committed(self._commit)

    def erase(self) -> None:
        """Factory reset: without the rows the next start provisions again, from wherever.

        The ratchet stays: what only rises outlives even this.
        """
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

    # --- files ------------------------------------------------------------------------------------

    def _open_directory(self) -> int:
        try:
            for path in reversed([self._path, *self._path.parents]):
                if not path.is_dir():
                    path.mkdir(mode=0o700 if path == self._path else 0o777)
                    parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                    try:
                        os.fsync(parent)
                    finally:
                        os.close(parent)
            fd = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            if not os.listdir(fd):  # an operator's mkdir has another mode than ours
                os.fchmod(fd, 0o700)
        except OSError as error:
            raise EnvironmentFailure(f"state directory {self._path}: {error.strerror}") from error
        self._fds.append(fd)
        return fd

    def _lock(self) -> None:
        fd = self._open("LOCK")
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise EnvironmentFailure(f"{self._path} is in use by another process") from error

    def _open(self, name: str) -> int:
        """Open or make a file of ours and check that it is one (dual-bank.md 2)."""
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_CREAT
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
                f"{self._path / name}: found {stat.filemode(info.st_mode)}, owner {info.st_uid}, "
                f"{info.st_nlink} links, expected a regular file of ours, mode 0600, one link"
            )

    def _size_files(self, banks: Sequence[int], ratchet: int, is_new: bool) -> None:
        """Full size for what provisioning makes; afterwards only for what the disk lost."""
        size = self._area + 2 * PAGE_SIZE
        made_with = self._records.number(_AREA_KEY)
        for fd in banks:
            found = os.fstat(fd).st_size
            was_other = made_with is not None and made_with != self._area
            if found > size or was_other or (0 < found < size and not is_new and not made_with):
                raise EnvironmentFailure(
                    f"{self._path}: a bank of {found} bytes, expected {size}; "
                    "storage.bank_size cannot change on an existing state directory"
                )
        with _failures(f"state directory {self._path}"):
            for fd, full in (*((bank, size) for bank in banks), (ratchet, RATCHET_SIZE)):
                is_short = os.fstat(fd).st_size < full
                if is_short:
                    os.posix_fallocate(fd, 0, full)
                if is_short or is_new:  # a killed process may have left it whole, not yet synced
                    os.fsync(fd)
            # For the name of the write-ahead log as well: SQLite ignores an error of its own fsync.
            os.fsync(self._dir)

    def _make_ballast(self) -> None:
        """Where there is plenty; its descriptor is closed, or dropping it would free nothing."""
        if self.free_bytes() <= 4 * BALLAST_SIZE:
            return
        fd = self._open("ballast")
        with contextlib.suppress(StorageFullError), _failures("ballast"):
            if os.fstat(fd).st_size < BALLAST_SIZE:
                os.posix_fallocate(fd, 0, BALLAST_SIZE)
                os.fsync(fd)
        self._fds.remove(fd)
        os.close(fd)

    def _drop_ballast(self) -> bool:
        with _failures("ballast"):
            try:
                os.unlink("ballast", dir_fd=self._dir)
            except FileNotFoundError:
                return False
        return True

    # --- records ----------------------------------------------------------------------------------

    def _open_database(self) -> Sequence[_Row]:
        for name in (_DATABASE, f"{_DATABASE}-wal", f"{_DATABASE}-journal", _NEW):
            self._settle(name)
        if not (self._path / _NEW).exists():
            if self._has_database():
                try:
                    return self._connect()
                # SQLite's own words about a damaged schema need not be UTF-8.
                except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
                    if isinstance(error, sqlite3.Error) and _code(error) in _NOT_DAMAGE:
                        with _failures(_DATABASE):
                            raise
                self._write_new_database(self._salvage())
            else:
                self._write_new_database({})
        self._replace_database()
        with _failures(_DATABASE):
            return self._connect()

    def _settle(self, name: str) -> None:
        """A file that SQLite will open: check it, and rule 4 of the module."""
        try:
            fd = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._dir)
        except FileNotFoundError:
            return
        except OSError as error:
            raise EnvironmentFailure(f"{self._path / name}: {error.strerror}") from error
        try:
            self._check_file(name, os.fstat(fd))
            with _failures(name):
                os.fsync(fd)
                forget_cached(fd)
        finally:
            os.close(fd)

    def _has_database(self) -> bool:
        """An empty one is none: a database gets its name when it is whole."""
        try:
            return os.stat(_DATABASE, dir_fd=self._dir).st_size > 0
        except FileNotFoundError:
            return False

    def _connect(self) -> Sequence[_Row]:
        old_mask = os.umask(0o077)
        try:
            connection = sqlite3.connect(self._path / _DATABASE, isolation_level=None)
            self._connection = connection
            connection.text_factory = lambda octets: octets.decode(errors="backslashreplace")
            for name, value, expected in _SETTINGS:
                # To its last row: else an error in what the PRAGMA writes would pass unseen.
                connection.execute(f"PRAGMA {name}={value}").fetchall()
                row = connection.execute(f"PRAGMA {name}").fetchone()
                found = row[0] if row else 0  # a library built without the feature says nothing
                if found != expected:
                    raise StorageError(f"{_DATABASE}: {name} is {found}, expected {expected}")
            if connection.execute("PRAGMA quick_check").fetchone()[0] != "ok":
                raise sqlite3.DatabaseError("quick_check failed")
            schema = connection.execute("SELECT type, name, sql FROM sqlite_master").fetchall()
            if schema != [("table", "record", _SCHEMA)]:
                raise sqlite3.DatabaseError("another schema")
            return list(_rows(connection, _SELECTS[0]))
        finally:
            os.umask(old_mask)

    def _salvage(self) -> dict[str, _Row]:
        """What can be read of a damaged database, from either end, marked with ``LOST_KEY``."""
        salvaged: dict[str, _Row] = {}
        connection, self._connection = self._connection, None
        if connection is not None:
            for select in _SELECTS:
                with contextlib.suppress(sqlite3.Error, UnicodeDecodeError):
                    for row in _rows(connection, select):
                        salvaged[row[0]] = row
            with contextlib.suppress(sqlite3.Error):
                connection.close()
        salvaged[LOST_KEY] = (LOST_KEY, b"damaged", checksum(LOST_KEY, b"damaged"))
        return salvaged

    def _write_new_database(self, rows: dict[str, _Row]) -> None:
        """Make ``node.db.new``, complete and durable before it has that name."""
        with _failures(_DATABASE):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(_PART, dir_fd=self._dir)
            old_mask = os.umask(0o077)
            try:
                with contextlib.closing(
                    sqlite3.connect(self._path / _PART, isolation_level=None)
                ) as connection:
                    connection.execute("PRAGMA journal_mode=OFF").fetchall()
                    connection.execute("PRAGMA synchronous=OFF")  # one fsync of ours serves
                    connection.execute("BEGIN")
                    connection.execute(_SCHEMA)
                    connection.executemany("INSERT INTO record VALUES (?, ?, ?)", rows.values())
                    connection.execute("COMMIT")
            finally:
                os.umask(old_mask)
            fd = os.open(_PART, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._dir)
            try:
                # Both version octets of its header say WAL, so that no journal is needed for that.
                if os.pwrite(fd, b"\2\2", 18) != 2:
                    raise OSError(errno.EIO, "nothing was written")
                os.fsync(fd)
            finally:
                os.close(fd)
            os.rename(_PART, _NEW, src_dir_fd=self._dir, dst_dir_fd=self._dir)
            os.fsync(self._dir)

    def _replace_database(self) -> None:
        """Rule 5 of the module; repeatable from every point of it."""
        with _failures(_DATABASE):
            for suffix in ("-wal", "-shm", "-journal"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(f"{_DATABASE}{suffix}", dir_fd=self._dir)
            os.fsync(self._dir)
            os.rename(_NEW, _DATABASE, src_dir_fd=self._dir, dst_dir_fd=self._dir)
            os.fsync(self._dir)

    def _check_age(self) -> int:
        """Rule 6 of the module; the number of the last commit."""
        seen, found = self._ratchet.commit, self._records.number(_COMMIT_KEY)
        if found is None and not self._records.keys(""):
            found = 0  # nothing at all: new, or all of it is gone
        if found is not None and found < seen:
            for key in self._records.keys(""):
                if not key.startswith(KEPT_WHEN_STALE):
                    self._records.delete(key)
            self._records.put(LOST_KEY, b"stale")
        return max(seen, found or 0)

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


def _rows(connection: sqlite3.Connection, select: str) -> Iterator[_Row]:
    """All rows, in one of the two orders of ``_SELECTS``."""
    for key, value, crc in connection.execute(select):
        yield str(key), value or b"", crc or 0
