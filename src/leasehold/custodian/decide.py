"""What one message of an instance is answered with: one act on the ledger for each kind of message.

Spec: docs/spec/session.md, N-4 to N-7. Refuses to know who else should be told.
"""

from __future__ import annotations

import msgspec

from leasehold.core.encoding import to_json
from leasehold.core.messages import (
    STOP_ORDER_KIND,
    AttestAgain,
    ExtensionAsk,
    ExtensionQuery,
    FromCustodian,
    Heartbeat,
    HeartbeatAck,
    LeaseClose,
    Problem,
    StopOrder,
    StopProof,
)
from leasehold.core.statements import Signed, sign
from leasehold.core.units import Instant
from leasehold.custodian.ledger import (
    cosignatures,
    extensions,
    instances,
    notices,
    reports,
    stops,
)
from leasehold.custodian.settings import Keys
from leasehold.custodian.store.port import Tx
from leasehold.errors import LeaseholdError, LoanStopped, UnknownThing

Told = Heartbeat | LeaseClose | ExtensionAsk | ExtensionQuery | StopProof  # all but `asks.Ask`


def refusal_of(tx: Tx, *, now: Instant, instance: str) -> LeaseholdError | None:
    """N-4: why the evidence behind a channel does not count any more, or None where it does.

    A stopped instance may go on speaking: its last reports are wanted, and leases the ledger itself
    refuses it. Raises UnknownThing.
    """
    try:
        instances.check_speaks(tx, now=now, instance=instance)
    except LoanStopped:
        return None
    except UnknownThing:
        raise
    except LeaseholdError as refusal:
        return refusal
    return None


def orders_for(tx: Tx, instance: str) -> tuple[stops.Stop, ...]:
    """The stops that an instance must obey, oldest first.

    What a stop found running stays stopped, also where the stop was lifted since (N-7); a lifted stop
    of a consumer is over.
    """
    return tuple(
        stop
        for stop in reversed(stops.list_stops(tx))
        if (stop.lifted is None or stop.scope != "consumer")
        and instance in stops.audience(tx, stop=stop.id)
    )


def signed_reason(stop: stops.Stop, *, keys: Keys, now: Instant) -> Signed:
    """N-7, N-11: what the root says of a stop."""
    return sign(keys.root, STOP_ORDER_KIND, to_json(notices.reason_of(stop, now=now)))


def news_of(
    told: notices.Told, *, keys: Keys, now: Instant
) -> list[tuple[tuple[str, ...], FromCustodian]]:
    """N-7, N-11: what to push of a stop, and to whom."""
    order = told.ordered, StopOrder(signed_reason(told.stop, keys=keys, now=now))
    return [
        order,
        *(
            ((name,), HeartbeatAck(0, now, None, announce(stop, keys, now)))
            for name, stop in told.announced
        ),
    ]


def announce(stop: stops.Stop | None, keys: Keys, now: Instant) -> Signed | None:
    """N-11: what is said of a stop that comes, or of none."""
    return None if stop is None else signed_reason(stop, keys=keys, now=now)


def decide(tx: Tx, *, now: Instant, instance: str, message: Told, keys: Keys) -> FromCustodian:
    """The answer to one message, with all that it changes.

    O-12: closing reports and proofs of stop only ever give rights back and carry the instance's own
    signature, so they count whatever became of its evidence; everything else is answered with
    AttestAgain, and the reason, where the evidence counts no more. Raises UnknownThing, BadMessage,
    BadSignature; for extension requests also UnknownKey and Conflict.
    """
    if not isinstance(message, LeaseClose | StopProof):
        refusal = refusal_of(tx, now=now, instance=instance)
        if refusal is not None:
            return AttestAgain(Problem(refusal.code, refusal.message))
    match message:
        case Heartbeat(sequence=sequence, usage=usage):
            reports.report_usage(tx, now=now, instance=instance, usage=usage)
            head = cosignatures.attend(
                tx, now=now, instance=instance, beat=message, origin=keys.origin, key=keys.audit
            )
            return HeartbeatAck(
                sequence, now, head, announce(notices.coming(tx, instance=instance), keys, now)
            )
        case LeaseClose(statement=statement):
            return reports.close(tx, now=now, instance=instance, signed=statement)
        case ExtensionAsk():
            return extensions.ask(tx, now=now, instance=instance, ask=message)
        case ExtensionQuery(sequence=sequence, key_hash=key_hash):
            loan = instances.show_instance(tx, instance).loan
            state = extensions.state(tx, key_hash=key_hash, loan=loan, sequence=sequence)
            coming = notices.coming(tx, instance=instance, consumer=state.consumer)
            reason = None if coming is None else notices.reason_of(coming, now=now)
            return msgspec.structs.replace(state, coming=reason)
        case StopProof(statement=statement):
            return reports.record_proof(tx, now=now, instance=instance, signed=statement)
