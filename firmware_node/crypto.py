"""Keys and primitives; the only file that imports ``cryptography``.

P-256 throughout; signatures are 64 octets r||s. ``Keyring`` reads the folder form of the contract
from names and contents and parses a key when it is first needed, so a folder of hundreds of
certificates costs nothing at start. No key shows in a ``repr``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import (
    Prehashed,
    decode_dss_signature,
    encode_dss_signature,
)
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.x509.oid import NameOID, ObjectIdentifier

from firmware_node.errors import ConfigError, KeyMissingError
from firmware_node.terms import EntityId, Role

KDF_ALGORITHM_ID = bytes.fromhex("60857406080300")  # gbcs.md 4.7
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_UNIQUE_ID = ObjectIdentifier("2.5.4.45")
_NAME = re.compile(r"(?:([0-9a-f]{16})-(pp-)?(ds|ka)|manufacturer-([0-9a-f]{4})-ds)\.(pem|key)")
_DIGEST = ec.ECDSA(Prehashed(hashes.SHA256()))


def _signing_algorithm() -> ec.ECDSA:
    """Deterministic ECDSA (RFC 6979) where the library can, so equal inputs give equal octets."""
    try:
        algorithm = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
        ec.derive_private_key(1, ec.SECP256R1()).sign(b"", algorithm)
    except (TypeError, UnsupportedAlgorithm):
        return ec.ECDSA(hashes.SHA256())
    return algorithm


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
        self._algorithm = _signing_algorithm()

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
        for at in range(0, whole, 16):
            self._block(data[at : at + 16])
        self._rest = data[whole:]

    def digest(self) -> bytes:
        """16 octets; the object is spent."""
        bits = self._size * 8
        if bits < 2**16:
            tail, suffix = 2, bits.to_bytes(2, "big")
        else:
            tail, suffix = 6, bits.to_bytes(4, "big") + b"\0\0"
        padded = self._rest + b"\x80"
        padded += bytes(-(len(padded) + tail) % 16) + suffix
        for at in range(0, len(padded), 16):
            self._block(padded[at : at + 16])
        return self._state

    def _block(self, block: bytes) -> None:
        # ECB of one block keyed by the state is the hash's own construction, not a cipher mode.
        cipher = Cipher(algorithms.AES(self._state), modes.ECB()).encryptor()  # noqa: S305
        mixed = int.from_bytes(cipher.update(block), "big") ^ int.from_bytes(block, "big")
        self._state = mixed.to_bytes(16, "big")


def derive_key(shared_secret: bytes, other_info: bytes) -> bytes:
    """The 16-octet message key: one round of the concatenation KDF. Source: gbcs.md 4.7."""
    return hashlib.sha256(b"\0\0\0\1" + shared_secret + other_info).digest()[:16]


def gmac(key: bytes, iv: bytes, covered: bytes) -> bytes:
    """AES-128-GMAC, first 12 octets of the tag. Source: gbcs.md 4.5."""
    encryptor = Cipher(algorithms.AES(key), modes.GCM(iv)).encryptor()
    encryptor.authenticate_additional_data(covered)
    encryptor.finalize()
    return encryptor.tag[:12]


def private_key_from(seed: bytes) -> ec.EllipticCurvePrivateKey:
    """A P-256 key derived from a seed, so that a test's keys are always the same."""
    wide = hashlib.sha512(seed).digest()
    return ec.derive_private_key(int.from_bytes(wide, "big") % (_ORDER - 1) + 1, ec.SECP256R1())


@dataclass(frozen=True, slots=True)
class CertificateInfo:
    """What a certificate says of its holder."""

    subject: str
    role: Role | None  # from OU, organisations only
    not_after: str  # RFC 3339
    serial: int
    issuer: str


