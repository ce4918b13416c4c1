"""Reference manifests: one shape of XML, one signature over all of it, and signers for their role alone."""

from __future__ import annotations

import base64
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import cache

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID
from lxml import etree

from leasehold.attest.nvidia.rim import Rim, Signers, check_signers, read_rim, rim_facts
from leasehold.attest.nvidia.signed_xml import XML_BYTES_MAX
from leasehold.attest.reference import Simulated
from leasehold.attest.verdict import Trust
from leasehold.core.units import DAY, Instant
from leasehold.errors import (
    CollateralNotCurrent,
    CollateralRejected,
    LeaseholdError,
    MissingExtra,
    UntrustedRoot,
    WrongSignerRole,
)
from leasehold_simtee.certificates import moment
from leasehold_simtee.nvidia import HOPPER
from leasehold_simtee.nvidia_certificates import Party, issue, sha384
from leasehold_simtee.nvidia_ocsp import responder
from leasehold_simtee.nvidia_rim import DSIG, SWID, sign_tag, signature, signed_info

from .bench import NOW, seeded
from .nvidia_bench import LATER, vendor

TAG = HOPPER.tags[0]
YEAR = 365 * DAY


@cache
def honest() -> bytes:
    return sign_tag(TAG, vendor().rim_chain)


def trusted() -> Simulated:
    return Simulated(nvidia_rim_root_sha256=vendor().rim_root_sha256)


def signers(rim: Rim, *, accept_expired: bool = False, now: Instant = LATER) -> Signers:
    return check_signers(rim, simulated=trusted(), accept_expired=accept_expired, now=now)


def refused(data: bytes) -> str:
    """A refusal that must be of exactly one class; what it is about."""
    with pytest.raises(LeaseholdError) as caught:
        read_rim(data)
    assert type(caught.value) is CollateralRejected, caught.value
    return str(caught.value.about)


def signed_as_it_stands(text: str) -> bytes:
    """A document that the vendor itself signed, whatever is in it: digest and signature fit."""
    info = signed_info(sha384(text.encode()))
    chain = vendor().rim_chain
    whole = signature(info, chain[0].key, (one.der for one in chain))
    return text.replace("</SoftwareIdentity>", f"{whole}</SoftwareIdentity>").encode()


def changed(old: str, new: str, count: int = 1) -> bytes:
    """The honest tag with a change that the vendor signed."""
    text = TAG.text()
    assert old in text
    return signed_as_it_stands(text.replace(old, new, count))


# What an honest one says ---------------------------------------------------------------------------


def test_an_honest_manifest_tells_everything() -> None:
    rim = read_rim(honest())
    assert (rim.version, rim.product, rim.edition) == ("550.90.07", "GH100", "GPU")
    assert (rim.revision, rim.tag_version) == ("r1", 0)
    assert {index: set(values) for index, values in TAG.golden.items()} == rim.golden
    assert [one.der for one in rim.certificates] == [one.der for one in vendor().rim_chain]
    found = signers(rim)
    assert found == (Trust.SIMULATION, rim.certificates[0].ends, ())
    assert len(rim.revocable) == 3


def test_our_own_canonical_form_is_lxml_s() -> None:
    """The simulation writes canonical XML by itself, so the two check each other."""
    text = TAG.text().encode()
    assert etree.tostring(etree.fromstring(text), method="c14n") == text


def test_a_manifest_may_have_a_declaration_and_space_after_it() -> None:
    data = b'<?xml version="1.0" encoding="UTF-8"?>\n' + honest() + b"\n"
    assert read_rim(data) == read_rim(honest())


def test_all_that_is_not_plainly_off_counts() -> None:
    off = f'active="{7 in TAG.golden}" alternatives="2" index="7"'
    for active, counts in (("True", True), ("true", True), ("false", True), ("False", False)):
        rim = read_rim(changed(off, f'active="{active}" alternatives="2" index="7"'))
        assert (7 in rim.golden) is counts, active


