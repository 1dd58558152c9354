"""Configuration: TOML to frozen values, once, with every error one line that says where.

Unknown keys are errors and name the nearest known one. The fixed names are those of the contract.
``CHOICES`` and ``RANGES`` bound the values; the checks and the schema both read them. A path that
is not given follows from the name of the file: ``ppmid.toml`` configures the instance ``ppmid``.
"""

from __future__ import annotations

import dataclasses
import os
import re
import tomllib
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from firmware_node.boundary import NOTIFICATIONS
from firmware_node.errors import ConfigError
from firmware_node.terms import (
    ActivationSettings,
    DeviceSettings,
    DeviceType,
    EntityId,
    ImageFormat,
    LoadSwitchSettings,
    OtaSettings,
)

T = TypeVar("T")
MANUFACTURER_IMAGE_MAX = 16 * 1024 * 1024  # bytes; above the schema limit of an image (gbcs.md 2.5)
IMAGE_FILE_MAX = 16 * 1024 * 1024
KEY_FILE_MAX = 64 * 1024
CONFIG_FILE_MAX = 1024 * 1024
INTEGER_MAX = 2**31 - 1  # no setting needs more, and no product of two leaves 64 bits
SOCKET_PATH_MAX = 107  # octets that a Unix socket's address holds before its final zero


@dataclass(frozen=True)
class DeviceSection:
    """``[device]``."""

    type: str
    entity_id: str
    manufacturer_code: int
    image_type: int
    hardware_version: int
    factory_image: str | None = None
    manufacturer_signature: str = "optional"
    image_format: str | None = None
    acb: str | None = None
    supplier: str | None = None


@dataclass(frozen=True)
class StorageSection:
    """``[storage]``."""

    directory: str = ""  # default: the instance's folder under /var/lib or $XDG_STATE_HOME
    bank_size: int = 1024 * 1024


@dataclass(frozen=True)
class KeysSection:
    """``[keys]``."""

    directory: str
    check_validity: bool = False  # a certificate outside its dates is no key (gbcs.md 4.8)


@dataclass(frozen=True)
class JoinerEntry:
    """``[[radio.joiners]]``: a device whose key the hub's trust centre knows; one of the two."""

    entity_id: str
    install_code: str | None = None
    link_key: str | None = None


@dataclass(frozen=True)
class RadioSection:
    """``[radio]``. All behind ``path`` is for ``znp``; a hub's role is always coordinator."""

    type: str = "virtual"
    air: str = ""  # default: air.sock among the sockets
    path: str | None = None
    role: str = "end-device"
    profile: str = "strict"
    baud: int = 115200
    device_id: int | None = None  # of the endpoint; default: what the device's type is in ZSE
    eui64: str = "entity-id"  # or "stick": leave it the name that it has
    channels: tuple[int, ...] = tuple(range(11, 27))
    extended_pan_id: str | None = None  # the only network to join, or the one to form
    install_code: str | None = None  # of this device, with its CRC
    link_key: str | None = None  # instead: the key itself
    aps_security: bool = False  # ask for it on every unicast; both ends need the link key
    give_up_s: int = 600  # that a stick may be gone; 0: for ever
    permit: bool = True  # of a hub: whoever wants to may join
    require_install_code: bool = False  # of a hub: only the joiners below
    joiners: tuple[JoinerEntry, ...] = ()  # of a hub


@dataclass(frozen=True)
class ControlSection:
    """``[control]``."""

    socket: str = ""  # default: control.sock in the instance's folder among the sockets


@dataclass(frozen=True)
class LineSection:
    """``[gpio.relays.NAME]`` or ``[gpio.indicators.NAME]``."""

    line: int  # BCM number, 0 to 53 on a Raspberry Pi
    active_low: bool = False
    safe: bool = False  # at start, until the first command, and when the service stops


@dataclass(frozen=True)
class ButtonSection:
    """``[gpio.buttons.NAME]``."""

    line: int  # BCM number
    active_low: bool = True  # the button connects the line to ground
    action: str = "query"  # or "reboot"


