"""Files that one account alone may read: keys, certificates, settings. Written whole or not at all.

Spec: docs/spec/custodian-api.md, O-15. Refuses to know what is in them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from leasehold.core.crypto import TlsKey
from leasehold.core.encoding import unhex
from leasehold.errors import AlreadyExists, BadMessage, BadSetting, FileTrouble

_FILE_MODE: Final = 0o600


def read_private(path: Path) -> bytes:
    """A file that only its owner may read. Raises BadSetting, FileTrouble."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
            data = file.read()
    except OSError as cause:
        raise FileTrouble(about=path, got=cause.strerror) from cause
    if mode & 0o077:
        raise BadSetting(about=path, got=f"mode {mode:03o}", expected="mode 600")
    return data


def write_private(path: Path, data: bytes, *, replace: bool = False) -> None:
    """Write a file that only its owner may read, whole or not at all. Raises AlreadyExists, FileTrouble."""
    target = path.with_name(f".{path.name}.new") if replace else path
    flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if replace else os.O_EXCL)
    try:
        with os.fdopen(os.open(target, flags, _FILE_MODE), "wb") as file:
            os.fchmod(file.fileno(), _FILE_MODE)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            target.replace(path)
    except FileExistsError as cause:
        raise AlreadyExists(about=path) from cause
    except OSError as cause:
        raise FileTrouble(about=path, got=cause.strerror) from cause


def read_text(path: Path) -> str:
    """A certificate in PEM. Raises BadSetting, FileTrouble."""
    return read_private(path).decode("ascii", "replace")


def read_seed(path: Path, size: int) -> bytes:
    """The seed in a key file. Raises BadSetting (also where others may read it), FileTrouble."""
    return parse_seed(read_private(path), size, path)


def parse_seed(text: bytes, size: int, path: Path) -> bytes:
    """The seed that a key file's text holds. Raises BadSetting, which names the file."""
    try:
        return unhex(text.decode("ascii", "replace").strip(), about=path.name, size=size)
    except BadMessage:
        # Never the text itself, not even in the chain: it may be most of a key.
        raise BadSetting(about=path, expected=f"{size} bytes in lower-case hex") from None


def hex_line(secret: bytes) -> bytes:
    """How `read_seed` wants its file to be."""
    return secret.hex().encode() + b"\n"


def read_tls_key(path: Path) -> TlsKey:
    """The key in a PEM file. Raises BadSetting, FileTrouble."""
    return parse_tls_key(read_private(path), path)


def parse_tls_key(pem: bytes, path: Path) -> TlsKey:
    """The key in a PEM file's text. Raises BadSetting, which names the file."""
    try:
        return TlsKey.load(pem)
    except BadMessage as cause:
        raise BadSetting(about=path, expected=cause.expected) from cause
