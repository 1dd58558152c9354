"""The device as a GBCS party: takes a command apart, checks it in order, and builds every message.

The order of the checks is gbcs-supplement 1.2. No state changes and nothing expensive runs before
a cheap reject, and the received counter moves only after full authentication:

1. the outer form parses and it is a command
2. the recipient is this device
3. the use case is one this device type knows
4. the originator is a known remote party, which gives its role
5. that role may send this use case
6. the originator counter is above the one held for the role (equal is a replay)
7. the MAC
8. for critical use cases, the signature
9. the payload decodes
10. the counter is stored, then the command is carried out, then the reply is queued; the three
    are one transaction because they happen in one step

A refusal is silence towards the originator and a security notification for our operator.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from firmware_node.crypto import Keyring
from firmware_node.errors import DecodeError, KeyMissingError, RefusedError
from firmware_node.node.counters import Counters
from firmware_node.sealing import Verdict, check_mac, seal_maced, seal_signed
from firmware_node.terms import DeviceSettings, DeviceType, EntityId, Role
from firmware_node.wire.firmware_messages import (
    CS08_READ_VERSION,
    CS09_ACTIVATION_ALERT,
    ActivationAlert,
    ReadVersionResponse,
    decode_cs08_command,
    encode_cs08_response,
    encode_cs09_alert,
)
from firmware_node.wire.gbcs import Cra, GroupingHeader, Message, decode_message

# Alert and security-log codes of supplement 1.2.
INTEGRITY_CHECK_FAILED = 0x8F1E
LACKS_AUTHORITY = 0x8F30
AUTHENTICATION_FAILURE = 0x8F53
OUT_OF_ORDER = 0x8F60
PPMID_ACTIVATION = 0x8F8B


@dataclass(frozen=True, slots=True)
class UseCase:
    """Who may send a message code to which device types (gbcs.md 7.1, supplement 5)."""

    name: str
    devices: frozenset[DeviceType]
    roles: frozenset[Role]
    critical: bool


# One row a use case; a further one is added here and in ``Messages._carry_out``.
USE_CASES: Mapping[int, UseCase] = {
    CS08_READ_VERSION: UseCase(
        name="CS08",
        devices=frozenset({DeviceType.PPMID, DeviceType.HCALCS}),
        roles=frozenset({Role.ACCESS_CONTROL_BROKER}),
        critical=False,
    ),
}


class Messages:
    """Checks commands and seals replies and alerts with this device's keys."""

    def __init__(self, settings: DeviceSettings, keyring: Keyring, counters: Counters) -> None:
        self._settings = settings
        self._keyring = keyring
        self._counters = counters

    def reply_to(self, data: bytes, firmware_version: int) -> bytes:
        """Check one command and give the encoded response to queue.

        Raises:
            RefusedError: steps 1 to 9 of the module's list; ``code`` is the security-log code.
            StorageError: the counters are not trustworthy, so nothing may be accepted.
        """
        message = self._check_form(data)
        role = self._check_authority(message)
        self._counters.check_received(role, message.header.originator_counter)  # 6
        self._check_protection(message)
        response = self._carry_out(message, firmware_version)  # 9
        self._counters.accept_received(role, message.header.originator_counter)  # 10
        return response

    def activation_alert(self, executed_at: int, firmware_version: int, result: int) -> bytes:
        """CS09: this PPMID activated an image (result 0) or failed to (1). Source: gbcs.md 3.5."""
        payload = encode_cs09_alert(
            ActivationAlert(
                alert_code=PPMID_ACTIVATION,
                executed_at=executed_at,
                firmware_version=firmware_version,
                result=result,
            )
        )
        header = GroupingHeader(
            cra=Cra.ALERT,
            originator_counter=self._counters.take(),
            originator=self._settings.entity_id,
            recipient=self._acb(),
            message_code=CS09_ACTIVATION_ALERT,
        )
        return seal_signed(header, payload, self._keyring.signing_key(self._settings.entity_id))

    def _check_form(self, data: bytes) -> Message:
        try:  # 1
            message = decode_message(data)
        except DecodeError as error:
            raise RefusedError(INTEGRITY_CHECK_FAILED, "malformed", str(error)) from error
        header = message.header
        if header.cra is not Cra.COMMAND:
            raise RefusedError(INTEGRITY_CHECK_FAILED, "not_a_command", f"CRA flag {header.cra}")
        if header.recipient != self._settings.entity_id:  # 2
            raise RefusedError(
                AUTHENTICATION_FAILURE, "wrong_recipient", f"addressed to {header.recipient}"
            )
        use_case = USE_CASES.get(header.message_code)  # 3
        if use_case is None or self._settings.type not in use_case.devices:
            raise RefusedError(
                INTEGRITY_CHECK_FAILED, "unknown_use_case", f"message {header.message_code:04X}"
            )
        return message

    def _check_authority(self, message: Message) -> Role:
        originator = message.header.originator
        role = self._keyring.role(originator)  # 4
        if role is None:
            raise RefusedError(
                AUTHENTICATION_FAILURE, "unknown_originator", f"originator {originator}"
            )
        if role not in USE_CASES[message.header.message_code].roles:  # 5
            raise RefusedError(
                LACKS_AUTHORITY, "role_lacks_authority", f"{originator} is {role.name}"
            )
        return role

    def _check_protection(self, message: Message) -> None:
        verdict = check_mac(message, self._keyring)  # 7
        if verdict is not Verdict.VALID:
            raise RefusedError(AUTHENTICATION_FAILURE, "mac_wrong", f"MAC {verdict.value}")
        # 8: no critical use case yet; SME.C.NC carries an empty signature field.
        if message.signature:
            raise RefusedError(AUTHENTICATION_FAILURE, "signature_unexpected", "has a signature")

    def _carry_out(self, message: Message, firmware_version: int) -> bytes:
        try:
            decode_cs08_command(message.payload)
        except DecodeError as error:
            raise RefusedError(INTEGRITY_CHECK_FAILED, "payload_malformed", str(error)) from error
        payload = encode_cs08_response(
            ReadVersionResponse(firmware_version=firmware_version, response_code=0)
        )
        header = replace(
            message.header,
            cra=Cra.RESPONSE,
            originator=message.header.recipient,
            recipient=message.header.originator,
        )
        return seal_maced(
            header, payload, self._keyring, own=header.originator, peer=header.recipient
        )

    def _acb(self) -> EntityId:
        if self._settings.acb is not None:
            return self._settings.acb
        known = self._keyring.find(Role.ACCESS_CONTROL_BROKER)
        if not known:
            raise KeyMissingError("no certificate of an access control broker in the key folder")
        return known[0]
