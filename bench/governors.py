"""A process of real governors: `python -m bench.governors` reads its place from the first line of input.

Boot, link, meter, gate and HTTP application are the enclave's own, over its real wire to a custodian. The
engine is the fake one, a token every ten milliseconds; consumers call the application in process.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bench.lending import LOAN, MODEL, attester, in_thread, make_keys, raise_descriptors
from leasehold.core.evidence import Attester
from leasehold.core.session import State
from leasehold.enclave.boot import Enclave, Machine
from leasehold.enclave.serve import Application
from leasehold.enclave.settings import Settings, parse_settings
from leasehold.enclave.wire import HttpsWire
from leasehold.net.channel import Channel
from leasehold.net.clock import SystemClock
from leasehold.testing.asgi import Answer, exchange
from leasehold.testing.host import InProcessHost
from leasehold.testing.machinery import Events, MemorySource, WorldLoader

TOKEN_SECONDS: Final = 0.01
TOKENS_MAX: Final = 900  # of one answer: nine seconds, in which everybody is stopped
TOKENS_BEFORE: Final = 30  # each stream has sent so many before it counts as running


@dataclass(slots=True)
class Stream:
    """One consumer's answer as it leaves the application; moments in nanoseconds of CLOCK_MONOTONIC."""

    tokens: int = 0
    last_token: int = 0
    last_byte: int = 0
    running: asyncio.Event = field(default_factory=asyncio.Event)

    def see(self, _answer: Answer, piece: bytes) -> None:
        """Called in the moment in which a piece leaves."""
        if piece:
            self.last_byte = time.monotonic_ns()
        if piece.startswith(b'data: {"error"'):
            return
        self.tokens += 1
        self.last_token = self.last_byte
        if self.tokens == TOKENS_BEFORE:
            self.running.set()


@dataclass(frozen=True, slots=True)
class Place:
    """Where the custodian, its bare peer, the machine and the sealed model are, and a consumer's key."""

    port: int
    bare: int
    count: int
    key: str
    settings: Settings
    attester: Attester
    sealed: bytes


def read_place(told: dict[str, Any]) -> Place:
    """From the first line."""
    folder = Path(told["folder"])
    return Place(
        told["port"],
        told["bare"],
        told["count"],
        told["key"],
        parse_settings((folder / f"{LOAN}-enclave.toml").read_bytes()),
        attester(folder / "machine"),
        (folder / "custodian" / "models" / f"{MODEL}.sealed").read_bytes(),
    )


def boot(place: Place) -> Enclave:
    """One instance with keys of its own."""
    keys = make_keys()
    host = InProcessHost(token_seconds=TOKEN_SECONDS)
    machine = Machine(
        place.attester,
        HttpsWire("127.0.0.1", place.port, place.settings, keys.tls),
        host,
        SystemClock(),
        os.urandom,
        Events(),
        in_thread,
    )
    source, engine = MemorySource(place.sealed), place.settings.engine
    loader = WorldLoader(host, place.settings.custodian_root, source, engine=engine)
    return Enclave(place.settings, machine, keys, loader)


async def consume(enclave: Enclave, key: str, stream: Stream) -> str | None:
    """Stream one long answer to its end; the code that it ended with.

    It begins at any part of a token's time, so that the streams do not run in step.
    """
    await asyncio.sleep(random.uniform(0, TOKEN_SECONDS))
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "go on and on"}],
        "stream": True,
        "max_tokens": TOKENS_MAX,
    }
    path, headers = "/v1/chat/completions", {"authorization": f"Bearer {key}"}
    application = Application(enclave)
    async with exchange(application, "POST", path, body, headers=headers, watch=stream.see) as (
        answer,
        task,
    ):
        await task
        stream.running.set()  # a refused one must not be waited for
        return answer.code


async def play(place: Place, say: Callable[[dict[str, Any]], None]) -> list[Enclave]:
    """One round: boot, stream until stopped, prove it; says when all stream, and then how each ended."""
    enclaves = [boot(place) for _ in range(place.count)]
    lives = [asyncio.create_task(enclave.run()) for enclave in enclaves]
    while any(enclave.state is not State.SERVING for enclave in enclaves):
        for life in lives:
            if life.done():
                life.result()
        await asyncio.sleep(0.02)
    streams = [Stream() for _ in enclaves]
    answers = [
        asyncio.create_task(consume(enclave, place.key, stream))
        for enclave, stream in zip(enclaves, streams, strict=True)
    ]
    for stream in streams:
        await stream.running.wait()
    say({"streaming": sum(not answer.done() for answer in answers)})
    codes = await asyncio.gather(*answers)
    await asyncio.gather(*lives)
    say(
        {
            "tokens": [stream.last_token for stream in streams],
            "bytes": [stream.last_byte for stream in streams],
            "codes": sorted({str(code) for code in codes}),
        }
    )
    return enclaves


async def open_bare(place: Place, enclaves: Sequence[Enclave]) -> list[Channel]:
    """Connections to the bare server by the enclaves' own wires, keys and certificates."""
    channels = []
    for enclave in enclaves:
        wire = HttpsWire("127.0.0.1", place.bare, place.settings, enclave.keys.tls)
        channels.append(await wire.open_channel(enclave.link._certificate))
    return channels


async def receive_all(channels: Sequence[Channel]) -> list[int]:
    """When each has had its next message."""

    async def one(channel: Channel) -> int:
        await channel.receive()
        return time.monotonic_ns()

    return await asyncio.gather(*(one(channel) for channel in channels))


async def main() -> None:
    """Obey until standard input ends."""
    raise_descriptors()
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    place = read_place(json.loads(await reader.readline()))
    played: list[Enclave] = []
    bare: list[Channel] = []

    def say(told: dict[str, Any]) -> None:
        print(json.dumps(told), flush=True)

    say({})
    async for line in reader:
        match json.loads(line):
            case {"play": _}:
                played = await play(place, say)
            case {"floor": _}:
                bare = bare or await open_bare(place, played)
                waiting = asyncio.create_task(receive_all(bare))
                await asyncio.sleep(0)
                say({"listening": len(bare)})
                say({"received": await waiting})


if __name__ == "__main__":
    asyncio.run(main())
