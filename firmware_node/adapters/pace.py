"""How fast a transfer goes and what a device waits for: what daemons add to their machines' words.

The machines know no clock that a person could read; a daemon does, and hears every notification.
``WAITS_FOR`` holds the words for waiting.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from firmware_node.boundary import Notify

Document = dict[str, Any]
Clock = Callable[[], float]  # seconds, monotonic

WAITS_FOR = {
    "network": "the radio to find a network",
    "offer": "an offer of the OTA server",
    "block": "the next block",
    "server_data": "the time that the server set for the next block",
    "free_space": "space on the disk",
    "server_answer": "the server's answer to the Upgrade End Request",
    "server_permission": "the server's word to activate",
    "activation_message": "an activation by message",
    "activation_time": "the time of activation",
    "confirmation": "the confirmation of the image on trial",
    "restart": "the restart",
}
_BY_STATUS = {
    "download_in_progress": "block",
    "download_complete": "server_answer",
    "waiting_to_upgrade": "server_permission",
    "waiting_to_upgrade_via_external_event": "activation_message",
    "count_down": "activation_time",
}


class Pace:
    """A transfer's speed, from where it was when we began to look."""

    def __init__(self, file_offset: int, blocks: float, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._began_s = clock()
        self._file_offset = file_offset
        self._blocks = blocks

    def report(self, file_offset: int, total_size: int, blocks: float) -> Document:
        """``blocks_per_second`` and ``eta_seconds``; None while nothing moved."""
        seconds = self._clock() - self._began_s
        done = file_offset - self._file_offset
        if done <= 0 or seconds <= 0:
            return {"blocks_per_second": None, "eta_seconds": None}
        return {
            "blocks_per_second": round((blocks - self._blocks) / seconds, 1),
            "eta_seconds": round((total_size - file_offset) * seconds / done, 1),
        }


class Watch:
    """Hears a device's notifications; adds speed and waiting to ``status`` and to progress."""

    def __init__(self, block_size: int, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._block_size = block_size
        self._pace: Pace | None = None
        self._until: tuple[str, float] | None = None  # a wait of known length, and when it ends

    def heard(self, note: Notify) -> Notify:
        """Remember it; progress comes back with its speed."""
        fields = dict(note.fields)
        match note.name:
            case "download_started":
                offset = int(fields["file_offset"] or 0)
                self._pace = Pace(offset, offset / self._block_size, self._clock)
                self._until = None
            case "download_progress" if self._pace is not None:
                self._until = None
                offset, total = int(fields["file_offset"] or 0), int(fields["total_size"] or 0)
                speed = self._pace.report(offset, total, offset / self._block_size)
                return Notify(note.name, fields | speed)
            case "download_waiting" | "activation_scheduled":
                self._until = (note.name, self._clock() + float(fields["seconds"] or 0))
            case "download_paused":
                self._until = (note.name, 0)
            case "block_retried" | "download_aborted" | "activation_held":
                self._until = None
        return note

    def add_to(self, status: Document) -> None:
        """Add ``blocks_per_second``, ``eta_seconds`` and ``waits_for`` to ``status --json``."""
        upgrade = status["upgrade"]
        upgrade["blocks_per_second"] = None
        if upgrade["status"] == "download_in_progress" and self._pace is not None:
            offset, total = upgrade["file_offset"], upgrade["total_size"]
            upgrade |= self._pace.report(offset, total, offset / self._block_size)
        status["waits_for"] = self._waits_for(status)

    def _waits_for(self, status: Document) -> Document:
        """A word of ``WAITS_FOR``, its text, and the seconds left where they are known."""
        what, seconds = self._word(status)
        return {"what": what, "text": WAITS_FOR[what], "seconds": seconds}

    def _word(self, status: Document) -> tuple[str, float | None]:
        if status["state"] == "restarting":
            return "restart", None
        if status["state"] == "trial":
            return "confirmation", None
        if not status["network"]["joined"]:
            return "network", None
        what = _BY_STATUS.get(status["upgrade"]["status"], "offer")
        reason, until_s = self._until or ("", 0.0)
        left_s = round(max(until_s - self._clock(), 0.0), 1)
        match what, reason:
            case "block", "download_paused":
                return "free_space", None
            case "block", "download_waiting" if left_s:
                return "server_data", left_s
            case "activation_time", "activation_scheduled":
                return what, left_s
        return what, None
