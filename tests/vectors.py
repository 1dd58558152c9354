"""Finds the reference vectors, which are not part of this repository.

``FIRMWARE_NODE_VECTORS`` names their folder; without it they are looked for in ``shared/vectors``
beside the repository. Where they are absent the tests that need them are skipped by name; under CI
they run and fail.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import pytest

VECTORS = Path(
    os.environ.get("FIRMWARE_NODE_VECTORS")
    or Path(__file__).resolve().parents[2] / "shared" / "vectors"
)

needs_vectors = pytest.mark.skipif(
    not VECTORS.is_dir() and not os.environ.get("CI"),
    reason=f"reference vectors are not at {VECTORS}; set FIRMWARE_NODE_VECTORS to their folder",
)


@cache
def reference_messages() -> dict[str, bytes]:
    """The reference GBCS messages, by file name without its ``_GBCS.HEX``."""
    return {
        path.name.removesuffix("_GBCS.HEX"): bytes.fromhex(path.read_text())
        for path in sorted((VECTORS / "rtds").rglob("*.HEX"))
    }


@cache
def reference_keys() -> dict[str, bytes]:
    """The key folder of the reference messages."""
    return {path.name: path.read_bytes() for path in sorted((VECTORS / "rtds-keys").iterdir())}
