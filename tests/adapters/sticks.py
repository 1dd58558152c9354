"""Virtual sticks in processes of their own, and a relay that makes a wrong one of a right one."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

from firmware_node.wire import mt

WAIT_S = 20  # for anything here

Change = Callable[[bytes], bytes | None]  # the data instead; None: it is swallowed


@contextlib.contextmanager
def virtual_stick(*arguments: str | Path) -> Iterator[str]:
    """``radio virtual`` on a free TCP port; how hosts name it."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with _process("--tcp", f"127.0.0.1:{port}", *arguments):
        yield f"socket://127.0.0.1:{port}"


@contextlib.contextmanager
def virtual_stick_on_a_pty(link: Path, *arguments: str | Path) -> Iterator[str]:
    """The same on a pseudo-terminal."""
    with _process("--pty", link, *arguments):
        yield str(link)


@contextlib.contextmanager
def _process(*arguments: str | Path) -> Iterator[None]:
    command = [sys.executable, "-m", "firmware_node", "radio", "virtual"]
    run = subprocess.Popen([*command, *map(str, arguments)], stdout=subprocess.PIPE)
    try:
        assert run.stdout is not None
        assert run.stdout.readline() == b"ready\n"
        yield
    finally:
        run.kill()
        run.communicate()


class WrongStick:
    """A relay between host and stick, with ways to be wrong that may change at any time.

    Attributes:
        refuses: commands that it answers as unknown.
        silent: commands that it swallows.
        pretends: commands that it answers itself, with these data, and keeps from the stick.
        changes: frames of the stick, by command, that reach the host otherwise.
        heard: commands of the host, in order.
    """

    def __init__(self) -> None:
        self.refuses: set[int] = set()
        self.silent: set[int] = set()
        self.pretends: dict[int, bytes] = {}
        self.changes: dict[int, Change] = {}
        self.heard: list[int] = []
        self.port = ""
        self._writers: list[asyncio.StreamWriter] = []

    async def serve(
        self, target: str, reader: asyncio.StreamReader, host: asyncio.StreamWriter
    ) -> None:
        """One host."""
        number = int(target.rpartition(":")[2])
        from_stick, stick = await asyncio.open_connection("127.0.0.1", number)
        self._writers += [host, stick]
        up = asyncio.ensure_future(self._upward(from_stick, host))
        parser = mt.Parser()
        while octets := await reader.read(4096):
            for command, data in parser.feed(octets):
                self.heard.append(command)
                if command in self.refuses:
                    body = b"\x02" + command.to_bytes(2, "big")
                    host.write(mt.frame(mt.RPC_ERROR, body))
                elif command in self.pretends:
                    host.write(mt.frame(command | mt.RESPONSE, self.pretends[command]))
                elif command not in self.silent:
                    stick.write(mt.frame(command, data))
        stick.close()
        await up

    async def _upward(self, reader: asyncio.StreamReader, host: asyncio.StreamWriter) -> None:
        parser = mt.Parser()
        while octets := await reader.read(4096):
            for command, data in parser.feed(octets):
                changed = self._changed(command, data)
                if changed is not None:
                    host.write(mt.frame(command, changed))
        host.close()

    def _changed(self, command: int, data: bytes) -> bytes | None:
        change = self.changes.get(command)
        return data if change is None else change(data)

    def hang_up(self) -> None:
        """As when the stick is pulled out."""
        for writer in self._writers:
            writer.close()


@contextlib.asynccontextmanager
async def wrong_stick(target: str) -> AsyncIterator[WrongStick]:
    """A relay to ``target`` that is right until it is told otherwise."""
    wrong = WrongStick()
    server = await asyncio.start_server(
        lambda reader, writer: wrong.serve(target, reader, writer), "127.0.0.1", 0
    )
    wrong.port = f"socket://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield wrong
    finally:
        server.close()
        wrong.hang_up()


def at(index: int, octet: int) -> Change:
    """Another octet in some data."""
    return lambda data: data[:index] + bytes((octet,)) + data[index + 1 :]


def always(data: bytes) -> Change:
    """Always the same."""
    return lambda _: data


def run_command(*arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """``firmware-node`` with these arguments, in a process."""
    command = [sys.executable, "-m", "firmware_node", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)


async def run_beside(*arguments: str) -> tuple[int | None, str, str]:
    """The same beside a relay of this event loop: exit code, stdout, stderr."""
    run = await start_beside(*arguments)
    out, err = await run.communicate()
    return run.returncode, out.decode(), err.decode()


async def start_beside(*arguments: str) -> asyncio.subprocess.Process:
    """Only started."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "firmware_node", *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