def test_a_newer_issue_has_a_higher_order() -> None:
    """By the tag's version first, then by when the signer's certificate began."""
    first = rim_facts(honest())
    assert first == ("550.90.07", "GH100", first.order, NOW - DAY + 2 * YEAR)
    later = signed_by(starts=moment(NOW) - timedelta(hours=1), ends=moment(NOW) + timedelta(days=9))
    second = rim_facts(sign_tag(TAG, later))
    third = rim_facts(sign_tag(replace(TAG, tag_version=1), vendor().rim_chain))
    assert first.order < second.order < third.order


# Attacks on the signature --------------------------------------------------------------------------


def test_every_changed_value_breaks_the_digest() -> None:
    for old, new in (
        (b'Version="550', b'Version="551'),
        (b'active="True"', b'active="False"'),
        (b'alternatives="2" index="7"', b'alternatives="2" index="6"'),
        (b'edition="GPU"', b'edition="GPV"'),
        (b'tagVersion="0"', b'tagVersion="9"'),
    ):
        assert old in honest()
        refused(honest().replace(old, new, 1))


def test_a_changed_signed_info_breaks_the_signature() -> None:
    data = honest()
    digest = base64.b64encode(sha384(TAG.text().encode()))
    forged = replace(TAG, version="551.00.00").text()
    text = data.replace(TAG.text()[:-19].encode(), forged[:-19].encode())
    text = text.replace(digest, base64.b64encode(sha384(forged.encode())))
    assert refused(text) == "RIM, signature"


def test_another_key_has_not_signed() -> None:
    chain = vendor().rim_chain
    thief = issue(
        "SIMULATED Reference Value L4 GH100",
        chain[1],
        entropy=seeded("thief"),
        starts=moment(NOW),
        ends=moment(NOW) + timedelta(days=1),
        is_authority=False,
    )
    forged = (Party(thief.key, chain[0].certificate), *chain[1:])
    assert refused(sign_tag(TAG, forged)) == "RIM, signature"


def two_signatures() -> bytes:
    whole = honest().decode()
    at = whole.index("<ds:Signature ")
    end = whole.index("</SoftwareIdentity>")
    return (whole[:end] + whole[at:end] + whole[end:]).encode()


def moved(place: str) -> bytes:
    """The signature somewhere else than last in the root."""
    whole = honest().decode()
    at, end = whole.index("<ds:Signature "), whole.index("</SoftwareIdentity>")
    return (whole[:at] + whole[end:]).replace(place, place + whole[at:end], 1).encode()


def wrapped() -> bytes:
    """Signature wrapping: a forged tag around the honest one, to which the reference points by its ID."""
    info = signed_info(sha384(TAG.text().encode()), uri="#honest")
    chain = vendor().rim_chain
    whole = signature(info, chain[0].key, (one.der for one in chain))
    inner = TAG.text().replace("<SoftwareIdentity ", '<SoftwareIdentity Id="honest" ', 1)
    forged = replace(TAG, version="551.00.00").text()
    return forged.replace("</SoftwareIdentity>", f"{inner}{whole}</SoftwareIdentity>").encode()


def wrapped_whole() -> bytes:
    """The same with an honest signed document inside a forged one."""
    forged = replace(TAG, version="551.00.00").text()
    return forged.replace("</SoftwareIdentity>", f"{honest().decode()}</SoftwareIdentity>").encode()


def in_info(old: str, new: str) -> Callable[[], bytes]:
    """A SignedInfo with a change, over which the vendor's signature fits."""

    def make() -> bytes:
        info = signed_info(sha384(TAG.text().encode()))
        assert old in info, old
        chain = vendor().rim_chain
        whole = signature(info.replace(old, new, 1), chain[0].key, (one.der for one in chain))
        return TAG.text(whole).encode()

    return make


