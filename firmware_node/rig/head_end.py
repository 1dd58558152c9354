"""The access control broker's side: verifies what comes up, originates CS08 for a User.

Source: gbcs.md 1.3, 3.4, 4.3, 4.6.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from firmware_node.boundary import (
    CarryMessage,
    Effect,
    Input,
    MessageArrived,
    MessageChecked,
    Notify,
    ReadVersion,
    Started,
)
from firmware_node.crypto import Keyring
from firmware_node.errors import DecodeError
from firmware_node.sealing import check_mac, check_signature, seal_maced
from firmware_node.terms import EntityId
from firmware_node.wire import firmware_messages as fm
from firmware_node.wire import zcl
from firmware_node.wire.gbcs import Cra, GroupingHeader, Message, decode_message
from firmware_node.wire.message_codes import use_case_name


class HeadEnd:
    """See the module; a ``Machine`` without timers."""

    def __init__(self, entity_id: EntityId, keyring: Keyring, *, first_counter: int) -> None:
        self._entity_id = entity_id
        self._keyring = keyring
        self._counter = first_counter  # GBCS: one series for all devices; rises across restarts
        self.wake_at: int | None = None

    def step(self, item: Input | None, now_ms: int) -> Sequence[Effect]:
        """Advance by one input; see ``Machine``."""
        match item:
            case MessageArrived(message=message):
                return self._check(message)
            case ReadVersion():
                return self._read_version(item)
            case Started() | None:
                return ()
            case _:
                raise TypeError(f"a head end takes no {type(item).__name__}")

    def _check(self, data: bytes) -> Sequence[Effect]:
        try:
            message = decode_message(data)
        except DecodeError as error:
            return (Notify("message_malformed", {"reason": str(error)}),)
        header = message.header
        fields, alert_code = _payload_fields(message)
        return (
            MessageChecked(
                message=data,
                use_case=use_case_name(header.message_code),
                message_code=header.message_code,
                kind=header.cra.name.lower(),
                originator=header.originator,
                alert_code=alert_code,
                signature=check_signature(message, self._keyring).value,
                mac=check_mac(message, self._keyring).value,
                fields=fields,
            ),
        )

    def _read_version(self, item: ReadVersion) -> Sequence[Effect]:
        """CS08 command: MACed by us, the User in the supplementary fields."""
        self._counter += 1
        header = GroupingHeader(
            Cra.COMMAND,
            self._counter,
            self._entity_id,
            item.device,
            fm.CS08_READ_VERSION,
            supplementary_party=item.user,
            supplementary_counter=item.user_counter,
        )
        message = seal_maced(
            header,
            fm.encode_cs08_command(),
            self._keyring,
            own=self._entity_id,
            peer=item.device,
        )
        return (CarryMessage(item.device, message),)


def _payload_fields(message: Message) -> tuple[Mapping[str, str | int], int | None]:
    """The fields of the firmware messages; another payload stays raw."""
    code, kind, payload = message.header.message_code, message.header.cra, message.payload
    try:
        if code == fm.CCS08_FIRMWARE_TRANSFER and kind is Cra.ALERT:
            transfer = fm.decode_ccs08_alert(payload)
            return {
                "entity_id": str(transfer.entity_id),
                "at": zcl.utc_text(transfer.at),
                "firmware_version": f"{transfer.firmware_version:08x}",
                "response_code": transfer.response_code,
            }, transfer.alert_code
        if code == fm.CS09_ACTIVATION_ALERT and kind is Cra.ALERT:
            alert = fm.decode_cs09_alert(payload)
            return {
                "at": zcl.utc_text(alert.executed_at),
                "firmware_version": f"{alert.firmware_version:08x}",
                "result": alert.result,
            }, alert.alert_code
        if code == fm.CS08_READ_VERSION and kind is Cra.RESPONSE:
            response = fm.decode_cs08_response(payload)
            return {
                "firmware_version": f"{response.firmware_version:08x}",
                "response_code": response.response_code,
            }, None
    except DecodeError as error:
        return {"raw": payload.hex(), "error": str(error)}, None
    return {"raw": payload.hex()}, None
