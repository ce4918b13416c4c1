"""Addresses: what is one, and what is refused because it could be misread."""

from __future__ import annotations

import pytest

from leasehold.consumer.address import Address, parse_address
from leasehold.errors import BadAddress


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("localhost:8443", Address("localhost", 8443)),
        ("https://enclave.example:8443", Address("enclave.example", 8443)),
        ("https://enclave.example/", Address("enclave.example", 443)),
        ("enclave.example", Address("enclave.example", 443)),
        ("10.0.0.7:1", Address("10.0.0.7", 1)),
        ("[::1]:8443", Address("::1", 8443)),
    ],
)
def test_what_an_address_is(text: str, expected: Address) -> None:
    assert parse_address(text) == expected
    assert parse_address(expected.url) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":8443",
        "http://enclave.example:8443",
        "enclave.example:port",
        "enclave.example:0",
        "enclave.example:65536",
        "enclave.example:8443/v1",
        "enclave.example:8443?a=b",
        "somebody@enclave.example:8443",
        "[::1:8443",
    ],
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(BadAddress):
        parse_address(text)


def test_ipv6_is_written_with_brackets() -> None:
    assert str(Address("::1", 8443)) == "[::1]:8443"
