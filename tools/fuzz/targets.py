"""The parsers that meet other people's bytes, each with inputs to begin with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import msgspec
from tests.attest.bench import make_bench

from leasehold.attest import certificate, der, manifest
from leasehold.attest.intel import pck, pcs, quote
from leasehold.core.encoding import from_json
from leasehold.core.evidence import Evidence


class Target(NamedTuple):
    """A parser, and bytes that it reads."""

    read: Callable[[bytes], object]
    seeds: Callable[[], list[bytes]]


def _quote() -> bytes:
    return make_bench().evidence.quote


def _chain() -> list[certificate.DerCertificate]:
    pem = quote.parse_quote(_quote()).chain_pem
    return list(certificate.read_certificates(pem, count_max=3))


def _collateral() -> bytes:
    return make_bench().machine.collateral


def _read_set(data: bytes) -> object:
    return pcs.read_facts(pcs.parse_collateral(data))


TARGETS: Final[Mapping[str, Target]] = {
    "der": Target(der.parse_der, lambda: [_chain()[0].der]),
    "certificate": Target(
        lambda data: certificate.read_certificates(data, count_max=4),
        lambda: [one.der for one in _chain()] + [quote.parse_quote(_quote()).chain_pem],
    ),
    "intel-quote": Target(quote.parse_quote, lambda: [_quote()]),
    "intel-pck": Target(
        pck.parse_pck,
        lambda: [
            one.extensions[bytes.fromhex("2a864886f84d010d01")]
            for one in _chain()
            if bytes.fromhex("2a864886f84d010d01") in one.extensions
        ],
    ),
    "intel-collateral": Target(_read_set, lambda: [_collateral()]),
    "manifest": Target(manifest.read_policy, lambda: [manifest.render(make_bench().manifest)]),
    "evidence": Target(
        lambda data: from_json(data, Evidence),
        lambda: [msgspec.json.encode(make_bench().evidence)],
    ),
}
