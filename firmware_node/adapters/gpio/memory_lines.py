"""Lines that are no pins: for PCs and tests (``memory``), and none at all (``none``)."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import NamedTuple

from firmware_node.adapters.gpio.refusals import check, held
from firmware_node.boundary import LineSpec
from firmware_node.errors import ConfigError

CHIP = "memory"
LINE_COUNT = 54  # as a Raspberry Pi's chip
EDGES_KEPT = 1000


class Edge(NamedTuple):
    """One change of a pin."""

    at_ns: int  # monotonic
    number: int
    level: int  # on the pin, after active low


class MemoryLines:
    """``boundary.RelayPort`` that remembers every edge of its pins."""

    def __init__(
        self,
        *,
        held_by: Mapping[int, str] | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._held_by = held_by or {}
        self._clock = clock
        self._lines: Mapping[str, LineSpec] = {}
        self.levels: dict[int, int] = {}  # of the claimed pins; a test may change an input's
        self.edges: deque[Edge] = deque(maxlen=EDGES_KEPT)

    def claim(self, lines: Mapping[str, LineSpec]) -> None:
        """See ``boundary.RelayPort``."""
        assert not self._lines, "claimed twice"
        check(lines, CHIP, LINE_COUNT)
        for spec in lines.values():
            if spec.number in self._held_by:
                raise held(spec.number, CHIP, self._held_by[spec.number])
        self._lines = dict(lines)
        for name, spec in lines.items():
            if spec.is_input:
                self.levels[spec.number] = int(spec.active_low)  # nobody presses it
            else:
                self.set(name, spec.initial)

    def set(self, name: str, on: bool) -> None:
        """See ``boundary.RelayPort``."""
        spec = self._lines[name]
        level = int(on != spec.active_low)
        if self.levels.get(spec.number) != level:
            self.levels[spec.number] = level
            self.edges.append(Edge(self._clock(), spec.number, level))

    def get(self, name: str) -> bool:
        """See ``boundary.RelayPort``."""
        spec = self._lines[name]
        return bool(self.levels[spec.number]) != spec.active_low

    def release(self, safe_state: Mapping[str, bool] | None) -> None:
        """See ``boundary.RelayPort``."""
        for name in self._lines:
            if safe_state is not None and name in safe_state:
                self.set(name, safe_state[name])
        self._lines = {}
        self.levels.clear()

    def describe(self) -> dict[str, object]:
        """See ``boundary.RelayPort``."""
        return {
            "backend": "memory",
            "chip": None,
            "label": CHIP,
            "lines": {
                name: {"line": spec.number, "on": self.get(name), "consumer": None}
                for name, spec in self._lines.items()
            },
        }


class NoLines:
    """``boundary.RelayPort`` of a device that drives nothing."""

    def claim(self, lines: Mapping[str, LineSpec]) -> None:
        """See ``boundary.RelayPort``."""
        if lines:
            raise ConfigError(f'gpio.backend is "none" and {", ".join(lines)} need lines')

    def set(self, name: str, on: bool) -> None:
        """See ``boundary.RelayPort``."""
        raise KeyError(name)

    def get(self, name: str) -> bool:
        """See ``boundary.RelayPort``."""
        raise KeyError(name)

    def release(self, safe_state: Mapping[str, bool] | None) -> None:
        """See ``boundary.RelayPort``."""

    def describe(self) -> dict[str, object]:
        """See ``boundary.RelayPort``."""
        return {"backend": "none", "chip": None, "label": None, "lines": {}}
