"""The OTA Upgrade client: finds a server, asks for an image, asks for its blocks, ends the upgrade.

It decides what is asked for and when; the octets go to its ``Download`` port during the step, and
whether they make an image is decided elsewhere: ``ImageHeld`` goes out, ``image_verified`` or
``image_refused`` comes back. Rules and numbers: gbcs-supplement 10; zigbee-znp.md 9.

Ordering rules:

1. Every retry has a new ZCL sequence number: servers drop a repeated frame (zigbee-znp.md 0).
2. A block counts only at the offset that is waited for; whatever else arrives changes nothing.
3. The Upgrade End Request leaves after the image is verified and recorded.
4. One timer at a time, ``_timer`` with its purpose; the query interval has its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol

from firmware_node.boundary import (
    Effect,
    Entropy,
    Frame,
    FrameReceived,
    NetworkDown,
    NetworkUp,
    Notify,
    Records,
    SendFrame,
    Started,
)
from firmware_node.errors import DecodeError, RecordLostError, RefusedError, StorageFullError
from firmware_node.node.records import decode, encode
from firmware_node.terms import (
    BROADCAST_RX_ON,
    DeviceSettings,
    DeviceType,
    EntityId,
    ImageKey,
    ShortAddress,
    UpgradeStatus,
)
from firmware_node.wire import ota, zcl, zdo
from firmware_node.wire.zcl import Status

ENDPOINT = 1  # ours
PROGRESS_BYTES = 32 * 1024  # between two progress notifications
_DOWNLOADING = UpgradeStatus.DOWNLOAD_IN_PROGRESS
_WAIT = "ota/wait"

_MOVES = (
    (UpgradeStatus.NORMAL, UpgradeStatus.DOWNLOAD_IN_PROGRESS),
    (UpgradeStatus.NORMAL, UpgradeStatus.DOWNLOAD_COMPLETE),  # resumed, or flashed by the operator
    (UpgradeStatus.DOWNLOAD_IN_PROGRESS, UpgradeStatus.DOWNLOAD_COMPLETE),
    (UpgradeStatus.DOWNLOAD_IN_PROGRESS, UpgradeStatus.NORMAL),
    (UpgradeStatus.DOWNLOAD_COMPLETE, UpgradeStatus.NORMAL),
    (UpgradeStatus.DOWNLOAD_COMPLETE, UpgradeStatus.WAITING_TO_UPGRADE),
    (UpgradeStatus.DOWNLOAD_COMPLETE, UpgradeStatus.COUNT_DOWN),
    (UpgradeStatus.DOWNLOAD_COMPLETE, UpgradeStatus.WAITING_TO_UPGRADE_VIA_EXTERNAL_EVENT),
    (UpgradeStatus.WAITING_TO_UPGRADE, UpgradeStatus.COUNT_DOWN),
    (UpgradeStatus.WAITING_TO_UPGRADE, UpgradeStatus.NORMAL),
    (UpgradeStatus.COUNT_DOWN, UpgradeStatus.WAITING_TO_UPGRADE),
    (UpgradeStatus.COUNT_DOWN, UpgradeStatus.NORMAL),
    (UpgradeStatus.WAITING_TO_UPGRADE_VIA_EXTERNAL_EVENT, UpgradeStatus.NORMAL),
)


class Download(Protocol):
    """Where the octets go; ``Assembly`` implements it."""

    offset: int

    def begin(self, image: ImageKey, size: int, now_ms: int) -> int:
        """Prepare or continue; the first missing offset. RefusedError, StorageFullError."""
        ...

    def resume(self) -> tuple[ImageKey, int, int] | None:
        """Image, size and offset of a session kept across a restart."""
        ...

    def append(self, data: bytes, now_ms: int) -> None:
        """The next octets in order. RefusedError, StorageFullError."""
        ...

    def abandon(self) -> None:
        """The upgrade is over."""
        ...


@dataclass(frozen=True, slots=True)
class ImageHeld:
    """Every octet of this file is in the spare bank."""

    image: ImageKey
    size: int


@dataclass(frozen=True, slots=True)
class ActivationRequested:
    """The server let us activate and the time has come."""

    image: ImageKey


@dataclass(frozen=True, slots=True)
class UpgradeAbandoned:
    """A download ended without an image; the cause is a fixed snake_case word."""

    cause: str


Outputs = Sequence[Effect | ImageHeld | ActivationRequested | UpgradeAbandoned]


class _For(Enum):
    """What the timer is for."""

    DISCOVERY = auto()
    QUERY_REPLY = auto()
    BLOCK = auto()  # ask for the next block
    BLOCK_REPLY = auto()
    PAGE_REPLY = auto()
    END_REPLY = auto()  # repeat the Upgrade End Request
    ACTIVATION = auto()


class OtaClient:
    """See the module."""

    def __init__(
        self, settings: DeviceSettings, download: Download, entropy: Entropy, records: Records
    ) -> None:
        self._settings = settings
        self._ota = settings.ota
        self._download = download
        self._entropy = entropy
        self._records = records
        self.status = UpgradeStatus.NORMAL
        self.total_size = 0
        self._running = ImageKey(settings.manufacturer_code, settings.image_type, 0)
        self._image: ImageKey | None = None
        self._server: ShortAddress | None = None
        self._server_endpoint = 1
        self._server_id: EntityId | None = None
        self._up = False
        self._sequence = 0
        self._timer: tuple[int, _For] | None = None
        self._query_at: int | None = None
        self._errors = 0
        self._period_ms = 0
        self._utc_base: int | None = None  # UTC at monotonic zero, in seconds
        self._page_end = 0
        self._pages = self._ota.page_size > 0
        self._reported = 0

    # --- what the device may ask ------------------------------------------------------------------

    @property
    def wake_at(self) -> int | None:
        """The earlier of the timer and the next query."""
        timer = None if self._timer is None else self._timer[0]
        if timer is None or self._query_at is None:
            return self._query_at if timer is None else timer
        return min(timer, self._query_at)

    @property
    def file_offset(self) -> int:
        """Octets received of the upgrade under way."""
        return self._download.offset if self._image is not None else 0

    @property
    def image(self) -> ImageKey | None:
        """The image of the upgrade under way."""
        return self._image

    def set_running(self, image: ImageKey) -> None:
        """The image in force, which queries report."""
        self._running = image

    def set_utc(self, utc: int, now_ms: int) -> None:
        """The hub's time is known."""
        self._utc_base = utc - now_ms // 1000

    def attributes(self) -> dict[int, tuple[int, int | EntityId]]:
        """Attributes 0x0000 to 0x000C: id to (type, value), live (supplement 10.1)."""
        downloading = self._image is not None
        downloaded = self._image.file_version if self._image else 0xFFFFFFFF
        hcalcs = self._external()
        return {
            ota.ATTR_UPGRADE_SERVER_ID: (zcl.EUI64, self._server_id or EntityId(b"\xff" * 8)),
            ota.ATTR_FILE_OFFSET: (zcl.UINT32, self.file_offset if downloading else 0xFFFFFFFF),
            ota.ATTR_CURRENT_FILE_VERSION: (zcl.UINT32, self._running.file_version),
            ota.ATTR_CURRENT_STACK_VERSION: (zcl.UINT16, self._ota.stack_version),
            ota.ATTR_DOWNLOADED_FILE_VERSION: (zcl.UINT32, downloaded),
            ota.ATTR_DOWNLOADED_STACK_VERSION: (
                zcl.UINT16,
                self._ota.stack_version if downloading else 0xFFFF,
            ),
            ota.ATTR_IMAGE_UPGRADE_STATUS: (zcl.ENUM8, self.status),
            ota.ATTR_MANUFACTURER_ID: (zcl.UINT16, self._settings.manufacturer_code),
            ota.ATTR_IMAGE_TYPE_ID: (zcl.UINT16, self._settings.image_type),
            ota.ATTR_MINIMUM_BLOCK_PERIOD: (
                zcl.UINT16,
                min(self._period_ms // self._ota.block_period_unit_ms, 0xFFFF),
            ),
            ota.ATTR_IMAGE_STAMP: (zcl.UINT32, self._image_stamp()),
            ota.ATTR_UPGRADE_ACTIVATION_POLICY: (zcl.ENUM8, int(hcalcs)),
            ota.ATTR_UPGRADE_TIMEOUT_POLICY: (zcl.ENUM8, int(not self._ota.timeout_activates)),
        }

    def image_verified(self, now_ms: int) -> Outputs:
        """The image held is good and recorded: tell the server."""
        self._enter(UpgradeStatus.DOWNLOAD_COMPLETE)
        self._errors = 0
        return self._send_end(Status.SUCCESS, now_ms)

    def image_kept(self, image: ImageKey, size: int) -> None:
        """A restart found a verified image that waits for its activation (supplement 10.1)."""
        self._image, self.total_size = image, size
        self._enter(UpgradeStatus.DOWNLOAD_COMPLETE)

    def image_refused(self, status: int, now_ms: int) -> Outputs:
        """The image held, or its header, is refused: tell the server, go back to querying."""
        image, outputs = self._image, self._stop(now_ms)
        assert image is not None
        end = ota.UpgradeEndRequest(status, image)
        return (
            *outputs,
            self._command(ota.UPGRADE_END_REQUEST, ota.encode_upgrade_end_request(end)),
            Notify("upgrade_end_sent", {"status": f"{status:02X}"}),
        )

    def activation_failed(self, now_ms: int) -> Outputs:
        """The activation did not happen: back to querying."""
        return self._stop(now_ms)

    def cancel(self, now_ms: int) -> None:
        """The spare bank was taken for something else."""
        self._stop(now_ms)

    # --- inputs -----------------------------------------------------------------------------------

    def step(
        self, item: FrameReceived | Started | NetworkUp | NetworkDown | None, now_ms: int
    ) -> Outputs:
        """Advance by one input, or by the timer."""
        match item:
            case FrameReceived(frame=frame):
                return self._on_frame(frame, now_ms)
            case None:
                return self._on_timer(now_ms)
            case Started():
                return self._resume(now_ms)
            case NetworkUp():
                self._up = True
                return self._find_server(now_ms)
            case NetworkDown():
                self._up = False
                self._query_at = None
                if self._timer is not None and self._timer[1] is not _For.ACTIVATION:
                    self._timer = None
                return ()

    def _resume(self, now_ms: int) -> Outputs:
        """A restart in an upgrade: the server is asked again before anything is believed."""
        kept = self._download.resume()
        if kept is None:
            return ()
        image, size, offset = kept
        return (
            Notify(
                "download_kept",
                {"version": image.version_hex, "file_offset": offset, "total_size": size},
            ),
        )

    def _on_frame(self, frame: Frame, now_ms: int) -> Outputs:
        if frame.profile == zdo.PROFILE:
            return self._on_zdo(frame, now_ms)
        if self._server is not None and frame.peer != self._server:
            return ()  # the server is pinned
        try:
            header, body = zcl.decode_header(frame.payload)
            if header.cluster_specific:
                return self._on_command(frame, header, body, now_ms)
            if header.command == zcl.DEFAULT_RESPONSE:
                return self._on_default_response(zcl.decode_default_response(body), now_ms)
        except DecodeError as error:
            return self._refuse_frame(frame, Status.MALFORMED_COMMAND, str(error))
        return ()

    def _on_command(self, frame: Frame, header: zcl.ZclHeader, body: bytes, now_ms: int) -> Outputs:
        command = header.command
        if command == ota.IMAGE_BLOCK_RESPONSE:
            return self._on_block(ota.decode_image_block_response(body), now_ms)
        if not header.to_client:
            return ()
        if command == ota.IMAGE_NOTIFY:
            return self._on_notify(ota.decode_image_notify(body), frame, now_ms)
        if command == ota.QUERY_NEXT_IMAGE_RESPONSE:
            return self._on_offer(ota.decode_query_next_image_response(body), now_ms)
        if command == ota.UPGRADE_END_RESPONSE:
            return self._on_upgrade_end(frame, ota.decode_upgrade_end_response(body), now_ms)
        return self._refuse_frame(frame, Status.UNSUP_CLUSTER_COMMAND, f"command {command:02x}")

    def _on_timer(self, now_ms: int) -> Outputs:
        if self._timer is not None and self._timer[0] <= now_ms:
            purpose, self._timer = self._timer[1], None
            match purpose:
                case _For.DISCOVERY:
                    return self._find_server(now_ms)
                case _For.QUERY_REPLY:
                    return self._query_failed(now_ms)
                case _For.BLOCK:
                    return self._ask(now_ms)
                case _For.PAGE_REPLY:
                    self._page_end = 0
                    return self._block_failed("page_reply_timeout", now_ms)
                case _For.BLOCK_REPLY:
                    return self._block_failed("block_reply_timeout", now_ms)
                case _For.END_REPLY:
                    return self._end_again(now_ms)
                case _For.ACTIVATION:
                    return self._activation_due(now_ms)
        if self._query_at is not None and self._query_at <= now_ms:
            return self._query(now_ms)
        return ()

    # --- server discovery -------------------------------------------------------------------------

    def _find_server(self, now_ms: int) -> Outputs:
        if not self._up:
            return ()
        if self._server is not None:
            return self._query(now_ms)
        self._timer = (now_ms + self._ota.discovery_interval_s * 1000, _For.DISCOVERY)
        request = zdo.MatchRequest(
            self._next_sequence(),
            BROADCAST_RX_ON,
            zcl.SMART_ENERGY_PROFILE,
            (ota.CLUSTER,),
            (),
        )
        payload = zdo.encode_match_request(request)
        return (
            SendFrame(Frame(BROADCAST_RX_ON, 0, 0, zdo.PROFILE, zdo.MATCH_DESC_REQ, payload, True)),
        )

    def _on_zdo(self, frame: Frame, now_ms: int) -> Outputs:
        try:
            if frame.cluster == zdo.MATCH_DESC_REQ | zdo.RESPONSE and self._server is None:
                return self._on_match(zdo.decode_match_response(frame.payload), now_ms)
            if frame.cluster == zdo.IEEE_ADDR_REQ | zdo.RESPONSE:
                response = zdo.decode_address_response(frame.payload)
                if response.address == self._server and response.status == zdo.SUCCESS:
                    self._server_id = response.entity_id
        except DecodeError:
            pass  # ZDO has no answer to a malformed response
        return ()

    def _on_match(self, response: zdo.MatchResponse, now_ms: int) -> Outputs:
        if response.status != zdo.SUCCESS or not response.endpoints:
            return ()
        self._server, self._server_endpoint = response.address, response.endpoints[0]
        self._errors = 0
        request = zdo.encode_ieee_request(self._next_sequence(), response.address)
        return (
            Notify("server_found", {"short_address": response.address}),
            SendFrame(Frame(response.address, 0, 0, zdo.PROFILE, zdo.IEEE_ADDR_REQ, request)),
            *self._query(now_ms),
        )

    def _lose_server(self, now_ms: int) -> Outputs:
        self._server = self._server_id = None
        self._query_at = None
        self._errors = 0
        return (Notify("server_lost"), *self._find_server(now_ms))

    # --- query ------------------------------------------------------------------------------------

    def _query(self, now_ms: int) -> Outputs:
        """Ask for the next image; the interval runs from here, with its jitter."""
        interval = self._ota.query_interval_s * 1000
        jitter = interval * self._ota.query_jitter_percent // 100
        self._query_at = now_ms + interval + (self._entropy.below(jitter + 1) if jitter else 0)
        if not self._up or self._server is None:
            return ()
        if self.status is not UpgradeStatus.NORMAL:
            return self._go_on(now_ms)
        self._timer = (now_ms + self._ota.reply_timeout_ms, _For.QUERY_REPLY)
        request = ota.QueryNextImageRequest(self._running, self._settings.hardware_version)
        return (
            self._command(
                ota.QUERY_NEXT_IMAGE_REQUEST, ota.encode_query_next_image_request(request)
            ),
        )

    def _go_on(self, now_ms: int) -> Outputs:
        """The network or the process was away in an upgrade: take it up where it stands."""
        if self._timer is not None:
            return ()
        match self.status:
            case UpgradeStatus.DOWNLOAD_IN_PROGRESS:
                self._page_end = 0
                return self._ask(now_ms)
            case UpgradeStatus.WAITING_TO_UPGRADE_VIA_EXTERNAL_EVENT:
                return ()
            case _:
                return self._send_end(Status.SUCCESS, now_ms)

    def _query_failed(self, now_ms: int) -> Outputs:
        self._errors += 1
        if self._errors >= self._ota.query_errors_max:
            return self._lose_server(now_ms)
        self._query_at = now_ms + self._back_off()
        return ()

    def _on_notify(self, notify: ota.ImageNotify, frame: Frame, now_ms: int) -> Outputs:
        """Image Notify: only what names us, and by chance of its jitter when it was broadcast."""
        ours = self._settings
        if notify.manufacturer_code not in (
            None,
            ota.MANUFACTURER_WILDCARD,
            ours.manufacturer_code,
        ) or notify.image_type not in (None, ota.IMAGE_TYPE_WILDCARD, ours.image_type):
            return ()
        if notify.file_version == self._running.file_version:
            return ()
        if frame.broadcast and 1 + self._entropy.below(ota.JITTER_MAX) > notify.query_jitter:
            return ()
        if self._server is None:
            self._server, self._server_endpoint = frame.peer, frame.peer_endpoint
        self._errors = 0
        return self._query(now_ms)

    def _on_offer(self, offer: ota.QueryNextImageResponse, now_ms: int) -> Outputs:
        if self._timer is None or self._timer[1] is not _For.QUERY_REPLY:
            return ()  # late or not asked for
        self._timer = None
        self._errors = 0
        image, size = offer.image, offer.size
        if offer.status != Status.SUCCESS or image is None or size is None:
            return ()
        ours = self._settings
        if image[:2] != (ours.manufacturer_code, ours.image_type):
            return ()
        if image.file_version == self._running.file_version:
            return ()
        if image.file_version < self._running.file_version and not self._ota.allow_downgrade:
            self._image = image
            return (
                UpgradeAbandoned("downgrade"),
                *self.image_refused(Status.INVALID_IMAGE, now_ms),
            )
        return self._begin(image, size, now_ms)

    def _begin(self, image: ImageKey, size: int, now_ms: int) -> Outputs:
        try:
            offset = self._download.begin(image, size, now_ms)
        except RefusedError as refused:
            self._image = image
            outputs = self.image_refused(refused.code, now_ms)
            return (UpgradeAbandoned(refused.cause), *outputs)
        except StorageFullError:
            return (UpgradeAbandoned("storage_full"),)  # the next query tries again
        self._image, self.total_size = image, size
        self._enter(_DOWNLOADING)
        self._errors = self._period_ms = self._page_end = 0
        self._pages = self._ota.page_size > 0
        self._reported = offset
        started = Notify(
            "download_started",
            {"version": image.version_hex, "file_offset": offset, "total_size": size},
        )
        if offset == size:
            return (started, ImageHeld(image, size))
        wait_ms = self._kept_wait(now_ms)
        if wait_ms:
            self._timer = (now_ms + wait_ms, _For.BLOCK)
            return (started,)
        return (started, *self._ask(now_ms))

    # --- blocks and pages -------------------------------------------------------------------------

    def _ask(self, now_ms: int) -> Outputs:
        """Ask for the next block, or for a page of them."""
        offset, ota_settings = self._download.offset, self._ota
        assert self._image is not None
        if (
            self._pages
            and self._page_end <= offset
            and self.total_size - offset > (ota_settings.block_size)
        ):
            size = min(ota_settings.page_size, self.total_size - offset)
            self._page_end = offset + size
            self._timer = (
                now_ms + ota_settings.reply_timeout_ms + ota_settings.page_spacing_ms,
                _For.PAGE_REPLY,
            )
            request = ota.ImagePageRequest(
                self._image,
                offset,
                ota_settings.block_size,
                size,
                ota_settings.page_spacing_ms,
            )
            return (self._command(ota.IMAGE_PAGE_REQUEST, ota.encode_image_page_request(request)),)
        self._timer = (now_ms + ota_settings.reply_timeout_ms, _For.BLOCK_REPLY)
        size = min(ota_settings.block_size, self.total_size - offset)
        body = ota.encode_image_block_request(ota.ImageBlockRequest(self._image, offset, size))
        return (self._command(ota.IMAGE_BLOCK_REQUEST, body),)

    def _on_block(
        self, block: ota.BlockData | ota.WaitForData | ota.BlockStatus, now_ms: int
    ) -> Outputs:
        if self.status is not _DOWNLOADING:
            return ()  # late: nothing is waited for
        if not isinstance(block, ota.BlockData):
            return self._on_no_block(block, now_ms)
        if block.image != self._image or len(block.data) > self._ota.block_size:
            return (Notify("block_refused", {"file_offset": block.file_offset}),)
        if block.file_offset != self._download.offset:
            return self._on_other_offset(block, now_ms)
        try:
            self._download.append(block.data, now_ms)
        except RefusedError as refused:
            self._download.abandon()
            outputs = self.image_refused(refused.code, now_ms)
            return (UpgradeAbandoned(refused.cause), *outputs)
        except StorageFullError:
            return (UpgradeAbandoned("storage_full"), *self._stop(now_ms))
        self._errors = 0
        offset = self._download.offset
        if offset >= self.total_size:
            return self._complete()
        notes = self._progress(offset)
        if offset < self._page_end:  # the rest of the page comes by itself
            spacing = self._ota.page_spacing_ms + self._ota.reply_timeout_ms
            self._timer = (now_ms + spacing, _For.PAGE_REPLY)
            return notes
        if self._period_ms:
            self._timer = (now_ms + self._period_ms, _For.BLOCK)
            return notes
        return (*notes, *self._ask(now_ms))

    def _on_other_offset(self, block: ota.BlockData, now_ms: int) -> Outputs:
        """Late and repeated blocks are ignored; a gap in a page is mended by block requests."""
        if not self._download.offset < block.file_offset < self._page_end:
            return ()
        self._page_end = self._download.offset
        self._pages = False
        outputs = self._ask(now_ms)
        self._pages = True
        return outputs

    def _complete(self) -> Outputs:
        assert self._image is not None
        self._timer = None
        self._records.delete(_WAIT)
        size = self.total_size
        return (
            Notify("download_progress", {"file_offset": size, "total_size": size}),
            ImageHeld(self._image, size),
        )

    def _progress(self, offset: int) -> tuple[Notify, ...]:
        if offset - self._reported < PROGRESS_BYTES:
            return ()
        self._reported = offset
        fields = {"file_offset": offset, "total_size": self.total_size}
        return (Notify("download_progress", fields),)

    def _on_no_block(self, answer: ota.WaitForData | ota.BlockStatus, now_ms: int) -> Outputs:
        if isinstance(answer, ota.BlockStatus):
            if answer.status in (Status.ABORT, Status.NO_IMAGE_AVAILABLE):
                self._download.abandon()
                return (UpgradeAbandoned("server_abort"), *self._stop(now_ms))
            return self._block_failed(f"block_status_{answer.status:02x}", now_ms)
        if answer.block_period is not None:
            self._period_ms = min(
                answer.block_period * self._ota.block_period_unit_ms, self._ota.wait_max_s * 1000
            )
        wait_s = answer.request_time - answer.current_time
        if wait_s < 0:
            wait_s = self._ota.bad_time_block_s
        elif answer.current_time and self._utc_base is not None:
            # Absolute time: what is left by our own clock, if that is sane.
            left = answer.request_time - (self._utc_base + now_ms // 1000)
            wait_s = left if 0 <= left <= wait_s else wait_s
        wait_ms = min(wait_s, self._ota.wait_max_s) * 1000 + self._period_ms
        self._errors = self._page_end = 0
        self._keep_wait(now_ms, wait_ms)
        self._timer = (now_ms + max(wait_ms, 1), _For.BLOCK)
        return (Notify("download_waiting", {"seconds": wait_ms // 1000}),)

    def _block_failed(self, cause: str, now_ms: int) -> Outputs:
        """No usable answer: back off, ask again at the same offset, a bounded number of times."""
        self._errors += 1
        if self._errors >= self._ota.errors_max:
            # What is in the bank stays: the next offer of the same file goes on from there.
            return (UpgradeAbandoned(cause), *self._stop(now_ms))
        self._timer = (now_ms + self._back_off(), _For.BLOCK)
        return ()

    def _back_off(self) -> int:
        return min(self._ota.retry_first_ms << (self._errors - 1), self._ota.retry_last_ms)

    # --- the end of an upgrade --------------------------------------------------------------------

    def _send_end(self, status: int, now_ms: int) -> Outputs:
        assert self._image is not None
        self._timer = (now_ms + self._ota.upgrade_end_retry_s * 1000, _For.END_REPLY)
        body = ota.encode_upgrade_end_request(ota.UpgradeEndRequest(status, self._image))
        return (
            self._command(ota.UPGRADE_END_REQUEST, body),
            Notify("upgrade_end_sent", {"status": f"{status:02X}"}),
        )

    def _end_again(self, now_ms: int) -> Outputs:
        self._errors += 1
        if self._errors <= self._ota.upgrade_end_retries:
            return self._send_end(Status.SUCCESS, now_ms)
        if self._ota.timeout_activates and not self._external():
            return self._count_down(0, now_ms)
        return ()  # UpgradeTimeoutPolicy 1: never by ourselves; the server may still come

    def _on_upgrade_end(
        self, frame: Frame, response: ota.UpgradeEndResponse, now_ms: int
    ) -> Outputs:
        """Asked for or not; wild cards match (supplement 10.3)."""
        if self.status in (UpgradeStatus.NORMAL, _DOWNLOADING) or self._image is None:
            return ()
        wildcards = (ota.MANUFACTURER_WILDCARD, ota.IMAGE_TYPE_WILDCARD, ota.VERSION_WILDCARD)
        if any(
            found not in (own, wildcard)
            for found, own, wildcard in zip(response.image, self._image, wildcards, strict=True)
        ):
            return self._refuse_frame(frame, Status.INVALID_VALUE, "another image")
        self._errors = 0
        if response.upgrade_time == ota.HOLD:
            return self._hold(now_ms)
        if self._external():
            return self._refuse_frame(frame, Status.NOT_AUTHORIZED, "activation is out of band")
        wait_s = response.upgrade_time - response.current_time
        if wait_s < 0:
            wait_s = self._ota.bad_time_end_s
        return self._count_down(wait_s, now_ms)

    def _hold(self, now_ms: int) -> Outputs:
        if self._external():
            self._timer = None
            self._enter(UpgradeStatus.WAITING_TO_UPGRADE_VIA_EXTERNAL_EVENT)
        else:
            self._timer = (now_ms + self._ota.wait_max_s * 1000, _For.END_REPLY)
            self._enter(UpgradeStatus.WAITING_TO_UPGRADE)
        return (Notify("activation_held"),)

    def _count_down(self, wait_s: int, now_ms: int) -> Outputs:
        if wait_s > self._ota.wait_max_s:  # far: ask again instead of trusting one answer
            self._timer = (now_ms + self._ota.wait_max_s * 1000, _For.END_REPLY)
            self._enter(UpgradeStatus.COUNT_DOWN)
            return (Notify("activation_scheduled", {"seconds": wait_s}),)
        wait_ms = max(wait_s * 1000, self._ota.activate_delay_ms)
        self._timer = (now_ms + wait_ms, _For.ACTIVATION)
        self._enter(UpgradeStatus.COUNT_DOWN)
        return (Notify("activation_scheduled", {"seconds": wait_ms / 1000}),)

    def _activation_due(self, now_ms: int) -> Outputs:
        assert self._image is not None
        return (ActivationRequested(self._image),)

    def _on_default_response(self, response: zcl.DefaultResponse, now_ms: int) -> Outputs:
        if response.status == Status.SUCCESS:
            return ()
        if response.command == ota.UPGRADE_END_REQUEST and self.status is (
            UpgradeStatus.DOWNLOAD_COMPLETE
        ):
            self._download.abandon()
            return (UpgradeAbandoned("server_abort"), *self._stop(now_ms))
        if response.command == ota.IMAGE_PAGE_REQUEST and self.status is _DOWNLOADING:
            self._pages = False
            self._page_end = 0
            return self._ask(now_ms)
        if response.command == ota.IMAGE_BLOCK_REQUEST and self.status is _DOWNLOADING:
            return self._block_failed(f"default_response_{response.status:02x}", now_ms)
        return ()

    # --- helpers ----------------------------------------------------------------------------------

    def _stop(self, now_ms: int) -> Outputs:
        """Back to querying; the spare bank's fate is the caller's."""
        del now_ms
        self._timer = None
        self._image = None
        self.total_size = self._errors = self._page_end = 0
        self._records.delete(_WAIT)
        if self.status is not UpgradeStatus.NORMAL:
            self._enter(UpgradeStatus.NORMAL)
        return ()

    def _enter(self, status: UpgradeStatus) -> None:
        if status is not self.status:
            assert (self.status, status) in _MOVES, (self.status, status)
            self.status = status

    def _external(self) -> bool:
        return self._settings.type is not DeviceType.PPMID

    def _image_stamp(self) -> int:
        """Some number that names the hardware and image type; ours is made of both."""
        return self._settings.manufacturer_code << 16 | self._settings.image_type

    def _keep_wait(self, now_ms: int, wait_ms: int) -> None:
        """A wait survives a restart: as UTC when that is known, else as what is left of it."""
        if self._utc_base is None:
            self._records.put(_WAIT, encode({"left_ms": wait_ms}))
        else:
            until = self._utc_base + (now_ms + wait_ms) // 1000
            self._records.put(_WAIT, encode({"until": until}))

    def _kept_wait(self, now_ms: int) -> int:
        try:
            value = self._records.get(_WAIT)
        except RecordLostError:
            return 0
        if value is None:
            return 0
        fields = decode(value)
        self._records.delete(_WAIT)
        if "left_ms" in fields:
            return min(int(fields["left_ms"]), self._ota.wait_max_s * 1000)
        if self._utc_base is None:
            return 0
        left = (int(fields["until"]) - self._utc_base) * 1000 - now_ms
        return min(max(left, 0), self._ota.wait_max_s * 1000)

    def _command(self, command: int, body: bytes) -> SendFrame:
        assert self._server is not None
        sequence = self._sequence = (self._sequence + 1) & 0xFF
        # Cluster-specific, to the server, default responses wanted: frame control 0x01.
        payload = b"\x01" + bytes((sequence, command)) + body
        return SendFrame(
            Frame(
                self._server,
                self._server_endpoint,
                ENDPOINT,
                zcl.SMART_ENERGY_PROFILE,
                ota.CLUSTER,
                payload,
            )
        )

    def _refuse_frame(self, frame: Frame, status: Status, reason: str) -> Outputs:
        """Count it; answer it unless it was broadcast, itself an answer, or wants none."""
        note = Notify("frame_refused", {"status": status.name, "reason": reason})
        payload = frame.payload
        if frame.broadcast or len(payload) < 3 or payload[0] & 0x14 or not payload[0] & 0x01:
            return (note,)
        header = zcl.ZclHeader(False, False, True, None, payload[1], zcl.DEFAULT_RESPONSE)
        answer = zcl.encode(header, zcl.encode_default_response(payload[2], status))
        return (
            note,
            SendFrame(
                Frame(
                    frame.peer,
                    frame.peer_endpoint,
                    frame.endpoint,
                    frame.profile,
                    frame.cluster,
                    answer,
                )
            ),
        )

    def _next_sequence(self) -> int:
        self._sequence = (self._sequence + 1) & 0xFF
        return self._sequence
