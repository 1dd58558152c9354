"""Each named bad image, by three ways: what is answered, and that the banks stay as they were."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from careless_server import CarelessServer
from home import FACTORY_ONLY, HUB, KEYS, SETTINGS, Story, image

from firmware_node.boundary import Answer, LoadImage
from firmware_node.terms import DeviceSettings, DeviceType, EntityId, ImageFormat, ImageKey
from firmware_node.tools.image import MUTATIONS, build_image, mutate
from firmware_node.wire.manufacturer_image import Manifest
from firmware_node.wire.ota_file import TOTAL_SIZE_OFFSET, OtaHeader, build_gb_plain
from firmware_node.wire.zcl import Status

SUPPLIER = EntityId.parse("90-B3-D5-1F-30-01-00-00")
LIMIT_MS = 1_200_000
KEY = ImageKey(0x121D, 0x0084, 2)

# What a device says to its server: the frame, and the status in it.
REFUSED_OFFER = ("default response", Status.INVALID_VALUE)  # to the Query Next Image Response
NO_SPACE = ("default response", Status.INSUFFICIENT_SPACE)
REFUSED_FILE = ("upgrade end request", Status.INVALID_IMAGE)


@dataclass(frozen=True)
class Case:
    """A mutation, and what becomes of it."""

    answer: tuple[str, Status]
    cause: str  # of ``last_failure``
    ccs08: int | None  # by a careful hub; None: it has nothing to tell before its time-out
    blocks: int | None = None  # at most; None: the whole file was asked for


CASES = {
    "wrong-hash": Case(REFUSED_FILE, "manufacturer_signature_wrong", 3),
    "truncated": Case(REFUSED_FILE, "not_as_offered", 1, 2),
    "trailing-bytes": Case(REFUSED_FILE, "not_as_offered", 1, 2),
    "length-overflow": Case(REFUSED_FILE, "manifest_malformed", 3),
    "zero-length": Case(REFUSED_FILE, "image_malformed", 1, 2),
    "wrong-manufacturer": Case(REFUSED_OFFER, "other_image", None, 0),
    "wrong-type": Case(REFUSED_OFFER, "other_image", None, 0),
    "hardware-out-of-range": Case(REFUSED_FILE, "hardware_out_of_range", 2, 2),
    "downgrade": Case(REFUSED_FILE, "downgrade", 3, 0),
    "flipped-bit": Case(REFUSED_FILE, "manufacturer_signature_wrong", 3),
    "bad-signature": Case(REFUSED_FILE, "manufacturer_signature_wrong", 3),
    "endless-file": Case(NO_SPACE, "image_too_large", 1, 0),
}
# Where another shape of file has something else that notices.
OTHERWISE = {
    ("wrong-hash", ImageFormat.ZIGBEE): "integrity_code_wrong",
    ("flipped-bit", ImageFormat.ZIGBEE): "integrity_code_wrong",
    ("bad-signature", ImageFormat.ZIGBEE): "integrity_code_wrong",
    ("length-overflow", ImageFormat.ZIGBEE): "image_malformed",
    ("bad-signature", ImageFormat.GB_SUPPLIER_SIGNED): "supplier_signature_wrong",
}


def good(kind: ImageFormat) -> bytes:
    supplied = kind is ImageFormat.GB_SUPPLIER_SIGNED
    return build_image(
        Manifest(KEY, 0x1111, 0x1211),
        size=8000,
        kind=kind,
        manufacturer_key=KEYS.manufacturer_signing_key(0x121D),
        supplier_key=KEYS.signing_key(SUPPLIER) if supplied else None,
    )


def taker(kind: ImageFormat) -> DeviceSettings:
    """A device that takes this kind: only who has a supplier looks for that one's signature."""
    supplied = kind is ImageFormat.GB_SUPPLIER_SIGNED
    return replace(SETTINGS, type=DeviceType.HCALCS) if supplied else SETTINGS


def stays_as_it_was(story: Story) -> None:
    """The running bank to the octet, the spare one empty."""
    assert story.versions() == ("A", "00000001", None)
    assert story.bank_states() == FACTORY_ONLY
    octets = (story.directory / "state" / "bank_a.img").read_bytes()
    assert octets.startswith(image(1)) and not any(octets[len(image(1)) :])


