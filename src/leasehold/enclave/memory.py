"""Memory files and buffers: where the plaintext of a model is, once, and how it goes away.

Spec: docs/spec/worker.md, W-10, W-29. Refuses to know what the bytes are; nothing here has a path.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
from dataclasses import replace
from typing import Final

from leasehold.core.frames import MemoryFile
from leasehold.errors import NoMemoryFiles, SwapOn

_MFD_NOEXEC_SEAL: Final = 0x8  # since Linux 6.3; not in Python's os module
_ZEROS: Final = bytes(1 << 20)
_ALL_AS_TOUCHED: Final = 1 | 2 | 4  # MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT of linux/mman.h
_SEALS: Final = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW


def lock_process() -> None:
    """W-30: no page of this process is swapped from here on. Raises SwapOn where it must not lock them."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlockall(_ALL_AS_TOUCHED) != 0:
        raise SwapOn(about="mlockall", got=os.strerror(ctypes.get_errno()))


def create_locked(name: str, size: int) -> MemoryFile:
    """W-30: the like of `create` in a process that is locked: all its pages are there, and are never swapped.

    Raises also SwapOn, where there are more than the process may lock.
    """
    file = create(name, size)
    try:
        held = mmap.mmap(file.fd, max(1, size), mmap.MAP_PRIVATE, mmap.PROT_READ)
    except OSError as cause:
        os.close(file.fd)
        raise SwapOn(about=f"{size} bytes of {name}", got=cause.strerror) from cause
    held[:: mmap.PAGESIZE]  # a page is made, and locked, as it is read
    return replace(file, held=held)


def create(name: str, size: int) -> MemoryFile:
    """An empty file of `size` bytes; its pages come into being as they are written.

    Raises NoMemoryFiles where the kernel has none (as under Gramine), OSError where it has no memory.
    """
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        fd = os.memfd_create("model", flags | _MFD_NOEXEC_SEAL)  # names show in /proc
    except OSError as cause:
        if cause.errno == errno.ENOSYS:
            raise NoMemoryFiles(about="memfd_create", got=cause) from cause
        fd = os.memfd_create("model", flags)
    os.truncate(fd, size)
    return MemoryFile(name, size, fd)


def allocate(name: str, size: int) -> MemoryFile:
    """The like in this process's own memory, which needs no kernel that knows memory files (W-29)."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    return MemoryFile(name, size, -1, memoryview(mmap.mmap(-1, max(1, size), flags=flags))[:size])


def write(file: MemoryFile, data: bytes | bytearray | memoryview, offset: int) -> None:
    """Put the bytes there; threads may write different places. Raises OSError, ValueError."""
    if not 0 <= offset <= file.size - len(data):
        raise ValueError("outside of the file")
    with memoryview(data) as whole:
        view = whole.cast("B")
        if file.buffer is not None:
            file.buffer[offset : offset + len(view)] = view
            return
        while view:
            written = os.pwrite(file.fd, view, offset)
            view, offset = view[written:], offset + written


def seal(file: MemoryFile) -> None:
    """Nobody writes it any more, the governor included: an engine that was taken over by one
    request cannot change the weights for the next, even past a restart. A buffer cannot be sealed.
    Raises OSError.
    """
    if file.buffer is None:
        fcntl.fcntl(file.fd, fcntl.F_ADD_SEALS, _SEALS)


def empty(file: MemoryFile) -> None:
    """Give the pages back. Where a worker still maps them, it dies at the next touch.

    By truncation, not by punching a hole, which a write seal forbids. The kernel clears a page
    before anyone else gets it. A buffer becomes zeros. Raises OSError for a file that was closed.
    """
    if file.buffer is None:
        os.truncate(file.fd, 0)
        return
    for at in range(0, file.size, len(_ZEROS)):
        part = file.buffer[at : at + len(_ZEROS)]
        part[:] = _ZEROS[: len(part)]


def shred(file: MemoryFile) -> None:
    """Give the pages back and close. Raises OSError for a file that was closed."""
    empty(file)
    if file.buffer is None:
        os.close(file.fd)
