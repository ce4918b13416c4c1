"""Single-use nonces of the attestation challenge (N-1, T3), in the database so that replicas share them."""

from __future__ import annotations

from typing import Final

from leasehold.core.messages import Challenge
from leasehold.core.units import MINUTE, Instant, after
from leasehold.custodian.store.port import Tx
from leasehold.errors import TooBusy, WrongNonce

NONCE_LIFE: Final = MINUTE  # N-1
NONCES_MAX: Final = (
    10_000  # live at once; a flood of challenges is refused before it fills the disk
)


def issue(tx: Tx, *, now: Instant, nonce: bytes) -> Challenge:
    """Remember a fresh nonce for `NONCE_LIFE`. Not audited: it decides nothing. Raises TooBusy."""
    forget_expired(tx, now=now)
    count = tx.execute("SELECT COUNT(*) FROM nonces")[0][0]
    if count >= NONCES_MAX:
        raise TooBusy(about="open challenges", got=count, expected=f"< {NONCES_MAX}")
    expires = after(now, NONCE_LIFE)
    tx.execute("INSERT INTO nonces (nonce, expires) VALUES (?, ?)", (nonce, expires))
    return Challenge(nonce, expires)


def use(tx: Tx, *, now: Instant, nonce: bytes) -> None:
    """Use a nonce up, or raise WrongNonce where it is unknown, used or too old (N-2).

    Run it in a write of its own: it must stay used whatever comes of the evidence.
    """
    rows = tx.execute("DELETE FROM nonces WHERE nonce = ? RETURNING expires", (nonce,))
    if not rows or rows[0][0] <= now:
        raise WrongNonce(got=nonce, expected="one that was issued within a minute, and not used")


def forget_expired(tx: Tx, *, now: Instant) -> None:
    """Drop what can no longer be used."""
    tx.execute("DELETE FROM nonces WHERE expires <= ?", (now,))
