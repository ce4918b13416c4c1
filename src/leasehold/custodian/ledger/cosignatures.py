"""Who cosigned which size of the audit log, and what a watching instance is shown of it next.

Spec: docs/spec/witness.md, J-5 to J-7. No entries of the log are written for them: a log that grew with
every cosignature could never be cosigned to its end. Refuses to know: how a witness is asked.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from leasehold.core.checkpoint import checkpoint_text, cosigned_text
from leasehold.core.crypto import SigningKey, check_signature
from leasehold.core.messages import Heartbeat, LogHead
from leasehold.core.units import SECOND, Instant
from leasehold.custodian.ledger import audit, leases
from leasehold.custodian.ledger.instances import show_instance
from leasehold.custodian.ledger.notes import Line, cosignature_line, sign_note
from leasehold.custodian.ledger.tiles import Tree
from leasehold.custodian.store.port import Tx
from leasehold.errors import BadSignature, Conflict, TooBusy, UnknownThing

KEPT: Final = 100  # of one name; older ones are dropped
WITNESSES_MAX: Final = 100
SHOWN_EVERY: Final = 30 * SECOND
_LINE_BYTES: Final = 8 + 64  # seconds, Ed25519 signature
_ALL: Final = "SELECT name, size, kind, public, seconds, signature, at FROM cosignatures c "
_NEWEST: Final = (
    "WHERE size = (SELECT MAX(size) FROM cosignatures WHERE name = c.name) ORDER BY at DESC, name"
)
_SECONDS_MAX: Final = 1 << 53


class Cosignature(msgspec.Struct, frozen=True):
    """One witness's word that the log of `size` entries extends all that it saw of it before."""

    name: str
    size: int
    kind: Literal["enclave", "witness"]
    public: bytes
    seconds: int
    signature: bytes
    at: Instant

    @property
    def line(self) -> str:
        """As it stands below a checkpoint."""
        return cosignature_line(Line(self.name, self.public, self.seconds, self.signature))


def instance_name(origin: str, instance: str) -> str:
    """The name under which an instance cosigns."""
    return f"{origin}/instance/{instance}"


def keep(tx: Tx, origin: str, cosignature: Cosignature) -> None:
    """J-7: check a cosignature against the log itself and keep it; the newest of a name are kept.

    Raises UnknownThing (the log is not so long), BadSignature, Conflict (a name has one key for ever),
    TooBusy (too many witnesses).
    """
    one = cosignature
    if one.size < 1:
        raise UnknownThing(about="log size", got=one.size, expected="at least 1")
    if one.seconds > _SECONDS_MAX:
        raise BadSignature(about="cosignature", got=one.seconds, expected="seconds of a clock")
    text = checkpoint_text(origin, one.size, Tree(tx, one.size).root())
    check_signature(one.public, cosigned_text(text, one.seconds), one.signature)
    known = tx.execute("SELECT public FROM cosignatures WHERE name = ? LIMIT 1", (one.name,))
    if known and known[0][0] != one.public:
        raise Conflict(about=f"key of {one.name}", got=one.public.hex(), expected=known[0][0].hex())
    if not known and one.kind == "witness":
        count = "SELECT COUNT(DISTINCT name) FROM cosignatures WHERE kind = 'witness'"
        if tx.execute(count)[0][0] >= WITNESSES_MAX:
            raise TooBusy(about="witnesses", got=WITNESSES_MAX)
    tx.execute(
        "INSERT INTO cosignatures (name, size, kind, public, seconds, signature, at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (name, size) DO UPDATE SET"
        " seconds = excluded.seconds, signature = excluded.signature, at = excluded.at",
        msgspec.structs.astuple(one),
    )
    tx.execute(
        "DELETE FROM cosignatures WHERE name = ? AND size <= (SELECT size FROM cosignatures"
        " WHERE name = ? ORDER BY size DESC LIMIT 1 OFFSET ?)",
        (one.name, one.name, KEPT),
    )


