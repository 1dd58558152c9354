"""The line between the deterministic core and the world: one contract, inputs, effects, ports.

A machine is driven by ``step``; what it wants done it returns as effects; what it needs at once
(storage, entropy) it calls through a port. The driver commits the records of one or many steps
together and only then lets their effects leave, so saved-before-sent needs no care in the core and
saved-but-not-sent must be harmless there.

``Frame``, ``FrameReceived`` and ``SendFrame`` are named tuples, not frozen dataclasses: they are
made four times for every block, and a named tuple costs a third as much to make.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from firmware_node.terms import BankId, EntityId, ShortAddress

# --- what travels -------------------------------------------------------------------------------


class Frame(NamedTuple):
    """One APS frame, seen from one side: ``peer`` is who sent it or who shall get it."""

    peer: ShortAddress
    peer_endpoint: int
    endpoint: int  # ours
    profile: int  # 0x0109 Smart Energy, 0x0000 ZDO
    cluster: int
    payload: bytes  # a ZCL frame; for ZDO the sequence number and its body
    broadcast: bool = False


# --- inputs -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Started:
    """First input of every machine; the process has just begun or begun again."""


@dataclass(frozen=True, slots=True)
class NetworkUp:
    """The radio is joined and registered its endpoints."""

    short_address: ShortAddress
    channel: int


@dataclass(frozen=True, slots=True)
class NetworkDown:
    """The radio lost the network or its host."""


class FrameReceived(NamedTuple):
    """A frame arrived."""

    frame: Frame


@dataclass(frozen=True, slots=True)
class SendConfirmed:
    """The fate of a tagged ``SendFrame``: every fragment was APS-acknowledged, or not."""

    tag: int
    delivered: bool


@dataclass(frozen=True, slots=True)
class PeerAnnounced:
    """To a coordinator: a device joined, rejoined or restarted (ZDO Device Announce)."""

    short_address: ShortAddress
    entity_id: EntityId


@dataclass(frozen=True, slots=True)
class LoadImage:
    """The operator flashes an OTA file; answered by one ``Answer``."""

    data: bytes
    activate: bool


@dataclass(frozen=True, slots=True)
class QueryRequested:
    """The operator wants the OTA server asked now; answered by one ``Answer``.

    ``file_version`` asks for that version (Query Specific File); None: for the next image.
    """

    file_version: int | None = None


@dataclass(frozen=True, slots=True)
class SwitchRequested:
    """The operator tries the switch of an HCALCS; answered by one ``Answer``."""

    closed: bool


@dataclass(frozen=True, slots=True)
class RebootRequested:
    """The operator presses the button; answered by one ``Answer``."""


@dataclass(frozen=True, slots=True)
class FactoryResetRequested:
    """Back to the factory image and the key folder; answered by one ``Answer``."""


@dataclass(frozen=True, slots=True)
class OfferImage:
    """To a hub: serve this OTA file to these devices (SR 11.1, SR 11.4).

    To the head end: alerts about these devices belong to this request from now on.
    """

    request_id: str
    ota_file: bytes
    devices: tuple[EntityId, ...]
    out_of_band: bool = False  # activated by CS06, never by the hub (SR 11.1; gbcs.md 6.2)


@dataclass(frozen=True, slots=True)
class CarryMessage:
    """To a hub: take this GBCS message to its recipient through the tunnel.

    To the head end: the same, and match its answer.
    """

    recipient: EntityId
    message: bytes


@dataclass(frozen=True, slots=True)
class SetClock:
    """To a hub: this is the time (seconds since 2000-01-01T00:00:00Z)."""

    utc: int


@dataclass(frozen=True, slots=True)
class ScheduleLoad:
    """To a hub that plays the ESME: one load control event; answered by one ``Answer``."""

    device: EntityId
    closed: bool  # whether the load has its supply during the event
    duration_min: int  # minutes
    start_utc: int = 0  # seconds since 2000-01-01T00:00:00Z; 0: now
    randomise: bool = False  # start and end, by offsets that the device draws


@dataclass(frozen=True, slots=True)
class CancelLoad:
    """To a hub that plays the ESME: take an event back, or all; answered by one ``Answer``."""

    device: EntityId
    issuer_event_id: int | None = None  # None: every event of the device


@dataclass(frozen=True, slots=True)
class MessageArrived:
    """To the head end: a GBCS message came up from a hub."""

    message: bytes


@dataclass(frozen=True, slots=True)
class ReadVersion:
    """To the head end: read a device's firmware version by CS08 (SR 11.2)."""

    request_id: str
    user: EntityId
    user_counter: int
    device: EntityId


