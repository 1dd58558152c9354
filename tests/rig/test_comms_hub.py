"""The Comms Hub against a client whose frames are made by hand."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest
from home import ACB, HUB, KEYS, PPMID, image
from hypothesis import given
from hypothesis import strategies as st

from firmware_node.boundary import (
    CarryMessage,
    Delivered,
    Effect,
    Frame,
    FrameReceived,
    Input,
    MessageUp,
    NetworkDown,
    Notify,
    OfferImage,
    PeerAnnounced,
    RebootRequested,
    SendConfirmed,
    SendFrame,
    SetClock,
    Started,
)
from firmware_node.rig.comms_hub import CommsHub, HubSettings, Misbehaviour
from firmware_node.rig.hub_terms import BLOCK_FAULTS, END_FAULTS, QUERY_FAULTS
from firmware_node.rig.memory_storage import Medium, MemoryStorage
from firmware_node.sealing import Verdict, check_signature
from firmware_node.terms import EntityId, ImageFormat, ShortAddress
from firmware_node.tools.image import build_image
from firmware_node.wire.firmware_messages import FirmwareTransferAlert, decode_ccs08_alert
from firmware_node.wire.gbcs import decode_message
from firmware_node.wire.manufacturer_image import Manifest
from firmware_node.wire.ota_file import decode_ota_header

ADDRESS = ShortAddress(0x1000)
OTA, TUNNEL, TIME = 0x0019, 0x0704, 0x000A
UTC = 800_000_000
FILE = image(2, size=1000)
KEY = struct.pack("<HHI", 0x121D, 0x0084, 2)  # the image key of FILE
OLD = struct.pack("<HHI", 0x121D, 0x0084, 1)  # what the client runs
HARDWARE = struct.pack("<H", 0x1111)
SUCCESS, ABORT, WAIT, NO_IMAGE, MALFORMED = 0x00, 0x95, 0x97, 0x98, 0x80


class Client:
    """A device that says what the test wants it to say."""

    def __init__(
        self, *script: Misbehaviour, announced: bool = True, **changes: int | None
    ) -> None:
        values: dict[str, object] = {"utc": UTC, "script": script, **changes}
        self.hub = CommsHub(HubSettings(HUB, ACB, **values), KEYS)  # type: ignore[arg-type]  # names are the test's own
        self.now_ms = 0
        self.sequence = 0
        self.effects: list[Effect] = []
        if announced:
            self.tell(PeerAnnounced(ADDRESS, PPMID))
            self.effects.clear()

    def tell(self, item: Input | None) -> Sequence[Effect]:
        effects = self.hub.step(item, self.now_ms)
        self.effects += effects
        return effects

    def send(self, cluster: int, payload: bytes) -> list[bytes]:
        """The payloads that the hub sends back."""
        frame = Frame(ADDRESS, 1, 1, 0x0109, cluster, payload)
        return payloads(self.tell(FrameReceived(frame)))

    def ask(
        self, command: int, body: bytes, cluster: int = OTA, control: int = 0x01
    ) -> list[bytes]:
        self.sequence = (self.sequence + 1) & 0xFF
        return self.send(cluster, bytes((control, self.sequence, command)) + body)

    def offer(self, file: bytes = FILE, *who: EntityId) -> Sequence[Effect]:
        return self.tell(OfferImage("request", file, who or (PPMID,)))

    def query(self, hardware: bytes = HARDWARE) -> list[bytes]:
        return self.ask(0x01, b"\x01" + OLD + hardware)

    def block(self, offset: int, size: int = 50, key: bytes = KEY) -> list[bytes]:
        return self.ask(0x03, b"\0" + key + struct.pack("<IB", offset, size))

    def page(self, offset: int, size: int, spacing: int, block: int = 50) -> list[bytes]:
        return self.ask(0x04, b"\0" + KEY + struct.pack("<IBHH", offset, block, size, spacing))

    def end(self, status: int = SUCCESS, key: bytes = KEY) -> list[bytes]:
        return self.ask(0x06, bytes((status,)) + key)

    def wait_until(self, now_ms: int) -> list[bytes]:
        """Fire every timer up to then; the payloads that were sent."""
        sent: list[bytes] = []
        while (at := self.hub.wake_at) is not None and at <= now_ms:
            self.now_ms = max(self.now_ms, at)
            sent += payloads(self.tell(None))
        self.now_ms = now_ms
        return sent

    def open_tunnel(self, tunnel_id: int = 7) -> list[bytes]:
        return self.ask(0x00, struct.pack("<HBH", tunnel_id, 0, 1500), TUNNEL, 0x09)

    def deliveries(self) -> list[str]:
        return [effect.status for effect in self.effects if isinstance(effect, Delivered)]

    def alerts(self) -> list[FirmwareTransferAlert]:
        """The payloads of the alerts, each with a good signature of the hub's certificate."""
        alerts = []
        for effect in self.effects:
            if isinstance(effect, MessageUp):
                message = decode_message(effect.message)
                assert message.header.originator == HUB
                assert message.header.recipient == ACB
                assert message.header.message_code == 0x0128
                assert check_signature(message, KEYS) is Verdict.VALID
                alerts.append(decode_ccs08_alert(message.payload))
        return alerts


