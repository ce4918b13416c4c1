"""What operators send and get: the records of the API, shared by server and command line.

Spec: docs/spec/custodian-api.md. Strict: an unknown field is refused. Refuses to know HTTP.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Annotated, Literal

import msgspec

from leasehold.core.lease import LeasePolicy
from leasehold.core.messages import REASON_CHARS_MAX, Budget, Scope
from leasehold.core.tariff import Tariff
from leasehold.core.units import MINUTE, Duration, Instant, Units
from leasehold.custodian.ledger.audit import Entry
from leasehold.custodian.ledger.extensions import Request
from leasehold.custodian.ledger.grants import Grant, KeyCap, budget_of
from leasehold.custodian.ledger.instances import Instance, State
from leasehold.custodian.ledger.loans import Loan
from leasehold.custodian.ledger.members import Member
from leasehold.custodian.ledger.operators import Role
from leasehold.custodian.ledger.stops import DRAIN_MAX, NOTICE_MAX, Progress, Stop

ENTRIES_MAX = 1000  # of the audit log in one answer

Reason = Annotated[str, msgspec.Meta(max_length=REASON_CHARS_MAX)]
Count = Annotated[int, msgspec.Meta(ge=1, le=ENTRIES_MAX)]
From0 = Annotated[int, msgspec.Meta(ge=0)]


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    pass


# What operators send ---------------------------------------------------------------------------------


class LoanOrder(_Record, frozen=True):
    """Lend a model. `manifest` is the signed file; the model must be registered."""

    name: str
    model: str
    manifest: bytes
    cap: Units
    tariff: Tariff
    policy: LeasePolicy = LeasePolicy()
    instances_max: int = 16
    dead_man: Duration = Duration(10 * MINUTE)


class CapChange(_Record, frozen=True):
    """Units to add to a loan's cap; negative takes back what is available."""

    units: Units


class ManifestChange(_Record, frozen=True):
    """Another signed manifest to judge by."""

    manifest: bytes


class ConsumerOrder(_Record, frozen=True):
    """A new consumer."""

    name: str


class KeyOrder(_Record, frozen=True):
    """A new API key by its SHA-256: the custodian never sees keys."""

    consumer: str
    key_hash: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]


class GrantOrder(_Record, frozen=True):
    """A budget for a consumer under a loan, or what to add to one."""

    loan: str
    consumer: str
    units: Units


class RefundOrder(_Record, frozen=True):
    """Units of a lease to give back to its consumer's budget, and why."""

    loan: str
    consumer: str
    lease: str
    units: Units
    reason: Reason


class KeyCapOrder(_Record, frozen=True):
    """At most `units` of its consumer's grant for one key."""

    loan: str
    key: str
    units: Units


class Approval(_Record, frozen=True):
    """Approve a request: `units`, or all that was asked."""

    units: Units | None = None


class Why(_Record, frozen=True):
    """A reason that goes into the audit log, and to the consumer where one asked."""

    reason: Reason


class StopCommand(_Record, frozen=True):
    """O-23: stop a consumer, an enclave, a loan, or all (empty target); `notice`, `drain` in milliseconds."""

    scope: Scope
    target: str
    reason: Reason
    notice: Annotated[int, msgspec.Meta(ge=0, le=NOTICE_MAX)] = 0
    drain: Annotated[int, msgspec.Meta(ge=0, le=DRAIN_MAX)] = 0


# Queries ---------------------------------------------------------------------------------------------


class Nothing(_Record, frozen=True):
    """No query."""


class ByLoan(_Record, frozen=True):
    """Only one loan's."""

    loan: str | None = None


class ByConsumer(_Record, frozen=True):
    """Only one consumer's."""

    consumer: str | None = None


class GrantQuery(_Record, frozen=True):
    """Grants of a loan, a consumer, or both."""

    loan: str | None = None
    consumer: str | None = None


class RequestQuery(_Record, frozen=True):
    """Requests of one status, one loan."""

    status: Literal["open", "approved", "denied"] | None = None
    loan: str | None = None


class StopQuery(_Record, frozen=True):
    """`active=true`: only stops that are in force."""

    active: bool = False


class ProgressQuery(_Record, frozen=True):
    """Answer when more than `proved` instances proved the stop, or after `wait` seconds."""

    proved: From0 = 0
    wait: Annotated[int, msgspec.Meta(ge=0, le=30)] = 0


class UsageQuery(_Record, frozen=True):
    """How to add up."""

    by: Literal["loan", "consumer", "key", "instance"] = "consumer"
    loan: str | None = None


class InstanceQuery(_Record, frozen=True):
    """Instances of a loan, in a state."""

    loan: str | None = None
    state: State | None = None


class AppraisalQuery(_Record, frozen=True):
    """The latest appraisals."""

    loan: str | None = None
    count: Count = 100


class AuditQuery(_Record, frozen=True):
    """Entries from index `start`."""

    start: From0 = 0
    count: Count = 100


# What operators get ----------------------------------------------------------------------------------


class Hello(_Record, frozen=True):
    """Who the custodian takes you for, and what it is: keys in hex, `origin` names the audit log."""

    operator: str
    role: Role
    root: str
    audit_key: str
    origin: str
    address: str
    time: Instant