@dataclass(frozen=True)
class GpioSection:
    """``[gpio]``."""

    backend: str = "auto"
    chip: str = ""  # the chip's label; default: a Raspberry Pi's
    allow_memory: bool = False  # that auto drives no pin on a Raspberry Pi
    relays: Mapping[str, LineSection] = dataclasses.field(default_factory=dict)
    indicators: Mapping[str, LineSection] = dataclasses.field(default_factory=dict)
    buttons: Mapping[str, ButtonSection] = dataclasses.field(default_factory=dict)

    @property
    def lines(self) -> Mapping[str, LineSection]:
        """Every output by its name; ``read_device_config`` sees to it that names differ."""
        return {**self.indicators, **self.relays}


@dataclass(frozen=True)
class NotifySection:
    """``[notify.NAME]``: a sink of notifications. Each type has the one key that it needs."""

    type: str
    path: str | None = None  # file: JSON Lines are appended
    command: tuple[str, ...] = ()  # command: program and arguments; a document on standard input
    url: str | None = None  # webhook: http or https; a document by POST
    names: tuple[str, ...] = ()  # those alone; default: all but ``NOT_BY_DEFAULT``


NOT_BY_DEFAULT = ("download_progress",)  # every 64 KiB


@dataclass(frozen=True)
class LogSection:
    """``[log]``; read again on SIGHUP."""

    level: str = ""  # as the command line's -q and -v say


@dataclass(frozen=True)
class HubSection:
    """``[hub]``."""

    entity_id: str
    block_size_max: int = 255
    wait_s: int = 1
    activation: str = "now"  # or "hold", or seconds
    pages: bool = True
    transfer_timeout_s: int = 3600
    default_responses: bool = True
    script: tuple[str, ...] = ()  # "what:times:from_offset"


@dataclass(frozen=True)
class InventoryEntry:
    """``[[dcc.inventory]]``: what the DCC knows of a device. What is left out fits everything."""

    entity_id: str
    type: str | None = None
    manufacturer_code: int | None = None
    model: int | None = None
    hardware_version: int | None = None
    firmware_version: str | None = None  # 8 hex digits; finds its row of the products list
    gbcs_version: str | None = None  # default: that of its row
    commissioned: bool = True


@dataclass(frozen=True)
class DccSection:
    """``[dcc]``. The alert codes are inferred, so another DCC's can be given."""

    socket: str = ""  # default: hub.sock among the sockets
    request_signature: str = "warn"
    request_rules: str = "warn"  # counters that rise, and the User's role
    device_list: str = "warn"  # "require": a device on a warning list gets no image
    acb: str | None = None
    poll_s: int = 3600  # how long ``--wait`` waits for an upgrade
    message_poll_s: int = 300  # and for the answer to a message
    straggler_s: int = 10  # and for an alert that may or may not follow a failure
    central_products_list: str | None = None  # a CSV file
    inventory: tuple[InventoryEntry, ...] = ()
    gbcs_version: str = "4.1"  # of a device that neither inventory nor products list tells
    gbcs_version_min: str = "4.1"  # for an update of a PPMID or an HCALCS
    delivered_alert: str = "N60"
    not_delivered_alert: str = "N61"
    comms_hub_alert: str = "N62"
    ppmid_alert: str = "N63"


@dataclass(frozen=True)
class DeviceConfig:
    """What ``run`` reads."""

    device: DeviceSection
    keys: KeysSection
    storage: StorageSection = dataclasses.field(default_factory=StorageSection)
    radio: RadioSection = dataclasses.field(default_factory=RadioSection)
    control: ControlSection = dataclasses.field(default_factory=ControlSection)
    gpio: GpioSection = dataclasses.field(default_factory=GpioSection)
    log: LogSection = dataclasses.field(default_factory=LogSection)
    notify: Mapping[str, NotifySection] = dataclasses.field(default_factory=dict)
    ota: OtaSettings = dataclasses.field(default_factory=OtaSettings)
    activation: ActivationSettings = dataclasses.field(default_factory=ActivationSettings)
    switch: LoadSwitchSettings = dataclasses.field(default_factory=LoadSwitchSettings)

    def settings(self) -> DeviceSettings:
        """The core's values."""
        device = self.device
        return DeviceSettings(
            type=DeviceType(device.type),
            entity_id=EntityId.parse(device.entity_id),
            manufacturer_code=device.manufacturer_code,
            image_type=device.image_type,
            hardware_version=device.hardware_version,
            manufacturer_signature_required=device.manufacturer_signature == "require",
            acb=None if device.acb is None else EntityId.parse(device.acb),
            supplier=None if device.supplier is None else EntityId.parse(device.supplier),
            image_format=None if device.image_format is None else ImageFormat(device.image_format),
            check_validity=self.keys.check_validity,
            ota=self.ota,
            activation=self.activation,
            switch=dataclasses.replace(
                self.switch, relays=self.switch.relays or tuple(self.gpio.relays)
            ),
        )