def payloads(effects: Sequence[Effect]) -> list[bytes]:
    return [effect.frame.payload for effect in effects if isinstance(effect, SendFrame)]


def data_of(payload: bytes, file: bytes = FILE) -> bytes:
    """The data of a good Image Block Response at the offset it names."""
    assert payload[0] == 0x19
    assert payload[2:4] == b"\x05\x00"
    assert payload[4:12] == KEY
    offset, size = struct.unpack_from("<IB", payload, 12)
    data = payload[17:]
    assert len(data) == size
    assert file[offset : offset + size] == data
    return data


def default_response(payload: bytes) -> tuple[int, int]:
    """Command and status of a Default Response, server to client."""
    assert payload[0] & 0x0B == 0x08
    assert payload[2] == 0x0B
    assert len(payload) == 5
    return payload[3], payload[4]


# --- offers and queries ---------------------------------------------------------------------------


def test_an_offer_is_announced_to_the_device_it_is_for() -> None:
    client = Client()
    (payload,) = payloads(client.offer())
    assert payload[0] == 0x19
    assert payload[2:] == b"\x00\x03\x64" + KEY
    assert client.deliveries() == ["offered"]


def test_an_offer_to_an_absent_device_is_announced_when_it_joins() -> None:
    client = Client(announced=False)
    assert payloads(client.offer()) == []
    assert client.deliveries() == ["unknown_device"]
    tunnel, notify = payloads(client.tell(PeerAnnounced(ADDRESS, PPMID)))
    assert tunnel[2:] == b"\x00\x06\xff\xff\x00\xdc\x05"
    assert notify[2:5] == b"\x00\x03\x64"
    assert client.deliveries() == ["unknown_device", "offered"]


def test_a_query_is_answered_with_key_and_size() -> None:
    client = Client()
    client.offer()
    (payload,) = client.query()
    assert payload == bytes((0x19, client.sequence, 0x02, 0)) + KEY + struct.pack("<I", len(FILE))
    assert client.deliveries() == ["offered", "downloading"]


@pytest.mark.parametrize(
    "key",
    [
        struct.pack("<HHI", 0x121D, 0x0085, 1),
        struct.pack("<HHI", 0x121E, 0x0084, 1),
        KEY,  # it runs already
    ],
)
def test_a_query_for_something_else_finds_no_image(key: bytes) -> None:
    client = Client()
    client.offer()
    (payload,) = client.ask(0x01, b"\0" + key)
    assert payload[2:] == bytes((0x02, NO_IMAGE))


def test_a_query_without_an_offer_finds_no_image() -> None:
    (payload,) = Client().query()
    assert payload[2:] == bytes((0x02, NO_IMAGE))


def test_an_offer_to_another_device_is_not_served() -> None:
    client = Client()
    client.offer(FILE, EntityId(bytes(8)))
    assert client.query()[0][2:] == bytes((0x02, NO_IMAGE))
    assert client.block(0)[0][2:] == bytes((0x05, ABORT))


def test_a_newer_offer_takes_the_place_of_the_older() -> None:
    client = Client()
    client.offer()
    client.offer(image(3, size=1000))
    assert client.query()[0][4:12] == struct.pack("<HHI", 0x121D, 0x0084, 3)
    assert client.block(0)[0][2:] == bytes((0x05, ABORT))


# --- the four codes of CCS08 ----------------------------------------------------------------------


