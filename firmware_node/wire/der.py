"""A strict DER subset: what GBCS payloads are made of.

Lengths must be minimal, integers minimal two's complement, and everything must be consumed: a
payload has one encoding or it is refused. Real credential responses (CS02a, CS02b) have lengths
like 82 00 9F; who only shows them may ask for ``any_lengths``. Source: gbcs.md 3; X.690.
"""

from __future__ import annotations

import datetime

from firmware_node.errors import DecodeError

INTEGER = 0x02
BIT_STRING = 0x03
OCTET_STRING = 0x04
NULL = 0x05
ENUMERATED = 0x0A
GENERALIZED_TIME = 0x18
SEQUENCE = 0x30
LENGTH_MAX = 0xFFFF  # no remote party payload is longer
_EPOCH = datetime.datetime(2000, 1, 1)
NEVER_TEXT = b"99991231235959Z"  # cancels a future-dated command (gbcs.md 3.1)


class Reader:
    """Takes values off the front of some octets; ``end`` insists that none is left."""

    def __init__(self, data: bytes, what: str, *, any_lengths: bool = False) -> None:
        self._data = data
        self._what = what
        self._any_lengths = any_lengths
        self._at = 0

    def peek(self) -> int | None:
        """The next tag; None at the end."""
        return self._data[self._at] if self._at < len(self._data) else None

    def take(self, tag: int) -> bytes:
        """The content of the next value, which must have this tag."""
        at, data = self._at, self._data
        if self.peek() != tag:
            found = "nothing" if self.peek() is None else f"{self.peek():02x}"
            raise self._error(at, f"expected tag {tag:02x}, found {found}")
        if at + 2 > len(data):
            raise self._error(at + 1, "no length")
        size, start = data[at + 1], at + 2
        if size >= 0x80:
            count = size & 0x7F
            octets = data[start : start + count]
            if count not in (1, 2) or len(octets) != count:
                raise self._error(at + 1, f"length form {size:02x}")
            size, start = int.from_bytes(octets, "big"), start + count
            if size < (0x80 if count == 1 else 0x100) and not self._any_lengths:
                raise self._error(at + 1, "length is not minimal")
        if start + size > len(data):
            raise self._error(at + 1, f"length {size} passes the end")
        self._at = start + size
        return data[start : self._at]

    def element(self, tag: int) -> bytes:
        """The next value whole, tag and length included, which must have this tag."""
        at = self._at
        self.take(tag)
        return self._data[at : self._at]

    def sequence(self, tag: int = SEQUENCE) -> Reader:
        """Enter a SEQUENCE, or whatever else is constructed."""
        return Reader(self.take(tag), self._what, any_lengths=self._any_lengths)

    def integer(self, tag: int = INTEGER) -> int:
        """A signed INTEGER of at most 9 octets; ``tag`` where it is tagged otherwise."""
        octets = self.take(tag)
        if not 1 <= len(octets) <= 9:
            raise self._error(self._at, f"integer of {len(octets)} octets")
        value = int.from_bytes(octets, "big", signed=True)
        if len(octets) > 1 and integer_octets(value) != octets:
            raise self._error(self._at - len(octets), "integer is not minimal")
        return value

    def unsigned(self, maximum: int, tag: int = INTEGER) -> int:
        """An INTEGER from 0 to ``maximum``."""
        value = self.integer(tag)
        if not 0 <= value <= maximum:
            raise self._error(self._at, f"integer {value}, expected 0 to {maximum}")
        return value

    def octet_string(self, size: int) -> bytes:
        """An OCTET STRING of exactly ``size`` octets."""
        octets = self.take(OCTET_STRING)
        if len(octets) != size:
            raise self._error(self._at, f"octet string of {len(octets)}, expected {size}")
        return octets

    def null(self) -> None:
        """A NULL."""
        if self.take(NULL):
            raise self._error(self._at, "NULL with content")

    def time(self) -> int | None:
        """A GeneralizedTime as seconds since 2000-01-01; None for the cancelling value."""
        octets = self.take(GENERALIZED_TIME)
        if octets == NEVER_TEXT:
            return None
        try:
            if len(octets) != 15 or not octets[:14].isdigit() or octets[14:] != b"Z":
                raise ValueError
            month, day, hour, minute, second = (int(octets[i : i + 2]) for i in range(4, 14, 2))
            # strptime takes ten times as long.
            moment = datetime.datetime(int(octets[:4]), month, day, hour, minute, second)
        except ValueError as error:
            raise self._error(self._at - len(octets), "no YYYYMMDDhhmmssZ") from error
        return int((moment - _EPOCH).total_seconds())

    def end(self) -> None:
        """Insist that everything was read."""
        if self._at != len(self._data):
            raise self._error(self._at, f"{len(self._data) - self._at} trailing octets")

    def error(self, reason: str) -> DecodeError:
        """A ``DecodeError`` at the present offset."""
        return self._error(self._at, reason)

    def _error(self, at: int, reason: str) -> DecodeError:
        return DecodeError(self._what, at, reason)


def value(tag: int, content: bytes) -> bytes:
    """Tag, minimal length, content."""
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    if size < 0x100:
        return bytes((tag, 0x81, size)) + content
    assert size <= LENGTH_MAX
    return bytes((tag, 0x82)) + size.to_bytes(2, "big") + content


def sequence(*parts: bytes) -> bytes:
    """A SEQUENCE of encoded parts."""
    return value(SEQUENCE, b"".join(parts))


def integer(number: int) -> bytes:
    """A minimal INTEGER."""
    return value(INTEGER, integer_octets(number))


def octet_string(octets: bytes) -> bytes:
    """An OCTET STRING."""
    return value(OCTET_STRING, octets)


def null() -> bytes:
    """A NULL."""
    return value(NULL, b"")


def time(utc: int | None) -> bytes:
    """A GeneralizedTime from seconds since 2000-01-01; None gives the cancelling value."""
    if utc is None:
        return value(GENERALIZED_TIME, NEVER_TEXT)
    moment = _EPOCH + datetime.timedelta(seconds=utc)
    # strftime does not pad years before 1000.
    text = f"{moment.year:04d}{moment:%m%d%H%M%S}Z"
    return value(GENERALIZED_TIME, text.encode())


def integer_octets(number: int) -> bytes:
    """Minimal two's complement."""
    return number.to_bytes(
        (number if number >= 0 else ~number).bit_length() // 8 + 1, "big", signed=True
    )
