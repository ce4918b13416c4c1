"""Single flipped bits of collateral: refused with one of our codes, or the verdict is exactly the same."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from leasehold.attest.collateral import Document, HeldCollateral, parse_collateral
from leasehold.errors import LeaseholdError

from .bench import NOW, Bench, make_bench
from .snp_bench import make_snp_bench
from .tdx_bench import TdxBench, make_tdx_bench

STEP = 7  # one bit of every so many octets; which ones changes with the octet


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes((data[at] ^ 1 << at % 8,)) + data[at + 1 :]


@pytest.mark.parametrize("bench", [make_bench(), make_tdx_bench()], ids=["sgx", "tdx"])
def test_no_flipped_bit_of_intels_collateral_changes_a_verdict(bench: Bench | TdxBench) -> None:
    data = bench.collateral.find(  # type: ignore[attr-defined]
        fmspc=b"SIMULA".hex(), ca="processor", tee="tdx" if isinstance(bench, TdxBench) else "sgx"
    ).json.encode()
    evidence, honest = bench.evidence, bench.verify()
    refused = same = 0
    for at in range(0, len(data), STEP):
        try:
            held = HeldCollateral([parse_collateral(flipped(data, at))])
            verdict = replace(bench, collateral=held).verify(evidence)
        except LeaseholdError:
            refused += 1
            continue
        assert verdict == honest, at
        same += 1
    # What may change: PEM noise, the case of hex digits, the signatures of the roots that nobody uses.
    assert refused > 7 * same


def test_no_flipped_bit_of_amds_documents_changes_a_verdict() -> None:
    bench = make_snp_bench()
    documents = bench.amd.documents(NOW)
    plain = replace(bench, collateral=HeldCollateral((), documents), chain=False)
    evidence, honest = plain.evidence, plain.verify()
    for document in documents:
        if document.name != "vcek-Milan":
            continue
        others = tuple(one for one in documents if one is not document)
        refused = same = 0
        for at in range(0, len(document.data), STEP):
            changed = msgspec.structs.replace(document, data=flipped(document.data, at))
            held = HeldCollateral((), (*others, Document(*msgspec.structs.astuple(changed))))
            try:
                verdict = replace(plain, collateral=held).verify(evidence)
            except LeaseholdError:
                refused += 1
                continue
            assert verdict == honest, (document.kind, at)
            same += 1
        assert refused > 9 * same
