"""How the daemons start, stop and fail, as processes; the main job is in ``test_processes``."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

PPMID = "00-DB-12-34-56-78-90-A4"
HCALCS = "00-DB-12-34-56-78-90-A5"
LIMIT_S = 30
NODE = [sys.executable, "-m", "firmware_node"]


def node(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*NODE, *arguments], capture_output=True, text=True, timeout=LIMIT_S, check=False
    )


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short-named folder with keys and two configurations."""
    with tempfile.TemporaryDirectory(prefix="fn-") as name:
        root = Path(name)
        assert node("keys", "create", f"{root}/keys", "--seed", "1").returncode == 0
        keys = f'[keys]\ndirectory = "{root}/keys"\n[radio]\nair = "{root}/air.sock"\n'
        (root / "ppmid.toml").write_text(
            f'[device]\ntype = "ppmid"\nentity_id = "{PPMID}"\nmanufacturer_code = 0x121D\n'
            "image_type = 0x84\nhardware_version = 0x1111\n"
            f'[storage]\ndirectory = "{root}/state"\n{keys}'
            f'[control]\nsocket = "{root}/control.sock"\n'
        )
        (root / "hub.toml").write_text(
            '[hub]\nentity_id = "00-DB-12-34-56-78-90-A2"\n'
            f'[dcc]\nsocket = "{root}/hub.sock"\nrequest_signature = "require"\n{keys}'
        )
        yield root


class Running:
    """A daemon under a pretended systemd: ready when it says so."""

    def __init__(self, root: Path, verb: str, name: str) -> None:
        path = f"{root}/{verb}-notify.sock"
        self.manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.manager.bind(path)
        self.manager.settimeout(LIMIT_S)
        self.process = subprocess.Popen(
            [*NODE, verb, f"{root}/{name}.toml"],
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"NOTIFY_SOCKET": path},
        )
        assert self.told().startswith("READY=1")

    def told(self, wanted: str = "") -> str:
        """What it says next that is no mere STATUS=, or next with ``wanted`` in it."""
        while True:
            text = self.manager.recv(1000).decode()
            if wanted in text if wanted else not text.startswith("STATUS="):
                return text

    def errors(self) -> IO[str]:
        assert self.process.stderr is not None
        return self.process.stderr

    def stop(self, number: int) -> int:
        self.process.send_signal(number)
        return self.process.wait(LIMIT_S)

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self.errors().close()
        self.manager.close()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
@pytest.mark.parametrize(("verb", "name", "file"), [("run", "ppmid", "control"), ("hub",) * 3])
def test_a_daemon_says_ready_and_stops_cleanly(
    folder: Path, verb: str, name: str, file: str, number: int, code: int
) -> None:
    with Running(folder, verb, name) as daemon:
        assert (folder / f"{file}.sock").stat().st_mode & 0o777 == 0o660
        assert "ready" in daemon.errors().readline()
        assert daemon.stop(number) == code
        assert "Traceback" not in daemon.errors().read()
    assert not (folder / f"{file}.sock").exists()


def test_a_reboot_keeps_the_process_and_what_is_stored(folder: Path) -> None:
    control = ("--socket", f"{folder}/control.sock")
    with Running(folder, "run", "ppmid") as daemon:
        before = json.loads(node("status", "--json", *control).stdout)
        assert node("reboot", *control).returncode == 0
        # STOPPING=1 would have systemd kill what begins again.
        assert daemon.told().startswith("RELOADING=1")
        assert daemon.told().startswith("READY=1")
        after = json.loads(node("status", "--json", *control).stdout)
        assert after["pid"] == before["pid"] == daemon.process.pid
        assert after["banks"] == before["banks"]
        assert daemon.stop(signal.SIGTERM) == 0


def test_sighup_takes_the_log_level_and_names_what_needs_a_start(folder: Path) -> None:
    config = folder / "ppmid.toml"
    with Running(folder, "run", "ppmid") as daemon:
        assert "ready" in daemon.errors().readline()
        written = config.read_text()
        config.write_text(written + '[log]\nlevel = "info"\n[ota]\nblock_size = 48\n')
        daemon.process.send_signal(signal.SIGHUP)
        assert daemon.told().startswith("RELOADING=1\nMONOTONIC_USEC=")
        assert daemon.told().startswith("READY=1\nSTATUS=degraded: no network")
        assert "ota.block_size changed: it is taken at the next start" in daemon.errors().readline()
        assert "configuration read again" in daemon.errors().readline()
        config.write_text("[device]\n")
        daemon.process.send_signal(signal.SIGHUP)
        assert daemon.told("READY=1")
        assert "configuration not taken" in daemon.errors().readline()
        config.write_text(written)
        daemon.process.send_signal(signal.SIGHUP)
        assert daemon.told("READY=1")
        assert daemon.stop(signal.SIGTERM) == 0
        assert daemon.errors().read() == ""  # the level is the command line's again


def test_the_status_text_follows_the_state(folder: Path) -> None:
    with Running(folder, "hub", "hub") as hub, Running(folder, "run", "ppmid") as device:
        assert device.told("idle") == "STATUS=idle: running version 00000001 in bank A"
        assert hub.told("1 device") == "STATUS=serving: 1 device, 0 offers"
        assert hub.stop(signal.SIGTERM) == 0
        assert hub.told("STOPPING") == "STOPPING=1\nSTATUS=stopping"
        assert "degraded: no network" in device.told("degraded")


