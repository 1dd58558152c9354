"""The real thing: hub and daemon as processes, through the command line."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from vectors import VECTORS, needs_vectors

PPMID = "00-DB-12-34-56-78-90-A4"


def node(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "firmware_node", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=cwd,
    )


@pytest.fixture
def han() -> Iterator[Path]:
    """A hub and a PPMID running in a short-named folder."""
    with tempfile.TemporaryDirectory(prefix="fn-") as name:
        root = Path(name)
        assert node("keys", "create", "keys", "--seed", "1", cwd=root).returncode == 0
        (root / "ppmid.toml").write_text(
            f"""
            [device]
            type = "ppmid"
            entity_id = "{PPMID}"
            manufacturer_code = 0x121D
            image_type = 0x0084
            hardware_version = 0x1111
            [storage]
            directory = "{root}/state"
            [keys]
            directory = "{root}/keys"
            [radio]
            air = "{root}/air.sock"
            [control]
            socket = "{root}/control.sock"
            [ota]
            activate_delay_ms = 100
            [activation]
            confirm_after_s = 0
            """
        )
        (root / "hub.toml").write_text(
            f"""
            [hub]
            entity_id = "00-DB-12-34-56-78-90-A2"
            [dcc]
            socket = "{root}/hub.sock"
            [keys]
            directory = "{root}/keys"
            [radio]
            air = "{root}/air.sock"
            """
        )
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "firmware_node", verb, f"{root}/{name}.toml"],
                stderr=subprocess.DEVNULL,
            )
            for verb, name in (("hub", "hub"), ("run", "ppmid"))
        ]
        try:
            status(root)
            yield root
        finally:
            for process in processes:
                process.send_signal(signal.SIGTERM)
            codes = [process.wait(20) for process in processes]
        assert codes == [0, 0]


def status(root: Path) -> dict[str, object]:
    limit = time.monotonic() + 20
    while True:
        done = node("status", "--json", "--socket", f"{root}/control.sock")
        if done.returncode == 0:
            found: dict[str, object] = json.loads(done.stdout)
            return found
        assert time.monotonic() < limit, done.stderr
        assert done.returncode == 3


def test_the_demo_does_the_main_job() -> None:
    done = node("demo", "--json", "--size", "20000")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["result"] == "ok"
    for device in report["devices"]:
        assert (device["from_version"], device["to_version"]) == ("00000001", "00000002")
        assert (device["state"], device["running_bank"]) == ("confirmed", "B")
    ppmid, hcalcs = report["devices"]
    assert (ppmid["type"], ppmid["file_bytes"], ppmid["blocks"]) == ("ppmid", 20060, 402)
    assert [m["use_case"] for m in ppmid["messages"]] == ["CCS08", "CS09", "CS08"]
    assert (hcalcs["type"], hcalcs["file_bytes"], hcalcs["blocks"]) == ("hcalcs", 20126, 403)
    codes = {m["message_code"] for m in hcalcs["messages"]}
    assert codes == {"0128", "00CF", "0012", "0129"}


@pytest.mark.parametrize("kind", ["ppmid", "hcalcs"])
def test_the_demo_of_one_device_is_about_that_alone(kind: str) -> None:
    done = node("demo", "--json", "--size", "5000", "--device", kind)
    assert done.returncode == 0, done.stderr
    assert [device["type"] for device in json.loads(done.stdout)["devices"]] == [kind]


@needs_vectors
def test_the_reference_sr_11_4_is_carried_out(han: Path) -> None:
    before = status(han)
    request = VECTORS / "duis" / "11.4_UPDATE_PPMID_FIRMWARE_REQUEST_DUIS.XML"
    done = node("dcc", "send", str(request), "--hub", f"{han}/hub.sock", "--wait", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["result"] == "ok"
    assert result["request_signature"] == "placeholder"
    assert result["warnings"][0] == "request signature: placeholder"
    assert any("00000000" in warning for warning in result["warnings"])
    told = [(m["use_case"], m["signature"]) for m in result["messages"]]
    assert told == [("CCS08", "valid"), ("CS09", "valid")]
    after = status(han)
    assert after["pid"] == before["pid"]  # re-executed in place
    assert after["running_bank"] == "B"
    banks = after["banks"]
    assert isinstance(banks, dict)
    assert (banks["B"]["state"], banks["B"]["version"]) == ("confirmed", "acdcacdc")


def test_a_person_sees_progress_and_what_the_messages_mean(han: Path) -> None:
    image, request = f"{han}/two.ota", f"{han}/update.xml"
    keys = ("--keys", f"{han}/keys")
    build = ("image", "build", "--file-version", "2", "--size", "1000000", *keys, "-o", image)
    assert node(*build).returncode == 0
    wanted = ("--image", image, "--devices", PPMID, *keys, "-o", request)
    assert node("dcc", "request", "11.4", *wanted).returncode == 0
    done = node("dcc", "send", request, "--hub", f"{han}/hub.sock", "--wait")
    assert done.returncode == 0, done.stderr
    shown = done.stdout.splitlines()
    assert "  CCS08 alert 8F8A: the file was transferred; signature valid, MAC absent" in shown
    assert "  CS09 alert 8F8B: the new version is activated; signature valid, MAC absent" in shown
    assert shown[-1] == "result: ok"
    assert re.search(r"^  78-90-A4 +\[#.*\] +\d+% +\d+ blocks/s +\d.* left$", done.stderr, re.M)
    assert max(map(len, shown + done.stderr.splitlines())) < 80


def test_a_factory_reset_goes_back_to_the_first_image(han: Path) -> None:
    built = han / "two.ota"
    args = ("--file-version", "2", "--keys", f"{han}/keys", "-o", str(built))
    assert node("image", "build", *args).returncode == 0
    loaded = node("image", "load", str(built), "--activate", "--socket", f"{han}/control.sock")
    assert loaded.returncode == 0, loaded.stderr + loaded.stdout
    limit = time.monotonic() + 20
    while status(han)["state"] != "confirmed":
        assert time.monotonic() < limit
    assert node("factory-reset", "--socket", f"{han}/control.sock").returncode == 0
    while status(han)["running_bank"] != "A":
        assert time.monotonic() < limit
    banks = status(han)["banks"]
    assert isinstance(banks, dict)
    assert (banks["A"]["version"], banks["B"]["state"]) == ("00000001", "empty")


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "/nonexistent.toml"),
        ("hub", "/nonexistent.toml"),
        ("image", "inspect", "/etc/hostname"),
        ("dcc", "request", "11.4", "--devices", "xx", "--keys", "/nonexistent"),
        ("keys", "show", "/nonexistent"),
        ("demo", "--size", "1"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(arguments: tuple[str, ...]) -> None:
    done = node(*arguments)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_a_daemon_that_is_not_there_is_exit_code_3() -> None:
    done = node("status", "--socket", "/nonexistent/control.sock")
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
