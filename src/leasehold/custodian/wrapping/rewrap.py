"""Wraps all of a custodian's keys anew: after a choice in `[keys]`, a new passphrase, a rotated service key.

Spec: docs/spec/keys.md, Y-10. Refuses to change anything that it could not open again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from leasehold.custodian.wrapping.ring import KeyRing
from leasehold.errors import KeyLocked

OWN_KEYS: Final = ("root.key", "audit.key", "ca.key")


def key_files(folder: Path) -> list[Path]:
    """The key files of a custodian's folder. Operators' keys are theirs, and not among them."""
    return [folder / name for name in OWN_KEYS] + sorted((folder / "models").glob("*.key"))


def rewrap(
    old: KeyRing, new: KeyRing, *, on_done: Callable[[str, str, str], None] = lambda *_: None
) -> None:
    """Read every key with `old` and write it with `new`, one file after the other, each at once or not at all.

    May be run again after a failure: what `new` wrote already is read with `new`. `on_done` hears the
    key's name and what it was wrapped by before and after. Raises KeyLocked, KeeperUnreachable,
    BadSetting, FileTrouble; everything before the failing file is done.
    """
    for path in key_files(old.folder):
        before = old.kind(path)
        new.write(path, _read(path, old, new), replace=True)
        on_done(old.name(path), before, new.kind(path))


def _read(path: Path, old: KeyRing, new: KeyRing) -> bytes:
    try:
        return old.read(path)
    except KeyLocked:
        if new is old:
            raise
        return new.read(path)
