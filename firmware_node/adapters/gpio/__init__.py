"""Which back end drives the GPIO lines, decided by claiming them.

``auto`` tries gpiod and then RPi.GPIO. One that this machine cannot use is passed over with its
reason; a line that somebody holds is the end, since the other library would only fight for it. On a
Raspberry Pi, or where a chip is named, ``auto`` never becomes ``memory`` unless that was allowed:
an operator who sees no relay move must hear why. A back end is imported when it is tried, its GPIO
library by its constructor, never before.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from firmware_node.adapters.gpio.memory_lines import MemoryLines, NoLines
from firmware_node.adapters.gpio.refusals import UnusableError
from firmware_node.boundary import LineSpec, RelayPort
from firmware_node.errors import EnvironmentFailure

# Not /proc/device-tree: the service's sandbox shows processes alone there.
MODEL = Path("/sys/firmware/devicetree/base/model")
_log = logging.getLogger(__name__)

Maker = tuple[str, Callable[[], RelayPort]]


def open_lines(
    backend: str,
    lines: Mapping[str, LineSpec],
    *,
    chip: str = "",
    allow_memory: bool = False,
    makers: Sequence[Maker] | None = None,
    model: Path = MODEL,
) -> RelayPort:
    """A port that has claimed ``lines``.

    ``chip`` is the label of the chip, by default a Raspberry Pi's. ``makers`` and ``model`` are
    what ``auto`` looks at.

    Raises:
        EnvironmentFailure: no usable back end, or a line is held by another.
        ConfigError: the lines cannot be on that chip.
    """
    real = makers or (("gpiod", lambda: _gpiod(chip)), ("rpi-gpio", _rpi_gpio))
    if backend != "auto":
        make = dict(real) | {"memory": MemoryLines, "none": NoLines}
        return _claimed(make[backend](), lines)
    if not lines:
        return NoLines()
    reasons: list[str] = []
    for name, make_port in real:
        try:
            port = _claimed(make_port(), lines)
        except UnusableError as error:
            reasons.append(f"{name}: {error}")
            continue
        _log.warning("GPIO back end %s%s", name, f" (not {'; '.join(reasons)})" if reasons else "")
        return port
    why = "; ".join(reasons)
    if not allow_memory and (chip or is_raspberry_pi(model)):
        raise EnvironmentFailure(f"no GPIO back end: {why} (to drive no pin: --allow-memory-gpio)")
    _log.warning("GPIO back end memory: no pin is driven (%s)", why)
    return _claimed(MemoryLines(), lines)


def is_raspberry_pi(model: Path = MODEL) -> bool:
    """Whether the device tree says so; a PC has none."""
    try:
        return model.read_bytes().startswith(b"Raspberry Pi")
    except OSError:
        return False


def _gpiod(chip: str) -> RelayPort:
    from firmware_node.adapters.gpio.gpiod_lines import GpiodLines

    return GpiodLines(chip)


def _rpi_gpio() -> RelayPort:
    from firmware_node.adapters.gpio.rpi_lines import RpiLines

    return RpiLines()


def _claimed(port: RelayPort, lines: Mapping[str, LineSpec]) -> RelayPort:
    port.claim(lines)
    return port