@dataclass(frozen=True)
class HubConfig:
    """What ``hub`` reads."""

    hub: HubSection
    keys: KeysSection
    dcc: DccSection = dataclasses.field(default_factory=DccSection)
    radio: RadioSection = dataclasses.field(default_factory=RadioSection)
    log: LogSection = dataclasses.field(default_factory=LogSection)


INDICATORS = ("joined", "downloading", "waiting", "failed", "load")
# A key by its dotted name, and the words or the numbers it takes.
CHOICES: Mapping[str, Sequence[str]] = {
    "device.type": [kind.value for kind in DeviceType],
    "device.manufacturer_signature": ["optional", "require"],
    "device.image_format": [kind.value for kind in ImageFormat],
    "radio.type": ["virtual", "znp"],
    "radio.role": ["end-device", "router"],
    "radio.profile": ["strict", "lenient"],
    "radio.eui64": ["entity-id", "stick"],
    "dcc.request_signature": ["warn", "require"],
    "gpio.buttons.*.action": ["query", "reboot"],
    "gpio.backend": ["auto", "gpiod", "rpi-gpio", "memory", "none"],
    "notify.*.type": ["file", "command", "webhook"],
    "log.level": ["error", "warning", "info", "debug"],
    "dcc.request_rules": ["warn", "require"],
    "dcc.device_list": ["warn", "require"],
    "dcc.inventory.type": [kind.value for kind in DeviceType],
}
RANGES: Mapping[str, tuple[int, int]] = {
    "device.manufacturer_code": (0, 0xFFFF),
    "device.image_type": (0, 0xFFFF),
    "device.hardware_version": (0, 0xFFFF),
    "storage.bank_size": (4096, MANUFACTURER_IMAGE_MAX),
    "ota.block_size": (1, 255),  # the field is one octet
    "ota.page_size": (0, 0xFFFF),
    "ota.page_spacing_ms": (0, 0xFFFF),
    "ota.errors_max": (1, 1000),
    "ota.query_jitter_percent": (0, 100),
    "activation.trial_starts_max": (1, 1000),
    "switch.start_randomisation_min": (0, 60),  # minutes; ZSE, Demand Response and Load Control
    "switch.duration_randomisation_min": (0, 60),
    "switch.device_class": (0, 0xFFFF),
    "switch.enrollment_group": (0, 0xFF),
    "switch.discovery_interval_s": (1, 86400),
    "switch.ask_retry_first_ms": (100, 3_600_000),
    "switch.ask_retry_last_ms": (100, 3_600_000),
    "hub.block_size_max": (1, 255),
    "radio.channels": (11, 26),  # of IEEE 802.15.4 at 2.4 GHz
    "radio.device_id": (0, 0xFFFF),
    "radio.baud": (1200, 4_000_000),
    "dcc.inventory.manufacturer_code": (0, 0xFFFF),
    "dcc.inventory.model": (0, 0xFFFF),
    "dcc.inventory.hardware_version": (0, 0xFFFF),
}
_ENTITIES = (
    "device.entity_id",
    "device.acb",
    "device.supplier",
    "hub.entity_id",
    "dcc.acb",
    "dcc.inventory.entity_id",
    "radio.joiners.entity_id",
)
# What a text must look like, and how that is said.
_ALERT_CODE = (re.compile(r"N\d{1,3}|AD1"), "a DCC alert code such as N60")
_GBCS_VERSION = (re.compile(r"\d{1,3}\.\d{1,3}"), "a GBCS version such as 4.1")
_URL = re.compile(r"https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:]+\])(:\d{1,5})?(/[!-~]*)?")
_INSTALL_CODE = (re.compile(r"[0-9A-Fa-f]{36}"), "36 hexadecimal digits, the CRC the last four")
_LINK_KEY = (re.compile(r"[0-9A-Fa-f]{32}"), "32 hexadecimal digits")
PATTERNS: Mapping[str, tuple[re.Pattern[str], str]] = {
    "dcc.delivered_alert": _ALERT_CODE,
    "dcc.not_delivered_alert": _ALERT_CODE,
    "dcc.comms_hub_alert": _ALERT_CODE,
    "dcc.ppmid_alert": _ALERT_CODE,
    "dcc.gbcs_version": _GBCS_VERSION,
    "dcc.gbcs_version_min": _GBCS_VERSION,
    "dcc.inventory.gbcs_version": _GBCS_VERSION,
    "radio.install_code": _INSTALL_CODE,
    "radio.joiners.install_code": _INSTALL_CODE,
    "radio.link_key": _LINK_KEY,
    "radio.joiners.link_key": _LINK_KEY,
    "radio.extended_pan_id": (re.compile(r"[0-9A-Fa-f]{16}"), "16 hexadecimal digits"),
    "dcc.inventory.firmware_version": (re.compile(r"[0-9A-Fa-f]{8}"), "8 hexadecimal digits"),
}