def newest(tx: Tx, name: str) -> Cosignature | None:
    """What this name cosigned last."""
    rows = tx.execute(_ALL + "WHERE name = ? ORDER BY size DESC LIMIT 1", (name,))
    return Cosignature(*rows[0]) if rows else None


def list_newest(tx: Tx) -> tuple[Cosignature, ...]:
    """The newest of every name, the most recent first."""
    return tuple(Cosignature(*row) for row in tx.execute(_ALL + _NEWEST))


def newest_size(tx: Tx, count: int) -> int:
    """The greatest size that at least `count` names have cosigned. Raises UnknownThing."""
    rows = tx.execute(
        "SELECT size FROM cosignatures GROUP BY size HAVING COUNT(*) >= ?"
        " ORDER BY size DESC LIMIT 1",
        (count,),
    )
    if not rows:
        raise UnknownThing(about="checkpoint", expected=f"one that {count} have cosigned")
    size: int = rows[0][0]
    return size


def cosigned_checkpoint(tx: Tx, *, origin: str, key: SigningKey, size: int | None = None) -> str:
    """A-4: the checkpoint at `size`, or as it is now, with a line of everybody who cosigned just this.

    Raises UnknownThing.
    """
    tree = Tree(tx, size)
    note = sign_note(checkpoint_text(origin, tree.size, tree.root()), name=origin, key=key)
    rows = tx.execute(_ALL + "WHERE size = ? ORDER BY kind DESC, name", (tree.size,))
    return note + "".join(Cosignature(*row).line for row in rows)


def attend(
    tx: Tx, *, now: Instant, instance: str, beat: Heartbeat, origin: str, key: SigningKey
) -> LogHead | None:
    """J-5: take an instance's cosignature, and show it the log where that grew since and it is time.

    A cosignature that does not fit this log is an alarm entry, and the instance is shown the log at
    once: either it lies, or this is not the log that it saw. Raises UnknownThing.
    """
    if beat.seen is None:
        return None
    name = instance_name(origin, instance)
    last = newest(tx, name)
    if beat.cosignature and (last is None or last.size != beat.seen):
        try:
            keep(tx, origin, _of_instance(tx, name, instance, beat, now))
            return None
        except (BadSignature, UnknownThing) as failure:
            detail = {"size": beat.seen, "code": failure.code}
            leases.alarm(tx, now=now, instance=instance, about="another log", detail=detail)
    elif last is not None and abs(now - last.at) < SHOWN_EVERY:
        return (
            None  # by the distance: a clock that was set back must not silence witnesses till then
        )
    return _head(tx, now=now, old=beat.seen, origin=origin, key=key)


def _of_instance(tx: Tx, name: str, instance: str, beat: Heartbeat, now: Instant) -> Cosignature:
    public, packed = show_instance(tx, instance).statement_key, beat.cosignature
    if len(packed) != _LINE_BYTES or beat.seen is None:
        raise BadSignature(about="cosignature", got=len(packed), expected=f"{_LINE_BYTES} bytes")
    seconds = int.from_bytes(packed[:8], "big")
    return Cosignature(name, beat.seen, "enclave", public, seconds, packed[8:], now)


def _head(tx: Tx, *, now: Instant, old: int, origin: str, key: SigningKey) -> LogHead | None:
    """What somebody cosigned just now, so that many lines stand below one checkpoint; or the log's end."""
    size, _ = audit.head(tx)
    recent = tx.execute(
        "SELECT MAX(size) FROM cosignatures WHERE at > ? AND size <= ?", (now - SHOWN_EVERY, size)
    )[0][0]
    if recent is not None and recent > old:
        size = recent
    if size == old:
        return None
    tree = Tree(tx, size)
    root = tree.root()
    proof = tree.consistency(old) if 0 < old < size else ()
    signature = key.sign(checkpoint_text(origin, size, root).encode())
    return LogHead(old, size, root, signature, proof)
