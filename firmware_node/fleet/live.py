"""What views of a running fleet read: totals, waves, rates, an estimate, and what changed since.

The run loop tells ``Live`` which rows changed and what the campaign says, a few times a second;
the terminal, the page and the metrics each ask for a ``Snapshot`` when they want one. Nothing is
counted twice: an update costs what changed, and a snapshot what changed since the one before.

Every change of a row has a *revision*, counted up; who asks with the revision of its last snapshot
gets the rows that changed after it, once each. Before anything is told, each member is ``starting``
and has revision 0, so a view that knows the shape needs no rows for those.

How far an upgrade is, from 0 to 1, is a guess that makes estimates smooth: the download is nine
tenths of it. An estimate follows from how fast that grew lately, and there is none while it rests;
it is not before the last activation that the plan has for a time.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from firmware_node.fleet.campaign import Campaign
from firmware_node.fleet.rows import phase_of
from firmware_node.fleet.terms import Event, Plan, Row

PHASES: Final = (
    "off",
    "starting",
    "idle",
    "offered",
    "downloading",
    "transferred",
    "activating",
    "trial",
    "done",
    "failed",
)
ENDS: Final = ("done", "failed")
_CODES: Final = {phase: code for code, phase in enumerate(PHASES)}
_DOWNLOAD_SHARE: Final = 0.9
_SHARES: Final = {"transferred": 0.9, "activating": 0.93, "trial": 0.96, "done": 1.0, "failed": 1.0}

FAILURES_KEPT: Final = 50  # the last ones; all of them are rows
CAUSES_MAX: Final = 200  # words of ours; more would be a mistake, and are told as ``other``
RATE_WINDOW_S: Final = 20.0  # wall time over which rates are taken
SAMPLES_MAX: Final = 200  # in that window
HISTORY_MAX: Final = 240  # points of a curve; when full every second one goes
TURN_BUCKETS_S: Final = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)


class WaveState(NamedTuple):
    """What the campaign says of a wave.

    ``done`` and ``failed`` may be None: then they are counted from the rows, which is right unless
    a member goes through two waves between two updates.
    """

    name: str
    image: str
    members: int  # selected; 0 where that is not known yet
    state: str = "waiting"  # waiting running done stopped
    skipped: int = 0  # of the members, never offered anything
    done: int | None = None
    failed: int | None = None


class CampaignState(NamedTuple):
    """What the campaign says of itself."""

    state: str = "ready"  # ready running paused stopped done
    reason: str = ""  # why it stopped, in words
    waves: tuple[WaveState, ...] = ()


def campaign_state(campaign: Campaign) -> CampaignState:
    """How far a campaign is."""
    waves = (
        WaveState(
            progress.wave.name,
            progress.image.name,
            progress.size,
            progress.state,
            progress.skipped,
            progress.done,
            progress.failed,
        )
        for progress in campaign.waves
    )
    return CampaignState(campaign.state, campaign.reason or "", tuple(waves))


class Failure(NamedTuple):
    """An upgrade that ended badly."""

    at_ms: int
    member: int
    wave: str
    phase: str  # that it failed in
    cause: str


class Cell(NamedTuple):
    """A member at a glance, as numbers: what views keep of each."""

    phase: int = _CODES["starting"]  # index in ``PHASES``
    percent: int = 0  # of the download
    wave: int = -1  # index in the campaign's waves; -1: none
    cause: int = -1  # index in ``Snapshot.causes``; -1: none
    version: int = 0
    retries: int = 0


class Rates(NamedTuple):
    """How fast it goes, of the last ``RATE_WINDOW_S``."""

    speed: float = 0.0  # virtual seconds in a second
    outcomes_per_minute: float = 0.0  # in a virtual minute
    bytes_per_second: float = 0.0  # downloaded in a virtual second
    events_per_second: float = 0.0  # handled in a second


class WaveCount(NamedTuple):
    """A wave with the members that are in it, by phase."""

    state: WaveState
    phases: Mapping[str, int]
    share: float  # of its work that is behind it, 0 to 1

    @property
    def done(self) -> int:
        """Members that run the wave's image."""
        told = self.state.done
        return self.phases.get("done", 0) if told is None else told

    @property
    def failed(self) -> int:
        """Members that do not, for good."""
        told = self.state.failed
        return self.phases.get("failed", 0) if told is None else told

    @property
    def under_way(self) -> int:
        """Members between the offer and an end."""
        return sum(count for phase, count in self.phases.items() if phase not in ENDS)


