"""Blocks become an image: pages, checkpoints, the header's check, and where a restart goes on."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable
from dataclasses import replace

import pytest
from bank_bench import AREA, IMAGE_2, IMAGE_3, A, B, BankBench
from home import image
from hypothesis import given, settings
from hypothesis import strategies as st
from malformed import flipped

from firmware_node.boundary import PAGE_SIZE
from firmware_node.errors import FirmwareNodeError, RefusedError, StorageFullError
from firmware_node.node.assembly import Assembly, Trailer
from firmware_node.node.records import decode
from firmware_node.rig.memory_storage import FREE_BYTES, PowerCut
from firmware_node.rig.world import SeededEntropy
from firmware_node.terms import BankState, ImageKey
from firmware_node.wire.zcl import Status

KEY = ImageKey(0x121D, 0x0084, 2)
FILE = image(2, size=30_000)  # seven whole pages and a tail
BIG = 2 * PAGE_SIZE  # bytes between checkpoints on this bench
S = BankState


class Bench(BankBench):
    """A bank bench with an assembly; blocks come from ``file``."""

    def __init__(self, *, file: bytes = FILE, seed: int = 0, **numbers: object) -> None:
        numbers = {"checkpoint_bytes": BIG, **numbers}
        super().__init__(seed=seed, **numbers)  # type: ignore[arg-type]  # the test's own
        self.file = file
        self.now = 1_000
        self.lives_begun = 0
        self.start()

    def start(self, *, commit: bool = True) -> Bench:
        super().start(commit=commit)
        self.lives_begun += 1
        entropy = SeededEntropy(self.lives_begun)
        self.assembly = Assembly(self.storage, self.settings, self.banks, entropy)
        return self

    def begin(self, key: ImageKey = KEY, size: int | None = None) -> int:
        offset = self.assembly.begin(key, len(self.file) if size is None else size, self.now)
        self.commit()
        return offset

    def feed(self, until: int | None = None, block: int = 50) -> Bench:
        """Blocks from where the assembly is to that offset."""
        until = len(self.file) if until is None else until
        while self.assembly.offset < until:
            at = self.assembly.offset
            self.assembly.append(self.file[at : min(at + block, until)], self.now)
        return self

    def cut(self) -> Bench:
        """The supply goes; what was not synced is kept, lost or torn."""
        self.medium.power_cycle()
        return self.start()

    def resume(self) -> int | None:
        """The offset that a restart goes on from."""
        resumed = self.assembly.resume()
        if resumed is None:
            return None
        assert resumed[:2] == (KEY, len(self.file))
        assert resumed[2] == self.assembly.offset
        self.commit()
        return resumed[2]

    def wakes_at(self) -> int | None:
        return self.assembly.wake_at

    def finish(self) -> None:
        """The rest comes; the bank holds the file and the hash is the file's."""
        self.feed()
        assert self.assembly.finish() == (len(self.file), hashlib.sha256(self.file).digest())
        assert self.holds(B, self.file)

    def trailers(self) -> list[Trailer | None]:
        """What the medium has in both trailer areas."""
        octets = self.medium.banks[B]
        return [Trailer.decode(bytes(octets[AREA + at * PAGE_SIZE :])) for at in (0, 1)]

    def session(self) -> dict[str, object] | None:
        stored = self.medium.records.get("session")
        return None if stored is None else decode(stored)


def refusal(happen: Callable[[], object]) -> tuple[int, str]:
    with pytest.raises(RefusedError) as refused:
        happen()
    return refused.value.code, refused.value.cause


# --- begin --------------------------------------------------------------------------------------


def test_a_new_file_takes_the_spare_bank_and_a_session_of_its_own() -> None:
    bench = Bench()
    running = bench.kept().banks[A]
    assert bench.begin() == 0
    first = bench.session()
    assert first is not None
    assert (first["image"], first["size"]) == (list(KEY), len(FILE))
    assert bench.states() == (S.CONFIRMED, S.RECEIVING)
    assert (bench.view(B).image, bench.view(B).size) == (KEY, len(FILE))
    bench.assembly.abandon()
    bench.commit()
    assert bench.session() is None
    assert bench.states() == (S.CONFIRMED, S.EMPTY)
    bench.begin()
    second = bench.session()
    assert second is not None and second["id"] != first["id"]
    assert bench.kept().banks[A] == running


