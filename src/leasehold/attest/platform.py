"""What every platform's module offers to `verify`, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from leasehold.attest.collateral import CollateralStore
from leasehold.attest.manifest import Manifest
from leasehold.attest.reference import Simulated
from leasehold.attest.verdict import Appraisal
from leasehold.core.evidence import Evidence
from leasehold.core.units import Instant


class Observe(Protocol):
    """Whether evidence is authentic and what it says, without any policy but trust in a root."""

    def __call__(
        self,
        evidence: Evidence,
        collateral: CollateralStore,
        *,
        simulated: Simulated | None,
        now: Instant,
    ) -> Appraisal: ...


class Appraise(Protocol):
    """The same, and whether it is what the manifest expects."""

    def __call__(
        self, evidence: Evidence, manifest: Manifest, collateral: CollateralStore, *, now: Instant
    ) -> Appraisal: ...


class Platform(NamedTuple):
    """One row of the closed table of platforms.

    `commitment` gives what the platform's report data must be for 64 bytes of binding: the same
    bytes, or what a narrower field takes of them.
    """

    name: str
    observe: Observe
    appraise: Appraise
    commitment: Callable[[bytes], bytes] = bytes
