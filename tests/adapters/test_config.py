"""Configuration files as an operator writes them, and the one line each mistake gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from firmware_node.config import (
    IMAGE_FILE_MAX,
    KEY_FILE_MAX,
    DeviceConfig,
    HubConfig,
    LineSection,
    NotifySection,
    read_config,
    read_device_config,
    read_hub_config,
    read_image,
    read_key_folder,
    schema,
)
from firmware_node.errors import ConfigError
from firmware_node.terms import DeviceType, EntityId, ImageFormat

DEVICE = """\
[device]
type = "ppmid"
entity_id = "00-DB-12-34-56-78-90-A4"
manufacturer_code = 0x121D
image_type = 0x0084
hardware_version = 0x1111
[storage]
directory = "/var/tmp/state"
bank_size = 1048576
[keys]
directory = "keys"
[radio]
type = "virtual"
air = "air.sock"
[control]
socket = "control.sock"
"""
HUB = """\
[hub]
entity_id = "00-DB-12-34-56-78-90-A2"
[dcc]
socket = "hub.sock"
request_signature = "require"
[keys]
directory = "keys"
[radio]
air = "air.sock"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "ppmid.toml"


def test_a_device_file_gives_the_settings_of_the_core(file: Path) -> None:
    file.write_text(
        DEVICE.replace("[storage]", 'image_format = "gb-plain"\n[storage]')
        + "[ota]\nblock_size = 48\n[activation]\nconfirm_after_s = 1\n"
    )
    config = read_device_config(file)
    settings = config.settings()
    assert settings.type is DeviceType.PPMID
    assert settings.entity_id == EntityId.parse("00db1234567890a4")
    assert (settings.manufacturer_code, settings.image_type) == (0x121D, 0x0084)
    assert settings.image_format is ImageFormat.GB_PLAIN
    assert not settings.manufacturer_signature_required
    assert settings.ota.block_size == 48
    assert settings.activation.confirm_after_s == 1
    assert settings.activation.trial_starts_max == 5  # not given: the default
    assert config.control.socket == "control.sock"


def test_a_hub_file_is_told_from_a_device_file(file: Path) -> None:
    file.write_text(HUB)
    config = read_config(file)
    assert isinstance(config, HubConfig)
    assert config == read_hub_config(file)
    assert config.dcc.request_signature == "require"
    file.write_text(DEVICE)
    assert isinstance(read_config(file), DeviceConfig)


@pytest.mark.parametrize(
    ("found", "instead", "line"),
    [
        ("bank_size =", "bank_sise =", "ppmid.toml:9: unknown key storage.bank_sise"),
        ("bank_size =", "bank_sise =", "the nearest known key is storage.bank_size"),
        ("[radio]", "[radoi]", "ppmid.toml:12: unknown key radoi; the nearest known key is radio"),
        (
            'directory = "keys"',
            "directory = 5",
            "ppmid.toml:11: keys.directory: found the number 5",
        ),
        ('directory = "keys"', 'directory = ""', ":11: keys.directory: found an empty string"),
        (
            '"keys"',
            r'"ke\u0000ys"',
            r":11: keys.directory: found the string 'ke\x00ys', expected print",
        ),
        ('"keys"', "1979-05-27", ":11: keys.directory: found 1979-05-27, expected a string"),
        ('"keys"', '["keys"]', ":11: keys.directory: found a list, expected a string"),
        ('type = "ppmid"', 'type = "toaster"', "ppmid.toml:2: device.type: found 'toaster'"),
        ("0x121D", "0x1121D", "ppmid.toml:4: device.manufacturer_code: found 70173"),
        ("0x0084", "true", "ppmid.toml:5: device.image_type: found true, expected a whole"),
        (
            "0x0084",
            "1.5",
            "ppmid.toml:5: device.image_type: found the number 1.5, expected a whole",
        ),
        ("0x1111", "-1", "ppmid.toml:6: device.hardware_version: found -1, expected 0 to 65535"),
        ("-A4", "-G4", ":3: device.entity_id: found '00-DB-12-34-56-78-90-G4', expected 16 hex"),
        ("1048576", "10", "ppmid.toml:9: storage.bank_size: found 10, expected 4096 to"),
        ("image_type = 0x0084\n", "", "ppmid.toml:1: missing key device.image_type"),
        ('"virtual"', '"znp"', "ppmid.toml:12: radio.path: found none, expected a serial port"),
        ('"virtual"', '"zmp"', "ppmid.toml:13: radio.type: found 'zmp', expected virtual or znp"),
        (
            "control.sock",
            "c" * 108,
            ":16: control.socket: found a path of 108 octets, expected at most",
        ),
        ("air.sock", "a" * 108, ":14: radio.air: found a path of 108 octets, expected at most 107"),
        ("[storage]", "ota.block_sise = 1\n[storage]", ":7: unknown key device.ota"),
        ('type = "ppmid"', 'type = "ppmid', "ppmid.toml:2: no TOML: Illegal character"),
        ("[control]", "[device]", "ppmid.toml:15: no TOML: Cannot declare"),
        ("0x0084", "[" * 100_000, "ppmid.toml: no TOML: nested too deep"),
    ],
)
def test_each_mistake_is_one_line_that_says_where_and_what(
    file: Path, found: str, instead: str, line: str
) -> None:
    assert found in DEVICE
    file.write_text(DEVICE.replace(found, instead, 1))
    with pytest.raises(ConfigError) as caught:
        read_device_config(file)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


