"""Every notification there is, each seen in the trace of a story that brings it about."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pytest
from careless_server import CarelessServer
from home import ACB, HUB, KEYS, PPMID, SETTINGS, image, with_ota

from firmware_node.boundary import (
    NOTIFICATIONS,
    CarryMessage,
    Effect,
    Frame,
    FrameReceived,
    Input,
    LoadImage,
    Machine,
    MessageArrived,
    Notify,
    OfferImage,
    ReadVersion,
    RebootRequested,
    ScheduleLoad,
    SendConfirmed,
    Storage,
    SwitchRequested,
)
from firmware_node.crypto import Keyring
from firmware_node.node.device import Device
from firmware_node.rig.comms_hub import CommsHub, HubSettings, Misbehaviour
from firmware_node.rig.head_end import HeadEnd
from firmware_node.rig.memory_storage import Medium, MemoryStorage
from firmware_node.rig.world import Air, Home, SeededEntropy, World
from firmware_node.sealing import seal_critical
from firmware_node.terms import COORDINATOR, BankId, DeviceSettings, DeviceType, EntityId
from firmware_node.tools.keys import build_keys
from firmware_node.wire import drlc, ota, tunneling, zcl
from firmware_node.wire import firmware_messages as fm
from firmware_node.wire.gbcs import Cra, GroupingHeader

SUPPLIER = EntityId.parse("90-B3-D5-1F-30-01-00-00")
STRANGERS = Keyring(build_keys(b"strangers"))
HCALCS = replace(SETTINGS, type=DeviceType.HCALCS)
HOUR_MS = 3_600_000


class Deaf:
    """A hub that hears of no load control, though its radio says that it serves it."""

    def __init__(self, hub: CommsHub) -> None:
        self._hub = hub

    @property
    def wake_at(self) -> int | None:
        return self._hub.wake_at

    def step(self, item: Input | None, now_ms: int) -> Sequence[Effect]:
        if isinstance(item, FrameReceived) and item.frame.cluster == drlc.CLUSTER:
            return ()
        return self._hub.step(item, now_ms)


class Trace:
    """A device on a medium that can be spoilt, its hub, and all that both told."""

    def __init__(
        self,
        *script: Misbehaviour,
        settings: DeviceSettings = SETTINGS,
        keys: Keyring = KEYS,
        factory: int = 1,
        manifest: Mapping[str, object] | None = None,
        **changes: object,
    ) -> None:
        self.settings, self.keys, self.factory = (
            settings,
            keys,
            image(
                factory,
                change=lambda good: replace(good, **(manifest or {})),  # type: ignore[arg-type]
            ),
        )
        self.medium = Medium(64 * 1024)
        self.lost: set[str] = set()  # records whose checksum is wrong in the next life
        self.world = World()
        hub = HubSettings(HUB, ACB, utc=800_000_000, script=script)
        self.hub = CommsHub(replace(hub, **changes), KEYS)  # type: ignore[arg-type]
        self.world.set_hub(self.hub, HUB, HeadEnd(ACB, KEYS, first_counter=1000))
        self.home: Home = self.world.add(PPMID, self._make)

    def _make(self) -> tuple[Machine, Storage]:
        storage = MemoryStorage(self.medium)
        for key in self.lost:
            storage.records.lost |= {key, f"{key}~"}
        self.lost = set()
        entropy = SeededEntropy(1)
        settings, keys = self.settings, self.keys
        return Device(settings, storage, keys, entropy, factory_image=self.factory), storage

    def offer(self, data: bytes) -> Trace:
        self.world.tell_hub(OfferImage("request", data, (PPMID,)))
        return self

    def tell(self, item: Input) -> Trace:
        self.world.tell(self.home, item)
        return self

    def schedule(self, *, times: int = 1) -> Trace:
        for _ in range(times):
            self.world.tell_hub(ScheduleLoad(PPMID, closed=True, duration_min=60))
        return self

    def restart(self, *lost: str) -> Trace:
        self.lost = set(lost)
        self.world.restart(self.home)
        return self

    def until(self, name: str, limit_ms: int = 24 * HOUR_MS) -> Trace:
        assert self.world.run_until(lambda: name in self.seen(), limit_ms), self.seen()
        return self

    def seen(self) -> set[str]:
        told = [note for _, _, note in self.world.notes]
        told += [effect for effect in self.world.head_end_effects if isinstance(effect, Notify)]
        return {note.name for note in told}

    def spoil(self, *banks: BankId) -> Trace:
        for bank in banks:
            self.medium.banks[bank][:4] = b"rust"
        return self

    def hear(self, cluster: int, command: int, body: bytes) -> Trace:
        """A frame of the hub's, by hand."""
        header = zcl.ZclHeader(True, cluster == ota.CLUSTER, True, None, 9, command)
        frame = Frame(
            COORDINATOR, 1, 1, zcl.SMART_ENERGY_PROFILE, cluster, zcl.encode(header, body)
        )
        return self.tell(FrameReceived(frame))


