"""The air that sticks share: who hears what, when, and what goes wrong. No clock, no socket.

``Medium`` plays the channel and the part of 802.15.4 that is hardware: address filter, acknowledge,
retries. Times are microseconds and come from outside; every chance comes from one seeded generator,
so the same calls give the same air.

Faults stand for a whole mesh behind the one hop that is drawn here: a lost frame is one that every
retry lost; a copy is a frame that also came another way, so the receiver is told that it is a copy
and lets it pass its own duplicate tests; a late frame comes after those that were sent behind it.

The messages at the end are what a stick and an air in another process say to each other: a u16
size of what follows, a kind u8, fields.
"""

from __future__ import annotations

import heapq
import random
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple

from firmware_node.errors import DecodeError
from firmware_node.wire import mac

OCTET_US: Final = 32  # 250 kbit/s
_PHY_OCTETS = 6 + 2  # preamble, start, size; FCS
_ACK_US = 192 + 11 * OCTET_US  # turn-around and an acknowledgement
_BACKOFF_US, _BACKOFFS = 320, 8  # unslotted CSMA-CA at its first exponent
_CCA_US = 128 + 192
LQI = 200  # of every frame: all sticks stand in one room
LATE_US = 20_000  # how late a reordered frame is: several exchanges of a quick link


@dataclass(frozen=True, slots=True)
class AirSettings:
    """What the air does to frames. Chances are from 0 to 1."""

    seed: int = 0
    airtime: bool = False  # 250 kbit/s and CSMA; without it frames take no time
    latency_us: int = 0
    loss: float = 0.0  # of frames; their senders are told
    ack_loss: float = 0.0  # frames that came though their senders are told they did not
    duplication: float = 0.0
    reordering: float = 0.0
    coalesce_us: int = 0  # what happens within this time is told together


class Tuning(NamedTuple):
    """A station's receiver; channel 0 is off."""

    channel: int
    pan: int = mac.BROADCAST_PAN
    short: int = 0xFFFE
    ieee: bytes = b""
    monitor: bool = False  # also wants every frame on every channel


class Fate(IntEnum):
    """What became of a transmission."""

    ACKED = 0  # or a broadcast, sent
    NO_ACK = 1
    ABSENT = 2  # nobody here has that address


class Sent(NamedTuple):
    """To the sender."""

    station: int
    handle: int
    fate: Fate


class Heard(NamedTuple):
    """To a receiver."""

    station: int
    octets: bytes
    copy: bool = False


class Flown(NamedTuple):
    """To a monitor: a frame as it flew, acknowledgements too."""

    station: int
    at_us: int
    octets: bytes


Event = Sent | Heard | Flown


