"""Configuration: TOML to frozen values, once, with every error one line that says where.

Unknown keys are errors and name the nearest known one. The fixed names are those of the contract.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import tomllib
import types
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from firmware_node.errors import ConfigError
from firmware_node.terms import (
    ActivationSettings,
    DeviceSettings,
    DeviceType,
    EntityId,
    ImageFormat,
    OtaSettings,
)

T = TypeVar("T")
MANUFACTURER_IMAGE_MAX = 16 * 1024 * 1024  # bytes; above the schema limit of an image (gbcs.md 2.5)
IMAGE_FILE_MAX = 16 * 1024 * 1024
KEY_FILE_MAX = 64 * 1024


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


@dataclass(frozen=True)
class StorageSection:
    """``[storage]``."""

    directory: str
    bank_size: int = 1024 * 1024


@dataclass(frozen=True)
class KeysSection:
    """``[keys]``."""

    directory: str


@dataclass(frozen=True)
class RadioSection:
    """``[radio]``."""

    type: str = "virtual"
    air: str | None = None
    path: str | None = None
    role: str = "end-device"
    profile: str = "strict"


@dataclass(frozen=True)
class ControlSection:
    """``[control]``."""

    socket: str


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
class DccSection:
    """``[dcc]``."""

    socket: str
    request_signature: str = "warn"
    acb: str | None = None
    poll_s: int = 3600  # how long ``--wait`` waits


@dataclass(frozen=True)
class DeviceConfig:
    """What ``run`` reads."""

    device: DeviceSection
    storage: StorageSection
    keys: KeysSection
    radio: RadioSection
    control: ControlSection
    ota: OtaSettings = dataclasses.field(default_factory=OtaSettings)
    activation: ActivationSettings = dataclasses.field(default_factory=ActivationSettings)

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
            image_format=None if device.image_format is None else ImageFormat(device.image_format),
            ota=self.ota,
            activation=self.activation,
        )


@dataclass(frozen=True)
class HubConfig:
    """What ``hub`` reads."""

    hub: HubSection
    dcc: DccSection
    keys: KeysSection
    radio: RadioSection


def read_device_config(path: Path) -> DeviceConfig:
    """Read and cross-check a device's configuration.

    Raises:
        ConfigError: one line: file, line, what was found, what is expected.
    """
    config = _read(path, DeviceConfig)
    device = config.device
    _one_of(path, "device.type", device.type, [kind.value for kind in DeviceType])
    _one_of(
        path,
        "device.manufacturer_signature",
        device.manufacturer_signature,
        ["optional", "require"],
    )
    if device.image_format is not None:
        _one_of(path, "device.image_format", device.image_format, [f.value for f in ImageFormat])
    for name in ("manufacturer_code", "image_type", "hardware_version"):
        _within(path, f"device.{name}", getattr(device, name), 0, 0xFFFF)
    _within(path, "storage.bank_size", config.storage.bank_size, 4096, MANUFACTURER_IMAGE_MAX)
    _within(path, "ota.block_size", config.ota.block_size, 1, 255)
    _within(path, "ota.page_size", config.ota.page_size, 0, 0xFFFF)
    _within(path, "activation.trial_starts_max", config.activation.trial_starts_max, 1, 1000)
    _entity(path, "device.entity_id", device.entity_id)
    if device.acb is not None:
        _entity(path, "device.acb", device.acb)
    _check_radio(path, config.radio)
    return config


def read_hub_config(path: Path) -> HubConfig:
    """Read and cross-check a hub's configuration; errors as ``read_device_config``."""
    config = _read(path, HubConfig)
    _entity(path, "hub.entity_id", config.hub.entity_id)
    _one_of(path, "dcc.request_signature", config.dcc.request_signature, ["warn", "require"])
    _within(path, "hub.block_size_max", config.hub.block_size_max, 1, 255)
    if config.hub.activation not in ("now", "hold") and not config.hub.activation.isdigit():
        raise ConfigError(
            f"{path}: hub.activation: found {config.hub.activation!r}, "
            "expected now, hold or a number of seconds"
        )
    _check_radio(path, config.radio)
    return config


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
    found: dict[str, bytes] = {}
    try:
        for path in sorted(Path(directory).iterdir()):
            if path.suffix in (".pem", ".key") and path.name.startswith(prefix):
                if path.stat().st_size > KEY_FILE_MAX:
                    raise ConfigError(f"{path}: too large for a key")
                found[path.name.removeprefix(prefix)] = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"key folder {directory}: {error.strerror}") from error
    if not found:
        raise ConfigError(f"key folder {directory}: no .pem or .key file in it")
    return found