class Keyring:
    """Every key of a folder, by who holds it; contract: ``DIR holds …``."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = {name: data for name, data in files.items() if _NAME.fullmatch(name)}
        self._public: dict[str, ec.EllipticCurvePublicKey] = {}
        self._private: dict[str, ec.EllipticCurvePrivateKey] = {}
        self._secrets: dict[tuple[EntityId, EntityId], bytes] = {}
        self._roles: dict[EntityId, Role | None] = {}

    def __repr__(self) -> str:
        return f"Keyring({len(self._files)} files)"

    def signing_key(self, entity_id: EntityId) -> SigningKey:
        """The private digital-signature key of ``entity_id``."""
        return SigningKey(self._private_key(f"{entity_id.hex}-ds.key"))

    def verify_key(self, entity_id: EntityId) -> VerifyKey:
        """The public digital-signature key of ``entity_id``."""
        return VerifyKey(self._public_key(f"{entity_id.hex}-ds"))

    def manufacturer_signing_key(self, code: int) -> SigningKey:
        """The private key of a manufacturer."""
        return SigningKey(self._private_key(f"manufacturer-{code:04x}-ds.key"))

    def manufacturer_verify_key(self, code: int) -> VerifyKey:
        """The public key of a manufacturer."""
        return VerifyKey(self._public_key(f"manufacturer-{code:04x}-ds"))

    def can_agree(self, entity_id: EntityId) -> bool:
        """Whether the private key-agreement key of ``entity_id`` is here."""
        return f"{entity_id.hex}-ka.key" in self._files

    def shared_secret(self, own: EntityId, peer: EntityId) -> bytes:
        """ECDH of our private and their public key-agreement key, 32 octets; computed once."""
        secret = self._secrets.get((own, peer))
        if secret is None:
            private = self._private_key(f"{own.hex}-ka.key")
            secret = private.exchange(ec.ECDH(), self._public_key(f"{peer.hex}-ka"))
            self._secrets[own, peer] = secret
        return secret

    def role(self, entity_id: EntityId) -> Role | None:
        """The role an organisation's certificate names; None: unknown, or no organisation."""
        if entity_id not in self._roles:
            found: Role | None = None
            for usage in ("ds", "ka"):
                info = self.certificate(f"{entity_id.hex}-{usage}.pem")
                if info is not None and info.role is not None:
                    found = info.role
                    break
            self._roles[entity_id] = found
        return self._roles[entity_id]

    def is_device(self, entity_id: EntityId) -> bool:
        """Whether a certificate here says that ``entity_id`` is no organisation."""
        certificates = (self.certificate(f"{entity_id.hex}-{usage}.pem") for usage in ("ds", "ka"))
        return any(info is not None and info.role is None for info in certificates)

    def find(self, role: Role) -> tuple[EntityId, ...]:
        """Every organisation of this role, sorted."""
        return tuple(who for who in self.entities() if self.role(who) is role)

    def entities(self) -> tuple[EntityId, ...]:
        """Everyone a file is named after, sorted."""
        matches = (_NAME.fullmatch(name) for name in self._files)
        names = {match[1] for match in matches if match and match[1]}
        return tuple(EntityId.parse(name) for name in sorted(names))

    def certificate(self, name: str) -> CertificateInfo | None:
        """What the certificate in file ``name`` says; None: absent, or a bare public key."""
        data = self._files.get(name)
        if data is None or b"BEGIN CERTIFICATE" not in data:
            return None
        certificate = self._load_certificate(name, data)
        roles = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME)
        role = None
        if roles:
            try:
                role = Role(int(str(roles[0].value), 16))
            except ValueError:
                role = None
        return CertificateInfo(
            subject=certificate.subject.rfc4514_string(),
            role=role,
            not_after=certificate.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%SZ"),
            serial=certificate.serial_number,
            issuer=certificate.issuer.rfc4514_string(),
        )

    def _load_certificate(self, name: str, data: bytes) -> x509.Certificate:
        try:
            return x509.load_pem_x509_certificate(data)
        except ValueError as error:
            raise ConfigError(f"{name}: no readable certificate ({error})") from error

    def _public_key(self, stem: str) -> ec.EllipticCurvePublicKey:
        if stem not in self._public:
            self._public[stem] = self._load_public(stem)
        return self._public[stem]

    def _load_public(self, stem: str) -> ec.EllipticCurvePublicKey:
        data = self._files.get(f"{stem}.pem")
        if data is None:
            return self._private_key(f"{stem}.key").public_key()
        try:
            if b"BEGIN CERTIFICATE" in data:
                key = self._load_certificate(f"{stem}.pem", data).public_key()
            else:
                key = serialization.load_pem_public_key(data)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise ConfigError(f"{stem}.pem: no readable public key") from error
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
            raise ConfigError(f"{stem}.pem: expected a P-256 key")
        return key

    def _private_key(self, name: str) -> ec.EllipticCurvePrivateKey:
        if name not in self._private:
            data = self._files.get(name)
            if data is None:
                raise KeyMissingError(f"no key {name.removesuffix('.key')} in the key folder")
            try:
                key = serialization.load_pem_private_key(data, password=None)
            except (ValueError, TypeError, UnsupportedAlgorithm):
                # Its cause could quote key material, so it is cut off.
                raise ConfigError(f"{name}: no readable private key") from None
            if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
                raise ConfigError(f"{name}: expected a P-256 key")
            self._private[name] = key
        return self._private[name]
