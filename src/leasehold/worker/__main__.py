"""`python -I -m leasehold.worker --fd N`: the engine's process, started by the governor only."""

import sys

from leasehold.worker.main import main

sys.exit(main(sys.argv[1:]))
