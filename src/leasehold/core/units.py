"""The quantities everything is counted in, and the clock port that tells time to those who need it."""

from __future__ import annotations

from typing import Final, NewType, Protocol

Units = NewType("Units", int)
"""Units of budget; what one is worth is the loan's tariff."""

Instant = NewType("Instant", int)
"""Milliseconds: since the Unix epoch from `Clock.now`, since an arbitrary start from `Clock.monotonic`."""

Duration = NewType("Duration", int)
"""Milliseconds."""

KIB: Final = 1024
MIB: Final = 1024 * KIB
SECOND: Final = Duration(1000)
MINUTE: Final = Duration(60_000)
DAY: Final = Duration(86_400_000)


class Clock(Protocol):
    """Tells time. Inside an enclave it belongs to the host, so it may only ever shorten a right."""

    def now(self) -> Instant:
        """Milliseconds since the Unix epoch."""

    def monotonic(self) -> Instant:
        """Milliseconds since an arbitrary start; never goes back."""


def after(start: Instant, length: int) -> Instant:
    """The instant `length` milliseconds after `start`."""
    return Instant(start + length)
