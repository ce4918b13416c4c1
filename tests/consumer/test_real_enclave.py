"""The SDK against the real enclave of the simulated world: both ends of every message are the product's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import httpx2
import pytest

from leasehold.consumer.async_client import AsyncEnclave
from leasehold.consumer.pinned import Pins
from leasehold.core.encoding import to_json
from leasehold.core.messages import EVIDENCE_PATH, EvidenceAsk
from leasehold.errors import BudgetExhausted, UnknownEndpoint, UnknownKey, WrongMeasurement
from leasehold.net.shown import to_der
from leasehold.testing.asgi import request
from leasehold.testing.time import run_simulated
from leasehold.testing.world import LOAN, MODEL, Box, Consumer, World

Story = Callable[[World, Box, AsyncEnclave], Awaitable[None]]


class Wires:
    """Both wires to a box: requests reach its application in place, if its certificate is pinned."""

    def __init__(self, box: Box) -> None:
        self.box = box

    async def fetch(self, nonce: bytes) -> tuple[bytes, bytes]:
        """Evidence, from whoever is there."""
        answer = await request(
            self.box.application, "POST", EVIDENCE_PATH, to_json(EvidenceAsk(nonce))
        )
        assert answer.status == 200
        return answer.body, to_der(self.box.enclave.keys.certificate)

    def dial(self, pins: Pins) -> httpx2.AsyncBaseTransport:
        """Requests, to whoever is pinned."""

        async def handle(asked: httpx2.Request) -> httpx2.Response:
            if self.box.enclave.keys.certificate not in pins:
                raise httpx2.ConnectError("certificate verify failed")
            answer = await request(
                self.box.application,
                asked.method,
                asked.url.raw_path.decode(),
                asked.content,
                headers=asked.headers,
            )
            return httpx2.Response(answer.status, headers=answer.headers, content=answer.body)

        return httpx2.MockTransport(handle)


async def connect(world: World, wires: Wires, who: Consumer) -> AsyncEnclave:
    """A consumer's verified enclave."""
    return await AsyncEnclave.connect(
        "enclave.example",
        manifest=world.manifest,
        api_key=who.key,
        clock=world.clock,
        entropy=world.entropy,
        evidence=wires,
        dial=wires.dial,
    )


def played(story: Story, *, units: int = 1000) -> None:
    """Run a story with one serving enclave and one consumer who has verified it."""

    async def run() -> None:
        world = await World.make()
        box = await world.enclave().serving()
        alice = await world.consumer("alice", units)
        async with await connect(world, Wires(box), alice) as enclave:
            await story(world, box, enclave)
        await world.check_books()
        await world.end()

    run_simulated(run)


def test_answers_and_their_receipts() -> None:
    async def story(_: World, box: Box, enclave: AsyncEnclave) -> None:
        verified = await enclave.verified()
        assert (verified.loan, verified.model, verified.is_simulated) == (LOAN, MODEL, True)
        assert verified.instance == box.enclave.instance
        answer = await enclave.ask("one two three <end>")
        stream = await enclave.stream("one two three <end>")
        pieces = [piece async for piece in stream]
        assert "".join(pieces) == stream.answer.text == answer.text
        for one in (answer, stream.answer):
            checked = await enclave.receipt(one)
            assert checked.content_checked
            assert checked.receipt.output_tokens == one.output_tokens > 0
            assert checked.receipt.input_tokens == one.input_tokens > 0

    played(story)


def test_budget_and_what_happens_at_its_end() -> None:
    async def story(_: World, __: Box, enclave: AsyncEnclave) -> None:
        before = await enclave.budget()
        assert (before.consumer, before.loan, before.granted) == ("alice", LOAN, 60)
        answer = await enclave.ask(" ".join(["word"] * 20), max_tokens=1000)
        assert (answer.finish_reason, answer.code) == ("length", "insufficient_quota")
        with pytest.raises(BudgetExhausted):
            await enclave.ask("one more <end>")
        state = await enclave.request_more(500, "a long report", wait=5)
        assert (state.status, state.asked) == ("open", 500)

    played(story, units=60)


def test_refusals_keep_their_names() -> None:
    async def story(world: World, box: Box, enclave: AsyncEnclave) -> None:
        stranger = Consumer("mallory", "lh-nobody")
        async with await connect(world, Wires(box), stranger) as other:
            with pytest.raises(UnknownKey):
                await other.ask("one <end>")
        async with enclave.http_client() as client:
            answer = await client.get("/leasehold/nothing")
        assert answer.json()["error"]["code"] == UnknownEndpoint.code

    played(story)


def test_another_measurement_is_refused() -> None:
    async def run() -> None:
        world = await World.make()
        box = await world.enclave().serving()
        alice = await world.consumer("alice", 10)
        world.measurement = bytes(32)
        world.manifest = world.make_manifest()
        with pytest.raises(WrongMeasurement):
            await connect(world, Wires(box), alice)
        await world.end()

    run_simulated(run)
