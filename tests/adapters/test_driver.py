"""The driver of a machine: what is durable before what leaves, timers, failures, notification."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from firmware_node.adapters.driver import (
    EVENTS_KEPT,
    Driver,
    Events,
    feed_watchdog,
    notify_systemd,
    now_ms,
)
from firmware_node.boundary import Effect, Input, Notify, SendConfirmed, Started
from firmware_node.errors import StorageError

LIMIT_S = 10


@dataclass
class Scripted:
    """A machine that notes its inputs and gives what it was told to give."""

    effects: Callable[[Input | None], Sequence[Effect]]
    log: list[str] = field(default_factory=list)
    wake_at: int | None = None
    woken: asyncio.Event = field(default_factory=asyncio.Event)

    def step(self, item: Input | None, now_ms: int) -> Sequence[Effect]:
        if item is None:
            assert self.wake_at is not None
            assert now_ms >= self.wake_at
            self.wake_at = None
            self.woken.set()
        self.log.append(f"step {type(item).__name__}")
        return self.effects(item)


def driver_of(
    machine: Scripted,
    *,
    commit: Callable[[], None] | None = None,
    perform: Callable[[Effect], None] | None = None,
) -> tuple[Driver, list[BaseException]]:
    failures: list[BaseException] = []
    log = machine.log
    made = Driver(
        machine,
        commit or (lambda: log.append("commit")),
        perform or (lambda effect: log.append(f"perform {type(effect).__name__}")),
        lambda: log.append("flush"),
        failures.append,
    )
    return made, failures


def on_loop(story: Callable[[], None]) -> None:
    async def run() -> None:
        story()

    asyncio.run(run())


def test_effects_leave_only_after_the_commit_of_their_step() -> None:
    def story() -> None:
        machine = Scripted(lambda _: [Notify("one"), Notify("two")])
        driver, failures = driver_of(machine)
        driver.deliver(Started())
        assert machine.log == [
            "step Started",
            "commit",
            "perform Notify",
            "perform Notify",
            "flush",
        ]
        assert failures == []

    on_loop(story)


def test_an_input_that_an_effect_brings_waits_until_the_step_is_over() -> None:
    def story() -> None:
        machine = Scripted(lambda item: [Notify("one")] if isinstance(item, Started) else [])
        drivers: list[Driver] = []

        def perform(_: Effect) -> None:
            drivers[0].deliver(SendConfirmed(1, delivered=False))
            machine.log.append("performed")

        driver, _ = driver_of(machine, perform=perform)
        drivers.append(driver)
        driver.deliver(Started())
        assert machine.log == [
            *("step Started", "commit", "performed", "flush"),
            *("step SendConfirmed", "commit", "flush"),
        ]

    on_loop(story)


def test_a_commit_that_fails_lets_nothing_leave_and_no_further_step_happen() -> None:
    def story() -> None:
        machine = Scripted(lambda _: [Notify("one")])

        def commit() -> None:
            raise StorageError("the disk is gone")

        driver, failures = driver_of(machine, commit=commit)
        driver.deliver(Started())
        driver.deliver(SendConfirmed(1, delivered=True))
        assert machine.log == ["step Started"]
        assert [str(error) for error in failures] == ["the disk is gone"]

    on_loop(story)


def test_the_timer_follows_the_machine_forwards_and_backwards() -> None:
    async def run() -> None:
        machine = Scripted(lambda _: [])
        driver, failures = driver_of(machine)
        for delay_ms in (3_600_000, 60_000, 30):  # sooner each time
            machine.wake_at = now_ms() + delay_ms
            driver.deliver(Started())
        assert machine.wake_at is not None
        machine.wake_at += 20  # and a little later: the timer that is early only looks again
        driver.deliver(Started())
        async with asyncio.timeout(LIMIT_S):
            await machine.woken.wait()
        assert machine.log.count("step NoneType") == 1
        assert failures == []

    asyncio.run(run())


def test_a_stopped_driver_steps_no_more() -> None:
    def story() -> None:
        machine = Scripted(lambda _: [])
        machine.wake_at = now_ms()
        driver, _ = driver_of(machine)
        driver.stop()
        driver.deliver(Started())
        assert machine.log == []

    on_loop(story)


def test_events_are_numbered_limited_and_followed_without_a_gap() -> None:
    async def run() -> None:
        events = Events()
        for number in range(EVENTS_KEPT + 5):
            events.add(Notify("download_progress", {"file_offset": number}))
        assert [event["n"] for event in events.all()] == list(range(6, EVENTS_KEPT + 6))
        followed = events.follow()
        async with asyncio.timeout(LIMIT_S):
            for expected in range(6, EVENTS_KEPT + 6):
                assert (await anext(followed))["n"] == expected
            waiting = asyncio.ensure_future(anext(followed))
            await asyncio.wait([waiting], timeout=0)
            assert not waiting.done()
            events.add(Notify("image_confirmed", {"version": "00000002"}))
            last = await waiting
        assert (last["n"], last["name"]) == (EVENTS_KEPT + 6, "image_confirmed")
        assert last["version"] == "00000002"
        await followed.aclose()  # type: ignore[attr-defined]  # an asynchronous generator

    asyncio.run(run())


def test_systemd_is_told_and_its_absence_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(prefix="fn-") as folder:
        path = str(Path(folder) / "notify.sock")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(path)
            monkeypatch.setenv("NOTIFY_SOCKET", path)
            notify_systemd("READY=1\nSTATUS=running")
            assert manager.recv(100) == b"READY=1\nSTATUS=running"
        notify_systemd("STOPPING=1")  # nobody there any more: a warning, no failure
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            name = f"firmware-node-test-{os.getpid()}"
            manager.bind(f"\0{name}")
            monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
            notify_systemd("WATCHDOG=1")
            assert manager.recv(100) == b"WATCHDOG=1"
    monkeypatch.delenv("NOTIFY_SOCKET")
    notify_systemd("READY=1")


def test_a_manager_that_reads_nothing_never_keeps_a_daemon_from_stopping(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="fn-") as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
    ):
        manager.bind(f"{folder}/notify.sock")
        monkeypatch.setenv("NOTIFY_SOCKET", f"{folder}/notify.sock")
        while not caplog.records:  # until the queue is full, whatever this kernel's limit is
            notify_systemd("STATUS=idle")
        notify_systemd("STOPPING=1")  # comes back
        assert len(caplog.records) == 2


def test_the_watchdog_is_fed_only_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    asyncio.run(feed_watchdog())  # returns at once
    with tempfile.TemporaryDirectory(prefix="fn-") as folder:
        path = str(Path(folder) / "notify.sock")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(path)
            manager.setblocking(False)
            monkeypatch.setenv("NOTIFY_SOCKET", path)
            monkeypatch.setenv("WATCHDOG_USEC", "20000")

            async def run() -> None:
                feeding = asyncio.create_task(feed_watchdog())
                loop = asyncio.get_running_loop()
                async with asyncio.timeout(LIMIT_S):
                    for _ in range(3):
                        assert await loop.sock_recv(manager, 100) == b"WATCHDOG=1"
                feeding.cancel()

            asyncio.run(run())
