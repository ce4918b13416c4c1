"""The verifier's door to X.509: reads certificates and CRLs into plain facts.

It checks no signature: paths are verified by dcap-qvl under the decided root. The facts read here
are for what dcap-qvl does not look at: who may sign what, and when everything ends.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509 import ocsp
from cryptography.x509.oid import NameOID, ObjectIdentifier

from leasehold.attest.signatures import Scheme, is_signed
from leasehold.core.crypto import sha256
from leasehold.core.units import Instant
from leasehold.errors import CollateralMismatch, CollateralRejected, LeaseholdError

_SGX_EXTENSION: Final = ObjectIdentifier("1.2.840.113741.1.13.1")
_SERIAL_END: Final = 1 << 160  # Intel fills 20 octets and adds a sign octet
_KINDS: Final = {"ECDSA": "ECDSA", "PKCS1v15": "PKCS1", "PSS": "PSS"}
_KEPT: Final = 256  # machines and their authorities come back with every attestation
# A peer's certificate with such a number is refused below; it shall not write into anybody's log.
warnings.filterwarnings("ignore", "Parsed a serial number", CryptographyDeprecationWarning)
# What `cryptography` raises for certificates that it cannot read (its documentation, X.509 reference).
_UNREADABLE: Final = (
    ValueError,
    TypeError,  # a name whose attribute has a type that its OID does not allow
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
    CryptographyDeprecationWarning,  # where warnings are errors
)


@dataclass(frozen=True, slots=True)
class Certificate:
    """Facts of one certificate; hashes are SHA-256 in hex, of the DER and of its key's SPKI."""

    name: str
    issuer: str
    serial: int
    starts: Instant
    ends: Instant
    der: bytes
    sha256: str
    spki_sha256: str
    is_authority: bool
    sgx_extension: bytes | None


@dataclass(frozen=True, slots=True)
class Crl:
    """Facts of one certificate revocation list. `number` is 0 where it has none."""

    issuer: str
    ends: Instant
    number: int


def instant_of(moment: datetime) -> Instant:
    """A time with its zone as milliseconds since the Unix epoch."""
    return Instant(int(moment.timestamp() * 1000))


def read_chain(
    pem: bytes, *, count: int, about: str, error: type[LeaseholdError]
) -> tuple[Certificate, ...]:
    """Exactly `count` certificates in PEM, leaf first; raises `error` for anything else."""
    try:
        chain = _chain(pem)
    except _UNREADABLE as cause:
        raise error(about=about, got=str(cause), expected="readable certificates") from cause
    if len(chain) != count:
        raise error(about=about, got=len(chain), expected=f"{count} certificates")
    return chain


@lru_cache(maxsize=_KEPT)
def _chain(pem: bytes) -> tuple[Certificate, ...]:
    """The facts of all certificates in PEM, which depend on these bytes alone."""
    return tuple(
        _facts(certificate.public_bytes(serialization.Encoding.DER))
        for certificate in x509.load_pem_x509_certificates(pem)
    )


@lru_cache(maxsize=_KEPT)
def _facts(der: bytes) -> Certificate:
    """The facts of one certificate, which depend on its bytes alone."""
    certificate = x509.load_der_x509_certificate(der)
    if not 0 < certificate.serial_number < _SERIAL_END:
        raise ValueError("a serial number is positive and below 2^160 (RFC 5280, 4.1.2.2)")
    spki = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    is_authority, sgx_extension = False, None
    for extension in certificate.extensions:
        if isinstance(extension.value, x509.BasicConstraints):
            is_authority = extension.value.ca
        elif extension.oid == _SGX_EXTENSION and isinstance(
            extension.value, x509.UnrecognizedExtension
        ):
            sgx_extension = extension.value.value
    return Certificate(
        name=_common_name(certificate.subject),
        issuer=_common_name(certificate.issuer),
        serial=certificate.serial_number,
        starts=instant_of(certificate.not_valid_before_utc),
        ends=instant_of(certificate.not_valid_after_utc),
        der=der,
        sha256=sha256(der).hex(),
        spki_sha256=sha256(spki).hex(),
        is_authority=is_authority,
        sgx_extension=sgx_extension,
    )


def _common_name(name: x509.Name) -> str:
    """The one common name; empty, which is no role's name, where there is none or more than one."""
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if len(found) == 1 else ""


def read_crl(der: bytes, *, about: str, error: type[LeaseholdError]) -> Crl:
    """The facts of a DER CRL, which must say when it ends; raises `error`."""
    try:
        crl = x509.load_der_x509_crl(der)
        ends = crl.next_update_utc
        if ends is None:
            raise error(about=about, expected="a CRL with nextUpdate")
        number = 0
        for extension in crl.extensions:
            if isinstance(extension.value, x509.CRLNumber):
                number = extension.value.crl_number
        return Crl(
            issuer=_common_name(crl.issuer),
            ends=instant_of(ends),
            number=number,
        )
    except _UNREADABLE as cause:
        raise error(about=about, got=str(cause), expected="a readable CRL") from cause


def is_revoked(der: bytes, serial: int) -> bool:
    """Whether a CRL that `read_crl` accepted lists this certificate."""
    crl = x509.load_der_x509_crl(der)
    return crl.get_revoked_certificate_by_serial_number(serial) is not None