def test_a_file_that_is_no_ota_file_is_discarded_with_code_1() -> None:
    client = Client()
    client.offer(FILE[:-1])
    (alert,) = client.alerts()
    assert (alert.alert_code, alert.response_code, alert.entity_id) == (0x8F89, 1, PPMID)
    assert client.deliveries() == ["discarded"]
    assert client.query()[0][2:] == bytes((0x02, NO_IMAGE))


@pytest.mark.parametrize("hardware", [0x1110, 0x1212])
def test_hardware_out_of_range_finds_no_image_and_raises_code_2(hardware: int) -> None:
    client = Client()
    client.offer()
    (payload,) = client.query(struct.pack("<H", hardware))
    assert payload[2:] == bytes((0x02, NO_IMAGE))
    (alert,) = client.alerts()
    assert (alert.alert_code, alert.response_code) == (0x8F89, 2)
    assert alert.firmware_version == 2
    assert client.deliveries()[-1] == "hardware_mismatch"
    assert client.block(0)[0][2:] == bytes((0x05, ABORT))


def test_a_device_that_does_not_tell_its_hardware_is_served() -> None:
    client = Client()
    client.offer()
    (payload,) = client.ask(0x01, b"\0" + OLD)
    assert payload[2:4] == bytes((0x02, SUCCESS))


def test_a_refused_image_raises_code_3_and_ends_the_offer() -> None:
    client = Client()
    client.offer()
    assert default_response(client.end(0x96)[0]) == (0x06, SUCCESS)
    (alert,) = client.alerts()
    assert (alert.alert_code, alert.response_code) == (0x8F89, 3)
    assert client.deliveries()[-1] == "transfer_failed"
    assert client.query()[0][2:] == bytes((0x02, NO_IMAGE))


def test_a_failure_without_an_image_key_counts_too() -> None:
    client = Client()
    client.offer()
    client.end(0x96, b"")
    assert [alert.response_code for alert in client.alerts()] == [3]


def test_a_device_that_goes_quiet_raises_code_3_after_the_timeout() -> None:
    client = Client(transfer_timeout_s=60)
    client.open_tunnel()
    client.offer()
    client.wait_until(50_000)
    client.block(0)
    client.wait_until(109_999)
    assert client.alerts() == []
    client.wait_until(110_000)
    assert [alert.response_code for alert in client.alerts()] == [3]
    assert client.alerts()[0].at == UTC + 110
    assert client.block(50)[0][2:] == bytes((0x05, ABORT))


def test_a_whole_transfer_raises_success_once() -> None:
    client = Client()
    client.offer()
    first, second = client.end()[0], client.end()[0]
    times = struct.pack("<II", UTC, UTC)
    assert first[2:] == second[2:] == b"\x07" + KEY + times
    (alert,) = client.alerts()
    assert (alert.alert_code, alert.response_code) == (0x8F8A, 0)
    assert (alert.entity_id, alert.firmware_version, alert.at) == (PPMID, 2, UTC)
    assert client.deliveries() == ["offered", "transferred", "activating"]


def test_an_end_for_an_image_that_is_not_on_offer_is_not_found() -> None:
    client = Client()
    assert default_response(client.end()[0]) == (0x06, 0x8B)
    client.offer()
    assert default_response(client.end(SUCCESS, OLD)[0]) == (0x06, 0x8B)
    assert client.alerts() == []


def test_counters_of_alerts_rise_and_go_on_after_a_restart() -> None:
    medium = Medium(4096)
    counters = []
    for _ in range(2):
        storage = MemoryStorage(medium)
        hub = CommsHub(HubSettings(HUB, ACB, first_counter=5), KEYS, storage.records)
        for _ in range(2):
            for effect in hub.step(OfferImage("r", b"", (PPMID,)), 0):
                if isinstance(effect, MessageUp):
                    counters.append(decode_message(effect.message).header.originator_counter)
        storage.commit()
    assert counters == [5, 6, 7, 8]


# --- blocks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("asked", "cap"), [(50, 255), (63, 31), (255, 255), (1, 255)])
def test_blocks_give_the_whole_file_and_never_more_than_the_cap(asked: int, cap: int) -> None:
    client = Client(block_size_max=cap)
    client.offer()
    received = b""
    while len(received) < len(FILE):
        (payload,) = client.block(len(received), asked)
        assert payload[1] == client.sequence
        data = data_of(payload)
        assert 0 < len(data) <= min(asked, cap)
        received += data
    assert received == FILE


