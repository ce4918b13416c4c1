"""What the custodian must learn however often the line breaks: closing reports and the proof of stop.

Spec: docs/spec/metering.md, M-8; docs/spec/session.md, N-7. Refuses to know channels.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from leasehold.core.crypto import SigningKey
from leasehold.core.encoding import to_json
from leasehold.core.messages import (
    CLOSE_KIND,
    STOP_PROOF_KIND,
    CloseReport,
    LeaseClose,
    StopProof,
    StopReport,
    Usage,
)
from leasehold.core.meter import Meter
from leasehold.core.statements import sign
from leasehold.core.units import Units


@dataclass(slots=True)
class Reports:
    """One instance's signed last words, kept until the custodian has them in his ledger."""

    instance: str
    key: SigningKey
    meter: Meter
    proof: StopProof | None = None
    _closings: dict[str, tuple[Units, LeaseClose]] = field(default_factory=dict)

    def close_ended(self) -> list[LeaseClose]:
        """M-8: close the leases that nobody can spend from any more; tells the new reports."""
        return [
            self._close(purse.lease, purse.spent, purse.receipt_head)
            for purse in self.meter.drop_ended()
        ]

    def close_stray(self, lease: str) -> None:
        """Give back a lease that was never spent from."""
        self._close(lease, Units(0), b"")

    def closed(self, lease: str) -> None:
        """The custodian has this closing report."""
        self._closings.pop(lease, None)

    def final(self) -> tuple[Usage, ...]:
        """Counters of all leases that the custodian may believe open, for the proof of stop.

        Closing reports under way count: the proof may overtake them, and what it leaves out is burned.
        """
        closing = (Usage(lease, spent) for lease, (spent, _) in self._closings.items())
        return (*self.meter.usage(), *closing)

    def prove(self, report: StopReport) -> None:
        """N-7: sign the proof of stop."""
        self.proof = StopProof(sign(self.key, STOP_PROOF_KIND, to_json(report)))

    def waiting(self) -> list[LeaseClose | StopProof]:
        """All that has no answer yet, in the order in which it is to be sent."""
        closings = [message for _, message in self._closings.values()]
        return [*closings, self.proof] if self.proof is not None else [*closings]

    def _close(self, lease: str, spent: Units, receipt_head: bytes) -> LeaseClose:
        report = CloseReport(self.instance, lease, spent, receipt_head)
        message = LeaseClose(sign(self.key, CLOSE_KIND, to_json(report)))
        self._closings[lease] = (spent, message)
        return message
