"""The access control broker's side: verifies what comes up, adds the MAC to what goes down.

It originates CS08 for a User, MACs a User's signed Pre-Command, and carries a ready message as it
is. Whatever comes up and can be taken apart becomes one ``MessageChecked`` with its verdicts, known
or not; what is believed on them is for whoever reads it. A response, and the alert on a
future-dated command, is matched with its request by parties and counter; other alerts about a
device with the last offer for it. Source: gbcs.md 1.3, 1.4, 3, 4.3, 4.5, 4.6.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from firmware_node.boundary import (
    CarryMessage,
    Effect,
    Input,
    MessageArrived,
    MessageChecked,
    Notify,
    OfferImage,
    ReadVersion,
    Records,
    SendSigned,
    Started,
)
from firmware_node.crypto import Keyring
from firmware_node.errors import DecodeError
from firmware_node.rig.own_counter import OwnCounter
from firmware_node.sealing import Verdict, add_mac, check_mac, check_signature, seal_maced
from firmware_node.terms import EntityId
from firmware_node.wire import firmware_messages as fm
from firmware_node.wire import zcl
from firmware_node.wire.gbcs import Cra, GroupingHeader, Message, decode_message
from firmware_node.wire.message_codes import use_case_name

REQUESTS_MAX = 1024  # unanswered ones that are remembered; the oldest is forgotten
OFFERS_MAX = 50_000  # devices with an offer, as many as one request can name; likewise

K = TypeVar("K")
Fields = dict[str, str | int]
_DLMS = b"\x0f"  # first octet of an alert of the DLMS shape


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
        # By device, originator and counter of the command.
        self._requests: dict[tuple[EntityId, EntityId, int], str] = {}
        self._offers: dict[EntityId, str] = {}  # by device
        self.wake_at: int | None = None

    def step(self, item: Input | None, now_ms: int) -> Sequence[Effect]:
        """Advance by one input; see ``Machine``.

        Raises:
            DecodeError: a message to MAC is none.
            KeyMissingError: no key agreement with the device is possible.
        """
        del now_ms  # nothing here depends on the time
        match item:
            case MessageArrived(message=message):
                return self._check(message)
            case ReadVersion():
                return self._read_version(item)
            case SendSigned():
                return self._send_signed(item)
            case CarryMessage():
                return self._carry(item)
            case OfferImage():
                for device in item.devices:
                    _forget_oldest(self._offers, OFFERS_MAX)
                    self._offers[device] = item.request_id
                return ()
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
        if Verdict.VALID in (signature, mac) and Verdict.INVALID not in (signature, mac):
            request_id = self._request_of(header, fields)
            if request_id is not None:
                fields["request_id"] = request_id
        return (
            MessageChecked(
                message=data,
                use_case=use_case_name(header.message_code),
                message_code=header.message_code,
                kind=header.cra.name.lower(),
                originator=header.originator,
                recipient=header.recipient,
                counter=header.originator_counter,
                alert_code=alert_code,
                signature=signature.value,
                mac=mac.value,
                fields=fields,
            ),
        )

    def _request_of(self, header: GroupingHeader, fields: Fields) -> str | None:
        """The request that a verified message belongs to."""
        if header.cra is Cra.RESPONSE:
            key = (header.originator, header.recipient, header.originator_counter)
            return self._requests.get(key)
        if "originator_counter" in fields:
            counter = int(fields["originator_counter"])
            return self._requests.get((header.originator, header.recipient, counter))
        if header.message_code == fm.CCS08_FIRMWARE_TRANSFER and "entity_id" in fields:
            return self._offers.get(EntityId.parse(str(fields["entity_id"])))
        if header.message_code in (
            fm.CS09_ACTIVATION_ALERT,
            fm.RECEIPT_ALERT_DLMS,
            fm.RECEIPT_ALERT_GBZ,
        ):
            return self._offers.get(header.originator)
        return None

    def _read_version(self, item: ReadVersion) -> Sequence[Effect]:
        """CS08 command: MACed by us, the User in the supplementary fields."""
        header = GroupingHeader(
            Cra.COMMAND,
            self._counter.take(),
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
        self._expect(header, item.request_id)
        return (CarryMessage(item.device, message),)

    def _send_signed(self, item: SendSigned) -> Sequence[Effect]:
        """A command signed by its User: our MAC around it, whoever originated it (gbcs.md 4.5)."""
        header = decode_message(item.message).header
        message = add_mac(
            item.message, header, self._keyring, own=self._entity_id, peer=header.recipient
        )
        self._expect(header, item.request_id)
        return (CarryMessage(header.recipient, message),)

    def _carry(self, item: CarryMessage) -> Sequence[Effect]:
        """Whatever it is; what is no message may be an attack, and no answer belongs to it."""
        try:
            header = decode_message(item.message).header
        except DecodeError:
            return (item,)
        parties = f"{header.originator}:{header.recipient}"
        self._expect(header, f"{parties}:{header.originator_counter}")
        return (item,)

    def _expect(self, header: GroupingHeader, request_id: str) -> None:
        _forget_oldest(self._requests, REQUESTS_MAX)
        key = (header.recipient, header.originator, header.originator_counter)
        self._requests.pop(key, None)  # a replayed command is the youngest again
        self._requests[key] = request_id


def _forget_oldest(kept: dict[K, str], maximum: int) -> None:
    while len(kept) >= maximum:
        del kept[next(iter(kept))]


def _payload_fields(message: Message) -> tuple[Fields, int | None]:
    """The fields of the firmware messages; another payload stays raw."""
    code, kind, payload = message.header.message_code, message.header.cra, message.payload
    counter = message.header.originator_counter
    try:
        match code, kind:
            case fm.CCS08_FIRMWARE_TRANSFER, Cra.ALERT:
                transfer = fm.decode_ccs08_alert(payload)
                return {
                    "entity_id": str(transfer.entity_id),
                    "at": zcl.utc_text(transfer.at),
                    "firmware_version": f"{transfer.firmware_version:08x}",
                    "response_code": transfer.response_code,
                }, transfer.alert_code
            case fm.CS09_ACTIVATION_ALERT, Cra.ALERT:
                alert = fm.decode_cs09_alert(payload)
                return {
                    "at": zcl.utc_text(alert.executed_at),
                    "firmware_version": f"{alert.firmware_version:08x}",
                    "result": alert.result,
                }, alert.alert_code
            case fm.CS08_READ_VERSION, Cra.RESPONSE:
                response = fm.decode_cs08_response(payload)
                return {
                    "firmware_version": f"{response.firmware_version:08x}",
                    "response_code": response.response_code,
                }, None
            case fm.CS06_ACTIVATE_FIRMWARE, Cra.RESPONSE:
                outcome = fm.decode_cs06_response(payload)
                return {"accepted": True} if outcome is None else _outcome(outcome), None
            case fm.CS06_ALERT, Cra.ALERT:
                done = fm.decode_cs06_alert(payload)
                return {
                    "at": zcl.utc_text(done.executed_at),
                    "originator_counter": done.originator_counter,
                    **_outcome(done.outcome),
                }, done.alert_code
            case ((fm.RECEIPT_ALERT_DLMS | fm.RECEIPT_ALERT_GBZ), Cra.ALERT):
                receipt = (
                    fm.decode_receipt_alert_gbz(payload)
                    if code == fm.RECEIPT_ALERT_GBZ
                    else fm.decode_receipt_alert_dlms(payload, counter)
                )
                return {
                    "at": zcl.utc_text(receipt.at),
                    "manufacturer_image_hash": receipt.manufacturer_image_hash.hex(),
                }, receipt.alert_code
            case ((fm.GENERIC_CRITICAL_ALERT | fm.GENERIC_ALERT), Cra.ALERT):
                generic = (
                    fm.decode_generic_alert_dlms(payload, counter)
                    if payload[:1] == _DLMS
                    else fm.decode_generic_alert_gbz(payload)
                )
                return {"at": zcl.utc_text(generic.at)}, generic.alert_code
    except DecodeError as error:
        return {"raw": payload.hex(), "error": str(error)}, None
    return {"raw": payload.hex()}, None


def _outcome(outcome: fm.ActivationOutcome) -> Fields:
    return {
        "firmware_version": f"{outcome.firmware_version:08x}",
        "response_code": outcome.response_code,
    }
