"""What somebody says under an Ed25519 key: small signed records, and signed text files.

Spec: docs/spec/binding.md, B-6 and B-7. The signature covers the exact bytes that travel, so nothing
is ever canonicalised; the label keeps a signature from being read as a statement of another kind.
"""

from __future__ import annotations

from typing import Final

import msgspec

from leasehold.core.crypto import SigningKey, check_signature
from leasehold.core.encoding import b64, frame, unb64
from leasehold.errors import BadSignature

STATEMENT_LABEL: Final = "leasehold/statement/1"
TEXT_LABEL: Final = "leasehold/signed-text/1"
_MARK: Final = b"# leasehold-signature: "


class Signed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A statement as it travels: its kind, the exact payload bytes and the signature over both."""

    kind: str
    payload: bytes
    signature: bytes


def sign(key: SigningKey, kind: str, payload: bytes) -> Signed:
    """B-6: say `payload` as a statement of `kind`."""
    signature = key.sign(frame(STATEMENT_LABEL, kind.encode(), payload))
    return Signed(kind, payload, signature)


def check_signed(signed: Signed, *, kind: str, public: bytes) -> bytes:
    """B-6: the payload of a statement of exactly this kind under exactly this key, or BadSignature."""
    if signed.kind != kind:
        raise BadSignature(about="statement kind", got=signed.kind, expected=kind)
    check_signature(public, frame(STATEMENT_LABEL, kind.encode(), signed.payload), signed.signature)
    return signed.payload


def sign_text(key: SigningKey, kind: str, text: bytes) -> bytes:
    """B-7: the text, followed by a last line that carries the signature over everything before it."""
    body = text if text.endswith(b"\n") else text + b"\n"
    signature = key.sign(frame(TEXT_LABEL, kind.encode(), body))
    return body + _MARK + f"{kind} {b64(signature)}\n".encode()


def check_text(signed: bytes, *, kind: str, public: bytes) -> bytes:
    """B-7: the text above the signature line, or BadSignature."""
    body, mark, line = signed.rpartition(_MARK)
    if not mark or not line.endswith(b"\n") or line.count(b"\n") != 1:
        raise BadSignature(
            about=kind, expected=f"a last line that starts with '{_MARK.decode().strip()}'"
        )
    got_kind, _, signature = line[:-1].decode("ascii", "replace").partition(" ")
    if got_kind != kind:
        raise BadSignature(about="signed text", got=got_kind, expected=kind)
    check_signature(public, frame(TEXT_LABEL, kind.encode(), body), unb64(signature, about=kind))
    return body


def unsigned_text(signed: bytes) -> bytes:
    """The text above the signature line, unchecked: only to find out which key should have signed."""
    return signed.rpartition(_MARK)[0]
