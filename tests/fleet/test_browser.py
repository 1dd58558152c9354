"""The fleet's pages in a browser, with 10,000 devices: by mouse, by keyboard alone, by night."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from chromium import Page, browser, needs_chromium
from pretended import PretendedFleet
from synthetic import synthetic

from firmware_node.adapters.fleet.web import FleetWeb
from firmware_node.tools import fleet_html

pytestmark = needs_chromium
HOMES = 5_000  # of two devices
LIMIT_S = 120
TOKEN = "0123456789abcdef-fleet"
DRAWN = "document.querySelector('#rows tr:not([hidden])')"
FOCUSED = "document.activeElement.id"
ROWS = "[...document.querySelectorAll('#rows tr:not([hidden])')]"

Story = Callable[[PretendedFleet, Page, str], Awaitable[None]]


@contextlib.asynccontextmanager
async def at(
    fleet: PretendedFleet, folder: Path, token: str | None
) -> AsyncIterator[tuple[Page, str]]:
    web = FleetWeb(fleet, token=token)
    address = await web.open()
    try:
        async with asyncio.timeout(LIMIT_S), browser(folder) as page:
            await page.size(1280, 900)
            yield page, address
    finally:
        await web.close()


def looking(folder: Path, story: Story, *, token: str | None = None, turns: int = 44) -> None:
    async def run() -> None:
        fleet = PretendedFleet(HOMES)
        fleet.turn(turns)
        async with at(fleet, folder, token) as (page, address):
            await story(fleet, page, address)
            assert page.complaints == []

    asyncio.run(run())


async def focus(page: Page, name: str) -> None:
    """By Tab alone."""
    for _ in range(60):
        if await page.value(FOCUSED) == name:
            return
        await page.press("Tab")
    raise AssertionError(f"{name} is not to be had by Tab")


async def text(page: Page, name: str) -> str:
    return str(await page.value(f"document.getElementById('{name}').innerText"))


def test_it_shows_what_the_fleet_does_while_it_does_it(tmp_path: Path) -> None:
    async def story(fleet: PretendedFleet, page: Page, address: str) -> None:
        await page.open(address)
        await page.until(DRAWN)
        assert await text(page, "plan") == "rollout-2026"
        assert "5,000 homes" in await text(page, "shown")
        for _ in range(3):
            fleet.turn()
            totals = fleet.snapshot().totals
            words = f"'{totals['done']:,}'"
            await page.until(f"document.getElementById('tile-Done').innerText.startsWith({words})")
            assert (await text(page, "tile-Failed")).startswith(f"{totals['failed']:,}")
        for place, wave in enumerate(fleet.snapshot().waves):
            words = f"{wave.done:,} done, {wave.under_way:,} under way, {wave.failed:,} failed"
            node = f"document.querySelectorAll('#waves .track')[{place}]"
            await page.until(f"{node}.getAttribute('aria-valuetext').startsWith('{words}')")
        await page.until("document.querySelector('#chart path.s-done')")
        await page.picture(tmp_path / "page.png")

    looking(tmp_path / "profile", story)


def test_a_home_that_is_clicked_shows_its_devices_banks_and_events(tmp_path: Path) -> None:
    async def story(fleet: PretendedFleet, page: Page, address: str) -> None:
        await page.open(address)
        await page.until(DRAWN)
        x, y, size, columns = await page.value(
            "(() => { const box = document.getElementById('grid').getBoundingClientRect();"
            "return [box.x, box.y, grid.size, grid.columns]; })()"
        )
        await page.click(x + 2 + size * 7.5, y + 2 + size * 3.5)
        home = 3 * columns + 7
        await page.until("document.querySelector('.bank.runs')")
        assert f"of home {home}" in await text(page, "detail-title")
        shown = await text(page, "detail")
        assert "Bank A" in shown and "00000001" in shown
        assert "<b>CCS08</b>" in shown  # as text, whatever a device says
        await page.value("document.querySelector('[role=tab][aria-selected=false]').click()")
        await page.until(
            f"document.getElementById('detail').innerText.includes('HCALCS of home {home}')"
        )
        entity = str(fleet.shape.member(2 * home + 1).entity_id)
        await page.until(f"document.getElementById('detail').innerText.includes('{entity}')")
        await page.value("document.querySelector('[data-key=cut]').click()")
        await page.until("document.getElementById('said').innerText.includes('next turn')")
        assert fleet.orders[0][:2] == ("cut", 2 * home + 1)

    looking(tmp_path / "profile", story)


def test_filters_leave_the_homes_and_devices_that_pass(tmp_path: Path) -> None:
    async def story(fleet: PretendedFleet, page: Page, address: str) -> None:
        fleet.state = "paused"
        await page.open(address)
        await page.until(DRAWN)
        await page.value("document.querySelector('#phases input[value=failed]').click()")
        failed = [row for row in fleet.rows if row.phase == "failed"]
        homes = {row.member.home for row in failed}
        words = f"{len(homes):,} of 5,000 homes"
        await page.until(f"document.getElementById('shown').innerText.includes('{words}')")
        assert f"of {len(failed):,}" in await text(page, "range")
        rows = await page.value(f"{ROWS}.map((row) => row.children[3].innerText)")
        assert set(rows) == {"failed"}
        await page.value(
            "(() => { const list = document.getElementById('cause');"
            "list.value = 'trial: self_test'; list.dispatchEvent(new Event('change')); })()"
        )
        tried = sum(row.cause == "self_test" for row in failed)
        await page.until(f"document.getElementById('range').innerText.endsWith('of {tried}')")
        await page.value("document.getElementById('clear').click()")
        await page.until("document.getElementById('range').innerText.endsWith('of 10,000')")
        await page.value("document.getElementById('find').focus()")
        await page.type("00-db-12-48-00-00-12-34")
        await page.until(f"{ROWS}.length === 1")
        assert (await page.value(f"{ROWS}[0].innerText")).split()[:2] == ["4660", "HCALCS"]

    looking(tmp_path / "profile", story)


def test_the_keyboard_alone_pauses_chooses_a_home_and_stops(tmp_path: Path) -> None:
    async def story(fleet: PretendedFleet, page: Page, address: str) -> None:
        await page.open(address)
        await page.until(DRAWN)
        await focus(page, "toggle")
        assert await page.value("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        await page.press("Enter")
        await page.until("document.getElementById('state').innerText === 'paused'")
        assert fleet.actions == ["pause"]
        assert await page.value(FOCUSED) == "toggle"
        await page.press(" ")
        await page.until("document.getElementById('state').innerText === 'running'")
        assert fleet.actions == ["pause", "resume"]

        await focus(page, "grid")
        columns = int(await page.value("grid.columns"))
        await page.press("ArrowDown")
        await page.press("ArrowRight", 2)
        await page.press("ArrowLeft")
        home = columns + 1
        spoken = await text(page, "spoken")
        assert spoken.startswith(f"Home {home}: PPMID ") and "; HCALCS " in spoken
        await page.press("End")
        assert (await text(page, "spoken")).startswith("Home 4999:")
        await page.press("Enter")
        await page.until("document.querySelector('.bank.runs')")
        assert await page.value(FOCUSED) == "detail"
        assert "of home 4999" in await text(page, "detail-title")

        await page.open(address)  # where Tab begins at the top
        await page.until(DRAWN)
        await focus(page, "stop")
        await page.press("Enter")
        await page.until("document.getElementById('sure').open")
        await page.press("Escape")
        await page.until("!document.getElementById('sure').open")
        assert fleet.actions == ["pause", "resume"]
        await page.press("Enter")
        await page.until("document.getElementById('sure').open")
        await page.press("Tab")
        await page.press("Enter")
        await page.until("document.getElementById('state').innerText === 'stopped'")
        assert fleet.actions[-1] == "stop"

    looking(tmp_path / "profile", story)


def test_what_is_drawn_is_named_for_those_who_cannot_see_it(tmp_path: Path) -> None:
    async def story(_: PretendedFleet, page: Page, address: str) -> None:
        await page.open(address)
        await page.until(DRAWN)
        await page.until("document.querySelector('#chart title')")
        tree = await page.call("Accessibility.getFullAXTree")
        nodes = [node for node in tree["nodes"] if not node.get("ignored")]
        named = {(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes}
        assert ("button", "Pause") in named
        assert ("progressbar", "Wave pilot") in named
        assert ("button", "PPMID of home 0, show") in named
        assert any(role == "application" and name == "5,000 homes" for role, name in named)
        for role in ("button", "checkbox", "combobox", "searchbox", "link", "progressbar"):
            found = [name for kind, name in named if kind == role]
            assert found and all(found), role

    looking(tmp_path / "profile", story)


def test_a_token_is_given_once_and_leaves_the_address(tmp_path: Path) -> None:
    async def story(_: PretendedFleet, page: Page, address: str) -> None:
        await page.open(f"{address}?token={TOKEN}")
        await page.until(DRAWN)
        assert TOKEN not in await page.value("location.href + document.cookie")

    looking(tmp_path / "profile", story, token=TOKEN)


def test_a_browser_begins_anew_when_another_run_answers(tmp_path: Path) -> None:
    async def run() -> None:
        fleet, other = PretendedFleet(50), PretendedFleet(60)
        fleet.turn(3)
        other.turn(5)
        first = FleetWeb(fleet, token=None)
        address = await first.open()
        async with asyncio.timeout(LIMIT_S), browser(tmp_path / "profile") as page:
            await page.open(address)
            await page.until("document.getElementById('shown').innerText === '50 homes'")
            fleet.turn()
            await page.until(f"last.now_ms === {fleet.now_ms}")  # the stream is there
            await first.close()
            await page.until("document.getElementById('said').innerText.includes('has ended')")
            assert await text(page, "state") == "running"
            assert await page.value("document.getElementById('toggle').disabled")
            port = int(address.rstrip("/").rpartition(":")[2])
            second = FleetWeb(other, port=port, token=None)
            await second.open()
            await page.until("document.getElementById('shown').innerText === '60 homes'")
            await second.close()

    asyncio.run(run())


def test_the_report_reads_and_filters_without_a_server(tmp_path: Path) -> None:
    results = synthetic(HOMES)
    path = tmp_path / "report.html"
    path.write_text(fleet_html.html(results), encoding="utf-8")

    async def run() -> None:
        async with asyncio.timeout(LIMIT_S), browser(tmp_path / "profile") as page:
            await page.size(1280, 900)
            await page.open(path.as_uri())
            shown = "document.querySelectorAll('#devices tbody tr:not([hidden])').length"
            assert await page.value(shown) == 10_000
            await page.value(
                "(() => { result.value = 'failed'; result.dispatchEvent(new Event('change')); })()"
            )
            assert await page.value(shown) == results["totals"]["failed"]
            entity = next(one for one in results["devices"] if one["result"] == "failed")
            await page.value("find.focus()")
            await page.type(entity["entity_id"])
            await page.until(f"{shown} === 1")
            await page.value("document.querySelector('details').open = true")
            assert await page.value("document.querySelectorAll('svg.plot').length") == 7
            overflow = "document.documentElement.scrollWidth > innerWidth"
            for width in (400, 1280):
                await page.size(width, 900, dark=width == 400)
                assert not await page.value(overflow)
            await page.picture(tmp_path / "report.png")
            assert page.complaints == []

    asyncio.run(run())
