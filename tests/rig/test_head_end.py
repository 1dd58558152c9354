"""The access control broker's side: what it originates and what it thinks of what comes up."""

from __future__ import annotations

import pytest
from vectors import needs_vectors, reference_keys, reference_messages

from firmware_node.boundary import (
    CarryMessage,
    Effect,
    MessageArrived,
    MessageChecked,
    Notify,
    OfferImage,
    ReadVersion,
    RebootRequested,
    SendSigned,
    Started,
)
from firmware_node.crypto import Keyring
from firmware_node.errors import DecodeError, KeyMissingError
from firmware_node.rig.head_end import OFFERS_MAX, REQUESTS_MAX, HeadEnd
from firmware_node.rig.memory_storage import Medium, MemoryStorage
from firmware_node.sealing import Verdict, check_mac, check_signature, seal_maced, seal_signed
from firmware_node.terms import EntityId
from firmware_node.tools.keys import build_keys
from firmware_node.wire.firmware_messages import (
    CS06_ACTIVATE_FIRMWARE,
    CS06_ALERT,
    RECEIPT_ALERT_DLMS,
    RECEIPT_ALERT_GBZ,
    ActivateFirmware,
    ActivationAlert,
    ActivationOutcome,
    ActivationOutcomeAlert,
    FirmwareTransferAlert,
    GenericAlert,
    ReadVersionResponse,
    ReceiptAlert,
    encode_ccs08_alert,
    encode_cs06_alert,
    encode_cs06_command,
    encode_cs06_response,
    encode_cs08_response,
    encode_cs09_alert,
    encode_generic_alert_dlms,
    encode_generic_alert_gbz,
    encode_receipt_alert_dlms,
    encode_receipt_alert_gbz,
)
from firmware_node.wire.gbcs import (
    Cra,
    GroupingHeader,
    Message,
    decode_message,
    encode_signed_octets,
    signed_message,
)

HUB = EntityId.parse("00-DB-12-34-56-78-90-A2")
PPMID = EntityId.parse("00-DB-12-34-56-78-90-A4")
HCALCS = EntityId.parse("00-DB-12-34-56-78-90-A5")
ACB = EntityId.parse("90-B3-D5-1F-30-00-00-02")
SUPPLIER = EntityId.parse("90-B3-D5-1F-30-01-00-00")
FILES = build_keys(b"head end")
EVERYTHING = Keyring(FILES)
# A party has its own private keys and everybody's certificates.
BROKER_KEYS = Keyring({n: d for n, d in FILES.items() if n.endswith(".pem") or ACB.hex in n})
DEVICE_KEYS = Keyring({n: d for n, d in FILES.items() if n.endswith(".pem") or PPMID.hex in n})
UTC = 800_000_000


def head_end(keyring: Keyring = BROKER_KEYS, first_counter: int = 1300) -> HeadEnd:
    return HeadEnd(ACB, keyring, first_counter=first_counter)


def command_of(effects: object) -> Message:
    assert isinstance(effects, tuple)
    (effect,) = effects
    assert isinstance(effect, CarryMessage)
    message = decode_message(effect.message)
    assert message.header.recipient == effect.recipient
    return message


def read_version(party: HeadEnd, device: EntityId = PPMID, request_id: str = "r") -> Message:
    return command_of(party.step(ReadVersion(request_id, SUPPLIER, 1000, device), 0))


def response_to(command: Message, version: int = 0x0123ABCD) -> bytes:
    """As the device answers: header mirrored, MAC with its own key."""
    asked = command.header
    header = GroupingHeader(
        Cra.RESPONSE,
        asked.originator_counter,
        asked.recipient,
        asked.originator,
        asked.message_code,
        supplementary_party=asked.supplementary_party,
        supplementary_counter=asked.supplementary_counter,
    )
    payload = encode_cs08_response(ReadVersionResponse(version, 0))
    return seal_maced(header, payload, DEVICE_KEYS, own=PPMID, peer=ACB)


def checked(party: HeadEnd, message: bytes) -> MessageChecked:
    (effect,) = party.step(MessageArrived(message), 0)
    assert isinstance(effect, MessageChecked)
    assert effect.message == message
    return effect


