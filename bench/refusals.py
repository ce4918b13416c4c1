"""What bad input costs: the slowest refusal and the most memory, over flips, truncations and padding."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

import msgspec
from tests.attest.bench import Judging, make_bench
from tests.attest.nvidia_bench import one_gpu
from tests.attest.snp_bench import make_snp_bench
from tests.attest.tdx_bench import make_tdx_bench
from tests.attest.test_tpm import evidence_of, judged, with_tpm

from bench.harness import Row
from leasehold.core.evidence import EVIDENCE_BYTES_MAX, Evidence
from leasehold.errors import LeaseholdError

MS_MAX: Final = 100.0
MIB_MAX: Final = 64.0
STEP: Final = 5


def damaged(data: bytes) -> Iterator[bytes]:
    """One bit of every fifth octet, every 29th truncation, long padding, repetition."""
    for at in range(0, len(data), STEP):
        yield data[:at] + bytes((data[at] ^ 1 << at % 8,)) + data[at + 1 :]
    for size in range(0, len(data), 29):
        yield data[:size]
    yield data.ljust(EVIDENCE_BYTES_MAX, b"\0")
    yield data + b"\xff" * 10_000
    yield (data * (EVIDENCE_BYTES_MAX // len(data)))[:EVIDENCE_BYTES_MAX]


def judge(bench: Judging, evidence: Evidence, data: bytes) -> object:
    """The verdict over other bytes in the place of the quote."""
    return bench.verify(msgspec.structs.replace(evidence, quote=data))


def subjects() -> Iterator[tuple[str, Callable[[bytes], object], bytes]]:
    """Each platform: what judges its evidence, and honest bytes."""
    sgx, tdx, snp = make_bench(), make_tdx_bench(), make_snp_bench()
    for name, bench in (("sgx", sgx), ("tdx", tdx), ("snp", snp)):
        evidence = bench.evidence
        yield name, partial(judge, bench, evidence), evidence.quote
    tpm = with_tpm(make_bench())
    quoted = evidence_of(tpm)
    yield (
        "tpm",
        lambda data: judged(tpm, msgspec.structs.replace(quoted, quote=data)),
        quoted.quote,
    )
    gpu = one_gpu()
    yield "nvidia", lambda data: gpu.report(data).appraise(), gpu.evidence[0].report


def worst(run: Callable[[bytes], object], data: bytes) -> tuple[float, float, int]:
    """Seconds of the slowest input, MiB of the hungriest, and how many were refused."""
    slowest, refused = 0.0, 0
    inputs = list(damaged(data))
    for one in inputs:
        started = time.perf_counter()
        try:
            run(one)
        except LeaseholdError:
            refused += 1
        slowest = max(slowest, time.perf_counter() - started)
    tracemalloc.start()
    for one in inputs[:: max(1, len(inputs) // 100)] + inputs[-3:]:
        try:
            run(one)
        except LeaseholdError:
            continue
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return slowest, peak / (1 << 20), refused


def measure() -> list[Row]:
    """Two rows for each platform."""
    rows = []
    for name, run, data in subjects():
        slowest, peak, refused = worst(run, data)
        beside = f"{refused} refusals of damaged evidence"
        rows += [
            Row("refusals", f"{name}: slowest", slowest * 1e3, "ms", MS_MAX, beside=beside),
            Row("refusals", f"{name}: Python memory at most", peak, "MiB", MIB_MAX),
        ]
    return rows
