"""Named bad GBCS messages, each made from a good one, with what a device should answer.

A mutation that is to reach a late check carries valid cryptography up to there: the message is
sealed again with the keys of a folder, in the form it had. Which check catches what is the order of
gbcs-supplement 1.2; its numbers stand in the answers. Keys are only looked for where they are used,
so what needs none works without a folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from firmware_node.crypto import Keyring, SigningKey, private_key_from
from firmware_node.errors import ConfigError, DecodeError
from firmware_node.sealing import add_mac
from firmware_node.terms import EntityId, Role
from firmware_node.wire import der, gbt
from firmware_node.wire import firmware_messages as fm
from firmware_node.wire.gbcs import (
    Cra,
    GroupingHeader,
    Message,
    decode_message,
    encode_message,
    encode_signed_octets,
    maced_message,
    pre_command,
    signed_message,
)

COUNTER_MAX = 2**64 - 1
FOREIGN_USE_CASE = 0x00B3  # ECS04b, reset an ESME's meter balance: none of our devices knows it
STRANGER = EntityId.parse("90-B3-D5-1F-3F-FF-FF-FF")
BLOCKS = 3  # into which the GBT mutations cut a message
_STRANGERS_KEY = b"a party that nobody knows"


@dataclass(frozen=True, slots=True)
class Subject:
    """The good message and what is at hand to spoil it."""

    message: Message
    keyring: Keyring
    at: int | None  # now, in seconds since 2000-01-01

    @property
    def header(self) -> GroupingHeader:
        """Its grouping header."""
        return self.message.header


@dataclass(frozen=True, slots=True)
class Mutation:
    """How one kind of bad message is made; ``answer`` is one line on what a device should do."""

    make: Callable[[Subject], tuple[bytes, ...]]
    answer: str


def mutate(octets: bytes, name: str, keyring: Keyring, at: int | None = None) -> tuple[bytes, ...]:
    """The bad message, or the blocks that carry it.

    Raises:
        ConfigError: unknown name, no message in order, or nothing in it that can be spoilt so.
        KeyMissingError: a key that sealing needs is not in the keyring.
    """
    if name not in MUTATIONS:
        raise ConfigError(f"mutation {name!r}: expected one of {' '.join(MUTATIONS)}")
    try:
        message = decode_message(octets)
    except DecodeError as error:
        raise ConfigError(f"only a message in order can be spoilt: {error}") from error
    return MUTATIONS[name].make(Subject(message, keyring, at))


# --- cryptography ---------------------------------------------------------------------------------


def _wrong_mac(subject: Subject) -> tuple[bytes, ...]:
    mac = subject.message.mac
    if not mac:
        raise ConfigError("wrong-mac: the message has no MAC")
    return (encode_message(replace(subject.message, mac=_flip(mac))),)


def _wrong_signature(subject: Subject) -> tuple[bytes, ...]:
    signature = _signature_of(subject, "wrong-signature")
    inner = signed_message(subject.message.signed_octets, _flip(signature))
    return (_with_mac(subject, inner, subject.header),)


def _other_supplier_signature(subject: Subject) -> tuple[bytes, ...]:
    _signature_of(subject, "other-supplier-signature")
    suppliers = subject.keyring.find(Role.SUPPLIER)
    others = [who for who in suppliers if who != subject.header.originator]
    signable = [who for who in others if f"{who.hex}-ds.key" in subject.keyring.names()]
    if not signable:
        raise ConfigError("other-supplier-signature: no other supplier's signing key in the folder")
    return (_seal(subject, signer=subject.keyring.signing_key(signable[0])),)


def _wrong_usage_certificate(subject: Subject) -> tuple[bytes, ...]:
    """What is signed is signed with a key-agreement key; what is only MACed, with a signing key."""
    header, files = subject.header, subject.keyring.file
    if subject.message.signature:
        who = header.originator.hex
        swapped = Keyring({f"{who}-ds.key": files(f"{who}-ka.key")})
        return (_seal(subject, signer=swapped.signing_key(header.originator)),)
    if not subject.message.mac:
        raise ConfigError("wrong-usage-certificate: the message has neither signature nor MAC")
    own, peer = _mac_pair(header, subject.keyring)
    names = (f"{own.hex}-ds.key", f"{peer.hex}-ka.pem")
    swapped = Keyring({f"{own.hex}-ka.key": files(names[0]), names[1]: files(names[1])})
    inner = signed_message(subject.message.signed_octets, b"")
    return (add_mac(inner, header, swapped, own, peer),)


def _expired_certificate(subject: Subject) -> tuple[bytes, ...]:
    """Authentic, and of a party whose certificate is outside its dates."""
    usage = "ds" if subject.message.signature else "ka"
    stem = f"{subject.header.originator.hex}-{usage}"
    if subject.at is None or subject.keyring.at(subject.at).objection(stem) is None:
        raise ConfigError(
            f"expired-certificate: {stem}.pem holds now; keys create --days makes such that expire"
        )
    return (_seal(subject),)


# --- identities and counters ----------------------------------------------------------------------


def _replay(subject: Subject) -> tuple[bytes, ...]:
    return (encode_message(subject.message),)


def _counter_lower(subject: Subject) -> tuple[bytes, ...]:
    if subject.header.originator_counter == 0:
        raise ConfigError("counter-lower: the counter is 0")
    return (_with_counter(subject, subject.header.originator_counter - 1),)


def _counter_max(subject: Subject) -> tuple[bytes, ...]:
    header = replace(subject.header, originator_counter=COUNTER_MAX)
    return (_seal(subject, header),)


def _payload_counter_differs(subject: Subject) -> tuple[bytes, ...]:
    payload = _payload_with_counter(subject, subject.header.originator_counter + 1)
    if payload is None:
        raise ConfigError("payload-counter-differs: only a CS06 command's payload has a counter")
    return (_seal(subject, payload=payload),)


def _wrong_recipient(subject: Subject) -> tuple[bytes, ...]:
    keyring, recipient = subject.keyring, subject.header.recipient
    devices = [who for who in keyring.entities() if keyring.is_device(who) and who != recipient]
    if not devices:
        raise ConfigError("wrong-recipient: no other device's certificates in the folder")
    return (_seal(subject, replace(subject.header, recipient=devices[0])),)


def _unknown_originator(subject: Subject) -> tuple[bytes, ...]:
    header = replace(subject.header, originator=STRANGER)
    return (_seal(subject, header, signer=SigningKey(private_key_from(_STRANGERS_KEY))),)


def _wrong_role(subject: Subject) -> tuple[bytes, ...]:
    """A party that the device knows, in the role that may not send this."""
    keyring = subject.keyring
    role = keyring.role(subject.header.originator)
    if subject.header.cra is not Cra.COMMAND or role is None:
        raise ConfigError("wrong-role: expected a command of an organisation in the folder")
    other = Role.SUPPLIER if role is Role.ACCESS_CONTROL_BROKER else Role.ACCESS_CONTROL_BROKER
    parties = keyring.find(other)
    if not parties:
        raise ConfigError(f"wrong-role: no {other.name.lower()} in the folder")
    return (_seal(subject, replace(subject.header, originator=parties[0])),)


def _other_device_use_case(subject: Subject) -> tuple[bytes, ...]:
    return (_seal(subject, replace(subject.header, message_code=FOREIGN_USE_CASE)),)


# --- form -----------------------------------------------------------------------------------------


def _truncated_der(subject: Subject) -> tuple[bytes, ...]:
    return (_seal(subject, payload=_der_payload(subject, "truncated-der")[:-1]),)


def _non_minimal_der(subject: Subject) -> tuple[bytes, ...]:
    payload = _der_payload(subject, "non-minimal-der")
    count = payload[1] & 0x7F if payload[1] >= 0x80 else 0
    start = 2 + count
    length = int.from_bytes(payload[2:start], "big") if count else payload[1]
    wider = bytes((0x80 | count + 1,)) + length.to_bytes(count + 1, "big")
    return (_seal(subject, payload=payload[:1] + wider + payload[start:]),)


def _trailing_bytes(subject: Subject) -> tuple[bytes, ...]:
    return (_seal(subject, payload=subject.message.payload + b"\0\0"),)


def _giant_length(subject: Subject) -> tuple[bytes, ...]:
    """The payload's length says 65,535; the outer length is right."""
    message = subject.message
    whole = encode_signed_octets(message.header, b"")  # ends with the payload's length, 00
    inner = pre_command(whole[:-1] + b"\x82\xff\xff" + message.payload)
    if message.signature or message.mac:
        inner += bytes((len(message.signature),)) + message.signature
    return (maced_message(inner, message.mac) if message.mac else inner,)


