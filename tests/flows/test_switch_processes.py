"""An HCALCS's relay moved over the air and by hand: hub, device and commands as processes."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # has no stubs
import pytest
from test_daemons import HCALCS, LIMIT_S, PPMID, Running, folder, node

from firmware_node.adapters.control_api import DEVICE_ROUTES, HUB_ROUTES, SCHEMAS
from firmware_node.adapters.control_client import call

SUPPLIER = "90-B3-D5-1F-30-01-00-00"
__all__ = ["folder"]  # a fixture


class Site:
    """The commands of an operator beside a running hub and HCALCS."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.socket = ("--socket", f"{root}/control.sock")
        self.hub = ("--hub", f"{root}/hub.sock")

    def status(self, *socket: str) -> dict[str, Any]:
        told = node("status", "--json", *(socket or self.socket))
        return json.loads(told.stdout) if told.returncode == 0 else {}

    def main(self) -> bool:
        return bool(self.status()["gpio"]["lines"]["main"]["on"])

    def until(self, done: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The status that is so at last; between two lives there is none."""
        end = time.monotonic() + LIMIT_S
        while True:
            status = self.status()
            if status and done(status):
                return status
            assert time.monotonic() < end, status

    def moves(self) -> list[tuple[str, str]]:
        """How the switch was commanded in this life of the device."""
        events = node("events", "--json", *self.socket).stdout.splitlines()
        told = [json.loads(line) for line in events]
        return [
            (event["state"], event["cause"])
            for event in told
            if event["name"] in ("switch_moved", "switch_failed")
        ]

    def load(self, *arguments: str) -> None:
        told = node("hub", "load", HCALCS, *arguments, *self.hub)
        assert told.returncode == 0, told.stderr

    def flash(self, version: str, *options: str) -> None:
        """An image of this version, flashed, run and confirmed."""
        file = f"{self.root}/{version}.ota"
        signed = ("--keys", f"{self.root}/keys", "--kind", "gb-supplier-signed")
        build = ("image", "build", "--file-version", version, "--size", "5000", "-o", file)
        assert node(*build, *signed, "--supplier", SUPPLIER, *options).returncode == 0
        assert node("image", "load", file, "--activate", *self.socket).returncode == 0

        def is_confirmed(status: dict[str, Any]) -> bool:
            bank = status["banks"][status["running_bank"]]
            return (bank["state"], bank["version"]) == ("confirmed", version)

        self.until(is_confirmed)


@pytest.fixture
def site(folder: Path) -> Iterator[Site]:
    config = folder / "ppmid.toml"
    text = config.read_text().replace('"ppmid"', '"hcalcs"').replace(PPMID, HCALCS)
    lines = '[gpio]\nbackend = "memory"\n[gpio.relays.main]\nline = 17\nactive_low = true\n'
    config.write_text(text + lines + "[gpio.indicators.joined]\nline = 27\n")
    with Running(folder, "hub", "hub") as hub, Running(folder, "run", "ppmid") as device:
        site = Site(folder)
        site.until(lambda status: status["switch"]["esme"] is not None)
        yield site
        assert device.stop(signal.SIGTERM) == 0
        assert hub.stop(signal.SIGTERM) == 0


def test_a_load_control_event_moves_the_relay_and_is_reported_and_taken_back(site: Site) -> None:
    assert not site.main()
    assert site.status()["gpio"]["lines"]["joined"]["on"]
    site.load("closed", "60")
    status = site.until(lambda status: bool(status["gpio"]["lines"]["main"]["on"]))
    (event,) = status["switch"]["events"]
    assert (event["state"], event["in_force"]) == ("closed", True)
    reported = {"entity_id": HCALCS, "id": event["id"], "status": "started"}
    assert reported in site.status("--socket", f"{site.root}/hub.sock")["load_events"]
    site.load("cancel", str(event["id"]))
    status = site.until(lambda status: not status["gpio"]["lines"]["main"]["on"])
    assert status["switch"]["events"] == []


def test_what_the_daemons_answer_is_as_their_description_says(site: Site) -> None:
    site.load("closed", "60")
    site.until(lambda status: bool(status["switch"]["events"]))
    for socket, routes in (("control", DEVICE_ROUTES), ("hub", HUB_ROUTES)):
        path = site.root / f"{socket}.sock"
        (described,) = call(path, "GET", "/v1/openapi.json")
        assert described["paths"].keys() == {route.path for route in routes}
        for route in routes:
            if route.method == "GET":
                for document in call(path, "GET", route.path):
                    jsonschema.validate(document, SCHEMAS[route.answer])
    (answer,) = call(site.root / "control.sock", "POST", "/v1/relay?state=open")
    jsonschema.validate(answer, SCHEMAS["Answer"])
    (clock,) = call(site.root / "hub.sock", "PUT", "/v1/clock", b"2030-01-01T00:00:00Z")
    jsonschema.validate(clock, SCHEMAS["Clock"])


def test_after_a_restart_the_relay_is_open_until_the_esme_gives_the_event_again(
    site: Site,
) -> None:
    site.load("closed", "60")
    site.until(lambda status: bool(status["gpio"]["lines"]["main"]["on"]))
    pid = site.status()["pid"]
    assert node("reboot", *site.socket).returncode == 0
    status = site.until(lambda status: bool(status["gpio"]["lines"]["main"]["on"]))
    assert status["pid"] == pid
    assert site.moves() == [("open", "power_up"), ("closed", "event")]


def test_a_faulty_image_breaks_the_relay_and_the_next_one_mends_it(site: Site) -> None:
    told = node("relay", "closed", *site.socket)
    assert (told.returncode, told.stdout) == (0, "the switch is closed\n")
    assert site.main()
    site.flash("00000002", "--faulty-switch")
    told = node("relay", "closed", *site.socket)
    assert (told.returncode, told.stdout) == (
        1,
        "the running firmware does not move the switch\n",
    )
    assert not site.main()
    site.flash("00000003")
    assert node("relay", "closed", *site.socket).returncode == 0
    assert site.main()
    assert node("relay", "open", *site.socket).returncode == 0
    assert not site.main()


def test_a_load_control_event_for_a_stranger_or_of_no_length_is_refused(site: Site) -> None:
    for arguments, code, says in (
        ((PPMID, "closed", "5"), 1, f"{PPMID} has not joined"),
        ((HCALCS, "closed", "0"), 1, "found 0 minutes, expected 1 to 1440"),
        ((HCALCS, "closed", "five"), 1, "minutes: found 'five', expected a number"),
        ((HCALCS, "ajar", "5"), 2, "usage: firmware-node hub load DEVICE"),
        (("no-id", "closed", "5"), 1, "no-id"),
    ):
        told = node("hub", "load", *arguments, *site.hub)
        assert (told.returncode, told.stdout.count("\n") + told.stderr.count("\n")) == (code, 1)
        assert says in told.stdout + told.stderr
    assert site.moves() == [("open", "power_up")]
