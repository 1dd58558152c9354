"""Unmodified zigpy updates the device over two virtual sticks.

A lenient device is updated by zigpy as it comes. A strict one lives in Smart Energy's profile
alone: zigpy needs an endpoint there, and a subclass that takes that profile for the one it knows.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import pytest
import zigpy.config
import zigpy.types
from han import Han, han
from home import PPMID
from outside import (
    FILE,
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
from zigpy.ota import OtaImageWithMetadata
from zigpy.ota.image import parse_ota_image
from zigpy.ota.providers import BaseOtaImageMetadata
from zigpy.zcl import ClusterType
from zigpy.zcl.foundation import Status
from zigpy_peer import MANUFACTURER, OTA, coordinator, until
from zigpy_znp.zigbee.application import ControllerApplication

from firmware_node.errors import FirmwareNodeError

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


def test_zigpy_as_it_comes_cannot_update_a_strict_device() -> None:
    async def story(home: Han, folder: Path) -> None:
        async with coordinator(home.port("hub"), **settings(home, folder)) as app:
            await app.permit(254)
            home.device("ppmid")
            await until(lambda: IEEE in app.devices and 1 in app.devices[IEEE].endpoints, LIMIT_S)
            device = app.devices[IEEE]
            await until(lambda: OTA in device.endpoints[1].out_clusters, LIMIT_S)
            assert sorted(device.endpoints) == [0, 1]
            assert device.endpoints[1].profile_id == SMART_ENERGY
            image = OtaImageWithMetadata(
                metadata=BaseOtaImageMetadata(file_version=2), firmware=parse_ota_image(FILE)[0]
            )
            assert await device.update_firmware(image) == Status.FAILURE  # nobody is notified
            assert device.model is None  # and nobody answered the interview

    with han() as home:
        run(story(home, on_sticks(home)))
        status = home.status("ppmid")
        assert status is not None
        assert status["network"]["joined"]
        assert status["banks"]["B"]["state"] == "empty"
        assert "image_notified" not in names(home)
        check_end(home)
        assert home.counters("ppmid")["frames_unmatched"]  # with no endpoint of that profile


@pytest.mark.long
def test_zigpy_answers_repeated_requests_for_a_block() -> None:
    """It drops a frame that equals one of the last ten seconds, so no repeat may equal another."""
    noticed: set[str] = set()

    async def listen(home: Han) -> None:
        while True:
            with contextlib.suppress(FirmwareNodeError):  # while it restarts
                noticed.update(names(home))
            await asyncio.sleep(0.2)

    async def story(home: Han, folder: Path) -> None:
        async with coordinator(home.port("hub"), **settings(home, folder)) as app:
            await app.permit(254)
            home.device("ppmid", 'profile = "lenient"')
            await interviewed(app)
            listening = asyncio.ensure_future(listen(home))
            await update(app)
            listening.cancel()
            assert "block_retried" in noticed  # or the test has proved nothing
            await until(lambda: is_confirmed(home), LIMIT_S)
            check_updated(home)

    with han() as home:
        run(story(home, on_sticks(home, "--fault=no-srsp:300")))
        check_end(home)


@pytest.mark.long
@pytest.mark.parametrize(
    ("stick", "radio", "told"),
    [
        pytest.param("--fault=reset-at:300", "", "the stick was reset", id="reset"),
        pytest.param("--product=2", "", "becomes end-device", id="CC2531"),
        pytest.param("--product=1", 'role = "router"', "becomes router", id="router"),
    ],
)
def test_zigpy_updates_a_device_on_another_stick(stick: str, radio: str, told: str) -> None:
    async def story(home: Han, folder: Path) -> None:
        async with coordinator(home.port("hub"), **settings(home, folder)) as app:
            await app.permit(254)
            home.device("ppmid", f'profile = "lenient"\n{radio}')
            await interviewed(app)
            await update(app)
            assert told in home.errors("ppmid")
            await until(lambda: is_confirmed(home), LIMIT_S)
            check_updated(home)

    with han() as home:
        run(story(home, on_sticks(home, stick)))
        check_end(home)


def names(home: Han) -> set[str]:
    """What the device noticed in its present life."""
    return {event["name"] for event in home.events("ppmid")}


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
