"""What stands after a storage call that failed: each test is a fault that once left something."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from home import BANK_SIZE, HUB, KEYS, PPMID, SETTINGS, image
from processes import LIMIT_S, household
from survivors import FACTORY

from firmware_node.adapters.virtual_radio import AirClient, AirServer
from firmware_node.boundary import (
    PAGE_SIZE,
    Frame,
    FrameReceived,
    Input,
    NetworkUp,
    RatchetValues,
    SendConfirmed,
    SendFrame,
)
from firmware_node.errors import StorageError, StorageFullError
from firmware_node.node.assembly import Assembly, Trailer
from firmware_node.node.banks import Banks
from firmware_node.node.counters import RESERVE, Counters
from firmware_node.node.records import get_twice, put_twice
from firmware_node.node.verification import verify_image
from firmware_node.rig.memory_storage import Medium, MemoryStorage
from firmware_node.rig.world import SeededEntropy
from firmware_node.terms import BankId, ImageKey, ShortAddress


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


class Download:
    """An assembly on a medium, at some octet of a file of 100,000."""

    def __init__(self, size: int) -> None:
        self.medium = Medium(104 * 1024)
        self.storage = MemoryStorage(self.medium)
        self.file = image(2, size=100_000)
        banks = Banks(
            self.storage, SETTINGS, lambda data: verify_image(data, SETTINGS, KEYS), FACTORY
        )
        banks.start(Counters.first_rows())
        self.assembly = Assembly(self.storage, SETTINGS, banks, SeededEntropy(1))
        self.assembly.begin(ImageKey(0x121D, 0x0084, 2), len(self.file), 0)
        self.take(size)

    def take(self, size: int) -> None:
        end = self.assembly.offset + size
        while (at := self.assembly.offset) < min(end, len(self.file)):
            self.assembly.append(self.file[at : min(at + PAGE_SIZE, end)], 0)

    def trailers(self) -> list[int]:
        """The sizes that the two areas vouch for."""
        area = self.storage.bank(BankId.B)
        found = [Trailer.decode(area.read_trailer(number)) for number in (0, 1)]
        return [trailer.size if trailer else 0 for trailer in found]


def test_a_checkpoint_without_space_is_tried_again_and_spares_the_area_relied_on() -> None:
    download = Download(70_000)
    assert download.trailers() == [0, 65_536]
    download.medium.full = True
    download.assembly.timer(60_000)
    assert download.assembly.wake_at is not None  # it runs on
    download.assembly.flush()
    assert download.trailers() == [0, 65_536]
    download.medium.full = False
    download.assembly.timer(120_000)
    assert download.trailers() == [69_632, 65_536]


def test_the_last_page_waits_for_space_as_any_other() -> None:
    download = Download(100_000)
    download.medium.full = True
    with pytest.raises(StorageFullError):
        download.take(60)
    assert download.assembly.offset == len(download.file)
    with pytest.raises(StorageFullError):
        download.assembly.append(b"", 0)
    download.medium.full = False
    download.assembly.append(b"", 0)
    assert download.assembly.finish()[0] == len(download.file)
    held = download.storage.bank(BankId.B).read(0, len(download.file))
    assert held == download.file
    assert download.medium.pending == []  # durable


def test_a_radio_that_is_closed_acknowledges_nothing_more() -> None:
    """A step that fails closes the radio before anything is flushed."""

    async def run(path: Path) -> None:
        heard: asyncio.Queue[Input] = asyncio.Queue()
        joined = asyncio.Event()

        def take(item: Input) -> None:
            if isinstance(item, NetworkUp):
                joined.set()
            if isinstance(item, FrameReceived):
                client.close()

        server = AirServer(path, HUB, heard.put_nowait)
        client = AirClient(path, PPMID, take)
        await server.open()
        task = asyncio.create_task(client.run())
        async with asyncio.timeout(LIMIT_S):
            await joined.wait()
            server.send(SendFrame(Frame(ShortAddress(1), 1, 1, 0x0109, 0x0704, b"\x01"), tag=7))
            server.flush()
            while not isinstance(item := await heard.get(), SendConfirmed):
                pass
        assert item == SendConfirmed(7, delivered=False)
        task.cancel()
        server.close()

    with household() as home:
        asyncio.run(run(home.root / "another-air"))
