"""Unmodified zigbee-herdsman takes a virtual stick for hardware: it forms, resumes and restores."""

from __future__ import annotations

import asyncio
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from herdsman_peer import herdsman, needs_herdsman
from zigpy_peer import BASIC, MANUFACTURER, MODEL, OTA, Device, stick

from firmware_node.adapters.virtual_stick import VirtualOptions
from firmware_node.adapters.virtual_stick.ports import TcpPort

pytestmark = needs_herdsman


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
