"""Keys and primitives; the only file that imports ``cryptography``.

P-256 throughout; signatures are 64 octets r||s. ``Keyring`` reads the folder form of the contract
from names and contents and parses a key when it is first needed, so a folder of hundreds of
certificates costs nothing at start. What was parsed or agreed once is kept. A certificate counts
for the holder and the usage of its file's name alone, and, where a moment is given, only between
its dates. No key shows in a ``repr``.
"""

from __future__ import annotations

import copy
import datetime
import functools
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from cryptography import x509
from cryptography.exceptions import (
    InvalidSignature as InvalidSignature,  # what the XML-DSig library lets through
)
from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    Prehashed,
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESCCM, AESGCM
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID, ObjectIdentifier

from firmware_node.errors import ConfigError, DecodeError, KeyMissingError
from firmware_node.terms import EntityId, Role

TAG_SIZE = 12  # octets of an AES-GCM tag that GBCS sends
KDF_ALGORITHM_ID = bytes.fromhex("60857406080300")  # gbcs.md 4.7
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_UNIQUE_ID = ObjectIdentifier("2.5.4.45")
_HARDWARE_MODULE_NAME = ObjectIdentifier("1.3.6.1.5.5.7.8.4")
_HARDWARE_TYPE = bytes.fromhex("060d2a863a0001848fb90f01020201")  # as in the reference set
_POLICY = ObjectIdentifier("1.2.826.0.1.8641679.1.2.1.4")
_NAME = re.compile(
    r"(?:([0-9a-f]{16})-(?:(pp-)?(ds|ka)|xml-ds)|manufacturer-([0-9a-f]{4})-ds)\.(pem|key)"
)
USAGE_NAMES: Final = {"ds": "digitalSignature", "ka": "keyAgreement"}
_EPOCH = datetime.datetime(2000, 1, 1)
# All that reading a certificate of somebody else's making may raise; the library answers a name
# whose attribute has an ASN.1 type that does not go with it by TypeError.
_UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
_DIGEST = ec.ECDSA(Prehashed(hashes.SHA256()))


@functools.cache
def signs_deterministically() -> bool:
    """Whether the library has deterministic ECDSA (RFC 6979); with it equal inputs sign alike."""
    try:
        algorithm = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
        ec.derive_private_key(1, ec.SECP256R1()).sign(b"", algorithm)
    except (TypeError, UnsupportedAlgorithm):
        return False
    return True


class VerifyKey:
    """A public key that checks signatures."""

    def __init__(self, key: ec.EllipticCurvePublicKey) -> None:
        self._key = key

    def is_valid(self, signature: bytes, data: bytes) -> bool:
        """Whether ``signature`` (r||s) was made over ``data``."""
        return self.is_valid_digest(signature, hashlib.sha256(data).digest())

    def is_valid_digest(self, signature: bytes, digest: bytes) -> bool:
        """The same for data already hashed with SHA-256."""
        if len(signature) != 64:
            return False
        r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
        try:
            self._key.verify(encode_dss_signature(r, s), digest, _DIGEST)
        except InvalidSignature:
            return False
        return True

    def pem(self) -> bytes:
        """The bare public key as PEM."""
        return self._key.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )


class SigningKey:
    """A private key that signs."""

    def __init__(self, key: ec.EllipticCurvePrivateKey) -> None:
        self._key = key
        self._algorithm = (
            ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
            if signs_deterministically()
            else ec.ECDSA(hashes.SHA256())
        )

    def sign(self, data: bytes) -> bytes:
        """64 octets r||s over SHA-256 of ``data``."""
        r, s = decode_dss_signature(self._key.sign(data, self._algorithm))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    @property
    def public(self) -> VerifyKey:
        """Its public half."""
        return VerifyKey(self._key.public_key())


