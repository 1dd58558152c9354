"""The HCALCS's ESME: found by its DRLC server, pinned, and asked for what it has scheduled.

Asked at power-up and after every return of the network, again with back-off until an event comes or
a Default Response says that there is none (HECS01, gbcs.md 7.2); one that stays silent is searched
again. ZDO and ZCL sequence numbers are
those from 0x80 on, so that answers to other searches of this device are not taken for ours.
"""

from __future__ import annotations

from firmware_node.boundary import Effect, Frame, Notify, SendFrame
from firmware_node.errors import DecodeError
from firmware_node.node.discovery import search_for
from firmware_node.terms import LoadSwitchSettings, ShortAddress
from firmware_node.wire import drlc, zcl, zdo
from firmware_node.wire.drlc import GetScheduledEvents

ENDPOINT = 1  # ours
ASKED_MAX = 10  # times without an answer; then whoever was pinned is no longer there


class EsmeLink:
    """Searching, asking, or answered."""

    def __init__(self, settings: LoadSwitchSettings) -> None:
        self._settings = settings
        self._sequence = 0
        self._searched = -1  # sequence numbers of what waits for an answer
        self._asked = -1
        self._peer_endpoint = 1
        self._retry_ms = settings.ask_retry_first_ms
        self._asked_count = 0
        self.peer: ShortAddress | None = None
        self.wake_at: int | None = None  # to search or ask again

    def claims(self, frame: Frame) -> bool:
        """Whether a ZDO frame answers our search."""
        return (
            frame.cluster == zdo.MATCH_DESC_REQ | zdo.RESPONSE
            and frame.profile == zdo.PROFILE
            and frame.payload[:1] == bytes((self._searched & 0xFF,))
            and self._searched >= 0
        )

    def up(self, now_ms: int) -> list[Effect]:
        """The network is there (again): search, or ask whom we know."""
        self._retry_ms, self._asked_count = self._settings.ask_retry_first_ms, 0
        return self._search(now_ms) if self.peer is None else self._ask(now_ms)

    def down(self) -> None:
        """The network is gone."""
        self.wake_at = None
        self._searched = self._asked = -1

    def timer(self, now_ms: int) -> list[Effect]:
        """Nobody answered in time."""
        if self._asked_count >= ASKED_MAX:
            self.peer, self._asked_count = None, 0
            self._retry_ms = self._settings.ask_retry_first_ms
            return [Notify("esme_lost"), *self._search(now_ms)]
        return self._search(now_ms) if self.peer is None else self._ask(now_ms)

    def on_zdo(self, frame: Frame, now_ms: int) -> list[Effect]:
        """Pin the first that serves the cluster, and ask it."""
        try:
            match = zdo.decode_match_response(frame.payload)
        except DecodeError as error:
            return [Notify("frame_refused", {"status": "ZDO", "reason": str(error)})]
        if match.status != zdo.SUCCESS or not match.endpoints:
            return []
        self._searched = -1
        self.peer, self._peer_endpoint = match.address, match.endpoints[0]
        return [Notify("esme_found", {"short_address": self.peer}), *self._ask(now_ms)]

    def is_from_peer(self, frame: Frame) -> bool:
        """Whether the ESME itself speaks."""
        return self.peer is not None and frame.peer == self.peer

    def is_answer(self, header: zcl.ZclHeader) -> bool:
        """Whether a Default Response of the ESME is the one to our question."""
        return header.sequence == self._asked

    def answered(self) -> None:
        """The ESME has given an event or said that it has none."""
        self._asked, self._asked_count = -1, 0
        self.wake_at = None

    def send(self, command: int, body: bytes) -> SendFrame:
        """A cluster command to the ESME."""
        assert self.peer is not None
        header = zcl.ZclHeader(True, False, True, None, self._next(), command)
        return SendFrame(
            Frame(
                self.peer,
                self._peer_endpoint,
                ENDPOINT,
                zcl.SMART_ENERGY_PROFILE,
                drlc.CLUSTER,
                zcl.encode(header, body),
            )
        )

    def _search(self, now_ms: int) -> list[Effect]:
        self.wake_at = now_ms + self._settings.discovery_interval_s * 1000
        self._searched = self._next()
        return [search_for(drlc.CLUSTER, self._searched)]

    def _ask(self, now_ms: int) -> list[Effect]:
        self.wake_at = now_ms + self._retry_ms
        self._retry_ms = min(2 * self._retry_ms, self._settings.ask_retry_last_ms)
        body = drlc.encode_get_scheduled_events(GetScheduledEvents(drlc.NOW))
        question = self.send(drlc.TO_SERVER_GET_SCHEDULED_EVENTS, body)
        self._asked = self._sequence
        self._asked_count += 1
        return [question]

    def _next(self) -> int:
        self._sequence = 0x80 | (self._sequence + 1) & 0x7F
        return self._sequence
