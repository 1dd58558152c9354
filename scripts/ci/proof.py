"""What every proof of steps shares: how one fails, and how it waits."""

from __future__ import annotations

import time
from collections.abc import Callable

LOOK_S = 0.1


class ProofFailed(Exception):
    """A step found something other than it should."""


def expect(holds: object, what: str) -> None:
    """``assert`` that no -O takes away."""
    if not holds:
        raise ProofFailed(what)


def wait(holds: Callable[[], object], what: str, limit_s: float = 60) -> None:
    """Look until it holds."""
    end = time.monotonic() + limit_s
    while not holds():
        expect(time.monotonic() < end, f"waited {limit_s:.0f} s in vain: {what}")
        time.sleep(LOOK_S)
