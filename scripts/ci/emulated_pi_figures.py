"""What a device daemon costs on the emulated Raspberry Pi, beside the same on this machine.

Emulation is no measure of a real one's speed; the ratio tells what a change does to start-up where
reading and compiling are dear. Memory is what it would be there.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from bench_figures.figures import Baseline, Figure

# Unit of the proof, and how the host's figures of such a daemon begin.
DAEMONS: Mapping[str, str] = {"firmware-node@ppmid": "daemon", "firmware-node@hcalcs": "radio"}
LIMIT_S = 300


def figures(restarted: Callable[[str], tuple[float, int]]) -> Iterator[Figure]:
    """``restarted`` starts a unit anew: seconds to READY, and bytes in memory."""
    names = [f"{kind}.{what}" for kind in DAEMONS.values() for what in ("start_to_ready", "rss")]
    bench = [str(Path(__file__).resolve().parents[1] / "bench"), "--json", *names]
    done = subprocess.run(bench, capture_output=True, text=True, timeout=LIMIT_S, check=True)
    host = {one["name"]: one["value"] for one in json.loads(done.stdout)["figures"]}
    for unit, kind in DAEMONS.items():
        seconds, rss = restarted(unit)
        for name, value, unit_of in (
            ("start_to_ready.seconds", seconds, "s"),
            ("rss.bytes", float(rss), "bytes"),
        ):
            peer = Baseline("the same on this machine", host[f"{kind}.{name}"], "peer")
            yield Figure(f"pi.{kind}.{name}", value, unit_of, False, peer)
