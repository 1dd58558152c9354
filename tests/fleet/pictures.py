"""Makes the pictures that the README shows: ``python tests/fleet/pictures.py examples``.

They are of a run of ``examples/rollout.toml`` with fewer homes: page and terminal as they stand
some time into the night, the report as it is at the end. What they show follows from the plan, but
for the speed. Takes a minute or so; needs Debian's chromium.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from chromium import Page, browser
from rich.console import Console

from firmware_node.adapters.fleet.journal import Journal
from firmware_node.adapters.fleet.lines import PlainLines
from firmware_node.adapters.fleet.run import Backend, FleetRun
from firmware_node.adapters.fleet.terminal import table
from firmware_node.adapters.fleet.web import FleetWeb
from firmware_node.adapters.fleet.workers import Workers
from firmware_node.fleet.campaign import Campaign
from firmware_node.fleet.live import Snapshot
from firmware_node.fleet.plan import read_plan
from firmware_node.fleet.terms import Plan
from firmware_node.tools import fleet_html

EXAMPLE = Path(__file__).parents[2] / "examples/rollout.toml"
HOMES, PROCESSES = 120, 2
MOMENT_MS = 10_830_000  # 23:00:30: some downloads have failed, switches wait for their time


async def main(folder: Path) -> None:
    plan = read_plan(tomllib.loads(EXAMPLE.read_text(encoding="utf-8")))
    plan = replace(plan, shape=replace(plan.shape, homes=HOMES))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        work = Path(name)
        async with browser(work / "profile") as page:
            with _run(plan, work / "moment.sqlite", MOMENT_MS) as run:
                await run.run()
                await _page(page, run, folder / "fleet.png")
                await _terminal(page, run.snapshot(), work / "t.svg", folder / "fleet-terminal.png")
            with _run(plan, work / "whole.sqlite", None) as run:
                await run.run()
                await _report(page, run, work / "report.html", folder / "fleet-report.png")


@contextlib.contextmanager
def _run(plan: Plan, path: Path, stop_at_ms: int | None) -> Iterator[FleetRun]:
    with contextlib.closing(Journal.create(path, {})) as journal, Workers(plan, PROCESSES) as homes:
        view = PlainLines(sys.stderr)
        yield FleetRun(plan, homes, Campaign(plan), journal, view, stop_at_ms=stop_at_ms)


async def _page(page: Page, run: FleetRun, path: Path) -> None:
    web = FleetWeb(Backend(run), folder=Path(f"fleet-{run.plan.name}"))
    await page.size(1360, 880)
    await page.open(await web.open())
    await page.until("document.querySelector('#rows tr:not([hidden])')")
    shown = run.snapshot().failures[0].member
    await page.value(f"choose({shown})")
    await page.until("document.querySelector('.bank.runs') && document.querySelector('#chart svg')")
    await page.until("document.querySelector('#failures table')")
    await page.picture(path)
    await web.close()


async def _report(page: Page, run: FleetRun, source: Path, path: Path) -> None:
    source.write_text(fleet_html.html(await run.results()), encoding="utf-8")
    await page.size(1240, 1320)
    await page.open(source.as_uri())
    await page.picture(path)


async def _terminal(page: Page, seen: Snapshot, source: Path, path: Path) -> None:
    console = Console(
        width=80, record=True, force_terminal=True, file=io.StringIO(), highlight=False
    )
    console.print(table(seen, 80))
    text = console.export_svg(title="firmware-node fleet run examples/rollout.toml")
    # Its fonts would come from elsewhere.
    source.write_text("".join(part for part in text.split("@font-face")[:1]) + _rest(text))
    await page.size(1000, 560)
    await page.open(source.as_uri())
    await page.picture(path)


def _rest(text: str) -> str:
    """What follows the last font of the picture."""
    return text.rpartition("@font-face")[2].partition("}")[2]


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