class Turns(NamedTuple):
    """How long turns took, as a histogram."""

    buckets: tuple[int, ...]  # turns up to each of ``TURN_BUCKETS_S``, cumulative, and in all
    total_s: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A moment of a fleet. ``rows``: each changed member's index and cell, oldest change first."""

    plan: Plan
    revision: int
    now_ms: int  # virtual
    campaign: CampaignState
    totals: Mapping[str, int]  # members by phase, every phase
    waves: tuple[WaveCount, ...]
    rates: Rates
    eta_ms: int | None  # virtual, until every wave has ended
    eta_s: float | None  # the same by the wall clock
    failures: tuple[Failure, ...]  # the last ones, newest first
    causes: tuple[str, ...]  # ``phase: cause``
    failed_by: Mapping[str, int]  # members whose upgrade failed, by those
    events: Mapping[str, int]  # since the start, by name
    messages: Mapping[str, int]  # GBCS messages that came up, by use case
    downloaded: int  # bytes since the start
    history: tuple[tuple[int, int, int, int], ...]  # virtual ms, done, failed, under way
    turns: Turns
    rows: tuple[tuple[int, Cell], ...] = ()


class _Sample(NamedTuple):
    """What rates are taken from."""

    wall_s: float
    now_ms: int
    outcomes: int
    downloaded: int
    behind: float
    events: int


class _Wave:
    """The members that a wave has begun with."""

    def __init__(self, place: int) -> None:
        self.place = place
        self.behind = 0.0  # members' worth of work that is done
        self._members: dict[int, tuple[int, float]] = {}  # phase and share, by index
        self._counts = [0] * len(PHASES)

    def __len__(self) -> int:
        return len(self._members)

    def phase_of(self, index: int) -> str:
        """Of a member that is in it."""
        return PHASES[self._members[index][0]]

    def put(self, index: int, phase: str, share: float) -> None:
        """A member is there now, whether it was in the wave before or not."""
        code, before = self._members.get(index, (-1, 0.0))
        if code >= 0:
            self._counts[code] -= 1
        self._members[index] = _CODES[phase], share
        self._counts[_CODES[phase]] += 1
        self.behind += share - before

    def phases(self) -> dict[str, int]:
        """Members by phase, where there are any."""
        return {name: count for name, count in zip(PHASES, self._counts, strict=True) if count}


_FIRST: Final = Cell()


def _share(row: Row) -> float:
    """How far its upgrade is; the supply that is off takes nothing away."""
    phase = phase_of(row)
    if phase == "downloading" and row.total:
        return _DOWNLOAD_SHARE * row.offset / row.total
    return _SHARES.get(phase, 0.0)


def _failure(row: Row) -> Failure:
    at_ms = row.last_ms if row.ended_ms is None else row.ended_ms
    phase, cause = row.failed_in or "unknown", row.cause or "unknown"
    return Failure(at_ms, row.member.index, row.wave or "", phase, cause)