def read_device_config(path: Path) -> DeviceConfig:
    """Read and cross-check a device's configuration.

    Raises:
        ConfigError: one line: file, line, what was found, what is expected.
    """
    text, config = _read(path, DeviceConfig)
    _check_lines(text, config)
    for name, section in config.notify.items():
        _check_sink(text, f"notify.{name}", section)
    storage, control = config.storage, config.control
    if not storage.directory:
        storage = dataclasses.replace(storage, directory=str(state_directory(path.stem)))
    if not control.socket:
        control = ControlSection(str(runtime_directory() / path.stem / "control.sock"))
    _check_socket(text, "control.socket", control.socket)
    radio = _checked_radio(text, config.radio)
    return dataclasses.replace(config, radio=radio, storage=storage, control=control)


def _check_lines(text: _Text, config: DeviceConfig) -> None:
    """Every line must be one that something drives, and everything driven must have its line."""
    gpio = config.gpio
    for name in gpio.relays:
        if name in gpio.indicators:
            where = f"gpio.indicators.{name}"
            raise _wrong(text, where, f"{name!r}, a relay too", "another name")
        if config.device.type != DeviceType.HCALCS.value:
            where, found = f"gpio.relays.{name}", f"a relay of a {config.device.type}"
            raise _wrong(text, where, found, "an hcalcs, which has a load switch")
        if config.switch.relays and name not in config.switch.relays:
            found = ", ".join(config.switch.relays)
            raise _wrong(text, "switch.relays", found, f"{name} too, or no such relay")
    for name in gpio.buttons:
        if name in gpio.lines:
            where = f"gpio.buttons.{name}"
            raise _wrong(text, where, f"{name!r}, an output too", "another name")
    for name in config.switch.relays:
        if name not in gpio.relays:
            expected = f"one of {', '.join(gpio.relays) or 'no relays'} ([gpio.relays])"
            raise _wrong(text, "switch.relays", repr(name), expected)
    for name in gpio.indicators:
        if name not in INDICATORS:
            where = f"gpio.indicators.{name}"
            raise _wrong(text, where, repr(name), " or ".join(INDICATORS))


def _check_sink(text: _Text, where: str, section: NotifySection) -> None:
    """Exactly the key of its type, and names that there are."""
    own = {"file": "path", "command": "command", "webhook": "url"}[section.type]
    for key in ("path", "command", "url"):
        value = getattr(section, key)
        if key == own and not value:
            raise ConfigError(f"{text.where(where)}: missing key {where}.{key}")
        if key != own and value:
            raise _wrong(text, f"{where}.{key}", "it", f"none for type {section.type!r}")
    if section.command and not section.command[0].startswith("/"):
        raise _wrong(text, f"{where}.command", repr(section.command[0]), "an absolute path")
    if section.url and _URL.fullmatch(section.url) is None:
        raise _wrong(text, f"{where}.url", repr(section.url), "http://HOST or https://HOST")
    for name in section.names:
        if name not in NOTIFICATIONS:
            expected = "the name of a notification, as events shows"
            raise _wrong(text, f"{where}.names", repr(name), expected)


