"""SEV-SNP evidence: from bytes to what the manifest asks about, steps E-1 to E-11 of docs/spec/snp.md.

Refuses to know nonces and keys: the binding is `verify`'s.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from leasehold.attest.amd.authentic import Authentic, authenticate
from leasehold.attest.amd.kds import hardware_id
from leasehold.attest.amd.reference import POLICY_DEBUG, POLICY_MIGRATE_MA, Snp
from leasehold.attest.amd.report import Report, Tcb, parse_tcb
from leasehold.attest.collateral import CollateralStore
from leasehold.attest.manifest import Manifest
from leasehold.attest.platform import Platform
from leasehold.attest.reference import Simulated
from leasehold.attest.tcb import check_tcb, with_waiver
from leasehold.attest.verdict import (
    SIMULATED,
    Appraisal,
    Finding,
    FindingCode,
    Measurement,
    TcbStatus,
    Trust,
)
from leasehold.core.crypto import sha256
from leasehold.core.encoding import frame
from leasehold.core.evidence import Evidence
from leasehold.core.units import Instant
from leasehold.errors import (
    CollateralMissing,
    DebugEnclave,
    EnclaveTooOld,
    PlatformNotAllowed,
    WrongAttributes,
    WrongConfigId,
    WrongMeasurement,
    WrongSigner,
)

NAME: Final = "snp"
_PLATFORM_DEFENCES: Final = (
    (1 << 2, "ECC memory is off"),
    (1 << 5, "the check for aliased memory is not complete"),
)
_PLATFORM_SMT: Final = 1 << 0


def check_reference(report: Report, expected: Snp) -> None:
    """E-9: code, signer, policy and launch configuration are the manifest's.

    Raises DebugEnclave, WrongAttributes, WrongMeasurement, WrongSigner, WrongConfigId, EnclaveTooOld.
    """
    if report.policy & POLICY_DEBUG:
        raise DebugEnclave(about="guest policy DEBUG", got=f"{report.policy:#x}")
    if report.policy & POLICY_MIGRATE_MA:
        raise WrongAttributes(
            about="guest policy MIGRATE_MA", got=f"{report.policy:#x}", expected="bit 18 clear"
        )
    for about, bits, mask, wanted in (
        ("guest policy", report.policy, expected.policy_mask_hex, expected.policy_hex),
        (
            "platform info",
            report.platform_info,
            expected.platform_info_mask_hex,
            expected.platform_info_hex,
        ),
    ):
        if bits & int(mask, 16) != int(wanted, 16):
            raise WrongAttributes(
                about=about, got=f"{bits:016x}", expected=f"{wanted} under mask {mask}"
            )
    if report.vmpl > expected.vmpl_max:
        raise WrongAttributes(about="VMPL", got=report.vmpl, expected=f"<= {expected.vmpl_max}")
    if report.measurement.hex() not in expected.measurement:
        raise WrongMeasurement(
            about="MEASUREMENT", got=report.measurement, expected=", ".join(expected.measurement)
        )
    for about, got, fixed in (
        ("ID_KEY_DIGEST", report.id_key_digest, expected.id_key_digest),
        ("AUTHOR_KEY_DIGEST", report.author_key_digest, expected.author_key_digest),
    ):
        if got.hex() != fixed:
            raise WrongSigner(about=about, got=got, expected=fixed)
    if report.guest_svn < expected.guest_svn_min:
        raise EnclaveTooOld(
            about="GUEST_SVN", got=report.guest_svn, expected=f">= {expected.guest_svn_min}"
        )
    for about, got, fixed in (
        ("HOST_DATA", report.host_data, expected.host_data),
        ("FAMILY_ID", report.family_id, expected.family_id),
        ("IMAGE_ID", report.image_id, expected.image_id),
    ):
        if got.hex() != fixed:
            raise WrongConfigId(about=about, got=got, expected=fixed)


def judge_tcb(report: Report, product: str, expected: Snp) -> TcbStatus:
    """E-10: current, where all four levels that the report gives reach the floor in every component.

    The committed level is the one that the machine cannot be rolled back below; the launch level
    vouches for the measurement. Raises PlatformNotAllowed for a product without floor.
    """
    floor = expected.floor(product)
    if floor is None:
        raise PlatformNotAllowed(about=product, expected=f"a floor snp.{product.lower()}")
    least = Tcb(floor.bootloader, floor.tee, floor.snp, floor.microcode, floor.fmc)
    given = (report.reported_tcb, report.committed_tcb, report.current_tcb, report.launch_tcb)
    levels = (parse_tcb(raw, product) for raw in given)
    reached = all(
        got >= wanted for level in levels for got, wanted in zip(level, least, strict=True)
    )
    return TcbStatus.UP_TO_DATE if reached else TcbStatus.OUT_OF_DATE


def check_signing_key(seen: Authentic, expected: Snp) -> None:
    """E-11: a cloud's key only where the manifest names the cloud, and without a chip id only if it says so.

    Raises PlatformNotAllowed.
    """
    csp_id = seen.endorsement.csp_id
    if csp_id is None:
        return
    if csp_id not in expected.vlek_csp_ids:
        raise PlatformNotAllowed(
            about="VLEK", got=csp_id, expected=", ".join(expected.vlek_csp_ids) or "a VCEK"
        )
    if not any(seen.report.chip_id) and not expected.unsafe_masked_chip_id:
        raise PlatformNotAllowed(
            about="masked chip id", got=csp_id, expected="snp.unsafe_masked_chip_id = true"
        )


def machine_of(seen: Authentic) -> str:
    """What the machine list has to name: the chip, or, where the cloud hides it, the cloud's key."""
    if any(seen.report.chip_id):
        return hardware_id(seen.report.chip_id, seen.product).hex()
    csp_id = seen.endorsement.csp_id or ""
    return sha256(frame("leasehold/vlek-csp/1", csp_id.encode())).hex()


