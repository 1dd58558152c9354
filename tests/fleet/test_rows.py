"""The fold of events: what moves a phase, and what ends an upgrade, well or not."""

from __future__ import annotations

import time

import pytest
from stories import HCALCS_2, PPMID_2, WAVE, ccs08, cs06, cs09, later, plan_of, receipt, told

from firmware_node.fleet.rows import CAUSES, MESSAGES_MAX, Rows, cause_words
from firmware_node.fleet.terms import Event, Row, Wave
from firmware_node.terms import DeviceType
from firmware_node.wire import firmware_messages as fm

NEVER = Wave("x", "hcalcs-2", activate="never")


def ppmid(*events: Event) -> Row:
    rows = Rows(plan_of(WAVE))
    rows.apply(told(1, 0, "image_running", version="00000001", trial=False))
    rows.offer(0, WAVE, PPMID_2, 5)
    for event in events:
        rows.apply(event)
    return rows[0]


def hcalcs(*events: Event, wave: Wave = WAVE) -> Row:
    rows = Rows(plan_of(WAVE, kind=DeviceType.HCALCS))
    rows.offer(0, wave, HCALCS_2, 5)
    for event in events:
        rows.apply(event)
    return rows[0]


def test_an_upgrade_of_a_ppmid_goes_through_its_phases() -> None:
    rows = Rows(plan_of(WAVE))
    row = rows[0]
    seen = [row.phase]

    def apply(*events: Event) -> None:
        for event in events:
            rows.apply(event)
        if seen[-1] != row.phase:
            seen.append(row.phase)

    apply(told(1, 0, "image_running", version="00000001", trial=False), told(1, 0, "joined"))
    assert seen == ["starting", "idle"]
    rows.offer(0, WAVE, PPMID_2, 5)
    apply(told(6, 0, "image_offered", version="00000002", total_size=900))
    apply(told(6, 0, "download_started", file_offset=0, total_size=900))
    apply(told(7, 0, "block_retried", cause="no_answer"))
    apply(told(8, 0, "download_progress", file_offset=450, total_size=900))
    assert (row.offset, row.total, row.retries) == (450, 900, 1)
    apply(told(9, 0, "image_verified"), ccs08(10, 0, fm.FILE_TRANSFER_SUCCESS))
    apply(told(11, 0, "activation_scheduled", seconds=3), told(12, 0, "image_activated"))
    apply(told(13, 0, "image_running", version="00000002", trial=True))
    apply(told(14, 0, "image_confirmed", version="00000002"))
    assert row.phase == "trial"  # nobody heard of it but the device
    apply(cs09(15, 0))
    assert seen == [
        *("starting", "idle", "offered", "downloading", "transferred", "activating", "trial"),
        "done",
    ]
    assert (row.begun_ms, row.ended_ms, row.from_version, row.version) == (5, 15, 1, 2)
    assert (row.starts, row.cause, row.offset) == (2, None, 900)


@pytest.mark.parametrize("spoilt", ["signature", "mac"])
def test_a_message_that_does_not_hold_is_shown_and_decides_nothing(spoilt: str) -> None:
    bad = cs09(9, 0)._replace(fields={**cs09(9, 0).fields, spoilt: "invalid"})
    row = ppmid(bad)
    assert row.phase == "offered" and row.version == 1
    assert f"{spoilt} invalid" in row.messages[0]


def test_the_alert_of_another_version_is_no_success() -> None:
    assert ppmid(cs09(9, 0, version=1)).phase == "offered"
    assert ppmid(cs09(9, 0, version=3)).ended_ms is None


@pytest.mark.parametrize(
    ("events", "phase", "cause"),
    [
        ([ccs08(9, 0, 1)], "offered", "image_discarded"),
        ([ccs08(9, 0, 1, version=0)], "offered", "image_discarded"),
        ([ccs08(9, 0, 2)], "offered", "hardware_mismatch"),
        ([told(7, 0, "download_started"), ccs08(9, 0, 3)], "downloading", "transfer_failed"),
        (
            [
                told(8, 0, "upgrade_failed", phase="verification", cause="image_malformed"),
                ccs08(9, 0, 1),
            ],
            "verification",
            "image_malformed",
        ),
        (
            [
                told(8, 0, "image_running", version="00000002", trial=True),
                told(8, 0, "upgrade_failed", phase="trial", cause="self_test"),
                told(8, 0, "image_reverted", version="00000001", cause="self_test"),
                cs09(9, 0, version=1, result=1),
            ],
            "trial",
            "self_test",
        ),
        ([told(7, 0, "image_verified"), cs09(9, 0, 1, 1)], "transferred", "activation_failed"),
        ([told(9, 0, "delivered", status="transfer_failed")], "offered", "transfer_failed"),
        ([told(9, 0, "order_refused", verb="offer", reason="x")], "offered", "x"),
        ([told(7, 0, "download_started"), told(9, 0, "left")], "downloading", "removed"),
        ([told(7, 0, "power_off"), told(9, 0, "left")], "offered", "removed"),
    ],
)
def test_a_ppmid_fails(events: list[Event], phase: str, cause: str) -> None:
    row = ppmid(*events)
    assert (row.phase, row.failed_in, row.cause, row.ended_ms) == ("failed", phase, cause, 9)


@pytest.mark.parametrize(
    "event",
    [
        ccs08(9, 0, 3, version=7),  # of another image
        told(9, 0, "delivered", status="transfer_failed", request_id="ppmid-9"),
        told(9, 0, "delivered", status="no_route", request_id=""),
        cs09(9, 0, version=1, result=1),  # late, of an earlier image: this one is not even there
        told(9, 0, "upgrade_failed", phase="download", cause="no_answer"),  # it may ask again
        told(9, 0, "order_refused", verb="query", reason="it is switched off"),
        cs06(9, 0),
    ],
)
def test_what_is_about_something_else_ends_nothing(event: Event) -> None:
    assert ppmid(event).ended_ms is None


