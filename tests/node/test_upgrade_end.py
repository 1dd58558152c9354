"""From the verified image to its activation: who says when, and what a restart changes."""

from __future__ import annotations

import pytest
from ota_bench import FILE, NEW, NEWER, UTC, Bench

from firmware_node.node.ota_client import ActivationRequested, ImageHeld, UpgradeAbandoned
from firmware_node.terms import DeviceType, ImageKey, UpgradeStatus
from firmware_node.wire import ota, zcl
from firmware_node.wire.zcl import Status

S = UpgradeStatus
SUCCESS = ota.UpgradeEndRequest(Status.SUCCESS, NEW)
OUT_OF_BAND = (DeviceType.HCALCS, DeviceType.ESME, DeviceType.GSME)


def test_a_verified_image_is_told_to_the_server() -> None:
    bench = Bench().downloading().serve().clear()
    bench.take(bench.client.image_verified(bench.now))
    assert bench.requests() == [SUCCESS]
    assert bench.status is S.DOWNLOAD_COMPLETE
    assert bench.note("upgrade_end_sent").fields == {"status": "00"}


@pytest.mark.parametrize(
    ("code", "status"),
    [(Status.INVALID_IMAGE, 0x96), (0x8F72, 0x96), (Status.NOT_AUTHORIZED, 0x7E)],
)
def test_an_image_that_is_not_good_is_told_with_its_key_and_queries_go_on(
    code: int, status: int
) -> None:
    bench = Bench().downloading().serve().clear()
    bench.take(bench.client.image_refused(code, bench.now))
    assert bench.requests() == [ota.UpgradeEndRequest(status, NEW)]
    assert bench.status is S.NORMAL
    bench.hear_default(ota.UPGRADE_END_REQUEST, Status.SUCCESS)
    bench.answer_end(UTC, UTC)
    assert bench.values == []
    assert bench.tick() == 300_000


def test_an_unanswered_upgrade_end_request_is_repeated_and_then_a_server_is_sought() -> None:
    bench = Bench().held().clear()
    for _ in range(10):
        assert bench.tick() == 600_000
    assert bench.requests() == [SUCCESS] * 10
    assert len(set(bench.sequences())) == 10
    assert bench.tick() == 600_000
    assert "upgrade_end_unanswered" in bench.names()
    assert bench.status is S.DOWNLOAD_COMPLETE
    assert bench.values == []
    bench.clear().found()
    assert bench.requests() == [SUCCESS]


def test_where_the_policy_says_so_an_unanswered_request_activates() -> None:
    bench = Bench(timeout_activates=True).held()
    bench.wait(11 * 600_000 + 3_000)
    assert bench.values[1:] == [ActivationRequested(NEW)]


@pytest.mark.parametrize("kind", OUT_OF_BAND)
def test_no_timeout_activates_a_device_that_waits_for_a_command(kind: DeviceType) -> None:
    bench = Bench(kind, timeout_activates=True).held().wait(48 * 3_600_000)
    assert bench.values == [ImageHeld(NEW, 1024)]
    assert bench.status is S.DOWNLOAD_COMPLETE


# --- PPMID ------------------------------------------------------------------------------------

TIMES = {
    "now": (UTC, UTC, 3_000),
    "now, relative": (0, 0, 3_000),
    "sooner than replies get out": (UTC, UTC + 1, 3_000),
    "later": (UTC, UTC + 600, 600_000),
    "later, relative": (0, 600, 600_000),
}


@pytest.mark.parametrize("name", TIMES)
def test_a_ppmid_activates_when_the_server_says(name: str) -> None:
    current, upgrade, milliseconds = TIMES[name]
    bench = Bench().held().clear()
    bench.answer_end(current, upgrade)
    assert (bench.status, bench.sent, bench.values) == (S.COUNT_DOWN, [], [])
    assert bench.tick() == milliseconds
    assert bench.values == [ActivationRequested(NEW)]
    assert not [key for key in bench.records.rows if key.startswith("ota/")]


def test_an_activation_is_asked_for_once() -> None:
    bench = Bench().held().clear()
    bench.answer_end(UTC, UTC)
    bench.wait(3_600_000)
    bench.answer_end(UTC, UTC)
    bench.wait(3_600_000)
    assert bench.values == [ActivationRequested(NEW)]


def test_a_count_down_goes_on_without_the_network() -> None:
    bench = Bench().held().clear()
    bench.answer_end(UTC, UTC + 600)
    bench.leave().wait(600_000)
    assert bench.values == [ActivationRequested(NEW)]


def test_a_far_time_is_asked_for_again_on_the_way_and_stands_without_an_answer() -> None:
    bench = Bench().held().clear()
    bench.answer_end(UTC, UTC + 9_000)
    bench.wait(8_999_000)
    assert bench.requests() == [SUCCESS] * 2
    assert (bench.status, bench.values) == (S.COUNT_DOWN, [])
    bench.wait(1_000)
    assert bench.values == [ActivationRequested(NEW)]


