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
from firmware_node.tools.fleet_report import done_durations, moment, replay
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


def html(results: Document, folder: str | None = None, rows_max: int = ROWS_MAX) -> str:
    """The page; its table has no more rows than that. ``folder`` is the run's."""
    title = escape(f"{results['plan']}: fleet report")
    sections = (
        _head(results),
        _totals(results),
        _section("Waves", _waves(results)),
        _section("How long upgrades took", _durations(results)),
        _section("Failures", _failures(results, folder)),
        _section("Skipped", _skips(results, folder)),
        _section("GBCS messages that came up", _messages(results["messages"])),
        _section("The plan, and the same again", _plan(results, folder)),
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
        f"from {_utc(results, 0)} to {_utc(results, results['now_ms'])}</p></header>"
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
    words = f"{wave['image']} ({wave['to_version']}), {wave['state']}: {wave['done']:,} done"
    for name in ("failed", "skipped", "in_flight"):
        words += f", {wave[name]:,} {_spaced(name)}" if wave[name] else ""
    words += f" of {wave['size']:,}"
    if wave["ended_ms"] is not None:
        words += f" in {duration((wave['ended_ms'] - wave['begun_ms']) / 1000)}"
    at_once = f"; at most {wave['at_once']:,} at once" if wave["at_once"] else ""
    return f"{words}{at_once}"


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


def _failures(results: Document, folder: str | None) -> str:
    groups, totals = results["failures"], results["totals"]
    if not groups:
        return '<p class="quiet">No upgrade failed.</p>'
    count = sum(group["count"] for group in groups)
    better = count - totals["failed"]
    words = f"{_plural(count, 'upgrade')} failed of {totals['offers']:,} that were offered; "
    words += f"{_plural(totals['failed'], 'device')} failed in the end"
    words += f", the other {better:,} had another image after that." if better > 0 else "."
    return f"<p>{words}</p>{_reasons(groups, results, folder)}"


def _skips(results: Document, folder: str | None) -> str:
    if not results["skips"]:
        return '<p class="quiet">No device was skipped.</p>'
    return _reasons(results["skips"], results, folder)


def _reasons(groups: Sequence[Document], results: Document, folder: str | None) -> str:
    most = max(group["count"] for group in groups)
    return "".join(_reason(group, most, results, folder) for group in groups)


def _reason(group: Document, most: int, results: Document, folder: str | None) -> str:
    phase = f"{_spaced(group['phase'])}: " if group["phase"] else ""
    style = "failed" if group["phase"] else "skipped"
    cause = f"{phase}{_spaced(group['cause'] or '')}"
    shown = group["attempts"][:NAMED_MAX]
    names = "".join(_named(one, results, is_short=not group["phase"]) for one in shown)
    rest = group["count"] - len(shown)
    more = f"<p class=quiet>and {rest:,} more, in the table below</p>" if rest else ""
    again = escape(replay(results, shown[0]["entity_id"], folder)) if shown else ""
    return (
        f"<details><summary><b>{escape(group['words'] or cause)}</b> "
        f'<span class="quiet">{cause}</span> <span class="number">{group["count"]:,}</span>'
        f"{fleet_plots.share_bar([(style, group['count'])], most)}</summary>"
        f"<p>To play one again, alone, here the first: <code>{again}</code></p>"
        f"<ol>{names}</ol>{more}</details>"
    )


def _named(one: Document, results: Document, *, is_short: bool) -> str:
    """A device behind a cause: who, when, and what is known of it."""
    device = results["devices"][one["index"]]
    attempt = next(item for item in device["attempts"] if item["wave"] == one["wave"])
    line = (
        f'<a href="#d{one["index"]}"><code>{escape(one["entity_id"])}</code></a> '
        f"{escape(one['type'])} of home {one['home']}, wave {escape(one['wave'])}"
    )
    if one["ended_ms"] is not None:
        line += f", {_utc(results, one['ended_ms'])}"
    if attempt["duration_ms"] is not None:
        line += f", {duration(attempt['duration_ms'] / 1000)} after the offer"
    if is_short:
        return f"<li>{line}</li>"
    facts = [f"{attempt['from_version']} to {attempt['to_version']}"]
    if attempt is device["attempts"][-1] and device["total"]:
        facts.append(f"{device['offset']:,} of {device['total']:,} bytes downloaded")
    facts.append(_plural(device["retries"], "retry", "retries"))
    facts.append(_plural(device["starts"], "start"))
    if device["result"] != "failed":
        facts.append(f"{_spaced(device['result'])} in a later wave")
    said = "".join(f"<br>{escape(message)}" for message in device["messages"])
    return f"<li>{line}<small>{escape('; '.join(facts))}{said}</small></li>"


def _utc(results: Document, at_ms: int) -> str:
    return moment(results, at_ms).replace("T", " ").replace("Z", " UTC")


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


def _plan(results: Document, folder: str | None) -> str:
    facts = {
        "Plan": results["plan"],
        "Seed": results["seed"],
        "Homes": f"{results['homes']:,}, from index {results['first_index']}",
        "Devices": ", ".join(f"{count:,} {kind}" for kind, count in results["types"].items()),
        "Start": _utc(results, 0),
        "Faults that happened": ", ".join(
            f"{count:,} × {_spaced(name)}" for name, count in results["faults"].items()
        )
        or "none",
    }
    rows = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>" for name, value in facts.items()
    )
    again = escape(replay(results, "ENTITY-ID", folder))
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


def _plural(number: int, what: str, many: str | None = None) -> str:
    return f"{number:,} {what if number == 1 else many or f'{what}s'}"
