"""A witness as an HTTP service: C2SP tlog-witness, `add-checkpoint`, for the logs that it was told of.

Spec: docs/spec/witness.md, J-9. Refuses to know: who asks. A checkpoint proves itself, and there is no
other authentication.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from leasehold.core.crypto import SigningKey, sha256
from leasehold.core.encoding import b64, unb64
from leasehold.core.units import Clock
from leasehold.custodian.forks import Fork, keep_fork
from leasehold.custodian.log import Log
from leasehold.custodian.mark import read_checkpoint
from leasehold.custodian.visitors import read_body
from leasehold.custodian.witness import PROOF_HASHES_MAX, read_state, witness
from leasehold.errors import (
    BadMessage,
    BadSignature,
    Conflict,
    LeaseholdError,
    Malformed,
    Unavailable,
    UnknownThing,
    Unproven,
)

PATH: Final = "/add-checkpoint"
SIZE_TYPE: Final = "text/x.tlog.size"
_OLD: Final = re.compile(r"old (0|[1-9][0-9]{0,17})")
_TEXT: Final = "text/plain; charset=utf-8"
_HASH_BYTES: Final = 32


@dataclass(frozen=True, slots=True)
class Post:
    """The body of `add-checkpoint`."""

    old: int
    proof: tuple[bytes, ...]
    note: str


def write_post(old: int, proof: Sequence[bytes], note: str) -> bytes:
    """What a log sends."""
    lines = [f"old {old}", *(b64(one) for one in proof), "", note]
    return "\n".join(lines).encode()


def parse_post(body: bytes) -> Post:
    """What a witness reads. Raises BadMessage."""
    head, gap, note = body.decode("utf-8", "replace").partition("\n\n")
    first, *lines = head.split("\n")
    old = _OLD.fullmatch(first)
    if not gap or old is None or len(lines) > PROOF_HASHES_MAX:
        raise BadMessage(about="request", got=first, expected="`old N`, hashes, a line, checkpoint")
    proof = tuple(unb64(line, about="consistency proof") for line in lines)
    if any(len(one) != _HASH_BYTES for one in proof):
        raise BadMessage(about="consistency proof", expected="hashes of 32 bytes")
    return Post(int(old[1]), proof, note)


@dataclass(frozen=True, slots=True)
class Service:
    """One witness: its name and key, the logs it knows (origin to audit key), its state's file.

    `evidence` is where a refused checkpoint goes with what was seen; of several logs each has its own
    file, with digits of its name's hash behind.
    """

    name: str
    key: SigningKey
    logs: Mapping[str, bytes]
    state: Path
    clock: Clock
    log: Log
    evidence: Path | None = None

    def add(self, post: Post) -> str:
        """J-9: the cosignature's line. Raises as `witness`, and UnknownThing for a log of others."""
        origin = post.note.partition("\n")[0]
        public = self.logs.get(origin)
        if public is None:
            raise UnknownThing(about=f"log {origin}", expected="one that this witness was told of")
        signed = read_checkpoint(post.note, origin=origin, public=public)
        if post.old > signed.size:
            raise BadMessage(about="old size", got=post.old, expected=f"<= {signed.size}")
        try:
            return witness(
                self.state,
                post.note,
                post.proof,
                origin=origin,
                public=public,
                old=post.old,
                name=self.name,
                key=self.key,
                now=self.clock.now(),
            )
        except Unproven:
            self._keep(origin, post.note)
            raise

    def size(self, origin: str) -> int:
        """How much of this log was seen. Raises as `read_state`."""
        seen = read_state(self.state).get(origin)
        return 0 if seen is None else seen.size

    def _keep(self, origin: str, shown: str) -> None:
        seen = read_state(self.state).get(origin)
        if self.evidence is not None and seen is not None and seen.size:
            name = self.evidence.name
            if len(self.logs) > 1:
                name += f".{sha256(origin.encode()).hex()[:8]}"
            fork = Fork(origin, seen.note, shown)
            keep_fork(self.evidence.with_name(name), fork, public=self.logs[origin])


def build(service: Service) -> Starlette:
    """The ASGI application."""

    async def add_checkpoint(request: Request) -> Response:
        origin = ""
        try:
            post = parse_post(await read_body(request))
            origin = post.note.partition("\n")[0]
            line = service.add(post)
        except LeaseholdError as refusal:
            service.log.event("checkpoint_refused", code=refusal.code, status=status_of(refusal))
            if isinstance(refusal, Conflict):
                exact = {"content-type": SIZE_TYPE}  # as a media type it would get a charset
                return Response(f"{service.size(origin)}\n", 409, headers=exact)
            same = isinstance(refusal, Unproven) and is_same_size(service, post)
            text = f"{refusal.code}: {refusal.message}\n"
            return Response(text, 409 if same else status_of(refusal), media_type=_TEXT)
        service.log.event("cosigned", item=origin)
        return Response(line, media_type=_TEXT)

    return Starlette(routes=[Route(PATH, add_checkpoint, methods=["POST"])])


def is_same_size(service: Service, post: Post) -> bool:
    """C2SP: another root of the size that was seen is a conflict."""
    size = post.note.split("\n")[1]
    return size == str(post.old) == str(service.size(post.note.partition("\n")[0]))


def status_of(refusal: LeaseholdError) -> int:
    """The status that C2SP tlog-witness gives it."""
    match refusal:
        case BadSignature():
            return 403
        case UnknownThing():
            return 404
        case Conflict():
            return 409
        case Unproven():
            return 422
        case Malformed():
            return 400
        case Unavailable():
            return 503
        case _:
            return refusal.status
