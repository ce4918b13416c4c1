"""Bytes that can be read in one way only: what is hashed or signed goes through here.

Spec: docs/spec/binding.md, B-1. Refuses to know what the fields mean.
"""

from __future__ import annotations

import base64
import binascii
from types import UnionType
from typing import Any, Final, TypeVar, overload

import msgspec

from leasehold.errors import BadMessage

T = TypeVar("T")

_FIELD_BYTES_MAX: Final = 1 << 32


def frame(label: str, *fields: bytes) -> bytes:
    """B-1: one byte string for a label and its fields, injective in all of them.

    Layout: u16 length of the label, label (ASCII), u16 number of fields, then for every field its
    u64 length and its bytes; integers big-endian.
    """
    name = label.encode("ascii")
    parts = [len(name).to_bytes(2, "big"), name, len(fields).to_bytes(2, "big")]
    for field in fields:
        if len(field) >= _FIELD_BYTES_MAX:
            raise BadMessage(about="frame field", got=len(field), expected=f"< {_FIELD_BYTES_MAX}")
        parts += [len(field).to_bytes(8, "big"), bytes(field)]
    return b"".join(parts)


def number(value: int) -> bytes:
    """A non-negative integer below 2^64 as the eight bytes that `frame` fields use for numbers."""
    return value.to_bytes(8, "big")


def b64(data: bytes) -> str:
    """Standard base64 with padding."""
    return base64.b64encode(data).decode("ascii")


def unb64(text: str, *, about: str = "base64") -> bytes:
    """Decode standard padded base64, strictly. Raises BadMessage."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as cause:
        raise BadMessage(about=about, got=text, expected="base64") from cause


def unhex(text: str, *, about: str, size: int | None = None) -> bytes:
    """Decode lower-case hex of exactly `size` bytes, where one is given. Raises BadMessage."""
    try:
        data = bytes.fromhex(text)
    except ValueError as cause:
        raise BadMessage(about=about, got=text, expected="hex digits") from cause
    if data.hex() != text or (size is not None and len(data) != size):
        raise BadMessage(
            about=about, got=text, expected=f"{size or 'some'} bytes in lower-case hex"
        )
    return data


def to_json(value: object) -> bytes:
    """A message as compact JSON; field order is the record's own, so equal values give equal bytes."""
    return msgspec.json.encode(value)


@overload
def from_json(data: bytes, kind: type[T]) -> T: ...


@overload
def from_json(data: bytes, kind: UnionType) -> Any: ...


def from_json(data: bytes, kind: Any) -> Any:
    """Decode and check a message. Raises BadMessage, which names the field."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as cause:
        raise BadMessage(about=getattr(kind, "__name__", str(kind)), got=str(cause)) from cause
