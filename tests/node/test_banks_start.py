"""Start-up of the banks: provisioning, rot, lost rows, and starts that are cut themselves."""

from __future__ import annotations

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
from home import KEYS, SETTINGS, image

from firmware_node.boundary import RatchetValues
from firmware_node.crypto import Keyring
from firmware_node.errors import StorageError
from firmware_node.node.banks import BankView
from firmware_node.node.records import put_twice
from firmware_node.terms import BankState, DeviceType, ImageFormat, ImageKey, Role
from firmware_node.tools.image import build_image
from firmware_node.tools.keys import PARTIES, build_keys
from firmware_node.wire.manufacturer_image import Manifest
from firmware_node.wire.ota_file import OtaHeader, build_gb_plain

S = BankState
NO_MANUFACTURER = Keyring(build_keys(b"flows", manufacturers=()))
NO_SUPPLIER = Keyring(build_keys(b"flows", parties=[p for p in PARTIES if p.name != "SUPPLIER"]))
SITUATIONS: dict[str, Callable[[], BankBench]] = {
    "provisioned": lambda: BankBench().start(),
    "held": lambda: BankBench().start().hold(),
    "activated": lambda: BankBench().start().activated(),
    "on trial": lambda: BankBench().start().trial(),
    "confirmed": lambda: BankBench().start().confirmed(),
    "confirmed and held": lambda: BankBench().start().confirmed().hold(IMAGE_3),
    "on trial in bank A": lambda: BankBench().start().confirmed().trial(IMAGE_3),
    "reverted": lambda: BankBench().start().reverted(),
    "receiving": lambda: _receiving(BankBench().start()),
}
COUNTERS = {"counter/own", "counter/own~"}  # mended by whoever reads them
ROWS = ("bank/A", "bank/B", "boot", "counter/own", "floor", "marker")


def _receiving(bench: BankBench) -> BankBench:
    bench.banks.mark_receiving(ImageKey(0x121D, 0x0084, 2), len(IMAGE_2))
    bench.storage.bank(B).write(0, IMAGE_2[:4_096])
    bench.storage.bank(B).sync()
    return bench.commit()


# --- provisioning -------------------------------------------------------------------------------


def test_an_empty_storage_gets_the_factory_image_into_bank_a() -> None:
    bench = BankBench().start()
    report = bench.report
    assert bench.notes() == ["provisioned"]
    assert (report.running, report.image.file_version, report.trial) == (A, 1, False)
    assert report.manifest is not None and report.manifest.version_string == "v1"
    assert bench.holds(A, FACTORY)
    assert bench.states() == (S.CONFIRMED, S.EMPTY)
    assert bench.view(B) == BankView(S.EMPTY)
    assert (bench.view(B).version_hex, bench.view(B).sha256_hex) == (None, None)
    assert bench.boot() == (A, False, 0)
    assert bench.floors() == (1, 1)
    assert bench.medium.records["counter/own"] == bench.medium.records["counter/own~"] == b"0"
    assert bench.rejects() == []


def test_a_second_start_changes_nothing() -> None:
    bench = BankBench().start()
    before, calls = bench.kept(), bench.medium.calls
    bench.first_rows = {"other": b"1"}
    bench.start()
    assert bench.notes() == []
    assert bench.kept() == before
    assert bench.medium.calls == calls + 1  # the ratchet is asked to hold what it holds


def test_provisioning_is_one_commit_and_begins_again_wherever_it_was_cut() -> None:
    whole = BankBench().start().kept()
    cuts = 0
    for bench in every_cut(BankBench, lambda bench: bench.start(commit=False)):
        cuts += 1
        assert bench.kept() == whole
    assert cuts >= 5


@pytest.mark.parametrize("factory", [FACTORY[:-1], image(1, size=AREA)])
def test_a_factory_image_that_is_none_or_does_not_fit_leaves_nothing_recorded(
    factory: bytes,
) -> None:
    bench = BankBench(factory=factory)
    with pytest.raises(StorageError):
        bench.start()
    assert bench.medium.records == {}
    assert bench.medium.ratchet == RatchetValues()
    bench.factory = FACTORY
    assert bench.start().boot() == (A, False, 0)


