"""Reference integrity manifests: what NVIDIA says a driver or a VBIOS must measure.

An ISO/IEC 19770-2 SWID tag with an enveloped XML signature (W3C XML Signature 1.1, TCG RIM Information
Model). One shape is accepted, and values are read from the very bytes whose digest was checked. Refuses
to know reports, and whether a signer was revoked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from leasehold.attest.certificate import DerCertificate, check_valid_at, read_certificate
from leasehold.attest.nvidia.chain import decide_root
from leasehold.attest.nvidia.signed_xml import only, read_signed, refuse, short
from leasehold.attest.reference import Simulated
from leasehold.attest.verdict import Trust
from leasehold.core.units import Instant
from leasehold.errors import (
    CertificateRejected,
    CollateralNotCurrent,
    WrongSignerRole,
)

RIM_ROOT_SPKI_SHA256: Final = "dec1dc316477aa851eebdf51327ae9f864bc8d89254657ed1e7eb9168af1e1a3"
CHAIN_LENGTH: Final = 4
MEASUREMENTS_MAX: Final = 64
ALTERNATIVES_MAX: Final = 64
_VALUE_BYTES: Final = 48
_SWID: Final = "{http://standards.iso.org/iso/19770/-2/2015/schema.xsd}"
_HASH: Final = "{http://www.w3.org/2001/04/xmlenc#sha384}Hash"
_EXTENDED_KEY_USAGE: Final = bytes.fromhex("551d25")
_MAY_BE_CRITICAL: Final = frozenset({bytes.fromhex("551d0f"), bytes.fromhex("551d13")})
_ROLES: Final = (
    ("signer", r"HCC RIM L4 Signer|{vendor} Reference Value L4 [A-Z0-9_ ]+"),
    ("signer's authority", r"{vendor} Reference Value L3 [A-Z0-9_ ]+"),
    ("family", r"{vendor} Reference Value [A-Z0-9_ ]+ CA"),
    ("root", r"{vendor} CoRIM signing Root CA"),
)
_ORDER_BITS: Final = 48  # of a time in milliseconds, below the tag's version
_KEPT: Final = 64


@dataclass(frozen=True, slots=True)
class Rim:
    """A manifest whose signature fits its own certificates; whether they are trusted is still open.

    `version` is the driver's or VBIOS's, `product` the chip, `edition` `GPU` or `SWITCH`. `golden` maps
    an index (from 0; SPDM counts from 1) to the values that pass, 48 bytes each, for those that count.
    """

    version: str
    product: str
    edition: str
    revision: str
    tag_version: int
    golden: Mapping[int, frozenset[bytes]]
    certificates: tuple[DerCertificate, ...]

    @property
    def order(self) -> int:
        """What a newer issue of the same manifest has more of: the tag's version, then when its signer began.

        NVIDIA issues manifests again under the same name, tag version and revision, each time with a new
        signer's certificate.
        """
        return (self.tag_version << _ORDER_BITS) + self.certificates[0].starts

    @property
    def revocable(self) -> tuple[tuple[DerCertificate, DerCertificate], ...]:
        """Each certificate below the root, with its issuer: those that OCSP answers for."""
        return tuple(zip(self.certificates[:-1], self.certificates[1:], strict=True))


class RimFacts(NamedTuple):
    """What a store needs to know of a manifest: `ends` is when its signer's certificate does.

    A manifest does not contain the name that it is fetched by.
    """

    version: str
    product: str
    order: int
    ends: Instant


class Signers(NamedTuple):
    """Who vouches for a manifest: the root's worth, the earliest end, and whose certificates have ended."""

    trust: Trust
    ends: Instant
    expired: tuple[str, ...]


def rim_facts(data: bytes) -> RimFacts:
    """The facts of a manifest (XML) whose signature fits. Raises CollateralRejected, MissingExtra."""
    rim = read_rim(data)
    return RimFacts(rim.version, rim.product, rim.order, rim.certificates[0].ends)


@lru_cache(maxsize=_KEPT)
def read_rim(data: bytes) -> Rim:
    """D-5: a manifest (XML) of the one accepted shape, signed by its first certificate.

    Depends on these bytes alone. Raises CollateralRejected; MissingExtra where lxml is not installed.
    """
    signed = read_signed(data, certificates=CHAIN_LENGTH)
    return _read(signed.root, signed.certificates)


# The tag -----------------------------------------------------------------------------------------


def _read(root: Any, certificates: tuple[DerCertificate, ...]) -> Rim:
    """The values of a tag that has been digested: no signature in it any more."""
    if root.tag != f"{_SWID}SoftwareIdentity":
        raise refuse("root", short(root.tag), "SoftwareIdentity")
    _, meta, payload = only(root, f"{_SWID}Entity", f"{_SWID}Meta", f"{_SWID}Payload")
    tag_version = root.get("tagVersion", "")
    if not re.fullmatch(r"[0-9]{1,6}", tag_version):
        raise refuse("tagVersion", tag_version, "a number")
    words = [meta.get(name, "") for name in ("colloquialVersion", "product", "edition", "revision")]
    if not all(re.fullmatch(r"[0-9A-Za-z._-]{1,32}", word) for word in words):
        raise refuse("Meta", words, "version, product, edition, revision")
    version, product, edition, revision = words
    return Rim(
        version=version,
        product=product,
        edition=edition,
        revision=revision,
        tag_version=int(tag_version),
        golden=MappingProxyType(_golden(payload)),
        certificates=certificates,
    )


