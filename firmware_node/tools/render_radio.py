"""What people read of radios: ports, a probe, the lines of a self-test.

Every document is as a command's ``--json`` gives it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from firmware_node.tools.render import COLUMNS, printable

_LABEL = 14  # columns of a name
_VERDICT = 11  # of a verdict


def ports(document: Mapping[str, Any]) -> None:
    """A block a port; the stable name first, for that is what a configuration should have."""
    if not document["ports"]:
        print("no serial ports")
    for port in document["ports"]:
        print(printable(port["by_id"] or port["device"]))
        if port["by_id"]:
            _row("device", port["device"])
        if port["description"]:
            _row("description", port["description"])
        if port["usb_id"]:
            _row("USB", port["usb_id"])
            _row("may be", f"{port['guess'] or 'nothing known'} (a guess; probe asks the stick)")
        holders = [f"{one['name']} (process {one['pid']})" for one in port["held_by"]]
        unseen = "" if port["holders_known"] else "perhaps by processes of other users"
        if holders or unseen:
            _row("in use", ", ".join(holders) or unseen)
        if port["trouble"]:
            _row("trouble", port["trouble"])


def probe(document: Mapping[str, Any]) -> None:
    """What a stick says of itself."""
    firmware, keys, payload = document["firmware"], document["keys"], document["payload"]
    _row("stick", document["entity_id"])
    revision = "" if firmware["revision"] is None else f", revision {firmware['revision']}"
    version = f"{firmware['version']}{revision}, product {firmware['product']}"
    _row("firmware", f"{firmware['stack']}, {version}")
    boot = firmware["bootloader"]
    if boot is not None:
        _row("bootloader", f"type {boot['type']}, revision {boot['revision']}")
    capabilities = document["capabilities"]
    _row("capabilities", f"{capabilities['mask']} {' '.join(capabilities['names'])}")
    _row("NV structs", document["nv_alignment"] or "cannot tell")
    can = [name for name, built in document["roles"].items() if built]
    _row("role", f"{document['role'] or 'cannot tell'}, {document['state']}")
    _row("built for", f"{', '.join(can) or 'no role'} (its word; selftest tries it)")
    network = document["network"]
    if network is None:
        _row("network", "none")
    else:
        running = "running" if network["running"] else "stored, not running"
        _row(
            "network",
            f"PAN {network['pan_id']}, extended {network['extended_pan_id']}, channel "
            f"{network['channel']}, address {network['short_address']}, {running}",
        )
    _row("install codes", f"join by one: {keys['join_by_install_code']}")
    rows = keys["link_key_rows"]
    _row("link keys", f"set: {keys['set_link_key']}, rows {'?' if rows is None else rows}")
    inside = keys["key_establishment_in_stick"] or "cannot tell"
    _row("", f"key establishment in the stick: {inside} (the daemon does it itself)")
    parts = "and in parts beyond" if payload["messages_in_parts"] else "no more"
    _row("messages", f"{payload['mt_incoming_max']} octets in one frame up, {parts}")
    if payload["transfer_in_max"] is not None:
        _row("", f"{payload['transfer_in_max']} by its node descriptor")
    for problem in document["problems"]:
        _row("problem", problem)


def line(document: Mapping[str, Any]) -> None:
    """A line of the self-test: its verdict, what was sent and answered, and what it means."""
    verdict = document["verdict"]
    optional = " (optional)" if document["optional"] and verdict == "fail" else ""
    print(f"{verdict:<{_VERDICT}}  {document['name']}{optional}", flush=True)
    _below(document["asks"])
    for exchanged in document["exchange"]:
        _below(exchanged)
    _below(f"found: {document['found']}")
    if verdict != "cannot tell":
        _below(f"means: {document['means']}")


def verdict(document: Mapping[str, Any]) -> None:
    """The end of a self-test."""
    found = [one["verdict"] for one in document["lines"]]
    counts = ", ".join(f"{found.count(name)} {name}" for name in ("pass", "fail", "cannot tell"))
    back = {True: "put back as it was", False: "NOT put back as it was", None: "left as it is"}
    print(f"{document['result']}: {counts}; the stick is {back[document['restored']]}")


def _below(text: str) -> None:
    indent = " " * (_VERDICT + 2)
    for part in textwrap.wrap(printable(text), COLUMNS - len(indent)) or [""]:
        print(indent + part)


def _row(label: str, text: str) -> None:
    for part in textwrap.wrap(printable(text), COLUMNS - _LABEL - 3, break_on_hyphens=False):
        print(f"  {label:<{_LABEL}} {part}")
        label = ""
