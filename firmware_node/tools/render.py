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
    """A line of ``dcc send``: what was understood, a delivery, or a message with its verdict."""
    if "delivery" in document:
        delivery = document["delivery"]
        print(f"  {delivery['entity_id']}  {delivery['status']}", flush=True)
    elif "message" in document:
        print(f"  {message(document['message'])}", flush=True)
    else:
        print(f"request {document['request_id'] or '(GBCS message)'}")
        if document["response_code"]:
            print(f"  response {document['response_code']}")
        for warning in document["warnings"]:
            print(f"  warning: {warning}", flush=True)
        if "error" in document:
            print(f"  refused: {document['error']}", flush=True)


def message(document: Mapping[str, Any]) -> str:
    """A GBCS message in one line."""
    code = f" {document['alert_code']}" if "alert_code" in document else ""
    details = " ".join(f"{name}={_plain(value)}" for name, value in document["fields"].items())
    return (
        f"{document['use_case']} {document['kind']}{code} from {document['originator']}: {details} "
        f"(signature {document['signature']}, MAC {document['mac']})"
    )


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