def test_a_block_request_with_optional_fields_gets_the_same_answer() -> None:
    client = Client()
    client.offer()
    (plain,) = client.block(100)
    request = KEY + struct.pack("<IB", 100, 50)
    (with_both,) = client.ask(0x03, b"\x03" + request + PPMID.octets[::-1] + b"\x64\x00")
    assert with_both[2:] == plain[2:]


@pytest.mark.parametrize("offset", [len(FILE), len(FILE) + 1, 0xFFFFFFFF])
def test_a_block_past_the_end_aborts(offset: int) -> None:
    client = Client()
    client.offer()
    assert client.block(offset)[0][2:] == bytes((0x05, ABORT))


def test_a_block_of_another_version_aborts() -> None:
    client = Client()
    client.offer()
    assert client.block(0, key=OLD)[0][2:] == bytes((0x05, ABORT))


def test_a_block_of_no_octets_is_malformed() -> None:
    client = Client()
    client.offer()
    assert default_response(client.block(0, 0)[0]) == (0x03, MALFORMED)


def test_blocks_asked_too_soon_wait_for_the_period() -> None:
    client = Client(block_period=200)
    client.offer()
    data_of(client.block(0)[0])
    client.now_ms = 199
    (payload,) = client.block(50)
    assert payload[2:] == bytes((0x05, WAIT)) + struct.pack("<IIH", 0, 0, 200)
    client.now_ms = 200
    data_of(client.block(50)[0])


def test_a_page_comes_block_by_block_with_its_spacing() -> None:
    client = Client()
    client.open_tunnel()
    client.offer()
    received = [data_of(payload) for payload in client.page(0, 220, 30)]
    assert len(received) == 1
    for now_ms in (30, 60, 90):
        assert client.hub.wake_at == now_ms
        received += [data_of(payload) for payload in client.wait_until(now_ms)]
    assert [len(data) for data in received] == [50, 50, 50, 50]
    received += [data_of(payload) for payload in client.wait_until(120)]
    assert b"".join(received) == FILE[:220]
    assert client.wait_until(10_000) == []


def test_a_page_without_spacing_comes_at_once_and_ends_with_the_file() -> None:
    client = Client()
    client.offer()
    sent = client.page(900, 0xFFFF, 0)
    assert b"".join(map(data_of, sent)) == FILE[900:]


@pytest.mark.parametrize(("size", "block"), [(0, 50), (100, 0)])
def test_a_page_of_nothing_is_malformed(size: int, block: int) -> None:
    client = Client()
    client.offer()
    assert default_response(client.page(0, size, 0, block)[0]) == (0x04, MALFORMED)


def test_a_hub_without_pages_says_so() -> None:
    client = Client(pages=False)
    client.offer()
    assert default_response(client.page(0, 100, 0)[0]) == (0x04, 0x81)


def test_a_restart_of_the_device_ends_its_page() -> None:
    client = Client()
    client.offer()
    client.page(0, 500, 30)
    client.tell(PeerAnnounced(ShortAddress(0x1001), PPMID))
    assert client.wait_until(1_000) == []


def test_a_specific_file_is_given_to_the_node_it_is_on_offer_for() -> None:
    client = Client()
    client.offer()
    node = PPMID.octets[::-1]
    (payload,) = client.ask(0x08, node + KEY + b"\x02\x00")
    assert payload[2:] == b"\x09\x00" + KEY + struct.pack("<I", len(FILE))
    for request in (bytes(8) + KEY, node + OLD):
        (payload,) = client.ask(0x08, request + b"\x02\x00")
        assert payload[2:] == bytes((0x09, NO_IMAGE))


# --- the end of an upgrade ------------------------------------------------------------------------


def test_a_later_activation_stays_at_its_time_however_often_it_is_asked_for() -> None:
    client = Client(activate_after_s=5_000)
    client.offer()
    assert client.end()[0][11:] == struct.pack("<II", UTC, UTC + 5_000)
    client.now_ms = 3_600_000
    assert client.end()[0][11:] == struct.pack("<II", UTC + 3_600, UTC + 5_000)
    client.now_ms = 7_200_000
    assert client.end()[0][11:] == struct.pack("<II", UTC + 7_200, UTC + 7_200)


