"""Arguments, exit codes, one-line errors. Every command imports what it needs when it runs.

Exit codes (contract): 0 yes, 1 no, 2 wrong input, 3 the environment, 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import io
import json
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from firmware_node import __version__, cli_fleet
from firmware_node.errors import (
    ConfigError,
    DecodeError,
    EnvironmentFailure,
    FirmwareNodeError,
    KeyMissingError,
    StorageError,
)

RESTART_LIMIT_S = 5  # a daemon that is silent longer has not just restarted
Command = Callable[[argparse.Namespace], int]
HELP_WIDTH = 80  # columns


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # file names may be any octets
    try:
        args = _parser().parse_args(arguments)
        levels = (logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG)
        level = levels[0 if args.quiet else min(args.verbose, 2) + 1]
        _configure_logging(level, args.log_format)
        run: Command = args.run
        code = run(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        _give_up_stdout()  # who read our output went away
        return 0
    except (ConfigError, DecodeError, KeyMissingError) as error:
        return _complain(error, 2)
    except (EnvironmentFailure, StorageError) as error:
        return _complain(error, 3)
    except FirmwareNodeError as error:
        return _complain(error, 1)
    except OSError as error:  # what no command foresaw: the disk under stdout is full, …
        _give_up_stdout()
        where = f"{error.filename}: " if error.filename else ""
        return _complain(f"{where}{error.strerror or error}", 3)
    return code


def _configure_logging(level: int, log_format: str | None) -> None:
    from firmware_node.adapters.log_lines import configure_logging  # not before --help

    configure_logging(level, log_format)


def _give_up_stdout() -> None:
    """What is still buffered must not fail once more when the interpreter ends."""
    with contextlib.suppress(OSError):  # a stdout that is no file has no descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(error: Exception | str, code: int) -> int:
    from firmware_node.adapters.log_lines import priority, stderr_is_the_journal
    from firmware_node.tools.render import printable

    prefix = f"<{priority(logging.ERROR)}>" if stderr_is_the_journal() else ""
    print(f"{prefix}firmware-node: {printable(' '.join(str(error).split()))}", file=sys.stderr)
    return code


class _Formatter(argparse.HelpFormatter):
    """Of a fixed width: argparse asks for the terminal's at every argument that is declared."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=HELP_WIDTH)