def test_the_same_file_again_goes_on_where_it_is_and_another_one_begins() -> None:
    bench = Bench()
    bench.begin()
    bench.feed(6_000)
    assert bench.begin() == 6_000
    assert bench.wakes_at() is not None
    assert bench.begin(size=len(FILE) - 1) == 0
    assert bench.wakes_at() is None
    assert bench.begin(KEY._replace(file_version=3)) == 0
    bench.file = image(3, size=30_000)
    bench.finish()


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (AREA + 1, (Status.INSUFFICIENT_SPACE, "image_too_large")),
        (0, (Status.INVALID_IMAGE, "image_malformed")),
    ],
)
def test_a_file_that_no_bank_can_hold_is_refused_and_the_bank_is_untouched(
    size: int, expected: tuple[int, str]
) -> None:
    bench = Bench()
    bench.hold()
    before = bench.kept()
    assert refusal(lambda: bench.begin(size=size)) == expected
    assert bench.commit().kept() == before
    assert bench.assembly.resume() is None


def test_a_file_that_fills_the_bank_to_its_last_byte_is_taken() -> None:
    file = image(2, size=AREA - (len(FILE) - 30_000))
    assert len(file) == AREA
    bench = Bench(file=file)
    bench.begin()
    bench.finish()
    assert bench.cut().resume() == AREA


@pytest.mark.parametrize("why", ["full", "trial", "worn"])
def test_where_the_bank_may_not_be_written_a_download_waits(why: str) -> None:
    bench = Bench()
    if why == "trial":
        bench.trial(IMAGE_3)
    elif why == "worn":
        bench.records.put("misreads/B", b"3")
        bench.commit()
    bench.medium.full = why == "full"
    before = bench.kept()
    with pytest.raises(FirmwareNodeError):
        bench.begin()
    assert bench.commit().kept() == before
    assert bench.session() is None


def test_a_download_that_was_begun_goes_on_though_the_disk_is_full() -> None:
    bench = Bench()
    bench.begin()
    bench.feed(20_000).start()
    bench.medium.full = True
    assert bench.begin() == 16_384


def test_a_disk_with_just_enough_space_is_enough() -> None:
    bench = Bench(free_bytes_min=FREE_BYTES)
    bench.begin()
    bench.finish()


# --- pages and checkpoints ------------------------------------------------------------------------


def test_whole_pages_are_written_without_a_sync_and_the_rest_waits_in_memory() -> None:
    bench = Bench()
    bench.begin()
    syncs = bench.medium.syncs
    bench.feed(PAGE_SIZE - 1)
    assert bench.medium.pending == []
    bench.feed(PAGE_SIZE)
    assert bench.medium.pending == [(B, 0, FILE[:PAGE_SIZE])]
    bench.feed(BIG - 1)
    assert bench.medium.pending == [(B, 0, FILE[:PAGE_SIZE])]
    assert bench.medium.syncs == syncs


def test_a_block_may_bring_several_pages() -> None:
    bench = Bench()
    bench.begin()
    bench.feed(2 * PAGE_SIZE + 10, block=2 * PAGE_SIZE + 10)
    assert bench.medium.pending == []
    assert bench.medium.banks[B][: 2 * PAGE_SIZE] == FILE[: 2 * PAGE_SIZE]
    bench.finish()


@pytest.mark.parametrize("seed", range(8))
def test_after_a_checkpoint_a_cut_takes_nothing_of_it(seed: int) -> None:
    bench = Bench(seed=seed)
    bench.begin()
    syncs = bench.medium.syncs
    bench.feed(BIG)
    assert bench.medium.syncs == syncs + 1
    bench.feed(2 * BIG - 1)
    assert bench.cut().resume() == BIG
    assert bench.medium.banks[B][:BIG] == FILE[:BIG]
    bench.finish()


def test_checkpoints_use_both_trailer_areas_in_turn() -> None:
    bench = Bench()
    bench.begin()
    bench.feed(BIG)
    session = bench.session()
    assert session is not None
    first = Trailer(bytes.fromhex(str(session["id"])), 1, BIG, hashlib.sha256(FILE[:BIG]).digest())
    assert bench.trailers() == [None, first]
    bench.feed(2 * BIG)
    second = replace(
        first, sequence=2, size=2 * BIG, sha256=hashlib.sha256(FILE[: 2 * BIG]).digest()
    )
    assert bench.trailers() == [second, first]


