"""The supply goes at every single storage call of an update, of a revert, and of provisioning."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

import pytest
from home import ACB, HUB, KEYS, PPMID, SETTINGS, image

from firmware_node.boundary import Machine, MessageChecked, OfferImage, Storage
from firmware_node.errors import RefusedError
from firmware_node.node.device import Device
from firmware_node.node.records import get_twice
from firmware_node.node.verification import verify_image
from firmware_node.rig.comms_hub import CommsHub, HubSettings
from firmware_node.rig.head_end import HeadEnd
from firmware_node.rig.memory_storage import Medium, MemoryStorage, PowerCut
from firmware_node.rig.world import Home, SeededEntropy, World
from firmware_node.terms import BankId, DeviceSettings
from firmware_node.wire.manufacturer_image import Manifest
from firmware_node.wire.ota_file import decode_ota_header

SIZE = 70_000  # more than one checkpoint interval


def bad_self_test(manifest: Manifest) -> Manifest:
    return replace(manifest, self_test=False)


FILES = {"good": image(2, size=SIZE), "reverting": image(2, size=SIZE, change=bad_self_test)}
FACTORY = image(1)


class Survivor:
    """A device on a medium whose supply goes when the plan says so."""

    def __init__(self, seed: int, settings: DeviceSettings = SETTINGS) -> None:
        self.settings = settings
        self.medium = Medium(96 * 1024, seed=seed)
        self.world = World(seed)
        hub = CommsHub(HubSettings(HUB, ACB, utc=800_000_000), KEYS)
        self.world.set_hub(hub, HUB, HeadEnd(ACB, KEYS, first_counter=1000))
        self.cuts = 0
        self.home: Home | None = None
        self.counters: list[int] = []

    def _make(self) -> tuple[Machine, Storage]:
        storage = MemoryStorage(self.medium)
        device = Device(self.settings, storage, KEYS, SeededEntropy(1), factory_image=FACTORY)
        return device, storage

    def through(self, happen: Callable[[], object]) -> None:
        """Let it happen; after a cut the device starts again, as often as it takes."""
        while True:
            try:
                happen()
            except PowerCut:
                self.cuts += 1
                self.medium.power_cycle()
                happen = self._start_again
            else:
                return

    def start(self) -> None:
        self.through(
            lambda: setattr(self, "home", self.world.add(self.settings.entity_id, self._make))
        )

    def _start_again(self) -> None:
        home = self.world.homes.get(self.settings.entity_id)
        if home is None:
            self.home = self.world.add(self.settings.entity_id, self._make)
        else:
            self.home = home
            self.world.restart(home)

    def told(self) -> bool:
        return any(
            isinstance(effect, MessageChecked) and effect.use_case == "CS09"
            for effect in self.world.head_end_effects
        )

    def update(self, file: bytes) -> None:
        offer = OfferImage("r", file, (PPMID,))
        self.through(lambda: self.world.tell_hub(offer))
        self.through(self._until_told)
        while not self.told():
            self.through(self._until_told)
        self.through(lambda: self.world.run_for(5_000))

    def _until_told(self) -> None:
        assert self.world.run_until(self.told, 24 * 3_600_000), "no alert in a day"

    def running_version(self) -> int:
        """By the bank's own bytes, verified."""
        assert self.home is not None
        device = self.home.machine
        assert isinstance(device, Device)
        bank = BankId(str(device.status(self.world.now_ms)["running_bank"]))
        octets = bytes(self.medium.banks[bank])
        size = decode_ota_header(octets).total_image_size
        try:
            return verify_image(octets[:size], self.settings, KEYS).image.file_version
        except RefusedError as error:
            raise AssertionError(f"the running bank does not verify: {error}") from error


@functools.cache
def calls_of(name: str) -> int:
    """Storage calls of an undisturbed update."""
    survivor = Survivor(0)
    survivor.start()
    survivor.update(FILES[name])
    assert survivor.cuts == 0
    return survivor.medium.calls


CASES = [(name, cut_at) for name in FILES for cut_at in range(1, calls_of(name) + 1)]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("name", "cut_at"), CASES)
def test_a_power_cut_at_any_storage_call_ends_in_the_same_place(
    name: str, cut_at: int, seed: int
) -> None:
    survivor = Survivor(seed)
    survivor.medium.cut_at = cut_at
    survivor.start()
    survivor.update(FILES[name])
    assert survivor.cuts == 1
    expected = 2 if name == "good" else 1
    assert survivor.running_version() == expected
    storage = MemoryStorage(survivor.medium)
    assert int(get_twice(storage.records, "floor")) == expected
    assert survivor.medium.ratchet is not None
    assert survivor.medium.ratchet.rollback_floor == expected
    messages = [e for e in survivor.world.head_end_effects if isinstance(e, MessageChecked)]
    alerts = [m for m in messages if m.use_case == "CS09"]
    assert {m.fields["result"] for m in alerts} == {0 if name == "good" else 1}
    assert {m.signature for m in alerts} == {"valid"}
    assert len({m.message for m in alerts}) == 1  # repeats are byte-identical


def test_a_whole_update_of_1_mib_stays_within_its_write_budget() -> None:
    survivor = Survivor(0)
    survivor.medium = Medium(1100 * 1024)
    survivor.start()
    syncs, written = survivor.medium.syncs, survivor.medium.bytes_written
    survivor.update(image(2, size=1024 * 1024))
    assert survivor.running_version() == 2
    assert survivor.medium.syncs - syncs <= 40
    assert survivor.medium.bytes_written - written <= 1.5 * 1024 * 1024
