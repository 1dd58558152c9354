"""Unmodified zigpy updates the device over two virtual sticks, all of it in separate processes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import zigpy.config
import zigpy.types
from home import PPMID
from stick_processes import Bench, bench
from zigpy.zcl import ClusterType
from zigpy_peer import MANUFACTURER, OTA, coordinator, until


LIMIT_S = 120  # for a whole download; it takes about ten seconds on a quiet machine
TWIN = 2


def run(story: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(_bounded(story))


async def _bounded(story: Callable[[], Awaitable[None]]) -> None:
    async with asyncio.timeout(2 * LIMIT_S):
        await story()


def settings(home: Bench) -> dict[str, Any]:
    """zigpy with a memory of its own, and the folder that our image is in."""
    return {
        "database_path": str(home.root / "zigpy.db"),
        "ota": {
            "providers": [
                {
                    "type": "advanced",
                    "path": str(home.image.parent),
                    "warning": zigpy.config.CONF_OTA_ALLOW_ADVANCED_DIR_STRING,
                }
            ],
            "broadcast_enabled": False,
        },
    }


IEEE = zigpy.types.EUI64(reversed(PPMID.octets))


async def interviewed(app: Any) -> Any:
    """The device, once zigpy knows all of it."""
    await until(lambda: IEEE in app.devices and app.devices[IEEE].model is not None, LIMIT_S)
    device = app.devices[IEEE]
    await until(lambda: bool(device.is_initialized and not device.initializing), LIMIT_S)
    return device


async def update(app: Any, device: Any) -> None:
    """The whole of zigpy's update, with what it reads back."""
    cluster = device.find_cluster(OTA, ClusterType.Client)
    await until(lambda: cluster.last_query_cmd is not None)
    (offered,) = (await app.ota.get_ota_images(device, cluster.last_query_cmd)).upgrades
    assert offered.version == 2
    told: list[tuple[int, int]] = []
    result = await device.update_firmware(
        offered, progress_callback=lambda at, size, share: told.append((at, size))
    )
    assert result == 0
    assert told[-1][0] == told[-1][1]
    assert await version(app) == 2


async def version(app: Any) -> int:
    """What the device says that it runs, not what zigpy remembers."""
    # An interview makes another object of it.
    cluster = app.devices[IEEE].find_cluster(OTA, ClusterType.Client)
    values, _ = await cluster.read_attributes(["current_file_version"], allow_cache=False)
    return int(values["current_file_version"])


@pytest.mark.parametrize("transport", ["pty", pytest.param("tcp", marks=pytest.mark.long)])
def test_zigpy_interviews_updates_and_resumes_with_a_lenient_device(transport: str) -> None:
    async def story(home: Bench) -> None:
        port = home.path("coordinator")
        async with coordinator(port, **settings(home)) as app:
            await app.permit(254)
            home.run('profile = "lenient"')
            device = await interviewed(app)
            assert (device.manufacturer, device.model) == (MANUFACTURER, "PPMID")
            found = device.find_cluster(OTA, ClusterType.Client).endpoint
            assert (found.endpoint_id, found.profile_id) == (TWIN, 0x0104)
            await update(app, device)
            await until(home.is_confirmed, LIMIT_S)
            home.check_updated()
        home.pull_out("coordinator")
        home.plug_in("coordinator")
        async with coordinator(port, **settings(home)) as app:
            assert await version(app) == 2
        assert home.stop() == 0
        assert home.unknown_commands() == {"coordinator": 0, "device": 0}

    with bench(tcp=transport == "tcp") as home:
        run(lambda: story(home))
