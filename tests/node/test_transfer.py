"""One OTA file is transferred by blocks and pages, whatever the server and the air do to it."""

from __future__ import annotations

import itertools

import pytest
from ota_bench import FILE, NEW, NEWER, OLD, UTC, Bench

from firmware_node.errors import RefusedError, StorageFullError
from firmware_node.node.ota_client import ImageHeld, UpgradeAbandoned
from firmware_node.node.transfer import AHEAD_MAX
from firmware_node.terms import ImageKey, UpgradeStatus
from firmware_node.wire import ota, zcl, zdo
from firmware_node.wire.ota_blocks import BlockCoder
from firmware_node.wire.zcl import Status

S = UpgradeStatus
BLOCK = ota.IMAGE_BLOCK_RESPONSE


def offsets(bench: Bench) -> list[int]:
    """Where the block requests sent so far ask."""
    return [r.file_offset for r in bench.requests() if isinstance(r, ota.ImageBlockRequest)]


# --- blocks -----------------------------------------------------------------------------------


def test_blocks_are_asked_for_in_order_until_the_file_is_whole() -> None:
    bench = Bench().downloading().serve()
    assert offsets(bench) == list(range(0, 1024, 50))
    assert bench.last(ota.ImageBlockRequest) == ota.ImageBlockRequest(NEW, 1000, 24)
    assert bench.values == [ImageHeld(NEW, 1024)]
    assert bench.status is S.DOWNLOAD_COMPLETE
    assert bench.client.wake_at is None
    assert bytes(bench.bank.octets) == FILE


def test_shorter_answers_are_taken_and_the_next_request_follows_them() -> None:
    bench = Bench().downloading()
    while bench.bank.offset < 1024:
        request = bench.last(ota.ImageBlockRequest)
        size = min(17, request.size_max)
        bench.answer_block(FILE[request.file_offset : request.file_offset + size])
    assert offsets(bench) == list(range(0, 1024, 17))
    assert bytes(bench.bank.octets) == FILE


def test_the_block_size_asked_for_is_configuration() -> None:
    bench = Bench(block_size=63).downloading()
    assert bench.last(ota.ImageBlockRequest).size_max == 63


@pytest.mark.parametrize("size", [51, 255])
def test_a_block_longer_than_asked_is_refused_and_asked_for_again(size: int) -> None:
    bench = Bench().downloading().clear()
    bench.answer_block(bytes(size), 0)
    assert bench.defaults() == [(BLOCK, Status.INVALID_VALUE)]
    assert (bench.names(), bench.bank.offset) == (["block_refused"], 0)
    bench.wait(5_000).answer_block()
    assert bytes(bench.bank.octets) == FILE[:50]


def test_the_last_block_must_not_reach_beyond_the_file() -> None:
    bench = Bench().downloading().serve(1000).clear()
    bench.answer_block(bytes(25), 1000)
    assert bench.defaults() == [(BLOCK, Status.INVALID_VALUE)]
    assert bytes(bench.bank.octets) == FILE[:1000]


@pytest.mark.parametrize(
    "image", [NEWER, NEW._replace(image_type=1), NEW._replace(manufacturer_code=1)]
)
def test_a_block_of_another_image_is_refused_and_the_bank_is_untouched(image: ImageKey) -> None:
    bench = Bench().downloading().clear()
    bench.answer_block(FILE[:50], 0, image)
    assert bench.defaults() == [(BLOCK, Status.INVALID_VALUE)]
    assert bench.requests() == []
    assert bench.bank.offset == 0


@pytest.mark.parametrize("offset", [0, 49, 51, 100, 1000, 0xFFFFFFFF])
def test_a_block_of_another_offset_changes_nothing(offset: int) -> None:
    bench = Bench().downloading().serve(50).clear()
    wake_at = bench.client.wake_at
    bench.answer_block(FILE[:50], offset)
    assert (bench.sent, bench.notes, bench.values) == ([], [], [])
    assert bench.client.wake_at == wake_at
    assert bytes(bench.bank.octets) == FILE[:50]


