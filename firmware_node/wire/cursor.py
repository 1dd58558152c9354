"""Takes big-endian fields off the front of some octets: what GBCS is made of besides DER.

Every field is checked against the end before it is read. ``what`` names the structure and ``name``
the field in a ``DecodeError``, whose offset counts from the start of the octets as they were given.
"""

from __future__ import annotations

from firmware_node.errors import DecodeError
from firmware_node.terms import EntityId


class Cursor:
    """See the module; ``at`` is the offset of the next field, ``end`` the one behind the last."""

    def __init__(self, data: bytes, what: str, at: int = 0, end: int | None = None) -> None:
        self.data = data
        self.what = what
        self.at = at
        self.end = len(data) if end is None else end

    @property
    def left(self) -> int:
        """How many octets are left."""
        return self.end - self.at

    def take(self, size: int, name: str) -> bytes:
        """The next ``size`` octets."""
        start = self.at
        if start + size > self.end:
            raise self.error(f"{name}: expected {size} octets, found {self.left}")
        self.at = start + size
        return self.data[start : self.at]

    def rest(self) -> bytes:
        """Everything that is left."""
        return self.take(self.left, "rest")

    def unsigned(self, size: int, name: str) -> int:
        """An unsigned integer of ``size`` octets."""
        return int.from_bytes(self.take(size, name), "big")

    def entity_id(self, name: str) -> EntityId:
        """Eight octets."""
        return EntityId(self.take(8, name))

    def literal(self, expected: bytes, name: str) -> None:
        """Octets that have to be these."""
        start = self.at
        found = self.take(len(expected), name)
        if found != expected:
            self.at = start
            raise self.error(f"{name}: expected {expected.hex()}, found {found.hex()}")

    def length(self, name: str) -> int:
        """A length: one octet below 80, or 81 and one, or 82 and two; the shortest form alone."""
        start = self.at
        size = self.take(1, name)[0]
        if size < 0x80:
            return size
        if size not in (0x81, 0x82):
            self.at = start
            raise self.error(f"{name}: length form {size:02x}")
        count = size & 0x7F
        size = self.unsigned(count, name)
        if size < (0x80 if count == 1 else 0x100):
            self.at = start
            raise self.error(f"{name}: length is not minimal")
        return size

    def part(self, size: int, name: str) -> Cursor:
        """A cursor over the next ``size`` octets, which this one passes over."""
        start = self.at
        self.take(size, name)
        return Cursor(self.data, self.what, start, self.at)

    def finish(self) -> None:
        """Insist that nothing is left."""
        if self.left:
            raise self.error(f"{self.left} trailing octets")

    def error(self, reason: str) -> DecodeError:
        """A ``DecodeError`` at the present offset."""
        return DecodeError(self.what, self.at, reason)


def encode_length(size: int) -> bytes:
    """The shortest form of a length."""
    if size < 0x80:
        return bytes((size,))
    if size < 0x100:
        return bytes((0x81, size))
    return b"\x82" + size.to_bytes(2, "big")
