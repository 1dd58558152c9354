"""The ESME's part of load control: what it schedules, gives on demand, and hears."""

from __future__ import annotations

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
from firmware_node.rig.hub_terms import Peer
from firmware_node.rig.load_control import EVENTS_MAX, REPORTS_MAX, LoadControl
from firmware_node.terms import EntityId, ShortAddress
from firmware_node.wire import drlc, zcl
from firmware_node.wire.drlc import GetScheduledEvents, LoadControlEvent, ReportEventStatus
from firmware_node.wire.zcl import Status

PEER = Peer(EntityId.parse("00-DB-12-34-56-78-90-A5"), ShortAddress(7))
UTC = 800_000_000


def control() -> LoadControl:
    return LoadControl(lambda now_ms: UTC + now_ms // 1000)


def events_of(effects: object) -> list[LoadControlEvent]:
    assert isinstance(effects, tuple)
    found = []
    for effect in effects:
        assert isinstance(effect, SendFrame)
        assert (effect.frame.peer, effect.frame.cluster) == (PEER.address, drlc.CLUSTER)
        header, body = zcl.decode_header(effect.frame.payload)
        assert (header.cluster_specific, header.to_client, header.command) == (True, True, 0)
        found.append(drlc.decode_load_control_event(body))
    return found


def ask(esme: LoadControl, question: GetScheduledEvents, now_ms: int = 0) -> tuple[Effect, ...]:
    body = drlc.encode_get_scheduled_events(question)
    return say(esme, drlc.TO_SERVER_GET_SCHEDULED_EVENTS, body, now_ms)


def say(esme: LoadControl, command: int, body: bytes, now_ms: int = 0) -> tuple[Effect, ...]:
    header = zcl.ZclHeader(True, False, True, None, 9, command)
    frame = Frame(PEER.address, 1, 1, 0x0109, drlc.CLUSTER, zcl.encode(header, body))
    return tuple(esme.step(PEER, frame, header, body, now_ms))


def default_of(effects: tuple[Effect, ...]) -> int:
    (effect,) = effects
    assert isinstance(effect, SendFrame)
    header, body = zcl.decode_header(effect.frame.payload)
    assert not header.cluster_specific and header.sequence == 9
    return zcl.decode_default_response(body).status


def test_events_are_given_in_order_of_their_start_until_they_are_over() -> None:
    esme = control()
    later = esme.new_event(True, 30, start_utc=UTC + 3600)
    sooner = esme.new_event(False, 10, start_utc=UTC + 60)
    for event in (later, sooner):
        assert events_of(esme.send(PEER, event, 0)) == [event]
    assert events_of(ask(esme, GetScheduledEvents(0))) == [sooner, later]
    assert events_of(ask(esme, GetScheduledEvents(0, 1))) == [sooner]
    assert events_of(ask(esme, GetScheduledEvents(UTC + 660))) == [later]
    assert events_of(ask(esme, GetScheduledEvents(0, 0, sooner.issuer_event_id))) == [sooner]
    assert events_of(ask(esme, GetScheduledEvents(0), 660_000)) == [later]
    assert default_of(ask(esme, GetScheduledEvents(0), 5_400_000)) == Status.NOT_FOUND


def test_a_start_of_now_becomes_the_hubs_time() -> None:
    esme = control()
    (sent,) = events_of(esme.send(PEER, esme.new_event(True, 30), 5_000))
    assert sent.start_utc == UTC + 5
    assert events_of(ask(esme, GetScheduledEvents(0), 6_000)) == [sent]


def test_what_is_cancelled_is_given_no_more() -> None:
    esme = control()
    one, two = esme.new_event(True, 30), esme.new_event(False, 30)
    esme.send(PEER, one, 0)
    esme.send(PEER, two, 0)
    (effect,) = esme.cancel(PEER, one.issuer_event_id, 0, drlc.CANCEL_AS_RANDOMISED)
    assert isinstance(effect, SendFrame)
    cancel = drlc.decode_cancel_event(zcl.decode_header(effect.frame.payload)[1])
    assert (cancel.issuer_event_id, cancel.cancel_control) == (1, 1)
    assert [e.issuer_event_id for e in events_of(ask(esme, GetScheduledEvents(0)))] == [2]
    esme.cancel_all(PEER)
    assert default_of(ask(esme, GetScheduledEvents(0))) == Status.NOT_FOUND


def test_reports_are_kept_and_told() -> None:
    esme = control()
    for status, name in ((2, "started"), (0x42, "42")):
        body = drlc.encode_report_event_status(ReportEventStatus(5, status, UTC))
        (note,) = say(esme, drlc.TO_SERVER_REPORT_EVENT_STATUS, body)
        assert isinstance(note, Notify)
        assert note.fields == {"from": str(PEER.entity_id), "id": 5, "status": name}
    assert esme.reports() == {(PEER.entity_id, 5): 0x42}


def test_a_device_has_a_bounded_schedule_and_unknown_commands_are_answered() -> None:
    esme = control()
    for _ in range(EVENTS_MAX):
        esme.send(PEER, esme.new_event(True, 30), 0)
    (note,) = esme.send(PEER, esme.new_event(True, 30), 0)
    assert isinstance(note, Notify) and note.name == "load_event_not_scheduled"
    assert len(events_of(ask(esme, GetScheduledEvents(0)))) == EVENTS_MAX
    assert default_of(say(esme, 0x55, b"")) == Status.UNSUP_CLUSTER_COMMAND


def test_reports_of_any_number_of_events_are_bounded_and_the_newest_stay() -> None:
    esme = control()
    for number in range(REPORTS_MAX + 2):
        body = drlc.encode_report_event_status(ReportEventStatus(number, 2, UTC))
        say(esme, drlc.TO_SERVER_REPORT_EVENT_STATUS, body)
    assert len(esme.reports()) == REPORTS_MAX
    assert esme.report()[0]["id"] == 2
    last = {"entity_id": str(PEER.entity_id), "id": REPORTS_MAX + 1, "status": "started"}
    assert esme.report()[-1] == last


def test_event_ids_go_on_where_the_life_before_may_have_ended() -> None:
    assert LoadControl(lambda _: UTC, 4_000).new_event(True, 30).issuer_event_id == 4_001


def test_an_operator_schedules_randomised_events_and_takes_them_back() -> None:
    esme = control()
    device = PEER.entity_id
    wanted = ScheduleLoad(device, closed=False, duration_min=30, randomise=True)
    answer, *sent = esme.ask(wanted, PEER, 0)
    assert answer == Answer(done=True, text="event 1 is scheduled")
    (event,) = events_of(tuple(sent))
    assert (event.duty_cycle, event.event_control) == (0, 3)
    answer, sent_back = esme.ask(CancelLoad(device, 1), PEER, 0)
    assert answer == Answer(done=True, text="event 1 is taken back")
    assert isinstance(sent_back, SendFrame)
    answer, _ = esme.ask(CancelLoad(device), PEER, 0)
    assert answer == Answer(done=True, text="every event is taken back")


def test_an_operator_is_told_in_words_what_cannot_be_scheduled() -> None:
    esme = control()
    device = PEER.entity_id
    good = ScheduleLoad(device, closed=True, duration_min=30)
    (answer,) = esme.ask(good, None, 0)
    assert answer == Answer(done=False, text=f"{device} has not joined")
    for minutes in (0, 1441):
        (answer,) = esme.ask(replace(good, duration_min=minutes), PEER, 0)
        assert answer == Answer(done=False, text=f"found {minutes} minutes, expected 1 to 1440")
    for _ in range(EVENTS_MAX):
        esme.ask(good, PEER, 0)
    answer, note = esme.ask(good, PEER, 0)
    assert answer == Answer(done=False, text=f"{device} has too many events")
    assert isinstance(note, Notify)
