"""The proof on the emulated Raspberry Pi, seen from outside: one line a step.

Everything outside is on this machine: the hub, the virtual sticks, the service user, and what
looks at the pins. The first step that fails ends it.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from emulated_pi_home import HCALCS, HUB, PPMID, Home, parsed
from emulated_pi_machine import AGENT, AGENT_UNIT, Machine, ProofFailed, expect, wait

RELAY, BOOST, JOINED, ASK = 17, 27, 23, 22  # BCM numbers
CARD_SIZE = 1 << 30  # bytes; a card's size is a power of two
UNIT = "firmware-node@hcalcs"
_DEVICE = """\
[device]
type = "{kind}"
entity_id = "{entity_id}"
manufacturer_code = 0x121D
image_type = 0x0084
hardware_version = 0x1111
manufacturer_signature = "require"
[keys]
directory = "credential:keys"
"""
_SWITCH = f"""\
{_DEVICE.format(kind="hcalcs", entity_id=HCALCS)}
[radio]
type = "znp"
path = "/dev/ttyAMA0"
[gpio.relays.main]
line = {RELAY}
[gpio.relays.boost]
line = {BOOST}
active_low = true
[gpio.indicators.joined]
line = {JOINED}
"""
# A home of its own inside the machine, on the virtual air, for a device with a button.
_DISPLAY = f"""\
{_DEVICE.format(kind="ppmid", entity_id=PPMID)}
[radio]
type = "virtual"
[gpio.buttons.ask]
line = {ASK}
active_low = false
"""
_HUB = f"""\
[hub]
entity_id = "{HUB}"
[keys]
directory = "credential:keys"
"""


def make_card(work: Path, run: Path, home: Home) -> None:
    """A file system from the tree, with configuration and keys."""
    root = work / "root"
    proof = root / "root/proof"
    (proof / "agent").write_text(AGENT)
    unit = root / "etc/systemd/system/agent.service"
    unit.write_text(AGENT_UNIT)
    folder = root / "etc/firmware-node"
    (folder / "keys").mkdir(parents=True, exist_ok=True)
    for name, text in (("hcalcs", _SWITCH), ("ppmid", _DISPLAY), ("hub", _HUB)):
        (folder / f"{name}.toml").write_text(text)
        shutil.copytree(home.keys, folder / "keys" / name, dirs_exist_ok=True)
    shutil.copytree(home.image("good").parent, proof / "images", dirs_exist_ok=True)
    wants = root / "etc/systemd/system/multi-user.target.wants"
    for name, target in (
        ("agent.service", "/etc/systemd/system/agent.service"),
        (f"{UNIT}.service", "/etc/systemd/system/firmware-node@.service"),
    ):
        link = wants / name
        link.unlink(missing_ok=True)
        link.symlink_to(target)
    card = run / "card"
    with card.open("wb") as file:
        file.truncate(CARD_SIZE)
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-d", root, card], check=True)


class Proof:
    """The steps, in the order of ``STEPS``."""

    def __init__(self, work: Path, run: Path, home: Home) -> None:
        self._work = work
        self._run = run
        self._home = home
        self._machine: Machine | None = None

    @property
    def _pi(self) -> Machine:
        assert self._machine is not None
        return self._machine

    def close(self) -> None:
        """Whatever happened."""
        if self._machine is not None:
            self._machine.cut_power()

    def _status(self, name: str = "hcalcs") -> dict[str, Any]:
        told = self._pi.run(f"firmware-node status --json --socket {_socket(name)}", code=None)
        return parsed(told) if told.startswith("{") else {}

    # --- the steps --------------------------------------------------------------------------------

    def debian_boots_on_the_emulated_board(self) -> str:
        """To the first command on its console."""
        self._home.start_hub()
        self._machine = Machine(self._work, self._run, self._home.device_port)
        self._pi.wait_for_agent()
        self._pi.run(f"date -s @{time.time():.0f}")
        model = self._pi.run("tr -d '\\0' </sys/firmware/devicetree/base/model; echo; uname -rm")
        expect("Raspberry Pi 3 Model B" in model and "aarch64" in model, model)
        return model.replace("\n", ", ")

    def the_unit_is_active_only_after_the_radio_answered(self) -> str:
        """Its stick is plugged in late."""
        state = self._pi.run(f"systemctl show --value -p ActiveState {UNIT}")
        expect(state in ("activating", "inactive"), f"without a radio the unit is {state}")
        self._home.plug_in()
        wait(
            lambda: self._pi.run(f"systemctl is-active {UNIT}", code=None) == "active",
            "active",
            120,
        )
        return f"{state} without it"


STEPS: tuple[Callable[[Proof], str], ...] = (
    Proof.debian_boots_on_the_emulated_board,
    Proof.the_unit_is_active_only_after_the_radio_answered,
)


def _socket(name: str) -> str:
    return f"/run/firmware-node/{name}/control.sock"


def _stopped(*_: object) -> None:
    sys.exit(143)


def main() -> int:
    """All steps, until one fails; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--figures", action="store_true")
    parser.add_argument("--long", action="store_true")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, _stopped)
    work: Path = args.work
    run = work / "run"
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir()
    home = Home(run)
    proof = Proof(work, run, home)
    name = "the card is made"
    try:
        began = time.monotonic()
        make_card(work, run, home)
        print(f"emulated Pi: {name} ({time.monotonic() - began:.1f} s)")
        for step in STEPS:
            began, name = time.monotonic(), step.__name__.replace("_", " ")
            told = step(proof)
            print(f"emulated Pi: {name} ({time.monotonic() - began:.1f} s){told and ': ' + told}")
    except (ProofFailed, OSError, ValueError, LookupError, subprocess.SubprocessError) as error:
        print(f"emulated Pi: FAILED {name}: {error!r}")
        print((run / "console").read_bytes()[-6000:].decode(errors="replace"), file=sys.stderr)
        return 1
    finally:
        proof.close()
        home.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
