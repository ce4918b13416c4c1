"""A strict reader for the CBOR (RFC 8949) in RA-TLS certificates: one encoding for each value.

Definite lengths in their shortest form, no floats, no duplicate keys, little nesting, nothing after the
end. Knows no schema.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Final, NamedTuple, TypeAlias

from leasehold.core.units import KIB
from leasehold.errors import BadEvidence

CBOR_BYTES_MAX: Final = 64 * KIB
CBOR_DEPTH_MAX: Final = 8
CBOR_ITEMS_MAX: Final = 256


class Tagged(NamedTuple):
    """A value with a tag before it."""

    tag: int
    value: Value


Value: TypeAlias = (
    "int | bytes | str | bool | tuple[Value, ...] | Mapping[int | str, Value] | Tagged | None"
)


class Major(IntEnum):
    """The first three bits of an item (RFC 8949, 3.1)."""

    UNSIGNED = 0
    NEGATIVE = 1
    BYTES = 2
    TEXT = 3
    ARRAY = 4
    MAP = 5
    TAG = 6
    SIMPLE = 7


_SIMPLE: Final[Mapping[int, bool | None]] = {20: False, 21: True, 22: None}


def _refuse(about: str, got: object, expected: str) -> BadEvidence:
    return BadEvidence(about=f"CBOR {about}", got=got, expected=expected)


def parse_cbor(data: bytes) -> Value:
    """Q-9: the one item that `data` is. Raises BadEvidence for anything else or anything more."""
    if len(data) > CBOR_BYTES_MAX:
        raise _refuse("size", len(data), f"<= {CBOR_BYTES_MAX} bytes")
    reader = _Reader(data)
    value = reader.item(CBOR_DEPTH_MAX)
    if reader.at != len(data):
        raise _refuse("end", f"{len(data) - reader.at} bytes more", "nothing after the item")
    return value


class _Reader:
    """Reads items off the front of bytes. `items` counts all of them, so that counts cannot lie."""

    __slots__ = ("at", "data", "items")

    def __init__(self, data: bytes) -> None:
        self.data, self.at, self.items = data, 0, 0

    def item(self, depth: int) -> Value:
        self.items += 1
        if depth == 0 or self.items > CBOR_ITEMS_MAX:
            raise _refuse("nesting or number of items", self.items, f"<= {CBOR_ITEMS_MAX}, flat")
        first = self._take(1)[0]
        major, low = Major(first >> 5), first & 0x1F
        if major is Major.SIMPLE:
            if low not in _SIMPLE:
                raise _refuse("simple value", hex(first), "false, true or null")
            return _SIMPLE[low]
        number = self._number(low)
        match major:
            case Major.UNSIGNED:
                return number
            case Major.NEGATIVE:
                return -1 - number
            case Major.BYTES:
                return self._take(number)
            case Major.TEXT:
                return self._text(number)
            case Major.ARRAY:
                return tuple(self.item(depth - 1) for _ in range(self._count(number)))
            case Major.MAP:
                return self._map(self._count(number), depth - 1)
            case Major.TAG:
                return Tagged(number, self.item(depth - 1))

    def _take(self, size: int) -> bytes:
        end = self.at + size
        if end > len(self.data):
            raise _refuse("item", f"{len(self.data) - self.at} bytes", f"{size} bytes")
        part = self.data[self.at : end]
        self.at = end
        return part

    def _number(self, low: int) -> int:
        if low < 24:
            return low
        if low > 27:
            raise _refuse("length", low, "definite")
        size = 1 << (low - 24)
        number = int.from_bytes(self._take(size), "big")
        if number < 24 or (size > 1 and number < 1 << (4 * size)):
            raise _refuse("number", number, "the shortest form")
        return number

    def _text(self, size: int) -> str:
        try:
            return self._take(size).decode()
        except UnicodeDecodeError as cause:
            raise _refuse("text", str(cause), "UTF-8") from cause

    def _count(self, number: int) -> int:
        if number > CBOR_ITEMS_MAX:
            raise _refuse("count", number, f"<= {CBOR_ITEMS_MAX} items")
        return number

    def _map(self, count: int, depth: int) -> dict[int | str, Value]:
        found: dict[int | str, Value] = {}
        for _ in range(count):
            key = self.item(depth)
            if isinstance(key, bool) or not isinstance(key, int | str) or key in found:
                raise _refuse("key", key, "a number or text, once")
            found[key] = self.item(depth)
        return found
