"""Attested instances: who may ask for leases, what was appraised, who was heard from when (L-5)."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from leasehold.core.crypto import ED25519_BYTES, is_equal
from leasehold.core.encoding import to_json
from leasehold.core.units import Instant
from leasehold.custodian.ledger import audit
from leasehold.custodian.ledger.checks import found, next_number
from leasehold.custodian.ledger.loans import show_loan
from leasehold.custodian.store.port import Tx
from leasehold.errors import (
    BadRequest,
    Conflict,
    EvidenceExpired,
    LeaseholdError,
    LoanStopped,
    TooBusy,
    from_wire,
)

State = Literal["live", "stopping", "stopped", "lost"]

_INSTANCES: Final = """
SELECT id, loan, statement_key, machine, verdict, evidence_digest, certificate_expires,
       evidence_expires, epoch, state, registered, seen, refusal
FROM instances
"""
# A stop found it, or it proved that it wiped itself.
_ENDED: Final = """
SELECT instance FROM stop_instances WHERE instance = ?
UNION SELECT id FROM instances WHERE id = ? AND state IN ('stopping', 'stopped')
"""
_EPOCH: Final = "SELECT value FROM meta WHERE name = 'epoch'"


class Instance(msgspec.Struct, frozen=True):
    """One boot of one enclave. `id` is the hex SHA-256 of its TLS key's SubjectPublicKeyInfo.

    `stopping` was ordered to stop and has not proved it, `stopped` has; neither is ever leased to
    again (N-7). `lost` fell silent; it may attest again unless a stop covered it. `refusal` is the
    code and the reason, with a space between, for which its last evidence was ended (N-10).
    """

    id: str
    loan: str
    statement_key: bytes
    machine: str
    verdict: bytes
    evidence_digest: bytes
    certificate_expires: Instant
    evidence_expires: Instant
    epoch: int
    state: State
    registered: Instant
    seen: Instant
    refusal: str = ""


class Appraisal(msgspec.Struct, frozen=True):
    """One appraisal, accepted (`code` empty) or refused with a code of `leasehold.errors`."""

    at: Instant
    instance: str
    loan: str
    machine: str
    code: str
    verdict: bytes
    evidence_digest: bytes


def check_admissible(tx: Tx, *, instance: str, loan: str) -> None:
    """N-2's check before evidence is judged. Raises LoanStopped, UnknownThing, TooBusy (instances_max)."""
    lent = show_loan(tx, loan)
    if lent.state != "active":
        raise LoanStopped(about=f"loan {loan}", got=lent.state)
    stops = tx.execute(
        "SELECT reason FROM stops WHERE lifted IS NULL AND phase <> 'notice' AND (scope = 'all'"
        " OR (scope = 'loan' AND target = ?) OR (scope = 'enclave' AND target = ?)) ORDER BY id",
        (loan, instance),
    )
    if stops:
        raise LoanStopped(about=stops[0][0])
    if tx.execute(_ENDED, (instance, instance)):
        raise LoanStopped(about="instance", got="stopped before", expected="a new one (N-7)")
    others = tx.execute(
        "SELECT COUNT(*) FROM instances WHERE loan = ? AND state IN ('live', 'stopping') AND id <> ?",
        (loan, instance),
    )[0][0]
    if others >= lent.instances_max:
        raise TooBusy(
            about="instances of this loan", got=others, expected=f"< {lent.instances_max}"
        )


def register(
    tx: Tx,
    *,
    now: Instant,
    instance: str,
    loan: str,
    statement_key: bytes,
    machine: str,
    verdict: bytes,
    evidence_digest: bytes,
    certificate_expires: Instant,
    evidence_expires: Instant,
    attest: bytes = b"",
) -> Instance:
    """Record accepted evidence: a new instance, or the renewal of one (N-5). Audits the appraisal.

    `verdict` is the appraisal as JSON, `attest` what was judged, to judge it again (N-10). Raises what
    `check_admissible` raises, and Conflict where the instance is known with another loan or statement key.
    """
    check_admissible(tx, instance=instance, loan=loan)
    if len(statement_key) != ED25519_BYTES:
        raise BadRequest(about="statement key", got=len(statement_key), expected="32 bytes")
    known = tx.execute("SELECT loan, statement_key FROM instances WHERE id = ?", (instance,))
    if known and (known[0][0] != loan or not is_equal(known[0][1], statement_key)):
        raise Conflict(about=f"instance {instance}", expected="its first loan and statement key")
    epoch = tx.execute(_EPOCH)[0][0]
    tx.execute(
        "INSERT INTO instances (id, loan, statement_key, machine, verdict, evidence_digest,"
        " certificate_expires, evidence_expires, epoch, state, registered, seen, floor)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 'live', ?, ?, 0)"
        " ON CONFLICT (id) DO UPDATE SET machine = excluded.machine, verdict = excluded.verdict,"
        " evidence_digest = excluded.evidence_digest,"
        " certificate_expires = excluded.certificate_expires,"
        " evidence_expires = excluded.evidence_expires, epoch = excluded.epoch,"
        " state = excluded.state, seen = excluded.seen, refusal = ''",
        (
            instance,
            loan,
            statement_key,
            machine,
            verdict,
            evidence_digest,
            certificate_expires,
            evidence_expires,
            epoch,
            now,
            now,
        ),
    )
    tx.execute(
        "INSERT INTO attests (instance, attest) VALUES (?, ?)"
        " ON CONFLICT (instance) DO UPDATE SET attest = excluded.attest",
        (instance, attest),
    )
    appraisal = Appraisal(now, instance, loan, machine, "", verdict, evidence_digest)
    kind = "instance.renew" if known else "instance.accept"
    _record(tx, appraisal, kind=kind, statement_key=statement_key)
    return show_instance(tx, instance)


