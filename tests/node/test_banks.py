"""The spare bank, activation, trial, confirmation and revert: what each of them leaves behind."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

import pytest
from bank_bench import (
    AREA,
    CS09,
    FACTORY,
    IMAGE_2,
    IMAGE_3,
    A,
    B,
    BankBench,
    every_cut,
)
from home import image

from firmware_node.boundary import RatchetValues
from firmware_node.errors import FirmwareNodeError, RefusedError, StorageError, StorageFullError
from firmware_node.node.banks import REJECTS_MAX, BankView
from firmware_node.node.records import encode, put_twice
from firmware_node.rig.memory_storage import FREE_BYTES, PowerCut
from firmware_node.terms import BankState, ImageKey
from firmware_node.wire.zcl import Status

S = BankState
NEXT = ImageKey(0x121D, 0x0084, 2)
Make = Callable[[], BankBench]

SITUATIONS: dict[str, Make] = {
    "provisioned": lambda: BankBench().start(),
    "held": lambda: BankBench().start().hold(),
    "activated": lambda: BankBench().start().activated(),
    "on trial": lambda: BankBench().start().trial(),
    "confirmed": lambda: BankBench().start().confirmed(),
    "reverted": lambda: BankBench().start().reverted(),
}


def refusal(happen: Callable[[], object]) -> tuple[int, str]:
    with pytest.raises(RefusedError) as refused:
        happen()
    return refused.value.code, refused.value.cause


# --- the spare bank -----------------------------------------------------------------------------


def test_a_loaded_image_is_held_in_the_spare_bank_and_the_running_bank_is_not_written() -> None:
    bench = BankBench().start()
    running = bench.kept().banks[A]
    verified = bench.banks.load(IMAGE_2)
    bench.commit()
    assert verified.image == NEXT
    assert bench.holds(B, IMAGE_2)
    assert bench.states() == (S.CONFIRMED, S.VERIFIED)
    assert bench.boot() == (A, False, 0)
    assert bench.kept().banks[A] == running
    view = bench.view(B)
    assert (view.image, view.size, view.version_hex) == (NEXT, len(IMAGE_2), "00000002")
    assert view.sha256_hex == verified.manufacturer_sha256.hex()


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (image(2, size=AREA), (Status.INSUFFICIENT_SPACE, "image_too_large")),
        (IMAGE_2[:-1], (Status.INVALID_IMAGE, "image_malformed")),
        (
            image(2, change=lambda m: replace(m, from_versions=(7, 8))),
            (Status.INVALID_IMAGE, "upgrade_pathway"),
        ),
    ],
)
def test_what_is_refused_on_loading_touches_nothing(file: bytes, expected: tuple[int, str]) -> None:
    bench = BankBench().start().hold()
    before = bench.kept()
    assert refusal(lambda: bench.banks.load(file)) == expected
    bench.commit()
    assert bench.kept() == before


def test_an_image_as_large_as_the_bank_is_taken() -> None:
    file = image(2, size=AREA - len(image(2, size=1_000)) + 1_000)
    assert len(file) == AREA
    bench = BankBench().start().confirmed(file)
    assert bench.holds(B, file)


def test_an_image_that_may_follow_the_running_version_is_taken() -> None:
    file = image(2, change=lambda m: replace(m, from_versions=(7, 1)))
    bench = BankBench().start().confirmed(file)
    assert bench.states() == (S.CONFIRMED, S.CONFIRMED)


def test_while_an_image_is_on_trial_the_way_back_is_not_written() -> None:
    bench = BankBench().start().trial()
    before = bench.kept()
    with pytest.raises(StorageFullError, match="way back"):
        bench.banks.check_spare_is_free()
    with pytest.raises(StorageFullError):
        bench.banks.load(IMAGE_3)
    with pytest.raises(AssertionError):
        bench.banks.mark_receiving(NEXT, 100)
    bench.commit()
    assert bench.kept() == before


def test_what_was_being_received_is_dropped_and_what_ran_before_stays() -> None:
    bench = BankBench().start()
    bench.banks.mark_receiving(NEXT, 4_000)
    bench.commit()
    assert bench.view(B) == BankView(S.RECEIVING, NEXT, 4_000)
    bench.banks.mark_empty()
    bench.commit()
    assert bench.states() == (S.CONFIRMED, S.EMPTY)
    bench.hold().banks.mark_empty()
    assert bench.view(B).state is S.EMPTY
    bench.confirmed().banks.mark_empty()
    bench.commit()
    assert bench.states() == (S.CONFIRMED, S.CONFIRMED)


def test_a_rejected_image_is_still_shown_when_an_upgrade_is_given_up() -> None:
    bench = BankBench().start().reverted()
    bench.banks.mark_empty()
    bench.commit()
    assert bench.states() == (S.CONFIRMED, S.REJECTED)


def test_a_read_back_that_differs_is_refused_and_counted_until_the_bank_is_worn() -> None:
    bench = BankBench(download_attempts_max=3).start().hold()
    right = hashlib.sha256(IMAGE_2).digest()
    bench.flip(B)
    for count in (1, 2, 3):
        bench.banks.check_spare_is_free()
        code, _ = refusal(lambda: bench.banks.verify_held(len(IMAGE_2), right))
        assert code == Status.INVALID_IMAGE
        bench.commit()
        assert bench.medium.records["misreads/B"] == b"%d" % count
    before = bench.start().kept()
    with pytest.raises(FirmwareNodeError, match="bank B"):
        bench.banks.check_spare_is_free()
    with pytest.raises(FirmwareNodeError, match="bank B"):
        bench.banks.load(IMAGE_3)
    assert bench.commit().kept() == before


def test_a_read_back_that_is_right_again_clears_the_count() -> None:
    bench = BankBench(download_attempts_max=2).start().hold()
    right = hashlib.sha256(IMAGE_2).digest()
    for _ in range(3):
        bench.flip(B)
        refusal(lambda: bench.banks.verify_held(len(IMAGE_2), right))
        bench.flip(B)
        assert bench.banks.verify_held(len(IMAGE_2), right).image == NEXT
    bench.commit()
    assert "misreads/B" not in bench.medium.records


def test_a_count_of_misreads_that_is_lost_or_of_the_other_bank_stops_nothing() -> None:
    bench = BankBench(download_attempts_max=1).start().hold().flip(B)
    refusal(lambda: bench.banks.verify_held(len(IMAGE_2), bytes(32)))
    bench.commit().rot("misreads/B").start().hold()
    bench.medium.records["misreads/B"] = b"1"
    bench.medium.records["misreads/A"] = b"1"
    bench.start().banks.activate(CS09)
    bench.commit().start().banks.revert("test")
    with pytest.raises(FirmwareNodeError, match="bank B"):
        bench.commit().banks.check_spare_is_free()
    bench.medium.records["misreads/B"] = b"0"
    bench.start().banks.check_spare_is_free()


# --- activation ---------------------------------------------------------------------------------


def test_an_activation_puts_the_image_on_trial_and_raises_no_floor() -> None:
    bench = BankBench().start().hold()
    bench.banks.activate(CS09)
    bench.commit()
    assert bench.boot() == (B, True, 0)
    assert bench.states() == (S.CONFIRMED, S.TRIAL)
    assert bench.floors() == (1, 1)
    assert bench.start().floors() == (1, 1)
    assert bench.row("boot")["outcome"]["kind"] == "cs09"


@pytest.mark.parametrize("state", [S.EMPTY, S.RECEIVING, S.HELD, S.CONFIRMED, S.REJECTED])
def test_a_bank_that_holds_no_verified_image_is_not_activated(state: BankState) -> None:
    bench = BankBench().start().hold()
    fields = bench.row("bank/B") | {"state": state.value}
    put_twice(bench.records, "bank/B", encode(fields))
    before = bench.commit().kept()
    assert refusal(lambda: bench.banks.activate(CS09)) == (Status.FAILURE, "no_image_held")
    assert bench.commit().kept() == before


@pytest.mark.parametrize("offset", [0, 30, 400, len(IMAGE_2) - 1])
def test_a_bank_that_changed_since_it_was_verified_is_not_activated(offset: int) -> None:
    bench = BankBench().start().hold().flip(B, offset)
    before = bench.kept()
    code, _ = refusal(lambda: bench.banks.activate(CS09))
    assert code == Status.INVALID_IMAGE
    assert bench.commit().kept() == before


def test_another_good_image_in_the_bank_than_the_record_says_is_not_activated() -> None:
    bench = BankBench().start().hold()
    other = image(2, size=6_000, change=lambda m: replace(m, version_string="2b"))
    assert len(other) == len(IMAGE_2) and other != IMAGE_2
    bench.medium.banks[B][: len(other)] = other
    before = bench.kept()
    assert refusal(lambda: bench.banks.activate(CS09)) == (Status.INVALID_IMAGE, "bank_changed")
    assert bench.commit().kept() == before
    assert "bank_fault" in bench.start().notes()
    assert bench.states() == (S.CONFIRMED, S.EMPTY)


def test_with_too_little_space_nothing_is_activated_and_later_it_is() -> None:
    bench = BankBench().start().hold()
    before = bench.kept()
    bench.medium.full = True
    with pytest.raises(StorageFullError):
        bench.banks.activate(CS09)
    assert bench.commit().kept() == before
    bench.medium.full = False
    bench.banks.activate(CS09)
    assert bench.commit().boot() == (B, True, 0)


def test_with_just_enough_space_an_image_is_activated() -> None:
    bench = BankBench(free_bytes_min=FREE_BYTES).start().activated()
    assert bench.boot() == (B, True, 0)


def test_what_fell_below_the_floor_since_it_was_held_is_not_activated() -> None:
    bench = BankBench().start().hold()
    put_twice(bench.records, "floor", b"3")
    bench.commit().start()
    before = bench.kept()
    refused = refusal(lambda: bench.banks.activate(CS09))
    assert refused == (Status.INVALID_IMAGE, "below_rollback_floor")
    assert refusal(lambda: bench.banks.load(IMAGE_2)) == refused
    assert bench.commit().kept() == before
    bench.hold(IMAGE_3).banks.activate(CS09)
    assert bench.commit().boot() == (B, True, 0)


def test_where_the_floor_is_lost_nothing_is_activated() -> None:
    bench = BankBench().start().hold().rot_pair("floor")
    bench.medium.ratchet = None
    bench.start()
    assert [note.fields["record"] for note in bench.report.notes] == ["floor", "ratchet"]
    assert refusal(lambda: bench.banks.activate(CS09)) == (Status.FAILURE, "floor_lost")
    assert bench.boot() == (A, False, 0)
    assert bench.medium.ratchet is None


# --- trial --------------------------------------------------------------------------------------


def test_every_start_on_trial_is_counted_before_the_image_starts() -> None:
    bench = BankBench(trial_starts_max=5).start().activated()
    for tries in range(1, 6):
        bench.start(commit=False)
        assert bench.report.trial and not bench.report.reverted
        assert bench.report.outcome is None
        bench.commit()
        assert bench.boot() == (B, True, tries)
        assert bench.states() == (S.CONFIRMED, S.TRIAL)
    assert bench.report.image == NEXT


def test_after_the_permitted_starts_the_trial_is_left_and_the_image_rejected() -> None:
    bench = BankBench(trial_starts_max=2).start().activated().start().start()
    digest = bench.view(B).manufacturer_sha256
    bench.start()
    report = bench.report
    assert (report.reverted, report.cause, report.outcome) == (True, "start_limit", CS09)
    assert (report.running, report.image.file_version, report.trial) == (A, 1, False)
    assert bench.boot() == (A, False, 0)
    assert bench.states() == (S.CONFIRMED, S.REJECTED)
    assert bench.rejects() == [digest]
    before = bench.kept()
    bench.start()
    assert not bench.report.reverted and bench.report.outcome is None
    assert bench.kept() == before


def test_a_confirmed_image_is_never_left_by_counting() -> None:
    bench = BankBench(trial_starts_max=2).start().confirmed()
    before = bench.kept()
    for _ in range(10):
        bench.start()
        assert (bench.report.running, bench.report.trial, bench.report.reverted) == (
            B,
            False,
            False,
        )
    assert bench.kept() == before


# --- confirmation -------------------------------------------------------------------------------


def test_a_confirmation_raises_the_floor_in_the_record_and_then_in_the_ratchet() -> None:
    bench = BankBench().start().trial()
    assert bench.banks.confirm() == CS09
    assert bench.floors() == (1, 1)
    bench.medium.cut_at = bench.medium.calls + 2  # the records are durable
    with pytest.raises(PowerCut):
        bench.commit()
    assert bench.floors() == (2, 1)
    bench.medium.power_cycle()
    bench.start()
    assert bench.floors() == (2, 2)
    assert bench.boot() == (B, False, 0)
    assert bench.states() == (S.CONFIRMED, S.CONFIRMED)
    assert bench.row("boot")["outcome"] is None


def test_a_confirmation_that_is_cut_before_its_commit_never_was() -> None:
    bench = BankBench().start().trial()
    bench.banks.confirm()
    assert bench.lives(bench.commit, 1) == 1
    assert bench.boot() == (B, True, 2)
    assert bench.floors() == (1, 1)
    bench.banks.confirm()
    assert bench.commit().floors() == (2, 2)


def test_a_floor_that_is_higher_already_stays() -> None:
    bench = BankBench().start().trial()
    put_twice(bench.records, "floor", b"9")
    bench.banks.confirm()
    assert bench.commit().floors() == (9, 9)


def test_a_lost_floor_begins_again_at_the_version_that_is_confirmed() -> None:
    bench = BankBench().start().trial().rot_pair("floor")
    bench.medium.ratchet = None
    bench.start().banks.confirm()
    bench.commit().storage.ratchet.raise_now(RatchetValues(counter_ceiling=1_001))
    assert bench.floors() == (2, 2)


@pytest.mark.parametrize("happen", ["confirm", "revert"])
def test_only_a_trial_is_confirmed_or_reverted(happen: str) -> None:
    bench = BankBench().start().confirmed()
    before = bench.kept()
    with pytest.raises(AssertionError):
        bench.banks.confirm() if happen == "confirm" else bench.banks.revert("test")
    assert bench.commit().kept() == before


# --- revert -------------------------------------------------------------------------------------


def test_a_revert_goes_back_rejects_the_image_and_hands_its_outcome_back_once() -> None:
    bench = BankBench().start().trial()
    digest = bench.view(B).manufacturer_sha256
    assert bench.banks.revert("self_test") == CS09
    bench.commit()
    assert bench.banks.running_image.file_version == 1
    assert bench.banks.manifest is not None and bench.banks.manifest.version_string == "v1"
    assert bench.boot() == (A, False, 0)
    assert bench.states() == (S.CONFIRMED, S.REJECTED)
    assert bench.row("boot")["outcome"] is None
    assert bench.rejects() == [digest]
    assert bench.floors() == (1, 1)
    assert bench.start().report.outcome is None


def test_a_revert_heeds_no_floor() -> None:
    bench = BankBench().start().trial()
    put_twice(bench.records, "floor", b"2")
    bench.banks.revert("self_test")
    assert bench.commit().boot() == (A, False, 0)
    assert bench.start().report.image.file_version == 1


def test_a_rejected_image_is_neither_loaded_nor_activated_again() -> None:
    bench = BankBench().start().reverted()
    before = bench.kept()
    refused = (Status.INVALID_IMAGE, "image_rejected")
    assert refusal(lambda: bench.banks.load(IMAGE_2)) == refused
    assert bench.commit().kept() == before
    bench.hold(IMAGE_3)
    digests = [bench.view(B).manufacturer_sha256]
    bench.records.put("rejects", encode({"digests": digests, "cause": "test"}))
    assert refusal(lambda: bench.banks.activate(CS09)) == refused
    assert bench.commit().boot() == (A, False, 0)


def test_a_lost_reject_list_costs_a_second_trial() -> None:
    bench = BankBench().start().reverted().rot("rejects")
    assert bench.start().trial().boot() == (B, True, 1)
    bench.banks.revert("self_test")
    assert len(bench.commit().rejects()) == 1


def test_the_oldest_of_many_rejects_is_forgotten() -> None:
    bench = BankBench().start()
    files = [image(2, size=3_000 + number) for number in range(REJECTS_MAX + 1)]
    digests = []
    for file in files:
        bench.trial(file)
        digests.append(bench.view(B).manufacturer_sha256)
        bench.banks.revert("self_test")
        bench.commit()
    assert bench.rejects() == digests[1:]
    assert refusal(lambda: bench.banks.load(files[1]))[1] == "image_rejected"
    assert bench.banks.load(files[0]).image == NEXT


def test_a_revert_to_a_bank_that_rotted_writes_the_factory_image_there() -> None:
    bench = BankBench().start().confirmed().trial(IMAGE_3).flip(B)
    assert bench.boot() == (A, True, 1)
    bench.banks.revert("self_test")
    bench.commit()
    assert bench.holds(B, FACTORY)
    assert bench.boot() == (B, False, 0)
    assert bench.states() == (S.REJECTED, S.CONFIRMED)
    assert bench.floors() == (2, 2)
    assert bench.start().report.image.file_version == 1


def test_without_any_way_back_a_revert_changes_nothing() -> None:
    bench = BankBench().start().trial().flip(A)
    before = bench.kept()
    bench.factory = FACTORY[:-1]
    bench.start(commit=False)
    with pytest.raises(StorageError, match="factory image"):
        bench.banks.revert("self_test")
    assert bench.kept() == before


# --- cuts ---------------------------------------------------------------------------------------


def test_a_loading_that_is_cut_anywhere_leaves_the_running_image_and_can_be_done_again() -> None:
    for bench in every_cut(SITUATIONS["held"], lambda bench: bench.banks.load(IMAGE_3)):
        assert bench.boot() == (A, False, 0)
        assert bench.holds(A, FACTORY)
        recorded = bench.view(B).image
        if bench.states()[1] is S.VERIFIED:
            assert recorded is not None
            assert bench.holds(B, IMAGE_2 if recorded == NEXT else IMAGE_3)
        else:
            assert bench.states()[1] is S.EMPTY and not bench.holds(B, IMAGE_2)
        bench.update()


def test_the_same_version_again_is_written_whole_where_its_loading_was_cut() -> None:
    for bench in every_cut(SITUATIONS["held"], lambda bench: bench.banks.load(IMAGE_2)):
        bench.medium.banks[B][4_096:6_000] = bytes(1_904)
        bench.start().update(IMAGE_2)
        assert bench.holds(B, IMAGE_2)


def test_an_activation_that_is_cut_happened_or_did_not() -> None:
    for bench in every_cut(SITUATIONS["held"], lambda bench: bench.banks.activate(CS09)):
        active, trial, tries = bench.boot()
        assert (active, trial, tries) in ((A, False, 0), (B, True, 1))
        assert bench.states()[1] is (S.TRIAL if trial else S.VERIFIED)
        bench.update()


def test_a_revert_that_is_cut_anywhere_ends_in_the_same_place() -> None:
    def on_trial_and_rotted() -> BankBench:
        return BankBench().start().confirmed().trial(IMAGE_3).flip(B)

    def revert(bench: BankBench) -> None:
        bench.banks.revert("self_test")

    for bench in every_cut(on_trial_and_rotted, revert):
        if bench.banks.is_on_trial:
            assert bench.boot() == (A, True, 2)  # the cut was a start more
            bench.banks.revert("self_test")
            bench.commit().start()
        assert bench.boot() == (B, False, 0)
        assert bench.holds(B, FACTORY)
        assert bench.rejects() == [bench.view(A).manufacturer_sha256]


# --- the boot record and the bank that runs change nowhere else -----------------------------------


@pytest.mark.parametrize("situation", SITUATIONS)
def test_nothing_but_activate_and_revert_changes_which_bank_is_active(situation: str) -> None:
    bench = SITUATIONS[situation]()
    active = bench.boot()[0]
    bench.start()
    assert bench.boot()[0] is active
    running = bench.kept().banks[active]
    if bench.banks.is_on_trial:
        bench.banks.confirm()
        bench.commit()
    bench.hold(IMAGE_3)
    bench.banks.mark_empty()
    bench.banks.mark_receiving(NEXT, 10)
    bench.commit().start()
    assert bench.boot()[0] is active
    assert bench.kept().banks[active] == running


def test_an_outcome_comes_back_as_it_was_given_after_any_number_of_starts() -> None:
    for outcome in (CS09, replace(CS09, kind="cs06")):
        bench = BankBench().start().activated(outcome=outcome).start().start()
        assert bench.banks.confirm() == outcome