@dataclass(frozen=True, slots=True)
class SendSigned:
    """To the head end: add the MAC to a signed Pre-Command and carry it (SR 11.3)."""

    request_id: str
    message: bytes  # from DF to the end of the User's signature


Input = (
    Started
    | NetworkUp
    | NetworkDown
    | FrameReceived
    | SendConfirmed
    | PeerAnnounced
    | LoadImage
    | QueryRequested
    | SwitchRequested
    | RebootRequested
    | FactoryResetRequested
    | OfferImage
    | CarryMessage
    | SetClock
    | ScheduleLoad
    | CancelLoad
    | MessageArrived
    | ReadVersion
    | SendSigned
)

# --- effects ------------------------------------------------------------------------------------


class SendFrame(NamedTuple):
    """Send a frame; a ``tag`` not 0 asks for APS acknowledgement and one ``SendConfirmed``."""

    frame: Frame
    tag: int = 0


# Every name that a ``Notify`` has, along the way of an image, and what it tells.
NOTIFICATIONS: Mapping[str, str] = {
    "server_found": "an OTA server answered the search",
    "server_lost": "it is silent and is searched again",
    "image_notified": "Image Notify came",
    "image_query_answered": "there is no image for us",
    "image_offered": "an offer is taken",
    "offer_ignored": "it is the version that runs, or the one held",
    "offer_refused": "it cannot be taken",
    "frame_refused": "a frame was malformed or unknown",
    "download_started": "at this offset",
    "download_progress": "the first block, every 64 KiB, the last block",
    "download_waiting": "the server asks to wait",
    "download_paused": "the disk is full",
    "download_kept": "a restart found a part of a file",
    "download_aborted": "it is given up",
    "block_retried": "an answer was wrong or did not come",
    "pages_given_up": "from now on by blocks",
    "image_verified": "a bank holds it",
    "image_loaded": "the operator flashed it",
    "upgrade_end_sent": "the server is told how the download ended",
    "upgrade_end_unanswered": "and says nothing",
    "upgrade_kept": "a restart found a verified image",
    "activation_scheduled": "the server gave a time",
    "activation_held": "the server gave none",
    "image_activated": "the banks have switched",
    "restarting": "the process begins again",
    "image_running": "it has begun",
    "self_test": "of an image on trial",
    "image_crashed": "as its manifest says",
    "image_confirmed": "the trial is over",
    "image_reverted": "the former image runs again",
    "upgrade_failed": "what ``last_failure`` keeps",
    "tunnel_opened": "by the hub",
    "tunnel_refused": "what was asked for cannot be had",
    "tunnel_closed": "by the hub",
    "tunnel_lost": "the hub does not know it",
    "tunnel_expired": "it was idle too long",
    "command_accepted": "a GBCS command was good, and its counter is spent",
    "command_refused": "a GBCS command was not",
    "activation_pending": "a future-dated activation waits for its time",
    "activation_cancelled": "by a command; something may have been pending",
    "log_entry": "the device's own security or event log has one more",
    "message_queued": "it waits in the outbox",
    "message_withheld": "it cannot be signed or counted",
    "message_delivered": "the hub has it",
    "message_undelivered": "it is sent again later",
    "message_lost": "its record is unreadable",
    "esme_found": "an ESME serves load control, and is obeyed from now on",
    "esme_lost": "it is silent and is searched again",
    "load_event": "a load control event has this status now",
    "switch_moved": "the switch of an HCALCS, and what commanded it",
    "switch_failed": "the running firmware did not move it",
    "provisioned": "an empty state directory was filled",
    "bank_fault": "what a bank holds does not verify",
    "running_other_bank": "because of that",
    "factory_image_restored": "because neither bank verified",
    "nothing_to_run": "and the factory image may not run",
    "record_lost": "a one-way value has one home left",
    "records_lost": "the database was salvaged",
    "boot_record_rebuilt": "from what the banks hold",
    "counters_lost": "nothing that counts is sent or taken",
    "device_announced": "to the hub: it joined",
    "image_discarded": "by the hub: it is no OTA file",
    "load_event_reported": "to the hub's ESME: by a device",
    "load_event_not_scheduled": "by the hub's ESME: the device has too many",
    "message_malformed": "to the head end: it is no GBCS message",
}