class Live:
    """Counts what the run loop tells.

    ``wall_s`` is any clock of the caller's that goes forward in seconds.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._cells: dict[int, Cell] = {}  # that have changed, the last change last
        self._revisions: dict[int, int] = {}
        self._offsets: dict[int, int] = {}  # bytes, of downloads under way
        self._revision = 0
        self._now_ms = 0
        self._campaign = CampaignState()
        self._totals = Counter({"starting": plan.shape.size})
        self._waves: dict[str, _Wave] = {}
        self._in_order: list[_Wave] = []
        self._causes: dict[str, int] = {}
        self._cause_names: list[str] = []
        self._failed_by: Counter[str] = Counter()
        self._failures: deque[Failure] = deque(maxlen=FAILURES_KEPT)
        self._events: Counter[str] = Counter()
        self._messages: Counter[str] = Counter()
        self._downloaded = 0
        self._samples: deque[_Sample] = deque(maxlen=SAMPLES_MAX)
        self._history: list[tuple[int, int, int, int]] = []
        self._history_step_ms = 0
        self._turns = [0] * (len(TURN_BUCKETS_S) + 1)
        self._turns_s = 0.0

    # --- what the run loop tells ------------------------------------------------------------------

    def happened(self, events: Iterable[Event]) -> None:
        """These events came; each is told once."""
        for event in events:
            self._events[event.name] += 1
            if event.name == "message":
                self._messages[str(event.fields.get("use_case", "unknown"))] += 1

    def turn_took(self, seconds: float) -> None:
        """A turn of the fleet ended, and took so long by the wall clock."""
        self._turns_s += seconds
        for place, limit in enumerate(TURN_BUCKETS_S):
            self._turns[place] += seconds <= limit
        self._turns[-1] += 1

    def update(
        self, now_ms: int, rows: Iterable[Row], campaign: CampaignState, wall_s: float
    ) -> None:
        """The rows that changed since the last update, as they are now; more may be among them."""
        self._now_ms = now_ms
        self._campaign = campaign
        for wave in campaign.waves:
            self._wave(wave.name)
        failures = [failure for row in rows if (failure := self._take(row)) is not None]
        self._failures.extend(sorted(failures))
        if not self._samples or wall_s - self._samples[-1].wall_s >= RATE_WINDOW_S / SAMPLES_MAX:
            self._sample(wall_s)
        self._remember()

    # --- what views ask ---------------------------------------------------------------------------

    def snapshot(self, since: int | None = None) -> Snapshot:
        """How it stands, with the rows changed after revision ``since``; None: without rows."""
        rates = self._rates()
        eta_ms = self._eta_ms()
        return Snapshot(
            plan=self._plan,
            revision=self._revision,
            now_ms=self._now_ms,
            campaign=self._campaign,
            totals={phase: self._totals[phase] for phase in PHASES},
            waves=tuple(self._wave_count(wave) for wave in self._campaign.waves),
            rates=rates,
            eta_ms=eta_ms,
            eta_s=eta_ms / 1000 / rates.speed if eta_ms is not None and rates.speed else None,
            failures=tuple(reversed(self._failures)),
            causes=tuple(self._cause_names),
            failed_by=dict(sorted(self._failed_by.items())),
            events=dict(sorted(self._events.items())),
            messages=dict(sorted(self._messages.items())),
            downloaded=self._downloaded,
            history=(*self._history, self._point()),
            turns=Turns(tuple(self._turns), self._turns_s),
            rows=() if since is None else self._changed_since(since),
        )

    # --- counting ---------------------------------------------------------------------------------

    def _take(self, row: Row) -> Failure | None:
        """Count a row; its failure, if that is new."""
        index = row.member.index
        old = self._cells.get(index, _FIRST)
        new = self._cell_of(row)
        self._count_bytes(index, row)
        if new == old and index in self._cells:
            return None
        self._cells.pop(index, None)  # the last change is the last one
        self._cells[index] = new
        self._revision += 1
        self._revisions[index] = self._revision
        old_phase, old_wave = PHASES[old.phase], old.wave
        self._totals[old_phase] -= 1
        self._totals[row.phase] += 1
        if old_phase == "failed":
            self._failed_by[self._cause_of(old)] -= 1
        self._move(index, old_wave, new.wave, row)
        if row.phase != "failed":
            return None
        self._failed_by[self._cause_of(new)] += 1
        return None if old_phase == "failed" else _failure(row)

    def _cell_of(self, row: Row) -> Cell:
        wave = -1 if row.wave is None else self._wave(row.wave).place
        cause = -1
        if row.cause is not None:
            words = f"{row.failed_in or 'unknown'}: {row.cause}"
            if words not in self._causes:
                words = words if len(self._causes) < CAUSES_MAX else "other"
                if words not in self._causes:
                    self._causes[words] = len(self._cause_names)
                    self._cause_names.append(words)
            cause = self._causes[words]
        percent = 100 * row.offset // row.total if row.total else 0
        return Cell(_CODES[row.phase], percent, wave, cause, row.version, row.retries)

    def _cause_of(self, cell: Cell) -> str:
        return "unknown" if cell.cause < 0 else self._cause_names[cell.cause]

    def _wave(self, name: str) -> _Wave:
        wave = self._waves.get(name)
        if wave is None:
            wave = self._waves[name] = _Wave(len(self._waves))
            self._in_order.append(wave)
        return wave

    def _move(self, index: int, old_wave: int, new_wave: int, row: Row) -> None:
        """Count the member in its wave; one that went on to another stays an end of the first.

        A wave begins after the one before it is over. So a member that was seen under way there and
        is here now ended in between, and what failed would have been left out.
        """
        if old_wave not in (new_wave, -1):
            old = self._in_order[old_wave]
            if old.phase_of(index) not in ENDS:
                old.put(index, "done", 1.0)
        if new_wave >= 0:
            self._in_order[new_wave].put(index, row.phase, _share(row))

    def _count_bytes(self, index: int, row: Row) -> None:
        """What grew was downloaded; what shrank began again, and counts from there."""
        before = self._offsets.get(index, 0)
        if row.offset > before:
            self._downloaded += row.offset - before
        self._offsets[index] = row.offset

    # --- curves and rates -------------------------------------------------------------------------

    def _sample(self, wall_s: float) -> None:
        while self._samples and wall_s - self._samples[0].wall_s > RATE_WINDOW_S:
            self._samples.popleft()
        done, failed = self._totals["done"], self._totals["failed"]
        behind = sum(wave.behind for wave in self._waves.values())
        events = self._events.total()
        self._samples.append(
            _Sample(wall_s, self._now_ms, done + failed, self._downloaded, behind, events)
        )

    def _span(self) -> tuple[_Sample, _Sample, float] | None:
        """The oldest and the newest sample of the window, and virtual seconds between."""
        if len(self._samples) < 2:
            return None
        first, last = self._samples[0], self._samples[-1]
        virtual_s = (last.now_ms - first.now_ms) / 1000
        return (first, last, virtual_s) if virtual_s > 0 and last.wall_s > first.wall_s else None

    def _rates(self) -> Rates:
        span = self._span()
        if span is None:
            return Rates()
        first, last, virtual_s = span
        wall_s = last.wall_s - first.wall_s
        return Rates(
            speed=virtual_s / wall_s,
            outcomes_per_minute=max(0, last.outcomes - first.outcomes) * 60 / virtual_s,
            bytes_per_second=(last.downloaded - first.downloaded) / virtual_s,
            events_per_second=(last.events - first.events) / wall_s,
        )

    def _eta_ms(self) -> int | None:
        members = sum(wave.members - wave.skipped for wave in self._campaign.waves)
        span = self._span()
        if span is None or not members:
            return None
        first, last, virtual_s = span
        grew, left = last.behind - first.behind, members - last.behind
        if left <= 0:
            return 0
        if grew <= 0:
            return None
        eta_ms = max(round(1000 * left * virtual_s / grew), self._not_before_ms())
        # While a campaign waits for an hour or a window, its rate says nothing.
        return eta_ms if self._now_ms + eta_ms <= self._plan.limit_ms else None

    def _not_before_ms(self) -> int:
        """How long the last of the activations is away that come at a time."""
        over = {wave.name for wave in self._campaign.waves if wave.state in ("done", "stopped")}
        times = (
            wave.activate_at_ms
            for wave in self._plan.waves
            if wave.activate_at_ms is not None and wave.name not in over
        )
        return max(0, max(times, default=0) - self._now_ms)

    def _point(self) -> tuple[int, int, int, int]:
        done, failed = self._totals["done"], self._totals["failed"]
        rest = ("off", "starting", "idle")
        under_way = self._plan.shape.size - done - failed - sum(self._totals[name] for name in rest)
        return self._now_ms, done, failed, under_way

    def _remember(self) -> None:
        """A point of the curve, at distances that double whenever there are too many."""
        if self._history and self._now_ms < self._history[-1][0] + self._history_step_ms:
            return
        self._history.append(self._point())
        if len(self._history) >= HISTORY_MAX:
            del self._history[1::2]
            span = self._history[-1][0] - self._history[0][0]
            self._history_step_ms = 2 * span // HISTORY_MAX

    def _wave_count(self, state: WaveState) -> WaveCount:
        wave = self._wave(state.name)
        members = max(state.members - state.skipped, len(wave), 1)
        # Sums of shares are not exact, and 99.99 % is shown as 99.
        return WaveCount(state, wave.phases(), round(min(1.0, wave.behind / members), 6))

    def _changed_since(self, since: int) -> tuple[tuple[int, Cell], ...]:
        found: list[tuple[int, Cell]] = []
        for index, cell in reversed(self._cells.items()):
            if self._revisions[index] <= since:
                break
            found.append((index, cell))
        return tuple(reversed(found))
