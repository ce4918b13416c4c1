"""The newest checkpoint that this folder has seen, kept beside the ledger: an old ledger contradicts it.

It catches a ledger file that somebody copied back by hand. Whoever puts back the whole folder puts
the mark back too: that only a checkpoint kept elsewhere shows. Spec: docs/spec/backup.md, U-6.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Final

from leasehold.core import merkle, trees
from leasehold.core.crypto import SigningKey, is_equal
from leasehold.core.encoding import b64
from leasehold.custodian.ledger import audit, epoch
from leasehold.custodian.ledger.notes import (
    Checkpoint,
    check_note,
    checkpoint_text,
    parse_checkpoint,
    sign_note,
)
from leasehold.custodian.log import Log, place_of
from leasehold.custodian.private_files import read_private, write_private
from leasehold.custodian.store.port import Store, Tx
from leasehold.errors import BadMessage, LeaseholdError, LedgerOld, Unproven

KEEP_SECONDS: Final = 1.0
RESTORE: Final = "epoch.restore"
_EPOCH: Final = re.compile(r"epoch ([0-9]{1,18})\Z")


class Stand(Enum):
    """How a log stands to a checkpoint of it."""

    EXTENDS = auto()  # it begins with what was signed
    GAVE_UP = auto()  # a restore knew of the checkpoint, and says so in the log
    OLDER = auto()  # it is shorter
    FORKED = auto()  # it begins with something else


def stand(tx: Tx, signed: Checkpoint, *, of_epoch: int | None = None) -> Stand:
    """Compare the log with a checkpoint; reads the log where it is longer. Raises BooksWrong.

    `of_epoch` is the epoch in which it was signed, where that is known: a restore to a later epoch gave
    up whatever was signed before it beyond its own place in the log. No copy from before the checkpoint
    knows a later epoch.
    """
    size, root = audit.head(tx)
    if size > signed.size:
        root = _root_at(tx, signed.size)
    if size >= signed.size and is_equal(root, signed.root):
        return Stand.EXTENDS
    named = {"size": signed.size, "root": b64(signed.root)}
    for _, entry in audit.read_all(tx):
        if entry.kind != RESTORE:
            continue
        given_up, later = entry.detail.get("given_up"), entry.detail.get("epoch")
        if isinstance(given_up, list) and named in given_up:
            return Stand.GAVE_UP
        is_later = of_epoch is not None and isinstance(later, int) and later > of_epoch
        if is_later and signed.size > entry.index:
            return Stand.GAVE_UP
    return Stand.OLDER if size < signed.size else Stand.FORKED


def _root_at(tx: Tx, size: int) -> bytes:
    frontier: list[tuple[int, bytes]] = []
    for leaf, entry in audit.read_all(tx):
        if entry.index == size:
            break
        trees.push(frontier, merkle.leaf_hash(leaf))
    return trees.frontier_root(frontier)


def read_checkpoint(note: str, *, origin: str, public: bytes) -> Checkpoint:
    """A checkpoint of this very log. Raises BadMessage, BadSignature, Unproven."""
    signed = parse_checkpoint(check_note(note, name=origin, public=public))
    if signed.origin != origin:
        raise Unproven(about="log origin", got=signed.origin, expected=origin)
    return signed


@dataclass(slots=True)
class Mark:
    """The file of the newest checkpoint, and the key that signs it."""

    path: Path
    origin: str
    key: SigningKey
    _written: tuple[int, bytes] | None = None

    def read(self) -> tuple[Checkpoint, int] | None:
        """The checkpoint and its epoch, None where there is no file.

        Raises as `read_checkpoint`, and FileTrouble.
        """
        if not self.path.exists():
            return None
        note = read_private(self.path).decode("utf-8", "replace")
        signed = read_checkpoint(note, origin=self.origin, public=self.key.public)
        found = _EPOCH.match(note.split("\n")[3])
        if found is None:
            raise BadMessage(about=self.path.name, expected="a fourth line: epoch NUMBER")
        return signed, int(found[1])

    def check(self, tx: Tx) -> None:
        """U-6: raise LedgerOld unless the ledger's log begins with what was signed, or gave it up."""
        found = self.read()
        if found is None:
            return
        signed, of_epoch = found
        if stand(tx, signed, of_epoch=of_epoch) in (Stand.EXTENDS, Stand.GAVE_UP):
            return
        size, root = audit.head(tx)
        raise LedgerOld(
            about=self.path.name,
            got=f"a log of {size} entries, root {b64(root)}",
            expected=f"one that begins with the {signed.size} entries of root {b64(signed.root)}",
        )

    async def write(self, store: Store) -> None:
        """Keep the log's head, if it is another than the last one. Raises StoreFailed, FileTrouble."""
        head, now = await store.read(lambda tx: (audit.head(tx), epoch.current(tx)))
        if head == self._written:
            return
        text = f"{checkpoint_text(Checkpoint(self.origin, *head))}epoch {now}\n"
        note = sign_note(text, name=self.origin, key=self.key)
        await asyncio.to_thread(write_private, self.path, note.encode(), replace=True)
        self._written = head

    async def keep(self, store: Store, log: Log) -> None:
        """Write it every second; a failure is told and tried again."""
        while True:
            await self.try_write(store, log)
            await asyncio.sleep(KEEP_SECONDS)

    async def try_write(self, store: Store, log: Log) -> None:
        """Write it, or log why not: nobody's request may fail because of it."""
        try:
            await self.write(store)
        except LeaseholdError as failure:
            log.event("mark_failed", code=failure.code, where=place_of(failure))
