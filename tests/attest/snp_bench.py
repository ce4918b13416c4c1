"""A simulated AMD machine, a manifest that accepts it, and everything needed to verify one report."""

from __future__ import annotations

from dataclasses import dataclass, replace

import msgspec

from leasehold.attest.amd.reference import Snp
from leasehold.attest.collateral import CollateralStore, HeldCollateral
from leasehold.attest.manifest import Manifest
from leasehold.attest.reference import Machine as Listed
from leasehold.attest.reference import Simulated
from leasehold.core.binding import Binding
from leasehold.core.evidence import Evidence
from leasehold.core.units import Instant
from leasehold_simtee.amd_certificates import CSP_ID, Product, Signer
from leasehold_simtee.snp import Amd, Chip, Guest

from .bench import NOW, Judging, make_bench, seeded


@dataclass(frozen=True)
class SnpBench(Judging):
    """All that `verify` takes, for one honest guest; tests replace one part and ask for the verdict."""

    amd: Amd
    chip: Chip
    guest: Guest
    binding: Binding
    manifest: Manifest
    collateral: CollateralStore
    now: Instant = NOW
    chain: bool = True

    @property
    def evidence(self) -> Evidence:
        attester = self.chip.attester(self.guest, chain=self.chain)
        return attester.attest(self.binding.report_data())

    def snp(self, **fields: object) -> SnpBench:
        """The same with other reference values."""
        assert self.manifest.snp is not None
        return self.policy(snp=msgspec.structs.replace(self.manifest.snp, **fields))

    def says(self, **fields: object) -> SnpBench:
        """The same with another report."""
        return replace(self, guest=replace(self.guest, **fields))  # type: ignore[arg-type]


def make_snp_bench(
    product: Product = "Milan", *, signer: Signer = "VCEK", masked: bool = False, version: int = 3
) -> SnpBench:
    entropy = seeded(f"snp/{product}/{signer}")
    amd = Amd.create(entropy, NOW, product)
    chip = Chip.create(entropy, NOW, amd=amd, signer=signer, masked=masked)
    guest = Guest(version=version)
    base = make_bench()
    values = guest.reference_values(product)
    if signer == "VLEK":
        values |= {"vlek_csp_ids": [CSP_ID], "unsafe_masked_chip_id": masked}
    manifest = msgspec.structs.replace(
        base.manifest,
        machines=(Listed(chip.machine_id, "simulated"),),
        sgx=None,
        snp=msgspec.convert(values, Snp),
        simulated=Simulated(amd_root_sha256=amd.root_sha256),
    )
    held = HeldCollateral((), amd.documents(NOW))
    return SnpBench(amd, chip, guest, base.binding, manifest, held)
