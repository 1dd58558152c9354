"""The XML signature: made so that others verify it, checked against others' and against tricks."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree
from test_duis import KEYRING, KEYS, PPMID, SUPPLIER, changed, update
from vectors import VECTORS, needs_vectors

from firmware_node.crypto import Keyring, signs_deterministically
from firmware_node.errors import ConfigError, KeyMissingError
from firmware_node.tools.duis import (
    build_activate_request,
    build_read_version_request,
    build_signed_pre_command_request,
    parse_request,
    signature_state,
)
from firmware_node.tools.duis.document import DS
from firmware_node.tools.keys import build_keys

needs_xmlsec1 = pytest.mark.skipif(
    shutil.which("xmlsec1") is None and not os.environ.get("CI"),
    reason="xmlsec1 is missing: apt-get install xmlsec1",
)


def every_request() -> list[bytes]:
    """One of each kind."""
    activate = build_activate_request(
        SUPPLIER, PPMID, 7, KEYRING, manufacturer_image_hash=bytes(32)
    )
    signed = build_signed_pre_command_request(parse_request(activate), b"octets", KEYRING)
    read = build_read_version_request(SUPPLIER, PPMID, 9, KEYRING)
    return [activate, signed, read, update("11.1"), update("11.4")]


@needs_vectors
def test_published_signatures_are_placeholders() -> None:
    paths = sorted((VECTORS / "duis").iterdir())
    assert len(paths) == 6
    assert {signature_state(path.read_bytes(), KEYRING) for path in paths} == {"placeholder"}


@settings(max_examples=200, deadline=None)
@given(at=st.integers(min_value=0, max_value=10**6), octet=st.integers(0, 255))
def test_changed_octet_never_gives_a_valid_signature_on_other_content(at: int, octet: int) -> None:
    good = update(image=b"image")
    bad = bytearray(good)
    bad[at % len(bad)] = octet
    try:
        request = parse_request(bytes(bad))
        state = signature_state(bytes(bad), KEYRING)
    except ConfigError:
        return
    assert state != "placeholder"
    if state == "valid":
        assert request == parse_request(good)


def test_each_built_request_is_validly_signed() -> None:
    assert [signature_state(request, KEYRING) for request in every_request()] == ["valid"] * 5


def test_the_largest_image_is_signed_and_verified() -> None:
    request = update(image=bytes(10_240_000))
    assert signature_state(request, KEYRING) == "valid"
    assert signature_state(request.replace(b"AAAA", b"AAAB", 1), KEYRING) == "invalid"


def test_the_signature_has_the_shape_of_the_published_ones() -> None:
    ours = etree.fromstring(update()).find(f"{{{DS}}}Signature")
    assert ours is not None
    tree = [etree.QName(element).localname for element in ours.iter("*")]
    assert tree == [
        "Signature",
        "SignedInfo",
        "CanonicalizationMethod",
        "SignatureMethod",
        "Reference",
        "Transforms",
        "Transform",
        "DigestMethod",
        "DigestValue",
        "SignatureValue",
        "KeyInfo",
        "X509Data",
        "X509IssuerSerial",
        "X509IssuerName",
        "X509SerialNumber",
    ]


@pytest.mark.skipif(
    not signs_deterministically(), reason="this OpenSSL signs with fresh randomness"
)
def test_same_request_is_the_same_octets() -> None:
    assert update() == update()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("00000002<", "00000003<"),
        ("A4,", "A3,"),
        ("<sr:Body>", "<sr:Body> "),
        ("30-01-00-00:", "30-02-00-00:"),  # signed, but not by whom it names
        ("<ds:X509SerialNumber>", "<ds:X509SerialNumber>1"),
        ("CN=Z1", "CN=Z2"),
        ('URI=""', 'URI="#x"'),
        ("enveloped-signature", "base64"),
        ("xml-exc-c14n#", "xml-exc-c14n#WithComments"),
        ("ecdsa-sha256", "ecdsa-sha1"),
        ("xmlenc#sha256", "xmldsig#sha1"),
        ("<ds:DigestValue>", "<ds:DigestValue>AAAA"),
        ("<ds:SignatureValue>", "<ds:SignatureValue>*"),
        ("<ds:Transforms>", "<ds:Transforms><ds:Transform Algorithm='x'/>"),
        ("</ds:Signature>", "</ds:Signature><ds:Signature/>"),
    ],
)
def test_request_changed_after_signing_is_invalid(old: str, new: str) -> None:
    assert signature_state(changed(old, new), KEYRING) == "invalid"


def test_signature_moved_into_the_body_is_invalid() -> None:
    request = update()
    start, end = request.index(b"<ds:Signature>"), request.index(b"</sr:Request>")
    signature = request[start:end]
    moved = request[:start] + request[end:]
    moved = moved.replace(b"</sr:Body>", signature + b"</sr:Body>")
    assert signature_state(moved, KEYRING) == "invalid"
    assert signature_state(request[:start] + request[end:], KEYRING) == "invalid"


def test_comments_are_no_part_of_what_is_signed() -> None:
    assert signature_state(changed("<sr:Body>", "<!-- -->" + "<sr:Body>"), KEYRING) == "valid"
    inside = changed("<ds:SignedInfo>", "<ds:SignedInfo><!-- -->")
    assert signature_state(inside, KEYRING) == "valid"


def test_bare_public_key_verifies_and_no_key_does_not() -> None:
    bare = {f"{SUPPLIER.hex}-ds.pem": KEYRING.verify_key(SUPPLIER).pem()}
    assert signature_state(update(), Keyring(bare)) == "valid"
    assert signature_state(update(), Keyring({})) == "invalid"
    assert signature_state(update(), Keyring(build_keys(b"other"))) == "invalid"


def test_a_key_for_xml_alone_signs_and_verifies_in_place_of_the_other() -> None:
    # The same folder with a second pair of the supplier's, from another authority's hands.
    other = build_keys(b"xml")
    name = f"{SUPPLIER.hex}-ds"
    own = {f"{SUPPLIER.hex}-xml-ds{end}": other[f"{name}{end}"] for end in (".key", ".pem")}
    both = Keyring(KEYS | own)
    by_its_own = update(keyring=both)
    assert signature_state(by_its_own, both) == "valid"
    assert signature_state(by_its_own, KEYRING) == "invalid"
    assert signature_state(by_its_own, Keyring(other)) == "valid"
    assert signature_state(update(), both) == "valid"  # the other still counts


def test_signing_needs_the_private_key_and_the_certificate() -> None:
    name = f"{SUPPLIER.hex}-ds"
    for suffix in (".key", ".pem"):
        rest = {key: value for key, value in KEYS.items() if key != name + suffix}
        with pytest.raises(KeyMissingError, match=name):
            update(keyring=Keyring(rest))


# --- against others -----------------------------------------------------------------------------


@needs_xmlsec1
def test_xmlsec1_verifies_our_signature_and_refuses_a_changed_request(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(KEYRING.verify_key(SUPPLIER).pem())

    def accepts(request: bytes) -> bool:
        (tmp_path / "request.xml").write_bytes(request)
        command = ["xmlsec1", "--verify", "--pubkey-pem", "key.pem", "request.xml"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 0

    assert [accepts(request) for request in every_request()] == [True] * 5
    assert not accepts(changed("00000002<", "00000003<"))


@needs_xmlsec1
@needs_vectors
def test_published_templates_signed_by_xmlsec1_are_valid_for_us(tmp_path: Path) -> None:
    command = ["xmlsec1", "--sign", "--privkey-pem", "signer.key", "request.xml"]
    paths = sorted((VECTORS / "duis").iterdir())
    for path in paths:
        (tmp_path / "request.xml").write_bytes(path.read_bytes())
        signer = parse_request(path.read_bytes()).originator
        (tmp_path / "signer.key").write_bytes(KEYS[f"{signer.hex}-ds.key"])
        signed = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True).stdout
        # The template's serial number is a placeholder, so only a bare key can vouch for it.
        bare = Keyring({f"{signer.hex}-ds.pem": KEYRING.verify_key(signer).pem()})
        assert signature_state(signed, bare) == "valid"
        assert signature_state(signed, KEYRING) == "invalid"
    assert len(paths) == 6
