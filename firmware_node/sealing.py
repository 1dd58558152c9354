"""Puts keys and GBCS messages together: signatures, MACs, encrypted content.

Device, head end, hub and decoder all come here, each with its own keyring; the reference messages
hold it to the standard. A keyring taken ``at`` a moment checks the dates of certificates as well:
a message whose certificate has expired then has no key. Source: gbcs.md 4.4, 4.5, 4.7, 4.8.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from enum import Enum

from firmware_node.crypto import (
    KDF_ALGORITHM_ID,
    TAG_SIZE,
    Keyring,
    SigningKey,
    derive_key,
    gcm_open,
    gcm_seal,
    gmac,
)
from firmware_node.errors import DecodeError, KeyMissingError
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

# Security control (suite 1, authenticated and encrypted) and invocation counter, before content.
CONTENT_HEADER = bytes.fromhex("3100000000")
_CONTENT_FLAG = 4  # stands where the CRA flag stands in a message's key
_WHAT_CONTENT = "encrypted content"


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


def check_mac(message: Message, keyring: Keyring, also: Sequence[EntityId] = ()) -> Verdict:
    """Check the MAC with whichever private half of the two key-agreement keys is here.

    A command's MAC is the access control broker's, whoever originated it (gbcs.md 4.5). ``also``
    are parties of whom nothing certifies that they are no brokers: for tools, not for devices.
    """
    if not message.mac:
        return Verdict.ABSENT
    verdicts = {_mac_by(party, message, keyring) for party in _mac_parties(message.header, keyring)}
    if Verdict.VALID not in verdicts and _is_brokers(message.header, keyring):
        others = (_mac_by(party, message, keyring) for party in also)
        verdicts |= {verdict for verdict in others if verdict is Verdict.VALID}
    for verdict in (Verdict.VALID, Verdict.INVALID):
        if verdict in verdicts:
            return verdict
    return Verdict.NO_KEY


def _mac_by(party: EntityId, message: Message, keyring: Keyring) -> Verdict:
    """Whether the MAC was made between the recipient and ``party``."""
    header = message.header
    try:
        secret = _secret_between(header.recipient, party, keyring)
    except KeyMissingError:
        return Verdict.NO_KEY
    expected = gmac(message_key(secret, header), _iv(header), message.mac_covered)
    valid = hmac.compare_digest(expected, message.mac)
    return Verdict.VALID if valid else Verdict.INVALID


def certificates_behind(message: Message, keyring: Keyring) -> tuple[str, ...]:
    """Stems of the key files that ``check_signature`` and ``check_mac`` ask, private ones aside."""
    header = message.header
    names = [f"{header.originator.hex}-ds"] if message.signature else []
    if message.mac:
        parties = (header.recipient, *_mac_parties(header, keyring))
        names += [f"{party.hex}-ka" for party in parties]
    return tuple(names)


def _secret_between(one: EntityId, other: EntityId, keyring: Keyring) -> bytes:
    """The two parties' shared secret, by whichever private half is here."""
    if keyring.can_agree(one):
        return keyring.shared_secret(one, other)
    return keyring.shared_secret(other, one)


def _mac_parties(header: GroupingHeader, keyring: Keyring) -> tuple[EntityId, ...]:
    """Whose key-agreement key may have made the MAC besides the recipient's."""
    if _is_brokers(header, keyring):
        return keyring.find(Role.ACCESS_CONTROL_BROKER)
    return (header.originator,)


def _is_brokers(header: GroupingHeader, keyring: Keyring) -> bool:
    """Whether the access control broker makes the MAC.

    It does for commands, but a device that commands another (PPMID to GSME) does so itself.
    """
    return header.cra is Cra.COMMAND and not keyring.is_device(header.originator)


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


def sign_pre_command(message: Message, key: SigningKey) -> bytes:
    """A Pre-Command with its originator's signature, over the octets as they arrived."""
    return signed_message(message.signed_octets, key.sign(message.signed_octets))


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


def open_content(sealed: bytes, header: GroupingHeader, keyring: Keyring) -> bytes:
    """Decrypt content that a device encrypted for a User: ``CONTENT_HEADER``, octets, tag.

    The User is the supplementary party where there is one, else the recipient (gbcs.md 4.7).

    Raises:
        DecodeError: another form, or the tag is wrong.
        KeyMissingError: neither private half of the pair is here.
    """
    if sealed[: len(CONTENT_HEADER)] != CONTENT_HEADER:
        raise DecodeError(_WHAT_CONTENT, 0, f"expected {CONTENT_HEADER.hex()}")
    if len(sealed) < len(CONTENT_HEADER) + TAG_SIZE:
        raise DecodeError(_WHAT_CONTENT, len(sealed), "no room for a tag")
    key = _content_key(header, keyring)
    plain = gcm_open(key, _iv(header), sealed[len(CONTENT_HEADER) :], CONTENT_HEADER[:1])
    if plain is None:
        raise DecodeError(_WHAT_CONTENT, len(sealed) - TAG_SIZE, "the tag is wrong")
    return plain


def seal_content(plain: bytes, header: GroupingHeader, keyring: Keyring) -> bytes:
    """See ``open_content``."""
    key = _content_key(header, keyring)
    return CONTENT_HEADER + gcm_seal(key, _iv(header), plain, CONTENT_HEADER[:1])


def _content_key(header: GroupingHeader, keyring: Keyring) -> bytes:
    user, counter = header.supplementary_party, header.supplementary_originator_counter
    user = header.recipient if user is None else user
    counter = header.originator_counter if counter is None else counter
    other_info = b"".join(
        (
            KDF_ALGORITHM_ID,
            header.originator.octets,
            bytes((9, _CONTENT_FLAG)),
            counter.to_bytes(8, "big"),
            user.octets,
        )
    )
    return derive_key(_secret_between(user, header.originator, keyring), other_info)


def _iv(header: GroupingHeader) -> bytes:
    return header.originator.octets + bytes(4)
