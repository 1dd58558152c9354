"""What one update costs the disk, against the octets and resume points that no update can spare."""

from __future__ import annotations

from collections.abc import Iterator

import update_writes
from bench_figures import home
from bench_figures.figures import MIB, Baseline, Effort, Figure
from firmware_node.crypto import Keyring
from firmware_node.terms import ActivationSettings
from firmware_node.tools.keys import build_keys


def disk(_: Effort) -> Iterator[Figure]:
    """``ota.update_1mib.*``: from the offer to the confirmed image and its message."""
    update = update_writes.measure()
    size = len(home.image(Keyring(build_keys(b"bench")), 2, MIB))
    checkpoints = -(-size // ActivationSettings().checkpoint_bytes)
    yield Figure(
        "ota.update_1mib.fsyncs",
        update.fsyncs,
        "syncs",
        False,
        Baseline("the checkpoints of its download", checkpoints),
    )
    yield Figure(
        "ota.update_1mib.bytes_written",
        update.bytes_written,
        "bytes",
        False,
        Baseline("the OTA file", size),
    )
