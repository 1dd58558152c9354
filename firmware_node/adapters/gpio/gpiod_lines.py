"""Lines of a GPIO character device, by libgpiod version 2: every Raspberry Pi, and other boards.

The chip is found by its label, since numbers of ``/dev/gpiochip*`` move between models and kernels,
and names of lines tell their second function. Debian 12's own python3-gpiod is version 1 and is
not used.
"""

from __future__ import annotations

import errno
import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from firmware_node.adapters.gpio.refusals import UnusableError, check, held
from firmware_node.boundary import LineSpec
from firmware_node.errors import EnvironmentFailure

CONSUMER = "firmware-node"
# Up to 3, and Zero; 4 and CM4; 5.
RASPBERRY_PI = ("pinctrl-bcm2835", "pinctrl-bcm2711", "pinctrl-rp1")


def chip_devices() -> Sequence[str]:
    """The character devices of this machine."""
    return sorted(str(path) for path in Path("/dev").glob("gpiochip*"))


class GpiodLines:
    """``boundary.RelayPort`` over libgpiod; the kernel keeps everybody else off the lines."""

    def __init__(
        self,
        label: str = "",
        *,
        load: Callable[[str], Any] = importlib.import_module,
        devices: Callable[[], Sequence[str]] = chip_devices,
    ) -> None:
        try:
            self._gpiod = load("gpiod")
            self._line = load("gpiod.line")
            self._gpiod.LineSettings  # noqa: B018 - version 1 has none
        except (ImportError, RuntimeError, AttributeError) as error:
            raise UnusableError(f"gpiod 2.1 or later is not there ({error})") from error
        self._labels = (label,) if label else RASPBERRY_PI
        self._devices = devices
        self._path = self._label = ""
        self._request: Any = None
        self._lines: Mapping[str, LineSpec] = {}

    def claim(self, lines: Mapping[str, LineSpec]) -> None:
        """See ``boundary.RelayPort``."""
        assert not self._lines, "claimed twice"
        chip = self._find()
        try:
            check(lines, self._label, chip.get_info().num_lines)
            self._request = self._request_lines(chip, lines)
        finally:
            chip.close()  # the request has a descriptor of its own
        self._lines = dict(lines)

    def set(self, name: str, on: bool) -> None:
        """See ``boundary.RelayPort``."""
        if self.get(name) != on:
            self._request.set_value(self._lines[name].number, self._value(on))

    def get(self, name: str) -> bool:
        """See ``boundary.RelayPort``."""
        value = self._request.get_value(self._lines[name].number)
        return bool(value == self._line.Value.ACTIVE)

    def release(self, safe_state: Mapping[str, bool] | None) -> None:
        """See ``boundary.RelayPort``."""
        if self._request is None:
            return
        for name in self._lines:
            if safe_state is not None and name in safe_state:
                self.set(name, safe_state[name])
        self._request.release()
        self._request, self._lines = None, {}

    def describe(self) -> dict[str, object]:
        """See ``boundary.RelayPort``."""
        return {
            "backend": "gpiod",
            "chip": self._path,
            "label": self._label,
            "lines": {
                name: {"line": spec.number, "on": self.get(name), "consumer": CONSUMER}
                for name, spec in self._lines.items()
            },
        }

    def _find(self) -> Any:
        """The open chip of the label."""
        seen, refused = [], ""
        for path in self._devices():
            try:
                chip = self._gpiod.Chip(path)
            except OSError as error:
                refused = f"; {path}: {error.strerror}"
                if error.errno in (errno.EACCES, errno.EPERM):
                    refused += " (is the user in group gpio?)"
                continue
            label = chip.get_info().label
            if label in self._labels:
                self._path, self._label = path, label
                return chip
            seen.append(label)
            chip.close()
        found = f"found {', '.join(seen)}" if seen else "found none"
        raise UnusableError(f"no chip {' or '.join(self._labels)} ({found}{refused})")

    def _request_lines(self, chip: Any, lines: Mapping[str, LineSpec]) -> Any:
        if not lines:
            return None
        settings = {spec.number: self._settings(spec) for spec in lines.values()}
        try:
            return chip.request_lines(consumer=CONSUMER, config=settings)
        except OSError as error:
            for number in settings:
                info = chip.get_line_info(number)
                if error.errno == errno.EBUSY and info.used:
                    raise held(number, self._label, info.consumer) from error
            numbers = ", ".join(map(str, settings))
            raise EnvironmentFailure(
                f"lines {numbers} on {self._label}: {error.strerror or error}"
            ) from error

    def _settings(self, spec: LineSpec) -> Any:
        if spec.is_input:
            bias = self._line.Bias
            return self._gpiod.LineSettings(
                direction=self._line.Direction.INPUT,
                active_low=spec.active_low,
                bias=bias.PULL_UP if spec.active_low else bias.PULL_DOWN,
            )
        return self._gpiod.LineSettings(
            direction=self._line.Direction.OUTPUT,
            active_low=spec.active_low,
            output_value=self._value(spec.initial),
        )

    def _value(self, on: bool) -> Any:
        return self._line.Value.ACTIVE if on else self._line.Value.INACTIVE
