"""Real instances of a host, ``firmware-node@NAME``: made to be as they shall be, and looked at.

    an instance is named            its configuration is laid, if one was given; it is enabled and
                                    started, or disabled and stopped; restarted if it changed;
                                    one that does not start is tried again, ever more seldom
    it is named no more             it is disabled and stopped, if it was the bus that named it;
                                    its configuration and state stay
    it is looked at                 systemd's word, and its own account over its control socket;
                                    told of by availability and state of its entity id
    a command comes                 once for each id, also across a restart of the agent: it is
                                    noted as begun before it is carried out

Instances that nobody named on the bus are somebody else's and are left alone. Keys never come this
way (``bus.refuse_keys``): they are in ``/etc/firmware-node/keys`` already, or systemd says why an
instance does not start.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import random
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from firmware_node.adapters.control_client import call
from firmware_node.adapters.fleet.link import Incoming, Link
from firmware_node.errors import DecodeError, EnvironmentFailure, FirmwareNodeError
from firmware_node.fleet import bus
from firmware_node.fleet.bus import Command, Outcome, Unit, UnitReport
from firmware_node.fleet.streams import Backoff, Remembered
from firmware_node.terms import EntityId

CONFIGURATION: Final = Path("/etc/firmware-node")
SOCKETS: Final = Path("/run/firmware-node")
LOOK_S: Final = 5.0
SYSTEMCTL_S: Final = 120  # an instance has 90 s to be ready
CONTROL_S: Final = 10.0
_TARGETS: Final = {"query": "/v1/query", "reboot": "/v1/reboot"}
_log = logging.getLogger(__name__)


class ServiceManager(Protocol):
    """What starts and stops instances. Every call may take long, and is made in a thread."""

    def do(self, verb: str, name: str) -> None:
        """``enable disable start stop restart`` an instance.

        Raises:
            EnvironmentFailure: it cannot be; one line.
        """

    def state(self, name: str) -> tuple[bool, str]:
        """Whether it is enabled, and systemd's word for how it is: ``active failed …``."""


class Systemctl:
    """systemd's, by its command."""

    def do(self, verb: str, name: str) -> None:
        """See ``ServiceManager``."""
        done = self._run(verb, "--quiet", f"firmware-node@{name}.service")
        if done.returncode:
            text = " ".join((done.stdout + done.stderr).split())[:300]
            raise EnvironmentFailure(f"{name}: systemctl {verb}: {text or done.returncode}")

    def state(self, name: str) -> tuple[bool, str]:
        """See ``ServiceManager``."""
        unit = f"firmware-node@{name}.service"
        shown = self._run("show", "--property=ActiveState,UnitFileState", unit).stdout
        values = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
        return values.get("UnitFileState") == "enabled", values.get("ActiveState", "unknown")

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                ["systemctl", *arguments],
                capture_output=True,
                text=True,
                timeout=SYSTEMCTL_S,
                check=False,
                # It would notify systemd in our name, which only the agent itself may.
                env={k: v for k, v in os.environ.items() if k != "NOTIFY_SOCKET"},
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise EnvironmentFailure(f"systemctl {arguments[0]}: {error}") from error


@dataclass(slots=True)
class _Failed:
    """``error`` of the last try; none before ``due_s``."""

    backoff: Backoff
    due_s: float = 0.0
    error: str = ""


