"""A plausible document of ``fleet.results`` for any number of members, from a seed alone."""

from __future__ import annotations

import random
from typing import Any

from firmware_node.fleet.terms import Shape
from firmware_node.terms import DeviceType

Document = dict[str, Any]

_BAD = (
    ("trial", "self_test", "the new image failed its self-test"),
    ("downloading", "no_answer_in_time", "nothing more was heard of it in the time it had"),
    ("verification", "image_discarded", "the device found the image unusable"),
    ("activating", "no_answer_in_time", "nothing more was heard of it in the time it had"),
)
_WAVES = (("pilot", 2), ("second", 20), ("rest", 100))
_MINUTE = 60_000


def synthetic(homes: int = 50, seed: int = 1, *, state: str = "done") -> Document:
    """The document of a run with a PPMID and an HCALCS in each home, in three steps.

    With ``state`` not ``done`` a tenth of the members are still in flight.
    """
    draw = random.Random(seed)
    shape = Shape(homes, ((DeviceType.PPMID, 1), (DeviceType.HCALCS, 1)), seed=seed)
    waves = [_wave(f"{name}-{kind.value}", kind) for name, _ in _WAVES for kind, _ in shape.devices]
    by_name = {wave["name"]: wave for wave in waves}
    devices = [_device(shape, index, draw, by_name, state) for index in range(shape.size)]
    for step, wave in enumerate(waves):
        _close(wave, step // 2, state)
    return {
        "format": 1,
        "plan": "synthetic",
        "start": "2026-01-01T00:00:00Z",
        "seed": seed,
        "homes": homes,
        "first_index": 0,
        "types": {kind.value: homes * count for kind, count in shape.devices},
        "now_ms": 180 * _MINUTE,
        "state": state,
        "reason": "wave second: 3 of 10 failed, more than 20 %" if state == "stopped" else None,
        "totals": _totals(devices),
        "waves": waves,
        "durations": _durations([d["duration_ms"] for d in devices if d["result"] == "done"]),
        "failures": _reasons(devices, "failed"),
        "skips": _reasons(devices, "skipped"),
        "messages": _messages(devices),
        "faults": {"hub_away": homes // 20, "power_cut": homes // 10},
        "devices": devices,
    }


def _wave(name: str, kind: DeviceType) -> Document:
    return {
        "name": name,
        "image": f"{kind.value}-2",
        "type": kind.value,
        "to_version": "00000002",
        "state": "waiting",
        "begun_ms": None,
        "ended_ms": None,
        "size": 0,
        "begun": 0,
        "in_flight": 0,
        "done": 0,
        "failed": 0,
        "skipped": 0,
        "concurrency": 200,
        "at_once": 0,
        "timeline": {},
    }


def _device(
    shape: Shape, index: int, draw: random.Random, waves: dict[str, Document], state: str
) -> Document:
    member = shape.member(index)
    lot = draw.randrange(100)
    step = next(number for number, (_, percent) in enumerate(_WAVES) if lot < percent)
    wave = waves[f"{_WAVES[step][0]}-{member.type.value}"]
    begun = step * 60 * _MINUTE + draw.randrange(5 * _MINUTE)
    ended: int | None = begun + int(draw.lognormvariate(12.6, 0.5))
    chance, phase = draw.random(), "done"
    bad: tuple[str | None, str | None, str | None] = (None, None, None)
    total, offset = 65_596, 65_596
    result = "done"
    if chance < 0.04:
        phase = result = "failed"
        bad = draw.choice(_BAD)
        offset = total if bad[0] != "downloading" else draw.randrange(total)
    elif chance < 0.05:
        result, phase, ended = "skipped", "idle", begun
        bad = (None, "no_pathway", "no way leads from its version to that of the image")
        total = offset = 0
    elif chance < 0.15 and state != "done":
        result, ended = "in_flight", None
        phase = draw.choice(("offered", "downloading", "transferred", "activating", "trial"))
        offset = draw.randrange(total) if phase == "downloading" else offset
    _count(wave, result, begun, ended)
    attempt = {
        "wave": wave["name"],
        "image": wave["image"],
        "from_version": "00000001",
        "to_version": "00000002",
        "result": result,
        "begun_ms": None if result == "skipped" else begun,
        "ended_ms": ended,
        "verified_ms": None,
        "duration_ms": None if ended is None or result == "skipped" else ended - begun,
        "failed_in": bad[0],
        "cause": bad[1],
        "words": bad[2],
    }
    return {
        "index": index,
        "entity_id": str(member.entity_id),
        "home": member.home,
        "type": member.type.value,
        "phase": phase,
        "version": "00000002" if result == "done" else "00000001",
        "offset": offset,
        "total": total,
        "starts": 2 if result == "done" else 1,
        "retries": draw.randrange(12),
        "messages": _words(member.type, result),
        "attempts": [attempt],
    } | attempt


def _count(wave: Document, result: str, begun: int, ended: int | None) -> None:
    wave["size"] += 1
    wave["begun"] += result != "skipped"
    wave[result] += 1
    wave["begun_ms"] = min(begun, wave["begun_ms"] or begun)
    if ended is not None:
        wave["ended_ms"] = max(ended, wave["ended_ms"] or 0)
    if ended is not None and result != "skipped":
        minute = wave["timeline"].setdefault(
            ended // _MINUTE, {"done": 0, "failed": 0, "holding": 0}
        )
        minute[result] += 1


def _close(wave: Document, step: int, state: str) -> None:
    wave["timeline"] = [{"minute": at, **counts} for at, counts in sorted(wave["timeline"].items())]
    wave["at_once"] = min(wave["begun"], 200)
    wave["state"] = "done"
    if wave["in_flight"]:
        wave["state"], wave["ended_ms"] = ("stopped" if state == "stopped" else "running"), None


def _totals(devices: list[Document]) -> Document:
    totals: Document = {"devices": len(devices)}
    for key in ("done", "failed", "skipped", "in_flight", "waiting", "not_selected"):
        totals[key] = sum(device["result"] == key for device in devices)
    return totals | {"off": 0, "offers": len(devices) - totals["skipped"]}


def _durations(values: list[int]) -> Document:
    values = sorted(values)
    if not values:
        names = ("min_ms", "p50_ms", "p90_ms", "p99_ms", "max_ms", "mean_ms")
        return {"count": 0} | dict.fromkeys(names)
    return {
        "count": len(values),
        "min_ms": values[0],
        "p50_ms": values[len(values) // 2],
        "p90_ms": values[len(values) * 9 // 10],
        "p99_ms": values[len(values) * 99 // 100],
        "max_ms": values[-1],
        "mean_ms": sum(values) // len(values),
    }


def _reasons(devices: list[Document], result: str) -> list[Document]:
    groups: dict[tuple[str, str, str], list[Document]] = {}
    for device in devices:
        if device["result"] == result:
            key = (device["failed_in"], device["cause"], device["words"])
            names = ("index", "entity_id", "home", "type", "wave", "image", "ended_ms")
            groups.setdefault(key, []).append({name: device[name] for name in names})
    found: list[Document] = [
        {"phase": phase, "cause": cause, "words": words, "count": len(who), "attempts": who}
        for (phase, cause, words), who in groups.items()
    ]
    return sorted(found, key=lambda group: -int(group["count"]))


def _words(kind: DeviceType, result: str) -> list[str]:
    if result != "done":
        return []
    words = ["CCS08 alert 8F8A: transfer success (signature valid)"]
    if kind is DeviceType.PPMID:
        return [*words, "CS09 alert 8F8B: runs 00000002, activation success (signature valid)"]
    return [
        "FDRA alert 8F72: image verified (signature valid)",
        *words,
        "CS06 response: runs 00000002, success (signature valid)",
    ]


def _messages(devices: list[Document]) -> list[Document]:
    done = [device["type"] for device in devices if device["result"] == "done"]
    rows = (
        ("CCS08", "alert", "8F8A", "a transfer succeeded", len(done)),
        ("CS09", "alert", "8F8B", "activation result of a PPMID", done.count("ppmid")),
        ("CS06", "response", None, "answer to an activation", done.count("hcalcs")),
    )
    return [
        {
            "use_case": use_case,
            "kind": kind,
            "alert_code": code,
            "signature": "valid",
            "mac": "absent",
            "words": words,
            "count": count,
        }
        for use_case, kind, code, words, count in rows
    ]
