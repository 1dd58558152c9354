"""Which serial ports there are, what may be plugged in there, and what keeps it from use.

pyserial lists the ports. What a port holds is a guess by its USB ids alone: a bridge chip says
nothing of the radio behind it, so ``radio probe`` asks the stick itself. Holders are found among
the open files of the processes that the user may look at; for the others the answer is that it
cannot be told.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from firmware_node.errors import ConfigError, EnvironmentFailure

INSTALL = "pip install 'firmware-node[radio]'"


class _Guess(NamedTuple):
    usb_id: str
    text: str
    product: str = ""  # a regular expression that the product's name must match


# First match wins: a product's own name before its bridge chip alone.
GUESSES = (
    _Guess("10C4:EA60", "Sonoff ZBDongle-P (CC2652P)", r"(?i)sonoff.*dongle plus$"),
    _Guess("10C4:EA60", "Sonoff ZBDongle-E (EFR32): no ZNP stick", r"(?i)sonoff.*dongle plus v2"),
    _Guess("10C4:EA60", "a CC2652 stick (slae.sh)", r"(?i)slae\.sh"),
    _Guess("10C4:EA60", "a CC2652 stick behind a CP210x, as many are"),
    _Guess("1A86:7523", "a CC2652 stick behind a CH340, or any other board with one"),
    _Guess("1A86:55D4", "Sonoff ZBDongle-E (EFR32), no ZNP stick; or another CH9102 board"),
    _Guess("0451:BEF3", "TI LaunchPad (XDS110): the first of its two ports is the radio's"),
    _Guess("0451:16A8", "CC2531 USB stick"),
    _Guess("0403:6015", "a CC2652 stick behind an FTDI bridge, or a ConBee, which is no ZNP stick"),
    _Guess("0403:6001", "a CC253x or CC2652 stick behind an FTDI bridge"),
    _Guess("067B:2303", "a CC253x stick behind a PL2303"),
    _Guess("1CF1:0030", "ConBee II: no ZNP stick"),
)


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that has the port open."""

    pid: int
    name: str

    def __str__(self) -> str:
        return f"{self.name} (process {self.pid})"


@dataclass(frozen=True, slots=True)
class SerialPort:
    """A serial port of this machine.

    Attributes:
        device: its path; changes with the order of plugging.
        by_id: the path that stays, for configurations; None: it has none.
        usb_id: ``VVVV:PPPP``, vendor and product; None: no USB device.
        guess: what its ids look like; None: nothing known.
        holders: who has it open, of those that can be seen.
        holders_known: every process could be looked at.
        trouble: why it cannot be opened; None: it can, as far as its permissions go.
    """

    device: str
    by_id: str | None
    description: str
    usb_id: str | None
    guess: str | None
    holders: tuple[Holder, ...]
    holders_known: bool
    trouble: str | None

    def document(self) -> dict[str, Any]:
        """As ``radio list --json`` gives it."""
        return {
            "device": self.device,
            "by_id": self.by_id,
            "description": self.description,
            "usb_id": self.usb_id,
            "guess": self.guess,
            "held_by": [{"pid": one.pid, "name": one.name} for one in self.holders],
            "holders_known": self.holders_known,
            "trouble": self.trouble,
        }


@dataclass(frozen=True, slots=True)
class Machine:
    """Where to look; tests look elsewhere."""

    by_id: Path = Path("/dev/serial/by-id")
    proc: Path = Path("/proc")
    may_open: Callable[[str, int], bool] = os.access


THIS_MACHINE = Machine()


def system_ports() -> Sequence[Any]:
    """What pyserial finds.

    Raises:
        EnvironmentFailure: pyserial is not installed.
    """
    try:
        from serial.tools.list_ports import comports
    except ImportError as error:
        raise EnvironmentFailure(f"radio list needs pyserial: {INSTALL}") from error
    return list(comports())


