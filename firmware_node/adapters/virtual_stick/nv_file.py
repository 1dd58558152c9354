"""Where NV memory comes from and stays: dumps of real sticks, and the journal of a virtual one."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from firmware_node.errors import ConfigError, EnvironmentFailure
from firmware_node.virtual.nv.factory import Key
from firmware_node.virtual.nv.items import Item, Table
from firmware_node.virtual.nv.memory import NvMemory


def from_dump(text: str) -> NvMemory:
    """A memory as a dump of a real stick tells it: ``{"LEGACY": {name: hex}, table: {row: hex}}``.

    Names may carry ``+n``. The product follows from how its structs are laid out.

    Raises:
        ConfigError: no such JSON, an unknown name, or a product that is neither 1 nor 2.
    """
    try:
        tables = json.loads(text)
        values = {
            _dump_key(table, name): bytes.fromhex(octets)
            for table, rows in tables.items()
            for name, octets in rows.items()
        }
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ConfigError(f"NV dump: {error}") from error
    ieee, shape = values.get((0, Item.EXTADDR), b""), len(values.get((0, Item.NWKKEY), b""))
    if len(ieee) != 8:
        raise ConfigError(f"NV dump: expected an EXTADDR of 8 octets, found {len(ieee)}")
    if shape == 24 and (Table.NWK_SEC_MATERIAL_TABLE, 0) in values:
        product = 1
    elif shape == 21 and (0, Item.LEGACY_NWK_SEC_MATERIAL_TABLE_START) in values:
        product = 2
    else:
        raise ConfigError("NV dump: its tables and NWKKEY are neither product 1's nor product 2's")
    return NvMemory(product, ieee, values)


def _dump_key(table: str, name: str) -> Key:
    if table != "LEGACY":
        return int(Table[table]), int(name, 16)
    stem, _, offset = name.partition("+")
    return 0, Item[stem] + int(offset or "0")


class NvFile:
    """A journal of values: the first line names the stick, every other one value.

    A change is one appended line, so a killed process loses nothing that its host was told of,
    and a torn last line is a change that was never told. Opening writes the file anew.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1

    def open(self, blank: NvMemory) -> NvMemory:
        """What the file holds; without one ``blank``, which it holds from now on.

        Raises:
            ConfigError: the file is not such a journal, or of another product.
            EnvironmentFailure: it cannot be read or written.
        """
        try:
            text = self._path.read_text(encoding="ascii") if self._path.exists() else ""
            memory = self._read(text, blank) if text else blank
            self._begin(memory)
        except OSError as error:
            raise EnvironmentFailure(f"{self._path}: {error.strerror or error}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{self._path}: no NV file ({error})") from error
        return memory

    def append(self, changes: Mapping[Key, bytes | None]) -> None:
        """Keep changes before the host is told of them.

        Raises:
            EnvironmentFailure: it cannot be written.
        """
        if not changes:
            return
        try:
            os.write(self._fd, b"".join(_line(key, value) for key, value in changes.items()))
        except OSError as error:
            raise EnvironmentFailure(f"{self._path}: {error.strerror or error}") from error

    def close(self) -> None:
        """No more changes."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _read(self, text: str, blank: NvMemory) -> NvMemory:
        head, *lines = text.split("\n")
        start = json.loads(head)
        product, ieee = int(start["product"]), bytes.fromhex(start["ieee"])
        if product != blank.product:
            raise ValueError(f"of product {product}, expected {blank.product}")
        values: dict[Key, bytes] = {}
        for line in lines[:-1]:  # what stands behind the last line end is torn
            table, row, octets = json.loads(line)
            if octets is None:
                values.pop((table, row), None)
            else:
                values[table, row] = bytes.fromhex(octets)
        return NvMemory(product, ieee, values)

    def _begin(self, memory: NvMemory) -> None:
        memory.take_changes()
        head = {"product": memory.product, "ieee": memory.hardware_ieee.hex()}
        lines = [json.dumps(head).encode() + b"\n"]
        lines += [_line(key, value) for key, value in memory.values().items()]
        part = self._path.with_name(self._path.name + ".part")
        part.write_bytes(b"".join(lines))
        part.replace(self._path)
        self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND)


def _line(key: Key, value: bytes | None) -> bytes:
    return json.dumps([*key, None if value is None else value.hex()]).encode() + b"\n"
