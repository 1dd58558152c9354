"""Fuzzes one target: ``run_one.py TARGET [libFuzzer options] CORPUS...``. Needs atheris."""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parent)]

with atheris.instrument_imports(include=["firmware_node"]):
    from targets import TARGETS


def main() -> None:
    """Run until libFuzzer ends the process."""
    target = TARGETS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
