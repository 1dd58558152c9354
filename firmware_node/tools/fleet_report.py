"""What a fleet run came to, for programs and for people: JSON, JUnit XML, and one HTML page.

Made from the document of ``fleet.results`` alone, so a report can be made again from a results file
at any time, and the same document gives the same octets. Nothing here counts what the document
counts; the plots draw its numbers.
"""

from __future__ import annotations

import json
import re
import shlex
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

Document = Mapping[str, Any]

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NO_OUTCOME: Final = "no outcome when the run ended"
_NOT_BEGUN: Final = {
    "waiting": "its wave did not begin",
    "not_selected": "no wave of the plan selects it",
}


def results_json(results: Document) -> str:
    """The document with sorted keys; a line for each entry of its lists, so that they compare."""
    parts = []
    for key in sorted(results):
        value = results[key]
        text = _compact(value)
        if isinstance(value, list) and value:
            text = "[\n  " + ",\n  ".join(map(_compact, value)) + "\n ]"
        parts.append(f" {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _compact(value: object) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


# --- JUnit ----------------------------------------------------------------------------------------


def junit(results: Document, folder: str | None = None) -> bytes:
    """A suite for each wave, a test case for each device in it; times are fleet time.

    A device that failed is a failure, one that was under way when the run ended an error, and one
    that was skipped, or whom no wave came to, is skipped. Devices without an attempt make up a
    suite of their own, so that each device is there. ``folder`` is the run's.
    """
    suites = {wave["name"]: _suite(wave, results) for wave in results["waves"]}
    alone = ET.Element("testsuite", name="without an attempt", tests="0")
    for device in results["devices"]:
        for attempt in device["attempts"]:
            _case(suites[attempt["wave"]], device, attempt, results, folder)
        if not device["attempts"]:
            case = _named_case(alone, device, f"{results['plan']}.{device['type']}", None)
            words = _NOT_BEGUN.get(device["result"], device["result"])
            ET.SubElement(case, "skipped", message=_clean(words))
    root = ET.Element("testsuites", name=_clean(results["plan"]))
    root.extend(suite for suite in (*suites.values(), alone) if suite.find("testcase") is not None)
    for suite in root:
        _sum_up(suite)
    for name in ("tests", "failures", "errors", "skipped"):
        root.set(name, str(sum(int(suite.get(name, "0")) for suite in root)))
    root.set("time", _seconds(results["now_ms"]))
    ET.indent(root, " ")
    page: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return page + b"\n"


def _suite(wave: Document, results: Document) -> ET.Element:
    suite = ET.Element("testsuite", name=_clean(wave["name"]))
    begun, ended = wave["begun_ms"], wave["ended_ms"]
    if begun is not None:
        suite.set("timestamp", moment(results, begun).removesuffix("Z"))
        suite.set("time", _seconds((results["now_ms"] if ended is None else ended) - begun))
    properties = ET.SubElement(suite, "properties")
    facts = {name: wave[name] for name in ("image", "type", "to_version", "state", "concurrency")}
    for name, value in {"plan": results["plan"], "seed": results["seed"], **facts}.items():
        ET.SubElement(properties, "property", name=name, value=_clean(str(value)))
    return suite


def _case(
    suite: ET.Element,
    device: Document,
    attempt: Document,
    results: Document,
    folder: str | None,
) -> None:
    name = f"{results['plan']}.{attempt['wave']}.{device['type']}"
    case = _named_case(suite, device, name, attempt["duration_ms"])
    words = attempt["words"] or attempt["cause"] or "no cause is known"
    match attempt["result"]:
        case "failed":
            kind = f"{attempt['failed_in']}.{attempt['cause']}"
            failure = ET.SubElement(case, "failure", type=_clean(kind), message=_clean(words))
            failure.text = _clean("\n".join(_story(device, attempt, results, folder)))
        case "skipped":
            ET.SubElement(case, "skipped", message=_clean(words))
        case "in_flight":
            error = ET.SubElement(case, "error", type="no_outcome", message=_NO_OUTCOME)
            error.text = _clean("\n".join(_story(device, attempt, results, folder)))


def _named_case(
    suite: ET.Element, device: Document, class_name: str, duration_ms: int | None
) -> ET.Element:
    return ET.SubElement(
        suite,
        "testcase",
        name=device["entity_id"],
        classname=_clean(class_name),
        time=_seconds(duration_ms or 0),
    )


def _story(device: Document, attempt: Document, results: Document, folder: str | None) -> list[str]:
    """What someone wants to know who finds the device in a list of failures."""
    lines = [
        f"device {device['index']}, {device['type']} of home {device['home']}",
        f"image {attempt['image']}, from {attempt['from_version']} to {attempt['to_version']}",
    ]
    if attempt == device["attempts"][-1]:  # what is known of a download is of the last one
        lines.append(f"downloaded {device['offset']} of {device['total']} bytes")
    lines.append(f"{device['retries']} retries of blocks, {device['starts']} starts")
    if attempt["ended_ms"] is not None:
        lines.append(f"ended {moment(results, attempt['ended_ms'])}")
    return [*lines, *device["messages"], f"again: {replay(results, device['entity_id'], folder)}"]


def _sum_up(suite: ET.Element) -> None:
    suite.set("tests", str(len(suite.findall("testcase"))))
    for name, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(name, str(len(suite.findall(f"testcase/{tag}"))))


# --- shared with the page -------------------------------------------------------------------------


def replay(results: Document, device: str, folder: str | None = None) -> str:
    """The command that shows one device's life again, as a shell takes it."""
    state = shlex.quote(folder or f"fleet-{results['plan']}")
    return f"firmware-node rig replay {results['seed']} --device {device} --state {state}"


def moment(results: Document, at_ms: int) -> str:
    """UTC, to the second."""
    at = datetime.fromisoformat(results["start"]) + timedelta(milliseconds=at_ms)
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def _seconds(ms: int) -> str:
    return f"{ms / 1000:.3f}"


def _clean(text: str) -> str:
    """The text without what XML cannot say; names come from files."""
    return _NOT_XML.sub("\ufffd", text)


def done_durations(devices: Sequence[Document]) -> list[int]:
    """Of every attempt that was done, in ms."""
    return [
        attempt["duration_ms"]
        for device in devices
        for attempt in device["attempts"]
        if attempt["result"] == "done" and attempt["duration_ms"] is not None
    ]
