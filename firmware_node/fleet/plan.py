"""A plan as it is written in TOML, read and checked: every mistake is one line that says where.

``read_plan`` takes what ``tomllib`` made of a file; the file itself is for whoever calls. Places
are written as in TOML, tables of a list counted from 0: ``waves[2].image``. Unknown keys are
errors, with the nearest key that there is. ``overridden`` puts in what a command line says.

How values are written:

- durations: whole seconds, or ``"500ms" "90s" "30m" "2h" "1d"``;
- moments: a duration since the fleet's start, or a time such as ``"2026-01-01T22:00:00Z"``;
- windows of the day: ``"22:00-06:00"``, UTC, the end left out;
- file versions: eight hexadecimal digits in quotes, or a number;
- shares: ``"5%"``, or a number from 0 to 1;
- homes: ``[7, "100-199"]``, by index, first and last.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, Final, TypeVar

from firmware_node.errors import ConfigError
from firmware_node.fleet.plan_values import (
    Reader,
    device_type,
    duration,
    duration_text,
    flag,
    found,
    home_range,
    join,
    list_of,
    listed,
    moment,
    name,
    nearest,
    percent,
    plan_name,
    share,
    tables,
    text,
    utc,
    version,
    whole,
    window,
    word,
    wrong,
)
from firmware_node.fleet.terms import (
    HOMES_MAX,
    MEMBER_TYPES,
    AirPlan,
    FaultRule,
    ImageSpec,
    Plan,
    Selection,
    Shape,
    Wave,
)
from firmware_node.rig.hub_terms import BLOCK_FAULTS, END_FAULTS, QUERY_FAULTS
from firmware_node.terms import DeviceType
from firmware_node.tools.library import LIBRARY

T = TypeVar("T")
Tree = Mapping[str, Any]

DEVICES_MAX: Final = 8  # of a type in a home; more would meet the ids of the next type
IMAGE_SIZES: Final = (4_096, 16 * 1024 * 1024)  # bytes; as ``storage.bank_size``
MISBEHAVIOURS: Final = (*BLOCK_FAULTS, *QUERY_FAULTS, *END_FAULTS)
BEHAVIOURS: Final = tuple(row.name for row in LIBRARY)

# What a fault needs besides ``what``, and what it may have; ``select`` may stand with each.
_FAULT_KEYS: Final[Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "loss": (("amount",), ("at", "for", "jitter")),
    "hub_away": (("for",), ("at", "jitter")),
    "power_cut": (("for",), ("at", "jitter")),
    "cut_at_call": (("amount",), ("at", "jitter")),
    "clock_drift": (("amount",), ()),
    **dict.fromkeys(MISBEHAVIOURS, ((), ("amount",))),
}
_AMOUNTS: Final = {"loss": 100, "clock_drift": 100_000}  # percent; parts in a million


def read_plan(tree: Tree) -> Plan:
    """The plan that a TOML document holds.

    Raises:
        ConfigError: one line: where, what was found, what is expected.
    """
    top = _table("", tree, _TOP, required=("name", "fleet"))
    start_utc = utc("start", tree["start"]) if "start" in tree else Plan("", Shape()).start_utc
    fleet = _table("fleet", top["fleet"], _FLEET, required=("homes", "devices"))
    shape = Shape(**{key: fleet.pop(key) for key in _SHAPE_KEYS if key in fleet})
    _check_indices("fleet.first_index", shape)
    plan = Plan(
        name=top["name"],
        shape=shape,
        images=tuple(
            _build(ImageSpec, f"images[{number}]", image, _IMAGE, ("name", "type", "version"))
            for number, image in enumerate(top.get("images", ()))
        ),
        waves=tuple(
            _wave(f"waves[{number}]", wave, start_utc)
            for number, wave in enumerate(top.get("waves", ()))
        ),
        pathways=tuple(
            _pathway(f"pathways[{number}]", way)
            for number, way in enumerate(top.get("pathways", ()))
        ),
        faults=tuple(
            _fault(f"faults[{number}]", fault, start_utc)
            for number, fault in enumerate(top.get("faults", ()))
        ),
        air=_build(AirPlan, "air", top.get("air", {}), _AIR),
        start_utc=start_utc,
        **{key: top[key] for key in ("turn_ms", "limit_ms") if key in top},
        **fleet,
    )
    _check_images(plan)
    _check_pathways(plan)
    _check_waves(plan)
    _check_selections(plan)
    return plan


def overridden(
    plan: Plan,
    *,
    homes: int | None = None,
    devices: str | None = None,
    first_index: int | None = None,
    seed: int | None = None,
    start_jitter: str | int | None = None,
    max_concurrent: int | None = None,
) -> Plan:
    """The plan with what the command line says instead; None leaves it as it is.

    ``devices`` is written ``ppmid=1,hcalcs=1``. Waves of a type that is left out have no members.
    ``max_concurrent`` lowers what is begun at once in every wave.

    Raises:
        ConfigError: a value is out of range; the place is the option.
    """
    shape = plan.shape
    if homes is not None:
        shape = replace(shape, homes=whole(1, HOMES_MAX)("--homes", homes))
    if devices is not None:
        counts: dict[str, Any] = {}
        for part in devices.split(","):
            kind, sign, count = part.strip().partition("=")
            if not sign or not count.isascii() or not count.isdigit() or kind in counts:
                raise wrong("--devices", found(devices), "ppmid=1,hcalcs=1")
            counts[kind] = int(count)
        shape = replace(shape, devices=_devices("--devices", counts))
    if first_index is not None:
        shape = replace(shape, first_index=whole(0, HOMES_MAX - 1)("--first-index", first_index))
    if seed is not None:
        shape = replace(shape, seed=_SEED("--seed", seed))
    if start_jitter is not None:
        if isinstance(start_jitter, str) and start_jitter.isascii() and start_jitter.isdigit():
            start_jitter = int(start_jitter)
        shape = replace(shape, start_jitter_ms=duration()("--start-jitter", start_jitter))
    _check_indices("--first-index", shape)
    waves = plan.waves
    if max_concurrent is not None:
        most = whole(1, HOMES_MAX)("--max-concurrent", max_concurrent)
        waves = tuple(
            replace(wave, concurrency=min(wave.concurrency or most, most)) for wave in waves
        )
    return replace(plan, shape=shape, waves=waves)


# --- tables ---------------------------------------------------------------------------------------


def _table(place: str, tree: Any, keys: Mapping[str, Reader], required: Sequence[str] = ()) -> Any:
    """The values of a table, by its keys or the names that these have with us."""
    if not isinstance(tree, Mapping):
        raise wrong(place, found(tree), "a table")
    for key in tree:
        if key not in keys:
            near = difflib.get_close_matches(key, keys, 1)
            hint = f"the nearest known key is {join(place, near[0])}" if near else ""
            known = hint or f"known keys are {', '.join(keys)}"
            raise ConfigError(f"{join(place, key)}: unknown key; {known}")
    for key in required:
        if key not in tree:
            raise ConfigError(f"{join(place, key)}: missing key")
    return {_NAMES.get(key, key): keys[key](join(place, key), value) for key, value in tree.items()}


def _build(
    kind: type[T], place: str, tree: Any, keys: Mapping[str, Reader], required: Sequence[str] = ()
) -> T:
    return kind(**_table(place, tree, keys, required))


def _wave(place: str, tree: Any, start_utc: int) -> Wave:
    keys = {**_WAVE, "start": moment(start_utc), "activate_at": moment(start_utc)}
    wave = _build(Wave, place, tree, keys, ("name", "image"))
    if (wave.activate == "at") != (wave.activate_at_ms is not None):
        if wave.activate == "at":
            raise ConfigError(f'{place}.activate_at: missing key; activate is "at"')
        raise wrong(f"{place}.activate_at", "a moment", 'none, or activate = "at"')
    if wave.activate_at_ms is not None and wave.activate_at_ms <= wave.start_ms:
        raise wrong(f"{place}.activate_at", "a moment before the wave's start", "a later one")
    return wave


def _pathway(place: str, tree: Any) -> tuple[DeviceType, int, int]:
    keys: dict[str, Reader] = {"type": device_type, "from": version, "to": version}
    way = _table(place, tree, keys, ("type", "from", "to"))
    if way["from"] >= way["to"]:
        raise wrong(f"{place}.to", f"{way['to']:08x}", f"a version above {way['from']:08x}")
    return way["type"], way["from"], way["to"]


def _fault(place: str, tree: Any, start_utc: int) -> FaultRule:
    rule = _build(FaultRule, place, tree, {**_FAULT, "at": moment(start_utc)}, ("what",))
    needed, allowed = _FAULT_KEYS[rule.what]
    for key in needed:
        if key not in tree:
            raise ConfigError(f"{place}.{key}: missing key; {rule.what} needs it")
    for key in tree:
        if key not in ("what", "select", *needed, *allowed):
            raise wrong(f"{place}.{key}", "it", f"none for {rule.what}")
    if rule.what in _AMOUNTS:
        whole(1, _AMOUNTS[rule.what])(f"{place}.amount", rule.amount)
    return rule


# --- values that only a plan has -----------------------------------------------------------------


def _devices(place: str, value: Any) -> tuple[tuple[DeviceType, int], ...]:
    known = [kind.value for kind in MEMBER_TYPES]
    counts = _table(place, value, dict.fromkeys(known, whole(0, DEVICES_MAX)))
    devices = tuple((DeviceType(kind), count) for kind, count in counts.items() if count)
    if not devices:
        raise wrong(place, "no device", f"at least one of {listed(known)}")
    return devices


def _select(place: str, value: Any) -> Selection:
    return _build(Selection, place, value, _SELECT)


def _as_it_is(_: str, value: Any) -> Any:
    return value


_SEED: Final = whole(0, 2**63 - 1)
_SHAPE_KEYS: Final = tuple(item.name for item in fields(Shape))
# Keys that have another name in ``terms``.
_NAMES: Final = {
    "start": "start_ms",
    "start_jitter": "start_jitter_ms",
    "turn": "turn_ms",
    "limit": "limit_ms",
    "activate_at": "activate_at_ms",
    "timeout": "timeout_ms",
    "for": "for_ms",
    "at": "at_ms",
    "latency": "latency_ms",
    "jitter": "jitter_ms",
}
_TOP: Final[Mapping[str, Reader]] = {
    "name": plan_name,
    "start": _as_it_is,
    "turn": duration(100, 60_000),
    "limit": duration(1_000),
    "fleet": _as_it_is,
    "air": _as_it_is,
    "images": tables,
    "pathways": tables,
    "waves": tables,
    "faults": tables,
}
_FLEET: Final[Mapping[str, Reader]] = {
    "homes": whole(1, HOMES_MAX),
    "devices": _devices,
    "first_index": whole(0, HOMES_MAX - 1),
    "seed": _SEED,
    "start_jitter": duration(),
    "factory_version": version,
    "factory_size": whole(*IMAGE_SIZES),
    "block_size": whole(1, 255),  # the field is one octet
    "page_size": whole(0, 0xFFFF),
}
_AIR: Final[Mapping[str, Reader]] = {
    "latency": duration(0, 60_000),
    "jitter": duration(0, 60_000),
    "loss": whole(0, 100),
    "duplication": whole(0, 100),
    "reordering": whole(0, 100),
}
_IMAGE: Final[Mapping[str, Reader]] = {
    "name": name,
    "type": device_type,
    "version": version,
    "size": whole(*IMAGE_SIZES),
    "file": text,
    "behaviour": word(BEHAVIOURS),
}
_SELECT: Final[Mapping[str, Reader]] = {
    "types": list_of(device_type),
    "homes": list_of(home_range),
    "percent": percent,
    "every": whole(1, HOMES_MAX),
    "members": list_of(whole(0, HOMES_MAX * DEVICES_MAX)),
}
_WAVE: Final[Mapping[str, Reader]] = {
    "name": name,
    "image": name,
    "select": _select,
    "start": _as_it_is,  # a moment, which needs the fleet's start
    "window": window,
    "concurrency": whole(0, HOMES_MAX),
    "activate": word(("now", "at", "never")),
    "activate_at": _as_it_is,
    "timeout": duration(1_000),
    "stop_at_failures": share,
    "stop_after": whole(1, HOMES_MAX),
    "with_previous": flag,
}
_FAULT: Final[Mapping[str, Reader]] = {
    "what": word(tuple(_FAULT_KEYS)),
    "select": _select,
    "at": _as_it_is,
    "for": duration(1),
    "amount": whole(1, 1_000_000_000),
    "jitter": duration(),
}

# --- what must go together ------------------------------------------------------------------------


def _check_indices(place: str, shape: Shape) -> None:
    if shape.first_index + shape.homes > HOMES_MAX:
        instead = f"{shape.first_index}, and {shape.homes} homes"
        raise wrong(place, instead, f"indices below {HOMES_MAX}")


def _check_images(plan: Plan) -> None:
    names: list[str] = []
    types = [kind for kind, _ in plan.shape.devices]
    for number, image in enumerate(plan.images):
        place = f"images[{number}]"
        if image.name in names:
            raise wrong(f"{place}.name", f"{image.name!r} again", "another name")
        names.append(image.name)
        if image.type not in types:
            expected = listed([kind.value for kind in types])
            instead = f"{image.type.value!r}, of which the fleet has none"
            raise wrong(f"{place}.type", instead, f"{expected} (fleet.devices)")
        if image.file is not None and image.behaviour != "good":
            raise wrong(f"{place}.behaviour", "it", "none for an image from a file")
        if image.version <= plan.factory_version:
            expected = f"above {plan.factory_version:08x}, which is fleet.factory_version"
            raise wrong(f"{place}.version", f"{image.version:08x}", expected)


def _check_pathways(plan: Plan) -> None:
    seen: list[tuple[DeviceType, int, int]] = []
    for number, way in enumerate(plan.pathways):
        if way in seen:
            raise wrong(f"pathways[{number}]", f"pathways[{seen.index(way)}] again", "it once")
        seen.append(way)


def _check_waves(plan: Plan) -> None:
    images = {image.name: image for image in plan.images}
    names: list[str] = []
    together: list[DeviceType] = []  # types of the waves that begin with this one
    for number, wave in enumerate(plan.waves):
        place = f"waves[{number}]"
        if wave.name in names:
            raise wrong(f"{place}.name", f"{wave.name!r} again", "another name")
        names.append(wave.name)
        image = images.get(wave.image)
        if image is None:
            expected = nearest(wave.image, list(images)) if images else "one of [[images]]"
            raise wrong(f"{place}.image", found(wave.image), expected)
        kind = image.type.value
        for entry, chosen in enumerate(wave.select.types):
            if chosen is not image.type:
                where = f"{place}.select.types[{entry}]"
                raise wrong(where, repr(chosen.value), f"{kind!r}, as image {image.name} is for")
        if image.type is DeviceType.PPMID and wave.activate != "now":
            expected = '"now": it is the hub that lets a PPMID activate'
            raise wrong(f"{place}.activate", found(wave.activate), expected)
        ends = [to for way_type, _, to in plan.pathways if way_type is image.type]
        if ends and image.version not in ends:
            instead = f"{wave.image!r}, version {image.version:08x}"
            raise wrong(f"{place}.image", instead, f"a version that a pathway of a {kind} ends at")
        if not wave.with_previous:
            together = []
        elif number == 0:
            raise wrong(f"{place}.with_previous", "the first wave", "a wave before it")
        if image.type in together:
            instead = f"a wave for a {kind} beside another one"
            raise wrong(f"{place}.with_previous", instead, "waves of different types")
        together.append(image.type)
        if wave.start_ms >= plan.limit_ms:
            instead = duration_text(wave.start_ms)
            raise wrong(
                f"{place}.start", instead, f"before the limit, {duration_text(plan.limit_ms)}"
            )


def _check_selections(plan: Plan) -> None:
    rules: list[tuple[str, Selection]] = [
        *((f"waves[{number}].select", wave.select) for number, wave in enumerate(plan.waves)),
        *((f"faults[{number}].select", rule.select) for number, rule in enumerate(plan.faults)),
    ]
    shape = plan.shape
    last_home = shape.first_index + shape.homes - 1
    for place, select in rules:
        for number, (first, last) in enumerate(select.homes):
            if last < shape.first_index or first > last_home:
                expected = f"homes of the fleet, {shape.first_index} to {last_home}"
                raise wrong(f"{place}.homes[{number}]", f"{first} to {last}", expected)
        for number, member in enumerate(select.members):
            if member >= shape.size:
                where = f"{place}.members[{number}]"
                raise wrong(where, str(member), f"0 to {shape.size - 1}")
