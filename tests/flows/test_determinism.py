"""The same seed gives the same run: every input, every effect, and every octet that is stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from home import Story, image

from firmware_node.boundary import Effect, Input, Machine, RatchetValues, RebootRequested, Storage
from firmware_node.rig.world import Air

ROUGH = Air(jitter_ms=30, loss=4, duplication=4, reordering=4)
FILE = image(2, size=40_000)
FILES = ("bank_a.img", "bank_b.img", "node.db", "ratchet.bin")

Step = tuple[int, Input | None, tuple[Effect, ...]]


class Recorder:
    """A machine that keeps what went in and what came out."""

    def __init__(self, machine: Machine, steps: list[Step]) -> None:
        self._machine = machine
        self._steps = steps

    @property
    def wake_at(self) -> int | None:
        return self._machine.wake_at

    def step(self, item: Input | None, now_ms: int) -> Sequence[Effect]:
        effects = self._machine.step(item, now_ms)
        self._steps.append((now_ms, item, tuple(effects)))
        return effects


class RecordedStory(Story):
    """A story whose device is recorded over all its lives."""

    def __init__(self, directory: Path, seed: int) -> None:
        self.steps: list[Step] = []
        super().__init__(directory, air=ROUGH, seed=seed)

    def _make(self) -> tuple[Machine, Storage]:
        machine, storage = super()._make()
        return Recorder(machine, self.steps), storage


@dataclass(frozen=True, slots=True)
class Run:
    """Everything that a run did and left."""

    steps: list[Step]
    files: dict[str, bytes]
    records: dict[str, bytes | None]
    ratchet: RatchetValues
    told: list[Effect]


def run(directory: Path, seed: int) -> Run:
    """A whole update over rough air, with a restart that nobody wanted and one that was wanted."""
    story = RecordedStory(directory, seed)
    story.offer(FILE)
    story.world.run_for(2_000)
    story.world.restart(story.home)
    story.world.run_for(2_000)
    story.world.tell(story.home, RebootRequested())
    assert story.until("CS09", limit_ms=24 * 3_600_000)
    story.world.run_for(60_000)
    storage = story._storage
    assert storage is not None
    records = {key: storage.records.get(key) for key in storage.records.keys("")}
    ratchet = storage.ratchet.read()
    storage.close()
    return Run(
        story.steps,
        {name: (directory / "state" / name).read_bytes() for name in FILES},
        records,
        ratchet,
        story.world.head_end_effects,
    )


def test_the_same_seed_gives_the_same_effects_and_the_same_files(tmp_path: Path) -> None:
    first, second = run(tmp_path / "first", 4), run(tmp_path / "second", 4)
    assert len(first.steps) > 800
    for one, other in zip(first.steps, second.steps, strict=True):
        assert one == other
    assert first.told == second.told
    assert first.records == second.records
    assert first.ratchet == second.ratchet
    for name in FILES:
        assert first.files[name] == second.files[name], name
    assert first.files["bank_b.img"][: len(FILE)] == FILE


def test_another_seed_gives_another_run_to_the_same_end(tmp_path: Path) -> None:
    first, second = run(tmp_path / "first", 4), run(tmp_path / "second", 5)
    assert first.steps != second.steps
    assert first.files["bank_b.img"][: len(FILE)] == second.files["bank_b.img"][: len(FILE)]
    assert first.records["floor"] == second.records["floor"] == b"2"
