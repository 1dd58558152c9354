"""What others read of the device, and what it believes of the hub's clock."""

from __future__ import annotations

import pytest
from ota_bench import OWN_ID, STRANGER, Bench

from firmware_node.boundary import Frame, FrameReceived, NetworkDown, NetworkUp, SendFrame
from firmware_node.node.attributes import (
    RESPONSE_SIZE_MAX,
    Attributes,
    TimeClient,
    UtcLearned,
)
from firmware_node.terms import (
    COORDINATOR,
    ActivationSettings,
    DeviceSettings,
    DeviceType,
    ImageKey,
    ShortAddress,
)
from firmware_node.wire import ota, tunneling, zcl
from firmware_node.wire.manufacturer_image import Manifest
from firmware_node.wire.zcl import AttributeValue, Status

SETTINGS = DeviceSettings(DeviceType.HCALCS, OWN_ID, 0x121D, 0x0084, 0x022A, False)
RUNNING = ImageKey(0x121D, 0x0084, 0x01020304)
MANIFEST = Manifest(RUNNING, 0, 0xFFFF, version_string="1.2.3.4", date_code="20240131")
OTA_VALUES = Bench().client.attributes()


def attributes(manifest: Manifest | None = MANIFEST) -> Attributes:
    held = Attributes(SETTINGS)
    held.set_running(RUNNING, manifest)
    return held


def frame_of(
    cluster: int, command: int, body: bytes, *, quiet: bool = True, broadcast: bool = False
) -> Frame:
    header = zcl.ZclHeader(False, False, quiet, None, 33, command)
    return Frame(COORDINATOR, 5, 1, 0x0109, cluster, zcl.encode(header, body), broadcast)


def read(held: Attributes, cluster: int, *wanted: int) -> dict[int, object]:
    """The values of a Read Attributes, by id; an error stands as its status."""
    body = zcl.encode_read_attributes(wanted)
    frame = frame_of(cluster, zcl.READ_ATTRIBUTES, body)
    assert held.claims(frame)
    (effect,) = held.answer(frame, OTA_VALUES)
    assert isinstance(effect, SendFrame)
    assert (effect.frame.peer, effect.frame.peer_endpoint, effect.frame.cluster) == (
        COORDINATOR,
        5,
        cluster,
    )
    header, body = zcl.decode_header(effect.frame.payload)
    assert header == zcl.ZclHeader(False, True, True, None, 33, zcl.READ_ATTRIBUTES_RESPONSE)
    assert len(body) <= RESPONSE_SIZE_MAX
    return {
        record.attribute: record.value if record.status == 0 else Status(record.status)
        for record in zcl.decode_read_attributes_response(body)
    }


def default_of(effects: object) -> tuple[int, int]:
    assert isinstance(effects, tuple)
    (effect,) = effects
    header, body = zcl.decode_header(effect.frame.payload)
    assert header == zcl.ZclHeader(False, True, True, None, 33, zcl.DEFAULT_RESPONSE)
    response = zcl.decode_default_response(body)
    return response.command, response.status


def test_basic_tells_the_running_build() -> None:
    assert read(attributes(), zcl.BASIC_CLUSTER, 0x0000, 0x0001, 0x0003, 0x0007) == {
        0x0000: 8,
        0x0001: 0x04,
        0x0003: 0x02,
        0x0007: 1,
    }
    assert read(attributes(), zcl.BASIC_CLUSTER, 0x0004, 0x0005, 0x0006, 0x4000) == {
        0x0004: b"firmware_node",
        0x0005: b"HCALCS",
        0x0006: b"20240131",
        0x4000: b"1.2.3.4",
    }


def test_basic_of_an_image_without_a_manifest_tells_its_file_version() -> None:
    assert read(attributes(None), zcl.BASIC_CLUSTER, 0x0006, 0x4000) == {
        0x0006: b"",
        0x4000: b"01020304",
    }


def test_strings_are_no_longer_than_the_cluster_allows() -> None:
    long = Manifest(RUNNING, 0, 0xFFFF, version_string="v" * 40, date_code="d" * 40)
    held = attributes(long)
    assert read(held, zcl.BASIC_CLUSTER, 0x0006) == {0x0006: b"d" * 16}
    assert read(held, zcl.BASIC_CLUSTER, 0x4000) == {0x4000: b"v" * 16}


def test_ota_attributes_are_read_live() -> None:
    assert read(attributes(), ota.CLUSTER, 0x0002, 0x0006, 0x000B) == {
        0x0002: 1,
        0x0006: 0,
        0x000B: 0,
    }


def test_the_tunnel_timeout_is_65535_seconds() -> None:
    assert read(attributes(), tunneling.CLUSTER, 0x0000) == {0x0000: 0xFFFF}


def test_an_unknown_attribute_is_named_beside_the_known_ones() -> None:
    assert read(attributes(), zcl.BASIC_CLUSTER, 0x0000, 0x1234) == {
        0x0000: 8,
        0x1234: Status.UNSUPPORTED_ATTRIBUTE,
    }


