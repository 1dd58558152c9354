"""What a line of the self-test is, and what it may use."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from firmware_node.adapters.znp.host import Host
from firmware_node.crypto import install_code_crc
from firmware_node.errors import FirmwareNodeError
from firmware_node.wire.mt import Cmd, Status

CLEAR = 0x03  # STARTUP_OPTION: forget configuration and network at the next start
STARTUP_OPTION, LOGICAL_TYPE, DIRECT_CALLBACKS = 0x0003, 0x0087, 0x008F
JOIN_ONLY = 0x0047  # the extended PAN id of the network to join
ANY_NETWORK = bytes(8)
COORDINATOR, ROUTER, END_DEVICE = 0, 1, 2  # of LOGICAL_TYPE
SE_ENDPOINT, HA_ENDPOINT = 1, 2
SE_PROFILE, HA_PROFILE = 0x0109, 0x0104
CLUSTER = 0x0704  # Tunneling; the radio does not care


class Verdict(StrEnum):
    """What became of a line."""

    PASS = "pass"  # noqa: S105  # no password
    FAIL = "fail"
    CANNOT_TELL = "cannot tell"


class CannotTellError(FirmwareNodeError):
    """A line has no answer here: something it needs is missing."""


@dataclass(slots=True)
class Bench:
    """What lines share: the sticks, and what earlier lines found.

    Attributes:
        stick: the one under test.
        peer: a second stick, the coordinator; None: on-air lines cannot run.
        code: the install code of this run with its CRC, 18 octets.
        ieee: of the stick, as it travels.
        short: the stick's address once it has joined; None: it has not.
        joins_alone: ``--join``: somebody else's network is open for the stick.
    """

    stick: Host
    peer: Host | None = None
    joins_alone: bool = False
    channel: int = 15
    code: bytes = field(default_factory=lambda: new_install_code())
    ieee: bytes = bytes(8)
    peer_ieee: bytes = bytes(8)
    short: int | None = None
    formed: bool = False  # the peer leads a network that is open
    extended_pan: bytes = ANY_NETWORK  # of that network, as it travels
    transaction: int = 0

    def the_peer(self) -> Host:
        """The second stick; for lines that cannot do without."""
        if self.peer is None:
            raise CannotTellError("needs --peer PORT, a second stick")
        return self.peer

    def the_network(self) -> None:
        """That the second stick leads."""
        if self.the_peer() and not self.formed:
            raise CannotTellError("the second stick leads no network: see above")

    def joined(self) -> int:
        """The stick's short address."""
        if self.short is None and not self.joins_alone:
            self.the_network()
        if self.short is None:
            raise CannotTellError("the stick has not joined: see above")
        return self.short


Run = Callable[[Bench], Awaitable[tuple[Verdict, str]]]


@dataclass(frozen=True, slots=True)
class Check:
    """A line of the self-test.

    Attributes:
        asks: what is tried, in a few words.
        good: what a pass means for the daemon.
        bad: what a fail means for it, with the remedy.
        optional: a fail does not make the stick unfit.
    """

    name: str
    asks: str
    run: Run
    good: str
    bad: str
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """A check that was made."""

    check: Check
    verdict: Verdict
    found: str
    exchange: tuple[str, ...]

    @property
    def means(self) -> str:
        """For the daemon."""
        match self.verdict:
            case Verdict.PASS:
                return self.check.good
            case Verdict.FAIL:
                return self.check.bad
            case _:
                return "open"

    def document(self) -> dict[str, Any]:
        """As ``radio selftest --json`` gives it."""
        return {
            "name": self.check.name,
            "asks": self.check.asks,
            "verdict": str(self.verdict),
            "found": self.found,
            "means": self.means,
            "optional": self.check.optional,
            "exchange": list(self.exchange),
        }


def passes(holds: bool, found: str) -> tuple[Verdict, str]:
    """Pass or fail."""
    return (Verdict.PASS if holds else Verdict.FAIL), found


def new_install_code() -> bytes:
    """A random install code with its CRC, 18 octets."""
    code = os.urandom(16)
    return code + install_code_crc(code)


async def clear(host: Host, logical_type: int, join_only: bytes = ANY_NETWORK) -> None:
    """Forget the network, take a role, and start: what the daemon does before it joins.

    ``join_only`` is an extended PAN id, as it travels.

    Source: zigbee-znp.md 4.2. The role is written after the memory was cleared, because a build
    may count it as configuration.
    """
    await host.put_item(STARTUP_OPTION, bytes((CLEAR,)))
    await host.reset()
    await host.put_item(STARTUP_OPTION, b"\x00")
    await host.put_item(LOGICAL_TYPE, bytes((logical_type,)))
    await host.put_item(DIRECT_CALLBACKS, b"\x01")
    await host.put_item(JOIN_ONLY, join_only)
    await host.reset()


async def register(host: Host, endpoint: int, profile: int) -> int:
    """Register an endpoint; the status."""
    fields = (endpoint, profile, 0x0053, 0, 0, (CLUSTER,), (CLUSTER,))
    return await host.status(Cmd.AF_REGISTER, *fields)


async def must(host: Host, command: Cmd, *values: Any) -> None:
    """A step that later ones need.

    Raises:
        CannotTellError: the stick refuses it.
    """
    status = await host.status(command, *values)
    if status != Status.SUCCESS:
        raise CannotTellError(f"{host.port}: {command.name} is refused, status {status:02X}")
