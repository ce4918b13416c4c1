"""P-384 keys and certificates as NVIDIA writes them; every name in them says SIMULATED."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID, ObjectIdentifier

from leasehold.core.crypto import Entropy
from leasehold_simtee.certificates import Key, der, serial
from leasehold_simtee.der import element, integer, octets, oid, sequence

NOBODY_ASKS_LATER: Final = datetime(9999, 12, 31, 23, 59, 59)  # how X.509 says "no end"
DICE: Final = ObjectIdentifier("2.23.133.5.4.1")
DICE_TCB_INFO: Final = ObjectIdentifier("2.23.133.5.4.1.1")
SHA384: Final = oid(2, 16, 840, 1, 101, 3, 4, 2, 2)
_ORDER: Final = ec.SECP384R1().group_order
_ECDSA: Final = ec.ECDSA(hashes.SHA384(), deterministic_signing=True)


def make_key(entropy: Entropy) -> Key:
    """A P-384 key out of this entropy."""
    number = int.from_bytes(entropy(56), "big") % (_ORDER - 1) + 1
    return ec.derive_private_key(number, ec.SECP384R1())


def sign_raw(key: Key, data: bytes) -> bytes:
    """ECDSA-P384-SHA384 as SPDM and XML signatures write it: r ‖ s, 48 bytes each, big-endian."""
    r, s = decode_dss_signature(key.sign(data, _ECDSA))
    return r.to_bytes(48, "big") + s.to_bytes(48, "big")


@dataclass(frozen=True)
class Party:
    """A key and its certificate."""

    key: Key
    certificate: x509.Certificate

    @property
    def der(self) -> bytes:
        """The certificate."""
        return der(self.certificate)


def issue(
    common: str,
    issuer: Party | None,
    *,
    entropy: Entropy,
    starts: datetime,
    ends: datetime,
    is_authority: bool = True,
    number: int | None = None,
    usages: tuple[ObjectIdentifier, ...] = (),
    extension: tuple[ObjectIdentifier, bytes] | None = None,
) -> Party:
    """A new key with a certificate; without an issuer it is its own."""
    key = make_key(entropy)
    wanted = serial(entropy) if number is None else number
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, common),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "SIMULATED, no hardware"),
            x509.NameAttribute(NameOID.SERIAL_NUMBER, f"{wanted:X}"),
        ]
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(wanted)
        .not_valid_before(starts)
        .not_valid_after(ends)
        .add_extension(x509.BasicConstraints(is_authority, None), True)
    )
    if usages:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), True)
    if extension is not None:
        builder = builder.add_extension(x509.UnrecognizedExtension(*extension), False)
    signer = key if issuer is None else issuer.key
    return Party(key, builder.sign(signer, hashes.SHA384(), ecdsa_deterministic=True))


def hopper_dice(spki: bytes, fwid: bytes) -> tuple[ObjectIdentifier, bytes]:
    """The extension of Hopper's device keys: version, the hardware's key, the firmware's hash."""
    return DICE, sequence(integer(1), spki, sequence(SHA384, octets(fwid)))


def blackwell_dice(fwid: bytes) -> tuple[ObjectIdentifier, bytes]:
    """The extension of Blackwell's device keys: DiceTcbInfo with two firmware hashes."""
    hashes_of = (sequence(SHA384, octets(fwid)), sequence(SHA384, octets(bytes(48))))
    vendor = element(0x80, b"SIMULATED")
    return DICE_TCB_INFO, sequence(vendor, element(0xA6, b"".join(hashes_of)))


def sha384(data: bytes) -> bytes:
    """SHA-384."""
    return hashlib.sha384(data).digest()
