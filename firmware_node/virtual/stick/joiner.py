"""How a stick without a network finds one and joins it.

In order: scan for beacons, choose a network that permits joining, associate, poll for the answer,
wait for the network key that the trust centre seals with the joiner's link key.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace

from firmware_node.crypto import CcmStar, install_code_key
from firmware_node.errors import DecodeError
from firmware_node.virtual import secure
from firmware_node.virtual.air import Fate
from firmware_node.virtual.nv import (
    DEFAULT_LINK_KEY,
    EMPTY_IEEE,
    NO_IEEE,
    PROVISIONAL,
    AddressRow,
    Item,
    NetworkKey,
    Nib,
)
from firmware_node.virtual.stick.board import SECOND, Board, Timer
from firmware_node.virtual.stick.link import Link
from firmware_node.virtual.stick.zdo import CAPABILITY
from firmware_node.wire import aps, mac, mt, nwk
from firmware_node.wire.mt import Cmd, DeviceState

END_DEVICE = 2  # of LOGICAL_TYPE
BDB_NO_NETWORK, BDB_NO_KEY = 0x02, 0x07  # statuses of the notification
SETTLE_US = 20_000  # between two steps of joining that cross
POLL_US = 100_000  # between polls for an association response
RESPONSE_US = 2 * SECOND  # for it to come
KEY_US = 5 * SECOND  # for the network key; bdbTrustCenterNodeJoinTimeout has 15


@dataclass(frozen=True, slots=True)
class _Found:
    """A network that a scan found."""

    channel: int
    pan: int
    parent: int
    beacon: mac.Beacon


class Joiner:
    """One attempt at a time; ``on_joined`` or ``on_failed`` ends it."""

    def __init__(
        self,
        board: Board,
        link: Link,
        *,
        role: Callable[[], int],
        state: Callable[[], DeviceState],
        set_state: Callable[[DeviceState], None],
        on_joined: Callable[[Nib, NetworkKey, bytes], None],
        on_failed: Callable[[int], None],
    ) -> None:
        self._board = board
        self._link = link
        self._role = role
        self._state = state
        self._set_state = set_state
        self._on_joined = on_joined
        self._on_failed = on_failed
        self._channels = (0, 0)  # primary and secondary, of BDB_SET_CHANNEL
        self._keys: tuple[bytes, ...] = ()
        self._scan: list[int] = []
        self._found: list[_Found] = []
        self._target: _Found | None = None
        self._waiting: Timer | None = None
        link.on_unsecured = self.on_unsecured
        self.handlers: dict[int, Callable[..., bytes | None]] = {
            Cmd.APP_CNF_BDB_SET_CHANNEL: self._set_channel,
            Cmd.APP_CNF_BDB_SET_ACTIVE_CENTRALIZED_KEY: self._set_joining_key,
        }

    def reset(self) -> None:
        """Channels and keys are the host's to set again."""
        self._channels, self._keys = (0, 0), ()
        self._target = self._waiting = None

    def masks(self) -> list[int]:
        """Channels to try: BDB's, or the old CHANLIST where none were set."""
        masks = [mask for mask in self._channels if mask]
        return masks or [self._board.nv.number(Item.CHANLIST)]

    def discover(self) -> None:
        """Look for a network on every channel, then join it."""
        self._set_state(DeviceState.DISCOVERING)
        self._found = []
        self._scan = [channel for mask in self.masks() for channel in channels_of(mask)]
        self._scan_next()

    def _scan_next(self) -> None:
        if not self._scan:
            self._choose()
            return
        channel = self._scan.pop(0)
        self._link.tune(channel)
        self.command(mac.BROADCAST_PAN, mac.BROADCAST, None, bytes((mac.BEACON_REQUEST,)))
        self._wait(self._board.settings.scan_us, self._scan_next)

    def command(
        self,
        pan: int,
        destination: int | bytes,
        source: int | bytes | None,
        payload: bytes,
        on_fate: Callable[[Fate], None] | None = None,
    ) -> None:
        """A MAC command; only a broadcast goes without acknowledgement."""
        ack = destination != mac.BROADCAST
        sequence = self._link.next_mac_sequence()
        octets = mac.encode(
            mac.MacFrame(mac.COMMAND, ack, sequence, pan, destination, source, payload)
        )
        self._board.transmit(octets, on_fate)

    def on_beacon(self, frame: mac.MacFrame) -> None:
        """A network shows itself."""
        if self._state() is DeviceState.DISCOVERING and isinstance(frame.source, int):
            beacon = mac.decode_beacon(frame.payload)
            self._found.append(_Found(self._link.channel, frame.pan, frame.source, beacon))

    def _choose(self) -> None:
        """The coordinator's own beacon before a router's; PANID and extended PAN id pin one."""
        nv = self._board.nv
        pan = nv.number(Item.PANID, 0xFFFF)
        extended_pan = nv.item(Item.APS_USE_EXT_PANID) or NO_IEEE
        open_ = [
            one
            for one in self._found
            if one.beacon.permits
            and pan in (0xFFFF, one.pan)
            and extended_pan in (NO_IEEE, EMPTY_IEEE, one.beacon.extended_pan)
        ]
        if not open_:
            self._fail(BDB_NO_NETWORK)
            return
        target = min(open_, key=lambda one: (not one.beacon.coordinator, one.channel, one.pan))
        self._target = target
        self._set_state(DeviceState.JOINING)
        self._link.tune(target.channel, target.pan)
        capability = CAPABILITY[self._role()]
        request = bytes((mac.ASSOCIATION_REQUEST, capability))
        self.command(target.pan, target.parent, self._link.ieee, request, self._on_asked)
        self._wait(RESPONSE_US, lambda: self._fail(BDB_NO_NETWORK))

    def _on_asked(self, fate: Fate) -> None:
        target = self._target
        if target is None or fate is not Fate.ACKED:
            return  # the wait ends it
        self._board.after(SETTLE_US, lambda: self._ask_again(target))

    def _ask_again(self, target: _Found) -> None:
        """Poll for the answer until it is here: it waits at the parent, or was lost."""
        if self._state() is DeviceState.JOINING and self._target is target:
            request = bytes((mac.DATA_REQUEST,))
            self.command(target.pan, target.parent, self._link.ieee, request)
            self._board.after(POLL_US, lambda: self._ask_again(target))

    def on_associated(self, frame: mac.MacFrame) -> None:
        """The parent's answer: an address, or not."""
        target = self._target
        if self._state() is not DeviceState.JOINING or target is None or len(frame.payload) != 4:
            return
        _, short, status = struct.unpack("<BHB", frame.payload)
        if status or not isinstance(frame.source, bytes):
            self._fail(BDB_NO_NETWORK)
            return
        self._link.nib = Nib(
            address=short,
            channel=target.channel,
            parent=target.parent,
            parent_ieee=frame.source,
            pan=target.pan,
            state=4 if self._role() == END_DEVICE else 8,
            channels=1 << target.channel,
            depth=target.beacon.depth + 1,
            extended_pan=target.beacon.extended_pan,
            update_id=target.beacon.update_id,
        )
        self._link.tune(target.channel, target.pan, short)
        self._set_state(DeviceState.UNAUTHENTICATED)
        self._wait(KEY_US, lambda: self._fail(BDB_NO_KEY))

    def on_unsecured(self, header: nwk.Header, frame: bytes, payload: bytes) -> None:
        """Only a joiner listens to what the network key does not seal: its own transport key."""
        if (
            self._state() is not DeviceState.UNAUTHENTICATED
            or header.destination != self._link.short
        ):
            return
        if not payload or payload[0] & 3 != aps.COMMAND or not payload[0] & aps.SECURED:
            return
        opened = self._open_key(payload)
        if opened is None or opened[0].destination != self._link.ieee:
            self._fail(BDB_NO_KEY)
            return
        command, link_key = opened
        nib = replace(self._link.nib, key_loaded=True)
        key = NetworkKey(command.sequence, command.key)
        self._board.nv.enter_network(nib, key, command.source)
        self._board.nv.keep_address(AddressRow(0, 0x0000, command.source))
        if link_key != DEFAULT_LINK_KEY:
            self._board.nv.keep_joined_key(command.source, link_key, PROVISIONAL)
        self._stop_waiting()
        self._on_joined(nib, key, link_key)

    def _open_key(self, frame: bytes) -> tuple[aps.TransportKey, bytes] | None:
        """The transport key and which of our link keys opened it; None: none did."""
        security = secure.decode_aps_security(frame, 2)
        keys = self._keys or (DEFAULT_LINK_KEY,)
        for key in keys if security.source is not None else ():
            cipher = CcmStar(secure.key_transport_key(key))
            try:
                assert security.source is not None
                clear = secure.open_aps(cipher, frame, 2, security, security.source)
                return aps.decode_transport_key(clear), key
            except DecodeError:
                continue
        return None

    def _fail(self, status: int) -> None:
        """Joining came to nothing."""
        self._stop_waiting()
        self._target = None
        self._on_failed(status)

    def _set_channel(self, primary: int, mask: int) -> bytes:
        self._channels = (mask, self._channels[1]) if primary else (self._channels[0], mask)
        return b"\x00"

    def _set_joining_key(self, mode: int, code: bytes) -> bytes:
        if mode == 0:
            self._keys = ()
            return b"\x00"
        key = key_of(code, is_code=mode in (1, 2))
        if key is None or mode > 4:
            return bytes((mt.Status.INVALID_PARAMETER,))
        # The even modes fall back on the well-known key.
        self._keys = (key, DEFAULT_LINK_KEY) if mode in (2, 4) else (key,)
        return b"\x00"

    def _wait(self, delay_us: int, call: Callable[[], None]) -> None:
        """The one thing that joining waits for; a new wait replaces the old."""
        self._stop_waiting()
        self._waiting = self._board.after(delay_us, call)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None


def key_of(code: bytes, *, is_code: bool) -> bytes | None:
    """The link key of an install code with its CRC, or the key itself."""
    if not is_code:
        return code if len(code) == 16 else None
    try:
        return install_code_key(code)
    except DecodeError:
        return None


def channels_of(mask: int) -> list[int]:
    """The channel numbers of a mask."""
    return [channel for channel in range(11, 27) if mask >> channel & 1]