class LoanView(_Record, frozen=True):
    """A loan as operators see it; `budget` is its cap's account."""

    name: str
    model: str
    tariff: Tariff
    policy: LeasePolicy
    instances_max: int
    dead_man: Duration
    state: str
    created: Instant
    budget: Budget
    manifest: bytes


class GrantView(_Record, frozen=True):
    """A consumer's budget under a loan."""

    loan: str
    consumer: str
    budget: Budget


class KeyCapView(_Record, frozen=True):
    """What one key may use of its consumer's grant."""

    loan: str
    key: str
    budget: Budget


class InstanceView(_Record, frozen=True):
    """An instance; `simulated` and `findings` are from its verdict, `connected` is whether it listens now.

    `refusal` is why its last evidence was ended (N-10); empty where it was not.
    """

    id: str
    loan: str
    machine: str
    state: State
    registered: Instant
    seen: Instant
    evidence_expires: Instant
    connected: bool
    simulated: bool
    findings: tuple[str, ...]
    refusal: str = ""


class DecisionView(_Record, frozen=True):
    """A decided request, the grant after it, and whether the loan's cap covers less than that."""

    request: Request
    budget: Budget
    cap_limits: bool


class MemberView(_Record, frozen=True):
    """An instance that a stop concerns (O-8), and how many units it could still serve of what is stopped.

    `proved` is when its proof was stored, `dead_from` from when it is, or if silent would be, presumed
    dead, `lapses` when its last lease ends. `units_in_doubt` is as in `Progress`. `connected` is whether
    it listens to this custodian now.
    """

    id: str
    loan: str
    machine: str
    state: State
    seen: Instant
    connected: bool
    simulated: bool
    proved: Instant | None
    dead_from: Instant | None
    units: Units
    lapses: Instant | None
    units_in_doubt: Units


class ProgressView(_Record, frozen=True):
    """How far a stop has come; times are the custodian's. `instances` has the same one by one."""

    stop: Stop
    units: Units
    units_in_doubt: Units
    proved: tuple[str, ...]
    pending: tuple[str, ...]
    presumed_dead: tuple[str, ...]
    lapses: Instant | None
    dead_from: dict[str, Instant]
    complete: bool
    time: Instant
    instances: tuple[MemberView, ...] = ()


class AuditPage(_Record, frozen=True):
    """Entries as they are hashed, and decoded; `size` is the whole log's."""

    size: int
    leaves: tuple[bytes, ...]
    entries: tuple[Entry, ...]


class _FindingPart(msgspec.Struct, frozen=True):
    text: str


class _VerdictPart(msgspec.Struct, frozen=True):
    simulated: bool = False
    findings: tuple[_FindingPart, ...] = ()


def view_loan(loan: Loan) -> LoanView:
    """A loan without what only the ledger needs."""
    return LoanView(
        name=loan.name,
        model=loan.model,
        tariff=loan.tariff,
        policy=loan.policy,
        instances_max=loan.instances_max,
        dead_man=loan.dead_man,
        state=loan.state,
        created=loan.created,
        budget=budget_of(loan.budget),
        manifest=loan.manifest,
    )


def view_grant(grant: Grant) -> GrantView:
    """A grant without what only the ledger needs."""
    return GrantView(grant.loan, grant.consumer, budget_of(grant.budget))


def view_key_cap(cap: KeyCap) -> KeyCapView:
    """A key's cap without what only the ledger needs."""
    return KeyCapView(cap.loan, cap.key, budget_of(cap.budget))


def view_instance(instance: Instance, *, connected: bool) -> InstanceView:
    """An instance with the part of its verdict that people should see."""
    verdict = msgspec.json.decode(instance.verdict, type=_VerdictPart)
    return InstanceView(
        id=instance.id,
        loan=instance.loan,
        machine=instance.machine,
        state=instance.state,
        registered=instance.registered,
        seen=instance.seen,
        evidence_expires=instance.evidence_expires,
        connected=connected,
        simulated=verdict.simulated,
        findings=tuple(finding.text for finding in verdict.findings),
        refusal=instance.refusal,
    )


def view_progress(
    progress: Progress, *, complete: bool, now: Instant, listening: Set[str] = frozenset()
) -> ProgressView:
    """A stop's progress with the custodian's time; `listening` are the instances with an open channel."""
    return ProgressView(
        stop=progress.stop,
        units=progress.units,
        units_in_doubt=progress.units_in_doubt,
        proved=progress.proved,
        pending=progress.pending,
        presumed_dead=progress.presumed_dead,
        lapses=progress.lapses,
        dead_from=progress.dead_from,
        complete=complete,
        time=now,
        instances=tuple(_view_member(one, listening) for one in progress.instances),
    )


def _view_member(one: Member, listening: Set[str]) -> MemberView:
    simulated = msgspec.json.decode(one.verdict, type=_VerdictPart).simulated
    known = (one.id, one.loan, one.machine, one.state, one.seen, one.id in listening, simulated)
    left = (one.units, one.lapses, one.units_in_doubt)
    return MemberView(*known, one.proved, one.dead_from, *left)