class AesMmo:
    """The ZigBee Matyas-Meyer-Oseas hash over AES-128 (ZigBee specification B.6)."""

    def __init__(self) -> None:
        self._state = bytes(16)
        self._rest = b""
        self._size = 0

    def update(self, data: bytes) -> None:
        """Hash more octets."""
        self._size += len(data)
        data = self._rest + data
        whole = len(data) // 16 * 16
        self._state = _mmo_blocks(self._state, data[:whole])
        self._rest = data[whole:]

    def digest(self) -> bytes:
        """16 octets over everything so far; more may follow."""
        bits = self._size * 8
        if bits < 2**16:
            tail, suffix = 2, bits.to_bytes(2, "big")
        else:
            tail, suffix = 6, bits.to_bytes(4, "big") + b"\0\0"
        padded = self._rest + b"\x80"
        padded += bytes(-(len(padded) + tail) % 16) + suffix
        return _mmo_blocks(self._state, padded)


def aes_mmo(data: bytes) -> bytes:
    """The AES-MMO hash of ``data``, 16 octets."""
    mmo = AesMmo()
    mmo.update(data)
    return mmo.digest()


def _mmo_blocks(state: bytes, data: bytes) -> bytes:
    # ECB of one block keyed by the state is the hash's own construction, not a cipher mode.
    ecb = modes.ECB()  # noqa: S305
    for at in range(0, len(data), 16):
        block = data[at : at + 16]
        sealed = Cipher(algorithms.AES(state), ecb).encryptor().update(block)
        mixed = int.from_bytes(sealed, "big") ^ int.from_bytes(block, "big")
        state = mixed.to_bytes(16, "big")
    return state


def keyed_hash(key: bytes, data: bytes) -> bytes:
    """HMAC over AES-MMO: what key-transport and key-load keys are made with.

    Source: ZigBee specification B.1.4 and 4.5.3.
    """
    inner = aes_mmo(bytes(octet ^ 0x36 for octet in key) + data)
    return aes_mmo(bytes(octet ^ 0x5C for octet in key) + inner)


def install_code_key(code: bytes) -> bytes:
    """The link key of an install code given with its CRC, 8 to 18 octets.

    Raises:
        DecodeError: a size no install code has, or a wrong CRC.
    """
    if len(code) not in (8, 10, 14, 18):
        raise DecodeError("install code", len(code), "expected 6, 8, 12 or 16 octets and a CRC")
    if install_code_crc(code[:-2]) != code[-2:]:
        raise DecodeError("install code", len(code) - 2, "wrong CRC")
    return aes_mmo(code)


def install_code_crc(code: bytes) -> bytes:
    """The two octets behind an install code: CRC-16/X-25, low octet first."""
    crc = 0xFFFF
    for octet in code:
        crc ^= octet
        for _ in range(8):
            crc = crc >> 1 ^ (0x8408 if crc & 1 else 0)
    return (crc ^ 0xFFFF).to_bytes(2, "little")


class CcmStar:
    """AES-CCM* at security level 5, ZigBee's only one: encrypted, with a MIC of 4 octets.

    At this level CCM* and CCM are the same. Source: ZigBee specification A.2, 4.3.1.
    """

    def __init__(self, key: bytes) -> None:
        self._aead = AESCCM(key, tag_length=4)

    def seal(self, iv: bytes, covered: bytes, clear: bytes) -> bytes:
        """``clear`` encrypted, with the MIC behind it; the header ``covered`` only authenticated.

        The 13 octets of the IV: source EUI-64, frame counter, security control.
        """
        return self._aead.encrypt(iv, clear, covered)

    def unseal(self, iv: bytes, covered: bytes, sealed: bytes) -> bytes:
        """The clear text.

        Raises:
            DecodeError: the MIC is wrong: another key, or changed octets.
        """
        try:
            return self._aead.decrypt(iv, sealed, covered)
        except InvalidTag:
            raise DecodeError("secured frame", len(covered), "wrong MIC") from None


def derive_key(shared_secret: bytes, other_info: bytes) -> bytes:
    """The 16-octet message key: one round of the concatenation KDF. Source: gbcs.md 4.7."""
    return hashlib.sha256(b"\0\0\0\1" + shared_secret + other_info).digest()[:16]


def gmac(key: bytes, iv: bytes, covered: bytes) -> bytes:
    """AES-128-GMAC, first 12 octets of the tag. Source: gbcs.md 4.5."""
    return AESGCM(key).encrypt(iv, b"", covered)[:TAG_SIZE]


