"""``dcc send`` and ``dcc request``, the commands of a service user; ``cli`` has their arguments."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

# What all commands share stands with them.
from firmware_node.cli import (
    _about,
    _call,
    _hub_socket,
    _keyring,
    _maybe_keyring,
    _replace,
    _unwritable,
    _write,
)
from firmware_node.config import read_image
from firmware_node.errors import ConfigError, EnvironmentFailure, FirmwareNodeError
from firmware_node.terms import EntityId, Role
from firmware_node.tools import duis, render
from firmware_node.wire.ota_file import decode_ota_header

# Options of ``dcc request`` that only some requests have, by the name of their argument.
_OPTIONS = {"image": "--image", "hash": "--hash", "from_file": "--from", "at": "--at"}
_ALLOWED = {
    duis.UPDATE_FIRMWARE: {"image"},
    duis.READ_FIRMWARE_VERSION: set(),
    duis.ACTIVATE_FIRMWARE: {"hash", "from_file", "at"},
    duis.UPDATE_PPMID_FIRMWARE: {"image"},
}


def send(args: argparse.Namespace) -> int:
    """``dcc send``; the exit code."""
    if args.timeout is not None and (not args.wait or args.timeout < 1):
        raise ConfigError("--timeout SECONDS: expected 1 or more, together with --wait")
    body, keyring = read_image(args.file), _maybe_keyring(args.keys)
    answer: dict[str, Any] = {"warnings": [], "deliveries": [], "messages": [], "responses": []}
    _send(args, body, answer, stop=args.pre_command_only or keyring is not None)
    if keyring is not None and "pre_command" in answer and not args.pre_command_only:
        # As the User: look whether it is what was asked for, sign it, send it.
        asked = duis.parse_request(body)
        pre_command = bytes.fromhex(answer["pre_command"])
        signed = duis.sign_pre_command(asked, pre_command, keyring)
        _send(args, duis.build_signed_pre_command_request(asked, signed, keyring), answer)
    if args.json:
        ordered = ("result", "request_id", "response_code", "request_signature")
        print(json.dumps({name: answer[name] for name in ordered} | answer))
    else:
        if args.pre_command_only and "pre_command" in answer:
            print(answer["pre_command"])
        if "local_command" in answer:
            print(answer["local_command"])
        print(f"result: {answer['result']}")
    return 1 if answer["result"] == "failed" else 0


def _send(
    args: argparse.Namespace, body: bytes, answer: dict[str, Any], *, stop: bool = False
) -> None:
    """Let the hub carry it out; what it says is added to ``answer`` and shown as it comes."""
    query = {"wait": "1"} if args.wait else {}
    if args.timeout is not None:
        query["limit_s"] = str(args.timeout)
    if stop:
        query["stop"] = "pre-command"
    if args.to is not None:
        query["to"] = args.to
    socket, ended = _hub_socket(args), False
    display = render.Display(sys.stderr)
    try:
        for document in _call(
            socket, "POST", f"/v1/requests?{urlencode(query)}", body, timeout_s=None
        ):
            if "progress" in document:
                if sys.stderr.isatty() or not args.json:
                    progress = document["progress"]
                    display.progress(progress["entity_id"][-8:], progress)
                continue
            display.end()  # a bar, where stdout and stderr are one terminal
            _merge(answer, document)
            ended = "result" in document
            if "response" in document and args.xml is not None:
                _write_answer(args.xml, len(answer["responses"]), document["response"])
            if not args.json:
                render.request_progress(document)
    except (ConfigError, EnvironmentFailure):
        raise
    except FirmwareNodeError as error:  # the hub read the file and found it wrong
        raise ConfigError(f"{args.file}: {error}") from error
    finally:
        display.end()
    if not ended:
        raise EnvironmentFailure(f"{socket}: the hub ended before it answered")


def _merge(answer: dict[str, Any], document: dict[str, Any]) -> None:
    """The first head tells of the user's own file; the last code and the last result count."""
    if "delivery" in document:
        new = document["delivery"]
        others = [old for old in answer["deliveries"] if old["entity_id"] != new["entity_id"]]
        answer["deliveries"] = [*others, new]
    elif "message" in document:
        answer["messages"].append(document["message"])
    elif "response" in document:
        response = document["response"]
        answer["responses"].append({name: response[name] for name in ("name", "code", "xml")})
        if response["name"].startswith(("acknowledgement", "response")):
            answer["response_code"] = response["code"]
    elif "request_signature" in document:
        answer["warnings"] += document["warnings"]
        answer |= {name: value for name, value in document.items() if name not in answer}
    else:
        answer |= document


