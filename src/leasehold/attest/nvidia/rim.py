"""Reference integrity manifests: what NVIDIA says a driver or a VBIOS must measure.

An ISO/IEC 19770-2 SWID tag with an enveloped XML signature (W3C XML Signature 1.1, TCG RIM Information
Model). One shape is accepted, and values are read from the very bytes whose digest was checked. Refuses
to know reports, and whether a signer was revoked.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from leasehold.attest.certificate import DerCertificate, check_valid_at, read_certificate
from leasehold.attest.nvidia.chain import check_path, decide_root
from leasehold.attest.reference import Simulated
from leasehold.attest.signatures import Scheme, ecdsa_der, is_signed
from leasehold.attest.verdict import Trust
from leasehold.core.crypto import is_equal
from leasehold.core.units import KIB, Instant
from leasehold.errors import (
    BadEvidence,
    CertificateRejected,
    CollateralNotCurrent,
    CollateralRejected,
    MissingExtra,
    WrongSignerRole,
)

RIM_BYTES_MAX: Final = 128 * KIB  # a real one has 20 to 26 KiB
RIM_ROOT_SPKI_SHA256: Final = "dec1dc316477aa851eebdf51327ae9f864bc8d89254657ed1e7eb9168af1e1a3"
CHAIN_LENGTH: Final = 4
MEASUREMENTS_MAX: Final = 64
ALTERNATIVES_MAX: Final = 64
_VALUE_BYTES: Final = 48
_SWID: Final = "{http://standards.iso.org/iso/19770/-2/2015/schema.xsd}"
_DSIG: Final = "{http://www.w3.org/2000/09/xmldsig#}"
_HASH: Final = "{http://www.w3.org/2001/04/xmlenc#sha384}Hash"
_C14N: Final = "http://www.w3.org/2006/12/xml-c14n11"
_ECDSA_SHA384: Final = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384"
_DIGEST_SHA384: Final = "http://www.w3.org/2001/04/xmldsig-more#sha384"
_ENVELOPED: Final = "http://www.w3.org/2000/09/xmldsig#enveloped-signature"
_XML: Final = "{http://www.w3.org/XML/1998/namespace}"
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


def _refuse(about: str, got: object, expected: object) -> CollateralRejected:
    return CollateralRejected(about=f"RIM, {about}", got=got, expected=expected)


@lru_cache(maxsize=_KEPT)
def read_rim(data: bytes) -> Rim:
    """D-5: a manifest (XML) of the one accepted shape, signed by its first certificate.

    Depends on these bytes alone. Raises CollateralRejected; MissingExtra where lxml is not installed.
    """
    tree = _parse(data)
    signature = _signature(tree)
    certificates = _certificates(signature)
    _check_signature(tree, signature, certificates[0])
    signed = _parse(_signed_bytes(tree, signature))
    return _read(signed, certificates)


def _etree() -> Any:
    """lxml, which only those need who judge NVIDIA's devices."""
    try:
        from lxml import etree
    except ImportError as missing:
        raise MissingExtra(about="pip install 'leasehold[nvidia]'") from missing
    return etree


# XML ---------------------------------------------------------------------------------------------


def _parse(data: bytes) -> Any:
    """The root element of a document that has elements and text, and nothing else.

    No DTD and so no entities; no comments or processing instructions, which canonical XML would
    drop or keep between values.
    """
    if len(data) > RIM_BYTES_MAX:
        raise _refuse("size", len(data), f"<= {RIM_BYTES_MAX} bytes")
    if b"<!" in data or b"\0" in data:  # before any parser sees it: DTD, entities, comments, CDATA
        raise _refuse("markup", "<! or NUL", "elements and text")
    etree = _etree()
    parser = etree.XMLParser(
        encoding="utf-8",
        resolve_entities=False,
        load_dtd=False,
        no_network=True,
        huge_tree=False,
        recover=False,
        remove_blank_text=False,
    )
    try:
        root = etree.fromstring(data, parser)
    except (etree.XMLSyntaxError, ValueError) as cause:
        raise _refuse("XML", str(cause), "well-formed XML") from cause
    document = root.getroottree()
    outside = root.getprevious() is not None or root.getnext() is not None
    if outside or document.docinfo.internalDTD is not None:
        raise _refuse("document", "more than its root", "one element")
    for node in root.iter():
        if not isinstance(node.tag, str):
            raise _refuse("node", type(node).__name__, "elements and text")
        if any(name.startswith(_XML) for name in node.attrib):
            raise _refuse("attribute", "xml:", "none that canonical XML would pass down")
    return root


