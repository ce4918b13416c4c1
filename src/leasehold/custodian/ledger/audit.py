"""The audit log: one Merkle leaf for every act, in the act's own transaction (L-1).

Spec: docs/spec/ledger.md, A-1, A-2 and A-4. Refuses to know: what the entries mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

import msgspec

from leasehold.core import merkle, trees
from leasehold.core.crypto import SigningKey, is_equal
from leasehold.core.encoding import from_json
from leasehold.core.units import Instant
from leasehold.custodian.ledger.notes import (
    Checkpoint,
    check_note,
    checkpoint_text,
    parse_checkpoint,
    sign_note,
)
from leasehold.custodian.store.port import Tx, insert
from leasehold.errors import BooksWrong, Unproven

Detail = Mapping[str, object]
Frontier = tuple[tuple[int, bytes], ...]

_HASH_BYTES: Final = 32
_PAGE: Final = 1000  # leaves read at a time when all of them are
_SORTED: Final = msgspec.json.Encoder(order="deterministic")  # keys of maps; fields as they stand


class _Leaf(msgspec.Struct, frozen=True):
    """A-2: an entry as it is hashed, its fields in the order of their names."""

    actor: str
    at: Instant
    detail: Detail | msgspec.Struct
    index: int
    kind: str


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One leaf, decoded. `actor` is an operator's name, `instance:ID` or `custodian`."""

    index: int
    at: Instant
    actor: str
    kind: str
    detail: dict[str, object]


def append(tx: Tx, *, now: Instant, actor: str, kind: str, detail: Detail | msgspec.Struct) -> int:
    """A-1, A-2: add an entry and return its index, counted from 0.

    `detail` holds JSON values, no floats; a struct's fields stand in the order of their names.
    """
    page: Page | None = tx.memo.get("page")
    if page is None:
        with one_page(tx) as page:
            return page.append(now, actor, kind, detail)
    return page.append(now, actor, kind, detail)


class Page:
    """Entries that are written together; `index` is the next one's."""

    __slots__ = ("index", "leaves")

    def __init__(self, index: int) -> None:
        self.index, self.leaves = index, list[bytes]()

    def append(self, now: Instant, actor: str, kind: str, detail: Detail | msgspec.Struct) -> int:
        """See `append` of the module."""
        index = self.index
        self.leaves.append(_SORTED.encode(_Leaf(actor, now, detail, index, kind)))
        self.index = index + 1
        return index


@contextmanager
def one_page(tx: Tx) -> Iterator[Page]:
    """Write the entries that are appended inside together, at the end; none where an error ends it.

    Nothing inside may look at the log.
    """
    page = tx.memo["page"] = Page(_frontier(tx)[0])
    try:
        yield page
    finally:
        del tx.memo["page"]
    if page.leaves:
        _write(tx, page.leaves)


def head(tx: Tx) -> tuple[int, bytes]:
    """The log's size and RFC 9162 root."""
    size, frontier = _frontier(tx)
    return size, trees.frontier_root(frontier)


def leaves(tx: Tx, *, start: int, count: int) -> tuple[bytes, ...]:
    """The exact bytes that were hashed, from index `start`, at most `count` of them."""
    rows = tx.execute(
        "SELECT leaf FROM log WHERE position >= ? AND position < ? ORDER BY position",
        (start, start + count),
    )
    return tuple(row[0] for row in rows)


def entries(tx: Tx, *, start: int, count: int) -> tuple[Entry, ...]:
    """The same, decoded."""
    return tuple(from_json(leaf, Entry) for leaf in leaves(tx, start=start, count=count))


def read_all(tx: Tx) -> Iterator[tuple[bytes, Entry]]:
    """Every leaf from index 0 with what it says. Raises BooksWrong where one is not what its place says."""
    expected = 0
    while page := leaves(tx, start=expected, count=_PAGE):
        for leaf in page:
            entry = from_json(leaf, Entry)
            if entry.index != expected:
                raise BooksWrong(about="log entry", got=entry.index, expected=expected)
            yield leaf, entry
            expected += 1


def checkpoint(tx: Tx, *, origin: str, key: SigningKey) -> str:
    """A-4: a C2SP checkpoint of the log as it is now: a note signed with the audit key under `origin`."""
    size, root = head(tx)
    return sign_note(checkpoint_text(Checkpoint(origin, size, root)), name=origin, key=key)


def verify(leaves: Sequence[bytes], checkpoint: str, *, origin: str, public: bytes) -> int:
    """Check leaves (from index 0) against a checkpoint; return its size.

    The leaves may go on beyond the checkpoint, and those are not vouched for.
    Raises BadSignature, Unproven, BadMessage.
    """
    signed = parse_checkpoint(check_note(checkpoint, name=origin, public=public))
    if signed.origin != origin:
        raise Unproven(about="log origin", got=signed.origin, expected=origin)
    if len(leaves) < signed.size:
        raise Unproven(about="log size", got=len(leaves), expected=f">= {signed.size}")
    for index, leaf in enumerate(leaves[: signed.size]):
        if from_json(leaf, Entry).index != index:
            raise Unproven(about="log entry", got=leaf, expected=f"index {index}")
    root = trees.root([merkle.leaf_hash(leaf) for leaf in leaves[: signed.size]])
    if not is_equal(root, signed.root):
        raise Unproven(about="log root", got=root, expected=signed.root)
    return signed.size


def check_log(tx: Tx) -> None:
    """Recompute the whole tree from the leaves; raise BooksWrong where it is not the stored head."""
    size, stored = _stored_frontier(tx)
    frontier: list[tuple[int, bytes]] = []
    for leaf, _ in read_all(tx):
        trees.push(frontier, merkle.leaf_hash(leaf))
    if tuple(frontier) != stored:
        count = sum(complete for complete, _ in frontier)
        raise BooksWrong(
            about="audit log", got=f"{count} entries", expected=f"{size} and their root"
        )


def _write(tx: Tx, leaves: Sequence[bytes]) -> None:
    size, old = _frontier(tx)
    frontier = list(old)
    for leaf in leaves:
        trees.push(frontier, merkle.leaf_hash(leaf))
    rows = list(enumerate(leaves, size))
    insert(tx, "INSERT INTO log (position, leaf) VALUES (?, ?)", rows)
    size += len(leaves)
    tx.execute(
        "UPDATE log_head SET size = ?, frontier = ?",
        (size, b"".join([node for _, node in frontier])),
    )
    tx.memo["log"] = (size, tuple(frontier))


def _frontier(tx: Tx) -> tuple[int, Frontier]:
    """The log's size and frontier, read from the database once in a transaction."""
    known: tuple[int, Frontier] | None = tx.memo.get("log")
    if known is None:
        known = tx.memo["log"] = _stored_frontier(tx)
    return known


def _stored_frontier(tx: Tx) -> tuple[int, Frontier]:
    """The set bits of the size are the sizes of the complete subtrees, largest first."""
    size, packed = tx.execute("SELECT size, frontier FROM log_head")[0]
    sizes = [1 << bit for bit in range(size.bit_length() - 1, -1, -1) if size >> bit & 1]
    if len(packed) != len(sizes) * _HASH_BYTES:
        raise BooksWrong(about="log frontier", got=len(packed), expected=len(sizes) * _HASH_BYTES)
    hashes = (packed[start : start + _HASH_BYTES] for start in range(0, len(packed), _HASH_BYTES))
    return size, tuple(zip(sizes, hashes, strict=True))
