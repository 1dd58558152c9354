"""The supply goes at every storage call between a CS06 command and the word on its outcome."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import replace

import pytest
from home import ACB, KEYS, SETTINGS, SUPPLIER, image
from test_power_cuts import Survivor

from firmware_node.boundary import CarryMessage, MessageChecked, OfferImage
from firmware_node.node.records import get_twice
from firmware_node.rig.memory_storage import MemoryStorage
from firmware_node.sealing import seal_critical
from firmware_node.terms import DeviceType, EntityId, ImageFormat
from firmware_node.wire import firmware_messages as fm
from firmware_node.wire.gbcs import Cra, GroupingHeader, decode_message
from firmware_node.wire.ota_file import decode_ota_file

HCALCS = EntityId.parse("00-DB-12-34-56-78-90-A5")
HCALCS_SETTINGS = replace(SETTINGS, type=DeviceType.HCALCS, entity_id=HCALCS)
SIGNED = ImageFormat.GB_SUPPLIER_SIGNED
FILES = {
    True: image(2, kind=SIGNED),
    False: image(2, kind=SIGNED, change=lambda manifest: replace(manifest, self_test=False)),
}
DATES = {"now": None, "dated": 800_000_000 + 600, "passed": 799_999_000}
LIMIT_MS = 3 * 3_600_000


class Commanded(Survivor):
    """An HCALCS that holds an image and is commanded to activate it."""

    def __init__(self, seed: int, good: bool, form: str) -> None:
        super().__init__(seed, HCALCS_SETTINGS)
        self.file, self.form = FILES[good], form
        self.counter = 1000

    def hold(self) -> None:
        """The image arrives and is told of; nothing is cut before."""
        self.start()
        self.world.tell_hub(OfferImage("r", self.file, (HCALCS,), out_of_band=True))
        assert self.world.run_until(lambda: bool(self.messages(fm.RECEIPT_ALERT_GBZ)), LIMIT_MS)
        self.world.run_for(5_000)

    def messages(self, code: int) -> list[MessageChecked]:
        return [
            effect
            for effect in self.world.head_end_effects
            if isinstance(effect, MessageChecked)
            and decode_message(effect.message).header.message_code == code
        ]

    def outcomes(self) -> set[tuple[bytes, int]]:
        """Every different message on an outcome, with its code."""
        found = set()
        for checked in self.messages(fm.CS06_ALERT):
            alert = fm.decode_cs06_alert(decode_message(checked.message).payload)
            found.add((checked.message, alert.outcome.response_code))
        for checked in self.messages(fm.CS06_ACTIVATE_FIRMWARE):
            outcome = fm.decode_cs06_response(decode_message(checked.message).payload)
            if outcome is not None:
                found.add((checked.message, outcome.response_code))
        return found

    def is_accepted(self) -> bool:
        held = MemoryStorage(self.medium).records
        return int(get_twice(held, "counter/received/002")) == self.counter

    def command(self) -> None:
        """Send it; a command that was cut off before it was accepted is sent again, anew."""
        while not self.is_accepted():
            self.counter += 1
            span = decode_ota_file(self.file).manufacturer_image
            sha256 = hashlib.sha256(self.file[span.offset : span.end]).digest()
            request = fm.ActivateFirmware(sha256, self.counter, DATES[self.form])
            code = fm.CS06_ACTIVATE_FIRMWARE
            header = GroupingHeader(Cra.COMMAND, self.counter, SUPPLIER, HCALCS, code)
            message = seal_critical(
                header,
                fm.encode_cs06_command(request),
                KEYS.signing_key(SUPPLIER),
                KEYS,
                ACB,
                HCALCS,
            )
            self.through(lambda message=message: self.tell(message))  # type: ignore[misc]
            self.through(lambda: self.world.run_until(self.is_accepted, 600_000))
            self.through(lambda: self.world.run_for(2_000))
        while not self.outcomes():
            self.through(self._until_told)
        for _ in range(2):  # the cut may be in the first
            self.through(lambda: self.world.run_for(5_000))

    def tell(self, message: bytes) -> None:
        self.world.tell_hub(CarryMessage(HCALCS, message))

    def _until_told(self) -> None:
        assert self.world.run_until(lambda: bool(self.outcomes()), LIMIT_MS)


@functools.cache
def calls_of(good: bool, form: str) -> tuple[int, int]:
    """The storage calls of an undisturbed command: the first and the last."""
    survivor = Commanded(0, good, form)
    survivor.hold()
    first = survivor.medium.calls
    survivor.command()
    return first + 1, survivor.medium.calls


CASES = [
    (good, form, cut_at)
    for good in (True, False)
    for form in DATES
    for cut_at in range(calls_of(good, form)[0], calls_of(good, form)[1] + 1)
]


@pytest.mark.parametrize(("good", "form", "cut_at"), CASES)
def test_a_cut_anywhere_in_a_command_leaves_one_activation_and_one_word_on_it(
    good: bool, form: str, cut_at: int
) -> None:
    survivor = Commanded(cut_at, good, form)
    survivor.hold()
    survivor.medium.cut_at = cut_at
    survivor.command()
    assert survivor.cuts == 1
    assert survivor.running_version() == (2 if good else 1)
    assert [code for _, code in survivor.outcomes()] == [0 if good else 3]
    storage = MemoryStorage(survivor.medium)
    assert int(get_twice(storage.records, "floor")) == (2 if good else 1)
    assert storage.records.keys("activation/schedule") == []
    assert storage.records.keys("outbox/") == []
    again = survivor.messages(fm.CS06_ACTIVATE_FIRMWARE) + survivor.messages(fm.CS06_ALERT)
    assert {checked.signature for checked in again} == {"valid"}
