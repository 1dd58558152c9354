"""``gbcs decode``, ``verify`` and ``mutate`` as commands: input, output, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from vectors import VECTORS, needs_vectors

from firmware_node.cli import main
from firmware_node.crypto import Keyring
from firmware_node.sealing import seal_critical, seal_maced
from firmware_node.terms import EntityId
from firmware_node.tools.gbcs_mutations import MUTATIONS
from firmware_node.tools.keys import build_keys
from firmware_node.wire.firmware_messages import ActivateFirmware, encode_cs06_command
from firmware_node.wire.gbcs import Cra, GroupingHeader

Output = pytest.CaptureFixture[str]
FILES = build_keys(b"test_cli_gbcs", days=10)  # organisations from 2020-01-01
KEYRING = Keyring(FILES)
BROKER = EntityId.parse("90b3d51f30000002")
SUPPLIER = EntityId.parse("90b3d51f30010000")
HCALCS = EntityId.parse("00db1234567890a5")
COMMAND = seal_critical(
    GroupingHeader(Cra.COMMAND, 1000, SUPPLIER, HCALCS, 0x0012),
    encode_cs06_command(ActivateFirmware(bytes(32), 1000)),
    KEYRING.signing_key(SUPPLIER),
    KEYRING,
    BROKER,
    HCALCS,
)
READ_VERSION = seal_maced(
    GroupingHeader(Cra.COMMAND, 1300, BROKER, HCALCS, 0x0129), b"\5\0", KEYRING, BROKER, HCALCS
)


@pytest.fixture
def keys(tmp_path: Path) -> str:
    folder = tmp_path / "keys"
    folder.mkdir()
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    return str(folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two good messages, the second one in a folder below."""
    messages = tmp_path / "messages"
    (messages / "below").mkdir(parents=True)
    (messages / "a.bin").write_bytes(COMMAND)
    (messages / "below" / "b.hex").write_text(READ_VERSION.hex())
    return messages


def run(*arguments: str) -> int:
    try:
        return main(arguments)
    except SystemExit as stop:  # argparse
        return int(stop.code or 0)


def test_folder_is_verified_and_the_table_has_a_row_for_each_use_case(
    keys: str, folder: Path, capsys: Output
) -> None:
    assert run("gbcs", "verify", "--keys", keys, str(folder)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[:4]] == [
        ["use", "case"],
        ["CS06", "1"],
        ["CS08", "1"],
        ["all", "2"],
    ]
    assert lines[-1] == "valid"


def test_verdict_as_json_says_which_file_failed_and_why(
    keys: str, folder: Path, capsys: Output
) -> None:
    bad = folder / "c.bin"
    bad.write_bytes(COMMAND[:-1] + bytes((COMMAND[-1] ^ 1,)))
    assert run("gbcs", "verify", "--json", "--keys", keys, str(folder)) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["valid"] is False
    assert document["failures"] == [{"file": str(bad), "problems": ["mac invalid"]}]
    assert document["use_cases"][0]["mac_valid"] == 1
    assert document["use_cases"][0]["mac_invalid"] == 1


def test_missing_keys_and_expired_certificates_are_a_no_where_that_is_asked(
    keys: str, folder: Path
) -> None:
    assert run("gbcs", "verify", str(folder)) == 0
    assert run("gbcs", "verify", "--strict", str(folder)) == 1
    verify = ("gbcs", "verify", "--keys", keys, "--check-validity", str(folder))
    assert run(*verify) == 1
    assert run(*verify, "--at", "2020-01-05T12:00:00Z") == 0
    assert run(*verify, "--at", "soon") == 2


def test_expired_certificate_verifies_with_a_warning_in_decode_and_in_keys_show(
    keys: str, folder: Path, capsys: Output
) -> None:
    assert run("gbcs", "decode", "--json", "--keys", keys, str(folder / "a.bin")) == 0
    line = json.loads(capsys.readouterr().out)
    assert (line["signature"], line["mac"]) == ("valid", "valid")
    expired = "expired 2020-01-11T00:00:00Z"
    assert line["warnings"] == [
        f"{SUPPLIER.hex}-ds.pem: {expired}",
        f"{BROKER.hex}-ka.pem: {expired}",
    ]
    assert run("keys", "show", "--json", keys) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows[f"{SUPPLIER.hex}-ds"]["problems"] == [expired]
    assert rows[f"{HCALCS.hex}-ds"]["problems"] == []


