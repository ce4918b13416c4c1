"""RFC 9162 Merkle trees over byte strings: hashes, the proofs an enclave makes, and the one it checks.

Used for the nonces of one attestation window and for the audit log; the rest is in `trees`. Section
numbers are RFC 9162's.
"""

from __future__ import annotations

from collections.abc import Sequence

from leasehold.core.crypto import is_equal, sha256
from leasehold.errors import Unproven


def leaf_hash(data: bytes) -> bytes:
    """2.1.1: SHA-256(0x00 ‖ data)."""
    return sha256(b"\x00" + data)


def node_hash(left: bytes, right: bytes) -> bytes:
    """2.1.1: SHA-256(0x01 ‖ left ‖ right)."""
    return sha256(b"\x01" + left + right)


def split_of(count: int) -> int:
    """The largest power of two below `count`."""
    return 1 << (count - 1).bit_length() - 1


def inclusion_proofs(leaves: Sequence[bytes]) -> tuple[bytes, list[tuple[bytes, ...]]]:
    """The root and the inclusion proofs of all leaves at once, in O(n log n)."""
    if len(leaves) == 1:
        return leaves[0], [()]
    split = split_of(len(leaves))
    left, left_proofs = inclusion_proofs(leaves[:split])
    right, right_proofs = inclusion_proofs(leaves[split:])
    proofs = [(*proof, right) for proof in left_proofs] + [(*proof, left) for proof in right_proofs]
    return node_hash(left, right), proofs


def check_consistency(
    *, old_size: int, old_head: bytes, size: int, head: bytes, proof: Sequence[bytes]
) -> None:
    """2.1.4.2: raise Unproven unless the new tree is an append-only extension of the old one."""
    wrong = Unproven(
        about="consistency proof", got=f"{old_size} to {size}", expected="an extension"
    )
    if not 0 < old_size <= size:
        raise wrong
    if old_size == size:
        if proof or not is_equal(old_head, head):
            raise wrong
        return
    path = list(proof)
    if old_size & (old_size - 1) == 0:
        path.insert(0, old_head)
    if not path:
        raise wrong
    place, last = old_size - 1, size - 1
    while place & 1:
        place, last = place >> 1, last >> 1
    first = second = path[0]
    for step in path[1:]:
        if last == 0:
            raise wrong
        if place & 1 or place == last:
            first, second = node_hash(step, first), node_hash(step, second)
            while not place & 1 and place:
                place, last = place >> 1, last >> 1
        else:
            second = node_hash(second, step)
        place, last = place >> 1, last >> 1
    if last != 0 or not (is_equal(first, old_head) and is_equal(second, head)):
        raise wrong
