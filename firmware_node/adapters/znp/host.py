"""A ZNP stick as ``radio probe`` and ``radio selftest`` speak with it: one command at a time.

zigpy-znp's client opens the port, and wakes a stick that does not answer by its bootloader dance.
The commands themselves go through ``wire.mt``: a check must see the octets that came, also those
that the library would refuse (EXT_NWK_INFO, zigbee-znp.md 3.3) or complain of. What was exchanged
is kept as lines of text; keys in it are not.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from serialx import SerialException
from zigpy_znp.api import ZNP
from zigpy_znp.config import CONFIG_SCHEMA
from zigpy_znp.exceptions import CommandNotRecognized

from firmware_node.adapters.znp.ports import check_port
from firmware_node.errors import DecodeError, EnvironmentFailure, FirmwareNodeError
from firmware_node.wire import mt
from firmware_node.wire.mt import Cmd, Status

LOG = logging.getLogger(__name__)
ANSWER_S = 2.0  # the slowest answer of a healthy stick is an NV write of some hundred milliseconds
RESET_S = 10.0  # a CC2531 with a full NV memory takes seconds to boot
OPEN_S = 5.0  # until a TCP port takes the connection
DANCE_S = 6.0  # pins, a ping, the octets that leave a CC253x bootloader, two pings: 5.5 s
BAUD = 115200
PART_MAX = 240  # octets of one AF_DATA_STORE or AF_DATA_RETRIEVE
CALLBACKS_MAX = 256  # kept for a check that looks for them
TRACE_MAX = 60  # lines of one check
SHOWN_MAX = 48  # octets of one line

# Commands whose data holds a key or what one is made of, and where it begins.
_KEY_AT = {
    Cmd.APP_CNF_BDB_ADD_INSTALL_CODE: 9,
    Cmd.APP_CNF_BDB_SET_ACTIVE_CENTRALIZED_KEY: 1,
    Cmd.ZDO_SET_LINK_KEY: 10,
    Cmd.ZDO_SEC_ADD_LINK_KEY: 10,
    Cmd.ZDO_GET_LINK_KEY | mt.RESPONSE: 9,
    Cmd.UTIL_APSME_LINK_KEY_DATA_GET | mt.RESPONSE: 1,
}


class NoAnswerError(FirmwareNodeError):
    """The stick was silent."""


class NotKnownError(FirmwareNodeError):
    """The stick answered that it does not know the command, or not in this form."""


class Host(ZNP):  # type: ignore[misc]  # the library has no types
    """One connection to a stick.

    Attributes:
        port: as it was named.
        trace: what was exchanged since it was last cleared, a line each.
        told: callbacks that nobody waited for yet, with their data.
    """

    def __init__(self, port: str, answer_s: float = ANSWER_S, label: str = "") -> None:
        super().__init__(_config(port, answer_s, dance=False))
        self.port = port
        self.trace: list[str] = []
        self.told: list[tuple[int, bytes]] = []
        self._answer_s = answer_s
        self._label = label
        self._parser = mt.Parser()
        self._answers: list[tuple[int, bytes]] = []
        self._news = asyncio.Event()
        self._lost = False

    async def open(self) -> None:
        """Open the port, without a word to the stick.

        Raises:
            EnvironmentFailure: it cannot be opened.
        """
        await _connect(self, self.port, OPEN_S, test_port=False)
        self._lost = False
        self._uart.data_received = self._on_octets  # from here on every octet comes to us alone

    def connection_lost(self, exc: BaseException | None) -> None:
        """The port is gone; see ``ZNP``."""
        super().connection_lost(exc)
        self._lost = True
        self._news.set()

    def note(self, text: str) -> None:
        """A line of the trace."""
        if len(self.trace) < TRACE_MAX:
            self.trace.append(f"{self._label}{text}")

    # --- commands -----------------------------------------------------------------------------

    async def ask(self, command: int, *values: Any) -> tuple[Any, ...]:
        """A synchronous request; the fields of its answer in the order of its row in ``wire.mt``.

        Raises:
            NoAnswerError, NotKnownError: silence; the stick does not know it.
            DecodeError: the answer has another shape.
            EnvironmentFailure: the port is gone.
        """
        data = await self.exchange(command, mt.encode(command, *values))
        return mt.decode(command | mt.RESPONSE, data)

    async def exchange(self, command: int, data: bytes = b"") -> bytes:
        """The same without a look at the fields."""
        self._answers.clear()
        self._write(command, data)
        deadline = asyncio.get_running_loop().time() + self._answer_s
        while True:
            while self._answers:
                answer, body = self._answers.pop(0)
                if answer == command | mt.RESPONSE:
                    return body
                if answer == mt.RPC_ERROR and body[1:3] == command.to_bytes(2, "big"):
                    raise NotKnownError(f"{_name(command)}: RPC error {body[0]}")
            if not await self.wait(deadline):
                self.note("< silence")
                raise NoAnswerError(f"{_name(command)}: no answer in {self._answer_s:g} s")

    async def status(self, command: int, *values: Any) -> int:
        """A synchronous request whose answer begins with a status: that one."""
        status: int = (await self.ask(command, *values))[0]
        return status

    async def until(
        self,
        command: int,
        within_s: float,
        holds: Callable[[tuple[Any, ...]], bool] = lambda fields: True,
    ) -> tuple[Any, ...]:
        """The fields of the next callback of a kind, also one that came before this call.

        Raises:
            NoAnswerError: none came.
            DecodeError, EnvironmentFailure: see ``ask``.
        """
        data = await self.until_data(
            command, within_s, lambda data: holds(mt.decode(command, data))
        )
        return mt.decode(command, data)

    async def until_data(
        self, command: int, within_s: float, holds: Callable[[bytes], bool] = lambda data: True
    ) -> bytes:
        """The same for its octets."""
        deadline = asyncio.get_running_loop().time() + within_s
        while True:
            for at, (told, data) in enumerate(self.told):
                if told == command and holds(data):
                    del self.told[at]
                    line = f"< {_shown(told, data)}"
                    if self._label + line not in self.trace:  # it came before the trace began
                        self.note(line)
                    return data
            if not await self.wait(deadline):
                raise NoAnswerError(f"no {_name(command)} in {within_s:g} s")

    async def reset(self) -> tuple[Any, ...]:
        """Soft reset; the fields of its indication."""
        self.told.clear()
        self._write(Cmd.SYS_RESET_REQ, b"\x01")
        return await self.until(Cmd.SYS_RESET_IND, RESET_S)

    # --- NV memory ----------------------------------------------------------------------------

    async def item(self, item: int) -> bytes | None:
        """An ordinary NV item; None: there is none, or it may not be read."""
        (size,) = await self.ask(Cmd.SYS_OSAL_NV_LENGTH, item)
        value = b""
        while len(value) < size:
            status, part = await self.ask(Cmd.SYS_OSAL_NV_READ_EXT, item, len(value))
            if status or not part:
                return None
            value += part
        return value or None

    async def put_item(self, item: int, value: bytes) -> None:
        """Write it whole; one that refuses is deleted and made anew (zigbee-znp.md 3.4).

        Raises:
            NotKnownError: the stick refuses that too.
        """
        (size,) = await self.ask(Cmd.SYS_OSAL_NV_LENGTH, item)
        status: int = Status.NV_ITEM_UNINIT
        if size == len(value):
            status = await self.status(Cmd.SYS_OSAL_NV_WRITE_EXT, item, 0, value)
            if status == Status.SUCCESS:
                return
            self.note(f"write refused with {status:02X}: delete it and make it anew")
        if size:
            await self.ask(Cmd.SYS_OSAL_NV_DELETE, item, size)
        made = await self.status(Cmd.SYS_OSAL_NV_ITEM_INIT, item, len(value), value)
        if made not in (Status.SUCCESS, Status.NV_ITEM_UNINIT):
            raise NotKnownError(f"NV item {item:04X}: cannot be written, status {status:02X}")

    # --- octets -------------------------------------------------------------------------------

    def _write(self, command: int, data: bytes) -> None:
        if self._uart is None or self._lost:
            raise EnvironmentFailure(f"{self.port}: the stick is gone")
        self.note(f"> {_shown(command, data)}")
        self._uart.write(mt.frame(command, data))

    def _on_octets(self, octets: bytes) -> None:
        for command, data in self._parser.feed(bytes(octets)):
            self.note(f"< {_shown(command, data)}")
            if command & 0x6000 == 0x6000:
                self._answers.append((command, data))
            else:
                self.told.append((command, data))
                del self.told[:-CALLBACKS_MAX]
        self._news.set()

    async def wait(self, deadline: float) -> bool:
        """Until something came; False: the loop's time is past ``deadline``.

        Raises:
            EnvironmentFailure: the port is gone.
        """
        if self._lost:
            raise EnvironmentFailure(f"{self.port}: the stick is gone")
        self._news.clear()
        try:
            async with asyncio.timeout_at(deadline):
                await self._news.wait()
        except TimeoutError:
            return False
        return True


@asynccontextmanager
async def connected(port: str, *, label: str = "") -> AsyncIterator[Host]:
    """A stick that answers; one that does not is woken by its bootloader dance first.

    Raises:
        ConfigError: PORT is neither a path nor ``socket://HOST:PORT``.
        EnvironmentFailure: no such port, in use, or nothing on it speaks MT.
    """
    check_port(port)
    if logging.getLogger().getEffectiveLevel() > logging.DEBUG:
        # What these have to say of noise and of ports that are no UART is said by us in one line.
        for name in ("zigpy_znp", "serialx", "zigpy"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    host = Host(port, label=label)
    try:
        await host.open()
        try:
            await host.ask(Cmd.SYS_PING)
        except (NoAnswerError, DecodeError):
            await host.disconnect()
            await _wake(port)
            await host.open()
            try:
                await host.ask(Cmd.SYS_PING)
            except (NoAnswerError, DecodeError) as error:
                raise EnvironmentFailure(f"{port}: no ZNP stick: {error}") from error
        yield host
    finally:
        await host.disconnect()


async def _wake(port: str) -> None:
    """zigpy-znp's dance: pins, bootloader octets, pings. It resets some sticks."""
    LOG.info("%s: no answer, trying to wake it for up to %g s", port, DANCE_S)
    sleeper = ZNP(_config(port, ANSWER_S, dance=True))
    try:
        await _connect(sleeper, port, DANCE_S, test_port=True)
    except (CommandNotRecognized, ValueError):
        pass  # awake; that the library finds it strange is ours to look into
    finally:
        await sleeper.disconnect()


