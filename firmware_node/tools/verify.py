"""Whether GBCS messages hold: one verdict over many, and a table by use case.

Made from the lines of ``decode``, so what was decoded is what was judged. A message is good when
its envelope decodes and nothing on it is invalid. Strictly, nothing lacks its key and its payload
is not broken either; with ``check_validity``, no certificate behind it is objected to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from firmware_node.tools.decode import Line
from firmware_node.tools.payload_fields import Fields, Value

NOT_GBCS = "not GBCS"
_VERDICTS = ("valid", "invalid", "no-key")
_READINGS = ("decoded", "raw", "broken")


class Tally:
    """Counts lines by use case."""

    def __init__(self, *, strict: bool = False, check_validity: bool = False) -> None:
        self._strict = strict
        self._check_validity = check_validity
        self._counts: dict[str, Counter[str]] = {}
        self._failures: list[Fields] = []

    def add(self, lines: Iterable[Line]) -> None:
        """Count the lines of one file."""
        for line in lines:
            counts = self._counts.setdefault(_row_name(line), Counter())
            counts["messages"] += 1
            problems = [*self._count(line, counts)]
            if problems:
                place: Fields = {name: line[name] for name in ("file", "place") if name in line}
                self._failures.append(place | {"problems": [*problems]})

    @property
    def is_good(self) -> bool:
        """Whether there was a message and no message failed."""
        return bool(self._counts) and not self._failures

    def rows(self) -> list[Fields]:
        """The table: a row for each use case, sorted, and one for all."""
        rows = [_row(name, self._counts[name]) for name in sorted(self._counts)]
        return [*rows, _row("all", sum(self._counts.values(), Counter()))]

    def table(self) -> list[dict[str, str]]:
        """The rows for people: what there is of each verdict, in words."""
        return [
            {
                "use case": f"{row['use_case']}",
                "messages": f"{row['messages']}",
                "signatures": _words(row, "signature", _VERDICTS),
                "MACs": _words(row, "mac", _VERDICTS),
                "payloads": _words(row, "payload", _READINGS),
            }
            for row in self.rows()
        ]

    def document(self) -> Fields:
        """What ``gbcs verify --json`` prints."""
        rows: list[Value] = [*self.rows()]
        return {"valid": self.is_good, "failures": [*self._failures], "use_cases": rows}

    def failures(self) -> list[str]:
        """Each failure in one line of text."""
        return [
            f"{failure['file']}"
            + (f", {failure['place']}" if "place" in failure else "")
            + f": {'; '.join(map(str, failure['problems']))}"
            for failure in self._failures
            if isinstance(failure["problems"], list)
        ]

    def _count(self, line: Line, counts: Counter[str]) -> Iterable[str]:
        """Count one line; what speaks against it."""
        if "error" in line:
            yield f"{line['error']}"
            return
        for what in ("signature", "mac"):
            counts[f"{what} {line[what]}"] += 1
            if line[what] == "invalid" or (self._strict and line[what] == "no-key"):
                yield f"{what} {line[what]}"
        warnings = line.get("warnings")
        if self._check_validity and isinstance(warnings, list):
            yield from map(str, warnings)
        payload = line["payload"]
        errors = [*_errors(payload)]
        if errors:
            counts["broken"] += 1
        else:
            counts["raw" if isinstance(payload, dict) and "raw" in payload else "decoded"] += 1
        if self._strict:
            yield from (f"payload: {error}" for error in errors)


def _errors(value: Value) -> Iterable[str]:
    """Every error in a payload, encrypted content that does not open included."""
    if isinstance(value, dict):
        if "error" in value:
            yield f"{value['error']}"
        value = [*value.values()]
    if isinstance(value, list):
        for entry in value:
            yield from _errors(entry)


def _row_name(line: Line) -> str:
    if "error" in line:
        return NOT_GBCS
    return f"{line['use_case']}" if line["use_case"] != "unknown" else f"{line['message_code']}"


def _row(name: str, counts: Counter[str]) -> Fields:
    row: Fields = {"use_case": name, "messages": counts["messages"]}
    row |= {f"signature_{v}": counts[f"signature {v}"] for v in _VERDICTS}
    row |= {f"mac_{v}": counts[f"mac {v}"] for v in _VERDICTS}
    return row | {f"payload_{how}": counts[how] for how in _READINGS}


def _words(row: Fields, what: str, kinds: Iterable[str]) -> str:
    words = (f"{row[f'{what}_{kind}']} {kind}" for kind in kinds if row[f"{what}_{kind}"])
    return ", ".join(words) or "-"
