"""Small values in records: JSON with sorted keys, and the rows that are kept twice.

A row on which everything depends is written under two keys in one transaction, so that one row
whose checksum fails costs nothing; when both are lost the value is never guessed.
"""

from __future__ import annotations

import json
from typing import Any

from firmware_node.boundary import Records
from firmware_node.errors import RecordLostError

_SECOND = "~"


def put_twice(records: Records, key: str, value: bytes) -> None:
    """Write a value under its key and its second key."""
    records.put(key, value)
    records.put(key + _SECOND, value)


def get_twice(records: Records, key: str) -> bytes:
    """The value from whichever row is readable; the other one is mended.

    Raises:
        RecordLostError: neither is.
    """
    for name in (key, key + _SECOND):
        try:
            value = records.get(name)
        except RecordLostError:
            continue
        if value is not None:
            put_twice(records, key, value)
            return value
    raise RecordLostError(f"record {key}: both rows are lost")


def delete_twice(records: Records, key: str) -> None:
    """Remove both rows."""
    records.delete(key)
    records.delete(key + _SECOND)


def keys_twice(records: Records, prefix: str) -> list[str]:
    """The first keys of all pairs that begin with ``prefix``, sorted; a lost first row counts."""
    return sorted({key.removesuffix(_SECOND) for key in records.keys(prefix)})


def encode(fields: dict[str, Any]) -> bytes:
    """Canonical JSON."""
    return json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()


def decode(value: bytes) -> dict[str, Any]:
    """What ``encode`` wrote; its checksum vouched for it."""
    fields = json.loads(value)
    assert isinstance(fields, dict)
    return fields
