"""What all homes of a fleet share: the PKI, the images, and one copy of every page of them.

Everything follows from the plan and its seed, so each process makes its own stock and gets the
same octets.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from firmware_node.boundary import PAGE_SIZE
from firmware_node.crypto import Keyring, SeededDevices
from firmware_node.errors import ConfigError, DecodeError
from firmware_node.fleet.terms import ENTITY_PREFIX, ImageSpec, Plan
from firmware_node.terms import (
    ActivationSettings,
    DeviceSettings,
    DeviceType,
    EntityId,
    ImageFormat,
    ImageKey,
    OtaSettings,
    Role,
)
from firmware_node.tools.image import build_image
from firmware_node.tools.keys import build_keys
from firmware_node.tools.library import LIBRARY, MANUFACTURER_CODE
from firmware_node.wire.manufacturer_image import Manifest
from firmware_node.wire.ota_file import decode_ota_file

HARDWARE_VERSION: Final = 0x1111
IMAGE_TYPES: Final = {DeviceType.PPMID: 0x0084, DeviceType.HCALCS: 0x0085}
# A fleet's devices share a disk or a memory: they write less often (dual-bank.md 4, step 2).
CHECKPOINT_INTERVAL_S: Final = 300


@dataclass(frozen=True, slots=True)
class Ware:
    """One image of the plan, ready to be served."""

    spec: ImageSpec
    ota_file: bytes
    manufacturer_sha256: bytes  # what CS06 names


class Stock:
    """See the module. ``files`` has the octets of the images that the plan takes from files."""

    def __init__(self, plan: Plan, files: Mapping[str, bytes] | None = None) -> None:
        self._plan = plan
        seed = f"fleet {plan.shape.seed}".encode()
        self.keyring = Keyring(
            build_keys(seed, devices=()), devices=SeededDevices(seed, ENTITY_PREFIX)
        )
        self._stranger = Keyring(build_keys(b"stranger " + seed, devices=()))
        self.acb = self.keyring.find(Role.ACCESS_CONTROL_BROKER)[0]
        self.supplier = self.keyring.find(Role.SUPPLIER)[0]
        self.supplier_key = self.keyring.signing_key(self.supplier)
        self.factory = {
            kind: self._built(ImageSpec("factory", kind, plan.factory_version, plan.factory_size))
            for kind, _ in plan.shape.devices
        }
        self.wares: dict[str, Ware] = {}
        for spec in plan.images:
            octets = self._built(spec) if spec.file is None else (files or {})[spec.name]
            self.wares[spec.name] = _ware(spec, octets)
        files_held = [*self.factory.values(), *(ware.ota_file for ware in self.wares.values())]
        self.bank_size = max(len(octets) for octets in files_held)
        self._pages: dict[bytes, bytes] = {}
        for octets in files_held:
            for at in range(0, len(octets), PAGE_SIZE):
                page = octets[at : at + PAGE_SIZE].rstrip(b"\0")
                self._pages.setdefault(page, page)
        self._ota = OtaSettings(block_size=plan.block_size, page_size=plan.page_size)
        self._activation = ActivationSettings(checkpoint_interval_s=CHECKPOINT_INTERVAL_S)

    def share(self, page: bytes) -> bytes:
        """The one copy of a page of an image; any other page is the device's own."""
        return self._pages.get(page, page)

    def settings(self, kind: DeviceType, entity_id: EntityId) -> DeviceSettings:
        """Of one device; all but its name is shared."""
        return DeviceSettings(
            kind,
            entity_id,
            MANUFACTURER_CODE,
            IMAGE_TYPES[kind],
            HARDWARE_VERSION,
            manufacturer_signature_required=True,
            ota=self._ota,
            activation=self._activation,
        )

    def _built(self, spec: ImageSpec) -> bytes:
        rows = {row.name: row for row in LIBRARY}
        row = rows[spec.behaviour]
        key = ImageKey(MANUFACTURER_CODE, IMAGE_TYPES[spec.type], spec.version)
        text = f"{spec.version:08x} {spec.name}"[:16]
        good = Manifest(key, HARDWARE_VERSION, HARDWARE_VERSION, version_string=text)
        signed = spec.type.has_supplier
        # Of a device with a supplier it is the supplier's signature that is a stranger's.
        maker = self._stranger if row.wrong_signer and not signed else self.keyring
        signer = self._stranger if row.wrong_signer else self.keyring
        return build_image(
            replace(good, **row.manifest),  # type: ignore[arg-type]  # the library's own names
            size=spec.size,
            kind=ImageFormat.GB_SUPPLIER_SIGNED if signed else ImageFormat.GB_PLAIN,
            header_string=f"fleet {spec.name}"[:32],
            seed=self._plan.shape.seed ^ spec.version,
            manufacturer_key=maker.manufacturer_signing_key(MANUFACTURER_CODE),
            supplier_key=(signer.signing_key(signer.find(Role.SUPPLIER)[0]) if signed else None),
        )


def check_images(plan: Plan, files: Mapping[str, bytes]) -> None:
    """Whether the images that a plan takes from files are what it says.

    Raises:
        ConfigError: one is not.
    """
    for spec in plan.images:
        if spec.file is not None:
            _ware(spec, files[spec.name])


def _ware(spec: ImageSpec, octets: bytes) -> Ware:
    kind = ImageFormat.GB_SUPPLIER_SIGNED if spec.type.has_supplier else ImageFormat.GB_PLAIN
    try:
        image = decode_ota_file(octets, kind)
    except DecodeError as error:
        raise ConfigError(f"image {spec.name}: {error}") from error
    found = image.header.image.file_version
    if found != spec.version:
        raise ConfigError(
            f"image {spec.name}: expected file version {spec.version:08x}, found {found:08x}"
        )
    span = image.manufacturer_image
    digest = hashlib.sha256(octets[span.offset : span.end]).digest()
    return Ware(spec, octets, digest)
