"""Blocks become an image: RAM pages, page writes, checkpoints, resume.

Ordering rules (dual-bank.md 4): whole pages are written without a sync; a checkpoint writes the
trailer and syncs once. If the trailer reaches the medium before its pages, its digest does not
match and the other area is used. What is lost at a cut is at most one checkpoint interval, and
blocks are ours to ask for again.

The OTA client calls ``append`` during its step; it is the hot path of the bank side.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from dataclasses import dataclass

from firmware_node.boundary import PAGE_SIZE, BankArea, Entropy, Storage
from firmware_node.errors import DecodeError, RecordLostError, RefusedError, StorageFullError
from firmware_node.node.banks import Banks
from firmware_node.node.records import decode, encode
from firmware_node.node.verification import check_header
from firmware_node.terms import DeviceSettings, ImageKey
from firmware_node.wire.ota_file import decode_ota_header, header_size
from firmware_node.wire.zcl import Status

_SESSION = "session"
_TRAILER = struct.Struct("<4sH16sQI32s")  # magic, format, session, sequence, high-water mark, hash
_MAGIC = b"FNT1"
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Trailer:
    """A durable resume point: the first ``size`` octets of the bank have this hash."""

    session: bytes  # 16 octets
    sequence: int
    size: int
    sha256: bytes

    def encode(self) -> bytes:
        """The record with its CRC32."""
        body = _TRAILER.pack(_MAGIC, _FORMAT, self.session, self.sequence, self.size, self.sha256)
        return body + zlib.crc32(body).to_bytes(4, "little")

    @classmethod
    def decode(cls, data: bytes) -> Trailer | None:
        """None: blank, torn or of another format; then the other area counts."""
        body = data[: _TRAILER.size]
        crc = int.from_bytes(data[_TRAILER.size : _TRAILER.size + 4], "little")
        if len(body) != _TRAILER.size or zlib.crc32(body) != crc:
            return None
        magic, form, session, sequence, size, sha256 = _TRAILER.unpack(body)
        if magic != _MAGIC or form != _FORMAT:
            return None
        return cls(session, sequence, size, sha256)


class Assembly:
    """The ``Download`` port of the OTA client, on the spare bank."""

    def __init__(
        self, storage: Storage, settings: DeviceSettings, banks: Banks, entropy: Entropy
    ) -> None:
        self._storage = storage
        self._settings = settings
        self._banks = banks
        self._entropy = entropy
        self._area: BankArea | None = None
        self._image = ImageKey(0, 0, 0)
        self._size = 0
        self._session = b""
        self._buffer = bytearray()
        self._hash = hashlib.sha256()
        self._written = 0  # bytes in the bank, always whole pages until the end
        self._durable = 0  # bytes a restart can resume from
        self._sequence = 0
        self._header_due = True
        self.offset = 0  # bytes received
        self.wake_at: int | None = None  # a checkpoint of old data is due

    def begin(self, image: ImageKey, size: int, now_ms: int) -> int:
        """Go on with the same file, or prepare the spare bank for a new one.

        Returns:
            the offset of the first octet that is missing.

        Raises:
            RefusedError: INSUFFICIENT_SPACE; the bank is untouched.
            StorageFullError: no space on the disk, or the bank may not be written now.
        """
        area = self._storage.bank(self._banks.spare)
        if size > area.size:
            raise RefusedError(
                Status.INSUFFICIENT_SPACE,
                "image_too_large",
                f"{size} bytes, the bank takes {area.size}",
            )
        if size == 0:
            raise RefusedError(Status.INVALID_IMAGE, "image_malformed", "an empty file")
        if self._area is not None and (image, size) == (self._image, self._size):
            return self.offset
        self._banks.check_spare_is_free()
        stored = self._stored_session()
        if stored is not None and stored[:2] == (image, size):
            return self._resume_session(*stored)
        if self._storage.free_bytes() < self._settings.activation.free_bytes_min:
            raise StorageFullError("too little space for a download")
        session = self._entropy.octets(16)
        fields = {"image": list(image), "size": size, "id": session.hex()}
        self._storage.records.put(_SESSION, encode(fields))
        self._banks.mark_receiving(image, size)
        self._reset(image, size, session)
        return 0

    def resume(self) -> tuple[ImageKey, int, int] | None:
        """The session kept across a restart: image, size, offset; None when there is none."""
        stored = self._stored_session()
        if stored is None or self._banks.is_on_trial:
            return None
        return stored[0], stored[1], self._resume_session(*stored)

    def append(self, data: bytes, now_ms: int) -> None:
        """Take the next octets, in order.

        Raises:
            RefusedError: more than the file's size, or its header is not what was offered.
            StorageFullError: the medium has no space; ``abandon`` or try again later.
        """
        buffer = self._buffer
        buffer += data
        self.offset += len(data)
        if self.offset > self._size:
            raise RefusedError(Status.INVALID_IMAGE, "endless_file", "more data than its size")
        if self._header_due:
            self._check_header()
        if self.offset == self._size:
            self._write_rest()
        elif len(buffer) >= PAGE_SIZE:
            self._write_pages(len(buffer) // PAGE_SIZE * PAGE_SIZE)
            if self._written - self._durable >= self._settings.activation.checkpoint_bytes:
                self._checkpoint()
            elif self.wake_at is None:
                self._wake(now_ms)

    def timer(self, now_ms: int) -> None:
        """Data waited long enough to be made durable."""
        self.wake_at = None
        if self._area is not None and not self._try_checkpoint():
            self._wake(now_ms)

    def flush(self) -> None:
        """Before a wanted restart: keep what whole pages hold."""
        if self._area is not None and self._written > self._durable:
            self._try_checkpoint()

    def finish(self) -> tuple[int, bytes]:
        """Everything came and is durable: its size and hash."""
        assert self._durable == self._size
        return self._size, self._hash.digest()

    def close(self) -> None:
        """The bank's new state is recorded: the session ends with the same commit."""
        self._storage.records.delete(_SESSION)
        self._area = None
        self.wake_at = None
        self._buffer.clear()

    def abandon(self) -> None:
        """The upgrade is over and the bank holds nothing of use."""
        self._banks.mark_empty()
        self.close()

    def _stored_session(self) -> tuple[ImageKey, int, bytes] | None:
        try:
            value = self._storage.records.get(_SESSION)
        except RecordLostError:
            return None  # the download starts again
        if value is None:
            return None
        fields = decode(value)
        return ImageKey(*fields["image"]), fields["size"], bytes.fromhex(fields["id"])

    def _reset(self, image: ImageKey, size: int, session: bytes) -> None:
        self._area = self._storage.bank(self._banks.spare)
        self._image, self._size, self._session = image, size, session
        self._buffer.clear()
        self._hash = hashlib.sha256()
        self._written = self._durable = self._sequence = self.offset = 0
        self._header_due = True
        self.wake_at = None

    def _resume_session(self, image: ImageKey, size: int, session: bytes) -> int:
        """Step 7 of start-up: the newest trailer whose hash matches the bank (I4)."""
        self._banks.mark_receiving(image, size)  # no change, unless its record was lost
        self._reset(image, size, session)
        assert self._area is not None
        trailers = [Trailer.decode(self._area.read_trailer(area)) for area in (0, 1)]
        ours = [t for t in trailers if t is not None and t.session == session and t.size <= size]
        for trailer in sorted(ours, key=lambda trailer: -trailer.sequence):
            prefix = self._area.read(0, trailer.size)
            digest = hashlib.sha256(prefix)
            if digest.digest() != trailer.sha256:
                continue
            # Counting on from here, the next checkpoint spares the area that was just relied on.
            self._sequence = trailer.sequence
            self._hash = digest
            self._written = self._durable = self.offset = trailer.size
            self._header_due = self.offset == 0
            break
        return self.offset

    def _check_header(self) -> None:
        if len(self._buffer) < 8:
            return
        try:
            if len(self._buffer) < header_size(bytes(self._buffer[:8])):
                return
            header = decode_ota_header(bytes(self._buffer[:PAGE_SIZE]))
        except DecodeError as error:
            raise RefusedError(Status.INVALID_IMAGE, "image_malformed", str(error)) from error
        if header.image != self._image or header.total_image_size != self._size:
            raise RefusedError(
                Status.INVALID_IMAGE, "not_as_offered", "the OTA header differs from the offer"
            )
        check_header(header, self._settings)
        self._header_due = False

    def _write_rest(self) -> None:
        """Everything is here; a killed process may have left it written and not durable."""
        if self._header_due:
            raise RefusedError(Status.INVALID_IMAGE, "image_malformed", "shorter than its header")
        if self._buffer:
            self._write_pages(len(self._buffer))
        self._checkpoint()

    def _write_pages(self, size: int) -> None:
        assert self._area is not None
        pages = bytes(self._buffer[:size])
        self._area.write(self._written, pages)
        self._hash.update(pages)
        self._written += size
        del self._buffer[:size]

    def _checkpoint(self) -> None:
        assert self._area is not None
        sequence = self._sequence + 1
        trailer = Trailer(self._session, sequence, self._written, self._hash.copy().digest())
        self._area.write_trailer(sequence & 1, trailer.encode())
        self._area.sync()
        # Only now: one that failed for want of space is tried again in the same area.
        self._sequence, self._durable = sequence, self._written
        self.wake_at = None

    def _try_checkpoint(self) -> bool:
        """Without one, more is asked for again after a restart; a full disk stops nothing."""
        try:
            self._checkpoint()
        except StorageFullError:
            return False
        return True

    def _wake(self, now_ms: int) -> None:
        self.wake_at = now_ms + self._settings.activation.checkpoint_interval_s * 1000
