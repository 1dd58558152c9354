"""The OTA server: the search for one, and the way to speak to the one that is pinned.

A broadcast Match_Desc_req names the OTA cluster; the first that answers is pinned, and from then
on frames of others are no concern of ours. Its EUI-64 (UpgradeServerID) is asked for and waited
for by nobody. Source: ZCL 11.8 (server discovery); gbcs-supplement 10.2.
"""

from __future__ import annotations

from firmware_node.boundary import Effect, Entropy, Frame, Notify, SendFrame
from firmware_node.errors import DecodeError
from firmware_node.node.discovery import search_for
from firmware_node.terms import EntityId, OtaSettings, ShortAddress
from firmware_node.wire import ota, zcl, zdo

ENDPOINT = 1  # ours


class ServerLink:
    """Pinned or searching; numbers every frame that goes to the server."""

    def __init__(self, settings: OtaSettings, entropy: Entropy) -> None:
        self._settings = settings
        self._entropy = entropy
        self._peer_endpoint = 1
        self._endpoint = ENDPOINT
        self._profile = zcl.SMART_ENERGY_PROFILE
        self._sequence = 0
        self.peer: ShortAddress | None = None  # None: no server is known
        self.entity_id: EntityId | None = None
        self.up = False  # the network
        self.wake_at: int | None = None  # the next search

    @property
    def ready(self) -> bool:
        """Whether a request can be sent."""
        return self.up and self.peer is not None

    def next_sequence(self) -> int:
        """A ZCL sequence number: new for every frame, retries too (zigbee-znp.md 0)."""
        self._sequence = (self._sequence + 1) & 0xFF
        return self._sequence

    def frame(self, payload: bytes) -> SendFrame:
        """A frame of the OTA cluster to the server."""
        assert self.peer is not None
        return SendFrame(
            Frame(
                self.peer,
                self._peer_endpoint,
                self._endpoint,
                self._profile,
                ota.CLUSTER,
                payload,
            )
        )

    def request(self, command: int, body: bytes) -> SendFrame:
        """A cluster command to the server."""
        header = zcl.ZclHeader(True, False, False, None, self.next_sequence(), command)
        return self.frame(zcl.encode(header, body))

    def search(self, now_ms: int) -> list[Effect]:
        """Ask everybody who serves the OTA cluster; again after the interval."""
        interval_ms = self._settings.discovery_interval_s * 1000
        jitter_ms = interval_ms * self._settings.query_jitter_percent // 100
        self.wake_at = now_ms + interval_ms + self._entropy.below(jitter_ms + 1)
        return [search_for(ota.CLUSTER, self.next_sequence())]

    def on_zdo(self, frame: Frame) -> list[Effect]:
        """Pin the first match; take the EUI-64 of the pinned one."""
        try:
            if frame.cluster == zdo.MATCH_DESC_REQ | zdo.RESPONSE:
                match = zdo.decode_match_response(frame.payload)
                if self.peer is None and match.status == zdo.SUCCESS and match.endpoints:
                    self._peer_endpoint, self._endpoint = match.endpoints[0], ENDPOINT
                    self._profile = zcl.SMART_ENERGY_PROFILE
                    return self._pinned(match.address)
            elif frame.cluster == zdo.IEEE_ADDR_REQ | zdo.RESPONSE:
                answer = zdo.decode_address_response(frame.payload)
                if answer.status == zdo.SUCCESS and answer.address == self.peer:
                    self.entity_id = answer.entity_id
        except DecodeError as error:
            return [Notify("frame_refused", {"status": "ZDO", "reason": str(error)})]
        return []

    def adopt(self, frame: Frame) -> list[Effect]:
        """Pin the sender of a frame, on the endpoints and profile it used."""
        self._peer_endpoint, self._endpoint = frame.peer_endpoint, frame.endpoint
        self._profile = frame.profile
        return self._pinned(frame.peer)

    def identify(self) -> list[Effect]:
        """Ask the server for its EUI-64 while that is unknown."""
        if self.peer is None or self.entity_id is not None:
            return []
        payload = zdo.encode_ieee_request(self.next_sequence(), self.peer)
        return [SendFrame(Frame(self.peer, 0, 0, zdo.PROFILE, zdo.IEEE_ADDR_REQ, payload))]

    def lose(self, cause: str) -> list[Effect]:
        """The server does not answer any more: unpin it."""
        self.peer = self.entity_id = None
        self.wake_at = None
        return [Notify("server_lost", {"cause": cause})]

    def _pinned(self, peer: ShortAddress) -> list[Effect]:
        self.peer, self.entity_id, self.wake_at = peer, None, None
        return [Notify("server_found", {"short_address": peer}), *self.identify()]
