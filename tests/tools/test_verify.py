"""Yes or no over many messages, with what was counted."""

from __future__ import annotations

from dataclasses import replace

from firmware_node.crypto import Keyring
from firmware_node.sealing import seal_content, seal_maced, seal_signed
from firmware_node.terms import EntityId
from firmware_node.tools.decode import decode_file
from firmware_node.tools.keys import build_keys
from firmware_node.tools.verify import NOT_GBCS, Tally
from firmware_node.wire.gbcs import Cra, GroupingHeader

KEYRING = Keyring(build_keys(b"test_verify", days=10))  # from 2020-01-01
BROKER = EntityId.parse("90b3d51f30000002")
PPMID = EntityId.parse("00db1234567890a4")
READ_VERSION = GroupingHeader(Cra.COMMAND, 1300, BROKER, PPMID, 0x0129)
COMMAND = seal_maced(READ_VERSION, b"\5\0", KEYRING, BROKER, PPMID)
BROKEN = seal_maced(READ_VERSION, b"\6\0", KEYRING, BROKER, PPMID)
ALERT_HEADER = GroupingHeader(Cra.ALERT, 1, PPMID, BROKER, 0xFFFF)
ALERT = seal_signed(ALERT_HEADER, b"abc", KEYRING.signing_key(PPMID))
SPOILT = COMMAND[:-1] + bytes((COMMAND[-1] ^ 1,))
TOO_LATE = 7320 * 86_400


def tally_of(
    *messages: bytes,
    keyring: Keyring = KEYRING,
    strict: bool = False,
    check_validity: bool = False,
) -> Tally:
    tally = Tally(strict=strict, check_validity=check_validity)
    for number, octets in enumerate(messages):
        tally.add(decode_file(f"file {number}", octets, keyring, TOO_LATE))
    return tally


def test_good_messages_are_counted_by_use_case_and_the_answer_is_yes() -> None:
    tally = tally_of(COMMAND, COMMAND, ALERT)
    assert tally.is_good
    assert tally.table() == [
        row("CS08", "2", "-", "2 valid", "2 decoded"),
        row("FFFF", "1", "1 valid", "-", "1 raw"),
        row("all", "3", "1 valid", "2 valid", "2 decoded, 1 raw"),
    ]
    assert tally.document()["valid"] is True


def row(use_case: str, messages: str, signatures: str, macs: str, payloads: str) -> dict[str, str]:
    return {
        "use case": use_case,
        "messages": messages,
        "signatures": signatures,
        "MACs": macs,
        "payloads": payloads,
    }


def test_one_invalid_mac_makes_the_answer_no_and_is_named() -> None:
    tally = tally_of(COMMAND, SPOILT)
    assert not tally.is_good
    assert tally.failures() == ["file 1: mac invalid"]
    assert tally.table()[0] == row("CS08", "2", "-", "1 valid, 1 invalid", "2 decoded")


def test_file_that_is_no_message_makes_the_answer_no() -> None:
    tally = tally_of(COMMAND, b"hello")
    assert not tally.is_good
    assert tally.failures()[0].startswith("file 1: file at octet 0: expected DD")
    assert NOT_GBCS in {line["use case"] for line in tally.table()}


def test_missing_key_and_broken_payload_are_a_no_only_strictly() -> None:
    for messages, keyring, problem in (
        ((COMMAND,), Keyring({}), "mac no-key"),
        ((BROKEN,), KEYRING, "payload: CS08 command at octet 0: expected tag 05, found 06"),
    ):
        assert tally_of(*messages, keyring=keyring).is_good
        strict = tally_of(*messages, keyring=keyring, strict=True)
        assert strict.failures() == [f"file 0: {problem}"]
        assert not strict.is_good


def test_expired_certificate_is_a_no_only_where_validity_is_checked() -> None:
    assert tally_of(COMMAND).is_good
    tally = tally_of(COMMAND, check_validity=True)
    assert tally.failures() == [f"file 0: {BROKER.hex}-ka.pem: expired 2020-01-11T00:00:00Z"]


def test_encrypted_content_that_does_not_open_is_a_broken_payload() -> None:
    header = replace(READ_VERSION, cra=Cra.RESPONSE, originator=PPMID, recipient=BROKER)
    header = replace(header, message_code=0x0074)
    sealed = seal_content(bytes(5), header, KEYRING)[:-1] + b"?"
    component = b"\0\0\x18\0\1" + len(sealed).to_bytes(2, "big") + sealed
    payload = b"\1\x09\1\3\7\2" + len(component).to_bytes(2, "big") + component
    octets = seal_maced(header, payload, KEYRING, PPMID, BROKER)
    tally = tally_of(octets, strict=True)
    assert tally.table()[0] == row("GCS13a", "1", "-", "1 valid", "1 broken")
    assert "the tag is wrong" in tally.failures()[0]


def test_nothing_at_all_is_not_a_yes() -> None:
    assert not Tally().is_good
    assert Tally().document() == {
        "valid": False,
        "failures": [],
        "use_cases": Tally().rows(),
    }
