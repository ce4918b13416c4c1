"""The real worker with an engine that echoes: `python -c "from bench.free import main; main()" --fd N`."""

from __future__ import annotations

import sys

from leasehold.testing.engine import FakeEngine
from leasehold.worker.main import serve


def main() -> None:
    """Serve the socket that `--fd` names."""
    sys.exit(serve(int(sys.argv[2]), FakeEngine))
