"""X.509 certificates and CRLs of the simulated vendor; every name in them says SIMULATED."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID, ObjectIdentifier

from leasehold.core.crypto import Entropy
from leasehold.core.units import Instant

Key = ec.EllipticCurvePrivateKey
SGX_EXTENSION: Final = ObjectIdentifier("1.2.840.113741.1.13.1")
YEARS: Final = timedelta(days=365)
_ECDSA: Final = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
_EARLIER: Final = timedelta(days=1)  # so that a verifier whose clock is behind still accepts


def moment(now: Instant) -> datetime:
    """Milliseconds since the epoch as X.509 writes time: whole seconds, UTC."""
    return datetime.fromtimestamp(now // 1000, UTC)


def name(common: str) -> x509.Name:
    """A distinguished name that nobody takes for a vendor's."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "SIMULATED, no hardware"),
            x509.NameAttribute(NameOID.COMMON_NAME, common),
        ]
    )


def serial(entropy: Entropy) -> int:
    """A positive serial number of at most 127 bits."""
    return int.from_bytes(entropy(16), "big") >> 1 | 1


def issue(
    key: Key,
    common: str,
    *,
    issuer_key: Key,
    issuer: str,
    entropy: Entropy,
    now: Instant,
    path_length: int | None = None,
    years: int = 10,
    sgx_extension: bytes | None = None,
) -> x509.Certificate:
    """A certificate; with a `path_length` an authority's, else a leaf's."""
    is_authority = path_length is not None
    public, issuer_public = key.public_key(), issuer_key.public_key()
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(common))
        .issuer_name(name(issuer))
        .public_key(public)
        .serial_number(serial(entropy))
        .not_valid_before(moment(now) - _EARLIER)
        .not_valid_after(moment(now) + years * YEARS)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_public), False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), False)
        .add_extension(
            x509.KeyUsage(
                digital_signature=not is_authority,
                content_commitment=not is_authority,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=is_authority,
                crl_sign=is_authority,
                encipher_only=False,
                decipher_only=False,
            ),
            True,
        )
        .add_extension(x509.BasicConstraints(is_authority, path_length), True)
    )
    if sgx_extension is not None:
        builder = builder.add_extension(
            x509.UnrecognizedExtension(SGX_EXTENSION, sgx_extension), False
        )
    return builder.sign(issuer_key, hashes.SHA256(), ecdsa_deterministic=True)


def make_crl(
    issuer_key: Key,
    issuer: str,
    *,
    number: int,
    revoked: tuple[int, ...],
    now: Instant,
    until: Instant,
) -> bytes:
    """A DER CRL that lists these serial numbers."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(name(issuer))
        .last_update(moment(now))
        .next_update(moment(until))
        .add_extension(x509.CRLNumber(number), False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), False
        )
    )
    for number_revoked in revoked:
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder()
            .serial_number(number_revoked)
            .revocation_date(moment(now))
            .build()
        )
    crl = builder.sign(issuer_key, hashes.SHA256(), ecdsa_deterministic=True)
    return crl.public_bytes(serialization.Encoding.DER)


def sign_raw(key: Key, data: bytes) -> bytes:
    """ECDSA-P256-SHA256 as Intel writes it: r ‖ s, 32 bytes each, big-endian."""
    r, s = decode_dss_signature(key.sign(data, _ECDSA))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def pem(*certificates: x509.Certificate) -> str:
    """A PEM chain, in the order given."""
    return "".join(
        certificate.public_bytes(serialization.Encoding.PEM).decode()
        for certificate in certificates
    )


def der(certificate: x509.Certificate) -> bytes:
    """One certificate as DER."""
    return certificate.public_bytes(serialization.Encoding.DER)


def key_pem(key: Key) -> str:
    """A private key as unencrypted PKCS#8 PEM: it protects nothing."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


def load_key(text: str) -> Key:
    """The key that `key_pem` wrote."""
    key = serialization.load_pem_private_key(text.encode(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("a simulated key must be an elliptic-curve key")
    return key
