"""The CBOR reader: one encoding for each value, and an end to everything."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leasehold.attest.cbor import (
    CBOR_BYTES_MAX,
    CBOR_DEPTH_MAX,
    CBOR_ITEMS_MAX,
    Tagged,
    parse_cbor,
)
from leasehold.errors import BadEvidence
from leasehold_simtee.ratls import cbor, tagged

leaves: st.SearchStrategy[object] = st.one_of(
    st.integers(min_value=-(2**64), max_value=2**64 - 1),
    st.binary(max_size=40),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.booleans(),
)


def around(inner: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    keys = st.one_of(st.integers(-9, 9), st.text("abc"))
    return st.one_of(
        inner, st.lists(inner, max_size=4).map(tuple), st.dictionaries(keys, inner, max_size=4)
    )


@given(value=around(around(leaves)))
def test_what_is_written_is_read(value: object) -> None:
    assert parse_cbor(cbor(value)) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [  # RFC 8949, appendix A
        ("00", 0),
        ("17", 23),
        ("1818", 24),
        ("1903e8", 1000),
        ("1a000f4240", 1_000_000),
        ("1bffffffffffffffff", 2**64 - 1),
        ("20", -1),
        ("3bffffffffffffffff", -(2**64)),
        ("f4", False),
        ("f5", True),
        ("f6", None),
        ("40", b""),
        ("4401020304", b"\x01\x02\x03\x04"),
        ("62c3bc", "ü"),
        ("83010203", (1, 2, 3)),
        ("a201020304", {1: 2, 3: 4}),
        ("c11a514b67b0", Tagged(1, 1363896240)),
    ],
)
def test_examples_of_the_standard(text: str, value: object) -> None:
    assert parse_cbor(bytes.fromhex(text)) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0000",  # two items
        "1817",  # longer than needed
        "1900ff",
        "1a0000ffff",
        "1b00000000ffffffff",
        "5817" + "00" * 23,
        "1c",  # reserved lengths
        "1d",
        "1e",
        "1f",
        "5f4101ff",  # indefinite lengths
        "7f6161ff",
        "9f01ff",
        "bf0101ff",
        "ff",
        "f7",  # undefined
        "e0",
        "f820",
        "f97c00",  # floats
        "fb3ff199999999999a",
        "42ff",  # cut short
        "1900",
        "820",
        "61ff",  # no UTF-8
        "a2010101",
        "a201010102",  # a key twice
        "a1400000",
        "a14000",  # keys of other kinds
        "a1f500",
        "a18000",
        "a1d84000",
        "5bffffffffffffffff",  # lengths and counts that lie
        "9bffffffffffffffff",
        "bbffffffffffffffff",
        "9a00ffffff",
        "c0",
    ],
)
def test_other_encodings_are_refused(text: str) -> None:
    data = bytes.fromhex(text if len(text) % 2 == 0 else text + "0")
    with pytest.raises(BadEvidence):
        parse_cbor(data)


@pytest.mark.parametrize("opening", ["81", "c1", "a101", "a1"])
def test_nesting_has_an_end(opening: str) -> None:
    deep = bytes.fromhex(opening) * 20_000
    with pytest.raises(BadEvidence, match=r"nesting|key|item"):
        parse_cbor(deep)
    flat = b"\x81" * (CBOR_DEPTH_MAX - 1) + b"\x00"
    parse_cbor(flat)
    with pytest.raises(BadEvidence):
        parse_cbor(b"\x81" + flat)


def test_items_are_counted_and_bytes_bounded() -> None:
    parse_cbor(cbor([0] * (CBOR_ITEMS_MAX - 1)))
    for many in (
        cbor([0] * CBOR_ITEMS_MAX),
        cbor([[0] * 100] * 3),
        cbor([0] * (CBOR_ITEMS_MAX + 1)),
        bytes(CBOR_BYTES_MAX + 1),
    ):
        with pytest.raises(BadEvidence):
            parse_cbor(many)


def test_every_truncation_is_refused() -> None:
    data = tagged(60000, [b"quote" * 20, cbor({"pubkey-hash": b"x", "nonce": [1, True, -5]})])
    for size in range(len(data)):
        with pytest.raises(BadEvidence):
            parse_cbor(data[:size])


@settings(max_examples=500, deadline=None)
@given(data=st.binary(max_size=80))
def test_any_bytes_are_parsed_or_refused(data: bytes) -> None:
    try:
        parse_cbor(data)
    except BadEvidence:
        return
