"""`python -I -m leasehold.worker --fd N`: the engine's process, started by the governor only."""

import sys

# msgspec would take it, for what `typing` has itself since Python 3.11: a sixth of a worker's imports.
sys.modules["typing_extensions"] = None  # type: ignore[assignment]
import msgspec  # noqa: E402, F401

del sys.modules["typing_extensions"]

from leasehold.worker.main import main  # noqa: E402

sys.exit(main(sys.argv[1:]))
