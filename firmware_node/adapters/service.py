"""What a service manager sees of a daemon: its state in words, and what SIGHUP changes."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from firmware_node.config import DeviceConfig, HubConfig
from firmware_node.errors import ConfigError

STATUS_INTERVAL_S = 1  # a state is told at most so late, and a download's percentage so often
_log = logging.getLogger(__name__)

Config = TypeVar("Config", DeviceConfig, HubConfig)


class Reload(Generic[Config]):
    """Reads the configuration again: the log level is taken, what needs a start is named."""

    def __init__(self, config: Config, read: Callable[[], Config]) -> None:
        self._running: Config = config
        self._read: Callable[[], Config] = read
        self._level = logging.getLogger().level  # as the command line says
        self._take(config)

    def __call__(self) -> None:
        """A configuration that cannot be read changes nothing."""
        try:
            new = self._read()
        except ConfigError as error:
            _log.error("configuration not taken: %s", error)
            return
        self._take(new)
        for name in _changed("", dataclasses.asdict(self._running), dataclasses.asdict(new)):
            if not name.startswith("log."):
                _log.warning("%s changed: it is taken at the next start", name)
        _log.info("configuration read again")

    def _take(self, config: Config) -> None:
        word = config.log.level
        logging.getLogger().setLevel(word.upper() if word else self._level)


def _changed(prefix: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    names: list[str] = []
    for name, value in new.items():
        if isinstance(value, Mapping):
            names += _changed(f"{prefix}{name}.", old.get(name, {}), value)
        elif value != old.get(name):
            names.append(prefix + name)
    return names + [prefix + name for name in old if name not in new]


# --- STATUS= --------------------------------------------------------------------------------------


async def tell_status(
    words: Callable[[], str],
    notify: Callable[[str], None],
    interval_s: float = STATUS_INTERVAL_S,
) -> None:
    """STATUS= whenever the words are no longer those of READY=1; nothing where nobody listens."""
    if not os.environ.get("NOTIFY_SOCKET"):
        return
    told = words()
    while True:
        text = words()
        if text != told:
            told = text
            notify(f"STATUS={text}")
        await asyncio.sleep(interval_s)


def device_words(status: Mapping[str, Any]) -> str:
    """A device's ``status`` as one line for people."""
    running = status["banks"][status["running_bank"]]
    upgrade = status["upgrade"]
    version = f"version {running['version']} in bank {status['running_bank']}"
    match status["state"], upgrade["status"]:
        case "downloading", _:
            total = upgrade["total_size"]
            share = f"{100 * upgrade['file_offset'] // total} % of {total} bytes" if total else ""
            words = f"downloading: {share}, running {version}"
        case "waiting", "waiting_to_upgrade_via_external_event":
            words = (
                f"waiting: an image is verified, activation by command (CS06); running {version}"
            )
        case "waiting", "count_down":
            words = f"waiting: activation has its time; running {version}"
        case "waiting", _:
            words = f"waiting: an image is verified, activation by the hub; running {version}"
        case "trial", _:
            words = f"trial: {version}, not confirmed yet"
        case "reverted" | "failed" as state, _:
            failure = status["last_failure"]
            cause = f" ({failure['phase']}: {failure['cause']})" if failure else ""
            words = f"{state}{cause}: running {version}"
        case state, _:
            words = f"{state}: running {version}"
    if status.get("switch") is not None:
        words += f"; the switch is {status['switch']['switch'] or 'not driven'}"
    if status["radio"]["fault"]:
        return f"degraded: the radio is away ({status['radio']['fault']}); {words}"
    if not status["network"]["joined"]:
        return f"degraded: no network, waiting for the hub; {words}"
    return words


def hub_words(status: Mapping[str, Any]) -> str:
    """A hub's ``status`` as one line for people."""
    devices, offers = len(status["devices"]), len(status["offers"])
    words = f"{_count(devices, 'device')}, {_count(offers, 'offer')}"
    if status["radio"]["fault"]:
        return f"degraded: the radio is away ({status['radio']['fault']}); {words}"
    return f"serving: {words}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
