"""Enveloped XML signatures in the one shape in which NVIDIA writes them.

Source: W3C XML Signature 1.1, Canonical XML 1.1. Whatever XML offers beyond elements, attributes and
text is refused before it is read, and callers get the very bytes that were digested, parsed again:
what a signature does not cover cannot be taken for what it does. Refuses to know what the elements mean
and whom to trust.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Final

from leasehold.attest.certificate import DerCertificate, read_certificate
from leasehold.attest.nvidia.chain import check_path
from leasehold.attest.signatures import Scheme, ecdsa_der, is_signed
from leasehold.core.crypto import is_equal
from leasehold.core.units import KIB
from leasehold.errors import BadEvidence, CertificateRejected, CollateralRejected, MissingExtra

XML_BYTES_MAX: Final = 128 * KIB  # a real manifest has 20 to 26 KiB
_ELEMENTS_MAX: Final = 256  # a real one has 64 measurements and some 20 others
_ATTRIBUTES_MAX: Final = 96  # a measurement has six, and one for each alternative
_NAMESPACES_MAX: Final = 32  # a real one declares six
_DSIG: Final = "{http://www.w3.org/2000/09/xmldsig#}"
_C14N: Final = "http://www.w3.org/2006/12/xml-c14n11"
_ECDSA_SHA384: Final = "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384"
_DIGEST_SHA384: Final = "http://www.w3.org/2001/04/xmldsig-more#sha384"
_ENVELOPED: Final = "http://www.w3.org/2000/09/xmldsig#enveloped-signature"
_XML: Final = "{http://www.w3.org/XML/1998/namespace}"


@dataclass(frozen=True, slots=True)
class SignedXml:
    """A document whose signature fits: `root` is the element that was digested, read again.

    `certificates` are those that came with it, signer first; each is signed by the next.
    """

    root: Any
    certificates: tuple[DerCertificate, ...]


def read_signed(data: bytes, *, certificates: int) -> SignedXml:
    """D-5: a document with one enveloped signature and so many certificates, by the first one's key.

    Raises CollateralRejected; MissingExtra where lxml is not installed.
    """
    tree = _parse(data)
    signature = _signature(tree)
    chain = _certificates(signature, certificates)
    rest = _rest(tree, signature)
    _check_signature(rest, signature, chain[0])
    return SignedXml(_parse(rest), chain)


def refuse(about: str, got: object, expected: object) -> CollateralRejected:
    """The refusal of a manifest."""
    return CollateralRejected(about=f"RIM, {about}", got=got, expected=expected)


def _etree() -> Any:
    """lxml, which only those need who judge NVIDIA's devices."""
    try:
        from lxml import etree
    except ImportError as missing:
        raise MissingExtra(about="pip install 'leasehold[nvidia]'") from missing
    return etree


def _parse(data: bytes) -> Any:
    """The root element of a document that has elements and text, and nothing else.

    No DTD and so no entities; no comments or processing instructions, which canonical XML would
    drop or keep between values.
    """
    if len(data) > XML_BYTES_MAX:
        raise refuse("size", len(data), f"<= {XML_BYTES_MAX} bytes")
    if (
        data.count(b"xmlns") > _NAMESPACES_MAX
    ):  # canonical form takes time for elements times namespaces
        raise refuse("namespaces", data.count(b"xmlns"), f"<= {_NAMESPACES_MAX}")
    if b"<!" in data or b"\0" in data:  # before any parser sees it: DTD, entities, comments, CDATA
        raise refuse("markup", "<! or NUL", "elements and text")
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
        raise refuse("XML", str(cause), "well-formed XML") from cause
    document = root.getroottree()
    outside = root.getprevious() is not None or root.getnext() is not None
    if outside or document.docinfo.internalDTD is not None:
        raise refuse("document", "more than its root", "one element")
    for number, node in enumerate(root.iter()):
        if not isinstance(node.tag, str):
            raise refuse("node", type(node).__name__, "elements and text")
        if number == _ELEMENTS_MAX or len(node.attrib) > _ATTRIBUTES_MAX:
            raise refuse(
                "size", "too much", f"{_ELEMENTS_MAX} elements, {_ATTRIBUTES_MAX} attributes"
            )
        if any(name.startswith(_XML) for name in node.attrib):
            raise refuse("attribute", "xml:", "none that canonical XML would pass down")
    return root


