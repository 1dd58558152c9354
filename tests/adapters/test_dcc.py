"""The DCC's side of each service request: what is done, waited for, told, and how it ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lxml import etree
from vectors import VECTORS, needs_vectors

from firmware_node.adapters.dcc import Dcc
from firmware_node.adapters.dcc_exchange import Exchange
from firmware_node.boundary import (
    CarryMessage,
    Delivered,
    MessageArrived,
    MessageChecked,
    OfferImage,
)
from firmware_node.config import DccSection, InventoryEntry
from firmware_node.crypto import Keyring
from firmware_node.errors import ConfigError
from firmware_node.rig.head_end import HeadEnd
from firmware_node.sealing import seal_maced, seal_signed
from firmware_node.terms import EntityId, ImageFormat, ImageKey
from firmware_node.tools import duis
from firmware_node.tools.decode_input import parts_of
from firmware_node.tools.image import build_image
from firmware_node.tools.keys import build_keys
from firmware_node.wire import firmware_messages as fm
from firmware_node.wire.gbcs import Cra, GroupingHeader, decode_message
from firmware_node.wire.manufacturer_image import Manifest

FILES = build_keys(b"dcc")
KEYS = Keyring(FILES)
HUB = EntityId.parse("00db1234567890a2")
PPMID = EntityId.parse("00db1234567890a4")
HCALCS = EntityId.parse("00db1234567890a5")
STRANGER = EntityId.parse("00db1234567890ff")
BROKER = EntityId.parse("90b3d51f30000002")
SUPPLIER = EntityId.parse("90b3d51f30010000")
OPERATOR = EntityId.parse("90b3d51f30020000")
UTC = 800_000_000
KEY = ImageKey(0x121D, 0x0084, 2)
PLAIN = build_image(Manifest(KEY, 0, 0xFFFF), size=2000)
SIGNED = build_image(
    Manifest(KEY, 0, 0xFFFF),
    size=2000,
    kind=ImageFormat.GB_SUPPLIER_SIGNED,
    supplier_key=KEYS.signing_key(SUPPLIER),
)
HASH = bytes(range(32))


def without(*names: str) -> Keyring:
    """Everybody's keys but the files with one of these in their name."""
    return Keyring({n: d for n, d in FILES.items() if not any(name in n for name in names)})


class Desk:
    """A DCC with its head end; the hub and the devices are played by the test."""

    def __init__(
        self,
        section: DccSection | None = None,
        keyring: Keyring = KEYS,
        present: Sequence[EntityId] = (PPMID, HCALCS),
    ) -> None:
        self.utc = UTC
        self.dcc = Dcc(
            section or DccSection(),
            keyring,
            BROKER,
            HUB,
            first_counter=5000,
            utc=lambda: self.utc,
            is_present=lambda device: device in present,
        )
        self.head_end = HeadEnd(BROKER, keyring, first_counter=5000)
        self.sent: list[bytes] = []

    def post(self, body: bytes, to: str | None = None) -> Case:
        """Take a request as the hub daemon does."""
        exchange = self.dcc.take(body, to)
        case = Case(self, exchange, exchange.begin())
        if exchange.order.item is not None:
            for effect in self.head_end.step(exchange.order.item, 0):
                assert isinstance(effect, CarryMessage)
                case.documents += exchange.take_command(effect)
                if exchange.order.sends:
                    self.sent.append(effect.message)
        return case

    def check(self, message: bytes) -> MessageChecked:
        (effect,) = self.head_end.step(MessageArrived(message), 0)
        assert isinstance(effect, MessageChecked)
        return effect


class Case:
    """One exchange and everything it told the user."""

    def __init__(self, desk: Desk, exchange: Exchange, documents: list[dict[str, Any]]) -> None:
        self.desk, self.exchange, self.documents = desk, exchange, documents

    @property
    def head(self) -> dict[str, Any]:
        return self.exchange.head

    def deliver(self, device: EntityId, status: str) -> None:
        effect = Delivered(self.request_id_of_hub(), device, status)
        self.desk.dcc.note(effect)
        self.documents += self.exchange.take_delivery(effect)

    def request_id_of_hub(self) -> str:
        """The hub names the request of an offer alone."""
        item = self.exchange.order.item
        return item.request_id if isinstance(item, OfferImage) else ""

    def arrive(self, message: bytes) -> None:
        self.documents += self.exchange.take_message(self.desk.check(message))

    def end(self, waited: bool = True) -> str:
        self.documents += self.exchange.end(waited)
        return str(self.documents[-1]["result"])

    def done(self) -> bool:
        return self.exchange.done

    def names(self) -> list[str]:
        """The DUIS documents, by name."""
        return [entry["response"]["name"] for entry in self.documents if "response" in entry]

    def codes(self) -> list[str]:
        return [entry["response"]["code"] for entry in self.documents if "response" in entry]

    def xml(self, name: str) -> dict[str, str]:
        """The leaves of the last document of this name."""
        (*_, found) = [
            entry["response"]["xml"]
            for entry in self.documents
            if "response" in entry and entry["response"]["name"] == name
        ]
        root = etree.fromstring(found.encode())
        return {
            etree.QName(leaf).localname: leaf.text or ""
            for leaf in root.iter("*")
            if not len(leaf) and "xmldsig" not in str(leaf.tag)
        }