def test_a_version_is_read_by_a_command_that_the_device_can_verify() -> None:
    command = read_version(head_end())
    header = command.header
    assert (header.cra, header.message_code) == (Cra.COMMAND, 0x0129)
    assert (header.originator, header.recipient) == (ACB, PPMID)
    assert (header.supplementary_party, header.supplementary_counter) == (SUPPLIER, 1000)
    assert header.originator_counter == 1300
    assert command.payload == b"\x05\x00"
    assert check_mac(command, DEVICE_KEYS) is Verdict.VALID
    assert check_signature(command, DEVICE_KEYS) is Verdict.ABSENT


@needs_vectors
def test_the_command_has_the_octets_of_the_reference() -> None:
    reference = reference_messages()["CS08_11.2_SUCCESS_COMMAND"]
    counter = decode_message(reference).header.originator_counter
    party = head_end(Keyring(reference_keys()), first_counter=counter)
    (effect,) = party.step(ReadVersion("r", SUPPLIER, 1000, PPMID), 0)
    assert isinstance(effect, CarryMessage)
    assert effect.message == reference


def test_one_series_of_counters_serves_all_devices_and_survives_a_restart() -> None:
    medium = Medium(4096)
    counters = []
    for _ in range(2):
        storage = MemoryStorage(medium)
        party = HeadEnd(ACB, BROKER_KEYS, first_counter=5, records=storage.records)
        for device in (PPMID, HCALCS):
            counters.append(read_version(party, device).header.originator_counter)
        storage.commit()
    assert counters == [5, 6, 7, 8]


def test_a_response_is_valid_and_matched_with_its_request() -> None:
    party = head_end()
    read_version(party, HCALCS, "other")
    command = read_version(party, PPMID, "mine")
    result = checked(party, response_to(command))
    assert (result.use_case, result.kind, result.originator) == ("CS08", "response", PPMID)
    assert (result.signature, result.mac) == ("absent", "valid")
    assert result.fields == {
        "firmware_version": "0123abcd",
        "response_code": 0,
        "request_id": "mine",
    }


def test_a_response_that_was_changed_is_invalid_and_matches_nothing() -> None:
    party = head_end()
    response = bytearray(response_to(read_version(party)))
    response[response.index(bytes.fromhex("0123abcd"))] ^= 1
    result = checked(party, bytes(response))
    assert result.mac == "invalid"
    assert "request_id" not in result.fields


def test_a_response_that_nobody_asked_for_is_valid_and_matches_nothing() -> None:
    response = response_to(read_version(head_end()))
    result = checked(head_end(), response)
    assert result.mac == "valid"
    assert "request_id" not in result.fields


def test_a_response_repeated_is_checked_again() -> None:
    party = head_end()
    response = response_to(read_version(party))
    assert checked(party, response) == checked(party, response)


def test_old_requests_are_forgotten_when_nobody_answers() -> None:
    party = head_end()
    first = read_version(party)
    for _ in range(REQUESTS_MAX):
        read_version(party)
    assert "request_id" not in checked(party, response_to(first)).fields


def test_an_activation_alert_is_read_and_verified() -> None:
    header = GroupingHeader(Cra.ALERT, 5000, PPMID, ACB, 0x012B)
    payload = encode_cs09_alert(ActivationAlert(0x8F8B, UTC, 0x1234ABCD, 1))
    result = checked(head_end(), seal_signed(header, payload, EVERYTHING.signing_key(PPMID)))
    assert (result.use_case, result.kind, result.alert_code) == ("CS09", "alert", 0x8F8B)
    assert (result.signature, result.mac) == ("valid", "absent")
    assert result.fields == {
        "at": "2025-05-08T06:13:20Z",
        "firmware_version": "1234abcd",
        "result": 1,
    }


