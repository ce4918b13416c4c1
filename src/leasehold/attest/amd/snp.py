"""SEV-SNP evidence: from bytes to what the manifest asks about, steps E-1 to E-11 of docs/spec/snp.md.

Refuses to know nonces and keys: the binding is `verify`'s.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from leasehold.attest.amd.endorsement import Endorsement, parse_endorsement, read_all
from leasehold.attest.amd.kds import Endorser, chain_name, hardware_id, vcek_name
from leasehold.attest.amd.reference import POLICY_DEBUG, POLICY_MIGRATE_MA, Snp
from leasehold.attest.amd.report import (
    SIGNED_BYTES,
    Report,
    SigningKey,
    Tcb,
    parse_report,
    parse_tcb,
)
from leasehold.attest.amd.roots import Anchor, decide_anchor
from leasehold.attest.certificate import (
    DerCertificate,
    check_issued,
    check_valid_at,
    read_certificates,
)
from leasehold.attest.collateral import CollateralStore, Document
from leasehold.attest.manifest import Manifest
from leasehold.attest.platform import Platform
from leasehold.attest.reference import Simulated
from leasehold.attest.signatures import Scheme, is_signed
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
from leasehold.attest.x509 import check_crl
from leasehold.core.crypto import sha256
from leasehold.core.encoding import frame
from leasehold.core.evidence import Evidence
from leasehold.core.units import Instant
from leasehold.errors import (
    BadEvidence,
    CertificateRejected,
    CertificateRevoked,
    CollateralMissing,
    CollateralNotCurrent,
    DebugEnclave,
    EnclaveTooOld,
    PlatformNotAllowed,
    QuoteForged,
    WrongAttributes,
    WrongConfigId,
    WrongMeasurement,
    WrongSigner,
)

NAME: Final = "snp"
_CHAIN_MAX: Final = 3
_PLATFORM_DEFENCES: Final = (
    (1 << 2, "ECC memory is off"),
    (1 << 5, "the check for aliased memory is not complete"),
)
_PLATFORM_SMT: Final = 1 << 0


@dataclass(frozen=True, slots=True)
class Authentic:
    """A report that a genuine machine made (or a simulated one: see `trust`), not yet judged.

    `is_revocation_known` is false where nobody asked AMD's revocation list.
    """

    report: Report
    endorsement: Endorsement
    product: str
    trust: Trust
    ends: Instant
    is_revocation_known: bool


# Authenticity -------------------------------------------------------------------------------------


def authenticate(
    data: bytes,
    endorsements: tuple[bytes, ...],
    collateral: CollateralStore,
    *,
    simulated: Simulated | None,
    now: Instant,
) -> Authentic:
    """E-1 to E-8: a machine under a trusted root made this report."""
    report = parse_report(data)  # E-1, E-2
    given = read_all(endorsements)  # E-3
    leaf, found = _leaf(report, given, collateral, now=now)
    # E-7: before the chain, so that a report beside somebody else's certificate is told as such
    if not is_signed(leaf.spki, Scheme.ECDSA_SHA384, report.data[:SIGNED_BYTES], report.signature):
        raise QuoteForged(about="SNP report", got="a bad signature", expected=f"one by {leaf.name}")
    above, kept = _chain(leaf, given, collateral, now=now)
    intermediate, ark = above
    anchor = decide_anchor(ark, simulated)  # E-4
    check_roles(leaf, intermediate, ark, anchor, now=now)
    endorsement = parse_endorsement(leaf)  # E-5
    check_endorsement(report, endorsement, anchor)  # E-6
    crl_ends = check_revocation(intermediate, ark, anchor, collateral, now=now)  # E-8
    ends = [*(certificate.ends for certificate in (leaf, intermediate, ark)), *found, *kept]
    return Authentic(
        report=report,
        endorsement=endorsement,
        product=anchor.product,
        trust=anchor.trust,
        ends=Instant(min(ends if crl_ends is None else [*ends, crl_ends])),
        is_revocation_known=crl_ends is not None,
    )


def _current(document: Document, *, now: Instant) -> Document:
    if now >= document.good_until:
        raise CollateralNotCurrent(
            about=f"{document.kind} {document.name}",
            got=document.good_until,
            expected=f"good after {now}",
        )
    return document


def _leaf(
    report: Report,
    given: tuple[DerCertificate, ...],
    collateral: CollateralStore,
    *,
    now: Instant,
) -> tuple[DerCertificate, list[Instant]]:
    """E-3: the VCEK or VLEK, from the evidence or else from the store, and when the latter ends."""
    wanted = f"SEV-{report.signing_key.name}"
    for certificate in given:
        if certificate.name.endswith(wanted):
            return certificate, []
    if report.signing_key is SigningKey.VLEK:
        raise CollateralMissing(about="VLEK", expected="the cloud's certificate beside the report")
    product = report.product
    if product is None:  # version 2 does not name its processor, so nobody can ask for its key
        raise CollateralMissing(about="VCEK", expected="the certificate beside the report")
    name = vcek_name(report, product)
    document = _current(collateral.document("amd-vcek", name), now=now)
    return _read(document, count=1)[0], [document.good_until]


def _chain(
    leaf: DerCertificate,
    given: tuple[DerCertificate, ...],
    collateral: CollateralStore,
    *,
    now: Instant,
) -> tuple[tuple[DerCertificate, DerCertificate], list[Instant]]:
    """E-3: ASK or ASVK, and ARK: those beside the report, or else the store's."""
    by_subject = {certificate.subject: certificate for certificate in given}
    intermediate = by_subject.get(leaf.issuer)
    ark = None if intermediate is None else by_subject.get(intermediate.issuer)
    if intermediate is not None and ark is not None:
        return (intermediate, ark), []
    endorser: Endorser = "vlek" if "VLEK" in leaf.issuer_name else "vcek"
    product = leaf.issuer_name.rpartition("-")[2]
    document = _current(collateral.document("amd-chain", chain_name(endorser, product)), now=now)
    found = _read(document, count=2)
    return (found[0], found[1]), [document.good_until]


