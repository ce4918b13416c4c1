"""`pinned` for event loops: the same rules, awaited. Spec: docs/spec/consumer.md, C-8 to C-10."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import cast

import httpx2

from leasehold.consumer.address import Address
from leasehold.consumer.fleet import Fleet
from leasehold.consumer.pinned import HANDSHAKES_MAX, Pins, check_destination, name_server
from leasehold.consumer.verify import (
    AsyncEvidenceTransport,
    Expectations,
    VerifiedEnclave,
    verify_enclave_async,
)
from leasehold.core.crypto import Entropy
from leasehold.core.units import Clock
from leasehold.errors import EnclaveUnreachable
from leasehold.net.tls import pinned_context

AsyncDial = Callable[[Pins], httpx2.AsyncBaseTransport]
"""Makes a transport whose every connection ends at the holder of one of these certificates."""


def dial_tls_async(pins: Pins) -> httpx2.AsyncBaseTransport:
    """TLS whose only trust anchors are these certificates; no proxies, no environment."""
    return httpx2.AsyncHTTPTransport(verify=pinned_context(sorted(pins)), trust_env=False)


@dataclass(slots=True)
class AsyncPool:
    """Connections to the holders of one set of pins. Once retired it closes with its last answer."""

    pins: Pins
    transport: httpx2.AsyncBaseTransport
    _open: int = 0
    _retired: bool = False

    async def send(self, request: httpx2.Request) -> httpx2.Response:
        """Send on one of these connections. Raises httpx2's errors."""
        self._open += 1
        try:
            answer = await self.transport.handle_async_request(request)
        except BaseException:
            await self._leave()
            raise
        return httpx2.Response(
            answer.status_code,
            headers=answer.headers,
            stream=_Counted(cast(httpx2.AsyncByteStream, answer.stream), self._leave),
            extensions=answer.extensions,
        )

    async def retire(self) -> None:
        """Take no new requests; let answers that are under way come to their end."""
        self._retired = True
        if self._open == 0:
            await self.transport.aclose()

    async def _leave(self) -> None:
        self._open -= 1
        if self._retired and self._open == 0:
            await self.transport.aclose()


class _Counted(httpx2.AsyncByteStream):
    """An answer's body that says once when it was closed."""

    def __init__(self, inner: httpx2.AsyncByteStream, done: Callable[[], Awaitable[None]]) -> None:
        self._inner, self._done = inner, done
        self._closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._inner:
            yield part

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            await self._inner.aclose()
            await self._done()


class AsyncPinnedTransport(httpx2.AsyncBaseTransport):
    """Sends requests to enclaves that passed verification less than ten minutes ago, and to nobody else."""

    def __init__(
        self,
        expected: Expectations,
        address: Address,
        *,
        evidence: AsyncEvidenceTransport,
        clock: Clock,
        entropy: Entropy,
        dial: AsyncDial = dial_tls_async,
    ) -> None:
        self.address = address
        self._expected, self._evidence, self._dial = expected, evidence, dial
        self._clock, self._entropy = clock, entropy
        self._fleet = Fleet()
        self._lock = asyncio.Lock()  # one verification at a time; tasks that wait profit from it
        self._pool: AsyncPool | None = None

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """C-8 and C-9. Raises Unproven before anything leaves, and httpx2's errors after."""
        check_destination(request.url, self.address)
        name_server(request)
        for _ in range(HANDSHAKES_MAX):
            pool = await self._current()
            try:
                return await pool.send(request)
            except httpx2.ConnectError:  # no handshake, so nothing of the request was sent
                await self._meet_newcomer(pool.pins)
        raise EnclaveUnreachable(about=self.address, got=f"{HANDSHAKES_MAX} refused handshakes")

    async def verified(self) -> tuple[VerifiedEnclave, ...]:
        """The enclaves that are trusted now; verifies one where there is none."""
        async with self._lock:
            return await self._valid()

    async def aclose(self) -> None:
        """Close every connection."""
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.retire()

    async def _valid(self) -> tuple[VerifiedEnclave, ...]:
        valid = self._fleet.valid(now=self._clock.now())
        if not valid:
            await self._verify()
            valid = self._fleet.valid(now=self._clock.now())
        return valid

    async def _current(self) -> AsyncPool:
        async with self._lock:
            pins = frozenset(one.certificate for one in await self._valid())
            if self._pool is None or self._pool.pins != pins:
                await self.aclose()
                self._pool = AsyncPool(pins, self._dial(pins))
            return self._pool

    async def _meet_newcomer(self, refused: Pins) -> None:
        async with self._lock:
            if self._fleet.pins(now=self._clock.now()) == refused:
                await self._verify()

    async def _verify(self) -> None:
        enclave = await verify_enclave_async(
            self._expected,
            self._evidence,
            address=str(self.address),
            clock=self._clock,
            entropy=self._entropy,
        )
        self._fleet.admit(enclave)
