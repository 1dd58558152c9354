"""What a configuration makes of an endpoint before a stick registers it."""

from __future__ import annotations

import pytest

from firmware_node.adapters.radios import device_radio, hub_radio
from firmware_node.adapters.virtual_radio import DEVICE_ENDPOINT, HCALCS_ENDPOINT
from firmware_node.adapters.znp.radio import ZnpRadio
from firmware_node.config import RadioSection
from firmware_node.terms import EntityId
from firmware_node.wire import zdo

OWN = EntityId.parse("00-DB-12-34-56-78-90-A4")


def registered(endpoint: zdo.Endpoint, **settings: int | str) -> list[tuple[int, int]]:
    section = RadioSection("znp", path="/dev/null", **settings)  # type: ignore[arg-type]
    radio = device_radio(section, OWN, endpoint, lambda item: None, lambda error: None)
    assert isinstance(radio, ZnpRadio)
    return [(each.profile, each.device) for each in radio._endpoints]


@pytest.mark.parametrize(
    ("endpoint", "device"), [(DEVICE_ENDPOINT, 0x0502), (HCALCS_ENDPOINT, 0x0504)]
)
def test_a_ppmid_is_a_display_and_an_hcalcs_a_load_control_device(
    endpoint: zdo.Endpoint, device: int
) -> None:
    assert registered(endpoint) == [(0x0109, device)]


def test_another_device_id_is_taken_and_the_twin_keeps_its_own() -> None:
    assert registered(HCALCS_ENDPOINT, device_id=0x0505) == [(0x0109, 0x0505)]
    both = registered(HCALCS_ENDPOINT, device_id=0x0505, profile="lenient")
    assert both == [(0x0109, 0x0505), (0x0104, 0x0051)]


def test_a_hub_takes_another_one_too() -> None:
    section = RadioSection("znp", path="/dev/null", device_id=0x0007)
    radio = hub_radio(section, OWN, lambda item: None, lambda error: None)
    assert isinstance(radio, ZnpRadio)
    assert [each.device for each in radio._endpoints] == [0x0007]