def _read(document: Document, *, count: int) -> tuple[DerCertificate, ...]:
    found = read_certificates(document.data, count_max=_CHAIN_MAX)
    if len(found) != count:
        raise BadEvidence(
            about=f"{document.kind} {document.name}",
            got=len(found),
            expected=f"{count} certificates",
        )
    return found


def check_roles(
    leaf: DerCertificate,
    intermediate: DerCertificate,
    ark: DerCertificate,
    anchor: Anchor,
    *,
    now: Instant,
) -> None:
    """E-4: names say what each certificate is for, each signed the one below, and all are valid now.

    Raises CertificateRejected.
    """
    product, prefix = anchor.product, anchor.prefix
    roles = {
        f"{prefix}SEV-VCEK": f"{prefix}SEV-{product}",
        f"{prefix}SEV-VLEK": f"{prefix}SEV-VLEK-{product}",
    }
    for about, got, expected in (
        ("leaf", leaf.name in roles, True),
        ("intermediate", intermediate.name, roles.get(leaf.name)),
        ("root", ark.name, f"{prefix}ARK-{product}"),
        ("leaf is an authority", leaf.is_authority, False),
        ("intermediate is an authority", intermediate.is_authority, True),
    ):
        if got != expected:
            raise CertificateRejected(about=f"AMD {about}", got=got, expected=expected)
    for certificate in (leaf, intermediate, ark):
        check_valid_at(certificate, now=now)
    check_issued(leaf, intermediate)
    check_issued(intermediate, ark)


def check_endorsement(report: Report, endorsement: Endorsement, anchor: Anchor) -> None:
    """E-6: the certificate is for this key, this product, this chip and the reported patch level.

    Raises CertificateRejected.
    """
    product = anchor.product
    if (said := report.product) is not None and said != product:
        raise CertificateRejected(about="product of the chain", got=product, expected=said)
    chip = report.chip_id
    if product == "Turin" and any(chip[8:]):
        raise BadEvidence(about="chip id", got=chip, expected="zeros after 8 bytes")
    for about, got, expected in (
        ("signing key", endorsement.kind.name, report.signing_key.name),
        ("product", endorsement.product, product),
        ("patch level", endorsement.tcb, parse_tcb(report.reported_tcb, product)),
    ):
        if got != expected:
            raise CertificateRejected(about=f"certificate's {about}", got=got, expected=expected)
    if endorsement.kind is SigningKey.VCEK and endorsement.hardware_id != hardware_id(
        chip, product
    ):
        raise CertificateRejected(
            about="certificate's hardware id",
            got=endorsement.hardware_id,
            expected=hardware_id(chip, product),
        )


def check_revocation(
    intermediate: DerCertificate,
    ark: DerCertificate,
    anchor: Anchor,
    collateral: CollateralStore,
    *,
    now: Instant,
) -> Instant | None:
    """E-8: the ARK's current list does not name the intermediate; until when it counts.

    None where the store has no list: then nothing is known. Raises CertificateRevoked,
    CollateralRejected, CollateralNotCurrent.
    """
    endorser: Endorser = "vlek" if "VLEK" in intermediate.name else "vcek"
    try:
        document = collateral.document("amd-crl", chain_name(endorser, anchor.product))
    except CollateralMissing:
        return None
    crl = check_crl(
        _current(document, now=now).data, ark.spki, issuer=ark.subject, about=document.name
    )
    if now >= crl.ends:
        raise CollateralNotCurrent(about=document.name, got=crl.ends, expected=f"after {now}")
    if intermediate.serial in crl.revoked:
        raise CertificateRevoked(about=intermediate.name, got=f"serial {intermediate.serial:x}")
    return min(crl.ends, document.good_until)


# Judging ------------------------------------------------------------------------------------------


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
    """E-10: current, where the reported and the committed level reach the floor in every component.

    The committed level is the one that the machine cannot be rolled back below. Raises
    PlatformNotAllowed for a product without floor.
    """
    floor = expected.floor(product)
    if floor is None:
        raise PlatformNotAllowed(about=product, expected=f"a floor snp.{product.lower()}")
    least = Tcb(floor.bootloader, floor.tee, floor.snp, floor.microcode, floor.fmc)
    levels = (parse_tcb(raw, product) for raw in (report.reported_tcb, report.committed_tcb))
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
    check_signing_key(seen, expected)  # E-11
    status = judge_tcb(seen.report, seen.product, expected)  # E-10
    waiver = check_tcb(status, (), manifest.waivers, now=now)  # V-11
    check_reference(seen.report, expected)  # E-9
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
