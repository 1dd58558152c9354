"""The switch of an HCALCS: what opens and closes it, and when; a stage.

1. At power-up the switch is open. It stays so until the ESME has answered Get Scheduled Events;
   when it has not after ``restore_after_s``, the last commanded state comes back, unless the event
   that commanded it is known to be over.
2. An event commands from its start to its end. Between events the switch is open.
3. The operator's command holds until an event starts or ends.
4. Losing the HAN changes nothing: the event in force goes on to its end.
5. Without UTC no event can be placed; what comes meanwhile waits for it.
6. A firmware whose manifest says that the switch does not work commands, keeps and reports all of
   this, and moves nothing.

Which state is what and how long is configuration (``LoadSwitchSettings``). The commanded state is
durable before the relay moves, as every record of a step is. Source: gbcs-supplement 3.1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from firmware_node.boundary import (
    Answer,
    Effect,
    Entropy,
    Frame,
    FrameReceived,
    NetworkDown,
    NetworkUp,
    Notify,
    Records,
    SetIndicator,
    SetRelay,
    Started,
    SwitchRequested,
)
from firmware_node.errors import DecodeError, RecordLostError
from firmware_node.node.esme_link import EsmeLink
from firmware_node.node.load_events import EVENTS_MAX, HeldEvent, LoadEvents, Told
from firmware_node.node.records import decode, encode
from firmware_node.node.replies import default_response
from firmware_node.terms import EntityId, LoadSwitchSettings
from firmware_node.wire import drlc, zcl
from firmware_node.wire.drlc import EventStatus, LoadControlEvent, ReportEventStatus
from firmware_node.wire.zcl import Status

INDICATOR = "load"
UTC_UNKNOWN = 0xFFFFFFFF
_KEY = "switch/commanded"

SwitchInput = Started | NetworkUp | NetworkDown | FrameReceived | SwitchRequested


class LoadSwitch:
    """Takes frames of the DRLC cluster, and ZDO answers that ``claims`` says are ours."""

    def __init__(self, settings: LoadSwitchSettings, records: Records, entropy: Entropy) -> None:
        self._settings = settings
        self._records = records
        self._events = LoadEvents(settings, records, entropy)
        self._esme = EsmeLink(settings)
        self._works = True
        self._zero_ms: int | None = None  # UTC at monotonic zero, in milliseconds
        self._untimed: list[tuple[int, LoadControlEvent]] = []
        self._obeys = False  # rule 1 is over
        self._restore_at: int | None = None
        self._held: _Hold | None = None
        self._in_force: HeldEvent | None = None  # as it was last looked at
        self._commanded: bool | None = None
        self._moved_to: bool | None = None  # None: not driven yet

    @property
    def wake_at(self) -> int | None:
        """The earliest of restoring, asking again, and an event's start or end."""
        change = self._events.next_change_utc
        times = (
            self._restore_at,
            self._esme.wake_at,
            self._at_ms(change) if self._obeys else None,
            self._at_ms(self._held.until_utc) if self._held is not None else None,
        )
        return min((at for at in times if at is not None), default=None)

    def claims(self, frame: Frame) -> bool:
        """Whether a frame is for this stage."""
        return frame.cluster == drlc.CLUSTER or self._esme.claims(frame)

    def set_running(self, switch_works: bool) -> None:
        """The image in force: its manifest may break the switch."""
        self._works = switch_works

    def learn_utc(self, utc: int, now_ms: int) -> Sequence[Effect]:
        """The time is known, or known better."""
        self._zero_ms = utc * 1000 - now_ms
        effects: list[Effect] = []
        waiting, self._untimed = self._untimed, []
        for received_ms, event in waiting:
            told = self._events.add(event, utc - (now_ms - received_ms) // 1000)
            self._report(told, now_ms, effects)
        self._evaluate(now_ms, effects)
        return effects

    def step(self, item: SwitchInput | None, now_ms: int) -> Sequence[Effect]:
        """Advance by one input, or by the timer when ``item`` is None."""
        effects: list[Effect] = []
        match item:
            case FrameReceived(frame=frame) if frame.cluster == drlc.CLUSTER:
                self._on_frame(frame, now_ms, effects)
            case FrameReceived(frame=frame):
                effects += self._esme.on_zdo(frame, now_ms)
            case None:
                self._on_timer(now_ms, effects)
            case NetworkUp():
                effects += self._esme.up(now_ms)
            case NetworkDown():
                self._esme.down()
            case Started():
                self._start(now_ms, effects)
            case SwitchRequested(closed=closed):
                self._held = _Hold(closed, None, "operator")
                self._obey(now_ms, effects)
                effects.append(Answer(done=self._works, text=self._words()))
        return effects

    def attributes(self) -> Mapping[int, tuple[int, int | bytes | EntityId]]:
        """The client attributes of the cluster, for Read Attributes."""
        settings = self._settings
        return {
            drlc.ATTRIBUTE_ENROLLMENT_GROUP: (zcl.UINT8, settings.enrollment_group),
            drlc.ATTRIBUTE_START_RANDOMISATION_MIN: (zcl.UINT8, settings.start_randomisation_min),
            drlc.ATTRIBUTE_DURATION_RANDOMISATION_MIN: (
                zcl.UINT8,
                settings.duration_randomisation_min,
            ),
            drlc.ATTRIBUTE_DEVICE_CLASS: (zcl.UINT16, settings.device_class),
        }

    def report(self) -> dict[str, object]:
        """For ``status``: what is commanded, where the switch is, and the events."""
        return {
            "commanded": _word(self._commanded),
            "switch": _word(self._moved_to),
            "esme": self._esme.peer,
            "events": [
                {
                    "id": held.event.issuer_event_id,
                    "start": zcl.utc_text(held.start_utc),
                    "end": zcl.utc_text(held.end_utc),
                    "state": _word(held.closes),
                    "in_force": held.in_force,
                }
                for held in self._events
            ],
        }

    # --- power-up ---------------------------------------------------------------------------------

    def _start(self, now_ms: int, effects: list[Effect]) -> None:
        if not self._events.start():
            effects.append(Notify("record_lost", {"record": "switch/events"}))
        self._in_force = self._events.in_force
        self._move(self._settings.power_up_closed, "power_up", effects)
        if self._settings.restore:
            self._restore_at = now_ms + self._settings.restore_after_s * 1000

    def _restore(self, now_ms: int, effects: list[Effect]) -> None:
        """The ESME has not answered in time: the last commanded state, unless it is over."""
        try:
            value = self._records.get(_KEY)
        except RecordLostError as lost:
            effects.append(Notify("record_lost", {"record": _KEY, "reason": str(lost)}))
            value = None
        if value is not None:
            fields = decode(value)
            self._held = _Hold(fields["closed"], fields["until"], "restored")
        self._obey(now_ms, effects)

    def _obey(self, now_ms: int, effects: list[Effect]) -> None:
        self._obeys, self._restore_at = True, None
        self._evaluate(now_ms, effects)

    # --- frames of the ESME -----------------------------------------------------------------------

    def _on_frame(self, frame: Frame, now_ms: int, effects: list[Effect]) -> None:
        try:
            header, body = zcl.decode_header(frame.payload)
            if not header.cluster_specific:
                self._on_general(frame, header, body, now_ms, effects)
            elif not header.to_client:
                effects += default_response(frame, Status.UNSUP_CLUSTER_COMMAND)
            elif not self._esme.is_from_peer(frame):
                effects += default_response(frame, Status.NOT_AUTHORIZED)
            else:
                self._on_command(frame, header, body, now_ms, effects)
        except DecodeError as error:
            effects.append(Notify("frame_refused", {"status": "DRLC", "reason": str(error)}))
            effects += default_response(frame, Status.MALFORMED_COMMAND)

    def _on_general(
        self,
        frame: Frame,
        header: zcl.ZclHeader,
        body: bytes,
        now_ms: int,
        effects: list[Effect],
    ) -> None:
        """The Default Response to our question: whatever it says, no event comes with it."""
        if header.command != zcl.DEFAULT_RESPONSE or not self._esme.is_from_peer(frame):
            return
        response = zcl.decode_default_response(body)
        if (
            self._esme.is_answer(header)
            and response.command == drlc.TO_SERVER_GET_SCHEDULED_EVENTS
            and response.status in (Status.SUCCESS, Status.NOT_FOUND)
        ):
            self._esme.answered()
            if response.status == Status.NOT_FOUND:  # else the events follow
                if self._held is not None and self._held.cause == "restored":
                    self._held = None
                self._obey(now_ms, effects)

    def _on_command(
        self,
        frame: Frame,
        header: zcl.ZclHeader,
        body: bytes,
        now_ms: int,
        effects: list[Effect],
    ) -> None:
        match header.command:
            case drlc.TO_CLIENT_LOAD_CONTROL_EVENT:
                event = drlc.decode_load_control_event(body)
                if self._is_ours(event):
                    self._take(event, now_ms, effects)
                else:
                    effects += default_response(frame, Status.SUCCESS)
            case drlc.TO_CLIENT_CANCEL_EVENT:
                cancel = drlc.decode_cancel_event(body)
                utc = self._utc(now_ms)
                self._untimed = [
                    entry
                    for entry in self._untimed
                    if entry[1].issuer_event_id != cancel.issuer_event_id
                ]
                self._report(self._events.cancel(cancel, utc or 0), now_ms, effects)
            case drlc.TO_CLIENT_CANCEL_ALL_EVENTS:
                control = drlc.decode_cancel_all(body)
                self._untimed.clear()
                told = self._events.cancel_all(control, self._utc(now_ms) or 0)
                self._report(told, now_ms, effects)
                if not told:
                    effects += default_response(frame, Status.SUCCESS)
            case _:
                effects += default_response(frame, Status.UNSUP_CLUSTER_COMMAND)
                return
        self._evaluate(now_ms, effects)

    def _is_ours(self, event: LoadControlEvent) -> bool:
        group = self._settings.enrollment_group
        return bool(event.device_class & self._settings.device_class) and (
            drlc.EVERY_GROUP in (group, event.enrollment_group) or group == event.enrollment_group
        )

    def _take(self, event: LoadControlEvent, now_ms: int, effects: list[Effect]) -> None:
        self._esme.answered()
        utc = self._utc(now_ms)
        if utc is not None:
            self._report(self._events.add(event, utc), now_ms, effects)
            self._obey(now_ms, effects)
        elif len(self._untimed) < EVENTS_MAX:
            self._untimed.append((now_ms, event))
            self._obeys, self._restore_at = True, None

    def _report(self, told: Iterable[Told], now_ms: int, effects: list[Effect]) -> None:
        utc = self._utc(now_ms)
        for event, status in told:
            applied = ReportEventStatus(
                event.issuer_event_id,
                status,
                UTC_UNKNOWN if utc is None else utc,
                event.criticality,
                duty_cycle=event.duty_cycle,
                load_adjustment=event.load_adjustment,
                event_control=event.event_control,
            )
            effects.append(
                Notify(
                    "load_event",
                    {"id": event.issuer_event_id, "status": EventStatus(status).name.lower()},
                )
            )
            if self._esme.peer is not None:
                body = drlc.encode_report_event_status(applied)
                effects.append(self._esme.send(drlc.TO_SERVER_REPORT_EVENT_STATUS, body))

    # --- time -------------------------------------------------------------------------------------

    def _on_timer(self, now_ms: int, effects: list[Effect]) -> None:
        if self._esme.wake_at is not None and self._esme.wake_at <= now_ms:
            effects += self._esme.timer(now_ms)
        if self._restore_at is not None and self._restore_at <= now_ms:
            self._restore(now_ms, effects)
        self._evaluate(now_ms, effects)

    def _evaluate(self, now_ms: int, effects: list[Effect]) -> None:
        """Let events start and end, and command what follows from them."""
        if not self._obeys:
            return
        utc = self._utc(now_ms)
        if utc is not None:
            self._report(self._events.advance(utc), now_ms, effects)
        held, active = self._held, self._events.in_force
        if active is not self._in_force or (held is not None and held.is_over(utc)):
            held = self._held = None
        self._in_force = active
        if held is not None:
            self._command(held.closed, held.until_utc, held.cause, effects)
        elif active is not None:
            self._command(active.closes, active.end_utc, "event", effects)
        elif utc is not None or not self._untimed:
            self._command(self._settings.idle_closed, None, "idle", effects)

    def _utc(self, now_ms: int) -> int | None:
        return None if self._zero_ms is None else (self._zero_ms + now_ms) // 1000

    def _at_ms(self, utc: int | None) -> int | None:
        """The monotonic moment of a UTC second."""
        return None if utc is None or self._zero_ms is None else utc * 1000 - self._zero_ms

    # --- the switch -------------------------------------------------------------------------------

    def _command(
        self, closed: bool, until_utc: int | None, cause: str, effects: list[Effect]
    ) -> None:
        value = encode({"closed": closed, "until": until_utc})
        try:
            known = self._records.get(_KEY) == value
        except RecordLostError:
            known = False
        if not known:
            self._records.put(_KEY, value)
        self._move(closed, cause, effects)

    def _move(self, closed: bool, cause: str, effects: list[Effect]) -> None:
        if self._commanded == closed:
            return
        self._commanded = closed
        fields = {"state": _word(closed), "cause": cause}
        if not self._works:
            effects.append(Notify("switch_failed", fields))
            return
        self._moved_to = closed
        effects.append(Notify("switch_moved", fields))
        effects += (SetRelay(name, closed) for name in self._settings.relays)
        effects.append(SetIndicator(INDICATOR, closed))

    def _words(self) -> str:
        if not self._works:
            return "the running firmware does not move the switch"
        return f"the switch is {_word(self._commanded)}"


@dataclass(frozen=True, slots=True)
class _Hold:
    """A state that holds until an event starts or ends, or until its own end."""

    closed: bool
    until_utc: int | None
    cause: str  # operator or restored

    def is_over(self, utc: int | None) -> bool:
        return self.until_utc is not None and utc is not None and self.until_utc <= utc


def _word(closed: bool | None) -> str | None:
    return None if closed is None else "closed" if closed else "open"