def read_hub_config(path: Path) -> HubConfig:
    """Read and cross-check a hub's configuration; errors as ``read_device_config``."""
    text, config = _read(path, HubConfig)
    hub, dcc = config.hub, config.dcc
    if _ACTIVATION.fullmatch(hub.activation) is None:
        raise _wrong(text, "hub.activation", repr(hub.activation), "now, hold or seconds")
    for entry in hub.script:
        if _SCRIPT.fullmatch(entry) is None:
            raise _wrong(text, "hub.script", repr(entry), "what:times:from_offset")
    if not dcc.socket:
        dcc = dataclasses.replace(dcc, socket=str(runtime_directory() / "hub.sock"))
    _check_socket(text, "dcc.socket", dcc.socket)
    return dataclasses.replace(config, radio=_checked_radio(text, config.radio), dcc=dcc)


def read_config(path: Path) -> DeviceConfig | HubConfig:
    """Whichever it is: a file with a ``[hub]`` is a hub's."""
    return read_hub_config(path) if "hub" in _parse(path)[1] else read_device_config(path)


def schema(kind: type[DeviceConfig] | type[HubConfig]) -> dict[str, Any]:
    """The JSON Schema of a configuration."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "hub" if kind is HubConfig else "run",
        **_schema_of(kind, ""),
    }


def read_key_folder(directory: str) -> dict[str, bytes]:
    """Names and contents of a key folder, or of credentials: ``credential:NAME``.

    Raises:
        ConfigError: it is not there or cannot be read.
    """
    prefix = ""
    if directory.startswith("credential:"):
        root = os.environ.get("CREDENTIALS_DIRECTORY")
        if root is None:
            raise ConfigError(
                f"keys.directory is {directory!r} and CREDENTIALS_DIRECTORY is not set"
            )
        prefix, directory = directory.removeprefix("credential:") + "_", root
    try:
        paths = sorted(Path(directory).iterdir())
    except OSError as error:
        raise ConfigError(f"key folder {directory}: {error.strerror}") from error
    found = {
        path.name.removeprefix(prefix): read_input(path, KEY_FILE_MAX)
        for path in paths
        if path.suffix in (".pem", ".key") and path.name.startswith(prefix)
    }
    if not found:
        raise ConfigError(f"key folder {directory}: no .pem or .key file in it")
    return found


def read_image(path: str) -> bytes:
    """An image or a request given by the operator, at most ``IMAGE_FILE_MAX`` bytes."""
    return read_input(path, IMAGE_FILE_MAX)


def read_input(path: str | Path, limit: int) -> bytes:
    """A file given by the operator; one without an end is as wrong as one that is too large.

    Raises:
        ConfigError: it cannot be read, or has more than ``limit`` bytes.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    if len(data) > limit:
        raise ConfigError(f"{path}: expected at most {limit} bytes, found more")
    return data


def runtime_directory() -> Path:
    """Where sockets are when nothing else is said."""
    if os.geteuid() == 0 or "RUNTIME_DIRECTORY" in os.environ:  # systemd made it for us
        return Path("/run/firmware-node")
    return Path(os.environ.get("XDG_RUNTIME_DIR", "/tmp")) / "firmware-node"  # noqa: S108


def state_directory(instance: str) -> Path:
    """Where an instance keeps its state when nothing else is said."""
    if os.geteuid() == 0 or "STATE_DIRECTORY" in os.environ:  # systemd made it for us
        return Path("/var/lib/firmware-node") / instance
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "firmware-node" / instance


