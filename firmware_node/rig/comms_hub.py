"""A Comms Hub: routes frames to its OTA server and tunnel client, tells the time, raises CCS08.

Each outcome of a transfer becomes one CCS08 alert to the access control broker: image discarded
(1), hardware version mismatch (2), transfer failure (3), success (0). Its ``LoadControl`` plays the
ESME of a home that has none. It never imports ``node``:
the far side must not share our mistakes. Source: gbcs.md 1.3, 3.6, 5, 6; gbcs-supplement 9, 10.
"""

from __future__ import annotations

from collections.abc import Sequence

from firmware_node.boundary import (
    CancelLoad,
    CarryMessage,
    Effect,
    Frame,
    FrameReceived,
    Input,
    MessageUp,
    NetworkDown,
    NetworkUp,
    Notify,
    OfferImage,
    PeerAnnounced,
    Records,
    ScheduleLoad,
    SendConfirmed,
    SendFrame,
    SetClock,
    Started,
)
from firmware_node.crypto import Keyring
from firmware_node.errors import DecodeError
from firmware_node.rig.hub_terms import HubSettings, Misbehaviour, Peer, default_response
from firmware_node.rig.load_control import LoadControl
from firmware_node.rig.ota_server import OtaServer, Outputs, TransferEnded
from firmware_node.rig.own_counter import OwnCounter
from firmware_node.rig.tunnel_client import TunnelClient
from firmware_node.sealing import seal_signed
from firmware_node.terms import EntityId, ShortAddress
from firmware_node.wire import drlc, ota, tunneling, zcl
from firmware_node.wire import firmware_messages as fm
from firmware_node.wire.gbcs import Cra, GroupingHeader
from firmware_node.wire.zcl import AttributeValue, Status

__all__ = ["CommsHub", "HubSettings", "Misbehaviour"]

TIME_ATTRIBUTE = 0x0000
TIME_STATUS_ATTRIBUTE = 0x0001
TIME_STATUS_MASTER = 0x01


