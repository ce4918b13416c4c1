"""Authenticity of Intel quotes: dcap-qvl's verification, and the checks that it leaves out.

dcap-qvl verifies signatures, chains, revocation, validity and the patch level. It looks neither at who
may sign collateral nor at the PCE id: the checks here do, before it runs. Its word on the patch level
is reported, not obeyed.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Any, Final

import dcap_qvl
import msgspec

from leasehold.attest.intel.pck import Pck
from leasehold.attest.intel.pcs import Ca, Facts, Tee
from leasehold.attest.intel.roots import Anchor
from leasehold.attest.verdict import TcbStatus
from leasehold.attest.x509 import Certificate, is_revoked
from leasehold.core.units import SECOND, Instant
from leasehold.errors import (
    BadEvidence,
    CertificateRejected,
    CertificateRevoked,
    CollateralMismatch,
    CollateralNotCurrent,
    CollateralRejected,
    DebugEnclave,
    EvidenceRejected,
    LeaseholdError,
    QuoteForged,
    TcbNotCurrent,
    TcbRevoked,
    UnsupportedEvidence,
    UntrustedRoot,
    WrongAttributes,
    WrongSignerRole,
)

CHAIN_LENGTH: Final = 3  # PCK leaf, its authority, the root
_KEPT: Final = 64  # processor families come back with every attestation
_CHAIN_FAILED: Final = "Failed to verify certificate chain"

# dcap-qvl 0.7 raises ValueError with a text and no code. The first part that occurs decides; a text
# that is not listed here is EvidenceRejected all the same.
_REASONS: Final[tuple[tuple[str, type[LeaseholdError]], ...]] = (
    ("Debug mode is enabled", DebugEnclave),
    ("SEPT_VE_DISABLE is not enabled", WrongAttributes),
    ("TD migration is enabled", WrongAttributes),
    ("TD profiling is enabled", WrongAttributes),
    ("SERVTD_EXT is enabled", WrongAttributes),
    ("Reserved bits in TD", WrongAttributes),
    ("Invalid MR service TD", WrongAttributes),
    ("TCB status is invalid: Revoked", TcbRevoked),
    ("No matching TCB level", TcbNotCurrent),
    ("TCBInfo expired", CollateralNotCurrent),
    ("QE Identity expired", CollateralNotCurrent),
    ("issue date is in the future", CollateralNotCurrent),
    ("Signature is invalid for tcb_info", CollateralRejected),
    ("Signature is invalid for qe_identity", CollateralRejected),
    ("Failed to decode TcbInfo", CollateralRejected),
    ("Failed to decode QeIdentity", CollateralRejected),
    ("Failed to parse root CA CRL", CollateralRejected),
    ("Failed to parse PCK CRL", CollateralRejected),
    ("Unsupported QE Identity", CollateralMismatch),
    ("TCB info in the collateral", CollateralMismatch),
    ("Fmspc mismatch", CollateralMismatch),
    ("ISV enclave report signature is invalid", QuoteForged),
    ("Signature is invalid for qe_report", QuoteForged),
    ("QE report hash mismatch", QuoteForged),
    ("Failed to decode quote", BadEvidence),
    ("Unsupported", UnsupportedEvidence),
)


# What is read of dcap-qvl's claims --------------------------------------------------------------


_Octets = Annotated[tuple[int, ...], msgspec.Meta(max_length=64)]


class _Tcb(msgspec.Struct, frozen=True):
    status: TcbStatus
    advisory_ids: tuple[str, ...]


class _ClaimedPck(msgspec.Struct, frozen=True):
    ppid: _Octets
    cpu_svn: _Octets
    pce_svn: int
    pce_id: _Octets
    fmspc: _Octets
    platform_instance_id: _Octets | None


class _Platform(msgspec.Struct, frozen=True):
    pck: _ClaimedPck


class Claims(msgspec.Struct, frozen=True):
    """What dcap-qvl says of a quote that it verified. Dates are seconds since the Unix epoch."""

    tcb: _Tcb
    platform: _Platform
    earliest_expiration_date: int
    qe_iden_earliest_expiration_date: int
    report: msgspec.Raw

    @property
    def ends(self) -> Instant:
        """The earliest end of anything that it used."""
        first = min(self.earliest_expiration_date, self.qe_iden_earliest_expiration_date)
        return Instant(first * SECOND)


# Checks before ----------------------------------------------------------------------------------


def check_pck_chain(chain: tuple[Certificate, ...], anchor: Anchor, *, now: Instant) -> Ca:
    """V-6: the machine's chain has the vendor's roles and is valid now; which authority issued it.

    Raises CertificateRejected.
    """
    leaf, authority, root = chain
    roles = anchor.roles
    authorities: dict[str, Ca] = {roles.processor_ca: "processor", roles.platform_ca: "platform"}
    for about, got, expected in (
        ("PCK certificate", leaf.name, roles.pck),
        ("PCK certificate's issuer", leaf.issuer, authority.name),
        ("PCK authority's issuer", authority.issuer, roles.root),
        ("root", root.name, roles.root),
        ("PCK certificate is an authority", leaf.is_authority, False),
    ):
        if got != expected:
            raise CertificateRejected(about=about, got=got, expected=expected)
    for certificate in chain:
        if not certificate.starts <= now < certificate.ends:
            raise CertificateRejected(
                about=f"validity of {certificate.name}",
                got=now,
                expected=f"{certificate.starts} to {certificate.ends}",
            )
    if authority.name not in authorities:
        raise CertificateRejected(
            about="PCK authority", got=authority.name, expected=" or ".join(authorities)
        )
    return authorities[authority.name]


def check_collateral(
    facts: Facts,
    anchor: Anchor,
    *,
    authority: Certificate,
    pck: Pck,
    tee: Tee,
    now: Instant,
) -> None:
    """V-8: collateral is current, for this platform, and signed by keys that may sign it.

    Without the role check, anyone who extracts one PCK key could sign TCB info for himself.
    Raises CollateralNotCurrent, CollateralMismatch, WrongSignerRole, UntrustedRoot.
    """
    if now >= facts.ends:
        raise CollateralNotCurrent(about="earliest end", got=facts.ends, expected=f"after {now}")
    for about, got, expected in (
        ("platform", f"{facts.tee} {facts.qe}", "sgx QE" if tee == "sgx" else "tdx TD_QE"),
        ("FMSPC", facts.fmspc, pck.fmspc.hex()),
        ("PCE id", facts.pce_id, pck.pce_id.hex()),
        ("PCK authority", facts.crl_chain[0].spki_sha256, authority.spki_sha256),
        ("PCK CRL issuer", facts.pck_crl.issuer, authority.name),
        ("root CRL issuer", facts.root_crl.issuer, anchor.roles.root),
    ):
        if got != expected:
            raise CollateralMismatch(about=about, got=got, expected=expected)
    for about, chain in (("TCB info", facts.tcb_chain), ("QE identity", facts.qe_chain)):
        signer = chain[0]
        if signer.name != anchor.roles.tcb_signing or signer.sgx_extension is not None:
            raise WrongSignerRole(about=about, got=signer.name, expected=anchor.roles.tcb_signing)
        if signer.is_authority or signer.issuer != anchor.roles.root:
            raise WrongSignerRole(about=about, got="an authority or another's", expected="a leaf")
    for about, chain in (
        ("TCB info", facts.tcb_chain),
        ("QE identity", facts.qe_chain),
        ("PCK CRL", facts.crl_chain),
    ):
        if chain[-1].spki_sha256 != anchor.spki_sha256:
            raise UntrustedRoot(about=about, got=chain[-1].spki_sha256, expected=anchor.spki_sha256)


# The verification -------------------------------------------------------------------------------


def authenticate(
    quote: bytes,
    facts: Facts,
    anchor: Anchor,
    *,
    chain: tuple[Certificate, ...],
    now: Instant,
) -> Claims:
    """V-9: dcap-qvl's verification under this root at `now`.

    Its policy asks for claims only, so any patch level but Revoked passes here and V-11 decides: its
    stricter policies refuse without saying which advisories are open, and know no waivers. Raises
    EvidenceRejected and whatever else `_REASONS` names.
    """
    seconds = now // SECOND
    policy = dcap_qvl.QuotePolicy.claims_only(seconds)
    try:
        held = _collateral(facts.json)
        verifier = dcap_qvl.QuoteVerifier(anchor.der)
        claims = verifier.verify_with_policy(quote, held, seconds, policy).to_json()
    except ValueError as cause:
        raise _refusal(str(cause), facts, chain) from cause
    try:
        return msgspec.json.decode(claims, type=Claims)
    except msgspec.DecodeError as cause:
        raise EvidenceRejected(about="claims of dcap-qvl", got=str(cause)) from cause


@lru_cache(maxsize=_KEPT)
def _collateral(json: str) -> Any:
    """dcap-qvl's form of a set, which depends on this text alone. Raises ValueError."""
    return dcap_qvl.QuoteCollateralV3.from_json(json)


