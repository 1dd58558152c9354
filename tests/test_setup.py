"""``scripts/setup`` with a pretended interpreter: when it makes .venv, and how it fails."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 30

# Notes every call; a virtual environment made by it has itself as interpreter.
PRETENDER = """\
#!/bin/sh
echo "$*" >> "$CALLS"
case "$*" in
    *version_info*) exit "${IS_OLD:-0}" ;;
    --version) echo "Python 3.9.2" ;;
    "-m venv"*)
        mkdir -p .venv/bin
        [ -z "${NO_VENV-}" ] || { echo "ensurepip is not available" >&2; exit 1; }
        cp "$0" .venv/bin/python ;;
    *"-m pip install"*) exit "${NO_NETWORK:-0}" ;;
esac
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with what the script reads."""
    folder = tmp_path / "clone"
    (folder / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "setup", folder / "scripts")
    for path in (*ROOT.glob("requirements*.lock"), ROOT / "pyproject.toml"):
        shutil.copy(path, folder)
    (tmp_path / "python3").write_text(PRETENDER)
    (tmp_path / "python3").chmod(0o755)
    return folder


def start(folder: Path, *arguments: str, **changes: str) -> subprocess.Popen[str]:
    environment = {
        "PATH": f"{folder.parent}:{os.environ['PATH']}",
        "CALLS": str(folder.parent / "calls"),
        **changes,
    }
    return subprocess.Popen(
        [folder / "scripts" / "setup", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen[str]) -> tuple[int, str]:
    out, err = process.communicate(timeout=LIMIT_S)
    assert out == ""
    return process.returncode, err


def calls(folder: Path, word: str) -> int:
    """How often the interpreter was called with it since we last looked."""
    file = folder.parent / "calls"
    found = file.read_text().count(word) if file.exists() else 0
    file.unlink(missing_ok=True)
    return found


def test_nothing_is_done_again_when_nothing_changed(clone: Path) -> None:
    assert end(start(clone)) == (0, "scripts/setup: making .venv, about a minute\n")
    assert calls(clone, "pip install") == 2  # the packages, and the project
    assert end(start(clone, PYTHON="/nonexistent")) == (0, "")
    assert not (clone.parent / "calls").exists()


def test_the_development_set_holds_the_other_one_and_not_the_other_way_round(clone: Path) -> None:
    assert end(start(clone))[0] == 0
    calls(clone, "")
    assert end(start(clone, "--dev"))[0] == 0
    assert calls(clone, "requirements-dev.lock") == 1
    assert end(start(clone)) == end(start(clone, "--dev")) == (0, "")
    assert not (clone.parent / "calls").exists()


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock", "pyproject.toml"])
def test_another_lock_or_project_is_installed_into_the_same_environment(
    clone: Path, name: str
) -> None:
    assert end(start(clone))[0] == 0
    calls(clone, "")
    with (clone / name).open("a") as file:
        file.write("# changed\n")
    assert end(start(clone))[0] == 0
    assert calls(clone, "pip install") == 2


def test_a_moved_folder_gets_another_environment(clone: Path) -> None:
    assert end(start(clone))[0] == 0
    calls(clone, "")
    moved = clone.rename(clone.parent / "moved")
    assert end(start(moved))[0] == 0
    assert calls(moved, "-m venv --clear") == 1


@pytest.mark.skipif(
    shutil.which("flock") is None and not os.environ.get("CI"),
    reason="flock is not there: install util-linux",
)
def test_two_at_once_make_one_environment(clone: Path) -> None:
    both = [start(clone), start(clone)]
    assert [end(process)[0] for process in both] == [0, 0]
    assert calls(clone, "-m venv") == 1


def test_what_was_interrupted_is_made_again(clone: Path) -> None:
    code, err = end(start(clone, NO_NETWORK="1"))
    assert (code, err.splitlines()[-1]) == (
        3,
        "scripts/setup: pip could not install the packages of requirements.lock; "
        "is there a network?",
    )
    calls(clone, "")
    assert end(start(clone))[0] == 0
    assert calls(clone, "pip install") == 2


@pytest.mark.parametrize(
    ("arguments", "changes", "code", "says"),
    [
        (["--dve"], {}, 2, "usage: scripts/setup [--dev]"),
        ([], {"PYTHON": "nosuch"}, 3, "found no nosuch, expected Python 3.11 or later"),
        ([], {"IS_OLD": "1"}, 3, "found Python 3.9.2, expected Python 3.11 or later"),
        ([], {"NO_VENV": "1"}, 3, "on Debian: apt-get install python3-venv"),
    ],
)
def test_each_failure_says_what_is_missing_and_leaves_no_environment(
    clone: Path, arguments: list[str], changes: dict[str, str], code: int, says: str
) -> None:
    found, err = end(start(clone, *arguments, **changes))
    assert found == code
    assert says in err.splitlines()[-1]
    assert not (clone / ".venv").exists()
