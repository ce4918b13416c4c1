"""`python -I -B -m leasehold.worker.check [ENGINE]`: goes into the sandbox, and says which layers hold.

Spec: docs/spec/worker.md, W-6. It does what a worker does before it parses a byte of a model, and ends.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence

from leasehold.errors import LeaseholdError
from leasehold.worker import sandbox
from leasehold.worker.main import find_engine


def main(engines: Sequence[str]) -> None:
    """Print one line of JSON: `layers`, `absent`, and `engine` where one was named and cannot be had."""
    told: dict[str, object] = {}
    report = sandbox.isolate()
    try:
        for engine in engines:
            find_engine(engine)
    except LeaseholdError as failure:
        told["engine"] = failure.message
    report += sandbox.confine()
    line = json.dumps(told | {"layers": report.layers, "absent": report.absent})
    os.write(sys.stdout.fileno(), line.encode() + b"\n")
    os._exit(0)  # at once: nothing may be opened any more, not even for a traceback


if __name__ == "__main__":
    main(sys.argv[1:])
