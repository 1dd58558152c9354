"""Where notifications go besides log and ``events``: a file, a command, a webhook.

Each of ``[notify.NAME]`` gets every notification that it wants at least once and in order: one is
put into the spool before the step that told it is committed, and leaves the spool when the sink has
taken it. A sink that fails is tried again, later and later, and what comes meanwhile waits behind.
The document is the one of ``events --json``, with the device's entity id; ``n`` rises for ever and
is the same when a document comes again. A ``Notify`` has no key material (``boundary``).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import h11

from firmware_node.adapters.spool import Document, Spool
from firmware_node.boundary import Effect, Notify
from firmware_node.config import NOT_BY_DEFAULT, NotifySection
from firmware_node.terms import EntityId

FILE = "notifications.db"  # in the state directory
BATCH = 100
PATIENCE_S = 30  # with a command, and with a web server
RETRY_FIRST_S = 1.0
RETRY_LAST_S = 300.0
_log = logging.getLogger(__name__)


class SinkError(Exception):
    """It did not take what it was given; one line says why."""


class Sink(Protocol):
    """Takes documents, or raises ``SinkError``, ``OSError`` or ``TimeoutError``."""

    batch: int  # documents at once

    async def take(self, documents: Sequence[Document]) -> None:
        """Return when they are where they belong."""
        ...


class FileSink:
    """JSON Lines behind what is there; the file may be moved away at any time."""

    batch = BATCH

    def __init__(self, path: Path) -> None:
        self._path = path

    async def take(self, documents: Sequence[Document]) -> None:
        """See ``Sink``; durable."""
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        fd = os.open(self._path, flags, 0o640)
        try:
            size = os.fstat(fd).st_size
            torn = size and os.pread(fd, 1, size - 1) != b"\n"  # a cut left half a line
            lines = "".join(json.dumps(document) + "\n" for document in documents)
            data = memoryview((("\n" if torn else "") + lines).encode())
            while data:
                data = data[os.write(fd, data) :]
            os.fsync(fd)
        finally:
            os.close(fd)


class CommandSink:
    """A program, once for each document, which it reads from standard input; exit 0: taken."""

    batch = 1

    def __init__(self, command: Sequence[str], patience_s: float = PATIENCE_S) -> None:
        self._command = command
        self._patience_s = patience_s

    async def take(self, documents: Sequence[Document]) -> None:
        """See ``Sink``."""
        (document,) = documents
        process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(self._patience_s):
                await process.communicate(json.dumps(document).encode() + b"\n")
        finally:
            if process.returncode is None:  # too slow, or we are stopping
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, 9)
        if process.returncode != 0:
            raise SinkError(f"{self._command[0]}: exit code {process.returncode}")


class WebhookSink:
    """HTTP POST of one document; any answer of 200 to 299: taken. Redirects are not followed."""

    batch = 1

    def __init__(self, url: str, patience_s: float = PATIENCE_S) -> None:
        self._url = urlsplit(url)
        self._patience_s = patience_s

    async def take(self, documents: Sequence[Document]) -> None:
        """See ``Sink``."""
        (document,) = documents
        url = self._url
        is_tls = url.scheme == "https"
        async with asyncio.timeout(self._patience_s):
            reader, writer = await asyncio.open_connection(
                url.hostname, url.port or (443 if is_tls else 80), ssl=is_tls or None
            )
            try:
                status = await self._post(json.dumps(document).encode(), reader, writer)
            except h11.RemoteProtocolError as error:
                raise SinkError(f"{url.netloc} speaks no HTTP: {error}") from error
            finally:
                writer.close()
        if not 200 <= status < 300:
            raise SinkError(f"{url.netloc}: HTTP {status}")

    async def _post(
        self, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> int:
        connection = h11.Connection(h11.CLIENT)
        target = (self._url.path or "/") + (f"?{self._url.query}" if self._url.query else "")
        headers = [
            ("host", self._url.netloc.rpartition("@")[2]),
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("connection", "close"),
        ]
        request = h11.Request(method="POST", target=target, headers=headers)
        for event in (request, h11.Data(data=body), h11.EndOfMessage()):
            writer.write(connection.send(event) or b"")
        await writer.drain()
        while True:
            answer = connection.next_event()
            if answer is h11.NEED_DATA:
                connection.receive_data(await reader.read(65536))
            elif isinstance(answer, h11.Response):
                return int(answer.status_code)
            elif isinstance(answer, h11.ConnectionClosed):
                raise SinkError(f"{self._url.netloc}: closed without an answer")


class Notices:
    """All sinks of a daemon; without any it does nothing."""

    def __init__(
        self,
        directory: Path,
        device: EntityId,
        sections: Mapping[str, NotifySection],
        *,
        retry_first_s: float = RETRY_FIRST_S,
    ) -> None:
        self._device = str(device)
        self._sections = sections
        self._retry_first_s = retry_first_s
        self._spool = Spool(directory / FILE, list(sections)) if sections else None
        self._added = {name: asyncio.Event() for name in sections}
        self._failures: dict[str, str] = {}

    def before_commit(self, effects: Sequence[Effect]) -> None:
        """Keep what a step tells; called before its commit."""
        if self._spool is None:
            return
        notes = [e for e in effects if isinstance(e, Notify) and self._is_wanted(e.name)]
        if notes:
            at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            self._spool.add(
                [{"at": at, "device": self._device, "name": e.name, **e.fields} for e in notes]
            )
            for event in self._added.values():
                event.set()

    async def run(self, name: str) -> None:
        """Deliver to one sink until cancelled."""
        assert self._spool is not None
        sink, delay_s = make_sink(self._sections[name]), self._retry_first_s
        while True:
            self._added[name].clear()
            waiting = self._spool.waiting(name, sink.batch)
            if not waiting:
                await self._added[name].wait()
                continue
            wanted = [
                {"n": number, **document}
                for number, document in waiting
                if _wants(self._sections[name], str(document["name"]))
            ]
            try:
                if wanted:
                    await sink.take(wanted)
            except (OSError, TimeoutError, SinkError) as error:
                self._failed(name, str(error) or "no answer in time", delay_s)
                await asyncio.sleep(delay_s)
                delay_s = min(2 * delay_s, RETRY_LAST_S)
                continue
            self._failures.pop(name, None)
            delay_s = self._retry_first_s
            self._spool.delivered(name, waiting[-1][0])

    def report(self) -> dict[str, object]:
        """For ``status``: of each sink its kind, what waits and why."""
        return {
            name: {
                "type": section.type,
                "waiting": 0 if self._spool is None else self._spool.count(name),
                "failure": self._failures.get(name),
            }
            for name, section in self._sections.items()
        }

    def close(self) -> None:
        """What waits is delivered in the next life."""
        if self._spool is not None:
            self._spool.close()

    def _is_wanted(self, name: str) -> bool:
        return any(_wants(section, name) for section in self._sections.values())

    def _failed(self, name: str, reason: str, delay_s: float) -> None:
        level = logging.INFO if self._failures.get(name) == reason else logging.WARNING
        self._failures[name] = reason
        _log.log(level, "notify.%s: %s; again in %g s", name, reason, delay_s)


def make_sink(section: NotifySection) -> Sink:
    """The sink that a ``[notify.NAME]`` describes; ``config`` has checked it."""
    makers: Mapping[str, Callable[[], Sink]] = {
        "file": lambda: FileSink(Path(section.path or "")),
        "command": lambda: CommandSink(section.command),
        "webhook": lambda: WebhookSink(section.url or ""),
    }
    return makers[section.type]()


def _wants(section: NotifySection, name: str) -> bool:
    if section.names:
        return name in section.names
    return name not in NOT_BY_DEFAULT