class _Parser(argparse.ArgumentParser):
    """A wrong argument is one line, as every other error."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=_Formatter, **options)

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
    demo.add_argument("--device", choices=["ppmid", "hcalcs", "all"], default="all")
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
    hub = _verb(
        verbs,
        "hub",
        _hub,
        "the Comms Hub emulator: CONFIG.toml, 'clock set TIME', 'load DEVICE closed|open MINUTES' "
        "or 'load DEVICE cancel [EVENT]'",
    )
    hub.add_argument("config", help="configuration file, or one of the words clock and load")
    hub.add_argument("rest", nargs="*", help="what follows the word")
    hub.add_argument("--at", metavar="TIME", help="load: when the event starts; default: now")
    hub.add_argument(
        "--randomise", action="store_true", help="load: start and end by offsets the device draws"
    )
    hub.add_argument("--hub", metavar="SOCKET", type=Path)
    hub.add_argument("--json", action="store_true", help="after a word")
    hub.add_argument("--log-format", **_LOG_FORMAT, default=argparse.SUPPRESS)

    _dcc_verbs(verbs)
    _image_verbs(verbs)
    _key_verbs(verbs)

    _radio_verbs(verbs)

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

    relay = _verb(verbs, "relay", _relay, "try the load switch of an HCALCS")
    relay.add_argument("state", choices=["closed", "open"], help="closed: the load has its supply")
    relay.add_argument("--socket", metavar="PATH", type=Path)
    relay.add_argument("--json", action="store_true")

    doctor = _verb(verbs, "doctor", _doctor, "what is wrong with this machine, and what to do")
    doctor.add_argument(
        "files", nargs="*", type=Path, metavar="CONFIG", help="default: those of /etc/firmware-node"
    )
    doctor.add_argument("--port", action="append", default=[], help="a serial radio's port")
    doctor.add_argument("--json", action="store_true")

    rig = _group(verbs, "rig", "the world in which devices are tested")
    replay = _verb(rig, "replay", _rig_replay, "the run of one seed: what it draws, how it went")
    replay.add_argument("seed", type=int)
    replay.add_argument("--json", action="store_true")
    replay.add_argument("--device", metavar="ID", help="of a fleet's run: this device's home alone")
    replay.add_argument("--state", type=Path, metavar="DIR", help="that run's folder")
    cli_fleet.add_verbs(verbs)
    config = _group(verbs, "config", "check a configuration, or tell what one may hold")
    check = _verb(config, "check", _config_check, "read a device's or hub's configuration")
    check.add_argument("file", type=Path)
    check.add_argument("--json", action="store_true")
    api = _verb(config, "api", _config_api, "the control API of a daemon, in OpenAPI")
    api.add_argument("what", choices=["run", "hub"], nargs="?", default="run")
    api.add_argument("--json", action="store_true", help="as it always is")
    schema = _verb(config, "schema", _config_schema, "the JSON Schema of a configuration")
    schema.add_argument("what", choices=["run", "hub"], nargs="?", default="run")
    schema.add_argument("--json", action="store_true", help="as it always is")
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
    send.add_argument(
        "--pre-command-only", action="store_true", help="11.3: print the Pre-Command, sign nothing"
    )
    send.add_argument(
        "--keys", metavar="DIR", help="11.3: sign with the User's key here, not with the hub's"
    )
    send.add_argument(
        "--to", metavar="ID", help="carry FILE to this device, whether it is a GBCS message or not"
    )
    send.add_argument("--xml", metavar="DIR", type=Path, help="write each DUIS answer as a file")
    send.add_argument("--json", action="store_true")
    request = _verb(dcc, "request", _dcc_request, "write a signed service request")
    request.add_argument("service", choices=["11.1", "11.2", "11.3", "11.4"])
    request.add_argument("--image", metavar="FILE", help="11.1, 11.4: the OTA file")
    request.add_argument("--hash", metavar="H", help="11.3: of the manufacturer image")
    request.add_argument(
        "--from", dest="from_file", metavar="FILE", help="11.3: the same, from an OTA file or SR"
    )
    request.add_argument("--at", metavar="TIME|cancel", help="11.3: later, or no longer")
    request.add_argument("--devices", metavar="IDS", required=True, help="comma-separated")
    request.add_argument("--keys", metavar="DIR", required=True)
    request.add_argument("--user", default="90-B3-D5-1F-30-01-00-00")
    request.add_argument("--counter", type=int, help="default: the clock, in milliseconds")
    request.add_argument("-o", "--output", metavar="FILE", default="-")
    request.add_argument("--json", action="store_true", help="tell of FILE")


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
    build.add_argument("--crash-after-ms", type=int, help="after it is up")
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
    mutate.add_argument("mutation", help="how it is spoilt; a wrong name lists them")
    mutate.add_argument("--seed", type=int, default=0, help="which bit a flipped-bit flips")
    mutate.add_argument("-o", "--output", metavar="FILE", required=True)
    library = _verb(image, "library", _image_library, "one image of each behaviour, with keys")
    library.add_argument("directory", type=Path)
    library.add_argument("--keys", metavar="DIR", help="default: new ones from the seed, beside")
    library.add_argument("--seed", type=int, default=0)
    library.add_argument("--size", type=int, default=65536, help="bytes of a manufacturer image")
    library.add_argument("--only", metavar="NAME", action="append", default=[])
    for verb in (build, sign, mutate, library):
        verb.add_argument("--json", action="store_true", help="tell of what is written")
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
    create.add_argument(
        "--days",
        type=int,
        help="how long organisations' certificates hold; with --seed from 2020",
    )
    create.add_argument("--json", action="store_true")
    show = _verb(keys, "show", _keys_show, "what a key folder holds")
    show.add_argument("directory")
    show.add_argument("--json", action="store_true")
    gbcs = _group(verbs, "gbcs", "read GBCS messages, and make bad ones")
    decode = _verb(gbcs, "decode", _gbcs_decode, "what messages say, and whether they hold")
    verify = _verb(gbcs, "verify", _gbcs_verify, "whether all of them hold; a table by use case")
    for verb in (decode, verify):
        verb.add_argument("paths", nargs="+", metavar="PATH", help="file, folder, or - for stdin")
        verb.add_argument("--json", action="store_true")
    verify.add_argument(
        "--strict", action="store_true", help="a missing key or a broken payload is a no as well"
    )
    verify.add_argument(
        "--check-validity", action="store_true", help="a certificate outside its dates is a no"
    )
    mutate = _verb(gbcs, "mutate", _gbcs_mutate, "a named bad message from a good one")
    mutate.add_argument("name", metavar="NAME", nargs="?", help="--list tells them")
    mutate.add_argument("file", metavar="FILE", nargs="?")
    mutate.add_argument("--list", action="store_true", help="every name, and what a device answers")
    mutate.add_argument("-o", "--output", metavar="OUT", default="-", help="hexadecimal digits")
    mutate.add_argument("--json", action="store_true", help="with -o: which file, how many bytes")
    for verb in (decode, verify, mutate):
        verb.add_argument("--keys", metavar="DIR")
        verb.add_argument("--at", metavar="TIME", type=_moment, help="judge dates then, not now")


def _radio_verbs(verbs: Any) -> None:
    radio = _group(verbs, "radio", "ZNP radios")
    virtual = _verb(radio, "virtual", _radio_virtual, "a virtual ZNP stick on a pty or TCP port")
    port = virtual.add_mutually_exclusive_group(required=True)
    port.add_argument("--tcp", metavar="HOST:PORT", type=_address)
    port.add_argument("--pty", metavar="LINK", type=Path, help="a link to the pseudo-terminal")
    virtual.add_argument("--nv", metavar="FILE", type=Path, help="keep the NV memory here")
    virtual.add_argument("--nv-dump", metavar="FILE", type=Path, help="begin with a real stick's")
    virtual.add_argument("--air", metavar="SOCKET", type=Path, help="shared with other sticks")
    virtual.add_argument("--product", type=int, choices=[1, 2], default=1, help="CC2652 or CC2531")
    virtual.add_argument("--ieee", metavar="EUI64", help="default: random, then that of --nv")
    virtual.add_argument("--baud", type=_whole(1), help="pace the serial line; default: do not")
    virtual.add_argument("--profile", choices=["strict", "lenient"], default="strict")
    virtual.add_argument("--no-fragmentation", action="store_true")
    virtual.add_argument(
        "--stack-revision",
        type=int,
        choices=[20, 21, 22],
        default=22,
        help="a trust centre below 21 exchanges no link keys, as in Smart Energy 1.x",
    )
    virtual.add_argument("--pcap", metavar="FILE", type=Path, help="and the keys in FILE.keys")
    virtual.add_argument("--counters", metavar="FILE", type=Path, help="unknown commands and more")
    virtual.add_argument(
        "--fault",
        action="append",
        default=[],
        metavar="KIND:N",
        help="at the N-th AF data request: no-srsp, buffer-full, reset-at, vanish-at[:MS away]",
    )
    air = virtual.add_argument_group("the air, where this stick carries it")
    air.add_argument("--seed", type=int, default=0)
    air.add_argument("--airtime", action="store_true", help="250 kbit/s and CSMA")
    air.add_argument("--latency-ms", type=_share(1000), default=0.0)
    air.add_argument("--loss", type=_share(1), default=0.0, help="chance, 0 to 1")
    air.add_argument("--ack-loss", type=_share(1), default=0.0)
    air.add_argument("--duplication", type=_share(1), default=0.0)
    air.add_argument("--reordering", type=_share(1), default=0.0)
    air.add_argument("--coalesce-ms", type=_share(1000), default=0.0)
    listed = _verb(radio, "list", _radio_list, "serial ports, and what may be plugged in there")
    probe = _verb(radio, "probe", _radio_probe, "what a ZNP stick is; changes nothing in it")
    selftest = _verb(radio, "selftest", _radio_selftest, "try a stick line by line; erases it")
    for verb in (probe, selftest):
        verb.add_argument("port", metavar="PORT", help="a path, or socket://HOST:PORT")
    on_air = selftest.add_mutually_exclusive_group()
    on_air.add_argument("--peer", metavar="PORT", help="a second stick, for the on-air lines")
    selftest.add_argument("--erase", action="store_true", help="also a stick on a network")
    selftest.add_argument("--keep", action="store_true", help="leave it as the last line does")
    on_air.add_argument(
        "--join", action="store_true", help="no peer: join a network that you open for it"
    )
    selftest.add_argument("--channel", type=_channel, default=15, help="of the peer's network")
    selftest.add_argument(
        "--install-code", metavar="HEX", type=_install_code, help="with or without CRC"
    )
    for verb in (listed, probe, selftest):
        verb.add_argument("--json", action="store_true")


_KINDS = ["gb-supplier-signed", "gb-plain", "zigbee"]


def _number(text: str) -> int:
    with contextlib.suppress(ValueError):
        if 0 <= int(text, 0) <= 0xFFFF:
            return int(text, 0)
    raise argparse.ArgumentTypeError(f"found {text!r}, expected 0 to 0xFFFF")


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if host and port.isdigit() and int(port) <= 0xFFFF:
        return host.strip("[]"), int(port)
    raise argparse.ArgumentTypeError(f"found {text!r}, expected HOST:PORT")


def _channel(text: str) -> int:
    if text.isdigit() and 11 <= int(text) <= 26:
        return int(text)
    raise argparse.ArgumentTypeError(f"found {text!r}, expected 11 to 26")


def _install_code(text: str) -> bytes:
    from firmware_node.crypto import install_code_crc, install_code_key

    try:
        code = bytes.fromhex(text)
        code += install_code_crc(code) if len(code) == 16 else b""
        install_code_key(code)
        if len(code) == 18:
            return code
    except (ValueError, DecodeError):
        pass
    raise argparse.ArgumentTypeError("expected 16 octets in hexadecimal, or 18 with their CRC")


def _whole(least: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if text.isdigit() and int(text) >= least:
            return int(text)
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a number from {least}")

    return read


def _share(most: float) -> Callable[[str], float]:
    def read(text: str) -> float:
        with contextlib.suppress(ValueError):
            if 0 <= float(text) <= most:
                return float(text)
        raise argparse.ArgumentTypeError(f"found {text!r}, expected 0 to {most}")

    return read


def _moment(text: str) -> int:
    """RFC 3339 as seconds since 2000-01-01."""
    from datetime import UTC, datetime

    with contextlib.suppress(ValueError):
        moment = datetime.fromisoformat(text)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return int((moment - datetime(2000, 1, 1, tzinfo=UTC)).total_seconds())
    raise argparse.ArgumentTypeError(f"found {text!r}, expected RFC 3339")


def _now(args: argparse.Namespace) -> int:
    """``--at``, or the clock, in seconds since 2000-01-01."""
    import time

    return int(time.time()) - 946_684_800 if args.at is None else args.at


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
    keyring = Keyring(read_key_folder(config.keys.directory), config.keys.directory)
    return run_device(config, load_factory_image(config, keyring), keyring, reload)


def _hub(args: argparse.Namespace) -> int:
    if args.config == "clock":
        if len(args.rest) != 2 or args.rest[0] != "set":
            raise ConfigError("usage: firmware-node hub clock set TIME [--hub SOCKET]")
        return _hub_clock(args, args.rest[1])
    if args.config == "load":
        from firmware_node.cli_operator import hub_load

        return hub_load(args)
    from firmware_node.adapters.hub_daemon import run_hub
    from firmware_node.adapters.service import Reload
    from firmware_node.config import read_hub_config

    if args.rest:
        raise ConfigError("usage: firmware-node hub CONFIG.toml")
    path = Path(args.config)
    config = read_hub_config(path)
    return run_hub(config, Reload(config, lambda: read_hub_config(path)))


def _hub_clock(args: argparse.Namespace, text: str) -> int:
    from datetime import UTC, datetime, timedelta

    first = datetime(2000, 1, 1, tzinfo=UTC)
    last = first + timedelta(seconds=2**32 - 2)  # of a ZigBee UTCTime; ffffffff is no time
    try:
        moment = datetime.fromisoformat(text)
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        if not first <= moment <= last:
            raise ValueError
    except ValueError as error:
        raise ConfigError(
            f"TIME: found {text!r}, expected RFC 3339, {first:%Y-%m-%dT%H:%M:%SZ} to "
            f"{last:%Y-%m-%dT%H:%M:%SZ}"
        ) from error
    for document in _call(_hub_socket(args), "PUT", "/v1/clock", moment.isoformat().encode()):
        print(json.dumps(document) if args.json else document["utc"])
    return 0


def _demo(args: argparse.Namespace) -> int:
    from firmware_node.demo import run_demo

    return run_demo(args.device, args.size, args.keep, args.seed, args.json)


def _rig_replay(args: argparse.Namespace) -> int:
    if args.device is not None:
        return cli_fleet.replay(args)
    from firmware_node.replay import SetUp, run_replay

    return run_replay(args.seed, SetUp(), args.json)


def _config_check(args: argparse.Namespace) -> int:
    from firmware_node.config import HubConfig, read_config

    config = read_config(args.file)
    if isinstance(config, HubConfig):
        from firmware_node.adapters.hub_daemon import misbehaviours

        with _about(args.file):
            misbehaviours(config.hub)
    kind = "hub" if isinstance(config, HubConfig) else "run"
    print(
        json.dumps({"file": str(args.file), "for": kind}) if args.json else f"{args.file}: in order"
    )
    return 0


def _config_schema(args: argparse.Namespace) -> int:
    from firmware_node.config import DeviceConfig, HubConfig, schema

    print(json.dumps(schema(HubConfig if args.what == "hub" else DeviceConfig), indent=2))
    return 0


# --- service user ---------------------------------------------------------------------------------


def _relay(args: argparse.Namespace) -> int:
    from firmware_node.cli_operator import relay

    return relay(args)


def _doctor(args: argparse.Namespace) -> int:
    from firmware_node.cli_operator import look_for_trouble

    return look_for_trouble(args)


def _config_api(args: argparse.Namespace) -> int:
    from firmware_node.cli_operator import config_api

    return config_api(args)


def _dcc_send(args: argparse.Namespace) -> int:
    from firmware_node.cli_dcc import send

    return send(args)


def _dcc_request(args: argparse.Namespace) -> int:
    from firmware_node.cli_dcc import request

    return request(args)


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
    return _write(args, data)


def _image_sign(args: argparse.Namespace) -> int:
    from firmware_node.config import read_image
    from firmware_node.terms import EntityId
    from firmware_node.tools.image import sign
    from firmware_node.wire.ota_file import decode_ota_header

    keyring, data = _keyring(args.keys), read_image(args.file)
    with _about(args.file):
        if args.supplier:
            signed = sign(data, supplier_key=keyring.signing_key(EntityId.parse(args.supplier)))
        else:
            code = decode_ota_header(data).image.manufacturer_code
            signed = sign(data, manufacturer_key=keyring.manufacturer_signing_key(code))
    return _write(args, signed)


def _image_inspect(args: argparse.Namespace) -> int:
    from firmware_node.config import read_image
    from firmware_node.tools import image, render

    data, keyring = read_image(args.file), _maybe_keyring(args.keys)
    with _about(args.file):
        shape = image.inspect(data, keyring, _kind(args.kind))
    if args.json:
        print(json.dumps(shape))
    else:
        render.fields(shape)
    return 1 if shape["problems"] else 0


def _image_verify(args: argparse.Namespace) -> int:
    from firmware_node.config import read_image
    from firmware_node.crypto import Keyring
    from firmware_node.tools import render
    from firmware_node.tools.image import verify

    keyring = _maybe_keyring(args.keys) or Keyring({})
    data = read_image(args.file)
    with _about(args.file):
        reasons = verify(data, keyring, _kind(args.kind))
    if args.json:
        print(json.dumps({"valid": not reasons, "problems": list(reasons)}))
    else:
        print("valid" if not reasons else "\n".join(map(render.printable, reasons)))
    return 1 if reasons else 0


def _image_mutate(args: argparse.Namespace) -> int:
    from firmware_node.config import read_image
    from firmware_node.tools.image import mutate

    data = read_image(args.file)
    with _about(args.file):
        spoilt = mutate(data, args.mutation, seed=args.seed)
    return _write(args, spoilt)


def _image_library(args: argparse.Namespace) -> int:
    from firmware_node.crypto import Keyring
    from firmware_node.tools.keys import build_keys
    from firmware_node.tools.library import build_library

    made = {} if args.keys else build_keys(f"library {args.seed}".encode())
    keyring = Keyring(made) if made else _keyring(args.keys)
    files = build_library(keyring, seed=args.seed, size=args.size, only=args.only)
    _fill(args.directory, files | {f"keys/{name}": data for name, data in made.items()})
    count = sum(name.endswith(".ota") for name in files)
    if args.json:
        print(json.dumps({"directory": str(args.directory), "images": count}))
    else:
        print(f"{count} images in {args.directory}")
    return 0


def _image_load(args: argparse.Namespace) -> int:
    from firmware_node.config import read_image
    from firmware_node.tools.render import printable
    from firmware_node.wire.ota_file import decode_ota_header

    data = read_image(args.file)
    with _about(args.file):
        decode_ota_header(data)  # whether the device takes it is the device's to say
    query = "?activate=1" if args.activate else ""
    for document in _call(_device_socket(args), "POST", f"/v1/image{query}", data):
        print(json.dumps(document) if args.json else printable(document["text"]))
        if not document["done"]:
            return 1
    return 0


def _keys_create(args: argparse.Namespace) -> int:
    from firmware_node.terms import EntityId
    from firmware_node.tools.keys import DAYS_DEFAULT, DEVICES, build_keys

    devices = [*DEVICES, *(EntityId.parse(text) for text in args.device or ())]
    seed = None if args.seed is None else str(args.seed).encode()
    days = DAYS_DEFAULT if args.days is None else args.days
    files = build_keys(seed, devices=list(dict.fromkeys(devices)), days=days)
    _fill(args.directory, files)
    if args.json:
        print(json.dumps({"directory": str(args.directory), "files": len(files)}))
    else:
        print(f"{len(files)} files in {args.directory}")
    return 0


def _fill(directory: Path, files: Mapping[str, bytes]) -> None:
    """Write files into an empty folder, all or none; private keys for their owner alone."""
    made: list[Path] = []
    is_new = not directory.exists()
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        if any(directory.iterdir()):
            raise ConfigError(f"{directory}: expected an empty folder")
        for name, data in files.items():
            path = directory / name
            path.parent.mkdir(exist_ok=True, mode=0o700)
            mode = 0o600 if name.endswith(".key") else 0o644
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            made.append(path)
            with os.fdopen(fd, "wb") as file:
                file.write(data)
    except BaseException as error:  # also an interruption leaves no half of it
        for path in made:
            path.unlink(missing_ok=True)
        for folder in sorted({path.parent for path in made} - {directory}):
            with contextlib.suppress(OSError):
                folder.rmdir()
        if is_new:
            with contextlib.suppress(OSError):
                directory.rmdir()
        if isinstance(error, OSError):
            raise _unwritable(directory, error) from error
        raise


def _keys_show(args: argparse.Namespace) -> int:
    import dataclasses
    from datetime import UTC, datetime

    from firmware_node.tools import render
    from firmware_node.tools.keys import show

    rows = [dataclasses.asdict(row) for row in show(_keyring(args.directory), datetime.now(UTC))]
    if args.json:
        print(json.dumps(rows))
    else:
        render.table(rows)
    return 0


def _gbcs_decode(args: argparse.Namespace) -> int:
    from firmware_node.crypto import Keyring
    from firmware_node.tools.decode_text import text

    keyring = _maybe_keyring(args.keys) or Keyring({})
    bad = False
    for name in _inputs(args.paths):
        for line in _decoded(name, keyring, _now(args)):
            bad |= "error" in line
            print(json.dumps(line) if args.json else text(line) + "\n")
    return 1 if bad else 0


def _gbcs_verify(args: argparse.Namespace) -> int:
    from firmware_node.crypto import Keyring
    from firmware_node.tools import render
    from firmware_node.tools.verify import Tally

    keyring = _maybe_keyring(args.keys) or Keyring({})
    tally = Tally(strict=args.strict, check_validity=args.check_validity)
    for name in _inputs(args.paths):
        tally.add(_decoded(name, keyring, _now(args)))
    if args.json:
        print(json.dumps(tally.document()))
    else:
        render.table(tally.table())
        print("\n".join(("", *tally.failures(), "valid" if tally.is_good else "not valid")))
    return 0 if tally.is_good else 1


def _gbcs_mutate(args: argparse.Namespace) -> int:
    from firmware_node.crypto import Keyring
    from firmware_node.tools import render
    from firmware_node.tools.decode_input import parts_of
    from firmware_node.tools.gbcs_mutations import MUTATIONS, mutate

    if args.list:
        rows = [{"name": name, "a device": row.answer} for name, row in MUTATIONS.items()]
        render.table(rows)
        return 0
    if args.file is None:
        raise ConfigError("usage: firmware-node gbcs mutate NAME FILE, or gbcs mutate --list")
    parts = [part for name in _inputs([args.file]) for part in parts_of(_message_file(name))]
    if len(parts) != 1:
        raise ConfigError(f"{args.file}: expected one message, found {len(parts)}")
    keyring = _maybe_keyring(args.keys) or Keyring({})
    messages = mutate(parts[0].octets, args.name, keyring, _now(args))
    _write(args, "".join(f"{octets.hex()}\n" for octets in messages).encode())
    return 0


def _decoded(name: str, keyring: Any, at: int) -> Iterable[dict[str, Any]]:
    """The messages of one file; one that cannot be read is an error of its own."""
    from firmware_node.tools.decode import decode_file

    try:
        data = _message_file(name)
    except ConfigError as error:
        return [{"file": name, "error": str(error)}]
    return decode_file(name, data, keyring, at)


def _message_file(name: str) -> bytes:
    from firmware_node.config import read_input
    from firmware_node.tools.decode_input import FILE_SIZE_MAX

    if name == "-":
        return sys.stdin.buffer.read(FILE_SIZE_MAX + 1)
    return read_input(name, FILE_SIZE_MAX)


def _inputs(texts: Sequence[str]) -> list[str]:
    """Files in the order given, folders recursively and sorted, ``-`` for standard input.

    What is not there is missed before the first one is read.
    """
    found: list[str] = []
    for text in texts:
        path = Path(text)
        try:
            if text == "-":
                found.append(text)
            elif path.is_dir():
                files = sorted(entry for entry in _walk(path) if entry.is_file())
                if not files:
                    raise ConfigError(f"{text}: no file in it")
                found.extend(map(str, files))
            else:
                path.stat()
                found.append(text)
        except OSError as error:
            raise ConfigError(f"{error.filename or text}: {error.strerror}") from error
    return found


def _walk(folder: Path) -> Iterator[Path]:
    def fail(error: OSError) -> NoReturn:
        raise error

    for root, _, names in os.walk(folder, onerror=fail):
        yield from (Path(root) / name for name in names)


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
    documents = _follow(socket, target) if follow else _call(socket, method, target)
    for document in documents:
        if document.get("done") is False:
            code = 1
        if args.json:
            print(json.dumps(document), flush=True)
        elif args.what == "events":
            render.event(document)
        elif "text" in document:
            print(render.printable(document["text"]))
        elif args.what == "banks":
            render.banks(document)
        elif "upgrade" in document:
            render.status(document)
        else:  # a hub's
            render.fields(document)
    return code


def _call(
    socket: Path, method: str, target: str, body: bytes | None = None, timeout_s: float | None = 30
) -> Iterator[dict[str, Any]]:
    from firmware_node.adapters.control_client import call

    return call(socket, method, target, body, timeout_s)


def _follow(socket: Path, target: str) -> Iterator[dict[str, Any]]:
    """A stream that goes on after the emulated device's own restarts."""
    import time

    patience_ends = 0.0
    while True:
        was_there = False
        try:
            for document in _call(socket, "GET", target, timeout_s=None):
                was_there = True
                yield document
        except EnvironmentFailure:
            if was_there:
                patience_ends = time.monotonic() + RESTART_LIMIT_S
            elif time.monotonic() > patience_ends:
                raise
        time.sleep(0.05)


