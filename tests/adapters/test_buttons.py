"""Which looks at a button are a press."""

from __future__ import annotations

import pytest

from firmware_node.adapters.gpio.buttons import Button


@pytest.mark.parametrize(
    ("looks", "presses"),
    [
        ("000000", "000000"),
        ("001110", "000100"),  # once, as long as it is held
        ("00101011", "00000001"),  # bounces
        ("0011001100", "0001000100"),
        ("001101110011", "000100000001"),  # a short gap is no second press
        ("111111", "000000"),  # held from the start
        ("110011", "000001"),
    ],
)
def test_a_press_is_seen_once_and_steady(looks: str, presses: str) -> None:
    button = Button()
    assert "".join(str(int(button.look(look == "1"))) for look in looks) == presses
