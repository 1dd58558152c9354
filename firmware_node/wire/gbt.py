"""General block transfer: a large GBCS message as numbered blocks, and back.

Each block repeats the routing header and carries its part; the parts in order are an ordinary DD
or DF message. Here are the form of one block, the cutting, and ``Reassembly``, which judges one
series. Who asks for lost blocks again, and when, is left to the caller.

What the fact sheets say is strict: lengths, ids, numbers from 1, one last block. What they could
not say is tolerated: any security control and invocation counter is taken, as long as every block
of the series has the same control; so are any window and streaming bit. Source: gbcs.md 4.10,
supplement 6.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from firmware_node.errors import DecodeError
from firmware_node.terms import EntityId
from firmware_node.wire.cursor import Cursor, encode_length
from firmware_node.wire.gbcs import MESSAGE_SIZE_MAX, Cra, GroupingHeader

BLOCK_SIZE = 1200  # octets of a block; with its header it fits the tunnel's 1500 (supplement 6)
WINDOW = 1
SECURITY_CONTROL = 0x01  # suite 1, nothing protected: the message inside has its own protection
NUMBER_MAX = 0xFFFF

_START = b"\xdd\x09"  # a MAC header has 00 where the transaction id has its length
_TAG = 0xE0  # DLMS general-block-transfer
_LAST, _STREAMING, _WINDOW_MASK = 0x80, 0x40, 0x3F
_WHAT = "GBT block"


@dataclass(frozen=True, slots=True)
class Series:
    """What the blocks of one message have in common: its ids, counter and code."""

    cra: Cra
    originator_counter: int
    originator: EntityId
    recipient: EntityId
    message_code: int

    @classmethod
    def of(cls, header: GroupingHeader) -> Series:
        """The series that carries a message with this grouping header."""
        return cls(
            header.cra,
            header.originator_counter,
            header.originator,
            header.recipient,
            header.message_code,
        )


@dataclass(frozen=True, slots=True)
class Block:
    """One block; without data it only acknowledges."""

    series: Series
    number: int  # from 1; 0 in a pure acknowledgement
    data: bytes
    last: bool
    acknowledged: int = 0  # the highest number that arrived the other way
    streaming: bool = False
    window: int = WINDOW
    security_control: int = SECURITY_CONTROL
    invocation_counter: int = 0


def is_block(data: bytes) -> bool:
    """Whether the octets begin as a block does and as no whole message can."""
    return data[: len(_START)] == _START


def decode_block(data: bytes) -> Block:
    """Read one block.

    DD, transaction id (09, CRA flag, counter u64), 08 originator, 08 recipient, date-time 00, other
    information 02 and message code, key info 00, length; security control, invocation counter u32;
    E0, block control, number u16, acknowledged u16, length, data.

    Raises:
        DecodeError: any length, tag or field is off, or octets are left.
    """
    block, rest = decode_first_block(data)
    if rest:
        raise DecodeError(_WHAT, len(data) - len(rest), f"{len(rest)} trailing octets")
    return block


def decode_first_block(data: bytes) -> tuple[Block, bytes]:
    """The block that the octets begin with, and what follows it; errors as ``decode_block``."""
    cursor = Cursor(data, _WHAT)
    cursor.literal(_START, "start")
    flag = cursor.unsigned(1, "CRA flag")
    if flag not in (1, 2, 3):
        raise cursor.error(f"CRA flag {flag}")
    counter = cursor.unsigned(8, "originator counter")
    cursor.literal(b"\x08", "originator")
    originator = cursor.entity_id("originator")
    cursor.literal(b"\x08", "recipient")
    recipient = cursor.entity_id("recipient")
    cursor.literal(b"\x00", "date-time")
    cursor.literal(b"\x02", "other information")
    message_code = cursor.unsigned(2, "message code")
    cursor.literal(b"\x00", "key info")
    content = cursor.part(cursor.length("content"), "content")
    security_control = content.unsigned(1, "security control")
    invocation_counter = content.unsigned(4, "invocation counter")
    content.literal(bytes((_TAG,)), "tag")
    control, number = content.unsigned(1, "block control"), content.unsigned(2, "block number")
    acknowledged = content.unsigned(2, "acknowledged number")
    octets = content.take(content.length("data"), "data")
    content.finish()
    if octets and number == 0:
        raise content.error("data in block 0; numbers begin with 1")
    block = Block(
        Series(Cra(flag), counter, originator, recipient, message_code),
        number,
        octets,
        last=control & _LAST != 0,
        acknowledged=acknowledged,
        streaming=control & _STREAMING != 0,
        window=control & _WINDOW_MASK,
        security_control=security_control,
        invocation_counter=invocation_counter,
    )
    return block, cursor.rest()


def encode_block(block: Block) -> bytes:
    """See ``decode_block``."""
    series = block.series
    control = block.last * _LAST | block.streaming * _STREAMING | block.window
    content = b"".join(
        (
            bytes((block.security_control,)),
            block.invocation_counter.to_bytes(4, "big"),
            bytes((_TAG, control)),
            block.number.to_bytes(2, "big"),
            block.acknowledged.to_bytes(2, "big"),
            encode_length(len(block.data)),
            block.data,
        )
    )
    return b"".join(
        (
            _START,
            bytes((series.cra,)),
            series.originator_counter.to_bytes(8, "big"),
            b"\x08",
            series.originator.octets,
            b"\x08",
            series.recipient.octets,
            b"\x00\x02",
            series.message_code.to_bytes(2, "big"),
            b"\x00",
            encode_length(len(content)),
            content,
        )
    )


def split(message: bytes, series: Series, block_size: int = BLOCK_SIZE) -> tuple[Block, ...]:
    """Cut a message into the blocks that carry it."""
    assert block_size > 0 and len(message) <= block_size * NUMBER_MAX
    parts = [message[at : at + block_size] for at in range(0, len(message), block_size)]
    return tuple(
        Block(series, number, part, last=number == len(parts))
        for number, part in enumerate(parts, 1)
    )


def acknowledgement(of: Series, number: int) -> Block:
    """A block without data: everything up to ``number`` has arrived.

    It travels the other way, so its originator is the one whom the message is for.
    """
    back = replace(of, originator=of.recipient, recipient=of.originator)
    return Block(back, 0, b"", last=True, acknowledged=number)


def reassemble(blocks: Iterable[Block]) -> bytes:
    """The message of a whole series, whatever the order of its blocks.

    Raises:
        DecodeError: as ``Reassembly.add``, or a block is missing.
    """
    reassembly: Reassembly | None = None
    message: bytes | None = None
    for block in blocks:
        if block.data:
            reassembly = reassembly or Reassembly(block.series)
            message = reassembly.add(block) or message
    if reassembly is None:
        raise DecodeError(_WHAT, 0, "no block with data")
    if message is None:
        missing = ", ".join(map(str, reassembly.missing()[:8]))  # a forged number makes thousands
        raise DecodeError(_WHAT, 0, f"the series lacks block {missing}")
    return message


class Reassembly:
    """Puts one series together; holds at most ``MESSAGE_SIZE_MAX`` octets.

    A block that comes again unchanged counts once. One that contradicts what is here is refused
    and changes nothing: other data under a known number, a second last block, a number behind the
    last, another security control.
    """

    def __init__(self, series: Series) -> None:
        self._series = series
        self._parts: dict[int, bytes] = {}
        self._last: int | None = None
        self._security_control: int | None = None
        self._size = 0

    def add(self, block: Block) -> bytes | None:
        """Take a block; the message when this one completes it, None before and afterwards.

        Raises:
            DecodeError: the block is not of this series, contradicts it, or makes it too large.
        """
        if block.series != self._series:
            raise DecodeError(_WHAT, 0, "the block belongs to another message")
        if not block.data:
            return None  # an acknowledgement carries no part
        known = self._parts.get(block.number)
        self._check(block, known)
        if known is not None:
            return None
        self._parts[block.number] = block.data
        self._size += len(block.data)
        self._security_control = block.security_control
        if block.last:
            self._last = block.number
        if len(self._parts) != self._last:
            return None
        return b"".join(self._parts[number] for number in range(1, len(self._parts) + 1))

    def missing(self) -> tuple[int, ...]:
        """The numbers that lack; the one behind the highest while no last block has come."""
        known = self._last or max(self._parts, default=0) + 1
        return tuple(number for number in range(1, known + 1) if number not in self._parts)

    def _check(self, block: Block, known: bytes | None) -> None:
        number, reason = block.number, None
        if known is not None and (known != block.data or block.last != (number == self._last)):
            reason = f"block {number} came before with another content"
        elif self._last is not None and number > self._last:
            reason = f"block {number} lies behind the last, {self._last}"
        elif block.last and number < max(self._parts, default=0):
            reason = f"block {number} is called the last, but {max(self._parts)} has come"
        elif self._security_control not in (None, block.security_control):
            reason = f"security control {block.security_control:02x} differs within the series"
        elif known is None and self._size_with(block) > MESSAGE_SIZE_MAX:
            reason = f"the message has more than {MESSAGE_SIZE_MAX} octets"
        if reason is not None:
            raise DecodeError(_WHAT, 0, reason)

    def _size_with(self, block: Block) -> int:
        """At least so many octets the message has: every block that lacks brings one or more."""
        lacking = max(block.number, *self._parts, 0) - len(self._parts) - 1
        return self._size + len(block.data) + lacking
