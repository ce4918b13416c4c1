"""Models and the loans of them."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from leasehold.core.accounts import Account
from leasehold.core.encoding import from_json, to_json, unhex
from leasehold.core.lease import LeasePolicy
from leasehold.core.messages import LoanTerms, ModelTerms
from leasehold.core.tariff import Tariff, check_tariff
from leasehold.core.units import DAY, SECOND, Duration, Instant, Units
from leasehold.custodian.ledger import accounts, audit
from leasehold.custodian.ledger.checks import (
    UNITS_MAX,
    check_absent,
    check_name,
    check_units,
    found,
)
from leasehold.custodian.ledger.operators import Gate, Operator, Right, check_alone, check_right
from leasehold.custodian.store.port import Row, Tx
from leasehold.errors import BadRequest

INSTANCES_MAX: Final = 10_000
_LOANS: Final = """
SELECT l.name, l.model, l.manifest, l.tariff, l.policy, l.instances_max, l.dead_man, l.state,
       l.created, l.account, a.granted, a.outstanding, a.settled, a.written_off
FROM loans l JOIN accounts a ON a.id = l.account
"""


class Model(msgspec.Struct, frozen=True):
    """A sealed model: `digest` is the SHA-256 of its sealed header in hex, `sealed_bytes` its size."""

    name: str
    digest: str
    sealed_bytes: int
    engine: str
    added: Instant


class Loan(msgspec.Struct, frozen=True):
    """A model lent under a signed manifest; `budget` is its cap's account."""

    name: str
    model: str
    manifest: bytes
    tariff: Tariff
    policy: LeasePolicy
    instances_max: int
    dead_man: Duration
    state: Literal["active", "ended"]
    created: Instant
    account: int
    budget: Account


def add_model(
    tx: Tx,
    *,
    now: Instant,
    operator: Operator,
    name: str,
    digest: str,
    sealed_bytes: int,
    engine: str,
) -> Model:
    """Raises NotPermitted, BadRequest, BadMessage (digest), AlreadyExists."""
    check_right(operator, Right.CHANGE)
    check_name(name, about="model name")
    unhex(digest, about="model digest", size=32)
    check_units(sealed_bytes, about="sealed bytes", least=1)
    check_absent(tx.execute("SELECT 1 FROM models WHERE name = ?", (name,)), about=f"model {name}")
    tx.execute(
        "INSERT INTO models (name, digest, sealed_bytes, engine, added) VALUES (?, ?, ?, ?, ?)",
        (name, digest, sealed_bytes, engine, now),
    )
    detail = {"model": name, "digest": digest, "sealed_bytes": sealed_bytes, "engine": engine}
    audit.append(tx, now=now, actor=operator.name, kind="model.add", detail=detail)
    return Model(name, digest, sealed_bytes, engine, now)


def show_model(tx: Tx, name: str) -> Model:
    """Raises UnknownThing."""
    rows = tx.execute(
        "SELECT name, digest, sealed_bytes, engine, added FROM models WHERE name = ?", (name,)
    )
    return Model(*found(rows, about=f"model {name}"))


def list_models(tx: Tx) -> tuple[Model, ...]:
    """All models by name."""
    rows = tx.execute("SELECT name, digest, sealed_bytes, engine, added FROM models ORDER BY name")
    return tuple(Model(*row) for row in rows)


def create_loan(
    tx: Tx,
    *,
    now: Instant,
    operator: Operator,
    name: str,
    model: str,
    manifest: bytes,
    tariff: Tariff,
    policy: LeasePolicy,
    cap: Units,
    instances_max: int,
    dead_man: Duration,
) -> Loan:
    """Raises NotPermitted, HandsNeeded, BadRequest, BadSetting (tariff), AlreadyExists, UnknownThing."""
    check_alone(operator, Gate.RELEASE)
    check_name(name, about="loan name")
    check_tariff(tariff)
    check_policy(policy)
    check_units(cap, about="cap")
    _check_between(instances_max, 1, INSTANCES_MAX, about="instances_max")
    _check_between(dead_man, SECOND, 365 * DAY, about="dead_man")
    show_model(tx, model)
    check_absent(tx.execute("SELECT 1 FROM loans WHERE name = ?", (name,)), about=f"loan {name}")
    account = accounts.open_account(tx, kind="loan", parent=None, account=Account(cap))
    tx.execute(
        "INSERT INTO loans (name, model, manifest, tariff, policy, instances_max, dead_man, state,"
        " created, account) VALUES (?, ?, ?, ?, ?, ?, ?, 'active', ?, ?)",
        (
            name,
            model,
            manifest,
            to_json(tariff),
            to_json(policy),
            instances_max,
            dead_man,
            now,
            account,
        ),
    )
    detail = {
        "loan": name,
        "model": model,
        "manifest": manifest,
        "tariff": msgspec.to_builtins(tariff),
        "policy": msgspec.to_builtins(policy),
        "units": cap,
        "instances_max": instances_max,
        "dead_man": dead_man,
    }
    audit.append(tx, now=now, actor=operator.name, kind="loan.create", detail=detail)
    return show_loan(tx, name)


