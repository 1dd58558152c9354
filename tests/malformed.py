"""Spoilt octets for every decoder: cut at each length, and one bit flipped at each offset."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from firmware_node.errors import DecodeError

Decode = Callable[[bytes], object]


def refused(decode: Decode, octets: bytes) -> bool:
    """Whether ``decode`` answers DecodeError, at an offset that lies in the octets."""
    found: DecodeError | None = None
    try:
        decode(octets)
    except DecodeError as error:
        found = error
    assert found is None or 0 <= found.offset <= len(octets), found
    return found is not None


def flipped(octets: bytes) -> Iterator[bytes]:
    """The octets with each bit flipped in turn, and with each octet inverted."""
    for at in range(len(octets)):
        for mask in (*(1 << bit for bit in range(8)), 0xFF):
            spoilt = bytearray(octets)
            spoilt[at] ^= mask
            yield bytes(spoilt)


def assert_cuts_are_refused(
    decode: Decode, octets: bytes, whole_at: Collection[int] = frozenset()
) -> None:
    """Every shorter form is refused, but those sizes at which it is a whole one of its own."""
    taken = [size for size in range(len(octets)) if not refused(decode, octets[:size])]
    assert taken == sorted(whole_at)


def assert_flips_raise_nothing_else(decode: Decode, octets: bytes) -> None:
    """A flipped octet is another value or a DecodeError."""
    for spoilt in flipped(octets):
        refused(decode, spoilt)