def _refusal(text: str, facts: Facts, chain: tuple[Certificate, ...]) -> LeaseholdError:
    """Our error for dcap-qvl's text."""
    if _CHAIN_FAILED in text:
        return _chain_refusal(text, facts, chain)
    for part, error in _REASONS:
        if part in text:
            return error(got=text)
    return EvidenceRejected(got=text)


def _chain_refusal(text: str, facts: Facts, chain: tuple[Certificate, ...]) -> LeaseholdError:
    """Why a chain failed, which dcap-qvl does not say: only the name of a refusal that stands."""
    root_crl = bytes.fromhex(facts.collateral.root_ca_crl)
    pck_crl = bytes.fromhex(facts.collateral.pck_crl)
    for certificate, crl in (
        (chain[0], pck_crl),
        (chain[1], root_crl),
        (facts.tcb_chain[0], root_crl),
        (facts.qe_chain[0], root_crl),
    ):
        if is_revoked(crl, certificate.serial):
            return CertificateRevoked(about=certificate.name, got=f"serial {certificate.serial:x}")
    return CertificateRejected(got=text)


def check_agreement(claims: Claims, pck: Pck) -> None:
    """V-10: dcap-qvl read the same machine out of the quote as `parse_pck` did.

    Two parsers that disagree mean an attack on one of them. Raises EvidenceRejected.
    """
    got = claims.platform.pck
    instance = got.platform_instance_id
    for about, theirs, ours in (
        ("PPID", bytes(got.ppid), pck.ppid),
        ("CPUSVN", bytes(got.cpu_svn), pck.cpu_svn),
        ("PCESVN", got.pce_svn, pck.pce_svn),
        ("PCE id", bytes(got.pce_id), pck.pce_id),
        ("FMSPC", bytes(got.fmspc), pck.fmspc),
        ("instance id", None if instance is None else bytes(instance), pck.platform_instance_id),
    ):
        if theirs != ours:
            raise EvidenceRejected(about=f"two readings of {about}", got=theirs, expected=ours)
