"""The log: canonical leaves, a frontier that is the tree's, C2SP checkpoints, and tampering that shows."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pymerkle import InmemoryTree

from leasehold.core.crypto import SigningKey
from leasehold.custodian.ledger import audit, books, notes
from leasehold.errors import BadMessage, BadSignature, BooksWrong, LeaseholdError, Unproven

from .stage import Stage, ready

KEY = SigningKey.load(b"k" * 32)
ORIGIN = "custodian.example/ledger"


def full() -> tuple[Stage, list[bytes], str]:
    stage = ready()
    stage.close(stage.lease().lease, 5)
    leaves = stage.see(lambda tx: audit.leaves(tx, start=0, count=100))
    note = stage.see(lambda tx: audit.checkpoint(tx, origin=ORIGIN, key=KEY))
    return stage, list(leaves), note


def check(leaves: list[bytes], note: str, origin: str = ORIGIN, key: SigningKey = KEY) -> int:
    return audit.verify(leaves, note, origin=origin, public=key.public)


def no_floats(value: Any) -> None:
    assert not isinstance(value, float)
    for part in (
        value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    ):
        no_floats(part)


def test_leaves_are_canonical_json() -> None:
    """A-1: keys sorted, no space, whole numbers: anybody can make the same bytes again."""
    _, leaves, _ = full()
    for index, leaf in enumerate(leaves):
        entry = json.loads(leaf)
        no_floats(entry)
        assert entry["index"] == index
        assert list(entry) == ["actor", "at", "detail", "index", "kind"]
        again = json.dumps(entry, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        assert again.encode() == leaf


def test_the_stored_root_is_that_of_another_implementation() -> None:
    """A-2, at every size on the way."""
    stage = Stage()
    tree = InmemoryTree(algorithm="sha256")
    assert stage.see(audit.head) == (0, hashlib.sha256(b"").digest())
    for number in range(33):
        stage.do(
            lambda tx, n=number: audit.append(
                tx, now=stage.now, actor="a", kind="k", detail={"n": n}
            )
        )
        tree.append_entry(stage.see(lambda tx, n=number: audit.leaves(tx, start=n, count=1))[0])
        assert stage.see(audit.head) == (number + 1, tree.get_root())


def test_entries_are_read_in_pages() -> None:
    stage, leaves, _ = full()
    page = stage.see(lambda tx: audit.entries(tx, start=2, count=3))
    assert [one.index for one in page] == [2, 3, 4]
    assert stage.see(lambda tx: audit.entries(tx, start=len(leaves), count=3)) == ()


def test_a_checkpoint_is_a_c2sp_signed_note() -> None:
    """A-4: read here by the letter of the format, not by our reader."""
    stage, leaves, note = full()
    text, _, signature_line = note.partition("\n\n")
    origin, size, root = text.split("\n")
    assert (origin, int(size)) == (ORIGIN, len(leaves))
    assert base64.b64decode(root) == stage.see(audit.head)[1]
    dash, name, encoded = signature_line.rstrip("\n").split(" ")
    assert (dash, name) == ("\N{EM DASH}", ORIGIN)
    blob = base64.b64decode(encoded)
    assert blob[:4] == hashlib.sha256(ORIGIN.encode() + b"\n\x01" + KEY.public).digest()[:4]
    Ed25519PublicKey.from_public_bytes(KEY.public).verify(blob[4:], (text + "\n").encode())


def test_the_signed_note_of_the_go_implementation() -> None:
    """The example of golang.org/x/mod/sumdb/note, which the format comes from."""
    public = base64.b64decode("ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")[1:]
    text = (
        "If you think cryptography is the answer to your problem,\n"
        "then you don't know what your problem is.\n"
    )
    note = (
        text + "\n\N{EM DASH} PeterNeumann "
        "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
    )
    assert notes.check_note(note, name="PeterNeumann", public=public) == text


def test_verifying_accepts_the_log_and_what_grew_from_it() -> None:
    stage, leaves, note = full()
    assert check(leaves, note) == len(leaves)
    assert check([*leaves, b"later"], note) == len(leaves)
    witness = note + "\N{EM DASH} witness.example " + base64.b64encode(b"w" * 68).decode() + "\n"
    assert check(leaves, witness) == len(leaves)
    assert stage.see(audit.check_log) is None


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        (lambda leaves, note: (leaves[:-1], note), Unproven),
        (lambda leaves, note: ([leaves[0].replace(b"ada", b"eve"), *leaves[1:]], note), Unproven),
        (lambda leaves, note: ([leaves[1], leaves[0], *leaves[2:]], note), Unproven),
        (lambda leaves, note: ([b"{}", *leaves[1:]], note), BadMessage),
        (lambda leaves, note: (leaves, note.replace("\n8\n", "\n7\n")), BadSignature),
        (lambda leaves, note: (leaves, note.replace("\N{EM DASH} ", "- ")), BadMessage),
        (lambda leaves, note: (leaves, note.replace("\n\n", "\n")), BadMessage),
        (lambda leaves, note: (leaves, note[:-1]), BadMessage),
        (lambda leaves, _: (leaves, ""), BadMessage),
    ],
)
def test_tampering_shows(change: Any, refusal: type[LeaseholdError]) -> None:
    """T58."""
    _, leaves, note = full()
    with pytest.raises(refusal):
        check(*change(leaves, note))


def test_another_key_or_another_log_is_refused() -> None:
    _, leaves, note = full()
    with pytest.raises(BadSignature):
        check(leaves, note, key=SigningKey.load(b"x" * 32))
    with pytest.raises(BadSignature):
        check(leaves, note, origin="other.example")
    moved = notes.sign_note(
        notes.checkpoint_text(notes.Checkpoint("other.example", 0, bytes(32))),
        name=ORIGIN,
        key=KEY,
    )
    with pytest.raises(Unproven):
        check(leaves, moved)
    with pytest.raises(BadMessage):
        notes.checkpoint_text(notes.Checkpoint("two words", 0, bytes(32)))


@pytest.mark.parametrize("text", ["o\n1\n", "o\n-1\nAA==\n", "o\n01\nAA==\n", "o\n1\nAA==\n"])
def test_nonsense_is_no_checkpoint(text: str) -> None:
    with pytest.raises(BadMessage):
        notes.parse_checkpoint(text)


@pytest.mark.parametrize(
    ("sql", "check"),
    [
        ("UPDATE log SET leaf = CAST('{}' AS BLOB) WHERE position = 3", audit.check_log),
        ("DELETE FROM log WHERE position = 3", audit.check_log),
        ("DELETE FROM log WHERE position = (SELECT MAX(position) FROM log)", audit.check_log),
        ("UPDATE log_head SET size = size + 16, frontier = frontier", audit.check_log),
        ("UPDATE accounts SET settled = settled + 1", books.check_books),
        ("UPDATE accounts SET granted = granted + 1 WHERE kind = 'loan'", books.check_replay),
        ("UPDATE accounts SET parent = NULL", books.check_books),
        ("INSERT INTO accounts VALUES (99, 'grant', 1, 5, 0, 0, 0)", books.check_books),
        ("UPDATE leases SET settled = settled + 1, released = released - 1", books.check_books),
        ("UPDATE grants SET account = 1", books.check_books),
        ("DELETE FROM log WHERE position = 5", books.check_replay),
    ],
)
def test_a_ledger_changed_behind_our_back_contradicts_itself(sql: str, check: Any) -> None:
    """Invariant 8: whoever edits the database must edit the log, and its checkpoints are elsewhere."""
    stage, _, _ = full()
    stage.check()
    stage.edit(sql)
    with pytest.raises((BooksWrong, Unproven, BadMessage)):
        stage.see(check)
