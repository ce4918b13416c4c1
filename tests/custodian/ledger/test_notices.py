"""Stops with notice and with a drain: they begin by themselves, only come sooner, and bound every lease."""

from __future__ import annotations

import pytest

from leasehold.core.messages import LeaseGranted, LeaseRefused, Scope
from leasehold.core.units import DAY, MINUTE, SECOND, Duration, Instant
from leasehold.custodian.ledger import audit, books, instances, leases, notices, stops, sweeps
from leasehold.custodian.ledger.operators import Operator
from leasehold.errors import BadRequest, BooksWrong, LoanStopped, NotPermitted

from .stage import ADMIN, START, STOPPER, VIEWER, Stage, ready


def order(
    stage: Stage,
    scope: Scope = "loan",
    target: str = "loan-1",
    *,
    notice: int = 0,
    drain: int = 0,
    by: Operator = STOPPER,
) -> stops.Stop:
    return stage.do(
        lambda tx: stops.order(
            tx,
            now=stage.now,
            operator=by,
            scope=scope,
            target=target,
            reason="maintenance",
            notice=Duration(notice),
            drain=Duration(drain),
        )
    )


def lift(stage: Stage, stop: int) -> stops.Stop:
    return stage.do(
        lambda tx: stops.lift(tx, now=stage.now, operator=ADMIN, stop=stop, reason="off")
    )


def wait(stage: Stage, length: int) -> tuple[stops.Stop, ...]:
    stage.now = Instant(stage.now + length)
    return stage.do(lambda tx: sweeps.sweep(tx, now=stage.now)).stops


def show(stage: Stage, stop: int) -> stops.Stop:
    return stage.see(lambda tx: stops.show_stop(tx, stop))


def state(stage: Stage, instance: str = "one") -> str:
    return stage.see(lambda tx: instances.show_instance(tx, instance)).state


def refusal(stage: Stage) -> str:
    answer = stage.send(stage.message())
    assert isinstance(answer, LeaseRefused)
    return answer.problem.code


def test_a_notice_changes_nothing_until_it_begins_by_itself() -> None:
    """L-14."""
    stage = ready()
    stop = order(stage, notice=50 * SECOND)
    assert (stop.phase, stop.begins, stop.ends) == ("notice", START + 50 * SECOND, stop.begins)
    assert state(stage) == "live"
    assert stage.see(lambda tx: stops.audience(tx, stop=stop.id)) == ()
    assert stage.see(lambda tx: stops.active_for(tx, loan="loan-1")) is None
    assert stage.lease(units=20).granted == 20
    stage.attest("two")
    assert wait(stage, 40 * SECOND) == ()
    (begun,) = wait(stage, 10 * SECOND)
    assert (begun.id, begun.phase) == (stop.id, "full")
    assert state(stage) == state(stage, "two") == "stopping"
    assert stage.see(lambda tx: stops.audience(tx, stop=stop.id)) == ("one", "two")
    assert wait(stage, 10 * SECOND) == ()
    entries = stage.see(lambda tx: audit.entries(tx, start=0, count=999))
    entry = next(e for e in entries if e.kind == "stop.begin")
    assert entry.actor == "custodian"
    assert entry.detail == {"stop": stop.id, "phase": "full", "instances": ["one", "two"]}
    stage.check()


def test_no_lease_reaches_past_the_end_of_a_notice() -> None:
    stage = ready()
    order(stage, notice=12 * SECOND)
    first = stage.lease(units=10)
    assert first.ttl == 12 * SECOND
    stage.now = Instant(stage.now + 11 * SECOND)
    assert stage.lease(units=10).ttl == SECOND
    (lease,) = stage.see(leases.list_open)
    assert lease.expires == START + 12 * SECOND


def test_a_lease_under_a_notice_with_a_drain_may_reach_into_the_drain() -> None:
    stage = ready()
    order(stage, notice=5 * SECOND, drain=10 * SECOND)
    assert stage.lease().ttl == 15 * SECOND


