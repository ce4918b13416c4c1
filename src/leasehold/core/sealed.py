"""The sealed model: a signed header, then each file as one stream of ciphertext.

Spec: docs/spec/sealed-model.md. A header is read in two steps with a limit before each, and only
`check_header` makes a `SealedModel`. Refuses to know where the bytes come from and where they go.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Final, Literal, TypeVar

import msgspec

from leasehold.core.crypto import hkdf, is_equal, sha256
from leasehold.core.encoding import frame, from_json, number, to_json
from leasehold.core.statements import Signed, check_signed
from leasehold.core.streaming import (
    KEY_BYTES,
    SEGMENT_BYTES,
    STREAM_HEADER_BYTES,
    TAG_BYTES,
    Stream,
    plain_range,
    sealed_size,
    segment_count,
)
from leasehold.core.units import KIB, MIB
from leasehold.errors import BadMessage, BadSealedModel, WrongModel, WrongModelKey

T = TypeVar("T")

KIND: Final = "leasehold-sealed-model"
MAGIC: Final = b"leasehold sealed model 1\n"
PREAMBLE_BYTES: Final = len(MAGIC) + 4
HEADER_BYTES_MAX: Final = 1 * MIB  # a thousand files with the longest names are 0.7 MiB
FILES_MAX: Final = 1024  # the largest published models come in about 200
FILE_BYTES_MAX: Final = 1 << 42  # segments are numbered in 32 bits, which would reach to 4 PiB
NAME_BYTES_MAX: Final = 255  # NAME_MAX of Linux
TEXT_BYTES_MAX: Final = 4 * KIB
MODEL_ID_BYTES: Final = 32
MODEL_SIGNATURE_BYTES_MAX: Final = 512 * KIB  # of a thousand files about 200 KiB
SPAN_SEGMENTS: Final = 8  # what is fetched at once: 8 MiB, so that a round trip costs little
SPAN_BYTES_MAX: Final = SPAN_SEGMENTS * SEGMENT_BYTES

_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=TEXT_BYTES_MAX)]
_Digest = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
_Size = Annotated[int, msgspec.Meta(ge=0, le=FILE_BYTES_MAX)]


class SealedFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file: its plaintext's size and SHA-256, and where its stream lies after the header."""

    name: str
    size: _Size
    sha256: _Digest
    offset: int
    length: int
    stream_header: Annotated[
        bytes, msgspec.Meta(min_length=STREAM_HEADER_BYTES, max_length=STREAM_HEADER_BYTES)
    ]


class SealedHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the custodian signs: what the model is, and how its ciphertext lies in the file."""

    format: Literal[1]
    name: _Text
    version: _Text
    engine: _Text
    licence: _Text
    model_id: Annotated[bytes, msgspec.Meta(min_length=MODEL_ID_BYTES, max_length=MODEL_ID_BYTES)]
    key_check: _Digest
    files: Annotated[tuple[SealedFile, ...], msgspec.Meta(min_length=1, max_length=FILES_MAX)]
    model_signature: Annotated[bytes, msgspec.Meta(max_length=MODEL_SIGNATURE_BYTES_MAX)] = b""


@dataclass(frozen=True, slots=True)
class SealedModel:
    """A header that the custodian signed. `body` is where in the file the first stream begins."""

    header: SealedHeader
    digest: bytes
    body: int

    @property
    def sealed_bytes(self) -> int:
        """The length of the whole sealed file."""
        return self.body + sum(file.length for file in self.header.files)

    @property
    def plain_bytes(self) -> int:
        """The length of all plaintext together."""
        return sum(file.size for file in self.header.files)


@dataclass(frozen=True, slots=True)
class Span:
    """Consecutive whole segments of one file, at most SPAN_SEGMENTS: what is fetched at once.

    They lie at `offset` of the sealed file, `length` bytes, the stream header included.
    """

    file: int
    first: int
    count: int
    offset: int
    length: int


def check_name(name: str) -> None:
    """S-3: a name is one component of a path and nothing else. Raises BadSealedModel."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError as cause:
        raise BadSealedModel(about="file name", expected="UTF-8") from cause
    plain = all(char not in "/\\" and char.isprintable() for char in name)
    if not 0 < size <= NAME_BYTES_MAX or name in (".", "..") or not plain:
        raise BadSealedModel(about="file name", got=name, expected="one plain name")


def parse_preamble(data: bytes) -> int:
    """S-1: the length of the header, from the first PREAMBLE_BYTES bytes. Raises BadSealedModel."""
    if len(data) != PREAMBLE_BYTES or not data.startswith(MAGIC):
        raise BadSealedModel(
            about="first line", got=data[: len(MAGIC)], expected=MAGIC.decode().strip()
        )
    length = int.from_bytes(data[len(MAGIC) :], "big")
    if not 0 < length <= HEADER_BYTES_MAX:
        raise BadSealedModel(about="header length", got=length, expected=f"<= {HEADER_BYTES_MAX}")
    return length


