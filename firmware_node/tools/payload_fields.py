"""What a decoded payload is made of, and the small things that all its readers need.

A payload becomes names and values that JSON can carry: octets as hexadecimal digits, entity ids
and times as everywhere in this project's output, enumerations by their name where the fact sheets
have one and by their number where not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from firmware_node.crypto import Keyring
from firmware_node.errors import DecodeError, KeyMissingError
from firmware_node.sealing import CONTENT_HEADER, open_content
from firmware_node.wire.gbcs import GroupingHeader
from firmware_node.wire.zcl import utc_text

Value: TypeAlias = "str | int | float | bool | list[Value] | dict[str, Value] | None"
Fields: TypeAlias = dict[str, Value]

KEY_NOT_SHOWN = "key not shown"
ZCL_TIMES: Mapping[int, str] = {0: "now", 0xFFFFFFFF: "never"}


@dataclass(frozen=True, slots=True)
class Context:
    """What a reader may know besides the payload: whose message it is in, and who can open it."""

    header: GroupingHeader
    keyring: Keyring

    def opened(self, sealed: bytes, read: Callable[[bytes], Value]) -> Fields:
        """Encrypted content by ``read``, or why it stays closed."""
        fields: Fields = {"encrypted_octets": len(sealed)}
        try:
            return fields | {"content": read(open_content(sealed, self.header, self.keyring))}
        except KeyMissingError:
            return fields | {"content": "no-key"}
        except DecodeError as error:
            return fields | {"content": "invalid", "error": str(error)}


def is_sealed(octets: bytes) -> bool:
    """Whether octets look like encrypted content."""
    return octets.startswith(CONTENT_HEADER)


def named(value: int, names: Mapping[int, str]) -> str | int:
    """A value by its name, or as it is."""
    return names.get(value, value)


def code(value: int) -> str:
    """A message or alert code."""
    return f"{value:04X}"


def zcl_time(utc: int) -> str:
    """Seconds since 2000-01-01; ZCL has words for the first and the last of them."""
    return ZCL_TIMES.get(utc) or utc_text(utc)