def test_a_daemon_claims_its_lines_and_says_which_back_end_drives_them(folder: Path) -> None:
    config = folder / "ppmid.toml"
    lines = "[gpio.relays.main]\nline = 17\nsafe = true\n"
    config.write_text(config.read_text() + '[gpio]\nbackend = "memory"\n' + lines)
    with Running(folder, "run", "ppmid"):
        status = json.loads(node("status", "--json", "--socket", f"{folder}/control.sock").stdout)
    assert status["gpio"]["backend"] == "memory"
    assert status["gpio"]["lines"]["main"] == {"line": 17, "on": True, "consumer": None}


def test_a_daemon_without_its_gpio_chip_is_an_error_of_the_environment(folder: Path) -> None:
    config = folder / "ppmid.toml"
    lines = "[gpio.relays.main]\nline = 17\n"
    config.write_text(config.read_text() + '[gpio]\nchip = "no such chip"\n' + lines)
    refused = node("run", str(config))
    assert refused.returncode == 3
    assert "no GPIO back end: gpiod: no chip no such chip" in refused.stderr
    assert refused.stderr.count("\n") == 1
    config.write_text(config.read_text().replace("line = 17", "line = 99"))
    config.write_text(config.read_text().replace("[gpio]", '[gpio]\nbackend = "memory"'))
    assert node("run", str(config)).returncode == 2


def test_a_daemon_that_was_killed_starts_again_over_its_stale_sockets(folder: Path) -> None:
    for _ in range(2):
        with Running(folder, "hub", "hub") as hub, Running(folder, "run", "ppmid") as device:
            device.process.kill()
            hub.process.kill()
            assert hub.process.wait(LIMIT_S) == -signal.SIGKILL
        assert (folder / "hub.sock").is_socket()
        (folder / "hub-notify.sock").unlink()
        (folder / "run-notify.sock").unlink()


def test_a_second_hub_on_the_same_air_is_exit_code_3(folder: Path) -> None:
    with Running(folder, "hub", "hub"):
        second = node("hub", f"{folder}/hub.toml")
        assert second.returncode == 3
        assert second.stderr.count("\n") == 1
        assert "another process listens there" in second.stderr


def test_a_request_signed_by_nobody_known_fails_where_signatures_are_required(
    folder: Path,
) -> None:
    stranger = folder / "stranger"
    assert node("keys", "create", str(stranger)).returncode == 0
    request = f"{folder}/read.xml"
    wanted = ("--devices", PPMID, "-o", request)
    with Running(folder, "hub", "hub"):
        send = ("dcc", "send", request, "--hub", f"{folder}/hub.sock", "--json")
        assert node("dcc", "request", "11.2", *wanted, "--keys", str(stranger)).returncode == 0
        refused = node(*send)
        assert refused.returncode == 1
        document = json.loads(refused.stdout)
        assert (document["result"], document["request_signature"]) == ("failed", "invalid")
        assert node("dcc", "request", "11.2", *wanted, "--keys", f"{folder}/keys").returncode == 0
        assert json.loads(node(*send).stdout)["request_signature"] == "valid"


def test_a_request_that_nobody_answers_fails_when_the_patience_ends(folder: Path) -> None:
    request = f"{folder}/update.xml"
    keys = ("--keys", f"{folder}/keys")
    image = f"{folder}/two.ota"
    assert node("image", "build", "--file-version", "2", *keys, "-o", image).returncode == 0
    wanted = ("--image", image, "--devices", HCALCS, *keys, "-o", request)
    assert node("dcc", "request", "11.4", *wanted).returncode == 0
    with Running(folder, "hub", "hub"):
        send = ("dcc", "send", request, "--hub", f"{folder}/hub.sock", "--json")
        waited = node(*send, "--wait", "--timeout", "1")
        assert waited.returncode == 1
        document = json.loads(waited.stdout)
        assert document["result"] == "failed"
        assert document["deliveries"] == [{"entity_id": HCALCS, "status": "unknown_device"}]
        accepted = node(*send)
        assert (accepted.returncode, json.loads(accepted.stdout)["result"]) == (0, "accepted")


def test_a_hub_that_dies_under_a_request_is_an_error_of_the_environment(folder: Path) -> None:
    image, request = f"{folder}/two.ota", f"{folder}/update.xml"
    keys = ("--keys", f"{folder}/keys")
    assert node("image", "build", "--file-version", "2", *keys, "-o", image).returncode == 0
    wanted = ("--image", image, "--devices", HCALCS, *keys, "-o", request)
    assert node("dcc", "request", "11.4", *wanted).returncode == 0
    with Running(folder, "hub", "hub") as hub:
        send = subprocess.Popen(
            [*NODE, "dcc", "send", request, "--hub", f"{folder}/hub.sock", "--wait"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert send.stdout is not None
        while "unknown_device" not in send.stdout.readline():
            assert send.poll() is None
        hub.process.kill()
        _, errors = send.communicate(timeout=LIMIT_S)
        assert send.returncode == 3
        assert errors.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_demo_that_is_ended_takes_its_processes_with_it(tmp_path: Path, number: int) -> None:
    kept = tmp_path / "kept"
    demo = subprocess.Popen(
        [*NODE, "demo", "--size", "5000000", "--keep", str(kept)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert demo.stdout is not None
    while "SR 11.4" not in demo.stdout.readline():
        assert demo.poll() is None
    children = Path(f"/proc/{demo.pid}/task/{demo.pid}/children").read_text().split()
    assert len(children) >= 2
    demo.send_signal(number)
    _, errors = demo.communicate(timeout=LIMIT_S)
    assert demo.returncode == (143 if number == signal.SIGTERM else 130)
    assert "Traceback" not in errors
    assert [pid for pid in children if Path(f"/proc/{pid}").exists()] == []
