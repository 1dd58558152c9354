"""The transfer of one OTA file: block and page requests, their answers, waits and retries.

Octets go to the ``Download`` port in order, as they come. Rules and numbers: ZCL 11.13;
gbcs-supplement 10.2, 10.3; zigbee-znp.md 8, 9.

Ordering rules:

1. A block counts only at the offset that is missing; blocks ahead of it only within a page that
   was asked for. Everything else is late or repeated and changes nothing.
2. Every retry asks at the same offset with a new ZCL sequence number.
3. A page's gaps are asked for as single blocks when the page is over, before the next page.
4. ``Download.offset`` is the truth about what is there; after a full disk it is read again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from firmware_node.boundary import Notify, Records, SendFrame
from firmware_node.errors import RefusedError, StorageFullError
from firmware_node.node.deadline import KeptDeadline
from firmware_node.node.server_link import ServerLink
from firmware_node.node.upgrade_state import ImageHeld, Output, UpgradeAbandoned, UpgradeState
from firmware_node.terms import ImageKey, OtaSettings, UpgradeStatus
from firmware_node.wire import ota
from firmware_node.wire.ota_blocks import BlockCoder
from firmware_node.wire.zcl import Status

PROGRESS_BYTES = 64 * 1024  # between two progress notifications
PAGE_SILENCES_MAX = 2  # pages that brought nothing, before blocks are asked for alone
AHEAD_MAX = 256  # blocks kept beyond a gap; what does not fit is asked for again
WAIT_MIN_MS = 1_000  # a server that says "wait 0 s" must not turn the HAN into a ping-pong


class Download(Protocol):
    """Where the octets go; ``Assembly`` implements it."""

    offset: int

    def begin(self, image: ImageKey, size: int, now_ms: int) -> int:
        """Go on with the same file or prepare for a new one; the first missing offset.

        Raises:
            RefusedError: the file cannot be taken; nothing has changed.
            StorageFullError: no space at the moment.
        """
        ...

    def resume(self) -> tuple[ImageKey, int, int] | None:
        """Image, size and offset of a download kept across a restart."""
        ...

    def append(self, data: bytes, now_ms: int) -> None:
        """The next octets in order.

        Raises:
            RefusedError: they do not make the file that was offered.
            StorageFullError: no space at the moment; ``offset`` says what is there.
        """
        ...

    def abandon(self) -> None:
        """The spare bank holds nothing of use."""
        ...


class Transfer:
    """One file at a time; ``begin`` … ``ImageHeld`` or ``UpgradeAbandoned``."""

    def __init__(
        self,
        settings: OtaSettings,
        download: Download,
        link: ServerLink,
        records: Records,
        state: UpgradeState,
    ) -> None:
        self._settings = settings
        self._download = download
        self._link = link
        self._state = state
        self._block_size = settings.block_size
        self._reply_timeout_ms = settings.reply_timeout_ms
        self._coder = BlockCoder(ImageKey(0, 0, 0), None)
        self._wait = KeptDeadline(records, "ota/wait")
        self.wake_at: int | None = None
        self.image: ImageKey | None = None
        self.size = 0
        self.offset = 0
        self.block_period = 0  # attribute MinimumBlockPeriod, in its own unit
        self._awaiting = False  # an answer; else the timer says when to ask
        self._asked = 0  # bytes of the block asked for
        self._errors = 0  # sequential
        self._not_before_ms = 0  # MinimumBlockPeriod after the last request
        self._progress_at = 0
        self._plain_until = 0  # below it a block is simply followed by the next request
        self._pages = False
        self._page_end = 0  # 0: no page is under way
        self._page_came = False  # anything of it
        self._mending = False  # its gaps are being asked for
        self._page_silences = 0
        self._block_next = False  # a block between a silent page and the next page
        self._ahead: dict[int, bytes] = {}

    # --- begin and end ----------------------------------------------------------------------------

    def resume(self, now_ms: int) -> bool:
        """After a restart: know the file and offset that were kept; nothing is asked yet."""
        kept = self._download.resume()
        if kept is None:
            self._wait.clear()
            return False
        self.image, self.size, self.offset = kept
        self._wait.restore(now_ms)
        return True

    def begin(self, image: ImageKey, size: int, now_ms: int) -> list[Output]:
        """Take the offer: from the start, or from where the same file was left.

        Raises:
            RefusedError, StorageFullError: from ``Download.begin``.
        """
        offset = self._download.begin(image, size, now_ms)
        if (image, size) != (self.image, self.size):
            self._wait.clear()
        self.image, self.size, self.offset = image, size, offset
        self.block_period = self._errors = self._page_silences = 0
        self._asked = self._block_size
        self._not_before_ms = now_ms
        self._progress_at = offset
        self._pages = self._settings.page_size > 0
        self._coder = BlockCoder(image, None)
        if self._state.status is not UpgradeStatus.DOWNLOAD_IN_PROGRESS:
            self._state.enter(UpgradeStatus.NORMAL)  # a held image has lost its bank
            self._state.enter(UpgradeStatus.DOWNLOAD_IN_PROGRESS)
        started = Notify(
            "download_started",
            {"version": image.version_hex, "file_offset": offset, "total_size": size},
        )
        return [started, *self.go(now_ms)]

    def go(self, now_ms: int) -> Sequence[Output]:
        """The server can be reached: ask, unless it told us to wait."""
        self._drop_page()
        if self.offset >= self.size:
            return self._accept(b"", now_ms)
        if self._wait.at_ms is not None:
            if self._wait.at_ms > now_ms:
                self._sleep(self._wait.at_ms)
                return ()
            self._wait.clear()
        return self._ask(now_ms)

    def pause(self) -> None:
        """The server cannot be reached."""
        self._drop_page()
        self._awaiting = False
        self.wake_at = None

    def forget(self) -> None:
        """No file is being transferred."""
        self.pause()
        self._wait.clear()
        self.image = None
        self.size = self.offset = 0

    def stop(self, cause: str, *, keep: bool) -> list[Output]:
        """The upgrade ends here; ``keep`` what came for the next offer of the same file."""
        offset = self.offset
        if not keep:
            self._download.abandon()
        self.forget()
        self._state.enter(UpgradeStatus.NORMAL)
        return [
            Notify("download_aborted", {"cause": cause, "file_offset": offset}),
            UpgradeAbandoned(cause),
        ]

    def learn_utc(self, utc: int, now_ms: int) -> None:
        """The hub's time is known."""
        self._wait.learn_utc(utc, now_ms)
        if self._wait.at_ms is not None and self.wake_at is not None and not self._awaiting:
            self.wake_at = min(self.wake_at, self._wait.at_ms)

    # --- answers ----------------------------------------------------------------------------------

    def on_frame(self, payload: bytes, now_ms: int) -> Sequence[Output] | None:
        """The hot path: the awaited block and nothing else; None leaves it to ``on_answer``."""
        data = self._coder.data(payload, self.offset)
        if data is None or len(data) > self._asked:
            return None
        return self._accept(data, now_ms)

    def on_answer(
        self, answer: ota.BlockData | ota.WaitForData | ota.BlockStatus, now_ms: int
    ) -> Sequence[Output]:
        """Any Image Block Response.

        Raises:
            RefusedError: INVALID_VALUE, a block of another image or longer than asked.
        """
        if isinstance(answer, ota.WaitForData):
            return self._on_wait(answer, now_ms)
        if isinstance(answer, ota.BlockStatus):
            return self._on_status(answer.status, now_ms)
        if answer.image != self.image:
            raise RefusedError(Status.INVALID_VALUE, "other_image", f"block of {answer.image}")
        size, at = len(answer.data), answer.file_offset
        if at == self.offset:
            if size > self._asked:
                raise RefusedError(
                    Status.INVALID_VALUE, "block_too_long", f"{size} bytes, asked for {self._asked}"
                )
            return self._accept(answer.data, now_ms)
        if self.offset < at < self._page_end:
            if size > self._block_size or at + size > self.size:
                raise RefusedError(
                    Status.INVALID_VALUE, "block_too_long", f"{size} bytes at {at} of a page"
                )
            return self._keep_ahead(at, answer.data, now_ms)
        return ()  # late or repeated

    def on_error(self, command: int, status: int, now_ms: int) -> Sequence[Output]:
        """A Default Response with an error to one of our requests."""
        if not self._awaiting:
            return ()
        if command == ota.IMAGE_PAGE_REQUEST and status not in _OVER:
            self._drop_page()
            self._pages = False
            fields = {"cause": f"default_response_{status:02x}"}
            return [Notify("pages_given_up", fields), *self._ask(now_ms)]
        return self._on_status(status, now_ms)

    def on_timer(self, now_ms: int) -> Sequence[Output]:
        """No answer came, or it is time to ask."""
        if not self._awaiting:
            if self._wait.at_ms is not None and self._wait.at_ms <= now_ms:
                self._wait.clear()
            if self.offset >= self.size:
                return self._accept(b"", now_ms)  # the end waited for space
            return self._ask(now_ms)
        if self._page_end and not self._mending:
            return self._page_over(now_ms)
        return self._failed("no_answer", now_ms)

    def _accept(self, data: bytes, now_ms: int) -> Sequence[Output]:
        """Octets at the missing offset."""
        more: bytes | None = data
        while more is not None:
            try:
                self._download.append(more, now_ms)
            except RefusedError as refused:
                return self._refused(refused)
            except StorageFullError:
                return self._storage_full(now_ms)
            offset = self.offset = self.offset + len(more)
            if offset < self._plain_until:
                self._errors = 0
                return (self._ask_block(self._block_size, now_ms),)
            more = self._ahead.pop(offset, None)  # of a page, behind the gap just filled
        self._errors = 0
        return self._after_block(now_ms)

    def _after_block(self, now_ms: int) -> Sequence[Output]:
        outputs: list[Output] = []
        if self.offset >= self._progress_at or self.offset >= self.size:
            self._progress_at = self.offset + PROGRESS_BYTES
            fields = {"file_offset": self.offset, "total_size": self.size}
            outputs.append(Notify("download_progress", fields))
        self._block_next = False
        if self.offset >= self.size:
            return [*outputs, *self._complete()]
        if self._wait.at_ms is not None:
            return outputs  # a late answer; the server still wants us to wait
        if self._page_end and not self._mending and self.offset < self._page_end:
            self._page_came = True
            self._await_page(now_ms)  # the rest comes by itself
            return outputs
        if self.offset >= self._page_end:
            if self._page_end and not self._mending:
                self._page_silences = 0
            self._drop_page()
        outputs.extend(self._ask(now_ms))
        return outputs

    def _on_wait(self, answer: ota.WaitForData, now_ms: int) -> Sequence[Output]:
        """Both times are the server's clock, so their difference needs none of ours."""
        settings = self._settings
        if answer.block_period is not None and answer.block_period != self.block_period:
            self.block_period = answer.block_period
            assert self.image is not None
            self._coder = BlockCoder(self.image, answer.block_period)
        if answer.request_time < answer.current_time:
            wait_ms = settings.bad_time_block_s * 1000
        else:
            wait_ms = (answer.request_time - answer.current_time) * 1000 + self._gap_ms()
        wait_ms = max(min(wait_ms, settings.wait_max_s * 1000), WAIT_MIN_MS)
        self._errors = 0
        self._drop_page()
        self._wait.set(wait_ms, now_ms)
        self._sleep(now_ms + wait_ms)
        return [Notify("download_waiting", {"seconds": wait_ms // 1000})]

    def _on_status(self, status: int, now_ms: int) -> Sequence[Output]:
        if status in _OVER:
            return self.stop("server_abort", keep=False)  # without an Upgrade End Request
        return self._failed(f"status_{status:02x}", now_ms)

    # --- pages ------------------------------------------------------------------------------------

    def _keep_ahead(self, at: int, data: bytes, now_ms: int) -> Sequence[Output]:
        """A block behind a gap of the page under way."""
        self._page_came = True
        if len(self._ahead) < AHEAD_MAX:
            self._ahead.setdefault(at, data)
        if self._mending:
            return ()
        if at + len(data) >= self._page_end:
            return self._page_over(now_ms)  # its last block: what lacks now was lost
        self._await_page(now_ms)
        return ()

    def _page_over(self, now_ms: int) -> Sequence[Output]:
        """The page ended with gaps, or nothing came of it."""
        if self._page_came:
            self._page_silences = 0
            self._mending = True
            return self._ask(now_ms)
        self._drop_page()
        self._page_silences += 1
        outputs: list[Output] = []
        if self._page_silences >= PAGE_SILENCES_MAX:
            self._pages = False
            outputs.append(Notify("pages_given_up", {"cause": "no_answer"}))
        self._block_next = True
        outputs.extend(self._ask(now_ms))
        return outputs

    def _drop_page(self) -> None:
        self._page_end = 0
        self._page_came = self._mending = False
        self._ahead.clear()

    def _await_page(self, now_ms: int) -> None:
        self._awaiting = True
        self.wake_at = now_ms + self._page_spacing_ms() + self._reply_timeout_ms

    def _page_spacing_ms(self) -> int:
        return min(max(self._settings.page_spacing_ms, self._gap_ms()), 0xFFFF)

    # --- requests ---------------------------------------------------------------------------------

    def _ask(self, now_ms: int) -> Sequence[Output]:
        """The next request, or a timer for it when MinimumBlockPeriod is not over."""
        if not self._link.ready:
            self.pause()
            return ()
        if now_ms < self._not_before_ms:
            self._sleep(self._not_before_ms)
            return ()
        if self._mending:
            return (self._ask_block(self._gap_size(), now_ms),)
        left = self.size - self.offset
        if self._pages and not self._block_next and left > self._block_size:
            return (self._ask_page(now_ms),)
        self._plan()
        return (self._ask_block(self._block_size, now_ms),)

    def _ask_block(self, size: int, now_ms: int) -> SendFrame:
        link, offset = self._link, self.offset
        if offset + size > self.size:
            size = self.size - offset
        self._asked = size
        self._awaiting = True
        self.wake_at = now_ms + self._reply_timeout_ms
        if self.block_period:
            self._not_before_ms = now_ms + self._gap_ms()
        return link.frame(self._coder.request(link.next_sequence(), offset, size))

    def _ask_page(self, now_ms: int) -> SendFrame:
        assert self.image is not None
        size = min(self._settings.page_size, self.size - self.offset, 0xFFFF)
        self._drop_page()
        self._page_end = self.offset + size
        self._asked = self._block_size
        self._plain_until = 0
        self._not_before_ms = now_ms + self._gap_ms()
        self._await_page(now_ms)
        request = ota.ImagePageRequest(
            self.image, self.offset, self._block_size, size, self._page_spacing_ms()
        )
        return self._link.request(ota.IMAGE_PAGE_REQUEST, ota.encode_image_page_request(request))

    def _gap_size(self) -> int:
        """Bytes missing at the offset, up to the next block that came or one block."""
        behind = min((at for at in self._ahead if at > self.offset), default=self._page_end)
        return min(self._block_size, behind - self.offset)

    def _plan(self) -> None:
        """Up to where blocks follow blocks without a second thought."""
        plain = not self._pages and not self.block_period and self._wait.at_ms is None
        self._plain_until = min(self._progress_at, self.size) if plain else 0

    def _gap_ms(self) -> int:
        """MinimumBlockPeriod; an absurd one is no way to stop us for ever."""
        gap_ms = self.block_period * self._settings.block_period_unit_ms
        return min(gap_ms, self._settings.wait_max_s * 1000)

    def _sleep(self, at_ms: int) -> None:
        self._awaiting = False
        self._plain_until = 0
        self.wake_at = at_ms

    # --- failures and the end ---------------------------------------------------------------------

    def _failed(self, cause: str, now_ms: int) -> Sequence[Output]:
        """Back off and ask again at the same offset, a bounded number of times."""
        settings = self._settings
        self._errors += 1
        if self._errors >= settings.errors_max:
            # What is in the bank stays: the next offer of the same file goes on from there.
            return [*self.stop(cause, keep=True), *self._link.lose(cause)]
        back_off_ms = min(settings.retry_first_ms << (self._errors - 1), settings.retry_last_ms)
        if self._page_end and not self._mending:
            self._drop_page()
        self._sleep(now_ms + back_off_ms)
        return [
            Notify(
                "block_retried",
                {"cause": cause, "file_offset": self.offset, "errors": self._errors},
            )
        ]

    def _refused(self, refused: RefusedError) -> Sequence[Output]:
        assert self.image is not None
        end = ota.UpgradeEndRequest(end_status(refused), self.image)
        return [
            *self.stop(refused.cause, keep=False),
            self._link.request(ota.UPGRADE_END_REQUEST, ota.encode_upgrade_end_request(end)),
            Notify("upgrade_end_sent", {"status": f"{end.status:02X}"}),
        ]

    def _storage_full(self, now_ms: int) -> Sequence[Output]:
        """The download pauses (dual-bank.md 9); the port says how much of it is there."""
        self.offset = self._download.offset
        self._drop_page()
        self._sleep(now_ms + self._settings.bad_time_block_s * 1000)
        return [Notify("download_paused", {"cause": "storage_full", "file_offset": self.offset})]

    def _complete(self) -> Sequence[Output]:
        assert self.image is not None
        self.pause()
        self._wait.clear()
        self._state.enter(UpgradeStatus.DOWNLOAD_COMPLETE)
        return [ImageHeld(self.image, self.size)]


_OVER = (Status.ABORT, Status.NO_IMAGE_AVAILABLE)


def end_status(refused: RefusedError) -> int:
    """The status of an Upgrade End Request: the refusal's, if it is a ZCL status at all."""
    return refused.code if 0 < refused.code <= 0xFF else Status.INVALID_IMAGE