@pytest.mark.parametrize(
    ("scope", "target", "ttl"),
    [
        ("consumer", "ann", SECOND),
        ("consumer", "bob", 30 * SECOND),
        ("enclave", "one", SECOND),
        ("enclave", "two", 30 * SECOND),
        ("loan", "loan-1", SECOND),
        ("loan", "loan-2", 30 * SECOND),
        ("all", "", SECOND),
    ],
)
def test_a_notice_bounds_the_leases_of_its_scope(scope: Scope, target: str, ttl: int) -> None:
    stage = ready()
    stage.lend("loan-2")
    stage.enrol("bob", "key-2")
    stage.attest("two")
    order(stage, scope, target, notice=SECOND)
    assert stage.lease().ttl == ttl


def test_of_several_notices_the_soonest_bounds() -> None:
    stage = ready()
    order(stage, "all", "", notice=20 * SECOND)
    order(stage, "consumer", "ann", notice=5 * SECOND)
    order(stage, notice=10 * SECOND)
    assert stage.lease().ttl == 5 * SECOND


@pytest.mark.parametrize("drain", [0, MINUTE])
def test_a_stop_that_is_due_refuses_before_anybody_has_begun_it(drain: int) -> None:
    """The custodian may have been down, or late."""
    stage = ready()
    stop = order(stage, notice=SECOND, drain=drain)
    stage.now = Instant(stage.now + SECOND)
    assert refusal(stage) == "loan_stopped"
    assert show(stage, stop.id).phase == "notice"


def test_an_old_answer_is_not_repeated_once_a_notice_is_over() -> None:
    stage = ready()
    ask = stage.message()
    order(stage, notice=SECOND)
    assert isinstance(stage.send(ask), LeaseGranted)
    stage.now = Instant(stage.now + SECOND)
    answer = stage.send(ask)
    assert isinstance(answer, LeaseRefused)
    assert answer.problem.code == "loan_stopped"


def test_a_drain_is_in_force_at_once_and_ends_by_itself() -> None:
    """L-14, M-7: no lease, no attestation; the bound does not grow."""
    stage = ready()
    lease = stage.lease(units=100).lease
    stop = order(stage, drain=2 * MINUTE)
    assert (stop.phase, stop.begins, stop.ends) == ("drain", START, START + 2 * MINUTE)
    assert state(stage) == "stopping"
    assert refusal(stage) == "loan_stopped"
    with pytest.raises(LoanStopped, match="maintenance"):
        stage.attest("two")
    before = stage.see(lambda tx: stops.progress(tx, stop=stop.id))
    assert (before.units, before.pending) == (100, ("one",))
    stage.report(lease, 30)
    assert stage.see(lambda tx: stops.progress(tx, stop=stop.id)).units == 70
    assert wait(stage, MINUTE) == ()
    (over,) = wait(stage, MINUTE)
    assert over.phase == "full"
    assert stage.kinds().count("stop.drained") == 1
    stage.check()


def test_the_ledger_refuses_a_drain_in_two_places() -> None:
    """Whoever a stop did not find, for whatever reason, gets no lease while it drains."""
    stage = ready()
    order(stage, drain=2 * MINUTE)
    stage.edit("UPDATE instances SET state = 'live' WHERE id = 'one'")
    assert refusal(stage) == "loan_stopped"


def test_a_notice_may_end_in_a_drain() -> None:
    stage = ready()
    stop = order(stage, notice=MINUTE, drain=MINUTE)
    (begun,) = wait(stage, MINUTE)
    assert (begun.phase, begun.ends) == ("drain", START + 2 * MINUTE)
    (over,) = wait(stage, MINUTE)
    assert over.phase == "full"
    assert [kind for kind in stage.kinds() if kind.startswith("stop.")] == [
        "stop.order",
        "stop.begin",
        "stop.drained",
    ]
    assert show(stage, stop.id) == over
    stage.check()


def test_a_custodian_that_was_down_over_both_times_goes_to_the_end() -> None:
    stage = ready()
    order(stage, notice=MINUTE, drain=MINUTE)
    (begun,) = wait(stage, DAY)
    assert begun.phase == "full"
    assert "stop.drained" not in stage.kinds()
    stage.check()


