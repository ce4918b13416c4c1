"""A server to measure: `python -m bench.server gate|bare|upstream` prints its port and key, then serves.

`gate` is the enclave's whole application with real TLS in front of an engine that costs nothing; `bare`
is a raw ASGI application behind the same server that sends the same bytes; `upstream` is that without TLS.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from leasehold.core import frames
from leasehold.core.crypto import TlsKey
from leasehold.core.lease import LeasePolicy
from leasehold.core.units import DAY, Duration, Instant, Units
from leasehold.enclave import memory
from leasehold.enclave.host import WorkerHost
from leasehold.errors import WorkerFailed
from leasehold.net.certificates import enclave_certificate
from leasehold.net.clock import SystemClock
from leasehold.net.servers import serving
from leasehold.net.tls import enclave_server_context
from leasehold.testing import world as world_module
from leasehold.testing.time import START
from leasehold.testing.world import World

ROOT: Final = Path(__file__).parent.parent
_COMMON: Final = {"id": "chatcmpl-" + "x" * 60, "created": 1_800_000_000, "model": "echo"}
_USAGE: Final = {"prompt_tokens": 20, "completion_tokens": 20, "total_tokens": 40}
_MESSAGE: Final = {"role": "assistant", "content": "x" * 67}


def _answer(kind: str, **choice: Any) -> dict[str, Any]:
    return _COMMON | {"object": kind, "choices": [{"index": 0} | choice]}


ANSWER = json.dumps(
    _answer("chat.completion", message=_MESSAGE, finish_reason="stop") | {"usage": _USAGE}
).encode()
# In turn: LiteLLM takes a hundred equal chunks for an engine that has lost its way.
PIECES: Final = tuple(
    b"data: "
    + json.dumps(
        _answer("chat.completion.chunk", delta={"content": word}, finish_reason=None)
    ).encode()
    + b"\n\n"
    for word in (" word", " text")
)
EVENTS = 500


class Host(WorkerHost):
    """The governor's real host; its worker is a process of its own with an engine that costs little."""

    def __init__(self, *, token_seconds: float, on_exit: Callable[[WorkerFailed], None]) -> None:
        """`token_seconds` is what the world gives its own host."""
        del token_seconds
        program = (
            f"import sys; sys.path.insert(0, {str(ROOT)!r}); from bench.free import main; main()"
        )
        super().__init__(on_exit=on_exit, command=(sys.executable, "-c", program))

    async def load(
        self,
        engine: str,
        files: Sequence[frames.MemoryFile],
        settings: frames.Settings = frames.DEFAULT_SETTINGS,
    ) -> frames.Loaded:
        """The engine reads no files, and the world gives none."""
        file = memory.create("model", 1)
        return await super().load(engine, files or [file], settings)


class Clock(SystemClock):
    """The machine's own clock, set to when the world's documents are valid; it costs what a real one does."""

    _ahead = SystemClock().now() - START

    def now(self) -> Instant:
        """Milliseconds since the Unix epoch, on a day in the world."""
        return Instant(super().now() - self._ahead)


async def bare(_scope: Any, receive: Any, send: Any) -> None:
    """What no application could be cheaper than."""
    body = b""
    while True:
        event = await receive()
        body += event.get("body", b"")
        if not event.get("more_body"):
            break
    streams = b'"stream":true' in body.replace(b" ", b"")
    kind = b"text/event-stream" if streams else b"application/json"
    start = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]}
    if kind == b"application/json":
        start["headers"].append((b"content-length", str(len(ANSWER)).encode()))  # type: ignore[attr-defined]
        await send(start)
        await send({"type": "http.response.body", "body": ANSWER})
        return
    await send(start)
    for number in range(EVENTS):
        await send({"type": "http.response.body", "body": PIECES[number % 2], "more_body": True})
    await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})


async def main() -> None:
    """Serve until killed."""
    if sys.argv[1] in ("bare", "upstream"):
        key, application, api_key = TlsKey.make(os.urandom), bare, ""
        certificate = enclave_certificate(key, entropy=os.urandom)
    else:
        # What the enclave has outside of the world: a worker's process, a clock and entropy that cost what
        # real ones cost.
        for name, real in (
            ("InProcessHost", Host),
            ("SimulatedClock", Clock),
            ("SeededEntropy", lambda _seed: os.urandom),
        ):
            setattr(world_module, name, real)
        policy = LeasePolicy(ttl=Duration(DAY), outstanding_max=Units(1 << 40))
        world = await World.make(
            cap=1 << 40, policy=policy, dead_man=86_400, queue_max=512, concurrency_max=512
        )
        box = await world.enclave(token_seconds=0).serving()
        consumer = await world.consumer("bench", 1 << 40)
        key, certificate = box.enclave.keys.tls, box.enclave.keys.certificate
        application, api_key = box.application, consumer.key  # type: ignore[assignment]
    context = None if sys.argv[1] == "upstream" else enclave_server_context(certificate, key)
    async with serving(application, context, "127.0.0.1", 0) as address:
        print(
            json.dumps({"port": address.port, "key": api_key, "certificate": certificate}),
            flush=True,
        )
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
