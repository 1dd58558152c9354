"""SYS, UTIL and the rest of the commands that only look at the stick or its memory.

An extended NV command is an RPC error on product 2: hosts tell the products apart by that.
Source: zigbee-znp.md 2, 3.1, 3.3.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from firmware_node.virtual.nv import ASSOCIATED_DEVICE, EMPTY_IEEE, NO_IEEE, Item
from firmware_node.virtual.stick.board import Board
from firmware_node.virtual.stick.life import Life
from firmware_node.virtual.stick.link import Link
from firmware_node.virtual.stick.parent import Parent
from firmware_node.wire import mt
from firmware_node.wire.mt import Capability, Cmd, Status

TRANSPORT, MAJOR, MINOR, MAINTENANCE = 2, 2, 7, 1
CAPABILITIES = (
    Capability.SYS
    | Capability.AF
    | Capability.ZDO
    | Capability.UTIL
    | Capability.GP
    | Capability.APP_CNF
)
READ_MAX = 246  # octets of one answer
NV_SYSTEM = 1  # Z-Stack's own items
RX_ON_WHEN_IDLE = 1  # of STACK_TUNE
_OK = b"\x00"
_REFUSED = bytes((Status.INVALID_PARAMETER,))

Handler = Callable[..., bytes | None]


class System:
    """Handlers by command."""

    def __init__(self, board: Board, link: Link, life: Life, parent: Parent) -> None:
        self._board = board
        self._link = link
        self._life = life
        self._parent = parent
        self._rx_on = 1
        self.handlers: dict[int, Handler] = {
            Cmd.SYS_PING: lambda: int(CAPABILITIES).to_bytes(2, "little"),
            Cmd.SYS_VERSION: self._version,
            Cmd.SYS_GET_EXT_ADDR: lambda: link.ieee,
            Cmd.SYS_OSAL_NV_ITEM_INIT: self._nv_init,
            Cmd.SYS_OSAL_NV_READ: self._nv_read,
            Cmd.SYS_OSAL_NV_READ_EXT: self._nv_read,
            Cmd.SYS_OSAL_NV_WRITE: self._nv_write,
            Cmd.SYS_OSAL_NV_WRITE_EXT: self._nv_write,
            Cmd.SYS_OSAL_NV_DELETE: self._nv_delete,
            Cmd.SYS_OSAL_NV_LENGTH: self._nv_length,
            Cmd.SYS_RANDOM: lambda: board.random.randbytes(2),
            Cmd.SYS_STACK_TUNE: self._tune,
            Cmd.SYS_SET_TX_POWER: lambda *_: _OK,
            Cmd.ZDO_SET_LINK_KEY: self._set_link_key,
            Cmd.ZDO_SEC_ADD_LINK_KEY: self._set_link_key,
            Cmd.ZDO_REMOVE_LINK_KEY: self._remove_link_key,
            Cmd.ZDO_GET_LINK_KEY: self._get_link_key,
            Cmd.ZDO_EXT_ROUTE_DISC: lambda *_: _OK,
            Cmd.ZDO_EXT_ROUTE_CHK: lambda *_: _OK,
            Cmd.ZDO_EXT_RX_IDLE: lambda *_: _OK,
            Cmd.ZDO_EXT_NWK_INFO: self._network_info,
            Cmd.UTIL_GET_DEVICE_INFO: self._device_info,
            Cmd.UTIL_LED_CONTROL: lambda *_: _OK,
            Cmd.UTIL_DATA_REQ: lambda *_: _OK,
            Cmd.UTIL_ADDRMGR_EXT_ADDR_LOOKUP: self._short_of,
            Cmd.UTIL_ADDRMGR_NWK_ADDR_LOOKUP: self._ieee_of,
            Cmd.UTIL_APSME_LINK_KEY_DATA_GET: self._link_key_data,
            Cmd.UTIL_ASSOC_COUNT: lambda *_: len(parent.children).to_bytes(2, "little"),
            Cmd.UTIL_ASSOC_FIND_DEVICE: self._associated_device,
            Cmd.UTIL_ASSOC_GET_WITH_ADDRESS: self._associated_with,
            Cmd.UTIL_ASSOC_REMOVE: lambda *_: _OK,
            Cmd.UTIL_ASSOC_ADD: lambda *_: _OK,
            Cmd.APP_CNF_SET_ALLOW_REJOIN_TC_POLICY: lambda *_: _OK,
        }
        if board.nv.product == 1:
            self.handlers |= {
                Cmd.SYS_NV_CREATE: self._ext_create,
                Cmd.SYS_NV_DELETE: self._ext_delete,
                Cmd.SYS_NV_LENGTH: self._ext_length,
                Cmd.SYS_NV_READ: self._ext_read,
                Cmd.SYS_NV_WRITE: self._ext_write,
            }

    def tell_reset(self, reason: int) -> None:
        """SYS_RESET_IND."""
        product = self._board.nv.product
        data = bytes((reason, TRANSPORT, product, MAJOR, MINOR, MAINTENANCE))
        self._board.tell(Cmd.SYS_RESET_IND, data)

    def _version(self) -> bytes:
        revision = self._board.settings.revision.to_bytes(4, "little")
        product = self._board.nv.product
        return bytes((TRANSPORT, product, MAJOR, MINOR, MAINTENANCE)) + revision

    def _tune(self, operation: int, value: int) -> bytes:
        """Receiver-on-when-idle is set by 0 and 1 and read by anything else."""
        if operation != RX_ON_WHEN_IDLE:
            return bytes((value,))
        if value in (0, 1):
            self._rx_on = value
        return bytes((self._rx_on,))

    # --- NV memory --------------------------------------------------------------------------------

    def _nv_init(self, item: int, size: int, value: bytes) -> bytes:
        nv = self._board.nv
        if nv.item(item) is not None:
            return _OK
        nv.put((0, item), value[:size].ljust(size, b"\xff"))
        return bytes((Status.NV_ITEM_UNINIT,))

    def _nv_read(self, item: int, offset: int) -> bytes:
        value = self._board.nv.item(item)
        if item == Item.POLL_RATE_OLD16:
            value = (self._board.nv.item(Item.POLL_RATE) or bytes(2))[:2]
        if value is None or offset >= len(value) > 0:
            return _REFUSED + b"\x00"
        part = value[offset : offset + READ_MAX]
        return bytes((Status.SUCCESS, len(part))) + part

    def _nv_write(self, item: int, offset: int, part: bytes) -> bytes:
        return self._write((0, item), offset, part)

    def _write(self, key: tuple[int, int], offset: int, part: bytes) -> bytes:
        old = self._board.nv.get(key)
        if old is None:
            return _REFUSED
        if offset + len(part) > len(old):
            return bytes((Status.NV_BAD_LENGTH,))
        self._board.nv.put(key, old[:offset] + part + old[offset + len(part) :])
        return _OK

    def _nv_delete(self, item: int, size: int) -> bytes:
        value = self._board.nv.item(item)
        if value is None:
            return bytes((Status.NV_ITEM_UNINIT,))
        if len(value) != size:
            return bytes((Status.NV_BAD_LENGTH,))
        self._board.nv.delete((0, item))
        return _OK

    def _nv_length(self, item: int) -> bytes:
        return len(self._board.nv.item(item) or b"").to_bytes(2, "little")

    def _ext_create(self, system: int, item: int, row: int, size: int) -> bytes:
        if system != NV_SYSTEM or not 0 < size <= 0xFFF:
            return _REFUSED
        if self._board.nv.get((item, row)) is not None:
            return _OK
        self._board.nv.put((item, row), b"\xff" * size)
        return bytes((Status.NV_ITEM_UNINIT,))

    def _ext_delete(self, system: int, item: int, row: int) -> bytes:
        if system != NV_SYSTEM or not self._board.nv.delete((item, row)):
            return bytes((Status.NV_ITEM_UNINIT,))
        return _OK

    def _ext_length(self, system: int, item: int, row: int) -> bytes:
        value = self._board.nv.get((item, row)) if system == NV_SYSTEM else None
        return len(value or b"").to_bytes(4, "little")

    def _ext_read(self, system: int, item: int, row: int, offset: int, size: int) -> bytes:
        value = self._board.nv.get((item, row)) if system == NV_SYSTEM else None
        if value is None or offset >= len(value):
            return _REFUSED + b"\x00"
        part = value[offset : offset + min(size, READ_MAX)]
        return bytes((Status.SUCCESS, len(part))) + part

    def _ext_write(self, system: int, item: int, row: int, offset: int, part: bytes) -> bytes:
        return self._write((item, row), offset, part) if system == NV_SYSTEM else _REFUSED

    # --- link keys --------------------------------------------------------------------------------

    def _set_link_key(self, short: int, ieee: bytes, key: bytes) -> bytes:
        if short < 0xFFF8 and ieee not in (NO_IEEE, EMPTY_IEEE):
            self._link.neighbours[short] = ieee
        kept = self._board.nv.keep_link_key(ieee, key)
        return _OK if kept else bytes((Status.MEM_ERROR,))

    def _remove_link_key(self, ieee: bytes) -> bytes:
        return _OK if self._board.nv.forget_link_key(ieee) else bytes((Status.FAILURE,))

    def _get_link_key(self, ieee: bytes) -> bytes:
        key = self._board.nv.link_key(ieee)
        status = Status.FAILURE if key is None else Status.SUCCESS
        return bytes((status,)) + ieee + (key or bytes(16))

    def _link_key_data(self, ieee: bytes) -> bytes:
        key = self._board.nv.link_key(ieee)
        status = Status.FAILURE if key is None else Status.SUCCESS
        sent, heard = self._board.nv.link_counters(ieee)
        return bytes((status,)) + (key or bytes(16)) + struct.pack("<II", sent, heard)

    # --- who and where ----------------------------------------------------------------------------

    def _device_info(self) -> bytes:
        children = tuple(self._parent.children.values())[:16]
        short = self._link.short
        return mt.encode(
            Cmd.UTIL_GET_DEVICE_INFO | mt.RESPONSE,
            Status.SUCCESS,
            self._link.ieee,
            short,
            7,  # the roles that the firmware can play
            self._life.state,
            children,
        )

    def _network_info(self) -> bytes:
        nib = self._link.nib
        return mt.encode(
            Cmd.ZDO_EXT_NWK_INFO | mt.RESPONSE,
            nib.address,
            self._life.state,
            nib.pan,
            nib.parent,
            nib.extended_pan,
            nib.parent_ieee,
            nib.channel,
        )

    def _short_of(self, ieee: bytes) -> bytes:
        short = self._link.short_of(ieee)
        return (0xFFFE if short is None else short).to_bytes(2, "little")

    def _ieee_of(self, short: int) -> bytes:
        own = self._link.ieee if short == self._link.short else EMPTY_IEEE
        return self._link.neighbours.get(short, own)

    def _associated_device(self, index: int) -> bytes:
        """The struct as it lies in memory; its size is what hosts look at."""
        shorts = list(self._parent.children.values())
        short = shorts[index] if index < len(shorts) else 0xFFFE
        size = ASSOCIATED_DEVICE[self._board.nv.product]
        return (short.to_bytes(2, "little") + b"\xff\xff\xff").ljust(size, b"\x00")

    def _associated_with(self, _ieee: bytes, _short: int) -> bytes:
        """Never a relation: a host would remove it to find another route, and all are near."""
        size = 29 if self._board.nv.product == 1 else 28
        return b"\xfe\xff\xff\xff\xff".ljust(size, b"\x00")