def gcm_seal(key: bytes, iv: bytes, plain: bytes, covered: bytes) -> bytes:
    """AES-128-GCM: the encrypted octets and the first 12 of the tag. Source: gbcs.md 4.7."""
    return AESGCM(key).encrypt(iv, plain, covered)[: len(plain) + TAG_SIZE]


def gcm_open(key: bytes, iv: bytes, sealed: bytes, covered: bytes) -> bytes | None:
    """What ``gcm_seal`` sealed; None: the tag is wrong."""
    if len(sealed) < TAG_SIZE:
        return None
    mode = modes.GCM(iv, sealed[-TAG_SIZE:], min_tag_length=TAG_SIZE)
    decryptor = Cipher(algorithms.AES(key), mode).decryptor()
    decryptor.authenticate_additional_data(covered)
    plain = decryptor.update(sealed[:-TAG_SIZE])
    try:
        return plain + decryptor.finalize()
    except InvalidTag:
        return None


def private_key_from(seed: bytes) -> ec.EllipticCurvePrivateKey:
    """A P-256 key derived from a seed, so that a test's keys are always the same."""
    wide = hashlib.sha512(seed).digest()
    return ec.derive_private_key(int.from_bytes(wide, "big") % (_ORDER - 1) + 1, ec.SECP256R1())


def seed_label(seed: bytes, name: str) -> bytes:
    """What a key or number of this name follows from, in a PKI that follows from a seed.

    The seed's length comes first: no other seed and name run together to the same octets.
    """
    return len(seed).to_bytes(4, "big") + seed + name.encode()


@dataclass(frozen=True, slots=True)
class SeededDevices:
    """Devices whose keys follow from a seed, as ``keys generate --seed`` makes them, and need no
    files: all those whose entity id begins with ``prefix``.
    """

    seed: bytes = field(repr=False)
    prefix: bytes

    def key(self, stem: str) -> ec.EllipticCurvePrivateKey | None:
        """The private key of a file's stem; None: of nobody here."""
        if not stem.startswith(self.prefix.hex()):
            return None
        return private_key_from(seed_label(self.seed, stem))


@dataclass(frozen=True, slots=True)
class CertificateInfo:
    """What a certificate says of its holder."""

    subject: str
    entity_id: EntityId | None  # None: it names neither an organisation nor a device
    role: Role | None  # from OU, organisations only
    not_before: str  # RFC 3339
    not_after: str  # RFC 3339
    serial: int
    issuer: str
    usages: tuple[str, ...]  # digitalSignature, keyAgreement, keyCertSign

    def outside_dates(self, at: str) -> str | None:
        """``expired …`` or ``not valid before …`` at a moment (RFC 3339); None: neither."""
        if at > self.not_after:
            return f"expired {self.not_after}"
        return f"not valid before {self.not_before}" if at < self.not_before else None


