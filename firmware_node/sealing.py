"""Puts keys and GBCS messages together: makes and checks signatures and MACs.

Device, head end, hub and decoder all come here, each with its own keyring; the reference messages
hold it to the standard. Source: gbcs.md 4.4, 4.5, 4.7.
"""

from __future__ import annotations

import hmac
from enum import Enum

from firmware_node.crypto import KDF_ALGORITHM_ID, Keyring, SigningKey, derive_key, gmac
from firmware_node.errors import KeyMissingError
from firmware_node.terms import EntityId, Role
from firmware_node.wire.gbcs import (
    Cra,
    GroupingHeader,
    Message,
    encode_signed_octets,
    mac_covered,
    maced_message,
    signed_message,
    transaction_id,
)


class Verdict(Enum):
    """On a signature or a MAC (contract: ``gbcs decode``)."""

    VALID = "valid"
    INVALID = "invalid"
    ABSENT = "absent"
    NO_KEY = "no-key"


def check_signature(message: Message, keyring: Keyring) -> Verdict:
    """Check the signature with the originator's digital-signature key."""
    if not message.signature:
        return Verdict.ABSENT
    try:
        key = keyring.verify_key(message.header.originator)
    except KeyMissingError:
        return Verdict.NO_KEY
    valid = key.is_valid(message.signature, message.signed_octets)
    return Verdict.VALID if valid else Verdict.INVALID


def check_mac(message: Message, keyring: Keyring) -> Verdict:
    """Check the MAC with whichever private half of the two key-agreement keys is here.

    A command's MAC is the access control broker's, whoever originated it (gbcs.md 4.5).
    """
    if not message.mac:
        return Verdict.ABSENT
    header = message.header
    verdict = Verdict.NO_KEY
    for party in _mac_parties(header, keyring):
        try:
            if keyring.can_agree(header.recipient):
                secret = keyring.shared_secret(header.recipient, party)
            else:
                secret = keyring.shared_secret(party, header.recipient)
        except KeyMissingError:
            continue
        expected = gmac(message_key(secret, header), _iv(header), message.mac_covered)
        if hmac.compare_digest(expected, message.mac):
            return Verdict.VALID
        verdict = Verdict.INVALID
    return verdict


def _mac_parties(header: GroupingHeader, keyring: Keyring) -> tuple[EntityId, ...]:
    """Whose key-agreement key may have made the MAC besides the recipient's.

    A device that commands another (PPMID to GSME) does so with its own key.
    """
    if header.cra is not Cra.COMMAND or keyring.is_device(header.originator):
        return (header.originator,)
    return keyring.find(Role.ACCESS_CONTROL_BROKER)


def message_key(shared_secret: bytes, header: GroupingHeader) -> bytes:
    """The key of one message: its own header makes it unlike any other's (gbcs.md 4.7)."""
    other_info = (
        KDF_ALGORITHM_ID
        + header.originator.octets
        + transaction_id(header)
        + header.recipient.octets
    )
    return derive_key(shared_secret, other_info)


def seal_signed(header: GroupingHeader, payload: bytes, key: SigningKey) -> bytes:
    """A critical response or alert: signed, no MAC."""
    signed_octets = encode_signed_octets(header, payload)
    return signed_message(signed_octets, key.sign(signed_octets))


def seal_maced(
    header: GroupingHeader, payload: bytes, keyring: Keyring, own: EntityId, peer: EntityId
) -> bytes:
    """A non-critical message: empty signature field, MAC between ``own`` and ``peer``."""
    inner = signed_message(encode_signed_octets(header, payload), b"")
    return add_mac(inner, header, keyring, own, peer)


def seal_critical(
    header: GroupingHeader,
    payload: bytes,
    key: SigningKey,
    keyring: Keyring,
    own: EntityId,
    peer: EntityId,
) -> bytes:
    """A critical command: the originator's signature, then the broker's MAC over it as well.

    ``key`` signs for the originator; ``own`` and ``peer`` are the access control broker and the
    recipient.
    """
    signed_octets = encode_signed_octets(header, payload)
    inner = signed_message(signed_octets, key.sign(signed_octets))
    return add_mac(inner, header, keyring, own, peer)


def add_mac(
    inner: bytes, header: GroupingHeader, keyring: Keyring, own: EntityId, peer: EntityId
) -> bytes:
    """Put the DD form with the MAC between ``own`` and ``peer`` around a DF form."""
    key = message_key(keyring.shared_secret(own, peer), header)
    return maced_message(inner, gmac(key, _iv(header), mac_covered(inner)))


def _iv(header: GroupingHeader) -> bytes:
    return header.originator.octets + bytes(4)
