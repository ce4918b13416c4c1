"""python -m bench [NAME...]: run the measurements; non-zero where a bar is missed."""

from __future__ import annotations

import sys
from importlib import import_module

from bench.harness import Row, report

BENCHES = (
    "gate",
    "litellm",
    "start",
    "engines",
    "embeddings",
    "worker",
    "openvino",
    "verify",
    "refusals",
    "ledger",
    "stop",
    "crowd",
)
WITH = {
    "gate": ("litellm",),
    "ledger": ("stop", "crowd"),
}  # what a bench shows besides its own rows


def main() -> int:
    """Run the named benches, or all."""
    names = sys.argv[1:] or list(BENCHES)
    unknown = set(names) - set(BENCHES)
    if unknown:
        print(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(BENCHES)}")
        return 2
    rows: list[Row] = []
    whole = [part for name in names for part in (name, *WITH.get(name, ()))]
    for part in dict.fromkeys(whole):
        rows += import_module(f"bench.{part}").measure()
    return report(rows)


if __name__ == "__main__":
    raise SystemExit(main())
