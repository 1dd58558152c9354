"""Which press of a button counts: contacts bounce, and lines are looked at, not waited for.

Edge events would cost no polling, but not every back end has them, nor every chip that the kernel
shows. A line that is on at the start is no press: somebody leans on it, or it is wired wrong.
"""

from __future__ import annotations

LOOK_S = 0.05  # between two looks; a finger stays longer, and contacts bounce for less
STEADY = 2  # looks that agree before a line counts as on or off


class Button:
    """One button, fed with what its line is at every look."""

    def __init__(self) -> None:
        self._is_on = True  # until it was seen off
        self._others = 0  # looks in a row that say otherwise

    def look(self, on: bool) -> bool:
        """Whether this look completes a press."""
        if on == self._is_on:
            self._others = 0
            return False
        self._others += 1
        if self._others < STEADY:
            return False
        self._is_on, self._others = on, 0
        return on
