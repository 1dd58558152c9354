"""Why lines cannot be had, in words that every back end uses alike."""

from __future__ import annotations

from collections.abc import Mapping

from firmware_node.boundary import LineSpec
from firmware_node.errors import ConfigError, EnvironmentFailure


class UnusableError(EnvironmentFailure):
    """This machine has not what the back end needs; another one may do."""


def held(number: int, chip: str, consumer: str) -> EnvironmentFailure:
    """A line that somebody else has; whoever it is has it under every back end."""
    return EnvironmentFailure(f'line {number} on {chip} is held by "{consumer}"')


def check(lines: Mapping[str, LineSpec], chip: str, count: int) -> None:
    """Refuse two names for one line, and numbers that a chip of ``count`` lines does not have."""
    names: dict[int, str] = {}
    for name, spec in lines.items():
        if not 0 <= spec.number < count:
            raise ConfigError(
                f"GPIO line of {name}: found {spec.number}, expected 0 to {count - 1} on {chip}"
            )
        if spec.number in names:
            raise ConfigError(f"GPIO line {spec.number} is both {names[spec.number]} and {name}")
        names[spec.number] = name