class Keyring:
    """Every key of a folder, by who holds it; contract: ``DIR holds …``.

    ``folder`` is what errors call the place that the files come from. ``devices`` have keys here
    without files; those are made anew each time, since a fleet's would fill the memory.
    """

    def __init__(
        self,
        files: Mapping[str, bytes],
        folder: str = "the key folder",
        *,
        devices: SeededDevices | None = None,
    ) -> None:
        self._folder = folder
        self._devices = devices
        self._files = {name: data for name, data in files.items() if _NAME.fullmatch(name)}
        self._public: dict[str, ec.EllipticCurvePublicKey] = {}
        self._private: dict[str, ec.EllipticCurvePrivateKey] = {}
        self._secrets: dict[tuple[EntityId, EntityId], bytes] = {}
        self._certificates: dict[str, CertificateInfo | None] = {}
        self._found: dict[Role, tuple[EntityId, ...]] = {}
        self._uncertified: tuple[EntityId, ...] | None = None
        self._misfits: dict[str, str | None] = {}
        self._at: str | None = None
        self._undated: Keyring | None = None  # the keyring that this one is a dated view of

    def at(self, utc: int | None) -> Keyring:
        """The same keys as they count at a moment, in seconds since 2000-01-01T00:00:00Z.

        There a public key whose certificate has expired or is not yet valid is missing, and its
        holder has no role by it. None: no dates are looked at, as in any keyring at first.
        """
        keyring = copy.copy(self)  # shares what is parsed or agreed
        keyring._undated, keyring._found = self._undated or self, {}
        keyring._at = None if utc is None else _rfc3339(utc)
        return keyring

    def __repr__(self) -> str:
        return f"Keyring({len(self._files)} files)"

    def signing_key(self, entity_id: EntityId) -> SigningKey:
        """The private digital-signature key of ``entity_id``."""
        return SigningKey(self._private_key(f"{entity_id.hex}-ds.key"))

    def verify_key(self, entity_id: EntityId) -> VerifyKey:
        """The public digital-signature key of ``entity_id``."""
        return VerifyKey(self._usable_key(f"{entity_id.hex}-ds"))

    def document_keys(self, entity_id: EntityId) -> tuple[str, ...]:
        """The keys that may sign XML for ``entity_id``, by the stems of their files.

        The DCC has certificates of a role of their own for that; a folder without one leaves it
        to the digital-signature key.
        """
        stems = (f"{entity_id.hex}-xml-ds", f"{entity_id.hex}-ds")
        return tuple(
            stem for stem in stems if f"{stem}.pem" in self._files or f"{stem}.key" in self._files
        )

    def document_signing_key(self, stem: str) -> SigningKey:
        """The private half of one of ``document_keys``."""
        return SigningKey(self._private_key(f"{stem}.key"))

    def document_verify_key(self, stem: str) -> VerifyKey:
        """The public half of one of ``document_keys``."""
        return VerifyKey(self._usable_key(stem))

    def manufacturer_signing_key(self, code: int) -> SigningKey:
        """The private key of a manufacturer."""
        return SigningKey(self._private_key(f"manufacturer-{code:04x}-ds.key"))

    def manufacturer_verify_key(self, code: int) -> VerifyKey:
        """The public key of a manufacturer."""
        return VerifyKey(self._public_key(f"manufacturer-{code:04x}-ds"))

    def can_agree(self, entity_id: EntityId) -> bool:
        """Whether the private key-agreement key of ``entity_id`` is here."""
        return f"{entity_id.hex}-ka.key" in self._files or self._is_seeded(entity_id)

    def shared_secret(self, own: EntityId, peer: EntityId) -> bytes:
        """ECDH of our private and their public key-agreement key, 32 octets; computed once."""
        public = self._usable_key(f"{peer.hex}-ka")
        secret = self._secrets.get((own, peer))
        if secret is None:
            secret = self._private_key(f"{own.hex}-ka.key").exchange(ec.ECDH(), public)
            self._secrets[own, peer] = secret
        return secret

    def role(self, entity_id: EntityId) -> Role | None:
        """The role an organisation's own certificate names; None: unknown, or no organisation.

        A certificate that names somebody else than its file gives no role.
        """
        if self._is_seeded(entity_id):
            return None
        for usage in ("ds", "ka"):
            info = self.certificate(f"{entity_id.hex}-{usage}.pem")
            if info is not None and info.entity_id == entity_id and info.role is not None:
                if self._at is None or info.outside_dates(self._at) is None:
                    return info.role
        return None

    def is_device(self, entity_id: EntityId) -> bool:
        """Whether a certificate here says that ``entity_id`` is no organisation."""
        if self._is_seeded(entity_id):
            return True
        certificates = (self.certificate(f"{entity_id.hex}-{usage}.pem") for usage in ("ds", "ka"))
        return any(info is not None and info.role is None for info in certificates)

    def find(self, role: Role) -> tuple[EntityId, ...]:
        """Every organisation of this role, sorted."""
        if role not in self._found:
            candidates = self._undated.find(role) if self._undated else self.entities()
            self._found[role] = tuple(who for who in candidates if self.role(who) is role)
        return self._found[role]

    def entities(self) -> tuple[EntityId, ...]:
        """Everyone a file is named after, sorted."""
        matches = (_NAME.fullmatch(name) for name in self._files)
        names = {match[1] for match in matches if match and match[1]}
        return tuple(EntityId.parse(name) for name in sorted(names))

    def uncertified(self) -> tuple[EntityId, ...]:
        """Everyone with keys here and no certificate, so nothing says what they are; sorted."""
        if self._uncertified is None:
            certified = {name[:16] for name in self._files if self.certificate(name) is not None}
            self._uncertified = tuple(w for w in self.entities() if w.hex not in certified)
        return self._uncertified

    def certificate(self, name: str) -> CertificateInfo | None:
        """What the certificate in file ``name`` says; None: absent, or a bare public key."""
        if name not in self._certificates:
            data = self._files.get(name)
            self._certificates[name] = (
                None
                if data is None or b"BEGIN CERTIFICATE" not in data
                else self._describe(name, data)
            )
        return self._certificates[name]

    def file(self, name: str) -> bytes:
        """A file as it was given, for libraries that read PEM themselves.

        Raises:
            KeyMissingError: no key file of that name.
        """
        if name not in self._files:
            raise KeyMissingError(f"no file {name} in {self._folder}")
        return self._files[name]

    def check(self, stem: str) -> None:
        """Read the key files ``stem``.pem and ``stem``.key, whichever are here.

        Raises:
            ConfigError: one is unreadable, or they are not two halves of one pair.
            KeyMissingError: neither is here.
        """
        public = self._public_key(stem)
        if f"{stem}.key" in self._files:
            if self._private_key(f"{stem}.key").public_key() != public:
                raise self._bad(stem, f"the private key does not belong to {stem}.pem")

    def objection(self, stem: str) -> str | None:
        """Why the certificate in ``stem``.pem is not used; None: nothing speaks against it.

        It may be for another holder or usage, or outside its dates where a moment is given.
        """
        if self._devices is not None and stem.startswith(self._devices.prefix.hex()):
            return None
        if stem not in self._misfits:
            self._misfits[stem] = self._misfit(stem)
        reason = self._misfits[stem]
        if reason is None and self._at is not None:
            info = self.certificate(f"{stem}.pem")
            reason = None if info is None else info.outside_dates(self._at)
        return reason

    def names(self) -> tuple[str, ...]:
        """The names of all key files, sorted."""
        return tuple(sorted(self._files))

    def _is_seeded(self, entity_id: EntityId) -> bool:
        return self._devices is not None and entity_id.octets.startswith(self._devices.prefix)

    def _bad(self, name: str, reason: str) -> ConfigError:
        return ConfigError(f"{self._folder}: {name}: {reason}")

    def _describe(self, name: str, data: bytes) -> CertificateInfo:
        try:
            # The library reads names and extensions lazily, so they fail only here.
            return _describe(self._load_certificate(name, data))
        except _UNREADABLE as error:
            raise self._bad(name, f"no readable certificate ({error})") from error

    def _load_certificate(self, name: str, data: bytes) -> x509.Certificate:
        try:
            return x509.load_pem_x509_certificate(data)
        except _UNREADABLE as error:
            raise self._bad(name, f"no readable certificate ({error})") from error

    def _usable_key(self, stem: str) -> ec.EllipticCurvePublicKey:
        reason = self.objection(stem)
        if reason is not None:
            raise KeyMissingError(f"{stem}.pem: {reason}")
        return self._public_key(stem)

    def _misfit(self, stem: str) -> str | None:
        info = self.certificate(f"{stem}.pem")
        if info is None:
            return None
        if info.entity_id is None or info.entity_id.hex != stem[:16]:
            return f"certificate names {info.entity_id}"
        if USAGE_NAMES[stem[-2:]] not in info.usages:
            return f"certificate is for {' '.join(info.usages) or 'no usage'}"
        return None

    def _public_key(self, stem: str) -> ec.EllipticCurvePublicKey:
        if self._devices is not None and (seeded := self._devices.key(stem)) is not None:
            return seeded.public_key()
        if stem not in self._public:
            self._public[stem] = self._load_public(stem)
        return self._public[stem]

    def _load_public(self, stem: str) -> ec.EllipticCurvePublicKey:
        data = self._files.get(f"{stem}.pem")
        if data is None:
            return self._private_key(f"{stem}.key").public_key()
        try:
            if b"BEGIN CERTIFICATE" in data:
                key: object = self._load_certificate(f"{stem}.pem", data).public_key()
            else:
                key = serialization.load_pem_public_key(data)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise self._bad(f"{stem}.pem", "no readable public key") from error
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
            raise self._bad(f"{stem}.pem", "expected a P-256 key")
        return key

    def _private_key(self, name: str) -> ec.EllipticCurvePrivateKey:
        stem = name.removesuffix(".key")
        if self._devices is not None and (seeded := self._devices.key(stem)) is not None:
            return seeded
        if name not in self._private:
            data = self._files.get(name)
            if data is None:
                raise KeyMissingError(f"no key {stem} in {self._folder}")
            try:
                key = serialization.load_pem_private_key(data, password=None)
            except (ValueError, TypeError, UnsupportedAlgorithm):
                # Its cause could quote key material, so it is cut off.
                raise self._bad(name, "no readable private key") from None
            if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
                raise self._bad(name, "expected a P-256 key")
            self._private[name] = key
        return self._private[name]


