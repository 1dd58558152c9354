"""The one future-dated activation that a device holds: which command, and when it is due.

The command itself is kept, authenticated once; image and hash are looked at only when its time has
come (gbcs-supplement 1.1). It survives restarts, and it is executed late rather than dropped when
its time passed while the device was off or did not know the time. Without a trustworthy time it
waits. Source: gbcs-supplement 1.3, 9.
"""

from __future__ import annotations

from firmware_node.boundary import Notify, Records
from firmware_node.errors import RecordLostError
from firmware_node.node.messages import activation_request
from firmware_node.node.records import delete_twice, get_twice, keys_twice, put_twice
from firmware_node.wire import zcl
from firmware_node.wire.firmware_messages import ActivateFirmware

_KEY = "activation/schedule"


class Schedule:
    """``wake_at`` is known while the time is."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._executes_at = 0  # seconds since 2000-01-01T00:00:00Z
        self.command: bytes | None = None
        self.manufacturer_sha256 = b""
        self.wake_at: int | None = None  # monotonic ms

    @property
    def is_pending(self) -> bool:
        """Whether an activation waits for its time."""
        return self.command is not None

    def start(self) -> tuple[Notify, ...]:
        """Take up what a former life of the process accepted."""
        if not keys_twice(self._records, _KEY):
            return ()
        try:
            command = get_twice(self._records, _KEY)
        except RecordLostError as lost:
            self.clear()
            return (Notify("record_lost", {"record": _KEY, "reason": str(lost)}),)
        self._take(command, activation_request(command)[1])
        return (Notify("activation_pending", self.fields()),)

    def fields(self) -> dict[str, str]:
        """When, and which image, for people."""
        return {
            "at": zcl.utc_text(self._executes_at),
            "manufacturer_sha256": self.manufacturer_sha256.hex(),
        }

    def report(self) -> dict[str, str] | None:
        """For ``status``; None: nothing is pending."""
        return None if self.command is None else self.fields()

    def set(self, command: bytes, request: ActivateFirmware) -> None:
        """Keep this CS06 command; it takes the place of the one before."""
        put_twice(self._records, _KEY, command)
        self._take(command, request)

    def clear(self) -> None:
        """Nothing is pending any more."""
        self.command, self.manufacturer_sha256, self.wake_at = None, b"", None
        delete_twice(self._records, _KEY)

    def learn_utc(self, utc: int | None, now_ms: int) -> None:
        """The time is known, or, with None, not trustworthy any more."""
        if self.command is None or utc is None:
            self.wake_at = None
        else:
            self.wake_at = now_ms + max(self._executes_at - utc, 0) * 1000

    def is_due(self, utc: int | None) -> bool:
        """Whether the time to execute has come for certain."""
        return self.command is not None and utc is not None and utc >= self._executes_at

    def _take(self, command: bytes, request: ActivateFirmware) -> None:
        assert request.executes_at is not None
        self.command, self._executes_at = command, request.executes_at
        self.manufacturer_sha256 = request.manufacturer_image_hash
        self.wake_at = None
