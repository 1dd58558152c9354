"""Storage in memory that forgets as a disk does: for power cuts at any call, and for fleets.

``Medium`` is what survives. Bank writes are pending until a sync; at a cut each pending write is
kept, lost or torn by the seed. Records are durable with a commit, the ratchet with its own write.

Banks are kept in pages without the zeros at their end, and equal pages can be held once: a fleet
gives ``share`` a look-up of the pages of its images, so a bank costs a device its page numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import overload

from firmware_node.boundary import PAGE_SIZE, Entropy, RatchetValues
from firmware_node.errors import RecordLostError, StorageFullError
from firmware_node.rig.world import SeededEntropy
from firmware_node.terms import BankId

FREE_BYTES = 64 * 1024 * 1024


class PowerCut(BaseException):
    """The supply went in the middle of a storage call; the machine it hits is thrown away."""


class PagedOctets:
    """A fixed number of octets, zero at first; pages with equal content may be held once."""

    __slots__ = ("_pages", "_share")

    def __init__(self, size: int, share: Callable[[bytes], bytes] = bytes) -> None:
        assert size % PAGE_SIZE == 0
        self._pages = [b""] * (size // PAGE_SIZE)
        self._share = share

    def __len__(self) -> int:
        return len(self._pages) * PAGE_SIZE

    def __bytes__(self) -> bytes:
        return self.read(0, len(self))

    def read(self, offset: int, size: int) -> bytes:
        """``size`` octets, as many as there are."""
        first, last = offset // PAGE_SIZE, -(-(offset + size) // PAGE_SIZE)
        octets = b"".join(page.ljust(PAGE_SIZE, b"\0") for page in self._pages[first:last])
        offset -= first * PAGE_SIZE
        return octets[offset : offset + size]

    def write(self, offset: int, data: bytes) -> None:
        """Over whatever is there; not beyond the end."""
        assert 0 <= offset <= offset + len(data) <= len(self)
        at = 0
        while at < len(data):
            number, within = divmod(offset + at, PAGE_SIZE)
            part = bytes(data[at : at + PAGE_SIZE - within])
            if len(part) < PAGE_SIZE:
                page = self._pages[number].ljust(PAGE_SIZE, b"\0")
                page = page[:within] + part + page[within + len(part) :]
            else:
                page = part
            self._pages[number] = self._share(page.rstrip(b"\0"))
            at += len(part)

    @property
    def pages(self) -> list[bytes]:
        """The pages, each without the zeros at its end."""
        return self._pages

    @pages.setter
    def pages(self, pages: Sequence[bytes]) -> None:
        assert len(pages) == len(self._pages)
        self._pages = [self._share(page) for page in pages]

    @overload
    def __getitem__(self, key: int) -> int: ...
    @overload
    def __getitem__(self, key: slice) -> bytes: ...
    def __getitem__(self, key: int | slice) -> bytes | int:
        """As of a bytearray, in steps of one."""
        if isinstance(key, slice):
            start, stop, _ = key.indices(len(self))
            return self.read(start, max(stop - start, 0))
        return bytes(self)[key]

    def __iter__(self) -> Iterator[int]:
        return iter(bytes(self))

    def __setitem__(self, key: int | slice, value: bytes | int) -> None:
        """As of a bytearray; the size never changes."""
        start, stop = key.indices(len(self))[:2] if isinstance(key, slice) else (key, key + 1)
        octets = value if isinstance(value, bytes) else bytes((value,))
        assert len(octets) == stop - start
        self.write(start, octets)


class Medium:
    """What survives a power cut, and the plan of when it comes."""

    __slots__ = (
        "_entropy",
        "area",
        "banks",
        "bytes_written",
        "calls",
        "cut_at",
        "full",
        "pending",
        "ratchet",
        "ratchet_raised",
        "records",
        "syncs",
    )

    def __init__(
        self,
        bank_size: int,
        *,
        seed: int = 0,
        entropy: Entropy | None = None,
        share: Callable[[bytes], bytes] = bytes,
    ) -> None:
        self.area = -(-bank_size // PAGE_SIZE) * PAGE_SIZE
        self.banks = {bank: PagedOctets(self.area + 2 * PAGE_SIZE, share) for bank in BankId}
        self.pending: list[tuple[BankId, int, bytes]] = []
        self.records: dict[str, bytes] = {}
        self.ratchet: RatchetValues | None = RatchetValues()  # None: neither area is readable
        self.ratchet_raised = RatchetValues()  # since then; a zero is still not known
        self.calls = 0
        self.syncs = 0
        self.bytes_written = 0
        self.cut_at: int | None = None
        self.full = False
        self._entropy = entropy or SeededEntropy(seed)

    def call(self) -> bool:
        """Count one storage call; True: this is the one the cut hits."""
        self.calls += 1
        return self.calls == self.cut_at

    def power_cycle(self) -> None:
        """Every write that was not synced is kept, lost or torn."""
        for bank, offset, data in self.pending:
            fate = self._entropy.below(3)
            if fate == 1:
                continue
            size = len(data) if fate == 0 else self._entropy.below(len(data) + 1)
            self.banks[bank].write(offset, data[:size])
        self.pending.clear()
        self.cut_at = None


class _Records:
    __slots__ = ("changed", "lost", "rows")

    def __init__(self, medium: Medium) -> None:
        self.rows = dict(medium.records)
        self.lost: set[str] = set()
        self.changed = False  # since the last commit

    def get(self, key: str) -> bytes | None:
        """See ``boundary.Records``."""
        if key in self.lost:
            raise RecordLostError(f"record {key}: its checksum is wrong")
        return self.rows.get(key)

    def put(self, key: str, value: bytes) -> None:
        """See ``boundary.Records``."""
        self.lost.discard(key)
        if self.rows.get(key) != value:
            self.rows[key] = value
            self.changed = True

    def delete(self, key: str) -> None:
        """See ``boundary.Records``."""
        self.lost.discard(key)
        if self.rows.pop(key, None) is not None:
            self.changed = True

    def keys(self, prefix: str) -> Sequence[str]:
        """See ``boundary.Records``."""
        return sorted(key for key in self.rows.keys() | self.lost if key.startswith(prefix))


class _Bank:
    __slots__ = ("_bank", "_medium")

    def __init__(self, medium: Medium, bank: BankId) -> None:
        self._medium = medium
        self._bank = bank

    @property
    def size(self) -> int:
        """See ``boundary.BankArea``."""
        return self._medium.area

    def write(self, offset: int, data: bytes) -> None:
        """See ``boundary.BankArea``; a flash takes whole pages, so other offsets are our bug."""
        assert offset % PAGE_SIZE == 0 and offset + len(data) <= self.size
        self._write(offset, data)

    def read(self, offset: int, size: int) -> bytes:
        """See ``boundary.BankArea``; what is pending is seen, as in a page cache."""
        durable = self._medium.banks[self._bank].read(offset, size)
        if not any(bank is self._bank for bank, _, _ in self._medium.pending):
            return durable
        octets = bytearray(durable)
        for bank, at, data in self._medium.pending:
            if bank is self._bank and at < offset + size and at + len(data) > offset:
                part = data[max(offset - at, 0) : offset + size - at]
                begin = max(at - offset, 0)
                octets[begin : begin + len(part)] = part
        return bytes(octets)

    def write_trailer(self, area: int, record: bytes) -> None:
        """See ``boundary.BankArea``."""
        self._write(self.size + area * PAGE_SIZE, record)

    def read_trailer(self, area: int) -> bytes:
        """See ``boundary.BankArea``."""
        return self.read(self.size + area * PAGE_SIZE, PAGE_SIZE)

    def sync(self) -> None:
        """See ``boundary.BankArea``."""
        medium = self._medium
        if medium.call():
            raise PowerCut
        medium.syncs += 1
        for bank, at, data in medium.pending:
            if bank is self._bank:
                medium.banks[bank].write(at, data)
        medium.pending = [entry for entry in medium.pending if entry[0] is not self._bank]

    def _write(self, offset: int, data: bytes) -> None:
        medium = self._medium
        if medium.full:
            raise StorageFullError("no space")
        hit = medium.call()
        medium.bytes_written += len(data)
        medium.pending.append((self._bank, offset, data))
        if hit:
            raise PowerCut


class _Ratchet:
    __slots__ = ("_medium", "queued")

    def __init__(self, medium: Medium) -> None:
        self._medium = medium
        self.queued: RatchetValues | None = None

    def read(self) -> RatchetValues:
        """See ``boundary.Ratchet``."""
        if self._medium.ratchet is None:
            raise RecordLostError("ratchet: neither area is readable")
        return self._medium.ratchet

    def raise_now(self, values: RatchetValues) -> None:
        """See ``boundary.Ratchet``."""
        if self._medium.call():
            raise PowerCut
        medium = self._medium
        medium.syncs += 1
        raised = RatchetValues(*map(max, medium.ratchet or medium.ratchet_raised, values))
        if medium.ratchet is None and not all(raised):
            medium.ratchet_raised = raised  # what was lost is never taken for zero
        else:
            medium.ratchet, medium.ratchet_raised = raised, RatchetValues()

    def raise_after_commit(self, values: RatchetValues) -> None:
        """See ``boundary.Ratchet``."""
        self.queued = RatchetValues(*map(max, self.queued or values, values))


class MemoryStorage:
    """``boundary.Storage`` on a ``Medium``; one for each life of the machine."""

    __slots__ = ("_banks", "medium", "ratchet", "records")

    def __init__(self, medium: Medium) -> None:
        self.medium = medium
        self.records = _Records(medium)
        self.ratchet = _Ratchet(medium)
        self._banks = {bank: _Bank(medium, bank) for bank in BankId}

    def bank(self, bank: BankId) -> _Bank:
        """See ``boundary.Storage``."""
        return self._banks[bank]

    def free_bytes(self) -> int:
        """See ``boundary.Storage``."""
        return 0 if self.medium.full else FREE_BYTES

    def commit(self) -> None:
        """See ``boundary.Storage``; a cut hits before the commit or right after it."""
        if self.records.changed:
            self.records.changed = False
            if self.medium.call():
                raise PowerCut
            self.medium.syncs += 1
            self.medium.records = dict(self.records.rows)
            if self.medium.call():
                raise PowerCut
        if self.ratchet.queued is not None:
            values, self.ratchet.queued = self.ratchet.queued, None
            self.ratchet.raise_now(values)
