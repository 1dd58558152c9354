"""An HCALCS and its supplier in virtual time: receipt, CS06 in all its forms, and its outcomes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from home import ACB, HUB, KEYS, SETTINGS, SUPPLIER, Story, image

from firmware_node.boundary import CarryMessage, MessageChecked, RebootRequested, SetClock
from firmware_node.crypto import Keyring
from firmware_node.node.logs import Log
from firmware_node.rig.comms_hub import HubSettings
from firmware_node.sealing import seal_critical
from firmware_node.terms import DeviceSettings, DeviceType, EntityId, ImageFormat, Role
from firmware_node.tools.image import mutate
from firmware_node.tools.keys import PARTIES, Party, build_keys
from firmware_node.wire import firmware_messages as fm
from firmware_node.wire.gbcs import Cra, GroupingHeader, decode_message
from firmware_node.wire.manufacturer_image import Manifest
from firmware_node.wire.ota_file import decode_ota_file

HCALCS = EntityId.parse("00-DB-12-34-56-78-90-A5")
OTHER_SUPPLIER = EntityId.parse("90-B3-D5-1F-30-03-00-00")
UTC = 800_000_000
DAY = 24 * 3600
SIGNED = ImageFormat.GB_SUPPLIER_SIGNED
HCALCS_SETTINGS = replace(SETTINGS, type=DeviceType.HCALCS, entity_id=HCALCS)
TWO_SUPPLIERS = Keyring(
    build_keys(b"flows", parties=[*PARTIES, Party(OTHER_SUPPLIER, Role.SUPPLIER, "OTHER")])
)


def signed(version: int, change: Callable[[Manifest], Manifest] = lambda it: it) -> bytes:
    return image(version, kind=SIGNED, change=change)


def sha256_of(ota_file: bytes) -> bytes:
    span = decode_ota_file(ota_file).manufacturer_image
    return hashlib.sha256(ota_file[span.offset : span.end]).digest()


def alert_code_of(checked: MessageChecked) -> int | None:
    """Of any alert, by the codec of its message code."""
    message = decode_message(checked.message)
    header, payload = message.header, message.payload
    match header.message_code:
        case fm.CS06_ALERT:
            return fm.decode_cs06_alert(payload).alert_code
        case fm.RECEIPT_ALERT_GBZ:
            return fm.decode_receipt_alert_gbz(payload).alert_code
        case fm.RECEIPT_ALERT_DLMS:
            return fm.decode_receipt_alert_dlms(payload, header.originator_counter).alert_code
        case fm.GENERIC_CRITICAL_ALERT:
            return fm.decode_generic_alert_gbz(payload).alert_code
        case _:
            return checked.alert_code


class Supplied(Story):
    """A story with a device that a supplier commands."""

    def __init__(
        self,
        directory: Path,
        settings: DeviceSettings = HCALCS_SETTINGS,
        *,
        time_master: bool = True,
        keys: Keyring = KEYS,
    ) -> None:
        hub = HubSettings(HUB, ACB, utc=UTC, time_master=time_master)
        super().__init__(directory, hub=hub, settings=settings, keys=keys)
        self.counter = 1000

    def receive(self, ota_file: bytes) -> None:
        """The image arrives and is told of."""
        before = self.received_images()
        self.offer(ota_file)
        assert self.world.run_until(lambda: self.received_images() > before)
        self.world.run_for(1000)

    def received_images(self) -> int:
        return [alert_code_of(m) for m in self.messages()].count(fm.IMAGE_VERIFIED)

    def command(
        self,
        sha256: bytes,
        executes_at: int | None = None,
        *,
        cancels: bool = False,
        supplier: EntityId = SUPPLIER,
    ) -> bytes:
        """A CS06 command as the DCC sends it on."""
        self.counter += 1
        request = fm.ActivateFirmware(sha256, self.counter, executes_at, cancels)
        who = self.settings.entity_id
        header = GroupingHeader(Cra.COMMAND, self.counter, supplier, who, fm.CS06_ACTIVATE_FIRMWARE)
        return seal_critical(
            header,
            fm.encode_cs06_command(request),
            self.keys.signing_key(supplier),
            self.keys,
            ACB,
            who,
        )

    def send(self, message: bytes) -> None:
        self.world.tell_hub(CarryMessage(self.settings.entity_id, message))

    def until_alert(self, code: int, limit_ms: int = 7_200_000) -> bool:
        return self.world.run_until(
            lambda: any(alert_code_of(m) == code for m in self.messages()), limit_ms
        )

    def outcomes(self) -> list[tuple[str, int | None]]:
        """What CS06 was answered with: kind and code, None for accepted."""
        told: list[tuple[str, int | None]] = []
        for checked in self.messages():
            message = decode_message(checked.message)
            if message.header.message_code == fm.CS06_ACTIVATE_FIRMWARE:
                outcome = fm.decode_cs06_response(message.payload)
                assert len(message.header.date_time) == 12
                told.append(("response", None if outcome is None else outcome.response_code))
            elif message.header.message_code == fm.CS06_ALERT:
                alert = fm.decode_cs06_alert(message.payload)
                told.append(("alert", alert.outcome.response_code))
                good = alert.outcome.response_code == 0
                assert alert.alert_code == (
                    fm.FUTURE_DATED_DONE if good else fm.FUTURE_DATED_FAILED
                )
            else:
                continue
            assert checked.signature == "valid"
        return told

    def log_codes(self, log: Log) -> list[object]:
        return [entry["code"] for entry in self.device.log(log)]


@pytest.fixture
def story(tmp_path: Path) -> Supplied:
    return Supplied(tmp_path)


def test_an_image_that_the_supplier_signed_is_held_and_told_of_and_not_activated(
    story: Supplied,
) -> None:
    file = signed(2)
    story.receive(file)
    (alert,) = [m for m in story.messages() if alert_code_of(m) == fm.IMAGE_VERIFIED]
    message = decode_message(alert.message)
    assert (message.header.message_code, message.header.recipient) == (0x00CF, SUPPLIER)
    assert alert.signature == "valid"
    assert fm.decode_receipt_alert_gbz(message.payload).manufacturer_image_hash == sha256_of(file)
    story.world.run_for(48 * 3_600_000)
    assert story.bank_states() == ("confirmed", "verified")
    assert story.device.status(0)["upgrade"] == {
        "status": "waiting_to_upgrade_via_external_event",
        "file_offset": len(file),
        "total_size": len(file),
        "eta_seconds": None,
    }
    assert "8F72" in story.log_codes(Log.SECURITY)


@pytest.mark.parametrize(("kind", "code"), [(DeviceType.ESME, 0x00CE), (DeviceType.GSME, 0x00CF)])
def test_meters_take_the_same_way_with_receipt_alerts_of_their_own(
    tmp_path: Path, kind: DeviceType, code: int
) -> None:
    story = Supplied(tmp_path, replace(HCALCS_SETTINGS, type=kind))
    file = signed(2)
    story.receive(file)
    told = [decode_message(m.message).header.message_code for m in story.messages()]
    assert code in told
    story.send(story.command(sha256_of(file)))
    assert story.world.run_until(lambda: bool(story.outcomes()))
    assert story.outcomes() == [("response", 0)]
    assert story.versions() == ("B", "00000001", "00000002")


@pytest.mark.parametrize("kind", [SIGNED, ImageFormat.GB_PLAIN])
def test_an_image_without_the_supplier_s_good_signature_is_discarded_whole(
    story: Supplied, kind: ImageFormat
) -> None:
    file = image(2, kind=kind)
    if kind is SIGNED:
        file = file[:-1] + bytes((file[-1] ^ 1,))
    story.offer(file)
    assert story.until_alert(fm.IMAGE_NOT_VERIFIED)
    story.world.run_for(60_000)
    (alert,) = [m for m in story.messages() if alert_code_of(m) == fm.IMAGE_NOT_VERIFIED]
    receipt = fm.decode_receipt_alert_gbz(decode_message(alert.message).payload)
    assert receipt.manufacturer_image_hash == sha256_of(file)
    transfer = [m.fields["response_code"] for m in story.messages() if m.use_case == "CCS08"]
    assert transfer == [3]
    assert story.bank_states() == ("confirmed", "empty")
    story.send(story.command(sha256_of(file)))
    assert story.world.run_until(lambda: bool(story.outcomes()))
    assert story.outcomes() == [("response", 1)]
    assert story.log_codes(Log.SECURITY)[0] == "8F1C"


def test_an_immediate_command_activates_and_is_answered_when_the_image_is_confirmed(
    story: Supplied,
) -> None:
    file = signed(2)
    story.receive(file)
    story.send(story.command(sha256_of(file)))
    assert story.world.run_until(lambda: story.status()["state"] == "trial")
    assert story.outcomes() == []
    assert story.world.run_until(lambda: bool(story.outcomes()))
    assert story.outcomes() == [("response", 0)]
    response = decode_message(story.messages()[-1].message)
    outcome = fm.decode_cs06_response(response.payload)
    assert outcome == fm.ActivationOutcome(0, 2)
    assert (response.header.originator_counter, response.header.recipient) == (1001, SUPPLIER)
    assert story.versions() == ("B", "00000001", "00000002")
    assert story.bank_states() == ("confirmed", "confirmed")
    assert story.log_codes(Log.SECURITY) == ["8F72", "8F43"]
    assert story.log_codes(Log.EVENT) == ["8154"]


def test_the_same_command_a_second_time_is_a_replay_and_silence(story: Supplied) -> None:
    file = signed(2)
    story.receive(file)
    command = story.command(sha256_of(file))
    story.send(command)
    assert story.world.run_until(lambda: bool(story.outcomes()))
    story.receive(signed(3))
    story.send(command)
    story.world.run_for(60_000)
    assert story.outcomes() == [("response", 0)]
    assert story.log_codes(Log.SECURITY)[-1] == "8F60"
    assert story.bank_states() == ("verified", "confirmed")


def test_no_image_another_hash_and_a_failed_trial_are_each_answered_with_their_code(
    story: Supplied,
) -> None:
    bad = signed(2, lambda manifest: replace(manifest, self_test=False))
    story.send(story.command(bytes(32)))
    assert story.world.run_until(lambda: len(story.outcomes()) == 1)
    story.receive(bad)
    story.send(story.command(bytes(32)))
    assert story.world.run_until(lambda: len(story.outcomes()) == 2)
    assert story.bank_states() == ("confirmed", "verified")
    story.send(story.command(sha256_of(bad)))
    assert story.world.run_until(lambda: len(story.outcomes()) == 3)
    assert story.outcomes() == [("response", 1), ("response", 2), ("response", 3)]
    failed = fm.decode_cs06_response(decode_message(story.messages()[-1].message).payload)
    assert failed == fm.ActivationOutcome(3, 1)
    assert story.bank_states() == ("confirmed", "rejected")
    assert story.log_codes(Log.EVENT) == ["8155"] * 3


def test_an_image_below_the_rollback_floor_fails_to_activate(story: Supplied) -> None:
    newer, older = signed(3), signed(2)
    story.receive(newer)
    story.send(story.command(sha256_of(newer)))
    assert story.world.run_until(lambda: len(story.outcomes()) == 1)
    story.offer(older)
    story.world.run_for(3_600_000)
    assert story.versions() == ("B", "00000001", "00000003")
    story.send(story.command(sha256_of(older)))
    assert story.world.run_until(lambda: len(story.outcomes()) == 2)
    assert story.outcomes()[1] == ("response", 1)  # it was never taken


def test_a_future_dated_command_is_accepted_kept_through_restarts_and_executed_at_its_time(
    story: Supplied,
) -> None:
    file = signed(2)
    story.receive(file)
    story.send(story.command(sha256_of(file), UTC + 2 * DAY))
    assert story.world.run_until(lambda: bool(story.outcomes()))
    assert story.outcomes() == [("response", None)]
    assert story.bank_states() == ("confirmed", "pending")
    story.world.run_for(DAY * 1000)
    for _ in range(3):
        story.world.tell(story.home, RebootRequested())
        story.world.run_for(60_000)
    assert story.bank_states() == ("confirmed", "pending")
    assert story.until_alert(fm.FUTURE_DATED_DONE, 2 * DAY * 1000)
    assert abs(story.hub.utc(story.world.now_ms) - (UTC + 2 * DAY)) < 60
    assert story.outcomes() == [("response", None), ("alert", 0)]
    alert = fm.decode_cs06_alert(decode_message(story.messages()[-1].message).payload)
    assert (alert.executed_at, alert.originator_counter) == (UTC + 2 * DAY, 1001)
    assert alert.outcome == fm.ActivationOutcome(0, 2)
    assert story.bank_states() == ("confirmed", "confirmed")
    assert story.log_codes(Log.EVENT) == ["8F66"]


def test_a_future_dated_command_is_accepted_without_an_image_and_reports_that_at_its_time(
    story: Supplied,
) -> None:
    story.send(story.command(bytes(32), UTC + 600))
    assert story.until_alert(fm.FUTURE_DATED_FAILED)
    assert story.outcomes() == [("response", None), ("alert", 1)]


def test_a_second_date_takes_the_place_of_the_first(story: Supplied) -> None:
    file = signed(2)
    story.receive(file)
    story.send(story.command(sha256_of(file), UTC + 600))
    story.send(story.command(sha256_of(file), UTC + 3000))
    story.world.run_for(1_500_000)
    assert story.outcomes() == [("response", None)] * 2
    assert story.bank_states() == ("confirmed", "pending")
    assert story.until_alert(fm.FUTURE_DATED_DONE)
    story.world.run_for(DAY * 1000)
    assert story.outcomes() == [("response", None)] * 2 + [("alert", 0)]


def test_a_cancellation_clears_the_date_and_is_accepted_with_nothing_pending_too(
    story: Supplied,
) -> None:
    file = signed(2)
    story.receive(file)
    story.send(story.command(sha256_of(file), cancels=True))
    story.send(story.command(sha256_of(file), UTC + 600))
    story.send(story.command(sha256_of(file), cancels=True))
    story.world.run_for(DAY * 1000)
    assert story.outcomes() == [("response", None)] * 3
    assert story.bank_states() == ("confirmed", "verified")
    assert story.status()["pending_activation"] is None


def test_a_time_that_has_passed_is_accepted_and_executed_at_once_with_an_alert(
    story: Supplied,
) -> None:
    file = signed(2)
    story.receive(file)
    story.send(story.command(sha256_of(file), UTC - 10))
    assert story.until_alert(fm.FUTURE_DATED_DONE, 60_000)
    assert story.outcomes() == [("response", None), ("alert", 0)]
    assert story.bank_states() == ("confirmed", "confirmed")


def test_an_immediate_command_leaves_the_date_that_then_finds_no_image(story: Supplied) -> None:
    file = signed(2)
    story.receive(file)
    story.send(story.command(sha256_of(file), UTC + 3000))
    story.send(story.command(sha256_of(file)))
    assert story.until_alert(fm.FUTURE_DATED_FAILED)
    assert story.outcomes() == [("response", None), ("response", 0), ("alert", 1)]
    assert story.versions()[0] == "B"


def test_an_image_that_replaces_the_dated_one_does_not_match_its_hash(story: Supplied) -> None:
    file = signed(2)
    story.receive(file)
    story.send(story.command(sha256_of(file), UTC + DAY))
    story.receive(signed(3))
    assert story.bank_states() == ("confirmed", "verified")
    assert story.until_alert(fm.FUTURE_DATED_FAILED, 2 * DAY * 1000)
    assert story.outcomes()[-1] == ("alert", 2)
    assert story.versions() == ("A", "00000001", "00000003")


def test_a_time_that_passed_while_the_device_was_off_is_executed_late(story: Supplied) -> None:
    file = signed(2)
    story.receive(file)
    story.send(story.command(sha256_of(file), UTC + 600))
    story.world.run_for(10_000)
    story.world.power_off(story.home)
    story.world.run_for(3_600_000)
    story.world.restart(story.home)
    assert story.until_alert(fm.FUTURE_DATED_DONE, 60_000)
    assert story.outcomes() == [("response", None), ("alert", 0)]


def test_without_a_trustworthy_time_the_date_waits(tmp_path: Path) -> None:
    story = Supplied(tmp_path, time_master=False)
    file = signed(2)
    story.receive(file)
    story.send(story.command(sha256_of(file), UTC + 600))
    story.world.run_for(DAY * 1000)
    assert story.outcomes() == [("response", None)]
    assert story.bank_states() == ("confirmed", "pending")


def test_the_hub_s_clock_drives_the_date_forwards_and_back(story: Supplied) -> None:
    file = signed(2)
    story.receive(file)
    story.send(story.command(sha256_of(file), UTC + 10 * DAY))
    story.world.run_for(10_000)
    story.world.tell_hub(SetClock(UTC + 9 * DAY))
    story.world.run_for(120_000)
    story.world.tell_hub(SetClock(UTC))
    story.world.run_for(2 * DAY * 1000)
    assert story.bank_states() == ("confirmed", "pending")
    story.world.tell_hub(SetClock(UTC + 10 * DAY))
    assert story.until_alert(fm.FUTURE_DATED_DONE, 180_000)
    assert story.outcomes() == [("response", None), ("alert", 0)]


def test_only_the_supplier_that_signed_the_image_may_activate_it(tmp_path: Path) -> None:
    story = Supplied(tmp_path, keys=TWO_SUPPLIERS)
    file = signed(2)
    story.receive(file)
    story.send(story.command(sha256_of(file), supplier=OTHER_SUPPLIER))
    assert story.world.run_until(lambda: bool(story.outcomes()))
    assert story.outcomes() == [("response", 1)]
    assert story.bank_states() == ("confirmed", "verified")


def test_a_configured_supplier_is_the_only_one_that_is_known(tmp_path: Path) -> None:
    settings = replace(HCALCS_SETTINGS, supplier=SUPPLIER)
    story = Supplied(tmp_path, settings, keys=TWO_SUPPLIERS)
    story.receive(signed(2))
    story.send(story.command(bytes(32), supplier=OTHER_SUPPLIER))
    story.world.run_for(60_000)
    assert story.outcomes() == []
    assert story.log_codes(Log.SECURITY)[-1] == "8F53"


def test_a_ppmid_knows_no_cs06(tmp_path: Path) -> None:
    story = Supplied(tmp_path, SETTINGS)
    story.world.run_for(1000)
    story.send(story.command(bytes(32)))
    story.world.run_for(60_000)
    assert story.outcomes() == []
    assert story.log_codes(Log.SECURITY) == ["8F1E"]


def test_an_hcalcs_is_not_activated_by_its_ota_server(tmp_path: Path) -> None:
    """A hub that takes it for a PPMID names a time; the device refuses it (supplement 10.1)."""
    story = Supplied(tmp_path)
    story.receive(signed(2))
    story.world.perform(story.hub.activate(HCALCS, story.world.now_ms))
    story.world.run_for(DAY * 1000)
    assert story.bank_states() == ("confirmed", "verified")
    assert "frame_refused" in story.names()


def test_an_image_spoilt_after_its_receipt_is_another_hash_at_activation(
    story: Supplied,
) -> None:
    file = signed(2)
    story.receive(file)
    path = story.directory / "state" / "bank_b.img"
    with path.open("r+b") as bank:
        bank.seek(2000)
        bank.write(b"\xff\xff\xff")
    story.send(story.command(sha256_of(file)))
    assert story.world.run_until(lambda: bool(story.outcomes()))
    assert story.outcomes() == [("response", 2)]
    assert story.versions()[0] == "A"


def test_the_mutations_of_an_image_are_refused_by_an_hcalcs_too(tmp_path: Path) -> None:
    story = Supplied(tmp_path)
    story.offer(mutate(signed(2), "flipped-bit"))
    assert story.until_alert(fm.IMAGE_NOT_VERIFIED)
    assert story.bank_states()[0] == "confirmed"
    assert story.versions()[0] == "A"
