"""An ASGI application behind uvicorn with our TLS context, and the peer's certificate in its scope.

uvicorn shows an application no client certificate and bounds neither a request's head nor the time it
takes; its two protocols are subclassed for that. Refuses to know what any request means.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from asyncio import BaseTransport, TimerHandle, Transport
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, cast

from uvicorn import Config, Server
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from leasehold.core.units import KIB, MIB
from leasehold.errors import BadMessage, BadSetting, PortInUse
from leasehold.net.certificates import identity_of
from leasehold.net.clock import next_multiple
from leasehold.net.tls import TlsContext, peer_certificate

PEER: Final = "leasehold.peer"
_BACKLOG: Final = 1024


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end, by a certificate that the TLS handshake accepted: its URI and DER."""

    identity: str
    certificate: bytes


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client may hold of a server. Bodies of requests are the application's to bound."""

    head_bytes_max: int = 32 * KIB  # the longest header of ours is a receipt, ~2 KiB
    head_seconds_max: float = 10.0  # from connecting, or from a first byte, to the end of the head
    idle_seconds_max: int = 75  # between requests; clients pool connections for about a minute
    connections_max: int = 4096  # above this, 503
    message_bytes_max: int = 1 * MIB  # one WebSocket message; twice core.messages.MESSAGE_BYTES_MAX
    grace_seconds_max: int = 5  # for running requests when the server stops


class Address(NamedTuple):
    """Where a server listens."""

    host: str
    port: int


def peer_of(scope: Mapping[str, Any]) -> Peer | None:
    """The client that an ASGI scope belongs to, or None where it showed no certificate."""
    peer = (scope.get("extensions") or {}).get(PEER)
    return peer if isinstance(peer, Peer) else None


@asynccontextmanager
async def serving(
    app: Any,
    context: TlsContext | None,
    host: str,
    port: int,
    *,
    limits: Limits | None = None,
) -> AsyncIterator[Address]:
    """Serve an ASGI 3 application while the block runs; port 0 takes a free one.

    Leaving the block stops gracefully. No context means plain HTTP: for a proxy on the loopback only.
    Raises PortInUse, or BadSetting where the address is not one of this machine.
    """
    config = _Config(app, context, limits or Limits())
    config.load()
    listener = _listen(host, port)
    server = Server(config)
    server.lifespan = config.lifespan_class(config)
    try:
        await server.startup(sockets=[listener])
        bound = listener.getsockname()
        ticking = asyncio.create_task(_tick(server))
        try:
            yield Address(bound[0], bound[1])
        finally:
            ticking.cancel()
            await server.shutdown(sockets=[listener])
    finally:
        listener.close()


async def _tick(server: Server) -> None:
    """uvicorn's `main_loop`, which wakes ten times a second to renew the date of answers at each tenth."""
    while True:
        await server.on_tick(0)
        await next_multiple(1)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as cause:
        where = f"{host}:{port}"
        if cause.errno == errno.EADDRINUSE:
            raise PortInUse(about=where) from cause
        raise BadSetting(about="listen address", got=where, expected=cause.strerror) from cause
    # asyncio sets it for sockets whose protocol is named, and those accepted here name none: without it
    # the second write of every answer waits for the client's delayed acknowledgement, 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setblocking(False)
    return listener


class _Config(Config):
    """uvicorn's configuration, the same for every server of ours."""

    def __init__(self, app: Any, context: TlsContext | None, limits: Limits) -> None:
        super().__init__(
            app,
            http=_HttpProtocol,
            ws=_WebSocketProtocol,
            loop="asyncio",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            ws_per_message_deflate=False,  # compressed secrets beside chosen text leak (CRIME)
            ws_max_size=limits.message_bytes_max,
            limit_concurrency=limits.connections_max,
            timeout_keep_alive=limits.idle_seconds_max,
            timeout_graceful_shutdown=limits.grace_seconds_max,
            backlog=_BACKLOG,
            ssl_context_factory=None if context is None else lambda _config, _default: context,
        )
        self.limits = limits


def _peer(transport: BaseTransport) -> Peer | None:
    connection = transport.get_extra_info("ssl_object")
    certificate = peer_certificate(connection) if connection is not None else None
    return Peer(identity_of(certificate), certificate) if certificate else None


class _HttpProtocol(HttpToolsProtocol):
    """Adds the peer to every scope, and bounds a request's head in bytes and in time."""

    config: _Config
    _peer: Peer | None = None
    _head_timer: TimerHandle | None = None
    _head_bytes = 0
    _head_complete = False

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._arm()
        try:
            self._peer = _peer(transport)
        except BadMessage:  # from our own authority, but no name in it: nobody we know
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.transport.is_closing() or self.transport.get_protocol() is not self:
            return  # where it has become a WebSocket, no further head is waited for
        if not self._head_complete:
            self._head_bytes += len(data)
            if self._head_bytes > self.config.limits.head_bytes_max:
                self.send_400_response("Request head too large.")
                return
        if self.cycle is None or self.cycle.response_complete:
            self._arm()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_complete, self._head_bytes = False, 0
        cast(dict[str, Any], self.scope)["extensions"] = {PEER: self._peer}

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._head_complete = True
        self._disarm()
        super().on_headers_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if cycle.scope["method"] != "HEAD":  # its answer ends with its head
            cycle.transport = cast(Transport, _Headed(cycle))
        super()._start_asgi_task(cycle, app)

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self.config.limits.head_bytes_max:
            raise ValueError("request head too large")  # the parser makes it a 400

    def _arm(self) -> None:
        if self._head_timer is None and self.timeout_keep_alive_task is None:
            seconds = self.config.limits.head_seconds_max
            self._head_timer = self.loop.call_later(seconds, self.transport.abort)

    def _disarm(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class _Headed:
    """A cycle's transport that keeps the head of an answer until its body begins: one write, one record."""

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle, self._transport, self._head = cycle, cycle.transport, b""

    def write(self, data: bytes) -> None:
        """Keep the head; with what comes next, step aside. "100 Continue" comes before both."""
        if self._cycle.response_started and not self._head:
            self._head = data
            return
        if self._head:
            self._cycle.transport = self._transport
        self._transport.write(self._head + data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class _WebSocketProtocol(WebSocketsSansIOProtocol):
    """Adds the peer to the scope."""

    async def run_asgi(self) -> None:
        cast(dict[str, Any], self.scope["extensions"])[PEER] = _peer(self.transport)
        await super().run_asgi()
