"""Real messages and a real image to an emulated ESME that holds the reference certificates.

The image is that of the SR 11.1 sample, the CS06 commands are those of the reference set, carried
as they are. Only the ESME's signing key is made for the test.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from home import ACB, HUB, SUPPLIER, Story
from test_activation_by_command import alert_code_of
from vectors import VECTORS, needs_vectors, reference_keys, reference_messages

from firmware_node.boundary import CarryMessage
from firmware_node.crypto import Keyring
from firmware_node.node.alerts import HASH_MISMATCH, NO_IMAGE_HELD
from firmware_node.node.logs import Log
from firmware_node.rig.comms_hub import HubSettings
from firmware_node.sealing import seal_critical
from firmware_node.terms import DeviceSettings, DeviceType, EntityId
from firmware_node.tools import duis
from firmware_node.tools.keys import build_keys
from firmware_node.wire import firmware_messages as fm
from firmware_node.wire.gbcs import Cra, GroupingHeader, decode_message

ESME = EntityId.parse("00-DB-12-34-56-78-90-A0")
SETTINGS = DeviceSettings(DeviceType.ESME, ESME, 0x121D, 0x0000, 0x1111, False)
REFERENCE = (
    f"{ESME.hex}-ka.pem",
    f"{ACB.hex}-ka.key",
    f"{ACB.hex}-ka.pem",
    f"{SUPPLIER.hex}-ds.key",
    f"{SUPPLIER.hex}-ds.pem",
)
VERSION = 0xACDCACDC
FORMS = ("IMMEDIATE", "FUTURE_DATED", "CANCELLATION")

pytestmark = needs_vectors


@pytest.fixture
def story(tmp_path: Path) -> Story:
    own = {
        name: data
        for name, data in build_keys(b"flows", parties=[]).items()
        if name not in (f"{ESME.hex}-ka.pem", f"{ESME.hex}-ka.key")
    }
    files = reference_keys()
    keys = Keyring(own | {name: files[name] for name in REFERENCE})
    hub = HubSettings(HUB, ACB, utc=800_000_000)
    story = Story(tmp_path, hub=hub, settings=SETTINGS, keys=keys)
    story.world.run_for(1000)
    return story


def answers(story: Story) -> list[bytes]:
    found = [decode_message(m.message) for m in story.messages()]
    return [m.payload for m in found if m.header.message_code == fm.CS06_ACTIVATE_FIRMWARE]


def carry(story: Story, message: bytes) -> None:
    story.world.tell_hub(CarryMessage(ESME, message))
    story.world.run_for(10_000)


def distribute(story: Story) -> bytes:
    request = duis.parse_request(
        (VECTORS / "duis" / "11.1_UPDATE_FIRMWARE_REQUEST_DUIS.XML").read_bytes()
    )
    assert request.image is not None
    story.offer(request.image)
    assert story.world.run_until(
        lambda: fm.IMAGE_VERIFIED in [alert_code_of(m) for m in story.messages()]
    )
    return request.image


def test_the_sample_image_is_distributed_and_earns_its_receipt_alert(story: Story) -> None:
    distribute(story)
    (alert,) = [m for m in story.messages() if alert_code_of(m) == fm.IMAGE_VERIFIED]
    assert alert.signature == "valid"
    header = decode_message(alert.message).header
    assert (header.message_code, header.recipient) == (0x00CE, SUPPLIER)
    assert story.bank_states() == ("confirmed", "verified")
    assert story.versions()[2] == f"{VERSION:08x}"


def test_the_reference_commands_are_accepted_once_and_answered_rightly(story: Story) -> None:
    distribute(story)
    references = reference_messages()
    names = [f"CS06_11.3_{form}_SUCCESS_COMMAND" for form in FORMS]
    for name in names:
        carry(story, references[name])
    # The commands mean an image that nobody has: another hash, accepted, accepted.
    expected = [fm.ActivationOutcome(HASH_MISMATCH, 1), None, None]
    assert [fm.decode_cs06_response(payload) for payload in answers(story)] == expected
    logged = len(story.device.log(Log.SECURITY))
    for name in names:
        carry(story, references[name])
    assert len(answers(story)) == 3
    again = [entry["code"] for entry in story.device.log(Log.SECURITY)[logged:]]
    assert again == ["8F60"] * 3
    assert story.status()["pending_activation"] is None
    assert story.bank_states() == ("confirmed", "verified")


def test_without_an_image_the_reference_command_is_told_so(story: Story) -> None:
    carry(story, reference_messages()["CS06_11.3_IMMEDIATE_SUCCESS_COMMAND"])
    assert [fm.decode_cs06_response(payload) for payload in answers(story)] == [
        fm.ActivationOutcome(NO_IMAGE_HELD, 1)
    ]
    assert story.bank_states() == ("confirmed", "empty")


def test_the_sample_image_runs_when_the_reference_supplier_commands_it(story: Story) -> None:
    image = distribute(story)
    sha256 = str(story.device.banks_report()["B"]["sha256"])
    request = fm.ActivateFirmware(bytes.fromhex(sha256), 2000)
    header = GroupingHeader(Cra.COMMAND, 2000, SUPPLIER, ESME, fm.CS06_ACTIVATE_FIRMWARE)
    key = story.keys.signing_key(SUPPLIER)
    payload = fm.encode_cs06_command(request)
    carry(story, seal_critical(header, payload, key, story.keys, ACB, ESME))
    assert story.world.run_until(lambda: bool(answers(story)))
    assert fm.decode_cs06_response(answers(story)[0]) == fm.ActivationOutcome(0, VERSION)
    assert story.versions() == ("B", "00000001", f"{VERSION:08x}")
    assert len(image) == 361