@dataclass(frozen=True, slots=True)
class Notify:
    """A line for our operator: a fixed snake_case name and plain fields, never key material."""

    name: str
    fields: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SetRelay:
    """Drive a relay by its configured name; one that is so already stays as it is."""

    name: str
    on: bool


@dataclass(frozen=True, slots=True)
class SetIndicator:
    """Light an indicator by its name, where such a line is configured."""

    name: str
    on: bool


@dataclass(frozen=True, slots=True)
class Reboot:
    """Begin again: the driver makes everything durable and re-executes."""

    reason: str


@dataclass(frozen=True, slots=True)
class EraseAndReboot:
    """Factory reset: the driver throws the state away and re-executes."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The reply to an operator's input."""

    done: bool
    text: str


@dataclass(frozen=True, slots=True)
class MessageUp:
    """From a hub to the head end: a GBCS message from a device, or from the hub itself."""

    message: bytes


@dataclass(frozen=True, slots=True)
class Delivered:
    """From a hub: what became of an ``OfferImage`` or a ``CarryMessage`` for one device.

    ``status`` is one of ``offered downloading transferred activating discarded hardware_mismatch
    transfer_failed unknown_device no_route delivered``.
    """

    request_id: str
    entity_id: EntityId
    status: str


@dataclass(frozen=True, slots=True)
class MessageChecked:
    """From the head end: a GBCS message with the verdict on its signature and MAC.

    ``signature`` and ``mac``: ``valid``, ``invalid``, ``absent`` or ``no-key``.
    """

    message: bytes
    use_case: str
    message_code: int
    kind: str  # command, response or alert
    originator: EntityId
    recipient: EntityId
    counter: int  # of the grouping header
    alert_code: int | None
    signature: str
    mac: str
    fields: Mapping[str, str | int]


Effect = (
    SendFrame
    | Notify
    | SetRelay
    | SetIndicator
    | Reboot
    | EraseAndReboot
    | Answer
    | MessageUp
    | CarryMessage
    | Delivered
    | MessageChecked
)


class Machine(Protocol):
    """What the daemon, the fleet and the tests drive."""

    @property
    def wake_at(self) -> int | None:
        """Monotonic milliseconds of the next timer; None: nothing to wake for."""
        ...

    def step(self, item: Input | None, now_ms: int) -> Sequence[Effect]:
        """Advance by one input, or by the timer when ``item`` is None.

        ``now_ms`` is monotonic and the only time; it is never stored.
        """
        ...


# --- ports --------------------------------------------------------------------------------------


class Records(Protocol):
    """Small named values, each with its checksum; durable from the driver's next commit on."""

    def get(self, key: str) -> bytes | None:
        """The value; None when there never was one or it was deleted.

        Raises:
            RecordLostError: the row is there and its checksum is wrong.
        """
        ...

    def put(self, key: str, value: bytes) -> None:
        """Write; seen by ``get`` at once."""
        ...

    def delete(self, key: str) -> None:
        """Remove; an absent key is no error."""
        ...

    def keys(self, prefix: str) -> Sequence[str]:
        """The keys that begin with ``prefix``, sorted; lost rows included."""
        ...


