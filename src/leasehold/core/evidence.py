"""Evidence as it travels: what a platform says of one instance, before anybody has judged it.

The enclave makes it and passes it on; only `attest` looks inside.
"""

from __future__ import annotations

from typing import Final, Protocol

import msgspec

from leasehold.core.crypto import sha256
from leasehold.core.encoding import frame

EVIDENCE_BYTES_MAX: Final = 256 * 1024  # an SGX quote is ~5 KiB, a TDX quote ~8, eight GPUs ~100


class DeviceEvidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one device beside the processor says. `kind` is `nvidia-gpu` or `nvidia-switch`.

    `report` is the vendor's signed report over a nonce, `chain` its certificates in PEM, leaf first.
    """

    kind: str
    report: bytes
    chain: bytes


class Evidence(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A claim. `platform` is `sgx`, `tdx`, `snp`, ...; `quote` is in the platform's own format.

    `endorsements` are certificates or tables that the platform hands out beside the quote; `devices`
    is the evidence of GPUs and switches.
    """

    platform: str
    quote: bytes
    endorsements: tuple[bytes, ...] = ()
    devices: tuple[DeviceEvidence, ...] = ()

    def digest(self) -> bytes:
        """SHA-256 over all of it: names this evidence in receipts and releases, never an identity."""
        beside = frame("leasehold/endorsements/1", *self.endorsements)
        return sha256(
            frame(
                "leasehold/evidence/1",
                self.platform.encode(),
                self.quote,
                beside,
                devices_digest(self.devices),
            )
        )


def devices_digest(devices: tuple[DeviceEvidence, ...]) -> bytes:
    """SHA-256 over all devices' evidence, for the processor's report data; empty where there are none."""
    if not devices:
        return b""
    parts = (part for one in devices for part in (one.kind.encode(), one.report, one.chain))
    return sha256(frame("leasehold/devices/1", *parts))


class Attester(Protocol):
    """Produces evidence inside an enclave. Slow (tens of milliseconds), one call at a time."""

    @property
    def simulated(self) -> bool:
        """Whether this is no hardware at all; every screen, log and receipt then says SIMULATED."""

    def attest(self, report_data: bytes) -> Evidence:
        """Evidence over exactly these 64 bytes. Raises Unavailable where the platform fails."""


class DeviceAttester(Protocol):
    """Produces the evidence of all devices beside the processor. Slow, one call at a time."""

    def attest_devices(self, nonce: bytes) -> tuple[DeviceEvidence, ...]:
        """Evidence of every device over exactly these 32 bytes. Raises Unavailable."""

    def set_ready(self) -> None:
        """Let the devices take work: only after their evidence was accepted. Raises Unavailable."""
