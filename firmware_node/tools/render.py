"""What people read in a terminal; plain text where there is none."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

BAR = 30  # characters


def fields(document: Mapping[str, Any], indent: str = "") -> None:
    """Name and value a line, nested ones indented."""
    for name, value in document.items():
        if isinstance(value, Mapping) and value:
            print(f"{indent}{name}:")
            fields(value, indent + "  ")
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            print(f"{indent}{name}:")
            for entry in value:
                fields(entry, indent + "  ")
                print()
        else:
            print(f"{indent}{name}: {_plain(value)}")


def table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Columns as wide as their content."""
    if not rows:
        return
    names = list(rows[0])
    cells = [names] + [[_plain(row[name]) for name in names] for row in rows]
    widths = [max(len(line[index]) for line in cells) for index in range(len(names))]
    for line in cells:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        )


def event(document: Mapping[str, Any]) -> None:
    """One notification, or one entry of a device's log, a line."""
    name = document.get("name") or document.get("code", "")
    rest = " ".join(
        f"{key}={_plain(value)}"
        for key, value in document.items()
        if key not in ("n", "at", "name", "code")
    )
    print(f"{document.get('at') or '-'}  {name:<22}  {rest}".rstrip(), flush=True)


def request_progress(document: Mapping[str, Any]) -> None:
    """A line of ``dcc send``: what was understood, a delivery, an answer, or a message."""
    if "delivery" in document:
        delivery = document["delivery"]
        print(f"  {delivery['entity_id']}  {delivery['status']}", flush=True)
    elif "message" in document:
        print(f"  {message(document['message'])}", flush=True)
    elif "response" in document:
        response = document["response"]
        if response["text"] is not None:
            print(f"  {response['code']}  {response['text']}", flush=True)
    elif "request_signature" in document:
        print(f"request {document['request_id']}")
        for warning in document["warnings"]:
            print(f"  warning: {warning}", flush=True)
        if "error" in document:
            print(f"  refused: {document['error']}", flush=True)


def message(document: Mapping[str, Any]) -> str:
    """A GBCS message in one line."""
    code = f" {document['alert_code']}" if "alert_code" in document else ""
    name, kind = document["use_case"], document["kind"]
    named = name if kind in name else f"{name} {kind}"  # an alert of its own has it in its name
    return (
        f"{named}{code} from {document['originator']}: "
        f"{_meaning(document)} (signature {document['signature']}, MAC {document['mac']})"
    )


_TRANSFERS = ("the image has arrived", "the hub discarded the image", "wrong hardware version")
_OUTCOMES = ("activated", "no image is held", "another hash than the image held", "not activated")


def _meaning(document: Mapping[str, Any]) -> str:
    """What the message says, in words where the words are known."""
    found = document["fields"]
    version = f"version {found.get('firmware_version')}"
    try:
        match document["use_case"], document["kind"], document.get("alert_code"):
            case "CCS08", "alert", _:
                result = (*_TRANSFERS, "the transfer failed")[found["response_code"]]
                return f"{found['entity_id']}: {result}, {version}"
            case "CS09", "alert", _:
                return f"{('activated', 'activation failed')[found['result']]}, {version} in force"
            case "CS08", "response", _:
                return ("reads " + version, "read failure")[found["response_code"]]
            case _, "response", _ if found.get("accepted"):
                return "accepted"
            case "CS06", "response", _:
                return f"{_OUTCOMES[found['response_code']]}, {version} in force"
            case _, "alert", "8F66" | "8F67" if "response_code" in found:
                return f"at {found['at']} {_OUTCOMES[found['response_code']]}, {version} in force"
            case _, "alert", "8F72" if "manufacturer_image_hash" in found:
                return f"the image was verified, hash {found['manufacturer_image_hash']}"
            case _, "alert", "8F1C" if "manufacturer_image_hash" in found:
                return f"the image was refused, hash {found['manufacturer_image_hash']}"
            case _, "alert", "8F30":
                return "the originator may not do that"
    except (KeyError, IndexError):
        pass  # a payload that could not be read has other fields
    return " ".join(f"{name}={_plain(value)}" for name, value in found.items())


def progress(offset: int, total: int, blocks_per_second: float) -> None:
    """A bar on a terminal, redrawn in place; nothing elsewhere."""
    if not sys.stderr.isatty():
        return
    share = offset / total if total else 0.0
    filled = int(share * BAR)
    bytes_left = total - offset
    left = f"{bytes_left / (blocks_per_second * 50):5.1f} s left" if blocks_per_second else ""
    line = (
        f"\r  [{'#' * filled}{'.' * (BAR - filled)}] {share:4.0%} "
        f"{blocks_per_second:7.0f} blocks/s {left}"
    )
    end = "\n" if offset >= total else ""
    print(line.ljust(78), end=end, file=sys.stderr, flush=True)


def _plain(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return str(value)