def update(
    reference: str = "11.4",
    *devices: EntityId,
    image: bytes | None = None,
    counter: int = 1000,
    user: EntityId = SUPPLIER,
    target: EntityId = BROKER,
) -> bytes:
    file = (SIGNED if reference == "11.1" else PLAIN) if image is None else image
    return duis.build_update_request(
        reference,
        user,
        target,
        counter,
        KEYS,
        image=file,
        firmware_version="00000002",
        devices=devices or (PPMID,),
    )


def activate(counter: int = 1000, *, at: int | None = None, cancels: bool = False) -> bytes:
    return duis.build_activate_request(
        SUPPLIER,
        HCALCS,
        counter,
        KEYS,
        manufacturer_image_hash=HASH,
        executes_at=at,
        cancels=cancels,
    )


def alert(device: EntityId, recipient: EntityId, code: int, payload: bytes) -> bytes:
    header = GroupingHeader(Cra.ALERT, 77, device, recipient, code)
    return seal_signed(header, payload, KEYS.signing_key(device))


def transfer(device: EntityId, code: int = 0) -> bytes:
    """CCS08 from the hub."""
    of = fm.TRANSFER_FAILURE if code else fm.TRANSFER_SUCCESS
    payload = fm.encode_ccs08_alert(fm.FirmwareTransferAlert(of, UTC, device, 2, code))
    return alert(HUB, BROKER, fm.CCS08_FIRMWARE_TRANSFER, payload)


def activation(result: int = 0) -> bytes:
    """CS09 from the PPMID."""
    value = fm.ActivationAlert(fm.PPMID_ACTIVATION, UTC, 2, result)
    return alert(PPMID, BROKER, fm.CS09_ACTIVATION_ALERT, fm.encode_cs09_alert(value))


def receipt(code: int = fm.IMAGE_VERIFIED, device: EntityId = HCALCS) -> bytes:
    payload = fm.encode_receipt_alert_gbz(fm.ReceiptAlert(code, UTC, HASH))
    return alert(device, SUPPLIER, fm.RECEIPT_ALERT_GBZ, payload)


def cs06_response(counter: int, outcome: fm.ActivationOutcome | None) -> bytes:
    header = GroupingHeader(Cra.RESPONSE, counter, HCALCS, SUPPLIER, fm.CS06_ACTIVATE_FIRMWARE)
    payload = fm.encode_cs06_response(outcome)
    return seal_signed(header, payload, KEYS.signing_key(HCALCS))


def cs06_alert(counter: int, code: int = fm.FUTURE_DATED_DONE, response_code: int = 0) -> bytes:
    outcome = fm.ActivationOutcome(response_code, 2)
    value = fm.ActivationOutcomeAlert(code, UTC, counter, outcome)
    return alert(HCALCS, SUPPLIER, fm.CS06_ALERT, fm.encode_cs06_alert(value))


def cs08_response(command: bytes, response_code: int = 0) -> bytes:
    asked = decode_message(command).header
    header = replace(
        asked, cra=Cra.RESPONSE, originator=asked.recipient, recipient=asked.originator
    )
    payload = fm.encode_cs08_response(fm.ReadVersionResponse(2, response_code))
    return seal_maced(header, payload, KEYS, own=header.originator, peer=BROKER)


# --- SR 11.4 --------------------------------------------------------------------------------------


def test_a_ppmid_update_is_complete_with_transfer_and_activation() -> None:
    case = Desk().post(update())
    item = case.exchange.order.item
    assert isinstance(item, OfferImage)
    assert (item.devices, item.out_of_band, item.ota_file) == ((PPMID,), False, PLAIN)
    case.deliver(PPMID, "offered")
    case.arrive(transfer(PPMID))
    assert not case.done()
    case.arrive(activation())
    assert case.done()
    assert case.end() == "ok"
    assert case.names() == [
        "acknowledgement",
        "DCC alert N60 CSPFirmwareDeliveryStatus",
        "DCC alert N62 CommsHubAlert",
        "DCC alert N63 PPMIDAlert",
    ]
    assert case.head["warnings"] == []
    assert case.head["request_signature"] == "valid"


