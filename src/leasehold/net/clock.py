"""The machine's own clock."""

from __future__ import annotations

import asyncio
import time

from leasehold.core.units import Instant


class SystemClock:
    """Implements `core.units.Clock` with this machine's time."""

    def now(self) -> Instant:
        """Milliseconds since the Unix epoch."""
        return Instant(time.time_ns() // 1_000_000)

    def monotonic(self) -> Instant:
        """Milliseconds since an arbitrary start; never goes back."""
        return Instant(time.monotonic_ns() // 1_000_000)


async def next_multiple(seconds: float) -> None:
    """Sleep until the loop's time is a multiple of so many seconds.

    All that looks after something now and then does so at one moment: a processor that sleeps, or computes
    for the engine, is disturbed once for all of it.
    """
    await asyncio.sleep(seconds - asyncio.get_running_loop().time() % seconds)
