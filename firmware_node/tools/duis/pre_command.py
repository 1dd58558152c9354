"""SR 11.3 from request to Pre-Command to signed Pre-Command: the DCC's step and the User's.

The DCC transforms the request into a CS06 command without signature and MAC; the User looks
whether that is what was asked for, and signs it. Source: gbcs.md 1.4, 3.1, 4.1, 4.4.
"""

from __future__ import annotations

from firmware_node.crypto import Keyring
from firmware_node.errors import ConfigError, DecodeError
from firmware_node.tools.duis.request import ServiceRequest
from firmware_node.wire import firmware_messages as fm
from firmware_node.wire.gbcs import (
    Cra,
    GroupingHeader,
    Message,
    decode_message,
    encode_signed_octets,
    signed_message,
)


def transform(request: ServiceRequest) -> bytes:
    """The Pre-Command of an SR 11.3 with command variant 4: from DF to the payload's end."""
    assert request.hash is not None
    header = GroupingHeader(
        Cra.COMMAND,
        request.counter,
        request.originator,
        request.target,
        fm.CS06_ACTIVATE_FIRMWARE,
    )
    payload = fm.encode_cs06_command(
        fm.ActivateFirmware(request.hash, request.counter, request.executes_at, request.cancels)
    )
    return b"\xdf" + encode_signed_octets(header, payload)


def sign_pre_command(request: ServiceRequest, pre_command: bytes, keyring: Keyring) -> bytes:
    """The signed Pre-Command, made by the User that asked for it.

    An empty signature field at the end, as older tool chains append it, is left out.

    Raises:
        ConfigError: the Pre-Command is not what ``request`` asks for.
        KeyMissingError: no private signing key of the User.
    """
    wanted = transform(request)
    if pre_command not in (wanted, wanted + b"\0"):
        raise ConfigError(f"Pre-Command: another than {request.request_id} asks for, not signed")
    signed_octets = wanted[1:]
    signature = keyring.signing_key(request.originator).sign(signed_octets)
    return signed_message(signed_octets, signature)


def read_signed_pre_command(request: ServiceRequest) -> tuple[Message, fm.ActivateFirmware]:
    """The message in an SR 11.3 with command variant 5 to 7, and its payload.

    Raises:
        ConfigError: no CS06 command, one with a MAC, without a signature, or of other parties or
            another counter than the RequestID's.
    """
    assert request.signed_pre_command is not None
    try:
        message = decode_message(request.signed_pre_command)
        header = message.header
        if message.mac or not message.signature:
            raise ConfigError("signed Pre-Command: expected a signature and no MAC")
        if (header.message_code, header.cra) != (fm.CS06_ACTIVATE_FIRMWARE, Cra.COMMAND):
            raise ConfigError(
                f"signed Pre-Command: found message code {header.message_code:04X}, expected a "
                "CS06 command"
            )
        command = fm.decode_cs06_command(message.payload)
    except DecodeError as error:
        raise ConfigError(f"signed Pre-Command: {error}") from error
    ids = (header.originator, header.recipient, header.originator_counter)
    if ids != (request.originator, request.target, request.counter):
        raise ConfigError(f"signed Pre-Command: other ids than those of {request.request_id}")
    return message, command
