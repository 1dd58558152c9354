"""The table of reference messages by use case that a test run prints at its end."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

PASS_TABLE = pytest.StashKey[Sequence[str]]()


def lines(rows: Sequence[dict[str, str]]) -> list[str]:
    """Columns as wide as their content, names first."""
    cells = [list(rows[0]), *(list(row.values()) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]