STICK = DEVICE.replace('"virtual"', '"znp"\npath = "/dev/ttyUSB0"')
INSTALL_CODE = "83FED3407A939723A5C639B26916D505C3B5"
JOINER = """\
[[radio.joiners]]
entity_id = "00-DB-12-34-56-78-90-A4"
"""


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("channels = [11, 27]", "radio.channels: found 27, expected 11 to 26"),
        ("channels = [10]", "radio.channels: found 10, expected 11 to 26"),
        ("channels = 11", "radio.channels: found the number 11, expected a list of whole numbers"),
        ("channels = []", "radio.channels: found none, expected at least one of 11 to 26"),
        (f'install_code = "{INSTALL_CODE[:-1]}"', "expected 36 hexadecimal digits, the CRC the"),
        (f'install_code = "{INSTALL_CODE[:-1]}g"', "expected 36 hexadecimal digits, the CRC the"),
        ('link_key = "00"', "radio.link_key: found '00', expected 32 hexadecimal digits"),
        ('extended_pan_id = "0011"', "radio.extended_pan_id: found '0011', expected 16 hexadec"),
        (
            f'install_code = "{INSTALL_CODE}"\nlink_key = "{"00" * 16}"',
            "radio.link_key: found an install code besides, expected one of the two",
        ),
        ('role = "coordinator"', "radio.role: found 'coordinator', expected end-device or router"),
        ('profile = "loose"', "radio.profile: found 'loose', expected strict or lenient"),
        ('eui64 = "own"', "radio.eui64: found 'own', expected entity-id or stick"),
        ("baud = 300", "radio.baud: found 300, expected 1200 to 4000000"),
    ],
)
def test_each_mistake_about_a_stick_too(file: Path, line: str, says: str) -> None:
    at = f"{line}\nair ="
    file.write_text(STICK.replace("air =", at))
    with pytest.raises(ConfigError) as caught:
        read_device_config(file)
    where, _, what = str(caught.value).partition(": ")
    assert where == f"{file}:{15 + line.count(chr(10))}"
    assert says in what


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("", "radio.joiners: found 00-DB-12-34-56-78-90-A4 with both or none, expected one"),
        (
            f'install_code = "{INSTALL_CODE}"\nlink_key = "{"00" * 16}"',
            "radio.joiners: found 00-DB-12-34-56-78-90-A4 with both or none, expected one",
        ),
        ('install_code = "83FE"', "radio.joiners.install_code: found '83FE', expected 36 hexadec"),
        ('link_key = "83FE"', "radio.joiners.link_key: found '83FE', expected 32 hexadecimal"),
        (f'install_kode = "{INSTALL_CODE}"', "nearest known key is radio.joiners.install_code"),
    ],
)
def test_a_joiner_of_a_hub_has_one_key(file: Path, key: str, says: str) -> None:
    stick = 'type = "znp"\npath = "/dev/ttyUSB0"\n'
    file.write_text(HUB.replace('air = "air.sock"\n', stick + JOINER + key))
    with pytest.raises(ConfigError) as caught:
        read_hub_config(file)
    assert says in str(caught.value)


