"""One start of the device on what is in ``DIRECTORY/state``, for ``test_file_cuts`` to trace."""

from __future__ import annotations

import os
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]


def main(directory: str) -> None:
    sys.path[:0] = [str(TESTS.parent), str(TESTS), str(TESTS / "faults")]
    from survivors import Life

    Life(Path(directory) / "state")
    os._exit(0)  # as a power cut: nothing is closed


if __name__ == "__main__":
    main(*sys.argv[1:])
