"""Real TLS on the loopback: who is let in, what the application sees, and what is bounded."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from typing import Any

import httpx2
import pytest
from websockets.asyncio.client import connect

from leasehold.errors import BadSetting, PortInUse
from leasehold.net.authority import OperatorIdentity
from leasehold.net.certificates import ENCLAVE_NAME, enclave_certificate
from leasehold.net.servers import Limits, Peer, peer_of, serving
from leasehold.net.shown import spki_of, to_pem
from leasehold.net.tls import (
    TlsContext,
    client_context,
    enclave_server_context,
    peer_certificate,
    pinned_context,
    unverified_bootstrap_context,
)


def _describe(peer: Peer | None) -> bytes:
    return json.dumps(None if peer is None else [peer.identity, to_pem(peer.certificate)]).encode()


async def whoami(scope: Any, receive: Any, send: Any) -> None:
    """Answer with the peer that the scope names, over HTTP or over a WebSocket."""
    answer = _describe(peer_of(scope))
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        if scope["path"] == "/slow":
            await asyncio.sleep(0.2)
        await send({"type": "websocket.send", "bytes": answer})
        await send({"type": "websocket.close"})
        return
    if scope["path"] == "/slow":
        await asyncio.sleep(0.2)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": answer})


async def _get(context: TlsContext, port: int, path: str = "/") -> Any:
    async with httpx2.AsyncClient(verify=context, trust_env=False) as client:
        return (await client.get(f"https://127.0.0.1:{port}{path}")).json()


async def _hear(context: TlsContext, port: int, path: str = "") -> Any:
    async with connect(f"wss://127.0.0.1:{port}/{path}", ssl=context) as channel:
        return json.loads(await channel.recv())


async def test_http_and_websocket_scopes_name_the_client(pki: Any) -> None:
    authority = pki.authority()
    name, client = pki.instance(authority)
    async with serving(whoami, pki.server(authority), "127.0.0.1", 0) as address:
        for seen in (await _get(client, address.port), await _hear(client, address.port)):
            assert seen[0] == name.uri
            assert "BEGIN CERTIFICATE" in seen[1]


async def test_a_client_without_a_certificate_has_no_name(pki: Any) -> None:
    authority = pki.authority()
    client = client_context(authority.certificate)
    async with serving(whoami, pki.server(authority), "127.0.0.1", 0) as address:
        assert await _get(client, address.port) is None
        assert await _hear(client, address.port) is None


async def test_a_server_of_another_authority_is_refused(pki: Any) -> None:
    _, client = pki.instance(pki.authority())
    async with serving(whoami, pki.server(pki.authority()), "127.0.0.1", 0) as address:
        with pytest.raises(httpx2.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            await _get(client, address.port)


async def test_a_server_under_another_name_is_refused(pki: Any) -> None:
    authority = pki.authority()
    _, client = pki.instance(authority)
    async with serving(
        whoami, pki.server(authority, "custodian.example"), "127.0.0.1", 0
    ) as address:
        with pytest.raises(httpx2.ConnectError, match="IP address mismatch"):
            await _get(client, address.port)


async def test_a_client_certificate_of_another_authority_is_refused(pki: Any) -> None:
    authority = pki.authority()
    _, client = pki.instance(pki.authority(), trusts=authority)
    async with serving(whoami, pki.server(authority), "127.0.0.1", 0) as address:
        with pytest.raises(httpx2.RemoteProtocolError, match="Server disconnected"):
            await _get(client, address.port)  # test_tls shows the server's reason


async def test_an_enclave_is_met_unverified_then_pinned(pki: Any) -> None:
    key, other = pki.key(), pki.key()
    certificate = enclave_certificate(key, entropy=os.urandom)
    wrong = enclave_certificate(other, entropy=os.urandom)
    context = enclave_server_context(certificate, key)
    async with serving(whoami, context, "127.0.0.1", 0) as address:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", address.port, ssl=unverified_bootstrap_context(), server_hostname=""
        )
        met = peer_certificate(writer.get_extra_info("ssl_object"))
        writer.close()
        del reader
        assert met is not None
        assert spki_of(met) == key.spki
        assert await _get(pinned_context([to_pem(met)]), address.port) is None
        assert await _get(pinned_context([wrong, certificate]), address.port) is None
        with pytest.raises(httpx2.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            await _get(pinned_context([wrong]), address.port)
        with pytest.raises(httpx2.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            await _get(pinned_context([]), address.port)


async def test_the_enclave_certificate_as_an_ordinary_anchor_checks_its_name(pki: Any) -> None:
    key = pki.key()
    certificate = enclave_certificate(key, entropy=os.urandom)
    async with serving(whoami, enclave_server_context(certificate, key), "127.0.0.1", 0) as address:
        context = client_context(certificate)
        async with httpx2.AsyncClient(verify=context, trust_env=False) as client:
            url = f"https://127.0.0.1:{address.port}/"
            answer = await client.get(url, extensions={"sni_hostname": ENCLAVE_NAME})
            assert answer.status_code == 200


async def test_plain_http_serves_without_a_name() -> None:
    async with serving(whoami, None, "127.0.0.1", 0) as address, httpx2.AsyncClient() as client:
        assert (await client.get(f"http://127.0.0.1:{address.port}/")).json() is None


async def test_no_write_waits_for_the_clients_acknowledgement() -> None:
    seen: list[int] = []

    async def look(scope: Any, receive: Any, send: Any) -> None:
        sock = send.__self__.transport.get_extra_info("socket")
        seen.append(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        await whoami(scope, receive, send)

    async with serving(look, None, "127.0.0.1", 0) as address, httpx2.AsyncClient() as client:
        await client.get(f"http://127.0.0.1:{address.port}/")
    assert seen == [1]


class _Writes:
    """A transport that keeps what is written to it."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self.all: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.all.append(data)
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


