"""The tunnel server takes the hub's tunnels and messages, and nobody else's."""

from __future__ import annotations

import itertools

import pytest
from ota_bench import STRANGER, Chance

from firmware_node.boundary import Frame, FrameReceived, Notify, SendFrame
from firmware_node.errors import RefusedError
from firmware_node.node.tunnel_server import TUNNELS_MAX, MessageReceived, TunnelServer
from firmware_node.terms import COORDINATOR, ShortAddress
from firmware_node.wire import tunneling as t
from firmware_node.wire import zcl
from firmware_node.wire.zcl import Status

REQUEST = t.RequestTunnel(6, 0xFFFF, False, 1500)


class Hub:
    """Speaks to one tunnel server and keeps what it says."""

    def __init__(self) -> None:
        self.chance = Chance()
        self.server = TunnelServer(self.chance)
        self.now = 1_000
        self.frames: list[Frame] = []
        self.notes: list[str] = []
        self.messages: list[MessageReceived] = []

    def say(
        self,
        command: int,
        body: bytes,
        *,
        peer: ShortAddress = COORDINATOR,
        quiet: bool = True,
        to_client: bool = False,
        broadcast: bool = False,
    ) -> None:
        header = zcl.ZclHeader(True, to_client, quiet, None, 55, command)
        self.frame(Frame(peer, 3, 1, 0x0109, t.CLUSTER, zcl.encode(header, body), broadcast))

    def frame(self, frame: Frame | None) -> None:
        self.frames.clear()
        self.notes.clear()
        self.messages.clear()
        for output in self.server.step(None if frame is None else FrameReceived(frame), self.now):
            if isinstance(output, SendFrame):
                self.frames.append(output.frame)
            elif isinstance(output, Notify):
                self.notes.append(output.name)
            elif isinstance(output, MessageReceived):
                self.messages.append(output)

    def open(
        self, request: t.RequestTunnel = REQUEST, peer: ShortAddress = COORDINATOR
    ) -> t.RequestTunnelResponse:
        self.say(t.TO_SERVER_REQUEST_TUNNEL, t.encode_request_tunnel(request), peer=peer)
        header, body = self.only()
        assert header[:3] == (True, True, True)
        assert (header.sequence, header.command) == (55, t.TO_CLIENT_REQUEST_TUNNEL_RESPONSE)
        return t.decode_request_tunnel_response(body)

    def transfer(self, tunnel_id: int, data: bytes, peer: ShortAddress = COORDINATOR) -> None:
        body = t.encode_transfer_data(t.TransferData(tunnel_id, data))
        self.say(t.TO_SERVER_TRANSFER_DATA, body, peer=peer)

    def only(self) -> tuple[zcl.ZclHeader, bytes]:
        (frame,) = self.frames
        assert (frame.peer_endpoint, frame.endpoint, frame.cluster) == (3, 1, t.CLUSTER)
        assert not frame.broadcast
        return zcl.decode_header(frame.payload)

    def default(self) -> tuple[int, int]:
        header, body = self.only()
        assert not header.cluster_specific and header.command == zcl.DEFAULT_RESPONSE
        assert header.to_client and header.sequence == 55
        response = zcl.decode_default_response(body)
        return response.command, response.status

    def error(self) -> t.TransferDataError:
        header, body = self.only()
        assert header.command == t.TO_CLIENT_TRANSFER_DATA_ERROR
        return t.decode_transfer_data_error(body)


