"""The seam between attesters and the kernel: the few file operations they need, as a port.

A folder of ordinary files cannot imitate configfs or Gramine's pseudo-files (a read makes the quote), so
tests put a faithful fake of the kernel's behaviour behind this port instead.
"""

from __future__ import annotations

import os
from typing import Final, Protocol

READ_BYTES_MAX: Final = 1 << 20  # the newest kernels allow 16 MiB; no platform's evidence is near


class Files(Protocol):
    """Whole-file operations. All raise OSError, as the kernel does."""

    def read(self, path: str) -> bytes:
        """Everything in a file, from one open to one close."""

    def write(self, path: str, data: bytes) -> None:
        """Write all of it in one call."""

    def make_folder(self, path: str) -> None:
        """Make one folder."""

    def remove_folder(self, path: str) -> None:
        """Remove one folder."""


class KernelFiles:
    """The real ones. Unbuffered: a pseudo-file must see one write, and may give short reads."""

    def read(self, path: str) -> bytes:
        """See `Files`. Raises OSError also where there is more than READ_BYTES_MAX."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            parts, size = [], 0
            while part := os.read(fd, READ_BYTES_MAX):
                parts.append(part)
                size += len(part)
                if size > READ_BYTES_MAX:
                    raise OSError(f"{path} holds more than {READ_BYTES_MAX} bytes")
            return b"".join(parts)
        finally:
            os.close(fd)

    def write(self, path: str, data: bytes) -> None:
        """See `Files`. Raises OSError also where the kernel took only a part."""
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            if os.write(fd, data) != len(data):
                raise OSError(f"{path} took only a part of {len(data)} bytes")
        finally:
            os.close(fd)

    def make_folder(self, path: str) -> None:
        """See `Files`."""
        os.mkdir(path, 0o700)

    def remove_folder(self, path: str) -> None:
        """See `Files`."""
        os.rmdir(path)
