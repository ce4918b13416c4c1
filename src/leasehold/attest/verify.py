"""Verification: the one function that turns evidence into a verdict, or raises.

Steps V-1 to V-18 of docs/spec/evidence.md, in that order; the platform modules do V-3 to V-15.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Protocol

from leasehold.attest import sgx
from leasehold.attest.collateral import CollateralStore
from leasehold.attest.manifest import Manifest, check_current
from leasehold.attest.verdict import Appraisal, Verdict
from leasehold.core.binding import Binding, check_binding
from leasehold.core.crypto import sha256
from leasehold.core.evidence import EVIDENCE_BYTES_MAX, Evidence
from leasehold.core.units import Instant
from leasehold.errors import (
    BadEvidence,
    UnknownMachine,
    UnsupportedEvidence,
    WrongConfiguration,
    WrongCustodian,
)


class _Appraise(Protocol):
    def __call__(
        self, evidence: Evidence, manifest: Manifest, collateral: CollateralStore, *, now: Instant
    ) -> Appraisal: ...


_PLATFORMS: Final[Mapping[str, _Appraise]] = MappingProxyType({sgx.PLATFORM: sgx.appraise})


def verify(
    evidence: Evidence,
    binding: Binding,
    manifest: Manifest,
    collateral: CollateralStore,
    *,
    now: Instant,
) -> Verdict:
    """Judge evidence of one instance by the manifest at `now`, or raise.

    `binding` holds what the verifier itself knows (its nonce, the TLS key of this connection, its
    custodian) and what the instance claims. Raises BadEvidence, Unproven and their descendants.
    """
    appraise = _check_form(evidence)  # V-1
    check_current(manifest, now=now)  # V-2
    found = appraise(evidence, manifest, collateral, now=now)  # V-3 to V-15
    _check_machine(found, manifest)  # V-16
    _check_commitment(found, binding, manifest)  # V-17
    return Verdict(  # V-18
        platform=found.platform,
        trust=found.trust,
        tcb_status=found.tcb_status,
        advisories=found.advisories,
        measurement=found.measurement,
        signer=found.signer,
        product_id=found.product_id,
        svn=found.svn,
        machine=found.machine,
        platform_instance=found.platform_instance,
        report_data=found.report_data,
        valid_until=min(found.ends, manifest.expires),
        findings=found.findings,
        policy=manifest.digest().hex(),
    )


def _check_form(evidence: Evidence) -> _Appraise:
    """V-1: not too large, and of a platform in the closed table."""
    size = len(evidence.quote) + sum(len(endorsement) for endorsement in evidence.endorsements)
    if size > EVIDENCE_BYTES_MAX:
        raise BadEvidence(about="size", got=size, expected=f"<= {EVIDENCE_BYTES_MAX} bytes")
    appraise = _PLATFORMS.get(evidence.platform)
    if appraise is None:
        raise UnsupportedEvidence(
            about="platform", got=evidence.platform, expected=", ".join(_PLATFORMS)
        )
    return appraise


def _check_machine(found: Appraisal, manifest: Manifest) -> None:
    """V-16: the borrower owns hardware that it may have broken, so genuine is not enough."""
    allowed = {machine.platform_id for machine in manifest.machines}
    if found.machine not in allowed and found.platform_instance not in allowed:
        raise UnknownMachine(got=found.machine, expected=f"one of {len(allowed)} listed machines")


def _check_commitment(found: Appraisal, binding: Binding, manifest: Manifest) -> None:
    """V-17: this custodian's enclave, a listed configuration, and exactly these keys and this nonce."""
    if binding.custodian_root != manifest.root:
        raise WrongCustodian(about="enclave", got=binding.custodian_root, expected=manifest.root)
    configuration = sha256(binding.configuration).hex()
    if configuration not in manifest.configurations:
        raise WrongConfiguration(got=configuration, expected=", ".join(manifest.configurations))
    if binding.gpu_evidence:
        raise UnsupportedEvidence(about="GPU evidence", got=binding.gpu_evidence, expected="none")
    check_binding(found.report_data, binding)