def test_a_new_time_replaces_the_old_one() -> None:
    bench = Bench().held().clear()
    bench.answer_end(UTC, UTC + 600)
    bench.wait(60_000).answer_end(UTC + 60, UTC + 61)
    assert bench.tick() == 3_000
    assert bench.values == [ActivationRequested(NEW)]


def test_a_hold_is_asked_again_after_an_hour_and_may_be_let_go_unasked() -> None:
    bench = Bench().held().clear()
    bench.answer_end(UTC, ota.HOLD)
    assert bench.status is S.WAITING_TO_UPGRADE
    bench.wait_served(3_599_999)
    assert SUCCESS not in bench.requests()
    bench.wait_served(1)
    assert SUCCESS in bench.requests()
    bench.answer_end(UTC, ota.HOLD)
    bench.wait(1_000).answer_end(UTC, UTC)  # unsolicited
    bench.wait(3_000)
    assert bench.values == [ActivationRequested(NEW)]


def test_a_count_down_may_be_held_after_all() -> None:
    bench = Bench().held().clear()
    bench.answer_end(UTC, UTC + 600)
    bench.answer_end(UTC, ota.HOLD)
    assert bench.status is S.WAITING_TO_UPGRADE
    bench.wait(700_000)
    assert bench.values == []


def test_a_time_before_now_is_asked_for_again_in_an_hour() -> None:
    bench = Bench().held().clear()
    bench.answer_end(UTC, UTC - 1)
    assert (bench.status, bench.values) == (S.WAITING_TO_UPGRADE, [])
    bench.wait_served(3_600_000)
    assert SUCCESS in bench.requests()


@pytest.mark.parametrize(
    "image",
    [
        NEW,
        ImageKey(0xFFFF, 0xFFFF, 0xFFFFFFFF),
        NEW._replace(manufacturer_code=0xFFFF),
        NEW._replace(image_type=0xFFFF),
        NEW._replace(file_version=0xFFFFFFFF),
    ],
)
def test_wild_cards_of_the_server_mean_our_image(image: ImageKey) -> None:
    bench = Bench().held().clear()
    bench.answer_end(UTC, UTC, image)
    assert bench.status is S.COUNT_DOWN


@pytest.mark.parametrize(
    "image", [NEWER, NEW._replace(image_type=1), NEW._replace(manufacturer_code=1)]
)
def test_an_answer_for_another_image_is_refused_as_invalid_value(image: ImageKey) -> None:
    bench = Bench().held().clear()
    bench.answer_end(UTC, UTC, image)
    assert bench.defaults() == [(ota.UPGRADE_END_RESPONSE, Status.INVALID_VALUE)]
    assert bench.status is S.DOWNLOAD_COMPLETE
    bench.wait(10_000)
    assert bench.values == []


def test_an_upgrade_end_response_without_a_held_image_does_nothing() -> None:
    for bench in (Bench().idle(), Bench().downloading().clear()):
        before = bench.status
        bench.answer_end(UTC, UTC)
        assert (bench.status, bench.sent, bench.values) == (before, [], [])


def test_success_is_told_only_to_a_server_that_wants_it() -> None:
    bench = Bench().held().clear()
    bench.answer_end(UTC, UTC + 10, quiet=False)
    assert bench.defaults() == [(ota.UPGRADE_END_RESPONSE, Status.SUCCESS)]


@pytest.mark.parametrize("upgrade", [None, ota.HOLD, UTC + 600])
def test_an_error_to_the_upgrade_end_request_is_the_servers_abort(upgrade: int | None) -> None:
    bench = Bench().held().clear()
    if upgrade is not None:
        bench.answer_end(UTC, upgrade)
    bench.hear_default(ota.UPGRADE_END_REQUEST, Status.FAILURE)
    assert (bench.status, bench.bank.abandoned) == (S.NORMAL, 1)
    assert bench.values == [UpgradeAbandoned("server_abort")]
    assert not [key for key in bench.records.rows if key.startswith("ota/")]
    bench.clear().notify()
    bench.answer_query(image=NEW, size=1024)
    bench.serve()
    assert bytes(bench.bank.octets) == FILE


def test_an_activation_that_fails_goes_back_to_querying() -> None:
    bench = Bench().held().clear()
    bench.answer_end(UTC, UTC)
    bench.tick()
    bench.take(bench.client.activation_failed(bench.now))
    assert bench.status is S.NORMAL
    bench.clear()
    assert bench.tick() == 300_000
    assert len(bench.requests()) == 1