def test_the_alerts_of_an_update_tell_request_device_version_and_result() -> None:
    case = Desk().post(update())
    case.deliver(PPMID, "offered")
    case.arrive(transfer(PPMID))
    case.arrive(activation())
    request_id = f"{SUPPLIER}:{BROKER}:1000"
    status = case.xml("DCC alert N60 CSPFirmwareDeliveryStatus")
    assert status["UpdateFirmwareRequestID"] == request_id
    assert (status["CommsHubDeviceID"], status["TargetDeviceID"]) == (str(HUB), str(PPMID))
    assert (status["FirmwareVersion"], status["CommsHubTransferStatus"]) == ("00000002", "Success")
    hub = case.xml("DCC alert N62 CommsHubAlert")
    assert (hub["AlertCode"], hub["TransferResponseCode"]) == ("8F8A", "FileTransferSuccess")
    assert (hub["UpdateFirmwareRequestID"], hub["OtherDeviceID"]) == (request_id, str(PPMID))
    assert hub["TimeStamp"] == "2025-05-08T06:13:20Z"
    ppmid = case.xml("DCC alert N63 PPMIDAlert")
    assert (ppmid["DeviceID"], ppmid["DeviceAlertCode"]) == (str(PPMID), "8F8B")
    assert ppmid["ActivateImageResultCode"] == "ActivationSuccess"
    assert ppmid["ResponseID"].startswith(f"{BROKER}:{SUPPLIER}:")


def test_an_activation_that_failed_is_a_no() -> None:
    case = Desk().post(update())
    case.arrive(transfer(PPMID))
    case.arrive(activation(1))
    assert case.done()
    assert case.xml("DCC alert N63 PPMIDAlert")["ActivateImageResultCode"] == "ActivationFailure"
    assert case.end() == "failed"


@pytest.mark.parametrize(
    ("code", "name"),
    [(1, "FirmwareImageDiscarded"), (2, "HardwareVersionMismatch"), (3, "FileTransferFailure")],
)
def test_a_transfer_that_failed_ends_the_wait_for_a_ppmid(code: int, name: str) -> None:
    case = Desk().post(update())
    case.arrive(transfer(PPMID, code))
    assert case.done()
    assert case.xml("DCC alert N62 CommsHubAlert")["TransferResponseCode"] == name
    assert case.end() == "failed"


def test_every_device_of_the_list_is_waited_for() -> None:
    case = Desk().post(update("11.1", PPMID, HCALCS))
    case.arrive(transfer(PPMID, 2))
    case.arrive(transfer(HCALCS))
    assert not case.done()
    case.arrive(receipt())
    assert case.done()
    assert case.end() == "failed"  # one of them said no


def test_a_device_that_speaks_as_the_hub_answers_nothing() -> None:
    case = Desk().post(update())
    success = fm.FirmwareTransferAlert(fm.TRANSFER_SUCCESS, UTC, PPMID, 2, 0)
    payload = fm.encode_ccs08_alert(success)
    case.arrive(alert(PPMID, BROKER, fm.CCS08_FIRMWARE_TRANSFER, payload))
    case.arrive(activation())
    assert not case.done()
    assert case.end() == "failed"


def test_without_waiting_the_request_is_accepted() -> None:
    case = Desk().post(update())
    case.deliver(PPMID, "offered")
    assert case.end(waited=False) == "accepted"


def test_what_did_not_come_in_time_is_a_failure() -> None:
    case = Desk().post(update())
    case.arrive(transfer(PPMID))
    assert case.end() == "failed"


# --- SR 11.1 --------------------------------------------------------------------------------------


def test_an_update_of_a_switch_is_held_and_complete_with_its_receipt() -> None:
    case = Desk().post(update("11.1", HCALCS))
    item = case.exchange.order.item
    assert isinstance(item, OfferImage)
    assert item.out_of_band
    case.arrive(receipt())  # in either order
    case.arrive(transfer(HCALCS))
    assert case.done()
    assert case.end() == "ok"
    told = case.xml("device alert 8F72")
    assert told["ResponseID"] == f"{HCALCS}:{SUPPLIER}:77"
    assert told["AlertCode"] == "8F72"


