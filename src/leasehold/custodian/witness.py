"""A witness of audit logs: it remembers the newest checkpoint it signed and signs nothing that contradicts it.

Run by somebody else than the custodian: a borrower, a regulator. Spec: docs/spec/witness.md; C2SP
tlog-witness and tlog-cosignature. Refuses to know: what the entries say, and how it is asked.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from leasehold.core import merkle
from leasehold.core.checkpoint import cosigned_text
from leasehold.core.crypto import SigningKey, check_signature
from leasehold.core.encoding import from_json, to_json, unhex
from leasehold.core.units import SECOND, Instant
from leasehold.custodian.ledger.audit import Entry
from leasehold.custodian.ledger.notes import (
    Line,
    cosignature_line,
    find_cosignature,
)
from leasehold.custodian.ledger.proofs import Proof, check_proof
from leasehold.custodian.mark import RESTORE, read_checkpoint
from leasehold.custodian.private_files import read_private, write_private
from leasehold.errors import (
    BadMessage,
    BadRequest,
    BadSignature,
    Conflict,
    FileTrouble,
    UnknownThing,
    Unproven,
)

PROOF_HASHES_MAX: Final = 63
NAME: Final = re.compile(r"[!-*,-~]{1,200}")


class GivenUp(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A checkpoint that a person who runs the witness has given up after a restore: when, and why."""

    size: int
    root: bytes
    note: str
    at: Instant
    reason: str


class Seen(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The newest checkpoint of one log that was cosigned: its size, its root, and the note.

    `given_up` are earlier ones that it need not extend (J-8); then, until the next one, the size is 0.
    """

    size: int
    root: bytes
    note: str
    given_up: tuple[GivenUp, ...] = ()


class _Named(msgspec.Struct, frozen=True):
    """What an `epoch.restore` entry says of a checkpoint that it gives up."""

    size: int
    root: bytes


def step(
    seen: Seen | None, note: str, proof: Sequence[bytes], *, origin: str, public: bytes, old: int
) -> Seen:
    """J-1: what is seen after this checkpoint, if it extends what was seen before.

    Raises BadSignature, BadMessage, Conflict (`old` is not what was seen) and Unproven: the log
    shrank, or is another one.
    """
    signed = read_checkpoint(note, origin=origin, public=public)
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
    return Seen(signed.size, signed.root, note, () if seen is None else seen.given_up)


def cosign(note: str, *, name: str, key: SigningKey, now: Instant) -> str:
    """J-2: the line that a witness adds below a note that `step` has accepted and that is on disk."""
    seconds = now // SECOND
    signature = key.sign(cosigned_text(_text(note), seconds))
    return cosignature_line(Line(name, key.public, seconds, signature))


def check_cosignature(note: str, *, name: str, public: bytes) -> Instant:
    """J-2: when this witness cosigned this note. Raises BadSignature, BadMessage."""
    found = find_cosignature(note.rpartition("\n\n")[2], name=name, public=public)
    check_signature(public, cosigned_text(_text(note), found.seconds), found.signature)
    return Instant(found.seconds * SECOND)


def check_quorum(note: str, witnesses: Sequence[str], quorum: int | None) -> None:
    """J-4: at least `quorum` of these (`NAME=HEX`; None is all) have cosigned the note.

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


def read_state(path: Path) -> dict[str, Seen]:
    """J-3: what is seen, by log. A file that is not there is a witness that saw nothing yet.

    Raises FileTrouble, BadSetting, BadMessage: a witness that cannot remember must not sign.
    """
    if not path.exists():
        return {}
    return from_json(read_private(path), dict[str, Seen])


def write_state(path: Path, state: Mapping[str, Seen]) -> None:
    """J-3: durable when this returns, and whole or not at all. Raises FileTrouble."""
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
    """J-1 to J-3: check, remember, and only then sign; return the cosignature's line. Raises as these do."""
    check_name(name)
    with _alone(path):
        state = read_state(path)
        seen = step(state.get(origin), note, proof, origin=origin, public=public, old=old)
        line = cosign(note, name=name, key=key, now=now)
        write_state(path, {**state, origin: seen})
    return line


def check_name(name: str) -> None:
    """Raises BadMessage where no note could carry this witness's name."""
    if not NAME.fullmatch(name):
        raise BadMessage(about="witness name", got=name, expected="printable, no space or +")


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """J-3: one at a time reads and writes this state, whichever process it is. Raises FileTrouble."""
    try:
        with path.with_name(f"{path.name}.lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    except OSError as cause:
        raise FileTrouble(about=path, got=cause.strerror) from cause


def accept_restore(path: Path, *, origin: str, now: Instant, reason: str) -> GivenUp:
    """J-8: a person decides that the log need not extend what was seen; what was seen is kept beside.

    Raises UnknownThing where nothing was seen of it, BadRequest without a reason, and as `read_state`.
    """
    if not reason.strip():
        raise BadRequest(about="reason", expected="why the log need not extend what was seen")
    with _alone(path):
        state = read_state(path)
        seen = state.get(origin)
        if seen is None or not seen.size:
            raise UnknownThing(about=origin, expected="a log of which this witness saw something")
        given_up = GivenUp(seen.size, seen.root, seen.note, now, reason)
        write_state(path, {**state, origin: Seen(0, b"", "", (*seen.given_up, given_up))})
    return given_up


def check_given_up(seen: Seen | None, proof: Proof, *, origin: str, public: bytes) -> None:
    """J-8: the log itself says in an `epoch.restore` entry that it does not extend what was seen.

    It stands where the log was shorter, and what it gives up is what was seen, or longer.
    Raises Unproven, BadSignature, BadMessage.
    """
    check_proof(proof, origin=origin, public=public)
    entry = from_json(proof.leaf, Entry)
    wrong = Unproven(
        about=f"entry {entry.index}",
        got=entry.kind,
        expected=f"{RESTORE} that gives up what was seen",
    )
    if seen is None or entry.kind != RESTORE or entry.index >= seen.size:
        raise wrong
    named = msgspec.convert(entry.detail.get("given_up", ()), tuple[_Named, ...])
    if not any(
        one.size > seen.size or (one.size == seen.size and one.root == seen.root) for one in named
    ):
        raise wrong


def _text(note: str) -> str:
    return note.rpartition("\n\n")[0] + "\n"
