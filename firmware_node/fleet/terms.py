"""The words of fleets: members, orders, events, and what a plan says. Values only.

A *member* is one device of the fleet, named by its index: members are numbered home by home, in the
order in which the plan lists the device types. Times are virtual milliseconds since the fleet's
start unless a name says otherwise.

A fleet goes forward in *turns* of equal length. Inside a turn homes know nothing of each other;
between turns the campaign reads the events of all homes, in order of time and member, and gives
orders for the next one. So what happens does not depend on how homes are spread over processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from firmware_node.terms import DeviceType, EntityId

Field = str | int | float | bool | None

# The first octet pairs of every id of a fleet: the reference set's, and then what the holder is.
ENTITY_PREFIX: Final = bytes.fromhex("00db12")
_KINDS: Final = {DeviceType.PPMID: 0x50, DeviceType.HCALCS: 0x48}
_HUB: Final = 0x43
MEMBER_TYPES: Final = (DeviceType.PPMID, DeviceType.HCALCS)
HOMES_MAX: Final = 1_000_000  # an index keeps within the four octets that an entity id has for it


def member_entity_id(kind: DeviceType, home: int, number: int = 0) -> EntityId:
    """The entity id of the ``number``-th device of a type in a home: free choice, told apart by
    eye: reference prefix, ``P`` or ``H`` plus the number, the home's index.
    """
    return EntityId(ENTITY_PREFIX + bytes((_KINDS[kind] + number,)) + home.to_bytes(4, "big"))


def hub_entity_id(home: int) -> EntityId:
    """The entity id of a home's Comms Hub."""
    return EntityId(ENTITY_PREFIX + bytes((_HUB,)) + home.to_bytes(4, "big"))


@dataclass(frozen=True, slots=True)
class Member:
    """Who one device of the fleet is."""

    index: int  # in the fleet, from 0
    home: int  # the home's index, ``first_index`` and up
    type: DeviceType
    entity_id: EntityId


@dataclass(frozen=True, slots=True)
class Shape:
    """How large a fleet is and what it is made of."""

    homes: int = 1
    devices: tuple[tuple[DeviceType, int], ...] = ((DeviceType.PPMID, 1),)  # in each home
    first_index: int = 0  # of the homes, so that two fleets do not share ids
    seed: int = 0
    start_jitter_ms: int = 0  # a device is switched on at a moment drawn up to here

    @property
    def per_home(self) -> int:
        """Devices in each home."""
        return sum(count for _, count in self.devices)

    @property
    def size(self) -> int:
        """Devices in all."""
        return self.homes * self.per_home

    def member(self, index: int) -> Member:
        """The member of an index, 0 to ``size`` - 1."""
        home, place = divmod(index, self.per_home)
        home += self.first_index
        for kind, count in self.devices:
            if place < count:
                return Member(index, home, kind, member_entity_id(kind, home, place))
            place -= count
        raise AssertionError("a place beyond the last device of a home")

    def members_of(self, home: int) -> tuple[Member, ...]:
        """The members of a home, by its index."""
        first = (home - self.first_index) * self.per_home
        return tuple(self.member(first + place) for place in range(self.per_home))


# --- what a plan says -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """An image of the plan, by the name that its waves use: a file, or one to be built."""

    name: str
    type: DeviceType  # who can run it
    version: int  # file version
    size: int = 65_536  # bytes of the manufacturer image, of one to be built
    file: str | None = None  # an OTA file
    behaviour: str = "good"  # of one to be built: a name of the image library


@dataclass(frozen=True, slots=True)
class Selection:
    """Which members; what is empty or None selects all."""

    types: tuple[DeviceType, ...] = ()
    homes: tuple[tuple[int, int], ...] = ()  # first and last index
    percent: int | None = None  # of those left by the others, drawn by the seed
    every: int | None = None  # each n-th home
    members: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Wave:
    """One step of a roll-out: who gets which image, when, and how many at once."""

    name: str
    image: str
    select: Selection = Selection()
    start_ms: int = 0  # not before; a wave also waits for the one before it
    window: tuple[int, int] | None = None  # minutes of the day, UTC, in which new devices are begun
    concurrency: int = 0  # at once; 0: all
    activate: str = "now"  # HCALCS: now, or at, or never (SR 11.1 alone)
    activate_at_ms: int | None = None  # for ``at``: one moment for all
    timeout_ms: int = 6 * 3_600_000  # from the offer, then it counts as failed
    stop_at_failures: float = 1.0  # share of the wave that failed, above which the campaign stops
    stop_after: int = 10  # outcomes before the share means anything
    with_previous: bool = False  # begins with the wave before it; theirs are different types