class CommsHub:
    """See the module; a ``Machine``.

    With ``records`` its originator counter goes on after a restart; else ``first_counter`` of the
    settings must rise from life to life.
    """

    def __init__(
        self, settings: HubSettings, keyring: Keyring, records: Records | None = None
    ) -> None:
        self._settings = settings
        self._keyring = keyring
        self._peers: dict[EntityId, Peer] = {}
        self._by_address: dict[ShortAddress, Peer] = {}
        self._utc_base = settings.utc
        self._counter = OwnCounter(settings.first_counter, records, "hub/counter")
        self._ota = OtaServer(settings, self._peers, self.utc)
        self._tunnels = TunnelClient(settings)
        # In seconds where counters are milliseconds: a hub schedules no two events in one.
        self._load = LoadControl(self.utc, settings.first_counter // 1000 & 0x7FFFFFFF)

    @property
    def wake_at(self) -> int | None:
        """The earlier timer of OTA server and tunnel client; it may be early, never late."""
        server, tunnels = self._ota.wake_at, self._tunnels.wake_at
        if server is None or tunnels is None:
            return tunnels if server is None else server
        return min(server, tunnels)

    @property
    def fired(self) -> list[str]:
        """The scripted misbehaviours that happened, in order."""
        return self._ota.script.fired

    def behave(self) -> None:
        """The script is over, even where it did not happen."""
        self._ota.script.stop()

    def utc(self, now_ms: int) -> int:
        """The hub's time, seconds since 2000-01-01."""
        return self._utc_base + now_ms // 1000

    def knows(self, entity_id: EntityId) -> bool:
        """Whether the device was ever heard of."""
        return entity_id in self._peers

    def status(self, now_ms: int) -> dict[str, object]:
        """Devices and offers, for people."""
        tunnels = self._tunnels.report()
        return {
            "entity_id": str(self._settings.entity_id),
            "utc": zcl.utc_text(self.utc(now_ms)),
            "devices": [
                {
                    "entity_id": str(who),
                    "short_address": peer.address,
                    "tunnel": tunnels[who][0],
                    "waiting": tunnels[who][1],
                }
                for who, peer in self._peers.items()
            ],
            "offers": self._ota.report(),
            "load_events": self._load.report(),
        }

    def progress(self, entity_id: EntityId) -> tuple[int, int, int] | None:
        """Bytes and blocks of the transfer to a device; see ``OtaServer.progress``."""
        return self._ota.progress(entity_id)

    def activate(self, entity_id: EntityId, now_ms: int) -> Sequence[Effect]:
        """Let a device activate that holds its image; nothing for one that holds none."""
        peer = self._peers.get(entity_id)
        return () if peer is None else self._take(self._ota.activate(peer, now_ms), now_ms)

    def step(self, item: Input | None, now_ms: int) -> Sequence[Effect]:
        """Advance by one input or timer; see ``Machine``."""
        match item:
            case FrameReceived(frame=frame):
                if frame.cluster == ota.CLUSTER:
                    block = self._ota.plain_block(frame, now_ms)
                    if block is not None:
                        return (block,)
                return self._on_frame(frame, now_ms)
            case None:
                outputs = self._take(self._ota.timer(now_ms), now_ms)
                return (*outputs, *self._tunnels.timer(now_ms))
            case PeerAnnounced():
                return self._on_announce(item, now_ms)
            case SendConfirmed():
                return self._tunnels.confirmed(item, now_ms)
            case OfferImage():
                return self._take(self._ota.offer(item, now_ms), now_ms)
            case CarryMessage(recipient=recipient, message=message):
                return self._tunnels.carry(recipient, message, now_ms)
            case SetClock(utc=utc):
                self._utc_base = utc - now_ms // 1000
                return ()
            case ScheduleLoad(device=device) | CancelLoad(device=device):
                return self._load.ask(item, self._peers.get(device), now_ms)
            case Started() | NetworkUp() | NetworkDown():
                return ()
            case _:
                raise TypeError(f"a hub takes no {type(item).__name__}")

    def _on_announce(self, item: PeerAnnounced, now_ms: int) -> Sequence[Effect]:
        """A device (re)joined: open a tunnel, and mention what is on offer."""
        peer = self._peers.setdefault(item.entity_id, Peer(item.entity_id, item.short_address))
        if self._by_address.get(peer.address) is peer:
            del self._by_address[peer.address]
        peer.address = item.short_address
        self._by_address[peer.address] = peer
        return (
            Notify("device_announced", {"entity_id": str(item.entity_id)}),
            *self._tunnels.announced(peer, now_ms),
            *self._take(self._ota.announced(peer), now_ms),
        )

    def _on_frame(self, frame: Frame, now_ms: int) -> Sequence[Effect]:
        peer = self._by_address.get(frame.peer)
        if peer is None:
            return ()
        header: zcl.ZclHeader | None = None
        try:
            header, body = zcl.decode_header(frame.payload)
            return self._on_command(peer, frame, header, body, now_ms)
        except DecodeError as error:
            note = Notify("frame_refused", {"from": str(peer.entity_id), "reason": str(error)})
            if header is None or frame.broadcast or _is_answer(header):
                return (note,)
            return (note, default_response(frame, header, Status.MALFORMED_COMMAND))

    def _on_command(
        self, peer: Peer, frame: Frame, header: zcl.ZclHeader, body: bytes, now_ms: int
    ) -> Sequence[Effect]:
        if not header.cluster_specific:
            return self._on_general(frame, header, body, now_ms)
        if frame.cluster == ota.CLUSTER and not header.to_client:
            outputs = self._ota.step(peer, frame, header, body, now_ms)
            return self._take(outputs, now_ms)
        if frame.cluster == tunneling.CLUSTER and header.to_client:
            return self._tunnels.step(peer, frame, header, body, now_ms)
        if frame.cluster == drlc.CLUSTER and not header.to_client and not frame.broadcast:
            return self._load.step(peer, frame, header, body, now_ms)
        if frame.broadcast:
            return ()
        status = (
            Status.UNSUP_CLUSTER_COMMAND
            if frame.cluster in (ota.CLUSTER, tunneling.CLUSTER, drlc.CLUSTER, zcl.TIME_CLUSTER)
            else Status.UNSUPPORTED_CLUSTER
        )
        return (default_response(frame, header, status),)

    def _on_general(
        self, frame: Frame, header: zcl.ZclHeader, body: bytes, now_ms: int
    ) -> Sequence[Effect]:
        """Read Attributes; Default Responses and other answers change nothing here."""
        if _is_answer(header):
            return ()
        if header.command != zcl.READ_ATTRIBUTES:
            return (default_response(frame, header, Status.UNSUP_GENERAL_COMMAND),)
        known: dict[int, tuple[int, int]] = {}
        if frame.cluster == zcl.TIME_CLUSTER:
            master = TIME_STATUS_MASTER if self._settings.time_master else 0
            known = {
                TIME_ATTRIBUTE: (zcl.UTC_TIME, self.utc(now_ms)),
                TIME_STATUS_ATTRIBUTE: (zcl.BITMAP8, master),
            }
        values = tuple(
            AttributeValue(attribute, Status.SUCCESS, *known[attribute])
            if attribute in known
            else AttributeValue(attribute, Status.UNSUPPORTED_ATTRIBUTE)
            for attribute in zcl.decode_read_attributes(body)
        )
        back = zcl.ZclHeader(
            False, not header.to_client, True, None, header.sequence, zcl.READ_ATTRIBUTES_RESPONSE
        )
        payload = zcl.encode(back, zcl.encode_read_attributes_response(values))
        return (SendFrame(frame._replace(payload=payload, broadcast=False)),)

    # --- outcomes ---------------------------------------------------------------------------------

    def _take(self, outputs: Outputs, now_ms: int) -> Sequence[Effect]:
        return [
            self._alert(output, now_ms) if isinstance(output, TransferEnded) else output
            for output in outputs
        ]

    def _alert(self, ended: TransferEnded, now_ms: int) -> MessageUp:
        """CCS08, signed with the hub's key (gbcs.md 3.6)."""
        success = ended.response_code == fm.FILE_TRANSFER_SUCCESS
        payload = fm.encode_ccs08_alert(
            fm.FirmwareTransferAlert(
                fm.TRANSFER_SUCCESS if success else fm.TRANSFER_FAILURE,
                self.utc(now_ms),
                ended.entity_id,
                ended.file_version,
                ended.response_code,
            )
        )
        header = GroupingHeader(
            Cra.ALERT,
            self._counter.take(),
            self._settings.entity_id,
            self._settings.acb,
            fm.CCS08_FIRMWARE_TRANSFER,
        )
        key = self._keyring.signing_key(self._settings.entity_id)
        return MessageUp(seal_signed(header, payload, key))


def _is_answer(header: zcl.ZclHeader) -> bool:
    """What must never be answered by a Default Response."""
    return not header.cluster_specific and header.command in (
        zcl.DEFAULT_RESPONSE,
        zcl.READ_ATTRIBUTES_RESPONSE,
    )
