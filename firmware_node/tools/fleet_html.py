"""A fleet's report as one HTML page that needs nothing else: style, script and plots are inside.

It is complete without the script, which only filters the table of devices and opens what is folded
before printing. On paper the table keeps the devices that were not done.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any, Final

from firmware_node.tools import fleet_plots
from firmware_node.tools.fleet_report import REPLAY, done_durations, replay
from firmware_node.tools.render import duration

Document = Mapping[str, Any]

ROWS_MAX: Final = 20_000  # of the table: some 5 MB; a browser scrolls no more with ease
NAMED_MAX: Final = 500  # devices behind one cause; the rest are in the table
_RESULTS: Final = ("done", "failed", "in_flight", "skipped", "waiting", "not_selected")
_TOTALS: Final = (*_RESULTS, "off", "offers")
_URGENT: Final = {name: rank for rank, name in enumerate(("failed", "in_flight", "skipped"))}
_HEADS: Final = (
    "Home",
    "Type",
    "Entity id",
    "Result",
    "Wave",
    "Image",
    "Version",
    "Duration",
    "Retries",
    "What went wrong",
)


def html(results: Document, rows_max: int = ROWS_MAX) -> str:
    """The page; its table has no more rows than that."""
    title = escape(f"{results['plan']}: fleet report")
    sections = (
        _head(results),
        _totals(results),
        _section("Waves", _waves(results)),
        _section("How long upgrades took", _durations(results)),
        _section("Failures", _reasons(results["failures"], results, "No upgrade failed.")),
        _section("Skipped", _reasons(results["skips"], results, "No device was skipped.")),
        _section("GBCS messages that came up", _messages(results["messages"])),
        _section("The plan, and the same again", _plan(results)),
        _section("Devices", _devices(results, rows_max)),
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_part('report.css')}</style></head>\n<body><main>\n"
        + "\n".join(section for section in sections if section)
        + f"\n</main>\n<script>{_part('report.js')}</script></body></html>\n"
    )


def html_policy() -> str:
    """The Content-Security-Policy that lets the page's own style and script through."""
    return (
        f"default-src 'none'; style-src {_hash('report.css')}; script-src {_hash('report.js')}; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


@cache
def _part(name: str) -> str:
    return files("firmware_node.tools").joinpath("fleet_page", name).read_text(encoding="utf-8")


def _hash(name: str) -> str:
    digest = hashlib.sha256(_part(name).encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


# --- sections -------------------------------------------------------------------------------------


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>" if body else ""


def _head(results: Document) -> str:
    reason = f" <span>{escape(results['reason'])}</span>" if results["reason"] else ""
    return (
        f"<header><h1>{escape(results['plan'])}</h1>"
        f'<p><b class="state {escape(results["state"])}">{escape(results["state"])}</b>{reason}</p>'
        f"<p>{_plural(results['totals']['devices'], 'device')} in "
        f"{_plural(results['homes'], 'home')}, {duration(results['now_ms'] / 1000)} of fleet time "
        f"from {escape(results['start'])}</p></header>"
    )


def _totals(results: Document) -> str:
    totals = results["totals"]
    tiles = []
    for name in _TOTALS:
        share = f"{100 * totals[name] / max(1, totals['devices']):.1f} %"
        more = "attempts in all" if name == "offers" else share
        tiles.append(
            f'<div class="{name}"><dt>{_spaced(name)}</dt>'
            f'<dd id="total-{name}">{totals[name]:,}<small>{more}</small></dd></div>'
        )
    parts = [(name, totals[name]) for name in _RESULTS]
    bar = fleet_plots.share_bar(parts, totals["devices"])
    return f'<section class="totals">{bar}<dl>{"".join(tiles)}</dl></section>'


def _waves(results: Document) -> str:
    begun = [wave for wave in results["waves"] if wave["begun_ms"] is not None]
    parts = [
        '<p class="legend"><i class="failed"></i> failed <i class="done"></i> done '
        '<i class="holding"></i> has its image, which is verified; summed up from the beginning of '
        "the wave to its end</p>"
    ]
    for wave in results["waves"]:
        name = f"<h3>{escape(wave['name'])} <small>{escape(_wave_words(wave))}</small></h3>"
        plot = fleet_plots.wave_timeline(wave, results["now_ms"]) if wave in begun else ""
        parts.append(f'<div class="wave">{name}{plot}</div>')
    return f'{parts[0]}<div class="waves">{"".join(parts[1:])}</div>'


def _wave_words(wave: Document) -> str:
    if wave["begun_ms"] is None:
        return f"{wave['image']}, waiting"
    words = f"{wave['image']} ({wave['to_version']}): {wave['done']:,} done"
    for name in ("failed", "skipped", "in_flight"):
        words += f", {wave[name]:,} {_spaced(name)}" if wave[name] else ""
    words += f" of {wave['size']:,}"
    if wave["ended_ms"] is not None:
        words += f" in {duration((wave['ended_ms'] - wave['begun_ms']) / 1000)}"
    at_once = f"; at most {wave['at_once']:,} at once" if wave["at_once"] else ""
    return f"{words}{at_once}; {wave['state']}"


def _durations(results: Document) -> str:
    summary = results["durations"]
    plot = fleet_plots.durations(done_durations(results["devices"]), summary)
    if not summary["count"]:
        return plot
    cells = "".join(
        f"<div><dt>{name}</dt><dd>{duration(summary[f'{name}_ms'] / 1000)}</dd></div>"
        for name in ("min", "p50", "p90", "p99", "max", "mean")
    )
    return f'{plot}<dl class="row">{cells}</dl>'


def _reasons(groups: Sequence[Document], results: Document, none: str) -> str:
    if not groups:
        return f'<p class="quiet">{none}</p>'
    most = max(group["count"] for group in groups)
    return "".join(_reason(group, most, results) for group in groups)


def _reason(group: Document, most: int, results: Document) -> str:
    phase = f"{_spaced(group['phase'])}: " if group["phase"] else ""
    style = "failed" if group["phase"] else "skipped"
    cause = f"{phase}{group['cause']}"
    shown = group["attempts"][:NAMED_MAX]
    names = "".join(
        f'<li><a href="#d{one["index"]}"><code>{escape(one["entity_id"])}</code></a> '
        f"{escape(one['type'])} of home {one['home']}, wave {escape(one['wave'])}"
        f"{_after(one['ended_ms'])}</li>"
        for one in shown
    )
    rest = group["count"] - len(shown)
    more = f"<p class=quiet>and {rest:,} more, in the table below</p>" if rest else ""
    again = escape(replay(results, shown[0]["index"])) if shown else ""
    return (
        f"<details><summary><b>{escape(cause)}</b> {escape(group['words'] or '')} "
        f'<span class="number">{group["count"]:,}</span>'
        f"{fleet_plots.share_bar([(style, group['count'])], most)}</summary>"
        f"<p>Again, for the first: <code>{again}</code></p><ol>{names}</ol>{more}</details>"
    )


def _after(at_ms: int | None) -> str:
    return "" if at_ms is None else f", after {duration(at_ms / 1000)}"


def _messages(messages: Sequence[Document]) -> str:
    if not messages:
        return '<p class="quiet">None.</p>'
    most = max(message["count"] for message in messages)
    rows = (
        [
            escape(message["use_case"]),
            escape(message["kind"]),
            f"<code>{escape(message['alert_code'] or '')}</code>",
            escape(message["words"] or ""),
            escape(message["signature"]),
            escape(message["mac"]),
            f'<td class="number">{message["count"]:,}</td>',
            fleet_plots.share_bar([("count", message["count"])], most),
        ]
        for message in messages
    )
    heads = ("Use case", "Kind", "Alert code", "What it says", "Signature", "MAC", "Count", "")
    return _table(heads, rows, "messages")


def _plan(results: Document) -> str:
    facts = {
        "Plan": results["plan"],
        "Seed": results["seed"],
        "Homes": f"{results['homes']:,}, from index {results['first_index']}",
        "Devices": ", ".join(f"{count:,} {kind}" for kind, count in results["types"].items()),
        "Start": results["start"],
        "Faults that happened": ", ".join(
            f"{count:,} × {_spaced(name)}" for name, count in results["faults"].items()
        )
        or "none",
    }
    rows = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>" for name, value in facts.items()
    )
    again = escape(REPLAY.format(seed=results["seed"], index="INDEX", plan=results["plan"]))
    return (
        f'<dl class="facts">{rows}</dl><p>The same plan with the same seed gives the same run, '
        f"octet by octet. One device again: <code>{again}</code></p>"
    )


def _devices(results: Document, rows_max: int) -> str:
    devices = results["devices"]
    note = ""
    if len(devices) > rows_max:
        devices = sorted(devices, key=lambda one: _URGENT.get(one["result"], len(_URGENT)))
        devices = devices[:rows_max]
        note = (
            f'<p class="quiet">{rows_max:,} of {len(results["devices"]):,}, those that failed '
            "first; the results file has all.</p>"
        )
    heads = "".join(f'<th scope="col">{head}</th>' for head in _HEADS)
    body = "\n".join(map(_device, devices))
    return (
        f'{note}<div id="filter"></div><table id="devices"><thead><tr>{heads}</tr></thead>'
        f"<tbody>\n{body}\n</tbody></table>"
    )


def _device(device: Document) -> str:
    wrong = device["words"] or device["cause"] or ""
    where = f"{_spaced(device['failed_in'])}: " if device["failed_in"] else ""
    took = device["duration_ms"]
    result = device["result"]
    cells = (
        str(device["home"]),
        device["type"],
        device["entity_id"],
        _spaced(result),
        escape(device["wave"] or ""),
        escape(device["image"] or ""),
        device["version"] or "",
        "" if took is None else duration(took / 1000),
        str(device["retries"]),
        escape(f"{where}{wrong}"),
    )
    # End tags of cells may be left out, and in so many rows that counts.
    return f"<tr id=d{device['index']} class={result}><td>{'<td>'.join(cells)}</tr>"


# --- helpers --------------------------------------------------------------------------------------


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], name: str) -> str:
    head = "".join(f'<th scope="col">{cell}</th>' for cell in heads)
    body = "".join(
        "<tr>"
        + "".join(cell if cell.startswith("<td") else f"<td>{cell}</td>" for cell in row)
        + "</tr>"
        for row in rows
    )
    return f'<table class="{name}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _spaced(name: str) -> str:
    return escape(name.replace("_", " "))


def _plural(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
