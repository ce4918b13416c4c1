"""Counters, closing reports and proofs of stop: max-merge, signatures, and what happens when they are late."""

from __future__ import annotations

import msgspec
import pytest

from leasehold.core.encoding import to_json
from leasehold.core.messages import CLOSE_KIND, STOP_PROOF_KIND, CloseReport, Usage
from leasehold.core.statements import sign
from leasehold.core.units import MINUTE, Instant, Units
from leasehold.custodian.ledger import instances, leases, loans, reports, stops, sweeps
from leasehold.errors import BadMessage, BadSignature, UnknownThing

from .stage import STOPPER, Stage, close_report, ready, statement_key, stop_report


def look(stage: Stage, lease: str) -> leases.Lease:
    return stage.see(lambda tx: leases.show_lease(tx, lease))


def late(stage: Stage) -> None:
    stage.now = Instant(stage.now + 5 * MINUTE)
    stage.do(lambda tx: sweeps.sweep(tx, now=stage.now))


def test_counters_are_cumulative_and_merge_by_maximum() -> None:
    """M-5: doubled, late and reordered heartbeats change nothing."""
    stage = ready()
    lease = stage.lease(units=100).lease
    assert [stage.report(lease, spent) for spent in (30, 30, 10, 70, 50)] == [30, 0, 0, 40, 0]
    assert look(stage, lease).settled == 70
    assert stage.kinds().count("lease.settle") == 2
    stage.check()


def test_a_claim_above_the_grant_is_clamped_and_told_once() -> None:
    stage = ready()
    lease = stage.lease(units=100).lease
    assert stage.report(lease, 500) == 100
    assert stage.report(lease, 500) == 0
    assert stage.kinds().count("alarm") == 1
    assert look(stage, lease).outstanding == 0
    stage.check()


def test_a_counter_for_somebody_elses_lease_is_an_alarm() -> None:
    stage = ready()
    stage.attest("two")
    lease = stage.lease(units=100).lease
    for named in (lease, "1-99", "nonsense", ""):
        assert stage.report(named, 10, "two") == 0
    assert stage.kinds().count("alarm") == 4
    assert look(stage, lease).settled == 0


def test_a_heartbeat_is_a_sign_of_life() -> None:
    stage = ready()
    stage.now = Instant(stage.now + 5)
    stage.do(lambda tx: reports.report_usage(tx, now=stage.now, instance="one", usage=()))
    assert stage.see(lambda tx: instances.show_instance(tx, "one")).seen == stage.now
    with pytest.raises(UnknownThing):
        stage.do(lambda tx: reports.report_usage(tx, now=stage.now, instance="no", usage=()))


@pytest.mark.parametrize("spent", [-1, 1 << 60])
def test_counters_have_bounds(spent: int) -> None:
    stage = ready()
    lease = stage.lease().lease
    with pytest.raises(BadMessage):
        stage.report(lease, spent)
    with pytest.raises(BadMessage):
        stage.close(lease, spent)


def test_closing_settles_the_count_and_returns_the_rest() -> None:
    """M-5."""
    stage = ready()
    lease = stage.lease(units=100).lease
    stage.report(lease, 20)
    assert stage.close(lease, 35).lease == lease
    closed = look(stage, lease)
    assert (closed.state, closed.settled, closed.released, closed.outstanding) == (
        "closed",
        35,
        65,
        0,
    )
    budget = stage.see(lambda tx: loans.show_loan(tx, "loan-1")).budget
    assert (budget.outstanding, budget.settled, budget.written_off) == (0, 35, 0)
    stage.check()


def test_closing_again_changes_nothing() -> None:
    stage = ready()
    lease = stage.lease(units=100).lease
    stage.close(lease, 35)
    log = len(stage.kinds())
    stage.close(lease, 35)
    assert len(stage.kinds()) == log
    stage.close(lease, 5)  # other contents: told, and nothing moves
    assert stage.kinds()[log:] == ["lease.close_late"]
    assert look(stage, lease).settled == 35
    stage.check()


def test_a_final_count_never_undoes_a_reported_one() -> None:
    """Otherwise units that were served would come back."""
    stage = ready()
    lease = stage.lease(units=100).lease
    stage.report(lease, 60)
    stage.close(lease, 0)
    assert look(stage, lease).settled == 60
    assert look(stage, lease).released == 40


