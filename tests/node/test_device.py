"""The device routes: what a frame, a timer and an order do, in one transaction each."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from bank_bench import AREA, FACTORY, IMAGE_2, IMAGE_3
from device_bench import ACB, UTC, DeviceBench
from home import KEYS, PPMID, SETTINGS, image
from ota_bench import SERVER_ID

from firmware_node.boundary import (
    Answer,
    EraseAndReboot,
    FactoryResetRequested,
    Frame,
    FrameReceived,
    LoadImage,
    NetworkDown,
    Notify,
    QueryRequested,
    Reboot,
    RebootRequested,
    SendConfirmed,
    SetClock,
    Started,
)
from firmware_node.crypto import Keyring
from firmware_node.rig.memory_storage import PowerCut
from firmware_node.sealing import Verdict, check_mac, check_signature
from firmware_node.terms import COORDINATOR, BankId, ImageKey, Role
from firmware_node.tools.image import mutate
from firmware_node.tools.keys import build_keys
from firmware_node.wire import firmware_messages as fm
from firmware_node.wire import ota, tunneling, zcl
from firmware_node.wire.gbcs import Cra, decode_message

A, B = BankId.A, BankId.B
KEY = ImageKey(0x121D, 0x0084, 2)
BAD_SELF_TEST = image(2, size=6_000, change=lambda m: replace(m, self_test=False))
CRASHING = image(2, size=6_000, change=lambda m: replace(m, crash_after_ms=100))
UNSIGNED_BIT = mutate(IMAGE_2, "bad-signature")


def alert_of(bench: DeviceBench) -> fm.ActivationAlert:
    """The one alert in the outbox, which is ours and signed."""
    (message,) = bench.waiting()
    assert (message.header.cra, message.header.originator) == (Cra.ALERT, PPMID)
    assert message.header.recipient == ACB
    assert check_signature(message, KEYS) is Verdict.VALID
    return fm.decode_cs09_alert(message.payload)


# --- one block from the air to the bank, and the rest of the way ----------------------------------


def test_a_block_goes_to_the_bank_and_the_next_one_is_asked_for() -> None:
    bench = DeviceBench().found().offer(IMAGE_2)
    assert bench.names()[-2:] == ["image_offered", "download_started"]
    bench.serve(IMAGE_2, until=4_100)
    assert bench.ota_requests()[-1] == ota.ImageBlockRequest(KEY, 4_100, 50)
    assert bench.medium.pending == [(B, 0, IMAGE_2[:4_096])]
    assert bench.states() == ("confirmed", "receiving")


def test_a_whole_image_is_read_back_verified_recorded_and_then_told() -> None:
    bench = DeviceBench().held(IMAGE_2)
    assert bench.ota_requests()[-1] == ota.UpgradeEndRequest(0, KEY)
    note = bench.note("image_verified")
    assert (note.fields["version"], note.fields["size"]) == ("00000002", len(IMAGE_2))
    assert bytes(bench.medium.banks[B][: len(IMAGE_2)]) == IMAGE_2
    assert bench.states() == ("confirmed", "verified")
    assert "session" not in bench.medium.records
    assert bench.boot() == (A, False)


def test_the_server_hears_of_an_image_only_with_the_commit_that_records_it() -> None:
    bench = DeviceBench().found().offer(IMAGE_2).serve(IMAGE_2, until=5_950)
    bench.auto_commit = False
    bench.serve(IMAGE_2)
    assert bench.ota_requests()[-1] == ota.UpgradeEndRequest(0, KEY)
    assert bench.states() == ("confirmed", "receiving")
    bench.storage.commit()
    assert bench.states() == ("confirmed", "verified")


def test_the_servers_word_activates_after_the_replies_got_out() -> None:
    bench = DeviceBench().held(IMAGE_2)
    bench.end(IMAGE_2)
    assert (bench.boot(), bench.ends) == ((A, False), [])
    bench.wait(3_000)
    activated = Notify("image_activated", {"bank": "B", "version": "00000002"})
    restarting = Notify("restarting", {"reason": "activation"})
    assert bench.last[-3:] == [activated, restarting, Reboot("activation")]
    assert bench.boot() == (B, True)
    assert bench.states() == ("confirmed", "trial")
    assert bench.waiting() == []


def test_a_trial_that_passes_is_confirmed_and_told_in_one_transaction() -> None:
    bench = DeviceBench().activated(IMAGE_2).restart()
    running = bench.note("image_running").fields
    assert (running["bank"], running["trial"], running["version_string"]) == ("B", True, "v2")
    bench.join()
    bench.tell_time()
    bench.auto_commit = False
    bench.wait(3_000)
    assert "image_confirmed" in bench.names()
    assert (bench.boot(), bench.waiting()) == ((B, True), [])  # neither before the commit
    bench.storage.commit()
    assert bench.boot() == (B, False)
    assert bench.states() == ("confirmed", "confirmed")
    alert = alert_of(bench)
    assert (alert.result, alert.firmware_version) == (0, 2)
    assert UTC <= alert.executed_at <= UTC + 3


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_cut_at_the_commit_of_a_confirmation_leaves_it_and_its_alert_or_neither(
    moment: str,
) -> None:
    bench = DeviceBench().activated(IMAGE_2).restart()
    bench.auto_commit = False
    bench.wait(3_000)
    bench.medium.cut_at = bench.medium.calls + (1 if moment == "before" else 2)
    with pytest.raises(PowerCut):
        bench.storage.commit()
    assert bench.boot() == (B, moment == "before")
    assert len(bench.waiting()) == (moment == "after")
    bench.auto_commit = True
    bench.restart().wait(3_000)
    assert bench.boot() == (B, False)
    assert alert_of(bench).result == 0


@pytest.mark.parametrize(
    ("file", "cause"), [(BAD_SELF_TEST, "self_test"), (CRASHING, "start_limit")]
)
def test_a_trial_that_fails_is_reverted_and_told_in_one_transaction(
    file: bytes, cause: str
) -> None:
    bench = DeviceBench().activated(file).restart()
    if cause == "start_limit":
        for _ in range(4):
            bench.wait(100)
            assert bench.ends == [Reboot("crash")]
            bench.restart()
        bench.wait(100)
        assert (bench.boot(), bench.waiting()) == ((B, True), [])
        bench.restart()
    else:
        bench.auto_commit = False
        bench.tick()
        assert (bench.boot(), bench.waiting()) == ((B, True), [])
        bench.storage.commit()
        bench.auto_commit = True
        assert bench.ends == [Reboot("revert")]
    assert bench.note("image_reverted").fields == {"cause": cause, "version": "00000001"}
    assert bench.boot() == (A, False)
    assert bench.states() == ("confirmed", "rejected")
    assert (alert_of(bench).result, alert_of(bench).firmware_version) == (1, 1)
    bench.restart()
    assert (bench.status()["state"], bench.status()["running_bank"]) == ("reverted", "A")
    assert bench.status()["last_failure"] == {"phase": "trial", "cause": cause, "at": None}


def test_an_image_that_cannot_be_verified_for_want_of_a_key_is_never_confirmed() -> None:
    bench = DeviceBench().activated(IMAGE_2)
    bench.keyring = Keyring(build_keys(b"flows", manufacturers=()))
    bench.restart().wait(60_000)
    assert "image_confirmed" not in bench.names()
    assert (bench.boot(), bench.waiting()) == ((B, True), [])
    bench.keyring = KEYS
    bench.restart().wait(3_000)
    assert bench.boot() == (B, False)
    assert alert_of(bench).firmware_version == 2


# --- what is refused keeps everything -------------------------------------------------------------


def test_an_image_that_is_refused_is_dropped_and_told_and_nothing_else_changes() -> None:
    bench = DeviceBench()
    before, running = dict(bench.medium.records), bytes(bench.medium.banks[A])
    bench.held(UNSIGNED_BIT)
    assert bench.ota_requests()[-1] == ota.UpgradeEndRequest(zcl.Status.INVALID_IMAGE, KEY)
    assert bench.note("upgrade_failed").fields["cause"] == "manufacturer_signature_wrong"
    changed = {
        key for key, value in bench.medium.records.items() if before.get(key) != value
    } | before.keys() - bench.medium.records.keys()
    assert changed == {"device/last_failure", "device/result"}
    assert bytes(bench.medium.banks[A]) == running
    assert bench.status()["state"] == "failed"
    bench.next_query().offer(IMAGE_2).serve(IMAGE_2)
    assert bench.states() == ("confirmed", "verified")


def test_a_policy_refusal_is_an_image_refused_too() -> None:
    bench = DeviceBench().held(image(2, change=lambda m: replace(m, from_versions=(9,))))
    assert bench.note("upgrade_failed").fields["cause"] == "upgrade_pathway"
    assert bench.states() == ("confirmed", "empty")


def test_a_read_back_that_differs_is_told_and_the_image_may_come_again() -> None:
    bench = DeviceBench().found().offer(IMAGE_2).serve(IMAGE_2, until=5_000)
    bench.medium.pending[:] = [(B, 0, bytes(4_096))]
    bench.serve(IMAGE_2)
    assert bench.note("upgrade_failed").fields["cause"] == "readback_differs"
    assert bench.states() == ("confirmed", "empty")
    bench.next_query().offer(IMAGE_2).serve(IMAGE_2)
    assert bench.states() == ("confirmed", "verified")


@pytest.mark.parametrize("why", ["rotten", "full"])
def test_an_activation_that_is_refused_is_told_and_the_old_image_stays(why: str) -> None:
    bench = DeviceBench().held(IMAGE_2)
    bench.end(IMAGE_2)
    if why == "full":
        bench.medium.full = True
    else:
        bench.medium.banks[B][3_000] ^= 1
    bench.clear().wait(3_000)
    assert bench.ends == []
    cause = "storage_full" if why == "full" else "manufacturer_signature_wrong"
    assert bench.note("upgrade_failed").fields["cause"] == cause
    assert bench.boot() == (A, False)
    assert (alert_of(bench).result, alert_of(bench).firmware_version) == (1, 1)
    upgrade = bench.status()["upgrade"]
    assert isinstance(upgrade, dict) and upgrade["status"] == "normal"


def test_a_command_that_is_refused_changes_no_counter_and_queues_nothing() -> None:
    bench = DeviceBench().found()
    bench.open_tunnel()
    command = bytearray(bench.read_version())
    command[-1] ^= 1
    before = bench.received()
    bench.carry(bytes(command))
    assert bench.note("command_refused").fields["cause"] == "mac_wrong"
    assert (bench.received(), bench.waiting(), bench.tunnelled()) == (before, [], [])


# --- the tunnel, commands and the outbox ----------------------------------------------------------


def test_a_command_is_accepted_answered_and_queued_in_one_transaction() -> None:
    bench = DeviceBench().found()
    bench.open_tunnel()
    bench.auto_commit = False
    bench.carry(bench.read_version())
    assert (bench.received(), bench.waiting()) == (0, [])
    bench.storage.commit()
    assert bench.received() == 1000
    (answer,) = bench.waiting()
    assert (answer.header.cra, answer.header.originator_counter) == (Cra.RESPONSE, 1000)
    assert check_mac(answer, KEYS) is Verdict.VALID
    assert fm.decode_cs08_response(answer.payload).firmware_version == 1


def test_a_command_that_comes_twice_is_answered_once() -> None:
    bench = DeviceBench().found()
    bench.open_tunnel()
    command = bench.read_version()
    bench.carry(command)
    bench.carry(command)
    assert bench.note("command_refused").fields["cause"] == "replay"
    bench.restart().found().open_tunnel()
    bench.carry(command)
    assert bench.note("command_refused").fields["cause"] == "replay"
    assert (bench.received(), len(bench.waiting())) == (1000, 1)


def test_a_command_whose_step_was_not_committed_is_accepted_again() -> None:
    bench = DeviceBench().found()
    bench.open_tunnel()
    command = bench.read_version()
    bench.auto_commit = False
    bench.carry(command)
    bench.auto_commit = True
    bench.restart().found().open_tunnel()
    bench.carry(command)
    assert bench.received() == 1000
    assert len(bench.waiting()) == 1


def test_an_answer_leaves_at_once_and_is_forgotten_when_the_hub_has_it() -> None:
    bench = DeviceBench().found()
    bench.open_tunnel()
    bench.clear().carry(bench.read_version())
    (answer,) = bench.tunnelled()
    (waiting,) = bench.waiting()
    assert decode_message(answer) == waiting
    bench.confirm_sent()
    assert bench.names()[-1] == "message_delivered"
    assert bench.waiting() == []
    assert bench.status()["outbox"] == 0


def test_what_waits_leaves_when_the_hub_opens_a_tunnel() -> None:
    bench = DeviceBench().activated(IMAGE_2).restart()
    bench.wait(3_000)
    assert bench.tunnelled() == []
    bench.join().open_tunnel()
    assert len(bench.tunnelled()) == 1
    assert bench.status()["outbox"] == 1
    bench.confirm_sent(delivered=False)
    bench.wait(2_000)
    assert len(set(bench.tunnelled())) == 1 and len(bench.tunnelled()) == 2
    bench.confirm_sent()
    assert bench.waiting() == []


def test_when_the_network_goes_the_message_under_way_is_sent_again_through_a_new_tunnel() -> None:
    bench = DeviceBench().activated(IMAGE_2).restart().join()
    bench.open_tunnel()
    bench.wait(3_000)
    assert len(bench.tunnelled()) == 1
    bench.step(NetworkDown())
    network = bench.status()["network"]
    assert network == {"joined": False, "short_address": None, "channel": None}
    bench.confirm_sent()  # the radio's word comes from before
    assert len(bench.waiting()) == 1
    bench.join().open_tunnel()
    assert len(set(bench.tunnelled())) == 1 and len(bench.tunnelled()) == 2


def test_a_tunnel_that_is_idle_is_closed_by_a_timer() -> None:
    bench = DeviceBench().join()
    bench.open_tunnel()
    bench.wait(2 * tunneling.CLOSE_TUNNEL_TIMEOUT_S * 1000)
    assert "tunnel_expired" in bench.names()


# --- counters, keys and records that are lost -----------------------------------------------------


def test_without_trustworthy_counters_nothing_is_accepted_or_sent_and_updates_go_on() -> None:
    bench = DeviceBench().activated(IMAGE_2)
    bench.medium.ratchet = None
    bench.restart("counter/own", "counter/own~").found()
    assert "counters_lost" in bench.names()
    assert bench.status()["counters"] == {}
    bench.open_tunnel()
    bench.carry(bench.read_version())
    assert "command_refused" in bench.names()
    bench.wait(3_000)
    assert bench.boot() == (B, False)
    assert (bench.received(), bench.waiting(), bench.tunnelled()) == (0, [], [])
    bench.restart("counter/own", "counter/own~")
    assert "counters_lost" in bench.names()  # nobody raised it from zero meanwhile
    bench.held(IMAGE_3)
    assert bench.states() == ("verified", "confirmed")


def test_a_lost_received_counter_accepts_nothing_of_its_role() -> None:
    bench = DeviceBench().restart("counter/received/004", "counter/received/004~").found()
    bench.open_tunnel()
    bench.carry(bench.read_version())
    assert bench.note("command_refused").fields["cause"] == "storage"
    assert bench.waiting() == []


def test_a_full_outbox_refuses_a_command_and_keeps_its_counter_free() -> None:
    bench = DeviceBench().found()
    bench.open_tunnel()
    for _ in range(65):
        bench.carry(bench.read_version())
    assert bench.note("command_refused").fields["cause"] == "storage"
    assert len(bench.waiting()) == 64
    assert len(bench.tunnelled()) == 1


def test_without_the_recipients_certificate_the_alert_is_withheld_and_the_image_confirmed() -> None:
    parties = [party for party in KEYS.entities() if KEYS.role(party) is Role.ACCESS_CONTROL_BROKER]
    files = {
        name: data
        for name, data in build_keys(b"flows").items()
        if not name.startswith(parties[0].hex)
    }
    bench = DeviceBench(keyring=Keyring(files)).activated(IMAGE_2).restart()
    bench.wait(3_000)
    assert any(name.endswith("_withheld") for name in bench.names())
    assert (bench.boot(), bench.waiting()) == ((B, False), [])


def test_alerts_go_to_the_configured_broker() -> None:
    other = replace(SETTINGS, acb=PPMID)
    bench = DeviceBench(settings=other).activated(IMAGE_2).restart()
    bench.wait(3_000)
    assert bench.waiting()[0].header.recipient == PPMID


# --- attributes, time and discovery ---------------------------------------------------------------


def test_attributes_are_answered_live_during_a_transfer() -> None:
    bench = DeviceBench().found().offer(IMAGE_2).serve(IMAGE_2, until=1_000)
    told = bench.read(ota.CLUSTER, ota.ATTR_FILE_OFFSET, ota.ATTR_IMAGE_UPGRADE_STATUS)
    assert told[ota.ATTR_FILE_OFFSET].value == 1_000
    assert told[ota.ATTR_IMAGE_UPGRADE_STATUS].value == 1
    assert bench.read(ota.CLUSTER, ota.ATTR_UPGRADE_SERVER_ID)[0].value == SERVER_ID
    assert bench.read(tunneling.CLUSTER, 0)[0].value == tunneling.CLOSE_TUNNEL_TIMEOUT_S
    assert bench.read(zcl.BASIC_CLUSTER, 0x4000)[0x4000].value == b"v1"
    assert bench.states() == ("confirmed", "receiving")


def test_the_basic_cluster_tells_the_build_that_runs() -> None:
    bench = DeviceBench().activated(IMAGE_2).restart().join()
    assert bench.read(zcl.BASIC_CLUSTER, 0x4000)[0x4000].value == b"v2"


def test_a_cluster_that_is_not_ours_is_refused() -> None:
    bench = DeviceBench().join()
    bench.clear().hear(0x0702, b"\x00\x01\x00\x00\x00")
    assert bench.default_status() == zcl.Status.UNSUPPORTED_CLUSTER


def test_the_hubs_time_is_learned_and_a_lower_bound_of_it_kept_hourly() -> None:
    bench = DeviceBench().join()
    bench.tell_time(UTC)
    assert bench.medium.records["time/not_before"] == b"%d" % UTC
    bench.step(NetworkDown())
    bench.join().tell_time(UTC + 60)
    assert bench.medium.records["time/not_before"] == b"%d" % UTC
    bench.step(NetworkDown())
    bench.join().tell_time(UTC + 3_600)
    assert bench.medium.records["time/not_before"] == b"%d" % (UTC + 3_600)


@pytest.mark.parametrize("lost", [False, True])
def test_without_the_time_a_stamp_is_the_lower_bound_that_is_kept(lost: bool) -> None:
    bench = DeviceBench().join()
    bench.tell_time(UTC)
    bench.activated(IMAGE_2).restart(*["time/not_before"] * lost)
    bench.wait(3_000)
    assert alert_of(bench).executed_at == (0 if lost else UTC)


def test_the_time_is_asked_for_again_until_the_hub_has_it() -> None:
    bench = DeviceBench().join()

    def asked() -> int:
        return sum(sent.frame.cluster == zcl.TIME_CLUSTER for sent in bench.sent)

    assert asked() == 1
    bench.wait(3_000)
    assert asked() == 2
    bench.tell_time()
    bench.wait(600_000)
    assert asked() == 2


# --- the operator ---------------------------------------------------------------------------------


def test_an_image_that_the_operator_brings_goes_through_the_same_door() -> None:
    bench = DeviceBench()
    bench.step(LoadImage(IMAGE_2, activate=False))
    assert bench.answers == [Answer(done=True, text="held in bank B")]
    assert bench.states() == ("confirmed", "verified")
    assert bench.ends == []
    before = dict(bench.medium.records)
    bench.step(LoadImage(UNSIGNED_BIT, activate=True))
    bench.step(LoadImage(image(2, size=AREA), activate=True))
    assert [answer.done for answer in bench.answers] == [True, False, False]
    assert bench.medium.records == before
    assert bench.ends == []


def test_an_image_that_the_operator_activates_runs_on_trial() -> None:
    bench = DeviceBench()
    bench.step(LoadImage(IMAGE_2, activate=True))
    assert bench.answers == [Answer(done=True, text="held in bank B")]
    assert bench.ends == [Reboot("activation")]
    assert bench.boot() == (B, True)
    bench.restart().wait(3_000)
    assert bench.boot() == (B, False)


def test_the_operators_image_ends_the_download_under_way() -> None:
    bench = DeviceBench().found().offer(IMAGE_2).serve(IMAGE_2, until=4_200)
    bench.step(LoadImage(IMAGE_3, activate=False))
    assert "session" not in bench.medium.records
    assert bench.states() == ("confirmed", "verified")
    bench.restart().found()
    assert "download_kept" not in bench.names()
    assert bytes(bench.medium.banks[B][: len(IMAGE_3)]) == IMAGE_3


def test_while_an_image_is_on_trial_the_operators_is_refused_in_words() -> None:
    bench = DeviceBench().activated(IMAGE_2).restart()
    before = dict(bench.medium.records)
    bench.step(LoadImage(IMAGE_3, activate=True))
    (answer,) = bench.answers
    assert not answer.done and "trial" in answer.text
    assert bench.medium.records == before


def test_a_query_is_made_when_the_operator_wants_one() -> None:
    bench = DeviceBench().found()
    response = ota.encode_query_next_image_response(ota.QueryNextImageResponse(0x98))
    bench.command(ota.CLUSTER, ota.QUERY_NEXT_IMAGE_RESPONSE, response, to_client=True)
    bench.clear().step(QueryRequested())
    assert bench.answers[0].done
    assert isinstance(bench.ota_requests()[0], ota.QueryNextImageRequest)
    bench.step(QueryRequested(7))
    last = bench.ota_requests()[-1]
    assert isinstance(last, ota.SpecificFileRequest) and last.image.file_version == 7


def test_a_wanted_restart_keeps_the_whole_pages_of_a_download() -> None:
    bench = DeviceBench().found().offer(IMAGE_2).serve(IMAGE_2, until=4_200)
    bench.step(RebootRequested())
    assert bench.answers == [Answer(done=True, text="restarting")]
    assert bench.ends == [Reboot("operator")]
    bench.restart()
    assert bench.note("download_kept").fields["file_offset"] == 4_096
    bench.found().offer(IMAGE_2)
    assert bench.ota_requests()[-1] == ota.ImageBlockRequest(KEY, 4_096, 50)


def test_a_restart_that_nobody_wanted_keeps_what_was_synced() -> None:
    bench = DeviceBench().found().offer(IMAGE_2).serve(IMAGE_2, until=4_200)
    bench.wait(2_900)  # before the reply time-out
    bench.restart()
    assert bench.note("download_kept").fields["file_offset"] == 0


def test_data_of_a_slow_download_is_made_durable_by_a_timer() -> None:
    settings = replace(SETTINGS, ota=replace(SETTINGS.ota, reply_timeout_ms=120_000))
    bench = DeviceBench(settings=settings).found().offer(IMAGE_2).serve(IMAGE_2, until=4_200)
    bench.wait(60_000).restart()
    assert bench.note("download_kept").fields["file_offset"] == 4_096


def test_a_verified_image_goes_on_waiting_after_a_restart() -> None:
    bench = DeviceBench().held(IMAGE_2)
    bench.end(IMAGE_2, upgrade_time=600)
    bench.restart()
    assert bench.note("upgrade_kept").fields == {"version": "00000002", "status": "count_down"}
    assert bench.status()["state"] == "waiting"
    bench.wait(600_000)
    assert bench.ends == [Reboot("activation")]
    assert bench.boot() == (B, True)


def test_a_factory_reset_ends_this_life_and_touches_nothing_itself() -> None:
    bench = DeviceBench()
    before = dict(bench.medium.records)
    bench.step(FactoryResetRequested())
    assert bench.answers[0].done
    assert bench.ends == [EraseAndReboot()]
    assert bench.device.wake_at is None
    assert bench.medium.records == before


@pytest.mark.parametrize("end", ["reboot", "activation"])
def test_a_device_that_restarts_hears_and_does_nothing_any_more(end: str) -> None:
    bench = DeviceBench()
    if end == "activation":
        bench.activated(IMAGE_2)
    else:
        bench.found().step(RebootRequested())
    assert bench.status()["state"] == "restarting"
    before = dict(bench.medium.records)
    frame = Frame(COORDINATOR, 1, 1, zcl.SMART_ENERGY_PROFILE, zcl.BASIC_CLUSTER, b"\0\1\0\0\0")
    for item in (FrameReceived(frame), None, Started(), RebootRequested(), SendConfirmed(1, True)):
        assert bench.step(item) == []
    assert bench.device.wake_at is None
    assert bench.medium.records == before


def test_an_input_of_another_machine_is_our_own_fault() -> None:
    with pytest.raises(TypeError, match="SetClock"):
        DeviceBench().step(SetClock(UTC))


def test_a_timer_that_is_not_due_does_nothing() -> None:
    bench = DeviceBench().found()
    wake_at = bench.device.wake_at
    assert bench.step(None) == []
    assert bench.device.wake_at == wake_at


# --- what the operator sees -----------------------------------------------------------------------


def test_the_status_of_a_new_device() -> None:
    bench = DeviceBench()
    status = bench.status()
    counters = status.pop("counters")
    assert isinstance(counters, dict) and counters["access_control_broker"] == 0
    digest = hashlib.sha256(FACTORY[60:]).hexdigest()
    status.pop("pending_activation", None)
    assert status == {
        "type": "ppmid",
        "entity_id": "00-DB-12-34-56-78-90-A4",
        "state": "idle",
        "network": {"joined": False, "short_address": None, "channel": None},
        "upgrade": {"status": "normal", "file_offset": 0, "total_size": 0, "eta_seconds": None},
        "banks": {
            "A": {"state": "confirmed", "version": "00000001", "sha256": digest, "size": 5060},
            "B": {"state": "empty", "version": None, "sha256": None, "size": 0},
        },
        "running_bank": "A",
        "outbox": 0,
        "switch": None,
        "utc": None,
        "last_failure": None,
    }
    network = bench.join().status()["network"]
    assert network == {"joined": True, "short_address": 0x1001, "channel": 15}


def test_the_state_follows_an_upgrade_from_its_begin_to_its_end() -> None:
    bench = DeviceBench().found()
    states = [bench.status()["state"]]
    bench.offer(IMAGE_2).serve(IMAGE_2, until=1_000)
    states.append(bench.status()["state"])
    upgrade = bench.status()["upgrade"]
    assert isinstance(upgrade, dict)
    assert (upgrade["file_offset"], upgrade["total_size"]) == (1_000, len(IMAGE_2))
    bench.serve(IMAGE_2)
    states.append(bench.status()["state"])
    bench.end(IMAGE_2)
    bench.wait(3_000)
    states.append(bench.status()["state"])
    bench.restart()
    states.append(bench.status()["state"])
    bench.wait(3_000)
    states.append(bench.status()["state"])
    assert states == ["idle", "downloading", "waiting", "restarting", "trial", "confirmed"]
    assert bench.restart().status()["state"] == "confirmed"


def test_the_last_failure_is_kept_with_the_time_when_that_is_known() -> None:
    bench = DeviceBench().found()
    bench.tell_time(UTC)
    bench.offer(UNSIGNED_BIT).serve(UNSIGNED_BIT)
    failure = {
        "phase": "verification",
        "cause": "manufacturer_signature_wrong",
        "at": "2025-05-08T06:13:20Z",
    }
    assert bench.status()["last_failure"] == failure
    assert bench.restart().status()["last_failure"] == failure


def test_an_upgrade_that_the_server_aborts_is_a_failed_download() -> None:
    bench = DeviceBench().found().offer(IMAGE_2).serve(IMAGE_2, until=4_200)
    body = ota.encode_image_block_response(ota.BlockStatus(zcl.Status.ABORT))
    bench.command(ota.CLUSTER, ota.IMAGE_BLOCK_RESPONSE, body, to_client=True)
    assert bench.status()["last_failure"] == {
        "phase": "download",
        "cause": "server_abort",
        "at": None,
    }
    assert bench.states() == ("confirmed", "empty")
    assert "session" not in bench.medium.records


def test_words_for_people_that_are_lost_are_only_words() -> None:
    bench = DeviceBench().held(UNSIGNED_BIT)
    bench.restart("device/result", "device/last_failure")
    assert (bench.status()["state"], bench.status()["last_failure"]) == ("idle", None)
    assert bench.boot() == (A, False)


def test_every_send_of_a_tunnelled_message_asks_for_its_acknowledgement() -> None:
    bench = DeviceBench().activated(IMAGE_2).restart().join()
    bench.open_tunnel()
    bench.wait(3_000)
    sent = [sent for sent in bench.sent if sent.frame.cluster == tunneling.CLUSTER]
    assert [one.tag for one in sent] == [0, 1]  # the answer to Request Tunnel, then the alert
