"""Whether Intel said a set of collateral: every signature in it, up to the root, with no quote at hand.

The custodian asks this before a set raises a mark; a quote is judged by dcap-qvl, which checks the same
signatures again. Sources: Intel PCS API v4; Intel SGX PCK Certificate and CRL Profile Specification.
"""

from __future__ import annotations

from leasehold.attest.certificate import (
    DerCertificate,
    check_issued,
    check_valid_at,
    read_certificate,
)
from leasehold.attest.intel.pcs import Facts
from leasehold.attest.intel.roots import Anchor, decide_anchor
from leasehold.attest.reference import Simulated
from leasehold.attest.signatures import Scheme, ecdsa_der, is_signed
from leasehold.attest.x509 import Certificate, check_crl
from leasehold.core.units import Instant
from leasehold.errors import (
    CollateralMismatch,
    CollateralNotCurrent,
    CollateralRejected,
    UntrustedRoot,
    WrongSignerRole,
)


def check_set(facts: Facts, *, simulated: Simulated | None, now: Instant) -> Anchor:
    """K-4: Intel (or the simulated vendor of this root) signed all of a set, and it is current.

    Whom its lists revoke is not asked: that is news which must come in, and what refuses quotes then.
    Raises UntrustedRoot, WrongSignerRole, CertificateRejected, CollateralMismatch, CollateralNotCurrent,
    CollateralRejected, BadEvidence (a certificate that cannot be read).
    """
    anchor = decide_anchor(facts.tcb_chain[-1], simulated)
    if now >= facts.ends:
        raise CollateralNotCurrent(about="earliest end", got=facts.ends, expected=f"after {now}")
    root = read_certificate(anchor.der)
    signers = [
        _leaf(about, chain, root, anchor, names, now=now)
        for about, chain, names in (
            ("TCB info", facts.tcb_chain, (anchor.roles.tcb_signing,)),
            ("QE identity", facts.qe_chain, (anchor.roles.tcb_signing,)),
            ("PCK CRL", facts.crl_chain, (anchor.roles.processor_ca, anchor.roles.platform_ca)),
        )
    ]
    said = facts.collateral
    _check_text("TCB info", said.tcb_info, said.tcb_info_signature, signers[0])
    _check_text("QE identity", said.qe_identity, said.qe_identity_signature, signers[1])
    _check_lists(facts, root, signers[2], now=now)
    if {facts.tee, facts.qe} not in ({"sgx", "QE"}, {"tdx", "TD_QE"}):
        raise CollateralMismatch(about="QE identity", got=facts.qe, expected=f"one for {facts.tee}")
    return anchor


def _leaf(
    about: str,
    chain: tuple[Certificate, ...],
    root: DerCertificate,
    anchor: Anchor,
    names: tuple[str, ...],
    *,
    now: Instant,
) -> DerCertificate:
    """The first certificate of an issuer chain: of this role, issued by the root, valid now."""
    if chain[-1].spki_sha256 != anchor.spki_sha256:
        raise UntrustedRoot(about=about, got=chain[-1].spki_sha256, expected=anchor.spki_sha256)
    leaf = read_certificate(chain[0].der)
    is_list = about == "PCK CRL"
    if leaf.name not in names or leaf.is_authority != is_list or chain[0].sgx_extension is not None:
        raise WrongSignerRole(about=about, got=leaf.name, expected=" or ".join(names))
    check_issued(leaf, root)
    check_valid_at(leaf, now=now)
    check_valid_at(root, now=now)
    return leaf


def _check_text(about: str, text: str, signature: str, signer: DerCertificate) -> None:
    """The signature (r ‖ s) is over the exact text."""
    raw = bytes.fromhex(signature)
    half = len(raw) // 2
    pair = ecdsa_der(int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big"))
    if not is_signed(signer.spki, Scheme.ECDSA_SHA256, text.encode(), pair):
        raise CollateralRejected(about=about, got="a bad signature", expected=signer.name)


def _check_lists(
    facts: Facts, root: DerCertificate, authority: DerCertificate, *, now: Instant
) -> None:
    """Both lists are by whom they should be, and have begun."""
    said = facts.collateral
    pck = check_crl(
        bytes.fromhex(said.pck_crl), authority.spki, issuer=authority.subject, about="PCK CRL"
    )
    top = check_crl(
        bytes.fromhex(said.root_ca_crl), root.spki, issuer=root.subject, about="root CRL"
    )
    for about, crl in (("PCK CRL", pck), ("root CRL", top)):
        if now < crl.starts:
            raise CollateralNotCurrent(about=about, got=crl.starts, expected=f"at most {now}")