@pytest.mark.parametrize("first", ["transfer", "receipt"])
def test_after_a_failure_its_other_alert_is_only_a_straggler(first: str) -> None:
    case = Desk().post(update("11.1", HCALCS))
    messages = {"transfer": transfer(HCALCS, 3), "receipt": receipt(fm.IMAGE_NOT_VERIFIED)}
    case.arrive(messages.pop(first))
    assert not case.done()
    assert case.exchange.only_stragglers
    case.arrive(*messages.values())
    assert case.done()
    assert case.end() == "failed"


@pytest.mark.parametrize("code", [1, 2])
def test_an_image_that_never_left_the_hub_earns_no_receipt(code: int) -> None:
    case = Desk().post(update("11.1", HCALCS))
    case.arrive(transfer(HCALCS, code))
    assert case.done()
    assert case.end() == "failed"


def test_a_device_that_never_came_is_told_of_as_not_delivered() -> None:
    case = Desk().post(update("11.1", HCALCS))
    case.deliver(HCALCS, "unknown_device")
    assert case.names() == ["acknowledgement"]
    case.arrive(transfer(HCALCS, 3))
    case.deliver(HCALCS, "transfer_failed")
    assert case.names()[-1] == "DCC alert N61 CSPFirmwareDeliveryStatus"
    status = case.xml("DCC alert N61 CSPFirmwareDeliveryStatus")
    assert status["CommsHubTransferStatus"] == "Failure"
    assert case.exchange.only_stragglers
    assert case.end() == "failed"


def test_delivery_is_told_once_for_each_device() -> None:
    case = Desk().post(update("11.1", HCALCS, PPMID))
    for status in ("unknown_device", "offered", "downloading", "transferred"):
        case.deliver(HCALCS, status)
    case.deliver(PPMID, "offered")
    case.deliver(STRANGER, "offered")
    assert case.names().count("DCC alert N60 CSPFirmwareDeliveryStatus") == 2
    deliveries = [entry["delivery"] for entry in case.documents if "delivery" in entry]
    assert len(deliveries) == 5


# --- SR 11.2 --------------------------------------------------------------------------------------


def read(device: EntityId = HCALCS, counter: int = 1000) -> bytes:
    return duis.build_read_version_request(SUPPLIER, device, counter, KEYS)


@pytest.mark.parametrize("device", [PPMID, HCALCS])
def test_a_version_is_read_from_either_kind(device: EntityId) -> None:
    desk = Desk()
    case = desk.post(read(device))
    case.arrive(cs08_response(desk.sent[0]))
    assert case.done()
    assert case.end() == "ok"
    response = case.xml("response GBCSPayload")
    assert response["RequestID"] == f"{SUPPLIER}:{device}:1000"
    assert response["ResponseID"] == f"{device}:{SUPPLIER}:1000"
    assert response["ServiceReference"] == "11.2"


def test_a_read_failure_is_a_no() -> None:
    desk = Desk()
    case = desk.post(read())
    case.arrive(cs08_response(desk.sent[0], 1))
    assert case.done()
    assert case.end() == "failed"


def test_the_answer_to_another_reading_is_not_ours() -> None:
    desk = Desk()
    first, second = desk.post(read(counter=1000)), desk.post(read(counter=1001))
    message = cs08_response(desk.sent[0])
    second.arrive(message)
    assert not second.done()
    assert not [entry for entry in second.documents if "message" in entry]
    first.arrive(message)
    assert first.done()


def test_no_answer_and_no_way_have_codes_of_their_own() -> None:
    silent = Desk().post(read())
    assert silent.end() == "failed"
    assert silent.codes() == ["I99", "E21"]
    lost = Desk().post(read())
    lost.deliver(HCALCS, "no_route")
    assert lost.done()
    assert lost.end() == "failed"
    assert lost.codes() == ["I99", "E20"]


def test_an_answer_with_a_wrong_mac_is_shown_and_a_no() -> None:
    desk = Desk()
    case = desk.post(read())
    message = bytearray(cs08_response(desk.sent[0]))
    message[-1] ^= 1
    case.arrive(bytes(message))
    assert case.done()
    assert case.end() == "failed"
    (shown,) = [entry["message"] for entry in case.documents if "message" in entry]
    assert (shown["mac"], shown["hex"]) == ("invalid", message.hex())