def test_a_repeated_block_is_taken_once() -> None:
    bench = Bench().downloading()
    for offset in range(0, 1024, 50):
        for _ in range(3):
            bench.answer_block(FILE[offset : offset + 50], offset)
    assert offsets(bench) == list(range(0, 1024, 50))
    assert bench.values == [ImageHeld(NEW, 1024)]
    assert bytes(bench.bank.octets) == FILE


def test_an_answer_that_comes_during_the_back_off_is_still_good() -> None:
    bench = Bench().downloading()
    bench.tick()  # no answer
    bench.answer_block(FILE[:50], 0)
    assert offsets(bench) == [0, 50]
    assert bench.bank.offset == 50


def test_success_is_told_for_a_block_whose_server_wants_default_responses() -> None:
    bench = Bench().downloading().clear()
    bench.answer_block(FILE[:50], 0, quiet=False)
    assert bench.defaults() == [(BLOCK, Status.SUCCESS)]
    assert offsets(bench) == [50]


def test_silence_is_met_with_doubling_pauses_at_the_same_offset() -> None:
    bench = Bench().downloading().serve(100)
    pauses = []
    for _ in range(9):
        assert bench.tick() == 3_000
        pauses.append(bench.tick())
    assert pauses == [2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000, 30_000, 30_000]
    assert offsets(bench)[2:] == [100] * 10
    numbers = bench.sequences()[-10:]
    assert len(set(numbers)) == 10


def test_an_answer_ends_the_counting_of_errors() -> None:
    bench = Bench().downloading()
    for _ in range(30):
        bench.tick()
        assert bench.tick() == 2_000
        bench.answer_block()
        if bench.bank.offset >= 1000:
            break
    assert bench.status is S.DOWNLOAD_IN_PROGRESS


def test_too_much_silence_gives_the_server_up_and_keeps_what_came() -> None:
    bench = Bench().downloading().serve(500).wait(600_000)
    assert bench.status is S.NORMAL
    assert UpgradeAbandoned("no_answer") in bench.values
    assert "server_lost" in bench.names()
    assert (bench.bank.offset, bench.bank.abandoned) == (500, 0)
    bench.found().answer_query(image=NEW, size=1024)
    assert bench.last(ota.ImageBlockRequest).file_offset == 500
    bench.serve()
    assert bytes(bench.bank.octets) == FILE
    assert bench.note("block_retried").fields["errors"] == 9


@pytest.mark.parametrize("status", [Status.ABORT, Status.NO_IMAGE_AVAILABLE])
@pytest.mark.parametrize("by_default_response", [False, True])
def test_an_abort_stops_without_an_upgrade_end_request_and_allows_a_fresh_start(
    status: Status, by_default_response: bool
) -> None:
    bench = Bench().downloading().serve(500).clear()
    if by_default_response:
        bench.hear_default(ota.IMAGE_BLOCK_REQUEST, status)
    else:
        bench.answer_status(status)
    assert bench.requests() == []
    assert bench.values == [UpgradeAbandoned("server_abort")]
    assert (bench.status, bench.bank.abandoned, bench.bank.session) == (S.NORMAL, 1, None)
    bench.notify()
    bench.answer_query(image=NEW, size=1024)
    assert bench.last(ota.ImageBlockRequest).file_offset == 0
    bench.serve()
    assert bytes(bench.bank.octets) == FILE


@pytest.mark.parametrize("status", [Status.NOT_AUTHORIZED, Status.FAILURE, 0xC0])
def test_another_status_is_an_error_and_the_block_is_asked_for_again(status: int) -> None:
    bench = Bench().downloading().clear()
    bench.answer_status(status)
    assert bench.tick() == 2_000
    assert offsets(bench) == [0]
    bench.clear().hear_default(ota.IMAGE_BLOCK_REQUEST, status)
    assert bench.tick() == 4_000
    assert offsets(bench) == [0]


