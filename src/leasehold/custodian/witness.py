"""A witness of audit logs: it remembers the newest checkpoint it signed and signs nothing that contradicts it.

Run by somebody else than the custodian: a borrower, a regulator. Spec: docs/spec/witness.md; C2SP
tlog-witness and tlog-cosignature. Refuses to know: what the entries say, and how it is asked.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from leasehold.core import merkle
from leasehold.core.crypto import SigningKey, check_signature, is_equal, sha256
from leasehold.core.encoding import b64, from_json, to_json, unb64, unhex
from leasehold.core.units import SECOND, Instant
from leasehold.custodian.ledger.notes import Checkpoint, check_note, parse_checkpoint
from leasehold.custodian.settings import read_private, write_private
from leasehold.errors import BadMessage, BadSignature, Conflict, FileTrouble, Unproven

PROOF_HASHES_MAX: Final = 63
NAME: Final = re.compile(r"[!-*,-~]{1,200}")
_COSIGNATURE: Final = b"\x04"
_DASH: Final = "\N{EM DASH} "
_LINE_BYTES: Final = 4 + 8 + 64  # key id, seconds, Ed25519 signature


class Seen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The newest checkpoint of one log that was cosigned: its size, its root, and the note."""

    size: int
    root: bytes
    note: str


def step(
    seen: Seen | None, note: str, proof: Sequence[bytes], *, origin: str, public: bytes, old: int
) -> Seen:
    """W-1: what is seen after this checkpoint, if it extends what was seen before.

    Raises BadSignature, BadMessage, Conflict (`old` is not what was seen) and Unproven: the log
    shrank, or is another one.
    """
    signed = _signed(note, origin=origin, public=public)
    size = 0 if seen is None else seen.size
    if old != size:
        raise Conflict(about=f"size of {origin}", got=old, expected=size)
    if signed.size < size:
        raise Unproven(about="log size", got=signed.size, expected=f">= {size}, as seen before")
    if len(proof) > PROOF_HASHES_MAX or (not size and proof):
        raise Unproven(about="consistency proof", got=f"{len(proof)} hashes")
    if seen is not None and size:
        merkle.check_consistency(
            old_size=size, old_head=seen.root, size=signed.size, head=signed.root, proof=proof
        )
    return Seen(signed.size, signed.root, note)


def cosign(note: str, *, name: str, key: SigningKey, now: Instant) -> str:
    """W-2: the line that a witness adds below a note that `step` has accepted and that is on disk."""
    seconds = now // SECOND
    signature = key.sign(_message(note, seconds))
    packed = key_id(name, key.public) + seconds.to_bytes(8, "big") + signature
    return f"{_DASH}{name} {b64(packed)}\n"


def check_cosignature(note: str, *, name: str, public: bytes) -> Instant:
    """W-2: when this witness cosigned this note. Raises BadSignature, BadMessage."""
    _, _, lines = note.rpartition("\n\n")
    for line in lines.split("\n"):
        signer, _, encoded = line.removeprefix(_DASH).rpartition(" ")
        if signer != name or not line.startswith(_DASH):
            continue
        packed = unb64(encoded, about="cosignature")
        if len(packed) != _LINE_BYTES or not is_equal(packed[:4], key_id(name, public)):
            continue
        seconds = int.from_bytes(packed[4:12], "big")
        check_signature(public, _message(note, seconds), packed[12:])
        return Instant(seconds * SECOND)
    raise BadSignature(about="checkpoint", expected=f"a cosignature of {name}")


def check_quorum(note: str, witnesses: Sequence[str], quorum: int | None) -> None:
    """W-4: at least `quorum` of these (`NAME=HEX`; None is all) have cosigned the note.

    Raises BadMessage, BadSignature, Unproven.
    """
    keys = dict(one.rpartition("=")[::2] for one in witnesses)
    need, count = len(keys) if quorum is None else quorum, 0
    for name, key in keys.items():
        try:
            check_cosignature(note, name=name, public=unhex(key, about="witness", size=32))
            count += 1
        except BadSignature:
            if quorum is None:
                raise
    if count < need:
        raise Unproven(about="witnesses", got=count, expected=f">= {need}")


def key_id(name: str, public: bytes) -> bytes:
    """The first 4 bytes of SHA-256(name, newline, 0x04, key)."""
    return sha256(name.encode() + b"\n" + _COSIGNATURE + public)[:4]


def read_state(path: Path) -> dict[str, Seen]:
    """W-3: what is seen, by log. A file that is not there is a witness that saw nothing yet.

    Raises FileTrouble, BadSetting, BadMessage: a witness that cannot remember must not sign.
    """
    if not path.exists():
        return {}
    return from_json(read_private(path), dict[str, Seen])


def write_state(path: Path, state: Mapping[str, Seen]) -> None:
    """W-3: durable when this returns, and whole or not at all. Raises FileTrouble."""
    write_private(path, to_json(dict(state)), replace=True)
    try:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as cause:
        raise FileTrouble(about=path.parent, got=cause.strerror) from cause


def witness(
    path: Path,
    note: str,
    proof: Sequence[bytes],
    *,
    origin: str,
    public: bytes,
    old: int,
    name: str,
    key: SigningKey,
    now: Instant,
) -> str:
    """W-1 to W-3: check, remember, and only then sign; return the cosignature's line. Raises as these do."""
    if not NAME.fullmatch(name):
        raise BadMessage(about="witness name", got=name, expected="printable, no space or +")
    state = read_state(path)
    seen = step(state.get(origin), note, proof, origin=origin, public=public, old=old)
    line = cosign(note, name=name, key=key, now=now)
    write_state(path, {**state, origin: seen})
    return line


def _signed(note: str, *, origin: str, public: bytes) -> Checkpoint:
    signed = parse_checkpoint(check_note(note, name=origin, public=public))
    if signed.origin != origin:
        raise Unproven(about="log origin", got=signed.origin, expected=origin)
    return signed


def _message(note: str, seconds: int) -> bytes:
    text = note.rpartition("\n\n")[0] + "\n"
    return f"cosignature/v1\ntime {seconds}\n{text}".encode()
