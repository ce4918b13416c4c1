"""A batch of asks does what its asks do one after another: the same answers, the same rows, the same log."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leasehold.core.messages import LeaseAsk, LeaseGranted, LeaseRefused
from leasehold.core.units import DAY, Duration, Units
from leasehold.custodian.ledger import answers, asks, consumers, grants, leases, stops
from leasehold.errors import BadMessage, LeaseholdError, UnknownThing

from .stage import ADMIN, LOOSE, STOPPER, Stage, key_hash, key_id, ready

TABLES = (
    "accounts",
    "leases",
    "answers",
    "log",
    "log_head",
    "extensions",
    "instances",
    "meta",
)
KEYS = ("key-1", "key-2", "key-3", "nobody's")
GUESTS = ("one", "two", "late", "stopped", "unknown")


def stage() -> Stage:
    """Two consumers, one of them with two keys of which one is capped; guests of every kind."""
    made = Stage()
    made.lend(cap=700, policy=LOOSE)
    made.enrol("ann", "key-1", units=500)
    made.enrol("bob", "key-2", units=300)
    for name in ("key-3", "key-4"):
        made.do(
            lambda tx, name=name: consumers.add_key(
                tx, now=made.now, operator=ADMIN, consumer="bob", key_hash=key_hash(name)
            )
        )
    made.do(
        lambda tx: grants.cap_key(
            tx, now=made.now, operator=ADMIN, loan="loan-1", key=key_id("key-3"), units=Units(60)
        )
    )
    for name in ("one", "two", "stopped"):
        made.attest(name)
    made.attest("late", life=Duration(1))
    made.do(
        lambda tx: stops.order(
            tx, now=made.now, operator=STOPPER, scope="enclave", target="stopped", reason=""
        )
    )
    made.now = made.now + 10
    return made


def rows(made: Stage) -> dict[str, list[tuple[Any, ...]]]:
    """All that asks can change."""
    return {
        table: sorted(
            (tuple(row) for row in made.see(lambda tx, t=table: tx.execute(f"SELECT * FROM {t}"))),  # noqa: S608
            key=repr,
        )
        for table in TABLES
    }


def told(result: asks.Answer | LeaseholdError) -> object:
    """An exception by what it says."""
    return (type(result), result.message) if isinstance(result, LeaseholdError) else result


amounts = st.sampled_from([0, 1, 5, 20, 50, 120, 400, 3_000])
wishes = st.lists(
    st.builds(
        lambda guest, key, sequence, least, need, rate, spent, lease: (
            guest,
            LeaseAsk(sequence, key_hash(key), Units(least), Units(need), rate, Units(spent), lease),
        ),
        st.sampled_from(GUESTS),
        st.sampled_from(KEYS),
        st.integers(-1, 12),
        amounts,
        amounts,
        st.sampled_from([0, 10_000, 5_000_000]),
        amounts,
        st.sampled_from(["", "1-1", "1-2", "1-3"]),
    ),
    min_size=1,
    max_size=24,
)


@given(batches=st.lists(wishes, min_size=1, max_size=3), revoked=st.booleans())
@settings(max_examples=150, deadline=None)
def test_together_is_one_after_another(
    batches: list[list[tuple[str, LeaseAsk]]], revoked: bool
) -> None:
    singly, at_once = stage(), stage()
    if revoked:
        for made in (singly, at_once):
            made.do(
                lambda tx, made=made: consumers.revoke_key(
                    tx, now=made.now, operator=ADMIN, key=key_id("key-2")
                )
            )
    for batch in batches:
        acts = [asks.Ask(singly.now, guest, ask) for guest, ask in batch]
        expected: list[object] = []
        for act in acts:
            try:
                expected.append(singly.do(act))
            except (BadMessage, UnknownThing) as problem:
                expected.append(problem)
        results = at_once.do(lambda tx, acts=acts: asks.together(tx, acts))
        assert [told(one) for one in results] == [told(one) for one in expected]
        assert rows(at_once) == rows(singly)
        at_once.check()
        for made in (singly, at_once):
            made.now = made.now + 1_000


def test_a_doubled_ask_in_one_batch_is_one_grant() -> None:
    made = ready()
    ask = made.message()
    other = msgspec.structs.replace(ask, need=Units(7))
    acts = [asks.Ask(made.now, "one", one) for one in (ask, ask, other)]
    first, again, forged = made.do(lambda tx: asks.together(tx, acts))
    assert isinstance(first, LeaseGranted)
    assert again == first
    assert isinstance(forged, LeaseRefused)
    assert forged.problem.code == "conflict"
    assert made.kinds()[-2:] == ["lease.grant", "alarm"]
    assert made.see(lambda tx: leases.outstanding(tx, scope="all", target="")) == 100
    made.check()


def test_a_number_that_no_database_holds_harms_nobody_else() -> None:
    """A hostile instance's ask is refused before anything is read for it."""
    made = ready()
    good, bad = made.message(), msgspec.structs.replace(made.message(), sequence=1 << 70)
    acts = [asks.Ask(made.now, "one", one) for one in (bad, good)]
    refusal, answer = made.do(lambda tx: asks.together(tx, acts))
    assert isinstance(refusal, BadMessage)
    assert isinstance(answer, LeaseGranted)
    with pytest.raises(BadMessage) as alone:
        made.do(acts[0])
    assert alone.value.about == "lease ask"
    made.check()


