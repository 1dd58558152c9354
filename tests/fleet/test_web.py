"""A fleet over HTTP: what is served, who is let in, and how a stream goes on."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from lxml import etree
from pretended import PretendedFleet
from prometheus_client.parser import text_string_to_metric_families

from firmware_node.adapters.fleet.guard import COOKIE, Guard, is_loopback
from firmware_node.adapters.fleet.web import FleetWeb
from firmware_node.errors import ConfigError, EnvironmentFailure

LIMIT_S = 30
TOKEN = "0123456789abcdef-fleet"
Story = Callable[[PretendedFleet, aiohttp.ClientSession], Awaitable[None]]


def serving(story: Story, *, token: str | None = None, homes: int = 20) -> None:
    async def run() -> None:
        fleet = PretendedFleet(homes)
        fleet.turn(10)
        web = FleetWeb(fleet, token=token)
        address = await web.open()
        try:
            async with asyncio.timeout(LIMIT_S), aiohttp.ClientSession(address) as session:
                await story(fleet, session)
        finally:
            await web.close()

    asyncio.run(run())


async def snapshots(
    session: aiohttp.ClientSession, **headers: str
) -> AsyncGenerator[tuple[str, dict[str, Any]], None]:
    """Ids and documents of the stream."""
    async with session.get("/v1/events", headers=headers) as answer:
        assert answer.status == 200
        assert answer.content_type == "text/event-stream"
        name = ""
        while True:
            line = (await answer.content.readuntil(b"\n")).decode().rstrip()
            if line.startswith("id: "):
                name = line.removeprefix("id: ")
            if line.startswith("data: "):
                yield name, json.loads(line.removeprefix("data: "))


# --- what is served -------------------------------------------------------------------------------


def test_the_page_and_all_that_it_loads_come_from_here() -> None:
    async def story(_: PretendedFleet, session: aiohttp.ClientSession) -> None:
        async with session.get("/") as answer:
            page = await answer.text()
            assert answer.status == 200 and answer.content_type == "text/html"
            assert answer.headers["Cache-Control"] == "no-store"
            policy = answer.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy and "unsafe" not in policy
        assert "http:" not in page and "https:" not in page
        loaded = re.findall(r'<(?:script src|link [^>]*href)="([^"]*)"', page)
        assert len(loaded) == 3
        for path in loaded:
            async with session.get(path) as answer:
                assert answer.status == 200, path
        for path in ("/page/nothing.js", "/page/..%2Fweb.py", "/page/%2e%2e/web.py", "/v2"):
            async with session.get(path) as answer:
                assert answer.status == 404, path
                assert "error" in await answer.json()

    serving(story)


def test_a_stream_begins_with_everything_and_goes_on_with_what_changed() -> None:
    async def story(fleet: PretendedFleet, session: aiohttp.ClientSession) -> None:
        stream = snapshots(session)
        _, first = await anext(stream)
        assert first["since"] == 0
        assert len(first["rows"]) == len(fleet.snapshot(0).rows)
        revision = fleet.snapshot().revision
        fleet.turn()
        name, second = await anext(stream)
        assert second["since"] == revision
        assert {row[0] for row in second["rows"]} == {
            index for index, _ in fleet.snapshot(revision).rows
        }
        await stream.aclose()
        fleet.turn()
        _, again = await anext(snapshots(session, **{"Last-Event-ID": name}))
        assert again["since"] == second["revision"]
        _, foreign = await anext(snapshots(session, **{"Last-Event-ID": "otherrun-5"}))
        assert foreign["since"] == 0

    serving(story)


def test_a_quiet_fleet_sends_nothing_and_closing_ends_streams() -> None:
    async def run() -> None:
        fleet = PretendedFleet(5)
        fleet.turn()
        web = FleetWeb(fleet, token=None)
        async with aiohttp.ClientSession(await web.open()) as session:
            stream = snapshots(session)
            await anext(stream)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1.2):
                    await anext(stream)
            async with session.get("/v1/events") as answer:
                await answer.content.readuntil(b"\n\n")
                await web.close()
                assert await answer.content.read() == b"event: end\ndata: {}\n\n"

    asyncio.run(asyncio.wait_for(run(), LIMIT_S))


def test_the_last_snapshot_comes_before_the_end() -> None:
    async def run() -> None:
        fleet = PretendedFleet(5)
        fleet.turn()
        web = FleetWeb(fleet, token=None)
        address = await web.open()
        async with (
            aiohttp.ClientSession(address) as session,
            session.get("/v1/events") as answer,
        ):
            await answer.content.readuntil(b"\n\n")
            fleet.state = "done"
            fleet.turn()
            await web.close()
            rest = (await answer.content.read()).decode()
        snapshot, end = rest.removesuffix("\n\n").split("\n\n")
        document = json.loads(snapshot.rpartition("data: ")[2])
        assert document["campaign"]["state"] == "done"
        assert document["now_ms"] == fleet.now_ms
        assert end.startswith("event: end\n")

    asyncio.run(asyncio.wait_for(run(), LIMIT_S))


def test_a_device_is_shown_and_one_that_is_not_there_is_not() -> None:
    async def story(fleet: PretendedFleet, session: aiohttp.ClientSession) -> None:
        async with session.get("/v1/members/3") as answer:
            document = await answer.json()
        assert document["entity_id"] == str(fleet.shape.member(3).entity_id)
        assert document["status"]["banks"]["A"]["version"] == "00000001"
        for name in ("40", "-1", "x", "1e1", "0x1", "9" * 40):
            async with session.get(f"/v1/members/{name}") as answer:
                assert answer.status == 404, name

    serving(story)


def test_orders_and_actions_reach_the_fleet_and_others_are_refused() -> None:
    async def story(fleet: PretendedFleet, session: aiohttp.ClientSession) -> None:
        async def post(path: str, body: object) -> tuple[int, dict[str, Any]]:
            async with session.post(path, json=body) as answer:
                return answer.status, await answer.json()

        status, answer = await post("/v1/campaign", {"action": "pause"})
        assert (status, answer) == (200, {"done": True, "text": "the campaign is paused"})
        status, _ = await post("/v1/members/7/orders", {"verb": "cut", "amount": 5000})
        assert status == 200
        assert fleet.orders[0][:2] == ("cut", 7) and fleet.orders[0].amount == 5000
        for path, body in (
            ("/v1/campaign", {"action": "explode"}),
            ("/v1/campaign", {}),
            ("/v1/campaign", []),
            ("/v1/members/7/orders", {"verb": "offer"}),
            ("/v1/members/7/orders", {"verb": "cut", "amount": -1}),
            ("/v1/members/7/orders", {"verb": "cut", "amount": True}),
            ("/v1/members/7/orders", {"verb": "cut", "amount": 10**12}),
            ("/v1/members/7/orders", {"verb": "add"}),
        ):
            status, answer = await post(path, body)
            assert status == 400 and answer["error"], body
        status, _ = await post("/v1/members/40/orders", {"verb": "query"})
        assert status == 404
        async with session.post("/v1/campaign", data=b"{") as refused:
            assert refused.status == 415  # a form of another site can send no JSON
        headers = {"Content-Type": "application/json"}
        async with session.post("/v1/campaign", data=b"{", headers=headers) as refused:
            assert refused.status == 400
        async with session.post("/v1/campaign", data=b"x" * 5000, headers=headers) as refused:
            assert refused.status == 413
        async with session.get("/v1/campaign") as refused:
            assert refused.status == 405
        assert fleet.actions == ["pause"] and len(fleet.orders) == 1

    serving(story)


def test_metrics_are_what_the_snapshot_says() -> None:
    async def story(fleet: PretendedFleet, session: aiohttp.ClientSession) -> None:
        fleet.turn(60)
        async with session.get("/metrics") as answer:
            assert answer.content_type == "text/plain"
            text = await answer.text()
        families = {family.name: family for family in text_string_to_metric_families(text)}
        seen = fleet.snapshot()
        found = {one.labels["phase"]: one.value for one in families["fn_fleet_members"].samples}
        assert found == seen.totals
        messages = families["fn_fleet_gbcs_messages"].samples
        assert {one.labels["use_case"]: one.value for one in messages} == seen.messages
        (downloaded,) = families["fn_fleet_downloaded_bytes"].samples
        assert downloaded.value == seen.downloaded > 0
        failed = {one.labels["cause"]: one.value for one in families["fn_fleet_failed"].samples}
        assert failed == seen.failed_by
        turns = families["fn_fleet_turn_duration_seconds"].samples
        assert {one.value for one in turns if one.name.endswith("_count")} == {70}

    serving(story, homes=100)


def test_reports_are_those_of_the_results_and_the_description_has_every_path() -> None:
    async def story(_: PretendedFleet, session: aiohttp.ClientSession) -> None:
        async with session.get("/report.html") as answer:
            assert "sha256-" in answer.headers["Content-Security-Policy"]
            assert "<h1>synthetic</h1>" in await answer.text()
        async with session.get("/results.json") as answer:
            assert len((await answer.json())["devices"]) == 40
        async with session.get("/junit.xml") as answer:
            assert etree.fromstring(await answer.read()).tag == "testsuites"
        async with session.get("/v1/openapi.json") as answer:
            paths = (await answer.json())["paths"]
        for path, operations in paths.items():
            for method in operations:
                if path != "/v1/events":
                    target = path.replace("{index}", "0")
                    async with session.request(method, target, json={}) as reply:
                        assert reply.status == (200 if method == "get" else 400), path

    serving(story)


# --- who is let in --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:1"}, 200),
        ({"Host": "[::1]:1"}, 200),
        ({"Host": "rebound.example"}, 403),
        ({"Host": "127.0.0.1.example"}, 403),
        ({"Host": "[::1"}, 403),
        ({"Host": "localhost", "Origin": "http://localhost"}, 200),
        ({"Host": "localhost", "Origin": "http://localhost:8000"}, 403),
        ({"Origin": "http://rebound.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://[localhost"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
    ],
)
def test_pages_of_others_get_nothing_from_a_loopback_address(
    headers: dict[str, str], status: int
) -> None:
    async def story(fleet: PretendedFleet, session: aiohttp.ClientSession) -> None:
        for path in ("/", "/v1/fleet", "/metrics"):
            async with session.get(path, headers=headers) as answer:
                assert answer.status == status, path
        body = {"action": "stop"}
        async with session.post("/v1/campaign", json=body, headers=headers) as answer:
            assert answer.status == status
        assert fleet.actions == (["stop"] if status == 200 else [])

    serving(story)


def test_with_a_token_nothing_is_to_be_had_without_it() -> None:
    async def story(fleet: PretendedFleet, session: aiohttp.ClientSession) -> None:
        paths = ("/", "/page/fleet.js", "/v1/fleet", "/v1/events", "/metrics", "/report.html")
        for given in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "Bearer \udcff"},  # an octet that is no UTF-8
            {"Authorization": f"Basic {TOKEN}"},
        ):
            for path in (*paths, "/v1/fleet?token=" + TOKEN, "/?token=wrong", "/nothing"):
                async with session.get(path, headers=given) as answer:
                    assert answer.status == 401, path
                    assert answer.headers["WWW-Authenticate"] == "Bearer"
                    assert "Set-Cookie" not in answer.headers
        async with session.post("/v1/campaign", json={"action": "stop"}) as answer:
            assert answer.status == 401
        assert fleet.actions == []
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        async with session.get("/v1/fleet", headers=bearer) as answer:
            assert answer.status == 200

    serving(story, token=TOKEN)


def test_a_browser_gives_the_token_once_and_gets_a_cookie_that_is_not_the_token() -> None:
    async def story(_: PretendedFleet, session: aiohttp.ClientSession) -> None:
        async with session.get(f"/?token={TOKEN}", allow_redirects=False) as answer:
            assert answer.status == 303 and answer.headers["Location"] == "/"
            cookie = answer.headers["Set-Cookie"]
        assert TOKEN not in cookie
        assert "HttpOnly" in cookie and "SameSite=Strict" in cookie
        value = cookie.split(";")[0].removeprefix(f"{COOKIE}=")
        for given, status in ((value, 200), (value[:-1] + "x", 401), (TOKEN, 401), ("", 401)):
            headers = {"Cookie": f"{COOKIE}={given}", "Host": "any.example"}
            async with session.get("/v1/fleet", headers=headers) as answer:
                assert answer.status == status
        # The cookie comes along with what another page asks for; that it is another page is said.
        headers = {"Cookie": f"{COOKIE}={value}", "Origin": "http://other.example"}
        async with session.get("/v1/fleet", headers=headers) as answer:
            assert answer.status == 403

    serving(story, token=TOKEN)


@pytest.mark.parametrize(
    ("host", "is_own"),
    [
        *((own, True) for own in ("127.0.0.1", "127.8.8.8", "::1", "localhost")),
        *((other, False) for other in ("0.0.0.0", "::", "192.168.1.5", "host.example")),
    ],
)
def test_an_address_that_others_can_reach_needs_a_token(host: str, is_own: bool) -> None:
    assert is_loopback(host) is is_own
    if not is_own:
        with pytest.raises(ConfigError, match="needs a token"):
            Guard(host, None)
    Guard(host, TOKEN)
    with pytest.raises(ConfigError, match="expected 16 characters"):
        Guard(host, "short")


def test_an_address_in_use_is_a_matter_of_the_environment() -> None:
    async def run() -> None:
        fleet = PretendedFleet(1)
        first = FleetWeb(fleet, token=None)
        port = int((await first.open()).rstrip("/").rpartition(":")[2])
        with pytest.raises(EnvironmentFailure, match=str(port)):
            await FleetWeb(fleet, port=port, token=None).open()
        await first.close()

    asyncio.run(run())