@pytest.mark.parametrize("end", ["the activation failed", "server abort", "from elsewhere"])
@pytest.mark.parametrize("upgrade", [ota.HOLD, UTC + 9_000])
def test_when_an_upgrade_is_over_nothing_of_it_is_asked_or_kept(end: str, upgrade: int) -> None:
    bench = Bench().held()
    bench.answer_end(UTC, upgrade)
    if end == "server abort":
        bench.hear_default(ota.UPGRADE_END_REQUEST, Status.FAILURE)
    elif end == "from elsewhere":
        bench.client.cancel(bench.now)
    else:
        bench.take(bench.client.activation_failed(bench.now))
    bench.clear().wait_served(3 * 3_600_000)
    assert SUCCESS not in bench.requests()
    assert (bench.values, bench.status) == ([], S.NORMAL)
    assert (bench.client.image, bench.client.file_offset, bench.client.total_size) == (None, 0, 0)
    assert not [key for key in bench.records.rows if key.startswith("ota/")]


@pytest.mark.parametrize("word", ["hold", "network"])
def test_a_word_of_the_server_or_a_new_network_begins_the_patience_anew(word: str) -> None:
    bench = Bench().held()
    for _ in range(8):
        bench.tick()
    if word == "hold":
        bench.answer_end(UTC, ota.HOLD)
        bench.clear().wait_served(3_600_000)
    else:
        bench.leave().wait(700_000).clear().join()
    while "upgrade_end_unanswered" not in bench.names():
        bench.wait_served(60_000)
    assert bench.requests().count(SUCCESS) == 11
    assert bench.status in (S.DOWNLOAD_COMPLETE, S.WAITING_TO_UPGRADE)


def test_while_the_network_is_gone_nothing_is_sent_and_then_the_server_is_asked() -> None:
    bench = Bench().held()
    bench.answer_end(UTC, ota.HOLD)
    bench.leave().clear().wait(2 * 3_600_000)
    assert bench.sent == []
    bench.join()
    assert SUCCESS in bench.requests()
    assert bench.status is S.WAITING_TO_UPGRADE


def test_what_is_told_of_a_count_down_is_when_it_ends() -> None:
    bench = Bench().held()
    bench.answer_end(UTC, UTC)
    assert bench.note("activation_scheduled").fields == {"seconds": 3.0}
    bench.answer_end(UTC, UTC + 600)
    assert bench.note("activation_scheduled").fields == {"seconds": 600.0}
    assert bench.status is S.COUNT_DOWN


# --- devices that a GBCS command activates -----------------------------------------------------


@pytest.mark.parametrize("kind", OUT_OF_BAND)
def test_a_hold_makes_them_wait_for_an_external_event_without_asking(kind: DeviceType) -> None:
    bench = Bench(kind).held().clear()
    bench.answer_end(UTC, ota.HOLD)
    assert bench.status is S.WAITING_TO_UPGRADE_VIA_EXTERNAL_EVENT
    assert bench.client.pending_elsewhere()
    bench.answer_end(UTC, ota.HOLD)
    assert bench.names() == ["activation_held"]  # once
    bench.wait_served(24 * 3_600_000)
    assert SUCCESS not in bench.requests()
    assert bench.values == []
    assert bench.defaults() == []


@pytest.mark.parametrize("kind", OUT_OF_BAND)
@pytest.mark.parametrize(("current", "upgrade"), [(UTC, UTC), (UTC, UTC + 600), (0, 0)])
def test_a_time_is_refused_as_not_authorized_and_never_activates(
    kind: DeviceType, current: int, upgrade: int
) -> None:
    bench = Bench(kind).held().clear()
    bench.answer_end(current, upgrade)
    assert bench.defaults() == [(ota.UPGRADE_END_RESPONSE, Status.NOT_AUTHORIZED)]
    bench.wait_served(24 * 3_600_000)
    assert SUCCESS not in bench.requests()
    assert bench.values == []
    assert bench.status is S.WAITING_TO_UPGRADE_VIA_EXTERNAL_EVENT


def test_while_waiting_for_the_event_a_late_abort_does_not_take_the_image_away() -> None:
    bench = Bench(DeviceType.HCALCS).held().clear()
    bench.answer_end(UTC, ota.HOLD)
    bench.hear_default(ota.UPGRADE_END_REQUEST, Status.FAILURE)
    assert bench.client.pending_elsewhere()
    assert bench.bank.abandoned == 0


def test_the_command_that_activates_ends_the_upgrade() -> None:
    bench = Bench(DeviceType.HCALCS).held()
    bench.answer_end(UTC, ota.HOLD)
    bench.client.cancel(bench.now)
    assert bench.status is S.NORMAL
    assert bench.client.image is None
    assert "ota/upgrade" not in bench.records.rows