def test_a_default_response_with_success_to_a_request_is_nothing() -> None:
    bench = Bench().downloading().clear()
    wake_at = bench.client.wake_at
    bench.hear_default(ota.IMAGE_BLOCK_REQUEST, Status.SUCCESS)
    bench.hear_default(ota.IMAGE_NOTIFY, Status.FAILURE)
    assert (bench.sent, bench.notes, bench.client.wake_at) == ([], [], wake_at)


def test_an_outage_of_the_network_pauses_and_its_end_goes_on_at_the_offset() -> None:
    bench = Bench().downloading().serve(300).leave().clear().wait(3_600_000)
    assert (bench.sent, bench.status) == ([], S.DOWNLOAD_IN_PROGRESS)
    bench.join()
    assert offsets(bench) == [300]
    bench.serve()
    assert bytes(bench.bank.octets) == FILE


def test_progress_is_told_at_the_first_block_every_64_kib_and_the_last() -> None:
    size = 200_000
    bench = Bench(block_size=255).downloading(size=size)
    while bench.bank.offset < size:
        request = bench.last(ota.ImageBlockRequest)
        bench.sent.clear()
        bench.answer_block(bytes(request.size_max), request.file_offset)
    told = [n.fields["file_offset"] for n in bench.notes if n.name == "download_progress"]
    assert told[0] == 255
    assert told[-1] == size
    gaps = [int(two or 0) - int(one or 0) for one, two in itertools.pairwise(told[:-1])]
    assert len(told) == 5
    assert all(65_536 <= gap < 65_536 + 255 for gap in gaps)


# --- the bank says no -------------------------------------------------------------------------


def test_progress_of_another_file_is_told_from_its_begin() -> None:
    bench = Bench().downloading().serve(300)
    bench.answer_wait(0, 30)
    bench.answer_status(Status.ABORT)
    assert not [key for key in bench.records.rows if key.startswith("ota/")]
    first = bench.names().count("download_progress")
    bench.clear().notify()
    bench.answer_query(image=NEW, size=1024)
    bench.serve(300)
    assert bench.names().count("download_progress") == first == 1
    assert bytes(bench.bank.octets) == FILE[:300]


@pytest.mark.parametrize(
    ("code", "status"), [(Status.INVALID_IMAGE, 0x96), (0x8F72, 0x96), (Status.ABORT, 0x95)]
)
def test_octets_that_make_no_image_end_the_upgrade_with_a_failure(code: int, status: int) -> None:
    bench = Bench().downloading().serve(50).clear()
    bench.bank.append_fails[50] = RefusedError(code, "not_as_offered", "")
    bench.answer_block(FILE[50:100], 50)
    assert bench.requests() == [ota.UpgradeEndRequest(status, NEW)]
    assert bench.values == [UpgradeAbandoned("not_as_offered")]
    assert (bench.status, bench.bank.abandoned) == (S.NORMAL, 1)
    assert bench.tick() == 300_000  # back to querying


def test_a_full_disk_pauses_the_download_and_loses_nothing() -> None:
    bench = Bench().downloading().serve(500).clear()
    bench.bank.append_fails[500] = StorageFullError("full")
    bench.answer_block(FILE[500:550], 500)
    assert (bench.sent, bench.names()) == ([], ["download_paused"])
    assert (bench.status, bench.bank.abandoned) == (S.DOWNLOAD_IN_PROGRESS, 0)
    assert bench.tick() == 300_000
    assert offsets(bench) == [550]
    bench.serve()
    assert bytes(bench.bank.octets) == FILE


def test_a_disk_that_was_full_at_the_last_block_completes_later() -> None:
    bench = Bench().downloading().serve(1000)
    bench.bank.append_fails[1000] = StorageFullError("full")
    bench.answer_block()
    assert bench.values == []
    assert bench.tick() == 300_000
    assert bench.values == [ImageHeld(NEW, 1024)]
    assert bytes(bench.bank.octets) == FILE


# --- wait for data ----------------------------------------------------------------------------

WAITS = {
    "relative": (0, 30, 30_000),
    "absolute": (UTC, UTC + 30, 30_000),
    "at once": (UTC, UTC, 1_000),
    "longer than we obey": (UTC, UTC + 86_400, 3_600_000),
    "for ever": (0, 0xFFFFFFFF, 3_600_000),
    "backwards": (UTC + 1, UTC, 300_000),
}