def test_a_stick_s_settings_are_read(file: Path) -> None:
    file.write_text(STICK.replace("air =", "channels = [11, 15]\nair ="))
    radio = read_device_config(file).radio
    assert (radio.type, radio.path, radio.channels) == ("znp", "/dev/ttyUSB0", (11, 15))
    stick = 'type = "znp"\npath = "socket://127.0.0.1:1"\n'
    key = f'install_code = "{INSTALL_CODE}"'
    file.write_text(HUB.replace('air = "air.sock"\n', stick + JOINER + key))
    (joiner,) = read_hub_config(file).radio.joiners
    assert (joiner.entity_id, joiner.install_code, joiner.link_key) == (
        "00-DB-12-34-56-78-90-A4",
        INSTALL_CODE,
        None,
    )


@pytest.mark.parametrize(
    ("found", "instead", "line"),
    [
        ("-A2", "", "ppmid.toml:2: hub.entity_id"),
        ('"require"', '"maybe"', "ppmid.toml:5: dcc.request_signature: found 'maybe'"),
        ("[dcc]", 'activation = "soon"\n[dcc]', "ppmid.toml:3: hub.activation: found 'soon'"),
        ("[dcc]", 'activation = "9999999999"\n[dcc]', "hub.activation: found '9999999999'"),
        ("[dcc]", 'script = ["abort:x"]\n[dcc]', "ppmid.toml:3: hub.script: found 'abort:x'"),
        ("[dcc]", 'script = "abort"\n[dcc]', "hub.script: found the string 'abort', expected"),
        ("[dcc]", "block_size_max = 0\n[dcc]", "hub.block_size_max: found 0, expected 1 to 255"),
    ],
)
def test_each_mistake_of_a_hub_file_too(file: Path, found: str, instead: str, line: str) -> None:
    file.write_text(HUB.replace(found, instead, 1))
    with pytest.raises(ConfigError) as caught:
        read_hub_config(file)
    assert line in str(caught.value)


def test_a_file_that_is_absent_or_no_text_is_a_configuration_error(file: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_device_config(file)
    file.write_bytes(b"[device]\ntype = '\xff'")
    with pytest.raises(ConfigError, match="not UTF-8 at octet 17"):
        read_device_config(file)


def test_paths_that_are_not_given_follow_from_the_files_name(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("STATE_DIRECTORY", "RUNTIME_DIRECTORY"):  # as systemd says it
        monkeypatch.setenv(name, "given")
    needed = DEVICE.partition("[storage]")[0]
    file.write_text(needed + '[keys]\ndirectory = "keys"\n')
    config = read_device_config(file)
    assert config.storage.directory == "/var/lib/firmware-node/ppmid"
    assert config.control.socket == "/run/firmware-node/ppmid/control.sock"
    assert config.radio.air == "/run/firmware-node/air.sock"


def test_a_key_folder_gives_keys_and_certificates_only(tmp_path: Path) -> None:
    (tmp_path / "00db1234567890a4-ds.pem").write_bytes(b"public")
    (tmp_path / "00db1234567890a4-ds.key").write_bytes(b"private")
    (tmp_path / "README").write_bytes(b"not a key")
    found = read_key_folder(str(tmp_path))
    assert found == {"00db1234567890a4-ds.key": b"private", "00db1234567890a4-ds.pem": b"public"}


def test_credentials_are_read_by_their_prefix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "keys_00db1234567890a4-ds.pem").write_bytes(b"public")
    (tmp_path / "other_00db1234567890a4-ds.pem").write_bytes(b"another")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert read_key_folder("credential:keys") == {"00db1234567890a4-ds.pem": b"public"}
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    with pytest.raises(ConfigError, match="CREDENTIALS_DIRECTORY is not set"):
        read_key_folder("credential:keys")


def test_a_key_folder_that_is_absent_empty_or_holds_a_huge_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_key_folder(str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"no \.pem or \.key file"):
        read_key_folder(str(tmp_path))
    (tmp_path / "a.pem").write_bytes(bytes(KEY_FILE_MAX + 1))
    with pytest.raises(ConfigError, match=r"a\.pem: expected at most 65536"):
        read_key_folder(str(tmp_path))
    (tmp_path / "a.pem").unlink()
    (tmp_path / "a.pem").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"a\.pem: No such file"):
        read_key_folder(str(tmp_path))