def check_header(data: bytes, *, root_public: bytes, digest: bytes | None = None) -> SealedModel:
    """S-2, S-3: the model that these header bytes describe, if the custodian says so.

    Raises BadSealedModel, BadSignature, or WrongModel where it is signed but not the one of `digest`.
    """
    if len(data) > HEADER_BYTES_MAX:
        raise BadSealedModel(
            about="header length", got=len(data), expected=f"<= {HEADER_BYTES_MAX}"
        )
    signed = _decode(data, Signed)
    if to_json(signed) != data:  # one spelling only, so the first stream begins at one place only
        raise BadSealedModel(about="header", expected="no other spelling of the same JSON")
    payload = check_signed(signed, kind=KIND, public=root_public)
    got = sha256(payload)
    if digest is not None and not is_equal(got, digest):
        raise WrongModel(got=got, expected=digest)
    header = _decode(payload, SealedHeader)
    _check_layout(header.files)
    return SealedModel(header, got, PREAMBLE_BYTES + len(data))


def spans(model: SealedModel) -> Iterator[Span]:
    """All ciphertext of the model in order, in pieces of whole segments."""
    for position, file in enumerate(model.header.files):
        total = segment_count(file.size)
        for first in range(0, total, SPAN_SEGMENTS):
            count = min(SPAN_SEGMENTS, total - first)
            start = first * SEGMENT_BYTES
            length = min(count * SEGMENT_BYTES, file.length - start)
            yield Span(position, first, count, model.body + file.offset + start, length)


def key_check(key: bytes, model_id: bytes) -> bytes:
    """S-6: 32 bytes that only this key gives; they say nothing about it."""
    return hkdf(key, salt=model_id, info=frame("leasehold/sealed-model/1/key-check"))


class OpenModel:
    """A model and its key, ready to decrypt spans; safe to use from several threads at once."""

    __slots__ = ("_streams", "model")

    def __init__(self, model: SealedModel, key: bytes) -> None:
        """S-6: raises WrongModelKey unless `key` is the one that the model was sealed with."""
        header = model.header
        if len(key) != KEY_BYTES or not is_equal(key_check(key, header.model_id), header.key_check):
            raise WrongModelKey(about=header.name)
        self.model = model
        self._streams = tuple(
            Stream(
                key,
                header=file.stream_header,
                associated=stream_label(model.digest, position),
                size=file.size,
                name=file.name,
            )
            for position, file in enumerate(header.files)
        )

    def stream(self, file: int) -> Stream:
        """The stream of the file at this position."""
        return self._streams[file]

    def open_span(
        self, span: Span, data: memoryview, scratch: memoryview
    ) -> Iterator[tuple[int, memoryview]]:
        """S-7: for each segment of `data`, its place in the plaintext and its plaintext.

        The plaintext is a view of `scratch` (SEGMENT_BYTES), good until the next step. Raises
        BadSealedModel at the first segment that is not authentic.
        """
        stream = self._streams[span.file]
        if len(data) != span.length:
            raise BadSealedModel(about="span", got=len(data), expected=span.length)
        if span.first == 0 and data[:STREAM_HEADER_BYTES] != stream.header:
            raise BadSealedModel(about="stream header", expected="the signed one")
        position = STREAM_HEADER_BYTES if span.first == 0 else 0
        for index in range(span.first, span.first + span.count):
            start, end = plain_range(stream.size, index)
            plain = scratch[: end - start]
            sealed = data[position : position + len(plain) + TAG_BYTES]
            stream.open_segment(index, sealed, plain)
            position += len(sealed)
            yield start, plain


def stream_label(digest: bytes, file: int) -> bytes:
    """S-5: the associated data of a stream, so that no stream passes for another."""
    return frame("leasehold/sealed-model/1/file", digest, number(file))


def _check_layout(files: tuple[SealedFile, ...]) -> None:
    for file in files:
        check_name(file.name)
        if file.length != sealed_size(file.size):
            raise BadSealedModel(about=file.name, got=file.length, expected=sealed_size(file.size))
    if len({file.name for file in files}) != len(files):
        raise BadSealedModel(about="file names", expected="each only once")
    if files[0].offset != 0 or any(a.offset + a.length != b.offset for a, b in pairwise(files)):
        raise BadSealedModel(about="offsets", expected="one stream after the other")


def _decode(data: bytes, kind: type[T]) -> T:
    try:
        return from_json(data, kind)
    except BadMessage as cause:
        raise BadSealedModel(about=cause.about, got=cause.got) from cause