def record_refusal(
    tx: Tx,
    *,
    now: Instant,
    instance: str,
    loan: str,
    machine: str,
    code: str,
    verdict: bytes,
    evidence_digest: bytes,
) -> None:
    """Record refused evidence (N-2). A live instance of that name stays as it is: nobody has proved to be it.

    Unknown values are empty; `loan` need not exist.
    """
    appraisal = Appraisal(now, instance, loan, machine, code, verdict, evidence_digest)
    _record(tx, appraisal, kind="instance.refuse")


def last_attest(tx: Tx, instance: str) -> bytes:
    """What the instance showed last, as JSON; empty where it was registered without."""
    rows = tx.execute("SELECT attest FROM attests WHERE instance = ?", (instance,))
    return bytes(rows[0][0]) if rows else b""


def condemn(
    tx: Tx, *, now: Instant, instance: str, evidence_digest: bytes, code: str, message: str
) -> bool:
    """N-10: end a live instance's evidence now, with the reason; audits it.

    Does nothing, and says so, where it has shown other evidence since, or none of it counts any more.
    """
    speaker = show_instance(tx, instance)
    if (
        speaker.state != "live"
        or speaker.evidence_expires <= now
        or not is_equal(speaker.evidence_digest, evidence_digest)
    ):
        return False
    tx.execute(
        "UPDATE instances SET evidence_expires = ?, refusal = ? WHERE id = ?",
        (now, f"{code} {message}", instance),
    )
    verdict = to_json({"refused": message})
    appraisal = Appraisal(
        now, instance, speaker.loan, speaker.machine, code, verdict, evidence_digest
    )
    _record(tx, appraisal, kind="instance.condemn")
    return True


def check_speaks(tx: Tx, *, now: Instant, instance: str) -> Instance:
    """The instance, if it may act on an open channel now (N-4).

    Raises UnknownThing, LoanStopped (stopping or stopped), EvidenceExpired (also when lost or of an
    old epoch), and for evidence that was ended (N-10) the reason.
    """
    speaker = show_instance(tx, instance)
    current = speaker.epoch == tx.execute(_EPOCH)[0][0]
    refusal = speech_refusal(
        speaker.state,
        current=current,
        evidence_expires=speaker.evidence_expires,
        refusal=speaker.refusal,
        now=now,
    )
    if refusal is not None:
        raise refusal
    return speaker


def speech_refusal(
    state: State, *, current: bool, evidence_expires: Instant, now: Instant, refusal: str = ""
) -> LeaseholdError | None:
    """Why an instance may not act: it was stopped, or must attest (again); None where it may.

    `refusal` is what evidence that was ended (N-10) was ended for, empty where it was not.
    """
    if state in ("stopping", "stopped"):
        return LoanStopped(about="instance", got=state)
    if state != "live" or not current or evidence_expires <= now:
        return from_wire(*refusal.split(" ", 1)) if refusal else EvidenceExpired(about="instance")
    return None


def show_instance(tx: Tx, instance: str) -> Instance:
    """Raises UnknownThing."""
    rows = tx.execute(_INSTANCES + "WHERE id = ?", (instance,))
    return Instance(*found(rows, about=f"instance {instance}"))


def list_instances(
    tx: Tx, *, loan: str | None = None, state: State | None = None
) -> tuple[Instance, ...]:
    """Instances, newest first."""
    rows = tx.execute(
        _INSTANCES + "WHERE (loan = ? OR ? = 1) AND (state = ? OR ? = 1)"
        " ORDER BY registered DESC, id",
        (loan, int(loan is None), state, int(state is None)),
    )
    return tuple(Instance(*row) for row in rows)


def count_live(tx: Tx, *, loan: str) -> int:
    """How many instances of the loan are live."""
    count: int = tx.execute(
        "SELECT COUNT(*) FROM instances WHERE loan = ? AND state = 'live'", (loan,)
    )[0][0]
    return count


def list_appraisals(tx: Tx, *, loan: str | None = None, count: int = 100) -> tuple[Appraisal, ...]:
    """The latest appraisals, newest first."""
    rows = tx.execute(
        "SELECT at, instance, loan, machine, code, verdict, evidence_digest FROM appraisals"
        " WHERE loan = ? OR ? = 1 ORDER BY id DESC LIMIT ?",
        (loan, int(loan is None), count),
    )
    return tuple(Appraisal(*row) for row in rows)


def _record(tx: Tx, appraisal: Appraisal, *, kind: str, statement_key: bytes | None = None) -> None:
    tx.execute(
        "INSERT INTO appraisals (id, at, instance, loan, machine, code, verdict, evidence_digest)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (next_number(tx, "appraisal"), *msgspec.structs.astuple(appraisal)),
    )
    detail = {
        "instance": appraisal.instance,
        "loan": appraisal.loan,
        "machine": appraisal.machine,
        "code": appraisal.code,
        "verdict": appraisal.verdict.decode("utf-8", "replace"),
        "evidence": appraisal.evidence_digest.hex(),
    }
    if statement_key is not None:
        detail["statement_key"] = statement_key.hex()  # by which receipts are checked later
    audit.append(tx, now=appraisal.at, actor="custodian", kind=kind, detail=detail)
