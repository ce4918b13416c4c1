"""TDX evidence: from bytes to what the manifest asks about, steps X-1 to X-6 of docs/spec/tdx.md.

Refuses to know nonces and keys: the binding is `verify`'s.
"""

from __future__ import annotations

from typing import Final

import msgspec

from leasehold.attest.collateral import CollateralStore
from leasehold.attest.intel import authentic
from leasehold.attest.intel.authentic import Authentic
from leasehold.attest.intel.pck import instance_of, platform_findings
from leasehold.attest.intel.quote import parse_td_quote
from leasehold.attest.intel.reference import TD_DEBUG, TD_MIGRATABLE, TD_SEPT_VE_DISABLE, Tdx
from leasehold.attest.intel.report import TdReport
from leasehold.attest.manifest import Manifest
from leasehold.attest.platform import Platform
from leasehold.attest.reference import Simulated
from leasehold.attest.tcb import check_tcb, with_waiver
from leasehold.attest.verdict import Appraisal, Measurement
from leasehold.core.evidence import Evidence
from leasehold.core.units import Instant
from leasehold.errors import (
    DebugEnclave,
    EnclaveTooOld,
    EvidenceRejected,
    PlatformNotAllowed,
    UnsupportedEvidence,
    WrongAttributes,
    WrongConfigId,
    WrongMeasurement,
)

NAME: Final = "tdx"


# dcap-qvl's reading -------------------------------------------------------------------------------


class _Base(msgspec.Struct, frozen=True):
    """dcap-qvl's reading of the first 584 bytes, each field in hex."""

    tee_tcb_svn: str
    mr_seam: str
    mr_signer_seam: str
    seam_attributes: str
    td_attributes: str
    xfam: str
    mr_td: str
    mr_config_id: str
    mr_owner: str
    mr_owner_config: str
    rt_mr0: str
    rt_mr1: str
    rt_mr2: str
    rt_mr3: str
    report_data: str


class _Td15(msgspec.Struct, frozen=True):
    base: _Base
    tee_tcb_svn2: str
    mr_service_td: str


class _Td15Ex(msgspec.Struct, frozen=True):
    base: _Td15
    vmid: int
    td_id: str
    dev_info: str
    init_service_td_hash: str
    init_service_td_attributes: str
    init_cpu_svn: str
    init_tee_tcb_svn: str
    init_tee_fmspc: str
    cur_service_td_hash: str
    cur_service_td_attributes: str


class _ClaimedBody(
    msgspec.Struct, frozen=True, rename={"td10": "TD10", "td15": "TD15", "td15ex": "TD15Ex"}
):
    td10: _Base | None = None
    td15: _Td15 | None = None
    td15ex: _Td15Ex | None = None


def claimed_report(claims: bytes) -> bytes:
    """The TD report that dcap-qvl verified, from its claims. Raises EvidenceRejected."""
    try:
        body = msgspec.json.decode(claims, type=_ClaimedBody)
        return _octets(body.td10 or body.td15 or body.td15ex)
    except (msgspec.DecodeError, ValueError, OverflowError) as cause:
        raise EvidenceRejected(about="claims of dcap-qvl", got=str(cause)) from cause


def _octets(part: object) -> bytes:
    """All fields in their order, which is that of the bytes."""
    if isinstance(part, str):
        return bytes.fromhex(part)
    if isinstance(part, int):
        return part.to_bytes(1, "little")
    if isinstance(part, msgspec.Struct):
        return b"".join(_octets(getattr(part, name)) for name in part.__struct_fields__)
    raise ValueError("no report")


# Judging ------------------------------------------------------------------------------------------


def authenticate(
    data: bytes, collateral: CollateralStore, *, simulated: Simulated | None, now: Instant
) -> Authentic[TdReport]:
    """X-1, X-2: the quote is of the right form and a machine under a trusted root made it."""
    quote = parse_td_quote(data)
    seen = authentic.authenticate(
        quote, "tdx", collateral, claimed_report=claimed_report, simulated=simulated, now=now
    )
    check_attributes(quote.report)
    return seen


def check_attributes(report: TdReport) -> None:
    """X-3: nobody debugs, moves or serves this domain, whatever a manifest says.

    dcap-qvl refuses the same; that it keeps doing so is not for others to promise. Raises DebugEnclave,
    WrongAttributes.
    """
    attributes = report.td_attributes
    if attributes & TD_DEBUG:
        raise DebugEnclave(about="TDATTRIBUTES.DEBUG", got=f"{attributes:016x}")
    service = b"" if report.v15 is None else report.v15.mr_service_td
    current = b"" if report.v15ex is None else report.v15ex.current_service_td_hash
    for about, got, is_wrong, expected in (
        (
            "SEPT_VE_DISABLE",
            f"{attributes:016x}",
            not attributes & TD_SEPT_VE_DISABLE,
            "bit 28 set",
        ),
        ("MIGRATABLE", f"{attributes:016x}", bool(attributes & TD_MIGRATABLE), "bit 29 clear"),
        ("MRSERVICETD", service.hex(), any(service), "no service domain"),
        ("service domain", current.hex(), any(current), "none"),
    ):
        if is_wrong:
            raise WrongAttributes(about=about, got=got, expected=expected)


