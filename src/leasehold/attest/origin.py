"""Whether a vendor said what is to be kept: K-4 of docs/spec/collateral.md.

Nothing raises a high-water mark before it has passed here: on the wire anybody can write a high number.
Everything is judged again each time it is used. Refuses to know where it came from and where it is kept.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import msgspec

from leasehold.attest.amd.endorsement import parse_endorsement
from leasehold.attest.amd.kds import chain_name, key_name
from leasehold.attest.amd.roots import Anchor, decide_anchor
from leasehold.attest.certificate import (
    DerCertificate,
    check_issued,
    check_valid_at,
    read_certificate,
    read_certificates,
)
from leasehold.attest.collateral import Document
from leasehold.attest.documents import read_document
from leasehold.attest.intel.authority import check_set
from leasehold.attest.intel.pcs import Facts
from leasehold.attest.nvidia.ocsp import check_ocsp, ocsp_name
from leasehold.attest.nvidia.rim import check_signers, read_rim
from leasehold.attest.reference import Simulated
from leasehold.attest.verdict import Trust
from leasehold.attest.x509 import check_crl, read_ocsp
from leasehold.core.units import Instant
from leasehold.errors import (
    BadEvidence,
    CertificateRejected,
    CertificateRevoked,
    CollateralMismatch,
    CollateralMissing,
    CollateralNotCurrent,
    CollateralRejected,
    LeaseholdError,
)

NUMBER_END: Final = 1 << 62  # numbers are kept as 63-bit integers
Pair = tuple[bytes, bytes]


class Origin(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was found true of an item. Only `set_origin` and `document_origin` make one.

    `root` is the SHA-256 (hex) of the key that all of it hangs on. `numbers` are what the vendor counts
    upwards; `issued` is when he said it and `ends` when it ends by its own word, in ms since the epoch.
    """

    root: str
    simulated: bool
    numbers: dict[str, int]
    issued: Instant
    ends: Instant


def set_origin(facts: Facts, *, simulated: Simulated | None, now: Instant) -> Origin:
    """K-4: the origin of one of Intel's sets.

    Raises as `check_set` does, but CollateralRejected where a certificate of its chains does not fit.
    """
    try:
        anchor = check_set(facts, simulated=simulated, now=now)
    except (BadEvidence, CertificateRejected) as cause:
        raise _rejected(cause) from cause
    numbers = {
        "evaluation": facts.evaluation,
        "qe_evaluation": facts.qe_evaluation,
        "tcb_issued": facts.tcb_issued,
        "qe_issued": facts.qe_issued,
        "root_crl": facts.root_crl.number,
        "pck_crl": facts.pck_crl.number,
    }
    issued = min(facts.tcb_issued, facts.qe_issued)
    is_simulated = anchor.trust is Trust.SIMULATION
    return _checked(Origin(anchor.spki_sha256, is_simulated, numbers, issued, facts.ends))


def document_origin(
    document: Document,
    *,
    chain: Document | None = None,
    pair: Pair | None = None,
    simulated: Simulated | None,
    now: Instant,
) -> Origin:
    """K-4: the origin of a document.

    `chain` is the `amd-chain` that a revocation list or a VCEK hangs on; `pair` are the certificate that
    an OCSP response is about, and its issuer's (DER). Raises CollateralMissing where one is needed and
    was not given, CollateralNotCurrent, CollateralRejected, CollateralMismatch, UntrustedRoot,
    WrongSignerRole, MissingExtra.
    """
    order, ends = read_document(document.kind, document.data)
    try:
        match document.kind:
            case "amd-chain":
                found = _amd_chain(document, simulated=simulated, now=now)
                root, trust, issued = found[1].spki_sha256, found[2].trust, found[0].starts
            case "amd-crl":
                root, trust, issued = _amd_crl(document, chain, simulated=simulated, now=now)
            case "amd-vcek":
                root, trust, issued = _amd_vcek(document, chain, simulated=simulated, now=now)
            case "nvidia-rim":
                root, trust, issued = _rim(document, simulated=simulated, now=now)
            case "nvidia-ocsp":
                root, trust, issued = _ocsp(document, pair, now=now)
    except (BadEvidence, CertificateRejected) as cause:
        raise _rejected(cause) from cause
    if now >= ends:
        raise CollateralNotCurrent(about=f"{document.kind} {document.name}", got=ends, expected=now)
    numbers = {"order": order, "issued": issued}
    return _checked(Origin(root, trust is Trust.SIMULATION, numbers, issued, ends))


def _rejected(cause: LeaseholdError) -> CollateralRejected:
    return CollateralRejected(about=cause.about, got=cause.got, expected=cause.expected)


