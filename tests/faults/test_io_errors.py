"""Every call that changes a file of the state directory fails once, with EIO and with ENOSPC.

The program is unmodified and runs as it always does; strace makes the one call fail. What must
follow is ``dual-bank.md`` section 9: a full disk makes a download wait, and costs the ballast where
records need its room; everything else ends the process, nothing is sent and no sync is tried again.
The next start brings the update to its end.

With ``--long`` every call of both stories fails in both ways, else one call of each kind in one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from processes import (
    CHANGING,
    FILES,
    FILES_OF_OURS,
    SENDING,
    Household,
    Traced,
    household,
    needs_strace,
    read_trace,
    strace,
)

pytestmark = needs_strace
SYNCING = ("fsync", "fdatasync")
ERRORS = ("EIO", "ENOSPC")


@pytest.fixture(scope="module")
def home() -> Iterator[Household]:
    with household() as found:
        yield found


def opens(home: Household) -> list[str]:
    """Of the opens only ours count: a Python process does hundreds."""
    paths = [home.state, *(home.state / name for name in FILES_OF_OURS)]
    return ["-s", "200", *(option for path in paths for option in ("-P", str(path)))]


def trace_update(home: Household, kind: str, *options: str, calls: tuple[str, ...]) -> list[Traced]:
    """An update from an empty directory with nothing failing."""
    home.fresh()
    home.offer(FILES[kind])
    log = home.root / "trace"
    code, errors = home.carry_through(*strace(log, *options, calls=calls))
    assert code == 0, errors
    home.check_end(kind)
    return read_trace(log, home.state)


def calls_of(home: Household, kind: str) -> list[Traced]:
    """Every call of an update that can fail."""
    changing = trace_update(home, kind, calls=(*CHANGING, *SENDING))
    opening = trace_update(home, kind, *opens(home), calls=("openat",))
    return [call for call in (*changing, *opening) if call.path and call.name not in SENDING]


def sample(calls: list[Traced]) -> Iterator[tuple[Traced, str]]:
    """The middle one of each kind of call, with the two errors in turn, or both if they differ."""
    kinds: dict[tuple[str, str], list[Traced]] = {}
    for call in calls:
        what = call.path
        if call.name in ("fallocate", "fsync") and what not in ("node.db", "node.db-wal", "."):
            what = "made once"
        if call.name == "openat":
            what = "opened"
        kinds.setdefault(("", "at the end") if call.stopping else (call.name, what), []).append(
            call
        )
    for index, found in enumerate(kinds.values()):
        call = found[len(found) // 2]
        differ = may_go_on(call, "EIO") != may_go_on(call, "ENOSPC")
        for error in ERRORS if differ else (ERRORS[index % 2],):
            yield call, error


def may_go_on(call: Traced, error: str) -> bool:
    """The exceptions to the rule that the process ends."""
    if call.stopping:
        return True  # SQLite copies its log when it is closed; all of it is durable already
    if call.name in ("fdatasync", "openat") and call.path == ".":
        return True  # SQLite's own sync of the directory; it ignores errors, and ours came before
    if error == "EIO":
        return False
    if call.path == "ballast" and call.name != "openat":
        return True  # it is only there against a full disk
    return call.name == "pwrite64" and call.path in ("bank_b.img", "node.db-wal")


def fail(home: Household, kind: str, call: Traced, error: str, log: Path) -> None:
    """The update with one failing call, and a second start where it needs one."""
    home.fresh()
    home.offer(FILES[kind])
    only = opens(home) if call.name == "openat" else []
    names = ("openat",) if only else (*CHANGING, *SENDING)
    inject = f"inject={call.name}:error={error}:when={call.number}"
    code, errors = home.carry_through(*strace(log, "-e", inject, *only, calls=names))
    traced = read_trace(log, home.state)
    at = next(index for index, found in enumerate(traced) if found.injected)
    assert (traced[at].name, traced[at].path) == (call.name, call.path)
    after = traced[at + 1 :]
    if may_go_on(call, error):
        assert code == 0, errors
        if call.path in ("bank_b.img", "node.db-wal") and call.name == "pwrite64" and after:
            again = [found.offset for found in after if found.path == call.path]
            assert call.stopping or traced[at].offset in again  # it was written once more
    else:
        assert code == 3, errors
        assert errors.splitlines()[-1].startswith("firmware-node: ")
        assert not [found for found in after if found.name in SENDING]
        assert not [found for found in after if found.path.startswith(("bank", "ratchet"))]
        synced_again = [found for found in after if found.name in SYNCING]
        assert call.path not in {found.path for found in synced_again}
        code, errors = home.carry_through()
        assert code == 0, errors
    home.check_end(kind)


def test_a_call_that_fails_costs_no_more_than_a_restart(
    home: Household, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    cases = [("good", *case) for case in sample(calls_of(home, "good"))]
    if request.config.getoption("--long"):
        calls = {kind: calls_of(home, kind) for kind in FILES}
        cases = [(kind, call, e) for kind in calls for call in calls[kind] for e in ERRORS]
    assert len({call.name for _, call, _ in cases}) >= 9
    for kind, call, error in cases:
        try:
            fail(home, kind, call, error, tmp_path / "trace")
        except BaseException as failure:
            failure.add_note(f"{kind}: {error} at {call}")
            raise
