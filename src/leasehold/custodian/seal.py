"""Turns a model's folder into one sealed file.

Spec: docs/spec/sealed-model.md, S-8 and S-9. Memory stays at a few mebibytes whatever the model's size.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from leasehold.core.crypto import Entropy, SigningKey, is_equal
from leasehold.core.sealed import (
    FILE_BYTES_MAX,
    FILES_MAX,
    MODEL_ID_BYTES,
    OpenModel,
    SealedFile,
    SealedHeader,
    SealedModel,
    check_name,
    key_check,
)
from leasehold.core.streaming import (
    KEY_BYTES,
    SEGMENT_BYTES,
    TAG_BYTES,
    plain_range,
    segment_count,
)
from leasehold.custodian.headers import lay_out, new_stream_header, write_header
from leasehold.custodian.sealed_file import Meter, Progress, is_filled, trouble
from leasehold.errors import AlreadyExists, BadModel, BadSealedModel

Endorse = Callable[[Sequence[SealedFile]], bytes]
"""Gives the model signature (S-17) over these files, or nothing."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """A sealed file that now exists, and the 32-byte key that opens it: the custodian's only copy."""

    model: SealedModel
    model_key: bytes

    @property
    def digest(self) -> bytes:
        """The model digest, 32 bytes."""
        return self.model.digest


def seal_folder(
    folder: Path,
    out: Path,
    *,
    name: str,
    version: str,
    engine: str,
    licence: str,
    root_key: SigningKey,
    entropy: Entropy,
    endorse: Endorse = lambda _files: b"",
    on_progress: Progress = lambda _done, _total: None,
) -> Sealed:
    """S-8, S-9: hash every file, sign the header, encrypt; `out` appears whole or not at all.

    `name`, `version`, `engine` and `licence` are what a folder does not say. Progress counts every
    byte twice, once for each pass. `endorse` is called between the passes, and gives the model
    signature that the header carries, or refuses. Raises BadModel, AlreadyExists, FileTrouble.
    """
    if out.exists():
        raise AlreadyExists(about="sealed file", got=out)
    names = _names(folder)
    with trouble(folder):
        sizes = [(folder / file).lstat().st_size for file in names]
    meter = Meter(on_progress, 2 * sum(sizes))
    laid = []
    for file, size in zip(names, sizes, strict=True):
        laid.append((file, size, _hash(folder / file, size, meter), new_stream_header(entropy)))
    key, model_id, files = entropy(KEY_BYTES), entropy(MODEL_ID_BYTES), lay_out(laid)
    header = SealedHeader(
        format=1,
        name=name,
        version=version,
        engine=engine,
        licence=licence,
        model_id=model_id,
        key_check=key_check(key, model_id),
        files=files,
        model_signature=endorse(files),
    )
    start, model = write_header(header, root_key)
    opened = OpenModel(model, key)
    with trouble(out), _appearing(out) as target:
        _write(target, start)
        for position, file in enumerate(names):
            _encrypt(folder / file, opened, position, target, meter)
    return Sealed(model, key)


def _names(folder: Path) -> list[str]:
    """S-8: the folder's files in order of their names; anything but plain files is refused."""
    with trouble(folder), os.scandir(folder) as entries:
        kinds = {entry.name: entry.stat(follow_symlinks=False).st_mode for entry in entries}
    for name, mode in kinds.items():
        if not stat.S_ISREG(mode):
            kind = (
                "a link" if stat.S_ISLNK(mode) else "a folder" if stat.S_ISDIR(mode) else "special"
            )
            raise BadModel(about=name, got=kind, expected="a flat folder of ordinary files")
        try:
            check_name(name)
        except BadSealedModel as cause:
            raise BadModel(about="file name", got=cause.got, expected=cause.expected) from cause
    if not 0 < len(kinds) <= FILES_MAX:
        raise BadModel(about=folder, got=f"{len(kinds)} files", expected=f"1 to {FILES_MAX}")
    return sorted(kinds)


def _hash(path: Path, size: int, meter: Meter) -> bytes:
    if size > FILE_BYTES_MAX:
        raise BadModel(about=path.name, got=size, expected=f"<= {FILE_BYTES_MAX} bytes")
    digest, buffer = hashlib.sha256(), memoryview(bytearray(SEGMENT_BYTES))
    with _opened(path) as source:
        while got := source.readinto(buffer):
            digest.update(buffer[:got])
            meter.add(got)
        if source.tell() != size:
            raise BadModel(about=path.name, got="a file that changes", expected="a file at rest")
    return digest.digest()


def _encrypt(path: Path, opened: OpenModel, file: int, target: FileIO, meter: Meter) -> None:
    """One file's stream. It is hashed again: the header is signed already, and must stay true."""
    stream, record = opened.stream(file), opened.model.header.files[file]
    digest = hashlib.sha256()
    buffer, sealed = memoryview(bytearray(SEGMENT_BYTES)), memoryview(bytearray(SEGMENT_BYTES))
    _write(target, stream.header)
    with _opened(path) as source:
        for index in range(segment_count(record.size)):
            start, end = plain_range(record.size, index)
            plain = buffer[: end - start]
            if not is_filled(source, plain):
                break
            digest.update(plain)
            out = sealed[: len(plain) + TAG_BYTES]
            stream.seal_segment(index, plain, out)
            _write(target, out)
            meter.add(len(plain))
        if source.read(1) or not is_equal(digest.digest(), record.sha256):
            raise BadModel(about=path.name, got="a file that changes", expected="a file at rest")


@contextmanager
def _opened(path: Path) -> Iterator[FileIO]:
    """A file to read, never through a link that appeared since it was listed."""
    with trouble(path):
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with FileIO(handle, "rb") as source:
            yield source


@contextmanager
def _appearing(path: Path) -> Iterator[FileIO]:
    """A file that gets its name when it is complete and on the disk; until then it may vanish."""
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    try:
        with FileIO(handle, "wb") as target:
            yield target
            os.fsync(target.fileno())
        os.rename(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _write(target: FileIO, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[target.write(view) :]
