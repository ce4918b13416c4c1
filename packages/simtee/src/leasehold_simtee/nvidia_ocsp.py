"""SIMULATED OCSP responders (RFC 6960): what they say, and everything that they could say wrongly."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from leasehold.core.crypto import Entropy
from leasehold.core.units import DAY, Instant, after
from leasehold_simtee.certificates import Key, moment
from leasehold_simtee.der import element, enumerated, integer, octets, oid, sequence
from leasehold_simtee.nvidia_certificates import Party, issue

_BASIC: Final = oid(1, 3, 6, 1, 5, 5, 7, 48, 1, 1)
_ECDSA_SHA384: Final = sequence(oid(1, 2, 840, 10045, 4, 3, 3))
_HASHES: Final = {
    "sha1": oid(1, 3, 14, 3, 2, 26),
    "sha256": oid(2, 16, 840, 1, 101, 3, 4, 2, 1),
    "sha384": oid(2, 16, 840, 1, 101, 3, 4, 2, 2),
}
_GOOD: Final = b"\x80\x00"
_UNKNOWN: Final = b"\x82\x00"
_SIGNING: Final = ec.ECDSA(hashes.SHA384(), deterministic_signing=True)


def responder(issuer: Party, *, entropy: Entropy, now: Instant) -> Party:
    """The certificate that signs OCSP responses for an issuer."""
    return issue(
        "SIMULATED OCSP Responder",
        issuer,
        entropy=entropy,
        starts=moment(now) - timedelta(days=1),
        ends=moment(now) + timedelta(days=3 * 365),
        is_authority=False,
        usages=(ExtendedKeyUsageOID.OCSP_SIGNING,),
    )


def _time(when: Instant) -> bytes:
    return element(0x18, moment(when).strftime("%Y%m%d%H%M%SZ").encode())


def _status(status: str, reason: int | None, now: Instant) -> bytes:
    if status == "revoked":
        told = b"" if reason is None else element(0xA0, enumerated(reason))
        return element(0xA1, _time(now) + told)
    return {"good": _GOOD, "unknown": _UNKNOWN}[status]


def ocsp_response(
    certificate: Party,
    issuer: Party,
    signer: Party,
    *,
    now: Instant,
    lifetime: int | None = DAY,
    status: str = "good",
    reason: int | None = None,
    algorithm: str = "sha384",
    delegated: bool = True,
    key: Key | None = None,
    answers: int = 1,
    extensions: bytes = b"",
) -> bytes:
    """A DER response made at `now`; `reason` is a CRLReason (RFC 5280, 5.3.1).

    `delegated` puts the signer's certificate into it, `key` signs instead of the signer's, `lifetime` None
    leaves out nextUpdate, `answers` repeats the answer.
    """
    name = issuer.certificate.subject.public_bytes()
    point = issuer.key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    certid = sequence(
        sequence(_HASHES[algorithm]),
        octets(hashlib.new(algorithm, name).digest()),
        octets(hashlib.new(algorithm, point).digest()),
        integer(certificate.certificate.serial_number),
    )
    until = b"" if lifetime is None else element(0xA0, _time(after(now, lifetime)))
    answer = sequence(certid, _status(status, reason, now), _time(now), until)
    mine = signer.key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    responder_id = element(0xA2, octets(hashlib.sha1(mine, usedforsecurity=False).digest()))
    told = sequence(
        responder_id,
        _time(now),
        sequence(*[answer] * answers),
        element(0xA1, sequence(extensions)) if extensions else b"",
    )
    signature = (signer.key if key is None else key).sign(told, _SIGNING)
    certificates = element(0xA0, sequence(signer.der)) if delegated else b""
    basic = sequence(told, _ECDSA_SHA384, element(0x03, b"\x00" + signature), certificates)
    return sequence(enumerated(0), element(0xA0, sequence(_BASIC, octets(basic))))