def test_a_transfer_alert_is_read_and_verified() -> None:
    header = GroupingHeader(Cra.ALERT, 4000, HUB, ACB, 0x0128)
    payload = encode_ccs08_alert(FirmwareTransferAlert(0x8F89, UTC, PPMID, 2, 3))
    result = checked(head_end(), seal_signed(header, payload, EVERYTHING.signing_key(HUB)))
    assert (result.use_case, result.alert_code, result.signature) == ("CCS08", 0x8F89, "valid")
    assert result.fields["entity_id"] == str(PPMID)
    assert result.fields["response_code"] == 3


def test_an_alert_signed_by_another_is_invalid_and_still_shown() -> None:
    header = GroupingHeader(Cra.ALERT, 4000, HUB, ACB, 0x0128)
    payload = encode_ccs08_alert(FirmwareTransferAlert(0x8F8A, UTC, PPMID, 2, 0))
    result = checked(head_end(), seal_signed(header, payload, EVERYTHING.signing_key(PPMID)))
    assert result.signature == "invalid"
    assert result.alert_code == 0x8F8A


def test_a_message_of_a_stranger_has_no_key_and_is_still_shown() -> None:
    stranger = Keyring({n: d for n, d in FILES.items() if PPMID.hex not in n})
    header = GroupingHeader(Cra.ALERT, 5000, PPMID, ACB, 0x012B)
    payload = encode_cs09_alert(ActivationAlert(0x8F8B, UTC, 2, 0))
    message = seal_signed(header, payload, EVERYTHING.signing_key(PPMID))
    assert checked(head_end(stranger), message).signature == "no-key"


@pytest.mark.parametrize(("code", "payload"), [(0x0FFF, b"\x01\x02"), (0x012B, b"\x30\x00")])
def test_a_payload_that_is_not_understood_is_shown_raw(code: int, payload: bytes) -> None:
    header = GroupingHeader(Cra.ALERT, 5000, PPMID, ACB, code)
    result = checked(head_end(), seal_signed(header, payload, EVERYTHING.signing_key(PPMID)))
    assert result.message_code == code
    assert result.signature == "valid"
    assert result.alert_code is None
    assert result.fields["raw"] == payload.hex()


# --- signed Pre-Commands --------------------------------------------------------------------------


def signed_pre_command(counter: int = 1000, device: EntityId = HCALCS) -> bytes:
    """As the supplier hands it in: its signature, no MAC."""
    header = GroupingHeader(Cra.COMMAND, counter, SUPPLIER, device, CS06_ACTIVATE_FIRMWARE)
    octets = encode_signed_octets(header, encode_cs06_command(ActivateFirmware(bytes(32), counter)))
    return signed_message(octets, EVERYTHING.signing_key(SUPPLIER).sign(octets))


def device_says(header: GroupingHeader, payload: bytes) -> bytes:
    return seal_signed(header, payload, EVERYTHING.signing_key(header.originator))


def cs06_response(counter: int, outcome: ActivationOutcome | None) -> bytes:
    header = GroupingHeader(Cra.RESPONSE, counter, HCALCS, SUPPLIER, CS06_ACTIVATE_FIRMWARE)
    return device_says(header, encode_cs06_response(outcome))


def test_a_signed_pre_command_gets_the_brokers_mac_and_keeps_its_signature() -> None:
    signed = signed_pre_command()
    command = command_of(head_end().step(SendSigned("r", signed), 0))
    assert command.header.originator == SUPPLIER
    hcalcs_keys = Keyring({n: d for n, d in FILES.items() if n.endswith(".pem") or HCALCS.hex in n})
    assert check_mac(command, hcalcs_keys) is Verdict.VALID
    assert check_signature(command, hcalcs_keys) is Verdict.VALID
    assert signed.endswith(command.signature)


@pytest.mark.parametrize(
    ("outcome", "fields"),
    [
        (None, {"accepted": True}),
        (ActivationOutcome(0, 2), {"firmware_version": "00000002", "response_code": 0}),
        (ActivationOutcome(3, 1), {"firmware_version": "00000001", "response_code": 3}),
    ],
)
def test_the_response_to_an_activation_is_verified_and_matched(
    outcome: ActivationOutcome | None, fields: dict[str, object]
) -> None:
    party = head_end()
    party.step(SendSigned("mine", signed_pre_command(1000)), 0)
    party.step(SendSigned("other", signed_pre_command(1001)), 0)
    result = checked(party, cs06_response(1000, outcome))
    assert (result.use_case, result.signature, result.mac) == ("CS06", "valid", "absent")
    assert result.fields == {**fields, "request_id": "mine"}
    assert (result.recipient, result.counter) == (SUPPLIER, 1000)


