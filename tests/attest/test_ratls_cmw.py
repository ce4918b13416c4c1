"""Conceptual message wrappers in both serialisations, and wrappers that never end."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leasehold.attest.der import Element, Tag
from leasehold.attest.ratls.cmw import DEPTH_MAX, JSON_BYTES_MAX, MESSAGES_MAX, Wrapped, read_cmw
from leasehold.errors import BadEvidence
from leasehold_simtee.ratls import cbor, tagged

FORMAT_TAG = 1668546817 + 30001


def in_cbor(data: bytes) -> Element:
    return Element(Tag.OCTET_STRING, data)


def in_json(value: object) -> Element:
    return Element(Tag.UTF8_STRING, json.dumps(value).encode())


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def test_a_record_in_cbor() -> None:
    assert read_cmw(in_cbor(cbor(["application/eat+cwt", b"v", 4]))) == (
        Wrapped("", "application/eat+cwt", b"v", 4),
    )
    assert read_cmw(in_cbor(cbor([30001, b"v"]))) == (Wrapped("", "content format 30001", b"v", 0),)


def test_a_tag_stands_for_a_content_format() -> None:
    assert read_cmw(in_cbor(tagged(FORMAT_TAG, b"v"))) == (
        Wrapped("", "content format 30001", b"v", 0),
    )
    assert read_cmw(in_cbor(tagged(70000, b"v"))) == (Wrapped("", "CBOR tag 70000", b"v", 0),)


def test_a_collection_in_cbor() -> None:
    collection = {
        "__cmwc_t": "tag:example.com,2026:x",
        1: ["application/rim+cose", b"one", 3],
        "inner": {"s": [30001, b"two"]},
    }
    assert read_cmw(in_cbor(cbor(collection))) == (
        Wrapped("/1", "application/rim+cose", b"one", 3),
        Wrapped("/inner/s", "content format 30001", b"two", 0),
    )


def test_records_and_collections_in_json() -> None:
    assert read_cmw(in_json(["application/eat+jwt", b64(b"value")])) == (
        Wrapped("", "application/eat+jwt", b"value", 0),
    )
    collection = {
        "__cmwc_t": "1.2.3",
        "a": ["t", b64(b""), 4],
        "b": {"c": [30001, b64(b"\xff\xfe")]},
    }
    assert read_cmw(in_json(collection)) == (
        Wrapped("/a", "t", b"", 4),
        Wrapped("/b/c", "content format 30001", b"\xff\xfe", 0),
    )


def test_one_serialisation_may_tunnel_the_other() -> None:
    inside = ["#cmw-c2j-tunnel", b64(cbor(["t", b"in CBOR"]))]
    assert read_cmw(in_json({"x": inside})) == (Wrapped("/x", "t", b"in CBOR", 0),)
    inside_json = json.dumps(["t", b64(b"in JSON")]).encode()
    assert read_cmw(in_cbor(cbor(["#cmw-j2c-tunnel", inside_json]))) == (
        Wrapped("", "t", b"in JSON", 0),
    )


def test_what_says_that_it_is_no_evidence_is_none() -> None:
    assert Wrapped("", "t", b"", 0).is_evidence
    assert Wrapped("", "t", b"", 4).is_evidence
    assert Wrapped("", "t", b"", 7).is_evidence
    assert not Wrapped("", "t", b"", 3).is_evidence
    assert not Wrapped("", "t", b"", 8).is_evidence


@pytest.mark.parametrize(
    "value",
    [
        1,
        "text",
        b"bytes",
        True,
        [],
        ["t"],
        ["t", b"v", 4, 5],
        [b"t", b"v"],
        [True, b"v"],
        ["t", 5],
        ["t", b"v", "4"],
        ["t", b"v", True],
        ["t", b"v", -1],
        ["t", b"v", 1 << 16],
        {"a": 1},
        {"a": []},
        ["#cmw-j2c-tunnel", b"no JSON"],
        ["#cmw-c2j-tunnel", b"\xff"],
    ],
)
def test_malformed_wrappers_are_refused(value: object) -> None:
    with pytest.raises(BadEvidence):
        read_cmw(in_cbor(cbor(value)))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"null",
        b'"text"',
        b"1.5",
        b"[1.5, 2]",
        b'["t", "+/"]',
        b'["t", "A"]',
        b'["t", null]',
        b'["t", 5]',
        b"[" * 50_000,
        b'{"a":' * 10_000,
        b'{"a":' * 10 + b'["t",""]' + b"}" * 10,
        b'["t", "' + b"A" * JSON_BYTES_MAX + b'"]',
    ],
)
def test_malformed_json_is_refused(data: bytes) -> None:
    with pytest.raises(BadEvidence):
        read_cmw(Element(Tag.UTF8_STRING, data))


def test_other_der_is_refused() -> None:
    for tag in (Tag.SEQUENCE, Tag.BIT_STRING, Tag.PRINTABLE_STRING):
        with pytest.raises(BadEvidence):
            read_cmw(Element(tag, cbor(["t", b"v"])))


def test_nesting_and_number_have_an_end() -> None:
    value: object = ["t", b"v"]
    for _ in range(DEPTH_MAX - 1):
        value = {"a": value}
    assert len(read_cmw(in_cbor(cbor(value)))) == 1
    with pytest.raises(BadEvidence):
        read_cmw(in_cbor(cbor({"a": value})))
    many = {str(n): [1, b""] for n in range(MESSAGES_MAX)}
    assert len(read_cmw(in_cbor(cbor(many)))) == MESSAGES_MAX
    with pytest.raises(BadEvidence):
        read_cmw(in_cbor(cbor({**many, "more": [1, b""]})))
    tunnel = cbor(["t", b"v"])
    for _ in range(DEPTH_MAX):
        tunnel = cbor(["#cmw-j2c-tunnel", json.dumps(["#cmw-c2j-tunnel", b64(tunnel)]).encode()])
    with pytest.raises(BadEvidence):
        read_cmw(in_cbor(tunnel))


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=80), tag=st.sampled_from([Tag.OCTET_STRING, Tag.UTF8_STRING]))
def test_any_bytes_are_read_or_refused(data: bytes, tag: Tag) -> None:
    try:
        read_cmw(Element(tag, data))
    except BadEvidence:
        return
