"""Real instances of a host: made so, left alone, told of; a command is carried out once."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import UnixStreamServer
from typing import Any

import pytest

from firmware_node.adapters.fleet.link import Broker, Incoming, Link
from firmware_node.adapters.fleet.units import UnitKeeper
from firmware_node.errors import EnvironmentFailure
from firmware_node.fleet import bus
from firmware_node.fleet.bus import Command, Unit

PPMID = "00-DB-12-34-56-78-90-A4"
PPMID_TOPIC = "00db1234567890a4"
CONFIG = '[device]\ntype = "ppmid"\n'


class FakeSystemd:
    """Starts and stops nothing, and knows what was asked."""

    def __init__(self) -> None:
        self.done: list[tuple[str, str]] = []
        self.states: dict[str, tuple[bool, str]] = {}
        self.fails = ""  # a verb

    def do(self, verb: str, name: str) -> None:
        self.done.append((verb, name))
        if verb == self.fails:
            raise EnvironmentFailure(f"{name}: systemctl {verb}: it does not like to")
        enabled, state = self.state(name)
        match verb:
            case "enable" | "disable":
                enabled = verb == "enable"
            case "stop":
                state = "inactive"
            case _:
                state = "active"
        self.states[name] = (enabled, state)

    def state(self, name: str) -> tuple[bool, str]:
        return self.states.get(name, (False, "inactive"))


class HeardLink(Link):
    """A link to nobody: what is published is kept."""

    def __init__(self) -> None:
        async def on_up() -> None: ...

        broker = Broker("mqtt://127.0.0.1:1")
        super().__init__(broker, "test", (), on_message=print, on_up=on_up)
        self.published: list[tuple[str, bytes, bytes | None]] = []
        self.works = True

    async def publish(self, topic: str, payload: bytes, **options: Any) -> bool:
        if self.works:
            self.published.append((topic, payload, options.get("correlation")))
        return self.works

    def last(self, leaf: str) -> bytes | None:
        found = [payload for topic, payload, _ in self.published if topic.endswith(f"/{leaf}")]
        return found[-1] if found else None


class Daemon:
    """The control socket of an instance."""

    def __init__(self, path: Path) -> None:
        self.asked: list[str] = []
        asked = self.asked

        class Handler(BaseHTTPRequestHandler):
            def address_string(self) -> str:
                return "local"

            def log_message(self, *_: object) -> None: ...

            def do_GET(self) -> None:
                self._answer({"entity_id": PPMID, "state": "idle"})

            def do_POST(self) -> None:
                asked.append(self.path)
                self._answer({"done": True})

            def _answer(self, document: dict[str, Any]) -> None:
                body = json.dumps(document).encode() + b"\n"
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        path.parent.mkdir(parents=True)
        self._server = UnixStreamServer(str(path), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Host:
    """A keeper and what is around it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now_s = 100.0
        self.systemd = FakeSystemd()
        self.link = HeardLink()
        self.news = asyncio.Event()
        self.configuration = folder / "etc"
        self.configuration.mkdir(exist_ok=True)
        (folder / "state").mkdir(exist_ok=True)
        self.keeper = self.again()

    def again(self) -> UnitKeeper:
        """As the agent makes it when it starts."""
        return UnitKeeper(
            "lab",
            self.folder / "state",
            self.systemd,
            configuration=self.configuration,
            sockets=self.folder / "run",
            draw=lambda: 1.0,
            clock_s=lambda: self.now_s,
        )

    def command(self, id_: str, verb: str) -> Incoming:
        topic = f"fn/v1/lab/dev/{PPMID_TOPIC}/cmd"
        return Incoming(topic, bus.encode(Command(id_, verb)), "answers/here", id_.encode())

    def outcomes(self) -> list[tuple[bytes | None, str]]:
        return [
            (correlation, bus.decode_outcome(payload).result)
            for topic, payload, correlation in self.link.published
            if topic == "answers/here"
        ]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    running = Daemon(tmp_path / "run" / "ppmid" / "control.sock")
    yield running
    running.close()


def story(tell: Callable[[Host], AsyncIterator[None]], folder: Path) -> Host:
    """Run it beside the keeper; at each ``yield`` until all that was asked for is done."""
    host: list[Host] = []

    async def run() -> None:
        host.append(Host(folder))
        async for _ in tell(host[0]):
            keeper = host[0].keeper
            work = asyncio.create_task(keeper.run(host[0].link, host[0].news))
            while not keeper.is_idle:
                await asyncio.sleep(0.01)
                assert not work.done()
            work.cancel()
            await asyncio.wait([work])

    asyncio.run(run())
    return host[0]


def test_an_instance_gets_its_configuration_and_is_enabled_and_started_once(
    tmp_path: Path, daemon: Daemon
) -> None:
    async def tell(host: Host) -> AsyncIterator[None]:
        host.systemd.states["other"] = (True, "active")
        host.keeper.want((Unit("ppmid", True, CONFIG),))
        yield
        host.keeper.want((Unit("ppmid", True, CONFIG),))
        yield

    host = story(tell, tmp_path)
    assert host.systemd.done == [("enable", "ppmid"), ("start", "ppmid")]
    laid = host.configuration / "ppmid.toml"
    assert laid.read_text() == CONFIG
    assert laid.stat().st_mode & 0o7777 == 0o640
    assert [path.name for path in host.configuration.iterdir()] == ["ppmid.toml"]
    (report,) = host.keeper.reports()
    assert (report.enabled, report.state, report.entity_id) == (True, "active", PPMID)
    assert host.link.last("availability") == b"online"
    assert json.loads(host.link.last("state") or b"") == {"unit": "ppmid", "state": "idle"}
    assert host.systemd.states["other"] == (True, "active")  # nobody named it on the bus


