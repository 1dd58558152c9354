"""The load control events that an HCALCS holds, and what becomes of each as time passes.

Times are UTC and are kept with the random offsets that were drawn once, so that a restart neither
moves an event nor draws again. A random start moves the whole event; a random end lengthens it.

1. An event that overlaps one that waits takes its place at once; one that is in force goes on until
   the new one starts (superseded).
2. An event whose time passed while nobody looked is not made up for; it is told as expired.
3. A cancelled event ends at once, or when the cancellation says, never later than it would have.

Source: ZigBee Smart Energy, Demand Response and Load Control; gbcs-supplement 3.1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from firmware_node.boundary import Entropy, Records
from firmware_node.errors import RecordLostError
from firmware_node.node.records import decode, encode
from firmware_node.terms import LoadSwitchSettings
from firmware_node.wire import drlc
from firmware_node.wire.drlc import CancelEvent, EventStatus, LoadControlEvent

EVENTS_MAX = 16  # what one ESME schedules for a day, with room; a record must stay small
_KEY = "switch/events"


@dataclass(frozen=True, slots=True)
class HeldEvent:
    """An event with its drawn period."""

    event: LoadControlEvent
    start_utc: int
    end_utc: int
    in_force: bool = False
    ends_as: EventStatus = EventStatus.COMPLETED

    @property
    def closes(self) -> bool:
        """Whether the load has its supply during this event.

        A duty cycle of 0, or a load adjustment of -100 percent, takes it away; every other event,
        one without either value too, grants it. (default)
        """
        if self.event.duty_cycle != drlc.UNUSED_DUTY:
            return self.event.duty_cycle > 0
        return self.event.load_adjustment != -100

    def overlaps(self, other: HeldEvent) -> bool:
        """Whether the two share a moment."""
        return self.start_utc < other.end_utc and other.start_utc < self.end_utc


Told = tuple[LoadControlEvent, EventStatus]


class LoadEvents:
    """In order of their start; every change is put into the records."""

    def __init__(self, settings: LoadSwitchSettings, records: Records, entropy: Entropy) -> None:
        self._settings = settings
        self._records = records
        self._entropy = entropy
        self._held: list[HeldEvent] = []

    def __iter__(self) -> Iterator[HeldEvent]:
        return iter(self._held)

    @property
    def in_force(self) -> HeldEvent | None:
        """The one that commands the switch now."""
        return next((held for held in self._held if held.in_force), None)

    @property
    def next_change_utc(self) -> int | None:
        """When the next one starts or ends."""
        times = [held.end_utc if held.in_force else held.start_utc for held in self._held]
        return min(times, default=None)

    def start(self) -> bool:
        """Take up what a former life kept; False when it was lost, and the ESME must be asked."""
        try:
            value = self._records.get(_KEY)
        except RecordLostError:
            self._records.delete(_KEY)
            return False
        if value is not None:
            self._held = [_held(fields) for fields in decode(value)["events"]]
        return True

    def add(self, event: LoadControlEvent, utc: int) -> list[Told]:
        """Take an event in, or refuse it; what is to be reported, this event's status first."""
        same = next(
            (h for h in self._held if h.event.issuer_event_id == event.issuer_event_id), None
        )
        if same is not None and same.event == event:
            return [(event, EventStatus.RECEIVED)]  # its report was lost, or it was asked for
        if not _is_valid(event):
            return [(event, EventStatus.REJECTED)]
        start = event.start_utc or utc
        if start + event.duration_min * 60 <= utc:
            return [(event, EventStatus.REJECTED_EXPIRED)]
        kept = [held for held in self._held if held is not same]
        if len(kept) >= EVENTS_MAX:
            return [(event, EventStatus.REJECTED)]
        start += self._draw(event, drlc.RANDOMISE_START, self._settings.start_randomisation_min)
        end = start + event.duration_min * 60
        end += self._draw(event, drlc.RANDOMISE_END, self._settings.duration_randomisation_min)
        new = HeldEvent(event, start, end)
        gone = [held for held in kept if not held.in_force and held.overlaps(new)]
        self._keep([*(held for held in kept if held not in gone), new])
        return [
            (event, EventStatus.RECEIVED),
            *((held.event, EventStatus.SUPERSEDED) for held in gone),
        ]

    def cancel(self, cancel: CancelEvent, utc: int) -> list[Told]:
        """End one event; what is to be reported. An unknown one is refused."""
        for held in self._held:
            if held.event.issuer_event_id == cancel.issuer_event_id:
                return self._cancel(held, cancel.cancel_control, cancel.effective_utc or utc, utc)
        unknown = LoadControlEvent(cancel.issuer_event_id, 0, 0, 0, 0)
        return [(unknown, EventStatus.REJECTED_UNDEFINED)]

    def cancel_all(self, control: int, utc: int) -> list[Told]:
        """End every event, at once or with its own randomisation."""
        return [told for held in list(self._held) for told in self._cancel(held, control, utc, utc)]

    def advance(self, utc: int) -> list[Told]:
        """What ended, was missed, was superseded and has started until now, in that order."""
        told: list[Told] = []
        left: list[HeldEvent] = []
        for held in self._held:
            if held.end_utc > utc:
                left.append(held)
            else:
                ended = held.ends_as if held.in_force else EventStatus.REJECTED_EXPIRED
                told.append((held.event, ended))
        for held in [held for held in left if not held.in_force and held.start_utc <= utc]:
            for before in [other for other in left if other.in_force]:
                left.remove(before)
                told.append((before.event, EventStatus.SUPERSEDED))
            left[left.index(held)] = replace(held, in_force=True)
            told.append((held.event, EventStatus.STARTED))
        if told:
            self._keep(left)
        return told

    def _cancel(self, held: HeldEvent, control: int, at_utc: int, utc: int) -> list[Told]:
        if at_utc >= held.end_utc:
            return [(held.event, EventStatus.REJECTED_CANCEL_TIME)]
        if control & drlc.CANCEL_AS_RANDOMISED:
            minutes = self._settings.duration_randomisation_min
            at_utc += self._draw(held.event, drlc.RANDOMISE_END, minutes)
        rest = [other for other in self._held if other is not held]
        if at_utc <= max(utc, held.start_utc) and not (held.in_force and at_utc > utc):
            self._keep(rest)
            return [(held.event, EventStatus.CANCELLED)]
        end = min(at_utc, held.end_utc)
        self._keep([*rest, replace(held, end_utc=end, ends_as=EventStatus.CANCELLED)])
        return []

    def _draw(self, event: LoadControlEvent, bit: int, minutes: int) -> int:
        """Seconds of random offset."""
        return self._entropy.below(minutes * 60 + 1) if event.event_control & bit else 0

    def _keep(self, held: Sequence[HeldEvent]) -> None:
        self._held = sorted(held, key=lambda one: (one.start_utc, one.event.issuer_event_id))
        self._records.put(_KEY, encode({"events": [_fields(one) for one in self._held]}))


def _is_valid(event: LoadControlEvent) -> bool:
    return (
        0 < event.duration_min <= drlc.DURATION_MIN_MAX
        and (event.duty_cycle <= 100 or event.duty_cycle == drlc.UNUSED_DUTY)
        and (-100 <= event.load_adjustment <= 100 or event.load_adjustment == drlc.UNUSED_LOAD)
    )


def _fields(held: HeldEvent) -> dict[str, Any]:
    return {
        "event": drlc.encode_load_control_event(held.event).hex(),
        "start": held.start_utc,
        "end": held.end_utc,
        "in_force": held.in_force,
        "ends_as": held.ends_as.value,
    }


def _held(fields: dict[str, Any]) -> HeldEvent:
    return HeldEvent(
        drlc.decode_load_control_event(bytes.fromhex(fields["event"])),
        fields["start"],
        fields["end"],
        fields["in_force"],
        EventStatus(fields["ends_as"]),
    )
