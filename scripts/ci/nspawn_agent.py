"""The proof's steps with an agent: a host whose instances and simulated homes a bus speaks for."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

from nspawn_system import (
    CONFIGURATION,
    NODE,
    PPMID,
    TREE,
    StepSkipped,
    device_configuration,
    is_running,
    main_pid,
    run,
    shown,
    status,
)
from proof import expect, wait

AGENT = "firmware-node-agent.service"
LAMP = "firmware-node@lamp.service"
MOSQUITTO = shutil.which("mosquitto", path="/usr/sbin:/usr/bin")
PORT = 1883
BUS = ("--broker", f"mqtt://127.0.0.1:{PORT}", "--site", "lab")
SETTINGS = f"""
[agent]
site = "lab"
host = "pi-1"
[broker]
url = "mqtt://127.0.0.1:{PORT}"
"""
PLAN = """
name = "few"
[fleet]
homes = 2
devices = { ppmid = 1 }
[[images]]
name = "two"
type = "ppmid"
version = 2
size = 4096
[[waves]]
name = "all"
image = "two"
timeout = "15m"
"""


def assign(*, enabled: bool) -> None:
    """Tell the host, over the bus, to run the instance, or not."""
    units = Path("/root/units.toml")
    word = str(enabled).lower()
    units.write_text(f'[[units]]\nname = "lamp"\nenabled = {word}\nconfig_file = "lamp.toml"\n')
    units.with_name("lamp.toml").write_text(device_configuration("ppmid", PPMID))
    run(NODE, "fleet", "assign", "pi-1", str(units), *BUS)


# --- the steps, in their order --------------------------------------------------------------------


def an_agent_starts_the_instance_that_the_bus_names() -> None:
    """As root without capabilities, which ``10-units.conf.example`` asks for."""
    if MOSQUITTO is None:
        raise StepSkipped("no mosquitto (Debian package mosquitto)")
    Path("/etc/proof-broker").write_text(f"listener {PORT} 127.0.0.1\nallow_anonymous true\n")
    run("systemd-run", "--quiet", "--unit=broker", MOSQUITTO, "-c", "/etc/proof-broker")
    folder = CONFIGURATION / "agent"
    (folder / "secrets").mkdir(parents=True, exist_ok=True)
    (folder / "agent.toml").write_text(SETTINGS)
    shutil.copytree("/root/keys", CONFIGURATION / "keys/lamp")
    drop_in = Path(f"/run/systemd/system/{AGENT}.d/10-units.conf")
    drop_in.parent.mkdir()
    shutil.copy(TREE / f"systemd/{AGENT}.d/10-units.conf.example", drop_in)
    run("systemctl", "daemon-reload")
    run("systemctl", "start", AGENT)
    assign(enabled=True)
    wait(lambda: is_running(LAMP), "the instance runs")
    expect(shown(LAMP, "UnitFileState") == "enabled", shown(LAMP, "UnitFileState"))
    found = status("lamp")
    expect(found is not None and found["entity_id"] == PPMID, f"found {found}")
    wait(lambda: "lamp active" in run(NODE, "fleet", "hosts", *BUS), "the host says so")


def an_agent_that_is_killed_comes_back_and_leaves_its_instance_alone() -> None:
    """systemd starts it again; the instance is the same process."""
    if MOSQUITTO is None:
        raise StepSkipped("no mosquitto")
    agent, lamp = main_pid(AGENT), main_pid(LAMP)
    os.kill(agent, signal.SIGKILL)
    wait(lambda: main_pid(AGENT) not in (0, agent) and is_running(AGENT), "the agent is back")
    expect(is_running(LAMP) and main_pid(LAMP) == lamp, "the instance was started again")


def simulated_homes_of_the_host_are_updated_over_the_bus() -> None:
    """By ``fleet run --broker``, in the sandbox of the service."""
    if MOSQUITTO is None:
        raise StepSkipped("no mosquitto")
    Path("/root/few.toml").write_text(PLAN)
    where = ("--state", "/root/few", "--no-web", "--json", "--speed", "20")
    said = run(NODE, "fleet", "run", "/root/few.toml", *BUS, *where, limit_s=120)
    results = json.loads(said.splitlines()[0])  # then how it went on
    expect(results["totals"]["done"] == 2, f"totals {results['totals']}")


def the_bus_stops_what_it_started() -> None:
    """And the agent ends in good order."""
    if MOSQUITTO is None:
        raise StepSkipped("no mosquitto")
    assign(enabled=False)
    wait(lambda: shown(LAMP, "ActiveState") == "inactive", "the instance is stopped")
    expect(shown(LAMP, "UnitFileState") == "disabled", shown(LAMP, "UnitFileState"))
    run("systemctl", "stop", AGENT, "broker")
    expect(shown(AGENT, "Result") == "success", shown(AGENT, "Result"))


STEPS: tuple[Callable[[], None], ...] = (
    an_agent_starts_the_instance_that_the_bus_names,
    an_agent_that_is_killed_comes_back_and_leaves_its_instance_alone,
    simulated_homes_of_the_host_are_updated_over_the_bus,
    the_bus_stops_what_it_started,
)
