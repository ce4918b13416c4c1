"""Whether evidence in a certificate is genuine and speaks of the certificate's key.

Steps Q-7 and Q-8 of docs/spec/ratls.md. It never speaks of this connection: whoever holds the key can
show the same certificate for as long as it lasts, so nothing here releases a model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final, NamedTuple

from leasehold.attest.certificate import DerCertificate, check_valid_at
from leasehold.attest.collateral import CollateralStore
from leasehold.attest.der import Tag, bits, children, content, parse_der
from leasehold.attest.intel.quote import parse_quote
from leasehold.attest.intel.reference import SGX_DEBUG
from leasehold.attest.ratls.reader import Carried, RaTls, RaTlsScheme
from leasehold.attest.reference import Simulated
from leasehold.attest.signatures import is_signed
from leasehold.attest.verdict import Appraisal
from leasehold.attest.verify import observe as observe_evidence
from leasehold.core.crypto import is_equal, sha256
from leasehold.core.evidence import Evidence
from leasehold.core.units import Instant
from leasehold.errors import BadEvidence, DebugEnclave, UnsupportedEvidence, WrongBinding

REPORT_DATA_BYTES: Final = 64
HASH_BYTES: Final = 32
HASHES: Final[Mapping[int, str]] = {
    1: "sha256",
    7: "sha384",
    8: "sha512",
}  # IANA, named information
_POINTS: Final = (65, 97)  # uncompressed points of P-256 and P-384

# Where report data lies, for forms that are shown and not verified here, and before they are.
_REPORT_DATA_AT: Final[Mapping[str, int]] = {
    "sgx": 48 + 320,
    "tdx": 48 + 520,
    "snp": 0x50,
    "CBOR tag 60001": 128,
    "CBOR tag 60002": 320,
}
_QUOTE_5_SHIFT: Final = 6  # a version 5 quote has a body type and size before the body


class Bound(NamedTuple):
    """What report data must begin with, and whether something else may follow instead of zeros."""

    digest: bytes
    may_go_on: bool


def key_bits(certificate: DerCertificate) -> bytes:
    """The key itself: an uncompressed point, or a PKCS#1 RSAPublicKey. Raises BadEvidence."""
    parts = children(content(parse_der(certificate.spki), Tag.SEQUENCE))
    if len(parts) != 2:
        raise BadEvidence(about="SubjectPublicKeyInfo", got=len(parts), expected="two parts")
    return bits(parts[1][0])


def binding_of(certificate: DerCertificate, carried: Carried) -> Bound:
    """Q-7: what the report data of this evidence must be to speak of this certificate's key.

    Raises WrongBinding where the claims name another key or nothing ties evidence and key together,
    UnsupportedEvidence for other hashes.
    """
    match carried.scheme:
        case RaTlsScheme.DICE | RaTlsScheme.INTEL_SDK if carried.claims is not None:
            name = HASHES.get(carried.claims.algorithm)
            if name is None:
                raise UnsupportedEvidence(
                    about="pubkey-hash", got=carried.claims.algorithm, expected="1, 7 or 8"
                )
            expected = hashlib.new(name, certificate.spki).digest()
            if not is_equal(carried.claims.key_hash, expected):
                raise WrongBinding(
                    about="pubkey-hash", got=carried.claims.key_hash, expected=expected
                )
            return Bound(sha256(carried.claims.data), False)
        case RaTlsScheme.GRAMINE_LEGACY:
            return Bound(sha256(certificate.spki), False)
        case RaTlsScheme.LEGACY | RaTlsScheme.COSMIAN:
            key = key_bits(certificate)
            return Bound(sha256(key), len(key) in _POINTS)  # Cosmian's own 32 bytes may follow
        case _:
            raise WrongBinding(
                about=f"{carried.scheme} {carried.form}",
                got="evidence that no rule ties to a key",
                expected="report data over the certificate's key",
            )


def check_key_binding(certificate: DerCertificate, carried: Carried, report_data: bytes) -> None:
    """Q-7: raise WrongBinding unless this report data speaks of the certificate's key."""
    bound = binding_of(certificate, carried)
    rest = report_data[HASH_BYTES:]
    if not is_equal(report_data[:HASH_BYTES], bound.digest) or (any(rest) and not bound.may_go_on):
        raise WrongBinding(about=carried.scheme, got=report_data, expected=bound.digest)


def claimed_report_data(carried: Carried) -> bytes:
    """The 64 bytes of report data in evidence that nobody has verified. Raises BadEvidence."""
    at = _REPORT_DATA_AT.get(carried.platform or carried.form)
    if at is None:
        raise UnsupportedEvidence(about=carried.form, expected="evidence with report data")
    if carried.platform in ("sgx", "tdx") and carried.quote[:2] == b"\x05\x00":
        at += _QUOTE_5_SHIFT
    found = carried.quote[at : at + REPORT_DATA_BYTES]
    if len(found) != REPORT_DATA_BYTES:
        raise BadEvidence(about=carried.form, got=len(carried.quote), expected="report data")
    return found


def is_self_signed(certificate: DerCertificate) -> bool:
    """Whether the certificate's own key signed it, which shows that its maker had the key."""
    return is_signed(certificate.spki, certificate.scheme, certificate.tbs, certificate.signature)


def observe(
    found: RaTls,
    carried: Carried,
    collateral: CollateralStore,
    *,
    simulated: Simulated | None,
    now: Instant,
) -> Appraisal:
    """Q-8: one piece of a certificate's evidence, authentic and bound to the certificate's key.

    A debug enclave is refused before any collateral is looked for. Raises CertificateRejected where
    the certificate is not valid now, UnsupportedEvidence, DebugEnclave, WrongBinding, and as
    `verify.observe` does.
    """
    check_valid_at(found.certificate, now=now)
    if not carried.platform:
        raise UnsupportedEvidence(
            about=carried.form, got="nothing that can be verified remotely", expected="a quote"
        )
    if carried.platform == "sgx" and parse_quote(carried.quote).report.flags & SGX_DEBUG:
        raise DebugEnclave(about="ATTRIBUTES.DEBUG")
    check_key_binding(found.certificate, carried, claimed_report_data(carried))
    evidence = Evidence(carried.platform, carried.quote)
    seen = observe_evidence(evidence, collateral, simulated=simulated, now=now)
    check_key_binding(found.certificate, carried, seen.report_data)
    return seen