TRANSFORM = f'<ds:Transform Algorithm="{DSIG}enveloped-signature"></ds:Transform>'


@pytest.mark.parametrize(
    "make",
    [
        two_signatures,
        lambda: TAG.text().encode(),
        lambda: moved("<Payload>"),
        lambda: moved('version="1.0">'),
        lambda: moved("</Payload>").replace(b"</SoftwareIdentity>", b"<X></X></SoftwareIdentity>"),
        wrapped,
        wrapped_whole,
        in_info('URI=""', 'URI="#honest"'),
        in_info('URI=""', 'URI="http://127.0.0.1/tag"'),
        in_info(' URI=""', ""),
        in_info('URI=""', 'URI="" Id="x"'),
        in_info("<ds:SignedInfo>", '<ds:SignedInfo Id="x">'),
        in_info(TRANSFORM, ""),
        in_info(TRANSFORM, TRANSFORM * 2),
        in_info(f"{DSIG}enveloped-signature", "http://www.w3.org/TR/1999/REC-xslt-19991116"),
        in_info(f"{DSIG}enveloped-signature", "http://www.w3.org/TR/1999/REC-xpath-19991116"),
        in_info(f"{TRANSFORM[:-15]}", f"{TRANSFORM[:-15]}<ds:XPath>1</ds:XPath>"),
        in_info("2006/12/xml-c14n11", "2001/10/xml-exc-c14n#"),
        in_info("2006/12/xml-c14n11", "2006/12/xml-c14n11#WithComments"),
        in_info("xmldsig-more#ecdsa-sha384", "xmldsig-more#hmac-sha384"),
        in_info("xmldsig-more#ecdsa-sha384", "xmldsig-more#ecdsa-sha256"),
        in_info("xmldsig-more#sha384", "xmldsig-more#sha224"),
        in_info("</ds:Reference>", "</ds:Reference><ds:Reference></ds:Reference>"),
        in_info("<ds:DigestValue>", "<ds:DigestValue>*"),
        in_info("</ds:DigestValue>", "<x></x></ds:DigestValue>"),
    ],
)
def test_only_one_shape_of_signature_is_accepted(make: Callable[[], bytes]) -> None:
    refused(make())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"<ds:SignatureValue>", b'<ds:SignatureValue Id="x">'),
        (b"<ds:SignatureValue>", b"<ds:SignatureValue>AAAA"),
        (b"</ds:SignatureValue>", b"=</ds:SignatureValue>"),
        (b"</ds:KeyInfo>", b"</ds:KeyInfo><ds:Object></ds:Object>"),
        (b"<ds:KeyInfo>", b"<ds:KeyInfo><ds:KeyName></ds:KeyName>"),
        (b"</ds:X509Data>", b"</ds:X509Data><ds:X509Data></ds:X509Data>"),
        (b"<ds:X509Certificate>", b"<ds:X509Certificate>AAAA"),
        (b"<ds:X509Certificate>", "<ds:X509Certificate>é".encode()),
        (b"</ds:X509Certificate>", b"<x></x></ds:X509Certificate>"),
        (b"</ds:X509Data>", b"<ds:X509CRL></ds:X509CRL></ds:X509Data>"),
    ],
)
def test_what_the_signature_does_not_cover_has_one_shape_too(old: bytes, new: bytes) -> None:
    assert old in honest()
    refused(honest().replace(old, new, 1))


@pytest.mark.parametrize("kept", [(0,), (0, 1, 2), (0, 1, 2, 3, 3), (1, 0, 2, 3), (0, 2, 1, 3), ()])
def test_four_certificates_each_signed_by_the_next(kept: tuple[int, ...]) -> None:
    chain = vendor().rim_chain
    info = signed_info(sha384(TAG.text().encode()))
    whole = signature(info, chain[0].key, (chain[at].der for at in kept))
    refused(TAG.text(whole).encode())