@pytest.mark.parametrize(("variant", "sends"), [(1, True), (2, False), (3, True)])
def test_command_variants_say_whether_a_command_is_sent_or_returned(
    variant: int, sends: bool
) -> None:
    keys = without("-ds.pem", f"{SUPPLIER.hex}-ds")  # the signature no longer fits
    body = read().replace(b"Variant>1<", b"Variant>%d<" % variant, 1)
    desk = Desk(keyring=keys)
    case = desk.post(body)
    assert bool(desk.sent) is sends
    assert ("response LocalCommand" in case.names()) is (variant != 1)
    assert case.done() is (variant == 2)
    if variant != 1:
        assert [entry for entry in case.documents if "local_command" in entry]
        xml = [entry["response"]["xml"] for entry in case.documents if "response" in entry][-1]
        command = decode_message(parts_of(xml.encode())[0].octets)
        assert command.header.message_code == fm.CS08_READ_VERSION


# --- SR 11.3 --------------------------------------------------------------------------------------


def signed_request(desk: Desk, request: bytes, user_keys: Keyring = KEYS) -> bytes:
    """What the User makes of the Pre-Command that the DCC returns."""
    case = desk.post(request)
    assert case.done()  # nothing is sent for it
    asked = duis.parse_request(request)
    (found,) = [entry["pre_command"] for entry in case.documents if "pre_command" in entry]
    signed = duis.sign_pre_command(asked, bytes.fromhex(found), user_keys)
    return duis.build_signed_pre_command_request(asked, signed, KEYS)


def test_a_request_to_transform_gives_the_pre_command_and_sends_nothing() -> None:
    desk = Desk()
    case = desk.post(activate())
    assert desk.sent == []
    assert case.names() == ["response PreCommand"]
    assert case.head["response_code"] == "I0"
    xml = case.xml("response PreCommand")
    assert xml["GBCSVersion"] == "4.1"
    (found,) = [entry["pre_command"] for entry in case.documents if "pre_command" in entry]
    assert bytes.fromhex(found) == case.exchange.pre_command
    assert case.end() == "ok"


def test_an_immediate_activation_is_complete_with_its_outcome() -> None:
    desk = Desk()
    case = desk.post(signed_request(desk, activate()))
    command = decode_message(desk.sent[0])
    assert (command.header.originator, command.header.originator_counter) == (SUPPLIER, 1000)
    assert case.head["warnings"] == []
    case.arrive(cs06_response(1000, fm.ActivationOutcome(0, 2)))
    assert case.done()
    assert case.end() == "ok"
    assert case.names() == ["acknowledgement", "response GBCSPayload"]


@pytest.mark.parametrize("code", [1, 2, 3])
def test_an_activation_that_the_device_refuses_is_a_no(code: int) -> None:
    desk = Desk()
    case = desk.post(signed_request(desk, activate()))
    case.arrive(cs06_response(1000, fm.ActivationOutcome(code, 1)))
    assert case.done()
    assert case.end() == "failed"


@pytest.mark.parametrize(
    ("code", "response_code", "result"),
    [(fm.FUTURE_DATED_DONE, 0, "ok"), (fm.FUTURE_DATED_FAILED, 2, "failed")],
)
def test_a_future_dated_activation_is_complete_with_its_alert(
    code: int, response_code: int, result: str
) -> None:
    desk = Desk()
    case = desk.post(signed_request(desk, activate(at=UTC + 1000)))
    assert case.exchange.patience_s() == 3600 + 1000
    desk.utc += 400
    assert case.exchange.patience_s() == 3600 + 600
    case.arrive(cs06_response(1000, None))
    assert not case.done()
    case.arrive(cs06_alert(999))  # of an older one
    assert not case.done()
    case.arrive(cs06_alert(1000, code, response_code))
    assert case.done()
    assert case.end() == result
    told = case.xml("response FutureDatedDeviceAlertMessage")
    assert told["FutureDatedAlertCode"] == f"{code:04X}"
    assert told["RequestID"] == f"{SUPPLIER}:{HCALCS}:1000"
    assert (told["InstructionNumber"], told["TotalCommandInstructions"]) == ("1", "1")


def test_a_future_dated_activation_that_is_refused_at_once_has_no_alert() -> None:
    desk = Desk()
    case = desk.post(signed_request(desk, activate(at=UTC + 1000)))
    case.arrive(cs06_response(1000, fm.ActivationOutcome(3, 1)))
    assert case.done()
    assert case.end() == "failed"


def test_without_waiting_an_accepted_activation_is_accepted() -> None:
    desk = Desk()
    case = desk.post(signed_request(desk, activate(at=UTC + 1000)))
    case.arrive(cs06_response(1000, None))
    assert case.end(waited=False) == "accepted"