class BankArea(Protocol):
    """One bank: an image area, two trailers. ``write`` promises order, ``sync`` durability."""

    @property
    def size(self) -> int:
        """Bytes of the image area, a multiple of ``PAGE_SIZE``."""
        ...

    def write(self, offset: int, data: bytes) -> None:
        """Write whole pages: ``offset`` is page-aligned; only a file's last page may be short.

        Raises:
            StorageFullError: no space; nothing can be said about the page.
            StorageError: the medium failed.
        """
        ...

    def read(self, offset: int, size: int) -> bytes:
        """Read exactly ``size`` bytes of the image area."""
        ...

    def write_trailer(self, area: int, record: bytes) -> None:
        """Write trailer ``area`` 0 or 1, at most ``PAGE_SIZE`` bytes."""
        ...

    def read_trailer(self, area: int) -> bytes:
        """Read trailer ``area`` 0 or 1, ``PAGE_SIZE`` bytes."""
        ...

    def sync(self) -> None:
        """Everything written so far is durable when this returns."""
        ...


PAGE_SIZE = 4096  # bytes; a flash page, a file system block: the unit of bank writes


class RatchetValues(NamedTuple):
    """Values that only rise, kept a second time outside the records."""

    counter_ceiling: int = 0  # own originator counters below it may have been used
    rollback_floor: int = 0  # file version of the newest confirmed image


class Ratchet(Protocol):
    """The second home of one-way values (dual-bank.md 6)."""

    def read(self) -> RatchetValues:
        """The stored values.

        Raises:
            RecordLostError: neither copy is readable.
        """
        ...

    def raise_now(self, values: RatchetValues) -> None:
        """Durable when this returns; each value becomes the maximum of old and new."""
        ...

    def raise_after_commit(self, values: RatchetValues) -> None:
        """The same, written by the driver right after the commit that carries this step."""
        ...


class Storage(Protocol):
    """Everything the device keeps. ``commit`` belongs to the driver."""

    @property
    def records(self) -> Records:
        """The small values."""
        ...

    @property
    def ratchet(self) -> Ratchet:
        """The one-way values' second home."""
        ...

    def bank(self, bank: BankId) -> BankArea:
        """The area of one bank."""
        ...

    def free_bytes(self) -> int:
        """What the disk has left for us."""
        ...

    def commit(self) -> None:
        """Make the records put since the last commit durable, in one transaction."""
        ...


class Entropy(Protocol):
    """Randomness that a test can seed."""

    def below(self, bound: int) -> int:
        """A number from 0 to ``bound`` - 1."""
        ...

    def octets(self, size: int) -> bytes:
        """That many random octets."""
        ...


class LineSpec(NamedTuple):
    """One line of a GPIO chip: an output, or an input that is pulled to the level that is off."""

    number: int  # BCM number, which is the offset on the chip
    active_low: bool = False  # on drives the pin low
    initial: bool = False  # of an output: on or off, from the claim until the first ``set``
    is_input: bool = False


class RelayPort(Protocol):
    """Lines by name; a name is on or off, whatever level that is on the pin."""

    def claim(self, lines: Mapping[str, LineSpec]) -> None:
        """Take all lines and drive each output to its initial state, or take none.

        Raises:
            EnvironmentFailure: no library, chip or permission, or a line is held by another.
            ConfigError: two names for one line, or a number that the chip does not have.
        """
        ...

    def set(self, name: str, on: bool) -> None:
        """Switch an output; one that is so already sees no edge."""
        ...

    def get(self, name: str) -> bool:
        """Whether it is on."""
        ...

    def release(self, safe_state: Mapping[str, bool] | None) -> None:
        """Drive the safe state of outputs, then let go; a released line may become an input.

        None lets go as it is. Releasing what is not claimed does nothing.
        """
        ...

    def describe(self) -> dict[str, object]:
        """For ``status``: back end, chip, label, and of each line number, state and consumer."""
        ...
