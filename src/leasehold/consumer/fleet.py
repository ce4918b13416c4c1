"""The enclaves behind one address that a consumer has verified: whose certificates count, and until when.

Spec: docs/spec/consumer.md, C-8. Refuses to know wires; the connections' own modules verify newcomers.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from leasehold.consumer.verify import VerifiedEnclave
from leasehold.core.units import Instant


@dataclass(slots=True)
class Fleet:
    """Verified enclaves by certificate. Forgets each when its time is over."""

    _verified: dict[str, VerifiedEnclave] = field(default_factory=dict)

    def admit(self, enclave: VerifiedEnclave) -> None:
        """Add an enclave, or renew one whose certificate is known."""
        self._verified[enclave.certificate] = enclave

    def valid(self, *, now: Instant) -> tuple[VerifiedEnclave, ...]:
        """The enclaves that may be talked to now, oldest verdict first."""
        kept = {pem: one for pem, one in self._verified.items() if now < one.expires}
        self._verified = kept
        return tuple(sorted(kept.values(), key=lambda one: one.verified_at))

    def pins(self, *, now: Instant) -> frozenset[str]:
        """The certificates (PEM) that are trust anchors now."""
        return frozenset(one.certificate for one in self.valid(now=now))
