"""A running fleet in a terminal: waves with their bars, phases, rates, and the last failures.

Redrawn in place, in 80 columns or what the terminal has. Each part of a bar has a character of its
own, so that it reads without colour; where the terminal takes only ASCII, those are ASCII.
"""

from __future__ import annotations

from typing import Final, TextIO

from rich.console import Console, Group, OverflowMethod, RenderableType
from rich.live import Live as Redrawn
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from firmware_node.adapters.fleet.lines import left
from firmware_node.fleet.live import PHASES, Snapshot, WaveCount
from firmware_node.fleet.rows import cause_words
from firmware_node.tools.render import printable
from firmware_node.wire.zcl import utc_text

INTERVAL_S: Final = 0.25  # between drawings; more often is not seen
WAVES_SHOWN: Final = 12
FAILURES_SHOWN: Final = 5
_BAR_MIN: Final = 12  # characters
_BAR_MAX: Final = 60
_NAME_MAX: Final = 16
_BESIDE_BAR: Final = 41  # characters of the columns of numbers
_STATES: Final = {
    "running": "bold cyan",
    "paused": "bold yellow",
    "stopped": "bold red",
    "done": "bold green",
}
_PARTS: Final = (("█", "#"), ("▒", "="), ("×", "x"), ("·", "."))  # done, under way, failed, rest
_COLOURS: Final = ("green", "cyan", "red", "bright_black")


class LiveTable:
    """Draws until ``end``; what was drawn last stays."""

    def __init__(self, out: TextIO) -> None:
        self._console = Console(file=out, highlight=False)
        self._live = Redrawn(console=self._console, auto_refresh=False)
        self._next_s = 0.0

    def show(self, snapshot: Snapshot, wall_s: float) -> None:
        """See ``lines.FleetView``."""
        if wall_s >= self._next_s:
            self._next_s = wall_s + INTERVAL_S
            self._draw(snapshot)

    def end(self, snapshot: Snapshot) -> None:
        """See ``lines.FleetView``."""
        self._draw(snapshot)
        self._live.stop()

    def _draw(self, snapshot: Snapshot) -> None:
        self._live.start()  # does nothing the second time
        options = self._console.options
        self._live.update(table(snapshot, self._console.width, options.ascii_only), refresh=True)


def table(snapshot: Snapshot, width: int, ascii_only: bool = False) -> RenderableType:
    """How it stands."""
    parts: list[RenderableType] = [_head(snapshot), Text()]
    if snapshot.waves:
        parts += [_waves(snapshot, width, ascii_only), Text()]
    parts += [_phases(snapshot, width), _rates(snapshot), Text()]
    if snapshot.failures:
        line = "-" if ascii_only else "─"
        title = f"last failures, {_failed(snapshot):,} in all"
        parts += [Rule(title, align="left", characters=line, style="bright_black")]
        parts.append(_failures(snapshot, ascii_only))
    return Group(*parts)


def _head(snapshot: Snapshot) -> RenderableType:
    grid = Table.grid(expand=True)
    grid.add_column(overflow="ellipsis", no_wrap=True, ratio=1)
    grid.add_column(justify="right", no_wrap=True)
    campaign = snapshot.campaign
    name = Text.assemble(
        (printable(snapshot.plan.name), "bold"),
        "  ",
        (campaign.state, _STATES.get(campaign.state, "bold")),
        f"  {printable(campaign.reason)}" if campaign.reason else "",
    )
    speed = f"  {snapshot.rates.speed:,.0f} x real time" if snapshot.rates.speed else ""
    grid.add_row(name, Text(f"{_utc(snapshot, snapshot.now_ms)} UTC{speed}"))
    return grid


def _waves(snapshot: Snapshot, width: int, ascii_only: bool) -> RenderableType:
    grid = Table(box=None, padding=(0, 1, 0, 0), expand=False, header_style="bright_black")
    grid.add_column("wave", overflow="ellipsis", no_wrap=True, max_width=_NAME_MAX)
    grid.add_column("", no_wrap=True)
    grid.add_column("", justify="right", no_wrap=True)
    for name in ("done", "failed", "under way", "of"):
        grid.add_column(name, justify="right", no_wrap=True)
    shown = _worth_showing(snapshot.waves)
    names = max(len(printable(wave.state.name)) for wave in shown)
    size = max(_BAR_MIN, min(_BAR_MAX, width - _BESIDE_BAR - min(names, _NAME_MAX)))
    for wave in shown:
        grid.add_row(
            Text(printable(wave.state.name), "bold" if wave.state.state == "running" else ""),
            _bar(wave, size, ascii_only),
            f"{int(100 * wave.share)}%",
            f"{wave.done:,}",
            Text(f"{wave.failed:,}", "red" if wave.failed else ""),
            f"{wave.under_way:,}",
            f"{wave.state.members:,}" if wave.state.members else "?",
        )
    if len(shown) < len(snapshot.waves):
        grid.add_row(Text(f"{len(snapshot.waves) - len(shown)} more", "bright_black"))
    return grid