# --- blocks ---------------------------------------------------------------------------------------


def _gbt_missing_block(subject: Subject) -> tuple[bytes, ...]:
    first, _, *rest = _blocks(subject)
    return tuple(map(gbt.encode_block, (first, *rest)))


def _gbt_repeated_block(subject: Subject) -> tuple[bytes, ...]:
    first, second, *rest = _blocks(subject)
    return tuple(map(gbt.encode_block, (first, second, second, *rest)))


def _gbt_overlapping_block(subject: Subject) -> tuple[bytes, ...]:
    """The second number comes twice, with different octets."""
    first, second, *rest = _blocks(subject)
    other = replace(second, data=_flip(second.data))
    return tuple(map(gbt.encode_block, (first, second, other, *rest)))


def _blocks(subject: Subject) -> tuple[gbt.Block, ...]:
    octets = encode_message(subject.message)
    return gbt.split(octets, gbt.Series.of(subject.header), -(-len(octets) // BLOCKS))


MUTATIONS: Mapping[str, Mutation] = {
    "wrong-mac": Mutation(_wrong_mac, "7: silence, logs 8F53"),
    "wrong-signature": Mutation(_wrong_signature, "8: silence, logs 8F53"),
    "replay": Mutation(_replay, "6, sent second: silence, logs 8F60; the first is carried out"),
    "counter-lower": Mutation(_counter_lower, "6, sent after the good one: silence, logs 8F60"),
    "counter-max": Mutation(
        _counter_max,
        "authentic: CS08 is answered and its role has no counter left; CS06 9: silence, logs 8F1E",
    ),
    "payload-counter-differs": Mutation(_payload_counter_differs, "9: silence, logs 8F1E"),
    "wrong-recipient": Mutation(_wrong_recipient, "2: silence, logs 8F53"),
    "unknown-originator": Mutation(_unknown_originator, "4: silence, logs 8F53"),
    "wrong-role": Mutation(_wrong_role, "5: no response, logs 8F30, alert 8F30"),
    "other-device-use-case": Mutation(_other_device_use_case, "3: silence, logs 8F1E"),
    "wrong-usage-certificate": Mutation(
        _wrong_usage_certificate, "8 (7 without a signature): silence, logs 8F53"
    ),
    "expired-certificate": Mutation(
        _expired_certificate,
        "authentic: carried out; with check_validity 8 (7, 4): silence, logs 8F53",
    ),
    "other-supplier-signature": Mutation(_other_supplier_signature, "8: silence, logs 8F53"),
    "truncated-der": Mutation(_truncated_der, "9: silence, logs 8F1E"),
    "non-minimal-der": Mutation(_non_minimal_der, "9: silence, logs 8F1E"),
    "trailing-bytes": Mutation(_trailing_bytes, "9: silence, logs 8F1E"),
    "giant-length": Mutation(_giant_length, "1: silence, logs 8F1E"),
    "gbt-missing-block": Mutation(_gbt_missing_block, "silence; nothing is put together"),
    "gbt-repeated-block": Mutation(_gbt_repeated_block, "as the good message: it counts once"),
    "gbt-overlapping-block": Mutation(
        _gbt_overlapping_block, "the contradicting block is refused, logs 8F1E"
    ),
}


# --- sealing again --------------------------------------------------------------------------------


def _seal(
    subject: Subject,
    header: GroupingHeader | None = None,
    payload: bytes | None = None,
    signer: SigningKey | None = None,
) -> bytes:
    """The message with another header, payload or signer, in the form that it had."""
    message = subject.message
    header = message.header if header is None else header
    payload = message.payload if payload is None else payload
    signed_octets = encode_signed_octets(header, payload)
    if message.is_pre_command:
        return pre_command(signed_octets)
    signature = b""
    if message.signature:
        signer = signer or subject.keyring.signing_key(header.originator)
        signature = signer.sign(signed_octets)
    return _with_mac(subject, signed_message(signed_octets, signature), header)


def _with_mac(subject: Subject, inner: bytes, header: GroupingHeader) -> bytes:
    """A DF form in its DD form, where the message had one."""
    if not subject.message.mac:
        return inner
    own, peer = _mac_pair(header, subject.keyring)
    return add_mac(inner, header, subject.keyring, own, peer)


def _mac_pair(header: GroupingHeader, keyring: Keyring) -> tuple[EntityId, EntityId]:
    """Whose keys make the MAC, the one first whose private half is here (gbcs.md 4.5)."""
    party = header.originator
    if header.cra is Cra.COMMAND and not keyring.is_device(party):
        brokers = keyring.find(Role.ACCESS_CONTROL_BROKER)
        if not brokers:
            raise ConfigError("no access control broker in the folder: its key makes the MAC")
        party = brokers[0]
    if keyring.can_agree(party):
        return party, header.recipient
    return header.recipient, party


def _with_counter(subject: Subject, counter: int) -> bytes:
    header = replace(subject.header, originator_counter=counter)
    return _seal(subject, header, _payload_with_counter(subject, counter))


def _payload_with_counter(subject: Subject, counter: int) -> bytes | None:
    """The payload that repeats another counter; None: this one repeats none."""
    header = subject.header
    if header.message_code != fm.CS06_ACTIVATE_FIRMWARE or header.cra is not Cra.COMMAND:
        return None
    command = fm.decode_cs06_command(subject.message.payload)
    return fm.encode_cs06_command(replace(command, originator_counter=counter))


def _der_payload(subject: Subject, name: str) -> bytes:
    payload = subject.message.payload
    if len(payload) < 2 or payload[0] not in (der.SEQUENCE, der.NULL, der.INTEGER):
        raise ConfigError(f"{name}: the payload is not DER")
    return payload


def _signature_of(subject: Subject, name: str) -> bytes:
    if not subject.message.signature:
        raise ConfigError(f"{name}: the message has no signature")
    return subject.message.signature


def _flip(octets: bytes) -> bytes:
    return bytes((octets[0] ^ 1,)) + octets[1:]
