"""Several hands: who counts, exactly what is approved, and that nothing moves before the last hand (L-13)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from leasehold.core.crypto import sha256
from leasehold.core.encoding import from_json, to_json
from leasehold.core.units import DAY, Instant, Units
from leasehold.custodian.ledger import (
    audit,
    books,
    epoch,
    extensions,
    grants,
    hands,
    loans,
    refunds,
    stops,
)
from leasehold.custodian.ledger.hands import Hands, Order, Proposal, Quorum, check_hands
from leasehold.custodian.ledger.operators import Gate, Operator, Role
from leasehold.custodian.store.port import Tx
from leasehold.errors import (
    AlreadyApproved,
    BadRequest,
    BadSetting,
    BooksWrong,
    BudgetExhausted,
    Conflict,
    HandsNeeded,
    LeaseholdError,
    NotPermitted,
    ProposalClosed,
    UnknownThing,
    WrongProposal,
)

from ..vault import back_up, put_back
from .stage import ADMIN, STOPPER, VIEWER, Stage, ready
from .test_refunds import lost
from .test_registry import create_loan

EVE = Operator("eve", Role.ADMIN)
BEA = Operator("bea", Role.ADMIN)
ROLES = {
    "ada": Role.ADMIN,
    "eve": Role.ADMIN,
    "bea": Role.ADMIN,
    "sam": Role.STOPPER,
    "vic": Role.VIEWER,
}
TWO = Quorum(Hands(2, 2, 2, 2, 2), ROLES)
THREE = Quorum(Hands(3, 3, 3, 3, 3), ROLES)
Act = Callable[[Tx, Instant, Operator], Any]


def grow(tx: Tx, now: Instant, operator: Operator) -> loans.Loan:
    """The act of most proposals here."""
    return loans.change_cap(tx, now=now, operator=operator, loan="loan-1", units=Units(7))


def propose(stage: Stage, operator: Operator = ADMIN, **changed: Any) -> Proposal:
    fields = {
        "kind": Gate.CAP,
        "act": "POST /operator/loans/{name}/cap",
        "path": {"name": "loan-1"},
        "body": b'{"units":7}',
    } | changed
    return stage.do(lambda tx: hands.propose(tx, now=stage.now, operator=operator, **fields))


def approve(
    stage: Stage,
    one: Proposal,
    operator: Operator = EVE,
    *,
    quorum: Quorum = TWO,
    digest: bytes | None = None,
    act: Act = grow,
) -> Proposal:
    return stage.do(
        lambda tx: hands.approve(
            tx,
            now=stage.now,
            operator=operator,
            proposal=one.id,
            digest=one.digest if digest is None else digest,
            quorum=quorum,
            execute=act,
        )[0]
    )


def reject(stage: Stage, one: Proposal, operator: Operator, reason: str = "no") -> Proposal:
    return stage.do(
        lambda tx: hands.reject(
            tx, now=stage.now, operator=operator, proposal=one.id, reason=reason
        )
    )


def cap(stage: Stage) -> int:
    return stage.see(lambda tx: loans.show_loan(tx, "loan-1")).budget.granted


def refused(stage: Stage, why: type[LeaseholdError], act: Callable[[], object]) -> LeaseholdError:
    """Refused for this reason, and without a trace."""
    head, granted = stage.see(audit.head), cap(stage)
    pending = stage.see(lambda tx: hands.list_proposals(tx, now=stage.now, closed=True))
    with pytest.raises(why) as refusal:
        act()
    assert type(refusal.value) is why
    assert (stage.see(audit.head), cap(stage)) == (head, granted)
    assert stage.see(lambda tx: hands.list_proposals(tx, now=stage.now, closed=True)) == pending
    stage.check()
    return refusal.value


def last(stage: Stage, count: int) -> list[tuple[str, str]]:
    """Who did what, of the newest entries."""
    size, _ = stage.see(audit.head)
    found = stage.see(lambda tx: audit.entries(tx, start=size - count, count=count))
    return [(entry.actor, entry.kind) for entry in found]


def test_nothing_moves_before_the_last_hand_and_then_it_moves_once() -> None:
    stage = ready()
    before = cap(stage)
    one = propose(stage)
    assert (one.state, one.hands, cap(stage)) == ("pending", ("ada",), before)
    stage.check()
    half = approve(stage, one, quorum=THREE)
    assert (half.state, set(half.hands), cap(stage)) == ("pending", {"ada", "eve"}, before)
    stage.check()
    done = approve(stage, one, BEA, quorum=THREE)
    assert (done.state, done.closed_by, cap(stage)) == ("done", "bea", before + 7)
    assert last(stage, 4) == [
        ("ada", "hands.propose"),
        ("eve", "hands.approve"),
        ("bea", "hands.approve"),
        ("bea", "loan.cap"),
    ]
    stage.check()
    why = refused(stage, ProposalClosed, lambda: approve(stage, one, EVE))
    assert why.got == "done"


def test_the_entries_name_proposal_digest_and_approvers() -> None:
    stage = ready()
    one = propose(stage)
    approve(stage, one)
    size, _ = stage.see(audit.head)
    proposed, approved, _ = stage.see(lambda tx: audit.entries(tx, start=size - 3, count=3))
    assert proposed.detail["digest"] == approved.detail["digest"] == one.digest.hex()
    assert proposed.detail["proposal"] == approved.detail["proposal"] == one.id
    assert proposed.detail["act"] == one.order.act
    assert set(approved.detail["approvers"]) == {"ada", "eve"}  # type: ignore[arg-type]
    assert (approved.detail["needed"], approved.detail["done"]) == (2, True)


def test_the_digest_is_of_all_that_will_be_done() -> None:
    stage = ready()
    one = propose(stage)
    assert one.digest == sha256(one.request)
    assert from_json(one.request, Order) == one.order
    assert one.order == Order(
        one.id,
        stage.see(epoch.current),
        stage.now,
        "ada",
        Gate.CAP,
        "POST /operator/loans/{name}/cap",
        {"name": "loan-1"},
        b'{"units":7}',
    )
    others = [propose(stage, body=b'{"units":8}'), propose(stage, EVE), propose(stage)]
    assert len({one.digest, *(other.digest for other in others)}) == 4


def test_another_digest_is_refused() -> None:
    stage = ready()
    one, other = propose(stage), propose(stage, body=b'{"units":700}')
    refused(stage, WrongProposal, lambda: approve(stage, one, digest=other.digest))
    refused(stage, WrongProposal, lambda: approve(stage, one, digest=b""))


def test_a_hand_counts_once() -> None:
    stage = ready()
    one = propose(stage)
    refused(stage, AlreadyApproved, lambda: approve(stage, one, ADMIN))
    approve(stage, one, EVE, quorum=THREE)
    refused(stage, AlreadyApproved, lambda: approve(stage, one, EVE, quorum=THREE))


@pytest.mark.parametrize("who", [STOPPER, VIEWER, Operator("wim", Role.WITNESS)])
def test_only_who_may_change_things_has_a_hand(who: Operator) -> None:
    stage = ready()
    one = propose(stage)
    for act in (
        lambda: propose(stage, who),
        lambda: approve(stage, one, who),
        lambda: reject(stage, one, who),
    ):
        assert refused(stage, NotPermitted, act).got == who.role


@pytest.mark.parametrize("role", [None, Role.STOPPER])
def test_the_hand_of_one_who_lost_the_role_does_not_count(role: Role | None) -> None:
    stage = ready()
    one = propose(stage)
    roles = {name: kept for name, kept in ROLES.items() if name != "ada"}
    later = Quorum(TWO.hands, roles if role is None else roles | {"ada": role})
    assert approve(stage, one, EVE, quorum=later).state == "pending"
    size, _ = stage.see(audit.head)
    (entry,) = stage.see(lambda tx: audit.entries(tx, start=size - 1, count=1))
    assert (entry.detail["approvers"], entry.detail["done"]) == (["eve"], False)
    assert approve(stage, one, BEA, quorum=later).state == "done"
    stage.check()


def test_how_many_it_takes_is_what_the_settings_say_at_the_end() -> None:
    """Raised since: more hands. Lowered since: one that is there already may finish it."""
    stage = ready()
    one, other = propose(stage), propose(stage)
    assert approve(stage, one, EVE, quorum=THREE).state == "pending"
    assert approve(stage, one, BEA, quorum=THREE).state == "done"
    approve(stage, other, EVE, quorum=THREE)
    assert approve(stage, other, EVE, quorum=TWO).state == "done"
    stage.check()


def test_an_act_that_is_refused_leaves_no_approval() -> None:
    stage = ready()
    one = propose(stage)

    def take(tx: Tx, now: Instant, operator: Operator) -> loans.Loan:
        return loans.change_cap(tx, now=now, operator=operator, loan="loan-1", units=Units(-20_000))

    refused(stage, BudgetExhausted, lambda: approve(stage, one, act=take))
    assert approve(stage, one).state == "done"


def test_a_proposal_lives_a_day() -> None:
    stage = ready()
    one = propose(stage)
    assert one.expires == stage.now + DAY
    stage.now = Instant(stage.now + DAY - 1)
    approve(stage, one, quorum=THREE)
    stage.now = Instant(stage.now + 1)
    assert one.state_at(stage.now) == "expired"
    assert stage.see(lambda tx: hands.list_proposals(tx, now=stage.now)) == ()
    why = refused(stage, ProposalClosed, lambda: approve(stage, one, BEA, quorum=THREE))
    assert why.got == "expired"
    refused(stage, ProposalClosed, lambda: reject(stage, one, ADMIN))


@pytest.mark.parametrize("who", [ADMIN, EVE])
def test_one_hand_is_enough_to_say_no(who: Operator) -> None:
    stage = ready()
    one = propose(stage)
    refused(stage, BadRequest, lambda: reject(stage, one, who, " "))
    refused(stage, BadRequest, lambda: reject(stage, one, who, "x" * 501))
    closed = reject(stage, one, who, "not this week")
    assert (closed.state, closed.closed_by, closed.reason) == (
        "rejected",
        who.name,
        "not this week",
    )
    assert last(stage, 1) == [(who.name, "hands.reject")]
    assert refused(stage, ProposalClosed, lambda: approve(stage, one, BEA)).got == "rejected"
    refused(stage, ProposalClosed, lambda: reject(stage, one, EVE))


def test_what_is_not_there_is_said() -> None:
    stage = ready()
    one = propose(stage)
    other = replace(one, id=9)
    refused(stage, UnknownThing, lambda: approve(stage, other))
    refused(stage, UnknownThing, lambda: reject(stage, other, EVE))


def test_pending_ones_are_bounded() -> None:
    stage = ready()
    for _ in range(hands.PENDING_MAX):
        one = propose(stage)
    refused(stage, Conflict, lambda: propose(stage))
    reject(stage, one, EVE)
    propose(stage)
    stage.now = Instant(stage.now + DAY)
    propose(stage)


def test_a_restore_ends_all_that_was_pending() -> None:
    stage = ready()
    one, other = propose(stage), propose(stage)
    approve(stage, other)
    before = cap(stage)
    stage.do(lambda tx: epoch.restore(tx, now=stage.now, operator=ADMIN, reason="drill"))
    assert refused(stage, ProposalClosed, lambda: approve(stage, one)).got == "void"
    assert cap(stage) < before
    found = stage.see(lambda tx: hands.list_proposals(tx, now=stage.now, closed=True))
    assert [(each.id, each.state) for each in found] == [(2, "done"), (1, "void")]


def test_a_proposal_of_an_older_epoch_is_closed_even_if_its_row_says_otherwise() -> None:
    stage = ready()
    one = propose(stage)
    stage.do(lambda tx: epoch.restore(tx, now=stage.now, operator=ADMIN, reason="drill"))
    stage.do(lambda tx: tx.execute("UPDATE proposals SET state = 'pending'"))
    with pytest.raises(ProposalClosed) as refusal:
        approve(stage, one)
    assert refusal.value.got == "made before a restore"


def test_neither_the_backups_proposals_nor_later_ones_survive_putting_it_back(
    tmp_path: Path,
) -> None:
    stage = ready()
    old = propose(stage)
    back_up(stage, tmp_path / "backup.db")
    approve(stage, old, quorum=THREE)
    later = propose(stage, body=b'{"units":8}')
    put_back(stage, tmp_path / "backup.db")
    assert refused(stage, ProposalClosed, lambda: approve(stage, old)).got == "void"
    refused(stage, UnknownThing, lambda: approve(stage, later))
    anew = propose(stage, body=b'{"units":8}')
    assert anew.id == later.id
    refused(stage, WrongProposal, lambda: approve(stage, anew, digest=later.digest))


def _ask(tx: Tx, now: Instant) -> None:
    extensions.open_by_exhaustion(tx, now=now, instance="one", loan="loan-1", consumer="ann")


GATED: dict[str, tuple[Gate, Act]] = {
    "loan.create": (Gate.RELEASE, lambda tx, _now, who: create_loan(tx, who)),
    "loan.cap": (Gate.CAP, grow),
    "loan.manifest": (
        Gate.MANIFEST,
        lambda tx, now, who: loans.replace_manifest(
            tx, now=now, operator=who, loan="loan-1", manifest=b"new"
        ),
    ),
    "stop.lift": (
        Gate.RESUME,
        lambda tx, now, who: stops.lift(tx, now=now, operator=who, stop=1, reason=""),
    ),
    "grant.create": (
        Gate.GRANT,
        lambda tx, now, who: grants.create_grant(
            tx, now=now, operator=who, loan="loan-2", consumer="ann", units=Units(5)
        ),
    ),
    "grant.change": (
        Gate.GRANT,
        lambda tx, now, who: grants.change_grant(
            tx, now=now, operator=who, loan="loan-1", consumer="ann", units=Units(5)
        ),
    ),
    "extension.approved": (
        Gate.GRANT,
        lambda tx, now, who: extensions.approve(
            tx, now=now, operator=who, request=1, units=Units(5)
        ),
    ),
}


def furnished() -> Stage:
    """All that the gated acts are about."""
    stage = ready()
    stage.lend("loan-2")
    stage.do(lambda tx: _ask(tx, stage.now))
    stage.do(
        lambda tx: stops.order(
            tx, now=stage.now, operator=STOPPER, scope="loan", target="loan-2", reason=""
        )
    )
    return stage


@pytest.mark.parametrize("kind", GATED)
def test_the_ledger_itself_refuses_one_hand(kind: str) -> None:
    """Whatever way led there: the act asks, not only the table of endpoints."""
    stage = furnished()
    gate, act = GATED[kind]
    alone = Operator("ada", Role.ADMIN, frozenset({gate}))
    assert (
        refused(stage, HandsNeeded, lambda: stage.do(lambda tx: act(tx, stage.now, alone))).about
        is gate
    )
    free = Operator("ada", Role.ADMIN, frozenset(set(Gate) - {gate}))
    stage.do(lambda tx: act(tx, stage.now, free))
    assert stage.kinds()[-1] == kind
    stage.check()


def test_a_refund_takes_the_hands_of_a_grant() -> None:
    stage = ready()
    lease = lost(stage)
    alone = Operator("ada", Role.ADMIN, frozenset({Gate.GRANT}))

    def act() -> object:
        return stage.do(
            lambda tx: refunds.refund(
                tx,
                now=stage.now,
                operator=alone,
                loan="loan-1",
                consumer="ann",
                lease=lease,
                units=Units(1),
                reason="why",
            )
        )

    refused(stage, HandsNeeded, act)


def test_one_hand_takes_back_and_stops_whatever_the_settings_say() -> None:
    stage = furnished()
    alone = Operator("ada", Role.ADMIN, frozenset(Gate))
    less = Units(-5)
    stage.do(
        lambda tx: loans.change_cap(tx, now=stage.now, operator=alone, loan="loan-1", units=less)
    )
    stage.do(
        lambda tx: grants.change_grant(
            tx, now=stage.now, operator=alone, loan="loan-1", consumer="ann", units=less
        )
    )
    stage.do(lambda tx: extensions.deny(tx, now=stage.now, operator=alone, request=1, reason="no"))
    stage.do(
        lambda tx: stops.order(tx, now=stage.now, operator=alone, scope="all", target="", reason="")
    )
    stage.do(lambda tx: loans.end_loan(tx, now=stage.now, operator=alone, loan="loan-1"))
    stage.check()


def test_an_approval_frees_only_the_act_that_it_completes() -> None:
    stage = ready()
    one = propose(stage)
    seen: list[Operator] = []

    def act(tx: Tx, now: Instant, operator: Operator) -> None:
        seen.append(operator)

    gated = Operator("eve", Role.ADMIN, TWO.hands.gates)
    approve(stage, one, gated, act=act)
    assert seen == [Operator("eve", Role.ADMIN)]
    refused(stage, HandsNeeded, lambda: stage.do(lambda tx: grow(tx, stage.now, gated)))


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE proposals SET state = 'done'",
        "UPDATE proposals SET state = 'rejected', closed_by = 'eve'",
        "DELETE FROM proposal_hands",
        "INSERT INTO proposal_hands (proposal, operator, at) VALUES (1, 'bea', 1)",
        "UPDATE proposal_hands SET operator = 'bea'",
    ],
)
def test_a_proposal_that_the_log_does_not_tell_is_noticed(damage: str) -> None:
    stage = ready()
    propose(stage)
    stage.check()
    stage.do(lambda tx: tx.execute(damage))
    with pytest.raises(BooksWrong) as wrong:
        stage.see(books.check_replay)
    assert wrong.value.about == "proposals"


def test_a_request_that_was_changed_behind_its_digest_is_noticed() -> None:
    stage = ready()
    one = propose(stage)
    request = to_json(replace(one.order, body=b'{"units":9}'))
    stage.do(lambda tx: tx.execute("UPDATE proposals SET request = ?", (request,)))
    with pytest.raises(BooksWrong) as wrong:
        approve(stage, one)
    assert wrong.value.about == "proposal 1"


@pytest.mark.parametrize(
    "changed",
    [
        {"done": True},
        {"done": True, "approvers": ["ada", "bea"]},
        {"done": False, "approvers": ["ada", "eve"]},
        {"digest": "00" * 32, "done": True, "approvers": ["ada", "eve"]},
        {"proposal": 9},
    ],
)
def test_a_log_with_too_few_hands_does_not_replay(changed: dict[str, object]) -> None:
    """At every prefix: an entry like none that the code writes."""
    stage = ready()
    one = propose(stage)
    detail = {
        "proposal": one.id,
        "digest": one.digest.hex(),
        "approvers": ["eve"],
        "needed": 2,
        "done": False,
    } | changed
    stage.do(
        lambda tx: audit.append(tx, now=stage.now, actor="eve", kind="hands.approve", detail=detail)
    )
    with pytest.raises(BooksWrong) as wrong:
        stage.see(books.check_replay)
    assert str(wrong.value.about).startswith("log entry")


def test_more_hands_than_administrators_are_refused() -> None:
    assert check_hands(THREE.hands, ROLES) is THREE.hands
    for gate in Gate:
        with pytest.raises(BadSetting) as refusal:
            check_hands(Hands(**{gate.value: 4}), ROLES)
        assert (refusal.value.about, refusal.value.got) == (f"hands.{gate}", 4)
    assert Hands().gates == frozenset()
    assert Hands(cap=2).gates == {Gate.CAP}
