"""Lines by the module ``RPi.GPIO``: the original 0.7.1, or rpi-lgpio's of the same name.

The original writes the registers of the chip past the kernel, so it cannot know who else holds a
line, and a Raspberry Pi 5 is none to it, which it says at the first ``setup``. rpi-lgpio goes
through the kernel and says that a line is busy, not who has it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from firmware_node.adapters.gpio.refusals import UnusableError, check, held
from firmware_node.boundary import LineSpec

CHIP = "RPi.GPIO"
LINE_COUNT = 54  # what the library takes, whatever the header has


class RpiLines:
    """``boundary.RelayPort`` over ``RPi.GPIO``."""

    def __init__(self, *, load: Callable[[str], Any] = importlib.import_module) -> None:
        try:
            # On a PC the import itself fails, with a RuntimeError.
            self._gpio = load("RPi.GPIO")
        except (ImportError, RuntimeError) as error:
            raise UnusableError(f"RPi.GPIO cannot be used ({error})") from error
        lgpio = getattr(self._gpio, "lgpio", None)
        self._is_lgpio = lgpio is not None
        self._errors = (RuntimeError, OSError, *((lgpio.error,) if lgpio is not None else ()))
        self._lines: Mapping[str, LineSpec] = {}
        self._on: dict[str, bool] = {}

    def claim(self, lines: Mapping[str, LineSpec]) -> None:
        """See ``boundary.RelayPort``."""
        assert not self._lines, "claimed twice"
        check(lines, CHIP, LINE_COUNT)
        self._gpio.setwarnings(False)  # it warns of pins that an earlier process left as outputs
        taken: list[int] = []
        try:
            self._gpio.setmode(self._gpio.BCM)
            for spec in lines.values():
                self._setup(spec)
                taken.append(spec.number)
        except self._errors as error:
            if taken:
                self._gpio.cleanup(taken)
            if "busy" in str(error).lower():
                number = list(lines.values())[len(taken)].number
                raise held(number, CHIP, "another program") from error
            raise UnusableError(f"RPi.GPIO cannot drive lines here ({error})") from error
        self._lines = dict(lines)
        self._on = {n: spec.initial for n, spec in lines.items() if not spec.is_input}

    def set(self, name: str, on: bool) -> None:
        """See ``boundary.RelayPort``."""
        spec = self._lines[name]
        if self._on[name] != on:
            self._gpio.output(spec.number, self._level(spec, on))
            self._on[name] = on

    def get(self, name: str) -> bool:
        """See ``boundary.RelayPort``."""
        spec = self._lines[name]
        return bool(self._gpio.input(spec.number)) != spec.active_low

    def release(self, safe_state: Mapping[str, bool] | None) -> None:
        """See ``boundary.RelayPort``."""
        if not self._lines:
            return
        for name in self._lines:
            if safe_state is not None and name in safe_state:
                self.set(name, safe_state[name])
        self._gpio.cleanup([spec.number for spec in self._lines.values()])
        self._lines, self._on = {}, {}

    def describe(self) -> dict[str, object]:
        """See ``boundary.RelayPort``."""
        return {
            "backend": "rpi-gpio",
            "chip": None,
            "label": "rpi-lgpio" if self._is_lgpio else CHIP,
            "lines": {
                name: {"line": spec.number, "on": self.get(name), "consumer": None}
                for name, spec in self._lines.items()
            },
        }

    def _setup(self, spec: LineSpec) -> None:
        gpio = self._gpio
        if spec.is_input:
            pull = gpio.PUD_UP if spec.active_low else gpio.PUD_DOWN
            gpio.setup(spec.number, gpio.IN, pull_up_down=pull)
        else:
            gpio.setup(spec.number, gpio.OUT, initial=self._level(spec, spec.initial))

    def _level(self, spec: LineSpec, on: bool) -> Any:
        return self._gpio.HIGH if on != spec.active_low else self._gpio.LOW
