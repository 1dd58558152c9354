"""DUIS service requests 11.1 to 11.4: reads them, checks their signature, writes signed ones.

What a request asks for becomes a ``ServiceRequest``; carrying it out is the head end's work. The
checks are those of the schema for these four requests and no more.

The signature is made and checked here, on lxml's canonical XML: the profile of DUIS is one fixed
shape (SignedInfo exclusive C14N, one reference to the whole document with the enveloped-signature
transform alone, hence inclusive C14N; ecdsa-sha256). Whatever has another shape is invalid, so no
transform, key or reference of the sender's choice is ever followed. Source: gbcs.md 1.5.
"""

from __future__ import annotations

import base64
import binascii
import copy
import datetime
import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass

from lxml import etree

from firmware_node.crypto import Keyring
from firmware_node.errors import ConfigError, KeyMissingError
from firmware_node.terms import EntityId

REQUEST_SIZE_MAX = 16 * 1024 * 1024  # bytes; the largest image as base64 and its envelope
IMAGE_SIZE_MAX = 10_240_000  # octets of FirmwareImage (gbcs.md 1.3)
COUNTER_MAX = 2**63 - 1  # what the counter in a GBCS payload can hold (gbcs.md 3.1)
SCHEMA_VERSION = "5.4"
CANCEL_TIME = "3000-12-31T00:00:00.00Z"  # as ExecutionDateTime: cancels (gbcs.md 1.5)

UPDATE_FIRMWARE = "11.1"
READ_FIRMWARE_VERSION = "11.2"
ACTIVATE_FIRMWARE = "11.3"
UPDATE_PPMID_FIRMWARE = "11.4"

_SR = "http://www.dccinterface.co.uk/ServiceUserGateway"
_DS = "http://www.w3.org/2000/09/xmldsig#"
_EXCLUSIVE_C14N = "http://www.w3.org/2001/10/xml-exc-c14n#"
_ECDSA_SHA256 = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha256"
_ENVELOPED = _DS + "enveloped-signature"
_SHA256 = "http://www.w3.org/2001/04/xmlenc#sha256"
_PLACEHOLDER = b"default"  # in base64 ZGVmYXVsdA==, as the published templates have it

_EPOCH = datetime.datetime(2000, 1, 1)
_REQUEST_ID = re.compile(r"([0-9A-Fa-f-]{16,23}):([0-9A-Fa-f-]{16,23}):([0-9]{1,19})")
_DATE_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.0+)?Z")
_HASH = re.compile(r"[0-9A-Fa-f]{64}")


@dataclass(frozen=True, slots=True)
class _Shape:
    """How the body of one service request looks, and with which command variants it comes."""

    body: str
    command_variants: tuple[int, ...]  # the first is the one written