@dataclass(frozen=True, slots=True)
class Authority:
    """Who signs certificates. ``role`` is its OU; None in the device chain."""

    common_name: str
    role: Role | None
    key: ec.EllipticCurvePrivateKey = field(repr=False)


@dataclass(frozen=True, slots=True)
class Validity:
    """From when to when a certificate says it holds, UTC."""

    not_before: datetime.datetime
    not_after: datetime.datetime


# Device certificates never expire (gbcs.md 4.8).
NEVER_EXPIRES: Final = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)


def authority_certificate(
    subject: Authority, issuer: Authority, serial: int, validity: Validity, path_length: int
) -> bytes:
    """A root's or an issuing authority's certificate as PEM."""
    builder = _certificate(
        _authority_name(subject), subject.key.public_key(), issuer, serial, validity
    )
    builder = builder.add_extension(x509.BasicConstraints(True, path_length), critical=True)
    return _finish(builder, issuer, subject.key.public_key(), usage="cert-sign")


def organisation_certificate(
    entity_id: EntityId,
    role: Role,
    name: str,
    usage: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: Authority,
    serial: int,
    validity: Validity,
) -> bytes:
    """An organisation's certificate as PEM; ``usage`` is ``ds`` or ``ka``. Source: gbcs.md 4.8."""
    subject = x509.Name(
        (
            x509.NameAttribute(NameOID.COMMON_NAME, name),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, f"{role:02X}"),
            # A BIT STRING's content begins with its count of unused bits.
            x509.NameAttribute(_UNIQUE_ID, b"\0" + entity_id.octets, _ASN1Type.BitString),
        )
    )
    public = key.public_key()
    return _finish(_certificate(subject, public, issuer, serial, validity), issuer, public, usage)