def test_a_held_activation_is_let_go_when_told() -> None:
    client = Client(activate_after_s=None)
    client.offer()
    assert list(client.hub.activate(PPMID, 0)) == []
    assert client.end()[0][15:] == b"\xff\xff\xff\xff"
    assert client.deliveries() == ["offered", "transferred"]
    effects = client.hub.activate(PPMID, 9_000)
    assert payloads(effects)[0][2:] == b"\x07" + KEY + struct.pack("<II", UTC + 9, UTC + 9)
    assert Delivered("request", PPMID, "activating") in effects
    assert list(client.hub.activate(EntityId(bytes(8)), 0)) == []


@pytest.mark.parametrize("out_of_band", [True, False])
def test_the_request_and_not_the_image_says_whether_the_hub_activates(out_of_band: bool) -> None:
    manifest = Manifest(decode_ota_header(FILE).image, 0x1111, 0x1211)
    supplier = KEYS.signing_key(EntityId.parse("90B3D51F30010000"))
    file = build_image(manifest, kind=ImageFormat.GB_SUPPLIER_SIGNED, supplier_key=supplier)
    client = Client(activate_after_s=0)
    client.tell(OfferImage("request", file, (PPMID,), out_of_band))
    upgrade_time = client.end()[0][15:]
    assert (upgrade_time == b"\xff\xff\xff\xff") is out_of_band
    assert ("activating" in client.deliveries()) is not out_of_band


def test_an_image_that_was_transferred_is_not_pressed_on_a_device_that_went_back() -> None:
    client = Client()
    client.offer()
    client.end()
    assert client.query()[0][2:] == bytes((0x02, NO_IMAGE))


def test_an_offer_is_over_when_the_device_runs_its_image() -> None:
    client = Client()
    client.offer()
    client.end()
    client.ask(0x01, b"\0" + KEY)
    assert client.hub.status(0)["offers"] == []
    assert default_response(client.end()[0]) == (0x06, 0x8B)


# --- misbehaviour ---------------------------------------------------------------------------------


def unlike(what: str, sent: list[bytes]) -> bool:
    """Whether the answer to a block request at 0 went wrong in this way."""
    match what:
        case "silence" | "reordered" | "late":
            return sent == []
        case "abort":
            return sent[0][2:] == bytes((0x05, ABORT))
        case "wait":
            return sent[0][2:] == bytes((0x05, WAIT)) + struct.pack("<II", UTC, UTC + 1)
        case "bad_time":
            return sent[0][2:] == bytes((0x05, WAIT)) + struct.pack("<II", UTC, UTC - 1)
        case "wrong_offset":
            return sent[0][12:16] == struct.pack("<I", 1)
        case "wrong_image":
            return sent[0][2:4] == b"\x05\x00" and sent[0][4:12] != KEY
        case "corrupted":
            wrong = [a ^ b for a, b in zip(sent[0][17:], FILE[:50], strict=True)]
            return sorted(wrong)[-2:] == [0, 1]
        case "truncated":
            return sent[0][16] == 50 and len(sent[0]) == 17 + 49
        case "oversized":
            return sent[0][16] == 255 and len(sent[0]) == 17 + 255
        case "malformed":
            return sent[0][2:] == b"\x05"
        case "repeated":
            return len(sent) == 2 and data_of(sent[0]) == data_of(sent[1])
        case "default_error":
            return default_response(sent[0]) == (0x03, 0x01)
    raise AssertionError(what)


@pytest.mark.parametrize("what", BLOCK_FAULTS)
def test_a_scripted_block_goes_wrong_as_often_as_told_and_then_well(what: str) -> None:
    client = Client(Misbehaviour(what, times=1))
    client.offer()
    assert unlike(what, client.block(0))
    assert client.hub.fired == [what]
    if what == "late":
        assert data_of(client.wait_until(4_000)[-1]) == FILE[:50]
    sent = client.block(50)
    assert data_of(sent[0]) == FILE[50:100]
    if what == "reordered":
        assert data_of(sent[1]) == FILE[:50]
    assert data_of(client.block(100)[0]) == FILE[100:150]
    assert client.hub.fired == [what]


@pytest.mark.parametrize("what", QUERY_FAULTS)
def test_a_scripted_query_goes_wrong_as_often_as_told_and_then_well(what: str) -> None:
    client = Client(Misbehaviour(what, times=2))
    client.offer()
    good = b"\x02\x00" + KEY + struct.pack("<I", len(FILE))
    for _ in range(2):
        assert [payload[2:] for payload in client.query()] != [good]
    assert [payload[2:] for payload in client.query()] == [good]
    assert client.hub.fired == [what] * 2


