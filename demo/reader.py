"""A consumer that never has enough: streams one long answer after the other and notes when each piece came.

    python -m demo.reader ADDRESS MANIFEST NOTES        (the API key in LEASEHOLD_API_KEY)

Writes lines `MILLISECONDS PIECE-BYTES` since the epoch, and `MILLISECONDS end CODE` at the refusal.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from leasehold.consumer.client import Enclave
from leasehold.errors import LeaseholdError

PROMPT = "Count from 1 to 200."
TOKENS = 700


def main() -> None:
    """Read until somebody says no."""
    address, manifest, notes = sys.argv[1:]
    key = os.environ["LEASEHOLD_API_KEY"]
    with (
        Path(notes).open("w", buffering=1) as out,
        Enclave.connect(address, manifest=manifest, api_key=key) as enclave,
    ):
        try:
            while True:
                for piece in enclave.ask(PROMPT, stream=True, max_tokens=TOKENS):
                    out.write(f"{time.time_ns() // 1_000_000} {len(piece)}\n")
        except LeaseholdError as refusal:
            out.write(f"{time.time_ns() // 1_000_000} end {refusal.code}\n")


if __name__ == "__main__":
    main()
