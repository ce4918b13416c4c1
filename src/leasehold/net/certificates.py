"""The one door to X.509: the custodian's authority, what it issues, and the enclave's own certificate.

Every certificate is P-256 and passes OpenSSL's strict mode (RFC 5280: key identifiers, basic
constraints, key usage), which Python 3.13 turned on. Names travel as one URI (`leasehold://...`);
refuses to know who may do what under a name. Certificates are PEM text; what a handshake shows is DER.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from leasehold.core.crypto import Entropy, TlsKey
from leasehold.core.units import Instant
from leasehold.errors import BadMessage

ENCLAVE_NAME: Final = "enclave.leasehold"
SCHEME: Final = "leasehold"
# The enclave's clock belongs to its host, so its certificate says nothing about time.
_ALWAYS: Final = (datetime(1970, 1, 1, tzinfo=UTC), datetime(2099, 12, 31, tzinfo=UTC))
_SERIAL_BYTES: Final = 16
_CRITICAL: Final = (x509.BasicConstraints, x509.KeyUsage)
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_INSTANCE: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class InstanceIdentity:
    """An attested enclave instance of one loan; `instance` is the SHA-256 hex of its TLS SPKI."""

    loan: str
    instance: str

    @property
    def uri(self) -> str:
        """`leasehold://LOAN/instance/HEX`."""
        return f"{SCHEME}://{self.loan}/instance/{self.instance}"


@dataclass(frozen=True, slots=True)
class OperatorIdentity:
    """Somebody who works for the custodian."""

    name: str

    @property
    def uri(self) -> str:
        """`leasehold://operator/NAME`."""
        return f"{SCHEME}://operator/{self.name}"


Identity = InstanceIdentity | OperatorIdentity


@dataclass(frozen=True, slots=True)
class Authority:
    """The custodian's certificate authority: its key and its own certificate (PEM)."""

    key: TlsKey
    certificate: str


@dataclass(frozen=True, slots=True)
class Validity:
    """From when until when, both included, in milliseconds since the Unix epoch; seconds count."""

    start: Instant
    end: Instant


def make_authority(key: TlsKey, *, name: str, validity: Validity, entropy: Entropy) -> Authority:
    """A self-signed authority that may issue end-entity certificates and nothing else."""
    subject = _subject(name)
    public = key.private.public_key()
    builder = _builder(subject, subject, public, _times(validity), entropy)
    return Authority(key, _sign(builder, key, public, _usage(authority=True)))


def issue_server(
    authority: Authority, spki: bytes, *, names: Sequence[str], validity: Validity, entropy: Entropy
) -> str:
    """A server certificate for these DNS names and IP addresses, as PEM. Raises BadMessage."""
    alternatives = [_general_name(name) for name in names]
    extensions = _end_entity(ExtendedKeyUsageOID.SERVER_AUTH, alternatives)
    return _issue(authority, spki, names[0], extensions, validity, entropy)


def issue_client(
    authority: Authority, spki: bytes, *, identity: Identity, validity: Validity, entropy: Entropy
) -> str:
    """A client certificate that says `identity`, for the key with this DER SubjectPublicKeyInfo.

    The result is PEM. Raises BadMessage where the key is not P-256 or the name is not a plain one.
    """
    uri = parse_identity(identity.uri).uri
    common = identity.instance if isinstance(identity, InstanceIdentity) else identity.name
    names = [x509.UniformResourceIdentifier(uri)]
    extensions = _end_entity(ExtendedKeyUsageOID.CLIENT_AUTH, names)
    return _issue(authority, spki, common, extensions, validity, entropy)


def enclave_certificate(key: TlsKey, *, entropy: Entropy) -> str:
    """The self-signed certificate that an enclave serves under, new at every boot, as PEM.

    Its name and dates are constants: a client trusts exactly this certificate, after it saw evidence
    for its key. It is no authority, so nothing else can ever be trusted through it.
    """
    subject = _subject(ENCLAVE_NAME)
    public = key.private.public_key()
    builder = _builder(subject, subject, public, _ALWAYS, entropy)
    extensions = _end_entity(ExtendedKeyUsageOID.SERVER_AUTH, [x509.DNSName(ENCLAVE_NAME)])
    return _sign(builder, key, public, extensions)


