"""The XML signature of DUIS documents: made and checked with signxml, in one fixed shape.

The shape: SignedInfo in exclusive C14N; one reference to the whole document with the
enveloped-signature transform alone, hence digested in inclusive C14N 1.0; ecdsa-sha256; the signer
named by issuer and serial. Whatever has another shape is invalid before the library sees it, so no
transform, key or reference of the sender's choice is ever followed. The key comes from the keyring,
by who the document says its originator is; certificate dates do not count (gbcs.md 1.5, 4.8).
"""

from __future__ import annotations

import base64
import binascii
import copy
import dataclasses
import re
from typing import Any, cast

from lxml import etree
from signxml.algorithms import CanonicalizationMethod, DigestAlgorithm, SignatureMethod
from signxml.exceptions import SignXMLException
from signxml.signer import SignatureReference, XMLSigner
from signxml.verifier import SignatureConfiguration, XMLVerifier

from firmware_node.crypto import InvalidSignature, Keyring, SigningKey, VerifyKey
from firmware_node.errors import KeyMissingError
from firmware_node.terms import EntityId
from firmware_node.tools.duis.document import DS, elements, parser
from firmware_node.wire import der

_DS11 = "http://www.w3.org/2009/xmldsig11#"
_EXCLUSIVE = CanonicalizationMethod.EXCLUSIVE_XML_CANONICALIZATION_1_0
_INCLUSIVE = CanonicalizationMethod.CANONICAL_XML_1_0
_ENVELOPED = DS + "enveloped-signature"
_PLACEHOLDER = b"default"  # in base64 ZGVmYXVsdA==, as the published templates have it
_PROFILE = SignatureConfiguration(
    require_x509=False,  # the key is ours, see ``_holds``
    location="./",
    expect_references=1,
    signature_methods=frozenset({SignatureMethod.ECDSA_SHA256}),
    digest_algorithms=frozenset({DigestAlgorithm.SHA256}),
    default_reference_c14n_method=_INCLUSIVE,
)


def state(root: etree._Element, signer: EntityId, keyring: Keyring) -> str:
    """``valid``, ``invalid`` or ``placeholder`` (the published templates' own mark).

    Valid: made over this document with a key that ``signer`` has for it, and, where the keyring has
    its certificate, naming issuer and serial. A key that is not here gives
    ``invalid``: nothing vouches for it.
    """
    signature = _only_signature(root)
    shape = None if signature is None else _read_shape(signature)
    if shape is None:
        return "invalid"
    if shape.digest == _PLACEHOLDER and shape.value == _PLACEHOLDER:
        return "placeholder"
    stems = keyring.document_keys(signer)
    return "valid" if any(_is_by(root, shape, keyring, stem) for stem in stems) else "invalid"


def sign(root: etree._Element, signer: EntityId, keyring: Keyring) -> etree._Element:
    """The same document with its signature; nothing in it may change afterwards.

    Raises:
        KeyMissingError: no private signing key, or no certificate, of ``signer``.
    """
    names, stems = keyring.names(), keyring.document_keys(signer)
    stem = next((stem for stem in stems if f"{stem}.key" in names), f"{signer.hex}-ds")
    key = keyring.document_signing_key(stem)
    certificate = keyring.certificate(f"{stem}.pem")
    if certificate is None:
        raise KeyMissingError(f"no certificate {stem}.pem in the key folder")
    key_info = etree.Element(f"{{{DS}}}KeyInfo", nsmap={"ds": DS})
    x509_data = etree.SubElement(key_info, f"{{{DS}}}X509Data")
    issuer_serial = etree.SubElement(x509_data, f"{{{DS}}}X509IssuerSerial")
    etree.SubElement(issuer_serial, f"{{{DS}}}X509IssuerName").text = certificate.issuer
    etree.SubElement(issuer_serial, f"{{{DS}}}X509SerialNumber").text = str(certificate.serial)
    signed: etree._Element = _Signer().sign(
        root, key=cast(Any, _Key(key)), key_info=key_info, exclude_c14n_transform_element=True
    )
    # What a later library might do otherwise shows here and not at the DCC.
    assert _holds(signed, key.public)
    return signed


def _is_by(root: etree._Element, shape: _Shape, keyring: Keyring, stem: str) -> bool:
    """Whether the signature names the certificate of this key, if there is one, and holds."""
    certificate = keyring.certificate(f"{stem}.pem")
    if certificate is not None and (
        str(certificate.serial) != shape.serial
        or _name_parts(certificate.issuer) != _name_parts(shape.issuer)
    ):
        return False
    try:
        return _holds(root, keyring.document_verify_key(stem))
    except KeyMissingError:
        return False