def test_the_hubs_tunnel_is_opened_for_1500_octets() -> None:
    hub = Hub()
    response = hub.open()
    assert (response.status, response.transfer_size_max) == (t.STATUS_SUCCESS, 1500)
    assert hub.notes == ["tunnel_opened"]
    assert hub.server.send(b"message", 1) is not None


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (REQUEST._replace(protocol=5), t.STATUS_PROTOCOL_NOT_SUPPORTED),
        (REQUEST._replace(manufacturer_code=0x121D), t.STATUS_PROTOCOL_NOT_SUPPORTED),
        (REQUEST._replace(flow_control=True), t.STATUS_FLOW_CONTROL_NOT_SUPPORTED),
    ],
)
def test_another_protocol_or_flow_control_is_refused_with_its_status(
    request_: t.RequestTunnel, status: int
) -> None:
    hub = Hub()
    response = hub.open(request_)
    assert (response.status, response.tunnel_id) == (status, 0xFFFF)
    assert hub.notes == ["tunnel_refused"]
    assert hub.server.send(b"message", 1) is None


def test_nobody_but_the_hub_gets_a_tunnel() -> None:
    hub = Hub()
    hub.say(t.TO_SERVER_REQUEST_TUNNEL, t.encode_request_tunnel(REQUEST), peer=STRANGER)
    assert hub.default() == (t.TO_SERVER_REQUEST_TUNNEL, Status.NOT_AUTHORIZED)
    assert hub.server.send(b"message", 1) is None


def test_tunnels_are_bounded_and_a_closed_one_makes_room() -> None:
    hub = Hub()
    ids = [hub.open().tunnel_id for _ in range(TUNNELS_MAX)]
    assert len(set(ids)) == TUNNELS_MAX
    assert hub.open().status == t.STATUS_NO_MORE_TUNNEL_IDS
    hub.say(t.TO_SERVER_CLOSE_TUNNEL, t.encode_tunnel_id(ids[0]))
    assert (hub.frames, hub.notes) == ([], ["tunnel_closed"])
    assert hub.open().status == t.STATUS_SUCCESS


def test_tunnel_ids_begin_by_chance_wrap_and_never_meet_an_open_one() -> None:
    hub = Hub()
    hub.chance.draws = [0xFFFD]
    ids = [hub.open().tunnel_id for _ in range(3)]
    assert ids == [0xFFFE, 0, 1]
    assert 0xFFFF not in ids
    hub.server._last_id = 0xFFFD
    assert hub.open().tunnel_id == 2


def test_closing_a_tunnel_that_is_not_open_is_not_found() -> None:
    hub = Hub()
    tunnel_id = hub.open().tunnel_id
    hub.say(t.TO_SERVER_CLOSE_TUNNEL, t.encode_tunnel_id(tunnel_id ^ 1))
    assert hub.default() == (t.TO_SERVER_CLOSE_TUNNEL, Status.NOT_FOUND)
    hub.say(t.TO_SERVER_CLOSE_TUNNEL, t.encode_tunnel_id(tunnel_id), peer=STRANGER)
    assert hub.default() == (t.TO_SERVER_CLOSE_TUNNEL, Status.NOT_FOUND)
    assert hub.server.send(b"message", 1) is not None


@pytest.mark.parametrize("size", [0, 1, 1500])
def test_a_transfer_is_one_message_without_a_header(size: int) -> None:
    hub = Hub()
    tunnel_id = hub.open().tunnel_id
    hub.transfer(tunnel_id, bytes(size))
    assert hub.messages == [MessageReceived(bytes(size), COORDINATOR, tunnel_id)]
    assert hub.frames == []


def test_a_transfer_on_an_unknown_tunnel_is_told_so() -> None:
    hub = Hub()
    hub.transfer(7, b"message")
    assert hub.error() == t.TransferDataError(7, t.ERROR_NO_SUCH_TUNNEL)
    assert hub.messages == []


def test_a_transfer_on_a_tunnel_of_another_is_told_so() -> None:
    hub = Hub()
    tunnel_id = hub.open().tunnel_id
    hub.transfer(tunnel_id, b"message", STRANGER)
    assert hub.error() == t.TransferDataError(tunnel_id, t.ERROR_WRONG_DEVICE)
    assert hub.messages == []


