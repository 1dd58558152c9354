"""The load switch in its device: which frames, times, images and commands reach it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from device_bench import UTC, DeviceBench
from home import SETTINGS, image

from firmware_node.boundary import (
    Answer,
    LoadImage,
    NetworkDown,
    Reboot,
    RebootRequested,
    SetRelay,
    SwitchRequested,
)
from firmware_node.terms import DeviceType, ImageFormat, LoadSwitchSettings, ShortAddress
from firmware_node.wire import drlc, zcl, zdo
from firmware_node.wire.drlc import EVERY_GROUP, LoadControlEvent

ESME = ShortAddress(0x2002)
HCALCS = replace(
    SETTINGS, type=DeviceType.HCALCS, switch=LoadSwitchSettings(relays=("main", "boost"))
)
CLOSED = [SetRelay("main", True), SetRelay("boost", True)]
OPEN = [SetRelay("main", False), SetRelay("boost", False)]
BROKEN = image(
    2,
    kind=ImageFormat.GB_SUPPLIER_SIGNED,
    change=lambda manifest: replace(manifest, switch_works=False),
)
GOOD = image(3, kind=ImageFormat.GB_SUPPLIER_SIGNED)


def a_switch() -> DeviceBench:
    """Joined; its ESME found, whatever the number of the search was."""
    bench = DeviceBench(settings=HCALCS).join()
    searches = [
        sent.frame
        for sent in bench.sent
        if sent.frame.cluster == zdo.MATCH_DESC_REQ
        and zdo.decode_match_request(sent.frame.payload).in_clusters == (drlc.CLUSTER,)
    ]
    (search,) = searches
    found = zdo.MatchResponse(search.payload[0], zdo.SUCCESS, ESME, (1,))
    answer = zdo.encode_match_response(found)
    bench.hear(zdo.MATCH_DESC_REQ | zdo.RESPONSE, answer, profile=zdo.PROFILE, peer=ESME)
    assert "esme_found" in bench.names()
    return bench


def event(bench: DeviceBench, *, closed: bool, minutes: int = 30) -> None:
    """A load control event of the ESME that begins now."""
    told = LoadControlEvent(
        1, 0x80, EVERY_GROUP, drlc.NOW, minutes, duty_cycle=100 if closed else 0
    )
    header = zcl.ZclHeader(True, True, True, None, 5, drlc.TO_CLIENT_LOAD_CONTROL_EVENT)
    payload = zcl.encode(header, drlc.encode_load_control_event(told))
    bench.hear(drlc.CLUSTER, payload, peer=ESME)


def test_at_power_up_every_relay_is_driven_open() -> None:
    assert DeviceBench(settings=HCALCS).edges == OPEN


def test_an_event_closes_every_relay_once_the_time_is_known_and_ends_by_itself() -> None:
    bench = a_switch()
    event(bench, closed=True)
    assert bench.edges == OPEN  # it cannot be placed yet
    bench.tell_time(UTC)
    assert bench.edges == [*OPEN, *CLOSED]
    assert bench.lit["load"]
    bench.wait(31 * 60_000)
    assert bench.edges == [*OPEN, *CLOSED, *OPEN]
    assert not bench.lit["load"]


def test_losing_the_network_leaves_the_switch_to_its_event() -> None:
    bench = a_switch()
    bench.tell_time(UTC)
    event(bench, closed=True)
    bench.step(NetworkDown())
    assert bench.edges[-2:] == CLOSED
    bench.wait(31 * 60_000)
    assert bench.edges[-2:] == OPEN


def test_without_its_esme_a_restarted_switch_goes_back_to_what_was_commanded_last() -> None:
    bench = DeviceBench(settings=HCALCS)
    bench.step(SwitchRequested(closed=True))
    assert bench.answers == [Answer(done=True, text="the switch is closed")]
    bench.step(RebootRequested())
    bench.restart()
    assert bench.edges == [*OPEN, *CLOSED, *OPEN]
    bench.wait(HCALCS.switch.restore_after_s * 1000)
    assert bench.edges[-2:] == CLOSED


def test_an_image_that_breaks_the_switch_moves_no_relay_and_the_next_one_mends_it() -> None:
    bench = DeviceBench(settings=HCALCS)
    bench.step(LoadImage(BROKEN, activate=True))
    assert bench.ends == [Reboot("activation")]
    bench.edges.clear()
    bench.restart().wait(10_000)
    bench.step(SwitchRequested(closed=True))
    assert bench.edges == []
    assert bench.answers == [
        Answer(done=False, text="the running firmware does not move the switch")
    ]
    assert bench.status()["switch"] | {"events": ()} == {  # type: ignore[operator]
        "commanded": "closed",
        "switch": None,
        "esme": None,
        "events": (),
    }
    bench.step(LoadImage(GOOD, activate=True))
    bench.restart().wait(10_000)
    bench.step(SwitchRequested(closed=True))
    assert bench.edges == [*OPEN, *CLOSED]


def test_the_attributes_of_the_load_control_client_can_be_read_of_an_hcalcs_alone() -> None:
    values = a_switch().read(drlc.CLUSTER, drlc.ATTRIBUTE_DEVICE_CLASS)
    assert values[drlc.ATTRIBUTE_DEVICE_CLASS].value == HCALCS.switch.device_class
    header = zcl.ZclHeader(False, False, True, None, 78, zcl.READ_ATTRIBUTES)
    asked = zcl.encode(header, zcl.encode_read_attributes((0,)))
    (answer,) = DeviceBench().join().hear(drlc.CLUSTER, asked)
    told, body = zcl.decode_header(answer.frame.payload)  # type: ignore[union-attr]
    assert told.command == zcl.DEFAULT_RESPONSE
    assert zcl.decode_default_response(body).status == zcl.Status.UNSUPPORTED_CLUSTER


@pytest.mark.parametrize("closed", [False, True])
def test_a_ppmid_has_no_switch_and_says_so(closed: bool) -> None:
    bench = DeviceBench()
    bench.step(SwitchRequested(closed))
    assert bench.answers == [Answer(done=False, text="a ppmid has no load switch")]
    assert (bench.edges, bench.status()["switch"]) == ([], None)