@pytest.mark.parametrize("what", END_FAULTS)
def test_a_scripted_end_goes_wrong_as_often_as_told_and_then_well(what: str) -> None:
    client = Client(Misbehaviour(what, times=2))
    client.offer()
    good = b"\x07" + KEY + struct.pack("<II", UTC, UTC)
    for _ in range(2):
        assert [payload[2:] for payload in client.end()] != [good]
    assert [payload[2:] for payload in client.end()] == [good]
    assert client.hub.fired == [what] * 2
    assert len(client.alerts()) == 1


def test_a_fault_waits_for_its_offset_and_its_request() -> None:
    client = Client(
        Misbehaviour("abort", from_offset=100), Misbehaviour("silence", times=2, from_request=5)
    )
    client.offer()
    answers = [client.block(offset) for offset in (0, 50, 100, 100, 150, 150, 150)]
    assert [len(sent) for sent in answers] == [1, 1, 1, 1, 0, 0, 1]
    assert client.hub.fired == ["abort", "silence", "silence"]


def test_blocks_of_a_page_go_wrong_too() -> None:
    client = Client(Misbehaviour("silence", from_offset=50))
    client.offer()
    sent = client.page(0, 200, 0)
    assert [struct.unpack_from("<I", payload, 12)[0] for payload in sent] == [0, 100, 150]


def test_an_unknown_misbehaviour_is_refused_when_it_is_written_down() -> None:
    with pytest.raises(ValueError, match="sulking"):
        Misbehaviour("sulking")


# --- time -----------------------------------------------------------------------------------------


def read_time(client: Client) -> bytes:
    (payload,) = client.ask(0x00, b"\x00\x00\x01\x00\x02\x00", TIME, control=0x00)
    assert payload[0] & 0x0B == 0x08
    assert payload[2] == 0x01
    return payload[3:]


def test_time_runs_with_the_clock_and_is_said_to_be_the_masters() -> None:
    client = Client()
    client.now_ms = 61_999
    expected = b"\x00\x00\x00\xe2" + struct.pack("<I", UTC + 61)
    assert read_time(client) == expected + b"\x01\x00\x00\x18\x01" + b"\x02\x00\x86"


def test_a_clock_that_is_set_goes_on_from_there() -> None:
    client = Client()
    client.now_ms = 10_000
    client.tell(SetClock(900_000_000))
    client.now_ms = 15_000
    assert read_time(client)[4:8] == struct.pack("<I", 900_000_005)


def test_a_hub_without_the_time_says_so() -> None:
    assert read_time(Client(time_master=False))[12] == 0


# --- tunnel ---------------------------------------------------------------------------------------

REQUEST_TUNNEL = b"\x00\x06\xff\xff\x00\xdc\x05"
MESSAGE = bytes(range(40))


def requests(sent: list[bytes]) -> int:
    return sum(payload[0] & 0x09 == 0x01 and payload[2:] == REQUEST_TUNNEL for payload in sent)


def transfer(client: Client, effects: Sequence[Effect]) -> tuple[int, bytes]:
    """Tag and payload of the one TransferData among the effects."""
    found = [
        (effect.tag, effect.frame.payload)
        for effect in effects
        if isinstance(effect, SendFrame) and effect.tag
    ]
    assert len(found) == 1
    assert found[0][1][2] == 0x02
    return found[0]


def test_an_unanswered_tunnel_request_is_repeated_for_ever() -> None:
    client = Client()
    assert requests(client.wait_until(9_999)) == 0
    assert requests(client.wait_until(10_000)) == 1
    assert requests(client.wait_until(30_000)) == 1
    assert requests(client.wait_until(3_600_000)) >= 18


def test_a_busy_device_is_asked_again_after_three_minutes() -> None:
    client = Client()
    client.ask(0x00, struct.pack("<HBH", 0xFFFF, 1, 1500), TUNNEL, 0x09)
    assert requests(client.wait_until(179_999)) == 0
    assert requests(client.wait_until(180_000)) == 1
    client.open_tunnel()
    assert client.hub.status(0)["devices"][0]["tunnel"] is True  # type: ignore[index]


def test_a_tunnel_is_renewed_when_its_time_is_over_and_the_old_one_closed() -> None:
    client = Client()
    client.open_tunnel(7)
    assert requests(client.wait_until(65_534_999)) == 0
    assert requests(client.wait_until(65_535_000)) == 1
    (close,) = client.open_tunnel(8)
    assert close[2:] == b"\x01\x07\x00"


