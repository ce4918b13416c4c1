"""SIMULATED RA-TLS certificates in every form that other projects gave them, around any evidence.

Written octet by octet, because Gramine's form is one that no X.509 library writes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from leasehold.core.crypto import sha256
from leasehold_simtee import der as asn1

SubjectKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
Attest = Callable[[bytes], bytes]
"""A quote over 64 bytes of report data."""

DICE: Final = bytes.fromhex("678105050409")
ENDORSEMENTS: Final = bytes.fromhex("678105050402")
GRAMINE: Final = bytes.fromhex("06092a864886f84d8a3906")
LEGACY: Final = bytes.fromhex("2a864886f84d8a3906")
COSMIAN_SNP: Final = bytes.fromhex("2a864886f84d8a3907")
COSMIAN_TDX: Final = bytes.fromhex("2a864886f84d8a3908")
INTEL: Final = bytes.fromhex("2a864886f84d010d01")
CMW: Final = bytes.fromhex("2b06010505070123")
QUOTE_TAG: Final = 60000
_ECDSA: Final = bytes.fromhex("2a8648ce3d040302")
_RSA: Final = bytes.fromhex("2a864886f70d01010b")
_RSA_SHA1: Final = bytes.fromhex("2a864886f70d010105")
_NULL: Final = b"\x05\x00"


def cbor(value: object) -> bytes:
    """A value in CBOR's shortest form."""
    match value:
        case bool():
            return b"\xf5" if value else b"\xf4"
        case int() if value < 0:
            return _head(1, -1 - value)
        case int():
            return _head(0, value)
        case bytes():
            return _head(2, len(value)) + value
        case str():
            return _head(3, len(value.encode())) + value.encode()
        case Mapping():
            pairs = (cbor(key) + cbor(item) for key, item in value.items())
            return _head(5, len(value)) + b"".join(pairs)
        case Sequence():
            return _head(4, len(value)) + b"".join(map(cbor, value))
        case _:
            raise TypeError(f"no CBOR for {type(value).__name__}")


def tagged(tag: int, value: object) -> bytes:
    """A value with a tag before it."""
    return _head(6, tag) + cbor(value)


def _head(major: int, number: int) -> bytes:
    if number < 24:
        return bytes((major << 5 | number,))
    power = next(power for power in range(4) if number < 1 << (8 << power))
    return bytes((major << 5 | 24 + power,)) + number.to_bytes(1 << power, "big")


def spki(key: SubjectKey) -> bytes:
    """DER SubjectPublicKeyInfo."""
    return key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def key_bits(key: SubjectKey) -> bytes:
    """The bare key: an uncompressed point, or PKCS#1."""
    if isinstance(key, rsa.RSAPrivateKey):
        return key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.PKCS1
        )
    return key.public_key().public_bytes(
        serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint
    )


def claims(
    key: SubjectKey, *, algorithm: int = 1, hash_name: str = "sha256", nonce: bytes | None = None
) -> bytes:
    """The claims buffer of interoperable RA-TLS; `algorithm` is IANA's number of `hash_name`."""
    entry = cbor([algorithm, hashlib.new(hash_name, spki(key)).digest()])
    said: dict[str, bytes] = {"pubkey-hash": entry}
    if nonce is not None:
        said["nonce"] = nonce
    return cbor(said)


def dice(attest: Attest, buffer: bytes, *, tag: int = QUOTE_TAG) -> bytes:
    """The value of the DICE tagged evidence extension."""
    return tagged(tag, [attest(sha256(buffer) + bytes(32)), buffer])


def bare(attest: Attest, key: SubjectKey, *, over_spki: bool, extra: bytes = bytes(32)) -> bytes:
    """A bare quote over the key; Gramine hashes the SubjectPublicKeyInfo, the others the key itself."""
    return attest(sha256(spki(key) if over_spki else key_bits(key)) + extra)


def certificate(
    key: SubjectKey,
    extensions: Mapping[bytes, bytes],
    *,
    starts: str = "260101000000Z",
    ends: str = "360101000000Z",
    null_parameters: bool = False,
    sha1: bool = False,
) -> bytes:
    """A self-signed certificate with these extensions, by their OIDs' content octets, in their order.

    With `sha1` its signature is of SHA-1, as old RA-TLS certificates have it; the key then is an RSA key.
    """
    algorithm = _algorithm(key, null_parameters=null_parameters, sha1=sha1)
    common = asn1.sequence(asn1.oid(2, 5, 4, 3), asn1.element(0x0C, b"SIMULATED RA-TLS"))
    name = asn1.sequence(asn1.element(0x31, common))
    listed = (
        asn1.sequence(asn1.element(0x06, oid), asn1.octets(value))
        for oid, value in extensions.items()
    )
    body = asn1.sequence(
        asn1.element(0xA0, asn1.integer(2)),
        asn1.integer(1),
        algorithm,
        name,
        asn1.sequence(asn1.element(0x17, starts.encode()), asn1.element(0x17, ends.encode())),
        name,
        spki(key),
        asn1.element(0xA3, asn1.sequence(*listed)),
    )
    if isinstance(key, rsa.RSAPrivateKey):
        digest = hashes.SHA1() if sha1 else hashes.SHA256()  # noqa: S303 - what verifiers must refuse
        signature = key.sign(body, padding.PKCS1v15(), digest)
    else:
        signature = key.sign(body, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
    return asn1.sequence(body, algorithm, asn1.element(0x03, b"\0" + signature))


def _algorithm(key: SubjectKey, *, null_parameters: bool, sha1: bool) -> bytes:
    if isinstance(key, rsa.RSAPrivateKey):
        return asn1.sequence(asn1.element(0x06, _RSA_SHA1 if sha1 else _RSA), _NULL)
    parts = (asn1.element(0x06, _ECDSA), *((_NULL,) if null_parameters else ()))
    return asn1.sequence(*parts)
