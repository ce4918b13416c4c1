"""Extension requests: opened by exhaustion, completed by the consumer, decided once."""

from __future__ import annotations

import msgspec
import pytest

from leasehold.core.messages import ExtensionAsk, ExtensionState
from leasehold.core.units import Units
from leasehold.custodian.ledger import consumers, extensions, grants
from leasehold.errors import (
    BadMessage,
    BadRequest,
    Conflict,
    NotPermitted,
    UnknownKey,
    UnknownThing,
)

from .stage import ADMIN, STOPPER, Stage, key_hash, key_id, ready


def send(stage: Stage, ask: ExtensionAsk) -> ExtensionState:
    return stage.do(lambda tx: extensions.ask(tx, now=stage.now, instance="one", ask=ask))


def message(stage: Stage, units: int = 500, reason: str = "more, please") -> ExtensionAsk:
    stage.sequence += 1
    return ExtensionAsk(stage.sequence, key_hash("key-1"), Units(units), reason)


def approve(stage: Stage, request: int, units: int | None = None) -> extensions.Decision:
    amount = None if units is None else Units(units)
    return stage.do(
        lambda tx: extensions.approve(
            tx, now=stage.now, operator=ADMIN, request=request, units=amount
        )
    )


def deny(stage: Stage, request: int) -> extensions.Decision:
    return stage.do(
        lambda tx: extensions.deny(
            tx, now=stage.now, operator=ADMIN, request=request, reason="enough"
        )
    )


def look(stage: Stage) -> ExtensionState:
    return stage.see(
        lambda tx: extensions.state(tx, key_hash=key_hash("key-1"), loan="loan-1", sequence=7)
    )


def exhaust(stage: Stage) -> None:
    stage.send(stage.message(least=100_000))


def test_who_never_asked_has_no_request() -> None:
    state = look(ready())
    assert (state.sequence, state.request, state.status, state.consumer) == (7, 0, "none", "ann")
    assert state.budget is not None
    assert state.budget.granted == 5_000


def test_exhaustion_opens_one_request() -> None:
    stage = ready()
    exhaust(stage)
    exhaust(stage)
    requests = stage.see(lambda tx: extensions.list_requests(tx, status="open"))
    assert [(one.id, one.asked, one.consumer) for one in requests] == [(1, 0, "ann")]
    assert stage.kinds().count("extension.open") == 1


def test_the_consumer_completes_the_open_request() -> None:
    stage = ready()
    exhaust(stage)
    state = send(stage, message(stage))
    assert (state.request, state.status, state.asked, state.reason) == (
        1,
        "open",
        500,
        "more, please",
    )
    assert len(stage.see(extensions.list_requests)) == 1


def test_asking_is_idempotent() -> None:
    stage = ready()
    ask = message(stage)
    first = send(stage, ask)
    log = len(stage.kinds())
    assert send(stage, ask) == first
    assert len(stage.kinds()) == log
    with pytest.raises(Conflict):
        send(stage, msgspec.structs.replace(ask, units=Units(501)))


def test_approving_all_that_was_asked() -> None:
    stage = ready()
    send(stage, message(stage))
    decision = approve(stage, 1)
    assert decision.budget.granted == 5_500
    assert decision.cap_limits is False
    assert (decision.state.status, decision.state.approved) == ("approved", 500)
    assert (decision.state.sequence, decision.state.key_hashes) == (0, (key_hash("key-1"),))
    assert decision.request.decided_by == "ada"
    assert look(stage).status == "approved"
    stage.check()


def test_approving_a_part_and_saying_that_the_cap_limits() -> None:
    stage = ready(cap=5_100)
    send(stage, message(stage, units=5_000))
    decision = approve(stage, 1, 101)
    assert decision.state.approved == 101
    assert decision.budget.granted == 5_101
    assert decision.cap_limits is True


def test_a_request_without_an_amount_needs_one_from_the_operator() -> None:
    stage = ready()
    exhaust(stage)
    for units in (None, 0, -5):
        with pytest.raises(BadRequest):
            approve(stage, 1, units)
    assert approve(stage, 1, 10).state.approved == 10


def test_a_request_is_decided_once() -> None:
    stage = ready()
    send(stage, message(stage))
    deny(stage, 1)
    for decide in (approve, deny):
        with pytest.raises(Conflict):
            decide(stage, 1)
    with pytest.raises(UnknownThing):
        approve(stage, 2)
    assert stage.see(lambda tx: grants.show_grant(tx, loan="loan-1", consumer="ann")).budget == (
        ready().see(lambda tx: grants.show_grant(tx, loan="loan-1", consumer="ann")).budget
    )


def test_after_a_denial_only_words_open_another() -> None:
    """Operators are not asked in a loop by every query that fails."""
    stage = ready()
    exhaust(stage)
    assert (deny(stage, 1).state.status, look(stage).reason) == ("denied", "enough")
    exhaust(stage)
    assert len(stage.see(extensions.list_requests)) == 1
    assert send(stage, message(stage)).request == 2


def test_after_an_approval_exhaustion_asks_again() -> None:
    stage = ready()
    exhaust(stage)
    approve(stage, 1, 10)
    exhaust(stage)
    assert [one.id for one in stage.see(extensions.list_requests)] == [2, 1]


def test_only_admins_decide() -> None:
    stage = ready()
    send(stage, message(stage))
    with pytest.raises(NotPermitted):
        stage.do(lambda tx: extensions.approve(tx, now=stage.now, operator=STOPPER, request=1))
    with pytest.raises(NotPermitted):
        stage.do(
            lambda tx: extensions.deny(tx, now=stage.now, operator=STOPPER, request=1, reason="")
        )


def test_unknown_and_revoked_keys_ask_for_nothing() -> None:
    stage = ready()
    stranger = msgspec.structs.replace(message(stage), key_hash=bytes(32))
    with pytest.raises(UnknownKey):
        send(stage, stranger)
    stage.do(
        lambda tx: consumers.revoke_key(tx, now=stage.now, operator=ADMIN, key=key_id("key-1"))
    )
    with pytest.raises(UnknownKey):
        send(stage, message(stage))
    stage.lend("loan-2")
    stage.enrol("bob", "key-2", loan="loan-2")
    elsewhere = msgspec.structs.replace(message(stage), key_hash=key_hash("key-2"))
    with pytest.raises(UnknownKey):
        send(stage, elsewhere)


def test_amounts_and_reasons_have_limits() -> None:
    stage = ready()
    for ask in (
        message(stage, units=0),
        message(stage, units=1 << 60),
        message(stage, reason="x" * 501),
    ):
        with pytest.raises(BadMessage):
            send(stage, ask)
