"""What a custodian needs of the world: everything that is not a decision comes through here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from leasehold.attest.collateral import CollateralStore
from leasehold.core.crypto import Entropy
from leasehold.core.units import Clock
from leasehold.custodian.release import KeyStore
from leasehold.custodian.store.port import Store

T = TypeVar("T")


class RunBlocking(Protocol):
    """Runs a slow function beside the event loop: in a thread, or in place where time is simulated."""

    def __call__(self, work: Callable[[], T], /) -> Awaitable[T]: ...


@dataclass(frozen=True, slots=True)
class Ports:
    """What a custodian needs of the world."""

    store: Store
    clock: Clock
    entropy: Entropy
    collateral: CollateralStore
    model_keys: KeyStore
    run_blocking: RunBlocking