async def test_head_and_body_of_an_answer_are_one_write() -> None:
    writes: list[_Writes] = []

    async def look(scope: Any, receive: Any, send: Any) -> None:
        headed = send.__self__.transport
        if scope["method"] != "HEAD":
            writes.append(_Writes(headed._transport))
            headed._transport = writes[-1]
        if scope["path"] == "/expects":
            await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for part in (b"one", b"two"):
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async with serving(look, None, "127.0.0.1", 0) as address:
        async with httpx2.AsyncClient(trust_env=False) as client:
            url = f"http://127.0.0.1:{address.port}"
            assert (await client.get(f"{url}/")).text == "onetwo"
            assert (await client.head(f"{url}/")).status_code == 200
            assert (await client.get(f"{url}/")).text == "onetwo"
        asked = b"POST /expects HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\n"
        head = asked + b"content-length: 1\r\nconnection: close\r\n\r\n"
        answer = await _exchange(address.port, head, b"x")
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
    first, expects = writes[0].all, writes[2].all
    assert first[0].startswith(b"HTTP/1.1 200 OK\r\n")
    assert first[0].endswith(b"\r\n\r\n3\r\none\r\n")
    assert first[1:] == [b"3\r\ntwo\r\n", b"0\r\n\r\n"]
    assert expects[0] == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert expects[1].endswith(b"3\r\none\r\n")


async def test_a_taken_port_is_said_so() -> None:
    async with serving(whoami, None, "127.0.0.1", 0) as address:
        with pytest.raises(PortInUse, match=str(address.port)):
            async with serving(whoami, None, "127.0.0.1", address.port):
                pytest.fail("two servers on one port")


async def test_a_foreign_address_is_a_bad_setting() -> None:
    with pytest.raises(BadSetting, match="listen address"):
        async with serving(whoami, None, "192.0.2.1", 0):
            pytest.fail("listening on an address of nobody")


async def test_leaving_lets_running_requests_finish() -> None:
    async with httpx2.AsyncClient() as client:
        async with serving(whoami, None, "127.0.0.1", 0) as address:
            asking = asyncio.create_task(client.get(f"http://127.0.0.1:{address.port}/slow"))
            await asyncio.sleep(0.05)
        assert (await asking).status_code == 200
    with socket.create_server(("127.0.0.1", address.port)):
        pass  # the port is free again


async def _exchange(port: int, *parts: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answer = asyncio.create_task(asyncio.wait_for(reader.read(), 5))
    for part in parts:
        writer.write(part)
        await asyncio.sleep(0.001)
    try:
        return await answer
    except ConnectionResetError:
        return b""
    finally:
        writer.close()


@pytest.mark.parametrize(
    "head",
    [
        [b"GET / HTTP/1.1\r\n", b"a: " + b"x" * 3000 + b"\r\n\r\n"],
        [b"GET / HTTP/1.1\r\n"] + [b"a: b\r\n" * 100] * 10,
        [b"GET /" + b"x" * 3000],
        [b"GET / HTTP/1.1\r\na: "] + [b"x" * 100] * 30,
    ],
)
async def test_a_long_head_is_refused(head: list[bytes]) -> None:
    async with serving(whoami, None, "127.0.0.1", 0, limits=Limits(head_bytes_max=2000)) as address:
        assert (await _exchange(address.port, *head)).startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize(
    "start", [b"", b"GET / HTTP/1.1\r\nhost:", b"\r\n", b"GET / HTTP/1.1\r\n\r\nGET"]
)
async def test_an_unfinished_head_is_cut_off(start: bytes) -> None:
    limits = Limits(head_seconds_max=0.05, idle_seconds_max=1)
    async with serving(whoami, None, "127.0.0.1", 0, limits=limits) as address:
        answer = await _exchange(address.port, start)
        assert answer.count(b"HTTP/1.1") == start.count(b"\r\n\r\n")


async def test_a_websocket_outlives_the_time_for_a_head(pki: Any) -> None:
    authority, limits = pki.authority(), Limits(head_seconds_max=0.05)
    _, client = pki.instance(authority)
    async with serving(whoami, pki.server(authority), "127.0.0.1", 0, limits=limits) as address:
        assert await _hear(client, address.port, "slow") is not None


async def test_a_full_house_says_503() -> None:
    async with serving(whoami, None, "127.0.0.1", 0, limits=Limits(connections_max=1)) as address:
        answer = await _exchange(address.port, b"GET / HTTP/1.0\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 503")


def test_an_operator_is_not_an_instance() -> None:
    assert OperatorIdentity("ada").uri == "leasehold://operator/ada"
