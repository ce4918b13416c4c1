"""Many days on all cores, each process taking the next seed as soon as it has time."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterable, Iterator

from leasehold.testing.simulation.day import Report, run


def live_all(seeds: Iterable[int]) -> Iterator[Report]:
    """The reports of these days, in the order in which they end."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(os.cpu_count() or 1) as pool:
        yield from pool.imap_unordered(live_one, seeds, chunksize=4)


def live_one(seed: int) -> Report:
    """One day. What it raised that is no violation is raised here again."""
    return run(seed)
