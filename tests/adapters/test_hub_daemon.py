"""Service requests through real processes: command line, hub, air, and a scripted device."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from scripted_device import ScriptedDevice

from firmware_node.crypto import Keyring
from firmware_node.sealing import Verdict, check_mac, check_signature, seal_maced, seal_signed
from firmware_node.terms import EntityId, ImageKey
from firmware_node.tools import duis
from firmware_node.tools.decode_input import parts_of
from firmware_node.tools.keys import build_keys
from firmware_node.wire import firmware_messages as fm
from firmware_node.wire.gbcs import Cra, GroupingHeader, decode_message
from firmware_node.wire.ota import HOLD
from firmware_node.wire.zcl import Status

HCALCS = EntityId.parse("00db1234567890a5")
PPMID = EntityId.parse("00db1234567890a4")
BROKER = EntityId.parse("90b3d51f30000002")
SUPPLIER = EntityId.parse("90b3d51f30010000")
FILES = build_keys(b"hub daemon")
KEYS = Keyring(FILES)
IMAGE = ImageKey(0x121D, 0x0084, 2)
UTC = 800_000_000
LIMIT_S = 30


def node(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "firmware_node", *arguments],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )


class Han:
    """A running hub in a short-named folder, and the commands of a user beside it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def file(self, name: str) -> str:
        return str(self.root / name)

    def request(self, *arguments: str, name: str = "request.xml") -> str:
        made = ("dcc", "request", *arguments, "--keys", self.file("all-keys"))
        done = node(*made, "-o", self.file(name))
        assert done.returncode == 0, done.stderr
        return self.file(name)

    def send(self, file: str, *options: str, code: int = 0) -> dict[str, Any]:
        done = node("dcc", "send", file, "--hub", self.file("hub.sock"), "--json", *options)
        assert done.returncode == code, done.stderr + done.stdout
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def activation(self, *arguments: str) -> str:
        wanted = ("11.3", "--devices", str(HCALCS), "--hash", "ab" * 32, "--counter", "1000")
        return self.request(*wanted, *arguments)

    def image(self, *arguments: str) -> str:
        built = ("image", "build", "--file-version", "2", "--size", "2000")
        done = node(*built, "-o", self.file("two.ota"), "--keys", self.file("all-keys"), *arguments)
        assert done.returncode == 0, done.stderr
        return self.file("two.ota")


@pytest.fixture
def make_han() -> Iterator[Callable[..., Han]]:
    """Hubs whose key folder lacks some files; ended with the test."""
    with tempfile.TemporaryDirectory(prefix="fn-") as name:
        root = Path(name)
        processes = []

        def make(*lacks: str, section: str = "") -> Han:
            for folder in ("keys", "all-keys"):
                (root / folder).mkdir()
            for file, data in FILES.items():
                (root / "all-keys" / file).write_bytes(data)
                if file not in lacks:
                    (root / "keys" / file).write_bytes(data)
            (root / "hub.toml").write_text(
                '[hub]\nentity_id = "00-DB-12-34-56-78-90-A2"\n'
                f'[dcc]\nsocket = "{root}/hub.sock"\n{section}\n'
                f'[keys]\ndirectory = "{root}/keys"\n[radio]\nair = "{root}/air.sock"\n'
            )
            hub = subprocess.Popen(
                [sys.executable, "-m", "firmware_node", "hub", f"{root}/hub.toml"],
                stderr=subprocess.PIPE,
                text=True,
                env=os.environ,
            )
            processes.append(hub)
            assert hub.stderr is not None
            assert "ready" in hub.stderr.readline()
            return Han(root)

        yield make
        for process in processes:
            process.terminate()
            assert process.wait(LIMIT_S) == 0
            assert process.stderr is not None
            assert "Traceback" not in process.stderr.read()
            process.stderr.close()


def signed(device: EntityId, cra: Cra, counter: int, to: EntityId, code: int, body: bytes) -> bytes:
    header = GroupingHeader(cra, counter, device, to, code)
    return seal_signed(header, body, KEYS.signing_key(device))


def receipt(code: int) -> bytes:
    body = fm.encode_receipt_alert_gbz(fm.ReceiptAlert(code, UTC, bytes(32)))
    return signed(HCALCS, Cra.ALERT, 7, SUPPLIER, fm.RECEIPT_ALERT_GBZ, body)