def test_an_image_file_is_limited_in_size(tmp_path: Path) -> None:
    path = tmp_path / "image.ota"
    with path.open("wb") as file:
        file.truncate(IMAGE_FILE_MAX + 1)
    with pytest.raises(ConfigError, match="expected at most"):
        read_image(str(path))
    with pytest.raises(ConfigError, match="Is a directory"):
        read_image(str(tmp_path))
    with pytest.raises(ConfigError, match="expected at most"):
        read_image("/dev/zero")  # it tells no size and has no end
    path.write_bytes(b"image")
    assert read_image(str(path)) == b"image"


HCALCS = DEVICE.replace('"ppmid"', '"hcalcs"')
RELAYS = """\
[gpio]
backend = "gpiod"
[gpio.relays.main]
line = 17
active_low = true
[gpio.indicators.joined]
line = 5
safe = true
"""


def test_lines_have_the_names_that_the_operator_gave_them(file: Path) -> None:
    file.write_text(HCALCS + RELAYS)
    config = read_device_config(file)
    gpio = config.gpio
    assert config.settings().switch.relays == ("main",)  # what is not told is every relay
    assert gpio.relays == {"main": LineSection(17, active_low=True)}
    assert gpio.lines == {**gpio.relays, "joined": LineSection(5, safe=True)}
    file.write_text(DEVICE)
    assert read_device_config(file).gpio.lines == {}


@pytest.mark.parametrize(
    ("found", "instead", "reason"),
    [
        ("line = 17", "lnie = 17", ":20: unknown key gpio.relays.main.lnie; the nearest"),
        ("line = 17\n", "", ":19: missing key gpio.relays.main.line"),
        (
            "indicators.joined",
            "indicators.main",
            ":22: gpio.indicators.main: found 'main', a",
        ),
        ("indicators.joined", "indicators.wifi", "found 'wifi', expected joined or downloading"),
        ("[gpio]", '[switch]\nrelays = ["boost"]\n[gpio]', ":18: switch.relays: found boost, ex"),
        ("[gpio]", '[switch]\nrelays = ["main", "x"]\n[gpio]', "found 'x', expected one of main"),
        ("[gpio]", "[switch]\nstart_randomisation_min = 61\n[gpio]", "found 61, expected 0 to 60"),
        ("[gpio]", "[gpio.buttons.main]\nline = 3\n[gpio]", "'main', an output too"),
        ("[gpio]", '[gpio.buttons.b]\nline = 3\naction = "jump"\n[gpio]', "found 'jump'"),
        ('"gpiod"', '"sysfs"', "found 'sysfs', expected auto or gpiod"),
        ("[gpio.relays.main]\nline = 17\nactive_low = true", "relays = 5", "tables by name"),
    ],
)
def test_a_mistake_in_a_line_is_one_line_too(
    file: Path, found: str, instead: str, reason: str
) -> None:
    assert found in RELAYS
    file.write_text(HCALCS + RELAYS.replace(found, instead))
    with pytest.raises(ConfigError) as refused:
        read_device_config(file)
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)


SINKS = """\
[notify.file]
type = "file"
path = "told.jsonl"
[notify.hook]
type = "webhook"
url = "http://[::1]:8080/hook?x=1"
names = ["image_confirmed"]
[notify.command]
type = "command"
command = ["/bin/cat", "-"]
"""


def test_sinks_have_the_names_that_the_operator_gave_them(file: Path) -> None:
    file.write_text(DEVICE + SINKS)
    notify = read_device_config(file).notify
    assert notify["file"] == NotifySection("file", path="told.jsonl")
    assert notify["hook"].names == ("image_confirmed",)
    assert notify["command"].command == ("/bin/cat", "-")


