"""Several hands: what one operator proposes and others must approve before it is done.

Spec: docs/spec/ledger.md, L-13; docs/spec/custodian-api.md, O-18 to O-21. Refuses to know what is
proposed: the act is handed in, and runs in the transaction of the approval that completes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Final, Literal, TypeVar

import msgspec

from leasehold.core.crypto import is_equal, sha256
from leasehold.core.encoding import from_json, to_json
from leasehold.core.units import DAY, Instant, after
from leasehold.custodian.ledger import audit
from leasehold.custodian.ledger.checks import check_reason, found, next_number
from leasehold.custodian.ledger.operators import RIGHTS, Gate, Operator, Right, Role, check_right
from leasehold.custodian.store.port import Row, Tx
from leasehold.errors import (
    AlreadyApproved,
    BadRequest,
    BadSetting,
    BooksWrong,
    Conflict,
    ProposalClosed,
    WrongProposal,
)

T = TypeVar("T")
LIFE: Final = DAY
PENDING_MAX: Final = 100  # each may hold a manifest; nobody looks through more
SHOWN_MAX: Final = 200  # closed ones in a list
State = Literal["pending", "done", "rejected", "void", "expired"]
Count = Annotated[int, msgspec.Meta(ge=1)]

_ROWS: Final = (
    "SELECT id, request, digest, expires, state, closed, closed_by, reason FROM proposals "
)
_CLOSE: Final = (
    "UPDATE proposals SET state = ?, closed = ?, closed_by = ?, reason = ?"
    " WHERE id = ? AND state = 'pending'"
)


class Hands(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """O-18: how many administrators an act of each kind takes."""

    release: Count = 1
    cap: Count = 1
    manifest: Count = 1
    resume: Count = 1
    grant: Count = 1

    def needed(self, gate: Gate) -> int:
        """How many hands an act of this kind takes."""
        count: int = getattr(self, gate.value)
        return count

    @property
    def gates(self) -> frozenset[Gate]:
        """The kinds that take more than one."""
        return frozenset(gate for gate in Gate if self.needed(gate) > 1)


def check_hands(hands: Hands, roles: Mapping[str, Role]) -> Hands:
    """O-18: more hands than there are can never come together. Raises BadSetting."""
    admins = len(Quorum(hands, roles).counted(tuple(roles)))
    for gate in Gate:
        if (needed := hands.needed(gate)) > admins:
            expected = f"<= {admins}, as many as there are administrators"
            raise BadSetting(about=f"hands.{gate}", got=needed, expected=expected)
    return hands


@dataclass(frozen=True, slots=True)
class Quorum:
    """The settings as they are now: how many hands it takes, and whose count."""

    hands: Hands
    roles: Mapping[str, Role]

    def counted(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Those of these operators who may change things now."""
        return tuple(
            name
            for name in names
            if name in self.roles and Right.CHANGE in RIGHTS[self.roles[name]]
        )


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is hashed: the act by its endpoint, with all that it will be given, and who wanted it when."""

    proposal: int
    epoch: int
    at: Instant
    proposer: str
    kind: Gate
    act: str
    path: dict[str, str]
    body: bytes


class Proposal(msgspec.Struct, frozen=True):
    """`digest` is the SHA-256 of `request`, which is `order` as text; `hands` are all who approved.

    `state` is as it was stored; whether a pending one has expired is a question of the clock.
    """

    id: int
    request: bytes
    digest: bytes
    order: Order
    expires: Instant
    state: State
    closed: Instant | None
    closed_by: str
    reason: str
    hands: tuple[str, ...]

    def state_at(self, now: Instant) -> State:
        """The state, `expired` where it was left pending for too long."""
        return "expired" if self.state == "pending" and now >= self.expires else self.state


def propose(
    tx: Tx,
    *,
    now: Instant,
    operator: Operator,
    kind: Gate,
    act: str,
    path: Mapping[str, str],
    body: bytes,
) -> Proposal:
    """Keep what an operator wants, with the first hand on it. Raises NotPermitted, Conflict (too many)."""
    check_right(operator, Right.CHANGE)
    pending = tx.execute(
        "SELECT COUNT(*) FROM proposals WHERE state = 'pending' AND expires > ?", (now,)
    )[0][0]
    if pending >= PENDING_MAX:
        raise Conflict(about="proposals", got=pending, expected=f"< {PENDING_MAX}: reject some")
    number = next_number(tx, "proposal")
    order = Order(number, _epoch(tx), now, operator.name, kind, act, dict(path), body)
    request = to_json(order)
    digest, expires = sha256(request), after(now, LIFE)
    tx.execute(
        "INSERT INTO proposals (id, request, digest, expires, state, closed, closed_by, reason)"
        " VALUES (?, ?, ?, ?, 'pending', NULL, '', '')",
        (number, request, digest, expires),
    )
    _lay(tx, number, operator, now)
    detail = {
        "proposal": number,
        "digest": digest.hex(),
        "kind": kind,
        "act": act,
        "path": path,
        "body": body,
        "expires": expires,
    }
    audit.append(tx, now=now, actor=operator.name, kind="hands.propose", detail=detail)
    return show_proposal(tx, number)


def check_open(
    tx: Tx, *, now: Instant, operator: Operator, proposal: int, digest: bytes
) -> Proposal:
    """The proposal, if this operator may approve exactly what the digest says.

    Raises NotPermitted, UnknownThing, WrongProposal, ProposalClosed.
    """
    check_right(operator, Right.CHANGE)
    one = show_proposal(tx, proposal)
    if not is_equal(one.digest, digest):
        raise WrongProposal(about=f"proposal {proposal}", got=digest, expected=one.digest)
    _check_pending(one, now=now)
    if one.order.epoch != _epoch(tx):
        raise ProposalClosed(about=f"proposal {proposal}", got="made before a restore")
    return one


def approve(
    tx: Tx,
    *,
    now: Instant,
    operator: Operator,
    proposal: int,
    digest: bytes,
    quorum: Quorum,
    execute: Callable[[Tx, Instant, Operator], T],
) -> tuple[Proposal, T | None]:
    """L-13: lay one more hand on it; the hand that completes it does it, in this transaction.

    `execute` runs under the name of the operator who completes it, and for that one call alone without
    the gates. What it raises undoes the approval. The second value is what it gave, None where more
    hands are needed. Raises as `check_open` does, AlreadyApproved, and whatever `execute` raises.
    """
    one = check_open(tx, now=now, operator=operator, proposal=proposal, digest=digest)
    needed = quorum.hands.needed(one.order.kind)
    again = operator.name in one.hands
    if not again:
        _lay(tx, proposal, operator, now)
    hands = quorum.counted(show_proposal(tx, proposal).hands)
    is_done = len(hands) >= needed
    if again and not is_done:
        raise AlreadyApproved(
            about=f"proposal {proposal}", got=", ".join(hands), expected=f"{needed} hands"
        )
    detail = {
        "proposal": proposal,
        "digest": one.digest.hex(),
        "approvers": hands,
        "needed": needed,
        "done": is_done,
    }
    audit.append(tx, now=now, actor=operator.name, kind="hands.approve", detail=detail)
    if not is_done:
        return show_proposal(tx, proposal), None
    tx.execute(_CLOSE, ("done", now, operator.name, "", proposal))
    done = execute(tx, now, Operator(operator.name, operator.role))
    return show_proposal(tx, proposal), done


def reject(tx: Tx, *, now: Instant, operator: Operator, proposal: int, reason: str) -> Proposal:
    """One hand is enough to say no, the proposer's as well.

    Raises NotPermitted, UnknownThing, ProposalClosed, BadRequest (no reason).
    """
    check_right(operator, Right.CHANGE)
    check_reason(reason)
    if not reason.strip():
        raise BadRequest(about="reason of a rejection", got="nothing", expected="why")
    one = show_proposal(tx, proposal)
    _check_pending(one, now=now)
    _close(tx, one, now=now, actor=operator.name, state="rejected", reason=reason)
    return show_proposal(tx, proposal)


def void_all(tx: Tx, *, now: Instant, actor: str, reason: str) -> None:
    """L-8: after a restore nothing that was pending may be approved any more."""
    for (number,) in tx.execute("SELECT id FROM proposals WHERE state = 'pending' ORDER BY id"):
        one = show_proposal(tx, number)
        _close(tx, one, now=now, actor=actor, state="void", reason=reason)


def show_proposal(tx: Tx, proposal: int) -> Proposal:
    """Raises UnknownThing, BooksWrong where the text is not the one that was hashed."""
    rows = tx.execute(_ROWS + "WHERE id = ?", (proposal,))
    return _proposal(tx, found(rows, about=f"proposal {proposal}"))


def list_proposals(tx: Tx, *, now: Instant, closed: bool = False) -> tuple[Proposal, ...]:
    """Those that can still be approved, newest first; with `closed` the latest others too."""
    if closed:
        rows = tx.execute(_ROWS + "ORDER BY id DESC LIMIT ?", (SHOWN_MAX,))
    else:
        rows = tx.execute(
            _ROWS + "WHERE state = 'pending' AND expires > ? ORDER BY id DESC", (now,)
        )
    return tuple(_proposal(tx, row) for row in rows)


def _check_pending(one: Proposal, *, now: Instant) -> None:
    state = one.state_at(now)
    if state != "pending":
        raise ProposalClosed(about=f"proposal {one.id}", got=state, expected="pending")


def _close(tx: Tx, one: Proposal, *, now: Instant, actor: str, state: State, reason: str) -> None:
    tx.execute(_CLOSE, (state, now, actor, reason, one.id))
    detail = {
        "proposal": one.id,
        "digest": one.digest.hex(),
        "reason": reason,
        "state": state,
    }
    audit.append(tx, now=now, actor=actor, kind="hands.reject", detail=detail)


def _lay(tx: Tx, proposal: int, operator: Operator, now: Instant) -> None:
    tx.execute(
        "INSERT INTO proposal_hands (proposal, operator, at) VALUES (?, ?, ?)",
        (proposal, operator.name, now),
    )


def _epoch(tx: Tx) -> int:
    epoch: int = tx.execute("SELECT value FROM meta WHERE name = 'epoch'")[0][0]
    return epoch


def _proposal(tx: Tx, row: Row) -> Proposal:
    number, request, digest, expires, state, closed, closed_by, reason = row
    if not is_equal(sha256(request), digest):
        raise BooksWrong(about=f"proposal {number}", got=sha256(request), expected=digest)
    hands = tx.execute(
        "SELECT operator FROM proposal_hands WHERE proposal = ? ORDER BY at, operator", (number,)
    )
    return Proposal(
        id=number,
        request=request,
        digest=digest,
        order=from_json(request, Order),
        expires=expires,
        state=state,
        closed=closed,
        closed_by=closed_by,
        reason=reason,
        hands=tuple(name for (name,) in hands),
    )
