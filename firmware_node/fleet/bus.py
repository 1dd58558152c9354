"""What hosts of a fleet say to one another over MQTT 5: topics, and messages as JSON.

Topics, below ``fn/v1/SITE``; *retained* ones tell a newcomer how things are::

    HOST/desired        retained  what the agent of the host shall run: ``Desired``
    HOST/reported       retained  what it runs, every few seconds: ``Reported``
    HOST/availability   retained  ``online``, or ``offline``, which is the agent's last will
    HOST/orders                   to the agent: orders for its simulated homes (``Batch``)
    HOST/acks                     from the agent: orders that were carried out (``Ack``)
    HOST/events                   from the agent: what its devices told (``Batch``)
    HOST/seen                     to the agent: events that are safe with whoever asked (``Ack``)
    HOST/ask  HOST/answer         a question about a device, answered to its response topic
    images/SHA256       retained  the octets of an OTA file that a plan takes from a file
    dev/EUI64/availability state  retained  of a real instance: on or off, its account of itself
    dev/EUI64/cmd                 to it: ``Command``, by id at most once
    dev/EUI64/ack                 the outcome, unless the command names a response topic

Orders and events are streams: numbered from 1, sent again until they are acknowledged, and taken
once and in order (``fleet.streams``). So a broker may die, and a message may come twice.

Everything is read strictly: a size for each message, known keys only, every value in its range.
No key travels here: a message that holds what looks like one is refused by whoever would send it
and by whoever gets it (``refuse_keys``).
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, NamedTuple

from firmware_node.errors import ConfigError, DecodeError
from firmware_node.fleet.plan_values import Reader, flag, list_of, text, whole, word
from firmware_node.fleet.terms import HOMES_MAX, Event, Order
from firmware_node.terms import EntityId

ROOT: Final = "fn/v1"
ONLINE, OFFLINE = b"online", b"offline"
DESIRED_MAX: Final = 4 * 1024 * 1024  # bytes; a plan with thousands of waves, and configurations
MESSAGE_MAX: Final = 1024 * 1024  # bytes, of any other; a batch is far below
IMAGE_MAX: Final = 17 * 1024 * 1024  # bytes; the largest image, its header and signatures
BATCH_MAX: Final = 500  # orders or events in a message
SHARES_MAX: Final = 64  # fleets that a host has a share of
UNITS_MAX: Final = 64  # instances on a host; it has as many sticks at most
CONFIG_MAX: Final = 64 * 1024  # characters
SPEED_MAX: Final = 100_000.0
TIME_MAX_MS: Final = 2**53  # JSON's whole numbers
TEXT_MAX: Final = 2_000  # characters of a value for people
VERBS: Final = ("offer", "activate", "cut", "pause", "resume", "remove", "add", "query")
OPTIONS: Final = ("homes", "devices", "first_index", "seed", "start_jitter", "max_concurrent")
UNIT_VERBS: Final = ("query", "reboot", "start", "stop", "restart")
HOST_KINDS: Final = ("homes", "units")
# Reasons of ``power_off`` and ``power_on`` that say something about a member's host.
HOST_LOST: Final = "host_lost"  # nothing is heard of it; its devices may well run on
HOST_BACK: Final = "host_back"
HOST_RESTARTED: Final = "host_restarted"  # hubs and devices began anew, from what they had kept
IMAGES: Final = "images"
_RESERVED: Final = ("dev", "all", IMAGES)  # where a host's name stands in a topic


# --- topics ---------------------------------------------------------------------------------------


def host_topic(site: str, host: str, leaf: str) -> str:
    """``fn/v1/SITE/HOST/LEAF``; ``host`` may be ``+``."""
    return f"{ROOT}/{site}/{host}/{leaf}"


def device_topic(site: str, entity_id: EntityId | None, leaf: str) -> str:
    """``fn/v1/SITE/dev/EUI64/LEAF``; None: of every device."""
    name = "+" if entity_id is None else entity_id.hex
    return f"{ROOT}/{site}/dev/{name}/{leaf}"


def image_topic(site: str, sha256: str) -> str:
    """``fn/v1/SITE/images/SHA256``."""
    return f"{ROOT}/{site}/{IMAGES}/{sha256}"


def split_topic(topic: str) -> tuple[str, str]:
    """Host (or EUI-64, or ``IMAGES``) and leaf (or digest) of a topic below a site.

    Raises:
        DecodeError: it has another form.
    """
    parts = topic.split("/")
    if len(parts) == 5:
        return parts[3], parts[4]
    if len(parts) == 6 and parts[3] == "dev":
        return parts[4], parts[5]
    raise DecodeError("topic", 0, f"found {topic[:80]!r}, expected {ROOT}/SITE/HOST/LEAF")


def bus_name(place: str, value: Any) -> str:
    """A site, host, fleet or instance: lower-case letters, digits, hyphens."""
    if type(value) is not str or not _NAME.fullmatch(value) or value in _RESERVED:
        raise ConfigError(
            f"{place}: found {str(value)[:40]!r}, expected up to 63 of a-z 0-9 and -, "
            f"and none of {', '.join(_RESERVED)}"
        )
    return value


_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


# --- messages -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Share:
    """The homes of a fleet that a host runs.

    ``plan`` is the TOML document of the plan, ``options`` what a command line overrode in it. The
    fleet's time is wall time since ``origin_ms``, ``speed`` times as fast.
    """

    fleet: str  # of one run; another run has another name
    plan: Mapping[str, Any]
    homes: tuple[int, int]  # first and last index
    origin_ms: int  # UTC, milliseconds since 1970: when the fleet's time is 0
    speed: float = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)
    images: Mapping[str, str] = field(default_factory=dict)  # of files: name to SHA-256

    def now_ms(self, utc_ms: float) -> int:
        """The fleet's time at that moment."""
        return int((utc_ms - self.origin_ms) * self.speed)


