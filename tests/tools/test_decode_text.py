"""Decoded messages for people."""

from __future__ import annotations

import pytest
from vectors import needs_vectors, reference_keys, reference_messages

from firmware_node.crypto import Keyring
from firmware_node.tools.code_names import ALERT_NAMES, MESSAGE_NAMES
from firmware_node.tools.decode import decode_file
from firmware_node.tools.decode_text import text
from firmware_node.wire import firmware_messages as fm
from firmware_node.wire.message_codes import USE_CASES

NEW_YEAR_2026 = 820_454_400
CS06_COMMAND = """\
CS06 Activate firmware (0012 command)  some.hex
  from       90-B3-D5-1F-30-01-00-00
  to         00-DB-12-34-56-78-90-A0
  counter    1001
  signature  valid
  mac        valid
  warnings   90b3d51f30010000-ds.pem: expired 2025-10-29T23:59:59Z, \
90b3d51f30000002-ka.pem: expired 2025-10-29T23:59:59Z
  payload
    manufacturer image hash  aa758690 730934ff 0685aa75 86907309 34ff0685 65778899 00112233 44556677
    originator counter       1001
    execution time           2030-01-15T09:00:00Z"""
CS06_ALERT = """\
Future-dated firmware activation alert (00CA alert)  some.hex
  from       00-DB-12-34-56-78-90-A0
  to         90-B3-D5-1F-30-01-00-00
  counter    2000
  signature  valid
  mac        absent
  payload
    alert code          8F66 future-dated command done
    execution time      2030-01-15T09:00:00Z
    originator counter  1001
    response code       0 success
    firmware version    0123abcf"""
CS07_RESPONSE = """\
CS07 Read device join details (0013 response)  some.hex
  from       00-DB-12-34-56-78-90-A1
  to         90-B3-D5-1F-30-01-00-00
  counter    1001
  signature  absent
  mac        valid
  payload
    response code  0 success
    devices
      - entity id: 01-02-03-04-05-06-07-08  device type: GPF
      - entity id: 00-DB-12-34-56-78-90-99  device type: GPF
      - entity id: 00-DB-12-34-56-78-90-97  device type: PPMID"""


def text_of(name: str, at: int | None = None) -> str:
    (line,) = decode_file("some.hex", reference_messages()[name], Keyring(reference_keys()), at)
    return text(line)


@needs_vectors
@pytest.mark.parametrize(
    ("name", "at", "expected"),
    [
        ("CS06_11.3_FUTURE_DATED_SUCCESS_COMMAND", NEW_YEAR_2026, CS06_COMMAND),
        ("CS06_11.3_8F66_FUTURE_DATED_SUCCESS_ALERT", None, CS06_ALERT),
        ("CS07_8.9_SUCCESS_RESPONSE", None, CS07_RESPONSE),
    ],
)
def test_message_is_aligned_with_names_of_codes_and_grouped_octets(
    name: str, at: int | None, expected: str
) -> None:
    assert text_of(name, at) == expected


@needs_vectors
def test_pre_command_is_called_so() -> None:
    assert "(0012 Pre-Command)" in text_of("CS06_11.3_IMMEDIATE_SUCCESS_PRECOMMAND")


@needs_vectors
def test_every_reference_message_has_a_title_and_no_loose_ends() -> None:
    keyring = Keyring(reference_keys())
    for name, octets in reference_messages().items():
        for line in decode_file(name, octets, keyring):
            shown = text(line)
            assert "unknown message" not in shown or "012A" in shown, name
            assert all(row == row.rstrip() for row in shown.splitlines()), name


def test_error_is_one_line_with_the_file() -> None:
    (line,) = decode_file("some.hex", b"hello", Keyring({}))
    assert text(line).startswith("some.hex: file at octet 0: expected")


def test_names_are_there_for_every_code_that_the_firmware_messages_know() -> None:
    assert MESSAGE_NAMES.keys() >= {code for code in USE_CASES if code != 0x012A}
    for code in (fm.IMAGE_VERIFIED, fm.IMAGE_NOT_VERIFIED, fm.FUTURE_DATED_DONE, fm.OUT_OF_ORDER):
        assert code in ALERT_NAMES
    assert len(ALERT_NAMES) == 190
