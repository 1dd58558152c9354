"""The command line: exit codes, one-line errors, JSON, and how long ``--help`` takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from vectors import VECTORS, needs_vectors

from firmware_node.cli import main
from firmware_node.tools.keys import build_keys

PPMID = "00-DB-12-34-56-78-90-A4"
SUPPLIER = "90-B3-D5-1F-30-01-00-00"
HELP_LIMIT_S = 0.2
Output = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("keys")
    for name, data in build_keys(b"cli").items():
        (folder / name).write_bytes(data)
    return str(folder)


@pytest.fixture
def built(tmp_path: Path, keys: str) -> str:
    """A signed image, made by the command."""
    path = str(tmp_path / "two.ota")
    arguments = ["image", "build", "--file-version", "2", "--size", "5000", "--keys", keys]
    assert main([*arguments, "-o", path]) == 0
    return path


def run(*arguments: str) -> int:
    """What the process would end with."""
    try:
        return main(arguments)
    except SystemExit as stop:  # argparse
        return int(stop.code or 0)


def one_line(captured: Output) -> str:
    out, err = captured.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert err.startswith("firmware-node")
    return err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "COMMAND"),
        (("dance",), "dance"),
        (("image", "build", "-o", "x", "--file-version", "0xZZ"), "'0xZZ', expected at most 8"),
        (
            ("image", "build", "-o", "x", "--file-version", "2", "--image-type", "70000"),
            "'70000', expected 0 to 0xFFFF",
        ),
        (("demo", "--size", "many"), "many"),
        (("demo", "--size", "1"), "expected 1024"),
        (("demo", "--device", "hcalcs"), "not yet available"),
        (("run", "/nonexistent.toml"), "/nonexistent.toml: No such file"),
        (("hub", "/nonexistent.toml"), "/nonexistent.toml: No such file"),
        (("hub", "clock"), "hub clock set TIME"),
        (("hub", "clock", "set", "tomorrow"), "RFC 3339"),
        (("config", "check", "/nonexistent.toml"), "No such file"),
        (("keys", "show", "/nonexistent"), "No such file"),
        (("gbcs", "decode", "/nonexistent"), "No such file"),
        (("image", "inspect", "/nonexistent"), "No such file"),
        (("image", "inspect", "/proc/self/status"), ""),
        (("dcc", "send", "/nonexistent"), "No such file"),
        (("dcc", "send", "/proc/self/status", "--timeout", "5"), "together with --wait"),
        (("dcc", "request", "11.4", "--devices", PPMID, "--keys", "/nonexistent"), "No such file"),
    ],
)
def test_wrong_arguments_and_files_are_one_line_and_exit_code_2(
    arguments: tuple[str, ...], says: str, capsys: Output
) -> None:
    assert run(*arguments) == 2
    assert says in one_line(capsys)


@pytest.mark.parametrize(
    "arguments",
    [
        ("status",),
        ("banks", "--json"),
        ("events",),
        ("events", "--follow"),
        ("reboot",),
        ("factory-reset",),
    ],
)
def test_a_daemon_that_is_not_there_is_one_line_and_exit_code_3(
    arguments: tuple[str, ...], tmp_path: Path, capsys: Output
) -> None:
    assert run(*arguments, "--socket", str(tmp_path / "none.sock")) == 3
    assert "no daemon answers" in one_line(capsys)


def test_a_hub_that_is_not_there_is_exit_code_3(tmp_path: Path, capsys: Output) -> None:
    file = tmp_path / "request.xml"
    file.write_text("<x/>")
    assert run("dcc", "send", str(file), "--hub", str(tmp_path / "none.sock")) == 3
    assert "no daemon answers" in one_line(capsys)
    assert run("hub", "clock", "set", "2026-01-01T00:00:00Z", "--hub", str(tmp_path / "no")) == 3


def test_an_unreadable_answer_file_leaves_nothing_half_written(
    tmp_path: Path, keys: str, capsys: Output
) -> None:
    target = tmp_path / "absent" / "two.ota"
    arguments = ("image", "build", "--file-version", "2", "--keys", keys, "-o", str(target))
    assert run(*arguments) == 2
    assert "No such file" in one_line(capsys)
    assert list(tmp_path.iterdir()) == []


def test_a_built_image_is_inspected_and_verified(built: str, keys: str, capsys: Output) -> None:
    assert run("image", "inspect", "--json", "--keys", keys, built) == 0
    shape = json.loads(capsys.readouterr().out)
    assert (shape["kind"], shape["file_version"]) == ("gb-plain", "00000002")
    assert shape["manufacturer_image"]["size"] == 5000
    assert shape["total_image_size"] == Path(built).stat().st_size
    assert shape["supplier_signature"] == "absent"
    assert shape["problems"] == []
    assert run("image", "verify", "--json", "--keys", keys, built) == 0
    assert json.loads(capsys.readouterr().out) == {"valid": True, "problems": []}


def test_a_bad_image_is_exit_code_1_with_its_problems(
    built: str, keys: str, capsys: Output
) -> None:
    bad = f"{built}.bad"
    data = bytearray(Path(built).read_bytes())
    data[-1] ^= 1  # the last octet of the manufacturer's signature
    Path(bad).write_bytes(data)
    assert run("image", "verify", "--json", "--keys", keys, bad) == 1
    answer = json.loads(capsys.readouterr().out)
    assert answer["valid"] is False
    assert len(answer["problems"]) == 1


@needs_vectors
def test_the_reference_images_are_told_apart_in_their_requests(capsys: Output) -> None:
    kinds = {}
    for name in ("11.1_UPDATE_FIRMWARE", "11.4_UPDATE_PPMID_FIRMWARE"):
        file = VECTORS / "duis" / f"{name}_REQUEST_DUIS.XML"
        assert run("image", "inspect", "--json", str(file)) == 0
        shape = json.loads(capsys.readouterr().out)
        kinds[name[:4]] = (shape["kind"], shape["supplier_signature"], shape["file_version"])
    assert kinds == {
        "11.1": ("gb-supplier-signed", "no-key", "acdcacdc"),
        "11.4": ("gb-plain", "absent", "acdcacdc"),
    }


@needs_vectors
def test_reference_messages_are_decoded_a_line_each_and_a_stranger_is_exit_code_1(
    tmp_path: Path, capsys: Output
) -> None:
    keys = str(VECTORS / "rtds-keys")
    messages = sorted((VECTORS / "rtds").rglob("CS08*.HEX"))[:2]
    assert run("gbcs", "decode", "--json", "--keys", keys, *map(str, messages)) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["file"] for line in lines] == [str(path) for path in messages]
    assert all(line["use_case"] == "CS08" and line["mac"] == "valid" for line in lines)
    stranger = tmp_path / "stranger.hex"
    stranger.write_text("not a message")
    files = (str(stranger), str(messages[0]))
    assert run("gbcs", "decode", "--json", "--keys", keys, *files) == 1
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert "error" in first
    assert second["mac"] == "valid"


def test_a_request_that_we_wrote_carries_our_image(
    built: str, keys: str, tmp_path: Path, capsys: Output
) -> None:
    file = str(tmp_path / "update.xml")
    wanted = ("--devices", PPMID, "--keys", keys, "-o", file)
    assert run("dcc", "request", "11.4", "--image", built, *wanted) == 0
    assert run("image", "inspect", "--json", file) == 0
    assert json.loads(capsys.readouterr().out)["file_version"] == "00000002"
    assert run("dcc", "request", "11.4", *wanted) == 2
    assert "--image" in one_line(capsys)


def test_keys_are_made_private_and_only_into_an_empty_folder(
    tmp_path: Path, capsys: Output
) -> None:
    folder = tmp_path / "keys"
    assert run("keys", "create", str(folder), "--seed", "1") == 0
    capsys.readouterr()
    modes = {path.suffix: path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert modes[".key"] == 0o600
    assert run("keys", "show", "--json", str(folder)) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {"holder", "role", "usage"} <= set(rows[0])
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert run("keys", "create", str(folder)) == 2
    assert "expected an empty folder" in one_line(capsys)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_configuration_is_checked_without_any_device(tmp_path: Path, capsys: Output) -> None:
    file = tmp_path / "hub.toml"
    file.write_text('[hub]\nentity_id = "00DB1234567890A2"\n[keys]\ndirectory = "/none"\n')
    assert run("config", "check", str(file)) == 0
    capsys.readouterr()
    file.write_text('[hub]\nentity_id = "00DB1234567890A2"\n[keys]\ndirectry = "/none"\n')
    assert run("config", "check", str(file)) == 2
    assert f"{file}:4: unknown key keys.directry; the nearest" in one_line(capsys)
    for what in ("run", "hub"):
        assert run("config", "schema", what) == 0
        assert json.loads(capsys.readouterr().out)["title"] == what


def test_a_reader_that_goes_away_ends_the_command_quietly(keys: str) -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "firmware_node", "keys", "show", keys],
        stdout=write,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, b"")


def test_help_is_there_at_once() -> None:
    times = []
    for _ in range(5):
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "firmware_node", "--help"], capture_output=True, check=False
        )
        times.append(time.perf_counter() - start)
        assert done.returncode == 0
    assert min(times) < HELP_LIMIT_S
