"""The application framework: endpoints, data requests and their confirms, incoming messages.

A strict stick, as real ones are, gives a frame only to an endpoint of the frame's own profile; a
lenient one to the endpoint it names.

Messages too large for one MT frame pass in parts. One that came is announced without its octets
and kept for the host to fetch. One to be sent is announced by a data request whose size no frame
holds, filled by AF_DATA_STORE, and sent by an AF_DATA_STORE without octets, whose answer has the
status that a data request's would have. That order, the limits of both directions, the statuses
and the 15 seconds are those of the MT layer that TI publishes with Z-Stack 3; none of it was tried
on hardware. Where the firmware would write beyond what was announced, this one refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from firmware_node.virtual.air import LQI
from firmware_node.virtual.stick.aps import Aps, Frame
from firmware_node.virtual.stick.board import SECOND, Board, Timer
from firmware_node.virtual.stick.link import Link
from firmware_node.wire import aps, mt, nwk, zdo
from firmware_node.wire.mt import AddressMode, Cmd, Option, Status

WILDCARD_PROFILE = 0xFFFF
BROADCAST_ENDPOINT = 0xFF
ENDPOINTS_MAX = 32
STORED_MAX = 8  # large messages waiting to be fetched
STORE_SIZE_MAX = 4096  # octets of one message; what is left of a real stick's heap is no more
STORE_US = 15 * SECOND  # then a message that was not fetched, or not sent, is dropped
PART_MAX = 240  # octets of one store or retrieve command

_OK = b"\x00"
_SHORT, _ACK, _SECURITY = int(AddressMode.SHORT), int(Option.APS_ACK), int(Option.APS_SECURITY)


class Registered(NamedTuple):
    """An endpoint as the host registered it."""

    endpoint: zdo.Endpoint
    version: int


class _Announced(NamedTuple):
    """A large message that the host announced and fills."""

    request: mt.DataRequest
    payload: bytearray
    timer: Timer


class Af:
    """Endpoints and their traffic."""

    def __init__(self, board: Board, link: Link, aps_layer: Aps) -> None:
        self._board = board
        self._link = link
        self._aps = aps_layer
        self.endpoints: dict[int, Registered] = {}
        self.groups: set[tuple[int, int]] = set()  # endpoint, group
        self._announced: _Announced | None = None
        self._stored: dict[int, tuple[bytes, Timer]] = {}  # by time stamp, for the host to fetch
        aps_layer.on_frame = self._on_frame
        aps_layer.takers = self._takers
        self.on_zdo: Callable[[Frame], None] = lambda frame: None
        self.send_zdo: Callable[[int, int, bytes, int], None] = lambda *message: None
        self.handlers: dict[int, Callable[..., bytes | None]] = {
            Cmd.AF_REGISTER: self._register,
            Cmd.AF_DELETE: self._delete,
            Cmd.AF_DATA_REQUEST_SRC_RTG: self._source_routed,
            Cmd.AF_DATA_STORE: self._data_store,
            Cmd.AF_DATA_RETRIEVE: self._data_retrieve,
            Cmd.AF_APSF_CONFIG_SET: self._fragmentation_config,
            Cmd.ZDO_EXT_ADD_GROUP: self._add_group,
            Cmd.ZDO_EXT_FIND_GROUP: self._find_group,
            Cmd.ZDO_EXT_REMOVE_GROUP: self._remove_group,
            Cmd.ZDO_EXT_REMOVE_ALL_GROUP: self._remove_all_groups,
        }

    def reset(self) -> None:
        """Endpoints, groups and stored messages do not survive."""
        self.endpoints.clear()
        self.groups.clear()
        self._announced = None
        self._stored.clear()

    # --- host to air ------------------------------------------------------------------------------

    def data_request(self, command: int, data: bytes) -> None:
        """AF_DATA_REQUEST and AF_DATA_REQUEST_EXT: answer, send, confirm later."""
        request = mt.decode_data_request(command, data)
        if request.announced:
            self._board.respond(command, bytes((self._announce(request),)))
        else:
            self._send(command, request)

    def _announce(self, request: mt.DataRequest) -> Status:
        """Make room for a message that the host will bring."""
        if request.source_endpoint and request.source_endpoint not in self.endpoints:
            return Status.INVALID_PARAMETER
        if self._announced is not None:
            return Status.INVALID_PARAMETER
        if request.announced > STORE_SIZE_MAX:
            return Status.MEM_ERROR
        timer = self._board.after(STORE_US, self._drop_announced)
        self._announced = _Announced(request, bytearray(request.announced), timer)
        return Status.SUCCESS

    def _drop_announced(self) -> None:
        self._board.counters["messages_not_sent"] += 1
        self._announced = None

    def _source_routed(self, *fields: Any) -> None:
        """All sticks hear each other: the route is not needed."""
        short, to, source, cluster, transaction, options, radius, _, payload = fields
        destination = short.to_bytes(8, "little")
        self._send(
            Cmd.AF_DATA_REQUEST_SRC_RTG,
            mt.DataRequest(
                AddressMode.SHORT,
                destination,
                to,
                source,
                cluster,
                transaction,
                options,
                radius,
                payload,
            ),
        )

    def _send(self, command: int, request: mt.DataRequest) -> None:
        frame = self._frame(request)
        if isinstance(frame, Status):
            self._board.respond(command, bytes((frame,)))
            return
        self._board.respond(command)
        if request.source_endpoint == 0 or request.destination_endpoint == 0:
            # ZDO gives no confirm.
            if frame.payload:
                self.send_zdo(frame.peer, frame.cluster, frame.payload[1:], frame.payload[0])
            return
        self._aps.send(frame, self._confirm(request.source_endpoint, request.transaction))

    def _confirm(self, endpoint: int, transaction: int) -> Callable[[int], None]:
        tell = self._board.tell
        return lambda status: tell(Cmd.AF_DATA_CONFIRM, bytes((status, endpoint, transaction)))

    def _frame(self, request: mt.DataRequest) -> Frame | Status:
        """The frame of a request, or why there is none."""
        mode, destination, to, source, cluster, _, options, radius, payload, _ = request
        if not self._link.is_up:
            return Status.NWK_INVALID_REQUEST
        if source == 0 or to == 0:
            profile = zdo.PROFILE
        else:
            registered = self.endpoints.get(source)
            if registered is None:
                return Status.INVALID_PARAMETER
            profile = registered.endpoint.profile
        short: int | None = destination[0] | destination[1] << 8
        delivery = aps.UNICAST
        if mode == _SHORT and short is not None and short < nwk.BROADCAST_FIRST:
            pass
        elif mode == AddressMode.GROUP:
            delivery, to, short = aps.GROUP, short or 0, nwk.RX_ON
        elif mode == AddressMode.IEEE:
            short = self._link.short_of(destination)
            if short is None:
                return Status.INVALID_PARAMETER
        elif mode == AddressMode.BROADCAST or (short or 0) >= nwk.BROADCAST_FIRST:
            delivery = aps.BROADCAST
        frame = Frame(
            delivery,
            short or 0,
            to,
            source,
            cluster,
            profile,
            payload,
            options & _SECURITY != 0 and delivery == aps.UNICAST,
            options & _ACK != 0,
            radius,
        )
        return frame if self._aps.fits(frame) else Status.INVALID_PARAMETER

    # --- air to host ------------------------------------------------------------------------------

    def _takers(self, frame: Frame) -> Sequence[int]:
        """The endpoints that take the frame; ZDO is endpoint 0."""
        if frame.profile == zdo.PROFILE:
            return (0,) if frame.endpoint in (0, BROADCAST_ENDPOINT) else ()
        if frame.delivery == aps.GROUP:
            wanted = [end for end in self.endpoints if (end, frame.endpoint) in self.groups]
        elif frame.endpoint == BROADCAST_ENDPOINT:
            wanted = list(self.endpoints)
        else:
            wanted = [frame.endpoint] if frame.endpoint in self.endpoints else []
        if not self._board.settings.strict or frame.profile == WILDCARD_PROFILE:
            return wanted
        return [end for end in wanted if self.endpoints[end].endpoint.profile == frame.profile]

    def _on_frame(self, frame: Frame, takers: Sequence[int]) -> None:
        if frame.profile == zdo.PROFILE:
            self.on_zdo(frame)
            return
        timestamp = self._board.now_us // 320 & 0xFFFFFFFF  # in units of a back-off period
        group = frame.endpoint if frame.delivery == aps.GROUP else 0
        for endpoint in takers:
            self._board.counters["messages_up"] += 1
            if len(frame.payload) > mt.INLINE_MAX:
                self._announce_large(frame, endpoint, group, timestamp)
                continue
            data = mt.encode_incoming(
                mt.IncomingMessage(
                    group,
                    frame.cluster,
                    frame.peer,
                    frame.source_endpoint,
                    endpoint,
                    frame.broadcast,
                    LQI,
                    frame.secured,
                    timestamp,
                    0,
                    frame.payload,
                    frame.radius,
                )
            )
            self._board.tell(Cmd.AF_INCOMING_MSG, data)

    def _announce_large(self, frame: Frame, endpoint: int, group: int, timestamp: int) -> None:
        """A message for AF_DATA_RETRIEVE; its time stamp is its name."""
        while timestamp in self._stored:
            timestamp += 1
        while len(self._stored) >= STORED_MAX:
            self._drop_stored(next(iter(self._stored)))
        timer = self._board.after(STORE_US, lambda: self._drop_stored(timestamp))
        self._stored[timestamp] = (frame.payload, timer)
        data = mt.encode(
            Cmd.AF_INCOMING_MSG_EXT,
            group,
            frame.cluster,
            AddressMode.SHORT,
            frame.peer.to_bytes(8, "little"),
            frame.source_endpoint,
            self._link.nib.pan,
            endpoint,
            frame.broadcast,
            LQI,
            frame.secured,
            timestamp,
            0,
            len(frame.payload),
            frame.peer.to_bytes(2, "little") + bytes((frame.radius,)),
        )
        self._board.tell(Cmd.AF_INCOMING_MSG_EXT, data)

    def _drop_stored(self, timestamp: int) -> None:
        _, timer = self._stored.pop(timestamp)
        timer.cancel()
        self._board.counters["messages_not_fetched"] += 1

    # --- commands ---------------------------------------------------------------------------------

    def _register(self, *fields: Any) -> bytes:
        number, profile, device, version, _, inputs, outputs = fields
        if number in self.endpoints:
            return bytes((Status.APS_DUPLICATE_ENTRY,))
        if not 0 < number < BROADCAST_ENDPOINT or len(self.endpoints) >= ENDPOINTS_MAX:
            return bytes((Status.INVALID_PARAMETER,))
        endpoint = zdo.Endpoint(number, profile, device, inputs, outputs)
        self.endpoints[number] = Registered(endpoint, version)
        return _OK

    def _delete(self, number: int) -> bytes:
        return _OK if self.endpoints.pop(number, None) else bytes((Status.INVALID_PARAMETER,))

    def _data_store(self, index: int, part: bytes) -> bytes | None:
        """Fill the message that was announced; without octets: send it."""
        announced = self._announced
        if announced is None:
            return bytes((Status.MEM_ERROR,))
        if not part:
            announced.timer.cancel()
            self._announced = None
            payload = bytes(announced.payload)
            self._send(Cmd.AF_DATA_STORE, announced.request._replace(payload=payload))
            return None
        if index + len(part) > len(announced.payload):
            return bytes((Status.INVALID_PARAMETER,))
        announced.payload[index : index + len(part)] = part
        return _OK

    def _data_retrieve(self, timestamp: int, index: int, size: int) -> bytes:
        message, timer = self._stored.get(timestamp, (None, None))
        if message is None or timer is None or size > PART_MAX or index + size > len(message):
            return mt.encode(Cmd.AF_DATA_RETRIEVE | mt.RESPONSE, Status.FAILURE, b"")
        if size == 0:
            timer.cancel()
            del self._stored[timestamp]
        part = message[index : index + size]
        return mt.encode(Cmd.AF_DATA_RETRIEVE | mt.RESPONSE, Status.SUCCESS, part)

    def _fragmentation_config(self, endpoint: int, delay_ms: int, window: int) -> bytes:
        if endpoint not in self.endpoints or not 1 <= window <= 8:
            return bytes((Status.INVALID_PARAMETER,))
        self._aps.window[endpoint] = (delay_ms, window)
        return _OK

    def _add_group(self, endpoint: int, group: int, _: bytes) -> bytes:
        self.groups.add((endpoint, group))
        return _OK

    def _find_group(self, endpoint: int, group: int) -> bytes:
        # Also when absent the answer has the group and an empty name: hosts read them.
        status = 0 if (endpoint, group) in self.groups else 1
        return bytes((status, group & 0xFF, group >> 8, 0))

    def _remove_group(self, endpoint: int, group: int) -> bytes:
        self.groups.discard((endpoint, group))
        return _OK

    def _remove_all_groups(self, endpoint: int) -> bytes:
        self.groups = {(end, group) for end, group in self.groups if end != endpoint}
        return _OK
