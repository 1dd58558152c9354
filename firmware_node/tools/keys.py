"""Makes a complete test PKI for one HAN and describes the keys of a folder.

Here is which keys and certificates there are and how they hang together; reading and writing the
folder is left to the command line, which gives the private files mode 0600. Shapes: gbcs.md 4.8,
supplement 4.4; names: the folder form of the contract.

With a seed everything follows from it: keys, serial numbers, dates and, where the library signs
deterministically, every octet. Keys from a seed are test keys: who knows the seed knows them.
"""

from __future__ import annotations

import datetime
import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from firmware_node.crypto import (
    NEVER_EXPIRES,
    USAGE_NAMES,
    Authority,
    Keyring,
    SigningKey,
    Validity,
    authority_certificate,
    device_certificate,
    organisation_certificate,
    private_key_from,
    private_key_pem,
    seed_label,
)
from firmware_node.errors import ConfigError
from firmware_node.terms import EntityId, Role

SEED_SIZE = 32  # octets, when none is given
DAYS_DEFAULT = 20 * 365  # a meter's life; validity is no part of message verification
DAYS_MAX = 1000 * 365  # keeps the last year within four digits
# A seeded set must not depend on the day it is made.
SEEDED_START = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
USAGES = ("ds", "ka")


@dataclass(frozen=True, slots=True)
class Party:
    """An organisation of the PKI."""

    entity_id: EntityId
    role: Role
    name: str


# The identities of the reference messages (gbcs.md 0): ESME, GSME, CHF, GPF, PPMID, HCALCS.
DEVICES = tuple(EntityId.parse(f"00db1234567890a{last}") for last in range(6))
PARTIES = (
    Party(EntityId.parse("90b3d51f30000001"), Role.RECOVERY, "RECOVERY"),
    Party(EntityId.parse("90b3d51f30000002"), Role.ACCESS_CONTROL_BROKER, "ACB"),
    Party(EntityId.parse("90b3d51f30000004"), Role.TRANSITIONAL_COS, "TRANSCOS"),
    Party(EntityId.parse("90b3d51f30000007"), Role.WAN_PROVIDER, "WANPROVIDER"),
    Party(EntityId.parse("90b3d51f30010000"), Role.SUPPLIER, "SUPPLIER"),
    Party(EntityId.parse("90b3d51f30020000"), Role.NETWORK_OPERATOR, "NETWORKOPERATOR"),
)
MANUFACTURERS = (0x121D,)  # of the reference images


def build_keys(
    seed: bytes | None = None,
    *,
    devices: Sequence[EntityId] = DEVICES,
    parties: Sequence[Party] = PARTIES,
    manufacturers: Sequence[int] = MANUFACTURERS,
    days: int = DAYS_DEFAULT,
) -> dict[str, bytes]:
    """The files of a key folder: name to PEM, names sorted.

    Every device and party has a signing and a key-agreement pair with certificates; a manufacturer
    a signing pair with a bare public key. ``days`` bounds the organisations' certificates: from
    today, or from 2020-01-01 with a seed. The four authorities leave only their certificates.

    Raises:
        ConfigError: an entity id or manufacturer is there twice, or ``days`` is out of range.
    """
    _check_distinct(devices, parties, manufacturers)
    if not 1 <= days <= DAYS_MAX:
        raise ConfigError(f"days: expected 1 to {DAYS_MAX}, found {days}")
    start = SEEDED_START if seed is not None else _today()
    maker = _Maker(
        seed if seed is not None else secrets.token_bytes(SEED_SIZE),
        Validity(start, start + datetime.timedelta(days=days)),
        Validity(start, NEVER_EXPIRES),
    )
    files = maker.authorities()
    for party in parties:
        files |= maker.party(party)
    for device in devices:
        files |= maker.device(device)
    for code in manufacturers:
        files |= maker.manufacturer(code)
    return dict(sorted(files.items()))


@dataclass(frozen=True, slots=True)
class KeyRow:
    """One public key of a folder, as ``keys show`` tells it. Never holds a private key."""

    name: str  # without .pem or .key
    holder: str  # entity id, or manufacturer
    role: str  # role of an organisation, device, manufacturer, or unknown
    usage: str  # ds or ka
    has_private: bool
    has_certificate: bool
    not_after: str | None  # RFC 3339
    problems: tuple[str, ...]


def show(keyring: Keyring, now: datetime.datetime | None = None) -> tuple[KeyRow, ...]:
    """Describe every key of a folder, sorted by name; ``now`` (UTC) adds what its dates forbid.

    Raises:
        ConfigError: a file that is not the key or certificate its name promises.
    """
    stems = sorted({name.rpartition(".")[0] for name in keyring.names()})
    return tuple(_row(keyring, stem, now) for stem in stems)


