"""Landlock with an empty list: from then on this process opens no file by any path, but a profile's.

Spec: docs/spec/worker.md, W-6; numbers: linux/landlock.h. Memory files stay readable, because they
lie in no file system that has paths.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable
from typing import Final

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # the same numbers on every architecture
_VERSION_FLAG: Final = 1
_RIGHTS: Final = {1: 13, 2: 14, 3: 15, 4: 15}  # bits of file system rights by version of Landlock
_RIGHTS_NEWEST: Final = 16
_NETWORK_RIGHTS: Final = 0b11  # bind and connect TCP, since version 4
_PATH_BENEATH: Final = 1
_OF_FOLDERS: Final = 1 << 3  # the right to list one, which a file does not have
_SCOPES: Final = 0b11  # strangers' abstract sockets, signals to strangers, since version 6


def install(libc: ctypes.CDLL, rules: Iterable[tuple[str, int]] = ()) -> None:
    """Restrict the calling thread and those it starts to `rules`: a path, and rights at and below it.

    Needs no_new_privs. Raises OSError.
    """
    version = libc.syscall(_CREATE, None, 0, _VERSION_FLAG)
    if version < 1:
        raise OSError(ctypes.get_errno(), "landlock")
    files = (1 << _RIGHTS.get(version, _RIGHTS_NEWEST)) - 1
    fields = [files]
    if version >= 4:
        fields.append(_NETWORK_RIGHTS)
    if version >= 6:
        fields.append(_SCOPES)
    attributes = struct.pack(f"={len(fields)}Q", *fields)
    ruleset = libc.syscall(_CREATE, attributes, len(attributes), 0)
    if ruleset < 0:
        raise OSError(ctypes.get_errno(), "landlock")
    try:
        for path, rights in rules:
            _allow(libc, ruleset, path, rights & files)
        if libc.syscall(_RESTRICT, ruleset, 0) != 0:
            raise OSError(ctypes.get_errno(), "landlock")
    finally:
        os.close(ruleset)


def _allow(libc: ctypes.CDLL, ruleset: int, path: str, rights: int) -> None:
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(place).st_mode):
            rights &= ~_OF_FOLDERS
        rule = struct.pack("=Qi", rights, place)
        if libc.syscall(_ADD, ruleset, _PATH_BENEATH, rule, 0) != 0:
            raise OSError(ctypes.get_errno(), f"landlock {path}")
    finally:
        os.close(place)
