"""What a quote's 64 bytes of report data commit to: keys, nonce, purpose, custodian, configuration.

Spec: docs/spec/binding.md. Refuses to know what a quote looks like.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from leasehold.core.crypto import is_equal, sha256, sha512
from leasehold.core.encoding import frame, number
from leasehold.errors import WrongBinding

LABEL: Final = "leasehold/report-data/1"
DEVICE_NONCE_LABEL: Final = "leasehold/device-nonce/1"
RELEASE_LABEL: Final = "leasehold/release/1"
NONCE_BYTES: Final = 32
REPORT_DATA_BYTES: Final = 64


class Purpose(StrEnum):
    """Which leg the evidence was made for; evidence of one leg never passes on the other."""

    CUSTODIAN = "custodian"
    CONSUMER = "consumer"


@dataclass(frozen=True, slots=True)
class Binding:
    """All that one piece of evidence commits to (B-2).

    `nonce` is the custodian's nonce, or on the consumer leg the Merkle root over a window's nonces.
    `kem_key` is empty on the consumer leg, `gpu_evidence` is the digest of all devices' evidence
    (`evidence.devices_digest`), empty where there is no device.
    """

    purpose: Purpose
    nonce: bytes
    tls_spki: bytes
    statement_key: bytes
    kem_key: bytes
    custodian_root: bytes
    configuration: bytes
    gpu_evidence: bytes = b""

    def report_data(self) -> bytes:
        """B-2: the 64 bytes that the platform signs."""
        return sha512(
            frame(
                LABEL,
                self.purpose.value.encode(),
                self.nonce,
                sha256(self.tls_spki),
                self.statement_key,
                self.kem_key,
                sha256(self.custodian_root),
                sha256(self.configuration),
                self.gpu_evidence,
            )
        )

    def device_nonce(self) -> bytes:
        """B-8: the 32 bytes that devices sign: all of the binding but the devices' own evidence."""
        return sha256(frame(DEVICE_NONCE_LABEL, replace(self, gpu_evidence=b"").report_data()))


def check_binding(
    report_data: bytes, binding: Binding, *, commitment: Callable[[bytes], bytes] = bytes
) -> None:
    """B-3: raise WrongBinding unless the evidence commits to exactly this.

    `commitment` is what a platform with a narrower field takes of the 64 bytes.
    """
    if len(binding.nonce) != NONCE_BYTES:
        raise WrongBinding(about="nonce", got=len(binding.nonce), expected=f"{NONCE_BYTES} bytes")
    if not is_equal(report_data, commitment(binding.report_data())):
        raise WrongBinding(
            about="report data", got=report_data, expected=commitment(binding.report_data())
        )


def release_info(
    *, evidence_digest: bytes, loan: str, instance: str, model_digest: bytes, epoch: int
) -> bytes:
    """B-5: HPKE's `info`, which ties a released model key to one attestation of one instance."""
    return frame(
        RELEASE_LABEL,
        evidence_digest,
        loan.encode(),
        instance.encode(),
        model_digest,
        number(epoch),
    )
