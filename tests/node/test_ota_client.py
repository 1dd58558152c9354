"""The OTA client finds a server, asks for images, and takes or refuses what is offered."""

from __future__ import annotations

import itertools

import pytest
from ota_bench import FILE, NEW, NEWER, OLD, OWN_ID, SERVER_ID, STRANGER, Bench, identity, match

from firmware_node.boundary import Frame, SendConfirmed
from firmware_node.errors import RefusedError, StorageFullError
from firmware_node.node import ota_client
from firmware_node.node.ota_client import UpgradeAbandoned
from firmware_node.node.upgrade_state import UpgradeState
from firmware_node.terms import (
    BROADCAST_RX_ON,
    COORDINATOR,
    DeviceType,
    EntityId,
    ImageKey,
    ShortAddress,
    UpgradeStatus,
)
from firmware_node.wire import ota, zcl, zdo
from firmware_node.wire.zcl import Status

S = UpgradeStatus


# --- the server -------------------------------------------------------------------------------


def test_when_the_network_is_up_everybody_is_asked_who_serves_the_ota_cluster() -> None:
    bench = Bench().start()
    assert bench.sent == []
    bench.join()
    (frame,) = bench.sent
    request = zdo.decode_match_request(frame.payload)
    assert (frame.peer, frame.broadcast, frame.profile) == (BROADCAST_RX_ON, True, 0)
    assert (request.profile, request.in_clusters, request.out_clusters) == (0x0109, (0x0019,), ())
    assert frame.cluster == zdo.MATCH_DESC_REQ


def test_the_first_that_answers_is_pinned_identified_and_queried() -> None:
    bench = Bench().start().join().clear()
    bench.hear_zdo(zdo.MATCH_DESC_REQ, match(COORDINATOR, 9))
    assert bench.sent[0].cluster == zdo.IEEE_ADDR_REQ
    assert bench.requests() == [ota.QueryNextImageRequest(OLD, 0x1111)]
    assert (bench.sent[-1].peer, bench.sent[-1].peer_endpoint) == (COORDINATOR, 9)
    bench.hear_zdo(zdo.IEEE_ADDR_REQ, identity())
    assert bench.client.attributes()[ota.ATTR_UPGRADE_SERVER_ID] == (zcl.EUI64, SERVER_ID)


def test_a_second_server_is_ignored() -> None:
    bench = Bench().found().clear()
    bench.hear_zdo(zdo.MATCH_DESC_REQ, match(STRANGER), STRANGER)
    assert bench.sent == []
    bench.notify(peer=STRANGER)
    bench.hear(ota.UPGRADE_END_RESPONSE, b"", peer=STRANGER)
    assert (bench.sent, bench.notes) == ([], [])


def test_an_empty_or_failed_match_is_no_server() -> None:
    bench = Bench().start().join().clear()
    bench.hear_zdo(
        zdo.MATCH_DESC_REQ,
        zdo.encode_match_response(zdo.MatchResponse(1, zdo.SUCCESS, COORDINATOR, ())),
    )
    bench.hear_zdo(
        zdo.MATCH_DESC_REQ,
        zdo.encode_match_response(zdo.MatchResponse(1, 0x84, COORDINATOR, (1,))),
    )
    assert (bench.sent, bench.names()) == ([], [])


def test_a_search_without_answer_is_repeated_after_the_interval() -> None:
    bench = Bench().start().join()
    assert bench.tick() == 120_000
    assert [frame.cluster for frame in bench.sent] == [zdo.MATCH_DESC_REQ] * 2


def test_a_malformed_answer_to_the_search_is_counted_and_the_search_goes_on() -> None:
    bench = Bench().start().join().clear()
    bench.hear_zdo(zdo.MATCH_DESC_REQ, b"\x01\x00")
    assert (bench.sent, bench.names()) == ([], ["frame_refused"])
    bench.hear_zdo(zdo.MATCH_DESC_REQ, match())
    assert "server_found" in bench.names()


