"""Measures the named figures, or all, and prints them: ``scripts/bench [--json] [NAME...]``."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from bench_figures import (
    commands,
    daemon,
    emulated_pi,
    fleet,
    in_process,
    radio,
    service,
    two_process,
    update_cost,
    verification,
)
from bench_figures.figures import FULL, QUICK, Effort, Figure, NotMeasurableError

# Figures that one measurement gives, and the measurement.
MEASUREMENTS: Mapping[tuple[str, ...], Callable[[Effort], Iterator[Figure]]] = {
    ("ota.in_process.blocks_per_second",): in_process.downloads,
    ("ota.coding.blocks_per_second",): in_process.coding,
    (
        "ota.two_process.block.blocks_per_second",
        "ota.two_process.block.ratio_to_bare_socket",
    ): two_process.by_blocks,
    ("ota.two_process.page.blocks_per_second",): two_process.by_pages,
    ("ota.update_1mib.fsyncs", "ota.update_1mib.bytes_written"): update_cost.disk,
    ("daemon.start_to_ready.seconds",): daemon.start,
    ("daemon.watchdog.update.seconds", "daemon.watchdog.starved.seconds"): service.watchdog,
    ("daemon.idle_cpu.ten_instances.cores",): service.idle,
    ("cli.help.seconds",): service.command,
    ("daemon.rss.bytes", "daemon.rss_after_update.bytes"): daemon.memory,
    ("verify.1mib.seconds",): verification.verification,
    ("gbcs.cs06.per_second", "gbcs.cs06_durable.per_second"): commands.commands,
    ("radio.virtual_znp.round_trips_per_second",): radio.virtual_znp,
    ("radio.uart_115200.block.efficiency",): radio.paced_blocks,
    ("radio.uart_115200.page.efficiency",): radio.paced_pages,
    (
        "radio.two_sticks.blocks_per_second",
        "radio.two_sticks.cpu_per_block.seconds",
    ): radio.two_sticks,
    ("radio.start_to_ready.seconds", "radio.rss.bytes"): radio.daemon_on_a_stick,
    ("fleet.1000x64k.seconds", "fleet.bytes_per_device"): fleet.thousand,
    ("fleet.idle_10000.rss_bytes", "fleet.start_10000.seconds"): fleet.idle,
    tuple(
        name
        for devices in (100, 1000, 10000)
        for name in (
            f"fleet.growth.update_{devices}.seconds_per_device",
            f"fleet.growth.memory_{devices}.bytes_per_device",
        )
    ): fleet.growth,
    (
        "pi.daemon.start_to_ready.seconds",
        "pi.daemon.rss.bytes",
        "pi.radio.start_to_ready.seconds",
        "pi.radio.rss.bytes",
    ): emulated_pi.starts,
}
BY_NAME_ALONE = (emulated_pi.starts,)  # takes minutes, and what few machines have


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0, 1 when a figure cannot be measured here, 2 for a name that is none."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.add_argument(
        "--quick", action="store_true", help="prove that it works; the figures say nothing"
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="a figure, or how its name begins")
    args = parser.parse_args(arguments)
    known = [name for names in MEASUREMENTS for name in names]
    for name in args.names:
        if not any(_is_chosen(figure, [name]) for figure in known):
            print(f"bench: no figure {name}; there are {' '.join(known)}", file=sys.stderr)
            return 2
    figures, code = [], 0
    for names, measure in MEASUREMENTS.items():
        wanted = [name for name in names if _is_chosen(name, args.names)]
        if not wanted or (measure in BY_NAME_ALONE and not args.names):
            continue
        print(f"measuring {', '.join(wanted)}", file=sys.stderr)
        try:
            found = list(measure(QUICK if args.quick else FULL))
        except NotMeasurableError as error:
            print(f"bench: {', '.join(wanted)}: {error}", file=sys.stderr)
            code = 1
            continue
        chosen = [figure for figure in found if figure.name in wanted]
        figures += chosen
        if not args.json:
            print("\n".join(figure.line() for figure in chosen), flush=True)
    if args.json:
        print(json.dumps({"machine": machine(), "figures": [one.shape() for one in figures]}))
    return code


def machine() -> dict[str, Any]:
    """What a reader must know of the machine."""
    return {
        "system": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "cpu": _cpu_model(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
    }


def _is_chosen(name: str, wanted: Sequence[str]) -> bool:
    return not wanted or any(name == one or name.startswith(f"{one}.") for one in wanted)


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            models = [line.partition(":")[2].strip() for line in file if "model name" in line]
    except OSError:
        models = []
    return models[0] if models else platform.processor() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