@pytest.mark.parametrize(
    ("again", "begins", "ends", "phase"),
    [
        ({"notice": 20 * MINUTE, "drain": 20 * MINUTE}, 11, 16, "notice"),
        ({"notice": 5 * MINUTE, "drain": 30 * MINUTE}, 6, 16, "notice"),
        ({"notice": 5 * MINUTE}, 6, 6, "notice"),
        ({"notice": 20 * MINUTE}, 11, 16, "notice"),
        ({"drain": MINUTE}, 1, 2, "drain"),
        ({"drain": 30 * MINUTE}, 1, 16, "drain"),
        ({}, 1, 1, "full"),
    ],
)
def test_a_repeated_order_may_only_hasten(
    again: dict[str, int], begins: int, ends: int, phase: str
) -> None:
    """Minutes after the start; the first order begins at 11 and ends at 16."""
    stage = ready()
    stage.now = Instant(START + MINUTE)
    first = order(stage, notice=10 * MINUTE, drain=5 * MINUTE)
    second = order(stage, **again)
    assert second.id == first.id
    assert (second.begins - START, second.ends - START) == (begins * MINUTE, ends * MINUTE)
    assert second.phase == phase
    assert (state(stage) == "live") == (phase == "notice")
    stage.check()


def test_what_is_in_force_stays_so_under_any_repetition_and_any_clock() -> None:
    stage = ready()
    stop = order(stage, drain=MINUTE)
    assert order(stage, notice=10 * MINUTE, drain=30 * MINUTE) == stop
    stage.now = Instant(stage.now - DAY)
    assert order(stage, notice=10 * MINUTE).phase == "drain"
    assert order(stage).phase == "full"
    assert order(stage, drain=30 * MINUTE).phase == "full"
    stage.check()


def test_lifting_in_the_notice_calls_it_off() -> None:
    stage = ready()
    stop = order(stage, notice=SECOND)
    assert lift(stage, stop.id).lifted == stage.now
    assert wait(stage, 10 * SECOND) == ()
    assert "stop.begin" not in stage.kinds()
    assert isinstance(stage.send(stage.message()), LeaseGranted)
    assert order(stage, notice=MINUTE).id == stop.id + 1
    stage.check()


def test_a_lifted_drain_ends_all_the_same_for_whom_it_found() -> None:
    """N-7."""
    stage = ready()
    stop = order(stage, drain=MINUTE)
    lift(stage, stop.id)
    stage.attest("two")
    assert stage.lease(instance="two").ttl == 30 * SECOND
    (over,) = wait(stage, MINUTE)
    assert (over.phase, over.lifted) == ("full", START)
    assert stage.see(lambda tx: stops.audience(tx, stop=stop.id)) == ("one",)
    assert state(stage, "two") == "live"
    stage.check()


def test_a_consumer_has_notice_but_no_drain() -> None:
    stage = ready()
    with pytest.raises(BadRequest, match="drain") as refused:
        order(stage, "consumer", "ann", drain=MINUTE)
    assert refused.value.got == "a stop of a consumer"
    stop = order(stage, "consumer", "ann", notice=MINUTE)
    assert stage.see(lambda tx: stops.unheard(tx, instance="one")) == ()
    stage.lease()
    assert stage.see(lambda tx: stops.unheard(tx, instance="one")) == ()
    wait(stage, MINUTE)
    assert stage.see(lambda tx: stops.audience(tx, stop=stop.id)) == ("one",)
    assert refusal(stage) == "loan_stopped"


@pytest.mark.parametrize(
    ("times", "about"),
    [
        ({"notice": -1}, "notice"),
        ({"notice": 90 * DAY + 1}, "notice"),
        ({"drain": -1}, "drain"),
        ({"drain": 60 * MINUTE + 1}, "drain"),
    ],
)
def test_times_have_limits(times: dict[str, int], about: str) -> None:
    stage = ready()
    with pytest.raises(BadRequest, match=about):
        order(stage, **times)
    assert "stop.order" not in stage.kinds()


