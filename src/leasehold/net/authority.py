"""The custodian's certificate authority: its own certificate, what it issues, and the names in them.

As `certificates`, but nothing of it is loaded in an enclave. Names travel as one URI
(`leasehold://...`); refuses to know who may do what under a name.
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
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509.oid import ExtendedKeyUsageOID

from leasehold.core.crypto import Entropy, TlsKey
from leasehold.core.units import Instant
from leasehold.errors import BadMessage
from leasehold.net.certificates import (
    common_name,
    end_entity,
    key_usage,
    make_builder,
    sign_certificate,
)

SCHEME: Final = "leasehold"
PASSPHRASE_ROUNDS: Final = 600_000  # of PBKDF2 with SHA-256, OWASP 2023; browsers take any number

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
    subject = common_name(name)
    public = key.private.public_key()
    builder = make_builder(subject, subject, public, _times(validity), entropy)
    return Authority(key, sign_certificate(builder, key, public, key_usage(authority=True)))


def issue_server(
    authority: Authority, spki: bytes, *, names: Sequence[str], validity: Validity, entropy: Entropy
) -> str:
    """A server certificate for these DNS names and IP addresses, as PEM. Raises BadMessage."""
    alternatives = [_general_name(name) for name in names]
    extensions = end_entity(ExtendedKeyUsageOID.SERVER_AUTH, alternatives)
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
    extensions = end_entity(ExtendedKeyUsageOID.CLIENT_AUTH, names)
    return _issue(authority, spki, common, extensions, validity, entropy)


def browser_file(certificate: str, key: TlsKey, *, ca: str, name: str, passphrase: str) -> bytes:
    """A certificate with its key and its authority (PEM) as PKCS#12 (RFC 7292), for a browser to import.

    Encrypted by AES-256 under PBKDF2; `name` is what the browser calls it. Raises BadMessage.
    """
    try:
        own, authority = (x509.load_pem_x509_certificate(pem.encode()) for pem in (certificate, ca))
    except ValueError as cause:
        raise BadMessage(about="certificate", expected="PEM") from cause
    encryption = (
        serialization.PrivateFormat.PKCS12.encryption_builder()
        .kdf_rounds(PASSPHRASE_ROUNDS)
        .key_cert_algorithm(pkcs12.PBES.PBESv2SHA256AndAES256CBC)
        .hmac_hash(hashes.SHA256())
        .build(passphrase.encode())
    )
    return pkcs12.serialize_key_and_certificates(
        name.encode(), key.private, own, [authority], encryption
    )


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
    builder = make_builder(common_name(common), issuer, public, _times(validity), entropy)
    return sign_certificate(builder, authority.key, public, extensions)


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _times(validity: Validity) -> tuple[datetime, datetime]:
    start, end = (datetime.fromtimestamp(at // 1000, UTC) for at in (validity.start, validity.end))
    return start, end


def _load_spki(spki: bytes) -> ec.EllipticCurvePublicKey:
    try:
        key = serialization.load_der_public_key(spki)
    except (ValueError, UnsupportedAlgorithm) as cause:
        raise BadMessage(about="TLS key", expected="a DER SubjectPublicKeyInfo") from cause
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise BadMessage(about="TLS key", expected="P-256")
    return key