def _only(parent: Any, *names: str) -> list[Any]:
    """The children of an element, which must be exactly these."""
    children = list(parent)
    if [child.tag for child in children] != list(names):
        raise _refuse(_short(parent.tag), ", ".join(_short(one.tag) for one in children), names)
    return children


def _short(tag: str) -> str:
    return tag.rpartition("}")[2]


def _attributes(element: Any, **expected: str) -> None:
    if dict(element.attrib) != expected:
        raise _refuse(_short(element.tag), dict(element.attrib), expected)


def _signature(root: Any) -> Any:
    """The one signature, which is the root's last child; its shape is exactly NVIDIA's."""
    found = list(root.iter(f"{_DSIG}Signature"))
    if root.tag != f"{_SWID}SoftwareIdentity" or len(found) != 1 or found[0] is not root[-1]:
        raise _refuse("signature", f"{len(found)} signatures", "one, as the tag's last element")
    signature = found[0]
    info, value, key = _only(
        signature, f"{_DSIG}SignedInfo", f"{_DSIG}SignatureValue", f"{_DSIG}KeyInfo"
    )
    method, scheme, reference = _only(
        info,
        f"{_DSIG}CanonicalizationMethod",
        f"{_DSIG}SignatureMethod",
        f"{_DSIG}Reference",
    )
    transforms, digest, _ = _only(
        reference, f"{_DSIG}Transforms", f"{_DSIG}DigestMethod", f"{_DSIG}DigestValue"
    )
    enveloped, canonical = _only(transforms, f"{_DSIG}Transform", f"{_DSIG}Transform")
    for element, algorithm in (
        (method, _C14N),
        (scheme, _ECDSA_SHA384),
        (digest, _DIGEST_SHA384),
        (enveloped, _ENVELOPED),
        (canonical, _C14N),
    ):
        _only(element)
        _attributes(element, Algorithm=algorithm)
    _attributes(reference, URI="")
    for element in (signature, info, transforms, value, key):
        _attributes(element)
    return signature


def _base64(element: Any, about: str) -> bytes:
    _only(element)
    try:
        return base64.b64decode("".join((element.text or "").split()), validate=True)
    except (binascii.Error, ValueError) as cause:
        raise _refuse(about, str(cause), "base64") from cause


def _certificates(signature: Any) -> tuple[DerCertificate, ...]:
    """The four certificates, signer first, each signed by the next."""
    (data,) = _only(signature[2], f"{_DSIG}X509Data")
    elements = _only(data, *[f"{_DSIG}X509Certificate"] * CHAIN_LENGTH)
    try:
        chain = tuple(read_certificate(_base64(one, "certificate")) for one in elements)
        check_path(tuple(one.der for one in chain))
    except (BadEvidence, CertificateRejected) as cause:
        raise _refuse("certificates", cause.got, cause.expected) from cause
    return chain


def _canonical(element: Any) -> bytes:
    """Canonical XML: without `xml:` attributes version 1.0, which lxml has, and 1.1 are the same."""
    return bytes(_etree().tostring(element, method="c14n", exclusive=False, with_comments=False))


def _check_signature(root: Any, signature: Any, signer: DerCertificate) -> None:
    """XML Signature 1.1, 3.2: the digest of the rest, and the signature over that digest."""
    info = signature[0]
    digest = _base64(info[2][2], "digest")
    value = _base64(signature[1], "signature value")
    if not is_equal(hashlib.sha384(_signed_bytes(root, signature)).digest(), digest):
        raise _refuse("digest", digest, "that of the rest")
    r, s = (int.from_bytes(value[at : at + 48], "big") for at in (0, 48))
    signed = len(value) == 96 and is_signed(
        signer.spki, Scheme.ECDSA_SHA384, _canonical(info), ecdsa_der(r, s)
    )
    if not signed:
        raise _refuse("signature", "a bad signature", f"one by {signer.name}")


