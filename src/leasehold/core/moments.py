"""Moments and spans as people write them. No enclave needs it."""

from __future__ import annotations

from datetime import UTC, datetime

from leasehold.core.units import SECOND, Instant


def utc(instant: Instant) -> str:
    """A moment in UTC, to the second."""
    return datetime.fromtimestamp(instant / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def span(length: int) -> str:
    """A span of milliseconds in its largest whole unit, and the next one where that says more."""
    seconds = max(0, length) // SECOND
    for name, size, below in (("d", 86_400, 3_600), ("h", 3_600, 60), ("min", 60, 1)):
        if seconds >= size:
            rest = seconds % size // below
            smaller = {"d": "h", "h": "min", "min": "s"}[name]
            more = f" {rest} {smaller}" if rest and seconds < 10 * size else ""
            return f"{seconds // size} {name}{more}"
    return f"{seconds} s"
