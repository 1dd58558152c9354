"""From what people have at hand to the octets of GBCS messages.

A file may be a message as it is, its hexadecimal digits (in any case, with white space, ``0x``,
commas, colons, and comments after ``#`` or ``//``), its base64, or a DUIS document that carries
messages. Several messages in one file stand one a line; blocks of a general block transfer, one a
line or one after the other, become the message they carry. Nothing is judged here but the form.
"""

from __future__ import annotations

import base64
import binascii
import re
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lxml import etree

from firmware_node.errors import DecodeError
from firmware_node.wire import gbt
from firmware_node.wire.cursor import Cursor
from firmware_node.wire.gbcs import MAC_HEADER

FILE_SIZE_MAX = 16 * 1024 * 1024  # bytes; a DUIS document with an image is the largest of its kind
MESSAGES_MAX = 10_000  # of one file
HEADER_SIZE_MIN = 34  # octets of a DF form: tag, ids, message code, and the payload's length
BLOCK_HEADER_SIZE = 34  # octets of a block before its length

# Elements of a DUIS document that hold a GBCS message in base64 (gbcs.md 1.5).
ELEMENTS = ("GBCSPayload", "PreCommand", "SignedPreCommand", "LocalCommand")
_WHAT = "file"
_STARTS = (b"\xdd", b"\xdf")
_COMMENT = re.compile(rb"(?:#|//).*")
_SEPARATORS = re.compile(rb"0[xX]|[\s,:]")
_HEX_DIGITS = frozenset(string.hexdigits.encode())


@dataclass(frozen=True, slots=True)
class Part:
    """One message of a file."""

    octets: bytes
    place: str | None = None  # where in the file, when there is more than one place
    blocks: int | None = None  # of the block transfer it came by


def parts_of(data: bytes) -> tuple[Part, ...]:
    """Every message in a file's content, at least one.

    Raises:
        DecodeError: the content has none of the forms, or a series of blocks is not whole.
    """
    if len(data) > FILE_SIZE_MAX:
        raise DecodeError(_WHAT, FILE_SIZE_MAX, f"{len(data)} octets")
    if data[:1] in _STARTS:
        return (_whole(data),)
    if data.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        return _document_parts(data)
    text = b"\n".join(_COMMENT.sub(b"", line) for line in data.splitlines())
    lines = _lines(text)
    if len(lines) > 1 and not all(gbt.is_block(octets) for _, octets in lines):
        return tuple(Part(octets, f"line {number}") for number, octets in lines)
    octets = b"".join(octets for _, octets in lines) or _octets(text)
    if octets is None or octets[:1] not in _STARTS:
        raise DecodeError(_WHAT, 0, "expected DD, DF, hexadecimal digits, base64 or DUIS")
    return (_whole(octets),)


def _octets(text: bytes) -> bytes | None:
    """From hexadecimal digits or base64; None: neither."""
    digits = _SEPARATORS.sub(b"", text)
    if digits and _HEX_DIGITS.issuperset(digits):
        if len(digits) % 2:
            raise DecodeError(_WHAT, len(text), "odd number of hexadecimal digits")
        return bytes.fromhex(digits.decode("ascii"))
    try:
        return base64.b64decode(b"".join(text.split()), validate=True)
    except binascii.Error:
        return None


def _lines(text: bytes) -> Sequence[tuple[int, bytes]]:
    """Lines that are messages or blocks each, with their numbers; none: they are parts of one.

    A message that is wrapped over lines has its start once. When every line begins as a message
    does, and is as long as it says itself as far as it says so, each is one.
    """
    lines = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            octets = _octets(line)
        except DecodeError:
            return ()
        if octets is None or octets[:1] not in _STARTS or not _is_as_long_as_it_says(octets):
            return ()
        lines.append((number, octets))
    if len(lines) > MESSAGES_MAX:
        raise DecodeError(_WHAT, len(text), f"more than {MESSAGES_MAX} messages")
    return lines


def _is_as_long_as_it_says(octets: bytes) -> bool:
    """A DD form and a block tell their length; a DF form has at least the fields of its header."""
    if octets[:1] == b"\xdf":
        return len(octets) >= HEADER_SIZE_MIN and octets[1] == 9
    cursor = Cursor(octets, _WHAT)
    try:
        cursor.take(BLOCK_HEADER_SIZE if gbt.is_block(octets) else len(MAC_HEADER), "header")
        return cursor.length("length") == cursor.left
    except DecodeError:
        return False


def _whole(octets: bytes) -> Part:
    """A message, or the one that the blocks of a series carry."""
    if not gbt.is_block(octets):
        return Part(octets)
    blocks = tuple(_blocks(octets))
    return Part(gbt.reassemble(blocks), blocks=len(blocks))


def _blocks(octets: bytes) -> Iterator[gbt.Block]:
    while octets:
        block, octets = gbt.decode_first_block(octets)
        yield block


def _document_parts(data: bytes) -> tuple[Part, ...]:
    """Messages of a DUIS document, by element in document order."""
    if b"<!DOCTYPE" in data:  # nothing may be taken from elsewhere or blown up
        raise DecodeError(_WHAT, 0, "a document type, expected none")
    parser = etree.XMLParser(
        encoding="utf-8", resolve_entities=False, no_network=True, load_dtd=False
    )
    try:
        root = etree.fromstring(data, parser)
    except etree.XMLSyntaxError as error:
        raise DecodeError(_WHAT, 0, f"no readable XML ({error.msg})") from error
    parts = []
    for element in root.iter(*(f"{{*}}{name}" for name in ELEMENTS)):
        text = (element.text or "").encode()
        if len(element) or not text.strip():
            continue  # a wrapper around one of the others
        try:
            octets = _octets(text)
        except DecodeError:
            octets = None
        if octets is None or octets[:1] not in _STARTS:
            name = etree.QName(element).localname
            raise DecodeError(_WHAT, 0, f"{name}: expected a GBCS message in base64")
        whole = _whole(octets)
        parts.append(Part(whole.octets, etree.QName(element).localname, whole.blocks))
    if not parts:
        raise DecodeError(_WHAT, 0, "a document without a GBCS message in it")
    return tuple(parts)
