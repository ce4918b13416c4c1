"""Strict DER: one encoding for each value."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leasehold.attest.der import (
    DER_BYTES_MAX,
    Element,
    Tag,
    boolean,
    integer,
    octets,
    parse_der,
    sequence,
)
from leasehold.errors import BadEvidence
from leasehold_simtee import der as writer


@given(st.integers(min_value=0, max_value=2**256))
def test_integers_come_back(value: int) -> None:
    assert integer(parse_der(writer.integer(value))) == value


@given(st.binary(max_size=70_000))
def test_octet_strings_come_back(data: bytes) -> None:
    encoded = writer.octets(data)
    if len(encoded) > DER_BYTES_MAX:
        with pytest.raises(BadEvidence):
            parse_der(encoded)
    else:
        assert octets(parse_der(encoded), len(data)) == data


@given(st.lists(st.binary(max_size=300), max_size=8))
def test_sequences_come_back(items: list[bytes]) -> None:
    found = sequence(parse_der(writer.sequence(*(writer.octets(item) for item in items))))
    assert [element.content for element in found] == items


@given(st.binary(max_size=400))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        element = parse_der(data)
    except BadEvidence:
        return
    assert len(element.content) < len(data)
    try:
        sequence(element)
    except BadEvidence:
        return
    assert element.tag == Tag.SEQUENCE


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x30",
        b"\x30\x80",  # indefinite
        b"\x30\x81\x7f" + bytes(127),  # one octet would do
        b"\x30\x82\x00\x80" + bytes(128),  # leading zero
        b"\x30\x83\x00\x00\x01\x00",  # three octets
        b"\x30\x82\x01",  # length cut
        b"\x30\x02\x00",  # content cut
        b"\x04\x01\x00\x00",  # something after the end
        b"\x1f\x81\x00\x00",  # high tag number
    ],
)
def test_other_encodings_are_refused(data: bytes) -> None:
    with pytest.raises(BadEvidence):
        parse_der(data)


@pytest.mark.parametrize("content", [b"", b"\x80", b"\x00\x7f", bytes(65)])
def test_integers_have_one_form_and_no_sign(content: bytes) -> None:
    with pytest.raises(BadEvidence):
        integer(Element(Tag.INTEGER, content))


@pytest.mark.parametrize("content", [b"", b"\x01", b"\xff\xff"])
def test_booleans_have_two_values(content: bytes) -> None:
    with pytest.raises(BadEvidence):
        boolean(Element(Tag.BOOLEAN, content))


def test_a_value_of_another_kind_is_refused() -> None:
    with pytest.raises(BadEvidence):
        integer(parse_der(writer.enumerated(1)))
    with pytest.raises(BadEvidence):
        octets(parse_der(writer.octets(b"four")), 5)
    with pytest.raises(BadEvidence):
        sequence(parse_der(writer.octets(b"")))
