"""``rig replay``: the swarm's run of one seed, with keys and images of our own making.

The swarm's tests take their set-up from here, so that a seed means the same run in both.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, replace
from typing import Any

from firmware_node.crypto import Keyring
from firmware_node.rig.invariants import WatchedDevice
from firmware_node.rig.swarm import Options, Report, draw, replay
from firmware_node.terms import DeviceSettings, DeviceType, EntityId, ImageKey
from firmware_node.tools import render
from firmware_node.tools.image import build_image
from firmware_node.tools.keys import build_keys
from firmware_node.wire.manufacturer_image import Manifest

PPMID = EntityId.parse("00-DB-12-34-56-78-90-A4")
HUB = EntityId.parse("00-DB-12-34-56-78-90-A2")
ACB = EntityId.parse("90-B3-D5-1F-30-00-00-02")
SETTINGS = DeviceSettings(DeviceType.PPMID, PPMID, 0x121D, 0x0084, 0x1111, False)
FACTORY_SIZE = 8_000  # bytes of the manufacturer image that runs first
BANK_SIZE = 80 * 1024  # the largest image that a seed draws fits
_log = logging.getLogger(__name__)


class SetUp:
    """Keys, made once, and the watched device for what a seed drew."""

    def __init__(self) -> None:
        self.keyring = Keyring(build_keys(b"swarm"))

    def image(self, version: int, size: int) -> bytes:
        """A signed OTA file for the device."""
        manifest = Manifest(ImageKey(0x121D, 0x0084, version), 0x1111, 0x1211)
        key = self.keyring.manufacturer_signing_key(0x121D)
        return build_image(manifest, size=size, manufacturer_key=key)

    def device(self, options: Options) -> WatchedDevice:
        """The subject of a run."""
        ota = replace(SETTINGS.ota, block_size=options.block_size, page_size=options.page_size)
        return WatchedDevice(
            replace(SETTINGS, ota=ota),
            self.keyring,
            factory_image=self.image(1, FACTORY_SIZE),
            ota_file=self.image(2, options.image_size),
            bank_size=BANK_SIZE,
            seed=options.seed,
            is_spoilt=options.is_spoilt,
        )

    def run(self, seed: int) -> Report:
        """As ``swarm.replay``."""
        return replay(seed, self.device, self.keyring, HUB, ACB)


def run_replay(seed: int, set_up: SetUp, as_json: bool) -> int:
    """What was drawn, then how it went; the exit code is 1 when an invariant broke."""
    options = _plain(draw(seed))
    if not as_json:
        print(f"seed {seed} draws")
        render.fields(options, "  ")
        print("running", flush=True)
    report: dict[str, Any] | None = None
    broken: str | None = None
    try:
        report = _plain(set_up.run(seed))
        del report["options"]
    except AssertionError as error:
        _log.debug("seed %d", seed, exc_info=True)
        broken = str(error) or "an assertion without words; -vv shows where"
    result = "failed" if broken else "ok"
    if as_json:
        print(
            json.dumps(
                {
                    "seed": seed,
                    "options": options,
                    "result": result,
                    "broken": broken,
                    "report": report,
                }
            )
        )
    else:
        render.fields(report or {"broken": broken}, "  ")
        print(f"result: {result}")
    return 1 if broken else 0


def _plain(value: Options | Report) -> dict[str, Any]:
    plain: dict[str, Any] = asdict(value)
    return plain
