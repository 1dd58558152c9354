"""The air on a real Unix socket, both ends in one loop."""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from firmware_node.adapters.air_link import PAYLOAD_MAX, UNSENT_MAX
from firmware_node.adapters.virtual_radio import CHANNEL, AirClient, AirServer, listen
from firmware_node.boundary import (
    Frame,
    FrameReceived,
    Input,
    NetworkDown,
    NetworkUp,
    PeerAnnounced,
    SendConfirmed,
    SendFrame,
)
from firmware_node.errors import EnvironmentFailure
from firmware_node.terms import BROADCAST_RX_ON, COORDINATOR, EntityId, ShortAddress
from firmware_node.wire import ota, zcl, zdo

HUB = EntityId.parse("00-DB-12-34-56-78-90-A2")
PPMID = EntityId.parse("00-DB-12-34-56-78-90-A4")
HCALCS = EntityId.parse("00-DB-12-34-56-78-90-A5")
LIMIT_S = 10


@pytest.fixture
def air() -> Iterator[Path]:
    """A socket path short enough for ``sun_path``."""
    with tempfile.TemporaryDirectory(prefix="fn-") as folder:
        yield Path(folder) / "air.sock"


class Inbox:
    """What an end delivers, in order."""

    def __init__(self) -> None:
        self.items: list[Input] = []
        self._news = asyncio.Event()

    def put(self, item: Input) -> None:
        self.items.append(item)
        self._news.set()

    async def until(self, wanted: Callable[[list[Input]], bool]) -> list[Input]:
        async with asyncio.timeout(LIMIT_S):
            while not wanted(self.items):
                self._news.clear()
                await self._news.wait()
        return self.items

    async def has(self, item: Input) -> None:
        await self.until(lambda items: item in items)


