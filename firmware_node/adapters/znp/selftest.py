"""The checklist for a stick that is seen for the first time, run line by line.

The self-test erases the stick's network and that of its peer, so one that is on a network is
refused unless told to. However it ends, role and startup options are put back as they were and
nothing of the test's network is left: also after a failure and on Ctrl-C. Only a stick that is
pulled out keeps what it had.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from firmware_node.adapters.znp import checks_alone, checks_on_air
from firmware_node.adapters.znp.checks import (
    ANY_NETWORK,
    CLEAR,
    DIRECT_CALLBACKS,
    JOIN_ONLY,
    LOGICAL_TYPE,
    STARTUP_OPTION,
    Bench,
    CannotTellError,
    Check,
    Line,
    Verdict,
    new_install_code,
)
from firmware_node.adapters.znp.host import Host, NoAnswerError, NotKnownError, connected
from firmware_node.adapters.znp.probe import IN_NETWORK, stored_network
from firmware_node.errors import ConfigError, DecodeError, EnvironmentFailure, FirmwareNodeError
from firmware_node.terms import EntityId
from firmware_node.wire.mt import Cmd

CHECKS = (*checks_alone.CHECKS, *checks_on_air.CHECKS)
_FAILURES = (NoAnswerError, NotKnownError, DecodeError)
_KEPT = (LOGICAL_TYPE, DIRECT_CALLBACKS, STARTUP_OPTION)  # written back in this order


@dataclass(frozen=True, slots=True)
class SelftestOptions:
    """What ``radio selftest`` was asked for.

    Attributes:
        peer: the port of a second stick, which plays the coordinator.
        erase: also on sticks that are on a network.
        keep: leave the sticks as the last line left them.
        join: without a peer: join a network that the operator opens.
        channel: of the peer's network, 11 to 26.
        install_code: with its CRC, 18 octets; None: random.
    """

    port: str
    peer: str | None = None
    erase: bool = False
    keep: bool = False
    join: bool = False
    channel: int = 15
    install_code: bytes | None = None


def run_selftest(options: SelftestOptions, on_line: Callable[[Line], None]) -> dict[str, Any]:
    """The document of ``radio selftest --json``; ``on_line`` is told each line when it is known.

    ``result`` is ``fail`` when a line failed that is not optional, or when a stick could not be
    put back as it was.

    Raises:
        ConfigError: peer and stick are one, or a port is neither path nor ``socket://``.
        EnvironmentFailure: a port cannot be used, or a stick went away.
        FirmwareNodeError: a stick is on a network, and ``erase`` was not given.
        KeyboardInterrupt: Ctrl-C, SIGTERM or SIGHUP; the sticks are put back.
    """
    if options.peer is not None and _place(options.peer) == _place(options.port):
        raise ConfigError(f"--peer {options.peer}: expected another port than the stick's own")
    try:
        return asyncio.run(_until_signalled(options, on_line))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def _place(port: str) -> str:
    """A port by the one name that all its links lead to."""
    return port if "://" in port else os.path.realpath(port)


async def _until_signalled(
    options: SelftestOptions, on_line: Callable[[Line], None]
) -> dict[str, Any]:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, task.cancel)
    async with AsyncExitStack() as stack:
        stick = await stack.enter_async_context(connected(options.port))
        peer = None
        if options.peer is not None:
            peer = await stack.enter_async_context(connected(options.peer, label="peer "))
            peer.trace = stick.trace  # one story
        return await _selftest(options, stick, peer, on_line)


async def _selftest(
    options: SelftestOptions, stick: Host, peer: Host | None, on_line: Callable[[Line], None]
) -> dict[str, Any]:
    sticks = [one for one in (stick, peer) if one is not None]
    try:
        if not options.erase:
            for one in sticks:
                await _refuse_a_network(one)
        kept = [(one, await _items(one)) for one in sticks]
        (ieee,) = await stick.ask(Cmd.SYS_GET_EXT_ADDR)
    except _FAILURES as error:
        raise EnvironmentFailure(f"{options.port}: {error}") from error
    code = options.install_code or new_install_code()
    bench = Bench(stick, peer, options.join and peer is None, options.channel, code, ieee)
    if bench.joins_alone:
        print(
            f"open a network for {EntityId(ieee[::-1])} with install code {code.hex()}"
            f" (CRC included); joining is tried for {checks_on_air.JOIN_ALONE_S:.0f} s",
            file=sys.stderr,
        )
    lines: list[Line] = []
    lost: str | None = None
    gone: EnvironmentFailure | None = None
    try:
        for check in CHECKS:
            line = await run_check(check, bench)
            lines.append(line)
            on_line(line)
    except EnvironmentFailure as error:
        gone = error
    finally:
        if not options.keep:
            lost = await _put_back(kept)
        if lost is not None and gone is None:
            print(f"firmware-node: {lost}", file=sys.stderr)
    if gone is not None:
        raise EnvironmentFailure(f"{gone}; {lost}" if lost else str(gone)) from gone
    unfit = any(one.verdict is Verdict.FAIL and not one.check.optional for one in lines)
    return {
        "port": options.port,
        "peer": options.peer,
        "result": "fail" if unfit or lost else "pass",
        "restored": None if options.keep else lost is None,
        "lines": [line.document() for line in lines],
    }


async def run_check(check: Check, bench: Bench) -> Line:
    """One line. What earlier ones are to it, the bench holds.

    Raises:
        EnvironmentFailure: a stick is gone.
    """
    bench.stick.trace.clear()
    try:
        verdict, found = await check.run(bench)
    except CannotTellError as error:
        verdict, found = Verdict.CANNOT_TELL, str(error)
    except _FAILURES as error:
        verdict, found = Verdict.FAIL, str(error)
    return Line(check, verdict, found, tuple(bench.stick.trace))


async def _refuse_a_network(host: Host) -> None:
    state = (await host.ask(Cmd.UTIL_GET_DEVICE_INFO))[4]
    network = await stored_network(host)
    if network is None and state not in IN_NETWORK:
        return
    where = "a network" if network is None else f"network {network.extended_pan_id}"
    raise FirmwareNodeError(
        f"{host.port}: the stick is on {where}, which the self-test erases: --erase allows it"
    )


async def _items(host: Host) -> Mapping[int, bytes | None]:
    return {item: await host.item(item) for item in _KEPT}


async def _put_back(kept: Sequence[tuple[Host, Mapping[int, bytes | None]]]) -> str | None:
    """No network, and the items as they were; None, or what could not be done."""
    failures = []
    for host, items in kept:
        try:
            await host.put_item(STARTUP_OPTION, bytes((CLEAR,)))
            await host.reset()
            await host.put_item(STARTUP_OPTION, b"\x00")
            for item in (LOGICAL_TYPE, DIRECT_CALLBACKS):
                value = items[item]
                if value is not None:
                    await host.put_item(item, value)
            await host.put_item(JOIN_ONLY, ANY_NETWORK)
            await host.reset()
            option = items[STARTUP_OPTION]
            if option not in (None, b"\x00"):
                await host.put_item(STARTUP_OPTION, option)
        except (*_FAILURES, EnvironmentFailure) as error:
            role = items[LOGICAL_TYPE]
            was = "" if role is None else f"; LOGICAL_TYPE was {role.hex()}"
            failures.append(f"{host.port} is not as it was before: {error}{was}")
    return "; ".join(failures) or None
