"""The door to X.509: serial numbers as vendors really give them."""

from __future__ import annotations

import base64

import pytest

from leasehold.attest.der import Tag, children, content, parse_der
from leasehold.attest.x509 import read_chain
from leasehold.errors import BadEvidence
from leasehold_simtee import der as asn1
from leasehold_simtee.certificates import der

from .bench import make_bench


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