# --- the running bank does not verify -------------------------------------------------------------


def test_where_the_running_bank_rotted_the_other_one_runs_and_can_be_updated() -> None:
    bench = BankBench().start().confirmed().flip(B)
    bench.start()
    assert bench.notes() == ["bank_fault", "running_other_bank"]
    fault = bench.report.notes[0].fields
    assert (fault["bank"], fault["cause"]) == ("B", "manufacturer_signature_wrong")
    assert (bench.report.running, bench.report.image.file_version) == (A, 1)
    assert (bench.report.trial, bench.report.reverted) == (False, False)
    assert bench.boot() == (A, False, 0)
    assert bench.states() == (S.CONFIRMED, S.EMPTY)
    assert bench.floors() == (2, 2)
    bench.update(IMAGE_2)  # it is not on the reject list: the medium failed, not the image


def test_a_held_image_may_run_where_the_running_bank_rotted() -> None:
    bench = BankBench().start().hold().flip(A).start()
    assert (bench.report.running, bench.report.image.file_version) == (B, 2)
    assert bench.boot() == (B, False, 0)
    assert bench.states() == (S.EMPTY, S.CONFIRMED)


@pytest.mark.parametrize("why", ["rejected", "below the floor"])
def test_an_image_that_may_not_be_activated_is_no_way_out(why: str) -> None:
    if why == "rejected":
        bench = BankBench().start().reverted()
    else:
        bench = BankBench(factory=image(3, size=5_000)).start()
        bench.storage.bank(B).write(0, IMAGE_2)
        bench.storage.bank(B).sync()
    bench.flip(A).start()
    faults = [note for note in bench.report.notes if note.name == "bank_fault"]
    cause = "image_rejected" if why == "rejected" else "below_rollback_floor"
    assert [fault.fields["cause"] for fault in faults[:2]] == [
        "manufacturer_signature_wrong",
        cause,
    ]
    assert bench.notes()[-1] == "factory_image_restored"
    assert bench.boot() == (B, False, 0)
    assert bench.holds(B, bench.factory)
    assert bench.report.image.file_version == (1 if why == "rejected" else 3)


def test_a_trial_whose_bank_rotted_is_over_and_its_outcome_is_handed_back() -> None:
    bench = BankBench().start().trial().flip(B).start()
    report = bench.report
    assert (report.reverted, report.cause, report.outcome) == (True, "bank_fault", CS09)
    assert (report.running, report.image.file_version, report.trial) == (A, 1, False)
    assert bench.boot() == (A, False, 0)
    assert bench.states() == (S.CONFIRMED, S.EMPTY)
    assert bench.rejects() == []
    assert bench.start().report.outcome is None


def test_where_both_banks_rotted_the_factory_image_goes_into_the_spare_one() -> None:
    bench = BankBench().start().hold().flip(A).flip(B)
    running = bench.kept().banks[A]
    bench.start()
    assert bench.notes() == ["bank_fault", "bank_fault", "factory_image_restored"]
    assert bench.holds(B, FACTORY)
    assert bench.kept().banks[A] == running
    assert bench.boot() == (B, False, 0)
    assert bench.states() == (S.EMPTY, S.CONFIRMED)
    assert bench.report.image.file_version == 1
    bench.update()


@pytest.mark.parametrize("lost", [False, True])
def test_below_the_floor_or_without_one_nothing_runs_and_nothing_is_written(lost: bool) -> None:
    bench = BankBench().start().confirmed().flip(A).flip(B)
    if lost:
        bench.rot_pair("floor")
        bench.medium.ratchet = None
    banks = bench.kept().banks
    bench.start()
    assert "nothing_to_run" in bench.notes()
    assert bench.report.manifest is None
    assert bench.report.image.file_version == 0
    assert bench.kept().banks == banks
    assert bench.boot() == (B, False, 0)
    assert bench.states()[1] is S.CONFIRMED  # it may be the configuration that is wrong
    if not lost:
        bench.update()  # and an upgrade is awaited


