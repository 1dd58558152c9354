"""The playbooks into trees of two hosts, with the real install script and wheels made by hand."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from test_install import BROKEN, CURRENT, runs, wheelhouse

from firmware_node.adapters.fleet.agent_settings import read_settings

PLAYBOOKS = Path(__file__).resolve().parents[2] / "scripts" / "ansible"
ANSIBLE = shutil.which("ansible-playbook")
LIMIT_S = 180
HOSTS = ("pi-1", "server-1")
CHECK = f"{sys.executable} -m firmware_node fleet agent --check"
needs_ansible = pytest.mark.skipif(
    ANSIBLE is None and not os.environ.get("CI"),
    reason="ansible-playbook is not here (Debian package ansible-core)",
)


class Site:
    """Two hosts that are trees on this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.roots = {name: folder / name for name in HOSTS}
        for root in self.roots.values():
            root.mkdir()
        (folder / "passwords").mkdir()
        for name in HOSTS:
            (folder / "passwords" / name).write_text(f"password of {name}\n")
        (folder / "ca.pem").write_text("an authority\n")
        self.wheels = wheelhouse(folder / "wheels-1", "1.0")

    def play(self, name: str, *arguments: str, code: int = 0) -> str:
        inventory = {
            "all": {
                "vars": {
                    "ansible_connection": "local",
                    "ansible_python_interpreter": "/usr/bin/python3",
                    "firmware_node_become": False,
                    "firmware_node_site": "lab",
                    "firmware_node_broker_url": "mqtts://broker.example:8883",
                    "firmware_node_ca_file": str(self.folder / "ca.pem"),
                    "firmware_node_password_folder": str(self.folder / "passwords"),
                    "firmware_node_wheelhouse": str(self.wheels),
                    "firmware_node_extras": [],
                    "firmware_node_serial": [1, "100%"],
                    # Of a tree the program does not run here; this one is the same.
                    "firmware_node_validate": f"{CHECK} %s",
                },
                "hosts": {
                    "pi-1": self._host("pi-1", ["units"]),
                    "server-1": self._host("server-1", ["homes"]) | {"firmware_node_workers": 8},
                },
            }
        }
        file = self.folder / "inventory.json"
        file.write_text(json.dumps(inventory))
        assert ANSIBLE is not None
        done = subprocess.run(
            [ANSIBLE, "-i", str(file), str(PLAYBOOKS / name), *arguments],
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
            cwd=self.folder,
            env=os.environ
            | {"LC_ALL": "C.UTF-8", "HOME": str(self.folder), "PYTHON": sys.executable}
            | {"ANSIBLE_NOCOLOR": "1", "ANSIBLE_NOCOWS": "1", "ANSIBLE_PIPELINING": "1"},
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    def _host(self, name: str, kinds: list[str]) -> dict[str, Any]:
        return {"firmware_node_root": str(self.roots[name]), "firmware_node_kinds": kinds}


def changed(output: str) -> dict[str, int]:
    """Of the recap: how many tasks changed something on each host."""
    return {name: int(n) for name, n in re.findall(r"(?m)^(\S+)\s+: ok=.*?changed=(\d+)", output)}


@needs_ansible
@pytest.mark.parametrize("name", ["install.yml", "update.yml", "remove.yml"])
def test_a_playbook_is_well_formed_with_the_inventory_of_the_example(name: str) -> None:
    assert ANSIBLE is not None
    inventory = str(PLAYBOOKS / "inventory.example.yml")
    done = subprocess.run(
        [ANSIBLE, "--syntax-check", "-i", inventory, str(PLAYBOOKS / name)],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        env=os.environ | {"LC_ALL": "C.UTF-8"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stderr


@needs_ansible
def test_hosts_are_installed_and_cleared_and_a_bad_release_stops_at_the_first(
    tmp_path: Path,
) -> None:
    site = Site(tmp_path)
    site.play("install.yml", "-e", "firmware_node_serial=2")
    for name, root in site.roots.items():
        assert runs(root) == "1.0"
        settings = root / "etc/firmware-node/agent/agent.toml"
        document = tomllib.loads(settings.read_text())
        agent = read_settings(document, settings.parent, host="x", credentials=Path("/run/c"))
        assert (agent.site, agent.host, agent.broker.user) == ("lab", name, name)
        assert agent.broker.password_file == Path("/run/c/secrets_password")
        secret = root / "etc/firmware-node/agent/secrets/password"
        assert secret.read_text() == f"password of {name}\n"
        assert secret.stat().st_mode & 0o777 == 0o600
        assert (root / "etc/systemd/system/firmware-node-agent.service").is_file()
        drop_in = root / "etc/systemd/system/firmware-node-agent.service.d/10-units.conf"
        assert drop_in.exists() == (name == "pi-1")

    site.wheels = wheelhouse(tmp_path / "wheels-2", "2.0", BROKEN)
    output = site.play("update.yml", code=2)
    assert "does not start" in output
    assert "server-1" not in output, "the roll-out went on after a host that failed"
    assert {runs(root) for root in site.roots.values()} == {"1.0"}

    site.play("remove.yml", "-e", "firmware_node_purge=true")
    for root in site.roots.values():
        assert not (root / CURRENT).exists()
        assert not (root / "etc/firmware-node").exists()


@needs_ansible
@pytest.mark.long
def test_the_same_again_changes_nothing_a_look_neither_and_an_update_all(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.play("install.yml")
    assert changed(site.play("install.yml")) == dict.fromkeys(HOSTS, 0)
    site.wheels = wheelhouse(tmp_path / "wheels-2", "2.0")
    assert all(changed(site.play("update.yml", "--check")).values())
    assert {runs(root) for root in site.roots.values()} == {"1.0"}
    site.play("update.yml")
    assert {runs(root) for root in site.roots.values()} == {"2.0"}
    site.play("remove.yml")
    for root in site.roots.values():
        assert not (root / CURRENT).exists()
        assert (root / "etc/firmware-node/agent/agent.toml").exists()
