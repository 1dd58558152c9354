"""What the device says: responses and alerts, encoded, signed or MACed, ready for the outbox.

Which shape a device type uses is decided here: an ESME speaks DLMS, all others GBZ. The recipient
of an alert is the remote party that the device answers to: the access control broker for a PPMID,
the supplier for everything else. Source: gbcs.md 3 and 4.1; gbcs-supplement 4.1.
"""

from __future__ import annotations

from dataclasses import replace

from firmware_node.crypto import Keyring
from firmware_node.errors import KeyMissingError
from firmware_node.node.counters import Counters
from firmware_node.node.messages import activation_request
from firmware_node.sealing import seal_maced, seal_signed
from firmware_node.terms import DeviceSettings, DeviceType, EntityId, Role
from firmware_node.wire import firmware_messages as fm
from firmware_node.wire.gbcs import Cra, GroupingHeader, Message

# activateImageResponseCode (gbcs.md 3.1)
SUCCESS = 0
NO_IMAGE_HELD = 1
HASH_MISMATCH = 2
ACTIVATION_FAILURE = 3


class Alerts:
    """Builds every message of ours. Times are seconds since 2000-01-01T00:00:00Z.

    Every method raises KeyMissingError where a key or the recipient is not known, and may raise
    StorageError when a counter cannot be reserved.
    """

    def __init__(self, settings: DeviceSettings, keyring: Keyring, counters: Counters) -> None:
        self._settings = settings
        self._keyring = keyring
        self._counters = counters

    def version(self, command: Message, firmware_version: int) -> bytes:
        """CS08 response (gbcs.md 3.4): MACed for the originator."""
        header = _response_header(command)
        payload = fm.encode_cs08_response(fm.ReadVersionResponse(firmware_version, 0))
        return seal_maced(
            header, payload, self._keyring, own=header.originator, peer=header.recipient
        )

    def activation_response(
        self, command: Message, outcome: fm.ActivationOutcome | None, at: int
    ) -> bytes:
        """CS06 response; None: accepted for later, or cancelled. It alone carries a date-time."""
        header = replace(_response_header(command), date_time=fm.dlms_date_time(at))
        return self._sign(header, fm.encode_cs06_response(outcome))

    def activation_outcome(
        self, command: bytes, code: int, firmware_version: int, at: int
    ) -> bytes:
        """The outcome of a CS06 command that was kept: response when immediate, else alert 0x00CA.

        Source: gbcs.md 3.2 step 6.
        """
        message, request = activation_request(command)
        outcome = fm.ActivationOutcome(code, firmware_version)
        if request.executes_at is None:
            return self.activation_response(message, outcome, at)
        alert = fm.ActivationOutcomeAlert(
            fm.FUTURE_DATED_DONE if code == SUCCESS else fm.FUTURE_DATED_FAILED,
            request.executes_at,
            request.originator_counter,
            outcome,
        )
        header = self._alert_header(fm.CS06_ALERT, message.header.originator)
        return self._sign(header, fm.encode_cs06_alert(alert))

    def ppmid_activation(self, code: int, firmware_version: int, at: int) -> bytes:
        """CS09: result 0 for success and 1 for anything else (gbcs.md 3.5)."""
        result = min(code, 1)
        alert = fm.ActivationAlert(fm.PPMID_ACTIVATION, at, firmware_version, result)
        header = self._alert_header(fm.CS09_ACTIVATION_ALERT, self.recipient())
        return self._sign(header, fm.encode_cs09_alert(alert))

    def receipt(self, alert_code: int, manufacturer_sha256: bytes, at: int) -> bytes:
        """Firmware Distribution Receipt Alert: 0x8F72 or 0x8F1C (gbcs.md 3.3)."""
        alert = fm.ReceiptAlert(alert_code, at, manufacturer_sha256)
        if self._settings.type is DeviceType.ESME:
            header = self._alert_header(fm.RECEIPT_ALERT_DLMS, self.recipient())
            payload = fm.encode_receipt_alert_dlms(alert, header.originator_counter)
        else:
            header = self._alert_header(fm.RECEIPT_ALERT_GBZ, self.recipient())
            payload = fm.encode_receipt_alert_gbz(alert)
        return self._sign(header, payload)

    def generic(self, alert_code: int, at: int) -> bytes:
        """Critical alert without content, code 0x1000 (gbcs.md 4.11)."""
        alert = fm.GenericAlert(alert_code, at)
        header = self._alert_header(fm.GENERIC_CRITICAL_ALERT, self.recipient())
        if self._settings.type is DeviceType.ESME:
            payload = fm.encode_generic_alert_dlms(alert, header.originator_counter)
        else:
            payload = fm.encode_generic_alert_gbz(alert)
        return self._sign(header, payload)

    def recipient(self) -> EntityId:
        """Who hears our alerts: the configured party, else the first of its role in the keyring.

        Raises:
            KeyMissingError: nobody has that role.
        """
        ppmid = self._settings.type is DeviceType.PPMID
        configured = self._settings.acb if ppmid else self._settings.supplier
        role = Role.ACCESS_CONTROL_BROKER if ppmid else Role.SUPPLIER
        known = (configured,) if configured else self._keyring.find(role)
        if not known:
            name = role.name.lower().replace("_", " ")
            raise KeyMissingError(f"no certificate of the {name} in the key folder")
        return known[0]

    def _alert_header(self, code: int, recipient: EntityId) -> GroupingHeader:
        return GroupingHeader(
            Cra.ALERT, self._counters.take(), self._settings.entity_id, recipient, code
        )

    def _sign(self, header: GroupingHeader, payload: bytes) -> bytes:
        return seal_signed(header, payload, self._keyring.signing_key(self._settings.entity_id))


def _response_header(command: Message) -> GroupingHeader:
    """The command's counter and other-information, the two ids swapped (gbcs.md 4.3)."""
    header = command.header
    return replace(
        header, cra=Cra.RESPONSE, originator=header.recipient, recipient=header.originator
    )