def test_a_device_without_more_ids_has_its_tunnels_closed_and_is_asked_again() -> None:
    client = Client()
    client.open_tunnel(7)
    client.wait_until(65_535_000)
    sent = client.ask(0x00, struct.pack("<HBH", 0xFFFF, 2, 1500), TUNNEL, 0x09)
    assert [payload[2:] for payload in sent] == [b"\x01\x07\x00", REQUEST_TUNNEL]
    again = client.ask(0x00, struct.pack("<HBH", 0xFFFF, 2, 1500), TUNNEL, 0x09)
    assert again == []  # and then after three minutes, like a busy one
    assert requests(client.wait_until(65_535_000 + 180_000)) == 1


def test_a_device_without_more_ids_that_we_know_of_has_the_lowest_closed() -> None:
    client = Client()
    sent = client.ask(0x00, struct.pack("<HBH", 0xFFFF, 2, 1500), TUNNEL, 0x09)
    assert [payload[2:5] for payload in sent[:-1]] == [bytes((1, n, 0)) for n in range(8)]
    assert sent[-1][2:] == REQUEST_TUNNEL


def test_a_message_waits_for_the_tunnel_and_leaves_when_it_is_confirmed() -> None:
    client = Client()
    assert payloads(client.tell(CarryMessage(PPMID, MESSAGE))) == []
    client.open_tunnel(7)
    tag, payload = transfer(client, client.effects)
    assert payload[0] == 0x01
    assert payload[3:] == b"\x07\x00" + MESSAGE
    assert client.hub.status(0)["devices"][0]["waiting"] == 1  # type: ignore[index]
    client.tell(SendConfirmed(tag, delivered=True))
    assert client.deliveries() == ["delivered"]
    assert client.hub.status(0)["devices"][0]["waiting"] == 0  # type: ignore[index]


def test_messages_leave_one_at_a_time_and_in_order() -> None:
    client = Client()
    client.open_tunnel()
    tag, first = transfer(client, client.tell(CarryMessage(PPMID, b"one")))
    assert payloads(client.tell(CarryMessage(PPMID, b"two"))) == []
    _, second = transfer(client, client.tell(SendConfirmed(tag, delivered=True)))
    assert (first[5:], second[5:]) == (b"one", b"two")


@pytest.mark.parametrize("is_told", [True, False])
def test_an_undelivered_message_is_sent_again(is_told: bool) -> None:
    client = Client()
    client.open_tunnel()
    tag, payload = transfer(client, client.tell(CarryMessage(PPMID, MESSAGE)))
    if is_told:
        client.tell(SendConfirmed(tag, delivered=False))
    client.effects.clear()
    client.wait_until(5_000 if is_told else 20_000)
    tag, again = transfer(client, client.effects)
    assert again[2:] == payload[2:]
    client.tell(SendConfirmed(tag, delivered=True))
    assert client.deliveries() == ["delivered"]


def test_a_message_that_met_no_tunnel_is_sent_again_through_a_new_one() -> None:
    client = Client()
    client.open_tunnel(7)
    tag, _ = transfer(client, client.tell(CarryMessage(PPMID, MESSAGE)))
    client.tell(SendConfirmed(tag, delivered=True))
    sent = client.ask(0x02, b"\x07\x00\x00", TUNNEL, 0x09)
    assert requests(sent) == 1
    client.effects.clear()
    client.open_tunnel(8)
    client.wait_until(10_000)
    _, payload = transfer(client, client.effects)
    assert payload[3:] == b"\x08\x00" + MESSAGE


def test_a_tunnel_that_the_device_closes_is_asked_for_again() -> None:
    client = Client()
    client.open_tunnel(7)
    assert requests(client.ask(0x06, b"\x07\x00", TUNNEL, 0x09)) == 1
    assert client.ask(0x06, b"\x07\x00", TUNNEL, 0x09) == []


def test_a_message_too_large_for_the_device_is_given_up() -> None:
    client = Client()
    client.open_tunnel(7)
    client.tell(CarryMessage(PPMID, bytes(1501)))
    assert client.deliveries() == ["no_route"]
    client.tell(CarryMessage(PPMID, MESSAGE))
    client.ask(0x02, b"\x07\x00\x02", TUNNEL, 0x09)
    assert client.deliveries() == ["no_route", "no_route"]
    assert client.hub.status(0)["devices"][0]["waiting"] == 0  # type: ignore[index]


