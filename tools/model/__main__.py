"""`make model`: three enclaves and a stop, two enclaves with a stop and a restore; about a million states."""

from __future__ import annotations

import sys
import time

from tools.model.explore import explore
from tools.model.protocol import Limits, Rules

SPACES = (
    Limits(enclaves=3, asks=1, instances=3, stops=0, restores=0),
    Limits(enclaves=2, asks=1, instances=2, stops=1, restores=1),
    Limits(enclaves=3, asks=1, instances=3, stops=1, restores=0),
)


def main() -> int:
    """Explore each space whole."""
    for limits in SPACES:
        started = time.monotonic()
        found = explore(Rules(), limits)
        print(
            f"{found.states:>9,} states, {found.steps:>9,} steps, {time.monotonic() - started:4.0f} s:"
            f" {found.broken or 'every invariant holds'}  {limits}",
            flush=True,
        )
        for step in found.story:
            print(f"    {step}")
        if found.broken:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