@pytest.mark.parametrize("kind", [DeviceType.PPMID, DeviceType.HCALCS])
def test_a_newer_image_replaces_one_that_waits(kind: DeviceType) -> None:
    bench = Bench(kind).held()
    bench.answer_end(UTC, ota.HOLD)
    bench.clear().notify(3, *NEWER)
    bench.answer_query(image=NEWER, size=1024)
    assert bench.status is S.DOWNLOAD_IN_PROGRESS
    assert bench.last(ota.ImageBlockRequest) == ota.ImageBlockRequest(NEWER, 0, 50)
    assert "ota/upgrade" not in bench.records.rows


def test_the_image_that_waits_is_not_downloaded_again() -> None:
    bench = Bench(DeviceType.HCALCS).held()
    bench.answer_end(UTC, ota.HOLD)
    bench.clear().notify()
    bench.answer_query(image=NEW, size=1024)
    assert bench.names()[-1] == "offer_ignored"
    assert bench.client.pending_elsewhere()
    assert bytes(bench.bank.octets) == FILE


# --- restarts ---------------------------------------------------------------------------------


def test_a_verified_image_is_told_again_after_a_restart() -> None:
    bench = Bench().held().restart(kept=True).found()
    assert bench.names()[0] == "upgrade_kept"
    assert bench.requests() == [SUCCESS]
    bench.answer_end(UTC, UTC)
    bench.wait(3_000)
    assert bench.values == [ActivationRequested(NEW)]


def test_a_hold_is_asked_about_at_once_after_a_restart() -> None:
    bench = Bench().held()
    bench.answer_end(UTC, ota.HOLD)
    bench.restart(kept=True).found()
    assert bench.status is S.WAITING_TO_UPGRADE
    assert SUCCESS in bench.requests()


def test_waiting_for_an_external_event_outlives_a_restart_in_silence() -> None:
    bench = Bench(DeviceType.HCALCS).held()
    bench.answer_end(UTC, ota.HOLD)
    bench.restart(kept=True).found()
    assert bench.client.pending_elsewhere()
    assert SUCCESS not in bench.requests()
    assert bench.client.attributes()[ota.ATTR_IMAGE_UPGRADE_STATUS] == (zcl.ENUM8, 6)


@pytest.mark.parametrize(
    ("off_s", "left_ms"), [(60, 540_000), (10_000, 0)], ids=["short", "beyond the time"]
)
def test_a_count_down_goes_on_after_a_restart_by_utc(off_s: int, left_ms: int) -> None:
    bench = Bench().held().utc(UTC)
    bench.answer_end(UTC, UTC + 600)
    bench.restart(kept=True).start().utc(UTC + off_s)
    assert bench.status is S.COUNT_DOWN
    begun = bench.now
    bench.tick()
    assert bench.now - begun == left_ms
    assert bench.values == [ActivationRequested(NEW)]


def test_a_count_down_without_utc_is_never_shortened_by_a_restart() -> None:
    bench = Bench().held()
    bench.answer_end(UTC, UTC + 600)
    bench.wait(300_000).restart(kept=True).start()
    bench.wait(599_999)
    assert bench.values == []
    bench.wait(1)
    assert bench.values == [ActivationRequested(NEW)]


def test_a_count_down_whose_time_is_lost_is_asked_for_again() -> None:
    bench = Bench().held()
    bench.answer_end(UTC, UTC + 600)
    bench.records.lost.add("ota/count_down")
    bench.restart(kept=True).found()
    assert bench.status is S.DOWNLOAD_COMPLETE
    assert bench.requests() == [SUCCESS]
    assert bench.values == []


def test_a_lost_record_of_a_held_image_has_the_server_asked_again() -> None:
    bench = Bench().held()
    bench.answer_end(UTC, ota.HOLD)
    bench.records.lost.add("ota/upgrade")
    bench.restart(kept=True).found()
    assert bench.status is S.DOWNLOAD_COMPLETE
    assert bench.requests() == [SUCCESS]


def test_an_image_that_the_operator_brought_is_not_told_to_the_server() -> None:
    for bench in (Bench().idle(), Bench().held()):
        bench.restart().bank.session = None  # loading ended it
        bench.client.image_kept(NEWER, 1024)
        bench.found()
        assert bench.status is S.NORMAL
        assert SUCCESS not in bench.requests()
        assert not [key for key in bench.records.rows if key.startswith("ota/")]


def test_a_record_of_an_image_that_no_bank_holds_any_more_is_dropped() -> None:
    bench = Bench().held()
    bench.bank.session = None
    bench.restart().found()
    assert bench.status is S.NORMAL
    assert "ota/upgrade" not in bench.records.rows


def test_a_network_that_comes_back_does_not_repeat_what_was_just_sent() -> None:
    bench = Bench().held().clear().leave().join()
    assert bench.requests() == []
    bench.leave().wait(700_000).join()
    assert bench.requests() == [SUCCESS]
