"""Sealed models over HTTP: whole or one range of bytes, by digest (RFC 9110, 14).

The bytes are ciphertext under a key that only attested enclaves get, so whoever asks may have them.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from leasehold.core.units import MIB
from leasehold.custodian.desk import Desk
from leasehold.custodian.ledger import loans
from leasehold.custodian.release import SEALED_SUFFIX
from leasehold.errors import BadRange, FileTrouble, UnknownThing

PIECE_BYTES: Final = MIB
_RANGE: Final = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


async def answer_model(desk: Desk, request: Request) -> Response:
    """O-14: GET and HEAD of `/models/{digest}`. Raises UnknownThing, BadRange, FileTrouble."""
    digest = request.path_params["digest"]
    model = await _find(desk, digest)
    path = desk.settings.models / f"{model.name}{SEALED_SUFFIX}"
    etag = f'"{digest}"'
    headers = {"etag": etag, "accept-ranges": "bytes", "cache-control": "public, immutable"}
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    wanted = request.headers.get("range")
    if request.headers.get("if-range", etag) != etag:
        wanted = None
    start, end = parse_range(wanted, model.sealed_bytes)
    headers["content-length"] = str(end - start)
    if wanted is not None:
        headers["content-range"] = f"bytes {start}-{end - 1}/{model.sealed_bytes}"
    status, kind = 200 if wanted is None else 206, "application/octet-stream"
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=kind)
    first = await asyncio.to_thread(_read, path, start, end)
    return StreamingResponse(_pieces(path, first, start, end), status, headers, kind)


def parse_range(header: str | None, size: int) -> tuple[int, int]:
    """First byte, and the byte after the last, that a Range header asks of `size` bytes.

    Raises BadRange for anything but one satisfiable range of bytes.
    """
    if header is None:
        return 0, size
    found = _RANGE.fullmatch(header)
    first, last = found.groups() if found else ("", "")
    if first:
        start, end = int(first), min(int(last) + 1 if last else size, size)
    else:
        start, end = max(0, size - int(last or 0)), size
    if not 0 <= start < end:
        raise BadRange(got=header, expected=f"inside {size} bytes")
    return start, end


async def _find(desk: Desk, digest: str) -> loans.Model:
    for model in await desk.custodian.look(loans.list_models):
        if model.digest == digest:
            return model
    raise UnknownThing(about=f"model {digest}")


def _read(path: Path, start: int, end: int) -> bytes:
    """At most a piece from `start` on. Opens anew: a client that leaves then leaves nothing open."""
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(start)
            piece = file.read(min(PIECE_BYTES, end - start))
    except OSError as cause:
        raise FileTrouble(about=path.name, got=cause.strerror) from cause
    if not piece:
        raise FileTrouble(about=path.name, got="its end", expected=f"{end} bytes")
    return piece


async def _pieces(path: Path, piece: bytes, start: int, end: int) -> AsyncIterator[bytes]:
    """The bytes from `start` to before `end`; a file that ends early ends the connection early."""
    yield piece
    start += len(piece)
    while start < end:
        piece = await asyncio.to_thread(_read, path, start, end)
        start += len(piece)
        yield piece