async def _connect(znp: Any, port: str, within_s: float, *, test_port: bool) -> None:
    try:
        async with asyncio.timeout(within_s):
            await znp.connect(test_port=test_port)
    except TimeoutError as error:
        what = "no ZNP stick: nothing there answers" if test_port else "it does not open"
        raise EnvironmentFailure(f"{port}: {what}") from error
    except (SerialException, OSError) as error:
        number = getattr(error, "errno", None) or 0
        reason = os.strerror(number) if number > 0 else str(error)
        raise EnvironmentFailure(f"{port}: {reason}") from error


def _config(port: str, answer_s: float, *, dance: bool) -> Any:
    return CONFIG_SCHEMA(
        {
            "device": {"path": port, "baudrate": BAUD, "flow_control": None},
            "znp_config": {"skip_bootloader": dance, "sync_request_timeout": answer_s},
        }
    )


def _name(command: int) -> str:
    named = command in Cmd.__members__.values()
    return f"{command:04X} {Cmd(command).name}" if named else f"{command:04X}"


def _shown(command: int, data: bytes) -> str:
    """A command in hexadecimal, shortened, without keys."""
    key_at = _KEY_AT.get(command)
    rest = ""
    if key_at is not None and len(data) > key_at:
        rest = f" <{len(data) - key_at} octets of key>"
        data = data[:key_at]
    elif len(data) > SHOWN_MAX:
        rest = f"... ({len(data)} octets)"
        data = data[:SHOWN_MAX]
    return f"{command:04X} {data.hex()}{rest}".rstrip()
