"""SGX evidence: from bytes to what the manifest asks about, steps V-3 to V-15 of docs/spec/evidence.md.

Refuses to know nonces and keys: the binding is `verify`'s.
"""

from __future__ import annotations

from typing import Final

import msgspec

from leasehold.attest.collateral import CollateralStore
from leasehold.attest.intel import authentic
from leasehold.attest.intel.authentic import Authentic
from leasehold.attest.intel.pck import instance_of, platform_findings
from leasehold.attest.intel.quote import parse_quote
from leasehold.attest.intel.reference import SGX_DEBUG, Sgx
from leasehold.attest.intel.report import Report
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
    WrongSigner,
)

NAME: Final = "sgx"


def authenticate(
    data: bytes, collateral: CollateralStore, *, simulated: Simulated | None, now: Instant
) -> Authentic[Report]:
    """V-3 to V-10: the quote is of the right form and a machine under a trusted root made it."""
    quote = parse_quote(data)  # V-3
    return authentic.authenticate(
        quote, "sgx", collateral, claimed_report=claimed_report, simulated=simulated, now=now
    )


class _ClaimedReport(msgspec.Struct, frozen=True):
    """dcap-qvl's reading of the enclave report, byte strings in hex."""

    cpu_svn: str
    misc_select: int
    reserved1: str
    attributes: str
    mr_enclave: str
    reserved2: str
    mr_signer: str
    reserved3: str
    isv_prod_id: int
    isv_svn: int
    reserved4: str
    report_data: str

    def data(self) -> bytes:
        """All 384 bytes, put together again."""
        return b"".join(
            (
                bytes.fromhex(self.cpu_svn),
                self.misc_select.to_bytes(4, "little"),
                bytes.fromhex(self.reserved1 + self.attributes + self.mr_enclave),
                bytes.fromhex(self.reserved2 + self.mr_signer + self.reserved3),
                self.isv_prod_id.to_bytes(2, "little"),
                self.isv_svn.to_bytes(2, "little"),
                bytes.fromhex(self.reserved4 + self.report_data),
            )
        )


class _ClaimedBody(msgspec.Struct, frozen=True, rename={"enclave": "SgxEnclave"}):
    enclave: _ClaimedReport


def claimed_report(claims: bytes) -> bytes:
    """The enclave report that dcap-qvl verified, from its claims. Raises EvidenceRejected."""
    try:
        return msgspec.json.decode(claims, type=_ClaimedBody).enclave.data()
    except (msgspec.DecodeError, ValueError, OverflowError) as cause:
        raise EvidenceRejected(about="claims of dcap-qvl", got=str(cause)) from cause


def check_reference(report: Report, expected: Sgx) -> None:
    """V-12 to V-15: attributes, code, signer and launch configuration are the manifest's.

    Raises DebugEnclave, WrongAttributes, WrongMeasurement, WrongSigner, EnclaveTooOld, WrongConfigId.
    """
    _check_attributes(report, expected)  # V-12
    if report.mr_enclave.hex() not in expected.mr_enclave:  # V-13
        raise WrongMeasurement(
            about="MRENCLAVE", got=report.mr_enclave, expected=", ".join(expected.mr_enclave)
        )
    if report.mr_signer.hex() != expected.mr_signer:  # V-14
        raise WrongSigner(about="MRSIGNER", got=report.mr_signer, expected=expected.mr_signer)
    if report.isv_prod_id != expected.isv_prod_id:
        raise WrongSigner(about="ISVPRODID", got=report.isv_prod_id, expected=expected.isv_prod_id)
    if report.isv_svn < expected.isv_svn_min:
        raise EnclaveTooOld(
            about="ISVSVN", got=report.isv_svn, expected=f">= {expected.isv_svn_min}"
        )
    for about, got, wanted in (  # V-15
        ("CONFIGID", report.config_id.hex(), expected.config_id),
        ("CONFIGSVN", report.config_svn, expected.config_svn),
        ("ISVFAMILYID", report.isv_family_id.hex(), expected.isv_family_id),
        ("ISVEXTPRODID", report.isv_ext_prod_id.hex(), expected.isv_ext_prod_id),
    ):
        if got != wanted:
            raise WrongConfigId(about=about, got=got, expected=wanted)


def _check_attributes(report: Report, expected: Sgx) -> None:
    """V-12: no debug bit whatever the masks say; then every value under its mask."""
    if report.flags & SGX_DEBUG:
        raise DebugEnclave(about="ATTRIBUTES.DEBUG", got=f"{report.flags:016x}")
    for about, got, mask, wanted in (
        ("flags", report.flags, expected.attributes_mask_flags_hex, expected.attributes_flags_hex),
        ("XFRM", report.xfrm, expected.attributes_mask_xfrm_hex, expected.attributes_xfrm_hex),
        ("MISCSELECT", report.misc_select, expected.misc_mask_hex, expected.misc_select_hex),
    ):
        if got & int(mask, 16) != int(wanted, 16):
            raise WrongAttributes(
                about=about, got=f"{got:x}", expected=f"{wanted} under mask {mask}"
            )


def observe(
    evidence: Evidence, collateral: CollateralStore, *, simulated: Simulated | None, now: Instant
) -> Appraisal:
    """V-3 to V-10: authentic SGX evidence and what it says."""
    return _observed(_authenticate(evidence, collateral, simulated=simulated, now=now))


def appraise(
    evidence: Evidence, manifest: Manifest, collateral: CollateralStore, *, now: Instant
) -> Appraisal:
    """V-3 to V-15: judge SGX evidence by the manifest's `[sgx]` table."""
    if manifest.sgx is None:
        raise PlatformNotAllowed(got=NAME)
    seen = _authenticate(evidence, collateral, simulated=manifest.simulated, now=now)
    waiver = check_tcb(seen.status, seen.advisories, manifest.waivers, now=now)  # V-11
    check_reference(seen.quote.report, manifest.sgx)  # V-12 to V-15
    return with_waiver(_observed(seen), waiver)


def _authenticate(
    evidence: Evidence, collateral: CollateralStore, *, simulated: Simulated | None, now: Instant
) -> Authentic[Report]:
    if evidence.endorsements:
        raise UnsupportedEvidence(about="endorsements", got=len(evidence.endorsements), expected=0)
    return authenticate(evidence.quote, collateral, simulated=simulated, now=now)


def _observed(seen: Authentic[Report]) -> Appraisal:
    report = seen.quote.report
    return Appraisal(
        platform=NAME,
        trust=seen.trust,
        tcb_status=seen.status,
        advisories=seen.advisories,
        measurements=(
            Measurement("MRENCLAVE", report.mr_enclave.hex()),
            Measurement("MRSIGNER", report.mr_signer.hex()),
            Measurement("ISVPRODID", str(report.isv_prod_id)),
            Measurement("ISVSVN", str(report.isv_svn)),
        ),
        machine=seen.pck.ppid.hex(),
        platform_instance=instance_of(seen.pck),
        report_data=report.report_data,
        ends=seen.ends,
        findings=platform_findings(seen.trust, seen.advisories, seen.pck),
    )


PLATFORM: Final = Platform(NAME, observe, appraise)