def an_upgrade() -> Trace:
    trace = Trace().offer(image(2)).until("message_delivered")
    trace.world.tell_head_end(ReadVersion("read", SUPPLIER, 7, PPMID))
    return trace.until("command_accepted")


def a_hub_with_little_patience() -> Trace:
    script = (
        Misbehaviour("silence", from_offset=1000),
        Misbehaviour("wait", from_offset=2000),
        Misbehaviour("abort", from_offset=3000),
    )
    return Trace(*script).offer(image(2)).until("image_confirmed")


def a_hub_without_pages() -> Trace:
    return Trace(settings=with_ota(page_size=1024), pages=False).offer(image(2)).until("self_test")


def an_image_that_fails_its_self_test() -> Trace:
    bad = image(2, change=lambda manifest: replace(manifest, self_test=False))
    return Trace().offer(bad).until("image_reverted")


def an_image_that_crashes() -> Trace:
    bad = image(2, change=lambda manifest: replace(manifest, crash_after_ms=50))
    return Trace().offer(bad).until("image_crashed")


def a_hub_that_holds() -> Trace:
    trace = Trace(activate_after_s=None).offer(image(2)).until("activation_held")
    return trace.tell(RebootRequested()).until("upgrade_kept")


def a_hub_that_does_not_answer_the_end() -> Trace:
    impatient = with_ota(upgrade_end_retries=2)
    script = Misbehaviour("end_silence", times=9)
    return Trace(script, settings=impatient).offer(image(2)).until("upgrade_end_unanswered")


def offers_of_nothing_and_of_an_older_image() -> Trace:
    return Trace(factory=2).offer(b"no image").offer(image(1)).until("offer_refused")


def an_offer_of_what_runs() -> Trace:
    trace = Trace()
    trace.world.set_hub(CarelessServer(image(1), size=len(image(1))), HUB)
    return trace.until("offer_ignored")


def a_restart_in_a_download() -> Trace:
    trace = Trace().offer(image(2, size=40_000))
    assert trace.world.run_until(lambda: trace.medium.bytes_written > 30_000, HOUR_MS)
    return trace.tell(RebootRequested()).until("download_kept")


def a_full_disk() -> Trace:
    trace = Trace().offer(image(2, size=40_000)).until("download_started")
    trace.medium.full = True
    return trace.until("download_paused")


def an_operator_with_an_image() -> Trace:
    return Trace().tell(LoadImage(image(2), activate=False))


def a_hub_that_goes_away() -> Trace:
    trace = Trace().until("server_found")
    trace.world.air = Air(loss=100)
    return trace.until("server_lost")


def frames_and_messages_that_are_none() -> Trace:
    trace = Trace().until("tunnel_opened").hear(ota.CLUSTER, ota.IMAGE_NOTIFY, b"")
    other = tunneling.RequestTunnel(99, 0xFFFF, False, 1500)
    body = tunneling.encode_request_tunnel(other)
    trace.hear(tunneling.CLUSTER, tunneling.TO_SERVER_REQUEST_TUNNEL, body)
    trace.world.tell_head_end(MessageArrived(b"no message"))
    return trace


def tunnels_that_end() -> Trace:
    trace = Trace().until("tunnel_opened")

    def tunnel_id() -> int:
        opened = [note for _, _, note in trace.world.notes if note.name == "tunnel_opened"]
        number = opened[-1].fields["tunnel_id"]
        assert isinstance(number, int)
        return number

    closing = tunneling.encode_tunnel_id(tunnel_id())
    trace.hear(tunneling.CLUSTER, tunneling.TO_SERVER_CLOSE_TUNNEL, closing)
    trace.restart().world.run_for(1_000)  # the hub opens another one
    error = tunneling.TransferDataError(tunnel_id(), tunneling.ERROR_NO_SUCH_TUNNEL)
    body = tunneling.encode_transfer_data_error(error)
    trace.hear(tunneling.CLUSTER, tunneling.TO_SERVER_TRANSFER_DATA_ERROR, body)
    return trace.restart().until("tunnel_expired", 8 * 24 * HOUR_MS)


def a_command_of_a_stranger() -> Trace:
    trace = Trace().until("tunnel_opened")
    stranger = HeadEnd(ACB, STRANGERS, first_counter=1)
    trace.world.set_hub(trace.hub, HUB, stranger)
    trace.world.tell_head_end(ReadVersion("read", SUPPLIER, 7, PPMID))
    return trace.until("command_refused")


