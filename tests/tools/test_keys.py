"""The test PKI: complete, reproducible, and described truthfully."""

from __future__ import annotations

import datetime

import pytest

from firmware_node.crypto import Keyring, signs_deterministically
from firmware_node.errors import ConfigError
from firmware_node.sealing import Verdict, check_mac, seal_maced
from firmware_node.terms import EntityId, Role
from firmware_node.tools.keys import DEVICES, MANUFACTURERS, PARTIES, Party, build_keys, show
from firmware_node.wire.gbcs import Cra, GroupingHeader, decode_message

KEYS = build_keys(b"seed")
SUPPLIER = EntityId.parse("90b3d51f30010000")
BROKER = EntityId.parse("90b3d51f30000002")
PPMID = EntityId.parse("00db1234567890a4")


@pytest.mark.skipif(
    not signs_deterministically(), reason="this OpenSSL signs with fresh randomness"
)
def test_same_seed_gives_the_same_files() -> None:
    assert build_keys(b"seed") == KEYS
    assert list(KEYS) == sorted(KEYS)


def test_same_seed_gives_the_same_private_keys() -> None:
    again = build_keys(b"seed")
    assert {n: again[n] for n in again if n.endswith(".key")} == {
        n: KEYS[n] for n in KEYS if n.endswith(".key")
    }


def test_other_seeds_and_no_seed_give_other_keys() -> None:
    sets = [KEYS, build_keys(b"seed2"), build_keys(b""), build_keys(), build_keys()]
    name = f"{PPMID.hex}-ds.key"
    assert len({files[name] for files in sets}) == len(sets)


def test_every_private_key_of_a_set_is_its_own() -> None:
    private = [data for name, data in KEYS.items() if name.endswith(".key")]
    assert len(set(private)) == len(private)


def test_set_has_everything_one_han_needs() -> None:
    holders = [device.hex for device in DEVICES] + [party.entity_id.hex for party in PARTIES]
    expected = {
        f"{holder}-{usage}.{kind}"
        for holder in holders
        for usage in ("ds", "ka")
        for kind in ("pem", "key")
    }
    expected |= {
        f"manufacturer-{code:04x}-ds.{kind}" for code in MANUFACTURERS for kind in ("pem", "key")
    }
    authorities = {
        f"{chain}-{place}.pem"
        for chain in ("organisation", "device")
        for place in ("root", "issuing")
    }
    assert KEYS.keys() == expected | authorities


def test_keys_of_a_set_work_together() -> None:
    keyring = Keyring(KEYS)
    header = GroupingHeader(Cra.COMMAND, 1, BROKER, PPMID, 0x0129)
    message = decode_message(seal_maced(header, b"\5\0", keyring, BROKER, PPMID))
    assert check_mac(message, keyring) is Verdict.VALID
    signature = keyring.manufacturer_signing_key(0x121D).sign(b"image")
    assert keyring.manufacturer_verify_key(0x121D).is_valid(signature, b"image")


def test_every_row_of_a_fresh_set_is_complete_and_without_problems() -> None:
    rows = show(Keyring(KEYS), datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC))
    assert len(rows) == 2 * (len(DEVICES) + len(PARTIES)) + len(MANUFACTURERS)
    assert all(row.has_private and not row.problems for row in rows)
    roles = {row.name: row.role for row in rows}
    assert roles[f"{SUPPLIER.hex}-ds"] == "supplier"
    assert roles[f"{PPMID.hex}-ka"] == "device"
    assert roles["manufacturer-121d-ds"] == "manufacturer"


def test_chosen_holders_and_days_are_obeyed() -> None:
    party = Party(EntityId.parse("0011223344556677"), Role.SUPPLIER, "Mine")
    files = build_keys(b"seed", devices=(PPMID,), parties=(party,), manufacturers=(), days=10)
    keyring = Keyring(files)
    assert keyring.entities() == (party.entity_id, PPMID)
    info = keyring.certificate(f"{party.entity_id.hex}-ka.pem")
    assert info is not None
    assert (info.not_before, info.not_after) == ("2020-01-01T00:00:00Z", "2020-01-11T00:00:00Z")
    assert info.usages == ("keyAgreement",)


def test_expired_and_mislabelled_certificates_are_told() -> None:
    files = build_keys(b"seed", devices=(), manufacturers=(), days=10)
    files["0011223344556677-ka.pem"] = files[f"{SUPPLIER.hex}-ds.pem"]
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    problems = {row.name: row.problems for row in show(Keyring(files), now)}
    assert problems[f"{SUPPLIER.hex}-ds"] == ("expired 2020-01-11T00:00:00Z",)
    assert problems["0011223344556677-ka"] == (
        "certificate names 90-B3-D5-1F-30-01-00-00",
        "certificate is for digitalSignature",
        "expired 2020-01-11T00:00:00Z",
    )


def test_halves_of_different_pairs_are_refused() -> None:
    files = KEYS | {f"{PPMID.hex}-ds.key": KEYS[f"{PPMID.hex}-ka.key"]}
    with pytest.raises(ConfigError, match="does not belong"):
        show(Keyring(files))


def test_rows_hold_no_key_material() -> None:
    private = KEYS[f"{PPMID.hex}-ds.key"].decode().splitlines()[1]
    assert private not in repr(show(Keyring(KEYS)))


@pytest.mark.parametrize("days", [0, -1, 10**7])
def test_days_out_of_range_are_refused(days: int) -> None:
    with pytest.raises(ConfigError, match="days"):
        build_keys(b"seed", days=days)


def test_holder_that_is_there_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="twice"):
        build_keys(b"seed", devices=(PPMID, PPMID))
    with pytest.raises(ConfigError, match="manufacturer code"):
        build_keys(b"seed", manufacturers=(0x10000,))
