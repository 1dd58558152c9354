"""Every reference message: envelope, signature, MAC, payload; firmware ones encode to the same.

The table of the result is printed at the end of the test run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from pass_table import PASS_TABLE, lines
from vectors import needs_vectors, reference_keys, reference_messages

from firmware_node.crypto import Keyring
from firmware_node.tools.decode import decode_file
from firmware_node.tools.verify import Tally
from firmware_node.wire import firmware_messages as fm
from firmware_node.wire.gbcs import Cra, Message, decode_message, encode_message
from firmware_node.wire.message_codes import use_case_name

Codec = tuple[Callable[[bytes], Any], Callable[[Any], bytes]]


def firmware_codec(message: Message) -> Codec | None:
    """How a firmware payload is read and written; None: it is of another use case."""
    counter = message.header.originator_counter
    match message.header.message_code, message.header.cra:
        case fm.CS06_ACTIVATE_FIRMWARE, Cra.COMMAND:
            return fm.decode_cs06_command, fm.encode_cs06_command
        case fm.CS06_ACTIVATE_FIRMWARE, Cra.RESPONSE:
            return fm.decode_cs06_response, fm.encode_cs06_response
        case fm.CS06_ALERT, Cra.ALERT:
            return fm.decode_cs06_alert, fm.encode_cs06_alert
        case fm.CS08_READ_VERSION, Cra.COMMAND:
            return fm.decode_cs08_command, lambda _: fm.encode_cs08_command()
        case fm.CS08_READ_VERSION, Cra.RESPONSE:
            return fm.decode_cs08_response, fm.encode_cs08_response
        case fm.CS09_ACTIVATION_ALERT, Cra.ALERT:
            return fm.decode_cs09_alert, fm.encode_cs09_alert
        case fm.CCS08_FIRMWARE_TRANSFER, Cra.ALERT:
            return fm.decode_ccs08_alert, fm.encode_ccs08_alert
        case fm.RECEIPT_ALERT_GBZ, Cra.ALERT:
            return fm.decode_receipt_alert_gbz, fm.encode_receipt_alert_gbz
        case fm.GENERIC_CRITICAL_ALERT | fm.GENERIC_ALERT, Cra.ALERT:
            if message.payload[:1] == b"\x01":
                return fm.decode_generic_alert_gbz, fm.encode_generic_alert_gbz
            return (
                lambda payload: fm.decode_generic_alert_dlms(payload, counter),
                lambda alert: fm.encode_generic_alert_dlms(alert, counter),
            )
    return None


@needs_vectors
def test_every_reference_message_holds_and_its_payload_is_read(
    request: pytest.FixtureRequest,
) -> None:
    keyring, tally, encoded = Keyring(reference_keys()), Tally(), Counter[str]()
    different = []
    for name, octets in reference_messages().items():
        tally.add(decode_file(name, octets, keyring))
        message = decode_message(octets)
        codec = firmware_codec(message)
        if codec is not None:
            decode, encode = codec
            use_case = use_case_name(message.header.message_code)
            encoded.update((use_case, "all"))
            if encode(decode(message.payload)) != message.payload:
                different.append(name)
        if encode_message(message) != octets:
            different.append(name)
    rows = [
        row | {"encode to the same": str(encoded[row["use case"]] or "-")} for row in tally.table()
    ]
    request.config.stash[PASS_TABLE] = lines(rows)
    assert tally.failures() == []
    assert different == []
    assert tally.rows()[-1] == {
        "use_case": "all",
        "messages": 841,
        "signature_valid": 323,
        "signature_invalid": 0,
        "signature_no-key": 0,
        "mac_valid": 528,
        "mac_invalid": 0,
        "mac_no-key": 2,  # PPMID and GSME talk to each other; neither private key is in the set
        "payload_decoded": 841,
        "payload_raw": 0,
        "payload_broken": 0,
    }


@needs_vectors
def test_reference_set_has_the_firmware_messages_that_the_codecs_are_held_against() -> None:
    found = Counter(
        use_case_name(message.header.message_code)
        for message in map(decode_message, reference_messages().values())
        if firmware_codec(message) is not None
    )
    assert found == {
        "CS06": 9,
        "CS08": 2,
        "CS09": 1,
        "CCS08": 1,
        use_case_name(fm.CS06_ALERT): 1,
        use_case_name(fm.RECEIPT_ALERT_GBZ): 1,
        use_case_name(fm.GENERIC_CRITICAL_ALERT): 1,
        use_case_name(fm.GENERIC_ALERT): 1,
    }


@needs_vectors
def test_no_key_of_the_reference_set_shows_in_what_is_decoded() -> None:
    # CCS01 hands over a link key; the set's is these ASCII digits.
    keyring = Keyring(reference_keys())
    for name, octets in reference_messages().items():
        if name.startswith("CCS0"):
            assert "30313233343536373839414243444546" not in str(decode_file(name, octets, keyring))
