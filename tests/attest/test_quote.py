"""The quote parser: every length is checked, every field is where the layout says."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leasehold.attest.intel.quote import QUOTE_BYTES_MAX, parse_quote, parse_report
from leasehold.errors import BadEvidence, UnsupportedEvidence
from leasehold_simtee.quote import Enclave

from .bench import Bench

ODD = Enclave(
    mr_enclave=b"e" * 32,
    mr_signer=b"s" * 32,
    isv_prod_id=0x0102,
    isv_svn=0x0304,
    flags=0x1122334455667788,
    xfrm=0x99AABBCCDDEEFF00,
    misc_select=0x01020304,
    config_id=b"c" * 64,
    config_svn=0x0506,
    isv_family_id=b"f" * 16,
    isv_ext_prod_id=b"x" * 16,
    cpu_svn=bytes(range(16)),
)


def test_every_field_of_a_report_is_found() -> None:
    report = parse_report(ODD.report(b"r" * 64))
    assert report.report_data == b"r" * 64
    for field in ODD.__slots__:
        assert getattr(report, field) == getattr(ODD, field), field


@pytest.mark.parametrize("size", [0, 383, 385])
def test_a_report_has_384_bytes(size: int) -> None:
    with pytest.raises(BadEvidence):
        parse_report(bytes(size))


def test_the_quote_ends_where_its_length_says(bench: Bench) -> None:
    data = bench.evidence.quote
    quote = parse_quote(data + bytes(100))
    assert quote.data == data
    assert quote.report_bytes == data[48:432]
    assert quote.chain_pem.endswith(b"-----END CERTIFICATE-----\n")


@pytest.mark.parametrize(
    ("at", "value"),
    [(0, 4), (0, 5), (2, 3), (4, 0x81), (12, 0)],
    ids=["version 4", "version 5", "P-384", "TDX", "vendor"],
)
def test_other_kinds_of_quote_are_unsupported(bench: Bench, at: int, value: int) -> None:
    data = bytearray(bench.evidence.quote)
    data[at] = value
    with pytest.raises(UnsupportedEvidence):
        parse_quote(bytes(data))


@pytest.mark.parametrize("kind", [1, 2, 3, 4, 6, 7])
def test_quotes_without_their_chain_are_unsupported(bench: Bench, kind: int) -> None:
    data = bytearray(bench.evidence.quote)
    at = 436 + 64 + 64 + 384 + 64 + 2 + 32
    assert data[at] == 5
    data[at] = kind
    with pytest.raises(UnsupportedEvidence):
        parse_quote(bytes(data))


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (432, b"\xff\xff\xff\x7f"),
        (432, b"\x00\x00\x00\x00"),
        (436 + 576, b"\xff\xff"),
        (436 + 576 + 2 + 32 + 2, b"\xff\xff\xff\xff"),
        (436 + 576 + 2 + 32 + 2, b"\x00\x00\x00\x00"),
    ],
)
def test_lengths_that_do_not_fit_are_refused(bench: Bench, at: int, value: bytes) -> None:
    data = bench.evidence.quote
    with pytest.raises(BadEvidence):
        parse_quote(data[:at] + value + data[at + len(value) :])


def test_a_huge_buffer_is_refused_unread() -> None:
    with pytest.raises(BadEvidence, match="quote size"):
        parse_quote(bytes(QUOTE_BYTES_MAX + 1))


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=2000))
def test_any_bytes_are_parsed_or_refused(data: bytes) -> None:
    header = bytes.fromhex("0300020000000000080000000d00")[:12]
    for candidate in (data, header + bytes.fromhex("939a7233f79c4ca9940a0db3957f0607") + data):
        try:
            quote = parse_quote(candidate)
        except BadEvidence:
            continue
        assert quote.data == candidate[: len(quote.data)]