def test_an_answer_holds_as_many_records_as_fit_a_frame() -> None:
    values = read(attributes(), ota.CLUSTER, *range(0x000D))
    assert list(values) == list(range(len(values)))
    assert 5 <= len(values) <= 13
    assert len(read(attributes(), ota.CLUSTER, *range(0x100, 0x140))) == RESPONSE_SIZE_MAX // 3


@pytest.mark.parametrize("cluster", [zcl.BASIC_CLUSTER, ota.CLUSTER, tunneling.CLUSTER])
@pytest.mark.parametrize("command", [0x02, 0x06, 0x0C, 0x16])
def test_other_general_commands_are_unsupported(cluster: int, command: int) -> None:
    frame = frame_of(cluster, command, b"\x00\x00")
    assert attributes().claims(frame)
    told = default_of(attributes().answer(frame, OTA_VALUES))
    assert told == (command, Status.UNSUP_GENERAL_COMMAND)


def test_a_cluster_that_we_do_not_have_is_unsupported() -> None:
    frame = frame_of(0x0702, zcl.READ_ATTRIBUTES, b"\x00\x00")
    told = default_of(attributes().answer(frame, OTA_VALUES))
    assert told == (zcl.READ_ATTRIBUTES, Status.UNSUPPORTED_CLUSTER)


def test_a_cluster_command_to_basic_is_unsupported() -> None:
    header = zcl.ZclHeader(True, False, True, None, 33, 0x00)  # reset to factory defaults
    frame = Frame(COORDINATOR, 5, 1, 0x0109, zcl.BASIC_CLUSTER, zcl.encode(header))
    assert not attributes().claims(frame)
    told = default_of(attributes().answer(frame, OTA_VALUES))
    assert told == (0x00, Status.UNSUP_CLUSTER_COMMAND)


def test_a_malformed_read_is_answered_so_and_a_broadcast_one_not_at_all() -> None:
    held = attributes()
    frame = frame_of(zcl.BASIC_CLUSTER, zcl.READ_ATTRIBUTES, b"\x00")
    assert default_of(held.answer(frame, {})) == (zcl.READ_ATTRIBUTES, Status.MALFORMED_COMMAND)
    assert held.answer(frame._replace(broadcast=True), {}) == ()


@pytest.mark.parametrize(
    "payload", [b"", b"\x00", b"\x00\x01", b"\x04\x01\x02\x03", b"\x02\x01\x00"]
)
def test_a_frame_without_a_command_is_dropped(payload: bytes) -> None:
    frame = Frame(COORDINATOR, 5, 1, 0x0109, zcl.BASIC_CLUSTER, payload)
    assert attributes().answer(frame, {}) == ()


@pytest.mark.parametrize("command", [zcl.READ_ATTRIBUTES_RESPONSE, zcl.DEFAULT_RESPONSE])
@pytest.mark.parametrize("manufacturer", [None, 0x121D])
def test_responses_are_neither_claimed_nor_answered(command: int, manufacturer: int | None) -> None:
    header = zcl.ZclHeader(False, True, False, manufacturer, 33, command)
    payload = zcl.encode(header, b"\x00\x00")
    frame = Frame(COORDINATOR, 5, 1, 0x0109, zcl.BASIC_CLUSTER, payload)
    assert not attributes().claims(frame)
    assert attributes().answer(frame, {}) == ()


# --- the time ---------------------------------------------------------------------------------

UTC = 800_000_000
NUMBERS = ActivationSettings()


class Clock:
    """The hub's Time cluster in the test's hands."""

    def __init__(self) -> None:
        self.client = TimeClient(NUMBERS)
        self.now = 5_250
        self.asked: list[zcl.ZclHeader] = []

    def take(self, outputs: object) -> list[UtcLearned]:
        assert isinstance(outputs, tuple)
        learned = []
        for output in outputs:
            if isinstance(output, SendFrame):
                assert (output.frame.peer, output.frame.cluster) == (COORDINATOR, 0x000A)
                header, body = zcl.decode_header(output.frame.payload)
                assert zcl.decode_read_attributes(body) == (0, 1)
                self.asked.append(header)
            else:
                learned.append(output)
        return learned

    def up(self) -> Clock:
        self.take(self.client.step(NetworkUp(ShortAddress(1), 15), self.now))
        return self

    def tick(self) -> int:
        assert self.client.wake_at is not None
        passed, self.now = self.client.wake_at - self.now, self.client.wake_at
        self.take(self.client.step(None, self.now))
        return passed

    def answer(
        self,
        *values: AttributeValue,
        sequence: int | None = None,
        peer: ShortAddress = COORDINATOR,
    ) -> list[UtcLearned]:
        sequence = self.asked[-1].sequence if sequence is None else sequence
        header = zcl.ZclHeader(False, True, True, None, sequence, zcl.READ_ATTRIBUTES_RESPONSE)
        payload = zcl.encode(header, zcl.encode_read_attributes_response(values))
        frame = Frame(peer, 1, 1, 0x0109, zcl.TIME_CLUSTER, payload)
        assert self.client.claims(frame)
        return self.take(self.client.step(FrameReceived(frame), self.now))

    def tell(self, utc: int = UTC, status: int = 0x03) -> list[UtcLearned]:
        return self.answer(
            AttributeValue(0, Status.SUCCESS, zcl.UTC_TIME, utc),
            AttributeValue(1, Status.SUCCESS, zcl.BITMAP8, status),
        )


