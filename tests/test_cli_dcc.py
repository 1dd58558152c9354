"""``dcc request``: what is written for which options, and which options have no place."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from firmware_node.cli import main
from firmware_node.crypto import Keyring
from firmware_node.terms import ImageFormat, ImageKey
from firmware_node.tools import duis
from firmware_node.tools.image import build_image
from firmware_node.tools.keys import build_keys
from firmware_node.wire.manufacturer_image import Manifest
from firmware_node.wire.ota_file import decode_ota_file

FILES = build_keys(b"cli dcc")
KEYS = Keyring(FILES)
HCALCS = "00-DB-12-34-56-78-90-A5"
PPMID = "00-DB-12-34-56-78-90-A4"
SUPPLIER = "90-B3-D5-1F-30-01-00-00"
HASH = "ab" * 32
Output = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys and one image of each kind."""
    root = tmp_path_factory.mktemp("dcc")
    (root / "keys").mkdir()
    for name, data in FILES.items():
        (root / "keys" / name).write_bytes(data)
    manifest = Manifest(ImageKey(0x121D, 0x84, 2), 0, 0xFFFF)
    (root / "plain.ota").write_bytes(build_image(manifest, size=2000))
    supplier = KEYS.signing_key(duis.parse_request_id(f"{SUPPLIER}:{SUPPLIER}:0")[0])
    kind = ImageFormat.GB_SUPPLIER_SIGNED
    signed = build_image(manifest, size=2000, kind=kind, supplier_key=supplier)
    (root / "signed.ota").write_bytes(signed)
    return root


def run(folder: Path, *arguments: str) -> int:
    keys = ("--keys", str(folder / "keys"), "-o", str(folder / "out.xml"))
    try:
        return main(["dcc", "request", *arguments, *keys])
    except SystemExit as exit_:
        return int(exit_.code or 0)


def made(folder: Path, *arguments: str) -> duis.ServiceRequest:
    assert run(folder, *arguments) == 0
    data = (folder / "out.xml").read_bytes()
    assert duis.signature_state(data, KEYS) == "valid"
    return duis.parse_request(data)


@pytest.mark.parametrize(("service", "image"), [("11.1", "signed.ota"), ("11.4", "plain.ota")])
def test_an_update_carries_its_image_to_its_devices(folder: Path, service: str, image: str) -> None:
    path = folder / image
    devices = f"{PPMID},{HCALCS}"
    request = made(folder, service, "--image", str(path), "--devices", devices, "--counter", "7")
    assert (request.service_reference, request.image) == (service, path.read_bytes())
    assert (request.firmware_version, request.counter) == ("00000002", 7)
    assert [str(device) for device in request.devices] == [PPMID, HCALCS]
    assert str(request.target) == "90-B3-D5-1F-30-00-00-02"


def test_an_activation_is_immediate_dated_or_cancelling(folder: Path) -> None:
    wanted = ("11.3", "--devices", HCALCS, "--hash", HASH)
    now = made(folder, *wanted)
    later = made(folder, *wanted, "--at", "2030-01-15T09:00:00Z")
    local = made(folder, *wanted, "--at", "2030-01-15T10:30:00+01:30")
    bare = made(folder, *wanted, "--at", "2030-01-15T09:00:00")
    never = made(folder, *wanted, "--at", "cancel")
    assert now.hash == bytes.fromhex(HASH)
    assert (now.executes_at, now.cancels) == (None, False)
    assert {later.executes_at, local.executes_at, bare.executes_at} == {948013200}
    assert (never.executes_at, never.cancels) == (None, True)
    assert {r.command_variant for r in (now, later, never)} == {4}


def test_the_hash_is_taken_from_an_image_or_from_the_request_that_carried_it(folder: Path) -> None:
    path = folder / "signed.ota"
    data = path.read_bytes()
    span = decode_ota_file(data, ImageFormat.GB_SUPPLIER_SIGNED).manufacturer_image
    expected = hashlib.sha256(data[span.offset : span.end]).digest()
    wanted = ("11.3", "--devices", HCALCS, "--from")
    assert made(folder, *wanted, str(path)).hash == expected
    assert run(folder, "11.1", "--image", str(path), "--devices", HCALCS) == 0
    carrier = folder / "carrier.xml"
    carrier.write_bytes((folder / "out.xml").read_bytes())
    assert made(folder, *wanted, str(carrier)).hash == expected


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("11.1", "--devices", HCALCS), "11.1 needs --image FILE"),
        (("11.3", "--devices", HCALCS), "one of --hash H and --from FILE"),
        (("11.3", "--devices", HCALCS, "--hash", HASH, "--from", "x"), "one of --hash"),
        (("11.3", "--devices", HCALCS, "--hash", "abcd"), "expected 64 hexadecimal digits"),
        (("11.3", "--devices", HCALCS, "--hash", "x" * 64), "expected 64 hexadecimal digits"),
        (("11.3", "--devices", HCALCS, "--from", "/nonexistent"), "No such file"),
        (("11.3", "--devices", f"{HCALCS},{PPMID}", "--hash", HASH), "takes one device"),
        (("11.2", "--devices", f"{HCALCS},{PPMID}"), "takes one device"),
        (("11.3", "--devices", HCALCS, "--hash", HASH, "--at", "soon"), "expected RFC 3339"),
        (("11.3", "--devices", HCALCS, "--hash", HASH, "--image", "x"), "--image has no place"),
        (("11.2", "--devices", HCALCS, "--at", "cancel"), "--at has no place in SR 11.2"),
        (("11.4", "--devices", HCALCS, "--from", "x"), "--from has no place in SR 11.4"),
        (
            ("11.3", "--devices", HCALCS, "--hash", HASH, "--counter", str(2**63)),
            "has room for 9223372036854775807",
        ),
        (("11.5", "--devices", HCALCS), "invalid choice"),
    ],
)
def test_options_that_do_not_fit_are_one_line_and_exit_code_2(
    folder: Path, arguments: tuple[str, ...], says: str, capsys: Output
) -> None:
    (folder / "out.xml").unlink(missing_ok=True)
    assert run(folder, *arguments) == 2
    errors = capsys.readouterr().err
    assert says in errors
    assert errors.count("\n") == 1
    assert not (folder / "out.xml").exists()
