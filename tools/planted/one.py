"""One planted mistake in this process: `python -m tools.planted.one NAME FIRST SEEDS`; no name plants none.

Prints the seeds lived and the violation; ends with 1 where it was found, 0 where not.
"""

from __future__ import annotations

import sys

from tools.planted.hook import plant
from tools.planted.mistakes import MISTAKES


def main(name: str, first: int, seeds: int) -> int:
    """Plant it, and look for it."""
    mistake = MISTAKES.get(name)
    if mistake is not None:
        plant(mistake)
    if mistake is not None and mistake.test:
        import pytest

        code = pytest.main(["-q", "-x", "--no-header", "-p", "no:cacheprovider", mistake.test])
        print(f"test {mistake.test} ended with {int(code)}")
        return int(code == pytest.ExitCode.TESTS_FAILED)
    from leasehold.testing.simulation.day import run

    for count in range(1, seeds + 1):
        report = run(first + count - 1)
        if report.violation is not None:
            print(f"{count} seeds: {report.violation}")
            return 1
    print(f"not found in {seeds} seeds")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
