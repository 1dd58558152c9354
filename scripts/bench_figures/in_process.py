"""Device and hub in one process: every frame encoded and decoded by both, banks on the disk.

The peer is the same device taking the same file from zigpy's OTA server, through zigpy's own
packets, command schemas and request handling. Each side's work is what it does in its daemon, but
for the sockets between them.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from bench_figures import home, zigpy_server
from bench_figures.figures import Baseline, Effort, Figure, in_turns, timed
from firmware_node.adapters.storage import FileStorage
from firmware_node.boundary import (
    Frame,
    FrameReceived,
    Input,
    NetworkUp,
    OfferImage,
    PeerAnnounced,
    SendFrame,
    Started,
)
from firmware_node.crypto import Keyring
from firmware_node.node.device import Device
from firmware_node.rig.comms_hub import CommsHub, HubSettings
from firmware_node.rig.world import SeededEntropy
from firmware_node.terms import COORDINATOR, ImageKey, ShortAddress
from firmware_node.tools.keys import build_keys
from firmware_node.wire import ota

ADDRESS = ShortAddress(1)
CODED_AT_ONCE = 1000  # blocks


class _Radio:
    """A device on a state directory of its own; what it sends, and how many blocks it asked for."""

    def __init__(self, directory: Path, keyring: Keyring, bank_size: int) -> None:
        factory = home.image(keyring, 1, 4096)
        self._storage = FileStorage(directory, bank_size)
        self._device = Device(
            home.SETTINGS, self._storage, keyring, SeededEntropy(1), factory_image=factory
        )
        self.blocks = 0
        self.give(Started())

    def give(self, item: Input) -> list[Frame]:
        """One step and its commit; the frames that leave, without those to everybody."""
        effects = self._device.step(item, 0)
        self._storage.commit()
        frames = [e.frame for e in effects if isinstance(e, SendFrame) and e.frame.profile]
        for frame in frames:
            self.blocks += frame.payload[2:3] == b"\x03"
        return frames

    def close(self) -> None:
        """The file must have arrived and been verified."""
        held = self._device.banks_report()["B"]
        self._storage.close()
        if held["state"] not in ("verified", "pending"):  # pending: with its time
            raise RuntimeError(f"the download ended with {held}")


def with_our_hub(directory: Path, keyring: Keyring, ota_file: bytes) -> float:
    """Seconds per block of one download."""
    radio = _Radio(directory, keyring, len(ota_file))
    hub = CommsHub(HubSettings(home.HUB, home.ACB), keyring)
    to_hub, to_device = deque[Frame](), deque[Frame]()

    def give_hub(item: Input) -> None:
        to_device.extend(e.frame for e in hub.step(item, 0) if isinstance(e, SendFrame))

    give_hub(Started())
    to_hub.extend(radio.give(NetworkUp(ADDRESS, 15)))
    give_hub(PeerAnnounced(ADDRESS, home.PPMID))
    give_hub(OfferImage("bench", ota_file, (home.PPMID,)))
    began = time.perf_counter()
    while to_hub or to_device:
        while to_hub:
            give_hub(FrameReceived(to_hub.popleft()._replace(peer=ADDRESS)))
        while to_device:
            to_hub.extend(radio.give(FrameReceived(to_device.popleft()._replace(peer=COORDINATOR))))
    seconds = time.perf_counter() - began
    radio.close()
    return seconds / radio.blocks


def with_zigpy(directory: Path, keyring: Keyring, ota_file: bytes) -> float:
    """The same from zigpy's server."""
    radio = _Radio(directory, keyring, len(ota_file))
    radio.give(NetworkUp(ADDRESS, 15))
    began = time.perf_counter()
    asyncio.run(zigpy_server.serve(ota_file, lambda frame: radio.give(FrameReceived(frame))))
    seconds = time.perf_counter() - began
    radio.close()
    return seconds / radio.blocks


def downloads(effort: Effort) -> Iterator[Figure]:
    """``ota.in_process.blocks_per_second``."""
    keyring = Keyring(build_keys(b"bench"))
    ota_file = home.image(keyring, 2, effort.image_size)
    with home.folder() as root:
        names = (root / str(number) for number in range(effort.turns + 1))
        (ours,) = in_turns(effort.turns, lambda: with_our_hub(next(names), keyring, ota_file))
        # One turn: it takes as long as fifty of ours.
        theirs = with_zigpy(next(names), keyring, ota_file)
    yield Figure(
        "ota.in_process.blocks_per_second",
        1 / ours,
        "blocks/s",
        True,
        Baseline("the same device, zigpy's OTA server", 1 / theirs, "peer"),
    )


def coding(effort: Effort) -> Iterator[Figure]:
    """``ota.coding.blocks_per_second``: a block's request and answer, encoded and decoded once."""
    key, data = ImageKey(0x121D, 0x0084, 2), bytes(50)
    offsets = range(0, CODED_AT_ONCE * 50, 50)

    def ours() -> None:
        for offset in offsets:
            asked = ota.encode_image_block_request(ota.ImageBlockRequest(key, offset, 50))
            ota.decode_image_block_request(asked)
            block = ota.encode_image_block_response(ota.BlockData(key, offset, data))
            ota.decode_image_block_response(block)

    def theirs() -> None:
        for offset in offsets:
            zigpy_server.code_block(key, offset, data)

    ours_s, theirs_s = in_turns(effort.turns, timed(ours), timed(theirs))
    yield Figure(
        "ota.coding.blocks_per_second",
        CODED_AT_ONCE / ours_s,
        "blocks/s",
        True,
        Baseline("the same by zigpy's command schemas", CODED_AT_ONCE / theirs_s, "peer"),
    )
