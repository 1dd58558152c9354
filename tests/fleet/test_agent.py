"""The agent as it is run: its file, its broker with TLS, passwords and the access list of ours."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from brokers import Mosquitto, needs_mosquitto
from test_hosts import SITE, Run, tree

from firmware_node.adapters.fleet.agent_settings import read_settings
from firmware_node.adapters.fleet.hosts import Hosts
from firmware_node.adapters.fleet.link import Broker
from firmware_node.adapters.fleet.site import change, look
from firmware_node.errors import ConfigError, EnvironmentFailure
from firmware_node.fleet.bus import Desired, Unit
from firmware_node.fleet.plan import read_plan

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "bus"
COMMAND = [sys.executable, "-m", "firmware_node"]
LIMIT_S = 60.0
SETTINGS = """
[agent]
site = "lab"
host = "pi-1"
state_directory = "state"
kinds = ["homes"]
[broker]
url = "mqtts://broker.example"
user = "pi-1"
password_file = "credential:secrets_password"
ca_file = "ca.pem"
"""


def settings(text: str, folder: Path = Path("/etc/fn"), **options: Any) -> Any:
    given: dict[str, Any] = {"host": "box", "credentials": Path("/run/c")} | options
    return read_settings(tomllib.loads(text), folder, **given)


def test_settings_are_read_with_paths_from_where_they_lie() -> None:
    found = settings(SETTINGS)
    assert (found.site, found.host, found.kinds) == ("lab", "pi-1", ("homes",))
    assert found.state_directory == Path("/etc/fn/state")
    assert found.broker.ca_file == Path("/etc/fn/ca.pem")
    assert found.broker.password_file == Path("/run/c/secrets_password")
    assert found.broker.address() == ("broker.example", 8883, True)
    assert settings(SETTINGS.replace('host = "pi-1"', "")).host == "box"


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('site = "lab"', "", "agent.site: missing key"),
        ('site = "lab"', 'site = "Lab/#"', "agent.site: found"),
        ('kinds = ["homes"]', 'kind = ["homes"]', "the nearest known key is kinds"),
        ('kinds = ["homes"]', "kinds = []", "at least one"),
        ("[broker]", "[brokers]", "brokers: unknown table"),
        ("mqtts://broker.example", "mqtt://broker.example", "through mqtts:// alone"),
        ("mqtts://broker.example", "http://broker.example", "expected mqtt://"),
        ("mqtts://broker.example", "mqtts://user:secret@broker.example", "expected mqtt://"),
        ("mqtts://broker.example", "mqtts://broker.example:99999", "broker.url"),
        ("credential:secrets_password", "credential:../x", "the name of a credential"),
        ('ca_file = "ca.pem"', 'key_file = "x"', "go together"),
    ],
)
def test_wrong_settings_are_one_line_that_says_where(old: str, new: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        settings(SETTINGS.replace(old, new))
    assert "\n" not in str(caught.value)
    assert "secret@" not in str(caught.value)


def test_the_example_is_a_file_of_settings() -> None:
    text = (EXAMPLES / "agent.toml").read_text(encoding="utf-8")
    found = settings(text)
    assert found.kinds == ("homes", "units")
    assert found.broker.address() == ("broker.example", 8883, True)


def test_a_credential_without_systemd_is_told_of() -> None:
    with pytest.raises(ConfigError, match="handed no credentials"):
        settings(SETTINGS, credentials=None)


def test_check_reads_the_settings_alone_and_a_wrong_one_is_exit_code_2(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(SETTINGS)
    for text, code in ((SETTINGS, 0), (SETTINGS.replace("lab", "a b"), 2)):
        file.write_text(text)
        done = subprocess.run(
            [*COMMAND, "fleet", "agent", "--check", str(file)], capture_output=True, check=False
        )
        assert done.returncode == code, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["agent.toml"]


def test_a_second_agent_of_a_host_and_a_directory_that_cannot_be_made_are_exit_code_3(
    tmp_path: Path,
) -> None:
    file = tmp_path / "agent.toml"
    text = SETTINGS.replace("mqtts://broker.example", "mqtt://127.0.0.1:1")
    text = "\n".join(line for line in text.splitlines() if "_file" not in line)
    file.write_text(text)
    first = subprocess.Popen([*COMMAND, "fleet", "agent", str(file)])
    try:
        end_s = time.monotonic() + LIMIT_S
        while not (tmp_path / "state" / "life").exists():
            assert time.monotonic() < end_s
            time.sleep(0.05)
        second = subprocess.run(
            [*COMMAND, "fleet", "agent", str(file)], capture_output=True, text=True, check=False
        )
        assert (second.returncode, second.stderr.count("\n")) == (3, 1)
        assert "another agent runs there" in second.stderr
    finally:
        first.terminate()
        assert first.wait(30) == 0
    file.write_text(text.replace('"state"', '"agent.toml/x"'))
    third = subprocess.run(
        [*COMMAND, "fleet", "agent", str(file)], capture_output=True, check=False
    )
    assert third.returncode == 3


# --- with a broker that lets nobody in ------------------------------------------------------------

needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="openssl is not here (Debian package openssl)"
)


class Guarded:
    """A broker with TLS, a password for each, and the access list of the examples."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        make = (
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 "
            "-keyout broker.key -out broker.pem -subj /CN=localhost "
            "-addext subjectAltName=DNS:localhost"
        )
        subprocess.run(make.split(), cwd=folder, check=True, capture_output=True)
        (folder / "passwords").touch(mode=0o600)
        for user in ("coordinator", "pi-1", "pi-2"):
            password = f"password-of-{user}"
            (folder / f"{user}.password").write_text(f"{password}\n")
            add = f"mosquitto_passwd -b passwords {user} {password}"
            subprocess.run(add.split(), cwd=folder, check=True, capture_output=True)
        self.mosquitto = Mosquitto(
            folder,
            "user root",
            f"cafile {folder}/broker.pem",
            f"certfile {folder}/broker.pem",
            f"keyfile {folder}/broker.key",
            f"password_file {folder}/passwords",
            f"acl_file {EXAMPLES}/mosquitto.acl",
            "allow_anonymous false",
        )

    def broker(self, user: str, password_of: str | None = None) -> Broker:
        return Broker(
            f"mqtts://localhost:{self.mosquitto.port}",
            user,
            self.folder / f"{password_of or user}.password",
            self.folder / "broker.pem",
        )


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Guarded]:
    broker = Guarded(tmp_path)
    yield broker
    broker.mosquitto.kill()


