"""A writer for the DER structures that `cryptography` does not build."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

_BASE: Final = (1, 2, 840, 113741, 1, 13, 1)


def element(tag: int, content: bytes) -> bytes:
    """Any element from its tag and content octets."""
    length = len(content)
    if length < 0x80:
        return bytes((tag, length)) + content
    octets = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(octets))) + octets + content


def sequence(*elements: bytes) -> bytes:
    """A SEQUENCE."""
    return element(0x30, b"".join(elements))


def octets(data: bytes) -> bytes:
    """An OCTET STRING."""
    return element(0x04, data)


def integer(value: int, *, tag: int = 0x02) -> bytes:
    """A non-negative INTEGER; with tag 0x0A an ENUMERATED."""
    return element(tag, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def enumerated(value: int) -> bytes:
    """An ENUMERATED."""
    return integer(value, tag=0x0A)


def boolean(value: bool) -> bytes:
    """A BOOLEAN."""
    return element(0x01, b"\xff" if value else b"\x00")


def oid(*arcs: int) -> bytes:
    """An OBJECT IDENTIFIER."""
    content = bytearray((40 * arcs[0] + arcs[1],))
    for arc in arcs[2:]:
        groups = [arc & 0x7F]
        while arc := arc >> 7:
            groups.append(0x80 | arc & 0x7F)
        content += bytes(reversed(groups))
    return element(0x06, bytes(content))


def intel_pairs(values: Mapping[int, bytes], *, below: tuple[int, ...] = ()) -> bytes:
    """SEQUENCE of SEQUENCE {OID below Intel's SGX arc, value}, as PCK certificates hold it."""
    return sequence(*(sequence(oid(*_BASE, *below, n), value) for n, value in values.items()))
