"""The supply goes between, and inside, any two system calls of an update on real files.

A process is traced while it carries one update through; from the trace every state is built that a
disk may hold after a cut: all that was written, only what was synced, each unsynced operation lost
or kept alone, the last write torn, a file grown and its new octets missing. The device is started
from each of them, and brought to the end. The same for starts that repair something: cut anywhere
and begun again, they end where they would have ended (I11).
"""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from home import BANK_SIZE, KEYS, SETTINGS, image
from processes import CHANGING, FILES, SENDING, household, needs_strace, strace
from survivors import Life, moments, quick_folder, survive

from firmware_node.adapters.storage import FileStorage
from firmware_node.boundary import Started
from firmware_node.node.banks import Banks, Outcome
from firmware_node.node.counters import Counters
from firmware_node.node.device import Device
from firmware_node.node.records import get_twice
from firmware_node.node.verification import verify_image
from firmware_node.rig.world import SeededEntropy

pytestmark = needs_strace
FACTORY, NEXT = image(1), image(3)
EVERY = 5  # without --long every fifth state is started, from a different one for each kind
SECTOR = 512  # bytes; a disk writes it whole or not at all
_CALL = re.compile(r"^\d+ +(\w+)\((.*)\) += (-?\d+)")
_FD = re.compile(r"^(?:\d+|AT_FDCWD)<(.*?)>$")


@dataclass(frozen=True, slots=True)
class Operation:
    """One traced call on the state directory; a mark has only a name."""

    name: str
    path: str = ""
    offset: int = 0
    data: bytes = b""
    size: int = 0
    target: str = ""


@dataclass(slots=True)
class Disk:
    """Files by name, each with its octets; a name may be gone and its file still be there."""

    names: dict[str, int] = field(default_factory=dict)
    files: dict[int, bytearray] = field(default_factory=dict)

    def copy(self) -> Disk:
        return Disk(dict(self.names), {key: bytearray(data) for key, data in self.files.items()})

    @classmethod
    def read_from(cls, directory: Path) -> Disk:
        """What is there; its files get negative numbers, those of a trace positive ones."""
        disk = cls()
        for number, path in enumerate(sorted(directory.iterdir()), 1):
            disk.names[path.name] = -number
            disk.files[-number] = bytearray(path.read_bytes())
        return disk

    def write_to(self, directory: Path) -> None:
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(mode=0o700)
        for name, number in self.names.items():
            path = directory / name
            path.touch(mode=0o600)
            path.write_bytes(self.files.get(number, b""))


@dataclass(frozen=True, slots=True)
class Change:
    """What an operation does to one file (its octets) or to the directory (its names)."""

    number: int  # of the file; 0: the directory
    operation: Operation
    torn_at: int | None = None

    def apply(self, disk: Disk) -> None:
        match self.operation:
            case Operation(name="create", path=path, size=number):
                disk.names[path] = number
                disk.files.setdefault(number, bytearray())
            case Operation(name="unlink", path=path):
                disk.names.pop(path, None)
            case Operation(name="rename", path=path, target=target):
                if path in disk.names:
                    disk.names[target] = disk.names.pop(path)
            case Operation(name="resize", size=size):
                data = disk.files.setdefault(self.number, bytearray())
                del data[size:]
                data.extend(bytes(size - len(data)))
            case Operation(name="allocate", size=size):
                data = disk.files.setdefault(self.number, bytearray())
                data.extend(bytes(max(0, size - len(data))))
            case Operation(name="write", offset=offset, data=octets):
                octets = octets[: self.torn_at]
                data = disk.files.setdefault(self.number, bytearray())
                data.extend(bytes(max(0, offset + len(octets) - len(data))))
                data[offset : offset + len(octets)] = octets


def traced(log: Path) -> list[str]:
    """With everything that is written."""
    return strace(log, "-xx", "-s", "200000", calls=("openat", *CHANGING, *SENDING))


