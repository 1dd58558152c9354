"""What the doctor says of machines that are laid out for it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from firmware_node.cli import main
from firmware_node.tools.doctor import Machine, examine
from firmware_node.tools.finding import OK, PROBLEM, WARNING, Finding
from firmware_node.tools.keys import build_keys

NOW = datetime(2026, 6, 1, tzinfo=UTC)
GIB = 2**30
CONFIG = """\
[device]
type = "hcalcs"
entity_id = "00-DB-12-34-56-78-90-A5"
manufacturer_code = 0x121D
image_type = 0x84
hardware_version = 0x1111
[storage]
directory = "/var/lib/firmware-node/hcalcs"
[keys]
directory = "{root}/keys"
[radio]
air = "/run/air.sock"
[control]
socket = "/run/s"
[gpio.relays.main]
line = 17
"""
BOOT = "/boot/firmware"


class Site:
    """A machine of files; at first a Raspberry Pi where everything is in order."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.closed: set[str] = set()  # paths that the user may not open
        self.machine = Machine(
            root,
            now=lambda: NOW,
            user="lab",
            groups=("lab",),
            access=lambda path, _: "/" + str(path.relative_to(root)) not in self.closed,
            free_bytes=lambda _: 4 * GIB,
            has_module=lambda _: True,
        )
        for path, text in {
            "/sys/firmware/devicetree/base/model": "Raspberry Pi 3 Model B Rev 1.2\0",
            f"{BOOT}/config.txt": "[all]\nenable_uart=1 # for the radio\ndtoverlay=disable-bt\n",
            f"{BOOT}/cmdline.txt": "console=tty1 root=PARTUUID=1-02 rootwait\n",
            "/run/systemd/timesync/synchronized": "",
            "/run/air.sock": "",
            "/dev/gpiochip0": "",
            "/dev/ttyAMA0": "",
            "/dev/ttyUSB0": "",
            "/var/lib/keep": "",
        }.items():
            self.put(path, text)
        for name, data in build_keys(b"doctor", days=36500).items():
            self.put(f"/keys/{name}", data.decode())
        self.config = root / "hcalcs.toml"
        self.config.write_text(CONFIG.format(root=root))

    def put(self, path: str, text: str) -> None:
        file = self.root / path[1:]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def take(self, path: str) -> None:
        (self.root / path[1:]).unlink()

    def change(self, found: str, instead: str) -> None:
        text = self.config.read_text()
        assert found in text
        self.config.write_text(text.replace(found, instead))

    def findings(self, *ports: str) -> list[Finding]:
        return examine(self.machine, [] if ports else [self.config], ports)

    def bad(self, *ports: str) -> list[Finding]:
        """All but good news; OpenSSL is the test machine's own."""
        return [f for f in self.findings(*ports) if f.level != OK and f.check != "program"]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_where_everything_is_in_order_every_check_says_so(site: Site) -> None:
    assert site.bad() == []
    checks = {finding.check for finding in site.findings()}
    machine = {"program", "clock", "configuration", "keys", "radio", "storage", "gpio"}
    assert checks == machine | {"daemon"}
    assert site.bad("/dev/ttyAMA0") == []


Spoil = Callable[[Site], None]


def settings(name: str, text: str) -> Spoil:
    return lambda site: site.put(f"{BOOT}/{name}", text)


@pytest.mark.parametrize(
    ("spoil", "found", "remedy"),
    [
        (settings("config.txt", "enable_uart=1"), "Bluetooth has the UART", "dtoverlay=disable-bt"),
        (settings("config.txt", "dtoverlay=disable-bt"), "the UART is off", "add enable_uart=1"),
        (
            settings("config.txt", "#enable_uart=1\ndtoverlay=miniuart-bt"),
            "the UART is off",
            f"to {BOOT}/config.txt",
        ),
        (
            settings("cmdline.txt", "console=serial0,115200 console=tty1"),
            "the kernel's console has the UART",
            f"take console=serial0,115200 out of {BOOT}/cmdline.txt",
        ),
        (lambda site: site.take("/dev/ttyAMA0"), "/dev/ttyAMA0 is not there", "plug the stick in"),
        (
            lambda site: site.closed.add("/dev/ttyAMA0"),
            "/dev/ttyAMA0 is closed to lab",
            "usermod -aG",
        ),
    ],
)
def test_the_uart_of_the_header(site: Site, spoil: Spoil, found: str, remedy: str) -> None:
    spoil(site)
    (finding,) = site.bad("/dev/ttyAMA0")
    assert (finding.check, finding.level) == ("radio", PROBLEM)
    assert found in finding.found
    assert remedy in (finding.remedy or "")


def test_an_older_system_has_its_boot_files_elsewhere(site: Site) -> None:
    site.take(f"{BOOT}/config.txt")
    site.put("/boot/config.txt", "enable_uart=1\n")
    (finding,) = site.bad("/dev/ttyAMA0")
    assert "to /boot/config.txt" in (finding.remedy or "")


def test_a_raspberry_pi_5_switches_its_uart_otherwise_and_bluetooth_is_not_in_the_way(
    site: Site,
) -> None:
    site.put("/sys/firmware/devicetree/base/model", "Raspberry Pi 5 Model B Rev 1.0\0")
    site.put(f"{BOOT}/config.txt", "enable_uart=1\n")
    (finding,) = site.bad("/dev/ttyAMA0")
    assert "add dtparam=uart0=on" in (finding.remedy or "")
    site.put(f"{BOOT}/config.txt", "dtparam=uart0=on\n")
    assert site.bad("/dev/ttyAMA0") == []


