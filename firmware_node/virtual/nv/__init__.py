"""NV memory of the virtual stick."""

from firmware_node.virtual.nv.items import Item, Table
from firmware_node.virtual.nv.memory import DEFAULT_LINK_KEY, NvMemory, factory
from firmware_node.virtual.nv.structs import (
    ASSOCIATED,
    ASSOCIATED_DEVICE,
    EMPTY_IEEE,
    NO_IEEE,
    PROVISIONAL,
    SECURED,
    VERIFIED,
    AddressRow,
    NetworkKey,
    Nib,
)

__all__ = [
    "ASSOCIATED",
    "ASSOCIATED_DEVICE",
    "DEFAULT_LINK_KEY",
    "EMPTY_IEEE",
    "NO_IEEE",
    "PROVISIONAL",
    "SECURED",
    "VERIFIED",
    "AddressRow",
    "Item",
    "NetworkKey",
    "Nib",
    "NvMemory",
    "Table",
    "factory",
]