# Attacks on the parser -----------------------------------------------------------------------------


def before(text: str) -> bytes:
    return text.encode() + honest()


LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10 if n else "ha" * 50}">' for n in range(10))


@pytest.mark.parametrize(
    "data",
    [
        before("<!DOCTYPE SoftwareIdentity>"),
        before("<!DOCTYPE SoftwareIdentity SYSTEM 'http://127.0.0.1/x.dtd'>"),
        before(f"<!DOCTYPE SoftwareIdentity [{LAUGHS}]>").replace(b"550.90.07", b"&l9;"),
        before("<!DOCTYPE x [<!ENTITY f SYSTEM 'file:///etc/passwd'>]>").replace(b"GH100", b"&f;"),
        before("<!DOCTYPE x [<!ATTLIST Resource active CDATA 'False'>]>"),
        before("<!-- comment -->"),
        honest() + b"<!-- comment -->",
        honest().replace(b"<Payload>", b"<Payload><!-- comment -->", 1),
        honest().replace(b"<ds:DigestValue>", b"<ds:DigestValue><!-- comment -->", 1),
        honest().replace(b"<ds:DigestValue>", b"<ds:DigestValue><![CDATA[]]>", 1),
        before("<?xml-stylesheet href='x'?>"),
        honest() + b"<?pi?>",
        honest().replace(b"<Payload>", b"<Payload><?pi?>", 1),
        honest().replace(b"<Payload>", b"<Payload>&unknown;", 1),
        before("<?xml version='1.0' encoding='UTF-7'?>+ADwAIQ-DOCTYPE x+AD4-"),
        honest().decode().encode("utf-16"),
        honest().decode().encode("utf-16-le"),
        honest().decode().encode("cp500"),
        honest() + honest(),
        honest() + b"x",
        honest()[:-1],
        b"",
        b"<",
        b"\x00",
        b"\xff" * 100,
        b"<a>" * 30_000,
        b"<a " + b" ".join(b'a%d="x"' % n for n in range(9000)) + b"/>",
        b"<SoftwareIdentity/>",
        honest() + b" " * XML_BYTES_MAX,
    ],
    ids=lambda data: repr(data[:24]),
)
def test_anything_but_elements_and_text_is_refused(data: bytes) -> None:
    refused(data)


def test_xml_attributes_that_canonical_xml_would_pass_down_are_refused() -> None:
    for name in ("xml:base", "xml:id", "xml:lang", "xml:space"):
        assert refused(changed("<Payload>", f'<Payload {name}="x">')) == "RIM, attribute"


def test_more_namespaces_than_anybody_needs_are_refused_before_they_are_read() -> None:
    """A hundred kilobytes of them took a minute to bring into canonical form."""
    many = " ".join(f'xmlns:a{n}="urn:{n}"' for n in range(33))
    assert (
        refused(honest().replace(b"<Payload", f"<Payload {many}".encode(), 1)) == "RIM, namespaces"
    )


def test_more_elements_or_attributes_than_anybody_needs_are_refused() -> None:
    for text in (
        "<Payload>" + "<y></y>" * 256,
        "<Payload " + " ".join(f'b{n}=""' for n in range(97)) + ">",
    ):
        assert refused(honest().replace(b"<Payload>", text.encode(), 1)) == "RIM, size"


def test_what_has_no_canonical_form_is_refused() -> None:
    """Canonical XML has none for namespaces that are relative URIs."""
    for place in ("<Payload", "<ds:SignedInfo"):
        data = honest().replace(place.encode(), f'{place} xmlns:a="b"'.encode(), 1)
        assert refused(data) == "RIM, canonical form"


def test_every_truncation_is_refused() -> None:
    data = honest()
    for length in range(0, len(data), 97):
        refused(data[:length])


