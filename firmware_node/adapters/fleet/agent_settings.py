"""``AGENT.toml``: which host this is, where the broker is, what may run here.

::

    [agent]
    site = "lab"
    host = "pi-1"                        # default: this machine's name
    state_directory = "/var/lib/firmware-node/agent"
    kinds = ["homes", "units"]           # simulated homes; real instances, with their sticks
    workers = 2                          # processes for the homes; 0: the agent's own

    [broker]
    url = "mqtts://broker.example:8883"  # mqtt:// goes without a password, or on loopback
    user = "pi-1"
    password_file = "credential:secrets_password"
    ca_file = "/etc/firmware-node/agent/ca.pem"
    certificate_file = "..."             # and key_file, where the broker wants them

``credential:NAME`` is a file that systemd hands over; other paths are from where the file lies.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from firmware_node.adapters.fleet.agent import AgentSettings
from firmware_node.adapters.fleet.link import Broker
from firmware_node.errors import ConfigError
from firmware_node.fleet.bus import HOST_KINDS, bus_name
from firmware_node.fleet.plan_values import Reader, list_of, text, whole, word

STATE: Final = "/var/lib/firmware-node/agent"
WORKERS_MAX: Final = 256
_AGENT: Final[Mapping[str, Reader]] = {
    "site": bus_name,
    "host": bus_name,
    "state_directory": text,
    "kinds": list_of(word(HOST_KINDS)),
    "workers": whole(0, WORKERS_MAX),
}
_FILES: Final = ("password_file", "ca_file", "certificate_file", "key_file")
_BROKER: Final[Mapping[str, Reader]] = dict.fromkeys(("url", "user", *_FILES), text)


def read_settings(
    tree: Mapping[str, Any], folder: Path, *, host: str, credentials: Path | None
) -> AgentSettings:
    """What the document says; ``host`` is the machine's name, ``credentials`` systemd's folder.

    Raises:
        ConfigError: one line: where, what was found, what is expected.
    """
    known = {"agent": _AGENT, "broker": _BROKER}
    for name in tree:
        if name not in known:
            raise ConfigError(f"{name}: unknown table; known are agent and broker")
    agent = _section("agent", tree, _AGENT, ("site",))
    found = _section("broker", tree, _BROKER, ("url",))
    for name in _FILES:
        if name in found:
            found[name] = _path(f"broker.{name}", found[name], folder, credentials)
    if ("certificate_file" in found) != ("key_file" in found):
        raise ConfigError("broker: certificate_file and key_file go together")
    broker = Broker(**found)
    broker.address()
    if "host" not in agent:
        agent["host"] = bus_name("agent.host: this machine's name", host)
    agent["state_directory"] = folder / agent.get("state_directory", STATE)
    if not agent.get("kinds", HOST_KINDS):
        raise ConfigError("agent.kinds: found none, expected at least one")
    return AgentSettings(**agent, broker=broker)


def _section(
    name: str, tree: Mapping[str, Any], keys: Mapping[str, Reader], required: tuple[str, ...]
) -> dict[str, Any]:
    table = tree.get(name, {})
    if not isinstance(table, Mapping):
        raise ConfigError(f"{name}: expected a table")
    for key in table:
        if key not in keys:
            near = difflib.get_close_matches(key, keys, 1) or [", ".join(keys)]
            raise ConfigError(f"{name}.{key}: unknown key; the nearest known key is {near[0]}")
    for key in required:
        if key not in table:
            raise ConfigError(f"{name}.{key}: missing key")
    return {key: keys[key](f"{name}.{key}", value) for key, value in table.items()}


def _path(place: str, value: str, folder: Path, credentials: Path | None) -> Path:
    if not value.startswith("credential:"):
        return folder / value
    name = value.removeprefix("credential:")
    if credentials is None:
        raise ConfigError(f"{place}: found {value}, but systemd handed no credentials over")
    if not name or "/" in name or name.startswith("."):
        raise ConfigError(f"{place}: found {value}, expected the name of a credential")
    return credentials / name
