"""Keeps collateral current while a custodian runs, and its live instances judged by it.

Two loops beside the server, neither of which any request waits for. A failure is told and tried again.
Spec: docs/spec/collateral.md, K-7; docs/spec/session.md, N-10.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from leasehold.core.crypto import Entropy
from leasehold.core.units import Instant
from leasehold.custodian.collateral.fetch import Refreshed, open_fetcher
from leasehold.custodian.collateral.folder import FolderCollateral
from leasehold.custodian.collateral.vendors import Vendors
from leasehold.custodian.collateral.web import Web
from leasehold.custodian.ledger import audit
from leasehold.custodian.log import Log, place_of
from leasehold.custodian.rejudge import Fallen
from leasehold.custodian.service import Custodian
from leasehold.custodian.store.port import Tx
from leasehold.errors import LeaseholdError

WATCH_SECONDS: Final = 1.0
SOON_SECONDS: Final = 30.0  # after the start, and up to as much again at random
RETRY_SECONDS: Final = 900.0  # after a failure, where the interval is not shorter


@dataclass(frozen=True, slots=True)
class Keeper:
    """What the loops share. `web` opens a network; None is the real one."""

    custodian: Custodian
    folder: FolderCollateral
    vendors: Vendors
    entropy: Entropy
    log: Log
    web: Callable[[Vendors], Web] | None = None

    async def watch(self) -> None:
        """Whenever anything new is kept, by whichever process, judge the live instances by it."""
        seen = -1  # so that a restart judges what was imported while nobody watched
        while True:
            try:
                version = await asyncio.to_thread(self.folder.version)
                if version != seen:
                    self.tell(await self.custodian.rejudge())
                    seen = version
            except LeaseholdError as failure:
                self.log.event("rejudging_failed", code=failure.code, where=place_of(failure))
            await asyncio.sleep(WATCH_SECONDS)

    def tell(self, fallen: Iterable[Fallen]) -> None:
        """Log whose evidence was ended, and why."""
        for one in fallen:
            self.log.event("instance_refused", instance=one.instance.id, code=one.why.code)

    async def refresh(self) -> None:
        """Fetch everything again at the interval of the settings; never where that is 0."""
        every = self.vendors.refresh_minutes * 60.0
        pause = SOON_SECONDS
        while every:
            await asyncio.sleep(pause * (1 + self._luck()))
            done = await self.refresh_once()
            pause = every * 0.75 if done else min(every * 0.75, RETRY_SECONDS)

    async def refresh_once(self) -> bool:
        """K-7: one refresh, in the audit log where anything is new or failed; tells whether all is well."""
        try:
            found = await asyncio.to_thread(self._fetch)
            for one in found.failed:
                self.log.event("collateral_not_fetched", item=one.name, code=one.why.code)
            if found.news:
                self.log.event("collateral_fetched", items=len(found.news))
            if found.news or found.failed:
                await self.custodian.change(lambda tx, now: _record(tx, now, found))
        except LeaseholdError as failure:
            self.log.event("refresh_failed", code=failure.code, where=place_of(failure))
            return False
        return not found.failed

    def _fetch(self) -> Refreshed:
        clock = self.custodian.ports.clock
        with open_fetcher(self.vendors, self.folder, clock=clock, web=self.web) as fetcher:
            found = fetcher.refresh()
        self.folder.note(found.failed, now=clock.now())
        return found

    def _luck(self) -> float:
        """0 to 1: custodians that started together must not ask the vendors together."""
        return int.from_bytes(self.entropy(2), "big") / (1 << 16)


def _record(tx: Tx, now: Instant, found: Refreshed) -> None:
    detail = {
        "news": list(found.news),
        "failed": [{"item": one.name, "code": one.why.code} for one in found.failed],
    }
    audit.append(tx, now=now, actor="custodian", kind="collateral.refresh", detail=detail)
