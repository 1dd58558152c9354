"""Named bad messages: each is bad in its one way and as good as it can be in every other."""

from __future__ import annotations

from dataclasses import replace

import pytest
from vectors import needs_vectors, reference_keys, reference_messages

from firmware_node.crypto import Keyring
from firmware_node.errors import ConfigError, DecodeError, KeyMissingError
from firmware_node.sealing import (
    Verdict,
    check_mac,
    check_signature,
    seal_critical,
    seal_maced,
    seal_signed,
)
from firmware_node.terms import EntityId, Role
from firmware_node.tools.gbcs_mutations import COUNTER_MAX, MUTATIONS, STRANGER, mutate
from firmware_node.tools.keys import PARTIES, Party, build_keys
from firmware_node.wire import firmware_messages as fm
from firmware_node.wire.gbcs import (
    Cra,
    GroupingHeader,
    Message,
    decode_message,
    encode_signed_octets,
    pre_command,
)
from firmware_node.wire.gbt import Reassembly, decode_block, reassemble

BROKER = EntityId.parse("90b3d51f30000002")
SUPPLIER = EntityId.parse("90b3d51f30010000")
OTHER_SUPPLIER = EntityId.parse("90b3d51f30030000")
HCALCS = EntityId.parse("00db1234567890a5")
KEYS = build_keys(
    b"test_gbcs_mutations",
    parties=(*PARTIES, Party(OTHER_SUPPLIER, Role.SUPPLIER, "OTHERSUPPLIER")),
    days=10,  # from 2020-01-01
)
KEYRING = Keyring(KEYS)
IN_TIME, TOO_LATE = 7306 * 86_400, 7320 * 86_400
ACTIVATE = GroupingHeader(Cra.COMMAND, 1000, SUPPLIER, HCALCS, fm.CS06_ACTIVATE_FIRMWARE)
COMMAND = fm.ActivateFirmware(bytes(32), 1000)
CS06 = seal_critical(
    ACTIVATE,
    fm.encode_cs06_command(COMMAND),
    KEYRING.signing_key(SUPPLIER),
    KEYRING,
    BROKER,
    HCALCS,
)
READ_VERSION = GroupingHeader(
    Cra.COMMAND, 1300, BROKER, HCALCS, fm.CS08_READ_VERSION, supplementary_party=SUPPLIER
)
CS08 = seal_maced(READ_VERSION, fm.encode_cs08_command(), KEYRING, BROKER, HCALCS)
ALERT_HEADER = GroupingHeader(Cra.ALERT, 5, HCALCS, SUPPLIER, fm.CS06_ALERT)
ALERT = seal_signed(ALERT_HEADER, b"\5\0", KEYRING.signing_key(HCALCS))
PRE_COMMAND = pre_command(encode_signed_octets(ACTIVATE, fm.encode_cs06_command(COMMAND)))
VALID, INVALID, ABSENT, NO_KEY = Verdict.VALID, Verdict.INVALID, Verdict.ABSENT, Verdict.NO_KEY


def bad(octets: bytes, name: str, keyring: Keyring = KEYRING) -> Message:
    """The one message that a mutation makes, decoded."""
    (made,) = mutate(octets, name, keyring)
    return decode_message(made)


def verdicts(message: Message, keyring: Keyring = KEYRING) -> tuple[Verdict, Verdict]:
    return check_signature(message, keyring), check_mac(message, keyring)


def test_good_messages_are_good() -> None:
    assert verdicts(decode_message(CS06)) == (VALID, VALID)
    assert verdicts(decode_message(CS08)) == (ABSENT, VALID)


@pytest.mark.parametrize("octets", [CS06, CS08])
def test_wrong_mac_is_all_that_is_wrong(octets: bytes) -> None:
    message, good = bad(octets, "wrong-mac"), decode_message(octets)
    assert verdicts(message) == (check_signature(good, KEYRING), INVALID)
    assert message.signed_octets == good.signed_octets


