"""What a device's indicator lines show of its state; only a change leaves.

A PPMID's are ``joined``, ``downloading``, ``waiting`` and ``failed``; which of them has a line is
configuration.
"""

from __future__ import annotations

from firmware_node.boundary import SetIndicator
from firmware_node.terms import DeviceState

_STATES = {
    "downloading": (DeviceState.DOWNLOADING,),
    "waiting": (DeviceState.WAITING, DeviceState.TRIAL),
    "failed": (DeviceState.FAILED, DeviceState.REVERTED),
}


class Indicators:
    """Everything is dark until the first ``show``."""

    def __init__(self) -> None:
        self._shown: dict[str, bool] = {}

    def show(self, joined: bool, state: DeviceState) -> list[SetIndicator]:
        """The lines that are now another way; at first all of them."""
        wanted = {"joined": joined} | {name: state in lit for name, lit in _STATES.items()}
        changes = [
            SetIndicator(name, on) for name, on in wanted.items() if self._shown.get(name) != on
        ]
        self._shown = wanted
        return changes
