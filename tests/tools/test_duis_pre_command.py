"""SR 11.3 from request to command, octet for octet as the reference messages have it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from test_duis import HASH, HCALCS, KEYRING, SUPPLIER, activate, published
from vectors import needs_vectors, reference_keys, reference_messages

from firmware_node.boundary import CarryMessage, SendSigned
from firmware_node.crypto import Keyring
from firmware_node.errors import ConfigError, KeyMissingError
from firmware_node.rig.head_end import HeadEnd
from firmware_node.sealing import Verdict, check_signature
from firmware_node.terms import EntityId
from firmware_node.tools.duis import (
    build_signed_pre_command_request,
    parse_request,
    read_signed_pre_command,
    sign_pre_command,
    transform,
)
from firmware_node.wire import firmware_messages as fm
from firmware_node.wire.gbcs import Cra, GroupingHeader, decode_message, signed_message
from firmware_node.wire.gbcs import encode_signed_octets as signed_octets

BROKER = EntityId.parse("90b3d51f30000002")
KINDS = ("IMMEDIATE", "FUTURE_DATED", "CANCELLATION")


@needs_vectors
@pytest.mark.parametrize("kind", KINDS)
def test_the_published_request_becomes_the_reference_pre_command(kind: str) -> None:
    request = parse_request(published(f"CS06_11.3_{kind}_SUCCESS"))
    assert transform(request) == reference_messages()[f"CS06_11.3_{kind}_SUCCESS_PRECOMMAND"]


@needs_vectors
@pytest.mark.parametrize("kind", KINDS)
def test_the_reference_signature_and_our_mac_give_the_reference_command(kind: str) -> None:
    keyring = Keyring(reference_keys())
    command = reference_messages()[f"CS06_11.3_{kind}_SUCCESS_COMMAND"]
    pre_command = transform(parse_request(published(f"CS06_11.3_{kind}_SUCCESS")))
    signature = decode_message(command).signature
    signed = signed_message(pre_command[1:], signature)
    head_end = HeadEnd(BROKER, keyring, first_counter=1)
    (effect,) = head_end.step(SendSigned("r", signed), 0)
    assert isinstance(effect, CarryMessage)
    assert effect.message == command
    assert effect.recipient == EntityId.parse("00db1234567890a0")


@needs_vectors
@pytest.mark.parametrize("kind", KINDS)
def test_the_reference_supplier_signs_what_its_own_certificate_verifies(kind: str) -> None:
    keyring = Keyring(reference_keys())
    request = parse_request(published(f"CS06_11.3_{kind}_SUCCESS"))
    pre_command = reference_messages()[f"CS06_11.3_{kind}_SUCCESS_PRECOMMAND"]
    signed = sign_pre_command(request, pre_command, keyring)
    assert check_signature(decode_message(signed), keyring) is Verdict.VALID
    assert signed[: len(pre_command)] == pre_command
    assert len(signed) == len(pre_command) + 65


def test_an_empty_signature_field_behind_a_pre_command_is_left_out() -> None:
    request = parse_request(activate())
    pre_command = transform(request)
    once = sign_pre_command(request, pre_command, KEYRING)
    twice = sign_pre_command(request, pre_command + b"\0", KEYRING)
    assert decode_message(once).signed_octets == decode_message(twice).signed_octets
    assert len(once) == len(twice)


@pytest.mark.parametrize("at", range(len(transform(parse_request(activate())))))
def test_a_user_signs_nothing_that_it_did_not_ask_for(at: int) -> None:
    request = parse_request(activate())
    other = bytearray(transform(request))
    other[at] ^= 1
    with pytest.raises(ConfigError, match="not signed"):
        sign_pre_command(request, bytes(other), KEYRING)


def test_signing_needs_the_users_own_key() -> None:
    request = parse_request(activate())
    with pytest.raises(KeyMissingError):
        sign_pre_command(request, transform(request), Keyring({}))


def signed_request(message: bytes) -> bytes:
    return build_signed_pre_command_request(parse_request(activate()), message, KEYRING)


def test_a_signed_pre_command_is_read_back() -> None:
    request = parse_request(activate("2030-01-15T09:00:00Z"))
    signed = sign_pre_command(request, transform(request), KEYRING)
    message, command = read_signed_pre_command(parse_request(signed_request(signed)))
    assert command == fm.ActivateFirmware(HASH, 7, 948013200)
    assert (message.header.originator, message.header.recipient) == (SUPPLIER, HCALCS)


def crafted(header: GroupingHeader, payload: bytes | None = None) -> bytes:
    """A message of this header, signed by the supplier."""
    if payload is None:
        payload = fm.encode_cs06_command(fm.ActivateFirmware(HASH, 7))
    octets = signed_octets(header, payload)
    return signed_message(octets, KEYRING.signing_key(SUPPLIER).sign(octets))


GOOD = GroupingHeader(Cra.COMMAND, 7, SUPPLIER, HCALCS, fm.CS06_ACTIVATE_FIRMWARE)


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (crafted(replace(GOOD, originator_counter=8)), "other ids"),
        (crafted(replace(GOOD, originator=BROKER)), "other ids"),
        (crafted(replace(GOOD, recipient=BROKER)), "other ids"),
        (crafted(replace(GOOD, message_code=0x0013)), "found message code 0013"),
        (crafted(replace(GOOD, cra=Cra.RESPONSE)), "expected a CS06 command"),
        (crafted(GOOD, b"\x05\x00"), "CS06 command"),
        (crafted(GOOD)[:-1], "signature"),
        (transform(parse_request(activate())), "expected a signature"),
        (b"octets", "signed Pre-Command"),
    ],
)
def test_what_is_no_signed_pre_command_of_its_request_is_refused(message: bytes, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        read_signed_pre_command(parse_request(signed_request(message)))


def test_a_pre_command_that_has_its_mac_already_is_refused() -> None:
    (effect,) = HeadEnd(BROKER, KEYRING, first_counter=1).step(SendSigned("r", crafted(GOOD)), 0)
    assert isinstance(effect, CarryMessage)
    with pytest.raises(ConfigError, match="no MAC"):
        read_signed_pre_command(parse_request(signed_request(effect.message)))
