"""One update or revert on real files, in a process of its own that ``test_file_cuts`` traces.

Arguments: the directory, and ``good`` or ``reverting``. A line on standard error marks what the
world was told, so that the trace knows what may not be forgotten any more.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SIZE = 70_000  # bytes of the manufacturer image: more than one checkpoint interval


def main(directory: str, kind: str) -> None:
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    from home import Story, image

    passes = kind == "good"
    file = image(2, size=SIZE, change=lambda manifest: replace(manifest, self_test=passes))
    story = Story(Path(directory))
    os.write(2, b"MARK provisioned\n")
    story.offer(file)
    assert story.until("CS09")
    os.write(2, b"MARK told\n")
    story.world.run_for(5_000)
    os._exit(0)  # as a power cut: nothing is closed


if __name__ == "__main__":
    main(*sys.argv[1:])
