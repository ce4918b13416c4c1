"""Models, loans, consumers, keys and grants; and that every change needs the right and leaves an entry."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from leasehold.core.lease import LeasePolicy
from leasehold.core.tariff import PER_TOKEN, Tariff
from leasehold.core.units import MINUTE, Duration, Units
from leasehold.custodian.ledger import consumers, epoch, grants, loans, stops
from leasehold.custodian.ledger.operators import RIGHTS, Operator, Right, Role, check_right
from leasehold.custodian.store.port import Tx
from leasehold.errors import (
    AlreadyExists,
    BadMessage,
    BadRequest,
    BadSetting,
    BudgetExhausted,
    LeaseholdError,
    NotPermitted,
    UnknownKey,
    UnknownThing,
)

from .stage import ADMIN, DIGEST, START, STOPPER, VIEWER, Stage, key_hash, key_id, ready

Act = Callable[[Tx, Operator], object]

CHANGES: dict[str, Act] = {
    "model.add": lambda tx, who: loans.add_model(
        tx, now=START, operator=who, name="m", digest=DIGEST, sealed_bytes=1, engine="onnx"
    ),
    "loan.create": lambda tx, who: create_loan(tx, who),
    "loan.cap": lambda tx, who: loans.change_cap(
        tx, now=START, operator=who, loan="loan-1", units=Units(5)
    ),
    "loan.manifest": lambda tx, who: loans.replace_manifest(
        tx, now=START, operator=who, loan="loan-1", manifest=b"new"
    ),
    "loan.end": lambda tx, who: loans.end_loan(tx, now=START, operator=who, loan="loan-1"),
    "consumer.add": lambda tx, who: consumers.add_consumer(tx, now=START, operator=who, name="bob"),
    "key.add": lambda tx, who: consumers.add_key(
        tx, now=START, operator=who, consumer="ann", key_hash=key_hash("new")
    ),
    "key.revoke": lambda tx, who: consumers.revoke_key(
        tx, now=START, operator=who, key=key_id("key-1")
    ),
    "grant.change": lambda tx, who: grants.change_grant(
        tx, now=START, operator=who, loan="loan-1", consumer="ann", units=Units(5)
    ),
    "key.cap": lambda tx, who: grants.cap_key(
        tx, now=START, operator=who, loan="loan-1", key=key_id("key-1"), units=Units(5)
    ),
    "stop.order": lambda tx, who: stops.order(
        tx, now=START, operator=who, scope="all", target="", reason=""
    ),
}


def create_loan(
    tx: Tx,
    who: Operator = ADMIN,
    *,
    name: str = "loan-9",
    model: str = "tiny",
    tariff: Tariff = PER_TOKEN,
    policy: LeasePolicy | None = None,
    cap: int = 1,
    instances_max: int = 1,
    dead_man: int = MINUTE,
) -> loans.Loan:
    return loans.create_loan(
        tx,
        now=START,
        operator=who,
        name=name,
        model=model,
        manifest=b"",
        tariff=tariff,
        policy=policy or LeasePolicy(),
        cap=Units(cap),
        instances_max=instances_max,
        dead_man=Duration(dead_man),
    )


@pytest.mark.parametrize("kind", CHANGES)
def test_every_change_needs_the_right_and_leaves_an_entry(kind: str) -> None:
    """Permission, change and entry are one transaction."""
    stage = ready()
    log = stage.kinds()
    who = VIEWER if kind == "stop.order" else STOPPER
    with pytest.raises(NotPermitted) as refusal:
        stage.do(lambda tx: CHANGES[kind](tx, who))
    assert refusal.value.got == who.role
    assert stage.kinds() == log
    stage.do(lambda tx: CHANGES[kind](tx, ADMIN))
    assert stage.kinds() == [*log, kind]
    stage.check()


def test_roles() -> None:
    assert {role: sorted(rights) for role, rights in RIGHTS.items()} == {
        Role.ADMIN: [Right.CHANGE, Right.READ, Right.HASHES, Right.STOP],
        Role.STOPPER: [Right.READ, Right.HASHES, Right.STOP],
        Role.VIEWER: [Right.READ, Right.HASHES],
        Role.WITNESS: [Right.HASHES],
    }
    check_right(VIEWER, Right.READ)
    with pytest.raises(NotPermitted):
        check_right(VIEWER, Right.STOP)


@pytest.mark.parametrize("kind", ["model.add", "loan.create", "consumer.add", "key.add"])
def test_a_name_is_taken_once(kind: str) -> None:
    stage = ready()
    stage.do(lambda tx: CHANGES[kind](tx, ADMIN))
    with pytest.raises(AlreadyExists):
        stage.do(lambda tx: CHANGES[kind](tx, ADMIN))


@pytest.mark.parametrize("name", ["", ".a", "-a", "a b", "a/b", "=cmd", "a\n", "é", "a" * 64])
def test_names_are_plain(name: str) -> None:
    stage = ready()
    with pytest.raises(BadRequest):
        stage.do(lambda tx: consumers.add_consumer(tx, now=START, operator=ADMIN, name=name))
    with pytest.raises(BadRequest):
        stage.do(lambda tx: create_loan(tx, name=name))


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"model": "none"}, UnknownThing),
        ({"tariff": Tariff()}, BadSetting),
        ({"cap": -1}, BadRequest),
        ({"cap": 1 << 54}, BadRequest),
        ({"instances_max": 0}, BadRequest),
        ({"dead_man": 0}, BadRequest),
        ({"policy": LeasePolicy(ttl=Duration(0))}, BadRequest),
        ({"policy": LeasePolicy(span=Duration(-1))}, BadRequest),
        ({"policy": LeasePolicy(outstanding_max=Units(0))}, BadRequest),
    ],
)
def test_a_loan_has_limits(changes: dict[str, object], refusal: type[LeaseholdError]) -> None:
    stage = ready()
    with pytest.raises(refusal):
        stage.do(lambda tx: create_loan(tx, **changes))  # type: ignore[arg-type]


def test_a_model_has_a_digest_and_a_size() -> None:
    stage = Stage()
    for digest, size, refusal in (("zz", 1, BadMessage), (DIGEST, 0, BadRequest)):
        with pytest.raises(refusal):
            stage.do(
                lambda tx, d=digest, s=size: loans.add_model(
                    tx,
                    now=START,
                    operator=ADMIN,
                    name="m",
                    digest=d,
                    sealed_bytes=s,
                    engine="llama",
                )
            )


def test_what_was_put_in_comes_out() -> None:
    stage = ready()
    loan = stage.see(lambda tx: loans.show_loan(tx, "loan-1"))
    assert stage.see(loans.list_loans) == (loan,)
    assert (loan.manifest, loan.tariff, loan.state) == (b"manifest", PER_TOKEN, "active")
    terms = stage.see(lambda tx: loans.terms(tx, "loan-1"))
    assert (terms.loan, terms.policy, terms.model.digest) == ("loan-1", loan.policy, DIGEST)
    assert [one.name for one in stage.see(loans.list_models)] == ["tiny"]
    assert [one.name for one in stage.see(consumers.list_consumers)] == ["ann"]
    key = stage.see(lambda tx: consumers.find_key(tx, key_hash("key-1")))
    assert stage.see(lambda tx: consumers.list_keys(tx, consumer="ann")) == (key,)
    assert stage.see(lambda tx: consumers.list_keys(tx, consumer="bob")) == ()
    assert [one.consumer for one in stage.see(grants.list_grants)] == ["ann"]
    assert stage.see(lambda tx: grants.list_grants(tx, consumer="bob")) == ()
    with pytest.raises(UnknownThing):
        stage.see(lambda tx: loans.show_loan(tx, "none"))
    with pytest.raises(UnknownThing):
        stage.see(lambda tx: grants.show_grant(tx, loan="loan-1", consumer="none"))


def test_a_revoked_key_is_unknown_and_stays_in_the_list() -> None:
    stage = ready()
    stage.do(lambda tx: CHANGES["key.revoke"](tx, ADMIN))
    stage.do(lambda tx: CHANGES["key.revoke"](tx, ADMIN))
    assert stage.kinds().count("key.revoke") == 1
    assert stage.see(consumers.list_keys)[0].revoked == START
    with pytest.raises(UnknownKey):
        stage.see(lambda tx: consumers.find_key(tx, key_hash("key-1")))


def test_what_is_out_is_not_taken_back() -> None:
    stage = ready(units=100)
    stage.lease(units=60)

    def change(units: int) -> grants.Grant:
        return stage.do(
            lambda tx: grants.change_grant(
                tx,
                now=START,
                operator=ADMIN,
                loan="loan-1",
                consumer="ann",
                units=Units(units),
            )
        )

    with pytest.raises(BudgetExhausted):
        change(-41)
    assert change(-40).budget.available == 0
    with pytest.raises(BadRequest):
        change(1 << 53)
    with pytest.raises(BudgetExhausted):
        stage.do(lambda tx: CHANGES["key.cap"](tx, ADMIN))  # 60 are out, the cap would be 5
    stage.check()


def test_a_cap_on_a_key_can_be_changed() -> None:
    stage = ready()
    for units in (5, 50, 20):
        cap = stage.do(
            lambda tx, units=units: grants.cap_key(
                tx,
                now=START,
                operator=ADMIN,
                loan="loan-1",
                key=key_id("key-1"),
                units=Units(units),
            )
        )
        assert cap.budget.granted == units
    assert len(stage.see(lambda tx: grants.list_key_caps(tx, loan="loan-1"))) == 1
    stage.check()


def test_a_restore_burns_what_a_backup_cannot_know() -> None:
    """T28: the old backup knows neither the leases nor the stops that came after it."""
    stage = ready()
    stage.do(lambda tx: CHANGES["key.cap"](tx, ADMIN))
    lease = stage.lease(units=3)
    stage.report(lease.lease, 1)
    backup = stage.store.snapshot()
    with pytest.raises(NotPermitted):
        stage.do(lambda tx: epoch.restore(tx, now=START, operator=STOPPER, reason=""))
    new = stage.do(lambda tx: epoch.restore(tx, now=START, operator=ADMIN, reason="drill"))
    assert new == START // 1000
    loan = stage.see(lambda tx: loans.show_loan(tx, "loan-1"))
    assert (loan.budget.available, loan.budget.outstanding) == (0, 0)
    assert (loan.budget.settled, loan.budget.written_off) == (1, 2)
    assert [one.scope for one in stage.see(lambda tx: stops.list_stops(tx, active=True))] == ["all"]
    stage.check()
    stage.put_back(backup)
    again = stage.do(lambda tx: epoch.restore(tx, now=START + 1000, operator=ADMIN, reason=""))
    assert again > new
