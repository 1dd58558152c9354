"""The install script into a tree, from wheelhouses made by hand; the real thing runs in nspawn."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "install.sh"
LIMIT_S = 60
CURRENT = "opt/firmware-node/current"
LINK = "usr/local/bin/firmware-node"
GOOD = "def main():\n    print('{version}')\n    return 0\n"
BROKEN = "def main():\n    raise SystemExit(3)\n"


def wheelhouse(folder: Path, version: str, body: str = GOOD) -> Path:
    """A wheelhouse with a tiny program of our project's name and no dependencies."""
    folder.mkdir()
    info = f"firmware_node-{version}.dist-info"
    files = {
        "firmware_node/__init__.py": "",
        "firmware_node/cli.py": body.replace("{version}", version),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: firmware-node\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in (*files, f"{info}/RECORD"))
    with zipfile.ZipFile(folder / f"firmware_node-{version}-py3-none-any.whl", "w") as wheel:
        for name, text in (files | {f"{info}/RECORD": record}).items():
            wheel.writestr(zipfile.ZipInfo(name), text)
    return folder


def install(root: Path, *arguments: str, code: int = 0) -> str:
    done = subprocess.run(
        [str(SCRIPT), "--root", str(root), *arguments],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        env=os.environ | {"PYTHON": sys.executable},
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def snapshot(root: Path) -> dict[str, tuple[int, int, str]]:
    """Each path with its mode, its time and where it points."""
    found = {}
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        target = os.readlink(path) if path.is_symlink() else ""
        if "__pycache__" not in path.parts:  # made when the program is first run
            found[str(path.relative_to(root))] = (status.st_mode, status.st_mtime_ns, target)
    return found


def release(root: Path) -> str:
    return os.readlink(root / CURRENT).removeprefix("releases/")


def runs(root: Path) -> str:
    """What the current release prints, with the tree's own interpreter and launcher."""
    program = root / CURRENT / "bin"
    done = subprocess.run(
        [str(program / "python"), str(program / "firmware-node")],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=True,
    )
    return done.stdout.strip()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


def test_the_tree_holds_program_units_and_rules_and_names_nothing_of_this_machine(
    tmp_path: Path, root: Path
) -> None:
    wheels = str(wheelhouse(tmp_path / "wheels", "1.0"))
    install(root, "--wheelhouse", wheels)
    assert runs(root) == "1.0"
    name = release(root)
    assert name.startswith("1.0-")
    launcher = root / CURRENT / "bin/firmware-node"
    first = launcher.read_text().splitlines()[0]
    assert first == f"#!/opt/firmware-node/releases/{name}/bin/python"
    unit = (root / "etc/systemd/system/firmware-node@.service").read_text()
    assert "ExecStart=/opt/firmware-node/current/bin/firmware-node " in unit
    unit = (root / "etc/systemd/system/firmware-node-agent.service").read_text()
    assert "ExecStart=/opt/firmware-node/current/bin/firmware-node " in unit
    for path in (
        "etc/systemd/system/firmware-node@hub.service.d/10-hub.conf",
        "etc/udev/rules.d/60-firmware-node.rules",
        "etc/sysusers.d/firmware-node.conf",
        "etc/tmpfiles.d/firmware-node.conf",
    ):
        assert (root / path).is_file()
        assert stat.S_IMODE((root / path).stat().st_mode) == 0o644
    target = os.readlink(root / LINK)
    assert target == "/opt/firmware-node/current/bin/firmware-node"
    texts = [path for path in root.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    naming = [path for path in texts if str(root).encode() in path.read_bytes()]
    assert [path.name for path in naming] in ([], ["pyvenv.cfg"])  # how the venv was made
    # The same again changes nothing.
    before = snapshot(root)
    assert "nothing to change" in install(root, "--wheelhouse", wheels)
    after = snapshot(root)
    assert set(after) == set(before)
    changed = {name for name, entry in after.items() if before[name] != entry}
    assert changed <= {"opt/firmware-node/releases", "usr/local/bin", LINK}  # looked at


def test_only_a_release_that_starts_becomes_current_and_the_one_before_is_kept(
    tmp_path: Path, root: Path
) -> None:
    releases = root / "opt/firmware-node/releases"
    install(root, "--wheelhouse", str(wheelhouse(tmp_path / "1", "1.0")))
    first = release(root)
    broken = str(wheelhouse(tmp_path / "2", "2.0", BROKEN))
    assert "does not start" in install(root, "--wheelhouse", broken, code=2)
    assert release(root) == first
    (releases / "0.9-older").mkdir()
    install(root, "--wheelhouse", str(wheelhouse(tmp_path / "3", "3.0")))
    assert runs(root) == "3.0"
    # Neither what the broken one left nor what is older than the one before.
    assert sorted(path.name for path in releases.iterdir()) == sorted([first, release(root)])


def test_uninstall_leaves_what_is_the_operators_and_purge_does_not(
    tmp_path: Path, root: Path
) -> None:
    install(root, "--wheelhouse", str(wheelhouse(tmp_path / "wheels", "1.0")))
    own = (
        root / "etc/firmware-node/ppmid.toml",
        root / "var/lib/firmware-node/ppmid/node.db",
        root / "etc/systemd/system/firmware-node@hub.service.d/50-mine.conf",
    )
    for path in own:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    wants = root / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir()
    for unit in ("firmware-node@ppmid.service", "firmware-node-agent.service"):
        (wants / unit).symlink_to("/etc/systemd/system/firmware-node@.service")
    install(root, "--uninstall")
    files = [path for path in root.rglob("*") if path.is_file() or path.is_symlink()]
    assert sorted(files) == sorted(own)
    install(root, "--uninstall", "--purge")
    files = [path for path in root.rglob("*") if path.is_file()]
    assert files == [own[2]]  # a drop-in of the operator's is no part of us


def test_a_tree_of_another_machine_gets_its_python_and_its_prefix(
    tmp_path: Path, root: Path
) -> None:
    wheels = str(wheelhouse(tmp_path / "wheels", "1.0"))
    target = ("--target-platform", "manylinux2014_aarch64", "--target-python", "3.13")
    install(root, "--wheelhouse", wheels, "--prefix", "/srv/fn", *target)
    unit = (root / "etc/systemd/system/firmware-node@.service").read_text()
    assert "ExecStart=/srv/fn/current/bin/firmware-node " in unit
    folder = root / "srv/fn/current"
    assert (folder / "lib/python3.13/site-packages/firmware_node/cli.py").is_file()
    assert os.readlink(folder / "bin/python3") == "/usr/bin/python3"
    assert not list((folder / "lib").rglob("*.pyc"))


def test_a_tree_of_another_machine_with_this_python_gets_byte_code(
    tmp_path: Path, root: Path
) -> None:
    wheels = str(wheelhouse(tmp_path / "wheels", "1.0"))
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    target = ("--target-platform", "manylinux2014_aarch64", "--target-python", version)
    install(root, "--wheelhouse", wheels, *target)
    assert list((root / CURRENT / f"lib/python{version}").rglob("firmware_node/**/*.pyc"))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--tea",), "unknown option --tea"),
        (("--wheelhouse",), "expected a value"),
        (("--purge",), "--purge goes with --uninstall"),
        (("--prefix", "opt"), "expected an absolute path"),
        (("--wheelhouse", "/nonexistent"), "expected one firmware_node wheel"),
        (("--target-platform", "any"), "--target-platform needs --target-python"),
    ],
)
def test_wrong_use_is_one_line_and_changes_nothing(
    root: Path, arguments: tuple[str, ...], reason: str
) -> None:
    text = install(root, *arguments, code=2)
    assert reason in text
    assert text.count("\n") == 1
    assert list(root.rglob("*")) == []
