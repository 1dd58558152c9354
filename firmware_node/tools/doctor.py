"""What is wrong with this machine for running a device or a hub, each finding with its remedy.

A check is a function from a ``Machine`` and a configuration to its findings; ``examine`` runs them
in the order in which an operator would put things right: program, clock, serial ports, and of each
configuration its keys, radio, storage, GPIO, and the daemon that runs it. Nothing is written,
opened for use, or claimed: a running daemon is asked for its status alone. ``Machine`` is all that
is looked at, so that tests can show another one.
"""

from __future__ import annotations

import importlib.util
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from firmware_node.config import DeviceConfig, HubConfig, read_config, read_key_folder
from firmware_node.crypto import Keyring, signs_deterministically
from firmware_node.errors import ConfigError, FirmwareNodeError
from firmware_node.terms import EntityId
from firmware_node.tools import running
from firmware_node.tools.finding import OK, PROBLEM, WARNING, Finding
from firmware_node.tools.keys import show

ROOM = 8 * 1024 * 1024  # bytes besides the banks: database, its log, ballast, spool
TIGHT = 64 * 1024 * 1024  # bytes; below it a log or an update of the system fills the card
BUILT_UTC = datetime(2025, 1, 1, tzinfo=UTC)  # a clock before this one was never set
ON_BOARD = ("ttyAMA0", "ttyS0", "serial0", "serial1")  # the UARTs on a Raspberry Pi's header
NO_BLUETOOTH = ("dtoverlay=disable-bt", "dtoverlay=miniuart-bt")
# Bluetooth has a UART of its own there, and the header's has a switch of its own.
WITH_RP1 = ("Raspberry Pi 5", "Raspberry Pi Compute Module 5")
GPIO_LIBRARIES = {"gpiod": "gpiod", "rpi-gpio": "RPi"}


@dataclass(frozen=True)
class Machine:
    """What the checks see: a file tree, a clock, a user, the free bytes below a path, daemons.

    ``ask`` gives the status behind a control socket, None where nobody listens; it raises
    PermissionError for a socket that is closed to us and TimeoutError for a silent daemon.
    """

    root: Path = Path("/")
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    user: str = "root"
    groups: Sequence[str] = ()
    access: Callable[[Path, int], bool] = os.access
    free_bytes: Callable[[Path], int] = lambda path: (
        os.statvfs(path).f_bavail * os.statvfs(path).f_frsize
    )
    has_module: Callable[[str], bool] = lambda name: importlib.util.find_spec(name) is not None
    ask: Callable[[Path], Mapping[str, Any] | None] = lambda path: None
    read_key_folder: Callable[[str], dict[str, bytes]] = field(default=read_key_folder)

    def at(self, path: str | Path) -> Path:
        """A path of the machine in our file system; ours may be relative."""
        return Path(path) if self.root == Path("/") else self.root / str(path).lstrip("/")

    def text(self, path: str) -> str:
        """A file's text; empty where it is not there."""
        try:
            return self.at(path).read_text(errors="replace")
        except OSError:
            return ""

    def boot(self, name: str) -> tuple[str, str]:
        """A file of the boot folder: its path and its text (Bookworm moved it)."""
        for path in (f"/boot/firmware/{name}", f"/boot/{name}"):
            if text := self.text(path):
                return path, text
        return f"/boot/firmware/{name}", ""

    @property
    def model(self) -> str:
        """As the device tree has it; a PC has none."""
        return self.text("/sys/firmware/devicetree/base/model")

    @property
    def is_raspberry_pi(self) -> bool:
        """Whether the device tree says so."""
        return self.model.startswith("Raspberry Pi")


def this_machine(ask: Callable[[Path], Mapping[str, Any] | None]) -> Machine:
    """The one that we run on, seen by the user who asks."""
    import grp
    import pwd

    groups = []
    for number in {*os.getgroups(), os.getegid()}:
        try:
            groups.append(grp.getgrgid(number).gr_name)
        except KeyError:
            continue  # a group without a name opens no device by its name
    try:
        user = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        user = str(os.geteuid())
    return Machine(user=user, groups=sorted(groups), ask=ask)


def examine(machine: Machine, files: Sequence[Path], ports: Sequence[str] = ()) -> list[Finding]:
    """Every finding: of the machine, of each configuration with what it names, of serial ports."""
    findings = [*_program(), *_clock(machine)]
    for port in ports:
        findings += serial(machine, port)
    for file in files:
        try:
            config = read_config(file)
        except ConfigError as error:
            remedy = "mend that line; 'firmware-node config schema' tells what a file may hold"
            findings.append(Finding("configuration", PROBLEM, str(error), remedy))
            continue
        findings.append(Finding("configuration", OK, f"{file} is in order"))
        findings += _keys(machine, config)
        findings += _radio(machine, config)
        if isinstance(config, DeviceConfig):
            findings += _storage(machine, config)
            findings += _gpio(machine, config)
        findings += _daemon(machine, config, file.stem)
    if not files and not ports:
        remedy = "write one (README, A first configuration), or name its file after 'doctor'"
        findings.append(Finding("configuration", WARNING, "no configuration to look at", remedy))
    return findings