def only(parent: Any, *names: str) -> list[Any]:
    """The children of an element, which must be exactly these. Raises CollateralRejected."""
    children = list(parent)
    if [child.tag for child in children] != list(names):
        raise refuse(short(parent.tag), ", ".join(short(one.tag) for one in children), names)
    return children


def short(tag: str) -> str:
    """A tag's name without its namespace."""
    return tag.rpartition("}")[2]


def _attributes(element: Any, **expected: str) -> None:
    if dict(element.attrib) != expected:
        raise refuse(short(element.tag), dict(element.attrib), expected)


def _signature(root: Any) -> Any:
    """The one signature, which is the root's last child; its shape is exactly NVIDIA's."""
    found = list(root.iter(f"{_DSIG}Signature"))
    if len(found) != 1 or not len(root) or found[0] is not root[-1]:
        raise refuse("signature", f"{len(found)} signatures", "one, as the tag's last element")
    signature = found[0]
    info, value, key = only(
        signature, f"{_DSIG}SignedInfo", f"{_DSIG}SignatureValue", f"{_DSIG}KeyInfo"
    )
    method, scheme, reference = only(
        info,
        f"{_DSIG}CanonicalizationMethod",
        f"{_DSIG}SignatureMethod",
        f"{_DSIG}Reference",
    )
    transforms, digest, _ = only(
        reference, f"{_DSIG}Transforms", f"{_DSIG}DigestMethod", f"{_DSIG}DigestValue"
    )
    enveloped, canonical = only(transforms, f"{_DSIG}Transform", f"{_DSIG}Transform")
    for element, algorithm in (
        (method, _C14N),
        (scheme, _ECDSA_SHA384),
        (digest, _DIGEST_SHA384),
        (enveloped, _ENVELOPED),
        (canonical, _C14N),
    ):
        only(element)
        _attributes(element, Algorithm=algorithm)
    _attributes(reference, URI="")
    for element in (signature, info, transforms, value, key):
        _attributes(element)
    return signature


def _base64(element: Any, about: str) -> bytes:
    only(element)
    text = "".join((element.text or "").split())
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as cause:
        raise refuse(about, str(cause), "base64") from cause
    if base64.b64encode(data).decode() != text:
        raise refuse(about, text[-8:], "base64 in its one form")
    return data


def _certificates(signature: Any, count: int) -> tuple[DerCertificate, ...]:
    """So many certificates, signer first, each signed by the next."""
    (data,) = only(signature[2], f"{_DSIG}X509Data")
    elements = only(data, *[f"{_DSIG}X509Certificate"] * count)
    try:
        chain = tuple(read_certificate(_base64(one, "certificate")) for one in elements)
        check_path(tuple(one.der for one in chain))
    except (BadEvidence, CertificateRejected) as cause:
        raise refuse("certificates", cause.got, cause.expected) from cause
    return chain


def _canonical(element: Any) -> bytes:
    """Canonical XML: without `xml:` attributes version 1.0, which lxml has, and 1.1 are the same."""
    etree = _etree()
    try:
        return bytes(etree.tostring(element, method="c14n", exclusive=False, with_comments=False))
    except etree.C14NError as cause:  # namespaces that are relative URIs
        raise refuse("canonical form", str(cause), "absolute namespaces") from cause


def _check_signature(rest: bytes, signature: Any, signer: DerCertificate) -> None:
    """XML Signature 1.1, 3.2: the digest of the rest, and the signature over that digest."""
    info = signature[0]
    digest = _base64(info[2][2], "digest")
    value = _base64(signature[1], "signature value")
    if not is_equal(hashlib.sha384(rest).digest(), digest):
        raise refuse("digest", digest, "that of the rest")
    r, s = (int.from_bytes(value[at : at + 48], "big") for at in (0, 48))
    signed = len(value) == 96 and is_signed(
        signer.spki, Scheme.ECDSA_SHA384, _canonical(info), ecdsa_der(r, s)
    )
    if not signed:
        raise refuse("signature", "a bad signature", f"one by {signer.name}")


def _rest(root: Any, signature: Any) -> bytes:
    """What the digest covers: the tag without its signature, whose tail stays."""
    rest = deepcopy(root)
    enveloped = rest[root.index(signature)]
    before = enveloped.getprevious()
    if before is None:
        raise refuse("document", "nothing but a signature", "what it covers")
    before.tail = (before.tail or "") + (enveloped.tail or "")
    rest.remove(enveloped)
    return _canonical(rest)
