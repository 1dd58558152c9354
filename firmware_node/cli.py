"""Arguments, exit codes, one-line errors. Every command imports what it needs when it runs.

Exit codes (contract): 0 yes, 1 no, 2 wrong input, 3 the environment, 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from firmware_node import __version__
from firmware_node.errors import (
    ConfigError,
    DecodeError,
    EnvironmentFailure,
    FirmwareNodeError,
    KeyMissingError,
    StorageError,
)

Command = Callable[[argparse.Namespace], int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    args = _parser().parse_args(arguments)
    from firmware_node.adapters.log_lines import configure_logging  # not before --help

    levels = (logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG)
    level = levels[0 if args.quiet else min(args.verbose, 2) + 1]
    run: Command = args.run
    try:
        configure_logging(level, args.log_format)
        code = run(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the reader of our output went away
        return 0
    except (ConfigError, DecodeError, KeyMissingError) as error:
        return _complain(error, 2)
    except (EnvironmentFailure, StorageError) as error:
        return _complain(error, 3)
    except FirmwareNodeError as error:
        return _complain(error, 1)
    return code


def _complain(error: Exception, code: int) -> int:
    from firmware_node.adapters.log_lines import priority, stderr_is_the_journal

    text = " ".join(str(error).split())
    prefix = f"<{priority(logging.ERROR)}>" if stderr_is_the_journal() else ""
    print(f"{prefix}firmware-node: {text}", file=sys.stderr)
    return code


class _Parser(argparse.ArgumentParser):
    """A wrong argument is one line, as every other error."""

    def error(self, message: str) -> NoReturn:
        """See ``argparse``."""
        self.exit(2, f"{self.prog}: {message} (--help tells more)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="firmware-node", description="Emulated PPMID devices that take firmware over the air"
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("-v", "--verbose", action="count", default=0, help="log more")
    parser.add_argument("-q", "--quiet", action="store_true", help="log errors only")
    parser.add_argument("--log-format", **_LOG_FORMAT, default=None)
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")

    demo = _verb(verbs, "demo", _demo, "a whole HAN on this machine: update a device")
    demo.add_argument("--device", choices=["ppmid", "hcalcs", "all"], default="ppmid")
    demo.add_argument("--size", type=int, default=65536, help="bytes of the manufacturer image")
    demo.add_argument("--keep", metavar="DIR", help="leave everything in DIR")
    demo.add_argument("--seed", type=int, default=0)
    demo.add_argument("--json", action="store_true")

    run = _verb(verbs, "run", _run, "the device daemon")
    run.add_argument("config", type=Path)
    run.add_argument(
        "--allow-memory-gpio",
        action="store_true",
        help="where no GPIO can be had, drive no pin, also on a Raspberry Pi",
    )
    run.add_argument("--log-format", **_LOG_FORMAT, default=argparse.SUPPRESS)
    hub = _verb(verbs, "hub", _hub, "the Comms Hub emulator: CONFIG.toml, or 'clock set TIME'")
    hub.add_argument("config", help="configuration file, or the word clock")
    hub.add_argument("rest", nargs="*", help="set TIME, after clock")
    hub.add_argument("--hub", metavar="SOCKET", type=Path)
    hub.add_argument("--json", action="store_true", help="after clock")
    hub.add_argument("--log-format", **_LOG_FORMAT, default=argparse.SUPPRESS)

    _dcc_verbs(verbs)
    _image_verbs(verbs)
    _key_verbs(verbs)

    for name, text in (
        ("status", "what a daemon does"),
        ("banks", "what its banks hold"),
        ("events", "what it told"),
        ("query", "ask the OTA server for an image now"),
        ("reboot", "restart the emulated device"),
        ("factory-reset", "back to the factory image"),
    ):
        verb = _verb(verbs, name, _control, text)
        verb.set_defaults(what=name)
        verb.add_argument("--socket", metavar="PATH", type=Path)
        verb.add_argument("--json", action="store_true")
        if name == "events":
            verb.add_argument("--follow", action="store_true")
            verb.add_argument(
                "--log", choices=["security", "event"], help="the device's own log instead"
            )
        if name == "query":
            verb.add_argument(
                "--file-version",
                metavar="HEX",
                type=_hex_version,
                help="that version by name (Query Specific File)",
            )

    config = _group(verbs, "config", "check a configuration, or tell what one may hold")
    check = _verb(config, "check", _config_check, "read a device's or hub's configuration")
    check.add_argument("file", type=Path)
    schema = _verb(config, "schema", _config_schema, "the JSON Schema of a configuration")
    schema.add_argument("what", choices=["run", "hub"], nargs="?", default="run")
    return parser


_LOG_FORMAT: dict[str, Any] = {
    "choices": ["text", "json", "journal"],
    "help": "of log lines; default: text, with <0> to <7> before it where the journal reads",
}


def _verb(verbs: Any, name: str, run: Command, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text)
    parser.set_defaults(run=run)
    return parser


def _group(verbs: Any, name: str, text: str) -> Any:
    parser = verbs.add_parser(name, help=text, description=text)
    return parser.add_subparsers(required=True, metavar="COMMAND")


def _dcc_verbs(verbs: Any) -> None:
    dcc = _group(verbs, "dcc", "the service user's side")
    send = _verb(dcc, "send", _dcc_send, "carry out a DUIS request, or carry a GBCS message")
    send.add_argument("file")
    send.add_argument("--hub", metavar="SOCKET", type=Path)
    send.add_argument("--wait", action="store_true", help="until every device has answered")
    send.add_argument("--timeout", type=int, metavar="SECONDS", help="with --wait: no longer than")
    send.add_argument("--pre-command-only", action="store_true")
    send.add_argument("--json", action="store_true")
    request = _verb(dcc, "request", _dcc_request, "write a signed service request")
    request.add_argument("service", choices=["11.2", "11.4"])
    request.add_argument("--image", metavar="FILE")
    request.add_argument("--devices", metavar="IDS", required=True, help="comma-separated")
    request.add_argument("--keys", metavar="DIR", required=True)
    request.add_argument("--user", default="90-B3-D5-1F-30-01-00-00")
    request.add_argument("--counter", type=int, help="default: the clock, in milliseconds")
    request.add_argument("-o", "--output", metavar="FILE", default="-")


def _image_verbs(verbs: Any) -> None:
    image = _group(verbs, "image", "make and examine firmware images")
    build = _verb(image, "build", _image_build, "an image whose manifest says how it behaves")
    build.add_argument("-o", "--output", metavar="FILE", required=True)
    build.add_argument("--keys", metavar="DIR", help="sign with the manufacturer's key")
    build.add_argument("--kind", choices=_KINDS, default="gb-plain")
    build.add_argument("--supplier", help="entity id; for gb-supplier-signed")
    build.add_argument("--manufacturer-code", type=_number, default=0x121D)
    build.add_argument("--image-type", type=_number, default=0x0084)
    build.add_argument("--file-version", type=_hex_version, required=True, help="8 hex digits")
    build.add_argument("--hardware-min", type=_number, default=0x0000)
    build.add_argument("--hardware-max", type=_number, default=0xFFFF)
    build.add_argument("--size", type=int, default=65536, help="bytes of the manufacturer image")
    build.add_argument("--header-string", default="firmware_node")
    build.add_argument("--version-string", default="")
    build.add_argument("--date-code", default="")
    build.add_argument("--bad-self-test", action="store_true")
    build.add_argument("--startup-ms", type=int, default=0)
    build.add_argument("--crash-after-ms", type=int)
    build.add_argument("--never-confirms", action="store_true")
    build.add_argument("--faulty-switch", action="store_true")
    build.add_argument("--seed", type=int, default=0)
    sign = _verb(image, "sign", _image_sign, "sign an image again")
    sign.add_argument("file")
    sign.add_argument("--keys", metavar="DIR", required=True)
    sign.add_argument("--supplier", help="entity id: add or renew the supplier's signature")
    sign.add_argument("-o", "--output", metavar="FILE", required=True)
    inspect = _verb(image, "inspect", _image_inspect, "what an OTA file or a DUIS request carries")
    verify = _verb(image, "verify", _image_verify, "whether everything in it holds")
    for verb in (inspect, verify):
        verb.add_argument("file")
        verb.add_argument("--kind", choices=_KINDS)
        verb.add_argument("--keys", metavar="DIR")
        verb.add_argument("--json", action="store_true")
    mutate = _verb(image, "mutate", _image_mutate, "a named bad image")
    mutate.add_argument("file")
    mutate.add_argument("mutation")
    mutate.add_argument("-o", "--output", metavar="FILE", required=True)
    library = _verb(image, "library", _image_library, "one image of each behaviour, with keys")
    library.add_argument("directory", type=Path)
    library.add_argument("--keys", metavar="DIR", help="default: new ones from the seed, beside")
    library.add_argument("--seed", type=int, default=0)
    library.add_argument("--size", type=int, default=65536, help="bytes of a manufacturer image")
    load = _verb(image, "load", _image_load, "flash an image into a running daemon's spare bank")
    load.add_argument("file")
    load.add_argument("--activate", action="store_true")
    load.add_argument("--socket", metavar="PATH", type=Path)
    load.add_argument("--json", action="store_true")


def _key_verbs(verbs: Any) -> None:
    keys = _group(verbs, "keys", "a test PKI for one HAN")
    create = _verb(keys, "create", _keys_create, "make every key and certificate")
    create.add_argument("directory", type=Path)
    create.add_argument("--seed", help="the same keys every time")
    create.add_argument("--device", action="append", help="a further device's entity id")
    show = _verb(keys, "show", _keys_show, "what a key folder holds")
    show.add_argument("directory")
    show.add_argument("--json", action="store_true")
    gbcs = _group(verbs, "gbcs", "read GBCS messages")
    decode = _verb(gbcs, "decode", _gbcs_decode, "decode and verify")
    decode.add_argument("paths", nargs="+", metavar="PATH")
    decode.add_argument("--keys", metavar="DIR")
    decode.add_argument("--json", action="store_true")


_KINDS = ["gb-supplier-signed", "gb-plain", "zigbee"]


def _number(text: str) -> int:
    with contextlib.suppress(ValueError):
        if 0 <= int(text, 0) <= 0xFFFF:
            return int(text, 0)
    raise argparse.ArgumentTypeError(f"found {text!r}, expected 0 to 0xFFFF")


def _hex_version(text: str) -> int:
    with contextlib.suppress(ValueError):
        if 0 <= int(text, 16) <= 0xFFFFFFFF:
            return int(text, 16)
    raise argparse.ArgumentTypeError(f"found {text!r}, expected at most 8 hexadecimal digits")


# --- daemons --------------------------------------------------------------------------------------


def _run(args: argparse.Namespace) -> int:
    from dataclasses import replace

    from firmware_node.adapters.daemon import load_factory_image, run_device
    from firmware_node.adapters.service import Reload
    from firmware_node.config import DeviceConfig, read_device_config, read_key_folder
    from firmware_node.crypto import Keyring

    def read() -> DeviceConfig:
        config = read_device_config(args.config)
        allow = config.gpio.allow_memory or args.allow_memory_gpio
        return replace(config, gpio=replace(config.gpio, allow_memory=allow))

    config = read()
    reload = Reload(config, read)
    keyring = Keyring(read_key_folder(config.keys.directory))
    return run_device(config, load_factory_image(config, keyring), keyring, reload)


def _hub(args: argparse.Namespace) -> int:
    if args.config == "clock":
        if len(args.rest) != 2 or args.rest[0] != "set":
            raise ConfigError("usage: firmware-node hub clock set TIME [--hub SOCKET]")
        return _hub_clock(args, args.rest[1])
    from firmware_node.adapters.hub_daemon import run_hub
    from firmware_node.adapters.service import Reload
    from firmware_node.config import read_hub_config

    if args.rest:
        raise ConfigError("usage: firmware-node hub CONFIG.toml")
    path = Path(args.config)
    config = read_hub_config(path)
    return run_hub(config, Reload(config, lambda: read_hub_config(path)))


def _hub_clock(args: argparse.Namespace, text: str) -> int:
    from datetime import datetime

    try:
        datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"TIME: found {text!r}, expected RFC 3339") from error
    for document in _call(_hub_socket(args), "PUT", "/v1/clock", text.encode()):
        print(json.dumps(document) if args.json else document["utc"])
    return 0


def _demo(args: argparse.Namespace) -> int:
    from firmware_node.demo import run_demo

    return run_demo(args.device, args.size, args.keep, args.seed, args.json)


def _config_check(args: argparse.Namespace) -> int:
    from firmware_node.config import read_config

    read_config(args.file)
    print(f"{args.file}: in order")
    return 0


def _config_schema(args: argparse.Namespace) -> int:
    from firmware_node.config import DeviceConfig, HubConfig, schema

    print(json.dumps(schema(HubConfig if args.what == "hub" else DeviceConfig), indent=2))
    return 0


# --- service user ---------------------------------------------------------------------------------


def _dcc_send(args: argparse.Namespace) -> int:
    from firmware_node.config import read_image
    from firmware_node.tools import render

    if args.pre_command_only:
        raise ConfigError("--pre-command-only belongs to SR 11.3, which is not carried out yet")
    body = read_image(args.file)
    wait = "?wait=1" if args.wait else ""
    if args.timeout is not None:
        if not args.wait or args.timeout < 1:
            raise ConfigError("--timeout SECONDS: expected 1 or more, together with --wait")
        wait += f"&limit_s={args.timeout}"
    result: dict[str, Any] = {"deliveries": [], "messages": []}
    try:
        for document in _call(
            _hub_socket(args), "POST", f"/v1/requests{wait}", body, timeout_s=None
        ):
            if "delivery" in document:
                _merge_delivery(result["deliveries"], document["delivery"])
            elif "message" in document:
                result["messages"].append(document["message"])
            else:
                result |= document
            if not args.json:
                render.request_progress(document)
    except (ConfigError, EnvironmentFailure):
        raise
    except FirmwareNodeError as error:  # the hub read the file and found it wrong
        raise ConfigError(f"{args.file}: {error}") from error
    if "request_id" not in result:
        raise EnvironmentFailure(f"{_hub_socket(args)}: the hub ended before it answered")
    result["result"] = _send_result(result, args.wait)
    if args.json:
        ordered = ("result", "request_id", "response_code", "request_signature", "warnings")
        print(json.dumps({name: result[name] for name in ordered} | result))
    else:
        print(f"result: {result['result']}")
    return 1 if result["result"] == "failed" else 0


def _merge_delivery(deliveries: list[dict[str, str]], new: dict[str, str]) -> None:
    for delivery in deliveries:
        if delivery["entity_id"] == new["entity_id"]:
            delivery["status"] = new["status"]
            return
    deliveries.append(new)


def _send_result(result: dict[str, Any], wait: bool) -> str:
    if "error" in result:
        return "failed"
    bad = {"discarded", "hardware_mismatch", "transfer_failed", "no_route"}
    failed = any(delivery["status"] in bad for delivery in result["deliveries"])
    failed |= any(message["fields"].get("result") == 1 for message in result["messages"])
    failed |= any(
        "invalid" in (message["signature"], message["mac"]) for message in result["messages"]
    )
    if failed or (wait and not result["messages"]):
        return "failed"
    return "ok" if wait else "accepted"


def _dcc_request(args: argparse.Namespace) -> int:
    import time

    from firmware_node.config import read_image
    from firmware_node.terms import EntityId, Role
    from firmware_node.tools import duis
    from firmware_node.wire.ota_file import decode_ota_header

    keyring = _keyring(args.keys)
    user = EntityId.parse(args.user)
    devices = [EntityId.parse(text) for text in args.devices.split(",")]
    counter = int(time.time() * 1000) if args.counter is None else args.counter
    if args.service == "11.4":
        if args.image is None:
            raise ConfigError("11.4 needs --image FILE")
        brokers = keyring.find(Role.ACCESS_CONTROL_BROKER)
        if not brokers:
            raise ConfigError(f"{args.keys}: no access control broker in it")
        image = read_image(args.image)
        xml = duis.build_update_request(
            "11.4",
            user,
            brokers[0],
            counter,
            keyring,
            image=image,
            firmware_version=decode_ota_header(image).image.version_hex.upper(),
            devices=devices,
        )
    else:
        if len(devices) != 1:
            raise ConfigError("11.2 takes one device")
        xml = duis.build_read_version_request(user, devices[0], counter, keyring)
    _write(args.output, xml)
    return 0


# --- images and keys ------------------------------------------------------------------------------


def _image_build(args: argparse.Namespace) -> int:
    from firmware_node.terms import EntityId, ImageFormat, ImageKey
    from firmware_node.tools.image import build_image
    from firmware_node.wire.manufacturer_image import Manifest

    keyring = _keyring(args.keys) if args.keys else None
    supplier = None
    if args.supplier:
        if keyring is None:
            raise ConfigError("--supplier needs --keys DIR")
        supplier = keyring.signing_key(EntityId.parse(args.supplier))
    manifest = Manifest(
        image=ImageKey(args.manufacturer_code, args.image_type, args.file_version),
        hardware_version_min=args.hardware_min,
        hardware_version_max=args.hardware_max,
        version_string=args.version_string or f"{args.file_version:08x}",
        date_code=args.date_code,
        self_test=not args.bad_self_test,
        startup_ms=args.startup_ms,
        crash_after_ms=args.crash_after_ms,
        confirms=not args.never_confirms,
        switch_works=not args.faulty_switch,
    )
    data = build_image(
        manifest,
        size=args.size,
        kind=ImageFormat(args.kind),
        header_string=args.header_string,
        seed=args.seed,
        manufacturer_key=(
            keyring.manufacturer_signing_key(args.manufacturer_code) if keyring else None
        ),
        supplier_key=supplier,
    )
    _write(args.output, data)
    return 0


def _image_sign(args: argparse.Namespace) -> int:
    from firmware_node.config import read_image
    from firmware_node.terms import EntityId
    from firmware_node.tools.image import sign
    from firmware_node.wire.ota_file import decode_ota_header

    keyring, data = _keyring(args.keys), read_image(args.file)
    if args.supplier:
        signed = sign(data, supplier_key=keyring.signing_key(EntityId.parse(args.supplier)))
    else:
        code = decode_ota_header(data).image.manufacturer_code
        signed = sign(data, manufacturer_key=keyring.manufacturer_signing_key(code))
    _write(args.output, signed)
    return 0


def _image_inspect(args: argparse.Namespace) -> int:
    from firmware_node.config import read_image
    from firmware_node.tools import image, render

    shape = image.inspect(read_image(args.file), _maybe_keyring(args.keys), _kind(args.kind))
    if args.json:
        print(json.dumps(shape))
    else:
        render.fields(shape)
    return 1 if shape["problems"] else 0


def _image_verify(args: argparse.Namespace) -> int:
    from firmware_node.config import read_image
    from firmware_node.crypto import Keyring
    from firmware_node.tools.image import verify

    keyring = _maybe_keyring(args.keys) or Keyring({})
    reasons = verify(read_image(args.file), keyring, _kind(args.kind))
    if args.json:
        print(json.dumps({"valid": not reasons, "problems": list(reasons)}))
    else:
        print("valid" if not reasons else "\n".join(reasons))
    return 1 if reasons else 0


def _image_mutate(args: argparse.Namespace) -> int:
    from firmware_node.config import read_image
    from firmware_node.tools.image import mutate

    _write(args.output, mutate(read_image(args.file), args.mutation))
    return 0


def _image_library(args: argparse.Namespace) -> int:
    from firmware_node.crypto import Keyring
    from firmware_node.tools.keys import build_keys
    from firmware_node.tools.library import build_library

    made = {} if args.keys else build_keys(f"library {args.seed}".encode())
    keyring = Keyring(made) if made else _keyring(args.keys)
    files = build_library(keyring, seed=args.seed, size=args.size)
    _fill(args.directory, files | {f"keys/{name}": data for name, data in made.items()})
    print(f"{sum(name.endswith('.ota') for name in files)} images in {args.directory}")
    return 0


def _image_load(args: argparse.Namespace) -> int:
    from firmware_node.config import read_image

    query = "?activate=1" if args.activate else ""
    for document in _call(_device_socket(args), "POST", f"/v1/image{query}", read_image(args.file)):
        print(json.dumps(document) if args.json else document["text"])
        if not document["done"]:
            return 1
    return 0


def _keys_create(args: argparse.Namespace) -> int:
    from firmware_node.terms import EntityId
    from firmware_node.tools.keys import DEVICES, build_keys

    devices = [*DEVICES, *(EntityId.parse(text) for text in args.device or ())]
    seed = None if args.seed is None else str(args.seed).encode()
    files = build_keys(seed, devices=list(dict.fromkeys(devices)))
    _fill(args.directory, files)
    print(f"{len(files)} files in {args.directory}")
    return 0


def _fill(directory: Path, files: Mapping[str, bytes]) -> None:
    """Write files into an empty folder; private keys for their owner alone."""
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if any(directory.iterdir()):
            raise ConfigError(f"{directory}: expected an empty folder")
        for name, data in files.items():
            path = directory / name
            path.parent.mkdir(exist_ok=True, mode=0o700)
            mode = 0o600 if name.endswith(".key") else 0o644
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with os.fdopen(fd, "wb") as file:
                file.write(data)
    except OSError as error:
        raise ConfigError(f"{directory}: {error.strerror}") from error


def _keys_show(args: argparse.Namespace) -> int:
    import dataclasses

    from firmware_node.tools import render
    from firmware_node.tools.keys import show

    rows = [dataclasses.asdict(row) for row in show(_keyring(args.directory))]
    if args.json:
        print(json.dumps(rows))
    else:
        render.table(rows)
    return 0


def _gbcs_decode(args: argparse.Namespace) -> int:
    from firmware_node.crypto import Keyring
    from firmware_node.tools import render
    from firmware_node.tools.decode import decode_file

    keyring = _maybe_keyring(args.keys) or Keyring({})
    bad = False
    for name, data in _inputs(args.paths):
        line = decode_file(name, data, keyring)
        bad |= "error" in line
        if args.json:
            print(json.dumps(line))
        else:
            render.fields(line)
    return 1 if bad else 0


def _inputs(paths: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Files in the order given, folders recursively and sorted, ``-`` for standard input."""
    for text in paths:
        path = Path(text)
        if text == "-":
            yield "-", sys.stdin.buffer.read()
        elif path.is_dir():
            for entry in sorted(path.rglob("*")):
                if entry.is_file():
                    yield str(entry), entry.read_bytes()
        else:
            try:
                yield text, path.read_bytes()
            except OSError as error:
                raise ConfigError(f"{text}: {error.strerror}") from error


