"""The serial line to a ZNP stick: zigpy-znp's client, with the traffic of endpoints beside it.

zigpy-znp opens the port, finds the stick and speaks every command that is rare. What a download
consists of (data requests, their confirms, messages that come in) is coded here, because the
library spends half a millisecond on each and leaves out the large ones (zigbee-znp.md 3.3, 4.5).
Both share the line by its one rule: a synchronous request waits for the answer of the one before.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import zigpy_znp.types as t
from zigpy_znp.api import ZNP
from zigpy_znp.config import CONFIG_SCHEMA
from zigpy_znp.frames import GeneralFrame

from firmware_node.boundary import Frame, SendFrame
from firmware_node.errors import DecodeError
from firmware_node.terms import ShortAddress
from firmware_node.wire import mt, zdo
from firmware_node.wire.mt import AddressMode, Cmd, Option, Status

ANSWER_S = 6.0  # until a synchronous answer is missed (zigbee-znp.md 3.4)
CONFIRM_S = 30.0  # until a confirm is missed: field reports tell of eight seconds and more
SILENCES_MAX = 2  # missed answers in a row: the stick hangs
BUSY_TRIES_MAX = 10  # of a stick whose buffers are full
LOST_TRIES_MAX = 3  # of a frame that the next hop did not acknowledge
PAUSE_S = 0.03  # before another try; an air that is in use by others is free again by then
RADIUS = 30
# Data requests without their confirm: what the two products hold (zigbee-znp.md 3.4, 8).
WINDOW_ALIGNED, WINDOW_PACKED = 16, 2
PART_MAX = 240  # octets of one AF_DATA_STORE or AF_DATA_RETRIEVE
EXT_MAX = 230  # octets that an AF_DATA_REQUEST_EXT carries itself
# Confirms after which the same frame is sent again, and how often. That the end of the way did not
# answer (APS_NO_ACK) is for the machine to judge: the stick itself has tried three times.
_TRIES_MAX: Mapping[int, int] = {
    Status.BUFFER_FULL: BUSY_TRIES_MAX,
    Status.MEM_ERROR: BUSY_TRIES_MAX,
    Status.MAC_NO_ACK: LOST_TRIES_MAX,
    Status.MAC_CHANNEL_ACCESS_FAILURE: LOST_TRIES_MAX,
}
_REQUEST = struct.Struct("<HBBHBBBB")  # to, its endpoint, ours, cluster, id, options, radius, size
_REQUEST_EXT = struct.Struct("<B8sBHBHBBBH")
_DATA_OF = {Cmd.AF_DATA_REQUEST, Cmd.AF_DATA_REQUEST_EXT, Cmd.AF_DATA_STORE, Cmd.AF_DATA_RETRIEVE}
_ANSWERS = {command | mt.RESPONSE for command in _DATA_OF}
EVENTS = {
    *(Cmd.SYS_RESET_IND, Cmd.ZDO_STATE_CHANGE_IND, Cmd.ZDO_LEAVE_IND, Cmd.ZDO_TC_DEV_IND),
    *(Cmd.ZDO_END_DEVICE_ANNCE_IND, Cmd.APP_CNF_BDB_NOTIFICATION),
}

OnAnswer = Callable[[bytes | None], None]  # the data of the answer; None: none came


class _Asked(NamedTuple):
    command: int
    octets: bytes
    on_answer: OnAnswer


class _Sent(NamedTuple):
    """A data request that waits for its confirm."""

    effect: SendFrame
    tries: int
    until: float  # loop time


class Line(ZNP):  # type: ignore[misc]
    """One connection to a stick. ``on_*`` are called from the event loop and must not block.

    Attributes:
        on_frame: a message for an endpoint that ``profiles`` knows.
        on_confirm: the fate of a tagged frame.
        on_event: a callback of ``EVENTS``, decoded; the library hears of it too.
        on_dead: the stick answers no more; the port may still be open.
        profiles: our endpoints' profiles.
        secured: ask for APS security on every unicast of an application profile.
    """

    def __init__(self, path: str, baud: int) -> None:
        super().__init__(
            CONFIG_SCHEMA(
                {
                    "device": {"path": path, "baudrate": baud},
                    # The pins' dance takes half a second and resets some sticks.
                    "znp_config": {"skip_bootloader": False, "sync_request_timeout": ANSWER_S},
                }
            )
        )
        self.on_frame: Callable[[Frame], None] = lambda frame: None
        self.on_confirm: Callable[[int, bool], None] = lambda tag, delivered: None
        self.on_event: Callable[[int, tuple[Any, ...]], None] = lambda command, fields: None
        self.on_dead: Callable[[str], None] = lambda cause: None
        self.profiles: dict[int, int] = {}
        self.secured = False
        self._loop = asyncio.get_running_loop()
        self._parser = mt.Parser()
        self._queue: deque[_Asked] = deque()
        self._asked: _Asked | None = None
        self._missing: asyncio.TimerHandle | None = None  # runs out when no answer comes
        self._silences = 0
        self._library = 0  # requests of zigpy-znp that wait or are under way
        self._idle = asyncio.Event()
        self._idle.set()
        self._held: deque[tuple[SendFrame, int]] = deque()  # for room in the window
        self._sent: dict[int, _Sent] = {}
        self._identifier = 0
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False
        self._out: list[bytes] = []

    @property
    def window(self) -> int:
        """Data requests that may be without confirm at a time."""
        return WINDOW_ALIGNED if self.nvram.align_structs else WINDOW_PACKED

    async def connect(self, *, test_port: bool = True) -> None:
        """Open the port and find a stick on it.

        Raises:
            OSError, TimeoutError, ...: whatever the port or the library has to say.
        """
        await super().connect(test_port=test_port)
        # From here on every octet passes by us first.
        self._uart.data_received = self._on_octets

    def close(self) -> None:
        """Let go of everything; what is under way is confirmed as not delivered."""
        self._closed = True
        for timer in (self._missing, self._sweep):
            if timer is not None:
                timer.cancel()
        self._queue.clear()
        self._asked = None
        self._idle.set()
        held = [effect for effect, _ in self._held] + [sent.effect for sent in self._sent.values()]
        self._held.clear()
        self._sent.clear()
        for effect in held:
            if effect.tag:
                self.on_confirm(effect.tag, False)
        super().close()

    def hang_up(self) -> None:
        """Close the port at once, without waiting for it."""
        uart = self._uart
        self.close()
        if uart is not None:
            uart.close()

    # --- to the stick -----------------------------------------------------------------------------

    def send(self, effect: SendFrame) -> None:
        """A frame to the air; leaves with ``flush``."""
        self._held.append((effect, 0))
        self._fill()

    def flush(self) -> None:
        """Write what was sent."""
        if self._out and self._uart is not None:
            self._uart.write(b"".join(self._out))
        self._out.clear()

    async def request(self, request: Any, timeout: float | None = None, **response: Any) -> Any:
        """See ``ZNP.request``; waits for our own synchronous request first."""
        self._library += 1
        try:
            await self._idle.wait()
            return await super().request(request, timeout, **response)
        finally:
            self._library -= 1
            self._pump()
            self.flush()

    def _ask(self, command: int, data: bytes, on_answer: OnAnswer, *, first: bool = False) -> None:
        asked = _Asked(command, mt.frame(command, data), on_answer)
        if first:
            self._queue.appendleft(asked)
        else:
            self._queue.append(asked)
        self._pump()

    def _pump(self) -> None:
        """Send the next synchronous request, if the line is free."""
        if self._asked is not None or self._library or not self._queue or self._closed:
            return
        self._asked = self._queue.popleft()
        self._idle.clear()
        self._out.append(self._asked.octets)
        self._missing = self._loop.call_later(ANSWER_S, self._on_silence)

    def _answered(self, data: bytes | None) -> None:
        asked, self._asked = self._asked, None
        if self._missing is not None:
            self._missing.cancel()
        self._idle.set()
        if asked is not None:
            asked.on_answer(data)
        self._pump()

    def _on_silence(self) -> None:
        self._silences += 1
        self._missing = None
        self._answered(None)
        if self._silences >= SILENCES_MAX:
            self.on_dead(f"no answer to {self._silences} requests in a row")
        self.flush()

    # --- data requests ----------------------------------------------------------------------------

    def _fill(self) -> None:
        """Ask the stick to send what is held, as far as its window goes."""
        while self._held and len(self._sent) < self.window:
            effect, tries = self._held.popleft()
            self._request_data(effect, tries)

    def _request_data(self, effect: SendFrame, tries: int) -> None:
        identifier = self._next_identifier()
        frame = effect.frame
        if frame.profile != zdo.PROFILE:
            self._sent[identifier] = _Sent(effect, tries, self._loop.time() + CONFIRM_S)
            self._watch()
        options = Option.APS_ACK if effect.tag else 0
        if self.secured and not frame.broadcast and frame.profile != zdo.PROFILE:
            options |= Option.APS_SECURITY
        payload = frame.payload
        if frame.broadcast or frame.profile == zdo.PROFILE or len(payload) > PART_MAX:
            self._request_extended(frame, identifier, options)
            return
        data = _REQUEST.pack(
            frame.peer,
            frame.peer_endpoint,
            frame.endpoint,
            frame.cluster,
            identifier,
            options,
            RADIUS,
            len(payload),
        )
        self._ask(Cmd.AF_DATA_REQUEST, data + payload, self._taken(identifier))

    def _request_extended(self, frame: Frame, identifier: int, options: int) -> None:
        """A broadcast, a ZDO message, or one too large for a frame of the line.

        A large one is announced without its octets, stored part by part, and sent by an empty
        part (TI Z-Stack, MT AF_DATA_STORE; not tried on hardware).
        """
        payload = frame.payload
        mode = AddressMode.BROADCAST if frame.broadcast else AddressMode.SHORT
        head = _REQUEST_EXT.pack(
            mode,
            frame.peer.to_bytes(8, "little"),
            frame.peer_endpoint,
            0,  # the PAN: ours
            frame.endpoint,
            frame.cluster,
            identifier,
            options,
            RADIUS,
            len(payload),
        )
        taken = self._taken(identifier)
        if len(payload) <= EXT_MAX:
            self._ask(Cmd.AF_DATA_REQUEST_EXT, head + payload, taken)
            return
        parts = [payload[at : at + PART_MAX] for at in range(0, len(payload), PART_MAX)] + [b""]
        self._ask(Cmd.AF_DATA_REQUEST_EXT, head, lambda data: self._store(parts, 0, 0, data, taken))

    def _store(
        self, parts: Sequence[bytes], number: int, offset: int, answer: bytes | None, done: OnAnswer
    ) -> None:
        """The next part, in front of everything else; ``done`` has the answer to the last one."""
        if number == len(parts) or answer is None or answer[:1] != b"\0":
            done(answer)
            return
        part = parts[number]
        self._ask(
            Cmd.AF_DATA_STORE,
            struct.pack("<HB", offset, len(part)) + part,
            lambda data: self._store(parts, number + 1, offset + len(part), data, done),
            first=True,
        )

    def _taken(self, identifier: int) -> OnAnswer:
        """What the synchronous answer to a data request means."""

        def on_answer(data: bytes | None) -> None:
            if data is None or data[:1] != b"\0":
                self._confirmed(identifier, data[0] if data else Status.FAILURE)

        return on_answer

    def _confirmed(self, identifier: int, status: int) -> None:
        sent = self._sent.pop(identifier, None)
        if sent is None:
            return
        effect, tries, _ = sent
        if tries + 1 < _TRIES_MAX.get(status, 0) and not self._closed:
            self._loop.call_later(PAUSE_S, self._again, effect, tries + 1)
        elif effect.tag:
            self.on_confirm(effect.tag, status == Status.SUCCESS)
        self._fill()

    def _again(self, effect: SendFrame, tries: int) -> None:
        if self._closed:
            if effect.tag:
                self.on_confirm(effect.tag, False)
            return
        self._held.appendleft((effect, tries))
        self._fill()
        self.flush()

    def _next_identifier(self) -> int:
        """One that no request under way has; the window is far smaller than an octet."""
        while True:
            self._identifier = self._identifier % 255 + 1
            if self._identifier not in self._sent:
                return self._identifier

    def _watch(self) -> None:
        if self._sweep is None:
            self._sweep = self._loop.call_later(CONFIRM_S, self._on_sweep)

    def _on_sweep(self) -> None:
        self._sweep = None
        now = self._loop.time()
        for identifier in [key for key, sent in self._sent.items() if sent.until <= now]:
            self._confirmed(identifier, Status.FAILURE)
        if self._sent:
            self._sweep = self._loop.call_later(CONFIRM_S / 4, self._on_sweep)
        self.flush()

    # --- from the stick ---------------------------------------------------------------------------

    def _on_octets(self, octets: bytes) -> None:
        for command, data in self._parser.feed(bytes(octets)):
            if self._closed:
                return
            if command == Cmd.AF_INCOMING_MSG:
                self._incoming(data)
            elif command == Cmd.AF_DATA_CONFIRM:
                if len(data) == 3:
                    self._confirmed(data[2], data[0])
            elif command in _ANSWERS:
                if self._asked is not None and command == self._asked.command | mt.RESPONSE:
                    self._silences = 0
                    self._answered(data)
            elif command == Cmd.AF_INCOMING_MSG_EXT:
                self._incoming_large(data)
            elif command == mt.RPC_ERROR and self._is_ours(data):
                self._answered(bytes((Status.FAILURE,)))
            elif command == Cmd.ZDO_MSG_CB_INCOMING:
                self._incoming_zdo(data)
            else:
                self._others(command, data)
        self.flush()

    def _others(self, command: int, data: bytes) -> None:
        """The library's way on."""
        self._silences = 0
        try:
            fields = mt.decode(command, data) if command in EVENTS else None
        except DecodeError:
            return
        self.frame_received(GeneralFrame(_header(command), t.Bytes(data)))
        if fields is not None:
            self.on_event(command, fields)

    def _is_ours(self, data: bytes) -> bool:
        if self._asked is None or len(data) < 3:
            return False
        return data[1] << 8 | data[2] == self._asked.command

    def _incoming(self, data: bytes) -> None:
        try:
            message = mt.decode_incoming(data)
        except DecodeError:
            return  # the line's noise; whoever waits asks again
        profile = self.profiles.get(message.destination_endpoint)
        if profile is not None:
            self.on_frame(
                Frame(
                    ShortAddress(message.source),
                    message.source_endpoint,
                    message.destination_endpoint,
                    profile,
                    message.cluster,
                    message.payload,
                    message.broadcast,
                )
            )

    def _incoming_zdo(self, data: bytes) -> None:
        try:
            source, broadcast, cluster, _, sequence, _, body = mt.decode(
                Cmd.ZDO_MSG_CB_INCOMING, data
            )
        except DecodeError:
            return
        payload = bytes((sequence,)) + body
        peer = ShortAddress(source)
        self.on_frame(Frame(peer, 0, 0, zdo.PROFILE, cluster, payload, bool(broadcast)))

    def _incoming_large(self, data: bytes) -> None:
        """A message that the stick holds: fetch it part by part, then let go of it."""
        try:
            fields = mt.decode(Cmd.AF_INCOMING_MSG_EXT, data)
        except DecodeError:
            return
        _, cluster, _, source, source_endpoint, _, endpoint, broadcast = fields[:8]
        timestamp, size, rest = fields[10], fields[12], fields[13]
        profile = self.profiles.get(endpoint)
        frame = Frame(
            ShortAddress(int.from_bytes(source[:2], "little")),
            source_endpoint,
            endpoint,
            profile or 0,
            cluster,
            b"",
            bool(broadcast),
        )
        if size and len(rest) >= size:  # small enough to have come along
            if profile is not None:
                self.on_frame(frame._replace(payload=rest[:size]))
            return
        self._fetch(timestamp, size, b"", frame, wanted=profile is not None)

    def _fetch(self, timestamp: int, size: int, held: bytes, frame: Frame, *, wanted: bool) -> None:
        whole = len(held) >= size or not wanted
        length = 0 if whole else min(PART_MAX, size - len(held))

        def on_part(data: bytes | None) -> None:
            if whole:
                return
            if data is None or data[:1] != b"\0" or len(data) < 2 or not data[1]:
                return  # lost: the sender's acknowledged message is told again by its own means
            self._fetch(timestamp, size, held + data[2 : 2 + data[1]], frame, wanted=wanted)

        request = struct.pack("<IHB", timestamp, 0 if whole else len(held), length)
        self._ask(Cmd.AF_DATA_RETRIEVE, request, on_part, first=True)
        if whole and wanted:
            self.on_frame(frame._replace(payload=held))


def _header(command: int) -> Any:
    header, _ = t.CommandHeader.deserialize(command.to_bytes(2, "big"))
    return header


def errors_of(error: BaseException) -> Iterator[str]:
    """An exception's words and those of what caused it, for one line."""
    seen: BaseException | None = error
    while seen is not None:
        yield str(seen) or type(seen).__name__
        seen = seen.__cause__