@dataclass(frozen=True, slots=True)
class Unit:
    """A real instance: ``firmware-node@NAME``."""

    name: str
    enabled: bool = True
    config: str | None = None  # the text of its configuration; None: what is there


@dataclass(frozen=True, slots=True)
class Desired:
    """What a host shall run, all of it; ``generation`` rises with every change."""

    generation: int = 0
    shares: tuple[Share, ...] = ()
    units: tuple[Unit, ...] = ()


@dataclass(frozen=True, slots=True)
class ShareReport:
    """What a host has of a fleet. ``state``: ``starting running failed``."""

    fleet: str
    state: str
    now_ms: int  # how far it is
    homes: tuple[int, int]
    error: str = ""


@dataclass(frozen=True, slots=True)
class UnitReport:
    """How an instance is; ``state`` is systemd's word, ``error`` ours."""

    name: str
    enabled: bool
    state: str
    entity_id: str = ""
    device_state: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Reported:
    """What a host runs; ``generation`` is that of the ``Desired`` it goes by."""

    generation: int
    version: str  # of this program
    kinds: tuple[str, ...]
    life: int  # rises each time that the agent starts
    at_ms: int  # UTC, milliseconds since 1970
    shares: tuple[ShareReport, ...] = ()
    units: tuple[UnitReport, ...] = ()
    error: str = ""  # why the last ``Desired`` could not be had


class Batch(NamedTuple):
    """Consecutive items of a stream, orders or events.

    ``source`` names the stream: when it differs from the one before, numbers begin anew.
    """

    fleet: str
    source: str
    first: int  # number of the first item; with no items, of the next one
    items: tuple[Any, ...]


class Ack(NamedTuple):
    """Every item of the stream up to ``upto`` is taken, and that is durable."""

    fleet: str
    source: str
    upto: int