def test_wrong_signature_carries_a_valid_mac_over_it() -> None:
    message = bad(CS06, "wrong-signature")
    assert verdicts(message) == (INVALID, VALID)
    assert message.payload == decode_message(CS06).payload
    assert verdicts(bad(ALERT, "wrong-signature")) == (INVALID, ABSENT)


def test_signature_of_another_supplier_is_that_suppliers_and_the_mac_holds() -> None:
    message = bad(CS06, "other-supplier-signature")
    assert message.header == ACTIVATE
    assert verdicts(message) == (INVALID, VALID)
    other = KEYRING.verify_key(OTHER_SUPPLIER)
    assert other.is_valid(message.signature, message.signed_octets)


def test_signature_with_the_agreement_key_is_invalid_and_the_mac_holds() -> None:
    message = bad(CS06, "wrong-usage-certificate")
    assert verdicts(message) == (INVALID, VALID)
    swapped = Keyring({f"{SUPPLIER.hex}-ds.key": KEYS[f"{SUPPLIER.hex}-ka.key"]})
    assert check_signature(message, swapped) is VALID


def test_mac_with_the_signing_key_is_invalid() -> None:
    message = bad(CS08, "wrong-usage-certificate")
    assert verdicts(message) == (ABSENT, INVALID)
    assert message.header == READ_VERSION


def test_message_of_an_expired_certificate_is_authentic_but_for_its_date() -> None:
    (octets,) = mutate(CS06, "expired-certificate", KEYRING, TOO_LATE)
    message = decode_message(octets)
    assert verdicts(message) == (VALID, VALID)
    assert verdicts(message, KEYRING.at(TOO_LATE)) == (NO_KEY, NO_KEY)
    for moment in (IN_TIME, None):
        with pytest.raises(ConfigError, match="--days"):
            mutate(CS06, "expired-certificate", KEYRING, moment)


def test_replay_is_the_message_itself() -> None:
    for octets in (CS06, CS08, ALERT, PRE_COMMAND):
        assert mutate(octets, "replay", Keyring({})) == (octets,)


def test_lower_counter_is_authentic_and_the_payload_agrees() -> None:
    message = bad(CS06, "counter-lower")
    assert message.header == replace(ACTIVATE, originator_counter=999)
    assert fm.decode_cs06_command(message.payload) == replace(COMMAND, originator_counter=999)
    assert verdicts(message) == (VALID, VALID)
    assert bad(CS08, "counter-lower").header.originator_counter == 1299


def test_highest_counter_is_authentic() -> None:
    for octets in (CS06, CS08):
        message, good = bad(octets, "counter-max"), decode_message(octets)
        assert message.header == replace(good.header, originator_counter=COUNTER_MAX)
        assert message.payload == good.payload
        assert INVALID not in verdicts(message)


def test_counter_of_the_payload_differs_in_an_authentic_message() -> None:
    message = bad(CS06, "payload-counter-differs")
    assert message.header == ACTIVATE
    assert fm.decode_cs06_command(message.payload).originator_counter == 1001
    assert verdicts(message) == (VALID, VALID)


def test_wrong_recipient_is_another_device_for_which_the_message_is_authentic() -> None:
    message = bad(CS06, "wrong-recipient")
    assert message.header.recipient != HCALCS
    assert KEYRING.is_device(message.header.recipient)
    assert verdicts(message) == (VALID, VALID)


def test_unknown_originator_is_in_no_folder_and_the_brokers_mac_holds() -> None:
    message = bad(CS06, "unknown-originator")
    assert message.header.originator == STRANGER
    assert verdicts(message) == (NO_KEY, VALID)


def test_wrong_role_is_a_known_party_whose_message_is_authentic() -> None:
    activation, reading = bad(CS06, "wrong-role"), bad(CS08, "wrong-role")
    assert KEYRING.role(activation.header.originator) is Role.ACCESS_CONTROL_BROKER
    assert verdicts(activation) == (VALID, VALID)
    assert KEYRING.role(reading.header.originator) is Role.SUPPLIER
    assert verdicts(reading) == (ABSENT, VALID)


