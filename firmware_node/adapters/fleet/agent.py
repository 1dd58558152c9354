"""The agent of a host: makes what the host runs be what the bus says it shall run.

    desired arrives         kept on the disk, so that a host starts without the broker too
    it differs from what is ``_reconcile``: shares of fleets are begun and ended; instances are
                            configured, started and stopped (``units``)
    shares run              each in a task of its own: a step, then what it has to tell
    somebody asks           about a device: an answer to the topic that the question names
    every few seconds       ``reported``, which also says that the host is alive

The broker may be away: everything goes on, and is told when it is back. A share that fails is told
of and tried again; a mistake of ours ends the process, and systemd starts it again.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import json
import logging
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from firmware_node import __version__
from firmware_node.adapters.driver import notify_systemd
from firmware_node.adapters.fleet.link import Broker, Incoming, Link
from firmware_node.adapters.fleet.shard_store import remove_store
from firmware_node.adapters.fleet.shares import STEP_S, RunningShare
from firmware_node.adapters.fleet.units import Systemctl, UnitKeeper, write_private
from firmware_node.errors import (
    ConfigError,
    DecodeError,
    EnvironmentFailure,
    FirmwareNodeError,
    StorageError,
)
from firmware_node.fleet import bus
from firmware_node.fleet.bus import Desired, Reported, Share, ShareReport
from firmware_node.fleet.streams import Backoff

REPORT_S: Final = 5.0  # between reports without news
IMAGE_WAIT_S: Final = 60.0  # for an image of a file to come; it is retained, so it is there at once
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AgentSettings:
    """What ``AGENT.toml`` says."""

    site: str
    host: str
    broker: Broker
    state_directory: Path
    kinds: tuple[str, ...] = bus.HOST_KINDS
    workers: int = 0  # processes for simulated homes; 0: the agent's own


@dataclass(slots=True)
class _Place:
    """A share, and how it is."""

    share: Share
    task: asyncio.Task[None] | None = None
    running: RunningShare | None = None
    state: str = "starting"
    error: str = ""
    wake: asyncio.Event = field(default_factory=asyncio.Event)  # orders, or room for events


class Agent:
    """See the module. ``units`` is None where no instances are run; ``link`` makes the link."""

    def __init__(
        self,
        settings: AgentSettings,
        *,
        units: UnitKeeper | None = None,
        link: Callable[..., Link] = Link,
        utc_ms: Callable[[], float] = lambda: time.time() * 1000,
        draw: Callable[[], float] = random.random,
        say: Callable[[str], None] = lambda _: None,  # to systemd
    ) -> None:
        self._say = say
        self._settings = settings
        self._units = units if "units" in settings.kinds else None
        self._utc_ms = utc_ms
        self._draw = draw
        self._desired = Desired()
        self._error = ""
        self._life = 0
        self._places: dict[str, _Place] = {}
        self._changed = asyncio.Event()  # desired
        self._news = asyncio.Event()  # to be reported
        self._stopping = asyncio.Event()
        self._images: dict[str, asyncio.Event] = {}
        self._questions: asyncio.Queue[Incoming] = asyncio.Queue(100)
        site, host = settings.site, settings.host
        topics = [self._topic(leaf) for leaf in ("desired", "orders", "seen", "ask")]
        if self._units is not None:
            topics.append(bus.device_topic(site, None, "cmd"))
        self._link = link(
            settings.broker,
            f"fn-{site}-{host}",
            topics,
            on_message=self._on_message,
            on_up=self._on_up,
            will=(self._topic("availability"), bus.OFFLINE),
            draw=draw,
        )

    async def run(self) -> None:
        """Until ``stop`` or cancelled.

        Raises:
            ConfigError: the settings are wrong.
            EnvironmentFailure: the state directory cannot be had, or is another agent's.
        """
        self._open_state()
        async with asyncio.TaskGroup() as tasks:
            owned = [
                tasks.create_task(work)
                for work in (
                    self._link.run(),
                    self._keep_reconciled(tasks),
                    self._keep_reporting(),
                    self._answer_questions(),
                )
            ]
            if self._units is not None:
                owned.append(tasks.create_task(self._units.run(self._link, self._news)))
            self._say("READY=1")  # without the broker too: what was desired last runs
            await self._stopping.wait()
            self._say("STOPPING=1")
            for place in self._places.values():
                await _ended(place)
            await self._link.publish(self._topic("availability"), bus.OFFLINE, retain=True)
            for task in owned:
                task.cancel()

    def stop(self) -> None:
        """End in good order; shares stay as they are, for the next time."""
        self._stopping.set()

    # --- messages ---------------------------------------------------------------------------------

    def _topic(self, leaf: str) -> str:
        return bus.host_topic(self._settings.site, self._settings.host, leaf)

    async def _on_up(self) -> None:
        await self._link.publish(self._topic("availability"), bus.ONLINE, retain=True)
        for place in self._places.values():
            if place.running is not None:
                place.running.send_again()
                place.wake.set()
        await self._report()

    def _on_message(self, message: Incoming) -> None:
        try:
            name, leaf = bus.split_topic(message.topic)
            match leaf:
                case "desired":
                    self._take_desired(message.payload)
                case "orders":
                    batch = bus.decode_orders(message.payload)
                    place = self._places.get(batch.fleet)
                    if place is not None and place.running is not None:
                        place.running.take_orders(batch)
                        place.wake.set()  # also to say again what was taken before
                case "seen":
                    ack = bus.decode_ack(message.payload)
                    place = self._places.get(ack.fleet)
                    if place is not None and place.running is not None:
                        if place.running.take_ack(ack):
                            place.wake.set()
                case "ask":
                    self._ask(message)
                case "cmd" if self._units is not None:
                    self._units.take_command(name, message)
                case digest if name == bus.IMAGES and digest in self._images:
                    self._take_image(digest, message.payload)
        except DecodeError as error:
            _log.warning("%s: %s", message.topic, error)

    def _ask(self, message: Incoming) -> None:
        try:
            self._questions.put_nowait(message)
        except asyncio.QueueFull:
            _log.warning("%s: too many questions", message.topic)

    async def _answer_questions(self) -> None:
        while True:
            message = await self._questions.get()
            try:
                fleet, member = bus.decode_question(message.payload)
                place = self._places.get(fleet)
                answer: dict[str, object] = {"error": f"{fleet}: does not run here"}
                if place is not None and place.running is not None:
                    answer = {"shown": await place.running.show(member)}
                if message.response_topic is not None:
                    await self._link.publish(
                        message.response_topic,
                        json.dumps(answer, default=str).encode(),
                        correlation=message.correlation,
                    )
            except (DecodeError, EnvironmentFailure) as error:
                _log.warning("%s: %s", message.topic, error)

    # --- desired ----------------------------------------------------------------------------------

    def _take_desired(self, octets: bytes) -> None:
        if not octets:  # the retained message was taken away: nothing is desired
            octets = bus.encode(Desired(self._desired.generation + 1))
        try:
            desired = bus.decode_desired(octets)
        except DecodeError as error:
            self._error = str(error)
            self._news.set()
            raise
        if desired.generation < self._desired.generation:
            # A broker that was killed may hold one of long ago; going by it would end shares.
            _log.warning("desired: %d came after %d", desired.generation, self._desired.generation)
        elif desired != self._desired:
            self._desired, self._error = desired, ""
            self._changed.set()

    async def _keep_reconciled(self, tasks: asyncio.TaskGroup) -> None:
        while not self._stopping.is_set():
            await self._changed.wait()
            self._changed.clear()
            await asyncio.to_thread(
                write_private, self._path("desired.json"), bus.encode(self._desired)
            )
            await self._reconcile(tasks)
            self._news.set()

    async def _reconcile(self, tasks: asyncio.TaskGroup) -> None:
        runs_homes = "homes" in self._settings.kinds
        wanted = {share.fleet: share for share in self._desired.shares if runs_homes}
        if self._desired.shares and not runs_homes:
            self._error = "this host runs no simulated homes"
        for fleet, place in list(self._places.items()):
            share = wanted.get(fleet)
            if share is not None and _goes_on(place.share, share):
                place.share = share
                if place.running is not None:
                    place.running.share = share
                continue
            del self._places[fleet]
            await _ended(place)
            remove_store(self._store(fleet))  # also of one that is to be another
        for fleet, share in wanted.items():
            if fleet not in self._places:
                place = self._places[fleet] = _Place(share)
                place.task = tasks.create_task(self._run_share(place))
        images = {sha256 for share in wanted.values() for sha256 in share.images.values()}
        for path in self._settings.state_directory.glob("image-*"):
            if (sha256 := path.name.removeprefix("image-")) not in images:
                self._images.pop(sha256, None)
                path.unlink()
        if self._units is not None:
            self._units.want(self._desired.units)
        elif self._desired.units:
            self._error = "this host runs no instances"

    # --- shares -----------------------------------------------------------------------------------

    async def _run_share(self, place: _Place) -> None:
        """Until it is not wanted any more."""
        backoff = Backoff(self._draw)
        while self._wants(place):
            try:
                await self._run_once(place)
                return
            except (ConfigError, DecodeError, EnvironmentFailure, StorageError) as error:
                place.state, place.error = "failed", str(error)[:500]
                _log.error("%s: %s", place.share.fleet, error)
                self._news.set()
            finally:
                if place.running is not None:
                    await asyncio.to_thread(place.running.close)
                    place.running = None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(backoff.next_s(), 1.0)):
                    await self._stopping.wait()

    async def _run_once(self, place: _Place) -> None:
        share = place.share
        files = {name: await self._image(digest) for name, digest in sorted(share.images.items())}
        place.running = running = await asyncio.to_thread(
            RunningShare,
            share,
            self._store(share.fleet),
            files=files,
            workers=self._settings.workers,
            utc_ms=self._utc_ms,
        )
        carried = running.carried
        while self._wants(place):
            await running.advance()
            if place.state != "running":
                place.state, place.error = "running", ""
                self._news.set()
            if running.carried != carried or place.wake.is_set():
                carried = running.carried
                if carried.source:
                    await self._link.publish(self._topic("acks"), bus.encode(carried))
            for batch in running.to_send():
                await self._link.publish(self._topic("events"), bus.encode(batch))
            place.wake.clear()
            # Orders end the pause, but not before a breath.
            await asyncio.sleep(STEP_S / 5)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STEP_S * 4 / 5):
                    await place.wake.wait()

    def _wants(self, place: _Place) -> bool:
        is_wanted = self._places.get(place.share.fleet) is place
        return is_wanted and not self._stopping.is_set()

    async def _image(self, digest: str) -> bytes:
        """The octets of an image, from the disk or the bus."""
        path = self._path(f"image-{digest}")
        if not path.exists():
            arrived = self._images.setdefault(digest, asyncio.Event())
            await self._link.subscribe(bus.image_topic(self._settings.site, digest))
            try:
                async with asyncio.timeout(IMAGE_WAIT_S):
                    await arrived.wait()
            except TimeoutError:
                raise EnvironmentFailure(f"image {digest[:16]}: is not on the bus") from None
        return await asyncio.to_thread(path.read_bytes)

    def _take_image(self, digest: str, octets: bytes) -> None:
        if not octets:  # nobody needs it any more
            return
        if hashlib.sha256(octets).hexdigest() != digest:
            _log.warning("image %s: its octets are others", digest[:16])
            return
        write_private(self._path(f"image-{digest}"), octets)
        self._images[digest].set()

    # --- reports ----------------------------------------------------------------------------------

    async def _keep_reporting(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REPORT_S):
                    await self._news.wait()
            self._news.clear()
            words = "connected" if self._link.is_up else "the broker does not answer"
            self._say(f"WATCHDOG=1\nSTATUS={words}; {len(self._places)} shares of fleets")
            if self._link.is_up:
                await self._report()

    async def _report(self) -> None:
        shares = [
            ShareReport(
                fleet,
                place.state,
                0 if place.running is None else place.running.now_ms,
                place.share.homes,
                place.error,
            )
            for fleet, place in self._places.items()
        ]
        report = Reported(
            self._desired.generation,
            __version__,
            self._settings.kinds,
            self._life,
            int(self._utc_ms()),
            tuple(shares),
            () if self._units is None else self._units.reports(),
            self._error,
        )
        await self._link.publish(self._topic("reported"), bus.encode(report), retain=True)

    # --- the state directory ----------------------------------------------------------------------

    def _open_state(self) -> None:
        directory = self._settings.state_directory
        try:
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = self._path("lock").open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            life = self._path("life")
            self._life = 1 + (int(life.read_text("ascii")) if life.exists() else 0)
            write_private(life, str(self._life).encode())
            desired = self._path("desired.json")
            if desired.exists():
                self._take_desired(desired.read_bytes())
        except BlockingIOError as error:
            raise EnvironmentFailure(f"{directory}: another agent runs there") from error
        except (OSError, ValueError) as error:
            raise EnvironmentFailure(f"{directory}: {error}") from error
        except DecodeError as error:  # of another version of this program; the bus tells it again
            _log.warning("%s: %s", directory, error)

    def _path(self, name: str) -> Path:
        return self._settings.state_directory / name

    def _store(self, fleet: str) -> Path:
        return self._path(f"fleet-{fleet}.db")


def run_until_told(settings: AgentSettings) -> None:
    """The agent of this machine, until SIGTERM or SIGINT.

    Raises:
        FirmwareNodeError: it cannot go on.
    """

    async def run() -> None:
        units = None
        if "units" in settings.kinds:
            units = UnitKeeper(settings.site, settings.state_directory, Systemctl())
        agent = Agent(settings, units=units, say=notify_systemd)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, agent.stop)
        await agent.run()

    try:
        asyncio.run(run())
    except ExceptionGroup as group:
        first: BaseException = group
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        if isinstance(first, FirmwareNodeError):
            raise first from group
        raise


async def _ended(place: _Place) -> None:
    """Its task is through; it was told to be."""
    place.wake.set()
    if place.task is not None:
        await asyncio.wait([place.task])


def _goes_on(had: Share, share: Share) -> bool:
    """Whether only the clock differs."""
    return replace(had, origin_ms=share.origin_ms, speed=share.speed) == share
