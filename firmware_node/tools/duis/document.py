"""Reading and naming the parts of a DUIS document, whoever wrote it.

A document is read from its own octets alone: no document type, no entity, no other file. Element
names, order and the ranges that several documents share are checked here as the schema has them;
what one document means is left to the file of its name. Source: gbcs.md 1.5; DUIS schema 5.4.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import re
from collections.abc import Sequence

from lxml import etree

from firmware_node.errors import ConfigError
from firmware_node.terms import EntityId

DOCUMENT_SIZE_MAX = 16 * 1024 * 1024  # bytes; the largest image as base64 and its envelope
REQUEST_COUNTER_MAX = 2**64 - 1  # of a RequestID (DUIS schema)
SCHEMA_VERSION = "5.4"  # of what is written

SR = "http://www.dccinterface.co.uk/ServiceUserGateway"
DS = "http://www.w3.org/2000/09/xmldsig#"
_SCHEMA_LOCATION = (
    "{http://www.w3.org/2001/XMLSchema-instance}"  # its attributes may stand anywhere
)

EPOCH = datetime.datetime(2000, 1, 1)
_VERSION = re.compile(r"5(\.\d{1,4})?")
_EUI = "[0-9A-Fa-f]{2}(?:-[0-9A-Fa-f]{2}){7}"
_REQUEST_ID = re.compile(rf"({_EUI}):({_EUI}):(0|[1-9]\d{{0,19}})", re.ASCII)
_DEVICE_LIST = re.compile(rf"{_EUI}(?:,{_EUI})*")
_DATE_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.0+)?(Z|[+-]\d\d:\d\d)", re.ASCII)


def is_xml(data: bytes) -> bool:
    """Whether ``data`` looks like XML rather than an OTA file or a GBCS message."""
    return data.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"<"


def parser() -> etree.XMLParser:
    """A parser that reads nothing but the octets it is given.

    ``huge_tree`` is needed for an image in one text node and lifts libxml2's guard against
    entities, so a document type is refused before parsing. Forcing UTF-8 keeps the declaration
    from choosing an encoding in which it would look different.
    """
    return etree.XMLParser(
        encoding="utf-8",
        resolve_entities=False,
        load_dtd=False,
        no_network=True,
        huge_tree=True,
    )


def parse(data: bytes, *roots: str) -> etree._Element:
    """The document's root, which is one of ``roots``.

    Raises:
        ConfigError: too large, no XML, a document type, another root or version.
    """
    if len(data) > DOCUMENT_SIZE_MAX:
        raise ConfigError(f"DUIS: {len(data)} bytes, expected at most {DOCUMENT_SIZE_MAX}")
    if b"<!DOCTYPE" in data:
        raise ConfigError("DUIS: a document type, expected none")
    try:
        root = etree.fromstring(data, parser())
    except etree.XMLSyntaxError as error:
        raise ConfigError(f"DUIS: no readable XML ({error.msg})") from error
    if root.tag not in [f"{{{SR}}}{name}" for name in roots]:
        raise ConfigError(f"DUIS: root element {root.tag!r}, expected {' or '.join(roots)} of {SR}")
    version = (root.get("schemaVersion") or "").strip()
    if _VERSION.fullmatch(version) is None:
        raise ConfigError(f"DUIS: schemaVersion {version[:20]!r}, expected 5 or 5.x")
    return root


def children(parent: etree._Element, *names: str) -> dict[str, etree._Element]:
    """The child elements by name, which are exactly ``names`` in that order.

    A name that ends in ``?`` may be absent.
    """
    expected = [name.rstrip("?") for name in names]
    found: dict[str, etree._Element] = {}
    at = 0
    for child in elements(parent):
        tag = etree.QName(child)
        if tag.namespace == DS and tag.localname == "Signature":
            continue  # looked at by ``signature`` alone
        if tag.namespace != SR or tag.localname not in expected[at:]:
            where = "" if tag.localname not in expected else ", out of place or twice"
            raise ConfigError(f"DUIS: unexpected element {tag.localname[:60]}{where}")
        at = expected.index(tag.localname) + 1
        found[tag.localname] = child
    for name in names:
        if not name.endswith("?") and name not in found:
            raise ConfigError(f"DUIS: no {name} in {etree.QName(parent).localname}")
    return found


def only_child(parent: etree._Element) -> tuple[str, etree._Element]:
    """Name and element of a parent that holds just one."""
    inside = elements(parent)
    names = [etree.QName(child) for child in inside]
    if len(inside) != 1 or names[0].namespace != SR:
        shown = " ".join(name.localname for name in names)[:200] or "nothing"
        raise ConfigError(
            f"DUIS: expected one element in {etree.QName(parent).localname}, found {shown}"
        )
    return names[0].localname, inside[0]


def fields(parent: etree._Element, *names: str) -> dict[str, str]:
    """Name to text of the leaves in ``parent``; names as for ``children``."""
    found = {}
    for name, leaf in children(parent, *names).items():
        # A comment inside a value would not be signed and could split it for some readers.
        if len(leaf):
            raise ConfigError(f"DUIS: expected text alone in {name}")
        if not (leaf.text or "").strip():
            raise ConfigError(f"DUIS: nothing in {name}")
        found[name] = leaf.text or ""
    return found


def elements(parent: etree._Element) -> list[etree._Element]:
    """Child elements; comments and processing instructions left out."""
    return [child for child in parent if isinstance(child.tag, str)]


def check_attributes(root: etree._Element) -> None:
    """No attribute but the version of the root: nothing that some readers see and others not."""
    for element in root.iter(f"{{{SR}}}*"):
        for name in element.attrib:
            text = str(name)
            if text.startswith(_SCHEMA_LOCATION) or (element is root and text == "schemaVersion"):
                continue
            where = etree.QName(element).localname
            raise ConfigError(f"DUIS: unexpected attribute {text[:60]} of {where}")


def parse_request_id(text: str) -> tuple[EntityId, EntityId, int]:
    """Originator, target and counter of a RequestID.

    Raises:
        ConfigError: another form, or a counter over ``REQUEST_COUNTER_MAX``.
    """
    match = _REQUEST_ID.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"RequestID: expected ORIGINATOR:TARGET:COUNTER, found {text[:80]!r}")
    counter = int(match[3])
    if counter > REQUEST_COUNTER_MAX:
        raise ConfigError(f"RequestID: counter {counter}, expected at most {REQUEST_COUNTER_MAX}")
    return EntityId.parse(match[1]), EntityId.parse(match[2]), counter


def request_id(originator: EntityId, target: EntityId, counter: int) -> str:
    """The text of a RequestID or a ResponseID."""
    return f"{originator}:{target}:{counter}"


def parse_device_list(name: str, text: str, size_max: int) -> tuple[EntityId, ...]:
    """Comma-separated entity ids, dashes and all, without white space."""
    if len(text) > size_max:
        raise ConfigError(f"DUIS: {name} of {len(text)} characters, expected at most {size_max}")
    if _DEVICE_LIST.fullmatch(text) is None:
        raise ConfigError(
            f"DUIS: {name}: expected entity ids such as 00-DB-12-34-56-78-90-A4, with commas alone "
            f"between them, found {text[:60]!r}"
        )
    devices = tuple(EntityId.parse(part) for part in text.split(","))
    if len(set(devices)) != len(devices):
        raise ConfigError(f"DUIS: {name} names a device twice")
    return devices


def device_list(devices: Sequence[EntityId]) -> str:
    """The text that ``parse_device_list`` reads."""
    return ",".join(map(str, devices))


def parse_base64(name: str, text: str, size_max: int) -> bytes:
    """The octets of a base64 value, 1 to ``size_max``."""
    try:
        octets = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ConfigError(f"DUIS: {name} is no base64 ({error})") from error
    if not 0 < len(octets) <= size_max:
        raise ConfigError(f"DUIS: {name} of {len(octets)} octets, expected 1 to {size_max}")
    return octets


def base64_text(octets: bytes) -> str:
    """The text that ``parse_base64`` reads."""
    return base64.b64encode(octets).decode("ascii")


def parse_date_time(name: str, text: str) -> int:
    """Seconds since 2000-01-01T00:00:00Z of a moment with its zone and in whole seconds.

    The schema also takes a moment without a zone; what that would mean is not for us to guess.
    """
    match = _DATE_TIME.fullmatch(text.strip())
    try:
        if match is None:
            raise ValueError
        moment = datetime.datetime.fromisoformat(match[1] + match[2].replace("Z", "+00:00"))
        utc = moment.astimezone(datetime.UTC).replace(tzinfo=None)
    except (ValueError, OverflowError) as error:
        raise ConfigError(
            f"DUIS: {name} {text[:40]!r}, expected YYYY-MM-DDThh:mm:ss.00Z"
        ) from error
    return int((utc - EPOCH).total_seconds())


def date_time(utc: int) -> str:
    """The text that ``parse_date_time`` reads, in UTC."""
    try:
        moment = EPOCH + datetime.timedelta(seconds=utc)
    except OverflowError as error:
        raise ConfigError(f"time: {utc} is past the year 9999") from error
    return moment.isoformat() + ".00Z"


def add(parent: etree._Element, name: str, text: str | None = None) -> etree._Element:
    """Append a child of the DUIS namespace."""
    child = etree.SubElement(parent, f"{{{SR}}}{name}")
    child.text = text
    return child


def new_root(name: str) -> etree._Element:
    """An empty document."""
    return etree.Element(
        f"{{{SR}}}{name}", nsmap={"sr": SR, "ds": DS}, schemaVersion=SCHEMA_VERSION
    )


def octets_of(root: etree._Element) -> bytes:
    """The document as it is sent; nothing in it may change after it was signed."""
    return etree.tostring(root, xml_declaration=True, encoding="UTF-8")
