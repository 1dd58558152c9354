"""MAC and network layer of a stick: addresses, network security, unicast, broadcast, forwarding.

Frames of the network are sealed with the network key and checked against replay, with a window so
that late ones pass. Joining is ``life``'s matter: what comes unsecured, beacons and MAC commands
go there; what the network carries goes to ``aps``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from firmware_node.crypto import CcmStar
from firmware_node.errors import DecodeError
from firmware_node.virtual import secure
from firmware_node.virtual.air import Fate, Tuning
from firmware_node.virtual.nv import NetworkKey, Nib
from firmware_node.virtual.stick.board import Board
from firmware_node.wire import mac, nwk

OnFate = Callable[[Fate], None]
REPLAY_WINDOW = 64  # frames that may come late; more than are ever under way
COUNTER_STEP = 1024  # frames between two writings of the counter; a start goes on a step later


class Link:
    """The stick in its network, or out of any."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self.nib = Nib()
        self.channel = 0  # the receiver's; while scanning not the network's
        self.end_device = False  # sends everything to its parent, forwards nothing
        self.key = NetworkKey(0, bytes(16))
        self.ieee = board.nv.ieee
        self.neighbours: dict[int, bytes] = {}  # short address to EUI-64
        self.on_data: Callable[[nwk.Header, bytes, bool], None] = _ignore
        self.on_command: Callable[[nwk.Header, bytes], None] = _ignore
        self.on_unsecured: Callable[[nwk.Header, bytes, bytes], None] = _ignore
        self.on_mac: Callable[[mac.MacFrame], None] = _ignore
        self.heard_from_parent_us = 0
        self._cipher = CcmStar(self.key.key)
        self._counter = 0
        self._counter_kept = 0
        self._seen: dict[bytes, tuple[int, int]] = {}
        self._mac_sequence = board.random.randrange(256)
        self._sequence = board.random.randrange(256)

    # --- who and where ----------------------------------------------------------------------------

    @property
    def short(self) -> int:
        """Own short address; 0xFFFE: none."""
        return self.nib.address

    @property
    def is_up(self) -> bool:
        """Whether the stick takes part in a network now."""
        return self.nib.key_loaded

    def reset(self) -> None:
        """Out of any network; the EUI-64 that a host wrote into NV counts from now on."""
        self.ieee = self._board.nv.ieee
        self.go_down()

    def go_up(self, nib: Nib, key: NetworkKey, *, end_device: bool) -> None:
        """Take part in a network from now on; it is in NV already."""
        self.nib, self.key, self.end_device = nib, key, end_device
        self._cipher = CcmStar(key.key)
        # Counters used since the last writing are unknown: go on where none can have been.
        self._counter = self._board.nv.frame_counter(nib.extended_pan) + COUNTER_STEP
        self._keep_counter()
        self._seen.clear()
        self.neighbours = {row.short: row.ieee for _, row in self._board.nv.addresses()}
        if nib.address:
            self.neighbours.setdefault(nib.parent, nib.parent_ieee)
        self.heard_from_parent_us = self._board.now_us
        self.tune(nib.channel, nib.pan, nib.address)

    def go_down(self) -> None:
        """Out of the network and off the air."""
        self.nib = Nib()
        self.tune(0)

    def tune(self, channel: int, pan: int = mac.BROADCAST_PAN, short: int = nwk.NO_ADDRESS) -> None:
        """Set the receiver; channel 0 is off."""
        self.channel = channel
        self._board.air.append(Tuning(channel, pan, short, self.ieee))

    def move(self, channel: int) -> None:
        """The whole network goes to another channel."""
        self.nib = replace(self.nib, channel=channel, channels=1 << channel)
        self._board.nv.put_nib(self.nib)
        self.tune(channel, self.nib.pan, self.nib.address)

    def short_of(self, ieee: bytes) -> int | None:
        """The short address of an EUI-64, as far as known."""
        if ieee == self.ieee:
            return self.short
        return next((one for one, known in self.neighbours.items() if known == ieee), None)

    # --- sending ----------------------------------------------------------------------------------

    def next_mac_sequence(self) -> int:
        """Of the next MAC frame."""
        self._mac_sequence = self._mac_sequence + 1 & 0xFF
        return self._mac_sequence

    def unicast(
        self, destination: int, payload: bytes, on_fate: OnFate | None, radius: int = 0
    ) -> None:
        """Network data to one node."""
        self._sequence = sequence = self._sequence + 1 & 0xFF
        head = nwk.encode_data_header(
            destination, self.nib.address, radius or nwk.RADIUS_DEFAULT, sequence
        )
        self._seal_and_transmit(destination, head, payload, on_fate)

    def broadcast(self, destination: int, payload: bytes, on_fate: OnFate | None = None) -> None:
        """Network data to 0xFFFC and above."""
        self.unicast(destination, payload, on_fate)

    def command(self, destination: int, payload: bytes, on_fate: OnFate | None = None) -> None:
        """A network command, with both EUI-64 as far as known."""
        self._sequence = sequence = self._sequence + 1 & 0xFF
        to_ieee = self.neighbours.get(destination)
        header = nwk.Header(
            nwk.COMMAND, destination, self.nib.address, 1, sequence, True, to_ieee, self.ieee
        )
        self._seal_and_transmit(destination, nwk.encode_header(header), payload, on_fate)

    def unsecured(self, destination: int, payload: bytes, on_fate: OnFate) -> None:
        """Network data to a joiner that has no key yet."""
        self._sequence = self._sequence + 1 & 0xFF
        header = nwk.Header(nwk.DATA, destination, self.short, 1, self._sequence, secured=False)
        octets = nwk.encode_header(header) + payload
        self._board.transmit(self._mac(destination, octets), on_fate)

    def _seal_and_transmit(
        self, destination: int, head: bytes, payload: bytes, on_fate: OnFate | None
    ) -> None:
        counter = self._counter
        self._counter = counter + 1
        if counter >= self._counter_kept + COUNTER_STEP:
            self._keep_counter()
        sealed = secure.seal_network(
            self._cipher, head, payload, self.ieee, counter, self.key.sequence
        )
        self._board.transmit(self._mac(destination, sealed), on_fate)

    def _keep_counter(self) -> None:
        self._counter_kept = self._counter
        self._board.nv.keep_frame_counter(self.nib.extended_pan, self._counter)

    def _mac(self, destination: int, octets: bytes) -> bytes:
        nib = self.nib
        self._mac_sequence = sequence = self._mac_sequence + 1 & 0xFF
        if destination >= nwk.BROADCAST_FIRST:
            return mac.encode_data(sequence, nib.pan, mac.BROADCAST, nib.address, octets, ack=False)
        hop = nib.parent if self.end_device else destination
        return mac.encode_data(sequence, nib.pan, hop, nib.address, octets, ack=True)

    # --- receiving --------------------------------------------------------------------------------

    def heard(self, octets: bytes, copy: bool) -> None:
        """A MAC frame came; what cannot be read is counted and dropped."""
        try:
            frame = mac.decode(octets)
            if frame.kind == mac.DATA:
                self._on_data_frame(frame, copy)
            elif frame.kind != mac.ACK:
                self.on_mac(frame)
        except DecodeError:
            self._board.counters["frames_unreadable"] += 1

    def _on_data_frame(self, frame: mac.MacFrame, copy: bool) -> None:
        header, at = nwk.decode_header(frame.payload)
        if not header.secured:
            self.on_unsecured(header, frame.payload, frame.payload[at:])
            return
        if not self.nib.key_loaded:
            return
        clear, source, counter = secure.open_network(
            self._cipher, frame.payload, at, self.key.sequence
        )
        if not copy and not self._is_fresh(source, counter):
            self._board.counters["frames_replayed"] += 1
            return
        if isinstance(frame.source, int):
            self.neighbours[frame.source] = source
            if frame.source == self.nib.parent:
                self.heard_from_parent_us = self._board.now_us
        destination = header.destination
        if destination == self.nib.address:
            pass
        elif destination >= nwk.BROADCAST_FIRST:
            if (self.end_device and destination == nwk.ROUTERS) or header.source == self.short:
                return
        else:
            self._forward(header, clear)
            return
        if header.kind == nwk.DATA:
            self.on_data(header, clear, copy)
        else:
            self.on_command(header, clear)

    def _is_fresh(self, source: bytes, counter: int) -> bool:
        """Whether no frame with this counter came before; remembers it."""
        last, window = self._seen.get(source, (-1, 0))
        if counter > last:
            shift = counter - last
            window = (window << shift | 1) & (1 << REPLAY_WINDOW) - 1 if shift < 256 else 1
            self._seen[source] = (counter, window)
            return True
        bit = 1 << last - counter if last - counter < REPLAY_WINDOW else 0
        if not bit or window & bit:
            return False
        self._seen[source] = (last, window | bit)
        return True

    def _forward(self, header: nwk.Header, clear: bytes) -> None:
        if self.end_device or header.radius <= 1:
            return
        self._board.counters["frames_forwarded"] += 1
        head = nwk.encode_header(header._replace(radius=header.radius - 1))
        self._seal_and_transmit(header.destination, head, clear, None)


def _ignore(*_: object) -> None:
    """Until the part that listens is there."""
