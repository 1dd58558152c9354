"""Messages of the bus: what is read, what is refused, what never travels."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_node.errors import ConfigError, DecodeError
from firmware_node.fleet import bus
from firmware_node.fleet.bus import (
    Ack,
    Batch,
    Command,
    Desired,
    Outcome,
    Reported,
    Share,
    ShareReport,
    Unit,
    UnitReport,
)
from firmware_node.fleet.terms import Event, Order
from firmware_node.terms import EntityId

SHARE = Share(
    "run-1", {"name": "x"}, (10, 19), 1_700_000_000_000, 60.0, {"seed": 3}, {"a": 64 * "0"}
)
DESIRED = Desired(
    7, (SHARE,), (Unit("ppmid", True, '[device]\ntype = "ppmid"\n'), Unit("hub", False))
)
REPORTED = Reported(
    7,
    "1.0",
    ("homes", "units"),
    3,
    1_700_000_000_000,
    (ShareReport("run-1", "running", 12_000, (10, 19)),),
    (UnitReport("ppmid", True, "active", "00-DB-12-34-56-78-90-A4", "idle"),),
)
ORDERS = Batch("run-1", "1", 5, (Order("offer", 20, "ppmid-2"), Order("cut", 21, "", 5_000)))
EVENTS = Batch("run-1", "ab12", 1, (Event(5, 20, "joined", {}), Event(6, 20, "told", {"a": None})))
INSTALL_CODE = "83FED3407A939723A5C639B26916D505C3B5"  # of the Zigbee base device specification

Decoder = Callable[[bytes], Any]
MESSAGES: list[tuple[Any, Decoder]] = [
    (DESIRED, bus.decode_desired),
    (REPORTED, bus.decode_reported),
    (ORDERS, bus.decode_orders),
    (EVENTS, bus.decode_events),
    (Ack("run-1", "ab12", 0), bus.decode_ack),
    (Command("id-1", "query"), bus.decode_command),
    (Outcome("id-1", "refused", "not now"), bus.decode_outcome),
]
each_message = pytest.mark.parametrize(
    ("message", "decode"),
    MESSAGES,
    ids=[type(m).__name__ + str(n) for n, (m, _) in enumerate(MESSAGES)],
)


@each_message
def test_every_message_is_read_as_it_was_written(message: Any, decode: Decoder) -> None:
    assert decode(bus.encode(message)) == message


@each_message
def test_a_message_that_is_cut_anywhere_is_refused(message: Any, decode: Decoder) -> None:
    octets = bus.encode(message)
    for size in range(len(octets)):
        with pytest.raises(DecodeError):
            decode(octets[:size])


@each_message
def test_an_unknown_key_and_a_missing_one_are_refused(message: Any, decode: Decoder) -> None:
    tree = json.loads(bus.encode(message))
    with pytest.raises(DecodeError, match="tea: unknown key"):
        decode(json.dumps(tree | {"tea": 1}).encode())
    for name in tree:
        with pytest.raises(DecodeError, match="missing key"):
            decode(json.dumps({key: value for key, value in tree.items() if key != name}).encode())


ODD_VALUES: list[Any] = [
    *(None, True, -1, 0, 2**63, 1.5, "", "x" * 3_000, "a b", "\x00", [], {}, [None], [[]]),
    *([{}], {"": {}}, [["offer", 1, "", True]], [[0, 1, "told", {"a": []}]], [1, 0], ["homes", 1]),
    *([{"fleet": "a"}], [{"name": "a", "enabled": 1}], {"homes": [1]}, {"tea": 1}),
]


@each_message
def test_a_value_of_another_kind_is_refused_and_nothing_else_is_raised(
    message: Any, decode: Decoder
) -> None:
    tree = json.loads(bus.encode(message))
    refused = 0
    for name in tree:
        for value in ODD_VALUES:
            try:
                decode(json.dumps(tree | {name: value}).encode())
            except DecodeError:
                refused += 1
    assert refused > len(tree) * len(ODD_VALUES) // 2


@given(st.binary(max_size=200))
def test_no_octets_raise_anything_but_a_decode_error(octets: bytes) -> None:
    for _, decode in MESSAGES:
        with pytest.raises(DecodeError):
            decode(octets)


@pytest.mark.parametrize(
    "octets",
    [
        b"[" * 100_000,
        b'{"fleet":"a","fleet":"b","source":"1","upto":1}',
        b'{"fleet":"a","source":"1","upto":NaN}',
        b'{"fleet":"a","source":"1","upto":-1}',
        b'{"fleet":"a","source":"1","upto":1e3}',
        b'{"fleet":"a","source":"1","upto":true}',
        b'{"fleet":"../a","source":"1","upto":1}',
        b" " * (bus.MESSAGE_MAX + 1),
    ],
)
def test_what_json_lets_through_and_we_do_not(octets: bytes) -> None:
    with pytest.raises(DecodeError):
        bus.decode_ack(octets)


def test_a_batch_holds_no_more_than_agreed() -> None:
    full = Batch("run-1", "1", 1, (Order("query", 1),) * bus.BATCH_MAX)
    assert bus.decode_orders(bus.encode(full)) == full
    with pytest.raises(DecodeError, match="at most"):
        bus.decode_orders(bus.encode(full._replace(items=full.items + full.items[:1])))


def test_an_order_is_one_of_the_verbs_and_names_a_member() -> None:
    for order in (Order("explode", 1), Order("offer", -1), Order("cut", 1, "", -1)):
        with pytest.raises(DecodeError):
            bus.decode_orders(bus.encode(Batch("run-1", "1", 1, (order,))))


# --- no key on the bus ----------------------------------------------------------------------------

SECRETS = [
    "-----BEGIN PRIVATE KEY-----\nMIGH",
    "-----BEGIN CERTIFICATE-----",
    "MHcCAQEEIIrYSSNQFaA2Hwf1duRSxKtLYX5CB04fSeQ6tF1aY/PuoAoGCCqGSM49",
    f"code {INSTALL_CODE}",
    "83FE D340 7A93 9723 A5C6 39B2 6916 D505 C3B5",
    "83:fe:d3:40:7a:93:97:23:a5:c6:39:b2:69:16:d5:05:c3:b5",
]


@pytest.mark.parametrize("secret", SECRETS)
def test_what_looks_like_a_key_is_neither_sent_nor_taken_nor_shown(secret: str) -> None:
    config = f'[device]\nname = """{secret}"""\n'
    for message in (
        Desired(1, (), (Unit("ppmid", True, config),)),
        Desired(1, (Share("run-1", {"name": secret}, (0, 1), 0),)),
        Outcome("id-1", "done", secret),
    ):
        with pytest.raises(ConfigError) as caught:
            bus.encode(message)
        assert secret[:12] not in str(caught.value)
    tree = {"id": "id-1", "result": "done", "text": secret}
    with pytest.raises(DecodeError) as refused:
        bus.decode_outcome(json.dumps(tree).encode())
    assert secret[:12] not in str(refused.value)


@pytest.mark.parametrize("name", sorted(bus.KEY_NAMES))
def test_what_is_called_a_key_is_refused_wherever_it_stands(name: str) -> None:
    config = f'[[radio.joiners]]\nentity_id = "00-DB-12-34-56-78-90-A4"\n{name} = "x"\n'
    with pytest.raises(ConfigError, match=f"joiners.{name}: keys and passwords"):
        bus.encode(Desired(1, (), (Unit("hub", True, config),)))
    with pytest.raises(ConfigError, match="do not go over the bus"):
        bus.encode(Desired(1, (Share("run-1", {"fleet": {name: 1}}, (0, 1), 0),)))


def test_ids_hashes_and_versions_are_no_keys() -> None:
    fields = {
        "entity_id": "00-DB-12-34-56-78-90-A4",
        "ids": "00-DB-12-34-56-78-90-A4 00-DB-12-34-56-78-90-A5",
        "sha256": "83fed3407a939723a5c639b26916d505" * 2,
        "broken_code": INSTALL_CODE[:-1] + "6",
        "hex": "df09" * 40,
    }
    bus.encode(Batch("run-1", "1", 1, (Event(0, 1, "message", fields),)))


def test_a_configuration_that_is_no_toml_is_refused() -> None:
    with pytest.raises(ConfigError, match="is no TOML"):
        bus.encode(Desired(1, (), (Unit("ppmid", True, "[device"),)))


# --- topics ---------------------------------------------------------------------------------------


def test_topics_name_hosts_and_devices() -> None:
    device = EntityId.parse("00-DB-12-34-56-78-90-A4")
    assert bus.host_topic("lab", "pi-1", "desired") == "fn/v1/lab/pi-1/desired"
    assert bus.device_topic("lab", device, "cmd") == "fn/v1/lab/dev/00db1234567890a4/cmd"
    assert bus.split_topic("fn/v1/lab/pi-1/desired") == ("pi-1", "desired")
    assert bus.split_topic("fn/v1/lab/dev/00db1234567890a4/cmd") == ("00db1234567890a4", "cmd")
    with pytest.raises(DecodeError):
        bus.split_topic("fn/v1/lab")


@pytest.mark.parametrize(
    "name", ["", "dev", "all", "images", "A", "a/b", "+", "#", "-a", "a" * 64, 5]
)
def test_a_name_that_would_be_another_topic_is_refused(name: Any) -> None:
    with pytest.raises(ConfigError):
        bus.bus_name("host", name)