def test_a_pc_has_no_bluetooth_on_its_uart(site: Site) -> None:
    site.put("/sys/firmware/devicetree/base/model", "")
    site.take(f"{BOOT}/config.txt")
    assert site.bad("/dev/ttyAMA0") == []


def test_a_stick_by_a_name_that_moves_is_told_its_lasting_one(site: Site) -> None:
    (finding,) = site.bad("/dev/ttyUSB0")
    assert (finding.level, finding.remedy) == (WARNING, "use its name in /dev/serial/by-id")
    folder = site.root / "dev/serial/by-id"
    folder.mkdir(parents=True)
    (folder / "usb-Lab_0001").symlink_to("../../ttyUSB0")
    (finding,) = site.bad("/dev/ttyUSB0")
    assert finding.remedy == '[radio] path = "/dev/serial/by-id/usb-Lab_0001"'
    assert site.bad("/dev/serial/by-id/usb-Lab_0001") == []
    (finding,) = site.bad("/dev/zigbee/gone")
    assert finding.found == (
        "/dev/zigbee/gone is not there; there is /dev/serial/by-id/usb-Lab_0001"
    )


def test_a_group_that_one_is_in_already_is_not_the_remedy(site: Site) -> None:
    group = (site.root / "dev/ttyUSB0").group()
    site.machine = replace(site.machine, groups=(group,))
    site.closed.add("/dev/ttyUSB0")
    (finding,) = site.bad("/dev/ttyUSB0")
    assert "its mode is -rw" in (finding.remedy or "")


@pytest.mark.parametrize(
    ("spoil", "check", "level", "found"),
    [
        (lambda s: s.change("line = 17", "lnie = 17"), "configuration", PROBLEM, "unknown key"),
        (lambda s: s.change("/keys", "/none"), "keys", PROBLEM, "No such file"),
        (
            lambda s: s.take("/keys/00db1234567890a5-ds.key"),
            "keys",
            PROBLEM,
            "no key 00db1234567890a5-ds",
        ),
        (lambda s: s.take("/run/air.sock"), "radio", WARNING, "no hub has made this air"),
        (lambda s: s.closed.add("/var/lib"), "storage", PROBLEM, "cannot be written by lab"),
        (lambda s: s.take("/dev/gpiochip0"), "gpio", PROBLEM, "no /dev/gpiochip*"),
        (lambda s: s.closed.add("/dev/gpiochip0"), "gpio", PROBLEM, "gpiochip0 is closed to lab"),
        (
            lambda s: s.take("/run/systemd/timesync/synchronized"),
            "clock",
            WARNING,
            "nothing says that it is synchronised",
        ),
    ],
)
def test_each_trap_is_one_finding_with_its_remedy(
    site: Site, spoil: Spoil, check: str, level: str, found: str
) -> None:
    spoil(site)
    (finding,) = site.bad()
    assert (finding.check, finding.level) == (check, level)
    assert found in finding.found
    assert finding.remedy


@pytest.mark.parametrize(
    ("change", "check", "level", "found"),
    [
        ({"free_bytes": lambda _: 17 * 2**20}, "storage", PROBLEM, "17 MiB free"),
        ({"free_bytes": lambda _: 40 * 2**20}, "storage", WARNING, "40 MiB free"),
        ({"has_module": lambda _: False}, "gpio", PROBLEM, "no library for gpiod or rpi-gpio"),
        ({"now": lambda: datetime(1970, 1, 1, tzinfo=UTC)}, "clock", PROBLEM, "never set"),
    ],
)
def test_a_full_card_a_missing_library_and_a_clock_that_was_never_set(
    site: Site, change: dict[str, object], check: str, level: str, found: str
) -> None:
    site.machine = replace(site.machine, **change)  # type: ignore[arg-type]
    finding = next(f for f in site.bad() if f.check == check)
    assert finding.level == level
    assert found in finding.found
    assert finding.remedy


def test_keys_past_their_dates_are_a_problem_where_dates_are_looked_at(site: Site) -> None:
    site.machine = replace(site.machine, now=lambda: datetime(2190, 1, 1, tzinfo=UTC))
    (finding,) = site.bad()
    assert (finding.check, finding.level) == ("keys", WARNING)
    site.change("[radio]", "check_validity = true\n[radio]")
    (finding,) = site.bad()
    assert (finding.check, finding.level) == ("keys", PROBLEM)


def test_a_device_without_lines_asks_for_no_gpio(site: Site) -> None:
    site.change("[gpio.relays.main]\nline = 17\n", "")
    site.take("/dev/gpiochip0")
    assert site.bad() == []


def test_the_command_prints_findings_and_says_no_where_one_is_a_problem(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = str(site.root / "dev/none")
    assert main(["doctor", "--port", absent]) == 1
    shown = capsys.readouterr().out
    assert f"problem  radio          {absent} is not there" in shown
    assert "-> plug the stick in, or correct [radio] path" in shown
    assert main(["doctor", "--port", absent, "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["result"] == "problems"
    assert {"check", "level", "found", "remedy"} == document["findings"][0].keys()
    assert main(["doctor", "--port", os.devnull, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["result"] == "ok"