def _device_socket(args: argparse.Namespace) -> Path:
    from firmware_node.config import runtime_directory

    if args.socket:
        return Path(args.socket)
    found = sorted(runtime_directory().glob("*/control.sock"))
    if len(found) > 1:
        names = " ".join(path.parent.name for path in found)
        raise ConfigError(f"several daemons ({names}): say which one with --socket PATH")
    return found[0] if found else runtime_directory() / "NAME" / "control.sock"


def _radio_virtual(args: argparse.Namespace) -> int:
    from firmware_node.adapters.virtual_stick import VirtualOptions, serve
    from firmware_node.terms import EntityId
    from firmware_node.virtual.air import AirSettings
    from firmware_node.virtual.stick import Fault, StickSettings

    ieee = None if args.ieee is None else EntityId.parse(args.ieee).octets[::-1]
    return serve(
        VirtualOptions(
            tcp=args.tcp,
            pty=args.pty,
            nv=args.nv,
            nv_dump=args.nv_dump,
            air=args.air,
            product=args.product,
            ieee=ieee,
            baud=args.baud,
            pcap=args.pcap,
            counters=args.counters,
            stick=StickSettings(
                strict=args.profile == "strict",
                fragmentation=not args.no_fragmentation,
                stack_revision=args.stack_revision,
                seed=args.seed,
                faults=tuple(Fault.parse(text) for text in args.fault),
            ),
            medium=AirSettings(
                seed=args.seed,
                airtime=args.airtime,
                latency_us=round(args.latency_ms * 1000),
                loss=args.loss,
                ack_loss=args.ack_loss,
                duplication=args.duplication,
                reordering=args.reordering,
                coalesce_us=round(args.coalesce_ms * 1000),
            ),
        )
    )


