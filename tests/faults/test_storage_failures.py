"""What stands after a storage call that failed: each test is a fault that once left something."""

from __future__ import annotations

import pytest
from home import BANK_SIZE

from firmware_node.boundary import (
    RatchetValues,
)
from firmware_node.errors import StorageError
from firmware_node.node.counters import RESERVE, Counters
from firmware_node.node.records import get_twice, put_twice
from firmware_node.rig.memory_storage import Medium, MemoryStorage


class FailingRatchet:
    """Refuses to rise while told so."""

    def __init__(self) -> None:
        self.fails = False
        self.values = RatchetValues()

    def read(self) -> RatchetValues:
        return self.values

    def raise_now(self, values: RatchetValues) -> None:
        if self.fails:
            raise StorageError("ratchet.bin: Input/output error")
        self.values = RatchetValues(*map(max, self.values, values))

    def raise_after_commit(self, values: RatchetValues) -> None:
        self.raise_now(values)


def test_a_reservation_that_failed_leaves_no_counters_to_use() -> None:
    storage, ratchet = MemoryStorage(Medium(BANK_SIZE)), FailingRatchet()
    for key, value in Counters.first_rows().items():
        put_twice(storage.records, key, value)
    counters = Counters(storage.records, ratchet)
    counters.start()
    ratchet.fails = True
    for _ in range(2):  # the second must not find what the first could not reserve
        with pytest.raises(StorageError):
            counters.take()
    ratchet.fails = False
    assert counters.take() < ratchet.values.counter_ceiling


def test_a_start_lifts_the_lower_home_of_the_own_counter() -> None:
    storage, ratchet = MemoryStorage(Medium(BANK_SIZE)), FailingRatchet()
    ratchet.values = RatchetValues(counter_ceiling=3 * RESERVE)
    put_twice(storage.records, "counter/own", b"1000")
    Counters(storage.records, ratchet).start()
    assert get_twice(storage.records, "counter/own") == b"3000"
    put_twice(storage.records, "counter/own", b"7000")
    Counters(storage.records, ratchet).start()
    assert ratchet.values.counter_ceiling == 7000
