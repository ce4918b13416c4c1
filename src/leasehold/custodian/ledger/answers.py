"""Answers already given, so that a repeated request changes nothing (M-3, T32)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from leasehold.core.crypto import is_equal, sha256
from leasehold.custodian.store.port import Tx, insert
from leasehold.errors import Conflict

Kind = Literal["lease", "extension"]
Answer = tuple[str, Kind, int, bytes, bytes]  # instance, kind, sequence, request's hash, answer

ANSWERS_KEPT: Final = (
    16_384  # by sequence number; an enclave repeats itself for ten seconds at most
)
ANSWERS_MAX: Final = (
    ANSWERS_KEPT + 1024
)  # so many are forgotten at once: not one by one, nor for long


def recall(tx: Tx, *, instance: str, kind: Kind, sequence: int, request: bytes) -> bytes | None:
    """The answer to this very request, None where it is new. Raises Conflict for other contents."""
    rows = tx.execute(
        "SELECT request, answer FROM answers WHERE instance = ? AND kind = ? AND sequence = ?",
        (instance, kind, sequence),
    )
    if not rows:
        return None
    if not is_equal(rows[0][0], sha256(request)):
        raise Conflict(about="sequence", got=sequence, expected="the contents it had before")
    answer: bytes = rows[0][1]
    return answer


def remember(
    tx: Tx, *, instance: str, kind: Kind, sequence: int, request: bytes, answer: bytes
) -> None:
    """Keep an answer."""
    remember_all(tx, [(instance, kind, sequence, sha256(request), answer)])


def remember_all(tx: Tx, given: Sequence[Answer]) -> None:
    """Keep answers."""
    insert(
        tx,
        "INSERT INTO answers (instance, kind, sequence, request, answer) VALUES (?, ?, ?, ?, ?)",
        given,
    )


def forget_old(tx: Tx, *, instance: str, sequence: int) -> int:
    """Drop the oldest answers; from then on asks that old are refused, not answered anew.

    Returns the floor, up to which they are refused.
    """
    floor = sequence - ANSWERS_KEPT
    tx.execute("UPDATE instances SET floor = ? WHERE id = ?", (floor, instance))
    tx.execute("DELETE FROM answers WHERE instance = ? AND sequence <= ?", (instance, floor))
    return floor