def test_message_from_standard_input_is_decoded_for_people(
    keys: str,
) -> None:
    command = [sys.executable, "-m", "firmware_node", "gbcs", "decode", "--keys", keys, "-"]
    done = subprocess.run(
        command, input=COMMAND.hex(), capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.startswith("CS06 Activate firmware (0012 command)  -\n")
    assert "signature  valid" in done.stdout


def test_bad_message_is_made_and_then_found_bad(keys: str, folder: Path, capsys: Output) -> None:
    out = str(folder / "bad.hex")
    arguments = ("gbcs", "mutate", "wrong-signature", str(folder / "a.bin"))
    assert run(*arguments, "--keys", keys, "-o", out) == 0
    assert capsys.readouterr().out == ""
    assert run("gbcs", "decode", "--json", "--keys", keys, out) == 0
    line = json.loads(capsys.readouterr().out)
    assert (line["signature"], line["mac"]) == ("invalid", "valid")
    assert run("gbcs", "verify", "--keys", keys, out) == 1


def test_blocks_of_a_bad_series_stand_one_a_line_and_a_good_one_decodes(
    keys: str, folder: Path, tmp_path: Path, capsys: Output
) -> None:
    for name, code in (("gbt-repeated-block", 0), ("gbt-missing-block", 1)):
        out = str(tmp_path / name)
        assert run("gbcs", "mutate", name, str(folder / "a.bin"), "-o", out) == 0
        assert len(Path(out).read_text().splitlines()) == (4 if code == 0 else 2)
        assert run("gbcs", "decode", "--json", "--keys", keys, out) == code
    good, bad = map(json.loads, capsys.readouterr().out.splitlines())
    assert (good["blocks"], good["signature"], good["mac"]) == (4, "valid", "valid")
    assert "lacks block 2" in bad["error"]


def test_every_mutation_is_listed_with_what_a_device_answers(capsys: Output) -> None:
    assert run("gbcs", "mutate", "--list") == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert len(lines) == len(MUTATIONS)
    for line, (name, mutation) in zip(lines, MUTATIONS.items(), strict=True):
        assert line.split() == [name, *mutation.answer.split()]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("gbcs", "mutate"), "gbcs mutate --list"),
        (("gbcs", "mutate", "replay"), "gbcs mutate --list"),
        (("gbcs", "mutate", "replay", "/nonexistent"), "No such file"),
        (("gbcs", "mutate", "replay", "/dev/null"), "expected DD, DF"),
        (("gbcs", "mutate", "no-such", "{file}"), "expected one of wrong-mac"),
        (("gbcs", "mutate", "counter-lower", "{file}"), "no key 90b3d51f30010000-ds"),
        (("gbcs", "mutate", "replay", "{folder}"), "expected one message, found 2"),
        (("gbcs", "verify", "/nonexistent"), "No such file"),
        (("gbcs", "verify", "--keys", "/nonexistent", "{file}"), "No such file"),
    ],
)
def test_wrong_input_is_exit_code_2_and_one_line(
    arguments: tuple[str, ...], says: str, folder: Path, capsys: Output
) -> None:
    file = str(folder / "a.bin")
    assert run(*(text.format(file=file, folder=folder) for text in arguments)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert err.count("\n") == 1


def test_keys_with_a_term_are_made(tmp_path: Path, capsys: Output) -> None:
    folder = str(tmp_path / "term")
    assert run("keys", "create", folder, "--seed", "1", "--days", "3") == 0
    capsys.readouterr()
    assert run("keys", "show", "--json", folder) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows[f"{BROKER.hex}-ka"]["not_after"] == "2020-01-04T00:00:00Z"
    assert run("keys", "create", str(tmp_path / "none"), "--days", "0") == 2


@needs_vectors
def test_reference_set_is_verified_and_only_what_lacks_a_key_fails_strictly(
    capsys: Output,
) -> None:
    keys, messages = str(VECTORS / "rtds-keys"), str(VECTORS / "rtds")
    assert run("gbcs", "verify", "--keys", keys, messages) == 0
    capsys.readouterr()
    assert run("gbcs", "verify", "--json", "--strict", "--keys", keys, messages) == 1
    failures = json.loads(capsys.readouterr().out)["failures"]
    assert [Path(failure["file"]).name for failure in failures] == [
        "PCS01_NA_SUCCESS_COMMAND_GBCS.HEX",
        "PCS01_NA_SUCCESS_RESPONSE_GBCS.HEX",
    ]
    assert run("gbcs", "verify", "--keys", keys, "--check-validity", messages) == 1
