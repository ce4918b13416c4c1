"""Reads a sealed file back: what it says it is, whether the custodian said so, whether it is whole.

Spec: docs/spec/sealed-model.md, S-10 and S-16. Memory stays at a few mebibytes whatever the model's size.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from leasehold.core.crypto import is_equal, sha256
from leasehold.core.encoding import from_json
from leasehold.core.sealed import (
    PREAMBLE_BYTES,
    SPAN_BYTES_MAX,
    OpenModel,
    SealedHeader,
    SealedModel,
    check_header,
    check_name,
    parse_preamble,
    spans,
)
from leasehold.core.statements import Signed
from leasehold.core.streaming import SEGMENT_BYTES
from leasehold.errors import BadMessage, BadSealedModel, FileTrouble

Progress = Callable[[int, int], None]
"""Is told how many bytes are done and how many there are."""


@dataclass(slots=True)
class Meter:
    """Counts bytes for somebody who watches."""

    tell: Progress
    total: int
    done: int = 0

    def add(self, size: int) -> None:
        """So many bytes more are done."""
        self.done += size
        self.tell(self.done, self.total)


@dataclass(frozen=True, slots=True)
class Claim:
    """What a sealed file says of itself; nobody has checked who says it.

    `data` is the header as it lies in the file, `length` what the file measures.
    """

    header: SealedHeader
    digest: bytes
    data: bytes
    length: int

    @property
    def sealed_bytes(self) -> int:
        """The length that the header gives the file."""
        files = sum(file.length for file in self.header.files)
        return PREAMBLE_BYTES + len(self.data) + files

    @property
    def is_whole(self) -> bool:
        """Whether the file is as long as its header says."""
        return self.length == self.sealed_bytes

    def check(self, root_public: bytes) -> SealedModel:
        """The fact, if this root signed it and the file is as long as it says.

        Raises BadSignature, BadSealedModel.
        """
        model = check_header(self.data, root_public=root_public)
        if self.length != model.sealed_bytes:
            raise BadSealedModel(
                about="the file's length",
                got=f"{self.length} bytes",
                expected=f"{model.sealed_bytes} bytes",
            )
        return model


def read_claim(path: Path) -> Claim:
    """S-16: the header of a sealed file, unchecked. Raises BadSealedModel, FileTrouble."""
    with trouble(path), FileIO(path, "rb") as source:
        return _read_claim(source)


def verify_sealed(
    path: Path,
    *,
    root_public: bytes,
    model_key: bytes | None,
    on_progress: Progress = lambda _done, _total: None,
) -> SealedModel:
    """S-10: read a sealed file as an enclave would, and compare every file's SHA-256 as well.

    Without a key only the signature of the header and the length of the file can be checked. Raises
    BadSealedModel, BadSignature, WrongModelKey, FileTrouble.
    """
    with trouble(path), FileIO(path, "rb") as source:
        model = _read_claim(source).check(root_public)
        if model_key is None:
            return model
        opened = OpenModel(model, model_key)
        source.seek(model.body)
        meter = Meter(on_progress, model.plain_bytes)
        digests = [hashlib.sha256() for _ in model.header.files]
        buffer, scratch = bytearray(SPAN_BYTES_MAX), memoryview(bytearray(SEGMENT_BYTES))
        for span in spans(model):
            view = memoryview(buffer)[: span.length]
            if not is_filled(source, view):
                raise BadSealedModel(about=path.name, got="its end", expected="more bytes")
            for _, plain in opened.open_span(span, view, scratch):
                digests[span.file].update(plain)
                meter.add(len(plain))
    for file, digest in zip(model.header.files, digests, strict=True):
        if not is_equal(digest.digest(), file.sha256):
            raise BadSealedModel(
                about=f"SHA-256 of {file.name}", got=digest.digest(), expected=file.sha256
            )
    return model


def _read_claim(source: FileIO) -> Claim:
    """S-1 to S-3, without the signature; texts may hold anything, names may not."""
    data = source.read(parse_preamble(source.read(PREAMBLE_BYTES)))
    try:
        payload = from_json(data, Signed).payload
        header = from_json(payload, SealedHeader)
    except BadMessage as cause:
        raise BadSealedModel(about=cause.about, got=cause.got) from cause
    for file in header.files:
        check_name(file.name)
    return Claim(header, sha256(payload), data, os.fstat(source.fileno()).st_size)


def is_filled(source: FileIO, view: memoryview) -> bool:
    """Read exactly as many bytes as fit; False where the file ends before."""
    while view:
        got = source.readinto(view)
        if not got:
            return False
        view = view[got:]
    return True


@contextmanager
def trouble(path: Path) -> Iterator[None]:
    """Whatever the system refuses is FileTrouble about this path."""
    try:
        yield
    except OSError as cause:
        raise FileTrouble(about=path, got=cause.strerror) from cause
