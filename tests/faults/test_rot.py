"""Octets rot, files are cut short, emptied, filled with garbage or gone: one fault at a time.

Each case damages a copy of the state directory as it was at some moment of an update. Whatever it
hits, the device starts, a verified image runs, no one-way value goes down, and a further update
comes to its end. With ``--long`` every octet of the places where records stand closely is hit, and
every seventh one of the database, each time another one.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from survivors import Kept, Life, moments, quick_folder, survive

FILES = ("node.db", "node.db-wal", "bank_a.img", "bank_b.img", "ratchet.bin")
MOMENTS = ("idle", "downloading", "waiting", "trial", "telling", "confirmed")
AREA = 73_728  # bytes of an image area; two trailers of a page follow
FLIPS = 40  # of each file at each moment, without --long
END_EVERY = 6  # cases; one of them goes to the end of a further update


class Story:
    """The moments, and what the device said in them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._told = moments(folder)

    def kept_at(self, moment: str) -> Kept:
        with Life(self.copy(moment)) as undamaged:
            return undamaged.kept()

    def copy(self, moment: str) -> Path:
        copy = self._folder / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(self._folder / moment, copy)
        return copy

    def survive(self, copy: Path, kept: Kept, *, to_the_end: bool = True) -> None:
        survive(copy, kept, self._told, to_the_end=to_the_end)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    with quick_folder(tmp_path_factory.mktemp("rot")) as folder:
        yield Story(folder)


def offsets(name: str, size: int, moment: str, every: bool) -> list[int]:
    """Where a bit flips: where records stand closely, elsewhere here and there."""
    if name.startswith("bank"):
        dense = [*range(120), *range(AREA, AREA + 110), *range(AREA + 4096, AREA + 4206)]
        thin = list(range(120, size, 499))
    elif name == "ratchet.bin":
        dense, thin = [*range(48), *range(4096, 4144)], list(range(48, size, 499))
    else:
        dense, thin = list(range(MOMENTS.index(moment), size, 7)), []
    if every:
        return sorted({*dense, *thin})
    draw = random.Random(name + str(size))
    return sorted({*draw.sample(dense, FLIPS * 3 // 4), *draw.sample(thin or dense, FLIPS // 4)})


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_bit_that_flips_anywhere_takes_nothing_back_and_stops_nothing(
    story: Story, moment: str, name: str, request: pytest.FixtureRequest
) -> None:
    every = request.config.getoption("--long")
    kept = story.kept_at(moment)
    octets = (story.copy(moment) / name).read_bytes()
    for number, offset in enumerate(offsets(name, len(octets), moment, every)):
        bit = (offset * 5 + len(moment)) % 8
        rotten = bytearray(octets)
        rotten[offset] ^= 1 << bit
        copy = story.copy(moment)
        (copy / name).write_bytes(rotten)
        try:
            story.survive(copy, kept, to_the_end=number % END_EVERY == 0)
        except BaseException as failure:
            failure.add_note(f"bit {bit} of octet {offset}")
            raise


def garbage(octets: bytes) -> bytes:
    return random.Random(len(octets)).randbytes(len(octets))


DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "gone": lambda _: None,
    "empty": lambda _: b"",
    "halved": lambda octets: octets[: len(octets) // 2],
    "cut in the middle of a page": lambda octets: octets[:-1000],
    "zeros": lambda octets: bytes(len(octets)),
    "garbage": garbage,
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_that_is_damaged_whole_takes_nothing_back_and_stops_nothing(
    story: Story, damage: str, name: str
) -> None:
    for moment in MOMENTS:
        kept = story.kept_at(moment)
        copy = story.copy(moment)
        octets = DAMAGES[damage]((copy / name).read_bytes())
        (copy / name).unlink()
        if octets is not None:
            (copy / name).touch(mode=0o600)
            (copy / name).write_bytes(octets)
        try:
            story.survive(copy, kept)
        except BaseException as failure:
            failure.add_note(moment)
            raise
