"""A device on a state directory to which something happened: what it keeps, and that it can go on.

``moments`` tells one story and copies the state directory at each step of it, as a power cut would
leave it. ``survive`` starts the real device on a copy that was damaged, holds it to the invariants,
and brings a further update to its end (I12).
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from home import ACB, BANK_SIZE, HUB, KEYS, PPMID, SETTINGS, Story, image

from firmware_node.adapters.storage import FileStorage
from firmware_node.boundary import Effect, Input, LoadImage, Notify, ReadVersion, Reboot, Started
from firmware_node.errors import RecordLostError
from firmware_node.node.counters import Counters
from firmware_node.node.device import Device
from firmware_node.node.records import get_twice, keys_twice
from firmware_node.node.verification import verify_image
from firmware_node.rig.comms_hub import HubSettings
from firmware_node.rig.world import SeededEntropy
from firmware_node.terms import BankId, EntityId
from firmware_node.wire.gbcs import decode_message
from firmware_node.wire.ota_file import HEADER_SIZE_MAX, decode_ota_header

FACTORY, NEXT = image(1), image(9)
RECEIVED = [key for key in Counters.first_rows() if key.startswith("counter/received/")]
USER = EntityId.parse("90-B3-D5-1F-30-01-00-00")
SIZE = 70_000  # bytes of the manufacturer image: more than one checkpoint interval


@contextlib.contextmanager
def quick_folder(tmp_path: Path) -> Iterator[Path]:
    """In memory where there is such a place: thousands of starts would wait for a disk's syncs."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as name:
        yield Path(name)


@dataclass(frozen=True, slots=True)
class Kept:
    """What no single fault may take back."""

    version: int  # that runs
    floor: int
    own_ceiling: int
    received: tuple[int, ...]


class Life:
    """One life of the device on real files."""

    def __init__(self, directory: Path) -> None:
        self.storage = FileStorage(directory, BANK_SIZE)
        try:
            self.device = Device(
                SETTINGS, self.storage, KEYS, SeededEntropy(1), factory_image=FACTORY
            )
            self.effects = [*self.step(Started(), 0)]
        except BaseException:
            self.storage.close()
            raise

    def __enter__(self) -> Life:
        return self

    def __exit__(self, *_: object) -> None:
        self.storage.close()

    def step(self, item: Input | None, now_ms: int) -> Sequence[Effect]:
        """As the driver does it."""
        effects = self.device.step(item, now_ms)
        self.storage.commit()
        return effects

    def end_trial(self) -> bool:
        """Let time pass until a trial is over; whether the device restarts after it."""
        while self.device.status(0)["state"] == "trial":
            assert self.device.wake_at is not None
            if any(isinstance(e, Reboot) for e in self.step(None, self.device.wake_at)):
                return True
        return False

    @property
    def notes(self) -> set[str]:
        """Names of the notifications of the start."""
        return {effect.name for effect in self.effects if isinstance(effect, Notify)}

    def kept(self) -> Kept:
        """Of a start that nothing happened to."""
        records = self.storage.records
        return Kept(
            self.running_version(),
            int(get_twice(records, "floor")),
            max(int(get_twice(records, "counter/own")), self.storage.ratchet.read()[0]),
            tuple(int(get_twice(records, key)) for key in RECEIVED),
        )

    def outbox(self) -> tuple[bytes, ...]:
        """The messages that wait, those with a readable row."""
        found = []
        for key in keys_twice(self.storage.records, "outbox/"):
            with contextlib.suppress(RecordLostError):
                found.append(get_twice(self.storage.records, key))
        return tuple(found)

    def running_version(self) -> int:
        """By the octets of the running bank alone, verified (I1)."""
        area = self.storage.bank(BankId(str(self.device.status(0)["running_bank"])))
        size = decode_ota_header(area.read(0, HEADER_SIZE_MAX)).total_image_size
        return verify_image(area.read(0, size), SETTINGS, KEYS).image.file_version


def survive(
    directory: Path, kept: Kept, told: Set[bytes] = frozenset(), *, to_the_end: bool = True
) -> Life:
    """Start, compare with what may not be forgotten, update to version 9; the first life, over.

    ``told``: every message that the story knows of.
    """
    with Life(directory) as first:
        version = first.running_version()
        assert first.notes.isdisjoint({"nothing_to_run", "counters_lost"})
        _check_one_way(first, kept)
        assert version in (1, 2)
        # Records that went back in time bring back what was told; it is told again as it was.
        assert set(first.outbox()) <= {*told, *_alerts(first)}
        if not to_the_end:
            return first
        restarts = first.end_trial()
    if restarts:
        with Life(directory) as reverted:
            assert reverted.running_version() == 1
    with Life(directory) as second:
        before = second.running_version()
        done = second.step(LoadImage(NEXT, activate=True), 0)
        assert any(isinstance(effect, Reboot) for effect in done), done
        used = {_counter(message) for message in second.outbox()}
    with Life(directory) as third:
        assert third.running_version() == 9 > before
        assert not third.end_trial()
        assert third.device.status(0)["state"] == "confirmed"
        assert int(get_twice(third.storage.records, "floor")) == 9
        assert third.storage.ratchet.read().rollback_floor == 9
        last = _counter(third.outbox()[-1])
        assert last >= kept.own_ceiling and last not in used
    return first


def _check_one_way(life: Life, kept: Kept) -> None:
    """Lost, or not lower (I5 to I7)."""
    records = life.storage.records
    with contextlib.suppress(RecordLostError):
        assert int(get_twice(records, "floor")) >= kept.floor
        assert life.storage.ratchet.read().rollback_floor >= kept.floor
    for key, value in zip(RECEIVED, kept.received, strict=True):
        with contextlib.suppress(RecordLostError):
            assert int(get_twice(records, key)) >= value
    counters = Counters(records, life.storage.ratchet)
    counters.start()
    assert counters.take() >= kept.own_ceiling


def _alerts(life: Life) -> tuple[bytes, ...]:
    """Messages that this start itself had to tell: of a trial that a fault ended."""
    return life.outbox()[-1:] if "image_reverted" in life.notes else ()


def _counter(message: bytes) -> int:
    return decode_message(message).header.originator_counter


def moments(directory: Path) -> frozenset[bytes]:
    """Copies of the state directory at each step of an update, by the name of the step.

    Returns:
        the messages that the device sent in all of it.
    """
    hub = HubSettings(HUB, ACB, utc=800_000_000, activate_after_s=60)
    story = Story(directory / "story", hub=hub)

    def copy(name: str, is_so: Callable[[], bool]) -> None:
        assert story.world.run_until(is_so, 24 * 3_600_000), name
        ignored = shutil.ignore_patterns("ballast")  # it is made anew, and large
        shutil.copytree(story.directory / "state", directory / name, ignore=ignored)

    def state(name: str) -> bool:
        return story.status()["state"] == name

    story.world.tell_head_end(ReadVersion("q", USER, 7, PPMID))
    copy("idle", lambda: story.received("CS08") and not story.status()["outbox"])
    story.offer(image(2, size=SIZE))
    copy("downloading", lambda: "download_progress" in story.names() and _offset(story) > 66_000)
    copy("waiting", lambda: state("waiting"))
    copy("trial", lambda: state("trial"))
    copy("telling", lambda: state("confirmed") and bool(story.status()["outbox"]))
    copy("confirmed", lambda: story.received("CS09") and not story.status()["outbox"])
    return frozenset(message.message for message in story.messages())


def _offset(story: Story) -> int:
    upgrade = story.status()["upgrade"]
    assert isinstance(upgrade, dict)
    return int(upgrade["file_offset"])
