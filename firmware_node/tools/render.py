"""What people read: tables, states, messages; a bar in a terminal, plain lines where there is none.

Every document is as a command's ``--json`` gives it; nothing is decided here but how it looks.
Lines fit 80 columns, but for notifications, which are a line each. Whatever came from outside is
made printable first, for a file's header may hold a terminal's escape codes.
"""

from __future__ import annotations

import textwrap
import threading
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

COLUMNS = 79
BAR = 24  # characters
LABEL = 12  # characters of a stage's name

_OUTCOMES = (
    "the image is activated",
    "no image is held",
    "the image held has another hash",
    "the image is not activated",
)
# By use case: the field that says how it went, and what its numbers mean (gbcs.md 3.1, 3.5, 3.6).
_WORDS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "CS06": ("response_code", _OUTCOMES),
    "future dated firmware activation alert": ("response_code", _OUTCOMES),
    "CCS08": (
        "response_code",
        (
            "the file was transferred",
            "the firmware image was discarded",
            "the image is not for this hardware version",
            "the file transfer failed",
        ),
    ),
    "CS09": ("result", ("the new version is activated", "the new version is not activated")),
}
_ALERTS = {  # by alert code, where it says all
    "8F72": "the image was verified",
    "8F1C": "the image was not verified",
    "8F30": "the originator may not do that",
}


def printable(text: str) -> str:
    """The text with escapes for whatever a terminal would not print."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def fields(document: Mapping[str, Any], indent: str = "") -> None:
    """Name and value a line, nested ones indented."""
    for name, value in document.items():
        if isinstance(value, Mapping) and value:
            print(f"{indent}{name}:")
            fields(value, indent + "  ")
        elif isinstance(value, list | tuple) and value and isinstance(value[0], Mapping):
            print(f"{indent}{name}:")
            for entry in value:
                fields(entry, indent + "  ")
                print()
        else:
            print(f"{indent}{name}: {_plain(value)}")


def table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Columns as wide as their content."""
    if not rows:
        return
    names = list(rows[0])
    cells = [names] + [[_plain(row[name]) for name in names] for row in rows]
    widths = [max(len(line[index]) for line in cells) for index in range(len(names))]
    for line in cells:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        )


# --- a device -----------------------------------------------------------------------------------


def status(document: Mapping[str, Any]) -> None:
    """What a device is, does and waits for; its banks; what went wrong last."""
    network, upgrade, waits = document["network"], document["upgrade"], document["waits_for"]
    _row("device", f"{document['type']} {document['entity_id']}")
    _row("state", document["state"])
    joined = "not joined"
    if network["joined"]:
        joined = f"joined, address {network['short_address']:04X}, channel {network['channel']}"
    if fault := document.get("radio", {}).get("fault"):
        joined = _plain(f"the radio is away: {fault}")
    _row("network", joined)
    _row("upgrade", upgrade["status"])
    if upgrade["status"] == "download_in_progress":
        _row("", bar(upgrade))
        _row("", f"{upgrade['file_offset']} of {upgrade['total_size']} bytes")
    seconds = waits["seconds"]
    _row("waits for", waits["text"] + (f", {duration(seconds)} left" if seconds else ""))
    _switch(document)
    _row("outbox", f"{document['outbox']} messages")
    counters = [f"{name} {value}" for name, value in document["counters"].items() if value]
    _row("counters", ", ".join(counters) or "none used")
    failure = document["last_failure"]
    when = f" at {failure['at'] or 'an unknown time'}" if failure else ""
    _row("last failure", f"{failure['phase']}: {failure['cause']}{when}" if failure else "none")
    banks({"running_bank": document["running_bank"], **document["banks"]})


def _switch(document: Mapping[str, Any]) -> None:
    """The load switch, the events that command it, the lines, and sinks that hold something up."""
    switch = document.get("switch")
    if switch is not None:
        esme = "no ESME found" if switch["esme"] is None else f"ESME {switch['esme']:04X}"
        is_broken = switch["commanded"] != switch["switch"]
        broken = (
            f", and the firmware leaves it {switch['switch'] or 'undriven'}" if is_broken else ""
        )
        _row("switch", f"{switch['commanded']}{broken}; {esme}")
        for event in switch["events"]:
            now = "in force" if event["in_force"] else "to come"
            span = f"{event['start']} to {event['end']}"
            _row("", f"event {event['id']} {now}: {event['state']}, {span}")
    lines = document.get("gpio", {}).get("lines", {})
    if lines:
        on = (f"{name} {'on' if line['on'] else 'off'}" for name, line in lines.items())
        _row("lines", f"{', '.join(on)} ({document['gpio']['backend']})")
    for name, sink in document.get("notify", {}).items():
        if sink["failure"]:
            _row("notify", _plain(f"{name}: {sink['waiting']} wait: {sink['failure']}"))


def banks(document: Mapping[str, Any]) -> None:
    """Both banks, with the whole hash, so that it can be compared."""
    for name in ("A", "B"):
        bank = document[name]
        runs = "  running" if document["running_bank"] == name else ""
        if bank["version"] is None:
            _row(f"bank {name}", f"{bank['state']}{runs}")
            continue
        size = f"  {bank['size']} bytes" if bank["size"] else ""
        _row(f"bank {name}", f"{bank['state']:<9}  {bank['version']}{size}{runs}")
        if bank["sha256"]:
            _row("", bank["sha256"])


