"""A strict reader for X.509 certificates of vendors whose certificates X.509 libraries refuse.

AMD's have the serial number 0 and Gramine's a NULL that does not belong there; `cryptography` warns
about the first and refuses the second. Source: RFC 5280, section 4.1. Reads plain facts and checks
one signature at a time; which chain is a good one is for the platform's module to say.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from types import MappingProxyType
from typing import Final

from leasehold.attest.der import Element, Tag, bits, boolean, children, content, integer, parse_der
from leasehold.attest.signatures import Scheme, is_signed
from leasehold.core.crypto import sha256
from leasehold.core.units import SECOND, Instant
from leasehold.errors import BadEvidence, CertificateRejected

_KEPT: Final = 256
_EXPLICIT_VERSION: Final = 0xA0
_EXPLICIT_EXTENSIONS: Final = 0xA3
_V3: Final = 2
_COMMON_NAME: Final = bytes.fromhex("550403")
_BASIC_CONSTRAINTS: Final = bytes.fromhex("551d13")
_RSA_PSS: Final = bytes.fromhex("2a864886f70d01010a")
_SCHEMES: Final = {
    bytes.fromhex("2a8648ce3d040302"): Scheme.ECDSA_SHA256,
    bytes.fromhex("2a8648ce3d040303"): Scheme.ECDSA_SHA384,
    bytes.fromhex("2a8648ce3d040304"): Scheme.ECDSA_SHA512,
    bytes.fromhex("2a864886f70d010105"): Scheme.RSA_SHA1,  # old RA-TLS certificates
    bytes.fromhex("2a864886f70d01010b"): Scheme.RSA_SHA256,
    bytes.fromhex("2a864886f70d01010c"): Scheme.RSA_SHA384,
    bytes.fromhex("2a864886f70d01010d"): Scheme.RSA_SHA512,
}
_PSS: Final = {
    bytes.fromhex("608648016503040201"): (Scheme.PSS_SHA256, 32),
    bytes.fromhex("608648016503040202"): (Scheme.PSS_SHA384, 48),
    bytes.fromhex("608648016503040203"): (Scheme.PSS_SHA512, 64),
}
_PSS_TAGS: Final = [0xA0, 0xA1, 0xA2]
_MGF1: Final = bytes.fromhex("2a864886f70d010108")
_PEM: Final = re.compile(
    rb"-----BEGIN CERTIFICATE-----[ \t\r]*\n([A-Za-z0-9+/=\s]+?)-----END CERTIFICATE-----"
)


@dataclass(frozen=True, slots=True)
class DerCertificate:
    """Facts of one certificate, read without believing them.

    `tbs` is what `signature` covers. `issuer`, `subject` and `spki` are whole DER encodings; the two
    names are their common names, empty where there is none or more than one. Hashes are SHA-256 in
    hex. `extensions` maps an OID's content octets to the extension's value; `critical` lists those
    marked critical.
    """

    der: bytes
    tbs: bytes
    scheme: Scheme
    signature: bytes
    serial: int
    issuer: bytes
    subject: bytes
    issuer_name: str
    name: str
    starts: Instant
    ends: Instant
    spki: bytes
    spki_sha256: str
    sha256: str
    is_authority: bool
    extensions: Mapping[bytes, bytes]
    critical: frozenset[bytes]


def _refuse(about: str, got: object, expected: str) -> BadEvidence:
    return BadEvidence(about=f"certificate {about}", got=got, expected=expected)


@lru_cache(maxsize=_KEPT)
def read_certificate(der: bytes) -> DerCertificate:
    """The facts of one DER certificate (X.509 v3). Raises BadEvidence."""
    parts = children(content(parse_der(der), Tag.SEQUENCE))
    if len(parts) != 3:
        raise _refuse("structure", f"{len(parts)} parts", "3")
    (body, tbs), (algorithm, algorithm_der), (signature, _) = parts
    fields = list(children(content(body, Tag.SEQUENCE)))
    if len(fields) != 8:
        raise _refuse("fields", len(fields), "8: version 3, extensions, no unique identifiers")
    version, serial, inner, issuer, validity, subject, spki, extensions = fields
    if integer(parse_der(content_of(version[0], _EXPLICIT_VERSION))) != _V3:
        raise _refuse("version", version[1], "3")
    if inner[1] != algorithm_der:
        raise _refuse("signature algorithm", inner[1], "the same inside and outside")
    starts, ends = _validity(validity[0])
    found, critical = _extensions(parse_der(content_of(extensions[0], _EXPLICIT_EXTENSIONS)))
    return DerCertificate(
        der=der,
        tbs=tbs,
        scheme=_scheme(algorithm),
        signature=bits(signature),
        serial=integer(serial[0]),
        issuer=issuer[1],
        subject=subject[1],
        issuer_name=_common_name(issuer[0]),
        name=_common_name(subject[0]),
        starts=starts,
        ends=ends,
        spki=spki[1],
        spki_sha256=sha256(spki[1]).hex(),
        sha256=sha256(der).hex(),
        is_authority=_is_authority(found.get(_BASIC_CONSTRAINTS)),
        extensions=MappingProxyType(found),
        critical=critical,
    )


def content_of(element: Element, tag: int) -> bytes:
    """The content octets of an element with this context tag."""
    if element.tag != tag:
        raise _refuse("tag", hex(element.tag), hex(tag))
    return element.content


def _scheme(algorithm: Element) -> Scheme:
    """RFC 5758 and RFC 4055. A NULL after an ECDSA identifier is passed over: Gramine writes one."""
    parts = children(content(algorithm, Tag.SEQUENCE))
    if not 1 <= len(parts) <= 2:
        raise _refuse("signature algorithm", f"{len(parts)} parts", "1 or 2")
    oid = content(parts[0][0], Tag.OBJECT_IDENTIFIER)
    if oid == _RSA_PSS and len(parts) == 2:
        return _pss(parts[1][0])
    if len(parts) == 2 and parts[1][0] != Element(Tag.NULL, b""):
        raise _refuse("signature parameters", parts[1][1], "none or NULL")
    if oid not in _SCHEMES:
        raise _refuse("signature algorithm", oid, "ECDSA or RSA with SHA-2")
    return _SCHEMES[oid]


def _pss(parameters: Element) -> Scheme:
    """RFC 4055, section 3.1: hash, MGF1 with the same hash, a salt of the hash's size."""
    parts = [child for child, _ in children(content(parameters, Tag.SEQUENCE))]
    # AMD writes the trailer though it is the default, against DER.
    if [part.tag for part in parts] not in (_PSS_TAGS, [*_PSS_TAGS, 0xA3]):
        raise _refuse("PSS parameters", [hex(part.tag) for part in parts], "hash, mask and salt")
    if len(parts) == 4 and integer(parse_der(parts[3].content)) != 1:
        raise _refuse("PSS trailer", parts[3].content, "1")
    digest = _hash(parse_der(parts[0].content))
    mask = children(content(parse_der(parts[1].content), Tag.SEQUENCE))
    if len(mask) != 2 or content(mask[0][0], Tag.OBJECT_IDENTIFIER) != _MGF1:
        raise _refuse("PSS mask", parts[1].content, "MGF1 with a hash")
    if digest not in _PSS or _hash(mask[1][0]) != digest:
        raise _refuse("PSS hash", digest, "SHA-2, the same for MGF1")
    scheme, salt = _PSS[digest]
    if integer(parse_der(parts[2].content)) != salt:
        raise _refuse("PSS salt", parts[2].content, f"{salt} bytes")
    return scheme


