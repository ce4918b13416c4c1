"""From bytes to a report that a genuine machine made: steps E-1 to E-8 of docs/spec/snp.md.

Refuses to know what the report should say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from leasehold.attest.amd.endorsement import Endorsement, parse_endorsement, read_all
from leasehold.attest.amd.kds import (
    TURIN_CHIP_ID_BYTES,
    Endorser,
    chain_name,
    hardware_id,
    vcek_name,
)
from leasehold.attest.amd.report import (
    PRODUCTS,
    SIGNED_BYTES,
    Report,
    SigningKey,
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
from leasehold.attest.reference import Simulated
from leasehold.attest.signatures import Scheme, is_signed
from leasehold.attest.verdict import Trust
from leasehold.attest.x509 import check_crl
from leasehold.core.units import Instant
from leasehold.errors import (
    BadEvidence,
    CertificateRejected,
    CertificateRevoked,
    CollateralMissing,
    CollateralNotCurrent,
    CollateralRejected,
    QuoteForged,
)

_CHAIN_MAX: Final = 3
_CRITICAL: Final = frozenset((bytes.fromhex("551d13"), bytes.fromhex("551d0f")))  # RFC 5280, 4.2.1


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
    (intermediate, ark), kept = _chain(leaf, given, collateral, now=now)
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
    if product not in PRODUCTS:  # nobody's word becomes a name in the store
        raise CertificateRejected(
            about=f"issuer of {leaf.name}", got=leaf.issuer_name, expected=", ".join(PRODUCTS)
        )
    document = _current(collateral.document("amd-chain", chain_name(endorser, product)), now=now)
    found = _read(document, count=2)
    return (found[0], found[1]), [document.good_until]


def _read(document: Document, *, count: int) -> tuple[DerCertificate, ...]:
    """The certificates of a document that is the verifier's own. Raises CollateralRejected."""
    about = f"{document.kind} {document.name}"
    try:
        found = read_certificates(document.data, count_max=_CHAIN_MAX)
    except BadEvidence as cause:
        raise CollateralRejected(about=about, got=cause.message, expected="certificates") from cause
    if len(found) != count:
        raise CollateralRejected(about=about, got=len(found), expected=f"{count} certificates")
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

    The root is checked like the others: its pin covers its key and nothing else that it says.

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
    for certificate, issuer in ((leaf, intermediate), (intermediate, ark), (ark, ark)):
        check_valid_at(certificate, now=now)
        if not certificate.critical <= _CRITICAL or certificate.scheme is not Scheme.PSS_SHA384:
            raise CertificateRejected(
                about=certificate.name,
                got=f"{certificate.scheme.name}, {len(certificate.critical)} critical extensions",
                expected="PSS_SHA384, nothing critical but basic constraints and key usage",
            )
        check_issued(certificate, issuer)


def check_endorsement(report: Report, endorsement: Endorsement, anchor: Anchor) -> None:
    """E-6: the certificate is for this key, this product, this chip and the reported patch level.

    Raises CertificateRejected.
    """
    product = anchor.product
    if (said := report.product) is not None and said != product:
        raise CertificateRejected(about="product of the chain", got=product, expected=said)
    chip = report.chip_id
    if product == "Turin" and any(chip[TURIN_CHIP_ID_BYTES:]):
        raise BadEvidence(about="chip id", got=chip, expected="zeros after 8 bytes")
    for about, got, expected in (
        ("signing key", endorsement.kind.name, report.signing_key.name),
        ("product", endorsement.product, product),
        ("patch level", endorsement.tcb, parse_tcb(report.reported_tcb, product)),
    ):
        if got != expected:
            raise CertificateRejected(about=f"certificate's {about}", got=got, expected=expected)
    if endorsement.kind is SigningKey.VCEK:
        wanted = hardware_id(chip, product)
        if endorsement.hardware_id != wanted or not any(wanted):  # zeros name every masked chip
            raise CertificateRejected(
                about="certificate's hardware id", got=endorsement.hardware_id, expected=wanted
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
    if not crl.starts <= now < crl.ends:
        raise CollateralNotCurrent(
            about=f"amd-crl {document.name}", got=now, expected=f"{crl.starts} to {crl.ends}"
        )
    if intermediate.serial in crl.revoked:
        raise CertificateRevoked(about=intermediate.name, got=f"serial {intermediate.serial:x}")
    return min(crl.ends, document.good_until)
