"""Which reader a payload takes: by its use case, and by how it begins.

Firmware use cases have their own. Of the others, GBZ and DLMS payloads say what they are by their
first octets; everything else is DER and its use case decides. A message code that the table of use
cases lacks stays raw, whatever it looks like.
"""

from __future__ import annotations

from firmware_node.errors import DecodeError
from firmware_node.tools.payload_der import read_der
from firmware_node.tools.payload_dlms import LOGS_WITH_KEYS, is_dlms, read_dlms
from firmware_node.tools.payload_fields import KEY_NOT_SHOWN, Context, Fields
from firmware_node.tools.payload_firmware import read_firmware
from firmware_node.tools.payload_gbz import is_gbz, read_gbz, read_gbz_alert
from firmware_node.wire.gbcs import Cra, Message
from firmware_node.wire.message_codes import USE_CASES

# Whose payload may hold a key is not shown raw; CS02b by contingency carries one in plain.
_CARRY_KEYS = (*LOGS_WITH_KEYS, 0x0109)


def payload_fields(message: Message, context: Context) -> Fields:
    """The payload by field; ``raw`` where nothing is known, with ``error`` where it is broken."""
    header = message.header
    raw: Fields = {"raw": message.payload.hex()}
    if header.message_code in _CARRY_KEYS:
        raw = {"raw": KEY_NOT_SHOWN}
    if header.message_code not in USE_CASES:
        return raw
    try:
        fields = _read(message, context)
    except DecodeError as error:
        return raw | {"error": str(error)}
    return raw if fields is None else fields


def _read(message: Message, context: Context) -> Fields | None:
    header, payload = message.header, message.payload
    fields = read_firmware(message)
    if fields is not None:
        return fields
    if is_gbz(payload):
        return (read_gbz_alert if header.cra is Cra.ALERT else read_gbz)(payload, context)
    if is_dlms(payload):
        return read_dlms(payload, context)
    return read_der(header.message_code, header.cra, payload)
