"""Evidence that lies in a file: judged as far as that goes, with no connection that it could be bound to.

Steps V-1 to V-16 of docs/spec/evidence.md where there is a manifest, V-1 and V-3 to V-10 where there is
none. V-17 needs a nonce and a connection, so an assessment never is a verdict and releases nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from leasehold.attest.collateral import CollateralStore
from leasehold.attest.manifest import Manifest, check_current
from leasehold.attest.nvidia.device import observe_device
from leasehold.attest.nvidia.devices import Devices, appraise_devices
from leasehold.attest.nvidia.report import parse_report
from leasehold.attest.ratls import binding as ratls
from leasehold.attest.ratls.reader import RaTls
from leasehold.attest.reference import Machine, Simulated
from leasehold.attest.verdict import Appraisal, Device, Finding, Trust, weakest
from leasehold.attest.verify import check_form, check_machine, observe
from leasehold.core.evidence import DeviceEvidence, Evidence
from leasehold.core.units import Instant
from leasehold.errors import LeaseholdError, UnsupportedEvidence, WrongDevices


@dataclass(frozen=True, slots=True)
class Assessment:
    """What evidence in hand shows. `found` is None where only devices were shown.

    `policy` is the manifest that it was judged by, `machine` that manifest's entry for it; both are
    None where nobody said what to expect. `ends` is the earliest end of everything used.
    """

    found: Appraisal | None
    devices: tuple[Device, ...]
    trust: Trust
    ends: Instant
    findings: tuple[Finding, ...]
    policy: Manifest | None
    machine: Machine | None

    @property
    def platform(self) -> str:
        """The platform's name, or the first device's kind."""
        return self.devices[0].kind if self.found is None else self.found.platform


def assess(
    evidence: Evidence,
    collateral: CollateralStore,
    *,
    manifest: Manifest | None,
    simulated: Simulated | None,
    now: Instant,
) -> Assessment:
    """Judge evidence by a manifest, or where there is none only find out whether it is authentic.

    `simulated` counts without a manifest only: a manifest says itself whether simulation passes. Raises
    BadEvidence, Unproven and their descendants.
    """
    platform = check_form(evidence)
    if manifest is None:
        found = observe(evidence, collateral, simulated=simulated, now=now)
        devices = _observed(evidence.devices, collateral, simulated=simulated, now=now)
        return _together(found, devices, None, None)
    check_current(manifest, now=now)
    found = platform.appraise(evidence, manifest, collateral, now=now)
    machine = check_machine(found, manifest)
    judged = _judged(evidence.devices, manifest, collateral, expected=machine.devices, now=now)
    return _together(found, judged, manifest, machine)


def assess_devices(
    evidence: tuple[DeviceEvidence, ...],
    collateral: CollateralStore,
    *,
    manifest: Manifest | None,
    simulated: Simulated | None,
    now: Instant,
) -> Assessment:
    """The same for devices without the processor that would vouch for them. Raises as `assess` does."""
    if manifest is None:
        devices = _observed(evidence, collateral, simulated=simulated, now=now)
        return _together(None, devices, None, None)
    check_current(manifest, now=now)
    refusal: LeaseholdError = WrongDevices(got="no machine of the manifest has devices")
    for machine in manifest.machines:
        if not machine.devices:
            continue
        try:
            judged = _judged(evidence, manifest, collateral, expected=machine.devices, now=now)
        except WrongDevices as error:  # perhaps they are the next machine's
            refusal = error
            continue
        return _together(None, judged, manifest, machine)
    raise refusal


def assess_certificate(
    found: RaTls,
    collateral: CollateralStore,
    *,
    manifest: Manifest | None,
    simulated: Simulated | None,
    now: Instant,
) -> tuple[Assessment, ...]:
    """Everything in an RA-TLS certificate that can be verified, and that it speaks of the certificate's key.

    Raises UnsupportedEvidence where there is nothing, and as `assess` and `ratls.observe` do.
    """
    trusted = simulated if manifest is None else manifest.simulated
    assessed = []
    for carried in found.evidence:
        if not carried.platform:
            continue
        ratls.observe(found, carried, collateral, simulated=trusted, now=now)
        inside = Evidence(carried.platform, carried.quote)
        assessed.append(assess(inside, collateral, manifest=manifest, simulated=simulated, now=now))
    if not assessed:
        raise UnsupportedEvidence(
            about="RA-TLS certificate",
            got=", ".join(carried.form for carried in found.evidence),
            expected="a quote that can be verified remotely",
        )
    return tuple(assessed)


def _observed(
    evidence: tuple[DeviceEvidence, ...],
    collateral: CollateralStore,
    *,
    simulated: Simulated | None,
    now: Instant,
) -> Devices | None:
    seen = [observe_device(one, collateral, simulated=simulated, now=now) for one in evidence]
    if not seen:
        return None
    return Devices(
        devices=tuple(one.device for one in seen),
        trust=weakest(one.trust for one in seen),
        ends=min(one.ends for one in seen),
        findings=tuple(dict.fromkeys(finding for one in seen for finding in one.findings)),
    )


def _judged(
    evidence: tuple[DeviceEvidence, ...],
    manifest: Manifest,
    collateral: CollateralStore,
    *,
    expected: tuple[str, ...],
    now: Instant,
) -> Devices:
    """Whose question they answer is open, so they are asked to answer the same one."""
    nonce = parse_report(evidence[0].report).nonce if evidence else b""
    return appraise_devices(evidence, nonce, manifest, collateral, expected=expected, now=now)


def _together(
    found: Appraisal | None,
    devices: Devices | None,
    manifest: Manifest | None,
    machine: Machine | None,
) -> Assessment:
    parts = [part for part in (found, devices) if part is not None]
    ends = [part.ends for part in parts] + ([] if manifest is None else [manifest.expires])
    findings = dict.fromkeys(finding for part in parts for finding in part.findings)
    return Assessment(
        found=found,
        devices=() if devices is None else devices.devices,
        trust=weakest(part.trust for part in parts),
        ends=min(ends),
        findings=tuple(findings),
        policy=manifest,
        machine=machine,
    )
