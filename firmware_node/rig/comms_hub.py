"""A Comms Hub: OTA server, tunnel client, Time server and the author of CCS08 alerts.

Offers are served to the devices they name. Each outcome of a transfer becomes one CCS08 alert to
the access control broker: image discarded (1), hardware version mismatch (2), transfer failure
(3), success (0). It never imports ``node``: the far side must not share our mistakes.
Source: gbcs.md 1.3, 3.6, 5, 6; gbcs-supplement 10.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from firmware_node.boundary import (
    CarryMessage,
    Delivered,
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
    SendConfirmed,
    SendFrame,
    SetClock,
    Started,
)
from firmware_node.crypto import Keyring
from firmware_node.errors import DecodeError
from firmware_node.sealing import seal_signed
from firmware_node.terms import EntityId, ImageKey, ShortAddress
from firmware_node.wire import firmware_messages as fm
from firmware_node.wire import ota, tunneling, zcl
from firmware_node.wire.gbcs import Cra, GroupingHeader
from firmware_node.wire.ota_file import OtaHeader, decode_ota_file
from firmware_node.wire.zcl import AttributeValue, Status

ENDPOINT = 1
TUNNEL_BUSY_RETRY_MS = 180_000  # gbcs.md 5
TUNNEL_REPLY_MS = 10_000
TRANSFER_RETRY_MS = 5_000
MESSAGES_MAX = 64  # waiting for one device
TIME_STATUS_MASTER = 0x01 | 0x02  # master, synchronised


@dataclass(frozen=True, slots=True)
class Misbehaviour:
    """A scripted fault of the OTA server: ``what`` happens ``times`` times, from a block on.

    ``what``: ``silence abort wait wrong_offset wrong_image truncated oversized malformed repeated
    default_error``.
    """

    what: str
    times: int = 1
    from_offset: int = 0


@dataclass(frozen=True, slots=True)
class HubSettings:
    """How a hub serves."""

    entity_id: EntityId
    acb: EntityId
    block_size_max: int = 255  # bytes; a smaller cap shortens answers
    block_period: int | None = None  # sent with WAIT_FOR_DATA
    wait_s: int = 1  # of a scripted WAIT_FOR_DATA
    activate_after_s: int | None = 0  # None: hold until ``activate``
    pages: bool = True
    transfer_timeout_s: int = 3_600  # without a block request, then CCS08 code 3
    default_responses: bool = True  # to TransferData
    utc: int = 0  # at monotonic zero, seconds since 2000-01-01
    first_counter: int = 1
    script: tuple[Misbehaviour, ...] = ()


@dataclass(slots=True)
class _Offer:
    request_id: str
    data: bytes
    header: OtaHeader
    devices: set[EntityId]
    asked_ms: dict[EntityId, int] = field(default_factory=dict)  # last sign of life
    transferred: set[EntityId] = field(default_factory=set)


@dataclass(slots=True)
class _Device:
    entity_id: EntityId
    address: ShortAddress
    tunnel_id: int | None = None
    tunnel_asked_ms: int | None = None
    not_before_ms: int = 0
    queue: deque[bytes] = field(default_factory=deque)
    sending: int = 0  # tag of the TransferData under way


@dataclass(slots=True)
class _Page:
    device: _Device
    request: ota.ImagePageRequest
    offset: int
    end: int
    at_ms: int
    sequence: int
    frame: Frame


class CommsHub:
    """See the module; a ``Machine``."""

    def __init__(self, settings: HubSettings, keyring: Keyring) -> None:
        self._settings = settings
        self._keyring = keyring
        self._devices: dict[EntityId, _Device] = {}
        self._by_address: dict[ShortAddress, _Device] = {}
        self._offers: list[_Offer] = []
        self._pages: list[_Page] = []
        self._script = [[m, m.times] for m in settings.script]
        self._utc_base = settings.utc
        self._counter = settings.first_counter
        self._sequence = 0
        self._tag = 0
        self.fired: list[str] = []  # misbehaviours that happened, in order

    @property
    def wake_at(self) -> int | None:
        """Page blocks, tunnel retries, transfer time-outs."""
        times = [page.at_ms for page in self._pages]
        for device in self._devices.values():
            if device.tunnel_id is None or (device.queue and not device.sending):
                times.append(device.not_before_ms)
        timeout = self._settings.transfer_timeout_s * 1000
        for offer in self._offers:
            times += [
                asked + timeout
                for who, asked in offer.asked_ms.items()
                if who in offer.devices and who not in offer.transferred
            ]
        return min(times, default=None)

    def utc(self, now_ms: int) -> int:
        """The hub's time, seconds since 2000-01-01."""
        return self._utc_base + now_ms // 1000

    def status(self, now_ms: int) -> dict[str, object]:
        """Devices and offers, for people."""
        return {
            "entity_id": str(self._settings.entity_id),
            "utc": zcl.utc_text(self.utc(now_ms)),
            "devices": [
                {
                    "entity_id": str(device.entity_id),
                    "short_address": device.address,
                    "tunnel": device.tunnel_id is not None,
                    "waiting": len(device.queue),
                }
                for device in self._devices.values()
            ],
            "offers": [
                {
                    "request_id": offer.request_id,
                    "version": offer.header.image.version_hex,
                    "devices": [str(who) for who in sorted(offer.devices)],
                }
                for offer in self._offers
            ],
        }

    def step(self, item: Input | None, now_ms: int) -> Sequence[Effect]:
        """Advance by one input or timer; see ``Machine``."""
        match item:
            case FrameReceived(frame=frame):
                return self._on_frame(frame, now_ms)
            case None:
                return self._on_timer(now_ms)
            case PeerAnnounced():
                return self._on_announce(item, now_ms)
            case SendConfirmed():
                return self._on_confirm(item, now_ms)
            case OfferImage():
                return self._on_offer(item, now_ms)
            case CarryMessage(recipient=recipient, message=message):
                return self._carry(recipient, message, now_ms)
            case SetClock(utc=utc):
                self._utc_base = utc - now_ms // 1000
                return ()
            case Started() | NetworkUp() | NetworkDown():
                return ()
            case _:
                raise TypeError(f"a hub takes no {type(item).__name__}")

    # --- frames -----------------------------------------------------------------------------------

    def _on_frame(self, frame: Frame, now_ms: int) -> Sequence[Effect]:
        device = self._by_address.get(frame.peer)
        if device is None:
            return ()
        try:
            header, body = zcl.decode_header(frame.payload)
            if frame.cluster == ota.CLUSTER:
                if header.cluster_specific:
                    return self._on_ota(device, frame, header, body, now_ms)
                return ()
            if frame.cluster == tunneling.CLUSTER:
                return self._on_tunnel(device, frame, header, body, now_ms)
            if frame.cluster == zcl.TIME_CLUSTER and header.command == zcl.READ_ATTRIBUTES:
                return self._on_time(frame, header, body, now_ms)
        except DecodeError as error:
            return (Notify("frame_refused", {"from": str(device.entity_id), "reason": str(error)}),)
        return ()

    def _on_ota(
        self, device: _Device, frame: Frame, header: zcl.ZclHeader, body: bytes, now_ms: int
    ) -> Sequence[Effect]:
        if header.command == ota.IMAGE_BLOCK_REQUEST:
            return self._on_block(device, frame, header, body, now_ms)
        if header.command == ota.QUERY_NEXT_IMAGE_REQUEST:
            return self._on_query(device, frame, header, body, now_ms)
        if header.command == ota.IMAGE_PAGE_REQUEST:
            return self._on_page(device, frame, header, body, now_ms)
        if header.command == ota.UPGRADE_END_REQUEST:
            return self._on_end(device, frame, header, body, now_ms)
        return (self._default(frame, header, Status.UNSUP_CLUSTER_COMMAND),)

    # --- OTA server -------------------------------------------------------------------------------

    def _on_offer(self, item: OfferImage, now_ms: int) -> Sequence[Effect]:
        try:
            file = decode_ota_file(item.ota_file)
        except DecodeError as error:
            effects: list[Effect] = [Notify("image_discarded", {"reason": str(error)})]
            for who in item.devices:
                effects += self._transfer_alert(who, 0, fm.FIRMWARE_IMAGE_DISCARDED, now_ms)
                effects.append(Delivered(item.request_id, who, "discarded"))
            return effects
        offer = _Offer(item.request_id, item.ota_file, file.header, set(item.devices))
        for older in self._offers:
            older.devices -= offer.devices
        self._offers = [older for older in self._offers if older.devices] + [offer]
        effects = []
        for who in item.devices:
            device = self._devices.get(who)
            offer.asked_ms[who] = now_ms
            if device is None:
                effects.append(Delivered(item.request_id, who, "unknown_device"))
            else:
                effects.append(Delivered(item.request_id, who, "offered"))
                effects.append(self._notify_device(device, offer))
        return effects

    def _notify_device(self, device: _Device, offer: _Offer) -> SendFrame:
        image = offer.header.image
        body = ota.encode_image_notify(ota.ImageNotify(3, ota.JITTER_MAX, *image))
        return self._command(device, ota.CLUSTER, ota.IMAGE_NOTIFY, body, quiet=True)

    def _offer_for(self, device: _Device, image: ImageKey) -> _Offer | None:
        for offer in self._offers:
            if device.entity_id in offer.devices and offer.header.image[:2] == image[:2]:
                return offer
        return None

    def _on_query(
        self, device: _Device, frame: Frame, header: zcl.ZclHeader, body: bytes, now_ms: int
    ) -> Sequence[Effect]:
        request = ota.decode_query_next_image_request(body)
        offer = self._offer_for(device, request.image)
        effects: list[Effect] = []
        response = ota.QueryNextImageResponse(Status.NO_IMAGE_AVAILABLE)
        # An image that was transferred is not pressed on a device that then went back from it.
        if (
            offer is not None
            and device.entity_id not in offer.transferred
            and request.image.file_version != offer.header.image.file_version
        ):
            low, high = offer.header.hardware_version_min, offer.header.hardware_version_max
            hardware = request.hardware_version
            if (
                hardware is not None
                and low is not None
                and high is not None
                and not (low <= hardware <= high)
            ):
                effects += self._end_offer(
                    offer, device, fm.HARDWARE_VERSION_MISMATCH, "hardware_mismatch", now_ms
                )
            else:
                offer.asked_ms[device.entity_id] = now_ms
                response = ota.QueryNextImageResponse(
                    Status.SUCCESS, offer.header.image, len(offer.data)
                )
                effects.append(Delivered(offer.request_id, device.entity_id, "downloading"))
        payload = ota.encode_query_next_image_response(response)
        effects.insert(0, self._reply(frame, header, ota.QUERY_NEXT_IMAGE_RESPONSE, payload))
        return effects

    def _on_block(
        self, device: _Device, frame: Frame, header: zcl.ZclHeader, body: bytes, now_ms: int
    ) -> Sequence[Effect]:
        image, offset, size, _, _ = ota.decode_image_block_request(body)
        offer = self._offer_for(device, image)
        if offer is None or offer.header.image != image or offset > len(offer.data):
            abort = ota.encode_image_block_response(ota.BlockStatus(Status.ABORT))
            return (self._reply(frame, header, ota.IMAGE_BLOCK_RESPONSE, abort),)
        offer.asked_ms[device.entity_id] = now_ms
        size = min(size, self._settings.block_size_max)
        if self._script:
            what = self._misbehave(offset)
            if what is not None:
                return self._serve_badly(what, frame, header, offer, offset, size, now_ms)
        # The answer's whole frame at once: this is the hot path.
        data = offer.data[offset : offset + size]
        block = ota.encode_image_block_response(ota.BlockData(image, offset, data))
        payload = bytes((0x19, header.sequence, ota.IMAGE_BLOCK_RESPONSE)) + block
        return (
            SendFrame(
                Frame(
                    frame.peer,
                    frame.peer_endpoint,
                    frame.endpoint,
                    frame.profile,
                    ota.CLUSTER,
                    payload,
                )
            ),
        )

    def _misbehave(self, offset: int) -> str | None:
        for entry in self._script:
            rule, left = entry
            assert isinstance(rule, Misbehaviour) and isinstance(left, int)
            if left > 0 and offset >= rule.from_offset:
                entry[1] = left - 1
                self.fired.append(rule.what)
                return rule.what
        return None

    def _serve_badly(
        self,
        what: str,
        frame: Frame,
        header: zcl.ZclHeader,
        offer: _Offer,
        offset: int,
        size: int,
        now_ms: int,
    ) -> Sequence[Effect]:
        image, data = offer.header.image, offer.data[offset : offset + size]
        command = ota.IMAGE_BLOCK_RESPONSE
        encode = ota.encode_image_block_response
        good = encode(ota.BlockData(image, offset, data))
        match what:
            case "silence":
                return ()
            case "abort":
                body = encode(ota.BlockStatus(Status.ABORT))
            case "wait":
                utc = self.utc(now_ms)
                wait = ota.WaitForData(
                    utc, utc + self._settings.wait_s, self._settings.block_period
                )
                body = encode(wait)
            case "wrong_offset":
                body = encode(ota.BlockData(image, offset + 1, data))
            case "wrong_image":
                other = image._replace(file_version=image.file_version ^ 1)
                body = encode(ota.BlockData(other, offset, data))
            case "truncated":
                body = good[:-1]
            case "oversized":
                body = encode(ota.BlockData(image, offset, offer.data[offset : offset + 255]))
            case "malformed":
                body = b""
            case "repeated":
                reply = self._reply(frame, header, command, good)
                return (reply, reply)
            case "default_error":
                return (self._default(frame, header, Status.FAILURE),)
            case _:
                raise ValueError(f"no misbehaviour is called {what}")
        return (self._reply(frame, header, command, body),)

    def _on_page(
        self, device: _Device, frame: Frame, header: zcl.ZclHeader, body: bytes, now_ms: int
    ) -> Sequence[Effect]:
        request = ota.decode_image_page_request(body)
        offer = self._offer_for(device, request.image)
        if not self._settings.pages or offer is None:
            return (self._default(frame, header, Status.UNSUP_CLUSTER_COMMAND),)
        offer.asked_ms[device.entity_id] = now_ms
        self._pages = [page for page in self._pages if page.device is not device]
        end = min(request.file_offset + request.page_size, len(offer.data))
        page = _Page(device, request, request.file_offset, end, now_ms, header.sequence, frame)
        return self._serve_page(page, offer, now_ms)

    def _serve_page(self, page: _Page, offer: _Offer, now_ms: int) -> Sequence[Effect]:
        """The blocks of a page that are due; without spacing, all of them at once."""
        effects: list[Effect] = []
        while page.offset < page.end:
            size = min(page.request.size_max, self._settings.block_size_max)
            data = offer.data[page.offset : min(page.offset + size, page.end)]
            block = ota.encode_image_block_response(
                ota.BlockData(offer.header.image, page.offset, data)
            )
            payload = bytes((0x19, page.sequence, ota.IMAGE_BLOCK_RESPONSE)) + block
            effects.append(SendFrame(page.frame._replace(payload=payload, broadcast=False)))
            page.offset += len(data)
            if page.request.response_spacing:
                break
        if page.offset < page.end:
            page.at_ms = now_ms + page.request.response_spacing
            if page not in self._pages:
                self._pages.append(page)
        elif page in self._pages:
            self._pages.remove(page)
        return effects

    def _on_end(
        self, device: _Device, frame: Frame, header: zcl.ZclHeader, body: bytes, now_ms: int
    ) -> Sequence[Effect]:
        request = ota.decode_upgrade_end_request(body)
        offer = None if request.image is None else self._offer_for(device, request.image)
        if offer is None:
            offers = [o for o in self._offers if device.entity_id in o.devices]
            if request.status == Status.SUCCESS or not offers:
                return (self._default(frame, header, Status.NOT_FOUND),)
            offer = offers[0]
        if request.status != Status.SUCCESS:
            effects = list(
                self._end_offer(offer, device, fm.FILE_TRANSFER_FAILURE, "transfer_failed", now_ms)
            )
            return (self._default(frame, header, Status.SUCCESS), *effects)
        effects = []
        if device.entity_id not in offer.transferred:
            offer.transferred.add(device.entity_id)
            effects += self._transfer_alert(
                device.entity_id, offer.header.image.file_version, fm.FILE_TRANSFER_SUCCESS, now_ms
            )
            effects.append(Delivered(offer.request_id, device.entity_id, "transferred"))
        utc, after = self.utc(now_ms), self._settings.activate_after_s
        upgrade_time = ota.HOLD if after is None else utc + after
        response = ota.UpgradeEndResponse(offer.header.image, utc, upgrade_time)
        payload = ota.encode_upgrade_end_response(response)
        effects.insert(0, self._reply(frame, header, ota.UPGRADE_END_RESPONSE, payload))
        return effects

    def _end_offer(
        self, offer: _Offer, device: _Device, code: int, status: str, now_ms: int
    ) -> Sequence[Effect]:
        offer.devices.discard(device.entity_id)
        self._offers = [o for o in self._offers if o.devices]
        return (
            *self._transfer_alert(device.entity_id, offer.header.image.file_version, code, now_ms),
            Delivered(offer.request_id, device.entity_id, status),
        )

    def _transfer_alert(
        self, who: EntityId, version: int, code: int, now_ms: int
    ) -> Sequence[Effect]:
        """CCS08, signed with the hub's key (gbcs.md 3.6)."""
        success = code == fm.FILE_TRANSFER_SUCCESS
        payload = fm.encode_ccs08_alert(
            fm.FirmwareTransferAlert(
                fm.TRANSFER_SUCCESS if success else fm.TRANSFER_FAILURE,
                self.utc(now_ms),
                who,
                version,
                code,
            )
        )
        self._counter += 1
        header = GroupingHeader(
            Cra.ALERT,
            self._counter,
            self._settings.entity_id,
            self._settings.acb,
            fm.CCS08_FIRMWARE_TRANSFER,
        )
        key = self._keyring.signing_key(self._settings.entity_id)
        return (MessageUp(seal_signed(header, payload, key)),)

    # --- tunnel client ----------------------------------------------------------------------------

    def _on_announce(self, item: PeerAnnounced, now_ms: int) -> Sequence[Effect]:
        """A device (re)joined: its tunnel is gone; open one, and mention what is on offer."""
        device = self._devices.get(item.entity_id)
        if device is None:
            device = self._devices[item.entity_id] = _Device(item.entity_id, item.short_address)
        self._by_address.pop(device.address, None)
        device.address = item.short_address
        self._by_address[item.short_address] = device
        device.tunnel_id, device.sending, device.not_before_ms = None, 0, 0
        effects: list[Effect] = [
            Notify("device_announced", {"entity_id": str(item.entity_id)}),
            *self._request_tunnel(device, now_ms),
        ]
        for offer in self._offers:
            if item.entity_id in offer.devices and item.entity_id not in offer.transferred:
                effects.append(Delivered(offer.request_id, item.entity_id, "offered"))
                effects.append(self._notify_device(device, offer))
        return effects

    def _carry(self, recipient: EntityId, message: bytes, now_ms: int) -> Sequence[Effect]:
        device = self._devices.get(recipient)
        if device is None:
            return (Delivered("", recipient, "unknown_device"),)
        if len(device.queue) >= MESSAGES_MAX:
            return (Delivered("", recipient, "no_route"),)
        device.queue.append(message)
        return self._pump(device, now_ms)

    def _pump(self, device: _Device, now_ms: int) -> Sequence[Effect]:
        if not device.queue or device.sending or now_ms < device.not_before_ms:
            return ()
        if device.tunnel_id is None:
            return self._request_tunnel(device, now_ms)
        self._tag += 1
        device.sending = self._tag
        transfer = tunneling.TransferData(device.tunnel_id, device.queue[0])
        frame = self._command(
            device,
            tunneling.CLUSTER,
            tunneling.TO_SERVER_TRANSFER_DATA,
            tunneling.encode_transfer_data(transfer),
            to_client=False,
        )
        return (frame._replace(tag=self._tag),)

    def _request_tunnel(self, device: _Device, now_ms: int) -> Sequence[Effect]:
        device.not_before_ms = now_ms + TUNNEL_REPLY_MS
        request = tunneling.RequestTunnel(
            tunneling.PROTOCOL_GB_HGRP,
            tunneling.MANUFACTURER_CODE,
            False,
            tunneling.TRANSFER_SIZE_MAX,
        )
        return (
            self._command(
                device,
                tunneling.CLUSTER,
                tunneling.TO_SERVER_REQUEST_TUNNEL,
                tunneling.encode_request_tunnel(request),
                to_client=False,
            ),
        )

    def _on_tunnel(
        self, device: _Device, frame: Frame, header: zcl.ZclHeader, body: bytes, now_ms: int
    ) -> Sequence[Effect]:
        if not header.cluster_specific:
            return ()
        match header.command:
            case tunneling.TO_CLIENT_REQUEST_TUNNEL_RESPONSE:
                response = tunneling.decode_request_tunnel_response(body)
                if response.status == tunneling.STATUS_SUCCESS:
                    device.tunnel_id, device.not_before_ms = response.tunnel_id, 0
                    return self._pump(device, now_ms)
                device.not_before_ms = now_ms + TUNNEL_BUSY_RETRY_MS
            case tunneling.TO_CLIENT_TRANSFER_DATA:
                transfer = tunneling.decode_transfer_data(body)
                effects: list[Effect] = [MessageUp(transfer.data)]
                if self._settings.default_responses:
                    effects.append(self._default(frame, header, Status.SUCCESS))
                return effects
            case tunneling.TO_CLIENT_TRANSFER_DATA_ERROR | tunneling.TO_CLIENT_TUNNEL_CLOSURE:
                device.tunnel_id, device.sending = None, 0
                return self._request_tunnel(device, now_ms)
        return ()

    def _on_confirm(self, item: SendConfirmed, now_ms: int) -> Sequence[Effect]:
        for device in self._devices.values():
            if device.sending == item.tag:
                device.sending = 0
                if not item.delivered:
                    device.not_before_ms = now_ms + TRANSFER_RETRY_MS
                    return ()
                device.queue.popleft()
                return (
                    Delivered("", device.entity_id, "delivered"),
                    *self._pump(device, now_ms),
                )
        return ()

    # --- time, timers, frames out -----------------------------------------------------------------

    def _on_time(
        self, frame: Frame, header: zcl.ZclHeader, body: bytes, now_ms: int
    ) -> Sequence[Effect]:
        known = {
            0x0000: (zcl.UTC_TIME, self.utc(now_ms)),
            0x0001: (zcl.BITMAP8, TIME_STATUS_MASTER),
        }
        values = tuple(
            AttributeValue(attribute, Status.SUCCESS, *known[attribute])
            if attribute in known
            else AttributeValue(attribute, Status.UNSUPPORTED_ATTRIBUTE)
            for attribute in zcl.decode_read_attributes(body)
        )
        reply = zcl.ZclHeader(
            False, True, True, None, header.sequence, zcl.READ_ATTRIBUTES_RESPONSE
        )
        payload = zcl.encode(reply, zcl.encode_read_attributes_response(values))
        return (SendFrame(frame._replace(payload=payload, broadcast=False)),)

    def _on_timer(self, now_ms: int) -> Sequence[Effect]:
        effects: list[Effect] = []
        for page in [page for page in self._pages if page.at_ms <= now_ms]:
            offer = self._offer_for(page.device, page.request.image)
            if offer is None:
                self._pages.remove(page)
            else:
                effects += self._serve_page(page, offer, now_ms)
        for device in self._devices.values():
            if device.not_before_ms <= now_ms and device.tunnel_id is None:
                effects += self._request_tunnel(device, now_ms)
            elif device.queue and device.not_before_ms <= now_ms:
                effects += self._pump(device, now_ms)
        timeout = self._settings.transfer_timeout_s * 1000
        for offer in list(self._offers):
            for who in sorted(offer.devices - offer.transferred):
                if now_ms >= offer.asked_ms.get(who, now_ms) + timeout:
                    silent = self._devices.get(who) or _Device(who, ShortAddress(0xFFFE))
                    effects += self._end_offer(
                        offer, silent, fm.FILE_TRANSFER_FAILURE, "transfer_failed", now_ms
                    )
        return effects

    def _command(
        self,
        device: _Device,
        cluster: int,
        command: int,
        body: bytes,
        *,
        to_client: bool = True,
        quiet: bool = False,
    ) -> SendFrame:
        self._sequence = (self._sequence + 1) & 0xFF
        header = zcl.ZclHeader(True, to_client, quiet, None, self._sequence, command)
        return SendFrame(
            Frame(
                device.address,
                ENDPOINT,
                ENDPOINT,
                zcl.SMART_ENERGY_PROFILE,
                cluster,
                zcl.encode(header, body),
            )
        )

    @staticmethod
    def _reply(frame: Frame, header: zcl.ZclHeader, command: int, body: bytes) -> SendFrame:
        reply = zcl.ZclHeader(True, True, True, None, header.sequence, command)
        return SendFrame(frame._replace(payload=zcl.encode(reply, body), broadcast=False))

    @staticmethod
    def _default(frame: Frame, header: zcl.ZclHeader, status: Status) -> SendFrame:
        reply = zcl.ZclHeader(
            False, not header.to_client, True, None, header.sequence, zcl.DEFAULT_RESPONSE
        )
        body = zcl.encode_default_response(header.command, status)
        return SendFrame(frame._replace(payload=zcl.encode(reply, body), broadcast=False))
