"""Reads GBCS messages for people and scripts: envelope, verdicts, payload, warnings.

One file at a time, from its octets; finding files and printing is left to the command line. A
result is the contract's ``gbcs decode --json`` line. What a file may hold is ``decode_input``'s to
say, how payloads are read ``payloads``'.
"""

from __future__ import annotations

from firmware_node.crypto import Keyring
from firmware_node.errors import DecodeError
from firmware_node.sealing import certificates_behind, check_mac, check_signature
from firmware_node.tools.decode_input import Part, parts_of
from firmware_node.tools.payload_fields import Context, Fields
from firmware_node.tools.payloads import payload_fields
from firmware_node.wire.firmware_messages import decode_dlms_date_time
from firmware_node.wire.gbcs import Message, decode_message
from firmware_node.wire.message_codes import use_case_name
from firmware_node.wire.zcl import utc_text

Line = Fields


def decode_file(name: str, data: bytes, keyring: Keyring, at: int | None = None) -> list[Line]:
    """What each message in a file says and whether its signature and MAC hold.

    A message whose certificate is outside its dates ``at`` a moment, in seconds since 2000-01-01,
    has a warning.
    Octets that are no GBCS message give ``{"file", "error"}``.

    Raises:
        ConfigError: a key file that the message needs is unreadable.
    """
    try:
        parts = parts_of(data)
    except DecodeError as error:
        return [{"file": name, "error": str(error)}]
    return [_line(name, part, keyring, at) for part in parts]


def _line(name: str, part: Part, keyring: Keyring, at: int | None) -> Line:
    line: Line = {"file": name}
    if part.place is not None:
        line["place"] = part.place
    try:
        message = decode_message(part.octets)
    except DecodeError as error:
        return line | {"error": str(error)}
    line |= describe(message, keyring, at)
    if part.blocks is not None:
        line["blocks"] = part.blocks
    return line


def describe(message: Message, keyring: Keyring, at: int | None = None) -> Line:
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
        "mac": check_mac(message, keyring, keyring.uncertified()).value,
        "payload": payload_fields(message, Context(header, keyring)),
    }
    if message.is_pre_command:
        line["pre_command"] = True
    if header.date_time:
        line["date_time"] = _date_time(header.date_time)
    if header.supplementary_party is not None:
        line["supplementary_party"] = str(header.supplementary_party)
    if header.supplementary_counter is not None:
        line["supplementary_counter"] = header.supplementary_counter
    if header.supplementary_originator_counter is not None:
        line["supplementary_originator_counter"] = header.supplementary_originator_counter
    warnings = _warnings(message, keyring, at)
    if warnings:
        line["warnings"] = [*warnings]
    return line


def _date_time(octets: bytes) -> str:
    try:
        return utc_text(decode_dlms_date_time(octets))
    except DecodeError:
        return octets.hex()


def _warnings(message: Message, keyring: Keyring, at: int | None) -> list[str]:
    """What speaks against the certificates behind the verdicts; dates do not change those."""
    dated, found = keyring.at(at), []
    for stem in certificates_behind(message, keyring):
        objection = dated.objection(stem)
        if objection is not None:
            found.append(f"{stem}.pem: {objection}")
    return found
