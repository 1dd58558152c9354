"""The benchmark suite runs and speaks the contract's JSON; how fast anything is, it tests not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
needs_strace = pytest.mark.skipif(
    shutil.which("strace") is None and "CI" not in os.environ,
    reason="strace is not installed: apt-get install strace",
)
# Names with their units, and which way is better; most are fixed by the contract.
CONTRACT = {
    "ota.in_process.blocks_per_second": ("blocks/s", True),
    "ota.two_process.block.ratio_to_bare_socket": ("ratio", True),
    "ota.two_process.page.blocks_per_second": ("blocks/s", True),
    "daemon.start_to_ready.seconds": ("s", False),
    "daemon.rss.bytes": ("bytes", False),
    "daemon.watchdog.update.seconds": ("s", False),
    "daemon.watchdog.starved.seconds": ("s", False),
    "daemon.idle_cpu.ten_instances.cores": ("cores", False),
    "verify.1mib.seconds": ("s", False),
}
ON_DISK = {
    "ota.update_1mib.fsyncs": ("syncs", False),
    "ota.update_1mib.bytes_written": ("bytes", False),
}


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench_figures", *arguments],
        env=os.environ | {"PYTHONPATH": str(SCRIPTS)},
        capture_output=True,
        text=True,
        check=False,
    )


def figures_of(*names: str) -> dict[str, dict[str, Any]]:
    done = bench("--quick", "--json", *names)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert set(document) == {"machine", "figures"}
    assert {"cpu", "cpus", "python"} <= set(document["machine"])
    return {figure["name"]: figure for figure in document["figures"]}


def check(figures: dict[str, dict[str, Any]], expected: dict[str, tuple[str, bool]]) -> None:
    assert set(expected) <= set(figures)
    for name, figure in figures.items():
        (kind,) = {"floor", "peer"} & set(figure)
        base = figure[kind]
        assert set(figure) == {"name", "value", "unit", "higher_is_better", kind, "ratio"}
        assert set(base) == {"name", "value"}
        assert base["name"]
        assert figure["value"] > 0
        assert figure["ratio"] == pytest.approx(figure["value"] / base["value"])
        if name in expected:
            assert (figure["unit"], figure["higher_is_better"]) == expected[name]


def test_every_figure_of_the_contract_is_measured_beside_its_baseline() -> None:
    figures = figures_of("ota.in_process", "ota.two_process", "daemon", "verify")
    check(figures, CONTRACT)
    assert "peer" in figures["ota.in_process.blocks_per_second"]  # zigpy's own server


@needs_strace
def test_what_an_update_writes_is_counted_from_outside() -> None:
    figures = figures_of("ota.update_1mib")
    check(figures, ON_DISK)
    # Less than its floor, and the count would have missed calls.
    assert all(figure["ratio"] >= 1 for figure in figures.values())
    # dual-bank.md 4: the budget of a complete 1 MiB update.
    assert figures["ota.update_1mib.fsyncs"]["value"] <= 40
    assert figures["ota.update_1mib.bytes_written"]["value"] <= 1.5 * 1024 * 1024


def test_a_name_that_is_no_figure_is_exit_code_2_and_one_line() -> None:
    done = bench("ota.in_proces")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "ota.in_process.blocks_per_second" in done.stderr
    assert done.stdout == ""


def test_figures_are_readable_lines_without_json() -> None:
    done = bench("--quick", "verify", "ota.coding")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == [
        "ota.coding.blocks_per_second",
        "verify.1mib.seconds",
    ]
    assert all(" x floor " in line or " x peer " in line for line in lines)
