"""A running fleet in a terminal of 80 columns, and in lines where there is none."""

from __future__ import annotations

import io

import pytest
from pretended import PretendedFleet

from firmware_node.adapters.fleet.lines import PlainLines, line, view_of
from firmware_node.adapters.fleet.terminal import LiveTable, table
from firmware_node.fleet.live import CampaignState, Live, WaveState
from firmware_node.fleet.terms import Plan, Row, Shape

rich_console = pytest.importorskip("rich.console")


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def drawn(fleet: PretendedFleet, width: int = 80, *, ascii_only: bool = False) -> list[str]:
    console = rich_console.Console(width=width, record=True, file=io.StringIO())
    console.print(table(fleet.snapshot(), width, ascii_only))
    text: str = console.export_text()
    return text.splitlines()


@pytest.mark.parametrize("homes", [50, 5000])
def test_it_fits_eighty_columns_and_says_what_the_snapshot_says(homes: int) -> None:
    fleet = PretendedFleet(homes)
    fleet.turn(44)
    lines, seen = drawn(fleet), fleet.snapshot()
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    assert f"done {seen.totals['done']:,} (" in text
    assert f"failed {seen.totals['failed']:,} (" in text
    for wave in seen.waves:
        row = next(line for line in lines if line.startswith(wave.state.name))
        assert row.split()[-4:] == [
            f"{wave.done:,}",
            f"{wave.failed:,}",
            f"{wave.under_way:,}",
            f"{wave.state.members:,}",
        ]
    shown = [fleet.shape.member(one.member) for one in seen.failures[:5]]
    for member in shown:
        assert f"{member.type.name} of home {member.home}" in text
    assert "left (" in text


def test_bars_read_without_colour_and_in_ascii() -> None:
    fleet = PretendedFleet(500)
    fleet.turn(44)
    row = next(line for line in drawn(fleet) if line.startswith("second"))
    assert {"█", "▒", "×", "·"} >= set(row.split()[1].rstrip("%0123456789")) >= {"█", "▒", "×"}
    lines = drawn(fleet, ascii_only=True)
    assert all(line.isascii() for line in lines)


def test_a_plan_with_many_waves_shows_those_that_run() -> None:
    live = Live(Plan("many", Shape(10)))
    states = [WaveState(f"wave {number}", "new", 10, "done") for number in range(40)]
    states[30] = states[30]._replace(state="running")
    live.update(0, [], CampaignState("running", "", tuple(states)), 0)
    console = rich_console.Console(width=80, record=True, file=io.StringIO())
    console.print(table(live.snapshot(), 80))
    text = console.export_text()
    assert "wave 30" in text and "28 more" in text
    assert "wave 10" not in text


def test_failures_that_were_made_good_since_are_counted_and_have_their_time() -> None:
    plan = Plan("again", Shape(10), start_utc=820_540_800 - 86_400)
    live = Live(plan)
    row = Row(plan.shape.member(4), "failed", wave="first", failed_in="trial", cause="self_test")
    row.ended_ms = 3_723_000
    states = (WaveState("first", "bad", 1, "done", failed=1), WaveState("rest", "good", 10))
    live.update(4_000_000, [row], CampaignState("running", "", states), 0)
    row.phase, row.wave, row.failed_in, row.cause = "done", "rest", None, None
    live.update(5_000_000, [row], CampaignState("running", "", states), 1)
    console = rich_console.Console(width=80, record=True, file=io.StringIO())
    console.print(table(live.snapshot(), 80))
    text = console.export_text()
    assert "last failures, 1 in all" in text
    assert "12-31 01:02:03" in text and "2025-12-31 01:23:20 UTC" in text


def test_names_from_a_file_cannot_speak_to_the_terminal() -> None:
    live = Live(Plan("\x1b[2Jplan", Shape(1)))
    state = CampaignState("stopped", "\x1b]0;owned", (WaveState("[red]\x1b[1m", "new", 1),))
    live.update(0, [], state, 0)
    out = Terminal()
    view = LiveTable(out)
    view.end(live.snapshot())
    assert "\x1b[2J" not in out.getvalue() and "\x1b]0;" not in out.getvalue()
    assert "\x1b" not in line(live.snapshot())


def test_a_terminal_is_left_as_it_was_with_the_last_table_on_it() -> None:
    fleet = PretendedFleet(50)
    out = Terminal()
    view = view_of(out)
    assert isinstance(view, LiveTable)
    for turn in range(10):
        fleet.turn()
        view.show(fleet.snapshot(), turn * 0.01)
    drawings = out.getvalue().count(fleet.snapshot().plan.name)
    view.end(fleet.snapshot())
    text = out.getvalue()
    assert drawings == 1  # no more often than the eye sees
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1  # the cursor is back
    assert "2026-01-01 00:00:50 UTC" in text.rpartition("rollout")[2]


def test_elsewhere_it_is_a_line_every_few_seconds_and_one_when_the_state_changes() -> None:
    fleet = PretendedFleet(50)
    out = io.StringIO()
    view = view_of(out)
    assert isinstance(view, PlainLines)
    for tenth in range(100):
        fleet.turn()
        view.show(fleet.snapshot(), tenth / 10)
    assert len(out.getvalue().splitlines()) == 2
    fleet.state = "stopped"
    fleet.turn()
    view.show(fleet.snapshot(), 10)
    view.end(fleet.snapshot())
    lines = out.getvalue().splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("00:00:05 running, 0 done, 0 failed,")
    assert lines[-1] == line(fleet.snapshot())
    totals = fleet.snapshot().totals
    assert f"{totals['done']} done, {totals['failed']} failed" in lines[-1]
    assert "\x1b" not in out.getvalue()
