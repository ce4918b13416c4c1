"""Reads headers of safetensors files and the index of several; believes nothing that they say.

Spec: docs/spec/engines.md, W-17. Layout: the safetensors format, version 0.8: u64 length, little-endian ‖
a JSON object of name to dtype, shape and offsets ‖ data without holes. Refuses to know what tensors mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from leasehold.core.frames import MemoryFile
from leasehold.core.units import MIB
from leasehold.errors import BadModel
from leasehold.worker.engine import content_of

SUFFIX: Final = ".safetensors"
INDEX: Final = "model.safetensors.index.json"
HEADER_BYTES_MAX: Final = 64 * MIB  # of a file; published headers have a few hundred KiB
LENGTH_BYTES: Final = 8
ITEM_BYTES: Final = {"F32": 4, "F16": 2, "BF16": 2}
_ABOUT: Final = "__metadata__"

_Number = Annotated[int, Meta(ge=0, lt=1 << 48)]


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a header says of one tensor; offsets count from the end of the header."""

    dtype: str
    shape: Annotated[tuple[_Number, ...], Meta(max_length=8)]
    data_offsets: tuple[_Number, _Number]


class _Index(msgspec.Struct, frozen=True):
    """The file of each tensor."""

    weight_map: dict[str, str]


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a tensor lies: `start` counts from the beginning of the file, `size` is in bytes."""

    file: MemoryFile
    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int


def read(files: Sequence[MemoryFile]) -> dict[str, Stored]:
    """All tensors of a model by name, out of one file or of those that its index names.

    Raises BadModel.
    """
    named = {file.name: file for file in files}
    shards = [file for file in files if file.name.endswith(SUFFIX)]
    if INDEX not in named:
        if len(shards) != 1:
            raise BadModel(about=f"files without {INDEX}", got=len(shards), expected=1)
        return read_file(shards[0])
    places = _places(named[INDEX], {file.name for file in shards})
    found: dict[str, Stored] = {}
    for name in sorted(set(places.values())):
        stored = read_file(named[name])
        mapped = {tensor for tensor, place in places.items() if place == name}
        if odd := sorted(mapped ^ stored.keys()):
            raise BadModel(about=f"tensors of {name}", got=odd[:4], expected=f"those of {INDEX}")
        found |= stored
    return found


def read_file(file: MemoryFile) -> dict[str, Stored]:
    """The tensors of one file. Raises BadModel where they overlap, leave holes or leave the file."""
    if file.size < LENGTH_BYTES:
        raise BadModel(about=file.name, got=f"{file.size} bytes", expected="a safetensors header")
    with content_of(file) as data:
        length = int.from_bytes(data[:LENGTH_BYTES], "little")
        room = min(file.size - LENGTH_BYTES, HEADER_BYTES_MAX)
        if length > room:
            raise BadModel(about=f"header of {file.name}", got=length, expected=f"<= {room} bytes")
        entries = _entries(file.name, bytes(data[LENGTH_BYTES : LENGTH_BYTES + length]))
    origin, end = LENGTH_BYTES + length, 0
    found: dict[str, Stored] = {}
    for name, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
        if entry.dtype not in ITEM_BYTES:
            raise BadModel(about=f"dtype of {name}", got=entry.dtype, expected=sorted(ITEM_BYTES))
        begin, finish = entry.data_offsets
        size = prod(entry.shape) * ITEM_BYTES[entry.dtype]
        if finish - begin != size:
            raise BadModel(about=f"bytes of {name}", got=finish - begin, expected=size)
        if begin != end:  # one that overlaps, or a hole in which something hides
            raise BadModel(about=f"offset of {name}", got=begin, expected=end)
        if (origin + begin) % ITEM_BYTES[entry.dtype]:
            raise BadModel(about=f"offset of {name}", got=begin, expected="one that is aligned")
        found[name] = Stored(file, entry.dtype, entry.shape, origin + begin, size)
        end = finish
    if origin + end != file.size:
        raise BadModel(about=f"bytes of {file.name}", got=file.size, expected=origin + end)
    return found


def _entries(name: str, header: bytes) -> dict[str, _Entry]:
    try:
        raw: Mapping[str, msgspec.Raw] = msgspec.json.decode(header, type=dict[str, msgspec.Raw])
        return {
            tensor: msgspec.json.decode(said, type=_Entry)
            for tensor, said in raw.items()
            if tensor != _ABOUT
        }
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as cause:
        raise BadModel(about=f"header of {name}", got=cause) from cause


def _places(file: MemoryFile, shards: set[str]) -> dict[str, str]:
    """The file of each tensor; only names of files that came with the model count."""
    try:
        places = msgspec.json.decode(content(file), type=_Index).weight_map
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as cause:
        raise BadModel(about=file.name, got=cause) from cause
    if strange := sorted(set(places.values()) - shards):
        raise BadModel(about=f"files in {file.name}", got=strange[:4], expected=sorted(shards)[:4])
    return places


def content(file: MemoryFile) -> bytes:
    """All of a small file. Raises BadModel for an empty one, or one over 64 MiB."""
    if not 0 < file.size <= HEADER_BYTES_MAX:
        raise BadModel(about=file.name, got=file.size, expected=f"1 to {HEADER_BYTES_MAX} bytes")
    with content_of(file) as data:
        return bytes(data[:])
