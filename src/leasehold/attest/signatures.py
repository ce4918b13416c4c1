"""The verifier's door to signatures under vendors' keys: ECDSA and RSA over keys in SubjectPublicKeyInfo.

Refuses to know what is signed and what a key may sign.
"""

from __future__ import annotations

from enum import Enum
from functools import lru_cache
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

_KEPT: Final = 256  # vendors' keys come back with every attestation
_RSA_BITS_MIN: Final = 2048
_HASHES: Final = {
    "SHA-256": hashes.SHA256(),
    "SHA-384": hashes.SHA384(),
    "SHA-512": hashes.SHA512(),
}


class Scheme(Enum):
    """A signature scheme and its hash; `value` is (kind, hash). PSS has MGF1 and a salt of the hash's size."""

    ECDSA_SHA256 = ("ECDSA", "SHA-256")
    ECDSA_SHA384 = ("ECDSA", "SHA-384")
    ECDSA_SHA512 = ("ECDSA", "SHA-512")
    RSA_SHA256 = ("PKCS1", "SHA-256")
    RSA_SHA384 = ("PKCS1", "SHA-384")
    RSA_SHA512 = ("PKCS1", "SHA-512")
    RSA_SHA1 = ("PKCS1", "SHA-1")  # is read, and has signed nothing
    PSS_SHA256 = ("PSS", "SHA-256")
    PSS_SHA384 = ("PSS", "SHA-384")
    PSS_SHA512 = ("PSS", "SHA-512")


@lru_cache(maxsize=_KEPT)
def _load(spki: bytes) -> ec.EllipticCurvePublicKey | rsa.RSAPublicKey | None:
    """The key of a DER SubjectPublicKeyInfo, if it is one that any vendor uses."""
    try:
        key = serialization.load_der_public_key(spki)
    except (ValueError, UnsupportedAlgorithm):
        return None
    if isinstance(key, rsa.RSAPublicKey):
        return key if key.key_size >= _RSA_BITS_MIN else None
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in ("secp256r1", "secp384r1"):
        return key
    return None


def is_signed(spki: bytes, scheme: Scheme, data: bytes, signature: bytes) -> bool:
    """Whether `signature` (ECDSA in DER) over `data` is by this key (DER SubjectPublicKeyInfo).

    A key that cannot be read, is too short, or is of another kind than the scheme has signed nothing,
    and so has SHA-1, whose collisions anybody can buy.
    """
    if scheme is Scheme.RSA_SHA1:
        return False
    key = _load(spki)
    kind, name = scheme.value
    digest = _HASHES[name]
    try:
        if isinstance(key, ec.EllipticCurvePublicKey) and kind == "ECDSA":
            key.verify(signature, data, ec.ECDSA(digest))
            return True
        if isinstance(key, rsa.RSAPublicKey) and kind == "PKCS1":
            key.verify(signature, data, padding.PKCS1v15(), digest)
            return True
        if isinstance(key, rsa.RSAPublicKey) and kind == "PSS":
            pss = padding.PSS(padding.MGF1(digest), salt_length=digest.digest_size)
            key.verify(signature, data, pss, digest)
            return True
    except InvalidSignature:
        return False
    return False


def ecdsa_der(r: int, s: int) -> bytes:
    """An ECDSA signature in DER from its two non-negative numbers, as vendors' formats hold them."""
    return encode_dss_signature(r, s)


def rsa_spki(n: int, e: int) -> bytes | None:
    """An RSA key's DER SubjectPublicKeyInfo from its two numbers; None where they are no public key."""
    try:
        key = rsa.RSAPublicNumbers(e, n).public_key()
    except ValueError:
        return None
    return key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
