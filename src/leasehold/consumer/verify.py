"""Steps C-1 to C-7 of docs/spec/consumer.md: from a signed manifest and an address to a verified enclave.

Refuses to know how evidence is fetched, and what is asked of the enclave afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from leasehold.attest.collateral import open_bundle
from leasehold.attest.manifest import Manifest, parse_manifest
from leasehold.attest.verdict import Verdict
from leasehold.attest.verify import verify
from leasehold.core.binding import NONCE_BYTES, Binding, Purpose
from leasehold.core.crypto import Entropy, instance_id
from leasehold.core.encoding import from_json, unhex
from leasehold.core.merkle import leaf_hash
from leasehold.core.messages import WINDOW_NONCES_MAX, EvidenceAnswer
from leasehold.core.trees import check_inclusion
from leasehold.core.units import MINUTE, Clock, Instant, after
from leasehold.errors import BadEvidence
from leasehold.net.shown import spki_of, to_pem

TRUST_TIME: Final = 10 * MINUTE  # the longest that a certificate stays an anchor on one verdict
_DIGEST_BYTES: Final = 32


class EvidenceTransport(Protocol):
    """Asks whoever answers at one address for evidence, sending nothing but the nonce."""

    def fetch(self, nonce: bytes) -> tuple[bytes, bytes]:
        """The EvidenceAnswer's bytes and the DER certificate of the connection they came over."""


class AsyncEvidenceTransport(Protocol):
    """The same, awaited."""

    async def fetch(self, nonce: bytes) -> tuple[bytes, bytes]:
        """The EvidenceAnswer's bytes and the DER certificate of the connection they came over."""


@dataclass(frozen=True, slots=True)
class Expectations:
    """What a consumer demands: the custodian's signed manifest, and where known his root key.

    `custodian` is the 32-byte root key as the consumer had it from the custodian in person; None takes
    the root that the manifest names, so the manifest itself must come from a safe place.
    """

    manifest: bytes
    custodian: bytes | None = None


@dataclass(frozen=True, slots=True)
class VerifiedEnclave:
    """An enclave that passed: until `expires`, whoever proves `certificate`'s key is this enclave."""

    verdict: Verdict
    certificate: str
    instance: str
    statement_key: bytes
    custodian: bytes
    loan: str
    model: str
    model_digest: str
    address: str
    verified_at: Instant
    expires: Instant

    @property
    def is_simulated(self) -> bool:
        """Whether there is no hardware behind it at all; every screen then says SIMULATED."""
        return self.verdict.is_simulated


def verify_enclave(
    expected: Expectations,
    transport: EvidenceTransport,
    *,
    address: str,
    clock: Clock,
    entropy: Entropy,
) -> VerifiedEnclave:
    """C-1 to C-7. Raises Unproven or Malformed with the reason, EnclaveUnreachable where nobody answers."""
    check_expectations(expected, now=clock.now())
    nonce = entropy(NONCE_BYTES)
    answer, certificate = transport.fetch(nonce)
    return judge(expected, nonce, answer, certificate, address=address, now=clock.now())


async def verify_enclave_async(
    expected: Expectations,
    transport: AsyncEvidenceTransport,
    *,
    address: str,
    clock: Clock,
    entropy: Entropy,
) -> VerifiedEnclave:
    """Like `verify_enclave`, awaited."""
    check_expectations(expected, now=clock.now())
    nonce = entropy(NONCE_BYTES)
    answer, certificate = await transport.fetch(nonce)
    return judge(expected, nonce, answer, certificate, address=address, now=clock.now())


def check_expectations(expected: Expectations, *, now: Instant) -> Manifest:
    """C-1: the manifest, signed by the custodian and in force. Raises before anything is sent."""
    return parse_manifest(expected.manifest, now=now, custodian_root=expected.custodian)


def judge(
    expected: Expectations,
    nonce: bytes,
    answer: bytes,
    certificate: bytes,
    *,
    address: str,
    now: Instant,
) -> VerifiedEnclave:
    """C-1 and C-3 to C-7, without any I/O: `certificate` is the one of the connection (C-2)."""
    manifest = check_expectations(expected, now=now)  # C-1
    claim = _parse_answer(answer)  # C-3
    check_inclusion(  # C-4
        leaf_hash(nonce), index=claim.index, size=claim.nonces, proof=claim.proof, head=claim.root
    )
    collateral = open_bundle(claim.collateral, manifest.root, now=now)  # C-5
    spki = spki_of(certificate)
    binding = Binding(
        purpose=Purpose.CONSUMER,
        nonce=claim.root,
        tls_spki=spki,
        statement_key=claim.statement_key,
        kem_key=b"",
        custodian_root=manifest.root,
        configuration=claim.configuration,
    )
    verdict = verify(claim.evidence, binding, manifest, collateral, now=now)  # C-6
    if claim.simulated != verdict.is_simulated:  # C-7
        raise BadEvidence(
            about="simulated",
            got=claim.simulated,
            expected=f"{verdict.is_simulated}, as evidence shows",
        )
    return VerifiedEnclave(  # C-8
        verdict=verdict,
        certificate=to_pem(certificate),
        instance=instance_id(spki),
        statement_key=claim.statement_key,
        custodian=manifest.root,
        loan=claim.loan,
        model=claim.model,
        model_digest=claim.model_digest,
        address=address,
        verified_at=now,
        expires=Instant(min(after(now, TRUST_TIME), verdict.valid_until)),
    )


def _parse_answer(answer: bytes) -> EvidenceAnswer:
    claim = from_json(answer, EvidenceAnswer)
    if not 0 < claim.nonces <= WINDOW_NONCES_MAX:
        raise BadEvidence(about="nonces", got=claim.nonces, expected=f"1 to {WINDOW_NONCES_MAX}")
    unhex(claim.model_digest, about="model digest", size=_DIGEST_BYTES)
    return claim
