"""Sees every write that SQLite makes: a file system around the real one, in the library that Python uses.

Layouts: sqlite3.h, "OS Interface Object" (sqlite3_vfs, version 3) and "OS Interface File Virtual Methods
Object" (sqlite3_io_methods, version 3). The file objects stay those of the real file system; only the table
of methods that they point to is exchanged for one that tells before it forwards.
"""

from __future__ import annotations

import _sqlite3
import ctypes
from collections.abc import Callable
from ctypes import CFUNCTYPE, POINTER, Structure, c_char_p, c_int, c_int64, c_void_p
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Final

from leasehold.custodian.store.connection import rewrite_log

NAME: Final = "recorded"
OK: Final = 0


class Kind(Enum):
    """What was done to a file."""

    WRITE = "write"
    TRUNCATE = "truncate"
    SYNC = "sync"
    FAILED_SYNC = "failed sync"
    """The operating system has forgotten what it could not write, and says so this once."""
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Op:
    """One step on one file. `size` is what a truncation leaves."""

    kind: Kind
    file: str
    offset: int = 0
    data: bytes = b""
    size: int = 0


# Names are passed on as the pointers they are: the file system keeps them, it does not copy.
_Open = CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_int, POINTER(c_int))
_Delete = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int)
_Write = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
_Truncate = CFUNCTYPE(c_int, c_void_p, c_int64)
_Sync = CFUNCTYPE(c_int, c_void_p, c_int)


class _Vfs(Structure):
    _fields_ = (
        ("iVersion", c_int),
        ("szOsFile", c_int),
        ("mxPathname", c_int),
        ("pNext", c_void_p),
        ("zName", c_char_p),
        ("pAppData", c_void_p),
        ("xOpen", c_void_p),
        ("xDelete", c_void_p),
        ("rest", c_void_p * 13),  # xAccess to xNextSystemCall
    )


class _Methods(Structure):
    _fields_ = (
        ("iVersion", c_int),
        ("xClose", c_void_p),
        ("xRead", c_void_p),
        ("xWrite", c_void_p),
        ("xTruncate", c_void_p),
        ("xSync", c_void_p),
        ("rest", c_void_p * 13),  # xFileSize to xUnfetch
    )


class _File(Structure):
    _fields_ = (("pMethods", POINTER(_Methods)),)


def _last_part(name: int) -> str:
    return Path(ctypes.string_at(name).decode()).name


def _nothing(_op: Op) -> int:
    return OK


@dataclass(slots=True)
class Recorder:
    """The one recording file system of this process. `judge` may refuse a step with an SQLite error code."""

    ops: list[Op] = field(default_factory=list)
    judge: Callable[[Op], int] = _nothing
    _kept: list[Any] = field(default_factory=list)
    _names: dict[int, str] = field(default_factory=dict)
    _tables: dict[int, Any] = field(default_factory=dict)

    @classmethod
    def install(cls) -> Recorder:
        """Register it under `NAME`, once and for as long as the process lives: SQLite keeps its addresses.

        Raises RuntimeError where this Python hides its SQLite.
        """
        if _INSTALLED:
            return _INSTALLED[0]
        library = ctypes.CDLL(_sqlite3.__file__)  # finds what the module itself was linked to
        try:
            find, register = library.sqlite3_vfs_find, library.sqlite3_vfs_register
        except AttributeError as cause:
            raise RuntimeError(
                "this Python's sqlite3 does not show sqlite3_vfs_find: use a Python that is linked"
                " to a shared libsqlite3"
            ) from cause
        find.restype, find.argtypes = POINTER(_Vfs), [c_char_p]
        register.argtypes = [c_void_p, c_int]
        made = cls()
        made._register(find(None).contents, register)
        _INSTALLED.append(made)
        return made

    def url(self, path: Path) -> str:
        """What to open instead of `path`."""
        return f"file:{path}?vfs={NAME}"

    def rewrite(self, url: Path | str) -> None:
        """What a store does to its log that goes past SQLite: done, and seen."""
        path = Path(str(url).removeprefix("file:").partition("?")[0])
        rewrite_log(path)
        log = path.with_name(path.name + "-wal")
        if log.exists():
            self.ops += [Op(Kind.WRITE, log.name, 0, log.read_bytes()), Op(Kind.SYNC, log.name)]

    def start(self, judge: Callable[[Op], int] = _nothing) -> None:
        """Forget what was seen."""
        self.ops, self.judge = [], judge

    def _tell(self, op: Op) -> int:
        answer = self.judge(op)
        if answer == OK:
            self.ops.append(op)
        elif op.kind is Kind.SYNC:
            self.ops.append(Op(Kind.FAILED_SYNC, op.file))
        return answer

    def _register(self, real: _Vfs, register: Any) -> None:
        vfs = _Vfs.from_buffer_copy(real)
        real_open, real_delete = _Open(real.xOpen), _Delete(real.xDelete)

        def opened(this: int, name: int | None, file: int, flags: int, out: Any) -> int:
            answer = real_open(this, name, file, flags, out)
            if answer == OK and name:
                self._names[file] = _last_part(name)
                self._exchange(_File.from_address(file))
            return int(answer)

        def deleted(this: int, name: int, sync: int) -> int:
            answer = self._tell(Op(Kind.DELETE, _last_part(name)))
            return int(real_delete(this, name, sync)) if answer == OK else answer

        kept = (_Open(opened), _Delete(deleted), NAME.encode(), real_open, real_delete)
        vfs.xOpen = ctypes.cast(kept[0], c_void_p).value
        vfs.xDelete = ctypes.cast(kept[1], c_void_p).value
        vfs.zName = kept[2]
        self._kept += [kept, vfs]
        register(ctypes.byref(vfs), 0)

    def _exchange(self, file: _File) -> None:
        real = ctypes.addressof(file.pMethods.contents)
        table = self._tables.get(real)
        if table is None:
            table = self._tables[real] = self._told(file.pMethods.contents)
            self._tables[ctypes.addressof(table)] = table
        file.pMethods = ctypes.pointer(table)

    def _told(self, real: _Methods) -> _Methods:
        """A copy of a method table whose writing methods tell before they forward."""
        table = _Methods.from_buffer_copy(real)
        write, truncate, sync = _Write(real.xWrite), _Truncate(real.xTruncate), _Sync(real.xSync)

        def written(file: int, data: int, size: int, offset: int) -> int:
            op = Op(Kind.WRITE, self._names[file], offset, ctypes.string_at(data, size))
            answer = self._tell(op)
            return int(write(file, data, size, offset)) if answer == OK else answer

        def truncated(file: int, size: int) -> int:
            answer = self._tell(Op(Kind.TRUNCATE, self._names[file], size=size))
            return int(truncate(file, size)) if answer == OK else answer

        def synced(file: int, flags: int) -> int:
            answer = self._tell(Op(Kind.SYNC, self._names[file]))
            return int(sync(file, flags)) if answer == OK else answer

        kept = (_Write(written), _Truncate(truncated), _Sync(synced), write, truncate, sync)
        table.xWrite = ctypes.cast(kept[0], c_void_p).value
        table.xTruncate = ctypes.cast(kept[1], c_void_p).value
        table.xSync = ctypes.cast(kept[2], c_void_p).value
        self._kept.append(kept)
        return table


_INSTALLED: Final[list[Recorder]] = []
