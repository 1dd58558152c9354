"""What the DCC answers: elements in the schema's order, signed, and readable again."""

from __future__ import annotations

import pytest
from lxml import etree
from test_duis import ESME, KEYRING, KEYS, PPMID, SUPPLIER

from firmware_node.crypto import Keyring
from firmware_node.terms import EntityId
from firmware_node.tools import duis
from firmware_node.tools.decode_input import parts_of
from firmware_node.tools.duis import document, signature
from firmware_node.tools.duis.response import Reply, Writer

BROKER = EntityId.parse("90b3d51f30000002")
AT = 800_000_000  # 2025-05-08T06:13:20Z
ID = f"{SUPPLIER}:{PPMID}:1000"
MESSAGE = b"\xdd message"


@pytest.fixture
def writer() -> Writer:
    return Writer(BROKER, KEYRING, 5000)


def shape(reply: Reply) -> object:
    """Element names and texts, as nested lists; the signature left out."""

    def of(element: etree._Element) -> object:
        inside = [of(child) for child in element if isinstance(child.tag, str)]
        name = etree.QName(element).localname
        return (name, inside or element.text)

    root = etree.fromstring(reply.xml)
    assert etree.QName(root).localname == "Response"
    return [of(child) for child in root if etree.QName(child).localname != "Signature"]


def header(code: str, *ids: tuple[str, str]) -> tuple[str, object]:
    moment = ("ResponseDateTime", "2025-05-08T06:13:20.00Z")
    return ("Header", [*ids, ("ResponseCode", code), moment])


REFERENCE = [("ServiceReference", "11.3"), ("ServiceReferenceVariant", "11.3")]
REQUEST_ID = ("RequestID", ID)
RESPONSE_ID = ("ResponseID", f"{PPMID}:{SUPPLIER}:1000")


def test_an_acknowledgement_has_no_response_id_and_no_content(writer: Writer) -> None:
    reply = writer.acknowledgement(ID, "11.3", AT)
    assert shape(reply) == [
        header("I99", REQUEST_ID),
        ("Body", [("ResponseMessage", REFERENCE)]),
    ]
    assert (reply.name, reply.code) == ("acknowledgement", "I99")


def test_a_service_response_carries_the_gbcs_payload(writer: Writer) -> None:
    reply = writer.response(ID, "11.3", AT, duis.gbcs_payload(MESSAGE))
    payload = ("GBCSPayload", "3SBtZXNzYWdl")
    assert shape(reply) == [
        header("I0", REQUEST_ID, RESPONSE_ID),
        ("Body", [("ResponseMessage", [*REFERENCE, payload])]),
    ]
    assert parts_of(reply.xml)[0].octets == MESSAGE


@pytest.mark.parametrize(
    ("content", "inside"),
    [
        (duis.pre_command("4.1", MESSAGE), ("PreCommand", ["GBCSVersion", "GBCSPayload"])),
        (duis.local_command(MESSAGE), ("LocalCommand", ["GBCSPayload"])),
        (
            duis.future_dated_alert(0x8F67, MESSAGE),
            (
                "FutureDatedDeviceAlertMessage",
                [
                    "FutureDatedAlertCode",
                    "GBCSPayload",
                    "InstructionNumber",
                    "TotalCommandInstructions",
                ],
            ),
        ),
    ],
)
def test_each_content_has_its_elements_in_order(
    writer: Writer, content: duis.Tree, inside: tuple[str, list[str]]
) -> None:
    reply = writer.response(ID, "11.3", AT, content)
    root = etree.fromstring(reply.xml)
    found = root.find(f".//{{{document.SR}}}{inside[0]}")
    assert found is not None
    assert [etree.QName(child).localname for child in found] == inside[1]
    assert parts_of(reply.xml)[0].octets == MESSAGE


@pytest.mark.parametrize(
    ("reference", "name", "code"),
    [
        ("11.1", "DSPUpdateFirmwareWarning", "W110101"),
        ("11.4", "DSPUpdatePPMIDFirmwareWarning", "W110401"),
    ],
)
def test_warning_lists_are_those_of_the_request(
    writer: Writer, reference: str, name: str, code: str
) -> None:
    lists = {"InvalidDeviceIDList": (PPMID, ESME), "OtherRequestInProgressList": ()}
    tree = duis.firmware_warning(reference, lists)
    assert tree == (name, [("InvalidDeviceIDList", f"{PPMID},{ESME}")])
    assert duis.warning_code(reference) == code
    assert duis.warning_code(reference, error=True) == code.replace("W", "E")


def test_a_device_alert_is_passed_on_whole(writer: Writer) -> None:
    reply = writer.device_alert(PPMID, SUPPLIER, 77, AT, 0x8F72, MESSAGE)
    alert = [("AlertCode", "8F72"), ("GBCSPayload", "3SBtZXNzYWdl")]
    assert shape(reply) == [
        header("I0", ("ResponseID", f"{PPMID}:{SUPPLIER}:77")),
        ("Body", [("DeviceAlertMessage", alert)]),
    ]


def test_each_alert_of_the_dcc_has_a_number_of_its_own(writer: Writer) -> None:
    tree = ("PPMIDAlert", (("DeviceID", str(PPMID)), ("DeviceAlertCode", "8F8B")))
    first, second = (writer.dcc_alert(SUPPLIER, AT, "N63", tree) for _ in range(2))
    content = ("PPMIDAlert", [("DeviceID", str(PPMID)), ("DeviceAlertCode", "8F8B")])
    alert = [("DCCAlertCode", "N63"), ("DCCAlert", [content])]
    assert shape(first) == [
        header("I0", ("ResponseID", f"{BROKER}:{SUPPLIER}:5000")),
        ("Body", [("DCCAlertMessage", alert)]),
    ]
    assert (first.name, first.code) == ("DCC alert N63 PPMIDAlert", "N63")
    assert b":5001</" in second.xml


def test_answers_are_signed_by_the_broker_or_by_nobody(writer: Writer) -> None:
    reply = writer.acknowledgement(ID, "11.3", AT)
    root = document.parse(reply.xml, "Response")
    assert signature.state(root, BROKER, KEYRING) == "valid"
    assert signature.state(root, SUPPLIER, KEYRING) == "invalid"
    public = Keyring({name: data for name, data in KEYS.items() if name.endswith(".pem")})
    unsigned = Writer(BROKER, public, 1).acknowledgement(ID, "11.3", AT)
    assert b"Signature" not in unsigned.xml
    assert shape(unsigned) == shape(reply)
