"""The OTA Upgrade client: finds a server, asks for an image, has it transferred, ends the upgrade.

    ``ServerLink``   search and pin the server, speak to it
    this file        query, offers, Image Notify; routes frames and timers; the attributes
    ``Transfer``     blocks and pages of one file into the ``Download`` port
    ``UpgradeEnd``   from the verified image to its activation

Whether the octets make an image is decided elsewhere: ``ImageHeld`` goes out, ``image_verified``
or ``image_refused`` comes back in the same step. Rules and numbers: ZCL 11; gbcs-supplement 10.

Ordering rules:

1. ``set_running``, ``image_kept`` and then ``Started`` come before anything else.
2. After a restart in a download the server is queried again before anything is asked of it.
3. Queries are made when nothing is under way and while a held image waits for its activation: a
   newer image must always be able to replace it.

Notifications: ``server_found server_lost image_offered offer_ignored offer_refused
image_query_answered image_notified download_kept download_started download_progress
download_waiting download_paused download_aborted block_refused block_retried pages_given_up
upgrade_kept upgrade_end_sent upgrade_end_unanswered activation_held activation_scheduled
frame_refused``.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

from firmware_node.boundary import (
    Effect,
    Entropy,
    Frame,
    FrameReceived,
    NetworkDown,
    NetworkUp,
    Notify,
    Records,
    Started,
)
from firmware_node.errors import DecodeError, RefusedError, StorageFullError
from firmware_node.node.replies import default_response
from firmware_node.node.server_link import ServerLink
from firmware_node.node.transfer import Download, Transfer, end_status
from firmware_node.node.upgrade_end import UpgradeEnd
from firmware_node.node.upgrade_state import (
    MOVES,
    ActivationRequested,
    ImageHeld,
    Output,
    UpgradeAbandoned,
    UpgradeState,
)
from firmware_node.terms import COORDINATOR, DeviceSettings, EntityId, ImageKey, UpgradeStatus
from firmware_node.wire import ota, zcl, zdo
from firmware_node.wire.zcl import Status

__all__ = [
    "ActivationRequested",
    "Download",
    "ImageHeld",
    "OtaClient",
    "Output",
    "UpgradeAbandoned",
]

_MOVES = MOVES
_DOWNLOADING = UpgradeStatus.DOWNLOAD_IN_PROGRESS
_QUERYING = (
    UpgradeStatus.NORMAL,
    UpgradeStatus.WAITING_TO_UPGRADE,
    UpgradeStatus.WAITING_TO_UPGRADE_VIA_EXTERNAL_EVENT,
)
_UNKNOWN_32 = 0xFFFFFFFF
_UNKNOWN_ID = EntityId(b"\xff" * 8)


class OtaClient:
    """See the module. ``wake_at``: monotonic ms of the next timer, None without one."""

    def __init__(
        self, settings: DeviceSettings, download: Download, entropy: Entropy, records: Records
    ) -> None:
        self._settings = settings
        self._ota = settings.ota
        self._entropy = entropy
        self._download = download
        self._running = ImageKey(settings.manufacturer_code, settings.image_type, 0)
        self._state = UpgradeState()
        self._link = ServerLink(settings.ota, entropy)
        self._transfer = Transfer(settings.ota, download, self._link, records, self._state)
        self._end = UpgradeEnd(settings, self._link, records, self._state)
        self._kept: tuple[ImageKey, int] | None = None  # verified, found by a restart
        self._requery = False  # a kept download goes on only after a new offer
        self._query_at: int | None = None  # the next query, or the end of waiting for an answer
        self._query_pending = False
        self._query_errors = 0  # sequential
        self._wanted_version: int | None = None  # of a Query Specific File
        self.wake_at: int | None = None

    # --- what the device asks and tells -----------------------------------------------------------

    @property
    def status(self) -> UpgradeStatus:
        """ImageUpgradeStatus."""
        return self._state.status

    @property
    def image(self) -> ImageKey | None:
        """The image of the upgrade under way; None: there is none."""
        return self._transfer.image or self._end.image

    @property
    def file_offset(self) -> int:
        """Bytes received of the upgrade under way, 0 without one."""
        return self._transfer.offset if self._transfer.image else self._end.size

    @property
    def total_size(self) -> int:
        """Bytes of the OTA file of the upgrade under way, 0 without one."""
        return self._transfer.size if self._transfer.image else self._end.size

    def pending_elsewhere(self) -> bool:
        """Whether an image is held that only something other than OTA activates."""
        return self.status is UpgradeStatus.WAITING_TO_UPGRADE_VIA_EXTERNAL_EVENT

    def set_running(self, image: ImageKey) -> None:
        """The image in force, which queries report."""
        self._running = image

    def image_kept(self, image: ImageKey, size: int) -> None:
        """Before ``Started``: a verified image is in the spare bank."""
        self._kept = (image, size)

    def set_utc(self, utc: int | None, now_ms: int) -> None:
        """The hub's time is known (seconds since 2000-01-01); None changes nothing."""
        if utc is not None:
            self._transfer.learn_utc(utc, now_ms)
            self._end.learn_utc(utc, now_ms)
            self._arm(now_ms)

    def attributes(self) -> dict[int, tuple[int, int | EntityId]]:
        """Attributes 0x0000 to 0x000C: id to (type, value), live (supplement 10.1)."""
        settings, held = self._settings, self._end.image
        return {
            ota.ATTR_UPGRADE_SERVER_ID: (zcl.EUI64, self._link.entity_id or _UNKNOWN_ID),
            ota.ATTR_FILE_OFFSET: (zcl.UINT32, self.file_offset if self.image else _UNKNOWN_32),
            ota.ATTR_CURRENT_FILE_VERSION: (zcl.UINT32, self._running.file_version),
            ota.ATTR_CURRENT_STACK_VERSION: (zcl.UINT16, self._ota.stack_version),
            ota.ATTR_DOWNLOADED_FILE_VERSION: (
                zcl.UINT32,
                held.file_version if held else _UNKNOWN_32,
            ),
            ota.ATTR_DOWNLOADED_STACK_VERSION: (
                zcl.UINT16,
                self._ota.stack_version if held else 0xFFFF,
            ),
            ota.ATTR_IMAGE_UPGRADE_STATUS: (zcl.ENUM8, int(self.status)),
            ota.ATTR_MANUFACTURER_ID: (zcl.UINT16, settings.manufacturer_code),
            ota.ATTR_IMAGE_TYPE_ID: (zcl.UINT16, settings.image_type),
            ota.ATTR_MINIMUM_BLOCK_PERIOD: (zcl.UINT16, self._transfer.block_period),
            # ZCL wants a number that names the running image: a checksum of its key is one.
            ota.ATTR_IMAGE_STAMP: (zcl.UINT32, zlib.crc32(struct.pack("<HHI", *self._running))),
            ota.ATTR_UPGRADE_ACTIVATION_POLICY: (zcl.ENUM8, int(self._end.out_of_band)),
            ota.ATTR_UPGRADE_TIMEOUT_POLICY: (zcl.ENUM8, int(not self._end.timeout_activates)),
        }

    def image_verified(self, now_ms: int) -> Sequence[Output]:
        """The image held is good and recorded: tell the server."""
        image, size = self._transfer.image, self._transfer.size
        assert image is not None
        self._transfer.forget()
        return self._settle(self._end.verified(image, size, now_ms), now_ms)

    def image_refused(self, status: int, now_ms: int) -> Sequence[Output]:
        """The image held is not good: tell the server, go back to querying."""
        image = self._transfer.image
        assert image is not None
        self._transfer.forget()
        self._state.enter(UpgradeStatus.NORMAL)
        refused = RefusedError(status, "image_refused", "")
        return self._settle(self._tell_failure(end_status(refused), image), now_ms)

    def image_misread(self, now_ms: int) -> Sequence[Output]:
        """The bank did not keep the image: have it sent again; the server did nothing wrong."""
        self._transfer.forget()
        self._state.enter(UpgradeStatus.NORMAL)
        return self._settle(self._query(now_ms) if self._link.ready else [], now_ms)

    def activation_failed(self, now_ms: int) -> Sequence[Output]:
        """The activation did not happen: back to querying."""
        self.cancel(now_ms)
        return self._settle([], now_ms)

    def cancel(self, now_ms: int) -> None:
        """The upgrade is over: the bank was taken, or its image is activated from elsewhere."""
        self._transfer.forget()
        self._end.forget()
        self._requery = False
        self._state.enter(UpgradeStatus.NORMAL)
        self._arm(now_ms)

    def query_now(self, file_version: int | None, now_ms: int) -> Sequence[Output]:
        """Ask without waiting for the interval: for the next image, or for one version by name.

        At once, or when a server is found; a download under way is not disturbed.
        """
        self._wanted_version = file_version
        if self._link.ready and self._may_query():
            return self._settle(self._query(now_ms), now_ms)
        return ()

    # --- inputs -----------------------------------------------------------------------------------

    def step(
        self, item: FrameReceived | Started | NetworkUp | NetworkDown | None, now_ms: int
    ) -> Sequence[Output]:
        """Advance by one input, or by the timer."""
        if type(item) is FrameReceived:
            frame = item.frame
            if (
                self._state.status is _DOWNLOADING
                and frame.peer == self._link.peer
                and frame.cluster == ota.CLUSTER
                and not self._requery
            ):
                outputs = self._transfer.on_frame(frame.payload, now_ms)
                if outputs is not None:
                    if self._state.status is not _DOWNLOADING:
                        return self._settle(list(outputs), now_ms)
                    self.wake_at = self._transfer.wake_at  # a transfer has no other timer
                    return outputs
            return self._settle(self._on_frame(frame, now_ms), now_ms)
        match item:
            case None:
                outputs = self._on_timer(now_ms)
            case NetworkUp():
                self._link.up = True
                outputs = self._go(now_ms)
            case NetworkDown():
                outputs = self._stop_talking()
            case Started():
                outputs = self._resume(now_ms)
            case _:
                raise TypeError(f"an OTA client takes no {type(item).__name__}")
        return self._settle(outputs, now_ms)

    def _on_timer(self, now_ms: int) -> Sequence[Output]:
        """Every stage whose time has come, in the order of the pipeline, last the activation."""
        outputs: list[Output] = []
        if _due(self._link.wake_at, now_ms):
            outputs.extend(self._link.search(now_ms))
        if _due(self._query_at, now_ms):
            if self._query_pending:
                outputs.extend(self._query_failed(now_ms))
            else:
                outputs.extend([*self._query(now_ms), *self._link.identify()])
        if _due(self._transfer.wake_at, now_ms):
            outputs.extend(self._transfer.on_timer(now_ms))
        if _due(self._end.wake_at, now_ms):
            outputs.extend(self._end.on_timer(now_ms))
        return outputs

    def _resume(self, now_ms: int) -> Sequence[Output]:
        """A restart in an upgrade: what was held goes on, what was half here is asked for again."""
        if self._kept is None:
            self._end.forget()
        elif self._end.restore(*self._kept, now_ms):
            image, _ = self._kept
            fields = {"version": image.version_hex, "status": self.status.name.lower()}
            return [Notify("upgrade_kept", fields)]
        if not self._transfer.resume(now_ms):
            return []
        assert self._transfer.image is not None
        self._state.enter(_DOWNLOADING)
        self._requery = True
        return [
            Notify(
                "download_kept",
                {
                    "version": self._transfer.image.version_hex,
                    "file_offset": self._transfer.offset,
                    "total_size": self._transfer.size,
                },
            )
        ]

    def _go(self, now_ms: int) -> Sequence[Output]:
        """The server can be reached, or was just found: everything that waited for it."""
        if not self._link.ready:
            return []
        if self._state.status is _DOWNLOADING and not self._requery:
            return self._transfer.go(now_ms)
        outputs: list[Output] = list(self._end.go(now_ms))
        if self._may_query():
            outputs.extend(self._query(now_ms))
        return outputs

    def _stop_talking(self) -> Sequence[Output]:
        """The network went; the server stays pinned, a count-down goes on."""
        self._link.up = False
        self._link.wake_at = None
        self._query_at, self._query_pending = None, False
        self._transfer.pause()
        return []

    # --- frames -----------------------------------------------------------------------------------

    def _on_frame(self, frame: Frame, now_ms: int) -> Sequence[Output]:
        if frame.profile == zdo.PROFILE:
            before = self._link.peer
            outputs: list[Output] = list(self._link.on_zdo(frame))
            if before is None and self._link.peer is not None:
                outputs.extend(self._go(now_ms))
            return outputs
        if frame.peer != (self._link.peer if self._link.peer is not None else COORDINATOR):
            return []  # the server is pinned
        try:
            header, body = zcl.decode_header(frame.payload)
            if not header.cluster_specific:
                return self._on_general(header, body, now_ms)
            status, outputs_of_command = self._on_command(frame, header, body, now_ms)
        except DecodeError as error:
            return _refuse(frame, Status.MALFORMED_COMMAND, "frame_refused", str(error))
        except RefusedError as refused:
            block = frame.payload[2] == ota.IMAGE_BLOCK_RESPONSE
            name = "block_refused" if block else "frame_refused"
            return _refuse(frame, refused.code, name, refused.reason)
        return [*default_response(frame, status), *outputs_of_command]

    def _on_command(
        self, frame: Frame, header: zcl.ZclHeader, body: bytes, now_ms: int
    ) -> tuple[int, Sequence[Output]]:
        """One cluster command: the status of its Default Response, and what follows from it.

        Raises:
            DecodeError: malformed.
            RefusedError: understood and not granted, or no command of an OTA server.
        """
        if not header.to_client or header.manufacturer_code is not None:
            raise RefusedError(Status.UNSUP_CLUSTER_COMMAND, "command", "not for an OTA client")
        match header.command:
            case ota.IMAGE_NOTIFY:
                notify = ota.decode_image_notify(body)
                return Status.SUCCESS, self._on_notify(frame, notify, now_ms)
            case ota.IMAGE_BLOCK_RESPONSE:
                answer = ota.decode_image_block_response(body)
                if self._state.status is not _DOWNLOADING or self._requery:
                    return Status.SUCCESS, []  # late
                return Status.SUCCESS, self._transfer.on_answer(answer, now_ms)
            case ota.QUERY_NEXT_IMAGE_RESPONSE:
                return self._on_offer(ota.decode_query_next_image_response(body), now_ms)
            case ota.SPECIFIC_FILE_RESPONSE:
                return self._on_offer(ota.decode_specific_file_response(body), now_ms)
            case ota.UPGRADE_END_RESPONSE:
                response = ota.decode_upgrade_end_response(body)
                return Status.SUCCESS, self._end.on_response(response, now_ms)
        raise RefusedError(Status.UNSUP_CLUSTER_COMMAND, "command", f"command {header.command:02x}")

    def _on_general(self, header: zcl.ZclHeader, body: bytes, now_ms: int) -> Sequence[Output]:
        """A Default Response with an error; other general commands are answered elsewhere."""
        if header.command != zcl.DEFAULT_RESPONSE or self._link.peer is None:
            return []
        response = zcl.decode_default_response(body)
        if response.status == Status.SUCCESS:
            return []
        match response.command:
            case ota.IMAGE_BLOCK_REQUEST | ota.IMAGE_PAGE_REQUEST:
                if self._state.status is _DOWNLOADING and not self._requery:
                    return self._transfer.on_error(response.command, response.status, now_ms)
            case ota.QUERY_NEXT_IMAGE_REQUEST | ota.SPECIFIC_FILE_REQUEST:
                if self._query_pending:
                    return self._query_failed(now_ms)
            case ota.UPGRADE_END_REQUEST:
                return self._on_server_abort()
        return []

    def _on_server_abort(self) -> Sequence[Output]:
        """An error to our Upgrade End Request (supplement 10.3); an external event outranks it."""
        if self._end.image is None or self.pending_elsewhere():
            return []
        self._end.forget()
        self._download.abandon()
        self._state.enter(UpgradeStatus.NORMAL)
        return [
            Notify("download_aborted", {"cause": "server_abort", "file_offset": 0}),
            UpgradeAbandoned("server_abort"),
        ]

    # --- query and offers -------------------------------------------------------------------------

    def _on_notify(self, frame: Frame, notify: ota.ImageNotify, now_ms: int) -> Sequence[Output]:
        """Only what names us and another version; a broadcast by the chance of its jitter."""
        settings = self._settings
        manufacturers = (None, ota.MANUFACTURER_WILDCARD, settings.manufacturer_code)
        image_types = (None, ota.IMAGE_TYPE_WILDCARD, settings.image_type)
        if (
            notify.manufacturer_code not in manufacturers
            or notify.image_type not in image_types
            or notify.file_version == self._running.file_version
        ):
            return []
        if frame.broadcast and 1 + self._entropy.below(ota.JITTER_MAX) > notify.query_jitter:
            return []
        outputs: list[Output] = [Notify("image_notified", {"payload_type": notify.payload_type})]
        if self._link.peer is None:
            if frame.broadcast:
                return outputs  # the search finds the server soon enough
            outputs.extend(self._link.adopt(frame))  # the coordinator, so the trust centre itself
            return [*outputs, *self._go(now_ms)]
        if self._may_query() and not self._query_pending and self._link.up:
            outputs.extend(self._query(now_ms))
        return outputs

    def _may_query(self) -> bool:
        return self._requery or self._state.status in _QUERYING

    def _query(self, now_ms: int) -> list[Output]:
        """Query Next Image, or the specific file somebody wants."""
        self._query_pending = True
        self._query_at = now_ms + self._ota.reply_timeout_ms
        settings = self._settings
        if self._wanted_version is not None:
            wanted = self._running._replace(file_version=self._wanted_version)
            specific = ota.SpecificFileRequest(settings.entity_id, wanted, self._ota.stack_version)
            body = ota.encode_specific_file_request(specific)
            return [self._link.request(ota.SPECIFIC_FILE_REQUEST, body)]
        request = ota.QueryNextImageRequest(self._running, settings.hardware_version)
        body = ota.encode_query_next_image_request(request)
        return [self._link.request(ota.QUERY_NEXT_IMAGE_REQUEST, body)]

    def _query_failed(self, now_ms: int) -> Sequence[Output]:
        """No answer, or an error: back off; after too many look for a server again."""
        self._query_pending = False
        self._query_errors += 1
        if self._query_errors >= self._ota.query_errors_max:
            self._query_errors = 0
            self._query_at = None
            return self._link.lose("query_unanswered")
        first, last = self._ota.retry_first_ms, self._ota.retry_last_ms
        self._query_at = now_ms + min(first << (self._query_errors - 1), last)
        return []

    def _on_offer(
        self, offer: ota.QueryNextImageResponse, now_ms: int
    ) -> tuple[int, Sequence[Output]]:
        """The answer to either query; see ``_on_command``."""
        if not self._query_pending:
            return Status.SUCCESS, []  # late or not asked for
        self._query_pending, self._query_at = False, None
        self._query_errors = 0
        wanted, self._wanted_version = self._wanted_version, None
        image, size = offer.image, offer.size
        if image is None or size is None:
            note = Notify("image_query_answered", {"status": f"{offer.status:02X}"})
            return Status.SUCCESS, [note, *self._give_up_kept("no_image")]
        if image[:2] != self._running[:2] or wanted not in (None, image.file_version):
            return Status.INVALID_VALUE, self._refuse_offer(image, "other_image")
        if image in (self._running, self._end.image):
            ignored = Notify("offer_ignored", {"version": image.version_hex})
            return Status.SUCCESS, [ignored, *self._give_up_kept("no_image")]
        if image.file_version < self._running.file_version and not self._ota.allow_downgrade:
            told = self._tell_failure(Status.INVALID_IMAGE, image)
            return Status.SUCCESS, [*told, *self._refuse_offer(image, "downgrade")]
        return self._take_offer(image, size, now_ms)

    def _take_offer(self, image: ImageKey, size: int, now_ms: int) -> tuple[int, Sequence[Output]]:
        """Begin, or go on after a restart when it is the same file."""
        try:
            begun = self._transfer.begin(image, size, now_ms)
        except StorageFullError:  # the next query tries again
            return Status.INSUFFICIENT_SPACE, self._refuse_offer(image, "storage_full")
        except RefusedError as refused:
            outputs = self._refuse_offer(image, refused.cause)
            if refused.code == Status.INSUFFICIENT_SPACE:
                return refused.code, outputs
            told = self._tell_failure(end_status(refused), image)
            return Status.SUCCESS, [*told, *outputs]
        self._requery = False
        self._end.forget()  # a held image that was never activated is replaced
        offered = Notify("image_offered", {"version": image.version_hex, "total_size": size})
        return Status.SUCCESS, [offered, *begun]

    def _refuse_offer(self, image: ImageKey, cause: str) -> list[Output]:
        """An offer that cannot be taken; what a restart left of another one is not gone on with."""
        note = Notify("offer_refused", {"version": image.version_hex, "cause": cause})
        if self._requery:
            return [note, *self._give_up_kept(cause)]
        return [note, UpgradeAbandoned(cause)]

    def _give_up_kept(self, cause: str) -> list[Output]:
        """After a restart: nobody offers the rest. What is here stays, in case somebody does."""
        if not self._requery:
            return []
        self._requery = False
        return self._transfer.stop(cause, keep=True)

    def _tell_failure(self, status: int, image: ImageKey) -> list[Output]:
        """Upgrade End Request with a failure; always with the image key (supplement 10.3)."""
        if not self._link.ready:
            return []  # the server offers again, and hears of it then
        end = ota.UpgradeEndRequest(status, image)
        return [
            self._link.request(ota.UPGRADE_END_REQUEST, ota.encode_upgrade_end_request(end)),
            Notify("upgrade_end_sent", {"status": f"{status:02X}"}),
        ]

    # --- timers -----------------------------------------------------------------------------------

    def _settle(self, outputs: Sequence[Output], now_ms: int) -> Sequence[Output]:
        """After anything but a plain block: search when there is no server, set the timers."""
        link = self._link
        if link.up and link.peer is None and link.wake_at is None:
            outputs = [*outputs, *link.search(now_ms)]
        self._arm(now_ms)
        return outputs

    def _arm(self, now_ms: int) -> None:
        if not self._link.ready or not self._may_query():
            self._query_at, self._query_pending = None, False
        elif self._query_at is None:
            interval_ms = self._ota.query_interval_s * 1000
            jitter_ms = interval_ms * self._ota.query_jitter_percent // 100
            self._query_at = now_ms + interval_ms + self._entropy.below(jitter_ms + 1)
        times = (
            self._link.wake_at,
            self._query_at,
            self._transfer.wake_at,
            self._end.wake_at,
        )
        self.wake_at = min((at for at in times if at is not None), default=None)


def _due(at_ms: int | None, now_ms: int) -> bool:
    return at_ms is not None and at_ms <= now_ms


def _refuse(frame: Frame, status: int, name: str, reason: str) -> Sequence[Effect]:
    """Count it, and tell the peer."""
    note = Notify(name, {"status": f"{status:02X}", "reason": reason})
    return [note, *default_response(frame, status)]
