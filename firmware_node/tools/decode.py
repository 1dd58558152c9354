"""Reads a GBCS message for people and scripts: envelope, verdicts, payload.

One file at a time, from its octets; finding files and printing is left to the command line. The
result is the contract's ``gbcs decode --json`` line. Payloads of the firmware use cases are shown
by field, every other one as hexadecimal digits.
"""

from __future__ import annotations

import datetime
import string
from collections.abc import Callable, Mapping

from firmware_node.crypto import Keyring
from firmware_node.errors import DecodeError
from firmware_node.sealing import check_mac, check_signature
from firmware_node.wire.firmware_messages import (
    CCS08_FIRMWARE_TRANSFER,
    CS06_ACTIVATE_FIRMWARE,
    CS08_READ_VERSION,
    CS09_ACTIVATION_ALERT,
    decode_ccs08_alert,
    decode_cs06_command,
    decode_cs06_response,
    decode_cs08_command,
    decode_cs08_response,
    decode_cs09_alert,
)
from firmware_node.wire.gbcs import Cra, Message, decode_message
from firmware_node.wire.message_codes import use_case_name

Fields = dict[str, str | int | bool | None]
Line = dict[str, str | int | bool | Fields | None]

_EPOCH = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)
_HEX_DIGITS = frozenset(string.hexdigits.encode())


def decode_file(name: str, data: bytes, keyring: Keyring) -> Line:
    """What the message in a file says and whether its signature and MAC hold.

    ``data`` is the message itself or its hexadecimal digits, white space between them allowed.
    Octets that are no GBCS message give ``{"file", "error"}``.

    Raises:
        ConfigError: a key file that the message needs is unreadable.
    """
    try:
        message = decode_message(message_octets(data))
    except DecodeError as error:
        return {"file": name, "error": str(error)}
    return {"file": name, **describe(message, keyring)}


def message_octets(data: bytes) -> bytes:
    """The message in a file's content: as it is, or from hexadecimal digits.

    Raises:
        DecodeError: neither a message's first octet nor digits.
    """
    if data[:1] in (b"\xdd", b"\xdf"):
        return data
    digits = b"".join(data.split())
    if not digits or not _HEX_DIGITS.issuperset(digits):
        raise DecodeError("GBCS message", 0, "expected DD, DF or hexadecimal digits")
    if len(digits) % 2:
        raise DecodeError("GBCS message", len(digits) // 2, "odd number of hexadecimal digits")
    return bytes.fromhex(digits.decode("ascii"))


def describe(message: Message, keyring: Keyring) -> Line:
    """The line of one message, without its file name."""
    header = message.header
    line: Line = {
        "use_case": use_case_name(header.message_code),
        "message_code": f"{header.message_code:04X}",
        "kind": header.cra.name.lower(),
        "originator": str(header.originator),
        "recipient": str(header.recipient),
        "counter": header.originator_counter,
        "signature": check_signature(message, keyring).value,
        "mac": check_mac(message, keyring).value,
        "payload": payload_fields(message),
    }
    if header.supplementary_party is not None:
        line["supplementary_party"] = str(header.supplementary_party)
    if header.supplementary_counter is not None:
        line["supplementary_counter"] = header.supplementary_counter
    return line


def payload_fields(message: Message) -> Fields:
    """The payload by field; ``raw`` where nothing is known, with ``error`` where it is broken."""
    header = message.header
    reader = _READERS.get((header.message_code, header.cra))
    if reader is None:
        return {"raw": message.payload.hex()}
    try:
        return reader(message.payload)
    except DecodeError as error:
        return {"raw": message.payload.hex(), "error": str(error)}


def _cs06_command(payload: bytes) -> Fields:
    command = decode_cs06_command(payload)
    fields: Fields = {
        "manufacturer_image_hash": command.manufacturer_image_hash.hex(),
        "originator_counter": command.originator_counter,
    }
    if command.executes_at is not None:
        fields["execution_time"] = _rfc3339(command.executes_at)
    if command.cancels:
        fields["cancels"] = True
    return fields


def _cs06_response(payload: bytes) -> Fields:
    outcome = decode_cs06_response(payload)
    if outcome is None:
        return {"accepted": True}
    return {
        "response_code": outcome.response_code,
        "firmware_version": f"{outcome.firmware_version:08x}",
    }


def _cs08_command(payload: bytes) -> Fields:
    decode_cs08_command(payload)
    return {}


def _cs08_response(payload: bytes) -> Fields:
    response = decode_cs08_response(payload)
    return {
        "firmware_version": f"{response.firmware_version:08x}",
        "response_code": response.response_code,
    }


def _cs09_alert(payload: bytes) -> Fields:
    alert = decode_cs09_alert(payload)
    return {
        "alert_code": f"{alert.alert_code:04X}",
        "execution_time": _rfc3339(alert.executed_at),
        "firmware_version": f"{alert.firmware_version:08x}",
        "result": alert.result,
    }


def _ccs08_alert(payload: bytes) -> Fields:
    alert = decode_ccs08_alert(payload)
    return {
        "alert_code": f"{alert.alert_code:04X}",
        "time": _rfc3339(alert.at),
        "entity_id": str(alert.entity_id),
        "firmware_version": f"{alert.firmware_version:08x}",
        "response_code": alert.response_code,
    }


_READERS: Mapping[tuple[int, Cra], Callable[[bytes], Fields]] = {
    (CS06_ACTIVATE_FIRMWARE, Cra.COMMAND): _cs06_command,
    (CS06_ACTIVATE_FIRMWARE, Cra.RESPONSE): _cs06_response,
    (CS08_READ_VERSION, Cra.COMMAND): _cs08_command,
    (CS08_READ_VERSION, Cra.RESPONSE): _cs08_response,
    (CS09_ACTIVATION_ALERT, Cra.ALERT): _cs09_alert,
    (CCS08_FIRMWARE_TRANSFER, Cra.ALERT): _ccs08_alert,
}


def _rfc3339(utc: int) -> str:
    return (_EPOCH + datetime.timedelta(seconds=utc)).strftime("%Y-%m-%dT%H:%M:%SZ")