@dataclass(frozen=True, slots=True)
class FaultRule:
    """What goes wrong, where and when.

    ``what``: ``loss`` (percent, ``amount``), ``hub_away``, ``power_cut`` (both ``for_ms`` long),
    ``cut_at_call`` (the supply goes at the ``amount``-th storage call from ``at_ms`` on),
    ``clock_drift`` (``amount`` parts in a million), or a name of ``hub_terms.Misbehaviour``
    (``amount`` times).
    """

    what: str
    select: Selection = Selection()
    at_ms: int = 0
    for_ms: int = 0
    amount: int = 0
    jitter_ms: int = 0  # each device's moment is drawn up to so much later


@dataclass(frozen=True, slots=True)
class AirPlan:
    """The air of every home; see ``rig.world.Air``."""

    latency_ms: int = 5
    jitter_ms: int = 0
    loss: int = 0  # percent
    duplication: int = 0
    reordering: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole fleet run."""

    name: str
    shape: Shape
    images: tuple[ImageSpec, ...] = ()
    waves: tuple[Wave, ...] = ()
    pathways: tuple[tuple[DeviceType, int, int], ...] = ()  # from, to; empty: every way upwards
    faults: tuple[FaultRule, ...] = ()
    air: AirPlan = AirPlan()
    factory_version: int = 1
    factory_size: int = 8_192  # bytes
    block_size: int = 50  # bytes
    page_size: int = 0  # bytes; 0: blocks only
    turn_ms: int = 1_000  # length of a turn
    start_utc: int = 820_540_800  # seconds since 2000-01-01: 2026-01-01T00:00:00Z
    limit_ms: int = 7 * 86_400_000  # of the whole run


# --- what a campaign does and hears ---------------------------------------------------------------


class Order(NamedTuple):
    """What a home is told at the beginning of a turn.

    ``verb`` and its arguments: ``offer`` (``image``: a name of the plan), ``activate`` (``image``;
    ``amount``: UTC seconds since 2000-01-01, 0: now), ``cut`` (the supply goes for ``amount`` ms),
    ``pause`` and ``resume`` (the supply is off in between), ``remove`` (it leaves for good),
    ``add`` (it joins; for one that was removed), ``query`` (ask the OTA server now).
    """

    verb: str
    member: int
    image: str = ""
    amount: int = 0


class Event(NamedTuple):
    """Something that happened to a member.

    ``name`` is one of ``boundary.NOTIFICATIONS`` told by the device, or:

    - ``joined`` / ``left``;
    - ``delivered``: ``status`` of ``boundary.Delivered`` for the offer of a hub;
    - ``message``: a GBCS message that came up from it, or from its hub about it, as the head end
      saw it: ``use_case kind alert_code signature mac`` and its fields;
    - ``power_off`` / ``power_on``; ``fault``: ``what`` of a rule that happened;
    - ``order_refused``: ``verb reason``.
    """

    at_ms: int
    member: int
    name: str
    fields: Mapping[str, Field]


@dataclass(slots=True)
class Row:
    """What is known of a member: the fold of its events, and what views and reports show.

    ``phase``: ``off starting idle offered downloading transferred activating trial done failed``.
    """

    member: Member
    phase: str = "starting"
    wave: str | None = None
    image: str | None = None
    version: int = 0  # that it runs, as far as it said
    offset: int = 0  # bytes of the download
    total: int = 0
    begun_ms: int | None = None  # of its upgrade: when it was offered
    ended_ms: int | None = None
    failed_in: str | None = None  # phase
    cause: str | None = None
    starts: int = 0
    retries: int = 0
    from_version: int = 0  # that it ran when it was offered the image
    to_version: int = 0  # that it shall run
    finish: str = ""  # what ends its upgrade well: cs09 cs06 receipt; empty: nobody waits for it
    verified: bool = False  # an HCALCS said so: its image may be activated
    commanded: bool = False  # it has taken the command to activate
    trouble: tuple[str, str] | None = None  # phase and cause of what may mend yet
    phase_before: str = ""  # that it was in when its supply went
    left: bool = False  # it was removed from its home
    last_event: str = ""
    last_ms: int = 0
    messages: list[str] = field(default_factory=list)  # GBCS alerts and responses, in words
