"""Values of a plan as TOML has them: each reader takes one, or says where and what is wrong.

A ``Reader`` gets the place of a value, for its error, and the value. Errors are ``ConfigError``,
one line: where, what was found, what is expected. How values are written stands in ``fleet.plan``.
"""

from __future__ import annotations

import datetime
import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from firmware_node.errors import ConfigError
from firmware_node.fleet.terms import MEMBER_TYPES
from firmware_node.terms import DeviceType

Reader = Callable[[str, Any], Any]

NAME_MAX: Final = 64  # characters
DURATION_MAX_MS: Final = 366 * 86_400_000
VERSION_MAX: Final = 0xFFFF_FFFE  # the last one means any, in ZCL
_UNITS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_EPOCH: Final = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)


def whole(low: int, high: int) -> Reader:
    """A whole number from ``low`` to ``high``."""

    def read(place: str, value: Any) -> int:
        if type(value) is not int:
            raise wrong(place, found(value), "a whole number")
        if not low <= value <= high:
            raise wrong(place, str(value), f"{low} to {high}")
        return value

    return read


def flag(place: str, value: Any) -> bool:
    """True or false."""
    if type(value) is not bool:
        raise wrong(place, found(value), "true or false")
    return value


def text(place: str, value: Any) -> str:
    """A printable string with something in it."""
    if type(value) is not str or not value.isprintable() or not len(value.strip()) > 0:
        raise wrong(place, found(value), "a string with something in it")
    return value


def name(place: str, value: Any) -> str:
    """A short string."""
    chosen = text(place, value)
    if len(chosen) > NAME_MAX:
        raise wrong(place, f"{len(chosen)} characters", f"at most {NAME_MAX}")
    return chosen


def plan_name(place: str, value: Any) -> str:
    """A name that a folder can have: a run's is called after its plan."""
    chosen = name(place, value)
    if "/" in chosen:
        raise wrong(place, repr(chosen), "a name without /")
    return chosen


def word(choices: Sequence[str]) -> Reader:
    """One of some words."""

    def read(place: str, value: Any) -> str:
        if type(value) is not str:
            raise wrong(place, found(value), f"a string: {listed(choices)}")
        if value not in choices:
            raise wrong(place, found(value), nearest(value, choices))
        return value

    return read


def device_type(place: str, value: Any) -> DeviceType:
    """The type of a member."""
    return DeviceType(word([kind.value for kind in MEMBER_TYPES])(place, value))


def duration(low_ms: int = 0, high_ms: int = DURATION_MAX_MS) -> Reader:
    """Milliseconds."""

    def read(place: str, value: Any) -> int:
        if type(value) is int:
            duration_ms = value * 1_000
        else:
            match = _DURATION.fullmatch(value) if isinstance(value, str) else None
            if match is None:
                raise wrong(place, found(value), 'seconds, or a duration such as "90s" or "2h"')
            duration_ms = int(match[1]) * _UNITS[match[2]]
        if not low_ms <= duration_ms <= high_ms:
            expected = f"{duration_text(low_ms)} to {duration_text(high_ms)}"
            raise wrong(place, found(value), expected)
        return duration_ms

    return read


_DURATION: Final = re.compile(r"([0-9]{1,12}) ?(ms|s|m|h|d)")


def duration_text(duration_ms: int) -> str:
    """A duration in the largest unit that it is whole in."""
    unit = next((unit for unit in "dhms" if duration_ms % _UNITS[unit] == 0), "ms")
    return f"{duration_ms // _UNITS[unit]}{unit}" if duration_ms else "0s"


def utc(place: str, value: Any) -> int:
    """Seconds since 2000-01-01T00:00:00Z."""
    at = value
    if isinstance(value, str) and _TIME.fullmatch(value):
        try:
            at = datetime.datetime.fromisoformat(value)
        except ValueError:  # the 30th of February
            at = value
    if not isinstance(at, datetime.datetime) or at.tzinfo is None:
        raise wrong(place, found(value), "a time such as 2026-01-01T00:00:00Z")
    seconds = (at - _EPOCH).total_seconds()
    if not 0 < seconds < 2**32 - DURATION_MAX_MS // 1_000:  # UTC times of ZCL have 32 bits
        raise wrong(place, found(value), "a time from 2000 to 2134")
    return int(seconds)


_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d)", re.ASCII)


