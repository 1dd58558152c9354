"""The GBCS envelope: MAC header, grouping header, payload, signature, MAC.

Signed and MACed octets are slices of what was received, never an encoding of what was understood.
Here are structure and ranges; keys and verdicts are in ``sealing``. Integers are big-endian.
Source: gbcs.md 4.1 to 4.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from firmware_node.errors import DecodeError
from firmware_node.terms import EntityId
from firmware_node.wire.cursor import Cursor, encode_length

MAC_HEADER = bytes.fromhex("DD000000000000")  # six empty DLMS fields
SECURITY_HEADER = bytes.fromhex("1100000000")  # security control, invocation counter
MAC_SIZE = 12
SIGNATURE_SIZE = 64
MESSAGE_SIZE_MAX = 8192  # octets; the largest of the reference set has under 5,000


class Cra(IntEnum):
    """Command, response or alert."""

    COMMAND = 1
    RESPONSE = 2
    ALERT = 3


@dataclass(frozen=True, slots=True)
class GroupingHeader:
    """The grouping header (gbcs.md 4.3). Other-information grows in the order of its fields."""

    cra: Cra
    originator_counter: int
    originator: EntityId
    recipient: EntityId
    message_code: int
    date_time: bytes = b""  # empty or a 12-octet DLMS date-time
    supplementary_party: EntityId | None = None
    supplementary_counter: int | None = None
    supplementary_originator_counter: int | None = None
    certificate: bytes = b""  # the User's key-agreement certificate


@dataclass(frozen=True, slots=True)
class Message:
    """A decoded message; the two ranges are what signature and MAC were made over."""

    header: GroupingHeader
    payload: bytes
    signature: bytes  # 64 octets r||s, or empty
    mac: bytes  # 12 octets, or empty
    signed_octets: bytes
    mac_covered: bytes  # additional authenticated data; empty without a MAC

    @property
    def is_pre_command(self) -> bool:
        """A critical command before its signature: neither signature nor MAC."""
        return self.header.cra is Cra.COMMAND and not self.signature and not self.mac


def decode_message(data: bytes) -> Message:
    """Read one message: DD and DF form, DF form, or a Pre-Command, which ends with its payload.

    Older tool chains put an empty signature field (00) behind a Pre-Command; it is accepted.
    Other protection does not go without its field: a DF form that ends with its payload, or that
    has an empty signature field, is a command, as responses and alerts have a signature or a MAC.

    Raises:
        DecodeError: any length, tag or field is off, or octets are left.
    """
    if len(data) > MESSAGE_SIZE_MAX:
        raise DecodeError("GBCS message", MESSAGE_SIZE_MAX, f"{len(data)} octets")
    cursor = Cursor(data, "GBCS message")
    maced = data[:1] == b"\xdd"
    if maced:
        cursor.literal(MAC_HEADER, "MAC header")
        size = cursor.length("MAC header")
        if size != cursor.left:
            raise cursor.error(f"MAC header: length {size}, found {cursor.left}")
        cursor.literal(SECURITY_HEADER, "security header")
    inner = cursor.at
    cursor.literal(b"\xdf", "grouping header")
    header = _decode_header(cursor)
    payload = cursor.take(cursor.length("payload"), "payload")
    signed_octets = data[inner + 1 : cursor.at]
    signature = b""
    if maced or cursor.at < len(data):
        size = cursor.length("signature")
        if size not in (0, SIGNATURE_SIZE):
            raise cursor.error(f"signature of {size} octets")
        signature = cursor.take(size, "signature")
    covered = SECURITY_HEADER + b"\0" + data[inner : cursor.at] if maced else b""
    mac = cursor.take(MAC_SIZE, "MAC") if maced else b""
    cursor.finish()
    if not maced and not signature and header.cra is not Cra.COMMAND:
        raise cursor.error("response or alert without protection")
    return Message(header, payload, signature, mac, signed_octets, covered)


def encode_message(message: Message) -> bytes:
    """The octets of a message; one without signature and MAC is a Pre-Command.

    For builders and tests: whoever received a message checks the slices, never this.
    """
    signed_octets = encode_signed_octets(message.header, message.payload)
    if not message.signature and not message.mac:
        return pre_command(signed_octets)
    inner = signed_message(signed_octets, message.signature)
    return maced_message(inner, message.mac) if message.mac else inner


def encode_signed_octets(header: GroupingHeader, payload: bytes) -> bytes:
    """Everything behind the DF tag up to the end of the payload: what a signature is made over."""
    information = header.message_code.to_bytes(2, "big")
    if header.supplementary_party is not None:
        information += header.supplementary_party.octets
    if header.supplementary_counter is not None:
        information += header.supplementary_counter.to_bytes(8, "big")
    if header.supplementary_originator_counter is not None:
        information += header.supplementary_originator_counter.to_bytes(8, "big")
    information += header.certificate
    return b"".join(
        (
            transaction_id(header),
            b"\x08",
            header.originator.octets,
            b"\x08",
            header.recipient.octets,
            encode_length(len(header.date_time)),
            header.date_time,
            encode_length(len(information)),
            information,
            encode_length(len(payload)),
            payload,
        )
    )


def transaction_id(header: GroupingHeader) -> bytes:
    """Length 09, CRA flag, originator counter."""
    return bytes((9, header.cra)) + header.originator_counter.to_bytes(8, "big")


def pre_command(signed_octets: bytes) -> bytes:
    """DF form that ends with the payload: what a User gets to sign (gbcs.md 4.1)."""
    return b"\xdf" + signed_octets


def signed_message(signed_octets: bytes, signature: bytes) -> bytes:
    """DF form: with 64 octets of signature, or with the empty signature field."""
    return b"\xdf" + signed_octets + bytes((len(signature),)) + signature


def mac_covered(inner: bytes) -> bytes:
    """What the MAC of a DF form ``inner`` is made over (gbcs.md 4.5)."""
    return SECURITY_HEADER + b"\0" + inner


def maced_message(inner: bytes, mac: bytes) -> bytes:
    """DD form around a DF form."""
    content = SECURITY_HEADER + inner + mac
    return MAC_HEADER + encode_length(len(content)) + content


def _decode_header(cursor: Cursor) -> GroupingHeader:
    cursor.literal(b"\x09", "transaction id")
    flag = cursor.unsigned(1, "CRA flag")
    if flag not in (1, 2, 3):
        raise cursor.error(f"CRA flag {flag}")
    counter = cursor.unsigned(8, "originator counter")
    cursor.literal(b"\x08", "originator")
    originator = cursor.entity_id("originator")
    cursor.literal(b"\x08", "recipient")
    recipient = cursor.entity_id("recipient")
    size = cursor.length("date-time")
    if size not in (0, 12):
        raise cursor.error(f"date-time of {size} octets")
    date_time = cursor.take(size, "date-time")
    size = cursor.length("other information")
    if size not in (2, 10, 18) and size < 26:
        raise cursor.error(f"other information of {size} octets")
    information = cursor.take(size, "other information")
    return GroupingHeader(
        cra=Cra(flag),
        originator_counter=counter,
        originator=originator,
        recipient=recipient,
        message_code=int.from_bytes(information[:2], "big"),
        date_time=date_time,
        supplementary_party=EntityId(information[2:10]) if size >= 10 else None,
        supplementary_counter=int.from_bytes(information[10:18], "big") if size >= 18 else None,
        supplementary_originator_counter=(
            int.from_bytes(information[18:26], "big") if size >= 26 else None
        ),
        certificate=information[26:],
    )