def read_image(path: str) -> bytes:
    """A file given by the operator, at most ``IMAGE_FILE_MAX`` bytes."""
    try:
        if Path(path).stat().st_size > IMAGE_FILE_MAX:
            raise ConfigError(f"{path}: more than {IMAGE_FILE_MAX} bytes")
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error


def runtime_directory() -> Path:
    """Where sockets are when nothing else is said."""
    if os.geteuid() == 0:
        return Path("/run/firmware-node")
    return Path(os.environ.get("XDG_RUNTIME_DIR", "/tmp")) / "firmware-node"  # noqa: S108


def _read(path: Path, kind: type[T]) -> T:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at octet {error.start}") from error
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {error}") from error
    return _build(path, text, "", tree, kind)


def _build(path: Path, text: str, prefix: str, tree: Mapping[str, Any], kind: type[T]) -> T:
    hints = get_type_hints(kind)
    known = {item.name: item for item in fields(kind)}  # type: ignore[arg-type]  # a dataclass, by design
    for name in tree:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; the nearest known key is {prefix}{near[0]}" if near else ""
            raise ConfigError(f"{path}:{_line(text, name)}: unknown key {prefix}{name}{hint}")
    values: dict[str, Any] = {}
    for name, item in known.items():
        if name not in tree:
            if item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
                raise ConfigError(f"{path}: missing key {prefix}{name}")
            continue
        where = f"{path}:{_line(text, name)}: {prefix}{name}"
        values[name] = _value(path, text, where, f"{prefix}{name}.", tree[name], hints[name])
    return kind(**values)


def _value(path: Path, text: str, where: str, prefix: str, value: Any, hint: Any) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: expected a table")
        return _build(path, text, prefix, value, hint)
    if get_origin(hint) in (Union, types.UnionType):
        hint = next(arg for arg in get_args(hint) if arg is not type(None))
    if get_origin(hint) is tuple:
        if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
            raise ConfigError(f"{where}: expected a list of strings")
        return tuple(value)
    if type(value) is not hint:
        raise ConfigError(
            f"{where}: found {type(value).__name__} {value!r}, expected {hint.__name__}"
        )
    if hint is int and value < 0:
        raise ConfigError(f"{where}: found {value}, expected 0 or more")
    return value


def _line(text: str, name: str) -> int:
    pattern = re.compile(rf"^\s*(\[\s*)?[\"']?{re.escape(name)}\b")
    for number, line in enumerate(text.splitlines(), 1):
        if pattern.match(line):
            return number
    return 1


def _check_radio(path: Path, radio: RadioSection) -> None:
    _one_of(path, "radio.type", radio.type, ["virtual", "znp"])
    _one_of(path, "radio.role", radio.role, ["end-device", "router"])
    _one_of(path, "radio.profile", radio.profile, ["strict", "lenient"])
    if radio.type == "znp":
        raise ConfigError(f"{path}: radio.type znp is not available yet, expected virtual")
    if radio.air is None:
        raise ConfigError(f"{path}: missing key radio.air")


def _one_of(path: Path, name: str, found: str, expected: list[str]) -> None:
    if found not in expected:
        raise ConfigError(f"{path}: {name}: found {found!r}, expected {' or '.join(expected)}")


def _within(path: Path, name: str, found: int, low: int, high: int) -> None:
    if not low <= found <= high:
        raise ConfigError(f"{path}: {name}: found {found}, expected {low} to {high}")


def _entity(path: Path, name: str, found: str) -> None:
    try:
        EntityId.parse(found)
    except ConfigError as error:
        raise ConfigError(f"{path}: {name}: {error}") from error
