"""What a stick's process waits for: descriptors and times. No coroutine, no task.

``Loop`` is the part of asyncio's loop that sticks use, so that they run on that one too.
``SelectLoop`` does nothing else: a stick's work on a frame takes some 15 microseconds, and the way
to it through asyncio as long, the more so when a process wakes with cold caches.
"""

from __future__ import annotations

import contextlib
import heapq
import select
import signal
import socket
import time
from collections.abc import Callable
from typing import Protocol

Call = Callable[[], None]


class Handle(Protocol):
    """A call in the future."""

    def cancel(self) -> None:
        """Not any more."""
        ...


class Loop(Protocol):
    """See the module; times are seconds of ``time.monotonic``."""

    def add_reader(self, fd: int, callback: Call, /) -> object:
        """Call whenever something is there to be read."""
        ...

    def remove_reader(self, fd: int, /) -> object:
        """No longer."""
        ...

    def add_writer(self, fd: int, callback: Call, /) -> object:
        """Call whenever there is room to write."""
        ...

    def remove_writer(self, fd: int, /) -> object:
        """No longer."""
        ...

    def call_at(self, when: float, callback: Call, /) -> Handle:
        """Call once, then."""
        ...


class _Timer:
    """A ``Handle``."""

    __slots__ = ("call",)

    def __init__(self, call: Call) -> None:
        self.call: Call | None = call

    def cancel(self) -> None:
        self.call = None


class SelectLoop:
    """A ``Loop`` over select(), which keeps time to the microsecond; epoll rounds up to 1 ms."""

    def __init__(self) -> None:
        self._readers: dict[int, Call] = {}
        self._writers: dict[int, Call] = {}
        self._due: list[tuple[float, int, _Timer]] = []
        self._order = 0
        self._ended_by: int | None = None

    def add_reader(self, fd: int, callback: Call, /) -> None:
        """See ``Loop``."""
        self._readers[fd] = callback

    def remove_reader(self, fd: int, /) -> None:
        """See ``Loop``."""
        self._readers.pop(fd, None)

    def add_writer(self, fd: int, callback: Call, /) -> None:
        """See ``Loop``."""
        self._writers[fd] = callback

    def remove_writer(self, fd: int, /) -> None:
        """See ``Loop``."""
        self._writers.pop(fd, None)

    def call_at(self, when: float, callback: Call, /) -> Handle:
        """See ``Loop``."""
        timer = _Timer(callback)
        self._order += 1
        heapq.heappush(self._due, (when, self._order, timer))
        return timer

    def run(self, *signals: int) -> int:
        """Work until one of these signals comes; which one. What a call raises ends it too."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            for end in (ours, theirs):
                end.setblocking(False)
            # A byte in the socket wakes select(), which would go on sleeping after a handler.
            self.add_reader(ours.fileno(), lambda: _drain(ours))
            woken_by = signal.set_wakeup_fd(theirs.fileno())
            before = [signal.signal(one, self._end) for one in signals]
            try:
                while self._ended_by is None:
                    self._step()
                return self._ended_by
            finally:
                for one, handler in zip(signals, before, strict=True):
                    signal.signal(one, handler)
                signal.set_wakeup_fd(woken_by)
                self.remove_reader(ours.fileno())

    def _end(self, number: int, _: object) -> None:
        self._ended_by = number

    def _step(self) -> None:
        due = self._due
        while due and due[0][2].call is None:
            heapq.heappop(due)
        wait_s = max(0.0, due[0][0] - time.monotonic()) if due else None
        readable, writable, _ = select.select(self._readers, self._writers, (), wait_s)
        for ready, calls in ((readable, self._readers), (writable, self._writers)):
            for fd in ready:
                call = calls.get(fd)  # one before it may have closed this one
                if call is not None:
                    call()
        if not due:
            return
        now, timers = time.monotonic(), []
        while due and due[0][0] <= now:
            timers.append(heapq.heappop(due)[2])
        for timer in timers:  # what they add is for the next step
            if timer.call is not None:
                timer.call()


def _drain(end: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        end.recv(4096)