def describe_ports(found: Iterable[Any], machine: Machine = THIS_MACHINE) -> list[SerialPort]:
    """The ports that pyserial found, sorted by device."""
    links = _links(machine.by_id)
    ports = []
    for one in sorted(found, key=lambda info: str(info.device)):
        usb_id = None if one.vid is None else f"{one.vid:04X}:{one.pid:04X}"
        holders, known = holders_of(one.device, machine)
        names = (getattr(one, name, None) for name in ("manufacturer", "product"))
        text = " ".join(name for name in names if name)
        plain = "" if one.description in (None, "n/a") else str(one.description)
        ports.append(
            SerialPort(
                device=one.device,
                by_id=links.get(os.path.realpath(one.device)),
                description=text or plain,
                usb_id=usb_id,
                guess=guess_of(usb_id, getattr(one, "product", None) or ""),
                holders=holders,
                holders_known=known,
                trouble=trouble_of(one.device, machine),
            )
        )
    return ports


def guess_of(usb_id: str | None, product: str) -> str | None:
    """What a port's USB ids and product name look like; None: like nothing known."""
    for guess in GUESSES:
        if guess.usb_id == usb_id and re.search(guess.product, product):
            return guess.text
    return None


def trouble_of(device: str, machine: Machine = THIS_MACHINE) -> str | None:
    """Why a device file cannot be opened, with the remedy; None: nothing is in the way."""
    try:
        status = os.stat(device)
    except OSError as error:
        return f"{error.strerror}"
    if not stat.S_ISCHR(status.st_mode):
        return "it is no serial port"
    if machine.may_open(device, os.R_OK | os.W_OK):
        return None
    group = _group(status.st_gid)
    if status.st_mode & 0o060 == 0o060 and status.st_gid:
        return f"you may not open it: sudo usermod -aG {group} $USER, then log in again"
    return f"you may not open it: mode {stat.filemode(status.st_mode)}, group {group}"


def holders_of(device: str, machine: Machine = THIS_MACHINE) -> tuple[tuple[Holder, ...], bool]:
    """Who else has a device open; and whether every process could be looked at.

    Whoever holds the other end of a pseudo-terminal, as a virtual stick does, is no holder.
    """
    target = os.path.realpath(device)
    holders, known = [], True
    for folder in sorted(machine.proc.glob("[0-9]*"), key=lambda path: int(path.name)):
        if int(folder.name) == os.getpid():
            continue
        try:
            opened = {fd.name: os.readlink(fd) for fd in (folder / "fd").iterdir()}
        except PermissionError:
            known = False
            continue
        except OSError:
            continue  # it ended meanwhile, or closed a file
        if target in opened.values() and not _is_other_end(folder, opened, target):
            holders.append(Holder(int(folder.name), _text(folder / "comm").strip() or "?"))
    return tuple(holders), known


def _is_other_end(folder: Path, opened: dict[str, str], target: str) -> bool:
    number = re.fullmatch(r"/dev/pts/(\d+)", target)
    if number is None:
        return False
    masters = [fd for fd, path in opened.items() if path.endswith("/ptmx")]
    line = re.compile(rf"^tty-index:\s*{number[1]}$", re.MULTILINE)
    return any(line.search(_text(folder / "fdinfo" / fd)) for fd in masters)


def check_port(port: str, machine: Machine = THIS_MACHINE) -> None:
    """Refuse a port that cannot be opened, or that somebody works with, before anything is sent.

    A path, or ``socket://HOST:PORT``.

    Raises:
        ConfigError: neither of them.
        EnvironmentFailure: it is not there, it is closed to this user, or another process has it.
    """
    scheme, separator, rest = port.partition("://")
    if separator:
        host, _, number = rest.rpartition(":")
        if scheme != "socket" or not host or not number.isdigit() or int(number) > 0xFFFF:
            raise ConfigError(f"port {port!r}: expected a path or socket://HOST:PORT")
        return
    if not port:
        raise ConfigError("port '': expected a path or socket://HOST:PORT")
    trouble = trouble_of(port, machine)
    if trouble is not None:
        raise EnvironmentFailure(f"{port}: {trouble}")
    holders, _ = holders_of(port, machine)
    if holders:
        raise EnvironmentFailure(f"{port}: in use by {', '.join(map(str, holders))}")


def _links(folder: Path) -> dict[str, str]:
    """From real device to the link that stays."""
    try:
        links = sorted(folder.iterdir())
    except OSError:
        return {}
    return {os.path.realpath(link): str(link) for link in reversed(links)}


def _group(number: int) -> str:
    import grp

    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
