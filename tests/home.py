"""One PPMID and its hub in a world, on real files: what the flow tests tell their stories with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from firmware_node.adapters.storage import FileStorage
from firmware_node.boundary import Machine, MessageChecked, OfferImage, Storage
from firmware_node.crypto import Keyring
from firmware_node.node.device import Device
from firmware_node.rig.comms_hub import CommsHub, HubSettings
from firmware_node.rig.head_end import HeadEnd
from firmware_node.rig.world import Air, Home, SeededEntropy, World
from firmware_node.terms import (
    BankState,
    DeviceSettings,
    DeviceType,
    EntityId,
    ImageFormat,
    ImageKey,
)
from firmware_node.tools.image import build_image
from firmware_node.tools.keys import build_keys
from firmware_node.wire.manufacturer_image import Manifest

PPMID = EntityId.parse("00-DB-12-34-56-78-90-A4")
HUB = EntityId.parse("00-DB-12-34-56-78-90-A2")
ACB = EntityId.parse("90-B3-D5-1F-30-00-00-02")
SUPPLIER = EntityId.parse("90-B3-D5-1F-30-01-00-00")
KEYS = Keyring(build_keys(b"flows"))
SETTINGS = DeviceSettings(DeviceType.PPMID, PPMID, 0x121D, 0x0084, 0x1111, False)
BANK_SIZE = 64 * 1024


def image(
    version: int,
    *,
    size: int = 8000,
    kind: ImageFormat = ImageFormat.GB_PLAIN,
    change: Callable[[Manifest], Manifest] = lambda manifest: manifest,
    supplier: EntityId = SUPPLIER,
    image_type: int = 0x0084,
) -> bytes:
    """A manufacturer-signed OTA file; in the kind of SR 11.1 the supplier signs it too."""
    manifest = Manifest(
        ImageKey(0x121D, image_type, version), 0x1111, 0x1211, version_string=f"v{version}"
    )
    return build_image(
        change(manifest),
        size=size,
        kind=kind,
        manufacturer_key=KEYS.manufacturer_signing_key(0x121D),
        supplier_key=KEYS.signing_key(supplier) if kind is ImageFormat.GB_SUPPLIER_SIGNED else None,
    )


class Story:
    """A world with one home in it."""

    def __init__(
        self,
        directory: Path,
        *,
        hub: HubSettings | None = None,
        settings: DeviceSettings = SETTINGS,
        air: Air | None = None,
        seed: int = 0,
        keys: Keyring = KEYS,
    ) -> None:
        self.keys = keys
        self.directory = directory
        self.settings = settings
        self.world = World(seed, air or Air())
        self.hub = CommsHub(hub or HubSettings(HUB, ACB, utc=800_000_000), KEYS)
        self.world.set_hub(self.hub, HUB, HeadEnd(ACB, KEYS, first_counter=1000))
        self._storage: FileStorage | None = None
        self.home: Home = self.world.add(settings.entity_id, self._make)

    def _make(self) -> tuple[Machine, Storage]:
        if self._storage is not None:
            self._storage.close()
        self._storage = FileStorage(self.directory / "state", BANK_SIZE)
        factory = image(1, image_type=self.settings.image_type)
        device = Device(
            self.settings, self._storage, self.keys, SeededEntropy(1), factory_image=factory
        )
        return device, self._storage

    def offer(self, ota_file: bytes) -> None:
        """The service user's SR 11.4 reaches the hub; for another device than a PPMID, 11.1."""
        out_of_band = self.settings.type is not DeviceType.PPMID
        who = (self.settings.entity_id,)
        self.world.tell_hub(OfferImage("request", ota_file, who, out_of_band))

    @property
    def device(self) -> Device:
        """The device as it is now."""
        assert isinstance(self.home.machine, Device)
        return self.home.machine

    def messages(self) -> list[MessageChecked]:
        """What the access control broker received."""
        return [e for e in self.world.head_end_effects if isinstance(e, MessageChecked)]

    def received(self, use_case: str) -> bool:
        """Whether a message of this use case arrived."""
        return any(message.use_case == use_case for message in self.messages())

    def until(self, use_case: str, limit_ms: int = 7_200_000) -> bool:
        """Let time pass until a message of this use case arrived."""
        return self.world.run_until(lambda: self.received(use_case), limit_ms)

    def status(self) -> dict[str, object]:
        """The device's own account."""
        return self.device.status(self.world.now_ms)

    def versions(self) -> tuple[str, object, object]:
        """Running bank, and the versions of A and B."""
        status, banks = self.status(), self.device.banks_report()
        return str(status["running_bank"]), banks["A"]["version"], banks["B"]["version"]

    def bank_states(self) -> tuple[object, object]:
        """The states of A and B."""
        banks = self.device.banks_report()
        return banks["A"]["state"], banks["B"]["state"]

    def names(self) -> list[str]:
        """The device's notifications, in order."""
        return self.world.names(self.settings.entity_id)


def with_ota(**changes: object) -> DeviceSettings:
    """The settings with other numbers of the OTA client."""
    ota = replace(SETTINGS.ota, **changes)  # type: ignore[arg-type]  # names are the test's own
    return replace(SETTINGS, ota=ota)


FACTORY_ONLY = (BankState.CONFIRMED.value, BankState.EMPTY.value)
