"""Makes the pictures of the fleet's views that the README shows: ``python pictures.py FOLDER``.

The fleet in them is a pretended one, so that they come out the same. Needs Debian's chromium.
"""

from __future__ import annotations

import asyncio
import io
import sys
import tempfile
from pathlib import Path

from chromium import Page, browser
from pretended import PretendedFleet
from rich.console import Console
from synthetic import synthetic

from firmware_node.adapters.fleet.terminal import table
from firmware_node.adapters.fleet.web import FleetWeb
from firmware_node.tools import fleet_html

HOMES, TURNS = 2_000, 66


async def main(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as work:
        async with browser(Path(work) / "profile") as page:
            await _page(page, folder / "fleet.png")
            await _report(page, Path(work) / "report.html", folder / "fleet-report.png")
            await _terminal(page, Path(work) / "terminal.svg", folder / "fleet-terminal.png")


async def _page(page: Page, path: Path) -> None:
    fleet = PretendedFleet(HOMES)
    fleet.turn(TURNS)
    web = FleetWeb(fleet, token=None)
    await page.size(1360, 880)
    await page.open(await web.open())
    await page.until("document.querySelector('#rows tr:not([hidden])')")
    shown = next(row.member.index for row in fleet.rows if row.cause == "self_test")
    await page.value(f"choose({shown})")
    await page.value(f"moveCursor({shown // 2})")
    await page.until("document.querySelector('.bank.runs') && document.querySelector('#chart svg')")
    await page.picture(path)
    await web.close()


async def _report(page: Page, source: Path, path: Path) -> None:
    source.write_text(fleet_html.html(synthetic(HOMES)), encoding="utf-8")
    await page.size(1240, 1320)
    await page.open(source.as_uri())
    await page.picture(path)


async def _terminal(page: Page, source: Path, path: Path) -> None:
    fleet = PretendedFleet(HOMES)
    fleet.turn(TURNS)
    console = Console(
        width=80, record=True, force_terminal=True, file=io.StringIO(), highlight=False
    )
    console.print(table(fleet.snapshot(), 80))
    text = console.export_svg(title="firmware-node fleet run")
    # Its fonts would come from elsewhere.
    source.write_text("".join(part for part in text.split("@font-face")[:1]) + _rest(text))
    await page.size(1000, 480)
    await page.open(source.as_uri())
    await page.picture(path)


def _rest(text: str) -> str:
    """What follows the last font of the picture."""
    return text.rpartition("@font-face")[2].partition("}")[2]


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