def _signed_bytes(root: Any, signature: Any) -> bytes:
    """What the digest covers: the tag without its signature, whose tail stays."""
    rest = deepcopy(root)
    enveloped = rest[root.index(signature)]
    before, tail = enveloped.getprevious(), enveloped.tail or ""
    if before is None:
        raise _refuse("tag", "nothing but a signature", "Entity, Meta, Payload")
    before.tail = (before.tail or "") + tail
    rest.remove(enveloped)
    return _canonical(rest)


# The tag -----------------------------------------------------------------------------------------


def _read(root: Any, certificates: tuple[DerCertificate, ...]) -> Rim:
    """The values of a tag that has been digested: no signature in it any more."""
    _, meta, payload = _only(root, f"{_SWID}Entity", f"{_SWID}Meta", f"{_SWID}Payload")
    tag_version = root.get("tagVersion", "")
    if not re.fullmatch(r"[0-9]{1,6}", tag_version):
        raise _refuse("tagVersion", tag_version, "a number")
    words = [meta.get(name, "") for name in ("colloquialVersion", "product", "edition", "revision")]
    if not all(re.fullmatch(r"[0-9A-Za-z._-]{1,32}", word) for word in words):
        raise _refuse("Meta", words, "version, product, edition, revision")
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
        raise _refuse("Payload", f"{len(payload)} measurements", f"1 to {MEASUREMENTS_MAX}")
    golden: dict[int, frozenset[bytes]] = {}
    seen: set[int] = set()
    for resource in payload:
        index, values = _measurement(resource)
        if index in seen:
            raise _refuse("index", index, "each one once")
        seen.add(index)
        if resource.get("active") != "False":  # what is not plainly off counts
            golden[index] = values
    return golden


def _measurement(resource: Any) -> tuple[int, frozenset[bytes]]:
    if resource.tag != f"{_SWID}Resource" or len(resource):
        raise _refuse("Payload", _short(resource.tag), "Resource")
    attributes = dict(resource.attrib)
    index, count = attributes.pop("index", ""), attributes.pop("alternatives", "")
    kind, size = attributes.pop("type", ""), attributes.pop("size", "")
    active = attributes.pop("active", "")
    attributes.pop("name", None)
    numbers = re.fullmatch(r"[0-9]{1,2}", index) and re.fullmatch(r"[1-9][0-9]?", count)
    if not numbers or (kind, size) != ("Measurement", str(_VALUE_BYTES)) or not active:
        raise _refuse("Resource", dict(resource.attrib), "index, alternatives, type, size, active")
    names = {f"{_HASH}{number}" for number in range(int(count))}
    if set(attributes) != names or len(names) > ALTERNATIVES_MAX:
        raise _refuse("Resource", sorted(map(_short, attributes)), f"Hash0 to Hash{len(names) - 1}")
    values = frozenset(_value(attributes[name]) for name in names)
    return int(index), values


def _value(text: str) -> bytes:
    if not re.fullmatch(rf"[0-9A-Fa-f]{{{2 * _VALUE_BYTES}}}", text):
        raise _refuse("Hash", text, f"{_VALUE_BYTES} bytes in hex")
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
    _check_roles(rim.certificates, trust)
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


def _check_roles(chain: tuple[DerCertificate, ...], trust: Trust) -> None:
    """Without this, whoever signs OCSP under the same authority could sign measurements."""
    vendor = "NVIDIA" if trust is Trust.PRODUCTION else "SIMULATED"
    for at, (one, (role, pattern)) in enumerate(zip(chain, _ROLES, strict=True)):
        fits = re.fullmatch(pattern.format(vendor=vendor), one.name) is not None
        limited = _EXTENDED_KEY_USAGE in one.extensions or not one.critical <= _MAY_BE_CRITICAL
        if not fits or limited or one.is_authority != (at > 0):
            raise WrongSignerRole(about=f"RIM, {role}", got=one.name, expected=pattern)