def device_certificate(
    entity_id: EntityId,
    usage: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: Authority,
    serial: int,
    validity: Validity,
) -> bytes:
    """A device's certificate as PEM: empty subject, hardware module name. Supplement 4.4."""
    serial_number = b"\x04\x08" + entity_id.octets
    content = _HARDWARE_TYPE + serial_number
    module_name = bytes((0x30, len(content))) + content
    public = key.public_key()
    return _finish(
        _certificate(x509.Name(()), public, issuer, serial, validity),
        issuer,
        public,
        usage,
        x509.SubjectAlternativeName((x509.OtherName(_HARDWARE_MODULE_NAME, module_name),)),
    )


def private_key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The key as unencrypted PKCS#8 PEM, for the folder form."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _authority_name(authority: Authority) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, authority.common_name)]
    if authority.role is not None:
        attributes.append(
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, f"{authority.role:02X}")
        )
    return x509.Name(attributes)


def _certificate(
    subject: x509.Name,
    public: ec.EllipticCurvePublicKey,
    issuer: Authority,
    serial: int,
    validity: Validity,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(_authority_name(issuer))
        .public_key(public)
        .serial_number(serial)
        .not_valid_before(validity.not_before)
        .not_valid_after(validity.not_after)
    )


def _finish(
    builder: x509.CertificateBuilder,
    issuer: Authority,
    public: ec.EllipticCurvePublicKey,
    usage: str,
    alternative_name: x509.SubjectAlternativeName | None = None,
) -> bytes:
    """Add the extensions in the order of real certificates (supplement 4.4), sign, give PEM."""
    builder = builder.add_extension(
        x509.KeyUsage(
            digital_signature=usage == "ds",
            key_agreement=usage == "ka",
            key_cert_sign=usage == "cert-sign",
            crl_sign=usage == "cert-sign",
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            encipher_only=False,
            decipher_only=False,
        ),
        critical=True,
    ).add_extension(x509.SubjectKeyIdentifier(_key_identifier(public)), critical=False)
    if alternative_name is not None:
        builder = builder.add_extension(alternative_name, critical=True)
    # An authority's certificate must not narrow the policies below it.
    policy = ObjectIdentifier("2.5.29.32.0") if usage == "cert-sign" else _POLICY
    builder = builder.add_extension(
        x509.CertificatePolicies((x509.PolicyInformation(policy, None),)), critical=True
    ).add_extension(
        x509.AuthorityKeyIdentifier(_key_identifier(issuer.key.public_key()), None, None),
        critical=False,
    )
    if signs_deterministically():
        certificate = builder.sign(issuer.key, hashes.SHA256(), ecdsa_deterministic=True)
    else:
        certificate = builder.sign(issuer.key, hashes.SHA256())
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_identifier(public: ec.EllipticCurvePublicKey) -> bytes:
    """8 octets: 0100 and the low 60 bits of SHA-1 of the key (RFC 5280 4.2.1.2, method 2)."""
    point = public.public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )
    low = int.from_bytes(hashlib.sha1(point, usedforsecurity=False).digest()[-8:], "big")
    return (0x4 << 60 | low & (1 << 60) - 1).to_bytes(8, "big")


