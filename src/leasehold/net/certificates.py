"""The one door to X.509: the enclave's own certificate, and what certificates say; `authority` issues.

Every certificate is P-256 and passes OpenSSL's strict mode (RFC 5280: key identifiers, basic
constraints, key usage), which Python 3.13 turned on. Names travel as one URI (`leasehold://...`);
refuses to know who may do what under a name. Certificates are PEM text; what a handshake shows is DER.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from leasehold.core.crypto import Entropy, TlsKey
from leasehold.errors import BadMessage

ENCLAVE_NAME: Final = "enclave.leasehold"
# The enclave's clock belongs to its host, so its certificate says nothing about time.
_ALWAYS: Final = (datetime(1970, 1, 1, tzinfo=UTC), datetime(2099, 12, 31, tzinfo=UTC))
_SERIAL_BYTES: Final = 16
_CRITICAL: Final = (x509.BasicConstraints, x509.KeyUsage)


def enclave_certificate(key: TlsKey, *, entropy: Entropy) -> str:
    """The self-signed certificate that an enclave serves under, new at every boot, as PEM.

    Its name and dates are constants: a client trusts exactly this certificate, after it saw evidence
    for its key. It is no authority, so nothing else can ever be trusted through it.
    """
    subject = common_name(ENCLAVE_NAME)
    public = key.private.public_key()
    builder = make_builder(subject, subject, public, _ALWAYS, entropy)
    extensions = end_entity(ExtendedKeyUsageOID.SERVER_AUTH, [x509.DNSName(ENCLAVE_NAME)])
    return sign_certificate(builder, key, public, extensions)


def identity_of(der: bytes) -> str:
    """The one URI that a DER client certificate names. Raises BadMessage where there is not one."""
    try:
        names = load_der(der).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (x509.ExtensionNotFound, ValueError) as cause:
        raise BadMessage(about="certificate", expected="one URI name") from cause
    if len(uris) != 1:
        raise BadMessage(about="certificate", got=f"{len(uris)} URI names", expected="one")
    return uris[0]


def make_builder(
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    times: tuple[datetime, datetime],
    entropy: Entropy,
) -> x509.CertificateBuilder:
    """A certificate in the making, with a serial number of 16 random bytes."""
    serial = int.from_bytes(entropy(_SERIAL_BYTES), "big") | 1  # RFC 5280, 4.1.2.2: positive
    return x509.CertificateBuilder(issuer, subject, public, serial, *times)


def sign_certificate(
    builder: x509.CertificateBuilder,
    key: TlsKey,
    public: ec.EllipticCurvePublicKey,
    extensions: list[x509.ExtensionType],
) -> str:
    """Add the extensions and both key identifiers, sign with ECDSA over SHA-256; PEM."""
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.private.public_key())
    for extension in [*extensions, x509.SubjectKeyIdentifier.from_public_key(public), issuer]:
        builder = builder.add_extension(extension, critical=isinstance(extension, _CRITICAL))
    return pem_of(builder.sign(key.private, hashes.SHA256()))


def end_entity(
    usage: x509.ObjectIdentifier, names: Sequence[x509.GeneralName]
) -> list[x509.ExtensionType]:
    """The extensions of a certificate that is no authority and serves one purpose."""
    purpose = x509.ExtendedKeyUsage([usage])
    return [*key_usage(authority=False), purpose, x509.SubjectAlternativeName(names)]


def key_usage(*, authority: bool) -> list[x509.ExtensionType]:
    """Basic constraints and key usage: sign certificates, or only handshakes."""
    usage = x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )
    return [x509.BasicConstraints(ca=authority, path_length=0 if authority else None), usage]


def common_name(common: str) -> x509.Name:
    """A distinguished name of one common name."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common[:64])])


def load_der(der: bytes) -> x509.Certificate:
    try:
        return x509.load_der_x509_certificate(der)
    except ValueError as cause:
        raise BadMessage(about="certificate", expected="DER") from cause


def pem_of(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")