def test_the_identity_of_another_node_is_not_the_servers() -> None:
    bench = Bench().start().join()
    bench.hear_zdo(zdo.MATCH_DESC_REQ, match())
    bench.hear_zdo(zdo.IEEE_ADDR_REQ, identity(STRANGER, OWN_ID), STRANGER)
    unknown = (zcl.EUI64, EntityId(b"\xff" * 8))
    assert bench.client.attributes()[ota.ATTR_UPGRADE_SERVER_ID] == unknown


def test_a_server_that_did_not_say_its_identity_is_asked_again_with_the_next_query() -> None:
    bench = Bench().start().join()
    bench.hear_zdo(zdo.MATCH_DESC_REQ, match())
    bench.answer_query(Status.NO_IMAGE_AVAILABLE)
    bench.clear().tick()
    assert [frame.cluster for frame in bench.sent] == [ota.CLUSTER, zdo.IEEE_ADDR_REQ]


def test_a_coordinator_that_offers_before_the_search_ends_is_pinned_as_it_speaks() -> None:
    bench = Bench().start().join().clear()
    bench.notify(profile=0x0104, endpoint=2)
    assert bench.requests() == [ota.QueryNextImageRequest(OLD, 0x1111)]
    query = bench.sent[-1]
    assert (query.profile, query.endpoint, query.peer) == (0x0104, 2, COORDINATOR)


def test_before_a_server_is_known_nobody_but_the_coordinator_is_heard() -> None:
    bench = Bench().start().join().clear()
    bench.notify(peer=STRANGER)
    bench.notify(broadcast=True)
    bench.answer_query(image=NEW, size=1024)
    assert bench.sent == []
    assert bench.status is S.NORMAL


def test_unanswered_queries_back_off_and_then_another_server_is_looked_for() -> None:
    bench = Bench().found()
    pauses = []
    while "server_lost" not in bench.names():
        assert bench.tick() == 3_000  # no reply
        if "server_lost" not in bench.names():
            pauses.append(bench.tick())
    assert pauses == [2_000, 4_000, 8_000, 16_000, *[30_000] * 5]
    assert len(bench.requests()) == 10
    assert len(set(bench.sequences())) == 10
    assert bench.sent[-1].cluster == zdo.MATCH_DESC_REQ
    bench.clear().hear_zdo(zdo.MATCH_DESC_REQ, match(STRANGER), STRANGER)
    assert bench.sent[-1].peer == STRANGER


def test_sequence_numbers_wrap_and_never_repeat_in_a_row() -> None:
    bench = Bench(query_errors_max=400).found()
    while len(bench.requests()) < 300:
        bench.tick()
    numbers = bench.sequences()
    assert max(numbers) == 255 and 0 in numbers
    assert all(one != two for one, two in itertools.pairwise(numbers))


def test_an_outage_of_the_network_silences_the_client_and_its_end_brings_a_query() -> None:
    bench = Bench().idle().leave()
    assert bench.client.wake_at is None
    bench.wait(3_600_000)
    assert bench.sent == []
    bench.join()
    assert bench.requests() == [ota.QueryNextImageRequest(OLD, 0x1111)]


# --- queries and notifications ----------------------------------------------------------------


@pytest.mark.parametrize("status", [Status.NO_IMAGE_AVAILABLE, Status.NOT_AUTHORIZED])
def test_without_an_image_the_next_query_comes_after_the_interval(status: Status) -> None:
    bench = Bench().found()
    bench.answer_query(status)
    assert bench.status is S.NORMAL
    bench.clear()
    assert bench.tick() == 300_000
    assert bench.requests() == [ota.QueryNextImageRequest(OLD, 0x1111)]


def test_the_interval_has_a_jitter_so_that_a_street_does_not_ask_at_once() -> None:
    bench = Bench(query_jitter_percent=10).found()
    bench.chance.draws = [12_345]
    bench.answer_query(Status.NO_IMAGE_AVAILABLE)
    assert bench.tick() == 312_345