def observe(
    evidence: Evidence, collateral: CollateralStore, *, simulated: Simulated | None, now: Instant
) -> Appraisal:
    """E-1 to E-8: authentic SNP evidence and what it says."""
    return observed(
        authenticate(
            evidence.quote, evidence.endorsements, collateral, simulated=simulated, now=now
        )
    )


def appraise(
    evidence: Evidence, manifest: Manifest, collateral: CollateralStore, *, now: Instant
) -> Appraisal:
    """E-1 to E-11: judge SNP evidence by the manifest's `[snp]` table."""
    if manifest.snp is None:
        raise PlatformNotAllowed(got=NAME)
    seen = authenticate(
        evidence.quote, evidence.endorsements, collateral, simulated=manifest.simulated, now=now
    )
    return judge(seen, manifest.snp, manifest, now=now)


def judge(seen: Authentic, expected: Snp, manifest: Manifest, *, now: Instant) -> Appraisal:
    """E-8 to E-11 of a report that is authentic: it is what the manifest expects.

    Raises CollateralMissing where revocation is unknown: a policy never takes that for a no.
    """
    if not seen.is_revocation_known:
        raise CollateralMissing(
            about=f"amd-crl {seen.product}", expected="AMD's list of revoked certificates"
        )
    check_reference(seen.report, expected)  # E-9
    status = judge_tcb(seen.report, seen.product, expected)  # E-10
    waiver = check_tcb(status, (), manifest.waivers, now=now)  # V-11
    check_signing_key(seen, expected)  # E-11
    return with_waiver(replace(observed(seen), tcb_status=status), waiver)


def observed(seen: Authentic) -> Appraisal:
    """What an authentic report says."""
    report = seen.report
    return Appraisal(
        platform=NAME,
        trust=seen.trust,
        tcb_status=TcbStatus.NOT_JUDGED,
        advisories=(),
        measurements=(
            Measurement("MEASUREMENT", report.measurement.hex()),
            Measurement("HOST_DATA", report.host_data.hex()),
            Measurement("ID_KEY_DIGEST", report.id_key_digest.hex()),
            Measurement("AUTHOR_KEY_DIGEST", report.author_key_digest.hex()),
            Measurement("GUEST_SVN", str(report.guest_svn)),
            Measurement("VMPL", str(report.vmpl)),
        ),
        machine=machine_of(seen),
        platform_instance=None,
        report_data=report.report_data,
        ends=seen.ends,
        findings=_findings(seen),
    )


def _findings(seen: Authentic) -> tuple[Finding, ...]:
    """What passed and people should still see, gravest first."""
    report, csp_id = seen.report, seen.endorsement.csp_id
    found = [SIMULATED] if seen.trust is Trust.SIMULATION else []
    if report.policy & POLICY_DEBUG:
        found.append(Finding(FindingCode.DEBUG, "the host may debug this guest: nothing is secret"))
    if report.policy & POLICY_MIGRATE_MA:
        found.append(Finding(FindingCode.MIGRATABLE, "a migration agent may move this guest"))
    if not seen.is_revocation_known:
        text = "nobody asked AMD's list of revoked certificates"
        found.append(Finding(FindingCode.REVOCATION_UNKNOWN, text))
    if csp_id is not None:
        text = f"signed with a key that {csp_id} uses on many machines (VLEK)"
        found.append(Finding(FindingCode.SHARED_SIGNING_KEY, text))
    if not any(report.chip_id):
        text = "the chip id is hidden: this may be any machine of that cloud"
        found.append(Finding(FindingCode.MASKED_CHIP, text))
    if report.vmpl:
        text = f"the report was asked for at VMPL {report.vmpl}, below the most privileged level"
        found.append(Finding(FindingCode.LOW_PRIVILEGE, text))
    for bit, text in _PLATFORM_DEFENCES:
        if not report.platform_info & bit:
            found.append(Finding(FindingCode.PLATFORM_DEFENCE_OFF, text))
    if report.platform_info & _PLATFORM_SMT:
        found.append(Finding(FindingCode.SMT, "simultaneous multithreading is on"))
    return tuple(found)


PLATFORM: Final = Platform(NAME, observe, appraise)
