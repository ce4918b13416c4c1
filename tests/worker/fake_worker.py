"""The real worker with the fake engine: `python -I fake_worker.py --fd N`."""

import sys

from leasehold.testing.engine import FakeEngine
from leasehold.worker.main import serve

if __name__ == "__main__":
    sys.exit(serve(int(sys.argv[2]), FakeEngine))