def _hash(algorithm: Element) -> bytes:
    """The OID of a hash, which has no parameters (RFC 4055, section 2.1)."""
    parts = children(content(algorithm, Tag.SEQUENCE))
    if not parts or [part for part, _ in parts[1:]] not in ([], [Element(Tag.NULL, b"")]):
        raise _refuse("hash", algorithm.content, "an identifier, and none or NULL")
    return content(parts[0][0], Tag.OBJECT_IDENTIFIER)


def _validity(element: Element) -> tuple[Instant, Instant]:
    times = children(content(element, Tag.SEQUENCE))
    if len(times) != 2:
        raise _refuse("validity", f"{len(times)} times", "2")
    return _time(times[0][0]), _time(times[1][0])


def _time(element: Element) -> Instant:
    """RFC 5280, 4.1.2.5: UTCTime (years 1950 to 2049) or GeneralizedTime, to the second, in Zulu."""
    text = element.content.decode("ascii", "replace")
    if element.tag == Tag.UTC_TIME and re.fullmatch(r"[0-9]{12}Z", text):
        text = ("19" if text[:2] >= "50" else "20") + text
    elif element.tag != Tag.GENERALIZED_TIME or not re.fullmatch(r"[0-9]{14}Z", text):
        raise _refuse("time", text, "YYMMDDHHMMSSZ or YYYYMMDDHHMMSSZ")
    try:
        moment = datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
    except ValueError as cause:
        raise _refuse("time", text, "a date that exists") from cause
    return Instant(int(moment.timestamp()) * SECOND)