def test_a_factory_image_that_is_none_leaves_nothing_to_run_and_nothing_written() -> None:
    bench = BankBench().start().hold().flip(A).flip(B)
    banks = bench.kept().banks
    bench.factory = FACTORY[:-1]
    bench.start()
    assert "nothing_to_run" in bench.notes()
    assert bench.kept().banks == banks
    assert bench.boot() == (A, False, 0)


@pytest.mark.parametrize("situation", SITUATIONS)
def test_a_missing_manufacturers_key_gives_up_no_bank(situation: str) -> None:
    bench = SITUATIONS[situation]()
    before, running = bench.kept(), bench.boot()[0]
    bench.keyring = NO_MANUFACTURER
    for _ in range(2 * SETTINGS.activation.trial_starts_max):
        bench.start()
        assert "nothing_to_run" in bench.notes()
        assert (bench.report.manifest, bench.report.trial) == (None, False)
    assert bench.kept() == before
    bench.keyring = KEYS
    assert bench.start().report.running is running
    assert bench.report.manifest is not None


def test_a_missing_suppliers_key_gives_up_no_bank_either() -> None:
    bench = BankBench(settings=replace(SETTINGS, type=DeviceType.HCALCS)).start()
    bench.confirmed(signed_by_supplier(2)).hold(signed_by_supplier(3))
    before = bench.kept()
    bench.keyring = NO_SUPPLIER
    bench.start()
    assert bench.notes() == ["bank_fault", "nothing_to_run", "bank_fault"]
    assert bench.report.notes[0].fields["cause"] == "supplier_key_missing"
    assert bench.kept() == before
    bench.keyring = KEYS
    assert bench.start().report.image.file_version == 2
    assert bench.notes() == []


def test_a_trial_with_nothing_left_to_go_back_to_is_over_and_an_upgrade_is_awaited() -> None:
    bench = SITUATIONS["on trial in bank A"]().flip(A).flip(B).start()
    assert "nothing_to_run" in bench.notes()
    assert (bench.report.reverted, bench.report.cause) == (True, "bank_fault")
    assert bench.report.outcome == CS09
    assert bench.boot() == (A, False, 0)
    assert bench.states() == (S.EMPTY, S.EMPTY)
    assert bench.start().report.outcome is None
    bench.update()


# --- the spare bank does not verify ---------------------------------------------------------------


@pytest.mark.parametrize("situation", ["held", "confirmed", "confirmed and held"])
def test_a_spare_bank_that_rotted_is_empty_and_can_be_filled_again(situation: str) -> None:
    bench = SITUATIONS[situation]()
    spare = bench.banks.spare
    bench.flip(spare).start()
    assert bench.notes() == ["bank_fault"]
    assert bench.report.notes[0].fields["bank"] == spare.value
    assert bench.view(spare) == BankView(S.EMPTY)
    assert bench.boot()[0] is spare.other
    bench.update()


def test_the_bank_under_a_download_is_nobodys_business_at_a_start() -> None:
    bench = SITUATIONS["receiving"]().flip(B)
    before = bench.kept()
    assert bench.start().notes() == []
    assert bench.kept() == before


# --- rows are lost --------------------------------------------------------------------------------


@pytest.mark.parametrize("situation", SITUATIONS)
def test_any_one_row_that_is_lost_costs_nothing(situation: str) -> None:
    whole = SITUATIONS[situation]().start()
    for key in whole.kept().records:
        if key == "rejects":
            continue  # kept once; see test_a_lost_reject_list_costs_a_second_trial
        bench = SITUATIONS[situation]().rot(key).start()
        assert bench.report == whole.report, key
        assert bench.kept() == whole.kept(), key
        assert not bench.rotten - COUNTERS, key


@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize("key", ROWS)
def test_any_pair_of_rows_that_is_lost_leaves_a_device_that_runs_and_can_be_updated(
    situation: str, key: str
) -> None:
    bench = SITUATIONS[situation]().rot_pair(key).start()
    assert bench.report.manifest is not None
    assert bench.report.image.file_version >= bench.floors()[0]
    assert "provisioned" not in bench.notes()
    bench.update()