def trace_update(kind: str) -> list[Operation]:
    """Run the daemon through an update; the operations on its state directory, and two marks."""
    with household() as home:
        home.fresh()
        home.offer(FILES[kind])
        log = home.root / "trace"
        code, errors = home.carry_through(*traced(log))
        assert code == 0, errors
        home.check_end(kind)
        alert = bytes.fromhex(home.alerts()[0]["hex"])
        return list(_read(log, home.state, set(), alert))


def trace_start(directory: Path) -> list[Operation]:
    """The operations of one start on ``directory/state``."""
    log = directory / "trace"
    command = [*traced(log), sys.executable]
    script = Path(__file__).with_name("recorded_start.py")
    there = {path.name for path in (directory / "state").iterdir()}
    subprocess.run([*command, str(script), str(directory)], check=True, capture_output=True)
    return list(_read(log, directory / "state", there))


def _read(log: Path, state: Path, known: set[str], alert: bytes = b"") -> Iterator[Operation]:
    """``known``: names that are there; ``alert``: the message whose sending is the mark *told*."""
    for line in log.read_text().splitlines():
        call = _CALL.match(line)
        if call is None or int(call[3]) < 0:
            continue
        name, arguments = call[1], [_text(part) for part in call[2].split(", ")]
        if name == "sendto":
            is_told = alert and alert in arguments[1].encode("latin-1")
            yield Operation("told" if is_told else "provisioned")  # it speaks, so it is
            continue
        path = _path(name, arguments)
        if not path.startswith(str(state)):
            continue
        path = path.removeprefix(str(state)).lstrip("/")
        match name:
            case "openat" if path and "O_CREAT" in call[2] and path not in known:
                known.add(path)
                yield Operation("create", path)
            case "pwrite64":
                yield Operation("write", path, int(arguments[3]), arguments[1].encode("latin-1"))
            case "fsync" | "fdatasync":
                yield Operation("sync", path)
            case "ftruncate":
                yield Operation("resize", path, size=int(arguments[1]))
            case "fallocate":
                yield Operation("allocate", path, size=int(arguments[2]) + int(arguments[3]))
            case "unlink" | "unlinkat":
                known.discard(path)
                yield Operation("unlink", path)
            case "rename" | "renameat" | "renameat2":
                known.discard(path)
                target = [part for part in arguments if "node.db" in part][-1]
                known.add(Path(target).name)
                yield Operation("rename", path, target=Path(target).name)


def _text(part: str) -> str:
    """An argument: strings and the paths of descriptors in clear, all else as it is."""
    return re.sub(
        r'"?((?:\\x[0-9a-f]{2})+)"?',
        lambda found: bytes.fromhex(found[1].replace("\\x", "")).decode("latin-1"),
        part,
    )


def _path(name: str, arguments: list[str]) -> str:
    descriptor = _FD.match(arguments[0])
    if name in ("openat", "unlinkat", "renameat", "renameat2"):
        relative = arguments[1]
        return (
            relative
            if relative.startswith("/") or not descriptor
            else (f"{descriptor[1]}/{relative}")
        )
    return descriptor[1] if descriptor else arguments[0]


@dataclass(frozen=True, slots=True)
class State:
    """What a disk may hold after a cut, and what the world had been told before it."""

    name: str
    disk: Disk
    told: frozenset[str]


