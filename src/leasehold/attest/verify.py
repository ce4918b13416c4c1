"""Verification: the one function that turns evidence into a verdict, or raises.

Steps V-1 to V-18 of docs/spec/evidence.md, in that order; the platform modules do V-3 to V-15.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from leasehold.attest.amd import snp
from leasehold.attest.collateral import CollateralStore
from leasehold.attest.intel import sgx, tdx
from leasehold.attest.manifest import Manifest, check_current
from leasehold.attest.nvidia.devices import appraise_devices
from leasehold.attest.platform import Platform
from leasehold.attest.reference import Machine, Simulated
from leasehold.attest.tpm import hcl, tpm
from leasehold.attest.verdict import Appraisal, Finding, FindingCode, Verdict, weakest
from leasehold.core.binding import Binding, check_binding
from leasehold.core.crypto import sha256
from leasehold.core.evidence import EVIDENCE_BYTES_MAX, Evidence, devices_digest
from leasehold.core.units import Instant
from leasehold.errors import (
    BadEvidence,
    UnknownMachine,
    UnsupportedEvidence,
    WrongConfiguration,
    WrongCustodian,
)

UNSAFE: Final = "unsafe_"
PLATFORMS: Final[Mapping[str, Platform]] = MappingProxyType(
    {
        row.name: row
        for row in (
            sgx.PLATFORM,
            tdx.PLATFORM,
            snp.PLATFORM,
            tpm.PLATFORM,
            hcl.azure("azure-snp", hcl.SNP, snp.PLATFORM),
            hcl.azure("azure-tdx", hcl.TDX, tdx.PLATFORM),
        )
    }
)


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
    platform = check_form(evidence)  # V-1
    check_current(manifest, now=now)  # V-2
    found = platform.appraise(evidence, manifest, collateral, now=now)  # V-3 to V-15
    machine = check_machine(found, manifest)  # V-16
    devices = appraise_devices(
        evidence.devices,
        binding.device_nonce(),
        manifest,
        collateral,
        expected=machine.devices,
        now=now,
    )
    _check_commitment(platform, found, binding, evidence, manifest)  # V-17
    return Verdict(  # V-18
        platform=found.platform,
        trust=weakest((found.trust, devices.trust)),
        tcb_status=found.tcb_status,
        advisories=found.advisories,
        measurements=found.measurements,
        machine=found.machine,
        platform_instance=found.platform_instance,
        devices=devices.devices,
        report_data=found.report_data,
        valid_until=min(found.ends, devices.ends, manifest.expires),
        findings=(*found.findings, *devices.findings, *_unsafe(binding.configuration)),
        policy=manifest.digest().hex(),
    )


def _unsafe(configuration: bytes) -> Iterator[Finding]:
    """V-18: what a listed configuration switches on that has this word in its name."""
    with suppress(tomllib.TOMLDecodeError, UnicodeDecodeError):  # then no enclave takes it
        for name, value in tomllib.loads(configuration.decode()).items():
            if name.startswith(UNSAFE) and value:
                yield Finding(FindingCode.UNSAFE_SETTING, f"the configuration says {name}")


def observe(
    evidence: Evidence, collateral: CollateralStore, *, simulated: Simulated | None, now: Instant
) -> Appraisal:
    """Whether evidence is authentic, and what it says, where nobody has a policy yet: V-1, V-3 to V-10.

    Proves nothing about who sent it and whether it is fresh. Raises BadEvidence, Unproven and their
    descendants.
    """
    return check_form(evidence).observe(evidence, collateral, simulated=simulated, now=now)


def check_form(evidence: Evidence) -> Platform:
    """V-1: not too large, and of a platform in the closed table."""
    size = len(evidence.quote) + sum(len(endorsement) for endorsement in evidence.endorsements)
    size += sum(len(device.report) + len(device.chain) for device in evidence.devices)
    if size > EVIDENCE_BYTES_MAX:
        raise BadEvidence(about="size", got=size, expected=f"<= {EVIDENCE_BYTES_MAX} bytes")
    platform = PLATFORMS.get(evidence.platform)
    if platform is None:
        raise UnsupportedEvidence(
            about="platform", got=evidence.platform, expected=", ".join(PLATFORMS)
        )
    return platform


def check_machine(found: Appraisal, manifest: Manifest) -> Machine:
    """V-16: the borrower owns hardware that it may have broken, so genuine is not enough."""
    for machine in manifest.machines:
        if machine.platform_id in (found.machine, found.platform_instance):
            return machine
    raise UnknownMachine(
        got=found.machine, expected=f"one of {len(manifest.machines)} listed machines"
    )


def _check_commitment(
    platform: Platform,
    found: Appraisal,
    binding: Binding,
    evidence: Evidence,
    manifest: Manifest,
) -> None:
    """V-17: this custodian's enclave, a listed configuration, and exactly these keys and this nonce."""
    if binding.custodian_root != manifest.root:
        raise WrongCustodian(about="enclave", got=binding.custodian_root, expected=manifest.root)
    configuration = sha256(binding.configuration).hex()
    if configuration not in manifest.configurations:
        raise WrongConfiguration(got=configuration, expected=", ".join(manifest.configurations))
    whole = replace(binding, gpu_evidence=devices_digest(evidence.devices))
    check_binding(found.report_data, whole, commitment=platform.commitment)