@dataclass(frozen=True, slots=True)
class SignedCrl:
    """A revocation list whose signature was checked: until when it counts, and the serials it names."""

    number: int
    starts: Instant
    ends: Instant
    revoked: frozenset[int]


@lru_cache(maxsize=_KEPT)
def _signed_crl(der: bytes, about: str) -> tuple[SignedCrl, bytes, bytes, Scheme, bytes]:
    """A CRL's facts, issuer, signed bytes, scheme and signature: they depend on its bytes alone."""
    facts = read_crl(der, about=about, error=CollateralRejected)
    try:
        crl = x509.load_der_x509_crl(der)
        digest, parameters = crl.signature_hash_algorithm, crl.signature_algorithm_parameters
        kind = _KINDS[type(parameters).__name__]
        if any(one.critical for one in crl.extensions):  # a delta, or somebody else's serials
            raise CollateralRejected(about=about, expected="a CRL with nothing critical")
        name = {"sha256": "SHA-256", "sha384": "SHA-384", "sha512": "SHA-512"}[
            "" if digest is None else digest.name
        ]
        signed = SignedCrl(
            facts.number,
            instant_of(crl.last_update_utc),
            facts.ends,
            frozenset(entry.serial_number for entry in crl),
        )
        return (
            signed,
            crl.issuer.public_bytes(),
            crl.tbs_certlist_bytes,
            Scheme((kind, name)),
            crl.signature,
        )
    except (*_UNREADABLE, KeyError) as cause:
        raise CollateralRejected(about=about, got=str(cause), expected="a readable CRL") from cause


def check_crl(der: bytes, spki: bytes, *, issuer: bytes, about: str) -> SignedCrl:
    """A CRL that the issuer (DER name) with this key (DER SubjectPublicKeyInfo) signed.

    Whether it is current is for the caller to say. Raises CollateralRejected, CollateralMismatch.
    """
    facts, named, signed, scheme, signature = _signed_crl(der, about)
    if named != issuer:
        raise CollateralMismatch(about=f"issuer of {about}", got=named, expected=issuer)
    if not is_signed(spki, scheme, signed, signature):
        raise CollateralRejected(about=about, got="a bad signature", expected="the issuer's")
    return facts


# OCSP (RFC 6960) ---------------------------------------------------------------------------------

_OCSP_SCHEMES: Final = {
    "1.2.840.10045.4.3.2": Scheme.ECDSA_SHA256,
    "1.2.840.10045.4.3.3": Scheme.ECDSA_SHA384,
    "1.2.840.10045.4.3.4": Scheme.ECDSA_SHA512,
}


@dataclass(frozen=True, slots=True)
class OcspAnswer:
    """What one OCSP response says, read without believing it.

    `status` is `good`, `revoked` or `unknown`; `reason` is the CRL reason's name where it was revoked.
    The hashes are of the issuer's DER name and of its key's bits. `scheme` is None for signatures that
    no responder here makes. `certificates` are DER.
    """

    hash: str
    issuer_name_hash: bytes
    issuer_key_hash: bytes
    serial: int
    status: str
    reason: str
    produced: Instant
    starts: Instant
    ends: Instant
    signed: bytes
    scheme: Scheme | None
    signature: bytes
    certificates: tuple[bytes, ...]


@lru_cache(maxsize=_KEPT)
def read_ocsp(der: bytes) -> OcspAnswer:
    """The one answer in a DER OCSP response, which must say when it ends. Raises CollateralRejected."""
    try:
        response = ocsp.load_der_ocsp_response(der)
        if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            raise CollateralRejected(about="OCSP", got=response.response_status.name)
        answers = list(response.responses)
        if len(answers) != 1:
            raise CollateralRejected(about="OCSP", got=f"{len(answers)} answers", expected=1)
        answer = answers[0]
        ends = answer.next_update_utc
        if ends is None or any(one.critical for one in response.extensions):
            raise CollateralRejected(about="OCSP", expected="nextUpdate and nothing critical")
        reason = answer.revocation_reason
        return OcspAnswer(
            hash=answer.hash_algorithm.name,
            issuer_name_hash=answer.issuer_name_hash,
            issuer_key_hash=answer.issuer_key_hash,
            serial=answer.serial_number,
            status=answer.certificate_status.name.lower(),
            reason="" if reason is None else reason.name,
            produced=instant_of(response.produced_at_utc),
            starts=instant_of(answer.this_update_utc),
            ends=instant_of(ends),
            signed=response.tbs_response_bytes,
            scheme=_OCSP_SCHEMES.get(response.signature_algorithm_oid.dotted_string),
            signature=response.signature,
            certificates=tuple(
                one.public_bytes(serialization.Encoding.DER) for one in response.certificates
            ),
        )
    except _UNREADABLE as cause:
        raise CollateralRejected(about="OCSP", got=str(cause), expected="a response") from cause


def encode_ocsp_request(*, issuer_name_hash: bytes, issuer_key_hash: bytes, serial: int) -> bytes:
    """A DER OCSP request about one certificate; the hashes are SHA-384. It carries no nonce."""
    builder = ocsp.OCSPRequestBuilder().add_certificate_by_hash(
        issuer_name_hash, issuer_key_hash, serial, hashes.SHA384()
    )
    return builder.build().public_bytes(serialization.Encoding.DER)
