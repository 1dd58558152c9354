"""How the daemons start, stop and fail, as processes; the main job is in ``test_processes``."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
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
    (folder / "state").mkdir(mode=0o755)  # as an operator may have made it
    with Running(folder, verb, name) as daemon:
        if verb == "run":
            assert {path.stat().st_mode & 0o777 for path in (folder / "state").iterdir()} == {0o600}
            assert (folder / "state").stat().st_mode & 0o777 == 0o700
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
    lines = "[gpio.indicators.joined]\nline = 17\nsafe = true\n"
    config.write_text(config.read_text() + '[gpio]\nbackend = "memory"\n' + lines)
    with Running(folder, "run", "ppmid"):
        status = json.loads(node("status", "--json", "--socket", f"{folder}/control.sock").stdout)
    assert status["gpio"]["backend"] == "memory"
    assert status["gpio"]["lines"]["joined"] == {"line": 17, "on": False, "consumer": None}


def test_a_daemon_without_its_gpio_chip_is_an_error_of_the_environment(folder: Path) -> None:
    config = folder / "ppmid.toml"
    lines = "[gpio.indicators.joined]\nline = 17\n"
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


def test_a_command_at_the_wrong_daemon_is_told_so(folder: Path) -> None:
    request = folder / "request.xml"
    request.write_text("<x/>")
    hub, device = f"{folder}/hub.sock", f"{folder}/control.sock"
    with Running(folder, "hub", "hub"), Running(folder, "run", "ppmid"):
        for arguments in (
            ("banks", "--socket", hub),
            ("query", "--socket", hub),
            ("reboot", "--socket", hub),
            ("dcc", "send", str(request), "--hub", device),
            ("hub", "clock", "set", "2030-01-01T00:00:00Z", "--hub", device),
        ):
            assert "is it another daemon's socket?" in one_line(node(*arguments), 3)
        assert "no daemon answers" in one_line(node("status", "--socket", f"{folder}/air.sock"), 3)
        told = node("status", "--socket", hub)
        assert (told.returncode, told.stderr) == (0, "")
        assert "entity_id: 00-DB-12-34-56-78-90-A2" in told.stdout


def changed(folder: Path, name: str, found: str, instead: str) -> str:
    """A configuration beside another, with one thing different."""
    file = folder / "changed.toml"
    text = (folder / f"{name}.toml").read_text()
    assert found in text
    file.write_text(text.replace(found, instead, 1))
    return str(file)


def one_line(done: subprocess.CompletedProcess[str], code: int) -> str:
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1), done.stderr
    return done.stderr


def fingerprint(directory: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """Everything that could have been touched in a directory."""
    return {
        path.name: (stat.st_mode, stat.st_mtime_ns, stat.st_ino, path.read_bytes())
        for path in sorted(directory.iterdir())
        if (stat := path.stat())
    }


@pytest.mark.parametrize("found", ["air.sock", "hub.sock"])
def test_a_second_hub_on_one_socket_is_exit_code_3_and_leaves_no_other(
    folder: Path, found: str
) -> None:
    with Running(folder, "hub", "hub"):
        before = sorted(folder.iterdir())
        second = node("hub", changed(folder, "hub", found, "second.sock"))
        assert "another process listens there" in one_line(second, 3)
        assert sorted(folder.iterdir()) == sorted([*before, folder / "changed.toml"])


def test_a_second_daemon_on_one_state_directory_touches_nothing(folder: Path) -> None:
    with Running(folder, "run", "ppmid") as first:
        before = fingerprint(folder / "state")
        second = node("run", changed(folder, "ppmid", "control.sock", "second.sock"))
        assert f"{folder}/state is in use by another process" in one_line(second, 3)
        assert fingerprint(folder / "state") == before
        assert not (folder / "second.sock").exists()
        assert node("status", "--socket", f"{folder}/control.sock").returncode == 0
        assert first.stop(signal.SIGTERM) == 0


def test_a_daemon_whose_control_socket_is_taken_does_not_count_as_a_start(folder: Path) -> None:
    with Running(folder, "run", "ppmid") as first:
        other = changed(folder, "ppmid", "/state", "/other")
        assert "another process listens there" in one_line(node("run", other), 3)
        assert first.stop(signal.SIGTERM) == 0
    with sqlite3.connect(folder / "other" / "node.db") as database:
        assert database.execute("SELECT count(*) FROM record").fetchone() == (0,)
    database.close()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--manufacturer-code", "0x9999"), "manufacturer code 9999, this device is 121d"),
        (("--hardware-min", "2", "--hardware-max", "3"), "made for hardware 0002 to 0003"),
        (("--size", "2000000"), "found 2000060 bytes, expected at most storage.bank_size 1048576"),
    ],
)
def test_a_factory_image_that_cannot_run_is_exit_code_2_and_nothing_is_made(
    folder: Path, arguments: tuple[str, ...], says: str
) -> None:
    image = f"{folder}/factory.ota"
    build = ("image", "build", "--file-version", "2", "-o", image, *arguments)
    assert node(*build).returncode == 0
    config = changed(folder, "ppmid", "[storage]", f'factory_image = "{image}"\n[storage]')
    line = one_line(node("run", config), 2)
    assert image in line
    assert says in line
    assert not (folder / "state").exists()


def test_a_device_that_takes_signed_images_alone_has_no_unsigned_factory_image(
    folder: Path,
) -> None:
    (folder / "keys" / "manufacturer-121d-ds.key").unlink()
    wanted = 'manufacturer_signature = "require"\n[storage]'
    line = one_line(node("run", changed(folder, "ppmid", "[storage]", wanted)), 2)
    assert "device.factory_image (built in): an unsigned manufacturer image" in line


@pytest.mark.parametrize("name", ["node.db", "bank_a.img", "ratchet.bin", "LOCK"])
@pytest.mark.parametrize("how", ["mode", "link", "folder"])
def test_a_state_file_that_is_not_ours_alone_is_exit_code_3(
    folder: Path, name: str, how: str
) -> None:
    with Running(folder, "run", "ppmid") as daemon:
        assert daemon.stop(signal.SIGTERM) == 0
    file = folder / "state" / name
    match how:
        case "mode":
            file.chmod(0o644)
        case "link":
            os.link(file, folder / "second-name")
        case "folder":
            file.unlink()
            file.mkdir()
    before = {path: path.stat().st_mtime_ns for path in (folder / "state").iterdir()}
    assert str(file) in one_line(node("run", f"{folder}/ppmid.toml"), 3)
    assert {path: path.stat().st_mtime_ns for path in (folder / "state").iterdir()} == before


@pytest.mark.parametrize("arguments", [("events", "--follow"), ("events", "--follow", "--json")])
def test_following_events_ends_with_ctrl_c_and_leaves_the_daemon_as_it_was(
    folder: Path, arguments: tuple[str, ...]
) -> None:
    socket_option = ("--socket", f"{folder}/control.sock")
    with Running(folder, "run", "ppmid") as daemon:
        following = subprocess.Popen(
            [*NODE, *arguments, *socket_option],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert following.stdout is not None
        assert "provisioned" in following.stdout.readline()
        following.send_signal(signal.SIGINT)
        _, errors = following.communicate(timeout=LIMIT_S)
        assert (following.returncode, errors) == (130, "")
        assert node("status", *socket_option).returncode == 0
        assert daemon.stop(signal.SIGTERM) == 0


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


def test_following_events_goes_on_after_a_restart_and_ends_with_the_daemon(folder: Path) -> None:
    socket_option = ("--socket", f"{folder}/control.sock")
    with Running(folder, "run", "ppmid") as daemon:
        following = subprocess.Popen(
            [*NODE, "events", "--follow", "--json", *socket_option],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert following.stdout is not None
        names = [json.loads(following.stdout.readline())["name"]]
        assert node("reboot", *socket_option).returncode == 0
        while names.count("image_running") < 2:
            names.append(json.loads(following.stdout.readline())["name"])
        assert names.index("restarting") > names.index("image_running")
        assert daemon.stop(signal.SIGTERM) == 0
        _, errors = following.communicate(timeout=LIMIT_S)
        assert (following.returncode, errors.count("\n")) == (3, 1)


def test_waiting_for_a_request_ends_with_ctrl_c_and_the_hub_serves_on(folder: Path) -> None:
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
        send.send_signal(signal.SIGINT)
        _, errors = send.communicate(timeout=LIMIT_S)
        assert (send.returncode, errors) == (130, "")
        accepted = node("dcc", "send", request, "--hub", f"{folder}/hub.sock", "--json")
        assert json.loads(accepted.stdout)["result"] == "accepted"
        assert hub.stop(signal.SIGTERM) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_demo_that_is_ended_takes_its_processes_with_it(tmp_path: Path, number: int) -> None:
    kept = tmp_path / "kept"
    demo = subprocess.Popen(
        [*NODE, "demo", "--device", "ppmid", "--size", "5000000", "--keep", str(kept)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    )
    assert demo.stdout is not None
    while "SR 11.4" not in demo.stdout.readline():
        assert demo.poll() is None
    children = Path(f"/proc/{demo.pid}/task/{demo.pid}/children").read_text().split()
    assert len(children) >= 2
    for _ in range(2):  # who is impatient presses twice
        demo.send_signal(number)
    _, errors = demo.communicate(timeout=LIMIT_S)
    assert demo.returncode == (130 if number == signal.SIGINT else 128 + number)
    assert "Traceback" not in errors
    assert [pid for pid in children if Path(f"/proc/{pid}").exists()] == []
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