def event(document: Mapping[str, Any]) -> None:
    """A notification or an entry of a device's log; progress with its share and the time left."""
    name = document.get("name") or document.get("code", "")
    values = {key: value for key, value in document.items() if key not in ("n", "at", "name")}
    if name == "download_progress" and values["total_size"]:
        rest = pace(values).strip()
    else:
        rest = " ".join(f"{key}={_plain(value)}" for key, value in values.items() if key != "code")
    print(f"{document.get('at') or '-'}  {name:<22}  {rest}".rstrip(), flush=True)


# --- requests and messages ----------------------------------------------------------------------


def request_progress(document: Mapping[str, Any]) -> None:
    """A line of ``dcc send``: what was understood, a delivery, an answer, or a message."""
    if "delivery" in document:
        delivery = document["delivery"]
        print(f"  {delivery['entity_id']}  {delivery['status']}", flush=True)
    elif "message" in document:
        print(message(document["message"]), flush=True)
    elif "response" in document:
        response = document["response"]
        if response["text"] is not None:
            print(f"  {response['code']}  {_plain(response['text'])}", flush=True)
    elif "request_signature" in document:
        print(f"request {_plain(document['request_id'])}")
        for warning in document["warnings"]:
            print(f"  warning: {_plain(warning)}", flush=True)
        if "error" in document:
            print(f"  refused: {_plain(document['error'])}", flush=True)


def message(document: Mapping[str, Any]) -> str:
    """A GBCS message: what it means and whether it can be trusted, then its fields."""
    code = f" {document['alert_code']}" if "alert_code" in document else ""
    name, kind = document["use_case"], document["kind"]
    named = name if kind in name else f"{name} {kind}"  # some alerts have it in their name
    head = f"  {named}{code}: {meaning(document)}"
    verdict = f"signature {document['signature']}, MAC {document['mac']}"
    values = {"from": document["originator"]} | document["fields"]
    lines = [f"{head}; {verdict}"] if len(head) + len(verdict) < COLUMNS - 2 else [head, verdict]
    lines += textwrap.wrap(
        # The request stands above all that belongs to it.
        ", ".join(f"{name} {_plain(values[name])}" for name in values if name != "request_id"),
        COLUMNS - 8,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n        ".join(lines)


def meaning(document: Mapping[str, Any]) -> str:
    """What a message says, in a few words."""
    values = document["fields"]
    if values.get("accepted"):
        return "accepted"
    if document.get("alert_code") in _ALERTS:
        return _ALERTS[document["alert_code"]]
    name, words = _WORDS.get(document["use_case"], ("", ()))
    if name in values and int(values[name]) < len(words):
        return words[int(values[name])]
    if "firmware_version" in values:
        return f"firmware version {values['firmware_version']}"
    return "see its fields"


# --- progress -----------------------------------------------------------------------------------


def bar(progress: Mapping[str, Any]) -> str:
    """A bar and ``pace``."""
    filled = int(_share(progress) * BAR)
    return f"[{'#' * filled}{'.' * (BAR - filled)}] {pace(progress)}"


def pace(progress: Mapping[str, Any]) -> str:
    """Share, blocks per second, time left; ``progress`` is a part of a document that has them."""
    speed, left = progress.get("blocks_per_second"), progress.get("eta_seconds")
    text = f"{_share(progress):4.0%}"
    if speed is not None:
        text += f" {speed:6.0f} blocks/s"
    if left is not None:
        text += f" {duration(left):>8} left"
    return text


def _share(progress: Mapping[str, Any]) -> float:
    total: int = progress["total_size"]
    return progress["file_offset"] / total if total else 0.0


def duration(seconds: float) -> str:
    """``5.2 s``, ``3:05``, ``1:02:33``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Display:
    """Lines, and below them one bar: redrawn in place in a terminal, a line a tenth elsewhere.

    Two threads may write.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._is_terminal = out.isatty()
        self._has_bar = False
        self._tenths: dict[str, int] = {}  # what was shown last, by label
        self._lock = threading.Lock()

    def line(self, text: str) -> None:
        """Whole lines; a bar goes."""
        with self._lock:
            self._clear()
            print(text, file=self._out, flush=True)

    def stage(self, label: str, text: str) -> None:
        """A line of a list of stages."""
        self.line(_labelled(label, text))

    def progress(self, label: str, progress: Mapping[str, Any]) -> None:
        """A transfer moved; see ``bar``."""
        tenth = 10 * progress["file_offset"] // (progress["total_size"] or 1)
        with self._lock:
            if not self._is_terminal:
                last, self._tenths[label] = self._tenths.get(label, 0), tenth
                if tenth == last:
                    return
            self._clear()
            end = "" if self._is_terminal else "\n"
            print(_labelled(label, bar(progress)), end=end, file=self._out, flush=True)
            self._has_bar = self._is_terminal

    def end(self) -> None:
        """Nothing of a bar is left."""
        with self._lock:
            self._clear()

    def _clear(self) -> None:
        if self._has_bar:
            print(f"\r{' ' * COLUMNS}\r", end="", file=self._out, flush=True)
            self._has_bar = False


def _labelled(label: str, text: str) -> str:
    return f"  {label:<{LABEL}} {text}".rstrip()


def _row(label: str, text: str) -> None:
    lines = textwrap.wrap(
        printable(text), COLUMNS - LABEL - 1, break_long_words=False, break_on_hyphens=False
    )
    for line in lines or [""]:
        print(f"{label:<{LABEL}} {line}".rstrip())
        label = ""


def _plain(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value)) or "none"
    return printable(str(value))