def served(
    tmp_path: Path, data: bytes, *, size: int | None = None, settings: DeviceSettings = SETTINGS
) -> tuple[Story, CarelessServer]:
    """What a careless server makes of it."""
    story = Story(tmp_path, settings=settings)
    server = CarelessServer(data, size=len(data) if size is None else size)
    story.world.set_hub(server, HUB)
    story.world.run_for(LIMIT_MS)
    return story, server


def test_every_mutation_has_its_case() -> None:
    assert CASES.keys() == MUTATIONS.keys()


@pytest.mark.parametrize("kind", ImageFormat)
@pytest.mark.parametrize("name", CASES)
def test_a_bad_image_of_a_careless_server_is_answered_and_the_banks_stay(
    tmp_path: Path, name: str, kind: ImageFormat
) -> None:
    case, data = CASES[name], mutate(good(kind), name)
    endless = case.answer == NO_SPACE
    size = int.from_bytes(data[TOTAL_SIZE_OFFSET : TOTAL_SIZE_OFFSET + 4], "little")
    story, server = served(tmp_path, data, size=size if endless else None, settings=taker(kind))
    assert server.answers == [case.answer]
    assert server.blocks <= (-(-len(data) // 50) if case.blocks is None else case.blocks)
    failure = story.status()["last_failure"]
    assert isinstance(failure, dict)
    assert failure["cause"] == OTHERWISE.get((name, kind), case.cause)
    stays_as_it_was(story)


@pytest.mark.parametrize("kind", ImageFormat)
def test_a_server_that_runs_out_of_a_truncated_file_is_the_one_who_aborts(
    tmp_path: Path, kind: ImageFormat
) -> None:
    whole = good(kind)
    story, server = served(
        tmp_path, mutate(whole, "truncated"), size=len(whole), settings=taker(kind)
    )
    assert (server.answers, server.aborts) == ([], 1)
    failure = story.status()["last_failure"]
    assert isinstance(failure, dict) and failure["cause"] == "server_abort"
    stays_as_it_was(story)


@pytest.mark.parametrize("kind", ImageFormat)
def test_an_endless_file_that_is_offered_as_a_short_one_is_noticed_in_its_header(
    tmp_path: Path, kind: ImageFormat
) -> None:
    story, server = served(tmp_path, mutate(good(kind), "endless-file"), settings=taker(kind))
    assert server.answers == [REFUSED_FILE]
    assert server.blocks <= 2
    stays_as_it_was(story)


@pytest.mark.parametrize("name", ["wrong-hash", "flipped-bit"])
def test_what_a_vendors_unsigned_image_does_not_show_a_device_may_demand_a_signature_for(
    tmp_path: Path, name: str
) -> None:
    header = OtaHeader(KEY, hardware_version_min=0x1111, hardware_version_max=0x1211)
    data = mutate(build_gb_plain(header, b"a vendor's own" * 100), name)
    strict = replace(SETTINGS, manufacturer_signature_required=True)
    story, server = served(tmp_path, data, settings=strict)
    assert server.answers == [REFUSED_FILE]
    failure = story.status()["last_failure"]
    assert isinstance(failure, dict) and failure["cause"] == "manufacturer_signature_absent"
    stays_as_it_was(story)


@pytest.mark.parametrize("name", CASES)
def test_a_bad_image_offered_by_a_careful_hub_ends_in_its_alert_and_the_banks_stay(
    tmp_path: Path, name: str
) -> None:
    story = Story(tmp_path)
    story.offer(mutate(good(ImageFormat.GB_PLAIN), name))
    story.world.run_for(LIMIT_MS)
    told = [(m.use_case, m.fields["response_code"], m.signature) for m in story.messages()]
    ccs08 = CASES[name].ccs08
    assert told == ([] if ccs08 is None else [("CCS08", ccs08, "valid")])
    stays_as_it_was(story)


@pytest.mark.parametrize("kind", ImageFormat)
@pytest.mark.parametrize("name", CASES)
def test_a_bad_image_flashed_by_the_operator_is_refused_in_words(
    tmp_path: Path, name: str, kind: ImageFormat
) -> None:
    story = Story(tmp_path)
    answer = story.world.tell(story.home, LoadImage(mutate(good(kind), name), activate=True))[0]
    assert isinstance(answer, Answer) and not answer.done
    assert answer.text
    stays_as_it_was(story)
