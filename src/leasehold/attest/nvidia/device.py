"""One device: whether its evidence is authentic, unrevoked, and measures what NVIDIA says it must.

Steps D-2 to D-7 of docs/spec/devices.md. Refuses to know the manifest, nonces and other devices.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from leasehold.attest.collateral import CollateralStore, Document
from leasehold.attest.nvidia.chain import DeviceChain, check_report_signed, read_device_chain
from leasehold.attest.nvidia.ocsp import check_not_revoked
from leasehold.attest.nvidia.report import BLOCKS, SWITCH, Report, parse_report, rim_ids
from leasehold.attest.nvidia.rim import Rim, check_signers, read_rim
from leasehold.attest.reference import Simulated
from leasehold.attest.verdict import Device, Finding, FindingCode, Trust, weakest
from leasehold.core.evidence import DeviceEvidence
from leasehold.core.units import Instant
from leasehold.errors import (
    BadEvidence,
    CollateralMismatch,
    CollateralMissing,
    CollateralNotCurrent,
    CollateralRejected,
    UnsupportedEvidence,
    WrongMeasurement,
)

SIMULATED_DEVICES: Final = Finding(
    FindingCode.SIMULATED, "SIMULATED: no GPU hardware protects what runs on these devices"
)
NVDEC0_INDEX: Final = 35  # has a meaning only while that video decoder is on


@dataclass(frozen=True, slots=True)
class ObservedDevice:
    """One authentic device, and what its report says; judged by no policy. `ends` as in `Devices`."""

    device: Device
    report: Report
    chain: DeviceChain
    trust: Trust
    ends: Instant
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class Checked:
    """What one more check found."""

    trust: Trust
    ends: Instant
    findings: tuple[Finding, ...] = ()


def authenticate(
    evidence: DeviceEvidence, *, simulated: Simulated | None, now: Instant
) -> tuple[Report, DeviceChain]:
    """D-2 to D-4: a device under a trusted root signed this report."""
    if evidence.kind not in BLOCKS:
        raise UnsupportedEvidence(about="device", got=evidence.kind, expected=", ".join(BLOCKS))
    report = parse_report(evidence.report)  # D-2
    if report.kind != evidence.kind:
        raise BadEvidence(about="device", got=report.kind, expected=evidence.kind)
    chain = read_device_chain(evidence.chain, report.kind, simulated=simulated, now=now)  # D-3
    check_report_signed(report, chain)  # D-4
    return report, chain


def check_revocation(chain: DeviceChain, collateral: CollateralStore, *, now: Instant) -> Instant:
    """D-6: NVIDIA revoked nothing between device key and root; tells until when that is known."""
    return min(
        check_not_revoked(one, issuer, collateral, now=now) for one, issuer in chain.revocable
    )


def check_firmware(
    report: Report,
    chain: DeviceChain,
    collateral: CollateralStore,
    *,
    simulated: Simulated | None,
    accept_expired: bool,
    now: Instant,
) -> Checked:
    """D-5 to D-7: NVIDIA's manifests for this driver and VBIOS, and that the device measures the same."""
    checked = []
    rims = []
    for name in rim_ids(report):
        document = collateral.document("nvidia-rim", name)
        rim, found = _check_rim(
            document, collateral, simulated=simulated, accept_expired=accept_expired, now=now
        )
        rims.append(rim)
        checked.append(found)
    check_measurements(report, golden_values(report, chain.chip, rims))
    return together(checked)


def _check_rim(
    document: Document,
    collateral: CollateralStore,
    *,
    simulated: Simulated | None,
    accept_expired: bool,
    now: Instant,
) -> tuple[Rim, Checked]:
    """D-5, D-6: one manifest, current and authentic, whose signers were not revoked."""
    if now >= document.good_until:
        raise CollateralNotCurrent(
            about=f"RIM {document.name}", got=now, expected=f"< {document.good_until}"
        )
    rim = read_rim(document.data)
    signers = check_signers(rim, simulated=simulated, accept_expired=accept_expired, now=now)
    revocation = [
        check_not_revoked(one, issuer, collateral, now=now) for one, issuer in rim.revocable
    ]
    findings: tuple[Finding, ...] = ()
    if signers.expired:
        text = (
            f"reference manifest {document.name} is signed with expired certificates: "
            + ", ".join(signers.expired)
        )
        findings = (Finding(FindingCode.SIGNER_EXPIRED, text),)
    ends = min(document.good_until, signers.ends, *revocation)
    return rim, Checked(signers.trust, ends, findings)


