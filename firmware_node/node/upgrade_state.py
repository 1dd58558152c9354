"""Where an upgrade stands, and what its stages hand over to the device.

``UpgradeState.enter`` alone changes ImageUpgradeStatus, and only along ``MOVES``.
"""

from __future__ import annotations

from dataclasses import dataclass

from firmware_node.boundary import Effect
from firmware_node.terms import ImageKey, UpgradeStatus

_S = UpgradeStatus

MOVES = (
    (_S.NORMAL, _S.DOWNLOAD_IN_PROGRESS),  # an offer is taken, or a restart found a part
    (_S.NORMAL, _S.DOWNLOAD_COMPLETE),  # a restart found a verified image
    (_S.DOWNLOAD_IN_PROGRESS, _S.DOWNLOAD_COMPLETE),
    (_S.DOWNLOAD_IN_PROGRESS, _S.NORMAL),  # aborted, refused, or the server is silent
    (_S.DOWNLOAD_COMPLETE, _S.NORMAL),  # not verified, or the server aborts
    (_S.DOWNLOAD_COMPLETE, _S.WAITING_TO_UPGRADE),
    (_S.DOWNLOAD_COMPLETE, _S.COUNT_DOWN),
    (_S.DOWNLOAD_COMPLETE, _S.WAITING_TO_UPGRADE_VIA_EXTERNAL_EVENT),
    (_S.WAITING_TO_UPGRADE, _S.COUNT_DOWN),
    (_S.WAITING_TO_UPGRADE, _S.NORMAL),  # the server aborts, or a newer image takes the bank
    (_S.COUNT_DOWN, _S.WAITING_TO_UPGRADE),  # the server holds it after all
    (_S.COUNT_DOWN, _S.NORMAL),  # the activation failed, or the server aborts
    (_S.WAITING_TO_UPGRADE_VIA_EXTERNAL_EVENT, _S.NORMAL),
)


@dataclass(frozen=True, slots=True)
class ImageHeld:
    """Every octet of this OTA file is in the spare bank; verify it and call back."""

    image: ImageKey
    size: int


@dataclass(frozen=True, slots=True)
class ActivationRequested:
    """The server let us activate and the time has come."""

    image: ImageKey


@dataclass(frozen=True, slots=True)
class UpgradeAbandoned:
    """An upgrade ended before its image was held; ``cause`` is a fixed snake_case word."""

    cause: str


Output = Effect | ImageHeld | ActivationRequested | UpgradeAbandoned


class UpgradeState:
    """ImageUpgradeStatus (attribute 0x0006)."""

    __slots__ = ("status",)

    def __init__(self) -> None:
        self.status = UpgradeStatus.NORMAL

    def enter(self, status: UpgradeStatus) -> None:
        """Move there; staying is no move."""
        if status is not self.status:
            assert (self.status, status) in MOVES, (self.status, status)
            self.status = status
