"""What a store has to know of a vendor's document before it keeps it: K-5 of docs/spec/collateral.md.

Reads without believing: whether a document is authentic is judged each time it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from leasehold.attest.certificate import read_certificates
from leasehold.attest.collateral import Kind
from leasehold.attest.nvidia.ocsp import ocsp_facts
from leasehold.attest.nvidia.rim import rim_facts
from leasehold.attest.x509 import read_crl
from leasehold.core.units import Instant
from leasehold.errors import BadEvidence, CollateralRejected


class DocumentFacts(NamedTuple):
    """`order` grows when the vendor says something newer; `ends` is when the document itself does."""

    order: int
    ends: Instant


def _chain(data: bytes) -> DocumentFacts:
    """Certificates for ever-same keys: nothing in them grows but the day that the last was made."""
    try:
        found = read_certificates(data, count_max=3)
    except BadEvidence as cause:
        raise CollateralRejected(about=cause.about, got=cause.got) from cause
    return DocumentFacts(max(one.starts for one in found), Instant(min(one.ends for one in found)))


def _crl(data: bytes) -> DocumentFacts:
    crl = read_crl(data, about="revocation list", error=CollateralRejected)
    return DocumentFacts(crl.number, crl.ends)


def _rim(data: bytes) -> DocumentFacts:
    """A manifest outlives its signer (ADR 17): what ends it is for its verifier to say."""
    return DocumentFacts(rim_facts(data).order, Instant((1 << 53) - 1))


def _ocsp(data: bytes) -> DocumentFacts:
    facts = ocsp_facts(data)
    return DocumentFacts(facts.produced, facts.ends)


_READERS: Final[Mapping[Kind, Callable[[bytes], DocumentFacts]]] = MappingProxyType(
    {
        "amd-chain": _chain,
        "amd-crl": _crl,
        "amd-vcek": _chain,
        "nvidia-rim": _rim,
        "nvidia-ocsp": _ocsp,
    }
)


def read_document(kind: Kind, data: bytes) -> DocumentFacts:
    """K-5: the facts of a document. Raises CollateralRejected, and MissingExtra for RIMs without lxml."""
    return _READERS[kind](data)
