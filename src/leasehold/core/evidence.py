"""Evidence as it travels: what a platform says of one instance, before anybody has judged it.

The enclave makes it and passes it on; only `attest` looks inside.
"""

from __future__ import annotations

from typing import Final, Protocol

import msgspec

from leasehold.core.crypto import sha256
from leasehold.core.encoding import frame

EVIDENCE_BYTES_MAX: Final = 256 * 1024  # an SGX quote is ~5 KiB, a TDX quote ~8, eight GPUs ~100


class Evidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A claim. `platform` is `sgx`, `tdx`, `snp`; `quote` is in the platform's own format.

    `endorsements` are certificates or tables that the platform hands out beside the quote.
    """

    platform: str
    quote: bytes
    endorsements: tuple[bytes, ...] = ()

    def digest(self) -> bytes:
        """SHA-256 over all of it: names this evidence in receipts and releases, never an identity."""
        return sha256(
            frame("leasehold/evidence/1", self.platform.encode(), self.quote, *self.endorsements)
        )


class Attester(Protocol):
    """Produces evidence inside an enclave. Slow (tens of milliseconds), one call at a time."""

    @property
    def simulated(self) -> bool:
        """Whether this is no hardware at all; every screen, log and receipt then says SIMULATED."""

    def attest(self, report_data: bytes) -> Evidence:
        """Evidence over exactly these 64 bytes. Raises Unavailable where the platform fails."""
