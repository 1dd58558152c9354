"""The switch of an HCALCS alone: power-up, events, cancellations, restarts, a broken firmware."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ota_bench import Chance

from firmware_node.boundary import (
    Answer,
    Frame,
    FrameReceived,
    NetworkDown,
    NetworkUp,
    Notify,
    SendFrame,
    SetIndicator,
    SetRelay,
    Started,
    SwitchRequested,
)
from firmware_node.node.load_events import EVENTS_MAX
from firmware_node.node.load_switch import LoadSwitch, SwitchInput
from firmware_node.rig.memory_storage import Medium, MemoryStorage
from firmware_node.terms import LoadSwitchSettings, ShortAddress
from firmware_node.wire import drlc, zcl, zdo
from firmware_node.wire.drlc import CancelEvent, EventStatus, LoadControlEvent
from firmware_node.wire.zcl import Status

ESME, STRANGER = ShortAddress(0x00A0), ShortAddress(0x0BAD)
UTC = 800_000_000
MINUTE = 60
SETTINGS = LoadSwitchSettings(relays=("main",))
CLOSE = LoadControlEvent(1, 0x0080, 0, drlc.NOW, 30, duty_cycle=100)
OPEN = replace(CLOSE, issuer_event_id=2, duty_cycle=0)


class Bench:
    """One switch on a medium that a restart keeps; the ESME is the test."""

    def __init__(self, settings: LoadSwitchSettings = SETTINGS, *, works: bool = True) -> None:
        self.medium = Medium(16 * 4096)
        self.settings = settings
        self.chance = Chance()
        self.now_ms = 50_000
        self.utc_at_zero = UTC - 50
        self.relay: bool | None = None  # as the pin is
        self.edges = 0
        self.indicator: bool | None = None
        self.frames: list[Frame] = []
        self.notes: list[Notify] = []
        self.answer: Answer | None = None
        self.restart(works=works)

    def restart(self, *, works: bool = True, seconds: int = 0, lost: tuple[str, ...] = ()) -> None:
        """Power off, and on again that much later; the pin falls back."""
        self.now_ms += seconds * 1000
        self.frames.clear()
        self.medium.power_cycle()
        self.storage = MemoryStorage(self.medium)
        self.storage.records.lost.update(lost)
        self.switch = LoadSwitch(self.settings, self.storage.records, self.chance)
        self.switch.set_running(works)
        self.relay = None
        self.step(Started())

    def step(self, item: SwitchInput | None) -> None:
        self._take(self.switch.step(item, self.now_ms))

    def _take(self, effects: object) -> None:
        self.storage.commit()
        assert isinstance(effects, list)
        for effect in effects:
            match effect:
                case SendFrame(frame=frame):
                    self.frames.append(frame)
                case Notify():
                    self.notes.append(effect)
                case SetRelay(name="main", on=on):
                    assert on != self.relay, "driven to where it is"
                    self.relay, self.edges = on, self.edges + 1
                case SetIndicator(name="load", on=on):
                    self.indicator = on
                case Answer():
                    self.answer = effect
                case _:
                    raise AssertionError(effect)

    def pin(self) -> bool | None:
        """Where the relay is; None: nobody has driven it since power-up."""
        return self.relay

    def utc(self) -> int:
        return self.utc_at_zero + self.now_ms // 1000

    def know_time(self) -> None:
        self._take(self.switch.learn_utc(self.utc(), self.now_ms))

    def join(self) -> None:
        """The network is up and the ESME is found."""
        self.step(NetworkUp(ShortAddress(0x1234), 15))
        if self.frames and self.frames[-1].cluster == zdo.MATCH_DESC_REQ:
            request = zdo.decode_match_request(self.frames[-1].payload)
            assert request.in_clusters == (drlc.CLUSTER,)
            response = zdo.MatchResponse(request.sequence, zdo.SUCCESS, ESME, (3,))
            payload = zdo.encode_match_response(response)
            cluster = zdo.MATCH_DESC_REQ | zdo.RESPONSE
            frame = Frame(ESME, 0, 0, zdo.PROFILE, cluster, payload)
            assert self.switch.claims(frame)
            self.step(FrameReceived(frame))

    def ready(self) -> None:
        """Joined, with the time, and told that there is no event."""
        self.join()
        self.know_time()
        self.no_events()
        self.frames.clear()

    def say(self, command: int, body: bytes, peer: ShortAddress = ESME) -> None:
        header = zcl.ZclHeader(True, True, True, None, 9, command)
        frame = Frame(peer, 3, 1, 0x0109, drlc.CLUSTER, zcl.encode(header, body))
        assert self.switch.claims(frame)
        self.frames.clear()
        self.step(FrameReceived(frame))

    def event(self, event: LoadControlEvent, peer: ShortAddress = ESME) -> None:
        body = drlc.encode_load_control_event(event)
        self.say(drlc.TO_CLIENT_LOAD_CONTROL_EVENT, body, peer)

    def cancel(self, event_id: int, control: int = 0, effective_utc: int = drlc.NOW) -> None:
        body = drlc.encode_cancel_event(CancelEvent(event_id, 0x80, 0, control, effective_utc))
        self.say(drlc.TO_CLIENT_CANCEL_EVENT, body)

    def no_events(self) -> None:
        """The answer to the last question."""
        asked, _ = zcl.decode_header(self.questions()[-1].payload)
        header = zcl.ZclHeader(False, True, True, None, asked.sequence, zcl.DEFAULT_RESPONSE)
        body = zcl.encode_default_response(drlc.TO_SERVER_GET_SCHEDULED_EVENTS, Status.NOT_FOUND)
        frame = Frame(ESME, 3, 1, 0x0109, drlc.CLUSTER, zcl.encode(header, body))
        self.step(FrameReceived(frame))

    def questions(self) -> list[Frame]:
        return [f for f in self.frames if self.command_of(f) == drlc.TO_SERVER_GET_SCHEDULED_EVENTS]

    def command_of(self, frame: Frame) -> int | None:
        if frame.cluster != drlc.CLUSTER:
            return None
        header, _ = zcl.decode_header(frame.payload)
        return header.command if header.cluster_specific else None

    def reported(self) -> list[tuple[int, EventStatus]]:
        """Event and status of each report since the last thing that was said, in order."""
        found = []
        for frame in self.frames:
            if self.command_of(frame) == drlc.TO_SERVER_REPORT_EVENT_STATUS:
                report = drlc.decode_report_event_status(zcl.decode_header(frame.payload)[1])
                assert frame.peer == ESME and frame.peer_endpoint == 3
                found.append((report.issuer_event_id, EventStatus(report.status)))
        return found

    def status_of_default(self) -> int:
        (frame,) = self.frames
        header, body = zcl.decode_header(frame.payload)
        assert not header.cluster_specific
        return zcl.decode_default_response(body).status

    def pass_(self, seconds: int) -> None:
        """Let the timers come up to then."""
        end = self.now_ms + seconds * 1000
        self.frames.clear()
        while self.switch.wake_at is not None and self.switch.wake_at <= end:
            before = self.switch.wake_at
            self.now_ms = max(self.now_ms, before)
            self.step(None)
            assert self.switch.wake_at is None or self.switch.wake_at > before, "no progress"
        self.now_ms = end


# --- power-up -------------------------------------------------------------------------------------


def test_the_switch_is_open_at_power_up_and_asks_its_esme_for_events() -> None:
    bench = Bench()
    assert (bench.pin(), bench.indicator) == (False, False)
    bench.join()
    (question,) = bench.questions()
    assert (question.peer, question.peer_endpoint) == (ESME, 3)
    body = zcl.decode_header(question.payload)[1]
    assert drlc.decode_get_scheduled_events(body) == drlc.GetScheduledEvents(drlc.NOW)


def test_the_esme_is_searched_and_asked_again_until_it_answers() -> None:
    bench = Bench(replace(SETTINGS, restore=False))
    bench.step(NetworkUp(ShortAddress(1), 15))
    bench.pass_(SETTINGS.discovery_interval_s)
    assert [f.cluster for f in bench.frames] == [zdo.MATCH_DESC_REQ]
    bench.join()
    bench.pass_(40)
    assert len(bench.questions()) == 3  # after 5, 10 and 20 s
    bench.no_events()
    bench.pass_(3600)
    assert bench.frames == []


def test_an_esme_that_is_gone_for_good_is_searched_again() -> None:
    bench = Bench()
    bench.join()
    bench.pass_(3 * 3600)
    assert "esme_lost" in [note.name for note in bench.notes]
    assert bench.frames[-1].cluster == zdo.MATCH_DESC_REQ


def test_a_former_life_s_state_comes_back_when_nobody_answers() -> None:
    bench = Bench()
    bench.step(SwitchRequested(closed=True))
    assert bench.pin() is True
    bench.restart()
    assert bench.pin() is False
    bench.pass_(SETTINGS.restore_after_s - 1)
    assert bench.pin() is False
    bench.pass_(1)
    assert bench.pin() is True


@pytest.mark.parametrize(
    ("settings", "relay"),
    [
        (replace(SETTINGS, restore=False), False),
        (replace(SETTINGS, restore=False, power_up_closed=True), True),
        (replace(SETTINGS, restore_after_s=0), True),
    ],
)
def test_what_happens_without_an_answer_is_configuration(
    settings: LoadSwitchSettings, relay: bool
) -> None:
    bench = Bench(settings)
    bench.step(SwitchRequested(closed=True))
    bench.restart()
    bench.pass_(3600)
    assert bench.pin() is relay


def test_an_esme_without_events_outranks_the_former_state_before_and_after_it_is_restored() -> None:
    bench = Bench()
    bench.step(SwitchRequested(closed=True))
    bench.restart()
    bench.ready()
    bench.pass_(SETTINGS.restore_after_s)
    assert bench.pin() is False
    bench.step(SwitchRequested(closed=True))
    bench.restart()
    bench.pass_(SETTINGS.restore_after_s)
    assert bench.pin() is True
    bench.ready()
    assert bench.pin() is False


def test_a_state_whose_event_is_over_does_not_come_back() -> None:
    bench = Bench()
    bench.ready()
    bench.event(CLOSE)
    assert bench.pin() is True
    bench.restart(seconds=31 * MINUTE)
    bench.know_time()
    bench.pass_(SETTINGS.restore_after_s)
    assert bench.pin() is False
    assert bench.switch.report()["events"] == []


def test_without_the_time_it_comes_back_and_ends_when_the_time_is_known() -> None:
    bench = Bench()
    bench.ready()
    bench.event(CLOSE)
    bench.restart(seconds=31 * MINUTE)
    bench.pass_(SETTINGS.restore_after_s)
    assert bench.pin() is True
    bench.know_time()
    assert bench.pin() is False


# --- events ---------------------------------------------------------------------------------------


def test_an_event_closes_the_switch_from_its_start_to_its_end() -> None:
    bench = Bench()
    bench.ready()
    bench.event(replace(CLOSE, start_utc=bench.utc() + 600))
    assert bench.reported() == [(1, EventStatus.RECEIVED)]
    bench.pass_(599)
    assert (bench.pin(), bench.reported()) == (False, [])
    bench.pass_(1)
    assert (bench.pin(), bench.indicator, bench.reported()) == (
        True,
        True,
        [(1, EventStatus.STARTED)],
    )
    bench.pass_(30 * MINUTE - 1)
    assert bench.pin() is True
    bench.pass_(1)
    assert (bench.pin(), bench.reported()) == (False, [(1, EventStatus.COMPLETED)])
    assert bench.switch.report() == {
        "commanded": "open",
        "switch": "open",
        "esme": ESME,
        "events": [],
    }


@pytest.mark.parametrize(
    ("event", "closed"),
    [
        (CLOSE, True),
        (replace(CLOSE, duty_cycle=1), True),
        (OPEN, False),
        (replace(CLOSE, duty_cycle=drlc.UNUSED_DUTY, load_adjustment=-100), False),
        (replace(CLOSE, duty_cycle=drlc.UNUSED_DUTY, load_adjustment=-50), True),
        (replace(CLOSE, duty_cycle=drlc.UNUSED_DUTY), True),
    ],
)
def test_duty_cycle_or_load_adjustment_say_which_way(event: LoadControlEvent, closed: bool) -> None:
    bench = Bench(replace(SETTINGS, idle_closed=not closed))
    bench.ready()
    assert bench.pin() is not closed
    bench.event(event)
    assert bench.pin() is closed


@pytest.mark.parametrize("offset", [0, 7, 30 * MINUTE])
def test_a_random_start_moves_the_whole_event(offset: int) -> None:
    bench = Bench()
    bench.ready()
    bench.chance.draws = [offset]
    bench.event(replace(CLOSE, event_control=drlc.RANDOMISE_START))
    if offset:
        bench.pass_(offset - 1)
        assert bench.pin() is False
        bench.pass_(1)
    assert bench.pin() is True
    bench.pass_(30 * MINUTE - 1)
    assert bench.pin() is True
    bench.pass_(1)
    assert bench.pin() is False


def test_a_random_end_lengthens_it_and_a_restart_does_not_draw_again() -> None:
    bench = Bench()
    bench.ready()
    bench.chance.draws = [100]
    bench.event(replace(CLOSE, event_control=drlc.RANDOMISE_END))
    bench.restart()
    bench.know_time()
    bench.pass_(30 * MINUTE + 99)
    assert bench.pin() is True
    bench.pass_(1)
    assert bench.pin() is False


def test_an_event_that_is_given_again_is_reported_again_and_changes_nothing() -> None:
    bench = Bench()
    bench.ready()
    event = replace(CLOSE, start_utc=bench.utc(), event_control=drlc.RANDOMISE_END)
    bench.chance.draws = [0, 500]
    bench.event(event)
    before = bench.switch.report()
    bench.event(event)
    assert bench.reported() == [(1, EventStatus.RECEIVED)]
    assert (bench.switch.report(), bench.edges) == (before, 2)


def test_an_event_takes_the_place_of_one_that_waits_and_ends_one_in_force_at_its_start() -> None:
    bench = Bench()
    bench.ready()
    bench.event(CLOSE)
    bench.event(replace(OPEN, start_utc=bench.utc() + 600))
    assert bench.reported() == [(2, EventStatus.RECEIVED)]
    bench.event(replace(CLOSE, issuer_event_id=3, start_utc=bench.utc() + 660))
    assert bench.reported() == [(3, EventStatus.RECEIVED), (2, EventStatus.SUPERSEDED)]
    assert bench.pin() is True
    bench.pass_(660)
    assert bench.reported() == [(1, EventStatus.SUPERSEDED), (3, EventStatus.STARTED)]
    assert bench.edges == 2  # open at power-up, then closed all the while
    bench.pass_(30 * MINUTE)
    assert bench.pin() is False


def test_an_event_that_nobody_was_there_for_is_told_as_expired() -> None:
    bench = Bench()
    bench.ready()
    bench.event(replace(CLOSE, start_utc=bench.utc() + 60))
    bench.restart(seconds=3600)
    bench.join()
    bench.know_time()
    bench.no_events()
    assert bench.reported() == [(1, EventStatus.REJECTED_EXPIRED)]
    assert (bench.pin(), bench.switch.report()["events"]) == (False, [])


@pytest.mark.parametrize(
    ("event", "status"),
    [
        (replace(CLOSE, duration_min=0), EventStatus.REJECTED),
        (replace(CLOSE, duration_min=1441), EventStatus.REJECTED),
        (replace(CLOSE, duty_cycle=101), EventStatus.REJECTED),
        (replace(CLOSE, load_adjustment=101), EventStatus.REJECTED),
        (replace(CLOSE, load_adjustment=-101), EventStatus.REJECTED),
        (replace(CLOSE, start_utc=UTC - 30 * MINUTE), EventStatus.REJECTED_EXPIRED),
    ],
)
def test_an_event_that_makes_no_sense_is_rejected(
    event: LoadControlEvent, status: EventStatus
) -> None:
    bench = Bench()
    bench.ready()
    bench.event(event)
    assert bench.reported() == [(1, status)]
    assert (bench.pin(), bench.switch.report()["events"]) == (False, [])


def test_more_events_than_fit_are_rejected() -> None:
    bench = Bench()
    bench.ready()
    for number in range(EVENTS_MAX + 1):
        start = bench.utc() + 3600 * (number + 1)
        bench.event(replace(CLOSE, issuer_event_id=number, start_utc=start))
    assert bench.reported() == [(EVENTS_MAX, EventStatus.REJECTED)]


def test_events_for_other_classes_and_groups_are_none_of_ours() -> None:
    bench = Bench(replace(SETTINGS, device_class=0x0080, enrollment_group=4))
    bench.ready()
    for event in (replace(CLOSE, device_class=0x0001), replace(CLOSE, enrollment_group=5)):
        bench.event(event)
        assert (bench.pin(), bench.reported()) == (False, [])
    bench.event(replace(CLOSE, enrollment_group=4, device_class=0x0081))
    assert bench.pin() is True


def test_nobody_but_the_esme_is_obeyed() -> None:
    bench = Bench()
    bench.ready()
    bench.event(CLOSE, peer=STRANGER)
    assert bench.status_of_default() == Status.NOT_AUTHORIZED
    assert (bench.pin(), bench.switch.report()["events"]) == (False, [])


def test_a_malformed_command_is_answered_and_changes_nothing() -> None:
    bench = Bench()
    bench.ready()
    bench.say(drlc.TO_CLIENT_LOAD_CONTROL_EVENT, bytes(22))
    assert bench.status_of_default() == Status.MALFORMED_COMMAND
    assert bench.notes[-1].name == "frame_refused"
    bench.say(0x07, b"")
    assert bench.status_of_default() == Status.UNSUP_CLUSTER_COMMAND
    assert bench.switch.report()["events"] == []


def test_without_the_time_an_event_waits_for_it() -> None:
    bench = Bench()
    bench.join()
    bench.event(CLOSE)
    assert (bench.pin(), bench.reported()) == (False, [])
    bench.pass_(120)
    bench.know_time()
    assert bench.pin() is True
    assert bench.reported()[0] == (1, EventStatus.RECEIVED)
    bench.pass_(28 * MINUTE - 1)
    assert bench.pin() is True
    bench.pass_(1)
    assert bench.pin() is False


# --- cancellations --------------------------------------------------------------------------------


def test_a_cancelled_event_ends_at_once() -> None:
    bench = Bench()
    bench.ready()
    bench.event(CLOSE)
    bench.cancel(1)
    assert (bench.pin(), bench.reported()) == (False, [(1, EventStatus.CANCELLED)])


def test_a_cancellation_for_later_ends_it_then() -> None:
    bench = Bench()
    bench.ready()
    bench.event(CLOSE)
    bench.cancel(1, effective_utc=bench.utc() + 60)
    assert (bench.pin(), bench.reported()) == (True, [])
    bench.pass_(60)
    assert (bench.pin(), bench.reported()) == (False, [(1, EventStatus.CANCELLED)])


def test_a_cancellation_may_be_randomised_as_the_event_was() -> None:
    bench = Bench()
    bench.ready()
    bench.chance.draws = [0, 90]
    bench.event(replace(CLOSE, event_control=drlc.RANDOMISE_END))
    bench.cancel(1, drlc.CANCEL_AS_RANDOMISED)
    assert bench.pin() is True
    bench.pass_(90)
    assert (bench.pin(), bench.reported()) == (False, [(1, EventStatus.CANCELLED)])


def test_a_waiting_event_is_cancelled_before_it_starts() -> None:
    bench = Bench()
    bench.ready()
    bench.event(replace(CLOSE, start_utc=bench.utc() + 600))
    bench.cancel(1, effective_utc=bench.utc() + 300)
    assert bench.reported() == [(1, EventStatus.CANCELLED)]
    bench.pass_(3600)
    assert (bench.pin(), bench.edges) == (False, 1)


@pytest.mark.parametrize(
    ("event_id", "later_s", "status"),
    [(7, 0, EventStatus.REJECTED_UNDEFINED), (1, 31 * MINUTE, EventStatus.REJECTED_CANCEL_TIME)],
)
def test_a_cancellation_that_makes_no_sense_is_rejected(
    event_id: int, later_s: int, status: EventStatus
) -> None:
    bench = Bench()
    bench.ready()
    bench.event(CLOSE)
    bench.cancel(event_id, effective_utc=bench.utc() + later_s)
    assert (bench.pin(), bench.reported()) == (True, [(event_id, status)])


def test_cancel_all_leaves_none() -> None:
    bench = Bench()
    bench.ready()
    bench.event(CLOSE)
    bench.event(replace(OPEN, start_utc=bench.utc() + 3600))
    bench.say(drlc.TO_CLIENT_CANCEL_ALL_EVENTS, drlc.encode_cancel_all(0))
    assert bench.reported() == [(1, EventStatus.CANCELLED), (2, EventStatus.CANCELLED)]
    assert (bench.pin(), bench.switch.report()["events"]) == (False, [])


# --- restarts, the HAN, the operator, the firmware ------------------------------------------------


def test_an_event_in_force_survives_a_restart_and_is_not_told_twice() -> None:
    bench = Bench()
    bench.ready()
    event = replace(CLOSE, start_utc=bench.utc())
    bench.event(event)
    bench.restart(seconds=600)
    assert bench.pin() is False
    bench.join()
    bench.know_time()
    bench.event(event)
    assert (bench.pin(), bench.reported()) == (True, [(1, EventStatus.RECEIVED)])
    bench.pass_(20 * MINUTE)
    assert (bench.pin(), bench.reported()) == (False, [(1, EventStatus.COMPLETED)])


def test_an_event_goes_on_to_its_end_without_the_han() -> None:
    bench = Bench()
    bench.ready()
    bench.event(CLOSE)
    bench.step(NetworkDown())
    bench.pass_(30 * MINUTE - 1)
    assert bench.pin() is True
    bench.pass_(1)
    assert bench.pin() is False


def test_the_operators_command_holds_until_an_event_starts_or_ends() -> None:
    bench = Bench()
    bench.ready()
    bench.event(replace(OPEN, start_utc=bench.utc() + 600))
    bench.step(SwitchRequested(closed=True))
    assert bench.answer == Answer(done=True, text="the switch is closed")
    bench.pass_(599)
    assert bench.pin() is True
    bench.pass_(1)
    assert bench.pin() is False
    bench.step(SwitchRequested(closed=True))
    assert bench.pin() is True
    bench.pass_(30 * MINUTE)
    assert bench.pin() is False


def test_a_firmware_with_a_broken_switch_moves_nothing_and_the_next_one_does() -> None:
    bench = Bench(works=False)
    bench.ready()
    event = replace(CLOSE, start_utc=bench.utc())
    bench.event(event)
    assert (bench.pin(), bench.edges) == (None, 0)
    assert bench.reported() == [(1, EventStatus.RECEIVED), (1, EventStatus.STARTED)]
    failed = [note for note in bench.notes if note.name == "switch_failed"]
    assert failed[-1].fields == {"state": "closed", "cause": "event"}
    assert bench.switch.report()["switch"] is None
    bench.step(SwitchRequested(closed=False))
    assert bench.answer is not None and not bench.answer.done
    bench.restart(works=True)
    bench.join()
    bench.know_time()
    bench.event(event)
    assert (bench.pin(), bench.switch.report()["switch"]) == (True, "closed")


def test_lost_records_cost_the_event_until_the_esme_is_asked_and_close_nothing() -> None:
    bench = Bench()
    bench.ready()
    bench.event(CLOSE)
    bench.restart(lost=("switch/events", "switch/commanded"))
    bench.pass_(SETTINGS.restore_after_s)
    lost = [note.fields["record"] for note in bench.notes if note.name == "record_lost"]
    assert (bench.pin(), lost) == (False, ["switch/events", "switch/commanded"])
    bench.ready()
    bench.event(CLOSE)
    assert bench.pin() is True


def test_the_cluster_s_attributes_say_what_the_switch_does_with_an_event() -> None:
    values = Bench(replace(SETTINGS, enrollment_group=4)).switch.attributes()
    assert {attribute: value for attribute, (_, value) in values.items()} == {
        drlc.ATTRIBUTE_ENROLLMENT_GROUP: 4,
        drlc.ATTRIBUTE_START_RANDOMISATION_MIN: 30,
        drlc.ATTRIBUTE_DURATION_RANDOMISATION_MIN: 30,
        drlc.ATTRIBUTE_DEVICE_CLASS: 0x0FFF,
    }


def test_frames_of_others_are_left_to_others() -> None:
    bench = Bench()
    bench.step(NetworkUp(ShortAddress(1), 15))
    search = zdo.decode_match_request(bench.frames[-1].payload)
    for sequence, claimed in ((search.sequence, True), (search.sequence - 0x80, False)):
        payload = zdo.encode_match_response(
            zdo.MatchResponse(sequence, zdo.SUCCESS, STRANGER, (1,))
        )
        cluster = zdo.MATCH_DESC_REQ | zdo.RESPONSE
        assert bench.switch.claims(Frame(STRANGER, 0, 0, 0, cluster, payload)) is claimed
    assert not bench.switch.claims(Frame(ESME, 1, 1, 0x0109, zcl.TIME_CLUSTER, b""))