def test_a_transfer_larger_than_agreed_is_an_overflow() -> None:
    hub = Hub()
    tunnel_id = hub.open().tunnel_id
    hub.transfer(tunnel_id, bytes(1501))
    assert hub.error() == t.TransferDataError(tunnel_id, t.ERROR_DATA_OVERFLOW)
    assert hub.messages == []


def test_our_message_leaves_through_the_newest_tunnel_with_its_tag() -> None:
    hub = Hub()
    hub.open()
    newest = hub.open().tunnel_id
    sent = hub.server.send(b"message", 9)
    assert sent is not None and sent.tag == 9
    header, body = zcl.decode_header(sent.frame.payload)
    assert (header.command, header.to_client) == (t.TO_CLIENT_TRANSFER_DATA, True)
    assert t.decode_transfer_data(body) == t.TransferData(newest, b"message")
    assert (sent.frame.peer, sent.frame.peer_endpoint) == (COORDINATOR, 3)


def test_every_message_of_ours_has_its_own_sequence_number() -> None:
    hub = Hub()
    hub.open()
    numbers = []
    for _ in range(300):
        sent = hub.server.send(b"message", 1)
        assert sent is not None
        numbers.append(zcl.decode_header(sent.frame.payload)[0].sequence)
    assert all(one != two for one, two in itertools.pairwise(numbers))


def test_a_message_larger_than_any_tunnel_is_refused() -> None:
    hub = Hub()
    hub.open()
    assert hub.server.send(bytes(1500), 1) is not None
    with pytest.raises(RefusedError):
        hub.server.send(bytes(1501), 1)


def test_a_message_larger_than_the_hub_takes_waits_for_a_tunnel_that_takes_it() -> None:
    hub = Hub()
    hub.open(REQUEST._replace(transfer_size_max=100))
    assert hub.server.send(bytes(101), 1) is None
    hub.open()
    hub.open(REQUEST._replace(transfer_size_max=100))
    assert hub.server.send(bytes(101), 1) is not None


def test_no_message_leaves_without_a_tunnel_or_after_the_network_went() -> None:
    hub = Hub()
    assert hub.server.send(b"message", 1) is None
    hub.open()
    hub.server.network_down()
    assert hub.server.send(b"message", 1) is None
    assert hub.server.wake_at is None


@pytest.mark.parametrize(
    ("status", "lost"),
    [
        (t.ERROR_NO_SUCH_TUNNEL, True),
        (t.ERROR_WRONG_DEVICE, True),
        (t.ERROR_DATA_OVERFLOW, False),
    ],
)
def test_a_tunnel_that_the_hub_does_not_know_is_given_up(status: int, lost: bool) -> None:
    hub = Hub()
    tunnel_id = hub.open().tunnel_id
    error = t.encode_transfer_data_error(t.TransferDataError(tunnel_id, status))
    hub.say(t.TO_SERVER_TRANSFER_DATA_ERROR, error, peer=STRANGER)
    assert (hub.frames, hub.notes) == ([], [])
    hub.say(t.TO_SERVER_TRANSFER_DATA_ERROR, error)
    assert (hub.frames, hub.notes) == ([], ["tunnel_lost"])
    assert (hub.server.send(b"message", 1) is None) is lost


def test_a_tunnel_idle_for_65535_seconds_is_closed_and_the_hub_is_told() -> None:
    hub = Hub()
    tunnel_id = hub.open().tunnel_id
    assert hub.server.wake_at == 1_000 + 65_535_000
    hub.now = 60_000_000
    hub.transfer(tunnel_id, b"message")
    hub.now = 1_000 + 65_535_000
    hub.frame(None)
    assert hub.frames == []
    assert hub.server.wake_at == 60_000_000 + 65_535_000
    hub.now = hub.server.wake_at
    hub.frame(None)
    header, body = hub.only()
    assert header.command == t.TO_CLIENT_TUNNEL_CLOSURE
    assert t.decode_tunnel_id(body) == tunnel_id
    assert hub.server.send(b"message", 1) is None