_UPDATE_FIELDS = ("FirmwareImage", "FirmwareVersion", "DeviceIDList")
_SHAPES = {
    UPDATE_FIRMWARE: _Shape("UpdateFirmware", (8,)),
    READ_FIRMWARE_VERSION: _Shape("ReadFirmwareVersion", (1, 2, 3)),
    # Variants 5 to 7 carry the signed Pre-Command, which is another document.
    ACTIVATE_FIRMWARE: _Shape("ActivateFirmware", (4,)),
    UPDATE_PPMID_FIRMWARE: _Shape("UpdatePPMIDFirmware", (8,)),
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


def is_request(data: bytes) -> bool:
    """Whether ``data`` looks like XML rather than an OTA file or a GBCS message."""
    return data.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"<"


def parse_request(data: bytes) -> ServiceRequest:
    """Read a request; its signature is not looked at, see ``signature_state``.

    Raises:
        ConfigError: no XML, another document, or a value out of range.
    """
    root = _parse(data)
    header = _fields(_child(root, "Header"))
    reference = _text(header, "ServiceReference")
    shape = _SHAPES.get(reference)
    if shape is None:
        known = " ".join(_SHAPES)
        raise ConfigError(f"DUIS request: ServiceReference {reference!r}, expected one of {known}")
    if _text(header, "ServiceReferenceVariant") != reference:
        raise ConfigError(f"DUIS request: ServiceReferenceVariant is not {reference}")
    variant = _text(header, "CommandVariant")
    if variant not in map(str, shape.command_variants):
        allowed = " ".join(map(str, shape.command_variants))
        raise ConfigError(
            f"DUIS request: CommandVariant {variant!r}, expected {allowed} for SR {reference}"
        )
    request_id = _text(header, "RequestID")
    originator, target, counter = parse_request_id(request_id)
    body = _fields(_child(_child(root, "Body"), shape.body, only=True))
    common = (request_id, originator, target, counter, int(variant), reference)
    match reference:
        case "11.1" | "11.4":
            _check_names(body, _UPDATE_FIELDS, required=3)
            return ServiceRequest(
                *common,
                devices=_devices(body["DeviceIDList"]),
                image=_image(body["FirmwareImage"]),
                firmware_version=_firmware_version(body["FirmwareVersion"]),
            )
        case "11.3":
            _check_names(body, ("FirmwareHash", "ExecutionDateTime"), required=1)
            executes_at, cancels = None, False
            if "ExecutionDateTime" in body:
                executes_at = _executes_at(body["ExecutionDateTime"])
                cancels = executes_at is None
            return ServiceRequest(
                *common,
                devices=(target,),
                hash=_hash(body["FirmwareHash"]),
                executes_at=executes_at,
                cancels=cancels,
            )
        case _:
            _check_names(body, (), required=0)
            return ServiceRequest(*common, devices=(target,))


def parse_request_id(text: str) -> tuple[EntityId, EntityId, int]:
    """Originator, target and counter of a RequestID.

    Raises:
        ConfigError: another form, or a counter over ``COUNTER_MAX``.
    """
    match = _REQUEST_ID.fullmatch(text)
    if match is None:
        raise ConfigError(f"RequestID: expected ORIGINATOR:TARGET:COUNTER, found {text[:80]!r}")
    counter = int(match[3])
    if counter > COUNTER_MAX:
        raise ConfigError(f"RequestID: counter {counter}, expected at most {COUNTER_MAX}")
    return EntityId.parse(match[1]), EntityId.parse(match[2]), counter


def signature_state(data: bytes, keyring: Keyring) -> str:
    """``valid``, ``invalid`` or ``placeholder`` (the published templates' own mark).

    Valid: made with the digital-signature key of the RequestID's originator over this document,
    and, where the keyring has a certificate, naming its issuer and serial. The certificate's dates
    do not count (gbcs.md 4.8). A key that is not here gives ``invalid``: nothing vouches for it.

    Raises:
        ConfigError: no DUIS request, or an unreadable key file.
    """
    root = _parse(data)
    signature = _only_signature(root)
    if signature is None:
        return "invalid"
    profile = _read_profile(signature)
    if profile is None:
        return "invalid"
    if profile.digest == _PLACEHOLDER and profile.value == _PLACEHOLDER:
        return "placeholder"
    originator, _, _ = parse_request_id(_text(_fields(_child(root, "Header")), "RequestID"))
    try:
        key = keyring.verify_key(originator)
    except KeyMissingError:
        return "invalid"
    certificate = keyring.certificate(f"{originator.hex}-ds.pem")
    if certificate is not None and (
        str(certificate.serial) != profile.serial
        or _name_parts(certificate.issuer) != _name_parts(profile.issuer)
    ):
        return "invalid"
    if not key.is_valid(profile.value, _signed_octets(profile.signed_info)):
        return "invalid"
    digest_agrees = hmac.compare_digest(_document_digest(root), profile.digest)
    return "valid" if digest_agrees else "invalid"


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
        ("FirmwareImage", base64.b64encode(image).decode("ascii")),
        ("FirmwareVersion", firmware_version),
        ("DeviceIDList", ",".join(map(str, devices))),
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
        try:
            moment = _EPOCH + datetime.timedelta(seconds=executes_at)
        except OverflowError as error:
            raise ConfigError(f"execution time: {executes_at} is past the year 9999") from error
        fields.insert(0, ("ExecutionDateTime", moment.isoformat() + ".00Z"))
    return _build(ACTIVATE_FIRMWARE, originator, device, counter, keyring, fields)


# --- reading ------------------------------------------------------------------------------------


def _parse(data: bytes) -> etree._Element:
    """The document's root, from a parser that reads nothing but these octets.

    ``huge_tree`` is needed for an image in one text node and lifts libxml2's guard against
    entities, so a document type is refused before parsing. Forcing UTF-8 keeps the declaration
    from choosing an encoding in which it would look different.
    """
    if len(data) > REQUEST_SIZE_MAX:
        raise ConfigError(f"DUIS request: {len(data)} bytes, expected at most {REQUEST_SIZE_MAX}")
    if b"<!DOCTYPE" in data:
        raise ConfigError("DUIS request: a document type, expected none")
    parser = etree.XMLParser(
        encoding="utf-8",
        resolve_entities=False,
        load_dtd=False,
        no_network=True,
        huge_tree=True,
    )
    try:
        root = etree.fromstring(data, parser)
    except etree.XMLSyntaxError as error:
        raise ConfigError(f"DUIS request: no readable XML ({error.msg})") from error
    if root.tag != f"{{{_SR}}}Request":
        raise ConfigError(f"DUIS request: root element {root.tag!r}, expected Request of {_SR}")
    return root


def _child(parent: etree._Element, name: str, *, only: bool = False) -> etree._Element:
    """The one child element ``name``; with ``only`` it must also be the only child."""
    found = [child for child in parent if child.tag == f"{{{_SR}}}{name}"]
    others = len(_elements(parent)) - len(found)
    if len(found) != 1 or (only and others):
        where = etree.QName(parent).localname
        names = " ".join(etree.QName(child).localname for child in _elements(parent)) or "nothing"
        raise ConfigError(f"DUIS request: expected one {name} in {where}, found {names[:200]}")
    return found[0]


def _fields(parent: etree._Element) -> dict[str, str]:
    """Name to text of the leaf elements in ``parent``."""
    fields: dict[str, str] = {}
    for child in _elements(parent):
        name = etree.QName(child)
        if name.namespace != _SR or name.localname in fields:
            raise ConfigError(f"DUIS request: unexpected element {name.localname}")
        # A comment inside a value would not be signed and could split it for some readers.
        if len(child):
            raise ConfigError(f"DUIS request: expected text alone in {name.localname}")
        fields[name.localname] = (child.text or "").strip()
    return fields


def _elements(parent: etree._Element) -> list[etree._Element]:
    """Child elements; comments and processing instructions left out."""
    return [child for child in parent if isinstance(child.tag, str)]


def _text(fields: dict[str, str], name: str) -> str:
    if not fields.get(name):
        raise ConfigError(f"DUIS request: no {name}")
    return fields[name]


def _check_names(fields: dict[str, str], names: tuple[str, ...], required: int) -> None:
    """The first ``required`` of ``names`` must be there, and no other than ``names``."""
    for name in names[:required]:
        _text(fields, name)
    for name in fields:
        if name not in names:
            raise ConfigError(f"DUIS request: unexpected element {name}")


def _image(text: str) -> bytes:
    try:
        image = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ConfigError(f"DUIS request: FirmwareImage is no base64 ({error})") from error
    if not 0 < len(image) <= IMAGE_SIZE_MAX:
        raise ConfigError(
            f"DUIS request: FirmwareImage of {len(image)} octets, expected 1 to {IMAGE_SIZE_MAX}"
        )
    return image


def _firmware_version(text: str) -> str:
    if len(text) > 8:
        raise ConfigError(
            f"DUIS request: FirmwareVersion {text[:40]!r}, expected 1 to 8 characters"
        )
    return text


def _devices(text: str) -> tuple[EntityId, ...]:
    devices = tuple(EntityId.parse(part) for part in text.split(","))
    if len(set(devices)) != len(devices):
        raise ConfigError("DUIS request: DeviceIDList names a device twice")
    return devices


def _hash(text: str) -> bytes:
    if _HASH.fullmatch(text) is None:
        raise ConfigError(f"DUIS request: FirmwareHash of {len(text)} characters, expected 64 hex")
    return bytes.fromhex(text)


def _executes_at(text: str) -> int | None:
    """Seconds since 2000-01-01; None for the cancelling time."""
    match = _DATE_TIME.fullmatch(text)
    cancel_match = _DATE_TIME.fullmatch(CANCEL_TIME)
    assert cancel_match is not None
    try:
        if match is None:
            raise ValueError
        moment = datetime.datetime.fromisoformat(match[1])
    except ValueError as error:
        raise ConfigError(
            f"DUIS request: ExecutionDateTime {text[:40]!r}, expected YYYY-MM-DDThh:mm:ss.00Z"
        ) from error
    if match[1] == cancel_match[1]:
        return None
    return int((moment - _EPOCH).total_seconds())


# --- signature ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Profile:
    """A signature of the DUIS shape, before anything is checked."""

    signed_info: etree._Element
    digest: bytes
    value: bytes
    issuer: str
    serial: str


def _only_signature(root: etree._Element) -> etree._Element | None:
    """The root's own signature; None when there is none, or one elsewhere besides."""
    signatures = list(root.iter(f"{{{_DS}}}Signature"))
    if len(signatures) != 1 or signatures[0].getparent() is not root:
        return None
    return signatures[0]


def _read_profile(signature: etree._Element) -> _Profile | None:
    """Take the signature apart; None where its shape is another than the one of DUIS."""
    parts = _exactly(signature, "SignedInfo", "SignatureValue", "KeyInfo")
    if parts is None:
        return None
    signed_info, value, key_info = parts
    info = _exactly(signed_info, "CanonicalizationMethod", "SignatureMethod", "Reference")
    if info is None or not _is_algorithm(info[0], _EXCLUSIVE_C14N):
        return None
    reference = _exactly(info[2], "Transforms", "DigestMethod", "DigestValue")
    if not _is_algorithm(info[1], _ECDSA_SHA256) or reference is None:
        return None
    transforms = _exactly(reference[0], "Transform")
    if info[2].get("URI") != "" or transforms is None:
        return None
    if not _is_algorithm(transforms[0], _ENVELOPED) or not _is_algorithm(reference[1], _SHA256):
        return None
    issuer = key_info.findtext(
        f"{{{_DS}}}X509Data/{{{_DS}}}X509IssuerSerial/{{{_DS}}}X509IssuerName"
    )
    serial = key_info.findtext(
        f"{{{_DS}}}X509Data/{{{_DS}}}X509IssuerSerial/{{{_DS}}}X509SerialNumber"
    )
    try:
        digest_octets = base64.b64decode("".join((reference[2].text or "").split()), validate=True)
        value_octets = base64.b64decode("".join((value.text or "").split()), validate=True)
    except (binascii.Error, ValueError):
        return None
    return _Profile(
        signed_info, digest_octets, value_octets, (issuer or "").strip(), (serial or "").strip()
    )


def _exactly(parent: etree._Element, *names: str) -> list[etree._Element] | None:
    """The child elements when they are exactly these of the signature's namespace, in order."""
    children = _elements(parent)
    if [child.tag for child in children] != [f"{{{_DS}}}{name}" for name in names]:
        return None
    return children


def _is_algorithm(element: etree._Element, algorithm: str) -> bool:
    """Whether the element names this algorithm and gives it no parameters."""
    return element.get("Algorithm") == algorithm and len(element) == 0


def _signed_octets(signed_info: etree._Element) -> bytes:
    """SignedInfo in exclusive C14N without comments."""
    return etree.tostring(signed_info, method="c14n", exclusive=True, with_comments=False)


def _document_digest(root: etree._Element) -> bytes:
    """SHA-256 of the document without its signature, in inclusive C14N without comments."""
    tree = copy.deepcopy(root.getroottree())
    signature = _only_signature(tree.getroot())
    if signature is not None:
        # lxml drops an element's tail with it; the transform keeps that text.
        tail, before = signature.tail or "", signature.getprevious()
        if before is not None:
            before.tail = (before.tail or "") + tail
        else:
            tree.getroot().text = (tree.getroot().text or "") + tail
        tree.getroot().remove(signature)
    return hashlib.sha256(etree.tostring(tree, method="c14n", with_comments=False)).digest()


def _name_parts(name: str) -> list[str]:
    """A distinguished name's parts; writers disagree on their order and spacing."""
    return sorted(part.strip().upper() for part in re.split(r"(?<!\\),", name))


# --- writing ------------------------------------------------------------------------------------


def _build(
    service_reference: str,
    originator: EntityId,
    target: EntityId,
    counter: int,
    keyring: Keyring,
    fields: Sequence[tuple[str, str]],
) -> bytes:
    shape = _SHAPES[service_reference]
    root = etree.Element(
        f"{{{_SR}}}Request", nsmap={"sr": _SR, "ds": _DS}, schemaVersion=SCHEMA_VERSION
    )
    header = etree.SubElement(root, f"{{{_SR}}}Header")
    for name, text in (
        ("RequestID", f"{originator}:{target}:{counter}"),
        ("CommandVariant", str(shape.command_variants[0])),
        ("ServiceReference", service_reference),
        ("ServiceReferenceVariant", service_reference),
    ):
        etree.SubElement(header, f"{{{_SR}}}{name}").text = text
    body = etree.SubElement(root, f"{{{_SR}}}Body")
    content = etree.SubElement(body, f"{{{_SR}}}{shape.body}")
    for name, text in fields:
        etree.SubElement(content, f"{{{_SR}}}{name}").text = text
    etree.indent(root)
    _sign(root, originator, keyring)
    data = etree.tostring(root, xml_declaration=True, encoding="UTF-8")
    # Our own reader has the say on what may be written.
    parse_request(data)
    return data


def _sign(root: etree._Element, signer: EntityId, keyring: Keyring) -> None:
    """Append the signature; nothing outside it may change afterwards."""
    key = keyring.signing_key(signer)
    certificate = keyring.certificate(f"{signer.hex}-ds.pem")
    if certificate is None:
        raise KeyMissingError(f"no certificate {signer.hex}-ds.pem in the key folder")
    digest = _document_digest(root)
    signature = etree.SubElement(root, f"{{{_DS}}}Signature")
    signed_info = etree.SubElement(signature, f"{{{_DS}}}SignedInfo")
    for name, algorithm in (
        ("CanonicalizationMethod", _EXCLUSIVE_C14N),
        ("SignatureMethod", _ECDSA_SHA256),
    ):
        etree.SubElement(signed_info, f"{{{_DS}}}{name}", Algorithm=algorithm)
    reference = etree.SubElement(signed_info, f"{{{_DS}}}Reference", URI="")
    transforms = etree.SubElement(reference, f"{{{_DS}}}Transforms")
    etree.SubElement(transforms, f"{{{_DS}}}Transform", Algorithm=_ENVELOPED)
    etree.SubElement(reference, f"{{{_DS}}}DigestMethod", Algorithm=_SHA256)
    digest_value = etree.SubElement(reference, f"{{{_DS}}}DigestValue")
    digest_value.text = base64.b64encode(digest).decode("ascii")
    value = etree.SubElement(signature, f"{{{_DS}}}SignatureValue")
    value.text = base64.b64encode(key.sign(_signed_octets(signed_info))).decode("ascii")
    key_info = etree.SubElement(signature, f"{{{_DS}}}KeyInfo")
    x509_data = etree.SubElement(key_info, f"{{{_DS}}}X509Data")
    issuer_serial = etree.SubElement(x509_data, f"{{{_DS}}}X509IssuerSerial")
    etree.SubElement(issuer_serial, f"{{{_DS}}}X509IssuerName").text = certificate.issuer
    etree.SubElement(issuer_serial, f"{{{_DS}}}X509SerialNumber").text = str(certificate.serial)
