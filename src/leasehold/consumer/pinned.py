"""An httpx2 transport that reaches verified enclaves only, and verifies again when it has to.

Spec: docs/spec/consumer.md, C-8 to C-10. It drives Fleet and Pool; whatever client sits on top (httpx2,
openai) needs to know nothing of attestation. Refuses to send to any other address.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from threading import Lock, RLock
from typing import Final, cast

import httpx2

from leasehold.consumer.address import Address
from leasehold.consumer.fleet import Fleet
from leasehold.consumer.verify import (
    EvidenceTransport,
    Expectations,
    VerifiedEnclave,
    verify_enclave,
)
from leasehold.core.crypto import Entropy
from leasehold.core.units import Clock
from leasehold.errors import EnclaveUnreachable, NotVerified
from leasehold.net.certificates import ENCLAVE_NAME
from leasehold.net.tls import pinned_context

Pins = frozenset[str]
Dial = Callable[[Pins], httpx2.BaseTransport]
"""Makes a transport whose every connection ends at the holder of one of these certificates."""

# One is enough for an enclave that was started anew; a load balancer may send the second elsewhere.
HANDSHAKES_MAX: Final = 3


def dial_tls(pins: Pins) -> httpx2.BaseTransport:
    """The real thing: TLS whose only trust anchors are these certificates; no proxies, no environment."""
    return httpx2.HTTPTransport(verify=pinned_context(sorted(pins)), trust_env=False)


def check_destination(url: httpx2.URL, address: Address) -> None:
    """C-10: raise NotVerified for anything but https to the address that was verified."""
    port = url.port or 443
    if url.scheme != "https" or (url.host, port) != (address.host, address.port):
        raise NotVerified(got=f"{url.scheme}://{url.host}:{port}", expected=address.url)


def name_server(request: httpx2.Request) -> None:
    """The certificate has one fixed name wherever the enclave runs; TLS is told to ask for that one."""
    request.extensions = {**request.extensions, "sni_hostname": ENCLAVE_NAME}


@dataclass(slots=True)
class Pool:
    """Connections to the holders of one set of pins. Once retired it closes with its last answer."""

    pins: Pins
    transport: httpx2.BaseTransport
    _lock: Lock = field(default_factory=Lock)
    _open: int = 0
    _retired: bool = False

    def send(self, request: httpx2.Request) -> httpx2.Response:
        """Send on one of these connections. Raises httpx2's errors."""
        self._count(1)
        try:
            answer = self.transport.handle_request(request)
        except BaseException:
            self._count(-1)
            raise
        stream = _Counted(cast(httpx2.SyncByteStream, answer.stream), lambda: self._count(-1))
        return httpx2.Response(
            answer.status_code,
            headers=answer.headers,
            stream=stream,
            extensions=answer.extensions,
        )

    def retire(self) -> None:
        """Take no new requests; let answers that are under way come to their end."""
        with self._lock:
            self._retired = True
            idle = self._open == 0
        if idle:
            self.transport.close()

    def _count(self, change: int) -> None:
        with self._lock:
            self._open += change
            over = self._retired and self._open == 0
        if over:
            self.transport.close()


class _Counted(httpx2.SyncByteStream):
    """An answer's body that says once when it was closed."""

    def __init__(self, inner: httpx2.SyncByteStream, done: Callable[[], None]) -> None:
        self._inner, self._done = inner, done
        self._closed = False

    def __iter__(self) -> Iterator[bytes]:
        yield from self._inner

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._inner.close()
            self._done()


class PinnedTransport(httpx2.BaseTransport):
    """Sends requests to enclaves that passed verification less than ten minutes ago, and to nobody else."""

    def __init__(
        self,
        expected: Expectations,
        address: Address,
        *,
        evidence: EvidenceTransport,
        clock: Clock,
        entropy: Entropy,
        dial: Dial = dial_tls,
    ) -> None:
        self.address = address
        self._expected, self._evidence, self._dial = expected, evidence, dial
        self._clock, self._entropy = clock, entropy
        self._fleet = Fleet()
        self._lock = RLock()  # one verification at a time; threads that wait profit from it
        self._pool: Pool | None = None

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """C-8 and C-9. Raises Unproven before anything leaves, and httpx2's errors after."""
        check_destination(request.url, self.address)
        name_server(request)
        for _ in range(HANDSHAKES_MAX):
            pool = self._current()
            try:
                return pool.send(request)
            except httpx2.ConnectError:  # no handshake, so nothing of the request was sent
                self._meet_newcomer(pool.pins)
        raise EnclaveUnreachable(about=self.address, got=f"{HANDSHAKES_MAX} refused handshakes")

    def verified(self) -> tuple[VerifiedEnclave, ...]:
        """The enclaves that are trusted now; verifies one where there is none."""
        with self._lock:
            valid = self._fleet.valid(now=self._clock.now())
            if not valid:
                self._verify()
                valid = self._fleet.valid(now=self._clock.now())
            return valid

    def close(self) -> None:
        """Close every connection."""
        with self._lock:
            if self._pool is not None:
                self._pool.retire()
                self._pool = None

    def _current(self) -> Pool:
        with self._lock:
            pins = frozenset(one.certificate for one in self.verified())
            if self._pool is None or self._pool.pins != pins:
                self.close()
                self._pool = Pool(pins, self._dial(pins))
            return self._pool

    def _meet_newcomer(self, refused: Pins) -> None:
        with self._lock:
            if self._fleet.pins(now=self._clock.now()) == refused:
                self._verify()

    def _verify(self) -> None:
        enclave = verify_enclave(
            self._expected,
            self._evidence,
            address=str(self.address),
            clock=self._clock,
            entropy=self._entropy,
        )
        self._fleet.admit(enclave)