def golden_values(report: Report, chip: str, rims: Iterable[Rim]) -> dict[int, frozenset[bytes]]:
    """D-7: the values that pass, by RIM index, from the manifests of this device's driver and VBIOS.

    Raises CollateralMismatch, CollateralRejected.
    """
    golden: dict[int, frozenset[bytes]] = {}
    edition = "SWITCH" if report.kind == SWITCH else "GPU"
    versions = [report.firmware] if report.kind == SWITCH else [report.driver, report.firmware]
    for rim, version in zip(rims, versions, strict=True):
        told = (rim.version.upper(), rim.product, rim.edition)
        wanted = (str(version).upper(), report.chip_info or chip, edition)
        if told != wanted:  # NVIDIA's service has manifests under names that fit other chips
            raise CollateralMismatch(about="RIM", got=told, expected=wanted)
        twice = sorted(golden.keys() & rim.golden.keys())
        if twice:
            raise CollateralRejected(about="RIM indexes", got=twice, expected="in one manifest")
        if not rim.golden:
            raise CollateralRejected(about=f"RIM {version}", got="nothing active")
        golden |= rim.golden
    return golden


def check_measurements(report: Report, golden: Mapping[int, frozenset[bytes]]) -> None:
    """D-7: the device measures what is listed. Raises WrongMeasurement, which names RIM indexes, from 0."""
    wrong = mismatches(report, golden)
    if wrong:
        got = report.measurements.get(wrong[0] + 1, b"").hex()
        raise WrongMeasurement(
            about=f"{report.kind}, RIM index {', '.join(map(str, wrong))}",
            got=got or "not measured",
            expected=", ".join(sorted(value.hex() for value in golden[wrong[0]])),
        )


def mismatches(report: Report, golden: Mapping[int, frozenset[bytes]]) -> list[int]:
    """The RIM indexes (from 0; SPDM counts from 1) whose measurement is not one that the manifests list."""
    return [
        index
        for index, values in sorted(golden.items())
        if not (index == NVDEC0_INDEX and not report.nvdec0)
        and report.measurements.get(index + 1) not in values
    ]


def observe_device(
    evidence: DeviceEvidence,
    collateral: CollateralStore,
    *,
    simulated: Simulated | None,
    now: Instant,
) -> ObservedDevice:
    """D-2 to D-7 where nobody has a policy yet: what no collateral is there for becomes a finding.

    Proves nothing about who asked and whether it is fresh. Raises BadEvidence, Unproven and their
    descendants.
    """
    report, chain = authenticate(evidence, simulated=simulated, now=now)
    checked = [Checked(chain.trust, chain.ends)]
    try:
        ends = check_revocation(chain, collateral, now=now)
        checked.append(Checked(chain.trust, ends))
    except CollateralMissing as missing:
        text = f"not known whether NVIDIA revoked this device: {_why(missing)}"
        checked.append(
            Checked(chain.trust, chain.ends, (Finding(FindingCode.REVOCATION_UNKNOWN, text),))
        )
    try:
        checked.append(
            check_firmware(
                report, chain, collateral, simulated=simulated, accept_expired=True, now=now
            )
        )
    except CollateralMissing as missing:
        text = f"measurements not compared with NVIDIA's: {_why(missing)}"
        checked.append(Checked(chain.trust, chain.ends, (Finding(FindingCode.NOT_COMPARED, text),)))
    whole = together(checked)
    return ObservedDevice(
        device_of(report, chain), report, chain, whole.trust, whole.ends, findings(whole)
    )


def _why(missing: CollateralMissing) -> str:
    return f"{missing.about} ({missing.code})"


def device_of(report: Report, chain: DeviceChain) -> Device:
    return Device(report.kind, chain.identity, chain.chip, report.driver or "", report.firmware)


def together(checked: list[Checked]) -> Checked:
    findings = dict.fromkeys(finding for one in checked for finding in one.findings)
    return Checked(
        weakest(one.trust for one in checked), min(one.ends for one in checked), tuple(findings)
    )


def findings(whole: Checked) -> tuple[Finding, ...]:
    first = (SIMULATED_DEVICES,) if whole.trust is Trust.SIMULATION else ()
    return (*first, *whole.findings)
