"""Payloads of the firmware use cases by field, as ``wire.firmware_messages`` reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from firmware_node.tools.payload_fields import Fields, code
from firmware_node.wire import firmware_messages as fm
from firmware_node.wire.gbcs import Cra, Message
from firmware_node.wire.zcl import utc_text


def read_firmware(message: Message) -> Fields | None:
    """The payload by field; None: the message is of another use case.

    Raises:
        DecodeError: it is not what the use case has.
    """
    header, payload = message.header, message.payload
    if (header.message_code, header.cra) == (fm.RECEIPT_ALERT_DLMS, Cra.ALERT):
        return _receipt(fm.decode_receipt_alert_dlms(payload, header.originator_counter))
    reader = _READERS.get((header.message_code, header.cra))
    return None if reader is None else reader(payload)


def _cs06_command(payload: bytes) -> Fields:
    command = fm.decode_cs06_command(payload)
    fields: Fields = {
        "manufacturer_image_hash": command.manufacturer_image_hash.hex(),
        "originator_counter": command.originator_counter,
    }
    if command.executes_at is not None:
        fields["execution_time"] = utc_text(command.executes_at)
    if command.cancels:
        fields["cancels"] = True
    return fields


def _cs06_response(payload: bytes) -> Fields:
    outcome = fm.decode_cs06_response(payload)
    return {"accepted": True} if outcome is None else _outcome(outcome)


def _outcome(outcome: fm.ActivationOutcome) -> Fields:
    return {
        "response_code": outcome.response_code,
        "firmware_version": _version(outcome.firmware_version),
    }


def _cs06_alert(payload: bytes) -> Fields:
    alert = fm.decode_cs06_alert(payload)
    return {
        "alert_code": code(alert.alert_code),
        "execution_time": utc_text(alert.executed_at),
        "originator_counter": alert.originator_counter,
        **_outcome(alert.outcome),
    }


def _cs08_command(payload: bytes) -> Fields:
    fm.decode_cs08_command(payload)
    return {}


def _cs08_response(payload: bytes) -> Fields:
    response = fm.decode_cs08_response(payload)
    return {
        "firmware_version": _version(response.firmware_version),
        "response_code": response.response_code,
    }


def _cs09_alert(payload: bytes) -> Fields:
    alert = fm.decode_cs09_alert(payload)
    return {
        "alert_code": code(alert.alert_code),
        "execution_time": utc_text(alert.executed_at),
        "firmware_version": _version(alert.firmware_version),
        "result": alert.result,
    }


def _ccs08_alert(payload: bytes) -> Fields:
    alert = fm.decode_ccs08_alert(payload)
    return {
        "alert_code": code(alert.alert_code),
        "time": utc_text(alert.at),
        "entity_id": str(alert.entity_id),
        "firmware_version": _version(alert.firmware_version),
        "response_code": alert.response_code,
    }


def _receipt_gbz(payload: bytes) -> Fields:
    return _receipt(fm.decode_receipt_alert_gbz(payload))


def _receipt(alert: fm.ReceiptAlert) -> Fields:
    return {
        "alert_code": code(alert.alert_code),
        "time": utc_text(alert.at),
        "manufacturer_image_hash": alert.manufacturer_image_hash.hex(),
    }


def _version(version: int) -> str:
    return f"{version:08x}"


_READERS: Mapping[tuple[int, Cra], Callable[[bytes], Fields]] = {
    (fm.CS06_ACTIVATE_FIRMWARE, Cra.COMMAND): _cs06_command,
    (fm.CS06_ACTIVATE_FIRMWARE, Cra.RESPONSE): _cs06_response,
    (fm.CS06_ALERT, Cra.ALERT): _cs06_alert,
    (fm.CS08_READ_VERSION, Cra.COMMAND): _cs08_command,
    (fm.CS08_READ_VERSION, Cra.RESPONSE): _cs08_response,
    (fm.CS09_ACTIVATION_ALERT, Cra.ALERT): _cs09_alert,
    (fm.CCS08_FIRMWARE_TRANSFER, Cra.ALERT): _ccs08_alert,
    (fm.RECEIPT_ALERT_GBZ, Cra.ALERT): _receipt_gbz,
}
