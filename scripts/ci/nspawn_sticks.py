"""The proof's steps over radios: the hub and two devices, each with a virtual stick on a pty.

A stick is a unit of its own, run by the service's user, who then owns the pty. Pulling it out is
the end of that process: the link to the pty is left, and leads nowhere, as a port that vanished.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nspawn_system import (
    CONFIGURATION,
    HCALCS,
    HUB_CONFIGURATION,
    HUB_UNIT,
    NODE,
    PPMID,
    STATE,
    TREE,
    WATCHDOG_S,
    StepSkipped,
    device_configuration,
    events,
    is_running,
    journal,
    main_pid,
    run,
    shown,
    status,
    update,
)
from proof import expect, wait

STICKS = Path("/run/sticks")
FAKES = Path("/usr/local/lib/proof")
DISPLAY, SWITCH = "firmware-node@display.service", "firmware-node@switch.service"
PINS = STATE / "switch/pins"  # what the fake chip was told
OPEN, CLOSED, LET_GO = "17 1", "17 0", "17 -"  # of the relay's line, which is active low
IMAGE_SIZE = 256 * 1024  # bytes; what arrived is kept every 64 KiB
SILENT_S = 1  # a hundred times what an answer takes
RESTART_S = 1
AWAY_S = WATCHDOG_S + 0.5
GIVE_UP_S = 2
TOO_LONG_S = 20  # for the end of a daemon whose stick is away
FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
CLOCK = Path("/etc/proof-clock")
FAKE_GPIOD = f"""
import sys
sys.path.append("{TREE}/tests/adapters")
import gpio_fakes
from gpio_fakes import LineSettings

class Pins(gpio_fakes.Board):
    def note(self, line):
        with open("{PINS}", "a") as file:
            print(line, file=file)

    def drive(self, number, level):
        super().drive(number, level)
        self.note(f"{{number}} {{level}}")

    def let_go(self, number):
        super().let_go(number)
        self.note(f"{{number}} -")

BOARDS = {{"/dev/gpiochip0": Pins()}}

def Chip(path):
    return gpio_fakes.Chip(path, BOARDS)
"""
DROP_IN = f"""
[Service]
RestartSec={RESTART_S}
"""
SWITCH_DROP_IN = f"{DROP_IN}Environment=PYTHONPATH={FAKES}\n"
CLOCK_DROP_IN = f"""
[Service]
Environment=LD_PRELOAD={FAKETIME} FAKETIME_TIMESTAMP_FILE={CLOCK} FAKETIME_NO_CACHE=1
Environment=FAKETIME_DONT_FAKE_MONOTONIC=1 FAKETIME_DISABLE_SHM=1
"""
SWITCH_GPIO = """
[gpio]
backend = "gpiod"
[gpio.relays.main]
line = 17
active_low = true
"""


def znp(name: str, more: str = "") -> str:
    """The section of a radio on its own stick."""
    return f'\n[radio]\ntype = "znp"\npath = "{STICKS}/{name}"\n{more}\n'


def plug_in(name: str) -> None:
    """A stick with the memory that it had; its port is there."""
    files = ("--pty", "--nv", "--air"), (STICKS / name, STICKS / f"{name}.nv", STICKS / "air")
    options = [str(word) for pair in zip(*files, strict=True) for word in pair]
    (STICKS / name).unlink(missing_ok=True)
    start = ("systemd-run", "--quiet", "--collect", f"--unit=stick-{name}", "--uid=firmware-node")
    run(*start, NODE, "radio", "virtual", *options)
    wait((STICKS / name).exists, f"the port of stick {name}")


def pull_out(name: str) -> None:
    """The stick with its port is gone."""
    run("systemctl", "kill", "--signal=SIGKILL", f"stick-{name}")
    wait(lambda: not (STICKS / name).exists(), f"the port of stick {name} is gone")


def lay_drop_in(unit: str, name: str, text: str) -> None:
    """For one instance, until the next start of the machine."""
    folder = Path(f"/run/systemd/system/{unit}.d")
    folder.mkdir(exist_ok=True)
    (folder / f"99-{name}.conf").write_text(text)
    run("systemctl", "daemon-reload")


def address(name: str) -> int | None:
    """On the network; None while it is on none, or silent."""
    found = status(name)
    number: int | None = found["network"]["short_address"] if found else None
    return number


def opened(unit: str) -> list[str]:
    """What the instance has open."""
    found = []
    for path in Path(f"/proc/{main_pid(unit)}/fd").glob("*"):
        with contextlib.suppress(OSError):  # closed meanwhile
            found.append(os.readlink(path))
    return found


def pins() -> list[str]:
    """What the relay's line was told, in order."""
    return PINS.read_text().splitlines() if PINS.exists() else []