def test_a_message_is_given_up_after_a_day() -> None:
    client = Client()
    client.tell(CarryMessage(PPMID, MESSAGE))
    client.wait_until(24 * 3_600_000 - 1)
    assert client.deliveries() == []
    client.wait_until(24 * 3_600_000)
    assert client.deliveries() == ["no_route"]


def test_no_more_than_64_messages_wait_for_a_device() -> None:
    client = Client()
    for _ in range(65):
        client.tell(CarryMessage(PPMID, MESSAGE))
    assert client.deliveries() == ["no_route"]


def test_a_message_to_an_unknown_device_has_no_way() -> None:
    client = Client()
    client.tell(CarryMessage(EntityId(bytes(8)), MESSAGE))
    assert client.deliveries() == ["unknown_device"]


@pytest.mark.parametrize(("is_set", "control"), [(True, 0x09), (True, 0x19), (False, 0x09)])
def test_what_comes_up_is_handed_on_and_answered_where_it_is_wanted(
    is_set: bool, control: int
) -> None:
    client = Client(default_responses=is_set)
    sent = client.ask(0x01, b"\x07\x00" + MESSAGE, TUNNEL, control)
    assert MessageUp(MESSAGE) in client.effects
    if is_set and control == 0x09:
        payload = sent[0]
        assert payload[0] & 0x0B == 0x00  # general, client to server
        assert payload[2:] == b"\x0b\x01\x00"
    else:
        assert sent == []


# --- what is malformed or strange -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("cluster", "control", "command", "body"),
    [
        (OTA, 0x01, 0x01, b""),
        (OTA, 0x01, 0x03, b"\0" + KEY),
        (OTA, 0x01, 0x04, b"\0" + KEY),
        (OTA, 0x01, 0x06, b"\0"),
        (OTA, 0x01, 0x08, b"\0"),
        (TUNNEL, 0x09, 0x00, b"\0"),
        (TUNNEL, 0x09, 0x02, b"\0"),
        (TUNNEL, 0x09, 0x05, b"\x02\x00"),
        (TIME, 0x00, 0x00, b"\0"),
    ],
)
def test_a_malformed_command_is_answered_so(
    cluster: int, control: int, command: int, body: bytes
) -> None:
    client = Client()
    client.offer()
    (payload,) = client.ask(command, body, cluster, control)
    assert payload[2:] == bytes((0x0B, command, MALFORMED))
    assert isinstance(client.effects[-2], Notify)
    assert client.query()[0][3] == SUCCESS


@pytest.mark.parametrize(
    ("cluster", "control", "command", "status"),
    [
        (OTA, 0x01, 0x0A, 0x81),
        (TUNNEL, 0x09, 0x0A, 0x81),
        (TIME, 0x01, 0x00, 0x81),
        (0x0702, 0x01, 0x00, 0xC3),
        (OTA, 0x00, 0x02, 0x82),
    ],
)
def test_an_unknown_command_is_answered_so(
    cluster: int, control: int, command: int, status: int
) -> None:
    (payload,) = Client().ask(command, b"", cluster, control)
    assert payload[2:] == bytes((0x0B, command, status))


@pytest.mark.parametrize("body", [b"\x03\x00", b"\x03\x96", b""])
def test_a_default_response_is_never_answered(body: bytes) -> None:
    assert Client().ask(0x0B, body, OTA, control=0x00) == []


def test_a_stranger_is_not_answered() -> None:
    client = Client(announced=False)
    client.offer()
    assert client.query() == client.block(0) == []


def test_the_hub_takes_no_operators_button() -> None:
    with pytest.raises(TypeError):
        Client().tell(RebootRequested())
    assert Client().tell(Started()) == Client().tell(NetworkDown()) == ()


@given(
    st.sampled_from([OTA, TUNNEL, TIME, 0x0000]),
    st.integers(0, 0x1F),
    st.integers(0, 12),
    st.binary(max_size=40),
)
def test_whatever_a_device_sends_the_next_one_is_served(
    cluster: int, control: int, command: int, body: bytes
) -> None:
    client = Client()
    client.offer()
    client.ask(command, body, cluster, control)
    client.send(cluster, body)
    client.tell(OfferImage("again", FILE, (PPMID,)))
    assert client.query()[0][3] == SUCCESS
    assert data_of(client.block(0)[0]) == FILE[:50]
