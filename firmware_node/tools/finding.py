"""One line of what ``doctor`` finds."""

from __future__ import annotations

from dataclasses import dataclass

OK, WARNING, PROBLEM = "ok", "warning", "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """A remedy stands where something is to be done."""

    check: str
    level: str  # OK, WARNING or PROBLEM
    found: str
    remedy: str | None = None
