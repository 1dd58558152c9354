"""What both daemons share: the driver of a machine, system notification, the ring of events."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import socket
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from firmware_node.boundary import Effect, Input, Machine, Notify

NOTIFY_WAIT_S = 2.0  # the watchdog, the shortest patience there is, has 22.5
FEEDS = 4  # of the watchdog in its time
EVENTS_KEPT = 1000  # in memory, for ``events``
_log = logging.getLogger(__name__)


class SystemEntropy:
    """``boundary.Entropy`` of the operating system."""

    def below(self, bound: int) -> int:
        """See ``boundary.Entropy``."""
        return secrets.randbelow(bound)

    def octets(self, size: int) -> bytes:
        """See ``boundary.Entropy``."""
        return secrets.token_bytes(size)


class Driver:
    """Steps a machine on the loop: input, commit, effects, ``flush``; one timer on ``wake_at``.

    Inputs that arrive during a step (a confirm of a frame that could not leave) wait for their
    turn. An exception of a step, or of the commit behind it, ends the process. ``before_commit``
    sees the effects of a step before they are certain.
    """

    def __init__(
        self,
        machine: Machine,
        commit: Callable[[], None],
        perform: Callable[[Effect], None],
        flush: Callable[[], None],
        failed: Callable[[BaseException], None],
        before_commit: Callable[[Sequence[Effect]], None] = lambda _: None,
    ) -> None:
        self._machine = machine
        self._step = machine.step
        self._commit = commit
        self._perform = perform
        self._flush = flush
        self._failed = failed
        self._before_commit = before_commit
        self._waiting: deque[Input | None] = deque()
        self._stepping = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at: int | None = None
        self._arming = False
        self._stopped = False

    def deliver(self, item: Input | None) -> None:
        """Give the machine an input, in order of arrival."""
        if self._stopped:
            return
        if self._stepping:
            self._waiting.append(item)
            return
        self._stepping = True
        try:
            while True:
                effects = self._step(item, time.monotonic_ns() // 1_000_000)
                self._before_commit(effects)
                self._commit()
                for effect in effects:
                    self._perform(effect)
                self._flush()
                if not self._waiting or self._stopped:
                    break
                item = self._waiting.popleft()
        except BaseException as error:
            self._stopped = True
            self._failed(error)
            return
        finally:
            self._stepping = False
        if not self._arming:  # once for all that a burst of frames delivers
            self._arming = True
            asyncio.get_running_loop().call_soon(self._arm)

    def stop(self) -> None:
        """No further step."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self) -> None:
        self._arming = False
        if self._stopped:
            return
        wake_at = self._machine.wake_at
        if wake_at == self._timer_at and self._timer is not None:
            return
        # A download moves its reply time-out with every block; a timer that fires early only
        # looks again, so it is moved forward and never back.
        if (
            self._timer is not None
            and wake_at is not None
            and self._timer_at is not None
            and self._timer_at <= wake_at
        ):
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_at = wake_at
        if wake_at is not None:
            delay_s = max(wake_at - now_ms(), 0) / 1000
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._wake)

    def _wake(self) -> None:
        self._timer = self._timer_at = None
        wake_at = self._machine.wake_at
        if wake_at is not None and wake_at <= now_ms():
            self.deliver(None)
        else:
            self._arm()


def now_ms() -> int:
    """Monotonic milliseconds."""
    return time.monotonic_ns() // 1_000_000


class Events:
    """The last notifications, numbered, and whoever follows them."""

    def __init__(self) -> None:
        self._kept: deque[dict[str, Any]] = deque(maxlen=EVENTS_KEPT)
        self._number = 0
        self._changed = asyncio.Event()

    def add(self, note: Notify) -> None:
        """Log it and keep it."""
        self._number += 1
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._kept.append({"n": self._number, "at": at, "name": note.name, **note.fields})
        level = logging.WARNING if note.name.endswith(_DEGRADED) else logging.INFO
        text = " ".join(f"{k}={v}" for k, v in note.fields.items())
        _log.log(level, "%s %s", note.name, text, extra={"notification": note})
        self._changed.set()
        self._changed = asyncio.Event()

    def all(self) -> Sequence[dict[str, Any]]:
        """What is kept, oldest first."""
        return list(self._kept)

    async def follow(self) -> AsyncIterator[dict[str, Any]]:
        """What is kept and then everything new, for ever."""
        seen = 0
        while True:
            changed = self._changed
            for event in list(self._kept):
                if event["n"] > seen:
                    seen = event["n"]
                    yield event
            await changed.wait()


_DEGRADED = ("_failed", "_lost", "_refused", "_fault", "_withheld", "_reverted", "_undelivered")


def notify_systemd(text: str) -> None:
    """One datagram to NOTIFY_SOCKET; without one, nothing (systemd's sd_notify protocol).

    A manager that does not read leaves no room after ten datagrams (net.unix.max_dgram_qlen). Mere
    words are then dropped; what matters waits, not for ever: a stop must end.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address[0] == "@":
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.settimeout(0 if text.startswith("STATUS=") else NOTIFY_WAIT_S)
            sender.sendto(text.encode(), address)
    except OSError as error:
        _log.warning("NOTIFY_SOCKET: %s", error)


def reloading() -> str:
    """What is told while the daemon is not ready for a moment; READY=1 ends it."""
    return f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}"


async def feed_watchdog() -> None:
    """WATCHDOG=1 from the event loop, ``FEEDS`` times in WATCHDOG_USEC.

    systemd asks for two. With four, a machine that lets us wait for three quarters of the time has
    not made us miss it.
    """
    interval_us = int(os.environ.get("WATCHDOG_USEC", "0"))
    if not interval_us:
        return
    while True:
        notify_systemd("WATCHDOG=1")
        await asyncio.sleep(interval_us / FEEDS / 1_000_000)


def on_signals(stop: Callable[[int], None], reload: Callable[[], None]) -> None:
    """Call ``stop`` with the exit code on SIGTERM (0) and SIGINT (130), ``reload`` on SIGHUP."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop, 0)
    loop.add_signal_handler(signal.SIGINT, stop, 130)
    loop.add_signal_handler(signal.SIGHUP, reload)