def activates(outcome: fm.ActivationOutcome | None) -> Callable[[bytes], Sequence[bytes]]:
    """Answers a CS06 command that verifies, as a device would; anything else with silence."""

    def answer(message: bytes) -> Sequence[bytes]:
        command = decode_message(message)
        header = command.header
        if header.message_code != fm.CS06_ACTIVATE_FIRMWARE:
            return ()
        assert check_signature(command, KEYS) is Verdict.VALID
        assert check_mac(command, KEYS) is Verdict.VALID
        body = fm.encode_cs06_response(outcome)
        counter = header.originator_counter
        return (signed(HCALCS, Cra.RESPONSE, counter, SUPPLIER, header.message_code, body),)

    return answer


def reads(message: bytes) -> Sequence[bytes]:
    """Answers a CS08 command with version 00000002."""
    asked = decode_message(message).header
    assert asked.message_code == fm.CS08_READ_VERSION
    header = GroupingHeader(
        Cra.RESPONSE,
        asked.originator_counter,
        asked.recipient,
        BROKER,
        asked.message_code,
        supplementary_party=asked.supplementary_party,
        supplementary_counter=asked.supplementary_counter,
    )
    body = fm.encode_cs08_response(fm.ReadVersionResponse(2, 0))
    return (seal_maced(header, body, KEYS, own=asked.recipient, peer=BROKER),)


def codes(answer: dict[str, Any]) -> list[tuple[str, str | None]]:
    return [(m["message_code"], m.get("alert_code")) for m in answer["messages"]]


def device(han: Han, entity_id: EntityId = HCALCS) -> ScriptedDevice:
    return ScriptedDevice(han.root / "air.sock", entity_id, IMAGE)


def test_an_update_of_a_switch_is_held_by_the_hub_and_earns_its_receipt(
    make_han: Callable[..., Han],
) -> None:
    han = make_han()
    image = han.image("--kind", "gb-supplier-signed", "--supplier", str(SUPPLIER))
    request = han.request("11.1", "--image", image, "--devices", str(HCALCS))
    fetched: list[bytes] = []

    def verified(file: bytes) -> tuple[Status, Sequence[bytes]]:
        fetched.append(file)
        return Status.SUCCESS, (receipt(fm.IMAGE_VERIFIED),)

    with device(han) as switch:
        switch.on_image = verified
        answer = han.send(request, "--wait", "--xml", han.file("answers"))
        assert switch.upgrade_times == [HOLD]
    assert fetched == [Path(image).read_bytes()]
    assert (answer["result"], answer["request_signature"]) == ("ok", "valid")
    assert codes(answer) == [("00CF", "8F72"), ("0128", "8F8A")]
    assert answer["deliveries"] == [{"entity_id": str(HCALCS), "status": "transferred"}]
    assert all((m["signature"], m["mac"]) == ("valid", "absent") for m in answer["messages"])
    names = sorted(path.name for path in (han.root / "answers").iterdir())
    assert names == [
        "01-acknowledgement.xml",
        "02-DCC-alert-N60-CSPFirmwareDeliveryStatus.xml",
        "03-device-alert-8F72.xml",
        "04-DCC-alert-N62-CommsHubAlert.xml",
    ]
    alert = (han.root / "answers" / "03-device-alert-8F72.xml").read_bytes()
    assert parts_of(alert)[0].octets.hex() == answer["messages"][0]["hex"]


def test_an_image_that_the_switch_refuses_is_a_no_with_both_alerts(
    make_han: Callable[..., Han],
) -> None:
    han = make_han()
    image = han.image("--kind", "gb-supplier-signed", "--supplier", str(SUPPLIER))
    request = han.request("11.1", "--image", image, "--devices", str(HCALCS))
    with device(han) as switch:
        switch.on_image = lambda _: (Status.INVALID_IMAGE, (receipt(fm.IMAGE_NOT_VERIFIED),))
        answer = han.send(request, "--wait", code=1)
    assert answer["result"] == "failed"
    assert codes(answer) == [("00CF", "8F1C"), ("0128", "8F89")]


