"""Unmodified zigbee-herdsman updates the device over two virtual sticks, on a pty and over TCP."""

from __future__ import annotations

import asyncio

import pytest
from herdsman_peer import herdsman, needs_herdsman
from stick_processes import IEEE, Bench, bench
from zigpy_peer import BASIC, MANUFACTURER, OTA, until

LIMIT_S = 120  # for a whole download; it takes about ten seconds on a quiet machine
TWIN, HOME_AUTOMATION = 2, 0x0104

pytestmark = needs_herdsman


@pytest.mark.parametrize("transport", ["pty", pytest.param("tcp", marks=pytest.mark.long)])
def test_herdsman_interviews_updates_and_resumes_with_a_lenient_device(transport: str) -> None:
    async def story(home: Bench) -> None:
        port, data = home.path("coordinator", "tcp"), home.root / "herdsman"
        async with herdsman(port, data) as peer:
            await peer.event("started", result="reset")
            peer.command("permit 254")
            await peer.event("permitted")
            home.run('profile = "lenient"')
            await peer.event("joined", ieee=IEEE)
            known = await peer.event("interview", ieee=IEEE, status="successful")
            assert (known["model"], known["manufacturer"]) == ("PPMID", MANUFACTURER)
            twin = {each["ID"]: each for each in known["endpoints"]}[TWIN]
            assert twin["profileID"] == HOME_AUTOMATION
            assert BASIC in twin["inputClusters"]
            assert OTA in twin["outputClusters"]
            peer.command(f"update {IEEE} {home.image}")
            updated = await peer.event("updated", ieee=IEEE)
            assert (updated["endpoint"], updated["from"], updated["to"]) == (TWIN, 1, 2)
            await until(home.is_confirmed, LIMIT_S)
            home.check_updated()
            peer.command(f"version {IEEE}")
            assert (await peer.event("version", ieee=IEEE))["version"] == 2
            await peer.stop()
        home.pull_out("coordinator")
        home.plug_in("coordinator")
        async with herdsman(port, data) as peer:
            assert IEEE in (await peer.event("started", result="resumed"))["devices"]
            peer.command(f"version {IEEE}")
            assert (await peer.event("version", ieee=IEEE))["version"] == 2
            await peer.stop()
        assert home.stop() == 0
        assert home.unknown_commands() == {"coordinator": 0, "device": 0}

    async def bounded(home: Bench) -> None:
        async with asyncio.timeout(2 * LIMIT_S):
            await story(home)

    with bench(tcp=transport == "tcp") as home:
        asyncio.run(bounded(home))
