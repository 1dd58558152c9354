"""The supply goes between, and inside, any two system calls of an update on real files.

A process is traced while it carries one update through; from the trace every state is built that a
disk may hold after a cut: all that was written, only what was synced, each unsynced operation lost
or kept alone, the last write torn. The device is started from each of them, and brought to the end.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from home import BANK_SIZE, KEYS, SETTINGS, image

from firmware_node.adapters.storage import FileStorage
from firmware_node.boundary import Started
from firmware_node.node.banks import Banks, Outcome
from firmware_node.node.counters import Counters
from firmware_node.node.device import Device
from firmware_node.node.records import get_twice
from firmware_node.node.verification import verify_image
from firmware_node.rig.world import SeededEntropy

STRACE = shutil.which("strace")
needs_strace = pytest.mark.skipif(
    STRACE is None, reason="strace is not installed: apt-get install strace"
)
FACTORY, NEXT = image(1), image(3)
EVERY = 5  # without --long every fifth state is started, from a different one for each kind
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


def trace(directory: Path, kind: str) -> list[Operation]:
    """Run the story under strace; the operations on its state directory."""
    log = directory / "trace"
    calls = "openat,mkdir,pwrite64,write,fsync,fdatasync,unlink,unlinkat,rename,renameat,renameat2"
    story = Path(__file__).with_name("recorded_story.py")
    assert STRACE is not None
    options = ["-f", "-y", "-xx", "-s", "200000", "-e", f"trace={calls},ftruncate,fallocate"]
    command = [sys.executable, str(story), str(directory), kind]
    subprocess.run([STRACE, *options, "-o", str(log), *command], check=True, capture_output=True)
    return list(_read(log, str(directory / "state")))


def _read(log: Path, state: str) -> Iterator[Operation]:
    known: set[str] = set()
    for line in log.read_text().splitlines():
        call = _CALL.match(line)
        if call is None or int(call[3]) < 0:
            continue
        name, arguments = call[1], [_text(part) for part in call[2].split(", ")]
        if name == "write" and arguments[1].startswith("MARK"):
            yield Operation(arguments[1].split()[1])
            continue
        path = _path(name, arguments)
        if not path.startswith(state):
            continue
        path = path.removeprefix(state).lstrip("/")
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


def states(operations: list[Operation]) -> Iterator[State]:
    """Every state, in the order of the operations; see the module."""
    durable, now, told = Disk(), Disk(), frozenset[str]()
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
            half = Change(change.number, operation, len(operation.data) // 2)
            yield State(f"{index} torn", _after(durable, [*pending, half]), told)
            yield State(f"{index} torn alone", _after(durable, [half]), told)
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


@needs_strace
@pytest.mark.parametrize("kind", ["good", "reverting"])
def test_every_state_that_a_cut_can_leave_starts_and_can_be_updated(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    every = 1 if request.config.getoption("--long") else EVERY
    started = 0
    for number, state in enumerate(states(trace(tmp_path, kind))):
        if (number + len(kind)) % every:
            continue
        started += 1
        try:
            check(state, tmp_path / "cut", kind)
        except Exception as error:
            error.add_note(f"state {number}: {state.name}")
            raise
    assert started * every > 500