def states(operations: list[Operation], before: Disk | None = None) -> Iterator[State]:
    """Every state, in the order of the operations; see the module. ``before``: what was there."""
    durable, told = before or Disk(), frozenset[str]()
    now = durable.copy()
    pending: list[Change] = []
    for index, operation in enumerate(operations):
        if operation.name in ("provisioned", "told"):
            told |= {operation.name}
            continue
        if operation.name == "sync":
            number = now.names.get(operation.path, 0)
            for change in pending:
                if change.number == number:
                    change.apply(durable)
            pending = [change for change in pending if change.number != number]
            yield State(f"{index} synced {operation.path}", _after(durable, pending), told)
            yield State(f"{index} synced alone {operation.path}", durable.copy(), told)
            continue
        change = _change(operation, now, index)
        if operation.name == "write":
            half = len(operation.data) // 2
            for at in sorted({half, min(half, SECTOR)}):
                torn = Change(change.number, operation, at)
                yield State(f"{index} torn at {at}", _after(durable, [*pending, torn]), told)
                yield State(f"{index} torn at {at} alone", _after(durable, [torn]), told)
            if operation.offset + len(operation.data) > len(durable.files.get(change.number, b"")):
                hollow = replace(operation, data=bytes(len(operation.data)))
                grown = Change(change.number, hollow)
                yield State(f"{index} size without data", _after(durable, [*pending, grown]), told)
                yield State(f"{index} size alone", _after(durable, [grown]), told)
        pending.append(change)
        change.apply(now)
        yield State(f"{index} all kept", now.copy(), told)
        yield State(f"{index} all lost", durable.copy(), told)
        if len(pending) < 2:
            continue
        for at, one in enumerate(pending):
            what = f"{one.operation.name} {one.operation.path} of {len(pending)}"
            rest = [*pending[:at], *pending[at + 1 :]]
            yield State(f"{index} without {at} {what}", _after(durable, rest), told)
            yield State(f"{index} with only {at} {what}", _after(durable, [one]), told)


def _change(operation: Operation, now: Disk, index: int) -> Change:
    if operation.name == "create":
        return Change(0, Operation("create", operation.path, size=index + 1))
    if operation.name in ("unlink", "rename"):
        return Change(0, operation)
    return Change(now.names[operation.path], operation)


def _after(durable: Disk, changes: list[Change]) -> Disk:
    disk = durable.copy()
    for change in changes:
        change.apply(disk)
    return disk


def check(state: State, directory: Path, kind: str) -> None:
    """Start from it, look at what is kept, and bring an update to its end."""
    state.disk.write_to(directory)
    storage = FileStorage(directory, BANK_SIZE)
    try:
        device = Device(SETTINGS, storage, KEYS, SeededEntropy(1), factory_image=FACTORY)
        notes = [getattr(effect, "name", "") for effect in device.step(Started(), 0)]
        storage.commit()
        if "provisioned" in state.told:
            assert "provisioned" not in notes
        assert not {"bank_fault", "nothing_to_run", "records_lost", "counters_lost"} & {*notes}
        assert not {"boot_record_rebuilt", "record_lost"} & {*notes}
        banks = _banks(storage)
        report = banks.start(Counters.first_rows())
        storage.commit()
        floor = int(get_twice(storage.records, "floor"))
        expected = 2 if kind == "good" else 1
        assert report.image.file_version in (1, 2)
        if "told" in state.told:
            assert (report.image.file_version, floor) == (expected, expected)
            assert not report.trial
            counters = Counters(storage.records, storage.ratchet)
            counters.start()
            assert counters.take() > 1000
        _complete(banks, storage, report.trial)
        assert int(get_twice(storage.records, "floor")) == 3 > floor
    finally:
        storage.close()


def _complete(banks: Banks, storage: FileStorage, trial: bool) -> None:
    if trial:
        banks.revert("test")
        storage.commit()
    banks.load(NEXT)
    storage.commit()
    banks.activate(Outcome("cs09"))
    storage.commit()
    again = _banks(storage)
    assert again.start({}).image.file_version == 3
    again.confirm()
    storage.commit()


def _banks(storage: FileStorage) -> Banks:
    return Banks(storage, SETTINGS, lambda data: verify_image(data, SETTINGS, KEYS), FACTORY)


