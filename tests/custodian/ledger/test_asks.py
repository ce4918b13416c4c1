"""Lease asks: M-3's idempotence, M-4's sizes, and every reason for a refusal."""

from __future__ import annotations

import msgspec
import pytest

from leasehold.core.lease import LeasePolicy
from leasehold.core.messages import AttestAgain, LeaseAsk, LeaseGranted, LeaseRefused, Scope
from leasehold.core.units import DAY, Instant, Units
from leasehold.custodian.ledger import (
    answers,
    asks,
    consumers,
    grants,
    leases,
    loans,
    stops,
)
from leasehold.errors import BadMessage, UnknownThing

from .stage import ADMIN, EXACT, STOPPER, Stage, key_id, ready


def refused(answer: asks.Answer) -> str:
    assert isinstance(answer, LeaseRefused | AttestAgain), answer
    return answer.problem.code


def test_a_grant_debits_the_whole_path() -> None:
    """M-2, M-3."""
    stage = ready()
    answer = stage.lease(units=100)
    assert (answer.granted, answer.consumer, answer.epoch) == (100, "ann", 1)
    assert answer.ttl == EXACT.ttl
    assert (answer.budget.granted, answer.budget.available, answer.budget.outstanding) == (
        5_000,
        4_900,
        100,
    )
    loan = stage.see(lambda tx: loans.show_loan(tx, "loan-1"))
    assert (loan.budget.available, loan.budget.outstanding) == (9_900, 100)
    stage.check()


def test_the_same_ask_gets_the_same_answer_and_moves_nothing() -> None:
    """M-3, S7."""
    stage = ready()
    ask = stage.message()
    first = stage.send(ask)
    log = len(stage.kinds())
    assert stage.send(ask) == first
    stage.restart()
    assert stage.send(ask) == first
    assert len(stage.kinds()) == log
    assert stage.see(lambda tx: leases.outstanding(tx, scope="all", target="")) == 100


@pytest.mark.parametrize("field", ["least", "need", "rate", "spent", "key_hash", "lease"])
def test_the_same_sequence_with_other_contents_is_a_conflict_and_an_alarm(field: str) -> None:
    """T32: two users of one sequence space."""
    stage = ready()
    ask = stage.message()
    stage.send(ask)
    other = {"key_hash": bytes(32), "lease": "1-9"}.get(field, 1)
    forged = msgspec.structs.replace(ask, **{field: other})
    assert refused(stage.send(forged)) == "conflict"
    assert stage.kinds()[-1] == "alarm"
    assert stage.see(lambda tx: leases.outstanding(tx, scope="all", target="")) == 100
    stage.check()


def test_a_lease_grows_by_running_totals() -> None:
    """M-3: one open lease for a pair, whose total is what travels."""
    stage = ready()
    first, second = stage.lease(units=100), stage.lease(units=50)
    assert second.lease == first.lease
    assert second.granted == 150
    assert len(stage.see(leases.list_open)) == 1


def test_an_ask_settles_what_it_reports() -> None:
    stage = ready()
    lease = stage.lease(units=100).lease
    answer = stage.send(stage.message(least=0, need=0, spent=60, lease=lease))
    assert isinstance(answer, LeaseGranted)
    assert (answer.granted, answer.budget.settled, answer.budget.outstanding) == (100, 60, 40)
    stage.check()


def test_a_counter_for_another_lease_settles_nothing() -> None:
    """A lease was written off and another opened: the enclave's old counter must not eat the new one."""
    stage = ready()
    lease = stage.lease(units=100).lease
    for named in ("", "1-77"):
        answer = stage.send(stage.message(least=0, need=0, spent=60, lease=named))
        assert isinstance(answer, LeaseGranted)
        assert answer.budget.settled == 0
    assert stage.see(lambda tx: leases.show_lease(tx, lease)).claimed == 0


def test_a_claim_above_the_grant_is_clamped_and_an_alarm() -> None:
    stage = ready()
    lease = stage.lease(units=100).lease
    stage.send(stage.message(least=0, need=0, spent=101, lease=lease))
    assert "alarm" in stage.kinds()
    assert stage.see(lambda tx: leases.show_lease(tx, lease)).settled == 100
    stage.check()


