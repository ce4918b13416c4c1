"""Revocation of NVIDIA's certificates by OCSP: RFC 6960, with CertIDs over SHA-384.

Responses come from the verifier's own store, never from the peer; they carry no nonce, so their window
is what makes them current. Refuses to know which certificates a chain needs.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Final, NamedTuple

from leasehold.attest.certificate import (
    DerCertificate,
    check_issued,
    check_valid_at,
    read_certificate,
)
from leasehold.attest.collateral import CollateralStore
from leasehold.attest.der import Tag, bits, content, parse_der, sequence
from leasehold.attest.signatures import is_signed
from leasehold.attest.x509 import OcspAnswer, encode_ocsp_request, read_ocsp
from leasehold.core.units import MINUTE, Instant
from leasehold.errors import (
    BadEvidence,
    CertificateRejected,
    CertificateRevoked,
    CollateralMismatch,
    CollateralMissing,
    CollateralNotCurrent,
    CollateralRejected,
    WrongSignerRole,
)

OCSP_BYTES_MAX: Final = 8 * 1024  # a real one has ~1,000
CLOCK_SKEW_MAX: Final = 5 * MINUTE  # the responder's clock may be this far ahead
_HASH: Final = "sha384"
_EXTENDED_KEY_USAGE: Final = bytes.fromhex("551d25")
_OCSP_SIGNING: Final = bytes.fromhex("2b06010505070309")
_KEPT: Final = 256  # a machine's certificates come back with every attestation


class OcspFacts(NamedTuple):
    """When a response was made, and the first instant at which it counts no more (ms since the epoch)."""

    produced: Instant
    ends: Instant


def ocsp_name(certificate: DerCertificate) -> str:
    """The name of a certificate's `nvidia-ocsp` document: SHA-256 of its DER, in hex."""
    return certificate.sha256


def ocsp_request(certificate: DerCertificate, issuer: DerCertificate) -> bytes:
    """What to ask NVIDIA's responder about a certificate: a DER OCSP request."""
    name_hash, key_hash = _issuer_hashes(issuer.der)
    return encode_ocsp_request(
        issuer_name_hash=name_hash, issuer_key_hash=key_hash, serial=certificate.serial
    )


def ocsp_facts(response: bytes) -> OcspFacts:
    """When a DER response was made and ends. Raises CollateralRejected where it cannot be read."""
    answer = _read(response)
    return OcspFacts(answer.produced, answer.ends)


def check_not_revoked(
    certificate: DerCertificate,
    issuer: DerCertificate,
    collateral: CollateralStore,
    *,
    now: Instant,
) -> Instant:
    """D-6: the store has a current response that says `good` of this certificate; tells when it ends.

    Raises CollateralMissing, CollateralNotCurrent, CollateralRejected, CertificateRevoked.
    """
    document = collateral.document("nvidia-ocsp", ocsp_name(certificate))
    ends = min(document.good_until, check_ocsp(document.data, certificate, issuer, now=now))
    if now >= ends:
        raise CollateralNotCurrent(about=f"OCSP of {certificate.name}", got=ends, expected=now)
    return ends


def check_ocsp(
    response: bytes, certificate: DerCertificate, issuer: DerCertificate, *, now: Instant
) -> Instant:
    """D-6: the response is authentic, about this certificate, current at `now` and says `good`.

    Returns when it or its responder's certificate ends. Raises CollateralNotCurrent, CollateralMismatch,
    CollateralRejected, WrongSignerRole, CertificateRevoked.
    """
    answer, responder = _authentic(response, certificate.der, issuer.der)
    if not answer.starts - CLOCK_SKEW_MAX <= now < answer.ends:
        raise CollateralNotCurrent(
            about=f"OCSP of {certificate.name}",
            got=now,
            expected=f"{answer.starts} to {answer.ends}",
        )
    try:
        check_valid_at(responder, now=now)
    except CertificateRejected as cause:
        raise CollateralNotCurrent(about="OCSP responder", got=now) from cause
    if answer.status == "unknown":
        raise CollateralMissing(about=f"OCSP of {certificate.name}", got="unknown", expected="good")
    if answer.status != "good":  # NVIDIA's `certificate_hold` is one of these
        raise CertificateRevoked(
            about=certificate.name, got=f"{answer.status}, {answer.reason}", expected="good"
        )
    return min(answer.ends, responder.ends)


@lru_cache(maxsize=_KEPT)
def _authentic(
    response: bytes, certificate_der: bytes, issuer_der: bytes
) -> tuple[OcspAnswer, DerCertificate]:
    """The answer and who signed it; what is checked here depends on these bytes alone."""
    answer = _read(response)
    certificate, issuer = read_certificate(certificate_der), read_certificate(issuer_der)
    about = f"OCSP of {certificate.name}"
    if (answer.hash, answer.issuer_name_hash, answer.issuer_key_hash, answer.serial) != (
        _HASH,
        *_issuer_hashes(issuer_der),
        certificate.serial,
    ):
        raise CollateralMismatch(about=about, got=answer.serial, expected=certificate.serial)
    responder = _responder(answer, issuer, about)
    if answer.scheme is None or not is_signed(
        responder.spki, answer.scheme, answer.signed, answer.signature
    ):
        raise CollateralRejected(about=about, got="a bad signature", expected=responder.name)
    return answer, responder


def _responder(answer: OcspAnswer, issuer: DerCertificate, about: str) -> DerCertificate:
    """RFC 6960, 4.2.2.2: the issuer, or the one certificate that it issued for signing OCSP."""
    if not answer.certificates:
        return issuer
    try:
        if len(answer.certificates) != 1:
            raise CollateralRejected(about=about, got=len(answer.certificates), expected="1")
        responder = read_certificate(answer.certificates[0])
        if responder.sha256 == issuer.sha256:
            return issuer
        check_issued(responder, issuer)
        if responder.is_authority or _OCSP_SIGNING not in _usages(responder):
            raise WrongSignerRole(about=about, got=responder.name, expected="OCSPSigning")
    except (BadEvidence, CertificateRejected) as cause:
        raise CollateralRejected(about=about, got=cause.got, expected="a responder") from cause
    return responder


def _usages(certificate: DerCertificate) -> tuple[bytes, ...]:
    value = certificate.extensions.get(_EXTENDED_KEY_USAGE)
    if value is None:
        return ()
    return tuple(content(one, Tag.OBJECT_IDENTIFIER) for one in sequence(parse_der(value)))


def _read(response: bytes) -> OcspAnswer:
    if len(response) > OCSP_BYTES_MAX:
        raise CollateralRejected(
            about="OCSP", got=len(response), expected=f"<= {OCSP_BYTES_MAX} bytes"
        )
    return read_ocsp(response)


@lru_cache(maxsize=_KEPT)
def _issuer_hashes(issuer_der: bytes) -> tuple[bytes, bytes]:
    """RFC 6960, 4.1.1: of the issuer's name (DER) and of its key's bits, without tag and length."""
    issuer = read_certificate(issuer_der)
    key = bits(sequence(parse_der(issuer.spki))[1])
    return hashlib.sha384(issuer.subject).digest(), hashlib.sha384(key).digest()