def test_data_that_waits_for_a_minute_is_made_durable() -> None:
    bench = Bench(checkpoint_bytes=3 * PAGE_SIZE)
    bench.begin()
    bench.feed(PAGE_SIZE - 1)
    assert bench.wakes_at() is None  # there is no whole page yet
    bench.feed(PAGE_SIZE)
    assert bench.wakes_at() == 61_000
    bench.now = 30_000
    bench.feed(2 * PAGE_SIZE + 100)
    assert bench.wakes_at() == 61_000
    bench.assembly.timer(61_000)
    assert bench.wakes_at() is None
    assert bench.cut().resume() == 2 * PAGE_SIZE


def test_a_checkpoint_by_size_ends_the_wait() -> None:
    bench = Bench()
    bench.begin()
    bench.feed(PAGE_SIZE)
    assert bench.wakes_at() is not None
    bench.feed(BIG)
    assert bench.wakes_at() is None
    bench.feed(BIG + PAGE_SIZE)
    assert bench.wakes_at() is not None
    bench.assembly.close()
    assert bench.wakes_at() is None


def test_before_a_wanted_restart_whole_pages_are_kept_and_nothing_is_synced_twice() -> None:
    bench = Bench()
    bench.assembly.flush()
    bench.assembly.timer(bench.now)
    bench.begin()
    bench.assembly.flush()
    assert bench.trailers() == [None, None]
    bench.feed(PAGE_SIZE + 100)
    bench.assembly.flush()
    syncs = bench.medium.syncs
    bench.assembly.flush()
    assert bench.medium.syncs == syncs
    assert bench.cut().resume() == PAGE_SIZE


def test_an_upgrade_that_was_given_up_has_nothing_to_keep() -> None:
    bench = Bench()
    bench.begin()
    bench.feed(PAGE_SIZE)
    bench.assembly.abandon()
    bench.assembly.flush()
    bench.assembly.timer(bench.now)
    assert bench.trailers() == [None, None]
    bench.commit()
    assert bench.start().resume() is None


def test_the_end_writes_the_last_page_short_and_is_durable() -> None:
    bench = Bench()
    bench.begin()
    bench.finish()
    assert bench.medium.pending == []
    assert bench.cut().resume() == len(FILE)
    assert bench.assembly.finish() == (len(FILE), hashlib.sha256(FILE).digest())


def test_a_file_of_whole_pages_has_no_last_page_to_write() -> None:
    file = image(2, size=4 * PAGE_SIZE - (len(FILE) - 30_000))
    bench = Bench(file=file)
    bench.begin()
    bench.finish()
    assert bench.cut().resume() == 4 * PAGE_SIZE
    bench.finish()


def test_a_file_that_is_not_whole_is_not_finished() -> None:
    bench = Bench()
    bench.begin()
    bench.feed(len(FILE) - 1)
    with pytest.raises(AssertionError):
        bench.assembly.finish()
    bench.finish()


def test_a_full_disk_costs_no_octet_that_came() -> None:
    bench = Bench()
    bench.begin()
    bench.feed(PAGE_SIZE - 10)
    bench.medium.full = True
    with pytest.raises(StorageFullError):
        bench.assembly.append(FILE[PAGE_SIZE - 10 : PAGE_SIZE + 40], bench.now)
    assert bench.assembly.offset == PAGE_SIZE + 40
    with pytest.raises(StorageFullError):
        bench.assembly.append(FILE[PAGE_SIZE + 40 : PAGE_SIZE + 50], bench.now)
    assert bench.assembly.offset == PAGE_SIZE + 50
    bench.medium.full = False
    bench.finish()


# --- what comes is what was offered ---------------------------------------------------------------


@pytest.mark.parametrize("block", [1, 7, 50, 63, 5_000])
def test_the_header_is_held_against_the_offer_as_soon_as_it_is_whole(block: int) -> None:
    bench = Bench()
    bench.begin(KEY._replace(file_version=3))
    assert refusal(lambda: bench.feed(block=block)) == (Status.INVALID_IMAGE, "not_as_offered")
    assert 60 <= bench.assembly.offset < 60 + block
    assert bench.medium.pending == []
    assert not any(bench.medium.banks[B])


def test_the_header_of_every_file_is_looked_at() -> None:
    bench = Bench()
    bench.begin()
    bench.finish()
    bench.assembly.close()
    bench.begin(KEY._replace(file_version=3))
    assert refusal(bench.feed) == (Status.INVALID_IMAGE, "not_as_offered")