# --- a running daemon -----------------------------------------------------------------------------


def _control(args: argparse.Namespace) -> int:
    from firmware_node.tools import render

    socket, code = _device_socket(args), 0
    follow = "?follow=1" if getattr(args, "follow", False) else ""
    log = getattr(args, "log", None)
    if log and follow:
        raise ConfigError("--log and --follow do not go together")
    events = f"?log={log}" if log else follow
    version = getattr(args, "file_version", None)
    wanted = "" if version is None else f"?file_version={version:08x}"
    method, target = {
        "status": ("GET", "/v1/status"),
        "banks": ("GET", "/v1/banks"),
        "events": ("GET", f"/v1/events{events}"),
        "query": ("POST", f"/v1/query{wanted}"),
        "reboot": ("POST", "/v1/reboot"),
        "factory-reset": ("POST", "/v1/factory-reset"),
    }[args.what]
    for document in _call(socket, method, target, timeout_s=None if follow else 30):
        if document.get("done") is False:
            code = 1
        if args.json:
            print(json.dumps(document), flush=True)
        elif args.what == "events":
            render.event(document)
        elif "text" in document:
            print(document["text"])
        else:
            render.fields(document)
    return code


def _call(
    socket: Path, method: str, target: str, body: bytes | None = None, timeout_s: float | None = 30
) -> Iterator[dict[str, Any]]:
    from firmware_node.adapters.control_client import call

    return call(socket, method, target, body, timeout_s)


def _device_socket(args: argparse.Namespace) -> Path:
    from firmware_node.config import runtime_directory

    if args.socket:
        return Path(args.socket)
    found = sorted(runtime_directory().glob("*/control.sock"))
    if len(found) > 1:
        names = " ".join(path.parent.name for path in found)
        raise ConfigError(f"several daemons ({names}): say which one with --socket PATH")
    return found[0] if found else runtime_directory() / "NAME" / "control.sock"


def _hub_socket(args: argparse.Namespace) -> Path:
    from firmware_node.config import runtime_directory

    return args.hub or runtime_directory() / "hub.sock"


def _keyring(directory: str) -> Any:
    from firmware_node.config import read_key_folder
    from firmware_node.crypto import Keyring

    return Keyring(read_key_folder(directory))


def _maybe_keyring(directory: str | None) -> Any:
    return None if directory is None else _keyring(directory)


def _kind(text: str | None) -> Any:
    from firmware_node.terms import ImageFormat

    return None if text is None else ImageFormat(text)


def _write(path: str, data: bytes) -> None:
    if path == "-":
        sys.stdout.buffer.write(data)
        return
    try:
        temporary = Path(f"{path}.part")
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise ConfigError(f"{path}: {error.strerror}") from error
