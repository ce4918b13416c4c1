"""Backups of the ledger: made while the custodian runs, whole or not at all, and checked before use.

Spec: docs/spec/backup.md, U-1 and U-2. Refuses to know which database the ledger is in.
"""

from __future__ import annotations

import asyncio
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from leasehold.core.crypto import SigningKey, is_equal
from leasehold.core.encoding import unhex
from leasehold.core.units import Instant
from leasehold.custodian.ledger import audit, books
from leasehold.custodian.ledger.notes import (
    Checkpoint,
    check_note,
    checkpoint_text,
    parse_checkpoint,
    sign_note,
)
from leasehold.custodian.store.port import Store, Tx
from leasehold.custodian.store.snapshot import Table, copy, new_file, open_file
from leasehold.errors import AlreadyExists, BadBackup, FileTrouble

_EXTENSION: Final = re.compile(r"backup ([0-9a-f]{64}) ([0-9]{1,16})")


@dataclass(frozen=True, slots=True)
class Backup:
    """A checked backup: the log's checkpoint when it was made, and its rows."""

    checkpoint: Checkpoint
    taken: Instant
    tx: Tx
    tables: tuple[Table, ...]


async def write_backup(
    store: Store, path: Path, *, origin: str, key: SigningKey, now: Instant, force: bool = False
) -> Checkpoint:
    """U-1: one snapshot of the ledger as one file of mode 0600, checked before it gets its name.

    Raises AlreadyExists unless `force`; FileTrouble, StoreFailed, and BooksWrong for a ledger that
    is not sound, of which no backup is made.
    """

    with _made(path, force=force) as made:
        await store.read(lambda tx: _fill(tx, made, origin=origin, key=key, now=now))
        # After the transaction: a database ends those that are idle for long.
        return await asyncio.to_thread(_checkpoint_of, made, origin, key.public)


async def keep_copy(store: Store, path: Path) -> None:
    """Copy a ledger as it is, sound or not, without the note that would make it a backup.

    Raises AlreadyExists, FileTrouble, StoreFailed.
    """

    def act(tx: Tx) -> None:
        with _made(path, force=False) as made, new_file(made) as sink:
            copy(tx, sink.tx, sink.tables)

    await store.read(act)


@contextmanager
def open_backup(path: Path, *, origin: str, public: bytes) -> Iterator[Backup]:
    """U-2: check a backup through and through, and give its rows; the file is only read.

    Raises BadBackup (no whole backup, or changed since), BadSignature (of another custodian), BooksWrong
    and Conflict (the ledger in it is not sound).
    """
    if not path.is_file():
        raise FileTrouble(about=path, got="no such file")
    found: list[tuple[Checkpoint, Instant]] = []

    def accept(note: str, digest: bytes) -> None:
        text = check_note(note, name=origin, public=public)
        signed, (claimed, taken) = parse_checkpoint(text), _parse_extension(text)
        if signed.origin != origin:
            raise BadBackup(about="log origin", got=signed.origin, expected=origin)
        if not is_equal(digest, claimed):
            raise BadBackup(about=path, got=digest, expected=claimed)
        found.append((signed, taken))

    with open_file(path, accept=accept) as source:
        signed, taken = found[0]
        check_ledger(source.tx)
        head = audit.head(source.tx)
        if head != (signed.size, signed.root):
            raise BadBackup(about="log", got=head[1], expected=signed.root)
        yield Backup(signed, taken, source.tx, source.tables)


def _checkpoint_of(path: Path, origin: str, public: bytes) -> Checkpoint:
    with open_backup(path, origin=origin, public=public) as backup:
        return backup.checkpoint


def check_ledger(tx: Tx) -> None:
    """Log, books and replay agree, or BooksWrong."""
    audit.check_log(tx)
    books.check_books(tx)
    books.check_replay(tx)


def _fill(tx: Tx, path: Path, *, origin: str, key: SigningKey, now: Instant) -> None:
    with new_file(path) as sink:
        copy(tx, sink.tx, sink.tables)
        size, root = audit.head(sink.tx)
        text = checkpoint_text(Checkpoint(origin, size, root))
        text += f"backup {sink.digest().hex()} {now}\n"
        sink.seal(sign_note(text, name=origin, key=key))


def _parse_extension(text: str) -> tuple[bytes, Instant]:
    """The line after the checkpoint: the digest of everything, and when it was made."""
    line = text.split("\n")[3]
    found = _EXTENSION.fullmatch(line)
    if found is None:
        raise BadBackup(about="note", got=line, expected="backup DIGEST TIME")
    return unhex(found[1], about="backup digest", size=32), Instant(int(found[2]))


@contextmanager
def _made(path: Path, *, force: bool) -> Iterator[Path]:
    """A new file beside `path` that takes its name when the block ends well, and else is gone."""
    if path.exists() and not force:
        raise AlreadyExists(about=path, expected="a new name, or --force")
    try:
        number, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".new")
    except OSError as cause:
        raise FileTrouble(about=path, got=cause.strerror) from cause
    os.close(number)
    new = Path(name)
    try:
        yield new
        if force:
            new.replace(path)
        else:
            os.link(new, path)  # unlike a rename, it fails where somebody was faster
        _sync(path.parent)
    except FileExistsError as cause:
        raise AlreadyExists(about=path, expected="a new name, or --force") from cause
    except OSError as cause:
        raise FileTrouble(about=path, got=cause.strerror) from cause
    finally:
        new.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    """A name is on disk when its folder is."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
