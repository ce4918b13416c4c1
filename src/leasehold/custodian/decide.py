"""What one message of an instance is answered with: one act on the ledger for each kind of message.

Spec: docs/spec/session.md, N-4 to N-7. Refuses to know who else should be told.
"""

from __future__ import annotations

from leasehold.core.messages import (
    ExtensionAsk,
    ExtensionQuery,
    FromCustodian,
    FromEnclave,
    Heartbeat,
    HeartbeatAck,
    LeaseAsk,
    LeaseClose,
    StopProof,
)
from leasehold.core.units import Instant
from leasehold.custodian.ledger import asks, extensions, instances, reports
from leasehold.custodian.store.port import Tx
from leasehold.errors import LoanStopped


def check_current(tx: Tx, *, now: Instant, instance: str) -> None:
    """N-4: raise EvidenceExpired or UnknownThing unless the evidence behind the channel still counts."""
    try:
        instances.check_speaks(tx, now=now, instance=instance)
    except LoanStopped:
        # Its closing reports and its proof of stop are wanted; leases are refused by the ledger itself.
        return


def decide(tx: Tx, *, now: Instant, instance: str, message: FromEnclave) -> FromCustodian:
    """The answer to one message, with all that it changes.

    Raises EvidenceExpired, UnknownThing, BadMessage, BadSignature; for extension requests also
    UnknownKey and Conflict.
    """
    check_current(tx, now=now, instance=instance)
    match message:
        case Heartbeat(sequence=sequence, usage=usage):
            reports.report_usage(tx, now=now, instance=instance, usage=usage)
            return HeartbeatAck(sequence, now)
        case LeaseAsk():
            return asks.ask(tx, now=now, instance=instance, ask=message)
        case LeaseClose(statement=statement):
            return reports.close(tx, now=now, instance=instance, signed=statement)
        case ExtensionAsk():
            return extensions.ask(tx, now=now, instance=instance, ask=message)
        case ExtensionQuery(sequence=sequence, key_hash=key_hash):
            loan = instances.show_instance(tx, instance).loan
            return extensions.state(tx, key_hash=key_hash, loan=loan, sequence=sequence)
        case StopProof(statement=statement):
            return reports.record_proof(tx, now=now, instance=instance, signed=statement)
