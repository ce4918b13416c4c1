"""What witnesses and auditors ask of the log's tree: checkpoints, tiles, proofs; and who keeps the tiles.

The third part of the table of endpoints; see `desk`. Spec: docs/spec/custodian-api.md, O-17;
docs/spec/ledger.md, A-5 and A-6. Everything here is hashes but bundles of entries, which need the
right to read.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

import msgspec

from leasehold.custodian.desk import Call, Desk, Handler
from leasehold.custodian.ledger import audit, tiles
from leasehold.custodian.ledger.operators import Right, check_right
from leasehold.custodian.ledger.tiles import Tree
from leasehold.custodian.log import Log, place_of
from leasehold.custodian.records import ConsistencyView, InclusionView
from leasehold.custodian.store.port import Store, Tx
from leasehold.errors import LeaseholdError

KEEP_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Plain:
    """An answer that is no JSON: these bytes."""

    body: bytes
    kind: str


class _Inclusion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    index: int
    size: int | None = None


class _Consistency(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    old: int
    size: int | None = None


async def checkpoint(desk: Desk, _call: Call) -> object:
    """A fresh C2SP checkpoint, the note itself."""
    key, origin = desk.settings.audit, desk.settings.origin
    note = await desk.custodian.look(lambda tx: audit.checkpoint(tx, origin=origin, key=key))
    return Plain(note.encode(), "text/plain; charset=utf-8")


async def tile(desk: Desk, call: Call) -> object:
    """A tile of hashes, or a bundle of entries for who may read those. Raises UnknownThing."""
    level, number, width = tiles.parse_path(call.path["tile"])
    if level is None:
        check_right(call.operator, Right.READ)

    def read(tx: Tx) -> bytes:
        if level is None:
            return tiles.bundle(tx, number, width)
        return Tree(tx).tile(level, number, width)

    return Plain(await desk.custodian.look(read), "application/octet-stream")


async def inclusion(desk: Desk, call: Call) -> object:
    """The proof that an entry is in the log. Raises UnknownThing."""
    want, key, origin = call.ask(_Inclusion), desk.settings.audit, desk.settings.origin

    def prove(tx: Tx) -> InclusionView:
        tree = Tree(tx, want.size)
        note = audit.checkpoint(tx, origin=origin, key=key) if want.size is None else ""
        return InclusionView(want.index, tree.size, tree.inclusion(want.index), note)

    return await desk.custodian.look(prove)


async def consistency(desk: Desk, call: Call) -> object:
    """The proof that the log extends what it was. Raises UnknownThing."""
    want, key, origin = call.ask(_Consistency), desk.settings.audit, desk.settings.origin

    def prove(tx: Tx) -> ConsistencyView:
        tree = Tree(tx, want.size)
        note = audit.checkpoint(tx, origin=origin, key=key) if want.size is None else ""
        return ConsistencyView(want.old, tree.size, tree.consistency(want.old), note)

    return await desk.custodian.look(prove)


async def keep_tiles(store: Store, log: Log) -> None:
    """A-5: store tiles as they fill, a few in one transaction, so that nobody waits long for it."""
    while True:
        done = 0
        try:
            done = await store.write(tiles.store_full)
        except LeaseholdError as failure:
            log.event("tiles_not_stored", code=failure.code, where=place_of(failure))
        await asyncio.sleep(0 if done else KEEP_SECONDS)


ENDPOINTS: Final[tuple[tuple[str, str, Handler], ...]] = (
    ("GET", "/log/checkpoint", checkpoint),
    ("GET", "/log/tile/{tile:path}", tile),
    ("GET", "/log/inclusion", inclusion),
    ("GET", "/log/consistency", consistency),
)