def _radio_list(args: argparse.Namespace) -> int:
    from firmware_node.cli_radio import list_ports

    return list_ports(args)


def _radio_probe(args: argparse.Namespace) -> int:
    from firmware_node.cli_radio import probe

    return probe(args)


def _radio_selftest(args: argparse.Namespace) -> int:
    from firmware_node.cli_radio import selftest

    return selftest(args)


def _hub_socket(args: argparse.Namespace) -> Path:
    from firmware_node.config import runtime_directory

    return args.hub or runtime_directory() / "hub.sock"


def _keyring(directory: str) -> Any:
    from firmware_node.config import read_key_folder
    from firmware_node.crypto import Keyring

    return Keyring(read_key_folder(directory), directory)


def _maybe_keyring(directory: str | None) -> Any:
    return None if directory is None else _keyring(directory)


def _kind(text: str | None) -> Any:
    from firmware_node.terms import ImageFormat

    return None if text is None else ImageFormat(text)


@contextlib.contextmanager
def _about(file: str | Path) -> Iterator[None]:
    """What turns out to be wrong in a file is told with its name."""
    try:
        yield
    except (ConfigError, DecodeError) as error:
        raise ConfigError(f"{file}: {error}") from error


def _write(args: argparse.Namespace, data: bytes) -> int:
    """Into ``--output``, whole or not at all; the exit code.

    A device or a pipe is written as it is; a file is replaced by one that is complete.
    """
    if args.output == "-":
        if args.json:
            raise ConfigError("--json tells of a file: it needs -o FILE")
        sys.stdout.buffer.write(data)
        return 0
    path = Path(os.path.realpath(args.output))
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            path.write_bytes(data)
        else:
            _replace(path, data)
    except OSError as error:
        raise _unwritable(args.output, error) from error
    if args.json:
        print(json.dumps({"file": args.output, "bytes": len(data)}))
    return 0


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("xb") as file:
            file.write(data)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _unwritable(path: str | Path, error: OSError) -> FirmwareNodeError:
    text = f"{path}: {error.strerror}"
    machine = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
    return EnvironmentFailure(text) if machine else ConfigError(text)
