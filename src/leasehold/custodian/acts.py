"""Acts of operators that concern enclaves too: on the ledger, with the news for other replicas (L-10).

Whoever runs one, an operator alone or the approval that completes a proposal, then tells those who
listen here. Refuses to know who that is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from leasehold.core.lease import LeasePolicy
from leasehold.core.tariff import Tariff
from leasehold.core.units import Duration, Instant, Units
from leasehold.custodian.ledger import extensions, loans, stops
from leasehold.custodian.ledger.operators import Operator
from leasehold.custodian.store.port import Tx

# What replicas tell each other: the kind of news, then what it is about.
STOP: Final = "stop"
EXTENSION: Final = "extension"
MANIFEST: Final = "manifest"
PROGRESS: Final = "progress"


@dataclass(frozen=True, slots=True)
class NewLoan:
    """What an operator decides when lending a model; `manifest` is the whole signed file."""

    name: str
    model: str
    manifest: bytes
    tariff: Tariff
    policy: LeasePolicy
    cap: Units
    instances_max: int
    dead_man: Duration


def create_loan(tx: Tx, now: Instant, operator: Operator, new: NewLoan) -> loans.Loan:
    """Raises as `loans.create_loan` does."""
    return loans.create_loan(
        tx,
        now=now,
        operator=operator,
        name=new.name,
        model=new.model,
        manifest=new.manifest,
        tariff=new.tariff,
        policy=new.policy,
        cap=new.cap,
        instances_max=new.instances_max,
        dead_man=new.dead_man,
    )


def replace_manifest(
    tx: Tx, now: Instant, operator: Operator, loan: str, manifest: bytes
) -> loans.Loan:
    """Raises as `loans.replace_manifest` does."""
    tx.tell(f"{MANIFEST} {loan}")
    return loans.replace_manifest(tx, now=now, operator=operator, loan=loan, manifest=manifest)


def lift(tx: Tx, now: Instant, operator: Operator, stop: int, reason: str) -> stops.Stop:
    """Raises as `stops.lift` does."""
    tx.tell(f"{STOP} {stop}")
    return stops.lift(tx, now=now, operator=operator, stop=stop, reason=reason)


def approve(
    tx: Tx, now: Instant, operator: Operator, request: int, units: Units | None
) -> extensions.Decision:
    """Raises as `extensions.approve` does."""
    tx.tell(f"{EXTENSION} {request}")
    return extensions.approve(tx, now=now, operator=operator, request=request, units=units)


def deny(
    tx: Tx, now: Instant, operator: Operator, request: int, reason: str
) -> extensions.Decision:
    """Raises as `extensions.deny` does."""
    tx.tell(f"{EXTENSION} {request}")
    return extensions.deny(tx, now=now, operator=operator, request=request, reason=reason)
