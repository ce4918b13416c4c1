"""Ranges over real TLS: only from the server that the given authority vouches for."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from leasehold.errors import BadSetting, ModelUnreachable
from leasehold.net.fetch import RangeReader
from leasehold.net.servers import peer_of, serving
from leasehold.net.tls import client_context

DATA = bytes(range(256)) * 4096


async def ranges(scope: Any, receive: Any, send: Any) -> None:
    """Serve DATA by ranges to clients with a name, and 403 to others."""
    asked = dict(scope["headers"])[b"range"].removeprefix(b"bytes=")
    first, last = map(int, asked.split(b"-"))
    status = 206 if peer_of(scope) else 403
    span = f"bytes {first}-{last}/{len(DATA)}".encode()
    await send(
        {"type": "http.response.start", "status": status, "headers": [(b"content-range", span)]}
    )
    await send({"type": "http.response.body", "body": DATA[first : last + 1]})


async def read(context: Any, port: int, offset: int, size: int) -> tuple[int, bytes]:
    """Read in a thread, as the loader does."""
    url = f"https://127.0.0.1:{port}/model"
    source, out = RangeReader(url, context=context, sleep=lambda _: None), bytearray(size)
    try:
        total = await asyncio.to_thread(source.read_into, offset, memoryview(out))
    finally:
        source.close()
    return total, bytes(out)


async def test_ranges_come_over_mutual_tls(pki: Any) -> None:
    authority = pki.authority()
    _, client = pki.instance(authority)
    async with serving(ranges, pki.server(authority), "127.0.0.1", 0) as address:
        total, got = await read(client, address.port, 1000, 300_000)
    assert total == len(DATA)
    assert got == DATA[1000:301_000]


async def test_without_a_name_there_is_no_model(pki: Any) -> None:
    authority = pki.authority()
    async with serving(ranges, pki.server(authority), "127.0.0.1", 0) as address:
        with pytest.raises(ModelUnreachable, match="status 403"):
            await read(client_context(authority.certificate), address.port, 0, 10)


async def test_another_server_is_refused(pki: Any) -> None:
    _, client = pki.instance(pki.authority())
    async with serving(ranges, pki.server(pki.authority()), "127.0.0.1", 0) as address:
        with pytest.raises(ModelUnreachable, match="CERTIFICATE_VERIFY_FAILED"):
            await read(client, address.port, 0, 10)


@pytest.mark.parametrize(
    "url",
    ["", "model.sealed", "ftp://mirror/x", "file:///x", "https:///x", "http://[::1", "http://a:b/"],
)
def test_other_addresses_are_refused(url: str, pki: Any) -> None:
    with pytest.raises(BadSetting, match="address of a model"):
        RangeReader(url, context=client_context(pki.authority().certificate))


def test_https_needs_an_authority() -> None:
    with pytest.raises(BadSetting, match="a CA for https"):
        RangeReader("https://mirror.example/model")
