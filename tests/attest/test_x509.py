"""The door to X.509: serial numbers as vendors really give them."""

from __future__ import annotations

import base64

import pytest

from leasehold.attest.der import Tag, children, content, parse_der
from leasehold.attest.x509 import check_crl, read_chain, read_crl
from leasehold.core.units import DAY, Instant
from leasehold.errors import BadEvidence, CollateralRejected
from leasehold_simtee import der as asn1
from leasehold_simtee.certificates import der, make_crl

from .bench import NOW, make_bench

LATER = Instant(NOW + DAY)


def with_serial(octets: bytes) -> bytes:
    """A certificate in PEM whose serial number has these content octets (its signature is broken)."""
    certificate = der(make_bench().machine.pck)
    (body, _), algorithm, signature = children(content(parse_der(certificate), Tag.SEQUENCE))
    version, _, *rest = (part for _, part in children(content(body, Tag.SEQUENCE)))
    tbs = asn1.sequence(version, asn1.element(0x02, octets), *rest)
    changed = asn1.sequence(tbs, algorithm[1], signature[1])
    body_text = base64.encodebytes(changed)
    return b"-----BEGIN CERTIFICATE-----\n" + body_text + b"-----END CERTIFICATE-----\n"


def test_a_serial_number_that_fills_twenty_octets_is_read() -> None:
    """Intel's do, and DER adds one for the sign."""
    octets = b"\0\xce" + bytes(range(19))
    (read,) = read_chain(with_serial(octets), count=1, about="chain", error=BadEvidence)
    assert read.serial == int.from_bytes(octets, "big")


@pytest.mark.parametrize("octets", [b"\0", b"\xff", b"\x01" + bytes(20), b"\0\x80" + bytes(20)])
def test_other_serial_numbers_are_refused(octets: bytes) -> None:
    with pytest.raises(BadEvidence):
        read_chain(with_serial(octets), count=1, about="chain", error=BadEvidence)


def with_odd_name(whole: bytes, common: str) -> bytes:
    """The same with each common name's text turned into a BIT STRING, which no such name may be."""
    text = common.encode()
    assert whole.count(bytes((0x0C, len(text))) + text)
    return whole.replace(
        bytes((0x0C, len(text))) + text, bytes((0x03, len(text))) + b"\0" + text[1:]
    )


def test_a_name_of_a_type_that_it_may_not_have_is_refused_like_any_other_damage() -> None:
    """Fuzzing found it: the library raises another error for this than for everything else."""
    vendor = make_bench().machine.vendor
    odd = with_odd_name(der(make_bench().machine.pck), "SIMULATED SGX PCK Certificate")
    text = b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(odd)
    with pytest.raises(BadEvidence):
        read_chain(text + b"-----END CERTIFICATE-----\n", count=1, about="chain", error=BadEvidence)
    crl = make_crl(
        vendor.root_key, "SIMULATED SGX Root CA", number=1, revoked=(), now=NOW, until=LATER
    )
    odd_crl = with_odd_name(crl, "SIMULATED SGX Root CA")
    with pytest.raises(CollateralRejected):
        read_crl(odd_crl, about="list", error=CollateralRejected)
    with pytest.raises(CollateralRejected):
        check_crl(odd_crl, b"", issuer=b"", about="list")