def test_a_response_with_the_counter_of_another_party_matches_nothing() -> None:
    party = head_end(first_counter=1000)
    read_version(party, HCALCS, "reading")  # counter 1000 as well, but the broker's
    result = checked(party, cs06_response(1000, None))
    assert result.signature == "valid"
    assert "request_id" not in result.fields


def test_the_outcome_of_a_future_dated_activation_is_matched_by_the_counter_it_repeats() -> None:
    party = head_end()
    party.step(SendSigned("later", signed_pre_command(1001)), 0)
    alert = ActivationOutcomeAlert(0x8F67, UTC, 1001, ActivationOutcome(2, 1))
    header = GroupingHeader(Cra.ALERT, 2000, HCALCS, SUPPLIER, CS06_ALERT)
    result = checked(party, device_says(header, encode_cs06_alert(alert)))
    assert (result.alert_code, result.signature) == (0x8F67, "valid")
    assert result.fields == {
        "at": "2025-05-08T06:13:20Z",
        "originator_counter": 1001,
        "firmware_version": "00000001",
        "response_code": 2,
        "request_id": "later",
    }


@needs_vectors
@pytest.mark.parametrize("kind", ["IMMEDIATE", "FUTURE_DATED", "CANCELLATION"])
def test_the_reference_answers_belong_to_the_reference_commands(kind: str) -> None:
    messages = reference_messages()
    party = head_end(Keyring(reference_keys()))
    name = f"CS06_11.3_{kind}_SUCCESS"
    command = decode_message(messages[f"{name}_COMMAND"])
    signed = signed_message(command.signed_octets, command.signature)
    (effect,) = party.step(SendSigned(kind, signed), 0)
    assert isinstance(effect, CarryMessage)
    assert effect.message == messages[f"{name}_COMMAND"]
    result = checked(party, messages[f"{name}_RESPONSE"])
    assert (result.signature, result.fields["request_id"]) == ("valid", kind)
    alert = checked(party, messages["CS06_11.3_8F66_FUTURE_DATED_SUCCESS_ALERT"])
    assert (alert.alert_code, alert.signature) == (0x8F66, "valid")
    assert alert.fields.get("request_id") == ("FUTURE_DATED" if kind == "FUTURE_DATED" else None)


def test_a_command_carried_as_it_is_goes_unchanged_and_its_answer_is_matched() -> None:
    party = head_end()
    message = command_of(head_end().step(SendSigned("r", signed_pre_command()), 0))
    (made,) = head_end().step(SendSigned("r", signed_pre_command()), 0)
    assert isinstance(made, CarryMessage)
    assert party.step(CarryMessage(HCALCS, made.message), 0) == (
        CarryMessage(HCALCS, made.message),
    )
    result = checked(party, cs06_response(message.header.originator_counter, None))
    assert result.fields["request_id"] == f"{SUPPLIER}:{HCALCS}:1000"


def test_what_cannot_be_maced_is_said_and_nothing_is_expected() -> None:
    party = head_end(Keyring({n: d for n, d in FILES.items() if HCALCS.hex not in n}))
    with pytest.raises(KeyMissingError):
        party.step(SendSigned("r", signed_pre_command()), 0)
    with pytest.raises(DecodeError):
        party.step(SendSigned("r", b"\xdf"), 0)


def test_octets_that_are_no_message_are_carried_all_the_same() -> None:
    attack = CarryMessage(HCALCS, b"\xdf")
    assert head_end().step(attack, 0) == (attack,)


# --- alerts about an offer ------------------------------------------------------------------------


def offer(party: HeadEnd, request_id: str, *devices: EntityId) -> None:
    assert party.step(OfferImage(request_id, b"file", devices), 0) == ()


