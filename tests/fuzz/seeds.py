"""Makes the committed corpus: small inputs of every form, by the project's own encoders.

``python tests/fuzz/seeds.py`` writes what is missing or differs; ``test_fuzz.py`` compares. Beside
them lie inputs that once failed, named by what was wrong with them.
"""

from __future__ import annotations

import base64
import datetime
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CORPUS = Path(__file__).resolve().parent / "corpus"
sys.path[:0] = [str(ROOT), str(CORPUS.parent)]

from targets import CODES, DEVICE, KEYRING, PAYLOADS, SUPPLIER  # noqa: E402

from firmware_node.crypto import (  # noqa: E402
    Authority,
    Validity,
    organisation_certificate,
    private_key_from,
)
from firmware_node.sealing import (  # noqa: E402
    seal_content,
    seal_critical,
    seal_maced,
    seal_signed,
)
from firmware_node.terms import EntityId, ImageFormat, ImageKey, Role  # noqa: E402
from firmware_node.tools.duis import build_read_version_request  # noqa: E402
from firmware_node.tools.image import build_image  # noqa: E402
from firmware_node.wire import der, ota, zcl  # noqa: E402
from firmware_node.wire import firmware_messages as fm  # noqa: E402
from firmware_node.wire.gbcs import (  # noqa: E402
    Cra,
    GroupingHeader,
    decode_message,
    pre_command,
)
from firmware_node.wire.gbt import Series, encode_block, split  # noqa: E402
from firmware_node.wire.manufacturer_image import Manifest  # noqa: E402

BROKER = EntityId.parse("90b3d51f30000002")
HASH = bytes(range(32))
ACTIVATE = GroupingHeader(Cra.COMMAND, 1000, SUPPLIER, DEVICE, fm.CS06_ACTIVATE_FIRMWARE)


def corpus() -> dict[str, bytes]:
    """Every seed, by ``target/name``."""
    messages = _messages()
    seeds = {f"gbcs_message/{name}": octets for name, octets in messages.items()}
    seeds |= {f"gbt_series/{name}": octets for name, octets in _series(messages).items()}
    seeds |= {f"firmware_payload/{name}": octets for name, octets in _firmware().items()}
    seeds |= {f"der_values/{name}": octets[1:] for name, octets in _firmware().items()}
    seeds["der_values/credentials"] = _credentials()
    seeds |= {f"shown_payload/{name}": octets for name, octets in _payloads().items()}
    seeds |= {f"decoded_file/{name}": octets for name, octets in _files(messages).items()}
    seeds |= {f"ota_file/{kind.value}": _image(kind) for kind in ImageFormat}
    seeds |= {f"zigbee_frame/{name}": octets for name, octets in _frames().items()}
    seeds["duis_request/read-version"] = build_read_version_request(SUPPLIER, DEVICE, 1, KEYRING)
    return seeds


def _messages() -> dict[str, bytes]:
    command = fm.encode_cs06_command(fm.ActivateFirmware(HASH, 1000, 900_000_000))
    key = KEYRING.signing_key(SUPPLIER)
    critical = seal_critical(ACTIVATE, command, key, KEYRING, BROKER, DEVICE)
    read = GroupingHeader(
        Cra.COMMAND, 7, BROKER, DEVICE, fm.CS08_READ_VERSION, b"", SUPPLIER, 8, 9, b"certificate"
    )
    response = GroupingHeader(
        Cra.RESPONSE, 1000, DEVICE, SUPPLIER, 0x0012, fm.dlms_date_time(900_000_000)
    )
    return {
        "critical-command": critical,
        "command-with-certificate": seal_maced(read, b"\5\0", KEYRING, BROKER, DEVICE),
        "response": seal_signed(response, b"\5\0", KEYRING.signing_key(DEVICE)),
        "pre-command": pre_command(decode_message(critical).signed_octets),
    }


def _series(messages: dict[str, bytes]) -> dict[str, bytes]:
    octets = messages["critical-command"]
    blocks = [encode_block(block) for block in split(octets, Series.of(ACTIVATE), 80)]
    return {"whole": b"".join(blocks), "repeated": b"".join((blocks[0], *blocks))}


def _firmware() -> dict[str, bytes]:
    outcome = fm.ActivationOutcome(0, 2)
    values = (
        fm.ActivateFirmware(HASH, 1000, 900_000_000),
        outcome,
        fm.ActivationOutcomeAlert(fm.FUTURE_DATED_DONE, 900_000_000, 1000, outcome),
        None,
        fm.ReadVersionResponse(2, 0),
        fm.ActivationAlert(fm.PPMID_ACTIVATION, 900_000_000, 2, 0),
        fm.FirmwareTransferAlert(fm.TRANSFER_SUCCESS, 900_000_000, DEVICE, 2, 0),
        fm.ReceiptAlert(fm.IMAGE_VERIFIED, 900_000_000, HASH),
        fm.GenericAlert(fm.LACKS_AUTHORITY, 900_000_000),
        fm.ReceiptAlert(fm.IMAGE_VERIFIED, 900_000_000, HASH),
        fm.GenericAlert(fm.LACKS_AUTHORITY, 900_000_000),
    )
    return {
        f"{number:02}": bytes((number,)) + encode(value)
        for number, ((_, encode), value) in enumerate(zip(PAYLOADS, values, strict=True))
    }


