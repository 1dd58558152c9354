"""DUIS requests: read as published, written so that they read back, refused off the schema."""

from __future__ import annotations

import base64

import pytest
from vectors import VECTORS, needs_vectors

from firmware_node.crypto import Keyring
from firmware_node.errors import ConfigError
from firmware_node.terms import EntityId
from firmware_node.tools.duis import (
    ServiceRequest,
    build_activate_request,
    build_read_version_request,
    build_signed_pre_command_request,
    build_update_request,
    is_request,
    parse_request,
)
from firmware_node.tools.duis.document import DOCUMENT_SIZE_MAX, date_time, parse_date_time
from firmware_node.tools.keys import build_keys

KEYS = build_keys(b"duis")
KEYRING = Keyring(KEYS)
SUPPLIER = EntityId.parse("90b3d51f30010000")
BROKER = EntityId.parse("90b3d51f30000002")
ESME = EntityId.parse("00db1234567890a0")
PPMID = EntityId.parse("00db1234567890a4")
HCALCS = EntityId.parse("00db1234567890a5")
IMAGE = bytes(range(256)) * 5


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
        (":1000<", ":18446744073709551616<", "counter"),
        (":1000<", ":01000<", "RequestID"),
        ("90-B3-D5-1F-30-01-00-00:", "90B3D51F30010000:", "RequestID"),
        ('schemaVersion="5.4"', 'schemaVersion="4.0"', "schemaVersion"),
        ('schemaVersion="5.4"', "", "schemaVersion"),
        ('schemaVersion="5.4"', 'schemaVersion="5.4" x="1"', "unexpected attribute x"),
        ("<sr:DeviceIDList>", '<sr:DeviceIDList x="1">', "unexpected attribute x"),
        (
            "<sr:CommandVariant>",
            "<sr:FirstInSequence>true</sr:FirstInSequence><sr:CommandVariant>",
            "in a sequence",
        ),
        ("<sr:CommandVariant>8</sr:CommandVariant>", "", "no CommandVariant"),
        ("00-DB-12-34-56-78-90-A4,", "00-DB-12-34-56-78-90,", "entity ids"),
        ("00-DB-12-34-56-78-90-A4,", "00DB1234567890A4,", "entity ids"),
        ("00-DB-12-34-56-78-90-A4,", "00-DB-12-34-56-78-90-A4, ", "entity ids"),
        ("00-DB-12-34-56-78-90-A4,", "00-DB-12-34-56-78-90-A5,", "twice"),
        ("00000002<", "000000002<", "FirmwareVersion"),
        ("00000002<", "<", "nothing in FirmwareVersion"),
        ("00000002<", "00<!-- -->000002<", "text alone"),
        ("<sr:FirmwareImage>", "<sr:FirmwareImage>*", "base64"),
        ("sr:UpdatePPMIDFirmware>", "sr:UpdateFirmware>", "no readable XML"),
        ("<sr:Body>", "<sr:Header/><sr:Body>", "out of place or twice"),
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
        parse_request(b"<" * (DOCUMENT_SIZE_MAX + 1))


def test_largest_image_of_the_schema_passes_and_one_octet_more_does_not() -> None:
    request = parse_request(update(image=bytes(10_240_000)))
    assert request.image is not None
    assert len(request.image) == 10_240_000
    with pytest.raises(ConfigError, match="10240001 octets"):
        update(image=bytes(10_240_001))


# --- SR 11.3 ------------------------------------------------------------------------------------

HASH = bytes(range(32))


def activate(text: str | None = None) -> bytes:
    """An SR 11.3, with this for its ExecutionDateTime."""
    moment = None if text is None else 0
    request = build_activate_request(
        SUPPLIER, HCALCS, 7, KEYRING, manufacturer_image_hash=HASH, executes_at=moment
    )
    return request if text is None else changed("2000-01-01T00:00:00.00Z", text, request)