def test_a_cancellation_is_complete_when_it_is_accepted() -> None:
    desk = Desk()
    case = desk.post(signed_request(desk, activate(cancels=True)))
    case.arrive(cs06_response(1000, None))
    assert case.done()
    assert case.end() == "ok"


def test_the_dcc_goes_on_as_the_user_whose_key_it_has() -> None:
    desk = Desk()
    request = activate()
    body = desk.dcc.go_on(desk.post(request).exchange, request)
    assert body is not None
    assert duis.signature_state(body, KEYS) == "valid"
    desk.post(body)
    assert len(desk.sent) == 1
    for name in (f"{SUPPLIER.hex}-ds.key", f"{SUPPLIER.hex}-ds.pem"):
        poor = Desk(keyring=without(name))
        assert poor.dcc.go_on(poor.post(request).exchange, request) is None


def test_a_pre_command_signed_by_another_is_told_of_or_refused() -> None:
    forger = Keyring(build_keys(b"forger"))
    desk = Desk()
    body = signed_request(desk, activate(), forger)
    case = desk.post(body)
    assert case.head["warnings"] == ["signature of the signed Pre-Command: invalid"]
    assert len(desk.sent) == 1
    strict = Desk(DccSection(request_signature="require"))
    case = strict.post(signed_request(strict, activate(), forger))
    assert strict.sent == []
    assert "signed Pre-Command: invalid" in case.head["error"]
    assert case.end() == "failed"


def test_a_signed_pre_command_may_be_returned_for_local_delivery() -> None:
    desk = Desk()
    request = activate()
    asked = duis.parse_request(request)
    signed = duis.sign_pre_command(asked, duis.transform(asked), KEYS)
    for variant, sent in ((6, 0), (7, 1)):
        body = duis.build_signed_pre_command_request(asked, signed, KEYS, variant)
        case = desk.post(body)
        assert "response LocalCommand" in case.names()
        assert len(desk.sent) == sent
        assert case.done() is (variant == 6)


# --- rules ----------------------------------------------------------------------------------------


@needs_vectors
def test_a_placeholder_signature_is_told_of_and_refused_where_one_is_required() -> None:
    body = (VECTORS / "duis" / "11.4_UPDATE_PPMID_FIRMWARE_REQUEST_DUIS.XML").read_bytes()
    case = Desk().post(body)
    assert case.head["request_signature"] == "placeholder"
    assert case.head["warnings"] == [
        "request signature: placeholder",
        "FirmwareVersion 00000000 differs from the OTA header's acdcacdc, which counts",
    ]
    refused = Desk(DccSection(request_signature="require")).post(body)
    assert refused.exchange.order.item is None
    assert refused.codes() == ["E100"]
    assert refused.end(waited=False) == "failed"


@pytest.mark.parametrize(
    ("bodies", "says", "code"),
    [
        ([update(user=OPERATOR)], "is no supplier", "E2"),
        ([update(target=SUPPLIER)], "goes to 90-B3-D5-1F-30-00-00-02", "E100"),
        ([update(), update()], "counter 1000 is not above 1000", "E100"),
        ([update(counter=1001), read(counter=1000)], "counter 1000 is not above 1001", "E100"),
    ],
)
def test_a_broken_rule_is_told_of_and_refused_where_rules_are_required(
    bodies: list[bytes], says: str, code: str
) -> None:
    desk, strict = Desk(), Desk(DccSection(request_rules="require"))
    for body in bodies[:-1]:
        desk.post(body)
        strict.post(body)
    case = desk.post(bodies[-1])
    assert [says in warning for warning in case.head["warnings"]][:1] == [True]
    assert case.exchange.order.item is not None
    refused = strict.post(bodies[-1])
    assert says in refused.head["error"]
    assert refused.codes() == [code]
    assert refused.exchange.order.item is None
    assert refused.end() == "failed"


def test_a_refused_request_moves_no_counter() -> None:
    strict = Desk(DccSection(request_signature="require", request_rules="require"))
    forged = read(counter=9000).replace(b":9000<", b":9001<")
    assert "request signature" in strict.post(forged).head["error"]
    assert "error" not in strict.post(read(counter=1000)).head


def test_counters_of_different_users_have_nothing_to_do_with_each_other() -> None:
    strict = Desk(DccSection(request_rules="require"))
    strict.post(read(counter=2000))
    other = duis.build_read_version_request(OPERATOR, HCALCS, 1000, KEYS)
    assert "error" not in strict.post(other).head


