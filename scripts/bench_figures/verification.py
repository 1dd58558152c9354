"""Verification of a signed image against the hash and the one signature it cannot do without."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from bench_figures import home
from bench_figures.figures import Baseline, Effort, Figure, in_turns, timed
from firmware_node.crypto import Keyring
from firmware_node.node.verification import verify_image
from firmware_node.tools.keys import build_keys

AT_ONCE = 10  # verifications; one takes less than a time slice


def verification(effort: Effort) -> Iterator[Figure]:
    """``verify.1mib.seconds``."""
    keyring = Keyring(build_keys(b"bench"))
    data = home.image(keyring, 2, effort.image_size)
    public = keyring.manufacturer_verify_key(home.SETTINGS.manufacturer_code)
    signature = keyring.manufacturer_signing_key(home.SETTINGS.manufacturer_code).sign(data)

    def floor() -> None:
        if not public.is_valid_digest(signature, hashlib.sha256(data).digest()):
            raise RuntimeError("the floor's own signature does not verify")

    ours, bare = in_turns(
        effort.turns,
        timed(lambda: verify_image(data, home.SETTINGS, keyring), AT_ONCE),
        timed(floor, AT_ONCE),
    )
    yield Figure(
        "verify.1mib.seconds", ours, "s", False, Baseline("SHA-256 and one ECDSA verify", bare)
    )
