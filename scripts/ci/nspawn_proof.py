"""The proof inside the container: what a person would do on a Pi, and what may go wrong there.

Runs as root under a real systemd with the system's own Python. Each step is one line in OUT/report;
the first that fails ends it. OUT/result says ``passed`` or ``failed``.
"""

from __future__ import annotations

import http.server
import json
import os
import pwd
import re
import shutil
import signal
import subprocess
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import nspawn_agent
import nspawn_sticks
from nspawn_system import (
    CONFIGURATION,
    HCALCS,
    HUB_CONFIGURATION,
    HUB_UNIT,
    NODE,
    OUT,
    PPMID,
    PPMID_UNIT,
    PROOF_DROP_IN,
    STATE,
    TIMEOUT_STOP_S,
    TREE,
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
from proof import ProofFailed, expect, wait

CURRENT = Path("/opt/firmware-node/current")
HCALCS_UNIT = "firmware-node@hcalcs.service"
HCALCS_STATE = STATE / "hcalcs"
EXTRAS = ("--extras", "radio,fleet")
WEBHOOK_PORT = 8089
IMAGE_SIZE = 512 * 1024  # bytes; some seconds over the virtual radio
DEVICE_CONFIGURATION = device_configuration("ppmid", PPMID)
HCALCS_CONFIGURATION = f"""
{device_configuration("hcalcs", HCALCS)}
[gpio]
backend = "memory"
[gpio.relays.main]
line = 17
[notify.file]
type = "file"
path = "{HCALCS_STATE}/file.jsonl"
[notify.command]
type = "command"
command = ["/bin/sh", "-c", "cat >>{HCALCS_STATE}/command.jsonl"]
[notify.webhook]
type = "webhook"
url = "http://127.0.0.1:{WEBHOOK_PORT}/told"
"""


def state() -> str:
    """The device's state in one word."""
    found = status()
    return str(found["state"]) if found else "silent"


# --- the steps, in their order --------------------------------------------------------------------


def install_sh_installs_from_the_wheelhouse() -> None:
    """The one documented command."""
    text = run(f"{TREE}/scripts/install.sh", "--wheelhouse", f"{OUT}/wheels", *EXTRAS)
    expect("is current" in text, text)
    expect(pwd.getpwnam("firmware-node").pw_shell.endswith("nologin"), "the user may log in")
    run(NODE, "--version")


def a_second_install_changes_nothing() -> None:
    """Idempotent."""
    before = os.readlink(CURRENT)
    text = run(f"{TREE}/scripts/install.sh", "--wheelhouse", f"{OUT}/wheels", *EXTRAS)
    expect("nothing to change" in text, text)
    expect(os.readlink(CURRENT) == before, "another release is current")


def units_are_active_only_after_ready() -> None:
    """Type=notify: ``systemctl start`` returns with READY=1."""
    run(NODE, "keys", "create", "/root/keys", "--seed", "proof")
    for name, text in (("ppmid", DEVICE_CONFIGURATION), ("hub", HUB_CONFIGURATION)):
        (CONFIGURATION / f"{name}.toml").write_text(text)
        shutil.copytree("/root/keys", CONFIGURATION / "keys" / name)
    drop_in = Path("/run/systemd/system/firmware-node@.service.d/99-proof.conf")
    drop_in.parent.mkdir(parents=True)
    drop_in.write_text(PROOF_DROP_IN)
    run("systemctl", "daemon-reload")
    run("systemctl", "start", HUB_UNIT, PPMID_UNIT)
    expect(is_running() and state() == "idle", "not running")
    expect(shown(PPMID_UNIT, "Type") == "notify", "no notify unit")


def the_status_text_says_what_the_device_does() -> None:
    """STATUS= in words."""
    words = "idle: running version 00000001 in bank A"
    wait(lambda: shown(PPMID_UNIT, "StatusText") == words, "STATUS of an idle device")
    wait(
        lambda: shown(HUB_UNIT, "StatusText") == "serving: 1 device, 0 offers", "STATUS of the hub"
    )


def keys_come_as_credentials_alone() -> None:
    """The service reads copies; the key folder itself is root's."""
    folder = Path(f"/run/credentials/{PPMID_UNIT}")
    expect(any(folder.glob("keys_*-ds.key")), "no key among the credentials")
    original = next((CONFIGURATION / "keys/ppmid").glob("*.key"))
    as_user = ("setpriv", "--reuid=firmware-node", "--regid=firmware-node", "--clear-groups")
    done = subprocess.run([*as_user, "cat", str(original)], capture_output=True, check=False)
    expect(done.returncode != 0, f"the service's user can read {original}")


def the_sandbox_is_closed() -> None:
    """Seen from the process, not from the unit file."""
    pid = main_pid()
    fields = dict(re.findall(r"(?m)^(\w+):\s+(.*)$", Path(f"/proc/{pid}/status").read_text()))
    for name, value in (("NoNewPrivs", "1"), ("Seccomp", "2"), ("CapBnd", "0" * 16)):
        expect(fields[name] == value, f"{name} is {fields[name]}, expected {value}")
    expect(fields["Uid"].split()[0] == str(pwd.getpwnam("firmware-node").pw_uid), "its user")
    groups = {int(group) for group in fields["Groups"].split()}
    for name in ("dialout", "gpio"):
        number = int(run("getent", "group", name).split(":")[2])
        expect(number in groups, f"not in group {name}")
    # Not /run: a container's is mounted twice over, and the sandbox reaches one of them.
    for path in ("/etc/proof", "/usr/proof", "/var/proof", "/var/lib/firmware-node/proof"):
        done = subprocess.run(
            ["nsenter", "-t", str(pid), "-m", "touch", path], capture_output=True, check=False
        )
        expect(done.returncode != 0, f"{path} can be written")
    run("nsenter", "-t", str(pid), "-m", "touch", "/var/lib/firmware-node/ppmid/proof")
    Path("/var/lib/firmware-node/ppmid/proof").unlink()
    mode = Path("/var/lib/firmware-node/ppmid").stat().st_mode & 0o777
    expect(mode == 0o700, f"the state directory has mode {mode:o}")
    mode = Path("/run/firmware-node/ppmid/control.sock").stat().st_mode & 0o777
    expect(mode == 0o660, f"the control socket has mode {mode:o}")


def a_wrong_configuration_is_not_tried_again() -> None:
    """Exit code 2."""
    (CONFIGURATION / "wrong.toml").write_text(DEVICE_CONFIGURATION + "tea = 1\n")
    (CONFIGURATION / "keys/wrong").mkdir()
    unit = "firmware-node@wrong.service"
    run("systemctl", "start", unit, code=1)
    expect(shown(unit, "ExecMainStatus") == "2", "another exit code")
    expect(shown(unit, "ActiveState") == "failed", "it is tried again")
    expect(shown(unit, "NRestarts") == "0", "it was tried again")
    lines = [line for line in journal(unit) if "unknown key" in line["MESSAGE"]]
    expect(len(lines) == 1 and lines[0]["PRIORITY"] == "3", "no one line with priority error")


def a_reload_reads_the_configuration_again() -> None:
    """SIGHUP."""
    pid = main_pid()
    (CONFIGURATION / "ppmid.toml").write_text(DEVICE_CONFIGURATION + '[log]\nlevel = "debug"\n')
    run("systemctl", "reload", PPMID_UNIT)
    wait(is_running, "ready after the reload")
    expect(main_pid() == pid, "another process")
    told = [line for line in journal() if line["MESSAGE"] == "configuration read again"]
    expect(len(told) == 1, "the journal does not tell it")
    (CONFIGURATION / "ppmid.toml").write_text(DEVICE_CONFIGURATION)
    run("systemctl", "reload", PPMID_UNIT)


def an_emulated_restart_keeps_the_process_and_is_no_stop() -> None:
    """Told STOPPING=1, systemd would kill it TimeoutStopSec later."""
    pid = main_pid()
    run(NODE, "reboot", "--socket", "/run/firmware-node/ppmid/control.sock")
    wait(lambda: len(events("image_running")) == 2, "the second life")
    wait(is_running, "ready after the restart")
    time.sleep(TIMEOUT_STOP_S + 1)
    expect(is_running() and main_pid() == pid, "it did not live through TimeoutStopSec")


def comes_back_after(hurt: Callable[[int], None], what: str) -> None:
    """Another process, running, joined, with the bank it had."""
    before, restarts = main_pid(), int(shown(PPMID_UNIT, "NRestarts"))
    hurt(before)
    wait(lambda: main_pid() not in (0, before) and is_running(), f"a restart after {what}")
    expect(int(shown(PPMID_UNIT, "NRestarts")) == restarts + 1, "restarted more than once")
    found = status()
    expect(found is not None and found["running_bank"] == "A", "another bank runs")


def a_hanging_daemon_is_killed_by_the_watchdog() -> None:
    """SIGSTOP: nothing feeds it any more."""
    comes_back_after(lambda pid: os.kill(pid, signal.SIGSTOP), "SIGSTOP")
    told = [line for line in journal() if "Watchdog timeout" in line["MESSAGE"]]
    expect(len(told) == 1, "no word of the watchdog in the journal")


def a_killed_daemon_is_started_again() -> None:
    """``kill -9`` of an idle device."""
    comes_back_after(lambda pid: os.kill(pid, signal.SIGKILL), "SIGKILL")


def an_update_survives_kill_9_in_its_middle() -> None:
    """SR 11.4 over the virtual radio; the rest of the file, not the whole, comes afterwards."""
    with subprocess.Popen(
        update(IMAGE_SIZE, 2),
        stdout=subprocess.PIPE,
        text=True,
    ) as sender:

        def offset() -> int:
            found = status()
            return int(found["upgrade"]["file_offset"]) if found else 0

        # State and offset of one answer: a download that is over reads as no download.
        wait(lambda: IMAGE_SIZE // 4 < offset() < IMAGE_SIZE * 3 // 4, "the middle of the download")
        at_kill = offset()
        os.kill(main_pid(), signal.SIGKILL)
        output, _ = sender.communicate(timeout=90)
    result = json.loads(output)
    expect(result["result"] == "ok", output)
    told = [(m["use_case"], m["signature"]) for m in result["messages"]]
    expect(told == [("CCS08", "valid"), ("CS09", "valid")], output)
    starts = [int(line["FIRMWARE_NODE_FILE_OFFSET"]) for line in events("download_started")]
    expect(len(starts) == 2 and starts[0] == 0, f"downloads began at {starts}")
    expect(0 < starts[1] <= at_kill + 65536, f"killed at {at_kill}, went on at {starts[1]}")
    found = status()
    expect(found is not None, "the device is silent")
    assert found is not None
    expect(found["running_bank"] == "B", "bank A runs")
    bank = found["banks"]["B"]
    expect((bank["state"], bank["version"]) == ("confirmed", "00000002"), f"bank B is {bank}")
    wait(is_running, "running after the update")


def the_doctor_finds_the_wrong_configuration_and_nothing_else() -> None:
    """Every file in /etc/firmware-node, as root sees them."""
    document = json.loads(run(NODE, "doctor", "--json", code=1))
    bad = [found for found in document["findings"] if found["level"] == "problem"]
    expect(len(bad) == 1 and "wrong.toml" in bad[0]["found"], f"problems: {bad}")
    expect(bad[0]["remedy"], "without a remedy")


class Webhook(http.server.BaseHTTPRequestHandler):
    """Keeps what is posted."""

    posted: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self) -> None:
        """See ``http.server``."""
        size = int(self.headers["content-length"])
        self.posted.append(json.loads(self.rfile.read(size)))
        self.send_response(204)
        self.end_headers()


def a_second_instance_moves_its_relay_and_tells_a_file_a_command_and_a_webhook() -> None:
    """An HCALCS beside the PPMID; load control by the hub; sinks inside the sandbox."""
    (CONFIGURATION / "hcalcs.toml").write_text(HCALCS_CONFIGURATION)
    shutil.copytree("/root/keys", CONFIGURATION / "keys/hcalcs")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", WEBHOOK_PORT), Webhook)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def switch() -> dict[str, Any]:
        found = status("hcalcs")
        return found["switch"] if found else {}

    run("systemctl", "start", HCALCS_UNIT)
    wait(lambda: switch().get("esme") is not None, "the ESME is found")
    run(NODE, "hub", "load", HCALCS, "closed", "10")
    wait(lambda: switch().get("switch") == "closed", "the relay closes")
    words = "idle: running version 00000001 in bank A; the switch is closed"
    wait(lambda: shown(HCALCS_UNIT, "StatusText") == words, "STATUS of a closed switch")
    told: dict[str, Callable[[], str]] = {
        "file": lambda: (HCALCS_STATE / "file.jsonl").read_text(),
        "command": lambda: (HCALCS_STATE / "command.jsonl").read_text(),
        "webhook": lambda: "".join(json.dumps(document) + "\n" for document in Webhook.posted),
    }

    def everybody_knows() -> bool:
        return all('"state": "closed"' in text() for text in told.values())

    wait(everybody_knows, "file, command and webhook are told")
    for name, text in told.items():
        numbers = [json.loads(line)["n"] for line in text().splitlines()]
        expect(numbers == sorted(numbers), f"{name}: out of order: {numbers}")
    run("systemctl", "stop", HCALCS_UNIT)
    server.shutdown()
    expect(shown(HCALCS_UNIT, "Result") == "success", shown(HCALCS_UNIT, "Result"))


def the_journal_has_fields_and_no_key() -> None:
    """Notifications with their fields; no octet of a private key."""
    confirmed = events("image_confirmed")
    expect(len(confirmed) == 1, "not told once")
    expect(confirmed[0]["FIRMWARE_NODE_VERSION"] == "00000002", "without its version")
    expect(confirmed[0]["PRIORITY"] == "6", "without its priority")
    text = run("journalctl", "--no-pager", "-o", "export").lower()
    for path in Path("/root/keys").glob("*.key"):
        data = path.read_bytes()
        body = [line for line in data.splitlines() if b"--" not in line]
        for secret in (data.hex(), *(line.decode(errors="replace").lower() for line in body)):
            expect(len(secret) < 16 or secret not in text, f"{path.name} is in the journal")


def a_release_that_does_not_get_ready_is_switched_back() -> None:
    """The daemon of the third wheelhouse cannot start."""
    before = os.readlink(CURRENT)
    text = run(f"{TREE}/scripts/install.sh", "--wheelhouse", f"{OUT}/broken", code=1)
    expect("did not get ready" in text and "back on" in text, text)
    expect(os.readlink(CURRENT) == before, "the broken release is current")
    wait(is_running, "running on the release before")
    found = status()
    expect(found is not None and found["running_bank"] == "B", "another bank runs")
    expect(len(list((CURRENT.parent / "releases").iterdir())) == 1, "its folder is still there")


def a_release_that_gets_ready_takes_over() -> None:
    """And the one before stays at hand."""
    before, pid = os.readlink(CURRENT), main_pid()
    run(f"{TREE}/scripts/install.sh", "--wheelhouse", f"{OUT}/newer", *EXTRAS)
    expect(os.readlink(CURRENT) != before, "the release before is current")
    expect((CURRENT.parent / before).is_dir(), "the release before is gone")
    expect(is_running() and main_pid() != pid, "the instance was not restarted")
    program = Path(f"/proc/{main_pid()}/cmdline").read_bytes().split(b"\0")[0].decode()
    expect(os.readlink(CURRENT).removeprefix("releases/") in program, f"it runs {program}")


def udev_reads_the_rules() -> None:
    """No device is here to match; every line is read."""
    if shutil.which("udevadm") is None:
        return
    text = run("udevadm", "test", "/sys/class/tty/tty")
    about = [line for line in text.splitlines() if "60-firmware-node.rules" in line]
    expect(len(about) == 1 and about[0].startswith("Reading"), "\n".join(about))


def stop_is_clean_and_fast() -> None:
    """SIGTERM."""
    began = time.monotonic()
    run("systemctl", "stop", PPMID_UNIT, HUB_UNIT)
    expect(time.monotonic() - began < TIMEOUT_STOP_S, "it took its whole time-out")
    for unit in (PPMID_UNIT, HUB_UNIT):
        expect(shown(unit, "Result") == "success", f"{unit}: {shown(unit, 'Result')}")
        expect(shown(unit, "ExecMainStatus") == "0", f"{unit}: another exit code")
    left = [str(path) for path in Path("/run/firmware-node").rglob("*.sock")]
    expect(not left, f"sockets are left: {left}")


def uninstall_leaves_nothing() -> None:
    """--uninstall --purge."""
    run(f"{TREE}/scripts/install.sh", "--uninstall", "--purge")
    names = "firmware-node*"
    found = run(
        "find",
        "/etc",
        "/opt",
        "/var/lib",
        "/usr/local",
        "/run/firmware-node",
        "-name",
        names,
        "-not",
        "-path",
        "*/run/systemd/*",
        code=1,
    )
    left = [line for line in found.splitlines() if line.startswith("/")]
    expect(not left, f"left: {left}")
    expect("firmware-node" not in Path("/etc/passwd").read_text(), "the user is left")


STEPS = (
    install_sh_installs_from_the_wheelhouse,
    a_second_install_changes_nothing,
    units_are_active_only_after_ready,
    the_status_text_says_what_the_device_does,
    keys_come_as_credentials_alone,
    the_sandbox_is_closed,
    a_wrong_configuration_is_not_tried_again,
    a_reload_reads_the_configuration_again,
    an_emulated_restart_keeps_the_process_and_is_no_stop,
    a_hanging_daemon_is_killed_by_the_watchdog,
    a_killed_daemon_is_started_again,
    an_update_survives_kill_9_in_its_middle,
    the_doctor_finds_the_wrong_configuration_and_nothing_else,
    a_second_instance_moves_its_relay_and_tells_a_file_a_command_and_a_webhook,
    a_release_that_does_not_get_ready_is_switched_back,
    a_release_that_gets_ready_takes_over,
    udev_reads_the_rules,
    stop_is_clean_and_fast,
    *nspawn_sticks.STEPS,
    *nspawn_agent.STEPS,
    the_journal_has_fields_and_no_key,
    uninstall_leaves_nothing,
)


def main() -> None:
    """All steps, until one fails."""
    began = time.monotonic()
    with (OUT / "report").open("w", buffering=1) as report:
        for step in STEPS:
            step_began = time.monotonic()
            name = step.__name__.replace("_", " ")
            try:
                step()
            except StepSkipped as reason:
                report.write(f"SKIP: nspawn: {name}: {reason}\n")
                continue
            except (
                ProofFailed,
                OSError,
                ValueError,
                LookupError,
                subprocess.SubprocessError,
            ) as error:
                traceback.print_exc()
                subprocess.run(["journalctl", "--no-pager", "-n", "60"], check=False)
                report.write(f"nspawn: FAILED {name}: {error}\n")
                (OUT / "result").write_text("failed")
                return
            report.write(f"nspawn: {name} ({time.monotonic() - step_began:.1f} s)\n")
        report.write(f"nspawn: {len(STEPS)} steps in {time.monotonic() - began:.0f} s\n")
    (OUT / "result").write_text("passed")


if __name__ == "__main__":
    main()
