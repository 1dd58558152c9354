"""From files of every form to messages."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st
from malformed import refused
from vectors import needs_vectors, reference_messages

from firmware_node.errors import DecodeError
from firmware_node.terms import EntityId
from firmware_node.tools.decode_input import FILE_SIZE_MAX, MESSAGES_MAX, Part, parts_of
from firmware_node.wire.gbcs import Cra, GroupingHeader, encode_signed_octets, signed_message
from firmware_node.wire.gbt import Series, encode_block, split

PPMID = EntityId.parse("00db1234567890a4")
BROKER = EntityId.parse("90b3d51f30000002")
HEADER = GroupingHeader(Cra.ALERT, 1, PPMID, BROKER, 0x012B)
ONE = signed_message(encode_signed_octets(HEADER, b"\5\0"), bytes(range(64)))
TWO = signed_message(encode_signed_octets(HEADER, b"\2\1\7"), bytes(range(64)))
BLOCKS = [encode_block(block) for block in split(ONE, Series.of(HEADER), 40)]
DUIS = """<?xml version="1.0" encoding="UTF-8"?>
<sr:Response xmlns:sr="http://www.dccinterface.co.uk/ServiceUserGateway" schemaVersion="5.4">
  <sr:Header><sr:RequestID>90-B3:00-DB:1</sr:RequestID></sr:Header>
  <sr:Body><sr:ResponseMessage>{body}</sr:ResponseMessage></sr:Body>
</sr:Response>"""


def octets_of(data: bytes | str) -> list[bytes]:
    return [part.octets for part in parts_of(data.encode() if isinstance(data, str) else data)]


@pytest.mark.parametrize(
    "text",
    [
        ONE.hex(),
        ONE.hex().upper() + "\r\n",
        "0x" + ONE.hex(),
        ", ".join(f"0x{octet:02X}" for octet in ONE),
        ONE.hex(":"),
        "\n".join(ONE.hex()[at : at + 32] for at in range(0, len(ONE.hex()), 32)),
        f"# an alert\n{ONE.hex()[:40]}  # its start\n// the rest\n{ONE.hex()[40:]}\n",
        base64.b64encode(ONE).decode(),
        base64.encodebytes(ONE).decode(),
    ],
    ids=["hex", "upper", "0x", "0x list", "colons", "wrapped", "comments", "base64", "base64 mime"],
)
def test_text_of_every_form_is_the_message(text: str) -> None:
    assert octets_of(text) == [ONE]
    assert octets_of(ONE) == [ONE]


def test_messages_one_a_line_are_told_apart_by_their_lines() -> None:
    text = f"# two alerts\n{ONE.hex()}\n\n{base64.b64encode(TWO).decode()}\n"
    assert parts_of(text.encode()) == (Part(ONE, "line 2"), Part(TWO, "line 4"))


@needs_vectors
def test_every_reference_message_wrapped_at_any_width_is_one_message() -> None:
    for name, octets in list(reference_messages().items())[::9]:
        for width in (2, 32, 64, 76):
            digits = octets.hex()
            text = "\n".join(digits[at : at + width] for at in range(0, len(digits), width))
            assert octets_of(text) == [octets], name


@needs_vectors
def test_reference_messages_one_a_line_are_all_there() -> None:
    messages = list(reference_messages().values())
    assert octets_of("\n".join(octets.hex() for octets in messages)) == messages


@pytest.mark.parametrize(
    "data",
    [
        b"".join(BLOCKS),
        b"".join(BLOCKS).hex().encode(),
        "\n".join(block.hex() for block in BLOCKS).encode(),
        "\n".join(base64.b64encode(block).decode() for block in reversed(BLOCKS)).encode(),
    ],
    ids=["binary", "hex", "hex lines", "base64 lines, last first"],
)
def test_blocks_become_the_message_that_they_carry(data: bytes) -> None:
    assert parts_of(data) == (Part(ONE, blocks=len(BLOCKS)),)


def test_series_without_one_of_its_blocks_says_which() -> None:
    with pytest.raises(DecodeError, match="lacks block 2"):
        parts_of(b"".join((BLOCKS[0], *BLOCKS[2:])))


@pytest.mark.parametrize(
    ("body", "places"),
    [
        ("<sr:GBCSPayload>{one}</sr:GBCSPayload>", ["GBCSPayload"]),
        ("<sr:PreCommand>{one}</sr:PreCommand>", ["PreCommand"]),
        ("<PreCommand><GBCSPayload>\n {one}\n</GBCSPayload></PreCommand>", ["GBCSPayload"]),
        (
            "<sr:FutureDatedDeviceAlertMessage><sr:AlertCode>8F66</sr:AlertCode>"
            "<sr:GBCSPayload>{one}</sr:GBCSPayload></sr:FutureDatedDeviceAlertMessage>",
            ["GBCSPayload"],
        ),
        (
            "<sr:GBCSPayload>{one}</sr:GBCSPayload><sr:LocalCommand>{two}</sr:LocalCommand>",
            ["GBCSPayload", "LocalCommand"],
        ),
    ],
)
def test_messages_of_a_duis_document_are_found(body: str, places: list[str]) -> None:
    texts = {"one": base64.b64encode(ONE).decode(), "two": base64.b64encode(TWO).decode()}
    parts = parts_of(DUIS.format(body=body.format(**texts)).encode())
    assert [part.place for part in parts] == places
    assert [part.octets for part in parts] == [ONE, TWO][: len(places)]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("", "expected DD, DF"),
        ("hello", "expected DD, DF"),
        ("DF0", "odd number"),
        ("1EF1EE0B", "expected DD, DF"),
        (DUIS.format(body=""), "without a GBCS message"),
        (DUIS.format(body="<GBCSPayload>AAAA</GBCSPayload>"), "expected a GBCS message in base64"),
        (DUIS.format(body="<GBCSPayload>?</GBCSPayload>"), "expected a GBCS message in base64"),
        (DUIS.format(body="<open>"), "no readable XML"),
        ('<!DOCTYPE x [<!ENTITY e "e">]><x>&e;</x>', "document type"),
        ("<" + "a" * 20, "no readable XML"),
    ],
)
def test_content_that_is_nothing_of_the_kind_is_refused(data: str, reason: str) -> None:
    with pytest.raises(DecodeError, match=reason):
        parts_of(data.encode())


def test_more_messages_than_anybody_reads_are_refused() -> None:
    line = ONE.hex() + "\n"
    with pytest.raises(DecodeError, match=f"more than {MESSAGES_MAX}"):
        parts_of((line * (MESSAGES_MAX + 1)).encode())


def test_file_over_the_limit_is_refused() -> None:
    with pytest.raises(DecodeError, match=str(FILE_SIZE_MAX + 1)):
        parts_of(bytes(FILE_SIZE_MAX + 1))


@given(st.binary(max_size=120), st.sampled_from([b"", b"<", b"<a>", b"DD09", b"\xdd\x09", ONE]))
def test_any_octets_give_parts_or_a_decode_error(data: bytes, start: bytes) -> None:
    for content in (start + data, start + data.hex().encode(), base64.b64encode(start + data)):
        refused(parts_of, content)
