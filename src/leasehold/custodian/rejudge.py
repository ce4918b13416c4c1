"""Judging live instances again, by their last evidence, when collateral or a manifest changed.

Spec: docs/spec/session.md, N-10. What passed stays as it is; for what does not, its evidence ends now, with
the reason. Refuses to know who is told, and what changed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from leasehold.attest.collateral import CollateralStore
from leasehold.core.encoding import from_json
from leasehold.core.messages import Attest
from leasehold.core.units import Instant
from leasehold.custodian.appraise import appraise
from leasehold.custodian.ledger import instances, loans
from leasehold.custodian.store.port import Tx
from leasehold.errors import LeaseholdError, Unavailable


@dataclass(frozen=True, slots=True)
class Shown:
    """What a live instance showed last, and the policy that it is judged by."""

    instance: instances.Instance
    attest: bytes
    manifest: bytes


@dataclass(frozen=True, slots=True)
class Fallen:
    """An instance that does not pass any more, and why."""

    instance: instances.Instance
    why: LeaseholdError


def live(tx: Tx, *, now: Instant) -> tuple[Shown, ...]:
    """All instances whose evidence counts now."""
    found = []
    manifests: dict[str, bytes] = {}
    for one in instances.list_instances(tx, state="live"):
        attest = instances.last_attest(tx, one.id)
        if one.evidence_expires > now and attest:
            if one.loan not in manifests:
                manifests[one.loan] = loans.show_loan(tx, one.loan).manifest
            found.append(Shown(one, attest, manifests[one.loan]))
    return tuple(found)


def judge(
    shown: Iterable[Shown], collateral: CollateralStore, *, root: bytes, now: Instant
) -> tuple[Fallen, ...]:
    """N-10: who does not pass any more. A millisecond of CPU for each.

    Raises Unavailable where the custodian itself is at fault: that says nothing of anybody.
    """
    fallen = []
    for one in shown:
        try:
            appraise(
                from_json(one.attest, Attest),
                loan=one.instance.loan,
                manifest=one.manifest,
                root=root,
                collateral=collateral,
                now=now,
            )
        except Unavailable:
            raise
        except LeaseholdError as refusal:
            fallen.append(Fallen(one.instance, refusal))
    return tuple(fallen)


def condemn(tx: Tx, fallen: Iterable[Fallen], *, now: Instant) -> tuple[Fallen, ...]:
    """End their evidence, but not of those that have attested anew meanwhile; tells whose was ended."""
    return tuple(
        one
        for one in fallen
        if instances.condemn(
            tx,
            now=now,
            instance=one.instance.id,
            evidence_digest=one.instance.evidence_digest,
            code=one.why.code,
            message=one.why.message,
        )
    )