def test_flow_control_that_was_not_agreed_is_ignored() -> None:
    hub = Hub()
    tunnel_id = hub.open().tunnel_id
    for command in (t.TO_SERVER_ACK_TRANSFER_DATA, t.TO_SERVER_READY_DATA):
        hub.say(command, t.encode_flow_control(t.FlowControl(tunnel_id, 10)))
        assert (hub.frames, hub.notes) == ([], [])


def test_the_one_supported_protocol_is_listed() -> None:
    hub = Hub()
    hub.say(t.TO_SERVER_GET_SUPPORTED_PROTOCOLS, b"\x00")
    header, body = hub.only()
    assert (header.sequence, header.command) == (55, t.TO_CLIENT_SUPPORTED_PROTOCOLS)
    assert t.decode_supported_protocols(body) == t.SupportedProtocols(True, ((0xFFFF, 6),))


def test_success_is_told_only_to_a_hub_that_wants_it_and_never_beside_a_response() -> None:
    hub = Hub()
    hub.say(t.TO_SERVER_REQUEST_TUNNEL, t.encode_request_tunnel(REQUEST), quiet=False)
    header, body = hub.only()
    tunnel_id = t.decode_request_tunnel_response(body).tunnel_id
    assert header.cluster_specific
    transfer = t.encode_transfer_data(t.TransferData(tunnel_id, b"message"))
    hub.say(t.TO_SERVER_TRANSFER_DATA, transfer, quiet=False)
    assert hub.default() == (t.TO_SERVER_TRANSFER_DATA, Status.SUCCESS)
    assert len(hub.messages) == 1


@pytest.mark.parametrize("command", [0x07, 0x42, 0xFF])
def test_an_unknown_command_is_answered_as_unsupported(command: int) -> None:
    hub = Hub()
    hub.say(command, b"")
    assert hub.default() == (command, Status.UNSUP_CLUSTER_COMMAND)


def test_an_answer_to_a_client_is_not_ours() -> None:
    hub = Hub()
    hub.say(t.TO_CLIENT_REQUEST_TUNNEL_RESPONSE, b"", to_client=True)
    assert hub.notes == ["frame_refused"]
    assert hub.server.send(b"message", 1) is None


@pytest.mark.parametrize(
    ("command", "body"),
    [
        (t.TO_SERVER_REQUEST_TUNNEL, t.encode_request_tunnel(REQUEST)),
        (t.TO_SERVER_CLOSE_TUNNEL, b"\x01\x00"),
        (t.TO_SERVER_TRANSFER_DATA, b"\x01\x00"),
        (t.TO_SERVER_TRANSFER_DATA_ERROR, b"\x01\x00\x00"),
        (t.TO_SERVER_ACK_TRANSFER_DATA, b"\x01\x00\x00\x00"),
    ],
)
def test_a_command_cut_anywhere_is_answered_as_malformed(command: int, body: bytes) -> None:
    for size in range(len(body)):
        hub = Hub()
        hub.say(command, body[:size])
        assert hub.default() == (command, Status.MALFORMED_COMMAND)
        hub.say(command, body[:size], broadcast=True)
        assert (hub.frames, hub.notes) == ([], ["frame_refused"])
        assert hub.server.send(b"message", 1) is None


def test_frames_without_a_command_are_dropped() -> None:
    hub = Hub()
    for payload in (b"", b"\x01", b"\x01\x02", b"\x03\x00\x00"):
        hub.frame(Frame(COORDINATOR, 3, 1, 0x0109, t.CLUSTER, payload))
        assert (hub.frames, hub.notes) == ([], ["frame_refused"])
    hub.frame(Frame(COORDINATOR, 3, 1, 0x0109, t.CLUSTER, b"\x08\x01\x0b\x01\x00"))
    assert (hub.frames, hub.notes) == ([], [])
