"""Puts a backup in the ledger's place, and in the same transaction burns what it cannot know (T28, L-8).

Spec: docs/spec/backup.md, U-3 to U-5. Whatever fails, at whatever step: the ledger is the old one or the
restored one of a new epoch, and never a backup that could be served from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from leasehold.core.units import SECOND, Instant
from leasehold.custodian.backup import Backup, check_ledger, keep_copy, open_backup
from leasehold.custodian.ledger import audit, epoch, stops
from leasehold.custodian.ledger.audit import Entry
from leasehold.custodian.ledger.checks import check_reason
from leasehold.custodian.ledger.notes import Checkpoint
from leasehold.custodian.ledger.operators import Operator, Right, check_right
from leasehold.custodian.lock import held
from leasehold.custodian.mark import Mark, Stand, read_checkpoint, stand
from leasehold.custodian.settings import Settings
from leasehold.custodian.store.opening import open_store
from leasehold.custodian.store.port import Store, Tx
from leasehold.custodian.store.snapshot import copy, empty
from leasehold.errors import (
    AlreadyExists,
    BadMessage,
    BooksWrong,
    LeaseholdError,
    StoreFailed,
    UnknownThing,
    Unproven,
)

# What an operator decided against somebody; after a restore it must be decided again.
STRICT: Final = frozenset({"key.revoke", "loan.manifest", "loan.end", "stop.order", "key.cap"})
_LOST_MAX: Final = 100_000  # entries of the replaced log that are looked through
_DAMAGED: Final = frozenset({"SQLITE_NOTADB", "SQLITE_CORRUPT"})


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore did.

    `known` is the size of the longest log that anybody knew of, `lost` the strict acts (revocations,
    stops, manifests, ends) of the replaced ledger that the backup lacks, `kept` the stops among them
    that are in force again, as scope and target.
    """

    epoch: int
    size: int
    backup_size: int
    known: int
    lost: tuple[Entry, ...]
    kept: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class _Before:
    """What the ledger that is to be replaced still says."""

    head: Checkpoint | None
    epoch: int
    stops: tuple[stops.Stop, ...]
    strict: tuple[Entry, ...]


async def restore(
    store: Store,
    backup: Backup,
    *,
    now: Instant,
    operator: Operator,
    reason: str,
    newer: Sequence[Checkpoint] = (),
    replace: bool = False,
    other_history: bool = False,
) -> Restored:
    """U-4: empty the ledger, load the backup, run `epoch.restore`, in one transaction.

    `newer` are checkpoints of this log that somebody kept: each is either a beginning of the backup's
    log, or newer than the backup and then given up in the log by name. Raises Unproven where the backup
    is of another history and `other_history` is not set, AlreadyExists where the store is not empty and
    `replace` is not set, NotPermitted, BadRequest, StoreFailed.
    """
    given_up = [
        signed for signed in newer if _is_newer(backup.tx, signed, other_history=other_history)
    ]

    def act(tx: Tx) -> Restored:
        before = _look(tx, since=backup.checkpoint.size)
        if before.head is None or before.head.size:
            _check_replace(before, replace=replace)
        lost = [*given_up]
        if before.head is not None and before.head.size > backup.checkpoint.size:
            lost.append(before.head)
        empty(tx, backup.tables)
        copy(backup.tx, tx, backup.tables)
        new = epoch.restore(
            tx,
            now=now,
            operator=operator,
            reason=reason,
            least=before.epoch + 1,
            given_up=lost,
        )
        kept = _carry_stops(tx, before.stops, now=now, operator=operator)
        check_ledger(tx)
        if stand(tx, backup.checkpoint) is not Stand.EXTENDS:
            raise BooksWrong(about="restored log", expected="a log that begins with the backup's")
        tx.tell("")  # every replica looks at everything again
        size, _ = audit.head(tx)
        known = max(one.size for one in (backup.checkpoint, *lost))
        return Restored(new, size, backup.checkpoint.size, known, before.strict, kept)

    return await store.write(act)


def _check_replace(before: _Before, *, replace: bool) -> None:
    if not replace:
        size = "an unreadable log" if before.head is None else f"{before.head.size} entries"
        raise AlreadyExists(about="ledger", got=size, expected="an empty one, or --replace")


