"""Indicator lines follow the device's state."""

from __future__ import annotations

import pytest

from firmware_node.boundary import SetIndicator
from firmware_node.node.indicators import Indicators
from firmware_node.terms import DeviceState


def lit(indicators: Indicators, joined: bool, state: DeviceState) -> dict[str, bool]:
    return {change.name: change.on for change in indicators.show(joined, state)}


def test_the_first_look_sets_every_line() -> None:
    off = {"joined": False, "downloading": False, "waiting": False, "failed": False}
    assert lit(Indicators(), False, DeviceState.IDLE) == off


@pytest.mark.parametrize(
    ("state", "line"),
    [
        (DeviceState.DOWNLOADING, "downloading"),
        (DeviceState.WAITING, "waiting"),
        (DeviceState.TRIAL, "waiting"),
        (DeviceState.FAILED, "failed"),
        (DeviceState.REVERTED, "failed"),
    ],
)
def test_a_state_lights_its_line_and_the_next_one_puts_it_out(
    state: DeviceState, line: str
) -> None:
    indicators = Indicators()
    indicators.show(True, DeviceState.IDLE)
    assert indicators.show(True, state) == [SetIndicator(line, True)]
    assert indicators.show(True, state) == []
    assert indicators.show(True, DeviceState.CONFIRMED) == [SetIndicator(line, False)]


def test_the_network_has_a_line_of_its_own() -> None:
    indicators = Indicators()
    indicators.show(True, DeviceState.DOWNLOADING)
    assert indicators.show(False, DeviceState.DOWNLOADING) == [SetIndicator("joined", False)]