def test_sizes_follow_the_rate_and_leave_a_fair_share() -> None:
    """M-4, through the ledger: a quarter of an even share of what is left, at most."""
    stage = Stage()
    stage.lend(policy=LeasePolicy(outstanding_max=Units(10_000)))
    stage.enrol("ann", "key-1", units=4_000)
    stage.attest("one")
    stage.attest("two")
    answer = stage.send(stage.message(least=1, need=10, rate=10_000_000))
    assert isinstance(answer, LeaseGranted)
    assert answer.granted == 4_000 // 4 // 2


def test_the_end_of_the_budget() -> None:
    stage = ready(units=120)
    stage.lease(units=100)
    answer = stage.send(stage.message(least=20, need=100))
    assert isinstance(answer, LeaseGranted)
    assert answer.granted == 120
    last = stage.send(stage.message(least=1, need=1))
    assert refused(last) == "insufficient_quota"
    assert isinstance(last, LeaseRefused)
    assert last.budget is not None
    assert last.budget.available == 0


def test_the_cap_binds_whatever_the_grant_says() -> None:
    """T37: grants may overcommit the cap, leases may not."""
    stage = ready(cap=50)
    assert refused(stage.send(stage.message(least=51))) == "insufficient_quota"
    assert stage.lease(units=50).granted == 50
    stage.check()


def test_a_key_cap_binds_and_counts_the_past() -> None:
    stage = ready()
    lease = stage.lease(units=100)
    stage.close(lease.lease, 40)
    cap = stage.do(
        lambda tx: grants.cap_key(
            tx,
            now=stage.now,
            operator=ADMIN,
            loan="loan-1",
            key=key_id("key-1"),
            units=Units(100),
        )
    )
    assert (cap.budget.settled, cap.budget.available) == (40, 60)
    assert refused(stage.send(stage.message(least=61))) == "insufficient_quota"
    assert stage.lease(units=60).granted == 60
    stage.check()


def test_outstanding_max_is_a_wait_not_an_end() -> None:
    """M-4: too much is out in leases; some of it comes back."""
    stage = Stage()
    stage.lend(policy=msgspec.structs.replace(EXACT, outstanding_max=Units(150)))
    stage.enrol("ann", "key-1", "key-2")
    stage.attest("one")
    lease = stage.lease("key-1", units=100).lease
    assert refused(stage.send(stage.message("key-2", least=51))) == "rate_limit_exceeded"
    stage.close(lease, 10)
    assert stage.lease("key-2", units=51).granted == 51


def test_what_never_fits_is_no_wait() -> None:
    stage = Stage()
    stage.lend(policy=msgspec.structs.replace(EXACT, outstanding_max=Units(150)))
    stage.enrol("ann", "key-1")
    stage.attest("one")
    assert refused(stage.send(stage.message(least=151))) == "insufficient_quota"
    assert "extension.open" not in stage.kinds()


@pytest.mark.parametrize(
    ("scope", "target"), [("all", ""), ("loan", "loan-1"), ("enclave", "one"), ("consumer", "ann")]
)
def test_no_lease_under_a_stop(scope: Scope, target: str) -> None:
    """M-7, T36: the stop is the absence of renewal; not even a repeated grant leaves."""
    stage = ready()
    old = stage.message()
    lease = stage.send(old)
    stage.do(
        lambda tx: stops.order(
            tx, now=stage.now, operator=STOPPER, scope=scope, target=target, reason="test"
        )
    )
    assert isinstance(lease, LeaseGranted)
    renewal = stage.message(least=0, need=0, spent=30, lease=lease.lease)
    assert refused(stage.send(renewal)) == "loan_stopped"
    assert refused(stage.send(old)) == "loan_stopped"
    assert stage.see(lambda tx: leases.show_lease(tx, lease.lease)).settled == 30
    stage.check()


