"""The DCC behind the hub's socket: reads what a user sent and makes an ``Exchange`` of it.

Here is what each service request comes to: an offer to the hub, a command of the head end's, a
Pre-Command, or a refusal; ``dcc_rules`` says whether it may, ``eligibility`` for which devices.
What is remembered lives as long as the process. Source: gbcs.md 1.3 to 1.5, 2.5.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from firmware_node.adapters.dcc_exchange import (
    ACTIVATION,
    ANSWER,
    OUTCOME,
    RECEIPT,
    TRANSFER,
    Document,
    Exchange,
    Order,
    reply_document,
)
from firmware_node.adapters.dcc_rules import Rules, Ruling, remember
from firmware_node.boundary import CarryMessage, Delivered, OfferImage, ReadVersion, SendSigned
from firmware_node.config import DccSection
from firmware_node.crypto import Keyring
from firmware_node.errors import ConfigError, DecodeError, KeyMissingError
from firmware_node.sealing import Verdict, check_signature
from firmware_node.terms import EntityId, ImageFormat
from firmware_node.tools import duis, eligibility
from firmware_node.tools.decode_input import parts_of
from firmware_node.tools.duis.document import request_id
from firmware_node.tools.products import ProductList, parse_products
from firmware_node.wire.gbcs import Cra, decode_message
from firmware_node.wire.ota_file import decode_ota_file, decode_ota_header

_TRANSFER_ENDED = ("transferred", "discarded", "hardware_mismatch", "transfer_failed")
_FORMATS = {
    duis.UPDATE_FIRMWARE: ImageFormat.GB_SUPPLIER_SIGNED,
    duis.UPDATE_PPMID_FIRMWARE: ImageFormat.GB_PLAIN,
}
_STEPS = {
    duis.UPDATE_FIRMWARE: (TRANSFER, RECEIPT),
    duis.UPDATE_PPMID_FIRMWARE: (TRANSFER, ACTIVATION),
}


class Dcc:
    """See the module. ``utc`` is the hub's time, ``is_present`` whether the hub knows a device."""

    def __init__(
        self,
        section: DccSection,
        keyring: Keyring,
        broker: EntityId,
        hub: EntityId,
        *,
        first_counter: int,
        utc: Callable[[], int],
        is_present: Callable[[EntityId], bool],
    ) -> None:
        self._section = section
        self._keyring = keyring
        self._broker = broker
        self._hub = hub
        self._utc = utc
        self._writer = duis.Writer(broker, keyring, first_counter)
        self._rules = Rules(section, keyring, broker)
        self._in_progress: dict[EntityId, str] = {}  # request id by device
        self._estate = eligibility.Estate(
            {EntityId.parse(entry.entity_id): entry for entry in section.inventory},
            _read_products(section.central_products_list),
            self._is_known,
            is_present,
            self._in_progress.__contains__,
            section.gbcs_version,
            section.gbcs_version_min,
        )

    @property
    def list_problems(self) -> tuple[str, ...]:
        """What could not be read of the Central Products List."""
        return () if self._estate.products is None else self._estate.products.problems

    def take(self, body: bytes, to: str | None = None) -> Exchange:
        """What a user sent: a DUIS request, or a GBCS message in any form that ``decode`` takes.

        ``to`` names the device that a message is for, which then may be no message at all.

        Raises:
            ConfigError: neither, or one that its schema refuses.
        """
        if to is not None:
            return self._octets(body, EntityId.parse(to))
        return self._request(body) if duis.is_request(body) else self._message(body)

    def go_on(self, exchange: Exchange, request: bytes) -> bytes | None:
        """As the User: the signed Pre-Command request that follows ``exchange``.

        None: the User's signing key or certificate is not here.
        """
        assert exchange.pre_command is not None
        asked = duis.parse_request(request)
        try:
            signed = duis.sign_pre_command(asked, exchange.pre_command, self._keyring)
            return duis.build_signed_pre_command_request(asked, signed, self._keyring)
        except KeyMissingError:
            return None

    def note(self, effect: Delivered) -> None:
        """Keep account of which transfers are over."""
        if effect.status in _TRANSFER_ENDED:
            if self._in_progress.get(effect.entity_id) == effect.request_id:
                del self._in_progress[effect.entity_id]

    # --- service requests -------------------------------------------------------------------------

    def _request(self, body: bytes) -> Exchange:
        request = duis.parse_request(body)
        state = duis.signature_state(body, self._keyring)
        ruling = self._rules.judge(request, state)
        head: Document = {
            "request_id": request.request_id,
            "response_code": duis.ACKNOWLEDGED,
            "request_signature": state,
            "warnings": ruling.warnings,
        }
        match request.service_reference:
            case "11.1" | "11.4":
                return self._update(request, head, ruling)
            case "11.3" if request.signed_pre_command is None:
                return self._transform(request, head, ruling)
            case "11.3":
                return self._activate(request, head, ruling)
        item = ReadVersion(request.request_id, request.originator, request.counter, request.target)
        return self._command(request, head, ruling, item, (ANSWER,))

    def _update(self, request: duis.ServiceRequest, head: Document, ruling: Ruling) -> Exchange:
        """SR 11.1 and 11.4: an offer for the devices that nothing is wrong with."""
        assert request.image is not None
        reference = request.service_reference
        image = self._read_image(request, ruling)
        lists = eligibility.examine(reference, request.devices, image, self._estate)
        devices = request.devices
        for name, listed in lists.items():
            for device in listed:
                ruling.warnings.append(f"{device}: {eligibility.WORDS[name]} ({name})")
                if self._section.device_list == "require":
                    devices = tuple(other for other in devices if other != device)
        if not devices:
            code = duis.warning_code(reference, error=True)
            ruling.refuse("no device is left that this request is for", code)
        version = None if image is None else image.key.version_hex.upper()
        order = Order(
            request.request_id,
            reference,
            request.originator,
            devices,
            _STEPS[reference],
            OfferImage(
                request.request_id, request.image, devices, reference == duis.UPDATE_FIRMWARE
            ),
            firmware_version=version or "00000000",
        )
        if ruling.error is not None:
            return self._refused(order, head, ruling)
        first = [self._acknowledged(request)]
        if lists:
            code = duis.warning_code(reference)
            reply = self._writer.response(
                request.request_id,
                reference,
                self._utc(),
                duis.firmware_warning(reference, lists),
                code=code,
            )
            first.append(reply_document(reply, f"response {code}"))
        for device in devices:
            remember(self._in_progress, device, request.request_id)
        return self._exchange(order, head, first)

    def _read_image(self, request: duis.ServiceRequest, ruling: Ruling) -> eligibility.Image | None:
        """What the products list is asked about; None: the hub will have its say on the file."""
        assert request.image is not None
        try:
            key = decode_ota_header(request.image).image
            version = key.version_hex
            if (request.firmware_version or "").lower() != version:
                ruling.warnings.append(
                    f"FirmwareVersion {request.firmware_version} differs from the OTA header's "
                    f"{version}, which counts"
                )
            span = decode_ota_file(
                request.image, _FORMATS[request.service_reference]
            ).manufacturer_image
        except DecodeError as error:
            ruling.warnings.append(f"image: {error}")
            return None
        octets = request.image[span.offset : span.end]
        return eligibility.Image(key, hashlib.sha256(octets).digest())

    def _transform(self, request: duis.ServiceRequest, head: Document, ruling: Ruling) -> Exchange:
        """SR 11.3 with command variant 4: the Pre-Command at once, nothing is sent."""
        order = Order(request.request_id, duis.ACTIVATE_FIRMWARE, request.originator, (), ())
        if ruling.error is not None:
            return self._refused(order, head, ruling)
        pre_command = duis.transform(request)
        self._rules.transformed(request.request_id)
        version = self._estate.gbcs_version_of(request.target)
        reply = self._writer.response(
            request.request_id,
            duis.ACTIVATE_FIRMWARE,
            self._utc(),
            duis.pre_command(version, pre_command),
        )
        head["response_code"] = duis.SUCCESS
        first = [{"pre_command": pre_command.hex()}, reply_document(reply, "Pre-Command")]
        return self._exchange(order, head, first, pre_command)

    def _activate(self, request: duis.ServiceRequest, head: Document, ruling: Ruling) -> Exchange:
        """SR 11.3 with a signed Pre-Command: MACed and carried."""
        assert request.signed_pre_command is not None
        message, command = duis.read_signed_pre_command(request)
        verdict = check_signature(message, self._keyring)
        if verdict is not Verdict.VALID:
            text = f"signature of the signed Pre-Command: {verdict.value}"
            ruling.broken("request_signature", text, duis.REFUSED)
        steps = (ANSWER,) if command.executes_at is None else (ANSWER, OUTCOME)
        item = SendSigned(request.request_id, request.signed_pre_command)
        return self._command(request, head, ruling, item, steps, command.executes_at)

    def _command(
        self,
        request: duis.ServiceRequest,
        head: Document,
        ruling: Ruling,
        item: ReadVersion | SendSigned,
        steps: tuple[str, ...],
        executes_at: int | None = None,
    ) -> Exchange:
        sends = request.command_variant in duis.SENDS_COMMAND
        order = Order(
            request.request_id,
            request.service_reference,
            request.originator,
            request.devices,
            steps,
            item,
            sends=sends,
            returns=request.command_variant in duis.RETURNS_COMMAND,
            executes_at=executes_at,
        )
        if ruling.error is not None:
            return self._refused(order, head, ruling)
        # A command that is only returned is returned at once, without an acknowledgement.
        return self._exchange(order, head, [self._acknowledged(request)] if sends else [])

    def _acknowledged(self, request: duis.ServiceRequest) -> Document:
        reply = self._writer.acknowledgement(
            request.request_id, request.service_reference, self._utc()
        )
        return reply_document(reply, "acknowledged")

    def _refused(self, order: Order, head: Document, ruling: Ruling) -> Exchange:
        """Nothing is done; the answer says why in its code, and the head in words."""
        assert order.reference is not None
        head |= {"response_code": ruling.code, "error": ruling.error}
        reply = self._writer.acknowledgement(
            order.request_id, order.reference, self._utc(), ruling.code
        )
        nothing = Order(order.request_id, order.reference, order.user, (), ())
        return self._exchange(nothing, head, [reply_document(reply, "refused")])

    # --- messages ---------------------------------------------------------------------------------

    def _message(self, body: bytes) -> Exchange:
        """A GBCS message is carried as it is: no rule is applied to it."""
        try:
            octets = _one_message(body)
            header = decode_message(octets).header
        except DecodeError as error:
            raise ConfigError(f"neither a DUIS request nor a GBCS message: {error}") from error
        order = Order(
            request_id(header.originator, header.recipient, header.originator_counter),
            None,
            header.originator,
            (header.recipient,),
            (ANSWER,),
            CarryMessage(header.recipient, octets),
            is_command=header.cra is Cra.COMMAND,
        )
        return self._carried(order)

    def _octets(self, body: bytes, device: EntityId) -> Exchange:
        """An attack on a device: octets as they are, whatever they are."""
        try:
            octets = _one_message(body)
        except DecodeError as error:
            raise ConfigError(f"no message: {error}") from error
        order = Order(
            request_id(self._broker, device, 0),
            None,
            self._broker,
            (device,),
            (ANSWER,),
            CarryMessage(device, octets),
            is_command=False,
        )
        return self._carried(order)

    def _carried(self, order: Order) -> Exchange:
        head: Document = {
            "request_id": order.request_id,
            "response_code": duis.ACKNOWLEDGED,
            "request_signature": "placeholder",
            "warnings": ["a GBCS message carried as it is"],
        }
        return self._exchange(order, head, [])

    def _exchange(
        self,
        order: Order,
        head: Document,
        first: list[Document],
        pre_command: bytes | None = None,
    ) -> Exchange:
        return Exchange(
            order, head, first, self._writer, self._section, self._hub, self._utc, pre_command
        )

    def _is_known(self, device: EntityId) -> bool:
        """Whether a key here belongs to it, and it is no organisation's."""
        keyring = self._keyring
        return device in keyring.entities() and keyring.role(device) is None


def _one_message(body: bytes) -> bytes:
    parts = parts_of(body)
    if len(parts) != 1:
        raise DecodeError("file", 0, f"{len(parts)} messages, expected one")
    return parts[0].octets


def _read_products(path: str | None) -> ProductList | None:
    if path is None:
        return None
    try:
        return parse_products(Path(path).read_bytes())
    except OSError as error:
        raise ConfigError(f"dcc.central_products_list: {path}: {error.strerror}") from error
    except ConfigError as error:
        raise ConfigError(f"dcc.central_products_list: {path}: {error}") from error