def test_trouble_that_mended_is_no_cause() -> None:
    row = ppmid(
        told(6, 0, "download_started"),
        told(7, 0, "upgrade_failed", phase="download", cause="no_answer"),
        told(8, 0, "download_started"),
        ccs08(9, 0, 3),
    )
    assert row.cause == "transfer_failed"


def test_an_hcalcs_is_done_by_the_response_to_its_activation() -> None:
    row = hcalcs(receipt(6, 0))
    assert row.verified and row.phase == "transferred" and row.ended_ms is None
    assert hcalcs(receipt(6, 0), cs06(9, 0)).phase == "done"


def test_one_that_activates_at_a_time_is_done_by_the_alert_then() -> None:
    accepted = cs06(7, 0)
    fields = {k: v for k, v in accepted.fields.items() if k != "response_code"}
    row = hcalcs(receipt(6, 0), accepted._replace(fields={**fields, "accepted": True}))
    assert row.phase == "activating" and row.commanded and row.ended_ms is None
    assert hcalcs(receipt(6, 0), later(9, 0)).phase == "done"


def test_one_that_is_never_activated_is_done_by_its_receipt() -> None:
    assert hcalcs(receipt(6, 0), wave=NEVER).phase == "done"


@pytest.mark.parametrize(
    ("events", "phase", "cause"),
    [
        ([receipt(9, 0, fm.IMAGE_NOT_VERIFIED)], "verification", "image_not_verified"),
        ([receipt(6, 0), cs06(9, 0, 1, 1)], "activating", "no_image_held"),
        ([receipt(6, 0), cs06(9, 0, 1, 2)], "activating", "hash_mismatch"),
        ([receipt(6, 0), later(9, 0, 1, 3)], "activating", "activation_failed"),
        (
            [
                receipt(6, 0),
                told(7, 0, "image_running", version="00000002", trial=True),
                told(8, 0, "image_reverted", version="00000001", cause="trial_limit"),
                cs06(9, 0, 1, 3),
            ],
            "trial",
            "trial_limit",
        ),
    ],
)
def test_an_hcalcs_fails(events: list[Event], phase: str, cause: str) -> None:
    row = hcalcs(*events)
    assert (row.phase, row.failed_in, row.cause, row.ended_ms) == ("failed", phase, cause, 9)


def test_the_refusal_of_a_repeated_command_does_not_fail_a_trial() -> None:
    on_trial = told(7, 0, "image_running", version="00000002", trial=True)
    assert hcalcs(receipt(6, 0), on_trial, cs06(8, 0, 2, 1)).ended_ms is None


def test_a_device_without_supply_comes_back_to_where_it_was() -> None:
    rows = Rows(plan_of(WAVE))
    rows.offer(0, WAVE, PPMID_2, 5)
    rows.apply(told(6, 0, "download_started"))
    rows.apply(told(7, 0, "power_off"))
    assert rows[0].phase == "off"
    rows.apply(told(8, 0, "power_on"))
    assert rows[0].phase == "downloading"
    rows.apply(cs09(9, 0))
    rows.apply(told(10, 0, "power_off"))
    rows.apply(told(11, 0, "image_running", version="00000002", trial=False))
    assert rows[0].phase == "done"


def test_an_offer_to_a_device_without_supply_waits_for_it() -> None:
    rows = Rows(plan_of(WAVE))
    rows.apply(told(1, 0, "power_off"))
    rows.offer(0, WAVE, PPMID_2, 5)
    assert rows[0].phase == "off"
    rows.apply(told(8, 0, "power_on"))
    assert rows[0].phase == "offered"


def test_a_removed_device_is_off_until_it_joins_again() -> None:
    rows = Rows(plan_of(WAVE))
    rows.apply(told(1, 0, "joined"))
    rows.apply(told(2, 0, "power_off"))
    rows.apply(told(2, 0, "left"))
    assert (rows[0].left, rows[0].phase) == (True, "off")
    rows.apply(told(3, 0, "power_on"))
    rows.apply(told(3, 0, "joined"))
    assert (rows[0].left, rows[0].phase) == (False, "idle")


def test_messages_are_kept_in_words_and_not_for_ever() -> None:
    row = ppmid(ccs08(6, 0, 0), cs09(7, 0))
    assert row.messages == [
        "CCS08 alert 8F8A: transfer of 00000002, success (signature valid)",
        "CS09 alert 8F8B: runs 00000002, activation success (signature valid)",
    ]
    rows = Rows(plan_of(WAVE))
    for at_ms in range(MESSAGES_MAX + 5):
        rows.apply(cs09(at_ms, 0))
    assert len(rows[0].messages) == MESSAGES_MAX
    assert rows.messages == {("CS09", "alert", "8F8B", "valid", "absent"): MESSAGES_MAX + 5}


def test_every_cause_has_words_and_an_unknown_one_is_still_readable() -> None:
    assert cause_words(None) is None
    assert cause_words("self_test") == CAUSES["self_test"]
    assert cause_words("status_9a") == "status 9a"


def test_events_cost_little() -> None:
    rows = Rows(plan_of(WAVE, homes=1_000))
    events = [
        told(at, at % 1_000, "download_progress", file_offset=at, total_size=90_000)
        for at in range(50_000)
    ]
    begun = time.process_time()
    for event in events:
        rows.apply(event)
    assert time.process_time() - begun < 1.0  # a tenth of it is usual