def test_alerts_about_a_device_belong_to_its_last_offer() -> None:
    party = head_end()
    offer(party, "first", PPMID, HCALCS)
    offer(party, "second", HCALCS)
    transfer = encode_ccs08_alert(FirmwareTransferAlert(0x8F8A, UTC, HCALCS, 2, 0))
    header = GroupingHeader(Cra.ALERT, 1, HUB, ACB, 0x0128)
    assert checked(party, device_says(header, transfer)).fields["request_id"] == "second"
    activation = encode_cs09_alert(ActivationAlert(0x8F8B, UTC, 2, 0))
    header = GroupingHeader(Cra.ALERT, 1, PPMID, ACB, 0x012B)
    assert checked(party, device_says(header, activation)).fields["request_id"] == "first"
    forged = seal_signed(header, activation, EVERYTHING.signing_key(HCALCS))
    assert "request_id" not in checked(party, forged).fields


@pytest.mark.parametrize("code", [RECEIPT_ALERT_DLMS, RECEIPT_ALERT_GBZ])
@pytest.mark.parametrize("alert_code", [0x8F72, 0x8F1C])
def test_a_receipt_alert_of_either_shape_is_read_verified_and_matched(
    code: int, alert_code: int
) -> None:
    party = head_end()
    offer(party, "update", HCALCS)
    receipt = ReceiptAlert(alert_code, UTC, bytes(range(32)))
    payload = (
        encode_receipt_alert_gbz(receipt)
        if code == RECEIPT_ALERT_GBZ
        else encode_receipt_alert_dlms(receipt, 2000)
    )
    header = GroupingHeader(Cra.ALERT, 2000, HCALCS, SUPPLIER, code)
    result = checked(party, device_says(header, payload))
    assert (result.alert_code, result.signature) == (alert_code, "valid")
    assert result.fields == {
        "at": "2025-05-08T06:13:20Z",
        "manufacturer_image_hash": bytes(range(32)).hex(),
        "request_id": "update",
    }


def test_generic_alerts_of_either_shape_are_read() -> None:
    alert = GenericAlert(0x8F30, UTC)
    for payload in (encode_generic_alert_gbz(alert), encode_generic_alert_dlms(alert, 2000)):
        header = GroupingHeader(Cra.ALERT, 2000, HCALCS, SUPPLIER, 0x1000)
        result = checked(head_end(), device_says(header, payload))
        assert (result.alert_code, result.fields) == (0x8F30, {"at": "2025-05-08T06:13:20Z"})


def test_offers_are_remembered_for_as_many_devices_as_a_request_can_name() -> None:
    party = head_end()
    offer(party, "old", PPMID)
    offer(party, "new", *(EntityId(number.to_bytes(8, "big")) for number in range(OFFERS_MAX)))
    payload = encode_cs09_alert(ActivationAlert(0x8F8B, UTC, 2, 0))
    message = device_says(GroupingHeader(Cra.ALERT, 1, PPMID, ACB, 0x012B), payload)
    assert "request_id" not in checked(party, message).fields


@needs_vectors
def test_every_reference_message_is_checked_whatever_it_is() -> None:
    party = head_end(Keyring(reference_keys()))
    for name, message in reference_messages().items():
        result = checked(party, message)
        assert "invalid" not in (result.signature, result.mac), name


@pytest.mark.parametrize("octets", [b"", b"\xdf", b"\xdd" + bytes(40)])
def test_octets_that_are_no_message_are_told_of(octets: bytes) -> None:
    effects: list[Effect] = list(head_end().step(MessageArrived(octets), 0))
    assert [effect.name for effect in effects if isinstance(effect, Notify)] == [
        "message_malformed"
    ]
    assert len(effects) == 1


def test_the_head_end_has_no_timers_and_no_buttons() -> None:
    party = head_end()
    assert party.step(Started(), 0) == party.step(None, 0) == ()
    assert party.wake_at is None
    with pytest.raises(TypeError):
        party.step(RebootRequested(), 0)
