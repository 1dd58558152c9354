"""Our hub and our devices on virtual sticks, strict Smart Energy on the air between them."""

from __future__ import annotations

import hashlib

import pytest
from han import Han, confirmed, han, until
from home import image
from tshark import assert_well_formed, dissect, needs_tshark

from firmware_node.terms import ImageFormat
from firmware_node.wire.ota_file import decode_ota_file

SIZE = 30_000  # bytes of the manufacturer image
NEW = image(2, size=SIZE)


def sha256_of(file: bytes) -> str:
    """Of the manufacturer image, as banks are told and CS06 names it; 64 hex digits."""
    span = decode_ota_file(file).manufacturer_image
    return hashlib.sha256(file[span.offset : span.end]).hexdigest()


@pytest.mark.parametrize("product", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_ppmid_and_a_switch_are_updated_at_once(product: int) -> None:
    switch = image(2, size=SIZE, kind=ImageFormat.GB_SUPPLIER_SIGNED, image_type=0x0085)
    with han() as home:
        for owner in ("hub", "ppmid", "hcalcs"):
            home.stick(owner, f"--product={product}")
        home.hub()
        home.device("ppmid")
        home.device("hcalcs", 'role = "router"')
        until(lambda: home.joined("ppmid") and home.joined("hcalcs"), "both join")
        assert home.joined("ppmid") != home.joined("hcalcs")
        home.offer(NEW, "ppmid")
        home.offer(switch, "hcalcs", reference="11.1")
        until(lambda: "8F72" in {m.get("alert_code") for m in home.messages()}, "the receipt")
        home.activate("hcalcs", bytes.fromhex(sha256_of(switch)))
        until(lambda: confirmed(home, "ppmid") and confirmed(home, "hcalcs"), "both confirm")
        until(
            lambda: {"CS09", "CS06"} <= {m["use_case"] for m in home.messages()},
            "both tell how it ended",
        )
        assert home.bank("ppmid", "B")["sha256"] == sha256_of(NEW)
        assert home.bank("hcalcs", "B")["sha256"] == sha256_of(switch)
        for message in home.messages():
            assert "invalid" not in (message["signature"], message["mac"])


FAULTS = {
    "loss, duplicates and another order": (
        ["--loss=0.05", "--duplication=0.05", "--reordering=0.05", "--seed=5"],
        [],
    ),
    "the device's stick resets": ([], ["--fault=reset-at:150"]),
    "the hub's stick resets": (["--fault=reset-at:150"], []),
    "the device's cable is pulled": ([], ["--fault=vanish-at:150:1500"]),
    "the hub's cable is pulled": (["--fault=vanish-at:150:1500"], []),
    "answers and buffers fail": (["--fault=buffer-full:100"], ["--fault=no-srsp:100"]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_update_completes_all_the_same(fault: str) -> None:
    of_hub, of_device = FAULTS[fault]
    with han() as home:
        home.stick("hub", *of_hub)
        home.stick("ppmid", *of_device)
        home.hub()
        home.device("ppmid")
        until(lambda: home.joined("ppmid"), "joins")
        home.offer(NEW, "ppmid")
        until(lambda: confirmed(home, "ppmid"), "confirms")
        assert home.bank("ppmid", "B")["sha256"] == sha256_of(NEW)
        assert happened(home, fault), home.errors("ppmid") + home.errors("hub")


def happened(home: Han, fault: str) -> bool:
    """The fault was there, or the test has proved nothing."""
    told = home.errors("hub") + home.errors("ppmid")
    kinds = [option.split("=")[1].split(":")[0] for side in FAULTS[fault] for option in side]
    counted: dict[str, int] = {}
    for owner in ("hub", "ppmid"):
        home.stop(owner)
        home.stop(f"{owner}.stick")
        counted |= home.counters(owner)
    match fault.rpartition(" ")[2]:
        case "resets":
            return "the stick was reset" in told
        case "pulled":
            return "is back" in told
        case "fail":
            return all(counted[f"fault_{kind}"] == 1 for kind in kinds)
    return counted["frames_not_acknowledged"] > 0


@needs_tshark
def test_a_capture_of_a_whole_update_is_read_by_tshark() -> None:
    with han() as home:
        capture = home.root / "air.pcap"
        home.stick("hub", f"--pcap={capture}")
        home.stick("ppmid")
        home.hub()
        home.device("ppmid")
        until(lambda: home.joined("ppmid"), "joins")
        file = image(2, size=4000)
        home.offer(file, "ppmid")
        until(lambda: confirmed(home, "ppmid"), "confirms")
        home.stop("hub.stick")
        assert_well_formed(capture)
        told = "zbee_zcl_general.ota.cmd.srv_tx.id", "zbee_zcl_general.ota.cmd.srv_rx.id"
        seen = {
            (which, int(line[0], 0)) for which in told for line in dissect(capture, which, which)
        }
        assert {(told[0], each) for each in (0x02, 0x05, 0x07)} <= seen  # the server's answers
        assert {(told[1], each) for each in (0x01, 0x03, 0x06)} <= seen  # what they answer
        found = bytearray(len(file))
        for offset, data in dissect(
            capture,
            "zbee_zcl_general.ota.cmd.srv_tx.id == 0x05",
            "zbee_zcl_general.ota.file.offset",
            "zbee_zcl_general.ota.image.data",
        ):
            block = bytes.fromhex(data.replace(":", ""))
            found[int(offset, 0) : int(offset, 0) + len(block)] = block
        assert bytes(found) == file
