"""From a parsed quote to one that a genuine machine made: steps V-3 to V-10, the same for SGX and TDX.

Refuses to know what the report inside should say.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from leasehold.attest.collateral import CollateralStore
from leasehold.attest.intel import dcap
from leasehold.attest.intel.pck import Pck, parse_pck
from leasehold.attest.intel.pcs import Tee
from leasehold.attest.intel.quote import Quote
from leasehold.attest.intel.report import Report, TdReport
from leasehold.attest.intel.roots import decide_anchor
from leasehold.attest.reference import Simulated
from leasehold.attest.verdict import TcbStatus, Trust
from leasehold.attest.x509 import read_chain
from leasehold.core.units import Instant
from leasehold.errors import BadEvidence, EvidenceRejected

R = TypeVar("R", Report, TdReport)


@dataclass(frozen=True, slots=True)
class Authentic(Generic[R]):
    """A quote that a genuine machine made (or a simulated one: see `trust`), not yet judged."""

    quote: Quote[R]
    pck: Pck
    trust: Trust
    status: TcbStatus
    advisories: tuple[str, ...]
    ends: Instant


def authenticate(
    quote: Quote[R],
    tee: Tee,
    collateral: CollateralStore,
    *,
    claimed_report: Callable[[bytes], bytes],
    simulated: Simulated | None,
    now: Instant,
) -> Authentic[R]:
    """V-3 to V-10: a machine under a trusted root made this quote.

    `claimed_report` puts the report's bytes together again from dcap-qvl's claims about it.
    """
    chain = read_chain(
        quote.chain_pem, count=dcap.CHAIN_LENGTH, about="PCK certificate chain", error=BadEvidence
    )  # V-3
    pck = parse_pck(chain[0].sgx_extension)  # V-4
    anchor = decide_anchor(chain[-1], simulated)  # V-5
    authority = dcap.check_pck_chain(chain, anchor, now=now)  # V-6
    facts = collateral.find(fmspc=pck.fmspc.hex(), ca=authority, tee=tee)  # V-7
    dcap.check_collateral(facts, anchor, authority=chain[1], pck=pck, tee=tee, now=now)  # V-8
    claims = dcap.authenticate(quote.data, facts, anchor, chain=chain, now=now)  # V-9
    dcap.check_agreement(claims, pck)  # V-10
    theirs = claimed_report(bytes(claims.report))
    if theirs != quote.report_bytes:
        raise EvidenceRejected(
            about="two readings of the report", got=theirs, expected=quote.report_bytes
        )
    ends = min(facts.ends, claims.ends, *(certificate.ends for certificate in chain))
    return Authentic(
        quote, pck, anchor.trust, claims.tcb.status, claims.tcb.advisory_ids, Instant(ends)
    )
