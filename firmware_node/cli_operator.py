"""What an operator of a lab asks for: the load switch, the doctor; ``cli`` has their arguments."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from firmware_node.adapters.control_api import DEVICE_ROUTES, HUB_ROUTES, openapi
from firmware_node.adapters.control_client import call

# What all commands share stands with them.
from firmware_node.cli import _call, _device_socket, _hub_socket
from firmware_node.errors import ConfigError, EnvironmentFailure
from firmware_node.tools import doctor, render
from firmware_node.tools.finding import PROBLEM

ASK_S = 5.0  # for a daemon's status; it takes milliseconds


def hub_load(args: argparse.Namespace) -> int:
    """``hub load``: as the ESME, an event for an HCALCS or its end; the exit code."""
    match args.rest:
        case [device, ("closed" | "open") as state, minutes]:
            query = {"device": device, "state": state, "minutes": minutes}
            if args.at:
                query["start"] = args.at
            if args.randomise:
                query["randomise"] = "1"
            method = "POST"
        case [device, "cancel", *event] if len(event) < 2:
            query = {"device": device} | ({"id": event[0]} if event else {})
            method = "DELETE"
        case _:
            raise ConfigError(
                "usage: firmware-node hub load DEVICE closed|open MINUTES, or load DEVICE cancel"
                " [EVENT]"
            )
    return _told(args, _call(_hub_socket(args), method, f"/v1/load-events?{urlencode(query)}"))


def relay(args: argparse.Namespace) -> int:
    """``relay``; the exit code: 1 where the firmware does not move the switch."""
    return _told(args, _call(_device_socket(args), "POST", f"/v1/relay?state={args.state}"))


def look_for_trouble(args: argparse.Namespace) -> int:
    """``doctor``; the exit code: 1 where something is a problem."""
    files = args.files or sorted(Path("/etc/firmware-node").glob("*.toml"))
    findings = doctor.examine(doctor.this_machine(_ask), files, args.port)
    bad = any(finding.level == PROBLEM for finding in findings)
    if args.json:
        rows = [dataclasses.asdict(finding) for finding in findings]
        print(json.dumps({"result": "problems" if bad else "ok", "findings": rows}))
    else:
        for finding in findings:
            print(render.printable(f"{finding.level:<8} {finding.check:<14} {finding.found}"))
            if finding.remedy:
                print(render.printable(f"{'':<23} -> {finding.remedy}"))
    return 1 if bad else 0


def _ask(socket: Path) -> dict[str, Any] | None:
    """See ``doctor.Machine``."""
    try:
        return next(call(socket, "GET", "/v1/status", timeout_s=ASK_S), None)
    except EnvironmentFailure as error:
        if isinstance(error.__cause__, PermissionError | TimeoutError):
            raise error.__cause__ from error
        return None


def config_api(args: argparse.Namespace) -> int:
    """``config api``; the exit code."""
    routes = HUB_ROUTES if args.what == "hub" else DEVICE_ROUTES
    title = f"firmware_node {'hub' if args.what == 'hub' else 'device'}"
    print(json.dumps(openapi(title, routes), indent=2))
    return 0


def _told(args: argparse.Namespace, documents: Iterable[dict[str, Any]]) -> int:
    """Print what a daemon did, or why it did not; the exit code."""
    code = 0
    for document in documents:
        code = max(code, 0 if document["done"] else 1)
        print(json.dumps(document) if args.json else render.printable(document["text"]))
    return code
