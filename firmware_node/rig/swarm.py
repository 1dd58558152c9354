"""One upgrade through everything a seed can draw, and then to its end.

From the seed come the air, the sizes, the hub's script, and when the supply goes: at a storage
call or for some minutes. While they last the invariants are checked after every event; then every
fault ends, the operator offers the image again where the hub gave up, and the upgrade must be done
within a day. The same seed gives the same run, so ``firmware-node rig replay SEED`` is how a
failure is looked at; what was drawn is a note on the error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from firmware_node.boundary import Machine, OfferImage, Storage
from firmware_node.crypto import Keyring
from firmware_node.rig.comms_hub import CommsHub, HubSettings, Misbehaviour
from firmware_node.rig.head_end import HeadEnd
from firmware_node.rig.hub_terms import BLOCK_FAULTS, END_FAULTS, QUERY_FAULTS
from firmware_node.rig.memory_storage import PowerCut
from firmware_node.rig.world import Air, Home, SeededEntropy, World
from firmware_node.terms import EntityId

FAULTY_MS = 6 * 3_600_000  # of virtual time under faults
OFFER_AGAIN_MS = 4 * 3_600_000  # with all faults off; six of them make the day
OFFERS_MAX = 6
UTC = 800_000_000
_FAULTS = BLOCK_FAULTS + QUERY_FAULTS + END_FAULTS


@dataclass(frozen=True, slots=True)
class Outage:
    """The supply is off for a while, counted in virtual milliseconds."""

    at_ms: int
    for_ms: int


@dataclass(frozen=True, slots=True)
class Options:
    """What a seed drew."""

    seed: int
    air: Air
    image_size: int  # bytes of the manufacturer image
    block_size: int  # that the device asks for
    block_size_max: int  # that the hub gives
    block_period: int | None
    page_size: int
    activate_after_s: int
    script: tuple[Misbehaviour, ...]
    cuts: tuple[int, ...]  # storage calls, each counted from the start after the one before
    outages: tuple[Outage, ...]

    @property
    def is_spoilt(self) -> bool:
        """Whether the device may take other octets than the hub was given for good ones.

        A block at a wrong offset is noticed where one block is waited for; among those of a page
        it may be what is missing.
        """
        spoiling = ("corrupted", "wrong_offset") if self.page_size else ("corrupted",)
        return self.air.corruption > 0 or any(rule.what in spoiling for rule in self.script)


@dataclass(frozen=True, slots=True)
class Report:
    """How a run went; a number that changes is a change to be looked at."""

    options: Options
    virtual_ms: int
    starts: int
    cuts: int
    offers: int
    frames: int
    frames_lost: int
    fired: tuple[str, ...]
    checks: int


class Subject(Protocol):
    """What the swarm needs of a device; ``invariants.WatchedDevice`` is one."""

    entity_id: EntityId
    ota_file: bytes

    def make(self) -> tuple[Machine, Storage]:
        """A new life on what was durable; may raise ``PowerCut`` later, never here."""
        ...

    def cut_after(self, calls: int) -> None:
        """Raise ``PowerCut`` at the ``calls``-th storage call from now."""
        ...

    def power_cycle(self) -> None:
        """The supply went: what was not durable may be gone."""
        ...

    def check(self) -> None:
        """Raise ``AssertionError`` when an invariant is broken."""
        ...

    def heard(self, message: bytes) -> None:
        """A message reached the hub; raises like ``check``."""
        ...

    def is_done(self) -> bool:
        """Whether the upgrade is over and told of."""
        ...


def draw(seed: int) -> Options:
    """The options of a seed."""
    entropy = SeededEntropy(seed)

    def one_of(*values: int) -> int:
        return values[entropy.below(len(values))]

    def some(most: int) -> range:
        return range(entropy.below(most + 1))

    def misbehaviour() -> Misbehaviour:
        what = _FAULTS[entropy.below(len(_FAULTS))]
        # Blocks are asked for by the hundred, the others once or twice.
        request = 1 + entropy.below(200 if what in BLOCK_FAULTS else 2)
        return Misbehaviour(what, times=1 + entropy.below(4), from_request=request)

    return Options(
        seed=seed,
        air=Air(
            latency_ms=one_of(2, 5, 30),
            jitter_ms=one_of(0, 10, 60),
            loss=one_of(0, 0, 2, 10),
            duplication=one_of(0, 0, 3, 10),
            corruption=one_of(0, 0, 0, 0, 0, 0, 0, 1),
            reordering=one_of(0, 0, 5),
            delay=one_of(0, 0, 1),
        ),
        image_size=4_000 + entropy.below(60_000),
        block_size=one_of(40, 48, 50, 63),
        block_size_max=one_of(255, 255, 50, 31),
        block_period=one_of(0, 0, 0, 20) or None,
        page_size=one_of(0, 0, 512, 1024),
        activate_after_s=one_of(0, 0, 30, 5_000),
        script=tuple(misbehaviour() for _ in some(4)),
        # The limit of starts on trial is 5, and cuts count like crashes.
        cuts=tuple(1 + entropy.below(60) for _ in some(2)),
        outages=tuple(Outage(entropy.below(120_000), 1 + entropy.below(600_000)) for _ in some(2)),
    )


def replay(
    seed: int,
    build: Callable[[Options], Subject],
    keyring: Keyring,
    hub_id: EntityId,
    acb: EntityId,
) -> Report:
    """Draw, run under faults, end the faults, run to the end.

    Raises:
        AssertionError: an invariant broke, or the upgrade did not end; the drawn options are a
            note on it.
    """
    options = draw(seed)
    try:
        return _Run(options, build(options), keyring, hub_id, acb).to_the_end()
    except BaseException as error:
        error.add_note(f"seed {seed}: {options}")
        error.add_note(f"again: firmware-node rig replay {seed}")
        raise


class _Run:
    def __init__(
        self,
        options: Options,
        subject: Subject,
        keyring: Keyring,
        hub_id: EntityId,
        acb: EntityId,
    ) -> None:
        self._options = options
        self._subject = subject
        self._world = World(options.seed, options.air)
        self._hub = CommsHub(
            HubSettings(
                hub_id,
                acb,
                block_size_max=options.block_size_max,
                block_period=options.block_period,
                activate_after_s=options.activate_after_s,
                utc=UTC,
                script=options.script,
            ),
            keyring,
        )
        self._world.set_hub(self._hub, hub_id, HeadEnd(acb, keyring, first_counter=1))
        self._world.after_event = self._after_event
        self._world.on_message = subject.heard
        self._cuts_left = list(options.cuts)
        self._cuts = self._checks = self._offers = 0

    def to_the_end(self) -> Report:
        self._plan_cut()
        self._through(self._join)
        self._offer()
        for outage in sorted(self._options.outages, key=lambda outage: outage.at_ms):
            self._let_pass(max(outage.at_ms - self._world.now_ms, 0))
            self._switch_off(outage.for_ms)
        self._let_pass(max(FAULTY_MS - self._world.now_ms, 0))
        self._world.air = Air()
        self._hub.behave()
        self._cuts_left.clear()
        while not self._subject.is_done():
            assert self._offers <= OFFERS_MAX, "I12: without any fault the upgrade does not end"
            self._offer()
            self._let_pass(OFFER_AGAIN_MS)
        self._let_pass(10_000, past_the_end=True)  # what is late must do no harm
        assert self._subject.is_done()
        return Report(
            self._options,
            self._world.now_ms,
            self._home.starts,
            self._cuts,
            self._offers,
            self._world.frames,
            self._world.frames_lost,
            tuple(self._hub.fired),
            self._checks,
        )

    @property
    def _home(self) -> Home:
        return self._world.homes[self._subject.entity_id]

    def _after_event(self) -> None:
        self._checks += 1
        self._subject.check()

    def _offer(self) -> None:
        self._offers += 1
        item = OfferImage(
            f"offer {self._offers}", self._subject.ota_file, (self._subject.entity_id,)
        )
        self._world.tell_hub(item)

    def _join(self) -> None:
        """Join, or start again after a cut."""
        who = self._subject.entity_id
        if who in self._world.homes:
            self._world.restart(self._home)
        else:
            self._world.add(who, self._subject.make)

    def _let_pass(self, milliseconds: int, *, past_the_end: bool = False) -> None:
        end = self._world.now_ms + milliseconds
        self._through(lambda: self._run_to(end, past_the_end))

    def _run_to(self, end: int, past_the_end: bool) -> None:
        self._world.run_until(
            lambda: not past_the_end and self._subject.is_done(),
            max(end - self._world.now_ms, 0),
        )

    def _switch_off(self, milliseconds: int) -> None:
        self._world.power_off(self._home)
        self._subject.power_cycle()
        self._world.run_for(milliseconds)
        self._plan_cut()
        self._through(self._join)

    def _through(self, happen: Callable[[], None]) -> None:
        """Let it happen; after each cut the device starts again and it goes on."""
        while True:
            try:
                happen()
            except PowerCut:
                self._cuts += 1
                self._subject.power_cycle()
                self._plan_cut()
                self._through(self._join)
                if happen == self._join:
                    return
            else:
                return

    def _plan_cut(self) -> None:
        if self._cuts_left:
            self._subject.cut_after(self._cuts_left.pop(0))
