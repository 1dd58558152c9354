"""The stick's NV memory, held to dumps of real sticks and zigpy-znp's structs; wipes; the file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import zigpy_znp.types as t
from vectors import VECTORS, needs_vectors
from zigpy_znp.znp import security

from firmware_node.adapters.virtual_stick.nv_file import NvFile, from_dump
from firmware_node.errors import ConfigError, EnvironmentFailure
from firmware_node.virtual import nv
from firmware_node.virtual.nv import Item, NetworkKey, Nib, Table

IEEE = bytes.fromhex("a490785634120db0")
DEVICE = bytes.fromhex("1122334455667788")
EXTENDED_PAN = bytes.fromhex("0102030405060708")
KEY = bytes(range(0x20, 0x30))
NIB = Nib(
    address=0x1234,
    channel=20,
    parent=0x0000,
    parent_ieee=DEVICE,
    pan=0xABCD,
    state=4,
    channels=1 << 20,
    depth=1,
    extended_pan=EXTENDED_PAN,
    key_loaded=True,
    update_id=3,
    manager=0,
)
DUMPS = {1: "CC2652R-ZStack4", 2: "CC2531-ZStack3"}
PRODUCTS = pytest.mark.parametrize("product", [1, 2])

# What hosts read, write in place or insist on before they have made anything themselves.
MUST_EXIST = (
    *(Item.EXTADDR, Item.STARTUP_OPTION, Item.EXTENDED_PAN_ID, Item.APS_USE_EXT_PANID),
    *(Item.BCAST_DELIVERY_TIME, Item.CONCENTRATOR_ENABLE, Item.CONCENTRATOR_DISCOVERY),
    *(Item.CONCENTRATOR_RC, Item.SRC_RTG_EXPIRY_TIME, Item.NWK_CHILD_AGE_ENABLE),
    *(Item.NWK_ACTIVE_KEY_INFO, Item.NWK_ALTERN_KEY_INFO, Item.BDBNODEISONANETWORK),
    *(Item.PRECFGKEY, Item.PRECFGKEYS_ENABLE, Item.USE_DEFAULT_TCLK, Item.NWKKEY, Item.PANID),
    *(Item.CHANLIST, Item.LOGICAL_TYPE, Item.ZDO_DIRECT_CB, Item.TCLK_SEED),
)


def dump(product: int, state: str) -> nv.NvMemory:
    return from_dump((VECTORS / "znp-nvram" / f"{DUMPS[product]}.{state}.json").read_text())


@needs_vectors
@PRODUCTS
@pytest.mark.parametrize("state", ["reset", "formed"])
def test_the_factory_image_has_the_items_and_sizes_of_a_real_stick(
    product: int, state: str
) -> None:
    ours, real = nv.factory(product, IEEE), dump(product, state)
    assert real.product == product
    # Tables whose size is a choice when the firmware is built.
    built = {(0, Item.ADDRMGR), (0, Item.APS_LINK_KEY_TABLE), (0, Item.POLL_RATE)}
    shared = [key for key in ours.values() if key in real.values() and key not in built]
    assert len(shared) > 60
    for key in shared:
        assert len(ours.values()[key]) == len(real.values()[key]), key
    for item in MUST_EXIST:
        assert ours.item(item) is not None, item.name
        # An old stick that was never formed misses some; one that works has them all.
        assert state == "reset" or real.item(item) is not None, item.name


@needs_vectors
@PRODUCTS
def test_the_factory_image_has_the_items_of_a_real_stick_and_no_others(product: int) -> None:
    blank, formed = dump(product, "reset").values(), dump(product, "formed").values()
    ours = {row for (table, row) in nv.factory(product, IEEE).values() if table == 0}
    # Tables in ordinary items stand from 0x0101 on; how many rows they have is a choice.
    real = {row for (table, row) in (*blank, *formed) if table == 0 and row < Item.TCLK_SEED}
    assert {row for row in ours if row < Item.TCLK_SEED} <= real
    missing = {row for (table, row) in blank if table == 0 and row < Item.TCLK_SEED} - ours
    # 0x0024 is there to be read and has no size (zigbee-znp.md 3.1): the stick answers for it.
    assert missing <= {Item.POLL_RATE_OLD16}


@needs_vectors
@PRODUCTS
def test_a_formed_real_stick_reads_as_the_network_it_is_in(product: int) -> None:
    memory = dump(product, "formed")
    assert memory.on_network
    nib = memory.nib
    assert nib is not None
    assert (nib.address, nib.state, nib.manager) == (0x0000, 8, 0x0000)
    assert nib.extended_pan == memory.item(Item.APS_USE_EXT_PANID)
    assert nib.channels == 1 << nib.channel
    assert memory.network_key().key == memory.item(Item.PRECFGKEY)
    assert memory.frame_counter(nib.extended_pan) > 0
    children = [row for _, row in memory.addresses()]
    assert all(row.short < 0xFFF8 and row.ieee[5:8] != b"\xff\xff\xff" for row in children)
    assert len(children) >= 4


@needs_vectors
def test_the_link_keys_of_a_formed_stick_are_found_by_their_partners() -> None:
    memory = dump(1, "formed")
    rows = dict(memory.addresses())
    assert memory.link_key(rows[0].ieee) == bytes.fromhex("6822d93c39c7d86085d999879e3fd7f4")
    assert memory.link_key(rows[5].ieee) == bytes.fromhex("92e8c34c863fa70c0605380c3d985f03")
    seed = memory.item(Item.TCLK_SEED)
    assert seed is not None
    # The others are hashed: zigpy-znp's own rule gives the same keys.
    hashed = memory.values()[Table.TCLK_TABLE, 0]
    partner, shift = hashed[8:16], hashed[18]
    ieee, _ = t.EUI64.deserialize(partner)
    assert (
        memory.link_key(partner) == security.compute_key(ieee, t.KeyData(seed), shift).serialize()
    )
    assert memory.link_key(DEVICE) is None


@needs_vectors
@pytest.mark.parametrize("name", ["CC2531-ZStack1.formed", "CC2538-ZStack3.formed"])
def test_a_dump_of_another_product_is_refused(name: str) -> None:
    text = (VECTORS / "znp-nvram" / f"{name}.json").read_text()
    with pytest.raises(ConfigError, match="neither product 1's nor product 2's"):
        from_dump(text)


@pytest.mark.parametrize("text", ["", "[]", '{"LEGACY": {"NO_SUCH": "00"}}', '{"LEGACY": {}}'])
def test_what_is_no_dump_is_a_configuration_error(text: str) -> None:
    with pytest.raises(ConfigError, match="NV dump"):
        from_dump(text)


@PRODUCTS
def test_the_structs_read_the_same_in_zigpy_znp(product: int) -> None:
    memory, align = nv.factory(product, IEEE), product == 1
    memory.enter_network(NIB, NetworkKey(1, KEY), DEVICE)
    octets = memory.item(Item.NIB)
    assert octets is not None
    theirs, rest = t.NIB.deserialize(octets, align=align)
    assert rest == b""
    assert (theirs.nwkDevAddress, theirs.nwkLogicalChannel, theirs.nwkPanId) == (0x1234, 20, 0xABCD)
    assert theirs.extendedPANID.serialize() == EXTENDED_PAN
    assert theirs.nwkCoordExtAddress.serialize() == DEVICE
    assert (theirs.nwkState, theirs.nodeDepth, theirs.nwkUpdateId) == (4, 1, 3)
    assert (bool(theirs.nwkKeyLoaded), theirs.SecurityLevel) == (True, 5)
    assert theirs.serialize(align=align) == octets
    key, rest = t.NwkActiveKeyItems.deserialize(memory.item(Item.NWKKEY) or b"", align=align)
    assert (key.Active.KeySeqNum, bytes(key.Active.Key), rest) == (1, KEY, b"")
    memory.keep_address(nv.AddressRow(nv.ASSOCIATED, 0x2222, DEVICE))
    row = memory.values()[Table.ADDRMGR, 0] if align else (memory.item(Item.ADDRMGR) or b"")[:11]
    entry, _ = t.AddrMgrEntry.deserialize(row, align=align)
    assert (entry.nwkAddr, entry.extAddr.serialize()) == (0x2222, DEVICE)


@PRODUCTS
def test_a_blank_stick_is_in_no_network(product: int) -> None:
    memory = nv.factory(product, IEEE)
    memory.start()
    assert memory.nib is None
    assert not memory.on_network


@PRODUCTS
def test_a_network_that_was_entered_is_there_after_the_next_start(product: int) -> None:
    memory = nv.factory(product, IEEE)
    memory.start()
    memory.enter_network(NIB, NetworkKey(1, KEY), DEVICE)
    memory.keep_frame_counter(EXTENDED_PAN, 5000)
    memory.keep_address(nv.AddressRow(nv.ASSOCIATED, 0x2222, DEVICE))
    memory.start()
    assert memory.on_network
    assert memory.nib == NIB
    assert memory.network_key() == NetworkKey(1, KEY)
    assert memory.frame_counter(EXTENDED_PAN) == 5000
    assert [row.short for _, row in memory.addresses()] == [0x2222]


@PRODUCTS
@pytest.mark.parametrize("option", [0x01, 0x02, 0x03])
def test_a_wipe_forgets_the_network_and_keeps_address_role_and_counter(
    product: int, option: int
) -> None:
    memory = nv.factory(product, IEEE)
    memory.enter_network(NIB, NetworkKey(1, KEY), DEVICE)
    memory.keep_frame_counter(EXTENDED_PAN, 5000)
    memory.keep_address(nv.AddressRow(nv.ASSOCIATED, 0x2222, DEVICE))
    memory.keep_link_key(DEVICE, KEY)
    memory.put((0, Item.LOGICAL_TYPE), b"\x02")
    memory.put((0, Item.HAS_CONFIGURED_ZSTACK3), b"\x55")
    memory.put((0, Item.STARTUP_OPTION), bytes((option,)))
    memory.start()
    assert not memory.on_network
    assert memory.nib is None
    assert memory.network_key() == NetworkKey(0, bytes(16))
    assert memory.link_key(DEVICE) is None
    assert list(memory.addresses()) == []
    assert memory.ieee == IEEE
    assert memory.octet(Item.LOGICAL_TYPE) == 2
    assert memory.octet(Item.HAS_CONFIGURED_ZSTACK3) == 0x55
    assert memory.item(Item.STARTUP_OPTION) == b"\x00"
    assert memory.frame_counter(EXTENDED_PAN) == 5000  # a counter must never be used twice


@PRODUCTS
def test_the_counter_is_forgotten_when_its_own_bit_says_so(product: int) -> None:
    memory = nv.factory(product, IEEE)
    memory.keep_frame_counter(EXTENDED_PAN, 5000)
    memory.put((0, Item.STARTUP_OPTION), b"\x83")
    memory.start()
    assert memory.frame_counter(EXTENDED_PAN) == 0


@PRODUCTS
def test_a_deleted_address_is_made_again_from_the_hardware(product: int) -> None:
    memory = nv.factory(product, IEEE)
    memory.put((0, Item.EXTADDR), DEVICE)
    memory.start()
    assert memory.ieee == DEVICE
    memory.delete((0, Item.EXTADDR))
    memory.start()
    assert memory.ieee == IEEE


@PRODUCTS
def test_link_keys_are_set_changed_and_removed_without_touching_the_others(product: int) -> None:
    memory = nv.factory(product, IEEE)
    partners = [bytes((n,)) * 8 for n in range(1, 20)]
    kept = [memory.keep_link_key(partner, partner * 2) for partner in partners]
    assert kept == [True] * 16 + [False] * 3  # the table is full, and says so
    assert memory.keep_link_key(partners[3], KEY)
    assert memory.forget_link_key(partners[5])
    assert not memory.forget_link_key(partners[5])
    assert memory.link_key(partners[3]) == KEY
    assert memory.link_key(partners[5]) is None
    others = [n for n in range(16) if n not in (3, 5)]
    assert [memory.link_key(partners[n]) for n in others] == [partners[n] * 2 for n in others]


def test_an_address_row_is_replaced_freed_and_used_again() -> None:
    memory = nv.factory(1, IEEE)
    first = memory.keep_address(nv.AddressRow(1, 0x1111, DEVICE))
    again = memory.keep_address(nv.AddressRow(1, 0x2222, DEVICE))
    assert first == again
    memory.forget_address(DEVICE)
    assert list(memory.addresses()) == []
    for n in range(64):
        assert memory.keep_address(nv.AddressRow(1, n, bytes((n, 9)) * 4)) is not None
    assert memory.keep_address(nv.AddressRow(1, 0x3333, DEVICE)) is None


def test_install_code_keys_are_kept_by_joiner() -> None:
    memory = nv.factory(1, IEEE)
    memory.keep_install_code_key(DEVICE, KEY)
    memory.keep_install_code_key(IEEE, KEY[::-1])
    memory.keep_install_code_key(DEVICE, bytes(16))
    assert memory.install_code_key(DEVICE) == bytes(16)
    assert memory.install_code_key(IEEE) == KEY[::-1]


def test_the_file_gives_back_what_was_told_and_nothing_torn(tmp_path: Path) -> None:
    path = tmp_path / "stick.nv"
    file = NvFile(path)
    memory = file.open(nv.factory(1, IEEE))
    memory.enter_network(NIB, NetworkKey(1, KEY), DEVICE)
    memory.put((0, Item.PANID), b"\x12\x34")
    memory.delete((0, Item.USERDESC))
    file.append(memory.take_changes())
    told = dict(memory.values())
    memory.put((0, Item.PANID), b"\x56\x78")
    file.append(memory.take_changes())
    file.close()
    whole = path.read_bytes()
    last = whole.rstrip(b"\n").rfind(b"\n") + 1
    for cut in range(last, len(whole)):
        path.write_bytes(whole[:cut])
        again = NvFile(path)
        assert again.open(nv.factory(1, DEVICE)).values() == told
        again.close()


def test_a_new_file_holds_the_factory_image(tmp_path: Path) -> None:
    path = tmp_path / "stick.nv"
    for _ in range(2):
        file = NvFile(path)
        memory = file.open(nv.factory(2, IEEE))
        file.close()
        assert (memory.product, memory.ieee) == (2, IEEE)
        assert memory.values() == nv.factory(2, IEEE).values()


def test_a_file_of_another_product_or_shape_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "stick.nv"
    NvFile(path).open(nv.factory(2, IEEE))
    with pytest.raises(ConfigError, match="of product 2, expected 1"):
        NvFile(path).open(nv.factory(1, IEEE))
    path.write_text(json.dumps({"LEGACY": {}}) + "\n")
    with pytest.raises(ConfigError, match=r"stick\.nv"):
        NvFile(path).open(nv.factory(1, IEEE))
    with pytest.raises(EnvironmentFailure):
        NvFile(tmp_path).open(nv.factory(1, IEEE))
