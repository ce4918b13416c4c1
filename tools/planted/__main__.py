"""`make simulate-planted`: plant every mistake, each in a process of its own, and tell which are found.

    python -m tools.planted [--seeds 300] [NAME...]

Ends with 1 where fewer than 95 % are found.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from tools.planted.mistakes import MISTAKES

BAR = 0.95
SECONDS_MAX = 1800


def main() -> int:
    """Run them all on all cores."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seeds", type=int, default=300)
    options.add_argument("names", nargs="*", help="only these")
    wanted = options.parse_args()
    names = wanted.names or list(MISTAKES)
    found: list[str] = []
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        runs = {name: pool.submit(look_for, name, 1, wanted.seeds) for name in names}
        for name, run in runs.items():
            is_found, told = run.result()
            found += [name] if is_found else []
            print(f"{'found ' if is_found else 'MISSED'}  {name:<34} {told}", flush=True)
    share = len(found) / len(names)
    by_seeds = sum(not MISTAKES[name].test for name in found)
    print(
        f"{len(found)} of {len(names)} planted mistakes found ({share:.0%}): {by_seeds} by simulation,"
        f" {len(found) - by_seeds} by named tests"
    )
    return 0 if share >= BAR else 1


def look_for(name: str, first: int, seeds: int) -> tuple[bool, str]:
    """Whether a mistake is found, and the last line that was said."""
    command = [sys.executable, "-m", "tools.planted.one", name, str(first), str(seeds)]
    try:
        ran = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=SECONDS_MAX
        )
    except subprocess.TimeoutExpired:
        return False, f"hung: neither found nor refuted in {SECONDS_MAX} s"
    if ran.returncode not in (0, 1) or "Error: " in ran.stderr or not ran.stdout.strip():
        return False, f"could not be tried: {ran.stdout[-200:]}{ran.stderr[-1000:]}"
    return ran.returncode == 1, ran.stdout.strip().splitlines()[-1]


if __name__ == "__main__":
    sys.exit(main())