@pytest.mark.parametrize("situation", SITUATIONS)
def test_without_any_row_but_the_note_of_the_loss_the_banks_say_what_runs(situation: str) -> None:
    bench = SITUATIONS[situation]()
    bench.medium.records = {"lost": b"damaged"}
    floor = bench.medium.ratchet
    assert floor is not None
    bench.start()
    assert bench.notes()[0] == "records_lost"
    assert "provisioned" not in bench.notes()
    assert "lost" not in bench.medium.records
    assert bench.report.image.file_version == floor.rollback_floor
    assert not bench.report.trial
    assert bench.floors() == (floor.rollback_floor, floor.rollback_floor)
    bench.start()
    assert bench.notes() == []
    bench.update()


def test_a_lost_boot_record_goes_to_the_image_that_is_the_floor() -> None:
    bench = SITUATIONS["on trial"]().rot_pair("boot").start()
    assert bench.notes() == ["boot_record_rebuilt"]
    assert bench.boot() == (A, False, 0)
    assert bench.states() == (S.CONFIRMED, S.EMPTY)  # not pretended to have failed, nor to be held
    bench = SITUATIONS["confirmed"]().rot_pair("boot").start()
    assert bench.boot() == (B, False, 0)
    assert bench.states() == (S.CONFIRMED, S.CONFIRMED)


def test_a_lost_boot_record_goes_to_the_only_bank_that_verifies_and_that_is_confirmed() -> None:
    bench = SITUATIONS["held"]().flip(A).rot_pair("boot").start()
    assert bench.boot() == (B, False, 0)
    assert bench.states() == (S.EMPTY, S.CONFIRMED)
    bench.update()


def test_a_lost_boot_record_and_floor_go_to_the_bank_that_was_confirmed() -> None:
    bench = SITUATIONS["held"]().rot_pair("boot", "floor")
    bench.medium.ratchet = None
    assert bench.start().boot() == (A, False, 0)
    bench = BankBench(factory=image(3, size=5_000)).start().rot_pair("boot", "floor")
    bench.storage.bank(B).write(0, IMAGE_2)
    bench.storage.bank(B).sync()
    bench.medium.ratchet = None
    assert bench.start().boot() == (A, False, 0)
    assert bench.report.image.file_version == 3


def test_with_all_of_it_lost_the_older_image_runs() -> None:
    bench = SITUATIONS["held"]().rot_pair("boot", "floor", "bank/A", "bank/B")
    bench.medium.ratchet = None
    assert bench.start().boot() == (A, False, 0)
    assert (bench.view(A).state, bench.view(B).state) == (S.CONFIRMED, S.EMPTY)
    assert bench.report.image.file_version == 1


def test_a_lost_boot_record_over_two_bad_banks_starts_over_from_the_factory() -> None:
    bench = SITUATIONS["held"]().flip(A).flip(B).rot_pair("boot").start()
    assert bench.notes() == [
        "boot_record_rebuilt",
        "bank_fault",
        "bank_fault",
        "factory_image_restored",
    ]
    assert bench.boot() == (B, False, 0)
    assert bench.holds(B, FACTORY)


def test_a_running_bank_whose_record_was_lost_is_entered_again_when_it_verified() -> None:
    bench = SITUATIONS["confirmed"]()
    before = bench.view(B)
    assert bench.rot_pair("bank/B").start().view(B) == before
    bench = SITUATIONS["on trial"]()
    before = bench.view(B)
    bench.rot_pair("bank/B").start()
    assert bench.view(B) == before
    assert before.state is S.TRIAL
    assert bench.boot() == (B, True, 2)


def test_a_bank_without_record_and_with_a_senseless_size_is_no_image() -> None:
    bench = SITUATIONS["held"]().rot_pair("bank/A")
    bench.medium.banks[A][52:56] = (AREA + 1).to_bytes(4, "little")
    bench.start()
    assert bench.report.notes[0].fields["cause"] == "image_malformed"
    assert bench.boot() == (B, False, 0)


# --- the floor ------------------------------------------------------------------------------------