@needs_mosquitto
@needs_openssl
def test_an_agent_updates_its_homes_through_a_guarded_broker_and_ends_in_good_order(
    guarded: Guarded, tmp_path: Path
) -> None:
    (tmp_path / "agent.toml").write_text(
        SETTINGS.replace("mqtts://broker.example", guarded.broker("pi-1").url)
        .replace("credential:secrets_password", "pi-1.password")
        .replace("ca.pem", "broker.pem")
    )
    agent = subprocess.Popen([*COMMAND, "fleet", "agent", str(tmp_path / "agent.toml")])
    coordinator = guarded.broker("coordinator")
    document = tree(homes=2)
    plan = read_plan(document)
    try:
        end_s = time.monotonic() + LIMIT_S
        while not [host for host in look(coordinator, SITE) if host.is_online]:
            assert time.monotonic() < end_s
        with Hosts(
            plan, document, broker=coordinator, site=SITE, fleet="trial", speed=8.0
        ) as fleet:
            fleet.ready()
            run = Run(plan, fleet)
            run.until(lambda: run.campaign.is_over, LIMIT_S)
            assert [(wave.done, wave.failed) for wave in run.campaign.waves] == [(2, 0), (2, 0)]
            shown = fleet.show(0)
            assert shown["banks"][shown["running_bank"]]["version"] == "00000002"
            # A change for instances leaves the share as it is, and is told to be of no use here.
            units = (Unit("ppmid", True),)
            change(coordinator, SITE, "pi-1", lambda d: _with(d, units))
            (host,) = look(coordinator, SITE)
            assert [share.fleet for share in host.desired.shares] == ["trial"]
            assert host.desired.units == units
            while (report := look(coordinator, SITE)[0].reported).error == "":
                assert time.monotonic() < end_s
            assert report.error == "this host runs no instances"
        listed = subprocess.run(
            [*COMMAND, "fleet", "hosts", "--json", "--site", SITE, *_arguments(coordinator)],
            capture_output=True,
            check=True,
        )
        (entry,) = json.loads(listed.stdout)
        assert (entry["name"], entry["is_online"]) == ("pi-1", True)
    finally:
        agent.terminate()
        assert agent.wait(30) == 0
    (host,) = look(coordinator, SITE)
    assert not host.is_online


@needs_mosquitto
@needs_openssl
def test_a_host_may_not_speak_for_another_one(guarded: Guarded) -> None:
    coordinator = guarded.broker("coordinator")
    with pytest.raises(EnvironmentFailure, match="does not answer"):
        look(guarded.broker("pi-2", "pi-1"), SITE)  # a wrong password
    change(guarded.broker("pi-2"), SITE, "pi-1", lambda d: _with(d, (Unit("x"),)))
    assert look(coordinator, SITE) == []  # the broker let it fall
    change(coordinator, SITE, "pi-1", lambda d: _with(d, (Unit("x"),)))
    (host,) = look(coordinator, SITE)
    assert host.desired.units == (Unit("x"),)
    assert look(guarded.broker("pi-2"), SITE) == []


def _with(desired: Desired, units: tuple[Unit, ...]) -> Desired:
    return Desired(desired.generation, desired.shares, units)


def _arguments(broker: Broker) -> list[str]:
    return [
        *("--broker", broker.url, "--broker-user", str(broker.user)),
        *("--broker-password-file", str(broker.password_file), "--broker-ca", str(broker.ca_file)),
    ]
