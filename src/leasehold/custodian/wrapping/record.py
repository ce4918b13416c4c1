"""The wrapped key as it lies in a file: who can open it, and ciphertext.

Spec: docs/spec/keys.md, Y-1 to Y-3. Refuses to know how anything is opened.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from leasehold.core.encoding import from_json, to_json
from leasehold.core.units import KIB
from leasehold.errors import BadMessage, KeyLocked

MAGIC: Final = b"leasehold wrapped key 1\n"
RECORD_BYTES_MAX: Final = 64 * KIB
SECRET_BYTES_MAX: Final = 16 * KIB  # the longest is a PEM of 250 bytes
SALT_BYTES: Final = 32
NONCE_BYTES: Final = 12

_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
_Salt = Annotated[bytes, msgspec.Meta(min_length=SALT_BYTES, max_length=SALT_BYTES)]
_Nonce = Annotated[bytes, msgspec.Meta(min_length=NONCE_BYTES, max_length=NONCE_BYTES)]


class ByPassphrase(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="by", tag="passphrase"
):
    """AES-256-GCM under scrypt (RFC 7914) of a passphrase; `cost` is the logarithm of its N."""

    what: _Text
    cost: Annotated[int, msgspec.Meta(ge=14, le=20)]
    salt: _Salt
    nonce: _Nonce
    sealed: bytes


class ByToken(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="by", tag="pkcs11"
):
    """AES-GCM by a key that a PKCS#11 token keeps."""

    what: _Text
    token: _Text
    key: _Text
    nonce: _Nonce
    sealed: bytes


class ByTransit(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="by", tag="vault"
):
    """Ciphertext of a key service that speaks Vault's transit API; it names the key's version itself."""

    what: _Text
    mount: _Text
    key: _Text
    sealed: _Text


Wrapped = ByPassphrase | ByToken | ByTransit


class Inside(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is encrypted: the secret, and once more what it is, which no keeper can leave out."""

    what: _Text
    secret: bytes


def is_wrapped(data: bytes) -> bool:
    """Whether a key file's bytes are a wrapped key."""
    return data.startswith(MAGIC)


def format_wrapped(wrapped: Wrapped) -> bytes:
    """Y-1: the file."""
    return MAGIC + to_json(wrapped) + b"\n"


def parse_wrapped(data: bytes, *, what: str) -> Wrapped:
    """Y-1, Y-2: the record in a file that should hold the key `what`. Raises KeyLocked."""
    if len(data) > RECORD_BYTES_MAX:
        raise KeyLocked(about=what, got=f"{len(data)} bytes", expected=f"<= {RECORD_BYTES_MAX}")
    try:
        wrapped: Wrapped = from_json(data.removeprefix(MAGIC), Wrapped)
    except BadMessage as cause:
        raise KeyLocked(about=what, got=f"a damaged file: {cause.got}") from cause
    if wrapped.what != what:
        raise KeyLocked(about=what, got=f"a key wrapped as {wrapped.what}")
    return wrapped


def close_inside(what: str, secret: bytes) -> bytes:
    """Y-2: the plaintext that a keeper encrypts."""
    return to_json(Inside(what, secret))


def open_inside(what: str, plaintext: bytes) -> bytes:
    """Y-2: the secret, if it was wrapped as this. Raises KeyLocked."""
    try:
        inside = from_json(plaintext, Inside)
    except BadMessage as cause:
        raise KeyLocked(about=what, got="another plaintext than a wrapped key's") from cause
    if inside.what != what:
        raise KeyLocked(about=what, got=f"a key wrapped as {inside.what}")
    return inside.secret
