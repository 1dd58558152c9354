"""``fleet agent``, ``fleet hosts``, ``fleet assign``: hosts on a bus, from the command line."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import socket
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from firmware_node.errors import ConfigError, EnvironmentFailure

if TYPE_CHECKING:
    from firmware_node.adapters.fleet.hosts import Hosts
    from firmware_node.adapters.fleet.link import Broker
    from firmware_node.fleet.bus import Desired, Unit
    from firmware_node.fleet.terms import Order, Plan

SETTINGS_MAX: Final = 64 * 1024  # bytes
_NO_EXTRA: Final = "MQTT is not here; install firmware-node[fleet]"


def add_agent_parser(verbs: Any) -> None:
    """Declare the verbs under ``fleet``."""
    from firmware_node.cli import _verb

    agent = _verb(verbs, "agent", run_agent, "keep this host as the bus says it shall be")
    agent.add_argument("settings", type=Path, metavar="AGENT.toml")
    agent.add_argument("--check", action="store_true", help="read the settings, and no more")
    hosts = _verb(verbs, "hosts", run_hosts, "the hosts of a site, and what they run")
    add_broker_arguments(hosts, required=True)
    hosts.add_argument("--json", action="store_true")
    assign = _verb(verbs, "assign", run_assign, "which real instances a host shall run")
    assign.add_argument("host")
    assign.add_argument(
        "units", type=Path, metavar="UNITS.toml", help="[[units]] name, enabled, config_file"
    )
    add_broker_arguments(assign, required=True)


def add_broker_arguments(parser: argparse.ArgumentParser, *, required: bool = False) -> None:
    """``--broker`` and what goes with it; also for ``fleet run``."""
    group = parser.add_argument_group("hosts on a bus")
    group.add_argument("--broker", metavar="URL", required=required, help="mqtts://HOST:PORT")
    group.add_argument("--site", metavar="NAME", required=required)
    group.add_argument("--broker-user", metavar="NAME")
    group.add_argument("--broker-password-file", type=Path, metavar="FILE")
    group.add_argument("--broker-ca", type=Path, metavar="FILE")
    group.add_argument("--broker-certificate", type=Path, metavar="FILE")
    group.add_argument("--broker-key", type=Path, metavar="FILE")
    if not required:
        group.add_argument("--hosts", metavar="NAME,...", help="default: all that are there")


def broker_of(args: argparse.Namespace) -> Broker:
    """The broker that the arguments name."""
    if not args.site:
        raise ConfigError("--broker goes with --site")
    try:
        from firmware_node.adapters.fleet.link import Broker
    except ImportError as error:
        raise EnvironmentFailure(_NO_EXTRA) from error
    broker = Broker(
        args.broker,
        args.broker_user,
        args.broker_password_file,
        args.broker_ca,
        args.broker_certificate,
        args.broker_key,
    )
    broker.address()
    return broker


def hosts_of(
    args: argparse.Namespace,
    plan: Plan,
    tree: Mapping[str, Any],
    *,
    fleet: str,
    options: Mapping[str, Any],
    files: Mapping[str, bytes],
    state: Mapping[str, Any] | None = None,
    history: Sequence[Order] = (),
) -> Hosts:
    """What runs the homes when ``fleet run`` names a broker; see ``Hosts``. With a journal."""
    broker = broker_of(args)
    from firmware_node.adapters.fleet.hosts import Hosts

    return Hosts(
        plan,
        tree,
        broker=broker,
        site=args.site,
        fleet=fleet,
        names=[name for name in (args.hosts or "").split(",") if name],
        options=options,
        files=files,
        speed=args.speed or 1.0,
        journaled=True,
        state=state,
        history=history,
    )


# --- agent ----------------------------------------------------------------------------------------


def run_agent(args: argparse.Namespace) -> int:
    """``fleet agent AGENT.toml``."""
    try:
        from firmware_node.adapters.fleet.agent_settings import read_settings
    except ImportError as error:
        raise EnvironmentFailure(_NO_EXTRA) from error
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    if args.check:  # by whom they are laid, who is not the agent
        credentials = credentials or "/run/credentials"
    try:
        settings = read_settings(
            _toml(args.settings),
            args.settings.resolve().parent,
            host=socket.gethostname().partition(".")[0].lower(),
            credentials=None if credentials is None else Path(credentials),
        )
    except ConfigError as error:
        raise ConfigError(f"{args.settings}: {error}") from error
    if args.check:
        print(f"site {settings.site}, host {settings.host}: {', '.join(settings.kinds)}")
        return 0
    settings.broker.tls()
    settings.broker.password()
    from firmware_node.adapters.fleet.agent import run_until_told

    run_until_told(settings)
    return 0


# --- looking at hosts, telling them ---------------------------------------------------------------


def run_hosts(args: argparse.Namespace) -> int:
    """``fleet hosts``."""
    broker = broker_of(args)
    from firmware_node.adapters.fleet.site import look

    hosts = look(broker, args.site)
    if args.json:
        print(json.dumps([dataclasses.asdict(host) for host in hosts]))
        return 0
    for host in hosts:
        state = "online" if host.is_online else "offline"
        runs = [f"{share.fleet} {share.state}" for share in host.reported.shares]
        runs += [f"{unit.name} {unit.state}" for unit in host.reported.units]
        print(f"{host.name:20} {state:8} {host.reported.version:10} {', '.join(runs) or '-'}")
    return 0 if hosts else 1


def run_assign(args: argparse.Namespace) -> int:
    """``fleet assign HOST UNITS.toml``."""
    broker = broker_of(args)
    from firmware_node.adapters.fleet.site import change
    from firmware_node.fleet.bus import bus_name

    units = _units(args.units)

    def with_units(desired: Desired) -> Desired:
        return dataclasses.replace(desired, units=units)

    change(broker, args.site, bus_name("host", args.host), with_units)
    return 0


def _units(path: Path) -> tuple[Unit, ...]:
    from firmware_node.fleet.bus import Unit, bus_name
    from firmware_node.fleet.plan_values import flag

    tree = _toml(path)
    entries = tree.get("units")
    if set(tree) != {"units"} or not isinstance(entries, list):
        raise ConfigError(f"{path}: expected [[units]] and nothing else")
    units = []
    for number, entry in enumerate(entries):
        place = f"{path}: units[{number}]"
        unknown = sorted(set(entry) - {"name", "enabled", "config_file"})
        if unknown or "name" not in entry:
            raise ConfigError(f"{place}: expected name, and perhaps enabled and config_file")
        config = None
        if "config_file" in entry:
            file = path.parent / str(entry["config_file"])
            try:
                config = file.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"{place}: {file}: {error}") from error
        enabled = flag(f"{place}.enabled", entry.get("enabled", True))
        units.append(Unit(bus_name(f"{place}.name", entry["name"]), enabled, config))
    return tuple(units)


def _toml(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > SETTINGS_MAX:
            raise ConfigError(f"{path}: expected at most {SETTINGS_MAX} bytes")
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