def test_a_new_configuration_restarts_an_instance_and_one_not_named_any_more_is_stopped(
    tmp_path: Path, daemon: Daemon
) -> None:
    async def tell(host: Host) -> AsyncIterator[None]:
        host.keeper.want((Unit("ppmid", True, CONFIG),))
        yield
        host.keeper.want((Unit("ppmid", True, CONFIG + "# changed\n"),))
        yield
        host.keeper = host.again()  # the agent was restarted in between
        host.keeper.want(())
        yield

    host = story(tell, tmp_path)
    names = [verb for verb, _ in host.systemd.done]
    assert names == ["enable", "start", "restart", "disable", "stop"]
    assert (host.configuration / "ppmid.toml").exists()
    assert host.keeper.reports() == ()
    assert host.link.last("availability") == b"offline"


def test_what_systemd_refuses_is_reported_and_tried_again_ever_more_seldom(tmp_path: Path) -> None:
    tried: list[int] = []

    async def tell(host: Host) -> AsyncIterator[None]:
        host.systemd.fails = "start"
        host.keeper.want((Unit("ppmid"),))
        yield
        (report,) = host.keeper.reports()
        assert (report.state, report.error) == (
            "failed",
            "ppmid: systemctl start: it does not like to",
        )
        for _ in range(8):
            host.now_s += 1
            host.keeper.want((Unit("ppmid"),))
            yield
            tried.append(host.systemd.done.count(("start", "ppmid")))
            (report,) = host.keeper.reports()
            assert report.error == "ppmid: systemctl start: it does not like to"
        host.systemd.fails = ""
        host.now_s += 8
        host.keeper.want((Unit("ppmid"),))
        yield

    host = story(tell, tmp_path)
    (report,) = host.keeper.reports()
    assert (report.state, report.error) == ("active", "")
    assert tried == [2, 2, 3, 3, 3, 3, 4, 4]  # after 1 s, 2 s, 4 s


def test_a_command_that_comes_again_is_answered_again_and_not_carried_out_again(
    tmp_path: Path, daemon: Daemon
) -> None:
    async def tell(host: Host) -> AsyncIterator[None]:
        host.keeper.want((Unit("ppmid", True, CONFIG),))
        yield
        for _ in range(2):
            host.keeper.take_command(PPMID_TOPIC, host.command("one", "query"))
        host.keeper.take_command(PPMID_TOPIC, host.command("two", "stop"))
        host.keeper.take_command("00db1234567890ff", host.command("other", "reboot"))
        yield
        host.keeper = host.again()
        host.keeper.want((Unit("ppmid", True, CONFIG),))
        yield
        host.keeper.take_command(PPMID_TOPIC, host.command("one", "query"))
        yield

    host = story(tell, tmp_path)
    assert daemon.asked == ["/v1/query"]
    assert host.outcomes() == [
        (b"one", "done"),
        (b"one", "done"),
        (b"two", "done"),
        (b"one", "done"),
    ]


def test_a_command_that_the_agent_died_of_is_told_as_failed_and_not_carried_out_again(
    tmp_path: Path, daemon: Daemon
) -> None:
    class Deadly(FakeSystemd):
        def do(self, verb: str, name: str) -> None:
            super().do(verb, name)
            if verb == "restart":
                raise AssertionError("a mistake of ours, or the end of the process")

    async def tell(host: Host) -> AsyncIterator[None]:
        host.keeper.want((Unit("ppmid", True, CONFIG),))
        yield
        host.systemd = Deadly()
        host.systemd.states["ppmid"] = (True, "active")
        host.keeper = host.again()
        host.keeper.want((Unit("ppmid", True, CONFIG),))
        yield
        host.keeper.take_command(PPMID_TOPIC, host.command("one", "restart"))
        with pytest.raises(AssertionError):
            await host.keeper.run(host.link, host.news)
        host.keeper = host.again()
        host.keeper.want((Unit("ppmid", True, CONFIG),))
        yield
        host.keeper.take_command(PPMID_TOPIC, host.command("one", "restart"))
        yield

    host = story(tell, tmp_path)
    assert host.systemd.done.count(("restart", "ppmid")) == 1
    assert host.outcomes() == [(b"one", "failed")]


def test_after_the_link_was_away_everything_is_said_again(tmp_path: Path, daemon: Daemon) -> None:
    async def tell(host: Host) -> AsyncIterator[None]:
        host.link.works = False
        host.keeper.want((Unit("ppmid", True, CONFIG),))
        yield
        assert host.link.published == []
        host.link.works = True
        host.keeper.say_again()
        yield

    host = story(tell, tmp_path)
    assert host.link.last("availability") == b"online"