@pytest.mark.parametrize("record", [1, 5])
@pytest.mark.parametrize("ratchet", [1, 5])
def test_the_higher_of_both_floors_counts_and_the_lower_is_lifted(
    record: int, ratchet: int
) -> None:
    bench = SITUATIONS["provisioned"]()
    put_twice(bench.records, "floor", b"%d" % record)
    bench.commit().medium.ratchet = RatchetValues(9, ratchet)
    bench.start()
    highest = max(record, ratchet)
    assert bench.floors() == (highest, highest)
    assert bench.medium.ratchet == RatchetValues(9, highest)


@pytest.mark.parametrize("lost", ["record", "ratchet"])
def test_a_floor_that_is_lost_in_one_home_comes_from_the_other(lost: str) -> None:
    bench = SITUATIONS["confirmed"]()
    if lost == "record":
        bench.rot_pair("floor")
    else:
        bench.medium.ratchet = None
    bench.start()
    assert bench.notes() == ["record_lost"]
    # A ceiling that is not known keeps the ratchet unreadable until somebody raises it.
    bench.storage.ratchet.raise_now(RatchetValues(counter_ceiling=1_001))
    assert bench.floors() == (2, 2)
    assert bench.medium.ratchet is not None
    assert bench.medium.ratchet.counter_ceiling == 1_001


# --- starts that are cut --------------------------------------------------------------------------

RECOVERIES: dict[str, Callable[[], BankBench]] = {
    "the other bank": lambda: SITUATIONS["confirmed"]().flip(B),
    "the factory image": lambda: SITUATIONS["held"]().flip(A).flip(B),
    "a trial that rotted": lambda: SITUATIONS["on trial"]().flip(B),
    "a lost boot record": lambda: SITUATIONS["confirmed and held"]().rot_pair("boot"),
    "no records": lambda: _without_records(SITUATIONS["confirmed"]()),
    "a lower ratchet": lambda: _lower_ratchet(SITUATIONS["confirmed"]()),
}


def _without_records(bench: BankBench) -> BankBench:
    bench.medium.records = {"lost": b"damaged"}
    return bench


def _lower_ratchet(bench: BankBench) -> BankBench:
    bench.medium.ratchet = RatchetValues(1, 1)
    return bench


@pytest.mark.parametrize("recovery", RECOVERIES)
def test_a_recovery_that_is_cut_anywhere_ends_as_one_that_was_not(recovery: str) -> None:
    whole = RECOVERIES[recovery]().start()
    for bench in every_cut(RECOVERIES[recovery], lambda bench: bench.start(commit=False)):
        assert bench.kept() == whole.kept()
        assert bench.report.image == whole.report.image


def test_the_last_start_of_a_trial_reverts_with_the_same_end_wherever_it_is_cut() -> None:
    def worn_out() -> BankBench:
        return BankBench(trial_starts_max=1).start().activated().start()

    whole = worn_out().start()
    for bench in every_cut(worn_out, lambda bench: bench.start(commit=False)):
        assert bench.kept() == whole.kept()
        assert bench.boot() == (A, False, 0)


def test_vendors_images_without_a_manifest_start_as_well() -> None:
    settings = replace(SETTINGS, manufacturer_signature_required=False)
    bench = BankBench(settings=settings).start()
    assert bench.confirmed(vendor_image(2)).start().report.manifest is None
    assert bench.report.image.file_version == 2
    assert bench.boot() == (B, False, 0)


def signed_by_supplier(version: int) -> bytes:
    manifest = Manifest(ImageKey(0x121D, 0x0084, version), 0x1111, 0x1211)
    return build_image(
        manifest,
        kind=ImageFormat.GB_SUPPLIER_SIGNED,
        supplier_key=KEYS.signing_key(KEYS.find(Role.SUPPLIER)[0]),
    )


def vendor_image(version: int) -> bytes:
    header = OtaHeader(
        image=ImageKey(0x121D, 0x0084, version),
        header_string="a vendor's",
        hardware_version_min=None,
        hardware_version_max=None,
    )
    return build_gb_plain(header, b"octets of a vendor" * 100)
