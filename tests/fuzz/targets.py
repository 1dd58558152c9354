"""What is fuzzed: each parser behind one function of octets, with what must hold of any octets.

A target returns, or lets out what should never come: anything but the parser's own error, or an
``AssertionError`` where decoding and encoding do not agree. Whether the octets make sense does not
matter. ``seeds.py`` makes the corpus that fuzzing starts from.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from firmware_node.crypto import Keyring
from firmware_node.errors import ConfigError, DecodeError
from firmware_node.terms import EntityId
from firmware_node.tools.decode import decode_file
from firmware_node.tools.decode_text import text
from firmware_node.tools.duis import parse_request
from firmware_node.tools.keys import build_keys
from firmware_node.tools.payload_fields import Context
from firmware_node.tools.payloads import payload_fields
from firmware_node.wire import der, ota, tunneling, zcl, zdo
from firmware_node.wire import firmware_messages as fm
from firmware_node.wire.gbcs import (
    Cra,
    GroupingHeader,
    Message,
    decode_message,
    encode_message,
)
from firmware_node.wire.gbt import decode_first_block, encode_block, reassemble
from firmware_node.wire.manufacturer_image import decode_manufacturer_image
from firmware_node.wire.message_codes import USE_CASES
from firmware_node.wire.ota_file import decode_ota_file

KEYRING = Keyring(build_keys(b"fuzz"))
SUPPLIER = EntityId.parse("90b3d51f30010000")
DEVICE = EntityId.parse("00db1234567890a0")
CODES = tuple(sorted(USE_CASES))
_DEPTH_MAX = 20

# A payload's decoder and encoder; the first octet of the input chooses.
PAYLOADS: tuple[tuple[Callable[[bytes], Any], Callable[[Any], bytes]], ...] = (
    (fm.decode_cs06_command, fm.encode_cs06_command),
    (fm.decode_cs06_response, fm.encode_cs06_response),
    (fm.decode_cs06_alert, fm.encode_cs06_alert),
    (fm.decode_cs08_command, lambda _: fm.encode_cs08_command()),
    (fm.decode_cs08_response, fm.encode_cs08_response),
    (fm.decode_cs09_alert, fm.encode_cs09_alert),
    (fm.decode_ccs08_alert, fm.encode_ccs08_alert),
    (fm.decode_receipt_alert_gbz, fm.encode_receipt_alert_gbz),
    (fm.decode_generic_alert_gbz, fm.encode_generic_alert_gbz),
    (
        partial(fm.decode_receipt_alert_dlms, originator_counter=1),
        partial(fm.encode_receipt_alert_dlms, originator_counter=1),
    ),
    (
        partial(fm.decode_generic_alert_dlms, originator_counter=1),
        partial(fm.encode_generic_alert_dlms, originator_counter=1),
    ),
)
FRAMES: tuple[Callable[[bytes], object], ...] = (
    zcl.decode_header,
    zcl.decode_default_response,
    zcl.decode_read_attributes,
    zcl.decode_read_attributes_response,
    ota.decode_image_notify,
    ota.decode_query_next_image_request,
    ota.decode_query_next_image_response,
    ota.decode_specific_file_response,
    ota.decode_image_block_request,
    ota.decode_image_page_request,
    ota.decode_image_block_response,
    ota.decode_upgrade_end_request,
    ota.decode_upgrade_end_response,
    ota.decode_specific_file_request,
    tunneling.decode_request_tunnel,
    tunneling.decode_request_tunnel_response,
    tunneling.decode_tunnel_id,
    tunneling.decode_transfer_data,
    tunneling.decode_transfer_data_error,
    tunneling.decode_flow_control,
    tunneling.decode_supported_protocols,
    zdo.decode_match_request,
    zdo.decode_match_response,
    zdo.decode_address_response,
    zdo.decode_announce,
)


def gbcs_message(data: bytes) -> None:
    """A message that decodes has one encoding; a Pre-Command may have an empty field behind it."""
    with suppress(DecodeError):
        message = decode_message(data)
        whole = encode_message(message)
        assert data in (whole, whole + b"\0" if message.is_pre_command else whole)
        assert message.signed_octets in data


def gbt_series(data: bytes) -> None:
    """Blocks decode and encode to the same; a series is whole or refused."""
    blocks, rest = [], data
    with suppress(DecodeError):
        while rest:
            block, behind = decode_first_block(rest)
            assert encode_block(block) + behind == rest
            blocks.append(block)
            rest = behind
    with suppress(DecodeError):
        reassemble(blocks)


def der_values(data: bytes) -> None:
    """Every value by every reading."""
    for any_lengths in (False, True):
        with suppress(DecodeError):
            _walk(der.Reader(data, "fuzz", any_lengths=any_lengths), 0)


def _walk(reader: der.Reader, depth: int) -> None:
    while (tag := reader.peek()) is not None:
        if tag & 0x20 and depth < _DEPTH_MAX:
            _walk(reader.sequence(tag), depth + 1)
        elif tag == der.INTEGER:
            reader.integer()
        elif tag == der.GENERALIZED_TIME:
            reader.time()
        elif tag == der.NULL:
            reader.null()
        else:
            reader.element(tag)


def firmware_payload(data: bytes) -> None:
    """A payload that decodes has one encoding."""
    decode, encode = PAYLOADS[data[0] % len(PAYLOADS) if data else 0]
    with suppress(DecodeError):
        assert encode(decode(data[1:])) == data[1:]


def shown_payload(data: bytes) -> None:
    """Any payload of any use case is shown, as JSON and as text."""
    code = CODES[int.from_bytes(data[:2], "big") % len(CODES)]
    cra = tuple(Cra)[data[2] % len(Cra)] if len(data) > 2 else Cra.ALERT
    parties = (SUPPLIER, DEVICE) if cra is Cra.COMMAND else (DEVICE, SUPPLIER)
    header = GroupingHeader(cra, 1000, *parties, code)
    message = Message(header, data[3:], b"", b"", b"", b"")
    json.dumps(payload_fields(message, Context(header, KEYRING)), allow_nan=False)


def decoded_file(data: bytes) -> None:
    """Any file is decoded, verified and shown."""
    for line in decode_file("fuzz", data, KEYRING, at=0):
        json.dumps(line, allow_nan=False)
        text(line)


def ota_file(data: bytes) -> None:
    """An OTA file and the manufacturer image in it."""
    with suppress(DecodeError):
        decode_ota_file(data)
    with suppress(DecodeError):
        decode_manufacturer_image(data)


def zigbee_frame(data: bytes) -> None:
    """The frames and commands of the air; the first octet chooses."""
    with suppress(DecodeError):
        FRAMES[data[0] % len(FRAMES) if data else 0](data[1:])


def duis_request(data: bytes) -> None:
    """A service request."""
    with suppress(ConfigError):
        parse_request(data)


TARGETS: Mapping[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (
        gbcs_message,
        gbt_series,
        der_values,
        firmware_payload,
        shown_payload,
        decoded_file,
        ota_file,
        zigbee_frame,
        duis_request,
    )
}