def test_a_header_of_another_size_is_not_as_offered() -> None:
    bench = Bench()
    bench.begin(size=len(FILE) + 1)
    assert refusal(bench.feed) == (Status.INVALID_IMAGE, "not_as_offered")


@pytest.mark.parametrize(
    ("offset", "octets", "cause"),
    [
        (0, b"\0\0\0\0", "image_malformed"),
        (6, b"\xff\xff", "image_malformed"),  # header size
        (8, b"\xff\xff", "image_malformed"),  # field control
        (56, b"\x12\x11\x11\x12", "hardware_out_of_range"),
    ],
)
def test_a_header_that_is_none_or_of_other_hardware_ends_the_download(
    offset: int, octets: bytes, cause: str
) -> None:
    bench = Bench(file=FILE[:offset] + octets + FILE[offset + len(octets) :])
    bench.begin()
    assert refusal(bench.feed) == (Status.INVALID_IMAGE, cause)
    bench.assembly.abandon()
    assert bench.commit().states() == (S.CONFIRMED, S.EMPTY)
    assert bench.session() is None


@pytest.mark.parametrize("size", [1, 7, 8, 30])
def test_a_file_shorter_than_its_header_is_no_image(size: int) -> None:
    bench = Bench(file=FILE[:size])
    bench.begin()
    cause = refusal(bench.finish)
    assert cause == (Status.INVALID_IMAGE, "image_malformed")
    assert not any(bench.medium.banks[B])


def test_more_octets_than_the_files_size_are_refused() -> None:
    bench = Bench()
    bench.begin()
    bench.feed()
    cause = refusal(lambda: bench.assembly.append(b"x", bench.now))
    assert cause == (Status.INVALID_IMAGE, "endless_file")
    assert bench.trailers()[1] is not None


# --- resume -------------------------------------------------------------------------------------


def test_without_a_session_or_on_trial_there_is_nothing_to_resume() -> None:
    bench = Bench()
    assert bench.assembly.resume() is None
    bench.begin()
    bench.feed(BIG)
    bench.rot("session").start()
    assert bench.assembly.resume() is None
    assert bench.begin() == 0
    bench.feed(BIG)
    session = bench.medium.records["session"]
    bench.trial(IMAGE_3)
    bench.medium.records["session"] = session
    bench.start()
    before = bench.kept()
    assert bench.assembly.resume() is None
    assert bench.commit().kept() == before


def test_a_session_ends_with_the_transaction_that_records_the_bank() -> None:
    bench = Bench()
    bench.begin()
    bench.feed()
    verified = bench.banks.verify_held(*bench.assembly.finish())
    bench.banks.mark_verified(verified)
    bench.assembly.close()
    assert bench.session() is not None  # not before the commit
    bench.commit()
    assert bench.session() is None
    assert bench.states() == (S.CONFIRMED, S.VERIFIED)
    assert bench.start().assembly.resume() is None


def test_a_page_that_rotted_costs_the_checkpoint_that_vouched_for_it() -> None:
    bench = Bench()
    bench.begin()
    bench.feed(2 * BIG).flip(B, BIG + 5)
    assert bench.cut().resume() == BIG
    bench.finish()
    bench.flip(B, 5)
    assert bench.cut().resume() == 0
    bench.finish()


def test_the_checkpoint_after_a_resume_spares_the_one_that_was_relied_on() -> None:
    for damaged in (2, 3):  # checkpoints, so both areas have their turn
        bench = Bench()
        bench.begin()
        bench.feed(damaged * BIG).flip(B, (damaged - 1) * BIG + 5)
        assert bench.cut().resume() == (damaged - 1) * BIG
        relied_on = bench.trailers()[(damaged - 1) & 1]
        bench.feed(damaged * BIG)
        assert bench.trailers()[(damaged - 1) & 1] == relied_on
        assert bench.cut().resume() == damaged * BIG


def test_a_trailer_of_another_session_or_beyond_the_file_says_nothing() -> None:
    bench = Bench()
    bench.begin()
    bench.feed(BIG)
    newest = bench.trailers()[1]
    assert newest is not None
    page, beyond = FILE[:PAGE_SIZE], FILE[:BIG].ljust(len(FILE) + 1, b"\0")
    other = replace(newest, sequence=9, size=PAGE_SIZE, sha256=hashlib.sha256(page).digest())
    liars = (
        replace(other, session=bytes(16)),
        replace(other, size=len(beyond), sha256=hashlib.sha256(beyond).digest()),
    )
    for liar in liars:
        bench.medium.banks[B][AREA : AREA + len(liar.encode())] = liar.encode()
        assert bench.cut().resume() == BIG