def _is_newer(tx: Tx, signed: Checkpoint, *, other_history: bool) -> bool:
    """Whether the backup lacks something that this checkpoint signed. Raises Unproven for a fork."""
    match stand(tx, signed):
        case Stand.EXTENDS | Stand.GAVE_UP:
            return False
        case Stand.OLDER:
            return True
        case Stand.FORKED if other_history:
            return True
        case Stand.FORKED:
            raise Unproven(
                about="backup",
                got="another history",
                expected=f"a log that begins with the {signed.size} entries of a kept checkpoint, "
                "or --other-history",
            )


def _look(tx: Tx, *, since: int) -> _Before:
    """As much as can be read of what is there; a ledger is replaced because it is damaged, or lost."""
    head: Checkpoint | None = None
    strict: tuple[Entry, ...] = ()
    with suppress(BooksWrong, BadMessage):
        size, root = audit.head(tx)
        head = Checkpoint("", size, root)
        strict = tuple(
            entry
            for entry in audit.entries(tx, start=since, count=_LOST_MAX)
            if entry.kind in STRICT
        )
    return _Before(head, epoch.current(tx), stops.list_stops(tx, active=True), strict)


def _carry_stops(
    tx: Tx, before: Sequence[stops.Stop], *, now: Instant, operator: Operator
) -> tuple[tuple[str, str], ...]:
    """Stops of the replaced ledger that the backup does not know, or only later, stay (invariant 6)."""
    kept = []
    known = {(one.scope, one.target): one for one in stops.list_stops(tx, active=True)}
    for one in before:
        there = known.get((one.scope, one.target))
        if there is not None and not stops.is_sooner(one, there):
            continue
        # Of a consumer, loan or instance that came after the backup there is nothing to stop.
        with suppress(UnknownThing):
            stops.carry(tx, now=now, operator=operator, stop=one)
            kept.append((one.scope, one.target))
    return tuple(kept)


async def restore_folder(
    settings: Settings,
    path: Path,
    *,
    now: Instant,
    operator: Operator,
    reason: str,
    checkpoints: Sequence[str] = (),
    replace: bool = False,
    other_history: bool = False,
    open_store: Callable[[Path, str], Store] = open_store,
) -> tuple[Restored, Path | None]:
    """U-3: check everything, keep the old ledger aside, restore, sign the new mark.

    `checkpoints` are the texts of kept ones. Gives what was done and where the old ledger is, None where
    there was none. Raises LedgerInUse, and as `open_backup`, `read_checkpoint`, `restore` do.
    """
    check_right(operator, Right.CHANGE)
    check_reason(reason)
    origin, public = settings.origin, settings.audit.public
    mark = Mark(settings.mark, origin, settings.audit)
    with (
        held(settings.folder, alone=True),
        open_backup(path, origin=origin, public=public) as found,
    ):
        newer = [read_checkpoint(text, origin=origin, public=public) for text in checkpoints]
        marked = mark.read()
        if marked is not None:
            signed, of_epoch = marked
            if stand(found.tx, signed, of_epoch=of_epoch) is not Stand.GAVE_UP:
                newer.append(signed)
        for signed in newer:
            _is_newer(found.tx, signed, other_history=other_history)
        aside = settings.folder / f"ledger-replaced-{_stamp(now)}.db"
        store = await _open(settings, aside, replace=replace, open_store=open_store)
        try:
            done = await restore(
                store,
                found,
                now=now,
                operator=operator,
                reason=reason,
                newer=newer,
                replace=replace,
                other_history=other_history,
            )
            await mark.write(store)
        finally:
            await store.close()
    return done, aside if aside.exists() else None


async def _open(
    settings: Settings, aside: Path, *, replace: bool, open_store: Callable[[Path, str], Store]
) -> Store:
    """The store to restore into, after its content was copied aside; a damaged file is moved aside."""
    ledger, store = settings.ledger, None
    try:
        store = open_store(ledger, settings.store)
        if replace and await _has_content(store):
            await keep_copy(store, aside)
    except StoreFailed as failure:
        if store is not None:
            await store.close()
        if not replace or failure.got not in _DAMAGED:
            raise
        for suffix in ("", "-wal", "-shm"):
            with suppress(FileNotFoundError):
                ledger.with_name(ledger.name + suffix).rename(aside.with_name(aside.name + suffix))
        return open_store(ledger, settings.store)
    except LeaseholdError:
        if store is not None:
            await store.close()
        raise
    return store


async def _has_content(store: Store) -> bool:
    try:
        size, _ = await store.read(audit.head)
    except BooksWrong:
        return True
    return size > 0


def _stamp(now: Instant) -> str:
    seconds, rest = divmod(now, SECOND)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y%m%dT%H%M%S}.{rest:03}Z"
