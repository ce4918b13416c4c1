"""A strict reader for DER (ITU-T X.690): one encoding for each value, nothing after the end.

For vendors' extensions that X.509 libraries hand out as bytes. Knows no schema and builds no tree:
callers walk down, so nesting costs no recursion.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

from leasehold.core.units import KIB
from leasehold.errors import BadEvidence

DER_BYTES_MAX: Final = 64 * KIB
_LENGTH_OCTETS_MAX: Final = 2  # enough for DER_BYTES_MAX
_INTEGER_OCTETS_MAX: Final = 64


class Tag(IntEnum):
    """The universal tags that occur in attestation (X.690, 8.1.2); bit 5 marks a constructed one."""

    BOOLEAN = 0x01
    INTEGER = 0x02
    BIT_STRING = 0x03
    OCTET_STRING = 0x04
    NULL = 0x05
    OBJECT_IDENTIFIER = 0x06
    ENUMERATED = 0x0A
    UTF8_STRING = 0x0C
    PRINTABLE_STRING = 0x13
    IA5_STRING = 0x16
    UTC_TIME = 0x17
    GENERALIZED_TIME = 0x18
    SEQUENCE = 0x30
    SET = 0x31


class Element(NamedTuple):  # not a dataclass: a PCK certificate has a hundred of them
    """One tag and its content octets, not yet interpreted."""

    tag: int
    content: bytes


def _refuse(about: str, got: object, expected: str) -> BadEvidence:
    return BadEvidence(about=f"DER {about}", got=got, expected=expected)


def _read(data: bytes, start: int) -> tuple[Element, int]:
    """The element at `start` and the offset after it."""
    if len(data) - start < 2:
        raise _refuse("element", f"{len(data) - start} bytes", "a tag and a length")
    tag, first = data[start], data[start + 1]
    if tag & 0x1F == 0x1F:
        raise _refuse("tag", hex(tag), "a tag number below 31")
    at = start + 2
    if first < 0x80:
        length = first
    else:
        count = first & 0x7F
        octets = data[at : at + count]
        if not 1 <= count <= _LENGTH_OCTETS_MAX or len(octets) != count:
            raise _refuse("length", hex(first), f"definite, at most {_LENGTH_OCTETS_MAX} octets")
        length = int.from_bytes(octets, "big")
        if length < 0x80 or octets[0] == 0:
            raise _refuse("length", octets, "the shortest form")
        at += count
    if len(data) - at < length:
        raise _refuse("content", f"{len(data) - at} bytes", f"{length} bytes")
    return Element(tag, data[at : at + length]), at + length


def parse_der(data: bytes) -> Element:
    """The one element that `data` is. Raises BadEvidence for anything else or anything more."""
    if len(data) > DER_BYTES_MAX:
        raise _refuse("size", len(data), f"<= {DER_BYTES_MAX} bytes")
    element, end = _read(data, 0)
    if end != len(data):
        raise _refuse("end", f"{len(data) - end} bytes more", "nothing after the element")
    return element


def content(element: Element, tag: Tag) -> bytes:
    """The content octets of an element that must have this tag."""
    if element.tag != tag:
        raise _refuse("tag", hex(element.tag), tag.name)
    return element.content


def sequence(element: Element) -> tuple[Element, ...]:
    """The elements of a SEQUENCE."""
    return tuple(child for child, _ in children(content(element, Tag.SEQUENCE)))


def children(data: bytes) -> tuple[tuple[Element, bytes], ...]:
    """The elements in the content of a constructed one, each with its whole encoding.

    The encoding is what signatures cover: reading and writing again would have to give the same bytes.
    """
    found: list[tuple[Element, bytes]] = []
    at = 0
    while at < len(data):
        child, end = _read(data, at)
        found.append((child, data[at:end]))
        at = end
    return tuple(found)


def bits(element: Element) -> bytes:
    """A BIT STRING of whole octets."""
    data = content(element, Tag.BIT_STRING)
    if not data or data[0] != 0:
        raise _refuse("bit string", data[:1], "whole octets")
    return data[1:]


def octets(element: Element, size: int) -> bytes:
    """An OCTET STRING of exactly `size` bytes."""
    data = content(element, Tag.OCTET_STRING)
    if len(data) != size:
        raise _refuse("octet string", data, f"{size} bytes")
    return data


def integer(element: Element, *, tag: Tag = Tag.INTEGER) -> int:
    """A non-negative INTEGER (or ENUMERATED, with that `tag`) in its shortest form (X.690, 8.3)."""
    data = content(element, tag)
    if not 1 <= len(data) <= _INTEGER_OCTETS_MAX or data[0] & 0x80:
        raise _refuse("integer", data, "a non-negative number")
    if len(data) > 1 and data[0] == 0 and not data[1] & 0x80:
        raise _refuse("integer", data, "the shortest form")
    return int.from_bytes(data, "big")


def boolean(element: Element) -> bool:
    """A BOOLEAN: 0x00 or 0xFF, nothing else (X.690, 11.1)."""
    data = content(element, Tag.BOOLEAN)
    if data not in (b"\x00", b"\xff"):
        raise _refuse("boolean", data, "00 or ff")
    return data == b"\xff"
