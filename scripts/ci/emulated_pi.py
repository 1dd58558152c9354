"""The proof on the emulated Raspberry Pi, seen from outside: one line a step.

Everything outside is on this machine: the hub, the virtual sticks, the service user, and what
looks at the pins. The first step that fails ends it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from emulated_pi_cuts import Cuts
from emulated_pi_home import HCALCS, HUB, PPMID, Home, parsed, version_of
from emulated_pi_machine import AGENT, AGENT_UNIT, LOOK, Machine
from proof import ProofFailed, expect, wait

RELAY, BOOST, JOINED, ASK = 17, 27, 23, 22  # BCM numbers
CARD_SIZE = 1 << 30  # bytes; a card's size is a power of two
UNIT = "firmware-node@hcalcs"
START_LIMIT_S = 180
SUITE_LIMIT_S = 180
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
# Small images are to have points at which a download that was cut goes on.
_SWITCH = f"""\
{_DEVICE.format(kind="hcalcs", entity_id=HCALCS)}
[radio]
type = "znp"
path = "/dev/ttyAMA0"
[activation]
checkpoint_bytes = 4096
[gpio.relays.main]
line = {RELAY}
[gpio.relays.boost]
line = {BOOST}
active_low = true
[gpio.indicators.joined]
line = {JOINED}
"""
# A home of its own inside the machine, on the virtual air, for a device with a button. The emulated
# chip has no pull resistors: a line that nobody drives is low, so low is released.
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


# Everything takes some twenty times as long as on a real one.
_DROP_IN = """\
[Service]
TimeoutStartSec=300
"""
NOT_SHOWN = (
    "not shown: a real board's speed, pull resistors, edges on the pins, Bluetooth's hold on the"
    " UART, USB sticks, a card that loses what it acknowledged"
)


def make_card(work: Path, run: Path, home: Home) -> None:
    """A file system from the tree, with configuration and keys."""
    root = work / "root"
    proof = root / "root/proof"
    (proof / "agent").write_text(AGENT)
    (proof / "look").write_text(LOOK)
    unit = root / "etc/systemd/system/agent.service"
    unit.write_text(AGENT_UNIT)
    drop_in = root / "etc/systemd/system/firmware-node@.service.d/99-emulated.conf"
    drop_in.parent.mkdir(exist_ok=True)
    drop_in.write_text(_DROP_IN)
    folder = root / "etc/firmware-node"
    (folder / "keys").mkdir(parents=True, exist_ok=True)
    for name, text in (("hcalcs", _SWITCH), ("ppmid", _DISPLAY), ("hub", _HUB)):
        (folder / f"{name}.toml").write_text(text)
        shutil.copytree(home.keys, folder / "keys" / name, dirs_exist_ok=True)
    tests = Path(__file__).resolve().parents[2] / "tests/adapters"
    (proof / "tests").mkdir(exist_ok=True)
    for name in ("test_gpio.py", "gpio_fakes.py", "real_pins.py"):
        shutil.copy(tests / name, proof / "tests")
    wants = root / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(exist_ok=True)
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

    def _boot(self, *, keep: bool = False) -> None:
        self._machine = Machine(self._work, self._run, self._home.device_port, keep=keep)
        self._pi.wait_for_agent()
        self._pi.run(f"date -s @{time.time():.0f}")

    def _status(self, name: str = "hcalcs") -> dict[str, Any]:
        told = self._pi.run(f"python3 -IS /root/proof/look {name}", code=None)
        return parsed(told) if told.startswith("{") else {}

    # --- the steps --------------------------------------------------------------------------------

    def debian_boots_on_the_emulated_board(self) -> str:
        """To the first command on its console."""
        self._boot()
        model = self._pi.run("tr -d '\\0' </sys/firmware/devicetree/base/model; echo; uname -rm")
        expect("Raspberry Pi 3 Model B" in model and "aarch64" in model, model)
        return model.replace("\n", ", ")

    def the_unit_is_active_only_after_the_radio_answered(self) -> str:
        """Its stick is plugged in late."""
        state = self._pi.run(f"systemctl show --value -p ActiveState {UNIT}")
        expect(state in ("activating", "inactive"), f"without a radio the unit is {state}")
        self._home.plug_in()
        self._pi.run(f"systemctl start {UNIT}", limit_s=START_LIMIT_S)
        return f"{state} without it; {self._cost(UNIT)}"

    def it_joins_the_network_of_the_hub_outside(self) -> str:
        """As it says, as the hub says, and as its lamp says."""
        self._wait_joined()
        wait(lambda: (self._status().get("switch") or {}).get("esme") is not None, "an ESME")
        wait(lambda: self._pi.level(JOINED) == 1, "the lamp")
        address = self._status()["network"]["short_address"]
        listed = (self._home.hub() or {})["devices"]
        expect([each["entity_id"] for each in listed] == [HCALCS], f"the hub has {listed}")
        return f"short address {address:04x}, GPIO {JOINED} is high"

    def the_relays_follow_the_command_on_their_pins(self) -> str:
        """The second one is active low. Seen in the registers, from outside."""
        gpio = self._status()["gpio"]
        expect(gpio["label"] == "pinctrl-bcm2835", f"another chip: {gpio}")
        expect(self._pi.is_output(RELAY) and self._pi.is_output(BOOST), "no outputs")
        expect(not self._pi.is_output(ASK), "a pin that nobody claimed is an output")
        self._expect_relays(on=False)
        for state in ("closed", "open"):
            self._relay(state)
            self._expect_relays(on=state == "closed")
        return f"{gpio['backend']} on {gpio['label']}, GPIO {RELAY} and {BOOST}"

    def the_relays_follow_the_load_control_of_the_hub(self) -> str:
        """Over the air."""
        self._home.load("closed", "60")
        wait(lambda: self._pi.level(RELAY) == 1, "closed")
        self._expect_relays(on=True)
        self._home.load("cancel")
        wait(lambda: self._pi.level(RELAY) == 0, "open")
        self._expect_relays(on=False)
        return ""

    def an_update_comes_by_the_uart(self) -> str:
        """From the factory image to one whose switch is broken, asked for outside."""
        before = self._running()
        took = self._update("faulty-switch", "00000003")
        return f"{before} to 00000003, {took}"

    def the_new_image_does_not_move_the_relay(self) -> str:
        """Its switch is broken: commanded by hand and by the hub, the pins stay."""
        self._relay("closed", code=1)
        self._home.load("closed", "60")
        wait(lambda: (self._status().get("switch") or {}).get("events"), "the event")
        time.sleep(2)
        self._expect_relays(on=False)
        return "commanded by hand and by the hub"

    def the_next_image_mends_it(self) -> str:
        """The event is still in force, so the relay closes as soon as the new image runs."""
        took = self._update("newer", "00000008")
        wait(lambda: self._pi.level(RELAY) == 1, "closed")
        self._expect_relays(on=True)
        self._home.load("cancel")
        wait(lambda: self._pi.level(RELAY) == 0, "open")
        return f"00000003 to 00000008, {took}"

    def a_button_is_pressed_from_outside(self) -> str:
        """Of a PPMID beside the switch, in a home of its own on the virtual air."""
        self._pi.run("systemctl start firmware-node@hub firmware-node@ppmid", limit_s=START_LIMIT_S)
        self._wait_joined("ppmid")
        pressed = "journalctl -q --no-pager -u firmware-node@ppmid -g 'button ask'"
        expect(not self._pi.run(pressed, code=None), "pressed before anybody did")
        self._pi.drive(ASK, 1)
        wait(lambda: "button ask: query" in self._pi.run(pressed, code=None), "the press")
        self._pi.drive(ASK, 0)
        return f"GPIO {ASK}, it asks for an image; {self._cost('firmware-node@ppmid')}"

    def a_stopped_service_leaves_its_relays_open(self) -> str:
        """And has ended well; both relays were closed."""
        self._relay("closed")
        self._expect_relays(on=True)
        units = f"{UNIT} firmware-node@ppmid firmware-node@hub"
        self._pi.run(f"systemctl stop {units}")
        results = self._pi.run(f"systemctl show --value -p Result {units}").split()
        expect(results == ["success"] * 3, f"results {results}")
        expect(self._pi.level(RELAY) == 0, "the relay is still on")
        return ""

    def the_suite_of_the_back_ends_holds_with_the_real_gpiod(self) -> str:
        """On the pins of the emulated chip."""
        return self._suite("gpiod")

    def the_suite_of_the_back_ends_holds_with_the_real_rpi_gpio(self) -> str:
        """Which writes the registers of the chip."""
        return self._suite("rpi-gpio")

    # --- what they share --------------------------------------------------------------------------

    def _relay(self, state: str, code: int = 0) -> None:
        self._pi.run(f"firmware-node relay {state} --socket {_socket('hcalcs')}", code=code)

    def _expect_relays(self, *, on: bool) -> None:
        found = self._pi.level(RELAY), self._pi.level(BOOST)
        expect(found == (int(on), int(not on)), f"GPIO {RELAY} and {BOOST} are {found}")

    def _wait_joined(self, name: str = "hcalcs") -> None:
        wait(lambda: self._status(name).get("network", {}).get("joined"), "joined")

    def _running(self) -> str:
        return version_of(self._status())

    def _update(self, name: str, version: str) -> str:
        """Distribute and activate; both sides must say that it runs."""
        began = time.monotonic()
        self._home.distribute(name)
        distributed = time.monotonic()
        self._home.activate(name)
        activated = time.monotonic()

        def is_confirmed() -> bool:
            status = self._status()
            bank = status["banks"][status["running_bank"]] if status else {}
            return (bank.get("state"), bank.get("version")) == ("confirmed", version)

        wait(is_confirmed, "confirmed")
        outside = self._home.read_version()
        expect(outside == version, f"outside it is {outside}")
        told = self._pi.run(f"firmware-node banks --json --socket {_socket('hcalcs')}")
        banks = {name: parsed(told)[name] for name in ("A", "B")}
        states = ", ".join(
            f"{name} {bank['state']} {bank['version']}" for name, bank in banks.items()
        )
        return (
            f"{distributed - began:.0f} s to verified, {activated - distributed:.0f} s to running; "
            f"inside: {states}; outside: {outside}"
        )

    def _measured(self, unit: str) -> tuple[float, int]:
        """Of the last start: seconds to READY, and bytes in memory now."""
        names = "ExecMainStartTimestampMonotonic,ActiveEnterTimestampMonotonic,MainPID"
        told = self._pi.run(f"systemctl show -p {names} {unit}")
        values = dict(line.split("=", 1) for line in told.splitlines())
        first, last, pid = (int(values[name]) for name in names.split(","))
        pages = int(self._pi.run(f"cat /proc/{pid}/statm").split()[1])
        return (last - first) / 1e6, pages * int(self._pi.run("getconf PAGESIZE"))

    def _cost(self, unit: str) -> str:
        seconds, rss = self._measured(unit)
        return f"start to READY {seconds:.1f} s, RSS {rss / 2**20:.0f} MiB"

    def _suite(self, back_end: str) -> str:
        told = self._pi.run(
            f"cd /root/proof/tests && FIRMWARE_NODE_REAL_PINS={back_end} PYTHONPATH=/root/proof/lib"
            " /opt/firmware-node/current/bin/python -m pytest -q --color=no -p no:cacheprovider"
            " test_gpio.py",
            limit_s=SUITE_LIMIT_S,
        )
        return told.splitlines()[-1]

    def figures(self) -> dict[str, dict[str, float]]:
        """Of each unit's second start, with its files in the machine's page cache."""
        self._boot()
        self._home.plug_in()
        found = {}
        for unit, others in ((UNIT, ""), ("firmware-node@ppmid", "firmware-node@hub")):
            for _ in range(2):
                self._pi.run(f"systemctl start {others} {unit}", limit_s=START_LIMIT_S)
                self._wait_joined(unit.partition("@")[2])
                seconds, rss = self._measured(unit)
                self._pi.run(f"systemctl stop {unit} {others}")
            found[unit] = {"start_to_ready.seconds": seconds, "rss.bytes": float(rss)}
        return found

    def cuts(self) -> Iterator[str]:
        """The long part, on a card that stays."""

        def boot() -> Machine:
            self._boot(keep=True)
            self._pi.run(f"systemctl start {UNIT}", limit_s=START_LIMIT_S)
            return self._pi

        if self._machine is None:
            self._home.plug_in()
        else:
            self._machine.cut_power()
            make_card(self._work, self._run, self._home)
        yield from Cuts(self._home, boot, self._status).run()


STEPS: tuple[Callable[[Proof], str], ...] = (
    Proof.debian_boots_on_the_emulated_board,
    Proof.the_unit_is_active_only_after_the_radio_answered,
    Proof.it_joins_the_network_of_the_hub_outside,
    Proof.the_relays_follow_the_command_on_their_pins,
    Proof.the_relays_follow_the_load_control_of_the_hub,
    Proof.an_update_comes_by_the_uart,
    Proof.the_new_image_does_not_move_the_relay,
    Proof.the_next_image_mends_it,
    Proof.a_button_is_pressed_from_outside,
    Proof.a_stopped_service_leaves_its_relays_open,
    Proof.the_suite_of_the_back_ends_holds_with_the_real_gpiod,
    Proof.the_suite_of_the_back_ends_holds_with_the_real_rpi_gpio,
)


def _socket(name: str) -> str:
    return f"/run/firmware-node/{name}/control.sock"


def _stopped(*_: object) -> None:
    sys.exit(143)


def main() -> int:
    """All steps, until one fails; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--figures", type=Path, help="what the daemon costs there, alone: as JSON")
    parser.add_argument("--long", action="store_true", help="and the power cuts")
    parser.add_argument("--cuts", action="store_true", help="the power cuts alone")
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
        home.start_hub()
        print(f"emulated Pi: {name} ({time.monotonic() - began:.1f} s)")
        for step in () if args.cuts or args.figures else STEPS:
            began, name = time.monotonic(), step.__name__.replace("_", " ")
            told = step(proof)
            print(f"emulated Pi: {name} ({time.monotonic() - began:.1f} s){told and ': ' + told}")
        if args.figures:
            name = "figures"
            args.figures.write_text(json.dumps(proof.figures()))
        if args.long or args.cuts:
            name, began = "power cuts", time.monotonic()
            for told in proof.cuts():
                print(f"emulated Pi: {told} ({time.monotonic() - began:.0f} s)")
        print(f"emulated Pi: {NOT_SHOWN}")
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
