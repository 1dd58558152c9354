"""The factory image: every item a blank stick has, made by us.

Which items there must be, and their sizes, are those of real dumps; the values are ours.
Source: zigbee-znp.md 3.2.
"""

from __future__ import annotations

from firmware_node.virtual.nv.items import Item, Table
from firmware_node.virtual.nv.structs import (
    ADDRESS,
    EMPTY_IEEE,
    KEY_DATA,
    KEY_ROWS,
    LINK_ROW,
    MATERIAL,
    NO_IEEE,
    NWKKEY,
    TCLK,
)

Key = tuple[int, int]  # table, row; ordinary items are table 0

# Each row costs a starting coordinator two round trips, so there are fewer than in real sticks.
ADDRESS_ROWS, TCLK_ROWS, MATERIAL_ROWS = 64, 32, 5


def factory_values(product: int, ieee: bytes) -> dict[Key, bytes]:
    """Every item a blank stick of this product has."""
    items: dict[int, bytes] = {
        Item.EXTADDR: ieee,
        Item.STARTUP_OPTION: b"\x00",
        Item.START_DELAY: b"\x0a",
        Item.DATA_RETRIES: b"\x02",
        Item.POLL_FAILURE_RETRIES: b"\x03",
        Item.STACK_PROFILE: b"\x02",
        Item.INDIRECT_MSG_TIMEOUT: b"\x07",
        Item.ROUTE_EXPIRY_TIME: b"\x1e",
        Item.EXTENDED_PAN_ID: ieee,
        Item.BCAST_RETRIES: b"\x02",
        Item.PASSIVE_ACK_TIMEOUT: b"\x05",
        Item.BCAST_DELIVERY_TIME: b"\x1e",
        Item.CONCENTRATOR_ENABLE: b"\x01",
        Item.CONCENTRATOR_DISCOVERY: b"\x78",
        Item.CONCENTRATOR_RADIUS: b"\x0a",
        Item.CONCENTRATOR_RC: b"\x01",
        Item.SRC_RTG_EXPIRY_TIME: b"\xff",
        Item.ROUTE_DISCOVERY_TIME: b"\x0d",
        Item.NWK_ACTIVE_KEY_INFO: bytes(17),
        Item.NWK_ALTERN_KEY_INFO: bytes(17),
        Item.ROUTER_OFF_ASSOC_CLEANUP: b"\x00",
        Item.NWK_LEAVE_REQ_ALLOWED: b"\x01",
        Item.NWK_CHILD_AGE_ENABLE: b"\x00",
        Item.APS_FRAME_RETRIES: b"\x03",
        Item.APS_ACK_WAIT_DURATION: b"\xf4\x01",  # 500 ms
        Item.APS_ACK_WAIT_MULTIPLIER: b"\x02",
        Item.BINDING_TIME: b"\x80\x3e",
        Item.APS_USE_EXT_PANID: NO_IEEE,
        Item.APS_USE_INSECURE_JOIN: b"\x01",
        Item.COMMISSIONED_NWK_ADDR: b"\xfe\xff",
        Item.APS_NONMEMBER_RADIUS: b"\x02",
        Item.APS_LINK_KEY_TABLE: bytes(2 + KEY_ROWS * LINK_ROW[product].size),
        Item.APS_DUPREJ_TIMEOUT_INC: b"\xe8\x03",
        Item.APS_DUPREJ_TIMEOUT_COUNT: b"\x0a",
        Item.APS_DUPREJ_TABLE_SIZE: b"\x05\x00",
        Item.NWK_PARENT_INFO: b"\x01",
        Item.NWK_ENDDEV_TIMEOUT_DEF: b"\x08",
        Item.END_DEV_CONFIGURATION: b"\x00",
        Item.BDBNODEISONANETWORK: b"\x00",
        Item.PRECFGKEY: bytes(16),  # none: a new network gets a random key
        Item.PRECFGKEYS_ENABLE: b"\x00",
        Item.APS_LINK_KEY_TYPE: b"\x01",
        Item.END_DEV_TIMEOUT_VALUE: b"\x08",
        Item.NWK_MGR_MODE: b"\x01",
        Item.SECURE_PERMIT_JOIN: b"\x01",
        Item.APS_ALLOW_R19_SECURITY: b"\x00",
        Item.USE_DEFAULT_TCLK: b"\x01",
        Item.TRUSTCENTER_ADDR: NO_IEEE,
        Item.USERDESC: bytes(17),
        Item.NWKKEY: bytes(NWKKEY[product].size),
        Item.PANID: b"\xff\xff",
        Item.CHANLIST: b"\x00\x88\x10\x02",  # channels 11, 15, 20, 25
        Item.SCAN_DURATION: b"\x04",
        Item.LOGICAL_TYPE: b"\x00",
        Item.NWKMGR_MIN_TX: b"\x14",
        Item.ZDO_DIRECT_CB: b"\x01",
        Item.SAPI_ENDPOINT: b"\xe0",
        Item.TCLK_SEED: bytes(range(1, 17)),
    }
    no_address = ADDRESS[2].pack(0, 0xFFFF, EMPTY_IEEE)
    no_tclk = TCLK[product].pack(0, 0, NO_IEEE, 0xFF, 0, 0)
    if product == 2:
        items |= {
            Item.POLL_RATE: b"\xe8\x03\x00\x00",
            Item.QUEUED_POLL_RATE: b"\x64\x00",
            Item.RESPONSE_POLL_RATE: b"\x64\x00",
            Item.REJOIN_POLL_RATE: b"\xb8\x01",
            Item.SECURITY_MODE: b"\x04",
            Item.NWK_MODE: b"\x02",
            Item.ADDRMGR: ADDRESS_ROWS * no_address,
            **_numbered(Item.LEGACY_NWK_SEC_MATERIAL_TABLE_START, 2, bytes(MATERIAL.size)),
            **_numbered(Item.LEGACY_TCLK_TABLE_START, TCLK_ROWS, no_tclk),
            **_numbered(Item.LEGACY_APS_LINK_KEY_DATA_START, KEY_ROWS, bytes(KEY_DATA.size)),
        }
        return {(0, int(item)): value for item, value in items.items()}
    items[Item.POLL_RATE] = b"\xb8\x0b\x00\x00" + bytes(36)
    values = {(0, int(item)): value for item, value in items.items()}
    for table, count, octets in (
        (Table.ADDRMGR, ADDRESS_ROWS, b"\xff" * ADDRESS[1].size),
        (Table.TCLK_TABLE, TCLK_ROWS, no_tclk),
        (Table.APS_KEY_DATA_TABLE, KEY_ROWS, bytes(KEY_DATA.size)),
        (Table.NWK_SEC_MATERIAL_TABLE, MATERIAL_ROWS, bytes(MATERIAL.size)),
    ):
        values |= {(int(table), row): octets for row in range(count)}
    return values


def _numbered(start: int, count: int, octets: bytes) -> dict[int, bytes]:
    return {start + row: octets for row in range(count)}