def test_a_trailer_torn_at_any_octet_leaves_the_other_one() -> None:
    bench = Bench()
    bench.begin()
    bench.feed(BIG)
    older = bytes(bench.medium.banks[B][AREA : AREA + 2 * PAGE_SIZE])
    bench.feed(2 * BIG)
    newer = bytes(bench.medium.banks[B][AREA : AREA + 2 * PAGE_SIZE])
    newest = bench.trailers()[0]
    assert newest is not None
    size = len(newest.encode())
    for torn in range(1, size):
        bench.medium.banks[B][AREA:] = newer[:torn] + older[torn:]
        assert bench.cut().resume() == BIG, torn
    bench.medium.banks[B][AREA:] = newer
    assert bench.cut().resume() == 2 * BIG


def test_a_bank_whose_record_was_lost_under_a_download_is_receiving_again() -> None:
    bench = Bench()
    bench.begin()
    bench.feed(BIG).rot_pair("bank/B")
    assert bench.start().resume() == BIG
    assert bench.states() == (S.CONFIRMED, S.RECEIVING)
    bench.finish()


def test_the_version_of_an_image_that_was_half_written_is_downloaded_whole() -> None:
    bench = Bench(file=IMAGE_2)
    bench.hold(IMAGE_2).medium.banks[B][PAGE_SIZE : PAGE_SIZE + 9] = bytes(9)
    assert bench.start().states() == (S.CONFIRMED, S.EMPTY)
    assert bench.begin() == 0
    bench.finish()


# --- the trailer ----------------------------------------------------------------------------------

TRAILER = Trailer(bytes(range(16)), 2**40, 123_456, bytes(range(32)))


def test_a_trailer_has_the_layout_of_dual_bank_md_and_comes_back() -> None:
    octets = TRAILER.encode()
    assert octets[:6] == b"FNT1\x01\x00"
    assert octets[6:22] == TRAILER.session
    assert int.from_bytes(octets[22:30], "little") == 2**40
    assert int.from_bytes(octets[30:34], "little") == 123_456
    assert octets[34:66] == TRAILER.sha256
    assert len(octets) == 70
    assert Trailer.decode(octets) == Trailer.decode(octets + bytes(4_026)) == TRAILER


def test_a_trailer_that_is_cut_or_changed_is_none() -> None:
    octets = TRAILER.encode()
    assert [size for size in range(70) if Trailer.decode(octets[:size])] == []
    assert [spoilt for spoilt in flipped(octets) if Trailer.decode(spoilt)] == []
    assert Trailer.decode(bytes(PAGE_SIZE)) is None


@pytest.mark.parametrize("head", [b"FNT2\x01\x00", b"FNT1\x02\x00"])
def test_a_trailer_of_another_form_is_none(head: bytes) -> None:
    body = head + TRAILER.encode()[6:66]
    assert Trailer.decode(body + zlib.crc32(body).to_bytes(4, "little")) is None


# --- all of it, cut anywhere ----------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    blocks=st.lists(st.integers(1, 5_000), min_size=1, max_size=20),
    cuts=st.lists(st.integers(1, 12), max_size=4),
    seed=st.integers(0, 2**16),
)
def test_wherever_the_supply_goes_the_octets_kept_are_those_that_came(
    blocks: list[int], cuts: list[int], seed: int
) -> None:
    bench = Bench(seed=seed)
    running = bench.kept().banks[A]
    offset = bench.begin()
    for cut in [*cuts, 0]:
        bench.medium.cut_at = bench.medium.calls + cut if cut else None
        index = 0
        try:
            while bench.assembly.offset < len(FILE):
                at = bench.assembly.offset
                size = min(blocks[index % len(blocks)], len(FILE) - at)
                bench.assembly.append(FILE[at : at + size], bench.now)
                index += 1
            bench.finish()
        except PowerCut:
            resumed = bench.cut().resume()
            assert resumed is not None and resumed >= offset
            assert bench.medium.banks[B][:resumed] == FILE[:resumed]
            offset = resumed
    assert bench.holds(B, FILE)
    assert bench.kept().banks[A] == running
