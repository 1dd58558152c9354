"""What a coordinator or router does for joiners and children: beacons, addresses, the network key.

Only the trust centre, which is the coordinator, hands out the key. A router that let a joiner in
tells the trust centre, and passes on the sealed key that comes back.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from firmware_node.virtual.air import Fate
from firmware_node.virtual.nv import ASSOCIATED, DEFAULT_LINK_KEY, AddressRow, Item
from firmware_node.virtual.stick.aps import Aps
from firmware_node.virtual.stick.board import SECOND, Board, Timer
from firmware_node.virtual.stick.exchange import Exchange
from firmware_node.virtual.stick.joiner import SETTLE_US, key_of
from firmware_node.virtual.stick.link import Link
from firmware_node.virtual.stick.zdo import Zdo
from firmware_node.wire import aps, mac, mt, nwk
from firmware_node.wire.mt import Cmd

PENDING_MAX = 16  # joiners at once; one that does not poll makes room for another
KEY_RETRIES = 20  # of the unsecured frame that carries the key; nothing above it repeats it
KEY_RETRY_US = 50_000
JOINED, REJOINED = 1, 0  # statuses of an Update Device command


class Parent:
    """Children and joiners of one stick."""

    def __init__(
        self, board: Board, link: Link, aps_layer: Aps, zdo: Zdo, exchange: Exchange
    ) -> None:
        self._board = board
        self._link = link
        self._aps = aps_layer
        self._exchange = exchange
        self.children: dict[bytes, int] = {}
        self._permits = False
        self._permit: Timer | None = None
        self._install_codes_only = False
        self._pending: dict[bytes, int] = {}  # joiners whose response waits for their poll
        exchange.on_refused = self._send_away
        zdo.on_permit = self.permit
        zdo.children = lambda: [(short, ieee) for ieee, short in self.children.items()]
        self.handlers: dict[int, Callable[..., bytes | None]] = {
            Cmd.APP_CNF_BDB_ADD_INSTALL_CODE: self._add_install_code,
            Cmd.APP_CNF_BDB_SET_JOIN_USES_INSTALL_CODE: self._set_install_codes_only,
        }

    def reset(self) -> None:
        """Children are in NV; nothing else survives."""
        self.children = {
            row.ieee: row.short
            for _, row in self._board.nv.addresses()
            if row.users != 0xFF and row.users & ASSOCIATED
        }
        self._permits = self._install_codes_only = False
        self._permit = None
        self._pending.clear()

    @property
    def is_coordinator(self) -> bool:
        """Whether this is the trust centre."""
        return self._link.short == 0x0000

    def permit(self, seconds: int) -> None:
        """Let joiners in for a time; 0: no more, 255: until told."""
        if self._permit is not None:
            self._permit.cancel()
            self._permit = None
        if self._link.end_device or not self._link.is_up:
            return
        self._permits = seconds > 0
        self._board.tell(Cmd.ZDO_PERMIT_JOIN_IND, bytes((seconds,)))
        if 0 < seconds < 255:
            self._permit = self._board.after(seconds * SECOND, lambda: self.permit(0))

    def on_associate(self, frame: mac.MacFrame) -> None:
        """A joiner wants an address; it gets the answer when it polls for it."""
        ieee = frame.source
        if not self._permits or not isinstance(ieee, bytes):
            return
        if len(self._pending) >= PENDING_MAX:
            del self._pending[next(iter(self._pending))]
        self._pending[ieee] = self.children.get(ieee) or self._free_address()

    def _free_address(self) -> int:
        taken = {*self._link.neighbours, *self.children.values()}
        while True:
            short = self._board.random.randrange(0x0001, 0xFFF8)
            if short not in taken:
                return short

    def on_poll(self, frame: mac.MacFrame) -> None:
        """Somebody asks for what waits here for it."""
        joiner = frame.source
        short = self._pending.get(joiner) if isinstance(joiner, bytes) else None
        if short is None or not isinstance(joiner, bytes):
            return  # a child's sign of life: its acknowledgement is the answer
        response = struct.pack("<BHB", mac.ASSOCIATION_RESPONSE, short, 0)
        octets = mac.encode(
            mac.MacFrame(
                mac.COMMAND,
                True,
                self._link.next_mac_sequence(),
                self._link.nib.pan,
                joiner,
                self._link.ieee,
                response,
            )
        )

        def on_fate(fate: Fate) -> None:
            if fate is Fate.ACKED:
                self._pending.pop(joiner, None)
            if fate is not Fate.ABSENT:  # without an acknowledgement it may have come all the same
                self._admit(joiner, short)

        self._board.transmit(octets, on_fate)

    def _admit(self, ieee: bytes, short: int) -> None:
        """An associated joiner: the trust centre gives it the network key, or we ask that to."""
        self._keep_child(ieee, short)
        # The joiner must first learn its address, so that its receiver takes what comes.
        self._board.after(SETTLE_US, lambda: self._admitted(ieee, short))

    def _admitted(self, ieee: bytes, short: int) -> None:
        if self.is_coordinator:
            self._send_key(ieee, short, parent=0x0000)
            return
        update = aps.encode_update_device(aps.UpdateDevice(ieee, short, JOINED))
        self._link.unicast(0x0000, self._aps.command_frame(update, None), None)

    def _keep_child(self, ieee: bytes, short: int) -> None:
        self.children[ieee] = short
        for old in [one for one, known in self._link.neighbours.items() if known == ieee]:
            del self._link.neighbours[old]
        self._link.neighbours[short] = ieee
        row = AddressRow(ASSOCIATED, short, ieee)
        if self._board.nv.keep_address(row) is None:
            self._board.counters["address_table_full"] += 1

    def _send_key(self, ieee: bytes, short: int, parent: int) -> None:
        """The trust centre's decision: seal the network key for a joiner, or leave it without."""
        nv = self._board.nv
        link_key = nv.install_code_key(ieee)
        if link_key is None and not self._install_codes_only and nv.octet(Item.USE_DEFAULT_TCLK):
            link_key = DEFAULT_LINK_KEY
        if link_key is None:
            self._board.counters["joiners_refused"] += 1
            self.forget(ieee)
            return
        # Keys of an earlier membership count no more.
        if link_key == DEFAULT_LINK_KEY:
            nv.forget_tclk(ieee)
        else:
            nv.keep_provisional(ieee)
        self._aps.begin_again(ieee)
        key = self._link.key
        command = aps.TransportKey(key.key, key.sequence, ieee, self._link.ieee)
        frame = self._aps.command_frame(aps.encode_transport_key(command), link_key)
        if parent == 0x0000:
            self._send_unsecured(short, frame, KEY_RETRIES)
        else:
            tunnel = aps.encode_tunnel(ieee, frame)
            self._link.unicast(parent, self._aps.command_frame(tunnel, None), None)
        self._link.neighbours[short] = ieee
        self._board.tell(Cmd.ZDO_TC_DEV_IND, mt.encode(Cmd.ZDO_TC_DEV_IND, short, ieee, parent))
        self._exchange.expect(ieee)

    def _send_away(self, ieee: bytes) -> None:
        """Have a joiner leave; its own news of that makes us forget it."""
        short = self._link.short_of(ieee)
        if short is not None:
            self._link.command(short, nwk.encode_leave(nwk.Leave(True, False, False)))

    def _send_unsecured(self, short: int, frame: bytes, retries: int) -> None:
        def on_fate(fate: Fate) -> None:
            if fate is not Fate.ACKED and retries:
                again = lambda: self._send_unsecured(short, frame, retries - 1)  # noqa: E731
                self._board.after(KEY_RETRY_US, again)

        self._link.unsecured(short, frame, on_fate)

    def forget(self, ieee: bytes) -> None:
        """A child that left, or that gets no key."""
        short = self.children.pop(ieee, None)
        if short is not None:
            self._link.neighbours.pop(short, None)
        self._board.nv.forget_address(ieee)
        self._board.nv.forget_tclk(ieee)

    def on_rejoin_request(self, header: nwk.Header) -> None:
        """A device that has the network key comes back, to us as its parent."""
        ieee = header.source_ieee
        if ieee is None:
            return
        self._keep_child(ieee, header.source)
        response = nwk.encode_rejoin_response(header.source, 0)
        self._link.command(header.source, response)
        if self.is_coordinator:
            data = mt.encode(Cmd.ZDO_TC_DEV_IND, header.source, ieee, 0x0000)
            self._board.tell(Cmd.ZDO_TC_DEV_IND, data)
        else:
            update = aps.encode_update_device(aps.UpdateDevice(ieee, header.source, REJOINED))
            self._link.unicast(0x0000, self._aps.command_frame(update, None), None)

    def send_beacon(self) -> None:
        """Answer a beacon request."""
        nib = self._link.nib
        if not self._link.is_up or self._link.end_device:
            return
        beacon = mac.Beacon(
            self._permits, self.is_coordinator, nib.depth, nib.extended_pan, nib.update_id
        )
        frame = mac.MacFrame(
            mac.BEACON,
            False,
            self._link.next_mac_sequence(),
            nib.pan,
            None,
            nib.address,
            mac.encode_beacon(beacon),
        )
        self._board.transmit(mac.encode(frame))

    def _on_update_device(self, router: int, update: aps.UpdateDevice) -> None:
        if update.status == JOINED:
            self._send_key(update.device, update.short, parent=router)
        elif update.status == REJOINED:
            self._link.neighbours[update.short] = update.device
            data = mt.encode(Cmd.ZDO_TC_DEV_IND, update.short, update.device, router)
            self._board.tell(Cmd.ZDO_TC_DEV_IND, data)

    def _add_install_code(self, kind: int, ieee: bytes, code: bytes) -> bytes:
        key = key_of(code, is_code=kind == 1)
        if key is None:
            return bytes((mt.Status.INVALID_PARAMETER,))
        self._board.nv.keep_install_code_key(ieee, key)
        return b"\x00"

    def _set_install_codes_only(self, only: int) -> bytes:
        self._install_codes_only = only != 0
        return b"\x00"

    def on_aps_command(self, header: nwk.Header, command: bytes) -> None:
        """Update Device, to the trust centre; Tunnel, from it."""
        if command[:1] == bytes((aps.UPDATE_DEVICE,)) and self.is_coordinator:
            self._on_update_device(header.source, aps.decode_update_device(command))
        elif command[:1] == bytes((aps.TUNNEL,)) and header.source == 0x0000:
            ieee, frame = aps.decode_tunnel(command)
            if ieee in self.children:
                self._send_unsecured(self.children[ieee], frame, KEY_RETRIES)
