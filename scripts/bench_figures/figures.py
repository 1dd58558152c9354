"""What a figure is, and how something is timed.

Value and baseline are measured in turns, and of each the best turn counts: noise only ever adds
time, and what slows one turn down slows both.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MIB = 1024 * 1024


class NotMeasurableError(Exception):
    """Something that a figure needs is not on this machine; says what, and how to get it."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How much work a figure may make; ``QUICK`` proves the machinery and measures nothing."""

    image_size: int  # bytes of the manufacturer image
    turns: int
    round_trips: int  # of a bare socket, in one turn


FULL = Effort(MIB, 5, 20_000)
QUICK = Effort(20_000, 1, 200)


@dataclass(frozen=True, slots=True)
class Baseline:
    """What a figure is held against; its unit is the figure's."""

    name: str
    value: float
    kind: str = "floor"  # or "peer"


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value and its baseline."""

    name: str
    value: float
    unit: str
    higher_is_better: bool
    baseline: Baseline

    @property
    def ratio(self) -> float:
        """Value by baseline."""
        return self.value / self.baseline.value

    def shape(self) -> dict[str, Any]:
        """The contract's ``bench --json`` entry."""
        return {
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "higher_is_better": self.higher_is_better,
            self.baseline.kind: {"name": self.baseline.name, "value": self.baseline.value},
            "ratio": self.ratio,
        }

    def line(self) -> str:
        """The same for people."""
        base = self.baseline
        return (
            f"{self.name:46} {_number(self.value):>11} {self.unit:8} "
            f"{self.ratio:6.3g} x {base.kind} {_number(base.value)} ({base.name})"
        )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def in_turns(turns: int, *works: Callable[[], float]) -> list[float]:
    """Do every work once a turn; each work's smallest result."""
    results = [[work() for work in works] for _ in range(turns)]
    return [min(column) for column in zip(*results, strict=True)]


def timed(work: Callable[[], object], times: int = 1) -> Callable[[], float]:
    """A work for ``in_turns``: seconds that one call takes, of ``times`` in a row."""

    def measure() -> float:
        began = time.perf_counter()
        for _ in range(times):
            work()
        return (time.perf_counter() - began) / times

    return measure
