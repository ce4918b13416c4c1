"""Stops: durable, scoped, irrevocable for whom they found running, and honest about what is left."""

from __future__ import annotations

import pytest

from leasehold.core.messages import Scope
from leasehold.core.units import MINUTE, SECOND, Instant
from leasehold.custodian.ledger import instances, leases, stops, sweeps
from leasehold.custodian.ledger.operators import Operator
from leasehold.errors import BadRequest, Conflict, LoanStopped, NotPermitted, UnknownThing

from .stage import ADMIN, STOPPER, VIEWER, Stage, ready


def order(
    stage: Stage, scope: Scope = "loan", target: str = "loan-1", by: Operator = STOPPER
) -> stops.Stop:
    return stage.do(
        lambda tx: stops.order(
            tx, now=stage.now, operator=by, scope=scope, target=target, reason="drill"
        )
    )


def lift(stage: Stage, stop: int, by: Operator = ADMIN) -> stops.Stop:
    return stage.do(lambda tx: stops.lift(tx, now=stage.now, operator=by, stop=stop, reason="over"))


def progress(stage: Stage, stop: int) -> stops.Progress:
    return stage.see(lambda tx: stops.progress(tx, stop=stop))


def state(stage: Stage, instance: str = "one") -> str:
    return stage.see(lambda tx: instances.show_instance(tx, instance)).state


def test_anybody_who_may_stop_stops_and_only_admins_resume() -> None:
    """T56: stop easy, grant hard."""
    stage = ready()
    with pytest.raises(NotPermitted):
        order(stage, by=VIEWER)
    stop = order(stage)
    assert (stop.actor, stop.reason, stop.lifted) == ("sam", "drill", None)
    with pytest.raises(NotPermitted):
        lift(stage, stop.id, by=STOPPER)
    assert lift(stage, stop.id).lifted == stage.now
    with pytest.raises(Conflict):
        lift(stage, stop.id)


def test_a_stop_survives_a_restart() -> None:
    stage = ready()
    stop = order(stage)
    stage.restart()
    assert stage.see(lambda tx: stops.list_stops(tx, active=True)) == (stop,)
    assert stage.see(lambda tx: stops.active_for(tx, loan="loan-1")) == stop


def test_a_second_order_is_the_first_one() -> None:
    stage = ready()
    first = order(stage)
    stage.now = Instant(stage.now + 1)
    assert order(stage) == first
    assert stage.kinds().count("stop.order") == 2


def test_scopes_cover_what_they_say() -> None:
    stage = ready()
    cases: list[tuple[Scope, str, dict[str, str]]] = [
        ("consumer", "ann", {"consumer": "ann"}),
        ("enclave", "one", {"instance": "one"}),
    ]
    for scope, target, covered in cases:
        stop = order(stage, scope, target)
        other = dict.fromkeys(covered, "other")
        assert stage.see(lambda tx, c=covered: stops.active_for(tx, loan="x", **c)) == stop
        assert stage.see(lambda tx, c=other: stops.active_for(tx, loan="x", **c)) is None
        lift(stage, stop.id)


@pytest.mark.parametrize("scope", ["consumer", "enclave", "loan"])
def test_a_stop_of_nothing_is_refused(scope: Scope) -> None:
    stage = ready()
    with pytest.raises(UnknownThing):
        order(stage, scope, "nobody")
    with pytest.raises(BadRequest):
        order(stage, "all", "nobody")


def test_an_instance_that_was_stopped_never_serves_again() -> None:
    """N-7: after a resume the borrower starts it anew."""
    stage = ready()
    stop = order(stage)
    assert state(stage) == "stopping"
    lift(stage, stop.id)
    assert state(stage) == "stopping"
    with pytest.raises(LoanStopped):
        stage.attest("one")
    with pytest.raises(LoanStopped):
        stage.see(lambda tx: instances.check_speaks(tx, now=stage.now, instance="one"))
    stage.attest("two")
    assert stage.lease(instance="two").granted == 100


def test_a_stop_of_a_consumer_stops_no_instance() -> None:
    stage = ready()
    stage.enrol("bob", "key-2")
    stop = order(stage, "consumer", "ann")
    assert state(stage) == "live"
    assert stage.see(lambda tx: stops.audience(tx, stop=stop.id)) == ("one",)
    assert stage.lease("key-2").granted == 100


