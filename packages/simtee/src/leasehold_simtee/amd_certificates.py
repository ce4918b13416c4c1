"""Certificates as AMD makes them: RSA-PSS above, P-384 below, and the serial number 0 on the leaves.

Source: AMD 57230, VCEK and VLEK certificates; AMD 56421, certificate table. The RSA keys are made once
in a process and are new in every process.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from leasehold.core.crypto import Entropy
from leasehold.core.units import DAY, Instant, after
from leasehold_simtee import der as asn1
from leasehold_simtee.certificates import YEARS, moment, name, serial

Product = Literal["Milan", "Genoa", "Turin"]
Signer = Literal["VCEK", "VLEK"]
CSP_ID: Final = "CN=SIMULATED cloud"
GUIDS: Final = {
    "VCEK": uuid.UUID("63da758d-e664-4564-adc5-f4b93be8accd"),
    "VLEK": uuid.UUID("a8074bc2-a25a-483e-aae6-39c045a0b8a1"),
    "ASK": uuid.UUID("4ab7b379-bbac-4fe4-a02f-05aef327c782"),
    "ARK": uuid.UUID("c0b406a4-a803-4952-9743-3fb6014cd0ae"),
}
_AMD: Final = (1, 3, 6, 1, 4, 1, 3704, 1)
_P384_ORDER: Final = int(
    "FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF"
    "C7634D81F4372DDF581A0DB248B0A77AECEC196ACCC52973",
    16,
)
PSS: Final = padding.PSS(padding.MGF1(hashes.SHA384()), hashes.SHA384().digest_size)


def p384_key(entropy: Entropy) -> ec.EllipticCurvePrivateKey:
    """A P-384 key from 56 bytes of entropy."""
    number = int.from_bytes(entropy(56), "big") % (_P384_ORDER - 1) + 1
    return ec.derive_private_key(number, ec.SECP384R1())


@cache
def rsa_key(role: str) -> rsa.RSAPrivateKey:
    """The RSA-4096 key of a role, made at its first use in this process."""
    del role
    return rsa.generate_private_key(65537, 4096)


@dataclass(frozen=True, slots=True)
class Tcb:
    """A patch level, as 8 bytes in a product's order."""

    bootloader: int = 4
    tee: int = 0
    snp: int = 24
    microcode: int = 219
    fmc: int = 0

    def pack(self, product: Product) -> bytes:
        """TCB_VERSION; Turin has another order."""
        if product == "Turin":
            return bytes((self.fmc, self.bootloader, self.tee, self.snp, 0, 0, 0, self.microcode))
        return bytes((self.bootloader, self.tee, 0, 0, 0, 0, self.snp, self.microcode))


def to_pem(certificate: bytes) -> bytes:
    """A DER certificate as PEM."""
    return x509.load_der_x509_certificate(certificate).public_bytes(serialization.Encoding.PEM)


def authority(
    role: str, common: str, issuer_role: str, issuer: str, entropy: Entropy, now: Instant
) -> x509.Certificate:
    """The certificate of an authority with the RSA key of its role, good for 25 years."""
    key, issuer_key = rsa_key(role), rsa_key(issuer_role)
    return (
        x509.CertificateBuilder()
        .subject_name(name(common))
        .issuer_name(name(issuer))
        .public_key(key.public_key())
        .serial_number(serial(entropy))
        .not_valid_before(moment(after(now, -DAY)))
        .not_valid_after(moment(now) + 25 * YEARS)
        .add_extension(x509.BasicConstraints(True, None), True)
        .sign(issuer_key, hashes.SHA384(), rsa_padding=PSS)
    )


def certificate_table(rows: dict[str, bytes]) -> bytes:
    """GUID, offset and length for each certificate, an entry of zeros, then the certificates."""
    at = (len(rows) + 1) * 24
    head, tail = b"", b""
    for label, data in rows.items():
        head += GUIDS[label].bytes + (at + len(tail)).to_bytes(4, "little")
        head += len(data).to_bytes(4, "little")
        tail += data
    return head + bytes(24) + tail


# Certificates as AMD makes them: with the serial number 0, which no X.509 builder gives ------------


def endorse(
    issuer: x509.Certificate,
    issuer_role: str,
    key: ec.EllipticCurvePrivateKey,
    *,
    signer: Signer,
    hardware_id: bytes,
    tcb: Tcb,
    now: Instant,
    product: Product,
    product_name: str | None = None,
    years: int | None = None,
    common: str | None = None,
) -> bytes:
    """A VCEK (seven years) or a VLEK (one year), DER."""
    lives = years or (7 if signer == "VCEK" else 1)
    algorithm = _pss_sha384()
    subject = name(common or f"SIMULATED SEV-{signer}").public_bytes()
    public = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    times = [
        asn1.element(0x17, f"{at:%y%m%d%H%M%S}Z".encode())
        for at in (moment(after(now, -DAY)), moment(now) + lives * YEARS)
    ]
    extensions = amd_extensions(
        product_name or ("Milan-B0" if product == "Milan" else product),
        tcb,
        turin=product == "Turin",
        hardware_id=hardware_id if signer == "VCEK" else None,
    )
    tbs = asn1.sequence(
        asn1.element(0xA0, asn1.integer(2)),
        asn1.integer(0),
        algorithm,
        issuer.subject.public_bytes(),
        asn1.sequence(*times),
        subject,
        public,
        asn1.element(0xA3, extensions),
    )
    signature = rsa_key(issuer_role).sign(tbs, PSS, hashes.SHA384())
    return asn1.sequence(tbs, algorithm, asn1.element(0x03, b"\0" + signature))


def amd_extensions(product: str, tcb: Tcb, *, turin: bool, hardware_id: bytes | None) -> bytes:
    """The SEQUENCE of extensions below 1.3.6.1.4.1.3704.1; without a hardware id it is a VLEK's."""
    values: dict[tuple[int, ...], bytes] = {
        (1,): asn1.integer(1 if turin else 0),
        (2,): asn1.element(0x16, product.encode()),
        (3, 1): asn1.integer(tcb.bootloader),
        (3, 2): asn1.integer(tcb.tee),
        (3, 3): asn1.integer(tcb.snp),
        (3, 8): asn1.integer(tcb.microcode),
    }
    if turin:
        values[(3, 9)] = asn1.integer(tcb.fmc)
    if hardware_id is None:
        values[(5,)] = asn1.element(0x16, CSP_ID.encode())
    else:
        values[(4,)] = hardware_id
    return asn1.sequence(
        *(asn1.sequence(asn1.oid(*_AMD, *at), asn1.octets(value)) for at, value in values.items())
    )


def _pss_sha384() -> bytes:
    """AlgorithmIdentifier of RSASSA-PSS with SHA-384, MGF1 with SHA-384, 48 bytes of salt (RFC 4055)."""
    sha384 = asn1.sequence(asn1.oid(2, 16, 840, 1, 101, 3, 4, 2, 2), asn1.element(0x05, b""))
    mgf1 = asn1.sequence(asn1.oid(1, 2, 840, 113549, 1, 1, 8), sha384)
    return asn1.sequence(
        asn1.oid(1, 2, 840, 113549, 1, 1, 10),
        asn1.sequence(
            asn1.element(0xA0, sha384),
            asn1.element(0xA1, mgf1),
            asn1.element(0xA2, asn1.integer(48)),
        ),
    )
