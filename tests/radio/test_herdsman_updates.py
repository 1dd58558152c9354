"""Unmodified zigbee-herdsman updates the device over two virtual sticks, on ptys and over TCP."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from han import Han, han
from herdsman_peer import herdsman, needs_herdsman
from home import PPMID
from outside import (
    HOME_AUTOMATION,
    LIMIT_S,
    TWIN,
    check_end,
    check_updated,
    is_confirmed,
    on_sticks,
    plug_in_again,
)
from zigpy_peer import BASIC, MANUFACTURER, OTA, until

IEEE = f"0x{PPMID.octets.hex()}"

pytestmark = needs_herdsman


@pytest.mark.parametrize("transport", ["pty", pytest.param("tcp", marks=pytest.mark.long)])
def test_herdsman_interviews_updates_and_resumes_with_a_lenient_device(transport: str) -> None:
    with han(tcp=transport == "tcp") as home:
        folder = on_sticks(home)
        asyncio.run(asyncio.wait_for(story(home, folder), LIMIT_S))
        check_end(home)


async def story(home: Han, folder: Path) -> None:
    port, data = home.port("hub", "tcp"), home.root / "herdsman"
    async with herdsman(port, data) as peer:
        await peer.event("started", result="reset")
        peer.command("permit 254")
        await peer.event("permitted")
        home.device("ppmid", 'profile = "lenient"')
        await peer.event("joined", ieee=IEEE)
        known = await peer.event("interview", ieee=IEEE, status="successful")
        assert (known["model"], known["manufacturer"]) == ("PPMID", MANUFACTURER)
        twin = {each["ID"]: each for each in known["endpoints"]}[TWIN]
        assert twin["profileID"] == HOME_AUTOMATION
        assert BASIC in twin["inputClusters"]
        assert OTA in twin["outputClusters"]
        peer.command(f"update {IEEE} {folder}/version-2.ota")
        updated = await peer.event("updated", ieee=IEEE)
        assert (updated["endpoint"], updated["from"], updated["to"]) == (TWIN, 1, 2)
        await until(lambda: is_confirmed(home), LIMIT_S)
        check_updated(home)
        peer.command(f"version {IEEE}")
        await peer.event("version", ieee=IEEE, version=2)
        await peer.stop()
    plug_in_again(home)
    async with herdsman(port, data) as peer:
        assert IEEE in (await peer.event("started", result="resumed"))["devices"]
        peer.command(f"version {IEEE}")
        await peer.event("version", ieee=IEEE, version=2)
        await peer.stop()
