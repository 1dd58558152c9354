"""Which tests hold which promise of the storage: one that breaks must make one of these fail.

The invariants I1 to I13 and the ten common mistakes are those of the page on dual-bank storage.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
BANKS, START = "node/test_banks.py", "node/test_banks_start.py"
ASSEMBLY, COUNTERS, OUTBOX = "node/test_assembly.py", "node/test_counters.py", "node/test_outbox.py"
DEVICE, STORAGE = "node/test_device.py", "adapters/test_storage.py"
DRIVER, FILES = "adapters/test_driver.py", "adapters/test_bank_files.py"

INVARIANTS: dict[str, tuple[tuple[str, str], ...]] = {
    "I1: one bank always verifies and can run": (
        (START, "where_the_running_bank_rotted_the_other_one_runs_and_can_be_updated"),
        (START, "where_both_banks_rotted_the_factory_image_goes_into_the_spare_one"),
        (BANKS, "a_bank_that_changed_since_it_was_verified_is_not_activated"),
    ),
    "I2: the active bank is never written": (
        (BANKS, "a_loaded_image_is_held_in_the_spare_bank_and_the_running_bank_is_not_written"),
        (BANKS, "while_an_image_is_on_trial_the_way_back_is_not_written"),
        (ASSEMBLY, "wherever_the_supply_goes_the_octets_kept_are_those_that_came"),
    ),
    "I3: the active bank changes in activate and revert alone": (
        (BANKS, "nothing_but_activate_and_revert_changes_which_bank_is_active"),
        (BANKS, "an_activation_that_is_cut_happened_or_did_not"),
    ),
    "I4: what a resume point vouches for is what was received": (
        (ASSEMBLY, "wherever_the_supply_goes_the_octets_kept_are_those_that_came"),
        (ASSEMBLY, "a_page_that_rotted_costs_the_checkpoint_that_vouched_for_it"),
        (ASSEMBLY, "a_trailer_torn_at_any_octet_leaves_the_other_one"),
    ),
    "I5: every counter that was sent is below the ceiling, which never decreases": (
        (COUNTERS, "a_reservation_is_durable_before_its_first_use"),
        (COUNTERS, "no_counter_ever_leaves_twice_or_out_of_turn"),
        (COUNTERS, "lost_in_both_homes_it_is_not_begun_again_at_zero"),
        (FILES, "with_both_areas_rotten_a_value_is_unknown_until_somebody_raises_it"),
    ),
    "I6: a received counter is accepted once, and only above the last": (
        (COUNTERS, "a_counter_that_is_not_above_the_last_one_is_a_replay"),
        (COUNTERS, "a_lost_received_counter_accepts_nothing"),
        (DEVICE, "a_command_that_comes_twice_is_answered_once"),
        (STORAGE, "a_log_whose_header_rotted_takes_back_all_but_the_messages"),
    ),
    "I7: the rollback floor never decreases and nothing below it is activated": (
        (BANKS, "what_fell_below_the_floor_since_it_was_held_is_not_activated"),
        (BANKS, "a_floor_that_is_higher_already_stays"),
        (START, "the_higher_of_both_floors_counts_and_the_lower_is_lifted"),
        (FILES, "values_only_rise_and_are_there_again"),
    ),
    "I8: a change of state and its notification exist together or not at all": (
        (DEVICE, "a_trial_that_passes_is_confirmed_and_told_in_one_transaction"),
        (DEVICE, "a_trial_that_fails_is_reverted_and_told_in_one_transaction"),
        (DEVICE, "a_cut_at_the_commit_of_a_confirmation_leaves_it_and_its_alert_or_neither"),
    ),
    "I9: notifications leave in order, go on acknowledgement, repeat to the octet": (
        (OUTBOX, "only_the_head_is_under_way_and_the_next_leaves_when_it_arrived"),
        (OUTBOX, "what_was_not_acknowledged_is_sent_again_with_the_same_octets"),
        (OUTBOX, "order_holds_over_many_messages_and_restarts"),
    ),
    "I10: an unconfirmed image is left after N tries, a confirmed one never": (
        (BANKS, "after_the_permitted_starts_the_trial_is_left_and_the_image_rejected"),
        (BANKS, "a_confirmed_image_is_never_left_by_counting"),
    ),
    "I11: a recovery can be interrupted anywhere and started again": (
        (START, "a_recovery_that_is_cut_anywhere_ends_as_one_that_was_not"),
        (START, "provisioning_is_one_commit_and_begins_again_wherever_it_was_cut"),
        (BANKS, "a_revert_that_is_cut_anywhere_ends_in_the_same_place"),
        (STORAGE, "a_new_database_takes_the_place_of_the_old_one_and_of_its_log"),
    ),
    "I12: no state is a dead end": (
        (START, "any_pair_of_rows_that_is_lost_leaves_a_device_that_runs_and_can_be_updated"),
        (START, "without_any_row_but_the_note_of_the_loss_the_banks_say_what_runs"),
        (START, "a_trial_with_nothing_left_to_go_back_to_is_over_and_an_upgrade_is_awaited"),
        (BANKS, "a_loading_that_is_cut_anywhere_leaves_the_running_image_and_can_be_done_again"),
        (OUTBOX, "a_message_whose_rows_are_both_lost_is_given_up_and_those_behind_it_leave"),
    ),
    "I13: nothing is acknowledged before it is durable": (
        (DEVICE, "the_server_hears_of_an_image_only_with_the_commit_that_records_it"),
        (DEVICE, "a_command_is_accepted_answered_and_queued_in_one_transaction"),
        (DRIVER, "effects_leave_only_after_the_commit_of_their_step"),
    ),
}

MISTAKES: dict[str, tuple[tuple[str, str], ...]] = {
    "1: renamed without a sync before and after": (
        (STORAGE, "nothing_is_renamed_that_was_not_synced_and_its_directory_is_synced_after"),
    ),
    "2: progress saved, data not synced": (
        (ASSEMBLY, "after_a_checkpoint_a_cut_takes_nothing_of_it"),
        (ASSEMBLY, "a_page_that_rotted_costs_the_checkpoint_that_vouched_for_it"),
    ),
    "3: told first, saved then": (
        (DEVICE, "a_trial_that_passes_is_confirmed_and_told_in_one_transaction"),
        (DEVICE, "a_trial_that_fails_is_reverted_and_told_in_one_transaction"),
    ),
    "4: a counter used before its reservation is durable": (
        (COUNTERS, "a_reservation_is_durable_before_its_first_use"),
        (COUNTERS, "a_restart_goes_on_at_the_ceiling"),
    ),
    "5: starts of a confirmed image counted": (
        (BANKS, "a_confirmed_image_is_never_left_by_counting"),
    ),
    "6: the floor raised at activation": (
        (BANKS, "an_activation_puts_the_image_on_trial_and_raises_no_floor"),
    ),
    "7: something half-written without a way out": (
        (START, "any_pair_of_rows_that_is_lost_leaves_a_device_that_runs_and_can_be_updated"),
        (FILES, "an_area_torn_at_any_octet_leaves_the_values_before_or_the_new_ones"),
        (ASSEMBLY, "a_trailer_torn_at_any_octet_leaves_the_other_one"),
    ),
    "8: installed already, by its version number": (
        (BANKS, "the_same_version_again_is_written_whole_where_its_loading_was_cut"),
        (ASSEMBLY, "the_version_of_an_image_that_was_half_written_is_downloaded_whole"),
    ),
    "9: verified at the download alone": (
        (BANKS, "a_read_back_that_differs_is_refused_and_counted_until_the_bank_is_worn"),
        (BANKS, "a_bank_that_changed_since_it_was_verified_is_not_activated"),
        (START, "where_the_running_bank_rotted_the_other_one_runs_and_can_be_updated"),
    ),
    "10: recovery deletes first and writes after": (
        (START, "a_recovery_that_is_cut_anywhere_ends_as_one_that_was_not"),
        (BANKS, "a_revert_that_is_cut_anywhere_ends_in_the_same_place"),
        (STORAGE, "nothing_is_renamed_that_was_not_synced_and_its_directory_is_synced_after"),
    ),
}


@pytest.mark.parametrize("promise", [*INVARIANTS, *MISTAKES])
def test_the_tests_that_hold_a_promise_are_there(promise: str) -> None:
    for file, name in (INVARIANTS | MISTAKES)[promise]:
        tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
        defined = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
        assert f"test_{name}" in defined, f"{promise}: {file} has no such test"


def test_every_invariant_and_every_mistake_has_its_tests() -> None:
    assert [key.partition(":")[0] for key in INVARIANTS] == [f"I{n}" for n in range(1, 14)]
    assert [key.partition(":")[0] for key in MISTAKES] == [str(n) for n in range(1, 11)]
