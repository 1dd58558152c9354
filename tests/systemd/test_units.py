"""The unit, its drop-ins, users, folders and udev rules, as systemd's own tools read them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

UNITS = Path(__file__).resolve().parents[2] / "systemd"
EXAMPLES = sorted((UNITS / "firmware-node@.service.d").glob("*.example"))
AGENT = "firmware-node-agent.service"
AGENT_EXAMPLES = sorted((UNITS / f"{AGENT}.d").glob("*.example"))
SERVICES = ("firmware-node@ppmid.service", "firmware-node@hub.service", AGENT)
EXPOSURE_MAX = 2.0
ROOT_EXPOSURE_MAX = 2.5  # of the agent that starts and stops instances; without capabilities
LIMIT_S = 30

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None and not os.environ.get("CI"),
    reason="systemd-analyze is not here (Debian package systemd)",
)
needs_root = pytest.mark.skipif(
    os.geteuid() != 0 and not os.environ.get("CI"), reason="owners can be set by root alone"
)

# Newer than systemd 252, which is what Debian 12 and Raspberry Pi OS Bookworm have.
TOO_NEW = {
    *("CoredumpReceive", "DelegateSubgroup", "FileDescriptorStorePreserve", "ImportCredential"),
    *("MemoryPressureWatch", "OpenFile", "PrivatePIDs", "RestartMaxDelaySec", "RestartMode"),
    *("RestartSteps", "RootEphemeral", "SurviveFinalKillSignal"),
}


@pytest.fixture
def stage(tmp_path: Path) -> Path:
    """A tree with our files where they go, and of the system only what they refer to."""
    folder = tmp_path / "usr/lib/systemd/system"
    folder.mkdir(parents=True)
    shutil.copy(UNITS / "firmware-node@.service", folder)
    shutil.copy(UNITS / AGENT, folder)
    shutil.copytree(UNITS / "firmware-node@hub.service.d", folder / "firmware-node@hub.service.d")
    for name in ("sysinit", "time-sync", "network", "basic", "shutdown", "multi-user"):
        (folder / f"{name}.target").write_text(f"[Unit]\nDescription={name}\n")
    for name in ("ppmid", "hub"):
        (folder / f"firmware-node@{name}.service").symlink_to("firmware-node@.service")
    for command in ("bin/kill", "opt/firmware-node/current/bin/firmware-node"):
        path = tmp_path / command
        path.parent.mkdir(parents=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    return tmp_path


def analyze(stage: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", arguments[0], f"--root={stage}", "--no-pager", *arguments[1:]],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


def exposure(stage: Path, unit: str) -> float:
    done = analyze(stage, "security", "--offline=true", "--threshold=100", unit)
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found is not None, done.stdout + done.stderr
    return float(found[1])


def add_example(stage: Path, example: Path) -> None:
    folder = stage / "usr/lib/systemd/system" / example.parent.name
    folder.mkdir(exist_ok=True)
    shutil.copy(example, folder / example.name.removesuffix(".example"))


def settings(unit: str = "firmware-node@.service") -> Iterator[tuple[str, str]]:
    for line in (UNITS / unit).read_text().splitlines():
        if re.match(r"[A-Za-z]+=", line):
            name, _, value = line.partition("=")
            yield name, value


@needs_systemd
@pytest.mark.parametrize("unit", SERVICES)
def test_systemd_finds_nothing_to_say_about_the_unit(stage: Path, unit: str) -> None:
    done = analyze(stage, "verify", unit)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_systemd
@pytest.mark.parametrize("example", EXAMPLES + AGENT_EXAMPLES, ids=lambda path: path.name)
def test_systemd_finds_nothing_to_say_about_an_example(stage: Path, example: Path) -> None:
    add_example(stage, example)
    unit = AGENT if example in AGENT_EXAMPLES else "firmware-node@ppmid.service"
    done = analyze(stage, "verify", unit)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert exposure(stage, unit) <= (ROOT_EXPOSURE_MAX if unit == AGENT else EXPOSURE_MAX)


@needs_systemd
def test_a_misspelt_directive_does_not_pass(stage: Path) -> None:
    unit = stage / "usr/lib/systemd/system/firmware-node@.service"
    unit.write_text(unit.read_text().replace("WatchdogSec=", "WatchdogSecs="))
    assert "WatchdogSecs" in analyze(stage, "verify", "firmware-node@ppmid.service").stderr


@needs_systemd
@pytest.mark.parametrize("unit", SERVICES)
def test_the_service_is_exposed_to_little(stage: Path, unit: str) -> None:
    done = analyze(stage, "security", "--offline=true", "--threshold=20", unit)
    assert done.returncode == 0, done.stdout
    assert exposure(stage, unit) <= EXPOSURE_MAX


@needs_systemd
def test_a_service_without_its_sandbox_would_be_seen(stage: Path) -> None:
    unit = stage / "usr/lib/systemd/system/firmware-node@.service"
    kept = re.sub(r"(?m)^(SystemCall|Restrict|CapabilityBounding).*\n", "", unit.read_text())
    unit.write_text(kept)
    assert exposure(stage, "firmware-node@ppmid.service") > EXPOSURE_MAX


def test_the_sandbox_lets_serial_radios_and_gpio_chips_in_and_no_other_device() -> None:
    found = list(settings())
    devices = {value for name, value in found if name == "DeviceAllow"}
    chars = ("ttyUSB", "ttyACM", "ttyAMA", "ttyS", "gpiochip")
    assert devices == {f"char-{name} rw" for name in chars}
    assert ("DevicePolicy", "closed") in found
    assert ("SupplementaryGroups", "dialout gpio") in found


@pytest.mark.parametrize("unit", ["firmware-node@.service", AGENT])
def test_no_directive_is_newer_than_systemd_252(unit: str) -> None:
    names = {name for name, _ in settings(unit)}
    assert "WatchdogSec" in names
    assert not names & TOO_NEW
    assert ("Type", "notify") in settings(unit)  # notify-reload came with 253


@needs_systemd
@needs_root
def test_user_groups_and_folders_are_made_as_the_unit_needs_them(tmp_path: Path) -> None:
    for name in ("etc", "run", "var/lib"):
        (tmp_path / name).mkdir(parents=True)
    for tool, arguments, file in (
        ("systemd-sysusers", (), "firmware-node.sysusers"),
        ("systemd-tmpfiles", ("--create",), "firmware-node.tmpfiles"),
    ):
        command = [tool, f"--root={tmp_path}", *arguments, str(UNITS / file)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
        assert done.returncode == 0, done.stderr
    passwd = dict(line.split(":", 1) for line in (tmp_path / "etc/passwd").read_text().splitlines())
    user_id = int(passwd["firmware-node"].split(":")[1])
    groups = (tmp_path / "etc/group").read_text()
    for group in ("dialout", "gpio"):
        assert re.search(rf"(?m)^{group}:.*:firmware-node$", groups), groups
    for folder in ("keys", "agent/secrets"):
        secret = (tmp_path / "etc/firmware-node" / folder).stat()
        assert (secret.st_mode & 0o777, secret.st_uid) == (0o700, 0)
    assert (tmp_path / "run/firmware-node").stat().st_uid == user_id


UDEV_TOKEN = re.compile(
    r"(?:(?:SUBSYSTEMS?|KERNEL|ACTION|ENV\{\w+\})(?:==|!=)|(?:TAG|SYMLINK)\+="
    r'|(?:GROUP|MODE|GOTO|LABEL|IMPORT\{builtin\})=)"[^"]*"'
)


def test_udev_rules_are_well_formed_and_each_jump_has_its_end() -> None:
    lines = (UNITS / "60-firmware-node.rules").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    for rule in rules:
        assert all(UDEV_TOKEN.fullmatch(token) for token in rule.split(", ")), rule
    text = "\n".join(rules)
    assert set(re.findall(r'GOTO="(\w+)"', text)) == set(re.findall(r'LABEL="(\w+)"', text))
    # Each kind of stick gets exactly one name.
    assert len(re.findall(r"SYMLINK", text)) == 3