def test_a_signed_pre_command_has_the_counter_of_its_request_once() -> None:
    strict = Desk(DccSection(request_rules="require"))
    body = signed_request(strict, activate())
    assert "error" not in strict.post(body).head
    again = strict.post(body)
    assert "counter 1000 is not above 1000" in again.head["error"]
    assert len(strict.sent) == 1


# --- device lists ---------------------------------------------------------------------------------


def test_devices_on_a_list_are_told_of_in_words_and_in_xml_and_served_all_the_same() -> None:
    desk = Desk(present=(PPMID,))
    case = desk.post(update("11.1", HCALCS, STRANGER, PPMID))
    item = case.exchange.order.item
    assert isinstance(item, OfferImage)
    assert item.devices == (HCALCS, STRANGER, PPMID)
    assert case.codes() == ["I99", "W110101"]
    xml = case.xml("response DSPUpdateFirmwareWarning")
    assert xml["InvalidDeviceIDList"] == str(STRANGER)
    assert xml["NotCommissionedDeviceIDList"] == str(HCALCS)
    warnings = case.head["warnings"]
    assert [str(STRANGER) in text and "InvalidDeviceIDList" in text for text in warnings] == [
        True,
        False,
    ]


def test_devices_on_a_list_get_no_image_where_lists_count() -> None:
    section = DccSection(device_list="require")
    desk = Desk(section, present=(PPMID,))
    case = desk.post(update("11.4", STRANGER, PPMID))
    item = case.exchange.order.item
    assert isinstance(item, OfferImage)
    assert item.devices == (PPMID,)
    assert case.codes() == ["I99", "W110401"]
    none_left = desk.post(update("11.4", STRANGER, counter=1001))
    assert none_left.exchange.order.item is None
    assert none_left.codes() == ["E110401"]
    assert none_left.end() == "failed"


def test_an_organisation_is_no_device() -> None:
    case = Desk().post(update("11.4", SUPPLIER))
    assert "InvalidDeviceIDList" in case.xml("response DSPUpdatePPMIDFirmwareWarning")


def test_a_device_is_busy_until_its_transfer_has_ended() -> None:
    desk = Desk()
    first = desk.post(update())
    busy = desk.post(update(counter=1001))
    assert "OtherRequestInProgressList" in busy.xml("response DSPUpdatePPMIDFirmwareWarning")
    first.deliver(PPMID, "transferred")  # of the older request, whose place was taken
    still = desk.post(update(counter=1002))
    assert "response DSPUpdatePPMIDFirmwareWarning" in still.names()
    still.deliver(PPMID, "transferred")
    assert "response DSPUpdatePPMIDFirmwareWarning" not in desk.post(update(counter=1003)).names()


def test_the_products_list_of_the_configuration_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "products.csv"
    names = (
        "Entry.status,Device_Type.name,Device_Model.manufacturer_identifier,"
        "Device_Model.model_identifier_concatenated_with_hardware_version,"
        "Device_Model.firmware_version,GBCS Version.version_number,Manufacturer_Image.hash"
    )
    row = "Current,Pre-Payment Interface Device,121D,00050100,00000002,GBCS Version 4.1,"
    path.write_text(f"{names}\n{row}\n")
    entry = InventoryEntry(str(PPMID), "ppmid", hardware_version=0x0100)
    section = DccSection(central_products_list=str(path), inventory=(entry,))
    assert "response DSPUpdatePPMIDFirmwareWarning" not in Desk(section).post(update()).names()
    path.write_text(f"{names}\n{row.replace('00050100', '00050200')}\n")
    case = Desk(section).post(update())
    assert "NotApplicableFirmwareDeviceIDList" in case.xml("response DSPUpdatePPMIDFirmwareWarning")


@pytest.mark.parametrize(("content", "says"), [(None, "No such file"), ("a,b\n", "no column")])
def test_a_products_list_that_cannot_be_read_is_the_operators_fault(
    tmp_path: Path, content: str | None, says: str
) -> None:
    path = tmp_path / "products.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=f"dcc.central_products_list.*{says}"):
        Desk(DccSection(central_products_list=str(path)))


@pytest.mark.parametrize("image", [b"no image", PLAIN[:-1], PLAIN])
def test_a_file_that_cannot_be_read_is_told_of_and_left_to_the_hub(image: bytes) -> None:
    case = Desk().post(update("11.1", HCALCS, image=image))
    assert any(warning.startswith("image: ") for warning in case.head["warnings"])
    assert isinstance(case.exchange.order.item, OfferImage)


# --- messages as they are -------------------------------------------------------------------------


