"""SIMULATED vendors over real HTTP on this machine, and a fetcher that asks them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from leasehold.attest.reference import Simulated
from leasehold.core.units import Duration, Instant, after
from leasehold.custodian.collateral.fetch import Fetcher, open_fetcher
from leasehold.custodian.collateral.folder import FolderCollateral
from leasehold.custodian.collateral.vendors import Vendors as Settings
from leasehold.custodian.collateral.web import Patience, Web
from leasehold.net.tls import public_context
from leasehold_simtee.machine import Machine
from leasehold_simtee.nvidia import HOPPER, NvidiaVendor
from leasehold_simtee.serve import serving
from leasehold_simtee.snp import Chip
from leasehold_simtee.vendors import Reply, Vendors


class Now:
    """A clock that stands until a test turns it on; certificates are judged by it."""

    def __init__(self) -> None:
        self.passed = 0
        self.start = Instant(int(time.time() * 1000))

    def now(self) -> Instant:
        return after(self.start, self.passed)

    def monotonic(self) -> Instant:
        return Instant(self.passed)


@dataclass
class Town:
    """Vendors that answer, a custodian's folder, and the pauses that the fetcher would have made."""

    path: Path
    clock: Now
    vendors: Vendors
    address: str = ""
    spoil: Callable[[str, Reply], Reply] = lambda _, reply: reply
    pauses: list[float] = field(default_factory=list)
    patience: Patience = field(default_factory=lambda: Patience(timeout=5.0))

    @property
    def folder(self) -> FolderCollateral:
        return FolderCollateral(self.path)

    @property
    def simulated(self) -> Simulated:
        assert self.vendors.nvidia is not None
        return Simulated(
            root_sha256=self.vendors.machine.root_sha256,
            amd_root_sha256=self.vendors.chips[0].amd.root_sha256,
            nvidia_root_sha256=self.vendors.nvidia.root_sha256,
            nvidia_rim_root_sha256=self.vendors.nvidia.rim_root_sha256,
        )

    @property
    def settings(self) -> Settings:
        at = self.address
        return Settings(pcs=at, kds=at, rim=at, ocsp=at, simulated=self.simulated)

    def answer(self, method: str, target: str, body: bytes) -> Reply:
        return self.spoil(target, self.vendors.answer(method, target, body))

    def web(self, _: Settings) -> Web:
        return Web(
            context=public_context(),
            entropy=os.urandom,
            patience=self.patience,
            sleep=self.pauses.append,
        )

    @contextmanager
    def fetcher(self, settings: Settings | None = None) -> Iterator[Fetcher]:
        told = settings or self.settings
        with open_fetcher(told, self.folder, clock=self.clock, web=self.web) as fetcher:
            yield fetcher

    def pass_time(self, length: int) -> None:
        self.clock.passed += Duration(length)


@contextmanager
def open_town(path: Path, *, machine: Machine | None = None) -> Iterator[Town]:
    """A town whose vendors answer while the block runs."""
    clock = Now()
    now = clock.now()
    nvidia = NvidiaVendor.create(os.urandom, now)
    vendors = Vendors(
        clock.now,
        machine or Machine.create(os.urandom, now),
        (Chip.create(os.urandom, now),),
        nvidia,
        (nvidia.device(HOPPER),),
    )
    town = Town(path, clock, vendors)
    with serving(town.answer) as address:
        town.address = address
        yield town
