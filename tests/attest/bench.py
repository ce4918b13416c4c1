"""A simulated machine, a manifest that accepts it, and everything needed to verify one quote."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Self

import msgspec

from leasehold.attest.collateral import CollateralStore, HeldCollateral, parse_collateral
from leasehold.attest.intel.reference import Sgx
from leasehold.attest.manifest import Manifest
from leasehold.attest.reference import Machine as Listed
from leasehold.attest.reference import Simulated
from leasehold.attest.verdict import Verdict
from leasehold.attest.verify import verify
from leasehold.core.binding import Binding, Purpose
from leasehold.core.crypto import SigningKey, TlsKey, sha256
from leasehold.core.evidence import Evidence
from leasehold.core.units import Instant
from leasehold_simtee.hierarchy import Ca, Situation, Vendor
from leasehold_simtee.machine import Machine
from leasehold_simtee.quote import Enclave

NOW = Instant(1_800_000_000_000)  # January 2027
YEAR = 365 * 86_400_000


def seeded(seed: str) -> Callable[[int], bytes]:
    """Entropy that is the same in every run: SHAKE-256 over the seed and a counter."""
    calls = iter(range(1_000_000))
    return lambda size: hashlib.shake_256(f"{seed}/{next(calls)}".encode()).digest(size)


class Judging:
    """What the benches of all platforms do alike."""

    binding: Binding
    manifest: Manifest
    collateral: CollateralStore
    now: Instant

    @property
    def evidence(self) -> Evidence:
        raise NotImplementedError

    def verify(self, evidence: Evidence | None = None) -> Verdict:
        return verify(
            self.evidence if evidence is None else evidence,
            self.binding,
            self.manifest,
            self.collateral,
            now=self.now,
        )

    def policy(self, **fields: object) -> Self:
        """The same with other manifest fields."""
        return replace(self, manifest=msgspec.structs.replace(self.manifest, **fields))  # type: ignore[type-var]


@dataclass(frozen=True)
class Bench(Judging):
    """All that `verify` takes, for one honest enclave; tests replace one part and ask for the verdict."""

    machine: Machine
    enclave: Enclave
    key: SigningKey
    binding: Binding
    manifest: Manifest
    collateral: CollateralStore
    now: Instant = NOW

    @property
    def evidence(self) -> Evidence:
        return self.machine.attester(self.enclave).attest(self.binding.report_data())

    def situation(self, **said: object) -> Bench:
        """The same machine after its vendor said something else of it."""
        told = self.machine.vendor.collateral(NOW, Situation(**said))  # type: ignore[arg-type]
        return replace(self, collateral=HeldCollateral([parse_collateral(told)]))

    def sgx(self, **fields: object) -> Bench:
        """The same with other reference values."""
        assert self.manifest.sgx is not None
        return self.policy(sgx=msgspec.structs.replace(self.manifest.sgx, **fields))


def make_bench(seed: str = "bench", *, ca: Ca = "processor") -> Bench:
    entropy = seeded(seed)
    machine = Machine.create(entropy, NOW, vendor=Vendor.create(entropy, NOW, ca=ca))
    enclave = Enclave(sha256(b"the released enclave"))
    key = SigningKey.make(entropy)
    configuration = b"a signed configuration file\n"
    binding = Binding(
        purpose=Purpose.CUSTODIAN,
        nonce=entropy(32),
        tls_spki=TlsKey.make(entropy).spki,
        statement_key=SigningKey.make(entropy).public,
        kem_key=b"a KEM key",
        custodian_root=key.public,
        configuration=configuration,
    )
    manifest = Manifest(
        version=1,
        name="bench",
        custodian_root=key.public.hex(),
        not_after=datetime(2030, 1, 1, tzinfo=UTC),
        configurations=(sha256(configuration).hex(),),
        machines=(Listed(machine.platform_id, "simulated"),),
        sgx=msgspec.convert(enclave.reference_values(), Sgx),
        simulated=Simulated(machine.root_sha256),
    )
    held = HeldCollateral([parse_collateral(machine.collateral)])
    return Bench(machine, enclave, key, binding, manifest, held)