def _credentials() -> bytes:
    """A CS02b command with one certificate; the control's length is wider than it need be."""
    day = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    key = private_key_from(b"fuzz")
    issuer = Authority("Z1", Role.ISSUING_AUTHORITY, key)
    pem = organisation_certificate(
        SUPPLIER, Role.SUPPLIER, "FUZZ", "ds", key, issuer, 1, Validity(day, day)
    )
    certificate = base64.b64decode(b"".join(pem.splitlines()[1:-1]))
    cell = der.integer(2) + der.value(der.BIT_STRING, b"\7\x80")
    control = der.integer(2) + der.value(0xA2, cell) + der.value(0x83, b"\1")
    control = b"\x30\x82" + len(control).to_bytes(2, "big") + control
    change = der.sequence(certificate, der.sequence(cell))
    return der.sequence(control, der.sequence(change), der.sequence(certificate), der.time(None))


def _payloads() -> dict[str, bytes]:
    def case(code: int, cra: Cra, payload: bytes) -> bytes:
        start = CODES.index(code).to_bytes(2, "big") + bytes((tuple(Cra).index(cra),))
        return start + payload

    header = GroupingHeader(Cra.RESPONSE, 1000, DEVICE, SUPPLIER, 0x0074)
    sealed = seal_content(bytes.fromhex("0000002501000000000002030022e80300"), header, KEYRING)
    component = b"\0\0\x18\0\1" + len(sealed).to_bytes(2, "big") + sealed
    encrypted = b"\1\x09\1\3\7\2" + len(component).to_bytes(2, "big") + component
    log = bytes.fromhex("190001 0200 00 01 00 03 4581 00f9351c 00 03 5481 00f9351c 02 009b")
    events = b"\1\x09\1\1\7\x09" + len(log).to_bytes(2, "big") + log
    get = "d92000000100 02 01 0007 0000630102ff 02 04 0007 0000630102ff 02 01 020211010600000001"
    data = "0204 0101090100 1302111106010203 040fa5e0 17 3fc00000"
    return {
        "credentials": case(0x0102, Cra.COMMAND, _credentials()),
        "join": case(0x00AB, Cra.COMMAND, bytes.fromhex("30100201010408") + bytes(8) + b"\2\1\1"),
        "joined": case(0x00AB, Cra.RESPONSE, b"\2\1\0"),
        "encrypted": case(0x0074, Cra.RESPONSE, encrypted),
        "event-log": case(0x0014, Cra.RESPONSE, events),
        "gbz-alert": case(
            0x00CD, Cra.ALERT, bytes.fromhex("0109018f66388188900e006c00000000000003e907050106")
        ),
        "dlms-request": case(0x0048, Cra.COMMAND, bytes.fromhex(f"{get} 02 00 00")),
        "dlms-response": case(0x0048, Cra.RESPONSE, bytes.fromhex(f"da20000001000001{data}010100")),
        "dlms-alert": case(
            0x00CC,
            Cra.ALERT,
            bytes.fromhex("0f20000001000203128f66") + b"\x09\x0c" + fm.dlms_date_time(0) + b"\0",
        ),
    }


def _files(messages: dict[str, bytes]) -> dict[str, bytes]:
    first, second = messages["response"], messages["pre-command"]
    encoded = base64.b64encode(first)
    return {
        "hex": b"# a response\n0x" + first.hex().encode(),
        "lines": first.hex().encode() + b"\n" + second.hex().encode() + b"\n",
        "base64": encoded,
        "duis": b"<r><GBCSPayload>" + encoded + b"</GBCSPayload></r>",
        "binary": messages["critical-command"],
        "blocks": _series(messages)["whole"],
    }


def _image(kind: ImageFormat) -> bytes:
    manifest = Manifest(
        image=ImageKey(0x121D, 0x0084, 2),
        hardware_version_min=0,
        hardware_version_max=0xFFFF,
        version_string="2",
        date_code="",
    )
    supplier = kind is ImageFormat.GB_SUPPLIER_SIGNED
    return build_image(
        manifest,
        size=300,
        kind=kind,
        header_string="fuzz",
        seed=0,
        manufacturer_key=KEYRING.manufacturer_signing_key(0x121D),
        supplier_key=KEYRING.signing_key(SUPPLIER) if supplier else None,
    )


def _frames() -> dict[str, bytes]:
    image = ImageKey(0x121D, 0x0084, 2)
    attributes = (
        zcl.AttributeValue(0, 0, zcl.UINT32, 1),
        zcl.AttributeValue(4, 0, zcl.CHARACTER_STRING, b"name"),
        zcl.AttributeValue(6, 0x86),
    )
    block = ota.encode_image_block_response(ota.BlockData(image, 0, bytes(range(20))))
    return {
        "header": b"\0" + zcl.encode(zcl.ZclHeader(True, False, True, 0x121D, 1, 3), b"body"),
        "attributes": b"\3" + zcl.encode_read_attributes_response(attributes),
        "block": b"\x0a" + block,
    }


def write() -> None:
    """Bring the folder up to date."""
    for name, octets in corpus().items():
        path = CORPUS / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(octets)


if __name__ == "__main__":
    write()
