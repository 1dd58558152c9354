"""Hub and device as the daemons they are, over the virtual radio, against a bare socket.

A download is timed by quarters, checkpoints on the disk included, and the fastest counts; so it is
with the bare socket, which carries messages of the sizes that the virtual radio gives blocks.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

from bench_figures import bare_socket, home
from bench_figures.figures import Baseline, Effort, Figure, in_turns
from firmware_node.errors import EnvironmentFailure

BLOCK_SIZE = 50
PAGE_SIZE = 4000  # octets: 80 blocks
RADIO_HEADER = 16  # octets that the virtual radio puts before a frame
REQUEST = RADIO_HEADER + 17  # Image Block Request
ANSWER = RADIO_HEADER + 17 + BLOCK_SIZE  # Image Block Response
EVENT_LIMIT_S = 300


def by_blocks(effort: Effort) -> Iterator[Figure]:
    """``ota.two_process.block.*``: one request for each block."""
    exchange = bare_socket.Exchange(REQUEST, ANSWER)
    with home.folder() as root, home.Home(root, activation="hold") as place:
        place.start_both()
        ours, bare, looped = in_turns(
            effort.turns,
            Downloads(place, effort.image_size).seconds_per_block,
            lambda: bare_socket.blocking(exchange, effort.round_trips),
            lambda: bare_socket.by_asyncio(exchange, effort.round_trips),
        )
    yield Figure(
        "ota.two_process.block.ratio_to_bare_socket",
        bare / ours,
        "ratio",
        True,
        Baseline(f"blocking request and reply, {1 / bare:,.0f} a second", 1.0),
    )
    yield Figure(
        "ota.two_process.block.blocks_per_second",
        1 / ours,
        "blocks/s",
        True,
        Baseline("request and reply between two bare asyncio protocols", 1 / looped, "peer"),
    )


def by_pages(effort: Effort) -> Iterator[Figure]:
    """``ota.two_process.page.blocks_per_second``: one request for 80 blocks, no spacing."""
    blocks = PAGE_SIZE // BLOCK_SIZE
    exchange = bare_socket.Exchange(REQUEST, ANSWER * blocks)
    pages = max(effort.round_trips // blocks, bare_socket.PARTS)
    ota = f"page_size = {PAGE_SIZE}\npage_spacing_ms = 0"
    with home.folder() as root, home.Home(root, ota=ota, activation="hold") as place:
        place.start_both()
        ours, bare = in_turns(
            effort.turns,
            Downloads(place, effort.image_size).seconds_per_block,
            lambda: bare_socket.blocking(exchange, pages) / blocks,
        )
    yield Figure(
        "ota.two_process.page.blocks_per_second",
        1 / ours,
        "blocks/s",
        True,
        Baseline("blocking request and all octets of its page", 1 / bare),
    )


class Downloads:
    """One download after the other in the same pair of daemons, each of a newer version."""

    def __init__(self, place: home.Home, image_size: int) -> None:
        self._place = place
        self._image_size = image_size
        self._version = 1
        self.file_size = 0  # of the last one offered
        self._heard: queue.Queue[tuple[float, dict[str, Any]]] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def seconds_per_block(self) -> float:
        """Offer the next version and follow it into the bank; seconds, of the fastest quarter."""
        self._version += 1
        ota_file = home.image(self._place.keyring, self._version, self._image_size)
        self._place.offer(ota_file, wait=False)
        size, quarters = len(ota_file), list[float]()
        self.file_size = size
        from_s, _ = self._until("download_started")
        from_offset = 0
        while True:
            at, event = self._until("download_progress", "image_verified")
            if event["name"] == "image_verified":
                return min(quarters)
            offset: int = event["file_offset"]
            if offset - from_offset >= size // bare_socket.PARTS or offset == size:
                quarters.append((at - from_s) * BLOCK_SIZE / (offset - from_offset))
                from_s, from_offset = at, offset

    def _listen(self) -> None:
        try:
            for event in self._place.events():
                self._heard.put((time.perf_counter(), event))
        except EnvironmentFailure:  # the daemon has ended; who still waits for it hears of it
            self._heard.put((time.perf_counter(), {"name": "gone"}))

    def _until(self, *names: str) -> tuple[float, dict[str, Any]]:
        while True:
            at, event = self._heard.get(timeout=EVENT_LIMIT_S)
            if event["name"] in names:
                return at, event
            if event["name"] in ("upgrade_failed", "gone"):
                raise RuntimeError(f"the download ended with {event}")
