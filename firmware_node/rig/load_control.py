"""An ESME's load control, for a hub that plays one: it schedules events, sends them, hears reports.

The events of each device are kept until they are over or cancelled, and are given again when the
device asks with Get Scheduled Events, as HECS01 has it. What a device reports becomes a ``Notify``.
Source: ZigBee Smart Energy, Demand Response and Load Control; gbcs.md 7.2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from firmware_node.boundary import (
    Answer,
    CancelLoad,
    Effect,
    Frame,
    Notify,
    ScheduleLoad,
    SendFrame,
)
from firmware_node.rig.hub_terms import Peer, command, default_response
from firmware_node.terms import EntityId
from firmware_node.wire import drlc, zcl
from firmware_node.wire.drlc import CancelEvent, LoadControlEvent
from firmware_node.wire.zcl import Status

SIMPLE_LOADS = 0x0080  # the device class bit for residential on/off loads
ON, OFF = 100, 0  # duty cycles that close and open an HCALCS's switch
EVENTS_MAX = 64  # of one device
REPORTS_MAX = 1000  # of all; whoever reports names the event, so there is no end to them


class LoadControl:
    """One for all devices of a hub; ``utc`` tells the hub's time.

    Event ids follow ``last_event_id``, which must rise from life to life: a device may still hold
    the events of the one before.
    """

    def __init__(self, utc: Callable[[int], int], last_event_id: int = 0) -> None:
        self._utc = utc
        self._events: dict[EntityId, list[LoadControlEvent]] = {}
        self._reports: dict[tuple[EntityId, int], int] = {}
        self._sequence = 0
        self._event_id = last_event_id

    def ask(
        self, item: ScheduleLoad | CancelLoad, peer: Peer | None, now_ms: int
    ) -> Sequence[Effect]:
        """What an operator wants of a device; an ``Answer`` comes first."""
        if peer is None:
            return (Answer(done=False, text=f"{item.device} has not joined"),)
        if isinstance(item, CancelLoad):
            number = item.issuer_event_id
            text = (
                "every event is taken back" if number is None else f"event {number} is taken back"
            )
            told = self.cancel_all(peer) if number is None else self.cancel(peer, number, now_ms)
            return (Answer(done=True, text=text), *told)
        if not 1 <= item.duration_min <= drlc.DURATION_MIN_MAX:
            text = f"found {item.duration_min} minutes, expected 1 to {drlc.DURATION_MIN_MAX}"
            return (Answer(done=False, text=text),)
        control = drlc.RANDOMISE_START | drlc.RANDOMISE_END if item.randomise else 0
        event = self.new_event(
            item.closed, item.duration_min, start_utc=item.start_utc, event_control=control
        )
        told = self.send(peer, event, now_ms)
        done = isinstance(told[0], SendFrame)
        number = event.issuer_event_id
        text = f"event {number} is scheduled" if done else f"{item.device} has too many events"
        return (Answer(done, text), *told)

    def report(self) -> list[dict[str, object]]:
        """For ``status``: every event that a device reported of, and its last status."""
        return [
            {"entity_id": str(device), "id": number, "status": _name(status)}
            for (device, number), status in self._reports.items()
        ]

    def new_event(
        self,
        closed: bool,
        duration_min: int,
        *,
        start_utc: int = drlc.NOW,
        event_control: int = 0,
    ) -> LoadControlEvent:
        """An event with the next id that grants the load its supply, or takes it away."""
        self._event_id += 1
        return LoadControlEvent(
            self._event_id,
            SIMPLE_LOADS,
            drlc.EVERY_GROUP,
            start_utc,
            duration_min,
            duty_cycle=ON if closed else OFF,
            event_control=event_control,
        )

    def send(self, peer: Peer, event: LoadControlEvent, now_ms: int) -> Sequence[Effect]:
        """Schedule an event for a device and tell it; a start of NOW becomes the hub's time."""
        if event.start_utc == drlc.NOW:
            event = replace(event, start_utc=self._utc(now_ms))
        kept = self._scheduled(peer.entity_id, now_ms)
        if len(kept) >= EVENTS_MAX:
            return (Notify("load_event_not_scheduled", {"to": str(peer.entity_id)}),)
        kept.append(event)
        return (self._tell(peer, event),)

    def cancel(
        self, peer: Peer, issuer_event_id: int, now_ms: int, control: int = 0
    ) -> Sequence[Effect]:
        """Take an event back, known here or not."""
        kept = self._scheduled(peer.entity_id, now_ms)
        event = next((e for e in kept if e.issuer_event_id == issuer_event_id), None)
        if event is not None:
            kept.remove(event)
        classes = SIMPLE_LOADS if event is None else event.device_class
        body = drlc.encode_cancel_event(
            CancelEvent(issuer_event_id, classes, drlc.EVERY_GROUP, control)
        )
        return (self._frame(peer, drlc.TO_CLIENT_CANCEL_EVENT, body),)

    def cancel_all(self, peer: Peer, control: int = 0) -> Sequence[Effect]:
        """Take every event of a device back."""
        self._events.pop(peer.entity_id, None)
        body = drlc.encode_cancel_all(control)
        return (self._frame(peer, drlc.TO_CLIENT_CANCEL_ALL_EVENTS, body),)

    def reports(self) -> Mapping[tuple[EntityId, int], int]:
        """The last status that each device reported of each event."""
        return dict(self._reports)

    def step(
        self, peer: Peer, frame: Frame, header: zcl.ZclHeader, body: bytes, now_ms: int
    ) -> Sequence[Effect]:
        """Take one cluster-specific frame of a device.

        Raises:
            DecodeError: its body is malformed.
        """
        match header.command:
            case drlc.TO_SERVER_GET_SCHEDULED_EVENTS:
                wanted = drlc.decode_get_scheduled_events(body)
                after = wanted.start_utc or self._utc(now_ms)
                found = [
                    event
                    for event in self._scheduled(peer.entity_id, now_ms)
                    if event.start_utc + event.duration_min * 60 > after
                    and event.issuer_event_id >= (wanted.issuer_event_id or 0)
                ]
                if not found:
                    return (default_response(frame, header, Status.NOT_FOUND),)
                found.sort(key=lambda event: (event.start_utc, event.issuer_event_id))
                limit = wanted.count or len(found)
                return tuple(self._tell(peer, event) for event in found[:limit])
            case drlc.TO_SERVER_REPORT_EVENT_STATUS:
                report = drlc.decode_report_event_status(body)
                self._keep(peer.entity_id, report)
                return (
                    Notify(
                        "load_event_reported",
                        {
                            "from": str(peer.entity_id),
                            "id": report.issuer_event_id,
                            "status": _name(report.status),
                        },
                    ),
                )
        return (default_response(frame, header, Status.UNSUP_CLUSTER_COMMAND),)

    def _keep(self, device: EntityId, report: drlc.ReportEventStatus) -> None:
        """The newest report stands last, and the oldest goes when there are too many."""
        key = device, report.issuer_event_id
        self._reports.pop(key, None)
        self._reports[key] = report.status
        if len(self._reports) > REPORTS_MAX:
            del self._reports[next(iter(self._reports))]

    def _scheduled(self, device: EntityId, now_ms: int) -> list[LoadControlEvent]:
        """The events of a device that are not over; the list itself."""
        utc = self._utc(now_ms)
        kept = [
            event
            for event in self._events.get(device, [])
            if event.start_utc + event.duration_min * 60 > utc
        ]
        self._events[device] = kept
        return kept

    def _tell(self, peer: Peer, event: LoadControlEvent) -> SendFrame:
        body = drlc.encode_load_control_event(event)
        return self._frame(peer, drlc.TO_CLIENT_LOAD_CONTROL_EVENT, body)

    def _frame(self, peer: Peer, command_id: int, body: bytes) -> SendFrame:
        self._sequence = (self._sequence + 1) & 0xFF
        header = zcl.ZclHeader(True, True, False, None, self._sequence, command_id)
        return command(peer, drlc.CLUSTER, header, body)


def _name(status: int) -> str:
    try:
        return drlc.EventStatus(status).name.lower()
    except ValueError:
        return f"{status:02X}"