def moment(start_utc: int) -> Reader:
    """Milliseconds since the fleet's start."""

    def read(place: str, value: Any) -> int:
        is_time = isinstance(value, datetime.datetime) or (
            isinstance(value, str) and _TIME.fullmatch(value) is not None
        )
        if not is_time:
            since_ms: int = duration()(place, value)
            return since_ms
        at_ms = (utc(place, value) - start_utc) * 1_000
        if at_ms < 0:
            raise wrong(place, found(value), "a time after the fleet's start")
        return at_ms

    return read


def window(place: str, value: Any) -> tuple[int, int]:
    """Minutes of the day."""
    match = _WINDOW.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise wrong(place, found(value), 'a window of the day such as "22:00-06:00"')
    first, last = int(match[1]) * 60 + int(match[2]), int(match[3]) * 60 + int(match[4])
    if first == last:
        raise wrong(place, found(value), "an end that differs from its beginning")
    return first, last


_WINDOW: Final = re.compile(r"([01]\d|2[0-3]):([0-5]\d) ?- ?([01]\d|2[0-3]):([0-5]\d)", re.ASCII)


def version(place: str, value: Any) -> int:
    """A file version."""
    if isinstance(value, str):
        if re.fullmatch(r"[0-9A-Fa-f]{8}", value) is None:
            raise wrong(place, found(value), "eight hexadecimal digits")
        value = int(value, 16)
    number: int = whole(1, VERSION_MAX)(place, value)
    return number


def share(place: str, value: Any) -> float:
    """From 0 to 1."""
    if isinstance(value, str) and re.fullmatch(r"\d{1,3}(\.\d{1,3})? ?%", value, re.ASCII):
        part = float(value.rstrip("% ")) / 100
    elif type(value) in (int, float):
        part = float(value)
    else:
        raise wrong(place, found(value), 'a share such as "5%", or 0 to 1')
    if not 0 <= part <= 1:
        raise wrong(place, found(value), '"0%" to "100%", or 0 to 1')
    return part


def percent(place: str, value: Any) -> int:
    """1 to 100."""
    if isinstance(value, str) and re.fullmatch(r"\d{1,3} ?%", value, re.ASCII):
        value = int(value.rstrip("% "))
    number: int = whole(1, 100)(place, value)
    return number


def list_of(read_entry: Reader) -> Reader:
    """A list of such values, as a tuple."""

    def read(place: str, value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise wrong(place, found(value), "a list")
        return tuple(read_entry(f"{place}[{number}]", entry) for number, entry in enumerate(value))

    return read


def tables(place: str, value: Any) -> tuple[Any, ...]:
    """A list of tables, each as it is."""
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise wrong(place, found(value), f"tables: [[{place}]]")
    return tuple(value)


def home_range(place: str, value: Any) -> tuple[int, int]:
    """First and last index of some homes."""
    if type(value) is int:
        value = f"{value}-{value}"
    match = (
        re.fullmatch(r"(\d{1,7})-(\d{1,7})", value, re.ASCII) if isinstance(value, str) else None
    )
    if match is None:
        raise wrong(place, found(value), 'a home\'s index, or first and last: "100-199"')
    first, last = int(match[1]), int(match[2])
    if last < first:
        raise wrong(place, found(value), "a first index that is not above the last")
    return first, last


def wrong(place: str, found: str, expected: str) -> ConfigError:
    """The error for a value."""
    return ConfigError(f"{place or 'plan'}: found {found}, expected {expected}")


def join(place: str, key: str) -> str:
    """The place of a key in a table."""
    return f"{place}.{key}" if place else key


def found(value: Any) -> str:
    """A value in TOML's words."""
    if isinstance(value, list | tuple | Mapping):
        return "a table" if isinstance(value, Mapping) else "a list"
    said = str(value).lower() if isinstance(value, bool) else str(value)
    said = repr(value) if isinstance(value, str) else said
    return said if len(said) <= 40 else f"{said[:40]}..."


def listed(names: Sequence[str]) -> str:
    """Names for people."""
    return " or ".join(names)


def nearest(chosen: str, choices: Sequence[str]) -> str:
    """All of a few; of many the nearest one."""
    near = difflib.get_close_matches(chosen, choices, 1)
    if len(choices) <= 8 or not near:
        return f"one of {', '.join(choices)}"
    return f"the name of one, such as {near[0]}"
