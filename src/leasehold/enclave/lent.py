"""What the custodian lends to an instance, and the way to him as a port.

Spec: docs/spec/session.md, N-1 to N-4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from leasehold.core.messages import Attest, Challenge, LoanTerms, Release
from leasehold.core.statements import Signed
from leasehold.net.channel import Channel


class CustodianWire(Protocol):
    """The way to the custodian: two requests, and a channel under the certificate they earned."""

    async def challenge(self) -> Challenge:
        """N-1. Raises CustodianUnreachable."""

    async def attest(self, message: Attest) -> Release:
        """N-2. Raises CustodianUnreachable, or what the custodian refused with."""

    async def open_channel(self, certificate: str) -> Channel:
        """N-4: connect with the client certificate (PEM). Raises CustodianUnreachable."""


@dataclass(frozen=True, slots=True)
class Lent:
    """What an accepted attestation brought. `model_key` has 32 bytes and stays in memory."""

    terms: LoanTerms
    collateral: Signed
    model_key: bytes
    evidence_digest: bytes
    epoch: int
