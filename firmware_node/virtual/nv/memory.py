"""The stick's NV memory: what hosts read and write, and what the stick itself keeps there.

Every value has a key ``(table, row)``; ordinary items are table 0. Product 1 (CC2652) keeps tables
of rows, product 2 (CC2531) keeps them in ordinary items. Hosts read and write the values as they
are; the stick works through the typed methods. Source: zigbee-znp.md 2, 3.1, 3.2.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Final

from firmware_node.virtual.nv.factory import MATERIAL_ROWS, Key, factory_values
from firmware_node.virtual.nv.items import NETWORK_ITEMS, NETWORK_TABLES, Item, Table
from firmware_node.virtual.nv.structs import (
    ADDRESS,
    AUTHENTICATED,
    EMPTY_IEEE,
    KEY_DATA,
    KEY_DESC,
    KEY_ROWS,
    LINK_HEAD,
    LINK_ROW,
    MATERIAL,
    NIB,
    NO_IEEE,
    NWKKEY,
    PROVISIONAL,
    SECURED,
    TCLK,
    VERIFIED,
    AddressRow,
    NetworkKey,
    Nib,
    decode_nib,
    encode_nib,
)

DEFAULT_LINK_KEY: Final = b"ZigBeeAlliance09"
CLEAR_CONFIG, CLEAR_STATE, CLEAR_FRAME_COUNTER = 0x01, 0x02, 0x80  # STARTUP_OPTION


class NvMemory:
    """The values, and what changed since ``take_changes``.

    Attributes:
        generation: goes up with every change, for what is kept of the values elsewhere.
    """

    def __init__(self, product: int, hardware_ieee: bytes, values: Mapping[Key, bytes]) -> None:
        self.product = product
        self.hardware_ieee = hardware_ieee
        self._values = dict(values)
        self._changes: dict[Key, bytes | None] = {}
        self.generation = 0

    # --- what host commands do ------------------------------------------------------------------

    def get(self, key: Key) -> bytes | None:
        """The value; None: no such item."""
        return self._values.get(key)

    def put(self, key: Key, value: bytes) -> None:
        """Create or replace."""
        if self._values.get(key) != value:
            self._values[key] = value
            self._changes[key] = value
            self.generation += 1

    def delete(self, key: Key) -> bool:
        """Whether it was there."""
        if self._values.pop(key, None) is None:
            return False
        self._changes[key] = None
        self.generation += 1
        return True

    def values(self) -> Mapping[Key, bytes]:
        """Everything."""
        return self._values

    def take_changes(self) -> Mapping[Key, bytes | None]:
        """What was put and deleted (None) since the last call."""
        changes, self._changes = self._changes, {}
        return changes

    # --- what the stick does ----------------------------------------------------------------------

    def start(self) -> None:
        """Begin as a stack does: obey STARTUP_OPTION, then make what is missing."""
        option = self.octet(Item.STARTUP_OPTION)
        if option & (CLEAR_CONFIG | CLEAR_STATE):
            self._forget_network(kept=frozenset())
        if option & CLEAR_FRAME_COUNTER:
            for key in self._material_keys():
                self.put(key, bytes(MATERIAL.size))
        self.put((0, Item.STARTUP_OPTION), b"\x00")
        # A stack creates what it misses: an address that a host deleted, a table not yet made.
        for key, value in factory_values(self.product, self.hardware_ieee).items():
            if key not in self._values:
                self.put(key, value)

    def item(self, item: int) -> bytes | None:
        """An ordinary item."""
        return self._values.get((0, item))

    def octet(self, item: int, default: int = 0) -> int:
        """The first octet of an item."""
        value = self._values.get((0, item))
        return value[0] if value else default

    def number(self, item: int, default: int = 0) -> int:
        """An item as a little-endian number."""
        value = self._values.get((0, item))
        return default if value is None else int.from_bytes(value, "little")

    @property
    def ieee(self) -> bytes:
        """The EUI-64 that a start gives the stick, as it travels; a blank one is none."""
        value = self.item(Item.EXTADDR)
        blank = value is None or len(value) != 8 or value == EMPTY_IEEE
        return self.hardware_ieee if blank or value is None else value

    @property
    def nib(self) -> Nib | None:
        """The network information base; None: no network was ever entered."""
        value = self.item(Item.NIB)
        if value is None or len(value) != NIB[self.product].size:
            return None
        return decode_nib(value, self.product)

    def put_nib(self, nib: Nib) -> None:
        """Write the network information base."""
        self.put((0, Item.NIB), encode_nib(nib, self.product))

    def enter_network(self, nib: Nib, key: NetworkKey, trust_centre: bytes) -> None:
        """Keep a network that was formed or joined."""
        self.put_nib(nib)
        self.put((0, Item.EXTENDED_PAN_ID), nib.extended_pan)
        self.put((0, Item.TRUSTCENTER_ADDR), trust_centre)
        self.put((0, Item.NWK_ACTIVE_KEY_INFO), KEY_DESC.pack(*key))
        self.put((0, Item.NWK_ALTERN_KEY_INFO), KEY_DESC.pack(*key))
        counter = self.frame_counter(nib.extended_pan)
        self.put((0, Item.NWKKEY), NWKKEY[self.product].pack(*key, counter))
        self.keep_frame_counter(nib.extended_pan, counter)
        self.put((0, Item.BDBNODEISONANETWORK), b"\x01")

    def leave_network(self) -> None:
        """Forget the network, as STARTUP_OPTION's state bit does, but not the configuration."""
        self._forget_network(
            kept={Item.PANID, Item.CHANLIST, Item.PRECFGKEY, Item.PRECFGKEYS_ENABLE}
        )

    def _forget_network(self, kept: Collection[int]) -> None:
        fresh = factory_values(self.product, self.hardware_ieee)
        for key in [key for key in (*self._values, *fresh) if _is_network(key)]:
            if key[0] == 0 and key[1] in kept:
                continue
            if key in fresh:
                self.put(key, fresh[key])
            else:
                self.delete(key)

    @property
    def on_network(self) -> bool:
        """Whether a start shall go on in the stored network."""
        nib = self.nib
        return (
            nib is not None
            and nib.channel != 0
            and nib.key_loaded
            and self.octet(Item.BDBNODEISONANETWORK) == 1
        )

    def network_key(self, item: Item = Item.NWK_ACTIVE_KEY_INFO) -> NetworkKey:
        """The active network key, or the alternate one."""
        value = self.item(item) or bytes(KEY_DESC.size)
        return NetworkKey(*KEY_DESC.unpack(value[: KEY_DESC.size]))

    def _material_keys(self) -> list[Key]:
        table = Table.NWK_SEC_MATERIAL_TABLE
        if self.product == 2:
            start = Item.LEGACY_NWK_SEC_MATERIAL_TABLE_START
            keys = [(0, start + row) for row in range(12)]
        else:
            keys = [(int(table), row) for row in range(MATERIAL_ROWS)]
        return [key for key in keys if key in self._values]

    def frame_counter(self, extended_pan: bytes) -> int:
        """The outgoing network frame counter last kept for this network."""
        for key in self._material_keys():
            counter, pan = MATERIAL.unpack(self._values[key])
            if pan == extended_pan:
                return int(counter)
        return 0

    def keep_frame_counter(self, extended_pan: bytes, counter: int) -> None:
        """Write it into this network's row, or a free one, or the first."""
        keys = self._material_keys()
        pans = [self._values[key][4:] for key in keys]
        row = 0
        for wanted in (extended_pan, NO_IEEE):
            if wanted in pans:
                row = pans.index(wanted)
                break
        self.put(keys[row], MATERIAL.pack(counter, extended_pan))

    # --- addresses --------------------------------------------------------------------------------

    def addresses(self) -> Iterator[tuple[int, AddressRow]]:
        """The rows in use, with their numbers."""
        for row, octets in self._address_octets():
            found = self._read_address(octets)
            if found.ieee not in (NO_IEEE, EMPTY_IEEE):
                yield row, found

    def keep_address(self, wanted: AddressRow) -> int | None:
        """Write a row for this EUI-64, replacing its old one; its number, or None: table full."""
        free = None
        for row, octets in self._address_octets():
            found = self._read_address(octets)
            if found.ieee == wanted.ieee:
                self._put_address(row, wanted)
                return row
            if free is None and found.ieee in (NO_IEEE, EMPTY_IEEE):
                free = row
        if free is not None:
            self._put_address(free, wanted)
        return free

    def forget_address(self, ieee: bytes) -> None:
        """Empty the row of this EUI-64."""
        for row, found in list(self.addresses()):
            if found.ieee == ieee:
                users = 0xFF if self.product == 1 else 0x00
                self._put_address(row, AddressRow(users, 0xFFFF, EMPTY_IEEE))

    def _read_address(self, octets: bytes) -> AddressRow:
        fields = ADDRESS[self.product].unpack(octets)
        return AddressRow(fields[0], fields[-2], fields[-1])

    def _address_octets(self) -> Iterator[tuple[int, bytes]]:
        size = ADDRESS[self.product].size
        if self.product == 1:
            row = 0
            while (octets := self._values.get((Table.ADDRMGR, row))) is not None:
                if len(octets) == size:
                    yield row, octets
                row += 1
            return
        octets = self.item(Item.ADDRMGR) or b""
        for at in range(0, len(octets) - size + 1, size):
            yield at // size, octets[at : at + size]

    def _put_address(self, row: int, value: AddressRow) -> None:
        if self.product == 1:
            self.put((Table.ADDRMGR, row), ADDRESS[1].pack(value.users, 0xFF, *value[1:]))
            return
        whole, size = bytearray(self.item(Item.ADDRMGR) or b""), ADDRESS[2].size
        whole[row * size : (row + 1) * size] = ADDRESS[2].pack(*value)
        self.put((0, Item.ADDRMGR), bytes(whole))

    # --- link keys --------------------------------------------------------------------------------

    def link_key(self, ieee: bytes) -> bytes | None:
        """The key with this partner: the one set by the host, or the trust centre link key."""
        for _, data_key, partner in self._link_rows():
            if partner == ieee:
                return self._values[data_key][:16]
        tclk = self._tclk_of(ieee)
        return None if tclk is None else self._tclk_key(tclk)

    def link_keys(self) -> Iterator[tuple[str, bytes]]:
        """Every link key here, with a label that says whose it is."""
        for _, data_key, partner in self._link_rows():
            yield f"link key {partner[::-1].hex()}", self._values[data_key][:16]
        for (table, _), value in self._values.items():
            if table == Table.TCLK_IC_TABLE:
                yield f"install code {value[:8][::-1].hex()}", value[8:]
        for key in self._tclk_keys():
            partner = TCLK[self.product].unpack(self._values[key])[2]
            found = None if partner in (NO_IEEE, EMPTY_IEEE) else self._tclk_key(key)
            if found is not None:
                yield f"trust centre link key {partner[::-1].hex()}", found

    def link_counters(self, ieee: bytes) -> tuple[int, int]:
        """Of the key with this partner: the next one to send, the least to accept."""
        for _, data_key, partner in self._link_rows():
            if partner == ieee:
                _, sent, heard = KEY_DATA.unpack(self._values[data_key])
                return sent, heard
        tclk = self._tclk_of(ieee)
        if tclk is None:
            return 0, 0
        sent, heard, *_ = TCLK[self.product].unpack(self._values[tclk])
        return sent, heard

    def keep_link_counters(self, ieee: bytes, sent: int, heard: int) -> None:
        """Write them beside their key."""
        for _, data_key, partner in self._link_rows():
            if partner == ieee:
                key, _, _ = KEY_DATA.unpack(self._values[data_key])
                self.put(data_key, KEY_DATA.pack(key, sent, heard))
                return
        tclk = self._tclk_of(ieee)
        if tclk is not None:
            _, _, *rest = TCLK[self.product].unpack(self._values[tclk])
            self.put(tclk, TCLK[self.product].pack(sent, heard, *rest))

    def keep_link_key(self, ieee: bytes, key: bytes) -> bool:
        """Set the link key with a partner; False: the tables are full."""
        for _, data_key, partner in self._link_rows():
            if partner == ieee:
                if self._values[data_key][:16] != key:  # the same key's counters must go on
                    self.put(data_key, KEY_DATA.pack(key, 0, 0))
                return True
        known = {row.ieee: row for _, row in self.addresses()}
        old = known.get(ieee, AddressRow(0, 0xFFFE, ieee))
        address_row = self.keep_address(old._replace(users=old.users | SECURED))
        taken = {data_key for _, data_key, _ in self._link_rows()}
        free = next((one for one in self._key_data_keys() if one not in taken), None)
        rows = [row for row, _, _ in self._link_rows()]
        if address_row is None or free is None or len(rows) >= KEY_ROWS:
            return False
        self.put(free, KEY_DATA.pack(key, 0, 0))
        number = free[1]  # a row of its table, or for packed structs the item itself
        self._put_link_rows([*rows, (address_row, number, AUTHENTICATED)])
        return True

    def forget_link_key(self, ieee: bytes) -> bool:
        """Remove the link key with a partner; whether there was one."""
        kept, found = [], False
        for row, data_key, partner in self._link_rows():
            if partner == ieee:
                self.put(data_key, bytes(KEY_DATA.size))
                found = True
            else:
                kept.append(row)
        if found:
            self._put_link_rows(kept)
        return found

    def _link_rows(self) -> list[tuple[tuple[int, int, int], Key, bytes]]:
        """Rows of the link key table, the key of each one's data, and its partner."""
        octets, layout = self.item(Item.APS_LINK_KEY_TABLE) or b"\0\0", LINK_ROW[self.product]
        count = min(LINK_HEAD.unpack_from(octets)[0], (len(octets) - 2) // layout.size)
        addresses = {row: found.ieee for row, found in self.addresses()}
        rows = []
        for number in range(count):
            row = layout.unpack_from(octets, 2 + number * layout.size)
            data_key = (0 if self.product == 2 else int(Table.APS_KEY_DATA_TABLE), row[1])
            if row[0] in addresses and data_key in self._values:
                rows.append((row, data_key, addresses[row[0]]))
        return rows

    def _put_link_rows(self, rows: list[tuple[int, int, int]]) -> None:
        layout = LINK_ROW[self.product]
        octets = LINK_HEAD.pack(len(rows)) + b"".join(layout.pack(*row) for row in rows)
        self.put((0, Item.APS_LINK_KEY_TABLE), octets.ljust(2 + KEY_ROWS * layout.size, b"\0"))

    def _key_data_keys(self) -> list[Key]:
        return self._rows(Table.APS_KEY_DATA_TABLE, Item.LEGACY_APS_LINK_KEY_DATA_START, 0xFF)

    def _tclk_keys(self) -> list[Key]:
        return self._rows(Table.TCLK_TABLE, Item.LEGACY_TCLK_TABLE_START, 0xEF)

    def _rows(self, table: Table, start: Item, count_max: int) -> list[Key]:
        keys, row = [], 0
        while row < count_max:
            key = (int(table), row) if self.product == 1 else (0, start + row)
            if key not in self._values:
                break
            keys.append(key)
            row += 1
        return keys

    # --- trust centre link keys -------------------------------------------------------------------

    def seeded_key(self, ieee: bytes, shift: int) -> bytes:
        """The key that a trust centre makes for a joiner; only ``shift`` is kept of it."""
        seed = self.item(Item.TCLK_SEED) or bytes(16)
        turned = seed[shift:] + seed[:shift]
        return bytes(a ^ b for a, b in zip(turned, 2 * ieee, strict=True))

    def keep_seeded_key(self, ieee: bytes, shift: int) -> bool:
        """Give a joiner its verified key; False: the table is full."""
        return self._put_tclk(ieee, VERIFIED, shift)

    def keep_joined_key(self, trust_centre: bytes, key: bytes, attributes: int) -> bool:
        """A joiner's key with its trust centre; False: the table is full."""
        same = self.item(Item.TCLK_JOIN_DEV) == key
        self.put((0, Item.TCLK_JOIN_DEV), key)
        return self._put_tclk(trust_centre, attributes, 0, same=same)

    def has_verified_key(self, ieee: bytes) -> bool:
        """Whether this partner has gone through the key exchange."""
        tclk = self._tclk_of(ieee)
        return tclk is not None and TCLK[self.product].unpack(self._values[tclk])[3] == VERIFIED

    def forget_tclk(self, ieee: bytes) -> None:
        """Empty the row of this partner."""
        tclk = self._tclk_of(ieee)
        if tclk is not None:
            self.put(tclk, TCLK[self.product].pack(0, 0, NO_IEEE, 0xFF, 0, 0))

    def _put_tclk(self, ieee: bytes, attributes: int, shift: int, *, same: bool = False) -> bool:
        """Write a row; counters go on for the same key, but the partner may begin again."""
        layout, row, sent = TCLK[self.product], self._tclk_of(ieee), 0
        if row is None:
            row = self._tclk_of(NO_IEEE) or self._tclk_of(EMPTY_IEEE)
        else:
            sent, _, _, old, _, old_shift = layout.unpack(self._values[row])
            sent = sent if same or (attributes, shift) == (old, old_shift) else 0
        if row is None:
            return False
        self.put(row, layout.pack(sent, 0, ieee, attributes, 0, shift))
        return True

    def _tclk_of(self, ieee: bytes) -> Key | None:
        for key in self._tclk_keys():
            value = self._values[key]
            if value[8:16] == ieee and len(value) == TCLK[self.product].size:
                return key
        return None

    def _tclk_key(self, row: Key) -> bytes | None:
        _, _, partner, attributes, _, shift = TCLK[self.product].unpack(self._values[row])
        joined = self.item(Item.TCLK_JOIN_DEV)
        if joined is not None and partner == self.item(Item.TRUSTCENTER_ADDR):
            return joined
        if attributes == PROVISIONAL:
            return self.install_code_key(partner)
        return self.seeded_key(partner, shift)

    # --- install codes ----------------------------------------------------------------------------

    def keep_provisional(self, ieee: bytes) -> None:
        """A joiner was let in by its install code: what is secured with that key is counted."""
        self._put_tclk(ieee, PROVISIONAL, 0, same=True)

    def install_code_key(self, ieee: bytes) -> bytes | None:
        """The key a trust centre was given for this joiner."""
        for (table, _), value in self._values.items():
            if table == Table.TCLK_IC_TABLE and value[:8] == ieee:
                return value[8:]
        return None

    def keep_install_code_key(self, ieee: bytes, key: bytes) -> None:
        """Keep it for when the joiner comes."""
        rows = {row: value for (table, row), value in self._values.items() if table == 5}
        row = next((row for row, value in rows.items() if value[:8] == ieee), None)
        row = next(n for n in range(len(rows) + 1) if n not in rows) if row is None else row
        self.put((Table.TCLK_IC_TABLE, row), ieee + key)


def factory(product: int, ieee: bytes) -> NvMemory:
    """A stick as it leaves the factory."""
    return NvMemory(product, ieee, factory_values(product, ieee))


def _is_network(key: Key) -> bool:
    table, row = key
    if table:
        return table in NETWORK_TABLES
    tables = (Item.LEGACY_TCLK_TABLE_START, Item.LEGACY_APS_LINK_KEY_DATA_START)
    return row in NETWORK_ITEMS or any(start <= row < start + 0xF0 for start in tables)