class _Signer(XMLSigner):
    """Signs the whole document, digested in inclusive C14N whatever SignedInfo has."""

    def __init__(self) -> None:
        super().__init__(
            signature_algorithm=SignatureMethod.ECDSA_SHA256, c14n_algorithm=_EXCLUSIVE
        )
        # The default one stops at 10 MB of text.
        self._parser = parser()  # type: ignore[assignment]  # it is declared by its first value

    def _unpack(
        self, data: etree._Element, references: list[SignatureReference]
    ) -> tuple[etree._Element, etree._Element, list[etree._Element], list[SignatureReference]]:
        # The library takes a C14N of its own only for a reference with a fragment.
        signature, document, inputs, found = super()._unpack(data, references)
        reference = dataclasses.replace(found[0], c14n_method=_INCLUSIVE)
        return signature, document, inputs, [reference]


class _Key:
    """Our signing key with the two names that the library uses of a private key."""

    key_size = 256  # bits

    def __init__(self, key: SigningKey) -> None:
        self._key = key

    def sign(self, data: bytes, signature_algorithm: object) -> bytes:
        """A DER signature over SHA-256 of ``data``, made by our own rule (deterministic)."""
        del signature_algorithm  # the profile has one
        signature = self._key.sign(data)
        r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
        return der.sequence(der.integer(r), der.integer(s))


def _holds(root: etree._Element, key: VerifyKey) -> bool:
    """Whether the library finds the signature good under this key.

    KeyInfo is no part of what is signed, so the sender's is replaced by the key that we trust.
    """
    document = copy.deepcopy(root)
    key_info = document.find(f"{{{DS}}}Signature/{{{DS}}}KeyInfo")
    assert key_info is not None
    for child in list(key_info):
        key_info.remove(child)
    pem_lines = key.pem().decode("ascii").split("\n")
    encoded = etree.SubElement(key_info, f"{{{_DS11}}}DEREncodedKeyValue")
    encoded.text = "".join(line for line in pem_lines if not line.startswith("-----"))
    try:
        XMLVerifier().verify(document, parser=parser(), expect_config=_PROFILE)
    except (SignXMLException, InvalidSignature, ValueError, etree.LxmlError):
        return False
    return True


@dataclasses.dataclass(frozen=True, slots=True)
class _Shape:
    """What a signature of the DUIS shape says, before anything is checked."""

    digest: bytes
    value: bytes
    issuer: str
    serial: str


def _only_signature(root: etree._Element) -> etree._Element | None:
    """The root's own signature, its last child; None when there is none, or one elsewhere."""
    signatures = list(root.iter(f"{{{DS}}}Signature"))
    last = elements(root)[-1:]
    return signatures[0] if signatures == last else None


def _read_shape(signature: etree._Element) -> _Shape | None:
    """Take the signature apart; None where its shape is another than the one of DUIS."""
    parts = _exactly(signature, "SignedInfo", "SignatureValue", "KeyInfo")
    if parts is None:
        return None
    signed_info, value, key_info = parts
    info = _exactly(signed_info, "CanonicalizationMethod", "SignatureMethod", "Reference")
    if info is None or not _is_algorithm(info[0], _EXCLUSIVE.value):
        return None
    reference = _exactly(info[2], "Transforms", "DigestMethod", "DigestValue")
    if not _is_algorithm(info[1], SignatureMethod.ECDSA_SHA256.value) or reference is None:
        return None
    transforms = _exactly(reference[0], "Transform")
    if info[2].get("URI") != "" or transforms is None:
        return None
    if not _is_algorithm(transforms[0], _ENVELOPED):
        return None
    if not _is_algorithm(reference[1], DigestAlgorithm.SHA256.value):
        return None
    where = f"{{{DS}}}X509Data/{{{DS}}}X509IssuerSerial/{{{DS}}}"
    try:
        return _Shape(
            base64.b64decode("".join((reference[2].text or "").split()), validate=True),
            base64.b64decode("".join((value.text or "").split()), validate=True),
            (key_info.findtext(f"{where}X509IssuerName") or "").strip(),
            (key_info.findtext(f"{where}X509SerialNumber") or "").strip(),
        )
    except (binascii.Error, ValueError):
        return None


def _exactly(parent: etree._Element, *names: str) -> list[etree._Element] | None:
    """The child elements when they are exactly these of the signature's namespace, in order."""
    children = elements(parent)
    if [child.tag for child in children] != [f"{{{DS}}}{name}" for name in names]:
        return None
    return children


def _is_algorithm(element: etree._Element, algorithm: str) -> bool:
    """Whether the element names this algorithm and gives it no parameters."""
    return element.get("Algorithm") == algorithm and len(element) == 0


def _name_parts(name: str) -> list[str]:
    """A distinguished name's parts; writers disagree on their order and spacing."""
    return sorted(part.strip().upper() for part in re.split(r"(?<!\\),", name))
