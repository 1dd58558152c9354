"""Unmodified zigpy and zigpy-znp take virtual sticks for hardware, as coordinator and as device."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zigpy.types
from vectors import VECTORS, needs_vectors
from zigpy_peer import MANUFACTURER, MODEL, OTA, Device, coordinator, eui64, stick, until

from firmware_node.adapters.virtual_stick import StickServer, VirtualOptions
from firmware_node.adapters.virtual_stick.ports import TcpPort
from firmware_node.crypto import install_code_key

CODE = bytes.fromhex("83fed3407a939723a5c639b26916d505c3b5")


def options(tmp_path: Path, name: str, **changes: Any) -> VirtualOptions:
    """One stick of this test's air."""
    plain = VirtualOptions(
        pty=tmp_path / f"{name}.tty", nv=tmp_path / f"{name}.nv", air=tmp_path / "air"
    )
    return replace(plain, **changes)


def path_of(server: StickServer, chosen: VirtualOptions) -> str:
    if isinstance(server.port, TcpPort):
        return f"socket://127.0.0.1:{server.port.port}"
    return str(chosen.pty)


def unknown(*servers: StickServer) -> list[int]:
    return [server.stick.board.counters["unknown_commands"] for server in servers]


def run(story: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(120):
            await story()

    asyncio.run(bounded())


@pytest.mark.parametrize("transport", ["pty", "tcp"])
@pytest.mark.parametrize("product", [1, pytest.param(2, marks=pytest.mark.long)])
def test_zigpy_forms_a_network_permits_joining_and_resumes(
    tmp_path: Path, transport: str, product: int
) -> None:
    chosen = options(tmp_path, "coordinator", product=product)
    if transport == "tcp":
        chosen = replace(chosen, pty=None, tcp=("127.0.0.1", 0))
    networks = []

    async def story() -> None:
        for _ in range(3):  # the third time with a stick that was unplugged
            async with stick(chosen) as server:
                for _ in range(2):
                    async with coordinator(path_of(server, chosen)) as app:
                        await app.permit(60)
                        info, node = app.state.network_info, app.state.node_info
                        networks.append(
                            (
                                info.pan_id,
                                info.extended_pan_id,
                                info.channel,
                                str(info.network_key.key),
                                node.ieee,
                                node.nwk,
                            )
                        )
                assert unknown(server) == [0]

    run(story)
    assert len(networks) == 6
    assert len(set(networks)) == 1  # formed once, resumed five times
    assert networks[0][5] == 0x0000


@needs_vectors
@pytest.mark.parametrize("name", ["CC2652R-ZStack4", "CC2531-ZStack3"])
def test_zigpy_resumes_the_network_of_a_real_stick_s_dump(tmp_path: Path, name: str) -> None:
    dump = VECTORS / "znp-nvram" / f"{name}.formed.json"
    items = json.loads(dump.read_text())["LEGACY"]
    chosen = options(tmp_path, "real", nv_dump=dump, nv=None)

    async def story() -> None:
        async with stick(chosen) as server, coordinator(str(chosen.pty)) as app:
            info = app.state.network_info
            assert info.extended_pan_id.serialize().hex() == items["APS_USE_EXT_PANID"]
            assert bytes(info.network_key.key).hex() == items["PRECFGKEY"]
            assert 1 << info.channel == int.from_bytes(bytes.fromhex(items["CHANLIST"]), "little")
            assert app.state.node_info.ieee.serialize().hex() == items["EXTADDR"]
            await app.load_network_info(load_devices=True)
            assert len(app.state.network_info.nwk_addresses) >= 4
            assert unknown(server) == [0]

    run(story)


def test_zigpy_backs_up_a_network_and_restores_it_to_another_stick(tmp_path: Path) -> None:
    async def story() -> None:
        first, second = options(tmp_path, "first"), options(tmp_path, "second")
        async with stick(first) as server, coordinator(str(first.pty)) as app:
            await app.load_network_info(load_devices=True)
            backup = app.backups.from_network_state()
            assert unknown(server) == [0]
        async with stick(second) as server, coordinator(str(second.pty)) as app:
            assert app.state.network_info.pan_id != backup.network_info.pan_id
            await app.backups.restore_backup(backup)
            assert unknown(server) == [0]
        async with stick(second), coordinator(str(second.pty)) as app:
            restored = app.state.network_info
            for name in ("pan_id", "extended_pan_id", "channel"):
                assert getattr(restored, name) == getattr(backup.network_info, name)
            assert restored.network_key.key == backup.network_info.network_key.key
            assert restored.network_key.tx_counter > backup.network_info.network_key.tx_counter
            assert app.state.node_info.ieee == backup.node_info.ieee

    run(story)


@pytest.mark.parametrize("logical_type", [2, 1], ids=["end device", "router"])
def test_a_device_on_a_second_stick_joins_is_interviewed_and_exchanges_data(
    tmp_path: Path, logical_type: int
) -> None:
    first, second = options(tmp_path, "coordinator"), options(tmp_path, "device")

    async def story() -> None:
        async with stick(first) as one, stick(second) as two:
            async with coordinator(str(first.pty)) as app:
                await app.permit(60)
                device = Device(tmp_path / "device.tty", logical_type)
                info = await device.join()
                assert device.status == 0
                ieee = eui64(info)
                await until(lambda: ieee in app.devices and app.devices[ieee].model is not None)
                known = app.devices[ieee]
                await until(lambda: bool(known.is_initialized))
                assert (known.model, known.manufacturer) == (MODEL, MANUFACTURER)
                assert known.nwk == info.NWK
                assert known.node_desc.logical_type == logical_type
                assert sorted(known.endpoints) == [0, 1]
                assert list(known.endpoints[1].in_clusters) == [0x0000]
                assert list(known.endpoints[1].out_clusters) == [OTA]
                # And back: a command of the device arrives at zigpy's cluster.
                heard = asyncio.get_running_loop().create_future()
                known.endpoints[1].out_clusters[OTA].add_listener(_Listener(heard))
                query = bytes.fromhex("0121010011220033440000000100")[:3] + bytes(9)
                assert await device.send(1, OTA, query) == 0
                async with asyncio.timeout(10):
                    assert (await heard) == 0x01
                await device.close()
            assert unknown(one, two) == [0, 0]

    run(story)


class _Listener:
    """Hears the commands of one zigpy cluster."""

    def __init__(self, heard: asyncio.Future[int]) -> None:
        self._heard = heard

    def cluster_command(self, tsn: int, command_id: int, args: Any) -> None:
        if not self._heard.done():
            self._heard.set_result(command_id)


def test_a_device_resumes_after_its_stick_was_unplugged_and_zigpy_hears_it(
    tmp_path: Path,
) -> None:
    first, second = options(tmp_path, "coordinator"), options(tmp_path, "device")

    async def story() -> None:
        async with stick(first) as one, coordinator(str(first.pty)) as app:
            await app.permit(60)
            async with stick(second):
                device = Device(tmp_path / "device.tty")
                joined = await device.join()
                await until(lambda: eui64(joined) in app.devices)
                await device.close()
            await app.permit(0)
            async with stick(second) as two:
                device = Device(tmp_path / "device.tty")
                resumed = await device.resume()
                assert device.status == 0x0D
                assert (resumed.NWK, resumed.IEEE) == (joined.NWK, joined.IEEE)
                last_seen = app.devices[eui64(joined)].last_seen or 0
                assert await device.send(1, OTA, b"\x01\x01\x01" + bytes(9)) == 0
                await until(lambda: (app.devices[eui64(joined)].last_seen or 0) > last_seen)
                await device.close()
                assert unknown(one, two) == [0, 0]

    run(story)


def test_zigpy_lets_a_device_in_by_its_install_code(tmp_path: Path) -> None:
    first, second = options(tmp_path, "coordinator"), options(tmp_path, "device")

    async def story() -> None:
        async with stick(first) as one, stick(second) as two, coordinator(str(first.pty)) as app:
            ieee = zigpy.types.EUI64.deserialize(two.stick.board.nv.ieee)[0]
            key = install_code_key(CODE)
            permitting = asyncio.ensure_future(
                app.permit_with_link_key(ieee, zigpy.types.KeyData(key), 60)
            )
            device = Device(tmp_path / "device.tty")
            info = await device.join(link_key=key)
            assert device.status == 0
            await until(lambda: eui64(info) in app.devices)
            # The same key seals data from then on.
            assert await device.send(1, OTA, b"\x01\x01\x01" + bytes(9), secured=True) == 0
            permitting.cancel()
            await asyncio.gather(permitting, return_exceptions=True)
            await device.close()
            assert unknown(one, two) == [0, 0]

    run(story)