class Medium:
    """One air. Stations are numbers that its owner chooses."""

    def __init__(self, settings: AirSettings) -> None:
        self._settings = settings
        self._chance = random.Random(settings.seed)  # noqa: S311  # repeatable on purpose
        self._stations: dict[int, Tuning] = {}
        self._monitors: list[int] = []
        self._busy_until: dict[int, int] = {}
        self._due: list[tuple[int, int, Event]] = []
        self._order = 0

    @property
    def wake_at(self) -> int | None:
        """When the next event is due."""
        return self._due[0][0] if self._due else None

    def tune(self, station: int, tuning: Tuning) -> None:
        """Set a station's receiver; the first time attaches it."""
        self._stations[station] = tuning
        self._monitors = [one for one, tuned in self._stations.items() if tuned.monitor]

    def detach(self, station: int) -> None:
        """A station is gone; what was on its way to it is lost."""
        self._stations.pop(station, None)
        self._monitors = [one for one, tuned in self._stations.items() if tuned.monitor]

    def transmit(self, station: int, handle: int, octets: bytes, now_us: int) -> None:
        """Send a frame on the station's channel; its fate will be told."""
        settings, tuning = self._settings, self._stations.get(station)
        if tuning is None or not tuning.channel:
            self._at(now_us, Sent(station, handle, Fate.ABSENT))
            return
        begun_us = here_us = now_us
        if settings.airtime:
            begun_us = self._begin(tuning.channel, octets, now_us)
            here_us = begun_us + (len(octets) + _PHY_OCTETS) * OCTET_US
        here_us += settings.latency_us
        receivers, unicast = self._receivers(station, tuning.channel, octets)
        heard, fate = receivers, Fate.ACKED
        if not unicast:
            if settings.loss:
                heard = [one for one in receivers if not self._happens(settings.loss)]
        elif not receivers:
            fate = Fate.ABSENT
        elif settings.loss and self._happens(settings.loss):
            heard, fate = [], Fate.NO_ACK
        elif settings.ack_loss and self._happens(settings.ack_loss):
            fate = Fate.NO_ACK
        # The sender knows before the receiver's host can answer.
        self._at(here_us, Sent(station, handle, fate))
        for monitor in self._monitors:
            self._at(here_us, Flown(monitor, begun_us, octets))
            if unicast and fate is Fate.ACKED:
                self._at(here_us, Flown(monitor, here_us, mac.encode_ack(octets[2])))
        for one in heard:
            late_us = LATE_US if settings.reordering and self._happens(settings.reordering) else 0
            self._at(here_us + late_us, Heard(one, octets))
            if settings.duplication and self._happens(settings.duplication):
                self._at(here_us + LATE_US // 4, Heard(one, octets, copy=True))

    def run(self, now_us: int) -> list[Event]:
        """What is due by now, in order."""
        due, events = self._due, []
        while due and due[0][0] <= now_us:
            event = heapq.heappop(due)[2]
            if event.station in self._stations:
                events.append(event)
        return events

    def _begin(self, channel: int, octets: bytes, now_us: int) -> int:
        """When a frame starts to fly: channels carry one at a time."""
        backoff_us = self._chance.randrange(_BACKOFFS) * _BACKOFF_US + _CCA_US
        begun_us = max(now_us, self._busy_until.get(channel, 0)) + backoff_us
        took_us = (len(octets) + _PHY_OCTETS) * OCTET_US + (_ACK_US if octets[0] & 0x20 else 0)
        self._busy_until[channel] = begun_us + took_us
        return begun_us

    def _receivers(self, sender: int, channel: int, octets: bytes) -> tuple[list[int], bool]:
        """Whose filter takes the frame, and whether one of them must acknowledge it."""
        mode = octets[1] >> 2 & 3
        if mode == 2 and octets[5:7] != b"\xff\xff":
            pan, short = octets[3] | octets[4] << 8, octets[5] | octets[6] << 8
            return [
                station
                for station, (tuned, its_pan, its_short, _, _) in self._stations.items()
                if its_short == short and its_pan == pan and tuned == channel and station != sender
            ], True
        others = [
            (station, tuning)
            for station, tuning in self._stations.items()
            if tuning.channel == channel and station != sender
        ]
        if mode == 0:
            return [station for station, _ in others], False
        if mode == 2:
            pan = octets[3] | octets[4] << 8
            everybody = pan == mac.BROADCAST_PAN
            return [one for one, tuned in others if everybody or tuned.pan == pan], False
        ieee = octets[5:13]
        return [one for one, tuned in others if tuned.ieee == ieee], True

    def _happens(self, chance: float) -> bool:
        return self._chance.random() < chance

    def _at(self, at_us: int, event: Event) -> None:
        window_us = self._settings.coalesce_us
        if window_us:
            at_us += -at_us % window_us
        self._order += 1
        heapq.heappush(self._due, (at_us, self._order, event))


# --- between processes ----------------------------------------------------------------------------

_TUNE, _TRANSMIT, _SENT, _HEARD, _FLOWN = 1, 2, 3, 4, 5
_HEAD = struct.Struct("<HB")
_TUNE_FIELDS = struct.Struct("<BHH8sB")
_HANDLE = struct.Struct("<HBI")
_SENT_FIELDS = struct.Struct("<HBIB")
_HEARD_FIELDS = struct.Struct("<HBB")
_FLOWN_FIELDS = struct.Struct("<HBQ")
_FATES = tuple(Fate)
MESSAGE_MAX = 512  # octets; a frame has at most 125

Message = Tuning | tuple[int, bytes] | Event  # the pair: a transmission


def encode_tuning(tuning: Tuning) -> bytes:
    """Stick to air."""
    fields = _TUNE_FIELDS.pack(*tuning)
    return _HEAD.pack(len(fields) + 1, _TUNE) + fields


def encode_transmission(handle: int, octets: bytes) -> bytes:
    """Stick to air."""
    return _HANDLE.pack(5 + len(octets), _TRANSMIT, handle) + octets


def encode_event(event: Event) -> bytes:
    """Air to stick; the station is the connection's."""
    if isinstance(event, Heard):
        return _HEARD_FIELDS.pack(2 + len(event.octets), _HEARD, event.copy) + event.octets
    if isinstance(event, Sent):
        return _SENT_FIELDS.pack(6, _SENT, event.handle, event.fate)
    return _FLOWN_FIELDS.pack(9 + len(event.octets), _FLOWN, event.at_us) + event.octets


def split(stream: bytes) -> tuple[list[Message], bytes]:
    """The whole messages of a stream, and what is left of it.

    Raises:
        DecodeError: a size or kind that no message has.
    """
    messages: list[Message] = []
    at, end = 0, len(stream)
    while end - at >= _HEAD.size:
        size, kind = _HEAD.unpack_from(stream, at)
        if not 1 <= size <= MESSAGE_MAX:
            raise DecodeError("air message", at, f"size {size}")
        behind = at + 2 + size
        if behind > end:
            break
        messages.append(_read(kind, stream[at:behind]))
        at = behind
    return messages, stream[at:]


def _read(kind: int, message: bytes) -> Message:
    try:
        if kind == _HEARD:
            copy = _HEARD_FIELDS.unpack_from(message)[2] != 0
            return Heard(0, message[_HEARD_FIELDS.size :], copy)
        if kind == _SENT:
            _, _, handle, fate = _SENT_FIELDS.unpack(message)
            return Sent(0, handle, _FATES[fate])
        if kind == _TRANSMIT:
            octets = message[_HANDLE.size :]
            if not _has_whole_address(octets):
                raise DecodeError("air message", _HANDLE.size, "truncated frame")
            return _HANDLE.unpack_from(message)[2], octets
        if kind == _TUNE:
            channel, pan, short, ieee, monitor = _TUNE_FIELDS.unpack(message[_HEAD.size :])
            return Tuning(channel, pan, short, ieee, monitor != 0)
        if kind == _FLOWN:
            return Flown(0, _FLOWN_FIELDS.unpack_from(message)[2], message[_FLOWN_FIELDS.size :])
    except (struct.error, IndexError) as error:
        raise DecodeError("air message", 0, str(error)) from error
    raise DecodeError("air message", 2, f"kind {kind}")


def _has_whole_address(octets: bytes) -> bool:
    """Whether the frame holds what the address filter reads."""
    least = {0: 3, 2: 7, 3: 13}
    return len(octets) >= 3 and len(octets) >= least.get(octets[1] >> 2 & 3, MESSAGE_MAX)
