"""The line to a stick, octet for octet: whose turn it is, windows, large messages, bad answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import zigpy_znp.commands as c

from firmware_node.adapters.znp import line as module
from firmware_node.adapters.znp.line import Line
from firmware_node.boundary import Frame, SendFrame
from firmware_node.terms import ShortAddress
from firmware_node.wire import mt, ota, zdo
from firmware_node.wire.mt import Cmd, Option, Status

PEER = ShortAddress(0x1234)
OK = b"\0"


def frame(payload: bytes, *, broadcast: bool = False) -> Frame:
    return Frame(PEER, 3, 1, 0x0109, ota.CLUSTER, payload, broadcast)


class Port:
    """What the host writes, cut into commands; what it is told goes straight into the line."""

    def __init__(self) -> None:
        self._parser = mt.Parser()
        self.written: list[tuple[int, bytes]] = []

    def write(self, octets: bytes) -> None:
        self.written += self._parser.feed(octets)

    def send(self, payload: Any) -> None:  # the library's own way
        self.written.append((int.from_bytes(payload.header.serialize(), "big"), payload.data))

    def take(self) -> list[tuple[int, bytes]]:
        found, self.written = self.written, []
        return found


class Bench:
    """A line without a port, and what it tells."""

    def __init__(self) -> None:
        self.line = Line("/dev/none", 115200)
        self.port = Port()
        self.line._uart = self.port
        self.line.nvram.align_structs = True
        self.line.profiles = {1: 0x0109}
        self.frames: list[Frame] = []
        self.fates: list[tuple[int, bool]] = []
        self.deaths: list[str] = []
        self.line.on_frame = self.frames.append
        self.line.on_confirm = lambda tag, delivered: self.fates.append((tag, delivered))
        self.line.on_dead = self.deaths.append

    def send(self, *payloads: bytes, tag: int = 0) -> None:
        for payload in payloads:
            self.line.send(SendFrame(frame(payload), tag))
        self.line.flush()

    def tell(self, command: int, data: bytes) -> None:
        self.line._on_octets(mt.frame(command, data))

    def requested(self) -> mt.DataRequest:
        ((command, data),) = self.port.take()
        return mt.decode_data_request(command, data)

    def answer(self, command: int = Cmd.AF_DATA_REQUEST, data: bytes = OK) -> None:
        self.tell(command | mt.RESPONSE, data)

    def confirm(self, identifier: int, status: int = Status.SUCCESS) -> None:
        self.tell(Cmd.AF_DATA_CONFIRM, bytes((status, 1, identifier)))


def story(tell: Callable[[Bench], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await tell(Bench())

    asyncio.run(bounded())


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_S", 0.05)
    monkeypatch.setattr(module, "PAUSE_S", 0.001)


def test_a_frame_leaves_as_one_request_with_the_options_it_needs() -> None:
    async def tell(bench: Bench) -> None:
        bench.send(b"plain")
        request = bench.requested()
        assert request.destination[:2] == b"\x34\x12"
        assert (request.destination_endpoint, request.source_endpoint) == (3, 1)
        assert (request.cluster, request.payload) == (ota.CLUSTER, b"plain")
        assert request.options == 0
        bench.answer()
        bench.line.secured = True
        bench.send(b"tagged", tag=7)
        request = bench.requested()
        assert request.options == Option.APS_ACK | Option.APS_SECURITY
        bench.answer()
        bench.confirm(request.transaction)
        assert bench.fates == [(7, True)]

    story(tell)


def test_broadcasts_and_zdo_go_as_extended_requests_and_never_under_the_link_key() -> None:
    async def tell(bench: Bench) -> None:
        bench.line.secured = True
        match = Frame(ShortAddress(0xFFFD), 0, 0, zdo.PROFILE, zdo.MATCH_DESC_REQ, b"\x01x", True)
        bench.line.send(SendFrame(match))
        bench.line.flush()
        request = bench.requested()
        assert (request.mode, request.options) == (mt.AddressMode.BROADCAST, 0)
        assert (request.source_endpoint, request.payload) == (0, b"\x01x")

    story(tell)


def test_a_request_waits_for_the_answer_of_the_one_before() -> None:
    async def tell(bench: Bench) -> None:
        bench.send(b"one", b"two")
        assert bench.requested().payload == b"one"
        bench.answer(Cmd.AF_DATA_STORE)  # not the answer to it
        assert bench.port.take() == []
        bench.answer()
        assert bench.requested().payload == b"two"

    story(tell)


def test_the_library_and_we_wait_for_each_other() -> None:
    async def tell(bench: Bench) -> None:
        bench.send(b"ours")
        bench.port.take()
        ping = asyncio.ensure_future(bench.line.request(c.SYS.Ping.Req()))
        await asyncio.sleep(0)
        assert bench.port.take() == []
        bench.answer()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert bench.port.take() == [(Cmd.SYS_PING, b"")]
        bench.send(b"later")
        assert bench.port.take() == []
        bench.tell(Cmd.SYS_PING | mt.RESPONSE, b"\x59\x06")
        assert int((await ping).Capabilities) == 0x0659
        assert bench.requested().payload == b"later"

    story(tell)


@pytest.mark.parametrize(("aligned", "window"), [(True, 16), (False, 2)])
def test_no_more_is_under_way_than_the_stick_holds(aligned: bool, window: int) -> None:
    async def tell(bench: Bench) -> None:
        bench.line.nvram.align_structs = aligned
        identifiers = []
        bench.send(*(bytes((number,)) for number in range(window + 1)))
        for _ in range(window):
            identifiers.append(bench.requested().transaction)
            bench.answer()
        assert len(set(identifiers)) == window
        assert bench.port.take() == []
        bench.confirm(identifiers[0])
        assert bench.requested().payload == bytes((window,))

    story(tell)


@pytest.mark.parametrize(
    ("status", "tries"),
    [
        (Status.BUFFER_FULL, module.BUSY_TRIES_MAX),
        (Status.MAC_NO_ACK, module.LOST_TRIES_MAX),
        (Status.APS_NO_ACK, 1),
        (Status.SEC_NO_KEY, 1),
    ],
)
@pytest.mark.parametrize("told_by", ["answer", "confirm"])
def test_what_the_next_hop_or_a_full_stick_refuses_is_sent_again_and_not_for_ever(
    status: int, tries: int, told_by: str
) -> None:
    async def tell(bench: Bench) -> None:
        bench.send(b"again", tag=9)
        for _ in range(tries):
            while not bench.port.written:
                await asyncio.sleep(0.001)
            request = bench.requested()
            assert request.payload == b"again"
            if told_by == "answer":
                bench.answer(data=bytes((status,)))
            else:
                bench.answer()
                bench.confirm(request.transaction, status)
        await asyncio.sleep(0.01)
        assert bench.port.take() == []
        assert bench.fates == [(9, False)]

    story(tell)


def test_a_stick_that_does_not_know_the_command_refuses_the_frame() -> None:
    async def tell(bench: Bench) -> None:
        bench.send(b"x", tag=1)
        bench.tell(mt.RPC_ERROR, bytes((mt.Rpc.COMMAND, 0x24, 0x01)))
        assert bench.fates == [(1, False)]

    story(tell)


def test_a_silent_stick_is_given_up_after_two_requests() -> None:
    async def tell(bench: Bench) -> None:
        bench.send(b"one", b"two", tag=4)
        await asyncio.sleep(0.08)
        assert bench.fates == [(4, False)]
        assert not bench.deaths
        await asyncio.sleep(0.08)
        assert len(bench.fates) == 2
        assert len(bench.deaths) == 1

    story(tell)


def test_one_missed_answer_is_forgotten_when_the_stick_speaks_again() -> None:
    async def tell(bench: Bench) -> None:
        for _ in range(3):
            bench.send(b"lost")
            await asyncio.sleep(0.08)
            bench.send(b"heard")
            bench.answer()
        assert not bench.deaths

    story(tell)


def test_a_large_message_is_announced_stored_and_sent_before_anything_else() -> None:
    whole = bytes(range(256)) * 3

    async def tell(bench: Bench) -> None:
        bench.send(whole, b"behind", tag=5)
        ((command, data),) = bench.port.take()
        assert command == Cmd.AF_DATA_REQUEST_EXT
        assert data[-2:] == len(whole).to_bytes(2, "little")  # and none of its octets
        bench.answer(Cmd.AF_DATA_REQUEST_EXT)
        stored = bytearray(len(whole))
        while True:
            ((command, data),) = bench.port.take()
            assert command == Cmd.AF_DATA_STORE
            offset, part = mt.decode(command, data)
            stored[offset : offset + len(part)] = part
            bench.answer(Cmd.AF_DATA_STORE)
            if not part:
                break
        assert bytes(stored) == whole
        assert bench.requested().payload == b"behind"
        bench.confirm(1)
        assert bench.fates == [(5, True)]

    story(tell)


def test_a_large_message_that_the_stick_has_no_room_for_is_tried_again() -> None:
    async def tell(bench: Bench) -> None:
        bench.send(bytes(500), tag=6)
        bench.port.take()
        bench.answer(Cmd.AF_DATA_REQUEST_EXT, bytes((Status.MEM_ERROR,)))
        while not bench.port.written:
            await asyncio.sleep(0.001)
        assert bench.port.take()[0][0] == Cmd.AF_DATA_REQUEST_EXT
        assert bench.fates == []

    story(tell)


def incoming(size: int, *, endpoint: int = 1, inline: bytes = b"") -> bytes:
    return mt.encode(
        Cmd.AF_INCOMING_MSG_EXT,
        *(0, ota.CLUSTER, 2, PEER.to_bytes(8, "little"), 3, 0, endpoint, 0, 200, 0, 77, 0, size),
        inline + PEER.to_bytes(2, "little") + b"\x1e",
    )


def test_a_large_message_is_fetched_in_parts_and_let_go_of() -> None:
    whole = bytes(range(256)) * 2

    async def tell(bench: Bench) -> None:
        bench.tell(Cmd.AF_INCOMING_MSG_EXT, incoming(len(whole)))
        while True:
            ((command, data),) = bench.port.take()
            timestamp, index, size = mt.decode(command, data)
            assert (command, timestamp) == (Cmd.AF_DATA_RETRIEVE, 77)
            part = whole[index : index + size]
            bench.answer(command, OK + bytes((len(part),)) + part)
            if not size:
                break
        assert bench.frames == [frame(whole)]

    story(tell)


def test_a_large_message_that_cannot_be_fetched_is_lost_and_nothing_else() -> None:
    async def tell(bench: Bench) -> None:
        bench.tell(Cmd.AF_INCOMING_MSG_EXT, incoming(500))
        bench.port.take()
        bench.answer(Cmd.AF_DATA_RETRIEVE, bytes((Status.FAILURE, 0)))
        assert bench.frames == []
        bench.send(b"next")
        assert bench.requested().payload == b"next"

    story(tell)


def test_a_large_message_for_nobody_is_only_let_go_of() -> None:
    async def tell(bench: Bench) -> None:
        bench.tell(Cmd.AF_INCOMING_MSG_EXT, incoming(500, endpoint=9))
        ((command, data),) = bench.port.take()
        assert mt.decode(command, data) == (77, 0, 0)
        bench.answer(command, OK + b"\0")
        assert bench.frames == []

    story(tell)


def test_an_extended_message_may_bring_its_octets_along() -> None:
    async def tell(bench: Bench) -> None:
        bench.tell(Cmd.AF_INCOMING_MSG_EXT, incoming(5, inline=b"along"))
        assert bench.frames == [frame(b"along")]
        assert bench.port.take() == []

    story(tell)


def message(payload: bytes, endpoint: int = 1) -> bytes:
    return mt.encode_incoming(
        mt.IncomingMessage(0, ota.CLUSTER, PEER, 3, endpoint, False, 200, False, 0, 0, payload)
    )


def test_messages_come_through_noise_and_in_pieces() -> None:
    async def tell(bench: Bench) -> None:
        octets = b"\xef\xef" + mt.frame(Cmd.AF_INCOMING_MSG, message(b"a"))
        octets += b"\xfe\x05noise" + mt.frame(Cmd.AF_INCOMING_MSG, message(b"b", endpoint=9))
        octets += mt.frame(Cmd.AF_INCOMING_MSG, b"too short")
        octets += mt.frame(Cmd.AF_INCOMING_MSG, message(b"c"))
        for octet in octets:
            bench.line._on_octets(bytes((octet,)))
        assert bench.frames == [frame(b"a"), frame(b"c")]

    story(tell)


def test_zdo_messages_come_with_their_sequence_number() -> None:
    async def tell(bench: Bench) -> None:
        data = mt.encode(Cmd.ZDO_MSG_CB_INCOMING, PEER, 0, 0x8006, 0, 0x2A, 0, b"body")
        bench.tell(Cmd.ZDO_MSG_CB_INCOMING, data)
        bench.tell(Cmd.ZDO_MSG_CB_INCOMING, data[:3])
        assert bench.frames == [Frame(PEER, 0, 0, zdo.PROFILE, 0x8006, b"\x2abody")]

    story(tell)


def test_events_are_told_and_the_library_hears_of_them_too() -> None:
    async def tell(bench: Bench) -> None:
        events: list[tuple[int, tuple[Any, ...]]] = []
        bench.line.on_event = lambda command, fields: events.append((command, fields))
        heard = bench.line.wait_for_response(c.ZDO.StateChangeInd.Callback(partial=True))
        bench.tell(Cmd.ZDO_STATE_CHANGE_IND, b"\x06")
        assert events == [(Cmd.ZDO_STATE_CHANGE_IND, (6,))]
        assert int((await heard).State) == 6

    story(tell)


def test_what_is_under_way_when_the_line_closes_is_not_delivered() -> None:
    async def tell(bench: Bench) -> None:
        for tag in range(1, 20):  # some in the window, some held for it
            bench.send(b"x", tag=tag)
            bench.answer()
        bench.line.close()
        assert bench.fates == [(tag, False) for tag in [17, 18, 19, *range(1, 17)]]
        bench.tell(Cmd.AF_INCOMING_MSG, message(b"late"))
        assert bench.frames == []

    story(tell)
