"""The custodian's scenarios as one course of acts: everything that a ledger can be asked to acknowledge."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Final

from leasehold.core.crypto import SigningKey, sha256
from leasehold.core.encoding import to_json
from leasehold.core.lease import LeasePolicy
from leasehold.core.messages import (
    CLOSE_KIND,
    STOP_PROOF_KIND,
    CloseReport,
    ExtensionAsk,
    LeaseAsk,
    StopReport,
    Usage,
)
from leasehold.core.statements import sign
from leasehold.core.tariff import PER_TOKEN
from leasehold.core.units import DAY, MINUTE, Duration, Instant, Units
from leasehold.custodian.ledger import (
    asks,
    consumers,
    epoch,
    extensions,
    grants,
    instances,
    loans,
    nonces,
    reports,
    stops,
    sweeps,
)
from leasehold.custodian.ledger.operators import Operator, Role
from leasehold.custodian.store.port import Tx

Act = Callable[[Tx], Any]
ADA: Final = Operator("ada", Role.ADMIN)
START: Final = Instant(1_800_000_000_000)
POLICY: Final = LeasePolicy(ttl=Duration(30_000), outstanding_max=Units(3_000))
KEYS: Final = tuple(sha256(name) for name in (b"ann-1", b"ann-2", b"bob-1"))
INSTANCES: Final = ("one", "two", "three")


def key_of(instance: str) -> SigningKey:
    """An instance's statement key."""
    return SigningKey.load(hashlib.sha256(b"statement " + instance.encode()).digest())


def course() -> list[tuple[str, Act]]:
    """All acts in order, each with what it is. The same list and effect every time."""
    return [*_opening(), *_using(0), *_deciding(), *_using(40), *_stopping(), *_restoring()]


def _opening() -> list[tuple[str, Act]]:
    acts: list[tuple[str, Act]] = []

    def do(what: str, act: Callable[..., Any], **given: Any) -> None:
        acts.append((what, lambda tx: act(tx, now=START, operator=ADA, **given)))

    do("model", loans.add_model, name="m", digest="ab" * 32, sealed_bytes=1, engine="llama")
    do(
        "loan",
        loans.create_loan,
        name="l",
        model="m",
        manifest=b"manifest",
        tariff=PER_TOKEN,
        policy=POLICY,
        cap=Units(20_000),
        instances_max=4,
        dead_man=MINUTE,
    )
    for name, keys in (("ann", KEYS[:2]), ("bob", KEYS[2:])):
        do("consumer", consumers.add_consumer, name=name)
        for key in keys:
            do("key", consumers.add_key, consumer=name, key_hash=key)
        do("grant", grants.create_grant, loan="l", consumer=name, units=Units(9_000))
    for instance in INSTANCES:
        acts.append(
            ("nonce", lambda tx, i=instance: nonces.issue(tx, now=START, nonce=sha256(i.encode())))
        )
        acts.append(("register", lambda tx, i=instance: _register(tx, i)))
    return acts


def _register(tx: Tx, instance: str) -> None:
    instances.register(
        tx,
        now=START,
        instance=instance,
        loan="l",
        statement_key=key_of(instance).public,
        machine="machine",
        verdict=b"{}",
        evidence_digest=sha256(instance.encode()),
        certificate_expires=Instant(START + DAY),
        evidence_expires=Instant(START + DAY),
    )


def _using(first: int) -> list[tuple[str, Act]]:
    acts: list[tuple[str, Act]] = []
    for step in range(12):
        instance, key, now = INSTANCES[step % 3], KEYS[step % 2], Instant(START + first + step)
        ask = LeaseAsk(first + step + 1, key, Units(10), Units(60 + step), 0, Units(0))
        acts.append(
            (
                "lease",
                lambda tx, a=(now, instance, ask): asks.ask(tx, now=a[0], instance=a[1], ask=a[2]),
            )
        )
        acts.append(("report", lambda tx, a=(now, instance, step): _report(tx, *a)))
    acts.append(("close", lambda tx: _close(tx, Instant(START + first + 20), "one")))
    acts.append(("repeated", lambda tx: _repeat(tx, first)))
    return acts


def _repeat(tx: Tx, first: int) -> None:
    """The first ask of this course once more: it changes nothing."""
    ask = LeaseAsk(first + 1, KEYS[0], Units(10), Units(60), 0, Units(0))
    asks.ask(tx, now=Instant(START + first + 30), instance="one", ask=ask)


def _open_lease(tx: Tx, instance: str) -> str | None:
    rows = tx.execute(
        "SELECT epoch, number FROM leases WHERE instance = ? AND state = 'open' ORDER BY number LIMIT 1",
        (instance,),
    )
    return f"{rows[0][0]}-{rows[0][1]}" if rows else None


