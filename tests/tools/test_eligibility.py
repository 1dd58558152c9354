"""Which of the DCC's five lists a device is on, by what is known of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from firmware_node.config import InventoryEntry
from firmware_node.terms import DeviceType, EntityId, ImageKey
from firmware_node.tools.eligibility import (
    GBCS_VERSION,
    INVALID,
    LISTS,
    NOT_APPLICABLE,
    NOT_COMMISSIONED,
    OTHER_REQUEST,
    WORDS,
    Estate,
    Image,
    examine,
)
from firmware_node.tools.products import Product, ProductList

DEVICE = EntityId.parse("00db1234567890a4")
ENTRY = InventoryEntry(str(DEVICE), "ppmid", 0x10E0, 0x0005, 0x0100, "00070100")
IMAGE = Image(ImageKey(0x10E0, 0x0084, 0x00070200), bytes(32))
ROW = Product(True, DeviceType.PPMID, 0x10E0, 0x0005, 0x0100, 0x00070200, "4.1", None)
OLD_ROW = replace(ROW, firmware_version=0x00070100, gbcs_version="4.1")


def estate(
    entry: InventoryEntry | None = None,
    *rows: Product,
    known: bool = True,
    present: bool = True,
    busy: bool = False,
) -> Estate:
    return Estate(
        inventory={} if entry is None else {DEVICE: entry},
        products=ProductList(rows, ()) if rows else None,
        is_known=lambda _: known,
        is_present=lambda _: present,
        is_busy=lambda _: busy,
        gbcs_version="4.1",
        gbcs_version_min="4.1",
    )


def lists(found: Estate, reference: str = "11.4", image: Image | None = IMAGE) -> list[str]:
    result = examine(reference, (DEVICE,), image, found)
    assert all(who == (DEVICE,) for who in result.values())
    return list(result)


def test_a_device_that_nothing_is_known_against_is_on_no_list() -> None:
    assert lists(estate()) == []
    assert lists(estate(known=False)) == []  # it is there, whoever it is
    assert lists(estate(ENTRY, ROW, OLD_ROW)) == []


@pytest.mark.parametrize(
    ("judged", "expected"),
    [
        (estate(known=False, present=False), INVALID),
        (estate(replace(ENTRY, type="hcalcs")), INVALID),
        (estate(present=False), NOT_COMMISSIONED),
        (estate(replace(ENTRY, commissioned=False)), NOT_COMMISSIONED),
        (estate(None, replace(ROW, firmware_version=1)), NOT_APPLICABLE),
        (estate(None, replace(ROW, manufacturer_code=1)), NOT_APPLICABLE),
        (estate(None, replace(ROW, image_hash=b"\1" * 32)), NOT_APPLICABLE),
        (estate(None, replace(ROW, type=DeviceType.ESME)), NOT_APPLICABLE),
        (estate(None, replace(ROW, is_current=False)), NOT_APPLICABLE),
        (estate(replace(ENTRY, model=6), ROW), NOT_APPLICABLE),
        (estate(replace(ENTRY, hardware_version=0x0200), ROW), NOT_APPLICABLE),
        (estate(replace(ENTRY, manufacturer_code=2), ROW), NOT_APPLICABLE),
        (estate(busy=True), OTHER_REQUEST),
        (estate(replace(ENTRY, gbcs_version="4.0")), GBCS_VERSION),
        (estate(ENTRY, ROW, replace(OLD_ROW, gbcs_version="3.2")), GBCS_VERSION),
    ],
)
def test_each_condition_has_its_list(judged: Estate, expected: str) -> None:
    assert lists(judged) == [expected]


def test_a_device_is_on_the_first_list_that_fits() -> None:
    entry = replace(ENTRY, model=6, gbcs_version="1.0")
    assert lists(estate(entry, ROW, busy=True)) == [NOT_APPLICABLE]
    assert lists(estate(entry, busy=True)) == [OTHER_REQUEST]


def test_what_the_inventory_leaves_out_fits_everything() -> None:
    assert lists(estate(InventoryEntry(str(DEVICE)), ROW)) == []
    # The inventory vouches for a device that the hub has not heard of yet.
    assert lists(estate(InventoryEntry(str(DEVICE)), present=False, known=False)) == []


def test_versions_are_numbers_and_not_text() -> None:
    assert lists(estate(replace(ENTRY, gbcs_version="4.10"))) == []
    assert lists(estate(replace(ENTRY, gbcs_version="10.0"))) == []


def test_the_version_of_gbcs_counts_for_the_types_that_came_late() -> None:
    old = replace(ENTRY, gbcs_version="1.0")
    for kind, expected in (("esme", []), ("gsme", []), ("hcalcs", [GBCS_VERSION])):
        assert lists(estate(replace(old, type=kind)), "11.1") == expected
    assert lists(estate(old), "11.1") == [INVALID]  # a PPMID has a request of its own


def test_a_file_that_cannot_be_read_is_left_to_the_hub() -> None:
    assert lists(estate(None, replace(ROW, firmware_version=1)), image=None) == []


def test_the_version_told_to_a_user_is_the_best_known() -> None:
    assert estate().gbcs_version_of(DEVICE) == "4.1"
    assert estate(replace(ENTRY, gbcs_version="4.3")).gbcs_version_of(DEVICE) == "4.3"
    row = replace(OLD_ROW, gbcs_version="3.2")
    assert estate(ENTRY, row).gbcs_version_of(DEVICE) == "3.2"
    assert estate(ENTRY, replace(row, gbcs_version=None)).gbcs_version_of(DEVICE) == "4.1"
    assert estate(ENTRY, replace(row, model=6)).gbcs_version_of(DEVICE) == "4.1"


def test_every_list_has_words() -> None:
    assert set(WORDS) == set(LISTS)
