"""C2SP signed notes and tree-head checkpoints, as other transparency logs and witnesses read them.

Sources: C2SP signed-note and tlog-checkpoint. Notes are the one thing signed that is not an
`encoding.frame`: the format is not ours, so the audit key signs nothing else (docs/spec/ledger.md, A-4).
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from leasehold.core import checkpoint as c2sp
from leasehold.core.crypto import SigningKey, check_signature, is_equal, sha256
from leasehold.core.encoding import b64, unb64
from leasehold.errors import BadMessage, BadSignature

ORIGIN: Final = re.compile(r"[!-*,-~]{1,200}")  # printable ASCII without space and plus
NOTE_CHARS_MAX: Final = 100_000
_ED25519: Final = b"\x01"
_COSIGNATURE: Final = b"\x04"
_COSIGNATURE_BYTES: Final = 4 + 8 + 64  # key id, seconds, Ed25519 signature
_DASH: Final = "\N{EM DASH} "


class Checkpoint(msgspec.Struct, frozen=True):
    """A tree head that somebody signed."""

    origin: str
    size: int
    root: bytes


class Line(msgspec.Struct, frozen=True):
    """A cosignature: whose it is, when it was made, and the signature."""

    name: str
    public: bytes
    seconds: int
    signature: bytes


def cosignature_line(line: Line) -> str:
    """J-2: the line below a note."""
    packed = cosigner_id(line.name, line.public) + line.seconds.to_bytes(8, "big") + line.signature
    return f"{_DASH}{line.name} {b64(packed)}\n"


def find_cosignature(lines: str, *, name: str, public: bytes) -> Line:
    """J-2: the one of this name and key among these lines; not checked. Raises BadSignature, BadMessage."""
    for line in lines.split("\n"):
        signer, _, encoded = line.removeprefix(_DASH).rpartition(" ")
        if signer != name or not line.startswith(_DASH):
            continue
        packed = unb64(encoded, about="cosignature")
        if len(packed) == _COSIGNATURE_BYTES and is_equal(packed[:4], cosigner_id(name, public)):
            return Line(name, public, int.from_bytes(packed[4:12], "big"), packed[12:])
    raise BadSignature(about="checkpoint", expected=f"a cosignature of {name}")


def cosigner_id(name: str, public: bytes) -> bytes:
    """The first 4 bytes of SHA-256(name, newline, 0x04, key)."""
    return sha256(name.encode() + b"\n" + _COSIGNATURE + public)[:4]


def key_id(name: str, public: bytes) -> bytes:
    """The first 4 bytes of SHA-256(name, newline, 0x01, key): which key a signature line means."""
    return sha256(name.encode() + b"\n" + _ED25519 + public)[:4]


def sign_note(text: str, *, name: str, key: SigningKey) -> str:
    """The text (which ends in a newline), an empty line and one signature line."""
    return signed_note(text, name=name, public=key.public, signature=key.sign(text.encode()))


def signed_note(text: str, *, name: str, public: bytes, signature: bytes) -> str:
    """The same from a signature that somebody made."""
    return f"{text}\n{_DASH}{name} {b64(key_id(name, public) + signature)}\n"


def check_note(note: str, *, name: str, public: bytes) -> str:
    """The text of a note that this key signed under this name; other signatures are passed over.

    Raises BadMessage, BadSignature.
    """
    text, gap, lines = note.rpartition("\n\n")
    if not gap or not lines.endswith("\n") or len(note) > NOTE_CHARS_MAX:
        raise BadMessage(about="signed note", expected="text, an empty line, signature lines")
    text += "\n"
    for line in lines[:-1].split("\n"):
        signer, _, encoded = line.removeprefix(_DASH).rpartition(" ")
        signature = unb64(encoded, about="note signature")
        if not line.startswith(_DASH) or len(signature) < 5:
            raise BadMessage(about="signature line", got=line)
        if signer == name and is_equal(signature[:4], key_id(name, public)):
            check_signature(public, text.encode(), signature[4:])
            return text
    raise BadSignature(about="signed note", expected=f"a signature of {name}")


def checkpoint_text(checkpoint: Checkpoint) -> str:
    """Three lines: origin, size, root in base64. Raises BadMessage for an origin no note can carry."""
    if not ORIGIN.fullmatch(checkpoint.origin):
        raise BadMessage(
            about="log origin", got=checkpoint.origin, expected="printable, no space or +"
        )
    return c2sp.checkpoint_text(checkpoint.origin, checkpoint.size, checkpoint.root)


def parse_checkpoint(text: str) -> Checkpoint:
    """Read a checkpoint's text; lines after the third are extensions and are passed over. Raises BadMessage."""
    lines = text.split("\n")
    if len(lines) < 4 or not re.fullmatch(r"0|[1-9][0-9]{0,17}", lines[1]):
        raise BadMessage(about="checkpoint", got=text, expected="origin, size, root")
    root = unb64(lines[2], about="checkpoint root")
    if len(root) != 32:
        raise BadMessage(about="checkpoint root", got=len(root), expected="32 bytes")
    return Checkpoint(lines[0], int(lines[1]), root)
