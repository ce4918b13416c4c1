"""RFC 9162 trees: our roots and proofs against pymerkle's and against hostile changes."""

import hypothesis.strategies as st
import pytest
from hypothesis import given
from pymerkle import InmemoryTree

from leasehold.core.merkle import check_consistency, leaf_hash
from leasehold.core.trees import (
    EMPTY_ROOT,
    check_inclusion,
    consistency_proof,
    frontier_root,
    inclusion_proof,
    push,
    root,
)
from leasehold.errors import Unproven

SIZES = st.integers(1, 70)


def leaves(count: int) -> list[bytes]:
    return [leaf_hash(str(number).encode()) for number in range(count)]


def other_tree(count: int) -> InmemoryTree:
    tree = InmemoryTree(algorithm="sha256")
    for number in range(count):
        tree.append_entry(str(number).encode())
    return tree


def flip(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


def test_known_roots() -> None:
    """RFC 9162, 2.1.1, and the first roots of the certificate transparency test vectors."""
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert root([]) == EMPTY_ROOT == frontier_root([])
    assert (
        leaf_hash(b"").hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    )
    two = root([leaf_hash(b""), leaf_hash(b"\x00")])
    assert two.hex() == "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"


@given(count=SIZES)
def test_roots_are_those_of_another_implementation(count: int) -> None:
    assert root(leaves(count)) == other_tree(count).get_root()


@given(count=SIZES)
def test_a_frontier_has_one_node_for_every_bit_of_the_size(count: int) -> None:
    frontier: list[tuple[int, bytes]] = []
    for leaf in leaves(count):
        push(frontier, leaf)
    assert sum(size for size, _ in frontier) == count
    assert len(frontier) == count.bit_count()
    assert frontier_root(frontier) == root(leaves(count))


@given(count=SIZES, data=st.data())
def test_every_leaf_has_a_proof_and_no_other_leaf_has_it(count: int, data: st.DataObject) -> None:
    tree = leaves(count)
    index = data.draw(st.integers(0, count - 1))
    proof, head = inclusion_proof(tree, index), root(tree)
    check_inclusion(tree[index], index=index, size=count, proof=proof, head=head)
    lies = [
        (flip(tree[index]), index, proof, head),
        (tree[index], index, proof, flip(head)),
        (tree[index], index, (*proof, head), head),
        (tree[index], count, proof, head),
        (tree[index], -1, proof, head),
    ]
    if proof:
        lies += [
            (tree[index], index, proof[:-1], head),
            (tree[index], index ^ 1, proof, head),
            (tree[index], index, (flip(proof[0]), *proof[1:]), head),
        ]
    for leaf, place, path, top in lies:
        with pytest.raises(Unproven):
            check_inclusion(leaf, index=place, size=count, proof=path, head=top)


@given(count=SIZES, data=st.data())
def test_growth_has_a_proof_and_rewriting_has_none(count: int, data: st.DataObject) -> None:
    tree = leaves(count)
    old = data.draw(st.integers(1, count))
    proof, head, old_head = consistency_proof(tree, old), root(tree), root(tree[:old])

    def check(**changes: object) -> None:
        case = {
            "old_size": old,
            "old_head": old_head,
            "size": count,
            "head": head,
            "proof": proof,
        }
        check_consistency(**(case | changes))  # type: ignore[arg-type]

    check()
    rewritten = [flip(tree[0]), *tree[1:]]
    lies: list[dict[str, object]] = [
        {"old_head": root(rewritten[:old])},
        {"head": root(rewritten)},
        {"old_size": 0},
        {"old_size": count + 1},
        {"proof": (*proof, head)},
    ]
    if proof:
        lies += [{"proof": proof[:-1]}, {"proof": (flip(proof[0]), *proof[1:])}]
    for lie in lies:
        with pytest.raises(Unproven):
            check(**lie)
