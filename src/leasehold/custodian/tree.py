"""What witnesses and auditors ask of the log's tree: checkpoints, tiles, proofs; and who keeps the tiles.

The third part of the table of endpoints; see `desk`. Spec: docs/spec/custodian-api.md, O-17;
docs/spec/ledger.md, A-5 and A-6. Everything here is hashes but bundles of entries, which need the
right to read.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec

from leasehold.core.units import SECOND, Instant
from leasehold.custodian.desk import Call, Desk, Handler
from leasehold.custodian.ledger import audit, cosignatures, tiles
from leasehold.custodian.ledger.cosignatures import Cosignature
from leasehold.custodian.ledger.notes import ORIGIN, find_cosignature
from leasehold.custodian.ledger.operators import Right, check_right
from leasehold.custodian.ledger.tiles import Tree
from leasehold.custodian.log import Log, place_of
from leasehold.custodian.store.port import Store, Tx
from leasehold.custodian.tree_records import (
    ConsistencyView,
    CosignatureOrder,
    InclusionView,
    WitnessView,
)
from leasehold.errors import BadRequest, LeaseholdError

KEEP_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Plain:
    """An answer that is no JSON: these bytes."""

    body: bytes
    kind: str


class _Checkpoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The log at `size`, or the newest that at least `cosigned` have cosigned; as it is now without."""

    size: int | None = None
    cosigned: Annotated[int, msgspec.Meta(ge=1)] | None = None


class _Inclusion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    index: int
    size: int | None = None


class _Consistency(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    old: int
    size: int | None = None


async def checkpoint(desk: Desk, call: Call) -> object:
    """A C2SP checkpoint with its cosignatures, the note itself. Raises UnknownThing."""
    want, key, origin = call.ask(_Checkpoint), desk.settings.audit, desk.settings.origin

    def read(tx: Tx) -> str:
        size = want.size
        if want.cosigned is not None:
            size = cosignatures.newest_size(tx, want.cosigned)
        return cosignatures.cosigned_checkpoint(tx, origin=origin, key=key, size=size)

    note = await desk.custodian.look(read)
    return Plain(note.encode(), "text/plain; charset=utf-8")


async def list_witnesses(desk: Desk, _call: Call) -> object:
    """O-22: who cosigns the log, and up to where."""

    def read(tx: Tx) -> list[WitnessView]:
        size, _ = audit.head(tx)
        return [_view(one, size) for one in cosignatures.list_newest(tx)]

    return await desk.custodian.look(read)


async def cosign(desk: Desk, call: Call) -> object:
    """O-22: keep a witness's cosignature. Raises BadRequest, and as `cosignatures.keep`."""
    check_right(call.operator, Right.HASHES)
    order, origin = call.read(CosignatureOrder), desk.settings.origin
    if not ORIGIN.fullmatch(order.name) or order.name.startswith(f"{origin}/instance/"):
        raise BadRequest(about="witness name", got=order.name, expected="a witness's own")
    line = find_cosignature(order.line, name=order.name, public=order.key)

    def write(tx: Tx, now: Instant) -> WitnessView:
        found = Cosignature(
            order.name, order.size, "witness", order.key, line.seconds, line.signature, now
        )
        cosignatures.keep(tx, origin, found)
        return _view(found, audit.head(tx)[0])

    return await desk.custodian.change(write)


def _view(one: Cosignature, size: int) -> WitnessView:
    signed = Instant(one.seconds * SECOND)
    key, behind = one.public.hex(), size - one.size
    return WitnessView(one.name, one.kind, key, one.size, signed, one.at, behind)


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
    ("GET", "/log/witnesses", list_witnesses),
    ("POST", "/log/cosignature", cosign),
    ("GET", "/log/tile/{tile:path}", tile),
    ("GET", "/log/inclusion", inclusion),
    ("GET", "/log/consistency", consistency),
)
