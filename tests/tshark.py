"""tshark as a third party's reading of a capture."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

needs_tshark = pytest.mark.skipif(
    shutil.which("tshark") is None and not os.environ.get("CI"),
    reason="tshark is not installed; on Debian install tshark",
)


# What a reader who has the keys must not meet.
FAULTS = (
    "_ws.malformed",
    "wpan.fcs.bad",
    "zbee_sec.encrypted_payload",
    "zbee_sec.extended_source_unknown",
)


def dissect(capture: Path, shown: str, *fields: str, keys: bool = True) -> list[list[str]]:
    """The fields of every frame that a display filter shows, read with the capture's own keys."""
    command = ["tshark", "-n", "-r", str(capture), "-Y", shown, "-T", "fields"]
    if keys:
        for line in capture.with_name(capture.name + ".keys").read_text().splitlines():
            command += ["-o", f"uat:zigbee_pc_keys:{line}"]
    for name in fields:
        command += ["-e", name]
    run = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return [line.split("\t") for line in run.stdout.splitlines()]


def assert_well_formed(capture: Path) -> None:
    """No frame has one of the faults."""
    assert dissect(capture, " or ".join(FAULTS), "frame.number", "_ws.col.Info") == []
