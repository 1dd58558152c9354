"""Notifications of a running daemon: none is lost by a kill, and none has a key in it."""

from __future__ import annotations

import base64
import json
import signal
import time
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from test_daemons import LIMIT_S, Running, folder, node

__all__ = ["folder"]  # a fixture


def secrets_of(keys: Path) -> list[bytes]:
    """Every private scalar in the forms in which it might leave."""
    found: list[bytes] = []
    for path in keys.glob("*.key"):
        key = load_pem_private_key(path.read_bytes(), None)
        assert isinstance(key, EllipticCurvePrivateKey)
        scalar = key.private_numbers().private_value.to_bytes(32, "big")
        base = base64.b64encode(scalar).rstrip(b"=")
        found += [scalar, scalar.hex().encode(), scalar.hex().upper().encode(), base]
    return found


def test_what_was_told_before_a_kill_reaches_the_file_afterwards_in_order_and_without_keys(
    folder: Path,
) -> None:
    config, control = folder / "ppmid.toml", ("--socket", f"{folder}/control.sock")
    told = folder / "later" / "told.jsonl"  # the folder is not there yet
    config.write_text(config.read_text() + f'[notify.log]\ntype = "file"\npath = "{told}"\n')
    image = f"{folder}/2.ota"
    keys = ("--keys", f"{folder}/keys")
    assert node("image", "build", "--file-version", "2", "-o", image, *keys).returncode == 0
    with Running(folder, "run", "ppmid") as device:
        assert node("image", "load", image, "--activate", *control).returncode == 0
        end = time.monotonic() + LIMIT_S
        state = ""
        while state != "confirmed" and time.monotonic() < end:
            answer = node("status", "--json", *control)
            if answer.returncode == 0:
                status = json.loads(answer.stdout)
                state = status["banks"]["B"]["state"]
        assert state == "confirmed"
        assert status["notify"]["log"]["waiting"] > 0
        device.process.kill()
        device.process.wait()
    (folder / "run-notify.sock").unlink()
    told.parent.mkdir()
    with Running(folder, "run", "ppmid") as device:
        while not told.exists() or "image_confirmed" not in told.read_text():
            assert time.monotonic() < end + LIMIT_S
        assert device.stop(signal.SIGTERM) == 0
    documents = [json.loads(line) for line in told.read_text().splitlines()]
    numbers = [document["n"] for document in documents]
    assert numbers == sorted(numbers)
    names = list(dict.fromkeys(document["name"] for document in documents))
    wanted = ["provisioned", "image_loaded", "image_activated", "restarting", "image_confirmed"]
    assert [name for name in names if name in wanted] == wanted
    kept = told.read_bytes() + (folder / "state" / "notifications.db").read_bytes()
    assert not [secret for secret in secrets_of(folder / "keys") if secret in kept]