@pytest.mark.parametrize("kind", ["good", "reverting"])
def test_every_state_that_a_cut_can_leave_starts_and_can_be_updated(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    every = 1 if request.config.getoption("--long") else EVERY
    started, marks = 0, set[str]()
    with quick_folder(tmp_path) as folder:
        for number, state in enumerate(states(trace_update(kind))):
            marks |= state.told
            if (number + len(kind)) % every:
                continue
            started += 1
            try:
                check(state, folder / "cut", kind)
            except BaseException as error:
                error.add_note(f"state {number}: {state.name}")
                raise
    assert started * every > 500
    assert marks == {"provisioned", "told"}


def rot(name: str, *offsets: int) -> Callable[[Path], None]:
    """A page of a file is lost at each of the offsets."""

    def damage(state: Path) -> None:
        octets = bytearray((state / name).read_bytes())
        for offset in offsets:
            octets[offset : offset + 4096] = bytes(b ^ 0x55 for b in octets[offset : offset + 4096])
        (state / name).write_bytes(octets)

    return damage


def rot_newest(name: str, first: int, form: str) -> Callable[[Path], None]:
    """Of two areas the one with the higher sequence number is lost."""

    def damage(state: Path) -> None:
        octets = (state / name).read_bytes()
        areas = (first, first + 4096)
        rot(name, max(areas, key=lambda at: struct.unpack_from(form, octets, at)[0]))(state)

    return damage


def remove(name: str) -> Callable[[Path], None]:
    return lambda state: (state / name).unlink()


def start_too_often(state: Path) -> None:
    for _ in range(SETTINGS.activation.trial_starts_max - 1):  # it had one already
        Life(state).storage.close()


TRAILERS = 73_728  # where the trailers begin: behind the image area
RECOVERIES: dict[str, tuple[str, Callable[[Path], None], str]] = {
    # what is repaired: the moment it happens at, the damage, a notification that shows it
    "a lost database": ("confirmed", remove("node.db"), "records_lost"),
    "a database of garbage": ("trial", rot("node.db", 0, 4096), "records_lost"),
    "a lost log": ("waiting", remove("node.db-wal"), "records_lost"),
    "a log whose header rotted": ("telling", rot("node.db-wal", 0), "records_lost"),
    "a bad image on trial": ("trial", rot("bank_b.img", 0), "image_reverted"),
    "a trial that started too often": ("trial", start_too_often, "image_reverted"),
    "a bad image that was confirmed": ("confirmed", rot("bank_b.img", 0), "running_other_bank"),
    "the only image": ("downloading", rot("bank_a.img", 0), "factory_image_restored"),
    "a resume point": ("downloading", rot_newest("bank_b.img", TRAILERS, "<22xQ"), "download_kept"),
    "one area of the ratchet": ("trial", rot_newest("ratchet.bin", 0, "<4xQ"), "image_running"),
    "the ratchet": ("confirmed", remove("ratchet.bin"), "record_lost"),
}


def summary(life: Life) -> tuple[object, ...]:
    """What a recovery leaves, as far as it must always be the same."""
    records, status = life.storage.records, life.device.status(0)
    return (
        life.running_version(),
        status["running_bank"],
        status["banks"],
        status["upgrade"],
        status["state"],
        len(life.outbox()),
        records.get("floor"),
    )


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with quick_folder(tmp_path_factory.mktemp("steps")) as folder:
        moments(folder)
        yield folder


@pytest.mark.parametrize("what", RECOVERIES)
def test_a_recovery_that_is_cut_anywhere_ends_where_it_would_have_ended(
    what: str, steps: Path, request: pytest.FixtureRequest
) -> None:
    moment, damage, shown = RECOVERIES[what]
    every = 1 if request.config.getoption("--long") else 2 * EVERY
    work = steps / "work"
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(steps / moment, work / "state")
    with Life(work / "state") as undamaged:
        kept = undamaged.kept()
    shutil.rmtree(work / "state")
    shutil.copytree(steps / moment, work / "state")
    damage(work / "state")
    before = Disk.read_from(work / "state")
    operations = trace_start(work)
    before.write_to(work / "state")
    with Life(work / "state") as undisturbed:
        assert shown in undisturbed.notes
        expected = summary(undisturbed)
    started = 0
    for number, state in enumerate(states(operations, before)):
        if number % every:
            continue
        started += 1
        state.disk.write_to(work / "state")
        try:
            with Life(work / "state") as again:
                assert summary(again) == expected
            if started % 10 == 1:
                state.disk.write_to(work / "state")
                survive(work / "state", kept)
        except BaseException as error:
            error.add_note(f"state {number}: {state.name}")
            raise
    assert started > 1