def _report(tx: Tx, now: Instant, instance: str, step: int) -> None:
    lease = _open_lease(tx, instance)
    if lease is not None:
        reports.report_usage(tx, now=now, instance=instance, usage=(Usage(lease, Units(7 * step)),))


def _close(tx: Tx, now: Instant, instance: str) -> None:
    lease = _open_lease(tx, instance)
    if lease is not None:
        report = CloseReport(instance, lease, Units(80), b"")
        signed = sign(key_of(instance), CLOSE_KIND, to_json(report))
        reports.close(tx, now=now, instance=instance, signed=signed)


def _deciding() -> list[tuple[str, Act]]:
    now = Instant(START + 35)
    wish = ExtensionAsk(900, KEYS[2], Units(500), "more")
    again = ExtensionAsk(901, KEYS[2], Units(50), "still more")
    return [
        ("extension", lambda tx: extensions.ask(tx, now=now, instance="two", ask=wish)),
        ("approve", lambda tx: extensions.approve(tx, now=now, operator=ADA, request=1)),
        ("extension", lambda tx: extensions.ask(tx, now=now, instance="two", ask=again)),
        ("deny", lambda tx: extensions.deny(tx, now=now, operator=ADA, request=2, reason="no")),
        ("cap", lambda tx: loans.change_cap(tx, now=now, operator=ADA, loan="l", units=Units(500))),
        ("key cap", lambda tx: _cap_key(tx, now)),
        ("grant less", lambda tx: _change_grant(tx, now, -100)),
        (
            "manifest",
            lambda tx: loans.replace_manifest(tx, now=now, operator=ADA, loan="l", manifest=b"2"),
        ),
    ]


def _cap_key(tx: Tx, now: Instant) -> None:
    key = consumers.key_id(KEYS[1])
    grants.cap_key(tx, now=now, operator=ADA, loan="l", key=key, units=Units(3_000))


def _change_grant(tx: Tx, now: Instant, units: int) -> None:
    grants.change_grant(tx, now=now, operator=ADA, loan="l", consumer="ann", units=Units(units))


def _stopping() -> list[tuple[str, Act]]:
    now = Instant(START + 60)

    def order(scope: Any, target: str, *, notice: int = 0, drain: int = 0) -> Act:
        return lambda tx: stops.order(
            tx,
            now=now,
            operator=ADA,
            scope=scope,
            target=target,
            reason="a drill",
            notice=Duration(notice),
            drain=Duration(drain),
        )

    def lift(number: int) -> Act:
        return lambda tx: stops.lift(tx, now=now, operator=ADA, stop=number, reason="over")

    late = Instant(START + 10 * MINUTE)
    return [
        ("stop consumer", order("consumer", "bob")),
        ("lift", lift(1)),
        ("stop enclave", order("enclave", "three")),
        ("proof", lambda tx: _prove(tx, now, "three", 2)),
        ("stop loan", order("loan", "l")),
        ("lift", lift(3)),
        ("notice", order("loan", "l", notice=60_000, drain=60_000)),
        ("hasten", order("loan", "l", notice=1_000, drain=60_000)),
        ("begin", lambda tx: sweeps.sweep(tx, now=Instant(now + 2_000))),
        ("drained", lambda tx: sweeps.sweep(tx, now=Instant(now + 61_000))),
        ("lift", lift(4)),
        ("notice", order("all", "", notice=60_000)),
        ("call off", lift(5)),
        ("sweep", lambda tx: sweeps.sweep(tx, now=late)),
        (
            "revoke",
            lambda tx: consumers.revoke_key(
                tx, now=late, operator=ADA, key=consumers.key_id(KEYS[0])
            ),
        ),
    ]


def _prove(tx: Tx, now: Instant, instance: str, stop: int) -> None:
    lease = _open_lease(tx, instance)
    final = (Usage(lease, Units(90)),) if lease is not None else ()
    report = StopReport(instance, "l", stop, final, 1000, now)
    signed = sign(key_of(instance), STOP_PROOF_KIND, to_json(report))
    reports.record_proof(tx, now=now, instance=instance, signed=signed)


def _restoring() -> list[tuple[str, Act]]:
    now = Instant(START + 20 * MINUTE)
    return [
        ("restore", lambda tx: epoch.restore(tx, now=now, operator=ADA, reason="a drill")),
        ("lift", lambda tx: stops.lift(tx, now=now, operator=ADA, stop=6, reason="over")),
        ("grant more", lambda tx: _change_grant(tx, now, 700)),
        ("end", lambda tx: loans.end_loan(tx, now=now, operator=ADA, loan="l")),
    ]
