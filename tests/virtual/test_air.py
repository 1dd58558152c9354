"""The shared air: filters, fates, airtime, each fault with proof that it struck, repeatability."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from malformed import assert_flips_raise_nothing_else

from firmware_node.errors import DecodeError
from firmware_node.virtual import air
from firmware_node.virtual.air import (
    LATE_US,
    AirSettings,
    Event,
    Fate,
    Flown,
    Heard,
    Medium,
    Sent,
    Tuning,
)
from firmware_node.wire import mac

PAN = 0x1A62
IEEE = [bytes((n,)) * 8 for n in range(4)]
FAR = 10_000_000


def medium(settings: AirSettings | None = None, stations: int = 3) -> Medium:
    """Stations 0, 1, 2, … with short addresses 0x1000, 0x1001, … in one network."""
    made = Medium(settings or AirSettings())
    for number in range(stations):
        made.tune(number, Tuning(15, PAN, 0x1000 + number, IEEE[number]))
    return made


def frame(destination: int = 0x1001, pan: int = PAN, size: int = 20, sequence: int = 1) -> bytes:
    ack = destination < 0xFFF8
    return mac.encode_data(sequence, pan, destination, 0x1000, bytes(size), ack=ack)


def hearing(events: list[Event]) -> list[int]:
    return [event.station for event in events if isinstance(event, Heard)]


def fates(events: list[Event]) -> list[Fate]:
    return [event.fate for event in events if isinstance(event, Sent)]


def test_a_unicast_reaches_its_address_alone_and_is_acknowledged_first() -> None:
    one = medium()
    one.transmit(0, 77, frame(), 5)
    assert one.run(5) == [Sent(0, 77, Fate.ACKED), Heard(1, frame())]


def test_a_broadcast_reaches_everybody_in_the_network_but_its_sender() -> None:
    one = medium()
    one.tune(3, Tuning(15, 0x4444, 0x1003, IEEE[3]))
    one.transmit(0, 1, frame(0xFFFF), 0)
    assert hearing(one.run(0)) == [1, 2]
    one.transmit(0, 1, frame(0xFFFF, pan=mac.BROADCAST_PAN), 0)
    assert hearing(one.run(0)) == [1, 2, 3]


def test_an_eui64_a_beacon_and_another_channel() -> None:
    one = medium()
    to_ieee = mac.encode(mac.MacFrame(mac.COMMAND, True, 1, PAN, IEEE[2], IEEE[0], b"\x02"))
    one.transmit(0, 1, to_ieee, 0)
    assert hearing(one.run(0)) == [2]
    beacon = mac.encode(mac.MacFrame(mac.BEACON, False, 1, PAN, None, 0x1000, b""))
    one.transmit(0, 1, beacon, 0)
    assert hearing(one.run(0)) == [1, 2]
    one.tune(1, Tuning(20, PAN, 0x1001, IEEE[1]))
    one.transmit(0, 1, beacon, 0)
    assert hearing(one.run(0)) == [2]
    one.transmit(0, 2, frame(), 0)
    assert fates(one.run(0)) == [Fate.ABSENT]


def test_who_is_off_or_gone_sends_and_hears_nothing() -> None:
    one = medium()
    one.tune(0, Tuning(0))
    one.transmit(0, 1, frame(), 0)
    assert one.run(0) == [Sent(0, 1, Fate.ABSENT)]
    one = medium(AirSettings(latency_us=100))
    one.transmit(0, 1, frame(), 0)
    one.detach(1)
    assert hearing(one.run(FAR)) == []
    one.transmit(0, 2, frame(), 200)
    assert fates(one.run(FAR)) == [Fate.ABSENT]


def test_latency_delays_everything_by_the_same() -> None:
    one = medium(AirSettings(latency_us=5000))
    one.transmit(0, 1, frame(), 1000)
    assert one.wake_at == 6000
    assert one.run(5999) == []
    assert len(one.run(6000)) == 2
    assert one.wake_at is None


def test_airtime_is_that_of_250_kbit_per_second_and_the_channel_carries_one_at_a_time() -> None:
    one = medium(AirSettings(airtime=True))
    octets = frame(size=100)
    for number in range(200):
        one.transmit(0, number, octets, 0)
    ends, now = [], 0
    while (wake := one.wake_at) is not None:
        now = wake
        ends += [now for event in one.run(now) if isinstance(event, Heard)]
    assert len(ends) == 200
    # Preamble, size, frame and FCS; acknowledgement and turn-around; back-off 0 to 7 periods.
    bare_us = (6 + len(octets) + 2) * 32 + 192 + 11 * 32
    gaps = [after - before for before, after in pairwise(ends)]
    assert min(gaps) >= bare_us
    assert max(gaps) <= bare_us + 320 + 7 * 320
    assert 0.9 < (sum(gaps) / len(gaps)) / (bare_us + 320 + 3.5 * 320) < 1.1


def test_two_channels_do_not_wait_for_each_other() -> None:
    one = medium(AirSettings(airtime=True), stations=4)
    for number in (2, 3):
        one.tune(number, Tuning(20, PAN, 0x1000 + number, IEEE[number]))
    for number in range(50):
        one.transmit(0, number, frame(size=100), 0)
    one.transmit(2, 99, frame(0x1003, size=100), 0)
    first = next(
        event for event in one.run(10_000) if isinstance(event, Heard) and event.station == 3
    )
    assert first.station == 3


@pytest.mark.parametrize(
    ("settings", "told", "heard"),
    [
        (AirSettings(loss=0.25), 0.75, 0.75),
        (AirSettings(ack_loss=0.25), 0.75, 1.0),
        (AirSettings(duplication=0.25), 1.0, 1.25),
        (AirSettings(), 1.0, 1.0),
    ],
)
def test_chances_are_what_they_are_set_to(settings: AirSettings, told: float, heard: float) -> None:
    one = medium(settings)
    for number in range(2000):
        one.transmit(0, number, frame(), 0)
    events = one.run(FAR)
    acked = fates(events).count(Fate.ACKED)
    assert abs(acked / 2000 - told) < 0.03
    assert abs(len(hearing(events)) / 2000 - heard) < 0.03
    copies = [event for event in events if isinstance(event, Heard) and event.copy]
    assert bool(copies) == bool(settings.duplication)


def test_a_broadcast_is_lost_to_each_receiver_on_its_own() -> None:
    one = medium(AirSettings(loss=0.5))
    for number in range(400):
        one.transmit(0, number, frame(0xFFFF), 0)
    events = one.run(FAR)
    assert fates(events) == [Fate.ACKED] * 400
    for station in (1, 2):
        assert 150 < hearing(events).count(station) < 250


def test_a_late_frame_comes_after_those_sent_behind_it() -> None:
    one = medium(AirSettings(reordering=0.2))
    for number in range(100):
        one.transmit(0, number, frame(sequence=number), number * 1000)
    heard = [event.octets[2] for event in one.run(FAR) if isinstance(event, Heard)]
    assert sorted(heard) == list(range(100))
    late = sum(1 for at, number in enumerate(heard) if number < max(heard[: at + 1]))
    assert 5 < late < 35
    assert max(heard.index(n) - n for n in range(100)) <= LATE_US // 1000


def test_coalescing_tells_everything_of_a_window_at_once() -> None:
    one = medium(AirSettings(coalesce_us=10_000))
    for number in range(30):
        one.transmit(0, number, frame(), number * 1000 + 1)
    times, now = [], 0
    while (wake := one.wake_at) is not None:
        now = wake
        times.append((now, len(one.run(now))))
    assert [at for at, _ in times] == [10_000, 20_000, 30_000]
    assert [count for _, count in times] == [20, 20, 20]


def test_a_monitor_hears_every_frame_on_every_channel_and_the_acknowledgements() -> None:
    one = medium(AirSettings(loss=0.5))
    one.tune(3, Tuning(0, monitor=True))
    for number in range(100):
        one.transmit(0, number, frame(sequence=number), 0)
    events = one.run(FAR)
    flown = [event.octets for event in events if isinstance(event, Flown)]
    acked = fates(events).count(Fate.ACKED)
    assert flown.count(mac.encode_ack(7)) in (0, 1)
    assert len(flown) == 100 + acked


@given(seed=st.integers(0, 2**32))
def test_the_same_calls_give_the_same_air(seed: int) -> None:
    settings = AirSettings(
        seed, airtime=True, latency_us=3, loss=0.1, duplication=0.1, reordering=0.1, ack_loss=0.1
    )

    def story(settings: AirSettings) -> list[Event]:
        one = medium(settings)
        for number in range(30):
            one.transmit(number % 3, number, frame(0x1000 + (number + 1) % 3), number * 500)
        return one.run(FAR)

    assert story(settings) == story(settings)
    others = {str(story(replace(settings, seed=seed + more))) for more in range(3)}
    assert len(others) == 3


# --- messages between processes -------------------------------------------------------------------

MESSAGES = [
    (
        air.encode_tuning(Tuning(15, PAN, 0x1000, IEEE[1], True)),
        Tuning(15, PAN, 0x1000, IEEE[1], True),
    ),
    (air.encode_transmission(70_000, frame()), (70_000, frame())),
    (air.encode_event(Sent(9, 70_000, Fate.NO_ACK)), Sent(0, 70_000, Fate.NO_ACK)),
    (air.encode_event(Heard(9, frame(), True)), Heard(0, frame(), True)),
    (air.encode_event(Flown(9, 2**40, frame())), Flown(0, 2**40, frame())),
]


def test_messages_come_out_of_a_stream_as_they_went_in_however_it_is_cut() -> None:
    stream = b"".join(octets for octets, _ in MESSAGES)
    for size in range(1, len(stream)):
        found: list[air.Message] = []
        rest = b""
        for at in range(0, len(stream), size):
            messages, rest = air.split(rest + stream[at : at + size])
            found += messages
        assert rest == b""
        assert found == [value for _, value in MESSAGES]


@pytest.mark.parametrize("octets", [octets for octets, _ in MESSAGES])
def test_spoilt_messages_are_another_value_or_refused(octets: bytes) -> None:
    assert_flips_raise_nothing_else(air.split, octets)


@pytest.mark.parametrize(
    "octets",
    [
        b"\x00\x00\x01",
        b"\xff\xff\x01",
        b"\x01\x00\x09",
        b"\x06\x00\x02\0\0\0\0\x61",
        b"\x02\x00\x01\x0f",
    ],
)
def test_what_is_no_message_is_refused(octets: bytes) -> None:
    with pytest.raises(DecodeError):
        air.split(octets)


def test_a_transmission_that_the_filter_cannot_read_is_refused() -> None:
    for size in range(len(frame()[:7])):
        with pytest.raises(DecodeError):
            air.split(air.encode_transmission(1, frame()[:size]))