def _worth_showing(waves: tuple[WaveCount, ...]) -> tuple[WaveCount, ...]:
    """The ones around those that run, when there are too many."""
    running = [place for place, wave in enumerate(waves) if wave.state.state == "running"]
    middle = running[-1] if running else len(waves) - 1
    start = max(0, min(middle - WAVES_SHOWN // 2, len(waves) - WAVES_SHOWN))
    return waves[start : start + WAVES_SHOWN]


def _bar(wave: WaveCount, size: int, ascii_only: bool) -> Text:
    """Done, under way, failed, and the rest; who is there at all has one character at least."""
    members = max(
        1,
        wave.state.members - wave.state.skipped,
        wave.done + wave.under_way + wave.failed,
    )
    counts = [wave.done, wave.under_way, wave.failed]
    widths = [max(1, round(size * count / members)) if count else 0 for count in counts]
    while sum(widths) > size:
        widths[widths.index(max(widths))] -= 1
    widths.append(size - sum(widths))
    bar = Text()
    for width, signs, colour in zip(widths, _PARTS, _COLOURS, strict=True):
        bar.append(signs[ascii_only] * width, colour)
    return bar


def _phases(snapshot: Snapshot, width: int) -> Text:
    """Those that have members, in lines that break between two of them."""
    size = max(1, snapshot.plan.shape.size)
    text, room = Text(), width
    for phase in PHASES:
        count = snapshot.totals[phase]
        if not count:
            continue
        share = f" ({count / size:.0%})" if phase in ("done", "failed") else ""
        words = f"{count:,}{share}"
        need = len(phase) + 1 + len(words)
        if text:
            fits = room >= need + 3
            text.append("   " if fits else "\n")
            room = room - 3 if fits else width
        room -= need
        text.append(f"{phase} ", "bright_black")
        text.append(words, {"done": "green", "failed": "red"}.get(phase, ""))
    return text


def _rates(snapshot: Snapshot) -> RenderableType:
    rates = snapshot.rates
    words = (
        f"{rates.outcomes_per_minute:,.0f} outcomes/min",
        f"{_octets(rates.bytes_per_second)}/s",
        f"{sum(snapshot.messages.values()):,} messages",
    )
    grid = Table.grid(expand=True)
    grid.add_column(overflow="ellipsis", no_wrap=True, ratio=1)
    grid.add_column(justify="right", no_wrap=True)
    grid.add_row("   ".join(words), Text(left(snapshot), "bold"))
    return grid


def _failed(snapshot: Snapshot) -> int:
    """Upgrades that failed in any wave; some of those members may have had another image since."""
    return max(snapshot.totals["failed"], sum(wave.failed for wave in snapshot.waves))


def _failures(snapshot: Snapshot, ascii_only: bool) -> RenderableType:
    """When, who, in which wave, and why, which is cut when it is too long."""
    grid = Table.grid(padding=(0, 2, 0, 0), expand=True)
    cut: OverflowMethod = (
        "crop" if ascii_only else "ellipsis"
    )  # the dots of an ellipsis are one character
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True, overflow=cut, max_width=_NAME_MAX)
    grid.add_column(no_wrap=True, overflow=cut, style="red", ratio=1)
    for failure in snapshot.failures[:FAILURES_SHOWN]:
        member = snapshot.plan.shape.member(failure.member)
        grid.add_row(
            _utc(snapshot, failure.at_ms).partition("-")[2],  # the year stands above
            f"{member.type.name} of home {member.home}",
            Text(printable(failure.wave)),
            cause_words(failure.cause),
        )
    return grid


def _utc(snapshot: Snapshot, at_ms: int) -> str:
    text = utc_text(snapshot.plan.start_utc + at_ms // 1000)
    return text.replace("T", " ").removesuffix("Z")


def _octets(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