class Ends:
    """A hub and its devices on one air."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.hub_inbox = Inbox()
        self.hub = AirServer(path, HUB, self.hub_inbox.put)
        self._tasks: list[asyncio.Task[None]] = []
        self._clients: list[AirClient] = []

    async def device(self, entity_id: EntityId) -> tuple[AirClient, Inbox]:
        inbox = Inbox()
        client = AirClient(self.path, entity_id, inbox.put)
        self._clients.append(client)
        self._tasks.append(asyncio.create_task(client.run()))
        await inbox.until(lambda items: any(isinstance(item, NetworkUp) for item in items))
        return client, inbox

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        for client in self._clients:
            client.close()
        self.hub.close()


def on_air(path: Path, story: Callable[[Ends], Awaitable[None]]) -> None:
    async def run() -> None:
        ends = Ends(path)
        await ends.hub.open()
        try:
            await story(ends)
        finally:
            await ends.close()

    asyncio.run(run())


def frame(peer: int, payload: bytes = b"\x01\x02\x03", *, broadcast: bool = False) -> Frame:
    return Frame(
        ShortAddress(peer), 2, 3, zcl.SMART_ENERGY_PROFILE, ota.CLUSTER, payload, broadcast
    )


def seen_by_peer(sent: Frame, source: int) -> FrameReceived:
    """The same frame from the other side: endpoints change places."""
    return FrameReceived(
        sent._replace(
            peer=ShortAddress(source),
            peer_endpoint=sent.endpoint,
            endpoint=sent.peer_endpoint,
        )
    )


def send(end: AirServer | AirClient, sent: Frame, tag: int = 0) -> None:
    end.send(SendFrame(sent, tag))
    end.flush()


def test_a_device_that_joins_is_announced_and_gets_the_same_address_again(air: Path) -> None:
    async def story(ends: Ends) -> None:
        first, _ = await ends.device(PPMID)
        _, other = await ends.device(HCALCS)
        assert other.items == [NetworkUp(ShortAddress(2), CHANNEL)]
        first.close()
        await ends.hub_inbox.until(lambda items: len(items) == 3)
        assert ends.hub_inbox.items == [
            PeerAnnounced(ShortAddress(1), PPMID),
            PeerAnnounced(ShortAddress(2), HCALCS),
            PeerAnnounced(ShortAddress(1), PPMID),
        ]

    on_air(air, story)


def test_frames_arrive_whole_in_order_and_with_the_endpoints_of_the_receiver(air: Path) -> None:
    async def story(ends: Ends) -> None:
        device, inbox = await ends.device(PPMID)
        down = [frame(1, bytes([number]) * (number * 37 % 1500 + 1)) for number in range(200)]
        up = [frame(COORDINATOR, one.payload) for one in down]
        for one, other in zip(down, up, strict=True):
            ends.hub.send(SendFrame(one))
            device.send(SendFrame(other))
        ends.hub.flush()
        device.flush()
        await inbox.until(lambda items: len(items) == 201)
        await ends.hub_inbox.until(lambda items: len(items) == 201)
        assert inbox.items[1:] == [seen_by_peer(one, COORDINATOR) for one in down]
        assert ends.hub_inbox.items[1:] == [seen_by_peer(one, 1) for one in up]

    on_air(air, story)


def test_a_tagged_frame_is_confirmed_once_on_either_side(air: Path) -> None:
    async def story(ends: Ends) -> None:
        device, inbox = await ends.device(PPMID)
        send(ends.hub, frame(1), tag=7)
        send(device, frame(COORDINATOR), tag=9)
        await ends.hub_inbox.has(SendConfirmed(7, delivered=True))
        await inbox.has(SendConfirmed(9, delivered=True))
        assert sum(isinstance(item, SendConfirmed) for item in inbox.items) == 1

    on_air(air, story)


def test_a_tagged_frame_to_nobody_is_confirmed_as_not_delivered(air: Path) -> None:
    async def story(ends: Ends) -> None:
        send(ends.hub, frame(5), tag=7)
        assert ends.hub_inbox.items == [SendConfirmed(7, delivered=False)]
        alone = Inbox()
        AirClient(air, PPMID, alone.put).send(SendFrame(frame(COORDINATOR), 8))
        assert alone.items == [SendConfirmed(8, delivered=False)]

    on_air(air, story)


def test_a_frame_under_way_when_the_link_breaks_is_confirmed_as_not_delivered(air: Path) -> None:
    async def story(ends: Ends) -> None:
        reader, writer = await asyncio.open_unix_connection(str(air))
        writer.write(struct.pack("<HB", 9, 1) + PPMID.octets)
        assert len(await reader.readexactly(6)) == 6
        send(ends.hub, frame(1), tag=3)
        await reader.read(1)
        writer.close()
        await ends.hub_inbox.has(SendConfirmed(3, delivered=False))
        assert sum(isinstance(item, SendConfirmed) for item in ends.hub_inbox.items) == 1

    on_air(air, story)


def test_a_broadcast_reaches_everybody_but_its_sender(air: Path) -> None:
    async def story(ends: Ends) -> None:
        sender, own = await ends.device(PPMID)
        _, other = await ends.device(HCALCS)
        sent = frame(BROADCAST_RX_ON, broadcast=True)
        send(sender, sent)
        await ends.hub_inbox.has(seen_by_peer(sent, 1))
        await other.has(seen_by_peer(sent, 1))
        assert len(own.items) == 1  # its NetworkUp
        send(ends.hub, sent)
        await own.has(seen_by_peer(sent, COORDINATOR))
        await other.has(seen_by_peer(sent, COORDINATOR))

    on_air(air, story)


def test_devices_reach_each_other_through_the_hub(air: Path) -> None:
    async def story(ends: Ends) -> None:
        sender, own = await ends.device(PPMID)
        _, other = await ends.device(HCALCS)
        send(sender, frame(2), tag=1)
        await other.has(seen_by_peer(frame(2), 1))
        await own.has(SendConfirmed(1, delivered=True))
        send(sender, frame(9), tag=2)
        await own.has(SendConfirmed(2, delivered=False))
        assert not any(isinstance(item, FrameReceived) for item in ends.hub_inbox.items)

    on_air(air, story)


def test_the_hubs_radio_answers_service_discovery_by_itself(air: Path) -> None:
    async def story(ends: Ends) -> None:
        device, inbox = await ends.device(PPMID)
        profile = zcl.SMART_ENERGY_PROFILE
        asked = zdo.MatchRequest(5, BROADCAST_RX_ON, profile, (ota.CLUSTER,), ())
        payload = zdo.encode_match_request(asked)
        cluster = zdo.MATCH_DESC_REQ
        request = Frame(BROADCAST_RX_ON, 0, 0, zdo.PROFILE, cluster, payload, broadcast=True)
        send(device, request)
        await inbox.until(lambda items: len(items) == 2)
        answer = inbox.items[1]
        assert isinstance(answer, FrameReceived)
        assert answer.frame.peer == COORDINATOR
        assert answer.frame.cluster == zdo.MATCH_DESC_REQ | zdo.RESPONSE
        found = zdo.decode_match_response(answer.frame.payload)
        assert (found.address, found.endpoints) == (COORDINATOR, (1,))
        assert len(ends.hub_inbox.items) == 1  # the machine behind it saw nothing

    on_air(air, story)


def test_a_devices_radio_answers_service_discovery_by_itself(air: Path) -> None:
    async def story(ends: Ends) -> None:
        _, inbox = await ends.device(PPMID)
        payload = zdo.encode_ieee_request(6, ShortAddress(1))
        request = Frame(ShortAddress(1), 0, 0, zdo.PROFILE, zdo.IEEE_ADDR_REQ, payload)
        send(ends.hub, request)
        await ends.hub_inbox.until(lambda items: len(items) == 2)
        answer = ends.hub_inbox.items[1]
        assert isinstance(answer, FrameReceived)
        assert zdo.decode_address_response(answer.frame.payload).entity_id == PPMID
        assert len(inbox.items) == 1

    on_air(air, story)


def test_a_device_without_a_hub_is_not_joined_and_joins_when_it_comes(air: Path) -> None:
    async def run() -> None:
        inbox = Inbox()
        client = AirClient(air, PPMID, inbox.put)
        task = asyncio.create_task(client.run())
        for _ in range(2):  # the second hub takes over where the first went away
            hub_inbox = Inbox()
            hub = AirServer(air, HUB, hub_inbox.put)
            assert not any(isinstance(item, NetworkUp) for item in inbox.items[-1:])
            await hub.open()
            await hub_inbox.has(PeerAnnounced(ShortAddress(1), PPMID))
            await inbox.until(lambda items: isinstance(items[-1], NetworkUp) if items else False)
            hub.close()
            await inbox.until(lambda items: items[-1] == NetworkDown())
        task.cancel()
        up = NetworkUp(ShortAddress(1), CHANNEL)
        assert inbox.items == [up, NetworkDown(), up, NetworkDown()]

    asyncio.run(run())


@pytest.mark.parametrize(
    "octets",
    [
        struct.pack("<HB", 0, 2) + bytes(16),  # no kind
        struct.pack("<H", PAYLOAD_MAX + 100) + bytes(PAYLOAD_MAX + 100),
        struct.pack("<HB", 3, 1) + bytes(2),  # a join without an entity id
        struct.pack("<HB", 2, 4) + bytes(1),  # a confirm without a tag
        struct.pack("<HB", 9, 1) + PPMID.octets + struct.pack("<HB", 5, 3) + bytes(4),
    ],
)
def test_malformed_messages_end_the_connection_and_nothing_else(air: Path, octets: bytes) -> None:
    async def story(ends: Ends) -> None:
        _, inbox = await ends.device(HCALCS)
        reader, writer = await asyncio.open_unix_connection(str(air))
        writer.write(octets)
        async with asyncio.timeout(LIMIT_S):
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await reader.readexactly(100)
        writer.close()
        send(ends.hub, frame(1))  # the other device is still served
        await inbox.has(seen_by_peer(frame(1), COORDINATOR))
        assert not any(isinstance(item, FrameReceived) for item in ends.hub_inbox.items)

    on_air(air, story)


def test_a_message_in_single_octets_is_read_like_one_in_a_piece(air: Path) -> None:
    async def story(ends: Ends) -> None:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as raw:
            raw.setblocking(False)
            await loop.sock_connect(raw, str(air))
            join = struct.pack("<HB", 9, 1) + PPMID.octets
            sent = struct.pack("<HBHBBHHBI", 15, 3, 0, 1, 1, 0x0109, 0x0019, 0, 0) + b"\x55"
            for octet in join + sent:
                await loop.sock_sendall(raw, bytes([octet]))
            await ends.hub_inbox.until(lambda items: len(items) == 2)
        received = Frame(ShortAddress(1), 1, 1, 0x0109, 0x0019, b"\x55", broadcast=False)
        assert ends.hub_inbox.items == [
            PeerAnnounced(ShortAddress(1), PPMID),
            FrameReceived(received),
        ]

    on_air(air, story)


JOIN = struct.pack("<HB", 9, 1) + PPMID.octets


def test_what_a_slow_reader_leaves_waits_for_it_and_arrives_whole(air: Path) -> None:
    async def story(ends: Ends) -> None:
        reader, writer = await asyncio.open_unix_connection(str(air))
        writer.write(JOIN)
        assert len(await reader.readexactly(6)) == 6
        sent = [frame(1, number.to_bytes(2, "little") * 1000) for number in range(400)]
        size = sum(16 + len(one.payload) for one in sent)
        assert 500_000 < size < UNSENT_MAX  # more than the socket holds
        for one in sent:
            send(ends.hub, one)
        async with asyncio.timeout(LIMIT_S):
            octets = await reader.readexactly(size)
        assert [octets[at + 16 : at + 18] for at in range(0, size, 2016)] == [
            one.payload[:2] for one in sent
        ]
        send(ends.hub, frame(1, b"\x55"))  # and what follows goes out at once again
        async with asyncio.timeout(LIMIT_S):
            assert (await reader.readexactly(17))[-1] == 0x55
        writer.close()

    on_air(air, story)


def test_who_never_reads_is_dropped_and_the_others_are_served(air: Path) -> None:
    async def story(ends: Ends) -> None:
        _, inbox = await ends.device(HCALCS)
        _, writer = await asyncio.open_unix_connection(str(air), limit=1)
        writer.write(JOIN)
        await ends.hub_inbox.has(PeerAnnounced(ShortAddress(2), PPMID))
        for _ in range(2 * UNSENT_MAX // PAYLOAD_MAX):
            send(ends.hub, frame(2, bytes(PAYLOAD_MAX)))
        send(ends.hub, frame(2), tag=9)
        await ends.hub_inbox.has(SendConfirmed(9, delivered=False))
        send(ends.hub, frame(1))
        await inbox.has(seen_by_peer(frame(1), COORDINATOR))
        writer.close()

    on_air(air, story)


FLOOD = """
import socket, struct, sys
raw = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
raw.connect(sys.argv[1])
raw.sendall(struct.pack("<HB", 9, 1) + bytes(8))
while True:
    raw.sendall(100 * struct.pack("<HBHBBHHBI", 14, 3, 0, 1, 1, 0x0109, 0x0019, 0, 0))
