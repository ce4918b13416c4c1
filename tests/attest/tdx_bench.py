"""A simulated trust domain, a manifest that accepts it, and everything needed to verify one quote."""

from __future__ import annotations

from dataclasses import dataclass, replace

import msgspec

from leasehold.attest.collateral import CollateralStore, HeldCollateral, parse_collateral
from leasehold.attest.intel.reference import Tdx
from leasehold.attest.manifest import Manifest
from leasehold.core.binding import Binding
from leasehold.core.evidence import Evidence
from leasehold.core.units import Instant
from leasehold_simtee.hierarchy import Ca, Situation
from leasehold_simtee.machine import Machine
from leasehold_simtee.tdx import SimulatedTdxAttester, TrustDomain

from .bench import NOW, Judging, make_bench, seeded


@dataclass(frozen=True)
class TdxBench(Judging):
    """All that `verify` takes, for one honest domain; tests replace one part and ask for the verdict."""

    machine: Machine
    domain: TrustDomain
    binding: Binding
    manifest: Manifest
    collateral: CollateralStore
    now: Instant = NOW

    @property
    def evidence(self) -> Evidence:
        attester = SimulatedTdxAttester(self.machine, seeded("quoting"), self.domain)
        return attester.attest(self.binding.report_data())

    def situation(self, **said: object) -> TdxBench:
        """The same machine after its vendor said something else of it."""
        told = self.machine.vendor.collateral(NOW, Situation(**({"tee": "TDX"} | said)))  # type: ignore[arg-type]
        return replace(self, collateral=HeldCollateral([parse_collateral(told)]))

    def tdx(self, **fields: object) -> TdxBench:
        """The same with other reference values."""
        assert self.manifest.tdx is not None
        return self.policy(tdx=msgspec.structs.replace(self.manifest.tdx, **fields))

    def says(self, **fields: object) -> TdxBench:
        """The same with another report."""
        return replace(self, domain=replace(self.domain, **fields))  # type: ignore[arg-type]


def make_tdx_bench(*, ca: Ca = "processor") -> TdxBench:
    base = make_bench("tdx", ca=ca)
    domain = TrustDomain()
    manifest = msgspec.structs.replace(
        base.manifest, sgx=None, tdx=msgspec.convert(domain.reference_values(), Tdx)
    )
    bench = TdxBench(base.machine, domain, base.binding, manifest, base.collateral)
    return bench.situation()
