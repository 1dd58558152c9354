"""Keeps the device's own messages until the hub has them: durable, in order, at least once.

A message is put here in the step that causes it, so the driver commits the change of state and
its message together (I8). Only the head is under way. It is removed when the radio confirms that
every fragment was APS-acknowledged; until then the very same octets are sent again (I9).
The outbox refuses to grow past ``OUTBOX_MAX`` and never drops its head to make room. Each message
is kept in two rows; one whose rows are both lost is given up with a notification, so that those
behind it still leave (I12).

Source: dual-bank.md sections 5 and 7.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from firmware_node.boundary import Effect, Notify, Records, SendConfirmed, SendFrame
from firmware_node.errors import RecordLostError, StorageFullError
from firmware_node.node.records import delete_twice, get_twice, keys_twice, put_twice

OUTBOX_MAX = 64  # messages; a month of failed updates fits, a flood of forged commands does not
RETRY_FIRST_MS = 2_000  # after an unacknowledged send, doubling
RETRY_LAST_MS = 60_000
CONFIRM_TIMEOUT_MS = 15_000  # a radio that never confirms counts as not delivered
_PREFIX = "outbox/"


class Outbox:
    """The queue of final encoded messages; ``send`` is the tunnel's door."""

    def __init__(self, records: Records, send: Callable[[bytes, int], SendFrame | None]) -> None:
        self._records = records
        self._send = send
        self._tag = 0  # of the send under way; tags rise within one life of the process
        self._under_way: str | None = None
        self._retry_ms = RETRY_FIRST_MS
        self.has_new = False  # since the last ``pump``
        self.wake_at: int | None = None

    def __len__(self) -> int:
        return len(keys_twice(self._records, _PREFIX))

    def put(self, message: bytes) -> None:
        """Append one message; durable with the driver's next commit.

        Raises:
            StorageFullError: ``OUTBOX_MAX`` messages wait already.
        """
        keys = self._keys_with_room()
        last = int(keys[-1].removeprefix(_PREFIX), 16) if keys else 0
        put_twice(self._records, f"{_PREFIX}{last + 1:016x}", message)
        self.has_new = True

    def check_room(self) -> None:
        """Raise StorageFullError when ``OUTBOX_MAX`` messages wait already."""
        self._keys_with_room()

    def pump(self, now_ms: int) -> Sequence[Effect]:
        """Send the head when nothing is under way and a tunnel is open."""
        self.has_new = False
        if self._under_way is not None or (self.wake_at is not None and now_ms < self.wake_at):
            return ()
        self.wake_at = None
        effects: list[Effect] = []
        for key in keys_twice(self._records, _PREFIX):
            try:
                message = get_twice(self._records, key)
            except RecordLostError as lost:
                delete_twice(self._records, key)
                effects.append(Notify("message_lost", {"reason": str(lost)}))
                continue
            frame = self._send(message, self._tag + 1)
            if frame is not None:  # else no tunnel; the hub opens one, and that pumps again
                self._tag += 1
                self._under_way = key
                self.wake_at = now_ms + CONFIRM_TIMEOUT_MS
                effects.append(frame)
            break
        return effects

    def confirmed(self, item: SendConfirmed, now_ms: int) -> Sequence[Effect]:
        """Take the radio's word for the send under way; a late word for an older one is ignored."""
        if self._under_way is None or item.tag != self._tag:
            return ()
        key, self._under_way = self._under_way, None
        if not item.delivered:
            return self._try_later(now_ms)
        delete_twice(self._records, key)
        self._retry_ms = RETRY_FIRST_MS
        self.wake_at = None
        return (Notify("message_delivered", {"waiting": len(self)}), *self.pump(now_ms))

    def timer(self, now_ms: int) -> Sequence[Effect]:
        """The retry is due, or the radio never confirmed."""
        if self._under_way is not None:
            self._under_way = None
            return self._try_later(now_ms)
        return self.pump(now_ms)

    def tunnel_lost(self) -> None:
        """The tunnel or the network went: whatever was under way is sent again when it is back."""
        self._under_way = None
        self.wake_at = None

    def _keys_with_room(self) -> list[str]:
        keys = keys_twice(self._records, _PREFIX)
        if len(keys) >= OUTBOX_MAX:
            raise StorageFullError(f"outbox: {OUTBOX_MAX} messages wait for the hub")
        return keys

    def _try_later(self, now_ms: int) -> Sequence[Effect]:
        self.wake_at = now_ms + self._retry_ms
        self._retry_ms = min(2 * self._retry_ms, RETRY_LAST_MS)
        return (Notify("message_undelivered", {"waiting": len(self)}),)