def test_an_error_in_answer_to_a_query_counts_like_silence() -> None:
    bench = Bench().found().clear()
    bench.hear_default(ota.QUERY_NEXT_IMAGE_REQUEST, Status.UNSUP_CLUSTER_COMMAND)
    assert bench.tick() == 2_000
    assert bench.requests() == [ota.QueryNextImageRequest(OLD, 0x1111)]


def test_an_offer_that_nobody_asked_for_is_ignored() -> None:
    bench = Bench().idle()
    bench.answer_query(image=NEW, size=1024)
    assert (bench.sent, bench.status) == ([], S.NORMAL)
    assert bench.bank.session is None


MATCHING = [
    (0, ()),
    (1, (0x121D,)),
    (1, (0xFFFF,)),
    (2, (0x121D, 0x0084)),
    (2, (0x121D, 0xFFFF)),
    (3, (0x121D, 0x0084, 2)),
    (3, (0x121D, 0x0084, 0)),
    (3, (0xFFFF, 0xFFFF, 0xFFFFFFFF)),
]
NOT_MATCHING = [
    (1, (0x121E,)),
    (2, (0x121D, 0x0085)),
    (2, (0x121E, 0x0084)),
    (3, (0x121D, 0x0084, 1)),
    (3, (0x121D, 0x0085, 2)),
]


@pytest.mark.parametrize(("kind", "fields"), MATCHING)
def test_a_notification_that_names_us_and_another_version_brings_a_query(
    kind: int, fields: tuple[int, ...]
) -> None:
    bench = Bench().idle()
    bench.notify(kind, *fields, jitter=1)
    assert bench.requests() == [ota.QueryNextImageRequest(OLD, 0x1111)]


@pytest.mark.parametrize(("kind", "fields"), NOT_MATCHING)
def test_a_notification_that_names_others_or_our_own_version_is_ignored(
    kind: int, fields: tuple[int, ...]
) -> None:
    bench = Bench().idle()
    bench.notify(kind, *fields)
    assert (bench.sent, bench.names()) == ([], [])


@pytest.mark.parametrize(
    ("drawn", "jitter", "asks"), [(1, 1, True), (2, 1, False), (50, 50, True), (100, 99, False)]
)
def test_a_broadcast_is_followed_when_the_draw_is_not_above_its_jitter(
    drawn: int, jitter: int, asks: bool
) -> None:
    bench = Bench().idle()
    bench.chance.draws = [drawn - 1]
    bench.notify(broadcast=True, jitter=jitter)
    assert bool(bench.requests()) is asks
    assert bench.chance.draws == []


def test_a_notification_in_a_query_or_a_download_starts_no_second_one() -> None:
    bench = Bench().found().clear()
    bench.notify()
    assert bench.sent == []
    bench.answer_query(image=NEW, size=1024)
    bench.clear().notify()
    assert bench.sent == []
    assert bench.status is S.DOWNLOAD_IN_PROGRESS


# --- offers -----------------------------------------------------------------------------------


def test_an_offer_begins_the_download_at_once() -> None:
    bench = Bench().downloading()
    assert bench.status is S.DOWNLOAD_IN_PROGRESS
    assert bench.last(ota.ImageBlockRequest) == ota.ImageBlockRequest(NEW, 0, 50)
    assert {"image_offered", "download_started"} <= set(bench.names())
    assert bench.bank.session == (NEW, len(FILE))


@pytest.mark.parametrize("image", [NEW._replace(image_type=7), NEW._replace(manufacturer_code=7)])
def test_an_offer_for_another_device_is_refused_as_invalid_value(image: ImageKey) -> None:
    bench = Bench().found().clear()
    bench.answer_query(image=image, size=1024)
    assert bench.defaults() == [(ota.QUERY_NEXT_IMAGE_RESPONSE, Status.INVALID_VALUE)]
    assert bench.status is S.NORMAL
    assert bench.bank.session is None


def test_the_running_version_is_not_downloaded_again() -> None:
    bench = Bench().found().clear()
    bench.answer_query(image=OLD, size=1024)
    assert (bench.sent, bench.values, bench.status) == ([], [], S.NORMAL)
    assert bench.tick() == 300_000