def test_use_case_of_another_device_is_authentic() -> None:
    message = bad(CS06, "other-device-use-case")
    assert message.header == replace(ACTIVATE, message_code=0x00B3)
    assert verdicts(message) == (VALID, VALID)


@pytest.mark.parametrize("name", ["truncated-der", "non-minimal-der", "trailing-bytes"])
def test_payload_that_does_not_decode_is_in_an_authentic_message(name: str) -> None:
    message = bad(CS06, name)
    assert message.header == ACTIVATE
    assert verdicts(message) == (VALID, VALID)
    with pytest.raises(DecodeError):
        fm.decode_cs06_command(message.payload)
    reading = bad(CS08, name)
    assert verdicts(reading) == (ABSENT, VALID)
    with pytest.raises(DecodeError):
        fm.decode_cs08_command(reading.payload)


@pytest.mark.parametrize("octets", [CS06, CS08, ALERT, PRE_COMMAND])
def test_giant_length_does_not_parse(octets: bytes) -> None:
    (made,) = mutate(octets, "giant-length", Keyring({}))
    with pytest.raises(DecodeError, match="payload: expected 65535 octets"):
        decode_message(made)


def test_blocks_lack_one_have_one_twice_or_contradict_each_other() -> None:
    missing = [decode_block(made) for made in mutate(CS06, "gbt-missing-block", KEYRING)]
    repeated = [decode_block(made) for made in mutate(CS06, "gbt-repeated-block", KEYRING)]
    overlapping = [decode_block(made) for made in mutate(CS06, "gbt-overlapping-block", KEYRING)]
    with pytest.raises(DecodeError, match="lacks block 2"):
        reassemble(missing)
    assert [block.number for block in repeated] == [1, 2, 2, 3]
    assert reassemble(repeated) == CS06
    assert [block.number for block in overlapping] == [1, 2, 2, 3]
    reassembly = Reassembly(overlapping[0].series)
    reassembly.add(overlapping[0])
    reassembly.add(overlapping[1])
    with pytest.raises(DecodeError, match="another content"):
        reassembly.add(overlapping[2])
    assert reassembly.add(overlapping[3]) == CS06


@needs_vectors
def test_reference_commands_can_be_spoilt_in_every_way_with_the_keys_of_the_set() -> None:
    keyring, late = Keyring(reference_keys()), 820_454_400  # 2026-01-01
    octets = reference_messages()["CS06_11.3_FUTURE_DATED_SUCCESS_COMMAND"]
    same = {name for name in MUTATIONS if mutate(octets, name, keyring, late) == (octets,)}
    assert "replay" in same
    assert same <= {"replay", "expired-certificate"}  # both are as good as what they come from
    octets = reference_messages()["CS08_11.2_SUCCESS_COMMAND"]
    signed_only = {"wrong-signature", "other-supplier-signature", "payload-counter-differs"}
    for name in MUTATIONS.keys() - signed_only:
        assert mutate(octets, name, keyring, late), name


@pytest.mark.parametrize(
    ("name", "octets"),
    [
        ("no-such-name", CS06),
        ("wrong-mac", ALERT),
        ("wrong-signature", CS08),
        ("other-supplier-signature", CS08),
        ("wrong-usage-certificate", PRE_COMMAND),
        ("payload-counter-differs", CS08),
        ("wrong-role", ALERT),
        ("replay", CS06[:-1]),
    ],
)
def test_what_cannot_be_spoilt_so_is_refused(name: str, octets: bytes) -> None:
    with pytest.raises(ConfigError):
        mutate(octets, name, KEYRING)


def test_every_mutation_but_those_of_form_needs_the_folder_and_says_which_key() -> None:
    unsealed = {"wrong-mac", "replay", "giant-length", "gbt-missing-block", "gbt-repeated-block"}
    unsealed.add("gbt-overlapping-block")
    needy = set()
    for name in MUTATIONS:
        try:
            mutate(CS06, name, Keyring({}))
        except (ConfigError, KeyMissingError):
            needy.add(name)
    assert needy == MUTATIONS.keys() - unsealed
    assert all(mutation.answer for mutation in MUTATIONS.values())
