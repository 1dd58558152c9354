"""A running fleet in plain lines, and the choice between those and the live table.

A line every few seconds is for logs and for a standard output that is no terminal; it needs no
library. In a terminal it is the table of ``terminal``, where the extra ``fleet`` is installed.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Final, Protocol, TextIO

from firmware_node.fleet.live import Snapshot
from firmware_node.tools.render import duration, printable

INTERVAL_S: Final = 5.0
MOVING: Final = ("offered", "downloading", "transferred", "activating", "trial")


class FleetView(Protocol):
    """What the run loop tells; ``wall_s`` goes forward in seconds."""

    def show(self, snapshot: Snapshot, wall_s: float) -> None:
        """How it stands, as often as the caller likes."""

    def end(self, snapshot: Snapshot) -> None:
        """How it ended; the terminal is as it was."""


def view_of(out: TextIO) -> FleetView:
    """What suits the stream."""
    if out.isatty() and find_spec("rich") is not None:
        from firmware_node.adapters.fleet.terminal import LiveTable

        return LiveTable(out)
    return PlainLines(out)


class PlainLines:
    """One line every ``interval_s``, and one when the campaign's state changes."""

    def __init__(self, out: TextIO, interval_s: float = INTERVAL_S) -> None:
        self._out = out
        self._interval_s = interval_s
        self._next_s = 0.0
        self._state = ""

    def show(self, snapshot: Snapshot, wall_s: float) -> None:
        """See ``FleetView``."""
        if wall_s >= self._next_s or snapshot.campaign.state != self._state:
            self._next_s = wall_s + self._interval_s
            self._write(snapshot)

    def end(self, snapshot: Snapshot) -> None:
        """See ``FleetView``."""
        self._write(snapshot)

    def _write(self, snapshot: Snapshot) -> None:
        self._state = snapshot.campaign.state
        print(line(snapshot), file=self._out, flush=True)


def line(snapshot: Snapshot) -> str:
    """How it stands, in a line."""
    totals, campaign = snapshot.totals, snapshot.campaign
    parts = [
        f"{clock(snapshot.now_ms)} {campaign.state}",
        f"{totals['done']} done",
        f"{totals['failed']} failed",
        f"{under_way(snapshot)} under way of {snapshot.plan.shape.size}",
    ]
    running = [wave for wave in snapshot.waves if wave.state.state == "running"]
    parts += [f"{printable(wave.state.name)} {wave.share:.0%}" for wave in running]
    if snapshot.rates.speed:
        parts.append(f"{snapshot.rates.speed:.0f} x real time")
    parts += [text for text in (left(snapshot), printable(campaign.reason)) if text]
    return ", ".join(parts)


def under_way(snapshot: Snapshot) -> int:
    """Members between the offer and an outcome."""
    return sum(snapshot.totals[phase] for phase in MOVING)


def left(snapshot: Snapshot) -> str:
    """The estimate, in words; empty: there is none."""
    if snapshot.eta_ms is None or snapshot.campaign.state != "running":
        return ""
    here = "" if snapshot.eta_s is None else f" ({duration(snapshot.eta_s)} here)"
    return f"about {duration(snapshot.eta_ms / 1000)} left{here}"


def clock(ms: int) -> str:
    """Time since the start: ``2d 03:04:05``."""
    minutes, seconds = divmod(ms // 1000, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{f'{days}d ' if days else ''}{hours:02}:{minutes:02}:{seconds:02}"