def test_every_flipped_octet_is_refused_or_changes_nothing() -> None:
    """What no signature covers (space, and certificates' base64) may change form, never meaning."""
    data, rim = honest(), read_rim(honest())
    for at in range(0, len(data), 11):
        flipped = bytearray(data)
        flipped[at] ^= 1 << (at % 8)
        try:
            found = read_rim(bytes(flipped))
        except CollateralRejected:
            continue
        assert found == rim


# The tag, whoever signed it ------------------------------------------------------------------------


RESOURCE = 'active="True" alternatives="2" index="7"'
ZEROS = f'SHA384:Hash0="{"00" * 48}"'


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("<Payload>", "<Other></Other><Payload>"),
        ("SoftwareIdentity", "SoftwareIdentitz"),
        (f'xmlns="{SWID}"', 'xmlns="http://127.0.0.1/"'),
        ('colloquialVersion="550.90.07" ', ""),
        ('colloquialVersion="550.90.07"', 'colloquialVersion="550 90"'),
        ('product="GH100"', 'product=""'),
        ('edition="GPU"', 'edition="../GPU"'),
        ('revision="r1"', 'revisjon="r1"'),
        ('tagVersion="0"', 'tagVersion="-1"'),
        ('tagVersion="0"', 'tagVersion="1e9"'),
        ('tagVersion="0"', 'tagVersion="1000000"'),
        (RESOURCE, RESOURCE.replace('index="7"', 'index="6"')),
        (RESOURCE, RESOURCE.replace('index="7"', 'index="-7"')),
        (RESOURCE, RESOURCE.replace('index="7"', 'index="777"')),
        (RESOURCE, RESOURCE.replace('index="7"', 'index="7a"')),
        (RESOURCE, RESOURCE.replace('active="True"', 'active=""')),
        (RESOURCE, RESOURCE.replace('alternatives="2"', 'alternatives="1"')),
        (RESOURCE, RESOURCE.replace('alternatives="2"', 'alternatives="3"')),
        (RESOURCE, RESOURCE.replace('alternatives="2"', 'alternatives="0"')),
        ('size="48"', 'size="32"'),
        ('type="Measurement"', 'type="File"'),
        (ZEROS, f'SHA384:Hash1="{"00" * 48}"'),
        (ZEROS, f'SHA384:Hash0="{"00" * 47}"'),
        (ZEROS, f'SHA384:Hash0="{"0g" * 48}"'),
        (ZEROS, f'Hash0="{"00" * 48}"'),
        ("</Resource>", "<x></x></Resource>"),
        ("<Resource ", "<Resourse "),
    ],
)
def test_a_signed_tag_of_another_form_is_refused(old: str, new: str) -> None:
    count = -1 if old in ("SoftwareIdentity", "<Resource ", "</Resource>") else 1
    text = TAG.text()
    assert old in text
    text = text.replace(old, new, count)
    if old == "<Resource ":
        text = text.replace("</Resource>", "</Resourse>")
    if old == "SoftwareIdentity":
        info = signed_info(sha384(text.encode()))
        chain = vendor().rim_chain
        whole = signature(info, chain[0].key, (one.der for one in chain))
        refused(text.replace("</SoftwareIdentitz>", f"{whole}</SoftwareIdentitz>").encode())
    else:
        refused(signed_as_it_stands(text))


def test_no_measurements_or_too_many_are_refused() -> None:
    for indexes in (0, 65):
        refused(sign_tag(replace(TAG, indexes=indexes), vendor().rim_chain))


# Signers -------------------------------------------------------------------------------------------


