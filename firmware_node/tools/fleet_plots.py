"""The drawings of a fleet's report, as SVG inside a page: their classes are coloured by its style.

Each says in words what it shows, in its ``title``, for who cannot see it. Positions are rounded, so
that the same numbers give the same text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any, Final

from firmware_node.tools.render import duration

WIDTH: Final = 540  # of a plot of which two stand side by side
WIDE: Final = 1120  # of one that has the page's width
_LEFT, _RIGHT = 56, 16
_STEPS_S: Final = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600)  # of a time axis
_BINS: Final = 36  # of a histogram, about
_TAIL: Final = 1.5  # times p99: what is longer shares one bar
_MINUTE_MS: Final = 60_000
_ROOM: Final = 40  # parts of a time axis of which one follows the end
_WORDS_WIDTH: Final = 7.2  # of a character, about


def wave_timeline(wave: Mapping[str, Any], now_ms: int) -> str:
    """A wave's members from its beginning to its end, or now: failed, done, and on top of them
    those that have their image and no outcome yet.
    """
    height, top, bottom = 150, 14, 34
    size: int = max(1, wave["size"], wave["done"] + wave["failed"])
    start_ms = wave["begun_ms"]
    end_ms = max(now_ms if wave["ended_ms"] is None else wave["ended_ms"], start_ms + 1)
    # What came in the last moment needs some room to be seen.
    axis = _TimeAxis(start_ms, end_ms + max(1, (end_ms - start_ms) // _ROOM))

    def y(members: float) -> float:
        return height - bottom - (height - top - bottom) * members / size

    points = [(start_ms, 0, 0, 0)]
    for entry in wave["timeline"]:
        at, done, failed, holding = points[-1]
        begun = max(at, entry["minute"] * _MINUTE_MS)
        points.append((begun, done, failed, holding))
        end = min((entry["minute"] + 1) * _MINUTE_MS, max(end_ms, begun))
        done, failed = done + entry["done"], failed + entry["failed"]
        points.append((end, done, failed, holding + entry["holding"]))
    points.append((max(points[-1][0], axis.end_ms), *points[-1][1:]))
    floor = [(axis.x(at), y(0)) for at, *_ in points]
    below = [(axis.x(at), y(failed)) for at, _, failed, _ in points]
    above = [(axis.x(at), y(failed + done)) for at, done, failed, _ in points]
    held = [(axis.x(at), y(failed + done + holding)) for at, done, failed, holding in points]
    words = (
        f"Wave {wave['name']}: {wave['done']} done, {wave['failed']} failed of {wave['size']} "
        f"in {_span(wave)}"
    )
    parts = [
        *_grid_lines(WIDTH, size, y),
        _area("holding", above, held),
        _area("done", below, above),
        _area("failed", floor, below),
        *axis.draw(height - bottom),
        _text(_LEFT, top - 4, "members", "start"),
    ]
    return _svg(WIDTH, height, words, parts)


def durations(values_ms: Sequence[int], summary: Mapping[str, Any]) -> str:
    """How long upgrades took, with the 50th, 90th and 99th percentile."""
    height, top, bottom = 250, 54, 40
    if not values_ms:
        return "<p class=quiet>No upgrade was done.</p>"
    values = sorted(value / 1000 for value in values_ms)
    limit = min(values[-1], _TAIL * summary["p99_ms"] / 1000)
    width = _step(limit / _BINS)
    bins = max(1, int(limit / width) + 1)
    counts = [0] * bins
    beyond = 0
    for value in values:
        if value > limit:
            beyond += 1
        else:
            counts[int(value / width)] += 1
    slots = bins + (2 if beyond else 0)
    most = max(*counts, beyond, 1)
    room = (WIDE - _LEFT - _RIGHT) / slots

    def x(seconds: float) -> float:
        return _LEFT + room * seconds / width

    def y(count: float) -> float:
        return height - bottom - (height - top - bottom) * count / most

    parts = _grid_lines(WIDE, most, y)
    for place, count in enumerate(counts):
        if count:
            span = f"{duration(place * width)} to {duration((place + 1) * width)}: {count}"
            parts.append(_bar(_LEFT + room * place, y(count), room, height - bottom, span))
    if beyond:
        left = _LEFT + room * (bins + 1)
        told = f"longer than {duration(limit)}: {beyond}"
        parts.append(_bar(left, y(beyond), room, height - bottom, told))
        parts.append(_text(left + room, height - bottom + 15, "longer", "end"))
    label = _step(bins * width / 6)
    marks = int((bins - 1 if beyond else bins) * width / label)
    for number in range(marks + 1):
        at = x(number * label)
        parts.append(_line("tick", at, height - bottom, at, height - bottom + 4))
        words = duration(number * label) if number else "0"
        parts.append(_text(at, height - bottom + 15, words, "middle"))
    for row, name in enumerate(("p50", "p90", "p99")):
        seconds = summary[f"{name}_ms"] / 1000
        at, high = x(seconds), 12.0 + 13 * row
        words = f"{name} {duration(seconds)}"
        fits = at + _WORDS_WIDTH * len(words) < WIDE
        parts.append(_line("mark", at, high - 8, at, height - bottom))
        parts.append(
            _text(at + (4 if fits else -4), high, words, "start" if fits else "end", "strong")
        )
    parts.append(
        _text(
            (_LEFT + WIDE - _RIGHT) / 2,
            height - 6,
            "from the offer to the outcome, less what was held until a moment for all (h:min:s)",
            "middle",
        )
    )
    parts.append(_text(2, top - 8, "upgrades", "start"))
    words = ", ".join(
        f"{name} {duration(summary[f'{name}_ms'] / 1000)}" for name in ("p50", "p90", "p99", "max")
    )
    return _svg(WIDE, height, f"Durations of {len(values)} upgrades: {words}", parts)


def share_bar(parts: Sequence[tuple[str, int]], total: int) -> str:
    """A bar of several parts, by class and count; what is missing of the total stays empty."""
    drawn, at = [], 0.0
    for name, count in parts:
        width = 100 * count / max(1, total)
        if width:
            drawn.append(f'<rect class="{name}" x="{at:.2f}" width="{width:.2f}" height="4"/>')
        at += width
    told = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in parts)
    return (
        f'<svg class="bar" viewBox="0 0 100 4" preserveAspectRatio="none" role="img">'
        f"<title>{escape(told)} of {total}</title>{''.join(drawn)}</svg>"
    )


class _TimeAxis:
    """Fleet time from left to right."""

    def __init__(self, start_ms: int, end_ms: int) -> None:
        self._start, self._end = start_ms, end_ms
        self.end_ms = end_ms

    def x(self, at_ms: float) -> float:
        share = (at_ms - self._start) / (self._end - self._start)
        return _LEFT + (WIDTH - _LEFT - _RIGHT) * min(1.0, max(0.0, share))

    def draw(self, base: float) -> list[str]:
        step = 1000 * _step((self._end - self._start) / 1000 / 5)
        first = -(-self._start // step) * step
        parts = []
        for number in range(int((self._end - first) / step) + 1):
            at = first + number * step
            parts.append(_line("tick", self.x(at), base, self.x(at), base + 4))
            words = "0" if at == 0 else duration(at / 1000)
            anchor = "end" if self.x(at) > WIDTH - 40 else "middle"
            parts.append(_text(self.x(at), base + 15, words, anchor))
        middle = (_LEFT + WIDTH - _RIGHT) / 2
        parts.append(_text(middle, base + 30, "fleet time since the start (h:min:s)", "middle"))
        return parts


def _step(about_s: float) -> float:
    """A round number of seconds, not below that."""
    for step in _STEPS_S:
        if step >= about_s:
            return float(step)
    hours = 1
    while hours * 3600 < about_s:
        hours = hours * 2 if hours % 3 else hours + hours // 3
    return float(hours * 3600)


def _span(wave: Mapping[str, Any]) -> str:
    if wave["begun_ms"] is None or wave["ended_ms"] is None:
        return "a time that has no end yet"
    return duration((wave["ended_ms"] - wave["begun_ms"]) / 1000)


def _grid_lines(width: int, most: int, y: Callable[[float], float]) -> list[str]:
    """Lines at none, half and all, with their numbers."""
    parts = []
    for count in sorted({0, most // 2, most}):
        parts.append(_line("grid", _LEFT, y(count), width - _RIGHT, y(count)))
        parts.append(_text(_LEFT - 6, y(count) + 4, f"{count:,}", "end"))
    return parts


def _svg(width: int, height: int, words: str, parts: Sequence[str]) -> str:
    return (
        f'<svg class="plot" viewBox="0 0 {width} {height}" role="img">'
        f"<title>{escape(words)}</title>{''.join(parts)}</svg>"
    )


def _area(
    name: str, below: Sequence[tuple[float, float]], above: Sequence[tuple[float, float]]
) -> str:
    outline = "L".join(f"{x:.1f},{y:.1f}" for x, y in [*above, *reversed(below)])
    return f'<path class="{name}" d="M{outline}Z"/>'


def _bar(x: float, y: float, width: float, base: float, words: str) -> str:
    return (
        f'<rect class="count" x="{x + 0.5:.1f}" y="{y:.1f}" width="{width - 1:.1f}" '
        f'height="{base - y:.1f}"><title>{escape(words)}</title></rect>'
    )


def _line(name: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<path class="{name}" d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}"/>'


def _text(x: float, y: float, words: str, anchor: str, name: str = "") -> str:
    style = f' class="{name}"' if name else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{style}>{escape(words)}</text>'
