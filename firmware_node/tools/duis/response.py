"""What the DCC answers: acknowledgements, service responses, device alerts and DCC alerts as XML.

One ``Writer`` writes for one DCC and signs with its broker's key where that is at hand; an answer
without it is written all the same, since the schema lets the signature be absent. Only here are the
elements of an answer named. Source: gbcs.md 1.3 to 1.5; DUIS schema 5.4; where an identifier of an
answer was not found, the function says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from lxml import etree

from firmware_node.crypto import Keyring
from firmware_node.errors import KeyMissingError
from firmware_node.terms import EntityId
from firmware_node.tools.duis import document, signature
from firmware_node.tools.duis.request import UPDATE_FIRMWARE

ACKNOWLEDGED = "I99"
SUCCESS = "I0"
# Of a service request (texts: a public list of DCC response codes; E100 has none there).
ROLE_NOT_PERMITTED = "E2"
UNABLE_TO_COMMUNICATE = "E20"
NO_RESPONSE = "E21"
REFUSED = "E100"  # inferred: the schema has it, for a request that fails authentication

Tree: TypeAlias = "tuple[str, str | Sequence[Tree]]"  # an element's name and its text or children


@dataclass(frozen=True, slots=True)
class Reply:
    """One document of the DCC."""

    name: str  # what it is, in words that fit a file name
    code: str  # its response code, or its DCC alert code
    xml: bytes


class Writer:
    """See the module. ``first_alert`` begins the series of the DCC alerts' own counters."""

    def __init__(self, broker: EntityId, keyring: Keyring, first_alert: int) -> None:
        self._broker = broker
        self._keyring = keyring
        self._next_alert = first_alert

    def acknowledgement(
        self, request_id: str, reference: str, at: int, code: str = ACKNOWLEDGED
    ) -> Reply:
        """The request was taken, or refused: a response without ResponseID and content."""
        message: Tree = ("ResponseMessage", _reference(reference))
        return self._reply("acknowledgement", code, at, message, request_id=request_id)

    def response(
        self, request_id: str, reference: str, at: int, *content: Tree, code: str = SUCCESS
    ) -> Reply:
        """A service response; its ResponseID is the RequestID with the parties changed over."""
        originator, target, counter = document.parse_request_id(request_id)
        message: Tree = ("ResponseMessage", (*_reference(reference), *content))
        name = "response" if not content else f"response {content[0][0]}"
        return self._reply(
            name,
            code,
            at,
            message,
            request_id=request_id,
            response_id=document.request_id(target, originator, counter),
        )

    def device_alert(
        self, device: EntityId, user: EntityId, counter: int, at: int, code: int, message: bytes
    ) -> Reply:
        """An alert of a device, passed on whole; its ResponseID has the alert's own counter."""
        body: Tree = (
            "DeviceAlertMessage",
            (("AlertCode", f"{code:04X}"), gbcs_payload(message)),
        )
        response_id = document.request_id(device, user, counter)
        return self._reply(f"device alert {code:04X}", SUCCESS, at, body, response_id=response_id)

    def dcc_alert(self, user: EntityId, at: int, code: str, content: Tree) -> Reply:
        """An alert of the DCC's own to ``user``; the form of its ResponseID is inferred."""
        body: Tree = (
            "DCCAlertMessage",
            (("DCCAlertCode", code), ("DCCAlert", (content,))),
        )
        response_id = document.request_id(self._broker, user, self._next_alert)
        self._next_alert += 1
        name = f"DCC alert {code} {content[0]}"
        reply = self._reply(name, SUCCESS, at, body, response_id=response_id)
        return Reply(name, code, reply.xml)

    def _reply(
        self,
        name: str,
        code: str,
        at: int,
        body: Tree,
        *,
        request_id: str | None = None,
        response_id: str | None = None,
    ) -> Reply:
        root = document.new_root("Response")
        header = [
            ("RequestID", request_id),
            ("ResponseID", response_id),
            ("ResponseCode", code),
            ("ResponseDateTime", document.date_time(at)),
        ]
        _fill(root, ("Header", [(key, value) for key, value in header if value is not None]))
        _fill(root, ("Body", (body,)))
        etree.indent(root)
        try:
            root = signature.sign(root, self._broker, self._keyring)
        except KeyMissingError:
            pass  # somebody who verifies is told by its absence
        return Reply(name, code, document.octets_of(root))


def gbcs_payload(message: bytes) -> Tree:
    """A GBCS message as an element."""
    return ("GBCSPayload", document.base64_text(message))


def pre_command(gbcs_version: str, message: bytes) -> Tree:
    """A Pre-Command for the User to sign."""
    return ("PreCommand", (("GBCSVersion", gbcs_version), gbcs_payload(message)))


def local_command(message: bytes) -> Tree:
    """A command that is carried to the device by other means."""
    return ("LocalCommand", (gbcs_payload(message),))


def future_dated_alert(code: int, message: bytes) -> Tree:
    """The outcome of a future-dated command: the one instruction that an SR 11.3 has."""
    return (
        "FutureDatedDeviceAlertMessage",
        (
            ("FutureDatedAlertCode", f"{code:04X}"),
            gbcs_payload(message),
            ("InstructionNumber", "1"),
            ("TotalCommandInstructions", "1"),
        ),
    )


def firmware_warning(reference: str, lists: Mapping[str, Sequence[EntityId]]) -> Tree:
    """The devices of an SR 11.1 or 11.4 that something is wrong with, by list."""
    name = "UpdateFirmware" if reference == UPDATE_FIRMWARE else "UpdatePPMIDFirmware"
    filled = [(key, document.device_list(devices)) for key, devices in lists.items() if devices]
    return (f"DSP{name}Warning", filled)


def warning_code(reference: str, error: bool = False) -> str:
    """W110101, W110401, or the first error code beside it; which error is which is inferred."""
    return f"{'E' if error else 'W'}{reference.replace('.', '0')}01"


def _reference(reference: str) -> tuple[Tree, ...]:
    return (("ServiceReference", reference), ("ServiceReferenceVariant", reference))


def _fill(parent: etree._Element, tree: Tree) -> None:
    name, inside = tree
    if isinstance(inside, str):
        document.add(parent, name, inside)
        return
    element = document.add(parent, name)
    for child in inside:
        _fill(element, child)