def the_switch() -> dict[str, Any]:
    """The load switch as the device tells it."""
    found = status("switch")
    return found["switch"] if found else {}


def close_the_relay() -> None:
    """By a load control event, as the ESME would send it."""
    wait(lambda: the_switch().get("esme") is not None, "the ESME is found")
    run(NODE, "hub", "load", HCALCS, "closed", "10")
    wait(lambda: pins()[-1:] == [CLOSED], "the relay closes")


# --- the steps, in their order --------------------------------------------------------------------


def a_missing_radio_ends_the_start_with_code_3_and_is_tried_again() -> None:
    """At once, and then every RestartSec."""
    STICKS.mkdir()
    shutil.chown(STICKS, "firmware-node", "firmware-node")
    for name, text in (
        ("hub", HUB_CONFIGURATION + znp("hub")),
        ("display", device_configuration("ppmid", PPMID) + znp("display")),
        (
            "switch",
            device_configuration("hcalcs", HCALCS)
            + znp("switch", f'role = "router"\ngive_up_s = {GIVE_UP_S}')
            + SWITCH_GPIO,
        ),
    ):
        (CONFIGURATION / f"{name}.toml").write_text(text)
        shutil.copytree("/root/keys", CONFIGURATION / "keys" / name, dirs_exist_ok=True)
    lay_drop_in(DISPLAY, "sticks", DROP_IN)
    began = time.monotonic()
    run("systemctl", "start", DISPLAY, code=1)
    expect(time.monotonic() - began < TOO_LONG_S / 4, "it took its time to say so")
    wait(lambda: int(shown(DISPLAY, "NRestarts")) >= 2, "tried again, twice")
    run("systemctl", "stop", DISPLAY)
    told = [line for line in journal(DISPLAY) if "there is no such port" in line["MESSAGE"]]
    at = [int(line["__MONOTONIC_TIMESTAMP"]) for line in told]
    gaps_s = [(later - before) / 1e6 for before, later in itertools.pairwise(at)]
    expect(gaps_s and min(gaps_s) >= RESTART_S, f"tried again after {gaps_s} s")
    ends = {line["MESSAGE"] for line in journal(DISPLAY) if "status=" in line["MESSAGE"]}
    expect(all("status=3/" in end for end in ends), f"it ended otherwise: {ends}")


def a_unit_is_active_only_once_its_radio_has_answered() -> None:
    """The port is there and opens; whoever is behind it is silent."""
    for name in ("hub", "display", "switch"):  # the first carries the air
        plug_in(name)
    stick = main_pid("stick-display.service")
    os.kill(stick, signal.SIGSTOP)
    run("systemctl", "start", "--no-block", DISPLAY)
    port = os.readlink(STICKS / "display")
    wait(lambda: port in opened(DISPLAY), "the daemon has opened the port")
    time.sleep(SILENT_S)
    before = shown(DISPLAY, "ActiveState")
    expect(before == "activating", f"{before} before the radio answered")
    os.kill(stick, signal.SIGCONT)
    wait(lambda: is_running(DISPLAY), "active once the radio has answered")


