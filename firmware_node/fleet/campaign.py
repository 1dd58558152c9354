"""A campaign: who is offered which image when, and when to stop. Pure; it follows from its history.

    the operator wants something    ``start``, ``pause``, ``stop``
    events change what is known     ``Rows.apply``; an outcome makes room for the next member
    times run out                   members that said nothing for too long have failed
    images are activated            of each HCALCS that has verified its image, by CS06
    the next members are offered    wave by wave, within window, concurrency and pathways

That is one ``turn``, and its order. The same turns give the same state and the same orders:
nothing is drawn but from the seed, and no turn costs more than its events and orders. A turn
without events before ``wake_at`` changes nothing, so a driver leaves such turns out.

Ordering rules:

1. A wave begins when every member of the one before has an outcome; those that say
   ``with_previous`` begin together. Who is in it is drawn at that moment: who runs the image's
   version already, or a newer one, is not in it.
2. Members are offered in an order drawn by seed and wave, so that a street is not begun at once.
3. A paused campaign gives no orders; what is under way goes on, and its time runs, except that of
   members whose activation is held back.
4. A stopped one never goes on. What is under way has its outcome counted; who waits for its
   activation has failed.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from firmware_node.errors import ConfigError
from firmware_node.fleet.draws import seed_of
from firmware_node.fleet.rows import CS06, Rows, is_open, phase_of
from firmware_node.fleet.terms import Event, ImageSpec, Member, Order, Plan, Row, Selection, Wave

DAY_MINUTES: Final = 24 * 60
# After a command that the hub could not carry: it may not know the device again yet.
COMMAND_AGAIN_MS: Final = 60_000


class Turn(NamedTuple):
    """What a campaign is told at the end of a turn: all there is to record of it."""

    now_ms: int
    events: Sequence[Event] = ()
    actions: tuple[str, ...] = ()  # of the operator, before the events: start, pause or stop


@dataclass(slots=True)
class Attempt:
    """One offer to a member, or why it had none, and what came of it.

    ``result``: ``in_flight done failed skipped``.
    """

    wave: int  # its place in the plan
    image: str
    from_version: int
    to_version: int
    begun_ms: int | None = None  # None: it was skipped
    verified_ms: int | None = None  # by who is commanded to activate
    ended_ms: int | None = None
    result: str = "in_flight"
    failed_in: str | None = None
    cause: str | None = None


@dataclass(slots=True)
class WaveProgress:
    """How far a wave is. ``state``: ``waiting running done stopped``."""

    wave: Wave
    image: ImageSpec
    number: int
    state: str = "waiting"
    begun_ms: int | None = None
    ended_ms: int | None = None
    size: int = 0  # members selected
    begun: int = 0
    in_flight: int = 0
    holding: int = 0  # of those in flight: they hold a verified image until a time for all
    at_once: int = 0  # the most that were in flight together
    done: int = 0
    failed: int = 0
    skipped: int = 0
    queue: deque[int] = field(default_factory=deque)  # selected, and not offered yet
    timeline: dict[int, list[int]] = field(default_factory=dict)  # see minute

    def minute(self, at_ms: int) -> list[int]:
        """Of the timeline: members done and failed in it, and by how many more (or fewer) have a
        verified image and no outcome.
        """
        return self.timeline.setdefault(at_ms // 60_000, [0, 0, 0])

    @property
    def has_room(self) -> bool:
        """Whether the next member may be begun as far as the others go."""
        return bool(self.queue) and (
            not self.wave.concurrency or self.in_flight < self.wave.concurrency
        )


class Campaign:
    """See the module. It is ``ready`` until it is started.

    ``state``: ``ready running paused stopped done``; ``reason`` says why it is stopped.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.rows = Rows(plan)
        self.state = "ready"
        self.reason: str | None = None
        self.now_ms = 0
        self.wake_at: int | None = None
        images = {image.name: image for image in plan.images}
        self.waves = [
            WaveProgress(wave, images[wave.image], number) for number, wave in enumerate(plan.waves)
        ]
        self.attempts: dict[int, list[Attempt]] = {}  # by member
        self._ways = frozenset(plan.pathways)
        self._types_with_ways = frozenset(kind for kind, _, _ in plan.pathways)
        self._active: list[WaveProgress] = []
        self._next_wave = 0
        self._in_flight: dict[int, Attempt] = {}
        self._deadlines: list[tuple[int, int]] = []  # when, who; some are out of date
        self._deadline_of: dict[int, int] = {}
        self._to_activate: deque[int] = deque()  # they have verified their images
        # Commands to be repeated: when, who, which of its attempts.
        self._again: list[tuple[int, int, int]] = []

    @classmethod
    def resume(cls, plan: Plan, turns: Iterable[Turn]) -> Campaign:
        """The campaign after these turns; those without events and actions may be missing."""
        campaign = cls(plan)
        for turn in turns:
            campaign.run_to(turn.now_ms - 1)
            campaign.turn(turn)
        return campaign

    @property
    def in_flight(self) -> int:
        """Members that were offered an image and have no outcome yet."""
        return len(self._in_flight)

    @property
    def is_over(self) -> bool:
        """Whether nothing more will be ordered, nor counted."""
        return self.state in ("done", "stopped") and not self._in_flight

    def start(self, now_ms: int) -> None:
        """Begin, or go on after a pause.

        Raises:
            ConfigError: it was stopped, or is over.
        """
        if self.state in ("stopped", "done"):
            raise ConfigError(f"campaign {self.plan.name}: is {self.state}, and cannot be started")
        self.state = "running"
        for index in self._to_activate:
            if index in self._in_flight:  # the pause was not its fault
                self._set_deadline(index, now_ms + self._wave_of(index).timeout_ms)
        self.wake_at = now_ms

    def pause(self, now_ms: int) -> None:
        """Give no orders until it is started again; one that does not run stays as it is."""
        if self.state == "running":
            self.state = "paused"
            self.wake_at = now_ms

    def stop(self, now_ms: int, reason: str = "by the operator") -> None:
        """Give no orders ever again; one that is over stays as it is."""
        if self.state not in ("stopped", "done"):
            self.state, self.reason = "stopped", reason
            self.wake_at = now_ms

    def turn(self, turn: Turn) -> list[Order]:
        """Actions and events of a turn, in this order; the orders for the next one.

        Raises:
            ConfigError: an action cannot be.
        """
        for action in turn.actions:
            match action:
                case "start":
                    self.start(turn.now_ms)
                case "pause":
                    self.pause(turn.now_ms)
                case "stop":
                    self.stop(turn.now_ms)
                case _:
                    raise ConfigError(f"action: found {action!r}, expected start, pause or stop")
        return self.take(turn.events, turn.now_ms)

    def take(self, events: Iterable[Event], now_ms: int) -> list[Order]:
        """The events of a turn by time and member, at its end; the orders for the next one."""
        self.now_ms = now_ms
        for event in events:
            self._on_event(event)
        self._time_out(now_ms)
        orders: list[Order] = []
        if self.state == "running":
            self._activate(now_ms, orders)
            self._command_again(now_ms, orders)
            self._offer(now_ms, orders)
        if self.state == "stopped":
            self._close_stopped(now_ms)
        self.wake_at = self._next_ms(now_ms)
        return orders

    def run_to(self, now_ms: int) -> None:
        """Take the turns without events up to then, as far as one of them does something.

        Of use where the orders were given already: when a history is gone through again.
        """
        while self.wake_at is not None:
            end_ms = -(-self.wake_at // self.plan.turn_ms) * self.plan.turn_ms
            if end_ms > now_ms:
                return
            self.take((), end_ms)

    def reoffer(self, now_ms: int) -> list[Order]:
        """The orders that members in flight need after hubs and devices all began anew.

        What a device holds already it holds still, and an offer of it changes nothing there.
        """
        orders: list[Order] = []
        for index in sorted(self._in_flight):
            row = self.rows[index]
            assert row.image is not None
            if row.finish == CS06 and row.verified:
                is_held = index in self._to_activate  # by a pause
                if not is_held and not row.commanded and phase_of(row) != "trial":
                    orders.append(self._activation(row, now_ms))
            elif phase_of(row) != "trial":
                orders.append(Order("offer", index, row.image))
        return orders

    # --- events -----------------------------------------------------------------------------------

    def _on_event(self, event: Event) -> None:
        row = self.rows[event.member]
        if event.member not in self._in_flight:
            self.rows.apply(event)
            return
        was_verified = row.verified
        self.rows.apply(event)
        if not is_open(row):
            self._end(event.member, row)
        elif row.finish == CS06:
            if row.verified and not was_verified:
                self._to_activate.append(event.member)
                attempt = self._in_flight[event.member]
                attempt.verified_ms = event.at_ms
                progress = self.waves[attempt.wave]
                progress.holding += progress.wave.activate == "at"
                progress.minute(event.at_ms)[2] += 1
            if event.name == "delivered" and _is_command_lost(event, row):
                at_ms = event.at_ms + COMMAND_AGAIN_MS
                heapq.heappush(self._again, (at_ms, event.member, self._attempt_number(row)))

    def _end(self, index: int, row: Row) -> None:
        """A member in flight has its outcome."""
        assert row.ended_ms is not None
        attempt = self._in_flight.pop(index)
        del self._deadline_of[index]
        attempt.ended_ms = row.ended_ms
        attempt.failed_in, attempt.cause = row.failed_in, row.cause
        attempt.result = "done" if row.cause is None else "failed"
        wave = self.waves[attempt.wave]
        wave.in_flight -= 1
        wave.holding -= row.verified and wave.wave.activate == "at"
        minute = wave.minute(row.ended_ms)
        minute[2] -= attempt.verified_ms is not None
        if row.cause is None:
            wave.done += 1
            minute[0] += 1
        else:
            wave.failed += 1
            minute[1] += 1
        self._watch_failures(wave)

    def _watch_failures(self, wave: WaveProgress) -> None:
        """Stop when too many of a wave fail; a small wave has its say when it is through.

        Who holds its image until a time for all counts as good so far: failures are told at once,
        and would have the wave for themselves until then.
        """
        outcomes = wave.done + wave.failed + wave.holding
        enough = min(wave.wave.stop_after, wave.size - wave.skipped)
        # A quotient is rounded as the plan's share is: 29 of 100 are no more than 29 %.
        if outcomes < max(enough, 1) or wave.failed / outcomes <= wave.wave.stop_at_failures:
            return
        limit = f"{wave.wave.stop_at_failures * 100:g} %"
        reason = f"wave {wave.wave.name}: {wave.failed} of {outcomes} failed"
        self.stop(self.now_ms, f"{reason}, more than {limit}")

    def _time_out(self, now_ms: int) -> None:
        while self._deadlines and self._deadlines[0][0] <= now_ms:
            at_ms, index = heapq.heappop(self._deadlines)
            if self._deadline_of.get(index) != at_ms:
                continue  # it has its outcome, or more time
            row = self.rows[index]
            if self.state == "paused" and index in self._to_activate:
                continue  # ``start`` gives it a new one
            cause = "switched_off" if row.phase == "off" else "no_answer_in_time"
            self.rows.end(index, cause, now_ms)
            self._end(index, row)

    def _close_stopped(self, now_ms: int) -> None:
        while self._to_activate:
            index = self._to_activate.popleft()
            if index in self._in_flight:
                self._end(index, self.rows.end(index, "campaign_stopped", now_ms))
        for wave in self.waves:
            if wave.state == "running" and not wave.in_flight:
                self._close(wave, "stopped" if wave.queue else "done", now_ms)

    # --- orders -----------------------------------------------------------------------------------

    def _activate(self, now_ms: int, orders: list[Order]) -> None:
        while self._to_activate:
            index = self._to_activate.popleft()
            if index not in self._in_flight:
                continue
            wave = self._wave_of(index)
            if wave.activate_at_ms is not None:
                at_ms = max(wave.activate_at_ms, now_ms) + wave.timeout_ms
                self._set_deadline(index, max(at_ms, self._deadline_of[index]))
            orders.append(self._activation(self.rows[index], now_ms))

    def _activation(self, row: Row, now_ms: int) -> Order:
        at_ms, utc = self._wave_of(row.member.index).activate_at_ms, 0
        if at_ms is not None and at_ms > now_ms:
            utc = self.plan.start_utc + at_ms // 1000
        return Order("activate", row.member.index, row.image or "", utc)

    def _command_again(self, now_ms: int, orders: list[Order]) -> None:
        while self._again and self._again[0][0] <= now_ms:
            _, index, attempt = heapq.heappop(self._again)
            row = self.rows[index]
            if self._wants_command(row, attempt):
                orders.append(self._activation(row, now_ms))

    def _wants_command(self, row: Row, attempt: int) -> bool:
        return is_open(row) and not row.commanded and attempt == self._attempt_number(row)

    def _offer(self, now_ms: int, orders: list[Order]) -> None:
        while True:
            for wave in self._active:
                if self._is_within_window(wave.wave, now_ms):
                    self._offer_wave(wave, now_ms, orders)
                if not wave.queue and not wave.in_flight and wave.state == "running":
                    self._close(wave, "done", now_ms)
            if self.state != "running" or any(wave.state == "running" for wave in self._active):
                return  # a wave of which the rest was skipped may have stopped it
            if not self._begin_waves(now_ms):
                return

    def _offer_wave(self, wave: WaveProgress, now_ms: int, orders: list[Order]) -> None:
        while wave.has_room and self.state == "running":
            index = wave.queue.popleft()
            cause = self._why_not(self.rows[index], wave.image)
            if cause is not None:
                self._skip(index, wave, cause, now_ms)
                continue
            row = self.rows.offer(index, wave.wave, wave.image, now_ms)
            attempt = Attempt(
                wave.number, wave.image.name, row.from_version, row.to_version, now_ms
            )
            self.attempts.setdefault(index, []).append(attempt)
            self._in_flight[index] = attempt
            self._set_deadline(index, now_ms + wave.wave.timeout_ms)
            wave.begun += 1
            wave.in_flight += 1
            wave.at_once = max(wave.at_once, wave.in_flight)
            orders.append(Order("offer", index, wave.image.name))

    def _why_not(self, row: Row, image: ImageSpec) -> str | None:
        """Why a member of a wave is not offered its image."""
        if row.left:
            return "removed"
        kind = row.member.type
        way = (kind, self.rows.version_of(row), image.version)
        if kind in self._types_with_ways and way not in self._ways:
            return "no_pathway"
        return None

    def _skip(self, index: int, wave: WaveProgress, cause: str, now_ms: int) -> None:
        row = self.rows.skip(index, wave.wave, wave.image, cause)
        wave.skipped += 1
        self.attempts.setdefault(index, []).append(
            Attempt(
                wave.number,
                wave.image.name,
                row.from_version,
                row.to_version,
                ended_ms=now_ms,
                result="skipped",
                cause=cause,
            )
        )
        self._watch_failures(wave)

    def _begin_waves(self, now_ms: int) -> bool:
        """The next wave and those that begin with it; whether their time has come."""
        group = self._next_group()
        if not group:
            self.state = "done"
            return False
        if now_ms < max(wave.wave.start_ms for wave in group):
            return False
        self._active = group
        self._next_wave += len(group)
        for wave in group:
            wave.state, wave.begun_ms = "running", now_ms
            wave.queue = deque(self._selected(wave))
            wave.size = len(wave.queue)
        return True

    def _next_group(self) -> list[WaveProgress]:
        group = self.waves[self._next_wave : self._next_wave + 1]
        for wave in self.waves[self._next_wave + 1 :]:
            if not wave.wave.with_previous:
                break
            group.append(wave)
        return group

    def _selected(self, wave: WaveProgress) -> list[int]:
        """The members of a wave, in the order in which they are offered its image."""
        select, image, rows = wave.wave.select, wave.image, self.rows
        seed, name = self.plan.shape.seed, wave.wave.name
        found = [
            row.member.index
            for row in rows
            if row.member.type is image.type
            and selects(select, row.member)
            and rows.version_of(row) < image.version
        ]
        found.sort(key=lambda index: (seed_of("wave", seed, name, index), index))
        if select.percent is not None:
            del found[-(-len(found) * select.percent // 100) :]  # rounded up
        return found

    def _close(self, wave: WaveProgress, state: str, now_ms: int) -> None:
        wave.state, wave.ended_ms = state, now_ms
        wave.queue.clear()

    # --- times ------------------------------------------------------------------------------------

    def _set_deadline(self, index: int, at_ms: int) -> None:
        self._deadline_of[index] = at_ms
        heapq.heappush(self._deadlines, (at_ms, index))

    def _next_ms(self, now_ms: int) -> int | None:
        """When something is to be done without an event."""
        while (
            self._deadlines
            and self._deadline_of.get(self._deadlines[0][1]) != (self._deadlines[0][0])
        ):
            heapq.heappop(self._deadlines)
        times = [self._deadlines[0][0]] if self._deadlines else []
        if self.state == "running":
            if self._again:
                times.append(self._again[0][0])
            if not any(wave.state == "running" for wave in self._active):
                group = self._next_group()
                times += [max(wave.wave.start_ms for wave in group)] if group else []
            times += [
                self._window_opens(wave.wave, now_ms) for wave in self._active if wave.has_room
            ]
        return max(min(times), now_ms + 1) if times else None

    def _minute_of_day(self, now_ms: int) -> int:
        return (self.plan.start_utc + now_ms // 1000) // 60 % DAY_MINUTES

    def _is_within_window(self, wave: Wave, now_ms: int) -> bool:
        if wave.window is None:
            return True
        first, last = wave.window
        minute = self._minute_of_day(now_ms)
        return first <= minute < last if first < last else minute >= first or minute < last

    def _window_opens(self, wave: Wave, now_ms: int) -> int:
        """The next moment at which the minute of the window's beginning begins."""
        assert wave.window is not None  # else nobody would be waiting
        seconds = self.plan.start_utc * 1000 + now_ms
        day_ms = DAY_MINUTES * 60_000
        return now_ms + (wave.window[0] * 60_000 - seconds) % day_ms

    def _wave_of(self, index: int) -> Wave:
        return self.waves[self._in_flight[index].wave].wave

    def _attempt_number(self, row: Row) -> int:
        return len(self.attempts[row.member.index])


def selects(select: Selection, member: Member) -> bool:
    """Whether a selection takes a member, its percentage left aside."""
    if select.types and member.type not in select.types:
        return False
    if select.members and member.index not in select.members:
        return False
    if select.homes and not any(first <= member.home <= last for first, last in select.homes):
        return False
    return not (select.every and member.home % select.every)


def _is_command_lost(event: Event, row: Row) -> bool:
    """Whether the hub says that it could not carry a command to the device."""
    is_offer = event.fields.get("request_id") == row.image
    return not is_offer and event.fields.get("status") in ("no_route", "unknown_device")
