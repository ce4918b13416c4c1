"""The real way to the custodian: two HTTPS requests and a WebSocket, its CA pinned by configuration.

The address is the borrower's hint; who answers there must hold a certificate of the measured CA.
"""

from __future__ import annotations

import asyncio
import http.client
import socket
from typing import Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from leasehold.core.crypto import TlsKey
from leasehold.core.encoding import from_json, to_json
from leasehold.core.messages import MESSAGE_BYTES_MAX, Attest, Challenge, Problem, Release
from leasehold.enclave.settings import Settings
from leasehold.errors import BadMessage, ChannelClosed, CustodianUnreachable, from_wire
from leasehold.net.channel import Channel
from leasehold.net.tls import TlsContext, client_context

TIMEOUT_SECONDS: Final = 10.0


class _Connection(http.client.HTTPSConnection):
    """HTTPS to an address, with the server's name fixed beforehand."""

    def __init__(self, host: str, port: int, name: str, context: TlsContext) -> None:
        super().__init__(host, port, timeout=TIMEOUT_SECONDS, context=context)
        self._name, self._tls = name, context

    def connect(self) -> None:
        """Connect and check the certificate for the fixed name, whatever the address was."""
        plain = socket.create_connection((self.host, self.port), TIMEOUT_SECONDS)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # or the end waits for an ACK
        self.sock = self._tls.wrap_socket(plain, server_hostname=self._name)


class _SocketChannel:
    """A Channel over one WebSocket."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    async def send(self, message: bytes) -> None:
        """Send as text. Raises ChannelClosed."""
        try:
            await self._connection.send(message.decode())
        except (ConnectionClosed, OSError) as cause:
            raise ChannelClosed from cause

    async def receive(self) -> bytes:
        """The next message. Raises ChannelClosed."""
        try:
            message = await self._connection.recv()
        except (ConnectionClosed, OSError) as cause:
            raise ChannelClosed from cause
        return message.encode() if isinstance(message, str) else message

    async def close(self) -> None:
        """Close, in good order where the other end still answers."""
        await self._connection.close()


class HttpsWire:
    """A CustodianWire over TLS. `host` and `port` are hints, all else is measured."""

    def __init__(self, host: str, port: int, settings: Settings, key: TlsKey) -> None:
        self._host, self._port, self._settings, self._key = host, port, settings, key
        self._context = client_context(settings.custodian_ca)

    async def challenge(self) -> Challenge:
        """N-1. Raises CustodianUnreachable."""
        return from_json(await self._post("/enclave/challenge", b""), Challenge)

    async def attest(self, message: Attest) -> Release:
        """N-2. Raises CustodianUnreachable, or what the custodian refused with."""
        return from_json(await self._post("/enclave/attest", to_json(message)), Release)

    async def open_channel(self, certificate: str) -> Channel:
        """N-4. Raises CustodianUnreachable."""
        name = self._settings.custodian_name
        try:
            context = client_context(
                self._settings.custodian_ca, certificate=certificate, key=self._key
            )
            connection = await connect(
                f"wss://{name}/enclave/channel",
                host=self._host,
                port=self._port,
                ssl=context,
                server_hostname=name,
                compression=None,
                max_size=MESSAGE_BYTES_MAX,
                ping_interval=None,
                open_timeout=TIMEOUT_SECONDS,
                close_timeout=1,
                proxy=None,
                user_agent_header=None,
            )
        except (OSError, TimeoutError, InvalidHandshake) as cause:
            raise CustodianUnreachable(about=f"{self._host}:{self._port}", got=cause) from cause
        return _SocketChannel(connection)

    async def _post(self, path: str, body: bytes) -> bytes:
        return await asyncio.to_thread(self._post_blocking, path, body)

    def _post_blocking(self, path: str, body: bytes) -> bytes:
        connection = _Connection(
            self._host, self._port, self._settings.custodian_name, self._context
        )
        try:
            connection.request("POST", path, body, {"content-type": "application/json"})
            response = connection.getresponse()
            answer = response.read(MESSAGE_BYTES_MAX + 1)
        except (OSError, http.client.HTTPException) as cause:
            raise CustodianUnreachable(about=f"{self._host}:{self._port}", got=cause) from cause
        finally:
            connection.close()
        if len(answer) > MESSAGE_BYTES_MAX:
            raise BadMessage(
                about="custodian's answer", got=len(answer), expected=MESSAGE_BYTES_MAX
            )
        if response.status != http.HTTPStatus.OK:
            problem = from_json(answer, Problem)
            raise from_wire(problem.code, problem.message)
        return answer
