"""What the views ask of whoever runs a fleet. The run loop has it; the views decide nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

from firmware_node.fleet.live import Snapshot
from firmware_node.fleet.terms import Order

ACTIONS: Final = ("start", "pause", "resume", "stop")  # of the campaign
VERBS: Final = ("cut", "pause", "resume", "remove", "add", "query")  # that people may order


class FleetBackend(Protocol):
    """A fleet that runs. Every call comes from the loop that it runs on, between two turns."""

    def snapshot(self, since: int | None = None) -> Snapshot:
        """See ``Live.snapshot``; does not wait."""

    async def member(self, index: int) -> Mapping[str, Any]:
        """One device, 0 to ``size`` - 1: ``live_json.row_document``, and

        ``status`` (None, or ``on`` and what ``FleetHome.show`` has besides: ``banks``,
        ``running_bank``, ``last_failure``, …) and ``events`` (``at_ms name fields``, oldest first).
        """

    async def order(self, order: Order) -> str:
        """Have it carried out in the next turn; what will happen, in words.

        Raises:
            FirmwareNodeError: it cannot be.
        """

    async def campaign(self, action: str) -> str:
        """One of ``ACTIONS``; what happens, in words.

        Raises:
            FirmwareNodeError: it is no time for that.
        """

    async def results(self) -> Mapping[str, Any]:
        """What the run came to so far; see ``fleet.results``."""