@pytest.mark.parametrize("name", WAITS)
def test_a_server_that_is_not_ready_is_asked_again_when_it_said(name: str) -> None:
    current, request, milliseconds = WAITS[name]
    bench = Bench().downloading().serve(100).clear()
    bench.answer_wait(current, request)
    assert (bench.sent, bench.status) == ([], S.DOWNLOAD_IN_PROGRESS)
    assert bench.tick() == milliseconds
    assert offsets(bench) == [100]
    bench.serve()
    assert bench.values == [ImageHeld(NEW, 1024)]
    assert bench.records.rows.get("ota/wait") is None


def test_a_wait_is_no_error_however_often_it_is_repeated() -> None:
    bench = Bench().downloading()
    for _ in range(100):
        bench.answer_wait(0, 5)
        bench.tick()
    assert bench.status is S.DOWNLOAD_IN_PROGRESS
    assert offsets(bench) == [0] * 101


@pytest.mark.parametrize("at", [0, 300])
def test_a_late_block_during_a_wait_is_taken_and_nothing_is_asked_before_its_end(at: int) -> None:
    bench = Bench().downloading().serve(at).clear()
    bench.answer_wait(0, 30)
    bench.answer_block(FILE[at : at + 50], at)
    assert (bench.sent, bench.bank.offset) == ([], at + 50)
    assert bench.tick() == 30_000
    assert offsets(bench) == [at + 50]


def test_a_wait_ends_the_counting_of_errors() -> None:
    bench = Bench().downloading()
    for _ in range(3):
        for _ in range(18):
            bench.tick()
        assert bench.note("block_retried").fields["errors"] == 9
        bench.answer_wait(0, 60)
        assert bench.tick() == 60_000
    assert bench.status is S.DOWNLOAD_IN_PROGRESS
    bench.serve()
    assert bytes(bench.bank.octets) == FILE


def test_a_late_error_during_a_wait_changes_nothing() -> None:
    bench = Bench().downloading().serve(512)
    bench.answer_wait(0, 60)
    bench.clear().hear_default(ota.IMAGE_BLOCK_REQUEST, Status.FAILURE)
    assert (bench.sent, bench.notes, bench.values) == ([], [], [])
    assert bench.tick() == 60_000
    assert offsets(bench) == [550]


@pytest.mark.parametrize("utc_known", [False, True])
def test_a_wait_outlives_a_restart(utc_known: bool) -> None:
    bench = Bench().downloading().serve(512)
    if utc_known:
        bench.utc(UTC)
    bench.answer_wait(0, 100)
    bench.wait(40_000).restart().found()
    bench.answer_query(image=NEW, size=1024)
    assert offsets(bench) == []
    if utc_known:
        bench.utc(UTC + 40)
    assert bench.tick() == (60_000 if utc_known else 100_000)
    assert offsets(bench) == [bench.bank.offset]


def test_a_wait_whose_utc_is_learned_after_it_was_set_is_exact_after_a_restart() -> None:
    bench = Bench().downloading().serve(512)
    bench.answer_wait(0, 100)
    bench.wait(10_000).utc(UTC).wait(20_000).restart().start().utc(UTC + 30).found()
    bench.answer_query(image=NEW, size=1024)
    assert bench.tick() == 60_000
    assert offsets(bench) == [bench.bank.offset]


def test_a_wait_that_ended_while_the_power_was_off_is_over() -> None:
    bench = Bench().downloading().serve(512).utc(UTC)
    bench.answer_wait(0, 100)
    bench.restart().start().utc(UTC + 500).found()
    bench.answer_query(image=NEW, size=1024)
    assert len(offsets(bench)) == 1


def test_a_clock_that_went_back_does_not_stretch_a_wait() -> None:
    bench = Bench().downloading().serve(512).utc(UTC)
    bench.answer_wait(0, 100)
    bench.restart().start().utc(UTC - 1_000_000).found()
    bench.answer_query(image=NEW, size=1024)
    assert bench.tick() <= 100_000


