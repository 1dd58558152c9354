"""The stick's life in a network: forming or joining it, going on in it, losing its parent, leaving.

A stick that was in a network goes on there: a coordinator and a router at once, an end device
after its parent has answered a rejoin request; without an answer it is an orphan and asks again,
ever more rarely. What the host is told, and in which order, is zigbee-znp.md 3.4 and 3.5.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace

from firmware_node.virtual.air import Fate
from firmware_node.virtual.nv import EMPTY_IEEE, NO_IEEE, Item, NetworkKey, Nib
from firmware_node.virtual.stick.aps import Aps
from firmware_node.virtual.stick.board import SECOND, Board, Timer
from firmware_node.virtual.stick.exchange import DONE, Exchange
from firmware_node.virtual.stick.joiner import (
    BDB_NO_NETWORK,
    END_DEVICE,
    SETTLE_US,
    Joiner,
    channels_of,
)
from firmware_node.virtual.stick.link import Link
from firmware_node.virtual.stick.parent import Parent
from firmware_node.virtual.stick.zdo import CAPABILITY, MGMT_PERMIT, Message, Zdo
from firmware_node.wire import mac, mt, nwk
from firmware_node.wire.mt import Cmd, DeviceState

COORDINATOR, ROUTER = 0, 1  # of LOGICAL_TYPE

# Commissioning modes of BDB_START_COMMISSIONING, statuses and modes of its notification.
STEERING, FORMATION = 0x02, 0x04
BDB_SUCCESS, BDB_IN_PROGRESS = 0x00, 0x01
BDB_FORMATION_FAILURE, BDB_RESTORED = 0x08, 0x0D
_TOLD_MODE = 2  # what notifications call formation and steering

STEERING_S = 180  # how long steering opens the network, bdbcMinCommissioningTime
RESPONSE_US = SECOND  # for a rejoin response
POLL_US = 3 * SECOND  # between two signs of life to the parent
ORPHAN_US = (1, 2, 4, 8, 16, 30)  # seconds between attempts to rejoin; the last one from then on


class Life:
    """Commissioning and what follows from it."""

    def __init__(
        self,
        board: Board,
        link: Link,
        aps_layer: Aps,
        zdo: Zdo,
        parent: Parent,
        exchange: Exchange,
    ) -> None:
        self._board = board
        self._link = link
        self._zdo = zdo
        self._parent = parent
        self._exchange = exchange
        self.state = DeviceState.INITIALIZED
        self._joiner = Joiner(
            board,
            link,
            role=lambda: self.role,
            state=lambda: self.state,
            set_state=self._enter,
            on_joined=self._on_joined,
            on_failed=self._on_failed,
        )
        self._waiting: Timer | None = None
        self._poll: Timer | None = None
        self._failed_polls = 0
        self._attempts = 0
        link.on_mac = self._on_mac
        link.on_command = self._on_command
        aps_layer.on_command = self._on_aps_command
        zdo.on_announce = self._on_announce
        zdo.on_leave = self._on_leave_request
        self.handlers: dict[int, Callable[..., bytes | None]] = {
            **self._joiner.handlers,
            Cmd.APP_CNF_BDB_START_COMMISSIONING: self._start_commissioning,
            Cmd.ZDO_STARTUP_FROM_APP: self._startup_from_app,
            Cmd.APP_CNF_BDB_ZED_RECOVER_NWK: self._recover,
        }

    def reset(self) -> None:
        """Off the air, everything but NV forgotten."""
        self.state = DeviceState.INITIALIZED
        self._joiner.reset()
        self._waiting = self._poll = None
        self._attempts = self._failed_polls = 0
        self._link.reset()

    @property
    def role(self) -> int:
        """What LOGICAL_TYPE says."""
        return self._zdo.role

    def _start_commissioning(self, mode: int) -> None:
        self._board.respond(Cmd.APP_CNF_BDB_START_COMMISSIONING)
        if self._board.nv.on_network:
            self._go_on()
            if mode & STEERING and self.role != END_DEVICE:
                self._parent.permit(STEERING_S)
                self._zdo.send(nwk.ROUTERS, MGMT_PERMIT, bytes((STEERING_S, 1)))
        elif mode & FORMATION and self.role == COORDINATOR:
            self._form()
        elif mode & STEERING and self.role != COORDINATOR:
            self._joiner.discover()
        else:
            self._notify(BDB_NO_NETWORK)

    def _startup_from_app(self, _: int) -> None:
        self._board.respond(Cmd.ZDO_STARTUP_FROM_APP)
        if self._board.nv.on_network:
            self._go_on()
        elif self.role == COORDINATOR:
            self._form()
        else:
            self._joiner.discover()

    def _recover(self) -> bytes | None:
        if self.role != END_DEVICE or not self._board.nv.on_network:
            return b"\x01"
        self._board.respond(Cmd.APP_CNF_BDB_ZED_RECOVER_NWK)
        self._attempts = 0
        self._rejoin()
        return None

    def _enter(self, state: DeviceState) -> None:
        self.state = state
        self._board.tell(Cmd.ZDO_STATE_CHANGE_IND, bytes((state,)))

    def _notify(self, status: int, mode: int = _TOLD_MODE, remaining: int = 0) -> None:
        self._board.tell(Cmd.APP_CNF_BDB_NOTIFICATION, bytes((status, mode, remaining)))

    def _wait(self, delay_us: int, call: Callable[[], None]) -> None:
        """The one thing that joining waits for; a new wait replaces the old."""
        if self._waiting is not None:
            self._waiting.cancel()
        self._waiting = self._board.after(delay_us, call)

    def _form(self) -> None:
        nv, rng = self._board.nv, self._board.random
        self._notify(BDB_IN_PROGRESS, remaining=FORMATION)
        self._enter(DeviceState.NOT_CONNECTED)
        self._enter(DeviceState.STARTING_COORDINATOR)
        channels = channels_of(self._joiner.masks()[0])
        if not channels:
            self._notify(BDB_FORMATION_FAILURE)
            return
        pan = nv.number(Item.PANID, 0xFFFF)
        extended_pan = nv.item(Item.APS_USE_EXT_PANID) or NO_IEEE
        key = nv.item(Item.PRECFGKEY) or bytes(16)
        nib = Nib(
            address=0x0000,
            channel=rng.choice(channels),
            parent=0x0000,
            parent_ieee=NO_IEEE,
            pan=rng.randrange(0x0001, 0xFFF0) if pan >= 0xFFFE else pan,
            state=8,
            channels=self._joiner.masks()[0],
            extended_pan=self._link.ieee if extended_pan in (NO_IEEE, EMPTY_IEEE) else extended_pan,
            key_loaded=True,
        )
        network_key = NetworkKey(0, rng.randbytes(16) if key == bytes(16) else key)
        nv.enter_network(nib, network_key, self._link.ieee)
        self._link.go_up(nib, network_key, end_device=False)
        self._enter(DeviceState.COORDINATOR)
        self._notify(BDB_SUCCESS)

    def _go_on(self) -> None:
        """Take up the stored network."""
        nv = self._board.nv
        nib = nv.nib
        assert nib is not None
        role = self.role
        self._link.go_up(nib, nv.network_key(), end_device=role == END_DEVICE)
        if role == COORDINATOR:
            self._enter(DeviceState.COORDINATOR)
            self._notify(BDB_RESTORED, mode=0, remaining=FORMATION)
            self._notify(BDB_SUCCESS, mode=FORMATION)
        elif role == ROUTER:
            self._restored()
        else:
            self._attempts = 0
            self._rejoin()

    def _on_joined(self, nib: Nib, key: NetworkKey, joining_key: bytes) -> None:
        """New in the network; what is left to do is the key exchange."""
        self._link.go_up(nib, key, end_device=self.role == END_DEVICE)
        self._enter_network()
        self._zdo.announce_self(CAPABILITY[self.role])
        self._exchange.start(joining_key, self._on_exchanged)

    def _on_exchanged(self, status: int) -> None:
        if status == DONE:
            self._notify(BDB_SUCCESS)
            return
        # A joiner that has no link key of its own must not stay.
        self._link.command(nwk.RX_ON, nwk.encode_leave(nwk.Leave(False, False, False)))
        self._forget_network()
        self._on_failed(status)

    def _on_failed(self, status: int) -> None:
        self._link.go_down()
        self._enter(DeviceState.NOT_CONNECTED)
        self._notify(status)

    def _restored(self) -> None:
        """In the network again."""
        self._enter_network()
        self._notify(BDB_RESTORED, mode=0)
        self._zdo.announce_self(CAPABILITY[self.role])

    def _enter_network(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
        self._attempts = self._failed_polls = 0
        if self.role != END_DEVICE:
            self._enter(DeviceState.ROUTER)
            return
        self._enter(DeviceState.END_DEVICE)
        self._schedule_poll()

    def _schedule_poll(self) -> None:
        if self._poll is not None:
            self._poll.cancel()
        self._poll = self._board.after(POLL_US, self._sign_of_life)

    def _sign_of_life(self) -> None:
        """A poll, unless the parent was heard anyway; three failures make an orphan."""
        if self.state is not DeviceState.END_DEVICE:
            return
        nib = self._link.nib
        if self._board.now_us - self._link.heard_from_parent_us < POLL_US:
            self._failed_polls = 0
            self._schedule_poll()
            return
        request = bytes((mac.DATA_REQUEST,))
        self._joiner.command(nib.pan, nib.parent, nib.address, request, self._on_polled)

    def _on_polled(self, fate: Fate) -> None:
        if self.state is not DeviceState.END_DEVICE:
            return
        if fate is Fate.ACKED:
            self._failed_polls = 0
        else:
            self._failed_polls += 1
        if self._failed_polls >= max(1, self._board.nv.octet(Item.POLL_FAILURE_RETRIES, 3)):
            self._failed_polls = 0
            self._orphaned()
            return
        self._schedule_poll()

    def _orphaned(self) -> None:
        """No parent: tell, and try again later."""
        if self.state is not DeviceState.ORPHAN:
            self._enter(DeviceState.ORPHAN)
        delay_s = ORPHAN_US[min(self._attempts, len(ORPHAN_US) - 1)]
        self._attempts += 1
        self._wait(delay_s * SECOND, self._rejoin)

    def _rejoin(self) -> None:
        nib = self._board.nv.nib
        if nib is None:
            return
        self._link.tune(nib.channel, nib.pan, nib.address)
        if self.state is not DeviceState.ORPHAN:
            self._enter(DeviceState.REJOINING)
        request = nwk.encode_rejoin_request(CAPABILITY[self.role])
        self._link.command(nib.parent, request)
        self._wait(RESPONSE_US, self._orphaned)

    def _on_command(self, header: nwk.Header, payload: bytes) -> None:
        match payload[:1]:
            case b"\x04":
                self._on_leave(header, nwk.decode_leave(payload))
            case b"\x06" if self.role != END_DEVICE:
                self._parent.on_rejoin_request(header)
            case b"\x07":
                self._on_rejoined(header, payload)
            case _:
                pass

    def _on_aps_command(self, header: nwk.Header, command: bytes, key: bytes | None) -> None:
        self._exchange.on_command(header, command, key)
        if key is None:
            self._parent.on_aps_command(header, command)

    def _on_rejoined(self, header: nwk.Header, payload: bytes) -> None:
        if self.state not in (DeviceState.REJOINING, DeviceState.ORPHAN):
            return
        short, status = nwk.decode_rejoin_response(payload)
        if status or header.source != self._link.nib.parent:
            return
        nib = replace(self._link.nib, address=short)
        self._board.nv.put_nib(nib)
        self._link.nib = nib
        self._link.tune(nib.channel, nib.pan, short)
        self._restored()

    def _on_leave_request(self, ieee: bytes, options: int) -> int:
        """Mgmt_Leave_req for us: leave after the answer is out."""
        if ieee not in (NO_IEEE, self._link.ieee):
            if ieee not in self._parent.children:
                return 0x81  # device not found
            short = self._parent.children[ieee]
            request = nwk.Leave(True, options & 0x80 != 0, options & 0x40 != 0)
            self._link.command(short, nwk.encode_leave(request))
            return 0
        if self.role == COORDINATOR:
            return 0x80  # whoever leads the network does not leave it
        self._board.after(SETTLE_US, lambda: self._leave(rejoin=options & 0x80 != 0))
        return 0

    def _leave(self, *, rejoin: bool) -> None:
        if not self._link.is_up:
            return
        nib = self._link.nib
        told = mt.encode(Cmd.ZDO_LEAVE_IND, nib.address, self._link.ieee, 1, 0, rejoin)
        self._link.command(nwk.RX_ON, nwk.encode_leave(nwk.Leave(False, rejoin, False)))
        self._board.tell(Cmd.ZDO_LEAVE_IND, told)
        if rejoin:
            self._rejoin()
            return
        self._forget_network()
        self._link.go_down()
        self._enter(DeviceState.NOT_CONNECTED)

    def _forget_network(self) -> None:
        self._exchange.cancel()
        if self._poll is not None:
            self._poll.cancel()
        self._board.nv.leave_network()

    def _on_leave(self, header: nwk.Header, leave: nwk.Leave) -> None:
        if leave.request:
            if header.source in (0x0000, self._link.nib.parent) and self.role != COORDINATOR:
                self._leave(rejoin=leave.rejoin)
            return
        ieee = header.source_ieee or self._link.neighbours.get(header.source)
        if ieee is None or self.role == END_DEVICE:
            return
        data = mt.encode(
            Cmd.ZDO_LEAVE_IND, header.source, ieee, 0, leave.remove_children, leave.rejoin
        )
        self._board.tell(Cmd.ZDO_LEAVE_IND, data)
        if not leave.rejoin:
            self._parent.forget(ieee)

    def _on_mac(self, frame: mac.MacFrame) -> None:
        if frame.kind == mac.BEACON:
            self._joiner.on_beacon(frame)
            return
        match frame.payload[:1]:
            case b"\x01":
                self._parent.on_associate(frame)
            case b"\x02":
                self._joiner.on_associated(frame)
            case b"\x04":
                self._parent.on_poll(frame)
            case b"\x07":
                self._parent.send_beacon()
            case _:
                pass

    def _on_announce(self, message: Message) -> None:
        short, ieee, capability = struct.unpack("<H8sB", message.body)
        self._link.neighbours[short] = ieee
        if self.role == END_DEVICE:
            return
        data = mt.encode(Cmd.ZDO_END_DEVICE_ANNCE_IND, message.source, short, ieee, capability)
        self._board.tell(Cmd.ZDO_END_DEVICE_ANNCE_IND, data)
