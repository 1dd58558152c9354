"""What a device daemon costs on the emulated Raspberry Pi, beside the same on this machine.

Emulation is no measure of a real one's speed; the ratio tells what a change does to start-up where
reading and compiling are dear. Memory is what it would be there.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from bench_figures import daemon, radio
from bench_figures.figures import Baseline, Effort, Figure, NotMeasurableError

# A unit of the emulated machine, and how a device with such a radio is measured here.
DAEMONS: Mapping[str, tuple[Callable[[Effort], Iterator[Figure]], ...]] = {
    "firmware-node@ppmid": (daemon.start, daemon.memory),  # on the virtual air
    "firmware-node@hcalcs": (radio.daemon_on_a_stick,),  # over its UART
}
_PROOF = Path(__file__).resolve().parents[1] / "ci/emulated-pi.sh"


def starts(effort: Effort) -> Iterator[Figure]:
    """``pi.*``: start to READY and memory then, both radio types; takes minutes, and root."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "figures"
        done = subprocess.run(
            [_PROOF, "--figures", path], capture_output=True, text=True, check=False
        )
        if not path.exists():
            raise NotMeasurableError((done.stdout + done.stderr).strip().rpartition("\n")[2])
        there = json.loads(path.read_text())
    for unit, measurements in DAEMONS.items():
        for here in (figure for measure in measurements for figure in measure(effort)):
            _, _, what = here.name.partition(".")
            if what in there[unit]:
                peer = Baseline("the same on this machine", here.value, "peer")
                yield Figure(f"pi.{here.name}", there[unit][what], here.unit, False, peer)
