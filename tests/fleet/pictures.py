"""Makes the pictures that the README shows: ``python tests/fleet/pictures.py examples``.

Of a real run of the example, caught when much goes on, and of its report. Needs Debian's chromium,
and some four minutes.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, Process
from pathlib import Path

from chromium import Page, browser

PLAN = Path(__file__).resolve().parents[2] / "examples/rollout.toml"
SPEED = 240  # times real time: the last waves begin after half a minute
BUSY = "last !== null && last.totals.done > 380"  # in the midst of them
FAILED = "causeOf.findIndex((cause) => (last.causes[cause] ?? '').includes('self_test'))"
LIMIT_S = 300


async def main(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as work:
        state = Path(work) / "run"
        async with browser(Path(work) / "profile") as page:
            run = await _fleet(state, "--speed", str(SPEED))
            assert run.stderr is not None
            url = (await run.stderr.readline()).decode().removeprefix("page: ").strip()
            await _live(page, url, folder / "fleet.png")
            run.send_signal(signal.SIGINT)
            await run.communicate()
            await (await _fleet(state, "--fresh", "--no-web")).communicate()
            await page.size(1240, 1320)
            await page.open((state / "report.html").as_uri())
            await page.picture(folder / "fleet-report.png")


async def _fleet(state: Path, *arguments: str) -> Process:
    command = ("-m", "firmware_node", "fleet", "run", str(PLAN), "--state", str(state))
    return await asyncio.create_subprocess_exec(
        sys.executable, *command, *arguments, stdout=DEVNULL, stderr=PIPE
    )


async def _live(page: Page, url: str, path: Path) -> None:
    await page.size(1360, 880)
    await page.open(url)
    async with asyncio.timeout(LIMIT_S):
        while not await page.value(BUSY):
            await asyncio.sleep(0.1)
    failed = await page.value(FAILED)
    await page.value(f"choose({failed})")
    await page.value(f"moveCursor(homeOf({failed}))")
    await page.until("document.querySelector('.bank.runs') && document.querySelector('#chart svg')")
    await page.picture(path)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