def test_a_lost_record_of_a_wait_costs_the_wait_and_nothing_else() -> None:
    bench = Bench().downloading().serve(512)
    bench.answer_wait(0, 100)
    bench.records.lost.add("ota/wait")
    bench.restart().found().answer_query(image=NEW, size=1024)
    assert len(offsets(bench)) == 1


def test_a_wait_is_not_kept_for_another_image() -> None:
    bench = Bench().downloading().serve(512)
    bench.answer_wait(0, 100)
    bench.restart().found().answer_query(image=NEWER, size=1024)
    assert offsets(bench) == [0]
    assert "ota/wait" not in bench.records.rows


# --- minimum block period ---------------------------------------------------------------------


@pytest.mark.parametrize(("unit", "gap"), [(1, 250), (1000, 250_000)])
def test_a_block_period_spaces_the_requests_in_the_configured_unit(unit: int, gap: int) -> None:
    bench = Bench(block_period_unit_ms=unit).downloading()
    bench.answer_wait(0, 1, 250)
    bench.tick()
    assert bench.last(ota.ImageBlockRequest).block_period == 250
    assert bench.client.attributes()[ota.ATTR_MINIMUM_BLOCK_PERIOD] == (zcl.UINT16, 250)
    for offset in (0, 50, 100):
        asked = bench.now
        bench.clear().answer_block(FILE[offset : offset + 50], offset)
        assert bench.sent == []
        bench.tick()
        assert (bench.now - asked, offsets(bench)) == (gap, [offset + 50])


def test_an_absurd_block_period_is_bounded() -> None:
    bench = Bench(block_period_unit_ms=1000).downloading()
    bench.answer_wait(0, 1, 0xFFFF)
    assert bench.tick() == 3_600_000
    bench.answer_block()
    assert bench.tick() == 3_600_000


def test_a_block_period_ends_with_its_download() -> None:
    bench = Bench().downloading()
    bench.answer_wait(0, 1, 250)
    bench.answer_status(Status.ABORT)
    bench.notify()
    bench.answer_query(image=NEW, size=1024)
    assert bench.last(ota.ImageBlockRequest).block_period is None
    assert bench.client.attributes()[ota.ATTR_MINIMUM_BLOCK_PERIOD] == (zcl.UINT16, 0)


# --- pages ------------------------------------------------------------------------------------


def paging() -> Bench:
    bench = Bench(page_size=200).downloading()
    assert bench.last(ota.ImagePageRequest).file_offset == 0
    return bench


def block_of(bench: Bench, offset: int, size: int = 50) -> None:
    bench.answer_block(FILE[offset : offset + size], offset)


def test_a_page_is_asked_for_once_and_its_blocks_come_by_themselves() -> None:
    bench = paging()
    assert bench.requests()[1:] == [ota.ImagePageRequest(NEW, 0, 50, 200, 50)]
    bench.clear()
    for offset in (0, 50, 100):
        block_of(bench, offset)
    assert bench.sent == []
    block_of(bench, 150)
    assert bench.requests() == [ota.ImagePageRequest(NEW, 200, 50, 200, 50)]


@pytest.mark.parametrize(("page_size", "last"), [(200, (1000, 24)), (300, (900, 124))])
def test_pages_make_the_whole_file_and_the_last_one_asks_for_the_rest_only(
    page_size: int, last: tuple[int, int]
) -> None:
    bench = Bench(page_size=page_size).downloading()
    while bench.bank.offset < 1024:
        request = bench.requests()[-1]
        assert isinstance(request, ota.ImagePageRequest | ota.ImageBlockRequest)
        size = request.page_size if isinstance(request, ota.ImagePageRequest) else request.size_max
        asked = (request.file_offset, size)
        assert sum(asked) <= 1024
        for at in range(request.file_offset, request.file_offset + size, 50):
            block_of(bench, at, min(50, request.file_offset + size - at))
    assert asked == last
    assert bench.names().count("download_progress") == 2
    assert bytes(bench.bank.octets) == FILE
    assert bench.values == [ImageHeld(NEW, 1024)]