def test_a_final_count_above_the_grant_is_an_alarm() -> None:
    stage = ready()
    lease = stage.lease(units=100).lease
    stage.close(lease, 101)
    assert stage.kinds()[-2:] == ["alarm", "lease.close"]
    assert look(stage, lease).settled == 100
    stage.check()


def test_after_a_write_off_a_closing_report_comes_too_late() -> None:
    """Decision 3: burn on doubt; never the reverse."""
    stage = ready()
    lease = stage.lease(units=100).lease
    late(stage)
    assert stage.close(lease, 10).lease == lease
    assert stage.report(lease, 10) == 0
    assert stage.kinds()[-1] == "lease.close_late"
    assert (look(stage, lease).state, look(stage, lease).written_off) == ("written_off", 100)
    stage.check()


def test_only_its_own_instance_closes_a_lease() -> None:
    stage = ready()
    stage.attest("two")
    lease = stage.lease(units=100).lease
    with pytest.raises(UnknownThing):
        stage.close(lease, 0, "two")
    forged = sign(statement_key("two"), CLOSE_KIND, close_report(lease, 0).payload)
    with pytest.raises(BadSignature):
        stage.do(lambda tx: reports.close(tx, now=stage.now, instance="one", signed=forged))
    other = sign(
        statement_key("one"), CLOSE_KIND, to_json(CloseReport("two", lease, Units(0), b""))
    )
    with pytest.raises(BadMessage):
        stage.do(lambda tx: reports.close(tx, now=stage.now, instance="one", signed=other))
    assert look(stage, lease).state == "open"


def test_a_statement_of_another_kind_closes_nothing() -> None:
    stage = ready()
    lease = stage.lease(units=100).lease
    wrong = sign(statement_key("one"), STOP_PROOF_KIND, close_report(lease, 0).payload)
    with pytest.raises(BadSignature):
        stage.do(lambda tx: reports.close(tx, now=stage.now, instance="one", signed=wrong))


def order(stage: Stage) -> int:
    return stage.do(
        lambda tx: stops.order(
            tx, now=stage.now, operator=STOPPER, scope="loan", target="loan-1", reason="test"
        )
    ).id


def test_a_proof_of_stop_closes_what_it_names_and_burns_the_rest() -> None:
    """N-7: a lease that the proof leaves out may have a higher count on its way."""
    stage = ready()
    stage.enrol("bob", "key-2")
    first, second = stage.lease("key-1").lease, stage.lease("key-2").lease
    stop = order(stage)
    assert stage.prove(stop, (first, 25)).stop == stop
    assert (look(stage, first).state, look(stage, first).released) == ("closed", 75)
    assert (look(stage, second).state, look(stage, second).written_off) == ("written_off", 100)
    assert stage.see(lambda tx: instances.show_instance(tx, "one")).state == "stopped"
    log = len(stage.kinds())
    stage.prove(stop, (first, 99))
    assert len(stage.kinds()) == log
    stage.check()


def test_a_proof_must_be_signed_by_the_instance_about_itself() -> None:
    stage = ready()
    stage.attest("two")
    stop = order(stage)
    report = stop_report(stop)
    forged = msgspec.structs.replace(report, payload=report.payload.replace(b"1000", b"9999"))
    with pytest.raises(BadSignature):
        stage.do(lambda tx: reports.record_proof(tx, now=stage.now, instance="one", signed=forged))
    with pytest.raises(BadSignature):
        stage.do(lambda tx: reports.record_proof(tx, now=stage.now, instance="two", signed=report))
    relayed = sign(statement_key("two"), STOP_PROOF_KIND, report.payload)
    with pytest.raises(BadMessage):
        stage.do(lambda tx: reports.record_proof(tx, now=stage.now, instance="two", signed=relayed))
    assert stage.see(lambda tx: instances.show_instance(tx, "one")).state == "stopping"


def test_several_counters_in_one_heartbeat() -> None:
    stage = ready()
    stage.enrol("bob", "key-2")
    first, second = stage.lease("key-1").lease, stage.lease("key-2").lease
    usage = (Usage(first, Units(10)), Usage(second, Units(20)), Usage(first, Units(15)))
    settled = stage.do(
        lambda tx: reports.report_usage(tx, now=stage.now, instance="one", usage=usage)
    )
    assert settled == 35
    assert stage.kinds().count("lease.settle") == 1
    stage.check()