def _golden(payload: Any) -> dict[int, frozenset[bytes]]:
    """The values of each active measurement; every index at most once, active or not."""
    if not 1 <= len(payload) <= MEASUREMENTS_MAX:
        raise refuse("Payload", f"{len(payload)} measurements", f"1 to {MEASUREMENTS_MAX}")
    golden: dict[int, frozenset[bytes]] = {}
    seen: set[int] = set()
    for resource in payload:
        index, values = _measurement(resource)
        if index in seen:
            raise refuse("index", index, "each one once")
        seen.add(index)
        if resource.get("active") != "False":  # what is not plainly off counts
            golden[index] = values
    return golden


def _measurement(resource: Any) -> tuple[int, frozenset[bytes]]:
    if resource.tag != f"{_SWID}Resource" or len(resource):
        raise refuse("Payload", short(resource.tag), "Resource")
    attributes = dict(resource.attrib)
    index, count = attributes.pop("index", ""), attributes.pop("alternatives", "")
    kind, size = attributes.pop("type", ""), attributes.pop("size", "")
    active = attributes.pop("active", "")
    attributes.pop("name", None)
    numbers = re.fullmatch(r"[0-9]{1,2}", index) and re.fullmatch(r"[1-9][0-9]?", count)
    if not numbers or (kind, size) != ("Measurement", str(_VALUE_BYTES)) or not active:
        raise refuse("Resource", dict(resource.attrib), "index, alternatives, type, size, active")
    names = {f"{_HASH}{number}" for number in range(int(count))}
    if set(attributes) != names or len(names) > ALTERNATIVES_MAX:
        raise refuse("Resource", sorted(map(short, attributes)), f"Hash0 to Hash{len(names) - 1}")
    values = frozenset(_value(attributes[name]) for name in names)
    return int(index), values


def _value(text: str) -> bytes:
    if not re.fullmatch(rf"[0-9A-Fa-f]{{{2 * _VALUE_BYTES}}}", text):
        raise refuse("Hash", text, f"{_VALUE_BYTES} bytes in hex")
    return bytes.fromhex(text)


# Signers -----------------------------------------------------------------------------------------


def check_signers(
    rim: Rim, *, simulated: Simulated | None, accept_expired: bool, now: Instant
) -> Signers:
    """D-5: four certificates, each for its role, up to a trusted root.

    They live two years and the manifests longer: with `accept_expired` one that has ended passes if it
    was issued while its issuer was valid, and the caller has NVIDIA say that it was not revoked.
    Raises UntrustedRoot, WrongSignerRole, CollateralNotCurrent.
    """
    trust = decide_root(
        rim.certificates[-1],
        RIM_ROOT_SPKI_SHA256,
        None if simulated is None else simulated.nvidia_rim_root_sha256,
    )
    _check_roles(tuple(one.der for one in rim.certificates), trust)
    expired = []
    ends = rim.certificates[-1].ends
    for one, issuer in zip(
        rim.certificates, [*rim.certificates[1:], rim.certificates[-1]], strict=True
    ):
        if not issuer.starts <= one.starts <= issuer.ends:
            raise CollateralNotCurrent(
                about=f"RIM, {one.name}", got=one.starts, expected=f"while {issuer.name} is valid"
            )
        if one.ends < now and one is not issuer and accept_expired and one.starts <= now:
            expired.append(one.name)
            continue
        try:
            check_valid_at(one, now=now)
        except CertificateRejected as cause:
            raise CollateralNotCurrent(
                about=f"RIM, {one.name}", got=cause.got, expected=cause.expected
            ) from cause
        ends = min(ends, one.ends)
    return Signers(trust, ends, tuple(expired))


@lru_cache(maxsize=_KEPT)
def _check_roles(ders: tuple[bytes, ...], trust: Trust) -> None:
    """Without this, whoever signs OCSP under the same authority could sign measurements."""
    vendor = "NVIDIA" if trust is Trust.PRODUCTION else "SIMULATED"
    chain = map(read_certificate, ders)
    for at, (one, (role, pattern)) in enumerate(zip(chain, _ROLES, strict=True)):
        fits = re.fullmatch(pattern.format(vendor=vendor), one.name) is not None
        limited = _EXTENDED_KEY_USAGE in one.extensions or not one.critical <= _MAY_BE_CRITICAL
        if not fits or limited or one.is_authority != (at > 0):
            raise WrongSignerRole(about=f"RIM, {role}", got=one.name, expected=pattern)
