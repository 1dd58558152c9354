"""Unmodified zigpy updates the device over two virtual sticks.

A lenient device is updated by zigpy as it comes. A strict one lives in Smart Energy's profile alone:
zigpy needs an endpoint there, and a subclass that takes that profile for the one it knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest
import zigpy.config
import zigpy.types
from han import Han, han
from home import PPMID
from outside import (
    HOME_AUTOMATION,
    LIMIT_S,
    SMART_ENERGY,
    TWIN,
    check_end,
    check_updated,
    is_confirmed,
    on_sticks,
    plug_in_again,
)
from zigpy.zcl import ClusterType
from zigpy_peer import MANUFACTURER, OTA, coordinator, until
from zigpy_znp.zigbee.application import ControllerApplication

IEEE = zigpy.types.EUI64(reversed(PPMID.octets))


def settings(home: Han, folder: Path) -> dict[str, Any]:
    """zigpy with a memory of its own, and our image."""
    provider = {
        "type": "advanced",
        "path": str(folder),
        "warning": zigpy.config.CONF_OTA_ALLOW_ADVANCED_DIR_STRING,
    }
    return {
        "database_path": str(home.root / "zigpy.db"),
        "ota": {"providers": [provider], "broadcast_enabled": False},
    }


class SmartEnergyApplication(ControllerApplication):  # type: ignore[misc]
    """zigpy discards what comes in other profiles than its own two (zigbee-znp.md 5.3)."""

    def packet_received(self, packet: Any) -> None:
        if packet.profile_id == SMART_ENERGY:
            packet = packet.replace(profile_id=HOME_AUTOMATION)
        super().packet_received(packet)


IN_SMART_ENERGY = {
    "additional_endpoints": [
        {
            "endpoint": 10,
            "profile": SMART_ENERGY,
            "device_type": 0x0500,
            "device_version": 0,
            "input_clusters": [OTA],
            "output_clusters": [],
        }
    ],
    "znp_config": {"skip_bootloader": False, "prefer_endpoint_1": False},
}


def run(story: Awaitable[None]) -> None:
    asyncio.run(_limited(story))


async def _limited(story: Awaitable[None]) -> None:
    await asyncio.wait_for(story, LIMIT_S)


@pytest.mark.parametrize("transport", ["pty", pytest.param("tcp", marks=pytest.mark.long)])
def test_zigpy_interviews_updates_and_resumes_with_a_lenient_device(transport: str) -> None:
    async def story(home: Han, folder: Path) -> None:
        async with coordinator(home.port("hub"), **settings(home, folder)) as app:
            await app.permit(254)
            home.device("ppmid", 'profile = "lenient"')
            await interviewed(app)
            endpoint = ota_cluster(app).endpoint
            assert (endpoint.endpoint_id, endpoint.profile_id) == (TWIN, HOME_AUTOMATION)
            await update(app)
            await until(lambda: is_confirmed(home), LIMIT_S)
            check_updated(home)
        plug_in_again(home)
        async with coordinator(home.port("hub"), **settings(home, folder)) as app:
            assert await version(app) == 2

    with han(tcp=transport == "tcp") as home:
        run(story(home, on_sticks(home)))
        check_end(home)


def test_zigpy_with_an_endpoint_in_smart_energy_updates_a_strict_device() -> None:
    async def story(home: Han, folder: Path) -> None:
        chosen = settings(home, folder) | IN_SMART_ENERGY
        async with coordinator(home.port("hub"), SmartEnergyApplication, **chosen) as app:
            await app.permit(254)
            home.device("ppmid")
            await interviewed(app)
            endpoint = ota_cluster(app).endpoint
            assert (endpoint.endpoint_id, endpoint.profile_id) == (1, SMART_ENERGY)
            await update(app)
            await until(lambda: is_confirmed(home), LIMIT_S)
            check_updated(home)

    with han() as home:
        run(story(home, on_sticks(home)))
        check_end(home)


async def interviewed(app: Any) -> None:
    """Until zigpy knows all of the device."""
    known = app.devices
    await until(lambda: IEEE in known and known[IEEE].model is not None, LIMIT_S)
    await until(lambda: known[IEEE].is_initialized and not known[IEEE].initializing, LIMIT_S)
    assert (known[IEEE].manufacturer, known[IEEE].model) == (MANUFACTURER, "PPMID")


def ota_cluster(app: Any) -> Any:
    """The one that zigpy would update; every interview makes another object of it."""
    return app.devices[IEEE].find_cluster(OTA, ClusterType.Client)


async def update(app: Any) -> None:
    """The whole of zigpy's update, with what it reads back."""
    await until(lambda: ota_cluster(app).last_query_cmd is not None)
    device, query = app.devices[IEEE], ota_cluster(app).last_query_cmd
    (offered,) = (await app.ota.get_ota_images(device, query)).upgrades
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
    values, _ = await ota_cluster(app).read_attributes(["current_file_version"], allow_cache=False)
    return int(values["current_file_version"])