def test_an_older_version_is_refused_with_an_upgrade_end_request() -> None:
    bench = Bench().found().clear()
    older = OLD._replace(file_version=0)
    bench.answer_query(image=older, size=1024)
    assert bench.requests() == [ota.UpgradeEndRequest(Status.INVALID_IMAGE, older)]
    assert bench.values == [UpgradeAbandoned("downgrade")]
    assert (bench.status, bench.bank.session) == (S.NORMAL, None)


def test_an_older_version_is_taken_where_downgrades_are_allowed() -> None:
    bench = Bench(allow_downgrade=True).found()
    bench.answer_query(image=OLD._replace(file_version=0), size=1024)
    assert bench.status is S.DOWNLOAD_IN_PROGRESS


@pytest.mark.parametrize(
    "error",
    [
        RefusedError(Status.INSUFFICIENT_SPACE, "image_too_large", ""),
        StorageFullError("full"),
    ],
)
def test_an_image_without_room_is_answered_with_insufficient_space_and_queried_later(
    error: RefusedError | StorageFullError,
) -> None:
    bench = Bench().found().clear()
    bench.bank.begin_fails = error
    bench.answer_query(image=NEW, size=1 << 30)
    assert bench.defaults() == [(ota.QUERY_NEXT_IMAGE_RESPONSE, Status.INSUFFICIENT_SPACE)]
    cause = error.cause if isinstance(error, RefusedError) else "storage_full"
    assert bench.values == [UpgradeAbandoned(cause)]
    assert bench.requests() == []
    bench.clear().tick()
    assert bench.requests() == [ota.QueryNextImageRequest(OLD, 0x1111)]
    assert bench.status is S.NORMAL


def test_an_image_that_cannot_be_one_is_refused_with_an_upgrade_end_request() -> None:
    bench = Bench().found().clear()
    bench.bank.begin_fails = RefusedError(Status.INVALID_IMAGE, "image_malformed", "")
    bench.answer_query(image=NEW, size=0)
    assert bench.requests() == [ota.UpgradeEndRequest(Status.INVALID_IMAGE, NEW)]
    assert bench.values == [UpgradeAbandoned("image_malformed")]
    assert bench.status is S.NORMAL


# --- a specific file --------------------------------------------------------------------------


def specific(bench: Bench, status: int, image: ImageKey | None, size: int | None) -> None:
    response = ota.QueryNextImageResponse(status, image, size)
    bench.hear(ota.SPECIFIC_FILE_RESPONSE, ota.encode_specific_file_response(response))


def test_a_specific_file_is_asked_for_by_name_and_downloaded() -> None:
    bench = Bench().idle()
    bench.take(bench.client.query_now(3, bench.now))
    assert bench.requests() == [ota.SpecificFileRequest(OWN_ID, NEWER, 0x0002)]
    specific(bench, 0, NEWER, 1024)
    assert bench.last(ota.ImageBlockRequest).image == NEWER
    assert bench.status is S.DOWNLOAD_IN_PROGRESS


def test_a_specific_file_waits_for_a_server_and_is_asked_for_again_in_silence() -> None:
    bench = Bench().start().join()
    bench.take(bench.client.query_now(3, bench.now))
    assert bench.requests() == []
    bench.hear_zdo(zdo.MATCH_DESC_REQ, match())
    bench.tick()
    bench.tick()
    assert bench.requests() == [ota.SpecificFileRequest(OWN_ID, NEWER, 0x0002)] * 2


def test_another_file_than_the_specific_one_is_refused() -> None:
    bench = Bench().idle()
    bench.take(bench.client.query_now(3, bench.now))
    bench.clear()
    specific(bench, 0, NEW, 1024)
    assert bench.defaults() == [(ota.SPECIFIC_FILE_RESPONSE, Status.INVALID_VALUE)]
    assert bench.status is S.NORMAL


