"""The certificates that vouch for an SNP report: the table they come in, and what a VCEK or VLEK says.

Source: AMD 56421, GHCB Specification, certificate table; AMD 57230, VCEK and VLEK certificates, table of
extensions below 1.3.6.1.4.1.3704.1. Refuses to know whether any of it is authentic.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from leasehold.attest.amd.report import SigningKey, Tcb
from leasehold.attest.certificate import DerCertificate, read_certificates
from leasehold.attest.der import Tag, content, integer, parse_der
from leasehold.core.units import KIB
from leasehold.errors import BadEvidence

TABLE_BYTES_MAX: Final = 32 * KIB
ENTRIES_MAX: Final = 16
CERTIFICATES_MAX: Final = 8
_ENTRY_BYTES: Final = 24
NAMES: Final = {
    uuid.UUID("63da758d-e664-4564-adc5-f4b93be8accd"): "VCEK",
    uuid.UUID("a8074bc2-a25a-483e-aae6-39c045a0b8a1"): "VLEK",
    uuid.UUID("4ab7b379-bbac-4fe4-a02f-05aef327c782"): "ASK",
    uuid.UUID("c0b406a4-a803-4952-9743-3fb6014cd0ae"): "ARK",
}
_ARC: Final = bytes.fromhex("2b060104019c7801")  # 1.3.6.1.4.1.3704.1
_PRODUCT, _HARDWARE_ID, _CSP_ID = _ARC + b"\x02", _ARC + b"\x04", _ARC + b"\x05"
_BOOTLOADER, _TEE, _SNP, _MICROCODE, _FMC = (
    _ARC + bytes((3, number)) for number in (1, 2, 3, 8, 9)
)
_SVN_MAX: Final = 0xFF
_FAMILY: Final = {"Siena": "Genoa"}  # AMD 57230: shares Genoa's root and authorities


class Entry(NamedTuple):
    """One row of a certificate table: `data` is PEM or DER and begins at `offset` of the table."""

    guid: uuid.UUID
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Endorsement:
    """What a VCEK or VLEK says of the key that signs reports.

    `product` is AMD's name without the stepping. `hardware_id` (VCEK) has 64 bytes, 8 from Turin on;
    `csp_id` (VLEK) names the cloud that holds the key.
    """

    kind: SigningKey
    product: str
    tcb: Tcb
    hardware_id: bytes | None
    csp_id: str | None


def is_table(data: bytes) -> bool:
    """Whether bytes begin with an entry of a certificate table."""
    return len(data) >= _ENTRY_BYTES and uuid.UUID(bytes=data[:16]) in NAMES


def parse_table(data: bytes) -> tuple[Entry, ...]:
    """E-3: the entries of a certificate table, up to the entry of zeros that ends it.

    Raises BadEvidence.
    """
    if len(data) > TABLE_BYTES_MAX:
        raise BadEvidence(
            about="certificate table", got=len(data), expected=f"<= {TABLE_BYTES_MAX} bytes"
        )
    entries: list[Entry] = []
    for at in range(0, (ENTRIES_MAX + 1) * _ENTRY_BYTES, _ENTRY_BYTES):
        row = data[at : at + _ENTRY_BYTES]
        if len(row) != _ENTRY_BYTES:
            break
        if not any(row):
            return tuple(entries)
        offset, length = int.from_bytes(row[16:20], "little"), int.from_bytes(row[20:], "little")
        if offset + length > len(data):
            raise BadEvidence(
                about="certificate table",
                got=f"an entry to {offset + length}",
                expected=f"within {len(data)} bytes",
            )
        entries.append(Entry(uuid.UUID(bytes=row[:16]), offset, data[offset : offset + length]))
    raise BadEvidence(
        about="certificate table", got="no end", expected=f"at most {ENTRIES_MAX} entries and zeros"
    )


def read_all(blobs: Iterable[bytes]) -> tuple[DerCertificate, ...]:
    """All certificates in tables, PEM or DER; of a table only the kinds that are known.

    Raises BadEvidence.
    """
    found: list[DerCertificate] = []
    for blob in blobs:
        parts = [blob]
        if not blob.startswith((b"\x30", b"-----BEGIN")):  # DER, PEM
            parts = [row.data for row in parse_table(blob) if row.guid in NAMES and row.data]
        for part in parts:
            found += read_certificates(part, count_max=CERTIFICATES_MAX)
        if len(found) > CERTIFICATES_MAX:
            raise BadEvidence(
                about="certificates", got=len(found), expected=f"<= {CERTIFICATES_MAX}"
            )
    return tuple(found)


def parse_endorsement(certificate: DerCertificate) -> Endorsement:
    """E-5: the extensions of a VCEK (with a hardware id) or a VLEK (with a CSP id).

    Raises BadEvidence.
    """
    extensions = certificate.extensions
    hardware, csp = extensions.get(_HARDWARE_ID), extensions.get(_CSP_ID)
    product = _text(_needed(certificate, _PRODUCT)).partition("-")[0]
    product = _FAMILY.get(product, product)
    if (_FMC in extensions) != (product == "Turin"):
        raise BadEvidence(
            about=certificate.name, got=product, expected="an FMC level for Turin and no other"
        )
    if (hardware is None) == (csp is None):
        raise BadEvidence(
            about=certificate.name,
            got="both or neither",
            expected="a hardware id (VCEK) or a CSP id (VLEK)",
        )
    return Endorsement(
        kind=SigningKey.VLEK if hardware is None else SigningKey.VCEK,
        product=product,
        tcb=Tcb(
            bootloader=_svn(certificate, _BOOTLOADER),
            tee=_svn(certificate, _TEE),
            snp=_svn(certificate, _SNP),
            microcode=_svn(certificate, _MICROCODE),
            fmc=_svn(certificate, _FMC) if _FMC in extensions else 0,
        ),
        hardware_id=None if hardware is None else _hardware_id(hardware),
        csp_id=None if csp is None else _text(csp),
    )


def _needed(certificate: DerCertificate, oid: bytes) -> bytes:
    value = certificate.extensions.get(oid)
    if value is None:
        number = ".".join(map(str, oid[len(_ARC) :]))
        raise BadEvidence(about=certificate.name, expected=f"extension 1.3.6.1.4.1.3704.1.{number}")
    return value


def _svn(certificate: DerCertificate, oid: bytes) -> int:
    value = integer(parse_der(_needed(certificate, oid)))
    if value > _SVN_MAX:
        raise BadEvidence(about=certificate.name, got=value, expected=f"<= {_SVN_MAX}")
    return value


def _text(value: bytes) -> str:
    try:
        return content(parse_der(value), Tag.IA5_STRING).decode("ascii")
    except UnicodeDecodeError as cause:
        raise BadEvidence(about="IA5String", got=value, expected="ASCII") from cause


def _hardware_id(value: bytes) -> bytes:
    """64 raw bytes, or 8 from Turin on; some certificates wrap them in one more OCTET STRING."""
    if len(value) in (66, 10) and value[:2] == bytes((Tag.OCTET_STRING, len(value) - 2)):
        value = value[2:]
    if len(value) not in (64, 8):
        raise BadEvidence(about="hardware id", got=len(value), expected="64 or 8 bytes")
    return value
