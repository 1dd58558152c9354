"""Plain files of the state directory that are written in place: the banks and the ratchet.

Both are made once, with their full size, by ``storage`` and never renamed, truncated, unlinked or
grown. Ordering rules of the ratchet (dual-bank.md 6):

1. There is always one area that was synced with the values in force; only the other is written.
2. ``raise_now`` writes it and syncs; then the two areas change roles.
3. ``committed`` writes it without a sync, so it costs no fsync and may be lost or torn; it says
   which commit of the records was durable before. Records older than that went back in time: a
   write-ahead log whose header rotted is ignored by SQLite without a word.
4. A value that cannot be read is unknown and stays so until somebody who knows it raises it; it is
   never zero (dual-bank.md 6, last sentence).

Octets that cannot be read any more read as zeros: no check lets them pass, so a bad block costs a
bank or an area of the ratchet and not the device, and writing it anew often heals it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from firmware_node.boundary import PAGE_SIZE, RatchetValues
from firmware_node.errors import RecordLostError, StorageError, StorageFullError

RATCHET_SIZE = 2 * PAGE_SIZE
_RATCHET = struct.Struct("<4sQQQQ")  # magic, sequence, ceiling, floor, commit; then CRC32
_RATCHET_MAGIC = b"RTC2"
_UNKNOWN = 2**64 - 1


@contextlib.contextmanager
def file_failures(what: str, *, full: type[StorageError] = StorageError) -> Iterator[None]:
    """Turn operating-system errors into ours; ``full``: what a full disk is.

    It is an error as any other where nothing may be tried again: a sync that failed, for whatever
    reason, may have dropped what it should have written.
    """
    try:
        yield
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise (full if is_full else StorageError)(f"{what}: {error.strerror or error}") from error


def forget_cached(fd: int) -> None:
    """Let the next read come from the medium; what was not yet synced stays."""
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


class BankFile:
    """One bank file: image area, then two trailer pages.

    After ``sync``, and at a start, reads come from the medium: else a read-back would compare the
    page cache with itself.
    """

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
        self._write(data, offset)

    def read(self, offset: int, size: int) -> bytes:
        """See ``boundary.BankArea``."""
        assert offset + size <= self._size
        return _read(self._fd, size, offset, self._name)

    def write_trailer(self, area: int, record: bytes) -> None:
        """See ``boundary.BankArea``."""
        assert area in (0, 1) and len(record) <= PAGE_SIZE
        self._write(record, self._size + area * PAGE_SIZE)

    def read_trailer(self, area: int) -> bytes:
        """See ``boundary.BankArea``."""
        return _read(self._fd, PAGE_SIZE, self._size + area * PAGE_SIZE, self._name)

    def sync(self) -> None:
        """See ``boundary.BankArea``."""
        with file_failures(self._name):
            os.fdatasync(self._fd)
            forget_cached(self._fd)

    def _write(self, data: bytes, offset: int) -> None:
        with file_failures(self._name, full=StorageFullError):
            _write(self._fd, data, offset)


class _Area(NamedTuple):
    """What one area says; ``None``: unknown."""

    sequence: int
    ceiling: int | None
    floor: int | None
    commit: int | None

    def encode(self) -> bytes:
        values = (_UNKNOWN if value is None else value for value in self[1:])
        body = _RATCHET.pack(_RATCHET_MAGIC, self.sequence, *values)
        return body + zlib.crc32(body).to_bytes(4, "little")

    @classmethod
    def decode(cls, data: bytes) -> _Area | None:
        """None: blank, torn or rotten."""
        body = data[: _RATCHET.size]
        crc = int.from_bytes(data[_RATCHET.size : _RATCHET.size + 4], "little")
        magic, sequence, ceiling, floor, commit = _RATCHET.unpack(body)
        if magic != _RATCHET_MAGIC or zlib.crc32(body) != crc:
            return None
        return cls(sequence, _known(ceiling), _known(floor), _known(commit))


class RatchetFile:
    """See the module and ``boundary.Ratchet``; ``load`` comes first."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._now = _Area(0, None, None, None)
        self._durable = 1  # the area that must not be written
        self._both_readable = False
        self._queued: RatchetValues | None = None

    @property
    def commit(self) -> int:
        """The newest commit that was durable for certain; 0: none is known."""
        return self._now.commit or 0

    def load(self, *, is_new: bool) -> None:
        """Read both areas. ``is_new``: where the second was never written, all values are zero.

        Raises:
            StorageError: the medium failed.
        """
        with file_failures("ratchet.bin"):
            # A killed process may have left an unsynced area; nothing is built on it before this.
            os.fdatasync(self._fd)
            forget_cached(self._fd)
        data = [_read(self._fd, PAGE_SIZE, at, "ratchet.bin") for at in (0, PAGE_SIZE)]
        areas = [_Area.decode(area) for area in data]
        known = [area for area in areas if area is not None]
        self._both_readable = len(known) == 2
        if known:
            newest = max(known, key=lambda area: area.sequence)
            self._durable = areas.index(newest)
            self._now = _Area(
                newest.sequence,
                _highest(area.ceiling for area in known),
                _highest(area.floor for area in known),
                _highest(area.commit for area in known),
            )
        elif is_new and not any(data[1]):  # the first write of all may have been torn
            self._now = _Area(0, 0, 0, 0)

    def read(self) -> RatchetValues:
        """See ``boundary.Ratchet``; lost as well while one of the two values is unknown."""
        if self._now.ceiling is None or self._now.floor is None:
            raise RecordLostError("ratchet.bin: no area has both values")
        return RatchetValues(self._now.ceiling, self._now.floor)

    def raise_now(self, values: RatchetValues) -> None:
        """See ``boundary.Ratchet``; a zero says nothing about its value."""
        self._raise(values, self._now.commit)

    def raise_after_commit(self, values: RatchetValues) -> None:
        """See ``boundary.Ratchet``."""
        self._queued = RatchetValues(*map(max, self._queued or values, values))

    def flush(self) -> None:
        """Write what waited for a commit that had no records to write."""
        if self._queued is not None:
            queued, self._queued = self._queued, None
            self.raise_now(queued)

    def committed(self, commit: int) -> None:
        """The records' commit of this number is durable: write what waited for it, and note it."""
        queued, self._queued = self._queued, None
        if queued is None or not self._raise(queued, commit):
            self._write(self._now._replace(sequence=self._now.sequence + 1, commit=commit))

    def _raise(self, values: RatchetValues, commit: int | None) -> bool:
        """Whether there was anything to write."""
        now = self._now
        ceiling = _highest((now.ceiling, values.counter_ceiling or None))
        floor = _highest((now.floor, values.rollback_floor or None))
        if (ceiling, floor) == (now.ceiling, now.floor) and self._both_readable:
            return False
        self._write(_Area(now.sequence + 1, ceiling, floor, commit))
        with file_failures("ratchet.bin"):
            os.fdatasync(self._fd)
        self._durable = 1 - self._durable
        return True

    def _write(self, area: _Area) -> None:
        with file_failures("ratchet.bin"):
            _write(self._fd, area.encode(), (1 - self._durable) * PAGE_SIZE)
        self._both_readable |= self._now.sequence > 0
        self._now = area


def _known(value: int) -> int | None:
    return None if value == _UNKNOWN else value


def _highest(values: Iterable[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)


def _write(fd: int, data: bytes, offset: int) -> None:
    rest = memoryview(data)
    while rest:
        written = os.pwrite(fd, rest, offset)
        if written <= 0:
            raise OSError(errno.EIO, "nothing was written")
        rest, offset = rest[written:], offset + written


def _read(fd: int, size: int, offset: int, what: str) -> bytes:
    """Exactly ``size`` octets; see the module for those that cannot be read."""
    parts = []
    with file_failures(what):
        while size:
            try:
                part = os.pread(fd, size, offset)
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                part = b""
            part = part or bytes(size)
            parts.append(part)
            offset, size = offset + len(part), size - len(part)
    return b"".join(parts)