def test_a_receipt_that_never_follows_a_failed_transfer_is_not_waited_for_long(
    make_han: Callable[..., Han],
) -> None:
    han = make_han(section="straggler_s = 0")
    image = han.image("--kind", "gb-supplier-signed", "--supplier", str(SUPPLIER))
    request = han.request("11.1", "--image", image, "--devices", str(HCALCS))
    with device(han) as switch:
        switch.on_image = lambda _: (Status.INVALID_IMAGE, ())
        answer = han.send(request, "--wait", code=1)
    assert (answer["result"], codes(answer)) == ("failed", [("0128", "8F89")])


def test_a_file_that_the_hub_discards_ends_the_wait(make_han: Callable[..., Han]) -> None:
    han = make_han()
    path = Path(han.image("--kind", "gb-supplier-signed", "--supplier", str(SUPPLIER)))
    path.write_bytes(path.read_bytes()[:-1])
    request = han.request("11.1", "--image", str(path), "--devices", str(HCALCS))
    with device(han):
        answer = han.send(request, "--wait", code=1)
    assert (answer["result"], codes(answer)) == ("failed", [("0128", "8F89")])
    assert answer["messages"][0]["fields"]["response_code"] == 1
    assert answer["deliveries"] == [{"entity_id": str(HCALCS), "status": "discarded"}]
    assert any(warning.startswith("image: ") for warning in answer["warnings"])


def test_a_ppmid_activates_at_once_and_tells(make_han: Callable[..., Han]) -> None:
    han = make_han()
    request = han.request("11.4", "--image", han.image(), "--devices", str(PPMID))
    alert = fm.encode_cs09_alert(fm.ActivationAlert(fm.PPMID_ACTIVATION, UTC, 2, 0))
    with device(han, PPMID) as ppmid:
        ppmid.on_activation = lambda: (
            signed(PPMID, Cra.ALERT, 9, BROKER, fm.CS09_ACTIVATION_ALERT, alert),
        )
        answer = han.send(request, "--wait")
        assert HOLD not in ppmid.upgrade_times
    assert answer["result"] == "ok"
    assert codes(answer) == [("0128", "8F8A"), ("012B", "8F8B")]


def test_the_hub_goes_on_as_the_user_whose_key_it_has(make_han: Callable[..., Han]) -> None:
    han = make_han()
    with device(han) as switch:
        switch.on_message = activates(fm.ActivationOutcome(0, 2))
        answer = han.send(han.activation(), "--wait")
        assert len(switch.received) == 1
    assert (answer["result"], answer["response_code"]) == ("ok", "I0")
    assert (answer["request_id"], answer["request_signature"]) == (
        f"{SUPPLIER}:{HCALCS}:1000",
        "valid",
    )
    (message,) = answer["messages"]
    assert (message["use_case"], message["kind"], message["signature"]) == (
        "CS06",
        "response",
        "valid",
    )
    assert message["fields"]["firmware_version"] == "00000002"
    assert decode_message(bytes.fromhex(message["hex"])).header.originator == HCALCS
    assert [response["code"] for response in answer["responses"]] == ["I0", "I99", "I0"]
    assert answer["warnings"] == []


def test_the_user_signs_with_a_key_of_its_own_that_the_hub_does_not_have(
    make_han: Callable[..., Han],
) -> None:
    han = make_han(f"{SUPPLIER.hex}-ds.key")
    request = han.activation()
    with device(han) as switch:
        switch.on_message = activates(fm.ActivationOutcome(3, 1))
        stopped = han.send(request)
        assert stopped["result"] == "accepted"
        assert "stopped at the Pre-Command" in stopped["warnings"][-1]
        assert han.send(request, "--wait", code=1)["result"] == "failed"
        assert switch.received == []
        answer = han.send(request, "--wait", "--keys", han.file("all-keys"), code=1)
        assert len(switch.received) == 1
    assert answer["result"] == "failed"
    assert answer["messages"][0]["fields"]["response_code"] == 3
    assert answer["pre_command"] == stopped["pre_command"]


def test_a_key_folder_without_the_users_key_is_the_wrong_one(make_han: Callable[..., Han]) -> None:
    han = make_han(f"{SUPPLIER.hex}-ds.key")
    request = han.activation()
    hub = ("--hub", han.file("hub.sock"))
    done = node("dcc", "send", request, *hub, "--keys", han.file("keys"))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"{SUPPLIER.hex}-ds" in done.stderr