def show_loan(tx: Tx, name: str) -> Loan:
    """Raises UnknownThing."""
    rows = tx.execute(_LOANS + "WHERE l.name = ?", (name,))
    return _loan(found(rows, about=f"loan {name}"))


def list_loans(tx: Tx) -> tuple[Loan, ...]:
    """All loans by name."""
    return tuple(_loan(row) for row in tx.execute(_LOANS + "ORDER BY l.name"))


def terms(tx: Tx, loan: str) -> LoanTerms:
    """What a release tells the enclave of the loan. Raises UnknownThing."""
    lent = show_loan(tx, loan)
    model = show_model(tx, lent.model)
    return LoanTerms(
        lent.name,
        lent.tariff,
        lent.policy,
        ModelTerms(model.name, model.digest, model.sealed_bytes),
    )


def change_cap(tx: Tx, *, now: Instant, operator: Operator, loan: str, units: Units) -> Loan:
    """Add `units` to the cap; a negative number takes back what is available.

    Raises NotPermitted, HandsNeeded (to add), UnknownThing, BudgetExhausted, BadRequest.
    """
    check_right(operator, Right.CHANGE)
    if units > 0:
        check_alone(operator, Gate.CAP)
    lent = show_loan(tx, loan)
    check_units(lent.budget.granted + max(0, units), about="cap")
    path = accounts.load_path(tx, lent.account)
    accounts.move(tx, path, lambda account: account.extend(units))
    detail = {"loan": loan, "units": units}
    audit.append(tx, now=now, actor=operator.name, kind="loan.cap", detail=detail)
    return show_loan(tx, loan)


def replace_manifest(
    tx: Tx, *, now: Instant, operator: Operator, loan: str, manifest: bytes
) -> Loan:
    """Put a newer signed manifest in force. Raises NotPermitted, HandsNeeded, UnknownThing."""
    check_alone(operator, Gate.MANIFEST)
    show_loan(tx, loan)
    tx.execute("UPDATE loans SET manifest = ? WHERE name = ?", (manifest, loan))
    detail = {"loan": loan, "manifest": manifest}
    audit.append(tx, now=now, actor=operator.name, kind="loan.manifest", detail=detail)
    return show_loan(tx, loan)


def end_loan(tx: Tx, *, now: Instant, operator: Operator, loan: str) -> Loan:
    """No lease is ever granted under it again. Raises NotPermitted, UnknownThing."""
    check_right(operator, Right.CHANGE)
    show_loan(tx, loan)
    tx.execute("UPDATE loans SET state = 'ended' WHERE name = ?", (loan,))
    audit.append(tx, now=now, actor=operator.name, kind="loan.end", detail={"loan": loan})
    return show_loan(tx, loan)


def check_policy(policy: LeasePolicy) -> None:
    """Raise BadRequest for a policy under which nothing could be leased, or leased for ever."""
    _check_between(policy.ttl, SECOND, DAY, about="policy.ttl")
    _check_between(policy.span, 0, DAY, about="policy.span")
    _check_between(policy.outstanding_max, 1, UNITS_MAX, about="policy.outstanding_max")


def _check_between(value: int, least: int, most: int, *, about: str) -> None:
    if not least <= value <= most:
        raise BadRequest(about=about, got=value, expected=f"{least} to {most}")


def _loan(row: Row) -> Loan:
    name, model, manifest, tariff, policy, instances_max, dead_man, state, created, account = row[
        :10
    ]
    return Loan(
        name,
        model,
        manifest,
        from_json(tariff, Tariff),
        from_json(policy, LeasePolicy),
        instances_max,
        dead_man,
        state,
        created,
        account,
        Account(*row[10:]),
    )