def two_instances_on_two_sticks_share_nothing() -> None:
    """Each its process, socket, state and place on the network; one may die alone."""
    FAKES.joinpath("gpiod").mkdir(parents=True)
    FAKES.joinpath("gpiod/__init__.py").write_text(FAKE_GPIOD)
    FAKES.joinpath("gpiod/line.py").write_text("from gpio_fakes import Bias, Direction, Value\n")
    Path("/dev/gpiochip0").touch()
    lay_drop_in(SWITCH, "sticks", SWITCH_DROP_IN)
    run("systemctl", "start", HUB_UNIT, SWITCH)
    wait(lambda: address("display") and address("switch"), "both are on the network")
    expect(address("display") != address("switch"), "they have one address")
    found = [status(name) for name in ("display", "switch")]
    expect([each and each["entity_id"] for each in found] == [PPMID, HCALCS], f"found {found}")
    for name, unit in (("display", DISPLAY), ("switch", SWITCH)):
        states = {path.split("/")[4] for path in opened(unit) if path.startswith(f"{STATE}/")}
        expect(states == {name}, f"{name} has files of {states} open")
        ports = [path for path in opened(unit) if path.startswith("/dev/pts/")]
        expect(ports == [os.readlink(STICKS / name)], f"{name} has {ports} open")
    other = main_pid(DISPLAY)
    os.kill(main_pid(SWITCH), signal.SIGKILL)
    wait(lambda: is_running(SWITCH) and address("switch"), "the killed one is back")
    expect(main_pid(DISPLAY) == other, "the other one was started again too")


def a_relay_is_left_safe_by_a_stop_and_made_safe_after_a_kill() -> None:
    """A fake of libgpiod keeps what the line was told."""
    close_the_relay()
    os.kill(main_pid(SWITCH), signal.SIGKILL)
    wait(lambda: pins()[-1] == OPEN, "open at the start after a kill")
    expect(pins()[-2:] == [CLOSED, OPEN], f"a kill writes nothing: {pins()}")
    close_the_relay()
    run("systemctl", "stop", SWITCH)
    expect(pins()[-2:] == [OPEN, LET_GO], f"after SIGTERM: {pins()}")
    expect(shown(SWITCH, "Result") == "success", shown(SWITCH, "Result"))
    run("systemctl", "start", SWITCH)