@pytest.mark.parametrize(
    ("text", "utc"),
    [
        ("2030-01-15T09:00:00Z", 948013200),
        ("2030-01-15T09:00:00.000Z", 948013200),
        ("2030-01-15T10:30:00.00+01:30", 948013200),
        ("2030-01-15T08:00:00-01:00", 948013200),
    ],
)
def test_every_way_to_write_a_moment_is_read(text: str, utc: int) -> None:
    assert parse_request(activate(text)).executes_at == utc
    assert parse_date_time("x", date_time(utc)) == utc


@pytest.mark.parametrize(
    "text",
    [
        "2030-01-15T09:00:00",  # in no zone
        "2030-01-15T09:00:00.5Z",
        "2030-02-30T09:00:00Z",
        "2030-01-15 09:00:00Z",
        "0001-01-01T00:00:00+01:00",
        "soon",
    ],
)
def test_a_moment_that_no_command_can_carry_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="ExecutionDateTime"):
        parse_request(activate(text))


def test_a_hash_has_32_octets() -> None:
    for bad in ("00", "0" * 63, "0" * 65, "g" * 64):
        with pytest.raises(ConfigError, match="FirmwareHash"):
            parse_request(changed(HASH.hex().upper(), bad, activate()))


def test_the_counter_of_an_activation_fits_its_payload_and_others_go_further() -> None:
    over = str(2**63)
    with pytest.raises(ConfigError, match="has room for 9223372036854775807"):
        parse_request(changed(":7<", f":{over}<", activate()))
    assert parse_request(changed(":1000<", f":{over}<")).counter == 2**63
    assert parse_request(changed(":1000<", f":{2**64 - 1}<")).counter == 2**64 - 1


def test_elements_out_of_order_are_refused() -> None:
    request = activate("2030-01-15T09:00:00Z")
    moment = "<sr:ExecutionDateTime>2030-01-15T09:00:00Z</sr:ExecutionDateTime>"
    swapped = changed("</sr:FirmwareHash>", f"</sr:FirmwareHash>{moment}", request)
    with pytest.raises(ConfigError, match="ExecutionDateTime, out of place or twice"):
        parse_request(swapped)


def test_a_reading_that_the_dsp_puts_off_is_refused_by_name() -> None:
    request = build_read_version_request(SUPPLIER, PPMID, 9, KEYRING)
    moment = "<sr:ExecutionDateTime>2030-01-15T09:00:00Z</sr:ExecutionDateTime>"
    later = changed(
        "<sr:ReadFirmwareVersion/>",
        f"<sr:ReadFirmwareVersion>{moment}</sr:ReadFirmwareVersion>",
        request,
    )
    with pytest.raises(ConfigError, match="puts off"):
        parse_request(later)


def test_a_signed_pre_command_has_the_id_of_its_request_and_variants_of_its_own() -> None:
    asked = parse_request(activate())
    signed = build_signed_pre_command_request(asked, b"octets", KEYRING)
    read = parse_request(signed)
    assert (read.request_id, read.command_variant) == (asked.request_id, 5)
    assert (read.signed_pre_command, read.hash) == (b"octets", None)
    assert (read.devices, read.service_reference) == ((HCALCS,), "11.3")
    for variant in (6, 7):
        other = changed("Variant>5", f"Variant>{variant}", signed)
        assert parse_request(other).command_variant == variant
    for variant in (1, 4, 8):
        with pytest.raises(ConfigError, match="CommandVariant"):
            parse_request(changed("Variant>5", f"Variant>{variant}", signed))
    with pytest.raises(ConfigError, match="CommandVariant"):
        parse_request(changed("Variant>4", "Variant>5", activate()))
    too_large = base64.b64encode(bytes(8193)).decode()
    with pytest.raises(ConfigError, match="8193 octets"):
        parse_request(changed(base64.b64encode(b"octets").decode(), too_large, signed))


def test_each_built_request_reads_back() -> None:
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