def _row(keyring: Keyring, stem: str, now: datetime.datetime | None) -> KeyRow:
    names = keyring.names()
    keyring.check(stem)
    certificate = keyring.certificate(f"{stem}.pem")
    holder, _, usage = stem.rpartition("-")
    problems = []
    role = "unknown"
    if holder.startswith("manufacturer-"):
        role = "manufacturer"
    else:
        entity_id = EntityId.parse(holder.removesuffix("-pp").removesuffix("-xml"))
        holder = str(entity_id)
        found = keyring.role(entity_id)
        if found is not None:
            role = found.name.lower()
        elif keyring.is_device(entity_id):
            role = "device"
        if certificate is not None and certificate.entity_id != entity_id:
            problems.append(f"certificate names {certificate.entity_id}")
    if certificate is not None:
        if USAGE_NAMES[usage] not in certificate.usages:
            problems.append(f"certificate is for {' '.join(certificate.usages) or 'no usage'}")
        dates = None if now is None else certificate.outside_dates(f"{now:%Y-%m-%dT%H:%M:%SZ}")
        if dates is not None:
            problems.append(dates)
    return KeyRow(
        name=stem,
        holder=holder,
        role=role,
        usage=usage,
        has_private=f"{stem}.key" in names,
        has_certificate=certificate is not None,
        not_after=certificate.not_after if certificate is not None else None,
        problems=tuple(problems),
    )


class _Maker:
    """Derives every key and serial number of one PKI from its seed."""

    def __init__(self, seed: bytes, organisations: Validity, devices: Validity) -> None:
        self._seed = seed
        self._organisations = organisations
        self._devices = devices
        self._root = self._authority("FIRMWARE-NODE ROOT", Role.ROOT)
        self._issuing = self._authority("Z1", Role.ISSUING_AUTHORITY)
        self._device_root = self._authority("FIRMWARE-NODE DEVICE ROOT", None)
        self._device_issuing = self._authority("E1", None)

    def authorities(self) -> dict[str, bytes]:
        """The certificates above everyone else's; a folder's readers pass over these names."""
        chain = (
            ("organisation-root.pem", self._root, self._root, 1),
            ("organisation-issuing.pem", self._issuing, self._root, 0),
            ("device-root.pem", self._device_root, self._device_root, 1),
            ("device-issuing.pem", self._device_issuing, self._device_root, 0),
        )
        return {
            name: authority_certificate(
                subject, issuer, self._serial(name), self._devices, path_length
            )
            for name, subject, issuer, path_length in chain
        }

    def party(self, party: Party) -> dict[str, bytes]:
        files = {}
        for usage in USAGES:
            stem = f"{party.entity_id.hex}-{usage}"
            key = private_key_from(self._label(stem))
            files[f"{stem}.key"] = private_key_pem(key)
            files[f"{stem}.pem"] = organisation_certificate(
                party.entity_id,
                party.role,
                party.name,
                usage,
                key,
                self._issuing,
                self._serial(stem),
                self._organisations,
            )
        return files

    def device(self, device: EntityId) -> dict[str, bytes]:
        files = {}
        for usage in USAGES:
            stem = f"{device.hex}-{usage}"
            key = private_key_from(self._label(stem))
            files[f"{stem}.key"] = private_key_pem(key)
            files[f"{stem}.pem"] = device_certificate(
                device, usage, key, self._device_issuing, self._serial(stem), self._devices
            )
        return files

    def manufacturer(self, code: int) -> dict[str, bytes]:
        stem = f"manufacturer-{code:04x}-ds"
        key = private_key_from(self._label(stem))
        return {
            f"{stem}.key": private_key_pem(key),
            f"{stem}.pem": SigningKey(key).public.pem(),
        }

    def _authority(self, name: str, role: Role | None) -> Authority:
        return Authority(name, role, private_key_from(self._label(name)))

    def _serial(self, name: str) -> int:
        # 16 octets, positive and not zero, like the reference certificates.
        octets = hashlib.sha256(self._label("serial " + name)).digest()[:16]
        return int.from_bytes(octets, "big") >> 1 | 1

    def _label(self, name: str) -> bytes:
        return seed_label(self._seed, name)


def _check_distinct(
    devices: Sequence[EntityId], parties: Sequence[Party], manufacturers: Sequence[int]
) -> None:
    holders = [str(device) for device in devices]
    holders += [str(party.entity_id) for party in parties]
    holders += [f"manufacturer {code:04x}" for code in manufacturers]
    for holder in holders:
        if holders.count(holder) > 1:
            raise ConfigError(f"keys: expected every holder once, found {holder} twice")
    for code in manufacturers:
        if not 0 <= code <= 0xFFFF:
            raise ConfigError(f"manufacturer code: expected 0 to ffff, found {code:x}")


def _today() -> datetime.datetime:
    now = datetime.datetime.now(datetime.UTC)
    return now.replace(hour=0, minute=0, second=0, microsecond=0)