def test_a_gap_in_a_page_is_mended_by_block_requests_when_the_page_is_over() -> None:
    bench = paging().clear()
    for offset in (0, 150):
        block_of(bench, offset)
    assert bench.requests() == [ota.ImageBlockRequest(NEW, 50, 50)]
    block_of(bench, 50)
    assert bench.last(ota.ImageBlockRequest) == ota.ImageBlockRequest(NEW, 100, 50)
    block_of(bench, 100)
    assert bench.last(ota.ImagePageRequest).file_offset == 200
    assert bytes(bench.bank.octets) == FILE[:200]


def test_a_gap_is_asked_for_no_further_than_to_the_next_block_that_came() -> None:
    bench = paging().clear()
    bench.answer_block(FILE[30:80], 30)
    bench.answer_block(FILE[80:130], 80)
    bench.tick()
    assert bench.requests() == [ota.ImageBlockRequest(NEW, 0, 30)]
    block_of(bench, 0, 30)
    assert bench.last(ota.ImageBlockRequest) == ota.ImageBlockRequest(NEW, 130, 50)
    assert bytes(bench.bank.octets) == FILE[:130]


def test_a_gap_in_the_middle_ends_at_the_next_block_that_came() -> None:
    bench = paging()
    block_of(bench, 0)
    for offset in (80, 130):
        block_of(bench, offset)
    block_of(bench, 180, 20)
    assert bench.last(ota.ImageBlockRequest) == ota.ImageBlockRequest(NEW, 50, 30)
    block_of(bench, 50, 30)
    assert bytes(bench.bank.octets) == FILE[:200]


def test_a_page_whose_end_was_lost_is_mended_after_silence() -> None:
    bench = paging().clear()
    block_of(bench, 0)
    assert bench.tick() == 3_050
    assert bench.requests() == [ota.ImageBlockRequest(NEW, 50, 50)]


def test_blocks_of_a_page_in_any_order_and_twice_make_the_same_octets() -> None:
    bench = paging()
    for offset in (100, 0, 100, 50, 0, 150, 150, 50):
        block_of(bench, offset)
    assert bytes(bench.bank.octets) == FILE[:200]
    assert bench.last(ota.ImagePageRequest).file_offset == 200


def test_a_mending_request_without_answer_is_repeated_like_any_other() -> None:
    bench = paging()
    block_of(bench, 150)
    bench.clear()
    assert bench.tick() == 3_000
    assert bench.tick() == 2_000
    assert bench.requests() == [ota.ImageBlockRequest(NEW, 0, 50)]


def test_blocks_kept_of_a_page_go_with_it_when_another_file_is_taken() -> None:
    bench = paging()
    for offset in (50, 100):
        block_of(bench, offset)
    bench.answer_status(Status.ABORT)
    bench.notify()
    bench.answer_query(image=NEWER, size=200)
    other = FILE[::-1]
    for offset in (0, 50, 100, 150):
        bench.answer_block(other[offset : offset + 50], offset, NEWER)
    assert bytes(bench.bank.octets) == other[:200]


@pytest.mark.parametrize(("begin", "missing"), [(0, 350), (50, 0)])
def test_every_block_of_a_page_renews_the_patience_with_the_next(begin: int, missing: int) -> None:
    bench = Bench(page_size=400).downloading().clear()
    for offset in range(begin, 350, 50):
        bench.wait(3_000)
        block_of(bench, offset)
    assert bench.sent == []
    bench.wait(3_049)
    assert bench.sent == []
    bench.wait(1)
    assert bench.requests() == [ota.ImageBlockRequest(NEW, missing, 50)]
    block_of(bench, missing)
    assert bench.bank.octets == FILE[: len(bench.bank.octets)]


def test_pages_of_which_something_comes_are_not_given_up() -> None:
    bench = paging()
    for start in (0, 200, 400):
        block_of(bench, start)
        bench.tick()  # the rest of the page was lost
        for offset in (start + 50, start + 100, start + 150):
            bench.answer_block()
            assert bench.bank.offset == offset + 50
        assert bench.last(ota.ImagePageRequest).file_offset == start + 200
    assert "pages_given_up" not in bench.names()


