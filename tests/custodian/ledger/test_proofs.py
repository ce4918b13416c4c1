"""A proof of one entry is checked without the custodian, and each lie in it is refused by its reason."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from leasehold.core import merkle
from leasehold.core.crypto import SigningKey
from leasehold.core.encoding import to_json
from leasehold.custodian.ledger import audit, tiles
from leasehold.custodian.ledger.notes import Checkpoint, checkpoint_text, sign_note
from leasehold.custodian.ledger.proofs import Proof, check_proof
from leasehold.errors import BadMessage, BadSignature, LeaseholdError, Unproven

from .stage import ready

KEY = SigningKey.load(b"k" * 32)
ORIGIN = "custodian.example/ledger"
INDEX = 3


@pytest.fixture
def proof() -> Proof:
    stage = ready()
    return stage.see(
        lambda tx: Proof(
            INDEX,
            audit.leaves(tx, start=INDEX, count=1)[0],
            tiles.Tree(tx).inclusion(INDEX),
            audit.checkpoint(tx, origin=ORIGIN, key=KEY),
        )
    )


def check(proof: Proof) -> int:
    return check_proof(proof, origin=ORIGIN, public=KEY.public)


def forged(proof: Proof, key: SigningKey = KEY, origin: str = ORIGIN) -> Proof:
    note = sign_note(checkpoint_text(Checkpoint(origin, 9, bytes(32))), name=ORIGIN, key=key)
    return replace(proof, checkpoint=note)


def test_a_proof_holds(proof: Proof) -> None:
    """A-7."""
    assert check(proof) > INDEX


@pytest.mark.parametrize(
    ("lie", "refusal", "about"),
    [
        (lambda p: replace(p, leaf=p.leaf.replace(b"ada", b"eve")), Unproven, "inclusion proof"),
        (lambda p: replace(p, index=p.index - 1), Unproven, "inclusion proof"),
        (lambda p: replace(p, index=1 << 40), Unproven, "inclusion proof"),
        (lambda p: replace(p, proof=p.proof[:-1]), Unproven, "inclusion proof"),
        (lambda p: replace(p, proof=(*p.proof, bytes(32))), Unproven, "inclusion proof"),
        (lambda p: replace(p, proof=(bytes(32),) * 64), Unproven, "inclusion proof"),
        (lambda p: replace(p, checkpoint=""), BadMessage, "signed note"),
        (lambda p: forged(p), Unproven, "inclusion proof"),
        (lambda p: forged(p, SigningKey.load(b"x" * 32)), BadSignature, "signed note"),
        (lambda p: forged(p, origin="other.example"), Unproven, "log origin"),
    ],
)
def test_each_lie_is_refused(
    proof: Proof,
    lie: Callable[[Proof], Proof],
    refusal: type[LeaseholdError],
    about: str,
) -> None:
    with pytest.raises(refusal) as caught:
        check(lie(proof))
    assert caught.value.about == about


def test_a_leaf_that_names_another_index_is_refused() -> None:
    leaf = to_json({"actor": "a", "at": 0, "detail": {}, "index": 5, "kind": "k"})
    text = checkpoint_text(Checkpoint(ORIGIN, 1, merkle.leaf_hash(leaf)))
    lone = Proof(0, leaf, (), sign_note(text, name=ORIGIN, key=KEY))
    with pytest.raises(Unproven) as caught:
        check(lone)
    assert caught.value.about == "log entry"
