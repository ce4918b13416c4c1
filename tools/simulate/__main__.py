"""`make simulate SEEDS=n`: live the days 1 to n on all cores; ends with 1 where an invariant broke.

python -m tools.simulate --seeds 10000 [--first 1] [--story SEED]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from leasehold.testing.simulation.day import plan, run
from tools.simulate.many import live_all


def main() -> int:
    """Run, and print what a person needs to know."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seeds", type=int, default=1000)
    options.add_argument("--first", type=int, default=1)
    options.add_argument("--story", type=int, help="live one day and tell what happened in it")
    wanted = options.parse_args()
    if wanted.story is not None:
        return _tell(wanted.story)
    started, events, served, broken, done = time.monotonic(), Counter[str](), 0, [], 0
    for report in live_all(range(wanted.first, wanted.first + wanted.seeds)):
        done += 1
        served += report.served
        events += report.events
        if report.violation is not None:
            broken.append(report.seed)
            print(f"seed {report.seed}: {report.violation}", flush=True)
        if done % 500 == 0:
            rate = done / (time.monotonic() - started)
            print(f"{done} days, {rate:.1f} a second, {len(broken)} broken", flush=True)
    seconds = time.monotonic() - started
    faults = sum(count for name, count in events.items() if not name.startswith("answer"))
    answers = sum(count for name, count in events.items() if name.startswith("answer"))
    print(
        f"{done} days in {seconds:.0f} s ({done / seconds:.1f} seeds a second): {answers:,} answers,"
        f" {served:,} units served, {faults:,} faults and acts, {len(broken)} days broken"
    )
    if broken:
        print(f"look at one:  python -m tools.simulate --story {broken[0]}")
        print("keep it:      what it finds becomes a test in tests/simulation/test_found.py")
    return 1 if broken else 0


def _tell(seed: int) -> int:
    print(plan(seed))
    report = run(seed)
    for seconds, what, detail in report.story:
        print(f"{seconds:10.3f}  {what} {detail}")
    print(report.violation or "every invariant held")
    return 1 if report.violation else 0


if __name__ == "__main__":
    sys.exit(main())
