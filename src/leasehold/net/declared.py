"""Entry points that installed distributions declare. Nothing is imported to find them.

Not by `importlib.metadata`: importing that and parsing a hundred distributions took a third of the time
in which a worker starts. Source: entry points specification of packaging.python.org, read 2026-12.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from importlib import import_module
from typing import Any


def declared(group: str) -> dict[str, set[str]]:
    """For each name of the group the objects `MODULE:ATTRIBUTE` that it was declared to be."""
    found: dict[str, set[str]] = {}
    for place in sys.path:
        with suppress(OSError):  # what is no folder holds no distributions
            for about in os.listdir(place):
                if about.endswith(".dist-info"):
                    for name, what in _lines(f"{place}/{about}/entry_points.txt", f"[{group}]"):
                        found.setdefault(name, set()).add(what)
    return found


def _lines(path: str, wanted: str) -> list[tuple[str, str]]:
    pairs, section = [], ""
    with suppress(FileNotFoundError), open(path, encoding="utf-8") as file:
        for line in map(str.strip, file):
            if line.startswith("["):
                section = line
            elif section == wanted and line[:1] not in ("", "#", ";"):
                name, _, what = line.partition("=")
                pairs.append((name.strip(), what.strip()))
    return pairs


def load(what: str) -> Any:
    """The object itself. Raises ImportError, AttributeError."""
    module, _, attribute = what.partition(":")
    return getattr(import_module(module), attribute)
