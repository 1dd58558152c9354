"""What the tests with coordinators that are not ours have in common: an image, and what it did."""

from __future__ import annotations

import hashlib
from pathlib import Path

from han import Han
from home import image

from firmware_node.terms import ImageFormat
from firmware_node.wire.ota_file import decode_ota_file

LIMIT_S = 240  # for a whole story; it takes twenty seconds on a quiet machine
FILE = image(2, size=50_000, kind=ImageFormat.ZIGBEE)  # tagged, so that stock coordinators read it
TWIN = 2  # the endpoint that a lenient device adds
HOME_AUTOMATION, SMART_ENERGY = 0x0104, 0x0109


def on_sticks(home: Han, *options: str) -> Path:
    """Plug both sticks in; the folder that our image is alone in.

    The device's has the options and carries the air, so that the coordinator's can be pulled out.
    """
    home.stick("ppmid", *options)
    home.stick("hub")
    folder = home.root / "images"
    folder.mkdir()
    (folder / "version-2.ota").write_bytes(FILE)
    return folder


def plug_in_again(home: Han) -> None:
    """Pull the coordinator's stick out and plug it in; its memory stays."""
    _pull_out(home, "hub")
    home.stick("hub")


def is_confirmed(home: Han) -> bool:
    """Whether the device runs the new image for good; its alert has nobody to go to."""
    status = home.status("ppmid")
    return status is not None and status["state"] == "confirmed"


def check_updated(home: Han) -> None:
    """The manufacturer image of our file is in bank B, octet for octet, and runs."""
    status = home.status("ppmid")
    assert status is not None
    assert (status["running_bank"], status["last_failure"]) == ("B", None)
    bank, part = home.bank("ppmid", "B"), decode_ota_file(FILE).manufacturer_image
    assert (bank["state"], bank["version"]) == ("confirmed", "00000002")
    assert bank["sha256"] == hashlib.sha256(FILE[part.offset : part.end]).hexdigest()


def check_end(home: Han) -> None:
    """The daemon ends when it is told to, and no stick was asked what it does not know."""
    assert home.stop("ppmid") == 0
    _pull_out(home, "hub")
    _pull_out(home, "ppmid")


def _pull_out(home: Han, owner: str) -> None:
    assert home.stop(f"{owner}.stick") == 0
    assert home.counters(owner)["unknown_commands"] == 0