def to_der(pem: str) -> bytes:
    """The DER of the first certificate in a PEM text. Raises BadMessage."""
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
    except ValueError as cause:
        raise BadMessage(about="certificate", expected="PEM") from cause
    return certificate.public_bytes(serialization.Encoding.DER)


def to_pem(der: bytes) -> str:
    """The PEM of a DER certificate. Raises BadMessage."""
    return _pem(_load(der))


def spki_of(der: bytes) -> bytes:
    """The DER SubjectPublicKeyInfo of a DER certificate. Raises BadMessage."""
    try:
        key = _load(der).public_key()
    except (ValueError, UnsupportedAlgorithm) as cause:
        raise BadMessage(about="certificate key") from cause
    return key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def expiry_of(der: bytes) -> Instant:
    """When a DER certificate ends, in milliseconds since the Unix epoch. Raises BadMessage."""
    return Instant(int(_load(der).not_valid_after_utc.timestamp()) * 1000)


def identity_of(der: bytes) -> str:
    """The one URI that a DER client certificate names. Raises BadMessage where there is not one."""
    try:
        names = _load(der).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (x509.ExtensionNotFound, ValueError) as cause:
        raise BadMessage(about="certificate", expected="one URI name") from cause
    if len(uris) != 1:
        raise BadMessage(about="certificate", got=f"{len(uris)} URI names", expected="one")
    return uris[0]


def parse_identity(uri: str) -> Identity:
    """What a URI of `identity_of` names. Raises BadMessage."""
    scheme, _, rest = uri.partition("://")
    match rest.split("/") if scheme == SCHEME else []:
        case ["operator", name] if _NAME.fullmatch(name):
            return OperatorIdentity(name)
        case [loan, "instance", key] if _NAME.fullmatch(loan) and _INSTANCE.fullmatch(key):
            return InstanceIdentity(loan, key)
    raise BadMessage(
        about="certificate name",
        got=uri,
        expected="leasehold://LOAN/instance/HEX or .../operator/NAME",
    )


def _issue(
    authority: Authority,
    spki: bytes,
    common: str,
    extensions: list[x509.ExtensionType],
    validity: Validity,
    entropy: Entropy,
) -> str:
    issuer = x509.load_pem_x509_certificate(authority.certificate.encode()).subject
    public = _load_spki(spki)
    builder = _builder(_subject(common), issuer, public, _times(validity), entropy)
    return _sign(builder, authority.key, public, extensions)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    times: tuple[datetime, datetime],
    entropy: Entropy,
) -> x509.CertificateBuilder:
    serial = int.from_bytes(entropy(_SERIAL_BYTES), "big") | 1  # RFC 5280, 4.1.2.2: positive
    return x509.CertificateBuilder(issuer, subject, public, serial, *times)


def _sign(
    builder: x509.CertificateBuilder,
    key: TlsKey,
    public: ec.EllipticCurvePublicKey,
    extensions: list[x509.ExtensionType],
) -> str:
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.private.public_key())
    for extension in [*extensions, x509.SubjectKeyIdentifier.from_public_key(public), issuer]:
        builder = builder.add_extension(extension, critical=isinstance(extension, _CRITICAL))
    return _pem(builder.sign(key.private, hashes.SHA256()))


def _end_entity(
    usage: x509.ObjectIdentifier, names: Sequence[x509.GeneralName]
) -> list[x509.ExtensionType]:
    purpose = x509.ExtendedKeyUsage([usage])
    return [*_usage(authority=False), purpose, x509.SubjectAlternativeName(names)]


def _usage(*, authority: bool) -> list[x509.ExtensionType]:
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


def _subject(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common[:64])])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _times(validity: Validity) -> tuple[datetime, datetime]:
    start, end = (datetime.fromtimestamp(at // 1000, UTC) for at in (validity.start, validity.end))
    return start, end


def _load(der: bytes) -> x509.Certificate:
    try:
        return x509.load_der_x509_certificate(der)
    except ValueError as cause:
        raise BadMessage(about="certificate", expected="DER") from cause


def _load_spki(spki: bytes) -> ec.EllipticCurvePublicKey:
    try:
        key = serialization.load_der_public_key(spki)
    except (ValueError, UnsupportedAlgorithm) as cause:
        raise BadMessage(about="TLS key", expected="a DER SubjectPublicKeyInfo") from cause
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise BadMessage(about="TLS key", expected="P-256")
    return key


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")