@dataclass(frozen=True, slots=True)
class Command:
    """What a real instance is told, at most once for each ``id``."""

    id: str
    verb: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a command. ``result``: ``done refused failed``."""

    id: str
    result: str
    text: str = ""


# --- to octets ------------------------------------------------------------------------------------


def encode(message: Any) -> bytes:
    """Any message.

    Raises:
        ConfigError: it holds a key.
    """
    document = _plain(message)
    refuse_keys(document)
    return json.dumps(document, separators=(",", ":"), ensure_ascii=True).encode()


def _plain(message: Any) -> Any:
    if isinstance(message, Batch | Ack):
        return message._asdict()
    return asdict(message)


# --- from octets ----------------------------------------------------------------------------------


def decode_desired(octets: bytes) -> Desired:
    """Read a ``Desired``; all decoders raise ``DecodeError`` for what is not exactly right."""
    top = _document("desired", octets, DESIRED_MAX, _DESIRED)
    shares = tuple(
        Share(**_table(f"shares[{n}]", entry, _SHARE, _SHARE_OPTIONAL))
        for n, entry in enumerate(top["shares"])
    )
    units = tuple(
        Unit(**_table(f"units[{n}]", entry, _UNIT, ("config", "enabled")))
        for n, entry in enumerate(top["units"])
    )
    _once("shares", [share.fleet for share in shares])
    _once("units", [unit.name for unit in units])
    return Desired(top["generation"], shares, units)


def decode_reported(octets: bytes) -> Reported:
    """Read a ``Reported``."""
    top = _document("reported", octets, MESSAGE_MAX, _REPORTED)
    shares = [
        ShareReport(**_table(f"shares[{n}]", entry, _SHARE_REPORT))
        for n, entry in enumerate(top.pop("shares"))
    ]
    units = [
        UnitReport(**_table(f"units[{n}]", entry, _UNIT_REPORT))
        for n, entry in enumerate(top.pop("units"))
    ]
    return Reported(**top, shares=tuple(shares), units=tuple(units))


def decode_orders(octets: bytes) -> Batch:
    """Read a ``Batch`` of ``Order``."""
    return _batch("orders", octets, _order)


def decode_events(octets: bytes) -> Batch:
    """Read a ``Batch`` of ``Event``."""
    return _batch("events", octets, _event)


def decode_ack(octets: bytes) -> Ack:
    """Read an ``Ack``."""
    return Ack(**_document("ack", octets, MESSAGE_MAX, _ACK))


def decode_command(octets: bytes) -> Command:
    """Read a ``Command``."""
    return Command(**_document("command", octets, MESSAGE_MAX, _COMMAND))


def decode_outcome(octets: bytes) -> Outcome:
    """Read an ``Outcome``."""
    return Outcome(**_document("outcome", octets, MESSAGE_MAX, _OUTCOME))


def decode_question(octets: bytes) -> tuple[str, int]:
    """Read a question about a device: the fleet, and the member's index."""
    top = _document("question", octets, MESSAGE_MAX, {"fleet": bus_name, "member": _INDEX})
    return top["fleet"], top["member"]


def decode_answer(octets: bytes) -> Mapping[str, Any]:
    """Read the answer to one: an object of which nothing else is known."""
    return _object("answer", octets, MESSAGE_MAX)


def _document(what: str, octets: bytes, most: int, keys: Mapping[str, Reader]) -> dict[str, Any]:
    return _table(what, _object(what, octets, most), keys)


