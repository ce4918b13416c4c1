"""Changes one place of one module's source while it is imported; nothing on disk is touched."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from types import ModuleType


@dataclass(frozen=True, slots=True)
class Mistake:
    """One planted bug: in `module` the only `old` becomes `new`.

    `test` is the test that finds it, empty where the simulation does.
    """

    name: str
    module: str
    old: str
    new: str
    test: str = ""


class _Loader(importlib.machinery.SourceFileLoader):
    """Loads the module's own file with the mistake in it."""

    mistake: Mistake

    def get_code(self, fullname: str):  # type: ignore[no-untyped-def]
        """Compile the changed source; never from a cache, never into one."""
        source = self.get_source(fullname) or ""
        return self.source_to_code(planted(source, self.mistake).encode(), self.get_filename())


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, mistake: Mistake) -> None:
        self.mistake = mistake

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of the one module that is changed."""
        if fullname != self.mistake.module:
            return None
        found = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if found is None or found.origin is None:
            return None
        loader = _Loader(fullname, found.origin)
        loader.mistake = self.mistake
        return importlib.util.spec_from_loader(fullname, loader)


def planted(source: str, mistake: Mistake) -> str:
    """The source with the mistake. Raises ValueError where its place is not there exactly once."""
    if source.count(mistake.old) != 1:
        raise ValueError(f"{mistake.name}: {source.count(mistake.old)} places in {mistake.module}")
    return source.replace(mistake.old, mistake.new)


def plant(mistake: Mistake) -> None:
    """From now on import the module with the mistake in it. Raises RuntimeError where it is loaded already."""
    if mistake.module in sys.modules:
        raise RuntimeError(f"{mistake.module} is loaded already")
    sys.meta_path.insert(0, _Finder(mistake))
