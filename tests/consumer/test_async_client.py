"""The SDK for event loops: the same promises, awaited; once over TLS and once without any wire."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest

from consumer.conftest import Serve
from consumer.server import TlsServer
from consumer.world import API_KEY, OTHER_MEASUREMENT, WORDS, Direct, FakeEnclave, World
from leasehold.consumer.async_client import AsyncEnclave
from leasehold.consumer.pinned import Pins
from leasehold.consumer.verify import TRUST_TIME
from leasehold.errors import (
    BadRequest,
    BudgetExhausted,
    EnclaveUnreachable,
    NotVerified,
    WrongMeasurement,
)

TEXT = "".join(WORDS)


async def connect(world: World, server: TlsServer, **choices: Any) -> AsyncEnclave:
    """An honest consumer's enclave."""
    choices = {"manifest": world.manifest(), "api_key": API_KEY} | choices
    return await AsyncEnclave.connect(
        server.address, clock=world.clock, entropy=world.entropy, **choices
    )


async def test_it_answers_whole_and_in_pieces(world: World, serve: Serve) -> None:
    async with await connect(world, serve(world.enclave())) as enclave:
        answer = await enclave.ask("How many eggs?", system="Be brief.", max_tokens=9)
        assert answer.text == TEXT
        assert (await enclave.receipt(answer)).content_checked
        stream = await enclave.stream("How many eggs?")
        assert tuple([piece async for piece in stream]) == WORDS
        assert stream.answer.text == TEXT
        assert not (await enclave.receipt(stream.answer.exchange.receipt)).content_checked


async def test_it_embeds_and_asks_for_more(world: World, serve: Serve) -> None:
    async with await connect(world, serve(world.enclave(decides_after=1))) as enclave:
        assert (await enclave.embed(["a", "b"])).vectors == ((0, 0.5), (1, 0.5))
        with pytest.raises(BadRequest):
            await enclave.embed("a")
        assert (await enclave.budget()).available == 1000
        assert (await enclave.request_more(100, "a report", wait=5)).status == "approved"


async def test_a_refusal_is_the_same_error_here(world: World, serve: Serve) -> None:
    async with await connect(world, serve(world.enclave(refuses=BudgetExhausted()))) as enclave:
        with pytest.raises(BudgetExhausted):
            await enclave.ask("Eggs?")


async def test_a_cut_stream_is_no_answer(world: World, serve: Serve) -> None:
    async with await connect(world, serve(world.enclave(cuts_stream=True))) as enclave:
        stream = await enclave.stream("Eggs?")
        with pytest.raises(EnclaveUnreachable):
            _ = [piece async for piece in stream]


async def test_a_bad_enclave_sees_a_nonce_and_nothing_else(world: World, serve: Serve) -> None:
    server = serve(world.enclave(measurement=OTHER_MEASUREMENT))
    with pytest.raises(WrongMeasurement):
        await connect(world, server)
    (request,) = server.received
    assert API_KEY.encode() not in request


async def test_restarts_and_ten_minutes(world: World, serve: Serve) -> None:
    server = serve(world.enclave())
    async with await connect(world, server) as enclave:
        await enclave.ask("one")
        server.restart(world.enclave())
        await enclave.ask("two")
        assert (await enclave.verified()).instance == server.enclave.instance
        world.clock.turn(TRUST_TIME)
        answers = await asyncio.gather(enclave.ask("three"), enclave.ask("four"))
        assert [answer.text for answer in answers] == [TEXT, TEXT]
        server.restart(world.enclave(measurement=OTHER_MEASUREMENT))
        with pytest.raises(WrongMeasurement):
            await enclave.ask("five")
    paths = [line.split(b" ")[1] for line in server.received]
    assert paths.count(b"/leasehold/evidence") == 4  # gathered questions share one
    assert b"five" not in b"".join(server.received)


async def test_a_stream_goes_on_while_a_newcomer_is_verified(world: World, serve: Serve) -> None:
    server = serve(world.enclave())
    async with await connect(world, server) as enclave:
        stream = aiter(await enclave.stream("Eggs?"))
        pieces = [await anext(stream)]
        server.enclave = world.enclave()
        assert (await enclave.ask("who answers?")).text == TEXT
        assert (*pieces, *[piece async for piece in stream]) == WORDS


async def test_nothing_goes_elsewhere(world: World, serve: Serve) -> None:
    server = serve(world.enclave())
    async with await connect(world, server) as enclave, enclave.http_client() as client:
        with pytest.raises(NotVerified):
            await client.get("https://enclave.example/v1/models")
    assert len(server.received) == 1


class _NoWire:
    """A world in one process: evidence and requests reach a fake enclave without TLS.

    `dial` does what TLS would: it refuses whoever is not pinned.
    """

    def __init__(self, enclave: FakeEnclave) -> None:
        self.enclave = enclave

    async def fetch(self, nonce: bytes) -> tuple[bytes, bytes]:
        """Evidence of whoever is there."""
        return Direct(self.enclave).fetch(nonce)

    def dial(self, pins: Pins) -> httpx2.AsyncBaseTransport:
        """Requests to whoever is there, if his certificate is among the pins."""

        def handle(request: httpx2.Request) -> httpx2.Response:
            if self.enclave.certificate not in pins:
                raise httpx2.ConnectError("certificate verify failed")
            path = request.url.raw_path.decode()
            headers = {name.lower(): value for name, value in request.headers.items()}
            answer = self.enclave.respond(request.method, path, headers, request.content)
            body = b"".join(answer.parts)
            return httpx2.Response(answer.status, headers=answer.headers, content=body)

        return httpx2.MockTransport(handle)


async def test_a_world_in_one_process_brings_its_own_wires(world: World) -> None:
    wire = _NoWire(world.enclave())
    enclave = await AsyncEnclave.connect(
        "enclave.example",
        manifest=world.manifest(),
        api_key=API_KEY,
        clock=world.clock,
        entropy=world.entropy,
        evidence=wire,
        dial=wire.dial,
    )
    async with enclave:
        assert (await enclave.ask("Eggs?")).text == TEXT
        wire.enclave = world.enclave()
        stream = await enclave.stream("Eggs?")
        assert tuple([piece async for piece in stream]) == WORDS
        assert (await enclave.verified()).certificate == wire.enclave.certificate
