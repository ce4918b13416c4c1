"""A witness signs what extends what it saw, refuses all else by its reason, and never forgets."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from msgspec.structs import replace

from leasehold.core.crypto import SigningKey
from leasehold.core.units import Instant
from leasehold.custodian.ledger import audit
from leasehold.custodian.ledger.proofs import Proof
from leasehold.custodian.ledger.tiles import Tree
from leasehold.custodian.store.inline import InlineStore
from leasehold.custodian.witness import (
    accept_restore,
    check_cosignature,
    check_given_up,
    read_state,
    witness,
)
from leasehold.errors import (
    BadMessage,
    BadRequest,
    BadSignature,
    Conflict,
    FileTrouble,
    LeaseholdError,
    UnknownThing,
    Unproven,
)

from .ledger.stage import Stage

LOG_KEY, KEY = SigningKey.load(b"l" * 32), SigningKey.load(b"w" * 32)
ORIGIN, NAME = "custodian.example/ledger", "regulator.example/w1"
NOW = Instant(1_800_000_000_500)


def grow(stage: Stage, count: int, what: str = "k") -> Stage:
    for _ in range(count):
        stage.do(lambda tx: audit.append(tx, now=NOW, actor="a", kind=what, detail={}))
    return stage


def show(stage: Stage, old: int, key: SigningKey = LOG_KEY) -> tuple[str, tuple[bytes, ...]]:
    return stage.see(
        lambda tx: (
            audit.checkpoint(tx, origin=ORIGIN, key=key),
            Tree(tx).consistency(old) if old else (),
        )
    )


def ask(path: Path, note: str, proof: tuple[bytes, ...], old: int) -> str:
    return note + witness(
        path,
        note,
        proof,
        origin=ORIGIN,
        public=LOG_KEY.public,
        old=old,
        name=NAME,
        key=KEY,
        now=NOW,
    )


def stage_of(count: int, what: str = "k") -> Stage:
    return grow(Stage(InlineStore.open()), count, what)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.json"


def test_what_extends_is_cosigned_as_c2sp_says(path: Path) -> None:
    """J-1, J-2: the signature read by the letter of the format."""
    stage = stage_of(3)
    ask(path, *show(stage, 0), 0)
    signed = ask(path, *show(grow(stage, 4), 3), 3)
    text, _, lines = signed.partition("\n\n")
    dash, name, encoded = lines.split("\n")[1].split(" ")
    assert (dash, name) == ("\N{EM DASH}", NAME)
    packed = base64.b64decode(encoded)
    assert packed[:4] == hashlib.sha256(NAME.encode() + b"\n\x04" + KEY.public).digest()[:4]
    assert int.from_bytes(packed[4:12], "big") == 1_800_000_000
    said = f"cosignature/v1\ntime 1800000000\n{text}\n".encode()
    Ed25519PublicKey.from_public_bytes(KEY.public).verify(packed[12:], said)
    assert check_cosignature(signed, name=NAME, public=KEY.public) == 1_800_000_000_000
    assert read_state(path)[ORIGIN].size == 7
    ask(path, *show(stage, 7), 7)  # the same again


def case_shrunk() -> tuple[str, tuple[bytes, ...], int]:
    return (*show(stage_of(3), 0), 5)


def case_fork() -> tuple[str, tuple[bytes, ...], int]:
    return (*show(stage_of(8, "other"), 5), 5)


def case_same_size() -> tuple[str, tuple[bytes, ...], int]:
    return (*show(stage_of(5, "other"), 5), 5)


def case_no_proof() -> tuple[str, tuple[bytes, ...], int]:
    return (show(stage_of(9), 5)[0], (), 5)


def case_long_proof() -> tuple[str, tuple[bytes, ...], int]:
    return (show(stage_of(9), 5)[0], (bytes(32),) * 64, 5)


def case_forged() -> tuple[str, tuple[bytes, ...], int]:
    return (*show(stage_of(9), 5, KEY), 5)


def case_forgets() -> tuple[str, tuple[bytes, ...], int]:
    return (*show(stage_of(9), 0), 0)


@pytest.mark.parametrize(
    ("case", "refusal", "about"),
    [
        (case_shrunk, Unproven, "log size"),
        (case_fork, Unproven, "consistency proof"),
        (case_same_size, Unproven, "consistency proof"),
        (case_no_proof, Unproven, "consistency proof"),
        (case_long_proof, Unproven, "consistency proof"),
        (case_forged, BadSignature, "signed note"),
        (case_forgets, Conflict, f"size of {ORIGIN}"),
    ],
)
def test_what_contradicts_is_refused_and_nothing_is_forgotten(
    path: Path,
    case: Callable[[], tuple[str, tuple[bytes, ...], int]],
    refusal: type[LeaseholdError],
    about: str,
) -> None:
    """T58, T28; J-1."""
    ask(path, *show(stage_of(5), 0), 0)
    before = path.read_bytes()
    with pytest.raises(refusal) as caught:
        ask(path, *case())
    assert caught.value.about == about
    assert path.read_bytes() == before


def test_a_ledger_put_back_is_noticed(path: Path) -> None:
    """T28: the old copy grows beyond what was seen, and still contradicts it."""
    stage = stage_of(4)
    old_copy = stage.store.snapshot()
    ask(path, *show(grow(stage, 2), 0), 0)
    stage.put_back(old_copy)
    with pytest.raises(Unproven):
        ask(path, *show(stage, 0), 6)
    with pytest.raises(Unproven):
        ask(path, *show(grow(stage, 5, "after"), 6), 6)


def test_killed_before_the_rename_it_remembers_what_it_signed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """J-3: no cosignature leaves whose checkpoint could be forgotten."""
    stage = stage_of(3)
    ask(path, *show(stage, 0), 0)

    def killed(self: Path, target: Path) -> Path:
        raise OSError(5, "killed here")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", killed)
        with pytest.raises(FileTrouble):
            ask(path, *show(grow(stage, 1), 3), 3)
    assert read_state(path)[ORIGIN].size == 3
    ask(path, *show(stage, 3), 3)
    assert read_state(path)[ORIGIN].size == 4


def test_a_memory_that_cannot_be_read_signs_nothing(path: Path) -> None:
    path.write_bytes(b"{")
    path.chmod(0o600)
    with pytest.raises(BadMessage):
        ask(path, *show(stage_of(3), 0), 0)


def test_a_cosignature_of_another_or_of_other_words_does_not_count(path: Path) -> None:
    signed = ask(path, *show(stage_of(3), 0), 0)
    for wrong, name, key in (
        (signed, NAME, LOG_KEY),
        (signed, "other", KEY),
        (signed.replace("\n3\n", "\n4\n"), NAME, KEY),
    ):
        with pytest.raises(BadSignature):
            check_cosignature(wrong, name=name, public=key.public)


# A restored log --------------------------------------------------------------------------------


def test_a_restored_log_is_accepted_by_a_person_only_and_what_was_seen_is_kept(path: Path) -> None:
    """J-8."""
    ask(path, *show(stage_of(6), 0), 0)
    seen = read_state(path)[ORIGIN]
    restored = stage_of(4, "other")
    with pytest.raises(Unproven):
        ask(path, *show(restored, 0), 6)
    with pytest.raises(BadRequest, match="reason"):
        accept_restore(path, origin=ORIGIN, now=NOW, reason=" ")
    with pytest.raises(UnknownThing):
        accept_restore(path, origin="another", now=NOW, reason="why")
    given_up = accept_restore(path, origin=ORIGIN, now=NOW, reason="their disk burned")
    assert (given_up.size, given_up.root, given_up.note) == (6, seen.root, seen.note)
    with pytest.raises(UnknownThing):  # once
        accept_restore(path, origin=ORIGIN, now=NOW, reason="again")
    ask(path, *show(restored, 0), 0)
    ask(path, *show(grow(restored, 1), 4), 4)
    kept = read_state(path)[ORIGIN]
    assert (kept.size, kept.given_up) == (5, (given_up,))
    assert kept.given_up[0].reason == "their disk burned"


def restore_entry(given_up: list[dict[str, object]], *, kind: str = "epoch.restore") -> Proof:
    """The proof of an entry, at index 4, that gives these up."""
    stage = stage_of(4)
    detail = {"epoch": 7, "reason": "why", "given_up": given_up}
    stage.do(lambda tx: audit.append(tx, now=NOW, actor="a", kind=kind, detail=detail))
    note, _ = show(grow(stage, 3), 0)
    leaf = stage.see(lambda tx: audit.leaves(tx, start=4, count=1))[0]
    return Proof(4, leaf, stage.see(lambda tx: Tree(tx).inclusion(4)), note)


def test_the_log_says_itself_that_it_gave_up_what_was_seen(path: Path) -> None:
    """J-8, with the entry's proof."""
    ask(path, *show(stage_of(6, "other"), 0), 0)
    seen = read_state(path)[ORIGIN]

    def check(proof: Proof, *, size: int = 6, key: SigningKey = LOG_KEY) -> None:
        public = key.public
        check_given_up(replace(seen, size=size), proof, origin=ORIGIN, public=public)

    same = {"size": 6, "root": seen.root}
    check(restore_entry([same]))
    check(restore_entry([{"size": 9, "root": bytes(32)}]))
    for proof, size in (
        (restore_entry([]), 6),
        (restore_entry([{"size": 5, "root": seen.root}]), 6),
        (restore_entry([{"size": 6, "root": bytes(32)}]), 6),
        (restore_entry([same], kind="stop.order"), 6),
        (restore_entry([{"size": 9, "root": bytes(32)}]), 4),  # seen has the entry itself
    ):
        with pytest.raises(Unproven, match=r"epoch\.restore"):
            check(proof, size=size)
    with pytest.raises(BadSignature):
        check(restore_entry([same]), key=KEY)
    with pytest.raises(Unproven):
        check_given_up(None, restore_entry([same]), origin=ORIGIN, public=LOG_KEY.public)
