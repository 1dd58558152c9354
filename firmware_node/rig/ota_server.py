"""The hub's OTA server: offers, queries, blocks and pages, the end of an upgrade, scripted faults.

One device has at most one offer; a newer one takes the older one's place. What became of a
transfer goes out as ``TransferEnded``, which the hub turns into an alert.
Source: gbcs.md 1.3, 6; gbcs-supplement 10; ZCL chapter 11.

Ordering rules:

1. The answer to a request comes before whatever it causes.
2. A transfer that ended is forgotten, except a successful one: its Upgrade End Request may come
   again, and is answered again without a second alert, until the device runs the image.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from firmware_node.boundary import Delivered, Effect, Frame, Notify, OfferImage, SendFrame
from firmware_node.errors import DecodeError
from firmware_node.rig.hub_terms import (
    HubSettings,
    Peer,
    Script,
    command,
    default_response,
    reply,
)
from firmware_node.terms import EntityId, ImageKey, ShortAddress
from firmware_node.wire import firmware_messages as fm
from firmware_node.wire import ota, zcl
from firmware_node.wire.ota_file import OtaHeader, decode_ota_file
from firmware_node.wire.zcl import Status

_KEY = struct.Struct("<HHI")
_OFFSET_AND_SIZE = struct.Struct("<IB")
_ANSWER = struct.Struct("<BBBB8sIB")  # ZCL header, status, image key, offset, size
_PLAIN_REQUEST_SIZE = 17  # ZCL header and a block request without optional fields
_SERVER_TO_CLIENT = 0x19  # frame control: cluster-specific, no default response
_ENDS_A_PAGE = ("abort", "wait", "bad_time", "default_error")


@dataclass(frozen=True, slots=True)
class TransferEnded:
    """What became of the transfer to one device: a CCS08 response code."""

    entity_id: EntityId
    file_version: int
    response_code: int


Outputs = Sequence[Effect | TransferEnded]


@dataclass(frozen=True, slots=True)
class _Offer:
    request_id: str
    data: bytes
    header: OtaHeader
    key: bytes  # the image key as it travels
    out_of_band: bool  # activated by CS06, never by us (gbcs.md 6.2)


@dataclass(slots=True)
class _Transfer:
    offer: _Offer
    asked_ms: int  # last sign of life
    block_ms: int | None = None  # last block served
    served_to: int = 0  # the file offset behind it
    blocks: int = 0  # served in all
    transferred: bool = False
    activating: bool = False
    activate_at: int | None = None  # UTC; one that moved with every answer would never come


@dataclass(slots=True)
class _Page:
    peer: Peer
    transfer: _Transfer
    size_max: int
    spacing_ms: int
    offset: int
    end: int
    at_ms: int
    header: zcl.ZclHeader
    frame: Frame


class OtaServer:
    """See the module. ``peers`` is the hub's own map; ``utc`` gives its time."""

    def __init__(
        self,
        settings: HubSettings,
        peers: Mapping[EntityId, Peer],
        utc: Callable[[int], int],
    ) -> None:
        self._settings = settings
        self._peers = peers
        self._utc = utc
        self._transfers: dict[EntityId, _Transfer] = {}
        self._at: dict[ShortAddress, _Transfer] = {}  # the same, for the hot path
        self._pages: dict[EntityId, _Page] = {}
        self._late: list[tuple[int, SendFrame]] = []
        self._held_back: list[SendFrame] = []
        self._sequence = 0
        self.script = Script(settings.script)
        self.wake_at: int | None = None

    def report(self) -> list[dict[str, object]]:
        """The offers and who is still in them, for people."""
        offers: dict[str, tuple[_Offer, list[EntityId]]] = {}
        for who, transfer in self._transfers.items():
            offers.setdefault(transfer.offer.request_id, (transfer.offer, []))[1].append(who)
        return [
            {
                "request_id": request_id,
                "version": offer.header.image.version_hex,
                "devices": [str(who) for who in sorted(devices)],
            }
            for request_id, (offer, devices) in offers.items()
        ]

    def progress(self, who: EntityId) -> tuple[int, int, int] | None:
        """Bytes served of how many, and in how many blocks; None: no transfer goes on."""
        transfer = self._transfers.get(who)
        if transfer is None or transfer.transferred or not transfer.blocks:
            return None
        return transfer.served_to, len(transfer.offer.data), transfer.blocks

    # --- offers -----------------------------------------------------------------------------------

    def offer(self, item: OfferImage, now_ms: int) -> Outputs:
        """Take a file to serve; one that is no OTA file is discarded (CCS08 code 1)."""
        try:
            file = decode_ota_file(item.ota_file)
        except DecodeError as error:
            outputs: list[Effect | TransferEnded] = [
                Notify("image_discarded", {"reason": str(error)})
            ]
            for who in item.devices:
                outputs.append(TransferEnded(who, 0, fm.FIRMWARE_IMAGE_DISCARDED))
                outputs.append(Delivered(item.request_id, who, "discarded"))
            return outputs
        offer = _Offer(
            item.request_id,
            item.ota_file,
            file.header,
            _KEY.pack(*file.header.image),
            item.out_of_band,
        )
        outputs = []
        for who in item.devices:
            self._transfers[who] = _Transfer(offer, now_ms)
            self._pages.pop(who, None)
            peer = self._peers.get(who)
            if peer is None:
                outputs.append(Delivered(item.request_id, who, "unknown_device"))
            else:
                outputs.append(Delivered(item.request_id, who, "offered"))
                outputs.append(self._notify(peer, offer))
        self._index()
        self._wake(now_ms + self._settings.transfer_timeout_s * 1000)
        return outputs

    def announced(self, peer: Peer) -> Outputs:
        """A device (re)joined: its page is over, and it hears of what is on offer for it."""
        self._pages.pop(peer.entity_id, None)
        self._index()
        transfer = self._transfers.get(peer.entity_id)
        if transfer is None or transfer.transferred:
            return ()
        return (
            Delivered(transfer.offer.request_id, peer.entity_id, "offered"),
            self._notify(peer, transfer.offer),
        )

    def activate(self, peer: Peer, now_ms: int) -> Outputs:
        """Let a device activate that was told to hold: an Upgrade End Response nobody asked for."""
        transfer = self._transfers.get(peer.entity_id)
        if transfer is None or not transfer.transferred:
            return ()
        utc = self._utc(now_ms)
        response = ota.UpgradeEndResponse(transfer.offer.header.image, utc, utc)
        body = ota.encode_upgrade_end_response(response)
        return (
            self._command(peer, ota.UPGRADE_END_RESPONSE, body),
            *self._activating(peer, transfer),
        )

    def _notify(self, peer: Peer, offer: _Offer) -> SendFrame:
        notify = ota.ImageNotify(3, ota.JITTER_MAX, *offer.header.image)
        return self._command(peer, ota.IMAGE_NOTIFY, ota.encode_image_notify(notify))

    def _index(self) -> None:
        self._at = {
            self._peers[who].address: transfer
            for who, transfer in self._transfers.items()
            if who in self._peers
        }

    # --- frames -----------------------------------------------------------------------------------

    def plain_block(self, frame: Frame, now_ms: int) -> SendFrame | None:
        """The hot path: an ordinary block request, answered well. None: take the long way."""
        payload = frame.payload
        if (
            len(payload) != _PLAIN_REQUEST_SIZE
            or payload[0] & 0x0F != 0x01
            or payload[2] != ota.IMAGE_BLOCK_REQUEST
            or payload[3]
            or self.script.active
            or self._held_back
        ):
            return None
        transfer = self._at.get(frame.peer)
        if transfer is None or payload[4:12] != transfer.offer.key:
            return None
        offset, size = _OFFSET_AND_SIZE.unpack_from(payload, 12)
        data = transfer.offer.data
        if not size or offset >= len(data) or self._settings.block_period:
            return None
        transfer.asked_ms = transfer.block_ms = now_ms
        cap = self._settings.block_size_max
        block = data[offset : offset + (size if size < cap else cap)]
        transfer.served_to = offset + len(block)
        transfer.blocks += 1
        peer, peer_endpoint, endpoint, profile, cluster, _, _ = frame
        head = _ANSWER.pack(
            _SERVER_TO_CLIENT,
            payload[1],
            ota.IMAGE_BLOCK_RESPONSE,
            Status.SUCCESS,
            transfer.offer.key,
            offset,
            len(block),
        )
        return SendFrame(Frame(peer, peer_endpoint, endpoint, profile, cluster, head + block))

    def step(
        self, peer: Peer, frame: Frame, header: zcl.ZclHeader, body: bytes, now_ms: int
    ) -> Outputs:
        """Take one cluster-specific frame.

        Raises:
            DecodeError: its body is malformed.
        """
        match header.command:
            case ota.IMAGE_BLOCK_REQUEST:
                return self._on_block(peer, frame, header, body, now_ms)
            case ota.IMAGE_PAGE_REQUEST:
                return self._on_page(peer, frame, header, body, now_ms)
            case ota.QUERY_NEXT_IMAGE_REQUEST:
                return self._on_query(peer, frame, header, body, now_ms)
            case ota.UPGRADE_END_REQUEST:
                return self._on_end(peer, frame, header, body, now_ms)
            case ota.SPECIFIC_FILE_REQUEST:
                return self._on_specific_file(frame, header, body)
        return (default_response(frame, header, Status.UNSUP_CLUSTER_COMMAND),)

    # --- query ------------------------------------------------------------------------------------

    def _on_query(
        self, peer: Peer, frame: Frame, header: zcl.ZclHeader, body: bytes, now_ms: int
    ) -> Outputs:
        request = ota.decode_query_next_image_request(body)
        transfer = self._transfers.get(peer.entity_id)
        none = ota.QueryNextImageResponse(Status.NO_IMAGE_AVAILABLE)
        if transfer is None or transfer.offer.header.image[:2] != request.image[:2]:
            return self._answer_query(frame, header, none)
        offer = transfer.offer
        if transfer.transferred:
            # It runs, or the device went back from it; then it is not pressed on it again.
            if request.image.file_version == offer.header.image.file_version:
                self._forget(peer.entity_id)
            return self._answer_query(frame, header, none)
        if request.image.file_version == offer.header.image.file_version:
            return self._answer_query(frame, header, none)
        if not _suits(offer.header, request.hardware_version):
            return (
                *self._answer_query(frame, header, none),
                *self._fail(
                    peer.entity_id, transfer, fm.HARDWARE_VERSION_MISMATCH, "hardware_mismatch"
                ),
            )
        transfer.asked_ms = now_ms
        offered = ota.QueryNextImageResponse(Status.SUCCESS, offer.header.image, len(offer.data))
        return (
            *self._answer_query(frame, header, offered),
            Delivered(offer.request_id, peer.entity_id, "downloading"),
        )

    def _answer_query(
        self, frame: Frame, header: zcl.ZclHeader, response: ota.QueryNextImageResponse
    ) -> Sequence[SendFrame]:
        image, size = response.image, response.size
        if image is None or size is None:  # only a good answer can be spoilt
            body = ota.encode_query_next_image_response(response)
            return (reply(frame, header, ota.QUERY_NEXT_IMAGE_RESPONSE, body),)
        match self.script.next(ota.QUERY_NEXT_IMAGE_REQUEST):
            case "query_silence":
                return ()
            case "query_default_error":
                return (default_response(frame, header, Status.FAILURE),)
            case "query_malformed":
                return (reply(frame, header, ota.QUERY_NEXT_IMAGE_RESPONSE, b""),)
            case "query_refused":
                response = ota.QueryNextImageResponse(Status.NOT_AUTHORIZED)
            case "query_wrong_image":
                response = response._replace(image=image._replace(image_type=image.image_type ^ 1))
            case "query_wrong_size":
                response = response._replace(size=size + 1)
        body = ota.encode_query_next_image_response(response)
        return (reply(frame, header, ota.QUERY_NEXT_IMAGE_RESPONSE, body),)

    def _on_specific_file(
        self, frame: Frame, header: zcl.ZclHeader, body: bytes
    ) -> Sequence[SendFrame]:
        """Query Device Specific File: what is on offer for the node it names, if it is that."""
        request = ota.decode_specific_file_request(body)
        response = ota.QueryNextImageResponse(Status.NO_IMAGE_AVAILABLE)
        transfer = self._transfers.get(request.node)
        if transfer is not None:
            image = transfer.offer.header.image
            if request.image[:2] == image[:2] and request.image.file_version in (
                image.file_version,
                ota.VERSION_WILDCARD,
            ):
                size = len(transfer.offer.data)
                response = ota.QueryNextImageResponse(Status.SUCCESS, image, size)
        answer = ota.encode_specific_file_response(response)
        return (reply(frame, header, ota.SPECIFIC_FILE_RESPONSE, answer),)

    # --- blocks and pages -------------------------------------------------------------------------

    def _on_block(
        self, peer: Peer, frame: Frame, header: zcl.ZclHeader, body: bytes, now_ms: int
    ) -> Sequence[SendFrame]:
        request = ota.decode_image_block_request(body)
        transfer = self._transfers.get(peer.entity_id)
        if transfer is None or not self._is_served(transfer, request.image, request.file_offset):
            return (_status(frame, header, Status.ABORT),)
        if not request.size_max:
            return (default_response(frame, header, Status.MALFORMED_COMMAND),)
        transfer.asked_ms = now_ms
        period, last_ms = self._settings.block_period, transfer.block_ms
        if period is not None and last_ms is not None and now_ms - last_ms < period:
            wait = ota.WaitForData(0, 0, period)
            answer = ota.encode_image_block_response(wait)
            return (reply(frame, header, ota.IMAGE_BLOCK_RESPONSE, answer),)
        transfer.block_ms = now_ms
        what = self.script.next(ota.IMAGE_BLOCK_REQUEST, request.file_offset)
        size = min(request.size_max, self._settings.block_size_max)
        return self._serve(what, frame, header, transfer, request.file_offset, size, now_ms)

    @staticmethod
    def _is_served(transfer: _Transfer, image: ImageKey, offset: int) -> bool:
        return image == transfer.offer.header.image and offset < len(transfer.offer.data)

    def _serve(
        self,
        what: str | None,
        frame: Frame,
        header: zcl.ZclHeader,
        transfer: _Transfer,
        offset: int,
        size: int,
        now_ms: int,
    ) -> Sequence[SendFrame]:
        """The frames that answer one block, well or spoilt, and one that was held back before."""
        image, data = transfer.offer.header.image, transfer.offer.data
        block = ota.BlockData(image, offset, data[offset : offset + size])
        transfer.served_to = offset + len(block.data)
        transfer.blocks += 1
        held, self._held_back = self._held_back, []
        if what == "default_error":
            return (default_response(frame, header, Status.FAILURE), *held)
        body = self._spoil(what, block, data, now_ms)
        answer = reply(frame, header, ota.IMAGE_BLOCK_RESPONSE, body)
        match what:
            case "silence":
                return held
            case "repeated":
                return (answer, answer, *held)
            case "reordered":
                self._held_back = [answer]
                return held
            case "late":
                at = now_ms + self._settings.late_ms
                self._late.append((at, answer))
                self._wake(at)
                return held
        return (answer, *held)

    def _spoil(self, what: str | None, block: ota.BlockData, data: bytes, now_ms: int) -> bytes:
        image, offset, octets = block
        answer: ota.BlockData | ota.WaitForData | ota.BlockStatus = block
        match what:
            case "malformed":
                return b""
            case "truncated":
                return ota.encode_image_block_response(block)[:-1]
            case "abort":
                answer = ota.BlockStatus(Status.ABORT)
            case "wait" | "bad_time":
                wait_s = self._settings.wait_s if what == "wait" else -1
                current = 0 if self._settings.wait_relative and wait_s >= 0 else self._utc(now_ms)
                answer = ota.WaitForData(current, current + wait_s, self._settings.block_period)
            case "wrong_offset":
                answer = block._replace(file_offset=offset + 1)
            case "wrong_image":
                other = image._replace(file_version=image.file_version ^ 1)
                answer = block._replace(image=other)
            case "oversized":
                answer = block._replace(data=data[offset : offset + 255])
            case "corrupted":
                middle = len(octets) // 2
                flipped = bytes((octets[middle] ^ 0x01,))
                answer = block._replace(data=octets[:middle] + flipped + octets[middle + 1 :])
        return ota.encode_image_block_response(answer)

    def _on_page(
        self, peer: Peer, frame: Frame, header: zcl.ZclHeader, body: bytes, now_ms: int
    ) -> Sequence[SendFrame]:
        request = ota.decode_image_page_request(body)
        if not self._settings.pages:
            return (default_response(frame, header, Status.UNSUP_CLUSTER_COMMAND),)
        transfer = self._transfers.get(peer.entity_id)
        if transfer is None or not self._is_served(transfer, request.image, request.file_offset):
            return (_status(frame, header, Status.ABORT),)
        if not request.size_max or not request.page_size:
            return (default_response(frame, header, Status.MALFORMED_COMMAND),)
        transfer.asked_ms = now_ms
        page = _Page(
            peer,
            transfer,
            min(request.size_max, self._settings.block_size_max),
            request.response_spacing,
            request.file_offset,
            min(request.file_offset + request.page_size, len(transfer.offer.data)),
            now_ms,
            header,
            frame,
        )
        self._pages[peer.entity_id] = page
        return self._serve_page(page, now_ms)

    def _serve_page(self, page: _Page, now_ms: int) -> Sequence[SendFrame]:
        """The blocks of a page that are due; without spacing, all of them at once."""
        frames: list[SendFrame] = []
        while page.offset < page.end:
            size = min(page.size_max, page.end - page.offset)
            what = self.script.next(ota.IMAGE_BLOCK_REQUEST, page.offset)
            frames += self._serve(
                what, page.frame, page.header, page.transfer, page.offset, size, now_ms
            )
            page.offset = page.end if what in _ENDS_A_PAGE else page.offset + size
            if page.spacing_ms:
                break
        if page.offset < page.end:
            page.at_ms = now_ms + page.spacing_ms
            self._wake(page.at_ms)
        else:
            self._pages.pop(page.peer.entity_id, None)
        return frames

    # --- the end of an upgrade --------------------------------------------------------------------

    def _on_end(
        self, peer: Peer, frame: Frame, header: zcl.ZclHeader, body: bytes, now_ms: int
    ) -> Outputs:
        request = ota.decode_upgrade_end_request(body)
        transfer = self._transfers.get(peer.entity_id)
        if transfer is None or request.image not in (None, transfer.offer.header.image):
            return (default_response(frame, header, Status.NOT_FOUND),)
        transfer.asked_ms = now_ms
        if request.status == Status.REQUIRE_MORE_IMAGE:
            return (default_response(frame, header, Status.SUCCESS),)
        if request.status != Status.SUCCESS:
            return (
                default_response(frame, header, Status.SUCCESS),
                *self._fail(peer.entity_id, transfer, fm.FILE_TRANSFER_FAILURE, "transfer_failed"),
            )
        outputs: list[Effect | TransferEnded] = []
        answer, let = self._answer_end(frame, header, transfer, now_ms)
        outputs += answer
        if not transfer.transferred:
            transfer.transferred = True
            version = transfer.offer.header.image.file_version
            outputs.append(TransferEnded(peer.entity_id, version, fm.FILE_TRANSFER_SUCCESS))
            outputs.append(Delivered(transfer.offer.request_id, peer.entity_id, "transferred"))
        if let:
            outputs += self._activating(peer, transfer)
        return outputs

    def _answer_end(
        self, frame: Frame, header: zcl.ZclHeader, transfer: _Transfer, now_ms: int
    ) -> tuple[Sequence[SendFrame], bool]:
        """The answer, and whether it lets the device activate."""
        image, utc = transfer.offer.header.image, self._utc(now_ms)
        after_s = self._settings.activate_after_s
        if after_s is not None and not transfer.offer.out_of_band:
            if transfer.activate_at is None:
                transfer.activate_at = utc + after_s
            upgrade_time = max(transfer.activate_at, utc)
        else:
            upgrade_time = ota.HOLD
        response = ota.UpgradeEndResponse(image, utc, upgrade_time)
        match self.script.next(ota.UPGRADE_END_REQUEST):
            case "end_silence":
                return (), False
            case "end_default_error":
                return (default_response(frame, header, Status.FAILURE),), False
            case "end_malformed":
                return (reply(frame, header, ota.UPGRADE_END_RESPONSE, b""),), False
            case "end_hold":
                response = response._replace(upgrade_time=ota.HOLD)
            case "end_bad_time":
                response = response._replace(upgrade_time=utc - 1)
            case "end_wrong_image":
                other = image._replace(file_version=image.file_version ^ 1)
                response = response._replace(image=other)
        body = ota.encode_upgrade_end_response(response)
        let = response.image == image and response.upgrade_time != ota.HOLD
        return (reply(frame, header, ota.UPGRADE_END_RESPONSE, body),), let

    @staticmethod
    def _activating(peer: Peer, transfer: _Transfer) -> Sequence[Delivered]:
        if transfer.activating:
            return ()
        transfer.activating = True
        return (Delivered(transfer.offer.request_id, peer.entity_id, "activating"),)

    def _fail(self, who: EntityId, transfer: _Transfer, code: int, status: str) -> Outputs:
        self._forget(who)
        return (
            TransferEnded(who, transfer.offer.header.image.file_version, code),
            Delivered(transfer.offer.request_id, who, status),
        )

    def _forget(self, who: EntityId) -> None:
        del self._transfers[who]
        self._pages.pop(who, None)
        self._index()

    # --- timers -----------------------------------------------------------------------------------

    def timer(self, now_ms: int) -> Outputs:
        """Late answers, page blocks and transfers that went quiet; sets the next timer."""
        outputs: list[Effect | TransferEnded] = []
        outputs += [frame for at, frame in self._late if at <= now_ms]
        self._late = [(at, frame) for at, frame in self._late if at > now_ms]
        for page in list(self._pages.values()):
            if page.at_ms <= now_ms:
                outputs += self._serve_page(page, now_ms)
        timeout_ms = self._settings.transfer_timeout_s * 1000
        for who, transfer in sorted(self._transfers.items()):
            if not transfer.transferred and transfer.asked_ms + timeout_ms <= now_ms:
                outputs += self._fail(who, transfer, fm.FILE_TRANSFER_FAILURE, "transfer_failed")
        waiting = [transfer for transfer in self._transfers.values() if not transfer.transferred]
        times = [at for at, _ in self._late]
        times += [page.at_ms for page in self._pages.values()]
        times += [transfer.asked_ms + timeout_ms for transfer in waiting]
        self.wake_at = min(times, default=None)
        return outputs

    def _wake(self, at_ms: int) -> None:
        """A timer may fire early and look again, so it is only ever moved forward here."""
        if self.wake_at is None or at_ms < self.wake_at:
            self.wake_at = at_ms

    def _command(self, peer: Peer, number: int, body: bytes) -> SendFrame:
        self._sequence = (self._sequence + 1) & 0xFF
        header = zcl.ZclHeader(True, True, True, None, self._sequence, number)
        return command(peer, ota.CLUSTER, header, body)


def _suits(header: OtaHeader, hardware: int | None) -> bool:
    """Whether the file is for this hardware; a device that does not tell is not kept waiting."""
    low, high = header.hardware_version_min, header.hardware_version_max
    if hardware is None or low is None or high is None:
        return True
    return low <= hardware <= high


def _status(frame: Frame, header: zcl.ZclHeader, status: Status) -> SendFrame:
    body = ota.encode_image_block_response(ota.BlockStatus(status))
    return reply(frame, header, ota.IMAGE_BLOCK_RESPONSE, body)
