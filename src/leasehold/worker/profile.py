"""What a kind of engine gets beside the sandbox that all have: files by path, as data, and nothing else.

Spec: docs/spec/worker.md, W-31. An engine names a row of `PROFILES`; one that names none gets nothing of it.
Sources, for what CUDA opens as it starts: github.com/NVIDIA/OpenShell, pull request 710 and issue 1486;
github.com/nolabs-ai/nono, pull requests 652 and 673 (drivers 570 and 580; read 2026-11).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from glob import glob
from types import MappingProxyType
from typing import Final

from leasehold.errors import WorkerFailed

READ_FILE, READ_FOLDER, WRITE_FILE, CONTROL_DEVICE = 1 << 2, 1 << 3, 1 << 1, 1 << 15
"""Rights of linux/landlock.h; the last since version 5, before which nothing forbids `ioctl`."""
READS: Final = READ_FILE | READ_FOLDER
OPENS: Final = READ_FILE | WRITE_FILE | CONTROL_DEVICE


@dataclass(frozen=True, slots=True)
class Profile:
    """Paths, which may be patterns, and what is allowed at and below them. Nothing is created or removed."""

    name: str
    reads: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()  # to read, write and control
    writes: tuple[str, ...] = ()  # files in these folders, to read and write
    root: str = ""  # another one, for tests

    def rules(self) -> Iterator[tuple[str, int]]:
        """Each path that is there, and its rights."""
        granted = ((self.reads, READS), (self.devices, OPENS), (self.writes, READS | WRITE_FILE))
        for patterns, rights in granted:
            for pattern in patterns:
                for path in sorted(glob(self.root + pattern)):
                    yield path, rights

    def under(self, root: str) -> Profile:
        """The same in another tree."""
        return replace(self, root=root)


GPU: Final = Profile(
    "gpu",
    reads=(
        # libraries and modules that are loaded when they are first used; execve stays refused
        *(sys.prefix, sys.base_prefix + "/lib", "/usr/lib*", "/lib*", "/usr/local/cuda*"),
        *("/etc/ld.so.cache", "/dev/urandom", "/dev/null", "/dev/zero"),
        # the driver's version, settings and cards
        *("/proc/driver/nvidia", "/proc/driver/nvidia-uvm", "/proc/devices"),
        *("/sys/bus/pci/devices", "/sys/devices/pci*", "/sys/module/nvidia*"),
        # processors and memory
        *("/sys/devices/system", "/proc/cpuinfo", "/proc/meminfo", "/proc/self"),
    ),
    devices=("/dev/nvidiactl", "/dev/nvidia[0-9]*", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools"),
    writes=("/proc/self/task",),  # cuInit names its threads there, and fails (304) where it may not
)
PROFILES: Final[Mapping[str, Profile]] = MappingProxyType({one.name: one for one in (GPU,)})


def profile_of(engine: object) -> Profile | None:
    """W-31: what this engine declares. Raises WorkerFailed for a name that is not in the table."""
    name = getattr(engine, "profile", "")
    if not name:
        return None
    if name not in PROFILES:
        raise WorkerFailed(about="sandbox profile", got=name, expected=sorted(PROFILES))
    return PROFILES[name]