# --- program and clock ----------------------------------------------------------------------------


def _program() -> Iterator[Finding]:
    if signs_deterministically():
        yield Finding("program", OK, "signatures are deterministic (RFC 6979)")
    else:
        yield Finding(
            "program",
            WARNING,
            "this OpenSSL has no deterministic ECDSA: signatures differ from run to run",
            "nothing breaks; for repeatable runs use the wheels of 'cryptography' (OpenSSL 3.2)",
        )


def _clock(machine: Machine) -> Iterator[Finding]:
    """A Raspberry Pi has no clock of its own: without the network it begins in the past."""
    now = machine.now()
    if now < BUILT_UTC:
        yield Finding(
            "clock",
            PROBLEM,
            f"it is {now:%Y-%m-%d}: the clock was never set",
            "connect to a network with NTP, fit an RTC, or set it: timedatectl set-time 'TIME'",
        )
    elif (
        machine.at("/run/systemd").is_dir()
        and not machine.at("/run/systemd/timesync/synchronized").exists()
        and not machine.at("/run/chrony").exists()
    ):
        yield Finding(
            "clock",
            WARNING,
            f"{now:%Y-%m-%dT%H:%M:%SZ}, and nothing says that it is synchronised",
            "timedatectl set-ntp true (a hub's counters follow its clock, and must not go back)",
        )
    else:
        yield Finding("clock", OK, f"{now:%Y-%m-%dT%H:%M:%SZ}")


# --- keys and storage -----------------------------------------------------------------------------


def _keys(machine: Machine, config: DeviceConfig | HubConfig) -> Iterator[Finding]:
    where = config.keys.directory
    if where.startswith("credential:") and "CREDENTIALS_DIRECTORY" not in os.environ:
        yield Finding("keys", OK, f"{where}: given by the service manager, not to be seen here")
        return
    own = config.device if isinstance(config, DeviceConfig) else config.hub
    try:
        keyring = Keyring(machine.read_key_folder(where), where)
        keyring.signing_key(EntityId.parse(own.entity_id))
        rows = show(keyring, machine.now())
    except FirmwareNodeError as error:
        remedy = f"firmware-node keys create {where} --device {own.entity_id}"
        yield Finding("keys", PROBLEM, str(error), f"{remedy}, or correct [keys] directory")
        return
    wrong = [f"{row.name}: {row.problems[0]}" for row in rows if row.problems]
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        level = PROBLEM if config.keys.check_validity else WARNING
        remedy = f"firmware-node keys show {where} tells all; keys create makes new ones"
        yield Finding("keys", level, f"{where}: {wrong[0]}{more}", remedy)
    else:
        yield Finding("keys", OK, f"{where}: what {own.entity_id} needs is there")


def _storage(machine: Machine, config: DeviceConfig) -> Iterator[Finding]:
    directory = machine.at(config.storage.directory)
    place = directory
    while not place.exists() and place != place.parent:
        place = place.parent
    if not machine.access(place, os.W_OK):
        yield Finding(
            "storage",
            PROBLEM,
            f"{place} cannot be written by {machine.user}",
            f"chown -R {machine.user} {place}, or run as the user that owns it; where the card "
            "turned read-only, see 'dmesg' and replace it",
        )
        return
    free = machine.free_bytes(place)
    needed = 0 if directory.exists() else 2 * config.storage.bank_size + ROOM
    remedy = "free some: journalctl --vacuum-size=100M, apt-get clean; or use a larger card"
    if free < needed + ROOM:
        found = f"{free // 2**20} MiB free at {place}, {(needed + ROOM) // 2**20} needed"
        yield Finding("storage", PROBLEM, found, remedy)
    elif free < TIGHT:
        yield Finding("storage", WARNING, f"{free // 2**20} MiB free at {place}: tight", remedy)
    else:
        yield Finding("storage", OK, f"{free // 2**20} MiB free at {place}")


# --- radio ----------------------------------------------------------------------------------------


def _radio(machine: Machine, config: DeviceConfig | HubConfig) -> Iterator[Finding]:
    path = config.radio.path
    if config.radio.type == "virtual" or path is None:
        if isinstance(config, DeviceConfig) and not machine.at(config.radio.air).exists():
            yield Finding(
                "radio",
                WARNING,
                f"{config.radio.air}: no hub has made this air",
                "start a hub with the same [radio] air; the device waits for it meanwhile",
            )
        else:
            yield Finding("radio", OK, f"virtual: {config.radio.air}")
        return
    if path.startswith("socket://"):
        yield Finding("radio", OK, f"{path}: on another machine, not looked at")
        return
    yield from serial(machine, path)


