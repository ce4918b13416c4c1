"""The simulated MRENCLAVE: a hash over the code that would be inside the enclave."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import leasehold
from leasehold.core.crypto import sha256
from leasehold.core.encoding import frame
from leasehold.errors import FileTrouble

LABEL: Final = "leasehold/simulated-measurement/1"
INSIDE: Final = ("__init__.py", "errors.py", "core", "enclave", "net", "worker")


def imported_package() -> Path:
    """The folder of the `leasehold` package that this process really runs."""
    return Path(leasehold.__file__).resolve().parent


def measure(package: Path | None = None) -> bytes:
    """32 bytes: SHA-256 over (relative path, SHA-256) of every .py file inside the enclave, sorted.

    `package` is the folder of a `leasehold` package; default the imported one. Raises FileTrouble.
    """
    folder = imported_package() if package is None else package
    fields: list[bytes] = []
    try:
        for path in sorted(_files(folder), key=lambda path: path.relative_to(folder).as_posix()):
            fields += [path.relative_to(folder).as_posix().encode(), sha256(path.read_bytes())]
    except OSError as cause:
        raise FileTrouble(about=folder) from cause
    if not fields:
        raise FileTrouble(about=folder, expected="a leasehold package")
    return sha256(frame(LABEL, *fields))


def _files(folder: Path) -> Iterator[Path]:
    for name in INSIDE:
        path = folder / name
        if path.is_dir():
            yield from path.rglob("*.py")
        elif path.is_file():
            yield path