def _common_name(element: Element) -> str:
    """The one common name; empty, which is no role's name, where there is none or more than one."""
    names = []
    for attributes, _ in children(content(element, Tag.SEQUENCE)):
        for attribute, _ in children(content(attributes, Tag.SET)):
            pair = children(content(attribute, Tag.SEQUENCE))
            if len(pair) != 2:
                raise _refuse("name", f"{len(pair)} parts", "a type and a value")
            if content(pair[0][0], Tag.OBJECT_IDENTIFIER) == _COMMON_NAME:
                names.append(pair[1][0].content.decode("utf-8", "replace"))
    return names[0] if len(names) == 1 else ""


def _extensions(element: Element) -> tuple[dict[bytes, bytes], frozenset[bytes]]:
    found: dict[bytes, bytes] = {}
    critical = set()
    for extension, _ in children(content(element, Tag.SEQUENCE)):
        parts = [child for child, _ in children(content(extension, Tag.SEQUENCE))]
        if not 2 <= len(parts) <= 3:
            raise _refuse("extension", f"{len(parts)} parts", "2 or 3")
        oid = content(parts[0], Tag.OBJECT_IDENTIFIER)
        if oid in found:
            raise _refuse("extension", oid, "each one once")
        found[oid] = content(parts[-1], Tag.OCTET_STRING)
        if len(parts) == 3 and boolean(parts[1]):
            critical.add(oid)
    return found, frozenset(critical)


def _is_authority(constraints: bytes | None) -> bool:
    """RFC 5280, 4.2.1.9."""
    if constraints is None:
        return False
    parts = children(content(parse_der(constraints), Tag.SEQUENCE))
    return bool(parts) and parts[0][0].tag == Tag.BOOLEAN and boolean(parts[0][0])


def read_certificates(data: bytes, *, count_max: int) -> tuple[DerCertificate, ...]:
    """One certificate in DER, or up to `count_max` in PEM in their order. Raises BadEvidence."""
    if data[:1] == b"\x30":
        return (read_certificate(data),)
    found = _PEM.findall(data)
    if not 1 <= len(found) <= count_max:
        raise _refuse("file", f"{len(found)} certificates", f"1 to {count_max}, PEM or DER")
    try:
        return tuple(
            read_certificate(base64.b64decode(b"".join(text.split()), validate=True))
            for text in found
        )
    except binascii.Error as cause:
        raise _refuse("PEM", str(cause), "base64") from cause


def check_issued(certificate: DerCertificate, issuer: DerCertificate) -> None:
    """Raise CertificateRejected unless `issuer` signed `certificate` and is named in it."""
    if certificate.issuer != issuer.subject:
        raise CertificateRejected(
            about=f"issuer of {certificate.name}", got=certificate.issuer_name, expected=issuer.name
        )
    if not is_signed(issuer.spki, certificate.scheme, certificate.tbs, certificate.signature):
        raise CertificateRejected(
            about=certificate.name, got="a bad signature", expected=f"one by {issuer.name}"
        )


def check_valid_at(certificate: DerCertificate, *, now: Instant) -> None:
    """Raise CertificateRejected unless the certificate is valid at `now`."""
    if not certificate.starts <= now <= certificate.ends:
        raise CertificateRejected(
            about=f"validity of {certificate.name}",
            got=now,
            expected=f"{certificate.starts} to {certificate.ends}",
        )
