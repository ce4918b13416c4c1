"""`python -I -B -m leasehold.worker.check [--in-process] [ENGINE]`: goes into the sandbox, and says what holds.

Spec: docs/spec/worker.md, W-6. It does what a worker does before it parses a byte of a model, and ends.
With `--in-process` there is no sandbox to go into (W-29), and it says so.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Final

from leasehold.errors import LeaseholdError
from leasehold.worker import inproc, sandbox
from leasehold.worker.main import find_engine
from leasehold.worker.profile import Profile, profile_of

IN_PROCESS: Final = "--in-process"


def main(words: Sequence[str]) -> None:
    """Print one line of JSON: `layers`, `absent`, `engine` where one was named and cannot be had.

    Of an engine with a profile also its name, what it `opens` here, and `without` which layers it is.
    """
    told: dict[str, object] = {}
    profile: Profile | None = None
    is_here = IN_PROCESS in words
    report = sandbox.Report((), sandbox.NAMES) if is_here else sandbox.isolate()
    try:
        for name in words:
            if name != IN_PROCESS:
                engine = find_engine(name)
                if is_here:
                    inproc.check(name, engine)
                else:
                    profile = profile_of(engine)
    except LeaseholdError as failure:
        told["engine"] = failure.message
    if profile is not None:
        told["profile"], told["without"] = profile.name, [sandbox.EMPTY]
        told["opens"] = sorted({path for path, _ in profile.rules()})
    try:
        if not is_here:
            report += sandbox.confine(profile)
    except LeaseholdError as failure:
        told["engine"] = failure.message
        report += sandbox.confine()
    line = json.dumps(told | {"layers": report.layers, "absent": report.absent})
    os.write(sys.stdout.fileno(), line.encode() + b"\n")
    os._exit(0)  # at once: nothing may be opened any more, not even for a traceback


if __name__ == "__main__":
    main(sys.argv[1:])
