"""Signatures and MACs, held against every reference message and against themselves."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from vectors import needs_vectors, reference_keys, reference_messages

from firmware_node.crypto import Keyring
from firmware_node.errors import DecodeError, KeyMissingError
from firmware_node.sealing import (
    CONTENT_HEADER,
    Verdict,
    add_mac,
    certificates_behind,
    check_mac,
    check_signature,
    open_content,
    seal_content,
    seal_critical,
    seal_maced,
    seal_signed,
    sign_pre_command,
)
from firmware_node.terms import EntityId
from firmware_node.tools.keys import build_keys
from firmware_node.wire.firmware_messages import ActivateFirmware, encode_cs06_command
from firmware_node.wire.gbcs import (
    Cra,
    GroupingHeader,
    decode_message,
    encode_signed_octets,
    pre_command,
    signed_message,
)

BROKER = EntityId.parse("90b3d51f30000002")
SUPPLIER = EntityId.parse("90b3d51f30010000")
PPMID = EntityId.parse("00db1234567890a4")
GSME = EntityId.parse("00db1234567890a1")
KEYS = build_keys(b"test_sealing")
KEYRING = Keyring(KEYS)
READ_VERSION = GroupingHeader(
    cra=Cra.COMMAND,
    originator_counter=1300,
    originator=BROKER,
    recipient=PPMID,
    message_code=0x0129,
    supplementary_party=SUPPLIER,
    supplementary_counter=1000,
)
RESPONSE = replace(READ_VERSION, cra=Cra.RESPONSE, originator=PPMID, recipient=BROKER)
ALERT = GroupingHeader(
    cra=Cra.ALERT,
    originator_counter=5000,
    originator=PPMID,
    recipient=BROKER,
    message_code=0x012B,
)
ACTIVATE = GroupingHeader(
    cra=Cra.COMMAND,
    originator_counter=1000,
    originator=SUPPLIER,
    recipient=PPMID,
    message_code=0x0012,
)


def without(*names: str) -> Keyring:
    """The keyring of a party that lacks these files."""
    return Keyring({name: data for name, data in KEYS.items() if name not in names})


@needs_vectors
def test_every_reference_signature_and_mac_verifies_where_its_key_is_known() -> None:
    keyring = Keyring(reference_keys())
    signatures: Counter[Verdict] = Counter()
    macs: Counter[Verdict] = Counter()
    unchecked = []
    for name, octets in reference_messages().items():
        message = decode_message(octets)
        signature, mac = check_signature(message, keyring), check_mac(message, keyring)
        signatures[signature] += 1
        macs[mac] += 1
        if Verdict.NO_KEY in (signature, mac):
            unchecked.append(name)
        if "PRECOMMAND" in name:
            assert signature is Verdict.ABSENT, name
            assert mac is Verdict.ABSENT, name
    assert signatures == {Verdict.VALID: 323, Verdict.ABSENT: 518}
    assert macs == {Verdict.VALID: 528, Verdict.NO_KEY: 2, Verdict.ABSENT: 311}
    # PPMID and GSME talk to each other; the set has neither's private key.
    assert unchecked == ["PCS01_NA_SUCCESS_COMMAND", "PCS01_NA_SUCCESS_RESPONSE"]


@needs_vectors
def test_reference_mac_made_again_is_the_same() -> None:
    keyring = Keyring(reference_keys())
    octets = reference_messages()["CS08_11.2_SUCCESS_COMMAND"]
    message = decode_message(octets)
    assert seal_maced(message.header, message.payload, keyring, BROKER, PPMID) == octets


@needs_vectors
def test_every_reference_mac_made_again_is_the_same() -> None:
    keyring = Keyring(reference_keys())
    made = 0
    for name, octets in reference_messages().items():
        message = decode_message(octets)
        if not message.mac or "PCS01" in name:  # two lack their keys
            continue
        header = message.header
        party = BROKER if header.cra is Cra.COMMAND else header.recipient
        device = header.recipient if header.cra is Cra.COMMAND else header.originator
        signed_octets = encode_signed_octets(header, message.payload)
        inner = signed_message(signed_octets, message.signature)
        assert add_mac(inner, header, keyring, party, device) == octets, name
        made += 1
    assert made == 528


def one_of_each_form() -> dict[str, bytes]:
    """A short reference message of each form: kind, protection, date-time, other information."""
    found: dict[tuple[object, ...], tuple[str, bytes]] = {}
    for name, octets in reference_messages().items():
        message = decode_message(octets)
        header = message.header
        form = (
            header.cra,
            bool(message.signature),
            bool(message.mac),
            bool(header.date_time),
            header.supplementary_counter is None,
            header.supplementary_originator_counter is None,
            bool(header.certificate),
        )
        # What is not protected cannot be told from what it was, and two lack their keys.
        if (message.signature or message.mac) and "PCS01" not in name:
            known = found.get(form)
            if known is None or len(octets) < len(known[1]):
                found[form] = name, octets
    return dict(found.values())


@needs_vectors
def test_reference_message_of_any_form_with_a_flipped_bit_anywhere_is_never_wholly_valid() -> None:
    keyring, messages = Keyring(reference_keys()), one_of_each_form()
    assert len(messages) >= 12
    for name, octets in messages.items():
        for at in range(len(octets)):
            flipped = bytearray(octets)
            flipped[at] ^= 1 << at % 8
            try:
                message = decode_message(bytes(flipped))
            except DecodeError:
                continue
            verdicts = {check_signature(message, keyring), check_mac(message, keyring)}
            assert verdicts & {Verdict.INVALID, Verdict.NO_KEY}, f"{name} at {at}"


@needs_vectors
def test_reference_message_of_any_form_cut_anywhere_is_refused_or_without_protection() -> None:
    for name, octets in one_of_each_form().items():
        for size in range(len(octets)):
            try:
                part = decode_message(octets[:size])
            except DecodeError:
                continue
            # A signed command without MAC, cut behind its payload, reads as its Pre-Command.
            assert part.is_pre_command, f"{name} at {size}"
            assert part.signed_octets == decode_message(octets).signed_octets


def test_signed_alert_is_valid_and_has_no_mac() -> None:
    message = decode_message(seal_signed(ALERT, b"\5\0", KEYRING.signing_key(PPMID)))
    assert message.header == ALERT
    assert check_signature(message, KEYRING) is Verdict.VALID
    assert check_mac(message, KEYRING) is Verdict.ABSENT


def test_alert_signed_by_another_device_is_invalid() -> None:
    message = decode_message(seal_signed(ALERT, b"\5\0", KEYRING.signing_key(GSME)))
    assert check_signature(message, KEYRING) is Verdict.INVALID


def test_signature_of_an_unknown_originator_has_no_key() -> None:
    message = decode_message(seal_signed(ALERT, b"\5\0", KEYRING.signing_key(PPMID)))
    keyring = without(f"{PPMID.hex}-ds.pem", f"{PPMID.hex}-ds.key")
    assert check_signature(message, keyring) is Verdict.NO_KEY


def test_brokers_command_is_valid_for_the_device_and_for_the_broker() -> None:
    octets = seal_maced(READ_VERSION, b"\5\0", without(f"{PPMID.hex}-ka.key"), BROKER, PPMID)
    message = decode_message(octets)
    assert check_signature(message, KEYRING) is Verdict.ABSENT
    assert check_mac(message, without(f"{BROKER.hex}-ka.key")) is Verdict.VALID
    assert check_mac(message, without(f"{PPMID.hex}-ka.key")) is Verdict.VALID


def test_response_is_valid_for_its_recipient() -> None:
    octets = seal_maced(RESPONSE, b"\5\0", without(f"{BROKER.hex}-ka.key"), PPMID, BROKER)
    message = decode_message(octets)
    assert check_mac(message, without(f"{PPMID.hex}-ka.key")) is Verdict.VALID


def test_command_and_response_of_one_counter_have_different_keys() -> None:
    command = decode_message(seal_maced(READ_VERSION, b"\5\0", KEYRING, BROKER, PPMID))
    response = decode_message(seal_maced(RESPONSE, b"\5\0", KEYRING, PPMID, BROKER))
    assert command.mac != response.mac


def test_command_maced_by_the_supplier_instead_of_the_broker_is_invalid() -> None:
    header = replace(READ_VERSION, originator=SUPPLIER)
    message = decode_message(seal_maced(header, b"\5\0", KEYRING, SUPPLIER, PPMID))
    assert check_mac(message, KEYRING) is Verdict.INVALID


def test_mac_without_either_private_key_has_no_key() -> None:
    message = decode_message(seal_maced(READ_VERSION, b"\5\0", KEYRING, BROKER, PPMID))
    keyring = without(f"{BROKER.hex}-ka.key", f"{PPMID.hex}-ka.key")
    assert check_mac(message, keyring) is Verdict.NO_KEY


def test_device_that_commands_a_device_macs_with_its_own_key() -> None:
    header = replace(ALERT, cra=Cra.COMMAND, recipient=GSME, message_code=0x009B)
    message = decode_message(seal_maced(header, b"\5\0", KEYRING, PPMID, GSME))
    assert check_mac(message, KEYRING) is Verdict.VALID


def test_critical_command_carries_the_originators_signature_and_the_brokers_mac() -> None:
    payload = encode_cs06_command(ActivateFirmware(bytes(32), 1000))
    octets = seal_critical(ACTIVATE, payload, KEYRING.signing_key(SUPPLIER), KEYRING, BROKER, PPMID)
    message = decode_message(octets)
    assert message.payload == payload
    assert check_signature(message, KEYRING) is Verdict.VALID
    assert check_mac(message, KEYRING) is Verdict.VALID


def test_pre_command_of_a_critical_command_is_its_signed_octets() -> None:
    payload = encode_cs06_command(ActivateFirmware(bytes(32), 1000))
    octets = seal_critical(ACTIVATE, payload, KEYRING.signing_key(SUPPLIER), KEYRING, BROKER, PPMID)
    message = decode_message(pre_command(decode_message(octets).signed_octets))
    assert message.is_pre_command
    assert check_signature(message, KEYRING) is Verdict.ABSENT
    assert check_mac(message, KEYRING) is Verdict.ABSENT
    assert message.header == ACTIVATE


def test_signed_pre_command_with_the_brokers_mac_is_the_critical_command() -> None:
    payload = encode_cs06_command(ActivateFirmware(bytes(32), 1000))
    key = KEYRING.signing_key(SUPPLIER)
    octets = seal_critical(ACTIVATE, payload, key, KEYRING, BROKER, PPMID)
    # Older tool chains append an empty signature field; what is signed are the octets before it.
    unsigned = decode_message(pre_command(decode_message(octets).signed_octets) + b"\0")
    inner = sign_pre_command(unsigned, key)
    assert check_signature(decode_message(inner), KEYRING) is Verdict.VALID
    whole = add_mac(inner, unsigned.header, KEYRING, BROKER, PPMID)
    assert check_mac(decode_message(whole), KEYRING) is Verdict.VALID
    assert decode_message(whole).signed_octets == decode_message(octets).signed_octets


def test_message_of_an_expired_certificate_has_no_key_where_dates_count() -> None:
    dated = Keyring(build_keys(b"dated", days=10))  # organisations from 2020-01-01 to 2020-01-11
    first_day = 7305 * 86_400
    payload = encode_cs06_command(ActivateFirmware(bytes(32), 1000))
    octets = seal_critical(ACTIVATE, payload, dated.signing_key(SUPPLIER), dated, BROKER, PPMID)
    message = decode_message(octets)
    for utc, expected in (
        (None, Verdict.VALID),
        (first_day, Verdict.VALID),
        (first_day + 11 * 86_400, Verdict.NO_KEY),
        (first_day - 1, Verdict.NO_KEY),
    ):
        keyring = dated.at(utc)
        assert check_signature(message, keyring) is expected
        assert check_mac(message, keyring) is expected
    assert certificates_behind(message, dated) == (
        f"{SUPPLIER.hex}-ds",
        f"{PPMID.hex}-ka",
        f"{BROKER.hex}-ka",
    )


def test_message_signed_with_the_originators_agreement_key_is_invalid() -> None:
    keys = Keyring(KEYS | {f"{PPMID.hex}-ds.key": KEYS[f"{PPMID.hex}-ka.key"]})
    message = decode_message(seal_signed(ALERT, b"\5\0", keys.signing_key(PPMID)))
    assert check_signature(message, KEYRING) is Verdict.INVALID


@pytest.mark.parametrize("user", [None, SUPPLIER])
def test_content_opens_for_its_user_and_its_device_alone(user: EntityId | None) -> None:
    header = replace(RESPONSE, supplementary_party=user, supplementary_originator_counter=7)
    header = header if user else replace(RESPONSE, supplementary_party=None, recipient=SUPPLIER)
    device = without(f"{SUPPLIER.hex}-ka.key")
    sealed = seal_content(b"reading", header, device)
    assert sealed.startswith(CONTENT_HEADER)
    assert len(sealed) == len(CONTENT_HEADER) + len(b"reading") + 12
    assert open_content(sealed, header, without(f"{PPMID.hex}-ka.key")) == b"reading"
    with pytest.raises(KeyMissingError):
        open_content(sealed, header, without(f"{PPMID.hex}-ka.key", f"{SUPPLIER.hex}-ka.key"))
    for at in range(len(sealed)):
        spoilt = bytearray(sealed)
        spoilt[at] ^= 1
        with pytest.raises(DecodeError):
            open_content(bytes(spoilt), header, KEYRING)
    for size in range(len(CONTENT_HEADER) + 12):
        with pytest.raises(DecodeError):
            open_content(sealed[:size], header, KEYRING)
    with pytest.raises(DecodeError, match="tag"):
        open_content(sealed, replace(header, originator=GSME), KEYRING)


@needs_vectors
def test_reference_content_opens_with_the_users_key() -> None:
    # GBZ, one component: its ZCL header and a length of 46 stand before the sealed octets.
    message = decode_message(reference_messages()["GCS13a_4.1.1_SUCCESS_UNRELIABLE_RESPONSE"])
    sealed = message.payload[15 : 15 + 46]
    plain = open_content(sealed, message.header, Keyring(reference_keys()))
    assert plain.hex() == "02030022e8030001030022010000000300300100000025393000000000"
    assert seal_content(plain, message.header, Keyring(reference_keys())) == sealed


def test_sealing_without_the_key_tells_which_is_missing() -> None:
    with pytest.raises(KeyMissingError, match=f"{BROKER.hex}-ka"):
        seal_maced(READ_VERSION, b"\5\0", without(f"{BROKER.hex}-ka.key"), BROKER, PPMID)