def certificate_info(encoded: bytes) -> CertificateInfo | None:
    """What a DER certificate says; None: it is none."""
    try:
        return _describe(x509.load_der_x509_certificate(encoded))
    except _UNREADABLE:
        return None


def _rfc3339(utc: int) -> str:
    return f"{_EPOCH + datetime.timedelta(seconds=utc):%Y-%m-%dT%H:%M:%SZ}"


def _describe(certificate: x509.Certificate) -> CertificateInfo:
    roles = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
    role = None
    if roles:
        try:
            role = Role(int(str(roles[0].value), 16))
        except ValueError:
            role = None
    return CertificateInfo(
        subject=certificate.subject.rfc4514_string(),
        entity_id=_holder(certificate),
        role=role,
        not_before=certificate.not_valid_before_utc.strftime("%Y-%m-%dT%H:%M:%SZ"),
        not_after=certificate.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%SZ"),
        serial=certificate.serial_number,
        issuer=certificate.issuer.rfc4514_string(),
        usages=_usages(certificate),
    )


def _holder(certificate: x509.Certificate) -> EntityId | None:
    """Organisations: the unique identifier; devices: the hardware module's serial number."""
    octets = b""
    for attribute in certificate.subject.get_attributes_for_oid(_UNIQUE_ID):
        if isinstance(attribute.value, bytes):
            octets = attribute.value[1:]
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        names = x509.SubjectAlternativeName(())
    for name in names:
        if isinstance(name, x509.OtherName) and name.type_id == _HARDWARE_MODULE_NAME:
            if name.value[-10:-8] == b"\x04\x08":
                octets = name.value[-8:]
    return EntityId(octets) if len(octets) == 8 else None


def _usages(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except (x509.ExtensionNotFound, ValueError):
        return ()
    flags = (
        ("digitalSignature", usage.digital_signature),
        ("keyAgreement", usage.key_agreement),
        ("keyCertSign", usage.key_cert_sign),
    )
    return tuple(name for name, is_set in flags if is_set)
