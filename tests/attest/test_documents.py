"""Documents of other vendors than Intel: their facts, and how consumers get them (K-5)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from leasehold.attest.collateral import (
    Holdings,
    Kind,
    open_bundle,
    sign_bundle,
)
from leasehold.attest.documents import read_document
from leasehold.core.units import DAY, Instant
from leasehold.errors import CollateralRejected

from .bench import NOW, make_bench
from .nvidia_bench import one_gpu
from .snp_bench import SnpBench, make_snp_bench

LATER = Instant(NOW + 3_600_000)


@pytest.fixture(scope="module")
def snp() -> SnpBench:
    return make_snp_bench()


def test_every_kind_has_facts(snp: SnpBench) -> None:
    found = {
        one.kind: read_document(one.kind, one.data)
        for one in (*snp.amd.documents(NOW), *one_gpu().documents)
    }
    found["amd-vcek"] = read_document("amd-vcek", snp.chip.certificate)
    assert set(found) == {"amd-chain", "amd-crl", "amd-vcek", "nvidia-rim", "nvidia-ocsp"}
    assert found["amd-crl"] == (1, NOW + 30 * DAY)
    assert all(facts.ends > NOW for facts in found.values())


@pytest.mark.parametrize("kind", ["amd-chain", "amd-crl", "amd-vcek", "nvidia-rim", "nvidia-ocsp"])
@pytest.mark.parametrize("data", [b"", b"0", b"\xff" * 100, b"<x/>", bytes(1000)])
def test_what_is_none_of_its_kind_is_refused(kind: Kind, data: bytes) -> None:
    with pytest.raises(CollateralRejected):
        read_document(kind, data)


def test_consumers_get_documents_in_the_bundle(snp: SnpBench) -> None:
    key = make_bench().key
    bundle = open_bundle(
        sign_bundle(key, Holdings(documents=snp.amd.documents(NOW)), now=NOW), key.public, now=LATER
    )
    assert replace(snp, collateral=bundle).verify() == snp.verify()