def test_progress_counts_down_to_zero() -> None:
    """M-7, S6: what can still be served, and who has not proved that it stopped."""
    stage = ready()
    stage.attest("two")
    first = stage.lease(units=100).lease
    stage.lease(units=50, instance="two")
    stop = order(stage).id
    assert stage.see(lambda tx: stops.audience(tx, stop=stop)) == ("one", "two")
    before = progress(stage, stop)
    assert before.lapses == stage.now + 30 * SECOND
    assert set(before.dead_from) == {"one", "two"}
    assert (before.units, before.pending, before.proved) == (150, ("one", "two"), ())
    stage.report(first, 30)
    assert progress(stage, stop).units == 120
    stage.prove(stop, (first, 40))
    half = progress(stage, stop)
    assert (half.units, half.pending, half.proved) == (50, ("two",), ("one",))
    assert stage.see(lambda tx: stops.audience(tx, stop=stop)) == ("two",)
    stage.now = Instant(stage.now + 3 * MINUTE)
    stage.do(lambda tx: sweeps.sweep(tx, now=stage.now))
    end = progress(stage, stop)
    assert (end.units, end.units_in_doubt) == (0, 50)
    assert (end.pending, end.presumed_dead) == ((), ("two",))
    assert end.lapses is None
    assert end.dead_from == {"two": before.dead_from["two"]}
    assert before.stop.at + MINUTE < end.dead_from["two"] <= stage.now
    stage.prove(stop, instance="two")
    done = progress(stage, stop)
    assert (done.units_in_doubt, done.presumed_dead, done.proved) == (0, (), ("one", "two"))
    stage.check()


def test_progress_of_a_consumer_stop_is_about_its_leases() -> None:
    stage = ready()
    stage.enrol("bob", "key-2")
    lease = stage.lease("key-1", units=100).lease
    stage.lease("key-2", units=10)
    stop = order(stage, "consumer", "ann").id
    assert progress(stage, stop).units == 100
    assert progress(stage, stop).pending == ("one",)
    stage.close(lease, 5)
    assert progress(stage, stop).units == 0
    assert progress(stage, stop).pending == ()


def test_an_instance_lost_before_the_stop_is_covered_too() -> None:
    """T31: it may be cut off, not dead; when it comes back after the resume, it stays out."""
    stage = ready()
    stage.lease()
    stage.now = Instant(stage.now + 5 * MINUTE)
    stage.do(lambda tx: sweeps.sweep(tx, now=stage.now))
    assert state(stage) == "lost"
    stop = order(stage).id
    assert progress(stage, stop).presumed_dead == ("one",)
    lift(stage, stop)
    with pytest.raises(LoanStopped):
        stage.attest("one")


def test_outstanding_by_scope() -> None:
    stage = ready()
    stage.enrol("bob", "key-2")
    stage.lease("key-1", units=100)
    stage.lease("key-2", units=10)
    cases: list[tuple[Scope, str, int]] = [
        ("all", "", 110),
        ("loan", "loan-1", 110),
        ("loan", "other", 0),
        ("consumer", "bob", 10),
        ("enclave", "one", 110),
        ("enclave", "two", 0),
    ]
    for scope, target, units in cases:
        assert (
            stage.see(lambda tx, s=scope, t=target: leases.outstanding(tx, scope=s, target=t))
            == units
        )


def test_instances_are_told_one_by_one_and_add_up() -> None:
    """O-8: who proved it when, who is silent, and what each of them still holds."""
    stage = ready()
    for name in ("two", "three", "four"):
        stage.attest(name)
    stage.lease(instance="one", units=100)
    stage.lease(instance="two", units=40)
    stop = order(stage)
    stage.now = Instant(stage.now + 5 * SECOND)
    stage.prove(stop.id, instance="three")
    proved_at = stage.now
    stage.now = Instant(stage.now + SECOND)
    found = progress(stage, stop.id)
    by_name = {one.id: one for one in found.instances}
    assert set(by_name) == {"one", "two", "three", "four"}
    assert {one.id: one.units for one in found.instances} == {
        "one": 100,
        "two": 40,
        "three": 0,
        "four": 0,
    }
    assert sum(one.units for one in found.instances) == found.units
    assert max(one.lapses or 0 for one in found.instances) == found.lapses
    assert (by_name["three"].proved, by_name["three"].dead_from) == (proved_at, None)
    assert by_name["one"].proved is None
    assert {one.id: one.dead_from for one in found.instances if one.dead_from} == found.dead_from
    assert by_name["two"].loan == "loan-1"


def test_only_what_is_stopped_is_counted_for_an_instance() -> None:
    """A stop of a consumer concerns its leases, not what the same instance holds for others."""
    stage = ready()
    stage.enrol("bea", "key-2")
    stage.lease(units=100)
    stage.lease("key-2", units=30)
    stop = order(stage, "consumer", "bea")
    (one,) = progress(stage, stop.id).instances
    assert (one.id, one.units, one.state) == ("one", 30, "live")
