"""Values that the parts of a Comms Hub share: its settings, its faults, its peers, its frames."""

from __future__ import annotations

from dataclasses import dataclass

from firmware_node.boundary import Frame, SendFrame
from firmware_node.terms import EntityId, ShortAddress
from firmware_node.wire import ota, zcl
from firmware_node.wire.zcl import Status

ENDPOINT = 1

# What may happen to an answer, by the request that it answers.
BLOCK_FAULTS = (
    "silence",
    "abort",  # status ABORT
    "wait",  # WAIT_FOR_DATA for ``wait_s``
    "bad_time",  # WAIT_FOR_DATA until a time that is over
    "wrong_offset",  # one octet further on
    "wrong_image",  # another file version
    "corrupted",  # one bit of the data
    "truncated",  # the frame ends early
    "oversized",  # more data than asked for
    "malformed",  # no body at all
    "repeated",  # twice
    "reordered",  # behind the next answer
    "late",  # after ``late_ms``
    "default_error",  # a Default Response, FAILURE
)
QUERY_FAULTS = (
    "query_silence",
    "query_refused",  # NOT_AUTHORIZED
    "query_wrong_image",  # another image type
    "query_wrong_size",  # one octet more than there is
    "query_malformed",
    "query_default_error",
)
END_FAULTS = (
    "end_silence",
    "end_hold",  # wait for a further command
    "end_bad_time",  # a time that is over
    "end_wrong_image",
    "end_malformed",
    "end_default_error",
)
_COMMANDS = (
    dict.fromkeys(BLOCK_FAULTS, ota.IMAGE_BLOCK_REQUEST)
    | dict.fromkeys(QUERY_FAULTS, ota.QUERY_NEXT_IMAGE_REQUEST)
    | dict.fromkeys(END_FAULTS, ota.UPGRADE_END_REQUEST)
)


@dataclass(frozen=True, slots=True)
class Misbehaviour:
    """A scripted fault of the OTA server: ``what`` happens ``times`` times, from a point on.

    ``what`` is one of ``BLOCK_FAULTS QUERY_FAULTS END_FAULTS``. The point: a file offset that a
    block is asked at, or the number of the request of its kind, counted from 1; both must be
    reached. Blocks of a page are counted like block requests.

    Raises:
        ValueError: an unknown ``what``.
    """

    what: str
    times: int = 1
    from_offset: int = 0
    from_request: int = 1

    def __post_init__(self) -> None:
        if self.what not in _COMMANDS:
            raise ValueError(f"no misbehaviour is called {self.what!r}")

    @property
    def command(self) -> int:
        """The OTA command whose answer it spoils."""
        return _COMMANDS[self.what]


@dataclass(frozen=True, slots=True)
class HubSettings:
    """How a hub serves."""

    entity_id: EntityId
    acb: EntityId
    block_size_max: int = 255  # bytes; a smaller cap shortens answers
    block_period: int | None = None  # ms; sent in WAIT_FOR_DATA, and a block asked sooner waits
    wait_s: int = 1  # of a scripted WAIT_FOR_DATA
    wait_relative: bool = False  # its current time is 0 instead of UTC
    late_ms: int = 4_000  # of a scripted late answer; a client waits 3 s (supplement 10.2)
    activate_after_s: int | None = 0  # None: hold until ``CommsHub.activate``
    pages: bool = True
    transfer_timeout_s: int = 3_600  # without a request, then CCS08 code 3
    default_responses: bool = True  # to TransferData
    time_master: bool = True  # False: a hub that does not know the time yet
    utc: int = 0  # at monotonic zero, seconds since 2000-01-01
    first_counter: int = 1
    script: tuple[Misbehaviour, ...] = ()


class Script:
    """Which answers go wrong; ``fired`` lists the faults that happened, in order."""

    def __init__(self, rules: tuple[Misbehaviour, ...]) -> None:
        self._rules = rules
        self._left = [rule.times for rule in rules]
        self._requests: dict[int, int] = {}
        self.fired: list[str] = []
        self.active = any(self._left)

    def stop(self) -> None:
        """Whatever is left of it will not happen."""
        self._left = [0] * len(self._left)
        self.active = False

    def next(self, command: int, offset: int = 0) -> str | None:
        """The fault of the answer to this request; None: it is answered well."""
        if not self.active:
            return None
        number = self._requests[command] = self._requests.get(command, 0) + 1
        for index, rule in enumerate(self._rules):
            if (
                self._left[index] > 0
                and rule.command == command
                and offset >= rule.from_offset
                and number >= rule.from_request
            ):
                self._left[index] -= 1
                self.active = any(self._left)
                self.fired.append(rule.what)
                return rule.what
        return None


@dataclass(slots=True)
class Peer:
    """A device that the hub has heard of."""

    entity_id: EntityId
    address: ShortAddress


def command(
    peer: Peer, cluster: int, header: zcl.ZclHeader, body: bytes, tag: int = 0
) -> SendFrame:
    """A frame of our own to a device."""
    payload = zcl.encode(header, body)
    frame = Frame(peer.address, ENDPOINT, ENDPOINT, zcl.SMART_ENERGY_PROFILE, cluster, payload)
    return SendFrame(frame, tag)


def reply(frame: Frame, header: zcl.ZclHeader, answer: int, body: bytes) -> SendFrame:
    """The cluster's answer to a frame: same sequence number, server to client."""
    payload = zcl.encode(zcl.ZclHeader(True, True, True, None, header.sequence, answer), body)
    return SendFrame(frame._replace(payload=payload, broadcast=False))


def default_response(frame: Frame, header: zcl.ZclHeader, status: Status) -> SendFrame:
    """A Default Response to a frame."""
    back = zcl.ZclHeader(
        False, not header.to_client, True, None, header.sequence, zcl.DEFAULT_RESPONSE
    )
    payload = zcl.encode(back, zcl.encode_default_response(header.command, status))
    return SendFrame(frame._replace(payload=payload, broadcast=False))
