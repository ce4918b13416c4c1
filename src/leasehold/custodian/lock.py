"""Who works on a custodian's folder: any number of serving processes, or one that restores.

The lock is the kernel's and ends with its process, however that ends. Spec: docs/spec/backup.md, U-3.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from leasehold.errors import FileTrouble, LedgerInUse

_NAME: Final = "ledger.lock"


@contextmanager
def held(folder: Path, *, alone: bool) -> Iterator[None]:
    """Hold the folder's lock, shared or alone. Raises LedgerInUse where that is not possible now."""
    try:
        file = os.open(folder / _NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as cause:
        raise FileTrouble(about=folder / _NAME, got=cause.strerror) from cause
    try:
        try:
            fcntl.flock(file, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError as cause:
            who = "a custodian or a restore" if alone else "a restore"
            raise LedgerInUse(about=folder, got=who) from cause
        yield
    finally:
        os.close(file)
