"""What evidence a certificate carries and whether that evidence claims to speak of its key, for people.

The claims are compared, the evidence is not verified.
"""

from __future__ import annotations

from datetime import UTC, datetime

from leasehold.attest.certificate import DerCertificate, read_certificate
from leasehold.attest.describe import Description, Field, Section, plain
from leasehold.attest.ratls.binding import check_key_binding, claimed_report_data, is_self_signed
from leasehold.attest.ratls.reader import Carried, RaTls, carries_evidence, read
from leasehold.attest.signatures import Scheme
from leasehold.core.units import SECOND, Instant
from leasehold.errors import BadEvidence, UnsupportedEvidence, WrongBinding


def recognise(data: bytes) -> Description | None:
    """A certificate with evidence in it. Raises BadEvidence where that evidence is malformed."""
    try:
        certificate = read_certificate(data)
    except BadEvidence:
        return None
    if not carries_evidence(certificate):
        return None
    found = read(data)
    sections = (
        _certificate(found.certificate),
        *(_evidence(found, number, one) for number, one in enumerate(found.evidence, 1)),
        *_endorsements(found),
    )
    return Description(
        f"RA-TLS certificate with {len(found.evidence)} piece(s) of evidence", "", sections
    )


def _day(moment: Instant) -> str:
    return datetime.fromtimestamp(moment // SECOND, UTC).isoformat()


def _certificate(certificate: DerCertificate) -> Section:
    if certificate.scheme is Scheme.RSA_SHA1:
        signed = "SHA-1: proves nothing"
    elif is_self_signed(certificate):
        signed = "by its own key: whoever made it had the key; it says nothing of who that was"
    else:
        signed = "not by its own key; its issuer is not checked"
    return Section(
        "Certificate",
        (
            Field("subject", plain(certificate.name), "a name that its maker chose"),
            Field("issuer", plain(certificate.issuer_name), "the same, where it signed itself"),
            Field("not before", _day(certificate.starts), "the start of its validity"),
            Field(
                "not after", _day(certificate.ends), "until then its holder can show it to anybody"
            ),
            Field("key SHA-256", certificate.spki_sha256, "of the SubjectPublicKeyInfo"),
            Field("signature", certificate.scheme.name, signed),
        ),
    )


def _evidence(found: RaTls, number: int, carried: Carried) -> Section:
    fields = [
        Field("scheme", carried.scheme.value, "how the evidence lies in the certificate"),
        Field("extension", carried.extension, plain(carried.form)),
        Field(
            "platform",
            carried.platform or "none",
            "verify and inspect it as evidence of this platform"
            if carried.platform
            else "nothing that can be verified remotely",
        ),
        Field("size", f"{len(carried.quote)} bytes", "of the evidence itself"),
    ]
    if carried.claims is not None:
        fields += [
            Field(
                "claim pubkey-hash",
                carried.claims.key_hash.hex(),
                f"hash {carried.claims.algorithm} of the certificate's key",
            ),
            Field(
                "claim nonce",
                "none" if carried.claims.nonce is None else carried.claims.nonce.hex(),
                "without one, nothing shows that the evidence is fresh",
            ),
        ]
    fields.append(Field("speaks of this key", *_binding(found.certificate, carried)))
    return Section(f"Evidence {number}", tuple(fields))


def _binding(certificate: DerCertificate, carried: Carried) -> tuple[str, str]:
    """Whether the report data claims to be over the certificate's key, and what that means."""
    try:
        check_key_binding(certificate, carried, claimed_report_data(carried))
    except WrongBinding:
        return "no", "DO NOT TRUST: the evidence was made for another key, or for none"
    except UnsupportedEvidence:
        return "unknown", "no rule says how this evidence would speak of the key"
    return "yes", "if the evidence verifies, this key was inside when it was made"


def _endorsements(found: RaTls) -> tuple[Section, ...]:
    if found.endorsements is None:
        return ()
    field = Field(
        "2.23.133.5.4.2",
        f"{len(found.endorsements)} bytes",
        "collateral that the peer offers about itself: never used",
    )
    return (Section("Endorsements", (field,)),)
