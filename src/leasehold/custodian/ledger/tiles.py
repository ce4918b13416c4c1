"""The log's tree in tiles of 256 hashes, so that a proof reads a few of them and never the whole log.

Spec: docs/spec/ledger.md, A-5 and A-6; C2SP tlog-tiles. A tile of level 0 holds leaf hashes, one of
level n + 1 the roots of 256 tiles of level n. Full tiles are stored once; what is not stored yet is
hashed from the leaves, so a proof is right whether or not `store_full` has run. Refuses to know:
what the entries mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from leasehold.core import merkle, trees
from leasehold.custodian.ledger import audit
from leasehold.custodian.store.port import Tx
from leasehold.errors import BooksWrong, UnknownThing

WIDTH: Final = 256
LEVELS_MAX: Final = 7  # 256^7 entries are more than the store can count
STORED_AT_ONCE: Final = 64  # tiles: 16,384 leaves, some 20 ms of the writer's time
ENTRY_BYTES_MAX: Final = (1 << 16) - 1  # what a bundle's two bytes of length can say
_HEIGHT: Final = 8
_HASH_BYTES: Final = 32


class Tree:
    """The tree as it was at `size` entries, read through one transaction.

    Raises UnknownThing for a size that the log does not have.
    """

    def __init__(self, tx: Tx, size: int | None = None) -> None:
        self._tx, (self._log, _) = tx, audit.head(tx)
        self.size = self._log if size is None else size
        if not 0 <= self.size <= self._log:
            raise UnknownThing(about="log size", got=size, expected=f"0 to {self._log}")
        self._tiles: dict[tuple[int, int], Sequence[bytes]] = {}

    def root(self) -> bytes:
        """RFC 9162, 2.1.1."""
        return self._range(0, self.size) if self.size else trees.EMPTY_ROOT

    def inclusion(self, index: int) -> tuple[bytes, ...]:
        """RFC 9162, 2.1.3.1: the proof that the entry at `index` is in the tree. Raises UnknownThing."""
        if not 0 <= index < self.size:
            raise UnknownThing(about="log entry", got=index, expected=f"below {self.size}")
        start, end, path = 0, self.size, []
        while end - start > 1:
            split = start + _split(end - start)
            if index < split:
                path.append(self._range(split, end))
                end = split
            else:
                path.append(self._range(start, split))
                start = split
        return tuple(reversed(path))

    def consistency(self, old: int) -> tuple[bytes, ...]:
        """RFC 9162, 2.1.4.1: the proof that the tree extends its first `old` entries. Raises UnknownThing."""
        if not 0 < old <= self.size:
            raise UnknownThing(about="log size", got=old, expected=f"1 to {self.size}")
        start, end, path = 0, self.size, []
        while old != end:
            split = start + _split(end - start)
            if old <= split:
                path.append(self._range(split, end))
                end = split
            else:
                path.append(self._range(start, split))
                start = split
        if start:
            path.append(self._range(start, end))
        return tuple(reversed(path))

    def tile(self, level: int, number: int, width: int) -> bytes:
        """The first `width` hashes of a tile. Raises UnknownThing where the tree has not so many yet."""
        there = min(WIDTH, (self.size >> _HEIGHT * level) - WIDTH * number)
        if not 0 <= level < LEVELS_MAX or number < 0 or not 0 < width <= there:
            raise UnknownThing(
                about=f"tile {level}/{number}", got=f"width {width}", expected=f"<= {max(there, 0)}"
            )
        return b"".join(self._hashes(level, number)[:width])

    def _range(self, start: int, end: int) -> bytes:
        """The root over the entries from `start` to `end`, which RFC 9162's splits lead to."""
        subtrees: list[tuple[int, bytes]] = []
        while start < end:
            size = 1 << (end - start).bit_length() - 1
            subtrees.append((size, self._complete(start, size)))
            start += size
        return trees.frontier_root(subtrees)

    def _complete(self, start: int, size: int) -> bytes:
        """The root of a complete subtree: it lies within one tile, or is one whole one."""
        level, width = divmod(size.bit_length() - 1, _HEIGHT)
        place = start >> _HEIGHT * level
        offset = place % WIDTH
        return trees.root(self._hashes(level, place // WIDTH)[offset : offset + (1 << width)])

    def _hashes(self, level: int, number: int) -> Sequence[bytes]:
        """All hashes that a tile has in the log as it is now."""
        known = self._tiles.get((level, number))
        if known is None:
            known = self._tiles[level, number] = self._read(level, number)
        return known

    def _read(self, level: int, number: int) -> Sequence[bytes]:
        rows = self._tx.execute(
            "SELECT hashes FROM log_tiles WHERE level = ? AND number = ?", (level, number)
        )
        if rows:
            return _split_hashes(rows[0][0])
        first = WIDTH * number
        if level == 0:
            found = audit.leaves(self._tx, start=first, count=WIDTH)
            return [merkle.leaf_hash(leaf) for leaf in found]
        stop = min(first + WIDTH, self._log >> _HEIGHT * level)
        roots: dict[int, bytes] = {
            row[0]: row[1]
            for row in self._tx.execute(
                "SELECT number, root FROM log_tiles WHERE level = ? AND number >= ? AND number < ?",
                (level - 1, first, stop),
            )
        }
        return [
            roots.get(below) or trees.root(self._hashes(level - 1, below))
            for below in range(first, stop)
        ]


def store_full(tx: Tx, *, limit: int = STORED_AT_ONCE) -> int:
    """A-5: store full tiles that are not stored yet, at most `limit`; return how many. Raises StoreFailed."""
    tree, done = Tree(tx), 0
    for level in range(LEVELS_MAX):
        full = tree.size >> _HEIGHT * (level + 1)
        query = "SELECT COALESCE(MAX(number) + 1, 0) FROM log_tiles WHERE level = ?"
        number = tx.execute(query, (level,))[0][0]
        if not full:
            break
        for missing in range(number, min(full, number + limit - done)):
            hashes = tree.tile(level, missing, WIDTH)
            tx.execute(
                "INSERT INTO log_tiles (level, number, hashes, root) VALUES (?, ?, ?, ?)",
                (level, missing, hashes, trees.root(_split_hashes(hashes))),
            )
            done += 1
    return done


def bundle(tx: Tx, number: int, width: int) -> bytes:
    """A-6: entries as C2SP bundles them: each with its length in two bytes before it.

    Raises UnknownThing, also where an entry is longer than that can say.
    """
    found = audit.leaves(tx, start=WIDTH * number, count=WIDTH)
    if not 0 < width <= len(found):
        raise UnknownThing(
            about=f"entries {number}", got=f"width {width}", expected=f"<= {len(found)}"
        )
    for index, leaf in enumerate(found[:width]):
        if len(leaf) > ENTRY_BYTES_MAX:
            raise UnknownThing(
                about=f"entry {WIDTH * number + index}",
                got=f"{len(leaf)} bytes",
                expected=f"<= {ENTRY_BYTES_MAX}: read it as /operator/audit",
            )
    return b"".join(len(leaf).to_bytes(2, "big") + leaf for leaf in found[:width])


def check_tiles(tx: Tx) -> None:
    """Compute every stored tile from the leaves. Raises BooksWrong where one is another."""
    level: list[bytes] = [merkle.leaf_hash(leaf) for leaf, _ in audit.read_all(tx)]
    stored = {
        (row[0], row[1]): (row[2], row[3])
        for row in tx.execute("SELECT level, number, hashes, root FROM log_tiles")
    }
    for depth in range(LEVELS_MAX):
        above: list[bytes] = []
        for number in range(len(level) // WIDTH):
            hashes = level[WIDTH * number : WIDTH * (number + 1)]
            above.append(trees.root(hashes))
            found = stored.pop((depth, number), None)
            if found is not None and found != (b"".join(hashes), above[-1]):
                raise BooksWrong(about=f"tile {depth}/{number}", got=found[1], expected=above[-1])
        level = above
    for name in stored:
        raise BooksWrong(about=f"tile {name}", got="stored", expected="a tile that the log has")


def parse_path(path: str) -> tuple[int | None, int, int]:
    """A-6: what follows `tile/`: level (None for entries), number and width. Raises UnknownThing."""
    wrong = UnknownThing(about=f"tile/{path}", expected="L/N or entries/N, N as x001/234, .p/W")
    rest, partial, width = path.partition(".p/")
    kind, _, places = rest.partition("/")
    *above, last = places.split("/")
    digits = [part.removeprefix("x") for part in above] + [last]
    plain = (*digits, *([width] if partial else []), *([] if kind == "entries" else [kind]))
    if not all(part.isascii() and part.isdigit() for part in plain) or len(digits) > 6:
        raise wrong
    number = int("".join(digits))
    level = None if kind == "entries" else int(kind)
    count = int(width) if partial else WIDTH
    if not 0 < count <= WIDTH or tile_path(level, number, count) != path:
        raise wrong
    return level, number, count


def tile_path(level: int | None, number: int, width: int = WIDTH) -> str:
    """The inverse: three digits at a time, all but the last with an `x` before them."""
    text = str(number)
    text = text.zfill(-(-len(text) // 3) * 3)
    groups = [text[start : start + 3] for start in range(0, len(text), 3)]
    places = "/".join([f"x{group}" for group in groups[:-1]] + groups[-1:])
    kind = "entries" if level is None else str(level)
    return f"{kind}/{places}" + ("" if width == WIDTH else f".p/{width}")


def _split(count: int) -> int:
    """The largest power of two below `count`."""
    return 1 << (count - 1).bit_length() - 1


def _split_hashes(packed: bytes) -> list[bytes]:
    return [packed[at : at + _HASH_BYTES] for at in range(0, len(packed), _HASH_BYTES)]