class _Text:
    """A file's text, asked only where a key stands in it."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self._lines: dict[str, int] = {}
        section = ""
        for number, line in enumerate(text.splitlines(), 1):
            if found := _SECTION.match(line):
                section = _plain(found[1])
                self._lines.setdefault(section, number)
            elif found := _KEY.match(line):
                name = f"{section}.{_plain(found[1])}" if section else _plain(found[1])
                while name and name != section:  # a dotted key makes the tables on its way
                    self._lines.setdefault(name, number)
                    name = name.rpartition(".")[0]

    def where(self, name: str) -> str:
        """``file:line`` of a key by its dotted name, or of the table it is in."""
        while name not in self._lines and "." in name:
            name = name.rpartition(".")[0]
        return f"{self.path}:{self._lines.get(name, 1)}"


_SECTION = re.compile(r"\s*\[+([^\]]+)\]")
_AT_LINE = re.compile(r" \(at line (\d+), column \d+\)")
_ACTIVATION = re.compile(r"now|hold|[0-9]{1,9}")  # seconds: a UTC time has 32 bits
_SCRIPT = re.compile(r"[a-z_]+(:[0-9]{1,9}){0,2}")
_KEY = re.compile(r"\s*([A-Za-z0-9_\-.\"' ]+?)\s*=")


def _plain(name: str) -> str:
    return ".".join(part.strip().strip("\"'") for part in name.split("."))


def _parse(path: Path) -> tuple[str, dict[str, Any]]:
    data = read_input(path, CONFIG_FILE_MAX)
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at octet {error.start}") from error
    try:
        return text, tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        where = _AT_LINE.search(str(error))
        line = f":{where[1]}" if where else ""
        raise ConfigError(f"{path}{line}: no TOML: {_AT_LINE.sub('', str(error))}") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: no TOML: nested too deep") from error


def _read(path: Path, kind: type[T]) -> tuple[_Text, T]:
    source, tree = _parse(path)
    text = _Text(path, source)
    return text, _build(text, "", tree, kind)


def _wrong(text: _Text, name: str, found: str, expected: str) -> ConfigError:
    return ConfigError(f"{text.where(name)}: {name}: found {found}, expected {expected}")


def _check_socket(text: _Text, name: str, path: str) -> None:
    size = len(os.fsencode(path))
    if size > SOCKET_PATH_MAX:
        expected = f"at most {SOCKET_PATH_MAX}, a socket's limit"
        raise _wrong(text, name, f"a path of {size} octets", expected)


def _build(text: _Text, prefix: str, tree: Mapping[str, Any], kind: type[T]) -> T:
    hints = get_type_hints(kind)
    known = {item.name: item for item in fields(kind)}  # type: ignore[arg-type]  # a dataclass, by design
    for name in tree:
        if name not in known:
            import difflib  # a daemon that runs never needs it

            near = difflib.get_close_matches(name, known, 1)
            hint = f"; the nearest known key is {prefix}{near[0]}" if near else ""
            where = text.where(f"{prefix}{name}")
            raise ConfigError(f"{where}: unknown key {prefix}{name}{hint}")
    values: dict[str, Any] = {}
    for name, item in known.items():
        if name in tree:
            if tree[name] == "" and item.default != "":
                raise _wrong(text, f"{prefix}{name}", "an empty string", "something in it")
            values[name] = _value(text, f"{prefix}{name}", tree[name], hints[name])
        elif _is_required(item):
            where = text.where(f"{prefix}{name}")
            raise ConfigError(f"{where}: missing key {prefix}{name}")
    return kind(**values)


def _value(text: _Text, name: str, value: Any, hint: Any) -> Any:
    hint = _without_none(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, dict):
            raise _wrong(text, name, _found(value), "a table")
        return _build(text, f"{name}.", value, hint)
    if get_origin(hint) is Mapping:  # tables by names of the operator's choice
        if not isinstance(value, dict):
            raise _wrong(text, name, _found(value), "tables by name")
        kind = get_args(hint)[1]
        return {key: _value(text, f"{name}.{key}", entry, kind) for key, entry in value.items()}
    if get_origin(hint) is tuple:
        kind = get_args(hint)[0]
        raw, expected = _LISTS.get(kind, (dict, "a list of tables"))
        if not isinstance(value, list) or not all(type(entry) is raw for entry in value):
            raise _wrong(text, name, _found(value), expected)
        if kind in _LISTS:
            return tuple(_value(text, name, entry, kind) for entry in value)
        return tuple(_build(text, f"{name}.", entry, kind) for entry in value)
    if type(value) is not hint:
        raise _wrong(text, name, _found(value), _TYPES[hint])
    if hint is str and not value.isprintable():  # no path or name has a control character
        raise _wrong(text, name, _found(value), "printable characters")
    choices = CHOICES.get(_BY_NAME.sub(r"\1.*", name))
    if choices is not None and value not in choices:
        raise _wrong(text, name, repr(value), " or ".join(choices))
    if name in PATTERNS and PATTERNS[name][0].fullmatch(value) is None:
        raise _wrong(text, name, repr(value), PATTERNS[name][1])
    if name in _ENTITIES:
        try:
            EntityId.parse(value)
        except ConfigError as error:
            raise _wrong(text, name, repr(value), "16 hexadecimal digits") from error
    if hint is int:
        low, high = RANGES.get(name, (0, INTEGER_MAX))
        if not low <= value <= high:
            raise _wrong(text, name, str(value), f"{low} to {high}")
    return value


_BY_NAME = re.compile(r"^(notify|gpio\.(?:relays|indicators|buttons))\.[^.]+")
_TYPES = {str: "a string", int: "a whole number", bool: "true or false"}
_LISTS = {str: (str, "a list of strings"), int: (int, "a list of whole numbers")}
_SCHEMA_TYPES = {str: "string", int: "integer", bool: "boolean"}
_KINDS = {str: "the string ", int: "the number ", float: "the number "}


def _found(value: Any) -> str:
    """A value in TOML's words."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "a table"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    text = repr(value) if isinstance(value, str) else text
    return _KINDS.get(type(value), "") + (text if len(text) <= 40 else f"{text[:40]}...")


