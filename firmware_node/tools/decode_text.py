"""A decoded GBCS message for people: aligned, with the names of codes, octets in groups of four.

Made from the same line that ``--json`` prints, so the two cannot tell different things.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from firmware_node.tools.code_names import ALERT_NAMES, MESSAGE_NAMES
from firmware_node.tools.payload_fields import Fields, Value

# Names of response codes, by use case (tables of the fact sheet).
_CODES: Mapping[str, tuple[str, ...]] = {
    "CS06": ("success", "no image held", "hash mismatch", "activation failure"),
    "CS08": ("read success", "read failure"),
    "CS09": ("success", "failure"),
    "CCS08": ("success", "image discarded", "hardware version mismatch", "transfer failure"),
    "CS07": ("success", "read failure"),
    "CS02c": ("", "invalid key usage", "key pair generation failed", "request production failed"),
    "CS02d": (
        "success",
        "invalid certificate",
        "wrong device identity",
        "invalid key usage",
        "no corresponding key pair",
        "wrong public key",
        "certificate storage failed",
        "private key change failed",
    ),
    "CS02e": ("", "invalid key usage", "no certificate held", "certificate retrieval failure"),
    "CS03": (
        "success",
        "invalid message code for method and role",
        "invalid method and role",
        "incompatible with existing entry",
        "device log full",
        "write failure",
        "key agreement: no resources",
        "key agreement: unknown issuer",
        "key agreement: unsupported suite",
        "key agreement: bad message",
        "key agreement: bad key confirm",
        "invalid or missing certificate",
        "no partner link key received",
        "no CBKE response",
    ),
    "CS04": ("success", "not in device log", "other failure"),
}
_OF_CS06 = "00CA"  # its alert has no use case of its own
_CODE_FIELDS = ("response_code", "result")
_OCTETS = re.compile(r"(?:[0-9a-f]{8}){2,}[0-9a-f]*")
_USE_CASE = re.compile(r"[A-Z]+[0-9]")
_INDENT = "  "
_LINE = 96  # characters; an entry of a list that fits stands on one line
_ENVELOPE = {"originator": "from", "recipient": "to"}
_NOT_ROWS = ("file", "place", "use_case", "message_code", "kind", "pre_command", "payload")


def text(line: Fields) -> str:
    """Several lines of text for one line of ``gbcs decode``, without a newline at the end."""
    place = f"{line['file']}" + (f", {line['place']}" if "place" in line else "")
    if "error" in line:
        return f"{place}: {line['error']}"
    code, use_case = f"{line['message_code']}", f"{line['use_case']}"
    words = [use_case] if _USE_CASE.match(use_case) else []
    words.append(MESSAGE_NAMES.get(int(code, 16), "unknown message"))
    kind = "Pre-Command" if "pre_command" in line else f"{line['kind']}"
    envelope: Fields = {
        _ENVELOPE.get(name, name): value for name, value in line.items() if name not in _NOT_ROWS
    }
    rows = [f"{' '.join(words)} ({code} {kind})  {place}"]
    rows += _rows(envelope, _INDENT, "")
    payload = line["payload"]
    if payload:
        rows.append(f"{_INDENT}payload")
        rows += _block(payload, _INDENT * 2, "CS06" if code == _OF_CS06 else use_case)
    return "\n".join(rows)


def _rows(fields: Fields, indent: str, use_case: str) -> Iterator[str]:
    width = max((len(name) for name in fields), default=0)
    for name, value in fields.items():
        label = name.replace("_", " ")
        if isinstance(value, dict | list) and not _is_short(value):
            yield f"{indent}{label}"
            yield from _block(value, indent + _INDENT, use_case)
        else:
            yield f"{indent}{label:<{width}}  {_scalar(name, value, use_case)}"


def _block(value: Value, indent: str, use_case: str) -> Iterator[str]:
    """A nested value; entries of a list begin with a dash."""
    if isinstance(value, dict):
        yield from _rows(value, indent, use_case)
    elif isinstance(value, list) and not _is_short(value):
        for entry in value:
            short = _one_line(entry, use_case)
            if short is not None:
                yield f"{indent}- {short}"
                continue
            first, *rest = list(_block(entry, indent + _INDENT, use_case)) or [f"{indent}  none"]
            yield f"{indent}- {first[len(indent) + len(_INDENT) :]}"
            yield from rest
    else:
        yield f"{indent}{_scalar('', value, use_case)}"


def _one_line(entry: Value, use_case: str) -> str | None:
    """A flat entry of a list on one line; None: it does not fit."""
    if not isinstance(entry, dict) or any(isinstance(v, dict | list) for v in entry.values()):
        return None
    cells = (
        f"{name.replace('_', ' ')}: {_scalar(name, value, use_case)}"
        for name, value in entry.items()
    )
    line = "  ".join(cells)
    return line if len(line) <= _LINE else None


def _is_short(value: Value) -> bool:
    """A list without further structure in it fits a line."""
    return isinstance(value, list) and not any(isinstance(entry, dict | list) for entry in value)


def _scalar(name: str, value: Value, use_case: str) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(_scalar("", entry, use_case) for entry in value) or "none"
    if name in _CODE_FIELDS and isinstance(value, int):
        return f"{value} {_code_name(value, use_case)}".rstrip()
    if name in ("alert_code", "message_code"):
        names = ALERT_NAMES if name == "alert_code" else MESSAGE_NAMES
        return f"{value} {names.get(int(f'{value}', 16), '')}".rstrip()
    if isinstance(value, str) and _OCTETS.fullmatch(value):
        return " ".join(value[at : at + 8] for at in range(0, len(value), 8))
    return f"{value}" or "(empty)"


def _code_name(value: int, use_case: str) -> str:
    names = _CODES.get(use_case) or _CODES.get(use_case[:4]) or ()
    return names[value] if 0 <= value < len(names) else ""