def test_without_the_specific_file_ordinary_queries_go_on() -> None:
    bench = Bench().idle()
    bench.take(bench.client.query_now(3, bench.now))
    specific(bench, Status.NO_IMAGE_AVAILABLE, None, None)
    bench.clear().tick()
    assert bench.requests() == [ota.QueryNextImageRequest(OLD, 0x1111)]


# --- bad frames -------------------------------------------------------------------------------

COMMANDS = {
    ota.IMAGE_NOTIFY: ota.encode_image_notify(ota.ImageNotify(3, 100, *NEW)),
    ota.QUERY_NEXT_IMAGE_RESPONSE: ota.encode_query_next_image_response(
        ota.QueryNextImageResponse(0, NEW, 1024)
    ),
    ota.IMAGE_BLOCK_RESPONSE: ota.encode_image_block_response(ota.BlockData(NEW, 0, FILE[:50])),
    ota.UPGRADE_END_RESPONSE: ota.encode_upgrade_end_response(ota.UpgradeEndResponse(NEW, 1, 1)),
    ota.SPECIFIC_FILE_RESPONSE: ota.encode_specific_file_response(
        ota.QueryNextImageResponse(0, NEW, 1024)
    ),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_cut_or_lengthened_anywhere_is_answered_as_malformed(command: int) -> None:
    body = COMMANDS[command]
    for bad in [body[:size] for size in range(len(body))] + [body + b"\x00"]:
        bench = Bench().downloading().clear()
        bench.hear(command, bad)
        assert bench.defaults() == [(command, Status.MALFORMED_COMMAND)], bad.hex()
        assert bench.names() == ["frame_refused"]
        assert bench.requests() == []
        assert bench.status is S.DOWNLOAD_IN_PROGRESS
        assert bench.bank.offset == 0


def test_a_malformed_broadcast_is_counted_and_not_answered() -> None:
    bench = Bench().idle()
    bench.hear(ota.IMAGE_NOTIFY, b"", broadcast=True)
    assert (bench.sent, bench.names()) == ([], ["frame_refused"])


def test_a_default_response_is_never_answered_however_malformed() -> None:
    bench = Bench().idle()
    header = zcl.ZclHeader(False, True, False, None, 77, zcl.DEFAULT_RESPONSE)
    for body in (b"", b"\x03", b"\x03\x01\x00"):
        frame = Frame(COORDINATOR, 1, 1, 0x0109, ota.CLUSTER, zcl.encode(header, body))
        bench.hear_frame(frame)
    assert (bench.sent, bench.names()) == ([], ["frame_refused"] * 3)


def test_a_frame_without_a_whole_header_is_counted_and_not_answered() -> None:
    bench = Bench().downloading().clear()
    for payload in (b"", b"\x19", b"\x19\x01", b"\x1b\x01\x05", b"\x1d\x01\x05\x00"):
        bench.hear_frame(Frame(COORDINATOR, 1, 1, 0x0109, ota.CLUSTER, payload))
    assert (bench.sent, bench.names()) == ([], ["frame_refused"] * 5)


@pytest.mark.parametrize("command", [0x01, 0x03, 0x04, 0x06, 0x08, 0x0A, 0xFF])
def test_a_command_that_no_server_sends_is_answered_as_unsupported(command: int) -> None:
    bench = Bench().idle()
    bench.hear(command, b"")
    assert bench.defaults() == [(command, Status.UNSUP_CLUSTER_COMMAND)]


def test_a_request_to_a_server_is_answered_as_unsupported() -> None:
    bench = Bench().idle()
    request = ota.encode_query_next_image_request(ota.QueryNextImageRequest(OLD))
    bench.hear(ota.QUERY_NEXT_IMAGE_REQUEST, request, to_client=False)
    assert bench.defaults() == [(ota.QUERY_NEXT_IMAGE_REQUEST, Status.UNSUP_CLUSTER_COMMAND)]


def test_success_is_told_only_to_a_server_that_wants_default_responses() -> None:
    bench = Bench().idle()
    body = COMMANDS[ota.IMAGE_NOTIFY]
    bench.hear(ota.IMAGE_NOTIFY, body, quiet=False)
    assert bench.defaults() == [(ota.IMAGE_NOTIFY, Status.SUCCESS)]
    assert len(bench.requests()) == 1


def test_an_input_of_another_machine_is_our_own_fault() -> None:
    bench = Bench().start()
    with pytest.raises(TypeError):
        bench.client.step(SendConfirmed(1, True), 0)  # type: ignore[arg-type]  # on purpose


# --- attributes and moves ---------------------------------------------------------------------


def test_attributes_of_an_idle_ppmid() -> None:
    values = {key: value for key, (_, value) in Bench().idle().client.attributes().items()}
    stamp = values.pop(ota.ATTR_IMAGE_STAMP)
    other = Bench()
    other.client.set_running(NEW)
    assert stamp != other.client.attributes()[ota.ATTR_IMAGE_STAMP][1]
    assert values == {
        ota.ATTR_UPGRADE_SERVER_ID: SERVER_ID,
        ota.ATTR_FILE_OFFSET: 0xFFFFFFFF,
        ota.ATTR_CURRENT_FILE_VERSION: 1,
        ota.ATTR_CURRENT_STACK_VERSION: 2,
        ota.ATTR_DOWNLOADED_FILE_VERSION: 0xFFFFFFFF,
        ota.ATTR_DOWNLOADED_STACK_VERSION: 0xFFFF,
        ota.ATTR_IMAGE_UPGRADE_STATUS: 0,
        ota.ATTR_MANUFACTURER_ID: 0x121D,
        ota.ATTR_IMAGE_TYPE_ID: 0x0084,
        ota.ATTR_MINIMUM_BLOCK_PERIOD: 0,
        ota.ATTR_UPGRADE_ACTIVATION_POLICY: 0,
        ota.ATTR_UPGRADE_TIMEOUT_POLICY: 1,
    }


def test_attributes_follow_a_download_and_the_held_image() -> None:
    bench = Bench().downloading().serve(500)
    attributes = bench.client.attributes()
    assert attributes[ota.ATTR_FILE_OFFSET] == (zcl.UINT32, 500)
    assert attributes[ota.ATTR_IMAGE_UPGRADE_STATUS] == (zcl.ENUM8, 1)
    assert (bench.client.file_offset, bench.client.total_size) == (500, 1024)
    bench.serve()
    bench.take(bench.client.image_verified(bench.now))
    attributes = bench.client.attributes()
    assert attributes[ota.ATTR_FILE_OFFSET] == (zcl.UINT32, 1024)
    assert attributes[ota.ATTR_DOWNLOADED_FILE_VERSION] == (zcl.UINT32, 2)
    assert attributes[ota.ATTR_IMAGE_UPGRADE_STATUS] == (zcl.ENUM8, 2)


@pytest.mark.parametrize(
    ("kind", "activates", "policies"),
    [
        (DeviceType.PPMID, False, (0, 1)),
        (DeviceType.PPMID, True, (0, 0)),
        (DeviceType.HCALCS, False, (1, 1)),
        (DeviceType.HCALCS, True, (1, 1)),
        (DeviceType.ESME, True, (1, 1)),
    ],
)
def test_policies_follow_the_device_type(
    kind: DeviceType, activates: bool, policies: tuple[int, int]
) -> None:
    attributes = Bench(kind, timeout_activates=activates).client.attributes()
    assert (
        attributes[ota.ATTR_UPGRADE_ACTIVATION_POLICY][1],
        attributes[ota.ATTR_UPGRADE_TIMEOUT_POLICY][1],
    ) == policies


def test_every_status_but_wait_for_more_is_reached_and_left_again() -> None:
    moves = ota_client._MOVES
    assert len(set(moves)) == len(moves)
    used = {status for move in moves for status in move}
    assert used == set(UpgradeStatus) - {S.WAIT_FOR_MORE}  # for upgrades of several files
    assert all((status, S.NORMAL) in moves for status in used - {S.NORMAL})


@pytest.mark.parametrize("old", list(UpgradeStatus))
@pytest.mark.parametrize("new", list(UpgradeStatus))
def test_only_the_moves_of_the_table_are_made(old: UpgradeStatus, new: UpgradeStatus) -> None:
    state = UpgradeState()
    state.status = old
    if old is new or (old, new) in ota_client._MOVES:
        state.enter(new)
        assert state.status is new
    else:
        with pytest.raises(AssertionError):
            state.enter(new)
        assert state.status is old


# --- restarts ---------------------------------------------------------------------------------


def test_a_restart_in_a_download_asks_the_server_first_and_goes_on_at_the_offset() -> None:
    bench = Bench().downloading().serve(600).restart(durable=512).start()
    assert bench.names() == ["download_kept"]
    assert (bench.status, bench.client.file_offset) == (S.DOWNLOAD_IN_PROGRESS, 512)
    assert bench.client.total_size == 1024
    bench.found()
    assert bench.last(ota.QueryNextImageRequest).image == OLD
    bench.answer_query(image=NEW, size=1024)
    assert bench.last(ota.ImageBlockRequest).file_offset == 512
    bench.serve()
    assert bytes(bench.bank.octets) == FILE


def test_a_block_of_the_former_life_is_not_taken_before_the_server_has_offered_again() -> None:
    bench = Bench().downloading().serve(600).restart(durable=512).found().clear()
    bench.answer_block(FILE[512:562], 512)
    assert bench.sent == []
    assert bench.bank.offset == 512


def test_another_image_offered_after_a_restart_begins_at_the_start() -> None:
    bench = Bench().downloading().serve(600).restart(durable=512).found()
    bench.answer_query(image=NEWER, size=1024)
    assert bench.last(ota.ImageBlockRequest) == ota.ImageBlockRequest(NEWER, 0, 50)
    assert bench.bank.session == (NEWER, 1024)


@pytest.mark.parametrize("status", [Status.NO_IMAGE_AVAILABLE, Status.NOT_AUTHORIZED])
def test_without_an_offer_after_a_restart_the_rest_is_kept_for_a_later_one(status: int) -> None:
    bench = Bench().downloading().serve(600).restart(durable=512).found()
    bench.answer_query(status)
    assert (bench.status, bench.bank.offset, bench.bank.abandoned) == (S.NORMAL, 512, 0)
    assert bench.values == [UpgradeAbandoned("no_image")]
    bench.clear().notify()
    bench.answer_query(image=NEW, size=1024)
    assert bench.last(ota.ImageBlockRequest).file_offset == 512


def test_an_offer_that_cannot_be_taken_after_a_restart_ends_the_kept_download() -> None:
    bench = Bench().downloading().serve(600).restart(durable=512).found().clear()
    bench.answer_query(image=NEW._replace(image_type=9), size=1024)
    assert bench.defaults() == [(ota.QUERY_NEXT_IMAGE_RESPONSE, Status.INVALID_VALUE)]
    assert (bench.status, bench.values) == (S.NORMAL, [UpgradeAbandoned("other_image")])


def test_a_whole_file_kept_by_a_restart_is_handed_over_without_a_block() -> None:
    bench = Bench().downloading().serve().restart().found()
    bench.clear().answer_query(image=NEW, size=1024)
    assert bench.values == [ota_client.ImageHeld(NEW, 1024)]
    assert bench.requests() == []
    assert bench.status is S.DOWNLOAD_COMPLETE


def test_a_server_that_moved_is_found_by_its_new_address() -> None:
    bench = Bench(query_errors_max=1).found().clear()
    bench.tick()
    bench.hear_zdo(zdo.MATCH_DESC_REQ, match(0x1234), ShortAddress(0x1234))
    assert bench.sent[-1].peer == 0x1234


def test_the_bank_taken_by_the_operator_ends_the_upgrade_and_is_not_touched() -> None:
    bench = Bench().downloading().serve(600)
    bench.client.cancel(bench.now)
    assert (bench.status, bench.bank.abandoned) == (S.NORMAL, 0)
    bench.clear().answer_block(FILE[600:650], 600)
    assert bench.sent == []
    assert bench.bank.offset == 600
