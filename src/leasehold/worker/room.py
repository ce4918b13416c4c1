"""Is there memory for a model? Asked before an engine reads it, so that the answer is not the kernel's.

Spec: docs/spec/worker.md, W-27. Refuses to know engines but for what they declare.
"""

from __future__ import annotations

import ctypes
import os
import resource
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from leasehold.core.frames import MemoryFile
from leasehold.errors import ModelTooLarge, SwapOn

PROC, CGROUP = Path("/proc"), Path("/sys/fs/cgroup")
_KIB: Final = 1024
_ALL_AS_TOUCHED: Final = 1 | 2 | 4  # MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT of linux/mman.h


def check(ratio: float, files: Sequence[MemoryFile], free: int | None) -> None:
    """W-27: raise ModelTooLarge unless a load's peak fits; the files are in memory already.

    `ratio` is an engine's `load_peak_ratio`, `free` in bytes, None where the machine does not tell.
    """
    size = sum(file.size for file in files)
    wanted = int((ratio - 1) * size)
    if free is not None and wanted > free:
        raise ModelTooLarge(
            about="bytes of memory beside the files",
            got=free,
            expected=f">= {wanted}: {ratio} times the files' {size} bytes at the peak, less these",
        )


def lock_process() -> SwapOn | None:
    """W-30: no page of this process is swapped from here on; where it must not lock them, why."""
    with suppress(ValueError, OSError):  # only an administrator may; it may be high enough
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY,) * 2)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlockall(_ALL_AS_TOUCHED) == 0:
        return None
    return SwapOn(about="the engine's memory", got=os.strerror(ctypes.get_errno()))


def free_bytes(proc: Path = PROC, cgroup: Path = CGROUP) -> int | None:
    """What this process may still take: of the machine, and of its control group (version 2)."""
    known = [_of_machine(proc), _of_group(cgroup)]
    return min((one for one in known if one is not None), default=None)


def _of_machine(proc: Path) -> int | None:
    found = _table(proc / "meminfo").get("MemAvailable:")
    return None if found is None else found * _KIB


def _of_group(cgroup: Path) -> int | None:
    """Its limit less what it has, but for files' pages, which the kernel takes back."""
    try:
        most = (cgroup / "memory.max").read_text().strip()
        used = int((cgroup / "memory.current").read_text())
    except (OSError, ValueError):
        return None
    parts = _table(cgroup / "memory.stat")
    kept = used - parts.get("file", 0) + parts.get("shmem", 0)
    return max(0, int(most) - kept) if most.isdecimal() else None


def _table(path: Path) -> dict[str, int]:
    try:
        rows = [row.split() for row in path.read_text().splitlines()]
    except OSError:
        return {}
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdecimal()}
