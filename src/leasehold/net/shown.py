"""What certificates say, for those who read other people's: PEM, keys and dates. No enclave needs it."""

from __future__ import annotations

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization

from leasehold.core.units import Instant
from leasehold.errors import BadMessage
from leasehold.net.certificates import load_der, pem_of


def to_der(pem: str) -> bytes:
    """The DER of the first certificate in a PEM text. Raises BadMessage."""
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
    except ValueError as cause:
        raise BadMessage(about="certificate", expected="PEM") from cause
    return certificate.public_bytes(serialization.Encoding.DER)


def to_pem(der: bytes) -> str:
    """The PEM of a DER certificate. Raises BadMessage."""
    return pem_of(load_der(der))


def spki_of(der: bytes) -> bytes:
    """The DER SubjectPublicKeyInfo of a DER certificate. Raises BadMessage."""
    try:
        key = load_der(der).public_key()
    except (ValueError, UnsupportedAlgorithm) as cause:
        raise BadMessage(about="certificate key") from cause
    return key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def expiry_of(der: bytes) -> Instant:
    """When a DER certificate ends, in milliseconds since the Unix epoch. Raises BadMessage."""
    return Instant(int(load_der(der).not_valid_after_utc.timestamp()) * 1000)
