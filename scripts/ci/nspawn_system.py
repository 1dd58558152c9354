"""What the proof's steps share: instances, their configurations, and how they are looked at."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from proof import expect

TREE, OUT = Path(sys.argv[1]), Path(sys.argv[2])
NODE = "/usr/local/bin/firmware-node"
CONFIGURATION = Path("/etc/firmware-node")
STATE = Path("/var/lib/firmware-node")
PPMID = "00-DB-12-34-56-78-90-A4"
HCALCS = "00-DB-12-34-56-78-90-A5"
PPMID_UNIT, HUB_UNIT = "firmware-node@ppmid.service", "firmware-node@hub.service"
TIMEOUT_STOP_S = 8
WATCHDOG_S = 10  # a busy machine has let an idle process wait for more than a second
PROOF_DROP_IN = f"""
[Service]
WatchdogSec={WATCHDOG_S}
RestartSec=100ms
TimeoutStopSec={TIMEOUT_STOP_S}
"""
HUB_CONFIGURATION = """
[hub]
entity_id = "00-DB-12-34-56-78-90-A2"
[dcc]
request_signature = "require"
[keys]
directory = "credential:keys"
"""


def device_configuration(kind: str, entity_id: str) -> str:
    """A device's on the virtual air; sections may follow."""
    return f"""
[device]
type = "{kind}"
entity_id = "{entity_id}"
manufacturer_code = 0x121D
image_type = 0x0084
hardware_version = 0x1111
manufacturer_signature = "require"
[keys]
directory = "credential:keys"
[ota]
activate_delay_ms = 200
"""


class StepSkipped(Exception):
    """The machine lacks what a step needs; says what."""


def run(*command: str, code: int = 0, limit_s: int = 60) -> str:
    """What a command prints; its exit code must be ``code``."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit_s, check=False)
    text = done.stdout + done.stderr
    expect(done.returncode == code, f"{' '.join(command)}: exit {done.returncode}: {text}")
    return text


def shown(unit: str, name: str) -> str:
    """One property of a unit."""
    return run("systemctl", "show", "--value", f"--property={name}", unit).strip()


def main_pid(unit: str = PPMID_UNIT) -> int:
    """An instance's process."""
    return int(shown(unit, "MainPID"))


def is_running(unit: str = PPMID_UNIT) -> bool:
    """Whether systemd holds it for running, not for stopping or reloading."""
    return shown(unit, "SubState") == "running"


def journal(unit: str = PPMID_UNIT) -> list[dict[str, str]]:
    """What the journal has of a unit, with fields."""
    lines = run("journalctl", "--no-pager", "-o", "json", "-u", unit).splitlines()
    return [json.loads(line) for line in lines]


def events(name: str, unit: str = PPMID_UNIT) -> list[dict[str, str]]:
    """An instance's notifications of that name."""
    return [line for line in journal(unit) if line.get("FIRMWARE_NODE_EVENT") == name]


def status(name: str = "ppmid") -> dict[str, Any] | None:
    """A device's own account; None while it does not answer."""
    connection = http.client.HTTPConnection("localhost", timeout=5)
    connection.sock = socket.socket(socket.AF_UNIX)
    try:
        connection.sock.connect(f"/run/firmware-node/{name}/control.sock")
        connection.request("GET", "/v1/status")
        answer: dict[str, Any] = json.loads(connection.getresponse().read())
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
    return answer


def update(image_size: int, version: int) -> list[str]:
    """The command that updates the PPMID by SR 11.4 and waits for its end."""
    keys, name = ("--keys", "/root/keys"), f"/root/{version}"
    image = ("--file-version", str(version), "--size", str(image_size), "-o", f"{name}.ota")
    run(NODE, "image", "build", *keys, *image)
    request = ("--image", f"{name}.ota", "--devices", PPMID, "-o", f"{name}.xml")
    run(NODE, "dcc", "request", "11.4", *keys, *request)
    return [NODE, "dcc", "send", f"{name}.xml", "--wait", "--json"]
