"""Writes what flies as a pcap file that Wireshark decodes, with the keys beside it.

Frames are 802.15.4 with FCS (link type 195). The key file has one line a key, in the form of
Wireshark's table ``zigbee_pc_keys``: key, byte order, label.
"""

from __future__ import annotations

import binascii
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from firmware_node.errors import EnvironmentFailure

LINK_TYPE_802_15_4 = 195
_SNAP_SIZE = 256
_REVERSED = bytes(int(f"{octet:08b}"[::-1], 2) for octet in range(256))


def fcs(octets: bytes) -> bytes:
    """The frame check sequence: CRC-16 of ITU-T with the lowest bit first."""
    crc = binascii.crc_hqx(octets.translate(_REVERSED), 0)
    return bytes((_REVERSED[crc >> 8], _REVERSED[crc & 0xFF]))


class Capture:
    """A pcap file and its ``.keys``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._keys: dict[bytes, str] = {}
        self._offset_us = time.time_ns() // 1000 - time.monotonic_ns() // 1000

    def open(self) -> None:
        """Begin a new file.

        Raises:
            EnvironmentFailure: it cannot be written.
        """
        try:
            self._file = self._path.open("wb", buffering=0)
            head = (0xA1B2C3D4, 2, 4, 0, 0, _SNAP_SIZE, LINK_TYPE_802_15_4)
            self._file.write(struct.pack("<IHHiIII", *head))
            self._write_keys()
        except OSError as error:
            raise EnvironmentFailure(f"{self._path}: {error.strerror or error}") from error

    def write(self, at_us: int, octets: bytes) -> None:
        """One frame as it flew, without its FCS."""
        assert self._file is not None
        seconds, rest_us = divmod(at_us + self._offset_us, 1_000_000)
        whole = octets + fcs(octets)
        head = struct.pack("<IIII", seconds, rest_us, len(whole), len(whole))
        self._file.write(head + whole)

    def note_keys(self, keys: Mapping[bytes, str]) -> None:
        """Keys that are in use, with their labels; each stands in the file once."""
        new = {key: label for key, label in keys.items() if key not in self._keys}
        if new:
            self._keys |= new
            self._write_keys()

    def _write_keys(self) -> None:
        lines = (f'"{key.hex()}","Normal","{label}"\n' for key, label in self._keys.items())
        path = self._path.with_name(self._path.name + ".keys")
        path.write_text("".join(lines), encoding="ascii")

    def close(self) -> None:
        """No more."""
        if self._file is not None:
            self._file.close()
            self._file = None