"""


def test_the_loop_has_its_turn_while_frames_keep_coming(air: Path) -> None:
    async def story(ends: Ends) -> None:
        flood = await asyncio.create_subprocess_exec(sys.executable, "-c", FLOOD, str(air))
        try:
            await ends.hub_inbox.until(lambda items: len(items) > 100)
            turn = asyncio.Event()
            asyncio.get_running_loop().call_later(0.02, turn.set)
            async with asyncio.timeout(LIMIT_S):
                await turn.wait()
            assert flood.returncode is None
        finally:
            flood.kill()
            await flood.wait()

    on_air(air, story)


def test_a_socket_file_that_nobody_answers_is_replaced_and_one_in_use_is_not(air: Path) -> None:
    listen(air).close()
    assert air.is_socket()
    with listen(air) as listener:
        assert air.stat().st_mode & 0o777 == 0o660
        with pytest.raises(EnvironmentFailure, match="another process listens"):
            listen(air)
        assert listener.getsockname() == str(air)


def test_an_ordinary_file_in_the_sockets_place_is_left_alone(air: Path) -> None:
    air.write_text("mine")
    with pytest.raises(EnvironmentFailure, match="no socket"):
        listen(air)
    assert air.read_text() == "mine"


def test_a_path_too_long_for_a_socket_is_an_error_of_the_environment(air: Path) -> None:
    with pytest.raises(EnvironmentFailure):
        listen(air.parent / ("x" * 200))
