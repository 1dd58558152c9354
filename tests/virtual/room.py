"""A room of virtual sticks in virtual time, each with a host that remembers what it was told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from firmware_node.virtual import nv
from firmware_node.virtual.air import AirSettings, Flown, Heard, Medium, Sent, Tuning
from firmware_node.virtual.nv import Item, NvMemory
from firmware_node.virtual.stick import Stick, StickSettings
from firmware_node.wire import mt
from firmware_node.wire.mt import Cmd, DeviceState

SECOND = 1_000_000
COORDINATOR, ROUTER, END_DEVICE = 0, 1, 2
ALL_CHANNELS = 0x07FFF800
FORMATION, STEERING = 4, 2
IN_SMART_ENERGY = (1, 0x0109, 0x0502, 0, 0, (0x0000, 0x0704), (0x000A, 0x0019))


class Host:
    """Speaks MT with one stick. ``told`` keeps every callback, ``order`` the numbers of all."""

    def __init__(self, room: Room, number: int, stick: Stick) -> None:
        self._room = room
        self.number = number
        self.stick = stick
        self.told: list[tuple[int, bytes]] = []
        self.order: list[int] = []  # of callbacks and answers
        self._answers: list[tuple[int, bytes]] = []
        self._parser = mt.Parser()

    def hear(self, octets: bytes) -> None:
        for command, data in self._parser.feed(octets):
            self.order.append(command)
            (self._answers if command & 0x6000 == 0x6000 else self.told).append((command, data))

    def send(self, command: int, *values: Any) -> None:
        """A command, without waiting for an answer."""
        self.send_octets(mt.frame(command, mt.encode(command, *values)))

    def send_octets(self, octets: bytes) -> None:
        self.stick.from_host(octets, self._room.now_us)
        self._room.settle()

    def answers(self) -> list[tuple[int, bytes]]:
        """Every answer since the last call."""
        answers, self._answers = self._answers, []
        return answers

    def ask(self, command: int, *values: Any) -> Any:
        """Send; the fields of the answer, or the one field it has."""
        self.answers()
        self.send(command, *values)
        (answer,) = self.answers()
        assert answer[0] == command | mt.RESPONSE, f"{answer[0]:04X} {answer[1].hex()}"
        fields = mt.decode(*answer)
        return fields[0] if len(fields) == 1 else fields

    def heard(self, command: int) -> list[tuple[Any, ...]]:
        """The fields of every callback of one kind."""
        return [mt.decode(*one) for one in self.told if one[0] == command]

    def heard_bodies(self, command: int) -> list[bytes]:
        """The octets of every callback of one kind."""
        return [data for told, data in self.told if told == command]

    @property
    def messages(self) -> list[mt.IncomingMessage]:
        """AF messages that came up."""
        return [mt.decode_incoming(one) for one in self.heard_bodies(Cmd.AF_INCOMING_MSG)]

    @property
    def states(self) -> list[DeviceState]:
        return [DeviceState(state) for (state,) in self.heard(Cmd.ZDO_STATE_CHANGE_IND)]

    def state(self) -> DeviceState:
        """The last one told."""
        return self.states[-1]

    @property
    def confirms(self) -> list[tuple[int, int, int]]:
        """Status, endpoint, transaction."""
        return [(one[0], one[1], one[2]) for one in self.heard(Cmd.AF_DATA_CONFIRM)]

    @property
    def notes(self) -> list[tuple[int, int, int]]:
        """Commissioning notifications."""
        return [(one[0], one[1], one[2]) for one in self.heard(Cmd.APP_CNF_BDB_NOTIFICATION)]

    @property
    def nv(self) -> NvMemory:
        return self.stick.board.nv

    @property
    def ieee(self) -> bytes:
        return self.nv.ieee

    @property
    def short(self) -> int:
        short: int = self.ask(Cmd.UTIL_GET_DEVICE_INFO)[2]
        return short

    @property
    def counters(self) -> Mapping[str, int]:
        return self.stick.board.counters

    def reset(self) -> None:
        """Soft reset, and wait for its indication."""
        seen = len(self.heard(Cmd.SYS_RESET_IND))
        self.send(Cmd.SYS_RESET_REQ, 1)
        self._room.run(30_000)
        assert len(self.heard(Cmd.SYS_RESET_IND)) == seen + 1

    def set_item(self, item: int, value: bytes) -> None:
        assert self.ask(Cmd.SYS_OSAL_NV_WRITE_EXT, item, 0, value) == 0

    def commission(self, mode: int) -> None:
        assert self.ask(Cmd.APP_CNF_BDB_START_COMMISSIONING, mode) == 0

    def register(self, *fields: Any) -> None:
        assert self.ask(Cmd.AF_REGISTER, *fields) == 0

    def data(
        self,
        destination: int,
        payload: bytes,
        *,
        cluster: int = 0x0019,
        endpoints: tuple[int, int] = (1, 1),
        options: int = 0,
        transaction: int = 7,
        mode: int = mt.AddressMode.SHORT,
    ) -> int:
        """An AF data request, from the first endpoint to the second; the status of its answer.

        A payload that does not fit one MT frame is only announced.
        """
        request = mt.DataRequest(
            mode,
            destination.to_bytes(8, "little"),
            endpoints[1],
            endpoints[0],
            cluster,
            transaction,
            options,
            30,
            payload,
        )
        self.answers()
        self.send_octets(mt.frame(Cmd.AF_DATA_REQUEST_EXT, mt.encode_data_request(request)))
        ((command, data),) = self.answers()
        assert command == Cmd.AF_DATA_REQUEST_EXT | mt.RESPONSE
        return data[0]

    def store(self, payload: bytes) -> int:
        """Bring the payload that was announced; the status of the last store, which sends it."""
        for at in range(0, len(payload), 240):
            assert self.ask(Cmd.AF_DATA_STORE, at, payload[at : at + 240]) == 0
        status: int = self.ask(Cmd.AF_DATA_STORE, 0, b"")
        return status

    def fetch(self) -> bytes:
        """The one large message that came: fetched, and freed."""
        (told,) = self.heard(Cmd.AF_INCOMING_MSG_EXT)
        timestamp, size, fetched = told[10], told[12], b""
        while len(fetched) < size:
            wanted = min(240, size - len(fetched))
            status, part = self.ask(Cmd.AF_DATA_RETRIEVE, timestamp, len(fetched), wanted)
            assert (status, len(part)) == (0, wanted)
            fetched += part
        assert self.ask(Cmd.AF_DATA_RETRIEVE, timestamp, 0, 0) == (0, b"")
        assert self.ask(Cmd.AF_DATA_RETRIEVE, timestamp, 0, 1)[0] == mt.Status.FAILURE
        return fetched


@dataclass
class Room:
    """Sticks around one air; time passes when a test says so."""

    air: AirSettings = AirSettings()  # noqa: RUF009  # frozen
    now_us: int = SECOND

    def __post_init__(self) -> None:
        self.medium = Medium(self.air)
        self.hosts: list[Host] = []
        self.flown: list[bytes] = []
        self.flights: list[tuple[int, bytes]] = []  # the same with their times
        self._busy = False
        self._plugged = 0
        self.medium.tune(-1, Tuning(0, monitor=True))

    def stick(
        self,
        role: int = COORDINATOR,
        *,
        product: int = 1,
        settings: StickSettings | None = None,
        memory: NvMemory | None = None,
    ) -> Host:
        """A stick, plugged in."""
        self._plugged += 1
        number = self._plugged
        if memory is None:
            memory = nv.factory(product, bytes((number,)) + b"\x00\x00\x00\x00\x4b\x12\x00")
            memory.put((0, Item.LOGICAL_TYPE), bytes((role,)))
        host = Host(self, number, Stick(memory, settings or StickSettings()))
        self.hosts.append(host)
        host.stick.power_on(self.now_us)
        self.settle()
        return host

    def coordinator(self, **options: Any) -> Host:
        """A stick that has formed a network, with one Smart Energy endpoint."""
        host = self.stick(COORDINATOR, **options)
        host.ask(Cmd.APP_CNF_BDB_SET_CHANNEL, 1, 1 << 15)
        host.commission(FORMATION)
        host.register(*IN_SMART_ENERGY)
        return host

    def joined(self, coordinator: Host, role: int = END_DEVICE, **options: Any) -> Host:
        """A stick that has joined, with one Smart Energy endpoint."""
        coordinator.ask(Cmd.ZDO_MGMT_PERMIT_JOIN_REQ, mt.AddressMode.SHORT, 0x0000, 60, 1)
        host = self.stick(role, **options)
        host.commission(STEERING)
        self.run(SECOND)
        assert host.notes[-1][0] == 0, host.notes
        host.register(*IN_SMART_ENERGY)
        return host

    def unplug(self, host: Host) -> NvMemory:
        """Take a stick away; its memory stays."""
        self.medium.detach(host.number)
        self.hosts.remove(host)
        return host.nv

    def settle(self) -> None:
        """Carry out everything that is due now."""
        if self._busy:
            return
        self._busy = True
        while self._step():
            pass
        self._busy = False

    def _step(self) -> bool:
        moved = False
        for host in list(self.hosts):
            board = host.stick.board
            frames, board.host[:] = board.host[:], []
            items, board.air[:] = board.air[:], []
            moved |= bool(frames or items)
            for frame in frames:
                host.hear(frame)
            for item in items:
                if isinstance(item, Tuning):
                    self.medium.tune(host.number, item)
                else:
                    self.medium.transmit(host.number, item[0], item[1], self.now_us)
        by_number = {host.number: host.stick for host in self.hosts}
        for event in self.medium.run(self.now_us):
            moved = True
            match event:
                case Flown():
                    self.flown.append(event.octets)
                    self.flights.append((event.at_us, event.octets))
                case Heard() if event.station in by_number:
                    by_number[event.station].heard(event.octets, event.copy, self.now_us)
                case Sent() if event.station in by_number:
                    by_number[event.station].sent(event.handle, event.fate, self.now_us)
                case _:
                    pass
        for host in list(self.hosts):
            due = host.stick.wake_at
            if due is not None and due <= self.now_us:
                moved = True
                host.stick.wake(self.now_us)
        return moved

    def run(self, for_us: int) -> None:
        """Let time pass."""
        end_us = self.now_us + for_us
        self.settle()
        while True:
            due = [host.stick.wake_at for host in self.hosts] + [self.medium.wake_at]
            next_us = min((at for at in due if at is not None), default=end_us)
            self.now_us = min(max(next_us, self.now_us), end_us)
            self.settle()
            if self.now_us >= end_us:
                return
