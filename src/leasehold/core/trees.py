"""RFC 9162 Merkle trees: roots, and inclusion and consistency proofs over all leaves.

For those who keep a log or check one; no enclave needs it. Section numbers are RFC 9162's.
"""

from __future__ import annotations

from collections.abc import Sequence

from leasehold.core.crypto import is_equal, sha256
from leasehold.core.merkle import node_hash, split_of
from leasehold.errors import Unproven

EMPTY_ROOT = sha256(b"")


def root(leaves: Sequence[bytes]) -> bytes:
    """2.1.1: the tree head over leaf hashes (not data)."""
    if not leaves:
        return EMPTY_ROOT
    frontier: list[tuple[int, bytes]] = []
    for leaf in leaves:
        push(frontier, leaf)
    return frontier_root(frontier)


def push(frontier: list[tuple[int, bytes]], leaf: bytes) -> None:
    """Append a leaf hash to a frontier: the (size, hash) pairs of the complete subtrees, left to right."""
    size, node = 1, leaf
    while frontier and frontier[-1][0] == size:
        node = node_hash(frontier.pop()[1], node)
        size += size
    frontier.append((size, node))


def frontier_root(frontier: Sequence[tuple[int, bytes]]) -> bytes:
    """The tree head of a frontier that `push` built."""
    if not frontier:
        return EMPTY_ROOT
    head = frontier[-1][1]
    for _, left in reversed(frontier[:-1]):
        head = node_hash(left, head)
    return head


def inclusion_proof(leaves: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """2.1.3.1: the sibling hashes from the leaf at `index` up to the root."""
    if len(leaves) == 1:
        return ()
    split = split_of(len(leaves))
    if index < split:
        return (*inclusion_proof(leaves[:split], index), root(leaves[split:]))
    return (*inclusion_proof(leaves[split:], index - split), root(leaves[:split]))


def check_inclusion(
    leaf: bytes, *, index: int, size: int, proof: Sequence[bytes], head: bytes
) -> None:
    """2.1.3.2: raise Unproven unless the leaf hash stands at `index` in the tree of `size` with `head`."""
    if not 0 <= index < size:
        raise Unproven(about="inclusion proof", got=f"index {index}", expected=f"below {size}")
    place, last, result = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise Unproven(about="inclusion proof", got="too long")
        if place & 1 or place == last:
            result = node_hash(sibling, result)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            result = node_hash(result, sibling)
        place, last = place >> 1, last >> 1
    if last != 0 or not is_equal(result, head):
        raise Unproven(about="inclusion proof", got=result, expected=head)


def consistency_proof(leaves: Sequence[bytes], old_size: int) -> tuple[bytes, ...]:
    """2.1.4.1: the hashes that show the tree of `leaves` to extend its first `old_size` leaves."""
    return _subproof(old_size, leaves, complete=True)


def _subproof(old: int, leaves: Sequence[bytes], *, complete: bool) -> tuple[bytes, ...]:
    if old == len(leaves):
        return () if complete else (root(leaves),)
    split = split_of(len(leaves))
    if old <= split:
        return (*_subproof(old, leaves[:split], complete=complete), root(leaves[split:]))
    return (*_subproof(old - split, leaves[split:], complete=False), root(leaves[:split]))
