"""Which devices of an update request something is wrong with: the five lists of the DCC.

A device is on the first list that fits, in the order of the schema: the DCC asks no further. What
nobody told us about a device fits everything, so without an inventory and a products list only
unknown, absent and busy devices are listed. Source: gbcs.md 1.3 step 2, 2.5; supplement 8; the
conditions of each list are inferred from its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from firmware_node.config import InventoryEntry
from firmware_node.terms import DeviceType, EntityId, ImageKey
from firmware_node.tools import duis
from firmware_node.tools.products import Product, ProductList

INVALID = "InvalidDeviceIDList"
NOT_COMMISSIONED = "NotCommissionedDeviceIDList"
NOT_APPLICABLE = "NotApplicableFirmwareDeviceIDList"
OTHER_REQUEST = "OtherRequestInProgressList"
GBCS_VERSION = "InvalidGBCSVersionList"
LISTS = (INVALID, NOT_COMMISSIONED, NOT_APPLICABLE, OTHER_REQUEST, GBCS_VERSION)
WORDS: Mapping[str, str] = {
    INVALID: "no device that this request is for",
    NOT_COMMISSIONED: "not commissioned: the hub has not heard of it",
    NOT_APPLICABLE: "the firmware is not for this device by the Central Products List",
    OTHER_REQUEST: "another request is in progress",
    GBCS_VERSION: "its GBCS version knows no such update",
}
_TAKES = {
    duis.UPDATE_FIRMWARE: (DeviceType.ESME, DeviceType.GSME, DeviceType.HCALCS),
    duis.UPDATE_PPMID_FIRMWARE: (DeviceType.PPMID,),
}
_SINCE_SECMP0007 = (DeviceType.PPMID, DeviceType.HCALCS)


@dataclass(frozen=True, slots=True)
class Image:
    """What the products list is asked about."""

    key: ImageKey
    hash: bytes  # SHA-256 of the manufacturer image


@dataclass(frozen=True, slots=True)
class Estate:
    """What the DCC has to judge by. ``is_known``: by its keys; ``is_present``: on its HAN."""

    inventory: Mapping[EntityId, InventoryEntry]
    products: ProductList | None
    is_known: Callable[[EntityId], bool]
    is_present: Callable[[EntityId], bool]
    is_busy: Callable[[EntityId], bool]
    gbcs_version: str
    gbcs_version_min: str

    def gbcs_version_of(self, device: EntityId) -> str:
        """As the inventory says, else its row of the products list, else the default."""
        entry = self.inventory.get(device)
        if entry is None:
            return self.gbcs_version
        if entry.gbcs_version is None and entry.firmware_version and self.products is not None:
            version = int(entry.firmware_version, 16)
            for product in self.products.products:
                if product.firmware_version == version and _is_of(product, entry):
                    return product.gbcs_version or self.gbcs_version
        return entry.gbcs_version or self.gbcs_version


def examine(
    reference: str, devices: Sequence[EntityId], image: Image | None, estate: Estate
) -> dict[str, tuple[EntityId, ...]]:
    """The lists with somebody on them, by their names in the schema.

    ``image`` is None where the file could not be read: then the hub will discard it.
    """
    found: dict[str, list[EntityId]] = {name: [] for name in LISTS}
    for device in devices:
        name = _judge(reference, device, image, estate)
        if name is not None:
            found[name].append(device)
    return {name: tuple(who) for name, who in found.items() if who}


def _judge(reference: str, device: EntityId, image: Image | None, estate: Estate) -> str | None:
    entry = estate.inventory.get(device)
    kind = None if entry is None or entry.type is None else DeviceType(entry.type)
    if entry is None and not estate.is_known(device) and not estate.is_present(device):
        return INVALID
    if kind is not None and kind not in _TAKES[reference]:
        return INVALID
    if not (estate.is_present(device) if entry is None else entry.commissioned):
        return NOT_COMMISSIONED
    if image is not None and estate.products is not None:
        rows = estate.products.rows_for(image.key, image.hash)
        fits = [row for row in rows if row.type in (None, *_TAKES[reference])]
        if not [row for row in fits if entry is None or _is_of(row, entry)]:
            return NOT_APPLICABLE
    if estate.is_busy(device):
        return OTHER_REQUEST
    if kind in _SINCE_SECMP0007 or reference == duis.UPDATE_PPMID_FIRMWARE:
        if _numbers(estate.gbcs_version_of(device)) < _numbers(estate.gbcs_version_min):
            return GBCS_VERSION
    return None


def _is_of(product: Product, entry: InventoryEntry) -> bool:
    """Whether a row is about this device, as far as either of them tells."""
    pairs = (
        (None if product.type is None else product.type.value, entry.type),
        (product.manufacturer_code, entry.manufacturer_code),
        (product.model, entry.model),
        (product.hardware_version, entry.hardware_version),
    )
    return all(None in pair or pair[0] == pair[1] for pair in pairs)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))