def test_a_pre_command_alone_is_printed_and_nothing_is_sent(make_han: Callable[..., Han]) -> None:
    han = make_han()
    request = han.activation("--at", "2030-01-15T09:00:00Z")
    expected = duis.transform(duis.parse_request(Path(request).read_bytes())).hex()
    hub = ("--hub", han.file("hub.sock"))
    with device(han) as switch:
        done = node("dcc", "send", request, *hub, "--pre-command-only")
        assert (done.returncode, expected in done.stdout.splitlines()) == (0, True)
        answer = han.send(request, "--pre-command-only", "--wait")
        assert switch.received == []
    assert (answer["result"], answer["pre_command"]) == ("ok", expected)
    assert answer["messages"] == []


def test_a_future_dated_activation_is_waited_for_until_its_alert(
    make_han: Callable[..., Han],
) -> None:
    han = make_han()
    outcome = fm.ActivationOutcomeAlert(
        fm.FUTURE_DATED_FAILED, UTC, 1000, fm.ActivationOutcome(2, 1)
    )
    alert = fm.encode_cs06_alert(outcome)
    accepts = activates(None)
    with device(han) as switch:
        switch.on_message = lambda message: (
            *accepts(message),
            signed(HCALCS, Cra.ALERT, 8, SUPPLIER, fm.CS06_ALERT, alert),
        )
        answer = han.send(han.activation("--at", "2030-01-15T09:00:00Z"), "--wait", code=1)
    assert answer["result"] == "failed"
    assert codes(answer) == [("0012", None), ("00CA", "8F67")]
    assert answer["responses"][-1]["name"] == "response FutureDatedDeviceAlertMessage"


def test_a_cancellation_is_done_when_it_is_accepted(make_han: Callable[..., Han]) -> None:
    han = make_han()
    with device(han) as switch:
        switch.on_message = activates(None)
        answer = han.send(han.activation("--at", "cancel"), "--wait")
        command = fm.decode_cs06_command(decode_message(switch.received[0]).payload)
    assert (answer["result"], command.cancels) == ("ok", True)


def test_the_version_of_a_switch_is_read(make_han: Callable[..., Han]) -> None:
    han = make_han()
    request = han.request("11.2", "--devices", str(HCALCS))
    hub = ("--hub", han.file("hub.sock"))
    with device(han) as switch:
        switch.on_message = reads
        answer = han.send(request, "--wait")
        shown = node("dcc", "send", request, *hub, "--wait")
    assert (answer["result"], codes(answer)) == ("ok", [("0129", None)])
    assert answer["messages"][0]["mac"] == "valid"
    assert shown.returncode == 0
    assert "CS08 response: firmware version 00000002; signature absent, MAC valid" in shown.stdout
    assert "warning: counter" in shown.stdout
    assert shown.stdout.endswith("result: ok\n")


def test_a_ready_message_is_carried_and_its_answer_shown(make_han: Callable[..., Han]) -> None:
    han = make_han()
    with device(han) as switch:
        switch.on_message = activates(fm.ActivationOutcome(1, 1))
        han.send(han.activation(), "--wait", code=1)
        (message,) = switch.received
        (han.root / "command.hex").write_text(message.hex())
        answer = han.send(han.file("command.hex"), "--wait", code=1)
        assert switch.received == [message, message]
        switch.on_message = lambda _: ()
        silence = han.send(han.file("command.hex"), "--wait", "--timeout", "1", code=1)
        accepted = han.send(han.file("command.hex"))
    assert (answer["result"], answer["messages"][0]["fields"]["response_code"]) == ("failed", 1)
    assert (silence["result"], silence["messages"]) == ("failed", [])
    assert (accepted["result"], accepted["response_code"]) == ("accepted", "I99")


def test_a_device_without_a_key_here_is_the_requests_fault(make_han: Callable[..., Han]) -> None:
    han = make_han()
    file = han.request("11.2", "--devices", "00-DB-12-34-56-78-90-FF")
    done = node("dcc", "send", file, "--hub", han.file("hub.sock"), "--wait")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "00db1234567890ff-ka" in done.stderr
