"""Securing of frames: what opens, what does not, and the specification's vectors of its parts."""

from __future__ import annotations

import pytest

from firmware_node.crypto import CcmStar, install_code_key, keyed_hash
from firmware_node.errors import DecodeError
from firmware_node.virtual import secure

KEY = bytes(range(16))
SOURCE = bytes(range(8))
HEADER = b"\x08\x02\x00\x00\x34\x12\x1e\x05"


def test_install_codes_give_the_keys_that_the_specification_names() -> None:
    # ZigBee base device behaviour, 10.1: a code of 16 octets and its CRC.
    code = bytes.fromhex("83fed3407a939723a5c639b26916d505c3b5")
    assert install_code_key(code).hex() == "66b6900981e1ee3ca4206b6b861c02bb"


@pytest.mark.parametrize("size", [0, 7, 9, 16, 17, 19])
def test_install_codes_of_other_sizes_are_refused(size: int) -> None:
    with pytest.raises(DecodeError, match="install code"):
        install_code_key(bytes(size))


def test_every_flipped_bit_of_an_install_code_is_noticed() -> None:
    code = bytes.fromhex("83fed3407a939723a5c639b26916d505c3b5")
    for at in range(len(code)):
        for bit in range(8):
            spoilt = bytearray(code)
            spoilt[at] ^= 1 << bit
            with pytest.raises(DecodeError, match="CRC"):
                install_code_key(bytes(spoilt))


def test_the_keyed_hash_gives_the_specification_s_vectors() -> None:
    # ZigBee specification C.6.1.
    key = bytes.fromhex("404142434445464748494a4b4c4d4e4f")
    assert keyed_hash(key, b"\xc0").hex() == "4512807bf94cb3400f0e2c25fb76e999"
    # The key-transport key of the well-known link key, as analysers list it.
    assert secure.key_transport_key(b"ZigBeeAlliance09").hex() == "4bab0f173e1434a2d572e1c1ef478782"


def test_ccm_star_gives_the_specification_s_vector() -> None:
    # ZigBee specification C.3: M 8 there; with M 4 the ciphertext is the same.
    key = bytes.fromhex("c0c1c2c3c4c5c6c7c8c9cacbcccdcecf")
    iv = bytes.fromhex("a0a1a2a3a4a5a6a7 03020100 06")
    covered, clear = bytes(range(8)), bytes(range(8, 31))
    sealed = CcmStar(key).seal(iv, covered, clear)
    assert sealed[:-4].hex() == "1a55a36abb6c610d066b3375649cef10d4664ecad854a8"
    assert CcmStar(key).unseal(iv, covered, sealed) == clear


def test_a_network_frame_opens_with_its_key_and_tells_who_sealed_it() -> None:
    sealed = secure.seal_network(CcmStar(KEY), HEADER, b"payload", SOURCE, 70_000, 3)
    assert len(sealed) == len(HEADER) + len(b"payload") + 18
    with pytest.raises(DecodeError, match="another network key"):
        secure.open_network(CcmStar(KEY), sealed, len(HEADER), 2)
    opened = secure.open_network(CcmStar(KEY), sealed, len(HEADER), 3)
    assert opened == (b"payload", SOURCE, 70_000)


def test_no_flipped_bit_of_a_network_frame_goes_unnoticed() -> None:
    sealed = secure.seal_network(CcmStar(KEY), HEADER, b"payload", SOURCE, 1, 0)
    for at in range(len(sealed)):
        for bit in range(8):
            spoilt = bytearray(sealed)
            spoilt[at] ^= 1 << bit
            if at == len(HEADER) and bit < 3:
                continue  # the level travels as 0 and is not looked at
            with pytest.raises(DecodeError):
                secure.open_network(CcmStar(KEY), bytes(spoilt), len(HEADER), 0)
    for size in range(len(sealed)):
        with pytest.raises(DecodeError):
            secure.open_network(CcmStar(KEY), sealed[:size], len(HEADER), 0)
    with pytest.raises(DecodeError, match="MIC"):
        secure.open_network(CcmStar(KEY[::-1]), sealed, len(HEADER), 0)


@pytest.mark.parametrize("extended", [True, False])
@pytest.mark.parametrize("key_id", [secure.LINK, secure.KEY_TRANSPORT])
def test_an_aps_frame_opens_with_its_key_and_no_other(key_id: int, extended: bool) -> None:
    header = b"\x21\x07"
    cipher = CcmStar(KEY)
    sealed = header + secure.seal_aps(cipher, header, b"key", SOURCE, 5, key_id, extended=extended)
    assert len(sealed) == len(header) + 5 + 8 * extended + len(b"key") + 4
    security = secure.decode_aps_security(sealed, 2)
    assert security[:3] == (key_id, 5, SOURCE if extended else None)
    assert secure.open_aps(cipher, sealed, 2, security, SOURCE) == b"key"
    with pytest.raises(DecodeError):
        secure.open_aps(cipher, sealed, 2, security, SOURCE[::-1])
    for size in range(2, 2 + 9 + 8 * extended):
        with pytest.raises(DecodeError):
            secure.decode_aps_security(sealed[:size], 2)