def test_a_lease_grows_within_a_batch() -> None:
    made = ready()
    acts = [asks.Ask(made.now, "one", made.message()) for _ in range(3)]
    results = made.do(lambda tx: asks.together(tx, acts))
    assert [one.granted for one in results if isinstance(one, LeaseGranted)] == [100, 200, 300]
    assert len({one.lease for one in results if isinstance(one, LeaseGranted)}) == 1
    made.check()


def test_the_asks_of_a_batch_see_each_others_debits() -> None:
    """Three who all want most of what is left: the budget is not handed out twice."""
    made = ready(units=250)
    made.do(
        lambda tx: consumers.add_key(
            tx, now=made.now, operator=ADMIN, consumer="ann", key_hash=key_hash("key-2")
        )
    )
    acts = [
        asks.Ask(made.now, "one", made.message(key, least=80, need=100))
        for key in ("key-1", "key-2", "key-1", "key-2")
    ]
    results = made.do(lambda tx: asks.together(tx, acts))
    granted = [one.granted for one in results if isinstance(one, LeaseGranted)]
    assert granted == [100, 100]
    refusals = [one.problem.code for one in results if isinstance(one, LeaseRefused)]
    assert refusals == ["insufficient_quota", "insufficient_quota"]
    made.check()


def test_the_floor_rises_within_a_batch() -> None:
    """L-4: what is forgotten in the middle of a batch is refused later in it."""
    made = ready()
    old, new = made.message(), made.message()
    new = msgspec.structs.replace(new, sequence=3 * answers.ANSWERS_KEPT)
    late = msgspec.structs.replace(old, sequence=2)
    acts = [asks.Ask(made.now, "one", one) for one in (old, new, late)]
    first, second, third = made.do(lambda tx: asks.together(tx, acts))
    assert isinstance(first, LeaseGranted)
    assert isinstance(second, LeaseGranted)
    assert isinstance(third, LeaseRefused)
    assert third.problem.code == "conflict"


def test_evidence_that_ended_leaves_no_trace_and_the_ask_may_come_again() -> None:
    made = ready()
    made.now = made.now + DAY
    ask, before = made.message(), rows(made)
    answer = made.send(ask)
    assert told(answer) == told(made.send(ask))
    assert answer.problem.code == "evidence_expired"
    assert rows(made) == before
    made.attest("one")
    assert isinstance(made.send(ask), LeaseGranted)