def _checked(origin: Origin) -> Origin:
    """A number that no vendor will ever pass would refuse everything that comes after."""
    for name, value in origin.numbers.items():
        if not 0 <= value < NUMBER_END:
            raise CollateralRejected(about=name, got=value, expected=f"0 to {NUMBER_END - 1}")
    return origin


# AMD ---------------------------------------------------------------------------------------------


def _amd_chain(
    document: Document, *, simulated: Simulated | None, now: Instant
) -> tuple[DerCertificate, DerCertificate, Anchor]:
    """ASK or ASVK, and ARK: of the product and the kind that the name says."""
    found = read_certificates(document.data, count_max=2)
    if len(found) != 2:
        raise CollateralRejected(about=document.name, got=len(found), expected="2 certificates")
    middle, ark = found
    anchor = decide_anchor(ark, simulated)
    endorser, _, product = document.name.partition("-")
    kind = "VLEK-" if endorser == "vlek" else ""
    for about, got, expected in (
        ("product", anchor.product, product),
        ("intermediate", middle.name, f"{anchor.prefix}SEV-{kind}{product}"),
        ("root", ark.name, f"{anchor.prefix}ARK-{product}"),
        ("intermediate is an authority", middle.is_authority, True),
    ):
        if got != expected:
            raise CollateralMismatch(about=f"{document.name}: {about}", got=got, expected=expected)
    for one in (middle, ark):
        check_issued(one, ark)
        check_valid_at(one, now=now)
    return middle, ark, anchor


def _above(
    chain: Document | None, *, simulated: Simulated | None, now: Instant
) -> tuple[DerCertificate, DerCertificate, Anchor]:
    if chain is None:
        raise CollateralMissing(about="amd-chain", expected="the chain, before what hangs on it")
    return _amd_chain(chain, simulated=simulated, now=now)


def _amd_crl(
    document: Document, chain: Document | None, *, simulated: Simulated | None, now: Instant
) -> tuple[str, Trust, Instant]:
    _, ark, anchor = _above(chain, simulated=simulated, now=now)
    crl = check_crl(document.data, ark.spki, issuer=ark.subject, about=document.name)
    if now < crl.starts:
        raise CollateralNotCurrent(about=document.name, got=crl.starts, expected=f"at most {now}")
    return ark.spki_sha256, anchor.trust, crl.starts


def _amd_vcek(
    document: Document, chain: Document | None, *, simulated: Simulated | None, now: Instant
) -> tuple[str, Trust, Instant]:
    middle, ark, anchor = _above(chain, simulated=simulated, now=now)
    leaf = read_certificate(document.data)
    check_issued(leaf, middle)
    check_valid_at(leaf, now=now)
    said = parse_endorsement(leaf)
    name = key_name(said.product, said.hardware_id or b"", said.tcb)
    if name != document.name or chain_name("vcek", anchor.product) != f"vcek-{said.product}":
        raise CollateralMismatch(about="VCEK", got=name, expected=document.name)
    return ark.spki_sha256, anchor.trust, leaf.starts


def chain_for(document: Document) -> str | None:
    """The name of the `amd-chain` that a document hangs on; None where it hangs on none."""
    match document.kind:
        case "amd-crl":
            return document.name
        case "amd-vcek":
            return f"vcek-{document.name.partition('-')[0]}"
        case _:
            return None


# NVIDIA ------------------------------------------------------------------------------------------


def _rim(
    document: Document, *, simulated: Simulated | None, now: Instant
) -> tuple[str, Trust, Instant]:
    """The name ends with the version: a genuine manifest of another version must raise no mark here."""
    rim = read_rim(document.data)
    version = rim.version.replace(".", "").upper()
    if document.name.rpartition("_")[2].replace(".", "").upper() != version:
        raise CollateralMismatch(about="RIM", got=rim.version, expected=document.name)
    signers = check_signers(rim, simulated=simulated, accept_expired=True, now=now)
    return rim.certificates[-1].spki_sha256, signers.trust, rim.certificates[0].starts


def _ocsp(document: Document, pair: Pair | None, *, now: Instant) -> tuple[str, Trust, Instant]:
    """Good or revoked, it is kept; `unknown` says nothing, and is not."""
    if pair is None:
        raise CollateralMissing(
            about=f"nvidia-ocsp {document.name}", expected="the certificate and its issuer's"
        )
    certificate, issuer = (read_certificate(der) for der in pair)
    if ocsp_name(certificate) != document.name:
        raise CollateralMismatch(about="OCSP", got=certificate.sha256, expected=document.name)
    check_issued(certificate, issuer)
    with suppress(CertificateRevoked):  # authentic, and bad news
        check_ocsp(document.data, certificate, issuer, now=now)
    trust = Trust.SIMULATION if "SIMULATED" in issuer.name else Trust.PRODUCTION
    return issuer.spki_sha256, trust, read_ocsp(document.data).starts
