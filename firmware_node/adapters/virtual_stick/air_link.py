"""A stick's way to the air it shares: carried here, or reached through a Unix socket.

Whoever holds the lock beside the socket carries the air; the others connect to it, and one of
them takes over when its process ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path

from firmware_node.adapters.virtual_stick.loop import Handle, Loop
from firmware_node.adapters.virtual_stick.ports import Line, now_us
from firmware_node.errors import DecodeError, EnvironmentFailure
from firmware_node.virtual import air
from firmware_node.virtual.air import AirSettings, Event, Flown, Heard, Medium, Sent, Tuning

TAKE_OVER_S = 0.02  # between two attempts to reach or to carry the air
OWN = 0  # the station number of the stick that lives beside the medium
_log = logging.getLogger(__name__)


class Air:
    """The stick's way to the air, which it carries itself or reaches through a socket.

    ``on_events`` gets what the air tells this stick; ``on_lost`` is called when the air is gone.
    """

    def __init__(
        self,
        loop: Loop,
        path: Path | None,
        settings: AirSettings,
        on_events: Callable[[list[Event]], None],
        on_lost: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._path = path
        self._settings = settings
        self._on_events = on_events
        self._on_lost = on_lost
        self._medium: Medium | None = None
        self._listener: socket.socket | None = None
        self._lock = -1
        self._stations: dict[int, Line] = {}
        self._rests: dict[int, bytes] = {}
        self._next_station = OWN
        self._line: Line | None = None
        self._rest = b""
        self._timer: Handle | None = None
        self._retry: Handle | None = None
        self._tuning: Tuning | None = None

    def open(self) -> None:
        """Carry the air, or reach it.

        Raises:
            EnvironmentFailure: the socket cannot be used.
        """
        if self._path is None:
            self._medium = Medium(self._settings)
        else:
            self._enter()

    def close(self) -> None:
        """Leave; whoever is still there takes the air over."""
        for timer in (self._timer, self._retry):
            if timer is not None:
                timer.cancel()
        if self._listener is not None and self._path is not None:
            self._loop.remove_reader(self._listener.fileno())
            self._listener.close()
            with contextlib.suppress(OSError):
                self._path.unlink()
        for line in (*self._stations.values(), *((self._line,) if self._line else ())):
            line.close()
        if self._lock >= 0:
            os.close(self._lock)

    def send(self, items: list[Tuning | tuple[int, bytes]]) -> None:
        """Tunings and transmissions of our stick, in order."""
        for item in items:
            if isinstance(item, Tuning):
                self._tuning = item
        if self._medium is not None:
            now = now_us()
            for item in items:
                self._carry(OWN, item, now)
            self._run()
        elif self._line is not None:
            self._line.write(
                b"".join(
                    air.encode_tuning(item)
                    if isinstance(item, Tuning)
                    else air.encode_transmission(*item)
                    for item in items
                )
            )
        else:
            gone: list[Event] = [
                Sent(OWN, item[0], air.Fate.ABSENT)
                for item in items
                if not isinstance(item, Tuning)
            ]
            self._loop.call_at(0, lambda: self._on_events(gone))

    # --- carrying ---------------------------------------------------------------------------------

    def _carry(self, station: int, item: Tuning | tuple[int, bytes], now: int) -> None:
        assert self._medium is not None
        if isinstance(item, Tuning):
            self._medium.tune(station, item)
        else:
            self._medium.transmit(station, item[0], item[1], now)

    def _run(self) -> None:
        """Hand out what is due and wait for what is not."""
        assert self._medium is not None
        own: list[Event] = []
        others: dict[int, list[bytes]] = {}
        for event in self._medium.run(now_us()):
            if event.station == OWN:
                own.append(event)
            else:
                others.setdefault(event.station, []).append(air.encode_event(event))
        for station, messages in others.items():
            line = self._stations.get(station)
            if line is not None:
                line.write(b"".join(messages))
        wake_at = self._medium.wake_at
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if wake_at is not None:
            self._timer = self._loop.call_at(wake_at / 1_000_000, self._run)
        if own:
            self._on_events(own)

    def _accept(self) -> None:
        assert self._listener is not None
        with contextlib.suppress(OSError):
            connection, _ = self._listener.accept()
            self._next_station += 1
            station = self._next_station
            self._rests[station] = b""
            self._stations[station] = Line(
                self._loop,
                connection.detach(),
                lambda octets: self._from_station(station, octets),
                lambda: self._drop(station),
            )

    def _from_station(self, station: int, octets: bytes) -> None:
        try:
            messages, self._rests[station] = air.split(self._rests[station] + octets)
        except DecodeError as error:
            _log.warning("%s, station dropped", error)
            self._stations[station].close()
            self._drop(station)
            return
        now = now_us()
        for message in messages:
            if isinstance(message, Tuning) or not isinstance(message, (Sent, Heard, Flown)):
                self._carry(station, message, now)
        self._run()

    def _drop(self, station: int) -> None:
        del self._stations[station], self._rests[station]
        if self._medium is not None:
            self._medium.detach(station)

    # --- reaching, and taking over ----------------------------------------------------------------

    def _enter(self) -> None:
        assert self._path is not None
        self._retry = None
        try:
            lock = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)
        except OSError as error:
            raise EnvironmentFailure(f"{self._path}: {error.strerror or error}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            self._connect()
            return
        self._lock = lock
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._path.unlink(missing_ok=True)  # left behind: its lock was free
            listener.bind(str(self._path))
        except OSError as error:
            listener.close()
            raise EnvironmentFailure(f"{self._path}: {error.strerror or error}") from error
        listener.listen(128)
        listener.setblocking(False)
        self._listener = listener
        self._medium = Medium(self._settings)
        self._loop.add_reader(listener.fileno(), self._accept)
        if self._tuning is not None:
            self.send([self._tuning])

    def _connect(self) -> None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(str(self._path))
        except OSError:
            # Its carrier just begins, or just ends.
            connection.close()
            at = now_us() / 1_000_000 + TAKE_OVER_S
            self._retry = self._loop.call_at(at, self._enter)
            return
        self._rest = b""
        self._line = Line(self._loop, connection.detach(), self._from_air, self._air_ended)
        if self._tuning is not None:
            self.send([self._tuning])

    def _from_air(self, octets: bytes) -> None:
        messages, self._rest = air.split(self._rest + octets)
        self._on_events([one for one in messages if isinstance(one, (Sent, Heard, Flown))])

    def _air_ended(self) -> None:
        self._line = None
        self._on_lost()
        self._enter()
