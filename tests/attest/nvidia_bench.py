"""Simulated devices beside a simulated machine, a manifest that accepts them, and all that NVIDIA says."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import msgspec
import pytest

from leasehold.attest.collateral import Document, HeldCollateral
from leasehold.attest.nvidia.devices import Devices, appraise_devices
from leasehold.attest.nvidia.reference import Nvidia
from leasehold.attest.reference import Machine as Listed
from leasehold.attest.reference import Simulated
from leasehold.core.evidence import DeviceEvidence
from leasehold.core.units import Instant
from leasehold.errors import LeaseholdError
from leasehold_simtee.nvidia import HOPPER, NvidiaVendor, SimulatedDevice

from .bench import NOW, Bench, make_bench, seeded

NONCE = bytes(range(32))
LATER = Instant(NOW + 1000)


def reference_values(*devices: SimulatedDevice, **fields: object) -> Nvidia:
    """The `[nvidia]` table that accepts exactly these devices."""
    gpus = [one.model for one in devices if one.model.kind == "nvidia-gpu"]
    switches = [one.model for one in devices if one.model.kind == "nvidia-switch"]
    table: dict[str, object] = {
        "models": tuple(sorted({one.model.chip.replace("_", "") for one in devices})),
        "driver_versions": tuple(sorted({one.driver for one in gpus})),
        "vbios_versions": tuple(sorted({one.firmware for one in gpus})),
        "mode": "protected-pcie" if switches else "single-gpu",
        "switches": len(switches),
        "switch_bios_versions": tuple(sorted({one.firmware for one in switches})),
    }
    return msgspec.convert(table | fields, Nvidia)


@dataclass(frozen=True)
class NvidiaBench:
    """All that `appraise_devices` takes; tests replace one part and ask for the verdict."""

    bench: Bench
    vendor: NvidiaVendor
    devices: tuple[SimulatedDevice, ...]
    documents: tuple[Document, ...]
    evidence: tuple[DeviceEvidence, ...]
    listed: tuple[str, ...]
    now: Instant = LATER
    nonce: bytes = field(default=NONCE)

    def appraise(self) -> Devices:
        return appraise_devices(
            self.evidence,
            self.nonce,
            self.bench.manifest,
            HeldCollateral((), self.documents),
            expected=self.listed,
            now=self.now,
        )

    def refused(self, error: type[LeaseholdError]) -> LeaseholdError:
        """A refusal that must be of exactly this class."""
        with pytest.raises(LeaseholdError) as caught:
            self.appraise()
        assert type(caught.value) is error, caught.value
        return caught.value

    def reference(self, **fields: object) -> NvidiaBench:
        """The same with other reference values."""
        table = reference_values(*self.devices, **fields)
        return replace(self, bench=self.bench.policy(nvidia=table))

    def simulated(self, **fields: object) -> NvidiaBench:
        """The same with other simulated roots."""
        assert self.bench.manifest.simulated is not None
        table = msgspec.structs.replace(self.bench.manifest.simulated, **fields)
        return replace(self, bench=self.bench.policy(simulated=table))

    def first(self, **fields: Any) -> NvidiaBench:
        """The same with another report of the first device (see `SimulatedDevice.report`)."""
        return self.report(self.devices[0].report(NONCE, **fields))

    def report(self, report: bytes) -> NvidiaBench:
        """The same with these bytes for the first device's report."""
        first = msgspec.structs.replace(self.evidence[0], report=report)
        return replace(self, evidence=(first, *self.evidence[1:]))

    def chain(self, pem: bytes) -> NvidiaBench:
        """The same with this chain for the first device."""
        first = msgspec.structs.replace(self.evidence[0], chain=pem)
        return replace(self, evidence=(first, *self.evidence[1:]))

    def document(self, name: str, data: bytes | None) -> NvidiaBench:
        """The same with other bytes for one document, or without it."""
        kept = [one for one in self.documents if one.name != name]
        assert len(kept) == len(self.documents) - 1, name
        changed = [
            msgspec.structs.replace(one, data=data)
            for one in self.documents
            if one.name == name and data is not None
        ]
        return replace(self, documents=(*kept, *changed))

    def rim(self, name: str, change: Callable[[bytes], bytes]) -> NvidiaBench:
        """The same with one manifest changed."""
        (data,) = [one.data for one in self.documents if one.name == name]
        return self.document(name, change(data))


def make_nvidia_bench(
    vendor: NvidiaVendor, devices: Iterable[SimulatedDevice], bench: Bench
) -> NvidiaBench:
    """Honest evidence of these devices, listed by the serial numbers of their keys."""
    held = tuple(devices)
    listed = tuple(one.serial for one in held)
    assert bench.manifest.simulated is not None
    trusted = Simulated(
        bench.manifest.simulated.root_sha256,
        nvidia_root_sha256=vendor.root_sha256,
        nvidia_rim_root_sha256=vendor.rim_root_sha256,
    )
    machine = Listed(bench.machine.platform_id, "simulated", listed)
    return NvidiaBench(
        bench.policy(nvidia=reference_values(*held), simulated=trusted, machines=(machine,)),
        vendor,
        held,
        vendor.documents(held, NOW),
        tuple(one.evidence(NONCE) for one in held),
        listed,
    )


@cache
def vendor() -> NvidiaVendor:
    """Made once: making P-384 keys and signatures is most of these tests' time."""
    return NvidiaVendor.create(seeded("nvidia"), NOW)


@cache
def one_gpu() -> NvidiaBench:
    """One Hopper."""
    return make_nvidia_bench(vendor(), [vendor().device(HOPPER)], make_bench("nvidia"))


@cache
def protected_pcie() -> NvidiaBench:
    """Two Hoppers and two switches in protected PCIe mode."""
    return make_nvidia_bench(vendor(), vendor().machine(2, 2), make_bench("nvidia"))
