"""The same suite on pins that are there: ``FIRMWARE_NODE_REAL_PINS=gpiod`` or ``rpi-gpio``.

For a Raspberry Pi up to 3 whose pins lead nowhere, as an emulated one: root, and a kernel with
``iomem=relaxed``. Pins are looked at, and inputs driven, through the registers of the chip, past
the back end. QEMU lets an input be driven so; it has no pull resistors, and nothing counts edges.
"""

from __future__ import annotations

import ctypes
import importlib
import mmap
import os
from typing import Any

from gpio_fakes import Board

from firmware_node.adapters.gpio.gpiod_lines import GpiodLines
from firmware_node.adapters.gpio.rpi_lines import RpiLines
from firmware_node.boundary import RelayPort

ASKED = os.environ.get("FIRMWARE_NODE_REAL_PINS", "")
LABEL = "pinctrl-bcm2835"
# Words of the GPIO block (BCM2835 ARM Peripherals, 6.1).
_BLOCK, _FUNCTION, _SET, _CLEAR, _LEVEL = 0x3F200000, 0x00, 0x1C, 0x28, 0x34
_OUTPUT = 0b001

_made: list[RelayPort] = []
_held: list[Any] = []


class Pins:
    """The registers."""

    def __init__(self) -> None:
        with open("/dev/mem", "r+b", buffering=0) as file:
            self._block = mmap.mmap(file.fileno(), mmap.PAGESIZE, offset=_BLOCK)

    def _word(self, at: int) -> ctypes.c_uint32:
        return ctypes.c_uint32.from_buffer(self._block, at)

    def level(self, number: int) -> int | None:
        """What an output drives."""
        function = self._word(_FUNCTION + number // 10 * 4).value >> number % 10 * 3 & 7
        return self._word(_LEVEL).value >> number & 1 if function == _OUTPUT else None

    def press(self, number: int, level: int) -> None:
        """An input gets this level from outside."""
        self._word(_SET if level else _CLEAR).value = 1 << number


def make_port(board: Board) -> RelayPort:
    """The back end that was asked for; lines that the board tells as held are."""
    port: RelayPort = GpiodLines() if ASKED == "gpiod" else RpiLines()
    _made.append(port)
    gpiod = importlib.import_module("gpiod")
    for number, consumer in board.holders.items():
        settings = {number: gpiod.LineSettings(direction=gpiod.line.Direction.INPUT)}
        _held.append(gpiod.request_lines("/dev/gpiochip0", settings, consumer=consumer))
    return port


def let_go() -> None:
    """After each test: the lines are the next one's."""
    while _made:
        _made.pop().release(None)
    while _held:
        _held.pop().release()
