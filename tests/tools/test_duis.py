"""DUIS requests: read as published, signed so that others verify them, refused when hostile."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vectors import VECTORS, needs_vectors

from firmware_node.crypto import Keyring, signs_deterministically
from firmware_node.errors import ConfigError, KeyMissingError
from firmware_node.terms import EntityId
from firmware_node.tools.duis import (
    REQUEST_SIZE_MAX,
    ServiceRequest,
    build_activate_request,
    build_read_version_request,
    build_update_request,
    is_request,
    parse_request,
    signature_state,
)
from firmware_node.tools.keys import build_keys

KEYS = build_keys(b"duis")
KEYRING = Keyring(KEYS)
SUPPLIER = EntityId.parse("90b3d51f30010000")
BROKER = EntityId.parse("90b3d51f30000002")
ESME = EntityId.parse("00db1234567890a0")
PPMID = EntityId.parse("00db1234567890a4")
HCALCS = EntityId.parse("00db1234567890a5")
IMAGE = bytes(range(256)) * 5

needs_xmlsec1 = pytest.mark.skipif(
    shutil.which("xmlsec1") is None, reason="xmlsec1 is missing: apt-get install xmlsec1"
)


def update(reference: str = "11.4", image: bytes = IMAGE, keyring: Keyring = KEYRING) -> bytes:
    return build_update_request(
        reference,
        SUPPLIER,
        BROKER,
        1000,
        keyring,
        image=image,
        firmware_version="00000002",
        devices=(PPMID, HCALCS),
    )


def published(name: str) -> bytes:
    return (VECTORS / "duis" / f"{name}_REQUEST_DUIS.XML").read_bytes()


def changed(old: str, new: str, request: bytes | None = None) -> bytes:
    request = update() if request is None else request
    assert request.count(old.encode()) >= 1
    return request.replace(old.encode(), new.encode(), 1)


# --- reading ------------------------------------------------------------------------------------


@needs_vectors
def test_published_update_requests_give_image_version_and_devices() -> None:
    meter = parse_request(published("11.1_UPDATE_FIRMWARE"))
    ppmid = parse_request(published("11.4_UPDATE_PPMID_FIRMWARE"))
    assert (meter.service_reference, ppmid.service_reference) == ("11.1", "11.4")
    assert (meter.devices, ppmid.devices) == ((ESME,), (PPMID,))
    assert (meter.originator, meter.target, meter.counter) == (SUPPLIER, BROKER, 1000)
    assert meter.firmware_version == ppmid.firmware_version == "00000000"
    assert meter.image is not None
    assert len(meter.image) == 361
    assert ppmid.image is not None
    assert len(ppmid.image) == 295


@needs_vectors
def test_published_activations_are_immediate_dated_and_cancelling() -> None:
    now, later, never = (
        parse_request(published(f"CS06_11.3_{kind}_SUCCESS"))
        for kind in ("IMMEDIATE", "FUTURE_DATED", "CANCELLATION")
    )
    expected = bytes.fromhex("aa758690730934ff0685aa758690730934ff0685657788990011223344556677")
    assert {now.hash, later.hash, never.hash} == {expected}
    assert (now.executes_at, now.cancels) == (None, False)
    assert (later.executes_at, later.cancels) == (948013200, False)  # 2030-01-15T09:00:00Z
    assert (never.executes_at, never.cancels) == (None, True)
    assert now.devices == (ESME,)


@needs_vectors
def test_published_read_version_request_names_its_device() -> None:
    request = parse_request(published("CS08_11.2_SUCCESS"))
    assert request == ServiceRequest(
        request_id="90-B3-D5-1F-30-00-00-02:00-DB-12-34-56-78-90-A4:1000",
        originator=BROKER,
        target=PPMID,
        counter=1000,
        command_variant=1,
        service_reference="11.2",
        devices=(PPMID,),
    )


@needs_vectors
def test_published_signatures_are_placeholders() -> None:
    paths = sorted((VECTORS / "duis").iterdir())
    assert len(paths) == 6
    assert {signature_state(path.read_bytes(), KEYRING) for path in paths} == {"placeholder"}


def test_request_is_told_from_other_files() -> None:
    assert is_request(update())
    assert is_request(b"\xef\xbb\xbf\n" + update())
    assert not is_request(bytes.fromhex("1ef1ee0b"))
    assert not is_request(b"")


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("<sr:ServiceReference>11.4", "<sr:ServiceReference>11.5", "ServiceReference"),
        ("Variant>11.4", "Variant>11.1", "ServiceReferenceVariant"),
        ("<sr:CommandVariant>8", "<sr:CommandVariant>4", "CommandVariant"),
        (":1000<", "<", "RequestID"),
        (":1000<", ":9223372036854775808<", "counter"),
        ("00-DB-12-34-56-78-90-A4,", "00-DB-12-34-56-78-90,", "entity id"),
        ("00-DB-12-34-56-78-90-A4,", "00-DB-12-34-56-78-90-A5,", "twice"),
        ("00000002<", "000000002<", "FirmwareVersion"),
        ("00000002<", "<", "FirmwareVersion"),
        ("00000002<", "00<!-- -->000002<", "text alone"),
        ("<sr:FirmwareImage>", "<sr:FirmwareImage>*", "base64"),
        ("sr:UpdatePPMIDFirmware>", "sr:UpdateFirmware>", "no readable XML"),
        ("<sr:Body>", "<sr:Body><sr:ReadFirmwareVersion/>", "ReadFirmwareVersion"),
        ("<sr:FirmwareVersion>", "<sr:Colour>red</sr:Colour><sr:FirmwareVersion>", "Colour"),
        ("ServiceUserGateway", "ServiceUserGate", "root element"),
        ("?>", "?><!DOCTYPE x>", "document type"),
    ],
)
def test_request_that_breaks_the_schema_is_refused_in_one_line(
    old: str, new: str, found: str
) -> None:
    with pytest.raises(ConfigError, match=found) as caught:
        parse_request(changed(old, new))
    assert "\n" not in str(caught.value)


def test_entities_never_reach_the_parser() -> None:
    secret = '<!DOCTYPE r [<!ENTITY e SYSTEM "file:///etc/passwd">]><r>&e;</r>'
    for text in (secret, '<?xml version="1.0" encoding="UTF-7"?>+ADwAIQ-DOCTYPE r>'):
        with pytest.raises(ConfigError):
            parse_request(text.encode())
    for encoding in ("utf-16", "utf-32"):
        with pytest.raises(ConfigError):
            parse_request(secret.encode(encoding))


def test_request_over_the_size_limit_is_refused() -> None:
    with pytest.raises(ConfigError, match="at most"):
        parse_request(b"<" * (REQUEST_SIZE_MAX + 1))


def test_largest_image_of_the_schema_passes_and_one_octet_more_does_not() -> None:
    request = parse_request(update(image=bytes(10_240_000)))
    assert request.image is not None
    assert len(request.image) == 10_240_000
    with pytest.raises(ConfigError, match="10240001 octets"):
        update(image=bytes(10_240_001))


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


# --- signature ----------------------------------------------------------------------------------


def test_each_built_request_reads_back_and_is_validly_signed() -> None:
    digest = bytes(range(32))
    activate = build_activate_request(
        SUPPLIER, HCALCS, 7, KEYRING, manufacturer_image_hash=digest, executes_at=948013200
    )
    cancel = build_activate_request(
        SUPPLIER, HCALCS, 8, KEYRING, manufacturer_image_hash=digest, cancels=True
    )
    read = build_read_version_request(SUPPLIER, PPMID, 9, KEYRING)
    for reference in ("11.1", "11.4"):
        request = parse_request(update(reference))
        assert (request.service_reference, request.image) == (reference, IMAGE)
        assert (request.devices, request.firmware_version) == ((PPMID, HCALCS), "00000002")
    assert parse_request(activate).executes_at == 948013200
    assert parse_request(activate).hash == digest
    assert parse_request(cancel).cancels
    assert (parse_request(read).devices, parse_request(read).counter) == ((PPMID,), 9)
    for request_xml in (activate, cancel, read, update("11.1"), update("11.4")):
        assert signature_state(request_xml, KEYRING) == "valid"


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

    assert accepts(update())
    assert not accepts(changed("00000002<", "00000003<"))


@needs_xmlsec1
@needs_vectors
def test_published_template_signed_by_xmlsec1_is_valid_for_us(tmp_path: Path) -> None:
    (tmp_path / "supplier.key").write_bytes(KEYS[f"{SUPPLIER.hex}-ds.key"])
    (tmp_path / "request.xml").write_bytes(published("11.1_UPDATE_FIRMWARE"))
    command = ["xmlsec1", "--sign", "--privkey-pem", "supplier.key", "request.xml"]
    signed = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True).stdout
    # The template's serial number is a placeholder, so only a bare key can vouch for it.
    bare = Keyring({f"{SUPPLIER.hex}-ds.pem": KEYRING.verify_key(SUPPLIER).pem()})
    assert signature_state(signed, bare) == "valid"
    assert signature_state(signed, KEYRING) == "invalid"


def test_signxml_verifies_our_signature() -> None:
    from signxml.algorithms import CanonicalizationMethod
    from signxml.verifier import SignatureConfiguration, XMLVerifier

    profile = SignatureConfiguration(
        location="./",
        default_reference_c14n_method=CanonicalizationMethod.CANONICAL_XML_1_0,
    )
    certificate = KEYS[f"{SUPPLIER.hex}-ds.pem"].decode()
    XMLVerifier().verify(update(), x509_cert=certificate, expect_config=profile)
