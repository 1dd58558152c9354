"""The Central Products List: the published one is read whole, a bad cell costs only itself."""

from __future__ import annotations

import pytest
from vectors import VECTORS, needs_vectors

from firmware_node.errors import ConfigError
from firmware_node.terms import DeviceType, ImageKey
from firmware_node.tools.products import LIST_SIZE_MAX, Product, parse_products

HEADER = (
    "Version,Entry.number,Entry.status,Device_Type.name,Device_Model.manufacturer_identifier,"
    "Device_Model.model_identifier,Device_Model.hardware_version.version,"
    "Device_Model.hardware_version.revision,"
    "Device_Model.model_identifier_concatenated_with_hardware_version,"
    "Device_Model.firmware_version,SMETS_CHTS Version.Version_number_and_effective_date,"
    "GBCS Version.version_number,Manufacturer_Image.hash\n"
)
HASH = "ab" * 32
ROW = (
    "Version 1,1,Current,Pre-Payment Interface Device,10E0,0005,1,00,00050100,00070200,"
    f'"SMETS V5.1 ","GBCS Version 4.1 ",{HASH}\n'
)
PPMID = Product(
    is_current=True,
    type=DeviceType.PPMID,
    manufacturer_code=0x10E0,
    model=5,
    hardware_version=0x0100,
    firmware_version=0x00070200,
    gbcs_version="4.1",
    image_hash=bytes.fromhex(HASH),
)


def row_with(old: str, new: str) -> bytes:
    assert old in ROW
    return (HEADER + ROW.replace(old, new, 1)).encode()


def test_a_row_is_read_into_its_values() -> None:
    found = parse_products((HEADER + ROW).encode())
    assert found.products == (PPMID,)
    assert found.problems == ()


@needs_vectors
def test_the_published_list_is_read_whole() -> None:
    data = (VECTORS / "cpl" / "central-products-list-v2.051.csv").read_bytes()
    found = parse_products(data)
    kinds = [product.type for product in found.products]
    assert kinds.count(DeviceType.PPMID) == 173
    assert kinds.count(DeviceType.HCALCS) == 2
    assert kinds.count(None) == 1  # one device type that is no device type
    assert len(found.problems) == 1
    assert "expected a device type" in found.problems[0]
    # Its own column has NaN for 78 of the hardware versions; the joined one has them all.
    switches = [p for p in found.products if p.type is DeviceType.HCALCS]
    assert [p.hardware_version for p in switches] == [0x022A, 0x022B]
    assert [p.gbcs_version for p in switches] == ["3.2", "3.2"]
    assert sum(not product.is_current for product in found.products) > 0


@pytest.mark.parametrize(
    ("old", "new", "unknown"),
    [
        ("Pre-Payment Interface Device", "octopus.cs", "type"),
        ("GBCS Version 4.1 ", "NaN", "gbcs_version"),
        (HASH, "NaN", "image_hash"),
        (HASH, HASH[2:], "image_hash"),
    ],
)
def test_a_bad_cell_becomes_unknown_and_is_told_of(old: str, new: str, unknown: str) -> None:
    found = parse_products(row_with(old, new))
    assert getattr(found.products[0], unknown) is None
    assert len(found.problems) == 1
    assert "row 2" in found.problems[0]


def test_an_empty_hash_is_no_problem() -> None:
    found = parse_products(row_with(HASH, ""))
    assert found.products[0].image_hash is None
    assert found.problems == ()


@pytest.mark.parametrize(
    ("old", "new"), [("10E0", "GFI"), (",00050100,", ",NaN,"), (",00070200,", ",7.02,")]
)
def test_a_row_without_its_name_is_left_out_and_the_next_is_read(old: str, new: str) -> None:
    found = parse_products(row_with(old, new) + ROW.encode())
    assert found.products == (PPMID,)
    assert len(found.problems) == 1


def test_rows_that_are_no_csv_are_passed_over() -> None:
    huge = "x" * 200_000  # over the limit of a field
    data = (HEADER + f'"{huge}",1\n' + "\n,,,\nshort,1\n" + ROW).encode()
    found = parse_products(data)
    assert found.products == (PPMID,)
    assert any("field" in problem for problem in found.problems)


def test_octets_of_no_known_encoding_spoil_only_their_cell() -> None:
    data = b"\xef\xbb\xbf" + row_with("Version 1", "Versi\xf3n 1").replace(b"\xc3", b"")
    assert parse_products(data).products == (PPMID,)


def test_another_file_is_no_list() -> None:
    for data in (b"", b"a,b\n1,2\n", b"\x00" * 100):
        with pytest.raises(ConfigError, match="no column"):
            parse_products(data)
    with pytest.raises(ConfigError, match="at most"):
        parse_products(bytes(LIST_SIZE_MAX + 1))


def test_rows_for_an_image_are_the_current_ones_of_its_maker_version_and_hash() -> None:
    image = ImageKey(0x10E0, 0x0084, 0x00070200)
    digest = bytes.fromhex(HASH)
    assert parse_products((HEADER + ROW).encode()).rows_for(image, digest) == (PPMID,)
    assert parse_products((HEADER + ROW).encode()).rows_for(image, bytes(32)) == ()
    without = parse_products(row_with(HASH, ""))
    assert len(without.rows_for(image, bytes(32))) == 1
    removed = parse_products(row_with("Current", "Removed"))
    assert removed.rows_for(image, digest) == ()
    for other in (image._replace(manufacturer_code=1), image._replace(file_version=1)):
        assert without.rows_for(other, digest) == ()
