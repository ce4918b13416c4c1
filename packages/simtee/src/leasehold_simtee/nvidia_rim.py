"""SIMULATED reference manifests: SWID tags with an enveloped XML signature.

Everything is written in canonical form (Canonical XML 1.1), so that what is signed is what stands in the
file: no XML library is needed, and none is shared with the verifier.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from leasehold_simtee.certificates import Key
from leasehold_simtee.nvidia_certificates import Party, sha384, sign_raw

SWID: Final = "http://standards.iso.org/iso/19770/-2/2015/schema.xsd"
HASH: Final = "http://www.w3.org/2001/04/xmlenc#sha384"
DSIG: Final = "http://www.w3.org/2000/09/xmldsig#"
C14N: Final = "http://www.w3.org/2006/12/xml-c14n11"
_ZERO: Final = bytes(48)


@dataclass(frozen=True)
class Tag:
    """What a manifest says. `golden` maps an index (from 0) to the values that pass; the rest is off."""

    version: str
    golden: Mapping[int, tuple[bytes, ...]] = field(default_factory=dict)
    product: str = "GH100"
    edition: str = "GPU"
    tag_version: int = 0
    indexes: int = 64

    def text(self, signature: str = "") -> str:
        """The tag in canonical form, with its signature or without."""
        resources = "\n".join(self._resource(index) for index in range(self.indexes))
        return (
            f'<SoftwareIdentity xmlns="{SWID}" xmlns:SHA384="{HASH}" corpus="false" name="{self.product}" '
            f'tagId="SIMULATED" tagVersion="{self.tag_version}" version="1.0">\n'
            '<Entity name="SIMULATED, no hardware" role="softwareCreator tagCreator"></Entity>\n'
            f'<Meta colloquialVersion="{self.version}" edition="{self.edition}" product="{self.product}" '
            'revision="r1"></Meta>\n'
            f"<Payload>\n{resources}\n</Payload>\n{signature}</SoftwareIdentity>"
        )

    def _resource(self, index: int) -> str:
        values = self.golden.get(index, (_ZERO,))
        hashed = " ".join(f'SHA384:Hash{at}="{value.hex()}"' for at, value in enumerate(values))
        return (
            f'<Resource active="{index in self.golden}" alternatives="{len(values)}" index="{index}" '
            f'name="Measurement_{index}" size="48" type="Measurement" {hashed}></Resource>'
        )


def signed_info(digest: bytes, *, uri: str = "", algorithm: str = "ecdsa-sha384") -> str:
    """A SignedInfo as it stands in the file, where its namespaces are its ancestors'."""
    return (
        f'<ds:SignedInfo><ds:CanonicalizationMethod Algorithm="{C14N}"></ds:CanonicalizationMethod>'
        '<ds:SignatureMethod Algorithm="http://www.w3.org/2001/04/xmldsig-more#'
        f'{algorithm}"></ds:SignatureMethod><ds:Reference URI="{uri}"><ds:Transforms>'
        f'<ds:Transform Algorithm="{DSIG}enveloped-signature"></ds:Transform>'
        f'<ds:Transform Algorithm="{C14N}"></ds:Transform></ds:Transforms>'
        '<ds:DigestMethod Algorithm="http://www.w3.org/2001/04/xmldsig-more#sha384"></ds:DigestMethod>'
        f"<ds:DigestValue>{base64.b64encode(digest).decode()}</ds:DigestValue></ds:Reference></ds:SignedInfo>"
    )


def signature(info: str, key: Key, certificates: Iterable[bytes]) -> str:
    """A Signature element over this SignedInfo, with certificates (DER)."""
    whole = info.replace(
        "<ds:SignedInfo>",
        f'<ds:SignedInfo xmlns="{SWID}" xmlns:SHA384="{HASH}" xmlns:ds="{DSIG}">',
        1,
    )
    value = base64.b64encode(sign_raw(key, whole.encode())).decode()
    chain = "".join(
        f"<ds:X509Certificate>{base64.b64encode(der).decode()}</ds:X509Certificate>"
        for der in certificates
    )
    return (
        f'<ds:Signature xmlns:ds="{DSIG}">{info}<ds:SignatureValue>{value}</ds:SignatureValue>'
        f"<ds:KeyInfo><ds:X509Data>{chain}</ds:X509Data></ds:KeyInfo></ds:Signature>"
    )


def sign_tag(tag: Tag, chain: tuple[Party, ...]) -> bytes:
    """The manifest as a file, signed by the first of these, whose certificates it carries."""
    info = signed_info(sha384(tag.text().encode()))
    return tag.text(signature(info, chain[0].key, (one.der for one in chain))).encode()