def a_date_and_its_cancellation() -> Trace:
    trace = Trace(settings=HCALCS).until("tunnel_opened")
    for counter, executes_at in ((1, 900_000_000), (2, None)):
        request = fm.ActivateFirmware(bytes(32), counter, executes_at, cancels=executes_at is None)
        header = GroupingHeader(Cra.COMMAND, counter, SUPPLIER, PPMID, fm.CS06_ACTIVATE_FIRMWARE)
        payload, key = fm.encode_cs06_command(request), KEYS.signing_key(SUPPLIER)
        message = seal_critical(header, payload, key, KEYS, ACB, PPMID)
        trace.world.tell_hub(CarryMessage(PPMID, message))
    return trace.until("activation_cancelled")


def an_esme_with_more_than_it_can_schedule() -> Trace:
    trace = Trace(settings=HCALCS).until("esme_found").schedule().until("load_event_reported")
    return trace.schedule(times=64).until("load_event_not_scheduled")


def an_esme_that_is_silent() -> Trace:
    trace = Trace(settings=HCALCS).until("esme_found").restart()
    trace.world.set_hub(Deaf(trace.hub), HUB)
    return trace.until("esme_lost")


def a_switch_that_the_firmware_broke() -> Trace:
    trace = Trace(settings=HCALCS, manifest={"switch_works": False})
    return trace.tell(SwitchRequested(closed=True)).until("switch_failed")


def an_alert_that_is_not_heard_and_then_lost() -> Trace:
    trace = Trace().offer(image(2)).until("message_queued")
    trace.tell(SendConfirmed(1, delivered=False))
    return trace.restart("outbox/0000000000000001").until("message_lost")


def an_alert_without_counters() -> Trace:
    trace = Trace().offer(image(2)).until("image_activated")
    trace.medium.ratchet = None
    return trace.restart("counter/own", "floor").until("message_withheld")


def a_running_bank_that_rots() -> Trace:
    return Trace().offer(image(2)).until("image_confirmed").spoil(BankId.B).restart()


def two_banks_that_rot() -> Trace:
    trace = Trace().spoil(BankId.A).restart()
    trace.factory = b"no image"
    return trace.spoil(*BankId).restart()


def a_database_that_was_salvaged() -> Trace:
    trace = Trace()
    trace.medium.records["lost"] = b""
    return trace.restart("boot", "boot~", "floor")


STORIES: dict[Callable[[], Trace], str] = {
    an_upgrade: "provisioned image_running server_found tunnel_opened image_query_answered "
    "image_notified image_offered download_started download_progress image_verified "
    "upgrade_end_sent activation_scheduled image_activated restarting self_test image_confirmed "
    "message_queued message_delivered device_announced command_accepted",
    a_hub_with_little_patience: "block_retried download_waiting download_aborted",
    a_hub_without_pages: "pages_given_up",
    an_image_that_fails_its_self_test: "image_reverted upgrade_failed",
    an_image_that_crashes: "image_crashed",
    a_hub_that_holds: "activation_held upgrade_kept",
    a_hub_that_does_not_answer_the_end: "upgrade_end_unanswered",
    offers_of_nothing_and_of_an_older_image: "image_discarded offer_refused",
    an_offer_of_what_runs: "offer_ignored",
    a_restart_in_a_download: "download_kept",
    a_full_disk: "download_paused",
    an_operator_with_an_image: "image_loaded",
    a_hub_that_goes_away: "server_lost",
    frames_and_messages_that_are_none: "frame_refused tunnel_refused message_malformed",
    tunnels_that_end: "tunnel_closed tunnel_lost tunnel_expired",
    a_command_of_a_stranger: "command_refused log_entry",
    an_esme_with_more_than_it_can_schedule: "esme_found load_event load_event_reported "
    "switch_moved load_event_not_scheduled",
    an_esme_that_is_silent: "esme_lost",
    a_switch_that_the_firmware_broke: "switch_failed",
    a_date_and_its_cancellation: "activation_pending activation_cancelled",
    an_alert_that_is_not_heard_and_then_lost: "message_undelivered message_lost",
    an_alert_without_counters: "counters_lost message_withheld",
    a_running_bank_that_rots: "bank_fault running_other_bank",
    two_banks_that_rot: "factory_image_restored nothing_to_run",
    a_database_that_was_salvaged: "records_lost boot_record_rebuilt record_lost",
}


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
def test_a_story_is_told_in_its_notifications(story: Callable[[], Trace]) -> None:
    seen = story().seen()
    assert set(STORIES[story].split()) <= seen
    assert seen <= NOTIFICATIONS.keys()


def test_every_notification_has_its_story() -> None:
    told = [name for names in STORIES.values() for name in names.split()]
    assert sorted(told) == sorted(NOTIFICATIONS)
