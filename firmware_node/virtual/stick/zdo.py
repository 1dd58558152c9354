"""ZigBee Device Objects of a stick: it answers discovery and management by itself.

Requests come from the air, from the host as MT commands, or from the host as AF data to endpoint
0; those for ourselves loop back. The host is told of responses as 0x4580 and above, and, once it
registered for them, of every message as MSG_CB_INCOMING. Bodies are octets without the sequence
number. Source: zigbee-znp.md 3.3; ZigBee specification 2.4.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from firmware_node.errors import DecodeError
from firmware_node.terms import ShortAddress
from firmware_node.virtual.nv import Item
from firmware_node.virtual.stick.af import Af
from firmware_node.virtual.stick.aps import Aps, Frame
from firmware_node.virtual.stick.board import Board
from firmware_node.virtual.stick.link import Link
from firmware_node.wire import aps, mt, nwk, zdo
from firmware_node.wire.mt import AddressMode, Cmd, Status
from firmware_node.wire.zcl import decode_eui64

RESPONSE = zdo.RESPONSE
NODE_DESC, POWER_DESC = 0x0002, 0x0003
PARENT_ANNCE = 0x001F  # no child of ours is claimed: no answer
BIND, UNBIND = 0x0021, 0x0022
MGMT_LQI, MGMT_RTG, MGMT_BIND, MGMT_LEAVE = 0x0031, 0x0032, 0x0033, 0x0034
MGMT_PERMIT, MGMT_UPDATE = 0x0036, 0x0038
_NOT_SUPPORTED = 0x84
_TABLE_FULL, _NO_ENTRY = 0x8C, 0x88
BINDINGS_MAX = 16
CHANNEL_CHANGE, PARAMETERS_CHANGE = 0xFE, 0xFF  # scan durations that are no scans

MANUFACTURER_TI = 0x0007
BUFFER_SIZE, TRANSFER_MAX = 80, 160  # of the node descriptor, as Z-Stack has them
_REVISION_SHIFT = 9  # of the stack's revision in the server mask
_PRIMARY_TRUST_CENTRE = 0x0001
_MAINS_POWERED = 0xC110
ENERGY = 0x20  # on every channel
CAPABILITY = {0: 0x8F, 1: 0x8E, 2: 0x8C}  # by role: coordinator, router, end device


@dataclass(frozen=True, slots=True)
class Message:
    """A ZDO message."""

    source: int
    cluster: int
    sequence: int
    body: bytes
    broadcast: bool = False
    secured: bool = False


class Zdo:
    """The device objects of one stick."""

    def __init__(self, board: Board, link: Link, aps_layer: Aps, af: Af) -> None:
        self._board = board
        self._link = link
        self._aps = aps_layer
        self._af = af
        self._registered: set[int] = set()
        self._bindings: list[bytes] = []
        self._sequence = 0
        self.on_announce: Callable[[Message], None] = lambda message: None
        self.on_descriptor: Callable[[Message], None] = lambda message: None
        self.on_permit: Callable[[int], None] = lambda seconds: None
        self.on_leave: Callable[[bytes, int], int] = lambda ieee, options: 0
        self.children: Callable[[], list[tuple[int, bytes]]] = list
        af.on_zdo = self._on_frame
        af.send_zdo = self.send
        self._answers: dict[int, Callable[[Message], bytes | None]] = {
            zdo.NWK_ADDR_REQ: self._answer_address,
            zdo.IEEE_ADDR_REQ: self._answer_address,
            NODE_DESC: self._answer_descriptor,
            POWER_DESC: self._answer_descriptor,
            zdo.SIMPLE_DESC_REQ: self._answer_descriptor,
            zdo.ACTIVE_EP_REQ: self._answer_descriptor,
            zdo.MATCH_DESC_REQ: self._answer_match,
            zdo.DEVICE_ANNCE: self._take_announce,
            PARENT_ANNCE: lambda message: None,
            BIND: self._answer_bind,
            UNBIND: self._answer_bind,
            MGMT_LQI: self._answer_lqi,
            MGMT_RTG: self._answer_routes,
            MGMT_BIND: self._answer_bindings,
            MGMT_LEAVE: self._answer_leave,
            MGMT_PERMIT: self._answer_permit,
            MGMT_UPDATE: self._answer_update,
        }
        self.handlers: dict[int, Callable[..., bytes | None]] = {
            Cmd.ZDO_MSG_CB_REGISTER: self._register,
            Cmd.ZDO_MSG_CB_REMOVE: self._remove,
            Cmd.ZDO_MGMT_PERMIT_JOIN_REQ: self._permit_join,
            Cmd.ZDO_MGMT_NWK_UPDATE_REQ: self._nwk_update,
            Cmd.ZDO_END_DEVICE_ANNCE: self._announce,
            Cmd.ZDO_NWK_ADDR_REQ: self._nwk_address,
            Cmd.ZDO_IEEE_ADDR_REQ: self._ieee_address,
        }
        for command, cluster in _REQUESTS.items():
            self.handlers[command] = self._request_of(command, cluster)

    def reset(self) -> None:
        """Registrations do not survive."""
        self._registered.clear()
        self._bindings.clear()

    # --- messages ---------------------------------------------------------------------------------

    def send(
        self, destination: int, cluster: int, body: bytes, sequence: int | None = None
    ) -> None:
        """To a node or ourselves; a broadcast that manages the network is for ourselves too."""
        if sequence is None:
            self._sequence = sequence = self._sequence + 1 & 0xFF
        own = self._link.short
        if destination == own or (
            destination >= nwk.BROADCAST_FIRST and cluster in (MGMT_PERMIT, MGMT_UPDATE)
        ):
            self._on_message(Message(own, cluster, sequence, body))
        if destination != own:
            delivery = aps.BROADCAST if destination >= nwk.BROADCAST_FIRST else aps.UNICAST
            payload = bytes((sequence,)) + body
            frame = Frame(delivery, destination, 0, 0, cluster, zdo.PROFILE, payload)
            self._aps.send(frame, lambda status: None)

    def announce_self(self, capability: int) -> None:
        """Device_annce to everybody whose receiver is on."""
        body = struct.pack("<H", self._link.short) + self._link.ieee + bytes((capability,))
        self._sequence = self._sequence + 1 & 0xFF
        payload = bytes((self._sequence,)) + body
        frame = Frame(aps.BROADCAST, nwk.RX_ON, 0, 0, zdo.DEVICE_ANNCE, zdo.PROFILE, payload)
        self._aps.send(frame, lambda status: None)

    def _on_frame(self, frame: Frame) -> None:
        if not frame.payload:
            raise DecodeError("ZDO message", 0, "no sequence number")
        self._on_message(
            Message(
                frame.peer,
                frame.cluster,
                frame.payload[0],
                frame.payload[1:],
                frame.broadcast,
                frame.secured,
            )
        )

    def _on_message(self, message: Message) -> None:
        self._tell(message)
        if message.cluster & RESPONSE:
            if message.cluster == NODE_DESC | RESPONSE:
                self.on_descriptor(message)
            return
        answer = self._answer(message)
        if answer is not None:
            self.send(message.source, message.cluster | RESPONSE, answer, message.sequence)

    def _tell(self, message: Message) -> None:
        """Both ways of telling the host; real sticks use both at once too."""
        source, cluster, body = message.source, message.cluster, message.body
        if cluster & RESPONSE and self._board.nv.octet(Item.ZDO_DIRECT_CB):
            if cluster in (zdo.NWK_ADDR_REQ | RESPONSE, zdo.IEEE_ADDR_REQ | RESPONSE):
                # No source, and start index and count in the other order, always there.
                count, start, listed = body[11:12] or b"\0", body[12:13] or b"\0", body[13:]
                data = body[:11] + start + count + listed
            else:
                data = source.to_bytes(2, "little") + body
            self._board.tell(mt.zdo_callback(cluster), data)
        if cluster in self._registered or 0xFFFF in self._registered:
            data = mt.encode(
                Cmd.ZDO_MSG_CB_INCOMING,
                source,
                message.broadcast,
                cluster,
                message.secured,
                message.sequence,
                self._link.short,
                body,
            )
            self._board.tell(Cmd.ZDO_MSG_CB_INCOMING, data)

    # --- answers ----------------------------------------------------------------------------------

    def _answer(self, message: Message) -> bytes | None:
        """The body of the response; None: silence."""
        answer = self._answers.get(message.cluster)
        try:
            if answer is not None:
                return answer(message)
        except (IndexError, struct.error, DecodeError):
            self._board.counters["zdo_malformed"] += 1
            return None
        return None if message.broadcast else bytes((_NOT_SUPPORTED,))

    def _take_announce(self, message: Message) -> None:
        self.on_announce(message)

    def _answer_leave(self, message: Message) -> bytes:
        return bytes((self.on_leave(message.body[:8], message.body[8]),))

    def _answer_permit(self, message: Message) -> bytes | None:
        self.on_permit(message.body[0])
        return None if message.broadcast else b"\x00"

    def _answer_routes(self, message: Message) -> bytes:
        return b"\x00\x00" + message.body[:1] + b"\x00"  # none: everybody is near

    def _local(self) -> zdo.LocalNode:
        endpoints = tuple(known.endpoint for known in self._af.endpoints.values())
        return zdo.LocalNode(
            ShortAddress(self._link.short), decode_eui64(self._link.ieee), endpoints
        )

    def _answer_address(self, message: Message) -> bytes | None:
        body, link = message.body, self._link
        by_ieee = message.cluster == zdo.NWK_ADDR_REQ
        kind = body[8] if by_ieee else body[2]
        wanted = body[:8] if by_ieee else body[:2]
        own = link.ieee if by_ieee else link.short.to_bytes(2, "little")
        short, ieee = link.short, link.ieee
        if wanted != own:
            child = next(
                (
                    one
                    for one in self.children()
                    if wanted in (one[1], one[0].to_bytes(2, "little"))
                ),
                None,
            )
            if child is None:
                if message.broadcast or by_ieee:
                    return None
                return b"\x81" + bytes(8) + wanted
            short, ieee = child
        answer = b"\x00" + ieee + short.to_bytes(2, "little")
        if kind != 1 or short != link.short:
            return answer
        children = [one for one, _ in self.children()]
        return answer + bytes((len(children), 0)) + struct.pack(f"<{len(children)}H", *children)

    def _answer_descriptor(self, message: Message) -> bytes:
        cluster, body = message.cluster, message.body
        wanted = body[0] | body[1] << 8
        if wanted != self._link.short:
            empty = b"\x00" if cluster in (zdo.SIMPLE_DESC_REQ, zdo.ACTIVE_EP_REQ) else b""
            return b"\x81" + body[:2] + empty
        start = b"\x00" + body[:2]
        if cluster == NODE_DESC:
            return start + self._node_descriptor()
        if cluster == POWER_DESC:
            return start + _MAINS_POWERED.to_bytes(2, "little")
        if cluster == zdo.ACTIVE_EP_REQ:
            numbers = sorted(self._af.endpoints)
            return start + bytes((len(numbers), *numbers))
        registered = self._af.endpoints.get(body[2])
        if registered is None:
            return bytes((zdo.INVALID_EP,)) + body[:2] + b"\x00"
        number, profile, device, inputs, outputs = registered.endpoint
        descriptor = struct.pack("<BHHB", number, profile, device, registered.version)
        for clusters in (inputs, outputs):
            descriptor += bytes((len(clusters),)) + struct.pack(f"<{len(clusters)}H", *clusters)
        return start + bytes((len(descriptor),)) + descriptor

    @property
    def role(self) -> int:
        """0 coordinator, 1 router, 2 end device."""
        return self._board.nv.octet(Item.LOGICAL_TYPE)

    def _node_descriptor(self) -> bytes:
        role = self.role
        revision = self._board.settings.stack_revision << _REVISION_SHIFT
        servers = revision | (0 if role else _PRIMARY_TRUST_CENTRE)
        return struct.pack(
            "<BBBHBHHHB",
            role,
            0x40,  # 2.4 GHz
            CAPABILITY[role],
            MANUFACTURER_TI,
            BUFFER_SIZE,
            TRANSFER_MAX,
            servers,
            TRANSFER_MAX,
            0,
        )

    def _answer_match(self, message: Message) -> bytes | None:
        sequence = bytes((message.sequence,))
        wanted = message.body[0] | message.body[1] << 8
        if wanted != self._link.short and wanted < nwk.BROADCAST_FIRST:
            return b"\x81" + message.body[:2] + b"\x00"
        answer = zdo.answer(zdo.MATCH_DESC_REQ, sequence + message.body, self._local())
        if answer is not None:
            return answer[1:]
        if message.broadcast:
            return None
        return b"\x00" + self._link.short.to_bytes(2, "little") + b"\x00"

    def _answer_bind(self, message: Message) -> bytes:
        body = message.body
        if len(body) not in (14, 21) or body[:8] != self._link.ieee:
            return bytes((_NOT_SUPPORTED,))
        if message.cluster == UNBIND:
            if body not in self._bindings:
                return bytes((_NO_ENTRY,))
            self._bindings.remove(body)
        elif body not in self._bindings:
            if len(self._bindings) >= BINDINGS_MAX:
                return bytes((_TABLE_FULL,))
            self._bindings.append(body)
        return b"\x00"

    def _answer_bindings(self, message: Message) -> bytes:
        start = message.body[0]
        shown = self._bindings[start : start + 3]
        return bytes((0, len(self._bindings), start, len(shown))) + b"".join(shown)

    def _answer_lqi(self, message: Message) -> bytes:
        """Neighbours: our children, and who else was heard; all with a receiver that is on."""
        start, link = message.body[0], self._link
        children = {short for short, _ in self.children()}
        known = sorted(link.neighbours.items())
        shown = known[start : start + 2]
        answer = bytes((0, len(known), start, len(shown)))
        for short, ieee in shown:
            kind = 0 if short == 0 else 2 if short in children else 1
            relation = 1 if short in children else 0 if short == link.nib.parent else 2
            answer += link.nib.extended_pan + ieee + short.to_bytes(2, "little")
            answer += bytes((kind | 1 << 2 | relation << 4, 0, 1, 200))
        return answer

    def _answer_update(self, message: Message) -> bytes | None:
        (channels, duration) = struct.unpack_from("<IB", message.body)
        if duration == CHANNEL_CHANGE:
            channel = next((n for n in range(11, 27) if channels >> n & 1), 0)
            if channel:
                # After whoever else must hear of it has heard.
                self._board.after(100_000, lambda: self._link.move(channel))
            return None
        if duration == PARAMETERS_CHANGE:
            return None
        scanned = [n for n in range(11, 27) if channels >> n & 1]
        mask = sum(1 << n for n in scanned)
        energies = bytes((ENERGY,)) * len(scanned)
        return struct.pack("<BIHHB", 0, mask, 0, 0, len(scanned)) + energies

    # --- commands of the host ---------------------------------------------------------------------

    def _request_of(self, command: int, cluster: int) -> Callable[..., bytes | None]:
        def handle(destination: int, *fields: Any) -> None:
            body = mt.encode(command, destination, *fields)[2:]
            if cluster in (BIND, UNBIND) and body[11] == AddressMode.GROUP:
                body = body[:14]  # a group's number is shorter in ZDO
            self._start(command, destination, cluster, body)

        return handle

    def _start(self, command: int, destination: int, cluster: int, body: bytes) -> None:
        if not self._link.is_up:
            self._board.respond(command, bytes((Status.NWK_INVALID_REQUEST,)))
            return
        self._board.respond(command)
        self.send(destination, cluster, body)

    def _nwk_address(self, ieee: bytes, kind: int, start: int) -> None:
        destination = self._link.short if ieee == self._link.ieee else nwk.RX_ON
        body = ieee + bytes((kind, start))
        self._start(Cmd.ZDO_NWK_ADDR_REQ, destination, zdo.NWK_ADDR_REQ, body)

    def _ieee_address(self, short: int, kind: int, start: int) -> None:
        body = struct.pack("<HBB", short, kind, start)
        self._start(Cmd.ZDO_IEEE_ADDR_REQ, short, zdo.IEEE_ADDR_REQ, body)

    def _announce(self, short: int, ieee: bytes, capability: int) -> None:
        body = struct.pack("<H8sB", short, ieee, capability)
        self._start(Cmd.ZDO_END_DEVICE_ANNCE, nwk.RX_ON, zdo.DEVICE_ANNCE, body)

    def _permit_join(self, mode: int, destination: int, seconds: int, significance: int) -> None:
        if mode == AddressMode.BROADCAST and destination < nwk.BROADCAST_FIRST:
            destination = nwk.ROUTERS
        body = bytes((seconds, significance))
        self._start(Cmd.ZDO_MGMT_PERMIT_JOIN_REQ, destination, MGMT_PERMIT, body)

    def _nwk_update(self, *fields: int) -> None:
        destination, mode, channels, duration, count, manager = fields
        body = struct.pack("<IB", channels, duration)
        if duration <= 5:
            body += bytes((count,))
        else:
            update_id = self._link.nib.update_id + 1 & 0xFF
            self._link.nib = replace(self._link.nib, update_id=update_id)
            body += bytes((update_id,))
            if duration == PARAMETERS_CHANGE:
                body += manager.to_bytes(2, "little")
            else:
                destination = nwk.RX_ON  # the network moves, not one node
        if mode == AddressMode.BROADCAST and destination < nwk.BROADCAST_FIRST:
            destination = nwk.RX_ON
        self._start(Cmd.ZDO_MGMT_NWK_UPDATE_REQ, destination, MGMT_UPDATE, body)

    def _register(self, cluster: int) -> bytes:
        self._registered.add(cluster)
        return b"\x00"

    def _remove(self, cluster: int) -> bytes:
        if cluster == 0xFFFF:
            self._registered.clear()
        self._registered.discard(cluster)
        return b"\x00"


# Requests whose data is a destination and then the ZDO body as it travels.
_REQUESTS = {
    Cmd.ZDO_NODE_DESC_REQ: NODE_DESC,
    Cmd.ZDO_POWER_DESC_REQ: POWER_DESC,
    Cmd.ZDO_SIMPLE_DESC_REQ: zdo.SIMPLE_DESC_REQ,
    Cmd.ZDO_ACTIVE_EP_REQ: zdo.ACTIVE_EP_REQ,
    Cmd.ZDO_MATCH_DESC_REQ: zdo.MATCH_DESC_REQ,
    Cmd.ZDO_BIND_REQ: BIND,
    Cmd.ZDO_UNBIND_REQ: UNBIND,
    Cmd.ZDO_MGMT_LQI_REQ: MGMT_LQI,
    Cmd.ZDO_MGMT_RTG_REQ: MGMT_RTG,
    Cmd.ZDO_MGMT_BIND_REQ: MGMT_BIND,
    Cmd.ZDO_MGMT_LEAVE_REQ: MGMT_LEAVE,
}