@pytest.mark.parametrize(
    ("found", "instead", "reason"),
    [
        ('"file"\n', '"mail"\n', "notify.file.type: found 'mail', expected file or command"),
        ('path = "told.jsonl"\n', "", ":17: missing key notify.file.path"),
        ('type = "file"', 'type = "file"\nurl = "http://x"', "expected none for type 'file'"),
        ("/bin/cat", "cat", "found 'cat', expected an absolute path"),
        ("http://[::1]:8080", "ftp://x", "expected http://HOST or https://HOST"),
        ("http://[::1]:8080", "http://user:secret@x", "expected http://HOST or https://HOST"),
        ("image_confirmed", "image_conformed", "found 'image_conformed', expected the name of"),
    ],
)
def test_a_mistake_in_a_sink_is_one_line_too(
    file: Path, found: str, instead: str, reason: str
) -> None:
    assert found in SINKS
    file.write_text(DEVICE + SINKS.replace(found, instead))
    with pytest.raises(ConfigError) as refused:
        read_device_config(file)
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_relay_of_a_device_without_a_switch_is_refused(file: Path) -> None:
    file.write_text(DEVICE + RELAYS)
    with pytest.raises(ConfigError, match="a relay of a ppmid, expected an hcalcs"):
        read_device_config(file)


def test_the_schema_tells_choices_ranges_and_defaults() -> None:
    shape = schema(DeviceConfig)
    json.dumps(shape)
    assert shape["required"] == ["device", "keys"]
    device = shape["properties"]["device"]
    assert device["additionalProperties"] is False
    assert device["properties"]["type"]["enum"] == [kind.value for kind in DeviceType]
    bank_size = shape["properties"]["storage"]["properties"]["bank_size"]
    assert (bank_size["minimum"], bank_size["default"]) == (4096, 1048576)
    assert schema(HubConfig)["properties"]["hub"]["required"] == ["entity_id"]


INVENTORY = """
[[dcc.inventory]]
entity_id = "00DB1234567890A4"
type = "ppmid"
manufacturer_code = 0x10E0
model = 0x0005
hardware_version = 0x0100
firmware_version = "00070200"
[[dcc.inventory]]
entity_id = "00-DB-12-34-56-78-90-A5"
commissioned = false
gbcs_version = "3.2"
"""


def test_an_inventory_is_a_list_of_tables(file: Path) -> None:
    file.write_text(HUB + INVENTORY)
    first, second = read_hub_config(file).dcc.inventory
    assert (first.type, first.manufacturer_code, first.model) == ("ppmid", 0x10E0, 5)
    assert (first.firmware_version, first.commissioned, first.gbcs_version) == (
        "00070200",
        True,
        None,
    )
    assert (second.type, second.commissioned, second.gbcs_version) == (None, False, "3.2")
    items = schema(HubConfig)["properties"]["dcc"]["properties"]["inventory"]["items"]
    assert items["required"] == ["entity_id"]
    assert items["properties"]["firmware_version"]["pattern"] == "^([0-9A-Fa-f]{8})$"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"ppmid"', '"ihd"', "dcc.inventory.type: found 'ihd'"),
        ("0x10E0", "70000", "dcc.inventory.manufacturer_code: found 70000"),
        ('"00070200"', '"7.2"', "firmware_version: found '7.2', expected 8 hexadecimal digits"),
        ('"3.2"', '"three"', "gbcs_version: found 'three', expected a GBCS version"),
        ("commissioned", "commisioned", "nearest known key is dcc.inventory.commissioned"),
        ('entity_id = "00DB1234567890A4"\n', "", "missing key dcc.inventory.entity_id"),
        ("00DB1234567890A4", "A4", "dcc.inventory.entity_id"),
    ],
)
def test_a_wrong_entry_of_the_inventory_is_named(file: Path, old: str, new: str, says: str) -> None:
    assert old in INVENTORY
    file.write_text(HUB + INVENTORY.replace(old, new))
    with pytest.raises(ConfigError, match=says):
        read_hub_config(file)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('inventory = "x"', "expected a list of tables"),
        ("inventory = [1]", "expected a list of tables"),
        ('device_list = "strict"', "expected warn or require"),
        ('request_rules = "no"', "expected warn or require"),
        ('ppmid_alert = "63"', "expected a DCC alert code"),
        ('gbcs_version_min = "4"', "expected a GBCS version"),
    ],
)
def test_a_wrong_rule_of_the_dcc_is_named(file: Path, line: str, says: str) -> None:
    file.write_text(HUB.replace("[dcc]\n", f"[dcc]\n{line}\n"))
    with pytest.raises(ConfigError, match=f"ppmid.toml:4: dcc.*{says}"):
        read_hub_config(file)
