"""The committed corpus passes every target; with --long, fuzzing goes on from it by coverage."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from seeds import CORPUS, corpus  # noqa: E402
from targets import TARGETS  # noqa: E402

from firmware_node.crypto import signs_deterministically  # noqa: E402

SECONDS = 30  # of each target
SIZE_MAX = 2048  # octets of an input; the largest seed has under 1,500

needs_atheris = pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None,
    reason="atheris is not installed: .venv/bin/pip install atheris",
)


def inputs(target: str) -> list[Path]:
    return sorted((CORPUS / target).iterdir())


@pytest.mark.parametrize("target", TARGETS)
def test_every_input_of_the_corpus_passes_its_target(target: str) -> None:
    paths = inputs(target)
    assert paths
    for path in paths:
        octets = path.read_bytes()
        assert len(octets) <= SIZE_MAX, path
        TARGETS[target](octets)


@pytest.mark.parametrize("target", TARGETS)
def test_every_input_cut_anywhere_passes_its_target(target: str) -> None:
    for path in inputs(target):
        octets = path.read_bytes()
        for size in range(0, len(octets), max(1, len(octets) // 64)):
            TARGETS[target](octets[:size])


@pytest.mark.skipif(
    not signs_deterministically(), reason="this OpenSSL signs with fresh randomness"
)
def test_corpus_is_what_the_seeds_make_and_nothing_big() -> None:
    seeds = corpus()
    for name, octets in seeds.items():
        assert (CORPUS / name).read_bytes() == octets, f"{name}: run python tests/fuzz/seeds.py"
    folders = {path.name for path in CORPUS.iterdir()}
    assert folders == set(TARGETS) == {name.partition("/")[0] for name in seeds}
    assert sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()) < 200_000


@pytest.mark.long
@needs_atheris
@pytest.mark.parametrize("target", TARGETS)
def test_coverage_guided_fuzzing_finds_nothing(target: str, tmp_path: Path) -> None:
    found = tmp_path / "found"
    found.mkdir()
    options = [f"-max_total_time={SECONDS}", f"-max_len={SIZE_MAX}", "-timeout=10", "-seed=1"]
    options += [f"-artifact_prefix={tmp_path}/", "-rss_limit_mb=1024"]
    done = subprocess.run(
        [sys.executable, str(HERE / "run_one.py"), target, *options, found, CORPUS / target],
        capture_output=True,
        text=True,
        timeout=SECONDS * 4 + 60,
    )
    crashes = [path.name for path in tmp_path.iterdir() if path.is_file()]
    assert done.returncode == 0, done.stderr[-4000:]
    assert crashes == []
    assert "DONE" in done.stderr or "Done" in done.stderr, done.stderr[-2000:]