def signed_by(**said: object) -> tuple[Party, ...]:
    """The vendor's chain with another signer."""
    fields = {
        "common": "SIMULATED Reference Value L4 GH100",
        "issuer": vendor().rim_chain[1],
        "entropy": seeded(f"signer {sorted(said)}"),
        "starts": moment(NOW) - timedelta(days=1),
        "ends": moment(NOW) + timedelta(days=700),
        "is_authority": False,
    } | said
    return (issue(**fields), *vendor().rim_chain[1:])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "simulated",
    [
        None,
        Simulated("00" * 32),
        Simulated(nvidia_root_sha256=vendor().rim_root_sha256),
        Simulated(root_sha256=vendor().rim_root_sha256),
        Simulated(nvidia_rim_root_sha256=vendor().root_sha256),
    ],
    ids=["none", "other", "device root", "Intel's", "wrong one"],
)
def test_only_the_root_for_this_role_is_trusted(simulated: Simulated | None) -> None:
    with pytest.raises(UntrustedRoot):
        check_signers(read_rim(honest()), simulated=simulated, accept_expired=True, now=LATER)


def test_who_answers_ocsp_does_not_sign_manifests() -> None:
    """NVIDIA's responders have certificates from the same authority."""
    chain = vendor().rim_chain
    who = responder(chain[1], entropy=seeded("role"), now=NOW)
    with pytest.raises(WrongSignerRole):
        signers(read_rim(sign_tag(TAG, (who, *chain[1:]))))


@pytest.mark.parametrize(
    "said",
    [
        {"common": "SIMULATED Reference Value L3 GH100 001"},
        {"common": "NVIDIA Reference Value L4 GH100"},
        {"common": "SIMULATED Device Identity CA"},
        {"is_authority": True},
        {"usages": (ExtendedKeyUsageOID.CODE_SIGNING,)},
    ],
    ids=str,
)
def test_a_signer_is_called_one_and_is_nothing_else(said: dict[str, object]) -> None:
    with pytest.raises(WrongSignerRole):
        signers(read_rim(sign_tag(TAG, signed_by(**said))))


def test_nvidia_s_signers_go_by_two_names() -> None:
    for common in ("HCC RIM L4 Signer", "SIMULATED Reference Value L4 LS10"):
        assert signers(read_rim(sign_tag(TAG, signed_by(common=common)))).expired == ()


def test_expired_signers_are_refused_unless_the_caller_accepts_them() -> None:
    rim = read_rim(honest())
    ended = Instant(NOW + 2 * YEAR)
    assert signers(rim, now=Instant(rim.certificates[0].ends)).expired == ()
    with pytest.raises(CollateralNotCurrent):
        signers(rim, now=ended)
    found = signers(rim, now=ended, accept_expired=True)
    assert found.expired == ("SIMULATED Reference Value L4 GH100",)
    assert found.ends == rim.certificates[1].ends
    both = signers(rim, now=Instant(NOW + 4 * YEAR), accept_expired=True)
    assert len(both.expired) == 2
    assert both.ends == rim.certificates[2].ends


def test_an_expired_root_is_no_root() -> None:
    with pytest.raises(CollateralNotCurrent):
        signers(read_rim(honest()), now=Instant(NOW + 31 * YEAR), accept_expired=True)


def test_nothing_is_valid_before_it_began() -> None:
    for accept in (False, True):
        with pytest.raises(CollateralNotCurrent):
            signers(read_rim(honest()), now=Instant(NOW - 2 * DAY), accept_expired=accept)


@pytest.mark.parametrize(
    "starts", [timedelta(days=-2), timedelta(days=4 * 365)], ids=["before", "after"]
)
def test_a_signer_began_while_its_issuer_was_valid(starts: timedelta) -> None:
    """Otherwise an authority's stolen key could make signers for ever after its end."""
    chain = signed_by(starts=moment(NOW) + starts, ends=moment(NOW) + starts + timedelta(days=700))
    now = Instant(NOW + 6 * YEAR)
    with pytest.raises(CollateralNotCurrent, match="while"):
        signers(read_rim(sign_tag(TAG, chain)), now=now, accept_expired=True)


def test_without_lxml_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lxml", None)
    read_rim.cache_clear()
    with pytest.raises(MissingExtra, match="leasehold\\[nvidia\\]"):
        read_rim(honest())
