"""The benchmark suite: each figure beside a floor or peer measured in the same run.

A figure is a row of ``FIGURES``: its name and the function that measures it. A floor is what the
machine itself can do (a bare hash, a bare socket); a peer is another way to the same end. Only
their ratio means something on another machine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from firmware_node.crypto import Keyring
from firmware_node.node.verification import verify_image
from firmware_node.terms import DeviceSettings, DeviceType, EntityId, ImageKey
from firmware_node.tools.image import build_image
from firmware_node.tools.keys import build_keys
from firmware_node.wire.manufacturer_image import Manifest

MIB = 1024 * 1024
REPEATS = 5  # the best of them counts: noise only ever adds time


@dataclass(frozen=True, slots=True)
class Baseline:
    """What a figure is held against; its unit is the figure's."""

    name: str
    value: float
    kind: str = "floor"  # or "peer"


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value and its baseline."""

    name: str
    value: float
    unit: str
    higher_is_better: bool
    baseline: Baseline

    def shape(self) -> dict[str, Any]:
        """The contract's ``bench --json`` entry; ``ratio`` is value by baseline."""
        return {
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "higher_is_better": self.higher_is_better,
            self.baseline.kind: {"name": self.baseline.name, "value": self.baseline.value},
            "ratio": self.value / self.baseline.value,
        }


def verify_1mib() -> Figure:
    """Verification of a signed 1 MiB image against the one pass of SHA-256 it cannot do without."""
    keyring = Keyring(build_keys(b"bench"))
    manifest = Manifest(ImageKey(0x121D, 0x0084, 2), 0x0000, 0xFFFF)
    data = build_image(
        manifest, size=MIB, manufacturer_key=keyring.manufacturer_signing_key(0x121D)
    )
    settings = DeviceSettings(
        type=DeviceType.PPMID,
        entity_id=EntityId.parse("00db1234567890a4"),
        manufacturer_code=0x121D,
        image_type=0x0084,
        hardware_version=0x1111,
        manufacturer_signature_required=True,
    )
    return Figure(
        "verify.1mib.seconds",
        best_seconds(lambda: verify_image(data, settings, keyring)),
        "s",
        False,
        Baseline("sha256 of the file", best_seconds(lambda: hashlib.sha256(data).digest())),
    )


FIGURES: Mapping[str, Callable[[], Figure]] = {
    "verify.1mib.seconds": verify_1mib,
}


def best_seconds(work: Callable[[], object], repeats: int = REPEATS) -> float:
    """Wall time of the fastest of ``repeats`` runs."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def machine() -> dict[str, Any]:
    """What a reader must know of the machine."""
    return {
        "system": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "cpu": _cpu_model(),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the named figures, or all."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("names", nargs="*", metavar="NAME", help="a figure, or how its name begins")
    args = parser.parse_args(arguments)
    chosen = [name for name in FIGURES if _is_chosen(name, args.names)]
    for name in args.names:
        if not any(_is_chosen(figure, [name]) for figure in FIGURES):
            print(f"bench: no figure {name}; there are {' '.join(FIGURES)}", file=sys.stderr)
            return 2
    figures = []
    for name in chosen:
        print(f"measuring {name}", file=sys.stderr)
        figures.append(FIGURES[name]())
    if args.json:
        print(json.dumps({"machine": machine(), "figures": [one.shape() for one in figures]}))
        return 0
    for figure in figures:
        base = figure.baseline
        print(
            f"{figure.name}  {figure.value:.6g} {figure.unit}  "
            f"({base.kind} {base.name}: {base.value:.6g}, ratio {figure.value / base.value:.3g})"
        )
    return 0


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
