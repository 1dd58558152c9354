"""The library of emulator images: one of each behaviour, with what a device does with it.

``LIBRARY`` is the whole of it; building, its two descriptions (``library.jsonl`` for programs,
``README.md`` for people) and the tests, which run every image in a device, all read these rows.
Everything follows from keys and seed. Files are left to the command line.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from firmware_node.crypto import Keyring
from firmware_node.errors import ConfigError
from firmware_node.terms import DeviceType, ImageFormat, ImageKey, Role
from firmware_node.tools.image import build_image
from firmware_node.tools.keys import build_keys
from firmware_node.wire.manufacturer_image import Manifest

DEVICES = (DeviceType.PPMID, DeviceType.HCALCS)
MANUFACTURER_CODE = 0x121D
IMAGE_TYPE = 0x0084
SIZE = 64 * 1024  # bytes of the manufacturer image
CRASH_AFTER_MS = 500  # sooner than any trial is confirmed


@dataclass(frozen=True, slots=True)
class LibraryImage:
    """One image and what becomes of it: ``ends`` is ``confirmed``, ``reverted`` or ``refused``."""

    name: str
    version: int
    does: str
    ends: str = "confirmed"
    cause: str | None = None
    manifest: Mapping[str, object] = field(default_factory=dict)  # what differs from a good one
    wrong_signer: bool = False

    def cause_on(self, device: DeviceType) -> str | None:
        """The cause that ``last_failure`` has then; the signature is the one of whoever counts."""
        if not self.wrong_signer:
            return self.cause
        return f"{'supplier' if device.has_supplier else 'manufacturer'}_{self.cause}"


LIBRARY = (
    LibraryImage("good", 0x00000002, "passes its self-test, is confirmed and stays"),
    LibraryImage(
        "faulty-switch",
        0x00000003,
        "is confirmed, and an HCALCS that runs it does not move its switch",
        manifest={"switch_works": False},
    ),
    LibraryImage(
        "bad-self-test",
        0x00000004,
        "fails its self-test at the first start: reverted at once",
        "reverted",
        "self_test",
        {"self_test": False},
    ),
    LibraryImage(
        "crash-loop",
        0x00000005,
        "crashes half a second after each start: reverted when its starts are used up",
        "reverted",
        "start_limit",
        {"crash_after_ms": CRASH_AFTER_MS, "confirms": False},
    ),
    LibraryImage(
        "never-confirms",
        0x00000006,
        "runs and never says that it is well: reverted when the trial has lasted too long",
        "reverted",
        "trial_limit",
        {"confirms": False},
    ),
    LibraryImage(
        "wrong-signer",
        0x00000007,
        "signed by a party the device does not know: discarded whole, nothing runs it",
        "refused",
        "signature_wrong",
        wrong_signer=True,
    ),
    LibraryImage(
        "newer",
        0x00000008,
        "can be gone to from every other; mends what faulty-switch broke",
    ),
)


def build_library(
    keyring: Keyring,
    *,
    seed: int = 0,
    size: int = SIZE,
    devices: tuple[DeviceType, ...] = DEVICES,
    only: Sequence[str] = (),
) -> dict[str, bytes]:
    """Every file of the library by its path, descriptions included; ``only`` these images' names.

    A PPMID's images are plain, an HCALCS's signed by the keyring's first supplier.

    Raises:
        ConfigError: ``size`` is too small, or there is no such image.
        KeyMissingError: the keyring lacks the manufacturer's or the supplier's signing key.
    """
    if not keyring.find(Role.SUPPLIER):
        raise ConfigError("image library: expected a supplier among the keys, found none")
    if unknown := sorted({*only} - {row.name for row in LIBRARY}):
        names = ", ".join(row.name for row in LIBRARY)
        raise ConfigError(f"image library: found {unknown[0]!r}, expected one of {names}")
    rows = [row for row in LIBRARY if not only or row.name in only]
    stranger = Keyring(build_keys(f"stranger {seed}".encode(), devices=()))
    files: dict[str, bytes] = {}
    lines: list[dict[str, object]] = []
    for device in devices:
        for row in rows:
            path = f"{device.value}/{row.name}.ota"
            files[path] = _build(row, device, keyring, stranger, seed, size)
            lines.append(_line(row, device, path))
    files["library.jsonl"] = "".join(json.dumps(line) + "\n" for line in lines).encode()
    files["README.md"] = _readme(devices, rows).encode()
    return files


def table(rows: Sequence[LibraryImage] = LIBRARY) -> str:
    """The rows for people, in Markdown."""
    head = "| image | version | what a device does with it | ends |\n|---|---|---|---|\n"
    return head + "".join(
        f"| `{row.name}` | {row.version:08x} | {row.does} | {_end(row)} |\n" for row in rows
    )


def _build(
    row: LibraryImage,
    device: DeviceType,
    keyring: Keyring,
    stranger: Keyring,
    seed: int,
    size: int,
) -> bytes:
    image = ImageKey(MANUFACTURER_CODE, IMAGE_TYPE, row.version)
    good = Manifest(image, 0x0000, 0xFFFF, version_string=f"{row.version:08x} {row.name}"[:16])
    manifest = replace(good, **row.manifest)  # type: ignore[arg-type]  # the names are the rows' own
    # Of a device with a supplier it is the supplier's signature that is a stranger's.
    manufacturer = stranger if row.wrong_signer and not device.has_supplier else keyring
    signer = stranger if row.wrong_signer else keyring
    supplier = signer.find(Role.SUPPLIER)[0]
    return build_image(
        manifest,
        size=size,
        kind=ImageFormat.GB_SUPPLIER_SIGNED if device.has_supplier else ImageFormat.GB_PLAIN,
        header_string=f"library {row.name}"[:32],
        seed=seed ^ row.version,
        manufacturer_key=manufacturer.manufacturer_signing_key(MANUFACTURER_CODE),
        supplier_key=signer.signing_key(supplier) if device.has_supplier else None,
    )


def _line(row: LibraryImage, device: DeviceType, path: str) -> dict[str, object]:
    return {
        "file": path,
        "name": row.name,
        "device": device.value,
        "version": f"{row.version:08x}",
        "does": row.does,
        "ends": row.ends,
        "cause": row.cause_on(device),
    }


def _end(row: LibraryImage) -> str:
    return row.ends if row.cause is None else f"{row.ends} ({row.cause})"


def _readme(devices: tuple[DeviceType, ...], rows: Sequence[LibraryImage]) -> str:
    folders = " and ".join(f"`{device.value}/`" for device in devices)
    return (
        "# Emulator images\n\n"
        f"Firmware for emulated devices, manufacturer {MANUFACTURER_CODE:04X}, image type "
        f"{IMAGE_TYPE:04X}, one file of each in {folders}. `library.jsonl` says the same to "
        f"programs.\n\n{table(rows)}\n"
        "Flash one with `firmware-node image load FILE --activate`, or distribute it with "
        "`firmware-node dcc request`.\nThe device must hold the keys that the images were built "
        "with.\n"
    )
