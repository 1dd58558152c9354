"""Which reader a payload takes: by its use case, and by how it begins.

GBZ and DLMS payloads say what they are by their first octets; everything else is DER and its use
case decides. A message code that the table of use cases lacks stays raw, whatever it looks like.
"""

from __future__ import annotations

from firmware_node.errors import DecodeError
from firmware_node.tools.payload_der import read_der
from firmware_node.tools.payload_dlms import CARRY_KEYS, is_dlms, read_dlms
from firmware_node.tools.payload_fields import KEY_NOT_SHOWN, Context, Fields, code
from firmware_node.tools.payload_gbz import is_gbz, read_gbz, read_gbz_alert
from firmware_node.wire import firmware_messages as fm
from firmware_node.wire.gbcs import Cra, Message
from firmware_node.wire.message_codes import USE_CASES
from firmware_node.wire.zcl import utc_text


def payload_fields(message: Message, context: Context) -> Fields:
    """The payload by field; ``raw`` where nothing is known, with ``error`` where it is broken."""
    header = message.header
    raw: Fields = {"raw": message.payload.hex()}
    if header.message_code in CARRY_KEYS:
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
    if is_gbz(payload):
        if header.cra is not Cra.ALERT:
            return read_gbz(payload, context)
        if header.message_code == fm.RECEIPT_ALERT_GBZ:
            return _receipt(fm.decode_receipt_alert_gbz(payload))
        return read_gbz_alert(payload, context)
    if is_dlms(payload):
        if header.message_code == fm.RECEIPT_ALERT_DLMS:
            counter = header.originator_counter
            return _receipt(fm.decode_receipt_alert_dlms(payload, counter))
        return read_dlms(payload, context)
    return read_der(header.message_code, header.cra, payload)


def _receipt(alert: fm.ReceiptAlert) -> Fields:
    return {
        "alert_code": code(alert.alert_code),
        "time": utc_text(alert.at),
        "manufacturer_image_hash": alert.manufacturer_image_hash.hex(),
    }