def _object(what: str, octets: bytes, most: int) -> dict[str, Any]:
    if len(octets) > most:
        raise DecodeError(what, most, f"found {len(octets)} octets, expected at most {most}")
    try:
        tree = json.loads(octets, object_pairs_hook=_pairs, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:  # also of text that is not UTF-8
        raise DecodeError(what, 0, f"is no JSON: {str(error)[:80]}") from error
    if not isinstance(tree, dict):
        raise DecodeError(what, 0, "expected an object")
    try:
        refuse_keys(tree)
    except ConfigError as error:
        raise DecodeError(what, 0, str(error)) from error
    return tree


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    tree = dict(pairs)
    if len(tree) != len(pairs):
        raise ValueError("a key stands twice")
    return tree


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _table(
    place: str, tree: Any, keys: Mapping[str, Reader], optional: Sequence[str] = ()
) -> dict[str, Any]:
    if not isinstance(tree, dict):
        raise DecodeError(place, 0, "expected an object")
    unknown = tree.keys() - keys.keys()
    missing = keys.keys() - tree.keys() - set(optional)
    if unknown or missing:
        name = min(unknown or missing)
        raise DecodeError(place, 0, f"{name[:40]}: {'unknown' if unknown else 'missing'} key")
    try:
        return {name: keys[name](f"{place}.{name}", value) for name, value in tree.items()}
    except ConfigError as error:
        raise DecodeError(place, 0, str(error)) from error


def _batch(what: str, octets: bytes, item: Callable[[str, Any], Any]) -> Batch:
    keys = {**_ACK, "first": _NUMBER, "items": _few(list_of(item), BATCH_MAX)}
    del keys["upto"]
    return Batch(**_document(what, octets, MESSAGE_MAX, keys))


def _order(place: str, value: Any) -> Order:
    verb, member, image, amount = _row(place, value, 4)
    return Order(
        word(VERBS)(f"{place}.verb", verb),
        _INDEX(f"{place}.member", member),
        _words(f"{place}.image", image),
        _TIME(f"{place}.amount", amount),
    )


def _event(place: str, value: Any) -> Event:
    at_ms, member, name, fields = _row(place, value, 4)
    if not isinstance(fields, dict) or len(fields) > 32:
        raise ConfigError(f"{place}.fields: expected an object of at most 32")
    for key, entry in fields.items():
        if not isinstance(entry, str | int | float | None):
            raise ConfigError(f"{place}.fields.{key[:40]}: expected a plain value")
    return Event(
        _TIME(f"{place}.at_ms", at_ms),
        _INDEX(f"{place}.member", member),
        text(f"{place}.name", name),
        fields,
    )


def _row(place: str, value: Any, count: int) -> list[Any]:
    if not isinstance(value, list) or len(value) != count:
        raise ConfigError(f"{place}: expected {count} values")
    return value


def _words(place: str, value: Any) -> str:
    if type(value) is not str or len(value) > TEXT_MAX:
        raise ConfigError(f"{place}: expected a string of at most {TEXT_MAX}")
    return value


def _few(read: Reader, most: int) -> Reader:
    def read_few(place: str, value: Any) -> Any:
        if isinstance(value, list | dict) and len(value) > most:
            raise ConfigError(f"{place}: found {len(value)}, expected at most {most}")
        return read(place, value)

    return read_few


def _homes(place: str, value: Any) -> tuple[int, int]:
    first, last = (_INDEX(place, number) for number in _row(place, value, 2))
    if last < first or last >= HOMES_MAX:
        raise ConfigError(f"{place}: found {first} to {last}, expected first and last")
    return first, last


def _object_of(read: Callable[[str, Any], Any] | None, most: int = 1000) -> Reader:
    def read_object(place: str, value: Any) -> Mapping[str, Any]:
        if not isinstance(value, dict) or len(value) > most:
            raise ConfigError(f"{place}: expected an object of at most {most}")
        if read is None:
            return value
        return {name: read(f"{place}.{name[:40]}", entry) for name, entry in value.items()}

    return read_object


def _as_it_is(_: str, value: Any) -> Any:
    return value


def _digest(place: str, value: Any) -> str:
    if type(value) is not str or re.fullmatch("[0-9a-f]{64}", value) is None:
        raise ConfigError(f"{place}: expected a SHA-256 in hexadecimal digits")
    return value


def _speed(place: str, value: Any) -> float:
    if type(value) not in (int, float) or not 0 < value <= SPEED_MAX:
        raise ConfigError(f"{place}: found {str(value)[:40]}, expected above 0, to {SPEED_MAX:g}")
    return float(value)


def _config(place: str, value: Any) -> str | None:
    if value is None:
        return None
    if type(value) is not str or len(value) > CONFIG_MAX:
        raise ConfigError(f"{place}: expected a text of at most {CONFIG_MAX} characters")
    return value


def _option(place: str, value: Any) -> Any:
    if not isinstance(value, str | int | None) or isinstance(value, bool):
        raise ConfigError(f"{place}: expected a string or a whole number")
    return value


def _options(place: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict) or not value.keys() <= set(OPTIONS):
        raise ConfigError(f"{place}: expected an object of {', '.join(OPTIONS)}")
    return {name: _option(f"{place}.{name}", entry) for name, entry in value.items()}


def _source(place: str, value: Any) -> str:
    if type(value) is not str or re.fullmatch("[0-9a-z-]{1,40}", value) is None:
        raise ConfigError(f"{place}: expected the name of a stream")
    return value


def _once(place: str, names: Sequence[str]) -> None:
    if len(set(names)) != len(names):
        raise DecodeError(place, 0, "a name stands twice")


_INDEX: Final = whole(0, HOMES_MAX * 16)
_TIME: Final = whole(0, TIME_MAX_MS)
_NUMBER: Final = whole(1, TIME_MAX_MS)
_DESIRED: Final[Mapping[str, Reader]] = {
    "generation": _TIME,
    "shares": _few(list_of(_as_it_is), SHARES_MAX),
    "units": _few(list_of(_as_it_is), UNITS_MAX),
}
_SHARE: Final[Mapping[str, Reader]] = {
    "fleet": bus_name,
    "plan": _object_of(None),
    "homes": _homes,
    "origin_ms": _TIME,
    "speed": _speed,
    "options": _options,
    "images": _object_of(_digest),
}
_SHARE_OPTIONAL: Final = ("speed", "options", "images")
_UNIT: Final[Mapping[str, Reader]] = {"name": bus_name, "enabled": flag, "config": _config}
_SHARE_REPORT: Final[Mapping[str, Reader]] = {
    "fleet": bus_name,
    "state": word(("starting", "running", "failed")),
    "now_ms": _TIME,
    "homes": _homes,
    "error": _words,
}
_UNIT_REPORT: Final[Mapping[str, Reader]] = {
    "name": bus_name,
    "enabled": flag,
    "state": _words,
    "entity_id": _words,
    "device_state": _words,
    "error": _words,
}
_REPORTED: Final[Mapping[str, Reader]] = {
    "generation": _TIME,
    "version": _words,
    "kinds": list_of(word(HOST_KINDS)),
    "life": _TIME,
    "at_ms": _TIME,
    "shares": _few(list_of(_as_it_is), SHARES_MAX),
    "units": _few(list_of(_as_it_is), UNITS_MAX),
    "error": _words,
}
_ACK: Final[Mapping[str, Reader]] = {"fleet": bus_name, "source": _source, "upto": _TIME}
_COMMAND: Final[Mapping[str, Reader]] = {"id": _source, "verb": word(UNIT_VERBS)}
_OUTCOME: Final[Mapping[str, Reader]] = {
    "id": _source,
    "result": word(("done", "refused", "failed")),
    "text": _words,
}


# --- no key on the bus ----------------------------------------------------------------------------

KEY_NAMES: Final = frozenset(
    (
        *("install_code", "link_key", "network_key", "private_key", "preshared_key"),
        *("password", "passphrase", "secret", "token"),
    )
)
_PEM: Final = re.compile(r"-----BEGIN [A-Z ]+-----|\bMH[cg]CAQ|\bMI[GI][A-Za-z0-9+/]{60}")
# Install codes: 8, 12 or 16 octets and their CRC, however they are grouped.
_CODE: Final = re.compile(
    r"(?<![0-9A-Fa-f])[0-9A-Fa-f]{2}(?:[ :-]?[0-9A-Fa-f]{2}){9,17}(?![0-9A-Fa-f])"
)
_CODE_SIZES: Final = (10, 14, 18)


def refuse_keys(tree: Any, place: str = "") -> None:
    """Look through a document, also through TOML texts in it.

    Raises:
        ConfigError: something in it is a key, a certificate, an install code or a password, or
            is called so. The value is not shown.
    """
    if isinstance(tree, Mapping):
        for name, value in tree.items():
            here = f"{place}.{name}" if place else str(name)
            if str(name).lower() in KEY_NAMES:
                raise ConfigError(f"{here[:80]}: keys and passwords do not go over the bus")
            refuse_keys(value, here)
            if name == "config" and isinstance(value, str):
                refuse_keys(_toml(here, value), here)
    elif isinstance(tree, list | tuple):
        for value in tree:
            refuse_keys(value, place)
    elif isinstance(tree, str) and len(tree) >= 20 and (_PEM.search(tree) or _has_code(tree)):
        raise ConfigError(
            f"{place[:80]}: holds a key or an install code; these do not go over the bus"
        )


def _toml(place: str, value: str) -> Any:
    try:
        return tomllib.loads(value)
    except ValueError as error:
        raise ConfigError(f"{place}: is no TOML: {str(error)[:80]}") from error


def _has_code(value: str) -> bool:
    for match in _CODE.finditer(value):
        octets = bytes.fromhex(re.sub("[ :-]", "", match[0]))
        if len(octets) in _CODE_SIZES and _crc(octets[:-2]) == int.from_bytes(
            octets[-2:], "little"
        ):
            return True
    return False


def _crc(octets: bytes) -> int:
    """CRC-16/X-25, which ends an install code."""
    crc = 0xFFFF
    for octet in octets:
        crc ^= octet
        for _ in range(8):
            crc = (crc >> 1) ^ (0x8408 if crc & 1 else 0)
    return crc ^ 0xFFFF