class UnitKeeper:
    """See the module."""

    def __init__(
        self,
        site: str,
        state_directory: Path,
        manager: ServiceManager,
        *,
        configuration: Path = CONFIGURATION,
        sockets: Path = SOCKETS,
        draw: Callable[[], float] = random.random,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._site = site
        self._named_file = state_directory / "units.json"
        self._commands_file = state_directory / "commands.json"
        self._manager = manager
        self._configuration = configuration
        self._sockets = sockets
        self._wanted: tuple[Unit, ...] | None = None  # None: nobody said yet
        self._reports: dict[str, UnitReport] = {}
        self._draw = draw
        self._clock_s = clock_s
        self._failed: dict[str, _Failed] = {}  # instances that did not start
        self._said: dict[str, bytes] = {}
        self._idle = False
        self._work: asyncio.Queue[tuple[str, Incoming] | None] = asyncio.Queue(100)

    def want(self, units: tuple[Unit, ...]) -> None:
        """All the instances that the bus names."""
        self._wanted = units
        self._nudge(None)

    def take_command(self, entity_id: str, message: Incoming) -> None:
        """For one of our instances; others are on other hosts."""
        if any(report.entity_id == _shown(entity_id) for report in self._reports.values()):
            self._nudge((entity_id, message))

    def reports(self) -> tuple[UnitReport, ...]:
        """How they are."""
        return tuple(self._reports.values())

    def say_again(self) -> None:
        """The broker may have forgotten everything."""
        self._said.clear()
        self._nudge(None)

    @property
    def is_idle(self) -> bool:
        """Whether all that was asked for is done."""
        return self._idle and self._work.empty()

    async def run(self, link: Link, news: asyncio.Event) -> None:
        """Keep them so, until cancelled; ``news`` is set when a report changed."""
        commands = Remembered(await asyncio.to_thread(self._load_commands))
        named: dict[str, str] = await asyncio.to_thread(_load, self._named_file, {})
        while True:
            work: tuple[str, Incoming] | None = None
            self._idle = True
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    work = await self._work.get()
            self._idle = False
            if work is not None:
                await self._obey(*work, commands, link)
            elif self._wanted is not None:
                before = self.reports()
                await self._reconcile(self._wanted, named, link)
                await self._tell(link)
                if self.reports() != before:
                    news.set()

    def _nudge(self, work: tuple[str, Incoming] | None) -> None:
        try:
            self._work.put_nowait(work)
        except asyncio.QueueFull:
            _log.warning("too many commands at once; the last one is dropped")

    # --- how they shall be ------------------------------------------------------------------------

    async def _reconcile(self, wanted: Sequence[Unit], named: dict[str, str], link: Link) -> None:
        """``named`` are the instances that the bus ever named, with their entity ids."""
        before = dict(named)
        names = {unit.name for unit in wanted}
        for name in names - named.keys():
            named[name] = ""
        if named != before:
            await asyncio.to_thread(_save, self._named_file, named)
        for unit in wanted:
            report = await asyncio.to_thread(self._make_so, unit, named[unit.name])
            self._reports[unit.name] = report
            named[unit.name] = report.entity_id
        for name in sorted(named.keys() - names):
            unit = Unit(name, enabled=False)
            report = await asyncio.to_thread(self._make_so, unit, named[name])
            self._reports.pop(name, None)
            if report.entity_id:
                await self._publish(link, report.entity_id, "availability", bus.OFFLINE)
            if not report.error:
                del named[name]
        if named != before:
            await asyncio.to_thread(_save, self._named_file, named)

    def _make_so(self, unit: Unit, entity_id: str) -> UnitReport:
        error = ""
        try:
            is_new = self._lay(unit)
            is_enabled, state = self._manager.state(unit.name)
            is_on = state in ("active", "activating", "reloading")
            if is_enabled != unit.enabled:
                self._manager.do("enable" if unit.enabled else "disable", unit.name)
            if is_on or is_new:
                self._failed.pop(unit.name, None)
            if unit.enabled and not is_on:
                self._start(unit.name)
            elif unit.enabled and is_new:
                self._manager.do("restart", unit.name)
            elif not unit.enabled and is_on:
                self._manager.do("stop", unit.name)
            is_enabled, state = self._manager.state(unit.name)
        except EnvironmentFailure as failure:
            error = str(failure)[:500]
            is_enabled, state = unit.enabled, "failed"
        status = self._status(unit.name) if state == "active" else {}
        entity_id = str(status.get("entity_id") or entity_id)
        device_state = str(status.get("state") or "")
        return UnitReport(unit.name, is_enabled, state, entity_id, device_state, error)

    def _start(self, name: str) -> None:
        failed = self._failed.setdefault(name, _Failed(Backoff(self._draw)))
        if self._clock_s() < failed.due_s:
            raise EnvironmentFailure(failed.error)
        try:
            self._manager.do("start", name)
        except EnvironmentFailure as error:
            failed.error = str(error)
            failed.due_s = self._clock_s() + failed.backoff.next_s()
            raise

    def _lay(self, unit: Unit) -> bool:
        """Whether its configuration changed."""
        if unit.config is None:
            return False
        path = self._configuration / f"{unit.name}.toml"
        octets = unit.config.encode()
        try:
            if path.exists() and path.read_bytes() == octets:
                return False
            write_private(path, octets, mode=0o640)  # the instance's group is ours
        except OSError as error:
            raise EnvironmentFailure(f"{path}: {error.strerror}") from error
        return True

    def _status(self, name: str) -> dict[str, Any]:
        try:
            path = self._sockets / name / "control.sock"
            return next(call(path, "GET", "/v1/status", timeout_s=CONTROL_S), {})
        except FirmwareNodeError as error:
            _log.debug("%s: %s", name, error)
            return {}

    # --- what is told of them ---------------------------------------------------------------------

    async def _tell(self, link: Link) -> None:
        """Availability and state of each, by entity id, when they changed or the link was away."""
        for report in self._reports.values():
            if not report.entity_id:
                continue
            is_on = report.state == "active" and report.device_state
            state = json.dumps({"unit": report.name, "state": report.device_state})
            availability = bus.ONLINE if is_on else bus.OFFLINE
            await self._publish(link, report.entity_id, "availability", availability)
            await self._publish(link, report.entity_id, "state", state.encode())

    async def _publish(self, link: Link, entity_id: str, leaf: str, octets: bytes) -> None:
        topic = bus.device_topic(self._site, EntityId.parse(entity_id), leaf)
        if self._said.get(topic) != octets and await link.publish(topic, octets, retain=True):
            self._said[topic] = octets

    # --- commands ---------------------------------------------------------------------------------

    async def _obey(
        self, entity_id: str, message: Incoming, commands: Remembered, link: Link
    ) -> None:
        try:
            command = bus.decode_command(message.payload)
        except DecodeError as error:
            _log.warning("%s: %s", message.topic, error)
            return
        outcome = commands.get(command.id)
        if outcome is None:
            # Noted first: killed in between, it is told as failed and not carried out again.
            commands.put(Outcome(command.id, "failed", "the agent ended while it was carried out"))
            await asyncio.to_thread(self._save_commands, commands)
            outcome = await asyncio.to_thread(self._carry_out, entity_id, command)
            commands.put(outcome)
            await asyncio.to_thread(self._save_commands, commands)
        own = bus.device_topic(self._site, EntityId.parse(entity_id), "ack")
        await link.publish(
            message.response_topic or own, bus.encode(outcome), correlation=message.correlation
        )

    def _carry_out(self, entity_id: str, command: Command) -> Outcome:
        shown = _shown(entity_id)
        name = next(r.name for r in self._reports.values() if r.entity_id == shown)
        try:
            if command.verb in _TARGETS:
                path = self._sockets / name / "control.sock"
                list(call(path, "POST", _TARGETS[command.verb], timeout_s=CONTROL_S))
            else:
                self._manager.do(command.verb, name)
        except EnvironmentFailure as error:
            return Outcome(command.id, "failed", str(error)[:500])
        except FirmwareNodeError as error:
            return Outcome(command.id, "refused", str(error)[:500])
        return Outcome(command.id, "done")

    def _load_commands(self) -> dict[str, Outcome]:
        rows = _load(self._commands_file, [])
        return {row[0]: Outcome(*row) for row in rows}

    def _save_commands(self, commands: Remembered) -> None:
        rows = [[o.id, o.result, o.text] for o in commands.outcomes.values()]
        _save(self._commands_file, rows)


def write_private(path: Path, octets: bytes, *, mode: int = 0o600) -> None:
    """All of it or nothing, durably; for its owner alone unless ``mode`` says otherwise."""
    part = path.with_name(path.name + ".part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(octets)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _shown(entity_id: str) -> str:
    return bytes.fromhex(entity_id).hex("-").upper()


def _load(path: Path, default: Any) -> Any:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return default
    except (OSError, ValueError) as error:
        raise EnvironmentFailure(f"{path}: {error}") from error


def _save(path: Path, value: Any) -> None:
    try:
        write_private(path, json.dumps(value).encode())
    except OSError as error:
        raise EnvironmentFailure(f"{path}: {error.strerror}") from error
