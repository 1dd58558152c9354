"""The access control broker's side: verifies what comes up, originates CS08 for a User.

Whatever can be taken apart becomes one ``MessageChecked`` with its verdicts, known or not; what is
believed on them is for whoever reads it. Source: gbcs.md 1.3, 3.4, 4.3, 4.6.
"""

from __future__ import annotations

from collections.abc import Sequence

from firmware_node.boundary import (
    CarryMessage,
    Effect,
    Input,
    MessageArrived,
    MessageChecked,
    Notify,
    ReadVersion,
    Records,
    Started,
)
from firmware_node.crypto import Keyring
from firmware_node.errors import DecodeError
from firmware_node.rig.own_counter import OwnCounter
from firmware_node.sealing import Verdict, check_mac, check_signature, seal_maced
from firmware_node.terms import EntityId
from firmware_node.wire import firmware_messages as fm
from firmware_node.wire import zcl
from firmware_node.wire.gbcs import Cra, GroupingHeader, Message, decode_message
from firmware_node.wire.message_codes import use_case_name

REQUESTS_MAX = 1024  # unanswered ones that are remembered; the oldest is forgotten


class HeadEnd:
    """See the module; a ``Machine`` without timers.

    One series of originator counters serves all devices. It goes on from ``records``; without
    them ``first_counter`` must rise from life to life.
    """

    def __init__(
        self,
        entity_id: EntityId,
        keyring: Keyring,
        *,
        first_counter: int,
        records: Records | None = None,
    ) -> None:
        self._entity_id = entity_id
        self._keyring = keyring
        self._counter = OwnCounter(first_counter, records, "head_end/counter")
        self._requests: dict[tuple[EntityId, int], str] = {}  # by device and counter
        self.wake_at: int | None = None

    def step(self, item: Input | None, now_ms: int) -> Sequence[Effect]:
        """Advance by one input; see ``Machine``."""
        del now_ms  # nothing here depends on the time
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
        signature = check_signature(message, self._keyring)
        mac = check_mac(message, self._keyring)
        if mac is Verdict.VALID and header.cra is Cra.RESPONSE:
            request_id = self._requests.get((header.originator, header.originator_counter))
            if request_id is not None:
                fields["request_id"] = request_id
        return (
            MessageChecked(
                message=data,
                use_case=use_case_name(header.message_code),
                message_code=header.message_code,
                kind=header.cra.name.lower(),
                originator=header.originator,
                alert_code=alert_code,
                signature=signature.value,
                mac=mac.value,
                fields=fields,
            ),
        )

    def _read_version(self, item: ReadVersion) -> Sequence[Effect]:
        """CS08 command: MACed by us, the User in the supplementary fields."""
        counter = self._counter.take()
        header = GroupingHeader(
            Cra.COMMAND,
            counter,
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
        while len(self._requests) >= REQUESTS_MAX:
            del self._requests[next(iter(self._requests))]
        self._requests[item.device, counter] = item.request_id
        return (CarryMessage(item.device, message),)


def _payload_fields(message: Message) -> tuple[dict[str, str | int], int | None]:
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
