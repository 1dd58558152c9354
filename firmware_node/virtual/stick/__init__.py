"""The virtual ZNP stick: what its host and the air see of it. No clock, no socket, no file.

``from_host`` takes the octets of the serial line, ``heard`` and ``sent`` what the air tells,
``wake`` the time. What it has to say lies in ``board.host`` and ``board.air`` afterwards, and what
changed in its memory in ``board.nv.take_changes()``; the driver keeps the changes before the
answers leave. A command that the stick does not know is answered with an RPC error and counted:
``board.counters["unknown_commands"]``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from firmware_node.errors import DecodeError
from firmware_node.virtual.air import Fate
from firmware_node.virtual.nv import DEFAULT_LINK_KEY, NvMemory
from firmware_node.virtual.stick.af import Af
from firmware_node.virtual.stick.aps import Aps
from firmware_node.virtual.stick.board import Board, Fault, StickSettings
from firmware_node.virtual.stick.exchange import Exchange
from firmware_node.virtual.stick.life import Life
from firmware_node.virtual.stick.link import Link
from firmware_node.virtual.stick.parent import Parent
from firmware_node.virtual.stick.system import System
from firmware_node.virtual.stick.zdo import Zdo
from firmware_node.wire import mt
from firmware_node.wire.mt import Cmd, Rpc, Status

__all__ = ["Board", "Fault", "Stick", "StickSettings"]

POWER_UP, EXTERNAL, WATCHDOG = 0, 1, 2  # reasons of SYS_RESET_IND
RESET_US = 20_000  # from the command to the indication
_DATA_REQUESTS = (Cmd.AF_DATA_REQUEST, Cmd.AF_DATA_REQUEST_EXT)
_PRODUCT_1_ONLY = frozenset(range(Cmd.SYS_NV_CREATE, Cmd.SYS_NV_CREATE + 7))
_SYNCHRONOUS = 0x20  # in the first octet of a command


class Stick:
    """One stick.

    Attributes:
        away_us: set by a fault when the stick vanishes: how long; the driver takes it back to 0.
    """

    def __init__(self, memory: NvMemory, settings: StickSettings) -> None:
        self.board = board = Board(memory, settings)
        self._parser = mt.Parser()
        self._link = Link(board)
        self._aps = Aps(board, self._link)
        self._af = Af(board, self._link, self._aps)
        self._zdo = Zdo(board, self._link, self._aps, self._af)
        self._exchange = Exchange(board, self._link, self._aps, self._zdo)
        self._parent = Parent(board, self._link, self._aps, self._zdo, self._exchange)
        self._life = Life(board, self._link, self._aps, self._zdo, self._parent, self._exchange)
        self._system = System(board, self._link, self._life, self._parent)
        self._handlers: dict[int, Callable[..., bytes | None]] = {
            **self._af.handlers,
            **self._zdo.handlers,
            **self._parent.handlers,
            **self._exchange.handlers,
            **self._life.handlers,
            **self._system.handlers,
        }
        self._asleep = False  # between a reset and its indication
        self._commands: deque[tuple[int, bytes]] = deque()
        self._faults = {fault.count: fault for fault in settings.faults}
        self._data_requests = 0
        self.away_us = 0

    @property
    def wake_at(self) -> int | None:
        """When ``wake`` is due, microseconds."""
        return self.board.wake_at

    def power_on(self, now_us: int) -> None:
        """Plugged in and booted: a host that connects now is heard."""
        self.board.now_us = now_us
        self._parser = mt.Parser()
        self._commands.clear()
        self._reset(POWER_UP)
        self.board.reset()
        self._awake(POWER_UP)

    def from_host(self, octets: bytes, now_us: int) -> None:
        """Octets of the serial line, cut anyhow."""
        self.board.now_us = now_us
        self._commands += self._parser.feed(octets)
        self._work()

    def _work(self) -> None:
        """Obey what is there; commands that come while the chip boots wait, as on real sticks."""
        while self._commands and not self._asleep:
            command, data = self._commands.popleft()
            try:
                self._obey(command, data)
            except DecodeError:
                self.board.counters["malformed_commands"] += 1
                self._rpc_error(Rpc.LENGTH, command)

    def heard(self, octets: bytes, copy: bool, now_us: int) -> None:
        """A frame from the air; ``copy``: it was given before, by another way."""
        self.board.now_us = now_us
        self._link.heard(octets, copy)

    def sent(self, handle: int, fate: Fate, now_us: int) -> None:
        """What became of a transmission."""
        self.board.now_us = now_us
        self.board.sent(handle, fate)

    def wake(self, now_us: int) -> None:
        """Time has come."""
        self.board.now_us = now_us
        self.board.run_timers()

    def keys(self) -> dict[bytes, str]:
        """Every key that seals frames of ours, with a label; for a capture."""
        nv = self.board.nv
        found = {DEFAULT_LINK_KEY: "default link key"}
        if self._link.is_up:
            found[self._link.key.key] = "network key"
        for label, key in nv.link_keys():
            found[key] = label
        return found

    # --- commands ---------------------------------------------------------------------------------

    def _obey(self, command: int, data: bytes) -> None:
        if command in _DATA_REQUESTS:
            if self._faults and self._goes_wrong(command):
                return
            self._af.data_request(command, data)
            return
        handler = self._handlers.get(command)
        if handler is not None:
            answer = handler(*mt.decode(command, data))
            if answer is not None:
                self.board.respond(command, answer)
        elif command == Cmd.SYS_RESET_REQ:
            self._reset(EXTERNAL)
        elif command in _PRODUCT_1_ONLY:  # how hosts tell the products apart
            self._rpc_error(Rpc.COMMAND, command)
        else:
            self.board.counters["unknown_commands"] += 1
            self.board.counters[f"unknown_command_{command:04X}"] += 1
            if command >> 8 & 0xE0 == _SYNCHRONOUS:
                known = any(one >> 8 == command >> 8 for one in self._handlers)
                self._rpc_error(Rpc.COMMAND if known else Rpc.SUBSYSTEM, command)

    def _rpc_error(self, error: Rpc, command: int) -> None:
        self.board.tell(mt.RPC_ERROR, bytes((error, command >> 8, command & 0xFF)))

    def _reset(self, reason: int) -> None:
        board = self.board
        board.reset()
        board.nv.start()
        for part in (self._af, self._aps, self._zdo, self._exchange, self._parent, self._life):
            part.reset()
        self._asleep = True
        board.after(RESET_US, lambda: self._awake(reason))

    def _awake(self, reason: int) -> None:
        self._asleep = False
        self._system.tell_reset(reason)
        self._work()

    def _goes_wrong(self, command: int) -> bool:
        """Whether a fault takes this data request."""
        self._data_requests += 1
        fault = self._faults.get(self._data_requests)
        if fault is None:
            return False
        self.board.counters[f"fault_{fault.kind}"] += 1
        match fault.kind:
            case "buffer-full":
                self.board.respond(command, bytes((Status.BUFFER_FULL,)))
            case "reset-at":
                self._reset(WATCHDOG)
            case "vanish-at":
                self.away_us = fault.away_ms * 1000
            case _:  # no-srsp: silence
                pass
        return True