def _write_answer(directory: Path, number: int, response: dict[str, str]) -> None:
    """One document of the DCC as a file; the numbers give their order."""
    name = response["name"].replace(" ", "-")
    path = directory / f"{number:02d}-{name}.xml"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _replace(path, response["xml"].encode())
    except OSError as error:
        raise _unwritable(path, error) from error


def request(args: argparse.Namespace) -> int:
    """``dcc request``; the exit code."""
    import time

    service, keyring = args.service, _keyring(args.keys)
    user = EntityId.parse(args.user)
    devices = [EntityId.parse(text) for text in args.devices.split(",")]
    counter = int(time.time() * 1000) if args.counter is None else args.counter
    for name, option in _OPTIONS.items():
        if getattr(args, name) is not None and name not in _ALLOWED[service]:
            raise ConfigError(f"{option} has no place in SR {service}")
    if service in (duis.UPDATE_FIRMWARE, duis.UPDATE_PPMID_FIRMWARE):
        xml = _update(args, user, devices, counter, keyring)
    elif len(devices) != 1:
        raise ConfigError(f"{service} takes one device")
    elif service == duis.READ_FIRMWARE_VERSION:
        xml = duis.build_read_version_request(user, devices[0], counter, keyring)
    else:
        cancels = args.at == "cancel"
        xml = duis.build_activate_request(
            user,
            devices[0],
            counter,
            keyring,
            manufacturer_image_hash=_activation_hash(args),
            executes_at=None if cancels or args.at is None else _utc(args.at),
            cancels=cancels,
        )
    return _write(args, xml)


def _update(
    args: argparse.Namespace,
    user: EntityId,
    devices: Sequence[EntityId],
    counter: int,
    keyring: Any,
) -> bytes:
    if args.image is None:
        raise ConfigError(f"{args.service} needs --image FILE")
    brokers = keyring.find(Role.ACCESS_CONTROL_BROKER)
    if not brokers:
        raise ConfigError(f"{args.keys}: no access control broker in it")
    image = read_image(args.image)
    with _about(args.image):
        version = decode_ota_header(image).image.version_hex.upper()
    return duis.build_update_request(
        args.service,
        user,
        brokers[0],
        counter,
        keyring,
        image=image,
        firmware_version=version,
        devices=devices,
    )


def _activation_hash(args: argparse.Namespace) -> bytes:
    """From ``--hash``, or that of the manufacturer image in ``--from``."""
    from firmware_node.tools import image

    if (args.hash is None) == (args.from_file is None):
        raise ConfigError("11.3 needs one of --hash H and --from FILE")
    if args.hash is None:
        data = read_image(args.from_file)
        with _about(args.from_file):
            shape: Any = image.inspect(data)
        return bytes.fromhex(shape["manufacturer_image"]["sha256"])
    try:
        digest = bytes.fromhex(args.hash)
    except ValueError:
        digest = b""
    if len(digest) != 32:
        raise ConfigError(f"--hash: found {args.hash!r}, expected 64 hexadecimal digits")
    return digest


def _utc(text: str) -> int:
    """Seconds since 2000-01-01T00:00:00Z; a moment without a zone is in UTC."""
    from datetime import UTC, datetime

    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"--at: found {text!r}, expected RFC 3339, or cancel") from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int((moment - datetime(2000, 1, 1, tzinfo=UTC)).total_seconds())