def test_a_stop_elsewhere_stops_nothing_here() -> None:
    stage = ready()
    stage.lend("loan-2")
    stage.enrol("bob", "key-2")
    stage.attest("two")
    for scope, target in (("loan", "loan-2"), ("consumer", "bob"), ("enclave", "two")):
        stage.do(
            lambda tx, scope=scope, target=target: stops.order(
                tx, now=stage.now, operator=STOPPER, scope=scope, target=target, reason=""
            )
        )
    assert stage.lease().granted == 100


def test_no_lease_on_old_evidence() -> None:
    stage = ready()
    stage.now = Instant(stage.now + DAY - 1)
    stage.lease()
    stage.now = Instant(stage.now + 1)
    assert refused(stage.send(stage.message())) == "evidence_expired"


def test_no_lease_under_an_ended_loan() -> None:
    stage = ready()
    stage.do(lambda tx: loans.end_loan(tx, now=stage.now, operator=ADMIN, loan="loan-1"))
    assert refused(stage.send(stage.message())) == "loan_stopped"


def test_no_lease_for_unknown_revoked_or_ungranted_keys() -> None:
    stage = ready()
    assert refused(stage.send(stage.message("nobody's"))) == "invalid_api_key"
    stage.do(
        lambda tx: consumers.revoke_key(tx, now=stage.now, operator=ADMIN, key=key_id("key-1"))
    )
    answer = stage.send(stage.message("key-1"))
    assert refused(answer) == "invalid_api_key"
    assert isinstance(answer, LeaseRefused)
    assert answer.budget is None
    stage.lend("loan-2")
    stage.enrol("bob", "key-2", loan="loan-2")
    assert refused(stage.send(stage.message("key-2"))) == "invalid_api_key"


def test_a_refusal_is_audited_with_its_code() -> None:
    stage = ready()
    stage.send(stage.message("nobody's"))
    assert stage.kinds()[-1] == "lease.refuse"


@pytest.mark.parametrize(
    "changes", [{"least": -1}, {"need": -1}, {"rate": -1}, {"spent": 1 << 60}, {"key_hash": b""}]
)
def test_nonsense_is_refused_and_moves_nothing(changes: dict[str, object]) -> None:
    stage = ready()
    log = len(stage.kinds())
    ask: LeaseAsk = msgspec.structs.replace(stage.message(), **changes)
    with pytest.raises(BadMessage):
        stage.send(ask)
    assert len(stage.kinds()) == log


def test_an_unknown_instance_is_refused() -> None:
    stage = ready()
    with pytest.raises(UnknownThing):
        stage.send(stage.message(), "nobody")


def test_lost_instances_must_attest_again() -> None:
    stage = ready()
    stage.do(lambda tx: tx.execute("UPDATE instances SET state = 'lost'"))
    assert refused(stage.send(stage.message())) == "evidence_expired"
    stage.attest("one")
    assert stage.lease().granted == 100


def test_forgotten_answers_are_refused_not_given_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "ANSWERS_KEPT", 3)
    monkeypatch.setattr(answers, "ANSWERS_MAX", 6)
    stage = ready()
    first = stage.message()
    stage.send(first)
    for _ in range(9):
        stage.lease(units=1)
    assert refused(stage.send(first)) == "conflict"
    assert stage.see(lambda tx: tx.execute("SELECT COUNT(*) FROM answers"))[0][0] <= 8
    stage.check()


def test_a_renewal_extends_the_life_and_never_shortens_it() -> None:
    """M-5, also where the custodian's clock stepped back."""
    stage = ready()
    lease = stage.lease().lease
    expires = stage.see(lambda tx: leases.show_lease(tx, lease)).expires
    assert expires == stage.now + EXACT.ttl
    stage.now = Instant(stage.now + 10)
    stage.send(stage.message(least=0, need=0))
    assert stage.see(lambda tx: leases.show_lease(tx, lease)).expires == expires + 10
    stage.now = Instant(stage.now - 1_000)
    stage.send(stage.message(least=0, need=0))
    assert stage.see(lambda tx: leases.show_lease(tx, lease)).expires == expires + 10
