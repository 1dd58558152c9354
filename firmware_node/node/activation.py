"""How the running image behaves: start-up, self-test, crash, confirmation, the end of a trial.

The emulated firmware is its manifest. A trial is confirmed after a good self-test plus
``confirm_after_s`` of uptime; it is reverted when the self-test fails or ``trial_limit_s`` of
uptime pass. A crash is a restart like any other: only starts are counted, by ``Banks``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from firmware_node.boundary import Notify, Reboot
from firmware_node.terms import ActivationSettings
from firmware_node.wire.manufacturer_image import Manifest


@dataclass(frozen=True, slots=True)
class TrialPassed:
    """Confirm the running image."""


@dataclass(frozen=True, slots=True)
class TrialFailed:
    """Revert; the cause is a fixed snake_case word."""

    cause: str


Outcomes = Sequence[Notify | Reboot | TrialPassed | TrialFailed]


class Trial:
    """One life of the process; ``begin`` is called once, at start."""

    def __init__(self, settings: ActivationSettings) -> None:
        self._settings = settings
        self._trial = False
        self._self_test: bool | None = None  # None: reported already
        self._crash_at: int | None = None
        self._confirm_at: int | None = None
        self._limit_at: int | None = None
        self._up_at: int | None = None

    @property
    def wake_at(self) -> int | None:
        """The earliest of self-test, crash, confirmation and limit."""
        times = (self._up_at, self._crash_at, self._confirm_at, self._limit_at)
        return min((at for at in times if at is not None), default=None)

    def begin(self, manifest: Manifest | None, trial: bool, now_ms: int) -> None:
        """The image starts; a vendor's image without a manifest behaves well."""
        self._trial = trial
        up_at = now_ms + (manifest.startup_ms if manifest else 0)
        if manifest is not None and manifest.crash_after_ms is not None:
            self._crash_at = up_at + manifest.crash_after_ms
        if not trial:
            return
        self._up_at = up_at
        self._self_test = manifest.self_test if manifest else True
        self._limit_at = now_ms + self._settings.trial_limit_s * 1000
        if manifest is None or manifest.confirms:
            self._confirm_at = up_at + self._settings.confirm_after_s * 1000

    def step(self, now_ms: int) -> Outcomes:
        """A timer is due. A crash comes before a confirmation that is due at the same moment."""
        if _due(self._up_at, now_ms):
            self._up_at = None
            if not self._self_test:
                self._end()
                return (Notify("self_test", {"passed": False}), TrialFailed("self_test"))
            return (Notify("self_test", {"passed": True}), *self.step(now_ms))
        if _due(self._crash_at, now_ms):
            self._crash_at = None
            return (Notify("image_crashed"), Reboot("crash"))
        if _due(self._confirm_at, now_ms):
            self._end()
            return (TrialPassed(),)
        if _due(self._limit_at, now_ms):
            self._end()
            return (TrialFailed("trial_limit"),)
        return ()

    def _end(self) -> None:
        self._trial = False
        self._confirm_at = self._limit_at = None


def _due(at: int | None, now_ms: int) -> bool:
    return at is not None and at <= now_ms
