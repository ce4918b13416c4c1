"""Tiles and the proofs read from them, against the plain tree and against another implementation."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from pymerkle import InmemoryTree

from leasehold.core import merkle, trees
from leasehold.custodian.ledger import audit, tiles
from leasehold.custodian.store.inline import InlineStore
from leasehold.errors import BooksWrong, UnknownThing

from .stage import Stage

SIZES = (1, 2, 255, 256, 257, 511, 512, 513, 700)
BIG = 256 * 256 + 256 * 3 + 7


def grown(
    count: int, *, stored: int = 1 << 20, stage: Stage | None = None
) -> tuple[Stage, list[bytes]]:
    """A log of `count` entries, and the leaves."""
    stage = stage or Stage()

    def fill(tx: object) -> None:
        for number in range(count):
            audit.append(tx, now=stage.now, actor="a", kind="k", detail={"n": number})  # type: ignore[arg-type]

    stage.do(fill)
    if stored:
        stage.do(lambda tx: tiles.store_full(tx, limit=stored))
    return stage, list(stage.see(lambda tx: audit.leaves(tx, start=0, count=count)))


@pytest.fixture(scope="module")
def log() -> tuple[Stage, list[bytes], InmemoryTree]:
    stage, leaves = grown(max(SIZES))
    other = InmemoryTree(algorithm="sha256")
    for leaf in leaves:
        other.append_entry(leaf)
    return stage, leaves, other


@pytest.mark.parametrize("size", SIZES)
def test_roots_and_proofs_are_those_of_another_implementation(
    log: tuple[Stage, list[bytes], InmemoryTree], size: int
) -> None:
    """A-5, at every kind of size: below, at and above full tiles."""
    stage, leaves, other = log
    tree = stage.see(lambda tx: (tiles.Tree(tx, size), tiles.Tree(tx, size).root()))
    assert tree[1] == other.get_root(size)
    for index in {0, size // 2, size - 1}:
        proof = stage.see(lambda tx, i=index: tiles.Tree(tx, size).inclusion(i))
        theirs = other.prove_inclusion(index + 1, size).path
        assert list(proof) == theirs[1:]
        leaf = merkle.leaf_hash(leaves[index])
        trees.check_inclusion(leaf, index=index, size=size, proof=proof, head=tree[1])
    for old in {1, size // 2 or 1, size}:
        proof = stage.see(lambda tx, o=old: tiles.Tree(tx, size).consistency(o))
        merkle.check_consistency(
            old_size=old,
            old_head=other.get_root(old),
            size=size,
            head=other.get_root(size),
            proof=proof,
        )


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_proofs_are_those_of_the_plain_tree(
    log: tuple[Stage, list[bytes], InmemoryTree], data: st.DataObject
) -> None:
    stage, leaves, _ = log
    hashes = [merkle.leaf_hash(leaf) for leaf in leaves]
    size = data.draw(st.integers(1, len(leaves)))
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size))
    found = stage.see(
        lambda tx: (
            tiles.Tree(tx, size).inclusion(index),
            tiles.Tree(tx, size).consistency(old),
            tiles.Tree(tx, size).root(),
        )
    )
    plain = hashes[:size]
    assert found == (
        trees.inclusion_proof(plain, index),
        trees.consistency_proof(plain, old),
        trees.root(plain),
    )


@pytest.mark.parametrize("stored", [0, 1, 2, 3])
def test_what_is_not_stored_yet_is_hashed_from_the_leaves(stored: int) -> None:
    """A-5: storing is for speed only."""
    stage, leaves = grown(800, stored=stored)
    count = stage.see(lambda tx: tx.execute("SELECT COUNT(*) FROM log_tiles"))[0][0]
    assert count == stored
    hashes = [merkle.leaf_hash(leaf) for leaf in leaves]
    proof = stage.see(lambda tx: tiles.Tree(tx).inclusion(3))
    assert proof == trees.inclusion_proof(hashes, 3)
    assert stage.see(lambda tx: tiles.Tree(tx, 0).root()) == trees.EMPTY_ROOT
    stage.see(tiles.check_tiles)


def test_three_levels() -> None:
    """A log whose second level is full: 65,536 entries and some."""
    stage, leaves = grown(BIG, stage=Stage(InlineStore.open()))  # one store: 65,000 statements
    hashes = [merkle.leaf_hash(leaf) for leaf in leaves]
    rows = stage.see(lambda tx: tx.execute("SELECT level, COUNT(*) FROM log_tiles GROUP BY level"))
    assert sorted(rows) == [(0, 259), (1, 1)]
    for size, index, old in ((BIG, 65_600, 65_536), (BIG, 0, 1), (65_536, 255, 65_535)):
        plain = hashes[:size]
        tree = stage.see(lambda tx, s=size: tiles.Tree(tx, s).root())
        assert tree == trees.root(plain)
        proof = stage.see(lambda tx, s=size, i=index: tiles.Tree(tx, s).inclusion(i))
        trees.check_inclusion(plain[index], index=index, size=size, proof=proof, head=tree)
        proof = stage.see(lambda tx, s=size, o=old: tiles.Tree(tx, s).consistency(o))
        merkle.check_consistency(
            old_size=old, old_head=trees.root(plain[:old]), size=size, head=tree, proof=proof
        )
    top = stage.see(lambda tx: tiles.Tree(tx).tile(2, 0, 1))
    assert top == trees.root(hashes[:65_536])
    stage.see(tiles.check_tiles)


def test_tiles_and_bundles_are_c2sps(log: tuple[Stage, list[bytes], InmemoryTree]) -> None:
    """A-6: read here by the letter of tlog-tiles."""
    stage, leaves, _ = log
    hashes = [merkle.leaf_hash(leaf) for leaf in leaves]
    assert stage.see(lambda tx: tiles.Tree(tx).tile(0, 1, 256)) == b"".join(hashes[256:512])
    assert stage.see(lambda tx: tiles.Tree(tx).tile(0, 2, 9)) == b"".join(hashes[512:521])
    roots = [trees.root(hashes[:256]), trees.root(hashes[256:512])]
    assert stage.see(lambda tx: tiles.Tree(tx).tile(1, 0, 2)) == b"".join(roots)
    packed, entries = stage.see(lambda tx: tiles.bundle(tx, 2, 10)), []
    while packed:
        size = int.from_bytes(packed[:2], "big")
        entries.append(packed[2 : 2 + size])
        packed = packed[2 + size :]
    assert entries == leaves[512:522]


@pytest.mark.parametrize(
    "ask",
    [
        lambda tx: tiles.Tree(tx).tile(0, 2, 189),
        lambda tx: tiles.Tree(tx).tile(0, 3, 1),
        lambda tx: tiles.Tree(tx).tile(1, 0, 3),
        lambda tx: tiles.Tree(tx).tile(0, -1, 1),
        lambda tx: tiles.Tree(tx).tile(7, 0, 1),
        lambda tx: tiles.Tree(tx).tile(0, 0, 0),
        lambda tx: tiles.Tree(tx).inclusion(700),
        lambda tx: tiles.Tree(tx).inclusion(-1),
        lambda tx: tiles.Tree(tx).consistency(0),
        lambda tx: tiles.Tree(tx).consistency(701),
        lambda tx: tiles.Tree(tx, 701),
        lambda tx: tiles.bundle(tx, 2, 189),
        lambda tx: tiles.bundle(tx, 9, 1),
        lambda tx: tiles.bundle(tx, 0, 0),
    ],
)
def test_what_the_log_does_not_have_is_refused(
    log: tuple[Stage, list[bytes], InmemoryTree], ask: object
) -> None:
    with pytest.raises(UnknownThing):
        log[0].see(ask)  # type: ignore[arg-type]


def test_an_entry_too_long_for_a_bundle_is_refused_and_still_proved() -> None:
    """A-6."""
    stage = Stage()
    detail = {"x": "y" * 70_000}
    stage.do(lambda tx: audit.append(tx, now=stage.now, actor="a", kind="k", detail=detail))
    with pytest.raises(UnknownThing):
        stage.see(lambda tx: tiles.bundle(tx, 0, 1))
    assert stage.see(lambda tx: tiles.Tree(tx).inclusion(0)) == ()


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE log_tiles SET root = (SELECT root FROM log_tiles WHERE number = 0) WHERE number = 1",
        "UPDATE log_tiles SET hashes = (SELECT hashes FROM log_tiles WHERE number = 0)",
        "UPDATE log_tiles SET number = 5 WHERE number = 1",
    ],
)
def test_a_stored_tile_that_is_another_is_found(sql: str) -> None:
    stage, _ = grown(600)
    stage.edit(sql)
    with pytest.raises(BooksWrong):
        stage.see(tiles.check_tiles)


@given(
    level=st.one_of(st.none(), st.integers(0, 6)),
    number=st.integers(0, 10**17),
    width=st.integers(1, 256),
)
def test_paths_are_read_as_they_are_written(level: int | None, number: int, width: int) -> None:
    assert tiles.parse_path(tiles.tile_path(level, number, width)) == (level, number, width)


def test_paths_are_c2sps() -> None:
    """A-6, with the example of the specification."""
    assert tiles.tile_path(0, 1_234_067) == "0/x001/x234/067"
    assert tiles.tile_path(None, 5, 8) == "entries/005.p/8"


@pytest.mark.parametrize(
    "path",
    ["", "0", "0/", "0/1", "0/0001", "0/x001", "x0/001", "00/001", "0/001.p/0", "0/001.p/256",
     "0/001.p/257", "0/001.p/08", "0/x000/001", "-1/001", "0/001.p/", "e/001", "entries/001/002",
     "0/" + "x001/" * 9 + "001", "0/٠٠١"],
)  # fmt: skip
def test_other_paths_are_refused(path: str) -> None:
    with pytest.raises(UnknownThing):
        tiles.parse_path(path)
