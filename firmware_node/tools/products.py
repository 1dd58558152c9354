"""The Central Products List as published in CSV: which firmware is for which device model.

A published list has bad cells, so a cell that cannot be read costs no more than itself: a row
without one of the cells that name it is left out, any other cell becomes unknown, and each is told
of in ``problems``. The hardware version is read from the joined column: in the column of its own,
spreadsheets turn hexadecimal digits into other things. Source: gbcs-supplement 8.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass

from firmware_node.errors import ConfigError
from firmware_node.terms import DeviceType, ImageKey

LIST_SIZE_MAX = 64 * 1024 * 1024  # bytes; the list of 2022 has 100 kB
_COLUMNS = {
    "status": "entrystatus",
    "type": "devicetypename",
    "manufacturer": "devicemodelmanufactureridentifier",
    "model": "devicemodelmodelidentifierconcatenatedwithhardwareversion",
    "firmware": "devicemodelfirmwareversion",
    "gbcs": "gbcsversionversionnumber",
    "hash": "manufacturerimagehash",
}
_TYPES = {
    "Single Element Electricity Metering Equipment": DeviceType.ESME,
    "Twin Element Electricity Metering Equipment": DeviceType.ESME,
    "Polyphase Electricity Metering Equipment": DeviceType.ESME,
    "Gas Smart Meter": DeviceType.GSME,
    "Pre-Payment Interface Device": DeviceType.PPMID,
    "HAN Connected Auxiliary Load Control Switch": DeviceType.HCALCS,
}
_COMMS_HUB = "Communications Hub"  # takes no image by a service request; its rows are left out
_GBCS_VERSION = re.compile(r"(?:GBCS Version\s*)?(\d{1,3}\.\d{1,3})\s*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Product:
    """One row: a device model with one firmware version."""

    is_current: bool
    type: DeviceType | None  # None: not readable
    manufacturer_code: int
    model: int
    hardware_version: int  # high octet version, low octet revision
    firmware_version: int
    gbcs_version: str | None  # None: not readable
    image_hash: bytes | None  # of the manufacturer image; None: empty or not readable


@dataclass(frozen=True, slots=True)
class ProductList:
    """A whole list and what could not be read of it."""

    products: tuple[Product, ...]
    problems: tuple[str, ...]

    def rows_for(self, image: ImageKey, image_hash: bytes) -> tuple[Product, ...]:
        """The current rows that this image may be given by: same maker, version and hash.

        A row without a hash says nothing about it: nearly all PPMID rows are of that kind.
        """
        return tuple(
            product
            for product in self.products
            if product.is_current
            and product.manufacturer_code == image.manufacturer_code
            and product.firmware_version == image.file_version
            and product.image_hash in (None, image_hash)
        )


def parse_products(data: bytes) -> ProductList:
    """Read a list.

    Raises:
        ConfigError: too large, or without one of the columns that are needed.
    """
    if len(data) > LIST_SIZE_MAX:
        raise ConfigError(f"{len(data)} bytes, expected at most {LIST_SIZE_MAX}")
    # A file from a spreadsheet may be in any encoding; all cells that count are ASCII.
    reader = csv.reader(data.decode("utf-8-sig", errors="replace").splitlines())
    problems: list[str] = []
    rows = _rows(reader, problems)
    names = [re.sub(r"[^a-z]", "", name.lower()) for name in next(rows, ("", []))[1]]
    columns: dict[str, int] = {}
    for key, name in _COLUMNS.items():
        if name not in names:
            raise ConfigError(f"no Central Products List: no column {name}")
        columns[key] = names.index(name)
    products = []
    for where, cells in rows:
        if cells:
            row = _Row(where, {key: _cell(cells, at) for key, at in columns.items()}, problems)
            product = row.product()
            if product is not None:
                products.append(product)
    return ProductList(tuple(products), tuple(problems))


def _rows(reader: Iterator[list[str]], problems: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Each row with where it stands; one that is no CSV is passed over."""
    number = 0
    while True:
        number += 1
        try:
            yield f"row {number}", next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            problems.append(f"row {number}: {error}")


def _cell(cells: list[str], at: int) -> str:
    return cells[at].strip() if at < len(cells) else ""


class _Row:
    """One row while it is read."""

    def __init__(self, where: str, cells: dict[str, str], problems: list[str]) -> None:
        self._where = where
        self._cells = cells
        self._problems = problems

    def product(self) -> Product | None:
        """None: it is a hub's, or has no name."""
        if self._cells["type"] == _COMMS_HUB:
            return None
        manufacturer = self._hex("manufacturer", 4)
        model = self._hex("model", 8)
        firmware = self._hex("firmware", 8)
        if manufacturer is None or model is None or firmware is None:
            return None
        device_type = _TYPES.get(self._cells["type"])
        if device_type is None:
            self._complain("type", "a device type")
        gbcs = _GBCS_VERSION.fullmatch(self._cells["gbcs"])
        if gbcs is None:
            self._complain("gbcs", "GBCS Version n.n")
        return Product(
            is_current=self._cells["status"].lower() == "current",
            type=device_type,
            manufacturer_code=int.from_bytes(manufacturer, "big"),
            model=int.from_bytes(model[:2], "big"),
            hardware_version=int.from_bytes(model[2:], "big"),
            firmware_version=int.from_bytes(firmware, "big"),
            gbcs_version=None if gbcs is None else gbcs[1],
            image_hash=self._hex("hash", 64) if self._cells["hash"] else None,
        )

    def _hex(self, name: str, digits: int) -> bytes | None:
        if re.fullmatch(rf"[0-9A-Fa-f]{{{digits}}}", self._cells[name]) is None:
            self._complain(name, f"{digits} hexadecimal digits")
            return None
        return bytes.fromhex(self._cells[name])

    def _complain(self, name: str, expected: str) -> None:
        found = self._cells[name][:40]
        self._problems.append(f"{self._where}: {name}: found {found!r}, expected {expected}")
