"""One service request on its way: what is waited for, what came, what the user is told.

An ``Exchange`` is fed with what the hub delivered and what the head end checked, and gives the
documents of the answer, each message with its DUIS form. It neither waits nor sends. What makes an
exchange complete, by service request (gbcs.md 1.3, 1.4):

- 11.1: CCS08 and the receipt alert of each device; 11.4: CCS08 and CS09 of each;
- 11.2: the response; 11.3: the response, and for a future-dated activation its alert as well;
- a message carried as it is: the response to it, or an alert that the device lets nobody do that.

A step that failed ends the steps that can no longer come. What may come or not, such as a receipt
alert after a failed transfer, is a straggler: it is waited for briefly.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from firmware_node.boundary import CarryMessage, Delivered, Input, MessageChecked
from firmware_node.config import DccSection
from firmware_node.errors import DecodeError
from firmware_node.terms import EntityId
from firmware_node.tools import duis
from firmware_node.tools.duis.document import date_time, request_id
from firmware_node.wire import firmware_messages as fm
from firmware_node.wire.gbcs import decode_message

Document = dict[str, Any]

TRANSFER, RECEIPT, ACTIVATION = "transfer", "receipt", "activation"
ANSWER, OUTCOME = "answer", "outcome"

TRANSFER_RESULTS = (  # CCS08 response codes in the words of the schema
    "FileTransferSuccess",
    "FirmwareImageDiscarded",
    "HardwareVersionMismatch",
    "FileTransferFailure",
)
ACTIVATION_RESULTS = ("ActivationSuccess", "ActivationFailure")  # CS09
_NOT_CARRIED = ("no_route", "unknown_device")
_DISCARDED = ("discarded", "hardware_mismatch")
_INVALID = "invalid"
# The service request that a response belongs to, where it was carried without one.
_REFERENCES = {
    fm.CS06_ACTIVATE_FIRMWARE: duis.ACTIVATE_FIRMWARE,
    fm.CS08_READ_VERSION: duis.READ_FIRMWARE_VERSION,
}


@dataclass(frozen=True, slots=True)
class Order:
    """What an exchange is about, as far as the DCC made it out."""

    request_id: str
    reference: str | None  # None: a message carried as it is
    user: EntityId
    devices: tuple[EntityId, ...]
    steps: tuple[str, ...]  # of each device, in the order they come
    item: Input | None = None  # for the head end, and an offer also for the hub
    firmware_version: str = "00000000"  # of the image, 8 upper-case digits
    sends: bool = True  # False: what the head end makes is only returned
    returns: bool = False  # as a local command
    is_command: bool = True  # False: nothing in particular answers it
    executes_at: int | None = None  # seconds since 2000-01-01, of a future-dated activation


class Exchange:
    """See the module. ``head`` says what was understood; ``begin`` gives what is known at once."""

    def __init__(
        self,
        order: Order,
        head: Document,
        first: Sequence[Document],
        writer: duis.Writer,
        section: DccSection,
        hub: EntityId,
        utc: Callable[[], int],
        pre_command: bytes | None = None,
    ) -> None:
        self.order = order
        self.head = head
        self.pre_command = pre_command
        self._first = list(first)
        self._writer = writer
        self._section = section
        self._hub = hub
        self._utc = utc
        self._open = [(device, step) for device in order.devices for step in order.steps]
        self._stragglers: set[tuple[EntityId, str]] = set()
        self._told: set[EntityId] = set()  # of whose delivery to the hub the user was told
        self._counters: dict[EntityId, tuple[int, int]] = {}  # message code and counter sent
        self.failed = "error" in head
        self.stopped_short = False  # a Pre-Command that nobody here can sign

    @property
    def done(self) -> bool:
        """Nothing more is waited for."""
        return not self._open

    @property
    def waiting(self) -> tuple[EntityId, ...]:
        """The devices that something is still waited for from, each once."""
        return tuple(dict.fromkeys(device for device, _ in self._open))

    @property
    def only_stragglers(self) -> bool:
        """What is still waited for may never come."""
        return bool(self._open) and self._stragglers.issuperset(self._open)

    def patience_s(self) -> int:
        """How long to wait where the user did not say."""
        section, order = self._section, self.order
        if order.executes_at is not None:
            return section.poll_s + max(order.executes_at - self._utc(), 0)
        slow = order.reference in (
            duis.UPDATE_FIRMWARE,
            duis.UPDATE_PPMID_FIRMWARE,
            duis.ACTIVATE_FIRMWARE,
        )
        return section.poll_s if slow else section.message_poll_s

    def begin(self) -> list[Document]:
        """The head and the first answers."""
        return [self.head, *self._first]

    def take_command(self, command: CarryMessage) -> list[Document]:
        """The command that the head end made of it, before it is sent."""
        with contextlib.suppress(DecodeError):  # carried as it is, it may be no message at all
            header = decode_message(command.message).header
            self._counters[command.recipient] = (header.message_code, header.originator_counter)
        if not self.order.returns:
            return []
        if not self.order.sends:
            self._open.clear()
        text = "the command, for local delivery"
        return [
            {"local_command": command.message.hex()},
            self._response(duis.local_command(command.message), text=text),
        ]

    def take_delivery(self, effect: Delivered) -> list[Document]:
        """What the hub says of an offer or of a message on its way."""
        device, status = effect.entity_id, effect.status
        if device not in self.order.devices or effect.request_id not in ("", self.order.request_id):
            return []
        documents: list[Document] = [
            {
                "delivery": {"entity_id": str(device), "status": status},
                "request_id": self.order.request_id,
            }
        ]
        is_offer = RECEIPT in self.order.steps or ACTIVATION in self.order.steps
        if is_offer:
            documents += self._delivery_status(device, status)
        elif status in _NOT_CARRIED:
            self._end(device)
            if self.order.reference is not None:
                text = f"{device} cannot be reached"
                documents.append(self._response(code=duis.UNABLE_TO_COMMUNICATE, text=text))
        if status in _DISCARDED or status == "transfer_failed":
            self._end(device, keep=() if status in _DISCARDED else (RECEIPT,))
        return documents

    def take_message(self, checked: MessageChecked) -> list[Document]:
        """A message from the HAN, with its DUIS form; none when it is not about this exchange."""
        device, step, good = self._meaning(checked)
        if device not in self.order.devices or step == "":
            return []
        if step not in self.order.steps:
            step, good = None, True  # shown, and it answers nothing
        document = message_document(checked)
        documents: list[Document] = [{"message": document}]
        reply = self._reply_for(checked)
        if reply is not None:
            documents.append(reply_document(reply))
        if not good or _INVALID in (checked.signature, checked.mac):
            self.failed = True
        if step is not None:
            self._close(device, step, good, checked)
        return documents

    def end(self, waited: bool) -> list[Document]:
        """How it ended; ``waited``: the user wanted to know the outcome."""
        documents: list[Document] = []
        if self.stopped_short:
            return [{"result": "failed" if waited else "accepted"}]
        if waited and not self.done:
            is_command = self.order.reference in _REFERENCES.values()
            if is_command and any(step == ANSWER for _, step in self._open):
                text = "no response in that time"
                documents.append(self._response(code=duis.NO_RESPONSE, text=text))
            self.failed = True
        accepted = "accepted" if not waited and self._open else "ok"
        documents.append({"result": "failed" if self.failed else accepted})
        return documents

    # --- what a message means ---------------------------------------------------------------------

    def _meaning(self, checked: MessageChecked) -> tuple[EntityId, str | None, bool]:
        """Whom it is about, which step it is, and whether it is good news.

        The step is None for a message that is shown and answers nothing, empty for one of another
        exchange.
        """
        fields, code = checked.fields, checked.message_code
        of_request = fields.get("request_id", self.order.request_id)
        if checked.kind == "response":
            expected = self._counters.get(checked.originator)
            if expected != (code, checked.counter) and self.order.is_command:
                return checked.originator, "", True
            good = fields.get("response_code", 0) == 0 and "error" not in fields
            return checked.originator, ANSWER, good
        if of_request != self.order.request_id:
            return checked.originator, "", True
        match code:
            # A device that speaks as the hub is no hub, however well it signs.
            case fm.CCS08_FIRMWARE_TRANSFER if (
                "entity_id" in fields and checked.originator == self._hub
            ):
                about = EntityId.parse(str(fields["entity_id"]))
                return about, TRANSFER, fields["response_code"] == fm.FILE_TRANSFER_SUCCESS
            case fm.CS09_ACTIVATION_ALERT:
                return checked.originator, ACTIVATION, fields.get("result") == 0
            case fm.RECEIPT_ALERT_DLMS | fm.RECEIPT_ALERT_GBZ:
                return checked.originator, RECEIPT, checked.alert_code == fm.IMAGE_VERIFIED
            case fm.CS06_ALERT:
                expected = self._counters.get(checked.originator)
                if expected is not None and expected[1] != fields.get("originator_counter"):
                    return checked.originator, "", True
                return checked.originator, OUTCOME, checked.alert_code == fm.FUTURE_DATED_DONE
        if checked.alert_code == fm.LACKS_AUTHORITY:
            return checked.originator, ANSWER, False
        return checked.originator, None if self.order.is_command else ANSWER, True

    def _close(self, device: EntityId, step: str, good: bool, checked: MessageChecked) -> None:
        self._open = [entry for entry in self._open if entry != (device, step)]
        if good and (step != ANSWER or "accepted" in checked.fields):
            return
        if step == ANSWER:  # refused, or done at once: no later alert
            self._end(device, failed=False)
        elif step == TRANSFER:
            discarded = checked.fields["response_code"] != fm.FILE_TRANSFER_FAILURE
            self._end(device, keep=() if discarded else (RECEIPT,))
        elif step == RECEIPT:
            self._end(device, keep=(TRANSFER,))

    def _end(self, device: EntityId, *, keep: tuple[str, ...] = (), failed: bool = True) -> None:
        """Nothing but stragglers comes from this device any more."""
        self.failed |= failed
        self._open = [entry for entry in self._open if entry[0] != device or entry[1] in keep]
        self._stragglers.update(entry for entry in self._open if entry[0] == device)

    # --- what the user is told --------------------------------------------------------------------

    def _response(self, *content: duis.Tree, text: str, code: str = duis.SUCCESS) -> Document:
        reference = self.order.reference
        assert reference is not None
        return reply_document(
            self._writer.response(
                self.order.request_id, reference, self._utc(), *content, code=code
            ),
            text,
        )

    def _delivery_status(self, device: EntityId, status: str) -> list[Document]:
        """N60 when the hub took the image for a device, N61 when it never could (both inferred).

        A device that is unknown may still join, so nothing is told of it before the offer ends.
        """
        if device in self._told or status == "unknown_device":
            return []
        self._told.add(device)
        success = status != "transfer_failed"  # without an offer before: it never joined
        section = self._section
        tree: duis.Tree = (
            "CSPFirmwareDeliveryStatus",
            (
                ("UpdateFirmwareRequestID", self.order.request_id),
                ("CommsHubDeviceID", str(self._hub)),
                ("TargetDeviceID", str(device)),
                ("FirmwareVersion", self.order.firmware_version),
                ("TimeStamp", date_time(self._utc())),
                ("CommsHubTransferStatus", "Success" if success else "Failure"),
            ),
        )
        code = section.delivered_alert if success else section.not_delivered_alert
        reply = self._writer.dcc_alert(self.order.user, self._utc(), code, tree)
        where = "is at the hub" if success else "could not be delivered to the hub"
        return [
            reply_document(reply, f"version {self.order.firmware_version} for {device} {where}")
        ]

    def _reply_for(self, checked: MessageChecked) -> duis.Reply | None:
        """The DUIS form of a message; None: there is none for it."""
        fields, code, at = checked.fields, checked.message_code, self._utc()
        user = self.order.user
        if checked.kind == "response":
            reference = self.order.reference or _REFERENCES.get(code)
            if reference is None:
                return None
            payload = duis.gbcs_payload(checked.message)
            return self._writer.response(self.order.request_id, reference, at, payload)
        if checked.alert_code is None or "error" in fields:
            return None
        match code:
            case fm.CCS08_FIRMWARE_TRANSFER:
                return self._writer.dcc_alert(
                    user, at, self._section.comms_hub_alert, self._comms_hub_alert(checked)
                )
            case fm.CS09_ACTIVATION_ALERT:
                return self._writer.dcc_alert(
                    user, at, self._section.ppmid_alert, _ppmid_alert(checked)
                )
            case fm.CS06_ALERT:
                tree = duis.future_dated_alert(checked.alert_code, checked.message)
                return self._writer.response(
                    request_id(
                        checked.recipient, checked.originator, int(fields["originator_counter"])
                    ),
                    duis.ACTIVATE_FIRMWARE,
                    at,
                    tree,
                )
        return self._writer.device_alert(
            checked.originator,
            checked.recipient,
            checked.counter,
            at,
            checked.alert_code,
            checked.message,
        )

    def _comms_hub_alert(self, checked: MessageChecked) -> duis.Tree:
        fields = checked.fields
        assert checked.alert_code is not None
        transfer = [
            ("OtherDeviceID", str(fields["entity_id"])),
            ("FirmwareVersion", str(fields["firmware_version"]).upper()),
            ("TransferResponseCode", TRANSFER_RESULTS[int(fields["response_code"])]),
        ]
        if TRANSFER in self.order.steps:
            transfer.insert(0, ("UpdateFirmwareRequestID", self.order.request_id))
        return (
            "CommsHubAlert",
            (
                ("CommsHubDeviceID", str(checked.originator)),
                ("AlertCode", f"{checked.alert_code:04X}"),
                ("TimeStamp", str(fields["at"])),
                ("FirmwareTransferAlert", transfer),
            ),
        )


def _ppmid_alert(checked: MessageChecked) -> duis.Tree:
    fields = checked.fields
    assert checked.alert_code is not None
    upgrade = (
        ("FirmwareVersion", str(fields["firmware_version"]).upper()),
        ("ActivateImageResultCode", ACTIVATION_RESULTS[int(fields["result"])]),
    )
    return (
        "PPMIDAlert",
        (
            ("DeviceID", str(checked.originator)),
            ("DeviceAlertCode", f"{checked.alert_code:04X}"),
            ("Timestamp", str(fields["at"])),
            ("PPMIDFirmwareUpgradeAlert", upgrade),
        ),
    )


def message_document(checked: MessageChecked) -> Document:
    """A message as the contract shows it."""
    document: Document = {
        "use_case": checked.use_case,
        "message_code": f"{checked.message_code:04X}",
        "kind": checked.kind,
        "originator": str(checked.originator),
        "recipient": str(checked.recipient),
        "counter": checked.counter,
    }
    if checked.alert_code is not None:
        document["alert_code"] = f"{checked.alert_code:04X}"
    return document | {
        "signature": checked.signature,
        "mac": checked.mac,
        "fields": dict(checked.fields),
        "hex": checked.message.hex(),
    }


def reply_document(reply: duis.Reply, text: str | None = None) -> Document:
    """``text`` is for people; None: the message it was made of is shown to them instead."""
    return {
        "response": {
            "name": reply.name,
            "code": reply.code,
            "text": text,
            "xml": reply.xml.decode("utf-8"),
        }
    }
