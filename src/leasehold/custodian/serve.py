"""Runs a custodian: opens the ledger, listens, sweeps, keeps collateral current, ends in good order.

Refuses to know what any request means. The server's own key is made at every start and is nowhere
stored: clients trust the authority, not the key.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from leasehold.core.crypto import TlsKey
from leasehold.core.units import DAY, Clock, Instant, after
from leasehold.custodian.api import build
from leasehold.custodian.collateral.folder import FolderCollateral
from leasehold.custodian.desk import Desk
from leasehold.custodian.keeping import Keeper
from leasehold.custodian.lock import held
from leasehold.custodian.log import Log, place_of
from leasehold.custodian.mark import Mark
from leasehold.custodian.ports import Ports
from leasehold.custodian.release import FolderKeys, HeldKeys
from leasehold.custodian.replicas import relay
from leasehold.custodian.service import Custodian
from leasehold.custodian.settings import CLOCK_SKEW, Place, Settings
from leasehold.custodian.store.opening import open_store
from leasehold.custodian.tree import keep_tiles
from leasehold.custodian.verifying import Verifying
from leasehold.errors import LeaseholdError
from leasehold.net.authority import Validity, issue_server
from leasehold.net.servers import Address, serving
from leasehold.net.tls import TlsContext, custodian_server_context

SWEEP_SECONDS: Final = 1.0
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
SERVER_CERTIFICATE_LIFE: Final = 825 * DAY  # longer than any process runs without a restart


class SystemClock:
    """Implements `core.units.Clock` with this machine's time."""

    def now(self) -> Instant:
        """Milliseconds since the Unix epoch."""
        return Instant(time.time_ns() // 1_000_000)

    def monotonic(self) -> Instant:
        """Milliseconds since an arbitrary start; never goes back."""
        return Instant(time.monotonic_ns() // 1_000_000)


@dataclass(frozen=True, slots=True)
class Running:
    """A custodian that answers, and where it really listens."""

    custodian: Custodian
    address: Address
    loops: frozenset[asyncio.Task[None]]  # what it does by itself


@asynccontextmanager
async def running(
    settings: Settings, *, log: Log, clock: Clock | None = None
) -> AsyncIterator[Running]:
    """A custodian that runs while the block does.

    `settings.listen` may name port 0, for a free one. Raises StoreFailed, PortInUse, BadSetting,
    LedgerInUse, LedgerOld.
    """
    with held(settings.folder, alone=False):
        async with _running(settings, log=log, clock=clock) as found:
            yield found


@asynccontextmanager
async def _running(settings: Settings, *, log: Log, clock: Clock | None) -> AsyncIterator[Running]:
    the_clock = clock or SystemClock()
    collateral = FolderCollateral(settings.collateral)
    store = open_store(settings.ledger, settings.store)
    mark = Mark(settings.mark, settings.origin, settings.audit)
    verifying = Verifying()
    try:
        await store.read(mark.check)  # U-6: before anybody is answered
        ports = Ports(
            store=store,
            clock=the_clock,
            entropy=os.urandom,
            collateral=collateral,
            model_keys=HeldKeys(FolderKeys(settings.models, settings.ring)),
            run_blocking=verifying,
        )
        custodian = Custodian(settings.keys, settings.rules, ports)
        app = build(Desk(custodian, settings), log)
        context = server_context(settings, now=the_clock.now())
        listen = settings.listen
        async with serving(app, context, listen.host, listen.port) as address:
            keeper = Keeper(custodian, collateral, settings.vendors, os.urandom, log)
            loops = (
                _sweep(custodian, log),
                mark.keep(store, log),
                relay(custodian, log),
                keep_tiles(store, log),
                keeper.watch(),
                keeper.refresh(),
            )
            tasks = frozenset(asyncio.create_task(loop) for loop in loops)
            try:
                yield Running(custodian, address, tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        await mark.try_write(store, log)
    finally:
        verifying.close()
        await store.close()


async def serve(
    settings: Settings, *, log: Log, on_ready: Callable[[Place], None] = lambda _place: None
) -> None:
    """Run until SIGTERM or SIGINT. Raises as `running` does.

    What one of its loops breaks with, it ends with: one that no longer sweeps must not look well.
    """
    async with until_signal() as stop, running(settings, log=log) as found:
        place = Place(found.address.host, found.address.port)
        log.event("serving", address=str(place), root=settings.keys.root.public.hex())
        on_ready(place)
        told = asyncio.create_task(stop.wait())
        try:
            await _first_of(told, found.loops)
        finally:
            told.cancel()
        log.event("stopping")


async def _first_of(told: asyncio.Task[bool], loops: frozenset[asyncio.Task[None]]) -> None:
    """Return when told to. Raises what ends one of the loops before."""
    going: set[asyncio.Task[Any]] = {told, *loops}
    while not told.done():
        done, going = await asyncio.wait(going, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()


@asynccontextmanager
async def until_signal() -> AsyncIterator[asyncio.Event]:
    """An event that SIGTERM and SIGINT set while the block runs."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, stop.set)
    try:
        yield stop
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


def server_context(settings: Settings, *, now: Instant) -> TlsContext:
    """A TLS context with a fresh key under the custodian's own authority."""
    key = TlsKey.make(os.urandom)
    certificate = issue_server(
        settings.keys.authority,
        key.spki,
        names=settings.names,
        validity=Validity(after(now, -CLOCK_SKEW), after(now, SERVER_CERTIFICATE_LIFE)),
        entropy=os.urandom,
    )
    return custodian_server_context(certificate, key, client_ca=settings.keys.authority.certificate)


async def _sweep(custodian: Custodian, log: Log) -> None:
    """One failure is no reason to stop sweeping; the next one may find the disk well again."""
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        try:
            swept = await custodian.sweep()
        except LeaseholdError as failure:
            log.event("sweep_failed", code=failure.code, where=place_of(failure))
            continue
        if swept.leases or swept.lost:
            log.event(
                "swept", leases=len(swept.leases), units=swept.units, instances=len(swept.lost)
            )