def test_the_hub_is_asked_for_the_time_when_the_network_is_up() -> None:
    clock = Clock()
    assert clock.client.wake_at is None
    assert len(clock.up().asked) == 1


def test_the_time_of_a_master_is_learned_and_runs_on() -> None:
    clock = Clock().up()
    assert clock.tell() == [UtcLearned(UTC)]
    assert clock.client.utc(clock.now) == UTC
    assert clock.client.utc(clock.now + 999) == UTC
    assert clock.client.utc(clock.now + 1_000) == UTC + 1


@pytest.mark.parametrize(
    ("utc", "status"), [(UTC, 0x00), (UTC, 0x02), (UTC, 0xFE), (0xFFFFFFFF, 0x01)]
)
def test_a_clock_that_is_no_master_or_has_no_time_is_not_believed(utc: int, status: int) -> None:
    clock = Clock().up()
    assert clock.tell(utc, status) == []
    assert clock.client.utc(clock.now) is None
    assert clock.tick() == 3_000


def test_an_answer_without_both_attributes_is_not_believed() -> None:
    clock = Clock().up()
    time = AttributeValue(0, Status.SUCCESS, zcl.UTC_TIME, UTC)
    assert clock.answer(time) == []
    assert clock.answer(time, AttributeValue(1, Status.UNSUPPORTED_ATTRIBUTE)) == []
    assert clock.client.utc(clock.now) is None


def test_without_an_answer_the_hub_is_asked_again_with_growing_pauses() -> None:
    clock = Clock().up()
    pauses = [clock.tick() for _ in range(9)]
    assert pauses == [3_000, 6_000, 12_000, 24_000, 48_000, 96_000, 192_000, 300_000, 300_000]
    assert len({header.sequence for header in clock.asked}) == 10


def test_the_time_is_polled_once_a_day_and_with_every_new_network() -> None:
    clock = Clock().up()
    clock.tell()
    assert clock.tick() == NUMBERS.time_poll_s * 1000
    clock.tell()
    assert len(clock.up().asked) == 3


def test_a_late_or_repeated_answer_and_one_of_a_stranger_are_not_believed() -> None:
    clock = Clock().up()
    values = (
        AttributeValue(0, Status.SUCCESS, zcl.UTC_TIME, UTC),
        AttributeValue(1, Status.SUCCESS, zcl.BITMAP8, 1),
    )
    assert clock.answer(*values, sequence=99) == []
    assert clock.answer(*values, peer=STRANGER) == []
    assert clock.answer(*values) == [UtcLearned(UTC)]
    clock.now += 10_000
    assert clock.answer(*values) == []
    assert clock.client.utc(clock.now) == UTC + 10


def test_malformed_answers_are_dropped() -> None:
    clock = Clock().up()
    for payload in (b"", b"\x18\x01", b"\x18\x01\x01\x00", b"\x18\x01\x01\x00\x00\x00\xe2\x00"):
        frame = Frame(COORDINATOR, 1, 1, 0x0109, zcl.TIME_CLUSTER, payload)
        assert clock.client.step(FrameReceived(frame), clock.now) == ()
    assert clock.client.utc(clock.now) is None


def test_requests_to_a_time_server_are_not_the_time_clients() -> None:
    frame = frame_of(zcl.TIME_CLUSTER, zcl.READ_ATTRIBUTES, b"\x00\x00")
    assert not TimeClient.claims(frame)
    assert default_of(attributes().answer(frame, {})) == (
        zcl.READ_ATTRIBUTES,
        Status.UNSUPPORTED_CLUSTER,
    )


def test_an_outage_of_the_network_stops_the_questions_and_not_the_clock() -> None:
    clock = Clock().up()
    clock.tell()
    effects: object = clock.client.step(NetworkDown(), clock.now)
    assert effects == ()
    assert clock.client.wake_at is None
    assert clock.client.utc(clock.now + 60_000) == UTC + 60


def test_a_time_not_renewed_for_two_days_is_stale_and_still_the_best() -> None:
    clock = Clock().up()
    clock.tell()
    late = clock.now + NUMBERS.time_stale_s * 1000 + 1
    assert clock.client.utc(late - 1) is not None
    assert clock.client.utc(late) is None
    assert clock.client.best_utc(late, UTC - 5) == UTC + NUMBERS.time_stale_s
    assert clock.client.best_utc(late, UTC + 10**6) == UTC + 10**6


def test_without_a_time_the_stored_lower_bound_is_the_best() -> None:
    clock = Clock()
    assert clock.client.utc(clock.now) is None
    assert clock.client.best_utc(clock.now, 12_345) == 12_345


def test_a_fresh_time_of_the_hub_outranks_the_stored_bound() -> None:
    clock = Clock().up()
    clock.tell()
    assert clock.client.best_utc(clock.now, UTC + 1_000) == UTC