def an_update_over_sticks_survives_kill_9_and_a_pulled_stick() -> None:
    """Killed in the middle, without its stick at three quarters, confirmed in the end."""
    with subprocess.Popen(update(IMAGE_SIZE, 2), stdout=subprocess.PIPE, text=True) as sender:

        def offset() -> int:
            found = status("display")
            return int(found["upgrade"]["file_offset"]) if found else 0

        wait(lambda: offset() > IMAGE_SIZE // 2, "half of the download")
        at_kill, killed = offset(), main_pid(DISPLAY)
        os.kill(killed, signal.SIGKILL)
        wait(lambda: main_pid(DISPLAY) not in (0, killed) and is_running(DISPLAY), "a restart")
        wait(lambda: offset() > IMAGE_SIZE * 3 // 4, "three quarters")
        a_pulled_stick_degrades(DISPLAY, "display")
        output, _ = sender.communicate(timeout=60)
    result = json.loads(output)
    expect(result["result"] == "ok", output)
    starts = [
        int(line["FIRMWARE_NODE_FILE_OFFSET"]) for line in events("download_started", DISPLAY)
    ]
    expect(starts[0] == 0 and all(starts[1:]), f"downloads began at {starts}")
    expect(len(starts) > 1 and starts[1] <= at_kill + 65536, f"{starts}, killed at {at_kill}")
    found = status("display")
    expect(found is not None, "the device is silent")
    assert found is not None
    bank = found["banks"]["B"]
    expect((found["running_bank"], bank["state"]) == ("B", "confirmed"), f"bank B is {bank}")


def a_pulled_stick_degrades(unit: str, name: str) -> None:
    """In words, for longer than the watchdog waits; plugged in again, all is well."""
    pid = main_pid(unit)
    pull_out(name)
    words = "degraded: the radio is away"
    wait(lambda: shown(unit, "StatusText").startswith(words), "degraded without a stick")
    found = json.loads(run(NODE, "doctor", "--json", str(CONFIGURATION / f"{name}.toml"), code=1))
    told = [each["found"] for each in found["findings"] if each["level"] == "problem"]
    expect(any("runs without its radio" in text for text in told), f"the doctor says {told}")
    time.sleep(AWAY_S)
    expect(is_running(unit) and main_pid(unit) == pid, "it did not live without its stick")
    plug_in(name)
    wait(lambda: address(name), "on the network again")
    wait(lambda: not shown(unit, "StatusText").startswith("degraded:"), "no longer degraded")
    expect(main_pid(unit) == pid, "it was started again")


def a_stick_gone_longer_than_give_up_s_ends_the_daemon() -> None:
    """With code 3 and a safe relay; systemd tries until the stick is back."""
    close_the_relay()
    restarts = int(shown(SWITCH, "NRestarts"))
    pull_out("switch")
    wait(lambda: int(shown(SWITCH, "NRestarts")) > restarts, "given up and started again")
    told = [line["MESSAGE"] for line in journal(SWITCH)]
    expect(any(": gone for " in line for line in told), "no word of why")
    expect(any("status=3/" in line for line in told), "another exit code")
    expect(pins()[-2:] == [OPEN, LET_GO], f"the relay was not left safe: {pins()[-4:]}")
    plug_in("switch")
    wait(lambda: is_running(SWITCH) and address("switch"), "back with its stick")


def a_clock_that_jumps_changes_nothing() -> None:
    """A container cannot set the clock, so libfaketime shows the daemon another one."""
    if FAKETIME is None:
        raise StepSkipped("no libfaketime (Debian package libfaketime)")
    CLOCK.write_text("+0\n")
    lay_drop_in(DISPLAY, "clock", CLOCK_DROP_IN)
    run("systemctl", "restart", DISPLAY)
    wait(lambda: address("display"), "on the network again")
    pid, where = main_pid(DISPLAY), address("display")
    for years in (10, -20):
        CLOCK.write_text(f"{years:+}y\n")
        time.sleep(AWAY_S)
        expect(address("display") == where, "it lost its network")
        seen = asked_year()
        expect(seen == time.gmtime().tm_year + years, f"the daemon's clock says {seen}")
    expect(main_pid(DISPLAY) == pid, "it was started again")


def asked_year() -> int:
    """By the daemon's own clock: it asks for an image, and notes when."""
    control = ("--socket", "/run/firmware-node/display/control.sock")
    run(NODE, "query", *control)
    events = [json.loads(line) for line in run(NODE, "events", "--json", *control).splitlines()]
    return int(events[-1]["at"][:4])


def everything_stops_and_no_watchdog_was_missed() -> None:
    """In all of these steps."""
    run("systemctl", "stop", HUB_UNIT, DISPLAY, SWITCH)
    for unit in (HUB_UNIT, DISPLAY, SWITCH):
        expect(shown(unit, "Result") == "success", f"{unit}: {shown(unit, 'Result')}")
        told = [line["MESSAGE"] for line in journal(unit)]
        for number, text in enumerate(told):
            around = "\n".join(told[max(0, number - 10) : number + 5])
            expect("Watchdog timeout" not in text, f"{unit} missed its watchdog:\n{around}")
    run("systemctl", "stop", "stick-*")


STEPS: tuple[Callable[[], None], ...] = (
    a_missing_radio_ends_the_start_with_code_3_and_is_tried_again,
    a_unit_is_active_only_once_its_radio_has_answered,
    two_instances_on_two_sticks_share_nothing,
    a_relay_is_left_safe_by_a_stop_and_made_safe_after_a_kill,
    an_update_over_sticks_survives_kill_9_and_a_pulled_stick,
    a_stick_gone_longer_than_give_up_s_ends_the_daemon,
    a_clock_that_jumps_changes_nothing,
    everything_stops_and_no_watchdog_was_missed,
)