def command(counter: int = 1000, at: int | None = None) -> bytes:
    """A CS06 command that somebody else made ready."""
    desk = Desk()
    desk.post(signed_request(desk, activate(counter, at=at)))
    return desk.sent[0]


@pytest.mark.parametrize("form", ["octets", "hex", "lines"])
def test_a_message_is_carried_as_it_is_and_answered(form: str) -> None:
    message = command()
    text = message.hex().upper()
    body = {
        "octets": message,
        "hex": text.encode(),
        "lines": (text[:60] + "\n" + text[60:] + "\n").encode(),
    }[form]
    desk = Desk()
    case = desk.post(body)
    assert desk.sent == [message]
    assert case.head["request_id"] == f"{SUPPLIER}:{HCALCS}:1000"
    case.arrive(cs06_response(1000, fm.ActivationOutcome(0, 2)))
    assert case.done()
    assert case.end() == "ok"
    assert case.xml("response GBCSPayload")["ServiceReference"] == "11.3"


def test_a_future_dated_command_carried_as_it_is_is_answered_by_its_response() -> None:
    case = Desk().post(command(at=UTC + 1000))
    case.arrive(cs06_response(1000, None))
    assert case.done()
    assert case.end() == "ok"


def test_a_replay_that_nobody_answers_is_a_failure_without_a_service_response() -> None:
    case = Desk().post(command())
    assert case.exchange.patience_s() == 300
    assert case.end() == "failed"
    assert case.codes() == []


def test_an_alert_that_the_originator_may_not_do_that_ends_the_wait() -> None:
    case = Desk().post(command())
    generic = fm.encode_generic_alert_gbz(fm.GenericAlert(fm.LACKS_AUTHORITY, UTC))
    case.arrive(alert(HCALCS, SUPPLIER, fm.GENERIC_CRITICAL_ALERT, generic))
    assert case.done()
    assert case.names() == ["device alert 8F30"]
    assert case.end() == "failed"


def test_another_alert_of_the_device_is_shown_and_answers_nothing() -> None:
    case = Desk().post(command())
    case.arrive(receipt(fm.IMAGE_NOT_VERIFIED))
    assert not case.done()
    assert [entry["message"]["alert_code"] for entry in case.documents if "message" in entry] == [
        "8F1C"
    ]
    case.arrive(cs06_response(1000, fm.ActivationOutcome(0, 2)))
    assert case.end() == "ok"


def test_a_message_that_is_no_command_is_answered_by_anything() -> None:
    header = GroupingHeader(Cra.RESPONSE, 1000, SUPPLIER, HCALCS, fm.CS06_ACTIVATE_FIRMWARE)
    desk = Desk()
    case = desk.post(seal_signed(header, b"\x05\x00", KEYS.signing_key(SUPPLIER)))
    assert len(desk.sent) == 1
    assert not case.done()
    generic = fm.encode_generic_alert_gbz(fm.GenericAlert(fm.INTEGRITY_CHECK_FAILED, UTC))
    case.arrive(alert(HCALCS, SUPPLIER, fm.GENERIC_CRITICAL_ALERT, generic))
    assert case.done()


def test_octets_that_are_no_message_go_where_they_are_told_to() -> None:
    attack = command()[:-1] + b"\xff\xff"  # the MAC is wrong, and an octet too long
    for body in (attack, attack.hex().encode()):
        with pytest.raises(ConfigError, match="neither"):
            Desk().post(body)
        desk = Desk()
        case = desk.post(body, str(HCALCS))
        assert desk.sent == [attack]
        generic = fm.encode_generic_alert_gbz(fm.GenericAlert(fm.INTEGRITY_CHECK_FAILED, UTC))
        case.arrive(alert(HCALCS, SUPPLIER, fm.GENERIC_CRITICAL_ALERT, generic))
        assert case.done()
    with pytest.raises(ConfigError, match="no message"):
        Desk().post(b"hello", str(HCALCS))
    with pytest.raises(ConfigError, match="entity id"):
        Desk().post(attack, "A5")


def test_one_message_at_a_time_is_carried() -> None:
    two = "\n".join(command(counter).hex() for counter in (1000, 1001))
    with pytest.raises(ConfigError, match="2 messages, expected one"):
        Desk().post(two.encode())


@pytest.mark.parametrize("body", [b"", b"hello", b"\xdf", b"DD00", b"dg", b"DF" * 20, b"<x/>"])
def test_what_is_neither_a_request_nor_a_message_is_refused(body: bytes) -> None:
    with pytest.raises(ConfigError):
        Desk().post(body)
