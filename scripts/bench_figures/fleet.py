"""What fleets cost: an update of 1,000 devices, ten thousand idle ones, and how both grow."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

from bench_figures import in_process
from bench_figures.daemon import rss_running
from bench_figures.figures import FULL, Baseline, Effort, Figure
from firmware_node.adapters.fleet.workers import Workers
from firmware_node.crypto import private_key_from
from firmware_node.fleet.campaign import Campaign, Turn
from firmware_node.fleet.stock import Stock
from firmware_node.fleet.terms import ImageSpec, Order, Plan, Shape, Wave
from firmware_node.node.verification import verify_image
from firmware_node.terms import DeviceType, EntityId

HOME = ((DeviceType.PPMID, 1), (DeviceType.HCALCS, 1))
SETTLE_MS = 60_000  # after a start: all have joined and asked for time and image
SHARDS = os.cpu_count() or 1
LIBRARIES = (
    "import multiprocessing, firmware_node.fleet.shard, sys\nprint(flush=True)\nsys.stdin.read()\n"
)


@dataclass(frozen=True, slots=True)
class _Cost:
    start_s: float
    update_s: float
    bytes_per_device: float
    rss: int  # of all workers when all are idle
    kept: float  # bytes that a device keeps, apart from the banks' shared pages


def _plan(devices: int, size: int) -> Plan:
    images = tuple(ImageSpec(kind.value, kind, 2, size=size) for kind, _ in HOME)
    waves = tuple(Wave(image.name, image.name, with_previous=True) for image in images)
    return Plan("bench", Shape(devices // len(HOME), HOME), images=images, waves=waves)


def _cost(devices: int, size: int, *, update: bool = True) -> _Cost:
    """Start a fleet, let it settle, and give all its devices a new image."""
    plan = _plan(devices, size)
    few = len(HOME) * SHARDS
    with Workers(_plan(few, size), SHARDS) as workers:
        workers.ready()
        bare = sum(workers.sizes())
        workers.turn(SETTLE_MS, ())
        some = workers.keep_changed().values()
        kept = sum(sum(map(len, one.records.values())) for one in some) / few
    began = time.perf_counter()
    with Workers(plan, SHARDS) as workers:
        workers.ready()
        now_ms = 0
        while now_ms < SETTLE_MS:
            now_ms += plan.turn_ms
            workers.turn(now_ms, ())
        start_s = time.perf_counter() - began
        rss = sum(workers.sizes())
        began = time.perf_counter()
        if update:
            _update(plan, workers, now_ms)
        update_s = time.perf_counter() - began
    return _Cost(start_s, update_s, (rss - bare) / (devices - few), rss, kept)


def _update(plan: Plan, workers: Workers, now_ms: int) -> None:
    campaign = Campaign(plan)
    orders: list[Order] = []
    actions: tuple[str, ...] = ("start",)
    while not campaign.is_over:
        now_ms += plan.turn_ms
        events = workers.turn(now_ms, orders)
        orders = campaign.turn(Turn(now_ms, events, actions))
        actions = ()
    failed = [row for row in campaign.rows if row.phase != "done"]
    assert not failed, f"{len(failed)} devices did not take the image: {failed[0]}"


def thousand(effort: Effort) -> Iterator[Figure]:
    """``fleet.1000x64k.seconds``: 500 homes, each a PPMID and an HCALCS, to the last alert."""
    devices, size = (1000, 64 * 1024) if effort is FULL else (100, 4096)
    cost = _cost(devices, size)
    rate = next(iter(in_process.downloads(effort))).value
    blocks = devices * -(-size // 50)
    floor = Baseline(
        "its blocks between two machines alone, on all processors", blocks / rate / SHARDS
    )
    yield Figure("fleet.1000x64k.seconds", cost.update_s, "s", False, floor)
    yield Figure(
        "fleet.bytes_per_device",
        cost.bytes_per_device,
        "bytes",
        False,
        Baseline("what its records hold", cost.kept),
    )


def idle(effort: Effort) -> Iterator[Figure]:
    """``fleet.idle_10000.rss_bytes`` and ``fleet.start_10000.seconds``: joined and settled."""
    devices = 10_000 if effort is FULL else 100
    cost = _cost(devices, 4096, update=False)
    yield Figure(
        "fleet.idle_10000.rss_bytes",
        cost.rss,
        "bytes",
        False,
        Baseline("as many interpreters with its libraries", SHARDS * rss_running(LIBRARIES)),
    )
    yield Figure(
        "fleet.start_10000.seconds",
        cost.start_s,
        "s",
        False,
        Baseline("one key and one image check for each, on all processors", _bare_start(devices)),
    )


def growth(effort: Effort) -> Iterator[Figure]:
    """``fleet.growth.*``: the cost of one device in fleets of 100, 1,000 and 10,000."""
    names = (100, 1_000, 10_000)
    sizes = names if effort is FULL else (60, 80, 100)
    costs = {devices: _cost(devices, 4096) for devices in sizes}
    first = costs[sizes[0]]
    for name, (devices, cost) in zip(names, costs.items(), strict=True):
        yield Figure(
            f"fleet.growth.update_{name}.seconds_per_device",
            cost.update_s / devices,
            "s",
            False,
            Baseline(f"in a fleet of {sizes[0]}", first.update_s / sizes[0], "peer"),
        )
        yield Figure(
            f"fleet.growth.memory_{name}.bytes_per_device",
            cost.bytes_per_device,
            "bytes",
            False,
            Baseline(f"in a fleet of {sizes[0]}", first.bytes_per_device, "peer"),
        )


def _bare_start(devices: int) -> float:
    stock = Stock(_plan(len(HOME), 4096))
    kind = DeviceType.PPMID
    settings = stock.settings(kind, EntityId(bytes(8)))
    began = time.perf_counter()
    times = 100
    for number in range(times):
        private_key_from(b"%d" % number)
        verify_image(stock.factory[kind], settings, stock.keyring)
    return (time.perf_counter() - began) / times * devices / SHARDS
