"""The command line: exit codes, one-line errors, JSON, and what ``--help`` loads."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from vectors import VECTORS, needs_vectors

from firmware_node.cli import main
from firmware_node.tools.keys import build_keys

PPMID = "00-DB-12-34-56-78-90-A4"
SUPPLIER = "90-B3-D5-1F-30-01-00-00"
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
        (("demo", "--device", "ihd"), "invalid choice"),
        (("run", "/nonexistent.toml"), "/nonexistent.toml: No such file"),
        (("hub", "/nonexistent.toml"), "/nonexistent.toml: No such file"),
        (("hub", "clock"), "hub clock set TIME"),
        (("hub", "clock", "set", "tomorrow"), "RFC 3339"),
        (("hub", "clock", "set", "1999-12-31T23:59:59Z"), "2000-01-01T00:00:00Z to 2136-02-07"),
        (("hub", "clock", "set", "2200-01-01T00:00:00Z"), "2000-01-01T00:00:00Z to 2136-02-07"),
        (("demo", "--keep", "/dev/null"), "--keep /dev/null: File exists"),
        (("demo", "--keep", "/dev/null/below"), "Not a directory"),
        (("demo", "--keep", "/proc/self"), "expected an empty folder"),
        (("image", "build", "-o", "-", "--file-version", "2", "--json"), "-o FILE"),
        (("image", "build", "-o", "x", "--file-version", "2", "--startup-ms", "-1"), "startup_ms"),
        (
            ("image", "build", "-o", "x", "--file-version", "2", "--header-string", "\u20ac"),
            "ASCII",
        ),
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


# Commands that read one file, which takes the place of FILE.
READERS = [
    "config check FILE",
    "dcc request 11.4 --devices 00-DB-12-34-56-78-90-A4 --keys KEYS --image FILE",
    "gbcs decode --keys FILE KEYS",
    "hub FILE",
    "image inspect FILE",
    "image load FILE",
    "image mutate FILE truncated -o OUT",
    "image sign FILE --keys KEYS -o OUT",
    "image verify FILE",
    "keys show FILE",
    "run FILE",
]
ENDLESS = "/dev/zero"


@pytest.mark.parametrize("content", ["absent", "empty", "garbage", "folder", "loop", "endless"])
@pytest.mark.parametrize("command", READERS)
def test_a_hostile_file_is_one_line_that_names_it_and_exit_code_2(
    command: str, content: str, tmp_path: Path, keys: str, capsys: Output
) -> None:
    file = tmp_path / "hostile"
    match content:
        case "empty":
            file.write_bytes(b"")
        case "garbage":
            file.write_bytes(bytes(range(256)) * 20)
        case "folder":
            file.mkdir()
        case "loop":
            file.symlink_to(file)
        case "endless":
            file.symlink_to(ENDLESS)
    out = tmp_path / "out"
    values = {"FILE": str(file), "KEYS": keys, "OUT": str(out)}
    assert run(*(values.get(word, word) for word in command.split())) == 2
    line = one_line(capsys)
    assert str(file) in line
    assert "[Errno" not in line
    assert not out.exists()


def test_a_wrong_key_file_is_told_with_its_folder(
    built: str, keys: str, tmp_path: Path, capsys: Output
) -> None:
    folder = tmp_path / "keys"
    shutil.copytree(keys, folder)
    (folder / "manufacturer-121d-ds.pem").write_bytes(b"garbage")
    assert run("image", "verify", built, "--keys", str(folder)) == 2
    assert f"{folder}: manufacturer-121d-ds.pem: no readable public key" in one_line(capsys)
    assert run("image", "sign", built, "--keys", f"{VECTORS}/rtds-keys", "-o", built) == 2
    assert "manufacturer-121d-ds" in one_line(capsys)


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


def test_an_output_that_is_no_file_is_written_and_stays_what_it_is(
    tmp_path: Path, built: str, keys: str
) -> None:
    link, target = tmp_path / "link.ota", tmp_path / "target.ota"
    link.symlink_to(target)
    for output in (os.devnull, str(link)):
        assert run("image", "sign", built, "--keys", keys, "-o", output) == 0
    assert Path(os.devnull).is_char_device()
    assert link.is_symlink()
    assert target.stat().st_size == Path(built).stat().st_size
    assert {path.name for path in tmp_path.iterdir()} == {"two.ota", "link.ota", "target.ota"}


def node(*arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "firmware_node", *arguments],
        stderr=subprocess.PIPE,
        check=False,
        **options,
    )


def no_large_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))


@pytest.mark.parametrize(
    "arguments",
    [
        ("image", "build", "--file-version", "2", "-o", "two.ota"),
        ("keys", "create", "keys"),
    ],
)
def test_a_disk_that_takes_no_more_leaves_nothing_half_written(
    arguments: tuple[str, ...], tmp_path: Path
) -> None:
    done = node(*arguments, cwd=tmp_path, preexec_fn=no_large_files)
    assert (done.returncode, done.stderr.count(b"\n")) == (3, 1)
    assert b"File too large" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [("config", "schema"), ("keys", "show", "KEYS")])
def test_a_full_disk_under_stdout_is_one_line_and_exit_code_3(
    arguments: tuple[str, ...], keys: str
) -> None:
    with open("/dev/full", "wb") as full:
        done = node(*(keys if word == "KEYS" else word for word in arguments), stdout=full)
    assert (done.returncode, done.stderr.count(b"\n")) == (3, 1)
    assert b"No space left" in done.stderr


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


def test_a_header_with_escape_codes_does_not_reach_the_terminal(
    built: str, tmp_path: Path, capsys: Output
) -> None:
    data = bytearray(Path(built).read_bytes())
    data[20:26] = b"\x1b[31m\n"  # in the OTA header's string
    hostile = tmp_path / "hostile\x1b[31m.ota"
    hostile.write_bytes(data)
    assert run("image", "inspect", str(hostile)) == 0
    assert run("image", "inspect", f"{hostile}.absent") == 2
    out, err = capsys.readouterr()
    assert "header_string: [31mre_node\n" in out
    assert r"hostile\x1b[31m.ota" in err
    assert "\x1b" not in out + err


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


@needs_vectors
def test_a_folder_is_read_to_its_end_whatever_lies_in_it(tmp_path: Path, capsys: Output) -> None:
    messages = tmp_path / "messages"
    (messages / "inner").mkdir(parents=True)
    (messages / "empty").mkdir()
    good = sorted((VECTORS / "rtds").rglob("CS08*.HEX"))[0]
    shutil.copy(good, messages / "inner" / "good.hex")
    (messages / "a.hex").write_text("DF0901")
    (messages / "b.hex").symlink_to(ENDLESS)
    (messages / "c.hex").symlink_to("nowhere")
    os.mkfifo(messages / "d.hex")
    keys = str(VECTORS / "rtds-keys")
    assert run("gbcs", "decode", "--json", "--keys", keys, str(messages)) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [Path(line["file"]).name for line in lines] == ["a.hex", "good.hex"]
    assert lines[1]["mac"] == "valid"
    assert run("gbcs", "decode", str(good), str(messages / "empty")) == 2
    assert "empty: no file in it" in one_line(capsys)
    assert run("gbcs", "decode", str(messages / "b.hex"), str(good)) == 1
    assert "expected at most" in capsys.readouterr().out


@needs_vectors
def test_a_message_comes_from_standard_input_too() -> None:
    good = sorted((VECTORS / "rtds").rglob("CS08*.HEX"))[0]
    with good.open("rb") as file:
        done = node("gbcs", "decode", "--json", "-", stdin=file, stdout=subprocess.PIPE)
    assert done.returncode == 0
    assert json.loads(done.stdout) | {"file": "-", "mac": "no-key"} == json.loads(done.stdout)


def test_a_command_that_writes_a_file_tells_of_it_on_request(
    tmp_path: Path, keys: str, built: str, capsys: Output
) -> None:
    folder, file = str(tmp_path / "new"), str(tmp_path / "file")
    assert run("keys", "create", folder, "--seed", "1", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer == {"directory": folder, "files": len(os.listdir(folder))}
    wanted = ("--keys", keys, "-o", file, "--json")
    for arguments in (
        ("image", "build", "--file-version", "2", *wanted),
        ("image", "sign", built, *wanted),
        ("image", "mutate", built, "downgrade", "-o", file, "--json"),
        ("dcc", "request", "11.2", "--devices", PPMID, *wanted),
    ):
        assert run(*arguments) == 0
        answer = json.loads(capsys.readouterr().out)
        assert answer == {"file": file, "bytes": Path(file).stat().st_size}


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
    assert run("config", "check", str(file), "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"file": str(file), "for": "hub"}
    file.write_text('[hub]\nentity_id = "00DB1234567890A2"\n[keys]\ndirectry = "/none"\n')
    assert run("config", "check", str(file)) == 2
    assert f"{file}:4: unknown key keys.directry; the nearest" in one_line(capsys)
    file.write_text(
        '[hub]\nentity_id = "00DB1234567890A2"\nscript = ["dance"]\n[keys]\ndirectory = "k"'
    )
    assert run("config", "check", str(file)) == 2
    assert f"{file}: hub.script: found 'dance'" in one_line(capsys)
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


def test_help_loads_nothing_heavy() -> None:
    done = node("--help", stdout=subprocess.PIPE, env=os.environ | {"PYTHONPROFILEIMPORTTIME": "1"})
    assert done.returncode == 0
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.decode().splitlines()}
    assert "firmware_node.cli" in loaded
    heavy = {"asyncio", "construct", "cryptography", "h11", "http.client", "lxml", "sqlite3"}
    assert heavy & loaded == set()
