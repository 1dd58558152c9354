"""Storage in memory that forgets as a disk does: for power cuts at any call.

``Medium`` is what survives. Bank writes are pending until a sync; at a cut each pending write is
kept, lost or torn by the seed. Records are durable with a commit, the ratchet with its own write.
"""

from __future__ import annotations

from collections.abc import Sequence

from firmware_node.boundary import PAGE_SIZE, RatchetValues
from firmware_node.errors import RecordLostError, StorageFullError
from firmware_node.rig.world import SeededEntropy
from firmware_node.terms import BankId

FREE_BYTES = 64 * 1024 * 1024


class PowerCut(BaseException):
    """The supply went in the middle of a storage call; the machine it hits is thrown away."""


class Medium:
    """What survives a power cut, and the plan of when it comes."""

    def __init__(self, bank_size: int, *, seed: int = 0) -> None:
        self.area = -(-bank_size // PAGE_SIZE) * PAGE_SIZE
        self.banks = {bank: bytearray(self.area + 2 * PAGE_SIZE) for bank in BankId}
        self.pending: list[tuple[BankId, int, bytes]] = []
        self.records: dict[str, bytes] = {}
        self.ratchet: RatchetValues | None = RatchetValues()  # None: neither area is readable
        self.ratchet_raised = RatchetValues()  # since then; a zero is still not known
        self.calls = 0
        self.syncs = 0
        self.bytes_written = 0
        self.cut_at: int | None = None
        self.full = False
        self._entropy = SeededEntropy(seed)

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
            self.banks[bank][offset : offset + size] = data[:size]
        self.pending.clear()
        self.cut_at = None


class _Records:
    def __init__(self, medium: Medium) -> None:
        self.rows = dict(medium.records)
        self.lost: set[str] = set()

    def get(self, key: str) -> bytes | None:
        """See ``boundary.Records``."""
        if key in self.lost:
            raise RecordLostError(f"record {key}: its checksum is wrong")
        return self.rows.get(key)

    def put(self, key: str, value: bytes) -> None:
        """See ``boundary.Records``."""
        self.lost.discard(key)
        self.rows[key] = value

    def delete(self, key: str) -> None:
        """See ``boundary.Records``."""
        self.lost.discard(key)
        self.rows.pop(key, None)

    def keys(self, prefix: str) -> Sequence[str]:
        """See ``boundary.Records``."""
        return sorted(key for key in self.rows.keys() | self.lost if key.startswith(prefix))


class _Bank:
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
        octets = bytearray(self._medium.banks[self._bank])
        for bank, at, data in self._medium.pending:
            if bank is self._bank:
                octets[at : at + len(data)] = data
        return bytes(octets[offset : offset + size])

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
                medium.banks[bank][at : at + len(data)] = data
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
        if self.records.rows != self.medium.records:
            if self.medium.call():
                raise PowerCut
            self.medium.syncs += 1
            self.medium.records = dict(self.records.rows)
            if self.medium.call():
                raise PowerCut
        if self.ratchet.queued is not None:
            values, self.ratchet.queued = self.ratchet.queued, None
            self.ratchet.raise_now(values)