def test_a_notice_takes_the_right_to_stop() -> None:
    with pytest.raises(NotPermitted):
        order(ready(), notice=MINUTE, by=VIEWER)


def test_who_is_told_and_of_what() -> None:
    stage = ready()
    stage.attest("two")

    def told(instance: str = "one", consumer: str = "") -> int | None:
        coming = stage.see(lambda tx: notices.coming(tx, instance=instance, consumer=consumer))
        return None if coming is None else coming.id

    assert told() is None
    late = order(stage, "all", "", notice=10 * MINUTE)
    assert (told(), told("two")) == (late.id, late.id)
    soon = order(stage, "enclave", "one", notice=MINUTE)
    assert (told(), told("two")) == (soon.id, late.id)
    hers = order(stage, "consumer", "ann", notice=SECOND)
    assert (told("two"), told("two", "ann"), told("two", "bob")) == (late.id, hers.id, late.id)
    listeners = stage.see(lambda tx: [notices.listeners(tx, stop=s) for s in (late, soon, hers)])
    assert listeners == [("one", "two"), ("one",), ()]


def test_progress_before_it_has_begun_says_whom_it_would_find() -> None:
    stage = ready()
    stage.lease(units=100)
    stop = order(stage, notice=MINUTE)
    progress = stage.see(lambda tx: stops.progress(tx, stop=stop.id))
    assert (progress.units, progress.pending, progress.proved) == (100, ("one",), ())


@pytest.mark.parametrize(
    "edit",
    [
        "UPDATE stops SET begins = begins + 1",
        "UPDATE stops SET ends = ends + 60000",
        "UPDATE stops SET phase = 'full'",
        "UPDATE stops SET lifted = 5",
        "UPDATE stops SET target = 'loan-2'",
        "DELETE FROM stops",
    ],
)
def test_a_stop_that_was_changed_behind_the_log_is_found(edit: str) -> None:
    """L-2: the replay knows stops."""
    stage = ready()
    order(stage, notice=MINUTE, drain=MINUTE)
    stage.check()
    stage.edit(edit)
    with pytest.raises(BooksWrong, match="stops"):
        stage.see(books.check_replay)


@pytest.mark.parametrize(
    ("kind", "detail", "why"),
    [
        ("stop.begin", {"stop": 1, "phase": "drain"}, "after notice"),
        ("stop.drained", {"stop": 1, "phase": "full"}, "after notice"),
        ("stop.begin", {"stop": 9, "phase": "full"}, "9"),
        (
            "stop.order",
            {
                "stop": 1,
                "scope": "loan",
                "target": "loan-1",
                "begins": START + 2 * MINUTE,
                "ends": START + 2 * MINUTE,
                "phase": "notice",
            },
            "stop 1. Got: Ordered",
        ),
    ],
)
def test_a_log_in_which_a_stop_comes_at_the_wrong_time_is_found(
    kind: str, detail: dict[str, object], why: str
) -> None:
    stage = ready()
    order(stage, notice=MINUTE, drain=MINUTE)
    stage.do(lambda tx: audit.append(tx, now=stage.now, actor="eve", kind=kind, detail=detail))
    with pytest.raises(BooksWrong, match=why):
        stage.see(books.check_replay)


def test_a_log_of_a_release_without_notice_replays() -> None:
    """A-3: entries of before have no times."""
    stage = ready()
    stop = order(stage)
    entries = list(stage.see(lambda tx: audit.entries(tx, start=0, count=999)))
    old = [
        e
        if e.kind != "stop.order"
        else audit.Entry(
            e.index,
            e.at,
            e.actor,
            e.kind,
            {k: v for k, v in e.detail.items() if k not in ("begins", "ends", "phase")},
        )
        for e in entries
    ]
    again = [e for e in old if e.kind == "stop.order"]
    replay = books.replay_entries([*old, *again])
    assert replay.stops[stop.id] == books.Ordered(
        "loan", "loan-1", int(stop.at), int(stop.at), "full"
    )