def serial(machine: Machine, path: str) -> Iterator[Finding]:
    """A serial radio's port: whether it is there, ours, free, and named so that it stays."""
    port = machine.at(path)
    if Path(path).name in ON_BOARD and machine.is_raspberry_pi:
        yield from _on_board(machine, path)
    if not port.exists():
        names = _lasting_names(machine)
        found = f"{path} is not there" + (f"; there is {', '.join(names)}" if names else "")
        yield Finding("radio", PROBLEM, found, "plug the stick in, or correct [radio] path")
        return
    if not machine.access(port.resolve(), os.R_OK | os.W_OK):
        yield Finding("radio", PROBLEM, f"{path} is closed to {machine.user}", _join(machine, port))
        return
    name = Path(path).name
    if name.startswith(("ttyUSB", "ttyACM")):
        names = [x for x in _lasting_names(machine) if machine.at(x).resolve().name == name]
        remedy = f'[radio] path = "{names[0]}"' if names else "use its name in /dev/serial/by-id"
        found = f"{path} is another stick after the next start, if two are plugged in"
        yield Finding("radio", WARNING, found, remedy)
    else:
        yield Finding("radio", OK, f"{path} is there")


def _on_board(machine: Machine, path: str) -> Iterator[Finding]:
    """The UART of the header: by default it belongs to Bluetooth, the console, or nobody."""
    file, settings = machine.boot("config.txt")
    lines = [line.split("#")[0].strip() for line in settings.splitlines()]
    restart = "and start the machine again"
    has_rp1 = machine.model.startswith(WITH_RP1)
    switch = "dtparam=uart0=on" if has_rp1 else "enable_uart=1"
    if switch not in lines:
        yield Finding(
            "radio", PROBLEM, f"{path}: the UART is off", f"add {switch} to {file} {restart}"
        )
    if not has_rp1 and not any(line.startswith(NO_BLUETOOTH) for line in lines):
        yield Finding(
            "radio",
            PROBLEM,
            f"{path}: Bluetooth has the UART",
            f"add dtoverlay=disable-bt to {file}, systemctl disable hciuart, {restart}",
        )
    file, line = machine.boot("cmdline.txt")
    consoles = [
        word
        for word in line.split()
        if word.startswith("console=") and word[8:].split(",")[0] in ON_BOARD
    ]
    if consoles:
        remedy = f"take {consoles[0]} out of {file} {restart}"
        yield Finding("radio", PROBLEM, f"{path}: the kernel's console has the UART", remedy)


def _lasting_names(machine: Machine) -> list[str]:
    """Names of serial ports that stay; a stick's own before a socket's."""
    folders = ("/dev/zigbee", "/dev/serial/by-id")
    found = [(folder, entry) for folder in folders for entry in machine.at(folder).glob("*")]
    return [f"{folder}/{entry.name}" for folder, entry in sorted(found)]


def _join(machine: Machine, port: Path) -> str:
    """How a user comes by a device file that belongs to a group."""
    group = _group_of(port)
    if group in machine.groups:
        mode = stat.filemode(port.stat().st_mode)
        return f"its mode is {mode}: give the group read and write (udevadm trigger after install)"
    return f"usermod -aG {group} {machine.user}, then log in again; the service has it by itself"


def _group_of(port: Path) -> str:
    try:
        return port.group()
    except (KeyError, OSError):
        return "dialout"


# --- GPIO -----------------------------------------------------------------------------------------


def _gpio(machine: Machine, config: DeviceConfig) -> Iterator[Finding]:
    section = config.gpio
    if not section.lines or section.backend in ("memory", "none"):
        return
    wanted = ["gpiod", "rpi-gpio"] if section.backend == "auto" else [section.backend]
    if not any(machine.has_module(GPIO_LIBRARIES[name]) for name in wanted):
        yield Finding(
            "gpio",
            PROBLEM,
            f"no library for {' or '.join(wanted)}",
            f"install.sh --extras {wanted[0].replace('gpiod', 'gpio')}, or pip install {wanted[0]}",
        )
    chips = sorted(machine.at("/dev").glob("gpiochip*"))
    if not chips:
        remedy = 'this machine has no pins to drive: [gpio] backend = "memory"'
        yield Finding("gpio", PROBLEM, "no /dev/gpiochip*", remedy)
    elif not any(machine.access(chip, os.R_OK | os.W_OK) for chip in chips):
        found = f"{chips[0].name} is closed to {machine.user}"
        yield Finding("gpio", PROBLEM, found, _join(machine, chips[0]))
    else:
        numbers = ", ".join(str(line.line) for line in section.lines.values())
        yield Finding("gpio", OK, f"lines {numbers}, {len(chips)} chips")


# --- the daemon -----------------------------------------------------------------------------------


def _daemon(machine: Machine, config: DeviceConfig | HubConfig, name: str) -> Iterator[Finding]:
    socket = config.control.socket if isinstance(config, DeviceConfig) else config.dcc.socket
    try:
        status = machine.ask(Path(socket))
    except PermissionError:
        found, remedy = f"{socket} is closed to {machine.user}", "ask as root, or as its user"
        yield Finding("daemon", WARNING, found, remedy)
    except TimeoutError:
        yield Finding(
            "daemon",
            PROBLEM,
            f"whoever listens at {socket} does not answer",
            f"a radio that is silent holds a start up; else systemctl restart firmware-node@{name}",
        )
    else:
        if status is None:
            yield Finding("daemon", OK, f"nobody runs it (systemctl start firmware-node@{name})")
            return
        yield from running.findings(status, machine.now(), on_a_pi=machine.is_raspberry_pi)