def check_reference(report: TdReport, expected: Tdx) -> None:
    """X-4 to X-6: attributes, code and launch configuration are the manifest's.

    Raises WrongAttributes, WrongMeasurement, EnclaveTooOld, WrongConfigId.
    """
    for about, bits, mask, wanted in (
        (
            "TDATTRIBUTES",
            report.td_attributes,
            expected.td_attributes_mask_hex,
            expected.td_attributes_hex,
        ),
        ("XFAM", report.xfam, expected.xfam_mask_hex, expected.xfam_hex),
        ("SEAMATTRIBUTES", report.seam_attributes, "f" * 16, "0" * 16),
    ):
        if bits & int(mask, 16) != int(wanted, 16):
            raise WrongAttributes(
                about=about, got=f"{bits:016x}", expected=f"{wanted} under mask {mask}"
            )
    for about, measured, allowed in (
        ("MRTD", report.mr_td, expected.mr_td),
        ("RTMR0", report.rtmr[0], expected.rtmr0),
        ("RTMR1", report.rtmr[1], expected.rtmr1),
        ("RTMR2", report.rtmr[2], expected.rtmr2),
        ("RTMR3", report.rtmr[3], expected.rtmr3),
        ("MRSEAM", report.mr_seam, expected.mr_seam),
    ):
        if measured.hex() not in allowed:
            raise WrongMeasurement(about=about, got=measured, expected=", ".join(allowed))
    least = bytes.fromhex(expected.tee_tcb_svn_min)
    if any(got < floor for got, floor in zip(report.tee_tcb_svn, least, strict=True)):
        raise EnclaveTooOld(
            about="TEE_TCB_SVN", got=report.tee_tcb_svn, expected=f"each octet >= {least.hex()}"
        )
    for about, got, fixed in (
        ("MRCONFIGID", report.mr_config_id, expected.mr_config_id),
        ("MROWNER", report.mr_owner, expected.mr_owner),
        ("MROWNERCONFIG", report.mr_owner_config, expected.mr_owner_config),
    ):
        if got.hex() != fixed:
            raise WrongConfigId(about=about, got=got, expected=fixed)


def observe(
    evidence: Evidence, collateral: CollateralStore, *, simulated: Simulated | None, now: Instant
) -> Appraisal:
    """X-1 to X-3: authentic TDX evidence and what it says."""
    return _observed(_authenticate(evidence, collateral, simulated=simulated, now=now))


def appraise(
    evidence: Evidence, manifest: Manifest, collateral: CollateralStore, *, now: Instant
) -> Appraisal:
    """X-1 to X-6: judge TDX evidence by the manifest's `[tdx]` table."""
    if manifest.tdx is None:
        raise PlatformNotAllowed(got=NAME)
    seen = _authenticate(evidence, collateral, simulated=manifest.simulated, now=now)
    waiver = check_tcb(seen.status, seen.advisories, manifest.waivers, now=now)  # V-11
    check_reference(seen.quote.report, manifest.tdx)
    return with_waiver(_observed(seen), waiver)


def _authenticate(
    evidence: Evidence, collateral: CollateralStore, *, simulated: Simulated | None, now: Instant
) -> Authentic[TdReport]:
    if evidence.endorsements:
        raise UnsupportedEvidence(about="endorsements", got=len(evidence.endorsements), expected=0)
    return authenticate(evidence.quote, collateral, simulated=simulated, now=now)


def _observed(seen: Authentic[TdReport]) -> Appraisal:
    report = seen.quote.report
    return Appraisal(
        platform=NAME,
        trust=seen.trust,
        tcb_status=seen.status,
        advisories=seen.advisories,
        measurements=(
            Measurement("MRTD", report.mr_td.hex()),
            *(Measurement(f"RTMR{at}", value.hex()) for at, value in enumerate(report.rtmr)),
            Measurement("MRSEAM", report.mr_seam.hex()),
            Measurement("MRCONFIGID", report.mr_config_id.hex()),
            Measurement("MROWNER", report.mr_owner.hex()),
            Measurement("MROWNERCONFIG", report.mr_owner_config.hex()),
        ),
        machine=seen.pck.ppid.hex(),
        platform_instance=instance_of(seen.pck),
        report_data=report.report_data,
        ends=seen.ends,
        findings=platform_findings(seen.trust, seen.advisories, seen.pck),
    )


PLATFORM: Final = Platform(NAME, observe, appraise)