def _without_none(hint: Any) -> Any:
    if get_origin(hint) in (Union, types.UnionType):
        return next(arg for arg in get_args(hint) if arg is not type(None))
    return hint


def _is_required(item: dataclasses.Field[Any]) -> bool:
    return item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING


def _schema_of(kind: Any, prefix: str) -> dict[str, Any]:
    hints = get_type_hints(kind)
    properties: dict[str, Any] = {}
    for item in fields(kind):
        name, hint = f"{prefix}{item.name}", _without_none(hints[item.name])
        if dataclasses.is_dataclass(hint):
            properties[item.name] = _schema_of(hint, f"{name}.")
            continue
        if get_origin(hint) is Mapping:
            entry = _schema_of(get_args(hint)[1], f"{name}.*.")
            properties[item.name] = {"type": "object", "additionalProperties": entry}
            continue
        if get_origin(hint) is tuple:
            inner = get_args(hint)[0]
            items = (
                {"type": _SCHEMA_TYPES[inner]} if inner in _LISTS else _schema_of(inner, f"{name}.")
            )
            shape: dict[str, Any] = {"type": "array", "items": items}
        else:
            shape = {"type": _SCHEMA_TYPES[hint]}
        if name in CHOICES:
            shape["enum"] = list(CHOICES[name])
        if name in PATTERNS:
            shape["pattern"] = f"^({PATTERNS[name][0].pattern})$"
        if hint is int:
            shape["minimum"], shape["maximum"] = RANGES.get(name, (0, INTEGER_MAX))
        if item.default not in (dataclasses.MISSING, None, ""):
            shape["default"] = item.default
        properties[item.name] = shape
    return {
        "type": "object",
        "properties": properties,
        "required": [item.name for item in fields(kind) if _is_required(item)],
        "additionalProperties": False,
    }


def _checked_radio(text: _Text, radio: RadioSection) -> RadioSection:
    if radio.type == "znp":
        return _checked_stick(text, radio)
    if not radio.air:
        radio = dataclasses.replace(radio, air=str(runtime_directory() / "air.sock"))
    _check_socket(text, "radio.air", radio.air)
    return radio


def _checked_stick(text: _Text, radio: RadioSection) -> RadioSection:
    if not radio.path:
        raise _wrong(text, "radio.path", "none", "a serial port, a pty or socket://HOST:PORT")
    if not radio.channels:
        raise _wrong(text, "radio.channels", "none", "at least one of 11 to 26")
    if radio.install_code and radio.link_key:
        raise _wrong(text, "radio.link_key", "an install code besides", "one of the two")
    for joiner in radio.joiners:
        if (joiner.install_code is None) == (joiner.link_key is None):
            found = f"{joiner.entity_id} with both or none"
            raise _wrong(text, "radio.joiners", found, "one of the two keys")
    return radio