@pytest.mark.parametrize("is_whole", [True, False])
def test_silent_pages_count_only_in_a_row(is_whole: bool) -> None:
    bench = paging()
    for _ in range(3):
        bench.tick()  # a silent page
        bench.answer_block()  # costs one block
        start = bench.last(ota.ImagePageRequest).file_offset
        for offset in range(start, start + 150, 50):
            block_of(bench, offset)
        if not is_whole:
            bench.tick()
        block_of(bench, start + 150)
    assert bench.last(ota.ImagePageRequest).file_offset == 750
    assert "pages_given_up" not in bench.names()


def test_a_late_block_of_the_page_while_a_gap_is_asked_for_is_kept_and_asks_nothing() -> None:
    bench = paging()
    block_of(bench, 50)
    assert bench.clear().tick() == 3_050
    assert bench.requests() == [ota.ImageBlockRequest(NEW, 0, 50)]
    block_of(bench.clear(), 150)
    assert bench.sent == []
    block_of(bench, 0)
    assert bench.requests() == [ota.ImageBlockRequest(NEW, 100, 50)]
    block_of(bench, 100)
    assert bytes(bench.bank.octets) == FILE[:200]


def test_after_a_short_gap_the_next_page_brings_whole_blocks_again() -> None:
    bench = paging()
    for offset in (30, 80, 130, 180):
        block_of(bench, offset, min(50, 200 - offset))
    assert bench.last(ota.ImageBlockRequest) == ota.ImageBlockRequest(NEW, 0, 30)
    block_of(bench, 0, 30)
    assert bench.last(ota.ImagePageRequest).file_offset == 200
    block_of(bench, 200)
    assert bytes(bench.bank.octets) == FILE[:250]
    assert bench.defaults() == []


def test_a_block_beyond_the_page_is_not_kept() -> None:
    bench = paging().clear()
    block_of(bench, 200)
    for offset in (0, 50, 100, 150):
        block_of(bench, offset)
    assert bench.bank.offset == 200


def test_a_block_ahead_that_reaches_beyond_the_file_is_refused_and_not_kept() -> None:
    bench = Bench(page_size=200).downloading(size=180)
    bench.answer_block(FILE[150:200], 150)
    assert bench.defaults() == [(ota.IMAGE_BLOCK_RESPONSE, Status.INVALID_VALUE)]
    for offset in (0, 50, 100):
        block_of(bench, offset)
    block_of(bench, 150, 30)
    assert bytes(bench.bank.octets) == FILE[:180]
    assert bench.values == [ImageHeld(NEW, 180)]


def test_a_block_ahead_that_is_too_long_is_refused() -> None:
    bench = paging().clear()
    block_of(bench, 100, 51)
    assert bench.defaults() == [(BLOCK, Status.INVALID_VALUE)]
    bench.clear()
    bench.answer_block(bytes(50), 0, NEWER)
    assert bench.defaults() == [(BLOCK, Status.INVALID_VALUE)]
    assert bench.bank.offset == 0


def test_blocks_ahead_of_a_gap_are_bounded() -> None:
    size = 40_000
    bench = Bench(page_size=size).downloading(size=size)
    for offset in range(1, size - 1, 2):
        bench.answer_block(b"x", offset)
    assert len(bench.client._transfer._ahead) == AHEAD_MAX


def test_a_page_with_many_blocks_ahead_is_chained_in_one_step() -> None:
    bench = Bench(page_size=1000).downloading()
    for offset in range(2, 1000, 2):
        bench.answer_block(FILE[offset : offset + 2], offset)
    bench.clear().answer_block(FILE[:2], 0)
    assert bench.bank.offset == 2 + 2 * AHEAD_MAX
    assert bytes(bench.bank.octets) == FILE[: bench.bank.offset]


