"""The machine's own clock."""

from __future__ import annotations

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
