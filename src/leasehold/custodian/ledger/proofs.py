"""An entry of the audit log with all that shows it to be there: checked by anybody, without the custodian.

Spec: docs/spec/ledger.md, A-7. Refuses to know: where the proof comes from.
"""

from __future__ import annotations

from typing import Final

import msgspec

from leasehold.core import merkle, trees
from leasehold.core.encoding import from_json
from leasehold.custodian.ledger.audit import Entry
from leasehold.custodian.ledger.notes import check_note, parse_checkpoint
from leasehold.errors import Unproven

PROOF_HASHES_MAX: Final = 63


class Proof(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`leaf` is the exact bytes, `proof` the hashes of RFC 9162, 2.1.3, `checkpoint` a signed note."""

    index: int
    leaf: bytes
    proof: tuple[bytes, ...]
    checkpoint: str


def check_proof(proof: Proof, *, origin: str, public: bytes) -> int:
    """A-7: check that the entry is in the log that the checkpoint signs; return the log's size.

    Raises BadSignature, BadMessage, Unproven.
    """
    signed = parse_checkpoint(check_note(proof.checkpoint, name=origin, public=public))
    if signed.origin != origin:
        raise Unproven(about="log origin", got=signed.origin, expected=origin)
    if len(proof.proof) > PROOF_HASHES_MAX:
        raise Unproven(
            about="inclusion proof", got=len(proof.proof), expected=f"<= {PROOF_HASHES_MAX} hashes"
        )
    trees.check_inclusion(
        merkle.leaf_hash(proof.leaf),
        index=proof.index,
        size=signed.size,
        proof=proof.proof,
        head=signed.root,
    )
    index = from_json(proof.leaf, Entry).index
    if index != proof.index:
        raise Unproven(about="log entry", got=f"index {index}", expected=f"index {proof.index}")
    return signed.size
