"""DUIS service requests 11.1 to 11.4: reads them, writes signed ones.

What a request asks for becomes a ``ServiceRequest``; carrying it out is the DCC's work. A value
that the schema refuses is refused here: element names and their order, lengths, ranges, patterns,
and which command variant a request comes with. Source: gbcs.md 1.3 to 1.5; DUIS schema 5.4.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lxml import etree

from firmware_node.crypto import Keyring
from firmware_node.errors import ConfigError
from firmware_node.terms import EntityId
from firmware_node.tools.duis import document, signature

IMAGE_SIZE_MAX = 10_240_000  # octets of FirmwareImage (gbcs.md 1.3)
DEVICE_LIST_SIZE_MAX = 1_199_999  # characters: 50,000 devices (DUIS schema)
GBCS_COUNTER_MAX = 2**63 - 1  # what the counter in a CS06 payload can hold (gbcs.md 3.1)
GBCS_PAYLOAD_SIZE_MAX = 8192  # octets, as in ``wire.gbcs``
CANCEL_TIME = "3000-12-31T00:00:00.00Z"  # as ExecutionDateTime: cancels (gbcs.md 1.5)

UPDATE_FIRMWARE = "11.1"
READ_FIRMWARE_VERSION = "11.2"
ACTIVATE_FIRMWARE = "11.3"
UPDATE_PPMID_FIRMWARE = "11.4"

# Command variants (duis-command-variants.tsv): what is returned, and what goes over the WAN.
TRANSFORM = 4
SIGNED_PRE_COMMAND = (5, 6, 7)
RETURNS_COMMAND = (2, 3, 6, 7)  # for local delivery
SENDS_COMMAND = (1, 3, 5, 7)

_SIGNED_BODY = "SignedPreCommand"
_HASH = re.compile(r"[0-9A-Fa-f]{64}")


@dataclass(frozen=True, slots=True)
class _Shape:
    """How the body of one service request looks, and with which command variants it comes."""

    body: str
    command_variants: tuple[int, ...]  # the first is the one written
    to_devices: bool = True  # its target is the device; else the access control broker


_UPDATE_FIELDS = ("FirmwareImage", "FirmwareVersion", "DeviceIDList")
_SHAPES = {
    UPDATE_FIRMWARE: _Shape("UpdateFirmware", (8,), to_devices=False),
    READ_FIRMWARE_VERSION: _Shape("ReadFirmwareVersion", (1, 2, 3)),
    ACTIVATE_FIRMWARE: _Shape("ActivateFirmware", (TRANSFORM,)),
    UPDATE_PPMID_FIRMWARE: _Shape("UpdatePPMIDFirmware", (8,), to_devices=False),
}
SERVICE_REFERENCES = tuple(_SHAPES)


@dataclass(frozen=True, slots=True)
class ServiceRequest:
    """One DUIS request. Fields that its service reference does not have are None or empty."""

    request_id: str  # as written
    originator: EntityId
    target: EntityId
    counter: int  # the User's originator counter
    command_variant: int
    service_reference: str
    devices: tuple[EntityId, ...]  # 11.1, 11.4: the list; 11.2, 11.3: the target
    image: bytes | None = None  # an OTA file, not looked into
    firmware_version: str | None = None  # the one of record is the OTA header's
    hash: bytes | None = None  # 32 octets
    executes_at: int | None = None  # seconds since 2000-01-01; None: at once, or cancels
    cancels: bool = False
    signed_pre_command: bytes | None = None  # 11.3 with command variant 5, 6 or 7

    @property
    def to_devices(self) -> bool:
        """Whether its target is a device; else it is the access control broker."""
        return _SHAPES[self.service_reference].to_devices


def parse_request(data: bytes) -> ServiceRequest:
    """Read a request; its signature is not looked at, see ``signature_state``.

    Raises:
        ConfigError: no XML, another document, or a value that the schema refuses.
    """
    root = document.parse(data, "Request")
    document.check_attributes(root)
    parts = document.children(root, "Header", "Body")
    header = document.fields(
        parts["Header"],
        "RequestID",
        "FirstInSequence?",
        "PrecedingServiceRequestID?",
        "CommandVariant",
        "ServiceReference",
        "ServiceReferenceVariant",
    )
    for name in ("FirstInSequence", "PrecedingServiceRequestID"):
        if name in header:
            raise ConfigError(f"DUIS: {name}: requests in a sequence are not carried out")
    reference = header["ServiceReference"].strip()
    shape = _SHAPES.get(reference)
    if shape is None:
        known = " ".join(_SHAPES)
        raise ConfigError(f"DUIS: ServiceReference {reference[:20]!r}, expected one of {known}")
    if header["ServiceReferenceVariant"].strip() != reference:
        raise ConfigError(f"DUIS: ServiceReferenceVariant is not {reference}")
    body_name, body = document.only_child(parts["Body"])
    is_signed = reference == ACTIVATE_FIRMWARE and body_name == _SIGNED_BODY
    if body_name != shape.body and not is_signed:
        raise ConfigError(f"DUIS: {body_name[:60]} in Body, expected {shape.body}")
    variants = SIGNED_PRE_COMMAND if is_signed else shape.command_variants
    variant = header["CommandVariant"].strip()
    if variant not in map(str, variants):
        allowed = " ".join(map(str, variants))
        raise ConfigError(
            f"DUIS: CommandVariant {variant[:20]!r}, expected {allowed} for {body_name}"
        )
    request_id = header["RequestID"].strip()
    originator, target, counter = document.parse_request_id(request_id)
    common = (request_id, originator, target, counter, int(variant), reference)
    match reference:
        case "11.1" | "11.4":
            values = document.fields(body, *_UPDATE_FIELDS)
            return ServiceRequest(
                *common,
                devices=document.parse_device_list(
                    "DeviceIDList", values["DeviceIDList"], DEVICE_LIST_SIZE_MAX
                ),
                image=document.parse_base64(
                    "FirmwareImage", values["FirmwareImage"], IMAGE_SIZE_MAX
                ),
                firmware_version=_firmware_version(values["FirmwareVersion"]),
            )
        case "11.3":
            if counter > GBCS_COUNTER_MAX:
                raise ConfigError(
                    f"RequestID: counter {counter}, SR 11.3 has room for {GBCS_COUNTER_MAX}"
                )
            if is_signed:
                values = document.fields(body, "GBCSPayload")
                payload = values["GBCSPayload"]
                return ServiceRequest(
                    *common,
                    devices=(target,),
                    signed_pre_command=document.parse_base64(
                        "GBCSPayload", payload, GBCS_PAYLOAD_SIZE_MAX
                    ),
                )
            values = document.fields(body, "ExecutionDateTime?", "FirmwareHash")
            executes_at, cancels = None, False
            if "ExecutionDateTime" in values:
                executes_at = document.parse_date_time(
                    "ExecutionDateTime", values["ExecutionDateTime"]
                )
                cancels = executes_at == document.parse_date_time("CANCEL_TIME", CANCEL_TIME)
            return ServiceRequest(
                *common,
                devices=(target,),
                hash=_hash(values["FirmwareHash"]),
                executes_at=None if cancels else executes_at,
                cancels=cancels,
            )
        case _:
            if document.children(body, "ExecutionDateTime?"):
                raise ConfigError(
                    "DUIS: ExecutionDateTime: a reading that the DSP puts off is not carried out"
                )
            return ServiceRequest(*common, devices=(target,))


def signature_state(data: bytes, keyring: Keyring) -> str:
    """``valid``, ``invalid`` or ``placeholder``: see ``signature.state``; the signer is the
    RequestID's originator.

    Raises:
        ConfigError: no DUIS request, or an unreadable key file.
    """
    root = document.parse(data, "Request")
    header = document.children(root, "Header", "Body")["Header"]
    text = header.findtext(f"{{{document.SR}}}RequestID") or ""
    return signature.state(root, document.parse_request_id(text)[0], keyring)


def build_update_request(
    service_reference: str,
    originator: EntityId,
    broker: EntityId,
    counter: int,
    keyring: Keyring,
    *,
    image: bytes,
    firmware_version: str,
    devices: Sequence[EntityId],
) -> bytes:
    """A signed SR 11.1 or 11.4; ``broker`` is the access control broker, its target (gbcs.md 1.5).

    Raises:
        ConfigError: a value out of range.
        KeyMissingError: no private signing key, or no certificate, of ``originator``.
    """
    assert service_reference in (UPDATE_FIRMWARE, UPDATE_PPMID_FIRMWARE)
    fields = (
        ("FirmwareImage", document.base64_text(image)),
        ("FirmwareVersion", firmware_version),
        ("DeviceIDList", document.device_list(devices)),
    )
    return _build(service_reference, originator, broker, counter, keyring, fields)


def build_read_version_request(
    originator: EntityId, device: EntityId, counter: int, keyring: Keyring
) -> bytes:
    """A signed SR 11.2; raises like ``build_update_request``."""
    return _build(READ_FIRMWARE_VERSION, originator, device, counter, keyring, ())


def build_activate_request(
    originator: EntityId,
    device: EntityId,
    counter: int,
    keyring: Keyring,
    *,
    manufacturer_image_hash: bytes,
    executes_at: int | None = None,
    cancels: bool = False,
) -> bytes:
    """A signed SR 11.3: at once, at ``executes_at`` (seconds since 2000-01-01), or cancelling.

    Raises like ``build_update_request``.
    """
    assert not (cancels and executes_at is not None)
    fields = [("FirmwareHash", manufacturer_image_hash.hex().upper())]
    if cancels:
        fields.insert(0, ("ExecutionDateTime", CANCEL_TIME))
    elif executes_at is not None:
        fields.insert(0, ("ExecutionDateTime", document.date_time(executes_at)))
    return _build(ACTIVATE_FIRMWARE, originator, device, counter, keyring, fields)


def build_signed_pre_command_request(
    request: ServiceRequest, signed_pre_command: bytes, keyring: Keyring, command_variant: int = 5
) -> bytes:
    """The second half of an SR 11.3: under the id of its first, with the signed Pre-Command.

    The one id for both is inferred: it names the counter that the Pre-Command already has.
    Raises like ``build_update_request``.
    """
    assert command_variant in SIGNED_PRE_COMMAND
    return _build(
        request.service_reference,
        request.originator,
        request.target,
        request.counter,
        keyring,
        (("GBCSPayload", document.base64_text(signed_pre_command)),),
        body=_SIGNED_BODY,
        command_variant=command_variant,
    )


def _firmware_version(text: str) -> str:
    if len(text) > 8:
        raise ConfigError(f"DUIS: FirmwareVersion {text[:40]!r}, expected 1 to 8 characters")
    return text


def _hash(text: str) -> bytes:
    if _HASH.fullmatch(text.strip()) is None:
        raise ConfigError(f"DUIS: FirmwareHash of {len(text)} characters, expected 64 hex digits")
    return bytes.fromhex(text.strip())


def _build(
    service_reference: str,
    originator: EntityId,
    target: EntityId,
    counter: int,
    keyring: Keyring,
    fields: Sequence[tuple[str, str]],
    *,
    body: str | None = None,
    command_variant: int | None = None,
) -> bytes:
    shape = _SHAPES[service_reference]
    root = document.new_root("Request")
    header = document.add(root, "Header")
    for name, text in (
        ("RequestID", document.request_id(originator, target, counter)),
        ("CommandVariant", str(command_variant or shape.command_variants[0])),
        ("ServiceReference", service_reference),
        ("ServiceReferenceVariant", service_reference),
    ):
        document.add(header, name, text)
    content = document.add(document.add(root, "Body"), body or shape.body)
    for name, text in fields:
        document.add(content, name, text)
    etree.indent(root)
    data = document.octets_of(signature.sign(root, originator, keyring))
    # Our own reader has the say on what may be written.
    parse_request(data)
    return data
