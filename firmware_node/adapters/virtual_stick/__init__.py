"""A stick as a process: a port for its host, a way to the air, a file for its memory.

Nothing is decided here. What a step of the stick changed in its memory is in the file before its
answers leave.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from dataclasses import dataclass, field
from pathlib import Path

from firmware_node.adapters.virtual_stick.air_link import Air
from firmware_node.adapters.virtual_stick.capture import Capture
from firmware_node.adapters.virtual_stick.loop import Handle, Loop, SelectLoop
from firmware_node.adapters.virtual_stick.nv_file import NvFile, from_dump
from firmware_node.adapters.virtual_stick.ports import (
    Cutter,
    Pacing,
    Port,
    PtyPort,
    TcpPort,
    now_us,
)
from firmware_node.errors import ConfigError
from firmware_node.virtual import nv
from firmware_node.virtual.air import AirSettings, Event, Heard, Sent, Tuning
from firmware_node.virtual.stick import Stick, StickSettings

LINE_BUFFER = 4096  # octets that a paced line takes before its host must wait, as a serial driver's


@dataclass(frozen=True, slots=True)
class VirtualOptions:
    """What ``radio virtual`` was asked for."""

    tcp: tuple[str, int] | None = None
    pty: Path | None = None
    nv: Path | None = None
    nv_dump: Path | None = None
    air: Path | None = None
    product: int = 1
    ieee: bytes | None = None  # as it travels; None: random
    baud: int | None = None  # pacing of the serial line; None: as fast as it goes
    pcap: Path | None = None
    counters: Path | None = None
    stick: StickSettings = field(default_factory=StickSettings)
    medium: AirSettings = field(default_factory=AirSettings)


class StickServer:
    """One stick with its port, its air, its memory; on asyncio's loop where it gets no other."""

    def __init__(self, options: VirtualOptions, loop: Loop | None = None) -> None:
        self._loop = loop = loop or asyncio.get_running_loop()
        self._options = options
        self._file = None if options.nv is None else NvFile(options.nv)
        memory = _blank(options)
        if self._file is not None:
            memory = self._file.open(memory)
        self.stick = Stick(memory, options.stick)
        self._cutter = Cutter()
        self._to_stick = Pacing(loop, options.baud, self._arrived)
        self._held = False
        self._to_host = Pacing(loop, options.baud, lambda octets: self.port.write(octets))
        self.port: Port
        if options.pty is not None:
            self.port = PtyPort(loop, options.pty, self._octets_in)
        else:
            assert options.tcp is not None
            self.port = TcpPort(loop, options.tcp, self._octets_in)
        self._air = Air(loop, options.air, options.medium, self._on_events, self._on_air_lost)
        self._capture = None if options.pcap is None else Capture(options.pcap)
        self._timer: Handle | None = None
        self._timer_at: int | None = None
        self._busy = False
        self._away: Handle | None = None  # pulled out; when it is plugged in again
        self._noted = 0

    def open(self) -> None:
        """Power on; hosts may connect when this returns.

        Raises:
            EnvironmentFailure: port, socket or file cannot be used.
        """
        if self._capture is not None:
            self._capture.open()
        self._air.open()
        self.port.open()
        self.stick.power_on(now_us())
        self._pump()

    def close(self) -> None:
        """Unplug."""
        for timer in (self._timer, self._away):
            if timer is not None:
                timer.cancel()
        self._to_stick.clear()
        self._to_host.clear()
        self.port.close()
        self._air.close()
        if self._file is not None:
            self._file.append(self.stick.board.nv.take_changes())
            self._file.close()
        if self._capture is not None:
            self._capture.close()
        self._write_counters()

    # --- what comes in ----------------------------------------------------------------------------

    def _octets_in(self, octets: bytes) -> None:
        if not self._options.baud:
            self._from_host(octets)
            return
        for piece in self._cutter.cut(octets):
            self._to_stick.put(piece)
        if self._to_stick.queued > LINE_BUFFER and not self._held:
            self._held = True
            self.port.hold(True)

    def _arrived(self, octets: bytes) -> None:
        self._from_host(octets)
        if self._held and self._to_stick.queued < LINE_BUFFER // 2:
            self._held = False
            self.port.hold(False)

    def _from_host(self, octets: bytes) -> None:
        self.stick.from_host(octets, now_us())
        self._pump()

    def _on_events(self, events: list[Event]) -> None:
        if self._away is not None:
            return
        stick, now = self.stick, now_us()
        for event in events:
            if isinstance(event, Heard):
                stick.heard(event.octets, event.copy, now)
            elif isinstance(event, Sent):
                stick.sent(event.handle, event.fate, now)
            elif self._capture is not None:
                self._capture.write(event.at_us, event.octets)
        self._pump()

    def _on_air_lost(self) -> None:
        if self._away is not None:
            return
        self.stick.board.lose_all()
        self._pump()

    def _wake(self) -> None:
        self._timer = self._timer_at = None
        self.stick.wake(now_us())
        self._pump()

    # --- what goes out ----------------------------------------------------------------------------

    def _pump(self) -> None:
        """Keep, then send, what the stick has to say; the air may answer at once."""
        if self._busy:
            return
        self._busy = True
        board = self.stick.board
        while board.air or board.host:
            changes = board.nv.take_changes()
            if changes and self._file is not None:
                self._file.append(changes)
            if board.host:
                frames = board.host[:]
                board.host.clear()
                if self._options.baud:
                    for frame in frames:
                        self._to_host.put(frame)
                else:
                    self._to_host.put(frames[0] if len(frames) == 1 else b"".join(frames))
            if board.air:
                items = board.air[:]
                board.air.clear()
                if self._capture is not None:
                    items = [
                        item._replace(monitor=True) if isinstance(item, Tuning) else item
                        for item in items
                    ]
                    if changes:
                        self._capture.note_keys(self.stick.keys())
                self._air.send(items)
        self._busy = False
        if self.stick.away_us:
            self._vanish()
            return
        wake_at = self.stick.wake_at
        if wake_at is not None and (self._timer_at is None or wake_at < self._timer_at):
            self._schedule(wake_at)
        if board.counters["unknown_commands"] != self._noted:
            self._noted = board.counters["unknown_commands"]
            self._write_counters()

    def _schedule(self, at: int) -> None:
        """Wake then. That one which is taken back comes too early costs less than moving it."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_at(at / 1_000_000, self._wake)

    def _vanish(self) -> None:
        """Pulled out: no port and no station, until it is plugged in again."""
        away_us, self.stick.away_us = self.stick.away_us, 0
        self._cutter, self._held = Cutter(), False
        self._to_stick.clear()
        self._to_host.clear()
        self.port.close()
        self._air.send([Tuning(0)])
        if self._timer is not None:
            self._timer.cancel()
        self._away = self._loop.call_at((now_us() + away_us) / 1_000_000, self._come_back)

    def _come_back(self) -> None:
        self._away = self._timer = self._timer_at = None
        self.port.open()
        self.stick.power_on(now_us())
        self._pump()

    def _write_counters(self) -> None:
        if self._options.counters is not None:
            counters = {"unknown_commands": 0} | self.stick.board.counters  # told when zero too
            text = json.dumps(dict(sorted(counters.items())))
            part = self._options.counters.with_name(self._options.counters.name + ".part")
            part.write_text(text + "\n", encoding="ascii")
            part.replace(self._options.counters)


def _blank(options: VirtualOptions) -> nv.NvMemory:
    """The memory of a stick that has no file yet."""
    if options.nv_dump is not None:
        try:
            return from_dump(options.nv_dump.read_text(encoding="ascii"))
        except OSError as error:
            raise ConfigError(f"{options.nv_dump}: {error.strerror or error}") from error
    ieee = options.ieee
    if ieee is None:
        ieee = os.urandom(5) + b"\x4b\x12\x00"  # TI's own prefix, last octet first
    return nv.factory(options.product, ieee)


def serve(options: VirtualOptions) -> int:
    """Run one stick until it is told to stop; prints ``ready`` when hosts may connect.

    Raises:
        EnvironmentFailure: port, socket or file cannot be used.
        ConfigError: the NV file is not one.
    """
    loop = SelectLoop()
    server = StickServer(options, loop)
    try:
        server.open()
        loop.call_at(0, lambda: print("ready", flush=True))  # once signals end it in order
        ended_by = loop.run(signal.SIGINT, signal.SIGTERM)
    finally:
        server.close()
    return 130 if ended_by == signal.SIGINT else 0