def test_a_server_without_pages_is_asked_for_blocks_at_once() -> None:
    bench = paging().clear()
    bench.hear_default(ota.IMAGE_PAGE_REQUEST, Status.UNSUP_CLUSTER_COMMAND)
    assert bench.requests() == [ota.ImageBlockRequest(NEW, 0, 50)]
    assert bench.names() == ["pages_given_up"]
    bench.serve()
    assert not [r for r in bench.requests() if isinstance(r, ota.ImagePageRequest)]
    assert bytes(bench.bank.octets) == FILE


def test_one_silent_page_costs_one_block_request_and_two_end_the_pages() -> None:
    bench = paging().clear()
    bench.tick()
    assert bench.requests() == [ota.ImageBlockRequest(NEW, 0, 50)]
    bench.answer_block()
    assert bench.last(ota.ImagePageRequest).file_offset == 50
    bench.tick()
    assert "pages_given_up" in bench.names()
    bench.clear()
    bench.answer_block(FILE[50:100], 50)
    bench.serve()
    assert not [r for r in bench.requests() if isinstance(r, ota.ImagePageRequest)]
    assert bytes(bench.bank.octets) == FILE


def test_an_abort_within_a_page_stops_the_download() -> None:
    bench = paging().clear()
    block_of(bench, 100)
    bench.hear_default(ota.IMAGE_PAGE_REQUEST, Status.ABORT)
    assert bench.values == [UpgradeAbandoned("server_abort")]
    assert bench.requests() == []
    assert bench.status is S.NORMAL


def test_a_wait_within_a_page_drops_it_and_a_new_page_follows() -> None:
    bench = paging()
    block_of(bench, 0)
    bench.clear().answer_wait(0, 10)
    assert bench.tick() == 10_000
    assert bench.requests() == [ota.ImagePageRequest(NEW, 50, 50, 200, 50)]


def test_an_outage_within_a_page_drops_it_and_a_new_page_follows() -> None:
    bench = paging()
    block_of(bench, 0)
    bench.leave().clear().join()
    assert bench.requests() == [ota.ImagePageRequest(NEW, 50, 50, 200, 50)]


def test_an_error_status_to_a_page_request_backs_off() -> None:
    bench = paging().clear()
    bench.answer_status(Status.FAILURE)
    assert bench.tick() == 2_000
    assert bench.requests() == [ota.ImagePageRequest(NEW, 0, 50, 200, 50)]


# --- the hot path -----------------------------------------------------------------------------


@pytest.mark.parametrize("period", [None, 0, 250])
@pytest.mark.parametrize("offset", [0, 50, 0xFFFFFFFE])
def test_packed_requests_are_the_octets_of_the_codec(period: int | None, offset: int) -> None:
    expected = zcl.encode(
        zcl.ZclHeader(True, False, False, None, 9, ota.IMAGE_BLOCK_REQUEST),
        ota.encode_image_block_request(ota.ImageBlockRequest(NEW, offset, 50, block_period=period)),
    )
    assert BlockCoder(NEW, period).request(9, offset, 50) == expected


def test_only_the_awaited_block_is_taken_by_the_fast_way() -> None:
    header = zcl.ZclHeader(True, True, True, None, 9, ota.IMAGE_BLOCK_RESPONSE)
    payload = zcl.encode(header, ota.encode_image_block_response(ota.BlockData(NEW, 50, FILE[:50])))
    coder = BlockCoder(NEW, None)
    assert coder.data(payload, 50) == FILE[:50]
    assert coder.data(payload, 100) is None
    assert BlockCoder(NEWER, None).data(payload, 50) is None
    for size in range(len(payload)):
        assert coder.data(payload[:size], 50) is None
    assert coder.data(payload + b"\x00", 50) is None
    for at in (*range(1), *range(2, 17)):
        changed = bytearray(payload)
        changed[at] ^= 0x10
        assert coder.data(bytes(changed), 50) is None, at


def test_a_search_is_not_begun_while_blocks_come() -> None:
    bench = Bench().downloading().serve()
    searches = [frame for frame in bench.sent if frame.cluster == zdo.MATCH_DESC_REQ]
    assert len(searches) == 1
    assert bench.requests()[0] == ota.QueryNextImageRequest(OLD, 0x1111)
