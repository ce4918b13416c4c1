"""The one door to `cryptography`'s primitives: hashes, Ed25519, P-256, HPKE, AES-GCM, HKDF.

Keys are made from entropy that the caller passes in, so a whole day can be replayed; HPKE's own
encapsulation draws from the operating system. X.509 lives in `net.certificates`.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature, InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mlkem, x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from leasehold.errors import BadMessage, BadSignature, Unproven

Entropy = Callable[[int], bytes]
"""Gives that many unpredictable bytes: `os.urandom` in production, a seeded stream in a simulation."""

ED25519_BYTES: Final = 32
_MLKEM_PUBLIC_BYTES: Final = 1184
KEM_KEY_BYTES: Final = _MLKEM_PUBLIC_BYTES + 32
# Hybrid from the start: weights are worth recording today and decrypting in ten years.
_SUITE: Final = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_P256_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def sha256(data: bytes) -> bytes:
    """SHA-256."""
    return hashlib.sha256(data).digest()


def sha512(data: bytes) -> bytes:
    """SHA-512."""
    return hashlib.sha512(data).digest()


def mac(key: bytes, data: bytes) -> bytes:
    """HMAC-SHA-256."""
    return hmac.digest(key, data, "sha256")


def is_equal(one: bytes, other: bytes) -> bool:
    """Compare without telling by the time taken where they differ."""
    return hmac.compare_digest(one, other)


def hkdf(secret: bytes, *, salt: bytes, info: bytes, length: int = 32) -> bytes:
    """HKDF-SHA-256 (RFC 5869)."""
    return HKDF(algorithm=hashes.SHA256(), length=length, salt=salt, info=info).derive(secret)


@dataclass(frozen=True, slots=True)
class SigningKey:
    """An Ed25519 private key; the public half is 32 raw bytes."""

    _key: ed25519.Ed25519PrivateKey

    @classmethod
    def make(cls, entropy: Entropy) -> SigningKey:
        """A new key from 32 bytes of entropy."""
        return cls.load(entropy(ED25519_BYTES))

    @classmethod
    def load(cls, seed: bytes) -> SigningKey:
        """The key of a 32-byte seed (RFC 8032, 5.1.5)."""
        return cls(ed25519.Ed25519PrivateKey.from_private_bytes(seed))

    @property
    def seed(self) -> bytes:
        """The 32 secret bytes, for whoever must store them."""
        return self._key.private_bytes_raw()

    @property
    def public(self) -> bytes:
        """The 32 public bytes."""
        return self._key.public_key().public_bytes_raw()

    def sign(self, data: bytes) -> bytes:
        """A 64-byte signature. Callers sign `encoding.frame` output, never bare bytes."""
        return self._key.sign(data)


def check_signature(public: bytes, data: bytes, signature: bytes) -> None:
    """Raise BadSignature unless `signature` is `public`'s Ed25519 signature of `data`."""
    try:
        ed25519.Ed25519PublicKey.from_public_bytes(public).verify(signature, data)
    except (InvalidSignature, ValueError) as cause:
        raise BadSignature(about="Ed25519 signature") from cause


@dataclass(frozen=True, slots=True)
class KemKey:
    """A hybrid MLKEM768-X25519 private key, made for one attestation and then forgotten."""

    _key: MLKEM768X25519PrivateKey
    public: bytes

    @classmethod
    def make(cls, entropy: Entropy) -> KemKey:
        """A new key from 96 bytes of entropy; `public` is the 1,216 bytes ML-KEM key ‖ X25519 key."""
        kem = mlkem.MLKEM768PrivateKey.from_seed_bytes(entropy(64))
        curve = x25519.X25519PrivateKey.from_private_bytes(entropy(32))
        public = kem.public_key().public_bytes_raw() + curve.public_key().public_bytes_raw()
        return cls(MLKEM768X25519PrivateKey(kem, curve), public)

    def open(self, sealed: bytes, *, info: bytes) -> bytes:
        """Decrypt what `seal_to` made for this key with the same `info`. Raises Unproven."""
        try:
            return _SUITE.decrypt(sealed, self._key, info=info)
        except (InvalidTag, ValueError) as cause:
            raise Unproven(
                about="HPKE message", expected="made for this key and this context"
            ) from cause


def seal_to(public: bytes, secret: bytes, *, info: bytes) -> bytes:
    """HPKE base mode (RFC 9180): only the owner of `public` opens it, and only with this `info`."""
    if len(public) != KEM_KEY_BYTES:
        raise BadMessage(about="KEM key", got=len(public), expected=f"{KEM_KEY_BYTES} bytes")
    try:
        key = MLKEM768X25519PublicKey(
            mlkem.MLKEM768PublicKey.from_public_bytes(public[:_MLKEM_PUBLIC_BYTES]),
            x25519.X25519PublicKey.from_public_bytes(public[_MLKEM_PUBLIC_BYTES:]),
        )
        return _SUITE.encrypt(secret, key, info=info)
    except ValueError as cause:
        raise BadMessage(about="KEM key", expected="a valid MLKEM768-X25519 public key") from cause


@dataclass(frozen=True, slots=True)
class TlsKey:
    """A P-256 private key for TLS. The instance id is the SHA-256 of its SubjectPublicKeyInfo."""

    private: ec.EllipticCurvePrivateKey

    @classmethod
    def make(cls, entropy: Entropy) -> TlsKey:
        """A new key from 48 bytes of entropy (FIPS 186-5, A.2.1: extra random bits)."""
        scalar = int.from_bytes(entropy(48), "big") % (_P256_ORDER - 1) + 1
        return cls(ec.derive_private_key(scalar, ec.SECP256R1()))

    @classmethod
    def load(cls, pem: bytes) -> TlsKey:
        """The key of an unencrypted PEM, as `pem` gives it. Raises BadMessage."""
        try:
            key = serialization.load_pem_private_key(pem, password=None)
        except (TypeError, ValueError, UnsupportedAlgorithm) as cause:
            raise BadMessage(about="TLS key", expected="an unencrypted PEM private key") from cause
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
            raise BadMessage(about="TLS key", expected="P-256")
        return cls(key)

    @property
    def spki(self) -> bytes:
        """DER SubjectPublicKeyInfo."""
        return self.private.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    @property
    def pem(self) -> bytes:
        """PKCS#8 PEM, unencrypted: for memory only."""
        return self.private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )


def instance_id(spki: bytes) -> str:
    """The instance id of a TLS key: lower-case hex SHA-256 of its DER SubjectPublicKeyInfo."""
    return sha256(spki).hex()


class Aead:
    """AES-256-GCM under one key, with nonces that the caller never repeats."""

    __slots__ = ("_cipher",)

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def seal(self, nonce: bytes, data: bytes, associated: bytes = b"") -> bytes:
        """Ciphertext ‖ 16-byte tag."""
        return self._cipher.encrypt(nonce, data, associated)

    def seal_into(self, nonce: bytes, data: memoryview | bytes, out: memoryview) -> None:
        """Write ciphertext ‖ tag to `out`, which is 16 bytes longer than `data`."""
        self._cipher.encrypt_into(nonce, data, None, out)

    def open_into(self, nonce: bytes, data: memoryview | bytes, out: memoryview) -> bool:
        """Decrypt `data` (ciphertext ‖ tag) into `out` (16 bytes shorter); False where it is not authentic."""
        try:
            self._cipher.decrypt_into(nonce, data, None, out)
        except InvalidTag:
            return False
        return True
