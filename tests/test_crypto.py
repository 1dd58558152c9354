"""Keys and primitives, held against outside vectors and the ``openssl`` command."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vectors import VECTORS, needs_vectors, reference_keys

from firmware_node.crypto import (
    KDF_ALGORITHM_ID,
    AesMmo,
    Keyring,
    SigningKey,
    VerifyKey,
    aes_mmo,
    derive_key,
    gcm_open,
    gcm_seal,
    gmac,
    private_key_from,
    private_key_pem,
    signs_deterministically,
)
from firmware_node.errors import ConfigError, KeyMissingError
from firmware_node.terms import EntityId, Role
from firmware_node.tools.keys import build_keys

BROKER = EntityId.parse("90b3d51f30000002")
SUPPLIER = EntityId.parse("90b3d51f30010000")
ESME = EntityId.parse("00db1234567890a0")
PPMID = EntityId.parse("00db1234567890a4")
STRANGER = EntityId.parse("1122334455667788")
KEYS = build_keys(b"test_crypto")

needs_openssl = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="the openssl command is absent; install openssl"
)


def mmo_cases() -> list[tuple[str, str]]:
    path = VECTORS / "cbke" / "mmo_hash.json"
    if not path.is_file():
        return []
    return [(case["message"], case["hash"]) for case in json.loads(path.read_text())["hash"]]


def mmo_message(text: str) -> bytes:
    """Hexadecimal digits, or ``bytes 00..ff repeating, N octets``."""
    if not text.startswith("bytes"):
        return bytes.fromhex(text)
    size = int(text.split()[-2])
    return (bytes(range(256)) * (size // 256 + 1))[:size]


@needs_vectors
def test_mmo_hash_of_every_vector_is_right() -> None:
    cases = mmo_cases()
    assert len(cases) == 7
    for text, expected in cases:
        assert aes_mmo(mmo_message(text)).hex() == expected, text


@given(st.lists(st.binary(max_size=70), max_size=8))
def test_mmo_hash_does_not_depend_on_how_the_octets_arrive(parts: list[bytes]) -> None:
    mmo = AesMmo()
    for part in parts:
        mmo.update(part)
        mmo.digest()  # asked early, it changes nothing
    assert mmo.digest() == aes_mmo(b"".join(parts))


@pytest.mark.parametrize("size", [0, 13, 14, 15, 16, 17, 8190, 8191, 8192, 8201, 8202])
def test_mmo_padding_separates_neighbouring_sizes(size: int) -> None:
    assert aes_mmo(bytes(size)) != aes_mmo(bytes(size + 1))


@needs_vectors
@pytest.mark.parametrize(
    ("own", "peer", "other_info", "expected"),
    [
        (
            BROKER,
            ESME,
            "6085740608030090b3d51f30010000090100000000000003e800db1234567890a0",
            "ec1d51bd8f8bf0cdd2314cf396cc12c0",
        ),
        (
            BROKER,
            PPMID,
            "6085740608030090b3d51f300000020901000000000000051400db1234567890a4",
            "d87c9e7c836010dc3ed75d0c1e1252a0",
        ),
        (
            BROKER,
            PPMID,
            "6085740608030000db1234567890a40902000000000000051490b3d51f30000002",
            "cfbafadb1d03cc0b4e2d06535aeabb71",
        ),
    ],
)
def test_worked_key_of_the_fact_sheet(
    own: EntityId, peer: EntityId, other_info: str, expected: str
) -> None:
    # gbcs.md 4.7, worked values
    information = bytes.fromhex(other_info)
    assert information.startswith(KDF_ALGORITHM_ID)
    secret = Keyring(reference_keys()).shared_secret(own, peer)
    assert derive_key(secret, information).hex() == expected


def test_gmac_of_the_published_vector_is_right() -> None:
    key = bytes(range(16))
    iv = bytes.fromhex("90b3d51f30030000") + bytes(4)
    assert gmac(key, iv, b"helloworld").hex() == "fb3afed43b78508864f00da3"


def test_encryption_of_the_published_vector_is_right_and_opens_again() -> None:
    key = bytes(range(16))
    iv = bytes.fromhex("90b3d51f30030000") + bytes(4)
    sealed = gcm_seal(key, iv, b"one two three", b"helloworld")
    assert sealed.hex() == "584fa806b24491178829d46c38" + "6b33bdcb1e223242ec20b957"
    assert gcm_open(key, iv, sealed, b"helloworld") == b"one two three"


def test_sealed_octets_that_were_changed_or_cut_do_not_open() -> None:
    key, iv = bytes(16), bytes(12)
    sealed = gcm_seal(key, iv, b"text", b"covered")
    for at in range(len(sealed)):
        spoilt = bytearray(sealed)
        spoilt[at] ^= 1
        assert gcm_open(key, iv, bytes(spoilt), b"covered") is None
        assert gcm_open(key, iv, sealed[:at], b"covered") is None
    assert gcm_open(key, iv, sealed, b"Covered") is None
    assert gcm_open(key, iv, sealed, b"covered") == b"text"


def test_signature_holds_for_its_data_and_key_alone() -> None:
    key, other = SigningKey(private_key_from(b"one")), SigningKey(private_key_from(b"two"))
    signature = key.sign(b"data")
    assert len(signature) == 64
    assert key.public.is_valid(signature, b"data")
    assert not key.public.is_valid(signature, b"datum")
    assert not other.public.is_valid(signature, b"data")
    for at in range(64):
        flipped = bytearray(signature)
        flipped[at] ^= 1
        assert not key.public.is_valid(bytes(flipped), b"data")


@pytest.mark.parametrize("size", [0, 1, 63, 65, 72])
def test_signature_of_another_size_is_invalid(size: int) -> None:
    assert not SigningKey(private_key_from(b"one")).public.is_valid(bytes(size), b"data")


@pytest.mark.parametrize("value", [bytes(64), b"\xff" * 64, bytes(32) + b"\1" * 32])
def test_signature_out_of_range_is_invalid(value: bytes) -> None:
    assert not SigningKey(private_key_from(b"one")).public.is_valid(value, b"data")


@pytest.mark.skipif(
    not signs_deterministically(), reason="this OpenSSL signs with fresh randomness"
)
def test_signing_twice_gives_the_same_octets() -> None:
    key = SigningKey(private_key_from(b"one"))
    assert key.sign(b"data") == key.sign(b"data")


def test_no_key_material_shows_in_a_repr() -> None:
    private = private_key_from(b"one")
    scalar = private.private_numbers().private_value
    keyring = Keyring(KEYS)
    keyring.signing_key(PPMID)
    keyring.shared_secret(PPMID, BROKER)
    secret = keyring.shared_secret(PPMID, BROKER)
    for shown in (repr(SigningKey(private)), repr(keyring), repr(keyring.verify_key(PPMID))):
        assert f"{scalar:x}" not in shown
        assert str(scalar) not in shown
        assert secret.hex() not in shown
        assert "BEGIN" not in shown


def test_both_sides_agree_on_one_secret() -> None:
    keyring = Keyring(KEYS)
    assert keyring.shared_secret(PPMID, BROKER) == keyring.shared_secret(BROKER, PPMID)
    assert keyring.shared_secret(PPMID, BROKER) != keyring.shared_secret(PPMID, SUPPLIER)


def test_missing_keys_are_told_apart_from_broken_ones() -> None:
    keyring = Keyring(KEYS | {f"{STRANGER.hex}-ka.key": b"no PEM"})
    with pytest.raises(KeyMissingError):
        keyring.signing_key(STRANGER)
    with pytest.raises(KeyMissingError):
        keyring.verify_key(STRANGER)
    with pytest.raises(KeyMissingError):
        keyring.manufacturer_verify_key(0xFFFF)
    with pytest.raises(ConfigError, match="no readable private key"):
        keyring.shared_secret(STRANGER, BROKER)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_unreadable_certificate_is_the_operators_error(content: bytes) -> None:
    name = f"{STRANGER.hex}-ds.pem"
    keyring = Keyring({name: content})
    with pytest.raises(ConfigError, match=name):
        keyring.verify_key(STRANGER)


@needs_openssl
def test_key_on_another_curve_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p384.pem"
    command = ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"]
    subprocess.run([*command, "-out", path], check=True, capture_output=True)
    keyring = Keyring({f"{STRANGER.hex}-ds.key": path.read_bytes()})
    with pytest.raises(ConfigError, match="P-256"):
        keyring.signing_key(STRANGER)


def test_private_key_alone_gives_its_public_half() -> None:
    private = private_key_from(b"one")
    keyring = Keyring({f"{STRANGER.hex}-ds.key": private_key_pem(private)})
    signature = keyring.signing_key(STRANGER).sign(b"data")
    assert keyring.verify_key(STRANGER).is_valid(signature, b"data")
    assert keyring.role(STRANGER) is None


def test_bare_public_key_serves_as_well_as_a_certificate() -> None:
    public = SigningKey(private_key_from(b"one")).public
    keyring = Keyring({f"{STRANGER.hex}-ds.pem": public.pem()})
    signature = SigningKey(private_key_from(b"one")).sign(b"data")
    assert keyring.verify_key(STRANGER).is_valid(signature, b"data")
    assert isinstance(keyring.verify_key(STRANGER), VerifyKey)
    assert keyring.certificate(f"{STRANGER.hex}-ds.pem") is None


def test_roles_come_from_certificates() -> None:
    keyring = Keyring(KEYS)
    assert keyring.role(BROKER) is Role.ACCESS_CONTROL_BROKER
    assert keyring.role(SUPPLIER) is Role.SUPPLIER
    assert keyring.role(PPMID) is None
    assert keyring.role(STRANGER) is None
    assert keyring.is_device(PPMID)
    assert not keyring.is_device(SUPPLIER)
    assert not keyring.is_device(STRANGER)
    assert keyring.find(Role.ACCESS_CONTROL_BROKER) == (BROKER,)
    assert keyring.find(Role.OTHER) == ()


def test_certificate_under_another_name_gives_that_name_no_role() -> None:
    keyring = Keyring({f"{STRANGER.hex}-ds.pem": KEYS[f"{SUPPLIER.hex}-ds.pem"]})
    assert keyring.role(STRANGER) is None
    assert keyring.find(Role.SUPPLIER) == ()


DATED = Keyring(build_keys(b"dated", days=10))  # organisations from 2020-01-01 to 2020-01-11
DAY = 86_400
FIRST_DAY = 7305 * DAY  # 2020-01-01 in seconds since 2000-01-01


@pytest.mark.parametrize(
    ("utc", "counts"),
    [
        (FIRST_DAY - 1, False),
        (FIRST_DAY, True),
        (FIRST_DAY + 10 * DAY, True),
        (FIRST_DAY + 10 * DAY + 1, False),
        (None, True),
    ],
)
def test_certificate_counts_between_its_dates_where_a_moment_is_given(
    utc: int | None, counts: bool
) -> None:
    keyring = DATED.at(utc)
    assert (keyring.role(SUPPLIER) is Role.SUPPLIER) == counts
    assert (keyring.find(Role.SUPPLIER) == (SUPPLIER,)) == counts
    for use in (
        lambda: keyring.verify_key(SUPPLIER),
        lambda: keyring.shared_secret(PPMID, SUPPLIER),
    ):
        if counts:
            use()
        else:
            with pytest.raises(KeyMissingError, match=r"expired|not valid before"):
                use()
    assert DATED.role(SUPPLIER) is Role.SUPPLIER
    assert DATED.at(FIRST_DAY).find(Role.SUPPLIER) == (SUPPLIER,)


def test_secret_agreed_before_a_certificate_expired_is_not_used_afterwards() -> None:
    DATED.at(FIRST_DAY).shared_secret(PPMID, BROKER)
    with pytest.raises(KeyMissingError, match="expired"):
        DATED.at(FIRST_DAY + 11 * DAY).shared_secret(PPMID, BROKER)


def test_device_certificate_and_bare_key_never_expire() -> None:
    keyring = DATED.at(2**32 - 1)
    assert keyring.is_device(PPMID)
    keyring.verify_key(PPMID)
    bare = keyring.verify_key(PPMID).pem()
    Keyring({f"{STRANGER.hex}-ds.pem": bare}).at(2**32 - 1).verify_key(STRANGER)


def test_certificate_of_another_holder_or_usage_gives_no_key() -> None:
    other_holder = Keyring({f"{STRANGER.hex}-ds.pem": KEYS[f"{SUPPLIER.hex}-ds.pem"]})
    with pytest.raises(KeyMissingError, match="names 90-B3"):
        other_holder.verify_key(STRANGER)
    swapped = Keyring(
        KEYS
        | {
            f"{SUPPLIER.hex}-ds.pem": KEYS[f"{SUPPLIER.hex}-ka.pem"],
            f"{SUPPLIER.hex}-ka.pem": KEYS[f"{SUPPLIER.hex}-ds.pem"],
        }
    )
    with pytest.raises(KeyMissingError, match="is for keyAgreement"):
        swapped.verify_key(SUPPLIER)
    with pytest.raises(KeyMissingError, match="is for digitalSignature"):
        swapped.shared_secret(PPMID, SUPPLIER)


@needs_vectors
def test_reference_certificates_tell_holder_and_role() -> None:
    keyring = Keyring(reference_keys())
    assert keyring.find(Role.ACCESS_CONTROL_BROKER) == (BROKER,)
    assert keyring.find(Role.RECOVERY) == (EntityId.parse("90b3d51f30000001"),)
    assert keyring.find(Role.SUPPLIER) == (SUPPLIER, EntityId.parse("90b3d51f30030000"))
    assert keyring.is_device(PPMID)
    info = keyring.certificate(f"{PPMID.hex}-ds.pem")
    assert info is not None
    assert info.entity_id == PPMID
    assert info.usages == ("digitalSignature",)
    assert info.not_after == "9999-12-31T23:59:59Z"


@needs_vectors
def test_folder_of_hundreds_of_certificates_is_ready_at_once() -> None:
    files = reference_keys()
    assert len(files) > 400
    started = time.perf_counter()
    keyring = Keyring(files)
    keyring.find(Role.ACCESS_CONTROL_BROKER)
    keyring.shared_secret(BROKER, PPMID)
    assert time.perf_counter() - started < 0.5


def test_foreign_files_in_the_folder_are_passed_over() -> None:
    keyring = Keyring({"README.md": b"hello", "device-root.pem": KEYS["device-root.pem"]})
    assert keyring.entities() == ()
    assert keyring.names() == ()


@needs_openssl
@pytest.mark.parametrize(
    ("holder", "chain"),
    [(PPMID, "device"), (SUPPLIER, "organisation"), (BROKER, "organisation")],
)
@pytest.mark.parametrize("usage", ["ds", "ka"])
def test_openssl_accepts_our_certificate_chain(
    tmp_path: Path, holder: EntityId, chain: str, usage: str
) -> None:
    for name, content in KEYS.items():
        (tmp_path / name).write_bytes(content)
    command = ["openssl", "verify", "-x509_strict", "-policy_check"]
    command += ["-CAfile", f"{chain}-root.pem", "-untrusted", f"{chain}-issuing.pem"]
    command += [f"{holder.hex}-{usage}.pem"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(": OK\n")


@needs_openssl
def test_openssl_refuses_our_certificate_under_the_other_root(tmp_path: Path) -> None:
    for name, content in KEYS.items():
        (tmp_path / name).write_bytes(content)
    command = ["openssl", "verify", "-CAfile", "organisation-root.pem"]
    command += ["-untrusted", "device-issuing.pem", f"{PPMID.hex}-ds.pem"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode != 0


@needs_openssl
def test_openssl_accepts_our_signature(tmp_path: Path) -> None:
    signature = Keyring(KEYS).signing_key(PPMID).sign(b"the octets signed")
    (tmp_path / "data").write_bytes(b"the octets signed")
    (tmp_path / "signature").write_bytes(_der_signature(signature))
    (tmp_path / "certificate.pem").write_bytes(KEYS[f"{PPMID.hex}-ds.pem"])
    public = subprocess.run(
        ["openssl", "x509", "-in", "certificate.pem", "-noout", "-pubkey"],
        cwd=tmp_path,
        capture_output=True,
        check=True,
    ).stdout
    (tmp_path / "public.pem").write_bytes(public)
    command = ["openssl", "dgst", "-sha256", "-verify", "public.pem", "-signature", "signature"]
    done = subprocess.run([*command, "data"], cwd=tmp_path, capture_output=True, check=False)
    assert done.stdout == b"Verified OK\n"


def _der_signature(signature: bytes) -> bytes:
    """SEQUENCE of two INTEGERs, as openssl wants it; below 128 octets in all."""
    parts = b""
    for half in (signature[:32], signature[32:]):
        number = half.lstrip(b"\0") or b"\0"
        number = b"\0" + number if number[0] & 0x80 else number
        parts += bytes((2, len(number))) + number
    return bytes((0x30, len(parts))) + parts
