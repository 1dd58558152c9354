"""A board whose pins can be looked at, under fake ``gpiod`` and ``RPi.GPIO`` modules.

The fakes keep to the shape of the real libraries, which ``test_gpio.py`` compares where they are
installed, and behave as their documentation and sources say: one holder a line, errors by errno,
a released line that is an input again.
"""

from __future__ import annotations

import enum
import errno
import os
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

LABEL = "pinctrl-bcm2711"
LINE_COUNT = 58


@dataclass
class Board:
    """Pins of one chip: who holds each, and the level that an output drives."""

    label: str = LABEL
    holders: dict[int, str] = field(default_factory=dict)
    levels: dict[int, int] = field(default_factory=dict)  # of claimed lines
    history: list[tuple[int, int | None]] = field(default_factory=list)

    def drive(self, number: int, level: int) -> None:
        self.levels[number] = level
        self.history.append((number, level))

    def pull(self, number: int, level: int) -> None:
        """An input: its level until somebody presses."""
        self.levels[number] = level

    def let_go(self, number: int) -> None:
        del self.levels[number]
        self.holders.pop(number, None)
        self.history.append((number, None))


# --- gpiod ----------------------------------------------------------------------------------------


class Value(enum.Enum):
    INACTIVE = 0
    ACTIVE = 1

    def __bool__(self) -> bool:
        return self is Value.ACTIVE


class Bias(enum.Enum):
    AS_IS = 1
    PULL_UP = 4
    PULL_DOWN = 5


class Direction(enum.Enum):
    AS_IS = 1
    INPUT = 2
    OUTPUT = 3


@dataclass
class LineSettings:
    direction: Direction = Direction.AS_IS
    active_low: bool = False
    bias: Bias = Bias.AS_IS
    output_value: Value = Value.INACTIVE


class LineRequest:
    def __init__(self, board: Board, consumer: str, config: dict[int, LineSettings]) -> None:
        self._board = board
        self._config = config
        for number, settings in config.items():
            board.holders[number] = consumer
            if settings.direction is Direction.INPUT:
                board.pull(number, int(settings.bias is Bias.PULL_UP))
                continue
            assert settings.direction is Direction.OUTPUT
            self._drive(number, settings.output_value)

    def get_value(self, line: int) -> Value:
        return Value(int(bool(self._board.levels[line]) != self._config[line].active_low))

    def set_value(self, line: int, value: Value) -> None:
        if self._config[line].direction is not Direction.OUTPUT:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        self._drive(line, value)

    def release(self) -> None:
        for number in self._config:
            self._board.let_go(number)
        self._config = {}

    def _drive(self, number: int, value: Value) -> None:
        self._board.drive(number, int(bool(value) != self._config[number].active_low))


class Chip:
    def __init__(self, path: str, boards: dict[str, Board | int]) -> None:
        found = boards[path]
        if isinstance(found, int):
            raise PermissionError(found, os.strerror(found))
        self._board: Board | None = found

    @property
    def board(self) -> Board:
        assert self._board is not None, "I/O operation on closed chip"
        return self._board

    def close(self) -> None:
        self._board = None

    def get_info(self) -> Any:
        return SimpleNamespace(name="gpiochip0", label=self.board.label, num_lines=LINE_COUNT)

    def get_line_info(self, line: int) -> Any:
        holder = self.board.holders.get(line)
        return SimpleNamespace(offset=line, used=holder is not None, consumer=holder or "")

    def request_lines(
        self, config: dict[int, LineSettings], consumer: str | None = None
    ) -> LineRequest:
        if any(number in self.board.holders for number in config):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        return LineRequest(self.board, consumer or "?", config)


class GpiodModules:
    """What is imported on a machine with these chips; a number is the errno of opening one."""

    def __init__(self, boards: dict[str, Board | int]) -> None:
        self._boards = boards

    def load(self, name: str) -> Any:
        if name == "gpiod.line":
            return SimpleNamespace(Value=Value, Direction=Direction, Bias=Bias)
        if name == "gpiod":
            return SimpleNamespace(
                Chip=lambda path: Chip(path, self._boards), LineSettings=LineSettings
            )
        raise ModuleNotFoundError(f"No module named {name!r}")

    def devices(self) -> list[str]:
        return sorted(self._boards)


# --- RPi.GPIO -------------------------------------------------------------------------------------


class LgpioError(Exception):
    """As ``lgpio.error``: no RuntimeError."""


class RpiGpio:
    """The module ``RPi.GPIO``; ``flavour`` is ``original``, ``lgpio``, ``pi5`` or ``pc``."""

    BCM, OUT, IN, LOW, HIGH, PUD_DOWN, PUD_UP = 11, 0, 1, 0, 1, 21, 22

    def __init__(self, board: Board, flavour: str = "original") -> None:
        self._board = board
        self._flavour = flavour
        self._mode: int | None = None
        self._outputs: set[int] = set()
        self._inputs: set[int] = set()
        if flavour == "lgpio":
            self.lgpio = SimpleNamespace(error=LgpioError)

    def load(self, name: str) -> Any:
        assert name == "RPi.GPIO"
        if self._flavour == "pc":
            raise RuntimeError("This module can only be run on a Raspberry Pi!")
        return self

    def setwarnings(self, value: bool) -> None:
        pass

    def setmode(self, mode: int) -> None:
        if self._mode not in (None, mode):
            raise ValueError("A different mode has already been set!")
        self._mode = mode

    def setup(
        self, channel: int, direction: int, *, initial: int | None = None, pull_up_down: int = 20
    ) -> None:
        assert self._mode == self.BCM
        assert (direction == self.OUT) == (initial is not None)
        if self._flavour == "pi5":
            raise RuntimeError("Cannot determine SOC peripheral base address")
        if self._flavour == "lgpio":
            if channel in self._board.holders:
                raise LgpioError("'GPIO busy'")
            self._board.holders[channel] = "lg"
        if initial is None:
            assert pull_up_down in (self.PUD_DOWN, self.PUD_UP)
            self._inputs.add(channel)
            self._board.pull(channel, int(pull_up_down == self.PUD_UP))
            return
        self._outputs.add(channel)
        self._board.drive(channel, initial)

    def output(self, channel: int, value: int) -> None:
        if channel not in self._outputs:
            raise RuntimeError("The GPIO channel has not been set up as an OUTPUT")
        self._board.drive(channel, value)

    def input(self, channel: int) -> int:
        if channel not in self._outputs | self._inputs:
            raise RuntimeError("You must setup() the GPIO channel first")
        return self._board.levels[channel]

    def cleanup(self, channels: list[int]) -> None:
        for channel in channels:
            if channel in self._outputs | self._inputs:
                self._outputs.discard(channel)
                self._inputs.discard(channel)
                self._board.let_go(channel)
