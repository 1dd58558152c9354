"""Random numbers of a fleet: a stream has eight octets of state and follows from its names."""

from __future__ import annotations

import hashlib
from typing import Final

_MASK: Final = (1 << 64) - 1
_STEP: Final = 0x9E3779B97F4A7C15  # SplitMix64's constants (Steele, Lea and Flood, 2014)


def seed_of(*parts: int | str) -> int:
    """64 bits for a stream that these name, the same in every process and version of Python."""
    text = "\0".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


class Draws:
    """``boundary.Entropy`` of a seed; thousands of them cost what they hold.

    ``random.Random`` keeps two and a half kilobytes, a tenth of what a device of a fleet may have.
    """

    __slots__ = ("_state",)

    def __init__(self, *parts: int | str) -> None:
        self._state = seed_of(*parts)

    def below(self, bound: int) -> int:
        """See ``boundary.Entropy``; the bias of 64 bits over any bound here is beyond notice."""
        return self._next() * bound >> 64

    def octets(self, size: int) -> bytes:
        """See ``boundary.Entropy``."""
        words = -(-size // 8)
        return b"".join(self._next().to_bytes(8, "big") for _ in range(words))[:size]

    def _next(self) -> int:
        self._state = word = self._state + _STEP & _MASK
        word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 & _MASK
        word = (word ^ word >> 27) * 0x94D049BB133111EB & _MASK
        return word ^ word >> 31
