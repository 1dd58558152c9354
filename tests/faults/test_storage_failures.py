"""What stands after a storage call that failed: each test is a fault that once left something."""

from __future__ import annotations

import asyncio
import itertools
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from home import BANK_SIZE, HUB, KEYS, PPMID, SETTINGS, image
from processes import LIMIT_S, household, looks, needs_strace, strace
from survivors import FACTORY, Life, moments, quick_folder

from firmware_node.adapters.storage import FileStorage
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
from firmware_node.errors import EnvironmentFailure, StorageError, StorageFullError
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


@needs_strace
def test_every_new_folder_above_the_state_directory_is_made_durable(tmp_path: Path) -> None:
    log, script = tmp_path / "trace", Path(__file__).with_name("recorded_start.py")
    command = [*strace(log, calls=("mkdir", "fsync")), sys.executable, str(script)]
    subprocess.run([*command, str(tmp_path / "var" / "lib")], check=True)
    calls = re.findall(r"(mkdir|fsync)\([^/]*([^>\"]*)", log.read_text())
    folders = [tmp_path, tmp_path / "var", tmp_path / "var" / "lib", tmp_path / "var/lib/state"]
    for at, (above, made) in enumerate(itertools.pairwise(folders)):
        assert calls[2 * at : 2 * at + 2] == [("mkdir", str(made)), ("fsync", str(above))]
    assert (tmp_path / "var" / "lib" / "state").stat().st_mode & 0o777 == 0o700


@pytest.fixture(scope="module")
def confirmed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with quick_folder(tmp_path_factory.mktemp("moments")) as folder:
        moments(folder)
        yield folder / "confirmed"


@pytest.mark.parametrize("name", ["bank_b.img", "ratchet.bin"])
@needs_strace
def test_a_bad_block_costs_what_stood_there_and_not_the_device(name: str, confirmed: Path) -> None:
    with household() as home:
        shutil.copytree(confirmed, home.state)
        with Life(home.state) as life:
            kept = life.kept()
        log = home.root / "trace"
        inject = "inject=pread64:error=EIO:when=1+"
        options = ("-P", str(home.state / name), "-e", inject)
        device = home.run(*strace(log, *options, calls=("pread64",)))
        status = None
        for _ in looks(device):
            status = home.status()
            if status is not None:
                break
        assert status is not None
        assert "INJECTED" in log.read_text()
        expected = ("A", "00000001") if name == "bank_b.img" else ("B", "00000002")
        running = status["running_bank"]
        assert (running, status["banks"][running]["version"]) == expected
        assert status["counters"]["own_ceiling"] >= kept.own_ceiling


@pytest.mark.parametrize(
    "name", ["LOCK", "bank_a.img", "bank_b.img", "ratchet.bin", "node.db", "node.db-wal"]
)
@pytest.mark.parametrize("what", ["link", "second name", "mode", "folder"])
def test_a_file_that_is_not_ours_alone_is_refused_and_left_as_it_is(
    what: str, name: str, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    FileStorage(state, BANK_SIZE).close()
    path, elsewhere = state / name, tmp_path / "elsewhere"
    path.touch(mode=0o600)
    match what:
        case "link":
            path.rename(elsewhere)
            path.symlink_to(elsewhere)
        case "second name":
            elsewhere.hardlink_to(path)
        case "mode":
            path.chmod(0o644)
        case "folder":
            path.unlink()
            path.mkdir()
    before = path.lstat()
    with pytest.raises(EnvironmentFailure, match=name):
        FileStorage(state, BANK_SIZE)
    after = path.lstat()
    assert (after.st_mode, after.st_ino, after.st_nlink) == (
        before.st_mode,
        before.st_ino,
        before.st_nlink,
    )


def test_a_daemon_says_in_one_line_why_it_refuses_a_state_directory() -> None:
    with household() as home:
        FileStorage(home.state, BANK_SIZE).close()
        (home.state / "bank_b.img").chmod(0o640)
        code, errors = home.carry_through()
        assert (code, errors.count("\n")) == (3, 1)
        assert "bank_b.img: found -rw-r-----, " in errors and "expected a regular file" in errors
