"""The device as a GBCS party: takes a command apart and checks it, in a fixed order.

The order is gbcs-supplement 1.2. No state changes and nothing expensive runs before a cheap
reject, and the received counter moves only after full authentication:

1. the outer form parses and it is a command
2. the recipient is this device
3. the use case is one this device type knows
4. the originator is a known remote party, which gives its role
5. that role may send this use case
6. the originator counter is above the one held for the role (equal is a replay)
7. the MAC
8. for critical use cases, the signature; for the others, that there is none
9. the payload decodes, and a counter that it repeats is the header's
10. ``accept``: the counter is stored, then the command is carried out, then the reply is queued;
    the three are one transaction because they happen in one step

A refusal is silence towards the originator, an entry in the security log, and for step 5 an alert.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from firmware_node.crypto import Keyring
from firmware_node.errors import DecodeError, RefusedError
from firmware_node.node.counters import Counters
from firmware_node.sealing import Verdict, check_mac, check_signature
from firmware_node.terms import DeviceSettings, DeviceType, Role
from firmware_node.wire import firmware_messages as fm
from firmware_node.wire.gbcs import Cra, Message, decode_message


@dataclass(frozen=True, slots=True)
class UseCase:
    """Who may send a message code to which device types (gbcs.md 1.2, supplement 5)."""

    name: str
    devices: frozenset[DeviceType]
    role: Role
    critical: bool


# One row a use case; a further one is added here and in ``_decode``.
USE_CASES: Mapping[int, UseCase] = {
    fm.CS06_ACTIVATE_FIRMWARE: UseCase(
        name="CS06",
        devices=frozenset({DeviceType.HCALCS, DeviceType.ESME, DeviceType.GSME}),
        role=Role.SUPPLIER,
        critical=True,
    ),
    fm.CS08_READ_VERSION: UseCase(
        name="CS08",
        devices=frozenset({DeviceType.PPMID, DeviceType.HCALCS}),
        role=Role.ACCESS_CONTROL_BROKER,
        critical=False,
    ),
}


@dataclass(frozen=True, slots=True)
class ReadVersionCommand:
    """CS08, checked."""

    message: Message
    role: Role


@dataclass(frozen=True, slots=True)
class ActivateCommand:
    """CS06, checked. ``octets`` is the whole message: what is kept until its outcome is told."""

    message: Message
    role: Role
    octets: bytes
    request: fm.ActivateFirmware


Command = ReadVersionCommand | ActivateCommand


class Messages:
    """Checks commands against this device's keys, rights and counters."""

    def __init__(self, settings: DeviceSettings, keyring: Keyring, counters: Counters) -> None:
        self._settings = settings
        self._keyring = keyring
        self._counters = counters

    def check(self, octets: bytes, at: int | None = None) -> Command:
        """Steps 1 to 9 of the module's list; nothing changes.

        ``at`` (seconds since 2000-01-01) makes certificates outside their dates unknown, where the
        settings want that; without a time no dates are looked at (gbcs.md 4.8).

        Raises:
            RefusedError: ``code`` is the security-log code.
            RecordLostError: the counters are not trustworthy, so nothing may be accepted.
        """
        message, use_case = self._check_form(octets)
        keyring = self._keyring.at(at) if self._settings.check_validity else self._keyring
        role = self._check_authority(message, use_case, keyring)
        self._counters.check_received(role, message.header.originator_counter)  # 6
        _check_protection(message, use_case, keyring)
        return _decode(octets, message, role)  # 9

    def accept(self, command: Command) -> None:
        """Step 10: from here on the same message is a replay."""
        counter = command.message.header.originator_counter
        self._counters.accept_received(command.role, counter)

    def _check_form(self, octets: bytes) -> tuple[Message, UseCase]:
        try:  # 1
            message = decode_message(octets)
        except DecodeError as error:
            raise RefusedError(fm.INTEGRITY_CHECK_FAILED, "malformed", str(error)) from error
        header = message.header
        if header.cra is not Cra.COMMAND:
            raise RefusedError(fm.INTEGRITY_CHECK_FAILED, "not_a_command", f"CRA flag {header.cra}")
        if header.recipient != self._settings.entity_id:  # 2
            raise RefusedError(
                fm.AUTHENTICATION_FAILURE, "wrong_recipient", f"addressed to {header.recipient}"
            )
        use_case = USE_CASES.get(header.message_code)  # 3
        if use_case is None or self._settings.type not in use_case.devices:
            raise RefusedError(
                fm.INTEGRITY_CHECK_FAILED, "unknown_use_case", f"message {header.message_code:04X}"
            )
        return message, use_case

    def _check_authority(self, message: Message, use_case: UseCase, keyring: Keyring) -> Role:
        originator = message.header.originator
        role = keyring.role(originator)  # 4
        # There is one supplier's cell: who is not the configured one is nobody here.
        if role is Role.SUPPLIER and self._settings.supplier not in (None, originator):
            role = None
        if role is None:
            raise RefusedError(
                fm.AUTHENTICATION_FAILURE, "unknown_originator", f"originator {originator}"
            )
        if role is not use_case.role:  # 5
            raise RefusedError(
                fm.LACKS_AUTHORITY,
                "role_lacks_authority",
                f"{originator} is {role.name}, {use_case.name} is for {use_case.role.name}",
            )
        return role


def activation_request(octets: bytes) -> tuple[Message, fm.ActivateFirmware]:
    """A CS06 command that was checked and kept."""
    message = decode_message(octets)
    return message, fm.decode_cs06_command(message.payload)


def _check_protection(message: Message, use_case: UseCase, keyring: Keyring) -> None:
    verdict = check_mac(message, keyring)  # 7
    if verdict is not Verdict.VALID:
        raise RefusedError(fm.AUTHENTICATION_FAILURE, "mac_wrong", f"MAC {verdict.value}")
    if use_case.critical:  # 8
        verdict = check_signature(message, keyring)
        if verdict is not Verdict.VALID:
            raise RefusedError(
                fm.AUTHENTICATION_FAILURE, "signature_wrong", f"signature {verdict.value}"
            )
    elif message.signature:  # SME.C.NC carries an empty signature field
        raise RefusedError(fm.AUTHENTICATION_FAILURE, "signature_unexpected", "has a signature")


def _decode(octets: bytes, message: Message, role: Role) -> Command:
    header = message.header
    try:
        match header.message_code:
            case fm.CS06_ACTIVATE_FIRMWARE:
                request = fm.decode_cs06_command(message.payload)
                if request.originator_counter != header.originator_counter:
                    raise RefusedError(
                        fm.INTEGRITY_CHECK_FAILED,
                        "payload_counter_differs",
                        f"payload {request.originator_counter}, header {header.originator_counter}",
                    )
                return ActivateCommand(message, role, octets, request)
            case fm.CS08_READ_VERSION:
                fm.decode_cs08_command(message.payload)
                return ReadVersionCommand(message, role)
    except DecodeError as error:
        raise RefusedError(fm.INTEGRITY_CHECK_FAILED, "payload_malformed", str(error)) from error
    raise AssertionError(f"use case {header.message_code:04X} has no decoder")
